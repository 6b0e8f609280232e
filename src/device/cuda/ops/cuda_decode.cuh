/* SPDX-License-Identifier: MIT */
/* What a thread block of decode attention works on, and how a warp's blocks of 16 tokens come into its ring in shared memory. */
#ifndef CUDA_DECODE_CUH
#define CUDA_DECODE_CUH

#include <stddef.h>

#include "device/cuda/ops/cuda_attend.cuh"
#include "device/cuda/ops/cuda_cache.cuh"

#define WARPS 4
#define THREADS (WARPS * 32)
#define STRIDE (WARPS * TL_BLOCK_TOKENS) /* from one block of a warp to its next */
#define RING_BYTES 16384 /* a warp; with two thread blocks a multiprocessor three times what an H200 needs on its way to read at full rate */

/* Rows of the tile are query heads: 16, of which only the first 8 are there if a group has no more. */
template <int DIM, bool WIDE>
struct tile {
  static const int HEADS = WIDE ? 16 : 8;
  static const int PLANES = WIDE ? 4 : 2;                /* numbers that a lane has of each 8 columns */
  static const int PIECES = DIM / 16;                    /* quads a lane, of the keys of a block, or of its values; of bytes half of that */
  static const int PAIRS = RING_BYTES / (PIECES * 1024); /* blocks that the ring holds: keys, and values */
  static const int SHARES = DIM / 64 * PLANES * 32;      /* of 8 elements of a head, in what a tile results in */
};

/* A warp's room, in turn for: what is made of an item's row, what the warp finds, and a word when all is read. */
template <int DIM, bool WIDE>
union warp_room {
  struct {
    quad heads[tile<DIM, WIDE>::HEADS][DIM / 8]; /* of Q, head_dim apart, until all warps have read them; in the first warp's room only */
    quad own[2][DIM / 8]; /* key and value of the row's own token; in the room of the warp that comes to it, as the next */
    uint32_t has_own;     /* whether the item ends with that token */
  } made;
  float out[DIM / 8][tile<DIM, WIDE>::PLANES][32]; /* as lanes have it */
  uint32_t is_last;                                /* in the first warp's */
};

template <int DIM, bool WIDE>
struct decode_shared {
  float max[WARPS][tile<DIM, WIDE>::HEADS], sum[WARPS][tile<DIM, WIDE>::HEADS];
  warp_room<DIM, WIDE> room[WARPS];
  quad ring[WARPS][tile<DIM, WIDE>::PAIRS][2][tile<DIM, WIDE>::PIECES * 32];
  static_assert(sizeof room == sizeof warp_room<DIM, WIDE>::out * WARPS, "nothing is longer than what a warp finds");
};

/* --- items ------------------------------------------------------------------------------------ */

/* The heads of a tile and the items of a thread block. */
struct task {
  uint32_t kv_head, first_head, n_heads;
  bool is_first; /* of the tiles of a group */
  uint32_t index, end;
};

/* A field of an item of which each lane has a word. */
#define ITEM_FIELD(words, field) shuffle(words, (unsigned)(offsetof(tl_cuda_item, field) / sizeof(uint32_t)))
#define LANE_FIELD(words, field) shuffle(words, (unsigned)(offsetof(tl_cuda_lane, field) / sizeof(uint32_t)))

/* The heads and the items of this thread block; *ret_words: of its lane, the first item's in front. */
template <int DIM, bool WIDE>
TL_DEVICE task find_task(const tl_cuda_decode_args &a, uint32_t *ret_words) {
  static_assert(sizeof(tl_cuda_lane) == 32 * sizeof(uint32_t) && offsetof(tl_cuda_lane, item) == 0, "a word for each lane of a warp");
  *ret_words = load_early((const uint32_t *)&a.lanes[block_y()] + lane_index()); /* before all that is to be computed */
  const uint32_t heads = tile<DIM, WIDE>::HEADS, group = a.a.n_heads / a.a.n_kv_heads, parts = (group + heads - 1) / heads;
  uint32_t kv_head = block_x(), part = 0; /* of a group that is larger than the tile */
  if (parts > 1) {
    kv_head = block_x() / parts;
    part = block_x() % parts;
  }
  uint32_t n_heads = group - part * heads < heads ? group - part * heads : heads;
  return {kv_head, kv_head * group + part * heads, n_heads, part == 0, LANE_FIELD(*ret_words, begin), LANE_FIELD(*ret_words, end)};
}

/* An item's words, one a lane, in time for its turn. */
TL_DEVICE uint32_t load_item(const tl_cuda_decode_args &a, uint32_t index) {
  return lane_index() < sizeof(tl_cuda_item) / sizeof(uint32_t) ? load_early((const uint32_t *)&a.items[index] + lane_index()) : 0;
}

/* --- from the cache to shared memory ------------------------------------------------------------- */

/* A block of this warp. */
struct place {
  uint32_t index;      /* of the thread block's items */
  uint32_t table;      /* where in the tables its first block stands */
  uint32_t count, old; /* of the item; old: up to where it may be copied before wait_for_before, UINT32_MAX: all there is */
  uint32_t at;         /* in it, a multiple of TL_BLOCK_TOKENS; from count on: there is no more */
  uint32_t block;      /* of the cache */
};

/* The block whose keys this warp copied last, and the one behind it, whose number is on its way meanwhile: on an H200 a warp that
 * waited for each number read at 2.1 TB/s. */
struct cursor {
  place now, next;
  uint32_t pair; /* of `now`, where in the ring */
};

/* Whether an item ends with its row's own token. */
TL_DEVICE bool ends_with_own(uint32_t first, uint32_t count, uint32_t position) {
  return first + count > position;
}

/* The warp that comes to an item's last token. */
TL_DEVICE uint32_t last_warp(uint32_t count) {
  return (count - 1) / TL_BLOCK_TOKENS % WARPS;
}

TL_DEVICE void set_place(const tl_cuda_decode_args &a, uint32_t seq, uint32_t first, uint32_t count, uint32_t fresh, place *p) {
  uint32_t old = fresh > first ? fresh - first : 0;
  p->table = seq * a.a.table_stride + first / TL_BLOCK_TOKENS;
  p->count = count;
  p->old = a.heads.qkv ? UINT32_MAX : old < count ? old : count; /* what the cache has of the own token is not used */
  p->at = warp_index() * TL_BLOCK_TOKENS;
}

/* To a block of this warp, at `at` or in an item behind this one. words: the lane's, while its blocks are enough. */
template <bool BEGINS>
TL_DEVICE void seek(const tl_cuda_decode_args &a, const task &t, uint32_t words, place *p) {
  while (p->at >= p->count && p->index + 1 < t.end) {
    const tl_cuda_item &item = a.items[++p->index];
    set_place(a, load_early(&item.seq), load_early(&item.first), load_early(&item.count), load_early(&item.fresh), p);
  }
  if (p->at >= p->count) return;
  uint32_t i = p->at / TL_BLOCK_TOKENS;
  if (BEGINS && p->index == t.index) /* all lanes of the warp come to the same */
    p->block = shuffle(words, (unsigned)(offsetof(tl_cuda_lane, blocks) / sizeof(uint32_t)) + i);
  else
    p->block = load_early(&a.a.block_tables[p->table + i]);
}

template <bool BEGINS>
TL_DEVICE void seek_next(const tl_cuda_decode_args &a, const task &t, uint32_t words, cursor *c) {
  c->next.at += STRIDE;
  seek<BEGINS>(a, t, words, &c->next);
}

/* Where in the ring a row's quads begin, to be XORed with a quad's number: a row's own order of its quads, so that the eight lanes that
 * read at a time read from different banks. Of keys these have four quads of two rows, of values two quads of every other row of eight. */
template <int DIM, bool BYTES>
TL_DEVICE uint32_t find_row(uint32_t row, bool keys) {
  /* of bytes four rows have two quads of keys or of every other row's values, and in DIM = 64 two rows the same banks' eight */
  if (BYTES) return row * (DIM / 16) ^ (!keys ? row / 2 % 4 : DIM == 64 ? row / 2 % 2 : row % 4) * 2;
  return row * (DIM / 8) + (keys ? row % 2 * 4 : row / 2 % 4 * 2);
}

/* A block's keys or values of one head; what is not there becomes zeros: tokens from the item's end on may be anything, never
 * written, or another sequence's of old. Nearly all blocks are whole, and lie as one piece: then there is little to compute. */
template <int DIM, bool KEYS, class T>
TL_DEVICE void copy_block(const tl_cuda_attention &a, const place &p, uint32_t kv_head, quad *ring) {
  const bool BYTES = cache_of<T>::BYTES;
  const uint32_t IN_QUAD = cache_of<T>::IN_QUAD, WIDTH = DIM / IN_QUAD;
  uint32_t n = p.at < p.count ? p.count - p.at : 0, dim = a.head_dim;
  const uint16_t *from = (const uint16_t *)(KEYS ? a.k_cache : a.v_cache) + ((uint64_t)p.block * a.n_kv_heads + kv_head) * TL_BLOCK_TOKENS * dim / (IN_QUAD / 8);
  if (n >= TL_BLOCK_TOKENS && dim == DIM)
    TL_UNROLL for (uint32_t i = 0; i < WIDTH / 2; i++) {
      uint32_t row = (i * 32 + lane_index()) / WIDTH, quad = lane_index() % WIDTH;
      copy_async16(ring + (find_row<DIM, BYTES>(row, KEYS) ^ quad), from + lane_index() * 8 + i * 256, true);
    }
  else if (n)
    TL_UNROLL for (uint32_t i = 0; i < WIDTH / 2; i++) {
      uint32_t row = (i * 32 + lane_index()) / WIDTH, quad = (i * 32 + lane_index()) % WIDTH;
      copy_async16(ring + (find_row<DIM, BYTES>(row, KEYS) ^ quad), from + row * dim / (IN_QUAD / 8) + quad * 8, row < n && quad * IN_QUAD < dim);
    }
  commit_async(); /* also of nothing, so that groups can be counted */
}

/* The first blocks on their way, all but the last one's values. What steps before wrote may be read while
 * the kernels before this one still run. words: the lane's. */
template <class T, int DIM, bool WIDE>
TL_DEVICE void begin(const tl_cuda_decode_args &a, const task &t, uint32_t words, cursor *c, quad (*ring)[2][tile<DIM, WIDE>::PIECES * 32]) {
  static_assert(WARPS * (tile<DIM, WIDE>::PAIRS + 1) <= TL_CUDA_LANE_BLOCKS, "also the one behind the ring's");
  *c = {};
  c->next.index = t.index;
  set_place(a, ITEM_FIELD(words, seq), ITEM_FIELD(words, first), ITEM_FIELD(words, count), ITEM_FIELD(words, fresh), &c->next);
  seek<true>(a, t, words, &c->next);
  for (;; c->pair++) {
    c->now = c->next;
    seek_next<true>(a, t, words, c);
    if (c->now.at < c->now.count && c->now.at + TL_BLOCK_TOKENS > c->now.old) wait_for_before();
    copy_block<DIM, true, T>(a.a, c->now, t.kv_head, ring[c->pair][0]);
    if (c->pair + 1 == tile<DIM, WIDE>::PAIRS) return;
    copy_block<DIM, false, T>(a.a, c->now, t.kv_head, ring[c->pair][1]);
  }
}

/* The own token's key or value to row `row` of what a warp has copied. */
template <int DIM, bool KEYS, class T>
TL_DEVICE void put_own(const quad *own, uint32_t row, uint32_t dim, quad *ring) {
  static_assert(DIM / 8 <= 32, "a lane a quad");
  if (lane_index() < dim / cache_of<T>::IN_QUAD) ring[find_row<DIM, cache_of<T>::BYTES>(row, KEYS) ^ lane_index()] = own[lane_index()];
  sync_warp();
}

/* Until what the warp copied is there, but for the last N groups. */
template <int N>
TL_DEVICE void wait_warp() {
  wait_async<N>();
  sync_warp();
}

#endif
