/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "tokenlane/model.h"

size_t tl_dtype_bytes(enum tl_dtype dtype) {
  return dtype == TL_DTYPE_F32 ? 4 : 2;
}

const char *tl_dtype_name(enum tl_dtype dtype) {
  static const char *const names[] = {"F32", "F16", "BF16"};
  return names[dtype];
}

uint32_t tl_dtype_block(enum tl_dtype dtype) {
  (void)dtype; /* all are floats */
  return 1;
}

static float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static uint32_t to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

float tl_bf16_to_f32(uint16_t value) {
  return from_bits((uint32_t)value << 16);
}

uint16_t tl_f32_to_bf16(float value) {
  uint32_t bits = to_bits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* quiet NaN */
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float tl_f16_to_f32(uint16_t value) {
  uint32_t sign = (uint32_t)(value & 0x8000) << 16, exponent = value >> 10 & 31, fraction = value & 0x3ff;
  if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
  if (exponent) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
  float small = (float)fraction * 0x1p-24f; /* subnormal or zero */
  return sign ? -small : small;
}

uint16_t tl_f32_to_f16(float value) {
  uint32_t bits = to_bits(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* rounds to infinity */
  if (magnitude < 0x38800000) { /* subnormal: adding 0.5 rounds at bit 2^-24 */
    float shifted = from_bits(magnitude) + 0.5f;
    return (uint16_t)(sign | (to_bits(shifted) - 0x3f000000));
  }
  magnitude += 0xfff + (magnitude >> 13 & 1);
  return (uint16_t)(sign | ((magnitude - 0x38000000) >> 13));
}

void tl_dtype_to_f32(enum tl_dtype dtype, const void *src, float *dst, size_t count) {
  if (dtype == TL_DTYPE_F32) {
    memcpy(dst, src, count * sizeof *dst);
    return;
  }
  const char *bytes = src;
  for (size_t i = 0; i < count; i++) {
    uint16_t value;
    memcpy(&value, bytes + 2 * i, sizeof value);
    dst[i] = dtype == TL_DTYPE_BF16 ? tl_bf16_to_f32(value) : tl_f16_to_f32(value);
  }
}
