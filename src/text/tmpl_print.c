/* SPDX-License-Identifier: MIT */
/* Values as text: Python's str() and repr(). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tmpl_ast.h"

/* The fewest digits that read back as the same number, and its exponent. */
static int shortest_digits(double d, char digits[20], int *ret_exponent) {
  char text[40];
  for (int precision = 0; precision < 17; precision++) {
    snprintf(text, sizeof text, "%.*e", precision, d);
    if (strtod(text, NULL) == d) break;
  }
  char *e = strchr(text, 'e');
  *ret_exponent = atoi(e + 1);
  int n = 0;
  for (const char *p = text; p < e; p++)
    if (*p >= '0' && *p <= '9') digits[n++] = *p;
  while (n > 1 && digits[n - 1] == '0') n--;
  return n;
}

size_t tmpl_float_text(double d, char ret[TMPL_FLOAT_TEXT]) {
  char digits[20] = "0", *to = ret;
  int exponent;
  if (isnan(d)) return (size_t)snprintf(ret, TMPL_FLOAT_TEXT, "nan");
  if (signbit(d)) *to++ = '-';
  if (isinf(d)) return (size_t)(to - ret) + (size_t)snprintf(to, 8, "inf");
  int n = shortest_digits(fabs(d), digits, &exponent);
  if (exponent < -4 || exponent >= 16) {
    *to++ = digits[0];
    if (n > 1) *to++ = '.';
    for (int i = 1; i < n; i++) *to++ = digits[i];
    return (size_t)(to - ret) + (size_t)snprintf(to, 8, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
  }
  if (exponent < 0) {
    *to++ = '0';
    *to++ = '.';
    for (int i = -1; i > exponent; i--) *to++ = '0';
  }
  for (int i = 0; i < n || i <= exponent; i++) {
    if (i == exponent + 1 && exponent >= 0) *to++ = '.';
    *to++ = i < n ? digits[i] : '0';
  }
  if (exponent >= 0 && n <= exponent + 1) {
    *to++ = '.';
    *to++ = '0';
  }
  *to = 0;
  return (size_t)(to - ret);
}

static void put_number(struct tmpl_render *r, struct tmpl_out *out, struct tmpl_value v) {
  char text[TMPL_FLOAT_TEXT];
  size_t n = v.kind == TMPL_FLOAT ? tmpl_float_text(v.real, text)
                                  : (size_t)snprintf(text, sizeof text, "%lld", (long long)v.integer);
  tmpl_put(r, out, text, n, v.untrusted);
}

static void put_escaped(struct tmpl_render *r, struct tmpl_out *out, uint32_t code, bool untrusted) {
  char text[16];
  const char *form = code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x";
  const char *simple = code == '\n' ? "\\n" : code == '\r' ? "\\r" : code == '\t' ? "\\t" : NULL;
  int n = simple ? 2 : snprintf(text, sizeof text, form, (unsigned)code);
  tmpl_put(r, out, simple ? simple : text, (size_t)n, untrusted);
}

static void put_str_repr(struct tmpl_render *r, struct tmpl_out *out, const struct tmpl_str *s) {
  bool single = s->length && memchr(s->bytes, '\'', s->length),
       twice = s->length && memchr(s->bytes, '"', s->length);
  char quote = single && !twice ? '"' : '\'';
  size_t cursor = 0;
  if (s->markup) tmpl_put_text(r, out, "Markup(");
  tmpl_put(r, out, &quote, 1, false);
  for (size_t i = 0, n; i < s->length && tmpl_charge(r, 1); i += n) {
    uint32_t code = tmpl_char(s->bytes + i, s->length - i, &n);
    bool untrusted = tmpl_untrusted_at(s, i, &cursor);
    if (code == '\\' || code == (uint32_t)quote) tmpl_put(r, out, "\\", 1, untrusted);
    if (tmpl_is_printable(code)) {
      tmpl_put(r, out, s->bytes + i, n, untrusted);
    } else {
      put_escaped(r, out, code, untrusted);
    }
  }
  tmpl_put(r, out, &quote, 1, false);
  if (s->markup) tmpl_put_text(r, out, ")");
}

static void put_list(struct tmpl_render *r, struct tmpl_out *out, struct tmpl_value v, const char *brackets) {
  bool all = v.list->untrusted;
  tmpl_put(r, out, brackets, 1, all);
  for (size_t i = 0; i < v.list->n && tmpl_charge(r, 1); i++) {
    if (i) tmpl_put(r, out, ", ", 2, all);
    tmpl_put_repr(r, out, tmpl_list_at(r, v.list, i));
  }
  if (v.kind == TMPL_TUPLE && v.list->n == 1) tmpl_put_text(r, out, ",");
  tmpl_put(r, out, brackets + 1, 1, all);
}

static void put_dict(struct tmpl_render *r, struct tmpl_out *out, struct tmpl_dict *dict) {
  struct tmpl_iter it;
  struct tmpl_value pair;
  bool first = true, all = dict->untrusted;
  tmpl_put(r, out, "{", 1, all);
  tmpl_iter_init(r, &it, tmpl_view_of(r, dict, TMPL_ITEMS));
  while (!r->code && tmpl_iter_next(r, &it, &pair)) {
    if (!first) tmpl_put(r, out, ", ", 2, all);
    tmpl_put_repr(r, out, pair.list->items[0]);
    tmpl_put(r, out, ": ", 2, all);
    tmpl_put_repr(r, out, pair.list->items[1]);
    first = false;
  }
  tmpl_put(r, out, "}", 1, all);
}

static void put_view(struct tmpl_render *r, struct tmpl_out *out, struct tmpl_value v) {
  struct tmpl_builder b = {0};
  tmpl_collect(r, v, &b);
  struct tmpl_value list = tmpl_build(r, &b, TMPL_LIST);
  tmpl_put_text(r, out, tmpl_type_name(v));
  tmpl_put_text(r, out, "(");
  if (!r->code) put_list(r, out, list, "[]");
  tmpl_put_text(r, out, ")");
}

static void put_range(struct tmpl_render *r, struct tmpl_out *out, const struct tmpl_range *range) {
  char text[96];
  long long start = range->start, stop = range->stop, step = range->step;
  if (step == 1) {
    snprintf(text, sizeof text, "range(%lld, %lld)", start, stop);
  } else {
    snprintf(text, sizeof text, "range(%lld, %lld, %lld)", start, stop, step);
  }
  tmpl_put_text(r, out, text);
}

static void put_container(struct tmpl_render *r, struct tmpl_out *out, struct tmpl_value v) {
  if (tmpl_enter(r)) switch (v.kind) {
      case TMPL_LIST:
        put_list(r, out, v, "[]");
        break;
      case TMPL_TUPLE:
        put_list(r, out, v, "()");
        break;
      case TMPL_DICT:
        put_dict(r, out, v.dict);
        break;
      case TMPL_VIEW:
        put_view(r, out, v);
        break;
      default:
        tmpl_put_text(r, out, "<Namespace ");
        put_dict(r, out, v.dict);
        tmpl_put_text(r, out, ">");
    }
  tmpl_leave(r);
}

void tmpl_put_repr(struct tmpl_render *r, struct tmpl_out *out, struct tmpl_value v) {
  const char *name;
  switch (v.kind) {
    case TMPL_MISSING:
      break;
    case TMPL_UNDEFINED:
      tmpl_put_text(r, out, "Undefined");
      break;
    case TMPL_NONE:
      tmpl_put(r, out, "None", 4, v.untrusted);
      break;
    case TMPL_BOOL:
      name = v.boolean ? "True" : "False";
      tmpl_put(r, out, name, strlen(name), v.untrusted);
      break;
    case TMPL_INT:
    case TMPL_FLOAT:
      put_number(r, out, v);
      break;
    case TMPL_STR:
      put_str_repr(r, out, v.str);
      break;
    case TMPL_LIST:
    case TMPL_TUPLE:
    case TMPL_DICT:
    case TMPL_VIEW:
    case TMPL_NAMESPACE:
      put_container(r, out, v);
      break;
    case TMPL_RANGE:
      put_range(r, out, v.range);
      break;
    case TMPL_MACRO:
      tmpl_put_text(r, out, "<Macro '");
      tmpl_put_str(r, out, v.macro->def->name);
      tmpl_put_text(r, out, "'>");
      break;
    default: /* Python prints addresses here */
      tmpl_put_text(r, out, "<");
      tmpl_put_text(r, out, tmpl_type_name(v));
      tmpl_put_text(r, out, ">");
  }
}

void tmpl_put_value(struct tmpl_render *r, struct tmpl_out *out, struct tmpl_value v) {
  if (v.kind == TMPL_STR) {
    tmpl_put_str(r, out, v.str);
  } else if (v.kind != TMPL_UNDEFINED) {
    tmpl_put_repr(r, out, v);
  }
}

struct tmpl_value tmpl_to_str(struct tmpl_render *r, struct tmpl_value v) {
  if (v.kind == TMPL_STR) return v;
  struct tmpl_out *out = tmpl_out_new(r);
  tmpl_put_value(r, out, v);
  return tmpl_out_value(r, out);
}
