/* SPDX-License-Identifier: MIT */
/* Ranks on CPUs: they share the process's memory, so a collective is a meeting and reading what the
 * others wrote (cpu_ops.c). */
#include "device/cpu/cpu_private.h"
#include "device/meet_group.h"

#define SPINS 4000 /* as the lanes do */

static struct cpu_group *group_of(struct tl_device_group *group) {
  return (struct cpu_group *)(void *)group;
}

static int group_make(unsigned size, struct tl_device_group **ret, struct tl_error *err) {
  return meet_group_make(sizeof(struct cpu_group), size, SPINS, ret, err);
}

static int group_join(struct tl_device *device, struct tl_device_group *group, unsigned rank, struct tl_error *err) {
  (void)err;
  struct cpu_device *d = (struct cpu_device *)device;
  d->group = group_of(group);
  d->group->ranks[rank] = d; /* read in steps, which begin once all have loaded */
  d->shard = (struct tl_shard){.rank = rank, .size = d->group->meet.n};
  return TL_OK;
}

const struct tl_device_group_ops cpu_group_ops = {.make = group_make,
                                                 .join = group_join,
                                                 .abort = meet_group_abort,
                                                 .restore = meet_group_restore,
                                                 .free = meet_group_free};
