/* SPDX-License-Identifier: MIT */
/* GGUF's quantized blocks taken apart. The layouts are those of ggml's block_*
 * structs; tests/golden/make_gguf.py has the `gguf` package check each. */
#include <string.h>

#include "model/model_private.h"

static const int8_t table_nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/* E2M1, doubled so that it is whole */
static const int8_t table_fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static uint16_t half(const uint8_t *at) {
  return (uint16_t)(at[0] | at[1] << 8);
}

/* Low nibbles first, then the high ones. */
static void nibbles(const uint8_t *from, unsigned n, uint8_t *codes) {
  for (unsigned i = 0; i < n; i++) {
    codes[i] = from[i] & 15;
    codes[n + i] = from[i] >> 4;
  }
}

/* Element i gets bit i as its bit 4. */
static void fifth_bits(const uint8_t *from, uint8_t *codes) {
  for (unsigned i = 0; i < 32; i++) codes[i] |= (uint8_t)((from[i / 8] >> i % 8 & 1) << 4);
}

/* 64 bytes hold 2 bits of 256 elements: 32 bytes hold four runs of 32. */
static void two_bits(const uint8_t *from, unsigned to_bit, uint8_t *codes) {
  for (unsigned i = 0; i < 256; i++)
    codes[i] |= (uint8_t)((from[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3) << to_bit);
}

/* 32 bytes hold 1 bit of 256 elements: bit r belongs to run r of 32. */
static void one_bit(const uint8_t *from, unsigned to_bit, uint8_t *codes) {
  for (unsigned i = 0; i < 256; i++) codes[i] |= (uint8_t)((from[i % 32] >> i / 32 & 1) << to_bit);
}

/* Eight scales and eight mins of 6 bits in 12 bytes. */
static void scales_of_8(const uint8_t *from, struct tl_quant_block *b) {
  for (unsigned i = 0; i < 4; i++) {
    b->scales[i] = from[i] & 63;
    b->mins[i] = from[4 + i] & 63;
    b->scales[4 + i] = (uint8_t)((from[8 + i] & 15) | (from[i] >> 6) << 4);
    b->mins[4 + i] = (uint8_t)(from[8 + i] >> 4 | (from[4 + i] >> 6) << 4);
  }
}

static void read_q4_0(const uint8_t *at, struct tl_quant_block *b) {
  b->d = half(at);
  nibbles(at + 2, 16, b->codes);
}

static void read_q4_1(const uint8_t *at, struct tl_quant_block *b) {
  b->d = half(at);
  b->m = half(at + 2);
  nibbles(at + 4, 16, b->codes);
}

static void read_q5_0(const uint8_t *at, struct tl_quant_block *b) {
  b->d = half(at);
  nibbles(at + 6, 16, b->codes);
  fifth_bits(at + 2, b->codes);
}

static void read_q5_1(const uint8_t *at, struct tl_quant_block *b) {
  b->d = half(at);
  b->m = half(at + 2);
  nibbles(at + 8, 16, b->codes);
  fifth_bits(at + 4, b->codes);
}

static void read_q8_0(const uint8_t *at, struct tl_quant_block *b) {
  b->d = half(at);
  for (unsigned i = 0; i < 32; i++) b->codes[i] = at[2 + i] ^ 0x80;
}

static void read_q2_k(const uint8_t *at, struct tl_quant_block *b) {
  for (unsigned i = 0; i < 16; i++) {
    b->scales[i] = at[i] & 15;
    b->mins[i] = at[i] >> 4;
  }
  memset(b->codes, 0, sizeof b->codes);
  two_bits(at + 16, 0, b->codes);
  b->d = half(at + 80);
  b->m = half(at + 82);
}

static void read_q3_k(const uint8_t *at, struct tl_quant_block *b) {
  memset(b->codes, 0, sizeof b->codes);
  two_bits(at + 32, 0, b->codes);
  one_bit(at, 2, b->codes);
  const uint8_t *packed = at + 96;
  for (unsigned i = 0; i < 16; i++) {
    unsigned low = packed[i % 8] >> i / 8 * 4 & 15, high = packed[8 + i % 4] >> i / 4 * 2 & 3;
    b->scales[i] = (uint8_t)((low | high << 4) - 32);
  }
  b->d = half(at + 108);
}

static void read_q4_k(const uint8_t *at, struct tl_quant_block *b) {
  b->d = half(at);
  b->m = half(at + 2);
  scales_of_8(at + 4, b);
  for (unsigned i = 0; i < 4; i++) nibbles(at + 16 + i * 32, 32, b->codes + i * 64);
}

static void read_q5_k(const uint8_t *at, struct tl_quant_block *b) {
  b->d = half(at);
  b->m = half(at + 2);
  scales_of_8(at + 4, b);
  for (unsigned i = 0; i < 4; i++) nibbles(at + 48 + i * 32, 32, b->codes + i * 64);
  one_bit(at + 16, 4, b->codes);
}

static void read_q6_k(const uint8_t *at, struct tl_quant_block *b) {
  nibbles(at, 64, b->codes);
  nibbles(at + 64, 64, b->codes + 128);
  two_bits(at + 128, 4, b->codes);
  memcpy(b->scales, at + 192, 16);
  b->d = half(at + 208);
}

static void read_iq4_xs(const uint8_t *at, struct tl_quant_block *b) {
  b->d = half(at);
  unsigned high = half(at + 2);
  for (unsigned i = 0; i < 8; i++) {
    unsigned low = at[4 + i / 2] >> i % 2 * 4 & 15;
    b->scales[i] = (uint8_t)((low | (high >> 2 * i & 3) << 4) - 32);
    nibbles(at + 8 + i * 16, 16, b->codes + i * 32);
  }
}

static void read_mxfp4(const uint8_t *at, struct tl_quant_block *b) {
  b->d = at[0];
  nibbles(at + 1, 16, b->codes);
}

static const struct format {
  struct tl_quant_format format;
  void (*read)(const uint8_t *at, struct tl_quant_block *b);
} formats[TL_N_DTYPES] = {
    /*                   bits group offset scale  table  block bytes */
    [TL_DTYPE_Q4_0] = {{4, 32, 8, TL_SCALE_HALF, NULL, 32, 18}, read_q4_0},
    [TL_DTYPE_Q4_1] = {{4, 32, 0, TL_SCALE_HALF_MIN, NULL, 32, 20}, read_q4_1},
    [TL_DTYPE_Q5_0] = {{5, 32, 16, TL_SCALE_HALF, NULL, 32, 22}, read_q5_0},
    [TL_DTYPE_Q5_1] = {{5, 32, 0, TL_SCALE_HALF_MIN, NULL, 32, 24}, read_q5_1},
    [TL_DTYPE_Q8_0] = {{8, 32, 128, TL_SCALE_HALF, NULL, 32, 34}, read_q8_0},
    [TL_DTYPE_Q2_K] = {{2, 16, 0, TL_SCALE_SUPER_MIN, NULL, 256, 84}, read_q2_k},
    [TL_DTYPE_Q3_K] = {{3, 16, 4, TL_SCALE_SUPER, NULL, 256, 110}, read_q3_k},
    [TL_DTYPE_Q4_K] = {{4, 32, 0, TL_SCALE_SUPER_MIN, NULL, 256, 144}, read_q4_k},
    [TL_DTYPE_Q5_K] = {{5, 32, 0, TL_SCALE_SUPER_MIN, NULL, 256, 176}, read_q5_k},
    [TL_DTYPE_Q6_K] = {{6, 16, 32, TL_SCALE_SUPER, NULL, 256, 210}, read_q6_k},
    [TL_DTYPE_IQ4_NL] = {{4, 32, 128, TL_SCALE_HALF, table_nl, 32, 18}, read_q4_0},
    [TL_DTYPE_IQ4_XS] = {{4, 32, 128, TL_SCALE_SUPER, table_nl, 256, 136}, read_iq4_xs},
    [TL_DTYPE_MXFP4] = {{4, 32, 128, TL_SCALE_E8M0, table_fp4, 32, 17}, read_mxfp4},
    [TL_DTYPE_INT4] = {{4, 32, 0, TL_SCALE_ZERO, NULL, 32, 0}, NULL},
    [TL_DTYPE_INT8] = {{8, 32, 128, TL_SCALE_ZERO, NULL, 32, 0}, NULL},
    [TL_DTYPE_NVFP4] = {{4, 16, 128, TL_SCALE_E4M3, table_fp4, 32, 0}, NULL},
};

const struct tl_quant_format *tl_quant_format(enum tl_dtype dtype) {
  return formats[dtype].format.bits ? &formats[dtype].format : NULL;
}

void quant_read_pairs(const uint8_t *from, uint8_t codes[32]) {
  for (unsigned i = 0; i < 16; i++) {
    codes[2 * i] = from[i] & 15;
    codes[2 * i + 1] = from[i] >> 4;
  }
}

void quant_read_bytes(enum tl_dtype dtype, const void *at, struct tl_quant_block *ret) {
  formats[dtype].read(at, ret);
}

/* 2^(exponent - 128), also where that is subnormal. */
static float e8m0(unsigned exponent) {
  uint32_t bits = exponent < 2 ? 0x00200000u << exponent : (uint32_t)(exponent - 1) << 23;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

void tl_quant_scale(enum tl_dtype dtype, const struct tl_quant_block *b, unsigned group, float *ret_scale, float *ret_min) {
  const struct tl_quant_format *f = tl_quant_format(dtype);
  *ret_min = 0;
  switch (f->scale) {
    case TL_SCALE_HALF: *ret_scale = tl_f16_to_f32(b->d); break;
    case TL_SCALE_HALF_MIN:
      *ret_scale = tl_f16_to_f32(b->d);
      *ret_min = -tl_f16_to_f32(b->m);
      break;
    case TL_SCALE_E8M0: *ret_scale = e8m0(b->d); break;
    case TL_SCALE_SUPER: *ret_scale = tl_f16_to_f32(b->d) * (float)(int8_t)b->scales[group]; break;
    case TL_SCALE_SUPER_MIN:
      *ret_scale = tl_f16_to_f32(b->d) * (float)b->scales[group];
      *ret_min = tl_f16_to_f32(b->m) * (float)b->mins[group];
      break;
    case TL_SCALE_ZERO:
      *ret_scale = b->scale;
      *ret_min = b->scale * (float)(b->mins[0] - f->offset);
      break;
    case TL_SCALE_E4M3: *ret_scale = b->scale / 2 * tl_f8_e4m3_to_f32(b->scales[group]); break;
  }
}

void tl_quant_block_to_f32(enum tl_dtype dtype, const struct tl_quant_block *b, float *dst) {
  const struct tl_quant_format *f = tl_quant_format(dtype);
  float scale = 0, min = 0;
  for (unsigned group = 0, k = 0; k < f->block; group++) {
    tl_quant_scale(dtype, b, group, &scale, &min);
    for (unsigned end = k + f->group; k < end; k++) {
      unsigned code = b->codes[k];
      dst[k] = scale * (float)(f->table ? f->table[code] : (int)code - f->offset) - min;
    }
  }
}
