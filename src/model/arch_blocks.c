/* SPDX-License-Identifier: MIT */
/* Layers that are not a norm, attention, a norm and a gated MLP, one behind the other: what the architectures that have others
 * differ in. Which rows of architectures.c these are, the class name says. */
#include <string.h>

#include "model/model_private.h"

#define COHERE (BLOCK_PARALLEL | BLOCK_NORM_UNBIASED | BLOCK_LOGIT_SCALE)
#define NAMES "self_attn.o_proj", "model.norm"
#define GATED NULL, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", NAMES
#define LLAMA4 BLOCK_QK_UNIT, NULL, "feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj", NAMES
#define LFM2 0, NULL, "feed_forward.w1", "feed_forward.w3", "feed_forward.w2", "self_attn.out_proj", "model.embedding_norm"

static const struct arch_blocks kinds[] = {
    {"CohereForCausalLM", COHERE, GATED},
    {"Cohere2ForCausalLM", COHERE, GATED},
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

uint32_t arch_blocks_function(const struct arch_blocks *b) {
  return strcmp(b->act, "relu2") == 0 ? TL_F_RELU2 : TL_F_GELU_TANH; /* gelu_new is that by tanh, too */
}
