/* SPDX-License-Identifier: MIT */
#ifndef ROUTE_PRIVATE_H
#define ROUTE_PRIVATE_H

#include "tokenlane/route.h"

#define ROUTE_MAX_REPLICAS 64

struct route_replica {
  int64_t max_tokens, max_seqs; /* constant */
  struct tl_board *board;       /* constant */
  _Atomic int state;            /* enum tl_replica_state; the monitor writes */
};

struct tl_route {
  struct tl_route_options o;
  unsigned n_replicas;
  struct route_replica replicas[ROUTE_MAX_REPLICAS];
  tl_metric seconds, refused_full, refused_none;
  TL_ALIGNED _Atomic uint32_t turn; /* round robin: loops, every request */
};

/* admit.c: takes room on this replica; false when it is full. */
bool route_try_reserve(struct route_replica *replica, int64_t tokens, int64_t n_seqs);
bool route_is_ready(const struct route_replica *replica);
/* Seconds until the least loaded replica should have room again, 1 to 60. */
unsigned route_retry_after(const struct tl_route *route);
/* pick.c: replicas in the order in which they are to be tried. */
unsigned route_order(struct tl_route *route, unsigned *ret);

#endif
