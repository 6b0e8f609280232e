/* SPDX-License-Identifier: MIT */
/* Filters on text and numbers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tmpl_ast.h"

#define FILTER(name)                                                                 \
  static struct tmpl_value name(struct tmpl_render *r, const struct tmpl_value *arg, \
                                const struct tmpl_args *all)
#define UNUSED_ALL (void)all

static const struct tmpl_value missing;

/* --- text ------------------------------------------------------------------------------- */
/* Calls the string method of that name on str(value). */
static struct tmpl_value as_method(struct tmpl_render *r, const char *name, struct tmpl_value v,
                                   const struct tmpl_value *args, size_t n) {
  const struct tmpl_str key = {.bytes = name, .length = strlen(name)};
  const struct tmpl_args all = {.items = (struct tmpl_value *)args, .n = n};
  bool is_unsafe;
  v = tmpl_to_str(r, v);
  return r->code ? missing : tmpl_call_builtin(r, tmpl_find_method(v, &key, &is_unsafe), v, &all);
}

FILTER(filter_upper) {
  UNUSED_ALL;
  return as_method(r, "upper", arg[0], NULL, 0);
}

FILTER(filter_lower) {
  UNUSED_ALL;
  return as_method(r, "lower", arg[0], NULL, 0);
}

FILTER(filter_capitalize) {
  UNUSED_ALL;
  return as_method(r, "capitalize", arg[0], NULL, 0);
}

FILTER(filter_trim) {
  UNUSED_ALL;
  return as_method(r, "strip", arg[0], arg + 1, arg[1].kind != TMPL_MISSING);
}

FILTER(filter_center) {
  UNUSED_ALL;
  struct tmpl_value width = arg[1].kind == TMPL_MISSING ? tmpl_int(80) : arg[1];
  return as_method(r, "center", arg[0], &width, 1);
}

/* jinja2's own: words begin after blanks, hyphens and opening brackets. */
FILTER(filter_title) {
  UNUSED_ALL;
  struct tmpl_value v = tmpl_to_str(r, arg[0]);
  if (r->code) return missing;
  const struct tmpl_str *s = v.str;
  struct tmpl_builder words = {0};
  size_t start = 0;
  for (size_t i = 0, n; i < s->length && tmpl_charge(r, 1); i += n) {
    uint32_t code = tmpl_char(s->bytes + i, s->length - i, &n);
    if (!tmpl_is_space(code) && !(code && code < 0x80 && strchr("-({[<", (int)code))) continue;
    if (i > start) tmpl_push(r, &words, tmpl_substring(r, s, start, i));
    tmpl_push(r, &words, tmpl_substring(r, s, i, i + n));
    start = i + n;
  }
  if (start < s->length) tmpl_push(r, &words, tmpl_substring(r, s, start, s->length));
  struct tmpl_out *out = tmpl_out_new(r);
  for (size_t i = 0; i < words.n && !r->code; i++) {
    size_t n;
    const struct tmpl_str *word = words.items[i].str;
    tmpl_char(word->bytes, word->length, &n);
    struct tmpl_value first = tmpl_substring(r, word, 0, n), rest = tmpl_substring(r, word, n, word->length);
    if (r->code) break;
    first = tmpl_change_case(r, first.str, TMPL_UPPER);
    rest = tmpl_change_case(r, rest.str, TMPL_LOWER);
    if (r->code) break;
    tmpl_put_str(r, out, first.str);
    tmpl_put_str(r, out, rest.str);
  }
  return tmpl_out_value(r, out);
}

FILTER(filter_replace) {
  UNUSED_ALL;
  struct tmpl_value args[3] = {tmpl_to_str(r, arg[1]), tmpl_to_str(r, arg[2]), arg[3]};
  struct tmpl_value v = tmpl_to_str(r, arg[0]);
  if (r->code) return missing;
  v = tmpl_unmarked(r, v);
  bool counted = args[2].kind != TMPL_MISSING && args[2].kind != TMPL_NONE;
  return as_method(r, "replace", v, args, counted ? 3 : 2);
}

FILTER(filter_string) {
  UNUSED_ALL;
  return tmpl_to_str(r, arg[0]);
}

FILTER(filter_safe) {
  UNUSED_ALL;
  return tmpl_as_markup(r, tmpl_to_str(r, arg[0]));
}

FILTER(filter_escape) {
  UNUSED_ALL;
  return tmpl_escape(r, tmpl_to_str(r, arg[0]));
}

FILTER(filter_forceescape) {
  UNUSED_ALL;
  struct tmpl_value v = tmpl_to_str(r, arg[0]);
  return r->code ? missing : tmpl_escape(r, tmpl_unmarked(r, v));
}

static bool is_attribute_name(const struct tmpl_str *s) {
  for (size_t i = 0; i < s->length; i++)
    if (s->bytes[i] && strchr(" \t\n\r\f\v/>=", s->bytes[i])) return false;
  return true;
}

/* key="value" of each item that is neither none nor undefined. */
FILTER(filter_xmlattr) {
  UNUSED_ALL;
  struct tmpl_out *out = tmpl_out_new(r);
  struct tmpl_iter it;
  struct tmpl_value pair;
  bool space = arg[1].kind == TMPL_MISSING || tmpl_truth(arg[1]);
  if (arg[0].kind != TMPL_DICT) return tmpl_fail(r, TL_EINVAL, "'%s' object has no items", tmpl_type_name(arg[0]));
  struct tmpl_value view = tmpl_view_of(r, arg[0].dict, TMPL_ITEMS);
  if (r->code || !tmpl_iter_init(r, &it, view)) return missing;
  while (tmpl_iter_next(r, &it, &pair)) {
    struct tmpl_value key = pair.list->items[0], value = pair.list->items[1];
    if (value.kind == TMPL_NONE || value.kind == TMPL_UNDEFINED) continue;
    if (key.kind != TMPL_STR || !is_attribute_name(key.str))
      return tmpl_fail(r, TL_EINVAL, "invalid character in attribute name");
    if (space) tmpl_put_text(r, out, " ");
    space = true;
    tmpl_put_value(r, out, tmpl_escape(r, key));
    tmpl_put_text(r, out, "=\"");
    tmpl_put_value(r, out, tmpl_escape(r, tmpl_to_str(r, value)));
    tmpl_put_text(r, out, "\"");
  }
  return tmpl_out_value(r, out);
}

static void put_indented(struct tmpl_render *r, struct tmpl_out *out, struct tmpl_value lines,
                         const struct tmpl_str *by, bool blank) {
  for (size_t i = 0; i < lines.list->n && tmpl_charge(r, 1); i++) {
    const struct tmpl_str *line = lines.list->items[i].str;
    if (i) tmpl_put_text(r, out, "\n");
    if (i && (blank || line->length)) tmpl_put_str(r, out, by);
    tmpl_put_str(r, out, line);
  }
}

FILTER(filter_indent) {
  UNUSED_ALL;
  struct tmpl_value width = arg[1].kind == TMPL_MISSING ? tmpl_int(4) : arg[1], by = width;
  if (arg[0].kind != TMPL_STR) return tmpl_arith(r, '+', arg[0], tmpl_literal(r, "\n"));
  if (width.kind != TMPL_STR) by = tmpl_arith(r, '*', tmpl_literal(r, " "), width);
  struct tmpl_value text = tmpl_arith(r, '+', arg[0], tmpl_literal(r, "\n"));
  struct tmpl_value lines = as_method(r, "splitlines", text, NULL, 0);
  if (r->code) return missing;
  if (by.kind != TMPL_STR) return tmpl_fail(r, TL_EINVAL, "indent needs a width or a string");
  struct tmpl_out *out = tmpl_out_new(r);
  if (tmpl_truth(arg[2])) tmpl_put_str(r, out, by.str);
  put_indented(r, out, lines, by.str, tmpl_truth(arg[3]));
  struct tmpl_value v = tmpl_out_value(r, out);
  return arg[0].str->markup ? tmpl_as_markup(r, v) : v;
}

/* What is short enough is returned as it is, whatever it is. */
FILTER(filter_truncate) {
  UNUSED_ALL;
  struct tmpl_value s = arg[0], end = arg[3].kind == TMPL_STR ? arg[3] : tmpl_literal(r, "...");
  size_t chars;
  if (!tmpl_length(r, s, &chars)) return tmpl_fail(r, TL_EINVAL, "object of type '%s' has no len()", tmpl_type_name(s));
  int64_t length = tmpl_int_arg(r, arg[1], 255), leeway = tmpl_int_arg(r, arg[4], 5);
  if (r->code) return missing;
  int64_t keep = length - (int64_t)tmpl_chars(r, end.str);
  if (keep < 0 || leeway < 0 || length > INT32_MAX || leeway > INT32_MAX)
    return tmpl_fail(r, TL_EINVAL, "truncate: unusable length or leeway");
  if ((int64_t)chars <= length + leeway) return s;
  if (s.kind != TMPL_STR) return tmpl_fail(r, TL_EINVAL, "'%s' object cannot be cut", tmpl_type_name(s));
  size_t to = tmpl_offset(r, s.str, (size_t)keep);
  for (size_t i = to; !tmpl_truth(arg[2]) && i > 0; i--)
    if (s.str->bytes[i - 1] == ' ') {
      to = i - 1;
      break;
    }
  struct tmpl_value kept = tmpl_substring(r, s.str, 0, to);
  return r->code ? missing : tmpl_concat(r, kept.str, end.str);
}

FILTER(filter_wordcount) {
  UNUSED_ALL;
  struct tmpl_value v = tmpl_to_str(r, arg[0]);
  if (r->code || !tmpl_charge_bytes(r, v.str->length)) return missing;
  int64_t words = 0;
  bool inside = false;
  for (size_t i = 0, n; i < v.str->length; i += n) {
    bool is_word = tmpl_is_word(tmpl_char(v.str->bytes + i, v.str->length - i, &n));
    words += is_word && !inside;
    inside = is_word;
  }
  return tmpl_int(words);
}

/* In a query a space is +, and / is quoted too. */
static void put_quoted(struct tmpl_render *r, struct tmpl_out *out, struct tmpl_value v, bool in_query) {
  v = tmpl_to_str(r, v);
  size_t cursor = 0;
  for (size_t i = 0; !r->code && i < v.str->length && tmpl_charge(r, 1); i++) {
    unsigned char c = (unsigned char)v.str->bytes[i];
    char text[4];
    bool plain = c < 0x80 && (tmpl_is_word(c) || strchr(in_query ? "-.~" : "-.~/", c)) && c;
    if (in_query && c == ' ') c = '+', plain = true;
    int n = plain ? snprintf(text, sizeof text, "%c", c) : snprintf(text, sizeof text, "%%%02X", c);
    tmpl_put(r, out, text, (size_t)n, tmpl_untrusted_at(v.str, i, &cursor));
  }
}

/* key=value&key=value of a mapping or of pairs; as in Python a text of two characters is one. */
static void put_query(struct tmpl_render *r, struct tmpl_out *out, struct tmpl_value from) {
  struct tmpl_iter it;
  struct tmpl_value pair;
  bool more = false;
  if (from.kind == TMPL_DICT) from = tmpl_view_of(r, from.dict, TMPL_ITEMS);
  if (r->code || !tmpl_iter_init(r, &it, from)) return;
  while (tmpl_iter_next(r, &it, &pair)) {
    struct tmpl_builder two = {0};
    tmpl_collect(r, pair, &two);
    if (!r->code && two.n != 2) tmpl_fail(r, TL_EINVAL, "urlencode needs pairs");
    if (r->code) return;
    if (more) tmpl_put_text(r, out, "&");
    more = true;
    put_quoted(r, out, two.items[0], true);
    tmpl_put_text(r, out, "=");
    put_quoted(r, out, two.items[1], true);
  }
}

FILTER(filter_urlencode) {
  UNUSED_ALL;
  struct tmpl_out *out = tmpl_out_new(r);
  if (arg[0].kind == TMPL_STR || !tmpl_is_iterable(arg[0])) {
    put_quoted(r, out, arg[0], false);
  } else {
    put_query(r, out, arg[0]);
  }
  return r->code ? missing : tmpl_out_value(r, out);
}

FILTER(filter_format) {
  struct tmpl_value v = tmpl_to_str(r, arg[0]), named = missing;
  if (all->n && all->n_named)
    return tmpl_fail(r, TL_EINVAL, "format takes positional or keyword arguments, not both");
  if (all->n_named) {
    named = tmpl_dict_new(r);
    for (size_t i = 0; i < all->n_named && !r->code; i++)
      tmpl_dict_set(r, named.dict, (struct tmpl_value){.kind = TMPL_STR, .str = all->named[i].name},
                    all->named[i].value);
  }
  return r->code ? missing : tmpl_percent(r, v.str, all->items, all->n, named);
}

/* --- any value ------------------------------------------------------------------------------ */
FILTER(filter_default) {
  UNUSED_ALL;
  bool use = arg[0].kind == TMPL_UNDEFINED || (tmpl_truth(arg[2]) && !tmpl_truth(arg[0]));
  if (!use) return arg[0];
  return arg[1].kind == TMPL_MISSING ? tmpl_literal(r, "") : arg[1];
}

FILTER(filter_attr) {
  UNUSED_ALL;
  struct tmpl_value name = tmpl_to_str(r, arg[1]);
  if (r->code) return missing;
  /* attributes only: an item of that name does not count */
  if (arg[0].kind == TMPL_DICT) {
    bool is_unsafe;
    if (!tmpl_find_method(arg[0], name.str, &is_unsafe)) return tmpl_undefined_member(r, arg[0], name);
  }
  return tmpl_attribute(r, arg[0], name.str);
}

/* --- numbers ----------------------------------------------------------------------------------- */
static bool fits_int(double d) {
  return d >= -9223372036854775808.0 && d < 9223372036854775808.0;
}

FILTER(filter_int) {
  UNUSED_ALL;
  struct tmpl_value v = arg[0], result = arg[1].kind == TMPL_MISSING ? tmpl_int(0) : arg[1];
  int base = (int)(tmpl_int_arg(r, arg[2], 10) & 63);
  int64_t parsed;
  double real = 0;
  if (v.kind == TMPL_UNDEFINED) return tmpl_fail_undefined(r, v);
  if (v.kind == TMPL_STR && !tmpl_charge_bytes(r, v.str->length)) return missing;
  if (tmpl_is_integer(v)) {
    result = tmpl_int(tmpl_integer(v));
  } else if (v.kind == TMPL_STR && tmpl_parse_int(v.str, base, &parsed)) {
    result = tmpl_int(parsed);
  } else if (v.kind == TMPL_FLOAT || (v.kind == TMPL_STR && tmpl_parse_float(v.str, &real))) {
    if (v.kind == TMPL_FLOAT) real = v.real;
    if (isfinite(real) && !fits_int(real)) return tmpl_fail(r, TL_EUNSUPPORTED, "integer too large");
    if (isfinite(real)) result = tmpl_int((int64_t)real);
  } else {
    return result;
  }
  result.untrusted = v.kind == TMPL_STR ? v.str->n_spans > 0 : v.untrusted;
  return result;
}

FILTER(filter_float) {
  UNUSED_ALL;
  struct tmpl_value v = arg[0], result = arg[1].kind == TMPL_MISSING ? tmpl_float(0) : arg[1];
  double real = 0;
  if (v.kind == TMPL_UNDEFINED) return tmpl_fail_undefined(r, v);
  if (v.kind == TMPL_STR && !tmpl_charge_bytes(r, v.str->length)) return missing;
  if (tmpl_is_number(v)) {
    result = tmpl_float(tmpl_real(v));
    result.untrusted = v.untrusted;
  } else if (v.kind == TMPL_STR && tmpl_parse_float(v.str, &real)) {
    result = tmpl_float(real);
    result.untrusted = v.str->n_spans > 0;
  }
  return result;
}

FILTER(filter_abs) {
  UNUSED_ALL;
  struct tmpl_value v = arg[0];
  if (!tmpl_is_number(v))
    return tmpl_fail(r, TL_EINVAL, "bad operand type for abs(): '%s'", tmpl_type_name(v));
  bool minus = v.kind == TMPL_FLOAT ? signbit(v.real) : tmpl_integer(v) < 0;
  return tmpl_negate(r, v, minus);
}

/* Python's round(): to the nearest decimal, exactly, ties to even. */
static double round_float(double d, int64_t precision) {
  char text[800];
  if (!isfinite(d) || precision > 330) return d;
  if (precision < -310) return copysign(0, d);
  if (precision < 0) {
    double scale = pow(10, (double)-precision), rounded = nearbyint(d / scale) * scale;
    return isfinite(rounded) ? rounded : d;
  }
  snprintf(text, sizeof text, "%.*f", (int)precision, d);
  return strtod(text, NULL);
}

static int64_t round_int(int64_t i, int64_t precision) {
  if (precision >= 0) return i;
  if (precision < -18) return 0;
  int64_t scale = 1;
  for (; precision < 0; precision++) scale *= 10;
  int64_t rest = i % scale, down = i - rest, half = scale / 2, size = rest < 0 ? -rest : rest;
  bool away = size > half || (size == half && (down / scale) % 2 != 0);
  int64_t result;
  if (away && !__builtin_add_overflow(down, rest < 0 ? -scale : scale, &result)) return result;
  return down;
}

FILTER(filter_round) {
  UNUSED_ALL;
  struct tmpl_value v = arg[0], result;
  int64_t precision = tmpl_int_arg(r, arg[1], 0);
  bool common = arg[2].kind == TMPL_MISSING || (arg[2].kind == TMPL_STR && tmpl_str_is(arg[2].str, "common"));
  bool up = !common && arg[2].kind == TMPL_STR && tmpl_str_is(arg[2].str, "ceil");
  if (v.kind == TMPL_UNDEFINED) return tmpl_fail_undefined(r, v);
  if (!tmpl_is_number(v)) return tmpl_fail(r, TL_EINVAL, "type %s cannot be rounded", tmpl_type_name(v));
  if (!common && !up && !(arg[2].kind == TMPL_STR && tmpl_str_is(arg[2].str, "floor")))
    return tmpl_fail(r, TL_EINVAL, "method must be common, ceil or floor");
  if (common) {
    result = v.kind == TMPL_FLOAT ? tmpl_float(round_float(v.real, precision))
                                  : tmpl_int(round_int(tmpl_integer(v), precision));
  } else {
    double scale = pow(10, (double)precision), scaled = tmpl_real(v) * scale;
    if (!isfinite(scaled)) return tmpl_fail(r, TL_EINVAL, "cannot convert float infinity or NaN to integer");
    result = tmpl_float(((up ? ceil(scaled) : floor(scaled)) + 0.0) / scale); /* by way of an int, which has no -0 */
  }
  result.untrusted = v.untrusted;
  return result;
}

const struct tmpl_builtin tmpl_text_filters[] = {
    {"upper", "", 0, filter_upper},
    {"lower", "", 0, filter_lower},
    {"capitalize", "", 0, filter_capitalize},
    {"title", "", 0, filter_title},
    {"trim", "chars", 0, filter_trim},
    {"center", "width", 0, filter_center},
    {"replace", "old,new,count", 2, filter_replace},
    {"string", "", 0, filter_string},
    {"safe", "", 0, filter_safe},
    {"e", "", 0, filter_escape},
    {"escape", "", 0, filter_escape},
    {"forceescape", "", 0, filter_forceescape},
    {"xmlattr", "autospace", 0, filter_xmlattr},
    {"indent", "width,first,blank", 0, filter_indent},
    {"truncate", "length,killwords,end,leeway", 0, filter_truncate},
    {"wordcount", "", 0, filter_wordcount},
    {"urlencode", "", 0, filter_urlencode},
    {"format", "*", 0, filter_format},
    {"tojson", "ensure_ascii,indent,separators,sort_keys", 0, tmpl_filter_tojson},
    {"default", "default_value,boolean", 0, filter_default},
    {"d", "default_value,boolean", 0, filter_default},
    {"attr", "name", 1, filter_attr},
    {"int", "default,base", 0, filter_int},
    {"float", "default", 0, filter_float},
    {"abs", "", 0, filter_abs},
    {"round", "precision,method", 0, filter_round},
    {0},
};
