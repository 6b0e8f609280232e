/* SPDX-License-Identifier: MIT */
#include "tokenlane/route.h"

#include <stdlib.h>

#include "route/route_private.h"
#include "tokenlane/base/clock.h"

#define DERIVED_FACTOR 8 /* reserved tokens per token of KV cache: waiting work, not only running */

int tl_route_new(struct tl_engine *engine, const struct tl_route_options *options, struct tl_metrics *metrics,
                 struct tl_route **ret, struct tl_error *err) {
  unsigned n = tl_engine_replicas(engine);
  if (n > ROUTE_MAX_REPLICAS)
    return tl_error_set(err, TL_ELIMIT, "devices", "devices: expected at most %d, got %u", ROUTE_MAX_REPLICAS, n);
  struct tl_route *route = aligned_alloc(TL_CACHE_LINE, sizeof *route);
  if (!route) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *route = (struct tl_route){.o = *options, .n_replicas = n};
  for (unsigned i = 0; i < n; i++) {
    int64_t kv_tokens = (int64_t)tl_engine_blocks(engine, i) * TL_BLOCK_TOKENS;
    route->replicas[i] = (struct route_replica){options->max_tokens ? options->max_tokens : kv_tokens * DERIVED_FACTOR,
                                                options->max_seqs, tl_engine_board(engine, i), TL_REPLICA_READY};
  }
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
  *ret_retry_after_s = route_retry_after(route);
  tl_metrics_add(shard, n_ready ? route->refused_full : route->refused_none, n_seqs);
  tl_error_set(err, TL_EBUSY, NULL, n_ready ? "the server is at its limit; try again later"
                                            : "no device is ready to serve; try again later");
  if (err) err->http_status = n_ready ? 429 : 503;
  return TL_EBUSY;
}

int tl_route_reserve(struct tl_route *route, int64_t tokens, int64_t n_seqs, struct tl_metrics_shard *shard, unsigned *ret_replica,
                     unsigned *ret_retry_after_s, struct tl_error *err) {
  int64_t began_ns = tl_now_ns();
  unsigned order[ROUTE_MAX_REPLICAS], n = route_order(route, order), i = 0;
  while (i < n && !route_try_reserve(&route->replicas[order[i]], tokens, n_seqs)) i++;
  tl_metrics_observe(shard, route->seconds, tl_now_ns() - began_ns);
  if (i == n) return refuse(route, n, n_seqs, shard, ret_retry_after_s, err);
  *ret_replica = order[i];
  return TL_OK;
}

void tl_route_set_state(struct tl_route *route, unsigned replica, enum tl_replica_state state) {
  /* pairs with the acquire load in route_is_ready */
  atomic_store_explicit(&route->replicas[replica].state, (int)state, memory_order_release);
}

enum tl_replica_state tl_route_state(const struct tl_route *route, unsigned replica) {
  return (enum tl_replica_state)atomic_load_explicit(&route->replicas[replica].state, memory_order_acquire);
}
