/* SPDX-License-Identifier: MIT */
/* What makes a grammar fit to be followed: no rule calls itself before a byte, and from each state that is
 * reached an end is reached. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_build.h"

static bool is_string(const struct tl_grammar *g, uint32_t rule) {
  return g->rules[rule].entry == GR_BODY;
}

static uint16_t larger(uint16_t a, uint16_t b) {
  return a > b ? a : b;
}

/* --- ends --------------------------------------------------------------------------------------- */

static uint16_t need_of_call(const struct tl_grammar *g, struct gr_called called) {
  uint16_t inside = g->rules[called.rule].need, behind = g->states[called.back].need;
  if (inside == GR_ENDLESS || behind == GR_ENDLESS) return GR_ENDLESS;
  return larger((uint16_t)(inside < GR_ENDLESS - 1 ? inside + 1 : inside), behind);
}

static uint16_t need_of(const struct tl_grammar *g, const struct gr_state *state) {
  uint16_t least = state->accepts ? 0 : GR_ENDLESS;
  for (uint32_t i = state->steps; i < state[1].steps; i++)
    if (g->states[g->steps[i].to].need < least) least = g->states[g->steps[i].to].need;
  for (uint32_t i = state->calls; i < state[1].calls; i++) {
    uint16_t need = need_of_call(g, g->calls[i]);
    if (need < least) least = need;
  }
  return least;
}

/* Until nothing changes; from the last state to the first, since most ways lead to later ones. */
static int find_needs(struct tl_grammar *g, uint64_t *fuel) {
  for (uint32_t i = GR_BODIES; i < g->n_states; i++) g->states[i].need = GR_ENDLESS;
  for (uint32_t i = 0; i < g->n_rules; i++) g->rules[i].need = is_string(g, i) ? 0 : GR_ENDLESS;
  for (bool more = true; more;) {
    more = false;
    for (uint32_t i = g->n_states; i-- > GR_BODIES;) {
      uint16_t need = need_of(g, &g->states[i]);
      const struct gr_state *state = &g->states[i];
      if (!gr_spend(fuel, 1 + state[1].steps - state->steps + state[1].calls - state->calls)) return TL_ELIMIT;
      if (need == g->states[i].need) continue;
      g->states[i].need = need;
      more = true;
    }
    for (uint32_t i = 0; i < g->n_rules; i++)
      if (g->rules[i].entry > GR_BODY) g->rules[i].need = g->states[g->rules[i].entry].need;
  }
  return TL_OK;
}

static void remove_dead(struct tl_grammar *g) {
  uint32_t n_steps = 0, n_calls = 0;
  for (uint32_t i = GR_BODIES; i < g->n_states; i++) {
    struct gr_state *state = &g->states[i];
    uint32_t steps = state->steps, calls = state->calls;
    state->steps = n_steps;
    state->calls = n_calls;
    for (uint32_t k = steps; k < state[1].steps; k++)
      if (g->states[g->steps[k].to].need != GR_ENDLESS) g->steps[n_steps++] = g->steps[k];
    for (uint32_t k = calls; k < state[1].calls; k++)
      if (need_of_call(g, g->calls[k]) != GR_ENDLESS) g->calls[n_calls++] = g->calls[k];
  }
  g->states[g->n_states].steps = n_steps;
  g->states[g->n_states].calls = n_calls;
  for (uint32_t i = GR_BODIES; i < g->n_states; i++)
    g->states[i].plain = !g->states[i].accepts && g->states[i].calls == g->states[i + 1].calls;
}

/* --- what is reached ----------------------------------------------------------------------------- */

static void reach(uint32_t state, bool *reached, uint32_t *pending, uint32_t *n) {
  if (reached[state]) return;
  reached[state] = true;
  pending[(*n)++] = state;
}

/* What is left after remove_dead. ret: (n_states), false before. */
static int find_reached(const struct tl_grammar *g, bool *ret) {
  uint32_t *pending = malloc(g->n_states * sizeof *pending), n = 0;
  if (!pending) return TL_ENOMEM;
  reach(g->rules[g->root].entry, ret, pending, &n);
  while (n) {
    const struct gr_state *state = &g->states[pending[--n]];
    for (uint32_t i = state->steps; i < state[1].steps; i++) reach(g->steps[i].to, ret, pending, &n);
    for (uint32_t i = state->calls; i < state[1].calls; i++) {
      reach(g->calls[i].back, ret, pending, &n);
      if (!is_string(g, g->calls[i].rule)) reach(g->rules[g->calls[i].rule].entry, ret, pending, &n);
    }
  }
  free(pending);
  return TL_OK;
}

/* --- left recursion -------------------------------------------------------------------------------- */

/* Whether a rule is met again among those that are called before its first byte: depth first, by a list. */
static int find_left_recursion(const struct tl_grammar *g, const bool *reached, bool *ret) {
  enum { NEW, OPEN, DONE };
  uint8_t *mark = calloc(g->n_rules, sizeof *mark);
  uint32_t *stack = malloc(g->n_rules * sizeof *stack), *next = malloc(g->n_rules * sizeof *next);
  int r = mark && stack && next ? TL_OK : TL_ENOMEM;
  *ret = false;
  for (uint32_t i = 0; i < g->n_rules && r == TL_OK && !*ret; i++) {
    uint32_t n = 0;
    if (mark[i] != NEW || is_string(g, i) || !reached[g->rules[i].entry]) continue;
    mark[i] = OPEN;
    next[n] = g->states[g->rules[i].entry].calls;
    stack[n++] = i;
    while (n && !*ret) {
      const struct gr_state *entry = &g->states[g->rules[stack[n - 1]].entry];
      if (next[n - 1] == entry[1].calls) {
        mark[stack[--n]] = DONE;
        continue;
      }
      uint32_t called = g->calls[next[n - 1]++].rule;
      if (is_string(g, called) || mark[called] == DONE) continue;
      *ret = mark[called] == OPEN;
      if (*ret) continue;
      mark[called] = OPEN;
      next[n] = g->states[g->rules[called].entry].calls;
      stack[n++] = called;
    }
  }
  free(mark);
  free(stack);
  free(next);
  return r;
}

/* The masks of strings are made for a quote behind them. */
static bool strings_are_closed(const struct tl_grammar *g, const bool *reached) {
  for (uint32_t i = GR_BODIES; i < g->n_states; i++) {
    for (uint32_t k = g->states[i].calls; k < g->states[i + 1].calls && reached[i]; k++) {
      const struct gr_state *back = &g->states[g->calls[k].back];
      if (!is_string(g, g->calls[k].rule)) continue;
      if (back->accepts || back->calls != back[1].calls || back[1].steps != back->steps + 1) return false;
      if (g->steps[back->steps].low != '"' || g->steps[back->steps].high != '"') return false;
    }
  }
  return true;
}

static int check_reached(struct tl_grammar *g, struct tl_error *err) {
  bool *reached = calloc(g->n_states, sizeof *reached), found = false;
  int r = reached ? find_reached(g, reached) : TL_ENOMEM;
  if (r == TL_OK) r = find_left_recursion(g, reached, &found);
  if (found) r = tl_error_set(err, TL_EINVAL, NULL, "a rule calls itself before its first character (left recursion)");
  if (r == TL_OK && !strings_are_closed(g, reached))
    r = tl_error_set(err, TL_EINVAL, NULL, "what stands in a JSON string is not followed by a quote");
  if (r == TL_OK) r = gr_keep_reached(g, reached);
  free(reached);
  return r;
}

int gr_check(struct tl_grammar *grammar, uint64_t *fuel, struct tl_error *err) {
  int r = find_needs(grammar, fuel);
  if (r < 0) return r;
  if (grammar->rules[grammar->root].need == GR_ENDLESS) return tl_error_set(err, TL_EINVAL, NULL, "no text can match it");
  remove_dead(grammar);
  r = gr_merge(grammar, fuel);
  return r == TL_OK ? check_reached(grammar, err) : r;
}
