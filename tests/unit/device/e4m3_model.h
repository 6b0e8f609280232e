/* SPDX-License-Identifier: MIT */
/* Models whose layers' matrices are E4M3, each row, or each block, with a scale of its own: made of a golden one's in memory. */
#ifndef E4M3_MODEL_H
#define E4M3_MODEL_H

#include <math.h>

#include "device/cuda/ops/cuda_e4m3.h"
#include "float_twin.h"
#include "model/model_private.h"

#define E4M3_MATRICES 64

struct e4m3_model {
  struct tl_model *model, *twin; /* twin: the same values in floats */
  struct tl_packed packed[E4M3_MATRICES];
  uint8_t *codes[E4M3_MATRICES];
  float *scales[E4M3_MATRICES];
  unsigned n;
  float *copies[256];
  uint32_t n_copies;
};

/* Blocks of so many rows and columns. */
static inline void to_e4m3(struct e4m3_model *m, struct tl_tensor *t, uint64_t block_rows, uint64_t block_columns) {
  uint64_t rows = t->shape[0], columns = t->shape[1], n_groups = (columns + block_columns - 1) / block_columns;
  if (t->dtype == TL_DTYPE_F8_E4M3) return; /* several records' */
  assert_true(m->n < E4M3_MATRICES);
  uint8_t *codes = m->codes[m->n] = malloc(rows * columns);
  float *scales = m->scales[m->n] = calloc(rows * n_groups, sizeof *scales), *row = malloc(columns * sizeof *row);
  for (uint64_t i = 0; i < rows; i++) {
    tl_tensor_row_to_f32(t, i, row);
    for (uint64_t k = 0; k < columns; k++) {
      float *scale = &scales[i / block_rows * n_groups + k / block_columns];
      *scale = fmaxf(*scale, fabsf(row[k]) / TL_CUDA_E4M3_MAX);
    }
  }
  for (uint64_t i = 0; i < rows; i++) {
    tl_tensor_row_to_f32(t, i, row);
    for (uint64_t k = 0; k < columns; k++)
      codes[i * columns + k] = row[k] == 0 ? 0 : tl_cuda_to_e4m3(row[k] / scales[i / block_rows * n_groups + k / block_columns]);
  }
  free(row);
  m->packed[m->n] = (struct tl_packed){.scales = (const char *)scales, .scale_dtype = TL_DTYPE_F32, .n_groups = n_groups,
                                       .group_rows = block_rows, .group_columns = block_columns};
  *t = (struct tl_tensor){.name = t->name, .dtype = TL_DTYPE_F8_E4M3, .n_dims = 2, .shape = {rows, columns}, .data = codes,
                          .bytes = rows * columns, .packed = &m->packed[m->n]};
  m->n++;
}

/* first_only: of a record's matrices; block: rows and columns that share a scale, 0: each row has one. */
static inline struct e4m3_model *new_e4m3_blocks(const char *name, bool first_only, uint64_t block) {
  struct e4m3_model *m = calloc(1, sizeof *m);
  m->model = load_model(name);
  m->twin = load_model(name);
  for (uint32_t i = 0; i < m->model->n_ops; i++) {
    const struct tl_op *op = &m->model->plan[i];
    if (op->kind != TL_OP_QKV && op->kind != TL_OP_ATTN_OUT && op->kind != TL_OP_GATED_UP && op->kind != TL_OP_MLP_DOWN) continue;
    for (unsigned k = 0; k < TL_OP_INPUTS && op->weight[k] >= 0 && !(first_only && k > 0); k++) {
      struct tl_tensor *t = (struct tl_tensor *)(uintptr_t)&m->model->tensors[op->weight[k]];
      to_e4m3(m, t, block ? block : 1, block ? block : t->shape[1]);
    }
  }
  assert_true(m->n > 0 && m->model->n_tensors <= UNIT_COUNT(m->copies));
  to_floats(m->model, m->twin, m->copies, &m->n_copies);
  return m;
}

static inline struct e4m3_model *new_e4m3_model(const char *name, bool first_only) {
  return new_e4m3_blocks(name, first_only, 0);
}

static inline void free_e4m3_model(struct e4m3_model *m) {
  tl_model_free(m->model);
  tl_model_free(m->twin);
  for (unsigned i = 0; i < m->n; i++) free(m->codes[i]), free(m->scales[i]);
  for (uint32_t i = 0; i < m->n_copies; i++) free(m->copies[i]);
  free(m);
}

#endif
