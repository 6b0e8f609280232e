/* SPDX-License-Identifier: MIT */
/* tokenizer.json's model of type Unigram, but for its vocabulary. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_private.h"

#define UNKNOWN_PENALTY 10.0

int tok_unigram_finish(struct tl_tokenizer *t, const double *scores, double lowest, struct tl_error *err) {
  t->unigram.scores = scores;
  t->unigram.unk_score = lowest - UNKNOWN_PENALTY;
  return tok_vocab_trie(t, &t->unigram.trie, err);
}

/* The reference reads a number as its digits, rounded to a double, over a power of ten, rounded again.
 * That may be off by one unit in the last place, and decides between paths whose sums are else equal.
 * The digits are the shortest that name the number, as those who write such files print it. */
static double as_reference_reads(double value) {
  char text[40];
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*e", digits - 1, value < 0 ? -value : value);
    if (strtod(text, NULL) == (value < 0 ? -value : value)) break;
  }
  uint64_t significand = 0;
  int exponent = 0, zeros = 0; /* zeros: not counted in until another digit follows */
  for (const char *at = text; *at != 'e'; at++) {
    if (*at == '.') continue;
    zeros = *at == '0' ? zeros + 1 : 0;
    significand = significand * 10 + (uint64_t)(*at - '0');
    exponent -= at > text;
  }
  for (; zeros > 0 && significand; zeros--, exponent++) significand /= 10;
  exponent += atoi(strchr(text, 'e') + 1);
  char power[16];
  snprintf(power, sizeof power, "1e%d", exponent < 0 ? -exponent : exponent);
  double scale = strtod(power, NULL), result = exponent < 0 ? (double)significand / scale : (double)significand * scale;
  if (!isfinite(scale)) return value;
  return value < 0 ? -result : result;
}

static int read_scores(struct tl_tokenizer *t, json_t *vocab, struct tl_error *err) {
  double *scores = tl_arena_array(&t->mem, (size_t)t->size, sizeof *scores), lowest = INFINITY;
  if (!scores) return tok_out_of_memory(err);
  json_t *entry;
  size_t i;
  json_array_foreach(vocab, i, entry) {
    scores[i] = as_reference_reads(json_number_value(json_array_get(entry, 1)));
    if (scores[i] < lowest) lowest = scores[i];
  }
  return tok_unigram_finish(t, scores, lowest, err);
}

int tok_parse_unigram(struct tl_tokenizer *t, json_t *model, struct tl_error *err) {
  json_t *vocab = json_object_get(model, "vocab"), *unk = json_object_get(model, "unk_id");
  if (!json_is_array(vocab)) return tl_error_set(err, TL_ECORRUPT, NULL, "model.vocab: expected a list of [token, score]");
  if (json_is_integer(unk)) {
    json_int_t id = json_integer_value(unk);
    if (id < 0 || (size_t)id >= json_array_size(vocab)) return tl_error_set(err, TL_ECORRUPT, NULL, "model.unk_id: no token has it");
    t->unk = (int32_t)id;
  }
  t->unigram.byte_fallback = tok_flag(model, "byte_fallback", false);
  t->longest = 0; /* unknown text is one token */
  return read_scores(t, vocab, err);
}
