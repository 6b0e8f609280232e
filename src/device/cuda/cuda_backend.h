/* SPDX-License-Identifier: MIT */
/* The device table's functions (tokenlane/device.h), over a given cuda_api: the
 * plugin's real one, or a test's. */
#ifndef CUDA_BACKEND_H
#define CUDA_BACKEND_H

#include "device/cuda/cuda_api.h"
#include "tokenlane/device.h"

/* How many GPUs there are. TL_EUNSUPPORTED: no driver, or one that fails. */
int cuda_probe(const struct cuda_api *api, unsigned *ret, struct tl_error *err);
/* api and ops are borrowed until close. */
int cuda_open(const struct cuda_api *api, const struct tl_device_ops *ops, const struct tl_device_options *options,
              struct tl_device **ret, struct tl_error *err);
int cuda_load(struct tl_device *device, const struct tl_device_load *load, struct tl_device_loaded *ret, struct tl_error *err);
int cuda_submit_step(struct tl_device *device, const struct tl_step *step, struct tl_error *err);
int cuda_collect(struct tl_device *device, struct tl_sampled *ret_sampled, struct tl_error *err);
void cuda_interrupt(struct tl_device *device);
int cuda_reset(struct tl_device *device, struct tl_error *err);
void cuda_close(struct tl_device *device);

/* cuda_group.c: the functions of tl_device_group_ops. */
int cuda_group_make(const struct cuda_api *api, unsigned size, struct tl_device_group **ret, struct tl_error *err);
int cuda_group_join(struct tl_device *device, struct tl_device_group *group, unsigned rank, struct tl_error *err);
void cuda_group_abort(struct tl_device_group *group);
void cuda_group_restore(struct tl_device_group *group);
void cuda_group_free(struct tl_device_group *group);

#endif
