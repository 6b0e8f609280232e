/* SPDX-License-Identifier: MIT */
/* Expressions: one function for each kind of node. */
#include "tmpl_ast.h"

static const struct tmpl_value missing;

static struct tmpl_value eval_items(struct tmpl_render *r, const struct tmpl_nodes *items,
                                    enum tmpl_kind kind) {
  struct tmpl_builder b = {.items = tmpl_alloc(r, items->n, sizeof *b.items), .capacity = items->n};
  for (size_t i = 0; i < items->n && !r->code; i++) tmpl_push(r, &b, tmpl_eval(r, items->items[i]));
  return r->code ? missing : tmpl_build(r, &b, kind);
}

static struct tmpl_value eval_dict(struct tmpl_render *r, const struct tmpl_nodes *items) {
  struct tmpl_value dict = tmpl_dict_new(r);
  for (size_t i = 0; i + 1 < items->n && !r->code; i += 2) {
    struct tmpl_value key = tmpl_eval(r, items->items[i]), value = tmpl_eval(r, items->items[i + 1]);
    if (!r->code) tmpl_dict_set(r, dict.dict, key, value);
  }
  return dict;
}

/* a ~ b ~ c */
static struct tmpl_value eval_concat(struct tmpl_render *r, const struct tmpl_nodes *items) {
  struct tmpl_value sum = tmpl_to_str(r, tmpl_eval(r, items->items[0]));
  for (size_t i = 1; i < items->n && !r->code; i++) {
    struct tmpl_value more = tmpl_to_str(r, tmpl_eval(r, items->items[i]));
    if (r->code) break;
    sum = tmpl_concat(r, sum.str, more.str);
  }
  return r->code ? missing : sum;
}

static struct tmpl_value eval_subscript(struct tmpl_render *r, const struct tmpl_node *node) {
  struct tmpl_value of = tmpl_eval(r, node->subscript.of);
  const struct tmpl_node *key = node->subscript.key;
  if (r->code) return missing;
  if (key->kind != TMPL_N_SLICE) {
    struct tmpl_value value = tmpl_eval(r, key);
    return r->code ? missing : tmpl_subscript(r, of, value);
  }
  struct tmpl_value part[3] = {0};
  for (int i = 0; i < 3 && !r->code; i++)
    if (key->slice[i]) part[i] = tmpl_eval(r, key->slice[i]);
  return r->code ? missing : tmpl_slice(r, of, part);
}

static bool compare(struct tmpl_render *r, int op, struct tmpl_value a, struct tmpl_value b) {
  switch (op) {
    case '<':
      return tmpl_less(r, a, b);
    case '>':
      return tmpl_less(r, b, a);
    case TMPL_OP2('<', '='):
      return tmpl_less(r, a, b) || tmpl_equal(r, a, b);
    case TMPL_OP2('>', '='):
      return tmpl_less(r, b, a) || tmpl_equal(r, a, b);
    case TMPL_OP2('=', '='):
      return tmpl_equal(r, a, b);
    case TMPL_OP2('!', '='):
      return !tmpl_equal(r, a, b);
    case 'i':
      return tmpl_contains(r, a, b);
    default:
      return !tmpl_contains(r, a, b);
  }
}

/* a < b < c holds when a < b and b < c do; b is evaluated once. */
static struct tmpl_value eval_compare(struct tmpl_render *r, const struct tmpl_node *node) {
  const struct tmpl_nodes *operands = &node->compare.operands;
  struct tmpl_value left = tmpl_eval(r, operands->items[0]);
  for (size_t i = 0; i + 1 < operands->n; i++) {
    struct tmpl_value right = tmpl_eval(r, operands->items[i + 1]);
    if (r->code) return missing;
    bool holds = compare(r, node->compare.ops[i], left, right);
    if (!holds || r->code) return tmpl_bool(false);
    left = right;
  }
  return tmpl_bool(true);
}

static struct tmpl_value eval_cond(struct tmpl_render *r, const struct tmpl_node *node) {
  bool yes = tmpl_truth(tmpl_eval(r, node->cond.test));
  if (r->code) return missing;
  if (yes) return tmpl_eval(r, node->cond.yes);
  if (node->cond.no) return tmpl_eval(r, node->cond.no);
  return tmpl_undefined_hint(r,
                             "the inline if-expression evaluated to false and no else section was defined");
}

/* --- calls ------------------------------------------------------------------------------- */
static void add_star_star(struct tmpl_render *r, struct tmpl_value dict, struct tmpl_args *args) {
  struct tmpl_iter it;
  struct tmpl_value key, value;
  if (dict.kind != TMPL_DICT) {
    tmpl_fail(r, TL_EINVAL, "argument after ** must be a mapping, not %s", tmpl_type_name(dict));
    return;
  }
  struct tmpl_named *named = tmpl_alloc(r, args->n_named + dict.dict->n, sizeof *named);
  if (!named || !tmpl_iter_init(r, &it, dict)) return;
  for (size_t i = 0; i < args->n_named; i++) named[i] = args->named[i];
  while (tmpl_iter_next(r, &it, &key)) {
    if (key.kind == TMPL_STR && tmpl_dict_get(r, dict.dict, key, &value)) {
      named[args->n_named++] = (struct tmpl_named){key.str, value};
    } else {
      tmpl_fail(r, TL_EINVAL, "keywords must be strings");
    }
  }
  args->named = named;
}

void tmpl_eval_args(struct tmpl_render *r, const struct tmpl_call_args *call, struct tmpl_args *ret) {
  struct tmpl_builder items = {.items = tmpl_alloc(r, call->items.n, sizeof *items.items),
                               .capacity = call->items.n};
  *ret = (struct tmpl_args){.named = tmpl_alloc(r, call->n_named, sizeof *ret->named)};
  for (size_t i = 0; i < call->items.n && !r->code; i++)
    tmpl_push(r, &items, tmpl_eval(r, call->items.items[i]));
  for (size_t i = 0; i < call->n_named && !r->code; i++)
    ret->named[ret->n_named++] = (struct tmpl_named){call->named[i].name, tmpl_eval(r, call->named[i].value)};
  if (call->star && !r->code) {
    struct tmpl_value star = tmpl_eval(r, call->star);
    if (!r->code) tmpl_collect(r, star, &items);
  }
  if (call->star_star && !r->code) {
    struct tmpl_value dict = tmpl_eval(r, call->star_star);
    if (!r->code) add_star_star(r, dict, ret);
  }
  ret->items = items.items;
  ret->n = items.n;
}

static struct tmpl_value eval_call(struct tmpl_render *r, const struct tmpl_node *node) {
  struct tmpl_value callee = tmpl_eval(r, node->apply.of);
  struct tmpl_args args;
  if (r->code) return missing;
  tmpl_eval_args(r, &node->apply.args, &args);
  if (r->code) return missing;
  r->line = node->line;
  return tmpl_call(r, callee, &args);
}

/* A filter or test on a value that is there already. */
static struct tmpl_value apply(struct tmpl_render *r, const struct tmpl_node *node, struct tmpl_value of) {
  struct tmpl_args args;
  if (r->code) return missing;
  if (!node->apply.builtin)
    return tmpl_fail(r, TL_EINVAL, "no filter or test named '%.40s'", node->apply.name->bytes);
  tmpl_eval_args(r, &node->apply.args, &args);
  if (r->code) return missing;
  r->line = node->line;
  return tmpl_call_builtin(r, node->apply.builtin, of, &args);
}

struct tmpl_value tmpl_eval_filters(struct tmpl_render *r, const struct tmpl_node *node,
                                    struct tmpl_value input) {
  struct tmpl_value of = missing;
  if (tmpl_enter(r)) of = node->apply.of ? tmpl_eval_filters(r, node->apply.of, input) : input;
  tmpl_leave(r);
  return apply(r, node, of);
}

/* --- all of them ------------------------------------------------------------------------------ */
static struct tmpl_value eval_logic(struct tmpl_render *r, const struct tmpl_node *node) {
  struct tmpl_value left = tmpl_eval(r, node->binary.left);
  bool enough = tmpl_truth(left) == (node->kind == TMPL_N_OR);
  return enough || r->code ? left : tmpl_eval(r, node->binary.right);
}

static struct tmpl_value eval_arith(struct tmpl_render *r, const struct tmpl_node *node) {
  struct tmpl_value left = tmpl_eval(r, node->binary.left);
  if (r->code) return missing;
  struct tmpl_value right = tmpl_eval(r, node->binary.right);
  return r->code ? missing : tmpl_arith(r, node->binary.op, left, right);
}

static struct tmpl_value eval_unary(struct tmpl_render *r, const struct tmpl_node *node) {
  struct tmpl_value of = tmpl_eval(r, node->unary);
  if (r->code) return missing;
  if (node->kind == TMPL_N_NOT) return tmpl_bool(!tmpl_truth(of));
  return tmpl_negate(r, of, node->kind == TMPL_N_NEGATE);
}

static struct tmpl_value eval_attribute(struct tmpl_render *r, const struct tmpl_node *node) {
  struct tmpl_value of = tmpl_eval(r, node->attribute.of);
  return r->code ? missing : tmpl_attribute(r, of, node->attribute.name);
}

static struct tmpl_value eval_node(struct tmpl_render *r, const struct tmpl_node *node) {
  switch (node->kind) {
    case TMPL_N_CONST:
      return node->constant;
    case TMPL_N_NAME:
      return tmpl_lookup(r, node->name);
    case TMPL_N_LIST:
      return eval_items(r, &node->items, TMPL_LIST);
    case TMPL_N_TUPLE:
      return eval_items(r, &node->items, TMPL_TUPLE);
    case TMPL_N_DICT:
      return eval_dict(r, &node->items);
    case TMPL_N_CONCAT:
      return eval_concat(r, &node->items);
    case TMPL_N_ATTRIBUTE:
      return eval_attribute(r, node);
    case TMPL_N_SUBSCRIPT:
      return eval_subscript(r, node);
    case TMPL_N_ARITH:
      return eval_arith(r, node);
    case TMPL_N_AND:
    case TMPL_N_OR:
      return eval_logic(r, node);
    case TMPL_N_NOT:
    case TMPL_N_NEGATE:
    case TMPL_N_PLUS:
      return eval_unary(r, node);
    case TMPL_N_COMPARE:
      return eval_compare(r, node);
    case TMPL_N_COND:
      return eval_cond(r, node);
    case TMPL_N_FILTER:
    case TMPL_N_TEST:
      return apply(r, node, tmpl_eval(r, node->apply.of));
    case TMPL_N_CALL:
      return eval_call(r, node);
    default:
      return tmpl_fail(r, TL_EINVAL, "not an expression");
  }
}

struct tmpl_value tmpl_eval(struct tmpl_render *r, const struct tmpl_node *node) {
  struct tmpl_value v = missing;
  if (tmpl_enter(r) && tmpl_charge(r, 1)) {
    r->line = node->line;
    v = eval_node(r, node);
  }
  tmpl_leave(r);
  return r->code ? missing : v;
}
