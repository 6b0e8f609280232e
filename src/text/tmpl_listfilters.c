/* SPDX-License-Identifier: MIT */
/* Filters on sequences: whole ones, and items chosen or mapped one by one. */
#include <string.h>

#include "tmpl_ast.h"

#define FILTER(name)                                                                 \
  static struct tmpl_value name(struct tmpl_render *r, const struct tmpl_value *arg, \
                                const struct tmpl_args *all)
#define UNUSED_ALL (void)all

static const struct tmpl_value missing;

/* --- attributes of items ---------------------------------------------------------------- */
static bool is_index(const struct tmpl_str *part) {
  for (size_t i = 0; i < part->length; i++)
    if (part->bytes[i] < '0' || part->bytes[i] > '9') return false;
  return part->length > 0 && part->length < 10;
}

static struct tmpl_value path_step(struct tmpl_render *r, struct tmpl_value of, struct tmpl_value key,
                                   struct tmpl_value otherwise) {
  of = tmpl_subscript(r, of, key);
  bool use = of.kind == TMPL_UNDEFINED && otherwise.kind != TMPL_MISSING && otherwise.kind != TMPL_NONE;
  return use ? otherwise : of;
}

struct tmpl_value tmpl_path(struct tmpl_render *r, struct tmpl_value of, struct tmpl_value path) {
  return tmpl_path_or(r, of, path, missing);
}

struct tmpl_value tmpl_path_or(struct tmpl_render *r, struct tmpl_value of, struct tmpl_value path,
                               struct tmpl_value otherwise) {
  if (path.kind == TMPL_MISSING || path.kind == TMPL_NONE) return of;
  if (path.kind != TMPL_STR) return path_step(r, of, path, otherwise);
  const struct tmpl_str *s = path.str;
  for (size_t start = 0; start <= s->length && tmpl_charge(r, 1);) {
    const char *dot = s->length > start ? memchr(s->bytes + start, '.', s->length - start) : NULL;
    size_t end = dot ? (size_t)(dot - s->bytes) : s->length;
    struct tmpl_value part = tmpl_substring(r, s, start, end);
    int64_t index = 0;
    if (r->code) return missing;
    if (is_index(part.str) && tmpl_parse_int(part.str, 10, &index)) part = tmpl_int(index);
    of = path_step(r, of, part, otherwise);
    start = end + 1;
  }
  return r->code ? missing : of;
}

struct tmpl_value tmpl_fold(struct tmpl_render *r, struct tmpl_value v, bool case_sensitive) {
  if (case_sensitive || v.kind != TMPL_STR || r->code) return v;
  return tmpl_change_case(r, v.str, TMPL_LOWER);
}

/* --- whole sequences -------------------------------------------------------------------------- */
FILTER(filter_length) {
  UNUSED_ALL;
  size_t n = 0;
  if (tmpl_length(r, arg[0], &n)) return tmpl_int((int64_t)n);
  return tmpl_fail(r, TL_EINVAL, "object of type '%s' has no len()", tmpl_type_name(arg[0]));
}

FILTER(filter_first) {
  UNUSED_ALL;
  struct tmpl_iter it;
  struct tmpl_value item;
  if (!tmpl_iter_init(r, &it, arg[0])) return missing;
  if (tmpl_iter_next(r, &it, &item)) return item;
  return r->code ? missing : tmpl_undefined_hint(r, "No first item, sequence was empty.");
}

static bool reversible(struct tmpl_render *r, struct tmpl_value v) {
  if (v.kind != TMPL_ITER && tmpl_is_iterable(v)) return true;
  tmpl_fail(r, TL_EINVAL, "'%s' object is not reversible", tmpl_type_name(v));
  return false;
}

FILTER(filter_last) {
  UNUSED_ALL;
  struct tmpl_value v = arg[0], item;
  struct tmpl_iter it;
  if (!reversible(r, v)) return missing;
  if (tmpl_truth(v)) {
    if (v.kind != TMPL_DICT && v.kind != TMPL_VIEW) return tmpl_subscript(r, v, tmpl_int(-1));
    if (!tmpl_iter_init(r, &it, v)) return missing;
    while (tmpl_iter_next(r, &it, &item)) v = item;
    return r->code ? missing : v;
  }
  return tmpl_undefined_hint(r, "No last item, sequence was empty.");
}

FILTER(filter_join) {
  UNUSED_ALL;
  struct tmpl_iter it;
  struct tmpl_value item, glue = arg[1].kind == TMPL_MISSING ? tmpl_literal(r, "") : tmpl_to_str(r, arg[1]);
  struct tmpl_out *out = tmpl_out_new(r);
  bool first = true;
  if (r->code || !tmpl_iter_init(r, &it, arg[0])) return missing;
  while (tmpl_iter_next(r, &it, &item)) {
    if (!first) tmpl_put_str(r, out, glue.str);
    first = false;
    item = tmpl_path(r, item, arg[2]);
    if (!r->code) tmpl_put_value(r, out, item);
  }
  return tmpl_out_value(r, out);
}

FILTER(filter_list) {
  UNUSED_ALL;
  struct tmpl_builder b = {0};
  tmpl_collect(r, arg[0], &b);
  return tmpl_build(r, &b, TMPL_LIST);
}

FILTER(filter_items) {
  UNUSED_ALL;
  if (arg[0].kind == TMPL_UNDEFINED) return tmpl_iter_over(r, arg[0]);
  if (arg[0].kind != TMPL_DICT) return tmpl_fail(r, TL_EINVAL, "Can only get item pairs from a mapping.");
  struct tmpl_value view = tmpl_view_of(r, arg[0].dict, TMPL_ITEMS);
  return r->code ? missing : tmpl_iter_over(r, view);
}

FILTER(filter_reverse) {
  UNUSED_ALL;
  struct tmpl_value back[3] = {missing, missing, tmpl_int(-1)};
  struct tmpl_builder b = {0}, turned = {0};
  if (arg[0].kind == TMPL_STR) return tmpl_slice(r, arg[0], back);
  tmpl_collect(r, arg[0], &b);
  for (size_t i = b.n; i > 0 && !r->code; i--) tmpl_push(r, &turned, b.items[i - 1]);
  struct tmpl_value list = tmpl_build(r, &turned, TMPL_LIST);
  return r->code || arg[0].kind == TMPL_ITER ? list : tmpl_iter_over(r, list);
}

FILTER(filter_sum) {
  UNUSED_ALL;
  struct tmpl_iter it;
  struct tmpl_value item, sum = arg[2].kind == TMPL_MISSING ? tmpl_int(0) : arg[2];
  if (sum.kind == TMPL_STR) return tmpl_fail(r, TL_EINVAL, "sum() can't sum strings");
  if (!tmpl_iter_init(r, &it, arg[0])) return missing;
  while (tmpl_iter_next(r, &it, &item)) {
    item = tmpl_path(r, item, arg[1]);
    if (!r->code) sum = tmpl_arith(r, '+', sum, item);
  }
  return r->code ? missing : sum;
}

static int64_t count_arg(struct tmpl_render *r, struct tmpl_value v) {
  if (tmpl_is_integer(v) && tmpl_integer(v) > 0) return tmpl_integer(v);
  tmpl_fail(r, TL_EINVAL, "a positive number of items is needed");
  return 1;
}

FILTER(filter_batch) {
  UNUSED_ALL;
  int64_t size = count_arg(r, arg[1]);
  struct tmpl_builder batch = {0}, batches = {0};
  struct tmpl_iter it;
  struct tmpl_value item;
  if (r->code || !tmpl_iter_init(r, &it, arg[0])) return missing;
  while (tmpl_iter_next(r, &it, &item)) {
    if ((int64_t)batch.n == size) {
      tmpl_push(r, &batches, tmpl_build(r, &batch, TMPL_LIST));
      batch = (struct tmpl_builder){0};
    }
    tmpl_push(r, &batch, item);
  }
  bool fill = arg[2].kind != TMPL_MISSING && arg[2].kind != TMPL_NONE;
  while (batch.n && fill && (int64_t)batch.n < size && !r->code) tmpl_push(r, &batch, arg[2]);
  if (batch.n) tmpl_push(r, &batches, tmpl_build(r, &batch, TMPL_LIST));
  struct tmpl_value list = tmpl_build(r, &batches, TMPL_LIST);
  return r->code ? missing : tmpl_iter_over(r, list);
}

FILTER(filter_slice) {
  UNUSED_ALL;
  size_t slices = (size_t)count_arg(r, arg[1]), at = 0;
  struct tmpl_builder items = {0}, result = {0};
  tmpl_collect(r, arg[0], &items);
  bool fill = arg[2].kind != TMPL_MISSING && arg[2].kind != TMPL_NONE;
  for (size_t i = 0; i < slices && !r->code; i++) {
    bool longer = i < items.n % slices;
    struct tmpl_builder slice = {0};
    for (size_t k = 0; k < items.n / slices + longer && !r->code; k++)
      tmpl_push(r, &slice, items.items[at++]);
    if (fill && !longer) tmpl_push(r, &slice, arg[2]);
    tmpl_push(r, &result, tmpl_build(r, &slice, TMPL_LIST));
  }
  struct tmpl_value list = tmpl_build(r, &result, TMPL_LIST);
  return r->code ? missing : tmpl_iter_over(r, list);
}

const struct tmpl_builtin tmpl_list_filters[] = {
    {"length", "", 0, filter_length},
    {"count", "", 0, filter_length},
    {"first", "", 0, filter_first},
    {"last", "", 0, filter_last},
    {"join", "d,attribute", 0, filter_join},
    {"list", "", 0, filter_list},
    {"items", "", 0, filter_items},
    {"reverse", "", 0, filter_reverse},
    {"sum", "attribute,start", 0, filter_sum},
    {"batch", "linecount,fill_with", 1, filter_batch},
    {"slice", "slices,fill_with", 1, filter_slice},
    {0},
};

/* --- item by item ------------------------------------------------------------------------------ */
static struct tmpl_args without_first(const struct tmpl_args *all, size_t n) {
  struct tmpl_args rest = *all;
  rest.items += n;
  rest.n -= n;
  return rest;
}

static struct tmpl_value named_arg(const struct tmpl_args *all, const char *name) {
  for (size_t i = 0; i < all->n_named; i++)
    if (tmpl_str_is(all->named[i].name, name)) return all->named[i].value;
  return missing;
}

/* map("filter", ...) or map(attribute="a.b", default=x) */
static struct tmpl_value map_item(struct tmpl_render *r, struct tmpl_value item, const struct tmpl_args *all,
                                  const struct tmpl_builtin *filter) {
  if (filter) {
    struct tmpl_args rest = without_first(all, 1);
    return tmpl_call_builtin(r, filter, item, &rest);
  }
  return tmpl_path_or(r, item, named_arg(all, "attribute"), named_arg(all, "default"));
}

FILTER(filter_map) {
  const struct tmpl_builtin *filter = NULL;
  struct tmpl_builder b = {0};
  struct tmpl_iter it;
  struct tmpl_value item;
  if (!tmpl_truth(arg[0])) return tmpl_iter_over(r, tmpl_build(r, &b, TMPL_LIST));
  if (all->n) {
    filter = all->items[0].kind == TMPL_STR ? tmpl_find_filter(all->items[0].str) : NULL;
    if (!filter) return tmpl_fail(r, TL_EINVAL, "map: no such filter");
  } else if (named_arg(all, "attribute").kind == TMPL_MISSING) {
    return tmpl_fail(r, TL_EINVAL, "map requires a filter argument");
  }
  if (!tmpl_iter_init(r, &it, arg[0]) || !tmpl_enter(r)) return missing;
  while (tmpl_iter_next(r, &it, &item)) tmpl_push(r, &b, map_item(r, item, all, filter));
  tmpl_leave(r);
  struct tmpl_value list = tmpl_build(r, &b, TMPL_LIST);
  return r->code ? missing : tmpl_iter_over(r, list);
}

/* Keeps the items whose test (or truth) is `wanted`; with_attribute: the first
 * argument names what of the item is tested. */
static struct tmpl_value choose(struct tmpl_render *r, const struct tmpl_value *arg,
                                const struct tmpl_args *all, bool with_attribute, bool wanted) {
  struct tmpl_builder b = {0};
  struct tmpl_iter it;
  struct tmpl_value item;
  if (!tmpl_truth(arg[0])) return tmpl_iter_over(r, tmpl_build(r, &b, TMPL_LIST));
  size_t off = with_attribute;
  if (all->n < off) return tmpl_fail(r, TL_EINVAL, "missing parameter for attribute name");
  const struct tmpl_builtin *test = NULL;
  struct tmpl_args rest = {0};
  if (all->n > off) {
    test = all->items[off].kind == TMPL_STR ? tmpl_find_test(all->items[off].str) : NULL;
    if (!test) return tmpl_fail(r, TL_EINVAL, "no such test");
    rest = without_first(all, off + 1);
  }
  if (!tmpl_iter_init(r, &it, arg[0])) return missing;
  while (tmpl_iter_next(r, &it, &item)) {
    struct tmpl_value tested = with_attribute ? tmpl_path(r, item, all->items[0]) : item;
    if (r->code) break;
    if (test) tested = tmpl_call_builtin(r, test, tested, &rest);
    if (!r->code && tmpl_truth(tested) == wanted) tmpl_push(r, &b, item);
  }
  struct tmpl_value list = tmpl_build(r, &b, TMPL_LIST);
  return r->code ? missing : tmpl_iter_over(r, list);
}

FILTER(filter_select) {
  return choose(r, arg, all, false, true);
}

FILTER(filter_reject) {
  return choose(r, arg, all, false, false);
}

FILTER(filter_selectattr) {
  return choose(r, arg, all, true, true);
}

FILTER(filter_rejectattr) {
  return choose(r, arg, all, true, false);
}

const struct tmpl_builtin tmpl_select_filters[] = {
    {"map", "*", 0, filter_map},
    {"select", "*", 0, filter_select},
    {"reject", "*", 0, filter_reject},
    {"selectattr", "*", 0, filter_selectattr},
    {"rejectattr", "*", 0, filter_rejectattr},
    {0},
};
