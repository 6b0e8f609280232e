/* SPDX-License-Identifier: MIT */
/* Literals, tuples, and what follows a value: .x [x] (x) |x and "is x". */
#include <string.h>

#include "tmpl_ast.h"

static struct tmpl_node *constant(struct tmpl_parser *p, struct tmpl_value value, uint32_t line) {
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_CONST, line);
  if (node) node->constant = value;
  return node;
}

static struct tmpl_node *string_constant(struct tmpl_parser *p, const char *bytes, size_t length,
                                         uint32_t line) {
  struct tmpl_str *str = tmpl_parse_alloc(p, 1, sizeof *str);
  if (!str) return NULL;
  *str = (struct tmpl_str){.bytes = bytes, .length = length, .chars = tmpl_count_chars(bytes, length)};
  return constant(p, (struct tmpl_value){.kind = TMPL_STR, .str = str}, line);
}

/* Strings that stand side by side are one. */
static struct tmpl_node *parse_string(struct tmpl_parser *p) {
  uint32_t line = p->token.line;
  const char *bytes = p->token.text;
  size_t length = p->token.length, capacity = 0;
  tmpl_advance(p);
  char *joined = NULL;
  while (p->token.kind == TMPL_TOK_STRING) {
    size_t more = p->token.length;
    if (length + more > capacity) {
      capacity = (length + more) * 2;
      joined = tmpl_parse_alloc(p, capacity, 1);
      if (!joined) return NULL;
      memcpy(joined, bytes, length);
      bytes = joined;
    }
    if (joined) memcpy(joined + length, p->token.text, more);
    length += more;
    tmpl_advance(p);
  }
  return string_constant(p, bytes, length, line);
}

static struct tmpl_node *parse_name(struct tmpl_parser *p, bool with_namespace) {
  static const char *const words[] = {"true", "True", "false", "False", "none", "None"};
  uint32_t line = p->token.line;
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (tmpl_skip_name(p, words[i])) return constant(p, i < 4 ? tmpl_bool(i < 2) : tmpl_none(), line);
  p->uses_caller |= tmpl_at_name(p, "caller");
  p->uses_varargs |= tmpl_at_name(p, "varargs");
  p->uses_kwargs |= tmpl_at_name(p, "kwargs");
  const struct tmpl_str *name = tmpl_expect_name(p);
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_NAME, line);
  if (!node) return NULL;
  node->name = name;
  if (!with_namespace || !tmpl_skip_op(p, '.')) return node;
  struct tmpl_node *member = tmpl_node_new(p, TMPL_N_NS_MEMBER, line);
  if (!member) return NULL;
  member->attribute.of = node;
  member->attribute.name = tmpl_expect_name(p);
  return member;
}

/* The items between brackets; '{': keys and values in turn. */
static struct tmpl_node *parse_display(struct tmpl_parser *p, enum tmpl_node_kind kind, int close) {
  struct tmpl_node *node = tmpl_node_new(p, kind, p->token.line);
  tmpl_advance(p);
  if (!node) return NULL;
  while (!p->code && !tmpl_at_op(p, close)) {
    if (node->items.n) tmpl_expect_op(p, ',');
    if (tmpl_at_op(p, close)) break;
    struct tmpl_node *item = tmpl_parse_expression(p, true);
    tmpl_nodes_push(p, &node->items, item);
    tmpl_node_over(p, node, item);
    if (kind != TMPL_N_DICT) continue;
    tmpl_expect_op(p, ':');
    item = tmpl_parse_expression(p, true);
    tmpl_nodes_push(p, &node->items, item);
    tmpl_node_over(p, node, item);
  }
  tmpl_expect_op(p, close);
  return node;
}

struct tmpl_node *tmpl_parse_primary(struct tmpl_parser *p, bool with_namespace) {
  uint32_t line = p->token.line;
  struct tmpl_value number =
      p->token.kind == TMPL_TOK_FLOAT ? tmpl_float(p->token.real) : tmpl_int(p->token.integer);
  char got[TMPL_TOKEN_TEXT];
  if (p->token.kind == TMPL_TOK_NAME) return parse_name(p, with_namespace);
  if (p->token.kind == TMPL_TOK_STRING) return parse_string(p);
  if (p->token.kind == TMPL_TOK_INTEGER || p->token.kind == TMPL_TOK_FLOAT) {
    tmpl_advance(p);
    return constant(p, number, line);
  }
  if (tmpl_at_op(p, '[')) return parse_display(p, TMPL_N_LIST, ']');
  if (tmpl_at_op(p, '{')) return parse_display(p, TMPL_N_DICT, '}');
  if (tmpl_skip_op(p, '(')) {
    struct tmpl_node *node = tmpl_parse_tuple(p, TMPL_TUPLE_PARENTHESES, NULL);
    tmpl_expect_op(p, ')');
    return node;
  }
  tmpl_parse_fail(p, line, "expected an expression, got %s", tmpl_describe(&p->token, got));
  return NULL;
}

static bool at_tuple_end(const struct tmpl_parser *p, const char *end) {
  return p->token.kind == TMPL_TOK_VARIABLE_END || p->token.kind == TMPL_TOK_BLOCK_END ||
         tmpl_at_op(p, ')') || (end && tmpl_at_name(p, end));
}

/* Only names, tuples of names and, in set, members of namespaces take a value. */
static void check_target(struct tmpl_parser *p, const struct tmpl_node *node) {
  if (!node || node->kind == TMPL_N_NAME || node->kind == TMPL_N_NS_MEMBER) return;
  if (node->kind != TMPL_N_TUPLE) tmpl_parse_fail(p, node->line, "cannot assign to this expression");
  for (size_t i = 0; node->kind == TMPL_N_TUPLE && i < node->items.n; i++)
    check_target(p, node->items.items[i]);
}

struct tmpl_node *tmpl_parse_tuple(struct tmpl_parser *p, enum tmpl_tuple how, const char *end) {
  bool is_target = how == TMPL_TUPLE_TARGET || how == TMPL_TUPLE_NS_TARGET, is_tuple = false;
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_TUPLE, p->token.line);
  if (!node || !tmpl_parse_enter(p)) goto leave;
  while (!p->code) {
    if (node->items.n) tmpl_expect_op(p, ',');
    if (at_tuple_end(p, end)) break;
    struct tmpl_node *item = is_target ? tmpl_parse_primary(p, how == TMPL_TUPLE_NS_TARGET)
                                       : tmpl_parse_expression(p, how != TMPL_TUPLE_NO_COND);
    tmpl_nodes_push(p, &node->items, item);
    tmpl_node_over(p, node, item);
    if (!tmpl_at_op(p, ',')) break;
    is_tuple = true;
  }
  if (!is_tuple && node->items.n == 1) {
    node = node->items.items[0];
  } else if (!is_tuple && how != TMPL_TUPLE_PARENTHESES) {
    char got[TMPL_TOKEN_TEXT];
    tmpl_parse_fail(p, p->token.line, "expected an expression, got %s", tmpl_describe(&p->token, got));
  }
  if (is_target) check_target(p, node);
leave:
  if (node) tmpl_parse_leave(p);
  return p->code ? NULL : node;
}

/* a, a:b, a:b:c with any of them left out. */
static struct tmpl_node *parse_key(struct tmpl_parser *p) {
  struct tmpl_node *part[3] = {0};
  uint32_t line = p->token.line;
  if (!tmpl_at_op(p, ':')) {
    part[0] = tmpl_parse_expression(p, true);
    if (!tmpl_at_op(p, ':')) return part[0];
  }
  for (int i = 1; i < 3 && tmpl_skip_op(p, ':'); i++)
    if (!tmpl_at_op(p, ':') && !tmpl_at_op(p, ']') && !tmpl_at_op(p, ','))
      part[i] = tmpl_parse_expression(p, true);
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_SLICE, line);
  if (!node) return NULL;
  for (int i = 0; i < 3; i++) {
    node->slice[i] = part[i];
    tmpl_node_over(p, node, part[i]);
  }
  return node;
}

static struct tmpl_node *subscript(struct tmpl_parser *p, struct tmpl_node *of, struct tmpl_node *key,
                                   uint32_t line) {
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_SUBSCRIPT, line);
  if (!node) return NULL;
  node->subscript.of = of;
  node->subscript.key = key;
  return tmpl_node_over(p, tmpl_node_over(p, node, of), key);
}

static struct tmpl_node *parse_dot(struct tmpl_parser *p, struct tmpl_node *of) {
  uint32_t line = p->token.line;
  tmpl_advance(p);
  if (p->token.kind == TMPL_TOK_INTEGER) {
    struct tmpl_node *key = constant(p, tmpl_int(p->token.integer), line);
    tmpl_advance(p);
    return subscript(p, of, key, line);
  }
  const struct tmpl_str *name = tmpl_expect_name(p);
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_ATTRIBUTE, line);
  if (!node) return NULL;
  node->attribute.of = of;
  node->attribute.name = name;
  return tmpl_node_over(p, node, of);
}

static struct tmpl_node *parse_brackets(struct tmpl_parser *p, struct tmpl_node *of) {
  uint32_t line = p->token.line;
  tmpl_advance(p);
  struct tmpl_node *key =
      tmpl_at_op(p, ']') ? tmpl_node_new(p, TMPL_N_TUPLE, line) : parse_key(p); /* x[] is x[()] */
  if (tmpl_at_op(p, ',')) {
    struct tmpl_node *tuple = tmpl_node_new(p, TMPL_N_TUPLE, line);
    if (!tuple) return NULL;
    tmpl_nodes_push(p, &tuple->items, key);
    tmpl_node_over(p, tuple, key);
    while (tmpl_skip_op(p, ',')) {
      struct tmpl_node *more = tmpl_parse_expression(p, true);
      tmpl_nodes_push(p, &tuple->items, more);
      tmpl_node_over(p, tuple, more);
    }
    if (key && key->kind == TMPL_N_SLICE) tmpl_parse_fail(p, line, "slice within a tuple");
    key = tuple;
  }
  tmpl_expect_op(p, ']');
  return subscript(p, of, key, line);
}

static void push_named(struct tmpl_parser *p, struct tmpl_call_args *args, struct tmpl_named_node named) {
  struct tmpl_named_node *grown =
      tmpl_parse_grow(p, args->named, args->n_named, &args->named_capacity, sizeof *grown);
  if (!grown) return;
  args->named = grown;
  grown[args->n_named++] = named;
}

/* One argument: x, name=x, *x or **x. */
static struct tmpl_node *parse_arg(struct tmpl_parser *p, struct tmpl_call_args *args) {
  uint32_t line = p->token.line;
  bool star = tmpl_skip_op(p, '*'), stars = !star && tmpl_skip_op(p, TMPL_OP2('*', '*'));
  bool named = p->token.kind == TMPL_TOK_NAME && p->ahead.kind == TMPL_TOK_OPERATOR && p->ahead.op == '=';
  if (star || stars) named = false;
  bool late =
      args->star_star || (args->star && !named && !stars) || (args->n_named && !named && !star && !stars);
  if (late) tmpl_parse_fail(p, line, "positional argument after named ones, or arguments after **");
  struct tmpl_named_node entry = {0};
  if (named) {
    entry.name = tmpl_expect_name(p);
    tmpl_expect_op(p, '=');
  }
  struct tmpl_node *value = tmpl_parse_expression(p, true);
  if (p->code) return NULL;
  entry.value = value;
  if (named) {
    push_named(p, args, entry);
  } else if (star) {
    args->star = value;
  } else if (stars) {
    args->star_star = value;
  } else {
    tmpl_nodes_push(p, &args->items, value);
  }
  return value;
}

/* "(...)" behind a node that takes arguments. */
static void parse_args(struct tmpl_parser *p, struct tmpl_node *node) {
  tmpl_expect_op(p, '(');
  for (bool first = true; !p->code && !tmpl_at_op(p, ')'); first = false) {
    if (!first) tmpl_expect_op(p, ',');
    if (tmpl_at_op(p, ')')) break;
    tmpl_node_over(p, node, parse_arg(p, &node->apply.args));
  }
  tmpl_expect_op(p, ')');
}

static struct tmpl_node *parse_call(struct tmpl_parser *p, struct tmpl_node *of) {
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_CALL, p->token.line);
  if (!node) return NULL;
  node->apply.of = of;
  parse_args(p, node);
  return tmpl_node_over(p, node, of);
}

struct tmpl_node *tmpl_parse_postfix(struct tmpl_parser *p, struct tmpl_node *node) {
  while (!p->code) {
    if (tmpl_at_op(p, '.')) {
      node = parse_dot(p, node);
    } else if (tmpl_at_op(p, '[')) {
      node = parse_brackets(p, node);
    } else if (tmpl_at_op(p, '(')) {
      node = parse_call(p, node);
    } else {
      break;
    }
  }
  return node;
}

/* The name of a filter or test, which may contain dots; an unknown one is an
 * error at once unless a condition might keep the template from getting there. */
static void parse_apply_name(struct tmpl_parser *p, struct tmpl_node *node) {
  uint32_t line = p->token.line;
  node->apply.name = tmpl_expect_name(p);
  node->apply.builtin =
      node->kind == TMPL_N_FILTER ? tmpl_find_filter(node->apply.name) : tmpl_find_test(node->apply.name);
  while (tmpl_skip_op(p, '.')) { /* a name may have dots, but none that is known has */
    tmpl_expect_name(p);
    node->apply.builtin = NULL;
  }
  if (node->apply.builtin || p->branches || p->unknown) return;
  p->unknown = node->apply.name;
  p->unknown_line = line;
}

struct tmpl_node *tmpl_parse_filters(struct tmpl_parser *p, struct tmpl_node *node, bool inline_first) {
  while (!p->code && (inline_first || tmpl_skip_op(p, '|'))) {
    struct tmpl_node *filter = tmpl_node_new(p, TMPL_N_FILTER, p->token.line);
    if (!filter) return NULL;
    parse_apply_name(p, filter);
    filter->apply.of = node;
    if (tmpl_at_op(p, '(')) parse_args(p, filter);
    node = tmpl_node_over(p, filter, node);
    inline_first = false;
  }
  return node;
}

/* "is divisibleby 3" takes an argument without parentheses. */
static bool at_bare_argument(const struct tmpl_parser *p) {
  switch (p->token.kind) {
    case TMPL_TOK_NAME:
      return !tmpl_at_name(p, "else") && !tmpl_at_name(p, "or") && !tmpl_at_name(p, "and");
    case TMPL_TOK_STRING:
    case TMPL_TOK_INTEGER:
    case TMPL_TOK_FLOAT:
      return true;
    default:
      return tmpl_at_op(p, '[') || tmpl_at_op(p, '{');
  }
}

static struct tmpl_node *parse_test(struct tmpl_parser *p, struct tmpl_node *of) {
  uint32_t line = p->token.line;
  tmpl_advance(p);
  bool negated = tmpl_skip_name(p, "not");
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_TEST, line);
  if (!node) return NULL;
  parse_apply_name(p, node);
  node->apply.of = of;
  tmpl_node_over(p, node, of);
  if (tmpl_at_op(p, '(')) {
    parse_args(p, node);
  } else if (at_bare_argument(p)) {
    if (tmpl_at_name(p, "is")) tmpl_parse_fail(p, p->token.line, "tests with 'is' cannot be chained");
    struct tmpl_node *arg = tmpl_parse_postfix(p, tmpl_mark_read(p, tmpl_parse_primary(p, false)));
    tmpl_nodes_push(p, &node->apply.args.items, arg);
    tmpl_node_over(p, node, arg);
  }
  if (!negated) return node;
  struct tmpl_node *not = tmpl_node_new(p, TMPL_N_NOT, line);
  if (not ) not ->unary = node;
  return tmpl_node_over(p, not, node);
}

struct tmpl_node *tmpl_parse_filter_expr(struct tmpl_parser *p, struct tmpl_node *node) {
  while (!p->code) {
    if (tmpl_at_op(p, '|')) {
      node = tmpl_parse_filters(p, node, false);
    } else if (tmpl_at_name(p, "is")) {
      node = parse_test(p, node);
    } else if (tmpl_at_op(p, '(')) {
      node = parse_call(p, node);
    } else {
      break;
    }
  }
  return node;
}
