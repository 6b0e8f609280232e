/* SPDX-License-Identifier: MIT */
/* /v1/messages, Anthropic's, and /v1/messages/count_tokens: chats in another form. */
#include <string.h>

#include "api/api_private.h"

static void on_messages(struct tl_http_request *request, void *context) {
  static const struct api_reader reader = {API_MESSAGES, &api_messages_shape, api_chat_outline, api_chat_prepare};
  api_generate(context, request, &reader);
}

static int read_count(struct api_work *work, struct tl_error *err) {
  static const struct api_counted counted = {API_COUNT, "messages", NULL, ""};
  return api_read_count(work, &counted, err);
}

static void on_count(struct tl_http_request *request, void *context) {
  api_text_run(context, request, read_count);
}

int api_register_messages(struct tl_api *api, struct tl_error *err) {
  int r = tl_http_handle(api->o.http, "POST", "/v1/messages", on_messages, api);
  if (r == TL_OK) r = tl_http_handle(api->o.http, "POST", "/v1/messages/count_tokens", on_count, api);
  return r == TL_OK ? TL_OK : tl_error_set(err, r, NULL, "out of memory");
}
