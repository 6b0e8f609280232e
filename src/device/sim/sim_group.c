/* SPDX-License-Identifier: MIT */
/* Simulated ranks: they share where they meet at the end of a step. */
#include "device/meet_group.h"
#include "device/sim/sim_private.h"

static struct sim_group *group_of(struct tl_device_group *group) {
  return (struct sim_group *)(void *)group;
}

/* Nobody spins: many ranks wait on few processors. */
static int group_make(unsigned size, struct tl_device_group **ret, struct tl_error *err) {
  return meet_group_make(sizeof(struct sim_group), size, 0, ret, err);
}

static int group_join(struct tl_device *device, struct tl_device_group *group, unsigned rank, struct tl_error *err) {
  (void)err;
  struct sim_device *d = (struct sim_device *)(void *)device;
  d->group = group_of(group);
  d->rank = rank;
  d->options.per_token_ns /= d->group->meet.n;
  d->options.per_block_ns /= d->group->meet.n;
  return TL_OK;
}

const struct tl_device_group_ops sim_group_ops = {.runs_ahead = true,
                                                 .make = group_make,
                                                 .join = group_join,
                                                 .abort = meet_group_abort,
                                                 .restore = meet_group_restore,
                                                 .free = meet_group_free};
