/* SPDX-License-Identifier: MIT */
/* One table of fields drives reading, checking and the error text. A field that
 * is null counts as not given, as OpenAI's clients send it. Fields that are not
 * in the table are ignored, as other servers of this API do; fields that would
 * change the answer but cannot be honoured are in the table as UNSUPPORTED. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"

#define MAX_TOKENS 16777216 /* far above every context: checked exactly against it later */
#define MAX_TIMEOUT_MS 86400000

struct context {
  const struct tl_api *api;
  enum api_endpoint endpoint;
  struct tl_arena *arena;
  struct api_params *params;
};

enum kind { KIND_NUMBER, KIND_INTEGER, KIND_BOOL, KIND_READ, KIND_UNSUPPORTED };

struct field {
  const char *name;
  enum kind kind;
  enum api_endpoint endpoints;
  double min, max;   /* of a number or an integer */
  size_t offset;     /* where in struct api_params; NUMBER double, INTEGER int64_t, BOOL bool */
  int (*read)(struct context *context, const struct field *field, json_t *value, struct tl_error *err);
};

const char *api_value_text(const json_t *value, char *text) {
  switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return json_array_size(value) ? "a list" : "an empty list";
    case JSON_STRING: return json_string_length(value) ? "a string" : "an empty string";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_INTEGER: snprintf(text, 64, "%lld", (long long)json_integer_value(value)); return text;
    case JSON_REAL: snprintf(text, 64, "%.6g", json_real_value(value)); return text;
    default: return "null";
  }
}

static int wrong(struct tl_error *err, const char *field, const char *expected, const json_t *value) {
  char what[64];
  return tl_error_set(err, TL_EINVAL, field, "%s: expected %s, got %s", field, expected, api_value_text(value, what));
}

static int read_number(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  double v = json_number_value(value);
  if (!json_is_number(value) || !(v >= f->min && v <= f->max)) {
    char expected[96];
    snprintf(expected, sizeof expected, "a number from %g to %g", f->min, f->max);
    return wrong(err, f->name, expected, value);
  }
  memcpy((char *)c->params + f->offset, &v, sizeof v);
  return TL_OK;
}

static int read_integer(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  int64_t v = json_integer_value(value);
  if (!json_is_integer(value) || (double)v < f->min || (double)v > f->max) {
    char expected[96];
    snprintf(expected, sizeof expected, "an integer from %.0f to %.0f", f->min, f->max);
    return wrong(err, f->name, expected, value);
  }
  memcpy((char *)c->params + f->offset, &v, sizeof v);
  return TL_OK;
}

static int read_bool(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_boolean(value)) return wrong(err, f->name, "true or false", value);
  bool v = json_is_true(value);
  memcpy((char *)c->params + f->offset, &v, sizeof v);
  return TL_OK;
}

static int read_model(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_string(value)) return wrong(err, f->name, "a string", value);
  c->params->model = json_string_value(value);
  if (strlen(c->params->model) != json_string_length(value)) c->params->model = "";
  return api_check_model(c->api, c->params->model, err);
}

static int read_prompt(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_string(value) && !json_is_array(value))
    return wrong(err, f->name, "a string, a list of strings, a list of token ids or a list of such lists", value);
  c->params->prompt = value;
  return TL_OK;
}

static int read_messages(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_array(value) || json_array_size(value) == 0)
    return wrong(err, f->name, "a list of at least one message", value);
  c->params->messages = value;
  return TL_OK;
}

static int read_stop_string(struct context *c, const char *name, json_t *value, struct tl_error *err) {
  size_t length = json_string_length(value);
  if (!json_is_string(value) || length == 0) return wrong(err, name, "a string that is not empty", value);
  if (length > (size_t)c->api->o.limits.max_stop_bytes)
    return tl_error_set(err, TL_EINVAL, name, "%s: expected at most %lld bytes, got %zu", name,
                        (long long)c->api->o.limits.max_stop_bytes, length);
  unsigned i = c->params->n_stop++;
  c->params->stop[i].text = json_string_value(value);
  c->params->stop[i].length = length;
  return TL_OK;
}

static int read_stop(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (json_is_string(value)) return read_stop_string(c, f->name, value, err);
  if (!json_is_array(value) || json_array_size(value) > API_MAX_STOPS)
    return wrong(err, f->name, "a string or a list of up to 4 strings", value);
  for (size_t i = 0; i < json_array_size(value); i++) {
    char name[32];
    snprintf(name, sizeof name, "stop[%zu]", i);
    int r = read_stop_string(c, name, json_array_get(value, i), err);
    if (r < 0) return r;
  }
  return TL_OK;
}

/* A token id as the key of an object: decimal digits only. -1: is none. */
static int64_t parse_token_key(const char *key) {
  int64_t id = 0;
  if (!*key || strlen(key) > 9) return -1;
  for (; *key; key++) {
    if (*key < '0' || *key > '9') return -1;
    id = id * 10 + (*key - '0');
  }
  return id;
}

static int read_logit_bias(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_object(value)) return wrong(err, f->name, "an object of token ids and numbers", value);
  size_t n = json_object_size(value);
  if (n > (size_t)c->api->o.limits.max_logit_bias)
    return tl_error_set(err, TL_EINVAL, f->name, "logit_bias: expected at most %lld entries, got %zu",
                        (long long)c->api->o.limits.max_logit_bias, n);
  struct tl_token_bias *bias = tl_arena_array(c->arena, n + 1, sizeof *bias);
  if (!bias) return tl_error_set(err, TL_ENOMEM, f->name, "logit_bias: out of memory");
  const char *key;
  json_t *entry;
  uint32_t i = 0;
  json_object_foreach(value, key, entry) {
    int64_t id = parse_token_key(key);
    if (id < 0)
      return tl_error_set(err, TL_EINVAL, f->name, "logit_bias: expected token ids in decimal as keys");
    double v = json_number_value(entry);
    if (!json_is_number(entry) || !(v >= -100 && v <= 100))
      return wrong(err, f->name, "a number from -100 to 100 for each token", entry);
    /* OpenAI documents -100 as a ban */
    bias[i++] = (struct tl_token_bias){(int32_t)id, v <= -100 ? -INFINITY : (float)v};
  }
  c->params->bias = bias;
  c->params->n_bias = i;
  return TL_OK;
}

/* completions: a count; chat: a switch, with the count in top_logprobs. */
static int read_logprobs(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (c->endpoint == API_COMPLETIONS) {
    int64_t v = json_integer_value(value);
    if (!json_is_integer(value) || v < 0 || v > TL_MAX_TOP_LOGPROBS)
      return wrong(err, f->name, "an integer from 0 to 20", value);
    c->params->n_top_logprobs = v;
    return TL_OK;
  }
  if (!json_is_boolean(value)) return wrong(err, f->name, "true or false", value);
  if (json_is_true(value) && c->params->n_top_logprobs < 0) c->params->n_top_logprobs = 0;
  return TL_OK;
}

/* After logprobs in the table. */
static int read_top_logprobs(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  int64_t v = json_integer_value(value);
  if (!json_is_integer(value) || v < 0 || v > TL_MAX_TOP_LOGPROBS)
    return wrong(err, f->name, "an integer from 0 to 20", value);
  if (v > 0 && c->params->n_top_logprobs < 0)
    return tl_error_set(err, TL_EINVAL, f->name, "top_logprobs: expected logprobs to be true with it");
  if (c->params->n_top_logprobs >= 0) c->params->n_top_logprobs = v;
  return TL_OK;
}

static int read_seed(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_integer(value)) return wrong(err, f->name, "an integer", value);
  c->params->seed = json_integer_value(value);
  c->params->has_seed = true;
  return TL_OK;
}

static int read_stream_options(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_object(value)) return wrong(err, f->name, "an object", value);
  json_t *usage = json_object_get(value, "include_usage");
  if (usage && !json_is_null(usage) && !json_is_boolean(usage))
    return wrong(err, "stream_options.include_usage", "true or false", usage);
  c->params->include_usage = json_is_true(usage);
  return TL_OK;
}

static int read_priority(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  static const char *const names[] = {"low", "normal", "high", "critical"}; /* as enum tl_priority */
  json_int_t v = json_is_integer(value) ? json_integer_value(value) : -1;
  for (int i = 0; json_is_string(value) && i < 4; i++)
    if (strcmp(json_string_value(value), names[i]) == 0) v = i;
  if (v < TL_PRIORITY_LOW || v > TL_PRIORITY_CRITICAL)
    return wrong(err, f->name, "low, normal, high or critical, or an integer from 0 (low) to 3 (critical)", value);
  c->params->priority = (enum tl_priority)v;
  return TL_OK;
}

static int read_timeout(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  int64_t most = c->api->o.limits.max_timeout_ms ? c->api->o.limits.max_timeout_ms : MAX_TIMEOUT_MS;
  struct field limited = *f;
  limited.max = (double)most;
  return read_integer(c, &limited, value, err);
}

static int read_cache_salt(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  size_t length = json_string_length(value);
  if (!json_is_string(value) || length == 0 || length > API_MAX_SALT_BYTES)
    return wrong(err, f->name, "a string of 1 to 256 bytes", value);
  c->params->cache_salt = json_string_value(value);
  c->params->cache_salt_length = length;
  return TL_OK;
}

static int read_user(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  (void)c;
  return json_is_string(value) ? TL_OK : wrong(err, f->name, "a string", value);
}

/* Only the one value that asks for nothing is accepted. */
static int read_response_format(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  (void)c;
  if (!json_is_object(value)) return wrong(err, f->name, "an object", value);
  const char *type = json_string_value(json_object_get(value, "type"));
  if (type && strcmp(type, "text") == 0) return TL_OK;
  return tl_error_set(err, TL_EINVAL, f->name, "response_format: only {\"type\": \"text\"} is supported by this server");
}

static int read_unsupported(const struct field *f, json_t *value, struct tl_error *err) {
  bool asks_nothing = json_is_false(value) || (json_is_array(value) && json_array_size(value) == 0) ||
                      (json_is_integer(value) && json_integer_value(value) == 1) ||
                      (json_is_string(value) && (json_string_length(value) == 0 ||
                                                 strcmp(json_string_value(value), "none") == 0 ||
                                                 strcmp(json_string_value(value), "auto") == 0));
  if (asks_nothing) return TL_OK;
  return tl_error_set(err, TL_EINVAL, f->name, "%s: is not supported by this server", f->name);
}

#define AT(member) offsetof(struct api_params, member)

static const struct field fields[] = {
    {"model", KIND_READ, API_BOTH, 0, 0, 0, read_model},
    {"prompt", KIND_READ, API_COMPLETIONS, 0, 0, 0, read_prompt},
    {"messages", KIND_READ, API_CHAT, 0, 0, 0, read_messages},
    {"max_tokens", KIND_INTEGER, API_BOTH, 0, MAX_TOKENS, AT(max_tokens), NULL},
    {"max_completion_tokens", KIND_INTEGER, API_CHAT, 1, MAX_TOKENS, AT(max_completion_tokens), NULL},
    {"min_tokens", KIND_INTEGER, API_BOTH, 0, MAX_TOKENS, AT(min_tokens), NULL},
    {"n", KIND_INTEGER, API_BOTH, 1, 1 << 20, AT(n), NULL},
    {"temperature", KIND_NUMBER, API_BOTH, 0, 2, AT(temperature), NULL},
    {"top_p", KIND_NUMBER, API_BOTH, 0, 1, AT(top_p), NULL},
    {"top_k", KIND_INTEGER, API_BOTH, -1, MAX_TOKENS, AT(top_k), NULL},
    {"min_p", KIND_NUMBER, API_BOTH, 0, 1, AT(min_p), NULL},
    {"seed", KIND_READ, API_BOTH, 0, 0, 0, read_seed},
    {"stop", KIND_READ, API_BOTH, 0, 0, 0, read_stop},
    {"presence_penalty", KIND_NUMBER, API_BOTH, -2, 2, AT(presence_penalty), NULL},
    {"frequency_penalty", KIND_NUMBER, API_BOTH, -2, 2, AT(frequency_penalty), NULL},
    {"repetition_penalty", KIND_NUMBER, API_BOTH, 0.01, 100, AT(repetition_penalty), NULL},
    {"logit_bias", KIND_READ, API_BOTH, 0, 0, 0, read_logit_bias},
    {"logprobs", KIND_READ, API_BOTH, 0, 0, 0, read_logprobs},
    {"top_logprobs", KIND_READ, API_CHAT, 0, 0, 0, read_top_logprobs},
    {"echo", KIND_BOOL, API_COMPLETIONS, 0, 0, AT(echo), NULL},
    {"ignore_eos", KIND_BOOL, API_BOTH, 0, 0, AT(ignore_eos), NULL},
    {"stream", KIND_BOOL, API_BOTH, 0, 0, AT(stream), NULL},
    {"stream_options", KIND_READ, API_BOTH, 0, 0, 0, read_stream_options},
    {"priority", KIND_READ, API_BOTH, 0, 0, 0, read_priority},
    {"timeout_ms", KIND_READ, API_BOTH, 1, MAX_TIMEOUT_MS, AT(timeout_ms), read_timeout},
    {"cache_salt", KIND_READ, API_BOTH, 0, 0, 0, read_cache_salt},
    {"user", KIND_READ, API_BOTH, 0, 0, 0, read_user},
    {"response_format", KIND_READ, API_CHAT, 0, 0, 0, read_response_format},
    {"tools", KIND_UNSUPPORTED, API_CHAT, 0, 0, 0, NULL},
    {"tool_choice", KIND_UNSUPPORTED, API_CHAT, 0, 0, 0, NULL},
    {"functions", KIND_UNSUPPORTED, API_CHAT, 0, 0, 0, NULL},
    {"function_call", KIND_UNSUPPORTED, API_CHAT, 0, 0, 0, NULL},
    {"audio", KIND_UNSUPPORTED, API_CHAT, 0, 0, 0, NULL},
    {"best_of", KIND_UNSUPPORTED, API_COMPLETIONS, 0, 0, 0, NULL},
    {"suffix", KIND_UNSUPPORTED, API_COMPLETIONS, 0, 0, 0, NULL},
};

static int read_field(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  switch (f->kind) {
    case KIND_NUMBER: return read_number(c, f, value, err);
    case KIND_INTEGER: return read_integer(c, f, value, err);
    case KIND_BOOL: return read_bool(c, f, value, err);
    case KIND_READ: return f->read(c, f, value, err);
    case KIND_UNSUPPORTED: break;
  }
  return read_unsupported(f, value, err);
}

/* What no single field can tell. */
static int check_together(const struct tl_api *api, enum api_endpoint endpoint, const struct api_params *p,
                          struct tl_error *err) {
  if (endpoint == API_COMPLETIONS && !p->prompt)
    return tl_error_set(err, TL_EINVAL, "prompt", "prompt: is required");
  if (endpoint == API_CHAT && !p->messages)
    return tl_error_set(err, TL_EINVAL, "messages", "messages: is required");
  if (endpoint == API_CHAT && p->max_tokens == 0)
    return tl_error_set(err, TL_EINVAL, "max_tokens", "max_tokens: expected an integer from 1, got 0");
  if (p->max_tokens == 0 && !p->echo)
    return tl_error_set(err, TL_EINVAL, "max_tokens", "max_tokens: 0 is allowed only together with echo");
  if (p->n > api->o.limits.max_choices)
    return tl_error_set(err, TL_EINVAL, "n", "n: expected an integer from 1 to %lld, got %lld",
                        (long long)api->o.limits.max_choices, (long long)p->n);
  return TL_OK;
}

int api_fields_read(const struct tl_api *api, enum api_endpoint endpoint, json_t *body, struct tl_arena *arena,
                    struct api_params *ret, struct tl_error *err) {
  *ret = (struct api_params){.n = 1, .max_tokens = -1, .max_completion_tokens = -1, .min_tokens = 0,
                             .temperature = -1, .top_p = -1, .min_p = -1, .top_k = -1,
                             .repetition_penalty = -1, .n_top_logprobs = -1, .priority = TL_PRIORITY_NORMAL};
  const struct tl_api_limits *limits = &api->o.limits;
  ret->timeout_ms = limits->default_timeout_ms ? limits->default_timeout_ms : limits->max_timeout_ms;
  struct context context = {api, endpoint, arena, ret};
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    json_t *value = json_object_get(body, fields[i].name);
    if (!(fields[i].endpoints & endpoint) || !value || json_is_null(value)) continue;
    int r = read_field(&context, &fields[i], value, err);
    if (r < 0) return r;
  }
  return check_together(api, endpoint, ret, err);
}
