/* SPDX-License-Identifier: MIT */
/* Rows to vectors. Pooling: a block a sequence and 256 columns, whose warps take the rows in turn and are added up
 * in their order. What follows has as many rows as there are sequences: a block a vector, each thread reads what it wrote. */
#include "device/cuda/ops/cuda_pool.h"
#include "device/cuda/ops/cuda_gate.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
#define COLUMNS (32 * 8) /* of a block of pool: 16 bytes a lane */
#define AHEAD 4          /* rows that a warp of pool has asked for before it adds them up */

template <class T>
TL_DEVICE uint16_t half_of(float v) {
  return (uint16_t)T::pack(v, 0);
}

/* --- embeddings of places ------------------------------------------------------------------- */

template <class T>
TL_DEVICE void add_eight(const void *table, uint64_t at, float (&v)[8]) {
  float more[8];
  unpack8<T>(load16((const uint16_t *)table + at), more);
  TL_UNROLL for (int i = 0; i < 8; i++) v[i] += more[i];
}

template <class T>
TL_KERNEL(THREADS, 1) place(tl_cuda_place_args a) {
  let_next_start();
  wait_for_before();
  uint64_t index = (uint64_t)block_x() * THREADS + thread_index(), row = index / (a.dim / 8);
  uint32_t column = (uint32_t)(index % (a.dim / 8)) * 8;
  if (row >= a.n) return;
  uint16_t *x = (uint16_t *)a.x + row * a.dim + column;
  float v[8];
  unpack8<T>(load16(x), v);
  if (a.type) {
    uint32_t type = (uint32_t)a.types[row];
    add_eight<T>(a.type, (uint64_t)(type < a.n_types ? type : 0) * a.dim + column, v);
  }
  if (a.place) add_eight<T>(a.place, (uint64_t)a.positions[row] * a.dim + column, v);
  store16(x, pack8<T>(v));
}

extern "C" int tl_cuda_place(const struct tl_cuda_place_args *args, void *stream) {
  uint64_t blocks = ((uint64_t)args->n * (args->dim / 8) + THREADS - 1) / THREADS;
  if (args->dim % 8 || blocks > INT32_MAX) return CUDA_INVALID;
  return blocks ? launch_rows(args->n, args->dtype == TL_CUDA_BF16 ? place<bf16> : place<f16>, (unsigned)blocks, 1, THREADS, 0, stream,
                         *args)
                : 0;
}

/* --- pooling ------------------------------------------------------------------------------------ */

/* NaN is larger than all else, so that it shows. */
TL_DEVICE float larger(float a, float b) {
  return b > a || b != b ? b : a;
}

template <class T>
TL_DEVICE void pool_row(int pooling, quad row, float weight, float (&sum)[8]) {
  float v[8];
  unpack8<T>(row, v);
  TL_UNROLL for (int i = 0; i < 8; i++) sum[i] = pooling == TL_CUDA_POOL_MAX ? larger(sum[i], v[i]) : sum[i] + weight * v[i];
}

/* This warp's part of rows [first, end). */
template <class T>
TL_DEVICE void pool_rows(const tl_cuda_pool_args &a, uint32_t first, uint32_t end, uint32_t column, float (&sum)[8]) {
  for (uint32_t row = first + warp_index(); row < end; row += WARPS * AHEAD) {
    quad v[AHEAD] = {};
    TL_UNROLL for (uint32_t k = 0; k < AHEAD; k++)
      if (row + k * WARPS < end) v[k] = load16((const uint16_t *)a.rows + (uint64_t)(row + k * WARPS) * a.dim + column);
    TL_UNROLL for (uint32_t k = 0; k < AHEAD; k++)
      if (row + k * WARPS < end) pool_row<T>(a.pooling, v[k], a.pooling == TL_CUDA_POOL_WEIGHTED ? (float)(row + k * WARPS - first + 1) : 1, sum);
  }
}

TL_DEVICE float divisor(int pooling, uint32_t n) {
  if (pooling == TL_CUDA_POOL_WEIGHTED) return (float)((uint64_t)n * ((uint64_t)n + 1) / 2);
  return pooling == TL_CUDA_POOL_MEAN ? (float)n : pooling == TL_CUDA_POOL_MEAN_SQRT ? sqrtf((float)n) : 1;
}

template <class T>
TL_KERNEL(THREADS, 1) pool(tl_cuda_pool_args a) {
  let_next_start();
  wait_for_before();
  float *parts = (float *)shared_memory(); /* (WARPS, COLUMNS) */
  uint32_t first = a.starts[block_x()], end = a.starts[block_x() + 1], column = block_y() * COLUMNS + lane_index() * 8;
  if (a.pooling == TL_CUDA_POOL_FIRST) end = first + 1;
  if (a.pooling == TL_CUDA_POOL_LAST) first = end - 1;
  float sum[8];
  TL_UNROLL for (int i = 0; i < 8; i++) sum[i] = a.pooling == TL_CUDA_POOL_MAX ? -INFINITY : 0;
  if (column < a.dim) pool_rows<T>(a, first, end, column, sum);
  TL_UNROLL for (int i = 0; i < 8; i++) parts[warp_index() * COLUMNS + lane_index() * 8 + i] = sum[i];
  sync_block();
  uint32_t mine = block_y() * COLUMNS + thread_index();
  if (mine >= a.dim) return;
  float v = parts[thread_index()];
  for (int w = 1; w < WARPS; w++) {
    float part = parts[w * COLUMNS + thread_index()];
    v = a.pooling == TL_CUDA_POOL_MAX ? larger(v, part) : v + part;
  }
  v /= divisor(a.pooling, end - first);
  uint64_t at = (uint64_t)block_x() * a.dim + mine;
  a.vectors[at] = v;
  ((uint16_t *)a.out)[at] = half_of<T>(v);
}

extern "C" int tl_cuda_pool(const struct tl_cuda_pool_args *args, void *stream) {
  if (args->dim % 8 || args->pooling < TL_CUDA_POOL_FIRST || args->pooling > TL_CUDA_POOL_WEIGHTED) return CUDA_INVALID;
  return args->n ? launch_rows(args->n, args->dtype == TL_CUDA_BF16 ? pool<bf16> : pool<f16>, args->n, (args->dim + COLUMNS - 1) / COLUMNS,
                          THREADS, WARPS * COLUMNS * sizeof(float), stream, *args)
                 : 0;
}

/* --- vectors ------------------------------------------------------------------------------------ */

TL_DEVICE float apply(int function, float x) {
  return function == TL_CUDA_TANH ? tanhf(x) : function == TL_CUDA_ERF_GELU ? gelu_erf(x) : x;
}

/* v = its LayerNorm; sum: of this thread's elements. */
TL_DEVICE void norm_vector(const tl_cuda_vector_args &a, float *v, float sum, float *sums) {
  float mean = block_sum(sum, sums, WARPS) / (float)a.width, squares = 0;
  for (uint32_t i = thread_index(); i < a.width; i += THREADS) squares += (v[i] - mean) * (v[i] - mean);
  float scale = 1 / sqrtf(block_sum(squares, sums, WARPS) / (float)a.width + a.eps);
  for (uint32_t i = thread_index(); i < a.dim; i += THREADS) v[i] = (v[i] - mean) * scale * a.weight[i] + (a.shift ? a.shift[i] : 0);
}

template <class T>
TL_KERNEL(THREADS, 1) vector(tl_cuda_vector_args a) {
  let_next_start();
  wait_for_before();
  float *sums = (float *)shared_memory(), *v = a.vectors + (uint64_t)block_x() * a.dim, sum = 0, squares = 0, scale = 1;
  for (uint32_t i = thread_index(); i < a.dim; i += THREADS) {
    v[i] = apply(a.function, v[i] + (a.bias ? a.bias[i] : 0));
    sum += v[i];
  }
  if (a.weight) norm_vector(a, v, sum, sums);
  if (a.normalize) {
    for (uint32_t i = thread_index(); i < a.dim; i += THREADS) squares += v[i] * v[i];
    scale = 1 / fmaxf(sqrtf(block_sum(squares, sums, WARPS)), 1e-12f);
  }
  for (uint32_t i = thread_index(); i < a.dim; i += THREADS) {
    v[i] *= scale;
    ((uint16_t *)a.out)[(uint64_t)block_x() * a.dim + i] = half_of<T>(v[i]);
  }
}

extern "C" int tl_cuda_vector(const struct tl_cuda_vector_args *args, void *stream) {
  if (args->width == 0 || args->width > args->dim) return CUDA_INVALID;
  return args->n ? launch_rows(args->n, args->dtype == TL_CUDA_BF16 ? vector<bf16> : vector<f16>, args->n, 1, THREADS, WARPS * sizeof(float),
                          stream, *args)
                 : 0;
}
