/* SPDX-License-Identifier: MIT */
/* What tests of whole models run on: the fake, or with ON_GPU the plugin and the GPU cuda:0. */
#ifndef FAKE_OR_GPU_H
#define FAKE_OR_GPU_H

#include <stdlib.h>

#include "tokenlane/device.h"
#include "unit.h"

#ifdef ON_GPU
#define IF_FAKE(...)

static inline const struct tl_device_ops *find_ops(void) {
  unsigned index;
  struct tl_error err = {0};
  tl_device_plugin_folder(getenv("TL_TEST_PLUGIN_DIR"));
  const struct tl_device_ops *ops = tl_device_find("cuda:0", &index, &err);
  if (!ops) fail_msg("%s", err.message);
  return ops;
}
#else
#include "fake_cuda.h"
#define IF_FAKE(...) __VA_ARGS__

static inline const struct tl_device_ops *find_ops(void) {
  return &fake_cuda_ops;
}
#endif

#endif
