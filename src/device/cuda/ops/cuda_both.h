/* SPDX-License-Identifier: MIT */
/* Functions that host and device both have. */
#ifndef CUDA_BOTH_H
#define CUDA_BOTH_H

#ifdef __CUDACC__
#define TL_BOTH static __host__ __device__ __forceinline__
#else
#define TL_BOTH static inline
#endif

#endif
