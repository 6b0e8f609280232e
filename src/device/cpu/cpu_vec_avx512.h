/* SPDX-License-Identifier: MIT */
/* 16 floats in one AVX-512 register. */
#ifndef CPU_VEC_AVX512_H
#define CPU_VEC_AVX512_H

#include <immintrin.h>

typedef __m512 vf;
#define TILE_M 12
#define TILE_V 2

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
/* E4M3, not NaN: its bits are those of a half that is 2^8 times smaller. */
VF vf vf_load_f8(const uint8_t *p) {
  __m256i bits = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
  __m256i sign = _mm256_slli_epi16(_mm256_and_si256(bits, _mm256_set1_epi16(0x80)), 8);
  __m256i size = _mm256_slli_epi16(_mm256_and_si256(bits, _mm256_set1_epi16(0x7f)), 7);
  return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(sign, size)), _mm512_set1_ps(256));
}
VF vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }

#endif
