/* SPDX-License-Identifier: MIT */
/* Lists, dicts, ranges and iteration over anything. */
#include <string.h>

#include "tmpl_ast.h"

void tmpl_push(struct tmpl_render *r, struct tmpl_builder *b, struct tmpl_value v) {
  if (!tmpl_charge(r, 1)) return;
  if (b->n == b->capacity) {
    size_t capacity = b->capacity ? b->capacity * 2 : 4;
    struct tmpl_value *items = tmpl_alloc(r, capacity, sizeof *items);
    if (!items) return;
    if (b->n) memcpy(items, b->items, b->n * sizeof *items);
    b->items = items;
    b->capacity = capacity;
  }
  b->items[b->n++] = v;
}

struct tmpl_value tmpl_build(struct tmpl_render *r, const struct tmpl_builder *b,
                             enum tmpl_kind list_or_tuple) {
  struct tmpl_list *list = tmpl_alloc(r, 1, sizeof *list);
  if (!list) return tmpl_missing();
  list->items = b->items;
  list->n = b->n;
  return (struct tmpl_value){.kind = list_or_tuple, .list = list};
}

struct tmpl_value tmpl_pair(struct tmpl_render *r, struct tmpl_value a, struct tmpl_value b) {
  struct tmpl_builder pair = {.items = tmpl_alloc(r, 2, sizeof a), .capacity = 2};
  if (!pair.items) return tmpl_missing();
  tmpl_push(r, &pair, a);
  tmpl_push(r, &pair, b);
  return tmpl_build(r, &pair, TMPL_TUPLE);
}

struct tmpl_value tmpl_list_at(struct tmpl_render *r, const struct tmpl_list *list, size_t i) {
  if (list->json) return tmpl_of_json(r, json_array_get(list->json, i), list->untrusted);
  return list->items[i];
}

/* --- dicts ----------------------------------------------------------------------------- */
struct tmpl_value tmpl_dict_new(struct tmpl_render *r) {
  struct tmpl_dict *dict = tmpl_alloc(r, 1, sizeof *dict);
  return dict ? (struct tmpl_value){.kind = TMPL_DICT, .dict = dict} : tmpl_missing();
}

static struct tmpl_entry *find_entry(struct tmpl_render *r, const struct tmpl_dict *dict,
                                     struct tmpl_value key) {
  for (size_t i = 0; i < dict->n && tmpl_charge(r, 1); i++)
    if (tmpl_equal(r, dict->entries[i].key, key)) return &dict->entries[i];
  return NULL;
}

static bool is_hashable(struct tmpl_render *r, struct tmpl_value key) {
  if (key.kind != TMPL_LIST && key.kind != TMPL_DICT) return true;
  tmpl_fail(r, TL_EINVAL, "unhashable type: '%s'", tmpl_type_name(key));
  return false;
}

bool tmpl_dict_get(struct tmpl_render *r, const struct tmpl_dict *dict, struct tmpl_value key,
                   struct tmpl_value *ret) {
  if (!is_hashable(r, key)) return false;
  if (dict->json) {
    if (key.kind != TMPL_STR || !tmpl_charge_bytes(r, key.str->length)) return false;
    json_t *json = json_object_getn(dict->json, key.str->bytes, key.str->length);
    if (!json) return false;
    *ret = tmpl_of_json(r, json, dict->untrusted);
    return true;
  }
  const struct tmpl_entry *entry = find_entry(r, dict, key);
  if (entry) *ret = entry->value;
  return entry != NULL;
}

void tmpl_dict_set(struct tmpl_render *r, struct tmpl_dict *dict, struct tmpl_value key,
                   struct tmpl_value value) {
  if (!is_hashable(r, key)) return;
  struct tmpl_entry *entry = find_entry(r, dict, key);
  if (r->code) return;
  if (entry) {
    entry->value = value;
    return;
  }
  if (dict->n == dict->capacity) {
    size_t capacity = dict->capacity ? dict->capacity * 2 : 4;
    struct tmpl_entry *entries = tmpl_alloc(r, capacity, sizeof *entries);
    if (!entries || !tmpl_charge(r, dict->n)) return;
    if (dict->n) memcpy(entries, dict->entries, dict->n * sizeof *entries);
    dict->entries = entries;
    dict->capacity = capacity;
  }
  dict->entries[dict->n++] = (struct tmpl_entry){key, value};
}

struct tmpl_value tmpl_view_of(struct tmpl_render *r, struct tmpl_dict *dict, enum tmpl_view_kind what) {
  struct tmpl_view *view = tmpl_alloc(r, 1, sizeof *view);
  if (!view) return tmpl_missing();
  *view = (struct tmpl_view){dict, what};
  return (struct tmpl_value){.kind = TMPL_VIEW, .view = view};
}

/* --- ranges ------------------------------------------------------------------------------ */
/* jinja2's sandbox has the same limit. */
#define MAX_RANGE 100000

struct tmpl_value tmpl_range_of(struct tmpl_render *r, int64_t start, int64_t stop, int64_t step) {
  if (step == 0) return tmpl_fail(r, TL_EINVAL, "range() arg 3 must not be zero");
  __int128 span = step > 0 ? (__int128)stop - start : (__int128)start - stop;
  __int128 stride = step > 0 ? step : -(__int128)step, n = span > 0 ? (span + stride - 1) / stride : 0;
  if (n > MAX_RANGE) return tmpl_fail(r, TL_ELIMIT, "range of more than %d items", MAX_RANGE);
  struct tmpl_range *range = tmpl_alloc(r, 1, sizeof *range);
  if (!range) return tmpl_missing();
  *range = (struct tmpl_range){start, stop, step, (size_t)n};
  return (struct tmpl_value){.kind = TMPL_RANGE, .range = range};
}

/* --- iteration ------------------------------------------------------------------------------ */
bool tmpl_is_iterable(struct tmpl_value v) {
  switch (v.kind) {
    case TMPL_UNDEFINED:
    case TMPL_STR:
    case TMPL_LIST:
    case TMPL_TUPLE:
    case TMPL_DICT:
    case TMPL_RANGE:
    case TMPL_VIEW:
    case TMPL_ITER:
      return true;
    default:
      return false;
  }
}

bool tmpl_iter_init(struct tmpl_render *r, struct tmpl_iter *it, struct tmpl_value v) {
  *it = (struct tmpl_iter){.of = v};
  if (!tmpl_is_iterable(v)) {
    tmpl_fail(r, TL_EINVAL, "'%s' object is not iterable", tmpl_type_name(v));
    return false;
  }
  json_t *json = v.kind == TMPL_DICT ? v.dict->json : v.kind == TMPL_VIEW ? v.view->dict->json : NULL;
  if (json) it->json_at = json_object_iter(json);
  return !r->code;
}

static bool next_entry(struct tmpl_render *r, struct tmpl_iter *it, const struct tmpl_dict *dict,
                       enum tmpl_view_kind what, struct tmpl_value *ret) {
  if (it->index >= dict->n) return false;
  struct tmpl_value key = {0}, value = {0};
  if (dict->json) {
    if (!it->json_at) return false;
    if (what != TMPL_VALUES)
      key = tmpl_borrow(r, json_object_iter_key(it->json_at), json_object_iter_key_len(it->json_at),
                        dict->untrusted);
    if (what != TMPL_KEYS) value = tmpl_of_json(r, json_object_iter_value(it->json_at), dict->untrusted);
    it->json_at = json_object_iter_next(dict->json, it->json_at);
  } else {
    key = dict->entries[it->index].key;
    value = dict->entries[it->index].value;
  }
  it->index++;
  *ret = what == TMPL_KEYS ? key : what == TMPL_VALUES ? value : tmpl_pair(r, key, value);
  return true;
}

static bool next_char(struct tmpl_render *r, struct tmpl_iter *it, struct tmpl_value *ret) {
  const struct tmpl_str *s = it->of.str;
  size_t n;
  if (it->offset >= s->length) return false;
  tmpl_char(s->bytes + it->offset, s->length - it->offset, &n);
  *ret = tmpl_substring(r, s, it->offset, it->offset + n);
  it->offset += n;
  *ret = tmpl_unmarked(r, *ret); /* markup's characters are plain */
  return true;
}

bool tmpl_iter_next(struct tmpl_render *r, struct tmpl_iter *it, struct tmpl_value *ret) {
  if (!tmpl_charge(r, 1)) return false;
  struct tmpl_value of = it->of;
  bool more = false;
  switch (of.kind) {
    case TMPL_STR:
      more = next_char(r, it, ret);
      break;
    case TMPL_LIST:
    case TMPL_TUPLE:
      more = it->index < of.list->n;
      if (more) *ret = tmpl_list_at(r, of.list, it->index++);
      break;
    case TMPL_RANGE:
      more = it->index < of.range->n;
      if (more) *ret = tmpl_int((int64_t)(of.range->start + (__int128)of.range->step * (int64_t)it->index++));
      break;
    case TMPL_DICT:
      more = next_entry(r, it, of.dict, TMPL_KEYS, ret);
      break;
    case TMPL_VIEW:
      more = next_entry(r, it, of.view->dict, of.view->what, ret);
      break;
    case TMPL_ITER:
      more = tmpl_iter_next(r, of.iter, ret);
      break;
    default:
      break;
  }
  return more && !r->code;
}

struct tmpl_value tmpl_iter_over(struct tmpl_render *r, struct tmpl_value v) {
  struct tmpl_iter *iter = tmpl_alloc(r, 1, sizeof *iter);
  if (!iter || !tmpl_iter_init(r, iter, v)) return tmpl_missing();
  return (struct tmpl_value){.kind = TMPL_ITER, .iter = iter};
}

void tmpl_collect(struct tmpl_render *r, struct tmpl_value v, struct tmpl_builder *b) {
  struct tmpl_iter it;
  struct tmpl_value item;
  if (!tmpl_iter_init(r, &it, v)) return;
  while (tmpl_iter_next(r, &it, &item)) tmpl_push(r, b, item);
}
