/* SPDX-License-Identifier: MIT */
#include "tokenlane/route.h"

#include <stdlib.h>

#include "route/route_private.h"
#include "tokenlane/base/clock.h"

#define DERIVED_FACTOR 8    /* reserved tokens per token of KV cache: waiting work, not only running */
#define STANDARD_BLOCKS 8   /* 128 tokens: past most greetings, within most system prompts */
#define STANDARD_FACTOR 1.5
#define NONE_READY_RETRY_S 5 /* a reset and a test generation are mostly done by then */

static void init_replica(struct route_replica *replica, const struct tl_route_options *o, struct tl_engine *engine, unsigned i) {
  int64_t kv_tokens = (int64_t)tl_engine_blocks(engine, i) * TL_BLOCK_TOKENS, context = tl_engine_max_context(engine);
  /* a model that pools has no KV cache: the number of sequences is bound enough */
  int64_t derived = kv_tokens ? kv_tokens * DERIVED_FACTOR : o->max_seqs * context;
  *replica = (struct route_replica){.max_tokens = o->max_tokens ? o->max_tokens : derived,
                                    .max_seqs = o->max_seqs,
                                    .seq_tokens = kv_tokens ? kv_tokens : context,
                                    .board = tl_engine_board(engine, i),
                                    .state = TL_REPLICA_READY};
}

int tl_route_new(struct tl_engine *engine, const struct tl_route_options *options, struct tl_metrics *metrics,
                 struct tl_route **ret, struct tl_error *err) {
  unsigned n = tl_engine_replicas(engine);
  if (n > ROUTE_MAX_REPLICAS)
    return tl_error_set(err, TL_ELIMIT, "devices", "devices: expected at most %d, got %u", ROUTE_MAX_REPLICAS, n);
  struct tl_route *route = aligned_alloc(TL_CACHE_LINE, sizeof *route);
  if (!route) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *route = (struct tl_route){.o = *options, .n_replicas = n};
  if (route->o.prefix_blocks == 0) route->o.prefix_blocks = STANDARD_BLOCKS;
  if (route->o.prefix_factor == 0) route->o.prefix_factor = STANDARD_FACTOR;
  for (unsigned i = 0; i < n; i++) init_replica(&route->replicas[i], options, engine, i);
  static const double bounds[] = {250e-9, 500e-9, 1e-6, 2.5e-6, 5e-6, 10e-6, 20e-6, 50e-6, 100e-6, 250e-6, 1e-3};
  route->seconds = tl_metrics_histogram(metrics, "tokenlane_route_seconds", "Time to choose a replica and reserve room.",
                                        NULL, bounds, sizeof bounds / sizeof *bounds, 1e-9);
  const char *help = "Sequences that no replica took.";
  route->refused_full = tl_metrics_counter(metrics, "tokenlane_route_refused_total", help, "reason=\"full\"");
  route->refused_none = tl_metrics_counter(metrics, "tokenlane_route_refused_total", help, "reason=\"not_ready\"");
  *ret = route;
  return TL_OK;
}

void tl_route_free(struct tl_route *route) {
  free(route);
}

static int refuse(struct tl_route *route, unsigned n_ready, int64_t n_seqs, struct tl_metrics_shard *shard, unsigned *ret_retry_after_s,
                  struct tl_error *err) {
  *ret_retry_after_s = n_ready ? route_retry_after(route) : NONE_READY_RETRY_S;
  tl_metrics_add(shard, n_ready ? route->refused_full : route->refused_none, n_seqs);
  tl_error_set(err, TL_EBUSY, NULL, n_ready ? "the server is at its limit; try again later"
                                            : "no device is ready to serve; try again later");
  if (err) err->http_status = n_ready ? 429 : 503;
  return TL_EBUSY;
}

int tl_route_reserve(struct tl_route *route, const struct tl_route_ask *ask, struct tl_metrics_shard *shard,
                     struct tl_room *ret_room, unsigned *ret_retry_after_s, struct tl_error *err) {
  int64_t began_ns = tl_now_ns();
  unsigned replica, n_ready;
  bool found = route_pick(route, ask, &replica, &n_ready);
  tl_metrics_observe(shard, route->seconds, tl_now_ns() - began_ns);
  if (!found) return refuse(route, n_ready, ask->n_seqs, shard, ret_retry_after_s, err);
  *ret_room = (struct tl_room){.replica = replica, .tokens = ask->tokens, .prefill = ask->n_prompt};
  return TL_OK;
}

int tl_route_look(struct tl_route *route, const struct tl_route_ask *ask, struct tl_metrics_shard *shard,
                  unsigned *ret_retry_after_s, struct tl_error *err) {
  unsigned n_ready = 0;
  bool total = route_total_has_room(route, ask->tokens * ask->n_seqs);
  for (unsigned i = 0; i < route->n_replicas; i++) {
    const struct route_replica *replica = &route->replicas[i];
    if (!route_is_ready(replica) || ask->tokens > replica->seq_tokens) continue;
    if (total && route_has_room(replica, ask)) return TL_OK;
    n_ready++;
  }
  return refuse(route, n_ready, ask->n_seqs, shard, ret_retry_after_s, err);
}

/* --- states ------------------------------------------------------------------------------- */

void tl_route_set_state(struct tl_route *route, unsigned replica, enum tl_replica_state state) {
  /* pairs with the acquire load in route_is_ready */
  atomic_store_explicit(&route->replicas[replica].state, (int)state, memory_order_release);
}

void tl_route_drain(struct tl_route *route, unsigned replica, bool drain) {
  atomic_store_explicit(&route->replicas[replica].draining, drain, memory_order_relaxed); /* a flag alone */
}

enum tl_replica_state tl_route_state(const struct tl_route *route, unsigned replica) {
  const struct route_replica *r = &route->replicas[replica];
  int state = atomic_load_explicit(&r->state, memory_order_acquire); /* as in route_is_ready */
  bool draining = atomic_load_explicit(&r->draining, memory_order_relaxed);
  /* relaxed: flags alone */
  uint32_t failed = atomic_load_explicit(&r->board->failed, memory_order_relaxed) & TL_FAILED_MASK;
  if (state != TL_REPLICA_READY && state != TL_REPLICA_DEGRADED) return (enum tl_replica_state)state;
  if (failed == TL_FAILED) return TL_REPLICA_QUARANTINED; /* the monitor has not looked yet */
  return draining ? TL_REPLICA_DRAINING : (enum tl_replica_state)state;
}

const char *tl_replica_state_name(enum tl_replica_state state) {
  static const char *const names[TL_REPLICA_STATES] = {"ready", "degraded", "draining", "quarantined", "recovering", "out"};
  return names[state];
}
