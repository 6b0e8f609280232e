/* SPDX-License-Identifier: MIT */
/* Random weights in the formats of cuda_ops.h, and what they stand for. */
#ifndef STORED_WEIGHTS_H
#define STORED_WEIGHTS_H

#include "op_unit.h"

/* OCP OFP8: sign, four bits of exponent with bias 7, three of mantissa; 0x7f is NaN. */
static inline double e4m3_value(uint8_t bits) {
  int exponent = bits >> 3 & 15, mantissa = bits & 7;
  double value = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
  if ((bits & 0x7f) == 0x7f) return NAN;
  return bits & 0x80 ? -value : value;
}

struct stored {
  int dtype, format;
  uint32_t n, k;
  uint8_t *weight;
  void *scales;
};

static inline bool is_e4m3(int format) {
  return format == TL_CUDA_WE4M3 || format == TL_CUDA_WE4M3_BLOCKS;
}

/* The next k from which rows in this format may have. */
static inline uint32_t stored_k(int format, uint32_t k) {
  uint32_t multiple = format == TL_CUDA_WE4M3_BLOCKS ? 128 : format == TL_CUDA_WINT2 ? 64 : 32;
  return (k + multiple - 1) / multiple * multiple;
}

static inline void fill_stored(struct stored *s) {
  bool mins = s->format == TL_CUDA_WINT4 || s->format == TL_CUDA_WINT8_MIN;
  size_t elements = (size_t)s->n * s->k, groups = elements / (s->format == TL_CUDA_WINT8_16 ? 16 : 32);
  bool fours = s->format == TL_CUDA_WINT4 || s->format == TL_CUDA_WMXFP4;
  size_t bytes = s->format == TL_CUDA_W16 ? elements * 2 : fours ? elements / 2 : s->format == TL_CUDA_WINT2 ? elements / 4 : elements;
  s->weight = op_alloc(bytes);
  for (size_t i = 0; i < bytes; i++) {
    s->weight[i] = (uint8_t)unit_below(&op_random, 256);
    if (is_e4m3(s->format) && (s->weight[i] & 0x7f) == 0x7f) s->weight[i] = 0x7e;
  }
  s->scales = NULL;
  if (s->format == TL_CUDA_W16) {
    for (size_t i = 0; i < elements; i++) ((uint16_t *)(void *)s->weight)[i] = op_pack(s->dtype, op_number(1));
  } else if (is_e4m3(s->format)) {
    s->scales = s->format == TL_CUDA_WE4M3 ? op_floats(s->n, 0.01f) : op_floats(elements / 128, 0.004f);
  } else if (s->format == TL_CUDA_WMXFP4) {
    s->scales = op_alloc(groups);
    for (size_t i = 0; i < groups; i++) ((uint8_t *)s->scales)[i] = (uint8_t)(122 + unit_below(&op_random, 8)); /* up to 6 times 2^2 */
  } else if (s->format == TL_CUDA_WINT2) { /* of each 64: four bytes of any bits, two halves */
    uint16_t *halves = s->scales = op_halves(TL_CUDA_F16, elements / 16, 0.03f);
    for (size_t i = 0; i < elements / 16; i += 4)
      for (size_t k = i; k < i + 2; k++) halves[k] = (uint16_t)unit_below(&op_random, 65536);
  } else {
    s->scales = op_halves(TL_CUDA_F16, mins ? groups * 2 : groups, 0.1f);
  }
}

static inline void free_stored(struct stored *s) {
  op_free(s->weight);
  op_free(s->scales);
}

/* Element `at` of an output's row. */
static inline double stored_value(const struct stored *s, size_t output, size_t at) {
  static const double e2m1[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  static const unsigned nibble_of[8] = {0, 4, 1, 5, 2, 6, 3, 7}; /* of a word's eight elements */
  size_t i = output * s->k + at, group = i / 32;
  const uint16_t *halves = s->scales;
  switch (s->format) {
    case TL_CUDA_W16: return op_unpack(s->dtype, ((const uint16_t *)(const void *)s->weight)[i]);
    case TL_CUDA_WE4M3: return e4m3_value(s->weight[i]) * (double)((const float *)s->scales)[output];
    case TL_CUDA_WE4M3_BLOCKS: return e4m3_value(s->weight[i]) * (double)((const float *)s->scales)[i / 128];
    case TL_CUDA_WINT8: return (int8_t)s->weight[i] * (double)tl_f16_to_f32(halves[group]);
    case TL_CUDA_WINT8_16: return (int8_t)s->weight[i] * (double)tl_f16_to_f32(halves[i / 16]);
    case TL_CUDA_WINT8_MIN:
      return (int8_t)s->weight[i] * (double)tl_f16_to_f32(halves[2 * group]) - (double)tl_f16_to_f32(halves[2 * group + 1]);
    case TL_CUDA_WINT2: {
      unsigned bits = ((const uint32_t *)(const void *)s->weight)[i / 16] >> (i % 2 * 16 + i % 16 / 2 * 2) & 3;
      unsigned both = ((const uint8_t *)s->scales)[i / 64 * 8 + i % 64 / 16];
      return (both & 15) * (double)tl_f16_to_f32(halves[i / 64 * 4 + 2]) * bits - (both >> 4) * (double)tl_f16_to_f32(halves[i / 64 * 4 + 3]);
    }
    default: {
      unsigned nibble = nibble_of[i % 8], q = s->weight[i / 8 * 4 + nibble / 2] >> nibble % 2 * 4 & 15;
      if (s->format == TL_CUDA_WMXFP4) return ldexp(q & 8 ? -e2m1[q & 7] : e2m1[q & 7], ((const uint8_t *)s->scales)[group] - 127);
      return q * (double)tl_f16_to_f32(halves[2 * group]) - (double)tl_f16_to_f32(halves[2 * group + 1]);
    }
  }
}

#endif
