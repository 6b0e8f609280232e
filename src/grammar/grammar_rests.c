/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_private.h"

static int by_bytes(const void *a, const void *b, void *context) {
  const struct gr_left *x = a, *y = b;
  const char *bytes = context;
  int r = memcmp(bytes + x->at, bytes + y->at, x->length < y->length ? x->length : y->length);
  if (r == 0) r = (x->length > y->length) - (x->length < y->length);
  return r ? r : (x->token > y->token) - (x->token < y->token);
}

static uint8_t in_common(const char *bytes, const struct gr_rest *a, const struct gr_rest *b) {
  uint8_t n = 0;
  while (n < a->length && n < b->length && bytes[a->at + n] == bytes[b->at + n]) n++;
  return n;
}

uint32_t gr_rests_group(const struct tl_vocabulary *vocabulary, struct gr_left *left, uint32_t n, struct gr_rest *rests, uint32_t *tokens,
                        uint8_t *chars) {
  const char *bytes = vocabulary->bytes;
  uint32_t n_rests = 0;
  qsort_r(left, n, sizeof *left, by_bytes, vocabulary->bytes);
  for (uint32_t i = 0; i < n; i++) {
    struct gr_rest rest = {.at = left[i].at, .tokens = i, .n_tokens = 1, .length = left[i].length};
    if (n_rests) rest.common = in_common(bytes, &rests[n_rests - 1], &rest);
    tokens[i] = left[i].token;
    if (chars) chars[i] = left[i].chars;
    if (n_rests && rest.common == rest.length && rests[n_rests - 1].length == rest.length) rests[n_rests - 1].n_tokens++;
    else rests[n_rests++] = rest;
  }
  return n_rests;
}
