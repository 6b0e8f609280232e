/* SPDX-License-Identifier: MIT */
/* Sequences that are held to a grammar, or to a set of tokens, in batches with free ones: each text is what a matcher of its own
 * allows, token by token, whether its blocks were taken from it, its device failed under it or its client left. */
#include <jansson.h>

#include "engine_unit.h"
#include "grammar_sequence.h"
#include "tokenlane/log.h"

static const int32_t eos[] = {GRAMMAR_EOS};
static struct tl_vocabulary *vocabulary;

static int32_t say(const struct tl_sequence *seq, uint32_t n, const uint32_t *mask) {
  uint64_t hash = 0;
  for (uint32_t i = 0; i < n; i++) hash = fake_hash(hash, seq->tokens[i]);
  int32_t token = fake_next(hash, seq->sampling.seed, n, n > 1 ? seq->tokens[n - 2] : 0, n ? seq->tokens[n - 1] : 0);
  for (uint32_t tries = 0; tries < FAKE_VOCAB; tries++, token = (token + 1) % FAKE_VOCAB)
    if (grammar_allows(mask, token) && (n - seq->n_prompt >= seq->min_new || token != GRAMMAR_EOS)) return token;
  return -1;
}

static struct tl_sequence *held(uint64_t *random, uint32_t n_prompt, uint32_t max_new, struct tl_grammar *grammar) {
  struct tl_sequence *seq = fake_sequence(random, n_prompt, max_new);
  fake_want_stop(seq, eos, 1, 0);
  if (grammar) grammar_want(seq, grammar);
  return seq;
}

static void free_held(struct tl_sequence *seq) {
  tl_matcher_free(seq->matcher);
  fake_sequence_free(seq);
}

static void check(const struct tl_sequence *seq, struct tl_grammar *grammar) {
  grammar_check(seq, grammar, FAKE_VOCAB, say);
}

/* Ends by itself, as soon as nothing can follow, without an EOS; by EOS where more could; at max_new in the middle. */
static void test_ends(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  uint64_t random = 3;
  static const char *const texts[] = {"[a-c]{3}x", "[0-9]+", "true|[a-z]{30}", ""};
  unsigned n = 0, n_eos = 0, n_cut = 0, n_must = 0;
  for (unsigned t = 0; t < UNIT_COUNT(texts); t++) {
    struct tl_grammar *g = grammar_of(vocabulary, texts[t]);
    for (unsigned i = 0; i < 40; i++) {
      struct tl_sequence *seq = held(&random, 1 + unit_below(&random, 30), 20, g);
      seq->ignore_eos = i % 4 == 1;
      seq->min_new = i % 4 == 2 ? 9 : 0;
      submit(&b, seq);
      wait_final(&b, ++n);
      check(seq, g);
      uint32_t n_out = atomic_load_explicit(&seq->n_out, memory_order_acquire);
      bool by_eos = n_out && seq->tokens[seq->n_prompt + n_out - 1] == GRAMMAR_EOS;
      if (t == 0) assert_true(seq->finish == TL_FINISH_STOP && n_out == 4 && !by_eos); /* though min_new is 9 */
      if (t == 1) assert_true(seq->finish == (by_eos ? TL_FINISH_STOP : TL_FINISH_LENGTH) && (!by_eos || i % 4 != 1));
      if (t == 1 && i % 4 == 2) assert_true(n_out > 9);
      if (t == 3) assert_true(seq->finish == TL_FINISH_STOP && n_out == (i % 4 == 0 || i % 4 == 3));
      n_eos += by_eos;
      n_cut += seq->finish == TL_FINISH_LENGTH;
      n_must += seq->finish == TL_FINISH_STOP && !by_eos;
      free_held(seq);
    }
    tl_grammar_release(g);
  }
  assert_true(n_eos > 20 && n_cut > 5 && n_must > 50);
  assert_at_rest(&b);
  finish(&b);
}

static void test_json(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  uint64_t random = 4;
  struct tl_grammar *g = grammar_of(vocabulary, NULL);
  struct tl_sequence *seqs[60];
  unsigned n_whole = 0;
  for (unsigned i = 0; i < 60; i++) submit(&b, seqs[i] = held(&random, 1 + unit_below(&random, 40), 150, g));
  wait_final(&b, 60);
  for (unsigned i = 0; i < 60; i++) {
    check(seqs[i], g);
    if (seqs[i]->finish == TL_FINISH_STOP) {
      char *text = grammar_text(seqs[i]);
      json_error_t error;
      json_t *json = json_loads(text, JSON_DECODE_ANY, &error);
      if (!json_is_object(json)) fail_msg("no object: %s (%s)", text, error.text);
      json_decref(json);
      free(text);
      n_whole++;
    }
    free_held(seqs[i]);
  }
  assert_true(n_whole > 3);
  tl_grammar_release(g);
  assert_at_rest(&b);
  finish(&b);
}

/* With too few blocks for all, free ones and such with a set of tokens among them, some with log-probabilities; choices of one prompt. */
static void test_mixed_batches(void **state) {
  (void)state;
  reset_fake();
  fake.n_blocks = 18;
  struct bench b;
  struct tl_engine_options o = options();
  o.prefix_cache = true;
  start(&b, &o);
  uint64_t random = 5;
  uint32_t allowed[TL_MASK_WORDS(FAKE_VOCAB)] = {0x00ff0f00, 0x10}; /* digits and letters; no EOS */
  struct tl_grammar *g = grammar_of(vocabulary, "([a-m]+[0-9]+)+");
  struct tl_sequence *seqs[40];
  for (unsigned i = 0; i < 40; i++) {
    seqs[i] = held(&random, 10 + unit_below(&random, 100), 40, i % 4 < 2 ? g : NULL);
    fake_prefix(seqs[i], i / 4 % 3, 90);
    seqs[i]->fork = 1 + i / 4;
    if (i % 4 == 1 || i % 4 == 2) seqs[i]->allowed = allowed;
    if (i % 5 == 0) fake_want_logprobs(seqs[i], 2);
    if (i % 7 == 0) seqs[i]->score_prompt = seqs[i]->logprobs != NULL;
  }
  for (unsigned i = 0; i < 40; i++) submit(&b, seqs[i]);
  wait_final(&b, 40);
  for (unsigned i = 0; i < 40; i++) {
    check(seqs[i], i % 4 < 2 ? g : NULL);
    for (uint32_t k = 0; i % 4 == 2 && k < 40; k++) assert_true(grammar_allows(allowed, seqs[i]->tokens[seqs[i]->n_prompt + k]));
    free_held(seqs[i]);
  }
  assert_true(metric(&b, "tokenlane_preemptions_total{replica=\"0\"}") > 0);
  tl_grammar_release(g);
  assert_at_rest(&b);
  finish(&b);
}

/* The device fails after any number of steps; what it had goes on elsewhere, where the grammar's way goes on with it. */
static void test_goes_on_elsewhere(void **state) {
  (void)state;
  struct tl_grammar *g = grammar_of(vocabulary, "([a-m]+[0-9]+)+");
  for (unsigned fail_at = 1; fail_at < 14; fail_at++) {
    reset_fake();
    fake.fail_at = fail_at;
    fake.fail_in_collect = fail_at % 2;
    struct bench b;
    struct tl_engine_options o = options();
    o.n_replicas = 2;
    start(&b, &o);
    uint64_t random = fail_at;
    struct tl_sequence *seqs[4];
    for (unsigned i = 0; i < 4; i++) submit(&b, seqs[i] = held(&random, 20, 30, i % 2 ? g : NULL)); /* all to the one that fails */
    wait_final(&b, 4);
    unsigned n = 4;
    for (unsigned i = 0; i < 4; i++) {
      if (seqs[i]->finish != TL_FINISH_FAULT) continue;
      seqs[i]->finish = TL_FINISH_NONE;
      tl_engine_submit(b.engine, 1, seqs[i]);
      n++;
    }
    assert_true(n > 4);
    wait_final(&b, n);
    for (unsigned i = 0; i < 4; i++) {
      check(seqs[i], i % 2 ? g : NULL);
      free_held(seqs[i]);
    }
    finish(&b);
  }
  tl_grammar_release(g);
}

static void test_cancel(void **state) {
  (void)state;
  reset_fake();
  fake.step_ns = TL_MS(1);
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  uint64_t random = 6;
  struct tl_grammar *g = grammar_of(vocabulary, "[a-m]{200}");
  struct tl_sequence *seqs[8];
  for (unsigned i = 0; i < 8; i++) submit(&b, seqs[i] = held(&random, 5, 200, g));
  usleep(20 * 1000);
  for (unsigned i = 0; i < 8; i++) atomic_store_explicit(&seqs[i]->cancel, 1, memory_order_relaxed);
  wait_final(&b, 8);
  for (unsigned i = 0; i < 8; i++) {
    assert_int_equal(seqs[i]->finish, TL_FINISH_CANCELLED);
    char *text = grammar_text(seqs[i]);
    assert_int_equal(strspn(text, "abcdefghijklm"), strlen(text));
    free(text);
    free_held(seqs[i]); /* matcher and grammar too: the worker does not touch them any more */
  }
  tl_grammar_release(g);
  assert_at_rest(&b);
  finish(&b);
}

/* A row without a token ends its sequence alone: nothing of the set is in the grammar, or a bias forbids the rest. */
static void test_nothing_is_possible(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  uint64_t random = 7;
  uint32_t digits[TL_MASK_WORDS(FAKE_VOCAB)] = {0x3ff00, 0};
  struct tl_grammar *letters = grammar_of(vocabulary, "[a-z]+"), *both = grammar_of(vocabulary, "[0-9]{5}[a-z]+");
  struct tl_sequence *seqs[9];
  for (unsigned i = 0; i < 9; i++) {
    seqs[i] = held(&random, 5, 30, i % 3 == 0 ? letters : i % 3 == 1 ? both : NULL);
    seqs[i]->allowed = i % 3 == 2 ? NULL : digits;
    submit(&b, seqs[i]);
  }
  wait_final(&b, 9);
  for (unsigned i = 0; i < 9; i++) {
    check(seqs[i], i % 3 == 0 ? letters : i % 3 == 1 ? both : NULL);
    if (i % 3 < 2) assert_ended(seqs[i], TL_FINISH_ERROR, i % 3 * 5);
    free_held(seqs[i]);
  }
  assert_false(atomic_load_explicit(&tl_engine_board(b.engine, 0)->failed, memory_order_relaxed));
  tl_grammar_release(letters);
  tl_grammar_release(both);
  assert_at_rest(&b);
  finish(&b);
}

/* A stop id of the client's own that the grammar has as text, and one that it has not. */
static void test_own_stop_ids(void **state) {
  (void)state;
  static const int32_t ids[] = {8 + 7, 8 + 10 + 25, GRAMMAR_EOS}; /* "7" and "z", then the model's */
  reset_fake();
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  uint64_t random = 8;
  struct tl_grammar *g = grammar_of(vocabulary, "[0-9]{4}[0-9a-c]{0,20}");
  unsigned by_text = 0, by_other = 0;
  for (unsigned i = 0; i < 60; i++) {
    struct tl_sequence *seq = held(&random, 3, 40, g);
    free(seq->bias);
    fake_want_stop(seq, ids, 3, 0);
    seq->n_own_stop_ids = 2;
    seq->ignore_eos = true;
    submit(&b, seq);
    wait_final(&b, i + 1);
    check(seq, g);
    uint32_t n_out = atomic_load_explicit(&seq->n_out, memory_order_acquire);
    int32_t last = seq->tokens[seq->n_prompt + n_out - 1];
    assert_int_equal(seq->finish, TL_FINISH_STOP);
    assert_int_not_equal(last, GRAMMAR_EOS);
    by_text += last == ids[0];
    by_other += last == ids[1];
    if (last == ids[1]) assert_true(n_out > 4);
    free_held(seq);
  }
  assert_true(by_text > 2 && by_other > 2);
  tl_grammar_release(g);
  assert_at_rest(&b);
  finish(&b);
}

/* A set that does not change runs ahead, a grammar waits for each of its tokens, though not with its prompt. */
static void test_what_runs_ahead(void **state) {
  (void)state;
  uint32_t allowed[TL_MASK_WORDS(FAKE_VOCAB)] = {0x00ff0f00, 0x10};
  struct tl_grammar *g = grammar_of(vocabulary, "[a-z]{80}");
  for (unsigned with_grammar = 0; with_grammar < 2; with_grammar++) {
    reset_fake();
    struct bench b;
    struct tl_engine_options o = options();
    start(&b, &o);
    uint64_t random = 9;
    struct tl_sequence *seq = held(&random, 20, 50, with_grammar ? g : NULL);
    seq->allowed = with_grammar ? NULL : allowed;
    submit(&b, seq);
    wait_final(&b, 1);
    check(seq, with_grammar ? g : NULL);
    assert_ended(seq, TL_FINISH_LENGTH, 50);
    assert_int_equal(atomic_load_explicit(&fake.n_fed, memory_order_relaxed), run_ahead && !with_grammar ? 49 : 0);
    free_held(seq);
    assert_at_rest(&b);
    finish(&b);
  }
  tl_grammar_release(g);
}

/* What ends by a step has a row in the one that runs ahead, and is its client's all the same, with the set of tokens that it had. */
static void test_sets_go_with_their_sequences(void **state) {
  (void)state;
  reset_fake();
  fake.step_ns = TL_MS(1) / 4;
  struct bench b;
  struct tl_engine_options o = options();
  start(&b, &o);
  uint64_t random = 10;
  struct tl_sequence *seqs[40];
  uint32_t *sets[40];
  for (unsigned i = 0; i < 40; i++) {
    seqs[i] = held(&random, 3, 60, NULL);
    seqs[i]->allowed = sets[i] = malloc(TL_MASK_WORDS(FAKE_VOCAB) * sizeof *sets[i]);
    memcpy(sets[i], (uint32_t[]){0x00f00f00, 0x21f00}, sizeof *sets[i] * 2); /* with EOS */
    submit(&b, seqs[i]);
  }
  unsigned n_ended = 0;
  while (n_ended < 40) {
    wait_final(&b, b.n_final + 1);
    for (unsigned i = 0; i < 40; i++) {
      if (!seqs[i] || !seqs[i]->owner) continue;
      check(seqs[i], NULL);
      memset(sets[i], 0xaa, TL_MASK_WORDS(FAKE_VOCAB) * sizeof *sets[i]); /* the device looks whether its step is as it was */
      free(sets[i]);
      free_held(seqs[i]);
      seqs[i] = NULL;
      n_ended++;
    }
  }
  assert_at_rest(&b);
  finish(&b);
}

int main(void) {
  tl_log_set_level("error", NULL);
  vocabulary = grammar_vocabulary(FAKE_VOCAB);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ends),
      cmocka_unit_test(test_json),
      cmocka_unit_test(test_mixed_batches),
      cmocka_unit_test(test_goes_on_elsewhere),
      cmocka_unit_test(test_cancel),
      cmocka_unit_test(test_nothing_is_possible),
      cmocka_unit_test(test_own_stop_ids),
      cmocka_unit_test(test_what_runs_ahead),
      cmocka_unit_test(test_sets_go_with_their_sequences),
  };
  int failed = run_both_ways(tests);
  tl_vocabulary_free(vocabulary);
  return failed;
}
