/* SPDX-License-Identifier: MIT */
/* What the attention kernels share. */
#ifndef CUDA_ATTEND_CUH
#define CUDA_ATTEND_CUH

#include "device/cuda/ops/cuda_plan.h"
#include "device/cuda/ops/cuda_port.cuh"

/* Scores are kept in powers of two: a multiplication less than with powers of e. */
#define LOG2_E 1.4426950408889634f

/* softcap * tanh(score / softcap), of scores in powers of two. By exp2: tanh.approx is off by 2^-11, which
 * a cap of 50 makes visible. */
TL_DEVICE float cap_score(float score, float softcap) {
  float cap = softcap * LOG2_E, twice = 2 / softcap; /* the division once, not for each score */
  return cap * (1 - divide_fast(2, exp2_fast(score * twice) + 1));
}

/* What a head's sink adds to a sum of weights of the largest score `max`. Far above it: infinity, which leaves the row zero. */
TL_DEVICE float sink_weight(const tl_cuda_attention &a, uint32_t head, float max) {
  return a.sinks ? exp2_fast(a.sinks[head] * LOG2_E - max) : 0;
}

/* Let their kernels use as much shared memory as they want. */
int cuda_prepare_decode();
int cuda_prepare_decode_bytes();
int cuda_prepare_prefill();
int cuda_prepare_latent();

/* tl_cuda_decode, of valid arguments, for caches of bytes. */
int cuda_decode_bytes(const struct tl_cuda_decode_args *args, void *stream);

/* Keys that a row sees behind its own, of which there are `own` up to itself. */
TL_DEVICE uint32_t cuda_keys_ahead(const tl_cuda_attention &a, const tl_cuda_tile &tile, uint32_t own) {
  if (!a.both_sides || own >= tile.context) return 0;
  uint32_t rest = tile.context - own;
  return a.window && a.window - 1 < rest ? a.window - 1 : rest;
}

static inline int cuda_attention_valid(const struct tl_cuda_attention *a) {
  return a->n_kv_heads > 0 && a->n_heads > 0 && a->n_heads % a->n_kv_heads == 0 && a->head_dim > 0 &&
         a->head_dim % 8 == 0 && a->head_dim <= TL_CUDA_MAX_HEAD_DIM;
}

#endif
