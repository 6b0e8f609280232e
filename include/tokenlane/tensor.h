/* SPDX-License-Identifier: MIT */
/* Tensors as files hold them and the number formats of their elements: floats,
 * blocks of GGUF, and integers whose scales lie in tensors of their own. */
#ifndef TOKENLANE_TENSOR_H
#define TOKENLANE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Floats come first. Q4_0 .. MXFP4 are GGUF's blocks. INT4 and INT8 are what AWQ,
 * GPTQ and compressed-tensors hold: integers with a scale and a zero for a group.
 * NVFP4 is compressed-tensors' and ModelOpt's: E2M1, a scale in E4M3 for 16, a factor for all. */
enum tl_dtype {
  TL_DTYPE_F32, TL_DTYPE_F16, TL_DTYPE_BF16,
  TL_DTYPE_Q4_0, TL_DTYPE_Q4_1, TL_DTYPE_Q5_0, TL_DTYPE_Q5_1, TL_DTYPE_Q8_0,
  TL_DTYPE_Q2_K, TL_DTYPE_Q3_K, TL_DTYPE_Q4_K, TL_DTYPE_Q5_K, TL_DTYPE_Q6_K,
  TL_DTYPE_IQ4_NL, TL_DTYPE_IQ4_XS, TL_DTYPE_MXFP4,
  TL_DTYPE_INT4, TL_DTYPE_INT8, TL_DTYPE_NVFP4,
  TL_DTYPE_F8_E4M3,
  TL_DTYPE_I32, TL_DTYPE_I8, TL_DTYPE_U8, /* parts of INT4, INT8, MXFP4 and NVFP4 tensors; no values of their own */
  TL_N_DTYPES
};
/* Of one element; 0 for formats of blocks. */
size_t tl_dtype_bytes(enum tl_dtype dtype);
const char *tl_dtype_name(enum tl_dtype dtype);
/* Columns of a row that share a scale and cannot be cut apart: a power of two, 1 for floats. */
uint32_t tl_dtype_block(enum tl_dtype dtype);

struct tl_packed; /* src/model's own: integers, scales and zeros in several tensors, or floats to be quantized */

/* A matrix in a mapped file, row-major. */
struct tl_tensor {
  const char *name;
  enum tl_dtype dtype;
  uint32_t n_dims;
  uint64_t shape[4];
  const void *data; /* any alignment; valid until tl_model_release_files; NULL with `packed`, but for F8 */
  size_t bytes;     /* what the format needs for this shape, checked against the file */
  /* Not 0: each run of so many rows (a head) is in the file as the pairs that
   * interleaved rotation turns: row i as row 2i, row i + half as row 2i + 1. */
  uint32_t head_rows;
  const struct tl_packed *packed;
  /* run_rows not 0: rows lie in runs of so many, run_step rows from a run's first to the next one's. */
  uint64_t run_rows, run_step;
  /* Of floats, not 0: elements from a row to the next, and from a column to the next. */
  uint64_t row_step, column_step;
};

/* --- quantized formats ---------------------------------------------------------------
 * A value is scale * (code - offset) - min, or scale * table[code]. */

#define TL_QUANT_BLOCK 256 /* elements of the largest block */
#define TL_QUANT_GROUPS 16 /* groups of the largest block */

/* Where scale and min of a group come from. */
enum tl_quant_scale {
  TL_SCALE_HALF,      /* d */
  TL_SCALE_HALF_MIN,  /* d; min is -m */
  TL_SCALE_E8M0,      /* 2^(d - 128): the table is doubled */
  TL_SCALE_SUPER,     /* d * scales[group], signed */
  TL_SCALE_SUPER_MIN, /* d * scales[group]; min is m * mins[group] */
  TL_SCALE_ZERO,      /* scale; min is scale * (mins[0] - offset) */
  TL_SCALE_E4M3,      /* scale * scales[group], which is E4M3; the table is doubled */
};

struct tl_quant_format {
  uint8_t bits;   /* of a code: 2, 3, 4, 5, 6 or 8 */
  uint8_t group;  /* elements that share scale and min: 16 or 32 */
  uint8_t offset;
  enum tl_quant_scale scale;
  const int8_t *table;  /* (16), or NULL */
  uint16_t block;       /* elements of a block: 32 or 256 */
  uint16_t block_bytes; /* in the file; 0: the parts lie in several tensors */
};
/* NULL: dtype is not quantized to integers. */
const struct tl_quant_format *tl_quant_format(enum tl_dtype dtype);

/* One block of a row, taken apart. */
struct tl_quant_block {
  uint8_t codes[TL_QUANT_BLOCK];
  uint16_t d, m; /* halves; E8M0: the exponent is in d */
  uint8_t scales[TL_QUANT_GROUPS], mins[TL_QUANT_GROUPS];
  float scale;
};

/* Block `block` of row `row` of a quantized tensor. Pure; any thread. */
void tl_quant_read(const struct tl_tensor *t, uint64_t row, uint64_t block, struct tl_quant_block *ret);
/* A group's: its values are scale * (code - offset), or of the table, - min. Pure; any thread. */
void tl_quant_scale(enum tl_dtype dtype, const struct tl_quant_block *block, unsigned group, float *ret_scale, float *ret_min);
/* Its values; dst: the format's block of floats. */
void tl_quant_block_to_f32(enum tl_dtype dtype, const struct tl_quant_block *block, float *dst);
/* The order in which the row's inputs lie in its blocks (n), or NULL: ascending.
 * Code k belongs to input order[k]. Valid as long as the model. */
const uint32_t *tl_tensor_order(const struct tl_tensor *t);
/* INT4, INT8, F8: columns that share a scale, from each multiple of it on; of others all. */
uint64_t tl_tensor_group_columns(const struct tl_tensor *t);
/* F8: what a row's value in column `column` is multiplied by. */
float tl_tensor_f8_scale(const struct tl_tensor *t, uint64_t row, uint64_t column);

/* --- any format ------------------------------------------------------------------------- */
/* Bytes of a row of `columns` elements; 0: not a whole number of blocks, or too many. */
size_t tl_dtype_row_bytes(enum tl_dtype dtype, uint64_t columns);
/* The bytes of a row (of an element, for one dimension); not for `packed` ones. With column_step they lie apart. */
const void *tl_tensor_row(const struct tl_tensor *t, uint64_t row);
/* A row's values; dst: shape[1] floats. For one dimension: element `row`. */
void tl_tensor_row_to_f32(const struct tl_tensor *t, uint64_t row, float *dst);
/* n values of a row of floats (not F8) from column `first` on. */
void tl_tensor_floats(const struct tl_tensor *t, uint64_t row, uint64_t first, uint64_t n, float *dst);
/* count elements of dtype at src (any alignment) to float; blocks: whole ones. F8 without scale. */
void tl_dtype_to_f32(enum tl_dtype dtype, const void *src, float *dst, size_t count);
float tl_bf16_to_f32(uint16_t value);
uint16_t tl_f32_to_bf16(float value); /* round to nearest even; NaN stays NaN */
float tl_f16_to_f32(uint16_t value);
uint16_t tl_f32_to_f16(float value);  /* round to nearest even */
float tl_f8_e4m3_to_f32(uint8_t value); /* OCP: no infinity; 0x7f and 0xff are NaN */
uint8_t tl_f32_to_f8_e4m3(float value); /* round to nearest even; beyond 448: 448; NaN: 0x7f */

#endif
