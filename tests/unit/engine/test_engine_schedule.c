/* SPDX-License-Identifier: MIT */
/* What the scheduler decides, seen through the engine: shared prefixes, order,
 * deadlines. The fake model's tokens are a hash of all KV that a row sees, so
 * one wrong block changes them (fake_check_sequence). */
#include "engine_unit.h"
#include "tokenlane/log.h"

/* --- what the worker allocates: nothing ---------------------------------------------------- */

static _Atomic unsigned n_worker_allocations;

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
/* glibc's own, under the names that it keeps for such replacements. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *memory, size_t size);

static void note_allocation(void) {
  if (tl_thread_role() == TL_ROLE_WORKER) atomic_fetch_add_explicit(&n_worker_allocations, 1, memory_order_relaxed);
}
void *malloc(size_t size) {
  note_allocation();
  return __libc_malloc(size);
}
void *calloc(size_t n, size_t size) {
  note_allocation();
  return __libc_calloc(n, size);
}
void *realloc(void *memory, size_t size) {
  note_allocation();
  return __libc_realloc(memory, size);
}
#endif

static struct tl_engine_options caching(void) {
  struct tl_engine_options o = options();
  o.prefix_cache = true;
  o.priority_age_ns = TL_SEC(10);
  return o;
}

static uint64_t computed_tokens(void) {
  return atomic_load_explicit(&fake.n_tokens, memory_order_relaxed);
}

static void test_hits(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = caching();
  start(&b, &o);
  uint64_t random = 5;
  unsigned n = 0;
  static const uint32_t lengths[][2] = {{100, 0}, {100, 96}, {96, 80}, {97, 96}, {15, 0}, {17, 16}, {120, 96}, {120, 112}};
  for (size_t i = 0; i < UNIT_COUNT(lengths); i++) {
    uint64_t before = computed_tokens();
    struct tl_sequence *seq = fake_sequence(&random, lengths[i][0], 5);
    fake_prefix(seq, 1, lengths[i][0]);
    submit(&b, seq);
    wait_final(&b, ++n);
    assert_ended(seq, TL_FINISH_LENGTH, 5);
    assert_int_equal(seq->n_cached, lengths[i][1]);
    assert_at_rest(&b);
    assert_int_equal(computed_tokens() - before, lengths[i][0] - lengths[i][1] + 4); /* and 4 decodes */
    fake_sequence_free(seq);
  }
  assert_true(metric(&b, "tokenlane_prefix_cache_query_tokens_total{replica=\"0\"}") == 100 + 100 + 96 + 97 + 15 + 17 + 120 + 120);
  assert_true(metric(&b, "tokenlane_prefix_cache_hit_tokens_total{replica=\"0\"}") == 96 + 80 + 96 + 16 + 96 + 112);
  assert_true(metric(&b, "tokenlane_prefix_cache_blocks{replica=\"0\"}") >= 7);
  finish(&b);
}

/* The same requests with and without the cache, in batches: equal tokens and
 * log-probabilities, and no scored row is missing. */
static void run_mixed(bool prefix_cache, int32_t (*ret_tokens)[40]) {
  reset_fake();
  fake.n_blocks = 18; /* too few for all: preemptions and evictions, too */
  struct bench b;
  struct tl_engine_options o = caching();
  o.prefix_cache = prefix_cache;
  start(&b, &o);
  uint64_t random = 99;
  struct tl_sequence *seqs[40];
  for (unsigned i = 0; i < 40; i++) {
    seqs[i] = mixed_sequence(&random, i, 100);
  }
  for (unsigned i = 0; i < 40; i++) submit(&b, seqs[i]);
  wait_final(&b, 40);
  for (unsigned i = 0; i < 40; i++) {
    assert_ended(seqs[i], TL_FINISH_LENGTH, 40);
    if (seqs[i]->score_prompt) assert_int_equal(atomic_load_explicit(&seqs[i]->n_scored, memory_order_acquire), seqs[i]->n_prompt - 1);
    memcpy(ret_tokens[i], seqs[i]->tokens + seqs[i]->n_prompt, sizeof ret_tokens[i]);
    fake_sequence_free(seqs[i]);
  }
  assert_at_rest(&b);
  assert_true(metric(&b, "tokenlane_preemptions_total{replica=\"0\"}") > 0);
  assert_true(metric(&b, "tokenlane_prefix_cache_hit_tokens_total{replica=\"0\"}") > (prefix_cache ? 500 : 0));
  finish(&b);
}

static void test_cache_changes_nothing(void **state) {
  (void)state;
  static int32_t with[40][40], without[40][40];
  run_mixed(true, with);
  run_mixed(false, without);
  assert_memory_equal(with, without, sizeof with);
}

/* 8 choices of one prompt: it is computed once, with the cache and without. */
static void test_forks(void **state) {
  (void)state;
  for (unsigned prefix_cache = 0; prefix_cache < 2; prefix_cache++) {
    reset_fake();
    struct bench b;
    struct tl_engine_options o = caching();
    o.prefix_cache = prefix_cache;
    o.max_batch_size = 8;
    fake.step_ns = TL_MS(1); /* all are submitted before the first ends */
    start(&b, &o);
    uint64_t random = 3;
    struct tl_sequence *seqs[8];
    for (unsigned i = 0; i < 8; i++) {
      seqs[i] = fake_sequence(&random, 105, 60);
      fake_prefix(seqs[i], 1, 105);
      seqs[i]->fork = 77;
    }
    for (unsigned i = 0; i < 8; i++) submit(&b, seqs[i]);
    wait_final(&b, 8);
    assert_at_rest(&b);
    assert_int_equal(seqs[0]->n_cached, 0);
    for (unsigned i = 1; i < 8; i++) assert_int_equal(seqs[i]->n_cached, 96);
    assert_int_equal(computed_tokens(), 105 + 7 * 9 + 8 * 59); /* once, 7 ends of it, 59 decodes each */
    for (unsigned i = 0; i < 8; i++) fake_sequence_free(seqs[i]);
    finish(&b);
  }
}

static void test_salts(void **state) {
  (void)state;
  reset_fake();
  struct bench b;
  struct tl_engine_options o = caching();
  start(&b, &o);
  uint64_t random = 3;
  static const uint32_t cached[] = {0, 0, 32, 32, 0};
  static const uint64_t salts[] = {0, 5, 0, 5, 6};
  for (unsigned i = 0; i < 5; i++) {
    struct tl_sequence *seq = fake_sequence(&random, 40, 1);
    fake_prefix(seq, 1, 40);
    seq->cache_salt = salts[i];
    submit(&b, seq);
    wait_final(&b, i + 1);
    assert_int_equal(seq->n_cached, cached[i]);
    fake_sequence_free(seq);
  }
  finish(&b);
}

/* A request of the same 40 tokens as all others here: how it ends, and how many of them the cache had. */
static enum tl_finish ask_again(struct bench *b, uint32_t n_new, uint32_t *ret_cached) {
  uint64_t random = 3;
  struct tl_sequence *seq = fake_sequence(&random, 40, n_new);
  fake_prefix(seq, 1, 40);
  submit(b, seq);
  wait_final(b, b->n_final + 1);
  enum tl_finish how = seq->finish;
  *ret_cached = seq->n_cached;
  fake_sequence_free(seq);
  return how;
}

/* A device computes nonsense in one step, at first of the prompt (40 tokens, 16 a step), later of what is generated: its sequence ends, and
 * that is all. What later ones share is of the steps before at most. */
static void test_what_was_broken_is_not_found(void **state) {
  (void)state;
  for (uint64_t at = 1; at < 8; at++) {
    reset_fake();
    fake.spoilt_at = at;
    struct bench b;
    struct tl_engine_options o = caching();
    start(&b, &o);
    uint32_t n_cached;
    assert_int_equal(ask_again(&b, 30, &n_cached), TL_FINISH_ERROR);
    assert_int_equal(ask_again(&b, 30, &n_cached), TL_FINISH_LENGTH);
    assert_int_equal(n_cached, 0);
    assert_int_equal(ask_again(&b, 30, &n_cached), TL_FINISH_LENGTH);
    assert_int_equal(n_cached, 32);
    assert_at_rest(&b);
    finish(&b);
  }
}

/* A client that leaves no token to choose from ends with an error, too, but what others share stays. */
static void test_what_forbids_all_breaks_nothing(void **state) {
  (void)state;
  static const int32_t stop[] = {7};
  static const uint32_t only_stop[TL_MASK_WORDS(FAKE_VOCAB)] = {1u << 7};
  reset_fake();
  struct bench b;
  struct tl_engine_options o = caching();
  start(&b, &o);
  uint32_t n_cached;
  uint64_t random = 3;
  assert_int_equal(ask_again(&b, 5, &n_cached), TL_FINISH_LENGTH);
  struct tl_sequence *seq = fake_sequence(&random, 40, 5);
  fake_prefix(seq, 1, 40);
  fake_want_stop(seq, stop, 1, 3);
  seq->allowed = only_stop;
  submit(&b, seq);
  wait_final(&b, 2);
  assert_ended(seq, TL_FINISH_ERROR, 0);
  fake_sequence_free(seq);
  assert_int_equal(ask_again(&b, 5, &n_cached), TL_FINISH_LENGTH);
  assert_int_equal(n_cached, 32);
  assert_at_rest(&b);
  finish(&b);
}

/* One place, held for long: those behind it end in time and without a step. */
static void test_deadlines_in_the_queue(void **state) {
  (void)state;
  reset_fake();
  fake.step_ns = TL_MS(2);
  struct bench b;
  struct tl_engine_options o = caching();
  o.max_batch_size = 1;
  start(&b, &o);
  uint64_t random = 5;
  struct tl_sequence *first = fake_sequence(&random, 5, 100), *seqs[4];
  submit(&b, first);
  for (unsigned i = 0; i < 4; i++) {
    seqs[i] = fake_sequence(&random, 5, 5);
    seqs[i]->deadline_ns = tl_now_ns() + (i == 3 ? TL_SEC(60) : TL_MS(10) * i);
    submit(&b, seqs[i]);
  }
  wait_final(&b, 3);
  assert_true(atomic_load_explicit(&first->n_out, memory_order_acquire) < 100);
  for (unsigned i = 0; i < 3; i++) {
    assert_ended(seqs[i], TL_FINISH_EXPIRED, 0);
    assert_int_equal(seqs[i]->started_ns, 0);
    fake_sequence_free(seqs[i]);
  }
  wait_final(&b, 5);
  assert_ended(first, TL_FINISH_LENGTH, 100);
  assert_ended(seqs[3], TL_FINISH_LENGTH, 5);
  assert_true(metric(&b, "tokenlane_expired_sequences_total{replica=\"0\"}") == 3);
  assert_at_rest(&b);
  fake_sequence_free(first);
  fake_sequence_free(seqs[3]);
  finish(&b);
}

static void test_deadline_of_a_running_one(void **state) {
  (void)state;
  reset_fake();
  fake.step_ns = TL_MS(2);
  struct bench b;
  struct tl_engine_options o = caching();
  start(&b, &o);
  uint64_t random = 5;
  struct tl_sequence *seq = fake_sequence(&random, 5, 200);
  int64_t began_ns = tl_now_ns();
  seq->deadline_ns = began_ns + TL_MS(50);
  submit(&b, seq);
  wait_final(&b, 1);
  uint32_t n_out = atomic_load_explicit(&seq->n_out, memory_order_acquire);
  assert_true(n_out > 0 && n_out < 30 * (1 + o.draft_tokens));
  assert_true(tl_now_ns() - began_ns >= TL_MS(50));
  assert_ended(seq, TL_FINISH_EXPIRED, n_out);
  fake_sequence_free(seq);
  assert_at_rest(&b);
  finish(&b);
}

/* Full of low ones: a critical one is served at once, and they end all the same. */
static void test_priorities(void **state) {
  (void)state;
  reset_fake();
  fake.step_ns = TL_MS(1);
  struct bench b;
  struct tl_engine_options o = caching();
  o.max_batch_size = 2;
  start(&b, &o);
  uint64_t random = 5;
  struct tl_sequence *low[5], *critical = fake_sequence(&random, 20, 5);
  for (unsigned i = 0; i < 5; i++) {
    low[i] = fake_sequence(&random, 20, 100);
    submit(&b, low[i]);
  }
  while (atomic_load_explicit(&low[0]->n_out, memory_order_acquire) < 3) usleep(1000);
  critical->priority = TL_PRIORITY_CRITICAL;
  submit(&b, critical);
  wait_final(&b, 1);
  assert_ended(critical, TL_FINISH_LENGTH, 5);
  assert_true(metric(&b, "tokenlane_preemptions_total{replica=\"0\"}") == 1);
  wait_final(&b, 6);
  for (unsigned i = 0; i < 5; i++) {
    assert_ended(low[i], TL_FINISH_LENGTH, 100);
    fake_sequence_free(low[i]);
  }
  fake_sequence_free(critical);
  assert_at_rest(&b);
  assert_true(metric(&b, "tokenlane_step_gap_seconds_count{replica=\"0\"}") > 200);
  finish(&b);
}

/* After all the loads above. */
static void test_no_step_allocates(void **state) {
  (void)state;
  assert_int_equal(atomic_load_explicit(&n_worker_allocations, memory_order_relaxed), 0);
}

int main(void) {
  tl_log_set_level("error", NULL);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hits),
      cmocka_unit_test(test_cache_changes_nothing),
      cmocka_unit_test(test_forks),
      cmocka_unit_test(test_salts),
      cmocka_unit_test(test_what_was_broken_is_not_found),
      cmocka_unit_test(test_what_forbids_all_breaks_nothing),
      cmocka_unit_test(test_deadlines_in_the_queue),
      cmocka_unit_test(test_deadline_of_a_running_one),
      cmocka_unit_test(test_priorities),
      cmocka_unit_test(test_no_step_allocates),
  };
  return run_all_ways(tests);
}
