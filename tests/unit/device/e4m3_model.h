/* SPDX-License-Identifier: MIT */
/* Models whose layers' matrices are E4M3, each row with a scale of its own: made of a golden one's in memory. */
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

static inline void to_e4m3(struct e4m3_model *m, struct tl_tensor *t) {
  uint64_t rows = t->shape[0], columns = t->shape[1];
  if (t->dtype == TL_DTYPE_F8_E4M3) return; /* several records' */
  assert_true(m->n < E4M3_MATRICES);
  uint8_t *codes = m->codes[m->n] = malloc(rows * columns);
  float *scales = m->scales[m->n] = malloc(rows * sizeof *scales), *row = malloc(columns * sizeof *row);
  for (uint64_t i = 0; i < rows; i++) {
    float most = 0;
    tl_tensor_row_to_f32(t, i, row);
    for (uint64_t k = 0; k < columns; k++) most = fmaxf(most, fabsf(row[k]));
    scales[i] = most == 0 ? 1 : most / TL_CUDA_E4M3_MAX;
    for (uint64_t k = 0; k < columns; k++) codes[i * columns + k] = tl_cuda_to_e4m3(row[k] / scales[i]);
  }
  free(row);
  m->packed[m->n] = (struct tl_packed){.scales = (const char *)scales, .scale_dtype = TL_DTYPE_F32, .n_groups = 1, .group_rows = 1,
                                       .group_columns = columns};
  *t = (struct tl_tensor){.name = t->name, .dtype = TL_DTYPE_F8_E4M3, .n_dims = 2, .shape = {rows, columns}, .data = codes,
                          .bytes = rows * columns, .packed = &m->packed[m->n]};
  m->n++;
}

/* first_only: of a record's matrices. */
static inline struct e4m3_model *new_e4m3_model(const char *name, bool first_only) {
  struct e4m3_model *m = calloc(1, sizeof *m);
  m->model = load_model(name);
  m->twin = load_model(name);
  for (uint32_t i = 0; i < m->model->n_ops; i++) {
    const struct tl_op *op = &m->model->plan[i];
    if (op->kind != TL_OP_QKV && op->kind != TL_OP_ATTN_OUT && op->kind != TL_OP_GATED_UP && op->kind != TL_OP_MLP_DOWN) continue;
    for (unsigned k = 0; k < TL_OP_INPUTS && op->weight[k] >= 0 && !(first_only && k > 0); k++)
      to_e4m3(m, (struct tl_tensor *)(uintptr_t)&m->model->tensors[op->weight[k]]);
  }
  assert_true(m->n > 0 && m->model->n_tensors <= UNIT_COUNT(m->copies));
  to_floats(m->model, m->twin, m->copies, &m->n_copies);
  return m;
}

static inline void free_e4m3_model(struct e4m3_model *m) {
  tl_model_free(m->model);
  tl_model_free(m->twin);
  for (unsigned i = 0; i < m->n; i++) free(m->codes[i]), free(m->scales[i]);
  for (uint32_t i = 0; i < m->n_copies; i++) free(m->copies[i]);
  free(m);
}

#endif
