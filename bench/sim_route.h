/* SPDX-License-Identifier: MIT */
/* An engine of simulated devices with a router on it, for benchmarks that need no HTTP. */
#ifndef SIM_ROUTE_H
#define SIM_ROUTE_H

#include "tokenlane/engine.h"
#include "tokenlane/route.h"

enum { SIM_ROUTE_MAX = 64 };

struct sim_route {
  struct tl_engine *engine;
  struct tl_route *route;
  struct tl_metrics *metrics;
};

/* Not started. Limits that nobody reaches. Ends the process when it fails. */
void sim_route_make(struct sim_route *ret, unsigned n_replicas, unsigned n_loops, int64_t step_ns, void (*wake)(unsigned, void *));
void sim_route_start(struct sim_route *sims);
void sim_route_end(struct sim_route *sims); /* drain before */

#endif
