/* SPDX-License-Identifier: MIT */
/* What errors say of a value that is not what was expected. */
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"

/* 16.0 is not an integer and must not look like one. */
static void real_text(double value, char *text) {
  int n = snprintf(text, 60, "%.6g", value);
  if (!strpbrk(text, ".e")) memcpy(text + n, ".0", 3);
}

const char *api_value_text(const json_t *value, char *text) {
  switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return json_array_size(value) ? "a list" : "an empty list";
    case JSON_STRING: return json_string_length(value) ? "a string" : "an empty string";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_INTEGER: snprintf(text, 64, "%lld", (long long)json_integer_value(value)); return text;
    case JSON_REAL: real_text(json_real_value(value), text); return text;
    default: return "null";
  }
}

int api_wrong(struct tl_error *err, const char *field, const char *expected, const json_t *value) {
  char what[64];
  return tl_error_set(err, TL_EINVAL, field, "%s: expected %s, got %s", field, expected, api_value_text(value, what));
}
