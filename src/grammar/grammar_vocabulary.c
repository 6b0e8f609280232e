/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_private.h"

static int by_bytes(const void *a, const void *b, void *context) {
  const struct tl_vocabulary_token *tokens = context;
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  size_t n = tokens[x].length, m = tokens[y].length;
  int r = memcmp(tokens[x].bytes, tokens[y].bytes, n < m ? n : m);
  if (r == 0 && n != m) r = n < m ? -1 : 1;
  return r ? r : (x > y) - (x < y);
}

static bool may_be_allowed(const struct tl_vocabulary_token *token) {
  return token->length > 0 && token->length <= GR_TOKEN_BYTES;
}

static void sort(struct tl_vocabulary *v, const struct tl_vocabulary_token *tokens) {
  for (uint32_t i = 0; i < v->n; i++) {
    v->place[i] = GR_NONE;
    if (may_be_allowed(&tokens[i])) v->sorted[v->n_sorted++] = i;
  }
  qsort_r(v->sorted, v->n_sorted, sizeof *v->sorted, by_bytes, (void *)tokens);
  uint32_t at = 0;
  for (uint32_t i = 0; i < v->n_sorted; i++) {
    const struct tl_vocabulary_token *token = &tokens[v->sorted[i]];
    v->place[v->sorted[i]] = i;
    v->start[i] = at;
    memcpy(v->bytes + at, token->bytes, token->length);
    at += (uint32_t)token->length;
    if (i == 0) continue;
    uint32_t before = v->start[i - 1], common = 0;
    while (before + common < v->start[i] && common < token->length && v->bytes[before + common] == token->bytes[common]) common++;
    v->common[i] = (uint8_t)common;
  }
  v->start[v->n_sorted] = at;
}

static void count_pairs(struct tl_vocabulary *v) {
  for (uint32_t i = 0; i < v->n_sorted; i++) {
    uint32_t at = v->start[i];
    if (v->start[i + 1] - at > 1) v->pairs[(uint8_t)v->bytes[at] * 257 + (uint8_t)v->bytes[at + 1] + 1]++;
  }
  for (unsigned first = 0; first < 256; first++)
    for (unsigned second = 1; second <= 256; second++) v->pairs[first * 257 + second] += v->pairs[first * 257 + second - 1];
}

/* Of two neighbours with less in common than those between them the second is what these skip to. */
static void link_shorter(struct tl_vocabulary *v) {
  for (uint32_t i = v->n_sorted; i-- > 0;) {
    uint32_t next = i + 1;
    while (next < v->n_sorted && v->common[next] >= v->common[i]) next = v->shorter[next];
    v->shorter[i] = next;
  }
  uint32_t at = 0;
  for (unsigned byte = 0; byte <= 256; byte++) {
    while (at < v->n_sorted && (uint8_t)v->bytes[v->start[at]] < byte) at++;
    v->first[byte] = at;
  }
}

int tl_vocabulary_new(const struct tl_vocabulary_token *tokens, uint32_t n, struct tl_vocabulary **ret, struct tl_error *err) {
  size_t n_bytes = 0;
  for (uint32_t i = 0; i < n; i++)
    if (may_be_allowed(&tokens[i])) n_bytes += tokens[i].length;
  if (n_bytes > UINT32_MAX || n > INT32_MAX) return tl_error_set(err, TL_ELIMIT, NULL, "a vocabulary of %u tokens is too large", n);
  struct tl_vocabulary *v = calloc(1, sizeof *v);
  if (!v) goto no_memory;
  v->n = n;
  v->wide = 8192;
  v->many = 2048;
  v->n_words = (n + 31) / 32;
  v->bytes = malloc(n_bytes + 1);
  v->start = malloc(((size_t)n + 1) * sizeof *v->start);
  v->sorted = malloc(((size_t)n + 1) * sizeof *v->sorted);
  v->place = malloc(((size_t)n + 1) * sizeof *v->place);
  v->common = calloc((size_t)n + 1, 1);
  v->shorter = malloc(((size_t)n + 1) * sizeof *v->shorter);
  v->pairs = calloc(256 * 257, sizeof *v->pairs);
  if (!v->bytes || !v->start || !v->sorted || !v->place || !v->common || !v->shorter || !v->pairs) goto no_memory;
  sort(v, tokens);
  link_shorter(v);
  count_pairs(v);
  if (gr_bodies_init(v) < 0) goto no_memory;
  *ret = v;
  return TL_OK;
no_memory:
  tl_vocabulary_free(v);
  return tl_error_set(err, TL_ENOMEM, NULL, "no memory for a vocabulary of %u tokens", n);
}

void tl_vocabulary_free(struct tl_vocabulary *vocabulary) {
  if (!vocabulary) return;
  free(vocabulary->bytes);
  free(vocabulary->start);
  free(vocabulary->sorted);
  free(vocabulary->place);
  free(vocabulary->common);
  free(vocabulary->shorter);
  free(vocabulary->pairs);
  gr_bodies_done(vocabulary);
  free(vocabulary);
}
