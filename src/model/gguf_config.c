/* SPDX-License-Identifier: MIT */
/* GGUF's metadata to what config.json would say. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/gguf_private.h"

enum {
  PAIRED = 1 << 0,  /* rows of Q and K, see tl_tensor.head_rows */
  PARTIAL = 1 << 1, /* rope.dimension_count may be less than a head */
  WINDOWS = 1 << 2, /* attention.sliding_window */
  EXPERTS = 1 << 3, /* expert_count and what belongs to it */
  NORMALIZED = 1 << 4, /* shares of the chosen experts sum up to 1 */
  UNROUNDED = 1 << 5,  /* YaRN's borders are not whole dimensions */
  ENCODER = 1 << 6,    /* each row looks at all others */
  GLOBAL_FIRST = 1 << 7, /* sliding_window_pattern: the first of so many layers has no window, not the last */
  WHOLE_FACTOR = 1 << 8, /* rope.scaling.attn_factor has YaRN's own in it */
  SIGMOID = 1 << 9,    /* shares of experts are sigmoids */
  LATENT = 1 << 11,    /* multi-head latent attention: gguf_latent.c */
  HEADS = 1 << 12,     /* of two lengths: gguf_gemma4.c */
  GROWS = 1 << 10,     /* queries grow with positions, and YaRN has an mscale */
};

/* A new architecture is a new row: general.architecture, the class that transformers has for it, and
 * what llama.cpp takes for granted, which its files do not say. Mistral's and Mixtral's files say llama, Gemma 3's with pictures
 * gemma3, OLMo 3's olmo2, Qwen2-VL's qwen2vl, those of RoBERTa and XLM-RoBERTa bert: their first positions, which no text uses, are cut off. */
static const struct known {
  const char *name, *class_name;
  uint32_t traits;
  int64_t window;
  double attention_cap, final_cap;
  int64_t odd_layers; /* Gemma: the size that divides scores by embedding / heads in place of a head has so many */
} architectures[] = {
    {"llama", "LlamaForCausalLM", PAIRED | EXPERTS, 0, 0, 0, 0},
    {"qwen2", "Qwen2ForCausalLM", 0, 0, 0, 0, 0},
    {"qwen3", "Qwen3ForCausalLM", 0, 0, 0, 0, 0},
    {"smollm3", "SmolLM3ForCausalLM", PAIRED, 0, 0, 0, 0},
    {"phi3", "Phi3ForCausalLM", PARTIAL | WINDOWS, 0, 0, 0, 0},
    {"gemma2", "Gemma2ForCausalLM", WINDOWS, 4096, 50, 30, 46},
    {"gemma3", "Gemma3ForCausalLM", WINDOWS, 0, 0, 0, 62},
    {"gemma-embedding", "Gemma3TextModel", WINDOWS | ENCODER, 0, 0, 0, 0},
    {"gemma4", "Gemma4ForCausalLM", WINDOWS | EXPERTS | HEADS, 0, 0, 0, 0},
    {"olmo2", "Olmo2ForCausalLM", WINDOWS | WHOLE_FACTOR, 0, 0, 0, 0},
    {"granite", "GraniteForCausalLM", PAIRED, 0, 0, 0, 0},
    {"stablelm", "StableLmForCausalLM", PARTIAL, 0, 0, 0, 0},
    {"glm4", "Glm4ForCausalLM", PARTIAL, 0, 0, 0, 0},
    {"qwen2moe", "Qwen2MoeForCausalLM", EXPERTS, 0, 0, 0, 0},
    {"qwen3moe", "Qwen3MoeForCausalLM", EXPERTS | NORMALIZED, 0, 0, 0, 0},
    {"gpt-oss", "GptOssForCausalLM", EXPERTS | WINDOWS | UNROUNDED, 0, 0, 0, 0},
    {"gemma", "GemmaForCausalLM", 0, 0, 0, 0, 0},
    {"olmoe", "OlmoeForCausalLM", PAIRED | EXPERTS, 0, 0, 0, 0},
    {"hunyuan-dense", "HunYuanDenseV1ForCausalLM", 0, 0, 0, 0, 0},
    {"hunyuan-moe", "HunYuanMoEV1ForCausalLM", EXPERTS, 0, 0, 0, 0},
    {"seed_oss", "SeedOssForCausalLM", 0, 0, 0, 0, 0},
    {"ernie4_5", "Ernie4_5ForCausalLM", 0, 0, 0, 0, 0},
    {"exaone4", "Exaone4ForCausalLM", WINDOWS, 0, 0, 0, 0},
    {"gpt2", "GPT2LMHeadModel", 0, 0, 0, 0, 0},
    {"gptneox", "GPTNeoXForCausalLM", PARTIAL, 0, 0, 0, 0},
    {"mistral4", "Mistral4ForCausalLM", EXPERTS | LATENT, 0, 0, 0, 0},
    {"exaone-moe", "ExaoneMoeForCausalLM", WINDOWS | EXPERTS | SIGMOID, 0, 0, 0, 0},
    {"glm4moe", "Glm4MoeForCausalLM", PARTIAL | EXPERTS | SIGMOID, 0, 0, 0, 0},
    {"minimax-m2", "MiniMaxM2ForCausalLM", PARTIAL | EXPERTS | SIGMOID, 0, 0, 0, 0},
    {"command-r", "CohereForCausalLM", 0, 0, 0, 0, 0},
    {"cohere2", "Cohere2ForCausalLM", WINDOWS, 0, 0, 0, 0},
    {"arcee", "ArceeForCausalLM", PAIRED, 0, 0, 0, 0},
    {"nemotron", "NemotronForCausalLM", PARTIAL, 0, 0, 0, 0},
    {"starcoder2", "Starcoder2ForCausalLM", 0, 0, 0, 0, 0},
    {"phi2", "PhiForCausalLM", PARTIAL, 0, 0, 0, 0},
    {"llama4", "Llama4ForCausalLM", EXPERTS | SIGMOID, 0, 0, 0, 0},
    {"mistral3", "Ministral3ForCausalLM", PAIRED | GROWS, 0, 0, 0, 0},
    {"ernie4_5-moe", "Ernie4_5_MoeForCausalLM", EXPERTS, 0, 0, 0, 0},
    {"dots1", "Dots1ForCausalLM", EXPERTS | SIGMOID, 0, 0, 0, 0},
    {"granitemoe", "GraniteMoeSharedForCausalLM", PAIRED | EXPERTS, 0, 0, 0, 0},
    {"deepseek2", "DeepseekV2ForCausalLM", EXPERTS | LATENT, 0, 0, 0, 0}, /* or V3's, GLM-4.7-Flash's: by how experts are chosen */
    {"qwen2vl", "Qwen2_5_VLForConditionalGeneration", 0, 0, 0, 0, 0},
    {"qwen3vl", "Qwen3VLForConditionalGeneration", 0, 0, 0, 0, 0},
    {"qwen3vlmoe", "Qwen3VLMoeForConditionalGeneration", EXPERTS | NORMALIZED, 0, 0, 0, 0},
    {"qwen3next", "Qwen3NextForCausalLM", PARTIAL | EXPERTS | NORMALIZED, 0, 0, 0, 0},
    {"qwen35", "Qwen3_5ForCausalLM", PARTIAL, 0, 0, 0, 0},
    {"qwen35moe", "Qwen3_5MoeForCausalLM", PARTIAL | EXPERTS | NORMALIZED, 0, 0, 0, 0},
    {"lfm2", "Lfm2ForCausalLM", 0, 0, 0, 0, 0},
    {"lfm2moe", "Lfm2MoeForCausalLM", EXPERTS | SIGMOID | NORMALIZED, 0, 0, 0, 0},
    {"granitehybrid", "GraniteMoeHybridForCausalLM", PAIRED | EXPERTS, 0, 0, 0, 0},
    {"nemotron_h", "NemotronHForCausalLM", PARTIAL, 0, 0, 0, 0}, /* turned is nothing there */
    {"nemotron_h_moe", "NemotronHForCausalLM", PARTIAL | EXPERTS | SIGMOID | NORMALIZED, 0, 0, 0, 0},
    {"bert", "BertModel", ENCODER, 0, 0, 0, 0},
    {"nomic-bert", "NomicBertModel", ENCODER, 0, 0, 0, 0},
    {"modern-bert", "ModernBertModel", ENCODER | WINDOWS | GLOBAL_FIRST, 0, 0, 0, 0},
};
#define MIXTRAL "MixtralForCausalLM"
#define OLMO3 "Olmo3ForCausalLM"
#define N_ARCHITECTURES (sizeof architectures / sizeof *architectures)

bool gguf_knows_class(const char *class_name) {
  static const char *const others[] = {"MistralForCausalLM", MIXTRAL, OLMO3, "GraniteMoeForCausalLM", "Llama4ForConditionalGeneration", "RobertaModel", "XLMRobertaModel",
                                       "Gemma3ForConditionalGeneration", "Gemma4ForConditionalGeneration", "Gemma4UnifiedForCausalLM", "Gemma4UnifiedForConditionalGeneration", "Mistral3ForConditionalGeneration",
                                       "Qwen2VLForConditionalGeneration", "Qwen3_5ForConditionalGeneration",
                                       "Qwen3_5MoeForConditionalGeneration", "DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (strcmp(others[i], class_name) == 0) return true;
  for (size_t i = 0; i < N_ARCHITECTURES; i++)
    if (strcmp(architectures[i].class_name, class_name) == 0) return true;
  return false;
}

enum { WHOLE, NUMBER };

struct row {
  const char *key; /* behind "llama.", or whatever the architecture */
  int kind;
  size_t offset;
  double min, max;
  bool required;
};

#define AT(member) offsetof(struct hf_config, member)
static const struct row rows[] = {
    {"embedding_length", WHOLE, AT(hidden_size), 1, MODEL_MAX_DIM, true},
    {"feed_forward_length", WHOLE, AT(intermediate_size), 1, MODEL_MAX_DIM, true},
    {"block_count", WHOLE, AT(num_hidden_layers), 1, 1000, true},
    {"attention.head_count", WHOLE, AT(num_attention_heads), 1, 4096, true},
    {"attention.head_count_kv", WHOLE, AT(num_key_value_heads), 1, 4096, false},
    {"attention.key_length", WHOLE, AT(head_dim), 2, 4096, false},
    {"context_length", WHOLE, AT(max_position_embeddings), 1, 1 << 24, true},
    {"vocab_size", WHOLE, AT(vocab_size), 1, 10000000, false},
    {"attention.q_lora_rank", WHOLE, AT(q_lora_rank), 1, MODEL_MAX_DIM, false},
    {"attention.kv_lora_rank", WHOLE, AT(kv_lora_rank), 1, MODEL_MAX_HEAD_DIM, false},
    {"expert_group_count", WHOLE, AT(n_group), 1, MODEL_MAX_EXPERTS, false},
    {"expert_group_used_count", WHOLE, AT(topk_group), 1, MODEL_MAX_EXPERTS, false},
    {"attention.layer_norm_rms_epsilon", NUMBER, AT(rms_norm_eps), 0, 1, false},
    {"attention.layer_norm_epsilon", NUMBER, AT(rms_norm_eps), 0, 1, false},
    {"attention.sliding_window", WHOLE, AT(sliding_window), 0, 1 << 24, false},
    {"attention.scale", NUMBER, AT(attention_multiplier), 1e-6, 1e6, false},
    {"embedding_scale", NUMBER, AT(embedding_multiplier), 1e-6, 1e6, false},
    {"residual_scale", NUMBER, AT(residual_multiplier), 1e-6, 1e6, false},
    {"logit_scale", NUMBER, AT(logits_scaling), 1e-6, 1e6, false},
    {"attn_logit_softcapping", NUMBER, AT(attn_logit_softcapping), 0, 1e6, false},
    {"final_logit_softcapping", NUMBER, AT(final_logit_softcapping), 0, 1e6, false},
    {"rope.freq_base", NUMBER, AT(rope_theta), 1, 1e12, false},
    {"rope.freq_base_swa", NUMBER, AT(rope_local_base_freq), 1, 1e12, false},
    {"rope.scaling.factor", NUMBER, AT(rope_factor), 1, 1e6, false},
    {"rope.scaling.original_context_length", WHOLE, AT(original_max_position_embeddings), 1, 1 << 24, false},
    {"rope.scaling.yarn_attn_factor", NUMBER, AT(attention_factor), 1e-3, 1e3, false},
    {"rope.scaling.yarn_beta_fast", NUMBER, AT(beta_fast), 1e-3, 1e6, false},
    {"rope.scaling.yarn_beta_slow", NUMBER, AT(beta_slow), 1e-3, 1e6, false},
    {"expert_count", WHOLE, AT(n_experts), 0, MODEL_MAX_EXPERTS, false},
    {"expert_used_count", WHOLE, AT(n_chosen), 0, MODEL_MAX_CHOSEN, false},
    {"moe_latent_size", WHOLE, AT(expert_latent), 1, MODEL_MAX_DIM, false},
    {"expert_feed_forward_length", WHOLE, AT(expert_size), 1, MODEL_MAX_DIM, false},
    {"expert_shared_count", WHOLE, AT(n_shared_experts), 0, MODEL_MAX_EXPERTS, false},
    {"leading_dense_block_count", WHOLE, AT(first_dense), 0, MODEL_MAX_LAYERS, false},
    {"expert_weights_scale", NUMBER, AT(routed_scaling_factor), 1e-3, 1e3, false},
    {"expert_shared_feed_forward_length", WHOLE, AT(shared_expert_size), 1, MODEL_MAX_DIM, false},
};

static void key_name(const char *architecture, const char *key, char *ret, size_t size) {
  snprintf(ret, size, "%s.%s", architecture, key);
}

static bool has(const struct tl_gguf *g, const char *key) {
  const char *text;
  size_t length;
  double number;
  struct tl_gguf_list list;
  return tl_gguf_text(g, key, &text, &length) || tl_gguf_number(g, key, &number) || tl_gguf_list(g, key, &list);
}

static int read_row(const struct tl_gguf *g, const char *architecture, const struct row *row, struct hf_config *c,
                    struct tl_error *err) {
  char key[128];
  key_name(architecture, row->key, key, sizeof key);
  char *place = (char *)c + row->offset;
  int64_t whole = 0;
  double number = 0;
  if (!has(g, key)) {
    if (!row->required || *(int64_t *)(void *)place) return TL_OK;
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s: is required", g->file.name, key);
  }
  bool right = row->kind == WHOLE ? tl_gguf_integer(g, key, &whole) : tl_gguf_number(g, key, &number);
  if (row->kind == WHOLE) number = (double)whole;
  if (!right || !(number >= row->min && number <= row->max))
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s: expected %s from %g to %g", g->file.name, key,
                        row->kind == WHOLE ? "an integer" : "a number", row->min, row->max);
  if (row->kind == WHOLE)
    *(int64_t *)(void *)place = whole;
  else
    *(double *)(void *)place = number;
  return TL_OK;
}

/* A list of what layers have, where some of them keep a state in place of it, or have others: gguf_recurrent.c, gguf_gemma4.c. */
static bool is_of_layers(const struct tl_gguf *g, const char *architecture, const char *row, const struct hf_config *c) {
  char key[128];
  struct tl_gguf_list list;
  key_name(architecture, row, key, sizeof key);
  bool may = strcmp(row, "attention.head_count_kv") == 0 || ((c->one_mixer || c->global_head_dim) && strcmp(row, "feed_forward_length") == 0);
  return (c->state_type || c->global_head_dim) && may && tl_gguf_list(g, key, &list);
}

/* Without vocab_size: as many as there are tokens. */
static void count_tokens(const struct tl_gguf *g, struct hf_config *c) {
  struct tl_gguf_list tokens;
  if (!c->vocab_size && tl_gguf_list(g, "tokenizer.ggml.tokens", &tokens) && tokens.n_left <= 10000000)
    c->vocab_size = (int64_t)tokens.n_left;
}

static void read_eos(const struct tl_gguf *g, struct hf_config *c) {
  static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                     "tokenizer.ggml.eom_token_id"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    int64_t id;
    if (!tl_gguf_integer(g, keys[i], &id) || id < 0 || id >= c->vocab_size) continue;
    bool known = false;
    for (uint32_t k = 0; k < c->n_eos; k++) known = known || c->eos[k] == id;
    if (!known) c->eos[c->n_eos++] = (int32_t)id;
  }
}

static int unsupported(const struct tl_gguf *g, const char *key, struct tl_error *err, const char *what) {
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.120s: %s: %s", g->file.name, key, what);
}

/* Which layers have windows: each n-th has none, or a list says it layer by layer. */
static int read_pattern(const struct tl_gguf *g, const struct known *a, struct hf_config *c, struct tl_error *err) {
  char key[128];
  bool first = a->traits & GLOBAL_FIRST;
  int64_t every = first ? c->global_attn_every_n_layers : 0;
  double slides;
  struct tl_gguf_list list;
  key_name(a->name, "attention.sliding_window_pattern", key, sizeof key);
  bool is_list = tl_gguf_list(g, key, &list);
  if (!is_list && !tl_gguf_integer(g, key, &every) && !first) return TL_OK;
  if (is_list ? list.n_left != (uint64_t)c->num_hidden_layers : every < 1 || every > MODEL_MAX_LAYERS)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s: expected 1 to %d, or as many items as there are layers",
                        g->file.name, key, MODEL_MAX_LAYERS);
  c->has_layer_types = true;
  for (int64_t i = 0; i < c->num_hidden_layers; i++) {
    c->slides[i] = !is_list && (first ? i % every > 0 : i % every < every - 1);
    if (is_list && !tl_gguf_next_number(&list, &slides)) return unsupported(g, key, err, "its items are not numbers");
    if (is_list) c->slides[i] = slides != 0;
  }
  return TL_OK;
}

/* An encoder's window, both sides of which are in its length; without a length no layer has one. */
static void take_local(struct hf_config *c) {
  c->local_attention = c->sliding_window;
  if (!c->sliding_window) memset(c->slides, 0, sizeof c->slides);
}

static int read_rope_type(const struct tl_gguf *g, const char *architecture, struct hf_config *c, struct tl_error *err) {
  static const char *const types[] = {"none", "linear", "yarn", "longrope"};
  char key[128];
  const char *text = c->rope_factor > 1 ? "linear" : "none"; /* as llama.cpp, when the key is not there */
  size_t length = strlen(text), i = 0;
  key_name(architecture, "rope.scaling.type", key, sizeof key);
  tl_gguf_text(g, key, &text, &length);
  while (i < 4 && (strlen(types[i]) != length || memcmp(types[i], text, length) != 0)) i++;
  if (i == 4) return unsupported(g, key, err, "is not known; known are none, linear, yarn, longrope");
  strcpy(c->rope_type, i ? types[i] : "");
  return TL_OK;
}

/* Of cosine and sine; YaRN has one of its own besides. */
static int read_rope_factor(const struct tl_gguf *g, const struct known *a, struct hf_config *c, struct tl_error *err) {
  char key[128];
  double factor;
  key_name(a->name, "rope.scaling.attn_factor", key, sizeof key);
  if (!tl_gguf_number(g, key, &factor)) return TL_OK;
  if (!(factor >= 1e-3 && factor <= 1e3)) return unsupported(g, key, err, "expected 0.001 to 1000");
  if (strcmp(c->rope_type, "yarn") == 0 && !(a->traits & WHOLE_FACTOR))
    factor *= c->attention_factor > 0 ? c->attention_factor : 0.1 * log(c->rope_factor) + 1;
  c->attention_factor = factor;
  return TL_OK;
}

/* Ministral 3's, and of latents Mistral Large 3's. Files of Mistral Small may say Ministral's architecture, and have neither. */
static int read_growth(const struct tl_gguf *g, const struct known *a, struct hf_config *c, struct tl_error *err) {
  char key[128];
  int64_t length;
  if (!(a->traits & (GROWS | LATENT))) return TL_OK;
  key_name(a->name, "attention.temperature_scale", key, sizeof key);
  if (has(g, key) && (!tl_gguf_number(g, key, &c->llama_4_scaling_beta) || !(c->llama_4_scaling_beta >= 0)))
    return unsupported(g, key, err, "expected a number from 0");
  key_name(a->name, "attention.temperature_length", key, sizeof key);
  bool said = tl_gguf_integer(g, key, &length) && length > 0, other = said && (!c->q_lora_rank || length != c->original_max_position_embeddings);
  if (a->traits & LATENT && c->llama_4_scaling_beta > 0 && other && length < c->max_position_embeddings)
    c->max_position_embeddings = length; /* beyond which queries of latents would grow */
  key_name(a->name, "rope.scaling.yarn_log_multiplier", key, sizeof key);
  if (!(a->traits & GROWS) || !has(g, key)) return TL_OK;
  c->mscale = 1;
  if (tl_gguf_number(g, key, &c->mscale_all_dim) && c->mscale_all_dim >= 0 && c->mscale_all_dim <= 1e3) return TL_OK;
  return unsupported(g, key, err, "expected 0 to 1000");
}

/* What this reader knows that it does not do. */
static int check_rest(const struct tl_gguf *g, const struct known *a, struct hf_config *c, struct tl_error *err) {
  char key[128];
  const char *text;
  size_t length;
  int64_t whole;
  int64_t head_dim = c->head_dim ? c->head_dim : c->hidden_size / c->num_attention_heads;
  c->partial_rotary_factor = 1;
  if (a->traits & (LATENT | HEADS)) return TL_OK; /* whose keys say other things */
  key_name(a->name, "rope.dimension_count", key, sizeof key);
  if (tl_gguf_integer(g, key, &whole)) {
    if (whole != head_dim && (!(a->traits & PARTIAL) || whole < 2 || whole > head_dim))
      return unsupported(g, key, err, "rotating a part of a head is not supported");
    if (whole != head_dim) c->partial_rotary_factor = ((double)whole + 0.5) / (double)head_dim; /* is rounded down */
  }
  key_name(a->name, "attention.value_length", key, sizeof key);
  if (tl_gguf_integer(g, key, &whole) && whole != head_dim)
    return unsupported(g, key, err, "values of another length than keys are not supported");
  key_name(a->name, "expert_count", key, sizeof key);
  if (c->n_experts && !(a->traits & EXPERTS)) return unsupported(g, key, err, "experts are not supported for this architecture");
  key_name(a->name, "attention.sliding_window", key, sizeof key);
  if (c->sliding_window && !(a->traits & WINDOWS))
    return unsupported(g, key, err, "windows are not supported for this architecture");
  key_name(a->name, "use_parallel_residual", key, sizeof key);
  bool neox = strcmp(a->name, "gptneox") == 0;
  whole = neox; /* as transformers has it */
  if (tl_gguf_integer(g, key, &whole) && whole && !neox) return unsupported(g, key, err, "is not supported");
  c->use_parallel_residual = whole;
  bool encoder = a->traits & ENCODER;
  key_name(a->name, "attention.causal", key, sizeof key);
  if (tl_gguf_integer(g, key, &whole) && !whole != encoder)
    return unsupported(g, key, err, encoder ? "true is not supported for this architecture" : "false is not supported for this architecture");
  key_name(a->name, "hidden_activation", key, sizeof key);
  if (encoder && tl_gguf_text(g, key, &text, &length) && (length != 4 || memcmp(text, "gelu", 4) != 0))
    return unsupported(g, key, err, "expected gelu");
  return TL_OK;
}

/* What files do not say. */
static void take_defaults(const struct tl_gguf *g, const struct known *a, struct hf_config *c) {
  char key[128];
  int64_t head_dim = c->head_dim ? c->head_dim : c->hidden_size / c->num_attention_heads;
  bool odd = a->odd_layers && c->num_hidden_layers == a->odd_layers;
  if (c->n_experts && strcmp(a->name, "llama") == 0) strcpy(c->architecture, MIXTRAL);
  if (c->sliding_window && strcmp(a->name, "olmo2") == 0) {
    strcpy(c->architecture, OLMO3);
    c->rope_local_base_freq = c->rope_theta;
  }
  if (strcmp(a->name, "llama4") == 0) {
    c->n_shared_experts = 1;
    c->floor_scale = c->attention_chunk_size = 8192; /* as llama.cpp, which reads no keys for them either */
    c->attn_scale = 0.1;
    c->use_qk_norm = c->n_experts != 128; /* Maverick, as llama.cpp tells it */
  }
  c->use_bidirectional_attention = a->traits & ENCODER; /* of encoders nothing else is known */
  c->norm_topk_prob = a->traits & NORMALIZED;
  c->rope_untruncated = a->traits & UNROUNDED;
  int64_t divisor = odd ? c->hidden_size / c->num_attention_heads : head_dim;
  c->query_pre_attn_scalar = (double)divisor;
  key_name(a->name, "attention.scale", key, sizeof key);
  if (!has(g, key)) c->attention_multiplier = 1 / sqrt((double)head_dim);
}

/* How a router makes shares, where that is said; layers that guess further tokens, which are not served. */
static int read_router(const struct tl_gguf *g, const struct known *a, struct hf_config *c, struct tl_error *err) {
  char key[128];
  int64_t whole;
  bool sigmoid = a->traits & SIGMOID || strcmp(c->architecture, "DeepseekV3ForCausalLM") == 0;
  key_name(a->name, "expert_gating_func", key, sizeof key);
  if (tl_gguf_integer(g, key, &whole) && (whole == 2) != sigmoid)
    return unsupported(g, key, err, sigmoid ? "expected 2 (sigmoid)" : "2 (sigmoid) is not supported for this architecture");
  key_name(a->name, "expert_weights_norm", key, sizeof key);
  if ((sigmoid || a->traits & LATENT) && tl_gguf_integer(g, key, &whole)) c->norm_topk_prob = whole;
  key_name(a->name, "nextn_predict_layers", key, sizeof key);
  if (!tl_gguf_integer(g, key, &whole) || whole == 0) return TL_OK;
  if (whole < 0 || whole >= c->num_hidden_layers) return unsupported(g, key, err, "expected less than block_count");
  c->num_hidden_layers -= whole;
  return TL_OK;
}

static const struct known *find_architecture(const struct tl_gguf *g, struct tl_error *err) {
  const char *text = "";
  size_t length = 0;
  tl_gguf_text(g, "general.architecture", &text, &length);
  for (size_t i = 0; i < N_ARCHITECTURES; i++) {
    const char *name = architectures[i].name;
    if (strlen(name) == length && memcmp(name, text, length) == 0) return &architectures[i];
  }
  tl_error_set(err, TL_EUNSUPPORTED, "model.path",
               "%.120s: general.architecture: '%.*s' is not known; `tokenlane models --supported` lists those that are", g->file.name,
               (int)(length < 60 ? length : 60), text);
  return NULL;
}

/* Required keys of which one or the other is enough. */
static int check_required(const struct tl_gguf *g, const char *architecture, const struct hf_config *c, struct tl_error *err) {
  char rms[128], layer[128];
  key_name(architecture, "attention.layer_norm_rms_epsilon", rms, sizeof rms);
  key_name(architecture, "attention.layer_norm_epsilon", layer, sizeof layer);
  if (!has(g, rms) && !has(g, layer))
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s: is required", g->file.name, rms);
  if (c->vocab_size) return TL_OK;
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s.vocab_size: is required, or a list of tokens",
                      g->file.name, architecture);
}

int gguf_read_config(const struct tl_gguf *g, struct hf_config *c, bool *ret_paired_rows, struct tl_error *err) {
  hf_config_defaults(c);
  c->defaults = (struct tl_generation_defaults){-1, -1, -1, -1, -1};
  const struct known *a = find_architecture(g, err);
  if (!a) return TL_EUNSUPPORTED;
  snprintf(c->architecture, sizeof c->architecture, "%s", a->class_name);
  arch_encoder_defaults(arch_find(a->class_name, "", err), c);
  arch_recurrent_defaults(arch_find(a->class_name, "", err), c);
  arch_gemma4_defaults(arch_find(a->class_name, "", err), c);
  *ret_paired_rows = a->traits & PAIRED;
  c->sliding_window = a->window;
  c->attn_logit_softcapping = a->attention_cap;
  c->final_logit_softcapping = a->final_cap;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    int r = is_of_layers(g, a->name, rows[i].key, c) ? TL_OK : read_row(g, a->name, &rows[i], c, err);
    if (r < 0) return r;
  }
  count_tokens(g, c);
  int r = check_required(g, a->name, c, err);
  if (r < 0) return r;
  take_defaults(g, a, c);
  read_eos(g, c);
  if (a->traits & LATENT) r = gguf_read_latent(g, a->name, c, err);
  if (r == TL_OK) r = read_router(g, a, c, err);
  if (r == TL_OK) r = gguf_read_recurrent(g, a->name, c, err);
  if (r == TL_OK) r = read_pattern(g, a, c, err);
  if (a->traits & GLOBAL_FIRST) take_local(c);
  if (r == TL_OK) r = read_rope_type(g, a->name, c, err);
  if (r == TL_OK) r = read_rope_factor(g, a, c, err);
  if (r == TL_OK) r = read_growth(g, a, c, err);
  if (r == TL_OK) r = check_rest(g, a, c, err);
  if (r == TL_OK) r = gguf_read_gemma4(g, a->name, c, err);
  return r == TL_OK ? hf_config_check(c, g->file.name, err) : r;
}

/* EmbeddingGemma's two layers behind the pooling; files may lack them. */
static int read_dense(const struct tl_gguf *g, const struct known *a, struct hf_pooling *p, struct tl_error *err) {
  char key[128], name[64];
  int64_t size;
  for (unsigned i = 0; i < 2 && strcmp(a->name, "gemma-embedding") == 0; i++) {
    snprintf(name, sizeof name, "dense_%u_feat_out", i + 2);
    key_name(a->name, name, key, sizeof key);
    if (!tl_gguf_integer(g, key, &size)) return TL_OK;
    if (size < 1 || size > MODEL_MAX_DIM) return unsupported(g, key, err, "expected 1 to 1000000");
    struct hf_dense *d = &p->dense[p->n_dense++];
    d->n_out = size;
    snprintf(d->folder, sizeof d->folder, "dense_%u", i + 2);
  }
  return TL_OK;
}

/* Which row of a text is its vector, or whose mean; llama.cpp's numbers. A file that says so is an embedder's; that its vectors
 * have length 1 goes without saying, as llama.cpp's server has it. */
int gguf_read_pooling(const struct tl_gguf *g, struct hf_pooling *ret, struct tl_error *err) {
  static const enum tl_pooling kinds[] = {TL_POOL_NONE, TL_POOL_MEAN, TL_POOL_FIRST, TL_POOL_LAST};
  const struct known *a = find_architecture(g, err);
  char key[128];
  int64_t type = 0;
  if (!a) return TL_EUNSUPPORTED;
  *ret = (struct hf_pooling){.normalize = true};
  key_name(a->name, "pooling_type", key, sizeof key);
  bool said = tl_gguf_integer(g, key, &type), fits = type >= 0 && type < 4 && (type > 0 || !said || !(a->traits & ENCODER));
  if (fits) ret->kind = kinds[type];
  if (fits) return read_dense(g, a, ret, err);
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.120s: %s: expected 1 (mean), 2 (first token) or 3 (last token), got %lld%s",
                      g->file.name, key, (long long)type, type == 4 ? " (scores of pairs)" : "");
}

/* Longrope's factors. As with folders, the list for contexts beyond the original is taken if the model has such. */
static int read_factors(const struct model *m, struct hf_config *c, struct tl_error *err) {
  bool beyond = c->max_position_embeddings > c->original_max_position_embeddings;
  const char *name = beyond ? "rope_factors_long.weight" : "rope_factors_short.weight";
  int32_t i = model_find_tensor(m, name);
  if (i < 0) return TL_OK;
  const struct tl_tensor *t = &m->tensors[i];
  if (t->n_dims != 1 || t->dtype != TL_DTYPE_F32 || t->shape[0] > MODEL_MAX_HEAD_DIM / 2)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.100s: tensor '%s': expected a list of floats",
                        model_file_of(m, t), name);
  for (uint64_t k = 0; k < t->shape[0]; k++) {
    tl_tensor_row_to_f32(t, k, &c->long_factors[k]);
    if (!(c->long_factors[k] >= 1e-3f && c->long_factors[k] <= 1e6f))
      return tl_error_set(err, TL_ECORRUPT, "model.path", "%.100s: tensor '%s': expected numbers from 0.001 to 1e6",
                          model_file_of(m, t), name);
  }
  c->n_long_factors = (uint32_t)t->shape[0];
  strcpy(c->rope_type, "longrope");
  return TL_OK;
}

/* One token type may have lost its dimension: ggml drops those of 1. */
static void count_types(struct model *m, struct hf_config *c) {
  int32_t i = model_find_tensor(m, "token_types.weight");
  struct tl_tensor *t = i < 0 ? NULL : &m->tensors[i];
  if (t && t->n_dims == 1) {
    t->shape[1] = t->shape[0];
    t->shape[0] = 1;
    t->n_dims = 2;
  }
  c->type_vocab_size = !t ? 0 : t->shape[0] <= 65536 ? (int64_t)t->shape[0] : 65536;
}

/* What only the tensors show. */
int gguf_complete_config(struct model *m, const struct hf_pooling *p, struct hf_config *c, struct tl_error *err) {
  if (m->model.pooling != TL_POOL_NONE && p->n_dense == 0 && model_find_tensor(m, "dense_2.weight") >= 0)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "tensor 'dense_2.weight': layers behind the pooling are not supported");
  count_types(m, c);
  c->tie_word_embeddings = model_find_tensor(m, "output.weight") < 0;
  c->attention_bias = model_find_tensor(m, "blk.0.attn_q.bias") >= 0 || model_find_tensor(m, "blk.0.attn_qkv.bias") >= 0;
  c->mlp_bias = model_find_tensor(m, "blk.0.ffn_up.bias") >= 0;
  c->qk_layernorm = model_find_tensor(m, "blk.0.attn_q_norm.weight") >= 0;
  c->use_qk_norm = c->use_qk_norm || c->qk_layernorm;
  gguf_complete_recurrent(m, c);
  gguf_complete_gemma4(m, c);
  for (int64_t i = 0; c->n_experts && i < c->num_hidden_layers; i++) {
    char router[64];
    snprintf(router, sizeof router, "blk.%lld.ffn_gate_inp.weight", (long long)i);
    c->dense[i] = model_find_tensor(m, router) < 0;
  }
  int r = read_factors(m, c, err);
  bool scales = strcmp(c->rope_type, "yarn") == 0 || strcmp(c->rope_type, "longrope") == 0;
  if (r < 0 || scales || c->attention_factor == 0 || c->attention_factor == 1) return r;
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "rope.scaling.attn_factor: is known with yarn and longrope only");
}
