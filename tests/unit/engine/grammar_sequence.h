/* SPDX-License-Identifier: MIT */
/* Sequences that keep to a grammar, and what they must have become: the whole way once more with a matcher of its own, whatever
 * happened to them meanwhile. */
#ifndef GRAMMAR_SEQUENCE_H
#define GRAMMAR_SEQUENCE_H

#include "tokenlane/engine.h"
#include "tokenlane/grammar.h"
#include "unit.h"

#define GRAMMAR_EOS 49
#define MAX_MASK_WORDS 32

static const char grammar_letters[] = "{}[]\",: 0123456789abcdefghijklmnopqrstuvwxyz-.\\";

/* The bytes of a token: letters, two words, EOS, then pairs of letters. */
static inline struct tl_vocabulary_token grammar_token(uint32_t i, char pair[2]) {
  const uint32_t n = sizeof grammar_letters - 1; /* 47 */
  if (i < n) return (struct tl_vocabulary_token){&grammar_letters[i], 1};
  if (i == n) return (struct tl_vocabulary_token){"true", 4};
  if (i == n + 1) return (struct tl_vocabulary_token){"\":", 2};
  if (i == GRAMMAR_EOS) return (struct tl_vocabulary_token){"", 0};
  pair[0] = grammar_letters[i / n % n];
  pair[1] = grammar_letters[i % n];
  return (struct tl_vocabulary_token){pair, 2};
}

static inline struct tl_vocabulary *grammar_vocabulary(uint32_t n) {
  struct tl_vocabulary_token *tokens = calloc(n, sizeof *tokens);
  char (*pairs)[2] = calloc(n, sizeof *pairs);
  struct tl_vocabulary *ret = NULL;
  for (uint32_t i = 0; i < n; i++) tokens[i] = grammar_token(i, pairs[i]);
  assert_int_equal(tl_vocabulary_new(tokens, n, &ret, NULL), TL_OK);
  free(tokens);
  free(pairs);
  return ret;
}

/* text: a regular expression; NULL: any JSON object. */
static inline struct tl_grammar *grammar_of(const struct tl_vocabulary *vocabulary, const char *text) {
  struct tl_grammar_source source = {.kind = text ? TL_GRAMMAR_REGEX : TL_GRAMMAR_JSON_OBJECT, .text = text,
                                     .length = text ? strlen(text) : 0, .field = "grammar"};
  struct tl_error err = {0};
  struct tl_grammar *ret = NULL;
  if (tl_grammar_compile(vocabulary, &source, NULL, &ret, &err) < 0) fail_msg("%s", err.message);
  return ret;
}

static inline void grammar_want(struct tl_sequence *seq, struct tl_grammar *grammar) {
  assert_int_equal(tl_matcher_new(grammar, &seq->matcher, NULL), TL_OK);
}

/* Whether a token may come after n_out ones. */
static inline bool grammar_allows(const uint32_t *mask, int32_t token) {
  return !mask || (mask[token / 32] >> token % 32 & 1);
}

/* The text of what was generated, without a token that stopped it. */
static inline char *grammar_text(const struct tl_sequence *seq) {
  uint32_t n = atomic_load_explicit(&seq->n_out, memory_order_acquire);
  char *text = calloc(n * 4 + 1, 1), pair[2], *at = text;
  for (uint32_t i = 0; i < n; i++) {
    struct tl_vocabulary_token t = grammar_token((uint32_t)seq->tokens[seq->n_prompt + i], pair);
    memcpy(at, t.bytes, t.length);
    at += t.length;
  }
  return text;
}

/* What the model says after `n` tokens, of those that the mask (NULL: all) has; -1: none. */
typedef int32_t grammar_model(const struct tl_sequence *seq, uint32_t n, const uint32_t *mask);

/* All of a sequence that has ended, but not by its client. grammar NULL: it has only `allowed`. Aborts, since threads that cmocka does
 * not know call it. */
static inline void grammar_check(const struct tl_sequence *seq, struct tl_grammar *grammar, uint32_t vocab_size, grammar_model *say_next) {
  uint32_t n_out = atomic_load_explicit(&seq->n_out, memory_order_acquire), words = TL_MASK_WORDS(vocab_size), i = 0;
  struct tl_matcher *m = NULL;
  uint32_t buffer[MAX_MASK_WORDS];
  enum tl_finish how = TL_FINISH_LENGTH;
  if (grammar && tl_matcher_new(grammar, &m, NULL) < 0) abort();
  for (; i < seq->max_new && how == TL_FINISH_LENGTH; i++) {
    const uint32_t *mask = m ? buffer : seq->allowed;
    if (m) tl_matcher_mask(m, buffer);
    for (uint32_t k = 0; m && seq->allowed && k < words; k++) buffer[k] &= seq->allowed[k];
    uint32_t n_stop = seq->ignore_eos ? seq->n_own_stop_ids : seq->n_stop_ids;
    bool may_end = m && i >= seq->min_new && tl_matcher_may_end(m);
    for (uint32_t k = 0; may_end && k < n_stop; k++) buffer[seq->stop_ids[k] / 32] |= 1u << seq->stop_ids[k] % 32;
    int32_t token = say_next(seq, seq->n_prompt + i, mask);
    if (token < 0) {
      how = m && tl_matcher_must_end(m) ? TL_FINISH_STOP : TL_FINISH_ERROR;
      break;
    }
    if (i >= n_out || token != seq->tokens[seq->n_prompt + i]) {
      fprintf(stderr, "token %u of %u: %d, expected %d\n", i, n_out, i < n_out ? seq->tokens[seq->n_prompt + i] : -1, token);
      abort();
    }
    bool stops = tl_sequence_is_stop(seq, token);
    if (m && !stops && tl_matcher_take(m, token) < 0) abort();
    if (stops || (m && tl_matcher_must_end(m))) how = TL_FINISH_STOP;
  }
  if (i != n_out || how != seq->finish) {
    fprintf(stderr, "%u tokens, finish %d; expected %u, finish %d\n", n_out, seq->finish, i, how);
    abort();
  }
  tl_matcher_free(m);
}

#endif
