/* SPDX-License-Identifier: MIT */
/* The tojson filter as transformers has it: Python's json.dumps. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tmpl_ast.h"

struct dump {
  struct tmpl_render *r;
  struct tmpl_out *out;
  bool ascii, sort_keys, pretty; /* pretty: an indent was given */
  struct tmpl_value indent;      /* a string */
  struct tmpl_value item_separator, key_separator;
  unsigned level;
};

static void dump_value(struct dump *d, struct tmpl_value v);

static void put_u(struct dump *d, uint32_t code, bool untrusted) {
  char text[16];
  int n = code < 0x10000 ? snprintf(text, sizeof text, "\\u%04x", (unsigned)code)
                         : snprintf(text, sizeof text, "\\u%04x\\u%04x", (unsigned)(0xd7c0 + (code >> 10)),
                                    (unsigned)(0xdc00 | (code & 0x3ff)));
  tmpl_put(d->r, d->out, text, (size_t)n, untrusted);
}

static void put_char(struct dump *d, const struct tmpl_str *s, size_t at, size_t n, uint32_t code,
                     bool untrusted) {
  static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
  const char *simple = code && code < 0x80 ? strchr(from, (int)code) : NULL;
  if (simple) {
    char text[2] = {'\\', to[simple - from]};
    tmpl_put(d->r, d->out, text, 2, untrusted);
  } else if (code < 0x20 || (d->ascii && code >= 0x7f)) {
    put_u(d, code, untrusted);
  } else {
    tmpl_put(d->r, d->out, s->bytes + at, n, untrusted);
  }
}

/* `all`: the quotes came from the client, too. */
static void dump_str(struct dump *d, const struct tmpl_str *s) {
  bool all = s->n_spans == 1 && s->spans == &tmpl_all_untrusted;
  size_t cursor = 0;
  tmpl_put(d->r, d->out, "\"", 1, all);
  for (size_t i = 0, n; i < s->length && tmpl_charge(d->r, 1); i += n) {
    uint32_t code = tmpl_char(s->bytes + i, s->length - i, &n);
    put_char(d, s, i, n, code, tmpl_untrusted_at(s, i, &cursor));
  }
  tmpl_put(d->r, d->out, "\"", 1, all);
}

static void dump_float(struct dump *d, struct tmpl_value v) {
  char text[TMPL_FLOAT_TEXT];
  const char *name = isnan(v.real) ? "NaN" : v.real > 0 ? "Infinity" : "-Infinity";
  if (isfinite(v.real)) {
    tmpl_put(d->r, d->out, text, tmpl_float_text(v.real, text), v.untrusted);
  } else {
    tmpl_put(d->r, d->out, name, strlen(name), v.untrusted);
  }
}

static void new_line(struct dump *d, bool untrusted) {
  if (!d->pretty) return;
  tmpl_put(d->r, d->out, "\n", 1, untrusted);
  for (unsigned i = 0; i < d->level; i++)
    tmpl_put(d->r, d->out, d->indent.str->bytes, d->indent.str->length, untrusted);
}

static void between(struct dump *d, bool first, bool untrusted) {
  const struct tmpl_str *separator = d->item_separator.str;
  if (!first) tmpl_put(d->r, d->out, separator->bytes, separator->length, untrusted);
  new_line(d, untrusted);
}

static void dump_list(struct dump *d, const struct tmpl_list *list) {
  bool all = list->untrusted;
  tmpl_put(d->r, d->out, "[", 1, all);
  d->level++;
  for (size_t i = 0; i < list->n && tmpl_charge(d->r, 1); i++) {
    between(d, i == 0, all);
    dump_value(d, tmpl_list_at(d->r, list, i));
  }
  d->level--;
  if (list->n) new_line(d, all);
  tmpl_put(d->r, d->out, "]", 1, all);
}

/* Keys are strings in JSON: numbers and the like are written as if they were. */
static void dump_key(struct dump *d, struct tmpl_value key) {
  if (key.kind == TMPL_STR) {
    dump_str(d, key.str);
  } else if (tmpl_is_number(key) || key.kind == TMPL_NONE) {
    tmpl_put(d->r, d->out, "\"", 1, key.untrusted);
    dump_value(d, key);
    tmpl_put(d->r, d->out, "\"", 1, key.untrusted);
  } else {
    tmpl_fail(d->r, TL_EINVAL, "keys must be str, int, float, bool or None, not %s", tmpl_type_name(key));
  }
}

static struct tmpl_value sorted_items(struct dump *d, struct tmpl_value items) {
  const struct tmpl_str sort = {.bytes = "sort", .length = 4, .chars = 4};
  struct tmpl_value yes[] = {tmpl_bool(false), tmpl_bool(true), tmpl_int(0)};
  const struct tmpl_args args = {.items = yes, .n = 3};
  return tmpl_call_builtin(d->r, tmpl_find_filter(&sort), items, &args);
}

static void dump_dict(struct dump *d, struct tmpl_dict *dict) {
  struct tmpl_value items = tmpl_view_of(d->r, dict, TMPL_ITEMS), pair;
  struct tmpl_iter it;
  bool all = dict->untrusted, first = true;
  if (d->sort_keys && dict->n) items = sorted_items(d, items);
  tmpl_put(d->r, d->out, "{", 1, all);
  d->level++;
  if (!d->r->code) tmpl_iter_init(d->r, &it, items);
  while (!d->r->code && tmpl_iter_next(d->r, &it, &pair)) {
    between(d, first, all);
    dump_key(d, pair.list->items[0]);
    tmpl_put(d->r, d->out, d->key_separator.str->bytes, d->key_separator.str->length, all);
    dump_value(d, pair.list->items[1]);
    first = false;
  }
  d->level--;
  if (dict->n) new_line(d, all);
  tmpl_put(d->r, d->out, "}", 1, all);
}

static void dump_container(struct dump *d, struct tmpl_value v) {
  if (tmpl_enter(d->r)) {
    if (v.kind == TMPL_DICT) {
      dump_dict(d, v.dict);
    } else {
      dump_list(d, v.list);
    }
  }
  tmpl_leave(d->r);
}

static void dump_value(struct dump *d, struct tmpl_value v) {
  const char *word = v.kind == TMPL_NONE ? "null" : v.kind == TMPL_BOOL && v.boolean ? "true" : "false";
  switch (v.kind) {
    case TMPL_MISSING:
      break;
    case TMPL_NONE:
    case TMPL_BOOL:
      tmpl_put(d->r, d->out, word, strlen(word), v.untrusted);
      break;
    case TMPL_INT:
      tmpl_put_repr(d->r, d->out, v);
      break;
    case TMPL_FLOAT:
      dump_float(d, v);
      break;
    case TMPL_STR:
      dump_str(d, v.str);
      break;
    case TMPL_LIST:
    case TMPL_TUPLE:
    case TMPL_DICT:
      dump_container(d, v);
      break;
    default:
      tmpl_fail(d->r, TL_EINVAL, "Object of type %s is not JSON serializable", tmpl_type_name(v));
  }
}

/* separators=(",", ":"); the default depends on whether there is an indent. */
static void read_separators(struct dump *d, struct tmpl_value v) {
  d->item_separator = tmpl_literal(d->r, d->pretty ? "," : ", ");
  d->key_separator = tmpl_literal(d->r, ": ");
  if (v.kind == TMPL_MISSING || v.kind == TMPL_NONE || d->r->code) return;
  struct tmpl_builder pair = {0};
  tmpl_collect(d->r, v, &pair);
  if (pair.n == 2 && pair.items[0].kind == TMPL_STR && pair.items[1].kind == TMPL_STR) {
    d->item_separator = pair.items[0];
    d->key_separator = pair.items[1];
  } else {
    tmpl_fail(d->r, TL_EINVAL, "separators must be two strings");
  }
}

static void read_indent(struct dump *d, struct tmpl_value v) {
  d->indent = v;
  d->pretty = v.kind != TMPL_MISSING && v.kind != TMPL_NONE;
  if (!d->pretty || v.kind == TMPL_STR) return;
  if (!tmpl_is_integer(v)) {
    tmpl_fail(d->r, TL_EINVAL, "indent must be a string or an integer");
    return;
  }
  struct tmpl_value blank = tmpl_literal(d->r, " ");
  d->indent = tmpl_arith(d->r, '*', blank, tmpl_int(tmpl_integer(v)));
}

struct tmpl_value tmpl_filter_tojson(struct tmpl_render *r, const struct tmpl_value *arg,
                                     const struct tmpl_args *all) {
  (void)all;
  struct dump d = {
      .r = r, .out = tmpl_out_new(r), .ascii = tmpl_truth(arg[1]), .sort_keys = tmpl_truth(arg[4])};
  read_indent(&d, arg[2]);
  read_separators(&d, arg[3]);
  if (r->code) return tmpl_missing();
  dump_value(&d, arg[0]);
  return tmpl_out_value(r, d.out);
}
