/* SPDX-License-Identifier: MIT */
#include "sim_route.h"

#include <stdio.h>
#include <stdlib.h>

#include "tokenlane/sim.h"

static void must(int r, const struct tl_error *err) {
  if (r == TL_OK) return;
  fprintf(stderr, "bench: %s\n", err->message);
  exit(1);
}

void sim_route_make(struct sim_route *ret, unsigned n_replicas, unsigned n_loops, int64_t step_ns, void (*wake)(unsigned, void *)) {
  static const struct tl_model model = {.max_context = 2048, .vocab_size = 1000};
  static struct tl_sim_options sims[SIM_ROUTE_MAX];
  static char names[SIM_ROUTE_MAX][8];
  static const char *devices[SIM_ROUTE_MAX];
  struct tl_error err = {0};
  for (unsigned i = 0; i < n_replicas; i++) {
    snprintf(names[i], sizeof names[i], "sim:%u", i);
    devices[i] = names[i];
    sims[i] = (struct tl_sim_options){.base_ns = step_ns, .n_kv_blocks = 16384};
  }
  ret->metrics = tl_metrics_new();
  struct tl_engine_options o = {.model = &model, .devices = devices, .n_replicas = n_replicas, .n_loops = n_loops, .sim = sims,
                                .max_batch_size = 64, .max_batch_tokens = 512, .max_queue = 16384, .wake = wake};
  must(tl_engine_new(&o, ret->metrics, &ret->engine, &err), &err);
  struct tl_route_options r = {.policy = TL_ROUTE_LEAST_LOAD, .max_tokens = INT64_MAX / 2, .max_seqs = o.max_queue};
  must(tl_route_new(ret->engine, &r, ret->metrics, &ret->route, &err), &err);
}

void sim_route_start(struct sim_route *sims) {
  struct tl_error err = {0};
  must(tl_engine_start(sims->engine, &err), &err);
}

void sim_route_end(struct sim_route *sims) {
  tl_route_free(sims->route);
  tl_engine_free(sims->engine);
  tl_metrics_free(sims->metrics);
}
