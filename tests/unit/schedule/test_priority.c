/* SPDX-License-Identifier: MIT */
/* Who comes first. A level of priority is worth 10 ns of waiting here. */
#include "schedule_unit.h"

static void add_at(struct tl_scheduler *s, struct tl_sched_seq *seq, enum tl_priority priority, int64_t at_ns, uint32_t n_tokens) {
  *seq = (struct tl_sched_seq){.n_tokens = n_tokens, .n_max = n_tokens + 20, .priority = (uint8_t)priority};
  tl_scheduler_add(s, seq, at_ns);
}

static void test_order_of_the_queue(void **state) {
  (void)state;
  struct tl_scheduler *s = make(100, 8, 64, 100);
  struct tl_sched_seq low, normal, high, critical, late;
  add_at(s, &low, TL_PRIORITY_LOW, 1, 2);
  add_at(s, &normal, TL_PRIORITY_NORMAL, 2, 2);
  add_at(s, &high, TL_PRIORITY_HIGH, 3, 2);
  add_at(s, &critical, TL_PRIORITY_CRITICAL, 4, 2);
  add_at(s, &late, TL_PRIORITY_CRITICAL, 5, 2);
  assert_plan(s, &critical, 0u, 2u, &late, 0u, 2u, &high, 0u, 2u, &normal, 0u, 2u, &low, 0u, 2u, NULL);
  tl_scheduler_free(s);
}

/* After 10 ns a level is made up for, after 30 ns all are. */
static void test_ageing(void **state) {
  (void)state;
  struct tl_scheduler *s = make(100, 8, 64, 100);
  struct tl_sched_seq low, normal9, normal11, critical29, critical31;
  add_at(s, &low, TL_PRIORITY_LOW, 0, 2);
  add_at(s, &normal9, TL_PRIORITY_NORMAL, 9, 2);
  add_at(s, &normal11, TL_PRIORITY_NORMAL, 11, 2);
  add_at(s, &critical29, TL_PRIORITY_CRITICAL, 29, 2);
  add_at(s, &critical31, TL_PRIORITY_CRITICAL, 31, 2);
  assert_plan(s, &normal9, 0u, 2u, &critical29, 0u, 2u, &low, 0u, 2u, &normal11, 0u, 2u, &critical31, 0u, 2u, NULL);
  tl_scheduler_free(s);
}

/* Under a never-ending stream of critical ones, a low one is served after 3 levels. */
static void test_nothing_starves(void **state) {
  (void)state;
  struct tl_scheduler *s = make(100, 1, 64, 100);
  struct tl_sched_seq low, q[60];
  add_at(s, &low, TL_PRIORITY_LOW, 0, 2);
  unsigned i = 0;
  for (; i < 60; i++) {
    add_at(s, &q[i], TL_PRIORITY_CRITICAL, i + 1, 2);
    n_items = tl_scheduler_plan(s, items);
    assert_int_equal(n_items, 1);
    if (items[0].seq == &low) break;
    assert_ptr_equal(items[0].seq, &q[i]);
    tl_scheduler_done(s, items, n_items);
    tl_scheduler_remove(s, &q[i]);
  }
  assert_int_equal(i, 29); /* the critical one of time 30 is as old, and came later */
  tl_scheduler_free(s);
}

static void test_preemption_for_a_place(void **state) {
  (void)state;
  struct tl_scheduler *s = make(100, 2, 64, 100);
  struct tl_sched_seq low1, low2, normal, high, high2, high3;
  add_at(s, &low1, TL_PRIORITY_LOW, 1, 4);
  add_at(s, &low2, TL_PRIORITY_LOW, 2, 4);
  assert_plan(s, &low1, 0u, 4u, &low2, 0u, 4u, NULL);
  run(s);
  add_at(s, &high, TL_PRIORITY_HIGH, 3, 5);
  assert_plan(s, &low1, 4u, 1u, &high, 0u, 5u, NULL); /* the newest of the lowest gives way */
  assert_int_equal(low2.state, TL_SCHED_WAITING);
  run(s);
  add_at(s, &normal, TL_PRIORITY_NORMAL, 4, 5);
  add_at(s, &high2, TL_PRIORITY_HIGH, 5, 5);
  add_at(s, &high3, TL_PRIORITY_HIGH, 6, 5);
  assert_plan(s, &high, 5u, 1u, &high2, 0u, 5u, NULL);
  run(s);
  assert_plan(s, &high, 6u, 1u, &high2, 5u, 1u, NULL); /* equals do not preempt each other */
  run(s);
  tl_scheduler_remove(s, &high);
  tl_scheduler_remove(s, &high2);
  assert_plan(s, &high3, 0u, 5u, &normal, 0u, 5u, NULL);
  run(s);
  tl_scheduler_remove(s, &high3);
  tl_scheduler_remove(s, &normal);
  assert_plan(s, &low1, 0u, 6u, &low2, 0u, 5u, NULL); /* with the tokens that they had */
  assert_int_equal(tl_scheduler_stats(s)->preemptions, 2);
  tl_scheduler_free(s);
}

/* Decodes fill the whole budget: one of them makes room there, too. */
static void test_preemption_for_the_budget(void **state) {
  (void)state;
  struct tl_scheduler *s = make(100, 2, 2, 100);
  struct tl_sched_seq low1, low2, critical;
  add_at(s, &low1, TL_PRIORITY_LOW, 1, 1);
  add_at(s, &low2, TL_PRIORITY_LOW, 2, 1);
  assert_plan(s, &low1, 0u, 1u, &low2, 0u, 1u, NULL);
  run(s);
  add_at(s, &critical, TL_PRIORITY_CRITICAL, 3, 3);
  assert_plan(s, &low1, 1u, 1u, &critical, 0u, 1u, NULL);
  assert_int_equal(low2.state, TL_SCHED_WAITING);
  tl_scheduler_free(s);
}

/* An old low one has become its equal in rank: it keeps its place. */
static void test_old_ones_keep_their_place(void **state) {
  (void)state;
  struct tl_scheduler *s = make(100, 1, 64, 100);
  struct tl_sched_seq low, high;
  add_at(s, &low, TL_PRIORITY_LOW, 1, 4);
  assert_plan(s, &low, 0u, 4u, NULL);
  run(s);
  add_at(s, &high, TL_PRIORITY_HIGH, 22, 4);
  assert_plan(s, &low, 4u, 1u, NULL);
  tl_scheduler_free(s);
}

/* 6 blocks of 4: the high one needs 3, and gets them from the low ones, newest first. */
static void test_preemption_for_blocks(void **state) {
  (void)state;
  struct tl_scheduler *s = make(6, 4, 64, 24);
  struct tl_sched_seq low1, low2, normal, high;
  add_at(s, &normal, TL_PRIORITY_NORMAL, 1, 3);
  add_at(s, &low1, TL_PRIORITY_LOW, 2, 3);
  add_at(s, &low2, TL_PRIORITY_LOW, 3, 3);
  assert_plan(s, &normal, 0u, 3u, &low1, 0u, 3u, &low2, 0u, 3u, NULL);
  run(s);
  add_at(s, &high, TL_PRIORITY_HIGH, 4, 12);
  assert_plan(s, &normal, 3u, 1u, &high, 0u, 12u, NULL);
  assert_int_equal(low1.state, TL_SCHED_WAITING);
  assert_int_equal(low2.state, TL_SCHED_WAITING);
  run(s);
  /* both decode; who needs a block when none is free takes the last in rank's */
  assert_plan(s, &high, 12u, 1u, &normal, 4u, 1u, NULL);
  run(s);
  for (unsigned i = 0; i < 3; i++) {
    n_items = tl_scheduler_plan(s, items);
    assert_int_equal(n_items, 2);
    run(s);
  }
  assert_plan(s, &high, 16u, 1u, NULL);
  assert_int_equal(normal.state, TL_SCHED_WAITING);
  tl_scheduler_free(s);
}

/* A high prompt takes the budget before the rest of a long low one. */
static void test_budget_by_rank(void **state) {
  (void)state;
  struct tl_scheduler *s = make(100, 4, 8, 100);
  struct tl_sched_seq low, high;
  add_at(s, &low, TL_PRIORITY_LOW, 1, 40);
  assert_plan(s, &low, 0u, 8u, NULL);
  run(s);
  add_at(s, &high, TL_PRIORITY_HIGH, 2, 13);
  assert_plan(s, &high, 0u, 8u, NULL);
  run(s);
  assert_plan(s, &high, 8u, 5u, &low, 8u, 3u, NULL);
  tl_scheduler_free(s);
}

static void test_without_ageing_all_are_equal(void **state) {
  (void)state;
  struct tl_scheduler_options o = scheduler_options(100, 1, 64, 100);
  o.priority_age_ns = 0;
  struct tl_scheduler *s = make_with(&o);
  struct tl_sched_seq low, critical;
  add_at(s, &low, TL_PRIORITY_LOW, 1, 4);
  assert_plan(s, &low, 0u, 4u, NULL);
  run(s);
  add_at(s, &critical, TL_PRIORITY_CRITICAL, 2, 4);
  assert_plan(s, &low, 4u, 1u, NULL);
  tl_scheduler_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_order_of_the_queue),     cmocka_unit_test(test_ageing),
      cmocka_unit_test(test_nothing_starves),        cmocka_unit_test(test_preemption_for_a_place),
      cmocka_unit_test(test_preemption_for_the_budget),
      cmocka_unit_test(test_old_ones_keep_their_place), cmocka_unit_test(test_preemption_for_blocks),
      cmocka_unit_test(test_budget_by_rank),         cmocka_unit_test(test_without_ageing_all_are_equal),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
