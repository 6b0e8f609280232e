/* SPDX-License-Identifier: MIT */
/* The BF16 kernels of processors with AVX512_BF16, with VDPBF16PS emulated, so that
 * their packing, conversion and order of work run on any processor with AVX-512.
 * Intel's manual: two fused multiply-adds, the odd input of a pair first. It also
 * takes subnormal numbers as zero, which the emulation does not. */
#ifndef BF16_EMULATED_H
#define BF16_EMULATED_H

#if defined(__x86_64__)
#include <math.h>
#include <string.h>

#include "device/cpu/cpu_private.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")
#include "device/cpu/cpu_vec_avx512.h"
#include "device/cpu/cpu_kernels_body.h"

INLINE vf vf_dot(vf sum, __m512i w, __m512i x) {
  const __m512i odd = _mm512_set1_epi32((int)0xffff0000);
  sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(w, odd)), _mm512_castsi512_ps(_mm512_and_si512(x, odd)),
                        sum);
  return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                         sum);
}

#include "device/cpu/cpu_bf16_body.h"
#pragma GCC pop_options

static const struct cpu_kernels bf16_emulated = {"avx512_bf16 emulated", convert_pairs, gemm_dot, rmsnorm,
                                                 silu_mul,               gelu_mul, gelu_erf_mul, clamped_mul, softcap, attend, max_of,   exp_sum,       sum_above};
#endif

#define MAX_KERNELS 5

/* What this machine can run, the emulation last; returns how many. */
static unsigned runnable_kernels(const struct cpu_kernels *ret[MAX_KERNELS]) {
  unsigned n = 0;
  enum tl_cpu_isa best = tl_cpu_best_isa();
  for (enum tl_cpu_isa isa = TL_ISA_PLAIN; isa <= best; isa++) ret[n++] = cpu_choose_kernels(isa);
#if defined(__x86_64__)
  if (best >= TL_ISA_AVX512) ret[n++] = &bf16_emulated;
#endif
  return n;
}

#endif
