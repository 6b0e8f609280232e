/* SPDX-License-Identifier: MIT */
/* OpenAI's error shape, and Anthropic's for /v1/messages. Only messages made for clients come here: no path, no
 * pointer, no source line. */
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"

int api_error_status(const struct tl_error *err) {
  if (err->http_status) return err->http_status;
  switch (err->code) {
    case TL_EINVAL:
    case TL_ELIMIT:
    case TL_ECONTEXT:
    case TL_ECORRUPT:
    case TL_EUNSUPPORTED: return 400;
    case TL_ENOTFOUND: return 404;
    case TL_EBUSY: return 429;
    default: return 500;
  }
}

static const char *error_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 429: return "rate_limit_error";
    case 501: /* an unknown method or version is the client's mistake */
    case 505: return "invalid_request_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

static const char *error_code(int status, const struct tl_error *err) {
  if (err->code == TL_ECONTEXT) return "context_length_exceeded";
  switch (status) {
    case 401: return "invalid_api_key";
    case 404: return strcmp(err->field, "model") == 0 ? "model_not_found" : NULL;
    case 429: return "server_overloaded";
    case 503: return "not_ready";
    case 504: return "timeout";
    default: return NULL;
  }
}

void api_error_json(struct tl_buffer *out, const struct tl_error *err) {
  int status = api_error_status(err);
  const char *code = error_code(status, err);
  tl_buffer_puts(out, "{\"error\":{\"message\":");
  api_json_string(out, err->message, strlen(err->message));
  tl_buffer_printf(out, ",\"type\":\"%s\",\"param\":", error_type(status));
  if (*err->field)
    api_json_string(out, err->field, strlen(err->field));
  else
    tl_buffer_puts(out, "null");
  if (code)
    tl_buffer_printf(out, ",\"code\":\"%s\"}}", code);
  else
    tl_buffer_puts(out, ",\"code\":null}}");
}

static const char *messages_error_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 501:
    case 505: return "invalid_request_error";
    case 503: return "overloaded_error";
    case 504: return "timeout_error";
    default: return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

void api_messages_error_json(struct tl_buffer *out, const struct tl_error *err) {
  struct tl_buffer message;
  tl_buffer_init(&message, 0);
  /* by these words clients know that they have to make a conversation shorter */
  tl_buffer_printf(&message, "%s%s", err->code == TL_ECONTEXT ? "prompt is too long: " : "", err->message);
  tl_buffer_printf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", messages_error_type(api_error_status(err)));
  api_json_string(out, message.data, message.length);
  tl_buffer_puts(out, "}}");
  tl_buffer_done(&message);
}

/* In the form of the request's endpoint. */
static void error_json(const struct tl_http_request *request, const struct tl_error *err, struct tl_buffer *out) {
  static const char messages[] = "/v1/messages";
  const char *path = tl_http_path(request);
  size_t n = sizeof messages - 1;
  if (path && strncmp(path, messages, n) == 0 && (path[n] == 0 || path[n] == '/'))
    api_messages_error_json(out, err);
  else
    api_error_json(out, err);
}

const char *api_http_error(const struct tl_http_request *request, int status, const char *message, struct tl_buffer *out) {
  struct tl_error err = {.http_status = status};
  snprintf(err.message, sizeof err.message, "%s", message);
  error_json(request, &err, out);
  return "application/json";
}

void api_respond_buffer(struct tl_http_request *request, int status, struct tl_buffer *body) {
  if (body->failed) {
    static const char message[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null,\"code\":null}}";
    tl_http_respond(request, 500, "application/json", message, sizeof message - 1);
  } else {
    tl_http_respond(request, status, "application/json", body->data, body->length);
  }
  tl_buffer_done(body);
}

void api_respond_error(struct tl_http_request *request, const struct tl_error *err, unsigned retry_after_s) {
  struct tl_buffer body;
  tl_buffer_init(&body, 0);
  int status = api_error_status(err);
  error_json(request, err, &body);
  if (retry_after_s) {
    char seconds[16];
    snprintf(seconds, sizeof seconds, "%u", retry_after_s);
    tl_http_add_header(request, "Retry-After", seconds);
  }
  api_respond_buffer(request, status, &body);
}
