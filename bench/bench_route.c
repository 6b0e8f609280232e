/* SPDX-License-Identifier: MIT */
/* How long does routing take at a high rate? LOOPS loops choose a replica for each
 * of --rate sequences a second, reserve, and push them into the worker's inbox, while
 * REPLICAS simulated GPUs run them; each call is timed from the parsed request to
 * the inbox (tl_route_reserve, tl_engine_submit, the wake-up if one is needed).
 * Sequences come in bursts of a millisecond's worth, which is worse than evenly. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim_route.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/waker.h"

enum { LOOPS = 2, REPLICAS = 8, N_PROMPT = 8, MAX_NEW = 4, LIVE = 16384, STEP_NS = 2000000 };

struct loop {
  struct tl_waker waker;
  unsigned index;
  pthread_t thread;
  struct tl_metrics_shard *shard;
  struct tl_sequence *free[LIVE];
  unsigned n_free;
  int64_t *times;
  uint64_t n_routed, n_to_route, n_refused;
};

static struct sim_route sims;
static struct loop loops[LOOPS];
static double rate = 20000;

static void wake(unsigned loop, void *context) {
  (void)context;
  tl_waker_notify(&loops[loop].waker);
}

/* What the API's choice is: the sequence's owner. */
struct choice {
  struct tl_sequence seq; /* first */
  struct tl_room room;
};

static struct tl_sequence *make_sequence(unsigned loop) {
  struct tl_sequence *seq = calloc(1, sizeof(struct choice));
  int32_t *tokens = calloc(N_PROMPT + MAX_NEW, sizeof *tokens);
  if (!seq || !tokens) abort();
  seq->loop = loop;
  seq->tokens = tokens;
  return seq;
}

/* As new, but for its memory. */
static void reset_sequence(struct tl_sequence *seq, uint64_t number) {
  int32_t *tokens = seq->tokens;
  unsigned loop = seq->loop;
  memset((void *)seq, 0, sizeof *seq);
  seq->loop = loop;
  seq->tokens = tokens;
  seq->n_prompt = N_PROMPT;
  seq->max_new = MAX_NEW;
  seq->sampling = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .seed = number, .target = -1, .n_top = -1};
  for (unsigned i = 0; i < N_PROMPT; i++) tokens[i] = (int32_t)((number >> i) % 1000);
}

static void on_event(struct tl_sequence *seq, bool final, void *context) {
  struct loop *l = context;
  if (!final) return;
  tl_route_release(sims.route, &((struct choice *)seq)->room);
  l->free[l->n_free++] = seq;
}

static void route_one(struct loop *l) {
  struct tl_sequence *seq = l->free[--l->n_free];
  unsigned retry_after_s;
  struct tl_error err;
  reset_sequence(seq, l->n_routed * LOOPS + l->index);
  int64_t began_ns = seq->submitted_ns = tl_now_ns();
  struct tl_room *room = &((struct choice *)seq)->room;
  const struct tl_route_ask ask = {.tokens = N_PROMPT + MAX_NEW, .n_seqs = 1, .prompt = seq->tokens, .n_prompt = N_PROMPT};
  if (tl_route_reserve(sims.route, &ask, l->shard, room, &retry_after_s, &err) < 0) {
    l->free[l->n_free++] = seq;
    l->n_refused++;
    return;
  }
  seq->replica = room->replica;
  tl_engine_submit(sims.engine, room->replica, seq);
  l->times[l->n_routed++] = tl_now_ns() - began_ns;
}

static void *run_loop(void *argument) {
  struct loop *l = argument;
  int64_t start_ns = tl_now_ns();
  while (l->n_routed < l->n_to_route && l->n_refused == 0) {
    int64_t now = tl_now_ns();
    uint64_t due = (uint64_t)((double)(now - start_ns) * 1e-9 * rate / LOOPS);
    while (l->n_routed < due && l->n_routed < l->n_to_route && l->n_free > 0 && l->n_refused == 0) route_one(l);
    tl_waker_prepare(&l->waker);
    tl_engine_drain(sims.engine, l->index, on_event, l);
    tl_waker_sleep(&l->waker, TL_MS(1));
  }
  return NULL;
}

static int by_time(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static void report(double seconds, bool json) {
  uint64_t n = 0, n_refused = 0;
  for (unsigned i = 0; i < LOOPS; i++) n += loops[i].n_routed, n_refused += loops[i].n_refused;
  int64_t *all = malloc((n + 1) * sizeof *all);
  if (!all || n == 0 || n_refused) {
    fprintf(stderr, "bench_route: %llu refused\n", (unsigned long long)n_refused);
    exit(1);
  }
  uint64_t at = 0;
  for (unsigned i = 0; i < LOOPS; i++) {
    memcpy(all + at, loops[i].times, loops[i].n_routed * sizeof *all);
    at += loops[i].n_routed;
  }
  qsort(all, n, sizeof *all, by_time);
  double p50 = (double)all[n / 2] * 1e-3, p99 = (double)all[n * 99 / 100] * 1e-3, p999 = (double)all[n * 999 / 1000] * 1e-3;
  printf(json ? "{\"rate\":%.0f,\"p50_us\":%.3f,\"p99_us\":%.3f,\"p999_us\":%.3f,\"max_us\":%.3f}\n"
              : "routed %.0f sequences/s: p50 %.2f us, p99 %.2f us, p99.9 %.2f us, max %.1f us\n",
         (double)n / seconds, p50, p99, p999, (double)all[n - 1] * 1e-3);
  free(all);
}

int main(int argc, char **argv) {
  double seconds = 5;
  bool json = false;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--json") == 0)
      json = true;
    else if (i + 1 < argc && strcmp(argv[i], "--rate") == 0)
      rate = atof(argv[++i]);
    else if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0)
      seconds = atof(argv[++i]);
    else
      return fprintf(stderr, "bench_route [--json] [--rate N] [--seconds N]\n"), 2;
  }
  sim_route_make(&sims, REPLICAS, LOOPS, STEP_NS, wake);
  for (unsigned i = 0; i < LOOPS; i++) {
    struct loop *l = &loops[i];
    l->index = i;
    l->shard = tl_metrics_shard_new(sims.metrics);
    l->n_to_route = (uint64_t)(rate * seconds / LOOPS);
    l->times = calloc(l->n_to_route + 1, sizeof *l->times);
    if (!l->times) abort();
    tl_waker_init(&l->waker);
    for (l->n_free = 0; l->n_free < LIVE; l->n_free++) l->free[l->n_free] = make_sequence(i);
  }
  sim_route_start(&sims);
  int64_t began_ns = tl_now_ns();
  for (unsigned i = 0; i < LOOPS; i++) pthread_create(&loops[i].thread, NULL, run_loop, &loops[i]);
  for (unsigned i = 0; i < LOOPS; i++) pthread_join(loops[i].thread, NULL);
  double took_s = (double)(tl_now_ns() - began_ns) * 1e-9;
  tl_engine_stop(sims.engine);
  for (unsigned i = 0; i < LOOPS; i++) {
    struct loop *l = &loops[i];
    tl_engine_drain(sims.engine, i, on_event, l);
    while (l->n_free) {
      free(l->free[--l->n_free]->tokens);
      free(l->free[l->n_free]);
    }
  }
  report(took_s, json);
  for (unsigned i = 0; i < LOOPS; i++) free(loops[i].times);
  sim_route_end(&sims);
  return 0;
}
