/* SPDX-License-Identifier: MIT */
/* Sources and texts, for tests of the readers: the vocabulary is the 256 bytes. */
#ifndef READER_UNIT_H
#define READER_UNIT_H

#include "tokenlane/grammar.h"
#include "unit.h"

static inline struct tl_vocabulary *unit_bytes(void) {
  static struct tl_vocabulary *vocabulary; /* one for all; freed with the process */
  static char bytes[256];
  struct tl_vocabulary_token tokens[256];
  for (int i = 0; i < 256; i++) {
    bytes[i] = (char)i;
    tokens[i] = (struct tl_vocabulary_token){&bytes[i], 1};
  }
  if (!vocabulary) assert_int_equal(tl_vocabulary_new(tokens, 256, &vocabulary, NULL), TL_OK);
  return vocabulary;
}

/* source: JSON for schemas and choices, with ' for ". */
static inline int unit_compile(enum tl_grammar_kind kind, const char *source, struct tl_grammar **ret, struct tl_error *err) {
  char *text = strdup(source);
  bool is_json = kind == TL_GRAMMAR_JSON_SCHEMA || kind == TL_GRAMMAR_CHOICE;
  for (char *c = text; *c && is_json; c++)
    if (*c == '\'') *c = '"';
  json_t *json = is_json ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
  if (is_json && !json) fail_msg("no JSON: %s", text);
  struct tl_grammar_source how = {.kind = kind, .json = json, .text = text, .length = strlen(text), .field = "the.field"};
  int r = tl_grammar_compile(unit_bytes(), &how, NULL, ret, err);
  json_decref(json);
  free(text);
  return r;
}

static inline bool unit_accepts(struct tl_grammar *grammar, const char *text) {
  struct tl_matcher *matcher;
  assert_int_equal(tl_matcher_new(grammar, &matcher, NULL), TL_OK);
  bool good = true;
  for (; *text && good; text++) good = tl_matcher_take(matcher, (uint8_t)*text) == TL_OK;
  good = good && tl_matcher_may_end(matcher);
  tl_matcher_free(matcher);
  return good;
}

struct unit_grammar {
  const char *source;
  const char *good[8], *bad[8]; /* up to NULL */
};

static inline void unit_check_grammars(enum tl_grammar_kind kind, const struct unit_grammar *cases, size_t n) {
  for (size_t i = 0; i < n; i++) {
    struct tl_grammar *grammar;
    struct tl_error err = {0};
    if (unit_compile(kind, cases[i].source, &grammar, &err) < 0) fail_msg("%s: %s", cases[i].source, err.message);
    for (const char *const *text = cases[i].good; *text; text++)
      if (!unit_accepts(grammar, *text)) fail_msg("%s refuses %s", cases[i].source, *text);
    for (const char *const *text = cases[i].bad; *text; text++)
      if (unit_accepts(grammar, *text)) fail_msg("%s accepts %s", cases[i].source, *text);
    tl_grammar_release(grammar);
  }
}

struct unit_refusal {
  const char *source;
  int code;
  const char *message;
};

static inline void unit_check_refusals(enum tl_grammar_kind kind, const struct unit_refusal *cases, size_t n) {
  for (size_t i = 0; i < n; i++) {
    struct tl_grammar *grammar = NULL;
    struct tl_error err = {0};
    int r = unit_compile(kind, cases[i].source, &grammar, &err);
    char message[TL_ERROR_MESSAGE];
    snprintf(message, sizeof message, "the.field: %s", cases[i].message);
    if (r != cases[i].code || strcmp(err.message, message) != 0 || strcmp(err.field, "the.field") != 0)
      fail_msg("%s: %d, %s: %s", cases[i].source, r, err.field, err.message);
  }
}

#endif
