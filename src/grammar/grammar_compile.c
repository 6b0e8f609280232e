/* SPDX-License-Identifier: MIT */
/* Expressions to a grammar that can be followed, and who owns it. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_build.h"

/* A quarter of a second on a processor of today, and a quarter of a gigabyte meanwhile. */
const struct tl_grammar_limits tl_grammar_default_limits = {.fuel = 64000000, .max_bytes = 64u << 20};

static void destroy(struct tl_grammar *g) {
  free(g->states);
  free(g->steps);
  free(g->calls);
  free(g->rules);
  free(g->masks);
  free(g->tokens);
  free(g->words);
  free(g->rests);
  free(g);
}

static int too_large(const char *field, struct tl_error *err) {
  return tl_error_set(err, TL_ELIMIT, field, "it is too large to be compiled");
}

static int build(struct tl_grammar *g, struct gr_ir *ir, gr_node root, const struct tl_grammar_limits *limits, struct tl_error *err) {
  struct gr_nfa nfa;
  int r = gr_nfa_build(&nfa, ir, root);
  if (r == TL_OK) r = gr_determinise(g, ir, &nfa);
  gr_nfa_done(&nfa);
  if (r == TL_OK) r = gr_check(g, ir->fuel, err);
  if (r < 0) return r;
  g->bytes = sizeof *g + (g->n_states + 1) * sizeof *g->states + g->states[g->n_states].steps * sizeof *g->steps +
             g->states[g->n_states].calls * sizeof *g->calls + g->n_rules * sizeof *g->rules;
  if (g->bytes > limits->max_bytes) return TL_ELIMIT;
  r = gr_masks_build(g, ir->fuel, limits->max_bytes - g->bytes);
  return r == TL_OK && g->bytes > limits->max_bytes ? TL_ELIMIT : r;
}

int gr_compile(struct gr_ir *ir, gr_node root, const struct tl_vocabulary *vocabulary, const struct tl_grammar_limits *limits,
               const char *field, struct tl_grammar **ret, struct tl_error *err) {
  int r = gr_failed(ir);
  struct tl_grammar *g = r == TL_OK ? calloc(1, sizeof *g) : NULL;
  if (r == TL_OK && !g) r = TL_ENOMEM;
  if (r == TL_OK) {
    g->vocabulary = vocabulary;
    /* nobody else knows of it yet: relaxed */
    atomic_store_explicit(&g->n_owners, 1, memory_order_relaxed);
    r = build(g, ir, root, limits ? limits : &tl_grammar_default_limits, err);
  }
  if (r == TL_OK) {
    *ret = g;
    return TL_OK;
  }
  if (g) destroy(g);
  if (r == TL_ENOMEM) return tl_error_set(err, r, field, "no memory to compile it");
  if (r == TL_ELIMIT) return too_large(field, err);
  /* its message is there already */
  if (err) snprintf(err->field, sizeof err->field, "%s", field ? field : "");
  return r;
}

struct tl_grammar *tl_grammar_hold(struct tl_grammar *grammar) {
  /* who holds one keeps it alive meanwhile: relaxed */
  atomic_fetch_add_explicit(&grammar->n_owners, 1, memory_order_relaxed);
  return grammar;
}

void tl_grammar_release(struct tl_grammar *grammar) {
  /* pairs with itself: what all other owners read is read before the last one frees it */
  if (grammar && atomic_fetch_sub_explicit(&grammar->n_owners, 1, memory_order_acq_rel) == 1) destroy(grammar);
}

size_t tl_grammar_bytes(const struct tl_grammar *grammar) {
  return grammar->bytes;
}
