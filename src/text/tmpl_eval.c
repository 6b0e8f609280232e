/* SPDX-License-Identifier: MIT */
/* Statements. A body runs in the current scope; what opens one restores it. */
#include "tmpl_ast.h"

/* Runs a body and gives its text as a value; a break out of it discards it. */
struct tmpl_value tmpl_run_to_value(struct tmpl_render *r, const struct tmpl_nodes *body,
                                    enum tmpl_flow *ret_flow) {
  struct tmpl_out *outer = r->out, *out = tmpl_out_new(r);
  r->out = out;
  *ret_flow = tmpl_run(r, body);
  r->out = outer;
  return tmpl_out_value(r, out);
}

static enum tmpl_flow run_scoped(struct tmpl_render *r, const struct tmpl_nodes *body) {
  struct tmpl_scope *outer = r->scope;
  enum tmpl_flow flow = TMPL_BREAK;
  if ((r->scope = tmpl_scope_new(r, outer))) flow = tmpl_run(r, body);
  r->scope = outer;
  return flow;
}

static enum tmpl_flow run_if(struct tmpl_render *r, const struct tmpl_node *node) {
  for (size_t i = 0; i < node->cases.n; i++) {
    const struct tmpl_branch *branch = &node->cases.branches[i];
    bool taken = !branch->test || tmpl_truth(tmpl_eval(r, branch->test));
    if (r->code) return TMPL_BREAK;
    if (taken) return tmpl_run(r, &branch->body);
  }
  return TMPL_NEXT;
}

/* The text of a block in a scope of its own, through its filters. */
static struct tmpl_value block_value(struct tmpl_render *r, const struct tmpl_node *node,
                                     enum tmpl_flow *ret_flow) {
  struct tmpl_scope *outer = r->scope;
  struct tmpl_value text = {0};
  *ret_flow = TMPL_BREAK;
  if ((r->scope = tmpl_scope_new(r, outer))) {
    text = tmpl_run_to_value(r, &node->set.body, ret_flow);
    if (*ret_flow == TMPL_NEXT && node->set.value) text = tmpl_eval_filters(r, node->set.value, text);
  }
  r->scope = outer;
  return text;
}

static enum tmpl_flow run_block(struct tmpl_render *r, const struct tmpl_node *node) {
  enum tmpl_flow flow;
  struct tmpl_value text = block_value(r, node, &flow);
  if (flow != TMPL_NEXT || r->code) return flow;
  if (node->kind == TMPL_N_SET_BLOCK) {
    tmpl_assign(r, node->set.target, text);
  } else if (text.kind != TMPL_STR) {
    tmpl_fail(r, TL_EINVAL, "expected the filters of a block to give a str, not %s", tmpl_type_name(text));
  } else {
    tmpl_put_value(r, r->out, text);
  }
  return flow;
}

static enum tmpl_flow run_with(struct tmpl_render *r, const struct tmpl_node *node) {
  struct tmpl_scope *outer = r->scope, *inner = tmpl_scope_new(r, outer);
  enum tmpl_flow flow = TMPL_BREAK;
  for (size_t i = 0; inner && i < node->with.targets.n && !r->code; i++) {
    struct tmpl_value value = tmpl_eval(r, node->with.values.items[i]);
    r->scope = inner;
    tmpl_assign(r, node->with.targets.items[i], value);
    r->scope = outer;
  }
  if (r->code) return flow;
  r->scope = inner;
  flow = tmpl_run(r, &node->with.body);
  r->scope = outer;
  return flow;
}

/* {% call macro(...) %}body{% endcall %}: the body is the macro's `caller`. */
static void run_call_block(struct tmpl_render *r, const struct tmpl_node *node) {
  const struct tmpl_node *call = node->call_block.call;
  struct tmpl_value callee = tmpl_eval(r, call->apply.of);
  struct tmpl_args args = {0};
  if (!r->code) tmpl_eval_args(r, &call->apply.args, &args);
  struct tmpl_named *named = tmpl_alloc(r, args.n_named + 1, sizeof *named);
  if (!named) return;
  for (size_t i = 0; i < args.n_named; i++) named[i] = args.named[i];
  named[args.n_named] = (struct tmpl_named){r->tmpl->caller, tmpl_macro_new(r, node->call_block.macro)};
  args.named = named;
  args.n_named++;
  struct tmpl_value text = tmpl_call(r, callee, &args);
  if (!r->code) tmpl_put_value(r, r->out, text);
}

static enum tmpl_flow run_node(struct tmpl_render *r, const struct tmpl_node *node) {
  switch (node->kind) {
    case TMPL_N_DATA:
      tmpl_put_str(r, r->out, node->constant.str);
      return TMPL_NEXT;
    case TMPL_N_FOR:
      return tmpl_run_for(r, node);
    case TMPL_N_IF:
      return run_if(r, node);
    case TMPL_N_SET:
      tmpl_assign(r, node->set.target, tmpl_eval(r, node->set.value));
      return TMPL_NEXT;
    case TMPL_N_SET_BLOCK:
    case TMPL_N_FILTER_BLOCK:
      return run_block(r, node);
    case TMPL_N_WITH:
      return run_with(r, node);
    case TMPL_N_MACRO:
      tmpl_scope_set(r, node->macro->name, tmpl_macro_new(r, node->macro));
      return TMPL_NEXT;
    case TMPL_N_CALL_BLOCK:
      run_call_block(r, node);
      return TMPL_NEXT;
    case TMPL_N_GENERATION:
      return run_scoped(r, &node->set.body);
    case TMPL_N_BREAK:
      return TMPL_BREAK;
    case TMPL_N_CONTINUE:
      return TMPL_CONTINUE;
    default: {
      struct tmpl_value v = tmpl_eval(r, node);
      if (!r->code) tmpl_put_value(r, r->out, v);
      return TMPL_NEXT;
    }
  }
}

enum tmpl_flow tmpl_run(struct tmpl_render *r, const struct tmpl_nodes *body) {
  enum tmpl_flow flow = TMPL_NEXT;
  if (tmpl_enter(r))
    for (size_t i = 0; i < body->n && flow == TMPL_NEXT && tmpl_charge(r, 1); i++) {
      r->line = body->items[i]->line;
      flow = run_node(r, body->items[i]);
    }
  tmpl_leave(r);
  return r->code ? TMPL_BREAK : flow;
}
