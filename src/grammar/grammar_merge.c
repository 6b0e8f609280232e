/* SPDX-License-Identifier: MIT */
/* States that do the same are made one. Not all of them, as minimising would (Hopcroft 1971), but those that lead to the same
 * states, from the last to the first, each looked at once: that is what alternatives have that end alike. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_build.h"
#include "tokenlane/base/hash.h"

static uint64_t hash(const struct tl_grammar *g, const struct gr_state *state, const uint32_t *same) {
  uint64_t h = tl_hash_u64(state->rule * 2ull + state->accepts);
  for (uint32_t i = state->steps; i < state[1].steps; i++)
    h = tl_hash_u64(h ^ same[g->steps[i].to] ^ (uint64_t)g->steps[i].low << 40 ^ (uint64_t)g->steps[i].high << 48);
  for (uint32_t i = state->calls; i < state[1].calls; i++) h = tl_hash_u64(h ^ same[g->calls[i].back] ^ (uint64_t)g->calls[i].rule << 32);
  return h;
}

static bool equal(const struct tl_grammar *g, const struct gr_state *a, const struct gr_state *b, const uint32_t *same) {
  uint32_t n_steps = a[1].steps - a->steps, n_calls = a[1].calls - a->calls;
  if (a->rule != b->rule || a->accepts != b->accepts || b[1].steps - b->steps != n_steps || b[1].calls - b->calls != n_calls) return false;
  for (uint32_t i = 0; i < n_steps; i++) {
    const struct gr_step *x = &g->steps[a->steps + i], *y = &g->steps[b->steps + i];
    if (x->low != y->low || x->high != y->high || same[x->to] != same[y->to]) return false;
  }
  for (uint32_t i = 0; i < n_calls; i++) {
    const struct gr_called *x = &g->calls[a->calls + i], *y = &g->calls[b->calls + i];
    if (x->rule != y->rule || same[x->back] != same[y->back]) return false;
  }
  return true;
}

/* same: (n_states) the state that stands for each. slots: (n_slots, a power of two above n_states) zeros. */
static int find_same(const struct tl_grammar *g, uint32_t *same, uint32_t *slots, uint32_t n_slots, uint64_t *fuel) {
  for (uint32_t i = 0; i < g->n_states; i++) same[i] = i;
  for (uint32_t i = g->n_states; i-- > GR_BODIES;) {
    const struct gr_state *state = &g->states[i];
    if (!gr_spend(fuel, 4 + 2 * (state[1].steps - state->steps + state[1].calls - state->calls))) return TL_ELIMIT;
    uint32_t at = (uint32_t)hash(g, state, same) & (n_slots - 1);
    while (slots[at] && !equal(g, state, &g->states[slots[at]], same)) at = (at + 1) & (n_slots - 1);
    if (slots[at]) same[i] = slots[at];
    else slots[at] = i;
  }
  return TL_OK;
}

int gr_merge(struct tl_grammar *grammar, uint64_t *fuel) {
  struct tl_grammar *g = grammar;
  uint32_t n_slots = 64;
  while (n_slots < g->n_states * 2) n_slots *= 2;
  uint32_t *same = malloc(g->n_states * sizeof *same), *slots = calloc(n_slots, sizeof *slots);
  int r = same && slots ? find_same(g, same, slots, n_slots, fuel) : TL_ENOMEM;
  for (uint32_t i = 0; i < g->states[g->n_states].steps && r == TL_OK; i++) g->steps[i].to = same[g->steps[i].to];
  for (uint32_t i = 0; i < g->states[g->n_states].calls && r == TL_OK; i++) g->calls[i].back = same[g->calls[i].back];
  for (uint32_t i = 0; i < g->n_rules && r == TL_OK; i++) g->rules[i].entry = same[g->rules[i].entry];
  free(same);
  free(slots);
  return r;
}

/* Neighbours that lead to the same are one. Returns how many steps there are then. */
static uint32_t move_steps(struct tl_grammar *g, uint32_t from, uint32_t end, uint32_t to, const uint32_t *number) {
  uint32_t begin = to;
  for (uint32_t i = from; i < end; i++) {
    struct gr_step step = g->steps[i];
    step.to = number[step.to];
    if (to > begin && g->steps[to - 1].to == step.to && g->steps[to - 1].high + 1 == step.low) g->steps[to - 1].high = step.high;
    else g->steps[to++] = step;
  }
  return to;
}

int gr_keep_reached(struct tl_grammar *g, const bool *reached) {
  uint32_t *number = calloc(g->n_states, sizeof *number), n = GR_BODIES, n_steps = 0, n_calls = 0;
  if (!number) return TL_ENOMEM;
  for (uint32_t i = GR_BODIES; i < g->n_states; i++)
    if (reached[i]) number[i] = n++;
  for (uint32_t i = GR_BODIES; i < g->n_states; i++) {
    if (!reached[i]) continue;
    struct gr_state state = g->states[i];
    uint32_t steps = n_steps, calls = n_calls;
    n_steps = move_steps(g, state.steps, g->states[i + 1].steps, n_steps, number);
    for (uint32_t k = state.calls; k < g->states[i + 1].calls; k++)
      g->calls[n_calls++] = (struct gr_called){g->calls[k].rule, number[g->calls[k].back]};
    state.steps = steps;
    state.calls = calls;
    g->states[number[i]] = state;
  }
  g->states[n].steps = n_steps;
  g->states[n].calls = n_calls;
  g->n_states = n;
  for (uint32_t i = 0; i < g->n_rules; i++) g->rules[i].entry = number[g->rules[i].entry]; /* GR_BODY: a string, or never called */
  free(number);
  return TL_OK;
}
