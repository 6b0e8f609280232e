/* SPDX-License-Identifier: MIT */
/* 16 floats in one AVX-512 register. */
#ifndef CPU_VEC_AVX512_H
#define CPU_VEC_AVX512_H

#include <immintrin.h>

typedef __m512 vf;
#define TILE_M 12
#define TILE_V 2
#define F8_ROWS 8
#define ATTEND_TILE(n) 4

#define VF static inline __attribute__((always_inline))
VF vf vf_zero(void) { return _mm512_setzero_ps(); }
VF vf vf_set1(float x) { return _mm512_set1_ps(x); }
VF vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
VF void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
VF vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
VF vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
VF vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
VF vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
VF vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
VF vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
VF vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
/* value where x >= floor, else 0. */
VF vf vf_where_ge(vf x, vf floor, vf value) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, floor, _CMP_GE_OQ), value);
}
VF vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
VF vf vf_pow2(vf n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
VF vf vf_bf16_even(const void *p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16)); }
VF vf vf_bf16_odd(const void *p) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32((int)0xffff0000)));
}
VF vf vf_load_bf16(const uint16_t *p) {
  __m256i bits = _mm256_loadu_si256((const __m256i *)(const void *)p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
/* 32 of E4M3, not NaN, each 2^8 times too small: a half has their bits, the sign's copies but one taken out. */
VF void vf_load_f8(const uint8_t *p, vf *low, vf *high) {
  __m512i bits = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)p));
  bits = _mm512_and_si512(_mm512_slli_epi16(bits, 7), _mm512_set1_epi16((short)0xbf80));
  *low = _mm512_cvtph_ps(_mm512_castsi512_si256(bits));
  *high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1));
}
VF __m256i f8_halves(const uint8_t *p) {
  __m256i bits = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
  return _mm256_and_si256(_mm256_slli_epi16(bits, 7), _mm256_set1_epi16((short)0xbf80));
}
VF vf f8_16(const uint8_t *p) { return _mm512_cvtph_ps(f8_halves(p)); }
/* 16 of a cache: its NaN is 0x7f alone, and becomes one of a half's. */
VF vf f8_16_nan(const uint8_t *p) {
  __m256i bits = f8_halves(p);
  return _mm512_cvtph_ps(_mm256_or_si256(bits, _mm256_cmpeq_epi16(bits, _mm256_set1_epi16(0x3f80))));
}
VF vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }

#endif
