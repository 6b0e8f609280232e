/* SPDX-License-Identifier: MIT */
/* A model whose layers keep a state. The fake device's states hold the hash of the tokens that they are behind, so a wrong one ends
 * the test (fake_device.h). */
#include "engine_unit.h"
#include "tokenlane/log.h"

static const struct tl_model recurrent = {.max_context = 256, .vocab_size = FAKE_VOCAB, .architecture = "fake", .recurrence = {.n_layers = 3}};

static struct tl_engine_options keeping(bool prefix_cache) {
  struct tl_engine_options o = options();
  o.model = &recurrent;
  o.prefix_cache = prefix_cache;
  o.priority_age_ns = TL_SEC(10);
  return o;
}

static double used_states(struct bench *b) {
  return metric(b, "tokenlane_states_used{replica=\"0\"}");
}

/* As many as are of use, or as the device has. */
static void test_how_many(void **state) {
  (void)state;
  static const uint32_t expected[2][2] = {{4, 3}, {24, 3}}; /* by prefix_cache; asked for, had */
  for (unsigned i = 0; i < 4; i++) {
    reset_fake();
    fake.n_states = i % 2 ? 3 : 0;
    struct bench b;
    struct tl_engine_options o = keeping(i / 2);
    start(&b, &o);
    assert_true(metric(&b, "tokenlane_states{replica=\"0\"}") == expected[i / 2][i % 2]);
    assert_true(used_states(&b) == 0);
    finish(&b);
  }
}

/* A model without any has none of it, not even the figures. */
static void test_none(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_metrics_expose(b.metrics, &out);
  assert_null(strstr(tl_buffer_string(&out), "tokenlane_states"));
  tl_buffer_done(&out);
  finish(&b);
}

/* What a wrong guess did to a state cannot be taken back. */
static void test_no_guesses(void **state) {
  (void)state;
  reset_fake();
  fake.repeats = true;
  struct bench b;
  struct tl_engine_options o = keeping(true);
  o.draft_tokens = 5;
  start(&b, &o);
  assert_int_equal(tl_engine_draft_tokens(b.engine), 0);
  uint64_t random = 5;
  struct tl_sequence *seq = fake_sequence(&random, 40, 100);
  assert_false(tl_engine_guesses(b.engine, seq));
  submit(&b, seq);
  wait_final(&b, 1);
  assert_ended(seq, TL_FINISH_LENGTH, 100);
  assert_true(metric(&b, "tokenlane_draft_tokens_total{replica=\"0\"}") == 0);
  fake_sequence_free(seq);
  finish(&b);
}

static uint32_t cached(struct bench *b, uint64_t family, uint32_t n_prompt, uint32_t n_alike, uint32_t n_new) {
  uint64_t random = 5 + n_prompt;
  struct tl_sequence *seq = fake_sequence(&random, n_prompt, n_new);
  fake_prefix(seq, family, n_alike);
  submit(b, seq);
  wait_final(b, b->n_final + 1);
  assert_ended(seq, TL_FINISH_LENGTH, n_new);
  uint32_t n = seq->n_cached;
  fake_sequence_free(seq);
  assert_at_rest(b);
  return n;
}

/* Later prompts go on from where a state is. */
static void test_hits(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = keeping(true);
  start(&b, &o);
  assert_int_equal(cached(&b, 1, 100, 100, 5), 0);
  assert_int_equal(cached(&b, 1, 100, 100, 5), 96);
  assert_int_equal(cached(&b, 1, 150, 150, 5), 96);
  assert_int_equal(cached(&b, 1, 200, 90, 5), 0); /* parts from the others behind 80, where no state is */
  assert_int_equal(cached(&b, 1, 210, 85, 5), 80); /* until then */
  assert_true(metric(&b, "tokenlane_prefix_cache_states{replica=\"0\"}") >= 5);
  assert_true(metric(&b, "tokenlane_prefix_cache_hit_tokens_total{replica=\"0\"}") == 96 + 96 + 80);
  assert_true(atomic_load_explicit(&fake.n_moved, memory_order_relaxed) >= 5);
  finish(&b);
}

/* The next turn of a conversation goes on from the last full block of the answer. */
static void test_next_turn(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = keeping(true);
  start(&b, &o);
  uint64_t random = 7;
  struct tl_sequence *seq = fake_sequence(&random, 70, 50), *next = fake_sequence(&random, 140, 5);
  submit(&b, seq);
  wait_final(&b, 1);
  memcpy(next->tokens, seq->tokens, 120 * sizeof *seq->tokens);
  submit(&b, next);
  wait_final(&b, 2);
  assert_int_equal(next->n_cached, 112);
  fake_sequence_free(seq);
  fake_sequence_free(next);
  finish(&b);
}

/* Choices of one prompt: the first computes it, the others its end. */
static void test_forks(void **state) {
  (void)state;
  for (unsigned prefix_cache = 0; prefix_cache < 2; prefix_cache++) {
    reset_fake();
    struct bench b;
    struct tl_engine_options o = keeping(prefix_cache);
    o.max_batch_size = 8;
    fake.step_ns = TL_MS(1); /* all are submitted before the first ends */
    start(&b, &o);
    uint64_t random = 3;
    struct tl_sequence *seqs[6];
    for (unsigned i = 0; i < 6; i++) {
      seqs[i] = fake_sequence(&random, 105, 60);
      fake_prefix(seqs[i], 1, 105);
      seqs[i]->fork = 77;
    }
    for (unsigned i = 0; i < 6; i++) submit(&b, seqs[i]);
    wait_final(&b, 6);
    assert_int_equal(seqs[0]->n_cached, 0);
    for (unsigned i = 1; i < 6; i++) assert_int_equal(seqs[i]->n_cached, 96);
    for (unsigned i = 0; i < 6; i++) fake_sequence_free(seqs[i]);
    assert_at_rest(&b);
    finish(&b);
  }
}

/* A device computes nonsense in one step: what later ones share is of the steps before at most. */
static void test_what_was_broken_is_not_found(void **state) {
  (void)state;
  for (uint64_t at = 1; at < 12; at++) {
    reset_fake();
    fake.spoilt_at = at;
    struct bench b;
    struct tl_engine_options o = keeping(true);
    start(&b, &o);
    uint64_t random = 3;
    struct tl_sequence *seq = fake_sequence(&random, 100, 30);
    fake_prefix(seq, 1, 100);
    submit(&b, seq);
    wait_final(&b, 1);
    assert_int_equal(seq->finish, TL_FINISH_ERROR);
    fake_sequence_free(seq);
    assert_int_equal(cached(&b, 1, 100, 100, 30), 0);
    assert_int_equal(cached(&b, 1, 100, 100, 30), 96);
    finish(&b);
  }
}

/* Prompts that are alike and not, forks, scored ones, such as are cancelled, in batches, with more and fewer states than places: all end well. */
static void run_mixed(uint32_t n_states, bool prefix_cache, int32_t (*ret_tokens)[40]) {
  reset_fake();
  fake.n_blocks = 24;
  fake.n_states = n_states;
  struct bench b;
  struct tl_engine_options o = keeping(prefix_cache);
  start(&b, &o);
  uint64_t random = 99;
  struct tl_sequence *seqs[40];
  for (unsigned i = 0; i < 40; i++) {
    seqs[i] = mixed_sequence(&random, i, 150);
  }
  for (unsigned i = 0; i < 40; i++) {
    submit(&b, seqs[i]);
    if (i % 13 == 5) atomic_store_explicit(&seqs[i]->cancel, 1, memory_order_relaxed);
  }
  wait_final(&b, 40);
  for (unsigned i = 0; i < 40; i++) {
    if (i % 13 != 5) assert_ended(seqs[i], TL_FINISH_LENGTH, 40);
    memcpy(ret_tokens[i], seqs[i]->tokens + seqs[i]->n_prompt, sizeof ret_tokens[i]);
    if (i % 13 == 5) memset(ret_tokens[i], 0, sizeof ret_tokens[i]);
    fake_sequence_free(seqs[i]);
  }
  assert_at_rest(&b);
  assert_true(used_states(&b) == 0);
  finish(&b);
}

static void test_mixed(void **state) {
  (void)state;
  static int32_t first[40][40], other[40][40];
  static const uint32_t numbers[] = {0, 1, 2, 3, 4, 5, 6, 9};
  run_mixed(0, false, first);
  for (unsigned i = 0; i < UNIT_COUNT(numbers); i++) {
    run_mixed(numbers[i], true, other);
    assert_memory_equal(first, other, sizeof first);
    run_mixed(numbers[i], false, other);
    assert_memory_equal(first, other, sizeof first);
  }
}

int main(void) {
  tl_log_set_level("error", NULL);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_how_many),
      cmocka_unit_test(test_none),
      cmocka_unit_test(test_no_guesses),
      cmocka_unit_test(test_hits),
      cmocka_unit_test(test_next_turn),
      cmocka_unit_test(test_forks),
      cmocka_unit_test(test_what_was_broken_is_not_found),
      cmocka_unit_test(test_mixed),
  };
  return run_both_ways(tests);
}
