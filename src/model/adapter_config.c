/* SPDX-License-Identifier: MIT */
/* adapter_config.json as PEFT writes it. What changes the answer and is not done here is refused by its name. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "model/adapter_private.h"
#include "tokenlane/base/json.h"

static int wrong(struct tl_error *err, const char *label, const char *key, const char *expected) {
  return tl_error_set(err, TL_ECORRUPT, "model.adapters", "model.adapters: %.120s: %.60s: expected %s", label, key, expected);
}

static int refuse(struct tl_error *err, const char *label, const char *key, const char *why) {
  return tl_error_set(err, TL_EUNSUPPORTED, "model.adapters", "model.adapters: %.120s: %.60s: %s", label, key, why);
}

/* null, false, 0, "" and empty lists and objects ask for nothing. */
static bool asks(const json_t *value) {
  switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_NULL:
    case JSON_FALSE: return false;
    case JSON_ARRAY: return json_array_size(value);
    case JSON_OBJECT: return json_object_size(value);
    case JSON_STRING: return json_string_length(value);
    case JSON_INTEGER: return json_integer_value(value) != 0;
    case JSON_REAL:
    case JSON_TRUE: break;
  }
  return true;
}

static int check_unsupported(json_t *object, const char *label, struct tl_error *err) {
  static const struct {
    const char *key, *why;
  } keys[] = {{"use_dora", "DoRA is not supported"},
              {"modules_to_save", "whole modules beside the products' A and B are not supported"},
              {"fan_in_fan_out", "is not supported"},
              {"lora_bias", "biases are not supported"},
              {"trainable_token_indices", "adapted embeddings are not supported"},
              {"target_parameters", "adapted experts are not supported"},
              {"layer_replication", "is not supported"},
              {"megatron_config", "is not supported"},
              {"alora_invocation_tokens", "adapters that begin at a token are not supported"},
              {"use_qalora", "is not supported"},
              {"use_bdlora", "is not supported"},
              {"arrow_config", "is not supported"},
              {"kasa_config", "is not supported"}};
  const char *type = json_string_value(json_object_get(object, "peft_type")), *bias = json_string_value(json_object_get(object, "bias"));
  if (!type) return wrong(err, label, "peft_type", "LORA");
  if (strcmp(type, "LORA") != 0) return refuse(err, label, "peft_type", "only LORA is supported");
  if (asks(json_object_get(object, "bias")) && (!bias || strcmp(bias, "none") != 0))
    return refuse(err, label, "bias", "biases are not supported, only none");
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    if (asks(json_object_get(object, keys[i].key))) return refuse(err, label, keys[i].key, keys[i].why);
  /* these took what the adapter begins with out of the base's weights, which are not the file's any more */
  static const char *const changed[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};
  const char *init = json_string_value(json_object_get(object, "init_lora_weights"));
  for (size_t i = 0; init && i < sizeof changed / sizeof *changed; i++)
    if (strncasecmp(init, changed[i], strlen(changed[i])) == 0)
      return refuse(err, label, "init_lora_weights", "the adapter wants a changed base; PEFT converts it to one that does not");
  return TL_OK;
}

/* PEFT reads names as regular expressions, of which only what a name needs is done: ^ in front, $ behind, dots,
 * and signs behind a backslash, which stand for themselves. */
static bool is_name(const char *pattern) {
  for (const char *c = pattern; *c; c++) {
    if (*c == '\\') {
      if (!*++c || isalnum((unsigned char)*c)) return false; /* \d, \w */
      continue;
    }
    if (strchr("*+?()[]{}|", *c) || (*c == '^' && c > pattern) || (*c == '$' && c[1])) return false;
  }
  return true;
}

/* Names with numbers. */
static int check_pattern(json_t *object, const char *key, const char *label, bool whole, struct tl_error *err) {
  json_t *pattern = json_object_get(object, key), *value;
  const char *name;
  if (!asks(pattern)) return TL_OK;
  if (!json_is_object(pattern)) return wrong(err, label, key, "an object of modules' names with numbers");
  json_object_foreach(pattern, name, value) {
    if (!is_name(name))
      return refuse(err, label, key, "only names of modules are supported, no regular expressions");
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number > 0 && number <= 1e6) || (whole && !json_is_integer(value)))
      return wrong(err, label, key, "numbers above 0");
  }
  return TL_OK;
}

static int check_names(json_t *object, const char *label, struct tl_error *err) {
  json_t *targets = json_object_get(object, "target_modules"), *item;
  size_t i;
  if (json_is_string(targets) || !asks(targets)) return TL_OK; /* the tensors tell */
  if (!json_is_array(targets)) return wrong(err, label, "target_modules", "a list of names");
  json_array_foreach(targets, i, item)
    if (!json_string_length(item)) return wrong(err, label, "target_modules", "a list of names");
  return TL_OK;
}

static int read_numbers(json_t *object, const char *label, struct adapter_config *ret, struct tl_error *err) {
  json_t *r = json_object_get(object, "r"), *alpha = json_object_get(object, "lora_alpha"), *rslora = json_object_get(object, "use_rslora");
  if (r && (!json_is_integer(r) || json_integer_value(r) < 1 || json_integer_value(r) > TL_MAX_ADAPTER_RANK))
    return wrong(err, label, "r", "an integer from 1 to 256");
  ret->r = r ? json_integer_value(r) : 8; /* as that of lora_alpha, PEFT's default */
  ret->alpha = alpha ? json_number_value(alpha) : 8;
  if ((alpha && !json_is_number(alpha)) || !(fabs(ret->alpha) <= 1e6)) return wrong(err, label, "lora_alpha", "a number up to a million");
  if (rslora && !json_is_boolean(rslora) && !json_is_null(rslora)) return wrong(err, label, "use_rslora", "true or false");
  ret->rslora = json_is_true(rslora);
  return TL_OK;
}

int adapter_config_read(const char *folder, const char *label, struct adapter_config *ret, struct tl_error *err) {
  char path[4096];
  json_error_t why;
  *ret = (struct adapter_config){0};
  int n = snprintf(path, sizeof path, "%s/adapter_config.json", folder);
  if (n < 0 || (size_t)n >= sizeof path || access(path, R_OK) != 0)
    return tl_error_set(err, TL_ENOTFOUND, "model.adapters", "model.adapters: %.100s: cannot be read; expected a folder of PEFT, got %.160s",
                        label, folder);
  json_t *object = tl_json_load_file(path, JSON_REJECT_DUPLICATES, &why);
  if (tl_json_is_short(object, &why, err)) return TL_ENOMEM;
  if (!json_is_object(object)) {
    json_decref(object);
    return tl_error_set(err, TL_ECORRUPT, "model.adapters", "model.adapters: %.120s: expected a JSON object: %.150s", label, why.text);
  }
  int r = check_unsupported(object, label, err);
  if (r == TL_OK) r = check_pattern(object, "rank_pattern", label, true, err);
  if (r == TL_OK) r = check_pattern(object, "alpha_pattern", label, false, err);
  if (r == TL_OK) r = check_names(object, label, err);
  if (r == TL_OK) r = read_numbers(object, label, ret, err);
  ret->object = object;
  if (r < 0) adapter_config_done(ret);
  return r;
}

void adapter_config_done(struct adapter_config *config) {
  json_decref(config->object);
  *config = (struct adapter_config){0};
}

/* As PEFT: (.*\.)?NAME$ from the module's beginning. A dot is any character, but one behind a backslash itself. */
static bool names(const char *pattern, const char *module) {
  const char *first = pattern + (*pattern == '^');
  size_t n = 0, length = strlen(module), at = 0;
  for (const char *c = first; *c && !(*c == '$' && !c[1]); c++, n++) c += *c == '\\';
  if (length < n || (length > n && (first > pattern || module[length - n - 1] != '.'))) return false;
  for (const char *c = first, *end = module + length - n; at < n; c++, at++) {
    bool any = *c == '.';
    c += *c == '\\';
    if (!any && *c != end[at]) return false;
  }
  return true;
}

float adapter_config_scale(const struct adapter_config *config, const char *module, uint32_t rank) {
  double alpha = config->alpha;
  const char *name;
  json_t *value;
  json_object_foreach(json_object_get(config->object, "alpha_pattern"), name, value) {
    if (!names(name, module)) continue;
    alpha = json_number_value(value);
    break; /* the first that fits */
  }
  return (float)(alpha / (config->rslora ? sqrt(rank) : (double)rank));
}

bool adapter_config_has_rank(const struct adapter_config *config, uint32_t rank) {
  const char *name;
  json_t *value;
  if (config->r == rank) return true;
  json_object_foreach(json_object_get(config->object, "rank_pattern"), name, value)
    if (json_integer_value(value) == rank) return true;
  return false;
}
