/* SPDX-License-Identifier: MIT */
/* What treats rows or elements on their own: embedding, gather, other orders, bias, gates, caps. One
 * thread moves 16 bytes, neighbours in a row are neighbours in a warp. */
#include "device/cuda/ops/cuda_e4m3.cuh"
#include "device/cuda/ops/cuda_experts.h"
#include "device/cuda/ops/cuda_formats.cuh"
#include "device/cuda/ops/cuda_gate.cuh"

#define THREADS 256
#define FEW_ROWS 1024 /* threads of a block that has a whole row: of few rows more, so that one takes less time */
#define MANY_ROWS 512

/* The 8 elements of this thread, counted through all rows; row and column of the first. */
TL_DEVICE bool my_eight(uint32_t n, uint32_t dim, uint64_t *ret_row, uint32_t *ret_column) {
  uint64_t index = (uint64_t)block_x() * THREADS + thread_index();
  uint32_t width = dim / 8;
  *ret_row = index / width;
  *ret_column = (uint32_t)(index % width) * 8;
  return *ret_row < n;
}

static int launch_eights(uint32_t n, uint32_t dim, unsigned *ret_blocks) {
  uint64_t blocks = ((uint64_t)n * (dim / 8) + THREADS - 1) / THREADS;
  *ret_blocks = (unsigned)blocks;
  return dim % 8 || blocks > INT32_MAX ? CUDA_INVALID : 0;
}

/* --- embedding ------------------------------------------------------------------------------- */

/* The row of the slice that row i of the batch wants; false: none. */
TL_DEVICE bool find_row(const tl_cuda_embed_args &a, uint64_t i, uint64_t *ret) {
  int32_t token = a.tokens[i];
  if (token <= -2) token = a.fed[-2 - token];
  *ret = (uint32_t)token - a.first_token;
  return token >= 0 && (uint32_t)token >= a.first_token && *ret < a.n_slice;
}

TL_KERNEL(THREADS, 1) embed(tl_cuda_embed_args a) {
  uint64_t row, from;
  uint32_t column;
  let_next_start();
  wait_for_before();
  if (!my_eight(a.n, a.dim, &row, &column)) return;
  quad v = {};
  if (find_row(a, row, &from)) v = load16((const uint16_t *)a.weight + from * a.dim + column);
  store16((uint16_t *)a.out + row * a.dim + column, v);
}

/* A thread a piece of 16 stored bytes. */
template <class T, class W>
TL_KERNEL(THREADS, 1) embed_stored(tl_cuda_embed_args a) {
  let_next_start();
  wait_for_before();
  uint64_t index = (uint64_t)block_x() * THREADS + thread_index(), row = index / (a.dim / W::PIECE), from;
  uint32_t column = (uint32_t)(index % (a.dim / W::PIECE)) * W::PIECE;
  if (row >= a.n) return;
  quad raw = {};
  scale_of<W> scale = 0;
  float factor = 1;
  if (find_row(a, row, &from)) { /* else all is zero: codes and scales */
    raw = load16((const char *)a.weight + (from * a.dim + column) / W::PIECE * 16);
    scale = W::scale(a.scales, (from * a.dim + column) / W::GROUP);
    factor = SCALES_SUMS<W> ? as_float((uint32_t)scale) : a.format == TL_CUDA_WE4M3 ? ((const float *)a.scales)[from] : 1;
  }
  TL_UNROLL for (int i = 0; i < (int)W::PIECE / 8; i++) {
    uint32_t pair[4];
    W::expand(raw, scale, i, pair);
    if (SCALES_SUMS<W> || a.format == TL_CUDA_WE4M3) apply_scale<T>(factor, pair);
    store16((uint16_t *)a.out + row * a.dim + column + i * 8, {{pair[0], pair[1], pair[2], pair[3]}});
  }
}

template <class T, class W>
static int launch_embed(const tl_cuda_embed_args *args, void *stream) {
  uint64_t blocks = ((uint64_t)args->n * (args->dim / W::PIECE) + THREADS - 1) / THREADS;
  if (!fits<W>(args->dim) || blocks > INT32_MAX) return CUDA_INVALID;
  return blocks ? launch_rows(args->n, embed_stored<T, W>, (unsigned)blocks, 1, THREADS, 0, stream, *args) : 0;
}

template <class T>
static int embed_format(const tl_cuda_embed_args *args, void *stream) {
  return with_format<T>(args->format, [&](auto w) { return launch_embed<T, decltype(w)>(args, stream); });
}

extern "C" int tl_cuda_embed(const struct tl_cuda_embed_args *args, void *stream) {
  unsigned blocks;
  if (args->format != TL_CUDA_W16)
    return args->dtype == TL_CUDA_BF16 ? embed_format<bf16>(args, stream) : embed_format<f16>(args, stream);
  if (launch_eights(args->n, args->dim, &blocks)) return CUDA_INVALID;
  return blocks ? launch_rows(args->n, embed, blocks, 1, THREADS, 0, stream, *args) : 0;
}

/* --- gather ------------------------------------------------------------------------------------- */

TL_KERNEL(THREADS, 1) gather(tl_cuda_gather_args a) {
  uint64_t row;
  uint32_t column;
  let_next_start();
  wait_for_before();
  if (!my_eight(a.n, a.dim, &row, &column)) return;
  store16((uint16_t *)a.out + row * a.dim + column,
          load16((const uint16_t *)a.in + (uint64_t)a.rows[row] * a.dim + column));
}

extern "C" int tl_cuda_gather(const struct tl_cuda_gather_args *args, void *stream) {
  unsigned blocks;
  if (launch_eights(args->n, args->dim, &blocks)) return CUDA_INVALID;
  return blocks ? launch_rows(args->n, gather, blocks, 1, THREADS, 0, stream, *args) : 0;
}

/* --- other orders ------------------------------------------------------------------------------- */

TL_KERNEL(THREADS, 1) reorder(tl_cuda_reorder_args a) {
  uint64_t row;
  uint32_t column, pair[4];
  let_next_start();
  wait_for_before();
  if (!my_eight(a.n, a.k, &row, &column)) return;
  uint64_t from = row, to = row;
  const uint32_t *order = a.order + column;
  if (a.places) {
    to = a.places[row];
    if (to == TL_CUDA_NO_ENTRY) return;
    from = a.n_chosen ? row / a.n_chosen : to;
    order += (uint64_t)(a.chosen[row] - a.first_expert) * a.k;
  }
  const uint16_t *in = (const uint16_t *)a.in + from * a.k;
  quad at[2] = {load16(order), load16(order + 4)};
  TL_UNROLL for (int i = 0; i < 4; i++) pair[i] = in[at[i / 2].w[i % 2 * 2]] | (uint32_t)in[at[i / 2].w[i % 2 * 2 + 1]] << 16;
  store16((uint16_t *)a.out + to * a.k + column, {{pair[0], pair[1], pair[2], pair[3]}});
}

template <class T>
TL_KERNEL(THREADS, 1) share_out(tl_cuda_reorder_args a) {
  uint64_t row;
  uint32_t column;
  float v[8];
  let_next_start();
  wait_for_before();
  if (!my_eight(a.n, a.k, &row, &column) || a.places[row] == TL_CUDA_NO_ENTRY) return;
  unpack8<T>(load16((const uint16_t *)a.in + row / a.n_chosen * a.k + column), v);
  TL_UNROLL for (int i = 0; i < 8; i++) v[i] *= a.shares[row];
  store16((uint16_t *)a.out + (uint64_t)a.places[row] * a.k + column, pack8<T>(v));
}

extern "C" int tl_cuda_reorder(const struct tl_cuda_reorder_args *args, void *stream) {
  unsigned blocks;
  if (launch_eights(args->n, args->k, &blocks)) return CUDA_INVALID;
  if (args->shares && (!args->places || args->n_chosen == 0)) return CUDA_INVALID;
  if (args->shares && blocks)
    return launch_rows(args->n, args->dtype == TL_CUDA_BF16 ? share_out<bf16> : share_out<f16>, blocks, 1, THREADS, 0, stream, *args);
  return blocks ? launch_rows(args->n, reorder, blocks, 1, THREADS, 0, stream, *args) : 0;
}

/* --- bias --------------------------------------------------------------------------------------- */

template <class T>
TL_KERNEL(THREADS, 1) add_bias(tl_cuda_bias_args a) {
  uint64_t row;
  uint32_t column;
  let_next_start();
  wait_for_before();
  if (!my_eight(a.n, a.dim, &row, &column)) return;
  uint16_t *y = (uint16_t *)a.y + row * a.dim + column;
  float v[8];
  unpack8<T>(load16(y), v);
  TL_UNROLL for (int i = 0; i < 8; i++) v[i] += a.bias[column + i];
  store16(y, pack8<T>(v));
}

extern "C" int tl_cuda_bias(const struct tl_cuda_bias_args *args, void *stream) {
  unsigned blocks;
  if (launch_eights(args->n, args->dim, &blocks)) return CUDA_INVALID;
  return blocks ? launch_rows(args->n, args->dtype == TL_CUDA_BF16 ? add_bias<bf16> : add_bias<f16>, blocks, 1, THREADS, 0, stream,
                         *args)
                : 0;
}

/* --- gates ---------------------------------------------------------------------------------------- */

TL_DEVICE float bent(const float *curve, float x) {
  return (x > 0 ? curve[0] * x * x : curve[1] * (expm1f(fminf(x, curve[3])) - x)) + curve[2] * x;
}

TL_DEVICE float gate_of(int gate, float x, float up) {
  if (gate >= TL_CUDA_RELU2) return (x < 0 ? 0 : gate == TL_CUDA_RELU ? x : x * x) * up;
  return gate == TL_CUDA_GELU_ERF ? gelu_erf(x) * up : let_through(gate, x, up);
}

/* Eight of a row. */
template <class T>
TL_DEVICE quad gate_eight(const tl_cuda_glu_args &a, uint64_t row, uint32_t column, float of_row) {
  const uint16_t *in = (const uint16_t *)a.gate_up + row * (a.alone ? 1 : 2) * a.dim + column;
  float gate[8], up[8];
  unpack8<T>(load16(in), gate);
  scale_outputs(a.left, of_row, column, gate);
  if (!a.alone) {
    unpack8<T>(load16(in + a.dim), up);
    scale_outputs(a.left, of_row, a.dim + column, up);
  }
  TL_UNROLL for (int i = 0; i < 8; i++) {
    if (a.bias) gate[i] += a.bias[column + i];
    if (a.alone)
      up[i] = 1;
    else if (a.bias)
      up[i] += a.bias[a.dim + column + i];
    gate[i] = a.gate == TL_CUDA_XIELU ? bent(a.curve, gate[i]) * up[i] : gate_of(a.gate, gate[i], up[i]);
  }
  return pack8<T>(gate);
}

template <class T>
TL_KERNEL(THREADS, 1) glu(tl_cuda_glu_args a) {
  uint64_t row;
  uint32_t column;
  let_next_start();
  wait_for_before();
  if (!my_eight(a.n, a.dim, &row, &column)) return;
  store16((uint16_t *)a.out + row * a.dim + column, gate_eight<T>(a, row, column, row_factor(a.left, row)));
}

/* A block a row, kept in shared memory until its largest is known; each thread reads what it wrote. */
template <class T, int ROUNDING>
TL_KERNEL(ROUNDING, 1) glu_rounded(tl_cuda_glu_args a) {
  let_next_start();
  for (uint32_t i = thread_index() * 8; a.left.rows && i < (a.alone ? 1 : 2) * a.dim; i += ROUNDING * 8) fetch_ahead(a.left.outputs + i);
  wait_for_before();
  uint16_t *kept = (uint16_t *)shared_memory();
  uint64_t row = block_x();
  float of_row = row_factor(a.left, row);
  uint32_t most = 0;
  for (uint32_t i = thread_index() * 8; i < a.dim; i += ROUNDING * 8) {
    quad v = gate_eight<T>(a, row, i, of_row);
    store16(kept + i, v);
    most = largest(most, v);
  }
  float scale = e4m3_scale<T>(block_largest(most, (uint32_t *)(kept + a.dim), ROUNDING / 32)), factor = 1 / scale;
  for (uint32_t i = thread_index() * 8; i < a.dim; i += ROUNDING * 8)
    store_e4m3<T>((uint8_t *)a.rounded + row * a.dim + i, load16(kept + i), factor);
  if (thread_index() == 0) a.scales[row] = scale;
}

template <class T, int ROUNDING>
static int launch_rounded_by(const tl_cuda_glu_args *args, void *stream) {
  size_t shared = args->dim * sizeof(uint16_t) + ROUNDING / 32 * sizeof(uint32_t);
  if (args->dim % 8 || args->dim > TL_CUDA_GLU_ROUNDED_DIM || !args->scales) return CUDA_INVALID;
  return args->n ? launch_rows(args->n, glu_rounded<T, ROUNDING>, args->n, 1, ROUNDING, shared, stream, *args) : 0;
}

template <class T>
static int launch_rounded(const tl_cuda_glu_args *args, void *stream) {
  return args->n <= TL_CUDA_EARLY_ROWS ? launch_rounded_by<T, FEW_ROWS>(args, stream) : launch_rounded_by<T, MANY_ROWS>(args, stream);
}

extern "C" int tl_cuda_glu(const struct tl_cuda_glu_args *args, void *stream) {
  unsigned blocks;
  if (args->rounded) return args->dtype == TL_CUDA_BF16 ? launch_rounded<bf16>(args, stream) : launch_rounded<f16>(args, stream);
  if (launch_eights(args->n, args->dim, &blocks)) return CUDA_INVALID;
  return blocks ? launch_rows(args->n, args->dtype == TL_CUDA_BF16 ? glu<bf16> : glu<f16>, blocks, 1, THREADS, 0, stream, *args) : 0;
}

/* --- logits --------------------------------------------------------------------------------------- */

/* Four of a row at a time; what lies between vocab and ld may be anything. */
TL_KERNEL(THREADS, 1) cap(tl_cuda_cap_args a) {
  let_next_start();
  wait_for_before();
  uint64_t index = (uint64_t)block_x() * THREADS + thread_index();
  if (index >= (uint64_t)a.n * (a.ld / 4)) return;
  quad v = load16(a.logits + index * 4);
  TL_UNROLL for (int i = 0; i < 4; i++) {
    uint32_t column = (uint32_t)(index % (a.ld / 4)) * 4 + i;
    float logit = (as_float(v.w[i]) + (a.bias && column < a.vocab ? a.bias[column] : 0)) * a.factor;
    v.w[i] = as_bits(a.softcap != 0 ? a.softcap * tanhf(logit / a.softcap) : logit);
  }
  store16(a.logits + index * 4, v);
}

extern "C" int tl_cuda_cap(const struct tl_cuda_cap_args *args, void *stream) {
  uint64_t blocks = ((uint64_t)args->n * (args->ld / 4) + THREADS - 1) / THREADS;
  if (args->ld % 4 || args->ld < args->vocab || blocks > INT32_MAX) return CUDA_INVALID;
  return blocks ? launch_rows(args->n, cap, (unsigned)blocks, 1, THREADS, 0, stream, *args) : 0;
}
