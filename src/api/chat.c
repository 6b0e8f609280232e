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

/* Checks one message; list contents are replaced by their text (the body is ours). */
static int check_message(json_t *message, size_t i, struct tl_error *err) {
  char name[64], what[64];
  snprintf(name, sizeof name, "messages[%zu]", i);
  if (!json_is_object(message))
    return tl_error_set(err, TL_EINVAL, name, "%s: expected an object, got %s", name, api_value_text(message, what));
  json_t *role = json_object_get(message, "role"), *content = json_object_get(message, "content");
  snprintf(name, sizeof name, "messages[%zu].role", i);
  if (!json_is_string(role) || json_string_length(role) == 0)
    return tl_error_set(err, TL_EINVAL, name, "%s: expected a string that is not empty, got %s", name,
                        api_value_text(role, what));
  snprintf(name, sizeof name, "messages[%zu].content", i);
  if (json_is_array(content)) {
    json_t *text = join_parts(content, name, err);
    return text ? json_object_set_new(message, "content", text) : err->code;
  }
  bool may_lack = json_object_get(message, "tool_calls") != NULL;
  if (!json_is_string(content) && !(may_lack && (!content || json_is_null(content))))
    return tl_error_set(err, TL_EINVAL, name, "%s: expected a string or a list of text parts, got %s", name,
                        api_value_text(content, what));
  return TL_OK;
}

int api_chat_tokens(struct tl_api *api, const struct tl_serving *serving, json_t *messages, bool add_generation_prompt,
                    struct tl_tokens *out, struct tl_error *err) {
  if (!serving->chat)
    return tl_error_set(err, TL_EUNSUPPORTED, "messages",
                        "messages: this model has no chat template; use /v1/completions");
  size_t i;
  json_t *message;
  json_array_foreach(messages, i, message) {
    int r = check_message(message, i, err);
    if (r < 0) return r;
  }
  struct tl_rendered rendered;
  int r = tl_chat_format_render(serving->chat, messages, add_generation_prompt, &api->o.limits.tmpl, &rendered, err);
  if (r < 0) {
    snprintf(err->field, sizeof err->field, "messages");
    if (err->code == TL_ELIMIT) err->code = TL_EINVAL; /* the template's limits, not those of tokens */
    return tl_error_prefix(err, "messages: the chat template refused them");
  }
  struct tl_encode_options options = {.parse_special = true,
                                      .untrusted = rendered.untrusted,
                                      .n_untrusted = rendered.n_untrusted};
  r = tl_tokenizer_encode(serving->tokenizer, rendered.text.data, rendered.text.length, &options, out, err);
  tl_rendered_done(&rendered);
  return r;
}

static int outline(struct api_call *call, struct tl_error *err) {
  call->prompts = tl_arena_alloc(&call->arena, sizeof *call->prompts);
  if (!call->prompts) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  call->n_prompts = 1;
  call->prompts->n = 1;
  return TL_OK;
}

static int prepare(struct api_call *call, struct tl_error *err) {
  struct tl_tokens tokens = {.limit = tl_engine_max_context(call->work.serving->engine)};
  int r = api_chat_tokens(call->api, call->work.serving, call->params.messages, true, &tokens, err);
  if (r == TL_ELIMIT) r = api_too_long(call, err);
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
  static const struct api_reader reader = {API_CHAT, outline, prepare};
  api_generate(context, request, &reader);
}

int api_register_chat(struct tl_api *api, struct tl_error *err) {
  return tl_http_handle(api->o.http, "POST", "/v1/chat/completions", on_chat, api) == TL_OK
             ? TL_OK
             : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}
