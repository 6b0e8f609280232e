/* SPDX-License-Identifier: MIT */
/* What a warp does to a head between the QKV product and attention: bias, norm, rotation. Two neighbouring elements of each half
 * are in a lane at a time. The kernel of rows (cuda_qkv.cu) and decode attention, which does it itself, come to the same bits:
 * the order of each sum is the warp's, and what is one fused multiplication is said. */
#ifndef CUDA_HEADS_CUH
#define CUDA_HEADS_CUH

#include "device/cuda/ops/cuda_port.cuh"

#define HEAD_STEPS(dim) ((dim) > 128 ? 2 : 1) /* of 64 elements through half a head */

/* One head in registers: v[step] holds elements i, i + 1, half + i, half + i + 1. */
template <int STEPS>
struct head {
  float v[STEPS][4];
};

/* As it lies in memory. */
template <int STEPS>
struct packed_head {
  uint32_t pair[STEPS][2];
};

/* Of the elements that a lane has; zeros where it has none. */
template <int STEPS>
struct angles {
  float cosine[STEPS][2], sine[STEPS][2];
};

TL_DEVICE uint32_t head_place(uint32_t step) {
  return step * 64 + lane_index() * 2;
}

template <int STEPS>
TL_DEVICE void fetch_head(const uint16_t *from, uint32_t half, packed_head<STEPS> *h) {
  TL_UNROLL for (uint32_t s = 0; s < STEPS; s++)
    TL_UNROLL for (uint32_t side = 0; side < 2; side++) {
      uint32_t i = head_place(s);
      h->pair[s][side] = i < half ? *(const uint32_t *)(from + i + side * half) : 0;
    }
}

template <class T, int STEPS>
TL_DEVICE void unpack_head(const packed_head<STEPS> &from, const float *bias, uint32_t half, head<STEPS> *h) {
  TL_UNROLL for (uint32_t s = 0; s < STEPS; s++) {
    uint32_t i = head_place(s);
    TL_UNROLL for (uint32_t side = 0; side < 2; side++) {
      uint32_t at = i + side * half;
      h->v[s][2 * side] = T::low(from.pair[s][side]) + (bias && i < half ? bias[at] : 0);
      h->v[s][2 * side + 1] = T::high(from.pair[s][side]) + (bias && i < half ? bias[at + 1] : 0);
    }
  }
}

template <int STEPS>
TL_DEVICE float head_rms(const head<STEPS> &h, uint32_t width, float eps) {
  float sum = 0;
  TL_UNROLL for (uint32_t s = 0; s < STEPS; s++)
    TL_UNROLL for (uint32_t k = 0; k < 4; k++) sum = fmaf(h.v[s][k], h.v[s][k], sum);
  return 1 / sqrtf(warp_sum(sum) / (float)width + eps);
}

template <int STEPS>
TL_DEVICE void norm_head(head<STEPS> *h, const float *weight, uint32_t half, float scale) {
  TL_UNROLL for (uint32_t s = 0; s < STEPS; s++) {
    uint32_t i = head_place(s);
    if (i >= half) continue;
    TL_UNROLL for (uint32_t k = 0; k < 4; k++) h->v[s][k] *= scale * weight[k / 2 * half + i + k % 2];
  }
}

/* from: half cosines, half sines. */
template <int STEPS>
TL_DEVICE void load_angles(const float *from, uint32_t half, angles<STEPS> *a) {
  TL_UNROLL for (uint32_t s = 0; s < STEPS; s++)
    TL_UNROLL for (uint32_t k = 0; k < 2; k++) {
      uint32_t i = head_place(s);
      a->cosine[s][k] = i < half ? from[i + k] : 0;
      a->sine[s][k] = i < half ? from[half + i + k] : 0;
    }
}

/* (x[i], x[half + i]) is a pair. */
template <int STEPS>
TL_DEVICE void rotate(head<STEPS> *h, const angles<STEPS> &a) {
  TL_UNROLL for (uint32_t s = 0; s < STEPS; s++)
    TL_UNROLL for (uint32_t k = 0; k < 2; k++) {
      float x = h->v[s][k], y = h->v[s][2 + k];
      h->v[s][k] = fmaf(x, a.cosine[s][k], -(y * a.sine[s][k]));
      h->v[s][2 + k] = fmaf(y, a.cosine[s][k], x * a.sine[s][k]);
    }
}

template <int STEPS>
TL_DEVICE void grow_head(head<STEPS> *h, float growth) {
  TL_UNROLL for (uint32_t s = 0; s < STEPS; s++)
    TL_UNROLL for (uint32_t k = 0; k < 4; k++) h->v[s][k] *= growth;
}

template <class T, int STEPS>
TL_DEVICE void store_head(const head<STEPS> &h, uint32_t half, uint16_t *to) {
  TL_UNROLL for (uint32_t s = 0; s < STEPS; s++) {
    uint32_t i = head_place(s);
    if (i >= half) continue;
    *(uint32_t *)(to + i) = T::pack(h.v[s][0], h.v[s][1]);
    *(uint32_t *)(to + half + i) = T::pack(h.v[s][2], h.v[s][3]);
  }
}

/* Where in the cache of a layer, of its keys or its values, a token's head lies. */
TL_DEVICE uint64_t slot_place(uint32_t slot, uint32_t n_kv_heads, uint32_t kv_head, uint32_t head_dim) {
  return (((uint64_t)(slot / TL_BLOCK_TOKENS) * n_kv_heads + kv_head) * TL_BLOCK_TOKENS + slot % TL_BLOCK_TOKENS) * head_dim;
}

#endif
