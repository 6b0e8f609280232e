/* SPDX-License-Identifier: MIT */
/* Models of tests/golden, and twins of quantized ones whose values are floats. */
#ifndef FLOAT_TWIN_H
#define FLOAT_TWIN_H

#include "tokenlane/model.h"
#include "unit.h"

static inline struct tl_model *load_model(const char *name) {
  char path[1024];
  struct tl_model *model;
  struct tl_error err = {0};
  if (tl_model_load(unit_golden_path(name, path), &model, &err) < 0) fail_msg("%s: %s", path, err.message);
  return model;
}

/* The matrices of `twin`, another model of the same files, get the values of `from`'s as floats, in memory that is `copies`. */
static inline void to_floats(const struct tl_model *from, struct tl_model *twin, float **copies, uint32_t *ret_n) {
  *ret_n = from->n_tensors;
  for (uint32_t i = 0; i < from->n_tensors; i++) {
    const struct tl_tensor *t = &from->tensors[i];
    copies[i] = NULL;
    if (t->n_dims != 2) continue;
    size_t count = t->shape[0] * t->shape[1];
    copies[i] = malloc(count * sizeof(float));
    for (uint64_t row = 0; row < t->shape[0]; row++) tl_tensor_row_to_f32(t, row, copies[i] + row * t->shape[1]);
    *(struct tl_tensor *)(uintptr_t)&twin->tensors[i] =
        (struct tl_tensor){.name = twin->tensors[i].name, .dtype = TL_DTYPE_F32, .n_dims = 2, .shape = {t->shape[0], t->shape[1]},
                           .data = copies[i], .bytes = count * sizeof(float)};
  }
}

static inline struct tl_model *new_twin(const char *name, float **copies, uint32_t *ret_n) {
  struct tl_model *from = load_model(name), *twin = load_model(name);
  to_floats(from, twin, copies, ret_n);
  tl_model_free(from);
  return twin;
}

#endif
