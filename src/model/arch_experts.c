/* SPDX-License-Identifier: MIT */
/* Layers whose MLP is a mixture of experts: what the architectures that have them differ in, and their records.
 * Which rows of architectures.c these are, the class name says. */
#include <string.h>

#include "model/model_private.h"

static const struct arch_experts kinds[] = {
    {"MixtralForCausalLM", "block_sparse_moe", "gate", {"w1", "w3", "w2"}, EXPERTS_NORMALIZED},
    {"Qwen2MoeForCausalLM", "mlp", "gate", {"gate_proj", "up_proj", "down_proj"}, EXPERTS_SHARED | EXPERTS_OWN_SIZE},
    {"Qwen3MoeForCausalLM", "mlp", "gate", {"gate_proj", "up_proj", "down_proj"}, EXPERTS_OWN_SIZE},
    {"Qwen3VLMoeForConditionalGeneration", "mlp", "gate", {"gate_up_proj", "gate_up_proj", "down_proj"},
     EXPERTS_NORMALIZED | EXPERTS_OWN_SIZE | EXPERTS_HALVES},
    {"Glm4MoeForCausalLM", "mlp", "gate", {"gate_proj", "up_proj", "down_proj"}, EXPERTS_SHARED | EXPERTS_OWN_SIZE | EXPERTS_SIGMOID},
    {"OlmoeForCausalLM", "mlp", "gate", {"gate_proj", "up_proj", "down_proj"}, 0},
    {"GptOssForCausalLM", "mlp", "router", {"gate_up_proj", "gate_up_proj", "down_proj"},
     EXPERTS_NORMALIZED | EXPERTS_FUSED},
};

const struct arch_experts *arch_experts_of(const struct architecture *a) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].class_name, a->class_name) == 0) return &kinds[i];
  return NULL;
}

bool arch_experts_in(const struct arch_experts *e, const struct hf_config *c, uint32_t layer) {
  bool dense = c->dense[layer] || (e && e->traits & EXPERTS_SIGMOID && layer < c->first_dense);
  return e && !dense && (layer + 1) % (uint64_t)c->decoder_sparse_step == 0;
}

/* hf, gguf: the key in the one kind of file and in the other. */
static int bad(const struct model *m, struct tl_error *err, const char *hf, const char *gguf, const char *what) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%s: %s: %s", m->gguf ? "metadata" : "config.json", m->gguf ? gguf : hf, what);
}

int arch_experts_check(const struct model *m, const struct arch_experts *e, const struct hf_config *c, struct tl_error *err) {
  if (c->n_experts < 1) return bad(m, err, "num_experts (num_local_experts)", "expert_count", "is required");
  if (c->n_chosen < 1 || c->n_chosen > c->n_experts)
    return bad(m, err, "num_experts_per_tok", "expert_used_count", "expected 1 to the number of experts");
  if (e->traits & EXPERTS_OWN_SIZE && !c->expert_size)
    return bad(m, err, "moe_intermediate_size", "expert_feed_forward_length", "is required");
  if (e->traits & EXPERTS_SIGMOID) {
    if (c->n_group != 1 || c->topk_group != 1)
      return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "config.json: n_group, topk_group: expected 1");
    if (c->n_shared_experts * c->expert_size > MODEL_MAX_DIM) return bad(m, err, "n_shared_experts", "expert_shared_count", "are too many");
    return TL_OK;
  }
  if (e->traits & EXPERTS_SHARED && !c->shared_expert_size)
    return bad(m, err, "shared_expert_intermediate_size", "expert_shared_feed_forward_length", "is required");
  return TL_OK;
}

struct maker {
  struct model *m;
  const struct arch_experts *e;
  const struct hf_config *c;
  uint64_t dim, inner;
  uint32_t layer;
  struct tl_error *err;
};

/* The matrix that a plan calls NAME.weight within the layer's block. */
static int take(const struct maker *k, int32_t *ret, uint64_t rows, uint64_t columns, const char *name) {
  *ret = plan_tensor(k->m, k->err, rows, columns, "model.layers.%u.%s.%s.weight", k->layer, k->e->block, name);
  return *ret < 0 ? *ret : TL_OK;
}

static struct tl_op *add(const struct maker *k, enum tl_op_kind kind) {
  struct tl_op *op = plan_add(k->m, kind, k->layer);
  op->n_experts = (uint32_t)k->c->n_experts;
  op->n_chosen = (uint32_t)k->c->n_chosen;
  return op;
}

static int by_sigmoid(const struct maker *k, struct tl_op *op) {
  op->features |= TL_F_SIGMOID | (k->c->routed_scaling_factor == 1 ? 0 : TL_F_FACTOR);
  op->factor = (float)k->c->routed_scaling_factor;
  op->bias[0] = k->m->gguf ? plan_tensor(k->m, k->err, op->n_experts, 0, "blk.%u.exp_probs_b.bias", k->layer)
                           : plan_tensor(k->m, k->err, op->n_experts, 0, "model.layers.%u.%s.%s.e_score_correction_bias", k->layer,
                                         k->e->block, k->e->router);
  return op->bias[0] < 0 ? op->bias[0] : TL_OK;
}

static int route(const struct maker *k) {
  struct tl_op *op = add(k, TL_OP_ROUTE);
  if (k->e->traits & EXPERTS_NORMALIZED || k->c->norm_topk_prob) op->features |= TL_F_NORMALIZED;
  int r = take(k, &op->weight[0], op->n_experts, k->dim, k->e->router);
  if (r == TL_OK && k->e->traits & EXPERTS_SIGMOID) return by_sigmoid(k, op);
  if (r < 0 || !(k->e->traits & EXPERTS_FUSED)) return r;
  op->bias[0] = plan_tensor(k->m, k->err, op->n_experts, 0, "model.layers.%u.%s.%s.bias", k->layer, k->e->block, k->e->router);
  return op->bias[0] < 0 ? op->bias[0] : TL_OK;
}

static const char *const shared_gated[] = {"shared_expert.gate_proj", "shared_expert.up_proj", "shared_expert.down_proj"};
static const char *const shared_plain[] = {"shared_experts.gate_proj", "shared_experts.up_proj", "shared_experts.down_proj"};

/* Part `part` (gate, up, down) of all experts into input i of op. */
static int expert_matrices(const struct maker *k, struct tl_op *op, int i, unsigned part) {
  bool down = part == EXPERT_DOWN;
  struct expert_part p = {.kind = k->e, .part = part, .layer = k->layer, .n = op->n_experts,
                          .rows = down ? k->dim : k->inner, .columns = down ? k->inner : k->dim};
  op->weight[i] = experts_weights(k->m, &p, k->err);
  if (op->weight[i] < 0 || !(k->e->traits & EXPERTS_FUSED)) return op->weight[i] < 0 ? op->weight[i] : TL_OK;
  op->bias[i] = experts_biases(k->m, &p, k->err);
  return op->bias[i] < 0 ? op->bias[i] : TL_OK;
}

/* An MLP for all rows; Qwen2-MoE's is times a number that each row makes. */
static int shared(const struct maker *k) {
  bool plain = k->e->traits & EXPERTS_SIGMOID;
  uint64_t size = (uint64_t)(plain ? k->c->n_shared_experts * k->c->expert_size : k->c->shared_expert_size);
  const char *const *names = plain ? shared_plain : shared_gated;
  if (size == 0) return TL_OK;
  struct tl_op *up = plan_add(k->m, TL_OP_GATED_UP, k->layer), *gate = plan_add(k->m, TL_OP_ROW_GATE, k->layer);
  struct tl_op *down = plan_add(k->m, TL_OP_MLP_DOWN, k->layer);
  int r = take(k, &up->weight[0], size, k->dim, names[EXPERT_GATE]);
  if (r == TL_OK) r = take(k, &up->weight[1], size, k->dim, names[EXPERT_UP]);
  if (r == TL_OK) r = take(k, &down->weight[0], k->dim, size, names[EXPERT_DOWN]);
  if (plain) return r;
  if (r == TL_OK && k->m->gguf) return take(k, &gate->weight[0], k->dim, 0, "shared_expert_gate");
  if (r == TL_OK) r = take(k, &gate->weight[0], 1, k->dim, "shared_expert_gate");
  if (r == TL_OK) r = experts_vector(k->m, gate->weight[0], &gate->weight[0], k->err);
  return r;
}

int arch_experts_plan(struct model *m, const struct arch_experts *e, const struct hf_config *c, uint32_t layer,
                      struct tl_error *err) {
  int64_t inner = e->traits & EXPERTS_OWN_SIZE ? c->expert_size : c->intermediate_size;
  struct maker k = {m, e, c, (uint64_t)c->hidden_size, (uint64_t)inner, layer, err};
  int r = route(&k);
  struct tl_op *up = add(&k, TL_OP_EXPERTS_UP), *down = add(&k, TL_OP_EXPERTS_DOWN);
  if (e->traits & EXPERTS_FUSED) {
    up->features |= TL_F_CLAMPED;
    up->limit = (float)c->swiglu_limit;
  }
  if (r == TL_OK) r = expert_matrices(&k, up, 0, EXPERT_GATE);
  if (r == TL_OK) r = expert_matrices(&k, up, 1, EXPERT_UP);
  if (r == TL_OK) r = expert_matrices(&k, down, 0, EXPERT_DOWN);
  return r == TL_OK && e->traits & EXPERTS_SHARED ? shared(&k) : r;
}
