/* SPDX-License-Identifier: MIT */
#ifndef TOKENLANE_BASE_CPU_H
#define TOKENLANE_BASE_CPU_H

#include <stdbool.h>

/* Instruction sets, each beside those before it. AVX512_BF16: dot products of BF16 pairs. */
enum tl_cpu_isa { TL_ISA_PLAIN, TL_ISA_AVX2, TL_ISA_AVX512, TL_ISA_AVX512_BF16 };

/* Whether the processor and the operating system both allow it. Any thread. */
bool tl_cpu_can(enum tl_cpu_isa isa);
/* The one that products are fastest with: of those that can be used the last, but for AVX512_BF16 on processors that are
 * not AMD's. An Intel Xeon (family 6, model 207) makes 86 Gop/s a core with VDPBF16PS and 176 with products of floats,
 * which also keep more of the activations; AMD's Zen 4 makes twice as many with it as with floats
 * (https://github.com/iree-org/iree/pull/15089). It is not measured at start, since the tokens of a seed depend on it.
 * TOKENLANE_CPU=plain|avx2|avx512|avx512_bf16 in the environment names another that can be used, so that each path
 * can be tested on one machine. Any thread. */
enum tl_cpu_isa tl_cpu_best_isa(void);
/* Byte products of AVX-512 (AVX512_VNNI), which some processors with AVX-512 lack. Any thread. */
bool tl_cpu_has_vnni(void);
const char *tl_cpu_isa_name(enum tl_cpu_isa isa);

#endif
