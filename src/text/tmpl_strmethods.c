/* SPDX-License-Identifier: MIT */
/* Methods of strings that search, split, join and pad. */
#include <string.h>

#include "tmpl_ast.h"

#define METHOD(name)                                                                 \
  static struct tmpl_value name(struct tmpl_render *r, const struct tmpl_value *arg, \
                                const struct tmpl_args *all)

static const struct tmpl_value missing;

static bool need_str(struct tmpl_render *r, struct tmpl_value v) {
  if (v.kind != TMPL_STR) tmpl_fail(r, TL_EINVAL, "must be str, not %s", tmpl_type_name(v));
  return !r->code;
}

static struct tmpl_value marked(struct tmpl_render *r, const struct tmpl_str *like, struct tmpl_value v) {
  return like->markup ? tmpl_as_markup(r, v) : v;
}

/* --- searching ------------------------------------------------------------------------- */
struct window {
  size_t from, to; /* bytes */
  bool empty;      /* start lies behind the end */
};

/* Python's optional start and end, in characters. */
static struct window window(struct tmpl_render *r, const struct tmpl_value *arg) {
  const struct tmpl_str *s = arg[0].str;
  struct window w = {0, s->length, false};
  if (arg[2].kind == TMPL_MISSING && arg[3].kind == TMPL_MISSING) return w;
  int64_t n = (int64_t)tmpl_chars(r, s), start = tmpl_int_arg(r, arg[2], 0), end = tmpl_int_arg(r, arg[3], n);
  if (start < 0) start = start + n > 0 ? start + n : 0;
  if (end < 0) end = end + n > 0 ? end + n : 0;
  if (end > n) end = n;
  w.empty = start > end;
  if (w.empty) return w;
  w.from = tmpl_offset(r, s, (size_t)start);
  w.to = tmpl_offset(r, s, (size_t)end);
  return w;
}

/* Byte offset of the first (or last) match within the window, SIZE_MAX: none. */
static size_t search(struct tmpl_render *r, const struct tmpl_value *arg, bool last) {
  if (!need_str(r, arg[1])) return SIZE_MAX;
  const struct tmpl_str *s = arg[0].str, *needle = arg[1].str;
  struct window w = window(r, arg);
  if (w.empty || needle->length > w.to - w.from || !tmpl_charge_bytes(r, needle->length)) return SIZE_MAX;
  if (last) {
    for (size_t at = w.to - needle->length + 1; at > w.from && tmpl_charge(r, 1 + needle->length / 16); at--)
      if (needle->length == 0 || memcmp(s->bytes + at - 1, needle->bytes, needle->length) == 0) return at - 1;
    return SIZE_MAX;
  }
  size_t at = tmpl_find(r, s, needle, w.from);
  return at != SIZE_MAX && at + needle->length <= w.to ? at : SIZE_MAX;
}

static struct tmpl_value found_at(struct tmpl_render *r, const struct tmpl_value *arg, bool last, bool must) {
  size_t at = search(r, arg, last);
  if (r->code) return missing;
  if (at == SIZE_MAX && must) return tmpl_fail(r, TL_EINVAL, "substring not found");
  if (at == SIZE_MAX) return tmpl_int(-1);
  tmpl_charge_bytes(r, at);
  return tmpl_int((int64_t)tmpl_count_chars(arg[0].str->bytes, at));
}

METHOD(str_find) {
  (void)all;
  return found_at(r, arg, false, false);
}

METHOD(str_rfind) {
  (void)all;
  return found_at(r, arg, true, false);
}

METHOD(str_index) {
  (void)all;
  return found_at(r, arg, false, true);
}

METHOD(str_rindex) {
  (void)all;
  return found_at(r, arg, true, true);
}

METHOD(str_count) {
  (void)all;
  if (!need_str(r, arg[1])) return missing;
  const struct tmpl_str *needle = arg[1].str;
  struct window w = window(r, arg);
  int64_t count = 0;
  if (w.empty) return tmpl_int(0);
  if (needle->length == 0) {
    tmpl_charge_bytes(r, w.to - w.from);
    return tmpl_int((int64_t)tmpl_count_chars(arg[0].str->bytes + w.from, w.to - w.from) + 1);
  }
  for (size_t at = w.from; tmpl_charge(r, 1); at += needle->length, count++) {
    at = tmpl_find(r, arg[0].str, needle, at);
    if (at == SIZE_MAX || at + needle->length > w.to) break;
  }
  return tmpl_int(count);
}

static bool ends_match(struct tmpl_render *r, const struct tmpl_value *arg, struct tmpl_value affix,
                       bool at_end) {
  const struct tmpl_str *s = arg[0].str;
  struct window w = window(r, arg);
  if (!need_str(r, affix) || w.empty || affix.str->length > w.to - w.from) return false;
  size_t n = affix.str->length;
  tmpl_charge_bytes(r, n);
  return n == 0 || memcmp(s->bytes + (at_end ? w.to - n : w.from), affix.str->bytes, n) == 0;
}

/* The affix may be a tuple of several. */
static struct tmpl_value affix_test(struct tmpl_render *r, const struct tmpl_value *arg, bool at_end) {
  bool yes = false;
  if (arg[1].kind != TMPL_TUPLE) {
    yes = ends_match(r, arg, arg[1], at_end);
    return r->code ? missing : tmpl_bool(yes);
  }
  for (size_t i = 0; i < arg[1].list->n && !yes && tmpl_charge(r, 1); i++)
    yes = ends_match(r, arg, arg[1].list->items[i], at_end);
  return r->code ? missing : tmpl_bool(yes);
}

METHOD(str_startswith) {
  (void)all;
  return affix_test(r, arg, false);
}

METHOD(str_endswith) {
  (void)all;
  return affix_test(r, arg, true);
}

METHOD(str_removeprefix) {
  (void)all;
  bool has = ends_match(r, arg, arg[1], false);
  return r->code ? missing : tmpl_substring(r, arg[0].str, has ? arg[1].str->length : 0, arg[0].str->length);
}

METHOD(str_removesuffix) {
  (void)all;
  bool has = ends_match(r, arg, arg[1], true);
  return r->code ? missing
                 : tmpl_substring(r, arg[0].str, 0, arg[0].str->length - (has ? arg[1].str->length : 0));
}

/* --- splitting ----------------------------------------------------------------------------- */
static size_t skip(const struct tmpl_str *s, size_t at, bool spaces) {
  size_t n;
  while (at < s->length && tmpl_is_space(tmpl_char(s->bytes + at, s->length - at, &n)) == spaces) at += n;
  return at;
}

static size_t skip_back(const struct tmpl_str *s, size_t at, bool spaces) {
  while (at > 0) {
    size_t start = at - 1, n;
    while (start > 0 && ((unsigned char)s->bytes[start] & 0xc0) == 0x80) start--;
    if (tmpl_is_space(tmpl_char(s->bytes + start, at - start, &n)) != spaces) break;
    at = start;
  }
  return at;
}

static void split_words(struct tmpl_render *r, const struct tmpl_str *s, int64_t most,
                        struct tmpl_builder *b) {
  tmpl_charge_bytes(r, s->length);
  for (size_t at = skip(s, 0, true); at < s->length && !r->code; most--) {
    size_t end = most == 0 ? s->length : skip(s, at, false);
    tmpl_push(r, b, tmpl_substring(r, s, at, end));
    at = skip(s, end, true);
  }
}

static void split_at(struct tmpl_render *r, const struct tmpl_str *s, const struct tmpl_str *by, int64_t most,
                     struct tmpl_builder *b) {
  size_t start = 0;
  for (; most != 0 && !r->code; most--) {
    size_t at = tmpl_find(r, s, by, start);
    if (at == SIZE_MAX) break;
    tmpl_push(r, b, tmpl_substring(r, s, start, at));
    start = at + by->length;
  }
  tmpl_push(r, b, tmpl_substring(r, s, start, s->length));
}

/* From the right, pieces come out in reverse. */
static void rsplit_at(struct tmpl_render *r, const struct tmpl_str *s, const struct tmpl_str *by,
                      int64_t most, struct tmpl_builder *b) {
  size_t end = s->length, at = end + 1;
  while (most != 0 && at > 0 && tmpl_charge(r, 1 + by->length / 16)) {
    at--;
    if (at + by->length > end || memcmp(s->bytes + at, by->bytes, by->length) != 0) continue;
    tmpl_push(r, b, tmpl_substring(r, s, at + by->length, end));
    end = at;
    most--;
  }
  tmpl_push(r, b, tmpl_substring(r, s, 0, end));
}

static void rsplit_words(struct tmpl_render *r, const struct tmpl_str *s, int64_t most,
                         struct tmpl_builder *b) {
  tmpl_charge_bytes(r, s->length);
  for (size_t end = skip_back(s, s->length, true); end > 0 && !r->code; most--) {
    size_t at = most == 0 ? 0 : skip_back(s, end, false);
    tmpl_push(r, b, tmpl_substring(r, s, at, end));
    end = most == 0 ? 0 : skip_back(s, at, true);
  }
}

static struct tmpl_value reversed(struct tmpl_render *r, const struct tmpl_builder *b) {
  for (size_t i = 0; i < b->n / 2; i++) {
    struct tmpl_value v = b->items[i];
    b->items[i] = b->items[b->n - 1 - i];
    b->items[b->n - 1 - i] = v;
  }
  return tmpl_build(r, b, TMPL_LIST);
}

static struct tmpl_value split(struct tmpl_render *r, const struct tmpl_value *arg, bool from_right) {
  const struct tmpl_str *s = arg[0].str;
  int64_t most = tmpl_int_arg(r, arg[2], -1);
  bool words = arg[1].kind == TMPL_MISSING || arg[1].kind == TMPL_NONE;
  struct tmpl_builder b = {0};
  if (!words && !need_str(r, arg[1])) return missing;
  if (!words && arg[1].str->length == 0) return tmpl_fail(r, TL_EINVAL, "empty separator");
  if (words && from_right) {
    rsplit_words(r, s, most, &b);
  } else if (words) {
    split_words(r, s, most, &b);
  } else if (from_right) {
    rsplit_at(r, s, arg[1].str, most, &b);
  } else {
    split_at(r, s, arg[1].str, most, &b);
  }
  if (r->code) return missing;
  return from_right ? reversed(r, &b) : tmpl_build(r, &b, TMPL_LIST);
}

METHOD(str_split) {
  (void)all;
  return split(r, arg, false);
}

METHOD(str_rsplit) {
  (void)all;
  return split(r, arg, true);
}

METHOD(str_splitlines) {
  (void)all;
  const struct tmpl_str *s = arg[0].str;
  struct tmpl_builder b = {0};
  size_t start = 0;
  for (size_t i = 0, n; i < s->length && tmpl_charge(r, 1);) {
    uint32_t code = tmpl_char(s->bytes + i, s->length - i, &n);
    size_t end = i;
    i += n;
    if (!tmpl_is_line_break(code)) continue;
    if (code == '\r' && i < s->length && s->bytes[i] == '\n') i++;
    tmpl_push(r, &b, tmpl_substring(r, s, start, tmpl_truth(arg[1]) ? i : end));
    start = i;
  }
  if (start < s->length) tmpl_push(r, &b, tmpl_substring(r, s, start, s->length));
  return r->code ? missing : tmpl_build(r, &b, TMPL_LIST);
}

static struct tmpl_value partition(struct tmpl_render *r, const struct tmpl_value *arg, bool last) {
  const struct tmpl_str *s = arg[0].str;
  size_t at = search(r, arg, last);
  if (r->code) return missing;
  if (arg[1].str->length == 0) return tmpl_fail(r, TL_EINVAL, "empty separator");
  bool found = at != SIZE_MAX;
  size_t from = found ? at : last ? 0 : s->length, to = found ? at + arg[1].str->length : from;
  struct tmpl_builder b = {0};
  tmpl_push(r, &b, tmpl_substring(r, s, 0, from));
  tmpl_push(r, &b, tmpl_substring(r, s, from, to));
  tmpl_push(r, &b, tmpl_substring(r, s, to, s->length));
  return r->code ? missing : tmpl_build(r, &b, TMPL_TUPLE);
}

METHOD(str_partition) {
  (void)all;
  return partition(r, arg, false);
}

METHOD(str_rpartition) {
  (void)all;
  return partition(r, arg, true);
}

/* --- making new ones --------------------------------------------------------------------------- */
METHOD(str_join) {
  (void)all;
  struct tmpl_out *out = tmpl_out_new(r);
  struct tmpl_iter it;
  struct tmpl_value item;
  bool first = true;
  if (!tmpl_iter_init(r, &it, arg[1])) return missing;
  while (tmpl_iter_next(r, &it, &item)) {
    if (!first) tmpl_put_str(r, out, arg[0].str);
    first = false;
    if (arg[0].str->markup) item = tmpl_escape(r, tmpl_to_str(r, item));
    if (need_str(r, item)) tmpl_put_str(r, out, item.str);
  }
  return marked(r, arg[0].str, tmpl_out_value(r, out));
}

static void replace_empty(struct tmpl_render *r, struct tmpl_out *out, const struct tmpl_str *s,
                          const struct tmpl_str *with, int64_t most) {
  size_t i = 0;
  for (; i < s->length && most != 0 && tmpl_charge(r, 1); most--) {
    size_t n;
    tmpl_char(s->bytes + i, s->length - i, &n);
    tmpl_put_str(r, out, with);
    tmpl_put_part(r, out, s, i, i + n);
    i += n;
  }
  tmpl_put_part(r, out, s, i, s->length);
  if (most != 0) tmpl_put_str(r, out, with);
}

METHOD(str_replace) {
  (void)all;
  const struct tmpl_str *s = arg[0].str;
  struct tmpl_value old = arg[1], with = arg[2];
  int64_t most = tmpl_int_arg(r, arg[3], -1);
  if (s->markup) with = tmpl_escape(r, with);
  if (!need_str(r, old) || !need_str(r, with)) return missing;
  struct tmpl_out *out = tmpl_out_new(r);
  size_t start = 0;
  if (old.str->length == 0) {
    replace_empty(r, out, s, with.str, most);
    return marked(r, s, tmpl_out_value(r, out));
  }
  for (; most != 0 && tmpl_charge(r, 1); most--) {
    size_t at = tmpl_find(r, s, old.str, start);
    if (at == SIZE_MAX) break;
    tmpl_put_part(r, out, s, start, at);
    tmpl_put_str(r, out, with.str);
    start = at + old.str->length;
  }
  if (start == 0) return arg[0];
  tmpl_put_part(r, out, s, start, s->length);
  return marked(r, s, tmpl_out_value(r, out));
}

/* Fills up to a width with a character; `left`: how much of it goes before. */
static struct tmpl_value pad(struct tmpl_render *r, const struct tmpl_value *arg, int side) {
  const struct tmpl_str *s = arg[0].str;
  const struct tmpl_str blank = {.bytes = " ", .length = 1, .chars = 1};
  const struct tmpl_str *fill = arg[2].kind == TMPL_STR ? arg[2].str : &blank;
  if (!tmpl_is_integer(arg[1]) || tmpl_chars(r, fill) != 1)
    return tmpl_fail(r, TL_EINVAL, "padding needs a width and one character");
  int64_t width = tmpl_integer(arg[1]), chars = (int64_t)tmpl_chars(r, s),
          room = width > chars ? width - chars : 0;
  /* Python puts the odd blank of center() on the left when the width is odd */
  int64_t left = side > 0 ? room : side < 0 ? 0 : room / 2 + (room & width & 1);
  struct tmpl_out *out = tmpl_out_new(r);
  for (int64_t i = 0; i < left && tmpl_charge(r, 1); i++) tmpl_put_str(r, out, fill);
  tmpl_put_str(r, out, s);
  for (int64_t i = left; i < room && tmpl_charge(r, 1); i++) tmpl_put_str(r, out, fill);
  return marked(r, s, tmpl_out_value(r, out));
}

METHOD(str_center) {
  (void)all;
  return pad(r, arg, 0);
}

METHOD(str_ljust) {
  (void)all;
  return pad(r, arg, -1);
}

METHOD(str_rjust) {
  (void)all;
  return pad(r, arg, 1);
}

METHOD(str_zfill) {
  (void)all;
  const struct tmpl_str *s = arg[0].str;
  if (!tmpl_is_integer(arg[1])) return tmpl_fail(r, TL_EINVAL, "zfill() needs a width");
  bool sign = s->length && (s->bytes[0] == '-' || s->bytes[0] == '+');
  int64_t room = tmpl_integer(arg[1]) - (int64_t)tmpl_chars(r, s);
  struct tmpl_out *out = tmpl_out_new(r);
  tmpl_put_part(r, out, s, 0, sign);
  for (int64_t i = 0; i < room && tmpl_charge(r, 1); i++) tmpl_put_text(r, out, "0");
  tmpl_put_part(r, out, s, sign, s->length);
  return marked(r, s, tmpl_out_value(r, out));
}

const struct tmpl_builtin tmpl_str_more_methods[] = {
    {"startswith", "prefix,start,end", 1, str_startswith},
    {"endswith", "suffix,start,end", 1, str_endswith},
    {"split", "sep,maxsplit", 0, str_split},
    {"rsplit", "sep,maxsplit", 0, str_rsplit},
    {"splitlines", "keepends", 0, str_splitlines},
    {"replace", "old,new,count", 2, str_replace},
    {"join", "iterable", 1, str_join},
    {"find", "sub,start,end", 1, str_find},
    {"rfind", "sub,start,end", 1, str_rfind},
    {"index", "sub,start,end", 1, str_index},
    {"rindex", "sub,start,end", 1, str_rindex},
    {"count", "sub,start,end", 1, str_count},
    {"removeprefix", "prefix", 1, str_removeprefix},
    {"removesuffix", "suffix", 1, str_removesuffix},
    {"partition", "sep", 1, str_partition},
    {"rpartition", "sep", 1, str_rpartition},
    {"center", "width,fillchar", 1, str_center},
    {"ljust", "width,fillchar", 1, str_ljust},
    {"rjust", "width,fillchar", 1, str_rjust},
    {"zfill", "width", 1, str_zfill},
    {"format", "*", 0, tmpl_str_format},
    {0},
};
