/* SPDX-License-Identifier: MIT */
/* Methods of strings that look, strip and change case; of dicts and lists. */
#include <string.h>
#include <math.h>
#include <utf8proc.h>

#include "tmpl_ast.h"

#define METHOD(name)                                                                 \
  static struct tmpl_value name(struct tmpl_render *r, const struct tmpl_value *arg, \
                                const struct tmpl_args *all)

static const struct tmpl_value missing;

/* --- strings: stripping --------------------------------------------------------------- */
static bool in_set(uint32_t code, const struct tmpl_str *set) {
  if (!set) return tmpl_is_space(code);
  for (size_t i = 0, n; i < set->length; i += n)
    if (tmpl_char(set->bytes + i, set->length - i, &n) == code) return true;
  return false;
}

static struct tmpl_value strip(struct tmpl_render *r, const struct tmpl_value *arg, bool left, bool right) {
  const struct tmpl_str *s = arg[0].str, *set = arg[1].kind == TMPL_STR ? arg[1].str : NULL;
  size_t from = 0, to = s->length, n;
  if (!set && arg[1].kind != TMPL_MISSING && arg[1].kind != TMPL_NONE)
    return tmpl_fail(r, TL_EINVAL, "strip arg must be None or str");
  uint64_t price = 1 + (set ? set->length / 2 : 0);
  while (left && from < to && tmpl_charge(r, price) && in_set(tmpl_char(s->bytes + from, to - from, &n), set))
    from += n;
  while (right && to > from && tmpl_charge(r, price)) {
    size_t start = to - 1;
    while (start > from && ((unsigned char)s->bytes[start] & 0xc0) == 0x80) start--;
    if (!in_set(tmpl_char(s->bytes + start, to - start, &n), set)) break;
    to = start;
  }
  return r->code ? missing : tmpl_substring(r, s, from, to);
}

METHOD(str_strip) {
  (void)all;
  return strip(r, arg, true, true);
}

METHOD(str_lstrip) {
  (void)all;
  return strip(r, arg, true, false);
}

METHOD(str_rstrip) {
  (void)all;
  return strip(r, arg, false, true);
}

/* --- strings: case ------------------------------------------------------------------------ */
METHOD(str_casefold) {
  (void)all;
  return tmpl_change_case(r, arg[0].str, TMPL_FOLD);
}

METHOD(str_upper) {
  (void)all;
  return tmpl_change_case(r, arg[0].str, TMPL_UPPER);
}

METHOD(str_lower) {
  (void)all;
  return tmpl_change_case(r, arg[0].str, TMPL_LOWER);
}

METHOD(str_title) {
  (void)all;
  return tmpl_change_case(r, arg[0].str, TMPL_TITLE);
}

METHOD(str_capitalize) {
  (void)all;
  return tmpl_capitalize(r, arg[0].str);
}

METHOD(str_swapcase) {
  (void)all;
  const struct tmpl_str *s = arg[0].str;
  struct tmpl_out *out = tmpl_out_new(r);
  size_t cursor = 0;
  for (size_t i = 0, n; i < s->length && tmpl_charge(r, 1); i += n) {
    uint32_t code = tmpl_char(s->bytes + i, s->length - i, &n), mapped[3];
    bool upper = utf8proc_category((utf8proc_int32_t)code) == UTF8PROC_CATEGORY_LU;
    size_t k = tmpl_map_case(code, upper ? TMPL_LOWER : TMPL_UPPER, mapped);
    for (size_t m = 0; m < k; m++) tmpl_put_char(r, out, mapped[m], tmpl_untrusted_at(s, i, &cursor));
  }
  return tmpl_out_value(r, out);
}

/* --- strings: what they are made of ----------------------------------------------------------- */
typedef bool (*char_test)(uint32_t code);

static utf8proc_category_t category(uint32_t code) {
  return utf8proc_category((utf8proc_int32_t)code);
}

static bool is_decimal(uint32_t code) {
  return category(code) == UTF8PROC_CATEGORY_ND;
}

static bool is_digit(uint32_t code) {
  return is_decimal(code) || code == 0xb2 || code == 0xb3 || code == 0xb9 || code == 0x2070 ||
         (code >= 0x2074 && code <= 0x2079) || (code >= 0x2080 && code <= 0x2089);
}

static bool is_numeric(uint32_t code) {
  return category(code) >= UTF8PROC_CATEGORY_ND && category(code) <= UTF8PROC_CATEGORY_NO;
}

static bool is_alpha(uint32_t code) {
  return category(code) >= UTF8PROC_CATEGORY_LU && category(code) <= UTF8PROC_CATEGORY_LO;
}

static bool is_alnum(uint32_t code) {
  return is_alpha(code) || is_numeric(code);
}

static bool is_ascii(uint32_t code) {
  return code < 0x80;
}

static struct tmpl_value all_chars(struct tmpl_render *r, const struct tmpl_str *s, char_test test,
                                   bool if_empty) {
  if (!tmpl_charge_bytes(r, s->length)) return missing;
  for (size_t i = 0, n; i < s->length; i += n)
    if (!test(tmpl_char(s->bytes + i, s->length - i, &n))) return tmpl_bool(false);
  return tmpl_bool(s->length > 0 || if_empty);
}

#define CHAR_METHOD(name, test, if_empty)            \
  METHOD(name) {                                     \
    (void)all;                                       \
    return all_chars(r, arg[0].str, test, if_empty); \
  }

CHAR_METHOD(str_isdigit, is_digit, false)
CHAR_METHOD(str_isdecimal, is_decimal, false)
CHAR_METHOD(str_isnumeric, is_numeric, false)
CHAR_METHOD(str_isalpha, is_alpha, false)
CHAR_METHOD(str_isalnum, is_alnum, false)
CHAR_METHOD(str_isspace, tmpl_is_space, false)
CHAR_METHOD(str_isascii, is_ascii, true)
CHAR_METHOD(str_isprintable, tmpl_is_printable, true)

/* Some letter has a case, and none has the other one. */
static struct tmpl_value one_case(struct tmpl_render *r, const struct tmpl_str *s, bool upper) {
  bool any = false;
  if (!tmpl_charge_bytes(r, s->length)) return missing;
  for (size_t i = 0, n; i < s->length; i += n) {
    uint32_t code = tmpl_char(s->bytes + i, s->length - i, &n);
    bool is_upper = (uint32_t)utf8proc_tolower((utf8proc_int32_t)code) != code;
    if (!tmpl_is_cased(code)) continue;
    if (is_upper != upper || category(code) == UTF8PROC_CATEGORY_LT) return tmpl_bool(false);
    any = true;
  }
  return tmpl_bool(any);
}

METHOD(str_islower) {
  (void)all;
  return one_case(r, arg[0].str, false);
}

METHOD(str_isupper) {
  (void)all;
  return one_case(r, arg[0].str, true);
}

const struct tmpl_builtin tmpl_str_methods[] = {
    {"strip", "chars", 0, str_strip},
    {"lstrip", "chars", 0, str_lstrip},
    {"rstrip", "chars", 0, str_rstrip},
    {"upper", "", 0, str_upper},
    {"lower", "", 0, str_lower},
    {"casefold", "", 0, str_casefold},
    {"title", "", 0, str_title},
    {"capitalize", "", 0, str_capitalize},
    {"swapcase", "", 0, str_swapcase},
    {"isdigit", "", 0, str_isdigit},
    {"isdecimal", "", 0, str_isdecimal},
    {"isnumeric", "", 0, str_isnumeric},
    {"isalpha", "", 0, str_isalpha},
    {"isalnum", "", 0, str_isalnum},
    {"isspace", "", 0, str_isspace},
    {"isascii", "", 0, str_isascii},
    {"isprintable", "", 0, str_isprintable},
    {"islower", "", 0, str_islower},
    {"isupper", "", 0, str_isupper},
    {0},
};

/* --- dicts -------------------------------------------------------------------------------------- */
METHOD(dict_get) {
  (void)all;
  struct tmpl_value found = arg[2].kind == TMPL_MISSING ? tmpl_none() : arg[2];
  tmpl_dict_get(r, arg[0].dict, arg[1], &found);
  return r->code ? missing : found;
}

METHOD(dict_keys) {
  (void)all;
  return tmpl_view_of(r, arg[0].dict, TMPL_KEYS);
}

METHOD(dict_values) {
  (void)all;
  return tmpl_view_of(r, arg[0].dict, TMPL_VALUES);
}

METHOD(dict_items) {
  (void)all;
  return tmpl_view_of(r, arg[0].dict, TMPL_ITEMS);
}

METHOD(copy) { /* nothing in a template can change a list or a dict */
  (void)r, (void)all;
  return arg[0];
}

const struct tmpl_builtin tmpl_dict_methods[] = {
    {"get", "key,default", 1, dict_get}, {"keys", "", 0, dict_keys}, {"values", "", 0, dict_values},
    {"items", "", 0, dict_items},        {"copy", "", 0, copy},      {0},
};

/* --- lists and tuples ------------------------------------------------------------------------------ */
METHOD(list_index) {
  (void)all;
  int64_t n = (int64_t)arg[0].list->n, start = tmpl_integer(arg[2]);
  int64_t stop = arg[3].kind == TMPL_MISSING ? n : tmpl_integer(arg[3]);
  if (start < 0) start = start + n > 0 ? start + n : 0;
  if (stop < 0) stop += n;
  for (int64_t i = start; i < stop && i < n && tmpl_charge(r, 1); i++)
    if (tmpl_equal(r, tmpl_list_at(r, arg[0].list, (size_t)i), arg[1])) return tmpl_int(i);
  return tmpl_fail(r, TL_EINVAL, "value is not in %s", tmpl_type_name(arg[0]));
}

METHOD(list_count) {
  (void)all;
  int64_t count = 0;
  for (size_t i = 0; i < arg[0].list->n && tmpl_charge(r, 1); i++)
    count += tmpl_equal(r, tmpl_list_at(r, arg[0].list, i), arg[1]);
  return tmpl_int(count);
}

const struct tmpl_builtin tmpl_list_methods[] = {
    {"index", "value,start,stop", 1, list_index},
    {"count", "value", 1, list_count},
    {"copy", "", 0, copy},
    {0},
};

METHOD(float_is_integer) {
  (void)r, (void)all;
  return tmpl_bool(isfinite(arg[0].real) && arg[0].real == floor(arg[0].real));
}

const struct tmpl_builtin tmpl_float_methods[] = {
    {"is_integer", "", 0, float_is_integer},
    {0},
};
