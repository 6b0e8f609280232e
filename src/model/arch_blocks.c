/* SPDX-License-Identifier: MIT */
/* Layers that are not a norm, attention, a norm and a gated MLP, one behind the other: what the architectures that have others
 * differ in. Which rows of architectures.c these are, the class name says. */
#include <string.h>

#include "model/model_private.h"

#define COHERE (BLOCK_PARALLEL | BLOCK_NORM_UNBIASED | BLOCK_LOGIT_SCALE)
#define USUAL "self_attn.o_proj", "model.norm"

static const struct arch_blocks kinds[] = {
    {"CohereForCausalLM", COHERE, NULL, NULL, NULL, USUAL},
    {"Cohere2ForCausalLM", COHERE, NULL, NULL, NULL, USUAL},
    {"ArceeForCausalLM", 0, "relu2", "mlp.up_proj", "mlp.down_proj", USUAL},
    {"NemotronForCausalLM", 0, "relu2", "mlp.up_proj", "mlp.down_proj", USUAL},
    {"Starcoder2ForCausalLM", BLOCK_BIASED, "gelu_pytorch_tanh", "mlp.c_fc", "mlp.c_proj", USUAL},
    {"PhiForCausalLM", BLOCK_PARALLEL | BLOCK_BIASED | BLOCK_LOGIT_BIAS, "gelu_new", "mlp.fc1", "mlp.fc2", "self_attn.dense",
     "model.final_layernorm"},
};

const struct arch_blocks *arch_blocks_of(const struct architecture *a) {
  static const struct arch_blocks usual = {"", 0, NULL, NULL, NULL, USUAL};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].class_name, a->class_name) == 0) return &kinds[i];
  return &usual;
}

uint32_t arch_blocks_function(const struct arch_blocks *b) {
  return strcmp(b->act, "relu2") == 0 ? TL_F_RELU2 : TL_F_GELU_TANH; /* gelu_new is that by tanh, too */
}
