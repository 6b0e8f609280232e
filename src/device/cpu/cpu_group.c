/* SPDX-License-Identifier: MIT */
/* Ranks on CPUs: they share the process's memory, so a collective is a meeting and reading what the
 * others wrote (cpu_ops.c). */
#include <stdlib.h>

#include "device/cpu/cpu_private.h"

#define SPINS 4000 /* as the lanes do */

static struct cpu_group *group_of(struct tl_device_group *group) {
  return (struct cpu_group *)(void *)group;
}

static int group_make(unsigned size, struct tl_device_group **ret, struct tl_error *err) {
  struct cpu_group *g = aligned_alloc(TL_CACHE_LINE, sizeof *g);
  if (!g) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *g = (struct cpu_group){.size = size};
  device_meet_init(&g->meet, size, SPINS);
  *ret = (struct tl_device_group *)(void *)g;
  return TL_OK;
}

static int group_join(struct tl_device *device, struct tl_device_group *group, unsigned rank, struct tl_error *err) {
  (void)err;
  struct cpu_device *d = (struct cpu_device *)device;
  d->group = group_of(group);
  d->group->ranks[rank] = d; /* read in steps, which begin once all have loaded */
  d->shard = (struct tl_shard){.rank = rank, .size = d->group->size};
  return TL_OK;
}

static void group_abort(struct tl_device_group *group) {
  device_meet_abort(&group_of(group)->meet);
}

static void group_restore(struct tl_device_group *group) {
  device_meet_restore(&group_of(group)->meet);
}

static void group_free(struct tl_device_group *group) {
  free(group_of(group));
}

const struct tl_device_group_ops cpu_group_ops = {group_make, group_join, group_abort, group_restore, group_free};
