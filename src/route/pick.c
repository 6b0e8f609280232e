/* SPDX-License-Identifier: MIT */
/* In which order replicas are tried: candidates here, their order by the policy. */
#include <string.h>

#include "route/route_private.h"

/* What a decode weighs against tokens of prefill: the steps that a newcomer looks
 * ahead, in each of which a running decode takes one token of the budget. How long it
 * will really run is not known (max_tokens is an upper bound that most answers
 * stay far below, so the reserved total says little); 32 steps is about
 * what the prefill of a long prompt takes, during which both compete. */
#define DECODE_WEIGHT 32

/* Both figures are the loops' own, written when they reserve, see a first token and
 * release: a reservation is seen by the next one at once. The worker's gauges
 * are up to a step old, and a burst within a step would all go to the same replica. */
int64_t route_load(const struct route_replica *replica) {
  /* relaxed: hints */
  int64_t prefill = atomic_load_explicit(&replica->board->prefill_tokens, memory_order_relaxed);
  int64_t decodes = atomic_load_explicit(&replica->board->decodes, memory_order_relaxed);
  return prefill + DECODE_WEIGHT * decodes;
}

int64_t tl_route_load(const struct tl_route *route, unsigned replica) {
  return route_load(&route->replicas[replica]);
}

/* By insertion: there are few, and mostly they are in order. */
void route_sort_by_load(const struct tl_route *route, unsigned *order, unsigned n) {
  int64_t loads[ROUTE_MAX_REPLICAS];
  for (unsigned i = 0; i < n; i++) {
    unsigned replica = order[i], at = i;
    int64_t load = route_load(&route->replicas[replica]);
    for (; at > 0 && loads[at - 1] > load; at--) {
      loads[at] = loads[at - 1];
      order[at] = order[at - 1];
    }
    loads[at] = load;
    order[at] = replica;
  }
}

/* Those in `state` that can hold the ask, rotated: who comes first alternates. */
static unsigned candidates(const struct tl_route *route, const struct tl_route_ask *ask, enum tl_replica_state state,
                           uint32_t turn, unsigned *ret) {
  unsigned found[ROUTE_MAX_REPLICAS], n = 0;
  for (unsigned i = 0; i < route->n_replicas; i++) {
    const struct route_replica *replica = &route->replicas[i];
    if (route_takes_work(replica, state) && ask->tokens <= replica->seq_tokens) found[n++] = i;
  }
  if (n == 0) return 0;
  unsigned first = turn % n;
  memcpy(ret, found + first, (n - first) * sizeof *ret);
  memcpy(ret + n - first, found, first * sizeof *ret);
  return n;
}

/* The order of the rest is looked for only when the best is full. */
static bool try_all(struct tl_route *route, const struct tl_route_ask *ask, uint32_t turn, unsigned *order, unsigned n,
                    unsigned *ret_replica) {
  static const struct route_policy *const policies[] = {&route_least_load, &route_round_robin, &route_prefix};
  const struct route_policy *policy = policies[route->o.policy];
  if (n > 1) policy->best(route, ask, turn, order, n);
  for (unsigned i = 0; i < n; i++) {
    if (i == 1 && policy->rest) policy->rest(route, order + 1, n - 1);
    if (!route_try_reserve(route, order[i], ask)) continue;
    *ret_replica = order[i];
    return true;
  }
  return false;
}

bool route_pick(struct tl_route *route, const struct tl_route_ask *ask, unsigned *ret_replica, unsigned *ret_n_ready) {
  unsigned order[ROUTE_MAX_REPLICAS];
  /* Only spreads. One for all loops: with one each they would begin at the same replica and meet there */
  uint32_t turn = atomic_fetch_add_explicit(&route->turn, 1, memory_order_relaxed);
  unsigned n = candidates(route, ask, TL_REPLICA_READY, turn, order);
  if (try_all(route, ask, turn, order, n, ret_replica)) return true;
  unsigned n_slow = candidates(route, ask, TL_REPLICA_DEGRADED, turn, order);
  *ret_n_ready = n + n_slow;
  return try_all(route, ask, turn, order, n_slow, ret_replica);
}
