/* SPDX-License-Identifier: MIT */
/* Time passes without a processor: a step is a sleep to an absolute deadline. The
 * sleep is a futex wait, so that a reset from another thread ends it. */
#include <linux/futex.h>
#include <limits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "device/sim/sim_private.h"
#include "tokenlane/base/clock.h"

/* The kernel may end a sleep 50 us late to save wake-ups, unless told otherwise. */
static void want_exact_sleeps(void) {
  static _Thread_local bool done;
  if (!done) prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
  done = true;
}

bool sim_wait(_Atomic uint32_t *resets, uint32_t seen, int64_t deadline_ns) {
  want_exact_sleeps();
  struct timespec deadline = {.tv_sec = deadline_ns / TL_SEC(1), .tv_nsec = deadline_ns % TL_SEC(1)};
  for (;;) {
    /* acquire: pairs with the release in sim_wake, what reset did before it is seen */
    if (atomic_load_explicit(resets, memory_order_acquire) != seen) return true;
    if (deadline_ns != INT64_MAX && tl_now_ns() >= deadline_ns) return false;
    /* of this wait the timeout is absolute; the kernel compares `seen` again, so no wake-up is lost */
    syscall(SYS_futex, resets, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, seen, deadline_ns == INT64_MAX ? NULL : &deadline,
            NULL, FUTEX_BITSET_MATCH_ANY);
  }
}

void sim_wake(_Atomic uint32_t *resets) {
  atomic_fetch_add_explicit(resets, 1, memory_order_release); /* pairs with the acquire in sim_wait */
  syscall(SYS_futex, resets, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}
