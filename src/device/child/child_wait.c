/* SPDX-License-Identifier: MIT */
/* Waiting for the other process. The number and the flag of the sleeper are stored and looked at
 * seq_cst on both sides: whoever comes second in that order sees the other, so either the
 * sleeper sees the new number or the teller sees that somebody sleeps. The kernel compares once more. The
 * futexes are not private: the two sides have different address spaces. */
#include <linux/futex.h>
#include <limits.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "device/child/child_private.h"
#include "tokenlane/base/clock.h"

#ifndef CHILD_SPINS     /* tests/model has fewer */
#define CHILD_SPINS 100 /* a few microseconds: an answer that takes longer is worth a system call */
#endif

_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "two processes at two addresses share the words");

void child_wake(_Atomic uint32_t *word) {
  syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void child_tell(_Atomic uint32_t *word, uint32_t value, const _Atomic uint32_t *other_sleeps) {
  /* seq_cst: pairs with the load in child_wait, which sees what was written before; see above */
  atomic_store_explicit(word, value, memory_order_seq_cst);
  if (atomic_load_explicit(other_sleeps, memory_order_seq_cst)) child_wake(word);
}

uint32_t child_wait(_Atomic uint32_t *word, uint32_t old, _Atomic uint32_t *i_sleep, int64_t timeout_ns) {
  uint32_t now = old;
  for (int i = 0; i < CHILD_SPINS; i++) {
    now = atomic_load_explicit(word, memory_order_acquire); /* pairs with the store in child_tell */
    if (now != old) return now;
    tl_cpu_relax();
  }
  struct timespec timeout = {.tv_sec = timeout_ns / TL_SEC(1), .tv_nsec = timeout_ns % TL_SEC(1)};
  atomic_store_explicit(i_sleep, 1, memory_order_seq_cst); /* pairs with the load in child_tell */
  if (atomic_load_explicit(word, memory_order_seq_cst) == old)
    syscall(SYS_futex, word, FUTEX_WAIT, old, timeout_ns < 0 ? NULL : &timeout, NULL, 0);
  atomic_store_explicit(i_sleep, 0, memory_order_relaxed); /* a wake-up too many does no harm */
  return atomic_load_explicit(word, memory_order_acquire);
}
