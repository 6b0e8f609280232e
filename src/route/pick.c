/* SPDX-License-Identifier: MIT */
/* In which order replicas are tried. */
#include "route/route_private.h"

static int64_t load_of(const struct tl_route *route, unsigned i) {
  return atomic_load_explicit(&route->replicas[i].board->reserved_tokens, memory_order_relaxed); /* a hint */
}

/* Least loaded first, by insertion: there are few. Ties go round, so that equal
 * replicas share small requests. */
static unsigned by_load(struct tl_route *route, unsigned first, unsigned *ret) {
  int64_t loads[ROUTE_MAX_REPLICAS];
  unsigned n = 0;
  for (unsigned k = 0; k < route->n_replicas; k++) {
    unsigned i = (first + k) % route->n_replicas;
    if (!route_is_ready(&route->replicas[i])) continue;
    int64_t load = load_of(route, i);
    unsigned at = n++;
    for (; at > 0 && loads[at - 1] > load; at--) {
      loads[at] = loads[at - 1];
      ret[at] = ret[at - 1];
    }
    loads[at] = load;
    ret[at] = i;
  }
  return n;
}

static unsigned in_turn(struct tl_route *route, unsigned first, unsigned *ret) {
  unsigned n = 0;
  for (unsigned k = 0; k < route->n_replicas; k++) {
    unsigned i = (first + k) % route->n_replicas;
    if (route_is_ready(&route->replicas[i])) ret[n++] = i;
  }
  return n;
}

unsigned route_order(struct tl_route *route, unsigned *ret) {
  /* relaxed: only spreads */
  unsigned first = atomic_fetch_add_explicit(&route->turn, 1, memory_order_relaxed) % route->n_replicas;
  return route->o.policy == TL_ROUTE_ROUND_ROBIN ? in_turn(route, first, ret) : by_load(route, first, ret);
}
