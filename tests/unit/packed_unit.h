/* SPDX-License-Identifier: MIT */
/* The matrices of tests/golden/make_packed.py. */
#ifndef PACKED_UNIT_H
#define PACKED_UNIT_H

#include "model/model_private.h"
#include "unit.h"

static const struct packed_case {
  const char *name, *method, *format;
  enum tl_dtype dtype;
  unsigned rows;
} packed_cases[] = {
    {"gptq_32", "gptq", "gptq", TL_DTYPE_INT4, 40},
    {"gptq_128", "gptq", "", TL_DTYPE_INT4, 40},
    {"gptq_order", "gptq", "gptq", TL_DTYPE_INT4, 40},
    {"gptq_v2", "gptq", "gptq_v2", TL_DTYPE_INT4, 40},
    {"awq_64", "awq", "", TL_DTYPE_INT4, 40},
    {"awq_128", "awq", "", TL_DTYPE_INT4, 40},
    {"ct4_32", "compressed-tensors", "", TL_DTYPE_INT4, 40},
    {"ct4_channel", "compressed-tensors", "", TL_DTYPE_INT4, 40},
    {"ct4_zeros", "compressed-tensors", "", TL_DTYPE_INT4, 40},
    {"ct4_order", "compressed-tensors", "", TL_DTYPE_INT4, 40},
    {"ct8_packed", "compressed-tensors", "", TL_DTYPE_INT8, 40},
    {"ct8", "compressed-tensors", "", TL_DTYPE_INT8, 40},
    {"ct8_zeros", "compressed-tensors", "", TL_DTYPE_INT8, 40},
    {"f8_tensor", "compressed-tensors", "", TL_DTYPE_F8_E4M3, 40},
    {"f8_channel", "compressed-tensors", "", TL_DTYPE_F8_E4M3, 40},
    {"f8_block", "fp8", "", TL_DTYPE_F8_E4M3, 160},
    {"nvfp4_ct", "compressed-tensors", "", TL_DTYPE_NVFP4, 40},
    {"nvfp4_modelopt", "modelopt", "", TL_DTYPE_NVFP4, 40},
    {"mxfp4_ct", "compressed-tensors", "", TL_DTYPE_MXFP4, 40},
    {"mxfp4_quark", "quark", "", TL_DTYPE_MXFP4, 40},
};
#define PACKED_COLUMNS 256

static struct hf_config packed_config;

static inline struct model *open_packed(void) {
  char path[1024];
  unit_golden_path("packed.safetensors", path);
  struct model *m = calloc(1, sizeof *m);
  struct tl_error err = {0};
  tl_arena_init(&m->arena, 0);
  if (model_add_safetensors(m, path, "packed.safetensors", "", &err) < 0) fail_msg("%s", err.message);
  m->config = &packed_config;
  return m;
}

/* The index of the case's matrix, or an error. */
static inline int32_t find_packed(struct model *m, const struct packed_case *c, struct tl_error *err) {
  char name[64];
  packed_config = (struct hf_config){.block_rows = 128, .block_columns = 128};
  snprintf(packed_config.quant_method, sizeof packed_config.quant_method, "%s", c->method);
  snprintf(packed_config.checkpoint_format, sizeof packed_config.checkpoint_format, "%s", c->format);
  snprintf(name, sizeof name, "%s.weight", c->name);
  return packed_tensor(m, name, c->rows, PACKED_COLUMNS, err);
}

static inline const struct tl_tensor *packed_values(const struct model *m, const struct packed_case *c) {
  char name[64];
  snprintf(name, sizeof name, "%s.values", c->name);
  return &m->tensors[model_find_tensor(m, name)];
}

#endif
