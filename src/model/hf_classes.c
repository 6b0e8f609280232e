/* SPDX-License-Identifier: MIT */
/* What goes without saying in config.json of a class; and models of texts and pictures, of which the text model is served
 * here: where config.json and the files have it. */
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

#define QWEN3_5 16, 4, 256, 248320, 32768, 0, 1e-6, 0, false
#define QWEN3_5_MOE 16, 2, 256, 248320, 32768, 0, 1e-6, 0, false
#define GEMMA4 8, 4, 256, 262144, 131072, 512, 1e-6, 1e6, false
#define GEMMA4_UNIFIED 8, 4, 256, 262144, 262144, 1024, 1e-6, 1e6, false
#define LFM2 32, 8, 0, 65536, 128000, 0, 1e-5, 1e6, false
#define LLAMA4 40, 8, 128, 202048, 131072, 0, 1e-5, 5e5, false

static const struct class {
  const char *name;
  const char *text_type; /* model_type of text_config; NULL: it has none */
  /* transformers' own, as older files leave them out; 0: as everywhere, or required */
  int64_t n_heads, n_kv_heads, head_dim, vocab, context, window;
  double eps, theta;
  bool attention_bias;
} classes[] = {
    {"Gemma3ForConditionalGeneration", "gemma3_text", 8, 4, 256, 262208, 131072, 4096, 1e-6, 1e6, false},
    {"Gemma3TextModel", NULL, 8, 4, 256, 262208, 131072, 4096, 1e-6, 1e6, false},
    {"Gemma4ForConditionalGeneration", "gemma4_text", GEMMA4},
    {"Gemma4UnifiedForConditionalGeneration", "gemma4_unified_text", GEMMA4_UNIFIED},
    {"Gemma4ForCausalLM", NULL, GEMMA4},
    {"Gemma4UnifiedForCausalLM", NULL, GEMMA4_UNIFIED},
    {"Mistral3ForConditionalGeneration", "mistral", 0, 8, 0, 0, 0, 4096, 1e-6, 1e4, false},
    {"Mistral4ForCausalLM", "mistral4", 32, 32, 0, 131072, 1048576, 0, 1e-6, 1e4, false},
    {"KimiK25ForConditionalGeneration", "kimi_k2", 0, 0, 0, 129280, 4096, 0, 1e-6, 1e4, false},
    {"Kimi_K25ForConditionalGeneration", "kimi_k2", 0, 0, 0, 129280, 4096, 0, 1e-6, 1e4, false},
    {"Qwen2VLForConditionalGeneration", "qwen2_vl_text", 0, 8, 0, 152064, 32768, 4096, 1e-5, 1e6, false},
    {"Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl_text", 0, 8, 0, 152064, 32768, 4096, 1e-5, 1e6, false},
    {"Qwen3VLForConditionalGeneration", "qwen3_vl_text", 0, 32, 128, 151936, 128000, 0, 1e-6, 5e5, false},
    {"Qwen3VLMoeForConditionalGeneration", "qwen3_vl_moe_text", 0, 16, 0, 151936, 128000, 0, 1e-6, 5e5, false},
    {"Llama4ForConditionalGeneration", "llama4_text", LLAMA4},
    {"Llama4ForCausalLM", NULL, LLAMA4},
    {"Qwen3_5ForConditionalGeneration", "qwen3_5_text", QWEN3_5},
    {"Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe_text", QWEN3_5_MOE},
    {"Qwen3_5ForCausalLM", NULL, QWEN3_5},
    {"Qwen3_5MoeForCausalLM", NULL, QWEN3_5_MOE},
    {"Qwen3NextForCausalLM", NULL, 16, 2, 256, 151936, 32768, 0, 1e-6, 0, false},
    {"Lfm2ForCausalLM", NULL, LFM2},
    {"Lfm2MoeForCausalLM", NULL, LFM2},
    {"Ministral3ForCausalLM", NULL, 0, 8, 128, 0, 0, 0, 1e-5, 1e6, false},
    {"Olmo3ForCausalLM", NULL, 0, 0, 0, 0, 0, 4096, 1e-5, 5e5, false},
    {"GlmForCausalLM", NULL, 32, 2, 128, 151552, 131072, 0, 1.5625e-7, 1e4, true},
    {"Glm4vForConditionalGeneration", "glm4v_text", 32, 2, 0, 151552, 32768, 0, 1e-5, 1e4, true},
    {"Glm46VForConditionalGeneration", "glm4v_text", 32, 2, 0, 151552, 32768, 0, 1e-5, 1e4, true},
    {"Glm4vMoeForConditionalGeneration", "glm4v_moe_text", 96, 8, 0, 151424, 65536, 0, 1e-5, 1e4, true},
    {"Glm4MoeForCausalLM", NULL, 0, 8, 0, 0, 0, 0, 1e-5, 0, false},
    {"SolarOpenForCausalLM", NULL, 64, 8, 128, 196608, 131072, 0, 1e-5, 1e6, false},
    {"ExaoneMoeForCausalLM", NULL, 32, 32, 0, 102400, 2048, 4096, 1e-5, 0, false},
    {"HYV3ForCausalLM", NULL, 64, 8, 128, 120832, 131072, 0, 1e-5, 11158840, false},
    {"MiniMaxM2ForCausalLM", NULL, 0, 8, 128, 200064, 196608, 0, 1e-6, 5e6, false},
    {"PhimoeForCausalLM", NULL, 0, 8, 0, 32064, 131072, 0, 1e-5, 1e6, false},
    {"PhiMoEForCausalLM", NULL, 0, 8, 0, 32064, 131072, 0, 1e-5, 1e6, false},
    {"HunYuanDenseV1ForCausalLM", NULL, 0, 0, 0, 0, 0, 0, 1e-5, 0, false},
    {"HunYuanMoEV1ForCausalLM", NULL, 0, 0, 0, 0, 0, 0, 1e-5, 0, false},
    {"OlmoeForCausalLM", NULL, 0, 0, 0, 0, 0, 0, 1e-5, 0, false},
    {"SeedOssForCausalLM", NULL, 0, 8, 128, 0, 0, 0, 0, 0, true},
    {"Ernie4_5ForCausalLM", NULL, 0, 2, 128, 0, 0, 0, 1e-5, 5e5, false},
    {"Ernie4_5_MoeForCausalLM", NULL, 0, 4, 0, 0, 0, 0, 1e-5, 5e5, false},
    {"Dots1ForCausalLM", NULL, 0, 32, 0, 0, 0, 4096, 1e-6, 0, false},
    {"CohereForCausalLM", NULL, 0, 0, 0, 0, 0, 0, 1e-5, 5e5, false},
    {"Cohere2ForCausalLM", NULL, 0, 0, 0, 0, 0, 4096, 1e-5, 0, false},
    {"ApertusForCausalLM", NULL, 0, 0, 0, 0, 0, 0, 1e-5, 12000000, false},
    {"ArceeForCausalLM", NULL, 0, 0, 0, 0, 0, 0, 1e-5, 0, false},
    {"NemotronForCausalLM", NULL, 0, 0, 0, 0, 0, 0, 1e-5, 0, false},
    {"Starcoder2ForCausalLM", NULL, 0, 2, 0, 0, 0, 0, 1e-5, 0, false},
    {"PhiForCausalLM", NULL, 0, 0, 0, 0, 0, 0, 1e-5, 0, false},
    {"GPT2LMHeadModel", NULL, 12, 0, 0, 50257, 1024, 0, 1e-5, 0, false},
    {"GPTBigCodeForCausalLM", NULL, 12, 0, 0, 50257, 1024, 0, 1e-5, 0, false},
    {"GPTJForCausalLM", NULL, 16, 0, 0, 50400, 2048, 0, 1e-5, 1e4, false},
    {"GPTNeoXForCausalLM", NULL, 64, 0, 0, 50432, 2048, 0, 1e-5, 1e4, false},
    {"OPTForCausalLM", NULL, 12, 0, 0, 50272, 2048, 0, 1e-5, 0, false},
    {"FalconForCausalLM", NULL, 71, 0, 0, 65024, 2048, 0, 1e-5, 1e4, false},
    {"NemotronHForCausalLM", NULL, 32, 8, 128, 131072, 4096, 0, 1e-5, 0, false},
    {"Exaone4ForCausalLM", NULL, 0, 32, 0, 0, 0, 4096, 1e-5, 0, false},
};

/* And of their experts. */
static const struct mixture {
  const char *name;
  int64_t n_experts, n_chosen, size, n_shared, first_dense;
  bool normalized; /* norm_topk_prob */
  double factor;   /* routed_scaling_factor */
} mixtures[] = {
    {"MixtralForCausalLM", 8, 2, 0, 0, 0, false, 1},
    {"Llama4ForCausalLM", 16, 1, 0, 1, 0, false, 1},
    {"Llama4ForConditionalGeneration", 16, 1, 0, 1, 0, false, 1},
    {"MiniMaxM2ForCausalLM", 256, 8, 0, 0, 0, false, 1},
    {"Glm4MoeForCausalLM", 128, 8, 1408, 1, 1, true, 1},
    {"Glm4vMoeForConditionalGeneration", 128, 8, 1408, 1, 1, true, 1},
    {"SolarOpenForCausalLM", 128, 8, 1280, 1, 0, true, 1},
    {"ExaoneMoeForCausalLM", 64, 8, 1024, 1, 1, true, 2.5},
    {"HYV3ForCausalLM", 192, 8, 1536, 1, 1, true, 2.826},
    {"Ernie4_5_MoeForCausalLM", 64, 6, 1536, 2, 1, false, 1},
    {"Dots1ForCausalLM", 0, 0, 1408, 0, 0, false, 1},
    {"GraniteMoeForCausalLM", 8, 2, 0, 0, 0, false, 1},
    {"GraniteMoeSharedForCausalLM", 8, 2, 0, 0, 0, false, 1},
    {"GraniteMoeHybridForCausalLM", 8, 2, 0, 0, 0, false, 1},
    {"NemotronHForCausalLM", 8, 2, 7688, 0, 0, true, 1},
    {"Qwen3NextForCausalLM", 512, 10, 512, 0, 0, true, 1},
    {"Qwen3_5MoeForCausalLM", 256, 8, 512, 0, 0, true, 1},
    {"Qwen3_5MoeForConditionalGeneration", 256, 8, 512, 0, 0, true, 1},
    {"Lfm2MoeForCausalLM", 32, 4, 1792, 0, 2, true, 1},
    {"PhimoeForCausalLM", 16, 2, 0, 0, 0, false, 1},
    {"PhiMoEForCausalLM", 16, 2, 0, 0, 0, false, 1},
    {"OlmoeForCausalLM", 64, 8, 0, 0, 0, false, 1},
};

static const struct class *find_name(const char *name) {
  for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
    if (strcmp(classes[i].name, name) == 0) return &classes[i];
  return NULL;
}

static const struct class *find(const struct architecture *a) {
  return a ? find_name(a->class_name) : NULL;
}

bool hf_is_nested(const struct architecture *a) {
  const struct class *class = find(a);
  return class && class->text_type;
}

static void take(const struct class *class, struct hf_config *c) {
  c->num_attention_heads = class->n_heads;
  c->num_key_value_heads = class->n_kv_heads;
  c->head_dim = class->head_dim;
  c->vocab_size = class->vocab;
  c->max_position_embeddings = class->context;
  c->sliding_window = class->window;
  if (class->eps > 0) c->rms_norm_eps = class->eps;
  if (class->theta > 0) c->rope_theta = class->theta;
  c->attention_bias = class->attention_bias;
}

static void take_mixture(const struct mixture *x, struct hf_config *c) {
  c->n_experts = x->n_experts;
  c->n_chosen = x->n_chosen;
  c->expert_size = x->size;
  c->n_shared_experts = x->n_shared;
  c->first_dense = x->first_dense;
  c->norm_topk_prob = x->normalized;
  c->routed_scaling_factor = x->factor;
}

void hf_class_defaults(const struct architecture *a, struct hf_config *c) {
  const struct class *class = find(a);
  if (class) take(class, c);
  if (a && arch_blocks_of(a)->traits & BLOCK_QK_UNIT) {
    c->use_qk_norm = true;
    c->attention_chunk_size = c->floor_scale = 8192;
    c->attn_scale = 0.1;
    c->intermediate_size_mlp = 16384;
  }
  if (a && strcmp(a->name, "solar_open") == 0) c->intermediate_size = 1280; /* no layer has an MLP of such a size, and files may not say one */
  if (a && strcmp(a->name, "opt") == 0) c->place_offset = 2;
  if (a && strcmp(a->name, "gptj") == 0) c->mlp_bias = true, c->rotary_dim = 64;
  if (a && arch_blocks_of(a)->traits & BLOCK_PARALLEL_KEY) c->use_parallel_residual = true;
  if (a && arch_blocks_of(a)->traits & BLOCK_BIASED) c->use_bias = c->attention_bias = c->mlp_bias = true;
  if (a && arch_blocks_of(a)->traits & BLOCK_LOGIT_SCALE) c->logits_scaling = 0.0625;
  if (a && a->window == WINDOW_LATE) c->max_window_layers = 62; /* all of dots.llm1's */
  for (size_t i = 0; a && i < sizeof mixtures / sizeof *mixtures; i++)
    if (strcmp(mixtures[i].name, a->class_name) == 0) take_mixture(&mixtures[i], c);
}

int hf_nested_text(const struct architecture *a, struct hf_config *c, json_t *object, json_t **ret, struct tl_error *err) {
  const struct class *class = find(a);
  json_t *text = json_object_get(object, "text_config");
  *ret = object;
  if (!class || !class->text_type || !json_is_object(text)) return TL_OK; /* Qwen2.5-VL's have all in one */
  *ret = text;
  const char *type = json_string_value(json_object_get(text, "model_type"));
  bool newer = type && strcmp(class->text_type, "mistral") == 0 && strcmp(type, "ministral3") == 0;
  bool kimi = type && strcmp(class->text_type, "kimi_k2") == 0 && strcmp(type, "deepseek_v3") == 0; /* as transformers writes it */
  if (newer) take(find_name("Ministral3ForCausalLM"), c);
  if (!type || newer || kimi || strcmp(type, class->text_type) == 0) return TL_OK;
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "config.json: text_config: model_type: expected %s, got %.60s", class->text_type,
                      type);
}

const char *hf_nested_tensor(const char *name, char *buffer, size_t size) {
  static const char *const prefixes[][2] = {{"language_model.", ""}, {"model.language_model.", "model."}, {"", ""}};
  static const char *const known[] = {"model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.", "model.embed_tokens_per_layer.",
                                      "model.per_layer_model_projection.", "model.per_layer_projection_norm."};
  for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
    size_t n = strlen(prefixes[i][0]);
    if (strncmp(name, prefixes[i][0], n) != 0) continue;
    snprintf(buffer, size, "%s%s", prefixes[i][1], name + n);
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
      if (strncmp(buffer, known[k], strlen(known[k])) == 0) return buffer;
  }
  return NULL;
}

const char *hf_mixer_tensor(const char *name, char *buffer, size_t size) {
  static const char *const attention[] = {"q_proj.", "k_proj.", "v_proj.", "o_proj."};
  static const char *const state[] = {"A_log", "D", "dt_bias", "conv1d.", "in_proj.", "norm.", "out_proj."};
  const char *rest = strncmp(name, "backbone.", 9) == 0 ? name + 9 : strncmp(name, "model.", 6) == 0 ? name + 6 : NULL;
  if (!rest) return name;
  if (strcmp(rest, "embeddings.weight") == 0) return "model.embed_tokens.weight";
  if (strcmp(rest, "norm_f.weight") == 0) return "model.norm.weight";
  if (strncmp(rest, "layers.", 7) != 0) return name;
  const char *number = rest + 7; /* as it stands there: who reads it says whether it is one */
  int digits = (int)strspn(number, "0123456789");
  rest = number + digits + 1;
  if (digits == 0 || digits > 20 || rest[-1] != '.') return name;
  if (strcmp(rest, "norm.weight") == 0) return snprintf(buffer, size, "model.layers.%.*s.input_layernorm.weight", digits, number), buffer;
  if (strncmp(rest, "mixer.", 6) != 0) return name;
  rest += 6;
  const char *mixer = "mlp";
  for (size_t i = 0; i < sizeof attention / sizeof *attention; i++)
    if (strncmp(rest, attention[i], strlen(attention[i])) == 0) mixer = "self_attn";
  for (size_t i = 0; i < sizeof state / sizeof *state; i++)
    if (strncmp(rest, state[i], strlen(state[i])) == 0) mixer = "mamba";
  snprintf(buffer, size, "model.layers.%.*s.%s.%.200s", digits, number, mixer, rest);
  return buffer;
}
