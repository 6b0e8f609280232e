/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_private.h"

static int by_bytes(const void *a, const void *b, void *context) {
  const struct tl_vocabulary *v = context;
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  size_t n = v->start[x + 1] - v->start[x], m = v->start[y + 1] - v->start[y];
  int r = memcmp(v->bytes + v->start[x], v->bytes + v->start[y], n < m ? n : m);
  if (r == 0 && n != m) r = n < m ? -1 : 1;
  return r ? r : (x > y) - (x < y);
}

static void sort(struct tl_vocabulary *v) {
  for (uint32_t i = 0; i < v->n; i++)
    if (v->start[i + 1] > v->start[i]) v->sorted[v->n_sorted++] = i;
  qsort_r(v->sorted, v->n_sorted, sizeof *v->sorted, by_bytes, v);
  for (uint32_t i = 1; i < v->n_sorted; i++) {
    uint32_t a = v->sorted[i - 1], b = v->sorted[i], common = 0;
    while (v->start[a] + common < v->start[a + 1] && v->start[b] + common < v->start[b + 1] &&
           v->bytes[v->start[a] + common] == v->bytes[v->start[b] + common])
      common++;
    v->common[i] = (uint8_t)common;
  }
}

static void count_pairs(struct tl_vocabulary *v) {
  for (uint32_t i = 0; i < v->n_sorted; i++) {
    uint32_t at = v->start[v->sorted[i]];
    if (v->start[v->sorted[i] + 1] - at > 1) v->pairs[(uint8_t)v->bytes[at] * 257 + (uint8_t)v->bytes[at + 1] + 1]++;
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
    while (at < v->n_sorted && (uint8_t)v->bytes[v->start[v->sorted[at]]] < byte) at++;
    v->first[byte] = at;
  }
}

int tl_vocabulary_new(const struct tl_vocabulary_token *tokens, uint32_t n, struct tl_vocabulary **ret, struct tl_error *err) {
  size_t n_bytes = 0;
  for (uint32_t i = 0; i < n; i++)
    if (tokens[i].length <= GR_TOKEN_BYTES) n_bytes += tokens[i].length;
  if (n_bytes > UINT32_MAX || n > INT32_MAX) return tl_error_set(err, TL_ELIMIT, NULL, "a vocabulary of %u tokens is too large", n);
  struct tl_vocabulary *v = calloc(1, sizeof *v);
  if (!v) goto no_memory;
  v->n = n;
  v->n_words = (n + 31) / 32;
  v->bytes = malloc(n_bytes + 1);
  v->start = malloc(((size_t)n + 1) * sizeof *v->start);
  v->sorted = malloc(((size_t)n + 1) * sizeof *v->sorted);
  v->common = calloc((size_t)n + 1, 1);
  v->shorter = malloc(((size_t)n + 1) * sizeof *v->shorter);
  v->pairs = calloc(256 * 257, sizeof *v->pairs);
  if (!v->bytes || !v->start || !v->sorted || !v->common || !v->shorter || !v->pairs) goto no_memory;
  uint32_t at = 0;
  for (uint32_t i = 0; i < n; i++) {
    v->start[i] = at;
    if (tokens[i].length == 0 || tokens[i].length > GR_TOKEN_BYTES) continue;
    memcpy(v->bytes + at, tokens[i].bytes, tokens[i].length);
    at += (uint32_t)tokens[i].length;
  }
  v->start[n] = at;
  sort(v);
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
  free(vocabulary->common);
  free(vocabulary->shorter);
  free(vocabulary->pairs);
  gr_bodies_done(vocabulary);
  free(vocabulary);
}
