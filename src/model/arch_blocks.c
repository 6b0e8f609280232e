/* SPDX-License-Identifier: MIT */
/* Layers that are not a norm, attention, a norm and a gated MLP, one behind the other: what the architectures that have others
 * differ in. Which rows of architectures.c these are, the class name says. */
#include <string.h>

#include "model/model_private.h"

#define COHERE (BLOCK_PARALLEL | BLOCK_NORM_UNBIASED | BLOCK_LOGIT_SCALE)

static const struct arch_blocks kinds[] = {
    {"CohereForCausalLM", COHERE},
    {"Cohere2ForCausalLM", COHERE},
};

const struct arch_blocks *arch_blocks_of(const struct architecture *a) {
  static const struct arch_blocks usual = {"", 0};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].class_name, a->class_name) == 0) return &kinds[i];
  return &usual;
}
