/* SPDX-License-Identifier: MIT */
/* 16 floats in two AVX2 registers. */
#ifndef CPU_VEC_AVX2_H
#define CPU_VEC_AVX2_H

#include <immintrin.h>

typedef struct {
  __m256 a, b;
} vf;
#define TILE_M 6
#define TILE_V 1
#define F8_ROWS 3
#define ATTEND_TILE(n) ((n) > 4 ? 1 : 4 / (n)) /* of two registers */

#define VF static inline __attribute__((always_inline))
#define BOTH(operation, x, y) ((vf){operation((x).a, (y).a), operation((x).b, (y).b)})
VF vf vf_zero(void) { return (vf){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
VF vf vf_set1(float x) { return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
VF vf vf_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
VF void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v.a), _mm256_storeu_ps(p + 8, v.b); }
VF vf vf_fma(vf x, vf y, vf z) { return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
VF vf vf_add(vf x, vf y) { return BOTH(_mm256_add_ps, x, y); }
VF vf vf_sub(vf x, vf y) { return BOTH(_mm256_sub_ps, x, y); }
VF vf vf_mul(vf x, vf y) { return BOTH(_mm256_mul_ps, x, y); }
VF vf vf_div(vf x, vf y) { return BOTH(_mm256_div_ps, x, y); }
VF vf vf_max(vf x, vf y) { return BOTH(_mm256_max_ps, x, y); }
VF vf vf_min(vf x, vf y) { return BOTH(_mm256_min_ps, x, y); }
VF __m256 where_ge_half(__m256 x, __m256 floor, __m256 value) {
  return _mm256_and_ps(_mm256_cmp_ps(x, floor, _CMP_GE_OQ), value);
}
VF vf vf_where_ge(vf x, vf floor, vf value) {
  return (vf){where_ge_half(x.a, floor.a, value.a), where_ge_half(x.b, floor.b, value.b)};
}
#define ROUNDING (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
VF vf vf_round(vf x) { return (vf){_mm256_round_ps(x.a, ROUNDING), _mm256_round_ps(x.b, ROUNDING)}; }
VF __m256 pow2_half(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
VF vf vf_pow2(vf n) { return (vf){pow2_half(n.a), pow2_half(n.b)}; }
VF __m256i load_bits(const void *p, size_t offset) {
  return _mm256_loadu_si256((const __m256i *)(const void *)((const char *)p + offset));
}
VF __m256 high_half(__m256i bits) { return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)); }
VF vf vf_bf16_even(const void *p) { return (vf){high_half(load_bits(p, 0)), high_half(load_bits(p, 32))}; }
VF vf vf_bf16_odd(const void *p) {
  const __m256i mask = _mm256_set1_epi32((int)0xffff0000);
  return (vf){_mm256_castsi256_ps(_mm256_and_si256(load_bits(p, 0), mask)),
              _mm256_castsi256_ps(_mm256_and_si256(load_bits(p, 32), mask))};
}
VF __m128i load_words(const uint16_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
VF vf vf_load_bf16(const uint16_t *p) {
  return (vf){high_half(_mm256_cvtepu16_epi32(load_words(p))), high_half(_mm256_cvtepu16_epi32(load_words(p + 8)))};
}
/* 32 of E4M3, not NaN, each 2^8 times too small: a half has their bits, the sign's copies but one taken out. */
VF __m256i f8_halves(const uint8_t *p) {
  __m256i bits = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
  return _mm256_and_si256(_mm256_slli_epi16(bits, 7), _mm256_set1_epi16((short)0xbf80));
}
VF vf f8_16(const uint8_t *p) {
  __m256i bits = f8_halves(p);
  return (vf){_mm256_cvtph_ps(_mm256_castsi256_si128(bits)), _mm256_cvtph_ps(_mm256_extracti128_si256(bits, 1))};
}
VF void vf_load_f8(const uint8_t *p, vf *low, vf *high) {
  *low = f8_16(p);
  *high = f8_16(p + 16);
}
/* 16 of a cache: its NaN is 0x7f alone, and becomes one of a half's. */
VF vf f8_16_nan(const uint8_t *p) {
  __m256i bits = f8_halves(p);
  bits = _mm256_or_si256(bits, _mm256_cmpeq_epi16(bits, _mm256_set1_epi16(0x3f80)));
  return (vf){_mm256_cvtph_ps(_mm256_castsi256_si128(bits)), _mm256_cvtph_ps(_mm256_extracti128_si256(bits, 1))};
}
VF vf vf_load_f16(const uint16_t *p) { return (vf){_mm256_cvtph_ps(load_words(p)), _mm256_cvtph_ps(load_words(p + 8))}; }

#endif
