/* SPDX-License-Identifier: MIT */
/* /tokenize and /detokenize, with the field names of vLLM (prompt, messages,
 * tokens, count) and of llama.cpp's server (content). */
#include <stdlib.h>
#include <string.h>

#include "api/api_private.h"

/* *ret stays as it is when the field is not given. */
static int read_flag(json_t *body, const char *name, bool *ret, struct tl_error *err) {
  json_t *value = json_object_get(body, name);
  char what[64];
  if (!value || json_is_null(value)) return TL_OK;
  if (!json_is_boolean(value))
    return tl_error_set(err, TL_EINVAL, name, "%s: expected true or false, got %s", name, api_value_text(value, what));
  *ret = json_is_true(value);
  return TL_OK;
}

/* vLLM's and llama.cpp's names for tokens as text. */
static int refuse_pieces(json_t *body, struct tl_error *err) {
  static const char *const names[] = {"return_token_strs", "with_pieces"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    bool wanted = false;
    int r = read_flag(body, names[i], &wanted, err);
    if (r < 0) return r;
    if (wanted) return tl_error_set(err, TL_EINVAL, names[i], "%s: is not supported by this server", names[i]);
  }
  return TL_OK;
}

static int tokenize(struct tl_api *api, const struct tl_serving *serving, json_t *body, struct tl_tokens *tokens,
                    struct tl_error *err) {
  static const char *const others[] = {"model", "prompt", "content", "add_special", "return_token_strs", "with_pieces", NULL};
  bool add_special = true;
  struct api_params params;
  int r = api_check_names(API_TEMPLATE, others, body, err);
  if (r == TL_OK) r = refuse_pieces(body, err);
  if (r == TL_OK) r = read_flag(body, "add_special", &add_special, err); /* llama.cpp's */
  if (r == TL_OK) r = read_flag(body, "add_special_tokens", &add_special, err);
  if (r == TL_OK) r = api_fields_read(api, API_TEMPLATE, body, NULL, &params, err);
  if (r != TL_OK) return r;
  char what[64];
  if (params.messages) return api_chat_tokens(api, serving, &params, "messages", tokens, err);
  json_t *text = json_object_get(body, "prompt");
  if (!text) text = json_object_get(body, "content");
  if (!json_is_string(text))
    return tl_error_set(err, TL_EINVAL, "prompt", "prompt: expected a string (or messages: a list), got %s",
                        api_value_text(text, what));
  struct tl_encode_options options = {.add_special = add_special, .parse_special = true};
  return tl_tokenizer_encode(serving->tokenizer, json_string_value(text), json_string_length(text), &options, tokens,
                             err);
}

/* Reads body and model as both endpoints need them. */
static int open_body(struct api_work *work, json_t **ret, struct tl_error *err) {
  int r = api_body_read(work->text, work->length, ret, err);
  if (r < 0) return r;
  json_t *model = json_object_get(*ret, "model");
  unsigned served = 0, adapter;
  r = !model || json_is_null(model) ? TL_OK : api_find_model(work->api, model, &served, &adapter, err);
  if (r == TL_OK) api_work_choose(work, served);
  return r;
}

static int read_tokenize(struct api_work *work, struct tl_error *err) {
  struct tl_buffer *out = &((struct api_text_work *)work)->out;
  struct tl_tokens tokens = {0};
  json_t *body = NULL;
  int r = open_body(work, &body, err);
  if (r == TL_OK && api_work_left(work)) r = TL_ECLOSED;
  if (r == TL_OK) r = tokenize(work->api, work->serving, body, &tokens, err);
  json_decref(body);
  if (r == TL_OK) {
    tl_buffer_printf(out, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", tokens.n,
                     tl_engine_max_context(work->serving->engine));
    for (size_t i = 0; i < tokens.n; i++) tl_buffer_printf(out, "%s%d", i ? "," : "", tokens.ids[i]);
    tl_buffer_puts(out, "]}");
  }
  tl_tokens_done(&tokens);
  return r;
}

/* The conversation of a body; what params own is the caller's, so are the messages. */
static int count(struct api_work *work, const struct api_counted *counted, struct api_params *params, json_t **messages, struct tl_tokens *tokens,
                 struct tl_error *err) {
  api_work_choose(work, params->served);
  int r = api_check_task(work, API_CHAT, err);
  if (r == TL_OK && api_work_left(work)) r = TL_ECLOSED;
  if (r == TL_OK && counted->convert) r = counted->convert(params, messages, err);
  if (r == TL_OK && counted->convert) params->messages = *messages;
  return r == TL_OK ? api_chat_tokens(work->api, work->serving, params, counted->field, tokens, err) : r;
}

int api_read_count(struct api_work *work, const struct api_counted *counted, struct tl_error *err) {
  struct tl_buffer *out = &((struct api_text_work *)work)->out;
  struct tl_tokens tokens = {0};
  struct tl_arena arena;
  struct api_params params = {0};
  json_t *body = NULL, *messages = NULL;
  tl_arena_init(&arena, API_ARENA_LIMIT);
  int r = api_body_read(work->text, work->length, &body, err);
  if (r == TL_OK) r = api_fields_read(work->api, counted->endpoint, body, &arena, &params, err);
  if (r == TL_OK) r = count(work, counted, &params, &messages, &tokens, err);
  if (r == TL_OK) tl_buffer_printf(out, "{%s\"input_tokens\":%zu}", counted->members, tokens.n);
  json_decref(params.constraint.json); /* what the answer would be held to: none is made */
  json_decref(messages);
  json_decref(body);
  tl_tokens_done(&tokens);
  tl_arena_done(&arena);
  return r;
}

static int detokenize(const struct tl_serving *serving, json_t *body, struct tl_buffer *text, struct tl_error *err) {
  static const char *const names[] = {"model", "tokens", NULL};
  json_t *list = json_object_get(body, "tokens");
  char what[64];
  int r = api_check_names(0, names, body, err);
  if (r < 0) return r;
  if (!json_is_array(list))
    return tl_error_set(err, TL_EINVAL, "tokens", "tokens: expected a list of token ids, got %s",
                        api_value_text(list, what));
  struct tl_detok detok;
  tl_detok_init(&detok, serving->tokenizer, false);
  size_t i;
  json_t *id;
  json_array_foreach(list, i, id) {
    int64_t v = json_integer_value(id);
    if (!json_is_integer(id) || v < 0 || v >= tl_tokenizer_size(serving->tokenizer))
      return tl_error_set(err, TL_EINVAL, "tokens", "tokens[%zu]: expected a token id from 0 to %d, got %s", i,
                          tl_tokenizer_size(serving->tokenizer) - 1, api_value_text(id, what));
    r = tl_detok_push(&detok, (int32_t)v, text);
    if (r < 0) return tl_error_set(err, r, NULL, "out of memory");
  }
  return tl_detok_finish(&detok, text);
}

static int read_detokenize(struct api_work *work, struct tl_error *err) {
  struct tl_buffer *out = &((struct api_text_work *)work)->out, text;
  tl_buffer_init(&text, 0);
  json_t *body = NULL;
  int r = open_body(work, &body, err);
  if (r == TL_OK) r = detokenize(work->serving, body, &text, err);
  json_decref(body);
  if (r == TL_OK) {
    tl_buffer_puts(out, "{\"prompt\":");
    api_json_string(out, text.data, text.length);
    tl_buffer_puts(out, ",\"content\":");
    api_json_string(out, text.data, text.length);
    tl_buffer_putc(out, '}');
  }
  tl_buffer_done(&text);
  return r;
}

static void answer(struct api_work *work) {
  struct api_text_work *text = (struct api_text_work *)work;
  if (work->request && work->err.code < 0)
    api_respond_error(work->request, &work->err, 0);
  else if (work->request)
    api_respond_buffer(work->request, 200, &text->out);
  tl_buffer_done(&text->out);
  free(text);
}

void api_text_run(struct tl_api *api, struct tl_http_request *request,
                  int (*read)(struct api_work *work, struct tl_error *err)) {
  struct api_text_work *text = calloc(1, sizeof *text);
  if (!text) {
    struct tl_error err = {0};
    tl_error_set(&err, TL_ENOMEM, NULL, "out of memory");
    api_respond_error(request, &err, 0);
    return;
  }
  text->work.read = read;
  text->work.finish = answer;
  tl_buffer_init(&text->out, 0);
  if (!api_work_run(&text->work, api, request)) free(text);
}

static void on_tokenize(struct tl_http_request *request, void *context) {
  api_text_run(context, request, read_tokenize);
}

static void on_detokenize(struct tl_http_request *request, void *context) {
  api_text_run(context, request, read_detokenize);
}

int api_register_tokenize(struct tl_api *api, struct tl_error *err) {
  int r = tl_http_handle(api->o.http, "POST", "/tokenize", on_tokenize, api);
  if (r == TL_OK) r = tl_http_handle(api->o.http, "POST", "/detokenize", on_detokenize, api);
  return r == TL_OK ? TL_OK : tl_error_set(err, r, NULL, "out of memory");
}
