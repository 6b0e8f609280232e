/* SPDX-License-Identifier: MIT */
/* Pre-tokenizers: each splits what the one before it left. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_private.h"

static int add_piece(struct tok_encode *e, struct tok_pieces *list, struct tok_piece piece) {
  if (piece.end == piece.start) return TL_OK;
  if (list->n == list->capacity) {
    size_t capacity = list->capacity ? list->capacity * 2 : 64;
    struct tok_piece *items = realloc(list->items, capacity * sizeof *items);
    if (!items) return tl_error_set(e->err, TL_ENOMEM, NULL, "out of memory");
    list->items = items;
    list->capacity = capacity;
  }
  list->items[list->n++] = piece;
  return TL_OK;
}

/* Matches and what lies between them, in order. */
static int cut(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length,
               struct tok_pieces *list) {
  size_t at = 0;
  struct tok_piece found;
  int r;
  list->n = 0;
  while ((r = tok_pattern_find(pre->pattern, text, length, at, e->match, e->match_context, &found, e->err)) > 0) {
    found.match = !pre->invert;
    r = add_piece(e, list, (struct tok_piece){at, found.start, pre->invert});
    if (r == TL_OK) r = add_piece(e, list, found);
    if (r < 0) return r;
    at = found.end;
  }
  return r < 0 ? r : add_piece(e, list, (struct tok_piece){at, length, pre->invert});
}

static void keep_non_matches(struct tok_pieces *list) {
  size_t n = 0;
  for (size_t i = 0; i < list->n; i++)
    if (!list->items[i].match) list->items[n++] = list->items[i];
  list->n = n;
}

static void join_equals(struct tok_pieces *list) {
  size_t n = 0;
  for (size_t i = 0; i < list->n; i++) {
    if (n > 0 && list->items[n - 1].match == list->items[i].match)
      list->items[n - 1].end = list->items[i].end;
    else
      list->items[n++] = list->items[i];
  }
  list->n = n;
}

/* A match joins what stands before it, but not another match. */
static void join_previous(struct tok_pieces *list) {
  size_t n = 0;
  bool previous = false;
  for (size_t i = 0; i < list->n; i++) {
    struct tok_piece piece = list->items[i];
    if (piece.match && !previous && n > 0)
      list->items[n - 1].end = piece.end;
    else
      list->items[n++] = piece;
    previous = piece.match;
  }
  list->n = n;
}

/* The mirror image, from the end. */
static void join_next(struct tok_pieces *list) {
  size_t first = list->n;
  bool previous = false;
  for (size_t i = list->n; i-- > 0;) {
    struct tok_piece piece = list->items[i];
    if (piece.match && !previous && first < list->n)
      list->items[first].start = piece.start;
    else
      list->items[--first] = piece;
    previous = piece.match;
  }
  memmove(list->items, list->items + first, (list->n - first) * sizeof *list->items);
  list->n -= first;
}

static int split(struct tok_encode *e, const char *text, size_t length, unsigned step) {
  const struct tok_pre *pre = &e->t->pres[step];
  struct tok_pieces *list = &e->pieces[step];
  int r = cut(e, pre, text, length, list);
  if (r < 0) return r;
  switch (pre->behaviour) {
    case TOK_ISOLATED: break;
    case TOK_REMOVED: keep_non_matches(list); break;
    case TOK_CONTIGUOUS: join_equals(list); break;
    case TOK_MERGED_PREVIOUS: join_previous(list); break;
    case TOK_MERGED_NEXT: join_next(list); break;
  }
  /* Later steps have lists of their own: this one stays as it is. */
  for (size_t i = 0; r == TL_OK && i < list->n; i++)
    r = tok_pretokenize(e, text + list->items[i].start, list->items[i].end - list->items[i].start, step + 1);
  return r;
}

/* A pre-tokenizer with a prefix space is the last one (ByteLevel), so one buffer is enough. */
static int split_spaced(struct tok_encode *e, const char *text, size_t length, unsigned step) {
  tl_buffer_clear(&e->spaced);
  tl_buffer_putc(&e->spaced, ' ');
  if (tl_buffer_append(&e->spaced, text, length) < 0) return tl_error_set(e->err, TL_ENOMEM, NULL, "out of memory");
  if (!e->t->pres[step].pattern) return tok_pretokenize(e, e->spaced.data, e->spaced.length, step + 1);
  return split(e, e->spaced.data, e->spaced.length, step);
}

int tok_pretokenize(struct tok_encode *e, const char *text, size_t length, unsigned step) {
  if (length == 0) return TL_OK;
  if (step == e->t->n_pres) return tok_bpe_piece(e, text, length);
  const struct tok_pre *pre = &e->t->pres[step];
  if (pre->prefix_space && text[0] != ' ') return split_spaced(e, text, length, step);
  if (!pre->pattern) return tok_pretokenize(e, text, length, step + 1);
  return split(e, text, length, step);
}
