/* SPDX-License-Identifier: MIT */
/* The router over load boards that the test writes itself: the four engine
 * functions that route calls are defined here, so no engine is linked. */
#include "tokenlane/route.h"

#include <pthread.h>
#include <sched.h>

#include "unit.h"

enum { MAX_REPLICAS = 64, CONTEXT = 512, BLOCKS = 100 }; /* 1600 tokens of KV cache each, and 16 more for each one after the first */

static struct tl_board boards[MAX_REPLICAS];
static unsigned n_replicas;
static bool pools; /* a model without a KV cache */

unsigned tl_engine_replicas(const struct tl_engine *engine) {
  (void)engine;
  return n_replicas;
}

uint32_t tl_engine_blocks(const struct tl_engine *engine, unsigned replica) {
  (void)engine;
  return pools ? 0 : BLOCKS + replica;
}

uint32_t tl_engine_max_context(const struct tl_engine *engine) {
  (void)engine;
  return CONTEXT;
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

static int64_t prefill(unsigned replica) {
  return atomic_load_explicit(&boards[replica].prefill_tokens, memory_order_relaxed);
}

static int64_t decodes(unsigned replica) {
  return atomic_load_explicit(&boards[replica].decodes, memory_order_relaxed);
}

static void assert_all_zero(void) {
  for (unsigned i = 0; i < n_replicas; i++)
    assert_true(reserved(i) == 0 && reserved_seqs(i) == 0 && prefill(i) == 0 && decodes(i) == 0 && tl_route_load(route, i) == 0);
}

static int reserve_ask(struct tl_route_ask ask, struct tl_room *ret, struct tl_error *err) {
  unsigned retry = 999;
  struct tl_room none = {.replica = 999};
  *ret = none;
  if (!ask.n_seqs) ask.n_seqs = 1;
  int r = tl_route_reserve(route, &ask, shard, ret, &retry, err);
  if (r == TL_OK)
    assert_true(ret->replica < n_replicas && ret->tokens == ask.tokens);
  else
    assert_true(ret->replica == 999 && retry >= 1 && retry <= 60);
  return r;
}

/* A prompt of so many tokens and no output: the replica, or a negative error. */
static int reserve(int64_t tokens, struct tl_error *err) {
  struct tl_room room;
  int r = reserve_ask((struct tl_route_ask){.tokens = tokens, .n_prompt = (uint32_t)tokens}, &room, err);
  return r < 0 ? r : (int)room.replica;
}

static void release(unsigned replica, int64_t tokens) {
  tl_route_release(route, &(struct tl_room){.replica = replica, .tokens = tokens, .prefill = tokens});
}

/* --- policies ------------------------------------------------------------------------------ */

static void set_load(unsigned replica, int64_t prefill_tokens, int64_t n_decodes) {
  atomic_store_explicit(&boards[replica].prefill_tokens, prefill_tokens, memory_order_relaxed);
  atomic_store_explicit(&boards[replica].decodes, n_decodes, memory_order_relaxed);
}

static void test_least_load(void **state) {
  (void)state;
  static const struct {
    int64_t prefill[3], decodes[3];
    int expected;
  } cases[] = {
      {{50, 10, 30}, {0}, 1},
      {{0, 0, 1}, {3, 2, 0}, 2},           /* a token of prefill weighs less than a decode */
      {{1000, 0, 1000}, {0, 20, 0}, 1},    /* 20 decodes less than a long prompt */
      {{1000, 0, 1000}, {0, 40, 1}, 0},    /* 40 of them more */
      {{100, 100, 100}, {2, 1, 3}, 1},
  };
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    start(3, (struct tl_route_options){.max_tokens = 1000, .max_seqs = 10});
    for (unsigned k = 0; k < 3; k++) set_load(k, cases[i].prefill[k], cases[i].decodes[k]);
    /* what is merely reserved for output does not count */
    atomic_store_explicit(&boards[cases[i].expected].reserved_tokens, 900, memory_order_relaxed);
    for (int turn = 0; turn < 4; turn++) assert_int_equal(reserve(0, NULL), cases[i].expected);
    finish();
  }
}

/* From reserve over the first token to release, and without a first token. */
static void test_the_life_of_room(void **state) {
  (void)state;
  struct tl_room room, other;
  start(2, (struct tl_route_options){.max_tokens = 1000, .max_seqs = 10});
  assert_int_equal(reserve_ask((struct tl_route_ask){.tokens = 150, .n_prompt = 100, .n_seqs = 2}, &room, NULL), TL_OK);
  struct tl_room second = room;
  unsigned at = room.replica;
  assert_true(reserved(at) == 300 && reserved_seqs(at) == 2 && prefill(at) == 200 && decodes(at) == 0);
  assert_int_equal(reserve_ask((struct tl_route_ask){.tokens = 7, .n_prompt = 5}, &other, NULL), TL_OK);
  assert_int_equal(other.replica, 1 - at);
  tl_route_started(route, &room);
  tl_route_started(route, &room);
  assert_true(reserved(at) == 300 && prefill(at) == 100 && decodes(at) == 1 && tl_route_load(route, at) > 100);
  tl_route_release(route, &room);
  assert_true(reserved(at) == 150 && reserved_seqs(at) == 1 && prefill(at) == 100 && decodes(at) == 0);
  tl_route_release(route, &second);
  tl_route_release(route, &other);
  assert_all_zero();
  assert_true(metric("tokenlane_route_seconds_count") == 2);
  finish();
}

/* The better of two: even enough, and never the one that stands far out. */
static void test_two_choices(void **state) {
  (void)state;
  start(40, (struct tl_route_options){.max_tokens = 100000, .max_seqs = 100000});
  set_load(7, 1 << 20, 0);
  unsigned counts[40] = {0}, most = 0;
  for (unsigned i = 0; i < 3900; i++) counts[reserve(10, NULL)]++;
  for (unsigned i = 0; i < 40; i++) most = counts[i] > most ? counts[i] : most;
  assert_true(counts[7] == 0 && most <= 115); /* a mean of 100 */
  finish();
  /* all but one are full: it is found */
  start(40, (struct tl_route_options){.max_tokens = 10, .max_seqs = 1});
  for (unsigned i = 0; i < 40; i++)
    if (i != 31) atomic_store_explicit(&boards[i].reserved_seqs, 1, memory_order_relaxed);
  assert_int_equal(reserve(1, NULL), 31);
  assert_int_equal(reserve(1, NULL), TL_EBUSY);
  finish();
}

static int reserve_prompt(const int32_t *prompt, uint32_t n_prompt) {
  struct tl_room room;
  assert_int_equal(reserve_ask((struct tl_route_ask){.tokens = n_prompt + 10, .prompt = prompt, .n_prompt = n_prompt}, &room, NULL), TL_OK);
  return (int)room.replica;
}

static void forget_load(void) {
  for (unsigned i = 0; i < n_replicas; i++) set_load(i, 0, 0);
}

static void test_prefix(void **state) {
  (void)state;
  enum { N = 200 };
  static int32_t prompts[N][64];
  int chosen[N];
  unsigned counts[5] = {0}, n_moved = 0;
  uint64_t random = 5;
  start(5, (struct tl_route_options){.policy = TL_ROUTE_PREFIX, .max_tokens = 1 << 30, .max_seqs = 1 << 20, .prefix_blocks = 2});
  for (unsigned i = 0; i < N; i++) {
    for (unsigned k = 0; k < 64; k++) prompts[i][k] = (int32_t)unit_below(&random, 1000);
    forget_load();
    counts[chosen[i] = reserve_prompt(prompts[i], 64)]++;
  }
  for (unsigned i = 0; i < 5; i++) assert_true(counts[i] > N / 5 / 2 && counts[i] < N / 5 * 2); /* they spread */
  for (unsigned i = 0; i < N; i++) {
    forget_load();
    prompts[i][32 + i % 32]++; /* behind the blocks that count */
    assert_int_equal(reserve_prompt(prompts[i], 33 + i % 32), chosen[i]);
    forget_load();
    prompts[i][i % 32]++;
    n_moved += reserve_prompt(prompts[i], 64) != chosen[i];
    prompts[i][i % 32]--;
  }
  assert_true(n_moved > N / 2); /* within them */
  unsigned n_apart = 0; /* an adapter's cached prefixes are elsewhere */
  for (unsigned i = 0; i < N; i++) {
    struct tl_room room;
    forget_load();
    reserve_ask((struct tl_route_ask){.tokens = 74, .prompt = prompts[i], .n_prompt = 64, .adapter = 1}, &room, NULL);
    n_apart += (int)room.replica != chosen[i];
  }
  assert_true(n_apart > N / 2);
  /* when a replica goes, only its own prompts move; when it is back, they come back */
  tl_route_set_state(route, 2, TL_REPLICA_QUARANTINED);
  for (unsigned i = 0; i < N; i++) {
    forget_load();
    int now = reserve_prompt(prompts[i], 64);
    assert_true(chosen[i] == 2 ? now != 2 : now == chosen[i]);
  }
  tl_route_set_state(route, 2, TL_REPLICA_READY);
  for (unsigned i = 0; i < N; i++) {
    forget_load();
    assert_int_equal(reserve_prompt(prompts[i], 64), chosen[i]);
  }
  finish();
}

/* One prefix for all: its replica is passed over when it has too much. */
static void test_prefix_bounded(void **state) {
  (void)state;
  static const struct {
    double factor;
    int64_t slack, load, others;
    bool stays;
  } cases[] = {
      {1.5, 0, 0, 0, true},       {1.5, 0, 100, 100, true},    {1.5, 0, 250, 100, false}, /* mean (250 + 300 + 64) / 4 */
      {2, 0, 250, 100, true},     {1.5, 100, 250, 100, true},  {1.5, 512, 500, 0, true},
      {1.5, 512, 5000, 0, false}, {1.5, 0, 4000, 4000, true},
  };
  int32_t prompt[64] = {1, 2, 3};
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    start(4, (struct tl_route_options){.policy = TL_ROUTE_PREFIX, .max_tokens = 1 << 30, .max_seqs = 1000,
                                       .prefix_factor = cases[i].factor, .prefix_slack = cases[i].slack});
    int home = reserve_prompt(prompt, 64);
    for (int k = 0; k < 4; k++) set_load((unsigned)k, k == home ? cases[i].load : cases[i].others, 0);
    int now = reserve_prompt(prompt, 64);
    assert_true((now == home) == cases[i].stays);
    finish();
  }
  /* under load it spreads: nobody is much above the mean */
  start(4, (struct tl_route_options){.policy = TL_ROUTE_PREFIX, .max_tokens = 1 << 30, .max_seqs = 10000});
  for (unsigned i = 0; i < 1000; i++) reserve_prompt(prompt, 64);
  for (unsigned i = 0; i < 4; i++) assert_true(tl_route_load(route, i) <= 16000 * 3 / 2 + 64);
  finish();
  /* too short for a block: by load */
  start(2, (struct tl_route_options){.policy = TL_ROUTE_PREFIX, .max_tokens = 1000, .max_seqs = 100});
  for (unsigned i = 0; i < 10; i++) reserve_prompt(prompt, 15);
  assert_true(prefill(0) == prefill(1));
  finish();
}

/* Equal loads go round; every replica gets its share. */
static void test_ties_and_turns(void **state) {
  (void)state;
  for (unsigned policy = TL_ROUTE_LEAST_LOAD; policy <= TL_ROUTE_PREFIX; policy++) {
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
  release(0, 500);
  assert_int_equal(reserve(1, &err), 0);
  assert_int_equal(reserve(500, &err), TL_EBUSY);
  finish();
  /* no limit given: 8 times the KV cache of each */
  start(2, (struct tl_route_options){.max_seqs = 1000});
  for (unsigned i = 0; i < 8; i++) assert_true(reserve(1600, &err) >= 0 && reserve(1600, &err) >= 0);
  for (unsigned i = 0; i < 8; i++) assert_int_equal(reserve(16, &err), 1);
  assert_int_equal(reserve(1, &err), TL_EBUSY);
  finish();
  /* what one KV cache cannot hold goes where it can be held, or nowhere */
  start(2, (struct tl_route_options){.max_seqs = 1000});
  for (unsigned i = 0; i < 4; i++) assert_int_equal(reserve(1601, &err), 1);
  assert_int_equal(reserve(1617, &err), TL_EBUSY);
  struct tl_capacity capacity;
  assert_true(tl_route_capacity(route, &capacity));
  assert_true(capacity.seq_tokens == 1616 && capacity.tokens == 8 * 3216 && capacity.seqs == 2000);
  finish();
}

/* The bound on all replicas together. */
static int look(int64_t tokens, int64_t n_seqs, struct tl_error *err) {
  unsigned retry_after_s = 0;
  struct tl_route_ask ask = {.tokens = tokens, .n_seqs = n_seqs};
  int r = tl_route_look(route, &ask, shard, &retry_after_s, err);
  assert_true(r == TL_OK ? retry_after_s == 0 : r == TL_EBUSY && retry_after_s >= 1);
  return r;
}

/* Without a KV cache the number of sequences bounds what waits, and a context what one may hold. */
static void test_capacity_without_kv(void **state) {
  (void)state;
  pools = true;
  start(2, (struct tl_route_options){.max_seqs = 10});
  pools = false;
  struct tl_capacity capacity;
  struct tl_room room;
  unsigned retry_s;
  assert_true(tl_route_capacity(route, &capacity));
  assert_true(capacity.seq_tokens == CONTEXT && capacity.seqs == 20 && capacity.tokens == 20 * CONTEXT);
  const struct tl_route_ask whole = {.tokens = CONTEXT, .n_seqs = 1, .n_prompt = CONTEXT};
  for (unsigned i = 0; i < 20; i++) assert_int_equal(tl_route_reserve(route, &whole, shard, &room, &retry_s, NULL), TL_OK);
  assert_int_equal(tl_route_reserve(route, &whole, shard, &room, &retry_s, NULL), TL_EBUSY);
  assert_true(reserved_seqs(0) == 10 && reserved_seqs(1) == 10);
  finish();
}

/* A look says what a reservation would say, and takes nothing. */
static void test_look(void **state) {
  (void)state;
  struct tl_error err = {0};
  start(2, (struct tl_route_options){.max_tokens = 100, .max_total = 150, .max_seqs = 3});
  assert_int_equal(look(1600, 1, &err), TL_OK); /* more than the limit: alone */
  assert_int_equal(look(1, 4, &err), TL_EBUSY);
  reserve(60, &err);
  reserve(60, &err);
  assert_int_equal(look(30, 1, &err), TL_OK);
  assert_int_equal(look(31, 1, &err), TL_EBUSY); /* of all */
  assert_int_equal(look(10, 3, &err), TL_EBUSY); /* sequences */
  assert_int_equal(err.http_status, 429);
  assert_int_equal(look(10, 2, &err), TL_OK);
  assert_true(reserved(0) == 60 && reserved(1) == 60 && reserved_seqs(0) == 1 && reserved_seqs(1) == 1);
  assert_true(metric("tokenlane_route_refused_total{reason=\"full\"}") == 4 + 1 + 3);
  tl_route_set_state(route, 1, TL_REPLICA_OUT);
  assert_int_equal(look(1601, 1, &err), TL_EBUSY); /* only the other could hold it */
  assert_int_equal(err.http_status, 503);
  tl_route_drain(route, 0, true);
  assert_int_equal(look(1, 1, &err), TL_EBUSY);
  assert_int_equal(err.http_status, 503);
  finish();
}

/* The best one is full: the next by load is taken, not just any. */
static void test_next_by_load(void **state) {
  (void)state;
  struct tl_error err = {0};
  start(4, (struct tl_route_options){.max_tokens = 100000, .max_seqs = 1});
  for (unsigned i = 0; i < 4; i++) set_load(i, 100 * (4 - i), 0);
  for (int i = 3; i >= 0; i--) assert_int_equal(reserve(1, &err), i);
  assert_int_equal(reserve(1, &err), TL_EBUSY);
  finish();
}

static void test_total(void **state) {
  (void)state;
  struct tl_error err = {0};
  struct tl_room rooms[4], room;
  struct tl_capacity capacity;
  start(4, (struct tl_route_options){.max_tokens = 100, .max_total = 250, .max_seqs = 10});
  assert_true(tl_route_capacity(route, &capacity) && capacity.tokens == 250);
  for (unsigned i = 0; i < 3; i++) assert_int_equal(reserve_ask((struct tl_route_ask){.tokens = 80, .n_prompt = 40}, &rooms[i], &err), TL_OK);
  assert_int_equal(reserve(11, &err), TL_EBUSY);
  assert_int_equal(err.http_status, 429);
  assert_int_equal(reserve_ask((struct tl_route_ask){.tokens = 10}, &rooms[3], &err), TL_OK);
  assert_int_equal(reserve(1, &err), TL_EBUSY);
  /* one that lost its device was let in once: it is not refused for tokens, but for sequences */
  assert_int_equal(reserve_ask((struct tl_route_ask){.tokens = 200, .moved = true}, &room, &err), TL_OK);
  tl_route_release(route, &room);
  for (unsigned i = 0; i < 4; i++) atomic_fetch_add_explicit(&boards[i].reserved_seqs, 10, memory_order_relaxed);
  assert_int_equal(reserve_ask((struct tl_route_ask){.tokens = 1, .moved = true}, &room, &err), TL_EBUSY);
  for (unsigned i = 0; i < 4; i++) atomic_fetch_sub_explicit(&boards[i].reserved_seqs, 10, memory_order_relaxed);
  for (unsigned i = 0; i < 4; i++) tl_route_release(route, &rooms[i]);
  assert_all_zero();
  assert_true(reserve(500, &err) >= 0); /* alone */
  assert_int_equal(reserve(1, &err), TL_EBUSY);
  finish();
}

static void test_states(void **state) {
  (void)state;
  struct tl_error err = {0};
  struct tl_capacity capacity;
  start(4, (struct tl_route_options){.max_tokens = 1000, .max_seqs = 100});
  for (unsigned i = 0; i < 4; i++) assert_int_equal(tl_route_state(route, i), TL_REPLICA_READY);
  tl_route_drain(route, 1, true);
  assert_int_equal(tl_route_state(route, 1), TL_REPLICA_DRAINING);
  atomic_store_explicit(&boards[2].failed, 4 + TL_FAILED, memory_order_relaxed);
  atomic_store_explicit(&boards[3].failed, 4 + TL_FAILED_TRIED, memory_order_relaxed);
  for (unsigned i = 0; i < 10; i++) assert_int_equal(reserve(1, &err), 0);
  static const enum tl_replica_state closed[] = {TL_REPLICA_QUARANTINED, TL_REPLICA_RECOVERING, TL_REPLICA_OUT};
  for (unsigned i = 0; i < UNIT_COUNT(closed); i++) {
    tl_route_set_state(route, 0, closed[i]);
    assert_int_equal(reserve(1, &err), TL_EBUSY);
    assert_int_equal(err.http_status, 503);
  }
  assert_string_equal(err.message, "no device is ready to serve; try again later");
  assert_true(metric("tokenlane_route_refused_total{reason=\"not_ready\"}") == 3);
  assert_false(tl_route_capacity(route, &capacity));
  assert_true(capacity.seqs == 400); /* those that are away come back */
  tl_route_drain(route, 1, false);
  assert_int_equal(reserve(1, &err), 1);
  /* a fault while it drains shows, and it drains again after it */
  tl_route_drain(route, 1, true);
  tl_route_set_state(route, 1, TL_REPLICA_QUARANTINED);
  assert_int_equal(tl_route_state(route, 1), TL_REPLICA_QUARANTINED);
  tl_route_set_state(route, 1, TL_REPLICA_READY);
  assert_int_equal(tl_route_state(route, 1), TL_REPLICA_DRAINING);
  /* bits above the state are a count */
  atomic_store_explicit(&boards[3].failed, 8 + TL_FAILED_NOT, memory_order_relaxed);
  assert_int_equal(reserve(1, &err), 3);
  finish();
}

/* The slow ones only when the others are full. */
static void test_degraded(void **state) {
  (void)state;
  struct tl_error err = {0};
  start(3, (struct tl_route_options){.max_tokens = 100, .max_seqs = 10});
  tl_route_set_state(route, 0, TL_REPLICA_DEGRADED);
  tl_route_set_state(route, 1, TL_REPLICA_DEGRADED);
  for (unsigned i = 0; i < 10; i++) assert_int_equal(reserve(10, &err), 2);
  for (unsigned i = 0; i < 10; i++) assert_true(reserve(10, &err) <= 1);
  assert_true(reserved_seqs(0) == 5 && reserved_seqs(1) == 5);
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
    struct tl_room room;
    struct tl_route_ask ask = {.tokens = 1, .n_seqs = 1};
    unsigned retry = 0;
    start(1, (struct tl_route_options){.max_tokens = 10, .max_seqs = 100});
    atomic_store_explicit(&boards[0].n_steps, cases[i].n_steps, memory_order_relaxed);
    atomic_store_explicit(&boards[0].n_decode_tokens, cases[i].n_tokens / 2, memory_order_relaxed);
    atomic_store_explicit(&boards[0].n_prefill_tokens, cases[i].n_tokens / 2, memory_order_relaxed);
    atomic_store_explicit(&boards[0].step_ns, cases[i].step_ns, memory_order_relaxed);
    atomic_store_explicit(&boards[0].reserved_tokens, cases[i].backlog, memory_order_relaxed);
    assert_int_equal(tl_route_reserve(route, &ask, shard, &room, &retry, NULL), TL_EBUSY);
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
    struct tl_route_ask ask = {.tokens = 1 + unit_below(&random, 100), .n_seqs = 1 + unit_below(&random, 2)};
    ask.n_prompt = (uint32_t)unit_below(&random, (uint32_t)ask.tokens);
    struct tl_room room;
    unsigned retry;
    if (tl_route_reserve(route, &ask, none, &room, &retry, NULL) < 0) {
      if (i % 64 == 0) sched_yield();
      continue;
    }
    n_taken++;
    int64_t tokens = ask.tokens * ask.n_seqs;
    int64_t all = atomic_fetch_add_explicit(&held_tokens[room.replica], tokens, memory_order_relaxed) + tokens;
    int64_t seqs = atomic_fetch_add_explicit(&held_seqs[room.replica], ask.n_seqs, memory_order_relaxed) + ask.n_seqs;
    if (all > MAX_TOKENS || seqs > MAX_SEQS) abort();
    if (unit_below(&random, 8) == 0) sched_yield();
    atomic_fetch_sub_explicit(&held_tokens[room.replica], tokens, memory_order_relaxed);
    atomic_fetch_sub_explicit(&held_seqs[room.replica], ask.n_seqs, memory_order_relaxed);
    for (int64_t k = 0; k < ask.n_seqs; k++) { /* some have a token before they end, some do not */
      struct tl_room one = room;
      if (unit_below(&random, 2)) tl_route_started(route, &one);
      tl_route_release(route, &one);
    }
  }
  return (void *)(uintptr_t)n_taken;
}

static void test_threads(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  start(3, (struct tl_route_options){.max_tokens = MAX_TOKENS, .max_total = 2 * MAX_TOKENS, .max_seqs = MAX_SEQS});
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
  assert_all_zero();
  assert_true(reserve(2 * MAX_TOKENS + 1, NULL) >= 0); /* the total is zero too: this is let in only if it is alone */
  finish();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_capacity_without_kv), cmocka_unit_test(test_least_load),     cmocka_unit_test(test_the_life_of_room), cmocka_unit_test(test_two_choices),
      cmocka_unit_test(test_prefix),         cmocka_unit_test(test_prefix_bounded),   cmocka_unit_test(test_ties_and_turns),
      cmocka_unit_test(test_limits),         cmocka_unit_test(test_total),            cmocka_unit_test(test_states),
      cmocka_unit_test(test_look),           cmocka_unit_test(test_next_by_load),
      cmocka_unit_test(test_degraded),       cmocka_unit_test(test_retry_after),      cmocka_unit_test(test_too_many_replicas),
      cmocka_unit_test(test_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
