/* SPDX-License-Identifier: MIT */
/* Bias, norm, rotation and the way into the cache: a warp a head of a row, two
 * neighbouring elements of each half in a lane at a time. Norms over whole rows need all
 * heads first: a kernel before. */
#include "device/cuda/ops/cuda_port.cuh"

#define WARPS 4
#define MAX_STEPS (TL_CUDA_MAX_HEAD_DIM / 2 / 64) /* of 64 elements through half a head */

/* One head in registers: v[step] holds elements i, i + 1, half + i, half + i + 1. */
struct head {
  float v[MAX_STEPS][4];
};

template <class T>
TL_DEVICE void load_head(const uint16_t *from, const float *bias, uint32_t half, head *h) {
  TL_UNROLL for (uint32_t s = 0; s < MAX_STEPS; s++) {
    uint32_t i = s * 64 + lane_index() * 2;
    TL_UNROLL for (uint32_t k = 0; k < 4; k++) h->v[s][k] = 0;
    if (i >= half) continue;
    TL_UNROLL for (uint32_t side = 0; side < 2; side++) {
      uint32_t at = i + side * half, pair = *(const uint32_t *)(from + at);
      h->v[s][2 * side] = T::low(pair) + (bias ? bias[at] : 0);
      h->v[s][2 * side + 1] = T::high(pair) + (bias ? bias[at + 1] : 0);
    }
  }
}

TL_DEVICE float head_rms(const head &h, uint32_t width, float eps) {
  float sum = 0;
  TL_UNROLL for (uint32_t s = 0; s < MAX_STEPS; s++)
    TL_UNROLL for (uint32_t k = 0; k < 4; k++) sum += h.v[s][k] * h.v[s][k];
  return 1 / sqrtf(warp_sum(sum) / (float)width + eps);
}

TL_DEVICE void norm_head(head *h, const float *weight, uint32_t half, float scale) {
  TL_UNROLL for (uint32_t s = 0; s < MAX_STEPS; s++) {
    uint32_t i = s * 64 + lane_index() * 2;
    if (i >= half) continue;
    TL_UNROLL for (uint32_t k = 0; k < 4; k++) h->v[s][k] *= scale * weight[k / 2 * half + i + k % 2];
  }
}

/* (x[i], x[half + i]) is a pair; angles: half cosines, half sines. */
TL_DEVICE void rotate(head *h, const float *angles, uint32_t half) {
  TL_UNROLL for (uint32_t s = 0; s < MAX_STEPS; s++) {
    uint32_t i = s * 64 + lane_index() * 2;
    if (i >= half) continue;
    TL_UNROLL for (uint32_t k = 0; k < 2; k++) {
      float cosine = angles[i + k], sine = angles[half + i + k], x = h->v[s][k], y = h->v[s][2 + k];
      h->v[s][k] = x * cosine - y * sine;
      h->v[s][2 + k] = y * cosine + x * sine;
    }
  }
}

template <class T>
TL_DEVICE void store_head(const head *h, uint32_t half, uint16_t *to) {
  TL_UNROLL for (uint32_t s = 0; s < MAX_STEPS; s++) {
    uint32_t i = s * 64 + lane_index() * 2;
    if (i >= half) continue;
    *(uint32_t *)(to + i) = T::pack(h->v[s][0], h->v[s][1]);
    *(uint32_t *)(to + half + i) = T::pack(h->v[s][2], h->v[s][3]);
  }
}

template <class T>
TL_KERNEL(WARPS * 32, 1) qkv(tl_cuda_qkv_args a) {
  uint32_t heads = a.n_heads + 2 * a.n_kv_heads, half = a.head_dim / 2;
  uint64_t work = (uint64_t)block_x() * WARPS + warp_index();
  uint32_t row = (uint32_t)(work / heads), index = (uint32_t)(work % heads);
  let_next_start();
  wait_for_before();
  if (row >= a.n) return;
  bool is_q = index < a.n_heads, is_v = index >= a.n_heads + a.n_kv_heads;
  uint32_t slot = a.slots[row];
  if (!is_q && slot == TL_CUDA_NO_SLOT) return;
  head h;
  load_head<T>((const uint16_t *)a.qkv + work * a.head_dim, a.bias ? a.bias + (uint64_t)index * a.head_dim : nullptr,
               half, &h);
  const float *norm = is_q ? a.q_norm : is_v ? nullptr : a.k_norm;
  if (norm && a.row_squares) {
    float scale = 1 / sqrtf(a.row_squares[(uint64_t)row * 2 + !is_q] + a.eps);
    norm_head(&h, norm + (uint64_t)(is_q ? index : index - a.n_heads) * a.head_dim, half, scale);
  } else if (norm) {
    norm_head(&h, norm, half, head_rms(h, a.width, a.eps));
  }
  if (!is_v && a.rope) rotate(&h, a.rope + (uint64_t)a.positions[row] * a.head_dim, half);
  if (is_q) {
    store_head<T>(&h, half, (uint16_t *)a.q + ((uint64_t)row * a.n_heads + index) * a.head_dim);
    return;
  }
  uint32_t kv_head = (index - a.n_heads) % a.n_kv_heads, block = slot / TL_BLOCK_TOKENS;
  uint64_t at = (((uint64_t)block * a.n_kv_heads + kv_head) * TL_BLOCK_TOKENS + slot % TL_BLOCK_TOKENS) * a.head_dim;
  store_head<T>(&h, half, (uint16_t *)(is_v ? a.v_cache : a.k_cache) + at);
}

extern "C" int tl_cuda_qkv(const struct tl_cuda_qkv_args *args, void *stream) {
  uint64_t work = (uint64_t)args->n * (args->n_heads + 2 * args->n_kv_heads), blocks = (work + WARPS - 1) / WARPS;
  if (args->head_dim % 8 || args->head_dim > TL_CUDA_MAX_HEAD_DIM || args->width > args->head_dim || blocks > INT32_MAX)
    return CUDA_INVALID;
  return blocks ? launch_rows(args->n, args->dtype == TL_CUDA_BF16 ? qkv<bf16> : qkv<f16>, (unsigned)blocks, 1, WARPS * 32, 0,
                         stream, *args)
                : 0;
}

/* --- whole rows ------------------------------------------------------------------------------ */

/* A block a row of q or k. */
template <class T>
TL_KERNEL(WARPS * 32, 1) row_squares(tl_cuda_row_squares_args a) {
  let_next_start();
  wait_for_before();
  bool is_k = block_y();
  uint32_t heads = is_k ? a.n_kv_heads : a.n_heads, first = is_k ? a.n_heads * a.head_dim : 0;
  const uint16_t *from = (const uint16_t *)a.qkv + (uint64_t)block_x() * (a.n_heads + 2 * a.n_kv_heads) * a.head_dim + first;
  float sum = 0;
  for (uint32_t i = thread_index() * 8; i < heads * a.head_dim; i += WARPS * 32 * 8) {
    float v[8];
    unpack8<T>(load16(from + i), v);
    TL_UNROLL for (int k = 0; k < 8; k++) {
      if (a.bias) v[k] += a.bias[first + i + k];
      sum += v[k] * v[k];
    }
  }
  sum = block_sum(sum, (float *)shared_memory(), WARPS) / (float)(heads * a.width * a.n_ranks);
  if (thread_index() == 0) a.out[(uint64_t)block_x() * 2 + is_k] = sum;
}

extern "C" int tl_cuda_row_squares(const struct tl_cuda_row_squares_args *args, void *stream) {
  if (args->head_dim % 8 || args->width == 0 || args->width > args->head_dim || args->n_ranks == 0) return CUDA_INVALID;
  return args->n ? launch_rows(args->n, args->dtype == TL_CUDA_BF16 ? row_squares<bf16> : row_squares<f16>, args->n, 2, WARPS * 32,
                          WARPS * sizeof(float), stream, *args)
                 : 0;
}
