/* SPDX-License-Identifier: MIT */
/* Groups of GPUs over the fake: ranks that never come, that fail, that are given up, and groups that are made anew. */
#include "cuda_group_rig.h"
#include "tokenlane/base/clock.h"

static const uint32_t zero, one = 1, start[] = {0, 1};
static const int32_t token = 7;
static const struct tl_sampling greedy = {.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1};
static const struct tl_step one_row = {
    .n_tokens = 1, .n_seqs = 1, .n_rows = 1, .table_stride = 1, .tokens = &token, .positions = &zero, .slots = &zero,
    .query_start = start, .context_len = &one, .block_tables = &zero, .rows = &zero, .sampling = &greedy};

static struct machine open_idle(struct golden **ret) {
  *ret = open_model("f16_sharded");
  fake_cuda.idle = true;
  return open_machine_of((*ret)->model, 2);
}

static void check_works(const struct machine *m) {
  struct rank_run runs[MAX_RANKS];
  run_ranks(m, &one_row, m->n_ranks, runs);
  for (unsigned i = 0; i < m->n_ranks; i++)
    if (runs[i].result < 0) fail_msg("rank %u: %s", i, runs[i].error.message);
}

static void *reset_rank(void *argument) {
  struct rank_run *r = argument;
  r->result = r->m->ops->reset(r->m->ranks[r->rank], &r->error);
  return NULL;
}

/* As the engine does it: restore, then all ranks at the same time. */
static void reset_all(const struct machine *m, struct rank_run runs[MAX_RANKS]) {
  pthread_t threads[MAX_RANKS];
  m->ops->group->restore(m->group);
  for (unsigned i = 0; i < m->n_ranks; i++) {
    runs[i] = (struct rank_run){.m = m, .rank = i};
    pthread_create(&threads[i], NULL, reset_rank, &runs[i]);
  }
  for (unsigned i = 0; i < m->n_ranks; i++) pthread_join(threads[i], NULL);
}

static void mend(const struct machine *m) {
  struct rank_run runs[MAX_RANKS];
  reset_all(m, runs);
  for (unsigned i = 0; i < m->n_ranks; i++)
    if (runs[i].result < 0) fail_msg("reset of rank %u: %s", i, runs[i].error.message);
  check_works(m);
}

/* One rank does not get the second of two steps. The first is well on both; the group is given up in the second. */
static void test_abort_of_two(void **state) {
  (void)state;
  struct golden *g;
  struct machine m = open_idle(&g);
  struct tl_error err = {0};
  struct tl_sampled sampled;
  for (unsigned with = 0; with < 2; with++) {
    struct tl_device *other = m.ranks[1 - with], *device = m.ranks[with];
    struct rank_run run = {.m = &m, .rank = 1 - with, .step = &one_row};
    pthread_t thread;
    assert_int_equal(m.ops->submit(device, &one_row, &err), TL_OK);
    assert_int_equal(m.ops->submit(device, &one_row, &err), TL_OK);
    pthread_create(&thread, NULL, run_rank, &run);
    assert_int_equal(m.ops->collect(device, &sampled, &err), TL_OK);
    pthread_join(thread, NULL);
    assert_int_equal(run.result, TL_OK);
    m.ops->group->abort(m.group);
    assert_int_equal(m.ops->collect(device, &sampled, &err), TL_ECLOSED);
    assert_int_equal(m.ops->submit(device, &one_row, &err), TL_ECLOSED);
    assert_int_equal(m.ops->submit(other, &one_row, &err), TL_ECLOSED);
    mend(&m);
  }
  close_group(&m);
  close_model(g);
}

static void test_mixed_gpus(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  struct machine m;
  struct opening o[MAX_RANKS];
  fake_cuda.mixed = fake_cuda.idle = true;
  make_group(&m, 2);
  open_ranks(&m, g->model, 0, false, o);
  const struct opening *refused = o[0].result == TL_EUNSUPPORTED ? &o[0] : &o[1]; /* whoever came second */
  assert_int_equal(refused->result, TL_EUNSUPPORTED);
  assert_string_equal(refused->error.field, "engine.tensor_parallel");
  assert_non_null(strstr(refused->error.message, "compute capability 9."));
  assert_true(o[refused == &o[0]].result < 0);
  close_group(&m);
  close_model(g);
}

/* A collective while loading waits for nobody who still allocates, copies or frees: ranks come together first. */
static void test_loads_come_together(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  struct machine m;
  struct opening o[MAX_RANKS];
  pthread_t threads[2];
  fake_cuda.idle = true;
  make_group(&m, 2);
  open_ranks(&m, g->model, 0, false, o);
  unsigned before = fake_cuda.n_collectives;
  int64_t *patience_ns = &((struct cuda_group *)(void *)m.group)->patience_ns, whole_ns = *patience_ns;
  *patience_ns = TL_MS(20); /* but a load may take longer than a meeting */
  for (unsigned i = 0; i < 2; i++) {
    if (i == 1) *patience_ns = whole_ns;
    o[i] = (struct opening){.m = &m, .model = g->model, .rank = i, .loads = true, .has_joined = true};
    pthread_create(&threads[i], NULL, open_rank, &o[i]);
    if (i == 0) usleep(100000);
    if (i == 0) assert_int_equal(fake_cuda.n_collectives, before);
  }
  for (unsigned i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  for (unsigned i = 0; i < 2; i++)
    if (o[i].result < 0) fail_msg("rank %u: %s", i, o[i].error.message);
  assert_true(fake_cuda.n_collectives > before);
  check_works(&m);
  close_group(&m);
  close_model(g);
}

/* A rank that cannot load lets the other go. */
static void test_load_that_fails(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  struct tl_model small = *g->model;
  struct machine m;
  struct opening o[MAX_RANKS];
  pthread_t threads[2];
  fake_cuda.idle = true;
  make_group(&m, 2);
  open_ranks(&m, g->model, 0, false, o);
  small.n_heads = 3; /* of no use to rank 1 */
  for (unsigned i = 0; i < 2; i++) {
    o[i] = (struct opening){.m = &m, .model = i ? &small : g->model, .rank = i, .loads = true, .has_joined = true};
    pthread_create(&threads[i], NULL, open_rank, &o[i]);
  }
  for (unsigned i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  assert_int_equal(o[0].result, TL_ECLOSED);
  assert_int_equal(o[1].result, TL_EINVAL);
  close_group(&m);
  close_model(g);
}

/* A rank that hangs: interrupts get both out, on their own threads, and the reset makes the group anew. */
static void *collect_one(void *argument) {
  struct rank_run *r = argument;
  r->result = r->m->ops->collect(r->m->ranks[r->rank], NULL, &r->error);
  return NULL;
}

static void test_interrupt(void **state) {
  (void)state;
  struct golden *g;
  struct machine m = open_idle(&g);
  struct rank_run runs[2];
  pthread_t threads[2];
  struct tl_error err = {0};
  fake_cuda.hangs = true;
  for (unsigned i = 0; i < 2; i++) {
    runs[i] = (struct rank_run){.m = &m, .rank = i};
    assert_int_equal(m.ops->submit(m.ranks[i], &one_row, &err), TL_OK);
    pthread_create(&threads[i], NULL, collect_one, &runs[i]);
  }
  m.ops->group->abort(m.group);
  for (unsigned i = 0; i < 2; i++) m.ops->interrupt(m.ranks[i]);
  for (unsigned i = 0; i < 2; i++) {
    pthread_join(threads[i], NULL);
    assert_true(runs[i].result == TL_EDEVICE || runs[i].result == TL_ECLOSED);
    assert_true(m.ops->submit(m.ranks[i], &one_row, &err) < 0);
  }
  fake_cuda.hangs = false;
  mend(&m);
  close_group(&m);
  close_model(g);
}

struct aborting {
  const struct machine *m;
};

static void *abort_soon(void *argument) {
  const struct machine *m = ((struct aborting *)argument)->m;
  usleep(5000);
  m->ops->group->abort(m->group);
  return NULL;
}

/* One rank does not take part: the others wait in a sum until the group is given up. */
static void test_rank_that_does_not_come(void **state) {
  (void)state;
  struct golden *g;
  struct machine m = open_idle(&g);
  check_works(&m);
  for (unsigned without = 0; without < 2; without++) {
    struct rank_run runs[MAX_RANKS];
    struct aborting aborting = {&m};
    pthread_t thread;
    pthread_create(&thread, NULL, abort_soon, &aborting);
    run_ranks(&m, &one_row, without, runs);
    pthread_join(thread, NULL);
    const struct rank_run *waited = &runs[1 - without];
    assert_int_equal(waited->result, TL_ECLOSED);
    /* until it is restored nothing runs */
    struct tl_error err = {0};
    for (unsigned i = 0; i < 2; i++) assert_int_equal(m.ops->submit(m.ranks[i], &one_row, &err), TL_ECLOSED);
    mend(&m);
  }
  close_group(&m);
  close_model(g);
}

static void test_error_of_nccl(void **state) {
  (void)state;
  struct golden *g;
  struct machine m = open_idle(&g);
  struct rank_run runs[MAX_RANKS];
  fake_cuda.async_error = 6;
  run_ranks(&m, &one_row, 2, runs);
  for (unsigned i = 0; i < 2; i++) {
    assert_int_equal(runs[i].result, TL_EDEVICE);
    assert_non_null(strstr(runs[i].error.message, "NCCL"));
  }
  fake_cuda.async_error = 0;
  m.ops->group->abort(m.group);
  mend(&m);
  close_group(&m);
  close_model(g);
}

static void test_meeting_that_fails(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  struct machine m;
  struct opening o[MAX_RANKS];
  fake_cuda.idle = true;
  make_group(&m, 2);
  ((struct cuda_group *)(void *)m.group)->patience_ns = TL_MS(50);
  open_ranks(&m, g->model, 1, false, o); /* rank 1 is missing */
  assert_int_equal(o[0].result, TL_EDEVICE);
  assert_non_null(strstr(o[0].error.message, "do not come"));
  m.n_ranks = 1;
  close_group(&m);
  close_model(g);
}

/* Every call of opening, a step and a reset fails once, whichever rank makes it: no rank waits for ever, nothing leaks. */
static void test_every_call_fails(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  unsigned n = 1, n_opened = 0;
  for (bool reached = true; reached; n += n < 60 ? 1 : 9) {
    struct machine m;
    struct opening o[MAX_RANKS] = {0};
    struct tl_error err = {0};
    fake_cuda_reset();
    fake_cuda.idle = true;
    fake_cuda.memory = 48u << 20;
    fake_cuda.uncounted_polls = true;
    fake_cuda.fail_at = n;
    fake_cuda.fail_code = 5;
    m = (struct machine){.ops = &fake_cuda_ops, .n_ranks = 2};
    fake_cuda.n_devices = 2;
    bool made = m.ops->group->make(2, &m.group, &err) == TL_OK;
    if (made) {
      ((struct cuda_group *)(void *)m.group)->patience_ns = TL_SEC(5);
      open_ranks(&m, g->model, 0, true, o);
    }
    if (made && o[0].result == TL_OK && o[1].result == TL_OK) {
      struct rank_run runs[MAX_RANKS];
      pthread_t thread;
      struct aborting aborting = {&m};
      n_opened++;
      pthread_create(&thread, NULL, abort_soon, &aborting);
      run_ranks(&m, &one_row, 2, runs);
      pthread_join(thread, NULL);
      reset_all(&m, runs);
      if (runs[0].result < 0 || runs[1].result < 0) {
        m.ops->group->abort(m.group);
        reset_all(&m, runs);
      }
      for (unsigned i = 0; i < 2; i++)
        if (runs[i].result < 0) fail_msg("after %s: %s", fake_cuda.failed, runs[i].error.message);
      fake_cuda.fail_at = 0;
      check_works(&m);
    }
    reached = fake_cuda.failed != NULL;
    for (unsigned i = 0; made && i < 2; i++) m.ops->close(m.ranks[i]);
    if (made) m.ops->group->free(m.group);
    assert_int_equal(fake_cuda_live(), 0);
  }
  printf("%u calls\n", n);
  assert_true(n > 300 && n_opened > 10);
  close_model(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_abort_of_two),     cmocka_unit_test(test_interrupt),
      cmocka_unit_test(test_mixed_gpus),       cmocka_unit_test(test_loads_come_together),
      cmocka_unit_test(test_load_that_fails),  cmocka_unit_test(test_rank_that_does_not_come),
      cmocka_unit_test(test_error_of_nccl),    cmocka_unit_test(test_meeting_that_fails),
      cmocka_unit_test(test_every_call_fails),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
