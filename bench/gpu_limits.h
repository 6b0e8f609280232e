/* SPDX-License-Identifier: MIT */
/* What the GPU could do: measured in the same run as what the backend makes of it. */
#ifndef GPU_LIMITS_H
#define GPU_LIMITS_H

struct gpu_limits {
  double copy_bytes_per_s; /* read and written, by a copy within device memory that no cache holds */
  double product_flops;    /* by cuBLASLt, two matrices of 8192 x 8192 in BF16 with random content */
};

/* NULL, or what is missing, a literal. */
const char *gpu_limits_measure(int device, struct gpu_limits *ret);

#endif
