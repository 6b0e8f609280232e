/* SPDX-License-Identifier: MIT */
/* Which tokens may follow within JSON strings: one look at the whole vocabulary for each state of their bodies, at boot. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_private.h"

struct scratch {
  uint32_t *token;    /* (n_sorted) that stay, */
  uint8_t *chars;     /* (n_sorted) and the characters that each begins */
  struct gr_left *left;
  uint32_t n, n_left;
};

/* Sorted token i from `state` on: it stays in the body, ends it with a quote, or does not fit. Returns after how many bytes it
 * does not. */
static uint32_t follow(const struct tl_vocabulary *v, uint8_t state, uint32_t i, struct scratch *s) {
  uint32_t at = v->start[i], end = v->start[i + 1];
  uint8_t chars = 0;
  for (; at < end; at++) {
    uint8_t byte = (uint8_t)v->bytes[at];
    if (state == GR_BODY && byte == '"') break;
    if (state == GR_BODY) chars++;
    state = v->body_next[state][byte];
    if (state == GR_DEAD) return at + 1 - v->start[i];
  }
  if (at < end) {
    s->left[s->n_left++] = (struct gr_left){at, v->sorted[i], (uint8_t)(end - at), chars};
  } else {
    s->token[s->n] = v->sorted[i];
    s->chars[s->n++] = chars;
  }
  return 0;
}

static void follow_all(const struct tl_vocabulary *v, uint8_t state, struct scratch *s) {
  s->n = s->n_left = 0;
  for (unsigned byte = 0; byte < 256; byte++) {
    if (v->body_next[state][byte] == GR_DEAD && !(state == GR_BODY && byte == '"')) continue;
    for (uint32_t i = v->first[byte]; i < v->first[byte + 1];) {
      uint32_t failed_at = follow(v, state, i, s);
      i = failed_at ? gr_skip(v, i, failed_at) : i + 1;
    }
  }
}

static int keep_rests(const struct tl_vocabulary *v, struct gr_body *body, struct scratch *s) {
  if (s->n_left == 0) return TL_OK;
  body->rests = malloc(s->n_left * sizeof *body->rests);
  body->rest_tokens = malloc(s->n_left * sizeof *body->rest_tokens);
  body->rest_chars = malloc(s->n_left);
  if (!body->rests || !body->rest_tokens || !body->rest_chars) return TL_ENOMEM;
  body->n_rests = gr_rests_group(v, s->left, s->n_left, body->rests, body->rest_tokens, body->rest_chars);
  return TL_OK;
}

/* By characters: counted, then placed. */
static int keep_tokens(const struct tl_vocabulary *v, struct gr_body *body, const struct scratch *s) {
  uint32_t at[GR_TOKEN_BYTES + 1] = {0}, sum = 0;
  if (s->n == 0) return TL_OK;
  body->n_tokens = s->n;
  body->tokens = malloc(s->n * sizeof *body->tokens);
  if (!body->tokens) return TL_ENOMEM;
  for (uint32_t i = 0; i < s->n; i++) at[s->chars[i]]++;
  for (unsigned k = 0; k <= GR_TOKEN_BYTES; k++) {
    uint32_t n = at[k];
    at[k] = sum;
    body->up_to[k] = sum += n;
  }
  for (uint32_t i = 0; i < s->n; i++) body->tokens[at[s->chars[i]]++] = s->token[i];
  if (s->n < v->many) return TL_OK;
  body->levels = calloc((size_t)GR_LEVELS * v->n_words, sizeof *body->levels);
  if (!body->levels) return TL_ENOMEM;
  for (uint32_t i = 0; i < s->n; i++)
    for (unsigned k = s->chars[i] < GR_LEVELS ? s->chars[i] : GR_LEVELS - 1; k < GR_LEVELS; k++)
      body->levels[(size_t)k * v->n_words + s->token[i] / 32] |= 1u << s->token[i] % 32;
  return TL_OK;
}

static void find_kinds(struct tl_vocabulary *v) {
  for (unsigned state = 0; state < GR_BODIES; state++) {
    const uint8_t *next = v->body_next[state];
    for (unsigned low = 0, high; low < 256; low = high + 1) {
      for (high = low; high < 255 && next[high + 1] == next[low]; high++) {}
      memset(v->body_low[state] + low, (int)low, high - low + 1);
      memset(v->body_high[state] + low, (int)high, high - low + 1);
    }
  }
}

int gr_bodies_init(struct tl_vocabulary *v) {
  size_t n = (size_t)v->n_sorted + 1;
  struct scratch s = {.token = malloc(n * sizeof *s.token), .chars = malloc(n), .left = malloc(n * sizeof *s.left)};
  int r = s.token && s.chars && s.left ? TL_OK : TL_ENOMEM;
  gr_body_fill(v->body_next);
  find_kinds(v);
  for (unsigned state = 0; state < GR_BODIES && r == TL_OK; state++) {
    follow_all(v, (uint8_t)state, &s);
    r = keep_tokens(v, &v->bodies[state], &s);
    if (r == TL_OK) r = keep_rests(v, &v->bodies[state], &s);
  }
  free(s.token);
  free(s.chars);
  free(s.left);
  return r;
}

void gr_bodies_done(struct tl_vocabulary *v) {
  for (unsigned i = 0; i < GR_BODIES; i++) {
    free(v->bodies[i].tokens);
    free(v->bodies[i].levels);
    free(v->bodies[i].rests);
    free(v->bodies[i].rest_tokens);
    free(v->bodies[i].rest_chars);
  }
}
