/* SPDX-License-Identifier: MIT */
#ifndef DEVICE_PRIVATE_H
#define DEVICE_PRIVATE_H

#include "tokenlane/device.h"

/* plugin.c: the CUDA backend, opened with the first call; NULL and err when it is not
 * there or of another version. Any thread. */
const struct tl_device_ops *device_plugin(struct tl_error *err);
const char *device_plugin_folder(void);

#endif
