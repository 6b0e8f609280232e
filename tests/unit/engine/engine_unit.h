/* SPDX-License-Identifier: MIT */
/* One thread plays the loop, a fake device plays the model. */
#ifndef ENGINE_UNIT_H
#define ENGINE_UNIT_H

#include "engine/engine_private.h"
#include "fake_device.h"
#include "tokenlane/base/clock.h"

static struct tl_waker loop_waker;
static const struct tl_model model = {.max_context = 256, .vocab_size = FAKE_VOCAB};

static inline void wake(unsigned loop, void *context) {
  (void)context;
  assert_int_equal(loop, 0);
  tl_waker_notify(&loop_waker);
}

struct bench {
  struct tl_metrics *metrics;
  struct tl_engine *engine;
  unsigned n_final, n_events;
};

static bool run_ahead; /* whether the fake device does */
static bool draft;     /* whether tokens are guessed, of texts that repeat themselves */

static inline struct tl_engine_options options(void) {
  return (struct tl_engine_options){.model = &model,
                                    .n_replicas = 1,
                                    .n_loops = 1,
                                    .max_batch_size = 4,
                                    .max_batch_tokens = 16,
                                    .max_queue = 100,
                                    .draft_tokens = draft ? 5 : 0,
                                    .wake = wake};
}

/* The tests with a device that takes one step at a time, then with one that runs ahead. */
#define run_both_ways(tests) \
  (cmocka_run_group_tests((tests), NULL, NULL) || (run_ahead = true, cmocka_run_group_tests((tests), NULL, NULL)))
/* And both with guesses, too. */
#define run_all_ways(tests) (run_both_ways(tests) || (run_ahead = false, draft = true, run_both_ways(tests)))

static inline void reset_fake(void) {
  memset((void *)&fake, 0, sizeof fake);
  fake.n_blocks = 64;
  fake.runs_ahead = run_ahead;
  fake.repeats = draft;
  tl_waker_init(&loop_waker);
}

static inline void start(struct bench *b, const struct tl_engine_options *o) {
  struct tl_error err = {0};
  *b = (struct bench){.metrics = tl_metrics_new()};
  assert_int_equal(engine_new_with_ops(o, fake_chosen(), b->metrics, &b->engine, &err), TL_OK);
  assert_int_equal(tl_engine_start(b->engine, &err), TL_OK);
}

static inline void on_event(struct tl_sequence *seq, bool final, void *context) {
  struct bench *b = context;
  fake_check_sequence(seq);
  b->n_events++;
  b->n_final += final;
  if (final) seq->owner = b;
}

/* Until n final events have come. */
static inline void wait_final(struct bench *b, unsigned n) {
  int64_t deadline_ns = tl_now_ns() + TL_SEC(30);
  while (b->n_final < n) {
    assert_true(tl_now_ns() < deadline_ns);
    tl_waker_prepare(&loop_waker);
    unsigned before = b->n_events;
    tl_engine_drain(b->engine, 0, on_event, b);
    if (b->n_events != before)
      tl_waker_cancel(&loop_waker);
    else
      tl_waker_sleep(&loop_waker, TL_MS(100));
  }
}

static inline void submit(struct bench *b, struct tl_sequence *seq) {
  seq->submitted_ns = tl_now_ns();
  tl_engine_submit(b->engine, 0, seq);
}

static inline double metric(struct bench *b, const char *series) {
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_metrics_expose(b->metrics, &out);
  const char *at = strstr(tl_buffer_string(&out), series);
  assert_non_null(at);
  double value = atof(at + strlen(series) + 1);
  tl_buffer_done(&out);
  return value;
}

/* The worker publishes its figures after the events: they come to rest soon. */
static inline void assert_at_rest(struct bench *b) {
  struct tl_board *board = tl_engine_board(b->engine, 0);
  int64_t deadline_ns = tl_now_ns() + TL_SEC(10);
  while (atomic_load_explicit(&board->running, memory_order_relaxed) || atomic_load_explicit(&board->waiting, memory_order_relaxed) ||
         atomic_load_explicit(&board->free_blocks, memory_order_relaxed) != fake.n_blocks) {
    assert_true(tl_now_ns() < deadline_ns);
    usleep(1000);
  }
  assert_true(metric(b, "tokenlane_sequences_running{replica=\"0\"}") == 0);
  assert_true(metric(b, "tokenlane_sequences_waiting{replica=\"0\"}") == 0);
  assert_true(metric(b, "tokenlane_kv_blocks_used{replica=\"0\"}") == 0);
  assert_true(metric(b, "tokenlane_kv_blocks{replica=\"0\"}") == fake.n_blocks);
}

static inline void finish(struct bench *b) {
  tl_engine_stop(b->engine);
  unsigned before = b->n_events;
  tl_engine_drain(b->engine, 0, on_event, b);
  assert_int_equal(b->n_events, before);
  tl_metrics_free(b->metrics);
  tl_engine_free(b->engine);
  assert_int_equal(atomic_load_explicit(&fake.n_open, memory_order_relaxed), 0);
}

static inline void assert_ended(struct tl_sequence *seq, enum tl_finish how, uint32_t n_out) {
  assert_non_null(seq->owner); /* on_event saw it end */
  assert_int_equal(seq->finish, how);
  assert_int_equal(atomic_load_explicit(&seq->n_out, memory_order_acquire), n_out);
}

/* Number i of some whose prompts, shorter than 10 + most, are alike and not, that are forked, scored, urgent or not; 40 tokens each. */
static inline struct tl_sequence *mixed_sequence(uint64_t *random, unsigned i, uint32_t most) {
  uint32_t n_prompt = 10 + unit_below(random, most);
  struct tl_sequence *seq = fake_sequence(random, n_prompt, 40);
  fake_prefix(seq, i / 4 % 3, n_prompt - unit_below(random, 10));
  seq->sampling.seed = 4;
  seq->fork = i % 4 ? i / 4 : 0;
  seq->priority = (enum tl_priority)(i / 4 % 4);
  seq->score_prompt = i % 5 == 0;
  if (i % 5 == 0) fake_want_logprobs(seq, 2);
  if (i % 7 == 0) fake_want_history(seq);
  return seq;
}

#endif
