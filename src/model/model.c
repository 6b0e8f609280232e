/* SPDX-License-Identifier: MIT */
#include "tokenlane/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/model_private.h"

static uint64_t elements(const struct tl_tensor *t) {
  uint64_t n = 1;
  for (uint32_t i = 0; i < t->n_dims; i++) n *= t->shape[i];
  return n;
}

int model_count_weights(struct model *m, struct tl_error *err) {
  struct tl_model *t = &m->model;
  size_t bytes_of[TL_N_DTYPES] = {0};
  bool *seen = calloc(m->n_tensors + 1, sizeof *seen);
  if (!seen) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  t->n_parameters = t->weight_bytes = 0;
  t->weight_dtype = TL_DTYPE_F32;
  for (uint32_t i = 0; i < 2 * TL_OP_INPUTS * t->n_ops; i++) {
    const struct tl_op *op = &m->ops[i / (2 * TL_OP_INPUTS)];
    unsigned k = i % (2 * TL_OP_INPUTS);
    int32_t first = k < TL_OP_INPUTS ? op->weight[k] : op->bias[k - TL_OP_INPUTS];
    for (int32_t index = first; first >= 0 && index < first + (int32_t)tl_op_n_tensors(op); index++) {
      if (seen[index]) continue;
      seen[index] = true;
      t->n_parameters += elements(&m->tensors[index]);
      t->weight_bytes += m->tensors[index].bytes;
      bytes_of[m->tensors[index].dtype] += m->tensors[index].bytes;
    }
  }
  free(seen);
  for (enum tl_dtype d = TL_DTYPE_F32; d < TL_N_DTYPES; d++)
    if (bytes_of[d] > bytes_of[t->weight_dtype]) t->weight_dtype = d;
  t->dtype = t->weight_dtype <= TL_DTYPE_BF16 ? t->weight_dtype
             : t->weight_dtype == TL_DTYPE_F8_E4M3 ? TL_DTYPE_BF16 : TL_DTYPE_F16;
  return TL_OK;
}

/* GGUF has Llama 3's scaling as a tensor of divisors. */
static int divide_angles(const struct model *m, float *inv_freq, struct tl_error *err) {
  int32_t i = m->gguf ? model_find_tensor(m, "rope_freqs.weight") : -1;
  if (i < 0) return TL_OK;
  const struct tl_tensor *t = &m->tensors[i];
  uint32_t n = (m->model.wide.dim ? m->model.wide.dim : m->model.n_rotated) / 2;
  if (t->n_dims != 1 || t->shape[0] != n || t->dtype != TL_DTYPE_F32)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.100s: tensor 'rope_freqs.weight': expected %u floats",
                        model_file_of(m, t), n);
  for (uint32_t k = 0; k < n; k++) {
    float divisor;
    tl_tensor_row_to_f32(t, k, &divisor);
    if (!(divisor > 0))
      return tl_error_set(err, TL_ECORRUPT, "model.path", "%.100s: tensor 'rope_freqs.weight': expected numbers above 0",
                          model_file_of(m, t));
    inv_freq[k] /= divisor;
  }
  return TL_OK;
}

static int make_plan(struct model *m, const struct architecture *architecture, const struct hf_config *c,
                     const struct hf_pooling *pooling, struct tl_error *err) {
  /* 24 records a layer at most, and a few around them: plan_add cannot run out */
  _Static_assert(MODEL_MAX_LAYERS * 24 + 16 < MODEL_MAX_OPS, "the plan of the deepest model fits");
  m->model.n_rotated = model_n_rotated(c);
  m->ops = tl_arena_array(&m->arena, MODEL_MAX_OPS, sizeof *m->ops);
  int64_t longest = c->global_head_dim > c->head_dim ? c->global_head_dim : c->head_dim;
  float *inv_freq = tl_arena_array(&m->arena, (size_t)longest / 2, sizeof *inv_freq);
  float *local = tl_arena_array(&m->arena, (size_t)c->head_dim / 2, sizeof *local), factor = 1;
  if (!m->ops || !inv_freq || !local) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  m->config = c;
  m->row = architecture;
  int r = model_rope(c, inv_freq, &factor, err);
  if (r == TL_OK) r = divide_angles(m, inv_freq, err);
  m->bare = model_find_tensor(m, "embed_tokens.weight") >= 0 && model_find_tensor(m, "model.embed_tokens.weight") < 0;
  if (r == TL_OK && arch_encoder_of(architecture)) r = arch_encoder_plan(m, architecture, c, pooling, factor, err);
  else if (r == TL_OK) r = arch_decoder_plan(m, architecture, c, pooling, factor, err);
  m->model.inv_freq = inv_freq;
  if (architecture->traits & (ARCH_LOCAL_ROPE | ARCH_LOCAL_PLAIN)) {
    model_rope_local(c, local);
    m->model.inv_freq_local = local;
  }
  m->model.plan = m->ops;
  m->model.tensors = m->tensors;
  m->model.n_tensors = m->n_tensors;
  m->config = NULL;
  m->row = NULL;
  return r == TL_OK ? model_count_weights(m, err) : r;
}

static void take_config(struct tl_model *t, const struct architecture *a, const struct hf_config *c) {
  t->dim = (uint32_t)c->hidden_size;
  t->n_layers = (uint32_t)c->num_hidden_layers;
  t->n_heads = (uint32_t)c->num_attention_heads;
  t->n_kv_heads = (uint32_t)c->num_key_value_heads;
  t->head_dim = (uint32_t)c->head_dim;
  t->ffn_dim = (uint32_t)c->intermediate_size;
  t->n_experts = (uint32_t)c->n_experts;
  t->vocab_size = (uint32_t)c->vocab_size;
  t->max_context = (uint32_t)c->max_position_embeddings;
  arch_latent_take(a, c, t);
  arch_recurrent_take(a, c, t);
  arch_gemma4_take(a, c, t);
  t->n_eos = c->n_eos;
  memcpy(t->eos, c->eos, sizeof t->eos);
  t->defaults = c->defaults;
}

/* The model without weights; *ret_architecture is its row. */
static int new_model(struct hf_config *config, struct model **ret, const struct architecture **ret_architecture,
                     struct tl_error *err) {
  const struct architecture *a = arch_find(config->architecture, config->model_type, err);
  if (!a) return TL_EUNSUPPORTED;
  if (!(a->traits & ARCH_PARTIAL)) config->partial_rotary_factor = 1;
  if (config->partial_rotary_factor == 0) config->partial_rotary_factor = a->partial;
  if (a->traits & ARCH_USE_BIAS) config->attention_bias = config->mlp_bias = config->use_bias;
  if (!(arch_blocks_of(a)->traits & BLOCK_ONE_MIXER)) config->expert_latent = 0;
  if (!arch_experts_of(a)) config->n_experts = 0; /* a key that means nothing there */
  struct model *m = calloc(1, sizeof *m);
  if (!m) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  tl_arena_init(&m->arena, 0);
  take_config(&m->model, a, config);
  m->model.architecture = a->name;
  m->nested = hf_is_nested(a);
  m->mixers = arch_blocks_of(a)->traits & BLOCK_ONE_MIXER;
  m->names = hf_names_of(a);
  m->shared_mlp = arch_experts_of(a) && arch_experts_of(a)->traits & EXPERTS_ROWS;
  *ret_architecture = a;
  *ret = m;
  return TL_OK;
}

/* Whether the model makes vectors, and which. Folders that do not say how pool by mean, as sentence-transformers
 * does with them; a decoder without its output matrix, or with modules.json, is an embedder. */
static int set_pooling(struct tl_model *t, const struct architecture *a, const struct hf_config *c, const struct hf_pooling *p,
                       struct tl_error *err) {
  const struct arch_encoder *encoder = arch_encoder_of(a);
  size_t length = strlen(c->architecture);
  bool headless = length > 5 && strcmp(c->architecture + length - 5, "Model") == 0 && !strstr(c->architecture, "LMHeadModel");
  t->is_classifier = encoder && arch_is_classifier(a);
  if (!encoder && !headless && p->kind == TL_POOL_NONE) return TL_OK;
  if (t->recurrence.n_layers)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "models whose layers keep a state are not supported as embedders");
  if (t->n_kv_layers < t->n_layers) /* whose keys would have to stay while the layers between use the same blocks */
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "models whose layers share keys and values are not supported as embedders");
  t->pooling = p->kind == TL_POOL_NONE ? TL_POOL_MEAN : p->kind;
  if (t->is_classifier) t->pooling = strcmp(c->classifier_pooling, "mean") == 0 ? TL_POOL_MEAN : TL_POOL_FIRST;
  t->normalize = p->normalize && !t->is_classifier;
  t->n_out = t->is_classifier ? (uint32_t)c->n_labels : p->n_dense ? (uint32_t)p->dense[p->n_dense - 1].n_out : t->dim;
  int64_t context = encoder ? arch_encoder_context(encoder, c) : c->max_position_embeddings;
  if (p->max_length && p->max_length < context) context = p->max_length;
  if (context < 1 || t->n_out < 1)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "config.json: max_position_embeddings, id2label: expected some");
  t->max_context = (uint32_t)context;
  return TL_OK;
}

/* A layer that sentence-transformers has in a folder of its own: its tensors' names begin with that. */
static int add_dense(struct model *m, const char *folder, const char *dense, struct tl_error *err) {
  char path[4096], name[96], prefix[80];
  snprintf(name, sizeof name, "%s/model.safetensors", dense);
  snprintf(path, sizeof path, "%s/%s", folder, name);
  snprintf(prefix, sizeof prefix, "%s.", dense);
  return model_add_safetensors(m, path, name, prefix, err);
}

/* A folder; without `weights` the sizes alone. */
static int load_folder(const char *folder, bool weights, struct model **ret, struct tl_error *err) {
  struct hf_config config;
  struct hf_pooling pooling;
  const struct architecture *architecture;
  char path[4096];
  snprintf(path, sizeof path, "%s/config.json", folder);
  int r = access(path, F_OK) == 0 ? TL_OK : model_absent(folder, "config.json", err);
  if (r == TL_OK) r = model_read_config(folder, &config, err);
  if (r == TL_OK) r = model_read_pooling(folder, &config, &pooling, err);
  if (r == TL_OK) r = new_model(&config, ret, &architecture, err);
  if (r == TL_OK && arch_is_classifier(architecture)) pooling = (struct hf_pooling){.max_length = pooling.max_length};
  if (r == TL_OK) r = set_pooling(&(*ret)->model, architecture, &config, &pooling, err);
  if (r == TL_OK && weights) r = model_open_weights(*ret, folder, err);
  for (unsigned i = 0; r == TL_OK && weights && i < pooling.n_dense; i++) r = add_dense(*ret, folder, pooling.dense[i].folder, err);
  if (r == TL_OK && weights) r = make_plan(*ret, architecture, &config, &pooling, err);
  return r;
}

static int load_gguf(const char *path, bool weights, struct model **ret, struct tl_error *err) {
  struct tl_gguf *g;
  struct hf_config config;
  struct hf_pooling pooling;
  const struct architecture *architecture;
  bool paired_rows = false;
  int r = tl_gguf_open(path, &g, err);
  if (r < 0) return r;
  r = gguf_check_first(g, path, err);
  if (r == TL_OK) r = gguf_read_config(g, &config, &paired_rows, err);
  if (r == TL_OK) r = gguf_read_pooling(g, &pooling, err);
  if (r == TL_OK) r = new_model(&config, ret, &architecture, err);
  if (r == TL_OK) r = set_pooling(&(*ret)->model, architecture, &config, &pooling, err);
  if (r == TL_OK && weights) {
    struct model *m = *ret;
    m->gguf = true;
    m->paired_head = paired_rows ? (uint32_t)config.head_dim : 0;
    r = gguf_add_files(m, path, err);
    if (r == TL_OK) r = gguf_complete_config(m, &pooling, &config, err);
    if (r == TL_OK) r = make_plan(m, architecture, &config, &pooling, err);
  }
  tl_gguf_close(g);
  return r;
}

static int load(const char *path, bool weights, struct tl_model **ret, struct tl_error *err) {
  struct model *m = NULL;
  uint64_t shortages = tl_json_shortages();
  int r = model_check_path(path, err);
  if (r < 0) return r;
  r = tl_gguf_is_path(path) ? load_gguf(path, weights, &m, err) : load_folder(path, weights, &m, err);
  if (r == TL_OK) r = tl_model_check_files(&m->model, err);
  if (r == TL_OK && tl_json_shortages() != shortages) r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (r == TL_OK) *ret = &m->model;
  else if (m) tl_model_free(&m->model);
  return r;
}

int tl_model_load(const char *path, struct tl_model **ret, struct tl_error *err) {
  return load(path, true, ret, err);
}

int tl_model_load_config(const char *path, struct tl_model **ret, struct tl_error *err) {
  return load(path, false, ret, err);
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
