/* SPDX-License-Identifier: MIT */
/* Mamba 2's rule for stretches of many rows, 64 at a time by tensor cores (Dao & Gu 2024, "Transformers are SSMs", section 6). A token is
 * S' = d S + k (t v)^T, out = S'^T q + skip v, and what goes from one to another within a chunk is (q_i . k_j) d_j+1 .. d_i t_j. Decays are
 * products over 16 rows at most, so that none is a quotient and none overflows: with c the sums of log decays of a block's rows, D the
 * decay of a whole block, Q, K, V its rows and S what it begins with,
 *
 *   out_i = exp(c_i) S^T q_i + sum over j <= i of (q_i . k_j) exp(c_i - c_j) t_j v_j     S' = D S + K^T V~,   V~_j = exp(c_last - c_j) t_j v_j
 *
 * Of the four blocks of a chunk, rows look at those before by Q K^T and V~, where S^T q decays as S would:
 *
 *   S^T q becomes  D (S^T q) + (q K^T) V~  for each block that lies between, and S itself is only read once a chunk, as a factor in T.
 *
 * Q K^T is one of all heads of a group, and wants nothing of S, nor do c and t: a kernel makes both of all chunks side by side. The second
 * goes through a stretch's chunks, a block some columns of S of one head, which stay in registers in floats. Rows that a last chunk
 * lacks are zeros, decays of 1 and t of 0. */
#include "device/cuda/ops/cuda_chunks.cuh"

#define WARPS CHUNK_WARPS
#define THREADS CHUNK_THREADS
#define ROWS CHUNK_ROWS
#define COLUMNS CHUNK_COLUMNS
#define HEADS 16 /* whose factors a block makes */
#define LOG2_E 1.44269504088896341f

/* Of a chunk and head: exp(c), exp(c_last - c) t, c as a power of 2, t. */
enum { OF_START, OF_END, SUMS, STEPS };
/* Q K^T as it is kept, and what rows have of it and of S until they are given out, is so much of itself: queries and keys have no length, so
 * in F16, which ends at 65504, products of theirs may be infinite where steps make a small number of them. */
template <class T>
struct scan_scale {
  static constexpr float DOWN = T::IS_BF16 ? 1 : 1.0f / 64, UP = 1 / DOWN;
};

static_assert((STEPS + 1) * ROWS <= TL_CUDA_DELTA_FACTORS && TL_CUDA_SCAN_MATRICES == ROWS * ROWS, "as scratch has room");

/* --- what wants nothing of S ----------------------------------------------------------------------- */

template <int PIECES>
struct scores_shared {
  quad k[ROWS][PIECES * 4], q[ROWS][PIECES * 4];
};

/* sum *= by. */
template <uint32_t N>
TL_DEVICE void scale_sum(float by, float (&sum)[N][4]) {
  TL_UNROLL for (uint32_t j = 0; j < N; j++) TL_UNROLL for (uint32_t e = 0; e < 4; e++) sum[j][e] *= by;
}

/* The lower triangle of Q K^T: 16 rows a warp. */
template <class T, int PIECES>
TL_DEVICE void make_scores(uint16_t *to, const delta_rows &u, uint32_t n, uint32_t key_dim, scores_shared<PIECES> *s) {
  copy_rows(s->k, u.k, u.ld, n, key_dim);
  copy_rows(s->q, u.q, u.ld, n, key_dim);
  commit_async();
  wait_async<0>();
  sync_block();
  uint32_t own = warp_index() * 16;
  float sum[ROWS / 8][4] = {};
  TL_UNROLL for (uint32_t i = 0; i < PIECES * 2; i++) {
    uint32_t q[4], k[4];
    load_rows<false>(q, s->q, own, i);
    TL_UNROLL for (uint32_t j = 0; j < ROWS / 8; j += 2) {
      if (j * 8 > own) continue; /* later tokens */
      load_outputs<false>(k, s->k, j * 8, i);
      multiply<T>(sum[j], sum[j + 1], q, k);
    }
  }
  scale_sum(scan_scale<T>::DOWN, sum);
  TL_UNROLL for (uint32_t j = 0; j < ROWS / 8; j++) TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
    uint32_t row = own + half * 8 + lane_index() / 4, column = j * 8 + lane_index() % 4 * 2;
    *(uint32_t *)(to + row * ROWS + column) = T::pack(sum[j][2 * half], sum[j][2 * half + 1]);
  }
}

/* Of HEADS heads from `head` on, two at a time: a thread has a row, 16 lanes a block of them. */
template <class T>
TL_DEVICE void make_factors(const tl_cuda_delta_args &a, uint32_t head, uint32_t first_row, uint32_t n, float *to) {
  uint32_t row = thread_index() % ROWS, lane = lane_index();
  for (uint32_t i = thread_index() / ROWS; i < HEADS && head + i < a.n_value_heads; i += THREADS / ROWS) {
    uint64_t at = (uint64_t)(first_row + row) * a.ld_gates + head + i;
    float t = row < n ? delta_softplus(T::low(((const uint16_t *)a.b)[at]) + a.dt[head + i]) : 0;
    float c = row < n ? log_decay_of(delta_rate(a.a_log[head + i]), t) : 0;
    for (uint32_t d = 1; d < 16; d *= 2) {
      float before = shuffle(c, lane - d);
      if (lane % 16 >= d) c += before;
    }
    float last = shuffle(c, lane | 15), *of = to + (uint64_t)(head + i) * TL_CUDA_DELTA_FACTORS + row;
    of[OF_START * ROWS] = expf(c);
    of[OF_END * ROWS] = expf(last - c) * t;
    of[SUMS * ROWS] = c * LOG2_E;
    of[STEPS * ROWS] = t;
  }
}

/* A chunk, and a group's scores or some heads' factors. */
template <class T, int PIECES>
TL_KERNEL(THREADS, 4) scan_chunks(tl_cuda_delta_long_args l) {
  const tl_cuda_delta_args &a = l.delta;
  const tl_cuda_conv_tile chunk = l.chunks[block_x()];
  const tl_cuda_stretch stretch = a.stretches[chunk.stretch];
  uint32_t n = rows_left(stretch.n_rows, chunk.at), row = stretch.row + chunk.at, group = block_y();
  if (group >= a.n_key_heads) {
    make_factors<T>(a, (group - a.n_key_heads) * HEADS, row, n, l.factors + (uint64_t)block_x() * a.n_value_heads * TL_CUDA_DELTA_FACTORS);
    return;
  }
  uint32_t head = a.turned ? group : group * (a.n_value_heads / a.n_key_heads); /* one of the group's */
  uint16_t *to = (uint16_t *)l.matrices + ((uint64_t)block_x() * a.n_key_heads + group) * TL_CUDA_SCAN_MATRICES;
  make_scores<T>(to, delta_rows_of(a, row, head), n, a.key_dim, (scores_shared<PIECES> *)shared_memory());
}

/* --- S ------------------------------------------------------------------------------------------ */

/* Chunks that shared memory has at a time: of long keys there is room for one on some devices, so the next one comes when that is over. */
template <int PIECES>
struct scan_turns {
  static const uint32_t N = PIECES > 4 ? 1 : 2;
};

template <int PIECES>
struct scan_shared {
  static const uint32_t TURNS = scan_turns<PIECES>::N;
  quad k[TURNS][ROWS][PIECES * 4], q[ROWS][PIECES * 4];
  quad scores[TURNS][ROWS][ROWS / 8]; /* Q K^T */
  quad v[TURNS][ROWS][COLUMNS / 8], kept[ROWS][COLUMNS / 8]; /* kept: V~ */
  quad s[COLUMNS][PIECES * 4];                               /* S in T, by columns */
  float factors[TURNS][TL_CUDA_DELTA_FACTORS];
};

template <int PIECES>
TL_DEVICE void fetch_queries(const tl_cuda_delta_args &a, const long_place &p, uint32_t at, scan_shared<PIECES> *s) {
  copy_rows(s->q, p.u.q + at * p.u.ld, p.u.ld, rows_left(p.n_rows, at), a.key_dim);
}

/* All else of a chunk. */
template <int PIECES>
TL_DEVICE void fetch_chunk(const tl_cuda_delta_long_args &l, const long_place &p, uint32_t first_chunk, uint32_t at, scan_shared<PIECES> *s) {
  const tl_cuda_delta_args &a = l.delta;
  uint32_t turn = at / ROWS % scan_turns<PIECES>::N, n = rows_left(p.n_rows, at), group = tl_cuda_key_head(a.turned, a.n_key_heads, a.n_value_heads, p.head);
  copy_rows(s->k[turn], p.u.k + at * p.u.ld, p.u.ld, n, a.key_dim);
  copy_rows(s->v[turn], p.u.v + p.column + at * p.u.ld, p.u.ld, n, p.n_columns);
  copy_matrix(s->scores[turn], (const uint16_t *)l.matrices + ((uint64_t)(first_chunk + at / ROWS) * a.n_key_heads + group) * TL_CUDA_SCAN_MATRICES);
  fetch_factors(a, p, at, s->factors[turn]);
}

/* V~ of the chunk. */
template <class T, int PIECES>
TL_DEVICE void keep_values(uint32_t turn, scan_shared<PIECES> *s) {
  TL_UNROLL for (uint32_t i = 0; i < ROWS * COLUMNS / 8 / THREADS; i++) {
    uint32_t place = i * THREADS + thread_index(), row = place / (COLUMNS / 8), index = place % (COLUMNS / 8);
    float v[8], factor = s->factors[turn][OF_END * ROWS + row];
    unpack8<T>(*piece(s->v[turn], row, index), v);
    TL_UNROLL for (int e = 0; e < 8; e++) v[e] *= factor;
    *piece(s->kept, row, index) = pack8<T>(v);
  }
}

/* sum: the warp's rows of Q S. */
template <class T, int PIECES>
TL_DEVICE void read_state(scan_shared<PIECES> *s, float (&sum)[COLUMNS / 8][4]) {
  TL_UNROLL for (uint32_t i = 0; i < PIECES * 2; i++) {
    uint32_t q[4], columns[4];
    load_rows<false>(q, s->q, warp_index() * 16, i);
    TL_UNROLL for (uint32_t j = 0; j < COLUMNS / 8; j += 2) {
      load_outputs<false>(columns, s->s, j * 8, i);
      multiply<T>(sum[j], sum[j + 1], q, columns);
    }
  }
}

/* Scores of 16 rows among themselves become what row i has of t v of row j. */
template <class T>
TL_DEVICE void decay_scores(const float *factors, uint32_t (&scores)[4]) {
  const float *sums = factors + SUMS * ROWS + warp_index() * 16, *steps = factors + STEPS * ROWS + warp_index() * 16;
  TL_UNROLL for (uint32_t m = 0; m < 4; m++) {
    uint32_t row = m % 2 * 8 + lane_index() / 4, column = m / 2 * 8 + lane_index() % 4 * 2;
    float v[2] = {T::low(scores[m]), T::high(scores[m])};
    TL_UNROLL for (uint32_t e = 0; e < 2; e++)
      v[e] = column + e <= row ? v[e] * exp2_fast(sums[row] - sums[column + e]) * (steps[column + e] * scan_scale<T>::UP) : 0;
    scores[m] = T::pack(v[0], v[1]);
  }
}

/* sum, Q S of the warp's rows, becomes their outputs. */
template <class T, int PIECES>
TL_DEVICE void give_out(const tl_cuda_delta_args &a, const long_place &p, uint32_t at, float skip, float (&sum)[COLUMNS / 8][4], scan_shared<PIECES> *s) {
  uint32_t turn = at / ROWS % scan_turns<PIECES>::N, own = warp_index() * 16, scores[4];
  const float *factors = s->factors[turn];
  scale_sum(scan_scale<T>::DOWN, sum);
  TL_UNROLL for (uint32_t block = 0; block + 1 < WARPS; block++) {
    if (block >= warp_index()) break;
    scale_sum(factors[OF_START * ROWS + block * 16 + 15], sum);
    load_rows<false>(scores, s->scores[turn], own, block);
    add_product<T>(scores, s->kept, block, sum);
  }
  TL_UNROLL for (uint32_t j = 0; j < COLUMNS / 8; j++) TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
    uint32_t row = own + half * 8 + lane_index() / 4, v = *pair_at(s->v[turn], row, j * 8 + lane_index() % 4 * 2);
    float factor = factors[OF_START * ROWS + row] * scan_scale<T>::UP;
    sum[j][2 * half] = fmaf(skip, T::low(v), factor * sum[j][2 * half]);
    sum[j][2 * half + 1] = fmaf(skip, T::high(v), factor * sum[j][2 * half + 1]);
  }
  load_rows<false>(scores, s->scores[turn], own, warp_index());
  decay_scores<T>(factors, scores);
  add_product<T>(scores, s->v[turn], warp_index(), sum);
  store_rows<T>(a, p, at, sum);
}

template <class T, int PIECES>
TL_DEVICE void change_state(uint32_t turn, scan_shared<PIECES> *s, long_state<PIECES> *state) {
  TL_UNROLL for (uint32_t block = 0; block < ROWS / 16; block++) {
    decay_state(s->factors[turn][OF_START * ROWS + block * 16 + 15], state);
    add_to_state<T>(s->k[turn], s->kept, block, state);
  }
}

/* A sequence's columns of a head. */
template <class T, int PIECES>
TL_KERNEL(THREADS, 2) scan_long(tl_cuda_delta_long_args l) {
  const tl_cuda_delta_args &a = l.delta;
  scan_shared<PIECES> *s = (scan_shared<PIECES> *)shared_memory();
  const tl_cuda_conv_tile first = l.longs[block_y()]; /* stretch, and its first chunk */
  const tl_cuda_stretch stretch = a.stretches[first.stretch];
  const long_place p = long_place_of(l, stretch, first.at);
  float skip = a.skip[p.head];
  fetch_chunk(l, p, first.at, 0, s);
  fetch_queries(a, p, 0, s);
  commit_async();
  long_state<PIECES> state;
  begin_state(a, p, stretch.from, &state);
  for (uint32_t at = 0; at < p.n_rows; at += ROWS) {
    const uint32_t TURNS = scan_turns<PIECES>::N;
    uint32_t turn = at / ROWS % TURNS;
    bool more = at + ROWS < p.n_rows;
    float sum[COLUMNS / 8][4] = {};
    share_state<T>(state, s->s);
    wait_async<0>();
    sync_block();
    if (more && TURNS > 1) fetch_chunk(l, p, first.at, at + ROWS, s); /* where the chunk before was, which all are through with */
    commit_async();
    keep_values<T>(turn, s);
    read_state<T>(s, sum);
    sync_block();
    if (more) fetch_queries(a, p, at + ROWS, s);
    commit_async();
    give_out<T>(a, p, at, skip, sum, s);
    change_state<T>(turn, s, &state);
    if (more && TURNS == 1) {
      sync_block();
      fetch_chunk(l, p, first.at, at + ROWS, s);
      commit_async();
    }
  }
  end_state(a, p, stretch.to, state);
}

/* --- launching -------------------------------------------------------------------------------------- */

template <class T, int PIECES>
static int launch_scan(const tl_cuda_delta_long_args *args, void *stream) {
  const tl_cuda_delta_args *a = &args->delta;
  unsigned parts = a->n_key_heads + (a->n_value_heads + HEADS - 1) / HEADS, blocks = a->n_value_heads * ((a->value_dim + COLUMNS - 1) / COLUMNS);
  int e = launch(scan_chunks<T, PIECES>, args->n_chunks, parts, THREADS, sizeof(scores_shared<PIECES>), stream, *args);
  return e ? e : launch(scan_long<T, PIECES>, blocks, args->n_long, THREADS, sizeof(scan_shared<PIECES>), stream, *args);
}

static_assert(sizeof(scores_shared<4>) <= 48 << 10, "without asking for more");
static_assert(sizeof(scan_shared<4>) <= CUDA_MOST_SHARED && sizeof(scan_shared<8>) <= CUDA_MOST_SHARED, "on every device");

template <class T>
static int scan_by_size(const tl_cuda_delta_long_args *args, void *stream) {
  if (args->delta.key_dim <= 64) return launch_scan<T, 2>(args, stream);
  return args->delta.key_dim <= 128 ? launch_scan<T, 4>(args, stream) : launch_scan<T, 8>(args, stream);
}

int cuda_scan_long(const tl_cuda_delta_long_args *args, void *stream) {
  return args->delta.dtype == TL_CUDA_BF16 ? scan_by_size<bf16>(args, stream) : scan_by_size<f16>(args, stream);
}

template <class T>
static int allow_long() {
  int e = allow_shared(scan_long<T, 2>, sizeof(scan_shared<2>));
  if (!e) e = allow_shared(scan_long<T, 4>, sizeof(scan_shared<4>));
  if (!e) e = allow_shared(scan_chunks<T, 8>, sizeof(scores_shared<8>));
  return e ? e : allow_shared(scan_long<T, 8>, sizeof(scan_shared<8>));
}

int cuda_prepare_scan() {
  int e = allow_long<bf16>();
  return e ? e : allow_long<f16>();
}
