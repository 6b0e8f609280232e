/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/cpu.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"plain", "avx2", "avx512", "avx512_bf16"};

const char *tl_cpu_isa_name(enum tl_cpu_isa isa) {
  return names[isa];
}

/* __builtin_cpu_supports asks XGETBV too: the system must save the registers. */
static enum tl_cpu_isa detect(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return TL_ISA_PLAIN;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return TL_ISA_AVX2;
  return __builtin_cpu_supports("avx512bf16") ? TL_ISA_AVX512_BF16 : TL_ISA_AVX512;
#else
  return TL_ISA_PLAIN;
#endif
}

enum tl_cpu_isa tl_cpu_best_isa(void) {
  enum tl_cpu_isa best = detect();
  const char *wanted = getenv("TOKENLANE_CPU");
  for (unsigned i = 0; wanted && i < sizeof names / sizeof *names; i++)
    if (strcmp(wanted, names[i]) == 0 && i < best) return (enum tl_cpu_isa)i;
  return best;
}
