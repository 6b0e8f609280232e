/* SPDX-License-Identifier: MIT */
/* The residual sum and the norms on both sides of it: a block a row, the row in shared memory
 * between the sum of squares and the scaling; each thread reads what it wrote. Of few rows a block has more threads, so that
 * one takes less time: of many, smaller blocks fill a multiprocessor better. */
#include "device/cuda/ops/cuda_attend.cuh"
#include "device/cuda/ops/cuda_delta.cuh"
#include "device/cuda/ops/cuda_e4m3.cuh"
#include "device/cuda/ops/cuda_gemv.cuh"

#define MANY_ROWS 256 /* threads of a block */
#define FEW_ROWS 512
#define MAX_DIM 24576 /* the row and the sums stay below CUDA_MOST_SHARED */

static size_t shared_bytes(uint32_t dim) {
  return ((size_t)dim + FEW_ROWS / 32) * sizeof(float);
}

/* Eight elements of a row that lies in parts, some of which are read at a time; summed up in their order. */
TL_DEVICE void sum_parts(const tl_cuda_rest &l, uint64_t at, uint64_t pitch, float (&v)[8]) {
  const uint32_t AHEAD = 4;
  TL_UNROLL for (int k = 0; k < 8; k++) v[k] = 0;
  for (uint32_t first = 0; first < l.n_parts; first += AHEAD) {
    quad part[AHEAD][2];
    TL_UNROLL for (uint32_t p = 0; p < AHEAD; p++) {
      const float *from = l.parts + (first + p) * pitch + at;
      TL_UNROLL for (uint32_t half = 0; half < 2; half++) part[p][half] = first + p < l.n_parts ? load16(from + half * 4) : quad{};
    }
    TL_UNROLL for (uint32_t p = 0; p < AHEAD; p++)
      TL_UNROLL for (int k = 0; k < 8; k++) v[k] += as_float(part[p][k / 4].w[k % 4]);
  }
}

template <class T>
TL_DEVICE void load_delta(const tl_cuda_add_norm_args &a, uint64_t base, uint32_t i, float of_row, float (&v)[8]) {
  if (a.left.parts)
    sum_parts(a.left, base + i, (uint64_t)a.left.part_rows * a.dim, v);
  else
    unpack8<T>(load16((const uint16_t *)a.delta + base + i), v);
  scale_outputs(a.left, of_row, i, v);
}

/* What each element of delta is multiplied by, but for `post`. */
template <class T, int THREADS>
TL_DEVICE float delta_scale(const tl_cuda_add_norm_args &a, uint64_t base, float of_row, float *sums) {
  if (!a.post) return a.factor;
  float sum = 0;
  for (uint32_t i = thread_index() * 8; i < a.dim; i += THREADS * 8) {
    float v[8];
    load_delta<T>(a, base, i, of_row, v);
    TL_UNROLL for (int k = 0; k < 8; k++) sum += v[k] * v[k];
  }
  return a.factor / sqrtf(block_sum(sum, sums, THREADS / 32) * a.factor * a.factor / (float)a.width + a.post_eps);
}

/* x += delta, in memory, unless the norm is to go there, and in `row`; this thread's part of the sum of x, or of its squares. */
template <class T, int THREADS>
TL_DEVICE float add_delta(const tl_cuda_add_norm_args &a, uint64_t base, float of_row, float scale, float *row) {
  float sum = 0;
  for (uint32_t i = thread_index() * 8; i < a.dim; i += THREADS * 8) {
    float v[8];
    load_delta<T>(a, base, i, of_row, v);
    quad halves[2] = {};
    if (!a.first) {
      halves[0] = load16(a.x + base + i);
      halves[1] = load16(a.x + base + i + 4);
    }
    TL_UNROLL for (int k = 0; k < 8; k++) {
      v[k] = v[k] * (a.post ? scale * a.post[i + k] : scale) + as_float(halves[k / 4].w[k % 4]); /* the first one adds to zero */
      halves[k / 4].w[k % 4] = as_bits(v[k]);
      sum += a.centered ? v[k] : v[k] * v[k];
    }
    if (!a.in_place) {
      store16(a.x + base + i, halves[0]);
      store16(a.x + base + i + 4, halves[1]);
    }
    store16(row + i, halves[0]);
    store16(row + i + 4, halves[1]);
  }
  return sum;
}

template <int THREADS>
TL_DEVICE float deviations(const tl_cuda_add_norm_args &a, const float *row, float mean) {
  float sum = 0;
  for (uint32_t i = thread_index() * 8; i < a.dim; i += THREADS * 8)
    TL_UNROLL for (uint32_t k = 0; k < 8; k++) sum += i + k < a.width ? (row[i + k] - mean) * (row[i + k] - mean) : 0;
  return sum;
}

/* What the row will be multiplied by, on its way while the kernel before ends. */
template <int THREADS>
TL_DEVICE void fetch_constants(const tl_cuda_add_norm_args &a) {
  for (uint32_t i = thread_index() * 8; i < a.dim; i += THREADS * 8) {
    if (a.weight) fetch_ahead(a.weight + i);
    if (a.shift) fetch_ahead(a.shift + i);
    if (a.post) fetch_ahead(a.post + i);
    if (a.left.rows) fetch_ahead(a.left.outputs + i);
  }
}

/* A row of h, kept in `row` as each thread has written it there, to E4M3. */
template <class T, int THREADS>
TL_DEVICE void round_row(const tl_cuda_add_norm_args &a, uint64_t base, const float *row, uint32_t most, float *scratch) {
  sync_block(); /* all have read what the scratch had */
  float scale = e4m3_scale<T>(block_largest(most, (uint32_t *)scratch, THREADS / 32)), factor = 1 / scale;
  for (uint32_t i = thread_index() * 8; i < a.dim; i += THREADS * 8) store_e4m3<T>((uint8_t *)a.rounded + base + i, load16(row + i), factor);
  if (thread_index() == 0) a.scales[block_x()] = scale;
}

template <class T, int THREADS>
TL_KERNEL(THREADS, 1024 / THREADS) add_norm(tl_cuda_add_norm_args a) {
  let_next_start();
  fetch_constants<THREADS>(a);
  wait_for_before();
  float *row = (float *)shared_memory(), *sums = row + a.dim, mean = 0, scale = 1;
  uint64_t base = (uint64_t)block_x() * a.dim;
  float of_row = row_factor(a.left, block_x());
  float sum = add_delta<T, THREADS>(a, base, of_row, delta_scale<T, THREADS>(a, base, of_row, sums), row);
  if (a.centered) {
    mean = block_sum(sum, sums, THREADS / 32) / (float)a.width;
    sum = deviations<THREADS>(a, row, mean);
  }
  if (a.weight) scale = 1 / sqrtf(block_sum(sum, sums, THREADS / 32) / (float)a.width + a.eps);
  uint32_t most = 0;
  for (uint32_t i = thread_index() * 8; i < a.dim; i += THREADS * 8) {
    float v[8];
    TL_UNROLL for (int k = 0; k < 8; k++) {
      v[k] = (row[i + k] - mean) * scale;
      if (a.weight) v[k] *= a.weight[i + k];
      if (a.shift) v[k] += a.shift[i + k];
      if (a.in_place) a.x[base + i + k] = v[k];
    }
    quad h = pack8<T>(v);
    if (a.rounded) {
      most = largest(most, h);
      store16(row + i, h);
    } else {
      store16((uint16_t *)a.h + base + i, h);
    }
  }
  if (a.rounded) round_row<T, THREADS>(a, base, row, most, sums);
}

template <class T>
static int launch_norm(const tl_cuda_add_norm_args *args, void *stream) {
  size_t shared = shared_bytes(args->dim);
  return args->n <= TL_CUDA_STREAM_ROWS ? launch_rows(args->n, add_norm<T, FEW_ROWS>, args->n, 1, FEW_ROWS, shared, stream, *args)
                                        : launch_rows(args->n, add_norm<T, MANY_ROWS>, args->n, 1, MANY_ROWS, shared, stream, *args);
}

extern "C" int tl_cuda_add_norm(const struct tl_cuda_add_norm_args *args, void *stream) {
  if (args->dim % 8 || args->dim > MAX_DIM || args->width == 0 || args->width > args->dim || (args->rounded && !args->scales)) return CUDA_INVALID;
  if (args->n == 0) return 0;
  return args->dtype == TL_CUDA_BF16 ? launch_norm<bf16>(args, stream) : launch_norm<f16>(args, stream);
}

template <class T>
static int allow_large() {
  int e = allow_shared(add_norm<T, FEW_ROWS>, shared_bytes(MAX_DIM));
  return e ? e : allow_shared(add_norm<T, MANY_ROWS>, shared_bytes(MAX_DIM));
}

/* These, attention's and products of some rows are the only kernels that may want more than 48 KiB. */
extern "C" int tl_cuda_prepare(void) {
  int e = allow_large<bf16>();
  if (!e) e = allow_large<f16>();
  if (!e) e = cuda_prepare_batch();
  if (!e) e = cuda_prepare_latent();
  if (!e) e = cuda_prepare_delta();
  if (!e) e = cuda_prepare_scan();
  if (!e) e = cuda_prepare_decode();
  return e ? e : cuda_prepare_prefill();
}
