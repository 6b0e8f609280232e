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

enum tl_route_policy { TL_ROUTE_LEAST_LOAD, TL_ROUTE_ROUND_ROBIN, TL_ROUTE_PREFIX };

/* The monitor writes all but DRAINING, which is what a READY or DEGRADED replica
 * shows while tl_route_drain keeps work from it. */
enum tl_replica_state {
  TL_REPLICA_READY,
  TL_REPLICA_DEGRADED,    /* serves, but much slower than the others: they are tried first */
  TL_REPLICA_DRAINING,    /* gets nothing new, ends what it has */
  TL_REPLICA_QUARANTINED, /* its device failed or is late; nothing runs there */
  TL_REPLICA_RECOVERING,  /* was reset and runs its test generation */
  TL_REPLICA_OUT,         /* failed too often, or cannot be reset: until an operator resumes it */
};
#define TL_REPLICA_STATES 6

struct tl_route_options {
  enum tl_route_policy policy;
  int64_t max_tokens;     /* reserved tokens per replica before it refuses; 0: derived from its KV blocks */
  int64_t max_total;      /* and in all replicas together; 0: no limit of its own */
  int64_t max_seqs;       /* live sequences per replica */
  unsigned prefix_blocks; /* TL_ROUTE_PREFIX: leading KV blocks of the prompt that choose; 0: 8 */
  double prefix_factor;   /* the chosen one is passed over above so many times the mean load; 0: 1.5 */
  int64_t prefix_slack;   /* and so many tokens, so that an idle server keeps prefixes together */
};

/* What is to be reserved: n_seqs sequences of one prompt. */
struct tl_route_ask {
  int64_t tokens;          /* of each: prompt + most output */
  int64_t n_seqs;
  const int32_t *prompt;   /* (n_prompt) only looked at; NULL: no affinity */
  uint32_t n_prompt;
  uint32_t adapter;        /* tl_sequence.adapter: cached prefixes are its own */
  bool moved;              /* was admitted before and lost its device: no token limit is applied again */
};

/* What one sequence holds of a replica, from reserve to release. */
struct tl_room {
  unsigned replica;
  int64_t tokens, prefill;
  bool decodes; /* its first token has come */
};

struct tl_capacity {
  int64_t tokens, seqs; /* that all replicas admit together when nothing runs */
  int64_t seq_tokens;   /* that one sequence may have */
};

int tl_route_new(struct tl_engine *engine, const struct tl_route_options *options, struct tl_metrics *metrics,
                 struct tl_route **ret, struct tl_error *err);
void tl_route_free(struct tl_route *route);

/* Reserves on the best replica by the policy; the others are tried in its order.
 * *ret_room is what each of the sequences holds: make n_seqs copies. Errors:
 * TL_EBUSY with http_status 429 when all are full (*ret_retry_after_s says when
 * to try again, from backlog over measured rate, 1 .. 60), 503 when none is
 * ready. No worker hears of a refusal. Observes its own time into the routing
 * histogram through `shard`. */
int tl_route_reserve(struct tl_route *route, const struct tl_route_ask *ask, struct tl_metrics_shard *shard,
                     struct tl_room *ret_room, unsigned *ret_retry_after_s, struct tl_error *err);
/* The same without reserving: TL_OK if a replica may take it now. To be asked before a
 * request costs anything, with the least that it can need. A refusal is counted like one of tl_route_reserve. */
int tl_route_look(struct tl_route *route, const struct tl_route_ask *ask, struct tl_metrics_shard *shard,
                  unsigned *ret_retry_after_s, struct tl_error *err);
/* The sequence's first token has come: from now on it weighs as a decode. Once more does nothing. */
void tl_route_started(struct tl_route *route, struct tl_room *room);
/* Gives back what the sequence holds, exactly once, when it is gone. */
void tl_route_release(struct tl_route *route, const struct tl_room *room);

/* A request beyond it can never be served. False when no replica is ready. Any thread. */
bool tl_route_capacity(const struct tl_route *route, struct tl_capacity *ret);
/* Tokens of work that wait and run there, as least_load weighs them. Any thread. */
int64_t tl_route_load(const struct tl_route *route, unsigned replica);

/* Health, by the monitor; draining, by anyone. */
void tl_route_set_state(struct tl_route *route, unsigned replica, enum tl_replica_state state);
void tl_route_drain(struct tl_route *route, unsigned replica, bool drain);
enum tl_replica_state tl_route_state(const struct tl_route *route, unsigned replica);
const char *tl_replica_state_name(enum tl_replica_state state);

#endif
