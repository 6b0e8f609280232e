/* SPDX-License-Identifier: MIT */
/* The reference, for any processor. */
#include "device/cpu/cpu_private.h"

#include "device/cpu/cpu_vec_plain.h"
#include "device/cpu/cpu_kernels_body.h"
#include "device/cpu/cpu_attend_body.h"
#include "device/cpu/cpu_latent_body.h"
#include "device/cpu/cpu_delta_body.h"

const struct cpu_kernels cpu_kernels_plain = {"plain", NULL, gemm, rmsnorm, silu_mul, gelu_mul, gelu_erf_mul, clamped_mul, softcap, attend, attend_latent, merge_latent, to_e4m3, max_of, exp_sum,
                                              sum_above, sigmoid_mul, gated_norm, convolve, delta_rule, scan_rule, gate_norm};

const struct cpu_kernels *cpu_choose_kernels(enum tl_cpu_isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case TL_ISA_AVX512_BF16: return &cpu_kernels_avx512bf16;
    case TL_ISA_AVX512: return &cpu_kernels_avx512;
    case TL_ISA_AVX2: return &cpu_kernels_avx2;
    case TL_ISA_PLAIN: break;
  }
#endif
  (void)isa;
  return &cpu_kernels_plain;
}
