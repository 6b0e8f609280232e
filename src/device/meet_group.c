/* SPDX-License-Identifier: MIT */
#include "device/meet_group.h"

#include <stdlib.h>
#include <string.h>

static struct device_meet *meet_of(struct tl_device_group *group) {
  return (struct device_meet *)(void *)group;
}

int meet_group_make(size_t bytes, unsigned n, unsigned spins, struct tl_device_group **ret, struct tl_error *err) {
  void *group = aligned_alloc(TL_CACHE_LINE, bytes);
  if (!group) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  memset(group, 0, bytes);
  device_meet_init(group, n, spins);
  *ret = group;
  return TL_OK;
}

void meet_group_abort(struct tl_device_group *group) {
  device_meet_abort(meet_of(group));
}

void meet_group_restore(struct tl_device_group *group) {
  device_meet_restore(meet_of(group));
}

void meet_group_free(struct tl_device_group *group) {
  free(group);
}
