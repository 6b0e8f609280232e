/* SPDX-License-Identifier: MIT */
/* Guesses by the index against guesses by a look at the whole text. */
#include "engine/engine_private.h"
#include "unit.h"

enum { MOST = 60000, WANTED = 4 };

static struct tl_sequence seq;
static int32_t room[WANTED];

static void begin(uint32_t n_prompt, uint32_t max_new) {
  seq = (struct tl_sequence){.n_prompt = n_prompt, .max_new = max_new};
  seq.tokens = calloc(n_prompt + max_new + WANTED, sizeof *seq.tokens);
  seq.draft_index = calloc(tl_draft_index_words(n_prompt + max_new), sizeof *seq.draft_index);
}

static void end(void) {
  free(seq.tokens);
  free(seq.draft_index);
}

/* Of the longest match, 3 to 8 tokens, the latest: where it ends, 0 for none. */
static uint32_t look_everywhere(const int32_t *tokens, uint32_t n) {
  uint32_t best = 2, found = 0;
  for (uint32_t at = n - 1; at-- > 0 && best < 8;) {
    uint32_t length = 0;
    while (length < 8 && length <= at && tokens[at - length] == tokens[n - 1 - length]) length++;
    if (length <= best) continue;
    best = length;
    found = at;
  }
  return found;
}

static uint32_t guess(uint32_t n) {
  draft_index_add(&seq, n);
  uint32_t got = draft_index_guess(&seq, n, WANTED);
  memcpy(room, seq.tokens + n, sizeof room);
  return got;
}

/* Every place of texts of many kinds. Of few tokens, where there are more candidates than are looked at, the match may be a shorter one. */
static void test_as_by_looking(void **state) {
  (void)state;
  uint64_t random = 5;
  unsigned n_found = 0, n_other = 0;
  for (unsigned round = 0; round < 60; round++) {
    uint32_t n = 3 + unit_below(&random, 700), of = round % 3 == 0 ? 3 : round % 3 == 1 ? 40 : 100000, from = 1 + unit_below(&random, n);
    begin(from, n);
    for (uint32_t i = 0; i < n; i++) { /* now and then what was there before comes again */
      seq.tokens[i] = (int32_t)unit_below(&random, of);
      uint32_t more = 3 + unit_below(&random, 20), back = i > 50 && unit_below(&random, 30) == 0 ? unit_below(&random, i - 40) : 0;
      for (uint32_t k = 0; back && k < more && i + 1 < n; k++) seq.tokens[++i] = seq.tokens[back + k];
    }
    for (uint32_t i = from; i <= n; i++) {
      int32_t next[WANTED];
      memcpy(next, seq.tokens + i, sizeof next);
      uint32_t at = look_everywhere(seq.tokens, i), got = guess(i);
      assert_int_equal(got, at ? WANTED : 0);
      if (at) {
        for (uint32_t k = 0; k < WANTED; k++) seq.tokens[i + k] = seq.tokens[at + 1 + k];
        bool same = memcmp(room, seq.tokens + i, sizeof room) == 0;
        if (of > 3) assert_true(same);
        n_other += !same;
        n_found++;
      }
      memcpy(seq.tokens + i, next, sizeof next);
    }
    end();
  }
  assert_true(n_found > 1000 && n_other < n_found / 10);
}

/* A long prompt from the cache is linked in parts; what is not yet, is not found, and costs nothing but that. */
static void test_a_long_prompt(void **state) {
  (void)state;
  begin(MOST, 10);
  for (uint32_t i = 0; i < MOST; i++) seq.tokens[i] = (int32_t)i % 50000; /* its last 10000 are as its first */
  uint32_t looks = 1;
  while (guess(MOST) == 0) looks++;
  assert_int_equal(looks, 3);
  assert_int_equal(room[0], 10000);
  assert_true(seq.drafts.n_indexed < MOST);
  while (seq.drafts.n_indexed < MOST) guess(MOST);
  assert_int_equal(guess(MOST), WANTED);
  assert_int_equal(room[3], 10003);
  end();
}

/* The shortest texts, and one that is nothing but the same token. */
static void test_borders(void **state) {
  (void)state;
  begin(1, 2000);
  for (uint32_t n = 1; n < 4; n++) assert_int_equal(guess(n), 0);
  for (uint32_t n = 4; n <= 2001 - WANTED; n++) {
    assert_int_equal(guess(n), WANTED);
    assert_int_equal(room[WANTED - 1], 0);
  }
  end();
}

/* What is predicted stands before the prompt; the answer may begin with it, leave it, and come back to it. */
static void test_predicted(void **state) {
  (void)state;
  enum { PREDICTED = 20, PROMPT = 5 };
  static const int32_t answer[] = {100, 101, 102, 7, 7, 7, 110, 111, 112, 113, 117, 118, 119};
  int32_t *text = calloc(PREDICTED + PROMPT + 20 + WANTED, sizeof *text);
  seq = (struct tl_sequence){.n_predicted = PREDICTED, .n_prompt = PROMPT, .max_new = 20, .tokens = text + PREDICTED};
  seq.draft_index = calloc(tl_draft_index_words(PREDICTED + PROMPT + 20), sizeof *seq.draft_index);
  for (int32_t i = 0; i < PREDICTED; i++) text[i] = 100 + i;
  for (int32_t i = 0; i < PROMPT; i++) seq.tokens[i] = i;
  assert_int_equal(guess(PROMPT), 0);
  for (uint32_t n = 1; n <= UNIT_COUNT(answer); n++) {
    memcpy(seq.tokens + PROMPT, answer, n * sizeof *answer);
    uint32_t got = guess(PROMPT + n);
    static const uint32_t wanted[] = {WANTED, WANTED, WANTED, 0, 0, 0, 0, 0, WANTED, WANTED, 0, 0, 0};
    assert_int_equal(got, wanted[n - 1]);
    for (uint32_t k = 0; k < got; k++) assert_int_equal(room[k], answer[n - 1] + 1 + (int32_t)k);
  }
  for (int32_t i = 0; i < 3; i++) seq.tokens[PROMPT + i] = 115 + i; /* its end is no more than that */
  seq.drafts.n_indexed = PREDICTED + PROMPT;
  assert_int_equal(guess(PROMPT + 3), 2);
  assert_int_equal(room[1], 119);
  free(text);
  free(seq.draft_index);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_predicted), cmocka_unit_test(test_as_by_looking), cmocka_unit_test(test_a_long_prompt), cmocka_unit_test(test_borders)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
