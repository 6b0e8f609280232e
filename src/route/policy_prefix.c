/* SPDX-License-Identifier: MIT */
/* Prompts that begin alike go to the replica that has their beginning in its
 * prefix cache. Rendezvous hashing: each (prompt, replica) has a weight, the highest
 * wins; when a replica goes only its own prompts move. Bounded load (Mirrokni,
 * Thorup, Zadimoghaddam 2018): one that is a factor above the mean is passed over
 * for the next by weight, so that a popular prefix spreads as far as it must. */
#include "route/route_private.h"
#include "tokenlane/base/hash.h"

/* Whole blocks only, as the cache shares them; and only the first ones, so that the next
 * turn of a conversation finds the replica of the one before. False: too short. */
static bool key_of(const struct tl_route *route, const struct tl_route_ask *ask, uint64_t *ret) {
  uint32_t blocks = ask->prompt ? ask->n_prompt / TL_BLOCK_TOKENS : 0;
  if (blocks > route->o.prefix_blocks) blocks = route->o.prefix_blocks;
  if (blocks == 0) return false;
  *ret = tl_hash_bytes(ask->prompt, (size_t)blocks * TL_BLOCK_TOKENS * sizeof *ask->prompt, ask->adapter, 0);
  return true;
}

/* The most that a replica may have to be chosen by its weight. */
static int64_t bound(const struct tl_route *route, const struct tl_route_ask *ask, const unsigned *order, unsigned n) {
  int64_t sum = ask->n_prompt * ask->n_seqs;
  for (unsigned i = 0; i < n; i++) sum += route_load(&route->replicas[order[i]]);
  return (int64_t)(route->o.prefix_factor * (double)sum / n) + route->o.prefix_slack;
}

/* Those within the bound come first, by weight; then the others, by load. */
static void best(const struct tl_route *route, const struct tl_route_ask *ask, uint32_t turn, unsigned *order, unsigned n) {
  uint64_t key, weights[ROUTE_MAX_REPLICAS];
  if (!key_of(route, ask, &key)) {
    route_least_load.best(route, ask, turn, order, n);
    route_least_load.rest(route, order + 1, n - 1);
    return;
  }
  int64_t most = bound(route, ask, order, n);
  unsigned n_within = 0, over[ROUTE_MAX_REPLICAS], n_over = 0;
  for (unsigned i = 0; i < n; i++) {
    unsigned replica = order[i], at = n_within;
    if (route_load(&route->replicas[replica]) > most) {
      over[n_over++] = replica;
      continue;
    }
    uint64_t weight = tl_hash_u64(key ^ tl_hash_u64(replica + 1));
    for (; at > 0 && weights[at - 1] < weight; at--) {
      weights[at] = weights[at - 1];
      order[at] = order[at - 1];
    }
    weights[at] = weight;
    order[at] = replica;
    n_within++;
  }
  route_sort_by_load(route, over, n_over);
  for (unsigned i = 0; i < n_over; i++) order[n_within + i] = over[i];
}

const struct route_policy route_prefix = {best, NULL};
