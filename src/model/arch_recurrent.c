/* SPDX-License-Identifier: MIT */
/* Layers that keep a state of fixed size in place of keys and values: gated delta nets (Qwen3-Next, Qwen3.5), short convolutions
 * (LFM2), and Mamba 2's (Granite 4); their records. The other layers of Qwen's are attention whose heads are gated. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

static bool is_delta(const struct architecture *a) {
  return a && a->traits & ARCH_DELTA;
}

static bool is_short(const struct architecture *a) {
  return a && a->traits & ARCH_SHORT;
}

static bool is_scan(const struct architecture *a) {
  return a && a->traits & ARCH_SCAN;
}

static void scan_defaults(const struct architecture *a, struct hf_config *c) {
  c->state_type = "linear_attention";
  c->conv_rows = 4;
  c->conv_bias = true;
  c->state_expand = 2;
  c->delta_key_heads = 1;
  c->delta_value_heads = 128;
  c->delta_key_dim = 256;
  c->delta_value_dim = 0;
  c->shared_expert_size = 1024;
  c->one_mixer = arch_blocks_of(a)->traits & BLOCK_ONE_MIXER;
  if (!c->one_mixer) return;
  c->delta_key_heads = 8;
  c->delta_key_dim = 128;
  c->delta_value_dim = 64;
  c->intermediate_size = 21504;
  c->shared_expert_size = 7688;
}

/* transformers' own, as files may leave them out. */
void arch_recurrent_defaults(const struct architecture *a, struct hf_config *c) {
  if (is_delta(a)) {
    c->state_type = "linear_attention";
    c->conv_rows = c->full_attention_interval = 4;
    c->delta_key_heads = 16;
    c->delta_value_heads = 32;
    c->delta_key_dim = c->delta_value_dim = 128;
    if (arch_experts_of(a)) c->intermediate_size = c->shared_expert_size = 512;
  }
  if (is_short(a)) {
    c->state_type = "conv";
    c->conv_rows = 3;
    c->intermediate_size = 12288;
    c->adjust_ffn = !arch_experts_of(a);
    c->ffn_multiple = 256;
    c->ffn_multiplier = 1;
  }
  if (is_scan(a)) scan_defaults(a, c);
}

static int bad(const char *file, const char *key, const char *what, struct tl_error *err) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s: %s", file, key, what);
}

static uint32_t count(const struct hf_config *c, const bool *layers) {
  uint32_t n = 0;
  for (int64_t i = 0; c->state_type && i < c->num_hidden_layers; i++) n += layers[i];
  return n;
}

/* As LFM2's class makes it of what its configuration says. */
static int adjust_ffn(struct hf_config *c, const char *file, struct tl_error *err) {
  if (!c->adjust_ffn) return TL_OK;
  double size = floor(c->ffn_multiplier * floor((double)(2 * c->intermediate_size) / 3));
  double whole = ceil(size / (double)c->ffn_multiple) * (double)c->ffn_multiple;
  if (!(whole >= 1 && whole <= MODEL_MAX_DIM)) return bad(file, "block_ffn_dim_multiplier", "the MLP becomes too large, or nothing", err);
  c->intermediate_size = (int64_t)whole;
  return TL_OK;
}

static int complete_scan(struct hf_config *c, const char *file, struct tl_error *err) {
  if (!c->delta_value_dim) {
    c->delta_value_dim = c->state_expand * c->hidden_size / c->delta_value_heads;
    if (c->state_expand * c->hidden_size % c->delta_value_heads || c->delta_value_dim > MODEL_MAX_STATE_DIM)
      return bad(file, "mamba_n_heads", "expected a divisor of mamba_expand times hidden_size", err);
  }
  if (c->delta_value_heads % c->delta_key_heads) return bad(file, "mamba_n_heads", "expected a multiple of mamba_n_groups", err);
  const char *no = c->state_bias                                            ? "mamba_proj_bias"
                   : c->one_mixer && c->use_bias                            ? "use_bias"
                   : c->state_act[0] && strcmp(c->state_act, "silu") != 0 ? "mamba_hidden_act"
                   : c->expert_latent > c->hidden_size                      ? "moe_latent_size"
                                                                            : NULL;
  if (no) return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.120s: %s: is not supported as it is", file, no);
  if (c->one_mixer && count(c, c->mlp_alone) == count(c, c->dense)) c->n_experts = 0;
  if (!c->n_experts) c->expert_latent = 0; /* a key that means nothing there */
  if (c->one_mixer && c->n_experts && c->mlp_bias)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.120s: mlp_bias: is not supported beside experts", file);
  return TL_OK;
}

int arch_recurrent_complete(const struct architecture *a, struct hf_config *c, const char *file, struct tl_error *err) {
  if (!c->state_type) return TL_OK;
  for (int64_t i = 0; is_delta(a) && !c->has_layer_types && i < c->num_hidden_layers; i++)
    c->keeps[i] = (i + 1) % c->full_attention_interval != 0;
  for (int64_t i = 0; is_scan(a) && !c->has_layer_types && i < c->num_hidden_layers; i++) c->keeps[i] = true;
  if (count(c, c->keeps) + count(c, c->mlp_alone) == (uint32_t)c->num_hidden_layers) return bad(file, "layer_types", "expected at least one layer with full_attention", err);
  if (is_short(a)) return adjust_ffn(c, file, err);
  if (is_scan(a)) return complete_scan(c, file, err);
  if (c->delta_value_heads % c->delta_key_heads)
    return bad(file, "linear_num_value_heads", "expected a multiple of linear_num_key_heads", err);
  if (c->attention_bias)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.120s: attention_bias: is not supported for this architecture", file);
  return TL_OK;
}

void arch_recurrent_take(const struct architecture *a, const struct hf_config *c, struct tl_model *t) {
  uint32_t n = count(c, c->keeps);
  t->n_kv_layers = t->n_layers - n - count(c, c->mlp_alone);
  if (!n) return;
  struct tl_recurrence *r = &t->recurrence;
  *r = (struct tl_recurrence){.n_layers = n, .conv = (uint32_t)c->conv_rows, .n_channels = (uint32_t)c->hidden_size};
  if (is_short(a)) return;
  r->n_key_heads = (uint32_t)c->delta_key_heads;
  r->n_value_heads = (uint32_t)c->delta_value_heads;
  r->key_dim = (uint32_t)c->delta_key_dim;
  r->value_dim = (uint32_t)c->delta_value_dim;
  r->n_channels = 2 * r->n_key_heads * r->key_dim + r->n_value_heads * r->value_dim;
}

/* --- the plan -------------------------------------------------------------------------------- */

struct maker {
  struct model *m;
  uint64_t dim, key_heads, value_heads, key_dim, value_dim, conv;
  uint32_t layer;
  struct tl_error *err;
};

uint64_t arch_recurrent_made(const struct model *m) {
  const struct tl_recurrence *r = &m->model.recurrence;
  return r->n_value_heads ? (uint64_t)r->n_value_heads * r->value_dim : r->n_channels;
}

const char *arch_recurrent_out(const struct model *m) {
  if (is_scan(m->row)) return "mamba.out_proj";
  return m->model.recurrence.n_value_heads ? "linear_attn.out_proj" : "conv.out_proj";
}

/* rows x columns, or a vector of rows, that a plan calls NAME. */
static int take(const struct maker *k, int32_t *ret, uint64_t rows, uint64_t columns, const char *name) {
  *ret = plan_tensor(k->m, k->err, rows, columns, "model.layers.%u.%s", k->layer, name);
  return *ret < 0 ? *ret : TL_OK;
}

static int take_runs(const struct maker *k, int32_t *ret, int32_t all, uint64_t first, uint64_t each, uint64_t step, uint64_t rows) {
  *ret = plan_runs(k->m, k->err, all, &(struct row_runs){first, each, step, rows});
  return *ret < 0 ? *ret : TL_OK;
}

/* Of each channel the factors of the rows that are looked at: (channels, 1, conv) in transformers' files. */
static int take_factors(const struct maker *k, int32_t *ret, uint64_t channels, const char *name) {
  struct model *m = k->m;
  if (m->gguf) return take(k, ret, channels, k->conv, name);
  char full[128];
  snprintf(full, sizeof full, "model.layers.%u.%s", k->layer, name);
  int32_t i = model_find_tensor(m, full);
  if (i < 0) return tl_error_set(k->err, TL_ECORRUPT, "model.path", "tensor '%s' is missing from the model's files", full);
  struct tl_tensor view = m->tensors[i];
  if (view.dtype > TL_DTYPE_BF16 || view.n_dims != 3 || view.shape[0] != channels || view.shape[1] != 1 || view.shape[2] != k->conv)
    return tl_error_set(k->err, TL_ECORRUPT, "model.path", "%.100s: tensor '%s': expected shape %llu x 1 x %llu, of floats",
                        model_file_of(m, &view), full, (unsigned long long)channels, (unsigned long long)k->conv);
  char own[160];
  snprintf(own, sizeof own, "%s as a matrix", full);
  view.name = own;
  view.n_dims = 2;
  view.shape[1] = k->conv;
  int r = model_add_tensor(m, &view, k->err);
  *ret = (int32_t)m->n_tensors - 1;
  return r;
}

/* b's and c's rows are those of a key head's value heads, of each key head in turn. */
static int gates_by_key_heads(const struct maker *k, struct tl_op *gates) {
  uint64_t own = k->value_heads / k->key_heads;
  int32_t all;
  int r = take(k, &all, 2 * k->value_heads, k->dim, "linear_attn.in_proj_ba.weight");
  if (r == TL_OK) r = take_runs(k, &gates->weight[1], all, 0, own, 2 * own, k->value_heads);
  if (r == TL_OK) r = take_runs(k, &gates->weight[2], all, own, own, 2 * own, k->value_heads);
  if (r == TL_OK) plan_spent(k->m, all);
  return r;
}

/* Qwen3-Next's two matrices, whose rows are those of a key head and its value heads, of each key head in turn. */
static int by_key_heads(const struct maker *k, struct tl_op *in, struct tl_op *gates) {
  uint64_t own = k->value_heads / k->key_heads, values = own * k->value_dim, step = 2 * k->key_dim + 2 * values;
  uint64_t keys = k->key_heads * k->key_dim, all_values = k->key_heads * values;
  int32_t all;
  int r = take(k, &all, k->key_heads * step, k->dim, "linear_attn.in_proj_qkvz.weight");
  if (r == TL_OK) r = take_runs(k, &in->weight[0], all, 0, k->key_dim, step, keys);
  if (r == TL_OK) r = take_runs(k, &in->weight[1], all, k->key_dim, k->key_dim, step, keys);
  if (r == TL_OK) r = take_runs(k, &in->weight[2], all, 2 * k->key_dim, values, step, all_values);
  if (r == TL_OK) r = take_runs(k, &gates->weight[0], all, 2 * k->key_dim + values, values, step, all_values);
  if (r < 0) return r;
  plan_spent(k->m, all);
  return gates_by_key_heads(k, gates);
}

/* next: Qwen3-Next in GGUF files, which have taken the one matrix apart. */
static int by_kinds(const struct maker *k, struct tl_op *in, struct tl_op *gates, bool next) {
  const uint64_t rows[] = {k->key_heads * k->key_dim, k->key_heads * k->key_dim, k->value_heads * k->value_dim};
  int32_t all;
  int r = take(k, &all, rows[0] + rows[1] + rows[2], k->dim, "linear_attn.in_proj_qkv.weight");
  if (r == TL_OK) r = plan_parts(k->m, k->err, all, rows, 3, in->weight);
  if (r == TL_OK) r = take(k, &gates->weight[0], rows[2], k->dim, "linear_attn.in_proj_z.weight");
  if (next) return r == TL_OK ? gates_by_key_heads(k, gates) : r;
  if (r == TL_OK) r = take(k, &gates->weight[1], k->value_heads, k->dim, "linear_attn.in_proj_b.weight");
  return r == TL_OK ? take(k, &gates->weight[2], k->value_heads, k->dim, "linear_attn.in_proj_a.weight") : r;
}

/* n numbers that a plan has as a vector and GGUF, in a layer, as a matrix of one column, or of a row for each key head. */
static int32_t flat_tensor(const struct maker *k, uint64_t n, const char *name) {
  char full[64];
  snprintf(full, sizeof full, "blk.%u.%s", k->layer, name);
  int32_t i = model_find_tensor(k->m, full);
  struct tl_tensor *t = i < 0 ? NULL : &k->m->tensors[i];
  if (t && t->n_dims == 2 && t->shape[0] * t->shape[1] == n) {
    t->n_dims = 1;
    t->shape[0] = n;
  }
  return plan_tensor(k->m, k->err, n, 0, "%s", full);
}

/* The logarithms of what ssm_a has the negatives of. */
static int take_decays(const struct maker *k, int32_t *ret) {
  struct model *m = k->m;
  char name[64], own[80];
  snprintf(name, sizeof name, "blk.%u.ssm_a", k->layer);
  int32_t i = flat_tensor(k, k->value_heads, "ssm_a");
  if (i < 0) return i;
  float *values = tl_arena_array(&m->arena, k->value_heads, sizeof *values);
  if (!values) return tl_error_set(k->err, TL_ENOMEM, NULL, "out of memory");
  for (uint64_t head = 0; head < k->value_heads; head++) {
    tl_tensor_row_to_f32(&m->tensors[i], head, &values[head]);
    if (!(values[head] <= 0))
      return tl_error_set(k->err, TL_ECORRUPT, "model.path", "%.100s: tensor '%s': expected numbers up to 0", model_file_of(m, &m->tensors[i]), name);
    values[head] = logf(-values[head]);
  }
  snprintf(own, sizeof own, "%s (logarithms)", name);
  struct tl_tensor t = {.name = own, .dtype = TL_DTYPE_F32, .n_dims = 1, .shape = {k->value_heads}, .data = values,
                        .bytes = k->value_heads * sizeof *values};
  int r = model_add_tensor(m, &t, k->err);
  *ret = (int32_t)m->n_tensors - 1;
  return r;
}

/* What DELTA reads. GGUF has -exp of the logarithms, and value heads of Qwen3.5 in an order of its own. */
static int rule_vectors(const struct maker *k, struct tl_op *rule, bool next) {
  if (!k->m->gguf) {
    int r = take(k, &rule->weight[0], k->value_heads, 0, "linear_attn.A_log");
    return r == TL_OK ? take(k, &rule->weight[1], k->value_heads, 0, "linear_attn.dt_bias") : r;
  }
  if (!next && k->value_heads != k->key_heads) rule->features |= TL_F_TURNED;
  rule->weight[1] = plan_tensor(k->m, k->err, k->value_heads, 0, "blk.%u.ssm_dt.bias", k->layer);
  return rule->weight[1] < 0 ? rule->weight[1] : take_decays(k, &rule->weight[0]);
}

static int delta(const struct maker *k, uint32_t number, float eps) {
  struct model *m = k->m;
  struct tl_op *in = plan_add(m, TL_OP_DELTA_IN, k->layer), *gates = plan_add(m, TL_OP_DELTA_GATES, k->layer);
  struct tl_op *conv = plan_add(m, TL_OP_CONV, number), *rule = plan_add(m, TL_OP_DELTA, number);
  struct tl_op *norm = plan_add(m, TL_OP_GATED_NORM, k->layer);
  const uint64_t rows[] = {k->key_heads * k->key_dim, k->key_heads * k->key_dim, k->value_heads * k->value_dim};
  norm->eps = eps;
  int32_t factors;
  bool next = strcmp(m->row->name, "qwen3_next") == 0;
  int r = next && !m->gguf ? by_key_heads(k, in, gates) : by_kinds(k, in, gates, next);
  if (r == TL_OK) r = take_factors(k, &factors, m->model.recurrence.n_channels, "linear_attn.conv1d.weight");
  if (r == TL_OK) r = plan_parts(m, k->err, factors, rows, 3, conv->weight);
  if (r == TL_OK) r = rule_vectors(k, rule, next);
  return r == TL_OK ? take(k, &norm->weight[0], k->value_dim, 0, "linear_attn.norm.weight") : r;
}

/* A file's rows are those of z, x, B, C, dt, and its convolution's those of x, B, C; records have C, B, x. */
static int scan_inputs(const struct maker *k, struct tl_op *in, struct tl_op *gates) {
  const uint64_t keys = k->key_heads * k->key_dim, values = k->value_heads * k->value_dim;
  const uint64_t rows[] = {values, values, keys, keys, k->value_heads};
  int32_t all, *const to[] = {&gates->weight[0], &in->weight[2], &in->weight[1], &in->weight[0], &gates->weight[1]};
  int32_t parts[5];
  int r = take(k, &all, 2 * values + 2 * keys + k->value_heads, k->dim, "mamba.in_proj.weight");
  if (r == TL_OK) r = plan_parts(k->m, k->err, all, rows, 5, parts);
  for (int i = 0; i < 5 && r == TL_OK; i++) *to[i] = parts[i];
  return r;
}

/* n: weights, or biases, of CONV, from a tensor of all channels. */
static int scan_channels(const struct maker *k, int32_t all, int32_t *ret) {
  const uint64_t keys = k->key_heads * k->key_dim, rows[] = {k->value_heads * k->value_dim, keys, keys};
  int32_t parts[3];
  int r = plan_parts(k->m, k->err, all, rows, 3, parts);
  for (int i = 0; i < 3 && r == TL_OK; i++) ret[i] = parts[2 - i];
  return r;
}

static int scan_convolution(const struct maker *k, struct tl_op *conv, bool biased) {
  uint64_t channels = k->m->model.recurrence.n_channels;
  int32_t all;
  int r = take_factors(k, &all, channels, "mamba.conv1d.weight");
  if (r == TL_OK) r = scan_channels(k, all, conv->weight);
  if (r == TL_OK && biased) r = take(k, &all, channels, 0, "mamba.conv1d.bias");
  return r == TL_OK && biased ? scan_channels(k, all, conv->bias) : r;
}

/* A vector of the layer: what transformers calls it, and what GGUF does. */
static int scan_vector(const struct maker *k, int32_t *ret, uint64_t n, const char *name, const char *gguf) {
  if (!k->m->gguf) return take(k, ret, n, 0, name);
  *ret = flat_tensor(k, n, gguf);
  return *ret < 0 ? *ret : TL_OK;
}

static int scan(const struct maker *k, const struct hf_config *c, uint32_t number) {
  struct tl_op *in = plan_add(k->m, TL_OP_DELTA_IN, k->layer), *gates = plan_add(k->m, TL_OP_DELTA_GATES, k->layer);
  struct tl_op *conv = plan_add(k->m, TL_OP_CONV, number), *rule = plan_add(k->m, TL_OP_SCAN, number);
  struct tl_op *norm = plan_add(k->m, TL_OP_GATED_NORM, k->layer);
  norm->eps = (float)c->rms_norm_eps;
  norm->features |= TL_F_GATE_FIRST;
  int r = scan_inputs(k, in, gates);
  if (r == TL_OK) r = scan_convolution(k, conv, c->conv_bias);
  if (r == TL_OK) r = k->m->gguf ? take_decays(k, &rule->weight[0]) : take(k, &rule->weight[0], k->value_heads, 0, "mamba.A_log");
  if (r == TL_OK) r = scan_vector(k, &rule->weight[1], k->value_heads, "mamba.dt_bias", "ssm_dt.bias");
  if (r == TL_OK) r = scan_vector(k, &rule->weight[2], k->value_heads, "mamba.D", "ssm_d");
  return r == TL_OK ? scan_vector(k, &norm->weight[0], k->value_heads * k->value_dim, "mamba.norm.weight", "ssm_norm.weight") : r;
}

static int short_convolution(const struct maker *k, uint32_t number, bool biased) {
  const uint64_t rows[] = {k->dim, k->dim, k->dim};
  struct tl_op *in = plan_add(k->m, TL_OP_SHORT_IN, k->layer), *conv = plan_add(k->m, TL_OP_SHORT_CONV, number);
  int32_t all;
  int r = take(k, &all, 3 * k->dim, k->dim, "conv.in_proj.weight");
  if (r == TL_OK) r = plan_parts(k->m, k->err, all, rows, 3, in->weight);
  if (r == TL_OK) r = take_factors(k, &conv->weight[0], k->dim, "conv.conv.weight");
  if (r < 0 || !biased) return r;
  r = take(k, &all, 3 * k->dim, 0, "conv.in_proj.bias");
  if (r == TL_OK) r = plan_parts(k->m, k->err, all, rows, 3, in->bias);
  return r == TL_OK ? take(k, &conv->bias[0], k->dim, 0, "conv.conv.bias") : r;
}

int arch_recurrent_plan(struct model *m, const struct hf_config *c, uint32_t layer, uint32_t number, struct tl_error *err) {
  const struct tl_recurrence *r = &m->model.recurrence;
  struct maker k = {m, m->model.dim, r->n_key_heads, r->n_value_heads, r->key_dim, r->value_dim, r->conv, layer, err};
  if (is_scan(m->row)) return scan(&k, c, number);
  return r->n_value_heads ? delta(&k, number, (float)c->rms_norm_eps) : short_convolution(&k, number, c->conv_bias);
}

int arch_recurrent_queries(struct model *m, const struct hf_config *c, struct tl_op *qkv, struct tl_error *err) {
  uint64_t head = (uint64_t)c->head_dim, rows = (uint64_t)c->num_attention_heads * head;
  struct maker k = {.m = m, .dim = m->model.dim, .layer = qkv->layer, .err = err};
  struct tl_op *gate = plan_add(m, TL_OP_GATE_IN, qkv->layer);
  int32_t all;
  int r = take(&k, &all, 2 * rows, k.dim, "self_attn.q_proj.weight");
  if (r == TL_OK) r = take_runs(&k, &qkv->weight[0], all, 0, head, 2 * head, rows);
  if (r == TL_OK) r = take_runs(&k, &gate->weight[0], all, head, head, 2 * head, rows);
  if (r == TL_OK) plan_spent(m, all);
  return r;
}
