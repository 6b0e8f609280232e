/* SPDX-License-Identifier: MIT */
/* Chat templates: the values that a render works with.
 *
 *   source --tmpl_lex--> tokens --tmpl_parse--> nodes (tmpl_ast.h), immutable
 *   nodes + JSON --tmpl_eval, tmpl_expr--> text, in a struct tmpl_render
 *
 * A render owns one arena: no value is freed before the render ends, so values
 * are passed by copy and refer to one another freely.
 *
 * Errors stick: the first failure sets render->code and fills the error; from
 * then on tmpl_charge() is false, allocations give NULL and functions return
 * TMPL_MISSING. Whoever loops charges for every turn, so every loop ends.
 *
 * Provenance: a string knows which of its bytes came from the client (spans).
 * Numbers, None and booleans carry one flag. Everything that makes strings
 * goes through struct tmpl_out or tmpl_substring(), which keep the spans. */
#ifndef TEXT_TMPL_PRIVATE_H
#define TEXT_TMPL_PRIVATE_H

#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenlane/base/arena.h"
#include "tokenlane/base/error.h"
#include "tokenlane/text.h"

enum tmpl_kind {
  TMPL_MISSING, /* no value: an argument that was not given, or after a failure */
  TMPL_UNDEFINED,
  TMPL_NONE,
  TMPL_BOOL,
  TMPL_INT,
  TMPL_FLOAT,
  TMPL_STR,
  TMPL_LIST,
  TMPL_TUPLE,
  TMPL_DICT,
  TMPL_RANGE,
  TMPL_VIEW, /* dict.keys(), .values(), .items() */
  TMPL_ITER, /* a generator or iterator: yields each item once */
  TMPL_NAMESPACE,
  TMPL_LOOP,
  TMPL_MACRO,
  TMPL_FUNCTION,
  TMPL_METHOD,
};

struct tmpl_value {
  enum tmpl_kind kind;
  bool untrusted; /* numbers, booleans, None: came from the client */
  union {
    bool boolean;
    int64_t integer;
    double real;
    const struct tmpl_str *str;
    struct tmpl_list *list; /* LIST, TUPLE */
    struct tmpl_dict *dict; /* DICT, NAMESPACE */
    struct tmpl_range *range;
    struct tmpl_view *view;
    struct tmpl_iter *iter;
    struct tmpl_loop *loop;
    struct tmpl_macro *macro;
    struct tmpl_method *method;
    const struct tmpl_builtin *function;
    const struct tmpl_undefined *undefined;
  };
};

#define TMPL_UNCOUNTED SIZE_MAX

/* Immutable text, UTF-8. Constants of a template are shared by threads: their
 * `chars` is counted at compile time. */
struct tmpl_str {
  const char *bytes;
  size_t length;
  size_t chars;                /* code points, or TMPL_UNCOUNTED */
  const struct tl_span *spans; /* untrusted runs, ascending; the last may reach past length */
  size_t n_spans;
  struct tmpl_out *owner; /* the buffer whose first bytes these are, or NULL */
  bool markup;            /* made by |safe or |escape: + escapes the other side */
};

/* Either items or a JSON array, whose elements are wrapped when they are read. */
struct tmpl_list {
  struct tmpl_value *items;
  size_t n;
  json_t *json;
  bool untrusted; /* json came from the client */
  bool group;     /* a tuple with .grouper and .list */
};

struct tmpl_entry {
  struct tmpl_value key, value;
};

/* Either entries or a JSON object. */
struct tmpl_dict {
  struct tmpl_entry *entries;
  size_t n, capacity;
  json_t *json;
  bool untrusted;
};

struct tmpl_range {
  int64_t start, stop, step;
  size_t n;
};

enum tmpl_view_kind { TMPL_KEYS, TMPL_VALUES, TMPL_ITEMS };

struct tmpl_view {
  struct tmpl_dict *dict;
  enum tmpl_view_kind what;
};

struct tmpl_iter {
  struct tmpl_value of;
  size_t index, offset; /* offset: bytes, in a string */
  void *json_at;        /* jansson's iterator, in a JSON object */
};

struct tmpl_undefined {
  const char *hint;          /* the whole message, or NULL: made of the rest */
  struct tmpl_value of, key; /* `of` has no member `key`; MISSING: no variable has that name */
};

struct tmpl_method {
  struct tmpl_value self;
  const struct tmpl_builtin *builtin;
};

struct tmpl_macro {
  const struct tmpl_macro_def *def;
  struct tmpl_scope *scope; /* where it was defined */
};

struct tmpl_named {
  const struct tmpl_str *name;
  struct tmpl_value value;
};

struct tmpl_args {
  struct tmpl_value *items;
  size_t n;
  struct tmpl_named *named;
  size_t n_named;
};

#define TMPL_MAX_PARAMS 6

struct tmpl_render;
typedef struct tmpl_value (*tmpl_builtin_fn)(struct tmpl_render *r, const struct tmpl_value *arg,
                                             const struct tmpl_args *all);

/* A filter, test, method or function. arg[0] is what it is applied to (nothing
 * for functions), arg[1..] are the parameters in order, MISSING if not given;
 * `all` has them as they were written. */
struct tmpl_builtin {
  const char *name;
  const char *params; /* "a,b,c"; "*": any, only `all` is filled */
  unsigned required;  /* how many of them must be given */
  tmpl_builtin_fn call;
};

/* Growing text with provenance; memory from the render's arena. */
struct tmpl_out {
  char *bytes;
  size_t length, capacity;
  struct tl_span *spans; /* ascending, not touching */
  size_t n_spans, span_capacity;
};

struct tmpl_variable {
  const struct tmpl_str *name; /* interned: compared by address */
  struct tmpl_value value;
};

struct tmpl_scope {
  struct tmpl_scope *parent;
  struct tmpl_variable *variables;
  size_t n, capacity;
  bool captured; /* a macro refers to it: it may not be reused */
};

struct tmpl_render {
  struct tl_arena arena;
  const struct tl_template *tmpl;
  json_t *trusted, *untrusted; /* the variables; borrowed */
  uint64_t fuel;
  size_t max_output_bytes;
  unsigned depth, max_depth;
  uint32_t line; /* of the node in work */
  int64_t now_s; /* what strftime_now() takes for the time; 0: the clock */
  struct tmpl_scope *scope;
  struct tmpl_out *out;
  int code; /* the first failure, sticky */
  struct tl_error *err;
};

/* --- failing and paying (tmpl_render.c) ------------------------------------------ */
/* "line N: ..." in valid UTF-8; returns code. */
int tmpl_error_at(struct tl_error *err, int code, uint32_t line, const char *format, va_list args)
    __attribute__((format(printf, 4, 0)));
/* Fails with "line N: ...", unless it has failed before. Returns MISSING. */
struct tmpl_value tmpl_fail(struct tmpl_render *r, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Takes n steps of fuel; false when the render has failed. */
bool tmpl_charge(struct tmpl_render *r, uint64_t n);
/* The price of handling so many bytes. */
bool tmpl_charge_bytes(struct tmpl_render *r, size_t bytes);
/* Zeroed; NULL (and failed) over the limit. */
void *tmpl_alloc(struct tmpl_render *r, size_t count, size_t size);
/* One level deeper; false when that is too deep. tmpl_leave() follows in either case. */
bool tmpl_enter(struct tmpl_render *r);
void tmpl_leave(struct tmpl_render *r);

/* --- characters (tmpl_char.c) -------------------------------------------------------- */
/* The character at text (left >= 1); an ill-formed byte is a U+FFFD of one byte. */
uint32_t tmpl_char(const char *text, size_t left, size_t *ret_length);
size_t tmpl_count_chars(const char *text, size_t length);
bool tmpl_is_space(uint32_t code);      /* as Python's str.isspace */
bool tmpl_is_line_break(uint32_t code); /* as Python's str.splitlines */
bool tmpl_is_printable(uint32_t code);
bool tmpl_is_word(uint32_t code); /* \w */
bool tmpl_is_cased(uint32_t code);
enum tmpl_case { TMPL_LOWER, TMPL_UPPER, TMPL_TITLE, TMPL_FOLD };
/* Full case mapping of one character, at most 3; returns how many. */
size_t tmpl_map_case(uint32_t code, enum tmpl_case to, uint32_t ret[3]);
/* Whether the capital sigma at text[at] ends a word of text[0, length). */
bool tmpl_final_sigma(const char *text, size_t length, size_t at);

/* --- strings (tmpl_str.c) ------------------------------------------------------------- */
extern const struct tl_span tmpl_all_untrusted;
struct tmpl_value tmpl_borrow(struct tmpl_render *r, const char *bytes, size_t length, bool untrusted);
struct tmpl_value tmpl_literal(struct tmpl_render *r, const char *text);
struct tmpl_value tmpl_substring(struct tmpl_render *r, const struct tmpl_str *s, size_t from, size_t to);
size_t tmpl_chars(struct tmpl_render *r, const struct tmpl_str *s);
/* Byte offset of a character; the length when there are fewer. */
size_t tmpl_offset(struct tmpl_render *r, const struct tmpl_str *s, size_t index);
/* Whether byte `at` is untrusted; *cursor starts at 0 and `at` never goes back. */
bool tmpl_untrusted_at(const struct tmpl_str *s, size_t at, size_t *cursor);
bool tmpl_str_is(const struct tmpl_str *s, const char *text);
/* Where needle is in s at or after `from`; SIZE_MAX: nowhere. */
size_t tmpl_find(struct tmpl_render *r, const struct tmpl_str *s, const struct tmpl_str *needle, size_t from);
int tmpl_str_compare(const struct tmpl_str *a, const struct tmpl_str *b);

struct tmpl_out *tmpl_out_new(struct tmpl_render *r);
void tmpl_put(struct tmpl_render *r, struct tmpl_out *out, const char *bytes, size_t length, bool untrusted);
void tmpl_put_text(struct tmpl_render *r, struct tmpl_out *out, const char *text);
void tmpl_put_char(struct tmpl_render *r, struct tmpl_out *out, uint32_t code, bool untrusted);
void tmpl_put_part(struct tmpl_render *r, struct tmpl_out *out, const struct tmpl_str *s, size_t from,
                   size_t to);
void tmpl_put_str(struct tmpl_render *r, struct tmpl_out *out, const struct tmpl_str *s);
/* All of it as a value; more may be appended later, the value stays as it is. */
struct tmpl_value tmpl_out_value(struct tmpl_render *r, struct tmpl_out *out);
struct tmpl_value tmpl_concat(struct tmpl_render *r, const struct tmpl_str *a, const struct tmpl_str *b);
struct tmpl_value tmpl_as_markup(struct tmpl_render *r, struct tmpl_value str);
/* str(markup): plain text. */
struct tmpl_value tmpl_unmarked(struct tmpl_render *r, struct tmpl_value str);
struct tmpl_value tmpl_change_case(struct tmpl_render *r, const struct tmpl_str *s, enum tmpl_case to);
struct tmpl_value tmpl_capitalize(struct tmpl_render *r, const struct tmpl_str *s);
/* Escapes HTML's five characters; markup is returned as it is. */
struct tmpl_value tmpl_escape(struct tmpl_render *r, struct tmpl_value str);

/* --- values (tmpl_value.c) -------------------------------------------------------------- */
static inline struct tmpl_value tmpl_missing(void) {
  return (struct tmpl_value){.kind = TMPL_MISSING};
}
static inline struct tmpl_value tmpl_none(void) {
  return (struct tmpl_value){.kind = TMPL_NONE};
}
static inline struct tmpl_value tmpl_bool(bool b) {
  return (struct tmpl_value){.kind = TMPL_BOOL, .boolean = b};
}
static inline struct tmpl_value tmpl_int(int64_t i) {
  return (struct tmpl_value){.kind = TMPL_INT, .integer = i};
}
static inline struct tmpl_value tmpl_float(double d) {
  return (struct tmpl_value){.kind = TMPL_FLOAT, .real = d};
}
static inline bool tmpl_is_number(struct tmpl_value v) {
  return v.kind == TMPL_INT || v.kind == TMPL_FLOAT || v.kind == TMPL_BOOL;
}
/* Python's int, which bool is one of. */
static inline bool tmpl_is_integer(struct tmpl_value v) {
  return v.kind == TMPL_INT || v.kind == TMPL_BOOL;
}
int64_t tmpl_integer(struct tmpl_value v);
double tmpl_real(struct tmpl_value v);
struct tmpl_value tmpl_of_json(struct tmpl_render *r, json_t *json, bool untrusted);
const char *tmpl_type_name(struct tmpl_value v);
bool tmpl_truth(struct tmpl_value v);
bool tmpl_same(struct tmpl_value a, struct tmpl_value b); /* Python's `is` */
bool tmpl_equal(struct tmpl_render *r, struct tmpl_value a, struct tmpl_value b);
/* a < b; fails when the types cannot be ordered. */
bool tmpl_less(struct tmpl_render *r, struct tmpl_value a, struct tmpl_value b);
bool tmpl_contains(struct tmpl_render *r, struct tmpl_value item, struct tmpl_value in);
/* len(v); false when it has none. */
bool tmpl_length(struct tmpl_render *r, struct tmpl_value v, size_t *ret);
/* Undefined that fails with `hint` when it is used. */
struct tmpl_value tmpl_undefined_hint(struct tmpl_render *r, const char *hint);
/* Undefined because `of` has no member `key`. */
struct tmpl_value tmpl_undefined_member(struct tmpl_render *r, struct tmpl_value of, struct tmpl_value key);
/* Fails with what the undefined value says. */
struct tmpl_value tmpl_fail_undefined(struct tmpl_render *r, struct tmpl_value undefined);

/* --- containers (tmpl_container.c) ---------------------------------------------------- */
struct tmpl_builder {
  struct tmpl_value *items;
  size_t n, capacity;
};
void tmpl_push(struct tmpl_render *r, struct tmpl_builder *b, struct tmpl_value v);
struct tmpl_value tmpl_build(struct tmpl_render *r, const struct tmpl_builder *b,
                             enum tmpl_kind list_or_tuple);
struct tmpl_value tmpl_pair(struct tmpl_render *r, struct tmpl_value a, struct tmpl_value b);
struct tmpl_value tmpl_list_at(struct tmpl_render *r, const struct tmpl_list *list, size_t i);
struct tmpl_value tmpl_dict_new(struct tmpl_render *r);
bool tmpl_dict_get(struct tmpl_render *r, const struct tmpl_dict *dict, struct tmpl_value key,
                   struct tmpl_value *ret);
void tmpl_dict_set(struct tmpl_render *r, struct tmpl_dict *dict, struct tmpl_value key,
                   struct tmpl_value value);
struct tmpl_value tmpl_view_of(struct tmpl_render *r, struct tmpl_dict *dict, enum tmpl_view_kind what);
struct tmpl_value tmpl_range_of(struct tmpl_render *r, int64_t start, int64_t stop, int64_t step);
bool tmpl_is_iterable(struct tmpl_value v);
/* Fails when v cannot be iterated over. An ITER is consumed by its copies too. */
bool tmpl_iter_init(struct tmpl_render *r, struct tmpl_iter *it, struct tmpl_value v);
/* False at the end or after a failure. */
bool tmpl_iter_next(struct tmpl_render *r, struct tmpl_iter *it, struct tmpl_value *ret);
/* A value that yields the items of v once. */
struct tmpl_value tmpl_iter_over(struct tmpl_render *r, struct tmpl_value v);
/* list(v) into a builder. */
void tmpl_collect(struct tmpl_render *r, struct tmpl_value v, struct tmpl_builder *b);

/* --- members (tmpl_member.c) ------------------------------------------------------------ */
struct tmpl_value tmpl_attribute(struct tmpl_render *r, struct tmpl_value of, const struct tmpl_str *name);
struct tmpl_value tmpl_subscript(struct tmpl_render *r, struct tmpl_value of, struct tmpl_value key);
/* of[start:stop:step]; MISSING or None: not given. */
struct tmpl_value tmpl_slice(struct tmpl_render *r, struct tmpl_value of, const struct tmpl_value part[3]);
/* A method of v, or NULL; *ret_unsafe: Python has one, the sandbox forbids it. */
const struct tmpl_builtin *tmpl_find_method(struct tmpl_value v, const struct tmpl_str *name,
                                            bool *ret_unsafe);
/* What the template reads as loop.name; MISSING if there is no such thing. */
struct tmpl_value tmpl_loop_attribute(struct tmpl_render *r, struct tmpl_value loop,
                                      const struct tmpl_str *name);
bool tmpl_loop_length(struct tmpl_render *r, struct tmpl_loop *loop, size_t *ret);

/* --- printing (tmpl_print.c, tmpl_json.c, tmpl_format.c) -------------------------------- */
void tmpl_put_value(struct tmpl_render *r, struct tmpl_out *out, struct tmpl_value v); /* str(v) */
void tmpl_put_repr(struct tmpl_render *r, struct tmpl_out *out, struct tmpl_value v);
/* v itself when it is a string, else str(v). */
struct tmpl_value tmpl_to_str(struct tmpl_render *r, struct tmpl_value v);
#define TMPL_FLOAT_TEXT 40
/* repr(d); returns its length. */
size_t tmpl_float_text(double d, char ret[TMPL_FLOAT_TEXT]);
struct tmpl_value tmpl_filter_tojson(struct tmpl_render *r, const struct tmpl_value *arg,
                                     const struct tmpl_args *all);
/* format % args, with mapping keys looked up in `named` when that is a dict. */
struct tmpl_value tmpl_percent(struct tmpl_render *r, const struct tmpl_str *format,
                               const struct tmpl_value *items, size_t n, struct tmpl_value named);
/* The method: "...".format(...) (tmpl_strformat.c). */
struct tmpl_value tmpl_str_format(struct tmpl_render *r, const struct tmpl_value *arg, const struct tmpl_args *all);

/* --- arithmetic (tmpl_arith.c) ------------------------------------------------------------ */
/* op: '+', '-', '*', '/', '%', TMPL_OP2('/', '/'), TMPL_OP2('*', '*'). */
struct tmpl_value tmpl_arith(struct tmpl_render *r, int op, struct tmpl_value a, struct tmpl_value b);
struct tmpl_value tmpl_negate(struct tmpl_render *r, struct tmpl_value v, bool minus);
#define TMPL_OP2(a, b) ((a) << 8 | (b))

/* --- calls and tables ----------------------------------------------------------------------- */
/* NULL: no such thing. */
const struct tmpl_builtin *tmpl_find_filter(const struct tmpl_str *name);
const struct tmpl_builtin *tmpl_find_test(const struct tmpl_str *name);
const struct tmpl_builtin *tmpl_find_function(const struct tmpl_str *name);
extern const struct tmpl_builtin tmpl_str_methods[], tmpl_str_more_methods[], tmpl_dict_methods[],
    tmpl_list_methods[], tmpl_float_methods[], tmpl_loop_methods[];
extern const struct tmpl_builtin tmpl_text_filters[], tmpl_list_filters[], tmpl_select_filters[],
    tmpl_order_filters[];
/* The entry of a table that ends with a NULL name. */
const struct tmpl_builtin *tmpl_find_builtin(const struct tmpl_builtin *table, const struct tmpl_str *name);
struct tmpl_value tmpl_call_builtin(struct tmpl_render *r, const struct tmpl_builtin *b,
                                    struct tmpl_value subject, const struct tmpl_args *args);
struct tmpl_value tmpl_call(struct tmpl_render *r, struct tmpl_value callee, const struct tmpl_args *args);
/* An optional integer argument: `otherwise` for MISSING and None, fails for anything else. */
int64_t tmpl_int_arg(struct tmpl_render *r, struct tmpl_value v, int64_t otherwise);
/* Looks up a dotted path ("a.b.0") or an index as the filters' attribute argument does. */
struct tmpl_value tmpl_path(struct tmpl_render *r, struct tmpl_value of, struct tmpl_value path);
/* `otherwise` (MISSING or None: nothing) takes the place of what is undefined, at every step. */
struct tmpl_value tmpl_path_or(struct tmpl_render *r, struct tmpl_value of, struct tmpl_value path,
                               struct tmpl_value otherwise);
/* Strings in lower case unless case_sensitive. */
struct tmpl_value tmpl_fold(struct tmpl_render *r, struct tmpl_value v, bool case_sensitive);
/* int(text, base) and float(text) as Python parses; false: not a number. */
bool tmpl_parse_int(const struct tmpl_str *s, int base, int64_t *ret);
bool tmpl_parse_float(const struct tmpl_str *s, double *ret);

#endif
