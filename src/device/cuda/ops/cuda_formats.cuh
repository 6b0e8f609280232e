/* SPDX-License-Identifier: MIT */
/* Stored weights to pairs of a 16-bit type, in registers. A format says how many
 * elements 16 bytes hold, how many share a scale and if they have one, where that of a piece comes from
 * (`group` counts them), and what its i-th eight elements are. */
#ifndef CUDA_FORMATS_CUH
#define CUDA_FORMATS_CUH

#include "device/cuda/ops/cuda_port.cuh"

template <class T>
struct w16 {
  static const uint32_t PIECE = 8, GROUP = 32;
  static const bool SCALED = false;
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
  static const uint32_t PIECE = 16, GROUP = 32;
  static const bool SCALED = false;
  TL_METHOD uint32_t scale(const void *, uint64_t) {
    return 0; /* one for an output: its user applies it */
  }
  TL_METHOD void expand(quad raw, uint32_t, int i, uint32_t (&pair)[4]) {
    const float bias = T::IS_BF16 ? 0x1p120f : 0x1p8f;
    TL_UNROLL for (int p = 0; p < 4; p++) {
      uint32_t wide = pick_bytes(raw.w[i * 2 + p / 2], 0, p % 2 ? 0xb3a2 : 0x9180); /* each in a half, its sign in the upper byte */
      uint32_t value = T::IS_BF16 ? wide << 4 & 0x87f087f0u : wide << 7 & 0xbf80bf80u;
      pair[p] = T::fma(value, T::pack(bias, bias), 0x80008000u); /* minus zero: keeps the sign of zero */
    }
  }
};

/* With a scale for 128. */
template <class T>
struct we4m3_blocks : we4m3<T> {
  static const uint32_t GROUP = 128;
  static const bool SCALED = true;
  TL_METHOD uint32_t scale(const void *scales, uint64_t group) {
    return ((const uint32_t *)scales)[group];
  }
};

/* An integer below 2^23, without a conversion. */
TL_DEVICE float small_float(uint32_t n) {
  return as_float(0x4b000000u | n) - 8388608.0f;
}

/* Bytes to pairs of T: times a factor, less a min if there is one. Rounded to T once; but for the min, all before that is exact. */
template <class T>
struct scaled_bytes {
  /* As unsigned bytes in a float of 2^15, whose eighth bit is worth 1; (2^15 + 128) factor has 20 bits. */
  TL_METHOD float scaled(uint32_t bytes, uint32_t selector, uint32_t factor_min, bool has_min) {
    float factor = f16::low(factor_min), value = fmaf(as_float(pick_bytes(bytes, 0x47000000u, selector)), factor, -32896.0f * factor);
    return has_min ? value - f16::high(factor_min) : value;
  }
  TL_METHOD uint32_t pair(uint32_t bytes, bool second, uint32_t factor_min, bool has_min) {
    return T::pack(scaled(bytes, second ? 0x7424 : 0x7404, factor_min, has_min), scaled(bytes, second ? 0x7434 : 0x7414, factor_min, has_min));
  }
};
/* As the last bits of 2^10: the type holds a byte, and the factor. */
template <>
struct scaled_bytes<f16> {
  TL_METHOD uint32_t pair(uint32_t bytes, bool second, uint32_t factor_min, bool has_min) {
    uint32_t factor = pick_bytes(factor_min, 0, 0x1010), minus_min = has_min ? pick_bytes(factor_min, 0, 0x3232) ^ 0x80008000u : 0x80008000u;
    uint32_t value = pick_bytes(bytes, 0x64646464u, second ? 0x4342 : 0x4140);
    return f16::fma(f16::fma(value, f16::pack(1, 1), f16::pack(-1152, -1152)), factor, minus_min);
  }
};

template <class T, int N, bool MIN>
struct wint8 {
  static const uint32_t PIECE = 16, GROUP = N;
  static const bool SCALED = true;
  TL_METHOD uint32_t scale(const void *scales, uint64_t group) {
    return MIN ? ((const uint32_t *)scales)[group] : ((const uint16_t *)scales)[group];
  }
  TL_METHOD void expand(quad raw, uint32_t scale, int i, uint32_t (&pair)[4]) {
    TL_UNROLL for (int p = 0; p < 4; p++)
      pair[p] = scaled_bytes<T>::pair(raw.w[i * 2 + p / 2] ^ 0x80808080u, p % 2, scale, MIN);
  }
};

/* As the last bits of a power of two whose last bit is worth 1. */
template <class T>
struct wint4 {
  static const uint32_t PIECE = 32, GROUP = 32;
  static const bool SCALED = true;
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

/* Likewise; a scale and a min of 16 have 4 bits each, by two halves that 64 share. */
template <class T>
struct wint2 {
  static const uint32_t PIECE = 64, GROUP = 64;
  static const bool SCALED = true;
  TL_METHOD uint64_t scale(const void *scales, uint64_t group) {
    return ((const uint64_t *)scales)[group];
  }
  /* Of the second 32 elements what expand takes for the first. */
  TL_METHOD void take_second_half(quad *raw, uint64_t *scale) {
    raw->w[0] = raw->w[2];
    raw->w[1] = raw->w[3];
    *scale = (*scale & ~(uint64_t)0xffff) | (*scale >> 16 & 0xffff);
  }
  TL_METHOD void expand(quad raw, uint64_t scale, int i, uint32_t (&pair)[4]) {
    const float base = T::IS_BF16 ? 128.0f : 1024.0f;
    uint32_t of_16 = (uint32_t)scale >> i / 2 * 8, halves = (uint32_t)(scale >> 32);
    float factor = f16::low(halves) * small_float(of_16 & 15), min = f16::high(halves) * small_float(of_16 >> 4 & 15);
    uint32_t ones = T::pack(1, 1), minus_base = T::pack(-base, -base), bits = T::pack(base, base);
    uint32_t factors = T::pack(factor, factor), minus_min = T::pack(-min, -min);
    TL_UNROLL for (int p = 0; p < 4; p++) {
      uint32_t value = (raw.w[i / 2] >> (i % 2 * 8 + p * 2) & 0x00030003u) | bits;
      pair[p] = T::fma(T::fma(value, ones, minus_base), factors, minus_min);
    }
  }
};

/* E2M1 with E8M0 (OCP MX): the bits of a code, shifted into place, are a float whose exponent is too small by 126. */
struct wmxfp4 {
  static const uint32_t PIECE = 32, GROUP = 32;
  static const bool SCALED = true;
  TL_METHOD uint32_t scale(const void *scales, uint64_t group) {
    return ((const uint8_t *)scales)[group];
  }
  TL_METHOD void expand(quad raw, uint32_t scale, int i, uint32_t (&pair)[4]) {
    uint32_t near = scale < 128 ? scale : 128, factor = (near + 126) << 7, rest = (scale - near + 127) << 7;
    TL_UNROLL for (int p = 0; p < 4; p++) {
      uint32_t codes = raw.w[i] >> 4 * p & 0x000f000fu, value = (codes & 0x00080008u) << 12 | (codes & 0x00070007u) << 6;
      pair[p] = bf16::fma(value, factor | factor << 16, 0x80008000u); /* minus zero: keeps the sign of zero */
      if (scale > 128) pair[p] = bf16::fma(pair[p], rest | rest << 16, 0x80008000u); /* of weights above 6: rare */
    }
  }
};

/* Of a piece. */
template <class W>
using scale_of = decltype(W::scale(nullptr, 0));

/* Whether four lanes' pieces, side by side, share a scale: a float, which `expand` leaves out and sums of them are
 * multiplied by. */
template <class W>
constexpr bool SCALES_SUMS = W::SCALED && W::GROUP >= 4 * W::PIECE;

/* What `expand` left out, for who wants the weights themselves. */
template <class T>
TL_DEVICE void apply_scale(float factor, uint32_t (&pair)[4]) {
  TL_UNROLL for (int p = 0; p < 4; p++) pair[p] = T::pack(T::low(pair[p]) * factor, T::high(pair[p]) * factor);
}

/* Whether rows of k elements are whole pieces and groups. */
template <class W>
static bool fits(uint32_t k) {
  return k % W::PIECE == 0 && (!W::SCALED || k % W::GROUP == 0);
}

/* call(format) with the type of a format's number, or CUDA_INVALID; `call` has the other types. */
template <class T, class Call>
static int with_format(int format, const Call &call) {
  if constexpr (T::IS_BF16)
    if (format == TL_CUDA_WMXFP4) return call(wmxfp4());
  switch (format) {
    case TL_CUDA_WE4M3: return call(we4m3<T>());
    case TL_CUDA_WE4M3_BLOCKS: return call(we4m3_blocks<T>());
    case TL_CUDA_WINT8: return call(wint8<T, 32, false>());
    case TL_CUDA_WINT8_16: return call(wint8<T, 16, false>());
    case TL_CUDA_WINT8_MIN: return call(wint8<T, 32, true>());
    case TL_CUDA_WINT4: return call(wint4<T>());
    case TL_CUDA_WINT2: return call(wint2<T>());
    default: return CUDA_INVALID;
  }
}

#endif
