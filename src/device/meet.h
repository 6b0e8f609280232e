/* SPDX-License-Identifier: MIT */
/* Where the ranks of a group in one process wait for one another: a barrier that a third party can
 * abort. Used by the backends whose collectives go over shared memory. */
#ifndef MEET_H
#define MEET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/base/thread.h"

/* `turn` counts the meetings in steps of 2; its lowest bit says aborted, so that one word tells both and a
 * futex can wait for either. */
struct device_meet {
  unsigned n;      /* ranks */
  unsigned spins;  /* looks before a rank sleeps */
  TL_ALIGNED _Atomic uint32_t turn;
  _Atomic uint32_t sleepers;
  TL_ALIGNED _Atomic uint32_t arrived;
};

void device_meet_init(struct device_meet *meet, unsigned n, unsigned spins);
/* Rank: until all n have come; then each sees what the others wrote before. False: aborted, now or
 * before; who of the others got through is open. */
bool device_meet_wait(struct device_meet *meet);
/* Any thread, any time: all waits end, and those to come, until device_meet_restore. */
void device_meet_abort(struct device_meet *meet);
bool device_meet_is_aborted(const struct device_meet *meet);
/* Nobody waits or aborts; the caller sees to it that who comes next, comes after this in the sense of C11. */
void device_meet_restore(struct device_meet *meet);

#endif
