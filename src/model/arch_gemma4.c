/* SPDX-License-Identifier: MIT */
/* Gemma 4. Layers with a window and those without have heads of two sizes, and each kind as many keys and values as it likes; the last
 * layers are lent those of the last layer of their kind that has its own. Each layer of a token gets some numbers beside x, made of a
 * second table of embeddings and of x as it begins. Experts stand beside a layer's MLP. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_private.h"

static bool is_gemma4(const struct architecture *a) {
  return a && a->traits & ARCH_GEMMA4;
}

void arch_gemma4_defaults(const struct architecture *a, struct hf_config *c) {
  if (!is_gemma4(a)) return;
  c->global_head_dim = 512;
  c->vocab_size_per_layer_input = 262144;
  if (strstr(a->name, "unified") == NULL) c->hidden_size_per_layer_input = 256;
}

static int bad(const char *file, const char *key, const char *what, struct tl_error *err) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s: %s", file, key, what);
}

/* --- what follows from config.json ------------------------------------------------------------- */

/* transformers' way to say what global_head_dim does: by layer, where those without a window are all alike. */
static int read_layer_sizes(struct hf_config *c, json_t *layers, struct tl_error *err) {
  const char *number, *alike = "expected the same head_dim and num_key_value_heads for all layers without a window, and those alone";
  json_t *sizes, *first = NULL;
  json_object_foreach(layers, number, sizes) {
    char *end;
    unsigned long layer = strtoul(number, &end, 10);
    bool known = *number && !*end && layer < (unsigned long)c->num_hidden_layers && !c->slides[layer];
    if (!known || (first && !json_equal(first, sizes))) return bad("config.json", "per_layer_config", alike, err);
    first = sizes;
  }
  json_t *dim = json_object_get(first, "head_dim"), *heads = json_object_get(first, "num_key_value_heads");
  json_int_t n_dim = dim ? json_integer_value(dim) : c->head_dim, n_heads = heads ? json_integer_value(heads) : c->num_key_value_heads;
  if (n_dim < 2 || n_dim > MODEL_MAX_HEAD_DIM || n_heads < 1 || n_heads > 4096) return bad("config.json", "per_layer_config", alike, err);
  c->global_head_dim = n_dim;
  c->num_global_key_value_heads = n_heads;
  return TL_OK;
}

/* The last layer has no window, whatever is said. */
static void mark_windows(struct hf_config *c) {
  int64_t every = c->sliding_window_pattern ? c->sliding_window_pattern : 6;
  for (int64_t i = 0; !c->has_layer_types && i < c->num_hidden_layers; i++) c->slides[i] = (i + 1) % every != 0;
  c->has_layer_types = true;
  c->slides[c->num_hidden_layers - 1] = false;
}

/* Whether the layers that are lent keys and values find some of each kind before them. */
static bool can_be_lent(const struct hf_config *c) {
  bool own[2] = {false, false}, lent[2] = {false, false};
  for (int64_t i = 0; i < c->num_hidden_layers; i++) {
    bool *kinds = i < c->num_hidden_layers - c->num_kv_shared_layers ? own : lent;
    kinds[c->slides[i]] = true;
  }
  return own[0] >= lent[0] && own[1] >= lent[1];
}

int arch_gemma4_complete(const struct architecture *a, struct hf_config *c, json_t *object, struct tl_error *err) {
  if (!is_gemma4(a)) {
    c->global_head_dim = 0; /* a key that means nothing there */
    return TL_OK;
  }
  json_t *rope = json_object_get(object, "rope_parameters"), *layers = json_object_get(object, "per_layer_config");
  if (!json_is_object(rope)) {
    strcpy(c->rope_type, "proportional");
    c->partial_rotary_factor = 0.25;
    c->rope_theta = 1e6;
  }
  if (!c->attention_k_eq_v) c->num_global_key_value_heads = 0;
  mark_windows(c);
  if (!c->enable_moe_block) c->n_experts = 0;
  else if (c->n_experts < 1) return bad("config.json", "num_experts", "is required where enable_moe_block is true", err);
  int r = TL_OK;
  if (json_is_object(layers) && json_object_size(layers)) r = read_layer_sizes(c, layers, err);
  return r == TL_OK ? arch_gemma4_check(a, c, "config.json", err) : r;
}

int arch_gemma4_check(const struct architecture *a, struct hf_config *c, const char *file, struct tl_error *err) {
  if (!is_gemma4(a)) return TL_OK;
  if (!c->num_key_value_heads) c->num_key_value_heads = c->num_attention_heads;
  if (!c->num_global_key_value_heads) c->num_global_key_value_heads = c->num_key_value_heads;
  c->rope_share = c->partial_rotary_factor > 0 ? c->partial_rotary_factor : 1;
  c->partial_rotary_factor = 1;
  if (c->global_head_dim % 2) return bad(file, "global_head_dim", "expected an even size", err);
  if (c->num_attention_heads % c->num_global_key_value_heads)
    return bad(file, "num_attention_heads", "expected a multiple of num_global_key_value_heads", err);
  if (c->num_kv_shared_layers >= c->num_hidden_layers || !can_be_lent(c))
    return bad(file, "num_kv_shared_layers", "expected layers of each kind before those that share their keys and values", err);
  if (c->sliding_window < 1) return bad(file, "sliding_window", "expected at least 1", err); /* 0 is no window elsewhere: here those layers have heads of their own */
  if (c->hidden_size_per_layer_input * c->num_hidden_layers > 4 * (int64_t)MODEL_MAX_DIM)
    return bad(file, "hidden_size_per_layer_input", "is too large", err);
  if (c->hidden_size_per_layer_input && c->vocab_size_per_layer_input < c->vocab_size)
    return bad(file, "vocab_size_per_layer_input", "expected at least vocab_size", err);
  if (c->attention_bias)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.120s: attention_bias: is not supported for this architecture", file);
  return TL_OK;
}

void arch_gemma4_take(const struct architecture *a, const struct hf_config *c, struct tl_model *t) {
  if (!is_gemma4(a)) return;
  t->wide = (struct tl_heads){(uint32_t)c->global_head_dim, (uint32_t)c->num_global_key_value_heads};
  t->n_beside = (uint32_t)c->hidden_size_per_layer_input;
  t->n_kv_layers = t->n_layers - (uint32_t)c->num_kv_shared_layers;
}

/* --- the plan -------------------------------------------------------------------------------- */

struct maker {
  struct model *m;
  const struct hf_config *c;
  uint32_t layer;
  struct tl_error *err;
};

static bool is_lent(const struct hf_config *c, uint32_t layer) {
  return layer >= c->num_hidden_layers - c->num_kv_shared_layers;
}

/* The layer whose keys and values this one reads. */
static uint32_t lender(const struct hf_config *c, uint32_t layer) {
  uint32_t from = layer;
  while (is_lent(c, from) || c->slides[from] != c->slides[layer]) from--;
  return from;
}

static struct tl_heads heads_of(const struct model *m, const struct hf_config *c, uint32_t layer) {
  return c->slides[layer] ? (struct tl_heads){m->model.head_dim, m->model.n_kv_heads} : m->model.wide;
}

uint64_t arch_gemma4_made(const struct model *m, const struct hf_config *c, uint32_t layer) {
  return (uint64_t)m->model.n_heads * heads_of(m, c, layer).dim;
}

uint64_t arch_gemma4_ffn(const struct hf_config *c, uint32_t layer) {
  return (uint64_t)c->intermediate_size * (c->use_double_wide_mlp && is_lent(c, layer) ? 2 : 1);
}

/* The layer's tensor `name`; columns 0: a vector. */
static int take(const struct maker *k, int32_t *ret, uint64_t rows, uint64_t columns, const char *name) {
  *ret = plan_tensor(k->m, k->err, rows, columns, "model.layers.%u.%s", k->layer, name);
  return *ret < 0 ? *ret : TL_OK;
}

static int norm(const struct maker *k, enum tl_op_kind kind, const char *name) {
  struct tl_op *op = plan_add(k->m, kind, k->layer);
  op->eps = (float)k->c->rms_norm_eps;
  return take(k, &op->weight[0], (uint64_t)k->c->hidden_size, 0, name);
}

static void multiply(struct tl_op *op, double factor) {
  op->features |= TL_F_FACTOR;
  op->factor = (float)factor;
}

/* Where keys are values, their product is made twice: the norms behind it differ. */
static int project(const struct maker *k, struct tl_op *op, struct tl_heads heads, bool lent) {
  const struct hf_config *c = k->c;
  uint64_t dim = (uint64_t)c->hidden_size, kv = (uint64_t)heads.n_kv * heads.dim;
  int r = take(k, &op->weight[0], (uint64_t)c->num_attention_heads * heads.dim, dim, "self_attn.q_proj.weight");
  if (r < 0 || lent) return r;
  r = take(k, &op->weight[1], kv, dim, "self_attn.k_proj.weight");
  if (r < 0) return r;
  op->weight[2] = op->weight[1];
  bool shared = c->attention_k_eq_v && !c->slides[k->layer];
  return shared ? TL_OK : take(k, &op->weight[2], kv, dim, "self_attn.v_proj.weight");
}

int arch_gemma4_heads(struct model *m, const struct hf_config *c, uint32_t layer, uint32_t *attending, struct tl_error *err) {
  struct maker k = {m, c, layer, err};
  struct tl_heads heads = heads_of(m, c, layer);
  bool lent = is_lent(c, layer), slides = c->slides[layer];
  uint32_t features = (slides ? 0 : TL_F_WIDE) | (lent ? TL_F_LENT : 0);
  struct tl_op *op = plan_add(m, TL_OP_QKV, layer);
  op->features = slides ? 0 : TL_F_WIDE;
  int r = project(&k, op, heads, lent);
  if (r < 0) return r;
  op = plan_add(m, TL_OP_QK_NORM, layer);
  op->features = features | (lent ? 0 : TL_F_VALUES);
  op->eps = (float)c->rms_norm_eps;
  r = take(&k, &op->weight[0], heads.dim, 0, "self_attn.q_norm.weight");
  if (r == TL_OK && !lent) r = take(&k, &op->weight[1], heads.dim, 0, "self_attn.k_norm.weight");
  if (r < 0) return r;
  op = plan_add(m, TL_OP_ROPE, layer);
  op->features = features | (slides ? TL_F_LOCAL : 0);
  /* layers with keys and values of their own come first: their numbers are those of layers */
  op = plan_add(m, TL_OP_ATTEND, lent ? lender(c, layer) : (*attending)++);
  op->features = features | (slides ? TL_F_WINDOW : 0);
  op->window = slides ? (uint32_t)c->sliding_window : 0;
  op->scale = 1;
  return TL_OK;
}

/* A vector of the model's own, n floats times `factor`, in place of a tensor. */
static int scaled(const struct maker *k, int32_t *tensor, uint64_t n, double factor) {
  struct tl_tensor t = k->m->tensors[*tensor];
  float *values = tl_arena_array(&k->m->arena, n, sizeof *values);
  if (!values) return tl_error_set(k->err, TL_ENOMEM, NULL, "out of memory");
  for (uint64_t i = 0; i < n; i++) {
    tl_tensor_row_to_f32(&t, i, &values[i]);
    values[i] = (float)(values[i] * factor);
  }
  char name[300];
  snprintf(name, sizeof name, "%.250s (scaled)", t.name);
  t = (struct tl_tensor){.name = name, .dtype = TL_DTYPE_F32, .n_dims = 1, .shape = {n}, .data = values, .bytes = n * sizeof *values};
  int r = model_add_tensor(k->m, &t, k->err);
  *tensor = (int32_t)k->m->n_tensors - 1;
  return r;
}

int arch_gemma4_experts(struct model *m, const struct hf_config *c, uint32_t layer, struct tl_error *err) {
  struct maker k = {m, c, layer, err};
  int r = norm(&k, TL_OP_ASIDE, "post_feedforward_layernorm_1.weight");
  if (r == TL_OK) r = norm(&k, TL_OP_RMSNORM, m->gguf ? "router.proj.scale" : "router.scale");
  struct tl_op *read = &m->ops[m->model.n_ops - 1];
  if (r == TL_OK) r = scaled(&k, &read->weight[0], (uint64_t)c->hidden_size, 1 / sqrt((double)c->hidden_size));
  if (r == TL_OK) r = arch_experts_plan(m, arch_experts_of(m->row), c, layer, err);
  return r == TL_OK ? norm(&k, TL_OP_JOIN, "post_feedforward_layernorm_2.weight") : r;
}

/* What a layer gets beside x, into x. */
static int beside(const struct maker *k) {
  uint64_t dim = (uint64_t)k->c->hidden_size, n = (uint64_t)k->c->hidden_size_per_layer_input;
  plan_add(k->m, TL_OP_COPY, k->layer);
  struct tl_op *up = plan_add(k->m, TL_OP_UP, k->layer);
  up->features = TL_F_GELU_TANH;
  int r = take(k, &up->weight[0], n, dim, "per_layer_input_gate.weight");
  if (r < 0) return r;
  plan_add(k->m, TL_OP_BESIDE_GATE, k->layer);
  struct tl_op *down = plan_add(k->m, TL_OP_MLP_DOWN, k->layer);
  down->features = TL_F_TO_H;
  r = take(k, &down->weight[0], dim, n, "per_layer_projection.weight");
  return r == TL_OK ? norm(k, TL_OP_NORM_ADD, "post_per_layer_input_norm.weight") : r;
}

int arch_gemma4_end(struct model *m, const struct hf_config *c, uint32_t layer, struct tl_error *err) {
  struct maker k = {m, c, layer, err};
  int32_t tensor = -1;
  float factor = 1;
  int r = c->hidden_size_per_layer_input ? beside(&k) : TL_OK;
  if (r == TL_OK) r = take(&k, &tensor, 1, 0, m->gguf ? "layer_scalar.weight" : "layer_scalar");
  if (r < 0) return r;
  tl_tensor_row_to_f32(&m->tensors[tensor], 0, &factor);
  multiply(&m->ops[m->model.n_ops - 1], factor);
  return TL_OK;
}

int arch_gemma4_begin(struct model *m, const struct hf_config *c, struct tl_error *err) {
  uint64_t dim = (uint64_t)c->hidden_size, n = (uint64_t)c->hidden_size_per_layer_input, all = n * (uint64_t)c->num_hidden_layers;
  if (!n) return TL_OK;
  plan_add(m, TL_OP_COPY, 0);
  struct tl_op *table = plan_add(m, TL_OP_BESIDE, 0), *mix = plan_add(m, TL_OP_BESIDE_MIX, 0);
  multiply(table, sqrt((double)n));
  multiply(mix, sqrt(0.5));
  mix->eps = (float)(c->rms_norm_eps * (double)dim); /* the product is to be divided by the root of dim, which its norm does not see */
  table->weight[0] = plan_tensor(m, err, (uint64_t)c->vocab_size_per_layer_input, all, "model.embed_tokens_per_layer.weight");
  if (table->weight[0] < 0) return table->weight[0];
  mix->weight[0] = plan_tensor(m, err, all, dim, "model.per_layer_model_projection.weight");
  if (mix->weight[0] < 0) return mix->weight[0];
  mix->weight[1] = plan_tensor(m, err, n, 0, "model.per_layer_projection_norm.weight");
  return mix->weight[1] < 0 ? mix->weight[1] : TL_OK;
}
