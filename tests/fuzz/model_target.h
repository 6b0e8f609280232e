/* SPDX-License-Identifier: MIT */
/* What fuzz_gguf.c, fuzz_safetensors.c and fuzz_config.c share: files in memory, and a model that was
 * taken is read from end to end. */
#ifndef MODEL_TARGET_H
#define MODEL_TARGET_H

#include <unistd.h>

#include "fuzz_target.h"
#include "tokenlane/model.h"

static char folder[64];

static inline void remove_folder(void) {
  static const char *const names[] = {"x.gguf", "config.json", "model.safetensors"};
  char path[128];
  for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    unlink(path);
  }
  rmdir(folder);
}

static inline void write_file(const char *name, const void *bytes, size_t length) {
  if (!folder[0]) {
    strcpy(folder, "/dev/shm/tokenlane-fuzz-XXXXXX");
    if (!mkdtemp(folder)) abort();
    atexit(remove_folder);
  }
  char path[128];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(bytes, 1, length, file) != length || fclose(file) != 0) abort();
}

/* First and last row of all that the plan names: rows in between lie between. */
static inline void read_tensor(const struct tl_tensor *t) {
  float *row = malloc((t->n_dims > 1 ? t->shape[1] : 1) * sizeof *row);
  if (!row) abort();
  tl_tensor_row_to_f32(t, 0, row);
  tl_tensor_row_to_f32(t, t->shape[0] - 1, row);
  free(row);
}

static inline void read_model(const struct tl_model *model) {
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    for (int k = 0; k < TL_OP_INPUTS; k++)
      for (uint32_t n = 0; n < tl_op_n_tensors(op); n++) {
        if (op->weight[k] >= 0) read_tensor(&model->tensors[op->weight[k] + (int32_t)n]);
        if (op->bias[k] >= 0) read_tensor(&model->tensors[op->bias[k] + (int32_t)n]);
      }
  }
}

static inline void load_model(const char *path) {
  struct tl_model *model;
  struct tl_error err = {0};
  int r = tl_model_load(path, &model, &err);
  if (r != err.code || (r < 0 && !err.message[0])) abort();
  if (r < 0) return;
  read_model(model);
  if (tl_model_quantize(model, "q4_0", &err) < 0) abort();
  read_model(model);
  tl_model_free(model);
}

#endif
