/* SPDX-License-Identifier: MIT */
/* Many grammars, for tests that compare with other people's software:
 *
 *   match_many <cases >answers
 *
 * A case is a line of JSON, {"kind": "json_object|json_schema|regex|choice|gbnf", "source": JSON or text, "candidates": [texts],
 * "walks": how many random texts, "seed": number}. The answer is a line, too: {"accepts": [whether the grammar has each candidate],
 * "walks": [texts]}, or {"code": ..., "error": ...}. The vocabulary is the 256 bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenlane/base/utf8.h"
#include "tokenlane/grammar.h"

#define LONGEST 1500 /* bytes of a walk, of which the first 300 go where they like */

static void die(const char *what) {
  fprintf(stderr, "match_many: %s\n", what);
  exit(1);
}

static struct tl_vocabulary *byte_vocabulary(void) {
  static char bytes[256];
  struct tl_vocabulary_token tokens[256];
  struct tl_vocabulary *vocabulary;
  struct tl_error err;
  for (int i = 0; i < 256; i++) {
    bytes[i] = (char)i;
    tokens[i] = (struct tl_vocabulary_token){&bytes[i], 1};
  }
  if (tl_vocabulary_new(tokens, 256, &vocabulary, &err) < 0) die(err.message);
  return vocabulary;
}

static bool accepts(struct tl_grammar *grammar, const char *text, size_t length) {
  struct tl_matcher *matcher;
  struct tl_error err;
  if (tl_matcher_new(grammar, &matcher, &err) < 0) die(err.message);
  bool good = true;
  for (size_t i = 0; i < length && good; i++) {
    uint32_t mask[8];
    tl_matcher_mask(matcher, mask);
    unsigned byte = (unsigned char)text[i];
    good = tl_matcher_take(matcher, (int32_t)byte) == TL_OK;
    if (good != (mask[byte / 32] >> byte % 32 & 1)) die("the mask and what is taken differ");
  }
  good = good && tl_matcher_may_end(matcher);
  tl_matcher_free(matcher);
  return good;
}

static uint64_t next_random(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545f4914f6cdd1du >> 33;
}

/* Towards the end it closes what is open; before that mostly letters, since other bytes are so many. */
static int choose(const uint32_t mask[8], uint64_t *state, bool ending) {
  static const char closing[] = "\"]}0";
  unsigned char some[256];
  size_t n = 0, n_ascii = 0;
  for (size_t i = 0; i < 4 && ending; i++)
    if (mask[closing[i] / 32] >> closing[i] % 32 & 1) return closing[i];
  for (unsigned i = 0; i < 256; i++)
    if (mask[i / 32] >> i % 32 & 1) some[n++] = (unsigned char)i;
  while (n_ascii < n && some[n_ascii] < 128) n_ascii++;
  if (n == 0) return -1;
  return some[next_random(state) % (n_ascii && next_random(state) % 16 ? n_ascii : n)];
}

/* NULL: it did not end in time. */
static json_t *walk(struct tl_grammar *grammar, uint64_t *state) {
  struct tl_matcher *matcher;
  struct tl_error err;
  char text[LONGEST];
  size_t n = 0;
  bool ended = false;
  if (tl_matcher_new(grammar, &matcher, &err) < 0) die(err.message);
  while (n < LONGEST && !ended) {
    uint32_t mask[8];
    tl_matcher_mask(matcher, mask);
    int byte = choose(mask, state, n > 300);
    if (tl_matcher_must_end(matcher) != (byte < 0)) die("must_end and the mask differ");
    if (byte < 0 && !tl_matcher_may_end(matcher)) die("a dead end");
    ended = byte < 0 || (tl_matcher_may_end(matcher) && (n > 300 || next_random(state) % 4 == 0));
    if (ended) break;
    if (tl_matcher_take(matcher, byte) < 0) die("a byte of the mask is not taken");
    text[n++] = (char)byte;
  }
  tl_matcher_free(matcher);
  if (ended && !tl_utf8_valid(text, n)) die("a walk is not UTF-8");
  return ended ? json_stringn(text, n) : json_null();
}

static enum tl_grammar_kind kind_of(const char *name) {
  static const char *const names[] = {"json_object", "json_schema", "regex", "choice", "gbnf"};
  for (size_t i = 0; name && i < sizeof names / sizeof *names; i++)
    if (strcmp(names[i], name) == 0) return (enum tl_grammar_kind)i;
  die("an unknown kind");
  return TL_GRAMMAR_REGEX;
}

static json_t *answer(const struct tl_vocabulary *vocabulary, json_t *one) {
  json_t *source = json_object_get(one, "source"), *candidate, *accepted = json_array(), *walks = json_array();
  struct tl_grammar_source how = {.kind = kind_of(json_string_value(json_object_get(one, "kind"))), .json = source, .field = "field",
                                  .text = json_string_value(source), .length = json_string_length(source)};
  struct tl_grammar *grammar;
  struct tl_error err = {0};
  int r = tl_grammar_compile(vocabulary, &how, NULL, &grammar, &err);
  if (r < 0) {
    json_decref(accepted);
    json_decref(walks);
    return json_pack("{s:i,s:s}", "code", r, "error", err.message);
  }
  size_t i;
  json_array_foreach(json_object_get(one, "candidates"), i, candidate)
    json_array_append_new(accepted, json_boolean(accepts(grammar, json_string_value(candidate), json_string_length(candidate))));
  uint64_t state = (uint64_t)json_integer_value(json_object_get(one, "seed")) * 2 + 1;
  for (json_int_t k = json_integer_value(json_object_get(one, "walks")); k > 0; k--) json_array_append_new(walks, walk(grammar, &state));
  tl_grammar_release(grammar);
  return json_pack("{s:o,s:o}", "accepts", accepted, "walks", walks);
}

int main(void) {
  struct tl_vocabulary *vocabulary = byte_vocabulary();
  char *line = NULL;
  size_t room = 0;
  for (ssize_t n; (n = getline(&line, &room, stdin)) > 0;) {
    json_error_t why;
    json_t *one = json_loadb(line, (size_t)n, JSON_ALLOW_NUL | JSON_DECODE_ANY, &why);
    if (!one) die(why.text);
    json_t *said = answer(vocabulary, one);
    if (!said || json_dumpf(said, stdout, JSON_COMPACT) < 0 || putchar('\n') == EOF) die("cannot write");
    json_decref(said);
    json_decref(one);
  }
  free(line);
  tl_vocabulary_free(vocabulary);
  return 0;
}
