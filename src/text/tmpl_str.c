/* SPDX-License-Identifier: MIT */
/* Strings and growing text, with the runs of bytes that came from the client.
 *
 * A string made by concatenation lies at the beginning of a struct tmpl_out.
 * When it is the longest string there, appending to it writes behind it and
 * makes a longer view of the same bytes: a template that builds the prompt
 * with ns.text = ns.text + ... copies each byte a constant number of times.
 *
 *   out->bytes  | <|user|>Hello |<|end|>     |  free          |
 *   old string  ^---------------^
 *   new string  ^----------------------------^
 *
 * The last span may then have grown past the end of the older string, which
 * is why readers clip spans to the string's length. */
#include "tmpl_private.h"

#include <string.h>

#include "text/text_find.h"
#include "tokenlane/base/utf8.h"

#define CHARS_PER_STEP 4 /* decoding costs more than copying */

const struct tl_span tmpl_all_untrusted = {0, SIZE_MAX};

/* --- making and reading ------------------------------------------------------------- */
static struct tmpl_value str_value(struct tmpl_render *r, struct tmpl_str what) {
  struct tmpl_str *s = tmpl_alloc(r, 1, sizeof *s);
  if (!s) return tmpl_missing();
  *s = what;
  if (s->length < 2) s->chars = s->length;
  return (struct tmpl_value){.kind = TMPL_STR, .str = s};
}

struct tmpl_value tmpl_borrow(struct tmpl_render *r, const char *bytes, size_t length, bool untrusted) {
  struct tmpl_str s = {.bytes = bytes, .length = length, .chars = TMPL_UNCOUNTED};
  if (untrusted) {
    s.spans = &tmpl_all_untrusted;
    s.n_spans = 1;
  }
  return str_value(r, s);
}

struct tmpl_value tmpl_literal(struct tmpl_render *r, const char *text) {
  return tmpl_borrow(r, text, strlen(text), false);
}

struct tmpl_value tmpl_as_markup(struct tmpl_render *r, struct tmpl_value str) {
  if (str.kind != TMPL_STR) return str;
  struct tmpl_str s = *str.str;
  s.markup = true;
  return str_value(r, s);
}

struct tmpl_value tmpl_unmarked(struct tmpl_render *r, struct tmpl_value str) {
  if (str.kind != TMPL_STR || !str.str->markup) return str;
  struct tmpl_str s = *str.str;
  s.markup = false;
  return str_value(r, s);
}

/* How many spans of s end at or before `at`. */
static size_t spans_before(const struct tmpl_str *s, size_t at) {
  size_t low = 0, high = s->n_spans;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (s->spans[middle].end <= at) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/* The spans of s within [from, to), moved to begin at 0. */
static void cut_spans(struct tmpl_render *r, struct tmpl_str *cut, const struct tmpl_str *s, size_t from,
                      size_t to) {
  size_t first = spans_before(s, from), n = 0;
  while (first + n < s->n_spans && s->spans[first + n].start < to) n++;
  if (n == 0 || from == to || !tmpl_charge(r, n)) return;
  cut->n_spans = n;
  cut->spans = &tmpl_all_untrusted;
  if (n == 1 && s->spans[first].start <= from && s->spans[first].end >= to) return;
  struct tl_span *spans = tmpl_alloc(r, n, sizeof *spans);
  if (!spans) return;
  for (size_t i = 0; i < n; i++) {
    struct tl_span span = s->spans[first + i];
    spans[i].start = span.start > from ? span.start - from : 0;
    spans[i].end = (span.end < to ? span.end : to) - from;
  }
  cut->spans = spans;
}

struct tmpl_value tmpl_substring(struct tmpl_render *r, const struct tmpl_str *s, size_t from, size_t to) {
  struct tmpl_str cut = {.bytes = s->bytes + from, .length = to - from, .markup = s->markup};
  cut.chars = s->chars == s->length ? cut.length : TMPL_UNCOUNTED; /* equal: ASCII */
  if (s->n_spans) cut_spans(r, &cut, s, from, to);
  return str_value(r, cut);
}

/* Counted once. The strings that threads share are counted already. */
size_t tmpl_chars(struct tmpl_render *r, const struct tmpl_str *s) {
  if (s->chars == TMPL_UNCOUNTED) {
    ((struct tmpl_str *)s)->chars = tmpl_count_chars(s->bytes, s->length);
    tmpl_charge(r, s->chars / CHARS_PER_STEP);
  }
  return s->chars;
}

size_t tmpl_offset(struct tmpl_render *r, const struct tmpl_str *s, size_t index) {
  size_t chars = tmpl_chars(r, s), at = 0;
  if (index >= chars) return s->length;
  if (chars == s->length) return index;
  tmpl_charge(r, index / CHARS_PER_STEP);
  for (size_t n; index > 0; index--, at += n) tmpl_char(s->bytes + at, s->length - at, &n);
  return at;
}

bool tmpl_untrusted_at(const struct tmpl_str *s, size_t at, size_t *cursor) {
  while (*cursor < s->n_spans && s->spans[*cursor].end <= at) ++*cursor;
  return *cursor < s->n_spans && s->spans[*cursor].start <= at;
}

bool tmpl_str_is(const struct tmpl_str *s, const char *text) {
  return s->length == strlen(text) && memcmp(s->bytes, text, s->length) == 0;
}

size_t tmpl_find(struct tmpl_render *r, const struct tmpl_str *s, const struct tmpl_str *needle,
                 size_t from) {
  if (from > s->length || needle->length > s->length - from) return SIZE_MAX;
  if (needle->length == 0) return from;
  const char *found = text_find(s->bytes + from, s->length - from, needle->bytes, needle->length);
  size_t at = found ? (size_t)(found - s->bytes) : SIZE_MAX;
  tmpl_charge_bytes(r, (found ? at : s->length) - from);
  return at;
}

/* UTF-8 sorts as its code points do. */
int tmpl_str_compare(const struct tmpl_str *a, const struct tmpl_str *b) {
  size_t n = a->length < b->length ? a->length : b->length;
  int order = n ? memcmp(a->bytes, b->bytes, n) : 0;
  return order ? order : (a->length > b->length) - (a->length < b->length);
}

/* --- growing text --------------------------------------------------------------------- */
struct tmpl_out *tmpl_out_new(struct tmpl_render *r) {
  return tmpl_alloc(r, 1, sizeof(struct tmpl_out));
}

static bool reserve(struct tmpl_render *r, struct tmpl_out *out, size_t length) {
  if (!out || !tmpl_charge_bytes(r, length)) return false;
  if (length > r->max_output_bytes - out->length) {
    tmpl_fail(r, TL_ELIMIT, "text of more than %zu bytes", r->max_output_bytes);
    return false;
  }
  if (length <= out->capacity - out->length) return true;
  size_t capacity = (out->length + length) * 2;
  char *bytes = tmpl_alloc(r, capacity < 64 ? 64 : capacity, 1);
  if (!bytes || !tmpl_charge_bytes(r, out->length)) return false;
  if (out->length) memcpy(bytes, out->bytes, out->length);
  out->bytes = bytes;
  out->capacity = capacity < 64 ? 64 : capacity;
  return true;
}

static void add_span(struct tmpl_render *r, struct tmpl_out *out, size_t start, size_t end) {
  if (out->n_spans && out->spans[out->n_spans - 1].end == start) {
    out->spans[out->n_spans - 1].end = end;
    return;
  }
  if (out->n_spans == out->span_capacity) {
    size_t capacity = out->span_capacity ? out->span_capacity * 2 : 4;
    struct tl_span *spans = tmpl_alloc(r, capacity, sizeof *spans);
    if (!spans || !tmpl_charge(r, out->n_spans)) return;
    if (out->n_spans) memcpy(spans, out->spans, out->n_spans * sizeof *spans);
    out->spans = spans;
    out->span_capacity = capacity;
  }
  out->spans[out->n_spans++] = (struct tl_span){start, end};
}

void tmpl_put(struct tmpl_render *r, struct tmpl_out *out, const char *bytes, size_t length, bool untrusted) {
  if (length == 0 || !reserve(r, out, length)) return;
  memcpy(out->bytes + out->length, bytes, length);
  if (untrusted) add_span(r, out, out->length, out->length + length);
  out->length += length;
}

void tmpl_put_text(struct tmpl_render *r, struct tmpl_out *out, const char *text) {
  tmpl_put(r, out, text, strlen(text), false);
}

void tmpl_put_char(struct tmpl_render *r, struct tmpl_out *out, uint32_t code, bool untrusted) {
  char bytes[4];
  size_t n = tl_utf8_encode(code, bytes);
  tmpl_put(r, out, bytes, n, untrusted);
}

void tmpl_put_part(struct tmpl_render *r, struct tmpl_out *out, const struct tmpl_str *s, size_t from,
                   size_t to) {
  size_t at = from;
  for (size_t i = spans_before(s, from); i < s->n_spans && at < to; i++) {
    struct tl_span span = s->spans[i];
    if (!tmpl_charge(r, 1)) return;
    if (span.start >= to) break;
    if (span.start > at) {
      tmpl_put(r, out, s->bytes + at, span.start - at, false);
      at = span.start;
    }
    size_t end = span.end < to ? span.end : to;
    tmpl_put(r, out, s->bytes + at, end - at, true);
    at = end;
  }
  if (at < to) tmpl_put(r, out, s->bytes + at, to - at, false);
}

void tmpl_put_str(struct tmpl_render *r, struct tmpl_out *out, const struct tmpl_str *s) {
  tmpl_put_part(r, out, s, 0, s->length);
}

struct tmpl_value tmpl_out_value(struct tmpl_render *r, struct tmpl_out *out) {
  if (!out) return tmpl_missing();
  return str_value(r, (struct tmpl_str){.bytes = out->bytes ? out->bytes : "",
                                        .length = out->length,
                                        .chars = TMPL_UNCOUNTED,
                                        .spans = out->spans,
                                        .n_spans = out->n_spans,
                                        .owner = out});
}

struct tmpl_value tmpl_concat(struct tmpl_render *r, const struct tmpl_str *a, const struct tmpl_str *b) {
  struct tmpl_out *out = a->owner;
  bool at_end = out && out->bytes == a->bytes && out->length == a->length && out->n_spans == a->n_spans;
  if (!at_end || a == b) {
    out = tmpl_out_new(r);
    tmpl_put_str(r, out, a);
  }
  tmpl_put_str(r, out, b);
  return tmpl_out_value(r, out);
}

/* --- characters one by one ---------------------------------------------------------------- */
static void put_mapped(struct tmpl_render *r, struct tmpl_out *out, uint32_t code, enum tmpl_case to,
                       bool untrusted) {
  uint32_t mapped[3];
  size_t n = tmpl_map_case(code, to, mapped);
  for (size_t i = 0; i < n; i++) tmpl_put_char(r, out, mapped[i], untrusted);
}

/* Python's str.lower, upper; title puts the first letter of each word up. */
struct tmpl_value tmpl_change_case(struct tmpl_render *r, const struct tmpl_str *s, enum tmpl_case to) {
  struct tmpl_out *out = tmpl_out_new(r);
  size_t cursor = 0;
  bool in_word = false;
  for (size_t i = 0, n; i < s->length && tmpl_charge(r, 1); i += n) {
    uint32_t code = tmpl_char(s->bytes + i, s->length - i, &n);
    bool untrusted = tmpl_untrusted_at(s, i, &cursor);
    enum tmpl_case how = to == TMPL_TITLE && in_word ? TMPL_LOWER : to;
    if (code == 0x3a3 && how == TMPL_LOWER) {
      tmpl_put_char(r, out, tmpl_final_sigma(s->bytes, s->length, i) ? 0x3c2 : 0x3c3, untrusted);
    } else {
      put_mapped(r, out, code, how, untrusted);
    }
    in_word = to == TMPL_TITLE && tmpl_is_cased(code);
  }
  struct tmpl_value v = tmpl_out_value(r, out);
  return s->markup ? tmpl_as_markup(r, v) : v;
}

struct tmpl_value tmpl_capitalize(struct tmpl_render *r, const struct tmpl_str *s) {
  if (s->length == 0) return tmpl_substring(r, s, 0, 0);
  struct tmpl_value low = tmpl_change_case(r, s, TMPL_LOWER);
  struct tmpl_out *out = tmpl_out_new(r);
  size_t n, low_n = 0, cursor = 0;
  if (low.kind != TMPL_STR) return low;
  uint32_t first = tmpl_char(s->bytes, s->length, &n), mapped[3];
  put_mapped(r, out, first, TMPL_TITLE, tmpl_untrusted_at(s, 0, &cursor));
  for (size_t i = 0, k = tmpl_map_case(first, TMPL_LOWER, mapped), one; i < k; i++, low_n += one)
    tmpl_char(low.str->bytes + low_n, low.str->length - low_n, &one);
  tmpl_put_part(r, out, low.str, low_n, low.str->length);
  struct tmpl_value v = tmpl_out_value(r, out);
  return s->markup ? tmpl_as_markup(r, v) : v;
}

struct tmpl_value tmpl_escape(struct tmpl_render *r, struct tmpl_value str) {
  static const char special[] = "&<>'\"";
  static const char *const entity[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
  if (str.kind != TMPL_STR || str.str->markup) return str;
  const struct tmpl_str *s = str.str;
  struct tmpl_out *out = tmpl_out_new(r);
  size_t cursor = 0;
  for (size_t i = 0; i < s->length && tmpl_charge(r, 1); i++) {
    const char *found = s->bytes[i] ? strchr(special, s->bytes[i]) : NULL;
    const char *text = found ? entity[found - special] : s->bytes + i;
    tmpl_put(r, out, text, found ? strlen(text) : 1, tmpl_untrusted_at(s, i, &cursor));
  }
  return tmpl_as_markup(r, tmpl_out_value(r, out));
}
