/* SPDX-License-Identifier: MIT */
/* Attention for every head size: a warp a query head, one token after the other.
 * Slow; for models whose head is neither 64 nor 128 wide. */
#include "device/cuda/ops/cuda_attend.cuh"

#define WARPS 4
#define THREADS (WARPS * 32)
#define MAX_STEPS (TL_CUDA_MAX_HEAD_DIM / 64) /* of 64 elements, two a lane */

struct stretch {
  float max, sum;
  float out[MAX_STEPS][2];
};

template <class T>
TL_DEVICE void load_pairs(const uint16_t *from, uint32_t dim, float (&to)[MAX_STEPS][2]) {
  TL_UNROLL for (uint32_t s = 0; s < MAX_STEPS; s++) {
    uint32_t i = s * 64 + lane_index() * 2, pair = i < dim ? *(const uint32_t *)(from + i) : 0;
    to[s][0] = T::low(pair);
    to[s][1] = T::high(pair);
  }
}

/* Query head `head` of `row` over positions [from, to) of a sequence. */
template <class T>
TL_DEVICE stretch attend_tokens(const tl_cuda_attention &a, uint32_t row, uint32_t head, uint32_t seq, uint32_t from,
                                uint32_t to) {
  uint32_t dim = a.head_dim, kv_head = head / (a.n_heads / a.n_kv_heads);
  const uint32_t *table = a.block_tables + (uint64_t)seq * a.table_stride;
  float q[MAX_STEPS][2], key[MAX_STEPS][2], value[MAX_STEPS][2];
  load_pairs<T>((const uint16_t *)a.q + ((uint64_t)row * a.n_heads + head) * dim, dim, q);
  stretch r = {-INFINITY, 0, {}};
  for (uint32_t at = from; at < to; at++) {
    uint64_t block = (uint64_t)table[at / TL_BLOCK_TOKENS] * a.n_kv_heads + kv_head;
    uint64_t place = (block * TL_BLOCK_TOKENS + at % TL_BLOCK_TOKENS) * dim;
    load_pairs<T>((const uint16_t *)a.k_cache + place, dim, key);
    load_pairs<T>((const uint16_t *)a.v_cache + place, dim, value);
    float score = 0;
    TL_UNROLL for (int s = 0; s < MAX_STEPS; s++) score += q[s][0] * key[s][0] + q[s][1] * key[s][1];
    score = warp_sum(score) * a.scale * LOG2_E;
    if (a.softcap != 0) score = cap_score(score, a.softcap);
    float max = fmaxf(r.max, score), shrink = exp2_fast(r.max - max), weight = exp2_fast(score - max);
    r.max = max;
    r.sum = r.sum * shrink + weight;
    TL_UNROLL for (int s = 0; s < MAX_STEPS; s++)
      TL_UNROLL for (int i = 0; i < 2; i++) r.out[s][i] = r.out[s][i] * shrink + weight * value[s][i];
  }
  return r;
}

template <class T>
TL_DEVICE void write_row(const tl_cuda_attention &a, uint32_t row, uint32_t head, const stretch &r) {
  uint16_t *out = (uint16_t *)a.out + ((uint64_t)row * a.n_heads + head) * a.head_dim;
  float sum = r.sum + sink_weight(a, head, r.max);
  TL_UNROLL for (uint32_t s = 0; s < MAX_STEPS; s++) {
    uint32_t i = s * 64 + lane_index() * 2;
    if (i < a.head_dim) *(uint32_t *)(out + i) = T::pack(r.out[s][0] / sum, r.out[s][1] / sum);
  }
}

template <class T>
TL_KERNEL(THREADS, 1) decode_any(tl_cuda_decode_args a) {
  uint64_t n = (uint64_t)a.counts->n_items * a.a.n_heads;
  for (uint64_t work = (uint64_t)block_x() * WARPS + warp_index(); work < n; work += (uint64_t)grid_x() * WARPS) {
    uint32_t index = (uint32_t)(work / a.a.n_heads), head = (uint32_t)(work % a.a.n_heads);
    tl_cuda_item item = a.items[index];
    stretch r = attend_tokens<T>(a.a, item.row, head, item.seq, item.first + item.skip, item.first + item.count);
    if (!item.split) {
      write_row<T>(a.a, item.row, head, r);
      continue;
    }
    float *out = a.partial + work * a.a.head_dim;
    TL_UNROLL for (uint32_t s = 0; s < MAX_STEPS; s++) {
      uint32_t i = s * 64 + lane_index() * 2;
      if (i >= a.a.head_dim) continue;
      out[i] = r.out[s][0];
      out[i + 1] = r.out[s][1];
    }
    if (lane_index() == 0) {
      a.partial_scale[work * 2] = r.max;
      a.partial_scale[work * 2 + 1] = r.sum;
    }
  }
}

int cuda_decode_any(const struct tl_cuda_decode_args *args, void *stream) {
  return launch(args->a.dtype == TL_CUDA_BF16 ? decode_any<bf16> : decode_any<f16>, args->n_blocks, 1, THREADS, 0,
                stream, *args);
}

/* A block a row of a tile; its warps take the heads in turn. */
template <class T>
TL_KERNEL(THREADS, 1) prefill_any(tl_cuda_prefill_args a) {
  tl_cuda_tile tile = a.tiles[block_x() / TL_CUDA_TILE_ROWS];
  uint32_t row = block_x() % TL_CUDA_TILE_ROWS;
  if (row >= tile.n_rows) return;
  uint32_t own = tile.position + row + 1, first = a.a.window && own > a.a.window ? own - a.a.window : 0;
  uint32_t end = own + cuda_keys_ahead(a.a, tile, own);
  for (uint32_t head = warp_index(); head < a.a.n_heads; head += WARPS)
    write_row<T>(a.a, tile.row + row, head,
                 attend_tokens<T>(a.a, tile.row + row, head, tile.seq, first, end));
}

int cuda_prefill_any(const struct tl_cuda_prefill_args *args, void *stream) {
  return launch(args->a.dtype == TL_CUDA_BF16 ? prefill_any<bf16> : prefill_any<f16>,
                args->n_tiles * TL_CUDA_TILE_ROWS, 1, THREADS, 0, stream, *args);
}
