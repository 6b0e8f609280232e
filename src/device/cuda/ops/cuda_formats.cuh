/* SPDX-License-Identifier: MIT */
/* Stored weights to pairs of a 16-bit type, in registers. A format says how many
 * elements 16 bytes hold, where the scale of such a piece comes from (`group` counts
 * 32 elements), and what its i-th eight elements are. */
#ifndef CUDA_FORMATS_CUH
#define CUDA_FORMATS_CUH

#include "device/cuda/ops/cuda_port.cuh"

template <class T>
struct w16 {
  static const uint32_t PIECE = 8;
  TL_METHOD uint32_t scale(const void *, uint64_t) {
    return 0;
  }
  TL_METHOD void expand(quad raw, uint32_t, int, uint32_t (&pair)[4]) {
    TL_UNROLL for (int p = 0; p < 4; p++) pair[p] = raw.w[p];
  }
};

/* E4M3 (OCP OFP8): its seven bits, shifted into place, are a float whose exponent is
 * too small by the difference of the biases; so are its subnormals. */
template <class T>
struct we4m3 {
  static const uint32_t PIECE = 16;
  TL_METHOD uint32_t scale(const void *, uint64_t) {
    return 0; /* one for an output: its user applies it */
  }
  TL_METHOD void expand(quad raw, uint32_t, int i, uint32_t (&pair)[4]) {
    const float bias = T::IS_BF16 ? 0x1p120f : 0x1p8f;
    TL_UNROLL for (int p = 0; p < 4; p++) {
      uint32_t high = pick_bytes(raw.w[i * 2 + p / 2], 0, p % 2 ? 0x3424 : 0x1404); /* each in a half's upper byte */
      uint32_t value = (high & 0x80008000u) | (high & 0x7f007f00u) >> (T::IS_BF16 ? 4 : 1);
      pair[p] = T::fma(value, T::pack(bias, bias), 0x80008000u); /* minus zero: keeps the sign of zero */
    }
  }
};

/* As unsigned bytes in the last bits of 2^23 they are floats. */
template <class T>
struct wint8 {
  static const uint32_t PIECE = 16;
  TL_METHOD uint32_t scale(const void *scales, uint64_t group) {
    return ((const uint16_t *)scales)[group];
  }
  TL_METHOD void expand(quad raw, uint32_t scale, int i, uint32_t (&pair)[4]) {
    float factor = f16::low(scale);
    TL_UNROLL for (int p = 0; p < 4; p++) {
      uint32_t bytes = raw.w[i * 2 + p / 2] ^ 0x80808080u;
      float low = as_float(pick_bytes(bytes, 0x4b000000u, p % 2 ? 0x7442 : 0x7440)) - 8388736.0f;
      float high = as_float(pick_bytes(bytes, 0x4b000000u, p % 2 ? 0x7443 : 0x7441)) - 8388736.0f;
      pair[p] = T::pack(low * factor, high * factor);
    }
  }
};

/* As the last bits of a power of two whose last bit is worth 1. */
template <class T>
struct wint4 {
  static const uint32_t PIECE = 32;
  TL_METHOD uint32_t scale(const void *scales, uint64_t group) {
    return ((const uint32_t *)scales)[group];
  }
  TL_METHOD void expand(quad raw, uint32_t scale, int i, uint32_t (&pair)[4]) {
    const float base = T::IS_BF16 ? 128.0f : 1024.0f;
    uint32_t ones = T::pack(1, 1), minus_base = T::pack(-base, -base), bits = T::pack(base, base);
    uint32_t factor = T::pack(f16::low(scale), f16::low(scale)), minus_min = T::pack(-f16::high(scale), -f16::high(scale));
    TL_UNROLL for (int p = 0; p < 4; p++) {
      uint32_t value = (raw.w[i] >> 4 * p & 0x000f000fu) | bits;
      pair[p] = T::fma(T::fma(value, ones, minus_base), factor, minus_min);
    }
  }
};

#endif
