/* SPDX-License-Identifier: MIT */
/* Models of texts and pictures, of which the text model is served here: where config.json and the files have it, and what
 * goes without saying in its part of config.json. */
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

static const struct nested {
  const char *class_name;
  const char *text_type; /* model_type of text_config */
  /* transformers' own, as older files leave them out; 0: not known, or required */
  int64_t n_heads, n_kv_heads, head_dim, vocab, context;
  double eps, theta;
} kinds[] = {
    {"Gemma3ForConditionalGeneration", "gemma3_text", 8, 4, 256, 262208, 131072, 1e-6, 1e6},
    {"Mistral3ForConditionalGeneration", "mistral", 0, 8, 0, 0, 0, 1e-6, 1e4},
    {"Qwen2VLForConditionalGeneration", "qwen2_vl_text", 0, 8, 0, 152064, 32768, 1e-5, 1e6},
    {"Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl_text", 0, 8, 0, 152064, 32768, 1e-5, 1e6},
    {"Qwen3VLForConditionalGeneration", "qwen3_vl_text", 0, 32, 128, 151936, 128000, 1e-6, 5e5},
};

static const struct nested *find(const struct architecture *a) {
  for (size_t i = 0; a && i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].class_name, a->class_name) == 0) return &kinds[i];
  return NULL;
}

bool hf_is_nested(const struct architecture *a) {
  return find(a) != NULL;
}

int hf_nested_text(const struct architecture *a, json_t *object, struct hf_config *c, json_t **ret, struct tl_error *err) {
  const struct nested *n = find(a);
  json_t *text = json_object_get(object, "text_config");
  *ret = object;
  if (!n) return TL_OK;
  c->num_attention_heads = n->n_heads;
  c->num_key_value_heads = n->n_kv_heads;
  c->head_dim = n->head_dim;
  c->vocab_size = n->vocab;
  c->max_position_embeddings = n->context;
  c->rms_norm_eps = n->eps;
  c->rope_theta = n->theta;
  if (!json_is_object(text)) return TL_OK; /* Qwen2.5-VL's have all in one */
  *ret = text;
  const char *type = json_string_value(json_object_get(text, "model_type"));
  if (!type || strcmp(type, n->text_type) == 0) return TL_OK;
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "config.json: text_config: model_type: expected %s, got %.60s", n->text_type, type);
}

const char *hf_nested_tensor(const char *name, char *buffer, size_t size) {
  static const char *const prefixes[][2] = {{"language_model.", ""}, {"model.language_model.", "model."}, {"", ""}};
  static const char *const known[] = {"model.layers.", "model.embed_tokens.", "model.norm.", "lm_head."};
  for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
    size_t n = strlen(prefixes[i][0]);
    if (strncmp(name, prefixes[i][0], n) != 0) continue;
    snprintf(buffer, size, "%s%s", prefixes[i][1], name + n);
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
      if (strncmp(buffer, known[k], strlen(known[k])) == 0) return buffer;
  }
  return NULL;
}
