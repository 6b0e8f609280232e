/* SPDX-License-Identifier: MIT */
/* Bytes to JSON. jansson 2.14 takes 77 bytes of memory a byte for `[{},{},...]`
 * and accepts a NUL after a number, so the body is scanned once before: nesting
 * depth, number of values, no NUL byte. The scan knows just enough of JSON to
 * tell strings from structure; what is malformed is left to jansson to refuse. */
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"

/* A value costs jansson up to about 150 bytes: a million of them is the most
 * that one request may make it allocate. */
#define MAX_NODES 1000000

/* The end of the string that begins after text[at - 1] == '"'. */
static size_t skip_string(const char *text, size_t length, size_t at) {
  while (at < length && text[at] != '"') at += text[at] == '\\' ? 2 : 1;
  return at < length ? at : length;
}

int api_body_scan(const char *text, size_t length, size_t max_nodes, struct tl_error *err) {
  if (memchr(text, 0, length))
    return tl_error_set(err, TL_EINVAL, NULL, "the body is not valid JSON: it contains a NUL byte");
  size_t nodes = 1, depth = 0;
  for (size_t i = 0; i < length; i++) {
    switch (text[i]) {
      case '"':
        i = skip_string(text, length, i + 1);
        break;
      case '[':
      case '{':
        nodes++;
        if (++depth > API_MAX_DEPTH)
          return tl_error_set(err, TL_EINVAL, NULL, "the body nests deeper than %d levels", API_MAX_DEPTH);
        break;
      case ']':
      case '}':
        if (depth) depth--;
        break;
      case ',':
        nodes++;
        break;
      default:
        break;
    }
  }
  if (nodes > max_nodes)
    return tl_error_set(err, TL_EINVAL, NULL, "the body has more than %zu values", max_nodes);
  return TL_OK;
}

int api_body_read(struct tl_http_request *request, json_t **ret, struct tl_error *err) {
  size_t length;
  const char *text = tl_http_body(request, &length);
  *ret = NULL;
  if (!length) return tl_error_set(err, TL_EINVAL, NULL, "the body is empty; expected a JSON object");
  int r = api_body_scan(text, length, MAX_NODES, err);
  if (r < 0) return r;
  json_error_t json_error;
  json_t *body = json_loadb(text, length, JSON_ALLOW_NUL, &json_error);
  if (!body)
    return tl_error_set(err, TL_EINVAL, NULL, "the body is not valid JSON: line %d column %d: %s", json_error.line,
                        json_error.column, json_error.text);
  if (!json_is_object(body)) {
    char what[64];
    tl_error_set(err, TL_EINVAL, NULL, "the body must be a JSON object, got %s", api_value_text(body, what));
    json_decref(body);
    return TL_EINVAL;
  }
  *ret = body;
  return TL_OK;
}
