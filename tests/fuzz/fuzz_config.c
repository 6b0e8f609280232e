/* SPDX-License-Identifier: MIT */
/* Any bytes as config.json: the sizes alone, then a model whose one weight is missing, which gets as far as the
 * angles and the first tensor. */
#include "model_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char empty[] = "\2\0\0\0\0\0\0\0{}";
  struct tl_model *model;
  struct tl_error err = {0};
  write_file("config.json", data, size);
  write_file("model.safetensors", empty, sizeof empty - 1);
  int r = tl_model_load_config(folder, &model, &err);
  if (r != err.code || (r < 0 && !err.message[0])) abort();
  if (r < 0) return 0;
  if (!model->dim || !model->head_dim || !model->n_kv_heads || model->n_heads % model->n_kv_heads) abort();
  tl_model_free(model);
  load_model(folder);
  return 0;
}
