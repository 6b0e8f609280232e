/* SPDX-License-Identifier: MIT */
/* A second fake device guesses for the first one. Its tokens are a hash of all that its KV cache holds of the sequence, so with a draft model
 * that is always right one slot that is stale or missing shows as a wrong guess; and no token ever changes (fake_check_sequence). */
#include "engine_unit.h"
#include "tokenlane/log.h"

static const struct tl_model small = {.max_context = 256, .vocab_size = FAKE_VOCAB, .weight_bytes = 1};

static struct tl_engine_options with_model(void) {
  struct tl_engine_options o = options();
  o.draft_model = &small;
  o.draft_tokens = 5;
  o.max_batch_size = 16;
  o.max_batch_tokens = 64;
  o.prefix_cache = true;
  return o;
}

/* A step takes much longer than the draft model's, so that guesses pay however busy the machine is. */
static void reset(unsigned right) {
  reset_fake();
  fake.guesses_right = right;
  fake.n_blocks = 200;
  fake.step_ns = UNIT_SLOWDOWN * TL_MS(1) / 2;
}

static double guessed(struct bench *b) {
  return metric(b, "tokenlane_draft_model_tokens_total{replica=\"0\"}");
}

static double right(struct bench *b) {
  return metric(b, "tokenlane_draft_model_tokens_taken_total{replica=\"0\"}");
}

static uint64_t load(const _Atomic uint64_t *n) {
  return atomic_load_explicit(n, memory_order_relaxed);
}

/* Of a model that is always right nearly all guesses are taken, and most steps saved; with one that is never right few are made. */
static void test_right_and_wrong(void **state) {
  (void)state;
  static const struct {
    unsigned right;
    uint32_t most;
  } cases[] = {{100, 5}, {100, 15}, {100, 1}, {70, 5}, {0, 5}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct bench b;
    reset(cases[i].right);
    if (cases[i].right == 0) fake.guess_ns = fake.step_ns / 5;
    struct tl_engine_options o = with_model();
    o.draft_tokens = cases[i].most;
    start(&b, &o);
    uint64_t random = 4;
    struct tl_sequence *seq = fake_sequence(&random, 20, 200);
    submit(&b, seq);
    wait_final(&b, 1);
    assert_ended(seq, TL_FINISH_LENGTH, 200);
    double taken = right(&b), all = guessed(&b), steps = (double)load(&fake.n_steps);
    double of_all = metric(&b, "tokenlane_draft_tokens_total{replica=\"0\"}");
    assert_true(all <= of_all && of_all < all + 20); /* three tokens may stand there twice by chance */
    assert_true(steps == 1 + 199 - metric(&b, "tokenlane_draft_tokens_taken_total{replica=\"0\"}")); /* one for the prompt */
    assert_int_equal(load(&fake.n_guess_steps), metric(&b, "tokenlane_draft_model_steps_total{replica=\"0\"}"));
    if (cases[i].right == 100) assert_true(taken == all && taken > (cases[i].most == 1 ? 80 : 140));
    if (cases[i].right == 70) assert_true(taken > 60 && taken < all);
    if (cases[i].right == 0) assert_true(taken == 0 && all < 50 && load(&fake.n_guess_tokens) < 300);
    /* what a client is told of its prediction is not about these */
    assert_true(atomic_load_explicit(&seq->n_right, memory_order_relaxed) + atomic_load_explicit(&seq->n_wrong, memory_order_relaxed) == of_all - all);
    fake_sequence_free(seq);
    assert_at_rest(&b);
    finish(&b);
  }
}

/* The prompt is longer than a step, so that the draft model catches up in pieces; of a second sequence with that prompt it has all but the end. */
static void test_catching_up(void **state) {
  (void)state;
  struct bench b;
  reset(100);
  struct tl_engine_options o = with_model();
  start(&b, &o);
  uint64_t random = 4, before = 0;
  for (unsigned i = 0; i < 3; i++) {
    struct tl_sequence *seq = fake_sequence(&random, 150, 50);
    if (i < 2) fake_prefix(seq, 1, 150);
    submit(&b, seq);
    wait_final(&b, i + 1);
    uint64_t n = load(&fake.n_guess_tokens) - before;
    before += n;
    assert_true(i == 1 ? n < 80 : n > 190 && n < 230);
    fake_sequence_free(seq);
  }
  assert_true(right(&b) == guessed(&b) && right(&b) > 90);
  /* not for few tokens behind a long prompt */
  struct tl_sequence *seq = fake_sequence(&random, 200, 5);
  submit(&b, seq);
  wait_final(&b, 4);
  assert_int_equal(load(&fake.n_guess_tokens), before);
  fake_sequence_free(seq);
  assert_at_rest(&b);
  finish(&b);
}

/* Many at once, that are forked, scored, put back for want of blocks, urgent or not, with prompts alike and not; some have no guesses. A right draft model is right
 * in all of it, if it knows what it has. */
static void test_crowd(void **state) {
  (void)state;
  enum { N = 120, AT_ONCE = 6 };
  for (unsigned few = 0; few < 2; few++)
    for (unsigned percent = 60; percent <= 100; percent += 40) {
      struct tl_sequence *seqs[N];
      struct bench b;
      reset(percent);
      fake.step_ns = UNIT_SLOWDOWN * TL_MS(1) / 4;
      fake.n_blocks = few ? 24 : 120;
      struct tl_engine_options o = with_model();
      start(&b, &o);
      uint64_t random = 12;
      for (unsigned i = 0; i < N; i++) {
        submit(&b, seqs[i] = mixed_sequence(&random, i, 60));
        if (i >= AT_ONCE) wait_final(&b, i - AT_ONCE);
        if (i % 9 == 0) atomic_store_explicit(&seqs[i]->cancel, 1, memory_order_relaxed);
      }
      wait_final(&b, N);
      for (unsigned i = 0; i < N; i++) {
        if (i % 9) assert_ended(seqs[i], TL_FINISH_LENGTH, 40);
        fake_sequence_free(seqs[i]);
      }
      assert_true(guessed(&b) > 300);
      if (percent == 100) assert_true(right(&b) > 0.995 * guessed(&b)); /* who is cancelled takes no more */
      else assert_true(right(&b) < guessed(&b));
      if (few) assert_true(metric(&b, "tokenlane_preemptions_total{replica=\"0\"}") > 3);
      assert_at_rest(&b);
      finish(&b);
    }
}

/* What stands in the text is taken before what the model says, and both go on from one another. */
static void test_with_matches(void **state) {
  (void)state;
  struct bench b;
  reset(100);
  fake.repeats = true;
  struct tl_engine_options o = with_model();
  start(&b, &o);
  uint64_t random = 4;
  struct tl_sequence *seq = fake_sequence(&random, 20, 200);
  submit(&b, seq);
  wait_final(&b, 1);
  double all = metric(&b, "tokenlane_draft_tokens_total{replica=\"0\"}");
  assert_true(guessed(&b) > 20 && all - guessed(&b) > 20);
  assert_true(right(&b) == guessed(&b));
  fake_sequence_free(seq);
  assert_at_rest(&b);
  finish(&b);
}

/* It makes no token, one that the model has not, or fails; it reads none that it has not. */
static void test_what_it_cannot(void **state) {
  (void)state;
  enum { NO_TOKEN, SMALL_VOCABULARY, SHORT_CONTEXT, KINDS };
  static const struct tl_model half = {.max_context = 256, .vocab_size = FAKE_VOCAB / 2}, brief = {.max_context = 48, .vocab_size = FAKE_VOCAB};
  for (unsigned kind = 0; kind < KINDS; kind++) {
    struct bench b;
    reset(100);
    if (kind == NO_TOKEN) fake.guess_broken_seed = 77;
    struct tl_engine_options o = with_model();
    if (kind == SMALL_VOCABULARY) o.draft_model = &half;
    if (kind == SHORT_CONTEXT) o.draft_model = &brief;
    start(&b, &o);
    uint64_t random = 4;
    struct tl_sequence *seq = fake_sequence(&random, 20, 100);
    if (kind == NO_TOKEN) seq->sampling.seed = 77;
    submit(&b, seq);
    wait_final(&b, 1);
    assert_ended(seq, TL_FINISH_LENGTH, 100);
    assert_true(kind == SHORT_CONTEXT ? guessed(&b) > 10 && guessed(&b) < 30 : guessed(&b) == 0);
    if (kind == NO_TOKEN) assert_true(load(&fake.n_guess_steps) <= 3); /* though each of them computes the prompt anew */
    fake_sequence_free(seq);
    assert_at_rest(&b);
    finish(&b);
  }
}

static void test_its_device_fails(void **state) {
  (void)state;
  for (unsigned in_collect = 0; in_collect < 2; in_collect++) {
    struct bench b;
    reset(100);
    fake.guess_fails_at = 7;
    fake.fail_in_collect = in_collect;
    struct tl_engine_options o = with_model();
    start(&b, &o);
    uint64_t random = 4;
    struct tl_sequence *seqs[3];
    for (unsigned i = 0; i < 3; i++) submit(&b, seqs[i] = fake_sequence(&random, 20, 100));
    wait_final(&b, 3);
    for (unsigned i = 0; i < 3; i++) {
      assert_int_equal(seqs[i]->finish, TL_FINISH_FAULT); /* and what it has is right */
      assert_true(seqs[i]->n_faults <= 1);
      fake_sequence_free(seqs[i]);
    }
    assert_true(tl_engine_failed(b.engine, 0));
    assert_false(tl_engine_can_reset(b.engine, 0));
    finish(&b);
  }
}

/* Whoever was in a step that failed is not guessed for again: what only the draft model cannot compute comes to its end. */
static void test_who_is_to_blame(void **state) {
  (void)state;
  struct bench b;
  reset(100);
  struct tl_engine_options o = with_model();
  start(&b, &o);
  uint64_t random = 4;
  struct tl_sequence *seq = fake_sequence(&random, 20, 100);
  seq->n_faults = 1;
  submit(&b, seq);
  wait_final(&b, 1);
  assert_ended(seq, TL_FINISH_LENGTH, 100);
  assert_int_equal(load(&fake.n_guess_steps), 0);
  fake_sequence_free(seq);
  assert_at_rest(&b);
  finish(&b);
}

/* What the step before brought is told while the draft model runs, not once it has. */
static void test_nobody_waits_for_guesses(void **state) {
  (void)state;
  struct bench b;
  reset(100);
  fake.guess_ns = TL_MS(400);
  struct tl_engine_options o = with_model();
  o.draft_tokens = 1;
  start(&b, &o);
  uint64_t random = 4;
  struct tl_sequence *goes_on = fake_sequence(&random, 20, 100), *ends = fake_sequence(&random, 20, 1);
  submit(&b, goes_on);
  submit(&b, ends);
  wait_final(&b, 1);
  assert_ended(ends, TL_FINISH_LENGTH, 1);
  assert_int_equal(load(&fake.n_guess_tokens), 0); /* of those that are over */
  atomic_store_explicit(&goes_on->cancel, 1, memory_order_relaxed);
  wait_final(&b, 2);
  fake_sequence_free(goes_on);
  fake_sequence_free(ends);
  assert_at_rest(&b);
  finish(&b);
}

static void refused(struct tl_engine_options o, const char *says) {
  struct tl_error err = {0};
  struct tl_engine *engine = NULL;
  struct tl_metrics *metrics = tl_metrics_new();
  reset(100);
  assert_true(engine_new_with_ops(&o, fake_chosen(), metrics, &engine, &err) < 0);
  assert_string_equal(err.field, "model.draft");
  if (!strstr(err.message, says)) fail_msg("%s", err.message);
  tl_metrics_free(metrics);
  assert_int_equal(load(&fake.n_open), 0);
}

static void test_refused(void **state) {
  (void)state;
  static const struct tl_model pools = {.max_context = 256, .vocab_size = FAKE_VOCAB, .pooling = TL_POOL_MEAN};
  static const struct tl_model keeps = {.max_context = 256, .vocab_size = FAKE_VOCAB, .recurrence = {.n_layers = 1}};
  struct tl_engine_options o = with_model(), other = o;
  other.draft_model = &pools;
  refused(other, "not vectors");
  other.draft_model = &keeps;
  refused(other, "its layers keep a state");
  other = o, other.model = &pools;
  refused(other, "makes no tokens");
  other = o, other.model = &keeps;
  refused(other, "the model's layers keep a state");
  other = o, other.draft_tokens = 0;
  refused(other, "engine.draft_tokens is 0");
  other = o, other.max_batch_size = 1;
  refused(other, "engine.max_batch_size is 1");
  other = o, other.tensor_parallel = 2;
  refused(other, "engine.tensor_parallel");
}

/* Left to the engine: some on all devices. */
static void test_by_itself(void **state) {
  (void)state;
  static const char *const devices[] = {"cuda:0"};
  struct bench b;
  reset(100);
  struct tl_engine_options o = with_model();
  o.devices = devices;
  o.draft_tokens = TL_DRAFT_TOKENS_AUTO;
  start(&b, &o);
  assert_int_equal(tl_engine_draft_tokens(b.engine), 8);
  finish(&b);
}

int main(void) {
  tl_log_set_level("error", NULL);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_right_and_wrong), cmocka_unit_test(test_catching_up), cmocka_unit_test(test_crowd),
                                     cmocka_unit_test(test_with_matches), cmocka_unit_test(test_what_it_cannot), cmocka_unit_test(test_its_device_fails),
                                     cmocka_unit_test(test_who_is_to_blame), cmocka_unit_test(test_nobody_waits_for_guesses),
                                     cmocka_unit_test(test_refused), cmocka_unit_test(test_by_itself)};
  return run_both_ways(tests);
}
