/* SPDX-License-Identifier: MIT */
/* Llama (Touvron et al. 2023): pre-norm decoder with RMSNorm, rotary positions,
 * grouped-query attention and a SwiGLU MLP. */
#include <math.h>

#include "model/model_private.h"

struct sizes {
  uint64_t dim, q, kv, ffn, vocab;
};

/* A projection's weight and, when the model has them, its bias into input i of op. */
static int project(struct model *m, struct tl_op *op, int i, uint64_t rows, uint64_t columns, bool with_bias,
                   uint32_t layer, const char *name, struct tl_error *err) {
  int32_t weight = plan_tensor(m, err, rows, columns, "model.layers.%u.%s.weight", layer, name);
  if (weight < 0) return weight;
  op->weight[i] = weight;
  if (!with_bias) return TL_OK;
  int32_t bias = plan_tensor(m, err, rows, 0, "model.layers.%u.%s.bias", layer, name);
  if (bias < 0) return bias;
  op->bias[i] = bias;
  return TL_OK;
}

static int norm(struct model *m, const struct hf_config *c, uint32_t layer, const char *name, struct tl_error *err) {
  struct tl_op *op = plan_add(m, TL_OP_RMSNORM, layer);
  int32_t weight = name ? plan_tensor(m, err, (uint64_t)c->hidden_size, 0, "model.layers.%u.%s.weight", layer, name)
                        : plan_tensor(m, err, (uint64_t)c->hidden_size, 0, "model.norm.weight");
  if (weight < 0) return weight;
  op->weight[0] = weight;
  op->eps = (float)c->rms_norm_eps;
  return TL_OK;
}

static int attention(struct model *m, const struct hf_config *c, const struct sizes *s, uint32_t layer,
                     struct tl_error *err) {
  int r = norm(m, c, layer, "input_layernorm", err);
  struct tl_op *op = plan_add(m, TL_OP_QKV, layer);
  if (r == TL_OK) r = project(m, op, 0, s->q, s->dim, c->attention_bias, layer, "self_attn.q_proj", err);
  if (r == TL_OK) r = project(m, op, 1, s->kv, s->dim, c->attention_bias, layer, "self_attn.k_proj", err);
  if (r == TL_OK) r = project(m, op, 2, s->kv, s->dim, c->attention_bias, layer, "self_attn.v_proj", err);
  plan_add(m, TL_OP_ROPE, layer);
  plan_add(m, TL_OP_ATTEND, layer)->scale = 1 / sqrtf((float)c->head_dim);
  op = plan_add(m, TL_OP_ATTN_OUT, layer);
  if (r == TL_OK) r = project(m, op, 0, s->dim, s->q, c->attention_bias, layer, "self_attn.o_proj", err);
  return r;
}

static int mlp(struct model *m, const struct hf_config *c, const struct sizes *s, uint32_t layer, struct tl_error *err) {
  int r = norm(m, c, layer, "post_attention_layernorm", err);
  struct tl_op *op = plan_add(m, TL_OP_GATED_UP, layer);
  if (r == TL_OK) r = project(m, op, 0, s->ffn, s->dim, c->mlp_bias, layer, "mlp.gate_proj", err);
  if (r == TL_OK) r = project(m, op, 1, s->ffn, s->dim, c->mlp_bias, layer, "mlp.up_proj", err);
  op = plan_add(m, TL_OP_MLP_DOWN, layer);
  if (r == TL_OK) r = project(m, op, 0, s->dim, s->ffn, c->mlp_bias, layer, "mlp.down_proj", err);
  return r;
}

int arch_llama_plan(struct model *m, const struct hf_config *c, struct tl_error *err) {
  struct sizes s = {(uint64_t)c->hidden_size, (uint64_t)(c->num_attention_heads * c->head_dim),
                    (uint64_t)(c->num_key_value_heads * c->head_dim), (uint64_t)c->intermediate_size,
                    (uint64_t)c->vocab_size};
  int32_t embed = plan_tensor(m, err, s.vocab, s.dim, "model.embed_tokens.weight");
  if (embed < 0) return embed;
  plan_add(m, TL_OP_EMBED, 0)->weight[0] = embed;
  for (uint32_t layer = 0; layer < (uint32_t)c->num_hidden_layers; layer++) {
    int r = attention(m, c, &s, layer, err);
    if (r == TL_OK) r = mlp(m, c, &s, layer, err);
    if (r < 0) return r;
  }
  int r = norm(m, c, 0, NULL, err);
  if (r < 0) return r;
  int32_t output = c->tie_word_embeddings ? embed : plan_tensor(m, err, s.vocab, s.dim, "lm_head.weight");
  if (output < 0) return output;
  plan_add(m, TL_OP_LOGITS, 0)->weight[0] = output;
  return TL_OK;
}
