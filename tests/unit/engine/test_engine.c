/* SPDX-License-Identifier: MIT */
/* One thread plays the loop, a fake device plays the model. The many-threaded
 * test is in test_engine_stress.c. */
#include "tokenlane/engine.h"

#include "engine_unit.h"
#include "tokenlane/log.h"

/* --- one after the other --------------------------------------------------------------------- */

static void test_lengths(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  assert_int_equal(tl_engine_replicas(b.engine), 1);
  assert_int_equal(tl_engine_blocks(b.engine, 0), 64);
  assert_int_equal(tl_engine_max_context(b.engine), 256);
  uint64_t random = 5;
  uint32_t generated = 0;
  /* prompts below, at and above the budget of a step and the size of a block; to the end of the context */
  static const uint32_t shapes[][2] = {{1, 1}, {1, 40}, {15, 2}, {16, 1}, {17, 30}, {33, 1}, {100, 100}, {255, 1}, {128, 128}};
  for (size_t i = 0; i < UNIT_COUNT(shapes); i++) {
    struct tl_sequence *seq = fake_sequence(&random, shapes[i][0], shapes[i][1]);
    int64_t before_ns = tl_now_ns();
    submit(&b, seq);
    wait_final(&b, (unsigned)i + 1);
    assert_ended(seq, TL_FINISH_LENGTH, shapes[i][1]);
    assert_true(seq->first_token_ns >= before_ns && seq->first_token_ns <= tl_now_ns());
    generated += shapes[i][1];
    fake_sequence_free(seq);
    assert_at_rest(&b);
  }
  assert_true(metric(&b, "tokenlane_generated_tokens_total{replica=\"0\"}") == generated);
  assert_true(metric(&b, "tokenlane_queue_seconds_count{replica=\"0\"}") == UNIT_COUNT(shapes));
  assert_true(metric(&b, "tokenlane_steps_total{replica=\"0\"}") ==
              (double)atomic_load_explicit(&fake.n_steps, memory_order_relaxed));
  finish(&b);
}

static void test_stop_ids(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  static int32_t half[FAKE_VOCAB / 2];
  for (int32_t i = 0; i < FAKE_VOCAB / 2; i++) half[i] = 2 * i;
  uint64_t random = 6;
  for (unsigned i = 0; i < 30; i++) {
    uint32_t min_new = i % 3 * 5;
    struct tl_sequence *seq = fake_sequence(&random, 1 + unit_below(&random, 20), 60);
    fake_want_stop(seq, half, FAKE_VOCAB / 2, min_new);
    seq->ignore_eos = i % 5 == 4;
    submit(&b, seq);
    wait_final(&b, i + 1);
    uint32_t n = atomic_load_explicit(&seq->n_out, memory_order_acquire);
    if (seq->ignore_eos) {
      assert_ended(seq, TL_FINISH_LENGTH, 60);
    } else {
      assert_ended(seq, TL_FINISH_STOP, n);
      assert_true(n > min_new && n < 60); /* every second token ends it: 60 in a row do not come */
      for (uint32_t k = 0; k < n; k++) assert_int_equal(seq->tokens[seq->n_prompt + k] % 2 == 0, k + 1 == n);
    }
    fake_sequence_free(seq);
  }
  assert_at_rest(&b);
  finish(&b);
}

/* ignore_eos leaves the client's own stop ids alone. */
static void test_own_stop_ids(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  static int32_t ids[FAKE_VOCAB];
  for (int32_t i = 0; i < FAKE_VOCAB; i++) ids[i] = i; /* the first half is the client's, all others are EOS */
  uint64_t random = 6;
  for (unsigned i = 0; i < 20; i++) {
    struct tl_sequence *seq = fake_sequence(&random, 1 + unit_below(&random, 20), 60);
    fake_want_stop(seq, ids, FAKE_VOCAB, 0);
    seq->n_own_stop_ids = FAKE_VOCAB / 2;
    seq->ignore_eos = true;
    submit(&b, seq);
    wait_final(&b, i + 1);
    uint32_t n = atomic_load_explicit(&seq->n_out, memory_order_acquire);
    assert_ended(seq, TL_FINISH_STOP, n);
    for (uint32_t k = 0; k < n; k++) assert_int_equal(seq->tokens[seq->n_prompt + k] < FAKE_VOCAB / 2, k + 1 == n);
    fake_sequence_free(seq);
  }
  assert_at_rest(&b);
  finish(&b);
}

/* Words of one, two and four tokens, taken from what comes without them; the prompt's tokens are no part of any. */
static void test_bad_words(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  uint64_t random = 11;
  for (unsigned i = 0; i < 20; i++) {
    uint64_t again = random;
    struct tl_sequence *free_one = fake_sequence(&random, 5, 60), *seq = fake_sequence(&again, 5, 60);
    submit(&b, free_one);
    wait_final(&b, 2 * i + 1);
    const int32_t *out = free_one->tokens + 5;
    const int32_t over_border[] = {free_one->tokens[4], out[0]};
    struct tl_bad_word words[] = {{over_border, 2}, {out + 30, 1}, {out + 10, 2}, {out + 20, 4}};
    fake_want_bad_words(seq, words, UNIT_COUNT(words));
    submit(&b, seq);
    wait_final(&b, 2 * i + 2);
    assert_ended(seq, TL_FINISH_LENGTH, 60); /* and fake_check_sequence has seen that each token is the right one */
    assert_int_equal(seq->tokens[5] == out[0], out[0] != out[30]);
    for (uint32_t k = 5; k < 65; k++) assert_int_not_equal(seq->tokens[k], out[30]);
    for (uint32_t k = 6; k < 65; k++) assert_false(seq->tokens[k - 1] == out[10] && seq->tokens[k] == out[11]);
    fake_sequence_free(free_one);
    fake_sequence_free(seq);
  }
  assert_at_rest(&b);
  finish(&b);
}

static void test_logprobs_and_scores(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  uint64_t random = 7;
  unsigned n = 0;
  for (uint32_t n_prompt = 1; n_prompt < 60; n_prompt += 1 + n_prompt / 8)
    for (uint32_t max_new = 0; max_new < 6; max_new += 5) {
      struct tl_sequence *seq = fake_sequence(&random, n_prompt, max_new);
      fake_want_logprobs(seq, (int32_t)(n_prompt % 4));
      seq->score_prompt = true;
      submit(&b, seq);
      wait_final(&b, ++n);
      assert_ended(seq, TL_FINISH_LENGTH, max_new);
      assert_int_equal(atomic_load_explicit(&seq->n_scored, memory_order_acquire), n_prompt - 1);
      fake_check_sequence(seq);
      fake_sequence_free(seq);
    }
  assert_at_rest(&b);
  finish(&b);
}

static void test_history(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  uint64_t random = 8;
  struct tl_sequence *seq = fake_sequence(&random, 40, 80);
  fake_want_history(seq);
  submit(&b, seq);
  wait_final(&b, 1);
  assert_ended(seq, TL_FINISH_LENGTH, 80);
  uint32_t counts[FAKE_VOCAB] = {0}, total = 0;
  for (uint32_t i = 40; i < 120; i++) counts[seq->tokens[i]]++;
  for (uint32_t i = 0; i < seq->n_history; i++) {
    assert_int_equal(seq->history[i].n_generated, counts[seq->history[i].token]);
    total += seq->history[i].n_generated;
  }
  assert_int_equal(total, 80);
  fake_sequence_free(seq);
  finish(&b);
}

static void test_what_cannot_fit(void **state) {
  (void)state;
  reset_fake();
  fake.n_blocks = 4;
  struct bench b;
  struct tl_engine_options o = options();
  o.max_context = 100; /* below the model's */
  start(&b, &o);
  assert_int_equal(tl_engine_max_context(b.engine), 100);
  uint64_t random = 9;
  static const struct {
    uint32_t n_prompt, max_new;
    enum tl_finish finish;
  } cases[] = {{60, 4, TL_FINISH_LENGTH}, {60, 5, TL_FINISH_ERROR}, {101, 0, TL_FINISH_ERROR}, {1, 300, TL_FINISH_ERROR}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_sequence *seq = fake_sequence(&random, cases[i].n_prompt, cases[i].max_new);
    submit(&b, seq);
    wait_final(&b, i + 1);
    assert_ended(seq, cases[i].finish, cases[i].finish == TL_FINISH_LENGTH ? cases[i].max_new : 0);
    fake_sequence_free(seq);
  }
  assert_at_rest(&b);
  finish(&b);
}

/* --- cancel, faults, end ------------------------------------------------------------------------- */

static void test_cancel(void **state) {
  (void)state;
  reset_fake();
  fake.step_ns = TL_MS(1);
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  uint64_t random = 10;
  struct tl_sequence *seqs[8];
  for (unsigned i = 0; i < 8; i++) { /* 4 run, 4 wait */
    seqs[i] = fake_sequence(&random, 5, 200);
    if (i == 3) atomic_store_explicit(&seqs[i]->cancel, 1, memory_order_relaxed); /* before it is pushed */
    submit(&b, seqs[i]);
  }
  usleep(20 * 1000);
  for (unsigned i = 0; i < 8; i++) atomic_store_explicit(&seqs[i]->cancel, 1, memory_order_relaxed);
  wait_final(&b, 8);
  for (unsigned i = 0; i < 8; i++) {
    uint32_t n_out = atomic_load_explicit(&seqs[i]->n_out, memory_order_acquire);
    assert_true(n_out < 200);
    if (i == 3 || i > 4) assert_int_equal(n_out, 0);
    assert_ended(seqs[i], TL_FINISH_CANCELLED, n_out);
    fake_sequence_free(seqs[i]);
  }
  assert_at_rest(&b);
  finish(&b);
}

static void device_fails(uint64_t fail_at, bool in_collect) {
  reset_fake();
  fake.fail_at = fail_at;
  fake.fail_in_collect = in_collect;
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  uint64_t random = 11;
  struct tl_sequence *seqs[10];
  for (unsigned i = 0; i < 10; i++) {
    seqs[i] = fake_sequence(&random, 5, 100);
    submit(&b, seqs[i]);
  }
  wait_final(&b, 10);
  for (unsigned i = 0; i < 10; i++) {
    /* nothing of the step that failed was handed out */
    assert_true(atomic_load_explicit(&seqs[i]->n_out, memory_order_acquire) < fail_at);
    assert_int_equal(seqs[i]->finish, TL_FINISH_FAULT);
    assert_true(seqs[i]->n_faults <= 1);
    fake_sequence_free(seqs[i]);
  }
  assert_true(atomic_load_explicit(&tl_engine_board(b.engine, 0)->failed, memory_order_relaxed));
  struct tl_sequence *late = fake_sequence(&random, 5, 5);
  submit(&b, late);
  wait_final(&b, 11);
  assert_ended(late, TL_FINISH_FAULT, 0);
  assert_int_equal(late->n_faults, 0);
  fake_sequence_free(late);
  /* when a step fails in collect, the next one may be there */
  assert_in_range(atomic_load_explicit(&fake.n_steps, memory_order_relaxed), fail_at, fail_at + run_ahead);
  assert_at_rest(&b);
  finish(&b);
}

static void test_device_fails(void **state) {
  (void)state;
  device_fails(1, false);
  device_fails(1, true);
  device_fails(7, false);
  device_fails(7, true);
}

static void test_devices_that_do_not_start(void **state) {
  (void)state;
  static const struct {
    int open_error, load_error;
    unsigned bad;
  } cases[] = {{TL_EIO, 0, 0}, {TL_EIO, 0, 2}, {0, TL_ENOMEM, 0}, {0, TL_EDEVICE, 1}};
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    reset_fake();
    fake.open_error = cases[i].open_error;
    fake.load_error = cases[i].load_error;
    fake.bad = cases[i].bad;
    struct tl_engine_options o = options();
    o.n_replicas = 3;
    struct tl_metrics *metrics = tl_metrics_new();
    struct tl_engine *engine = NULL;
    struct tl_error err = {0};
    assert_int_equal(engine_new_with_ops(&o, fake_chosen(), metrics, &engine, &err), cases[i].open_error + cases[i].load_error);
    assert_string_equal(err.message, cases[i].open_error ? "no such fake device" : "the fake device cannot load");
    assert_null(engine);
    assert_int_equal(atomic_load_explicit(&fake.n_open, memory_order_relaxed), 0);
    tl_metrics_free(metrics);
  }
  reset_fake();
  struct tl_engine_options o = options();
  const char *const devices[] = {"tpu:0"};
  o.devices = devices;
  struct tl_metrics *metrics = tl_metrics_new();
  struct tl_engine *engine = NULL;
  struct tl_error err = {0};
  assert_int_equal(tl_engine_new(&o, metrics, &engine, &err), TL_EINVAL);
  assert_string_equal(err.message, "devices: expected devices such as cpu:0, got 'tpu:0'");
  tl_metrics_free(metrics);
  tl_engine_free(NULL);
}

/* stop ends what runs and waits; its final events can be drained afterwards. */
static void test_stop(void **state) {
  (void)state;
  for (unsigned round = 0; round < 20; round++) {
    reset_fake();
    struct bench b;
    struct tl_engine_options o = options();
    start(&b, &o);
    uint64_t random = 12 + round;
    struct tl_sequence *seqs[12];
    for (unsigned i = 0; i < 12; i++) {
      seqs[i] = fake_sequence(&random, 30, 200);
      submit(&b, seqs[i]);
    }
    if (round % 2) usleep(round * 100);
    tl_engine_stop(b.engine);
    tl_engine_drain(b.engine, 0, on_event, &b);
    assert_int_equal(b.n_final, 12);
    for (unsigned i = 0; i < 12; i++) {
      assert_true(seqs[i]->finish == TL_FINISH_CANCELLED || seqs[i]->finish == TL_FINISH_LENGTH);
      fake_sequence_free(seqs[i]);
    }
    assert_at_rest(&b);
    finish(&b);
  }
}

/* One sequence without a distribution ends; those in the same steps do not notice. */
static void test_broken_sequence(void **state) {
  (void)state;
  reset_fake();
  fake.broken_seed = 4242;
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  uint64_t random = 12;
  struct tl_sequence *seqs[9];
  for (unsigned i = 0; i < 9; i++) {
    seqs[i] = fake_sequence(&random, 5, 30);
    if (i % 3 == 1) seqs[i]->sampling.seed = fake.broken_seed;
    submit(&b, seqs[i]);
  }
  wait_final(&b, 9);
  for (unsigned i = 0; i < 9; i++) {
    assert_ended(seqs[i], i % 3 == 1 ? TL_FINISH_ERROR : TL_FINISH_LENGTH, i % 3 == 1 ? 0 : 30);
    fake_sequence_free(seqs[i]);
  }
  assert_false(atomic_load_explicit(&tl_engine_board(b.engine, 0)->failed, memory_order_relaxed));
  assert_at_rest(&b);
  finish(&b);
}

static void test_never_started(void **state) {
  (void)state;
  reset_fake();
  struct tl_engine_options o = options();
  struct tl_metrics *metrics = tl_metrics_new();
  struct tl_engine *engine;
  assert_int_equal(engine_new_with_ops(&o, fake_chosen(), metrics, &engine, NULL), TL_OK);
  tl_engine_stop(engine);
  tl_engine_free(engine);
  tl_metrics_free(metrics);
}

/* Which steps may run ahead: not those that need on the host what the step before draws. */
static void test_what_runs_ahead(void **state) {
  (void)state;
  enum { PLAIN, HISTORY, LOGPROBS, BIAS, MIN_NEW, BAD_WORDS, KINDS };
  static const int32_t stop[] = {FAKE_VOCAB}; /* which never comes */
  static const struct tl_bad_word word = {stop, 1};
  for (unsigned kind = 0; kind < KINDS; kind++) {
    reset_fake();
    struct bench b;
    struct tl_engine_options o = options();
    start(&b, &o);
    uint64_t random = 9;
    struct tl_sequence *seq = fake_sequence(&random, 20, 50);
    if (kind == HISTORY) fake_want_history(seq);
    if (kind == LOGPROBS) fake_want_logprobs(seq, 2);
    if (kind == BIAS || kind == MIN_NEW) fake_want_stop(seq, stop, 1, kind == MIN_NEW ? 30 : 0);
    if (kind == BIAS) seq->bias[seq->n_bias++] = (struct tl_token_bias){3, -1};
    if (kind == BAD_WORDS) fake_want_bad_words(seq, &word, 1);
    submit(&b, seq);
    wait_final(&b, 1);
    assert_ended(seq, TL_FINISH_LENGTH, 50);
    uint64_t n_fed = atomic_load_explicit(&fake.n_fed, memory_order_relaxed);
    /* all tokens but the first are drawn behind one that the host does not know, from the 31st on with min_new */
    if (!draft) assert_int_equal(n_fed, !run_ahead ? 0 : kind == PLAIN ? 49 : kind == MIN_NEW ? 20 : 0);
    fake_sequence_free(seq);
    assert_at_rest(&b);
    finish(&b);
  }
}

/* Of a text that repeats itself: guesses that are right save steps, wrong ones none are made of; who may have none gets none. */
static void test_drafts(void **state) {
  (void)state;
  enum { PLAIN, LOGPROBS, MIN_NEW, HISTORY, BAD_WORDS, KINDS };
  static const int32_t stop[] = {FAKE_VOCAB - 1}; /* which never comes */
  static const struct tl_bad_word word = {stop, 1};
  for (unsigned kind = 0; kind < KINDS; kind++)
    for (uint32_t most = 1; most < 16; most += 7) {
      reset_fake();
      fake.repeats = true;
      struct bench b;
      struct tl_engine_options o = options();
      o.draft_tokens = most;
      o.max_batch_size = 16;
      start(&b, &o);
      uint64_t random = 4;
      struct tl_sequence *seq = fake_sequence(&random, 20, 200);
      if (kind == LOGPROBS) fake_want_logprobs(seq, 2);
      if (kind == MIN_NEW) fake_want_stop(seq, stop, 1, 100);
      if (kind == HISTORY) fake_want_history(seq);
      if (kind == BAD_WORDS) fake_want_bad_words(seq, &word, 1);
      submit(&b, seq);
      wait_final(&b, 1);
      assert_ended(seq, TL_FINISH_LENGTH, 200);
      double guessed = metric(&b, "tokenlane_draft_tokens_total{replica=\"0\"}");
      double taken = metric(&b, "tokenlane_draft_tokens_taken_total{replica=\"0\"}");
      double steps = (double)atomic_load_explicit(&fake.n_steps, memory_order_relaxed);
      bool may = kind < HISTORY;
      assert_int_equal(guessed > 0, may);
      assert_true(may ? taken > 40 && taken < guessed : taken == 0);
      assert_true(steps == 2 + 199 - taken); /* two for the prompt, of 16 tokens at most */
      const struct tl_board *board = tl_engine_board(b.engine, 0); /* by its figures the router guesses how long a backlog takes */
      assert_int_equal(atomic_load_explicit(&board->n_prefill_tokens, memory_order_relaxed), 20);
      assert_int_equal(atomic_load_explicit(&board->n_decode_tokens, memory_order_relaxed), 199);
      fake_sequence_free(seq);
      assert_at_rest(&b);
      finish(&b);
    }
}

/* Left to the engine: some on processors alone. */
static void test_drafts_by_device(void **state) {
  (void)state;
  static const struct {
    const char *devices[2];
    uint32_t asked, expected;
  } cases[] = {{{"cpu:0", "cpu:1"}, TL_DRAFT_TOKENS_AUTO, 4}, {{"cpu:0", "cuda:0"}, TL_DRAFT_TOKENS_AUTO, 0}, {{"sim:0", "sim:1"}, TL_DRAFT_TOKENS_AUTO, 0},
               {{"cuda:0", "cuda:1"}, 3, 3}, {{"cpu:0", "cpu:1"}, 0, 0}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    reset_fake();
    struct bench b;
    struct tl_engine_options o = options();
    o.devices = cases[i].devices;
    o.n_replicas = 2;
    o.draft_tokens = cases[i].asked;
    start(&b, &o);
    assert_int_equal(tl_engine_draft_tokens(b.engine), cases[i].expected);
    finish(&b);
  }
}

/* The last token of a prompt may be in a step of its own, with guesses behind it, which are no prompt's rows. */
static void test_drafts_behind_a_prompt(void **state) {
  (void)state;
  reset_fake();
  fake.repeats = true;
  struct bench b;
  struct tl_engine_options o = options();
  o.draft_tokens = 5;
  start(&b, &o);
  uint64_t random = 4;
  struct tl_sequence *seq = fake_sequence(&random, 17, 10);
  for (uint32_t i = 0; i < 17; i++) seq->tokens[i] = (int32_t)(i % 3);
  submit(&b, seq);
  wait_final(&b, 1);
  assert_ended(seq, TL_FINISH_LENGTH, 10);
  assert_true(metric(&b, "tokenlane_draft_tokens_total{replica=\"0\"}") >= 3);
  assert_int_equal(metric(&b, "tokenlane_prompt_tokens_total{replica=\"0\"}"), 17);
  fake_sequence_free(seq);
  assert_at_rest(&b);
  finish(&b);
}

/* Texts that repeat nothing are looked at together, however they came, and run ahead in between. */
static void test_drafts_and_running_ahead(void **state) {
  (void)state;
  enum { N = 12, NEW = 160 };
  struct tl_sequence *seqs[N];
  struct bench b;
  struct tl_engine_options o = options();
  if (!run_ahead) return;
  reset_fake();
  fake.repeats = false;
  fake.n_blocks = 200;
  fake.step_ns = TL_MS(1) / 5; /* all are there before the first one ends */
  o.draft_tokens = 5;
  o.max_batch_size = 16;
  o.max_batch_tokens = 32;
  start(&b, &o);
  uint64_t random = 6;
  for (unsigned i = 0; i < N; i++) { /* one by one: none has its first token when another has */
    submit(&b, seqs[i] = fake_sequence(&random, 20, NEW));
    while (atomic_load_explicit(&seqs[i]->n_out, memory_order_acquire) < 3) usleep(10);
  }
  wait_final(&b, N);
  for (unsigned i = 0; i < N; i++) {
    assert_ended(seqs[i], TL_FINISH_LENGTH, NEW);
    fake_sequence_free(seqs[i]);
  }
  /* 7 of 8 tokens, but for guesses by chance and where one has just come */
  uint64_t n_fed = atomic_load_explicit(&fake.n_fed, memory_order_relaxed);
  assert_true(n_fed > N * NEW * 3 / 4);
  submit(&b, seqs[0] = fake_sequence(&random, 20, 2)); /* too short for guesses */
  wait_final(&b, N + 1);
  assert_int_equal(atomic_load_explicit(&fake.n_fed, memory_order_relaxed), n_fed + 1);
  fake_sequence_free(seqs[0]);
  assert_at_rest(&b);
  finish(&b);
}

int main(void) {
  tl_log_set_level("error", NULL);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_lengths),
      cmocka_unit_test(test_what_runs_ahead),
      cmocka_unit_test(test_drafts), cmocka_unit_test(test_drafts_by_device),
      cmocka_unit_test(test_drafts_behind_a_prompt),
      cmocka_unit_test(test_drafts_and_running_ahead),
      cmocka_unit_test(test_stop_ids),
      cmocka_unit_test(test_own_stop_ids),
      cmocka_unit_test(test_bad_words),
      cmocka_unit_test(test_logprobs_and_scores),
      cmocka_unit_test(test_history),
      cmocka_unit_test(test_what_cannot_fit),
      cmocka_unit_test(test_cancel),
      cmocka_unit_test(test_device_fails),
      cmocka_unit_test(test_broken_sequence),
      cmocka_unit_test(test_devices_that_do_not_start),
      cmocka_unit_test(test_stop),
      cmocka_unit_test(test_never_started),
  };
  return run_all_ways(tests);
}
