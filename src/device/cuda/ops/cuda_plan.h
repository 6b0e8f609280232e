/* SPDX-License-Identifier: MIT */
/* Attention's work, planned on the host once a step: decode rows into items of about
 * equal length, prefill rows into tiles. Pure; the kernels only read the lists. */
#ifndef CUDA_PLAN_H
#define CUDA_PLAN_H

#include <string.h>

#include "device/cuda/ops/cuda_ops.h"

/* Tiles of query heads, each of which reads the keys and values of its KV head by itself. */
static inline uint32_t tl_cuda_head_tiles(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim) {
  uint32_t group = n_heads / n_kv_heads, most = head_dim > 128 ? 8 : 16;
  return n_kv_heads * ((group + most - 1) / most);
}

/* Most items that n_seqs decode rows can become. */
static inline uint32_t tl_cuda_max_items(uint32_t n_seqs, uint32_t n_lanes) {
  return n_seqs + n_lanes;
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

static inline uint32_t tl_cuda_chunks(uint32_t n_tokens) {
  return (n_tokens + TL_CUDA_CHUNK_TOKENS - 1) / TL_CUDA_CHUNK_TOKENS;
}

/* A step's decode rows in numbers: chunks of all of them, and items if none has more than `share` chunks; share 0: items 0. */
static inline void tl_cuda_count_chunks(const struct tl_step *step, uint32_t window, uint32_t share, uint64_t *ret_chunks,
                                        uint64_t *ret_items) {
  *ret_chunks = *ret_items = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    if (step->query_start[s + 1] - step->query_start[s] != 1) continue;
    uint32_t n = tl_cuda_chunks(tl_cuda_span(step->context_len[s], window));
    *ret_chunks += n;
    if (share) *ret_items += (n + share - 1) / share;
  }
}

/* Chunks a lane, so that all have the same if contexts are cut wherever a lane is full. But if no lane need have more than one
 * item when a lane may have one chunk more, so be it (*ret_single): an item's end costs about as much. */
static inline uint32_t tl_cuda_share(const struct tl_step *step, uint32_t window, uint32_t n_lanes, int *ret_single) {
  uint64_t chunks, items;
  tl_cuda_count_chunks(step, window, 0, &chunks, &items);
  uint32_t share = (uint32_t)((chunks + n_lanes - 1) / n_lanes);
  for (uint32_t more = 0; more < 2 && share; more++) {
    tl_cuda_count_chunks(step, window, share + more, &chunks, &items);
    *ret_single = items <= n_lanes;
    if (*ret_single) return share + more;
  }
  return share;
}

/* The numbers of the blocks that a lane reads first. */
static inline void tl_cuda_fill_lane(const struct tl_step *step, const struct tl_cuda_item *items, struct tl_cuda_lane *lane) {
  memset(&lane->item, 0, sizeof lane->item);
  memset(lane->blocks, 0, sizeof lane->blocks);
  if (lane->begin == lane->end) return;
  lane->item = items[lane->begin];
  const uint32_t *from = step->block_tables + (size_t)lane->item.seq * step->table_stride + lane->item.first / TL_BLOCK_TOKENS;
  for (uint32_t i = 0; i < TL_CUDA_LANE_BLOCKS && i * TL_BLOCK_TOKENS < lane->item.count; i++) lane->blocks[i] = from[i];
}

/* The sequences of the step that have one query row, for layers with this window, dealt to n_lanes lanes. lanes holds
 * n_lanes, items tl_cuda_max_items. Returns the number of items. */
static inline uint32_t tl_cuda_plan_decode(const struct tl_step *step, uint32_t window, uint32_t n_lanes, struct tl_cuda_lane *lanes,
                                           struct tl_cuda_item *items) {
  int single = 0;
  uint32_t share = tl_cuda_share(step, window, n_lanes, &single), left = share, lane = 0, n_items = 0;
  uint32_t slack = single ? 0 : share / 16; /* so much more a lane may have if that spares a cut */
  lanes[0].begin = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t row = step->query_start[s], first_item = n_items, context = step->context_len[s];
    if (step->query_start[s + 1] - row != 1) continue;
    uint32_t length = tl_cuda_span(context, window), first = context - length, skip = tl_cuda_first_seen(context, window) - first;
    for (uint32_t at = 0, n; at < length; at += n) {
      if (left == 0 || (single && n_items > lanes[lane].begin)) {
        lanes[lane++].end = n_items;
        lanes[lane].begin = n_items;
        left = share;
      }
      n = tl_cuda_chunks(length - at) <= left + slack ? length - at : left * TL_CUDA_CHUNK_TOKENS;
      left -= tl_cuda_chunks(n) < left ? tl_cuda_chunks(n) : left;
      items[n_items++] = (struct tl_cuda_item){row, s, first + at, n, at ? 0 : skip, context - 1, first_item, 0};
    }
    for (uint32_t i = first_item; i < n_items; i++) items[i].n_parts = n_items - first_item;
  }
  lanes[lane].end = n_items;
  while (++lane < n_lanes) lanes[lane].begin = lanes[lane].end = n_items;
  for (uint32_t i = 0; i < n_lanes; i++) tl_cuda_fill_lane(step, items, &lanes[i]);
  return n_items;
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
