/* SPDX-License-Identifier: MIT */
/* Between T and the stored formats, whole matrices at a time. */
#include "device/cuda/ops/cuda_e4m3.cuh"
#include "device/cuda/ops/cuda_formats.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)

/* --- stored weights to T ------------------------------------------------------------------------ */

/* A thread a piece of 16 bytes. */
template <class T, class W>
TL_KERNEL(THREADS, 1) dequantize(tl_cuda_dequantize_args a) {
  uint64_t piece = (uint64_t)block_x() * THREADS + thread_index(), first = piece * W::PIECE;
  if (first >= (uint64_t)a.n * a.k) return;
  quad raw = load16_once((const char *)a.weight + piece * 16);
  scale_of<W> scale = W::scale(a.scales, first / W::GROUP);
  float factor = SCALES_SUMS<W> ? as_float((uint32_t)scale) : a.format == TL_CUDA_WE4M3 ? ((const float *)a.scales)[first / a.k] : 1;
  TL_UNROLL for (int i = 0; i < (int)W::PIECE / 8; i++) {
    uint32_t pair[4];
    W::expand(raw, scale, i, pair);
    if (SCALES_SUMS<W> || a.format == TL_CUDA_WE4M3) apply_scale<T>(factor, pair);
    store16((uint16_t *)a.out + first + i * 8, {{pair[0], pair[1], pair[2], pair[3]}});
  }
}

template <class T, class W>
static int launch_dequantize(const tl_cuda_dequantize_args *args, void *stream) {
  uint64_t blocks = ((uint64_t)args->n * (args->k / W::PIECE) + THREADS - 1) / THREADS;
  if (!fits<W>(args->k) || blocks > INT32_MAX) return CUDA_INVALID;
  return blocks ? launch(dequantize<T, W>, (unsigned)blocks, 1, THREADS, 0, stream, *args) : 0;
}

template <class T>
static int dequantize_format(const tl_cuda_dequantize_args *args, void *stream) {
  return with_format<T>(args->format, [&](auto w) { return launch_dequantize<T, decltype(w)>(args, stream); });
}

extern "C" int tl_cuda_dequantize(const struct tl_cuda_dequantize_args *args, void *stream) {
  return args->dtype == TL_CUDA_BF16 ? dequantize_format<bf16>(args, stream) : dequantize_format<f16>(args, stream);
}

/* --- rows to E4M3 --------------------------------------------------------------------------------- */

#define HELD 8 /* quads of a row that a thread keeps: rows of up to 16384 elements are read once */

template <class T>
TL_KERNEL(THREADS, 1) quantize(tl_cuda_quantize_args a) {
  let_next_start();
  wait_for_before();
  const uint16_t *x = (const uint16_t *)a.x + (uint64_t)block_x() * a.k;
  uint8_t *out = (uint8_t *)a.out + (uint64_t)block_x() * a.k;
  uint32_t first = thread_index() * 8, rest = first + HELD * THREADS * 8, most = 0;
  quad held[HELD] = {};
  TL_UNROLL for (int p = 0; p < HELD; p++)
    if (first + p * THREADS * 8 < a.k) held[p] = load16(x + first + p * THREADS * 8);
  TL_UNROLL for (int p = 0; p < HELD; p++) most = largest(most, held[p]);
  for (uint32_t i = rest; i < a.k; i += THREADS * 8) most = largest(most, load16(x + i));
  float scale = e4m3_scale<T>(block_largest(most, (uint32_t *)shared_memory(), WARPS)), factor = 1 / scale;
  TL_UNROLL for (int p = 0; p < HELD; p++)
    if (first + p * THREADS * 8 < a.k) store_e4m3<T>(out + first + p * THREADS * 8, held[p], factor);
  for (uint32_t i = rest; i < a.k; i += THREADS * 8) store_e4m3<T>(out + i, load16(x + i), factor);
  if (thread_index() == 0) a.scales[block_x()] = scale;
}

extern "C" int tl_cuda_quantize(const struct tl_cuda_quantize_args *args, void *stream) {
  if (args->k % 16 || args->k == 0) return CUDA_INVALID;
  return args->n ? launch_rows(args->n, args->dtype == TL_CUDA_BF16 ? quantize<bf16> : quantize<f16>, args->n, 1, THREADS,
                               WARPS * sizeof(uint32_t), stream, *args)
                 : 0;
}

/* --- scales of a product of E4M3 ------------------------------------------------------------------ */

/* Eight outputs a thread. */
template <class T>
TL_KERNEL(THREADS, 1) scale(tl_cuda_scale_args a) {
  uint32_t row = block_x(), output = (block_y() * THREADS + thread_index()) * 8;
  let_next_start();
  wait_for_before();
  if (output >= a.n) return;
  float of_row = a.rows[row] * a.factor, v[8];
  if (a.float_out) {
    float *y = (float *)a.y + (uint64_t)row * a.ld + output;
    TL_UNROLL for (int i = 0; i < 8; i++) y[i] *= of_row * a.outputs[output + i];
    return;
  }
  uint16_t *y = (uint16_t *)a.y + (uint64_t)row * a.ld + output;
  unpack8<T>(load16(y), v);
  TL_UNROLL for (int i = 0; i < 8; i++) v[i] *= of_row * a.outputs[output + i];
  store16(y, pack8<T>(v));
}

extern "C" int tl_cuda_scale(const struct tl_cuda_scale_args *args, void *stream) {
  unsigned blocks = (args->n / 8 + THREADS - 1) / THREADS;
  if (args->n % 8 || (!args->float_out && args->ld % 8)) return CUDA_INVALID;
  return args->m && args->n ? launch_rows(args->m, args->dtype == TL_CUDA_BF16 ? scale<bf16> : scale<f16>, args->m, blocks, THREADS, 0, stream, *args)
                            : 0;
}
