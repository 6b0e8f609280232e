/* SPDX-License-Identifier: MIT */
/* Statements: one function for each tag. */
#include "tmpl_stmt.h"

#define ENDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* "%}" (and the colon that Python people write), a body, and its end tag. */
static struct tmpl_nodes body_until(struct tmpl_parser *p, const char *const *ends) {
  tmpl_skip_op(p, ':');
  tmpl_expect_kind(p, TMPL_TOK_BLOCK_END);
  return tmpl_parse_body(p, ends);
}

static struct tmpl_nodes body_to_end(struct tmpl_parser *p, const char *end) {
  struct tmpl_nodes body = body_until(p, ENDS(end));
  tmpl_advance(p);
  return body;
}

static struct tmpl_node *parse_for(struct tmpl_parser *p, uint32_t line) {
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_FOR, line);
  struct tmpl_node *target = tmpl_parse_tuple(p, TMPL_TUPLE_TARGET, "in");
  if (!tmpl_skip_name(p, "in")) {
    char got[TMPL_TOKEN_TEXT];
    tmpl_parse_fail(p, p->token.line, "expected 'in', got %s", tmpl_describe(&p->token, got));
  }
  if (!node) return NULL;
  node->loop.target = target;
  node->loop.over = tmpl_parse_tuple(p, TMPL_TUPLE_NO_COND, "recursive");
  if (tmpl_skip_name(p, "if")) node->loop.filter = tmpl_parse_expression(p, true);
  node->loop.recursive = tmpl_skip_name(p, "recursive");
  p->loops++;
  node->loop.body = body_until(p, ENDS("endfor", "else"));
  p->loops--;
  if (tmpl_skip_name(p, "else")) {
    node->loop.otherwise = body_to_end(p, "endfor");
  } else {
    tmpl_advance(p);
  }
  return node;
}

static void push_branch(struct tmpl_parser *p, struct tmpl_node *node, struct tmpl_branch branch) {
  if (!node || p->code) return;
  struct tmpl_branch *grown =
      tmpl_parse_grow(p, node->cases.branches, node->cases.n, &node->cases.capacity, sizeof *grown);
  if (!grown) return;
  node->cases.branches = grown;
  grown[node->cases.n++] = branch;
}

static struct tmpl_node *parse_if(struct tmpl_parser *p, uint32_t line) {
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_IF, line);
  p->branches++;
  do {
    struct tmpl_branch branch = {.test = tmpl_parse_tuple(p, TMPL_TUPLE_NO_COND, NULL)};
    branch.body = body_until(p, ENDS("elif", "else", "endif"));
    push_branch(p, node, branch);
  } while (tmpl_skip_name(p, "elif"));
  if (tmpl_skip_name(p, "else")) {
    push_branch(p, node, (struct tmpl_branch){.body = body_to_end(p, "endif")});
  } else {
    tmpl_advance(p);
  }
  p->branches--;
  return node;
}

static struct tmpl_node *parse_set(struct tmpl_parser *p, uint32_t line) {
  struct tmpl_node *target = tmpl_parse_tuple(p, TMPL_TUPLE_NS_TARGET, NULL);
  bool assigns = tmpl_skip_op(p, '=');
  struct tmpl_node *node = tmpl_node_new(p, assigns ? TMPL_N_SET : TMPL_N_SET_BLOCK, line);
  if (!node) return NULL;
  node->set.target = target;
  if (assigns) {
    node->set.value = tmpl_parse_tuple(p, TMPL_TUPLE_EXPR, NULL);
  } else {
    node->set.value = tmpl_parse_filters(p, NULL, false);
    node->set.body = body_to_end(p, "endset");
  }
  return node;
}

static struct tmpl_node *parse_with(struct tmpl_parser *p, uint32_t line) {
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_WITH, line);
  if (!node) return NULL;
  while (!p->code && p->token.kind != TMPL_TOK_BLOCK_END) {
    if (node->with.targets.n) tmpl_expect_op(p, ',');
    tmpl_nodes_push(p, &node->with.targets, tmpl_parse_tuple(p, TMPL_TUPLE_TARGET, NULL));
    tmpl_expect_op(p, '=');
    tmpl_nodes_push(p, &node->with.values, tmpl_parse_expression(p, true));
  }
  node->with.body = body_to_end(p, "endwith");
  return node;
}

static void parse_param(struct tmpl_parser *p, struct tmpl_macro_def *def) {
  struct tmpl_param param = {.name = tmpl_expect_name(p)};
  if (tmpl_skip_op(p, '=')) {
    param.otherwise = tmpl_parse_expression(p, true);
  } else if (def->n_params && def->params[def->n_params - 1].otherwise) {
    tmpl_parse_fail(p, p->token.line, "parameter without a default after one that has one");
  }
  struct tmpl_param *grown = tmpl_parse_grow(p, def->params, def->n_params, &def->capacity, sizeof *grown);
  if (!grown) return;
  def->params = grown;
  grown[def->n_params++] = param;
}

/* "(a, b=1)", if there is one. */
static void parse_signature(struct tmpl_parser *p, struct tmpl_macro_def *def) {
  while (!p->code && !tmpl_at_op(p, ')')) {
    if (def->n_params) tmpl_expect_op(p, ',');
    parse_param(p, def);
  }
  tmpl_expect_op(p, ')');
}

/* A body that runs as a macro: loops outside it cannot be left from within it. */
static void parse_macro_body(struct tmpl_parser *p, struct tmpl_macro_def *def, const char *end) {
  unsigned loops = p->loops;
  bool caller = p->uses_caller, varargs = p->uses_varargs, kwargs = p->uses_kwargs;
  p->loops = 0;
  p->uses_caller = p->uses_varargs = p->uses_kwargs = false;
  def->body = body_to_end(p, end);
  def->uses_caller = p->uses_caller;
  def->uses_varargs = p->uses_varargs;
  def->uses_kwargs = p->uses_kwargs;
  p->loops = loops;
  p->uses_caller |= caller;
  p->uses_varargs |= varargs;
  p->uses_kwargs |= kwargs;
}

static struct tmpl_node *parse_macro(struct tmpl_parser *p, uint32_t line) {
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_MACRO, line);
  struct tmpl_macro_def *def = tmpl_parse_alloc(p, 1, sizeof *def);
  if (!node || !def) return NULL;
  node->macro = def;
  def->name = tmpl_expect_name(p);
  tmpl_expect_op(p, '(');
  parse_signature(p, def);
  parse_macro_body(p, def, "endmacro");
  return node;
}

static struct tmpl_node *parse_call_block(struct tmpl_parser *p, uint32_t line) {
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_CALL_BLOCK, line);
  struct tmpl_macro_def *def = tmpl_parse_alloc(p, 1, sizeof *def);
  if (!node || !def) return NULL;
  def->name = p->tmpl->caller;
  if (tmpl_skip_op(p, '(')) parse_signature(p, def);
  node->call_block.macro = def;
  node->call_block.call = tmpl_parse_expression(p, true);
  if (node->call_block.call && node->call_block.call->kind != TMPL_N_CALL)
    tmpl_parse_fail(p, line, "expected a call behind 'call'");
  parse_macro_body(p, def, "endcall");
  return node;
}

static struct tmpl_node *parse_filter_block(struct tmpl_parser *p, uint32_t line) {
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_FILTER_BLOCK, line);
  if (!node) return NULL;
  node->set.value = tmpl_parse_filters(p, NULL, true);
  node->set.body = body_to_end(p, "endfilter");
  return node;
}

/* transformers marks what the model wrote with this tag; it is a scope of its own. */
static struct tmpl_node *parse_generation(struct tmpl_parser *p, uint32_t line) {
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_GENERATION, line);
  unsigned loops = p->loops;
  p->loops = 0;
  struct tmpl_nodes body = body_to_end(p, "endgeneration");
  p->loops = loops;
  if (node) node->set.body = body;
  return node;
}

static struct tmpl_node *parse_jump(struct tmpl_parser *p, enum tmpl_node_kind kind, uint32_t line) {
  if (p->loops == 0) tmpl_parse_fail(p, line, "'break' or 'continue' outside a loop");
  return tmpl_node_new(p, kind, line);
}

static struct tmpl_node *parse_break(struct tmpl_parser *p, uint32_t line) {
  return parse_jump(p, TMPL_N_BREAK, line);
}

static struct tmpl_node *parse_continue(struct tmpl_parser *p, uint32_t line) {
  return parse_jump(p, TMPL_N_CONTINUE, line);
}

static void parse_print(struct tmpl_parser *p, struct tmpl_nodes *body) {
  bool first = true;
  while (!p->code && p->token.kind != TMPL_TOK_BLOCK_END) {
    if (!first) tmpl_expect_op(p, ',');
    tmpl_nodes_push(p, body, tmpl_parse_expression(p, true));
    first = false;
  }
}

static const struct {
  const char *name;
  struct tmpl_node *(*parse)(struct tmpl_parser *p, uint32_t line);
} statements[] = {
    {"for", parse_for},
    {"if", parse_if},
    {"set", parse_set},
    {"with", parse_with},
    {"macro", parse_macro},
    {"call", parse_call_block},
    {"filter", parse_filter_block},
    {"generation", parse_generation},
    {"break", parse_break},
    {"continue", parse_continue},
};

bool tmpl_parse_statement(struct tmpl_parser *p, struct tmpl_nodes *body) {
  uint32_t line = p->token.line;
  if (p->token.kind != TMPL_TOK_NAME) return false;
  bool known = tmpl_at_name(p, "print");
  if (known) {
    tmpl_advance(p);
    parse_print(p, body);
    return true;
  }
  for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
    if (!tmpl_at_name(p, statements[i].name)) continue;
    tmpl_advance(p);
    if (tmpl_parse_enter(p)) tmpl_nodes_push(p, body, statements[i].parse(p, line));
    tmpl_parse_leave(p);
    return true;
  }
  return false;
}
