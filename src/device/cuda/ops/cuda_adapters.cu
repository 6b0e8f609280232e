/* SPDX-License-Identifier: MIT */
/* LoRA adapters: two products of which one side is thin. Rows of x, or of s, are the 16 rows of a tensor-core tile,
 * ranks, or outputs, its 8 columns. What a product sums up may be summed in any order, so a lane's neighbours in memory take the places that the
 * layout gives it. */
#include "device/cuda/ops/cuda_adapters.h"

#include "device/cuda/ops/cuda_port.cuh"

#define SHRINK_WARPS 8 /* share the k of a tile and 16 ranks */
#define EXPAND_WARPS 4
#define EXPAND_OUTPUTS 32 /* of a warp */
#define RANKS TL_CUDA_ADAPTER_RANKS
#define ROWS TL_CUDA_ADAPTER_ROWS

/* --- s = x A^T --------------------------------------------------------------------------------- */

struct shrink_shared {
  float sums[SHRINK_WARPS][ROWS][RANKS];
};

/* A lane's row of the tile: where it begins, NULL: the tile has none there. */
TL_DEVICE const uint16_t *row_of(const tl_cuda_shrink_args &a, const tl_cuda_adapter_tile &tile, uint32_t at) {
  return at < tile.n ? (const uint16_t *)a.x + (uint64_t)a.rows[tile.first + at] * a.k : NULL;
}

/* This warp's stretches of k: sums of the tile's rows with ranks 0 to 7 and 8 to 15 of `weight`. */
template <class T>
TL_DEVICE void sum_stretches(const tl_cuda_shrink_args &a, const tl_cuda_adapter_tile &tile, const uint16_t *weight, float (&sum)[2][4]) {
  uint32_t group = lane_index() / 4, offset = lane_index() % 4 * 8;
  const uint16_t *lower = row_of(a, tile, group), *upper = row_of(a, tile, group + 8);
  const uint16_t *first = weight + (uint64_t)group * a.k, *second = first + (uint64_t)8 * a.k;
  for (uint32_t base = warp_index() * 32; base < a.k; base += SHRINK_WARPS * 32) {
    uint32_t k = base + offset;
    bool valid = k < a.k;
    quad l = valid && lower ? load16(lower + k) : quad{}, u = valid && upper ? load16(upper + k) : quad{};
    quad w[2] = {valid ? load16_once(first + k) : quad{}, valid ? load16_once(second + k) : quad{}};
    TL_UNROLL for (int half = 0; half < 2; half++) {
      const uint32_t rows[4] = {l.w[2 * half], u.w[2 * half], l.w[2 * half + 1], u.w[2 * half + 1]};
      TL_UNROLL for (int i = 0; i < 2; i++) {
        const uint32_t ranks[2] = {w[i].w[2 * half], w[i].w[2 * half + 1]};
        T::mma(sum[i], rows, ranks);
      }
    }
  }
}

/* A block: a tile and 16 ranks. */
template <class T>
TL_KERNEL(SHRINK_WARPS * 32, 2) shrink(tl_cuda_shrink_args a) {
  let_next_start();
  wait_for_before();
  shrink_shared *shared = (shrink_shared *)shared_memory();
  const tl_cuda_adapter_tile tile = a.tiles[block_x()];
  const tl_cuda_adapter &adapter = a.adapters[tile.adapter];
  uint32_t rank = block_y() * RANKS, row = lane_index() / 4, column = lane_index() % 4 * 2;
  if (rank >= adapter.ranks || !tile.n) return;
  float sum[2][4] = {};
  sum_stretches<T>(a, tile, (const uint16_t *)adapter.a + (uint64_t)rank * a.k, sum);
  TL_UNROLL for (int i = 0; i < 2; i++) TL_UNROLL for (int c = 0; c < 4; c++)
      shared->sums[warp_index()][row + c / 2 * 8][i * 8 + column + c % 2] = sum[i][c];
  sync_block();
  row = thread_index() / (RANKS / 2);
  column = thread_index() % (RANKS / 2) * 2;
  if (row >= tile.n) return;
  float pair[2] = {};
  for (int warp = 0; warp < SHRINK_WARPS; warp++) TL_UNROLL for (int i = 0; i < 2; i++) pair[i] += shared->sums[warp][row][column + i];
  *(uint32_t *)((uint16_t *)a.s + (uint64_t)(tile.first + row) * a.ld + rank + column) = T::pack(pair[0], pair[1]);
}

extern "C" int tl_cuda_shrink(const struct tl_cuda_shrink_args *args, void *stream) {
  if (args->k % 8 || args->ld % RANKS || args->n_tiles > INT32_MAX || args->ld / RANKS > UINT16_MAX) return CUDA_INVALID;
  if (!args->n_tiles || !args->ld) return 0;
  return launch_rows(args->n_tiles, args->dtype == TL_CUDA_BF16 ? shrink<bf16> : shrink<f16>, args->n_tiles, args->ld / RANKS, SHRINK_WARPS * 32,
                     sizeof(shrink_shared), stream, *args);
}

/* --- y += scale s B^T ------------------------------------------------------------------------------ */

/* 16 ranks of a row, two words a lane. */
TL_DEVICE void load_ranks(const uint16_t *row, bool valid, uint32_t (&to)[2]) {
  const uint32_t *at = (const uint32_t *)(row + lane_index() % 4 * 4);
  to[0] = valid ? at[0] : 0;
  to[1] = valid ? at[1] : 0;
}

/* The outputs o to o + 7 of an input for the tile's rows. */
template <class T>
TL_DEVICE void sum_ranks(const tl_cuda_expand_args &a, const tl_cuda_adapter_tile &tile, uint32_t rank, const uint16_t *s, const uint16_t *b,
                         float (&sum)[4]) {
  uint32_t group = lane_index() / 4;
  for (uint32_t r = 0; r < rank; r += RANKS) {
    uint32_t lower[2], upper[2], outputs[2];
    load_ranks(s + (uint64_t)group * a.ld + r, group < tile.n, lower);
    load_ranks(s + (uint64_t)(group + 8) * a.ld + r, group + 8 < tile.n, upper);
    load_ranks(b + (uint64_t)group * rank + r, true, outputs);
    const uint32_t rows[4] = {lower[0], upper[0], lower[1], upper[1]};
    T::mma(sum, rows, outputs);
  }
}

/* A warp: a tile and 32 outputs. */
template <class T>
TL_KERNEL(EXPAND_WARPS * 32, 4) expand(tl_cuda_expand_args a) {
  let_next_start();
  wait_for_before();
  const tl_cuda_adapter_tile tile = a.tiles[block_x()];
  const tl_cuda_adapter &adapter = a.adapters[tile.adapter];
  uint32_t begin = (block_y() * EXPAND_WARPS + warp_index()) * EXPAND_OUTPUTS, row = lane_index() / 4;
  if (!tile.n) return;
  for (uint32_t o = begin; o < begin + EXPAND_OUTPUTS && o < a.n; o += 8) {
    uint32_t input = 0, first = a.first[0]; /* by a number it would be memory */
    TL_UNROLL for (uint32_t i = 1; i < TL_CUDA_ADAPTER_INPUTS; i++)
      if (o >= a.first[i]) input = i, first = a.first[i];
    uint32_t rank = adapter.rank[input];
    if (!rank) continue;
    float sum[4] = {};
    const uint16_t *b = (const uint16_t *)adapter.b[input] + (uint64_t)(o - first) * rank;
    sum_ranks<T>(a, tile, rank, (const uint16_t *)a.s + (uint64_t)tile.first * a.ld + adapter.at[input], b, sum);
    TL_UNROLL for (int half = 0; half < 2; half++) {
      if (row + 8 * half >= tile.n) continue;
      uint64_t of_y = (uint64_t)a.rows[tile.first + row + 8 * half] * a.ldy + o + lane_index() % 4 * 2;
      uint32_t *y = (uint32_t *)((uint16_t *)a.y + of_y), pair = *y;
      float scale = adapter.scale[input];
      *y = T::pack(T::low(pair) + scale * sum[2 * half], T::high(pair) + scale * sum[2 * half + 1]);
    }
  }
}

extern "C" int tl_cuda_expand(const struct tl_cuda_expand_args *args, void *stream) {
  const uint32_t block = EXPAND_WARPS * EXPAND_OUTPUTS;
  uint32_t blocks = args->n / block + (args->n % block != 0);
  if (args->n % 8 || args->ldy % 2 || args->ld % RANKS || args->n_tiles > INT32_MAX || blocks > UINT16_MAX) return CUDA_INVALID;
  for (int i = 0; i < TL_CUDA_ADAPTER_INPUTS; i++)
    if (args->first[i] != UINT32_MAX && args->first[i] % 8) return CUDA_INVALID;
  if (!args->n_tiles || !blocks) return 0;
  return launch_rows(args->n_tiles, args->dtype == TL_CUDA_BF16 ? expand<bf16> : expand<f16>, args->n_tiles, blocks, EXPAND_WARPS * 32, 0, stream,
                     *args);
}
