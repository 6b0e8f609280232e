/* SPDX-License-Identifier: MIT */
/* See bf16_emulated.h. A file of its own, since compiling it takes seconds. */
#include "bf16_emulated.h"

#include <string.h>

#if defined(__x86_64__)
#include <math.h>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")
#include "device/cpu/cpu_vec_avx512.h"
#include "device/cpu/cpu_kernels_body.h"
#include "device/cpu/cpu_attend_body.h"
#include "device/cpu/cpu_latent_body.h"
#include "device/cpu/cpu_delta_body.h"

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
                                                 silu_mul,               gelu_mul, gelu_erf_mul, clamped_mul, softcap, attend, attend_latent, merge_latent, to_e4m3, max_of,   exp_sum,       sum_above, sigmoid_mul, gated_norm, convolve, delta_rule, scan_rule, gate_norm};
#endif

static unsigned find_kernels(const struct cpu_kernels *ret[MAX_KERNELS]) {
  unsigned n = 0;
  for (enum tl_cpu_isa isa = TL_ISA_PLAIN; isa <= TL_ISA_AVX512_BF16 && tl_cpu_can(isa); isa++) ret[n++] = cpu_choose_kernels(isa);
#if defined(__x86_64__)
  if (tl_cpu_can(TL_ISA_AVX512)) ret[n++] = &bf16_emulated;
#endif
  return n;
}

/* Looked for once: a virtual machine is left for each CPUID, and tests ask a hundred thousand times. */
unsigned runnable_kernels(const struct cpu_kernels *ret[MAX_KERNELS]) {
  static const struct cpu_kernels *found[MAX_KERNELS];
  static unsigned n_found;
  if (n_found == 0) n_found = find_kernels(found);
  memcpy(ret, found, sizeof found);
  return n_found;
}
