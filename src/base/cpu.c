/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/cpu.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const names[] = {"plain", "avx2", "avx512", "avx512_bf16"};

const char *tl_cpu_isa_name(enum tl_cpu_isa isa) {
  return names[isa];
}

#if defined(__x86_64__)
/* Compilers differ in which names __builtin_cpu_supports knows: these two are asked
 * of CPUID itself (Intel SDM 2A). Their registers are those of AVX2 and AVX-512,
 * for which __builtin_cpu_supports asks XGETBV whether the system saves them. */
static bool has_f16c(void) {
  unsigned eax, ebx, ecx = 0, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx >> 29 & 1;
}
static bool is_amd(void) {
  unsigned eax, name[3]; /* "Auth" "enti" "cAMD" come in EBX, EDX, ECX */
  return __get_cpuid(0, &eax, &name[0], &name[2], &name[1]) && memcmp(name, "AuthenticAMD", sizeof name) == 0;
}
static bool has_avx512_bf16(void) {
  unsigned eax = 0, ebx, ecx, edx;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && eax >> 5 & 1;
}
#endif

static enum tl_cpu_isa detect(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c())
    return TL_ISA_PLAIN;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return TL_ISA_AVX2;
  return has_avx512_bf16() ? TL_ISA_AVX512_BF16 : TL_ISA_AVX512;
#else
  return TL_ISA_PLAIN;
#endif
}

bool tl_cpu_has_vnni(void) {
#if defined(__x86_64__)
  unsigned eax, ebx, ecx = 0, edx;
  return detect() >= TL_ISA_AVX512 && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && ecx >> 11 & 1;
#else
  return false;
#endif
}

bool tl_cpu_can(enum tl_cpu_isa isa) {
  return isa <= detect();
}

enum tl_cpu_isa tl_cpu_best_isa(void) {
  enum tl_cpu_isa last = detect(), best = last;
#if defined(__x86_64__)
  if (last == TL_ISA_AVX512_BF16 && !is_amd()) best = TL_ISA_AVX512;
#endif
  const char *wanted = getenv("TOKENLANE_CPU");
  for (unsigned i = 0; wanted && i < sizeof names / sizeof *names; i++)
    if (i <= last && strcmp(wanted, names[i]) == 0) return (enum tl_cpu_isa)i;
  return best;
}
