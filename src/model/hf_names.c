/* SPDX-License-Identifier: MIT */
/* Classes from before Llama: what their files call tensors and keys, as those after it do. */
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

#define MOST_NAMES 16

/* The beginnings or ends of names, and what a plan has there. */
struct pair {
  const char *file, *plan;
};

struct hf_names {
  const char *class_name;
  const char *prefixes[2]; /* before all names but the output's; files may lack it */
  const char *layers;      /* before the number of one */
  struct pair whole[4];    /* without a layer */
  struct pair inner[MOST_NAMES];
};

#define HALVES {"mlp.dense_h_to_4h.", "mlp.fc1."}, {"mlp.dense_4h_to_h.", "mlp.fc2."}
#define GPT2 {{"wte.", "model.embed_tokens."}, {"wpe.", "model.embed_positions."}, {"ln_f.", "model.norm."}}, \
  {{"ln_1.", "input_layernorm."}, {"ln_2.", "post_attention_layernorm."}, {"attn.c_attn.", "self_attn.qkv_proj."}, \
   {"attn.c_proj.", "self_attn.o_proj."}, {"mlp.c_fc.", "mlp.fc1."}, {"mlp.c_proj.", "mlp.fc2."}}

static const struct hf_names families[] = {
    {"GPT2LMHeadModel", {"transformer.", NULL}, "h.", GPT2},
    {"GPTBigCodeForCausalLM", {"transformer.", NULL}, "h.", GPT2},
    {"GPTJForCausalLM", {"transformer.", NULL}, "h.",
     {{"wte.", "model.embed_tokens."}, {"ln_f.", "model.norm."}},
     {{"ln_1.", "input_layernorm."}, {"attn.out_proj.", "self_attn.o_proj."}, {"attn.", "self_attn."}, {"mlp.fc_in.", "mlp.fc1."}, {"mlp.fc_out.", "mlp.fc2."}}},
    {"GPTNeoXForCausalLM", {"gpt_neox.", NULL}, "layers.",
     {{"embed_in.", "model.embed_tokens."}, {"final_layer_norm.", "model.norm."}, {"embed_out.", "lm_head."}},
     {{"input_layernorm.", "input_layernorm."}, {"post_attention_layernorm.", "post_attention_layernorm."},
      {"attention.query_key_value.", "self_attn.qkv_proj."}, {"attention.dense.", "self_attn.o_proj."}, HALVES}},
    {"OPTForCausalLM", {"model.decoder.", "decoder."}, "layers.",
     {{"embed_tokens.", "model.embed_tokens."}, {"embed_positions.", "model.embed_positions."}, {"final_layer_norm.", "model.norm."}},
     {{"self_attn_layer_norm.", "input_layernorm."}, {"final_layer_norm.", "post_attention_layernorm."}, {"self_attn.out_proj.", "self_attn.o_proj."},
      {"self_attn.", "self_attn."}, {"fc1.", "mlp.fc1."}, {"fc2.", "mlp.fc2."}}},
    {"FalconForCausalLM", {"transformer.", NULL}, "h.",
     {{"word_embeddings.", "model.embed_tokens."}, {"ln_f.", "model.norm."}},
     {{"input_layernorm.", "input_layernorm."}, {"ln_attn.", "input_layernorm."}, {"ln_mlp.", "post_attention_layernorm."},
      {"self_attention.query_key_value.", "self_attn.qkv_proj."}, {"self_attention.dense.", "self_attn.o_proj."}, HALVES}},
};

const struct hf_names *hf_names_of(const struct architecture *a) {
  for (size_t i = 0; i < sizeof families / sizeof *families; i++)
    if (strcmp(families[i].class_name, a->class_name) == 0) return &families[i];
  return NULL;
}

/* The pair whose `file` the name begins with; NULL: none. */
static const struct pair *find(const struct pair *pairs, size_t n, const char *name) {
  for (size_t i = 0; i < n && pairs[i].file; i++)
    if (strncmp(name, pairs[i].file, strlen(pairs[i].file)) == 0) return &pairs[i];
  return NULL;
}

const char *hf_plan_name(const struct hf_names *n, const char *name, char *buffer, size_t size) {
  const char *rest = name;
  for (unsigned i = 0; i < 2 && rest == name && n->prefixes[i]; i++)
    if (strncmp(name, n->prefixes[i], strlen(n->prefixes[i])) == 0) rest = name + strlen(n->prefixes[i]);
  size_t layers = strlen(n->layers);
  const struct pair *found;
  if (strncmp(rest, n->layers, layers) != 0) {
    found = find(n->whole, sizeof n->whole / sizeof *n->whole, rest);
    if (found) snprintf(buffer, size, "%s%s", found->plan, rest + strlen(found->file));
    return found ? buffer : name;
  }
  const char *number = rest + layers; /* as it stands there: who reads it says whether it is one */
  int digits = (int)strspn(number, "0123456789");
  if (digits == 0 || digits > 20 || number[digits] != '.') return name;
  rest = number + digits + 1;
  found = find(n->inner, MOST_NAMES, rest);
  if (found) snprintf(buffer, size, "model.layers.%.*s.%s%s", digits, number, found->plan, rest + strlen(found->file));
  return found ? buffer : name;
}

/* --- config.json ------------------------------------------------------------------------------- */

#define GPT2_KEYS {{"n_embd", "hidden_size"}, {"n_head", "num_attention_heads"}, {"n_inner", "intermediate_size"}, {"n_layer", "num_hidden_layers"}, \
  {"n_positions", "max_position_embeddings"}, {"layer_norm_epsilon", "layer_norm_eps"}, {"activation_function", "hidden_act"}}

static const struct keys {
  const char *type; /* model_type */
  struct pair pairs[12];
} keys[] = {
    {"nomic_bert",
     {{"n_embd", "hidden_size"}, {"n_head", "num_attention_heads"}, {"n_inner", "intermediate_size"}, {"n_layer", "num_hidden_layers"},
      {"n_positions", "max_position_embeddings"}, {"layer_norm_epsilon", "layer_norm_eps"}, {"rotary_emb_base", "rope_theta"},
      {"activation_function", "hidden_act"}}},
    {"gpt2", GPT2_KEYS},
    {"gpt_bigcode", GPT2_KEYS},
    {"gptj", GPT2_KEYS},
    {"gpt_neox", {{"rotary_pct", "partial_rotary_factor"}, {"rotary_emb_base", "rope_theta"}}},
    {"opt", {{"ffn_dim", "intermediate_size"}, {"activation_function", "hidden_act"}, {"enable_bias", "use_bias"}}},
    {"falcon",
     {{"num_kv_heads", "num_key_value_heads"}, {"n_head_kv", "num_key_value_heads"}, {"n_head", "num_attention_heads"}, {"n_layer", "num_hidden_layers"},
      {"ffn_hidden_size", "intermediate_size"}, {"activation", "hidden_act"}, {"layer_norm_epsilon", "layer_norm_eps"}, {"bias", "use_bias"}}},
};

const char *hf_old_refused(const struct hf_config *c) {
  const struct {
    bool wrong;
    const char *key;
  } cases[] = {{c->alibi, "alibi"},
               {!c->parallel_attn, "parallel_attn: false"},
               {!c->do_layer_norm_before, "do_layer_norm_before: false"},
               {c->no_final_norm, "_remove_final_layer_norm"},
               {!c->layer_norm_elementwise_affine, "layer_norm_elementwise_affine: false"},
               {!c->scale_attn_weights, "scale_attn_weights: false"},
               {c->scale_attn_by_inverse_layer_idx, "scale_attn_by_inverse_layer_idx"},
               {c->add_cross_attention, "add_cross_attention"},
               {c->word_embed_proj_dim && c->word_embed_proj_dim != c->hidden_size, "word_embed_proj_dim: another size than hidden_size"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (cases[i].wrong) return cases[i].key;
  return NULL;
}

static bool is_true(json_t *object, const char *key, bool otherwise) {
  json_t *value = json_object_get(object, key);
  return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

/* Falcon's and StarCoder's key heads: but one, unless its newer kind of layers, or the file, says otherwise. */
static void count_key_heads(json_t *object) {
  if (!is_true(object, "new_decoder_architecture", false) && is_true(object, "multi_query", true))
    json_object_set_new(object, "num_key_value_heads", json_integer(1));
}

void hf_rename_keys(json_t *object) {
  const char *type = json_string_value(json_object_get(object, "model_type"));
  const struct keys *found = NULL;
  for (size_t i = 0; type && i < sizeof keys / sizeof *keys; i++)
    if (strcmp(keys[i].type, type) == 0) found = &keys[i];
  for (size_t i = 0; found && i < sizeof found->pairs / sizeof *found->pairs && found->pairs[i].file; i++) {
    json_t *value = json_object_get(object, found->pairs[i].file);
    if (value && !json_object_get(object, found->pairs[i].plan)) json_object_set(object, found->pairs[i].plan, value);
  }
  json_t *act = json_object_get(object, "hidden_act"), *dim = json_object_get(object, "hidden_size"), *inner = json_object_get(object, "intermediate_size");
  if (found && strcmp(type, "nomic_bert") == 0 && json_is_string(act) && strcmp(json_string_value(act), "swiglu") == 0)
    json_object_set_new(object, "hidden_act", json_string("silu"));
  bool falcon = found && strcmp(type, "falcon") == 0, bigcode = found && strcmp(type, "gpt_bigcode") == 0;
  bool four_times = found && (falcon || strncmp(type, "gpt", 3) == 0) && strcmp(type, "gpt_neox") != 0 && (!inner || json_is_null(inner));
  if (four_times && json_is_integer(dim) && json_integer_value(dim) <= MODEL_MAX_DIM)
    json_object_set_new(object, "intermediate_size", json_integer(4 * json_integer_value(dim)));
  if (bigcode) json_object_del(object, "num_key_value_heads"); /* what transformers writes there need not be the model's */
  if (falcon || bigcode) count_key_heads(object);
}
