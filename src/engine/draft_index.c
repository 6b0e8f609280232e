/* SPDX-License-Identifier: MIT */
/* Where tokens stood before: what step_draft.c guesses by. Each three tokens in a row are a link of a chain, hashed, latest first, as
 * compressors have it:
 *
 *   tokens      ... a b c ... a b c ... a b c        index of the last of the three
 *   last[h(abc)]                            ^
 *   before[ ]             ^<----------- <---^        what stands in `before` at an index is the one before
 *
 * A token costs one link when it comes and a look at a few candidates when a guess is made, however long the text is. Memory is the
 * sequence's and comes with it: 8 to 12 bytes a token. */
#include <string.h>

#include "engine/engine_private.h"

#define SHORTEST_MATCH 3  /* tokens: shorter ones are found everywhere, and mean little */
#define LONGEST_MATCH 8
#define MOST_CANDIDATES 32 /* looked at for a guess */
#define MOST_AT_ONCE 4096 /* tokens: a prompt from the cache is linked in parts, each of them some 80 us */

static uint32_t slots_for(uint32_t n_tokens) {
  uint32_t slots = 16;
  while (slots < n_tokens) slots *= 2;
  return slots;
}

size_t tl_draft_index_words(uint32_t n_tokens) {
  return (size_t)n_tokens + slots_for(n_tokens);
}

/* All of it that a guess may be taken from, by one index: what is predicted, the prompt, what was generated. */
static int32_t *text_of(const struct tl_sequence *seq) {
  return seq->tokens - seq->n_predicted;
}

/* 0 in either: none, since no three tokens end there. */
static uint32_t *before_of(const struct tl_sequence *seq) {
  return seq->draft_index;
}

static uint32_t *last_of(const struct tl_sequence *seq, uint32_t end) {
  uint32_t n = seq->n_predicted + seq->n_prompt + seq->max_new;
  const int32_t *t = text_of(seq) + end;
  uint64_t three = (uint64_t)(uint32_t)t[0] ^ (uint64_t)(uint32_t)t[-1] << 21 ^ (uint64_t)(uint32_t)t[-2] << 42;
  three *= 0x9e3779b97f4a7c15u; /* Fibonacci hashing: the high bits are mixed */
  return seq->draft_index + n + (three >> 32 & (slots_for(n) - 1));
}

void draft_index_add(struct tl_sequence *seq, uint32_t n_tokens) {
  struct tl_drafts *d = &seq->drafts;
  uint32_t n = seq->n_predicted + n_tokens;
  if (n > d->n_indexed + MOST_AT_ONCE) n = d->n_indexed + MOST_AT_ONCE;
  for (uint32_t end = d->n_indexed; end < n; end++) {
    if (end + 1 < SHORTEST_MATCH) continue;
    uint32_t *last = last_of(seq, end);
    before_of(seq)[end] = *last;
    *last = end;
  }
  if (n > d->n_indexed) d->n_indexed = n;
}

/* Tokens up to `end` that are those up to the last one, n - 1. */
static uint32_t match_length(const int32_t *text, uint32_t n, uint32_t end) {
  uint32_t length = 0;
  while (length < LONGEST_MATCH && length <= end && text[end - length] == text[n - 1 - length]) length++;
  return length;
}

/* Where what may follow the text's first n begins; 0: nowhere. */
static uint32_t find(const struct tl_sequence *seq, uint32_t n) {
  const int32_t *text = text_of(seq);
  uint32_t n_out = n - seq->n_predicted - seq->n_prompt, best = SHORTEST_MATCH - 1, after = 0;
  if (n_out < SHORTEST_MATCH && n_out < seq->n_predicted && memcmp(text, seq->tokens + seq->n_prompt, n_out * sizeof *text) == 0)
    return n_out; /* too few for a match, but it begins as predicted */
  uint32_t end = n < SHORTEST_MATCH ? 0 : *last_of(seq, n - 1);
  for (uint32_t looks = 0; end && looks < MOST_CANDIDATES && best < LONGEST_MATCH; looks++, end = before_of(seq)[end]) {
    bool follows = end < n - 1 && end + 1 != seq->n_predicted; /* behind what is predicted the prompt stands by chance */
    uint32_t length = follows ? match_length(text, n, end) : 0;
    if (length <= best) continue;
    best = length;
    after = end + 1;
  }
  return after;
}

uint32_t draft_index_guess(struct tl_sequence *seq, uint32_t n_tokens, uint32_t most) {
  uint32_t n = seq->n_predicted + n_tokens, after = find(seq, n);
  int32_t *text = text_of(seq);
  if (after == 0) return 0;
  if (after < seq->n_predicted && most > seq->n_predicted - after) most = seq->n_predicted - after;
  for (uint32_t i = 0; i < most; i++) text[n + i] = text[after + i]; /* of a short period those just written, too */
  return most;
}
