/* SPDX-License-Identifier: MIT */
/* What the readers of tokenizer.json share: a part is null, one object with a type, or a
 * Sequence of such objects. */
#include <string.h>

#include "text/tokenizer_private.h"

const char *tok_type(json_t *json) {
  const char *type = json_string_value(json_object_get(json, "type"));
  return type ? type : "";
}

bool tok_is_type(json_t *json, const char *type) {
  return strcmp(tok_type(json), type) == 0;
}

int tok_unsupported(const char *part, json_t *json, struct tl_error *err) {
  return tl_error_set(err, TL_EUNSUPPORTED, NULL, "%s.type \"%.60s\" is not supported", part, tok_type(json));
}

static int each_within(struct tl_tokenizer *t, json_t *json, const char *key, unsigned depth,
                       int (*one)(struct tl_tokenizer *t, json_t *json, struct tl_error *err), struct tl_error *err) {
  if (!json || json_is_null(json)) return TL_OK;
  if (!tok_is_type(json, "Sequence")) return one(t, json, err);
  if (depth == TOK_MAX_STEPS) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "%s: Sequences are nested too deeply", key);
  json_t *list = json_object_get(json, key), *item;
  if (!json_is_array(list)) return tl_error_set(err, TL_ECORRUPT, NULL, "%s: expected a list", key);
  size_t i;
  json_array_foreach(list, i, item) {
    int r = each_within(t, item, key, depth + 1, one, err);
    if (r < 0) return r;
  }
  return TL_OK;
}

int tok_each(struct tl_tokenizer *t, json_t *json, const char *key,
             int (*one)(struct tl_tokenizer *t, json_t *json, struct tl_error *err), struct tl_error *err) {
  return each_within(t, json, key, 0, one, err);
}

bool tok_flag(json_t *json, const char *key, bool otherwise) {
  json_t *value = json_object_get(json, key);
  return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

int tok_string(struct tl_tokenizer *t, json_t *json, const char *key, const char **ret, size_t *ret_length,
               struct tl_error *err) {
  json_t *value = json_object_get(json, key);
  if (!json_is_string(value)) return tl_error_set(err, TL_ECORRUPT, NULL, "%s.%s: expected a string", tok_type(json), key);
  *ret_length = json_string_length(value);
  *ret = tl_arena_copy(&t->mem, json_string_value(value), *ret_length);
  return *ret ? TL_OK : tok_out_of_memory(err);
}

int tok_pattern(struct tl_tokenizer *t, json_t *json, pcre2_code **ret_pattern, const char **ret_literal, size_t *ret_length,
                struct tl_error *err) {
  json_t *pattern = json_object_get(json, "pattern"), *regex = json_object_get(pattern, "Regex");
  if (json_is_string(regex)) {
    int r = tok_pattern_compile(json_string_value(regex), json_string_length(regex), ret_pattern, err);
    if (r < 0) tl_error_prefix(err, tok_type(json));
    return r;
  }
  if (!json_is_string(json_object_get(pattern, "String")))
    return tl_error_set(err, TL_ECORRUPT, NULL, "%s.pattern: expected {\"Regex\": string} or {\"String\": string}", tok_type(json));
  return tok_string(t, pattern, "String", ret_literal, ret_length, err);
}
