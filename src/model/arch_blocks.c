/* SPDX-License-Identifier: MIT */
/* Layers that are not a norm, attention, a norm and a gated MLP, one behind the other: what the architectures that have others
 * differ in. Which rows of architectures.c these are, the class name says. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

#define COHERE (BLOCK_PARALLEL | BLOCK_NORM_UNBIASED | BLOCK_LOGIT_SCALE)
#define NAMES "self_attn.o_proj", "model.norm"
#define GATED NULL, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", NAMES
#define LLAMA4 BLOCK_QK_UNIT, NULL, "feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj", NAMES
#define LFM2 0, NULL, "feed_forward.w1", "feed_forward.w3", "feed_forward.w2", "self_attn.out_proj", "model.embedding_norm"

#define FC NULL, "mlp.fc1", "mlp.fc2", NAMES

static const struct arch_blocks kinds[] = {
    {"GPT2LMHeadModel", BLOCK_BIASED | BLOCK_PLACES | BLOCK_TURNED | BLOCK_ANY_ACT, "gelu_new", FC},
    {"GPTBigCodeForCausalLM", BLOCK_BIASED | BLOCK_PLACES | BLOCK_GROUPED_QKV | BLOCK_ANY_ACT, "gelu_pytorch_tanh", FC},
    {"GPTJForCausalLM", BLOCK_PARALLEL | BLOCK_LOGIT_BIAS | BLOCK_ANY_ACT, "gelu_new", FC},
    {"GPTNeoXForCausalLM", BLOCK_BIASED | BLOCK_PARALLEL_KEY | BLOCK_GROUPED_QKV | BLOCK_ANY_ACT, "gelu", FC},
    {"OPTForCausalLM", BLOCK_BIASED | BLOCK_PLACES | BLOCK_ANY_ACT, "relu", FC},
    {"FalconForCausalLM", BLOCK_PARALLEL_KEY | BLOCK_GROUPED_QKV | BLOCK_ANY_ACT, "gelu", FC},
    {"CohereForCausalLM", COHERE, GATED},
    {"Cohere2ForCausalLM", COHERE, GATED},
    {"ApertusForCausalLM", 0, "xielu", NULL, "mlp.up_proj", "mlp.down_proj", NAMES},
    {"ArceeForCausalLM", 0, "relu2", NULL, "mlp.up_proj", "mlp.down_proj", NAMES},
    {"NemotronForCausalLM", 0, "relu2", NULL, "mlp.up_proj", "mlp.down_proj", NAMES},
    {"NemotronHForCausalLM", BLOCK_ONE_MIXER, "relu2", NULL, "mlp.up_proj", "mlp.down_proj", NAMES},
    {"Starcoder2ForCausalLM", BLOCK_BIASED, "gelu_pytorch_tanh", NULL, "mlp.c_fc", "mlp.c_proj", NAMES},
    {"PhiForCausalLM", BLOCK_PARALLEL | BLOCK_BIASED | BLOCK_LOGIT_BIAS, "gelu_new", NULL, "mlp.fc1", "mlp.fc2", "self_attn.dense",
     "model.final_layernorm"},
    {"Lfm2ForCausalLM", LFM2},
    {"Lfm2MoeForCausalLM", LFM2},
    {"Llama4ForCausalLM", LLAMA4},
    {"Llama4ForConditionalGeneration", LLAMA4},
};

const struct arch_blocks *arch_blocks_of(const struct architecture *a) {
  static const struct arch_blocks usual = {"", 0, GATED};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].class_name, a->class_name) == 0) return &kinds[i];
  return &usual;
}

bool arch_blocks_function(const struct arch_blocks *b, const char *act, uint32_t *ret) {
  static const struct {
    const char *act;
    uint32_t feature;
  } known[] = {{"relu2", TL_F_RELU2}, {"gelu_pytorch_tanh", TL_F_GELU_TANH}, {"gelu_new", TL_F_GELU_TANH}, {"gelu_fast", TL_F_GELU_TANH},
               {"gelu", 0}, {"relu", TL_F_RELU}, {"xielu", TL_F_XIELU}};
  if (!act[0] || !(b->traits & BLOCK_ANY_ACT)) act = act[0] && strcmp(act, b->act) != 0 ? "" : b->act;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(known[i].act, act) == 0) return (void)(*ret = known[i].feature), true;
  return false;
}

/* The number of a layer's function; otherwise: what it is where files do not have it. */
static int curve(const struct model *m, const struct tl_op *op, const char *name, double otherwise, double *ret, struct tl_error *err) {
  char full[128];
  float value = (float)otherwise;
  snprintf(full, sizeof full, "model.layers.%u.mlp.act_fn.%s", op->layer, name);
  int32_t i = model_find_tensor(m, full);
  const struct tl_tensor *t = i < 0 ? NULL : &m->tensors[i];
  if (!t && isnan(otherwise)) return tl_error_set(err, TL_ECORRUPT, "model.path", "tensor '%s' is missing from the model's files", full);
  if (t && (t->dtype > TL_DTYPE_BF16 || t->bytes != tl_dtype_bytes(t->dtype)))
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.100s: tensor '%s': expected one float", model_file_of(m, t), full);
  if (t) tl_dtype_to_f32(t->dtype, t->data, &value, 1);
  *ret = (double)value;
  return TL_OK;
}

static double softplus(double x) {
  return x > 30 ? x : log1p(exp(x));
}

int arch_blocks_xielu(const struct model *m, struct tl_op *op, struct tl_error *err) {
  double above, below, beta, eps;
  int r = curve(m, op, "alpha_p", NAN, &above, err);
  if (r == TL_OK) r = curve(m, op, "alpha_n", NAN, &below, err);
  if (r == TL_OK) r = curve(m, op, "beta", 0.5, &beta, err);
  if (r == TL_OK) r = curve(m, op, "eps", -1e-6, &eps, err);
  if (r < 0) return r;
  op->factor = (float)softplus(above);
  op->limit = (float)(beta + softplus(below));
  op->softcap = (float)beta;
  op->eps = (float)eps;
  return TL_OK;
}

int arch_blocks_qkv(struct model *m, const struct hf_config *c, int32_t all, int32_t *ret, struct tl_error *err) {
  uint64_t head = (uint64_t)c->head_dim, kv_heads = (uint64_t)c->num_key_value_heads, each = (uint64_t)c->num_attention_heads / kv_heads;
  uint64_t step = (each + 2) * head;
  const struct row_runs runs[] = {{0, each * head, step, kv_heads * each * head},
                                  {each * head, head, step, kv_heads * head},
                                  {(each + 1) * head, head, step, kv_heads * head}};
  if (all < 0) return all;
  for (int i = 0; i < 3; i++)
    if ((ret[i] = plan_runs(m, err, all, &runs[i])) < 0) return ret[i];
  plan_spent(m, all);
  return TL_OK;
}
