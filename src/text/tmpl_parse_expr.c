/* SPDX-License-Identifier: MIT */
/* Expressions from the loosest to the tightest binding:
 * a if b else c, or, and, not, comparisons, + -, ~, * / // %, **, unary. */
#include "tmpl_ast.h"

typedef struct tmpl_node *(*parse_fn)(struct tmpl_parser *p);

static struct tmpl_node *parse_unary(struct tmpl_parser *p, bool with_filter);

static struct tmpl_node *binary(struct tmpl_parser *p, enum tmpl_node_kind kind, int op,
                                struct tmpl_node *left, struct tmpl_node *right, uint32_t line) {
  struct tmpl_node *node = tmpl_node_new(p, kind, line);
  if (!node) return NULL;
  node->binary.op = op;
  node->binary.left = left;
  node->binary.right = right;
  return tmpl_node_over(p, tmpl_node_over(p, node, left), right);
}

static struct tmpl_node *unary(struct tmpl_parser *p, enum tmpl_node_kind kind, struct tmpl_node *of,
                               uint32_t line) {
  struct tmpl_node *node = tmpl_node_new(p, kind, line);
  if (!node) return NULL;
  node->unary = of;
  return tmpl_node_over(p, node, of);
}

/* Left-associative operators out of a list that ends with 0. */
static struct tmpl_node *parse_arith(struct tmpl_parser *p, parse_fn next, const int *ops) {
  uint32_t line = p->token.line;
  struct tmpl_node *left = next(p);
  for (;;) {
    const int *op = ops;
    while (*op && !tmpl_at_op(p, *op)) op++;
    if (!*op || p->code) return left;
    tmpl_advance(p);
    left = binary(p, TMPL_N_ARITH, *op, left, next(p), line);
  }
}

static struct tmpl_node *parse_filtered_unary(struct tmpl_parser *p) {
  return parse_unary(p, true);
}

/* Jinja's ** binds to the left, unlike Python's. */
static struct tmpl_node *parse_pow(struct tmpl_parser *p) {
  static const int ops[] = {TMPL_OP2('*', '*'), 0};
  return parse_arith(p, parse_filtered_unary, ops);
}

static struct tmpl_node *parse_term(struct tmpl_parser *p) {
  static const int ops[] = {'*', '/', TMPL_OP2('/', '/'), '%', 0};
  return parse_arith(p, parse_pow, ops);
}

static struct tmpl_node *parse_concat(struct tmpl_parser *p) {
  uint32_t line = p->token.line;
  struct tmpl_node *first = parse_term(p);
  if (!tmpl_at_op(p, '~')) return first;
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_CONCAT, line);
  if (!node) return NULL;
  tmpl_nodes_push(p, &node->items, first);
  tmpl_node_over(p, node, first);
  while (tmpl_skip_op(p, '~')) {
    struct tmpl_node *more = parse_term(p);
    tmpl_nodes_push(p, &node->items, more);
    tmpl_node_over(p, node, more);
  }
  return node;
}

static struct tmpl_node *parse_sum(struct tmpl_parser *p) {
  static const int ops[] = {'+', '-', 0};
  return parse_arith(p, parse_concat, ops);
}

/* Consumes a comparison operator: its code, 'i' for in, 'n' for not in, 0: none. */
static int comparison(struct tmpl_parser *p) {
  static const int ops[] = {
      '<', '>', TMPL_OP2('=', '='), TMPL_OP2('!', '='), TMPL_OP2('<', '='), TMPL_OP2('>', '=')};
  for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
    if (tmpl_skip_op(p, ops[i])) return ops[i];
  if (tmpl_skip_name(p, "in")) return 'i';
  const struct tmpl_token *ahead = &p->ahead;
  if (!tmpl_at_name(p, "not") || ahead->kind != TMPL_TOK_NAME || ahead->length != 2 ||
      ahead->text[0] != 'i' || ahead->text[1] != 'n')
    return 0;
  tmpl_advance(p);
  tmpl_advance(p);
  return 'n';
}

static struct tmpl_node *parse_compare(struct tmpl_parser *p) {
  uint32_t line = p->token.line;
  struct tmpl_node *first = parse_sum(p), *node = NULL;
  size_t capacity = 0;
  for (int op; (op = comparison(p)) != 0;) {
    if (!node) {
      if (!(node = tmpl_node_new(p, TMPL_N_COMPARE, line))) return NULL;
      tmpl_nodes_push(p, &node->compare.operands, first);
      tmpl_node_over(p, node, first);
    }
    struct tmpl_node *right = parse_sum(p);
    size_t n = node->compare.operands.n - 1;
    int *ops = p->code ? NULL : tmpl_parse_grow(p, node->compare.ops, n, &capacity, sizeof *ops);
    if (!ops) return NULL;
    node->compare.ops = ops;
    ops[n] = op;
    tmpl_nodes_push(p, &node->compare.operands, right);
    tmpl_node_over(p, node, right);
  }
  return node ? node : first;
}

static struct tmpl_node *parse_not(struct tmpl_parser *p) {
  uint32_t line = p->token.line;
  if (!tmpl_at_name(p, "not")) return parse_compare(p);
  tmpl_advance(p);
  struct tmpl_node *node = tmpl_parse_enter(p) ? unary(p, TMPL_N_NOT, parse_not(p), line) : NULL;
  tmpl_parse_leave(p);
  return node;
}

static struct tmpl_node *parse_logic(struct tmpl_parser *p, parse_fn next, const char *word,
                                     enum tmpl_node_kind kind) {
  uint32_t line = p->token.line;
  struct tmpl_node *left = next(p);
  while (tmpl_skip_name(p, word)) left = binary(p, kind, 0, left, next(p), line);
  return left;
}

static struct tmpl_node *parse_and(struct tmpl_parser *p) {
  return parse_logic(p, parse_not, "and", TMPL_N_AND);
}

static struct tmpl_node *parse_or(struct tmpl_parser *p) {
  return parse_logic(p, parse_and, "or", TMPL_N_OR);
}

static struct tmpl_node *parse_cond(struct tmpl_parser *p) {
  uint32_t line = p->token.line;
  const struct tmpl_str *unknown = p->unknown;
  struct tmpl_node *value = parse_or(p);
  while (tmpl_skip_name(p, "if")) {
    struct tmpl_node *node = tmpl_node_new(p, TMPL_N_COND, line);
    struct tmpl_node *test = parse_or(p);
    struct tmpl_node *no = tmpl_skip_name(p, "else") ? tmpl_parse_expression(p, true) : NULL;
    if (!node) break;
    node->cond.test = test;
    node->cond.yes = value;
    node->cond.no = no;
    value = tmpl_node_over(p, tmpl_node_over(p, tmpl_node_over(p, node, value), test), no);
    p->unknown = unknown; /* the condition may guard what came before it, too */
  }
  return value;
}

struct tmpl_node *tmpl_parse_expression(struct tmpl_parser *p, bool with_cond) {
  struct tmpl_node *node = NULL;
  if (tmpl_parse_enter(p)) node = with_cond ? parse_cond(p) : parse_or(p);
  tmpl_parse_leave(p);
  return p->code ? NULL : node;
}

static struct tmpl_node *parse_unary(struct tmpl_parser *p, bool with_filter) {
  uint32_t line = p->token.line;
  bool minus = tmpl_at_op(p, '-');
  struct tmpl_node *node = NULL;
  if (minus || tmpl_at_op(p, '+')) {
    tmpl_advance(p);
    if (tmpl_parse_enter(p))
      node = unary(p, minus ? TMPL_N_NEGATE : TMPL_N_PLUS, parse_unary(p, false), line);
    tmpl_parse_leave(p);
  } else {
    node = tmpl_mark_read(p, tmpl_parse_primary(p, false));
  }
  node = tmpl_parse_postfix(p, node);
  return with_filter ? tmpl_parse_filter_expr(p, node) : node;
}
