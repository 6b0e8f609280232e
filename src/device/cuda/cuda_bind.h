/* SPDX-License-Identifier: MIT */
#ifndef CUDA_BIND_H
#define CUDA_BIND_H

#include "device/cuda/cuda_api.h"

/* cuda_bind.c: the real libraries and kernels. Its cuBLASLt part is filled in by open_lt. */
extern struct cuda_api cuda_bound_api;

#endif
