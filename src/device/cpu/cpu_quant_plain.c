/* SPDX-License-Identifier: MIT */
/* The reference of the quantized products, for any processor: nothing is inlined by
 * force, so one body serves all formats. */
#include "device/cpu/cpu_quant.h"

#include "device/cpu/cpu_vec_plain.h"

typedef struct {
  int32_t lane[16];
} vi;
typedef struct {
  uint8_t byte[64];
} vb;
#define QUANT_INLINE static
#define QUANT_UNROLL 0
#define FUSED_ROWS 1
#define READY_ROWS 4
#define DOT_SIGNED 0
#define SHORT_SUMS 0

static vi vi_set1(int x) {
  vi r;
  for (int i = 0; i < 16; i++) r.lane[i] = x;
  return r;
}
/* Unsigned codes times the 4 signed inputs at x. */
static vi vi_dot(vi sum, vb w, const int8_t *x, bool wide) {
  (void)wide;
  for (int i = 0; i < 16; i++)
    for (int k = 0; k < 4; k++) sum.lane[i] += w.byte[4 * i + k] * x[k];
  return sum;
}
static vf vf_from_vi(vi x) { EACH((float)x.lane[i]); }
static vf vf_from_u8(const uint8_t *p) { EACH((float)p[i]); }
static vf vf_from_i8(const uint8_t *p) { EACH((float)(int8_t)p[i]); }
/* 2^(exponent - 128) */
static vf vf_e8m0(const uint8_t *p) { EACH(ldexpf(1, p[i] - 128)); }
static vb vb_load(const void *p) {
  vb r;
  memcpy(&r, p, sizeof r);
  return r;
}
static void vb_store(void *p, vb x) { memcpy(p, &x, sizeof x); }
static vb vb_or(vb x, vb y) {
  for (int i = 0; i < 64; i++) x.byte[i] |= y.byte[i];
  return x;
}
/* The bits of mask, which begin at bit `from`, moved to bit `to`. */
static vb vb_field(vb x, unsigned from, unsigned to, unsigned mask) {
  for (int i = 0; i < 64; i++) x.byte[i] = (uint8_t)((x.byte[i] >> from & mask) << to);
  return x;
}
/* table[code] + 128 */
static vb vb_lookup(const int8_t *table, vb codes) {
  for (int i = 0; i < 64; i++) codes.byte[i] = (uint8_t)(table[codes.byte[i]] + 128);
  return codes;
}

#include "device/cpu/cpu_quant_body.h"

const struct cpu_quant_kernels cpu_quant_plain = {"plain", quantize_row, quant_gemm};

const struct cpu_quant_kernels *cpu_choose_quant(enum tl_cpu_isa isa) {
#if defined(__x86_64__)
  if (isa >= TL_ISA_AVX512 && tl_cpu_has_vnni()) return &cpu_quant_avx512vnni;
  if (isa >= TL_ISA_AVX2) return &cpu_quant_avx2;
#endif
  (void)isa;
  return &cpu_quant_plain;
}
