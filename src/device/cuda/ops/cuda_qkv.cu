/* SPDX-License-Identifier: MIT */
/* Bias, norm, rotation and the way into the cache: a warp a head of a row. Norms over whole rows need all
 * heads first: a kernel before. Passes of decode rows alone, without such norms, do without this one (cuda_decode_kernel.cuh). */
#include "device/cuda/ops/cuda_cache.cuh"

#define WARPS 4
#define MOST_STEPS HEAD_STEPS(TL_CUDA_MAX_HEAD_DIM)

/* What the product has left to do, and the bias behind it. */
TL_DEVICE void scale_head(const tl_cuda_rest &u, uint32_t row, uint32_t output, const float *bias, uint32_t half, head<MOST_STEPS> *h) {
  float of_row = row_factor(u, row);
  TL_UNROLL for (uint32_t s = 0; s < MOST_STEPS; s++) {
    uint32_t i = head_place(s);
    if (i >= half) continue;
    TL_UNROLL for (uint32_t k = 0; k < 4; k++) {
      uint32_t at = k / 2 * half + i + k % 2;
      h->v[s][k] = h->v[s][k] * (of_row * u.outputs[output + at]) + (bias ? bias[at] : 0);
    }
  }
}

/* Each element less their mean; what is padding stays zero. */
TL_DEVICE void center_head(head<MOST_STEPS> *h, uint32_t width) {
  float sum = 0;
  TL_UNROLL for (uint32_t s = 0; s < MOST_STEPS; s++)
    TL_UNROLL for (uint32_t k = 0; k < 4; k++) sum += h->v[s][k];
  float mean = warp_sum(sum) / (float)width;
  TL_UNROLL for (uint32_t s = 0; s < MOST_STEPS; s++)
    TL_UNROLL for (uint32_t k = 0; k < 4; k++)
      if (head_place(s) + k % 2 < width / 2) h->v[s][k] -= mean;
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
  packed_head<MOST_STEPS> packed;
  head<MOST_STEPS> h;
  fetch_head((const uint16_t *)a.qkv + work * a.head_dim, half, &packed);
  const float *bias = a.bias ? a.bias + (uint64_t)index * a.head_dim : nullptr;
  unpack_head<T>(packed, a.left.rows ? nullptr : bias, half, &h);
  if (a.left.rows) scale_head(a.left, row, index * a.head_dim, bias, half, &h);
  const float *norm = is_q ? a.q_norm : is_v ? nullptr : a.k_norm;
  if (norm && a.norm_each) {
    center_head(&h, a.width);
    norm += (uint64_t)(is_q ? index : index - a.n_heads) * a.head_dim;
  }
  if (norm && a.row_squares) {
    float scale = 1 / sqrtf(a.row_squares[(uint64_t)row * 2 + !is_q] + a.eps);
    norm_head(&h, norm + (uint64_t)(is_q ? index : index - a.n_heads) * a.head_dim, half, scale);
  } else if (norm && !a.norm_last) {
    norm_head(&h, norm, half, head_rms(h, a.width, a.eps));
  }
  if (!is_v && a.rope) {
    angles<MOST_STEPS> turn;
    load_angles(a.rope + (uint64_t)a.positions[row] * a.head_dim, half, &turn);
    rotate(&h, turn);
  }
  if (norm && a.norm_last) norm_head(&h, norm, half, head_rms(h, a.width, a.eps));
  if (is_q) {
    if (a.growth) grow_head(&h, a.growth[a.positions[row]]);
    store_head<T>(h, half, (uint16_t *)a.q + ((uint64_t)row * a.n_heads + index) * a.head_dim);
    return;
  }
  uint64_t at = slot_place(slot, a.n_kv_heads, (index - a.n_heads) % a.n_kv_heads, a.head_dim);
  keep_head<T>(h, half, (uint16_t *)(is_v ? a.v_cache : a.k_cache) + at / (cache_of<T>::IN_QUAD / 8));
}

extern "C" int tl_cuda_qkv(const struct tl_cuda_qkv_args *args, void *stream) {
  uint64_t work = (uint64_t)args->n * (args->n_heads + 2 * args->n_kv_heads), blocks = (work + WARPS - 1) / WARPS;
  if (args->head_dim % (args->dtype > TL_CUDA_F16 ? 16 : 8) || args->head_dim > TL_CUDA_MAX_HEAD_DIM || args->width > args->head_dim || blocks > INT32_MAX)
    return CUDA_INVALID;
  if (args->row_squares && (args->norm_last || args->norm_each)) return CUDA_INVALID;
  void (*const kernels[])(tl_cuda_qkv_args) = {qkv<bf16>, qkv<f16>, qkv<bf16_bytes>, qkv<f16_bytes>}; /* by enum tl_cuda_dtype */
  return blocks ? launch_rows(args->n, kernels[args->dtype], (unsigned)blocks, 1, WARPS * 32, 0, stream, *args) : 0;
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
