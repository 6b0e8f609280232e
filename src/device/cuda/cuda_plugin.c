/* SPDX-License-Identifier: MIT */
/* The plugin's entry: the device table over the real libraries. */
#include "device/cuda/cuda_backend.h"
#include "device/cuda/cuda_bind.h"

static int probe(unsigned *ret, struct tl_error *err) {
  return cuda_probe(&cuda_bound_api, ret, err);
}

static int open_real(const struct tl_device_options *options, struct tl_device **ret, struct tl_error *err);

static int make_group(unsigned size, struct tl_device_group **ret, struct tl_error *err) {
  return cuda_group_make(&cuda_bound_api, size, ret, err);
}

static const struct tl_device_group_ops group_ops = {make_group, cuda_group_join, cuda_group_abort, cuda_group_restore,
                                                     cuda_group_free};

static const struct tl_device_ops ops = {.name = "cuda",
                                         .spoils = true,
                                         .runs_ahead = true,
                                         .probe = probe,
                                         .open = open_real,
                                         .load = cuda_load,
                                         .submit = cuda_submit_step,
                                         .collect = cuda_collect,
                                         .close = cuda_close,
                                         .reset = cuda_reset,
                                         .group = &group_ops};

static int open_real(const struct tl_device_options *options, struct tl_device **ret, struct tl_error *err) {
  return cuda_open(&cuda_bound_api, &ops, options, ret, err);
}

__attribute__((visibility("default"))) const struct tl_device_plugin *tl_device_plugin(void);

const struct tl_device_plugin *tl_device_plugin(void) {
  static const struct tl_device_plugin plugin = {TL_DEVICE_ABI, TL_DEVICE_SIZES, &ops};
  return &plugin;
}
