/* SPDX-License-Identifier: MIT */
/* The gated delta rule for stretches of many rows, 64 at a time by tensor cores (Yang et al. 2024, "Parallelizing Linear Transformers with
 * the Delta Rule over Sequence Length": the WY form and the UT transform). With G the sums of log decays within a chunk, S what it begins
 * with, q and k of length 1:
 *
 *   A_ij = beta_i (k_i . k_j) exp(G_i - G_j), j < i         T = (1 + A)^-1 diag(beta)      P_ij = (q_i . k_j) exp(G_i - G_j), j <= i
 *   W = T (V - exp(G) K S)      out = exp(G) Q S + P W      S' = exp(G_last) S + (exp(G_last - G) K)^T W
 *
 * T and P want nothing of S: one kernel makes them of all chunks side by side. The second goes through a stretch's chunks, a block some
 * columns of S of one head, which stay in registers in floats; as a factor S is rounded to T. Rows of K and Q are factors as they came:
 * what makes their length 1 is multiplied with what comes out. Rows that a last chunk lacks are zeros, decays of 1 and betas of 0. */
#include "device/cuda/ops/cuda_chunks.cuh"

#define THREADS CHUNK_THREADS
#define ROWS CHUNK_ROWS
#define COLUMNS CHUNK_COLUMNS
#define A_PITCH 72 /* floats: rows of eight lanes in banks of their own */
#define T_PITCH 80 /* two neighbouring rows of 16 columns likewise */
#define EPS 1e-6f

/* --- T and P ------------------------------------------------------------------------------------ */

template <int PIECES>
struct chunk_shared {
  union {
    struct {
      quad k[ROWS][PIECES * 4], q[ROWS][PIECES * 4];
    } rows;
    struct {
      float a[ROWS][A_PITCH], t[ROWS][T_PITCH];
    } matrices;
  };
  float of_k[ROWS], of_q[ROWS], beta[ROWS], g[ROWS], sums[ROWS]; /* of_k, of_q: what makes their length 1; sums: G */
};

/* Two threads a row: what makes k's and q's length 1. */
template <class T, int PIECES>
TL_DEVICE void measure_rows(const tl_cuda_delta_args &a, chunk_shared<PIECES> *s) {
  uint32_t row = thread_index() / 2;
  float kk = 0, qq = 0, v[8];
  for (uint32_t i = thread_index() % 2; i < PIECES * 4; i += 2) {
    unpack8<T>(*piece(s->rows.k, row, i), v);
    TL_UNROLL for (int e = 0; e < 8; e++) kk = fmaf(v[e], v[e], kk);
    unpack8<T>(*piece(s->rows.q, row, i), v);
    TL_UNROLL for (int e = 0; e < 8; e++) qq = fmaf(v[e], v[e], qq);
  }
  kk += shuffle_xor(kk, 1);
  qq += shuffle_xor(qq, 1);
  if (thread_index() % 2) return;
  s->of_k[row] = 1 / sqrtf(kk + EPS);
  s->of_q[row] = a.scale / sqrtf(qq + EPS);
}

/* A into shared memory, P to where it goes: 16 rows a warp. */
template <class T, int PIECES>
TL_DEVICE void make_products(uint16_t *p, chunk_shared<PIECES> *s) {
  uint32_t own = warp_index() * 16;
  float kk[ROWS / 8][4] = {}, qk[ROWS / 8][4] = {};
  TL_UNROLL for (uint32_t i = 0; i < PIECES * 2; i++) {
    uint32_t k[4], q[4], outputs[4];
    load_rows<false>(k, s->rows.k, own, i);
    load_rows<false>(q, s->rows.q, own, i);
    TL_UNROLL for (uint32_t j = 0; j < ROWS / 8; j += 2) {
      if (j * 8 > own) continue; /* later tokens */
      load_outputs<false>(outputs, s->rows.k, j * 8, i);
      multiply<T>(kk[j], kk[j + 1], k, outputs);
      multiply<T>(qk[j], qk[j + 1], q, outputs);
    }
  }
  sync_block(); /* nobody reads k and q any more */
  TL_UNROLL for (uint32_t j = 0; j < ROWS / 8; j++)
    TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
      uint32_t row = own + half * 8 + lane_index() / 4, column = j * 8 + lane_index() % 4 * 2;
      float of_p[2];
      TL_UNROLL for (uint32_t e = 0; e < 2; e++) {
        float decay = column + e <= row ? expf(s->sums[row] - s->sums[column + e]) * s->of_k[column + e] : 0;
        of_p[e] = qk[j][2 * half + e] * decay * s->of_q[row];
        s->matrices.a[row][column + e] = column + e < row ? kk[j][2 * half + e] * decay * s->of_k[row] * s->beta[row] : 0;
      }
      *(uint32_t *)(p + row * ROWS + column) = T::pack(of_p[0], of_p[1]);
    }
}

/* (1 + A)^-1, row after row: two threads a column, a warp 16 columns. */
template <int PIECES>
TL_DEVICE void invert(chunk_shared<PIECES> *s) {
  uint32_t column = thread_index() / 2, half = thread_index() % 2;
  for (uint32_t row = 0; row < ROWS; row++) {
    float sum = 0, other = 0;
    uint32_t i = half;
    for (; i + 2 < row; i += 4) {
      sum = fmaf(s->matrices.a[row][i], s->matrices.t[i][column], sum);
      other = fmaf(s->matrices.a[row][i + 2], s->matrices.t[i + 2][column], other);
    }
    if (i < row) sum = fmaf(s->matrices.a[row][i], s->matrices.t[i][column], sum);
    sum += other;
    sum += shuffle_xor(sum, 1);
    if (half == 0) s->matrices.t[row][column] = (row == column ? 1.0f : 0.0f) - sum;
    sync_warp();
  }
}

/* A chunk and a head. */
template <class T, int PIECES>
TL_KERNEL(THREADS, 4) delta_chunks(tl_cuda_delta_long_args l) {
  const tl_cuda_delta_args &a = l.delta;
  chunk_shared<PIECES> *s = (chunk_shared<PIECES> *)shared_memory();
  const tl_cuda_conv_tile chunk = l.chunks[block_x()];
  const tl_cuda_stretch stretch = a.stretches[chunk.stretch];
  uint32_t head = block_y(), n = rows_left(stretch.n_rows, chunk.at), row = thread_index();
  delta_rows u = delta_rows_of(a, stretch.row + chunk.at, head);
  uint64_t place = (uint64_t)block_x() * a.n_value_heads + head;
  uint16_t *t = (uint16_t *)l.matrices + place * 2 * ROWS * ROWS, *p = t + ROWS * ROWS;
  float *factors = l.factors + place * TL_CUDA_DELTA_FACTORS;
  copy_rows(s->rows.k, u.k, u.ld, n, a.key_dim);
  copy_rows(s->rows.q, u.q, u.ld, n, a.key_dim);
  commit_async();
  if (row < ROWS) {
    uint64_t at = (uint64_t)(stretch.row + chunk.at + row) * a.ld_gates + head;
    s->beta[row] = row < n ? delta_beta(T::low(((const uint16_t *)a.b)[at])) : 0;
    s->g[row] = row < n ? delta_log_decay(T::low(((const uint16_t *)a.c)[at]), delta_rate(a.a_log[head]), a.dt[head]) : 0;
  }
  wait_async<0>();
  sync_block();
  measure_rows<T>(a, s);
  if (row < ROWS) {
    float sum = 0;
    for (uint32_t i = 0; i <= row; i++) sum += s->g[i];
    s->sums[row] = sum;
  }
  sync_block();
  make_products<T>(p, s);
  sync_block();
  invert(s);
  sync_block();
  for (uint32_t i = thread_index(); i < ROWS * ROWS / 8; i += THREADS) {
    float v[8];
    TL_UNROLL for (uint32_t e = 0; e < 8; e++) v[e] = s->matrices.t[i / 8][i % 8 * 8 + e] * s->beta[i % 8 * 8 + e];
    store16(t + i * 8, pack8<T>(v));
  }
  if (row >= ROWS) return;
  factors[row] = s->of_k[row] * expf(s->sums[row]);
  factors[ROWS + row] = s->of_q[row] * expf(s->sums[row]);
  factors[2 * ROWS + row] = s->of_k[row] * expf(s->sums[ROWS - 1] - s->sums[row]);
  factors[3 * ROWS + row] = expf(s->sums[ROWS - 1]);
}

/* --- S ------------------------------------------------------------------------------------------ */

template <int PIECES>
struct long_shared {
  quad k[2][ROWS][PIECES * 4], q[ROWS][PIECES * 4];
  quad t[ROWS][ROWS / 8], p[ROWS][ROWS / 8];
  quad v[ROWS][COLUMNS / 8], rest[ROWS][COLUMNS / 8]; /* rest: V - exp(G) K S */
  quad w[ROWS][COLUMNS / 8], kept[ROWS][COLUMNS / 8]; /* kept: W as S' has it */
  quad s[COLUMNS][PIECES * 4];                        /* S in T, by columns */
  float factors[2][TL_CUDA_DELTA_FACTORS];
};

/* --- what a chunk brings ------------------------------------------------------------------------- */

template <int PIECES>
TL_DEVICE void fetch_keys(const tl_cuda_delta_args &a, const long_place &p, uint32_t at, long_shared<PIECES> *s) {
  uint32_t turn = at / ROWS % 2;
  copy_rows(s->k[turn], p.u.k + at * p.u.ld, p.u.ld, rows_left(p.n_rows, at), a.key_dim);
  fetch_factors(a, p, at, s->factors[turn]);
}

template <int PIECES>
TL_DEVICE void fetch_queries(const tl_cuda_delta_args &a, const long_place &p, uint32_t at, long_shared<PIECES> *s) {
  uint32_t n = rows_left(p.n_rows, at);
  copy_rows(s->q, p.u.q + at * p.u.ld, p.u.ld, n, a.key_dim);
  copy_rows(s->v, p.u.v + p.column + at * p.u.ld, p.u.ld, n, p.n_columns);
}

/* T (0) or P (1). */
TL_DEVICE void fetch_matrix(const tl_cuda_delta_long_args &l, const long_place &p, uint32_t chunk, uint32_t which, quad (*to)[ROWS / 8]) {
  copy_matrix(to, (const uint16_t *)l.matrices + (((uint64_t)chunk * l.delta.n_value_heads + p.head) * 2 + which) * ROWS * ROWS);
}

/* --- a chunk -------------------------------------------------------------------------------------- */

/* Of the warp's 16 rows K S, which becomes `rest` in shared memory, and Q S. */
template <class T, int PIECES>
TL_DEVICE void read_state(uint32_t turn, long_shared<PIECES> *s, float (&qs)[COLUMNS / 8][4]) {
  uint32_t own = warp_index() * 16;
  float ks[COLUMNS / 8][4] = {};
  TL_UNROLL for (uint32_t i = 0; i < PIECES * 2; i++) {
    uint32_t k[4], q[4], columns[4];
    load_rows<false>(k, s->k[turn], own, i);
    load_rows<false>(q, s->q, own, i);
    TL_UNROLL for (uint32_t j = 0; j < COLUMNS / 8; j += 2) {
      load_outputs<false>(columns, s->s, j * 8, i);
      multiply<T>(ks[j], ks[j + 1], k, columns);
      multiply<T>(qs[j], qs[j + 1], q, columns);
    }
  }
  TL_UNROLL for (uint32_t j = 0; j < COLUMNS / 8; j++) TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
    uint32_t row = own + half * 8 + lane_index() / 4, column = j * 8 + lane_index() % 4 * 2, v = *pair_at(s->v, row, column);
    float factor = s->factors[turn][row];
    *pair_at(s->rest, row, column) = T::pack(T::low(v) - factor * ks[j][2 * half], T::high(v) - factor * ks[j][2 * half + 1]);
  }
}

/* sum (16, COLUMNS) += the warp's rows of a lower triangle, times all rows of `of`. */
template <class T>
TL_DEVICE void add_triangle(quad (*triangle)[ROWS / 8], quad (*of)[COLUMNS / 8], float (&sum)[COLUMNS / 8][4]) {
  for (uint32_t i = 0; i <= warp_index(); i++) {
    uint32_t rows[4];
    load_rows<false>(rows, triangle, warp_index() * 16, i);
    add_product<T>(rows, of, i, sum);
  }
}

template <class T, int PIECES>
TL_DEVICE void make_w(uint32_t turn, long_shared<PIECES> *s) {
  float w[COLUMNS / 8][4] = {};
  add_triangle<T>(s->t, s->rest, w);
  TL_UNROLL for (uint32_t j = 0; j < COLUMNS / 8; j++) TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
    uint32_t row = warp_index() * 16 + half * 8 + lane_index() / 4, column = j * 8 + lane_index() % 4 * 2;
    float factor = s->factors[turn][2 * ROWS + row];
    *pair_at(s->w, row, column) = T::pack(w[j][2 * half], w[j][2 * half + 1]);
    *pair_at(s->kept, row, column) = T::pack(factor * w[j][2 * half], factor * w[j][2 * half + 1]);
  }
}

template <class T, int PIECES>
TL_DEVICE void give_out(const tl_cuda_delta_args &a, const long_place &p, uint32_t at, float (&sum)[COLUMNS / 8][4], long_shared<PIECES> *s) {
  TL_UNROLL for (uint32_t j = 0; j < COLUMNS / 8; j++) TL_UNROLL for (uint32_t e = 0; e < 4; e++)
    sum[j][e] *= s->factors[at / ROWS % 2][ROWS + warp_index() * 16 + e / 2 * 8 + lane_index() / 4];
  add_triangle<T>(s->p, s->w, sum);
  store_rows<T>(a, p, at, sum);
}

template <class T, int PIECES>
TL_DEVICE void change_state(uint32_t turn, long_shared<PIECES> *s, long_state<PIECES> *state) {
  decay_state(s->factors[turn][3 * ROWS], state);
  TL_UNROLL for (uint32_t k = 0; k < ROWS / 16; k++) add_to_state<T>(s->k[turn], s->kept, k, state);
}

/* A sequence's columns of a head. */
template <class T, int PIECES>
TL_KERNEL(THREADS, 1) delta_long(tl_cuda_delta_long_args l) {
  const tl_cuda_delta_args &a = l.delta;
  long_shared<PIECES> *s = (long_shared<PIECES> *)shared_memory();
  const tl_cuda_conv_tile first = l.longs[block_y()]; /* stretch, and its first chunk */
  const tl_cuda_stretch stretch = a.stretches[first.stretch];
  const long_place p = long_place_of(l, stretch, first.at);
  fetch_keys(a, p, 0, s);
  fetch_queries(a, p, 0, s);
  fetch_matrix(l, p, first.at, 0, s->t);
  commit_async();
  long_state<PIECES> state;
  begin_state(a, p, stretch.from, &state);
  share_state<T>(state, s->s);
  for (uint32_t at = 0; at < p.n_rows; at += ROWS) {
    uint32_t turn = at / ROWS % 2;
    bool more = at + ROWS < p.n_rows;
    float qs[COLUMNS / 8][4] = {};
    wait_async<0>();
    sync_block();
    fetch_matrix(l, p, first.at + at / ROWS, 1, s->p); /* which the chunk before was the last to read, as its keys before those */
    if (more) fetch_keys(a, p, at + ROWS, s);
    commit_async();
    read_state<T>(turn, s, qs);
    sync_block();
    if (more) fetch_queries(a, p, at + ROWS, s);
    commit_async();
    make_w<T>(turn, s);
    wait_async<1>(); /* P */
    sync_block();
    if (more) fetch_matrix(l, p, first.at + at / ROWS + 1, 0, s->t);
    commit_async();
    give_out<T>(a, p, at, qs, s);
    change_state<T>(turn, s, &state);
    share_state<T>(state, s->s);
  }
  end_state(a, p, stretch.to, state);
}

/* --- launching -------------------------------------------------------------------------------------- */

template <class T, int PIECES>
static int launch_long(const tl_cuda_delta_long_args *args, void *stream) {
  const tl_cuda_delta_args *a = &args->delta;
  int e = launch(delta_chunks<T, PIECES>, args->n_chunks, a->n_value_heads, THREADS, sizeof(chunk_shared<PIECES>), stream, *args);
  unsigned blocks = a->n_value_heads * ((a->value_dim + COLUMNS - 1) / COLUMNS);
  return e ? e : launch(delta_long<T, PIECES>, blocks, args->n_long, THREADS, sizeof(long_shared<PIECES>), stream, *args);
}

static_assert(sizeof(chunk_shared<4>) <= 48 << 10, "without asking for more");
static_assert(sizeof(long_shared<4>) <= CUDA_MOST_SHARED, "on every device");

extern "C" int tl_cuda_delta_long(const struct tl_cuda_delta_long_args *args, void *stream) {
  const tl_cuda_delta_args *a = &args->delta;
  if (!delta_is_valid(*a) || a->key_dim > tl_cuda_long_key(a->skip != nullptr) || a->n_value_heads > UINT16_MAX || args->n_long > UINT16_MAX) return CUDA_INVALID;
  if (args->n_chunks == 0 || args->n_long == 0 || a->n_value_heads == 0 || a->key_dim == 0 || a->value_dim == 0) return 0;
  if (a->skip) return cuda_scan_long(args, stream);
  if (a->key_dim <= 64) return a->dtype == TL_CUDA_BF16 ? launch_long<bf16, 2>(args, stream) : launch_long<f16, 2>(args, stream);
  return a->dtype == TL_CUDA_BF16 ? launch_long<bf16, 4>(args, stream) : launch_long<f16, 4>(args, stream);
}

template <class T>
static int allow_long() {
  int e = allow_shared(delta_long<T, 2>, sizeof(long_shared<2>));
  return e ? e : allow_shared(delta_long<T, 4>, sizeof(long_shared<4>));
}

int cuda_prepare_delta() {
  int e = allow_long<bf16>();
  return e ? e : allow_long<f16>();
}
