/* SPDX-License-Identifier: MIT */
/* Expressions to one automaton of all rules, in which a state may have several ways for a byte and ways for nothing
 * (Thompson 1968). Work is listed, not recursive: expressions may be as deep as they are long. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_build.h"

/* `node` is to lead from one state to another. A repetition that has no end loops at a state of its own, so a way into
 * `from` or out of `to` never gets into another expression's loop. */
struct work {
  gr_node node;
  uint32_t from, to;
};

struct build {
  struct gr_nfa *nfa;
  struct gr_ir *ir;
  struct work *work;
  uint32_t n_work, work_capacity;
  uint32_t *reached; /* rules whose bodies are still to be built */
  uint32_t n_reached, reached_capacity;
  int failed;
};

static void fail(struct build *b, int code) {
  if (!b->failed) b->failed = code;
}

static uint32_t add_state(struct build *b) {
  struct gr_nfa *nfa = b->nfa;
  if (!gr_spend(b->ir->fuel, GR_COST_STATE)) fail(b, TL_ELIMIT);
  if (!gr_grow(&nfa->first, &nfa->capacity, nfa->n, 1, sizeof *nfa->first)) fail(b, TL_ENOMEM);
  if (b->failed) return 0;
  nfa->first[nfa->n] = GR_NONE;
  return nfa->n++;
}

static void add_edge(struct build *b, uint32_t from, struct gr_nfa_edge edge) {
  struct gr_nfa *nfa = b->nfa;
  if (!gr_spend(b->ir->fuel, GR_COST_EDGE)) fail(b, TL_ELIMIT);
  if (!gr_grow(&nfa->edges, &nfa->edges_capacity, nfa->n_edges, 1, sizeof *nfa->edges)) fail(b, TL_ENOMEM);
  if (b->failed) return;
  edge.next = nfa->first[from];
  nfa->edges[nfa->n_edges] = edge;
  nfa->first[from] = nfa->n_edges++;
}

static void add_bytes(struct build *b, uint32_t from, uint32_t to, uint8_t low, uint8_t high) {
  add_edge(b, from, (struct gr_nfa_edge){.to = to, .rule = GR_NONE, .low = low, .high = high});
}

static void add_free(struct build *b, uint32_t from, uint32_t to) {
  add_bytes(b, from, to, 1, 0);
}

static void later(struct build *b, gr_node node, uint32_t from, uint32_t to) {
  if (!gr_spend(b->ir->fuel, GR_COST_EDGE)) fail(b, TL_ELIMIT);
  if (!gr_grow(&b->work, &b->work_capacity, b->n_work, 1, sizeof *b->work)) fail(b, TL_ENOMEM);
  if (!b->failed) b->work[b->n_work++] = (struct work){node, from, to};
}

/* Entry and exit of a rule whose body is still to be built. */
static void reach(struct build *b, uint32_t rule) {
  struct gr_nfa_rule *reached = &b->nfa->rules[rule];
  if (reached->entry != GR_NONE || (rule < b->ir->n_rules && b->ir->rules[rule].string)) return;
  reached->entry = add_state(b);
  reached->exit = add_state(b);
  if (!gr_grow(&b->reached, &b->reached_capacity, b->n_reached, 1, sizeof *b->reached)) fail(b, TL_ENOMEM);
  if (!b->failed) b->reached[b->n_reached++] = rule;
}

static void repeat(struct build *b, const struct gr_expr *expr, uint32_t from, uint32_t to) {
  uint32_t at = from;
  for (uint32_t i = 0; i < expr->min && !b->failed; i++) {
    uint32_t next = add_state(b);
    later(b, expr->a, at, next);
    at = next;
  }
  if (expr->max == GR_MANY) {
    uint32_t loop = add_state(b);
    add_free(b, at, loop);
    add_free(b, loop, to);
    later(b, expr->a, loop, loop);
    return;
  }
  for (uint32_t i = expr->min; i < expr->max && !b->failed; i++) {
    uint32_t next = add_state(b);
    add_free(b, at, to);
    later(b, expr->a, at, next);
    at = next;
  }
  add_free(b, at, to);
}

static void build_one(struct build *b, struct work work) {
  struct gr_expr expr = b->ir->exprs[work.node];
  uint32_t at = work.from, middle;
  switch (expr.kind) {
    case GR_EMPTY: add_free(b, at, work.to); break;
    case GR_NOTHING: break;
    case GR_RANGE: add_bytes(b, at, work.to, (uint8_t)expr.a, (uint8_t)expr.b); break;
    case GR_BYTES:
      for (uint32_t i = 0; i < expr.b && !b->failed; i++) {
        uint8_t byte = (uint8_t)b->ir->bytes[expr.a + i];
        uint32_t next = i + 1 == expr.b ? work.to : add_state(b);
        add_bytes(b, at, next, byte, byte);
        at = next;
      }
      break;
    case GR_SEQ:
      middle = add_state(b);
      later(b, expr.a, at, middle);
      later(b, expr.b, middle, work.to);
      break;
    case GR_ALT:
      later(b, expr.a, at, work.to);
      later(b, expr.b, at, work.to);
      break;
    case GR_REPEAT: repeat(b, &expr, at, work.to); break;
    case GR_CALL:
      reach(b, expr.a);
      add_edge(b, at, (struct gr_nfa_edge){.to = work.to, .rule = expr.a});
      break;
  }
}

static void build_rule(struct build *b, uint32_t rule, gr_node body) {
  if (body == GR_NONE) return; /* never defined: it matches nothing */
  later(b, body, b->nfa->rules[rule].entry, b->nfa->rules[rule].exit);
  while (b->n_work && !b->failed) build_one(b, b->work[--b->n_work]);
}

/* --- rules that may match nothing at all --------------------------------------------------------------- */

/* Whether a rule's exit can be reached without a byte, as far as is known of the others. stamp: (n) of states. */
static bool passes(struct build *b, const struct gr_nfa_rule *rule, uint32_t *stamp, uint32_t now, uint32_t *stack) {
  const struct gr_nfa *nfa = b->nfa;
  uint32_t n = 0;
  stack[n++] = rule->entry;
  stamp[rule->entry] = now;
  while (n) {
    uint32_t state = stack[--n];
    if (state == rule->exit) return true;
    if (!gr_spend(b->ir->fuel, 1)) fail(b, TL_ELIMIT);
    for (uint32_t i = nfa->first[state]; i != GR_NONE && !b->failed; i = nfa->edges[i].next) {
      const struct gr_nfa_edge *edge = &nfa->edges[i];
      bool through = edge->rule == GR_NONE ? edge->low > edge->high : nfa->rules[edge->rule].nullable;
      if (!through || stamp[edge->to] == now) continue;
      stamp[edge->to] = now;
      stack[n++] = edge->to;
    }
  }
  return false;
}

static void find_nullable(struct build *b) {
  struct gr_nfa *nfa = b->nfa;
  uint32_t *stamp = calloc(nfa->n, sizeof *stamp), *stack = malloc(nfa->n * sizeof *stack), now = 0;
  if (!stamp || !stack) fail(b, TL_ENOMEM);
  for (bool more = true; more && !b->failed;) {
    more = false;
    for (uint32_t i = 0; i < nfa->n_rules && !b->failed; i++) {
      struct gr_nfa_rule *rule = &nfa->rules[i];
      if (rule->nullable || rule->entry == GR_NONE || !passes(b, rule, stamp, ++now, stack)) continue;
      rule->nullable = true;
      more = true;
    }
  }
  free(stamp);
  free(stack);
}

int gr_nfa_build(struct gr_nfa *nfa, struct gr_ir *ir, gr_node root) {
  struct build b = {.nfa = nfa, .ir = ir};
  *nfa = (struct gr_nfa){.n_rules = ir->n_rules + 1};
  nfa->rules = malloc(nfa->n_rules * sizeof *nfa->rules);
  if (!nfa->rules) return TL_ENOMEM;
  for (uint32_t i = 0; i < nfa->n_rules; i++) {
    bool string = i < ir->n_rules && ir->rules[i].string;
    nfa->rules[i] = (struct gr_nfa_rule){GR_NONE, GR_NONE, string && ir->rules[i].min == 0};
  }
  reach(&b, ir->n_rules);
  for (uint32_t i = 0; i < b.n_reached && !b.failed; i++)
    build_rule(&b, b.reached[i], b.reached[i] == ir->n_rules ? root : ir->rules[b.reached[i]].body);
  if (!b.failed) find_nullable(&b);
  free(b.work);
  free(b.reached);
  return b.failed;
}

void gr_nfa_done(struct gr_nfa *nfa) {
  free(nfa->first);
  free(nfa->edges);
  free(nfa->rules);
}
