/* SPDX-License-Identifier: MIT */
#include "tokenlane/model.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "model/model_private.h"

/* A new architecture is a new row. */
static const struct architecture {
  const char *class_name, *name;
  int (*plan)(struct model *m, const struct hf_config *config, struct tl_error *err);
} architectures[] = {{"LlamaForCausalLM", "llama", arch_llama_plan}};

static const struct architecture *find_architecture(const struct hf_config *config, struct tl_error *err) {
  for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
    if (strcmp(config->architecture, architectures[i].class_name) == 0 ||
        (!config->architecture[0] && strcmp(config->model_type, architectures[i].name) == 0))
      return &architectures[i];
  tl_error_set(err, TL_EUNSUPPORTED, "model.path",
               "config.json: architectures: '%s' is not known; known are: LlamaForCausalLM", config->architecture);
  return NULL;
}

static void count_weights(struct model *m) {
  size_t bytes_of[3] = {0};
  for (uint32_t i = 0; i < m->n_tensors; i++) {
    m->model.n_parameters += m->tensors[i].bytes / tl_dtype_bytes(m->tensors[i].dtype);
    m->model.weight_bytes += m->tensors[i].bytes;
    bytes_of[m->tensors[i].dtype] += m->tensors[i].bytes;
  }
  for (enum tl_dtype d = TL_DTYPE_F32; d <= TL_DTYPE_BF16; d++)
    if (bytes_of[d] > bytes_of[m->model.dtype]) m->model.dtype = d;
}

static int make_plan(struct model *m, const struct hf_config *c, struct tl_error *err) {
  const struct architecture *architecture = find_architecture(c, err);
  if (!architecture) return TL_EUNSUPPORTED;
  /* 9 records a layer at most, and a few around them: plan_add cannot run out */
  _Static_assert(1000 * 9 + 16 < MODEL_MAX_OPS, "the plan of the deepest model fits");
  m->ops = tl_arena_array(&m->arena, MODEL_MAX_OPS, sizeof *m->ops);
  float *inv_freq = tl_arena_array(&m->arena, (size_t)c->head_dim / 2, sizeof *inv_freq);
  if (!m->ops || !inv_freq) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  int r = model_rope(c, inv_freq, err);
  if (r == TL_OK) r = architecture->plan(m, c, err);
  m->model.architecture = architecture->name;
  m->model.inv_freq = inv_freq;
  m->model.plan = m->ops;
  m->model.tensors = m->tensors;
  m->model.n_tensors = m->n_tensors;
  return r;
}

static void take_config(struct tl_model *t, const struct hf_config *c) {
  t->dim = (uint32_t)c->hidden_size;
  t->n_layers = (uint32_t)c->num_hidden_layers;
  t->n_heads = (uint32_t)c->num_attention_heads;
  t->n_kv_heads = (uint32_t)c->num_key_value_heads;
  t->head_dim = (uint32_t)c->head_dim;
  t->ffn_dim = (uint32_t)c->intermediate_size;
  t->vocab_size = (uint32_t)c->vocab_size;
  t->max_context = (uint32_t)c->max_position_embeddings;
  t->n_eos = c->n_eos;
  memcpy(t->eos, c->eos, sizeof t->eos);
  t->defaults = c->defaults;
}

/* The sizes alone, from config.json. */
static int load_sizes(const char *folder, struct hf_config *config, struct model **ret, struct tl_error *err) {
  int r = model_read_config(folder, config, err);
  if (r < 0) return r;
  const struct architecture *architecture = find_architecture(config, err);
  if (!architecture) return TL_EUNSUPPORTED;
  struct model *m = calloc(1, sizeof *m);
  if (!m) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  tl_arena_init(&m->arena, 0);
  take_config(&m->model, config);
  m->model.architecture = architecture->name;
  *ret = m;
  return TL_OK;
}

int tl_model_load_config(const char *folder, struct tl_model **ret, struct tl_error *err) {
  struct hf_config config;
  struct model *m;
  int r = load_sizes(folder, &config, &m, err);
  if (r == TL_OK) *ret = &m->model;
  return r;
}

int tl_model_load(const char *folder, struct tl_model **ret, struct tl_error *err) {
  struct hf_config config;
  struct model *m;
  int r = load_sizes(folder, &config, &m, err);
  if (r < 0) return r;
  r = model_open_weights(m, folder, err);
  if (r == TL_OK) r = make_plan(m, &config, err);
  if (r < 0) {
    tl_model_free(&m->model);
    return r;
  }
  count_weights(m);
  *ret = &m->model;
  return TL_OK;
}

void tl_model_release_files(struct tl_model *model) {
  struct model *m = (struct model *)model;
  for (uint32_t i = 0; i < m->n_tensors; i++) m->tensors[i].data = NULL;
  for (uint32_t i = 0; i < m->n_files; i++) munmap(m->files[i].data, m->files[i].bytes);
  m->n_files = 0;
}

void tl_model_free(struct tl_model *model) {
  if (!model) return;
  struct model *m = (struct model *)model;
  tl_model_release_files(model);
  tl_arena_done(&m->arena);
  free(m->tensors);
  free(m->index);
  free(m->files);
  free(m);
}
