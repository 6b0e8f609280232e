/* SPDX-License-Identifier: MIT */
/* One automaton a rule without ambiguity for bytes: each of its states is a set of the NFA's (Rabin, Scott 1959).
 * Calls stay ways of their own, one for each called rule: whatever its callers in the set go on with is one set too. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_build.h"
#include "tokenlane/base/hash.h"

struct subset {
  uint32_t at, n, rule; /* its NFA states in `members`, ascending */
};

struct way {
  uint8_t low, high;
  uint32_t to;
};

struct subsets {
  struct tl_grammar *grammar;
  const struct gr_ir *ir;
  const struct gr_nfa *nfa;
  struct subset *sets; /* (n) by state, less GR_BODIES */
  uint32_t n, capacity;
  uint32_t *members, n_members, members_capacity;
  uint32_t *slots, n_slots; /* of sets by their hash, a power of two; 0: free, else the set's number + 1 */
  uint32_t states_capacity, steps_capacity, n_steps, calls_capacity, n_calls;
  /* scratch */
  uint32_t *stamp, now; /* (NFA states) */
  uint32_t *list, n_list, list_capacity;
  uint32_t *pending; /* (NFA states) */
  struct way *ways;
  uint32_t n_ways, ways_capacity;
  struct gr_called *called; /* to: an NFA state here */
  uint32_t n_called, called_capacity;
  int failed;
};

static void fail(struct subsets *s, int code) {
  if (!s->failed) s->failed = code;
}

static void spend(struct subsets *s, uint64_t n) {
  if (!gr_spend(s->ir->fuel, n)) fail(s, TL_ELIMIT);
}

/* --- sets ----------------------------------------------------------------------------------------- */

static void begin_set(struct subsets *s) {
  s->now++;
  s->n_list = 0;
}

/* A state and all that is reached from it for nothing. Only states that can do something are members. */
static void add_member(struct subsets *s, uint32_t rule, uint32_t state) {
  const struct gr_nfa *nfa = s->nfa;
  uint32_t n = 0;
  if (s->stamp[state] == s->now) return;
  s->stamp[state] = s->now;
  s->pending[n++] = state;
  while (n && !s->failed) {
    uint32_t at = s->pending[--n];
    bool useful = at == nfa->rules[rule].exit;
    spend(s, 1);
    for (uint32_t i = nfa->first[at]; i != GR_NONE && !s->failed; i = nfa->edges[i].next) {
      const struct gr_nfa_edge *edge = &nfa->edges[i];
      spend(s, 1);
      bool call = edge->rule != GR_NONE, free = !call && edge->low > edge->high;
      if (!free) useful = true;
      if ((!free && !(call && nfa->rules[edge->rule].nullable)) || s->stamp[edge->to] == s->now) continue;
      s->stamp[edge->to] = s->now;
      s->pending[n++] = edge->to;
    }
    if (!useful) continue;
    if (!gr_grow(&s->list, &s->list_capacity, s->n_list, 1, sizeof *s->list)) fail(s, TL_ENOMEM);
    if (!s->failed) s->list[s->n_list++] = at;
  }
}

static int by_number(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

static uint32_t hash(const uint32_t *members, uint32_t n) {
  uint64_t h = n;
  for (uint32_t i = 0; i < n; i++) h = tl_hash_u64(h ^ members[i]);
  return (uint32_t)h;
}

static void resize_slots(struct subsets *s) {
  uint32_t n = s->n_slots ? s->n_slots * 2 : 256;
  uint32_t *slots = calloc(n, sizeof *slots);
  if (!slots) {
    fail(s, TL_ENOMEM);
    return;
  }
  for (uint32_t i = 0; i < s->n; i++) {
    uint32_t at = hash(s->members + s->sets[i].at, s->sets[i].n) & (n - 1);
    while (slots[at]) at = (at + 1) & (n - 1);
    slots[at] = i + 1;
  }
  free(s->slots);
  s->slots = slots;
  s->n_slots = n;
}

/* The state of the set that begin_set and add_member made. */
static uint32_t state_of_list(struct subsets *s, uint32_t rule) {
  if (s->n_list > 1) qsort(s->list, s->n_list, sizeof *s->list, by_number);
  if (s->n * 2 >= s->n_slots) resize_slots(s);
  spend(s, 4 + s->n_list);
  if (s->failed) return 0;
  uint32_t at = hash(s->list, s->n_list) & (s->n_slots - 1);
  for (; s->slots[at]; at = (at + 1) & (s->n_slots - 1)) {
    const struct subset *set = &s->sets[s->slots[at] - 1];
    /* sets of several rules differ but for the empty one */
    if (set->n == s->n_list && set->rule == rule && !memcmp(s->members + set->at, s->list, set->n * sizeof *s->list))
      return GR_BODIES + s->slots[at] - 1;
  }
  spend(s, GR_COST_STATE + s->n_list);
  if (s->failed) return 0;
  if (!gr_grow(&s->sets, &s->capacity, s->n, 1, sizeof *s->sets) ||
      !gr_grow(&s->members, &s->members_capacity, s->n_members, s->n_list, sizeof *s->members)) {
    fail(s, TL_ENOMEM);
    return 0;
  }
  if (s->n_list) memcpy(s->members + s->n_members, s->list, s->n_list * sizeof *s->list);
  s->sets[s->n] = (struct subset){s->n_members, s->n_list, rule};
  s->n_members += s->n_list;
  s->slots[at] = ++s->n;
  return GR_BODIES + s->n - 1;
}

/* --- what a set does -------------------------------------------------------------------------------------- */

static void gather(struct subsets *s, struct subset set) {
  const struct gr_nfa *nfa = s->nfa;
  s->n_ways = s->n_called = 0;
  for (uint32_t k = 0; k < set.n; k++) {
    for (uint32_t i = nfa->first[s->members[set.at + k]]; i != GR_NONE && !s->failed; i = nfa->edges[i].next) {
      const struct gr_nfa_edge *edge = &nfa->edges[i];
      if (edge->rule != GR_NONE) {
        if (!gr_grow(&s->called, &s->called_capacity, s->n_called, 1, sizeof *s->called)) fail(s, TL_ENOMEM);
        if (!s->failed) s->called[s->n_called++] = (struct gr_called){edge->rule, edge->to};
      } else if (edge->low <= edge->high) {
        if (!gr_grow(&s->ways, &s->ways_capacity, s->n_ways, 1, sizeof *s->ways)) fail(s, TL_ENOMEM);
        if (!s->failed) s->ways[s->n_ways++] = (struct way){edge->low, edge->high, edge->to};
      }
    }
  }
}

static void add_step(struct subsets *s, uint32_t begin, struct gr_step step) {
  struct tl_grammar *g = s->grammar;
  if (s->n_steps > begin && g->steps[s->n_steps - 1].to == step.to && g->steps[s->n_steps - 1].high + 1 == step.low) {
    g->steps[s->n_steps - 1].high = step.high;
    return;
  }
  spend(s, GR_COST_EDGE);
  if (!gr_grow(&g->steps, &s->steps_capacity, s->n_steps, 1, sizeof *g->steps)) fail(s, TL_ENOMEM);
  if (!s->failed) g->steps[s->n_steps++] = step;
}

/* The set that the bytes from low to high lead to, between which no way begins or ends. */
static void add_steps_of(struct subsets *s, uint32_t rule, uint32_t begin, unsigned low, unsigned high) {
  bool some = false;
  begin_set(s);
  spend(s, 1 + s->n_ways / 8);
  for (uint32_t i = 0; i < s->n_ways && !s->failed; i++) {
    if (s->ways[i].low > low || s->ways[i].high < low) continue;
    some = true;
    add_member(s, rule, s->ways[i].to);
  }
  if (!some || s->failed) return;
  uint32_t to = state_of_list(s, rule);
  if (!s->failed) add_step(s, begin, (struct gr_step){(uint8_t)low, (uint8_t)high, to});
}

static void add_steps(struct subsets *s, uint32_t rule) {
  uint64_t border[5] = {0}; /* a bit for each byte at which ways begin or have ended */
  uint32_t begin = s->n_steps;
  unsigned low = 256;
  for (uint32_t i = 0; i < s->n_ways; i++) {
    unsigned from = s->ways[i].low, behind = s->ways[i].high + 1u;
    border[from / 64] |= 1ull << from % 64;
    border[behind / 64] |= 1ull << behind % 64;
  }
  for (unsigned word = 0; word < 5; word++) {
    for (uint64_t bits = border[word]; bits && !s->failed; bits &= bits - 1) {
      unsigned at = word * 64 + (unsigned)__builtin_ctzll(bits);
      if (low < at) add_steps_of(s, rule, begin, low, at - 1);
      low = at;
    }
  }
}

static int by_rule(const void *a, const void *b) {
  return by_number(&((const struct gr_called *)a)->rule, &((const struct gr_called *)b)->rule);
}

static void add_calls(struct subsets *s, uint32_t rule) {
  struct tl_grammar *g = s->grammar;
  if (s->n_called > 1) qsort(s->called, s->n_called, sizeof *s->called, by_rule);
  for (uint32_t i = 0; i < s->n_called && !s->failed;) {
    uint32_t called = s->called[i].rule;
    begin_set(s);
    for (; i < s->n_called && s->called[i].rule == called && !s->failed; i++) add_member(s, rule, s->called[i].back);
    uint32_t back = s->failed ? 0 : state_of_list(s, rule);
    spend(s, GR_COST_EDGE);
    if (!gr_grow(&g->calls, &s->calls_capacity, s->n_calls, 1, sizeof *g->calls)) fail(s, TL_ENOMEM);
    if (!s->failed) g->calls[s->n_calls++] = (struct gr_called){called, back};
  }
}

/* A state behind the last tells where that one's steps end. */
static void add_state(struct subsets *s, uint32_t rule, bool accepts) {
  struct tl_grammar *g = s->grammar;
  if (!gr_grow(&g->states, &s->states_capacity, g->n_states, 1, sizeof *g->states)) fail(s, TL_ENOMEM);
  if (!s->failed) g->states[g->n_states++] = (struct gr_state){s->n_steps, s->n_calls, rule, 0, accepts, false};
}

static void build_state(struct subsets *s, uint32_t number) {
  struct subset set = s->sets[number];
  uint32_t exit = s->nfa->rules[set.rule].exit;
  bool accepts = set.n && bsearch(&exit, s->members + set.at, set.n, sizeof exit, by_number);
  add_state(s, set.rule, accepts);
  gather(s, set);
  spend(s, 2 * (s->n_ways + s->n_called));
  add_steps(s, set.rule);
  add_calls(s, set.rule);
}

static void add_rules(struct subsets *s) {
  struct tl_grammar *g = s->grammar;
  g->n_rules = s->nfa->n_rules;
  g->root = g->n_rules - 1;
  g->rules = calloc(g->n_rules, sizeof *g->rules);
  if (!g->rules) fail(s, TL_ENOMEM);
  for (uint32_t i = 0; i < g->n_rules && !s->failed; i++) {
    const struct gr_nfa_rule *rule = &s->nfa->rules[i];
    if (i < g->root && s->ir->rules[i].string)
      g->rules[i] = (struct gr_ruled){GR_BODY, s->ir->rules[i].min, s->ir->rules[i].max, 0};
    if (rule->entry == GR_NONE) continue;
    begin_set(s);
    add_member(s, i, rule->entry);
    if (!s->failed) g->rules[i].entry = state_of_list(s, i);
  }
}

int gr_determinise(struct tl_grammar *grammar, const struct gr_ir *ir, const struct gr_nfa *nfa) {
  struct subsets s = {.grammar = grammar, .ir = ir, .nfa = nfa};
  s.stamp = calloc(nfa->n, sizeof *s.stamp);
  s.pending = malloc(nfa->n * sizeof *s.pending);
  if (!s.stamp || !s.pending) fail(&s, TL_ENOMEM);
  for (uint32_t i = 0; i < GR_BODIES && !s.failed; i++) add_state(&s, 0, false);
  if (!s.failed) add_rules(&s);
  for (uint32_t i = 0; i < s.n && !s.failed; i++) build_state(&s, i);
  if (!s.failed) add_state(&s, 0, false);
  if (!s.failed) grammar->n_states--;
  free(s.sets);
  free(s.members);
  free(s.slots);
  free(s.stamp);
  free(s.pending);
  free(s.list);
  free(s.ways);
  free(s.called);
  return s.failed;
}
