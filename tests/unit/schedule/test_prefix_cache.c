/* SPDX-License-Identifier: MIT */
/* Sharing of blocks, step by step. Blocks of 4 tokens. */
#include "schedule_unit.h"

static struct tl_scheduler *make_cache(uint32_t n_blocks, bool prefix_cache) {
  struct tl_scheduler_options o = scheduler_options(n_blocks, 8, 64, 64);
  o.prefix_cache = prefix_cache;
  o.key[0] = 11;
  return make_with(&o);
}

static void add_tokens(struct tl_scheduler *s, struct tl_sched_seq *seq, const int32_t *tokens, uint32_t n) {
  *seq = (struct tl_sched_seq){.n_tokens = n, .n_max = n + 10, .tokens = tokens, .max_cached = UINT32_MAX};
  tl_scheduler_add(s, seq, ++now_ns);
}

/* Begins, computes its prompt, and ends. */
static void pass(struct tl_scheduler *s, const int32_t *tokens, uint32_t n, uint32_t start) {
  struct tl_sched_seq seq;
  add_tokens(s, &seq, tokens, n);
  assert_plan(s, &seq, start, n - start, NULL);
  tl_scheduler_done(s, items, n_items);
  tl_scheduler_remove(s, &seq);
  assert_int_equal(tl_scheduler_free_blocks(s), s->o.n_blocks);
}

static const int32_t count[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};

static void test_hits(void **state) {
  (void)state;
  struct tl_scheduler *s = make_cache(20, true);
  pass(s, count, 3, 0); /* no full block */
  assert_int_equal(tl_scheduler_cached_blocks(s), 0);
  pass(s, count, 10, 0);
  assert_int_equal(tl_scheduler_cached_blocks(s), 2);
  pass(s, count, 10, 8);
  pass(s, count, 8, 4); /* the last token is always computed, and with it its block */
  pass(s, count, 9, 8);
  pass(s, count, 20, 8);
  pass(s, count, 20, 16);
  assert_int_equal(tl_scheduler_cached_blocks(s), 5);
  static const int32_t other[] = {1, 2, 3, 4, 5, 6, 7, 0, 9, 10, 11, 12, 0};
  pass(s, other, 13, 4); /* parts after the first block; 9..12 stand elsewhere */
  assert_int_equal(tl_scheduler_cached_blocks(s), 7);
  const struct tl_sched_stats *stats = tl_scheduler_stats(s);
  assert_int_equal(stats->query_tokens, 3 + 10 + 10 + 8 + 9 + 20 + 20 + 13);
  assert_int_equal(stats->hit_tokens, 8 + 4 + 8 + 8 + 16 + 4);
  assert_int_equal(stats->evictions, 0);
  tl_scheduler_flush(s);
  assert_int_equal(tl_scheduler_cached_blocks(s), 0);
  pass(s, count, 20, 0);
  tl_scheduler_free(s);
}

static void test_salts(void **state) {
  (void)state;
  struct tl_scheduler *s = make_cache(20, true);
  struct tl_sched_seq a, b;
  pass(s, count, 10, 0);
  add_tokens(s, &a, count, 10);
  a.salt = 7;
  assert_plan(s, &a, 0u, 10u, NULL);
  run(s);
  add_tokens(s, &b, count, 10);
  b.salt = 7;
  assert_plan(s, &a, 10u, 1u, &b, 8u, 2u, NULL);
  assert_true(a.blocks[0] == b.blocks[0] && a.blocks[1] == b.blocks[1] && a.blocks[2] != b.blocks[2]);
  tl_scheduler_free(s);
}

/* An adapter's keys and values are its own, whatever the salt. */
static void test_adapters(void **state) {
  (void)state;
  struct tl_scheduler *s = make_cache(20, true);
  struct tl_sched_seq a, b, c;
  pass(s, count, 10, 0);
  add_tokens(s, &a, count, 10);
  a.adapter = 1;
  assert_plan(s, &a, 0u, 10u, NULL);
  run(s);
  add_tokens(s, &b, count, 10);
  b.adapter = 2;
  add_tokens(s, &c, count, 10);
  c.adapter = 1;
  assert_plan(s, &a, 10u, 1u, &b, 0u, 10u, &c, 8u, 2u, NULL);
  assert_true(a.blocks[0] == c.blocks[0] && a.blocks[0] != b.blocks[0]);
  tl_scheduler_free(s);
}

/* Gives a block of the tree another hash, as a collision would. */
static void forge(struct tl_scheduler *s, uint32_t block, uint64_t hash) {
  tree_remove(s, block);
  struct block *b = &s->pool.blocks[block];
  b->hash = hash;
  b->in_tree = true;
  b->bucket_next = s->tree.buckets[hash & s->tree.bucket_mask];
  s->tree.buckets[hash & s->tree.bucket_mask] = block;
  s->tree.n++;
}

/* Hashes say where to look; what is there must have the same tokens, parent and salt. */
static void test_collisions(void **state) {
  (void)state;
  static const int32_t reversed[] = {4, 3, 2, 1, 0}, p[] = {0, 0, 0, 0, 1, 1, 1, 1, 9}, r[] = {7, 7, 7, 7, 1, 1, 1, 1, 9};
  struct tl_sched_seq probe = {.n_tokens = 5, .tokens = reversed, .max_cached = UINT32_MAX};
  uint64_t key;
  struct tl_scheduler *s = make_cache(20, true);
  pass(s, count, 5, 0);
  assert_int_equal(tree_match(s, &probe, &key), 0);
  forge(s, s->pool.idle_first, key); /* other tokens */
  pass(s, reversed, 5, 0);
  assert_int_equal(tl_scheduler_cached_blocks(s), 2);
  pass(s, reversed, 5, 4);
  tl_scheduler_free(s);

  s = make_cache(20, true);
  pass(s, p, 9, 0);
  uint32_t second = s->pool.idle_first;
  pass(s, r, 5, 0);
  probe = (struct tl_sched_seq){.n_tokens = 9, .tokens = r, .max_cached = UINT32_MAX};
  assert_int_equal(tree_match(s, &probe, &key), 1);
  forge(s, second, key); /* the same tokens after others */
  assert_int_equal(tree_match(s, &probe, &key), 1);
  tl_scheduler_free(s);

  s = make_cache(20, true);
  pass(s, p, 5, 0);
  probe = (struct tl_sched_seq){.n_tokens = 5, .tokens = p, .max_cached = UINT32_MAX, .salt = 3};
  assert_int_equal(tree_match(s, &probe, &key), 0);
  forge(s, s->pool.idle_first, key); /* the same tokens of somebody else */
  assert_int_equal(tree_match(s, &probe, &key), 0);
  probe = (struct tl_sched_seq){.n_tokens = 5, .tokens = p, .max_cached = UINT32_MAX, .adapter = 3};
  assert_int_equal(tree_match(s, &probe, &key), 0);
  forge(s, s->pool.idle_first, key); /* of another adapter */
  assert_int_equal(tree_match(s, &probe, &key), 0);
  tl_scheduler_free(s);
}

/* A scored prompt needs the logits of its rows: they are computed again, and the
 * blocks are the ones that are there. */
static void test_scored_prompts(void **state) {
  (void)state;
  struct tl_scheduler *s = make_cache(20, true);
  struct tl_sched_seq a, b;
  add_tokens(s, &a, count, 10);
  assert_plan(s, &a, 0u, 10u, NULL);
  run(s);
  add_tokens(s, &b, count, 10);
  b.max_cached = 0;
  assert_plan(s, &a, 10u, 1u, &b, 0u, 10u, NULL);
  assert_true(a.blocks[0] != b.blocks[0]);
  run(s);
  assert_true(a.blocks[0] == b.blocks[0] && a.blocks[1] == b.blocks[1]);
  assert_int_equal(tl_scheduler_free_blocks(s), 20 - 4);
  tl_scheduler_remove(s, &b);
  add_tokens(s, &b, count, 10);
  b.max_cached = 7; /* 7 rows were scored before it was put back */
  assert_plan(s, &a, 11u, 1u, &b, 4u, 6u, NULL);
  tl_scheduler_free(s);
}

/* Choices 2..n of a prompt wait while the first computes it, even over several
 * steps, and then compute only what is no full block. */
static void test_forks(void **state) {
  (void)state;
  for (unsigned with_cache = 0; with_cache < 2; with_cache++) {
    struct tl_scheduler_options o = scheduler_options(40, 8, 12, 64);
    o.prefix_cache = with_cache;
    struct tl_scheduler *s = make_with(&o);
    struct tl_sched_seq q[3], other;
    for (unsigned i = 0; i < 3; i++) {
      add_tokens(s, &q[i], count, 18);
      q[i].fork = 5;
    }
    static const int32_t different[] = {9, 9};
    add_tokens(s, &other, different, 2);
    assert_plan(s, &q[0], 0u, 12u, NULL);
    run(s);
    assert_plan(s, &q[0], 12u, 6u, &other, 0u, 2u, NULL); /* passes those that wait for q[0] */
    run(s);
    assert_plan(s, &q[0], 18u, 1u, &other, 2u, 1u, &q[1], 16u, 2u, &q[2], 16u, 2u, NULL);
    for (unsigned i = 0; i < 4; i++) assert_true(q[0].blocks[i] == q[1].blocks[i] && q[1].blocks[i] == q[2].blocks[i]);
    assert_true(q[0].blocks[4] != q[1].blocks[4] && q[1].blocks[4] != q[2].blocks[4]);
    assert_int_equal(s->pool.blocks[q[0].blocks[3]].refs, 3);
    run(s);
    for (unsigned i = 0; i < 3; i++) tl_scheduler_remove(s, &q[i]);
    tl_scheduler_remove(s, &other);
    assert_int_equal(tl_scheduler_free_blocks(s), 40);
    assert_int_equal(tl_scheduler_cached_blocks(s), with_cache ? 4 : 0);
    tl_scheduler_free(s);
  }
}

/* However many wait for a leader, a stranger behind them is looked at in the same plan. */
static void test_many_followers(void **state) {
  (void)state;
  struct tl_scheduler_options o = scheduler_options(60, 8, 12, 64);
  o.prefix_cache = true;
  struct tl_scheduler *s = make_with(&o);
  struct tl_sched_seq q[50], strangers[3];
  static const int32_t different[] = {9, 9};
  for (unsigned i = 0; i < 50; i++) add_tokens(s, &q[i], count, 18);
  assert_plan(s, &q[0], 0u, 12u, NULL);
  run(s);
  add_tokens(s, &strangers[0], different, 2);
  assert_plan(s, &q[0], 12u, 6u, &strangers[0], 0u, 2u, NULL);
  add_tokens(s, &strangers[1], different, 2);
  assert_extended(s, &q[0], 12u, 6u, &strangers[0], 0u, 2u, &strangers[1], 0u, 2u, NULL);
  run(s);
  uint32_t running = tl_scheduler_running(s);
  assert_true(tl_scheduler_plan(s, items) > 3);
  assert_true(tl_scheduler_running(s) > running); /* and the followers come in once it is through */
  tl_scheduler_free(s);
}

/* The one that the others wait for leaves: the next takes its part over. */
static void test_leader_leaves(void **state) {
  (void)state;
  struct tl_scheduler_options o = scheduler_options(40, 8, 12, 64);
  o.prefix_cache = true;
  struct tl_scheduler *s = make_with(&o);
  struct tl_sched_seq q[3];
  for (unsigned i = 0; i < 3; i++) add_tokens(s, &q[i], count, 18);
  assert_plan(s, &q[0], 0u, 12u, NULL);
  run(s);
  tl_scheduler_remove(s, &q[0]);
  assert_plan(s, &q[1], 12u, 6u, NULL);
  run(s);
  assert_plan(s, &q[1], 18u, 1u, &q[2], 16u, 2u, NULL);
  tl_scheduler_free(s);
}

static void test_without_cache(void **state) {
  (void)state;
  struct tl_scheduler *s = make_cache(20, false);
  pass(s, count, 10, 0);
  pass(s, count, 10, 0);
  assert_int_equal(tl_scheduler_cached_blocks(s), 0);
  assert_int_equal(tl_scheduler_stats(s)->query_tokens, 0);
  tl_scheduler_free(s);
}

/* Two sequences generate the same: the second changes over to the first's blocks. */
static void test_generated_blocks(void **state) {
  (void)state;
  struct tl_scheduler *s = make_cache(20, true);
  struct tl_sched_seq a, b;
  add_tokens(s, &a, count, 6);
  add_tokens(s, &b, count, 6);
  assert_plan(s, &a, 0u, 6u, NULL);
  run(s);
  assert_plan(s, &a, 6u, 1u, &b, 4u, 2u, NULL);
  run(s);
  assert_plan(s, &a, 7u, 1u, &b, 6u, 1u, NULL);
  run(s);
  assert_true(a.blocks[0] == b.blocks[0] && a.blocks[1] != b.blocks[1]);
  assert_plan(s, &a, 8u, 1u, &b, 7u, 1u, NULL);
  run(s);
  assert_true(a.blocks[1] == b.blocks[1]);
  tl_scheduler_remove(s, &a);
  tl_scheduler_remove(s, &b);
  assert_int_equal(tl_scheduler_free_blocks(s), 20);
  pass(s, count, 12, 8); /* a conversation that goes on */
  tl_scheduler_free(s);
}

/* 5 blocks: what was used last stays, leaves go before what they continue. */
static void test_evictions(void **state) {
  (void)state;
  struct tl_scheduler *s = make_cache(5, true);
  static const int32_t p[] = {0, 0, 0, 0, 1, 1, 1, 1, 9}, q[] = {0, 0, 0, 0, 2, 2, 2, 2, 9}, r[] = {7, 7, 7, 7, 8, 8, 8, 8, 9};
  pass(s, p, 9, 0);
  pass(s, q, 9, 4);
  assert_int_equal(tl_scheduler_cached_blocks(s), 3);
  pass(s, r, 9, 0); /* 2 free ones and one of another: the end of p */
  assert_int_equal(tl_scheduler_stats(s)->evictions, 1);
  pass(s, q, 9, 8);
  pass(s, p, 9, 4); /* over the end of r */
  assert_int_equal(tl_scheduler_stats(s)->evictions, 2);
  pass(s, q, 9, 8);
  pass(s, p, 9, 8);
  pass(s, r, 9, 4); /* its beginning has stayed; over the end of q */
  assert_int_equal(tl_scheduler_stats(s)->evictions, 3);
  pass(s, p, 9, 8);
  pass(s, q, 9, 4);
  tl_scheduler_free(s);
}

/* A preempted sequence finds its blocks again, as far as nobody took them. */
static void test_after_preemption(void **state) {
  (void)state;
  struct tl_scheduler *s = make_cache(4, true);
  struct tl_sched_seq a, b;
  static const int32_t other[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  add_tokens(s, &a, other, 4);
  add_tokens(s, &b, count, 4);
  assert_plan(s, &a, 0u, 4u, &b, 0u, 4u, NULL);
  run(s);
  assert_plan(s, &a, 4u, 1u, &b, 4u, 1u, NULL);
  run(s);
  while (a.n_tokens < 9) {
    n_items = tl_scheduler_plan(s, items);
    run(s);
  }
  assert_int_equal(tl_scheduler_stats(s)->preemptions, 0);
  assert_plan(s, &a, 8u, 1u, NULL);
  assert_int_equal(b.state, TL_SCHED_WAITING);
  run(s);
  tl_scheduler_remove(s, &a);
  n_items = tl_scheduler_plan(s, items);
  assert_int_equal(n_items, 1);
  assert_true(items[0].seq == &b && items[0].start == 4 && items[0].n == b.n_tokens - 4);
  tl_scheduler_free(s);
}

/* Steps run ahead of their tokens: a block is shared when its last one is known, though the step that computes it
 * is through long before; those behind it follow. */
static void test_pending_tokens(void **state) {
  (void)state;
  struct tl_scheduler *s = make_cache(20, true);
  struct tl_sched_seq seq;
  int32_t tokens[20];
  for (unsigned i = 0; i < 20; i++) tokens[i] = i < 7 ? count[i] : -9; /* what is not known must not be read */
  add_tokens(s, &seq, tokens, 7);
  assert_plan(s, &seq, 0u, 7u, NULL);
  tl_scheduler_done(s, items, n_items);
  assert_int_equal(tl_scheduler_cached_blocks(s), 1);
  for (uint32_t n = 7; n < 16; n++) {
    seq.n_tokens = n + 1; /* the step before makes token n, which the next one computes */
    seq.n_pending = 1;
    assert_plan(s, &seq, n, 1u, NULL);
    tl_scheduler_done(s, items, n_items);
    assert_int_equal(tl_scheduler_cached_blocks(s), n / 4);
    assert_int_equal(seq.n_in_tree, n / 4);
    tokens[n] = count[n];
  }
  tl_scheduler_remove(s, &seq);
  pass(s, count, 20, 12);
  tl_scheduler_free(s);
}

/* What a sequence that is not to be trusted held is found no more, nor what stands behind it, idle or used; what stands beside it is. */
static void test_distrust(void **state) {
  (void)state;
  struct tl_scheduler *s = make_cache(20, true);
  static const int32_t beside[] = {1, 2, 3, 4, 0, 0, 0, 0, 9}, behind[] = {1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 9}, other[] = {0, 0, 0, 0, 9};
  struct tl_sched_seq a, b, c;
  pass(s, other, 5, 0);
  pass(s, behind, 13, 0);
  add_tokens(s, &a, count, 10);
  assert_plan(s, &a, 8u, 2u, NULL);
  run(s);
  add_tokens(s, &b, beside, 9);
  add_tokens(s, &c, other, 5);
  assert_plan(s, &a, 10u, 1u, &b, 4u, 5u, &c, 4u, 1u, NULL);
  run(s);
  assert_int_equal(tl_scheduler_cached_blocks(s), 5);
  tl_scheduler_distrust(s, &a);
  tl_scheduler_remove(s, &a);
  assert_int_equal(tl_scheduler_cached_blocks(s), 1); /* b, which began with what a had, goes on but is not shared */
  assert_plan(s, &b, 9u, 1u, &c, 5u, 1u, NULL);
  run(s);
  tl_scheduler_remove(s, &b);
  tl_scheduler_remove(s, &c);
  assert_int_equal(tl_scheduler_cached_blocks(s), 1);
  assert_int_equal(s->pool.n_free, 19);
  pass(s, other, 5, 4);
  pass(s, behind, 13, 0);
  pass(s, count, 10, 8);
  tl_scheduler_free(s);
}

/* The same of one that was put back, whose blocks nobody has; whoever waits for what one that is set apart computes goes on alone. */
static void test_distrust_of_who_waits(void **state) {
  (void)state;
  struct tl_scheduler_options o = scheduler_options(4, 8, 64, 64);
  struct tl_sched_seq a, b, c;
  static const int32_t zeros[16];
  o.prefix_cache = true;
  struct tl_scheduler *s = make_with(&o);
  add_tokens(s, &a, zeros, 5);
  assert_plan(s, &a, 0u, 5u, NULL);
  run(s);
  add_tokens(s, &b, count, 4);
  assert_plan(s, &a, 5u, 1u, &b, 0u, 4u, NULL);
  run(s);
  while (b.state == TL_SCHED_RUNNING) {
    n_items = tl_scheduler_plan(s, items);
    if (b.state == TL_SCHED_RUNNING) run(s);
  }
  assert_int_equal(s->pool.n_idle, 1); /* 1 2 3 4 */
  tl_scheduler_distrust(s, &b);
  tl_scheduler_remove(s, &b);
  assert_int_equal(s->pool.n_idle, 0);
  tl_scheduler_free(s);

  o.n_blocks = 20;
  o.max_prefill_tokens = 5;
  s = make_with(&o);
  pass(s, count, 5, 0);
  add_tokens(s, &a, count, 6);
  assert_plan(s, &a, 4u, 2u, NULL);
  run(s);
  add_tokens(s, &b, count, 13);
  assert_plan(s, &a, 6u, 1u, &b, 4u, 5u, NULL);
  add_tokens(s, &c, count, 14); /* follows b */
  tl_scheduler_done(s, items, n_items);
  tl_scheduler_distrust(s, &a);
  tl_scheduler_remove(s, &a);
  assert_true(b.apart && b.next_key == 0);
  n_items = tl_scheduler_plan(s, items);
  assert_int_equal(n_items, 2);
  assert_true(items[1].seq == &c && items[1].start == 0);
  tl_scheduler_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hits),           cmocka_unit_test(test_salts), cmocka_unit_test(test_adapters),          cmocka_unit_test(test_collisions),
      cmocka_unit_test(test_scored_prompts), cmocka_unit_test(test_forks),          cmocka_unit_test(test_leader_leaves),
      cmocka_unit_test(test_many_followers),
      cmocka_unit_test(test_without_cache),  cmocka_unit_test(test_generated_blocks), cmocka_unit_test(test_evictions),
      cmocka_unit_test(test_after_preemption), cmocka_unit_test(test_pending_tokens),
      cmocka_unit_test(test_distrust),       cmocka_unit_test(test_distrust_of_who_waits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
