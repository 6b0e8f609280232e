/* SPDX-License-Identifier: MIT */
/* What the products of experts share. */
#ifndef CUDA_EXPERTS_CUH
#define CUDA_EXPERTS_CUH

#include "device/cuda/ops/cuda_both.h"
#include "device/cuda/ops/cuda_experts.h"
#include "device/cuda/ops/cuda_formats.cuh"
#include "device/cuda/ops/cuda_gate.cuh"

#define UNITS_A_BLOCK 8 /* thread blocks are at most so many for each that is resident, then they loop */

/* Thread blocks for panels of so many outputs. */
static inline unsigned grid_of(const tl_cuda_experts_args *args, uint32_t panel) {
  uint64_t units = (uint64_t)args->max_tiles * ((args->n + panel - 1) / panel), most = (uint64_t)args->n_blocks * UNITS_A_BLOCK;
  return (unsigned)(units < most ? units : most);
}

/* call(format) with the type of the experts' format. */
template <class T, class Call>
static int with_expert_format(int format, const Call &call) {
  if (format == TL_CUDA_W16) return call(w16<T>());
  return with_format<T>(format, call);
}

TL_DEVICE float gated(const tl_cuda_experts_args &a, float gate, float up) {
  if (a.gate == TL_CUDA_EXPERT_SILU) return silu(gate) * up;
  gate = fminf(gate, a.limit);
  up = fminf(fmaxf(up, -a.limit), a.limit);
  return gate / (1 + expf(-1.702f * gate)) * (up + 1);
}

/* Of a product alone, without a gate. */
TL_DEVICE float alone(const tl_cuda_experts_args &a, float x) {
  return !a.relu2 ? x : x < 0 ? 0 : x * x;
}

/* What becomes of the sum of weights' row `row`, counted over all experts. */
TL_DEVICE float finished(const tl_cuda_experts_args &a, float sum, uint64_t row) {
  if (a.format == TL_CUDA_WE4M3) sum *= ((const float *)a.scales)[row];
  return a.bias ? sum + a.bias[row] : sum;
}

/* The row of x of an entry. */
TL_DEVICE const uint16_t *entry_row(const tl_cuda_experts_args &a, uint32_t entry) {
  return (const uint16_t *)a.x + (uint64_t)(a.rows ? a.rows[entry] : entry) * a.k;
}

/* The first row of an expert's weights. */
TL_DEVICE uint64_t first_row(const tl_cuda_experts_args &a, uint32_t expert) {
  return (uint64_t)expert * a.n * (a.gate ? 2 : 1);
}

/* Tiles of TL_CUDA_MANY_ENTRIES; arguments are checked. */
int cuda_experts_many(const struct tl_cuda_experts_args *args, void *stream);

#endif
