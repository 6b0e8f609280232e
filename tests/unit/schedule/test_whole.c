/* SPDX-License-Identifier: MIT */
/* Steps of a pooling model: whole sequences within the budget, by rank, shorter ones into the gaps. */
#include "schedule_unit.h"

static struct tl_scheduler *make_whole(uint32_t size, uint32_t tokens, uint32_t context) {
  struct tl_scheduler_options o = scheduler_options(0, size, tokens, context);
  o.whole = true;
  return make_with(&o);
}

static void add_whole(struct tl_scheduler *s, struct tl_sched_seq *seq, enum tl_priority priority, int64_t at_ns, uint32_t n) {
  *seq = (struct tl_sched_seq){.n_tokens = n, .n_max = n, .priority = (uint8_t)priority};
  tl_scheduler_add(s, seq, at_ns);
}

static void end_all(struct tl_scheduler *s) {
  tl_scheduler_done(s, items, n_items);
  for (uint32_t i = 0; i < n_items; i++) {
    assert_int_equal(items[i].seq->n_computed, items[i].seq->n_tokens);
    tl_scheduler_remove(s, items[i].seq);
  }
}

static void test_whole_within_the_budget(void **state) {
  (void)state;
  struct tl_scheduler *s = make_whole(8, 16, 100);
  struct tl_sched_seq a, b, c, d;
  add_whole(s, &a, TL_PRIORITY_NORMAL, 1, 10);
  add_whole(s, &b, TL_PRIORITY_NORMAL, 2, 9); /* does not fit beside the first, and is never cut */
  add_whole(s, &c, TL_PRIORITY_NORMAL, 3, 6);
  add_whole(s, &d, TL_PRIORITY_NORMAL, 4, 1);
  assert_plan(s, &a, 0u, 10u, &c, 0u, 6u, NULL);
  assert_int_equal(tl_scheduler_running(s), 2);
  assert_int_equal(tl_scheduler_waiting(s), 2);
  tl_scheduler_done(s, items, n_items);
  struct tl_sched_item flight[2] = {items[0], items[1]};
  assert_plan(s, &b, 0u, 9u, &d, 0u, 1u, NULL); /* while it runs: not those under way once more */
  for (int i = 0; i < 2; i++) tl_scheduler_remove(s, flight[i].seq);
  end_all(s);
  assert_plan(s, NULL);
  assert_int_equal(tl_scheduler_running(s) + tl_scheduler_waiting(s), 0);
  tl_scheduler_free(s);
}

static void test_fits(void **state) {
  (void)state;
  struct tl_scheduler *s = make_whole(8, 16, 12), *longer = make_whole(8, 16, 100);
  assert_true(tl_scheduler_fits(s, 12));
  assert_false(tl_scheduler_fits(s, 13));
  assert_true(tl_scheduler_fits(longer, 16));
  assert_false(tl_scheduler_fits(longer, 17)); /* no step could hold it */
  tl_scheduler_free(s);
  tl_scheduler_free(longer);
}

static void test_priorities_and_size(void **state) {
  (void)state;
  struct tl_scheduler *s = make_whole(2, 64, 64);
  struct tl_sched_seq low, normal, high, late;
  add_whole(s, &low, TL_PRIORITY_LOW, 0, 4);
  add_whole(s, &normal, TL_PRIORITY_NORMAL, 1, 4);
  add_whole(s, &high, TL_PRIORITY_HIGH, 2, 4);
  assert_plan(s, &high, 0u, 4u, &normal, 0u, 4u, NULL);
  end_all(s);
  add_whole(s, &late, TL_PRIORITY_HIGH, 40, 4); /* three levels and more behind: nothing starves */
  assert_plan(s, &low, 0u, 4u, &late, 0u, 4u, NULL);
  end_all(s);
  tl_scheduler_free(s);
}

/* What comes while a step runs joins the one that is planned, whatever left it meanwhile. */
static void test_extended(void **state) {
  (void)state;
  struct tl_scheduler *s = make_whole(3, 16, 16);
  struct tl_sched_seq a, b, c, d, e;
  add_whole(s, &a, TL_PRIORITY_NORMAL, 1, 5);
  add_whole(s, &b, TL_PRIORITY_NORMAL, 2, 5);
  assert_plan(s, &a, 0u, 5u, &b, 0u, 5u, NULL);
  add_whole(s, &c, TL_PRIORITY_NORMAL, 3, 12);
  add_whole(s, &d, TL_PRIORITY_NORMAL, 4, 6);
  tl_scheduler_remove(s, &a); /* its client left */
  items[0] = items[--n_items];
  assert_extended(s, &b, 0u, 5u, &d, 0u, 6u, NULL);
  add_whole(s, &e, TL_PRIORITY_CRITICAL, 5, 5);
  assert_extended(s, &b, 0u, 5u, &d, 0u, 6u, &e, 0u, 5u, NULL);
  end_all(s);
  assert_plan(s, &c, 0u, 12u, NULL);
  end_all(s);
  tl_scheduler_free(s);
}

/* Any mix: every step is within its limits, each sequence is in exactly one, the first in rank always goes. */
static void test_random(void **state) {
  (void)state;
  uint64_t random = 11;
  struct tl_scheduler *s = make_whole(MAX_ITEMS, 50, 50);
  static struct tl_sched_seq all[2000];
  unsigned n_added = 0, n_done = 0;
  for (int64_t t = 0; n_done < 2000; t++) {
    for (uint32_t k = unit_below(&random, 30); k-- > 0 && n_added < 2000;)
      add_whole(s, &all[n_added++], (enum tl_priority)unit_below(&random, 4), t, 1 + unit_below(&random, 50));
    const struct tl_sched_seq *first = s->waiting.first;
    n_items = tl_scheduler_plan(s, items);
    uint32_t n_tokens = 0;
    for (uint32_t i = 0; i < n_items; i++) {
      assert_int_equal(items[i].start, 0);
      assert_int_equal(items[i].n, items[i].seq->n_tokens);
      assert_int_equal(items[i].seq->n_admitted, 1);
      n_tokens += items[i].n;
    }
    assert_true(n_tokens <= 50 && n_items <= MAX_ITEMS);
    if (first) assert_ptr_equal(items[0].seq, first);
    n_done += n_items;
    end_all(s);
  }
  tl_scheduler_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_whole_within_the_budget), cmocka_unit_test(test_fits),   cmocka_unit_test(test_priorities_and_size),
      cmocka_unit_test(test_extended),                cmocka_unit_test(test_random),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
