/* SPDX-License-Identifier: MIT */
#include "device/cpu/cpu_quant.h"

#include "device/cpu/cpu_vec_avx2.h"

typedef struct {
  __m256i a, b;
} vi;
typedef vi vb;
typedef vi vs; /* 32 sums of 16 bits */
#define QUANT_INLINE static inline __attribute__((always_inline))
#define QUANT_UNROLL 1
#define FUSED_ROWS 2
#define READY_ROWS 2
#define DOT_SIGNED 1
#define SHORT_SUMS 1

VF vi vi_set1(int x) { return (vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
/* VPMADDUBSW saturates at 16 bits: codes of up to 6 bits cannot get there. Bytes of 8
 * bits go as |code - 128| times the input with its sign, at most 2 * 128 * 127. */
VF __m256i dot_half(__m256i sum, __m256i w, __m256i x, bool wide) {
  if (wide) {
    w = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
    x = _mm256_sign_epi8(x, w);
    w = _mm256_abs_epi8(w);
  }
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}
VF __m256i quad_of(const int8_t *x) {
  int quad;
  __builtin_memcpy(&quad, x, sizeof quad);
  return _mm256_set1_epi32(quad);
}
/* Unsigned codes, or code - 128 where they are wide, times the 4 signed inputs at x. */
VF vi vi_dot(vi sum, vb w, const int8_t *x, bool wide) {
  return (vi){dot_half(sum.a, w.a, quad_of(x), wide), dot_half(sum.b, w.b, quad_of(x), wide)};
}
/* Codes of up to 6 bits times the 4 signed inputs at x. */
VF vs vs_dot(vb w, const int8_t *x) {
  return (vs){_mm256_maddubs_epi16(w.a, quad_of(x)), _mm256_maddubs_epi16(w.b, quad_of(x))};
}
VF vs vs_add_dot(vs sum, vb w, const int8_t *x) {
  vs dot = vs_dot(w, x);
  return (vs){_mm256_add_epi16(sum.a, dot.a), _mm256_add_epi16(sum.b, dot.b)};
}
VF vi vi_add_short(vi sum, vs x) {
  const __m256i one = _mm256_set1_epi16(1);
  return (vi){_mm256_add_epi32(sum.a, _mm256_madd_epi16(x.a, one)), _mm256_add_epi32(sum.b, _mm256_madd_epi16(x.b, one))};
}
VF vf vf_from_vi(vi x) { return (vf){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
VF __m128i load_8(const uint8_t *p) { return _mm_loadl_epi64((const __m128i *)(const void *)p); }
VF vi vi_from_u8(const uint8_t *p) { return (vi){_mm256_cvtepu8_epi32(load_8(p)), _mm256_cvtepu8_epi32(load_8(p + 8))}; }
VF vf vf_from_u8(const uint8_t *p) { return vf_from_vi(vi_from_u8(p)); }
VF vf vf_from_i8(const uint8_t *p) {
  return vf_from_vi((vi){_mm256_cvtepi8_epi32(load_8(p)), _mm256_cvtepi8_epi32(load_8(p + 8))});
}
/* 2^(exponent - 128), subnormal ones as well */
VF __m256 e8m0_half(__m256i e) {
  __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
  __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
  return _mm256_castsi256_ps(_mm256_blendv_epi8(small, normal, _mm256_cmpgt_epi32(e, _mm256_set1_epi32(1))));
}
VF vf vf_e8m0(const uint8_t *p) {
  vi e = vi_from_u8(p);
  return (vf){e8m0_half(e.a), e8m0_half(e.b)};
}
VF vb vb_load(const void *p) { return (vb){load_bits(p, 0), load_bits(p, 32)}; }
VF void vb_store(void *p, vb x) {
  _mm256_storeu_si256((__m256i *)p, x.a);
  _mm256_storeu_si256((__m256i *)(void *)((char *)p + 32), x.b);
}
VF vb vb_or(vb x, vb y) { return (vb){_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
VF __m256i field_half(__m256i x, unsigned from, unsigned to, unsigned mask) {
  if (from > to) x = _mm256_srli_epi16(x, (int)(from - to));
  if (to > from) x = _mm256_slli_epi16(x, (int)(to - from));
  return _mm256_and_si256(x, _mm256_set1_epi8((char)(mask << to)));
}
/* The bits of mask, which begin at bit `from`, moved to bit `to`. */
VF vb vb_field(vb x, unsigned from, unsigned to, unsigned mask) {
  return (vb){field_half(x.a, from, to, mask), field_half(x.b, from, to, mask)};
}
/* table[code] + 128 */
VF vb vb_lookup(const int8_t *table, vb codes) {
  __m256i entries = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
  entries = _mm256_xor_si256(entries, _mm256_set1_epi8((char)0x80));
  return (vb){_mm256_shuffle_epi8(entries, codes.a), _mm256_shuffle_epi8(entries, codes.b)};
}

#include "device/cpu/cpu_quant_body.h"

const struct cpu_quant_kernels cpu_quant_avx2 = {"avx2", quantize_row, quant_gemm};
