/* SPDX-License-Identifier: MIT */
/* Several models on the devices of one machine: who may use what. */
#ifndef SHARING_H
#define SHARING_H

#include "tokenlane/config.h"

/* Of the resolved configuration with its devices expanded: a CPU may have several models, a GPU
 * as far as their device.memory_percent goes, a simulated device one. */
int sharing_check(const struct tl_config *config, struct tl_error *err);
/* Whether another model uses a GPU of this one, which is one of config's. */
bool sharing_gpu(const struct tl_config *config, const struct tl_config *model);
/* How many of a model's devices are processors. */
unsigned sharing_cpu_devices(const struct tl_config *model);

#endif
