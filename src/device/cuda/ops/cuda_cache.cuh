/* SPDX-License-Identifier: MIT */
/* What keys and values are kept in: T, or bytes of E4M3, which become T on the way to tensor cores. */
#ifndef CUDA_CACHE_CUH
#define CUDA_CACHE_CUH

#include "device/cuda/ops/cuda_e4m3.cuh"
#include "device/cuda/ops/cuda_heads.cuh"

/* Kernels of these compute as those of their base do, on a cache of bytes. */
#ifdef __CUDACC__
struct bf16_bytes : bf16 {};
struct f16_bytes : f16 {};
#else
namespace { /* as emulate.h's */
struct bf16_bytes : bf16 {};
struct f16_bytes : f16 {};
}
#endif

template <class T>
struct cache_of {
  static const bool BYTES = false;
  static const uint32_t IN_QUAD = 8; /* elements */
};
template <>
struct cache_of<bf16_bytes> {
  static const bool BYTES = true;
  static const uint32_t IN_QUAD = 16;
};
template <>
struct cache_of<f16_bytes> : cache_of<bf16_bytes> {};

/* Four, the lowest byte first, to two pairs of T; all values are exact, NaN stays one. */
template <class T>
TL_DEVICE void expand_e4m3(uint32_t bytes, uint32_t *pair) {
#if __CUDA_ARCH__ >= 890
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h;}"
      : "=r"(pair[0]), "=r"(pair[1])
      : "r"(bytes));
  if (T::IS_BF16)
    TL_UNROLL for (int i = 0; i < 2; i++) pair[i] = T::pack(f16::low(pair[i]), f16::high(pair[i]));
#else
  /* seven bits in the place of a float's whose exponent is too small by the difference of the biases (as we4m3 has it); of the largest, which
   * is NaN, one more makes a carry: from it come the exponent's ones */
  const float bias = T::IS_BF16 ? 0x1p120f : 0x1p8f;
  TL_UNROLL for (int i = 0; i < 2; i++) {
    uint32_t wide = pick_bytes(bytes, 0, i ? 0xb3a2 : 0x9180);
    uint32_t value = T::IS_BF16 ? wide << 4 & 0x87f087f0u : wide << 7 & 0xbf80bf80u, size = value & 0x7fff7fffu;
    uint32_t carry = T::IS_BF16 ? (size + 0x00100010u) & 0x08000800u : (size + 0x00800080u) & 0x40004000u;
    uint32_t ones = T::IS_BF16 ? (carry << 4) - (carry >> 4) : (carry << 1) - (carry >> 4);
    pair[i] = T::fma(value | ones, T::pack(bias, bias), 0x80008000u); /* minus zero: keeps the sign of zero */
  }
#endif
}

/* Eight, which lie side by side. */
template <class T>
TL_DEVICE quad expand8_e4m3(const void *from) {
  uint64_t bytes = *(const uint64_t *)from;
  quad v;
  expand_e4m3<T>((uint32_t)bytes, &v.w[0]);
  expand_e4m3<T>((uint32_t)(bytes >> 32), &v.w[2]);
  return v;
}

/* As store_head. */
template <int STEPS>
TL_DEVICE void store_head_e4m3(const head<STEPS> &h, uint32_t half, uint8_t *to) {
  TL_UNROLL for (uint32_t s = 0; s < STEPS; s++) {
    uint32_t i = head_place(s);
    if (i >= half) continue;
    uint32_t bytes = to_e4m3(h.v[s][0], h.v[s][1], h.v[s][2], h.v[s][3]);
    *(uint16_t *)(to + i) = (uint16_t)bytes;
    *(uint16_t *)(to + half + i) = (uint16_t)(bytes >> 16);
  }
}

/* Into the cache. */
template <class T, int STEPS>
TL_DEVICE void keep_head(const head<STEPS> &h, uint32_t half, uint16_t *to) {
  if constexpr (cache_of<T>::BYTES)
    store_head_e4m3(h, half, (uint8_t *)to);
  else
    store_head<T>(h, half, to);
}

#endif
