/* SPDX-License-Identifier: MIT */
/* Tables of texts with calls in them and what becomes of these, whole and streamed, wherever the text is cut. */
#ifndef UNIT_TOOL_ROWS_H
#define UNIT_TOOL_ROWS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/tool_formats.h"

struct row {
  const struct api_tool_format *format;
  const char *text;
  const char *content, *calls;               /* name(arguments); for each, without the ) when they are not whole */
  const char *streamed, *streamed_calls;     /* NULL: the same */
};

#define ROW(f, t, c, l) {.format = f, .text = t, .content = c, .calls = l}
#define ASTRAY(f, t, c, l, s, sl) {f, t, c, l, s, sl} /* a stream has shown what a whole answer takes back */
/* What the rows' tools are; NULL: unknown. */
static const struct api_tool_types *row_types;

struct result {
  struct tl_buffer content, calls;
};

static inline void write_calls(const struct api_tool_calls *calls, struct tl_buffer *out) {
  for (unsigned i = 0; i < calls->n; i++) {
    tl_buffer_append(out, calls->items[i].name.data, calls->items[i].name.length);
    tl_buffer_putc(out, '(');
    tl_buffer_append(out, calls->items[i].arguments.data, calls->items[i].arguments.length);
    tl_buffer_puts(out, calls->items[i].ended ? ");" : ";");
  }
}

/* cuts: ascending ends of the pieces, the last is the length. */
static inline void parse(const struct row *row, bool whole, const size_t *cuts, size_t n_cuts, struct result *ret) {
  struct api_tool_parser parser;
  struct api_tool_calls calls = {0};
  size_t at = 0, shown = 0;
  tl_buffer_init(&ret->content, 0);
  tl_buffer_init(&ret->calls, 0);
  api_tool_parser_init(&parser, row->format, row_types, whole);
  for (size_t i = 0; i < n_cuts; at = cuts[i++]) {
    assert_int_equal(api_tool_parser_push(&parser, row->text + at, cuts[i] - at, &ret->content, &calls), TL_OK);
    assert_true(calls.n >= shown);
    shown = calls.n;
    if (whole)
      for (unsigned k = 0; k < calls.n; k++) assert_true(calls.items[k].ended);
  }
  assert_int_equal(api_tool_parser_finish(&parser, &ret->content, &calls), TL_OK);
  write_calls(&calls, &ret->calls);
  api_tool_calls_done(&calls);
  api_tool_parser_done(&parser);
}

static inline void check(const struct row *row, bool whole, const size_t *cuts, size_t n_cuts) {
  struct result result;
  parse(row, whole, cuts, n_cuts, &result);
  const char *content = !whole && row->streamed ? row->streamed : row->content;
  const char *calls = !whole && row->streamed ? row->streamed_calls : row->calls;
  if (strcmp(tl_buffer_string(&result.content), content) != 0 || strcmp(tl_buffer_string(&result.calls), calls) != 0)
    print_error("%s: %s (%zu pieces, the first of %zu)\n", whole ? "whole" : "streamed", row->text, n_cuts, cuts[0]);
  assert_string_equal(tl_buffer_string(&result.content), content);
  assert_string_equal(tl_buffer_string(&result.calls), calls);
  tl_buffer_done(&result.content);
  tl_buffer_done(&result.calls);
}

/* All at once in two pieces, and character by character. */
static inline void check_every_cut(const struct row *row) {
  size_t length = strlen(row->text), *cuts = malloc((length + 2) * sizeof *cuts);
  assert_non_null(cuts);
  for (int whole = 0; whole < 2; whole++) {
    for (size_t at = 0; at <= length; at++) {
      cuts[0] = at;
      cuts[1] = length;
      check(row, whole, cuts, 2);
    }
    for (size_t at = 0; at < length; at++) cuts[at] = at + 1;
    cuts[length] = length;
    check(row, whole, cuts, length + 1);
  }
  free(cuts);
}

static inline char *repeated(const char *head, const char *what, size_t n) {
  size_t k = strlen(what), h = strlen(head);
  char *text = malloc(h + n * k + 1);
  assert_non_null(text);
  memcpy(text, head, h);
  for (size_t i = 0; i < n; i++) memcpy(text + h + i * k, what, k);
  text[h + n * k] = 0;
  return text;
}

/* Where to cut a text into pieces of 7. (*ret_n) the caller's to free. */
static inline size_t *cuts_of_seven(const char *text, size_t *ret_n) {
  size_t length = strlen(text), n = 0, *cuts = malloc((length / 7 + 2) * sizeof *cuts);
  assert_non_null(cuts);
  for (size_t at = 7; at < length; at += 7) cuts[n++] = at;
  cuts[n++] = length;
  *ret_n = n;
  return cuts;
}

/* A text without a call comes out as it went in, in pieces of 7 too. */
static inline void check_no_call(const struct api_tool_format *format, const char *text, bool whole) {
  struct row row = {format, text, text, "", NULL, NULL};
  size_t n, *cuts = cuts_of_seven(text, &n);
  check(&row, whole, cuts, n);
  free(cuts);
}

#endif
