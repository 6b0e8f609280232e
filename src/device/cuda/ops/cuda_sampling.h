/* SPDX-License-Identifier: MIT */
/* The sampler's mathematics, for host and device: random numbers, the order of
 * tokens as integers, weights as integers. */
#ifndef CUDA_SAMPLING_H
#define CUDA_SAMPLING_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "device/cuda/ops/cuda_both.h"
#include "device/cuda/ops/cuda_ops.h"

/* Philox4x32-10 (Salmon et al. 2011): the 24 bits of which tl_random_uniform makes its float. */
TL_BOTH uint32_t tl_cuda_random24(uint64_t seed, uint64_t position) {
  uint32_t c0 = (uint32_t)position, c1 = (uint32_t)(position >> 32), c2 = 0, c3 = 0;
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1;
    c3 = (uint32_t)p0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return c0 >> 8;
}

/* Falls as the float rises; -0 is 0; every NaN comes first of all. */
TL_BOTH uint32_t tl_cuda_order_key(float value) {
  uint32_t bits;
  if (value != value) return 0;
  value += 0.0f; /* makes 0 of -0 */
  memcpy(&bits, &value, 4);
  return bits >> 31 ? bits : bits ^ 0x7fffffffu;
}

TL_BOTH float tl_cuda_key_value(uint32_t key) {
  uint32_t bits = key >> 31 ? key : key ^ 0x7fffffffu;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

/* The order of the filters, falling value, then rising id, as a rising number. */
TL_BOTH uint64_t tl_cuda_rank(float value, uint32_t token) {
  return (uint64_t)tl_cuda_order_key(value) << 32 | token;
}

/* Selection goes by digits of the rank, most significant first. A first digit comes
 * before: the distance from the best, which spreads tokens over bins that a rank's
 * own first bits, a float's exponent, would leave in a few. It falls nowhere as the
 * rank rises. */
#define TL_CUDA_BINS TL_CUDA_SAMPLE_BINS
#define TL_CUDA_LEVELS 7
#define TL_CUDA_VALUE_LEVELS 4 /* after these only equal values are left */

TL_BOTH uint32_t tl_cuda_bin(float distance) { /* at most 0 */
  float bin = distance * (-TL_CUDA_BINS / 64.0f);
  return bin < TL_CUDA_BINS - 1 ? (uint32_t)bin : TL_CUDA_BINS - 1;
}

/* Bits of the rank below the digit of a level from 1 on. */
TL_BOTH uint32_t tl_cuda_level_shift(int level) {
  return level == 1 ? 53 : level == 2 ? 42 : level == 3 ? 32 : level == 4 ? 21 : level == 5 ? 10 : 0;
}

TL_BOTH uint32_t tl_cuda_level_bits(int level) {
  return level == 3 || level == 6 ? 10 : 11;
}

/* exp(distance) in units of 2^-44: fewer than 2^19 tokens sum up below 2^63, exactly. */
TL_BOTH uint64_t tl_cuda_weight(float e) {
  return (uint64_t)(e * 0x1p44f);
}

/* Where in `total` the random number points: below it. total < 2^63. */
TL_BOTH uint64_t tl_cuda_target(uint32_t random24, uint64_t total) {
  return (total >> 24) * random24 + (((total & 0xffffff) * random24) >> 24);
}

#endif
