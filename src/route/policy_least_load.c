/* SPDX-License-Identifier: MIT */
/* Least load first. Above MOST_READ replicas the better of two that chance chose:
 * nearly as even (Mitzenmacher 2001), and it reads two lines that other loops
 * write instead of all of them. */
#include "route/route_private.h"
#include "tokenlane/base/hash.h"

#define MOST_READ 16

static void swap(unsigned *order, unsigned i, unsigned k) {
  unsigned replica = order[i];
  order[i] = order[k];
  order[k] = replica;
}

/* The rest stays in turn, for when both are full. */
static void better_of_two(const struct tl_route *route, uint32_t turn, unsigned *order, unsigned n) {
  uint64_t chance = tl_hash_u64(turn);
  swap(order, 0, (unsigned)((uint32_t)chance % n));
  swap(order, 1, 1 + (unsigned)((chance >> 32) % (n - 1)));
  if (route_load(&route->replicas[order[1]]) < route_load(&route->replicas[order[0]])) swap(order, 0, 1);
}

static void best(const struct tl_route *route, const struct tl_route_ask *ask, uint32_t turn, unsigned *order, unsigned n) {
  (void)ask;
  if (n > MOST_READ) {
    better_of_two(route, turn, order, n);
    return;
  }
  unsigned at = 0;
  int64_t least = route_load(&route->replicas[order[0]]);
  for (unsigned i = 1; i < n; i++) {
    int64_t load = route_load(&route->replicas[order[i]]);
    if (load >= least) continue;
    least = load;
    at = i;
  }
  swap(order, 0, at);
}

static void rest(const struct tl_route *route, unsigned *order, unsigned n) {
  if (n < MOST_READ) route_sort_by_load(route, order, n);
}

const struct route_policy route_least_load = {best, rest};
