/* SPDX-License-Identifier: MIT */
/* Random numbers in buffers allocated to the byte, so that a sanitizer sees a read or
 * write too far; and every table of kernels in turn. */
#ifndef KERNEL_UNIT_H
#define KERNEL_UNIT_H

#include "device/cpu/cpu_private.h"
#include "unit.h"

#include "bf16_emulated.h"

static uint64_t random_state = 20240607;

/* Uniform in [-range, range). */
static inline float number(float range) {
  return ((float)unit_below(&random_state, 1 << 24) * 0x1p-23f - 1) * range;
}

static inline float *numbers(size_t n, float range) {
  float *values = malloc((n ? n : 1) * sizeof *values);
  for (size_t i = 0; i < n; i++) values[i] = number(range);
  return values;
}

static inline bool same_bits(float a, float b) {
  return memcmp(&a, &b, sizeof a) == 0;
}

static inline float rounded(enum tl_dtype dtype, float value) {
  if (dtype == TL_DTYPE_BF16) return tl_bf16_to_f32(tl_f32_to_bf16(value));
  if (dtype == TL_DTYPE_F8_E4M3) return tl_f8_e4m3_to_f32(tl_f32_to_f8_e4m3(value));
  return dtype == TL_DTYPE_F16 ? tl_f16_to_f32(tl_f32_to_f16(value)) : value;
}

static inline void put(enum tl_dtype dtype, void *base, size_t element, float value) {
  uint16_t half = dtype == TL_DTYPE_BF16 ? tl_f32_to_bf16(value) : tl_f32_to_f16(value);
  if (dtype == TL_DTYPE_F32)
    memcpy((char *)base + 4 * element, &value, 4);
  else if (dtype == TL_DTYPE_F8_E4M3)
    ((uint8_t *)base)[element] = tl_f32_to_f8_e4m3(value);
  else
    memcpy((char *)base + 2 * element, &half, 2);
}

/* What a KV cache may be of. */
static const enum tl_dtype kv_dtypes[] = {TL_DTYPE_F32, TL_DTYPE_F16, TL_DTYPE_BF16, TL_DTYPE_F8_E4M3};

static inline void for_all_kernels(void (*test)(const struct cpu_kernels *kernels)) {
  const struct cpu_kernels *kernels[MAX_KERNELS];
  unsigned n = runnable_kernels(kernels);
  for (unsigned i = 0; i < n; i++) test(kernels[i]);
}

#endif
