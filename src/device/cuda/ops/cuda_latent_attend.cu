/* SPDX-License-Identifier: MIT */
/* Paged attention over latents: one row of a token is key and value of all heads. A block has up to 32 queries, heads of one token or of
 * neighbours, and goes through the cache's blocks of 16 tokens: their rows in shared memory serve scores and, read the other way,
 * mixing, while the next block's are on their way. Of the thread block's eight warps four have the upper 16 queries and four the lower; of
 * scores each makes half of the sums of 8 tokens, of the result 128 columns, so that what is summed up stays in registers. Decode and prefill differ in what a block is given: an item's stretch of a context,
 * whose parts the last block to come puts together, or the queries of a tile. */
#include "device/cuda/ops/cuda_attend.cuh"
#include "device/cuda/ops/cuda_latent.h"
#include "device/cuda/ops/cuda_parts.cuh"

#define WARPS 8
#define THREADS (WARPS * 32)
#define ROWS TL_CUDA_LATENT_HEADS
#define TOKENS TL_BLOCK_TOKENS
#define PIECES (TL_CUDA_MAX_LATENT_ROW / 8) /* of 16 bytes, of a row */
#define SPAN 128                            /* columns of the result that a warp has */

struct latent_shared {
  quad queries[ROWS][PIECES], keys[2][TOKENS][PIECES];
  float scores[2][ROWS][TOKENS + 4]; /* of the first half of dims, and of the second */
  uint32_t is_last;
};

/* Pieces change places by the row, so that one column of eight rows lies in different banks. */
TL_DEVICE quad *piece(quad (*rows)[PIECES], uint32_t row, uint32_t index) {
  return &rows[row][index ^ (row & 7)];
}

/* What a block does. */
struct task {
  const uint16_t *q;    /* the first query, the others are one behind the other */
  uint16_t *out;        /* likewise */
  uint32_t n;           /* queries */
  const uint32_t *table;
  uint32_t begin, end;  /* tokens */
  uint32_t seen, first, heads; /* query i sees those below seen + (first + i) / heads */
};

/* What a warp knows of its queries g and g + 8 (g = lane / 4). */
struct running {
  float max[2], sum[2];
  float out[SPAN / 8][4];
};

/* Pieces of a row that are multiplied: whole steps of 32 dims. */
TL_DEVICE uint32_t used_pieces(const tl_cuda_attention &a) {
  return (a.head_dim + 31) / 32 * 4;
}

TL_DEVICE void load_queries(const tl_cuda_attention &a, const task &t, latent_shared *s) {
  uint32_t pieces = used_pieces(a);
  for (uint32_t i = thread_index(); i < ROWS * pieces; i += THREADS) {
    uint32_t row = i / pieces, index = i % pieces;
    bool valid = row < t.n && index * 8 < a.head_dim;
    copy_async16(piece(s->queries, row, index), t.q + (valid ? (uint64_t)row * a.head_dim + index * 8 : 0), valid);
  }
}

/* The block of the cache whose tokens are from `first` on, zeros from t.end on: what is there may be anything. */
TL_DEVICE void load_tokens(const tl_cuda_attention &a, const task &t, uint32_t first, quad (*keys)[PIECES]) {
  uint32_t pieces = used_pieces(a);
  if (first < t.end) {
    const uint16_t *from = (const uint16_t *)a.k_cache + (uint64_t)t.table[first / TOKENS] * TOKENS * a.head_dim;
    for (uint32_t i = thread_index(); i < TOKENS * pieces; i += THREADS) {
      uint32_t row = i / pieces, index = i % pieces;
      bool valid = first + row < t.end && index * 8 < a.head_dim;
      copy_async16(piece(keys, row, index), from + (valid ? row * a.head_dim + index * 8 : 0), valid);
    }
  }
  commit_async(); /* also of nothing, so that groups can be counted */
}

/* 16 queries and 8 tokens by half of their dims, in powers of two. */
template <class T>
TL_DEVICE void score(const tl_cuda_attention &a, quad (*keys)[PIECES], latent_shared *s) {
  uint32_t rows = warp_index() / 4 * 16, tokens = warp_index() % 2 * 8, part = warp_index() / 2 % 2, matrix = lane_index() / 8,
           in = lane_index() % 8, steps = used_pieces(a) / 4;
  float sum[2][4] = {};
  for (uint32_t k = steps * part / 2 * 4; k < steps * (part + 1) / 2 * 4; k += 4) { /* the two sums in turn: they do not wait for each other */
    uint32_t key[4], query[4];
    load_matrices(key, piece(keys, tokens + in, k + matrix));
    TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
      load_matrices(query, piece(s->queries, rows + matrix % 2 * 8 + in, k + half * 2 + matrix / 2));
      T::mma(sum[half], query, {key[2 * half], key[2 * half + 1]});
    }
  }
  float scale = a.scale * LOG2_E;
  TL_UNROLL for (uint32_t i = 0; i < 4; i++)
    s->scores[part][rows + i / 2 * 8 + lane_index() / 4][tokens + lane_index() % 4 * 2 + i % 2] = (sum[0][i] + sum[1][i]) * scale;
}

/* The warp's queries' scores of the tile, of what they see: to weights of the new largest score. */
TL_DEVICE void soften(const task &t, uint32_t first, const latent_shared *s, running *r, float (&w)[TOKENS / 8][4]) {
  TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
    uint32_t row = warp_index() / 4 * 16 + half * 8 + lane_index() / 4, seen = t.seen + (t.first + row) / t.heads;
    if (seen > t.end) seen = t.end;
    float max = r->max[half];
    TL_UNROLL for (uint32_t j = 0; j < TOKENS / 8; j++)
      TL_UNROLL for (uint32_t i = 0; i < 2; i++) {
        uint32_t token = j * 8 + lane_index() % 4 * 2 + i;
        float score = first + token < seen ? s->scores[0][row][token] + s->scores[1][row][token] : -INFINITY;
        w[j][2 * half + i] = score;
        max = fmaxf(max, score);
      }
    max = fmaxf(max, shuffle_xor(max, 1u));
    max = fmaxf(max, shuffle_xor(max, 2u));
    float shrink = exp2_fast(r->max[half] - (max == -INFINITY ? 0 : max));
    r->max[half] = max;
    max = max == -INFINITY ? 0 : max;
    r->sum[half] *= shrink;
    TL_UNROLL for (uint32_t j = 0; j < SPAN / 8; j++) {
      r->out[j][2 * half] *= shrink;
      r->out[j][2 * half + 1] *= shrink;
    }
    TL_UNROLL for (uint32_t j = 0; j < TOKENS / 8; j++)
      TL_UNROLL for (uint32_t i = 2 * half; i < 2 * half + 2; i++) {
        w[j][i] = exp2_fast(w[j][i] - max);
        r->sum[half] += w[j][i];
      }
  }
}

/* Weights of 16 tokens are, as they lie, the fragment A of the product with latents. */
template <class T>
TL_DEVICE void mix(uint32_t n_latent, const float (&w)[TOKENS / 8][4], quad (*keys)[PIECES], running *r) {
  uint32_t first = warp_index() % 4 * (SPAN / 8), matrix = lane_index() / 8;
  TL_UNROLL for (uint32_t t = 0; t < TOKENS / 16; t++) {
    const float(&low)[4] = w[2 * t], (&high)[4] = w[2 * t + 1];
    const uint32_t weight[4] = {T::pack(low[0], low[1]), T::pack(low[2], low[3]), T::pack(high[0], high[1]), T::pack(high[2], high[3])};
    TL_UNROLL for (uint32_t d = 0; d < SPAN / 8; d += 2) {
      if ((first + d) * 8 >= n_latent) continue; /* all of the warp */
      uint32_t value[4]; /* two matrices a group of columns: tokens 0 to 7, 8 to 15 */
      load_matrices_transposed(value, piece(keys, t * 16 + matrix % 2 * 8 + lane_index() % 8, first + d + matrix / 2));
      T::mma(r->out[d], weight, {value[0], value[1]});
      T::mma(r->out[d + 1], weight, {value[2], value[3]});
    }
  }
}

template <class T>
TL_DEVICE void attend(const tl_cuda_attention &a, uint32_t n_latent, const task &t, latent_shared *s, running *r) {
  load_queries(a, t, s);
  load_tokens(a, t, t.begin, s->keys[0]); /* begins a block of the cache, as all tasks do */
  for (uint32_t first = t.begin, turn = 0; first < t.end; first += TOKENS, turn ^= 1) {
    float w[TOKENS / 8][4];
    load_tokens(a, t, first + TOKENS, s->keys[turn ^ 1]);
    wait_async<1>();
    sync_block();
    score<T>(a, s->keys[turn], s);
    sync_block();
    soften(t, first, s, r, w);
    mix<T>(n_latent, w, s->keys[turn], r);
    sync_block(); /* before other tokens, or the next task's queries, take the places */
  }
  TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
    r->sum[half] += shuffle_xor(r->sum[half], 1u);
    r->sum[half] += shuffle_xor(r->sum[half], 2u);
  }
}

/* Calls put(query, column, first, second) for all that the warp has. */
template <class Put>
TL_DEVICE void for_results(const task &t, uint32_t n_latent, const running &r, const Put &put) {
  TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
    uint32_t row = warp_index() / 4 * 16 + half * 8 + lane_index() / 4;
    TL_UNROLL for (uint32_t j = 0; j < SPAN / 8; j++) {
      uint32_t column = warp_index() % 4 * SPAN + j * 8 + lane_index() % 4 * 2;
      if (row < t.n && column < n_latent) put(row, half, column, r.out[j][2 * half], r.out[j][2 * half + 1]);
    }
  }
}

template <class T>
TL_DEVICE void write_rows(const tl_cuda_attention &a, uint32_t n_latent, const task &t, const running &r) {
  float factor[2] = {1 / r.sum[0], 1 / r.sum[1]};
  for_results(t, n_latent, r, [&](uint32_t row, uint32_t half, uint32_t column, float first, float second) {
    *(uint32_t *)(t.out + (uint64_t)row * a.head_dim + column) = T::pack(first * factor[half], second * factor[half]);
  });
}

/* --- prefill ------------------------------------------------------------------------------------ */

template <class T>
TL_KERNEL(THREADS, 2) latent_prefill(tl_cuda_latent_prefill_args args) {
  const tl_cuda_attention &a = args.a;
  latent_shared *s = (latent_shared *)shared_memory();
  tl_cuda_tile tile = args.tiles[block_x()];
  uint32_t first = block_y() * ROWS, n = tile.n_rows * a.n_heads;
  if (first >= n) return;
  n = n - first < ROWS ? n - first : ROWS;
  uint64_t at = ((uint64_t)tile.row * a.n_heads + first) * a.head_dim;
  task t = {(const uint16_t *)a.q + at, (uint16_t *)a.out + at, n, a.block_tables + (uint64_t)tile.seq * a.table_stride,
            0, tile.position + (first + n - 1) / a.n_heads + 1, tile.position + 1, first, a.n_heads};
  running r = {};
  r.max[0] = r.max[1] = -INFINITY;
  attend<T>(a, args.n_latent, t, s, &r);
  write_rows<T>(a, args.n_latent, t, r);
}

/* --- decode -------------------------------------------------------------------------------------- */

/* An item's part, from row `index` of heads on: results, and beside them the largest score and the sum. */
TL_DEVICE void write_part(const tl_cuda_latent_decode_args &a, const task &t, uint64_t index, const running &r) {
  for_results(t, a.n_latent, r, [&](uint32_t row, uint32_t half, uint32_t column, float first, float second) {
    uint64_t at = index + row;
    float *to = a.partial + at * a.a.head_dim + column;
    to[0] = first;
    to[1] = second;
    if (column == 0) a.partial_scale[at] = as_bits(r.max[half]) | (uint64_t)as_bits(r.sum[half]) << 32;
  });
}

/* The parts of a token's heads, in their order, whoever does it: two columns a thread. */
template <class T>
TL_DEVICE void merge_parts(const tl_cuda_latent_decode_args &a, const task &t, uint32_t first_lane, uint32_t n_parts, uint32_t first_head) {
  uint32_t width = a.n_latent / 2;
  for (uint32_t i = thread_index(); i < t.n * width; i += THREADS) {
    uint32_t row = i / width, column = i % width * 2;
    float max = -INFINITY, sum = 0, out[2] = {};
    for (uint32_t part = 0; part < n_parts; part++) {
      uint64_t at = (uint64_t)part_place(first_lane, part) * a.a.n_heads + first_head + row, scale = a.partial_scale[at];
      float its_max = as_float((uint32_t)scale), most = fmaxf(max, its_max);
      float keep = exp2_fast(max - most), add = exp2_fast(its_max - most);
      const float *from = a.partial + at * a.a.head_dim + column;
      sum = sum * keep + as_float((uint32_t)(scale >> 32)) * add;
      TL_UNROLL for (int k = 0; k < 2; k++) out[k] = out[k] * keep + from[k] * add;
      max = most;
    }
    *(uint32_t *)(t.out + (uint64_t)row * a.a.head_dim + column) = T::pack(out[0] / sum, out[1] / sum);
  }
}

template <class T>
TL_KERNEL(THREADS, 2) latent_decode(tl_cuda_latent_decode_args args) {
  const tl_cuda_attention &a = args.a;
  latent_shared *s = (latent_shared *)shared_memory();
  uint32_t first_head = block_x() * ROWS, n = a.n_heads - first_head < ROWS ? a.n_heads - first_head : ROWS;
  const tl_cuda_lane &lane = args.lanes[block_y()];
  for (uint32_t index = lane.begin; index < lane.end; index++) {
    tl_cuda_item item = args.items[index];
    uint64_t at = ((uint64_t)item.row * a.n_heads + first_head) * a.head_dim;
    task t = {(const uint16_t *)a.q + at, (uint16_t *)a.out + at, n, a.block_tables + (uint64_t)item.seq * a.table_stride,
              item.first, item.first + item.count, item.position + 1, 0, ROWS};
    running r = {};
    r.max[0] = r.max[1] = -INFINITY;
    attend<T>(a, args.n_latent, t, s, &r);
    if (item.n_parts == 1) {
      write_rows<T>(a, args.n_latent, t, r);
      continue;
    }
    uint32_t part = index - item.first_part, first_lane = block_y() - part;
    write_part(args, t, (uint64_t)part_place(first_lane, part) * a.n_heads + first_head, r);
    if (comes_last(&args.arrived[(uint64_t)first_lane * a.n_heads + first_head], item.n_parts, &s->is_last))
      merge_parts<T>(args, t, first_lane, item.n_parts, first_head);
  }
}

/* --- launches --------------------------------------------------------------------------------------- */

static_assert(sizeof(latent_shared) <= CUDA_MOST_SHARED, "on every device");

static int valid(const struct tl_cuda_attention *a, uint32_t n_latent) {
  return a->n_heads > 0 && a->n_kv_heads == 1 && a->head_dim <= TL_CUDA_MAX_LATENT_ROW && n_latent <= TL_CUDA_MAX_LATENT && n_latent > 0 &&
         n_latent < a->head_dim && a->head_dim % 8 == 0 && n_latent % 8 == 0 && a->softcap == 0 && a->window == 0 && !a->both_sides &&
         !a->sinks;
}

extern "C" int tl_cuda_latent_prefill(const struct tl_cuda_latent_prefill_args *args, void *stream) {
  if (!valid(&args->a, args->n_latent)) return CUDA_INVALID;
  if (args->n_tiles == 0) return 0;
  uint32_t sides = (TL_CUDA_TILE_ROWS * args->a.n_heads + ROWS - 1) / ROWS;
  return launch(args->a.dtype == TL_CUDA_BF16 ? latent_prefill<bf16> : latent_prefill<f16>, args->n_tiles, sides, THREADS,
                sizeof(latent_shared), stream, *args);
}

extern "C" int tl_cuda_latent_decode(const struct tl_cuda_latent_decode_args *args, void *stream) {
  uint32_t tiles = (args->a.n_heads + ROWS - 1) / ROWS;
  if (!valid(&args->a, args->n_latent) || args->n_lanes == 0) return CUDA_INVALID;
  if (args->max_rows == 0) return 0;
  return launch(args->a.dtype == TL_CUDA_BF16 ? latent_decode<bf16> : latent_decode<f16>, tiles, args->n_lanes, THREADS,
                sizeof(latent_shared), stream, *args);
}

template <class T>
static int prepare() {
  int e = allow_shared(latent_prefill<T>, sizeof(latent_shared));
  return e ? e : allow_shared(latent_decode<T>, sizeof(latent_shared));
}

int cuda_prepare_latent() {
  int e = prepare<bf16>();
  return e ? e : prepare<f16>();
}
