/* SPDX-License-Identifier: MIT */
/* The CUDA backend with faults on demand, for end-to-end tests: a plugin whose device obeys a file. */
#ifndef GPU_FAULT_H
#define GPU_FAULT_H

#include "tokenlane/device.h"

/* ops, but that a submit first looks for the file that TOKENLANE_GPU_FAULT names: "trap 0 after 8", or "hang", the number of
 * the GPU, and how many of its submits pass, from the first that sees the file, before one takes it away and does so. */
const struct tl_device_ops *gpu_fault_wrap(const struct tl_device_ops *ops);

#ifdef __cplusplus
extern "C" {
#endif
/* The plugin's own part. The GPU's context is lost, or what is enqueued there from now on never ends. */
void gpu_fault_trap(unsigned index);
void gpu_fault_hang(unsigned index);
#ifdef __cplusplus
}
#endif

#endif
