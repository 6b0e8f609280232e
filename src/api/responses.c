/* SPDX-License-Identifier: MIT */
/* /v1/responses, OpenAI's successor of chat completions, and /v1/responses/input_tokens: conversations that go the way of chat's. */
#include "api/responses.h"

#include <string.h>

/* What the answer repeats of the request is written while there still is a body. */
static int make_response(struct api_call *call, struct tl_error *err) {
  struct tl_buffer echo;
  struct api_response *response = call->response = tl_arena_alloc(&call->arena, sizeof *response);
  if (!response) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  tl_buffer_init(&response->text, 0);
  tl_buffer_init(&response->logprobs, 0);
  tl_buffer_init(&response->items, 0);
  tl_buffer_init(&echo, 0);
  if (api_responses_echo(call->body, &echo) == TL_OK) response->echo = tl_arena_copy(&call->arena, echo.data, echo.length);
  response->echo_length = echo.length;
  tl_buffer_done(&echo);
  return response->echo ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}

void api_response_done(struct api_response *response) {
  if (!response) return;
  tl_buffer_done(&response->text);
  tl_buffer_done(&response->logprobs);
  tl_buffer_done(&response->items);
}

static int prepare(struct api_call *call, struct tl_error *err) {
  json_t *messages;
  int r = make_response(call, err);
  if (r == TL_OK) r = api_responses_messages(&call->params, &messages, err);
  if (r < 0) return r;
  call->params.messages = messages;
  r = api_chat_prepare(call, err);
  json_decref(TL_TAKE(&call->params.messages));
  return r;
}

static void on_responses(struct tl_http_request *request, void *context) {
  static const struct api_reader reader = {API_RESPONSES, &api_responses_shape, api_chat_outline, prepare};
  api_generate(context, request, &reader);
}

static int read_count(struct api_work *work, struct tl_error *err) {
  static const struct api_counted counted = {API_RESPONSES, "input", api_responses_messages, "\"object\":\"response.input_tokens\","};
  return api_read_count(work, &counted, err);
}

static void on_count(struct tl_http_request *request, void *context) {
  api_text_run(context, request, read_count);
}

static void on_stored(struct tl_http_request *request, void *context) {
  (void)context;
  struct tl_error err = {0};
  tl_error_set(&err, TL_ENOTFOUND, "response_id", "this server stores no answers of /v1/responses");
  api_respond_error(request, &err, 0);
}

int api_register_responses(struct tl_api *api, struct tl_error *err) {
  int r = tl_http_handle(api->o.http, "POST", "/v1/responses", on_responses, api);
  if (r == TL_OK) r = tl_http_handle(api->o.http, "POST", "/v1/responses/input_tokens", on_count, api);
  if (r == TL_OK) r = tl_http_handle(api->o.http, "GET", "/v1/responses/*", on_stored, api);
  return r == TL_OK ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}
