/* SPDX-License-Identifier: MIT */
/* Which state each chunk goes on from and leaves, step by step. Blocks of 4 tokens; a chunk is cut for at least 4 blocks. */
#include "schedule_unit.h"

#define NONE STATE_NONE

static int32_t count[100], other[100];
static uint32_t adapter; /* of the sequences that are added */

static struct tl_scheduler *make_keeping(uint32_t n_states, bool prefix_cache) {
  struct tl_scheduler_options o = scheduler_options(60, 8, 64, 64);
  o.n_states = n_states;
  o.prefix_cache = prefix_cache;
  for (int32_t i = 0; i < 100; i++) count[i] = i + 1, other[i] = -i - 1;
  return make_with(&o);
}

static void add_tokens(struct tl_scheduler *s, struct tl_sched_seq *seq, const int32_t *tokens, uint32_t n) {
  *seq = (struct tl_sched_seq){.n_tokens = n, .n_max = n + 30 < 64 ? n + 30 : 64, .tokens = tokens, .max_cached = UINT32_MAX, .adapter = adapter};
  tl_scheduler_add(s, seq, ++now_ns);
}

/* (from, to) of each item of the plan. */
static void assert_states(uint32_t n, const uint32_t (*pairs)[2]) {
  assert_int_equal(n_items, n);
  for (uint32_t i = 0; i < n; i++) {
    assert_int_equal(items[i].state_from, pairs[i][0]);
    assert_int_equal(items[i].state_to, pairs[i][1]);
  }
}
#define assert_moves(...) assert_states(sizeof((const uint32_t[][2]){__VA_ARGS__}) / sizeof(uint32_t[2]), (const uint32_t[][2]){__VA_ARGS__})

static void assert_counts(const struct tl_scheduler *s, uint32_t used, uint32_t kept) {
  assert_int_equal(tl_scheduler_used_states(s), used);
  assert_int_equal(tl_scheduler_kept_states(s), kept);
}

/* A prompt of n tokens begins at `start` and is computed; returns in how many steps. */
static uint32_t pass(struct tl_scheduler *s, const int32_t *tokens, uint32_t n, uint32_t start) {
  struct tl_sched_seq seq;
  uint32_t n_steps = 0;
  add_tokens(s, &seq, tokens, n);
  do {
    n_items = tl_scheduler_plan(s, items);
    assert_int_equal(n_items, 1);
    if (n_steps++ == 0) assert_int_equal(items[0].start, start);
    tl_scheduler_done(s, items, n_items);
  } while (seq.n_computed < n);
  tl_scheduler_remove(s, &seq);
  assert_int_equal(tl_scheduler_used_states(s), 0);
  return n_steps;
}

/* Without anything to share there is one a sequence, and it stays the same. */
static void test_one_each(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(5, false);
  struct tl_sched_seq a, b, c;
  add_tokens(s, &a, count, 22);
  add_tokens(s, &b, count, 22);
  assert_plan(s, &a, 0u, 22u, &b, 0u, 22u, NULL);
  assert_moves({NONE, 0}, {NONE, 1});
  run(s);
  assert_plan(s, &a, 22u, 1u, &b, 22u, 1u, NULL);
  assert_moves({0, 0}, {1, 1});
  run(s);
  tl_scheduler_remove(s, &a);
  add_tokens(s, &c, count, 5);
  assert_plan(s, &b, 23u, 1u, &c, 0u, 5u, NULL);
  assert_moves({1, 1}, {NONE, 0});
  assert_counts(s, 2, 0);
  tl_scheduler_remove(s, &b);
  tl_scheduler_remove(s, &c);
  assert_counts(s, 0, 0);
  tl_scheduler_free(s);
}

/* A prompt's chunk ends with its last full block, whose state then is: the next one with that beginning goes on from it. */
static void test_prompts(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(5, true);
  struct tl_sched_seq a, b;
  add_tokens(s, &a, count, 22);
  assert_plan(s, &a, 0u, 20u, NULL);
  assert_moves({NONE, 0});
  run(s);
  assert_counts(s, 2, 1);
  assert_plan(s, &a, 20u, 2u, NULL);
  assert_moves({0, 1});
  run(s);
  assert_counts(s, 1, 1);
  add_tokens(s, &b, count, 22);
  assert_plan(s, &a, 22u, 1u, &b, 20u, 2u, NULL);
  assert_moves({1, 1}, {0, 2});
  run(s);
  assert_true(a.blocks[4] == b.blocks[4] && a.blocks[5] != b.blocks[5]);
  tl_scheduler_remove(s, &a);
  tl_scheduler_remove(s, &b);
  assert_int_equal(pass(s, count, 21, 20), 1);
  assert_int_equal(pass(s, count, 24, 20), 1); /* the next one would be 23 at most */
  assert_int_equal(pass(s, count, 20, 0), 2);  /* no state before 20 */
  assert_int_equal(pass(s, count, 18, 16), 1);
  const struct tl_sched_stats *stats = tl_scheduler_stats(s);
  assert_int_equal(stats->hit_tokens, 20 + 20 + 20 + 16);
  tl_scheduler_free(s);
}

/* A state is a block's, and so its adapter's: the same prompt of another one begins without. */
static void test_adapters(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(5, true);
  for (unsigned i = 0; i < 6; i++) {
    adapter = i % 3;
    assert_int_equal(pass(s, count, 22, i < 3 ? 0 : 20), i < 3 ? 2 : 1);
  }
  adapter = 0;
  assert_counts(s, 0, 3);
  tl_scheduler_free(s);
}

/* Whoever has less to keep than 4 blocks does not pay a step for it; where a chunk ends with a block anyway, its state stays. */
static void test_not_worth_it(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(5, true);
  assert_int_equal(pass(s, count, 15, 0), 1);
  assert_counts(s, 0, 0);
  assert_int_equal(pass(s, count, 12, 0), 1);
  assert_counts(s, 0, 1);
  assert_int_equal(pass(s, count, 15, 12), 1);
  assert_int_equal(pass(s, count, 30, 12), 2); /* 28 */
  assert_counts(s, 0, 2);
  tl_scheduler_free(s);
}

/* Blocks without a state are computed again, beside those of the tree, which nobody writes; and where prompts part, a state is left. */
static void test_branches(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(6, true);
  int32_t prompts[3][50];
  for (int i = 0; i < 3; i++) {
    memcpy(prompts[i], count, sizeof prompts[i]);
    for (int k = 25; k < 50; k++) prompts[i][k] = -i - 100;
  }
  assert_int_equal(pass(s, prompts[0], 50, 0), 2);
  struct tl_sched_seq a;
  add_tokens(s, &a, prompts[1], 50);
  assert_plan(s, &a, 0u, 24u, NULL);
  uint32_t in_tree = tl_scheduler_cached_blocks(s);
  for (uint32_t i = 0; i < 6; i++) assert_false(s->pool.blocks[a.blocks[i]].in_tree);
  run(s);
  for (uint32_t i = 0; i < 6; i++) assert_true(s->pool.blocks[a.blocks[i]].in_tree && s->pool.blocks[a.blocks[i]].refs == 1);
  assert_int_equal(tl_scheduler_cached_blocks(s), in_tree);
  assert_plan(s, &a, 24u, 24u, NULL);
  run(s);
  assert_plan(s, &a, 48u, 2u, NULL);
  run(s);
  tl_scheduler_remove(s, &a);
  assert_int_equal(pass(s, prompts[2], 50, 24), 2);
  assert_int_equal(pass(s, prompts[1], 50, 48), 1);
  assert_counts(s, 0, 4);
  tl_scheduler_free(s);
}

/* While it generates the state behind the last full block stays, and no older one of those: the conversation goes on there. */
static void test_answers(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(5, true);
  struct tl_sched_seq a;
  add_tokens(s, &a, count, 22);
  assert_plan(s, &a, 0u, 20u, NULL);
  run(s);
  assert_plan(s, &a, 20u, 2u, NULL);
  run(s);
  for (uint32_t n = 22; n < 33; n++) {
    assert_plan(s, &a, n, 1u, NULL);
    run(s);
    assert_counts(s, 1 + (n % 4 == 3), 1 + (n >= 23));
  }
  tl_scheduler_remove(s, &a);
  assert_counts(s, 0, 2); /* behind 20 and 32 */
  assert_int_equal(pass(s, count, 37, 32), 1);
  assert_int_equal(pass(s, count, 30, 20), 1);
  tl_scheduler_free(s);
}

/* Steps run ahead of their tokens: the block gets its state when its last token is known, a step later. Until then the sequence has it. */
static void test_pending_tokens(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(5, true);
  struct tl_sched_seq a;
  int32_t tokens[40];
  for (unsigned i = 0; i < 40; i++) tokens[i] = i < 22 ? count[i] : -9; /* what is not known must not be read */
  add_tokens(s, &a, tokens, 22);
  assert_plan(s, &a, 0u, 20u, NULL);
  tl_scheduler_done(s, items, n_items);
  assert_plan(s, &a, 20u, 2u, NULL);
  tl_scheduler_done(s, items, n_items);
  for (uint32_t n = 22; n < 33; n++) {
    a.n_tokens = n + 1;
    a.n_pending = 1;
    assert_plan(s, &a, n, 1u, NULL);
    tl_scheduler_done(s, items, n_items);
    assert_counts(s, 1 + (n % 4 == 3), 1 + (n >= 24));
    tokens[n] = count[n];
  }
  tl_scheduler_remove(s, &a);
  assert_counts(s, 0, 2);
  assert_int_equal(pass(s, count, 37, 32), 1);
  /* who is put back or leaves gives back what it kept, too */
  add_tokens(s, &a, tokens, 32);
  a.n_pending = 1;
  assert_plan(s, &a, 20u, 12u, NULL);
  tl_scheduler_done(s, items, n_items);
  assert_counts(s, 2, 2);
  tl_scheduler_remove(s, &a);
  assert_counts(s, 0, 2);
  tl_scheduler_free(s);
}

/* Choices of one prompt, or prompts with the same beginning: the first ends a chunk where the others can go on, and they wait for that. */
static void test_followers(void **state) {
  (void)state;
  for (unsigned with_cache = 0; with_cache < 2; with_cache++) {
    struct tl_scheduler *s = make_keeping(8, with_cache);
    struct tl_sched_seq a, b, c, d;
    int32_t parts[40], early[30];
    memcpy(parts, count, sizeof parts);
    memcpy(early, count, sizeof early);
    for (int i = 21; i < 40; i++) parts[i] = -i;
    for (int i = 9; i < 30; i++) early[i] = -i; /* shares 2 blocks: not worth it */
    add_tokens(s, &a, count, 40);
    add_tokens(s, &b, parts, 40);
    add_tokens(s, &c, count, 40);
    add_tokens(s, &d, early, 16);
    a.fork = b.fork = c.fork = d.fork = 5;
    assert_plan(s, &a, 0u, 20u, &d, 0u, 16u, NULL); /* a was to have 36 rows, until b came */
    run(s);
    assert_plan(s, &d, 16u, 1u, &a, 20u, 16u, &b, 20u, 16u, NULL);
    assert_int_equal(items[1].state_from, items[2].state_from);
    run(s);
    assert_plan(s, &d, 17u, 1u, &a, 36u, 4u, &b, 36u, 4u, &c, 36u, 4u, NULL);
    assert_int_equal(items[1].state_from, items[3].state_from);
    assert_int_not_equal(items[1].state_from, items[2].state_from);
    run(s);
    tl_scheduler_remove(s, &a);
    tl_scheduler_remove(s, &b);
    tl_scheduler_remove(s, &c);
    tl_scheduler_remove(s, &d);
    if (!with_cache) assert_counts(s, 0, 0);
    tl_scheduler_free(s);
  }
}

/* All blocks are there and no state is: who comes second waits for the first all the same. */
static void test_followers_of_blocks(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(4, true);
  struct tl_sched_seq a, b, lone[4];
  pass(s, count, 42, 0);
  for (unsigned i = 0; i < 4; i++) add_tokens(s, &lone[i], count + 50 + i, 5);
  n_items = tl_scheduler_plan(s, items);
  assert_counts(s, 4, 0);
  for (unsigned i = 0; i < 4; i++) tl_scheduler_remove(s, &lone[i]);
  add_tokens(s, &a, count, 41);
  add_tokens(s, &b, count, 41);
  assert_plan(s, &a, 0u, 40u, NULL);
  run(s);
  assert_plan(s, &a, 40u, 1u, &b, 40u, 1u, NULL);
  tl_scheduler_free(s);
}

/* A plan that is made is cut for who comes by `extend`. */
static void test_follower_of_a_plan(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(8, true);
  struct tl_sched_seq a, b;
  int32_t parts[40];
  memcpy(parts, count, sizeof parts);
  for (int i = 21; i < 40; i++) parts[i] = -i;
  add_tokens(s, &a, count, 40);
  assert_plan(s, &a, 0u, 36u, NULL);
  add_tokens(s, &b, parts, 40);
  assert_extended(s, &a, 0u, 20u, NULL);
  run(s);
  tl_scheduler_remove(s, &a); /* and leaves: b goes on from what is there */
  assert_plan(s, &b, 20u, 16u, NULL);
  tl_scheduler_free(s);
}

/* With one state sequences run one after another, none is kept and no chunk cut. */
static void test_one_state(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(1, true);
  struct tl_sched_seq a, b, urgent;
  add_tokens(s, &a, count, 22);
  add_tokens(s, &b, count, 22);
  assert_plan(s, &a, 0u, 22u, NULL);
  run(s);
  for (uint32_t n = 22; n < 26; n++) {
    assert_plan(s, &a, n, 1u, NULL);
    assert_moves({0, 0});
    run(s);
  }
  add_tokens(s, &urgent, other, 10);
  tl_scheduler_remove(s, &urgent);
  urgent = (struct tl_sched_seq){.n_tokens = 10, .n_max = 12, .tokens = other, .max_cached = UINT32_MAX, .priority = TL_PRIORITY_CRITICAL};
  tl_scheduler_add(s, &urgent, ++now_ns);
  assert_plan(s, &urgent, 0u, 10u, NULL); /* takes it from a */
  assert_int_equal(a.state, TL_SCHED_WAITING);
  assert_moves({NONE, 0});
  run(s);
  tl_scheduler_remove(s, &urgent);
  assert_plan(s, &a, 0u, 27u - (a.n_tokens == 26), NULL);
  run(s);
  tl_scheduler_remove(s, &a);
  assert_plan(s, &b, 0u, 22u, NULL);
  tl_scheduler_remove(s, &b);
  assert_counts(s, 0, 0);
  tl_scheduler_free(s);
}

/* What was used longest ago goes first; nothing that a planned step reads is given out; and when there is no other, the one that
 * a sequence found becomes its own. */
static void test_few_states(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(3, true);
  struct tl_sched_seq a, b, c;
  pass(s, count, 22, 0);     /* 0 is kept */
  pass(s, other, 22, 0);     /* 1, or another */
  pass(s, count, 22, 20);    /* used again */
  assert_counts(s, 0, 2);
  add_tokens(s, &a, count + 50, 10);
  assert_plan(s, &a, 0u, 10u, NULL);
  run(s);
  add_tokens(s, &b, count + 60, 10);
  assert_plan(s, &a, 10u, 1u, &b, 0u, 10u, NULL);
  assert_counts(s, 2, 1); /* that of `other` is gone */
  run(s);
  add_tokens(s, &c, count, 22);
  assert_plan(s, &a, 11u, 1u, &b, 10u, 1u, &c, 20u, 2u, NULL);
  assert_int_equal(items[2].state_from, items[2].state_to);
  assert_counts(s, 3, 0);
  run(s);
  tl_scheduler_remove(s, &a);
  tl_scheduler_remove(s, &b);
  tl_scheduler_remove(s, &c);
  assert_int_equal(pass(s, other, 22, 0), 2);
  tl_scheduler_free(s);
}

/* Who reads a state holds it until its step is under way; a newcomer of the same plan gets another, or waits. */
static void test_held_by_a_plan(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(3, true);
  struct tl_sched_seq a, b, c;
  add_tokens(s, &a, count, 22);
  assert_plan(s, &a, 0u, 20u, NULL);
  run(s);
  assert_plan(s, &a, 20u, 2u, NULL); /* reads one, writes another */
  add_tokens(s, &b, other, 10);
  add_tokens(s, &c, other, 11);
  assert_extended(s, &a, 20u, 2u, &b, 0u, 10u, NULL);
  assert_counts(s, 3, 1);
  assert_true(items[1].state_to != items[0].state_from && items[1].state_to != items[0].state_to);
  run(s);
  assert_plan(s, &a, 22u, 1u, &b, 10u, 1u, &c, 0u, 11u, NULL); /* now it may have the first one's */
  assert_counts(s, 3, 0);
  tl_scheduler_free(s);
}

/* The engine cuts the chunk of a prompt that it scores: what is kept is decided by where it ended. */
static void test_cut_chunk(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(5, true);
  struct tl_sched_seq a;
  add_tokens(s, &a, count, 22);
  a.max_cached = 0;
  assert_plan(s, &a, 0u, 20u, NULL);
  items[0].n = 7;
  tl_scheduler_done(s, items, n_items);
  assert_counts(s, 1, 0);
  assert_plan(s, &a, 7u, 13u, NULL);
  assert_moves({0, 0});
  items[0].n = 5;
  tl_scheduler_done(s, items, n_items);
  assert_counts(s, 2, 1); /* 12, by chance */
  assert_plan(s, &a, 12u, 8u, NULL);
  assert_moves({0, 1});
  tl_scheduler_done(s, items, n_items);
  assert_counts(s, 2, 1);
  tl_scheduler_remove(s, &a); /* before its next chunk */
  assert_counts(s, 0, 1);
  assert_int_equal(pass(s, count, 22, 20), 1);
  tl_scheduler_free(s);
}

/* What is not to be trusted is forgotten with its blocks; who goes on from it keeps it, and leaves nothing to others. */
static void test_distrust(void **state) {
  (void)state;
  struct tl_scheduler *s = make_keeping(6, true);
  struct tl_sched_seq a, b;
  pass(s, other, 22, 0);
  add_tokens(s, &a, count, 22);
  assert_plan(s, &a, 0u, 20u, NULL);
  run(s);
  assert_plan(s, &a, 20u, 2u, NULL);
  run(s);
  add_tokens(s, &b, count, 40);
  assert_plan(s, &a, 22u, 1u, &b, 20u, 16u, NULL);
  uint32_t from = items[1].state_from;
  tl_scheduler_distrust(s, &a);
  tl_scheduler_remove(s, &a);
  assert_true(b.apart);
  assert_counts(s, 2, 1);
  items[0] = items[1];
  n_items = 1;
  assert_int_equal(items[0].state_from, from);
  run(s);
  assert_counts(s, 1, 1);
  assert_plan(s, &b, 36u, 4u, NULL);
  run(s);
  tl_scheduler_remove(s, &b);
  assert_counts(s, 0, 1);
  assert_int_equal(pass(s, count, 22, 0), 2);
  assert_int_equal(pass(s, other, 22, 20), 1);
  tl_scheduler_flush(s);
  assert_counts(s, 0, 0);
  assert_int_equal(s->states.n_free, 6);
  assert_int_equal(pass(s, other, 22, 0), 2);
  tl_scheduler_free(s);
}

/* A block that is evicted takes its state with it. */
static void test_evictions(void **state) {
  (void)state;
  struct tl_scheduler_options o = scheduler_options(8, 8, 64, 32);
  o.n_states = 4;
  o.prefix_cache = true;
  struct tl_scheduler *s = make_with(&o);
  pass(s, count, 22, 0);
  assert_counts(s, 0, 1);
  pass(s, other, 22, 0); /* over 3 blocks of the first one, the last ones */
  assert_counts(s, 0, 1);
  assert_int_equal(pass(s, other, 22, 20), 1);
  tl_scheduler_free(s);
}

/* Nothing of it is there for a model without, and no guesses for one with. */
static void test_guesses(void **state) {
  (void)state;
  for (uint32_t n_states = 0; n_states < 2; n_states++) {
    struct tl_scheduler *s = make_keeping(n_states, true);
    struct tl_sched_seq a;
    add_tokens(s, &a, count, 22);
    assert_plan(s, &a, 0u, 22u, NULL);
    assert_int_equal(items[0].state_to, n_states ? 0 : NONE);
    run(s);
    assert_plan(s, &a, 22u, 1u, NULL);
    assert_int_equal(tl_scheduler_lengthen(s, &items[0], 2), n_states == 0);
    assert_counts(s, n_states, 0);
    tl_scheduler_free(s);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_each),    cmocka_unit_test(test_prompts), cmocka_unit_test(test_adapters),   cmocka_unit_test(test_not_worth_it),
      cmocka_unit_test(test_branches),    cmocka_unit_test(test_answers),   cmocka_unit_test(test_pending_tokens),
      cmocka_unit_test(test_followers),   cmocka_unit_test(test_followers_of_blocks), cmocka_unit_test(test_follower_of_a_plan), cmocka_unit_test(test_one_state),
      cmocka_unit_test(test_few_states),  cmocka_unit_test(test_held_by_a_plan), cmocka_unit_test(test_cut_chunk),
      cmocka_unit_test(test_distrust),    cmocka_unit_test(test_evictions), cmocka_unit_test(test_guesses),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
