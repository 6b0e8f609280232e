/* SPDX-License-Identifier: MIT */
/* Chat templates: tokens, nodes, and the parser that makes them. Nodes live in
 * the template's arena and never change after tl_template_compile. */
#ifndef TEXT_TMPL_AST_H
#define TEXT_TMPL_AST_H

#include "tmpl_private.h"

/* Deepest nesting of source, and highest tree: what bounds the C stack. */
#define TMPL_MAX_NESTING 200

enum tmpl_token_kind {
  TMPL_TOK_EOF,
  TMPL_TOK_DATA,
  TMPL_TOK_VARIABLE_BEGIN,
  TMPL_TOK_VARIABLE_END,
  TMPL_TOK_BLOCK_BEGIN,
  TMPL_TOK_BLOCK_END,
  TMPL_TOK_NAME,
  TMPL_TOK_STRING,
  TMPL_TOK_INTEGER,
  TMPL_TOK_FLOAT,
  TMPL_TOK_OPERATOR,
};

struct tmpl_token {
  enum tmpl_token_kind kind;
  int op; /* a character, or TMPL_OP2 of two */
  uint32_t line;
  const char *text; /* name, data, or a string's contents without escapes */
  size_t length;
  int64_t integer;
  double real;
};

struct tmpl_lexer {
  struct tl_arena *arena;
  const char *source; /* newlines are all \n, the last one removed */
  size_t length, at;
  uint32_t line;
  enum { TMPL_LEX_ROOT, TMPL_LEX_VARIABLE, TMPL_LEX_BLOCK } mode;
  bool line_starting; /* the last thing read ended with a newline */
  unsigned n_brackets;
  char brackets[TMPL_MAX_NESTING]; /* the closing ones that are due */
  struct tmpl_token queue[2];      /* found together with the token before */
  unsigned n_queue;
  int code; /* sticky */
  struct tl_error *err;
};

/* Normalizes the source into the arena. */
int tmpl_lex_init(struct tmpl_lexer *lexer, struct tl_arena *arena, const char *source, size_t length,
                  struct tl_error *err);
/* The next token; EOF for ever after the end or a failure. */
struct tmpl_token tmpl_lex_next(struct tmpl_lexer *lexer);
/* Strings and numbers inside tags (tmpl_literal.c): true if one begins here. */
bool tmpl_lex_string(struct tmpl_lexer *lexer, struct tmpl_token *ret);
bool tmpl_lex_number(struct tmpl_lexer *lexer, struct tmpl_token *ret);
int tmpl_lex_fail(struct tmpl_lexer *lexer, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

enum tmpl_node_kind {
  /* expressions: printed when they stand in a body */
  TMPL_N_CONST,
  TMPL_N_NAME,
  TMPL_N_LIST,
  TMPL_N_TUPLE,
  TMPL_N_DICT,
  TMPL_N_CONCAT,
  TMPL_N_ATTRIBUTE,
  TMPL_N_SUBSCRIPT,
  TMPL_N_SLICE, /* only as the key of a subscript */
  TMPL_N_ARITH,
  TMPL_N_AND,
  TMPL_N_OR,
  TMPL_N_NOT,
  TMPL_N_NEGATE,
  TMPL_N_PLUS,
  TMPL_N_COMPARE,
  TMPL_N_COND,
  TMPL_N_FILTER,
  TMPL_N_TEST,
  TMPL_N_CALL,
  TMPL_N_LAST_EXPRESSION = TMPL_N_CALL,
  /* statements */
  TMPL_N_DATA,
  TMPL_N_FOR,
  TMPL_N_IF,
  TMPL_N_SET,
  TMPL_N_SET_BLOCK,
  TMPL_N_WITH,
  TMPL_N_MACRO,
  TMPL_N_CALL_BLOCK,
  TMPL_N_FILTER_BLOCK,
  TMPL_N_GENERATION,
  TMPL_N_BREAK,
  TMPL_N_CONTINUE,
  /* targets of set */
  TMPL_N_NS_MEMBER,
};

struct tmpl_nodes {
  struct tmpl_node **items;
  size_t n, capacity;
};

struct tmpl_named_node {
  const struct tmpl_str *name;
  struct tmpl_node *value;
};

struct tmpl_call_args {
  struct tmpl_nodes items;
  struct tmpl_named_node *named;
  size_t n_named, named_capacity;
  struct tmpl_node *star, *star_star; /* or NULL */
};

struct tmpl_param {
  const struct tmpl_str *name;
  struct tmpl_node *otherwise; /* default, or NULL */
};

struct tmpl_macro_def {
  const struct tmpl_str *name;
  struct tmpl_param *params;
  size_t n_params, capacity;
  struct tmpl_nodes body;
  bool uses_caller, uses_varargs, uses_kwargs;
};

struct tmpl_branch {
  struct tmpl_node *test; /* NULL: else */
  struct tmpl_nodes body;
};

struct tmpl_node {
  enum tmpl_node_kind kind;
  uint32_t line;
  unsigned height; /* of the expression tree */
  union {
    struct tmpl_value constant;  /* CONST, DATA */
    const struct tmpl_str *name; /* NAME */
    struct tmpl_nodes items;     /* LIST, TUPLE, CONCAT; DICT: key, value, key, value, ... */
    struct {
      struct tmpl_node *of;
      const struct tmpl_str *name;
    } attribute; /* also NS_MEMBER */
    struct {
      struct tmpl_node *of, *key;
    } subscript;
    struct tmpl_node *slice[3]; /* start, stop, step; NULL: not given */
    struct {
      int op;
      struct tmpl_node *left, *right;
    } binary;                /* ARITH, AND, OR */
    struct tmpl_node *unary; /* NOT, NEGATE, PLUS */
    struct {
      struct tmpl_nodes operands; /* one more than ops */
      int *ops;                   /* of a lexer operator, 'i' for in, 'n' for not in */
    } compare;
    struct {
      struct tmpl_node *test, *yes, *no; /* no: may be NULL */
    } cond;
    struct {
      struct tmpl_node *of; /* NULL in filter blocks: the block's text */
      const struct tmpl_str *name;
      const struct tmpl_builtin *builtin; /* filter or test; NULL: unknown, fails when it is reached */
      struct tmpl_call_args args;
    } apply; /* FILTER, TEST, CALL */
    struct {
      struct tmpl_node *target, *over, *filter;
      struct tmpl_nodes body, otherwise;
      bool recursive;
    } loop;
    struct {
      struct tmpl_branch *branches;
      size_t n, capacity;
    } cases; /* IF */
    struct {
      struct tmpl_node *target, *value; /* SET_BLOCK: value is a filter chain or NULL */
      struct tmpl_nodes body;
    } set; /* SET, SET_BLOCK, FILTER_BLOCK (no target), GENERATION (body only) */
    struct {
      struct tmpl_nodes targets, values, body;
    } with;
    struct tmpl_macro_def *macro;
    struct {
      struct tmpl_node *call;
      struct tmpl_macro_def *macro;
    } call_block;
  };
};

#define TMPL_NAME_BUCKETS 1024

struct tmpl_interned {
  struct tmpl_str str; /* first: what the rest of the code sees */
  struct tmpl_interned *next;
  struct tmpl_interned *next_read; /* of tl_template.reads */
  bool is_read;                    /* a variable of that name is read */
};

struct tl_template {
  struct tl_arena arena;
  struct tmpl_nodes body;
  struct tmpl_interned *reads; /* names of the variables that are read */
  const struct tmpl_str *loop, *caller, *varargs, *kwargs; /* names the evaluator needs */
};

struct tmpl_parser {
  struct tl_template *tmpl;
  struct tmpl_lexer lexer;
  struct tmpl_token token, ahead;
  struct tmpl_interned **names;    /* (TMPL_NAME_BUCKETS) */
  unsigned depth, loops, branches; /* branches: if statements around, where unknown filters are no error */
  const struct tmpl_str *unknown;  /* a filter or test that is not known, NULL: none so far */
  uint32_t unknown_line;
  bool uses_caller, uses_varargs, uses_kwargs; /* of the macro that is being read */
  int code;                                    /* sticky */
  struct tl_error *err;
};

/* --- tmpl_parse.c ------------------------------------------------------------------ */
int tmpl_parse(struct tmpl_parser *p);
void tmpl_parse_fail(struct tmpl_parser *p, uint32_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void *tmpl_parse_alloc(struct tmpl_parser *p, size_t count, size_t size);
struct tmpl_node *tmpl_node_new(struct tmpl_parser *p, enum tmpl_node_kind kind, uint32_t line);
/* Sets the height from the children; fails when the tree is too high. NULL-safe. */
struct tmpl_node *tmpl_node_over(struct tmpl_parser *p, struct tmpl_node *node,
                                 const struct tmpl_node *child);
void tmpl_nodes_push(struct tmpl_parser *p, struct tmpl_nodes *nodes, struct tmpl_node *node);
/* Room for one more element of an array that doubles in the arena. */
void *tmpl_parse_grow(struct tmpl_parser *p, void *items, size_t n, size_t *capacity, size_t size);
const struct tmpl_str *tmpl_intern(struct tmpl_parser *p, const char *text, size_t length);
/* A variable is read here (nothing for other nodes). Returns node. */
struct tmpl_node *tmpl_mark_read(struct tmpl_parser *p, struct tmpl_node *node);
void tmpl_advance(struct tmpl_parser *p);
bool tmpl_at_op(const struct tmpl_parser *p, int op);
bool tmpl_at_name(const struct tmpl_parser *p, const char *name);
/* Consumes it if it is there. */
bool tmpl_skip_op(struct tmpl_parser *p, int op);
bool tmpl_skip_name(struct tmpl_parser *p, const char *name);
/* Fails if it is not there. */
void tmpl_expect_op(struct tmpl_parser *p, int op);
const struct tmpl_str *tmpl_expect_name(struct tmpl_parser *p);
void tmpl_expect_kind(struct tmpl_parser *p, enum tmpl_token_kind kind);
#define TMPL_TOKEN_TEXT 64
/* The token as a person would name it. */
const char *tmpl_describe(const struct tmpl_token *token, char ret[TMPL_TOKEN_TEXT]);
/* One nesting level more; false and failed when that is too many. Leave in either case. */
bool tmpl_parse_enter(struct tmpl_parser *p);
void tmpl_parse_leave(struct tmpl_parser *p);

/* --- tmpl_parse_expr.c, tmpl_parse_postfix.c; NULL after a failure ------------------------- */
struct tmpl_node *tmpl_parse_expression(struct tmpl_parser *p, bool with_cond);
enum tmpl_tuple {
  TMPL_TUPLE_EXPR,
  TMPL_TUPLE_NO_COND,
  TMPL_TUPLE_PARENTHESES,
  TMPL_TUPLE_TARGET,
  TMPL_TUPLE_NS_TARGET
};
/* One expression, or a tuple of several; `end` is a name that ends it, or NULL. */
struct tmpl_node *tmpl_parse_tuple(struct tmpl_parser *p, enum tmpl_tuple how, const char *end);
struct tmpl_node *tmpl_parse_primary(struct tmpl_parser *p, bool with_namespace);
struct tmpl_node *tmpl_parse_postfix(struct tmpl_parser *p, struct tmpl_node *node);
struct tmpl_node *tmpl_parse_filter_expr(struct tmpl_parser *p, struct tmpl_node *node);
/* A chain of filters; `inline_first`: the first one comes without its "|". */
struct tmpl_node *tmpl_parse_filters(struct tmpl_parser *p, struct tmpl_node *node, bool inline_first);

/* --- evaluation ------------------------------------------------------------------------------ */
enum tmpl_flow { TMPL_NEXT, TMPL_BREAK, TMPL_CONTINUE };

/* A for loop that is running; the template sees it as `loop`. */
struct tmpl_loop {
  const struct tmpl_node *node;
  struct tmpl_scope *outer;
  struct tmpl_iter items;
  bool filtered;                            /* items pass through the loop's condition */
  int64_t index0;                           /* -1 before the first */
  struct tmpl_value before, current, after; /* after: MISSING unless it was looked at */
  bool at_end;                              /* looked ahead, nothing came */
  bool has_length;
  size_t length;
  unsigned depth0;
  struct tmpl_value changed; /* what loop.changed saw last, or MISSING */
};

/* tmpl_eval.c */
enum tmpl_flow tmpl_run(struct tmpl_render *r, const struct tmpl_nodes *body);
struct tmpl_value tmpl_run_to_value(struct tmpl_render *r, const struct tmpl_nodes *body,
                                    enum tmpl_flow *ret_flow);
/* tmpl_loop.c */
enum tmpl_flow tmpl_run_for(struct tmpl_render *r, const struct tmpl_node *node);
struct tmpl_value tmpl_call_loop(struct tmpl_render *r, struct tmpl_loop *loop, const struct tmpl_args *args);
/* tmpl_scope.c */
struct tmpl_scope *tmpl_scope_new(struct tmpl_render *r, struct tmpl_scope *parent);
void tmpl_scope_set(struct tmpl_render *r, const struct tmpl_str *name, struct tmpl_value value);
struct tmpl_value tmpl_lookup(struct tmpl_render *r, const struct tmpl_str *name);
void tmpl_assign(struct tmpl_render *r, const struct tmpl_node *target, struct tmpl_value value);
struct tmpl_value tmpl_macro_new(struct tmpl_render *r, const struct tmpl_macro_def *def);
struct tmpl_value tmpl_call_macro(struct tmpl_render *r, const struct tmpl_macro *macro,
                                  const struct tmpl_args *args);
/* tmpl_expr.c */
struct tmpl_value tmpl_eval(struct tmpl_render *r, const struct tmpl_node *node);
void tmpl_eval_args(struct tmpl_render *r, const struct tmpl_call_args *call, struct tmpl_args *ret);
/* A chain of filters whose innermost takes `input`. */
struct tmpl_value tmpl_eval_filters(struct tmpl_render *r, const struct tmpl_node *node,
                                    struct tmpl_value input);

#endif
