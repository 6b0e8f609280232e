/* SPDX-License-Identifier: MIT */
/* Building a plan: records and the tensors that they name. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

struct tl_op *plan_add(struct model *m, enum tl_op_kind kind, uint32_t layer) {
  if (m->model.n_ops == MODEL_MAX_OPS) return NULL;
  struct tl_op *op = &m->ops[m->model.n_ops++];
  *op = (struct tl_op){.kind = kind, .layer = layer};
  for (int i = 0; i < TL_OP_INPUTS; i++) op->weight[i] = op->bias[i] = -1;
  return op;
}

static void shape_text(const struct tl_tensor *t, char *text, size_t size) {
  size_t at = 0;
  text[0] = 0;
  for (uint32_t i = 0; i < t->n_dims && at < size; i++)
    at += (size_t)snprintf(text + at, size - at, "%s%llu", i ? " x " : "", (unsigned long long)t->shape[i]);
}

#define FILE_NAME 300

/* What the files call the tensor that a plan calls `name`; into `buffer`, if that is another name. */
static const char *name_in_files(const struct model *m, const char *name, char buffer[FILE_NAME], bool *ret_rotated) {
  *ret_rotated = false;
  if (m->gguf && gguf_tensor_name(m->row, name, buffer, FILE_NAME, ret_rotated)) return buffer;
  return m->bare && strncmp(name, "model.", 6) == 0 ? name + 6 : name;
}

bool plan_has_tensor(const struct model *m, const char *name) {
  char buffer[FILE_NAME];
  bool rotated;
  return model_find_tensor(m, name_in_files(m, name, buffer, &rotated)) >= 0;
}

int32_t plan_tensor(struct model *m, struct tl_error *err, uint64_t rows, uint64_t columns, const char *format, ...) {
  char name[256], buffer[FILE_NAME], found[128];
  bool rotated;
  va_list args;
  va_start(args, format);
  vsnprintf(name, sizeof name, format, args);
  va_end(args);
  const char *in_file = name_in_files(m, name, buffer, &rotated);
  int32_t i = columns ? packed_tensor(m, in_file, rows, columns, err) : TL_ENOTFOUND;
  if (i < 0 && i != TL_ENOTFOUND) return i;
  if (i < 0) i = model_find_tensor(m, in_file);
  if (i < 0)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "tensor '%s' is missing from the model's files", in_file);
  struct tl_tensor *t = &m->tensors[i];
  const char *file = model_file_of(m, t);
  bool fits = columns ? t->n_dims == 2 && t->shape[0] == rows && t->shape[1] == columns
                      : t->n_dims == 1 && t->shape[0] == rows;
  if (fits && !columns && t->dtype > TL_DTYPE_BF16)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.100s: tensor '%.150s': expected floats, found %s", file,
                        in_file, tl_dtype_name(t->dtype));
  if (fits && t->dtype >= TL_DTYPE_I32)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path",
                        "%.100s: tensor '%.150s': integers whose scales config.json does not explain "
                        "(quantization_config: quant_method)", file, in_file);
  if (rotated) t->head_rows = m->paired_head;
  if (fits) return i;
  shape_text(t, found, sizeof found);
  if (columns)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.100s: tensor '%.150s': expected shape %llu x %llu, found %s",
                        file, in_file, (unsigned long long)rows, (unsigned long long)columns, found);
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%.100s: tensor '%.150s': expected shape %llu, found %s", file,
                      in_file, (unsigned long long)rows, found);
}

int32_t plan_turned(struct model *m, struct tl_error *err, uint64_t rows, uint64_t columns, const char *name) {
  int32_t i = plan_tensor(m, err, columns, rows, "%s", name);
  if (i < 0) return i;
  struct tl_tensor t = m->tensors[i];
  if (t.dtype > TL_DTYPE_BF16)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.100s: tensor '%.150s': expected floats, found %s", model_file_of(m, &t), t.name,
                        tl_dtype_name(t.dtype));
  char turned[300];
  snprintf(turned, sizeof turned, "%.250s^T", t.name);
  t.name = turned;
  t.shape[0] = rows;
  t.shape[1] = columns;
  t.row_step = 1;
  t.column_step = rows;
  plan_spent(m, i);
  int r = model_add_tensor(m, &t, err);
  return r < 0 ? r : (int32_t)m->n_tensors - 1;
}

int32_t plan_runs(struct model *m, struct tl_error *err, int32_t tensor, const struct row_runs *runs) {
  struct tl_tensor part = m->tensors[tensor];
  uint64_t first = runs->first, rows = runs->rows;
  char name[300];
  snprintf(name, sizeof name, "%.250s[%llu]", part.name, (unsigned long long)first);
  if (part.packed) {
    struct tl_packed *p = tl_arena_alloc(&m->arena, sizeof *p);
    if (!p) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
    *p = *part.packed;
    p->first_row += first;
    part.packed = p;
  }
  part.name = name;
  part.bytes = part.bytes / part.shape[0] * rows; /* scales are shared out too */
  size_t step = part.row_step ? part.row_step * tl_dtype_bytes(part.dtype) : tl_dtype_row_bytes(part.dtype, part.n_dims > 1 ? part.shape[1] : 1);
  if (part.data) part.data = (const char *)part.data + first * step;
  part.shape[0] = rows;
  if (runs->each < rows) {
    part.run_rows = runs->each;
    part.run_step = runs->step;
  }
  int r = model_add_tensor(m, &part, err);
  return r < 0 ? r : (int32_t)m->n_tensors - 1;
}

int32_t plan_rows(struct model *m, struct tl_error *err, int32_t tensor, uint64_t first, uint64_t rows) {
  return plan_runs(m, err, tensor, &(struct row_runs){.first = first, .each = rows, .rows = rows});
}

void plan_spent(struct model *m, int32_t tensor) {
  m->tensors[tensor].shape[0] = 0;
  m->tensors[tensor].bytes = 0;
}

int plan_parts(struct model *m, struct tl_error *err, int32_t tensor, const uint64_t *rows, int n, int32_t *ret) {
  uint64_t first = 0;
  if (tensor < 0) return tensor;
  for (int i = 0; i < n; first += rows[i++])
    if ((ret[i] = plan_rows(m, err, tensor, first, rows[i])) < 0) return ret[i];
  plan_spent(m, tensor);
  return TL_OK;
}
