/* SPDX-License-Identifier: MIT */
/* config.json and generation_config.json through one table of keys. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

enum kind { KIND_INTEGER, KIND_NUMBER, KIND_BOOL, KIND_TEXT };

struct key {
  const char *name;
  enum kind kind;
  size_t offset, size; /* size: of a text */
  double min, max;
  bool required;
};

#define AT(member) offsetof(struct hf_config, member)
#define TEXT(member) KIND_TEXT, AT(member), sizeof((struct hf_config *)0)->member, 0, 0

static const struct key keys[] = {
    {"model_type", TEXT(model_type), false},
    {"hidden_act", TEXT(hidden_act), false},
    {"hidden_size", KIND_INTEGER, AT(hidden_size), 0, 1, MODEL_MAX_DIM, true},
    {"intermediate_size", KIND_INTEGER, AT(intermediate_size), 0, 1, MODEL_MAX_DIM, true},
    {"num_hidden_layers", KIND_INTEGER, AT(num_hidden_layers), 0, 1, MODEL_MAX_LAYERS, true},
    {"num_attention_heads", KIND_INTEGER, AT(num_attention_heads), 0, 1, 4096, true},
    {"num_key_value_heads", KIND_INTEGER, AT(num_key_value_heads), 0, 1, 4096, false},
    {"head_dim", KIND_INTEGER, AT(head_dim), 0, 2, MODEL_MAX_HEAD_DIM, false},
    {"vocab_size", KIND_INTEGER, AT(vocab_size), 0, 1, 10000000, true},
    {"max_position_embeddings", KIND_INTEGER, AT(max_position_embeddings), 0, 1, 1 << 24, true},
    {"rms_norm_eps", KIND_NUMBER, AT(rms_norm_eps), 0, 0, 1, false},
    {"rope_theta", KIND_NUMBER, AT(rope_theta), 0, 1, 1e12, false},
    {"attention_bias", KIND_BOOL, AT(attention_bias), 0, 0, 0, false},
    {"mlp_bias", KIND_BOOL, AT(mlp_bias), 0, 0, 0, false},
    {"tie_word_embeddings", KIND_BOOL, AT(tie_word_embeddings), 0, 0, 0, false},
    {"hidden_activation", TEXT(hidden_act), false},
    {"layer_norm_eps", KIND_NUMBER, AT(rms_norm_eps), 0, 0, 1, false},
    {"use_qkv_bias", KIND_BOOL, AT(use_qkv_bias), 0, 0, 0, false},
    {"qk_layernorm", KIND_BOOL, AT(qk_layernorm), 0, 0, 0, false},
    {"use_parallel_residual", KIND_BOOL, AT(use_parallel_residual), 0, 0, 0, false},
    {"use_bias", KIND_BOOL, AT(use_bias), 0, 0, 0, false},
    {"alibi", KIND_BOOL, AT(alibi), 0, 0, 0, false},
    {"parallel_attn", KIND_BOOL, AT(parallel_attn), 0, 0, 0, false},
    {"do_layer_norm_before", KIND_BOOL, AT(do_layer_norm_before), 0, 0, 0, false},
    {"_remove_final_layer_norm", KIND_BOOL, AT(no_final_norm), 0, 0, 0, false},
    {"layer_norm_elementwise_affine", KIND_BOOL, AT(layer_norm_elementwise_affine), 0, 0, 0, false},
    {"scale_attn_weights", KIND_BOOL, AT(scale_attn_weights), 0, 0, 0, false},
    {"scale_attn_by_inverse_layer_idx", KIND_BOOL, AT(scale_attn_by_inverse_layer_idx), 0, 0, 0, false},
    {"add_cross_attention", KIND_BOOL, AT(add_cross_attention), 0, 0, 0, false},
    {"word_embed_proj_dim", KIND_INTEGER, AT(word_embed_proj_dim), 0, 1, MODEL_MAX_DIM, false},
    {"attention_out_bias", KIND_BOOL, AT(attention_out_bias), 0, 0, 0, false},
    {"clip_qkv", KIND_NUMBER, AT(clip_qkv), 0, 0, 1e6, false},
    {"use_bidirectional_attention", KIND_BOOL, AT(use_bidirectional_attention), 0, 0, 0, false},
    {"attn_logit_softcapping", KIND_NUMBER, AT(attn_logit_softcapping), 0, 1e-3, 1e6, false},
    {"final_logit_softcapping", KIND_NUMBER, AT(final_logit_softcapping), 0, 1e-3, 1e6, false},
    {"type_vocab_size", KIND_INTEGER, AT(type_vocab_size), 0, 0, 65536, false},
    {"pad_token_id", KIND_INTEGER, AT(pad_token_id), 0, 0, 10000000, false},
    {"local_attention", KIND_INTEGER, AT(local_attention), 0, 2, 1 << 24, false},
    {"global_attn_every_n_layers", KIND_INTEGER, AT(global_attn_every_n_layers), 0, 1, MODEL_MAX_LAYERS, false},
    {"global_rope_theta", KIND_NUMBER, AT(rope_theta), 0, 1, 1e12, false},
    {"local_rope_theta", KIND_NUMBER, AT(rope_local_base_freq), 0, 1, 1e12, false},
    {"norm_epsilon", KIND_NUMBER, AT(rms_norm_eps), 0, 0, 1, false},
    {"norm_eps", KIND_NUMBER, AT(rms_norm_eps), 0, 0, 1, false},
    {"is_decoder", KIND_BOOL, AT(is_decoder), 0, 0, 0, false},
    {"parallel_block", KIND_BOOL, AT(parallel_block), 0, 0, 0, false},
    {"prenorm", KIND_BOOL, AT(prenorm), 0, 0, 0, false},
    {"use_rms_norm", KIND_BOOL, AT(use_rms_norm), 0, 0, 0, false},
    {"rotary_emb_interleaved", KIND_BOOL, AT(rotary_emb_interleaved), 0, 0, 0, false},
    {"rotary_emb_fraction", KIND_NUMBER, AT(rotary_emb_fraction), 0, 0, 1, false},
    {"rotary_emb_scale_base", KIND_NUMBER, AT(rotary_emb_scale_base), 0, 0, 1e12, false},
    {"rotary_scaling_factor", KIND_NUMBER, AT(rotary_scaling_factor), 0, 0, 1e6, false},
    {"max_trained_positions", KIND_INTEGER, AT(max_trained_positions), 0, 1, 1 << 24, false},
    {"classifier_pooling", TEXT(classifier_pooling), false},
    {"position_embedding_type", TEXT(position_embedding_type), false},
    {"query_pre_attn_scalar", KIND_NUMBER, AT(query_pre_attn_scalar), 0, 1e-3, 1e6, false},
    {"embedding_multiplier", KIND_NUMBER, AT(embedding_multiplier), 0, 1e-6, 1e6, false},
    {"attention_multiplier", KIND_NUMBER, AT(attention_multiplier), 0, 1e-6, 1e6, false},
    {"residual_multiplier", KIND_NUMBER, AT(residual_multiplier), 0, 1e-6, 1e6, false},
    {"logits_scaling", KIND_NUMBER, AT(logits_scaling), 0, 1e-6, 1e6, false},
    {"logit_scale", KIND_NUMBER, AT(logits_scaling), 0, 1e-6, 1e6, false},
    {"sliding_window", KIND_INTEGER, AT(sliding_window), 0, 0, 1 << 24, false},
    {"use_sliding_window", KIND_BOOL, AT(use_sliding_window), 0, 0, 0, false},
    {"max_window_layers", KIND_INTEGER, AT(max_window_layers), 0, 0, MODEL_MAX_LAYERS, false},
    {"no_rope_layer_interval", KIND_INTEGER, AT(no_rope_layer_interval), 0, 1, MODEL_MAX_LAYERS, false},
    {"rope_local_base_freq", KIND_NUMBER, AT(rope_local_base_freq), 0, 1, 1e12, false},
    {"partial_rotary_factor", KIND_NUMBER, AT(partial_rotary_factor), 0, 0.01, 1, false},
    {"attention_chunk_size", KIND_INTEGER, AT(attention_chunk_size), 0, 0, 1 << 24, false},
    {"floor_scale", KIND_INTEGER, AT(floor_scale), 0, 1, 1 << 24, false},
    {"attn_scale", KIND_NUMBER, AT(attn_scale), 0, 0, 1e3, false},
    {"intermediate_size_mlp", KIND_INTEGER, AT(intermediate_size_mlp), 0, 1, MODEL_MAX_DIM, false},
    {"interleave_moe_layer_step", KIND_INTEGER, AT(decoder_sparse_step), 0, 1, MODEL_MAX_LAYERS, false},
    {"rotary_dim", KIND_INTEGER, AT(rotary_dim), 0, 2, MODEL_MAX_HEAD_DIM, false},
    {"original_max_position_embeddings", KIND_INTEGER, AT(original_max_position_embeddings), 0, 1, 1 << 24, false},
    {"num_local_experts", KIND_INTEGER, AT(n_experts), 0, 0, MODEL_MAX_EXPERTS, false},
    {"num_experts", KIND_INTEGER, AT(n_experts), 0, 0, MODEL_MAX_EXPERTS, false},
    {"num_experts_per_tok", KIND_INTEGER, AT(n_chosen), 0, 0, MODEL_MAX_CHOSEN, false},
    {"moe_intermediate_size", KIND_INTEGER, AT(expert_size), 0, 1, MODEL_MAX_DIM, false},
    {"shared_expert_intermediate_size", KIND_INTEGER, AT(shared_expert_size), 0, 1, MODEL_MAX_DIM, false},
    {"n_routed_experts", KIND_INTEGER, AT(n_experts), 0, 0, MODEL_MAX_EXPERTS, false},
    {"n_shared_experts", KIND_INTEGER, AT(n_shared_experts), 0, 0, MODEL_MAX_EXPERTS, false},
    {"num_shared_experts", KIND_INTEGER, AT(n_shared_experts), 0, 0, MODEL_MAX_EXPERTS, false},
    {"router_scaling_factor", KIND_NUMBER, AT(routed_scaling_factor), 0, 1e-3, 1e3, false},
    {"first_k_dense_replace", KIND_INTEGER, AT(first_dense), 0, 0, MODEL_MAX_LAYERS, false},
    {"n_group", KIND_INTEGER, AT(n_group), 0, 0, MODEL_MAX_EXPERTS, false},
    {"topk_group", KIND_INTEGER, AT(topk_group), 0, 0, MODEL_MAX_EXPERTS, false},
    {"routed_scaling_factor", KIND_NUMBER, AT(routed_scaling_factor), 0, 1e-3, 1e3, false},
    {"moe_num_experts", KIND_INTEGER, AT(n_experts), 0, 0, MODEL_MAX_EXPERTS, false},
    {"moe_topk", KIND_INTEGER, AT(n_chosen), 0, 0, MODEL_MAX_CHOSEN, false},
    {"moe_k", KIND_INTEGER, AT(n_chosen), 0, 0, MODEL_MAX_CHOSEN, false},
    {"moe_num_shared_experts", KIND_INTEGER, AT(n_shared_experts), 0, 0, MODEL_MAX_EXPERTS, false},
    {"moe_layer_start_index", KIND_INTEGER, AT(first_dense), 0, 0, MODEL_MAX_LAYERS, false},
    {"moe_layer_end_index", KIND_INTEGER, AT(last_sparse), 0, -1, MODEL_MAX_LAYERS, false},
    {"moe_layer_interval", KIND_INTEGER, AT(decoder_sparse_step), 0, 1, MODEL_MAX_LAYERS, false},
    {"shared_intermediate_size", KIND_INTEGER, AT(shared_expert_size), 0, 0, MODEL_MAX_DIM, false},
    {"linear_num_key_heads", KIND_INTEGER, AT(delta_key_heads), 0, 1, 4096, false},
    {"linear_num_value_heads", KIND_INTEGER, AT(delta_value_heads), 0, 1, 4096, false},
    {"linear_key_head_dim", KIND_INTEGER, AT(delta_key_dim), 0, 1, MODEL_MAX_STATE_DIM, false},
    {"linear_value_head_dim", KIND_INTEGER, AT(delta_value_dim), 0, 1, MODEL_MAX_STATE_DIM, false},
    {"linear_conv_kernel_dim", KIND_INTEGER, AT(conv_rows), 0, 2, MODEL_MAX_CONV, false},
    {"mamba_n_groups", KIND_INTEGER, AT(delta_key_heads), 0, 1, 4096, false},
    {"mamba_n_heads", KIND_INTEGER, AT(delta_value_heads), 0, 1, 4096, false},
    {"mamba_d_state", KIND_INTEGER, AT(delta_key_dim), 0, 1, MODEL_MAX_STATE_DIM, false},
    {"mamba_d_head", KIND_INTEGER, AT(delta_value_dim), 0, 1, MODEL_MAX_STATE_DIM, false},
    {"mamba_d_conv", KIND_INTEGER, AT(conv_rows), 0, 2, MODEL_MAX_CONV, false},
    {"mamba_expand", KIND_INTEGER, AT(state_expand), 0, 1, 64, false},
    {"n_groups", KIND_INTEGER, AT(delta_key_heads), 0, 1, 4096, false},
    {"mamba_num_heads", KIND_INTEGER, AT(delta_value_heads), 0, 1, 4096, false},
    {"ssm_state_size", KIND_INTEGER, AT(delta_key_dim), 0, 1, MODEL_MAX_STATE_DIM, false},
    {"mamba_head_dim", KIND_INTEGER, AT(delta_value_dim), 0, 1, MODEL_MAX_STATE_DIM, false},
    {"conv_kernel", KIND_INTEGER, AT(conv_rows), 0, 2, MODEL_MAX_CONV, false},
    {"use_conv_bias", KIND_BOOL, AT(conv_bias), 0, 0, 0, false},
    {"mamba_hidden_act", TEXT(state_act), false},
    {"mlp_hidden_act", TEXT(hidden_act), false},
    {"attention_head_dim", KIND_INTEGER, AT(head_dim), 0, 2, MODEL_MAX_HEAD_DIM, false},
    {"moe_shared_expert_intermediate_size", KIND_INTEGER, AT(shared_expert_size), 0, 1, MODEL_MAX_DIM, false},
    {"global_head_dim", KIND_INTEGER, AT(global_head_dim), 0, 2, MODEL_MAX_HEAD_DIM, false},
    {"num_global_key_value_heads", KIND_INTEGER, AT(num_global_key_value_heads), 0, 1, 4096, false},
    {"num_kv_shared_layers", KIND_INTEGER, AT(num_kv_shared_layers), 0, 0, MODEL_MAX_LAYERS, false},
    {"hidden_size_per_layer_input", KIND_INTEGER, AT(hidden_size_per_layer_input), 0, 0, MODEL_MAX_DIM, false},
    {"vocab_size_per_layer_input", KIND_INTEGER, AT(vocab_size_per_layer_input), 0, 1, 10000000, false},
    {"attention_k_eq_v", KIND_BOOL, AT(attention_k_eq_v), 0, 0, 0, false},
    {"use_double_wide_mlp", KIND_BOOL, AT(use_double_wide_mlp), 0, 0, 0, false},
    {"enable_moe_block", KIND_BOOL, AT(enable_moe_block), 0, 0, 0, false},
    {"top_k_experts", KIND_INTEGER, AT(n_chosen), 0, 0, MODEL_MAX_CHOSEN, false},
    {"moe_latent_size", KIND_INTEGER, AT(expert_latent), 0, 1, MODEL_MAX_DIM, false},
    {"mamba_conv_bias", KIND_BOOL, AT(conv_bias), 0, 0, 0, false},
    {"mamba_proj_bias", KIND_BOOL, AT(state_bias), 0, 0, 0, false},
    {"full_attention_interval", KIND_INTEGER, AT(full_attention_interval), 0, 1, MODEL_MAX_LAYERS, false},
    {"conv_L_cache", KIND_INTEGER, AT(conv_rows), 0, 2, MODEL_MAX_CONV, false},
    {"conv_bias", KIND_BOOL, AT(conv_bias), 0, 0, 0, false},
    {"block_auto_adjust_ff_dim", KIND_BOOL, AT(adjust_ffn), 0, 0, 0, false},
    {"block_multiple_of", KIND_INTEGER, AT(ffn_multiple), 0, 1, MODEL_MAX_DIM, false},
    {"block_ffn_dim_multiplier", KIND_NUMBER, AT(ffn_multiplier), 0, 1e-3, 1e3, false},
    {"block_ff_dim", KIND_INTEGER, AT(intermediate_size), 0, 1, MODEL_MAX_DIM, false},
    {"num_dense_layers", KIND_INTEGER, AT(first_dense), 0, 0, MODEL_MAX_LAYERS, false},
    {"use_expert_bias", KIND_BOOL, AT(use_expert_bias), 0, 0, 0, false},
    {"q_lora_rank", KIND_INTEGER, AT(q_lora_rank), 0, 1, MODEL_MAX_DIM, false},
    {"kv_lora_rank", KIND_INTEGER, AT(kv_lora_rank), 0, 1, MODEL_MAX_HEAD_DIM, false},
    {"qk_nope_head_dim", KIND_INTEGER, AT(qk_nope_head_dim), 0, 1, MODEL_MAX_HEAD_DIM, false},
    {"qk_rope_head_dim", KIND_INTEGER, AT(qk_rope_head_dim), 0, 2, MODEL_MAX_HEAD_DIM, false},
    {"v_head_dim", KIND_INTEGER, AT(v_head_dim), 0, 1, MODEL_MAX_HEAD_DIM, false},
    {"rope_interleave", KIND_BOOL, AT(rope_interleave), 0, 0, 0, false},
    {"topk_method", TEXT(topk_method), false},
    {"scoring_func", TEXT(scoring_func), false},
    {"moe_layer_freq", KIND_INTEGER, AT(moe_layer_freq), 0, 1, MODEL_MAX_LAYERS, false},
    {"use_qk_norm", KIND_BOOL, AT(use_qk_norm), 0, 0, 0, false},
    {"decoder_sparse_step", KIND_INTEGER, AT(decoder_sparse_step), 0, 1, MODEL_MAX_LAYERS, false},
    {"norm_topk_prob", KIND_BOOL, AT(norm_topk_prob), 0, 0, 0, false},
    {"qkv_bias", KIND_BOOL, AT(qkv_bias), 0, 0, 0, false},
    {"lm_head_bias", KIND_BOOL, AT(lm_head_bias), 0, 0, 0, false},
    {"router_jitter_noise", KIND_NUMBER, AT(router_jitter_noise), 0, 0, 1, false},
    {"swiglu_alpha", KIND_NUMBER, AT(swiglu_alpha), 0, 1.702, 1.702, false}, /* the only one that there is */
    {"swiglu_limit", KIND_NUMBER, AT(swiglu_limit), 0, 1e-3, 1e6, false},
};

/* rope_scaling, or transformers 5's rope_parameters. */
static const struct key rope_keys[] = {
    {"type", TEXT(rope_type), false},
    {"rope_type", TEXT(rope_type), false},
    {"rope_theta", KIND_NUMBER, AT(rope_theta), 0, 1, 1e12, false},
    {"factor", KIND_NUMBER, AT(rope_factor), 0, 1, 1e6, false},
    {"low_freq_factor", KIND_NUMBER, AT(low_freq_factor), 0, 1e-3, 1e6, false},
    {"high_freq_factor", KIND_NUMBER, AT(high_freq_factor), 0, 1e-3, 1e6, false},
    {"original_max_position_embeddings", KIND_INTEGER, AT(original_max_position_embeddings), 0, 1, 1 << 24, false},
    {"partial_rotary_factor", KIND_NUMBER, AT(partial_rotary_factor), 0, 0.01, 1, false},
    {"alpha", KIND_NUMBER, AT(rope_alpha), 0, 1, 1e9, false},
    {"beta_fast", KIND_NUMBER, AT(beta_fast), 0, 1e-3, 1e6, false},
    {"beta_slow", KIND_NUMBER, AT(beta_slow), 0, 1e-3, 1e6, false},
    {"attention_factor", KIND_NUMBER, AT(attention_factor), 0, 1e-3, 1e3, false},
    {"mscale", KIND_NUMBER, AT(mscale), 0, 0, 1e3, false},
    {"long_mscale", KIND_NUMBER, AT(long_mscale), 0, 1e-3, 1e3, false},
    {"llama_4_scaling_beta", KIND_NUMBER, AT(llama_4_scaling_beta), 0, 0, 1e3, false},
    {"mscale_all_dim", KIND_NUMBER, AT(mscale_all_dim), 0, 0, 1e3, false},
};

/* Of Gemma 3's rope for layers with a window. */
static const struct key local_keys[] = {
    {"rope_theta", KIND_NUMBER, AT(rope_local_base_freq), 0, 1, 1e12, false},
};

/* quantization_config. */
static const struct key quant_keys[] = {
    {"quant_method", TEXT(quant_method), false},
    {"checkpoint_format", TEXT(checkpoint_format), false},
};

static int read_key(const char *file, const struct key *k, json_t *value, struct hf_config *config,
                    struct tl_error *err) {
  char *place = (char *)config + k->offset;
  double number = json_number_value(value);
  bool in_range = json_is_number(value) && number >= k->min && number <= k->max;
  switch (k->kind) {
    case KIND_INTEGER:
      if (!json_is_integer(value) || !in_range)
        return tl_error_set(err, TL_ECORRUPT, "model.path", "%s: %s: expected an integer from %.0f to %.0f", file, k->name,
                            k->min, k->max);
      *(int64_t *)(void *)place = json_integer_value(value);
      return TL_OK;
    case KIND_NUMBER:
      if (!in_range)
        return tl_error_set(err, TL_ECORRUPT, "model.path", "%s: %s: expected a number from %g to %g", file, k->name,
                            k->min, k->max);
      *(double *)(void *)place = number;
      return TL_OK;
    case KIND_BOOL:
      if (!json_is_boolean(value))
        return tl_error_set(err, TL_ECORRUPT, "model.path", "%s: %s: expected true or false", file, k->name);
      *(bool *)place = json_is_true(value);
      return TL_OK;
    case KIND_TEXT:
      break;
  }
  if (!json_is_string(value) || json_string_length(value) >= k->size)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%s: %s: expected a short string", file, k->name);
  strcpy(place, json_string_value(value));
  return TL_OK;
}

static int read_keys(const char *file, const struct key *table, size_t n, json_t *object, struct hf_config *config,
                     struct tl_error *err) {
  for (size_t i = 0; i < n; i++) {
    json_t *value = json_object_get(object, table[i].name);
    int r = TL_OK;
    if (value && !json_is_null(value))
      r = read_key(file, &table[i], value, config, err);
    else if (table[i].required && *(int64_t *)(void *)((char *)config + table[i].offset) == 0)
      r = tl_error_set(err, TL_ECORRUPT, "model.path", "%s: %s: is required", file, table[i].name);
    if (r < 0) return r;
  }
  return TL_OK;
}

static void add_eos(struct hf_config *config, json_t *value) {
  int64_t id = json_integer_value(value);
  if (!json_is_integer(value) || id < 0 || id >= config->vocab_size) return;
  for (uint32_t i = 0; i < config->n_eos; i++)
    if (config->eos[i] == id) return;
  if (config->n_eos < TL_MAX_EOS) config->eos[config->n_eos++] = (int32_t)id;
}

/* One id or a list of ids. */
static void read_eos(struct hf_config *config, json_t *value) {
  size_t i;
  json_t *item;
  add_eos(config, value);
  json_array_foreach(value, i, item) {
    add_eos(config, item);
  }
}

static void read_default(json_t *object, const char *name, double min, double max, float *ret) {
  json_t *value = json_object_get(object, name);
  double v = json_number_value(value);
  if (json_is_number(value) && v >= min && v <= max) *ret = (float)v;
}

json_t *hf_load_object(const char *folder, const char *file, bool required, struct tl_error *err) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, file);
  json_error_t json_error;
  json_t *object = tl_json_load_file(path, TL_JSON_INFINITY, &json_error);
  if (!object && json_error_code(&json_error) == json_error_cannot_open_file && !required) return json_object();
  if (tl_json_is_short(object, &json_error, err)) return NULL;
  if (!object && tl_lfs_check(path, file, err) < 0) return NULL;
  if (!json_is_object(object)) {
    tl_error_set(err, TL_ECORRUPT, "model.path", "%s: %s", file, object ? "expected a JSON object" : json_error.text);
    json_decref(object);
    return NULL;
  }
  return object;
}

static int read_generation(const char *folder, struct hf_config *config, struct tl_error *err) {
  config->defaults = (struct tl_generation_defaults){-1, -1, -1, -1, -1};
  json_t *object = hf_load_object(folder, "generation_config.json", false, err);
  if (!object) return TL_ECORRUPT;
  read_eos(config, json_object_get(object, "eos_token_id"));
  float top_k = -1;
  read_default(object, "temperature", 0, 2, &config->defaults.temperature);
  read_default(object, "top_p", 0, 1, &config->defaults.top_p);
  read_default(object, "min_p", 0, 1, &config->defaults.min_p);
  read_default(object, "repetition_penalty", 0.01, 100, &config->defaults.repetition_penalty);
  read_default(object, "top_k", 0, 1e6, &top_k);
  config->defaults.top_k = (int32_t)top_k;
  json_decref(object);
  return TL_OK;
}

/* Its experts have the size that others' MLPs have. */
static void take_llama4(struct hf_config *c) {
  if (c->intermediate_size_mlp) {
    c->expert_size = c->intermediate_size;
    c->intermediate_size = c->intermediate_size_mlp;
  }
}

int hf_config_check(struct hf_config *c, const char *file, struct tl_error *err) {
  bool grows = c->llama_4_scaling_beta > 0 && c->original_max_position_embeddings > 0;
  /* queries that are made of rows in one step would grow: no context goes there, so it is not done */
  if (grows && c->kv_lora_rank && !c->q_lora_rank && c->original_max_position_embeddings < c->max_position_embeddings)
    c->max_position_embeddings = c->original_max_position_embeddings;
  take_llama4(c);
  if (!c->num_key_value_heads) c->num_key_value_heads = c->num_attention_heads;
  if (!c->head_dim) {
    if (c->hidden_size % c->num_attention_heads)
      return tl_error_set(err, TL_ECORRUPT, "model.path",
                          "%s: hidden_size: expected a multiple of num_attention_heads, or head_dim", file);
    c->head_dim = c->hidden_size / c->num_attention_heads;
  }
  if (c->rotary_dim > c->head_dim) return tl_error_set(err, TL_ECORRUPT, "model.path", "%s: rotary_dim: expected up to head_dim", file);
  if (c->rotary_dim && c->partial_rotary_factor == 0) /* is rounded down */
    c->partial_rotary_factor = ((double)c->rotary_dim + 0.5) / (double)c->head_dim;
  if (c->head_dim % 2) return tl_error_set(err, TL_ECORRUPT, "model.path", "%s: head_dim: expected an even size", file);
  if (c->num_attention_heads % c->num_key_value_heads)
    return tl_error_set(err, TL_ECORRUPT, "model.path",
                        "%s: num_attention_heads: expected a multiple of num_key_value_heads", file);
  if (c->head_dim > MODEL_MAX_HEAD_DIM)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%s: head_dim: expected up to %d", file, MODEL_MAX_HEAD_DIM);
  return TL_OK;
}

/* What tensors cannot say by their names and shapes. */
static int read_quantization(json_t *object, struct hf_config *config, struct tl_error *err) {
  if (!json_is_object(object)) return TL_OK;
  int r = read_keys("config.json: quantization_config", quant_keys, sizeof quant_keys / sizeof *quant_keys, object, config, err);
  json_t *size = json_object_get(object, "weight_block_size"), *group;
  const char *name;
  json_object_foreach(json_object_get(object, "config_groups"), name, group) {
    json_t *found = json_object_get(json_object_get(group, "weights"), "block_structure");
    if (json_is_array(found)) size = found;
  }
  if (r < 0 || !json_is_array(size)) return r;
  config->block_rows = json_integer_value(json_array_get(size, 0));
  config->block_columns = json_integer_value(json_array_get(size, 1));
  if (config->block_rows > 0 && config->block_rows <= 65536 && config->block_columns > 0 && config->block_columns <= 65536)
    return TL_OK;
  return tl_error_set(err, TL_ECORRUPT, "model.path",
                      "config.json: quantization_config: weight_block_size: expected two sizes from 1 to 65536");
}

void hf_config_defaults(struct hf_config *ret) {
  *ret = (struct hf_config){.rms_norm_eps = 1e-6, .rope_theta = 10000, .rope_factor = 1, .low_freq_factor = 1,
                            .high_freq_factor = 4, .query_pre_attn_scalar = 256, .embedding_multiplier = 1,
                            .attention_multiplier = 1, .residual_multiplier = 1, .logits_scaling = 1,
                            .max_window_layers = 28, .no_rope_layer_interval = 4,
                            .rope_local_base_freq = 10000, .beta_fast = 32, .beta_slow = 1, .decoder_sparse_step = 1, .last_sparse = -1, .n_group = 1, .topk_group = 1, .routed_scaling_factor = 1,
                            .moe_layer_freq = 1, .rope_interleave = true, .router_jitter_noise = 0.01,
                            .parallel_attn = true, .do_layer_norm_before = true, .layer_norm_elementwise_affine = true, .scale_attn_weights = true,
                            .qkv_bias = true, .use_expert_bias = true, .swiglu_limit = 7, .pad_token_id = 1, .local_attention = 128,
                            .global_attn_every_n_layers = 3, .rotary_emb_fraction = 1, .max_trained_positions = 2048};
}

/* rope_scaling, or rope_parameters, which may be two: for layers without and with a window. */
static int read_rope(struct hf_config *c, json_t *object, json_t **ret_rope, struct tl_error *err) {
  json_t *scaling = json_object_get(object, "rope_scaling"), *parameters = json_object_get(object, "rope_parameters");
  json_t *full = json_object_get(parameters, "full_attention"), *local = json_object_get(parameters, "sliding_attention");
  size_t n = sizeof rope_keys / sizeof *rope_keys;
  int r = TL_OK;
  if (json_is_object(full)) parameters = full;
  if (json_is_object(local)) r = read_keys("config.json", local_keys, 1, local, c, err);
  if (r == TL_OK && json_is_object(parameters)) r = read_keys("config.json", rope_keys, n, parameters, c, err);
  if (r == TL_OK && json_is_object(scaling)) r = read_keys("config.json", rope_keys, n, scaling, c, err);
  /* ModernBERT's way to say that all layers turn alike */
  if (json_is_null(json_object_get(object, "local_rope_theta")) && !json_is_object(local)) c->rope_local_base_freq = c->rope_theta;
  if (c->rope_local_base_freq == 0) c->rope_local_base_freq = c->rope_theta;
  *ret_rope = json_is_object(scaling) ? scaling : parameters;
  return r;
}

/* HunYuan's files have a list for all layers where they are alike, which says the same as one number. */
static void shorten_lists(json_t *object) {
  static const char *const names[] = {"num_experts", "moe_topk", "moe_intermediate_size", "num_shared_expert"};
  const char *type = json_string_value(json_object_get(object, "model_type"));
  for (size_t i = 0; type && strcmp(type, "hunyuan_v1_moe") == 0 && i < sizeof names / sizeof *names; i++) {
    json_t *list = json_object_get(object, names[i]), *first = json_array_get(list, 0);
    bool alike = first != NULL;
    for (size_t k = 1; k < json_array_size(list); k++) alike = alike && json_equal(json_array_get(list, k), first);
    if (alike) json_object_set(object, names[i], first);
  }
}

/* Nemotron-H's pattern, a letter for each layer, as the list that transformers 5 has, and how many that are; its name for an epsilon. */
static void spell_pattern(json_t *object) {
  const char *type = json_string_value(json_object_get(object, "model_type")), *pattern = json_string_value(json_object_get(object, "hybrid_override_pattern"));
  if (!type || strcmp(type, "nemotron_h") != 0) return;
  json_t *list = json_object_get(object, "layers_block_type"), *epsilon = json_object_get(object, "layer_norm_epsilon");
  if (epsilon) json_object_set(object, "rms_norm_eps", epsilon);
  if (pattern && !json_is_array(list)) {
    list = json_array();
    for (const char *p = pattern; *p && list; p++)
      json_array_append_new(list, json_string(*p == 'M' ? "mamba" : *p == '*' ? "attention" : *p == '-' ? "mlp" : *p == 'E' ? "moe" : "unknown"));
    json_object_set_new(object, "layers_block_type", list);
  }
  if (json_is_array(list)) json_object_set_new(object, "num_hidden_layers", json_integer((json_int_t)json_array_size(list)));
}

/* Gemma 4's: which tokens see later ones. Those of pictures do, which none of a text are. */
static void drop_vision(json_t *object) {
  json_t *text = json_object_get(object, "text_config");
  if (!json_is_object(text)) text = object;
  const char *sides = json_string_value(json_object_get(text, "use_bidirectional_attention"));
  if (sides && strcmp(sides, "vision") == 0) json_object_del(text, "use_bidirectional_attention");
  else if (sides && strcmp(sides, "all") == 0) json_object_set_new(text, "use_bidirectional_attention", json_true());
}

/* Mamba 2's way to say that it follows from the rest. */
static void drop_auto(json_t *object) {
  const char *size = json_string_value(json_object_get(object, "mamba_d_head"));
  if (size && strcmp(size, "auto") == 0) json_object_del(object, "mamba_d_head");
}

/* num_labels is not written, but their names are. */
static int64_t count_labels(json_t *object) {
  json_t *labels = json_object_get(object, "id2label");
  return json_is_object(labels) ? (int64_t)json_object_size(labels) : 2;
}

/* An architecture that is not known is refused later, with the rest of config.json read: it is NULL. *ret_text: the object
 * that has the keys of the model that makes text. */
static int take_defaults(struct hf_config *c, json_t *object, const struct architecture **ret, json_t **ret_text, struct tl_error *err) {
  struct tl_error unknown = {0};
  const char *type = json_string_value(json_object_get(object, "model_type"));
  *ret = arch_find(c->architecture, type ? type : "", &unknown);
  arch_encoder_defaults(*ret, c);
  arch_latent_defaults(*ret, c);
  arch_recurrent_defaults(*ret, c);
  arch_gemma4_defaults(*ret, c);
  hf_class_defaults(*ret, c);
  if (*ret && (*ret)->traits & ARCH_LOCAL_PLAIN) c->rope_local_base_freq = 0;
  return hf_nested_text(*ret, c, object, ret_text, err);
}

/* Of a model of pictures, too: what is said of the whole; and that the two matrices of tokens are one is seen by the files. */
static void finish_nested(struct hf_config *c, json_t *object, const struct architecture *a) {
  if (!hf_is_nested(a)) return;
  snprintf(c->model_type, sizeof c->model_type, "%s", a->name);
  read_eos(c, json_object_get(object, "eos_token_id"));
  c->tie_word_embeddings = false;
  if (strcmp(c->rope_type, "mrope") == 0) strcpy(c->rope_type, ""); /* the three positions of a token of text are the same */
}

/* What is said to be nothing is not what the class has when it is absent; it follows from the rest, or there is none. */
static void take_nulls(struct hf_config *c, json_t *object) {
  if (json_is_null(json_object_get(object, "sliding_window"))) c->sliding_window = 0;
  if (json_is_null(json_object_get(object, "num_key_value_heads"))) c->num_key_value_heads = 0;
  if (json_is_null(json_object_get(object, "head_dim"))) c->head_dim = 0;
  if (json_is_null(json_object_get(object, "q_lora_rank"))) c->q_lora_rank = 0;
  if (json_is_null(json_object_get(object, "attention_chunk_size"))) c->attention_chunk_size = 0;
}

/* Classes that files call otherwise: the first K-EXAONE's by LG's own name; and Mistral Small 4 is a model of pictures by its class, of which its
 * text model is another one. */
static void take_other_names(struct hf_config *c, json_t *object) {
  const char *type = json_string_value(json_object_get(json_object_get(object, "text_config"), "model_type"));
  bool outer = strcmp(c->architecture, "Mistral3ForConditionalGeneration") == 0;
  if (outer && type && strcmp(type, "mistral4") == 0) strcpy(c->architecture, "Mistral4ForCausalLM");
  if (strcmp(c->architecture, "ExaoneMoEForCausalLM") == 0) strcpy(c->architecture, "ExaoneMoeForCausalLM");
}

int model_read_config(const char *folder, struct hf_config *ret, struct tl_error *err) {
  const struct architecture *a;
  json_t *rope = NULL, *text;
  hf_config_defaults(ret);
  json_t *object = hf_load_object(folder, "config.json", true, err);
  if (!object) return TL_ECORRUPT;
  hf_rename_keys(object);
  shorten_lists(object);
  drop_auto(object);
  drop_vision(object);
  spell_pattern(object);
  ret->n_labels = count_labels(object);
  const char *architecture = json_string_value(json_array_get(json_object_get(object, "architectures"), 0));
  snprintf(ret->architecture, sizeof ret->architecture, "%s", architecture ? architecture : "");
  take_other_names(ret, object);
  int r = take_defaults(ret, object, &a, &text, err);
  if (r == TL_OK) r = read_keys("config.json", keys, sizeof keys / sizeof *keys, text, ret, err);
  take_nulls(ret, text);
  if (r == TL_OK) r = read_rope(ret, text, &rope, err);
  if (r == TL_OK) r = hf_config_read_lists(ret, text, rope, err);
  json_t *quantization = json_object_get(object, "quantization_config");
  if (!quantization) quantization = json_object_get(text, "quantization_config");
  if (r == TL_OK) r = read_quantization(quantization, ret, err);
  if (r == TL_OK) r = read_generation(folder, ret, err);
  if (r == TL_OK) read_eos(ret, json_object_get(text, "eos_token_id"));
  if (r == TL_OK) finish_nested(ret, object, a);
  if (r == TL_OK) r = arch_latent_complete(a, ret, "config.json", err);
  if (r == TL_OK) r = arch_recurrent_complete(a, ret, "config.json", err);
  if (r == TL_OK) r = arch_gemma4_complete(a, ret, text, err);
  /* what a key says in a file of another kind of model is not the reason */
  if (r < 0 && !a && ret->architecture[0] && !arch_find(ret->architecture, "", err)) r = TL_EUNSUPPORTED;
  json_decref(object);
  return r == TL_OK ? hf_config_check(ret, "config.json", err) : r;
}
