/* SPDX-License-Identifier: MIT */
/* Filters that compare items: sort, min, unique, groupby and their like. */
#include <string.h>

#include "tmpl_ast.h"

#define FILTER(name)                                                                 \
  static struct tmpl_value name(struct tmpl_render *r, const struct tmpl_value *arg, \
                                const struct tmpl_args *all)
#define UNUSED_ALL (void)all

static const struct tmpl_value missing;

struct keyed {
  struct tmpl_value key, item;
};

struct keyed_list {
  struct keyed *items;
  size_t n;
};

/* The key of one item: a list of what one path, or several with commas between
 * them, lead to. Keys that are equal need no order: lists ask for equality first. */
static struct tmpl_value sort_key(struct tmpl_render *r, struct tmpl_value item, struct tmpl_value attribute,
                                  bool case_sensitive) {
  struct tmpl_builder keys = {0};
  if (attribute.kind != TMPL_STR) {
    tmpl_push(r, &keys, tmpl_fold(r, tmpl_path(r, item, attribute), case_sensitive));
    return tmpl_build(r, &keys, TMPL_LIST);
  }
  const struct tmpl_str *s = attribute.str;
  for (size_t start = 0; start <= s->length && !r->code;) {
    const char *comma = s->length > start ? memchr(s->bytes + start, ',', s->length - start) : NULL;
    size_t end = comma ? (size_t)(comma - s->bytes) : s->length;
    struct tmpl_value path = tmpl_substring(r, s, start, end);
    if (!r->code) tmpl_push(r, &keys, tmpl_fold(r, tmpl_path(r, item, path), case_sensitive));
    start = end + 1;
  }
  return tmpl_build(r, &keys, TMPL_LIST);
}

static struct keyed_list with_keys(struct tmpl_render *r, struct tmpl_value v, struct tmpl_value attribute,
                                   bool case_sensitive, bool several) {
  struct tmpl_builder b = {0};
  tmpl_collect(r, v, &b);
  struct keyed_list list = {.items = tmpl_alloc(r, b.n, sizeof *list.items)};
  for (; list.items && list.n < b.n && tmpl_charge(r, 1); list.n++) {
    struct tmpl_value item = b.items[list.n];
    struct tmpl_value key = several ? sort_key(r, item, attribute, case_sensitive)
                                    : tmpl_fold(r, tmpl_path(r, item, attribute), case_sensitive);
    list.items[list.n] = (struct keyed){key, item};
  }
  if (r->code) list.n = 0;
  return list;
}

/* Merges two sorted halves; equal items keep their order, in either direction. */
static void merge(struct tmpl_render *r, struct keyed *items, size_t middle, size_t n, struct keyed *room,
                  bool down) {
  memcpy(room, items, n * sizeof *items);
  size_t left = 0, right = middle;
  for (size_t i = 0; i < n && tmpl_charge(r, 1); i++) {
    bool take_right = left == middle;
    if (left < middle && right < n)
      take_right = down ? tmpl_less(r, room[left].key, room[right].key)
                        : tmpl_less(r, room[right].key, room[left].key);
    items[i] = room[take_right ? right++ : left++];
  }
}

static void sort(struct tmpl_render *r, struct keyed_list list, bool down) {
  struct keyed *room = tmpl_alloc(r, list.n, sizeof *room);
  for (size_t width = 1; room && width < list.n; width *= 2)
    for (size_t at = 0; at + width < list.n && !r->code; at += 2 * width) {
      size_t n = list.n - at < 2 * width ? list.n - at : 2 * width;
      merge(r, list.items + at, width, n, room, down);
    }
}

static struct tmpl_value items_of(struct tmpl_render *r, struct keyed_list list) {
  struct tmpl_builder b = {0};
  for (size_t i = 0; i < list.n && !r->code; i++) tmpl_push(r, &b, list.items[i].item);
  return r->code ? missing : tmpl_build(r, &b, TMPL_LIST);
}

FILTER(filter_sort) {
  UNUSED_ALL;
  struct keyed_list list = with_keys(r, arg[0], arg[3], tmpl_truth(arg[2]), true);
  sort(r, list, tmpl_truth(arg[1]));
  return items_of(r, list);
}

FILTER(filter_dictsort) {
  UNUSED_ALL;
  struct tmpl_value dict = arg[0];
  bool by_value = arg[2].kind == TMPL_STR && tmpl_str_is(arg[2].str, "value");
  if (arg[2].kind != TMPL_MISSING && !by_value &&
      !(arg[2].kind == TMPL_STR && tmpl_str_is(arg[2].str, "key")))
    return tmpl_fail(r, TL_EINVAL, "You can only sort by either \"key\" or \"value\"");
  if (dict.kind == TMPL_UNDEFINED) return tmpl_fail_undefined(r, dict);
  if (dict.kind != TMPL_DICT)
    return tmpl_fail(r, TL_EINVAL, "'%s' object has no items", tmpl_type_name(dict));
  struct tmpl_value view = tmpl_view_of(r, dict.dict, TMPL_ITEMS);
  if (r->code) return missing;
  struct keyed_list list = with_keys(r, view, tmpl_int(by_value), tmpl_truth(arg[1]), false);
  sort(r, list, tmpl_truth(arg[3]));
  return items_of(r, list);
}

static struct tmpl_value extreme(struct tmpl_render *r, const struct tmpl_value *arg, bool largest) {
  struct keyed_list list = with_keys(r, arg[0], arg[2], tmpl_truth(arg[1]), false);
  if (r->code) return missing;
  if (list.n == 0) return tmpl_undefined_hint(r, "No aggregated item, sequence was empty.");
  struct keyed best = list.items[0];
  for (size_t i = 1; i < list.n && tmpl_charge(r, 1); i++) {
    struct keyed *at = &list.items[i];
    if (largest ? tmpl_less(r, best.key, at->key) : tmpl_less(r, at->key, best.key)) best = *at;
  }
  return r->code ? missing : best.item;
}

FILTER(filter_min) {
  UNUSED_ALL;
  return extreme(r, arg, false);
}

FILTER(filter_max) {
  UNUSED_ALL;
  return extreme(r, arg, true);
}

FILTER(filter_unique) {
  UNUSED_ALL;
  struct keyed_list list = with_keys(r, arg[0], arg[2], tmpl_truth(arg[1]), false);
  struct tmpl_value seen = tmpl_dict_new(r);
  struct tmpl_builder b = {0};
  for (size_t i = 0; i < list.n && !r->code; i++) {
    size_t before = seen.dict->n;
    tmpl_dict_set(r, seen.dict, list.items[i].key, missing);
    if (seen.dict->n > before) tmpl_push(r, &b, list.items[i].item);
  }
  struct tmpl_value unique = tmpl_build(r, &b, TMPL_LIST);
  return r->code ? missing : tmpl_iter_over(r, unique);
}

static struct tmpl_value group_key(struct tmpl_render *r, const struct tmpl_value *arg,
                                   struct tmpl_value item) {
  return tmpl_path_or(r, item, arg[1], arg[2]);
}

FILTER(filter_groupby) {
  UNUSED_ALL;
  bool case_sensitive = tmpl_truth(arg[3]);
  struct keyed_list list = with_keys(r, arg[0], missing, true, false);
  for (size_t i = 0; i < list.n && !r->code; i++)
    list.items[i].key = tmpl_fold(r, group_key(r, arg, list.items[i].item), case_sensitive);
  if (!r->code) sort(r, list, false);
  struct tmpl_builder groups = {0};
  for (size_t i = 0; i < list.n && !r->code;) {
    struct tmpl_builder members = {0};
    size_t first = i;
    while (i < list.n && !r->code && tmpl_equal(r, list.items[first].key, list.items[i].key))
      tmpl_push(r, &members, list.items[i++].item);
    if (i == first) i++; /* NaN equals nothing */
    struct tmpl_value group =
        tmpl_pair(r, group_key(r, arg, list.items[first].item), tmpl_build(r, &members, TMPL_LIST));
    if (r->code) break;
    group.list->group = true;
    tmpl_push(r, &groups, group);
  }
  return tmpl_build(r, &groups, TMPL_LIST);
}

const struct tmpl_builtin tmpl_order_filters[] = {
    {"sort", "reverse,case_sensitive,attribute", 0, filter_sort},
    {"dictsort", "case_sensitive,by,reverse", 0, filter_dictsort},
    {"min", "case_sensitive,attribute", 0, filter_min},
    {"max", "case_sensitive,attribute", 0, filter_max},
    {"unique", "case_sensitive,attribute", 0, filter_unique},
    {"groupby", "attribute,default,case_sensitive", 1, filter_groupby},
    {0},
};
