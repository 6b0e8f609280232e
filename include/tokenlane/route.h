/* SPDX-License-Identifier: MIT */
/* The router: which replica takes a request. Reads the engine's load boards and
 * reserves by fetch_add; no lock, no wait. Any loop thread. */
#ifndef TOKENLANE_ROUTE_H
#define TOKENLANE_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/base/error.h"
#include "tokenlane/engine.h"

struct tl_route;

enum tl_route_policy { TL_ROUTE_LEAST_LOAD, TL_ROUTE_ROUND_ROBIN };

enum tl_replica_state { TL_REPLICA_READY, TL_REPLICA_DRAINING, TL_REPLICA_OUT };

struct tl_route_options {
  enum tl_route_policy policy;
  int64_t max_tokens; /* reserved tokens per replica before it refuses; 0: derived from its KV blocks */
  int64_t max_seqs;   /* live sequences per replica */
};

int tl_route_new(struct tl_engine *engine, const struct tl_route_options *options, struct tl_metrics *metrics,
                 struct tl_route **ret, struct tl_error *err);
void tl_route_free(struct tl_route *route);

/* Reserves room for n_seqs sequences of together `tokens` (prompt + most output
 * each) on the best replica that is ready; the others are tried in order of load. Errors:
 * TL_EBUSY with http_status 429 when all are full (*ret_retry_after_s says when
 * to try again, from backlog over measured rate, 1 .. 60), 503 when none is
 * ready. Observes its own time into the routing histogram through `shard`. */
int tl_route_reserve(struct tl_route *route, int64_t tokens, int64_t n_seqs, struct tl_metrics_shard *shard, unsigned *ret_replica,
                     unsigned *ret_retry_after_s, struct tl_error *err);
/* Gives back one sequence's part of what reserve took, exactly once, when it is gone. */
void tl_route_release(struct tl_route *route, unsigned replica, int64_t tokens);

/* What all ready replicas admit together when nothing runs: a request beyond it
 * can never be served. False when none is ready. Any thread. */
bool tl_route_capacity(const struct tl_route *route, int64_t *ret_tokens, int64_t *ret_seqs);

/* Monitor or main thread. */
void tl_route_set_state(struct tl_route *route, unsigned replica, enum tl_replica_state state);
enum tl_replica_state tl_route_state(const struct tl_route *route, unsigned replica);

#endif
