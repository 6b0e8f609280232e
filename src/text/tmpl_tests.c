/* SPDX-License-Identifier: MIT */
/* What may stand behind "is". */
#include <string.h>

#include "tmpl_ast.h"

#define TEST(name)                                                                   \
  static struct tmpl_value name(struct tmpl_render *r, const struct tmpl_value *arg, \
                                const struct tmpl_args *all)
/* A test that looks at nothing but the value. */
#define SIMPLE(name, holds)             \
  TEST(name) {                          \
    (void)r, (void)all;                 \
    const struct tmpl_value v = arg[0]; \
    return tmpl_bool(holds);            \
  }

SIMPLE(test_defined, v.kind != TMPL_UNDEFINED)
SIMPLE(test_undefined, v.kind == TMPL_UNDEFINED)
SIMPLE(test_none, v.kind == TMPL_NONE)
SIMPLE(test_boolean, v.kind == TMPL_BOOL)
SIMPLE(test_true, v.kind == TMPL_BOOL && v.boolean)
SIMPLE(test_false, v.kind == TMPL_BOOL && !v.boolean)
SIMPLE(test_integer, v.kind == TMPL_INT)
SIMPLE(test_float, v.kind == TMPL_FLOAT)
SIMPLE(test_number, tmpl_is_number(v))
SIMPLE(test_string, v.kind == TMPL_STR)
SIMPLE(test_mapping, v.kind == TMPL_DICT)
SIMPLE(test_iterable, tmpl_is_iterable(v) || v.kind == TMPL_LOOP)
SIMPLE(test_sequence, tmpl_is_iterable(v) && v.kind != TMPL_ITER && v.kind != TMPL_VIEW)
SIMPLE(test_callable, v.kind == TMPL_UNDEFINED || v.kind >= TMPL_LOOP)
SIMPLE(test_escaped, v.kind == TMPL_STR && v.str->markup)
SIMPLE(test_sameas, tmpl_same(v, arg[1]))
SIMPLE(test_eq, tmpl_equal(r, v, arg[1]))
SIMPLE(test_ne, !tmpl_equal(r, v, arg[1]))
SIMPLE(test_lt, tmpl_less(r, v, arg[1]))
SIMPLE(test_gt, tmpl_less(r, arg[1], v))
SIMPLE(test_le, tmpl_less(r, v, arg[1]) || tmpl_equal(r, v, arg[1]))
SIMPLE(test_ge, tmpl_less(r, arg[1], v) || tmpl_equal(r, v, arg[1]))
SIMPLE(test_in, tmpl_contains(r, v, arg[1]))

/* A name that is looked up in a table: what cannot be a key of one fails. */
static struct tmpl_value named(struct tmpl_render *r, struct tmpl_value v,
                               const struct tmpl_builtin *(*find)(const struct tmpl_str *name)) {
  if (v.kind == TMPL_LIST || v.kind == TMPL_DICT) return tmpl_fail(r, TL_EINVAL, "unhashable type: '%s'", tmpl_type_name(v));
  return tmpl_bool(v.kind == TMPL_STR && find(v.str));
}

TEST(test_filter) {
  (void)all;
  return named(r, arg[0], tmpl_find_filter);
}

TEST(test_test) {
  (void)all;
  return named(r, arg[0], tmpl_find_test);
}

static struct tmpl_value rest_is(struct tmpl_render *r, struct tmpl_value v, struct tmpl_value by,
                                 int64_t rest) {
  struct tmpl_value left = tmpl_arith(r, '%', v, by);
  return r->code ? left : tmpl_bool(tmpl_equal(r, left, tmpl_int(rest)));
}

TEST(test_odd) {
  (void)all;
  return rest_is(r, arg[0], tmpl_int(2), 1);
}

TEST(test_even) {
  (void)all;
  return rest_is(r, arg[0], tmpl_int(2), 0);
}

TEST(test_divisibleby) {
  (void)all;
  return rest_is(r, arg[0], arg[1], 0);
}

static struct tmpl_value case_is(struct tmpl_render *r, const struct tmpl_value *arg, const char *method) {
  const struct tmpl_str name = {.bytes = method, .length = strlen(method)};
  const struct tmpl_args none = {0};
  struct tmpl_value text = tmpl_to_str(r, arg[0]);
  bool is_unsafe;
  if (r->code) return text;
  return tmpl_call_builtin(r, tmpl_find_method(text, &name, &is_unsafe), text, &none);
}

TEST(test_lower) {
  (void)all;
  return case_is(r, arg, "islower");
}

TEST(test_upper) {
  (void)all;
  return case_is(r, arg, "isupper");
}

static const struct tmpl_builtin tests[] = {
    {"defined", "", 0, test_defined},     {"undefined", "", 0, test_undefined},
    {"none", "", 0, test_none},           {"boolean", "", 0, test_boolean},
    {"true", "", 0, test_true},           {"false", "", 0, test_false},
    {"integer", "", 0, test_integer},     {"float", "", 0, test_float},
    {"number", "", 0, test_number},       {"string", "", 0, test_string},
    {"mapping", "", 0, test_mapping},     {"iterable", "", 0, test_iterable},
    {"sequence", "", 0, test_sequence},   {"callable", "", 0, test_callable},
    {"escaped", "", 0, test_escaped},     {"filter", "", 0, test_filter},
    {"test", "", 0, test_test},           {"odd", "", 0, test_odd},
    {"even", "", 0, test_even},           {"divisibleby", "num", 1, test_divisibleby},
    {"lower", "", 0, test_lower},         {"upper", "", 0, test_upper},
    {"sameas", "other", 1, test_sameas},  {"in", "seq", 1, test_in},
    {"eq", "other", 1, test_eq},          {"==", "other", 1, test_eq},
    {"equalto", "other", 1, test_eq},     {"ne", "other", 1, test_ne},
    {"!=", "other", 1, test_ne},          {"lt", "other", 1, test_lt},
    {"<", "other", 1, test_lt},           {"lessthan", "other", 1, test_lt},
    {"le", "other", 1, test_le},          {"<=", "other", 1, test_le},
    {"gt", "other", 1, test_gt},          {">", "other", 1, test_gt},
    {"greaterthan", "other", 1, test_gt}, {"ge", "other", 1, test_ge},
    {">=", "other", 1, test_ge},          {0},
};

const struct tmpl_builtin *tmpl_find_test(const struct tmpl_str *name) {
  return tmpl_find_builtin(tests, name);
}
