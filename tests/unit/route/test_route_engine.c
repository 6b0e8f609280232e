/* SPDX-License-Identifier: MIT */
/* Router and engine together, as api uses them: reserve, submit, drain, release.
 * A replica whose device fails gets nothing more; when all have failed, 503. */
#include <pthread.h>
#include <sched.h>

#include "engine/engine_private.h"
#include "fake_device.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/route.h"

enum { LOOPS = 2, REPLICAS = 3, PER_LOOP = 6000 / UNIT_SLOWDOWN, MAX_SEQS = 6, MAX_TOKENS = 200 };

static const struct tl_model model = {.max_context = 64, .vocab_size = FAKE_VOCAB};
static struct tl_metrics *metrics;
static struct tl_engine *engine;
static struct tl_route *route;

struct loop {
  struct tl_waker waker;
  unsigned index, n_live, n_done, n_refused, n_errors, n_moved, n_per_replica[REPLICAS];
  uint64_t random;
  struct tl_metrics_shard *shard;
  struct tl_sequence *stranded[MAX_SEQS * REPLICAS]; /* lost their device, and nobody had room */
  unsigned n_stranded;
  pthread_t thread;
};
static struct loop loops[LOOPS];

static void wake(unsigned loop, void *context) {
  (void)context;
  tl_waker_notify(&loops[loop].waker);
}

static int64_t cost(const struct tl_sequence *seq) {
  return (int64_t)seq->n_prompt + seq->max_new;
}

static void end(struct loop *l, struct tl_sequence *seq) {
  fake_check_sequence(seq);
  l->n_errors += seq->finish == TL_FINISH_FAULT;
  FAKE_CHECK(seq->finish == TL_FINISH_FAULT || atomic_load_explicit(&seq->n_out, memory_order_acquire) == seq->max_new);
  l->n_per_replica[seq->replica]++;
  l->n_live--;
  l->n_done++;
  free(seq->owner);
  fake_sequence_free(seq);
}

/* It goes on where there is room; false: nobody is left, or not now (429). */
static bool move(struct loop *l, struct tl_sequence *seq, int *ret_status) {
  struct tl_route_ask ask = {.tokens = cost(seq), .n_seqs = 1, .prompt = seq->tokens, .n_prompt = seq->n_prompt, .moved = true};
  struct tl_error err = {0};
  unsigned retry;
  *ret_status = 0;
  if (tl_route_reserve(route, &ask, NULL, seq->owner, &retry, &err) < 0) {
    *ret_status = err.http_status;
    return false;
  }
  l->n_moved++;
  seq->replica = ((struct tl_room *)seq->owner)->replica;
  seq->finish = TL_FINISH_NONE;
  tl_engine_submit(engine, seq->replica, seq);
  return true;
}

static void on_event(struct tl_sequence *seq, bool final, void *context) {
  struct loop *l = context;
  int status;
  if (!final) {
    tl_route_started(route, seq->owner);
    return;
  }
  tl_route_release(route, seq->owner);
  if (seq->finish == TL_FINISH_FAULT && move(l, seq, &status)) return;
  if (seq->finish == TL_FINISH_FAULT && status == 429)
    l->stranded[l->n_stranded++] = seq;
  else
    end(l, seq);
}

static void retry_stranded(struct loop *l) {
  unsigned n = l->n_stranded;
  int status;
  l->n_stranded = 0;
  for (unsigned i = 0; i < n; i++) {
    struct tl_sequence *seq = l->stranded[i];
    if (move(l, seq, &status)) continue;
    if (status == 429)
      l->stranded[l->n_stranded++] = seq;
    else
      end(l, seq);
  }
}

/* True when it went in. */
static bool try_one(struct loop *l) {
  struct tl_sequence *seq = fake_sequence(&l->random, 1 + unit_below(&l->random, 30), 1 + unit_below(&l->random, 30));
  struct tl_error err = {0};
  unsigned retry;
  seq->loop = l->index;
  seq->submitted_ns = tl_now_ns();
  struct tl_route_ask ask = {.tokens = cost(seq), .n_seqs = 1, .prompt = seq->tokens, .n_prompt = seq->n_prompt};
  struct tl_room *room = malloc(sizeof *room);
  if (tl_route_reserve(route, &ask, l->shard, room, &retry, &err) < 0) {
    free(room);
    FAKE_CHECK(err.http_status == 429 || err.http_status == 503);
    l->n_refused++;
    l->n_done += err.http_status == 503; /* nobody will ever take it */
    fake_sequence_free(seq);
    return false;
  }
  l->n_live++;
  seq->owner = room;
  seq->replica = room->replica;
  tl_engine_submit(engine, seq->replica, seq);
  return true;
}

static void *run_loop(void *argument) {
  struct loop *l = argument;
  while (l->n_done < PER_LOOP || l->n_live > 0) {
    while (l->n_done + l->n_live < PER_LOOP && try_one(l))
      ;
    tl_waker_prepare(&l->waker);
    unsigned before = l->n_done;
    tl_engine_drain(engine, l->index, on_event, l);
    retry_stranded(l);
    if (l->n_done != before || l->n_live == 0)
      tl_waker_cancel(&l->waker);
    else
      tl_waker_sleep(&l->waker, l->n_stranded ? 1000000 : -1);
  }
  return NULL;
}

/* With n_replicas; the device of replica 0 fails at step fail_at, if that is not 0. */
static void run(unsigned n_replicas, uint64_t fail_at) {
  memset((void *)&fake, 0, sizeof fake);
  memset((void *)loops, 0, sizeof loops);
  fake.n_blocks = 16;
  fake.fail_at = fail_at;
  fake.bad = 0;
  struct tl_engine_options o = {.model = &model, .n_replicas = n_replicas, .n_loops = LOOPS, .max_batch_size = 4,
                                .max_batch_tokens = 32, .max_queue = MAX_SEQS, .wake = wake};
  struct tl_route_options r = {.max_tokens = MAX_TOKENS, .max_seqs = MAX_SEQS};
  struct tl_error err = {0};
  metrics = tl_metrics_new();
  assert_int_equal(engine_new_with_ops(&o, &fake_ops, metrics, &engine, &err), TL_OK);
  assert_int_equal(tl_route_new(engine, &r, metrics, &route, &err), TL_OK);
  assert_int_equal(tl_engine_start(engine, &err), TL_OK);
  alarm(100);
  for (unsigned i = 0; i < LOOPS; i++) {
    loops[i].index = i;
    loops[i].random = 77 + i;
    loops[i].shard = tl_metrics_shard_new(metrics);
    tl_waker_init(&loops[i].waker);
    pthread_create(&loops[i].thread, NULL, run_loop, &loops[i]);
  }
  for (unsigned i = 0; i < LOOPS; i++) {
    pthread_join(loops[i].thread, NULL);
    assert_int_equal(loops[i].n_done, PER_LOOP);
  }
  alarm(0);
  for (unsigned i = 0; i < o.n_replicas; i++) { /* every reservation was given back */
    struct tl_board *board = tl_engine_board(engine, i);
    assert_int_equal(atomic_load_explicit(&board->reserved_tokens, memory_order_relaxed), 0);
    assert_int_equal(atomic_load_explicit(&board->reserved_seqs, memory_order_relaxed), 0);
    assert_int_equal(tl_route_load(route, i), 0);
  }
  tl_engine_stop(engine);
}

static void done(void) {
  tl_route_free(route);
  tl_engine_free(engine);
  tl_metrics_free(metrics);
}

static void test_all_are_served(void **state) {
  (void)state;
  run(REPLICAS, 0);
  unsigned n[REPLICAS] = {0};
  for (unsigned i = 0; i < LOOPS; i++) {
    assert_int_equal(loops[i].n_errors, 0);
    for (unsigned k = 0; k < REPLICAS; k++) n[k] += loops[i].n_per_replica[k];
  }
  for (unsigned k = 0; k < REPLICAS; k++) assert_true(n[k] > LOOPS * PER_LOOP / REPLICAS / 20); /* a busy machine may starve a worker */
  done();
}

/* What a failed device had goes on elsewhere: every sequence comes to its end, with the
 * tokens that it would have had. */
static void test_one_fails(void **state) {
  (void)state;
  run(REPLICAS, 50);
  unsigned n_moved = 0, n_failed = 0;
  for (unsigned i = 0; i < LOOPS; i++) {
    assert_int_equal(loops[i].n_errors, 0);
    n_moved += loops[i].n_moved;
    n_failed += loops[i].n_per_replica[0];
  }
  assert_true(n_moved > 0 && n_moved <= 3 * MAX_SEQS); /* what it held, and what raced with its fault */
  assert_true(n_failed < LOOPS * PER_LOOP / 4);
  done();
}

static void test_the_only_one_fails(void **state) {
  (void)state;
  run(1, 50);
  struct tl_error err = {0};
  struct tl_route_ask ask = {.tokens = 1, .n_seqs = 1};
  struct tl_room room;
  unsigned retry;
  assert_int_equal(tl_route_reserve(route, &ask, NULL, &room, &retry, &err), TL_EBUSY);
  assert_int_equal(err.http_status, 503);
  done();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_are_served),
      cmocka_unit_test(test_one_fails),
      cmocka_unit_test(test_the_only_one_fails),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
