/* SPDX-License-Identifier: MIT */
/* For tests of kernels: arrays of just the size, random values, comparison. Built with
 * OP_ON_GPU the same tests run the kernels on the GPU, on memory that host and device
 * share; else on fibers. */
#ifndef OP_UNIT_H
#define OP_UNIT_H

#include <math.h>

#include "device/cuda/ops/cuda_ops.h"
#include "tokenlane/model.h"
#include "unit.h"

#ifdef OP_ON_GPU
#include <cuda_runtime_api.h>

#if defined(__GNUC__) && __GNUC__ >= 12
/* it takes what cudaMallocManaged stores for the address of the variable */
#pragma GCC diagnostic ignored "-Wdangling-pointer"
#endif

static inline void *op_alloc(size_t bytes) {
  void *p = NULL;
  cudaError_t r = cudaMallocManaged(&p, bytes ? bytes : 1, cudaMemAttachGlobal);
  if (r) fail_msg("no memory on the GPU: %s", cudaGetErrorString(r)); /* an earlier test's error for good, maybe */
  return p;
}
static inline void op_free(void *p) {
  cudaFree(p);
}
/* What a launcher returned, or how its kernels ended. */
static inline int op_run(int launched) {
  int r = launched ? launched : (int)cudaDeviceSynchronize();
  if (r && !launched) print_error("the kernel: %s\n", cudaGetErrorString((cudaError_t)r)); /* of a launch the number is enough */
  return r;
}
#else
static inline void *op_alloc(size_t bytes) {
  void *p = malloc(bytes ? bytes : 1);
  assert_non_null(p);
  return p;
}
static inline void op_free(void *p) {
  free(p);
}
static inline int op_run(int launched) {
  return launched;
}
#endif

/* For who wants kernels that use much shared memory. */
static inline int op_prepare(void **state) {
  (void)state;
  int r = tl_cuda_prepare();
  if (r) print_error("the kernels cannot be prepared: %d\n", r);
  return r;
}

static uint64_t op_random = 0x1234567;

static const int op_dtypes[] = {TL_CUDA_BF16, TL_CUDA_F16};

static inline uint16_t op_pack(int dtype, float value) {
  return dtype == TL_CUDA_BF16 ? tl_f32_to_bf16(value) : tl_f32_to_f16(value);
}

static inline float op_unpack(int dtype, uint16_t bits) {
  return dtype == TL_CUDA_BF16 ? tl_bf16_to_f32(bits) : tl_f16_to_f32(bits);
}

static inline float op_number(float range) {
  return ((float)unit_below(&op_random, 1 << 24) * 0x1p-23f - 1) * range;
}

/* What a kernel should write: NaN, or -1. */
static inline void *op_poisoned(size_t bytes) {
  return memset(op_alloc(bytes), 0xff, bytes);
}

static inline float *op_floats(size_t n, float range) {
  float *p = op_alloc(n * sizeof *p);
  for (size_t i = 0; i < n; i++) p[i] = op_number(range);
  return p;
}

static inline uint16_t *op_halves(int dtype, size_t n, float range) {
  uint16_t *p = op_alloc(n * sizeof *p);
  for (size_t i = 0; i < n; i++) p[i] = op_pack(dtype, op_number(range));
  return p;
}

static inline void *op_copy(const void *from, size_t bytes) {
  return memcpy(op_poisoned(bytes), from, bytes);
}

/* The relative error that rounding to the type once may cause. */
static inline float op_epsilon(int dtype) {
  return dtype == TL_CUDA_BF16 ? 0x1p-8f : 0x1p-11f;
}

/* Within `roundings` of the type, of a value as large as `scale`. */
#define op_assert_near(dtype, got, want, scale, roundings)                                              \
  do {                                                                                                  \
    double got_ = (got), want_ = (want), scale_ = fmax(fabs(want_), (scale));                           \
    if (!(fabs(got_ - want_) <= (roundings) * (double)op_epsilon(dtype) * scale_))                       \
      fail_msg("%s is %.9g, not %.9g", #got, got_, want_);                                              \
  } while (0)

#endif
