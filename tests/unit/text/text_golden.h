/* SPDX-License-Identifier: MIT */
/* What the tests of this room share: golden files. */
#ifndef TESTS_TEXT_GOLDEN_H
#define TESTS_TEXT_GOLDEN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <jansson.h>

#include "tokenlane/base/utf8.h"
#include "tokenlane/text.h"

static inline const char *golden_folder(void) {
  const char *folder = getenv("TL_TEST_GOLDEN");
  return folder ? folder : "tests/golden";
}

/* A golden file's JSON; the caller releases it. */
static inline json_t *golden_json(const char *name) {
  char path[700];
  json_error_t error;
  snprintf(path, sizeof path, "%s/%s", golden_folder(), name);
  json_t *json = json_load_file(path, JSON_ALLOW_NUL, &error);
  if (!json) fail_msg("%s:%d: %s", path, error.line, error.text);
  return json;
}

/* One of tokenizers/; the caller frees it. */
static inline struct tl_tokenizer *golden_tokenizer(const char *name) {
  char path[512];
  struct tl_error err = {0};
  struct tl_tokenizer *t;
  snprintf(path, sizeof path, "%s/tokenizers/%s", golden_folder(), name);
  if (tl_tokenizer_load(path, &t, &err) < 0) fail_msg("%s: %s", path, err.message);
  return t;
}

static inline bool golden_utf8(const char *text, size_t length) {
  return tl_utf8_valid(text, length);
}

#endif
