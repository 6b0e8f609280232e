/* SPDX-License-Identifier: MIT */
/* /v1/messages, Anthropic's, and /v1/messages/count_tokens: chats in another form. */
#include <string.h>

#include "api/api_private.h"

static void on_messages(struct tl_http_request *request, void *context) {
  static const struct api_reader reader = {API_MESSAGES, &api_messages_shape, api_chat_outline, api_chat_prepare};
  api_generate(context, request, &reader);
}

static int count(struct api_work *work, json_t *body, struct tl_arena *arena, struct tl_tokens *tokens, struct tl_error *err) {
  struct api_params params;
  int r = api_fields_read(work->api, API_COUNT, body, arena, &params, err);
  if (r == TL_OK) api_work_choose(work, params.served);
  if (r == TL_OK) r = api_check_task(work, API_MESSAGES, err);
  if (r == TL_OK && api_work_left(work)) r = TL_ECLOSED;
  if (r == TL_OK) r = api_chat_tokens(work->api, work->serving, &params, "messages", tokens, err);
  json_decref(params.constraint.json); /* tools that must be called: nothing is made here */
  return r;
}

static int read_count(struct api_work *work, struct tl_error *err) {
  struct tl_tokens tokens = {0};
  struct tl_arena arena;
  json_t *body = NULL;
  tl_arena_init(&arena, API_ARENA_LIMIT);
  int r = api_body_read(work->text, work->length, &body, err);
  if (r == TL_OK) r = count(work, body, &arena, &tokens, err);
  if (r == TL_OK) tl_buffer_printf(&((struct api_text_work *)work)->out, "{\"input_tokens\":%zu}", tokens.n);
  json_decref(body);
  tl_tokens_done(&tokens);
  tl_arena_done(&arena);
  return r;
}

static void on_count(struct tl_http_request *request, void *context) {
  api_text_run(context, request, read_count);
}

int api_register_messages(struct tl_api *api, struct tl_error *err) {
  int r = tl_http_handle(api->o.http, "POST", "/v1/messages", on_messages, api);
  if (r == TL_OK) r = tl_http_handle(api->o.http, "POST", "/v1/messages/count_tokens", on_count, api);
  return r == TL_OK ? TL_OK : tl_error_set(err, r, NULL, "out of memory");
}
