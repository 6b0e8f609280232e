/* SPDX-License-Identifier: MIT */
/* Neither the backend's code nor its kernels: a limit that shares a mistake with what it limits would hide it. */
#include "gpu_limits.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define COPY_BYTES ((size_t)4 << 30)
#define PASSES 10
#define SIDE 8192
#define WORKSPACE ((size_t)64 << 20)

/* Milliseconds of the fastest of PASSES. */
static const char *time_best(int (*run)(void *), void *argument, float *ret_ms) {
  cudaEvent_t before, after;
  if (cudaEventCreate(&before) || cudaEventCreate(&after)) return "events cannot be made";
  *ret_ms = 0;
  for (int i = -1; i < PASSES; i++) { /* pass -1 warms up */
    float ms = 0;
    if (cudaEventRecord(before, NULL) || run(argument) || cudaEventRecord(after, NULL) || cudaEventSynchronize(after) ||
        cudaEventElapsedTime(&ms, before, after))
      return "what is to be measured fails";
    if (i == 0 || (i > 0 && ms < *ret_ms)) *ret_ms = ms;
  }
  cudaEventDestroy(before);
  cudaEventDestroy(after);
  return NULL;
}

static int run_copy(void *memory) {
  char *p = memory;
  return (int)cudaMemcpyAsync(p, p + COPY_BYTES, COPY_BYTES, cudaMemcpyDeviceToDevice, NULL);
}

static const char *measure_copy(struct gpu_limits *ret) {
  char *memory;
  float ms;
  if (cudaMalloc((void **)&memory, 2 * COPY_BYTES)) return "8 GiB of GPU memory for the copy are not free";
  cudaMemset(memory, 1, 2 * COPY_BYTES);
  const char *why = time_best(run_copy, memory, &ms);
  cudaFree(memory);
  if (!why) ret->copy_bytes_per_s = 2.0 * (double)COPY_BYTES / (ms / 1e3);
  return why;
}

struct product {
  __typeof__(cublasLtMatmul) *matmul;
  cublasLtHandle_t lt;
  cublasLtMatmulDesc_t desc;
  cublasLtMatrixLayout_t layout;
  cublasLtMatmulAlgo_t algorithm;
  uint16_t *a, *b, *c;
  void *workspace;
};

static int run_product(void *argument) {
  struct product *p = argument;
  const float one = 1, zero = 0;
  return (int)p->matmul(p->lt, p->desc, &one, p->a, p->layout, p->b, p->layout, &zero, p->c, p->layout, p->c, p->layout, &p->algorithm,
                        p->workspace, WORKSPACE, NULL);
}

/* Random signs, exponents around 1 and mantissas: constant content would need less power, and run faster than real. */
static const char *fill_random(uint16_t *to) {
  size_t n = (size_t)SIDE * SIDE;
  uint16_t *host = malloc(n * sizeof *host);
  uint64_t state = 88172645463325252u;
  if (!host) return "out of memory";
  for (size_t i = 0; i < n; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    host[i] = (uint16_t)(0x3f00u | (state & 0x80ffu));
  }
  int r = (int)cudaMemcpy(to, host, n * sizeof *host, cudaMemcpyHostToDevice);
  free(host);
  return r ? "a copy fails" : NULL;
}

#define FIND(name) __typeof__(name) *find_##name = (__typeof__(name) *)dlsym(library, #name)

static const char *make_product(void *library, struct product *p) {
  FIND(cublasLtCreate);
  FIND(cublasLtMatmulDescCreate);
  FIND(cublasLtMatmulDescSetAttribute);
  FIND(cublasLtMatrixLayoutCreate);
  FIND(cublasLtMatmulPreferenceCreate);
  FIND(cublasLtMatmulPreferenceSetAttribute);
  FIND(cublasLtMatmulAlgoGetHeuristic);
  p->matmul = (__typeof__(cublasLtMatmul) *)dlsym(library, "cublasLtMatmul");
  cublasOperation_t transpose = CUBLAS_OP_T;
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulHeuristicResult_t found;
  size_t workspace = WORKSPACE;
  int n = 0;
  if (find_cublasLtCreate(&p->lt) || find_cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) ||
      find_cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose) ||
      find_cublasLtMatrixLayoutCreate(&p->layout, CUDA_R_16BF, SIDE, SIDE, SIDE) || find_cublasLtMatmulPreferenceCreate(&preference) ||
      find_cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace) ||
      find_cublasLtMatmulAlgoGetHeuristic(p->lt, p->desc, p->layout, p->layout, p->layout, p->layout, preference, 1, &found, &n) || n < 1)
    return "cuBLASLt has no such product";
  p->algorithm = found.algo;
  return NULL;
}

static const char *measure_product(struct gpu_limits *ret) {
  char name[32];
  struct product p = {0};
  float ms;
  snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
  void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library) library = dlopen("/usr/local/cuda/lib64/libcublasLt.so", RTLD_NOW | RTLD_LOCAL);
  if (!library) return "libcublasLt cannot be opened";
  size_t bytes = (size_t)SIDE * SIDE * sizeof *p.a;
  if (cudaMalloc((void **)&p.a, bytes) || cudaMalloc((void **)&p.b, bytes) || cudaMalloc((void **)&p.c, bytes) ||
      cudaMalloc(&p.workspace, WORKSPACE))
    return "no GPU memory for the product";
  const char *why = fill_random(p.a);
  if (!why) why = fill_random(p.b);
  if (!why) why = make_product(library, &p);
  if (!why) why = time_best(run_product, &p, &ms);
  cudaFree(p.a);
  cudaFree(p.b);
  cudaFree(p.c);
  cudaFree(p.workspace);
  if (!why) ret->product_flops = 2.0 * SIDE * SIDE * SIDE / (ms / 1e3);
  return why;
}

const char *gpu_limits_measure(int device, struct gpu_limits *ret) {
  if (cudaSetDevice(device)) return "the GPU cannot be used";
  const char *why = measure_copy(ret);
  return why ? why : measure_product(ret);
}
