/* SPDX-License-Identifier: MIT */
/* Small scripts with every plan written down. test_scheduler_fuzz.c has the
 * random ones. */
#include "schedule_unit.h"

static void test_chunks_then_decodes(void **state) {
  (void)state;
  struct tl_scheduler *s = make(100, 4, 8, 100);
  struct tl_sched_seq a;
  add(s, &a, 20, 30);
  assert_int_equal(a.state, TL_SCHED_WAITING);
  assert_plan(s, &a, 0u, 8u, NULL);
  assert_int_equal(a.state, TL_SCHED_RUNNING);
  assert_int_equal(a.n_blocks, 2);
  run(s);
  assert_plan(s, &a, 8u, 8u, NULL);
  run(s);
  assert_plan(s, &a, 16u, 4u, NULL);
  run(s);
  assert_int_equal(a.n_tokens, 21);
  assert_plan(s, &a, 20u, 1u, NULL);
  assert_int_equal(a.n_blocks, 6);
  run(s);
  tl_scheduler_remove(s, &a);
  assert_int_equal(a.state, TL_SCHED_NONE);
  assert_int_equal(tl_scheduler_free_blocks(s), 100);
  assert_plan(s, NULL);
  tl_scheduler_free(s);
}

static void test_decodes_come_first(void **state) {
  (void)state;
  struct tl_scheduler *s = make(100, 4, 8, 100);
  struct tl_sched_seq a, b, c;
  add(s, &a, 3, 30);
  add(s, &b, 30, 40);
  assert_plan(s, &a, 0u, 3u, &b, 0u, 5u, NULL);
  run(s);
  add(s, &c, 2, 10);
  assert_plan(s, &a, 3u, 1u, &b, 5u, 7u, NULL); /* the older prompt first: nothing is left for c */
  run(s);
  assert_plan(s, &a, 4u, 1u, &b, 12u, 7u, NULL);
  run(s);
  assert_plan(s, &a, 5u, 1u, &b, 19u, 7u, NULL);
  run(s);
  assert_plan(s, &a, 6u, 1u, &b, 26u, 4u, &c, 0u, 2u, NULL);
  run(s);
  assert_plan(s, &a, 7u, 1u, &b, 30u, 1u, &c, 2u, 1u, NULL);
  tl_scheduler_free(s);
}

/* Rows of guesses behind a decode take blocks from nobody, and leave everyone the next one. */
static void test_longer_decodes(void **state) {
  (void)state;
  struct tl_scheduler *s = make(5, 4, 16, 40);
  struct tl_sched_seq a, b;
  add(s, &a, 3, 20);
  add(s, &b, 6, 20);
  assert_plan(s, &a, 0u, 3u, &b, 0u, 6u, NULL);
  run(s);
  assert_plan(s, &a, 3u, 1u, &b, 6u, 1u, NULL);
  assert_int_equal(a.n_blocks + b.n_blocks, 3);
  assert_false(tl_scheduler_lengthen(s, &items[0], 4)); /* the 9th token is a third block's: two are free, one is b's next */
  assert_true(tl_scheduler_lengthen(s, &items[1], 1));  /* still in its second */
  assert_false(tl_scheduler_lengthen(s, &items[1], 6));
  assert_int_equal(items[0].n, 1);
  assert_int_equal(items[1].n, 2);
  assert_int_equal(a.n_blocks + b.n_blocks, 3);
  b.n_tokens++;
  b.n_pending++;
  run(s);
  assert_int_equal(b.n_computed, 8);
  assert_int_equal(b.n_tokens, 9);
  b.n_tokens = 8; /* the guess was wrong: the 8th token is another one */
  b.n_pending = 0;
  b.n_computed = 7;
  assert_plan(s, &a, 4u, 1u, &b, 7u, 1u, NULL);
  tl_scheduler_remove(s, &a);
  assert_true(tl_scheduler_lengthen(s, &items[1], 2)); /* now there is enough */
  assert_int_equal(b.n_blocks, 3);
  tl_scheduler_remove(s, &b);
  assert_int_equal(tl_scheduler_free_blocks(s), 5);
  tl_scheduler_free(s);
}

/* Not even guesses that need no block themselves, when the token behind them would be the first of one that another needs. */
static void test_longer_decodes_leave_the_next(void **state) {
  (void)state;
  struct tl_scheduler *s = make(5, 4, 16, 40);
  struct tl_sched_seq a, b;
  add(s, &a, 5, 20);
  add(s, &b, 6, 20);
  assert_plan(s, &a, 0u, 5u, &b, 0u, 6u, NULL);
  run(s);
  assert_plan(s, &a, 5u, 1u, &b, 6u, 1u, NULL);
  assert_int_equal(tl_scheduler_free_blocks(s), 1);
  assert_false(tl_scheduler_lengthen(s, &items[0], 2)); /* its 9th would take the last one */
  assert_true(tl_scheduler_lengthen(s, &items[0], 1));
  a.n_tokens++;
  a.n_pending++;
  run(s);
  a.n_tokens = 7; /* the guess was wrong */
  a.n_pending = 0;
  a.n_computed = 6;
  assert_plan(s, &a, 6u, 1u, &b, 7u, 1u, NULL);
  run(s);
  assert_plan(s, &a, 7u, 1u, &b, 8u, 1u, NULL);
  tl_scheduler_free(s);
}

static void test_slots_are_given_in_order_of_arrival(void **state) {
  (void)state;
  struct tl_scheduler *s = make(100, 2, 64, 100);
  struct tl_sched_seq a, b, c, d;
  add(s, &a, 1, 9);
  add(s, &b, 1, 9);
  add(s, &c, 1, 9);
  add(s, &d, 1, 9);
  assert_plan(s, &a, 0u, 1u, &b, 0u, 1u, NULL);
  assert_int_equal(tl_scheduler_running(s), 2);
  assert_int_equal(tl_scheduler_waiting(s), 2);
  run(s);
  tl_scheduler_remove(s, &a);
  tl_scheduler_remove(s, &c); /* leaves the queue while it waits */
  assert_plan(s, &b, 1u, 1u, &d, 0u, 1u, NULL);
  assert_true(b.slot != d.slot && b.blocks != d.blocks && b.blocks[0] != d.blocks[0]);
  tl_scheduler_free(s);
}

/* 4 blocks, two sequences that grow: the newer one waits, then gives way, and comes back. */
static void test_preemption(void **state) {
  (void)state;
  struct tl_scheduler *s = make(4, 2, 64, 16);
  struct tl_sched_seq a, b, c;
  add(s, &a, 7, 16);
  add(s, &b, 3, 16);
  assert_plan(s, &a, 0u, 7u, &b, 0u, 3u, NULL); /* 3 blocks; the fourth is kept for whose turn comes */
  run(s);
  assert_plan(s, &a, 7u, 1u, &b, 3u, 1u, NULL);
  run(s);
  assert_plan(s, &a, 8u, 1u, NULL); /* the last block; b needs one too, but is the newest: it waits in place */
  assert_int_equal(tl_scheduler_free_blocks(s), 0);
  assert_int_equal(b.state, TL_SCHED_RUNNING);
  run(s);
  for (unsigned at = 9; at < 12; at++) {
    assert_plan(s, &a, at, 1u, NULL);
    run(s);
  }
  assert_int_equal(tl_scheduler_stats(s)->preemptions, 0);
  assert_plan(s, &a, 12u, 1u, NULL); /* a needs a fourth: b's */
  assert_int_equal(tl_scheduler_stats(s)->preemptions, 1);
  assert_int_equal(b.state, TL_SCHED_WAITING);
  assert_true(b.n_computed == 0 && b.n_blocks == 0 && b.blocks == NULL && b.n_tokens == 5);
  run(s);
  add(s, &c, 1, 4);
  assert_plan(s, &a, 13u, 1u, NULL);
  run(s);
  tl_scheduler_remove(s, &a);
  assert_plan(s, &b, 0u, 5u, &c, 0u, 1u, NULL); /* b before c: it came first */
  assert_int_equal(tl_scheduler_free_blocks(s), 1);
  tl_scheduler_free(s);
}

/* A newcomer must leave a block for each running sequence's next token. */
static void test_admission_keeps_blocks_back(void **state) {
  (void)state;
  struct tl_scheduler *s = make(4, 4, 64, 16);
  struct tl_sched_seq a, b, c;
  add(s, &a, 4, 16);
  add(s, &b, 4, 16);
  add(s, &c, 1, 16);
  assert_plan(s, &a, 0u, 4u, &b, 0u, 4u, NULL); /* 2 of 4 blocks are free; c would need 1 and leave 2 */
  run(s);
  assert_plan(s, &a, 4u, 1u, &b, 4u, 1u, NULL);
  run(s);
  tl_scheduler_remove(s, &b);
  assert_plan(s, &a, 5u, 1u, &c, 0u, 1u, NULL);
  tl_scheduler_free(s);
}

/* The engine cuts the chunk of a prompt that it scores. */
static void test_cut_chunk(void **state) {
  (void)state;
  struct tl_scheduler *s = make(8, 3, 8, 16);
  struct tl_sched_seq a;
  add(s, &a, 16, 16);
  assert_plan(s, &a, 0u, 8u, NULL);
  items[0].n = 3;
  tl_scheduler_done(s, items, n_items);
  assert_int_equal(a.n_computed, 3);
  assert_int_equal(a.n_blocks, 2);
  assert_plan(s, &a, 3u, 8u, NULL);
  assert_int_equal(a.n_blocks, 3);
  tl_scheduler_done(s, items, n_items);
  assert_plan(s, &a, 11u, 5u, NULL);
  tl_scheduler_free(s);
}

/* Prompts leave decodes alone, and a long one leaves a quarter to those behind it. */
static void test_budget(void **state) {
  (void)state;
  struct tl_scheduler_options o = scheduler_options(200, 8, 64, 200);
  o.max_prefill_tokens = 32;
  struct tl_scheduler *s = make_with(&o);
  struct tl_sched_seq a, b, c, d;
  add(s, &a, 3, 30);
  assert_plan(s, &a, 0u, 3u, NULL);
  run(s);
  add(s, &b, 180, 190);
  assert_plan(s, &a, 3u, 1u, &b, 0u, 32u, NULL); /* alone it has all that decodes leave */
  run(s);
  add(s, &c, 5, 30);
  assert_plan(s, &a, 4u, 1u, &b, 32u, 27u, &c, 0u, 5u, NULL); /* c did not need all of its quarter */
  run(s);
  add(s, &d, 100, 120);
  assert_plan(s, &a, 5u, 1u, &c, 5u, 1u, &b, 59u, 24u, &d, 0u, 8u, NULL);
  run(s);
  tl_scheduler_remove(s, &a);
  tl_scheduler_remove(s, &c);
  assert_plan(s, &b, 83u, 48u, &d, 8u, 16u, NULL); /* nobody decodes: the whole budget */
  tl_scheduler_free(s);
}

/* What the engine does when it learns who ended: newcomers fill the plan up. */
static void test_extend(void **state) {
  (void)state;
  struct tl_scheduler *s = make(100, 2, 16, 100);
  struct tl_sched_seq a, b, c, d;
  add(s, &a, 3, 30);
  add(s, &b, 3, 30);
  add(s, &c, 4, 30);
  assert_plan(s, &a, 0u, 3u, &b, 0u, 3u, NULL);
  run(s);
  assert_plan(s, &a, 3u, 1u, &b, 3u, 1u, NULL);
  assert_extended(s, &a, 3u, 1u, &b, 3u, 1u, NULL); /* no place yet */
  tl_scheduler_remove(s, &a);
  items[0] = items[1];
  n_items = 1;
  assert_extended(s, &b, 3u, 1u, &c, 0u, 4u, NULL);
  run(s);
  assert_plan(s, &b, 4u, 1u, &c, 4u, 1u, NULL);
  add(s, &d, 40, 60);
  d.priority = TL_PRIORITY_LOW;
  tl_scheduler_remove(s, &c);
  n_items = 1;
  assert_extended(s, &b, 4u, 1u, &d, 0u, 15u, NULL); /* the budget that is left */
  tl_scheduler_free(s);
}

/* Its tokens come with the step under way: it holds its blocks, and has no part in the next. */
static void test_ends_with_the_step(void **state) {
  (void)state;
  struct tl_scheduler *s = make(4, 4, 16, 16);
  struct tl_sched_seq a;
  add(s, &a, 4, 5);
  assert_plan(s, &a, 0u, 4u, NULL);
  tl_scheduler_done(s, items, n_items);
  assert_plan(s, NULL);
  assert_int_equal(tl_scheduler_free_blocks(s), 3);
  tl_scheduler_remove(s, &a);
  assert_int_equal(tl_scheduler_free_blocks(s), 4);
  tl_scheduler_free(s);
}

static void test_fits(void **state) {
  (void)state;
  struct tl_scheduler *s = make(10, 2, 8, 100);
  assert_true(tl_scheduler_fits(s, 1) && tl_scheduler_fits(s, 40));
  assert_false(tl_scheduler_fits(s, 41) || tl_scheduler_fits(s, UINT32_MAX)); /* 10 blocks of 4 */
  tl_scheduler_free(s);
  s = make(1000, 2, 8, 33);
  assert_true(tl_scheduler_fits(s, 33));
  assert_false(tl_scheduler_fits(s, 34));
  tl_scheduler_free(s);
  tl_scheduler_free(NULL);
}

static void test_walk(void **state) {
  (void)state;
  struct tl_scheduler *s = make(100, 2, 64, 100);
  struct tl_sched_seq q[5];
  assert_null(tl_scheduler_next(s, NULL));
  for (unsigned i = 0; i < 5; i++) add(s, &q[i], 1, 9);
  n_items = tl_scheduler_plan(s, items);
  run(s);
  static const unsigned order[] = {2, 3, 4, 0, 1}; /* waiting, then running */
  struct tl_sched_seq *at = NULL;
  for (unsigned i = 0; i < 5; i++) assert_ptr_equal(at = tl_scheduler_next(s, at), &q[order[i]]);
  assert_null(tl_scheduler_next(s, at));
  /* as the engine drops sequences: the next one is asked for first */
  unsigned n = 0;
  for (at = tl_scheduler_next(s, NULL); at; n++) {
    struct tl_sched_seq *next = tl_scheduler_next(s, at);
    tl_scheduler_remove(s, at);
    at = next;
  }
  assert_int_equal(n, 5);
  assert_int_equal(tl_scheduler_running(s) + tl_scheduler_waiting(s), 0);
  assert_int_equal(tl_scheduler_free_blocks(s), 100);
  tl_scheduler_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_chunks_then_decodes),
      cmocka_unit_test(test_decodes_come_first), cmocka_unit_test(test_longer_decodes),
      cmocka_unit_test(test_longer_decodes_leave_the_next),
      cmocka_unit_test(test_slots_are_given_in_order_of_arrival),
      cmocka_unit_test(test_preemption),
      cmocka_unit_test(test_admission_keeps_blocks_back),
      cmocka_unit_test(test_cut_chunk),
      cmocka_unit_test(test_budget),
      cmocka_unit_test(test_extend),
      cmocka_unit_test(test_ends_with_the_step),
      cmocka_unit_test(test_fits),
      cmocka_unit_test(test_walk),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
