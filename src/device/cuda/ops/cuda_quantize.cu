/* SPDX-License-Identifier: MIT */
/* Between T and the stored formats, whole matrices at a time. */
#include "device/cuda/ops/cuda_e4m3.h"
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
  uint32_t scale = W::scale(a.scales, first / W::GROUP);
  float factor = a.format == TL_CUDA_WE4M3 ? ((const float *)a.scales)[first / a.k] : 1;
  TL_UNROLL for (int i = 0; i < (int)W::PIECE / 8; i++) {
    uint32_t pair[4];
    W::expand(raw, scale, i, pair);
    TL_UNROLL for (int p = 0; p < 4; p++)
      if (a.format == TL_CUDA_WE4M3) pair[p] = T::pack(T::low(pair[p]) * factor, T::high(pair[p]) * factor);
    store16((uint16_t *)a.out + first + i * 8, {{pair[0], pair[1], pair[2], pair[3]}});
  }
}

template <class T, class W>
static int launch_dequantize(const tl_cuda_dequantize_args *args, void *stream) {
  uint32_t multiple = args->format == TL_CUDA_WE4M3 ? 16 : 32;
  uint64_t blocks = ((uint64_t)args->n * (args->k / W::PIECE) + THREADS - 1) / THREADS;
  if (args->k % multiple || blocks > INT32_MAX) return CUDA_INVALID;
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

TL_DEVICE float block_max(float v, float *scratch) {
  for (unsigned mask = 16; mask; mask /= 2) {
    float other = shuffle_xor(v, mask);
    v = v > other || v != v ? v : other; /* a NaN wins, whichever side it is on */
  }
  if (lane_index() == 0) scratch[warp_index()] = v;
  sync_block();
  for (int i = 0; i < WARPS; i++) v = v > scratch[i] || v != v ? v : scratch[i];
  return v;
}

template <class T>
TL_KERNEL(THREADS, 1) quantize(tl_cuda_quantize_args a) {
  const uint16_t *x = (const uint16_t *)a.x + (uint64_t)block_x() * a.k;
  float most = 0, v[8];
  for (uint32_t i = thread_index() * 8; i < a.k; i += THREADS * 8) {
    unpack8<T>(load16(x + i), v);
    TL_UNROLL for (int k = 0; k < 8; k++) most = fabsf(v[k]) > most || v[k] != v[k] ? fabsf(v[k]) : most;
  }
  most = block_max(most, (float *)shared_memory());
  float scale = most == 0 ? 1 : most / TL_CUDA_E4M3_MAX;
  for (uint32_t i = thread_index() * 8; i < a.k; i += THREADS * 8) {
    uint32_t out[2] = {0, 0};
    unpack8<T>(load16(x + i), v);
    TL_UNROLL for (int k = 0; k < 8; k++) out[k / 4] |= (uint32_t)tl_cuda_to_e4m3(v[k] / scale) << k % 4 * 8;
    uint32_t *to = (uint32_t *)((uint8_t *)a.out + (uint64_t)block_x() * a.k + i);
    to[0] = out[0];
    to[1] = out[1];
  }
  if (thread_index() == 0) a.scales[block_x()] = scale;
}

extern "C" int tl_cuda_quantize(const struct tl_cuda_quantize_args *args, void *stream) {
  if (args->k % 16 || args->k == 0) return CUDA_INVALID;
  return args->n ? launch(args->dtype == TL_CUDA_BF16 ? quantize<bf16> : quantize<f16>, args->n, 1, THREADS,
                          WARPS * sizeof(float), stream, *args)
                 : 0;
}
