/* SPDX-License-Identifier: MIT */
/* Attention's work, planned on the host once a step: which rows decode, those into items of about
 * equal length, prefill rows into tiles. Pure; the kernels only read the lists. */
#ifndef CUDA_PLAN_H
#define CUDA_PLAN_H

#include <stdbool.h>
#include <string.h>

#include "device/cuda/ops/cuda_both.h"
#include "device/cuda/ops/cuda_latent.h"

/* --- what a step is ------------------------------------------------------------------------------- */

/* Rows that decode, of sequence s: all of its rows, or none. One row decodes; of several all must be wanted and no more than
 * `most` be there, as guesses behind a last token are. Whatever else has several rows is a piece of a prompt. */
static inline uint32_t tl_cuda_decode_rows(const struct tl_step *step, uint32_t s, uint32_t most) {
  uint32_t row = step->query_start[s], n = step->query_start[s + 1] - row, low = 0, high = step->n_rows;
  if (n == 1) return 1;
  if (n == 0 || n > most) return 0;
  while (low < high) { /* the first wanted row from this one on */
    uint32_t middle = low + (high - low) / 2;
    if (step->rows[middle] < row) low = middle + 1;
    else high = middle;
  }
  bool all = step->n_rows - low >= n && step->rows[low] == row && step->rows[low + n - 1] == row + n - 1;
  return all ? n : 0;
}

struct tl_cuda_shape {
  uint32_t n_decode; /* rows that decode */
  bool drafts;       /* of which some are of one sequence */
  bool is_decode;    /* there are no others, and all are wanted */
};

/* Everything that depends on what kind of step it is does so by this. */
static inline struct tl_cuda_shape tl_cuda_shape_of(const struct tl_step *step, uint32_t most_rows) {
  struct tl_cuda_shape shape = {0, false, false};
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t n = tl_cuda_decode_rows(step, s, most_rows);
    shape.n_decode += n;
    shape.drafts |= n > 1;
  }
  shape.is_decode = shape.n_decode == step->n_tokens && step->n_rows == step->n_tokens;
  return shape;
}

/* --- what it takes ----------------------------------------------------------------------------------- */

/* Tiles of query heads, each of which reads the keys and values of its KV head by itself. Rows of more than TL_CUDA_MAX_HEAD_DIM are
 * latents (cuda_latent.h). */
static inline uint32_t tl_cuda_head_tiles(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim) {
  uint32_t group = n_heads / n_kv_heads, most = head_dim > TL_CUDA_MAX_HEAD_DIM ? TL_CUDA_LATENT_HEADS : head_dim > 128 ? 8 : 16;
  return n_kv_heads * ((group + most - 1) / most);
}

/* Most rows of a sequence whose query heads of a KV head one tile has room for, so that the cache is read once for them. */
static inline uint32_t tl_cuda_pack(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim, uint32_t most_rows) {
  uint32_t group = n_heads / n_kv_heads, room = (head_dim > 128 ? 8 : 16) / group;
  if (room > most_rows) room = most_rows;
  return room ? room : 1;
}

/* Most items of a step of so many sequences and rows that are wanted. */
static inline uint32_t tl_cuda_max_items(uint32_t n_seqs, uint32_t n_rows, struct tl_cuda_packing packing, uint32_t n_lanes) {
  return n_seqs + (packing.most_rows > 1 ? n_rows : 0) + n_lanes;
}

/* Rows of what is left of items that are parts: a lane's last may be the first part of some rows, and its first one of their others. */
static inline uint32_t tl_cuda_max_parts(struct tl_cuda_packing packing, uint32_t n_lanes) {
  return 2 * n_lanes * packing.pack;
}

/* Most tiles of a step. */
static inline uint32_t tl_cuda_max_tiles(uint32_t n_tokens, uint32_t n_seqs) {
  return n_tokens / TL_CUDA_TILE_ROWS + n_seqs;
}

/* Most tiles of rows that see their own chunk alone. */
static inline uint32_t tl_cuda_max_chunk_tiles(uint32_t n_tokens, uint32_t n_seqs, uint32_t chunk) {
  return chunk ? n_tokens / TL_CUDA_TILE_ROWS + n_tokens / chunk + 2 * n_seqs : 0;
}

/* The first position that a row with so long a context sees; window 0: all. */
TL_BOTH uint32_t tl_cuda_first_seen(uint32_t context_len, uint32_t window) {
  return window && context_len > window ? context_len - window : 0;
}

static inline uint32_t tl_cuda_chunks(uint32_t n_tokens) {
  return (n_tokens + TL_CUDA_CHUNK_TOKENS - 1) / TL_CUDA_CHUNK_TOKENS;
}

/* The rows from row `at` of a sequence on that have an item together, which begins as all that they see. */
static inline struct tl_cuda_item tl_cuda_pack_rows(const struct tl_step *step, uint32_t s, uint32_t at, struct tl_cuda_packing packing,
                                                    uint32_t window) {
  uint32_t begin = step->query_start[s], n = step->query_start[s + 1] - begin, fresh = step->context_len[s] - n;
  uint32_t n_rows = n - at < packing.pack ? n - at : packing.pack, position = fresh + at, into = packing.chunk ? position % packing.chunk : 0;
  if (packing.chunk && packing.chunk - into < n_rows) n_rows = packing.chunk - into;
  uint32_t unseen = packing.chunk ? position - into : tl_cuda_first_seen(position + 1, window), first = unseen / TL_BLOCK_TOKENS * TL_BLOCK_TOKENS;
  struct tl_cuda_item item = {begin + at, n_rows, s, first, position + n_rows - first, unseen - first, position, fresh, 0, 0};
  return item;
}

/* A step's decode rows in numbers: chunks of all of them, and items if none has more than `share` chunks; share 0: items 0. */
static inline void tl_cuda_count_chunks(const struct tl_step *step, struct tl_cuda_packing packing, uint32_t window, uint32_t share,
                                        uint64_t *ret_chunks, uint64_t *ret_items) {
  *ret_chunks = *ret_items = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t n_rows = tl_cuda_decode_rows(step, s, packing.most_rows);
    for (uint32_t at = 0; at < n_rows;) {
      struct tl_cuda_item item = tl_cuda_pack_rows(step, s, at, packing, window);
      uint32_t n = tl_cuda_chunks(item.count);
      *ret_chunks += n;
      if (share) *ret_items += (n + share - 1) / share;
      at += item.n_rows;
    }
  }
}

/* Chunks a lane, so that all have the same if contexts are cut wherever a lane is full. But if no lane need have more than one
 * item when a lane may have one chunk more, so be it (*ret_single): an item's end costs about as much. */
static inline uint32_t tl_cuda_share(const struct tl_step *step, struct tl_cuda_packing packing, uint32_t window, uint32_t n_lanes,
                                     int *ret_single) {
  uint64_t chunks, items;
  tl_cuda_count_chunks(step, packing, window, 0, &chunks, &items);
  uint32_t share = (uint32_t)((chunks + n_lanes - 1) / n_lanes);
  for (uint32_t more = 0; more < 2 && share; more++) {
    tl_cuda_count_chunks(step, packing, window, share + more, &chunks, &items);
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

/* Where the next item goes. */
struct tl_cuda_dealer {
  struct tl_cuda_lane *lanes;
  struct tl_cuda_item *items;
  uint32_t lane, n_items;
  uint32_t share, left, slack; /* chunks of a lane, of this one, and those that it may have more if that spares a cut */
  int single;
};

/* Items of all that some rows see, one behind the other, in this lane and the next ones. */
static inline void tl_cuda_deal(struct tl_cuda_dealer *d, struct tl_cuda_item all) {
  uint32_t end = all.first + all.count, first_item = d->n_items;
  for (struct tl_cuda_item item = all; item.first < end; item.first += item.count, item.skip = 0) {
    if (d->left == 0 || (d->single && d->n_items > d->lanes[d->lane].begin)) {
      d->lanes[d->lane++].end = d->n_items;
      d->lanes[d->lane].begin = d->n_items;
      d->left = d->share;
    }
    uint32_t rest = end - item.first;
    item.count = tl_cuda_chunks(rest) <= d->left + d->slack ? rest : d->left * TL_CUDA_CHUNK_TOKENS;
    d->left -= tl_cuda_chunks(item.count) < d->left ? tl_cuda_chunks(item.count) : d->left;
    item.first_part = first_item;
    d->items[d->n_items++] = item;
  }
  for (uint32_t i = first_item; i < d->n_items; i++) d->items[i].n_parts = d->n_items - first_item;
}

/* The rows of the step that decode, for layers with this window, or packing's chunks, dealt to n_lanes lanes. lanes holds n_lanes, items
 * tl_cuda_max_items. Returns the number of items. */
static inline uint32_t tl_cuda_plan_decode(const struct tl_step *step, struct tl_cuda_packing packing, uint32_t window, uint32_t n_lanes,
                                           struct tl_cuda_lane *lanes, struct tl_cuda_item *items) {
  struct tl_cuda_dealer d = {lanes, items, 0, 0, 0, 0, 0, 0};
  d.share = d.left = tl_cuda_share(step, packing, window, n_lanes, &d.single);
  d.slack = d.single ? 0 : d.share / 16;
  lanes[0].begin = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t n_rows = tl_cuda_decode_rows(step, s, packing.most_rows);
    for (uint32_t at = 0; at < n_rows;) {
      struct tl_cuda_item item = tl_cuda_pack_rows(step, s, at, packing, window);
      tl_cuda_deal(&d, item);
      at += item.n_rows;
    }
  }
  lanes[d.lane].end = d.n_items;
  while (++d.lane < n_lanes) lanes[d.lane].begin = lanes[d.lane].end = d.n_items;
  for (uint32_t i = 0; i < n_lanes; i++) tl_cuda_fill_lane(step, items, &lanes[i]);
  return d.n_items;
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

/* The rows that do not decode; returns the number of tiles. */
static inline uint32_t tl_cuda_plan_prefill(const struct tl_step *step, uint32_t most_rows, struct tl_cuda_tile *tiles) {
  uint32_t n = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t row = step->query_start[s], rows = step->query_start[s + 1] - row;
    if (tl_cuda_decode_rows(step, s, most_rows) == 0) n += tl_cuda_cut_rows(s, row, rows, step->context_len[s], tiles + n);
  }
  return n;
}

/* Likewise for layers in which they see their own chunk alone: each is then a sequence of its own, whose table begins where it does. So
 * tl_cuda_attention has no window, and its table_stride is 1, not this one of its tables. */
static inline uint32_t tl_cuda_plan_chunks(const struct tl_step *step, uint32_t most_rows, uint32_t chunk, uint32_t table_stride,
                                           struct tl_cuda_tile *tiles) {
  uint32_t n = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t row = step->query_start[s], rows = step->query_start[s + 1] - row, end = step->context_len[s], begin = end - rows;
    while (tl_cuda_decode_rows(step, s, most_rows) == 0 && end > begin) {
      uint32_t first = (end - 1) / chunk * chunk, from = first > begin ? first : begin;
      n += tl_cuda_cut_rows(s * table_stride + first / TL_BLOCK_TOKENS, row + from - begin, end - from, end - first, tiles + n);
      end = from;
    }
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
