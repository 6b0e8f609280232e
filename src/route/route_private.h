/* SPDX-License-Identifier: MIT */
#ifndef ROUTE_PRIVATE_H
#define ROUTE_PRIVATE_H

#include "tokenlane/route.h"

#define ROUTE_MAX_REPLICAS 64

struct route_replica {
  int64_t max_tokens, max_seqs; /* constant, as the next two */
  int64_t seq_tokens;           /* what its KV cache holds: most of one sequence */
  struct tl_board *board;
  _Atomic int state;            /* enum tl_replica_state but DRAINING; the monitor writes */
  _Atomic int draining;
};

struct tl_route {
  struct tl_route_options o;
  unsigned n_replicas;
  struct route_replica replicas[ROUTE_MAX_REPLICAS];
  tl_metric seconds, refused_full, refused_none;
  TL_ALIGNED _Atomic uint32_t turn; /* loops, every request: spreads */
  TL_ALIGNED _Atomic int64_t total; /* loops, every request if there is a max_total: reserved tokens of all */
};

/* admit.c: takes room on this replica; false when it is full. */
bool route_try_reserve(struct tl_route *route, unsigned replica, const struct tl_route_ask *ask);
/* What that would say now; somebody else may still be faster. */
bool route_has_room(const struct route_replica *replica, const struct tl_route_ask *ask);
bool route_total_has_room(const struct tl_route *route, int64_t tokens);
bool route_is_ready(const struct route_replica *replica);
/* As that, in this very state: READY or DEGRADED. */
bool route_takes_work(const struct route_replica *replica, enum tl_replica_state state);
/* Seconds until the least loaded replica should have room again, 1 to 60. */
unsigned route_retry_after(const struct tl_route *route);

/* pick.c: takes room on the best replica by the policy, or on the next that has some. False:
 * on none; *ret_n_ready says how many could have taken it. */
bool route_pick(struct tl_route *route, const struct tl_route_ask *ask, unsigned *ret_replica, unsigned *ret_n_ready);
int64_t route_load(const struct route_replica *replica);
/* Puts order[0 .. n) into ascending order of load; equal ones keep theirs. */
void route_sort_by_load(const struct tl_route *route, unsigned *order, unsigned n);

/* policy_*.c: order[0 .. n), at least two candidates that come rotated by `turn`. */
struct route_policy {
  /* Puts the best one first. */
  void (*best)(const struct tl_route *route, const struct tl_route_ask *ask, uint32_t turn, unsigned *order, unsigned n);
  /* The best one was full: the order of those behind it. NULL: it stays. */
  void (*rest)(const struct tl_route *route, unsigned *order, unsigned n);
};
extern const struct route_policy route_least_load, route_prefix, route_round_robin;

#endif
