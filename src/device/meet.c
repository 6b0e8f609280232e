/* SPDX-License-Identifier: MIT */
#include "device/meet.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ABORTED = 1, TURN = 2 };

void device_meet_init(struct device_meet *meet, unsigned n, unsigned spins) {
  *meet = (struct device_meet){.n = n, .spins = spins};
}

static void wake(struct device_meet *meet) {
  /* seq_cst, as the change of turn before it: either we see a sleeper or it sees the new turn */
  if (atomic_load_explicit(&meet->sleepers, memory_order_seq_cst))
    syscall(SYS_futex, &meet->turn, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

static bool wait_turn(struct device_meet *meet, uint32_t turn) {
  for (unsigned i = 0; i < meet->spins; i++) {
    /* acquire: pairs with the last one's fetch_add below, as does the load of the sleeper */
    uint32_t now = atomic_load_explicit(&meet->turn, memory_order_acquire);
    if (now != turn) return !(now & ABORTED);
    tl_cpu_relax();
  }
  uint32_t now;
  atomic_fetch_add_explicit(&meet->sleepers, 1, memory_order_seq_cst); /* see wake */
  while ((now = atomic_load_explicit(&meet->turn, memory_order_seq_cst)) == turn)
    syscall(SYS_futex, &meet->turn, FUTEX_WAIT_PRIVATE, turn, NULL, NULL, 0);
  atomic_fetch_sub_explicit(&meet->sleepers, 1, memory_order_relaxed); /* one futex call too many does no harm */
  return !(now & ABORTED);
}

bool device_meet_wait(struct device_meet *meet) {
  /* relaxed: read before this rank has come, so only an abort can change it */
  uint32_t turn = atomic_load_explicit(&meet->turn, memory_order_relaxed);
  if (turn & ABORTED) return false;
  /* acq_rel: the last to come has seen what all others wrote, and publishes it */
  if (atomic_fetch_add_explicit(&meet->arrived, 1, memory_order_acq_rel) + 1 < meet->n) return wait_turn(meet, turn);
  atomic_store_explicit(&meet->arrived, 0, memory_order_relaxed); /* before the turn, with which the next begin */
  turn = atomic_fetch_add_explicit(&meet->turn, TURN, memory_order_seq_cst); /* publishes; see wake */
  wake(meet);
  return !(turn & ABORTED);
}

void device_meet_abort(struct device_meet *meet) {
  atomic_fetch_or_explicit(&meet->turn, ABORTED, memory_order_seq_cst); /* see wake */
  wake(meet);
}

bool device_meet_is_aborted(const struct device_meet *meet) {
  return atomic_load_explicit(&meet->turn, memory_order_relaxed) & ABORTED; /* a flag alone */
}

void device_meet_restore(struct device_meet *meet) {
  /* relaxed: nobody else is there */
  atomic_store_explicit(&meet->arrived, 0, memory_order_relaxed);
  atomic_fetch_and_explicit(&meet->turn, ~(uint32_t)ABORTED, memory_order_relaxed);
}
