/* SPDX-License-Identifier: MIT */
/* Multi-head latent attention: what DeepSeek's classes and those after them have in place of keys and values, and its records.
 * kv_b_proj, which would make keys and values of a latent, becomes two tensors a head: what a query is multiplied with to meet
 * latents, and what makes a value of their mean. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

static bool is_latent(const struct architecture *a) {
  return a && a->traits & ARCH_LATENT;
}

/* transformers' own, as files may leave them out. */
static const struct defaults {
  const char *name;
  int64_t n_latent, q_rank, n_nope, n_value, n_experts, n_chosen, expert_size, n_shared, first_dense, n_group, topk_group;
  double factor, eps;
  bool normalized;
} defaults[] = {
    {"deepseek_v2", 512, 1536, 128, 128, 64, 0, 1407, 2, 0, 1, 1, 1, 1e-6, false},
    {"deepseek_v3", 512, 1536, 128, 128, 256, 8, 2048, 1, 3, 8, 4, 2.5, 1e-6, true},
    {"kimi_k25", 512, 1536, 128, 128, 256, 8, 2048, 1, 3, 8, 4, 2.5, 1e-6, true},
    {"mistral4", 256, 1024, 64, 128, 128, 4, 2048, 1, 0, 1, 1, 1, 1e-6, true},
    {"glm4_moe_lite", 512, 768, 192, 256, 64, 4, 1536, 1, 1, 1, 1, 1.8, 1e-5, true},
};

void arch_latent_defaults(const struct architecture *a, struct hf_config *c) {
  for (size_t i = 0; is_latent(a) && i < sizeof defaults / sizeof *defaults; i++) {
    const struct defaults *d = &defaults[i];
    if (strcmp(d->name, a->name) != 0) continue;
    c->kv_lora_rank = d->n_latent;
    c->qk_rope_head_dim = 64;
    c->q_lora_rank = d->q_rank;
    c->qk_nope_head_dim = d->n_nope;
    c->v_head_dim = d->n_value;
    c->n_experts = d->n_experts;
    c->n_chosen = d->n_chosen;
    c->expert_size = d->expert_size;
    c->n_shared_experts = d->n_shared;
    c->first_dense = d->first_dense;
    c->n_group = d->n_group;
    c->topk_group = d->topk_group;
    c->routed_scaling_factor = d->factor;
    c->rms_norm_eps = d->eps;
    c->norm_topk_prob = d->normalized;
  }
}

int arch_latent_complete(const struct architecture *a, struct hf_config *c, const char *file, struct tl_error *err) {
  if (!is_latent(a)) return TL_OK;
  if (c->kv_lora_rank + c->qk_rope_head_dim > MODEL_MAX_HEAD_DIM)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: kv_lora_rank, qk_rope_head_dim: expected up to %d together", file,
                        MODEL_MAX_HEAD_DIM);
  if (c->qk_rope_head_dim % 2) return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: qk_rope_head_dim: expected an even size", file);
  c->head_dim = c->qk_rope_head_dim; /* of which the angles are */
  c->num_key_value_heads = c->num_attention_heads;
  return TL_OK;
}

void arch_latent_take(const struct architecture *a, const struct hf_config *c, struct tl_model *t) {
  if (!is_latent(a)) return;
  t->n_kv_heads = 1;
  t->head_dim = (uint32_t)(c->kv_lora_rank + c->qk_rope_head_dim);
  t->n_latent = (uint32_t)c->kv_lora_rank;
  t->n_nope = (uint32_t)c->qk_nope_head_dim;
  t->n_value = (uint32_t)c->v_head_dim;
  t->n_rotated = (uint32_t)c->qk_rope_head_dim; /* a group is cut by it, whether there is a plan or not */
}

/* --- the plan -------------------------------------------------------------------------------- */

#define LATENT_EPS 1e-6f /* of the norms of latents, whatever rms_norm_eps says */

struct maker {
  struct model *m;
  const struct hf_config *c;
  uint32_t layer;
  struct tl_error *err;
};

/* rows x columns, or a vector of rows, that a plan calls NAME.ENDING. */
static int take(const struct maker *k, int32_t *ret, uint64_t rows, uint64_t columns, const char *name, const char *ending) {
  *ret = plan_tensor(k->m, k->err, rows, columns, "model.layers.%u.self_attn.%s.%s", k->layer, name, ending);
  return *ret < 0 ? *ret : TL_OK;
}

/* With the bias that attention_bias means. */
static int project(const struct maker *k, struct tl_op *op, int i, uint64_t rows, const char *name, bool with_bias) {
  int r = take(k, &op->weight[i], rows, (uint64_t)k->c->hidden_size, name, "weight");
  return r == TL_OK && with_bias ? take(k, &op->bias[i], rows, 0, name, "bias") : r;
}

static int down(const struct maker *k, uint64_t queries, uint64_t kept) {
  uint64_t rank = (uint64_t)k->c->q_lora_rank;
  struct tl_op *op = plan_add(k->m, TL_OP_LATENT, k->layer), *norm = plan_add(k->m, TL_OP_LATENT_NORM, k->layer);
  if (rank) op->features |= TL_F_LOW_RANK;
  norm->eps = LATENT_EPS;
  if (rank && k->c->llama_4_scaling_beta > 0 && k->c->original_max_position_embeddings > 0) {
    norm->features |= TL_F_GROWS; /* what queries are made of, in place of them: what lies between is linear */
    norm->growth = (struct tl_growth){(float)k->c->llama_4_scaling_beta, (uint32_t)k->c->original_max_position_embeddings, 0};
  }
  int r = project(k, op, 0, rank ? rank : queries, rank ? "q_a_proj" : "q_proj", rank && k->c->attention_bias);
  if (r == TL_OK) r = project(k, op, 1, kept, "kv_a_proj_with_mqa", k->c->attention_bias);
  if (r == TL_OK && rank) r = take(k, &norm->weight[0], rank, 0, "q_a_layernorm", "weight");
  if (r == TL_OK) r = take(k, &norm->weight[1], (uint64_t)k->c->kv_lora_rank, 0, "kv_a_layernorm", "weight");
  if (r < 0 || !rank) return r;
  struct tl_op *up = plan_add(k->m, TL_OP_LATENT_QUERY, k->layer);
  return take(k, &up->weight[0], queries, rank, "q_b_proj", "weight");
}

/* Of each head the rows [first, first + rows) of its `each` as a tensor; the index of the first. */
static int32_t head_parts(const struct maker *k, int32_t all, uint64_t each, uint64_t first, uint64_t rows) {
  int32_t ret = -1;
  for (uint64_t head = 0; head < (uint64_t)k->c->num_attention_heads; head++) {
    int32_t part = plan_rows(k->m, k->err, all, head * each + first, rows);
    if (part < 0) return part;
    if (head == 0) ret = part;
  }
  return ret;
}

/* The heads' matrices of one kind, as GGUF has them, (n_heads, rows, columns), as a tensor each; the index of the first. */
static int32_t stacked(const struct maker *k, const char *what, uint64_t rows, uint64_t columns) {
  struct model *m = k->m;
  char name[64];
  snprintf(name, sizeof name, "blk.%u.attn_%s.weight", k->layer, what);
  int32_t i = model_find_tensor(m, name), ret = -1;
  if (i < 0) return tl_error_set(k->err, TL_ECORRUPT, "model.path", "tensor '%s' is missing from the model's files", name);
  const struct tl_tensor all = m->tensors[i];
  uint64_t n = (uint64_t)k->c->num_attention_heads;
  if (all.n_dims != 3 || all.shape[0] != n || all.shape[1] != rows || all.shape[2] != columns)
    return tl_error_set(k->err, TL_ECORRUPT, "model.path", "%.100s: tensor '%s': expected shape %llu x %llu x %llu", model_file_of(m, &all),
                        name, (unsigned long long)n, (unsigned long long)rows, (unsigned long long)columns);
  for (uint64_t head = 0; head < n; head++) {
    char own[100];
    snprintf(own, sizeof own, "%s[%llu]", name, (unsigned long long)head);
    struct tl_tensor view = {.name = own, .dtype = all.dtype, .n_dims = 2, .shape = {rows, columns}, .bytes = all.bytes / n,
                             .data = (const char *)all.data + head * (all.bytes / n)};
    int r = model_add_tensor(m, &view, k->err);
    if (r < 0) return r;
    if (head == 0) ret = (int32_t)m->n_tensors - 1;
  }
  return ret;
}

static int heads(const struct maker *k, struct tl_op *absorb, struct tl_op *make) {
  uint64_t nope = (uint64_t)k->c->qk_nope_head_dim, value = (uint64_t)k->c->v_head_dim, each = nope + value;
  absorb->n_heads = make->n_heads = (uint32_t)k->c->num_attention_heads;
  int32_t all;
  char name[64];
  snprintf(name, sizeof name, "blk.%u.attn_kv_b.weight", k->layer);
  if (k->m->gguf && model_find_tensor(k->m, name) < 0) {
    absorb->weight[0] = stacked(k, "k_b", (uint64_t)k->c->kv_lora_rank, nope);
    if (absorb->weight[0] < 0) return absorb->weight[0];
    make->weight[0] = stacked(k, "v_b", value, (uint64_t)k->c->kv_lora_rank);
    return make->weight[0] < 0 ? make->weight[0] : TL_OK;
  }
  int r = take(k, &all, each * absorb->n_heads, (uint64_t)k->c->kv_lora_rank, "kv_b_proj", "weight");
  if (r < 0) return r;
  absorb->features |= TL_F_TURNED;
  absorb->weight[0] = head_parts(k, all, each, 0, nope);
  if (absorb->weight[0] < 0) return absorb->weight[0];
  make->weight[0] = head_parts(k, all, each, nope, value);
  if (make->weight[0] < 0) return make->weight[0];
  plan_spent(k->m, all);
  return TL_OK;
}

/* YaRN's scaling of scores is of all of them, not of cosine and sine. */
static float score_scale(const struct hf_config *c) {
  double scale = 1 / sqrt((double)(c->qk_nope_head_dim + c->qk_rope_head_dim));
  bool scaled = c->rope_type[0] && strcmp(c->rope_type, "default") != 0 && c->mscale_all_dim > 0 && c->rope_factor > 1;
  double m = scaled ? 0.1 * c->mscale_all_dim * log(c->rope_factor) + 1 : 1;
  return (float)(scale * m * m);
}

int arch_latent_plan(struct model *m, const struct hf_config *c, uint32_t layer, float rope_factor, struct tl_error *err) {
  struct maker k = {m, c, layer, err};
  uint64_t head = (uint64_t)(c->qk_nope_head_dim + c->qk_rope_head_dim);
  int r = down(&k, head * (uint64_t)c->num_attention_heads, m->model.head_dim);
  struct tl_op *rope = plan_add(m, TL_OP_LATENT_ROPE, layer), *absorb = plan_add(m, TL_OP_LATENT_ABSORB, layer);
  struct tl_op *op = plan_add(m, TL_OP_LATENT_ATTEND, layer), *make = plan_add(m, TL_OP_LATENT_VALUE, layer);
  rope->features |= (c->rope_interleave ? TL_F_INTERLEAVED : 0) | (rope_factor == 1 ? 0 : TL_F_FACTOR);
  rope->factor = rope_factor;
  op->scale = score_scale(c);
  return r == TL_OK ? heads(&k, absorb, make) : r;
}
