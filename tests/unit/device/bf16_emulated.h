/* SPDX-License-Identifier: MIT */
/* The BF16 kernels of processors with AVX512_BF16, with VDPBF16PS emulated, so that
 * their packing, conversion and order of work run on any processor with AVX-512.
 * Intel's manual: two fused multiply-adds, the odd input of a pair first. It also
 * takes subnormal numbers as zero, which the emulation does not. */
#ifndef BF16_EMULATED_H
#define BF16_EMULATED_H

#include "device/cpu/cpu_private.h"

#define MAX_KERNELS 5

/* What this machine can run, the emulation last; returns how many. One thread. */
unsigned runnable_kernels(const struct cpu_kernels *ret[MAX_KERNELS]);

#endif
