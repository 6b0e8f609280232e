/* SPDX-License-Identifier: MIT */
#include "device/cpu/cpu_private.h"

#include "device/cpu/cpu_vec_avx512.h"
#include "device/cpu/cpu_kernels_body.h"
#include "device/cpu/cpu_attend_body.h"
#include "device/cpu/cpu_latent_body.h"
#include "device/cpu/cpu_delta_body.h"

INLINE vf vf_dot(vf sum, __m512i w, __m512i x) {
  return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}

#include "device/cpu/cpu_bf16_body.h"

const struct cpu_kernels cpu_kernels_avx512bf16 = {"avx512_bf16", convert_pairs, gemm_dot, rmsnorm,
                                                   silu_mul,      gelu_mul,      gelu_erf_mul, clamped_mul, softcap,  attend, attend_latent, merge_latent, to_e4m3, max_of,   exp_sum,       sum_above, sigmoid_mul, gated_norm, convolve, delta_rule, scan_rule, gate_norm};
