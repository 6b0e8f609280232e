/* SPDX-License-Identifier: MIT */
/* Calls: arguments to parameters, and the functions that templates may call. */
#include <string.h>
#include <time.h>

#include "tmpl_ast.h"

static const struct tmpl_value missing;

const struct tmpl_builtin *tmpl_find_builtin(const struct tmpl_builtin *table, const struct tmpl_str *name) {
  for (; table->name; table++)
    if (tmpl_str_is(name, table->name)) return table;
  return NULL;
}

/* The position of a name in "a,b,c", -1 if it is not there. */
static int param_index(const char *params, const struct tmpl_str *name) {
  for (int i = 0; *params; i++) {
    size_t n = strcspn(params, ",");
    if (n == name->length && memcmp(params, name->bytes, n) == 0) return i;
    params += n + (params[n] == ',');
  }
  return -1;
}

static size_t count_params(const char *params) {
  size_t n = *params != 0;
  for (; *params; params++) n += *params == ',';
  return n;
}

struct tmpl_value tmpl_call_builtin(struct tmpl_render *r, const struct tmpl_builtin *b,
                                    struct tmpl_value subject, const struct tmpl_args *args) {
  struct tmpl_value bound[1 + TMPL_MAX_PARAMS] = {subject};
  if (!tmpl_charge(r, 1)) return missing;
  if (strcmp(b->params, "*") == 0) return b->call(r, bound, args);
  size_t n = count_params(b->params);
  if (args->n > n) return tmpl_fail(r, TL_EINVAL, "%s() takes at most %zu argument(s)", b->name, n);
  for (size_t i = 0; i < args->n; i++) bound[1 + i] = args->items[i];
  for (size_t i = 0; i < args->n_named; i++) {
    const struct tmpl_str *name = args->named[i].name;
    int at = param_index(b->params, name);
    if (at < 0 || bound[1 + at].kind != TMPL_MISSING)
      return tmpl_fail(r, TL_EINVAL, "%s() got an unexpected argument '%.*s'", b->name,
                       name->length < 80 ? (int)name->length : 80, name->bytes);
    bound[1 + at] = args->named[i].value;
  }
  for (size_t i = 0; i < b->required; i++)
    if (bound[1 + i].kind == TMPL_MISSING) return tmpl_fail(r, TL_EINVAL, "%s() lacks an argument", b->name);
  return b->call(r, bound, args);
}

struct tmpl_value tmpl_call(struct tmpl_render *r, struct tmpl_value callee, const struct tmpl_args *args) {
  switch (callee.kind) {
    case TMPL_MACRO:
      return tmpl_call_macro(r, callee.macro, args);
    case TMPL_FUNCTION:
      return tmpl_call_builtin(r, callee.function, missing, args);
    case TMPL_METHOD:
      return tmpl_call_builtin(r, callee.method->builtin, callee.method->self, args);
    case TMPL_LOOP:
      return tmpl_call_loop(r, callee.loop, args);
    case TMPL_UNDEFINED:
      return tmpl_fail_undefined(r, callee);
    default:
      return tmpl_fail(r, TL_EINVAL, "'%s' object is not callable", tmpl_type_name(callee));
  }
}

int64_t tmpl_int_arg(struct tmpl_render *r, struct tmpl_value v, int64_t otherwise) {
  if (v.kind == TMPL_MISSING || v.kind == TMPL_NONE) return otherwise;
  if (!tmpl_is_integer(v))
    tmpl_fail(r, TL_EINVAL, "'%s' object cannot be interpreted as an integer", tmpl_type_name(v));
  return tmpl_integer(v);
}

/* --- functions ------------------------------------------------------------------------------ */
static struct tmpl_value call_range(struct tmpl_render *r, const struct tmpl_value *arg,
                                    const struct tmpl_args *all) {
  for (size_t i = 1; i <= 3; i++)
    if (arg[i].kind == TMPL_UNDEFINED) {
      return tmpl_fail_undefined(r, arg[i]);
    } else if (arg[i].kind != TMPL_MISSING && !tmpl_is_integer(arg[i])) {
      return tmpl_fail(r, TL_EINVAL, "'%s' object cannot be interpreted as an integer",
                       tmpl_type_name(arg[i]));
    }
  if (all->n == 1) return tmpl_range_of(r, 0, tmpl_integer(arg[1]), 1);
  return tmpl_range_of(r, tmpl_integer(arg[1]), tmpl_integer(arg[2]), all->n == 3 ? tmpl_integer(arg[3]) : 1);
}

/* dict(mapping or pairs, key=value, ...) */
static void fill_dict(struct tmpl_render *r, struct tmpl_dict *dict, const struct tmpl_args *all) {
  struct tmpl_iter it;
  struct tmpl_value pair;
  if (all->n > 1) tmpl_fail(r, TL_EINVAL, "dict expected at most 1 argument");
  if (all->n == 1 && !r->code) {
    struct tmpl_value from = all->items[0];
    if (from.kind == TMPL_UNDEFINED) {
      tmpl_fail_undefined(r, from);
      return;
    }
    if (from.kind == TMPL_DICT || from.kind == TMPL_NAMESPACE) from = tmpl_view_of(r, from.dict, TMPL_ITEMS);
    if (r->code || !tmpl_iter_init(r, &it, from)) return;
    while (tmpl_iter_next(r, &it, &pair)) {
      struct tmpl_builder two = {0};
      tmpl_collect(r, pair, &two);
      if (!r->code && two.n != 2) tmpl_fail(r, TL_EINVAL, "dictionary update sequence needs pairs");
      if (!r->code) tmpl_dict_set(r, dict, two.items[0], two.items[1]);
    }
  }
  for (size_t i = 0; i < all->n_named && !r->code; i++)
    tmpl_dict_set(r, dict, (struct tmpl_value){.kind = TMPL_STR, .str = all->named[i].name},
                  all->named[i].value);
}

static struct tmpl_value call_dict(struct tmpl_render *r, const struct tmpl_value *arg,
                                   const struct tmpl_args *all) {
  (void)arg;
  struct tmpl_value dict = tmpl_dict_new(r);
  if (!r->code) fill_dict(r, dict.dict, all);
  return dict;
}

static struct tmpl_value call_namespace(struct tmpl_render *r, const struct tmpl_value *arg,
                                        const struct tmpl_args *all) {
  struct tmpl_value ns = call_dict(r, arg, all);
  if (r->code) return missing;
  for (size_t i = 0; i < ns.dict->n && tmpl_charge(r, 1); i++) {
    struct tmpl_value key = ns.dict->entries[i].key;
    if (key.kind == TMPL_STR && key.str->length && key.str->bytes[0] == '_')
      return tmpl_fail(r, TL_EINVAL, "cannot store underscore-prefixed attributes on a namespace");
  }
  ns.kind = TMPL_NAMESPACE;
  return ns;
}

/* The message is what the template's author wants the caller to read: no line
 * is put before it. */
static struct tmpl_value call_raise(struct tmpl_render *r, const struct tmpl_value *arg,
                                    const struct tmpl_args *all) {
  (void)all;
  struct tmpl_value text = tmpl_to_str(r, arg[1]);
  if (r->code || text.kind != TMPL_STR) return missing;
  size_t n = text.str->length < TL_ERROR_MESSAGE ? text.str->length : TL_ERROR_MESSAGE - 1;
  while (n > 0 && n < text.str->length && ((unsigned char)text.str->bytes[n] & 0xc0) == 0x80) n--;
  r->code = tl_error_set(r->err, TL_EINVAL, NULL, "%.*s", (int)n, text.str->bytes);
  return missing;
}

/* Python's own directives of a time without a zone: %f is the microseconds, %z and %Z are
 * nothing. False: the format is longer than `room`. */
static bool python_format(const struct tmpl_str *from, char *to, size_t room) {
  size_t n = 0;
  for (size_t i = 0; i < from->length; i++) {
    char c = from->bytes[i], next = i + 1 < from->length ? from->bytes[i + 1] : 0;
    if (n + 7 > room) return false;
    if (c != '%' || !next) {
      to[n++] = c;
      continue;
    }
    i++;
    if (next == 'f') {
      memcpy(to + n, "000000", 6);
      n += 6;
    } else if (next != 'z' && next != 'Z') {
      to[n++] = c;
      to[n++] = next;
    }
  }
  to[n] = 0;
  return true;
}

static struct tmpl_value call_strftime(struct tmpl_render *r, const struct tmpl_value *arg,
                                       const struct tmpl_args *all) {
  (void)all;
  char text[1024], format[256];
  struct tm now;
  time_t seconds = r->now_s ? (time_t)r->now_s : time(NULL);
  if (arg[1].kind != TMPL_STR || !python_format(arg[1].str, format, sizeof format))
    return tmpl_fail(r, TL_EINVAL, "strftime_now() needs a short format");
  localtime_r(&seconds, &now);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* the result is bounded, strftime reads only `now` */
  size_t n = strftime(text, sizeof text, format, &now);
#pragma GCC diagnostic pop
  char *bytes = tmpl_alloc(r, n + 1, 1);
  if (!bytes) return missing;
  memcpy(bytes, text, n);
  return tmpl_borrow(r, bytes, n, arg[1].str->n_spans > 0);
}

static const struct tmpl_builtin functions[] = {
    {"range", "start,stop,step", 1, call_range},  {"dict", "*", 0, call_dict},
    {"namespace", "*", 0, call_namespace},        {"raise_exception", "message", 1, call_raise},
    {"strftime_now", "format", 1, call_strftime}, {0},
};

const struct tmpl_builtin *tmpl_find_function(const struct tmpl_str *name) {
  return tmpl_find_builtin(functions, name);
}

/* --- tables of filters ------------------------------------------------------------------------ */
const struct tmpl_builtin *tmpl_find_filter(const struct tmpl_str *name) {
  static const struct tmpl_builtin *const tables[] = {tmpl_text_filters, tmpl_list_filters,
                                                      tmpl_select_filters, tmpl_order_filters};
  for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
    const struct tmpl_builtin *found = tmpl_find_builtin(tables[i], name);
    if (found) return found;
  }
  return NULL;
}
