/* SPDX-License-Identifier: MIT */
#ifndef TOKENLANE_BASE_CPU_H
#define TOKENLANE_BASE_CPU_H

#include <stdbool.h>

/* Instruction sets that the processor and the operating system both allow.
 * TOKENLANE_CPU=plain|avx2|avx512|avx512_bf16 in the environment lowers the answer, so that
 * each path can be tested on one machine. */
enum tl_cpu_isa { TL_ISA_PLAIN, TL_ISA_AVX2, TL_ISA_AVX512, TL_ISA_AVX512_BF16 };

/* The best of the above. Any thread. */
enum tl_cpu_isa tl_cpu_best_isa(void);
/* Byte products of AVX-512 (AVX512_VNNI), which some processors with AVX-512 lack. Any thread. */
bool tl_cpu_has_vnni(void);
const char *tl_cpu_isa_name(enum tl_cpu_isa isa);

#endif
