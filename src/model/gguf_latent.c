/* SPDX-License-Identifier: MIT */
/* What llama.cpp's files say of multi-head latent attention. Those of 2025 and later hold the two matrices of each head apart, and their
 * keys and values are the latent's, as one head has them; earlier ones hold one matrix and say what heads would have. */
#include <stdio.h>
#include <string.h>

#include "model/gguf_private.h"

struct reader {
  const struct tl_gguf *g;
  const char *architecture;
};

static bool read_key(const struct reader *r, const char *key, int64_t *ret) {
  char name[128];
  snprintf(name, sizeof name, "%s.%s", r->architecture, key);
  return tl_gguf_integer(r->g, name, ret);
}

static int bad(const struct reader *r, const char *key, const char *what, struct tl_error *err) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s.%s: %s", r->g->file.name, r->architecture, key, what);
}

int gguf_read_latent(const struct tl_gguf *g, const char *architecture, struct hf_config *c, struct tl_error *err) {
  const struct reader r = {g, architecture};
  int64_t turned = 0, key = 0, value = 0, gating = 0;
  char name[128];
  double multiplier;
  if (!c->kv_lora_rank) return bad(&r, "attention.kv_lora_rank", "is required", err);
  if (!read_key(&r, "rope.dimension_count", &turned) || turned < 2 || turned > MODEL_MAX_HEAD_DIM)
    return bad(&r, "rope.dimension_count", "is required, from 2 to 4096", err);
  if (!read_key(&r, "attention.key_length_mla", &key)) read_key(&r, "attention.key_length", &key);
  if (!read_key(&r, "attention.value_length_mla", &value)) read_key(&r, "attention.value_length", &value);
  if (key <= turned || key > MODEL_MAX_HEAD_DIM)
    return bad(&r, "attention.key_length_mla", "is required, or key_length; more than rope.dimension_count, up to 4096", err);
  if (value < 1 || value > MODEL_MAX_HEAD_DIM) return bad(&r, "attention.value_length_mla", "is required, or value_length; from 1 to 4096", err);
  c->qk_rope_head_dim = turned;
  c->qk_nope_head_dim = key - turned;
  c->v_head_dim = value;
  /* a tenth of what config.json has */
  snprintf(name, sizeof name, "%s.rope.scaling.yarn_log_multiplier", architecture);
  if (tl_gguf_number(g, name, &multiplier) && multiplier > 0 && multiplier < 100) c->mscale = c->mscale_all_dim = 10 * multiplier;
  bool sigmoid = read_key(&r, "expert_gating_func", &gating) && gating == 2;
  if (strcmp(architecture, "mistral4") == 0) return arch_latent_complete(arch_find(c->architecture, "", err), c, g->file.name, err);
  strcpy(c->architecture, sigmoid ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM");
  if (!sigmoid) strcpy(c->topk_method, c->n_group > 1 ? "group_limited_greedy" : "greedy");
  return arch_latent_complete(arch_find(c->architecture, "", err), c, g->file.name, err);
}
