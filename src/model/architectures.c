/* SPDX-License-Identifier: MIT */
/* The decoders that are known. A new one is a new row, as long as it differs in what is
 * a trait already; what the rows mean is in model_private.h, what they become in arch_decoder.c. */
#include <string.h>

#include "model/model_private.h"

#define PRE_NORMS "input_layernorm", NULL, "post_attention_layernorm", NULL
#define GLM4_NORMS "input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"
#define GLM4 (ARCH_FUSED_UP | ARCH_INTERLEAVED | ARCH_PARTIAL | ARCH_NO_OUT_BIAS)
#define GEMMA_NORMS \
  "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
#define GEMMA (ARCH_PLUS_ONE | ARCH_EMBED_SCALE | ARCH_TIED | ARCH_SOFTCAPS | ARCH_QUERY_SCALAR | ARCH_GELU)
#define GEMMA4 (ARCH_EMBED_SCALE | ARCH_TIED | ARCH_SOFTCAPS | ARCH_GELU | ARCH_LOCAL_ROPE | ARCH_GEMMA4)
#define QWEN_DELTA (ARCH_DELTA | ARCH_PLUS_ONE | ARCH_QK_NORM | ARCH_PARTIAL)

static const struct architecture architectures[] = {
    {"LlamaForCausalLM", "llama", PRE_NORMS, 0, WINDOW_NONE, 1},
    {"Llama4ForCausalLM", "llama4_text", PRE_NORMS, ARCH_INTERLEAVED | ARCH_NOPE, WINDOW_NONE, 1},
    {"MistralForCausalLM", "mistral", PRE_NORMS, 0, WINDOW_ALL, 1},
    {"Qwen2ForCausalLM", "qwen2", PRE_NORMS, ARCH_QKV_BIAS | ARCH_NO_OUT_BIAS, WINDOW_OPTIONAL, 1},
    {"Qwen3ForCausalLM", "qwen3", PRE_NORMS, ARCH_QK_NORM, WINDOW_OPTIONAL, 1},
    {"SmolLM3ForCausalLM", "smollm3", PRE_NORMS, ARCH_NOPE | ARCH_TIED, WINDOW_OPTIONAL, 1},
    {"Phi3ForCausalLM", "phi3", PRE_NORMS, ARCH_FUSED_QKV | ARCH_FUSED_UP | ARCH_PARTIAL, WINDOW_ALL, 1},
    {"GemmaForCausalLM", "gemma", PRE_NORMS, ARCH_PLUS_ONE | ARCH_EMBED_SCALE | ARCH_TIED | ARCH_GELU, WINDOW_NONE, 1},
    {"Gemma2ForCausalLM", "gemma2", GEMMA_NORMS, GEMMA, WINDOW_ALTERNATE, 1},
    {"Gemma3ForCausalLM", "gemma3_text", GEMMA_NORMS, GEMMA | ARCH_QK_NORM | ARCH_LOCAL_ROPE, WINDOW_PATTERN, 1},
    {"Gemma3TextModel", "gemma3_text", GEMMA_NORMS, GEMMA | ARCH_QK_NORM | ARCH_LOCAL_ROPE, WINDOW_PATTERN, 1}, /* EmbeddingGemma */
    {"Gemma4ForCausalLM", "gemma4_text", GEMMA_NORMS, GEMMA4, WINDOW_PATTERN, 1},
    {"Gemma4UnifiedForCausalLM", "gemma4_unified_text", GEMMA_NORMS, GEMMA4, WINDOW_PATTERN, 1},
    {"Olmo2ForCausalLM", "olmo2", NULL, "post_attention_layernorm", NULL, "post_feedforward_layernorm",
     ARCH_QK_NORM_ROW, WINDOW_NONE, 1},
    {"Olmo3ForCausalLM", "olmo3", NULL, "post_attention_layernorm", NULL, "post_feedforward_layernorm",
     ARCH_QK_NORM_ROW | ARCH_LOCAL_PLAIN, WINDOW_NOT_FOURTH, 1},
    {"Ministral3ForCausalLM", "ministral3", PRE_NORMS, 0, WINDOW_ALL, 1},
    {"CohereForCausalLM", "cohere", "input_layernorm", NULL, NULL, NULL, ARCH_LAYER_NORM | ARCH_INTERLEAVED | ARCH_TIED, WINDOW_NONE, 1},
    {"Cohere2ForCausalLM", "cohere2", "input_layernorm", NULL, NULL, NULL,
     ARCH_LAYER_NORM | ARCH_INTERLEAVED | ARCH_TIED | ARCH_NOPE_WIDE, WINDOW_PATTERN_4, 1},
    {"ApertusForCausalLM", "apertus", "attention_layernorm", NULL, "feedforward_layernorm", NULL, ARCH_QK_NORM, WINDOW_NONE, 1},
    {"ArceeForCausalLM", "arcee", PRE_NORMS, 0, WINDOW_NONE, 1},
    {"NemotronForCausalLM", "nemotron", PRE_NORMS, ARCH_LAYER_NORM | ARCH_PLUS_ONE | ARCH_PARTIAL, WINDOW_NONE, 0.5},
    {"NemotronHForCausalLM", "nemotron_h", "input_layernorm", NULL, NULL, NULL, ARCH_SCAN, WINDOW_NONE, 1},
    {"Starcoder2ForCausalLM", "starcoder2", PRE_NORMS, ARCH_LAYER_NORM | ARCH_TIED | ARCH_USE_BIAS, WINDOW_ALL, 1},
    {"PhiForCausalLM", "phi", "input_layernorm", NULL, NULL, NULL, ARCH_LAYER_NORM | ARCH_PARTIAL | ARCH_USE_BIAS, WINDOW_NONE, 0.5},
    {"GPT2LMHeadModel", "gpt2", PRE_NORMS, ARCH_LAYER_NORM | ARCH_FUSED_QKV | ARCH_TIED | ARCH_USE_BIAS, WINDOW_NONE, 1},
    {"GPTBigCodeForCausalLM", "gpt_bigcode", PRE_NORMS, ARCH_LAYER_NORM | ARCH_FUSED_QKV | ARCH_TIED | ARCH_USE_BIAS, WINDOW_NONE, 1},
    {"GPTJForCausalLM", "gptj", "input_layernorm", NULL, NULL, NULL, ARCH_LAYER_NORM | ARCH_INTERLEAVED | ARCH_PARTIAL, WINDOW_NONE, 1},
    {"GPTNeoXForCausalLM", "gpt_neox", PRE_NORMS, ARCH_LAYER_NORM | ARCH_FUSED_QKV | ARCH_PARTIAL, WINDOW_NONE, 0.25},
    {"OPTForCausalLM", "opt", PRE_NORMS, ARCH_LAYER_NORM | ARCH_TIED | ARCH_USE_BIAS, WINDOW_NONE, 1},
    {"FalconForCausalLM", "falcon", PRE_NORMS, ARCH_LAYER_NORM | ARCH_FUSED_QKV | ARCH_TIED | ARCH_USE_BIAS, WINDOW_NONE, 1},
    {"GraniteForCausalLM", "granite", PRE_NORMS, ARCH_MULTIPLIERS, WINDOW_NONE, 1},
    {"StableLmForCausalLM", "stablelm", PRE_NORMS, ARCH_LAYER_NORM | ARCH_PARTIAL | ARCH_NO_OUT_BIAS, WINDOW_NONE, 0.25},
    {"GlmForCausalLM", "glm", PRE_NORMS, GLM4, WINDOW_NONE, 0.5},
    {"Glm4ForCausalLM", "glm4", GLM4_NORMS, GLM4, WINDOW_NONE, 0.5},
    {"Glm4MoeForCausalLM", "glm4_moe", PRE_NORMS, ARCH_PARTIAL | ARCH_NO_OUT_BIAS | ARCH_QK_NORM_KEY, WINDOW_NONE, 0.5},
    {"SolarOpenForCausalLM", "solar_open", PRE_NORMS, ARCH_NO_OUT_BIAS, WINDOW_NONE, 1},
    {"ExaoneMoeForCausalLM", "exaone_moe", PRE_NORMS, ARCH_QK_NORM | ARCH_NOPE_WIDE, WINDOW_PATTERN_4, 1},
    {"HYV3ForCausalLM", "hy_v3", PRE_NORMS, ARCH_QK_NORM, WINDOW_NONE, 1},
    {"MiniMaxM2ForCausalLM", "minimax_m2", PRE_NORMS, ARCH_QK_NORM_ROW | ARCH_PARTIAL, WINDOW_NONE, 1},
    {"Dots1ForCausalLM", "dots1", PRE_NORMS, ARCH_QK_NORM, WINDOW_LATE, 1},
    {"GraniteMoeForCausalLM", "granitemoe", PRE_NORMS, ARCH_MULTIPLIERS, WINDOW_NONE, 1},
    {"GraniteMoeSharedForCausalLM", "granitemoeshared", PRE_NORMS, ARCH_MULTIPLIERS, WINDOW_NONE, 1},
    {"GraniteMoeHybridForCausalLM", "granitemoehybrid", PRE_NORMS, ARCH_MULTIPLIERS | ARCH_SCAN, WINDOW_NONE, 1},
    {"DeepseekV2ForCausalLM", "deepseek_v2", PRE_NORMS, ARCH_LATENT, WINDOW_NONE, 1},
    {"DeepseekV3ForCausalLM", "deepseek_v3", PRE_NORMS, ARCH_LATENT, WINDOW_NONE, 1},
    {"Mistral4ForCausalLM", "mistral4", PRE_NORMS, ARCH_LATENT | ARCH_TIED, WINDOW_NONE, 1}, /* with pictures or without */
    {"Glm4MoeLiteForCausalLM", "glm4_moe_lite", PRE_NORMS, ARCH_LATENT, WINDOW_NONE, 1},
    {"PhimoeForCausalLM", "phimoe", PRE_NORMS, ARCH_LAYER_NORM, WINDOW_ALL, 1},
    {"PhiMoEForCausalLM", "phimoe", PRE_NORMS, ARCH_LAYER_NORM, WINDOW_ALL, 1}, /* as Microsoft calls it */
    {"HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", PRE_NORMS, ARCH_QK_NORM_LAST, WINDOW_NONE, 1},
    {"HunYuanMoEV1ForCausalLM", "hunyuan_v1_moe", PRE_NORMS, ARCH_QK_NORM_LAST, WINDOW_NONE, 1},
    {"OlmoeForCausalLM", "olmoe", PRE_NORMS, ARCH_QK_NORM_ROW, WINDOW_NONE, 1},
    {"Qwen3NextForCausalLM", "qwen3_next", PRE_NORMS, QWEN_DELTA, WINDOW_NONE, 0.25},
    {"Qwen3_5ForCausalLM", "qwen3_5_text", PRE_NORMS, QWEN_DELTA, WINDOW_NONE, 0.25},
    {"Qwen3_5MoeForCausalLM", "qwen3_5_moe_text", PRE_NORMS, QWEN_DELTA, WINDOW_NONE, 0.25},
    {"Lfm2ForCausalLM", "lfm2", "operator_norm", NULL, "ffn_norm", NULL, ARCH_SHORT | ARCH_QK_NORM | ARCH_TIED, WINDOW_NONE, 1},
    {"Lfm2MoeForCausalLM", "lfm2_moe", "operator_norm", NULL, "ffn_norm", NULL, ARCH_SHORT | ARCH_QK_NORM | ARCH_TIED, WINDOW_NONE, 1},
    {"SeedOssForCausalLM", "seed_oss", PRE_NORMS, ARCH_NO_OUT_BIAS, WINDOW_NONE, 1},
    {"Ernie4_5ForCausalLM", "ernie4_5", PRE_NORMS, ARCH_INTERLEAVED | ARCH_TIED | ARCH_USE_BIAS, WINDOW_NONE, 1},
    {"Ernie4_5_MoeForCausalLM", "ernie4_5_moe", PRE_NORMS, ARCH_INTERLEAVED | ARCH_TIED | ARCH_USE_BIAS, WINDOW_NONE, 1},
    {"Exaone4ForCausalLM", "exaone4", NULL, "post_attention_layernorm", NULL, "post_feedforward_layernorm",
     ARCH_QK_NORM | ARCH_NOPE_WIDE, WINDOW_PATTERN_4, 1},
    {"MixtralForCausalLM", "mixtral", PRE_NORMS, 0, WINDOW_ALL, 1},
    {"Qwen2MoeForCausalLM", "qwen2_moe", PRE_NORMS, ARCH_NO_OUT_BIAS | ARCH_QKV_BIAS_KEY, WINDOW_OPTIONAL, 1},
    {"Qwen3MoeForCausalLM", "qwen3_moe", PRE_NORMS, ARCH_QK_NORM, WINDOW_OPTIONAL, 1},
    {"GptOssForCausalLM", "gpt_oss", PRE_NORMS, ARCH_SINKS, WINDOW_ALTERNATE, 1},
    /* text models of those with pictures: hf_classes.c knows the rest */
    {"Gemma3ForConditionalGeneration", "gemma3", GEMMA_NORMS, GEMMA | ARCH_QK_NORM | ARCH_LOCAL_ROPE, WINDOW_PATTERN, 1},
    {"Gemma4ForConditionalGeneration", "gemma4", GEMMA_NORMS, GEMMA4, WINDOW_PATTERN, 1},
    {"Gemma4UnifiedForConditionalGeneration", "gemma4_unified", GEMMA_NORMS, GEMMA4, WINDOW_PATTERN, 1},
    {"Llama4ForConditionalGeneration", "llama4", PRE_NORMS, ARCH_INTERLEAVED | ARCH_NOPE, WINDOW_NONE, 1},
    {"Glm4vForConditionalGeneration", "glm4v", GLM4_NORMS, GLM4, WINDOW_NONE, 0.5},
    {"Glm46VForConditionalGeneration", "glm46v", GLM4_NORMS, GLM4, WINDOW_NONE, 0.5},
    {"Glm4vMoeForConditionalGeneration", "glm4v_moe", PRE_NORMS, ARCH_PARTIAL | ARCH_NO_OUT_BIAS, WINDOW_NONE, 0.5},
    {"KimiK25ForConditionalGeneration", "kimi_k25", PRE_NORMS, ARCH_LATENT, WINDOW_NONE, 1},
    {"Kimi_K25ForConditionalGeneration", "kimi_k25", PRE_NORMS, ARCH_LATENT, WINDOW_NONE, 1}, /* as transformers calls it */
    {"Mistral3ForConditionalGeneration", "mistral3", PRE_NORMS, ARCH_TIED, WINDOW_ALL, 1},
    {"Qwen2VLForConditionalGeneration", "qwen2_vl", PRE_NORMS, ARCH_QKV_BIAS | ARCH_NO_OUT_BIAS | ARCH_TIED, WINDOW_OPTIONAL, 1},
    {"Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", PRE_NORMS, ARCH_QKV_BIAS | ARCH_NO_OUT_BIAS | ARCH_TIED, WINDOW_OPTIONAL, 1},
    {"Qwen3VLForConditionalGeneration", "qwen3_vl", PRE_NORMS, ARCH_QK_NORM | ARCH_TIED, WINDOW_NONE, 1},
    {"Qwen3VLMoeForConditionalGeneration", "qwen3_vl_moe", PRE_NORMS, ARCH_QK_NORM | ARCH_TIED, WINDOW_NONE, 1},
    {"Qwen3_5ForConditionalGeneration", "qwen3_5", PRE_NORMS, QWEN_DELTA | ARCH_TIED, WINDOW_NONE, 0.25},
    {"Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", PRE_NORMS, QWEN_DELTA | ARCH_TIED, WINDOW_NONE, 0.25},
    /* encoders: arch_encoder.c knows the rest */
    {"BertModel", "bert", NULL, NULL, NULL, NULL, ARCH_LAYER_NORM, WINDOW_NONE, 1},
    {"BertForSequenceClassification", "bert", NULL, NULL, NULL, NULL, ARCH_LAYER_NORM, WINDOW_NONE, 1},
    {"RobertaModel", "roberta", NULL, NULL, NULL, NULL, ARCH_LAYER_NORM, WINDOW_NONE, 1},
    {"RobertaForSequenceClassification", "roberta", NULL, NULL, NULL, NULL, ARCH_LAYER_NORM, WINDOW_NONE, 1},
    {"XLMRobertaModel", "xlm-roberta", NULL, NULL, NULL, NULL, ARCH_LAYER_NORM, WINDOW_NONE, 1},
    {"XLMRobertaForSequenceClassification", "xlm-roberta", NULL, NULL, NULL, NULL, ARCH_LAYER_NORM, WINDOW_NONE, 1},
    {"ModernBertModel", "modernbert", NULL, NULL, NULL, NULL, ARCH_LAYER_NORM | ARCH_LOCAL_ROPE, WINDOW_NONE, 1},
    {"ModernBertForSequenceClassification", "modernbert", NULL, NULL, NULL, NULL, ARCH_LAYER_NORM | ARCH_LOCAL_ROPE, WINDOW_NONE, 1},
    {"NomicBertModel", "nomic_bert", NULL, NULL, NULL, NULL, ARCH_LAYER_NORM, WINDOW_NONE, 1},
};

#define N_ARCHITECTURES (sizeof architectures / sizeof *architectures)

bool tl_model_supported(uint32_t i, const char **ret_class, const char **ret_name, bool *ret_gguf) {
  if (i >= N_ARCHITECTURES) return false;
  *ret_class = architectures[i].class_name;
  *ret_name = architectures[i].name;
  *ret_gguf = gguf_knows_class(architectures[i].class_name);
  return true;
}

/* Whether a class is the row's: by its name, or, if the row has no head for labels, without the head that it is
 * published with: LlamaModel is LlamaForCausalLM without its output matrix. RobertaForCausalLM is RobertaModel's layers as a
 * decoder, which those are not. */
static bool is_of(const struct architecture *a, const char *class_name) {
  static const char *const endings[] = {"ForCausalLM", "ForMaskedLM", "Model", "LMHeadModel"};
  if (strcmp(class_name, a->class_name) == 0) return true;
  size_t stems[2] = {0, 0};
  bool causal[2] = {false, false};
  const char *const names[] = {class_name, a->class_name};
  for (unsigned i = 0; i < 2; i++)
    for (size_t k = 0; k < sizeof endings / sizeof *endings; k++) {
      size_t n = strlen(names[i]), end = strlen(endings[k]);
      if (n > end && strcmp(names[i] + n - end, endings[k]) == 0) stems[i] = n - end, causal[i] = k == 0 || k == 3;
    }
  return stems[0] && stems[0] == stems[1] && causal[0] <= causal[1] && strncmp(class_name, a->class_name, stems[0]) == 0;
}

const struct architecture *arch_find(const char *class_name, const char *model_type, struct tl_error *err) {
  for (size_t i = 0; i < N_ARCHITECTURES; i++) {
    if (is_of(&architectures[i], class_name) ||
        (!class_name[0] && strcmp(model_type, architectures[i].name) == 0))
      return &architectures[i];
  }
  tl_error_set(err, TL_EUNSUPPORTED, "model.path",
               "config.json: architectures: '%s' is not known; `tokenlane models --supported` lists those that are", class_name);
  return NULL;
}
