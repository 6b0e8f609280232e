/* SPDX-License-Identifier: MIT */
/* Python's arithmetic, on 64-bit integers: a result that needs more fails. */
#include <math.h>
#include <string.h>

#include "tmpl_ast.h"

static struct tmpl_value too_large(struct tmpl_render *r) {
  return tmpl_fail(r, TL_EUNSUPPORTED, "integer too large");
}

static struct tmpl_value bad_operands(struct tmpl_render *r, int op, struct tmpl_value a,
                                      struct tmpl_value b) {
  if (a.kind == TMPL_UNDEFINED) return tmpl_fail_undefined(r, a);
  if (b.kind == TMPL_UNDEFINED) return tmpl_fail_undefined(r, b);
  char text[3] = {(char)(op > 255 ? op >> 8 : op), (char)(op > 255 ? op & 255 : 0), 0};
  return tmpl_fail(r, TL_EINVAL, "unsupported operand type(s) for %s: '%s' and '%s'", text, tmpl_type_name(a),
                   tmpl_type_name(b));
}

/* --- numbers ---------------------------------------------------------------------------- */
static struct tmpl_value int_power(struct tmpl_render *r, int64_t base, int64_t exponent) {
  int64_t result = 1;
  if (exponent < 0) {
    if (base == 0) return tmpl_fail(r, TL_EINVAL, "0.0 cannot be raised to a negative power");
    return tmpl_float(pow((double)base, (double)exponent));
  }
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1 && __builtin_mul_overflow(result, base, &result)) return too_large(r);
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) return too_large(r);
  }
  return tmpl_int(result);
}

/* Division rounds down, as Python's does; b is not zero. */
static struct tmpl_value int_divide(struct tmpl_render *r, int64_t a, int64_t b, bool want_rest) {
  if (b == -1) return want_rest ? tmpl_int(0) : a == INT64_MIN ? too_large(r) : tmpl_int(-a);
  int64_t quotient = a / b, rest = a % b;
  bool down = rest != 0 && (rest < 0) != (b < 0);
  return tmpl_int(want_rest ? rest + (down ? b : 0) : quotient - down);
}

static struct tmpl_value int_arith(struct tmpl_render *r, int op, int64_t a, int64_t b) {
  int64_t result;
  bool overflow = false;
  switch (op) {
    case '+':
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case '-':
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case '*':
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case TMPL_OP2('*', '*'):
      return int_power(r, a, b);
    default:
      if (b == 0) return tmpl_fail(r, TL_EINVAL, "division by zero");
      if (op == '/') return tmpl_float((double)a / (double)b);
      return int_divide(r, a, b, op == '%');
  }
  return overflow ? too_large(r) : tmpl_int(result);
}

static struct tmpl_value float_arith(struct tmpl_render *r, int op, double a, double b) {
  double rest;
  switch (op) {
    case '+':
      return tmpl_float(a + b);
    case '-':
      return tmpl_float(a - b);
    case '*':
      return tmpl_float(a * b);
    case TMPL_OP2('*', '*'):
      if ((a < 0 && b != floor(b)) || (a == 0 && b < 0))
        return tmpl_fail(r, TL_EINVAL, "power without a real result");
      return tmpl_float(pow(a, b));
  }
  if (b == 0) return tmpl_fail(r, TL_EINVAL, "float division by zero");
  if (op == '/') return tmpl_float(a / b);
  rest = fmod(a, b);
  if (op == '%') return tmpl_float(rest == 0 ? copysign(0, b) : (rest < 0) != (b < 0) ? rest + b : rest);
  double quotient = (a - rest) / b;
  if (rest != 0 && (rest < 0) != (b < 0)) quotient -= 1;
  if (quotient == 0) return tmpl_float(copysign(0, a / b));
  double whole = floor(quotient);
  return tmpl_float(quotient - whole > 0.5 ? whole + 1 : whole);
}

/* --- sequences ----------------------------------------------------------------------------- */
static struct tmpl_value add_strings(struct tmpl_render *r, struct tmpl_value a, struct tmpl_value b) {
  bool markup = a.str->markup || b.str->markup;
  if (markup) {
    a = tmpl_escape(r, a);
    b = tmpl_escape(r, b);
    if (a.kind != TMPL_STR || b.kind != TMPL_STR) return a;
  }
  struct tmpl_value sum = tmpl_concat(r, a.str, b.str);
  return markup ? tmpl_as_markup(r, sum) : sum;
}

static void push_all(struct tmpl_render *r, struct tmpl_builder *b, const struct tmpl_list *list) {
  for (size_t i = 0; i < list->n && !r->code; i++) tmpl_push(r, b, tmpl_list_at(r, list, i));
}

static struct tmpl_value add_lists(struct tmpl_render *r, struct tmpl_value a, struct tmpl_value b) {
  struct tmpl_builder sum = {.capacity = a.list->n + b.list->n};
  sum.items = tmpl_alloc(r, sum.capacity, sizeof *sum.items);
  if (!sum.items) return tmpl_missing();
  push_all(r, &sum, a.list);
  push_all(r, &sum, b.list);
  return tmpl_build(r, &sum, a.kind);
}

static struct tmpl_value repeat(struct tmpl_render *r, struct tmpl_value v, int64_t times) {
  if (times < 0) times = 0;
  if (v.kind != TMPL_STR) {
    struct tmpl_builder b = {0};
    for (int64_t i = 0; v.list->n && i < times && tmpl_charge(r, 1); i++) push_all(r, &b, v.list);
    return tmpl_build(r, &b, v.kind);
  }
  struct tmpl_out *out = tmpl_out_new(r);
  for (int64_t i = 0; v.str->length && i < times && tmpl_charge(r, 1); i++) tmpl_put_str(r, out, v.str);
  struct tmpl_value repeated = tmpl_out_value(r, out);
  return v.str->markup ? tmpl_as_markup(r, repeated) : repeated;
}

static bool is_sequence(struct tmpl_value v) {
  return v.kind == TMPL_STR || v.kind == TMPL_LIST || v.kind == TMPL_TUPLE;
}

static struct tmpl_value percent(struct tmpl_render *r, struct tmpl_value format, struct tmpl_value v) {
  struct tmpl_value none = {0};
  /* What Python calls one here: each has a __getitem__. */
  bool mapping = v.kind == TMPL_DICT || v.kind == TMPL_LIST || v.kind == TMPL_RANGE || v.kind == TMPL_UNDEFINED;
  if (v.kind != TMPL_TUPLE) return tmpl_percent(r, format.str, &v, 1, mapping ? v : none);
  return tmpl_percent(r, format.str, v.list->items, v.list->n, none);
}

struct tmpl_value tmpl_arith(struct tmpl_render *r, int op, struct tmpl_value a, struct tmpl_value b) {
  struct tmpl_value result;
  if (r->code) return tmpl_missing();
  if (tmpl_is_number(a) && tmpl_is_number(b)) {
    bool real = a.kind == TMPL_FLOAT || b.kind == TMPL_FLOAT;
    result = real ? float_arith(r, op, tmpl_real(a), tmpl_real(b))
                  : int_arith(r, op, tmpl_integer(a), tmpl_integer(b));
    result.untrusted = a.untrusted || b.untrusted;
    return result;
  }
  if (op == '+' && a.kind == TMPL_STR && b.kind == TMPL_STR) return add_strings(r, a, b);
  if (op == '+' && a.kind == b.kind && (a.kind == TMPL_LIST || a.kind == TMPL_TUPLE))
    return add_lists(r, a, b);
  if (op == '*' && is_sequence(a) && tmpl_is_integer(b)) return repeat(r, a, tmpl_integer(b));
  if (op == '*' && is_sequence(b) && tmpl_is_integer(a)) return repeat(r, b, tmpl_integer(a));
  if (op == '%' && a.kind == TMPL_STR) return percent(r, a, b);
  return bad_operands(r, op, a, b);
}

struct tmpl_value tmpl_negate(struct tmpl_render *r, struct tmpl_value v, bool minus) {
  struct tmpl_value result;
  if (v.kind == TMPL_UNDEFINED) return tmpl_fail_undefined(r, v);
  if (!tmpl_is_number(v))
    return tmpl_fail(r, TL_EINVAL, "bad operand type for unary %c: '%s'", minus ? '-' : '+',
                     tmpl_type_name(v));
  if (v.kind == TMPL_FLOAT) {
    result = tmpl_float(minus ? -v.real : v.real);
  } else {
    result = minus ? int_arith(r, '-', 0, tmpl_integer(v)) : tmpl_int(tmpl_integer(v));
  }
  result.untrusted = v.untrusted;
  return result;
}
