/* SPDX-License-Identifier: MIT */
/* for loops, and what a template can ask of `loop`. Items are taken one by
 * one: a condition may depend on what the body did before, as in jinja2. */
#include "tmpl_ast.h"

/* Binds the target in a scope of its own and asks the loop's condition. */
static bool passes(struct tmpl_render *r, const struct tmpl_loop *loop, struct tmpl_value item) {
  struct tmpl_scope *scope = r->scope;
  bool yes = false;
  if ((r->scope = tmpl_scope_new(r, loop->outer))) {
    tmpl_assign(r, loop->node->loop.target, item);
    if (!r->code) yes = tmpl_truth(tmpl_eval(r, loop->node->loop.filter));
  }
  r->scope = scope;
  return yes;
}

/* The next item from the source; MISSING at the end. */
static struct tmpl_value pull(struct tmpl_render *r, struct tmpl_loop *loop) {
  struct tmpl_value item = {0};
  while (tmpl_iter_next(r, &loop->items, &item))
    if (!loop->filtered || passes(r, loop, item)) return item;
  return tmpl_missing();
}

static struct tmpl_value look_ahead(struct tmpl_render *r, struct tmpl_loop *loop) {
  if (loop->after.kind == TMPL_MISSING && !loop->at_end) {
    loop->after = pull(r, loop);
    loop->at_end = loop->after.kind == TMPL_MISSING;
  }
  return loop->after;
}

static bool advance(struct tmpl_render *r, struct tmpl_loop *loop) {
  struct tmpl_value item = look_ahead(r, loop);
  if (item.kind == TMPL_MISSING || r->code) return false;
  loop->after = tmpl_missing();
  loop->before = loop->current;
  loop->current = item;
  loop->index0++;
  return true;
}

/* A source whose length is not known is read to its end. */
bool tmpl_loop_length(struct tmpl_render *r, struct tmpl_loop *loop, size_t *ret) {
  if (!loop->has_length) {
    struct tmpl_builder rest = {0};
    struct tmpl_value item;
    while (!r->code && (item = pull(r, loop)).kind != TMPL_MISSING) tmpl_push(r, &rest, item);
    loop->length = (size_t)(loop->index0 + 1) + (loop->after.kind != TMPL_MISSING) + rest.n;
    loop->has_length = true;
    loop->filtered = false;
    struct tmpl_value list = tmpl_build(r, &rest, TMPL_LIST);
    if (!r->code) tmpl_iter_init(r, &loop->items, list);
  }
  *ret = loop->length;
  return !r->code;
}

static struct tmpl_value from_end(struct tmpl_render *r, struct tmpl_loop *loop, int64_t off) {
  size_t length;
  if (!tmpl_loop_length(r, loop, &length)) return tmpl_missing();
  return tmpl_int((int64_t)length - loop->index0 - off);
}

struct tmpl_value tmpl_loop_attribute(struct tmpl_render *r, struct tmpl_value v,
                                      const struct tmpl_str *name) {
  struct tmpl_loop *loop = v.loop;
  if (tmpl_str_is(name, "index")) return tmpl_int(loop->index0 + 1);
  if (tmpl_str_is(name, "index0")) return tmpl_int(loop->index0);
  if (tmpl_str_is(name, "first")) return tmpl_bool(loop->index0 == 0);
  if (tmpl_str_is(name, "last")) return tmpl_bool(look_ahead(r, loop).kind == TMPL_MISSING);
  if (tmpl_str_is(name, "length")) return from_end(r, loop, -loop->index0);
  if (tmpl_str_is(name, "revindex")) return from_end(r, loop, 0);
  if (tmpl_str_is(name, "revindex0")) return from_end(r, loop, 1);
  if (tmpl_str_is(name, "depth")) return tmpl_int(loop->depth0 + 1);
  if (tmpl_str_is(name, "depth0")) return tmpl_int(loop->depth0);
  if (tmpl_str_is(name, "previtem"))
    return loop->index0 > 0 ? loop->before : tmpl_undefined_hint(r, "there is no previous item");
  if (tmpl_str_is(name, "nextitem")) {
    struct tmpl_value next = look_ahead(r, loop);
    return next.kind == TMPL_MISSING ? tmpl_undefined_hint(r, "there is no next item") : next;
  }
  return tmpl_missing();
}

static struct tmpl_value loop_cycle(struct tmpl_render *r, const struct tmpl_value *arg,
                                    const struct tmpl_args *all) {
  if (all->n == 0) return tmpl_fail(r, TL_EINVAL, "no items for cycling given");
  return all->items[(size_t)arg[0].loop->index0 % all->n];
}

static struct tmpl_value loop_changed(struct tmpl_render *r, const struct tmpl_value *arg,
                                      const struct tmpl_args *all) {
  struct tmpl_loop *loop = arg[0].loop;
  struct tmpl_builder seen = {.items = all->items, .n = all->n};
  struct tmpl_value now = tmpl_build(r, &seen, TMPL_TUPLE);
  if (r->code) return now;
  bool changed = !tmpl_equal(r, now, loop->changed);
  loop->changed = now;
  return tmpl_bool(changed);
}

const struct tmpl_builtin tmpl_loop_methods[] = {
    {"cycle", "*", 0, loop_cycle},
    {"changed", "*", 0, loop_changed},
    {0},
};

/* --- running ------------------------------------------------------------------------------- */
/* The scope of the next turn: the last one's, emptied, unless a macro kept it. */
static struct tmpl_scope *turn_scope(struct tmpl_render *r, struct tmpl_scope *last,
                                     struct tmpl_scope *outer) {
  if (!last || last->captured) return tmpl_scope_new(r, outer);
  last->n = 0;
  return last;
}

static enum tmpl_flow run_turns(struct tmpl_render *r, struct tmpl_loop *loop) {
  const struct tmpl_node *node = loop->node;
  struct tmpl_scope *scope = NULL;
  enum tmpl_flow flow = TMPL_NEXT;
  struct tmpl_value self = {.kind = TMPL_LOOP, .loop = loop};
  while (flow != TMPL_BREAK && advance(r, loop)) {
    if (!(scope = turn_scope(r, scope, loop->outer))) break;
    r->scope = scope;
    tmpl_scope_set(r, r->tmpl->loop, self);
    tmpl_assign(r, node->loop.target, loop->current);
    if (!r->code) flow = tmpl_run(r, &node->loop.body);
  }
  r->scope = loop->outer;
  if (loop->index0 >= 0 || r->code) return r->code ? TMPL_BREAK : TMPL_NEXT;
  flow = TMPL_BREAK;
  if ((r->scope = tmpl_scope_new(r, loop->outer)))
    flow = tmpl_run(r, &node->loop.otherwise); /* a break here leaves the loop around */
  r->scope = loop->outer;
  return flow;
}

static enum tmpl_flow run_over(struct tmpl_render *r, const struct tmpl_node *node, struct tmpl_value over,
                               unsigned depth0) {
  struct tmpl_loop *loop = tmpl_alloc(r, 1, sizeof *loop); /* a namespace may keep it beyond the loop */
  if (!loop) return TMPL_BREAK;
  *loop = (struct tmpl_loop){.node = node, .outer = r->scope, .index0 = -1, .depth0 = depth0};
  loop->filtered = node->loop.filter != NULL;
  if (!tmpl_iter_init(r, &loop->items, over)) return TMPL_BREAK;
  loop->has_length = !loop->filtered && tmpl_length(r, over, &loop->length);
  return run_turns(r, loop);
}

enum tmpl_flow tmpl_run_for(struct tmpl_render *r, const struct tmpl_node *node) {
  struct tmpl_value over = tmpl_eval(r, node->loop.over);
  return r->code ? TMPL_BREAK : run_over(r, node, over, 0);
}

/* loop(items) of a recursive loop: its body over other items, as text. */
struct tmpl_value tmpl_call_loop(struct tmpl_render *r, struct tmpl_loop *loop,
                                 const struct tmpl_args *args) {
  if (!loop->node->loop.recursive)
    return tmpl_fail(r, TL_EINVAL, "the loop must have the 'recursive' marker to be called recursively");
  if (args->n != 1 || args->n_named) return tmpl_fail(r, TL_EINVAL, "loop() takes one argument");
  struct tmpl_scope *scope = r->scope;
  struct tmpl_out *outer = r->out, *out = tmpl_out_new(r);
  if (tmpl_enter(r) && out) {
    r->out = out;
    r->scope = loop->outer;
    run_over(r, loop->node, args->items[0], loop->depth0 + 1);
    r->scope = scope;
    r->out = outer;
  }
  tmpl_leave(r);
  return tmpl_out_value(r, out);
}
