/* SPDX-License-Identifier: MIT */
/* The lists of config.json: what layers are, and factors of rotary angles. */
#include <string.h>

#include "model/model_private.h"

static int bad_list(const char *name, const char *what, struct tl_error *err) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "config.json: %s: expected %s", name, what);
}

/* As files of before transformers 5 have it. */
static const char *newer_type(const char *type) {
  if (type && strcmp(type, "mamba") == 0) return "linear_attention";
  return type && strcmp(type, "attention") == 0 ? "full_attention" : type;
}

static int read_layer_types(struct hf_config *c, json_t *list, struct tl_error *err) {
  if (!list || json_is_null(list)) return TL_OK;
  if (json_array_size(list) != (size_t)c->num_hidden_layers)
    return bad_list("layer_types", "a list of num_hidden_layers items", err);
  c->has_layer_types = true;
  for (size_t i = 0; i < json_array_size(list); i++) {
    const char *type = newer_type(json_string_value(json_array_get(list, i)));
    c->slides[i] = type && strcmp(type, "sliding_attention") == 0;
    c->keeps[i] = c->state_type && type && strcmp(type, c->state_type) == 0;
    c->chunked[i] = c->attention_chunk_size && type && strcmp(type, "chunked_attention") == 0;
    c->dense[i] = c->one_mixer && type && strcmp(type, "mlp") == 0;
    c->mlp_alone[i] = c->dense[i] || (c->one_mixer && type && strcmp(type, "moe") == 0);
    if (!c->slides[i] && !c->chunked[i] && !c->keeps[i] && !c->mlp_alone[i] && (!type || strcmp(type, "full_attention") != 0))
      return bad_list("layer_types", "full_attention or sliding_attention", err);
    if (c->state_type && c->slides[i]) return bad_list("layer_types", "full_attention, or linear_attention (conv)", err);
  }
  return TL_OK;
}

/* Each n-th layer has no window. EXAONE's is a text, beside layer_types, which say the same. */
static int read_pattern(struct hf_config *c, json_t *value, struct tl_error *err) {
  json_int_t every = json_integer_value(value);
  if (!value || json_is_null(value) || c->has_layer_types) return TL_OK;
  if (every < 1 || every > MODEL_MAX_LAYERS) return bad_list("sliding_window_pattern", "an integer from 1 to 1000, or layer_types", err);
  c->sliding_window_pattern = every;
  return TL_OK;
}

static int read_no_rope_layers(struct hf_config *c, json_t *list, struct tl_error *err) {
  if (!list || json_is_null(list) || (c->floor_scale && json_is_array(list) && json_array_size(list) == 0)) return TL_OK;
  if (json_array_size(list) != (size_t)c->num_hidden_layers)
    return bad_list("no_rope_layers", "a list of num_hidden_layers items", err);
  c->has_no_rope_layers = true;
  for (size_t i = 0; i < json_array_size(list); i++) {
    json_t *item = json_array_get(list, i);
    if (!json_is_integer(item) && !json_is_boolean(item)) return bad_list("no_rope_layers", "0 or 1", err);
    c->rotates[i] = json_is_true(item) || json_integer_value(item) != 0;
  }
  return TL_OK;
}

/* GLM-4.7-Flash's way to say it, in place of first_k_dense_replace. */
static int read_mlp_types(struct hf_config *c, json_t *list, struct tl_error *err) {
  if (!list || json_is_null(list)) return TL_OK;
  if (json_array_size(list) != (size_t)c->num_hidden_layers) return bad_list("mlp_layer_types", "a list of num_hidden_layers items", err);
  c->first_dense = 0;
  for (size_t i = 0; i < json_array_size(list); i++) {
    const char *type = json_string_value(json_array_get(list, i));
    c->dense[i] = type && strcmp(type, "dense") == 0;
    if (!c->dense[i] && (!type || strcmp(type, "sparse") != 0)) return bad_list("mlp_layer_types", "dense or sparse", err);
  }
  return TL_OK;
}

/* LFM2's: the layers that are no convolutions. */
static int read_full_layers(struct hf_config *c, json_t *list, struct tl_error *err) {
  if (!list || json_is_null(list) || c->has_layer_types || !c->state_type) return TL_OK;
  if (!json_is_array(list)) return bad_list("full_attn_idxs", "a list of layers", err);
  for (int64_t i = 0; i < c->num_hidden_layers; i++) c->keeps[i] = true;
  for (size_t i = 0; i < json_array_size(list); i++) {
    json_int_t layer = json_integer_value(json_array_get(list, i));
    if (!json_is_integer(json_array_get(list, i)) || layer < 0 || layer >= c->num_hidden_layers)
      return bad_list("full_attn_idxs", "numbers of layers", err);
    c->keeps[layer] = false;
  }
  return TL_OK;
}

/* K-EXAONE 2's lists: bounds of its experts, and a window of each layer. */
static int check_each_layer(const struct hf_config *c, json_t *limits, json_t *windows, struct tl_error *err) {
  size_t i;
  json_t *item;
  json_array_foreach(limits, i, item) {
    if (json_number_value(item) != 0) return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "config.json: swiglu_limits: is not supported");
  }
  json_array_foreach(windows, i, item) {
    if (i < (size_t)c->num_hidden_layers && c->slides[i] && json_integer_value(item) != c->sliding_window)
      return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "config.json: sliding_windows: expected sliding_window in all layers that have one");
  }
  return TL_OK;
}

static int read_dense_layers(struct hf_config *c, json_t *list, struct tl_error *err) {
  if (!list || json_is_null(list)) return TL_OK;
  if (!json_is_array(list)) return bad_list("mlp_only_layers", "a list of layers", err);
  for (size_t i = 0; i < json_array_size(list); i++) {
    json_t *item = json_array_get(list, i);
    json_int_t layer = json_integer_value(item);
    if (!json_is_integer(item) || layer < 0 || layer >= c->num_hidden_layers)
      return bad_list("mlp_only_layers", "numbers of layers", err);
    c->dense[layer] = true;
  }
  return TL_OK;
}

/* Llama 4's: the layers that have experts. */
static int read_sparse_layers(struct hf_config *c, json_t *list, struct tl_error *err) {
  if (!list || json_is_null(list) || !c->floor_scale) return TL_OK;
  if (!json_is_array(list)) return bad_list("moe_layers", "a list of layers", err);
  for (int64_t i = 0; i < c->num_hidden_layers; i++) c->dense[i] = true;
  c->decoder_sparse_step = 1;
  for (size_t i = 0; i < json_array_size(list); i++) {
    json_int_t layer = json_integer_value(json_array_get(list, i));
    if (!json_is_integer(json_array_get(list, i)) || layer < 0 || layer >= c->num_hidden_layers)
      return bad_list("moe_layers", "numbers of layers", err);
    c->dense[layer] = false;
  }
  return TL_OK;
}

/* Whether queries grow; files have had a number here, too. */
static void read_tuning(struct hf_config *c, json_t *value) {
  if (json_is_false(value) || (json_is_integer(value) && json_integer_value(value) == 0)) c->floor_scale = 0;
}

/* Of the two lists of longrope the one for contexts beyond the original: which context there will
 * be is known when the model is loaded, and cached keys cannot change with it. */
static int read_factors(struct hf_config *c, json_t *rope, struct tl_error *err) {
  if (strcmp(c->rope_type, "longrope") != 0) return TL_OK;
  bool beyond = c->max_position_embeddings > c->original_max_position_embeddings;
  const char *name = beyond ? "long_factor" : "short_factor";
  json_t *list = json_object_get(rope, name);
  if (json_array_size(list) == 0 || json_array_size(list) > MODEL_MAX_HEAD_DIM / 2)
    return bad_list(name, "a list of factors", err);
  for (size_t i = 0; i < json_array_size(list); i++) {
    double factor = json_number_value(json_array_get(list, i));
    if (!(factor >= 1e-3 && factor <= 1e6)) return bad_list(name, "numbers from 0.001 to 1e6", err);
    c->long_factors[c->n_long_factors++] = (float)factor;
  }
  return TL_OK;
}

/* Mamba 2's, of how long a step is. transformers and mamba_ssm bound steps of prompts alone, others none: bounds that bound nothing are
 * all that files have. */
static int check_limits(json_t *list, struct tl_error *err) {
  if (!list || json_is_null(list)) return TL_OK;
  json_t *least = json_array_get(list, 0), *most = json_array_get(list, 1), *infinite = json_object_get(most, "__float__");
  bool unbounded = json_is_string(infinite) && strcmp(json_string_value(infinite), "Infinity") == 0;
  if (json_is_number(least) && json_number_value(least) <= 0 && (unbounded || json_number_value(most) >= 1e30)) return TL_OK;
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "config.json: time_step_limit: expected 0 and Infinity");
}

int hf_config_read_lists(struct hf_config *c, json_t *object, json_t *rope, struct tl_error *err) {
  c->rope_untruncated = json_is_false(json_object_get(rope, "truncate"));
  json_t *types = json_object_get(object, "layer_types"), *limits = json_object_get(object, "time_step_limit");
  int r = read_layer_types(c, types ? types : json_object_get(object, "layers_block_type"), err);
  if (r == TL_OK && c->state_expand) r = check_limits(limits, err);
  if (r == TL_OK) r = check_each_layer(c, json_object_get(object, "swiglu_limits"), json_object_get(object, "sliding_windows"), err);
  if (r == TL_OK) r = read_full_layers(c, json_object_get(object, "full_attn_idxs"), err);
  if (r == TL_OK) r = read_pattern(c, json_object_get(object, "sliding_window_pattern"), err);
  if (r == TL_OK) r = read_no_rope_layers(c, json_object_get(object, "no_rope_layers"), err);
  if (r == TL_OK) r = read_sparse_layers(c, json_object_get(object, "moe_layers"), err);
  read_tuning(c, json_object_get(object, "attn_temperature_tuning"));
  if (r == TL_OK) r = read_dense_layers(c, json_object_get(object, "mlp_only_layers"), err);
  if (r == TL_OK) r = read_mlp_types(c, json_object_get(object, "mlp_layer_types"), err);
  return r == TL_OK ? read_factors(c, rope, err) : r;
}
