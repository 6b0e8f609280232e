/* SPDX-License-Identifier: MIT */
/* What lies around the delta rule and in place of it: convolutions along a sequence, and gates. One thread has 8 channels, neighbours in
 * a row are neighbours in a warp. */
#include "device/cuda/ops/cuda_delta.h"
#include "device/cuda/ops/cuda_gate.cuh"

#define CONV_THREADS 128
#define NORM_WARPS 4
#define THREADS 256
#define CONV TL_CUDA_MAX_CONV

static_assert(TL_CUDA_CONV_ROWS >= TL_CUDA_MAX_CONV - 1, "a tile behind the first has all rows before it in the step");
static_assert(sizeof(tl_cuda_stretch) == sizeof(quad) && sizeof(tl_cuda_conv_tile) == 8, "as they are loaded");

/* --- convolutions ----------------------------------------------------------------------------- */

/* Eight channels of a stretch. */
struct conv_place {
  const uint16_t *in;    /* of its first row */
  const uint16_t *state; /* of the state before, NULL: zeros */
  uint32_t ld, n_channels, kept; /* kept: rows of a state */
};

/* u of a row of the stretch, or below 0 of the state before. */
template <class T, bool GATED>
TL_DEVICE quad load_u(const conv_place &p, int64_t row) {
  if (row < 0) return p.state ? load16(p.state + (uint64_t)(row + p.kept) * p.n_channels) : quad{};
  const uint16_t *in = p.in + (uint64_t)row * p.ld;
  if (!GATED) return load16(in);
  float b[8], x[8];
  unpack8<T>(load16(in), b);
  unpack8<T>(load16(in + 2 * p.n_channels), x);
  TL_UNROLL for (int i = 0; i < 8; i++) b[i] *= x[i];
  return pack8<T>(b);
}

/* Of the channels, the weight of the row that is CONV - 1 - j before: zeros where the convolution does not look. */
template <class T>
TL_DEVICE void load_weights(const uint16_t *weight, uint32_t conv, float (&w)[CONV][8]) {
  TL_UNROLL for (uint32_t j = 0; j < CONV; j++)
    TL_UNROLL for (uint32_t i = 0; i < 8; i++) w[j][i] = j + conv < CONV ? 0 : T::low(weight[i * conv + j + conv - CONV]);
}

/* The state behind the stretch, by who has its first rows: nobody else looks at the state before, in whose place this may be. */
template <class T, bool GATED>
TL_DEVICE void keep(const conv_place &p, uint32_t n_rows, uint16_t *to) {
  quad v[CONV - 1];
  TL_UNROLL for (uint32_t i = 0; i < CONV - 1; i++) v[i] = i < p.kept ? load_u<T, GATED>(p, tl_cuda_kept_row(n_rows, p.kept + 1, i)) : quad{};
  TL_UNROLL for (uint32_t i = 0; i < CONV - 1; i++)
    if (i < p.kept) store16(to + (uint64_t)i * p.n_channels, v[i]);
}

/* A row's sum over the window, the oldest row first. */
TL_DEVICE float convolve(const float (&window)[CONV][8], const float (&w)[CONV][8], int i) {
  float sum = 0;
  TL_UNROLL for (int j = 0; j < CONV; j++) sum = fmaf(window[j][i], w[j][i], sum);
  return sum;
}

/* What becomes of a row's sums. */
template <class T, bool GATED>
TL_DEVICE quad finish(const tl_cuda_conv_args &a, const uint16_t *row, const float (&bias)[8], float (&v)[8]) {
  float z[8];
  if (GATED) unpack8<T>(load16(row + a.n_channels), z);
  TL_UNROLL for (int i = 0; i < 8; i++) v[i] = GATED ? z[i] * (v[i] + bias[i]) : silu(v[i] + bias[i]);
  return pack8<T>(v);
}

template <class T, bool GATED>
TL_KERNEL(CONV_THREADS, 1) conv(tl_cuda_conv_args a) {
  let_next_start();
  uint32_t channel = (block_x() * CONV_THREADS + thread_index()) * 8, index = load_early(&a.tiles[block_y()].stretch);
  uint32_t at = load_early(&a.tiles[block_y()].at);
  quad stretch = load16_early(a.stretches + index); /* row, n_rows, from, to */
  float w[CONV][8], bias[8], window[CONV][8], v[8];
  wait_for_before();
  if (channel >= a.n_channels || at >= stretch.w[1]) return;
  load_weights<T>((const uint16_t *)a.weight + (uint64_t)channel * a.conv, a.conv, w);
  TL_UNROLL for (int i = 0; i < 8; i++) bias[i] = a.bias ? a.bias[channel + i] : 0;
  uint64_t of_state = (uint64_t)(a.conv - 1) * a.n_channels;
  uint16_t *states = (uint16_t *)a.states + channel;
  conv_place p = {(const uint16_t *)a.in + (uint64_t)stretch.w[0] * a.ld + channel,
                  stretch.w[2] == TL_NO_STATE ? nullptr : states + stretch.w[2] * of_state, a.ld, a.n_channels, a.conv - 1};
  TL_UNROLL for (int j = 0; j < CONV - 1; j++) {
    int64_t row = (int64_t)at - (CONV - 1) + j;
    quad u = row + (int64_t)p.kept < 0 ? quad{} : load_u<T, GATED>(p, row);
    unpack8<T>(u, window[j + 1]);
  }
  if (at == 0 && stretch.w[3] != TL_NO_STATE) keep<T, GATED>(p, stretch.w[1], states + stretch.w[3] * of_state);
  uint32_t end = stretch.w[1] - at < TL_CUDA_CONV_ROWS ? stretch.w[1] : at + TL_CUDA_CONV_ROWS;
  for (; at < end; at++) {
    TL_UNROLL for (int j = 0; j < CONV - 1; j++) TL_UNROLL for (int i = 0; i < 8; i++) window[j][i] = window[j + 1][i];
    unpack8<T>(load_u<T, GATED>(p, at), window[CONV - 1]);
    TL_UNROLL for (int i = 0; i < 8; i++) v[i] = convolve(window, w, i);
    quad out = finish<T, GATED>(a, p.in + (uint64_t)at * a.ld, bias, v);
    store16((uint16_t *)a.out + (uint64_t)(stretch.w[0] + at) * a.n_channels + channel, out);
  }
}

template <class T>
static int launch_conv(const tl_cuda_conv_args *args, void *stream) {
  unsigned blocks = (args->n_channels / 8 + CONV_THREADS - 1) / CONV_THREADS;
  return launch_rows(args->max_rows, args->gated ? conv<T, true> : conv<T, false>, blocks, args->n_tiles, CONV_THREADS, 0, stream, *args);
}

extern "C" int tl_cuda_conv(const struct tl_cuda_conv_args *args, void *stream) {
  if (args->n_channels % 8 || args->ld % 8 || args->conv == 0 || args->conv > CONV || args->n_tiles > UINT16_MAX) return CUDA_INVALID;
  if (args->n_tiles == 0 || args->n_channels == 0) return 0;
  return args->dtype == TL_CUDA_BF16 ? launch_conv<bf16>(args, stream) : launch_conv<f16>(args, stream);
}

/* --- norms with a gate ------------------------------------------------------------------------- */

/* A warp a head. */
template <class T>
TL_KERNEL(NORM_WARPS * 32, 1) gated_norm(tl_cuda_gated_norm_args a) {
  let_next_start();
  uint64_t head = (uint64_t)block_x() * NORM_WARPS + warp_index(), row = head / a.n_heads;
  uint32_t i = lane_index() * 8;
  bool valid = row < a.n && i < a.head_dim;
  uint16_t *x = (uint16_t *)a.x + head * a.head_dim + i;
  float v[8], z[8], sum = 0;
  wait_for_before();
  unpack8<T>(valid ? load16(x) : quad{}, v);
  unpack8<T>(valid ? load16((const uint16_t *)a.z + row * a.ld_z + head % a.n_heads * a.head_dim + i) : quad{}, z);
  TL_UNROLL for (int k = 0; k < 8; k++) sum = fmaf(v[k], v[k], sum);
  float scale = 1 / sqrtf(warp_sum(sum) / (float)a.width + a.eps);
  if (!valid) return;
  TL_UNROLL for (int k = 0; k < 8; k++) v[k] *= scale * a.weight[i + k] * silu(z[k]);
  store16(x, pack8<T>(v));
}

/* Eight of x times their gates. */
template <class T>
TL_DEVICE void load_gated(const uint16_t *x, const uint16_t *gate, float (&v)[8]) {
  float z[8];
  unpack8<T>(load16(x), v);
  unpack8<T>(load16(gate), z);
  TL_UNROLL for (int k = 0; k < 8; k++) v[k] *= silu(z[k]);
}

/* A block a head, which is long. */
template <class T>
TL_KERNEL(THREADS, 1) gate_norm(tl_cuda_gated_norm_args a) {
  let_next_start();
  uint32_t row = block_x() / a.n_heads, head = block_x() % a.n_heads;
  uint16_t *x = (uint16_t *)a.x + (uint64_t)block_x() * a.head_dim;
  const uint16_t *gate = (const uint16_t *)a.z + (uint64_t)row * a.ld_z + (uint64_t)head * a.head_dim;
  const float *weight = a.weight + (uint64_t)head * a.head_dim;
  float *squares = a.squares + (uint64_t)row * a.n_groups, v[8], sum = 0;
  wait_for_before();
  for (uint32_t i = thread_index() * 8; i < a.head_dim && (a.measures || !a.squares); i += THREADS * 8) {
    load_gated<T>(x + i, gate + i, v);
    TL_UNROLL for (int k = 0; k < 8; k++) sum = fmaf(v[k], v[k], sum);
  }
  sum = a.squares && !a.measures ? squares[a.group] : block_sum(sum, (float *)shared_memory(), THREADS / 32);
  if (a.measures) {
    for (uint32_t i = thread_index(); i < a.n_groups; i += THREADS) squares[i] = i == a.group ? sum : 0;
    return;
  }
  float scale = 1 / sqrtf(sum / (float)a.width + a.eps);
  for (uint32_t i = thread_index() * 8; i < a.head_dim; i += THREADS * 8) {
    load_gated<T>(x + i, gate + i, v);
    TL_UNROLL for (int k = 0; k < 8; k++) v[k] *= scale * weight[i + k];
    store16(x + i, pack8<T>(v));
  }
}

static int launch_gate_norm(const tl_cuda_gated_norm_args *args, void *stream) {
  uint64_t blocks = (uint64_t)args->n * args->n_heads;
  if (args->head_dim % 8 || args->width == 0 || args->ld_z % 8 || blocks > INT32_MAX) return CUDA_INVALID;
  if (args->squares ? args->n_heads != 1 || args->group >= args->n_groups : args->measures || args->width > args->head_dim) return CUDA_INVALID;
  return blocks ? launch_rows(args->n, args->dtype == TL_CUDA_BF16 ? gate_norm<bf16> : gate_norm<f16>, (unsigned)blocks, 1, THREADS,
                              THREADS / 32 * sizeof(float), stream, *args)
                : 0;
}

extern "C" int tl_cuda_gated_norm(const struct tl_cuda_gated_norm_args *args, void *stream) {
  if (args->gate_first) return launch_gate_norm(args, stream);
  uint64_t blocks = ((uint64_t)args->n * args->n_heads + NORM_WARPS - 1) / NORM_WARPS;
  if (args->head_dim % 8 || args->head_dim > 256 || args->width == 0 || args->width > args->head_dim || args->ld_z % 8 || blocks > INT32_MAX) return CUDA_INVALID;
  return blocks ? launch_rows(args->n, args->dtype == TL_CUDA_BF16 ? gated_norm<bf16> : gated_norm<f16>, (unsigned)blocks, 1, NORM_WARPS * 32, 0,
                              stream, *args)
                : 0;
}

/* --- the gate of attention --------------------------------------------------------------------- */

template <class T>
TL_KERNEL(THREADS, 1) gate(tl_cuda_gate_args a) {
  let_next_start();
  uint64_t at = ((uint64_t)block_x() * THREADS + thread_index()) * 8;
  float v[8], z[8];
  wait_for_before();
  if (at >= (uint64_t)a.n * a.dim) return;
  unpack8<T>(load16((const uint16_t *)a.z + at), z);
  unpack8<T>(load16((const uint16_t *)a.x + at), v);
  TL_UNROLL for (int k = 0; k < 8; k++) v[k] /= 1 + expf(-z[k]);
  store16((uint16_t *)a.x + at, pack8<T>(v));
}

extern "C" int tl_cuda_gate(const struct tl_cuda_gate_args *args, void *stream) {
  uint64_t blocks = ((uint64_t)args->n * (args->dim / 8) + THREADS - 1) / THREADS;
  if (args->dim % 8 || blocks > INT32_MAX) return CUDA_INVALID;
  return blocks ? launch_rows(args->n, args->dtype == TL_CUDA_BF16 ? gate<bf16> : gate<f16>, (unsigned)blocks, 1, THREADS, 0, stream, *args) : 0;
}
