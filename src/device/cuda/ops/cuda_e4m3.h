/* SPDX-License-Identifier: MIT */
/* To FP8 E4M3 (OCP OFP8), for host and device; the way back is in cuda_formats.cuh. */
#ifndef CUDA_E4M3_H
#define CUDA_E4M3_H

#include <stdint.h>
#include <string.h>

#include "device/cuda/ops/cuda_both.h"

#define TL_CUDA_E4M3_MAX 448.0f

/* Nearest even; beyond the largest: the largest; NaN is 0x7f. */
TL_BOTH uint8_t tl_cuda_to_e4m3(float value) {
  uint32_t bits, magnitude, sign;
  memcpy(&bits, &value, 4);
  sign = bits >> 24 & 0x80;
  magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7f;
  if (magnitude >= 0x43e00000u) return (uint8_t)(sign | 0x7e); /* 448 */
  if (magnitude < 0x3c800000u) { /* below 2^-6: a multiple of 2^-9, which the last bits of 2^14 are worth */
    float shifted;
    memcpy(&shifted, &magnitude, 4);
    shifted += 16384.0f;
    memcpy(&bits, &shifted, 4);
    return (uint8_t)(sign | (bits & 0xf));
  }
  /* 20 bits of mantissa go, the bias from 127 to 7 */
  magnitude += 0x7ffffu + (magnitude >> 20 & 1);
  return (uint8_t)(sign | ((magnitude >> 20) - (120 << 3)));
}

#endif
