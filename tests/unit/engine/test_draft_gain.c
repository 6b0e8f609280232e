/* SPDX-License-Identifier: MIT */
/* How many guesses pay: against the best of all numbers, counted out. */
#include <math.h>

#include "engine/draft_model.h"
#include "unit.h"

/* Tokens for a unit of time with n guesses. */
static double rate(double chance, double cost, uint32_t n) {
  double tokens = 0, all_right = 1;
  for (uint32_t i = 0; i <= n; i++, all_right *= chance) tokens += all_right;
  return tokens / (1 + n * cost);
}

static void test_worth_is_the_best(void **state) {
  (void)state;
  for (double chance = 0.02; chance < 1; chance += 0.02)
    for (double cost = 0.01; cost < 1.2; cost += 0.03) {
      double costs[15];
      for (unsigned k = 0; k < 15; k++) costs[k] = cost;
      uint32_t n = draft_gain_worth(chance, costs, 15);
      for (uint32_t k = 0; k <= 15; k++) assert_true(rate(chance, cost, n) >= rate(chance, cost, k) - 1e-9);
      if (chance < cost) assert_int_equal(n, 0);
    }
  assert_int_equal(draft_gain_worth(1, (const double[]){0.2, 0.2, 0.2, 0.2, 0.2}, 5), 5);
  assert_int_equal(draft_gain_worth(1, (const double[]){0.2, 0.2, 2, 2, 2}, 5), 2); /* those that nobody shares */
}

/* A step takes 100 and 2 a row, the draft model's 10. */
static void note(struct draft_gain *g, uint32_t n_rows) {
  draft_gain_note_step(g, n_rows, 100000 + 2000 * n_rows);
  draft_gain_note_draft(g, 10000);
}

static void test_cost_is_what_was_measured(void **state) {
  (void)state;
  struct draft_gain g = {.by_weights = 0.3};
  for (unsigned i = 0; i < 4; i++) note(&g, 1);
  assert_true(draft_gain_cost(&g, 1, 1) == 0.3); /* too little is known */
  for (unsigned i = 0; i < 200; i++) note(&g, 1 + i % 5);
  assert_true(fabs(draft_gain_cost(&g, 1, 1) - 12.0 / 102) < 0.02);
  assert_true(fabs(draft_gain_cost(&g, 4, 4) - 4 * (2 + 10.0 / 4) / 108) < 0.03);
  assert_true(draft_gain_cost(&g, 4, 1) > 2 * draft_gain_cost(&g, 4, 4)); /* three others wait for one's guesses */
  double before = draft_gain_cost(&g, 1, 1);
  draft_gain_note_draft(&g, 10000000); /* held up by something else */
  draft_gain_note_step(&g, 1, 100000000);
  assert_true(draft_gain_cost(&g, 1, 1) < 1.3 * before);
}

/* Four of five right, of which each costs 0.12: more than half of a token's time is saved. A row that is missing takes 2, of 102. */
static void test_what_is_missing(void **state) {
  (void)state;
  struct draft_gain g = {.by_weights = 0.12};
  assert_true(draft_gain_pays_back(&g, 0.8, 0.12, 4, 1, 5000, 1000) && !draft_gain_pays_back(&g, 0.8, 0.12, 4, 1, 5000, 100));
  for (unsigned i = 0; i < 100; i++) note(&g, 1 + i % 3);
  draft_gain_note_missing(&g, 100, 200000);
  assert_true(draft_gain_pays_back(&g, 0.8, 0.12, 4, 1, 1000, 100));
  assert_false(draft_gain_pays_back(&g, 0.8, 0.12, 4, 1, 2000, 100));
  assert_false(draft_gain_pays_back(&g, 0.15, 0.12, 1, 1, 100, 100)); /* it saves next to nothing */
}

/* Where steps had as many rows each, what a row costs cannot be told: it is guessed, and is never less than nothing. */
static void test_rows_that_cannot_be_told(void **state) {
  (void)state;
  struct draft_gain g = {.by_weights = 0.3}, falls = g;
  for (unsigned i = 0; i < 100; i++) {
    note(&g, 1);
    draft_gain_note_step(&falls, 1 + i % 5, 100000 - 15000 * (i % 5));
    draft_gain_note_draft(&falls, 10000);
  }
  assert_true(draft_gain_cost(&g, 1, 1) > 0.10 && draft_gain_cost(&g, 1, 1) < 0.16);
  assert_true(draft_gain_cost(&falls, 1, 1) > 0.1 && draft_gain_cost(&falls, 16, 16) > 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_worth_is_the_best), cmocka_unit_test(test_cost_is_what_was_measured),
                                     cmocka_unit_test(test_rows_that_cannot_be_told), cmocka_unit_test(test_what_is_missing)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
