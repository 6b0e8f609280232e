/* SPDX-License-Identifier: MIT */
/* "{} and {name.x[0]!r:>8}".format(...): Python's replacement fields, by jinja2's rules for members. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tmpl_ast.h"

static const struct tmpl_value missing;

struct fields {
  struct tmpl_render *r;
  struct tmpl_out *out;
  const struct tmpl_args *args;
  size_t next;            /* the next {} */
  bool counted, numbered; /* there was a {}, a {0}: not both */
};

/* [[fill]align][sign][#][0][width][,_][.precision][type] */
struct spec {
  const char *fill; /* fill_length bytes */
  size_t fill_length;
  char align, sign, grouping, type; /* 0: not given */
  bool alternate, zero;
  int width, precision; /* precision -1: not given */
};

#define MOST_DIGITS 400 /* as in tmpl_format.c */

/* --- the value of a field ------------------------------------------------------------------ */
static bool is_number(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (text[i] < '0' || text[i] > '9') return false;
  return length > 0 && length < 10;
}

static struct tmpl_value argument(struct fields *f, const struct tmpl_str *name) {
  int64_t index = (int64_t)f->next;
  bool number = is_number(name->bytes, name->length);
  if (name->length == 0) f->counted = true, f->next++;
  if (number) f->numbered = tmpl_parse_int(name, 10, &index);
  if (f->counted && f->numbered) return tmpl_fail(f->r, TL_EINVAL, "format cannot switch between {} and {0}");
  if (name->length && !number) {
    for (size_t i = 0; i < f->args->n_named; i++) {
      const struct tmpl_str *given = f->args->named[i].name;
      if (given->length == name->length && memcmp(given->bytes, name->bytes, name->length) == 0) return f->args->named[i].value;
    }
    return tmpl_fail(f->r, TL_EINVAL, "format has no argument '%.*s'", name->length < 80 ? (int)name->length : 80, name->bytes);
  }
  if (index < (int64_t)f->args->n) return f->args->items[index];
  return tmpl_fail(f->r, TL_EINVAL, "format has too few arguments");
}

/* The ".x[y]" behind the argument's name, text[at, end). */
static struct tmpl_value members(struct fields *f, struct tmpl_value v, const struct tmpl_str *text, size_t at, size_t end) {
  while (at < end && tmpl_charge(f->r, 1)) {
    bool item = text->bytes[at] == '[';
    size_t start = at + 1, stop = start;
    while (stop < end && (item ? text->bytes[stop] != ']' : text->bytes[stop] != '.' && text->bytes[stop] != '[')) stop++;
    if ((!item && text->bytes[at] != '.') || stop == start || (item && stop == end))
      return tmpl_fail(f->r, TL_EINVAL, "malformed field in format string");
    struct tmpl_value key = tmpl_substring(f->r, text, start, stop);
    int64_t index;
    if (f->r->code) return missing;
    if (item && is_number(key.str->bytes, key.str->length) && tmpl_parse_int(key.str, 10, &index)) key = tmpl_int(index);
    v = item ? tmpl_subscript(f->r, v, key) : tmpl_attribute(f->r, v, key.str);
    at = stop + item;
  }
  return f->r->code ? missing : v;
}

/* --- its form ----------------------------------------------------------------------------------- */
static int read_number(const struct tmpl_str *s, size_t *at) {
  int n = 0;
  for (; *at < s->length && s->bytes[*at] >= '0' && s->bytes[*at] <= '9'; ++*at)
    if (n <= MOST_DIGITS) n = n * 10 + (s->bytes[*at] - '0');
  return n;
}

static bool take(const struct tmpl_str *s, size_t *at, const char *any, char *ret) {
  if (*at >= s->length || !s->bytes[*at] || !strchr(any, s->bytes[*at])) return false;
  if (ret) *ret = s->bytes[*at];
  ++*at;
  return true;
}

static bool read_spec(struct fields *f, const struct tmpl_str *s, struct spec *ret) {
  *ret = (struct spec){.fill = " ", .fill_length = 1, .precision = -1};
  size_t at = 0, n = 0;
  if (s->length) tmpl_char(s->bytes, s->length, &n);
  if (n && n < s->length && strchr("<>^=", s->bytes[n])) {
    ret->fill = s->bytes;
    ret->fill_length = n;
    at = n;
  }
  bool filled = at > 0;
  take(s, &at, "<>^=", &ret->align);
  take(s, &at, "+- ", &ret->sign);
  ret->alternate = take(s, &at, "#", NULL);
  ret->zero = take(s, &at, "0", NULL) && !filled;
  ret->width = read_number(s, &at);
  take(s, &at, ",_", &ret->grouping);
  if (take(s, &at, ".", NULL)) {
    size_t start = at;
    ret->precision = read_number(s, &at);
    if (at == start) at = SIZE_MAX;
  }
  if (at < s->length) ret->type = s->bytes[at++];
  bool known = at == s->length && (!ret->type || strchr("sdxXobeEfFgG%", ret->type));
  if (!known) tmpl_fail(f->r, TL_EINVAL, "unsupported format specifier");
  else if (ret->width > MOST_DIGITS || ret->precision > MOST_DIGITS) tmpl_fail(f->r, TL_ELIMIT, "format specifier too wide");
  else if (ret->grouping && ret->zero) tmpl_fail(f->r, TL_EUNSUPPORTED, "zeros with separators in a format specifier");
  if (ret->zero) {
    ret->fill = "0";
    if (!ret->align) ret->align = '=';
  }
  return !f->r->code;
}

static void put_fill(struct fields *f, const struct spec *spec, size_t n) {
  for (size_t i = 0; i < n && tmpl_charge(f->r, 1); i++) tmpl_put(f->r, f->out, spec->fill, spec->fill_length, false);
}

/* text with what is missing of the width put where the alignment says; the first `head` bytes stay in
 * front of what "=" puts. */
static void put_aligned(struct fields *f, const struct spec *spec, const struct tmpl_str *text, size_t head, char align) {
  size_t chars = tmpl_chars(f->r, text), room = (size_t)spec->width > chars ? (size_t)spec->width - chars : 0;
  size_t before = align == '<' ? 0 : align == '^' ? room / 2 : room;
  if (align != '=') head = 0;
  tmpl_put_part(f->r, f->out, text, 0, head);
  put_fill(f, spec, before);
  tmpl_put_part(f->r, f->out, text, head, text->length);
  put_fill(f, spec, room - before);
}

static void put_text(struct fields *f, const struct spec *spec, const struct tmpl_str *s) {
  if ((spec->type && spec->type != 's') || spec->sign || spec->alternate || spec->grouping || (spec->align == '=' && !spec->zero)) {
    tmpl_fail(f->r, TL_EINVAL, "unsupported format specifier of a string");
    return;
  }
  struct tmpl_value cut = {.kind = TMPL_STR, .str = s};
  if (spec->precision >= 0) cut = tmpl_substring(f->r, s, 0, tmpl_offset(f->r, s, (size_t)spec->precision));
  if (!f->r->code) put_aligned(f, spec, cut.str, 0, spec->align && spec->align != '=' ? spec->align : '<');
}

/* A separator before each `each` digits from the end of the first n. */
static void put_grouped(struct fields *f, struct tmpl_out *out, const char *digits, size_t n, char separator, size_t each, bool untrusted) {
  for (size_t i = 0; i < n; i++) {
    if (separator && i && (n - i) % each == 0) tmpl_put(f->r, out, &separator, 1, untrusted);
    tmpl_put(f->r, out, digits + i, 1, untrusted);
  }
}

/* Digits of |i|; returns how many. */
static size_t int_digits(const struct spec *spec, uint64_t i, char *ret) {
  static const char all[] = "0123456789abcdef0123456789ABCDEF";
  unsigned base = spec->type == 'b' ? 2 : spec->type == 'o' ? 8 : spec->type == 'x' || spec->type == 'X' ? 16 : 10;
  char back[64];
  size_t n = 0;
  do back[n++] = all[i % base + (spec->type == 'X' ? 16 : 0)];
  while (i /= base);
  for (size_t k = 0; k < n; k++) ret[k] = back[n - 1 - k];
  return n;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* made of a checked letter */
/* Digits of |d| as the specifier has them; returns how many bytes. */
static size_t real_digits(struct fields *f, const struct spec *spec, double d, char *ret, size_t size) {
  char form[8], letter = spec->type == '%' ? 'f' : spec->type;
  if (!spec->type && spec->precision >= 0) {
    tmpl_fail(f->r, TL_EUNSUPPORTED, "a precision without a letter in a format specifier");
    return 0;
  }
  if (!spec->type) return tmpl_float_text(d, ret);
  snprintf(form, sizeof form, "%%.*%c", letter);
  int n = snprintf(ret, size, form, spec->precision < 0 ? 6 : spec->precision, spec->type == '%' ? d * 100 : d);
  return n < 0 ? 0 : (size_t)n;
}
#pragma GCC diagnostic pop

static void put_number(struct fields *f, const struct spec *spec, struct tmpl_value v) {
  char digits[MOST_DIGITS + 400];
  bool real = v.kind == TMPL_FLOAT || (spec->type && strchr("eEfFgG%", spec->type));
  bool wrong = spec->type == 's' || (v.kind == TMPL_FLOAT && spec->type && strchr("dxXob", spec->type)) || (!real && spec->precision >= 0) ||
               (spec->alternate && real) || (spec->grouping == ',' && spec->type && strchr("xXob", spec->type));
  if (wrong) {
    tmpl_fail(f->r, TL_EINVAL, "unsupported format specifier of a number");
    return;
  }
  double d = tmpl_real(v);
  int64_t i = real ? 0 : tmpl_integer(v);
  bool minus = real ? signbit(d) != 0 : i < 0;
  size_t n = real ? real_digits(f, spec, fabs(d), digits, sizeof digits) : int_digits(spec, i < 0 ? -(uint64_t)i : (uint64_t)i, digits);
  struct tmpl_out *out = tmpl_out_new(f->r);
  if (f->r->code) return;
  const char *sign = minus ? "-" : spec->sign == '+' ? "+" : spec->sign == ' ' ? " " : "";
  char prefix[3] = {'0', spec->type, 0};
  bool prefixed = spec->alternate && !real && spec->type && strchr("xXob", spec->type);
  tmpl_put(f->r, out, sign, strlen(sign), v.untrusted);
  if (prefixed) tmpl_put(f->r, out, prefix, 2, v.untrusted);
  size_t head = strlen(sign) + (prefixed ? 2 : 0), whole = 0;
  while (whole < n && ((digits[whole] >= '0' && digits[whole] <= '9') || !real)) whole++;
  put_grouped(f, out, digits, whole, spec->grouping, spec->type && strchr("xXob", spec->type) ? 4 : 3, v.untrusted);
  tmpl_put(f->r, out, digits + whole, n - whole, v.untrusted);
  if (spec->type == '%') tmpl_put(f->r, out, "%", 1, v.untrusted);
  struct tmpl_value text = tmpl_out_value(f->r, out);
  if (!f->r->code) put_aligned(f, spec, text.str, head, spec->align ? spec->align : '>');
}

static void put_value(struct fields *f, struct tmpl_value v, const struct tmpl_str *form) {
  struct spec spec;
  if (form->length && tmpl_is_number(v)) {
    if (read_spec(f, form, &spec)) put_number(f, &spec, v);
    return;
  }
  if (form->length && v.kind != TMPL_STR) {
    tmpl_fail(f->r, TL_EINVAL, "unsupported format string passed to %s.__format__", tmpl_type_name(v));
    return;
  }
  struct tmpl_value text = tmpl_to_str(f->r, v);
  if (!f->r->code && read_spec(f, form, &spec)) put_text(f, &spec, text.str);
}

/* --- fields in the text ------------------------------------------------------------------------ */
/* One field, text[at, end) without its braces: name, "!r", ":form". */
static void put_field(struct fields *f, const struct tmpl_str *text, size_t at, size_t end) {
  size_t stop = at, name_end = at;
  while (stop < end && text->bytes[stop] != '!' && text->bytes[stop] != ':') {
    if (text->bytes[stop] == '[') /* a key may have any character */
      while (stop < end && text->bytes[stop] != ']') stop++;
    stop += stop < end;
  }
  while (name_end < stop && text->bytes[name_end] != '.' && text->bytes[name_end] != '[') name_end++;
  struct tmpl_value name = tmpl_substring(f->r, text, at, name_end);
  if (f->r->code) return;
  struct tmpl_value v = argument(f, name.str);
  v = members(f, v, text, name_end, stop);
  if (stop < end && text->bytes[stop] == '!') {
    char how = stop + 1 < end ? text->bytes[stop + 1] : 0;
    if ((how != 'r' && how != 's') || (stop + 2 < end && text->bytes[stop + 2] != ':')) {
      tmpl_fail(f->r, TL_EINVAL, "unsupported conversion in format string");
      return;
    }
    struct tmpl_out *out = tmpl_out_new(f->r);
    if (!f->r->code && how == 'r') tmpl_put_repr(f->r, out, v);
    v = how == 'r' ? tmpl_out_value(f->r, out) : tmpl_to_str(f->r, v);
    stop += 2;
  }
  struct tmpl_value form = tmpl_substring(f->r, text, stop < end ? stop + 1 : end, end);
  if (!f->r->code) put_value(f, v, form.str);
}

struct tmpl_value tmpl_str_format(struct tmpl_render *r, const struct tmpl_value *arg, const struct tmpl_args *all) {
  const struct tmpl_str *s = arg[0].str;
  struct fields f = {.r = r, .out = tmpl_out_new(r), .args = all};
  for (size_t at = 0, start; at < s->length && tmpl_charge(r, 1);) {
    char c = s->bytes[at], next = at + 1 < s->length ? s->bytes[at + 1] : 0;
    for (start = at; at < s->length && s->bytes[at] != '{' && s->bytes[at] != '}';) at++;
    if (at > start) {
      tmpl_put_part(r, f.out, s, start, at);
    } else if (c == next) { /* {{ and }} */
      tmpl_put_part(r, f.out, s, at, at + 1);
      at += 2;
    } else {
      size_t end = at + 1;
      while (end < s->length && s->bytes[end] != '}' && s->bytes[end] != '{') end++;
      if (c == '}' || end == s->length) return tmpl_fail(r, TL_EINVAL, "single '%c' in format string", c);
      if (s->bytes[end] == '{') return tmpl_fail(r, TL_EUNSUPPORTED, "a field within a field of a format string");
      put_field(&f, s, at + 1, end);
      at = end + 1;
    }
  }
  struct tmpl_value v = tmpl_out_value(r, f.out);
  return s->markup ? tmpl_as_markup(r, v) : v;
}
