/* SPDX-License-Identifier: MIT */
/* Paged attention for rows that decode. All query heads of a KV head are the rows
 * of one tensor-core tile, so that the cache is read once. A warp takes every fourth
 * block of 16 tokens of an item and copies it to shared memory, RING_BYTES ahead, in whole rows: had each lane copied just what
 * it will read, an H200 would read at 2.2 TB/s. What a warp copies only that warp reads, so no block's barrier is in the way, and what
 * is on its way takes no registers. Within a product the order of what is summed is free, so a lane's 16 bytes in a row
 * can stand for the places that the fragment's layout gives it.
 *
 *   scores: S (heads, tokens) = Q (heads, dims) K^T. Of each 32 dims, lane % 4 = c
 *     has the 8 from 8c on: pairs 0, 1 go into one mma, pairs 2, 3 into the next.
 *   values: of up to 8 heads O^T (dims, heads) += V^T (dims, tokens) P^T, for which S is as it must be, and no row of
 *     the tile is empty. Lane / 4 = g has of each 64 dims the 8 from 8g on, of tokens 2c, 2c+1, 2c+8, 2c+9; row g of the four
 *     mmas is dim 8g + 2i for the i-th, row g + 8 the one behind it. Of up to 16 heads O (heads, dims) += P V; column g of the
 *     eight mmas is dim 8g + j for the j-th.
 *
 * There is a kernel for DIM = 64, 128 and 256; a head in between takes the next larger one, where what it lacks is
 * zeros in shared memory. The warps' sums are merged there too. Of a sequence that was split the last thread
 * block to come merges what all wrote (`arrived`).
 *
 * PACKED: a sequence has several rows, guesses behind its last token. As many as there is room for in the tile are in it with all
 * their query heads, row after row, so that the cache is read once for them; each sees up to its own token. So "heads" of a tile are then
 * heads of rows, and of some of them a warp, or an item, may have no token at all.
 *
 * Where all rows of a pass are decode rows, one a sequence, what lies between the QKV product and attention is done here, too (`heads`): a block's warps
 * share out the heads of Q that it needs, and, where an item ends with the row's own token, that token's key and value. They go through
 * shared memory, the two into the cache as well; the warp that comes to the token puts them into its ring in place of what the
 * cache had there. So all that is copied is what steps before wrote, and no copy waits for the kernel before. */
#ifndef CUDA_DECODE_KERNEL_CUH
#define CUDA_DECODE_KERNEL_CUH

#include "device/cuda/ops/cuda_decode.cuh"
#include "device/cuda/ops/cuda_parts.cuh"

#define MERGED 16 /* parts that are read at a time */
#define HEADS_AHEAD 3 /* of the row, of a warp */

/* Fragments of Q for all dims. */
template <int DIM, bool WIDE>
struct queries {
  uint32_t pair[DIM / 32][WIDE ? 2 : 1][4];

  /* rows (any, n_heads, dim): the heads of all rows from first_head on, so many of each; with one row at from + that. */
  template <bool PACKED>
  TL_METHOD void load(queries *q, const uint16_t *rows, uint32_t n_all_heads, uint32_t n_rows, uint32_t n_heads, uint32_t dim) {
    TL_UNROLL for (uint32_t half = 0; half < (WIDE ? 2 : 1); half++) {
      uint32_t head = lane_index() / 4 + half * 8, row = PACKED ? head / n_heads : 0;
      const uint16_t *from = rows + ((uint64_t)row * n_all_heads + head - row * n_heads) * dim;
      bool is_there = PACKED ? row < n_rows : head < n_heads;
      TL_UNROLL for (uint32_t k = 0; k < DIM / 32; k++) {
        uint32_t first = k * 32 + lane_index() % 4 * 8;
        quad v = {};
        if (is_there && first < dim) v = load16(from + first);
        TL_UNROLL for (int i = 0; i < 4; i++) q->pair[k][half][i] = v.w[i];
      }
    }
  }
};

/* A stretch of an item's tokens, [begin, end). */
struct stretch {
  uint32_t begin, end;
};

/* What one warp knows of its tokens: for rows g and g + 8. */
template <int DIM, bool WIDE>
struct running {
  float max[WIDE ? 2 : 1], sum[WIDE ? 2 : 1];
  float out[WIDE ? DIM / 8 : DIM / 16][4]; /* of an mma */
};

/* c += a b for the rows that are there. */
template <class T, bool WIDE>
TL_DEVICE void multiply(float *c, uint32_t low0, uint32_t high0, uint32_t low1, uint32_t high1, uint32_t b0, uint32_t b1) {
  const uint32_t a[4] = {low0, high0, low1, high1}, b[2] = {b0, b1};
  float sum[4] = {c[0], c[1], WIDE ? c[2] : 0, WIDE ? c[3] : 0};
  T::mma(sum, a, b);
  TL_UNROLL for (int i = 0; i < (WIDE ? 4 : 2); i++) c[i] = sum[i];
}

/* --- what rows see -------------------------------------------------------------------------------- */

/* A position as a place in an item. */
TL_DEVICE uint32_t place_in(uint32_t position, uint32_t first, uint32_t count) {
  return position <= first ? 0 : position - first < count ? position - first : count;
}

/* What rows see of an item that see up to before `end`, and of which with a window the last one begins last. */
TL_DEVICE stretch see(const tl_cuda_decode_args &a, uint32_t words, uint32_t end, uint32_t last_end) {
  const uint32_t first = ITEM_FIELD(words, first), count = ITEM_FIELD(words, count);
  return {place_in(tl_cuda_first_seen(last_end, a.a.window), first, count), place_in(end, first, count)};
}

/* What all rows of an item see of it. */
template <bool PACKED>
TL_DEVICE stretch see_all(const tl_cuda_decode_args &a, uint32_t words) {
  if (!PACKED) return {ITEM_FIELD(words, skip), ITEM_FIELD(words, count)};
  const uint32_t end = ITEM_FIELD(words, position) + 1;
  return see(a, words, end, end + ITEM_FIELD(words, n_rows) - 1);
}

/* Scores of tokens, from the item's token `at` on, that a row does not see, to -INFINITY; all: what all rows see. What one row of several sees
 * is found here, at the ends of what they see, not kept in registers that the loop has not. */
template <bool WIDE, bool PACKED>
TL_DEVICE void hide(const tl_cuda_decode_args &a, uint32_t n_heads, uint32_t words, const stretch &all, uint32_t at, float (&s)[2][WIDE ? 4 : 2]) {
  if (at >= all.begin && at + TL_BLOCK_TOKENS <= all.end) return;
  TL_UNROLL for (uint32_t half = 0; half < (WIDE ? 2 : 1); half++) {
    stretch seen = all;
    if (PACKED) {
      uint32_t row = (lane_index() / 4 + half * 8) / n_heads, end = ITEM_FIELD(words, position) + 1 + row;
      seen = see(a, words, end, end);
    }
    TL_UNROLL for (uint32_t k = 0; k < 4; k++) {
      uint32_t token = at + k / 2 * 8 + lane_index() % 4 * 2 + k % 2;
      float &score = s[k / 2][half * 2 + k % 2];
      score = token >= seen.begin && token < seen.end ? score : -INFINITY;
    }
  }
}

/* --- from there to sums ------------------------------------------------------------------------------ */

/* Eight dims of a block's row, the `eighth` of them. */
template <class T, int DIM>
TL_DEVICE quad load_cached(const quad *block, bool keys, uint32_t row, uint32_t eighth) {
  if constexpr (cache_of<T>::BYTES)
    return expand8_e4m3<T>((const uint64_t *)(block + (find_row<DIM, true>(row, keys) ^ eighth / 2)) + eighth % 2);
  else
    return load16(block + (find_row<DIM, false>(row, keys) ^ eighth));
}

/* Scores of 16 tokens in powers of two. */
template <class T, int DIM, bool WIDE, bool PACKED>
TL_DEVICE void score(const tl_cuda_decode_args &a, uint32_t n_heads, uint32_t words, const queries<DIM, WIDE> &q, const quad *keys,
                     const stretch &all, uint32_t at, float (&s)[2][WIDE ? 4 : 2]) {
  const float scale = a.a.scale * LOG2_E, softcap = a.a.softcap;
  TL_UNROLL for (int t = 0; t < 2; t++)
    TL_UNROLL for (int i = 0; i < (WIDE ? 4 : 2); i++) s[t][i] = 0;
  TL_UNROLL for (int k = 0; k < DIM / 32; k++) { /* the two sums in turn: they do not wait for each other */
    quad key[2];
    TL_UNROLL for (int t = 0; t < 2; t++)
      key[t] = load_cached<T, DIM>(keys, true, t * 8 + lane_index() / 4, k * 4 + lane_index() % 4);
    TL_UNROLL for (int i = 0; i < 4; i += 2)
      TL_UNROLL for (int t = 0; t < 2; t++)
        multiply<T, WIDE>(s[t], q.pair[k][0][i], WIDE ? q.pair[k][WIDE][i] : 0, q.pair[k][0][i + 1],
                          WIDE ? q.pair[k][WIDE][i + 1] : 0, key[t].w[i], key[t].w[i + 1]);
  }
  TL_UNROLL for (int t = 0; t < 2; t++)
    TL_UNROLL for (int i = 0; i < (WIDE ? 4 : 2); i++) s[t][i] *= scale;
  if (softcap != 0) /* one branch, not one a score */
    TL_UNROLL for (int t = 0; t < 2; t++)
      TL_UNROLL for (int i = 0; i < (WIDE ? 4 : 2); i++) s[t][i] = cap_score(s[t][i], softcap);
  hide<WIDE, PACKED>(a, n_heads, words, all, at, s);
}

/* From what a largest score is taken away: of nothing it is -INFINITY, which would leave no number. */
template <bool PACKED>
TL_DEVICE float base_of(float max) {
  return PACKED && max == -INFINITY ? 0 : max;
}

/* What was summed before is scaled to the new largest scores of heads; shrink: of the lane's rows of S. */
template <int DIM, bool WIDE>
TL_DEVICE void shrink_sums(running<DIM, WIDE> *r, const float (&shrink)[WIDE ? 2 : 1]) {
  float of_column[2]; /* heads 2c and 2c + 1 are rows of other lanes */
  TL_UNROLL for (int i = 0; i < 2 && !WIDE; i++) of_column[i] = shuffle(shrink[0], lane_index() % 4 * 8 + i * 4);
  TL_UNROLL for (int j = 0; j < (WIDE ? DIM / 8 : DIM / 16); j++)
    TL_UNROLL for (int i = 0; i < 4; i++) r->out[j][i] *= WIDE ? shrink[WIDE ? i / 2 : 0] : of_column[i % 2];
}

/* Scores to weights of the new largest score. */
template <int DIM, bool WIDE, bool PACKED>
TL_DEVICE void soften(running<DIM, WIDE> *r, float (&s)[2][WIDE ? 4 : 2]) {
  float shrink[WIDE ? 2 : 1];
  TL_UNROLL for (int half = 0; half < (WIDE ? 2 : 1); half++) {
    float max = r->max[half];
    TL_UNROLL for (int t = 0; t < 2; t++) max = fmaxf(max, fmaxf(s[t][2 * half], s[t][2 * half + 1]));
    max = fmaxf(max, shuffle_xor(max, 1u));
    max = fmaxf(max, shuffle_xor(max, 2u));
    float base = base_of<PACKED>(max);
    shrink[half] = exp2_fast(r->max[half] - base); /* 0 at first; a block has one token at least, of one row */
    r->max[half] = max;
    r->sum[half] *= shrink[half];
    TL_UNROLL for (int t = 0; t < 2; t++)
      TL_UNROLL for (int i = 2 * half; i < 2 * half + 2; i++) {
        s[t][i] = exp2_fast(s[t][i] - base);
        r->sum[half] += s[t][i];
      }
  }
  shrink_sums<DIM, WIDE>(r, shrink);
}

template <class T, int DIM, bool WIDE>
TL_DEVICE void mix(running<DIM, WIDE> *r, const float (&s)[2][WIDE ? 4 : 2], const quad *values) {
  uint32_t weight[2][WIDE ? 2 : 1];
  TL_UNROLL for (int t = 0; t < 2; t++)
    TL_UNROLL for (int half = 0; half < (WIDE ? 2 : 1); half++)
      weight[t][half] = T::pack(s[t][2 * half], s[t][2 * half + 1]);
  TL_UNROLL for (int d = 0; d < DIM / 64; d++) {
    quad value[4];
    TL_UNROLL for (int t = 0; t < 4; t++)
      value[t] = load_cached<T, DIM>(values, false, lane_index() % 4 * 2 + t % 2 + t / 2 * 8, d * 8 + lane_index() / 4);
    TL_UNROLL for (int i = 0; i < 4; i++) {
      uint32_t near[2], far[2]; /* of the tokens 2c and 2c + 1, 2c + 8 and 2c + 9: the even dim, and the odd one */
      TL_UNROLL for (int odd = 0; odd < 2; odd++) {
        near[odd] = pick_bytes(value[0].w[i], value[1].w[i], odd ? 0x7632 : 0x5410);
        far[odd] = pick_bytes(value[2].w[i], value[3].w[i], odd ? 0x7632 : 0x5410);
      }
      if (WIDE)
        TL_UNROLL for (int odd = 0; odd < 2; odd++)
          T::mma(r->out[WIDE ? d * 8 + i * 2 + odd : 0], {weight[0][0], weight[0][WIDE], weight[1][0], weight[1][WIDE]}, {near[odd], far[odd]});
      else
        T::mma(r->out[d * 4 + i], {near[0], near[1], far[0], far[1]}, {weight[0][0], weight[1][0]});
    }
  }
}

/* --- what the warps found --------------------------------------------------------------------- */

template <int DIM, bool WIDE>
TL_DEVICE void publish(const running<DIM, WIDE> &r, decode_shared<DIM, WIDE> *s) {
  uint32_t c = lane_index() % 4, g = lane_index() / 4;
  TL_UNROLL for (int half = 0; half < (WIDE ? 2 : 1); half++) {
    float sum = r.sum[half] + shuffle_xor(r.sum[half], 1u);
    sum += shuffle_xor(sum, 2u);
    if (c == 0) {
      s->max[warp_index()][g + half * 8] = r.max[half];
      s->sum[warp_index()][g + half * 8] = sum;
    }
  }
  TL_UNROLL for (int j = 0; j < (WIDE ? DIM / 8 : DIM / 16); j++)
    TL_UNROLL for (int i = 0; i < 4; i++)
      s->room[warp_index()].out[WIDE ? j : j * 2 + i / 2][WIDE ? i : i % 2][lane_index()] = r.out[j][i];
}

/* 8 elements of a head from `dim` on, which a thread makes: one plane of one lane, behind one another. Of up to 8 heads a lane has
 * them of heads 2c and 2c + 1; of 16, columns 2c and 2c + 1 of mma j are dims 8 (2c) + j and 8 (2c + 1) + j of 64. */
struct share {
  uint32_t lane, plane, mma; /* mma: the first */
  uint32_t head, dim;
};

template <int DIM, bool WIDE>
TL_DEVICE share share_of(uint32_t i) {
  uint32_t lane = i % 32, plane = i / 32 % tile<DIM, WIDE>::PLANES, part = i / 32 / tile<DIM, WIDE>::PLANES;
  if (!WIDE) return {lane, plane, part * 8, lane % 4 * 2 + plane, part * 64 + lane / 4 * 8};
  return {lane, plane, part * 8, lane / 4 + plane / 2 * 8, part * 64 + (lane % 4 * 2 + plane % 2) * 8};
}

/* out / sum into the row, with what the head's sink adds to a sum of weights of the largest score `max`. */
template <class T>
TL_DEVICE void store_share(const tl_cuda_attention &a, uint32_t row, uint32_t head, uint32_t dim, float max, float sum,
                          float (&out)[8]) {
  float factor = 1 / (sum + sink_weight(a, head, max));
  TL_UNROLL for (int i = 0; i < 8; i++) out[i] *= factor;
  store16((uint16_t *)a.out + ((uint64_t)row * a.n_heads + head) * a.head_dim + dim, pack8<T>(out));
}

/* An item's rows, and which part it is of all that they see. */
struct piece {
  uint32_t row, n_rows, n_parts, part;
  uint32_t lane; /* the first part's: the others' are the next ones */
};

TL_DEVICE piece find_piece(const task &t, uint32_t words) {
  uint32_t part = t.index - ITEM_FIELD(words, first_part);
  return {ITEM_FIELD(words, row), ITEM_FIELD(words, n_rows), ITEM_FIELD(words, n_parts), part, block_y() - part};
}

/* Where a part of a row is, among all heads of all. */
template <bool PACKED>
TL_DEVICE uint64_t part_of_row(const tl_cuda_decode_args &a, const piece &p, uint32_t part, uint32_t row, uint32_t head) {
  uint32_t place = part_place(p.lane, part);
  return (uint64_t)(PACKED ? place * a.pack + row : place) * a.a.n_heads + head;
}

/* The item's result: into the row, or, of a split one, beside its largest score and sum. */
template <class T, int DIM, bool WIDE, bool PACKED>
TL_DEVICE void finish(const tl_cuda_decode_args &a, const task &t, const piece &p, const decode_shared<DIM, WIDE> *s) {
  for (uint32_t i = thread_index(); i < tile<DIM, WIDE>::SHARES; i += THREADS) {
    share mine = share_of<DIM, WIDE>(i);
    uint32_t row = PACKED ? mine.head / t.n_heads : 0, head = t.first_head + mine.head - row * t.n_heads;
    if ((PACKED ? row >= p.n_rows : mine.head >= t.n_heads) || mine.dim >= a.a.head_dim) continue;
    float max = s->max[0][mine.head], sum = 0, out[8] = {};
    TL_UNROLL for (int w = 1; w < WARPS; w++) max = fmaxf(max, s->max[w][mine.head]);
    float base = base_of<PACKED>(max);
    TL_UNROLL for (int w = 0; w < WARPS; w++) {
      float factor = exp2_fast(s->max[w][mine.head] - base); /* 0 for a warp that had no token */
      sum += s->sum[w][mine.head] * factor;
      TL_UNROLL for (int j = 0; j < 8; j++) out[j] += s->room[w].out[mine.mma + j][mine.plane][mine.lane] * factor;
    }
    if (p.n_parts == 1) {
      store_share<T>(a.a, p.row + row, head, mine.dim, max, sum, out);
      continue;
    }
    uint64_t at = part_of_row<PACKED>(a, p, p.part, row, head);
    float *to = a.partial + at * a.a.head_dim + mine.dim;
    TL_UNROLL for (int j = 0; j < 8; j += 4)
      store16(to + j, {{as_bits(out[j]), as_bits(out[j + 1]), as_bits(out[j + 2]), as_bits(out[j + 3])}});
    if (mine.dim == 0) a.partial_scale[at] = as_bits(max) | (uint64_t)as_bits(sum) << 32;
  }
}

/* The parts of what rows see, in their order, whoever does it: four elements a thread. */
template <class T, bool PACKED>
TL_DEVICE void merge_parts(const tl_cuda_decode_args &a, const task &t, const piece &p) {
  const uint32_t width = a.a.head_dim / 4;
  for (uint32_t i = thread_index(); i < (PACKED ? p.n_rows : 1) * t.n_heads * width; i += THREADS) {
    uint32_t row = PACKED ? i / width / t.n_heads : 0, head = t.first_head + i / width - row * t.n_heads, dim = i % width * 4;
    float max = -INFINITY, sum = 0, out[4] = {};
    for (uint32_t first = 0; first < p.n_parts; first += MERGED) {
      float part_max[MERGED], part_sum[MERGED], before = max;
      quad part[MERGED];
      TL_UNROLL for (uint32_t k = 0; k < MERGED; k++) {
        bool valid = first + k < p.n_parts;
        uint64_t at = part_of_row<PACKED>(a, p, valid ? first + k : first, row, head);
        uint64_t scale = a.partial_scale[at];
        part_max[k] = valid ? as_float((uint32_t)scale) : -INFINITY;
        part_sum[k] = as_float((uint32_t)(scale >> 32));
        part[k] = load16(a.partial + at * a.a.head_dim + dim);
      }
      TL_UNROLL for (int k = 0; k < MERGED; k++) max = fmaxf(max, part_max[k]);
      float base = base_of<PACKED>(max), shrink = exp2_fast(before - base);
      sum *= shrink;
      TL_UNROLL for (int j = 0; j < 4; j++) out[j] *= shrink;
      TL_UNROLL for (int k = 0; k < MERGED; k++) {
        float factor = exp2_fast(part_max[k] - base);
        sum += part_sum[k] * factor;
        TL_UNROLL for (int j = 0; j < 4; j++) out[j] += as_float(part[k].w[j]) * factor;
      }
    }
    float factor = 1 / (sum + sink_weight(a.a, head, max));
    uint32_t *to = (uint32_t *)((uint16_t *)a.a.out + ((uint64_t)(p.row + row) * a.a.n_heads + head) * a.a.head_dim + dim);
    to[0] = T::pack(out[0] * factor, out[1] * factor);
    to[1] = T::pack(out[2] * factor, out[3] * factor);
  }
}

/* --- heads of the row ------------------------------------------------------------------------------ */

/* Of an item's row, before wait_for_before: the host has copied the item, and no step changes the angles. */
template <int DIM>
TL_DEVICE void load_item_angles(const tl_cuda_decode_args &a, uint32_t words, angles<HEAD_STEPS(DIM)> *turn) {
  uint32_t position = ITEM_FIELD(words, position);
  if (a.heads.rope) load_angles(a.heads.rope + (uint64_t)position * a.a.head_dim, a.a.head_dim / 2, turn);
}

/* Head i of a block's among those of a row of QKV: its heads of Q, then the key and the value. */
TL_DEVICE uint32_t index_made(const tl_cuda_decode_args &a, const task &t, uint32_t i) {
  return i < t.n_heads ? t.first_head + i : a.a.n_heads + (i - t.n_heads) * a.a.n_kv_heads + t.kv_head;
}

template <int STEPS>
TL_DEVICE void fetch_made(const tl_cuda_decode_args &a, const task &t, uint32_t i, uint32_t n, const uint16_t *row, packed_head<STEPS> *h) {
  if (i < n) fetch_head(row + (uint64_t)index_made(a, t, i) * a.a.head_dim, a.a.head_dim / 2, h);
}

/* Such a head, and where it goes. */
struct made_head {
  uint32_t index;
  const float *norm;
  bool is_value;
  quad *to;
  uint16_t *cache; /* or NULL */
};

template <class T, int DIM, bool WIDE>
TL_DEVICE made_head find_made(const tl_cuda_decode_args &a, const task &t, uint32_t i, uint32_t slot, uint32_t own_warp,
                              decode_shared<DIM, WIDE> *s) {
  const uint32_t index = index_made(a, t, i);
  if (i < t.n_heads) return {index, a.heads.q_norm, false, s->room[0].made.heads[0] + i * (a.a.head_dim / 8), nullptr};
  bool is_value = i > t.n_heads;
  uint16_t *cache = (uint16_t *)(is_value ? a.heads.v_cache : a.heads.k_cache);
  return {index, is_value ? nullptr : a.heads.k_norm, is_value, s->room[own_warp].made.own[is_value],
          t.is_first && slot != TL_CUDA_NO_SLOT ? cache + slot_place(slot, a.a.n_kv_heads, t.kv_head, a.a.head_dim) / (cache_of<T>::IN_QUAD / 8) : nullptr};
}

/* An item's heads of Q, and its own token's key and value, into shared memory: as tl_cuda_qkv makes them, to the bit. */
template <class T, int DIM, bool WIDE>
TL_DEVICE void make_heads(const tl_cuda_decode_args &a, const task &t, uint32_t words, const angles<HEAD_STEPS(DIM)> &turn,
                          decode_shared<DIM, WIDE> *s) {
  const int STEPS = HEAD_STEPS(DIM);
  const uint32_t dim = a.a.head_dim, half = dim / 2, row = ITEM_FIELD(words, row), count = ITEM_FIELD(words, count);
  const bool has_own = ends_with_own(ITEM_FIELD(words, first), count, ITEM_FIELD(words, position));
  const uint32_t slot = has_own ? a.heads.slots[row] : TL_CUDA_NO_SLOT, n = t.n_heads + (has_own ? 2 : 0);
  const uint16_t *from = (const uint16_t *)a.heads.qkv + (uint64_t)row * (a.a.n_heads + 2 * a.a.n_kv_heads) * dim;
  packed_head<STEPS> ahead[HEADS_AHEAD]; /* on their way together */
  TL_UNROLL for (uint32_t k = 0; k < HEADS_AHEAD; k++) fetch_made(a, t, warp_index() + k * WARPS, n, from, &ahead[k]);
  for (uint32_t i = warp_index(); i < n; i += WARPS) { /* not unrolled: its code is read once a layer, from far */
    made_head made = find_made<T, DIM, WIDE>(a, t, i, slot, last_warp(count), s);
    head<STEPS> h;
    unpack_head<T>(ahead[0], a.heads.bias ? a.heads.bias + (uint64_t)made.index * dim : nullptr, half, &h);
    TL_UNROLL for (uint32_t k = 1; k < HEADS_AHEAD; k++) ahead[k - 1] = ahead[k];
    fetch_made(a, t, i + HEADS_AHEAD * WARPS, n, from, &ahead[HEADS_AHEAD - 1]);
    if (made.norm) norm_head(&h, made.norm, half, head_rms(h, a.heads.width, a.heads.eps));
    if (a.heads.rope && !made.is_value) rotate(&h, turn);
    if (a.heads.growth && i < t.n_heads) grow_head(&h, a.heads.growth[ITEM_FIELD(words, position)]);
    if (cache_of<T>::BYTES && i >= t.n_heads)
      store_head_e4m3(h, half, (uint8_t *)made.to);
    else
      store_head<T>(h, half, (uint16_t *)made.to);
    if (made.cache) keep_head<T>(h, half, made.cache);
  }
  if (thread_index() == 0) s->room[last_warp(count)].made.has_own = has_own;
}

/* The fragments of an item's Q, of rows that lie in memory, or that all warps make; turn: of load_item_angles. */
template <class T, int DIM, bool WIDE, bool PACKED>
TL_DEVICE void load_item_queries(const tl_cuda_decode_args &a, const task &t, uint32_t words, const angles<HEAD_STEPS(DIM)> &turn,
                                 decode_shared<DIM, WIDE> *s, queries<DIM, WIDE> *q) {
  if (!PACKED && a.heads.qkv) {
    make_heads<T, DIM, WIDE>(a, t, words, turn, s);
    sync_block();
    queries<DIM, WIDE>::template load<false>(q, (const uint16_t *)s->room[0].made.heads, t.n_heads, 1, t.n_heads, a.a.head_dim);
    sync_block(); /* a warp without tokens writes what it found there at once; where the own token lies, only the warp that reads it */
  } else {
    uint64_t first = (uint64_t)ITEM_FIELD(words, row) * a.a.n_heads + t.first_head;
    queries<DIM, WIDE>::template load<PACKED>(q, (const uint16_t *)a.a.q + first * a.a.head_dim, a.a.n_heads, ITEM_FIELD(words, n_rows),
                                              t.n_heads, a.a.head_dim);
  }
}

/* --- the kernel ----------------------------------------------------------------------------------- */

/* A warp's blocks of an item. Of each, the values of the last block on its way are put behind its keys; then the next one's keys
 * go where this one's were, once all lanes have read them. */
template <class T, int DIM, bool WIDE, bool PACKED>
TL_DEVICE void attend_item(const tl_cuda_decode_args &a, const task &t, uint32_t words, const queries<DIM, WIDE> &q,
                           cursor *c, uint32_t *pair, decode_shared<DIM, WIDE> *s, running<DIM, WIDE> *r) {
  const int PAIRS = tile<DIM, WIDE>::PAIRS;
  quad(*ring)[2][tile<DIM, WIDE>::PIECES * 32] = s->ring[warp_index()];
  const auto &made = s->room[warp_index()].made;
  const uint32_t count = ITEM_FIELD(words, count);
  const stretch all = see_all<PACKED>(a, words);
  for (uint32_t at = warp_index() * TL_BLOCK_TOKENS; at < count; at += STRIDE, *pair = (*pair + 1) % PAIRS) {
    float scores[2][WIDE ? 4 : 2];
    const bool own = !PACKED && count - at <= TL_BLOCK_TOKENS && a.heads.qkv && made.has_own;
    copy_block<DIM, false, T>(a.a, c->now, t.kv_head, ring[c->pair][1]);
    wait_warp<2 * PAIRS - 1>();
    if (own) put_own<DIM, true, T>(made.own[0], count - at - 1, a.a.head_dim, ring[*pair][0]);
    score<T, DIM, WIDE, PACKED>(a, t.n_heads, words, q, ring[*pair][0], all, at, scores);
    c->now = c->next;
    c->pair = (c->pair + 1) % PAIRS;
    sync_warp();
    copy_block<DIM, true, T>(a.a, c->now, t.kv_head, ring[c->pair][0]);
    seek_next<false>(a, t, 0, c);
    soften<DIM, WIDE, PACKED>(r, scores);
    wait_warp<2 * PAIRS - 1>();
    if (own) put_own<DIM, false, T>(made.own[1], count - at - 1, a.a.head_dim, ring[*pair][1]);
    mix<T, DIM, WIDE>(r, scores, ring[*pair][1]);
    sync_warp();
  }
}

/* What the warps found of an item, whose words are here again, merged, and with other parts if they are all there. */
template <class T, int DIM, bool WIDE, bool PACKED>
TL_DEVICE void end_item(const tl_cuda_decode_args &a, const task &t, uint32_t words, decode_shared<DIM, WIDE> *s) {
  const piece p = find_piece(t, words);
  finish<T, DIM, WIDE, PACKED>(a, t, p, s);
  if (p.n_parts > 1 && comes_last(&a.arrived[(uint64_t)p.lane * a.a.n_heads + t.first_head], p.n_parts, &s->room[0].is_last))
    merge_parts<T, PACKED>(a, t, p);
}

template <class T, int DIM, bool WIDE, bool PACKED>
TL_KERNEL(THREADS, 2) decode(tl_cuda_decode_args a) {
  decode_shared<DIM, WIDE> *s = (decode_shared<DIM, WIDE> *)shared_memory();
  let_next_start();
  uint32_t words, pair = 0; /* words: of the item, one a lane */
  task t = find_task<DIM, WIDE>(a, &words);
  cursor c;
  angles<HEAD_STEPS(DIM)> turn;
  if (t.index < t.end) {
    begin<T, DIM, WIDE>(a, t, words, &c, s->ring[warp_index()]);
    if (!PACKED) load_item_angles<DIM>(a, words, &turn);
  }
  wait_for_before();
  while (t.index < t.end) {
    queries<DIM, WIDE> q;
    load_item_queries<T, DIM, WIDE, PACKED>(a, t, words, turn, s, &q);
    uint32_t next = t.index + 1 < t.end ? load_item(a, t.index + 1) : 0;
    running<DIM, WIDE> r = {};
    TL_UNROLL for (int half = 0; half < (WIDE ? 2 : 1); half++) r.max[half] = -INFINITY;
    attend_item<T, DIM, WIDE, PACKED>(a, t, words, q, &c, &pair, s, &r);
    if (!PACKED && t.index + 1 < t.end) load_item_angles<DIM>(a, next, &turn);
    publish<DIM, WIDE>(r, s);
    sync_block();
    end_item<T, DIM, WIDE, PACKED>(a, t, words, s);
    sync_block();
    words = next;
    t.index++;
  }
}

template <class T, int DIM, bool WIDE, bool PACKED = false>
static int launch_decode(const tl_cuda_decode_args *args, void *stream) {
  static_assert(sizeof(decode_shared<DIM, WIDE>) <= CUDA_MOST_SHARED && 2 * cuda_shared_cost(sizeof(decode_shared<DIM, WIDE>)) <= CUDA_SHARED_SPLIT,
                "on every device, and where kernels start early two blocks a multiprocessor");
  uint32_t tiles = tl_cuda_head_tiles(args->a.n_heads, args->a.n_kv_heads, args->a.head_dim);
  return launch_rows(args->max_rows, decode<T, DIM, WIDE, PACKED>, tiles, args->n_blocks / tiles, THREADS, sizeof(decode_shared<DIM, WIDE>),
                     stream, *args);
}

/* Whether there is a kernel of several rows for the largest heads: of bytes its registers would spill, and rows read by themselves. */
template <class T>
const bool PACKS_LARGE = !cache_of<T>::BYTES;

template <class T>
static int launch_decode_of(const tl_cuda_decode_args *args, void *stream) {
  uint32_t dim = args->a.head_dim;
  bool wide = args->a.n_heads / args->a.n_kv_heads > 8;
  if (args->pack > 1) {
    if (dim > 128) return launch_decode<T, TL_CUDA_MAX_HEAD_DIM, false, PACKS_LARGE<T>>(args, stream);
    return dim > 64 ? launch_decode<T, 128, true, true>(args, stream) : launch_decode<T, 64, true, true>(args, stream);
  }
  if (dim > 128) return launch_decode<T, TL_CUDA_MAX_HEAD_DIM, false>(args, stream);
  if (dim > 64) return wide ? launch_decode<T, 128, true>(args, stream) : launch_decode<T, 128, false>(args, stream);
  return wide ? launch_decode<T, 64, true>(args, stream) : launch_decode<T, 64, false>(args, stream);
}

template <class T, int DIM, bool WIDE, bool PACKED>
static int allow_one() {
  return allow_shared(decode<T, DIM, WIDE, PACKED>, sizeof(decode_shared<DIM, WIDE>));
}

template <class T>
static int allow_decode() {
  int (*const all[])() = {allow_one<T, 64, false, false>,  allow_one<T, 64, true, false>,  allow_one<T, 64, true, true>,
                          allow_one<T, 128, false, false>, allow_one<T, 128, true, false>, allow_one<T, 128, true, true>,
                          allow_one<T, TL_CUDA_MAX_HEAD_DIM, false, false>, allow_one<T, TL_CUDA_MAX_HEAD_DIM, false, PACKS_LARGE<T>>};
  for (int (*const one)() : all)
    if (int e = one()) return e;
  return 0;
}

#endif
