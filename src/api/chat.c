/* SPDX-License-Identifier: MIT */
/* /v1/chat/completions: messages through the model's chat template to tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_private.h"

/* The text parts of a message's content, joined by newlines. */
static json_t *join_parts(json_t *parts, const char *name, struct tl_error *err) {
  struct tl_buffer text;
  tl_buffer_init(&text, 0);
  size_t i;
  json_t *part;
  json_array_foreach(parts, i, part) {
    const char *type = json_string_value(json_object_get(part, "type"));
    json_t *value = json_object_get(part, "text");
    if (!type || strcmp(type, "text") != 0 || !json_is_string(value)) {
      tl_error_set(err, TL_EINVAL, name, "%s[%zu]: expected {\"type\": \"text\", \"text\": a string}; no other parts are supported",
                   name, i);
      tl_buffer_done(&text);
      return NULL;
    }
    if (i) tl_buffer_putc(&text, '\n');
    tl_buffer_append(&text, json_string_value(value), json_string_length(value));
  }
  json_t *joined = text.failed ? NULL : json_stringn(text.length ? text.data : "", text.length);
  if (!joined) tl_error_set(err, TL_ENOMEM, name, "out of memory");
  tl_buffer_done(&text);
  return joined;
}

/* Contents reach the template as it can read them, as parts or as their text (the body is ours). */
static int check_content(json_t *message, const char *name, unsigned takes, struct tl_error *err) {
  json_t *content = json_object_get(message, "content");
  if (json_is_array(content)) {
    json_t *text = join_parts(content, name, err);
    if (!text) return err->code;
    if (takes & TL_CHAT_PARTS) json_decref(text); /* it was only to check them */
    else json_object_set_new(message, "content", text);
    return TL_OK;
  }
  if (json_is_string(content) && !(takes & TL_CHAT_TEXT)) {
    json_t *part = json_object(), *parts = json_array();
    json_object_set_new(part, "type", json_string("text"));
    json_object_set(part, "text", content);
    json_array_append_new(parts, part);
    json_object_set_new(message, "content", parts);
    return TL_OK;
  }
  char what[64];
  json_t *calls = json_object_get(message, "tool_calls");
  bool may_lack = (calls && !json_is_null(calls)) || json_is_string(json_object_get(message, "reasoning_content"));
  if (json_is_string(content) || (may_lack && (!content || json_is_null(content)))) return TL_OK;
  return tl_error_set(err, TL_EINVAL, name, "%s: expected a string or a list of text parts, got %s", name,
                      api_value_text(content, what));
}

/* Most templates want a call's arguments as an object; OpenAI's clients send it as a string of JSON. */
static int check_call(json_t *call, const char *prefix, unsigned takes, size_t *budget, struct tl_error *err) {
  char name[160], what[64];
  json_t *function = json_object_get(call, "function"), *called = json_object_get(function, "name");
  json_t *arguments = json_object_get(function, "arguments");
  snprintf(name, sizeof name, "%s.function.name", prefix);
  if (!json_is_string(called) || !json_string_length(called))
    return tl_error_set(err, TL_EINVAL, name, "%s: expected a string that is not empty, got %s", name,
                        api_value_text(called, what));
  if (!json_is_string(arguments)) {
    char *text = arguments && (takes & TL_CHAT_CALL_TEXT) ? json_dumps(arguments, JSON_ENCODE_ANY) : NULL;
    if (text) json_object_set_new(function, "arguments", json_string(text));
    free(text);
    return TL_OK;
  }
  bool empty = json_string_length(arguments) == 0;
  json_t *value = empty ? json_object() : api_body_read_inner(arguments, budget);
  snprintf(name, sizeof name, "%s.function.arguments", prefix);
  if (!value) return tl_error_set(err, TL_EINVAL, name, "%s: expected an object, or one as a string of JSON", name);
  if (!(takes & TL_CHAT_CALL_TEXT)) json_object_set(function, "arguments", value);
  else if (empty) json_object_set_new(function, "arguments", json_string("{}"));
  json_decref(value);
  return TL_OK;
}

/* What stands for the content of a message with calls, or thoughts, and no text is nothing, null or "" to clients, and not
 * all the same to a template. */
static void fill_content(json_t *message, unsigned takes) {
  json_t *content = json_object_get(message, "content");
  bool calls = json_array_size(json_object_get(message, "tool_calls")) > 0;
  bool empty = !content || json_is_null(content) || (calls && json_is_string(content) && !json_string_length(content));
  if (empty && (takes & TL_CHAT_CALL_NULL)) json_object_set_new(message, "content", json_null());
  if (empty && (takes & TL_CHAT_CALL_EMPTY)) json_object_set_new(message, "content", json_string(""));
}

static int check_calls(json_t *message, const char *prefix, unsigned takes, size_t *budget, struct tl_error *err) {
  json_t *calls = json_object_get(message, "tool_calls"), *call;
  char name[96], what[64];
  size_t i;
  snprintf(name, sizeof name, "%s.tool_calls", prefix);
  if (calls && !json_is_null(calls) && !json_is_array(calls))
    return tl_error_set(err, TL_EINVAL, name, "%s: expected a list, got %s", name, api_value_text(calls, what));
  json_array_foreach(calls, i, call) {
    snprintf(name, sizeof name, "%s.tool_calls[%zu]", prefix, i);
    int r = check_call(call, name, takes, budget, err);
    if (r < 0) return r;
  }
  fill_content(message, takes);
  return TL_OK;
}

/* What an earlier answer thought, by the name that the template knows: vLLM's clients send it as reasoning, all others as reasoning_content. */
static void name_reasoning(json_t *message, unsigned takes) {
  json_t *reasoning = json_object_get(message, "reasoning_content"), *calls = json_object_get(message, "tool_calls");
  if (!json_is_string(reasoning)) reasoning = json_object_get(message, "reasoning");
  if (!json_is_string(reasoning)) return;
  json_object_set(message, "reasoning_content", reasoning);
  /* GPT-OSS's template refuses it beside the content of a message with calls */
  bool beside = json_array_size(calls) && json_string_length(json_object_get(message, "content"));
  if ((takes & TL_CHAT_THOUGHTS) && !beside && !json_object_get(message, "thinking")) json_object_set(message, "thinking", reasoning);
}

static int check_message(json_t *message, size_t i, unsigned takes, size_t *budget, struct tl_error *err) {
  char prefix[48], name[64], what[64];
  snprintf(prefix, sizeof prefix, "messages[%zu]", i);
  if (!json_is_object(message))
    return tl_error_set(err, TL_EINVAL, prefix, "%s: expected an object, got %s", prefix, api_value_text(message, what));
  json_t *role = json_object_get(message, "role");
  snprintf(name, sizeof name, "%s.role", prefix);
  if (!json_is_string(role) || json_string_length(role) == 0)
    return tl_error_set(err, TL_EINVAL, name, "%s: expected a string that is not empty, got %s", name,
                        api_value_text(role, what));
  name_reasoning(message, takes);
  snprintf(name, sizeof name, "%s.content", prefix);
  int r = check_content(message, name, takes, err);
  return r < 0 ? r : check_calls(message, prefix, takes, budget, err);
}

/* The template of a request; *ret_own: a format that it brought along, the caller's to free. */
static int pick(const struct tl_api *api, const struct tl_serving *serving, const struct api_params *params, const char *field,
                const struct tl_chat_template **ret, struct tl_chat_format **ret_own, struct tl_error *err) {
  const char *text = json_string_value(params->chat_template);
  *ret = serving->chat ? tl_chat_format_pick(serving->chat, text, params->tools) : NULL;
  if (*ret) return TL_OK;
  if (!text && serving->chat)
    return tl_error_set(err, TL_EINVAL, "chat_template", "chat_template: expected the name of a template; this model has no default");
  if (!text)
    return tl_error_set(err, TL_EUNSUPPORTED, field, "%s: this model has no chat template; use /v1/completions", field);
  if (!api->o.request_templates)
    return tl_error_set(err, TL_EINVAL, "chat_template",
                        "chat_template: the model has none of that name, and this server takes none from requests");
  int r = tl_chat_format_new(serving->chat, text, json_string_length(params->chat_template), ret_own, err);
  if (r == TL_OK) {
    *ret = tl_chat_format_pick(*ret_own, NULL, false);
    return TL_OK;
  }
  snprintf(err->field, sizeof err->field, "chat_template");
  if (err->code == TL_ELIMIT) err->code = TL_EINVAL;
  return tl_error_prefix(err, "chat_template");
}

/* What the template does not look at would be passed over in silence. Calls that must come are made of
 * the tools in any case. */
static int check_taken(unsigned takes, const struct api_params *params, struct tl_error *err) {
  bool forced = params->calls == API_CALLS_REQUIRED || params->calls == API_CALLS_NAMED;
  bool tools = !params->tools || forced || (takes & TL_CHAT_TOOLS);
  const char *name = tools ? "documents" : "tools";
  if (tools && (!params->documents || (takes & TL_CHAT_DOCUMENTS))) return TL_OK;
  return tl_error_set(err, TL_EINVAL, name, "%s: are not supported by the chat template of this model", name);
}

static int render(const struct tl_api *api, const struct tl_chat_template *t, const struct api_params *params,
                  const char *field, struct tl_rendered *ret, struct tl_error *err) {
  unsigned takes = tl_chat_template_takes(t);
  size_t i, budget = API_MAX_NODES;
  json_t *message;
  json_t *kwargs = NULL;
  int r = check_taken(takes, params, err);
  if (r < 0) return r;
  json_array_foreach(params->messages, i, message)
    if ((r = check_message(message, i, takes, &budget, err)) < 0) return r;
  r = api_reasoning_kwargs(params, takes, &kwargs, err);
  struct tl_chat chat = {.messages = params->messages,
                         .tools = params->tools,
                         .documents = params->documents,
                         .kwargs = kwargs,
                         .add_generation_prompt = params->add_generation_prompt,
                         .continue_final_message = params->continue_final_message};
  if (r == TL_OK) r = tl_chat_render(t, &chat, &api->o.limits.tmpl, ret, err);
  json_decref(kwargs);
  if (r == TL_OK || err->field[0]) return r;
  char prefix[64];
  snprintf(err->field, sizeof err->field, "%s", field);
  snprintf(prefix, sizeof prefix, "%s: the chat template refused %s", field, params->input ? "it" : "them");
  if (err->code == TL_ELIMIT) err->code = TL_EINVAL; /* the template's limits, not those of tokens */
  return tl_error_prefix(err, prefix);
}

int api_chat_tokens(struct tl_api *api, const struct tl_serving *serving, const struct api_params *params, const char *field,
                    struct tl_tokens *out, struct tl_error *err) {
  const struct tl_chat_template *t;
  struct tl_chat_format *own = NULL;
  struct tl_rendered rendered = {0};
  int r = pick(api, serving, params, field, &t, &own, err);
  if (r == TL_OK) r = render(api, t, params, field, &rendered, err);
  tl_chat_format_free(own);
  if (r < 0) return r;
  struct tl_encode_options options = {.add_special = params->add_special_tokens,
                                      .parse_special = true,
                                      .untrusted = rendered.untrusted,
                                      .n_untrusted = rendered.n_untrusted};
  r = tl_tokenizer_encode(serving->tokenizer, rendered.text.data ? rendered.text.data : "", rendered.text.length, &options,
                          out, err);
  tl_rendered_done(&rendered);
  return r;
}

int api_chat_outline(struct api_call *call, struct tl_error *err) {
  call->prompts = tl_arena_alloc(&call->arena, sizeof *call->prompts);
  if (!call->prompts) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  call->n_prompts = 1;
  call->prompts->n = 1;
  return TL_OK;
}

int api_chat_prepare(struct api_call *call, struct tl_error *err) {
  struct tl_tokens tokens = {.limit = tl_engine_max_context(call->work.serving->engine)};
  int r = api_chat_tokens(call->api, call->work.serving, &call->params, call->reader->shape->prompt_field, &tokens, err);
  if (r == TL_ELIMIT) r = api_too_long(call, err);
  if (r == TL_OK) r = api_reasoning_look(call, &tokens);
  if (r == TL_OK) r = api_prediction_prepare(call, err);
  struct api_prompt *prompt = call->prompts;
  if (r == TL_OK) {
    prompt->ids = tl_arena_array(&call->arena, tokens.n + 1, sizeof *prompt->ids);
    prompt->n = (uint32_t)tokens.n;
    if (prompt->ids && tokens.n) memcpy(prompt->ids, tokens.ids, tokens.n * sizeof *prompt->ids);
  }
  tl_tokens_done(&tokens);
  if (r == TL_OK && !prompt->ids) r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  return r;
}

static void on_chat(struct tl_http_request *request, void *context) {
  static const struct api_reader reader = {API_CHAT, &api_chat_shape, api_chat_outline, api_chat_prepare};
  api_generate(context, request, &reader);
}

int api_register_chat(struct tl_api *api, struct tl_error *err) {
  return tl_http_handle(api->o.http, "POST", "/v1/chat/completions", on_chat, api) == TL_OK
             ? TL_OK
             : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}
