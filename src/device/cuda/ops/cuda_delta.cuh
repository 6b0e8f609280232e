/* SPDX-License-Identifier: MIT */
/* What the delta rule token by token and by chunks have in common. */
#ifndef CUDA_DELTA_CUH
#define CUDA_DELTA_CUH

#include <float.h>

#include "device/cuda/ops/cuda_delta.h"
#include "device/cuda/ops/cuda_port.cuh"

/* cuda_delta_long.cu, cuda_scan_long.cu: what allows their kernels the shared memory that they want. */
int cuda_prepare_delta();
int cuda_prepare_scan();
/* cuda_scan_long.cu: tl_cuda_delta_long by Mamba 2's rule, of arguments that are valid. */
int cuda_scan_long(const tl_cuda_delta_long_args *args, void *stream);

/* Of a row of the step and those behind it, ld apart: q and k of the key head of a value head, and its v. */
struct delta_rows {
  uint64_t ld;
  const uint16_t *q, *k, *v;
};

TL_DEVICE delta_rows delta_rows_of(const tl_cuda_delta_args &a, uint32_t row, uint32_t head) {
  delta_rows r;
  uint32_t keys = a.n_key_heads * a.key_dim;
  r.ld = 2 * (uint64_t)keys + (uint64_t)a.n_value_heads * a.value_dim;
  r.q = (const uint16_t *)a.u + row * r.ld + tl_cuda_key_head(a.turned, a.n_key_heads, a.n_value_heads, head) * a.key_dim;
  r.k = r.q + keys;
  r.v = (const uint16_t *)a.u + row * r.ld + 2 * keys + head * a.value_dim;
  return r;
}

TL_DEVICE float delta_beta(float b) {
  return 1 / (1 + expf(-b));
}

TL_DEVICE float delta_softplus(float x) {
  return x > 20 ? x : log1pf(expf(x));
}

/* Finite: a step of 0 times it is 0. */
TL_DEVICE float delta_rate(float a_log) {
  return fminf(expf(a_log), FLT_MAX);
}

/* Not below what makes a decay of 0 as a float, so that what remains of sums is not lost among larger numbers, and none is infinite. */
TL_DEVICE float log_decay_of(float rate, float step) {
  float log_decay = -rate * step;
  return log_decay < -104 ? -104 : log_decay; /* NaN stays */
}

TL_DEVICE float delta_log_decay(float c, float rate, float dt) {
  return log_decay_of(rate, delta_softplus(c + dt));
}

static inline bool delta_is_valid(const tl_cuda_delta_args &a) {
  return a.key_dim % 8 == 0 && a.value_dim % 8 == 0 && a.key_dim <= TL_CUDA_MAX_KEY_DIM && a.n_key_heads && a.n_value_heads % a.n_key_heads == 0 &&
         a.n_stretches <= UINT16_MAX;
}

#endif
