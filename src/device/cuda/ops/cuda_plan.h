/* SPDX-License-Identifier: MIT */
/* Attention's work, planned on the host once a step: decode rows into items of about
 * equal length, prefill rows into tiles. Pure; the kernels only read the lists. */
#ifndef CUDA_PLAN_H
#define CUDA_PLAN_H

#include "device/cuda/ops/cuda_ops.h"

/* Most items that n_seqs decode rows can become on n_blocks thread blocks. */
static inline uint32_t tl_cuda_max_items(uint32_t n_seqs, uint32_t n_blocks, uint32_t n_kv_heads) {
  return n_seqs + n_blocks / n_kv_heads;
}

/* Most tiles of a step. */
static inline uint32_t tl_cuda_max_tiles(uint32_t n_tokens, uint32_t n_seqs) {
  return n_tokens / TL_CUDA_TILE_ROWS + n_seqs;
}

/* The first position that a row with so long a context sees; window 0: all. */
static inline uint32_t tl_cuda_first_seen(uint32_t context_len, uint32_t window) {
  return window && context_len > window ? context_len - window : 0;
}

/* Tokens from the block on in which that position lies. */
static inline uint32_t tl_cuda_span(uint32_t context_len, uint32_t window) {
  return context_len - tl_cuda_first_seen(context_len, window) / TL_BLOCK_TOKENS * TL_BLOCK_TOKENS;
}

/* Tokens of an item: what each thread block would get if all contexts were one,
 * rounded up, so that there is no more than one item too many a sequence. */
static inline uint32_t tl_cuda_chunk(const struct tl_step *step, uint32_t window, uint32_t n_blocks, uint32_t n_kv_heads) {
  uint64_t total = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++)
    if (step->query_start[s + 1] - step->query_start[s] == 1) total += tl_cuda_span(step->context_len[s], window);
  uint64_t share = (total * n_kv_heads + n_blocks - 1) / n_blocks;
  return (uint32_t)((share + TL_CUDA_CHUNK_TOKENS - 1) / TL_CUDA_CHUNK_TOKENS + (share == 0)) * TL_CUDA_CHUNK_TOKENS;
}

/* The sequences of the step that have one query row, for layers with this window. items holds
 * tl_cuda_max_items, merges n_seqs. n_blocks is at least n_kv_heads. */
static inline void tl_cuda_plan_decode(const struct tl_step *step, uint32_t window, uint32_t n_blocks, uint32_t n_kv_heads,
                                       struct tl_cuda_item *items, struct tl_cuda_merge *merges,
                                       struct tl_cuda_counts *ret) {
  uint32_t chunk = tl_cuda_chunk(step, window, n_blocks, n_kv_heads);
  *ret = (struct tl_cuda_counts){0, 0};
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t row = step->query_start[s], first_item = ret->n_items;
    if (step->query_start[s + 1] - row != 1) continue;
    uint32_t length = tl_cuda_span(step->context_len[s], window), first = step->context_len[s] - length;
    uint32_t skip = tl_cuda_first_seen(step->context_len[s], window) - first;
    for (uint32_t at = 0; at < length; at += chunk)
      items[ret->n_items++] = (struct tl_cuda_item){row, s, first + at, length - at < chunk ? length - at : chunk,
                                                    length > chunk, at ? 0 : skip};
    if (length > chunk) merges[ret->n_merges++] = (struct tl_cuda_merge){row, first_item, ret->n_items - first_item};
  }
}

/* The rows of one sequence, longest contexts first; returns the number of tiles. */
static inline uint32_t tl_cuda_cut_rows(uint32_t seq, uint32_t row, uint32_t rows, uint32_t context, struct tl_cuda_tile *tiles) {
  uint32_t n = 0;
  for (uint32_t tile = (rows + TL_CUDA_TILE_ROWS - 1) / TL_CUDA_TILE_ROWS; tile-- > 0;) {
    uint32_t at = tile * TL_CUDA_TILE_ROWS, left = rows - at;
    tiles[n++] = (struct tl_cuda_tile){row + at, left < TL_CUDA_TILE_ROWS ? left : TL_CUDA_TILE_ROWS, context - rows + at, seq, context};
  }
  return n;
}

/* The sequences that have more than one row; returns the number of tiles. */
static inline uint32_t tl_cuda_plan_prefill(const struct tl_step *step, struct tl_cuda_tile *tiles) {
  uint32_t n = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t row = step->query_start[s], rows = step->query_start[s + 1] - row;
    if (rows > 1) n += tl_cuda_cut_rows(s, row, rows, step->context_len[s], tiles + n);
  }
  return n;
}

/* Sequences that are in the step as a whole. */
static inline uint32_t tl_cuda_plan_whole(const struct tl_step *step, struct tl_cuda_tile *tiles) {
  uint32_t n = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t row = step->query_start[s], rows = step->query_start[s + 1] - row;
    n += tl_cuda_cut_rows(s, row, rows, rows, tiles + n);
  }
  return n;
}

#endif
