/* SPDX-License-Identifier: MIT */
/* What the groups of backends whose ranks share this process have in common: struct x_group begins with a
 * struct device_meet, whose n is the size. The functions are entries of tl_device_group_ops (device.h). */
#ifndef MEET_GROUP_H
#define MEET_GROUP_H

#include <stddef.h>

#include "device/meet.h"
#include "tokenlane/device.h"

/* A zeroed group of `bytes`, for n ranks that look `spins` times before they sleep. */
int meet_group_make(size_t bytes, unsigned n, unsigned spins, struct tl_device_group **ret, struct tl_error *err);
void meet_group_abort(struct tl_device_group *group);
void meet_group_restore(struct tl_device_group *group);
void meet_group_free(struct tl_device_group *group);

#endif
