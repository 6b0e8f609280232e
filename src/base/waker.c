/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/waker.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* TSan does not model fences: there a RMW on the flag itself orders instead. */
static void full_fence(struct tl_waker *waker) {
#if defined(__SANITIZE_THREAD__)
  atomic_fetch_add_explicit(&waker->asleep, 0, memory_order_seq_cst);
#else
  (void)waker;
  /* the fence of notify pairs with the fence of prepare: see the header */
  atomic_thread_fence(memory_order_seq_cst);
#endif
}

static void futex(_Atomic uint32_t *word, int operation, uint32_t value, const struct timespec *timeout) {
  syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

void tl_waker_init(struct tl_waker *waker) {
  atomic_store_explicit(&waker->asleep, 0, memory_order_relaxed);
}

void tl_waker_notify(struct tl_waker *waker) {
  full_fence(waker);
  /* relaxed: ordered after the caller's publishing store by the fence */
  if (!atomic_load_explicit(&waker->asleep, memory_order_relaxed)) return;
  /* of several producers one wakes; acq_rel is enough, the item went by its own store */
  if (atomic_exchange_explicit(&waker->asleep, 0, memory_order_acq_rel)) futex(&waker->asleep, FUTEX_WAKE, 1, NULL);
}

void tl_waker_prepare(struct tl_waker *waker) {
  atomic_store_explicit(&waker->asleep, 1, memory_order_relaxed); /* ordered by the fence */
  full_fence(waker);
}

void tl_waker_cancel(struct tl_waker *waker) {
  atomic_store_explicit(&waker->asleep, 0, memory_order_relaxed); /* a late wake-up does no harm */
}

void tl_waker_sleep(struct tl_waker *waker, int64_t timeout_ns) {
  struct timespec timeout = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
  /* the kernel compares again: a notify between prepare and here made it 0 */
  futex(&waker->asleep, FUTEX_WAIT, 1, timeout_ns < 0 ? NULL : &timeout);
  atomic_store_explicit(&waker->asleep, 0, memory_order_relaxed);
}
