/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "model/model_private.h"

static const struct {
  const char *name;
  uint8_t bytes; /* of one element */
} infos[TL_N_DTYPES] = {
    [TL_DTYPE_F32] = {"F32", 4},       [TL_DTYPE_F16] = {"F16", 2},     [TL_DTYPE_BF16] = {"BF16", 2},
    [TL_DTYPE_Q4_0] = {"Q4_0", 0},     [TL_DTYPE_Q4_1] = {"Q4_1", 0},   [TL_DTYPE_Q5_0] = {"Q5_0", 0},
    [TL_DTYPE_Q5_1] = {"Q5_1", 0},     [TL_DTYPE_Q8_0] = {"Q8_0", 0},   [TL_DTYPE_Q2_K] = {"Q2_K", 0},
    [TL_DTYPE_Q3_K] = {"Q3_K", 0},     [TL_DTYPE_Q4_K] = {"Q4_K", 0},   [TL_DTYPE_Q5_K] = {"Q5_K", 0},
    [TL_DTYPE_Q6_K] = {"Q6_K", 0},     [TL_DTYPE_IQ4_NL] = {"IQ4_NL", 0}, [TL_DTYPE_IQ4_XS] = {"IQ4_XS", 0},
    [TL_DTYPE_MXFP4] = {"MXFP4", 0},   [TL_DTYPE_INT4] = {"INT4", 0},   [TL_DTYPE_INT8] = {"INT8", 0},
    [TL_DTYPE_NVFP4] = {"NVFP4", 0},
    [TL_DTYPE_F8_E4M3] = {"F8_E4M3", 1}, [TL_DTYPE_I32] = {"I32", 4}, [TL_DTYPE_I8] = {"I8", 1},
    [TL_DTYPE_U8] = {"U8", 1},
};

size_t tl_dtype_bytes(enum tl_dtype dtype) {
  return infos[dtype].bytes;
}

const char *tl_dtype_name(enum tl_dtype dtype) {
  return infos[dtype].name;
}

size_t tl_dtype_row_bytes(enum tl_dtype dtype, uint64_t columns) {
  const struct tl_quant_format *f = tl_quant_format(dtype);
  uint64_t units = columns, unit_bytes = infos[dtype].bytes;
  if (f) {
    if (columns % f->block) return 0;
    units = columns / f->block;
    unit_bytes = f->block_bytes;
  }
  size_t bytes;
  return __builtin_mul_overflow(units, unit_bytes, &bytes) ? 0 : bytes;
}

uint32_t tl_dtype_block(enum tl_dtype dtype) {
  const struct tl_quant_format *f = tl_quant_format(dtype);
  return f ? f->block : 1;
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

float tl_f8_e4m3_to_f32(uint8_t value) {
  uint32_t sign = (uint32_t)(value & 0x80) << 24, exponent = value >> 3 & 15, fraction = value & 7;
  if ((value & 0x7f) == 0x7f) return from_bits(sign | 0x7fc00000);
  if (exponent) return from_bits(sign | (exponent + 120) << 23 | fraction << 20);
  float small = (float)fraction * 0x1p-9f; /* subnormal or zero */
  return sign ? -small : small;
}

uint8_t tl_f32_to_f8_e4m3(float value) {
  uint32_t bits = to_bits(value), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7f;
  if (magnitude >= 0x43e00000) return (uint8_t)(sign | 0x7e); /* 448 */
  if (magnitude < 0x3c800000) /* below 2^-6: multiples of 2^-9, which the last bits of 2^14 are worth */
    return (uint8_t)(sign | (to_bits(from_bits(magnitude) + 16384.0f) & 0xf));
  magnitude += 0x7ffff + (magnitude >> 20 & 1);
  return (uint8_t)(sign | ((magnitude - 0x3c000000) >> 20));
}

static void blocks_to_f32(enum tl_dtype dtype, const char *src, float *dst, size_t count) {
  const struct tl_quant_format *f = tl_quant_format(dtype);
  struct tl_quant_block block;
  for (size_t i = 0; i < count; i += f->block, src += f->block_bytes) {
    quant_read_bytes(dtype, src, &block);
    tl_quant_block_to_f32(dtype, &block, dst + i);
  }
}

void tl_dtype_to_f32(enum tl_dtype dtype, const void *src, float *dst, size_t count) {
  const char *bytes = src;
  if (dtype == TL_DTYPE_F32) {
    memcpy(dst, src, count * sizeof *dst);
  } else if (dtype == TL_DTYPE_F8_E4M3) {
    for (size_t i = 0; i < count; i++) dst[i] = tl_f8_e4m3_to_f32((uint8_t)bytes[i]);
  } else if (tl_quant_format(dtype)) {
    blocks_to_f32(dtype, bytes, dst, count);
  } else {
    for (size_t i = 0; i < count; i++) {
      uint16_t value;
      memcpy(&value, bytes + 2 * i, sizeof value);
      dst[i] = dtype == TL_DTYPE_BF16 ? tl_bf16_to_f32(value) : tl_f16_to_f32(value);
    }
  }
}
