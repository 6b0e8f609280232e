/* SPDX-License-Identifier: MIT */
/* What the delta rule and Mamba 2's by chunks have in common: rows of a chunk in shared memory and as factors of tensor cores, and a
 * block's columns of S, of one head of one sequence, in the accumulators' registers from the first chunk to the last. */
#ifndef CUDA_CHUNKS_CUH
#define CUDA_CHUNKS_CUH

#include "device/cuda/ops/cuda_delta.cuh"

#define CHUNK_WARPS 4
#define CHUNK_THREADS (CHUNK_WARPS * 32)
#define CHUNK_ROWS TL_CUDA_DELTA_CHUNK
#define CHUNK_COLUMNS TL_CUDA_DELTA_COLUMNS

#ifdef __CUDACC__
#define CHUNK_ROLLED _Pragma("unroll 1") /* else nvcc unrolls it, and spills */
#else
#define CHUNK_ROLLED
#endif

static_assert(CHUNK_ROWS == 64 && CHUNK_COLUMNS == 32, "as warps share them");

/* --- rows ---------------------------------------------------------------------------------------- */

/* Rows of pieces of 16 bytes, which change places by the row, so that one column of eight rows lies in different banks. */
template <uint32_t PIECES>
TL_DEVICE quad *piece(quad (*rows)[PIECES], uint32_t row, uint32_t index) {
  return &rows[row][index ^ (PIECES == 4 ? row / 2 & 3 : row & 7)];
}

/* Two neighbours of a row in shared memory. */
template <uint32_t PIECES>
TL_DEVICE uint32_t *pair_at(quad (*rows)[PIECES], uint32_t row, uint32_t column) {
  return &piece(rows, row, column / 8)->w[column % 8 / 2];
}

/* Factors of 16 rows from `row` on and inputs 16 k .. 16 k + 15, as they lie; TURNED: rows are inputs. */
template <bool TURNED, uint32_t PIECES>
TL_DEVICE void load_rows(uint32_t (&r)[4], quad (*rows)[PIECES], uint32_t row, uint32_t k) {
  uint32_t matrix = lane_index() / 8, in = lane_index() % 8;
  if (TURNED)
    load_matrices_transposed(r, piece(rows, k * 16 + matrix / 2 * 8 + in, row / 8 + matrix % 2));
  else
    load_matrices(r, piece(rows, row + matrix % 2 * 8 + in, k * 2 + matrix / 2));
}

/* Of 16 outputs likewise: two groups of eight. */
template <bool TURNED, uint32_t PIECES>
TL_DEVICE void load_outputs(uint32_t (&r)[4], quad (*rows)[PIECES], uint32_t output, uint32_t k) {
  uint32_t matrix = lane_index() / 8, in = lane_index() % 8;
  if (TURNED)
    load_matrices_transposed(r, piece(rows, k * 16 + matrix % 2 * 8 + in, output / 8 + matrix / 2));
  else
    load_matrices(r, piece(rows, output + matrix / 2 * 8 + in, k * 2 + matrix % 2));
}

template <class T>
TL_DEVICE void multiply(float (&first)[4], float (&second)[4], const uint32_t (&rows)[4], const uint32_t (&outputs)[4]) {
  T::mma(first, rows, {outputs[0], outputs[1]});
  T::mma(second, rows, {outputs[2], outputs[3]});
}

/* sum (16, CHUNK_COLUMNS) += factors (16, 16), times rows 16 k .. 16 k + 15 of `of`. */
template <class T>
TL_DEVICE void add_product(const uint32_t (&factors)[4], quad (*of)[CHUNK_COLUMNS / 8], uint32_t k, float (&sum)[CHUNK_COLUMNS / 8][4]) {
  TL_UNROLL for (uint32_t j = 0; j < CHUNK_COLUMNS / 8; j += 2) {
    uint32_t columns[4];
    load_outputs<true>(columns, of, j * 8, k);
    multiply<T>(sum[j], sum[j + 1], factors, columns);
  }
}

/* Up to 64 rows of `from`, whose width is `n` elements, zeros from n_rows and n on. */
template <uint32_t PIECES>
TL_DEVICE void copy_rows(quad (*to)[PIECES], const uint16_t *from, uint64_t ld, uint32_t n_rows, uint32_t n) {
  const uint32_t AT_ONCE = CHUNK_THREADS / PIECES; /* rows: so a thread has one place in all of its */
  const uint32_t MOST = CHUNK_ROWS / AT_ONCE < 8 ? CHUNK_ROWS / AT_ONCE : 8; /* whose addresses registers hold */
  uint32_t index = thread_index() % PIECES, first = thread_index() / PIECES;
  bool there = index * 8 < n;
  from += there ? first * ld + index * 8 : 0;
  CHUNK_ROLLED for (uint32_t part = 0; part < CHUNK_ROWS / AT_ONCE; part += MOST) {
    TL_UNROLL for (uint32_t k = 0; k < MOST; k++) {
      uint32_t row = first + (part + k) * AT_ONCE;
      bool valid = there && row < n_rows;
      copy_async16(piece(to, row, index), from + (valid ? (part + k) * AT_ONCE * ld : 0), valid);
    }
  }
}

/* A matrix of a chunk, which a kernel before made. */
TL_DEVICE void copy_matrix(quad (*to)[CHUNK_ROWS / 8], const uint16_t *from) {
  copy_rows(to, from, CHUNK_ROWS, CHUNK_ROWS, CHUNK_ROWS);
}

TL_DEVICE uint32_t rows_left(uint32_t n_rows, uint32_t at) {
  return n_rows - at < CHUNK_ROWS ? n_rows - at : CHUNK_ROWS;
}

/* --- what a block goes through --------------------------------------------------------------------- */

struct long_place {
  uint32_t head, column, row, n_rows, n_columns; /* row: of the step; n_columns: of the block that there are */
  delta_rows u;                                  /* of that row */
  const float *factors;                          /* of the first chunk */
};

TL_DEVICE long_place long_place_of(const tl_cuda_delta_long_args &l, const tl_cuda_stretch &stretch, uint32_t first_chunk) {
  const tl_cuda_delta_args &a = l.delta;
  uint32_t tiles = (a.value_dim + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
  long_place p;
  p.head = block_x() / tiles;
  p.column = block_x() % tiles * CHUNK_COLUMNS;
  p.row = stretch.row;
  p.n_rows = stretch.n_rows;
  p.n_columns = a.value_dim - p.column < CHUNK_COLUMNS ? a.value_dim - p.column : CHUNK_COLUMNS;
  p.u = delta_rows_of(a, stretch.row, p.head);
  p.factors = l.factors + ((uint64_t)first_chunk * a.n_value_heads + p.head) * TL_CUDA_DELTA_FACTORS;
  return p;
}

TL_DEVICE void fetch_factors(const tl_cuda_delta_args &a, const long_place &p, uint32_t at, float *to) {
  const float *from = p.factors + (uint64_t)(at / CHUNK_ROWS) * a.n_value_heads * TL_CUDA_DELTA_FACTORS;
  if (thread_index() < TL_CUDA_DELTA_FACTORS / 4) copy_async16(to + thread_index() * 4, from + thread_index() * 4, true);
}

/* The warp's 16 rows of the chunk that begins at row `at` of the stretch. */
template <class T>
TL_DEVICE void store_rows(const tl_cuda_delta_args &a, const long_place &p, uint32_t at, const float (&sum)[CHUNK_COLUMNS / 8][4]) {
  uint32_t n = rows_left(p.n_rows, at);
  TL_UNROLL for (uint32_t j = 0; j < CHUNK_COLUMNS / 8; j++) TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
    uint32_t row = warp_index() * 16 + half * 8 + lane_index() / 4, column = j * 8 + lane_index() % 4 * 2;
    if (row >= n || column >= p.n_columns) continue;
    uint64_t to = ((uint64_t)(p.row + at + row) * a.n_value_heads + p.head) * a.value_dim + p.column + column;
    *(uint32_t *)((uint16_t *)a.out + to) = T::pack(sum[j][2 * half], sum[j][2 * half + 1]);
  }
}

/* --- S ------------------------------------------------------------------------------------------ */

/* S of the block: of each warp a quarter of the keys, of all columns. The first index: 16 columns, the second: 8 keys. */
template <int PIECES>
struct long_state {
  float v[CHUNK_COLUMNS / 16][PIECES][4];
};

/* Where element e of a lane's part lies. */
template <int PIECES>
TL_DEVICE void state_place(uint32_t i, uint32_t j, uint32_t e, uint32_t *ret_column, uint32_t *ret_key) {
  *ret_column = i * 16 + e / 2 * 8 + lane_index() / 4;
  *ret_key = (warp_index() * PIECES + j) * 8 + lane_index() % 4 * 2 + e % 2;
}

template <int PIECES>
TL_DEVICE float *global_state(const tl_cuda_delta_args &a, const long_place &p, uint32_t state) {
  return a.states + (((uint64_t)state * a.n_value_heads + p.head) * a.value_dim + p.column) * a.key_dim;
}

template <int PIECES>
TL_DEVICE void begin_state(const tl_cuda_delta_args &a, const long_place &p, uint32_t from, long_state<PIECES> *state) {
  const float *at = from == TL_NO_STATE ? nullptr : global_state<PIECES>(a, p, from);
  TL_UNROLL for (uint32_t i = 0; i < CHUNK_COLUMNS / 16; i++) TL_UNROLL for (uint32_t j = 0; j < PIECES; j++) TL_UNROLL for (uint32_t e = 0; e < 4; e++) {
    uint32_t column, key;
    state_place<PIECES>(i, j, e, &column, &key);
    state->v[i][j][e] = at && column < p.n_columns && key < a.key_dim ? at[(uint64_t)column * a.key_dim + key] : 0;
  }
}

template <int PIECES>
TL_DEVICE void end_state(const tl_cuda_delta_args &a, const long_place &p, uint32_t to, const long_state<PIECES> &state) {
  if (to == TL_NO_STATE) return;
  float *at = global_state<PIECES>(a, p, to);
  TL_UNROLL for (uint32_t i = 0; i < CHUNK_COLUMNS / 16; i++) TL_UNROLL for (uint32_t j = 0; j < PIECES; j++) TL_UNROLL for (uint32_t e = 0; e < 4; e++) {
    uint32_t column, key;
    state_place<PIECES>(i, j, e, &column, &key);
    if (column < p.n_columns && key < a.key_dim) at[(uint64_t)column * a.key_dim + key] = state.v[i][j][e];
  }
}

/* S in T, by columns, for all warps. */
template <class T, int PIECES>
TL_DEVICE void share_state(const long_state<PIECES> &state, quad (*to)[PIECES * 4]) {
  TL_UNROLL for (uint32_t i = 0; i < CHUNK_COLUMNS / 16; i++) TL_UNROLL for (uint32_t j = 0; j < PIECES; j++) TL_UNROLL for (uint32_t e = 0; e < 4; e += 2) {
    uint32_t column, key;
    state_place<PIECES>(i, j, e, &column, &key);
    *pair_at(to, column, key) = T::pack(state.v[i][j][e], state.v[i][j][e + 1]);
  }
}

template <int PIECES>
TL_DEVICE void decay_state(float decay, long_state<PIECES> *state) {
  TL_UNROLL for (uint32_t i = 0; i < CHUNK_COLUMNS / 16; i++)
    TL_UNROLL for (uint32_t j = 0; j < PIECES; j++) TL_UNROLL for (uint32_t e = 0; e < 4; e++) state->v[i][j][e] *= decay;
}

/* S += K^T times what is kept of the values, of rows 16 k .. 16 k + 15 of a chunk. */
template <class T, int PIECES>
TL_DEVICE void add_to_state(quad (*keys)[PIECES * 4], quad (*kept)[CHUNK_COLUMNS / 8], uint32_t k, long_state<PIECES> *state) {
  uint32_t columns[CHUNK_COLUMNS / 16][4], of_keys[4];
  TL_UNROLL for (uint32_t i = 0; i < CHUNK_COLUMNS / 16; i++) load_rows<true>(columns[i], kept, i * 16, k);
  TL_UNROLL for (uint32_t j = 0; j < PIECES; j += 2) {
    load_outputs<true>(of_keys, keys, (warp_index() * PIECES + j) * 8, k);
    TL_UNROLL for (uint32_t i = 0; i < CHUNK_COLUMNS / 16; i++) multiply<T>(state->v[i][j], state->v[i][j + 1], columns[i], of_keys);
  }
}

#endif
