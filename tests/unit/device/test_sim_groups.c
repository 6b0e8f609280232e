/* SPDX-License-Identifier: MIT */
/* Simulated devices that run a sequence together, and die. */
#include <pthread.h>

#include "device/sim/sim_private.h"
#include "unit.h"

enum { RANKS = 3, CONTEXT = 64, PROMPT = 10 };

static const struct tl_model model = {.vocab_size = 1000, .max_context = CONTEXT};

/* One sequence on one or three devices, in blocks 0, 1, ... */
struct group {
  struct tl_sim_options options;
  struct tl_sim_fault fault;
  struct tl_device_group *shared;
  struct tl_device *ranks[RANKS];
  unsigned n_ranks;
  int results[RANKS];
  int32_t tokens[CONTEXT];
  uint32_t length, n_cached;
};

static struct {
  struct tl_step step;
  uint32_t positions[CONTEXT], table[CONTEXT / TL_BLOCK_TOKENS], query_start[2], row;
  struct tl_sampling sampling;
  struct tl_sampled sampled;
} work;

static void restart(struct group *g) {
  g->length = PROMPT;
  g->n_cached = 0;
}

static void open_group(struct group *g, unsigned n_ranks, const char *fault) {
  struct tl_error err = {0};
  *g = (struct group){.n_ranks = n_ranks, .options = {.base_ns = 1000, .per_token_ns = 3000, .per_block_ns = 300}};
  assert_int_equal(tl_sim_parse_fault(fault, &g->fault, &err), TL_OK);
  g->options.faults = &g->fault;
  g->options.n_faults = 1;
  if (n_ranks > 1) assert_int_equal(sim_group_ops.make(n_ranks, &g->shared, &err), TL_OK);
  for (unsigned i = 0; i < n_ranks; i++) {
    struct tl_device_options options = {.index = i, .sim = &g->options};
    struct tl_device_load load = {.model = &model, .max_batch_size = 1, .max_batch_tokens = CONTEXT, .max_context = CONTEXT};
    struct tl_device_loaded loaded;
    assert_int_equal(sim_device_ops.open(&options, &g->ranks[i], &err), TL_OK);
    if (g->shared) assert_int_equal(sim_group_ops.join(g->ranks[i], g->shared, i, &err), TL_OK);
    assert_int_equal(sim_device_ops.load(g->ranks[i], &load, &loaded, &err), TL_OK);
  }
  for (int32_t i = 0; i < PROMPT; i++) g->tokens[i] = i * 31;
  restart(g);
}

static void close_group(struct group *g) {
  for (unsigned i = 0; i < g->n_ranks; i++) sim_device_ops.close(g->ranks[i]);
  if (g->shared) sim_group_ops.free(g->shared);
}

static struct group *running;

static void *run_rank(void *argument) {
  unsigned rank = (unsigned)(uintptr_t)argument;
  struct tl_device *device = running->ranks[rank];
  struct tl_error err;
  int r = sim_device_ops.submit(device, &work.step, &err);
  if (r == TL_OK) r = sim_device_ops.collect(device, rank ? NULL : &work.sampled, &err);
  if (r < 0 && running->shared) sim_group_ops.abort(running->shared); /* as engine/group.c does */
  running->results[rank] = r;
  return NULL;
}

/* What is not cached, on all ranks; true: the next token came. */
static bool run_step(struct group *g) {
  pthread_t threads[RANKS];
  uint32_t n = g->length - g->n_cached;
  for (uint32_t i = 0; i < n; i++) work.positions[i] = g->n_cached + i;
  for (uint32_t i = 0; i < CONTEXT / TL_BLOCK_TOKENS; i++) work.table[i] = i;
  work.query_start[1] = n;
  work.row = n - 1;
  work.sampling = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .position = g->length, .target = -1, .n_top = -1};
  work.step = (struct tl_step){.n_tokens = n, .n_seqs = 1, .n_rows = 1, .table_stride = CONTEXT / TL_BLOCK_TOKENS,
                               .tokens = g->tokens + g->n_cached, .positions = work.positions, .slots = work.positions,
                               .query_start = work.query_start, .context_len = &g->length, .block_tables = work.table,
                               .rows = &work.row, .sampling = &work.sampling};
  running = g;
  bool fine = true;
  for (uintptr_t i = 0; i < g->n_ranks; i++) pthread_create(&threads[i], NULL, run_rank, (void *)i);
  for (unsigned i = 0; i < g->n_ranks; i++) {
    pthread_join(threads[i], NULL);
    fine &= g->results[i] == TL_OK;
  }
  if (!fine) return false;
  g->n_cached = g->length;
  g->tokens[g->length++] = work.sampled.token;
  return true;
}

static void assert_right(struct group *g) {
  int32_t expected[CONTEXT];
  memcpy(expected, g->tokens, sizeof expected);
  tl_sim_expect(&g->options, &model, expected, PROMPT, g->length - PROMPT, &work.sampling);
  assert_memory_equal(expected, g->tokens, g->length * sizeof *expected);
}

static void reset_all(struct group *g, int expected) {
  struct tl_error err;
  int worst = TL_OK;
  if (g->shared) sim_group_ops.restore(g->shared);
  for (unsigned i = 0; i < g->n_ranks; i++) {
    int r = sim_device_ops.reset(g->ranks[i], &err);
    worst = r < worst ? r : worst;
  }
  assert_int_equal(worst, expected);
}

/* It takes no step until it was reset often enough. */
static void test_death(void **state) {
  (void)state;
  struct group g;
  open_group(&g, 1, "0@3:die:recover=2");
  assert_true(run_step(&g) && run_step(&g));
  assert_right(&g);
  assert_false(run_step(&g) || run_step(&g));
  assert_int_equal(g.results[0], TL_EDEVICE);
  reset_all(&g, TL_EDEVICE);
  assert_false(run_step(&g));
  reset_all(&g, TL_OK);
  restart(&g);
  for (unsigned i = 0; i < 5; i++) assert_true(run_step(&g));
  assert_right(&g);
  close_group(&g);
}

/* The others do not wait for the dead. */
static void test_death_of_a_rank(void **state) {
  (void)state;
  struct group g;
  open_group(&g, RANKS, "2@4:die");
  assert_int_equal(tl_sim_step_ns(&((struct sim_device *)(void *)g.ranks[0])->options, 10, 20), 1000 + 10 * 1000 + 20 * 100);
  for (unsigned i = 0; i < 3; i++) assert_true(run_step(&g));
  assert_right(&g);
  assert_false(run_step(&g));
  assert_int_equal(g.results[2], TL_EDEVICE);
  assert_true(g.results[0] == TL_ECLOSED && g.results[1] == TL_ECLOSED);
  assert_false(run_step(&g)); /* the dead may be heard of first now, or the group that gave up */
  reset_all(&g, TL_OK);
  restart(&g);
  for (unsigned i = 0; i < 5; i++) assert_true(run_step(&g));
  assert_right(&g);
  close_group(&g);
}

/* A rank whose sums are wrong spoils the group's tokens, from the next on. */
static void test_corrupt_rank(void **state) {
  (void)state;
  struct group g;
  open_group(&g, RANKS, "1@3:corrupt");
  assert_true(run_step(&g) && run_step(&g));
  assert_right(&g);
  int32_t expected[CONTEXT];
  assert_true(run_step(&g));
  memcpy(expected, g.tokens, sizeof expected);
  tl_sim_expect(&g.options, &model, expected, PROMPT, 3, &work.sampling);
  assert_int_not_equal(g.tokens[PROMPT + 2], expected[PROMPT + 2]);
  close_group(&g);
}

/* A second step that hears of the group's end gives up the first, which nobody collects then. */
static void test_end_behind_a_step(void **state) {
  (void)state;
  struct group g;
  struct tl_error err;
  open_group(&g, RANKS, "0@100:die");
  assert_true(run_step(&g));
  for (unsigned i = 0; i < RANKS; i++) assert_int_equal(sim_device_ops.submit(g.ranks[i], &work.step, &err), TL_OK);
  sim_group_ops.abort(g.shared);
  for (unsigned i = 0; i < RANKS; i++) assert_int_equal(sim_device_ops.submit(g.ranks[i], &work.step, &err), TL_ECLOSED);
  reset_all(&g, TL_OK);
  restart(&g);
  for (unsigned i = 0; i < 5; i++) assert_true(run_step(&g));
  assert_right(&g);
  close_group(&g);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_death), cmocka_unit_test(test_death_of_a_rank), cmocka_unit_test(test_corrupt_rank),
                                     cmocka_unit_test(test_end_behind_a_step)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
