/* SPDX-License-Identifier: MIT */
/* Simulated ranks: they share where they meet at the end of a step. */
#include <stdlib.h>

#include "device/sim/sim_private.h"

static struct sim_group *group_of(struct tl_device_group *group) {
  return (struct sim_group *)(void *)group;
}

/* Nobody spins: many ranks wait on few processors. */
static int group_make(unsigned size, struct tl_device_group **ret, struct tl_error *err) {
  struct sim_group *g = aligned_alloc(TL_CACHE_LINE, sizeof *g);
  if (!g) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *g = (struct sim_group){.size = size};
  device_meet_init(&g->meet, size, 0);
  *ret = (struct tl_device_group *)(void *)g;
  return TL_OK;
}

static int group_join(struct tl_device *device, struct tl_device_group *group, unsigned rank, struct tl_error *err) {
  (void)err;
  struct sim_device *d = (struct sim_device *)(void *)device;
  d->group = group_of(group);
  d->rank = rank;
  d->options.per_token_ns /= d->group->size;
  d->options.per_block_ns /= d->group->size;
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

const struct tl_device_group_ops sim_group_ops = {group_make, group_join, group_abort, group_restore, group_free};
