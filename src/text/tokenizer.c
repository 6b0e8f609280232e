/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "text/text_utf8.h"
#include "text/tokenizer_private.h"
#include "tokenlane/base/utf8.h"

#define CACHE_FROM_BYTES 2048 /* a shorter text does not pay back the memory */

/* A text on its way through the stages. */
struct run {
  const char *text;
  size_t length;
  bool parse_special;
  const struct tl_span *untrusted; /* offsets in text */
  size_t n_untrusted;
  bool first; /* it begins where the whole text does, and nothing was taken off there */
};

/* What is left once the added tokens are out: normalized, then matched again
 * against the added tokens that want that, then split and encoded. */
static int encode_normalized(struct tok_encode *e, const struct run *run) {
  size_t at = 0;
  struct tl_span span;
  const struct tok_added *added;
  int r = TL_OK;
  while (r == TL_OK && tok_added_find(e->t, &e->t->normalized, run->text, run->length, at, run->parse_special,
                                      run->untrusted, run->n_untrusted, &span, &added)) {
    r = tok_pretokenize(e, run->text + at, span.start - at, run->first && at == 0, 0);
    if (r == TL_OK) r = tok_push(e->out, added->id, e->err);
    at = span.end;
  }
  return r < 0 ? r : tok_pretokenize(e, run->text + at, run->length - at, run->first && at == 0, 0);
}

/* The spans of the part [start, end) of a run, as offsets in the part. Parts come
 * in ascending order, as the spans do: *cursor is the first span that may matter,
 * so that all parts together look at each span about once. */
static int part_spans(const struct run *run, size_t start, size_t end, size_t *cursor, struct tl_span **ret,
                      size_t *ret_n) {
  while (*cursor < run->n_untrusted && run->untrusted[*cursor].end <= start) ++*cursor;
  size_t n = 0;
  while (*cursor + n < run->n_untrusted && run->untrusted[*cursor + n].start < end) n++;
  *ret_n = n;
  *ret = n ? malloc(n * sizeof **ret) : NULL;
  if (n && !*ret) return TL_ENOMEM;
  for (size_t i = 0; i < n; i++) {
    struct tl_span span = run->untrusted[*cursor + i];
    (*ret)[i] = (struct tl_span){(span.start > start ? span.start : start) - start, (span.end < end ? span.end : end) - start};
  }
  return TL_OK;
}

/* Moves spans of `text` to where they are in `normal`, by normalizing run by
 * run. Where that gives another text than the whole did (characters that join
 * over a border), all counts as untrusted. What is put before or stripped off the
 * whole belongs to the first run and the last. */
static int move_spans(struct tok_encode *e, const char *text, size_t length, struct tl_span *spans, size_t *n,
                      const struct tl_buffer *normal) {
  struct tl_buffer again;
  tl_buffer_init(&again, 0);
  size_t at = 0;
  int r = TL_OK;
  for (size_t i = 0; r == TL_OK && i <= *n; i++) {
    size_t start = i < *n ? spans[i].start : length, end = i < *n ? spans[i].end : length;
    bool lost;
    if (start > at) r = tok_normalize(e->t, text + at, start - at, at == 0, start == length, &again, &lost, e->err);
    size_t from = again.length;
    if (r == TL_OK && end > start)
      r = tok_normalize(e->t, text + start, end - start, start == 0, end == length, &again, &lost, e->err);
    if (i < *n) spans[i] = (struct tl_span){from, again.length};
    at = end;
  }
  bool same = again.length == normal->length && memcmp(tl_buffer_bytes(&again), normal->data, normal->length) == 0;
  if (r == TL_OK && !same && *n) {
    spans[0] = (struct tl_span){0, normal->length};
    *n = 1;
  }
  tl_buffer_done(&again);
  return r;
}

/* [start, end) of a run that holds no added token of the first kind. */
static int encode_part(struct tok_encode *e, const struct run *run, size_t start, size_t end, size_t *cursor) {
  if (start == end) return TL_OK;
  struct tl_span *spans;
  size_t n_spans;
  if (part_spans(run, start, end, cursor, &spans, &n_spans) < 0)
    return tl_error_set(e->err, TL_ENOMEM, NULL, "out of memory");
  struct tl_buffer normal;
  tl_buffer_init(&normal, 0);
  const char *text = run->text + start;
  struct run part = {text, end - start, run->parse_special, spans, n_spans, start == 0};
  int r = TL_OK;
  if (e->t->n_norms) {
    bool lost;
    r = tok_normalize(e->t, text, end - start, true, true, &normal, &lost, e->err);
    part.first &= !lost;
    part.text = tl_buffer_bytes(&normal);
    part.length = normal.length;
    if (r == TL_OK && n_spans) r = move_spans(e, text, end - start, spans, &n_spans, &normal);
    part.n_untrusted = n_spans;
  }
  if (r == TL_OK) r = encode_normalized(e, &part);
  tl_buffer_done(&normal);
  free(spans);
  return r;
}

static int encode_run(struct tok_encode *e, const struct run *run) {
  size_t at = 0, cursor = 0;
  struct tl_span span;
  const struct tok_added *added;
  int r = TL_OK;
  while (r == TL_OK && tok_added_find(e->t, &e->t->plain, run->text, run->length, at, run->parse_special,
                                      run->untrusted, run->n_untrusted, &span, &added)) {
    r = encode_part(e, run, at, span.start, &cursor);
    if (r == TL_OK) r = tok_push(e->out, added->id, e->err);
    at = span.end;
  }
  return r < 0 ? r : encode_part(e, run, at, run->length, &cursor);
}

static int push_all(struct tok_encode *e, const int32_t *ids, uint32_t n) {
  int r = TL_OK;
  for (uint32_t i = 0; r == TL_OK && i < n; i++) r = tok_push(e->out, ids[i], e->err);
  return r;
}

static void encode_done(struct tok_encode *e) {
  pcre2_match_data_free(e->match);
  pcre2_match_context_free(e->match_context);
  for (unsigned i = 0; i < TOK_MAX_STEPS; i++) free(e->pieces[i].items);
  for (unsigned i = 0; i < TOK_MAX_STEPS; i++) tl_buffer_done(&e->spaced[i]);
  free(e->ids);
  free(e->prev);
  free(e->next);
  free(e->pairs);
  free(e->best);
  tok_cache_free(e->cache);
}

int tl_tokenizer_encode(const struct tl_tokenizer *tokenizer, const char *text, size_t length,
                        const struct tl_encode_options *options, struct tl_tokens *out, struct tl_error *err) {
  if (length >= UINT32_MAX / 4 || (out->limit && tokenizer->longest && length / tokenizer->longest > out->limit))
    return tl_error_set(err, TL_ELIMIT, NULL, "the text has more tokens than are allowed");
  struct tok_encode e = {.t = tokenizer, .out = out, .err = err};
  for (unsigned i = 0; i < TOK_MAX_STEPS; i++) tl_buffer_init(&e.spaced[i], 0);
  if (length >= CACHE_FROM_BYTES) e.cache = tok_cache_new(); /* without it all is only slower */
  struct run run = {text, length, options->parse_special, options->untrusted, options->n_untrusted, true};
  struct tl_buffer repaired;
  tl_buffer_init(&repaired, 0);
  struct tl_span all;
  if (!tl_utf8_valid(text, length)) {
    text_append_lossy(text, length, &repaired);
    run.text = tl_buffer_bytes(&repaired);
    run.length = repaired.length;
    all = (struct tl_span){0, repaired.length}; /* the marks no longer fit: nothing in it is trusted */
    if (run.n_untrusted) run = (struct run){run.text, run.length, run.parse_special, &all, 1, true};
  }
  int r = repaired.failed ? tl_error_set(err, TL_ENOMEM, NULL, "out of memory")
                          : tok_match_new(run.length, &e.match, &e.match_context, err);
  if (r == TL_OK && options->add_special) r = push_all(&e, tokenizer->before, tokenizer->n_before);
  if (r == TL_OK) r = encode_run(&e, &run);
  if (r == TL_OK && options->add_special) r = push_all(&e, tokenizer->after, tokenizer->n_after);
  encode_done(&e);
  tl_buffer_done(&repaired);
  return r;
}

int32_t tl_tokenizer_size(const struct tl_tokenizer *tokenizer) {
  return tokenizer->size;
}

uint32_t tl_tokenizer_before(const struct tl_tokenizer *tokenizer) {
  return tokenizer->n_before;
}

bool tl_tokenizer_is_special(const struct tl_tokenizer *tokenizer, int32_t id) {
  return id >= 0 && id < tokenizer->size && tokenizer->tokens[id].special;
}

int32_t tl_tokenizer_find(const struct tl_tokenizer *tokenizer, const char *spelling) {
  return tok_map_find(&tokenizer->by_text, tokenizer->tokens, spelling, strlen(spelling));
}

const char *tl_tokenizer_bytes(const struct tl_tokenizer *tokenizer, int32_t id, size_t *ret_length) {
  if (id < 0 || id >= tokenizer->size || !tokenizer->tokens[id].known) return NULL;
  *ret_length = tokenizer->tokens[id].n_bytes;
  return tokenizer->tokens[id].bytes;
}
