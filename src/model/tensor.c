/* SPDX-License-Identifier: MIT */
/* Rows of a tensor, whatever its format and its order in the file. */
#include <string.h>

#include "model/model_private.h"

/* Where row `row` is in the file. */
static uint64_t place_of(const struct tl_tensor *t, uint64_t row) {
  if (t->run_rows) return row / t->run_rows * t->run_step + row % t->run_rows;
  if (!t->head_rows) return row;
  uint64_t half = t->head_rows / 2, in_head = row % t->head_rows;
  return row - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
}

const void *tl_tensor_row(const struct tl_tensor *t, uint64_t row) {
  if (t->row_step) return (const char *)t->data + row * t->row_step * tl_dtype_bytes(t->dtype);
  uint64_t columns = t->n_dims > 1 ? t->shape[1] : 1;
  return (const char *)t->data + place_of(t, row) * tl_dtype_row_bytes(t->dtype, columns);
}

void tl_quant_read(const struct tl_tensor *t, uint64_t row, uint64_t block, struct tl_quant_block *ret) {
  if (t->packed) {
    t->packed->read(t->packed, place_of(t, row), block, ret);
    return;
  }
  const char *at = tl_tensor_row(t, row);
  quant_read_bytes(t->dtype, at + block * tl_quant_format(t->dtype)->block_bytes, ret);
}

const uint32_t *tl_tensor_order(const struct tl_tensor *t) {
  return t->packed ? t->packed->order : NULL;
}

static float scale_at(const struct tl_packed *p, uint64_t index) {
  float value;
  tl_dtype_to_f32(p->scale_dtype, p->scales + index * tl_dtype_bytes(p->scale_dtype), &value, 1);
  return value;
}

float tl_tensor_f8_scale(const struct tl_tensor *t, uint64_t row, uint64_t column) {
  const struct tl_packed *p = t->packed;
  return p ? scale_at(p, (p->first_row + place_of(t, row)) / p->group_rows * p->n_groups + column / p->group_columns) : 1;
}

uint64_t tl_tensor_group_columns(const struct tl_tensor *t) {
  return t->packed && t->packed->group_columns ? t->packed->group_columns : t->shape[1];
}

static void packed_row_to_f32(const struct tl_tensor *t, uint64_t row, float *dst) {
  const struct tl_quant_format *f = tl_quant_format(t->dtype);
  const uint32_t *order = t->packed->order;
  struct tl_quant_block block;
  float values[TL_QUANT_BLOCK];
  for (uint64_t i = 0; i < t->shape[1]; i += f->block) {
    tl_quant_read(t, row, i / f->block, &block);
    tl_quant_block_to_f32(t->dtype, &block, values);
    for (uint64_t k = 0; k < f->block; k++) dst[order ? order[i + k] : i + k] = values[k];
  }
}

void tl_tensor_floats(const struct tl_tensor *t, uint64_t row, uint64_t first, uint64_t n, float *dst) {
  size_t bytes = tl_dtype_bytes(t->dtype), step = t->column_step ? t->column_step * bytes : bytes;
  const char *at = (const char *)tl_tensor_row(t, row) + first * step;
  if (step == bytes) {
    tl_dtype_to_f32(t->dtype, at, dst, n);
    return;
  }
  for (uint64_t i = 0; i < n; i++) tl_dtype_to_f32(t->dtype, at + i * step, dst + i, 1);
}

void tl_tensor_row_to_f32(const struct tl_tensor *t, uint64_t row, float *dst) {
  if (t->packed && tl_quant_format(t->dtype)) {
    packed_row_to_f32(t, row, dst);
    return;
  }
  uint64_t columns = t->n_dims > 1 ? t->shape[1] : 1;
  if (t->column_step) {
    tl_tensor_floats(t, row, 0, columns, dst);
    return;
  }
  tl_dtype_to_f32(t->dtype, tl_tensor_row(t, row), dst, columns);
  if (t->packed)
    for (uint64_t k = 0; k < columns; k++) dst[k] *= tl_tensor_f8_scale(t, row, k);
}
