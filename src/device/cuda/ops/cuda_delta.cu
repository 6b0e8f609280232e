/* SPDX-License-Identifier: MIT */
/* The gated delta rule, token by token, and Mamba 2's (SCAN). Columns of S are independent of one another, given keys, queries, decays and the rest of a token:
 * a block has some of one head's, of one sequence, in registers from the first row to the last, so a state is read once and written once. Eight
 * lanes share a column, four of whose elements lie together in memory. In
 *
 *   S' = decay S + k d^T,  d = beta (v - decay S^T k),  S'^T q = decay S^T q + (k . q) d
 *
 * both sums over S are of what it was before, so a token costs one round of exchanges between lanes. Mamba 2's d is beta v. What tokens bring comes to shared
 * memory some at a time, the next ones while these are computed. */
#include "device/cuda/ops/cuda_delta.cuh"

#define WARPS 4
#define THREADS (WARPS * 32)
#define COLUMNS TL_CUDA_DELTA_COLUMNS
#define LANES 8                /* that share a column */
#define OWN (COLUMNS * LANES / THREADS) /* columns of a lane */
#define EPS 1e-6f

/* PIECES: of 32 elements of a key. Tokens that shared memory has at a time. */
template <int PIECES>
struct delta_shape {
  static const uint32_t KEY = PIECES * 32, TOKENS = PIECES > 4 ? 8 : 16;
};

template <int PIECES>
struct delta_shared {
  static const uint32_t KEY = delta_shape<PIECES>::KEY, TOKENS = delta_shape<PIECES>::TOKENS;
  quad q_raw[TOKENS][KEY / 8], k_raw[TOKENS][KEY / 8], v_raw[TOKENS][COLUMNS / 8]; /* T, on their way */
  float q[TOKENS][KEY], k[TOKENS][KEY]; /* of length 1 */
  float v[TOKENS][COLUMNS];             /* then what becomes of them */
  float beta[TOKENS], decay[TOKENS], kq[TOKENS];
};

/* Which part of the work a block has. */
struct delta_place {
  uint32_t head, column, row, n_rows; /* row: of the step, the stretch's first */
  delta_rows u;                       /* of that row */
};

TL_DEVICE delta_place place_of(const tl_cuda_delta_args &a, const quad &stretch) {
  delta_place p;
  uint32_t tiles = (a.value_dim + COLUMNS - 1) / COLUMNS;
  p.head = block_x() / tiles;
  p.column = block_x() % tiles * COLUMNS;
  p.row = stretch.w[0];
  p.n_rows = a.most_rows && stretch.w[1] > a.most_rows ? 0 : stretch.w[1];
  p.u = delta_rows_of(a, p.row, p.head);
  return p;
}

/* --- S ------------------------------------------------------------------------------------------ */

TL_DEVICE uint32_t lane_column(uint32_t own) {
  return (warp_index() * (32 / LANES) + lane_index() / LANES) * OWN + own;
}

TL_DEVICE uint32_t lane_element(uint32_t piece) {
  return piece * 32 + lane_index() % LANES * 4;
}

TL_DEVICE float *state_at(const tl_cuda_delta_args &a, const delta_place &p, uint32_t state, uint32_t own, uint32_t piece) {
  uint64_t column = ((uint64_t)state * a.n_value_heads + p.head) * a.value_dim + p.column + lane_column(own);
  return a.states + column * a.key_dim + lane_element(piece);
}

TL_DEVICE bool has_state(const tl_cuda_delta_args &a, const delta_place &p, uint32_t own, uint32_t piece) {
  return p.column + lane_column(own) < a.value_dim && lane_element(piece) < a.key_dim;
}

template <int PIECES>
TL_DEVICE void load_state(const tl_cuda_delta_args &a, const delta_place &p, uint32_t state, float (&s)[OWN][PIECES][4]) {
  TL_UNROLL for (uint32_t c = 0; c < OWN; c++)
    TL_UNROLL for (uint32_t i = 0; i < PIECES; i++) {
      bool valid = state != TL_NO_STATE && has_state(a, p, c, i);
      quad v = valid ? load16_early(state_at(a, p, state, c, i)) : quad{};
      TL_UNROLL for (int e = 0; e < 4; e++) s[c][i][e] = as_float(v.w[e]);
    }
}

template <int PIECES>
TL_DEVICE void store_state(const tl_cuda_delta_args &a, const delta_place &p, uint32_t state, const float (&s)[OWN][PIECES][4]) {
  TL_UNROLL for (uint32_t c = 0; c < OWN; c++)
    TL_UNROLL for (uint32_t i = 0; i < PIECES; i++) {
      quad v;
      TL_UNROLL for (int e = 0; e < 4; e++) v.w[e] = as_bits(s[c][i][e]);
      if (has_state(a, p, c, i)) store16(state_at(a, p, state, c, i), v);
    }
}

/* --- what tokens bring -------------------------------------------------------------------------- */

/* b and c of the token that this thread is to make beta and decay of. */
struct delta_gates {
  uint16_t b, c;
};

/* Tokens from `first` on of the stretch, on their way; nothing beyond its end. */
template <int PIECES, bool SCAN>
TL_DEVICE delta_gates fetch_tokens(const tl_cuda_delta_args &a, const delta_place &p, uint32_t first, delta_shared<PIECES> *s) {
  const uint32_t TOKENS = delta_shape<PIECES>::TOKENS, KEYS = delta_shape<PIECES>::KEY / 8, EACH = 2 * KEYS + COLUMNS / 8;
  for (uint32_t i = thread_index(); i < TOKENS * EACH; i += THREADS) {
    uint32_t token = i / EACH, at = i % EACH;
    if (first + token >= p.n_rows) break;
    uint64_t row = (first + token) * p.u.ld;
    if (at < 2 * KEYS) {
      uint32_t piece = at % KEYS;
      bool is_k = at >= KEYS, valid = piece * 8 < a.key_dim;
      copy_async16(is_k ? &s->k_raw[token][piece] : &s->q_raw[token][piece], (is_k ? p.u.k : p.u.q) + row + (valid ? piece * 8 : 0), valid);
    } else {
      uint32_t piece = at - 2 * KEYS;
      bool valid = p.column + piece * 8 < a.value_dim;
      copy_async16(&s->v_raw[token][piece], p.u.v + row + (valid ? p.column + piece * 8 : 0), valid);
    }
  }
  commit_async();
  uint32_t token = first + thread_index();
  if (thread_index() >= TOKENS || token >= p.n_rows) return {0, 0};
  uint64_t at = (uint64_t)(p.row + token) * a.ld_gates + p.head;
  return {((const uint16_t *)a.b)[at], SCAN ? (uint16_t)0 : ((const uint16_t *)a.c)[at]};
}

/* Four of a row of shared memory. */
template <class T>
TL_DEVICE void unpack4(const quad *row, uint32_t i, float (&to)[4]) {
  const uint32_t *from = row[i / 8].w + i % 8 / 2;
  TL_UNROLL for (int e = 0; e < 2; e++) {
    to[2 * e] = T::low(from[e]);
    to[2 * e + 1] = T::high(from[e]);
  }
}

/* A warp: q and k of one token in floats, each of length 1 and q scaled, and their product. SCAN: as they are. */
template <class T, int PIECES, bool SCAN>
TL_DEVICE void norm_token(const tl_cuda_delta_args &a, uint32_t token, delta_shared<PIECES> *s) {
  const uint32_t ROUNDS = (PIECES + 3) / 4;
  float q[ROUNDS][4] = {}, k[ROUNDS][4] = {}, qq = 0, kk = 0, kq = 0;
  TL_UNROLL for (uint32_t round = 0; round < ROUNDS; round++) {
    uint32_t i = round * 128 + lane_index() * 4;
    if (i >= PIECES * 32) continue; /* what lies behind key_dim came as zeros */
    unpack4<T>(s->q_raw[token], i, q[round]);
    unpack4<T>(s->k_raw[token], i, k[round]);
    TL_UNROLL for (int e = 0; e < 4; e++) {
      qq = fmaf(q[round][e], q[round][e], qq);
      kk = fmaf(k[round][e], k[round][e], kk);
      kq = fmaf(k[round][e], q[round][e], kq);
    }
  }
  float of_q = SCAN ? 1 : a.scale / sqrtf(warp_sum(qq) + EPS), of_k = SCAN ? 1 : 1 / sqrtf(warp_sum(kk) + EPS);
  kq = warp_sum(kq) * of_q * of_k;
  TL_UNROLL for (uint32_t round = 0; round < ROUNDS; round++) {
    uint32_t i = round * 128 + lane_index() * 4;
    if (i >= PIECES * 32) continue;
    quad to_q, to_k;
    TL_UNROLL for (int e = 0; e < 4; e++) {
      to_q.w[e] = as_bits(q[round][e] * of_q);
      to_k.w[e] = as_bits(k[round][e] * of_k);
    }
    store16(&s->q[token][i], to_q);
    store16(&s->k[token][i], to_k);
  }
  uint32_t raw = s->v_raw[token][lane_index() / 8].w[lane_index() % 8 / 2];
  s->v[token][lane_index()] = lane_index() % 2 ? T::high(raw) : T::low(raw);
  if (lane_index() == 0) s->kq[token] = kq;
}

/* n tokens that have come. */
template <class T, int PIECES, bool SCAN>
TL_DEVICE void make_tokens(const tl_cuda_delta_args &a, uint32_t n, const delta_gates &gates, float rate, float dt, delta_shared<PIECES> *s) {
  if (thread_index() < n) {
    float step = SCAN ? delta_softplus(T::low(gates.b) + dt) : 0;
    s->beta[thread_index()] = SCAN ? step : delta_beta(T::low(gates.b));
    s->decay[thread_index()] = expf(SCAN ? log_decay_of(rate, step) : delta_log_decay(T::low(gates.c), rate, dt));
  }
  for (uint32_t token = warp_index(); token < n; token += WARPS) norm_token<T, PIECES, SCAN>(a, token, s);
}

/* --- the rule ------------------------------------------------------------------------------------- */

TL_DEVICE void load4(const float *from, float (&to)[4]) {
  quad v = load16(from);
  TL_UNROLL for (int e = 0; e < 4; e++) to[e] = as_float(v.w[e]);
}

/* Of the eight lanes of a column. */
TL_DEVICE float column_sum(float v) {
  for (unsigned mask = LANES / 2; mask; mask /= 2) v += shuffle_xor(v, mask);
  return v;
}

/* skip: of SCAN. */
template <int PIECES, bool SCAN>
TL_DEVICE void take_token(uint32_t token, float skip, delta_shared<PIECES> *s, float (&state)[OWN][PIECES][4]) {
  float k[PIECES][4], of_k[OWN] = {}, of_q[OWN] = {};
  TL_UNROLL for (uint32_t i = 0; i < PIECES; i++) {
    float q[4];
    load4(&s->k[token][lane_element(i)], k[i]);
    load4(&s->q[token][lane_element(i)], q);
    TL_UNROLL for (uint32_t c = 0; c < OWN; c++) TL_UNROLL for (int e = 0; e < 4; e++) {
      if (!SCAN) of_k[c] = fmaf(state[c][i][e], k[i][e], of_k[c]);
      of_q[c] = fmaf(state[c][i][e], q[e], of_q[c]);
    }
  }
  float beta = s->beta[token], decay = s->decay[token], kq = s->kq[token];
  TL_UNROLL for (uint32_t c = 0; c < OWN; c++) {
    float value = s->v[token][lane_column(c)];
    float d = beta * (SCAN ? value : value - decay * column_sum(of_k[c])), out = decay * column_sum(of_q[c]) + kq * d;
    if (SCAN) out = fmaf(skip, value, out);
    TL_UNROLL for (uint32_t i = 0; i < PIECES; i++)
      TL_UNROLL for (int e = 0; e < 4; e++) state[c][i][e] = fmaf(k[i][e], d, decay * state[c][i][e]);
    if (lane_index() % LANES == 0) s->v[token][lane_column(c)] = out; /* the others have read it: they came to the sums */
  }
}

/* n rows from row `first` of the stretch on, as the block has made them. */
template <class T, int PIECES>
TL_DEVICE void give_rows(const tl_cuda_delta_args &a, const delta_place &p, uint32_t first, uint32_t n, const delta_shared<PIECES> *s) {
  for (uint32_t i = thread_index(); i < n * (COLUMNS / 8); i += THREADS) {
    uint32_t token = i / (COLUMNS / 8), column = i % (COLUMNS / 8) * 8;
    if (p.column + column >= a.value_dim) continue;
    float v[8];
    TL_UNROLL for (int e = 0; e < 8; e++) v[e] = s->v[token][column + e];
    uint64_t to = ((uint64_t)(p.row + first + token) * a.n_value_heads + p.head) * a.value_dim + p.column + column;
    store16((uint16_t *)a.out + to, pack8<T>(v));
  }
}

template <class T, int PIECES, bool SCAN>
TL_KERNEL(THREADS, 3) delta(tl_cuda_delta_args a) {
  const uint32_t TOKENS = delta_shape<PIECES>::TOKENS;
  delta_shared<PIECES> *s = (delta_shared<PIECES> *)shared_memory();
  let_next_start();
  quad stretch = load16_early(a.stretches + block_y()); /* row, n_rows, from, to */
  delta_place p = place_of(a, stretch);
  float state[OWN][PIECES][4];
  if (p.n_rows) load_state(a, p, stretch.w[2], state); /* of a step before, so it need not wait */
  float rate = delta_rate(a.a_log[p.head]), dt = a.dt[p.head], skip = SCAN ? a.skip[p.head] : 0;
  wait_for_before();
  if (p.n_rows == 0) return;
  delta_gates gates = fetch_tokens<PIECES, SCAN>(a, p, 0, s);
  for (uint32_t first = 0; first < p.n_rows; first += TOKENS) {
    uint32_t n = p.n_rows - first < TOKENS ? p.n_rows - first : TOKENS;
    wait_async<0>();
    sync_block();
    make_tokens<T, PIECES, SCAN>(a, n, gates, rate, dt, s);
    sync_block();
    if (first + TOKENS < p.n_rows) gates = fetch_tokens<PIECES, SCAN>(a, p, first + TOKENS, s);
    for (uint32_t token = 0; token < n; token++) take_token<PIECES, SCAN>(token, skip, s, state);
    sync_block();
    give_rows<T>(a, p, first, n, s);
  }
  if (stretch.w[3] != TL_NO_STATE) store_state(a, p, stretch.w[3], state);
}

template <class T, int PIECES>
static int launch_delta(const tl_cuda_delta_args *args, void *stream) {
  unsigned blocks = args->n_value_heads * ((args->value_dim + COLUMNS - 1) / COLUMNS);
  return launch_rows(args->max_rows, args->skip ? delta<T, PIECES, true> : delta<T, PIECES, false>, blocks, args->n_stretches, THREADS, sizeof(delta_shared<PIECES>), stream, *args);
}

template <class T>
static int delta_by_size(const tl_cuda_delta_args *args, void *stream) {
  if (args->key_dim <= 64) return launch_delta<T, 2>(args, stream);
  return args->key_dim <= 128 ? launch_delta<T, 4>(args, stream) : launch_delta<T, 8>(args, stream);
}

static_assert(sizeof(delta_shared<4>) <= 48 << 10 && sizeof(delta_shared<8>) <= 48 << 10, "without asking for more");

extern "C" int tl_cuda_delta(const struct tl_cuda_delta_args *args, void *stream) {
  if (!delta_is_valid(*args)) return CUDA_INVALID;
  if (args->n_stretches == 0 || args->n_value_heads == 0 || args->key_dim == 0 || args->value_dim == 0) return 0;
  return args->dtype == TL_CUDA_BF16 ? delta_by_size<bf16>(args, stream) : delta_by_size<f16>(args, stream);
}
