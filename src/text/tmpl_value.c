/* SPDX-License-Identifier: MIT */
/* Values: kinds, truth, equality, order, and the undefined one. */
#include <string.h>

#include "tmpl_ast.h"

int64_t tmpl_integer(struct tmpl_value v) {
  return v.kind == TMPL_INT ? v.integer : v.kind == TMPL_BOOL ? v.boolean : 0;
}

double tmpl_real(struct tmpl_value v) {
  return v.kind == TMPL_FLOAT ? v.real : (double)tmpl_integer(v);
}

static struct tmpl_value json_container(struct tmpl_render *r, json_t *json, bool untrusted) {
  if (json_is_array(json)) {
    struct tmpl_list *list = tmpl_alloc(r, 1, sizeof *list);
    if (!list) return tmpl_missing();
    *list = (struct tmpl_list){.json = json, .n = json_array_size(json), .untrusted = untrusted};
    return (struct tmpl_value){.kind = TMPL_LIST, .list = list};
  }
  struct tmpl_dict *dict = tmpl_alloc(r, 1, sizeof *dict);
  if (!dict) return tmpl_missing();
  *dict = (struct tmpl_dict){.json = json, .n = json_object_size(json), .untrusted = untrusted};
  return (struct tmpl_value){.kind = TMPL_DICT, .dict = dict};
}

struct tmpl_value tmpl_of_json(struct tmpl_render *r, json_t *json, bool untrusted) {
  struct tmpl_value v = tmpl_none();
  switch (json_typeof(json)) {
    case JSON_OBJECT:
    case JSON_ARRAY:
      return json_container(r, json, untrusted);
    case JSON_STRING:
      return tmpl_borrow(r, json_string_value(json), json_string_length(json), untrusted);
    case JSON_INTEGER:
      v = tmpl_int(json_integer_value(json));
      break;
    case JSON_REAL:
      v = tmpl_float(json_real_value(json));
      break;
    case JSON_TRUE:
    case JSON_FALSE:
      v = tmpl_bool(json_is_true(json));
      break;
    case JSON_NULL:
      break;
  }
  v.untrusted = untrusted;
  return v;
}

const char *tmpl_type_name(struct tmpl_value v) {
  switch (v.kind) {
    case TMPL_MISSING:
    case TMPL_UNDEFINED:
      return "Undefined";
    case TMPL_NONE:
      return "NoneType";
    case TMPL_BOOL:
      return "bool";
    case TMPL_INT:
      return "int";
    case TMPL_FLOAT:
      return "float";
    case TMPL_STR:
      return v.str->markup ? "Markup" : "str";
    case TMPL_LIST:
      return "list";
    case TMPL_TUPLE:
      return "tuple";
    case TMPL_DICT:
      return "dict";
    case TMPL_RANGE:
      return "range";
    case TMPL_VIEW: {
      static const char *const names[] = {"dict_keys", "dict_values", "dict_items"};
      return names[v.view->what];
    }
    case TMPL_ITER:
      return "generator";
    case TMPL_NAMESPACE:
      return "Namespace";
    case TMPL_LOOP:
      return "LoopContext";
    case TMPL_MACRO:
      return "Macro";
    case TMPL_FUNCTION:
      return "function";
    case TMPL_METHOD:
      return "builtin_function_or_method";
  }
  return "object";
}

bool tmpl_truth(struct tmpl_value v) {
  switch (v.kind) {
    case TMPL_MISSING:
    case TMPL_UNDEFINED:
    case TMPL_NONE:
      return false;
    case TMPL_BOOL:
      return v.boolean;
    case TMPL_INT:
      return v.integer != 0;
    case TMPL_FLOAT:
      return v.real != 0;
    case TMPL_STR:
      return v.str->length > 0;
    case TMPL_LIST:
    case TMPL_TUPLE:
      return v.list->n > 0;
    case TMPL_DICT:
      return v.dict->n > 0;
    case TMPL_RANGE:
      return v.range->n > 0;
    case TMPL_VIEW:
      return v.view->dict->n > 0;
    default:
      return true;
  }
}

bool tmpl_same(struct tmpl_value a, struct tmpl_value b) {
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case TMPL_MISSING:
    case TMPL_NONE:
      return true;
    case TMPL_BOOL:
      return a.boolean == b.boolean;
    case TMPL_INT:
      return a.integer == b.integer;
    case TMPL_FLOAT:
      return a.real == b.real;
    case TMPL_STR:
      return a.str == b.str || (a.str->bytes == b.str->bytes && a.str->length == b.str->length);
    case TMPL_LIST:
    case TMPL_TUPLE:
      return a.list == b.list || (a.list->json && a.list->json == b.list->json);
    case TMPL_DICT:
      return a.dict == b.dict || (a.dict->json && a.dict->json == b.dict->json);
    default:
      return a.list == b.list; /* any of the pointers */
  }
}

static bool equal_lists(struct tmpl_render *r, const struct tmpl_list *a, const struct tmpl_list *b) {
  if (a->n != b->n) return false;
  for (size_t i = 0; i < a->n && tmpl_charge(r, 1); i++)
    if (!tmpl_equal(r, tmpl_list_at(r, a, i), tmpl_list_at(r, b, i))) return false;
  return !r->code;
}

static bool equal_dicts(struct tmpl_render *r, struct tmpl_value a, struct tmpl_value b) {
  struct tmpl_iter it;
  struct tmpl_value key, left, right;
  if (a.dict->n != b.dict->n || !tmpl_iter_init(r, &it, a)) return false;
  while (tmpl_iter_next(r, &it, &key)) {
    if (!tmpl_dict_get(r, a.dict, key, &left) || !tmpl_dict_get(r, b.dict, key, &right)) return false;
    if (!tmpl_equal(r, left, right)) return false;
  }
  return !r->code;
}

static bool equal_numbers(struct tmpl_value a, struct tmpl_value b) {
  if (a.kind == TMPL_FLOAT || b.kind == TMPL_FLOAT) return tmpl_real(a) == tmpl_real(b);
  return tmpl_integer(a) == tmpl_integer(b);
}

bool tmpl_equal(struct tmpl_render *r, struct tmpl_value a, struct tmpl_value b) {
  if (tmpl_is_number(a) && tmpl_is_number(b)) return equal_numbers(a, b);
  if (a.kind != b.kind) return false;
  bool equal = false;
  switch (a.kind) {
    case TMPL_UNDEFINED:
      return true;
    case TMPL_STR:
      if (a.str->length != b.str->length || !tmpl_charge_bytes(r, a.str->length)) return false;
      return tmpl_str_compare(a.str, b.str) == 0;
    case TMPL_RANGE:
      return a.range->n == b.range->n &&
             (a.range->n == 0 ||
              (a.range->start == b.range->start && (a.range->n == 1 || a.range->step == b.range->step)));
    case TMPL_LIST:
    case TMPL_TUPLE:
    case TMPL_DICT:
      if (tmpl_enter(r)) equal = a.kind == TMPL_DICT ? equal_dicts(r, a, b) : equal_lists(r, a.list, b.list);
      tmpl_leave(r);
      return equal;
    default:
      return tmpl_same(a, b);
  }
}

static bool less_lists(struct tmpl_render *r, const struct tmpl_list *a, const struct tmpl_list *b) {
  for (size_t i = 0; i < a->n && i < b->n && tmpl_charge(r, 1); i++) {
    struct tmpl_value left = tmpl_list_at(r, a, i), right = tmpl_list_at(r, b, i);
    if (!tmpl_equal(r, left, right)) return tmpl_less(r, left, right);
  }
  return a->n < b->n;
}

bool tmpl_less(struct tmpl_render *r, struct tmpl_value a, struct tmpl_value b) {
  if (tmpl_is_number(a) && tmpl_is_number(b)) {
    if (a.kind == TMPL_FLOAT || b.kind == TMPL_FLOAT) return tmpl_real(a) < tmpl_real(b);
    return tmpl_integer(a) < tmpl_integer(b);
  }
  if (a.kind == TMPL_STR && b.kind == TMPL_STR) {
    tmpl_charge_bytes(r, a.str->length < b.str->length ? a.str->length : b.str->length);
    return tmpl_str_compare(a.str, b.str) < 0;
  }
  if (a.kind == b.kind && (a.kind == TMPL_LIST || a.kind == TMPL_TUPLE)) {
    bool less = tmpl_enter(r) && less_lists(r, a.list, b.list);
    tmpl_leave(r);
    return less;
  }
  if (a.kind == TMPL_UNDEFINED || b.kind == TMPL_UNDEFINED) {
    tmpl_fail_undefined(r, a.kind == TMPL_UNDEFINED ? a : b);
  } else {
    tmpl_fail(r, TL_EINVAL, "'%s' and '%s' cannot be ordered", tmpl_type_name(a), tmpl_type_name(b));
  }
  return false;
}

bool tmpl_contains(struct tmpl_render *r, struct tmpl_value item, struct tmpl_value in) {
  struct tmpl_value found;
  if (in.kind == TMPL_STR) {
    if (item.kind == TMPL_STR) return tmpl_find(r, in.str, item.str, 0) != SIZE_MAX;
    tmpl_fail(r, TL_EINVAL, "'in <string>' requires string as left operand, not %s", tmpl_type_name(item));
    return false;
  }
  if (in.kind == TMPL_DICT) return tmpl_dict_get(r, in.dict, item, &found);
  if (in.kind == TMPL_VIEW && in.view->what == TMPL_KEYS)
    return tmpl_dict_get(r, in.view->dict, item, &found);
  struct tmpl_iter it;
  if (!tmpl_is_iterable(in)) {
    tmpl_fail(r, TL_EINVAL, "argument of type '%s' is not iterable", tmpl_type_name(in));
    return false;
  }
  if (!tmpl_iter_init(r, &it, in)) return false;
  while (tmpl_iter_next(r, &it, &found))
    if (tmpl_equal(r, item, found)) return true;
  return false;
}

bool tmpl_length(struct tmpl_render *r, struct tmpl_value v, size_t *ret) {
  switch (v.kind) {
    case TMPL_UNDEFINED:
      *ret = 0;
      return true;
    case TMPL_STR:
      *ret = tmpl_chars(r, v.str);
      return true;
    case TMPL_LIST:
    case TMPL_TUPLE:
      *ret = v.list->n;
      return true;
    case TMPL_DICT:
      *ret = v.dict->n;
      return true;
    case TMPL_RANGE:
      *ret = v.range->n;
      return true;
    case TMPL_VIEW:
      *ret = v.view->dict->n;
      return true;
    case TMPL_LOOP:
      return tmpl_loop_length(r, v.loop, ret);
    default:
      return false;
  }
}

/* --- undefined -------------------------------------------------------------------------- */
static struct tmpl_value new_undefined(struct tmpl_render *r, struct tmpl_undefined what) {
  struct tmpl_undefined *u = tmpl_alloc(r, 1, sizeof *u);
  if (!u) return tmpl_missing();
  *u = what;
  return (struct tmpl_value){.kind = TMPL_UNDEFINED, .undefined = u};
}

struct tmpl_value tmpl_undefined_hint(struct tmpl_render *r, const char *hint) {
  return new_undefined(r, (struct tmpl_undefined){.hint = hint});
}

struct tmpl_value tmpl_undefined_member(struct tmpl_render *r, struct tmpl_value of, struct tmpl_value key) {
  return new_undefined(r, (struct tmpl_undefined){.of = of, .key = key});
}

struct tmpl_value tmpl_fail_undefined(struct tmpl_render *r, struct tmpl_value undefined) {
  const struct tmpl_undefined *u = undefined.undefined;
  struct tmpl_value text;
  if (u->hint) return tmpl_fail(r, TL_EINVAL, "%s", u->hint);
  struct tmpl_out *out = tmpl_out_new(r);
  tmpl_put_repr(r, out, u->key);
  text = tmpl_out_value(r, out);
  if (text.kind != TMPL_STR) return text;
  int n = text.str->length < 200 ? (int)text.str->length : 200;
  if (u->of.kind == TMPL_MISSING) return tmpl_fail(r, TL_EINVAL, "%.*s is undefined", n, text.str->bytes);
  bool none = u->of.kind == TMPL_NONE, name = u->key.kind == TMPL_STR;
  return tmpl_fail(r, TL_EINVAL, "%s%s%s%s has no %s %.*s", name ? "'" : "",
                   none ? "None" : tmpl_type_name(u->of), none ? "" : " object", name ? "'" : "",
                   name ? "attribute" : "element", n, text.str->bytes);
}
