/* SPDX-License-Identifier: MIT */
#include "device/cpu/cpu_quant.h"

#include "device/cpu/cpu_vec_avx512.h"

typedef __m512i vi;
typedef __m512i vb;
#define QUANT_INLINE static inline __attribute__((always_inline))
#define QUANT_UNROLL 1
#define FUSED_ROWS 4
#define READY_ROWS 6
#define DOT_SIGNED 0
#define SHORT_SUMS 0

VF vi vi_set1(int x) { return _mm512_set1_epi32(x); }
/* Unsigned codes times the 4 signed inputs at x. */
VF vi vi_dot(vi sum, vb w, const int8_t *x, bool wide) {
  (void)wide;
  int quad;
  __builtin_memcpy(&quad, x, sizeof quad);
  return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(quad));
}
VF vf vf_from_vi(vi x) { return _mm512_cvtepi32_ps(x); }
VF __m128i load_16(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
VF vf vf_from_u8(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_16(p))); }
VF vf vf_from_i8(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_16(p))); }
/* 2^(exponent - 128), subnormal ones as well */
VF vf vf_e8m0(const uint8_t *p) {
  __m512i e = _mm512_cvtepu8_epi32(load_16(p)), one = _mm512_set1_epi32(1);
  __m512i small = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
  __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, one), 23);
  return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, _mm512_cmple_epi32_mask(e, one), small));
}
VF vb vb_load(const void *p) { return _mm512_loadu_si512(p); }
VF void vb_store(void *p, vb x) { _mm512_storeu_si512(p, x); }
VF vb vb_or(vb x, vb y) { return _mm512_or_si512(x, y); }
/* The bits of mask, which begin at bit `from`, moved to bit `to`. */
VF vb vb_field(vb x, unsigned from, unsigned to, unsigned mask) {
  if (from > to) x = _mm512_srli_epi16(x, from - to);
  if (to > from) x = _mm512_slli_epi16(x, to - from);
  return _mm512_and_si512(x, _mm512_set1_epi8((char)(mask << to)));
}
/* table[code] + 128 */
VF vb vb_lookup(const int8_t *table, vb codes) {
  __m512i entries = _mm512_broadcast_i32x4(load_16((const uint8_t *)table));
  return _mm512_shuffle_epi8(_mm512_xor_si512(entries, _mm512_set1_epi8((char)0x80)), codes);
}

#include "device/cpu/cpu_quant_body.h"

const struct cpu_quant_kernels cpu_quant_avx512vnni = {"avx512_vnni", quantize_row, quant_gemm};
