/* SPDX-License-Identifier: MIT */
/* One table of fields drives reading, checking and the error text. A field that
 * is null counts as not given, as OpenAI's clients send it. Nothing that could
 * change the answer is passed over in silence: fields that cannot be honoured
 * are UNSUPPORTED but for the values that ask for nothing, and a field that is
 * not in the table is refused, as OpenAI does; so a slip of the pen is noticed. */
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"
#include "api/responses.h"

#define MAX_TOKENS 16777216 /* far above every context: checked exactly against it later */
#define MAX_TIMEOUT_MS 86400000

struct context {
  const struct tl_api *api;
  enum api_endpoint endpoint;
  struct tl_arena *arena;
  struct api_params *params;
};

enum kind { KIND_NUMBER, KIND_INTEGER, KIND_BOOL, KIND_READ, KIND_IGNORED, KIND_UNSUPPORTED };

struct field {
  const char *name;
  enum kind kind;
  enum api_endpoint endpoints;
  double min, max;   /* of a number or an integer */
  size_t offset;     /* where in struct api_params; NUMBER double, INTEGER int64_t, BOOL bool */
  int (*read)(struct context *context, const struct field *field, json_t *value, struct tl_error *err);
  const char *nothing; /* UNSUPPORTED: values that ask for nothing, as JSON, a blank after each */
};

static int read_number(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  double v = json_number_value(value);
  if (!json_is_number(value) || !(v >= f->min && v <= f->max)) {
    char expected[96];
    snprintf(expected, sizeof expected, "a number from %g to %g", f->min, f->max);
    return api_wrong(err, f->name, expected, value);
  }
  memcpy((char *)c->params + f->offset, &v, sizeof v);
  return TL_OK;
}

static int read_integer(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  int64_t v = json_integer_value(value);
  if (!json_is_integer(value) || (double)v < f->min || (double)v > f->max) {
    char expected[96];
    snprintf(expected, sizeof expected, "an integer from %.0f to %.0f", f->min, f->max);
    return api_wrong(err, f->name, expected, value);
  }
  memcpy((char *)c->params + f->offset, &v, sizeof v);
  return TL_OK;
}

static int read_bool(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_boolean(value)) return api_wrong(err, f->name, "true or false", value);
  bool v = json_is_true(value);
  memcpy((char *)c->params + f->offset, &v, sizeof v);
  return TL_OK;
}

static int read_model(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  (void)f;
  c->params->model = json_string_value(value);
  return api_find_model(c->api, value, &c->params->served, &c->params->adapter, err);
}

static int read_prompt(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_string(value) && !json_is_array(value))
    return api_wrong(err, f->name, "a string, a list of strings, a list of token ids or a list of such lists", value);
  c->params->prompt = value;
  return TL_OK;
}

static int read_messages(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_array(value) || json_array_size(value) == 0)
    return api_wrong(err, f->name, "a list of at least one message", value);
  c->params->messages = value;
  return TL_OK;
}

/* [{"type": "function", "function": {"name": ...}}, ...]: the template may look at the rest. */
static int read_tools(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  size_t i;
  json_t *tool;
  char name[48];
  if (!json_is_array(value)) return api_wrong(err, f->name, "a list of tools", value);
  json_array_foreach(value, i, tool) {
    const char *type = json_string_value(json_object_get(tool, "type"));
    json_t *function = json_object_get(tool, "function"), *called = json_object_get(function, "name");
    snprintf(name, sizeof name, "tools[%zu].type", i);
    if (!type || strcmp(type, "function") != 0)
      return tl_error_set(err, TL_EINVAL, name, "%s: expected \"function\"; no other tools are supported", name);
    snprintf(name, sizeof name, "tools[%zu].function.name", i);
    if (!json_is_string(called) || !json_string_length(called)) return api_wrong(err, name, "a string that is not empty", called);
  }
  if (i) c->params->tools = value;
  return TL_OK;
}

static int read_documents(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  size_t i;
  json_t *document;
  if (!json_is_array(value)) return api_wrong(err, f->name, "a list of objects", value);
  json_array_foreach(value, i, document) {
    char name[32];
    snprintf(name, sizeof name, "documents[%zu]", i);
    if (!json_is_object(document)) return api_wrong(err, name, "an object", document);
  }
  if (i) c->params->documents = value;
  return TL_OK;
}

static int read_chat_template_kwargs(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_object(value)) return api_wrong(err, f->name, "an object", value);
  c->params->chat_template_kwargs = value;
  return TL_OK;
}

static int read_chat_template(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_string(value) || !json_string_length(value)) return api_wrong(err, f->name, "a string that is not empty", value);
  c->params->chat_template = value;
  return TL_OK;
}

/* Before add_generation_prompt in the table, which is false with it unless it says otherwise. */
static int read_continue_final_message(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_boolean(value)) return api_wrong(err, f->name, "true or false", value);
  c->params->continue_final_message = json_is_true(value);
  c->params->add_generation_prompt = !json_is_true(value);
  return TL_OK;
}

/* What /v1/messages has in a form of its own. */
static int read_of_message(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  return api_messages_read(c->params, f->name, value, err);
}

/* What /v1/responses has and no other endpoint. */
static int read_responses(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  return api_responses_read(c->params, f->name, value, err);
}

static int read_input(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_string(value) && !json_is_array(value))
    return api_wrong(err, f->name, "a string, a list of strings, a list of token ids or a list of such lists", value);
  c->params->input = value;
  return TL_OK;
}

static int read_query(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  c->params->query = value;
  return json_is_string(value) ? TL_OK : api_wrong(err, f->name, "a string", value);
}

static int read_ranked_documents(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  c->params->documents = value;
  return json_is_array(value) ? TL_OK : api_wrong(err, f->name, "a list of strings or of objects with a text", value);
}

/* Their items are read when it is known which model's they are. */
static int read_list(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  memcpy((char *)c->params + f->offset, &value, sizeof value);
  return json_is_array(value) ? TL_OK : api_wrong(err, f->name, "a list", value);
}

/* text_1 and text_2 */
static int read_text(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  memcpy((char *)c->params + f->offset, &value, sizeof value);
  return json_is_string(value) || json_is_array(value) ? TL_OK : api_wrong(err, f->name, "a string or a list of strings", value);
}

static int read_encoding_format(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  const char *format = json_is_string(value) ? json_string_value(value) : "";
  c->params->base64 = strcmp(format, "base64") == 0;
  return c->params->base64 || strcmp(format, "float") == 0 ? TL_OK : api_wrong(err, f->name, "float or base64", value);
}

static int read_truncate_prompt_tokens(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  int64_t v = json_integer_value(value);
  if (!json_is_integer(value) || v < -1 || v == 0 || v > MAX_TOKENS)
    return api_wrong(err, f->name, "-1 (what the model takes) or an integer from 1", value);
  c->params->truncate_prompt_tokens = v;
  return TL_OK;
}

static int read_stop(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  return api_read_stops(c->params, f->name, value, c->endpoint != API_MESSAGES, (size_t)c->api->o.limits.max_stop_bytes, err);
}

static int read_logit_bias(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  (void)f;
  return api_read_logit_bias(c->params, c->arena, value, (size_t)c->api->o.limits.max_logit_bias, err);
}

/* completions: a count; chat: a switch, with the count in top_logprobs. */
static int read_logprobs(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (c->endpoint == API_COMPLETIONS) {
    int64_t v = json_integer_value(value);
    if (!json_is_integer(value) || v < 0 || v > TL_MAX_TOP_LOGPROBS)
      return api_wrong(err, f->name, "an integer from 0 to 20", value);
    c->params->n_top_logprobs = v;
    return TL_OK;
  }
  if (!json_is_boolean(value)) return api_wrong(err, f->name, "true or false", value);
  if (json_is_true(value) && c->params->n_top_logprobs < 0) c->params->n_top_logprobs = 0;
  return TL_OK;
}

/* After logprobs and include in the table. */
static int read_top_logprobs(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  int64_t v = json_integer_value(value);
  if (!json_is_integer(value) || v < 0 || v > TL_MAX_TOP_LOGPROBS)
    return api_wrong(err, f->name, "an integer from 0 to 20", value);
  if (v > 0 && c->params->n_top_logprobs < 0)
    return tl_error_set(err, TL_EINVAL, f->name, "top_logprobs: expected %s with it",
                        c->endpoint == API_CHAT ? "logprobs to be true" : "include to have \"message.output_text.logprobs\"");
  if (c->params->n_top_logprobs >= 0) c->params->n_top_logprobs = v;
  return TL_OK;
}

static int read_seed(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_integer(value)) return api_wrong(err, f->name, "an integer", value);
  c->params->seed = json_integer_value(value);
  c->params->has_seed = true;
  return TL_OK;
}

static int read_prediction(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  (void)f;
  return api_prediction_read(c->params, value, err);
}

/* After stream in the table. */
static int read_stream_options(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  if (!json_is_object(value)) return api_wrong(err, f->name, "an object", value);
  json_t *usage = json_object_get(value, "include_usage");
  if (usage && !json_is_null(usage) && !json_is_boolean(usage))
    return api_wrong(err, "stream_options.include_usage", "true or false", usage);
  c->params->include_usage = json_is_true(usage);
  json_t *continuous = json_object_get(value, "continuous_usage_stats"); /* vLLM's: nothing without the other */
  if (continuous && !json_is_null(continuous) && !json_is_boolean(continuous))
    return api_wrong(err, "stream_options.continuous_usage_stats", "true or false", continuous);
  c->params->continuous_usage = json_is_true(usage) && json_is_true(continuous);
  if (!c->params->stream)
    return tl_error_set(err, TL_EINVAL, f->name, "stream_options: expected stream to be true with it");
  return TL_OK;
}

/* vLLM's: the answer's id is made of it, as it is. */
static int read_request_id(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  size_t length = json_string_length(value), fine = 0;
  const char *text = json_string_value(value);
  while (text && (text[fine] > ' ' && text[fine] < 0x7f && text[fine] != '"' && text[fine] != '\\')) fine++;
  if (length == 0 || length > API_MAX_REQUEST_ID || fine != length)
    return api_wrong(err, f->name, "a string of 1 to 64 visible ASCII characters without quotes and backslashes", value);
  c->params->request_id = text;
  return TL_OK;
}

static int read_priority(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  static const char *const names[] = {"low", "normal", "high", "critical"}; /* as enum tl_priority */
  json_int_t v = json_is_integer(value) ? json_integer_value(value) : -1;
  for (int i = 0; json_is_string(value) && i < 4; i++)
    if (strcmp(json_string_value(value), names[i]) == 0) v = i;
  if (v < TL_PRIORITY_LOW || v > TL_PRIORITY_CRITICAL)
    return api_wrong(err, f->name, "low, normal, high or critical, or an integer from 0 (low) to 3 (critical)", value);
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
    return api_wrong(err, f->name, "a string of 1 to 256 bytes", value);
  c->params->cache_salt = json_string_value(value);
  c->params->cache_salt_length = length;
  return TL_OK;
}

static int read_user(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  (void)c;
  return json_is_string(value) ? TL_OK : api_wrong(err, f->name, "a string", value);
}

/* All that an answer can be held to. */
static int read_structured(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  return api_structured_read(c->params, f->name, value, err);
}

/* OpenAI's and vLLM's words. */
static int read_reasoning_effort(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  return api_reasoning_effort(c->params, f->name, value, err);
}

/* llama.cpp's. */
static int read_reasoning_format(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  const char *format = json_is_string(value) ? json_string_value(value) : "";
  c->params->split_reasoning = strcmp(format, "none") != 0;
  if (!c->params->split_reasoning || strcmp(format, "auto") == 0 || strcmp(format, "deepseek") == 0) return TL_OK;
  return api_wrong(err, f->name, "none, auto or deepseek", value);
}

/* Only text can be had. */
static int read_modalities(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  (void)c;
  const char *first = json_string_value(json_array_get(value, 0));
  if (json_array_size(value) == 1 && first && strcmp(first, "text") == 0) return TL_OK;
  return tl_error_set(err, TL_EINVAL, f->name, "modalities: only [\"text\"] is supported by this server");
}

static bool asks_nothing(const struct field *f, const json_t *value) {
  char text[32];
  size_t n = json_dumpb(value, text, sizeof text - 2, JSON_ENCODE_ANY | JSON_COMPACT);
  if (n == 0 || n > sizeof text - 2) return false;
  memcpy(text + n, " ", 2);
  const char *at = strstr(f->nothing, text);
  return at && (at == f->nothing || at[-1] == ' ');
}

static int read_unsupported(const struct field *f, json_t *value, struct tl_error *err) {
  if (asks_nothing(f, value)) return TL_OK;
  return tl_error_set(err, TL_EINVAL, f->name, "%s: is not supported by this server", f->name);
}

#define AT(member) offsetof(struct api_params, member)

#define NUMBER(name, endpoints, min, max) {#name, KIND_NUMBER, endpoints, min, max, AT(name), NULL, NULL}
#define INTEGER(name, endpoints, min, max) {#name, KIND_INTEGER, endpoints, min, max, AT(name), NULL, NULL}
#define BOOL(name, endpoints) {#name, KIND_BOOL, endpoints, 0, 0, AT(name), NULL, NULL}
#define LIST(name, endpoints) {#name, KIND_READ, endpoints, 0, 0, AT(name), read_list, NULL}
#define READ(name, endpoints) {#name, KIND_READ, endpoints, 0, 0, 0, read_##name, NULL}
#define OF_MESSAGE(name) {#name, KIND_READ, API_MESSAGES | API_COUNT, 0, 0, 0, read_of_message, NULL}
#define RESPONSES(name) {#name, KIND_READ, API_RESPONSES, 0, 0, 0, read_responses, NULL}
#define STRUCTURED(name, endpoints) {#name, KIND_READ, endpoints, 0, 0, 0, read_structured, NULL}
#define IGNORED(name, endpoints) {#name, KIND_IGNORED, endpoints, 0, 0, 0, NULL, NULL}
#define UNSUPPORTED(name, endpoints, nothing) {#name, KIND_UNSUPPORTED, endpoints, 0, 0, 0, NULL, nothing}

static const struct field fields[] = {
    READ(model, API_ALL),
    READ(input, API_EMBEDDINGS),
    READ(encoding_format, API_EMBEDDINGS),
    INTEGER(dimensions, API_EMBEDDINGS, 1, MAX_TOKENS),
    READ(query, API_RERANK),
    {"documents", KIND_READ, API_RERANK, 0, 0, 0, read_ranked_documents, NULL},
    INTEGER(top_n, API_RERANK, 1, MAX_TOKENS),
    BOOL(return_documents, API_RERANK),
    {"text_1", KIND_READ, API_SCORE, 0, 0, AT(text_1), read_text, NULL},
    {"text_2", KIND_READ, API_SCORE, 0, 0, AT(text_2), read_text, NULL},
    READ(truncate_prompt_tokens, API_VECTORS | API_COMPLETIONS),
    BOOL(add_special_tokens, API_BOTH | API_TEMPLATE),
    RESPONSES(input),
    RESPONSES(instructions),
    RESPONSES(tools),
    RESPONSES(include),
    RESPONSES(metadata),
    RESPONSES(truncation),
    RESPONSES(previous_response_id),
    READ(prompt, API_COMPLETIONS),
    READ(messages, API_CHAT | API_TEMPLATE),
    READ(tools, API_CHAT | API_TEMPLATE),
    READ(documents, API_CHAT | API_TEMPLATE),
    READ(chat_template, API_CHAT | API_TEMPLATE | API_RESPONSES),
    READ(chat_template_kwargs, API_CHAT | API_TEMPLATE | API_RESPONSES | API_MESSAGES | API_COUNT),
    OF_MESSAGE(system),
    OF_MESSAGE(messages),
    OF_MESSAGE(tools),
    OF_MESSAGE(tool_choice),
    OF_MESSAGE(thinking),
    OF_MESSAGE(output_config),
    READ(continue_final_message, API_CHAT | API_TEMPLATE),
    BOOL(add_generation_prompt, API_CHAT | API_TEMPLATE),
    INTEGER(max_tokens, API_BOTH | API_MESSAGES, 0, MAX_TOKENS),
    INTEGER(max_completion_tokens, API_BOTH, 1, MAX_TOKENS),
    {"max_output_tokens", KIND_INTEGER, API_RESPONSES, 1, MAX_TOKENS, AT(max_completion_tokens), NULL, NULL},
    INTEGER(min_tokens, API_GENERATE, 0, MAX_TOKENS),
    INTEGER(n, API_BOTH, 1, 1 << 20),
    NUMBER(temperature, API_GENERATE, 0, 2),
    NUMBER(top_p, API_GENERATE, 0, 1),
    INTEGER(top_k, API_GENERATE, -1, MAX_TOKENS),
    NUMBER(min_p, API_GENERATE, 0, 1),
    READ(seed, API_GENERATE),
    READ(stop, API_GENERATE & ~API_MESSAGES),
    {"stop_sequences", KIND_READ, API_MESSAGES, 0, 0, 0, read_stop, NULL},
    LIST(stop_token_ids, API_GENERATE),
    LIST(bad_words, API_GENERATE),
    LIST(allowed_token_ids, API_GENERATE),
    BOOL(include_stop_str_in_output, API_GENERATE),
    BOOL(skip_special_tokens, API_GENERATE),
    BOOL(return_token_ids, API_BOTH),
    BOOL(return_tokens_as_token_ids, API_GENERATE & ~API_MESSAGES),
    NUMBER(presence_penalty, API_GENERATE, -2, 2),
    NUMBER(frequency_penalty, API_GENERATE, -2, 2),
    NUMBER(repetition_penalty, API_GENERATE, 0.01, 100),
    READ(logit_bias, API_GENERATE),
    READ(logprobs, API_BOTH),
    READ(top_logprobs, API_CHAT | API_RESPONSES),
    INTEGER(prompt_logprobs, API_BOTH, 0, TL_MAX_TOP_LOGPROBS),
    BOOL(echo, API_COMPLETIONS),
    BOOL(ignore_eos, API_GENERATE),
    BOOL(stream, API_GENERATE),
    READ(stream_options, API_GENERATE & ~API_MESSAGES),
    READ(priority, API_ALL),
    {"timeout_ms", KIND_READ, API_ALL, 1, MAX_TIMEOUT_MS, AT(timeout_ms), read_timeout, NULL},
    READ(cache_salt, API_GENERATE),
    READ(request_id, API_BOTH),
    READ(user, API_ALL),
    READ(modalities, API_CHAT),
    READ(prediction, API_CHAT),
    STRUCTURED(response_format, API_BOTH),
    STRUCTURED(structured_outputs, API_GENERATE),
    STRUCTURED(guided_json, API_GENERATE),
    STRUCTURED(guided_regex, API_GENERATE),
    STRUCTURED(guided_choice, API_GENERATE),
    STRUCTURED(guided_grammar, API_GENERATE),
    STRUCTURED(json_schema, API_GENERATE),
    STRUCTURED(grammar, API_GENERATE),
    STRUCTURED(text, API_RESPONSES),
    STRUCTURED(tool_choice, API_CHAT | API_RESPONSES),
    BOOL(parallel_tool_calls, API_CHAT | API_RESPONSES),
    BOOL(include_reasoning, API_CHAT | API_RESPONSES),
    READ(reasoning_effort, API_CHAT | API_TEMPLATE),
    RESPONSES(reasoning),
    READ(reasoning_format, API_CHAT | API_RESPONSES),
    /* they change where or how an answer is made or kept, not what it says */
    IGNORED(metadata, API_BOTH),
    IGNORED(store, API_CHAT | API_RESPONSES),
    IGNORED(service_tier, API_CHAT | API_RESPONSES),
    IGNORED(safety_identifier, API_CHAT | API_RESPONSES),
    IGNORED(prompt_cache_key, API_CHAT | API_RESPONSES),
    IGNORED(prompt_cache_options, API_CHAT | API_RESPONSES),
    IGNORED(prompt_cache_retention, API_CHAT | API_RESPONSES),
    IGNORED(max_tool_calls, API_RESPONSES), /* of tools that the server itself has */
    IGNORED(metadata, API_MESSAGES),
    IGNORED(service_tier, API_MESSAGES),
    IGNORED(inference_geo, API_MESSAGES | API_COUNT),
    IGNORED(speed, API_MESSAGES | API_COUNT),
    IGNORED(diagnostics, API_MESSAGES),
    IGNORED(cache_control, API_MESSAGES | API_COUNT),
    IGNORED(context_management, API_MESSAGES | API_COUNT), /* what would be left out of a conversation stays in */
    UNSUPPORTED(container, API_MESSAGES, ""),
    UNSUPPORTED(mcp_servers, API_MESSAGES | API_COUNT, "[] "),
    UNSUPPORTED(functions, API_CHAT, "[] "),
    UNSUPPORTED(function_call, API_CHAT, "\"none\" \"auto\" "),
    UNSUPPORTED(audio, API_CHAT, ""),
    UNSUPPORTED(moderation, API_CHAT | API_RESPONSES, ""),
    UNSUPPORTED(verbosity, API_CHAT, "\"medium\" "),
    UNSUPPORTED(web_search_options, API_CHAT, ""),
    UNSUPPORTED(background, API_RESPONSES, "false "),
    UNSUPPORTED(conversation, API_RESPONSES, ""),
    UNSUPPORTED(prompt, API_RESPONSES, ""),
    UNSUPPORTED(context_management, API_RESPONSES, "[] "),
    UNSUPPORTED(best_of, API_COMPLETIONS, "1 "),
    UNSUPPORTED(suffix, API_COMPLETIONS, "\"\" "),
    /* vLLM's */
    UNSUPPORTED(use_beam_search, API_GENERATE, "false "),
    UNSUPPORTED(length_penalty, API_GENERATE, "1 1.0 "),
    UNSUPPORTED(early_stopping, API_BOTH, "false "),
    UNSUPPORTED(spaces_between_special_tokens, API_GENERATE, "true "),
    UNSUPPORTED(echo, API_CHAT, "false "),
    UNSUPPORTED(logits_processors, API_BOTH, "[] "),
    UNSUPPORTED(mm_processor_kwargs, API_BOTH | API_RESPONSES, "{} "),
    UNSUPPORTED(vllm_xargs, API_BOTH | API_RESPONSES, "{} "),
    UNSUPPORTED(enable_response_messages, API_RESPONSES, "false "),
    UNSUPPORTED(kv_transfer_params, API_BOTH, "{} "),
    UNSUPPORTED(prompt_embeds, API_COMPLETIONS, ""),
    UNSUPPORTED(guided_whitespace_pattern, API_BOTH, ""),
    IGNORED(guided_decoding_backend, API_BOTH),
    /* llama.cpp's */
    UNSUPPORTED(cache_prompt, API_BOTH, "true "), /* which is engine.prefix_cache */
    UNSUPPORTED(n_predict, API_BOTH, ""),         /* max_tokens */
    UNSUPPORTED(n_probs, API_BOTH, "0 "),
    UNSUPPORTED(n_keep, API_BOTH, "0 "),
    UNSUPPORTED(id_slot, API_BOTH, "-1 "),
    UNSUPPORTED(samplers, API_BOTH, ""),
    UNSUPPORTED(repeat_penalty, API_BOTH, "1 1.0 "), /* repetition_penalty has no window */
    UNSUPPORTED(mirostat, API_BOTH, "0 "),
    UNSUPPORTED(typical_p, API_BOTH, "1 1.0 "),
    UNSUPPORTED(dynatemp_range, API_BOTH, "0 0.0 "),
    UNSUPPORTED(dry_multiplier, API_BOTH, "0 0.0 "),
    UNSUPPORTED(xtc_probability, API_BOTH, "0 0.0 "),
    UNSUPPORTED(timings_per_token, API_BOTH, "false "),
    UNSUPPORTED(return_progress, API_BOTH, "false "),
};
#define N_FIELDS (sizeof fields / sizeof *fields)

static int read_field(struct context *c, const struct field *f, json_t *value, struct tl_error *err) {
  switch (f->kind) {
    case KIND_NUMBER: return read_number(c, f, value, err);
    case KIND_INTEGER: return read_integer(c, f, value, err);
    case KIND_BOOL: return read_bool(c, f, value, err);
    case KIND_READ: return f->read(c, f, value, err);
    case KIND_IGNORED: return TL_OK;
    case KIND_UNSUPPORTED: break;
  }
  return read_unsupported(f, value, err);
}

int api_check_names(enum api_endpoint endpoint, const char *const *others, json_t *body, struct tl_error *err) {
  const char *name;
  json_t *value;
  json_object_foreach(body, name, value) {
    size_t i = 0;
    const char *const *other = others;
    while (i < N_FIELDS && !((fields[i].endpoints & endpoint) && strcmp(fields[i].name, name) == 0)) i++;
    while (other && *other && strcmp(*other, name) != 0) other++;
    if (i == N_FIELDS && !(other && *other) && !json_is_null(value))
      return tl_error_set(err, TL_EINVAL, name, "%.80s: is not a field of this endpoint", name);
  }
  return TL_OK;
}

/* What no single field can tell. */
static int check_together(const struct tl_api *api, enum api_endpoint endpoint, const struct api_params *p,
                          struct tl_error *err) {
  const struct { enum api_endpoint endpoint; const char *name; const json_t *value; } required[] = {
      {API_COMPLETIONS, "prompt", p->prompt}, {API_CHAT | API_MESSAGES | API_COUNT, "messages", p->messages}, {API_EMBEDDINGS | API_RESPONSES, "input", p->input},
      {API_RERANK, "query", p->query}, {API_RERANK, "documents", p->documents}, {API_SCORE, "text_1", p->text_1}, {API_SCORE, "text_2", p->text_2}};
  for (size_t i = 0; i < sizeof required / sizeof *required; i++)
    if ((required[i].endpoint & endpoint) && !required[i].value)
      return tl_error_set(err, TL_EINVAL, required[i].name, "%s: is required", required[i].name);
  if (endpoint == API_MESSAGES && p->max_tokens < 0) return tl_error_set(err, TL_EINVAL, "max_tokens", "max_tokens: is required");
  if ((endpoint & (API_CHAT | API_MESSAGES)) && p->max_tokens == 0)
    return tl_error_set(err, TL_EINVAL, "max_tokens", "max_tokens: expected an integer from 1, got 0");
  if (p->max_tokens == 0 && !p->echo)
    return tl_error_set(err, TL_EINVAL, "max_tokens", "max_tokens: 0 is allowed only together with echo");
  if (p->prompt_logprobs >= 0 && p->stream)
    return tl_error_set(err, TL_EINVAL, "prompt_logprobs", "prompt_logprobs: expected stream to be false with it");
  if (p->n > api->o.limits.max_choices)
    return tl_error_set(err, TL_EINVAL, "n", "n: expected an integer from 1 to %lld, got %lld",
                        (long long)api->o.limits.max_choices, (long long)p->n);
  return TL_OK;
}

int api_fields_read(const struct tl_api *api, enum api_endpoint endpoint, json_t *body, struct tl_arena *arena,
                    struct api_params *ret, struct tl_error *err) {
  *ret = (struct api_params){.n = 1, .max_tokens = -1, .max_completion_tokens = -1, .min_tokens = 0,
                             .temperature = -1, .top_p = -1, .min_p = -1, .top_k = API_NO_TOP_K,
                             .repetition_penalty = -1, .n_top_logprobs = -1, .prompt_logprobs = -1, .priority = TL_PRIORITY_NORMAL,
                             .add_generation_prompt = true, .skip_special_tokens = true, .return_documents = true,
                             .add_special_tokens = endpoint == API_COMPLETIONS, /* a chat's template has them */
                             .calls = API_CALLS_AUTO, .parallel_tool_calls = true, .split_reasoning = true, .include_reasoning = true};
  const struct tl_api_limits *limits = &api->o.limits;
  bool message = endpoint & (API_MESSAGES | API_COUNT), flat = endpoint == API_RESPONSES;
  ret->tool_schema = message ? "input_schema" : flat ? "parameters" : "function.parameters";
  ret->tool_chosen = message || flat ? "tool_choice.name" : "tool_choice.function.name";
  ret->timeout_ms = limits->default_timeout_ms ? limits->default_timeout_ms : limits->max_timeout_ms;
  struct context context = {api, endpoint, arena, ret};
  for (size_t i = 0; i < N_FIELDS; i++) {
    json_t *value = json_object_get(body, fields[i].name);
    if (!(fields[i].endpoints & endpoint) || !value || json_is_null(value)) continue;
    int r = read_field(&context, &fields[i], value, err);
    if (r < 0) return r;
  }
  if (endpoint == API_TEMPLATE) return TL_OK;
  int r = api_check_names(endpoint, NULL, body, err);
  if (r == TL_OK) r = check_together(api, endpoint, ret, err);
  return r < 0 ? r : api_structured_settle(ret, arena, err);
}
