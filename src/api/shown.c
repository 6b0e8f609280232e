/* SPDX-License-Identifier: MIT */
/* Which tokens a client is told the log-probabilities of that does not want to see thoughts: those that have a part in what it
 * sees, and none of thoughts, of their marks or of white space between. Text is held back on its way (half a character, a
 * stop string's beginning, a mark's), so what becomes of a token's may be known only some tokens later:
 *
 *   tokens' text   | <th | ink> | Hm. | </ | think> | \n\n | So |   "So" comes out of the parser: bytes [from, to) of the text
 *   tokens           hidden ........................ hidden  shown
 *
 * A token without text of its own (the first half of a character, a silent special token) goes with the byte behind it. */
#include <string.h>

#include "api/api_private.h"

/* Of a token: SHOWN or HIDDEN, or where its text ends, plus UNDECIDED. */
enum { HIDDEN, SHOWN, UNDECIDED };

static uint32_t n_tokens(const struct api_shown *shown) {
  return (uint32_t)(shown->tokens.length / sizeof(uint32_t));
}

static uint32_t *token(const struct api_shown *shown, uint32_t i) {
  return (uint32_t *)(void *)shown->tokens.data + i; /* malloc's: aligned */
}

void api_shown_begin(struct api_choice *choice) {
  const struct api_params *params = &choice->call->params;
  choice->shown.on = choice->thinks.format && !params->include_reasoning && params->n_top_logprobs >= 0;
}

int api_shown_token(struct api_choice *choice, size_t n_bytes) {
  struct api_shown *shown = &choice->shown;
  if (!shown->on) return TL_OK;
  shown->n_bytes += (uint32_t)n_bytes;
  uint32_t end = shown->n_bytes + UNDECIDED;
  return tl_buffer_append(&shown->tokens, &end, sizeof end);
}

static void decide(struct api_shown *shown, bool is_shown) {
  uint32_t *next = token(shown, shown->n_decided++);
  shown->at = *next - UNDECIDED;
  *next = is_shown ? SHOWN : HIDDEN;
}

/* Bytes [from, to) of the text are seen, those before them that nothing was said of are not. */
static void show(struct api_shown *shown, uint32_t from, uint32_t to) {
  while (shown->n_decided < n_tokens(shown)) {
    uint32_t begin = shown->at, end = *token(shown, shown->n_decided) - UNDECIDED;
    if (end == begin) end++;
    if (begin >= to) break;
    decide(shown, end > from);
  }
  shown->seen = to;
}

int api_shown_take(struct api_choice *choice, const struct tl_buffer *text, struct tl_buffer *rest) {
  struct api_shown *shown = &choice->shown;
  struct api_reasoning_parser *parser = &choice->thinks;
  int r = TL_OK;
  for (size_t i = 0; r == TL_OK && i < text->length; i++) {
    size_t before = rest->length - parser->n_made;
    r = api_reasoning_parser_push(parser, text->data + i, 1, &choice->reasoning, rest);
    shown->n_taken++;
    /* what comes out is the last that is not held */
    uint32_t n = (uint32_t)(rest->length - parser->n_made - before), to = shown->n_taken - (uint32_t)parser->held.length;
    if (r == TL_OK && n) show(shown, to - n, to);
  }
  return r;
}

int api_shown_finish(struct api_choice *choice, struct tl_buffer *rest) {
  struct api_shown *shown = &choice->shown;
  size_t before = rest->length - choice->thinks.n_made;
  int r = api_reasoning_parser_finish(&choice->thinks, &choice->reasoning, rest);
  uint32_t n = (uint32_t)(rest->length - choice->thinks.n_made - before);
  if (r < 0) return r;
  if (n) show(shown, shown->n_taken - n, shown->n_taken);
  /* what has no text behind all that was taken (a stop string, a silent token) goes with the end */
  while (shown->n_decided < n_tokens(shown)) decide(shown, shown->at >= shown->n_taken && shown->seen == shown->n_taken);
  return TL_OK;
}

bool api_shown_any(const struct api_choice *choice, uint32_t from, uint32_t to) {
  const struct api_shown *shown = &choice->shown;
  for (uint32_t i = from; i < to; i++)
    if (!shown->on || i >= shown->n_decided || *token(shown, i) == SHOWN) return true;
  return false;
}

uint32_t api_n_told(const struct api_choice *choice) {
  uint32_t n = choice->n_seen - choice->ended_by_id; /* the id that ended it is no part of the answer */
  return choice->shown.on && !choice->done && choice->shown.n_decided < n ? choice->shown.n_decided : n;
}
