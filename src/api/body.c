/* SPDX-License-Identifier: MIT */
/* Bytes to JSON. jansson 2.14 takes 77 bytes of memory a byte for `[{},{},...]`
 * and accepts a NUL after a number, so the body is scanned once before: nesting
 * depth, number of values, no NUL byte. The scan knows just enough of JSON to
 * tell strings from structure; what is malformed is left to jansson to refuse. */
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"

/* Memory of what one request may make jansson build: a number takes about 40 bytes,
 * a list or an object about 230, which counts for more. */
#define CONTAINER_NODES 4

/* The end of the string that begins after text[at - 1] == '"'. */
static size_t skip_string(const char *text, size_t length, size_t at) {
  while (at < length && text[at] != '"') at += text[at] == '\\' ? 2 : 1;
  return at < length ? at : length;
}

/* *ret_nodes: how many values it has, lists and objects counted for more. */
static int scan(const char *text, size_t length, size_t max_nodes, size_t *ret_nodes, struct tl_error *err) {
  const char *nul = memchr(text, 0, length);
  if (nul)
    return tl_error_set(err, TL_EINVAL, NULL, "the body is not valid JSON: it contains a NUL byte (offset %zu)",
                        (size_t)(nul - text));
  size_t nodes = 1, depth = 0;
  for (size_t i = 0; i < length; i++) {
    switch (text[i]) {
      case '"':
        i = skip_string(text, length, i + 1);
        break;
      case '[':
      case '{':
        nodes += CONTAINER_NODES;
        if (++depth > API_MAX_DEPTH)
          return tl_error_set(err, TL_EINVAL, NULL, "the body nests deeper than %d levels (offset %zu)", API_MAX_DEPTH,
                              i);
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
  *ret_nodes = nodes;
  return TL_OK;
}

int api_body_scan(const char *text, size_t length, size_t max_nodes, struct tl_error *err) {
  size_t nodes;
  return scan(text, length, max_nodes, &nodes, err);
}

json_t *api_body_read_inner(const json_t *text, size_t *budget) {
  size_t nodes;
  struct tl_error ignored = {0};
  if (scan(json_string_value(text), json_string_length(text), *budget, &nodes, &ignored) < 0) return NULL;
  *budget -= nodes;
  return tl_json_load(json_string_value(text), json_string_length(text), JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
}

/* Where and why jansson refused. What JSON allows and it cannot hold is not called invalid. */
static int refused(const json_error_t *why, struct tl_error *err) {
  enum json_error_code code = json_error_code(why);
  bool valid = code == json_error_numeric_overflow || code == json_error_null_byte_in_key;
  return tl_error_set(err, TL_EINVAL, NULL, "the body %s: line %d column %d: %s",
                      valid ? "has a value that is not supported" : "is not valid JSON", why->line, why->column, why->text);
}

int api_body_read(const char *text, size_t length, json_t **ret, struct tl_error *err) {
  *ret = NULL;
  if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark, which editors of Windows put there */
    text += 3;
    length -= 3;
  }
  if (!length) return tl_error_set(err, TL_EINVAL, NULL, "the body is empty; expected a JSON object");
  int r = api_body_scan(text, length, API_MAX_NODES, err);
  if (r < 0) return r;
  json_error_t json_error;
  json_t *body = tl_json_load(text, length, JSON_ALLOW_NUL | JSON_DECODE_ANY, &json_error);
  if (tl_json_is_short(body, &json_error, err)) return TL_ENOMEM;
  if (!body) return refused(&json_error, err);
  if (!json_is_object(body)) {
    char what[64];
    tl_error_set(err, TL_EINVAL, NULL, "the body must be a JSON object, got %s", api_value_text(body, what));
    json_decref(body);
    return TL_EINVAL;
  }
  *ret = body;
  return TL_OK;
}
