/* SPDX-License-Identifier: MIT */
/* The coordinator: n loops choose the least loaded of REPLICAS replicas, reserve room
 * there and give it back later; one operation in GAUGES_EVERY also publishes a worker's
 * gauges. Ours is tl_route_reserve and tl_route_release on the engine's load boards;
 * the twin is a table under one mutex, with the same choice, the same limits and
 * the same time-keeping (outside the lock). One operation is a reservation and a
 * release; the time is that of the reservation. */
#include <pthread.h>
#include <stdlib.h>

#include "contention.h"
#include "sim_route.h"
#include "tokenlane/base/clock.h"

enum { REPLICAS = 16, HELD = 8, TOKENS = 192, PREFILL = 64, GAUGES_EVERY = 4, MAX_SEQS = 16384 };

struct board_ops {
  bool (*reserve)(struct tl_metrics_shard *shard, struct tl_room *ret);
  void (*release)(const struct tl_room *room);
  void (*gauges)(unsigned replica, uint64_t value);
};

static struct sim_route sims;
static struct tl_metrics_shard *shards[CONTENTION_MAX_THREADS];
static tl_metric twin_seconds;

/* --- ours ----------------------------------------------------------------------------- */

static bool ours_reserve(struct tl_metrics_shard *shard, struct tl_room *ret) {
  unsigned retry_after_s;
  struct tl_error err;
  const struct tl_route_ask ask = {.tokens = TOKENS, .n_seqs = 1, .n_prompt = PREFILL};
  return tl_route_reserve(sims.route, &ask, shard, ret, &retry_after_s, &err) == TL_OK;
}

static void ours_release(const struct tl_room *room) {
  tl_route_release(sims.route, room);
}

/* relaxed: as the worker does after each step */
static void ours_gauges(unsigned replica, uint64_t value) {
  struct tl_board *b = tl_engine_board(sims.engine, replica);
  atomic_store_explicit(&b->free_blocks, (uint32_t)value, memory_order_relaxed);
  atomic_store_explicit(&b->running, (uint32_t)value, memory_order_relaxed);
  atomic_store_explicit(&b->waiting, (uint32_t)value, memory_order_relaxed);
  atomic_store_explicit(&b->step_ns, (int64_t)value, memory_order_relaxed);
  atomic_store_explicit(&b->beat_ns, (int64_t)value, memory_order_relaxed);
}

/* --- the twin ----------------------------------------------------------------------------- */

static struct row {
  int64_t reserved_tokens, reserved_seqs, prefill, max_tokens, max_seqs, beat_ns, step_ns;
  uint32_t free_blocks, running, waiting;
  bool ready;
} table[REPLICAS];
static pthread_mutex_t table_mutex = PTHREAD_MUTEX_INITIALIZER;
static unsigned table_turn;

static bool has_room(const struct row *r, int64_t tokens) {
  return r->ready && r->reserved_seqs < r->max_seqs &&
         (r->reserved_tokens == 0 || r->reserved_tokens + tokens <= r->max_tokens);
}

static bool locked_reserve(struct tl_metrics_shard *shard, struct tl_room *ret) {
  int64_t began_ns = tl_now_ns();
  struct row *best = NULL;
  pthread_mutex_lock(&table_mutex);
  unsigned first = table_turn++;
  for (unsigned k = 0; k < REPLICAS; k++) {
    struct row *r = &table[(first + k) % REPLICAS];
    if ((!best || r->prefill < best->prefill) && has_room(r, TOKENS)) best = r;
  }
  if (best) {
    best->reserved_tokens += TOKENS;
    best->reserved_seqs++;
    best->prefill += PREFILL;
  }
  pthread_mutex_unlock(&table_mutex);
  tl_metrics_observe(shard, twin_seconds, tl_now_ns() - began_ns);
  if (best) *ret = (struct tl_room){.replica = (unsigned)(best - table), .tokens = TOKENS, .prefill = PREFILL};
  return best;
}

static void locked_release(const struct tl_room *room) {
  struct row *r = &table[room->replica];
  pthread_mutex_lock(&table_mutex);
  r->reserved_tokens -= room->tokens;
  r->reserved_seqs--;
  r->prefill -= room->prefill;
  pthread_mutex_unlock(&table_mutex);
}

static void locked_gauges(unsigned replica, uint64_t value) {
  struct row *r = &table[replica];
  pthread_mutex_lock(&table_mutex);
  r->free_blocks = r->running = r->waiting = (uint32_t)value;
  r->step_ns = r->beat_ns = (int64_t)value;
  pthread_mutex_unlock(&table_mutex);
}

/* --- threads ------------------------------------------------------------------------------- */

static const struct board_ops *ops;
static pthread_t threads[CONTENTION_MAX_THREADS];
static unsigned n_running;
static struct contention_tally *tally_of;

static void *run(void *argument) {
  unsigned me = (unsigned)(uintptr_t)argument, n_held = 0;
  struct tl_room held[HELD];
  struct contention_tally *tally = &tally_of[me];
  while (!contention_is_over()) {
    unsigned at = (unsigned)(tally->n_ops % HELD);
    if (n_held == HELD) {
      ops->release(&held[at]);
      n_held--;
    }
    if (tally->n_ops % GAUGES_EVERY == 0) ops->gauges(me % REPLICAS, tally->n_ops);
    int64_t began_ns = contention_begin(tally);
    if (!ops->reserve(shards[me], &held[at])) abort(); /* the limits are far away */
    n_held++;
    contention_count(tally, began_ns);
  }
  for (unsigned i = 0; i < n_held; i++) ops->release(&held[i]);
  return NULL;
}

static void wake_nobody(unsigned loop, void *context) {
  (void)loop;
  (void)context;
}

/* An engine that is never started: only its boards are used. */
static void make_route(void) {
  for (unsigned i = 0; i < REPLICAS; i++) table[i] = (struct row){.max_tokens = INT64_MAX / 2, .max_seqs = MAX_SEQS, .ready = true};
  sim_route_make(&sims, REPLICAS, 1, 0, wake_nobody);
  static const double bounds[] = {250e-9, 500e-9, 1e-6, 2.5e-6, 5e-6, 10e-6, 20e-6, 50e-6, 100e-6, 250e-6, 1e-3};
  twin_seconds = tl_metrics_histogram(sims.metrics, "twin_seconds", "", NULL, bounds, sizeof bounds / sizeof *bounds, 1e-9);
  for (unsigned i = 0; i < CONTENTION_MAX_THREADS; i++) shards[i] = tl_metrics_shard_new(sims.metrics);
}

static void start(const struct contention_variant *variant, unsigned n_threads, struct contention_tally *tallies) {
  if (!sims.route) make_route();
  ops = variant->ops;
  n_running = n_threads;
  tally_of = tallies;
  for (unsigned i = 0; i < n_threads; i++) pthread_create(&threads[i], NULL, run, (void *)(uintptr_t)i);
}

static void stop(void) {
  for (unsigned i = 0; i < n_running; i++) pthread_join(threads[i], NULL);
}

static const struct board_ops ours_ops = {ours_reserve, ours_release, ours_gauges};
static const struct board_ops locked_ops = {locked_reserve, locked_release, locked_gauges};

static const struct contention_variant variants[] = {
    {"tokenlane", start, stop, &ours_ops},
    {"one mutex", start, stop, &locked_ops},
};

const struct contention_part contention_board = {"coordinator", "reserve+release/s, reserve time", 2, 2, variants};
