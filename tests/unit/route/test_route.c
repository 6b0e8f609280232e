/* SPDX-License-Identifier: MIT */
/* The router over load boards that the test writes itself: the three engine
 * functions that route calls are defined here, so no engine is linked. */
#include "tokenlane/route.h"

#include <pthread.h>
#include <sched.h>

#include "unit.h"

enum { MAX_REPLICAS = 64, BLOCKS = 10 }; /* 160 tokens of KV cache each */

static struct tl_board boards[MAX_REPLICAS];
static unsigned n_replicas;

unsigned tl_engine_replicas(const struct tl_engine *engine) {
  (void)engine;
  return n_replicas;
}

uint32_t tl_engine_blocks(const struct tl_engine *engine, unsigned replica) {
  (void)engine;
  return BLOCKS + replica;
}

struct tl_board *tl_engine_board(struct tl_engine *engine, unsigned replica) {
  (void)engine;
  return &boards[replica];
}

/* --- one thread ------------------------------------------------------------------------------ */

static struct tl_metrics *metrics;
static struct tl_metrics_shard *shard;
static struct tl_route *route;

static void start(unsigned n, struct tl_route_options o) {
  struct tl_error err = {0};
  memset((void *)boards, 0, sizeof boards);
  n_replicas = n;
  metrics = tl_metrics_new();
  assert_int_equal(tl_route_new(NULL, &o, metrics, &route, &err), TL_OK);
  shard = tl_metrics_shard_new(metrics);
}

static double metric(const char *series) {
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_metrics_expose(metrics, &out);
  const char *at = strstr(tl_buffer_string(&out), series);
  assert_non_null(at);
  double value = atof(at + strlen(series) + 1);
  tl_buffer_done(&out);
  return value;
}

static void finish(void) {
  tl_route_free(route);
  tl_metrics_free(metrics);
}

static int64_t reserved(unsigned replica) {
  return atomic_load_explicit(&boards[replica].reserved_tokens, memory_order_relaxed);
}

static int64_t reserved_seqs(unsigned replica) {
  return atomic_load_explicit(&boards[replica].reserved_seqs, memory_order_relaxed);
}

/* The replica, or a negative error. */
static int reserve(int64_t tokens, struct tl_error *err) {
  unsigned replica = 999, retry = 999;
  int r = tl_route_reserve(route, tokens, 1, shard, &replica, &retry, err);
  if (r == TL_OK) {
    assert_true(replica < n_replicas);
    return (int)replica;
  }
  assert_int_equal(replica, 999);
  assert_true(retry >= 1 && retry <= 60);
  return r;
}

static void test_least_load(void **state) {
  (void)state;
  start(3, (struct tl_route_options){.max_tokens = 1000, .max_seqs = 10});
  atomic_store_explicit(&boards[0].reserved_tokens, 50, memory_order_relaxed);
  atomic_store_explicit(&boards[1].reserved_tokens, 10, memory_order_relaxed);
  atomic_store_explicit(&boards[2].reserved_tokens, 30, memory_order_relaxed);
  assert_int_equal(reserve(15, NULL), 1);
  assert_int_equal(reserve(15, NULL), 1);
  assert_int_equal(reserve(15, NULL), 2);
  assert_int_equal(reserved(1), 40);
  assert_int_equal(reserved_seqs(1), 2);
  tl_route_release(route, 1, 15);
  tl_route_release(route, 1, 15);
  tl_route_release(route, 2, 15);
  assert_true(reserved(0) == 50 && reserved(1) == 10 && reserved(2) == 30);
  assert_true(reserved_seqs(0) == 0 && reserved_seqs(1) == 0 && reserved_seqs(2) == 0);
  assert_true(metric("tokenlane_route_seconds_count") == 3);
  finish();
}

/* Equal loads go round; every replica gets its share. */
static void test_ties_and_turns(void **state) {
  (void)state;
  for (unsigned policy = TL_ROUTE_LEAST_LOAD; policy <= TL_ROUTE_ROUND_ROBIN; policy++) {
    unsigned counts[4] = {0};
    start(4, (struct tl_route_options){.policy = (enum tl_route_policy)policy, .max_tokens = 100000, .max_seqs = 1000});
    for (unsigned i = 0; i < 400; i++) counts[reserve(1, NULL)]++;
    for (unsigned i = 0; i < 4; i++) assert_int_equal(counts[i], 100);
    finish();
  }
  /* in turn means in turn, whatever the load */
  start(3, (struct tl_route_options){.policy = TL_ROUTE_ROUND_ROBIN, .max_tokens = 1000, .max_seqs = 100});
  int first = reserve(900, NULL);
  for (int i = 1; i < 9; i++) assert_int_equal(reserve(1, NULL), (first + i) % 3);
  finish();
}

static void test_limits(void **state) {
  (void)state;
  struct tl_error err = {0};
  start(2, (struct tl_route_options){.max_tokens = 100, .max_seqs = 3});
  assert_true(reserve(60, &err) >= 0 && reserve(60, &err) >= 0); /* one each */
  assert_true(reserved(0) == 60 && reserved(1) == 60);
  assert_int_equal(reserve(41, &err), TL_EBUSY);
  assert_int_equal(err.http_status, 429);
  assert_string_equal(err.message, "the server is at its limit; try again later");
  assert_true(reserved(0) == 60 && reserved(1) == 60 && reserved_seqs(0) == 1 && reserved_seqs(1) == 1); /* nothing was kept */
  assert_true(reserve(40, &err) >= 0); /* exactly full */
  for (unsigned i = 0; i < 3; i++) reserve(0, &err); /* and 3 sequences are the most */
  assert_true(reserved_seqs(0) + reserved_seqs(1) == 6);
  assert_int_equal(reserve(0, &err), TL_EBUSY);
  assert_true(metric("tokenlane_route_refused_total{reason=\"full\"}") == 2);
  assert_true(metric("tokenlane_route_refused_total{reason=\"not_ready\"}") == 0);
  finish();
  /* larger than the limit: runs when it is alone */
  start(1, (struct tl_route_options){.max_tokens = 100, .max_seqs = 3});
  assert_int_equal(reserve(500, &err), 0);
  assert_int_equal(reserve(1, &err), TL_EBUSY);
  tl_route_release(route, 0, 500);
  assert_int_equal(reserve(1, &err), 0);
  assert_int_equal(reserve(500, &err), TL_EBUSY);
  finish();
  /* no limit given: 8 times the KV cache of each */
  start(2, (struct tl_route_options){.max_seqs = 1000});
  assert_int_equal(reserve(8 * 160 + 1, &err), 0); /* alone */
  assert_int_equal(reserve(8 * 176, &err), 1);
  assert_int_equal(reserve(1, &err), TL_EBUSY);
  finish();
}

static void test_states(void **state) {
  (void)state;
  struct tl_error err = {0};
  start(3, (struct tl_route_options){.max_tokens = 1000, .max_seqs = 100});
  for (unsigned i = 0; i < 3; i++) assert_int_equal(tl_route_state(route, i), TL_REPLICA_READY);
  tl_route_set_state(route, 1, TL_REPLICA_DRAINING);
  assert_int_equal(tl_route_state(route, 1), TL_REPLICA_DRAINING);
  atomic_store_explicit(&boards[2].failed, 1, memory_order_relaxed);
  for (unsigned i = 0; i < 10; i++) assert_int_equal(reserve(1, &err), 0);
  tl_route_set_state(route, 0, TL_REPLICA_OUT);
  assert_int_equal(reserve(1, &err), TL_EBUSY);
  assert_int_equal(err.http_status, 503);
  assert_string_equal(err.message, "no device is ready to serve; try again later");
  assert_true(metric("tokenlane_route_refused_total{reason=\"not_ready\"}") == 1);
  tl_route_set_state(route, 1, TL_REPLICA_READY);
  assert_int_equal(reserve(1, &err), 1);
  finish();
}

/* Backlog over measured rate: 2000 tokens at 20 tokens a step of 50 ms are 5 s. */
static void test_retry_after(void **state) {
  (void)state;
  static const struct {
    uint64_t n_steps, n_tokens;
    int64_t step_ns, backlog;
    unsigned seconds;
  } cases[] = {{100, 2000, 50000000, 2000, 5}, {100, 2000, 50000000, 10, 1}, {100, 2000, 50000000, 200000, 60}, {0, 0, 0, 2000, 60}};
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    unsigned replica, retry = 0;
    start(1, (struct tl_route_options){.max_tokens = 10, .max_seqs = 100});
    atomic_store_explicit(&boards[0].n_steps, cases[i].n_steps, memory_order_relaxed);
    atomic_store_explicit(&boards[0].n_decode_tokens, cases[i].n_tokens / 2, memory_order_relaxed);
    atomic_store_explicit(&boards[0].n_prefill_tokens, cases[i].n_tokens / 2, memory_order_relaxed);
    atomic_store_explicit(&boards[0].step_ns, cases[i].step_ns, memory_order_relaxed);
    atomic_store_explicit(&boards[0].reserved_tokens, cases[i].backlog, memory_order_relaxed);
    assert_int_equal(tl_route_reserve(route, 1, 1, shard, &replica, &retry, NULL), TL_EBUSY);
    assert_int_equal(retry, cases[i].seconds);
    finish();
  }
}

static void test_too_many_replicas(void **state) {
  (void)state;
  struct tl_error err = {0};
  struct tl_route_options o = {.max_seqs = 1};
  struct tl_metrics *m = tl_metrics_new();
  n_replicas = 65;
  assert_int_equal(tl_route_new(NULL, &o, m, &route, &err), TL_ELIMIT);
  assert_string_equal(err.message, "devices: expected at most 64, got 65");
  tl_metrics_free(m);
  tl_route_free(NULL);
  start(MAX_REPLICAS, (struct tl_route_options){.max_tokens = 100, .max_seqs = 1});
  for (unsigned i = 0; i < MAX_REPLICAS; i++) assert_true(reserve(1, &err) >= 0);
  assert_int_equal(reserve(1, &err), TL_EBUSY);
  finish();
}

/* --- threads ------------------------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 80000 / UNIT_SLOWDOWN, MAX_TOKENS = 300, MAX_SEQS = 5 };

static _Atomic int64_t held_tokens[3], held_seqs[3]; /* what is really held: never above the limits */

static void *reserve_and_release(void *argument) {
  uint64_t random = (uint64_t)(uintptr_t)argument;
  unsigned n_taken = 0;
  struct tl_metrics_shard *none = NULL;
  for (int i = 0; i < ROUNDS; i++) {
    int64_t tokens = 1 + unit_below(&random, 150);
    unsigned replica, retry;
    if (tl_route_reserve(route, tokens, 1, none, &replica, &retry, NULL) < 0) {
      if (i % 64 == 0) sched_yield();
      continue;
    }
    n_taken++;
    int64_t all = atomic_fetch_add_explicit(&held_tokens[replica], tokens, memory_order_relaxed) + tokens;
    int64_t seqs = atomic_fetch_add_explicit(&held_seqs[replica], 1, memory_order_relaxed) + 1;
    if (all > MAX_TOKENS || seqs > MAX_SEQS) abort();
    if (unit_below(&random, 8) == 0) sched_yield();
    atomic_fetch_sub_explicit(&held_tokens[replica], tokens, memory_order_relaxed);
    atomic_fetch_sub_explicit(&held_seqs[replica], 1, memory_order_relaxed);
    tl_route_release(route, replica, tokens);
  }
  return (void *)(uintptr_t)n_taken;
}

static void test_threads(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  start(3, (struct tl_route_options){.max_tokens = MAX_TOKENS, .max_seqs = MAX_SEQS});
  for (unsigned i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, reserve_and_release, (void *)(uintptr_t)(i + 1));
  for (unsigned k = 0; k < 1000; k++) { /* meanwhile replicas come and go */
    tl_route_set_state(route, k % 3, TL_REPLICA_OUT);
    sched_yield();
    tl_route_set_state(route, k % 3, TL_REPLICA_READY);
  }
  for (unsigned i = 0; i < THREADS; i++) {
    void *n_taken;
    pthread_join(threads[i], &n_taken);
    assert_true((uintptr_t)n_taken > ROUNDS / 10);
  }
  for (unsigned i = 0; i < 3; i++) assert_true(reserved(i) == 0 && reserved_seqs(i) == 0);
  finish();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_least_load),   cmocka_unit_test(test_ties_and_turns), cmocka_unit_test(test_limits),
      cmocka_unit_test(test_states),       cmocka_unit_test(test_retry_after),    cmocka_unit_test(test_too_many_replicas),
      cmocka_unit_test(test_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
