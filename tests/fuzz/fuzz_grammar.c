/* SPDX-License-Identifier: MIT */
/* Any bytes as a grammar: the first byte says of which kind, the rest is its text or JSON. An error with a message, or a grammar whose masks
 * allow what is taken, whose walk comes to an end or goes on, and never a crash. Built with libFuzzer by `make fuzz`; with a main of its
 * own, which replays files, by `make check`. */
#include "fuzz_target.h"
#include "tokenlane/grammar.h"

static struct tl_vocabulary *vocabulary(void) {
  static struct tl_vocabulary *made;
  static char bytes[256];
  static const char *const words[] = {"\": \"", "{\"", "\",\n  \"", "true", "\\u00", "\xc3", "12", "]}", "ab"};
  struct tl_vocabulary_token tokens[256 + 9];
  struct tl_error err;
  if (made) return made;
  for (int i = 0; i < 256; i++) {
    bytes[i] = (char)i;
    tokens[i] = (struct tl_vocabulary_token){&bytes[i], 1};
  }
  for (int i = 0; i < 9; i++) tokens[256 + i] = (struct tl_vocabulary_token){words[i], strlen(words[i])};
  check(tl_vocabulary_new(tokens, 256 + 9, &made, &err) == TL_OK, "no vocabulary");
  return made;
}

/* A walk that the source's own bytes choose. */
static void walk(struct tl_grammar *grammar, const uint8_t *data, size_t size) {
  struct tl_matcher *matcher;
  struct tl_error err;
  check(tl_matcher_new(grammar, &matcher, &err) == TL_OK, "no matcher");
  for (size_t i = 0; i < 60 && size; i++) {
    uint32_t mask[9] = {0};
    int32_t allowed[265];
    uint32_t n = 0;
    tl_matcher_mask(matcher, mask);
    for (int32_t token = 0; token < 265; token++)
      if (mask[token / 32] >> token % 32 & 1) allowed[n++] = token;
    check(n > 0 || tl_matcher_may_end(matcher), "a dead end");
    check((n == 0) == tl_matcher_must_end(matcher), "must_end is not what the mask says");
    if (n == 0) break;
    int32_t forbidden = data[i % size];
    if (!(mask[forbidden / 32] >> forbidden % 32 & 1)) check(tl_matcher_take(matcher, forbidden) == TL_EINVAL, "a token that is not allowed is taken");
    check(tl_matcher_take(matcher, allowed[(data[i % size] * 7u + i) % n]) == TL_OK, "a token that is allowed is not taken");
  }
  tl_matcher_free(matcher);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const struct tl_grammar_limits limits = {.fuel = 100000, .max_bytes = 1 << 22};
  if (size == 0) return 0;
  struct tl_grammar_source source = {.text = (const char *)data + 1, .length = size - 1, .field = "field"};
  switch (data[0]) {
    case 's': source.kind = TL_GRAMMAR_JSON_SCHEMA; break;
    case 'r': source.kind = TL_GRAMMAR_REGEX; break;
    case 'c': source.kind = TL_GRAMMAR_CHOICE; break;
    case 'g': source.kind = TL_GRAMMAR_GBNF; break;
    default: return 0;
  }
  bool is_json = data[0] == 's' || data[0] == 'c';
  if (is_json) source.json = json_loadb(source.text, source.length, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
  if (is_json && !source.json) return 0;
  struct tl_grammar *grammar = NULL;
  struct tl_error err = {0};
  int r = tl_grammar_compile(vocabulary(), &source, &limits, &grammar, &err);
  if (r < 0) check(err.message[0] && strcmp(err.field, "field") == 0, "an error that says nothing");
  else walk(grammar, data, size);
  if (r == TL_OK) tl_grammar_release(grammar);
  json_decref(source.json);
  return 0;
}
