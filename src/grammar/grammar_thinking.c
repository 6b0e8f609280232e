/* SPDX-License-Identifier: MIT */
/* What stands before the text that a grammar binds: thoughts, which are any tokens up to a mark. The mark is looked for in the
 * text, so that it is found whether it is one token or several; a special token, which has no text in a vocabulary, has that which
 * it is told to have. It is the same text in which the API looks for it. */
#include <string.h>

#include "grammar/grammar_private.h"

static const char *text_of(const struct gr_thinking *t, const struct tl_vocabulary *v, int32_t token, size_t *ret_length) {
  for (uint32_t i = 0; i < t->of->n_marks; i++) {
    if (t->of->marks[i].token != token) continue;
    *ret_length = strlen(t->of->marks[i].text);
    return t->of->marks[i].text;
  }
  uint32_t place = (uint32_t)token < v->n ? v->place[token] : GR_NONE;
  *ret_length = place == GR_NONE ? 0 : v->start[place + 1] - v->start[place];
  return place == GR_NONE ? "" : v->bytes + v->start[place];
}

static size_t shorter(size_t a, size_t b) {
  return a < b ? a : b;
}

/* --- thoughts ------------------------------------------------------------------------------------- */

void gr_thinking_begin(struct gr_thinking *t, const struct tl_thinking *of, bool within) {
  *t = (struct gr_thinking){.of = of, .phase = within || !of->begin ? GR_THINKS : GR_MAY_THINK, .bound_too = true};
}

/* Takes text of thoughts. Returns how many bytes at its end lie behind the last mark; 0 while that has not come. */
static size_t think(struct gr_thinking *t, const char *text, size_t length) {
  char all[2 * GR_TOKEN_BYTES];
  memcpy(all, t->tail, t->n_tail);
  memcpy(all + t->n_tail, text, length);
  const char *at = all, *end = all + t->n_tail + length, *found;
  while (t->phase == GR_THINKS && (found = memmem(at, (size_t)(end - at), t->of->ends[t->end], strlen(t->of->ends[t->end])))) {
    at = found + strlen(t->of->ends[t->end]);
    if (++t->end == GR_THINKING_ENDS || !t->of->ends[t->end]) t->phase = GR_BOUND;
  }
  if (t->phase == GR_BOUND) return (size_t)(end - at);
  /* what may be the beginning of the mark: less than all of it */
  t->n_tail = shorter((size_t)(end - at), strlen(t->of->ends[t->end]) - 1);
  memcpy(t->tail, end - t->n_tail, t->n_tail);
  return 0;
}

enum gr_thought gr_thinking_take(struct gr_thinking *t, const struct tl_vocabulary *v, int32_t token, const char **ret_rest, size_t *ret_length) {
  size_t length;
  const char *text = text_of(t, v, token, &length);
  if (t->phase == GR_MAY_THINK) {
    const char *left = t->of->begin + t->n_begun;
    size_t n = shorter(strlen(left), length);
    if (n == 0 || memcmp(text, left, n) != 0) return GR_NO_THOUGHT;
    t->n_begun += (uint32_t)n;
    if (left[n]) return GR_PART_OF_MARK;
    t->phase = GR_THINKS;
    text += n;
    length -= n;
  }
  *ret_length = think(t, text, length);
  *ret_rest = text + length - *ret_length;
  return GR_THOUGHT;
}

/* --- masks -------------------------------------------------------------------------------------- */

/* Tokens that agree with `text`, which is not empty, as far as both go. within: those that are no longer than it are set. Those that go on
 * behind it are set or, without set_longer, unset. */
static void mask_along(const struct gr_thinking *t, const struct tl_vocabulary *v, const char *text, bool within, bool set_longer, uint32_t *words) {
  size_t length = strlen(text);
  for (uint32_t i = v->first[(uint8_t)*text]; i < v->first[(uint8_t)*text + 1]; i++) {
    uint32_t token = v->sorted[i], bit = 1u << token % 32, n = v->start[i + 1] - v->start[i];
    if (memcmp(v->bytes + v->start[i], text, shorter(n, length)) != 0) continue;
    if (n <= length ? within : set_longer) words[token / 32] |= bit;
    else if (n > length && !set_longer) words[token / 32] &= ~bit;
  }
  for (uint32_t i = 0; within && i < t->of->n_marks; i++) {
    const struct tl_thinking_mark *mark = &t->of->marks[i];
    if (strncmp(mark->text, text, strlen(mark->text)) == 0 && (uint32_t)mark->token < v->n) words[mark->token / 32] |= 1u << mark->token % 32;
  }
}

void gr_thinking_mask(const struct gr_thinking *t, const struct tl_vocabulary *v, uint32_t *words) {
  if (t->phase == GR_MAY_THINK) {
    mask_along(t, v, t->of->begin + t->n_begun, true, true, words);
    return;
  }
  memset(words, 0xff, v->n_words * sizeof *words);
  if (v->n % 32) words[v->n_words - 1] = (1u << v->n % 32) - 1;
  if (t->end + 1 < GR_THINKING_ENDS && t->of->ends[t->end + 1]) return;
  /* a token that ends the last mark and goes on behind it is left out: what it goes on with might not be the grammar's, and there are
   * shorter tokens for the mark */
  const char *mark = t->of->ends[t->end];
  for (uint32_t n = 0; n <= t->n_tail; n++)
    if (memcmp(t->tail + t->n_tail - n, mark, n) == 0) mask_along(t, v, mark + n, false, false, words);
}
