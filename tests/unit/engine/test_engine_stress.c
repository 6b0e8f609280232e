/* SPDX-License-Identifier: MIT */
/* Several loops submit to several replicas whose KV cache is too small for all,
 * cancel some, and check every token of every sequence. At rest nothing is left:
 * no block, no sequence, no count. */
#include <pthread.h>
#include <sched.h>

#include "engine/engine_private.h"
#include "fake_device.h"
#include "tokenlane/base/clock.h"

enum { LOOPS = 3, REPLICAS = 2, LIVE = 12, PER_LOOP = 7000 / UNIT_SLOWDOWN };

static struct tl_model model = {.max_context = 128, .vocab_size = FAKE_VOCAB, .architecture = "fake"};
static struct tl_engine *engine;
static bool run_ahead, draft, recurrent; /* the last: the model's layers keep a state */

/* One a loop, written by its thread alone; the waker by the workers too. */
struct loop {
  struct tl_waker waker;
  unsigned index;
  pthread_t thread;
  uint64_t random;
  struct tl_sequence *live[LIVE];
  uint32_t seen[LIVE]; /* n_out at the last event */
  unsigned n_live, n_submitted, n_ended[8];
  uint64_t n_tokens;
};
static struct loop loops[LOOPS];

static void wake(unsigned loop, void *context) {
  (void)context;
  tl_waker_notify(&loops[loop].waker);
}

static const int32_t stops[] = {3, 30};

/* Short and long, scored and not, with and without all that a sequence can have. */
static struct tl_sequence *make_sequence(struct loop *l) {
  bool is_long = unit_below(&l->random, 4) == 0;
  uint32_t n_prompt = 1 + unit_below(&l->random, is_long ? 60 : 20);
  uint32_t max_new = unit_below(&l->random, is_long ? 69 : 20);
  bool scored = max_new == 0 || unit_below(&l->random, 5) == 0;
  struct tl_sequence *seq = fake_sequence(&l->random, n_prompt, max_new);
  if (scored || unit_below(&l->random, 3) == 0) fake_want_logprobs(seq, (int32_t)unit_below(&l->random, 3));
  seq->score_prompt = scored;
  if (unit_below(&l->random, 2)) fake_prefix(seq, unit_below(&l->random, 3), n_prompt - unit_below(&l->random, n_prompt));
  if (unit_below(&l->random, 3) == 0) seq->sampling.seed = 1; /* goes on like others, too */
  seq->priority = (enum tl_priority)unit_below(&l->random, 4);
  seq->fork = unit_below(&l->random, 3);
  if (unit_below(&l->random, 30) == 0) seq->deadline_ns = tl_now_ns() + unit_below(&l->random, 2000000);
  if (unit_below(&l->random, 3) == 0) fake_want_history(seq);
  if (unit_below(&l->random, 4) == 0) fake_want_stop(seq, stops, UNIT_COUNT(stops), unit_below(&l->random, 4));
  seq->loop = l->index;
  seq->replica = unit_below(&l->random, REPLICAS);
  seq->submitted_ns = tl_now_ns();
  return seq;
}

static void submit_some(struct loop *l) {
  for (unsigned i = 0; i < LIVE && l->n_submitted < PER_LOOP; i++) {
    if (l->live[i] || unit_below(&l->random, 3) == 0) continue;
    struct tl_sequence *seq = make_sequence(l);
    seq->owner = &l->live[i];
    l->live[i] = seq;
    l->seen[i] = 0;
    l->n_live++;
    l->n_submitted++;
    tl_engine_submit(engine, seq->replica, seq);
    if (unit_below(&l->random, 20) == 0) atomic_store_explicit(&seq->cancel, 1, memory_order_relaxed);
  }
}

static void check_end(const struct tl_sequence *seq) {
  uint32_t n_out = atomic_load_explicit(&seq->n_out, memory_order_acquire);
  bool stopped = n_out > 0 && seq->n_stop_ids && fake_is_stop(seq, seq->tokens[seq->n_prompt + n_out - 1]);
  switch (seq->finish) {
    case TL_FINISH_LENGTH: FAKE_CHECK(n_out == seq->max_new && !stopped); break;
    case TL_FINISH_STOP: FAKE_CHECK(stopped && n_out > seq->min_new); break;
    case TL_FINISH_EXPIRED: FAKE_CHECK(seq->deadline_ns && tl_now_ns() >= seq->deadline_ns); break;
    case TL_FINISH_CANCELLED: FAKE_CHECK(n_out < seq->max_new || seq->max_new == 0); break;
    default: FAKE_CHECK(seq->finish == TL_FINISH_FAULT && fake.fail_at && seq->replica == fake.bad);
  }
  for (uint32_t i = seq->n_prompt + n_out; i < seq->n_prompt + seq->max_new; i++) FAKE_CHECK(seq->tokens[i] == -7 || draft);
  if (seq->score_prompt && seq->finish == TL_FINISH_LENGTH)
    FAKE_CHECK(atomic_load_explicit(&seq->n_scored, memory_order_acquire) == seq->n_prompt - 1);
}

static void on_event(struct tl_sequence *seq, bool final, void *context) {
  struct loop *l = context;
  struct tl_sequence **place = seq->owner;
  FAKE_CHECK(*place == seq && seq->loop == l->index);
  uint32_t *seen = &l->seen[place - l->live], n_out = atomic_load_explicit(&seq->n_out, memory_order_acquire);
  FAKE_CHECK(n_out >= *seen);
  *seen = n_out;
  if (!final) {
    if (unit_below(&l->random, 4) == 0) fake_check_sequence(seq); /* while the worker goes on */
    if (unit_below(&l->random, 300) == 0) atomic_store_explicit(&seq->cancel, 1, memory_order_relaxed);
    return;
  }
  fake_check_sequence(seq);
  check_end(seq);
  l->n_ended[seq->finish]++;
  l->n_tokens += n_out;
  l->n_live--;
  *place = NULL;
  fake_sequence_free(seq); /* at once: the worker may not touch it any more */
}

static void *run_loop(void *argument) {
  struct loop *l = argument;
  while (l->n_submitted < PER_LOOP || l->n_live > 0) {
    submit_some(l);
    tl_waker_prepare(&l->waker);
    unsigned before = l->n_live;
    tl_engine_drain(engine, l->index, on_event, l);
    if (l->n_live != before || l->n_live == 0)
      tl_waker_cancel(&l->waker);
    else
      tl_waker_sleep(&l->waker, -1); /* a lost wake-up hangs here until the alarm */
  }
  return NULL;
}

static double metric(struct tl_metrics *metrics, const char *name, unsigned replica) {
  struct tl_buffer out;
  char series[100];
  snprintf(series, sizeof series, "%s{replica=\"%u\"} ", name, replica);
  tl_buffer_init(&out, 0);
  tl_metrics_expose(metrics, &out);
  const char *at = strstr(tl_buffer_string(&out), series);
  assert_non_null(at);
  double value = atof(at + strlen(series));
  tl_buffer_done(&out);
  return value;
}

static void assert_at_rest(void) {
  int64_t deadline_ns = tl_now_ns() + TL_SEC(10);
  for (unsigned i = 0; i < REPLICAS; i++) {
    struct tl_board *board = tl_engine_board(engine, i);
    while (atomic_load_explicit(&board->running, memory_order_relaxed) + atomic_load_explicit(&board->waiting, memory_order_relaxed) ||
           atomic_load_explicit(&board->free_blocks, memory_order_relaxed) != fake.n_blocks) {
      assert_true(tl_now_ns() < deadline_ns);
      usleep(1000);
    }
  }
}

static void stress(uint64_t fail_at, bool prefix_cache) {
  memset((void *)&fake, 0, sizeof fake);
  fake.runs_ahead = run_ahead;
  fake.repeats = draft;
  fake.n_blocks = 10; /* the largest sequence takes 8 */
  fake.n_states = 12;
  model.recurrence.n_layers = recurrent;
  fake.fail_at = fail_at;
  fake.bad = 1;
  struct tl_engine_options o = {.model = &model,
                                .n_replicas = REPLICAS,
                                .n_loops = LOOPS,
                                .max_batch_size = 8,
                                .max_batch_tokens = 24,
                                .max_queue = LOOPS * LIVE,
                                .prefix_cache = prefix_cache,
                                .priority_age_ns = TL_MS(1),
                                .draft_tokens = draft ? 5 : 0,
                                .wake = wake};
  struct tl_metrics *metrics = tl_metrics_new();
  struct tl_error err = {0};
  assert_int_equal(engine_new_with_ops(&o, fake_chosen(), metrics, &engine, &err), TL_OK);
  memset((void *)loops, 0, sizeof loops);
  alarm(100);
  assert_int_equal(tl_engine_start(engine, &err), TL_OK);
  for (unsigned i = 0; i < LOOPS; i++) {
    loops[i].index = i;
    loops[i].random = 1000 + i + fail_at;
    tl_waker_init(&loops[i].waker);
    pthread_create(&loops[i].thread, NULL, run_loop, &loops[i]);
  }
  unsigned ended[8] = {0};
  uint64_t n_tokens = 0;
  for (unsigned i = 0; i < LOOPS; i++) {
    pthread_join(loops[i].thread, NULL);
    for (unsigned k = 0; k < 8; k++) ended[k] += loops[i].n_ended[k];
    n_tokens += loops[i].n_tokens;
  }
  assert_at_rest();
  assert_int_equal(atomic_load_explicit(&fake.n_fed, memory_order_relaxed) > 100, run_ahead);
  assert_int_equal(ended[TL_FINISH_NONE], 0);
  assert_int_equal(ended[TL_FINISH_STOP] + ended[TL_FINISH_LENGTH] + ended[TL_FINISH_CANCELLED] + ended[TL_FINISH_FAULT] + ended[TL_FINISH_EXPIRED], LOOPS * PER_LOOP);
  assert_true(ended[TL_FINISH_STOP] > 10 && ended[TL_FINISH_LENGTH] > 10 && ended[TL_FINISH_CANCELLED] > 10);
  assert_true(ended[TL_FINISH_EXPIRED] > 10);
  assert_int_equal(ended[TL_FINISH_FAULT] > 10, fail_at > 0);
  double drafts = 0, drafts_taken = 0, generated = 0, preemptions = 0, started = 0, hits = 0, queries = 0, evictions = 0;
  for (unsigned i = 0; i < REPLICAS; i++) {
    generated += metric(metrics, "tokenlane_generated_tokens_total", i);
    preemptions += metric(metrics, "tokenlane_preemptions_total", i);
    hits += metric(metrics, "tokenlane_prefix_cache_hit_tokens_total", i);
    queries += metric(metrics, "tokenlane_prefix_cache_query_tokens_total", i);
    evictions += metric(metrics, "tokenlane_prefix_cache_evictions_total", i);
    drafts += metric(metrics, "tokenlane_draft_tokens_total", i);
    drafts_taken += metric(metrics, "tokenlane_draft_tokens_taken_total", i);
    started += metric(metrics, "tokenlane_queue_seconds_count", i);
  }
  assert_true(generated == (double)n_tokens);
  assert_true(preemptions > 5);
  assert_true(draft && !recurrent ? drafts_taken > 1000 / UNIT_SLOWDOWN && drafts > drafts_taken + 100 : drafts == 0);
  /* Without a cache only choices of one request share, which a slow build may never catch together. A state is seldom kept just where
   * another of these short prompts begins to differ, and on a busy machine never: that it is used at all test_engine_states asserts. */
  double least = recurrent ? 0 : prefix_cache ? 100 / UNIT_SLOWDOWN : UNIT_SLOWDOWN == 1;
  assert_true(hits >= least && hits < queries && (evictions > 10) == prefix_cache);
  assert_true(started <= LOOPS * PER_LOOP);
  tl_engine_stop(engine);
  for (unsigned i = 0; i < LOOPS; i++) tl_engine_drain(engine, i, on_event, &loops[i]);
  tl_engine_free(engine);
  tl_metrics_free(metrics);
  assert_int_equal(atomic_load_explicit(&fake.n_open, memory_order_relaxed), 0);
  alarm(0);
}

static void test_loops_and_replicas(void **state) {
  (void)state;
  stress(0, true);
}

static void test_without_cache(void **state) {
  (void)state;
  stress(0, false);
}

static void test_a_replica_fails_meanwhile(void **state) {
  (void)state;
  stress(500 / UNIT_SLOWDOWN, true);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_loops_and_replicas),
      cmocka_unit_test(test_without_cache),
      cmocka_unit_test(test_a_replica_fails_meanwhile),
  };
  int failed = 0;
  for (unsigned way = 0; way < 6; way++) {
    run_ahead = way % 2;
    draft = way / 2 == 1;
    recurrent = way / 2 == 2;
    failed += cmocka_run_group_tests(tests, NULL, NULL);
  }
  return failed;
}
