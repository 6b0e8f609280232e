/* SPDX-License-Identifier: MIT */
/* Pre-tokenizers: each splits what the one before it left. */
#include <stdlib.h>
#include <string.h>

#include "text/text_find.h"
#include "text/tokenizer_private.h"
#include "text/unicode_script.h"
#include "tokenlane/base/utf8.h"

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

int tok_find_pattern(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length, size_t from,
                     struct tok_piece *ret) {
  return tok_pattern_find(pre->pattern, text, length, from, e->match, e->match_context, ret, e->err);
}

int tok_find_literal(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length, size_t from,
                     struct tok_piece *ret) {
  (void)e;
  if (!pre->literal_length || from >= length) return 0;
  const char *found = text_find(text + from, length - from, pre->literal, pre->literal_length);
  if (!found) return 0;
  size_t start = (size_t)(found - text);
  *ret = (struct tok_piece){start, start + pre->literal_length, true};
  return 1;
}

int tok_find_class(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length, size_t from,
                   struct tok_piece *ret) {
  (void)e;
  while (from < length) {
    uint32_t code;
    size_t n = tl_utf8_decode(text + from, length - from, &code);
    if (pre->is(code)) {
      *ret = (struct tok_piece){from, from + n, true};
      return 1;
    }
    from += n;
  }
  return 0;
}

/* A run of one script; characters that have none belong to the run before them. */
int tok_find_script(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length, size_t from,
                    struct tok_piece *ret) {
  (void)e, (void)pre;
  unsigned script = 0;
  *ret = (struct tok_piece){from, from, true};
  for (size_t n; ret->end < length; ret->end += n) {
    uint32_t code;
    n = tl_utf8_decode(text + ret->end, length - ret->end, &code);
    unsigned its = unicode_script(code);
    if (its && script && its != script) break;
    if (its && !script) ret->start = ret->end;
    script = its ? its : script;
  }
  return script != 0;
}

int tok_find_run(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length, size_t from,
                 struct tok_piece *ret) {
  (void)e;
  *ret = (struct tok_piece){from, from, true};
  for (size_t i = 0; i < pre->run && ret->end < length; i++) {
    uint32_t code;
    ret->end += tl_utf8_decode(text + ret->end, length - ret->end, &code);
  }
  return ret->end > from;
}

/* Matches and what lies between them, in order. */
static int cut(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length,
               struct tok_pieces *list) {
  size_t at = 0;
  struct tok_piece found;
  int r;
  list->n = 0;
  while ((r = pre->find(e, pre, text, length, at, &found)) > 0) {
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

static int split(struct tok_encode *e, const char *text, size_t length, bool origin, unsigned step) {
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
  for (size_t i = 0; r == TL_OK && i < list->n; i++) {
    struct tok_piece piece = list->items[i];
    r = tok_pretokenize(e, text + piece.start, piece.end - piece.start, origin && piece.start == 0, step + 1);
  }
  return r;
}

/* The piece as this step wants it: blanks replaced, one put before it. */
static int space_out(const struct tok_pre *pre, bool origin, const char **text, size_t *length, struct tl_buffer *spaced) {
  bool begins = *length >= pre->space_length && memcmp(*text, pre->space, pre->space_length) == 0;
  bool wanted = pre->prefix == TOK_PREFIX_ALWAYS || (pre->prefix == TOK_PREFIX_FIRST && origin);
  bool prefix = wanted && !begins && !(pre->replace_spaces && **text == ' ');
  if (!prefix && !(pre->replace_spaces && memchr(*text, ' ', *length))) return TL_OK;
  tl_buffer_clear(spaced);
  if (prefix) tl_buffer_append(spaced, pre->space, pre->space_length);
  const char *at = *text, *end = *text + *length;
  for (const char *blank; pre->replace_spaces && (blank = memchr(at, ' ', (size_t)(end - at))); at = blank + 1) {
    tl_buffer_append(spaced, at, (size_t)(blank - at));
    tl_buffer_append(spaced, pre->space, pre->space_length);
  }
  tl_buffer_append(spaced, at, (size_t)(end - at));
  *text = tl_buffer_bytes(spaced);
  *length = spaced->length;
  return spaced->failed ? TL_ENOMEM : TL_OK;
}

static int spell(const char **text, size_t *length, struct tl_buffer *spelled) {
  tl_buffer_clear(spelled);
  for (size_t i = 0; i < *length; i++) {
    char bytes[4];
    tl_buffer_append(spelled, bytes, tok_byte_spelling((uint8_t)(*text)[i], bytes));
  }
  *text = tl_buffer_bytes(spelled);
  *length = spelled->length;
  return spelled->failed ? TL_ENOMEM : TL_OK;
}

int tok_pretokenize(struct tok_encode *e, const char *text, size_t length, bool origin, unsigned step) {
  if (length == 0) return TL_OK;
  if (step == e->t->n_pres) return e->t->encode_piece(e, text, length);
  const struct tok_pre *pre = &e->t->pres[step];
  if (pre->space && space_out(pre, origin, &text, &length, &e->spaced[step]) < 0) return tok_out_of_memory(e->err);
  if (pre->spell && spell(&text, &length, &e->spaced[step]) < 0) return tok_out_of_memory(e->err);
  if (!pre->find) return tok_pretokenize(e, text, length, origin, step + 1);
  return split(e, text, length, origin, step);
}
