/* SPDX-License-Identifier: MIT */
/* x.name, x[key] and x[a:b:c], with jinja2's order: x.name asks for an
 * attribute first and for an item then, x[key] the other way round. */
#include <string.h>

#include "tmpl_ast.h"

/* Methods that change their object: jinja2's immutable sandbox hides them. */
static const char *const list_changers[] = {"append", "clear",  "pop",    "reverse", "insert",
                                            "sort",   "extend", "remove", NULL};
static const char *const dict_changers[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};

static bool is_one_of(const struct tmpl_str *name, const char *const *list) {
  for (; *list; list++)
    if (tmpl_str_is(name, *list)) return true;
  return false;
}

const struct tmpl_builtin *tmpl_find_method(struct tmpl_value v, const struct tmpl_str *name,
                                            bool *ret_unsafe) {
  const struct tmpl_builtin *found = NULL;
  size_t n = name->length;
  *ret_unsafe = n > 4 && memcmp(name->bytes, "__", 2) == 0 && memcmp(name->bytes + n - 2, "__", 2) == 0;
  if (*ret_unsafe) return NULL;
  switch (v.kind) {
    case TMPL_STR:
      found = tmpl_find_builtin(tmpl_str_methods, name);
      return found ? found : tmpl_find_builtin(tmpl_str_more_methods, name);
    case TMPL_DICT:
      *ret_unsafe = is_one_of(name, dict_changers);
      return tmpl_find_builtin(tmpl_dict_methods, name);
    case TMPL_LIST:
      *ret_unsafe = is_one_of(name, list_changers);
      return tmpl_find_builtin(tmpl_list_methods, name);
    case TMPL_TUPLE:
      found = tmpl_find_builtin(tmpl_list_methods, name);
      break;
    case TMPL_FLOAT:
      return tmpl_find_builtin(tmpl_float_methods, name);
    case TMPL_LOOP:
      return tmpl_find_builtin(tmpl_loop_methods, name);
    default:
      return NULL;
  }
  return found && strcmp(found->name, "copy") != 0 ? found : NULL; /* tuples are not copied */
}

static struct tmpl_value unsafe(struct tmpl_render *r, struct tmpl_value of, const struct tmpl_str *name) {
  struct tmpl_out *out = tmpl_out_new(r);
  tmpl_put_text(r, out, "access to attribute '");
  tmpl_put_part(r, out, name, 0, name->length < 100 ? name->length : 100);
  tmpl_put_text(r, out, "' of '");
  tmpl_put_text(r, out, tmpl_type_name(of));
  tmpl_put_text(r, out, "' object is unsafe.");
  tmpl_put(r, out, "", 1, false);
  return r->code ? tmpl_missing() : tmpl_undefined_hint(r, out->bytes);
}

static struct tmpl_value plain_attribute(struct tmpl_value of, const struct tmpl_str *name) {
  if (of.kind == TMPL_TUPLE && of.list->group && of.list->n == 2) {
    if (tmpl_str_is(name, "grouper")) return of.list->items[0];
    if (tmpl_str_is(name, "list")) return of.list->items[1];
  } else if (of.kind == TMPL_RANGE) {
    if (tmpl_str_is(name, "start")) return tmpl_int(of.range->start);
    if (tmpl_str_is(name, "stop")) return tmpl_int(of.range->stop);
    if (tmpl_str_is(name, "step")) return tmpl_int(of.range->step);
  } else if (tmpl_is_number(of) && tmpl_str_is(name, "real")) {
    return of.kind == TMPL_FLOAT ? of : tmpl_int(tmpl_integer(of));
  }
  return tmpl_missing();
}

/* What Python's getattr gives; MISSING: AttributeError. */
static struct tmpl_value get_attribute(struct tmpl_render *r, struct tmpl_value of,
                                       const struct tmpl_str *name) {
  bool is_unsafe;
  if (!tmpl_charge(r, 1)) return tmpl_missing();
  const struct tmpl_builtin *builtin = tmpl_find_method(of, name, &is_unsafe);
  if (of.kind == TMPL_NAMESPACE && name->length && name->bytes[0] == '_') is_unsafe = true;
  if (is_unsafe) return unsafe(r, of, name);
  if (of.kind == TMPL_NAMESPACE) {
    struct tmpl_value found = {0};
    tmpl_dict_get(r, of.dict, (struct tmpl_value){.kind = TMPL_STR, .str = name}, &found);
    return found;
  }
  if (of.kind == TMPL_LOOP && !builtin) return tmpl_loop_attribute(r, of, name);
  if (!builtin) return plain_attribute(of, name);
  struct tmpl_method *method = tmpl_alloc(r, 1, sizeof *method);
  if (!method) return tmpl_missing();
  *method = (struct tmpl_method){of, builtin};
  return (struct tmpl_value){.kind = TMPL_METHOD, .method = method};
}

/* i as an index into n items, counted from the end if negative; false: outside. */
static bool index_in(struct tmpl_value key, size_t n, size_t *ret) {
  int64_t i = tmpl_integer(key);
  if (i < 0) i += (int64_t)n;
  if (i < 0 || (uint64_t)i >= n) return false;
  *ret = (size_t)i;
  return true;
}

static struct tmpl_value char_at(struct tmpl_render *r, const struct tmpl_str *s, struct tmpl_value key) {
  size_t i, n = 0;
  if (!index_in(key, tmpl_chars(r, s), &i)) return tmpl_missing();
  size_t at = tmpl_offset(r, s, i);
  if (at < s->length) tmpl_char(s->bytes + at, s->length - at, &n);
  return tmpl_substring(r, s, at, at + n);
}

/* What Python's of[key] gives; MISSING: LookupError or TypeError. */
static struct tmpl_value get_item(struct tmpl_render *r, struct tmpl_value of, struct tmpl_value key) {
  struct tmpl_value found = {0};
  size_t i;
  if (of.kind == TMPL_DICT) {
    if (key.kind != TMPL_LIST && key.kind != TMPL_DICT) tmpl_dict_get(r, of.dict, key, &found);
  } else if (!tmpl_is_integer(key)) {
    return found;
  } else if (of.kind == TMPL_LIST || of.kind == TMPL_TUPLE) {
    if (index_in(key, of.list->n, &i)) return tmpl_list_at(r, of.list, i);
  } else if (of.kind == TMPL_STR) {
    return char_at(r, of.str, key);
  } else if (of.kind == TMPL_RANGE) {
    if (index_in(key, of.range->n, &i))
      return tmpl_int((int64_t)(of.range->start + (__int128)of.range->step * (int64_t)i));
  }
  return found;
}

struct tmpl_value tmpl_attribute(struct tmpl_render *r, struct tmpl_value of, const struct tmpl_str *name) {
  if (of.kind == TMPL_UNDEFINED) return tmpl_fail_undefined(r, of);
  struct tmpl_value key = {.kind = TMPL_STR, .str = name}, found = get_attribute(r, of, name);
  if (found.kind == TMPL_MISSING) found = get_item(r, of, key);
  return found.kind == TMPL_MISSING && !r->code ? tmpl_undefined_member(r, of, key) : found;
}

struct tmpl_value tmpl_subscript(struct tmpl_render *r, struct tmpl_value of, struct tmpl_value key) {
  if (of.kind == TMPL_UNDEFINED) return tmpl_fail_undefined(r, of);
  struct tmpl_value found = get_item(r, of, key);
  if (found.kind == TMPL_MISSING && key.kind == TMPL_STR) found = get_attribute(r, of, key.str);
  return found.kind == TMPL_MISSING && !r->code ? tmpl_undefined_member(r, of, key) : found;
}

/* --- slices ------------------------------------------------------------------------------ */
struct slice {
  int64_t start, stop, step;
  size_t n; /* how many items it takes */
};

static int64_t clamp(struct tmpl_value v, int64_t otherwise, int64_t length, int64_t low, int64_t high) {
  if (v.kind == TMPL_MISSING || v.kind == TMPL_NONE) return otherwise;
  int64_t i = tmpl_integer(v);
  if (i < 0) i += length;
  return i < low ? low : i > high ? high : i;
}

/* Python's rules for the parts of a slice of `length` items. */
static bool resolve_slice(struct tmpl_render *r, const struct tmpl_value part[3], size_t length,
                          struct slice *ret) {
  for (int i = 0; i < 3; i++)
    if (part[i].kind != TMPL_MISSING && part[i].kind != TMPL_NONE && !tmpl_is_integer(part[i])) {
      tmpl_fail(r, TL_EINVAL, "slice indices must be integers or None");
      return false;
    }
  int64_t n = (int64_t)length, step = clamp(part[2], 1, 0, -INT64_MAX, INT64_MAX);
  if (step == 0) {
    tmpl_fail(r, TL_EINVAL, "slice step cannot be zero");
    return false;
  }
  bool up = step > 0;
  ret->step = step;
  ret->start = clamp(part[0], up ? 0 : n - 1, n, up ? 0 : -1, up ? n : n - 1);
  ret->stop = clamp(part[1], up ? n : -1, n, up ? 0 : -1, up ? n : n - 1);
  int64_t span = up ? ret->stop - ret->start : ret->start - ret->stop;
  ret->n = span > 0 ? (size_t)((span - 1) / (up ? step : -step) + 1) : 0;
  return true;
}

static struct tmpl_value slice_str(struct tmpl_render *r, const struct tmpl_str *s,
                                   const struct slice *slice) {
  if (slice->step == 1) {
    size_t from = tmpl_offset(r, s, (size_t)slice->start);
    size_t to = slice->n ? tmpl_offset(r, s, (size_t)slice->start + slice->n) : from;
    return tmpl_substring(r, s, from, to);
  }
  size_t chars = tmpl_chars(r, s), *offsets = tmpl_alloc(r, chars + 1, sizeof *offsets);
  struct tmpl_out *out = tmpl_out_new(r);
  if (!offsets || !tmpl_charge(r, chars)) return tmpl_missing();
  for (size_t i = 0, n; i < chars; i++) {
    tmpl_char(s->bytes + offsets[i], s->length - offsets[i], &n);
    offsets[i + 1] = offsets[i] + n;
  }
  int64_t at = slice->start;
  for (size_t i = 0; i < slice->n && !r->code; i++) {
    tmpl_put_part(r, out, s, offsets[at], offsets[at + 1]);
    if (i + 1 < slice->n) at += slice->step;
  }
  struct tmpl_value v = tmpl_out_value(r, out);
  return s->markup ? tmpl_as_markup(r, v) : v;
}

static struct tmpl_value slice_list(struct tmpl_render *r, struct tmpl_value of, const struct slice *slice) {
  struct tmpl_builder b = {.items = tmpl_alloc(r, slice->n, sizeof *b.items), .capacity = slice->n};
  if (!b.items) return tmpl_missing();
  int64_t at = slice->start;
  for (size_t i = 0; i < slice->n && !r->code; i++) {
    tmpl_push(r, &b, tmpl_list_at(r, of.list, (size_t)at));
    if (i + 1 < slice->n) at += slice->step;
  }
  return tmpl_build(r, &b, of.kind);
}

struct tmpl_value tmpl_slice(struct tmpl_render *r, struct tmpl_value of, const struct tmpl_value part[3]) {
  struct slice slice;
  size_t length = 0;
  bool sliceable =
      of.kind == TMPL_STR || of.kind == TMPL_LIST || of.kind == TMPL_TUPLE || of.kind == TMPL_RANGE;
  if (of.kind == TMPL_UNDEFINED) return tmpl_fail_undefined(r, of);
  if (!sliceable) return tmpl_fail(r, TL_EINVAL, "'%s' object cannot be sliced", tmpl_type_name(of));
  if (!tmpl_length(r, of, &length) || !resolve_slice(r, part, length, &slice)) return tmpl_missing();
  if (of.kind == TMPL_STR) return slice_str(r, of.str, &slice);
  if (of.kind != TMPL_RANGE) return slice_list(r, of, &slice);
  __int128 bound[3] = {of.range->start + (__int128)of.range->step * slice.start,
                       of.range->start + (__int128)of.range->step * slice.stop,
                       (__int128)of.range->step * slice.step};
  for (int i = 0; i < 3; i++)
    if (bound[i] > INT64_MAX || bound[i] < INT64_MIN)
      return tmpl_fail(r, TL_EUNSUPPORTED, "integer too large");
  return tmpl_range_of(r, (int64_t)bound[0], (int64_t)bound[1], (int64_t)bound[2]);
}
