/* SPDX-License-Identifier: MIT */
/* printf-like formatting: "%s and %05.1f" % (a, b), and the format filter. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tmpl_ast.h"

struct format {
  struct tmpl_render *r;
  struct tmpl_out *out;
  const struct tmpl_str *text;
  size_t at;
  const struct tmpl_value *items;
  size_t n, used;
  struct tmpl_value named; /* what %(name)s takes from, or MISSING */
  bool used_name;
};

struct spec {
  bool left, zero, plus, blank, alternate;
  int width, precision; /* precision -1: not given */
  char type;
};

#define MOST_DIGITS 400 /* wider than this is no number that a prompt needs */

static char peek(const struct format *f) {
  return f->at < f->text->length ? f->text->bytes[f->at] : 0;
}

static struct tmpl_value next_item(struct format *f) {
  if (f->used < f->n) return f->items[f->used++];
  return tmpl_fail(f->r, TL_EINVAL, "not enough arguments for format string");
}

/* "(name)" */
static struct tmpl_value named_item(struct format *f) {
  size_t start = ++f->at;
  while (f->at < f->text->length && f->text->bytes[f->at] != ')') f->at++;
  struct tmpl_value key = tmpl_substring(f->r, f->text, start, f->at), found = {0};
  if (f->at < f->text->length) f->at++;
  if (f->named.kind != TMPL_DICT) return tmpl_fail(f->r, TL_EINVAL, "format requires a mapping");
  f->used_name = true;
  if (f->r->code || tmpl_dict_get(f->r, f->named.dict, key, &found)) return found;
  return tmpl_fail(f->r, TL_EINVAL, "format needs a key that the mapping lacks");
}

static int read_number(struct format *f) {
  int n = 0;
  if (peek(f) == '*') {
    f->at++;
    struct tmpl_value v = next_item(f);
    int64_t i = tmpl_integer(v);
    return i < 0 ? 0 : i > MOST_DIGITS ? MOST_DIGITS : (int)i;
  }
  for (; peek(f) >= '0' && peek(f) <= '9'; f->at++)
    if (n < MOST_DIGITS) n = n * 10 + (peek(f) - '0');
  return n > MOST_DIGITS ? MOST_DIGITS : n;
}

static struct spec read_spec(struct format *f) {
  struct spec spec = {.precision = -1};
  for (;; f->at++) {
    char c = peek(f);
    if (c == '-')
      spec.left = true;
    else if (c == '0')
      spec.zero = true;
    else if (c == '+')
      spec.plus = true;
    else if (c == ' ')
      spec.blank = true;
    else if (c == '#')
      spec.alternate = true;
    else
      break;
  }
  spec.width = read_number(f);
  if (peek(f) == '.') {
    f->at++;
    spec.precision = read_number(f);
  }
  while (peek(f) == 'h' || peek(f) == 'l' || peek(f) == 'L') f->at++;
  spec.type = peek(f);
  f->at += f->at < f->text->length;
  return spec;
}

static void put_padded(struct format *f, const struct spec *spec, struct tmpl_value text, size_t length) {
  size_t chars = tmpl_chars(f->r, text.str),
         pad = (size_t)spec->width > chars ? (size_t)spec->width - chars : 0;
  for (size_t i = 0; !spec->left && i < pad; i++) tmpl_put(f->r, f->out, " ", 1, false);
  tmpl_put_part(f->r, f->out, text.str, 0, length);
  for (size_t i = 0; spec->left && i < pad; i++) tmpl_put(f->r, f->out, " ", 1, false);
}

static void put_text(struct format *f, const struct spec *spec, struct tmpl_value v) {
  struct tmpl_value text;
  if (spec->type == 'r' || spec->type == 'a') {
    struct tmpl_out *out = tmpl_out_new(f->r);
    tmpl_put_repr(f->r, out, v);
    text = tmpl_out_value(f->r, out);
  } else {
    text = tmpl_to_str(f->r, v);
  }
  if (text.kind != TMPL_STR) return;
  if (spec->precision >= 0)
    text = tmpl_substring(f->r, text.str, 0, tmpl_offset(f->r, text.str, (size_t)spec->precision));
  if (text.kind == TMPL_STR) put_padded(f, spec, text, text.str->length);
}

/* The C format that does the same: the flags, *.* and the conversion. */
static void c_format(const struct spec *spec, const char *conversion, char ret[24]) {
  snprintf(ret, 24, "%%%s%s%s%s%s*.*%s", spec->left ? "-" : "", spec->zero ? "0" : "", spec->plus ? "+" : "",
           spec->blank ? " " : "", spec->alternate ? "#" : "", conversion);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* made by c_format from checked parts */
static void put_number(struct format *f, const struct spec *spec, struct tmpl_value v) {
  char form[24], text[MOST_DIGITS * 2 + 400];
  int n;
  if (strchr("diu", spec->type) && tmpl_is_number(v)) {
    if (v.kind == TMPL_FLOAT && !(fabs(v.real) < 9.2e18)) {
      tmpl_fail(f->r, TL_EUNSUPPORTED, "integer too large");
      return;
    }
    c_format(spec, "lld", form);
    n = snprintf(text, sizeof text, form, spec->width, spec->precision,
                 v.kind == TMPL_FLOAT ? (long long)v.real : (long long)tmpl_integer(v));
  } else if (strchr("xXo", spec->type) && tmpl_is_integer(v) && tmpl_integer(v) >= 0) {
    c_format(spec, spec->type == 'x' ? "llx" : spec->type == 'X' ? "llX" : "llo", form);
    n = snprintf(text, sizeof text, form, spec->width, spec->precision, (long long)tmpl_integer(v));
  } else if (strchr("eEfFgG", spec->type) && tmpl_is_number(v)) {
    char conversion[2] = {spec->type, 0};
    c_format(spec, conversion, form);
    n = snprintf(text, sizeof text, form, spec->width, spec->precision < 0 ? 6 : spec->precision,
                 tmpl_real(v));
  } else {
    tmpl_fail(f->r, TL_EINVAL, "%%%c format: a number is required, not %s", spec->type, tmpl_type_name(v));
    return;
  }
  if (n > 0) tmpl_put(f->r, f->out, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1, v.untrusted);
}
#pragma GCC diagnostic pop

static void put_item(struct format *f) {
  struct tmpl_value v = {0};
  bool named = peek(f) == '(';
  if (named) v = named_item(f);
  struct spec spec = read_spec(f);
  if (f->r->code) return;
  if (spec.type == '%') {
    tmpl_put_text(f->r, f->out, "%");
    return;
  }
  if (spec.type == 0 || !strchr("sradiuxXoeEfFgGc", spec.type)) {
    tmpl_fail(f->r, TL_EINVAL, "unsupported format character");
    return;
  }
  if (!named) v = next_item(f);
  if (f->r->code) return;
  if (spec.type == 'c' && tmpl_is_integer(v)) {
    tmpl_put_char(f->r, f->out, (uint32_t)tmpl_integer(v), v.untrusted);
  } else if (strchr("srac", spec.type)) {
    put_text(f, &spec, v);
  } else {
    put_number(f, &spec, v);
  }
}

struct tmpl_value tmpl_percent(struct tmpl_render *r, const struct tmpl_str *format,
                               const struct tmpl_value *items, size_t n, struct tmpl_value named) {
  struct format f = {.r = r, .out = tmpl_out_new(r), .text = format, .items = items, .n = n, .named = named};
  while (f.at < format->length && tmpl_charge(r, 1)) {
    size_t start = f.at;
    const char *next = memchr(format->bytes + start, '%', format->length - start);
    f.at = next ? (size_t)(next - format->bytes) : format->length;
    tmpl_put_part(r, f.out, format, start, f.at);
    if (!next) break;
    f.at++;
    put_item(&f);
  }
  if (f.used < n && !f.used_name && named.kind == TMPL_MISSING)
    return tmpl_fail(r, TL_EINVAL, "not all arguments converted during string formatting");
  struct tmpl_value v = tmpl_out_value(r, f.out);
  return format->markup ? tmpl_as_markup(r, v) : v;
}
