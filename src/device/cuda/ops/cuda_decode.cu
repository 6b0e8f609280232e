/* SPDX-License-Identifier: MIT */
/* Paged attention for rows with one query. All query heads of a KV head are the rows
 * of one tensor-core tile, so that the cache is read once. A warp takes every fourth
 * block of 16 tokens of its item and reads keys and values straight into fragments, the next
 * block's keys while it mixes values:
 * within a product the order of what is summed is free, so a lane's 16 bytes in a row
 * can stand for the places that the fragment's layout gives it.
 *
 *   scores: S (heads, tokens) = Q (heads, dims) K^T. Of each 32 dims, lane % 4 = c
 *     has the 8 from 8c on: pairs 0, 1 go into one mma, pairs 2, 3 into the next.
 *   values: O (heads, dims) += P (heads, tokens) V. Lane / 4 = g has of each 64 dims
 *     the 8 from 8g on, of tokens 2c, 2c+1, 2c+8, 2c+9; column g of the eight mmas
 *     is dim 8g + j for the j-th.
 *
 * The warps' sums are merged in shared memory, the items' of a sequence by `merge`. */
#include "device/cuda/ops/cuda_attend.cuh"

#define WARPS 4
#define THREADS (WARPS * 32)
#define HEADS 16 /* rows of the tile */
#define STRIDE (WARPS * TL_BLOCK_TOKENS) /* from one block of a warp to its next */

/* Fragments of Q for all dims. Rows 8 to 15 are not there when a group has at most 8 heads. */
template <class T, int DIM, bool WIDE>
struct queries {
  uint32_t pair[DIM / 32][WIDE ? 2 : 1][4];

  TL_METHOD void load(queries *q, const uint16_t *rows, uint32_t group) {
    TL_UNROLL for (int k = 0; k < DIM / 32; k++)
      TL_UNROLL for (int half = 0; half < (WIDE ? 2 : 1); half++) {
        uint32_t head = lane_index() / 4 + half * 8;
        quad v = {};
        if (head < group) v = load16(rows + (uint64_t)head * DIM + k * 32 + lane_index() % 4 * 8);
        TL_UNROLL for (int i = 0; i < 4; i++) q->pair[k][half][i] = v.w[i];
      }
  }
};

/* What one warp knows of its tokens: for rows g and g + 8. */
template <int DIM, bool WIDE>
struct running {
  float max[WIDE ? 2 : 1], sum[WIDE ? 2 : 1];
  float out[DIM / 8][WIDE ? 4 : 2];
};

/* c += a b for the rows that are there. */
template <class T, bool WIDE>
TL_DEVICE void multiply(float *c, uint32_t low0, uint32_t high0, uint32_t low1, uint32_t high1, uint32_t b0, uint32_t b1) {
  const uint32_t a[4] = {low0, high0, low1, high1}, b[2] = {b0, b1};
  float tile[4] = {c[0], c[1], WIDE ? c[2] : 0, WIDE ? c[3] : 0};
  T::mma(tile, a, b);
  TL_UNROLL for (int i = 0; i < (WIDE ? 4 : 2); i++) c[i] = tile[i];
}

/* Where a KV head's block begins in the cache of keys, and in that of values. */
template <int DIM>
TL_DEVICE uint64_t place_of(const tl_cuda_attention &a, uint32_t block, uint32_t kv_head) {
  return ((uint64_t)block * a.n_kv_heads + kv_head) * TL_BLOCK_TOKENS * DIM;
}

template <int DIM>
TL_DEVICE void load_keys(quad (&key)[2][DIM / 32], const uint16_t *keys) {
  TL_UNROLL for (int t = 0; t < 2; t++)
    TL_UNROLL for (int k = 0; k < DIM / 32; k++)
      key[t][k] = load16_once(keys + (t * 8 + lane_index() / 4) * DIM + k * 32 + lane_index() % 4 * 8);
}

template <int DIM>
TL_DEVICE void load_values(quad (&value)[4][DIM / 64], const uint16_t *values) {
  TL_UNROLL for (int t = 0; t < 4; t++)
    TL_UNROLL for (int d = 0; d < DIM / 64; d++)
      value[t][d] = load16_once(values + (lane_index() % 4 * 2 + t % 2 + t / 2 * 8) * DIM + d * 64 + lane_index() / 4 * 8);
}

/* Scores of 16 tokens in powers of two; those before `skip` and from n on are -INFINITY. */
template <class T, int DIM, bool WIDE>
TL_DEVICE void score(const queries<T, DIM, WIDE> &q, const quad (&key)[2][DIM / 32], uint32_t skip, uint32_t n, float scale,
                     float softcap, float (&s)[2][WIDE ? 4 : 2]) {
  TL_UNROLL for (int t = 0; t < 2; t++) {
    TL_UNROLL for (int i = 0; i < (WIDE ? 4 : 2); i++) s[t][i] = 0;
    TL_UNROLL for (int k = 0; k < DIM / 32; k++)
      TL_UNROLL for (int i = 0; i < 4; i += 2)
        multiply<T, WIDE>(s[t], q.pair[k][0][i], WIDE ? q.pair[k][WIDE][i] : 0, q.pair[k][0][i + 1],
                          WIDE ? q.pair[k][WIDE][i + 1] : 0, key[t][k].w[i], key[t][k].w[i + 1]);
    TL_UNROLL for (int i = 0; i < (WIDE ? 4 : 2); i++) {
      uint32_t token = t * 8 + lane_index() % 4 * 2 + i % 2;
      float capped = softcap != 0 ? cap_score(s[t][i] * scale, softcap) : s[t][i] * scale;
      s[t][i] = token >= skip && token < n ? capped : -INFINITY;
    }
  }
}

/* Scores to weights of the new largest score; what was summed before is scaled to it. */
template <int DIM, bool WIDE>
TL_DEVICE void soften(running<DIM, WIDE> *r, float (&s)[2][WIDE ? 4 : 2]) {
  TL_UNROLL for (int half = 0; half < (WIDE ? 2 : 1); half++) {
    float max = r->max[half];
    TL_UNROLL for (int t = 0; t < 2; t++) max = fmaxf(max, fmaxf(s[t][2 * half], s[t][2 * half + 1]));
    max = fmaxf(max, shuffle_xor(max, 1u));
    max = fmaxf(max, shuffle_xor(max, 2u));
    float shrink = exp2_fast(r->max[half] - max); /* 0 at first; a block has one token at least */
    r->max[half] = max;
    r->sum[half] *= shrink;
    TL_UNROLL for (int j = 0; j < DIM / 8; j++) {
      r->out[j][2 * half] *= shrink;
      r->out[j][2 * half + 1] *= shrink;
    }
    TL_UNROLL for (int t = 0; t < 2; t++)
      TL_UNROLL for (int i = 2 * half; i < 2 * half + 2; i++) {
        s[t][i] = exp2_fast(s[t][i] - max);
        r->sum[half] += s[t][i];
      }
  }
}

/* Values of tokens from n on may be anything: never written, or another sequence's of old. */
template <class T, int DIM, bool WIDE>
TL_DEVICE void mix(running<DIM, WIDE> *r, const float (&s)[2][WIDE ? 4 : 2], const quad (&value)[4][DIM / 64],
                   uint32_t n) {
  uint32_t weight[2][WIDE ? 2 : 1];
  TL_UNROLL for (int t = 0; t < 2; t++)
    TL_UNROLL for (int half = 0; half < (WIDE ? 2 : 1); half++)
      weight[t][half] = T::pack(s[t][2 * half], s[t][2 * half + 1]);
  uint32_t c = lane_index() % 4, mask[2];
  TL_UNROLL for (uint32_t t = 0; t < 2; t++) {
    uint32_t first = t * 8 + c * 2;
    mask[t] = first + 1 < n ? 0xffffffffu : first < n ? 0xffffu : 0;
  }
  TL_UNROLL for (int d = 0; d < DIM / 64; d++)
    TL_UNROLL for (int i = 0; i < 4; i++) {
      TL_UNROLL for (int odd = 0; odd < 2; odd++) {
        uint32_t selector = odd ? 0x7632 : 0x5410;
        uint32_t b0 = pick_bytes(value[0][d].w[i], value[1][d].w[i], selector) & mask[0];
        uint32_t b1 = pick_bytes(value[2][d].w[i], value[3][d].w[i], selector) & mask[1];
        multiply<T, WIDE>(r->out[d * 8 + i * 2 + odd], weight[0][0], WIDE ? weight[0][WIDE] : 0, weight[1][0],
                          WIDE ? weight[1][WIDE] : 0, b0, b1);
      }
    }
}

/* --- what the warps found --------------------------------------------------------------------- */

template <int DIM>
struct decode_shared {
  float max[WARPS][HEADS], sum[WARPS][HEADS];
  float out[WARPS][HEADS][DIM];
};

template <int DIM, bool WIDE>
TL_DEVICE void publish(running<DIM, WIDE> *r, decode_shared<DIM> *s) {
  uint32_t c = lane_index() % 4, g = lane_index() / 4;
  TL_UNROLL for (int half = 0; half < (WIDE ? 2 : 1); half++) {
    float sum = r->sum[half] + shuffle_xor(r->sum[half], 1u);
    sum += shuffle_xor(sum, 2u);
    if (c == 0) {
      s->max[warp_index()][g + half * 8] = r->max[half];
      s->sum[warp_index()][g + half * 8] = sum;
    }
    /* columns 2c and 2c + 1 of mma j are dims 8 (2c) + j and 8 (2c + 1) + j of 64 */
    TL_UNROLL for (int j = 0; j < DIM / 8; j++)
      TL_UNROLL for (uint32_t i = 0; i < 2; i++)
        s->out[warp_index()][g + half * 8][j / 8 * 64 + (c * 2 + i) * 8 + j % 8] = r->out[j][2 * half + i];
  }
}

/* The item's result: into the row, or, of a split one, beside its largest score and sum. */
template <class T, int DIM>
TL_DEVICE void finish(const tl_cuda_decode_args &a, const tl_cuda_item &item, uint32_t index, uint32_t first_head,
                      uint32_t n_heads, const decode_shared<DIM> *s) {
  for (uint32_t i = thread_index(); i < n_heads * DIM; i += THREADS) {
    uint32_t head = i / DIM, d = i % DIM;
    float max = s->max[0][head], sum = 0, out = 0;
    TL_UNROLL for (int w = 1; w < WARPS; w++) max = fmaxf(max, s->max[w][head]);
    TL_UNROLL for (int w = 0; w < WARPS; w++) {
      float factor = exp2_fast(s->max[w][head] - max); /* 0 for a warp that had no token */
      sum += s->sum[w][head] * factor;
      out += s->out[w][head][d] * factor;
    }
    if (!item.split) {
      sum += sink_weight(a.a, first_head + head, max);
      ((uint16_t *)a.a.out)[((uint64_t)item.row * a.a.n_heads + first_head + head) * DIM + d] = (uint16_t)T::pack(out / sum, 0);
      continue;
    }
    uint64_t at = (uint64_t)index * a.a.n_heads + first_head + head;
    a.partial[at * DIM + d] = out;
    if (d == 0) {
      a.partial_scale[at * 2] = max;
      a.partial_scale[at * 2 + 1] = sum;
    }
  }
}

/* --- kernels -------------------------------------------------------------------------------------- */

/* Up to HEADS query heads of one KV head over one item. */
template <class T, int DIM, bool WIDE>
TL_DEVICE void attend_item(const tl_cuda_decode_args &a, uint32_t index, uint32_t kv_head, uint32_t first_head,
                           uint32_t n_heads, decode_shared<DIM> *s) {
  tl_cuda_item item = a.items[index];
  const uint32_t *table = a.a.block_tables + (uint64_t)item.seq * a.a.table_stride + item.first / TL_BLOCK_TOKENS;
  queries<T, DIM, WIDE> q;
  queries<T, DIM, WIDE>::load(&q, (const uint16_t *)a.a.q + ((uint64_t)item.row * a.a.n_heads + first_head) * DIM, n_heads);
  running<DIM, WIDE> r = {};
  TL_UNROLL for (int half = 0; half < (WIDE ? 2 : 1); half++) r.max[half] = -INFINITY;
  const uint16_t *keys = (const uint16_t *)a.a.k_cache, *values = (const uint16_t *)a.a.v_cache;
  uint32_t at = warp_index() * TL_BLOCK_TOKENS;
  uint64_t place = at < item.count ? place_of<DIM>(a.a, table[at / TL_BLOCK_TOKENS], kv_head) : 0, next = 0;
  quad key[2][DIM / 32];
  if (at < item.count) load_keys<DIM>(key, keys + place);
  for (; at < item.count; at += STRIDE, place = next) {
    bool more = at + STRIDE < item.count;
    quad value[4][DIM / 64];
    load_values<DIM>(value, values + place);
    if (more) next = place_of<DIM>(a.a, table[(at + STRIDE) / TL_BLOCK_TOKENS], kv_head);
    float scores[2][WIDE ? 4 : 2];
    score<T, DIM, WIDE>(q, key, at ? 0 : item.skip, item.count - at, a.a.scale * LOG2_E, a.a.softcap, scores);
    if (more) load_keys<DIM>(key, keys + next);
    soften<DIM, WIDE>(&r, scores);
    mix<T, DIM, WIDE>(&r, scores, value, item.count - at);
  }
  publish<DIM, WIDE>(&r, s);
  sync_block();
  finish<T, DIM>(a, item, index, first_head, n_heads, s);
  sync_block();
}

template <class T, int DIM, bool WIDE>
TL_KERNEL(THREADS, 2) decode(tl_cuda_decode_args a) {
  decode_shared<DIM> *s = (decode_shared<DIM> *)shared_memory();
  let_next_start();
  wait_for_before();
  uint32_t group = a.a.n_heads / a.a.n_kv_heads, limit = WIDE ? HEADS : HEADS / 2;
  uint32_t parts = (group + limit - 1) / limit; /* of a group that is larger than the tile */
  for (uint64_t work = block_x(); work < (uint64_t)a.counts->n_items * a.a.n_kv_heads * parts; work += grid_x()) {
    uint32_t part = (uint32_t)(work % parts), kv_head = (uint32_t)(work / parts % a.a.n_kv_heads);
    uint32_t left = group - part * limit;
    attend_item<T, DIM, WIDE>(a, (uint32_t)(work / parts / a.a.n_kv_heads), kv_head, kv_head * group + part * limit,
                              left < limit ? left : limit, s);
  }
}

/* One head of one split sequence: a thread a dim. The items' scales are read by 32 lanes at once. */
template <class T>
TL_KERNEL(TL_CUDA_MAX_HEAD_DIM, 1) merge_items(tl_cuda_decode_args a) {
  uint32_t head = block_y(), dim = a.a.head_dim, d = thread_index();
  let_next_start();
  wait_for_before();
  if (block_x() >= a.counts->n_merges) return;
  tl_cuda_merge m = a.merges[block_x()];
  const float *scale = a.partial_scale + ((uint64_t)m.first_item * a.a.n_heads + head) * 2;
  const float *partial = a.partial + ((uint64_t)m.first_item * a.a.n_heads + head) * dim + (d < dim ? d : 0);
  float max = -INFINITY, sum = 0, out = 0;
  for (uint32_t i = lane_index(); i < m.n_items; i += 32) max = fmaxf(max, scale[(uint64_t)i * a.a.n_heads * 2]);
  for (unsigned mask = 16; mask; mask /= 2) max = fmaxf(max, shuffle_xor(max, mask));
  for (uint32_t first = 0; first < m.n_items; first += 32) {
    uint32_t mine = first + lane_index(), n = m.n_items - first < 32 ? m.n_items - first : 32;
    float factor = mine < m.n_items ? exp2_fast(scale[(uint64_t)mine * a.a.n_heads * 2] - max) : 0;
    sum += mine < m.n_items ? scale[(uint64_t)mine * a.a.n_heads * 2 + 1] * factor : 0;
    for (uint32_t i = 0; i < n; i++) out += partial[(uint64_t)(first + i) * a.a.n_heads * dim] * shuffle(factor, i);
  }
  sum = warp_sum(sum) + sink_weight(a.a, head, max);
  if (d < dim) ((uint16_t *)a.a.out)[((uint64_t)m.row * a.a.n_heads + head) * dim + d] = (uint16_t)T::pack(out / sum, 0);
}

template <class T, int DIM>
static int launch_decode(const tl_cuda_decode_args *args, void *stream) {
  bool wide = args->a.n_heads / args->a.n_kv_heads > HEADS / 2;
  return launch_rows(args->max_merges, wide ? decode<T, DIM, true> : decode<T, DIM, false>, args->n_blocks, 1, THREADS,
                sizeof(decode_shared<DIM>), stream, *args);
}

template <class T>
static int decode_and_merge(const tl_cuda_decode_args *args, void *stream) {
  int e = args->a.head_dim == 64    ? launch_decode<T, 64>(args, stream)
          : args->a.head_dim == 128 ? launch_decode<T, 128>(args, stream)
                                    : cuda_decode_any(args, stream);
  uint32_t threads = (args->a.head_dim + 31) / 32 * 32;
  return e ? e : launch_rows(args->max_merges, merge_items<T>, args->max_merges, args->a.n_heads, threads, 0, stream, *args);
}

extern "C" int tl_cuda_decode(const struct tl_cuda_decode_args *args, void *stream) {
  if (!cuda_attention_valid(&args->a) || args->n_blocks == 0) return CUDA_INVALID;
  if (args->max_merges == 0) return 0;
  return args->a.dtype == TL_CUDA_BF16 ? decode_and_merge<bf16>(args, stream) : decode_and_merge<f16>(args, stream);
}
