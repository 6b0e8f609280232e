/* SPDX-License-Identifier: MIT */
/* A row of architectures.c and config.json to a plan. All decoders here are what Llama (Touvron
 * et al. 2023) made usual: norms around attention with grouped queries and rotary positions,
 * and around a gated MLP. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

/* What the functions below share while a plan is made. */
struct maker {
  struct model *m;
  const struct architecture *a;
  const struct hf_config *c;
  const struct arch_experts *experts; /* NULL: it has none */
  const struct arch_blocks *blocks;
  uint64_t dim, q, kv, ffn, vocab;
  float rope_factor;
  int32_t ones; /* of qk_unit; -1: not there yet */
  uint32_t n_attending, n_keeping; /* layers so far with keys and values, and with a state */
  struct tl_error *err;
};

static bool is(const struct maker *k, uint32_t trait) {
  return k->a->traits & trait;
}

static bool has(const struct maker *k, uint32_t trait) {
  return k->blocks->traits & trait;
}

/* GGUF's weights of norms have the 1 in them already. */
static uint32_t norm_features(const struct maker *k) {
  return (is(k, ARCH_PLUS_ONE) && !k->m->gguf ? TL_F_PLUS_ONE : 0) | (is(k, ARCH_LAYER_NORM) ? TL_F_LAYER_NORM : 0);
}

static int32_t matrix(struct maker *k, uint32_t layer, uint64_t rows, uint64_t columns, const char *name) {
  char full[128];
  snprintf(full, sizeof full, "model.layers.%u.%s.weight", layer, name);
  if (columns && has(k, BLOCK_TURNED) && !k->m->gguf) return plan_turned(k->m, k->err, rows, columns, full);
  return plan_tensor(k->m, k->err, rows, columns, "%s", full);
}

/* A projection's weight and, when the model has them, its bias into input i of op. */
static int project(struct maker *k, struct tl_op *op, int i, uint64_t rows, uint64_t columns, bool with_bias,
                   const char *name) {
  int32_t weight = matrix(k, op->layer, rows, columns, name);
  if (weight < 0) return weight;
  op->weight[i] = weight;
  if (!with_bias) return TL_OK;
  int32_t bias = plan_tensor(k->m, k->err, rows, 0, "model.layers.%u.%s.bias", op->layer, name);
  if (bias < 0) return bias;
  op->bias[i] = bias;
  return TL_OK;
}

/* n inputs of op from one matrix that holds their rows one behind the other. */
static int fused(struct maker *k, struct tl_op *op, const uint64_t *rows, int n, const char *name) {
  uint64_t total = 0;
  for (int i = 0; i < n; i++) total += rows[i];
  return plan_parts(k->m, k->err, matrix(k, op->layer, total, k->dim, name), rows, n, op->weight);
}

/* The queries', keys' and values' parts of one matrix, or of one vector. */
static int fused_qkv(struct maker *k, struct tl_op *op, bool bias) {
  const uint64_t rows[] = {k->q, k->kv, k->kv};
  bool grouped = has(k, BLOCK_GROUPED_QKV) && !k->m->gguf && k->c->num_key_value_heads > 1;
  uint64_t total = k->q + 2 * k->kv;
  int r = grouped ? arch_blocks_qkv(k->m, k->c, matrix(k, op->layer, total, k->dim, "self_attn.qkv_proj"), op->weight, k->err)
                  : fused(k, op, rows, 3, "self_attn.qkv_proj");
  if (r < 0 || !bias) return r;
  int32_t all = plan_tensor(k->m, k->err, total, 0, "model.layers.%u.self_attn.qkv_proj.bias", op->layer);
  return grouped ? arch_blocks_qkv(k->m, k->c, all, op->bias, k->err) : plan_parts(k->m, k->err, all, rows, 3, op->bias);
}

static void multiply(struct tl_op *op, double factor) {
  if (factor == 1) return;
  op->features |= TL_F_FACTOR;
  op->factor = (float)factor;
}

static void cap(struct tl_op *op, double softcap) {
  if (softcap == 0) return;
  op->features |= TL_F_SOFTCAP;
  op->softcap = (float)softcap;
}

/* The layer's norm `name`, NULL: none. */
static int norm(struct maker *k, enum tl_op_kind kind, uint32_t layer, const char *name) {
  struct tl_op *op = plan_add(k->m, name ? kind : TL_OP_COPY, layer);
  if (!name) return TL_OK;
  op->eps = (float)k->c->rms_norm_eps;
  op->features |= norm_features(k);
  op->weight[0] = plan_tensor(k->m, k->err, k->dim, 0, "model.layers.%u.%s.weight", layer, name);
  if (op->weight[0] < 0) return op->weight[0];
  if (!is(k, ARCH_LAYER_NORM) || has(k, BLOCK_NORM_UNBIASED)) return TL_OK;
  op->bias[0] = plan_tensor(k->m, k->err, k->dim, 0, "model.layers.%u.%s.bias", layer, name);
  return op->bias[0] < 0 ? op->bias[0] : TL_OK;
}

static int final_norm(struct maker *k) {
  struct tl_op *op = plan_add(k->m, TL_OP_RMSNORM, 0);
  op->eps = (float)k->c->rms_norm_eps;
  op->features |= norm_features(k);
  op->weight[0] = plan_tensor(k->m, k->err, k->dim, 0, "%s.weight", k->blocks->final_norm);
  if (op->weight[0] < 0) return op->weight[0];
  if (!is(k, ARCH_LAYER_NORM) || has(k, BLOCK_NORM_UNBIASED)) return TL_OK;
  op->bias[0] = plan_tensor(k->m, k->err, k->dim, 0, "%s.bias", k->blocks->final_norm);
  return op->bias[0] < 0 ? op->bias[0] : TL_OK;
}

/* How what a block computed comes into x: added, or through a norm of its own. */
static int end_block(struct maker *k, struct tl_op *op, const char *post_norm) {
  if (is(k, ARCH_MULTIPLIERS)) multiply(op, k->c->residual_multiplier);
  if (!post_norm) return TL_OK;
  op->features |= TL_F_TO_H;
  return norm(k, TL_OP_NORM_ADD, op->layer, post_norm);
}

static bool slides(const struct maker *k, uint32_t layer) {
  const struct hf_config *c = k->c;
  if (k->a->window == WINDOW_NONE || c->sliding_window == 0) return false;
  if (k->a->window == WINDOW_OPTIONAL && !c->use_sliding_window) return false;
  if (c->has_layer_types) return c->slides[layer];
  uint64_t every = (uint64_t)c->sliding_window_pattern; /* 0: not said */
  switch (k->a->window) {
    case WINDOW_ALTERNATE: return layer % 2 == 0;
    case WINDOW_PATTERN: return (layer + 1) % (every ? every : 6) != 0;
    case WINDOW_PATTERN_4: return (layer + 1) % (every ? every : 4) != 0;
    case WINDOW_NOT_FOURTH: return layer % 4 != 3;
    case WINDOW_LATE:
    case WINDOW_OPTIONAL: return layer >= c->max_window_layers;
    default: return true;
  }
}

static bool rotates(const struct maker *k, uint32_t layer) {
  if (has(k, BLOCK_PLACES)) return false;
  if (is(k, ARCH_SCAN)) return strcmp(k->c->position_embedding_type, "rope") == 0;
  if (is(k, ARCH_NOPE_WIDE) && k->c->sliding_window > 0) return slides(k, layer);
  if (!is(k, ARCH_NOPE)) return true;
  if (k->c->has_no_rope_layers) return k->c->rotates[layer];
  return (layer + 1) % (uint64_t)k->c->no_rope_layer_interval != 0;
}

/* A matrix whose rows are heads' as one vector. */
static int flatten(struct maker *k, int32_t matrix, int32_t *ret) {
  if (matrix < 0) return matrix;
  struct tl_tensor t = k->m->tensors[matrix];
  char name[300];
  snprintf(name, sizeof name, "%.250s[]", t.name);
  t.name = name;
  t.n_dims = 1;
  t.shape[0] *= t.shape[1];
  t.shape[1] = 0;
  plan_spent(k->m, matrix);
  int r = model_add_tensor(k->m, &t, k->err);
  *ret = (int32_t)k->m->n_tensors - 1;
  return r;
}

/* Command R+'s: LayerNorm of each head, by weights of its own. */
static int norm_of_heads(struct maker *k, struct tl_op *op) {
  op->features |= TL_F_EACH_HEAD;
  uint64_t heads = (uint64_t)k->c->num_attention_heads, kv_heads = (uint64_t)k->c->num_key_value_heads, dim = (uint64_t)k->c->head_dim;
  int r = flatten(k, plan_tensor(k->m, k->err, heads, dim, "model.layers.%u.self_attn.q_norm.weight", op->layer), &op->weight[0]);
  if (r < 0) return r;
  return flatten(k, plan_tensor(k->m, k->err, kv_heads, dim, "model.layers.%u.self_attn.k_norm.weight", op->layer), &op->weight[1]);
}

static int qk_norm(struct maker *k, uint32_t layer, bool rotated) {
  bool by_key = is(k, ARCH_QK_NORM_KEY) || has(k, BLOCK_NORM_UNBIASED);
  bool wanted = is(k, ARCH_QK_NORM | ARCH_QK_NORM_ROW) || (by_key && k->c->use_qk_norm);
  if (rotated ? !is(k, ARCH_QK_NORM_LAST) : !wanted) return TL_OK;
  bool row = is(k, ARCH_QK_NORM_ROW);
  uint64_t head = (uint64_t)k->c->head_dim;
  bool lfm2 = is(k, ARCH_SHORT);
  struct tl_op *op = plan_add(k->m, TL_OP_QK_NORM, layer);
  op->eps = (float)k->c->rms_norm_eps;
  op->features |= norm_features(k) | (row ? TL_F_WHOLE_ROW : 0);
  if (is(k, ARCH_LAYER_NORM)) return norm_of_heads(k, op);
  const char *q = rotated ? "self_attn.query_layernorm" : lfm2 ? "self_attn.q_layernorm" : "self_attn.q_norm";
  const char *key = rotated ? "self_attn.key_layernorm" : lfm2 ? "self_attn.k_layernorm" : "self_attn.k_norm";
  int r = project(k, op, 0, row ? k->q : head, 0, false, q);
  if (r == TL_OK) r = project(k, op, 1, row ? k->kv : head, 0, false, key);
  return r;
}

/* Llama 4's: layers that rotate see positions of their own chunk alone. */
static bool is_chunked(const struct maker *k, uint32_t layer) {
  if (k->c->attention_chunk_size == 0) return false;
  return k->c->has_layer_types ? k->c->chunked[layer] : has(k, BLOCK_QK_UNIT) && rotates(k, layer);
}

/* What queries are multiplied with by their positions: of Ministral 3 in all layers, of Llama 4 where they do not rotate. */
static void grow(const struct maker *k, struct tl_op *op) {
  const struct hf_config *c = k->c;
  if (c->llama_4_scaling_beta > 0 && c->original_max_position_embeddings > 0)
    op->growth = (struct tl_growth){(float)c->llama_4_scaling_beta, (uint32_t)c->original_max_position_embeddings, 0};
  else if (has(k, BLOCK_QK_UNIT) && c->floor_scale && !rotates(k, op->layer))
    op->growth = (struct tl_growth){(float)c->attn_scale, (uint32_t)c->floor_scale, 1};
  if (op->growth.every) op->features |= TL_F_GROWS;
}

/* To length: a norm whose weights are all 1. It may stand before the rotation, which keeps lengths. */
static int qk_unit(struct maker *k, uint32_t layer) {
  if (!has(k, BLOCK_QK_UNIT) || !k->c->use_qk_norm || !rotates(k, layer)) return TL_OK;
  if (k->ones < 0) {
    uint64_t n = (uint64_t)k->c->head_dim;
    float *values = tl_arena_array(&k->m->arena, n, sizeof *values);
    if (!values) return tl_error_set(k->err, TL_ENOMEM, NULL, "out of memory");
    for (uint64_t i = 0; i < n; i++) values[i] = 1;
    struct tl_tensor t = {.name = "(ones)", .dtype = TL_DTYPE_F32, .n_dims = 1, .shape = {n}, .data = values, .bytes = n * sizeof *values};
    int r = model_add_tensor(k->m, &t, k->err);
    if (r < 0) return r;
    k->ones = (int32_t)k->m->n_tensors - 1;
  }
  struct tl_op *op = plan_add(k->m, TL_OP_QK_NORM, layer);
  op->eps = (float)k->c->rms_norm_eps;
  op->weight[0] = op->weight[1] = k->ones;
  return TL_OK;
}

static int attend(struct maker *k, uint32_t layer) {
  const struct hf_config *c = k->c;
  bool window = slides(k, layer);
  if (rotates(k, layer)) {
    struct tl_op *rope = plan_add(k->m, TL_OP_ROPE, layer);
    bool local = window && is(k, ARCH_LOCAL_ROPE | ARCH_LOCAL_PLAIN);
    rope->features |= (is(k, ARCH_INTERLEAVED) ? TL_F_INTERLEAVED : 0) | (local ? TL_F_LOCAL : 0) |
                      (k->m->model.n_rotated < k->m->model.head_dim ? TL_F_PARTIAL : 0);
    if (!local) multiply(rope, (double)k->rope_factor);
  }
  int r = qk_norm(k, layer, true);
  if (r < 0) return r;
  struct tl_op *op = plan_add(k->m, TL_OP_ATTEND, k->n_attending++);
  op->scale = 1 / sqrtf((float)c->head_dim);
  if (is(k, ARCH_QUERY_SCALAR)) op->scale = 1 / sqrtf((float)c->query_pre_attn_scalar);
  if (is(k, ARCH_MULTIPLIERS)) op->scale = (float)c->attention_multiplier;
  if (is(k, ARCH_SOFTCAPS)) cap(op, c->attn_logit_softcapping);
  if (c->use_bidirectional_attention) op->features |= TL_F_BOTH_SIDES;
  if (window) { /* one to both sides has half of the length on either */
    op->features |= TL_F_WINDOW;
    op->window = (uint32_t)(c->use_bidirectional_attention ? c->sliding_window / 2 + 1 : c->sliding_window);
  } else if (is_chunked(k, layer)) {
    op->features |= TL_F_CHUNKED;
    op->window = (uint32_t)c->attention_chunk_size;
  }
  grow(k, op);
  if (!is(k, ARCH_SINKS)) return TL_OK;
  op->features |= TL_F_SINKS;
  const char *sinks = k->m->gguf ? "blk.%u.attn_sinks.weight" : "model.layers.%u.self_attn.sinks";
  char name[64];
  snprintf(name, sizeof name, sinks, layer);
  op->weight[0] = plan_tensor(k->m, k->err, (uint64_t)c->num_attention_heads, 0, "%s", name);
  return op->weight[0] < 0 ? op->weight[0] : TL_OK;
}

/* Phi-2's GGUF files of before 2024. */
static bool is_fused_here(const struct maker *k, uint32_t layer) {
  char name[64];
  snprintf(name, sizeof name, "blk.%u.attn_qkv.weight", layer);
  return k->m->gguf && model_find_tensor(k->m, name) >= 0;
}

/* Whether the layer has a state in place of keys and values. */
static bool keeps(const struct maker *k, uint32_t layer) {
  return k->c->state_type && k->c->keeps[layer];
}

/* From the normed row to what its heads make of it. */
static int heads(struct maker *k, uint32_t layer) {
  if (keeps(k, layer)) return arch_recurrent_plan(k->m, k->c, layer, k->n_keeping++, k->err);
  if (is(k, ARCH_LATENT)) return arch_latent_plan(k->m, k->c, layer, k->rope_factor, k->err);
  if (is(k, ARCH_GEMMA4)) return arch_gemma4_heads(k->m, k->c, layer, &k->n_attending, k->err);
  bool bias = is(k, ARCH_QKV_BIAS) || k->c->attention_bias || (is(k, ARCH_LAYER_NORM) && k->c->use_qkv_bias) ||
              (is(k, ARCH_QKV_BIAS_KEY) && k->c->qkv_bias);
  struct tl_op *op = plan_add(k->m, TL_OP_QKV, layer);
  int r = TL_OK;
  if (is(k, ARCH_FUSED_QKV) || is_fused_here(k, layer)) {
    r = fused_qkv(k, op, bias);
  } else {
    r = is(k, ARCH_DELTA) ? arch_recurrent_queries(k->m, k->c, op, k->err) : project(k, op, 0, k->q, k->dim, bias, "self_attn.q_proj");
    if (r == TL_OK) r = project(k, op, 1, k->kv, k->dim, bias, "self_attn.k_proj");
    if (r == TL_OK) r = project(k, op, 2, k->kv, k->dim, bias, "self_attn.v_proj");
  }
  if (r == TL_OK) r = qk_norm(k, layer, false);
  if (r == TL_OK) r = qk_unit(k, layer);
  if (r == TL_OK) r = attend(k, layer);
  if (r == TL_OK && is(k, ARCH_DELTA)) plan_add(k->m, TL_OP_GATE, layer);
  return r;
}

static int attention_out(struct maker *k, uint32_t layer) {
  struct tl_op *op = plan_add(k->m, TL_OP_ATTN_OUT, layer);
  bool kept = keeps(k, layer), out_bias = k->c->attention_bias && !is(k, ARCH_NO_OUT_BIAS);
  uint64_t made = kept ? arch_recurrent_made(k->m) : (uint64_t)k->c->num_attention_heads * tl_model_value_dim(&k->m->model);
  if (is(k, ARCH_GEMMA4)) made = arch_gemma4_made(k->m, k->c, layer);
  int r = project(k, op, 0, k->dim, made, kept ? is(k, ARCH_SHORT) && k->c->conv_bias : out_bias, kept ? arch_recurrent_out(k->m) : k->blocks->out);
  return r == TL_OK ? end_block(k, op, k->a->post_attention) : r;
}

static int attention(struct maker *k, uint32_t layer) {
  int r = norm(k, TL_OP_RMSNORM, layer, k->a->pre_attention);
  if (r == TL_OK) r = heads(k, layer);
  return r == TL_OK ? attention_out(k, layer) : r;
}

static uint64_t ffn_of(const struct maker *k, uint32_t layer) {
  return is(k, ARCH_GEMMA4) ? arch_gemma4_ffn(k->c, layer) : k->ffn;
}

static int mlp_up(struct maker *k, uint32_t layer) {
  uint64_t ffn = ffn_of(k, layer);
  const uint64_t rows[] = {ffn, ffn};
  bool bias = k->c->mlp_bias;
  struct tl_op *op = plan_add(k->m, k->blocks->act ? TL_OP_UP : TL_OP_GATED_UP, layer);
  if (k->blocks->act) {
    uint32_t function = 0; /* check has found it */
    arch_blocks_function(k->blocks, k->c->hidden_act, &function);
    op->features |= function;
    int r = function == TL_F_XIELU ? arch_blocks_xielu(k->m, op, k->err) : TL_OK;
    if (r < 0) return r;
    return project(k, op, 0, ffn, k->dim, bias, k->blocks->up);
  }
  if (is(k, ARCH_GELU)) op->features |= TL_F_GELU_TANH;
  if (is(k, ARCH_FUSED_UP)) return fused(k, op, rows, 2, "mlp.gate_up_proj");
  int r = project(k, op, 0, ffn, k->dim, bias, k->blocks->gate);
  return r == TL_OK ? project(k, op, 1, ffn, k->dim, bias, k->blocks->up) : r;
}

static int mlp_down(struct maker *k, uint32_t layer) {
  struct tl_op *op = plan_add(k->m, TL_OP_MLP_DOWN, layer);
  int r = project(k, op, 0, k->dim, ffn_of(k, layer), k->c->mlp_bias, k->blocks->down);
  if (r == TL_OK && is(k, ARCH_GEMMA4) && k->c->n_experts) {
    op->features |= TL_F_TO_H;
    r = arch_gemma4_experts(k->m, k->c, layer, k->err);
    return r == TL_OK ? norm(k, TL_OP_NORM_ADD, layer, k->a->post_mlp) : r;
  }
  return r == TL_OK ? end_block(k, op, k->a->post_mlp) : r;
}

/* Behind the norm. */
static int inner(struct maker *k, uint32_t layer) {
  if (arch_experts_in(k->experts, k->c, layer)) return arch_experts_plan(k->m, k->experts, k->c, layer, k->err);
  int r = mlp_up(k, layer);
  return r == TL_OK ? mlp_down(k, layer) : r;
}

static int mlp(struct maker *k, uint32_t layer) {
  int r = norm(k, TL_OP_RMSNORM, layer, k->a->pre_mlp);
  return r == TL_OK ? inner(k, layer) : r;
}

/* Whether attention and MLP stand side by side. */
static bool is_parallel(const struct maker *k) {
  return has(k, BLOCK_PARALLEL) || (has(k, BLOCK_PARALLEL_KEY) && k->c->use_parallel_residual);
}

/* Of layers whose MLP stands beside attention: the smaller Falcons have none in any. */
static bool has_second_norm(const struct maker *k) {
  char name[128];
  if (!k->a->pre_mlp) return false;
  snprintf(name, sizeof name, "model.layers.0.%s.weight", k->a->pre_mlp);
  return plan_has_tensor(k->m, name);
}

/* What both have read is not needed when the first sum is added; the copy stands where backends add that. */
static int parallel(struct maker *k, uint32_t layer) {
  int r = norm(k, TL_OP_RMSNORM, layer, k->a->pre_attention);
  if (r == TL_OK) r = heads(k, layer);
  if (r == TL_OK && has_second_norm(k)) r = norm(k, TL_OP_RMSNORM, layer, k->a->pre_mlp);
  if (r == TL_OK) r = mlp_up(k, layer);
  if (r == TL_OK) r = attention_out(k, layer);
  if (r == TL_OK) r = norm(k, TL_OP_COPY, layer, NULL);
  return r == TL_OK ? mlp_down(k, layer) : r;
}

static int layer_plan(struct maker *k, uint32_t layer) {
  if (is_parallel(k)) return parallel(k, layer);
  int r = k->c->mlp_alone[layer] ? norm(k, TL_OP_RMSNORM, layer, k->a->pre_attention) : attention(k, layer);
  if (has(k, BLOCK_ONE_MIXER)) return r == TL_OK && k->c->mlp_alone[layer] ? inner(k, layer) : r;
  if (r == TL_OK) r = mlp(k, layer);
  return r == TL_OK && is(k, ARCH_GEMMA4) ? arch_gemma4_end(k->m, k->c, layer, k->err) : r;
}

/* What models of a row may ask for that is not done here. */
static int check(const struct maker *k) {
  const struct hf_config *c = k->c;
  const char *wanted = k->blocks->act ? k->blocks->act : is(k, ARCH_GELU) ? "gelu_pytorch_tanh" : "silu";
  bool legacy = strcmp(k->a->name, "gemma") == 0 && strcmp(c->hidden_act, "gelu") == 0; /* what its first files say, and do not mean */
  uint32_t function;
  bool known = k->blocks->act ? arch_blocks_function(k->blocks, c->hidden_act, &function) : !c->hidden_act[0] || strcmp(c->hidden_act, wanted) == 0;
  if (!known && !legacy)
    return tl_error_set(k->err, TL_EUNSUPPORTED, "model.path", "config.json: hidden_act: expected %s, got %s", wanted,
                        c->hidden_act);
  bool embedder = k->m->model.pooling != TL_POOL_NONE && is(k, ARCH_LOCAL_ROPE); /* EmbeddingGemma */
  const char *no = c->use_bidirectional_attention && !embedder ? "use_bidirectional_attention" : c->attention_out_bias ? "attention_out_bias"
                   : c->clip_qkv > 0 ? "clip_qkv" : hf_old_refused(c);
  if (no) return tl_error_set(k->err, TL_EUNSUPPORTED, "model.path", "config.json: %s: is not supported", no);
  if (has(k, BLOCK_PARALLEL) && !has(k, BLOCK_NORM_UNBIASED) && c->use_qk_norm)
    return tl_error_set(k->err, TL_EUNSUPPORTED, "model.path", "config.json: use_qk_norm: is not supported for this architecture");
  if (is(k, ARCH_LAYER_NORM) && (c->qk_layernorm || (c->use_parallel_residual && !has(k, BLOCK_PARALLEL_KEY))))
    return tl_error_set(k->err, TL_EUNSUPPORTED, "model.path", "config.json: %s: is not supported",
                        c->qk_layernorm ? "qk_layernorm" : "use_parallel_residual");
  return k->experts ? arch_experts_check(k->m, k->experts, c, k->err) : TL_OK;
}

/* Whether the output matrix is the embeddings'. One that is said to be but is in the files with other values is taken, as transformers
 * does. */
static bool is_tied(const struct maker *k, int32_t embed) {
  const struct model *m = k->m;
  if (m->gguf || !packed_is_there(m, "lm_head.")) return k->c->tie_word_embeddings || (is(k, ARCH_TIED) && !m->gguf);
  int32_t head = model_find_tensor(m, "lm_head.weight");
  const struct tl_tensor *a = &m->tensors[embed], *b = head < 0 ? NULL : &m->tensors[head];
  if (!k->c->tie_word_embeddings || !b || a->packed || a->dtype != b->dtype || a->bytes != b->bytes) return false;
  return memcmp(a->data, b->data, a->bytes) == 0;
}

/* Learned positions, a row each. */
static int places(struct maker *k) {
  struct tl_op *op = plan_add(k->m, TL_OP_EMBED_PLACE, 0);
  uint64_t rows = (uint64_t)k->c->max_position_embeddings, first = (uint64_t)k->c->place_offset;
  int32_t all = plan_tensor(k->m, k->err, rows + first, k->dim, "model.embed_positions.weight");
  op->weight[0] = all < 0 || first == 0 ? all : plan_rows(k->m, k->err, all, first, rows);
  if (op->weight[0] < 0) return op->weight[0];
  if (first) plan_spent(k->m, all);
  return TL_OK;
}

int arch_decoder_plan(struct model *m, const struct architecture *a, const struct hf_config *c, const struct hf_pooling *pooling,
                      float rope_factor, struct tl_error *err) {
  struct maker k = {m, a, c, arch_experts_of(a), arch_blocks_of(a), (uint64_t)c->hidden_size, (uint64_t)(c->num_attention_heads * c->head_dim),
                    (uint64_t)(c->num_key_value_heads * c->head_dim), (uint64_t)c->intermediate_size,
                    (uint64_t)c->vocab_size, rope_factor, -1, 0, 0, err};
  int r = check(&k);
  if (r < 0) return r;
  int32_t embed = plan_tensor(m, err, k.vocab, k.dim, "model.embed_tokens.weight");
  if (embed < 0) return embed;
  struct tl_op *op = plan_add(m, TL_OP_EMBED, 0);
  op->weight[0] = embed;
  if (is(&k, ARCH_EMBED_SCALE)) multiply(op, sqrt((double)c->hidden_size));
  if (is(&k, ARCH_MULTIPLIERS)) multiply(op, c->embedding_multiplier);
  if (has(&k, BLOCK_PLACES)) r = places(&k);
  if (r == TL_OK && is(&k, ARCH_GEMMA4)) r = arch_gemma4_begin(m, c, err);
  for (uint32_t layer = 0; layer < (uint32_t)c->num_hidden_layers && r == TL_OK; layer++)
    r = layer_plan(&k, layer);
  if (r == TL_OK) r = final_norm(&k);
  if (r < 0) return r;
  if (m->model.pooling != TL_POOL_NONE) return arch_vector_plan(m, pooling, err);
  int32_t output = is_tied(&k, embed) ? embed : plan_tensor(m, err, k.vocab, k.dim, "lm_head.weight");
  if (output < 0) return output;
  op = plan_add(m, TL_OP_LOGITS, 0);
  op->weight[0] = output;
  bool biased = has(&k, BLOCK_LOGIT_BIAS) || c->lm_head_bias || (k.experts && is(&k, ARCH_USE_BIAS) && c->use_bias); /* as transformers has it, of ERNIE with experts alone */
  if (biased && (op->bias[0] = plan_tensor(m, err, k.vocab, 0, "lm_head.bias")) < 0) return op->bias[0];
  if (is(&k, ARCH_MULTIPLIERS)) multiply(op, 1 / c->logits_scaling);
  if (has(&k, BLOCK_LOGIT_SCALE)) multiply(op, c->logits_scaling);
  if (is(&k, ARCH_SOFTCAPS)) cap(op, c->final_logit_softcapping);
  return TL_OK;
}
