/* SPDX-License-Identifier: MIT */
/* The fault protocol (engine/fault.c) at full speed: a chaotic monitor quarantines
 * simulated devices at any moment, resets them while their workers are inside,
 * takes them back, again and again; what they had goes on elsewhere. A reset empties the
 * KV cache, so a step that used what was in it before, or a token of a step
 * that failed, shows as a wrong token, also in a sequence that follows a grammar: its matcher must have taken what it has, no more.
 * The same with groups of devices, whose ranks die and hang. */
#include <pthread.h>
#include <sched.h>

#include "device/sim/sim_private.h"
#include "engine/engine_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/sim.h"
#include "grammar_sequence.h"

enum { REPLICAS = 2, RANKS = 3, LOOPS = 2, LIVE = 12, PER_LOOP = 3000 / UNIT_SLOWDOWN, CYCLES = 1500 / UNIT_SLOWDOWN, MOST = 60 };

static const struct tl_model model = {.max_context = 2 * MOST, .vocab_size = 1000};
static const struct tl_sim_fault faults[] = {{.device = 0, .step = 40, .kind = TL_SIM_ERROR, .recover = 1},
                                             {.device = 1, .step = 90, .kind = TL_SIM_HANG, .recover = 1},
                                             {.device = 0, .step = 150, .kind = TL_SIM_HANG, .recover = 2},
                                             {.device = 1, .step = 200, .kind = TL_SIM_OOM, .n_steps = 1, .recover = 1}};
/* of groups of three: ranks 0, 1, 2 of replica 0, then of replica 1 */
static const struct tl_sim_fault rank_faults[] = {{.device = 1, .step = 40, .kind = TL_SIM_DIE, .recover = 1},
                                                  {.device = 5, .step = 60, .kind = TL_SIM_HANG, .recover = 1},
                                                  {.device = 0, .step = 80, .kind = TL_SIM_DIE, .recover = 2},
                                                  {.device = 3, .step = 90, .kind = TL_SIM_HANG, .recover = 2},
                                                  {.device = 2, .step = 120, .kind = TL_SIM_ERROR, .recover = 1},
                                                  {.device = 4, .step = 150, .kind = TL_SIM_DIE, .recover = 3},
                                                  {.device = 1, .step = 200, .kind = TL_SIM_OOM, .n_steps = 1, .recover = 1}};
static struct tl_sim_options sims[REPLICAS * RANKS];
static const struct tl_model *draft_model;
static struct tl_engine *engine;
static struct tl_grammar *grammar; /* of every third sequence; it never has to end */

struct loop {
  struct tl_waker waker;
  unsigned index, n_live, n_started, n_done, n_moved;
  uint64_t random;
  pthread_t thread;
};
static struct loop loops[LOOPS];
static _Atomic unsigned n_loops_running;

static void wake(unsigned loop, void *context) {
  (void)context;
  tl_waker_notify(&loops[loop].waker);
}

static void submit(struct loop *l, struct tl_sequence *seq) {
  seq->finish = TL_FINISH_NONE;
  seq->replica = (unsigned)unit_below(&l->random, REPLICAS);
  tl_engine_submit(engine, seq->replica, seq);
}

static void start_one(struct loop *l) {
  struct tl_sequence *seq = calloc(1, sizeof *seq);
  seq->n_prompt = 1 + (uint32_t)unit_below(&l->random, MOST - 1);
  seq->max_new = 1 + (uint32_t)unit_below(&l->random, MOST - 1);
  seq->tokens = calloc(seq->n_prompt + seq->max_new, sizeof *seq->tokens);
  uint32_t n_alike = (uint32_t)unit_below(&l->random, 2 * MOST); /* with others, whose blocks it uses */
  for (uint32_t i = 0; i < seq->n_prompt; i++) seq->tokens[i] = i < n_alike ? (int32_t)i : (int32_t)unit_below(&l->random, model.vocab_size);
  seq->sampling = (struct tl_sampling){.temperature = (float)unit_below(&l->random, 2), .top_p = 1, .repetition_penalty = 1,
                                       .seed = unit_random(&l->random), .target = -1, .n_top = -1};
  seq->ignore_eos = true;
  seq->draft_index = calloc(tl_draft_index_words(seq->n_prompt + seq->max_new), sizeof *seq->draft_index);
  seq->loop = l->index;
  l->n_live++;
  if (l->n_started++ % 3 == 0) grammar_want(seq, grammar);
  submit(l, seq);
}

static int32_t say(const struct tl_sequence *seq, uint32_t n, const uint32_t *mask) {
  struct tl_sampling s = seq->sampling;
  uint64_t history = TL_SIM_START;
  for (uint32_t p = 0; p < n; p++) history = tl_sim_history(history, p, seq->tokens[p]);
  s.position = n;
  s.mask = mask;
  return tl_sim_token(&sims[0], &model, history, &s);
}

static void check(const struct tl_sequence *seq) {
  if (seq->matcher) {
    grammar_check(seq, grammar, model.vocab_size, say);
    return;
  }
  int32_t expected[2 * MOST];
  uint32_t n = seq->n_prompt + seq->max_new;
  memcpy(expected, seq->tokens, seq->n_prompt * sizeof *expected);
  tl_sim_expect(&sims[0], &model, expected, seq->n_prompt, seq->max_new, &seq->sampling);
  if (seq->finish != TL_FINISH_LENGTH || memcmp(expected, seq->tokens, n * sizeof *expected) != 0) {
    fprintf(stderr, "wrong tokens: finish %d, %u + %u\n", seq->finish, seq->n_prompt, seq->max_new);
    abort();
  }
}

static void on_event(struct tl_sequence *seq, bool final, void *context) {
  struct loop *l = context;
  if (!final) return;
  if (seq->finish == TL_FINISH_FAULT) {
    l->n_moved++;
    submit(l, seq); /* perhaps to the one that failed: then it comes back at once */
    return;
  }
  check(seq);
  tl_matcher_free(seq->matcher);
  free(seq->tokens);
  free(seq->draft_index);
  free(seq);
  l->n_live--;
  l->n_done++;
}

static void *run_loop(void *argument) {
  struct loop *l = argument;
  while (l->n_done < PER_LOOP) {
    while (l->n_live < LIVE && l->n_started < PER_LOOP) start_one(l);
    tl_waker_prepare(&l->waker);
    unsigned before = l->n_done + l->n_moved;
    tl_engine_drain(engine, l->index, on_event, l);
    if (l->n_done + l->n_moved != before)
      tl_waker_cancel(&l->waker);
    else
      tl_waker_sleep(&l->waker, TL_MS(100));
    if (unit_below(&l->random, 4) == 0) sched_yield();
  }
  atomic_fetch_sub_explicit(&n_loops_running, 1, memory_order_relaxed);
  return NULL;
}

/* As the monitor does it, without its patience. */
static void recover(unsigned i, uint64_t *random) {
  for (unsigned k = 0; !tl_engine_parked(engine, i); k++) { /* its worker may be anywhere */
    if (k % 8 == 0) tl_engine_interrupt(engine, i, NULL);
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
  }
  struct tl_error err;
  while (tl_engine_reset(engine, i, &err) < 0) nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL); /* not yet, or not this time */
  assert_true(tl_engine_try(engine, i));
  if (unit_below(random, 2)) nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
  if (unit_below(random, 8) == 0) tl_engine_quarantine(engine, i); /* it failed again while it was tried */
  tl_engine_admit(engine, i);
}

static unsigned cause_chaos(unsigned most) {
  uint64_t random = 99;
  unsigned n = 0;
  /* relaxed: ends soon after the loops */
  while (atomic_load_explicit(&n_loops_running, memory_order_relaxed)) {
    nanosleep(&(struct timespec){.tv_nsec = (long)unit_below(&random, 300000)}, NULL);
    unsigned i = (unsigned)unit_below(&random, REPLICAS);
    if (n < most && unit_below(&random, 2)) tl_engine_quarantine(engine, i);
    for (unsigned k = 0; k < REPLICAS; k++) {
      int64_t began_ns = atomic_load_explicit(&tl_engine_board(engine, k)->step_began_ns, memory_order_relaxed);
      if (began_ns && tl_now_ns() - began_ns > TL_MS(50)) tl_engine_quarantine(engine, k); /* it hangs */
      if (!tl_engine_failed(engine, k)) continue;
      recover(k, &random);
      n++;
    }
  }
  return n;
}

static double counted(struct tl_metrics *metrics, const char *series) {
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_metrics_expose(metrics, &out);
  const char *at = strstr(tl_buffer_string(&out), series);
  double value = at ? atof(at + strlen(series)) : 0;
  tl_buffer_done(&out);
  return value;
}

/* draft_tokens: not 0: texts of few tokens, which are guessed, now and then rightly; with draft_model by a second device of each replica, which has
 * faults of its own by the same script. */
static void run_chaos(bool isolate, unsigned ranks, const struct tl_sim_fault *script, unsigned n_faults, uint32_t draft_tokens) {
  static const int32_t few[] = {1, 2, 3};
  static const char *const devices[] = {"sim:0", "sim:1", "sim:2", "sim:3", "sim:4", "sim:5"};
  for (unsigned i = 0; i < REPLICAS * ranks; i++)
    sims[i] = (struct tl_sim_options){.base_ns = 20000, .per_token_ns = 100, .n_kv_blocks = 40, .faults = script, .n_faults = n_faults,
                                      .tokens = draft_tokens ? few : NULL, .n_tokens = draft_tokens ? UNIT_COUNT(few) : 0};
  struct tl_engine_options o = {.model = &model, .devices = devices, .n_replicas = REPLICAS, .n_loops = LOOPS, .sim = sims,
                                .tensor_parallel = ranks, .draft_tokens = draft_tokens, .draft_model = draft_model, .prefix_cache = true,
                                .max_batch_size = 8, .max_batch_tokens = 64, .max_queue = LOOPS * LIVE, .wake = wake, .isolation = isolate ? TL_ISOLATION_PROCESS : TL_ISOLATION_THREAD};
  struct tl_error err = {0};
  struct tl_metrics *metrics = tl_metrics_new();
  assert_int_equal(tl_engine_new(&o, metrics, &engine, &err), TL_OK);
  assert_int_equal(tl_engine_start(engine, &err), TL_OK);
  assert_true(tl_engine_can_reset(engine, 0));
  assert_false(tl_engine_try(engine, 0)); /* nothing failed */
  assert_false(tl_engine_admit(engine, 0));
  alarm(250);
  atomic_store_explicit(&n_loops_running, LOOPS, memory_order_relaxed);
  for (unsigned i = 0; i < LOOPS; i++) {
    loops[i] = (struct loop){.index = i, .random = 7 + i};
    tl_waker_init(&loops[i].waker);
    pthread_create(&loops[i].thread, NULL, run_loop, &loops[i]);
  }
  unsigned n_cycles = cause_chaos(isolate ? CYCLES / 5 : CYCLES), n_moved = 0;
  for (unsigned i = 0; i < LOOPS; i++) {
    pthread_join(loops[i].thread, NULL);
    n_moved += loops[i].n_moved;
  }
  alarm(0);
  print_message("%u quarantines, %u sequences moved\n", n_cycles, n_moved);
  assert_true(n_cycles > (isolate ? 5 : 20) && n_moved > 20);
  /* in a process a hop takes longer than such a step, so that guesses may not pay */
  if (draft_model && !isolate) assert_true(counted(metrics, "tokenlane_draft_model_tokens_taken_total{replica=\"0\"} ") > 20);
  tl_engine_stop(engine);
  for (unsigned i = 0; i < REPLICAS; i++) {
    struct tl_board *b = tl_engine_board(engine, i);
    assert_int_equal(atomic_load_explicit(&b->free_blocks, memory_order_relaxed), tl_engine_blocks(engine, i));
    assert_int_equal(atomic_load_explicit(&b->running, memory_order_relaxed), 0);
    assert_int_equal(atomic_load_explicit(&b->waiting, memory_order_relaxed), 0);
  }
  tl_engine_free(engine);
  tl_metrics_free(metrics);
}

static void test_chaos(void **state) {
  (void)state;
  run_chaos(false, 1, faults, UNIT_COUNT(faults), 0);
}

static void test_chaos_of_drafts(void **state) {
  (void)state;
  run_chaos(false, 1, faults, UNIT_COUNT(faults), 6);
}

/* The draft model says what the model says: it is right but where a reset has taken what it had, of which the worker does not know yet. */
static void test_chaos_of_draft_models(void **state) {
  (void)state;
  draft_model = &model;
  run_chaos(false, 1, faults, UNIT_COUNT(faults), 6);
  run_chaos(true, 1, faults, UNIT_COUNT(faults), 6);
  draft_model = NULL;
}

/* Each reset is a new process (this program, see main). */
static void test_chaos_of_processes(void **state) {
  (void)state;
  run_chaos(true, 1, faults, UNIT_COUNT(faults), 0);
}

/* All ranks of a group in one process. */
static void test_chaos_of_hosted_groups(void **state) {
  (void)state;
  run_chaos(true, RANKS, rank_faults, UNIT_COUNT(rank_faults), 0);
}

static void test_chaos_of_groups(void **state) {
  (void)state;
  run_chaos(false, RANKS, rank_faults, UNIT_COUNT(rank_faults), 0);
}

static void on_last(struct tl_sequence *seq, bool final, void *context) {
  assert_true(final && seq->finish == TL_FINISH_CANCELLED && seq->loop == 0);
  *(unsigned *)context += 1;
}

/* What comes when the worker has ended is not lost; what is the monitor's, whose loop is another, is not taken for a call, whether its
 * worker cancelled it or never saw it. */
static void test_reap(void **state) {
  (void)state;
  static const char *const devices[] = {"sim:0"};
  struct tl_engine_options o = {.model = &model, .devices = devices, .n_replicas = 1, .n_loops = 2, .max_batch_size = 8,
                                .max_batch_tokens = 64, .max_queue = 4, .wake = wake};
  struct tl_error err = {0};
  struct tl_metrics *metrics = tl_metrics_new();
  assert_int_equal(tl_engine_new(&o, metrics, &engine, &err), TL_OK);
  int32_t tokens[3][8] = {{1, 2, 3}, {1, 2, 3}, {1, 2, 3}};
  struct tl_sequence seq = {.n_prompt = 3, .max_new = 5, .tokens = tokens[0]};
  struct tl_sequence probes[2] = {{.n_prompt = 3, .max_new = 5, .loop = 1, .tokens = tokens[1]},
                                  {.n_prompt = 3, .max_new = 5, .loop = 1, .tokens = tokens[2]}};
  unsigned n = 0;
  assert_int_equal(tl_engine_start(engine, &err), TL_OK);
  tl_engine_submit(engine, 0, &probes[0]);
  tl_engine_stop(engine);
  tl_engine_submit(engine, 0, &probes[1]);
  tl_engine_submit(engine, 0, &seq);
  tl_engine_reap(engine, 1, on_last, &n);
  assert_int_equal(n, 1);
  tl_engine_free(engine);
  tl_metrics_free(metrics);
}

/* Devices that cannot share a model are refused before anything is loaded. */
static void test_refused_groups(void **state) {
  (void)state;
  static const char *const devices[] = {"sim:0", "cpu:0"};
  struct tl_engine_options o = {.model = &model, .devices = devices, .n_replicas = 1, .tensor_parallel = 2, .n_loops = 1,
                                .max_batch_size = 8, .max_batch_tokens = 64, .max_queue = 4, .wake = wake};
  const struct tl_device_ops *ops = tl_device_find("sim:0", &(unsigned){0}, NULL);
  struct tl_device_ops lonely = *ops;
  struct tl_error err = {0};
  struct tl_metrics *metrics = tl_metrics_new();
  assert_int_equal(tl_engine_new(&o, metrics, &engine, &err), TL_EINVAL);
  assert_string_equal(err.message, "devices: 'sim:0' and 'cpu:0' cannot share a model");
  lonely.group = NULL;
  assert_int_equal(engine_new_with_ops(&o, &lonely, metrics, &engine, &err), TL_EUNSUPPORTED);
  assert_string_equal(err.field, "engine.tensor_parallel");
  assert_int_equal(engine_new_with_ops(&o, ops, metrics, &engine, &err), TL_OK);
  assert_int_equal(tl_engine_simulated(engine), 2);
  tl_engine_free(engine); /* never started */
  tl_metrics_free(metrics);
}

/* Ranks whose reset takes a while: those that are through are not reset again. */
static unsigned n_resets[RANKS];

static int slow_reset(struct tl_device *device, struct tl_error *err) {
  unsigned index = ((struct sim_device *)(void *)device)->index;
  if (++n_resets[index] <= index) return tl_error_set(err, TL_EBUSY, NULL, "not yet");
  return tl_device_find("sim", &(unsigned){0}, err)->reset(device, err);
}

static void test_slow_resets(void **state) {
  (void)state;
  struct tl_engine_options o = {.model = &model, .n_replicas = 1, .tensor_parallel = RANKS, .n_loops = 1,
                                .max_batch_size = 8, .max_batch_tokens = 64, .max_queue = 4, .wake = wake};
  struct tl_device_ops slow = *tl_device_find("sim", &(unsigned){0}, NULL);
  struct tl_error err = {0};
  struct tl_metrics *metrics = tl_metrics_new();
  slow.reset = slow_reset;
  assert_int_equal(engine_new_with_ops(&o, &slow, metrics, &engine, &err), TL_OK);
  assert_int_equal(tl_engine_start(engine, &err), TL_OK);
  tl_engine_quarantine(engine, 0);
  while (!tl_engine_parked(engine, 0)) sched_yield();
  for (unsigned cycle = 0; cycle < 2; cycle++) {
    memset(n_resets, 0, sizeof n_resets);
    for (unsigned i = 1; i < RANKS; i++) assert_int_equal(tl_engine_reset(engine, 0, &err), TL_EBUSY);
    assert_int_equal(tl_engine_reset(engine, 0, &err), TL_OK);
    for (unsigned i = 0; i < RANKS; i++) assert_int_equal(n_resets[i], i + 1);
  }
  assert_true(tl_engine_try(engine, 0) && tl_engine_admit(engine, 0));
  tl_engine_stop(engine);
  tl_engine_free(engine);
  tl_metrics_free(metrics);
}

/* How many steps each rank has at once, and the most that it had. */
static unsigned n_had[RANKS], most_had[RANKS];

static int counted_submit(struct tl_device *device, const struct tl_step *step, struct tl_error *err) {
  unsigned i = ((struct sim_device *)(void *)device)->index; /* each has a thread of its own */
  if (++n_had[i] > most_had[i]) most_had[i] = n_had[i];
  return sim_device_ops.submit(device, step, err);
}

static int counted_collect(struct tl_device *device, struct tl_sampled *ret_sampled, struct tl_error *err) {
  n_had[((struct sim_device *)(void *)device)->index]--;
  return sim_device_ops.collect(device, ret_sampled, err);
}

static void on_end(struct tl_sequence *seq, bool final, void *context) {
  (void)seq;
  *(bool *)context |= final;
}

/* All ranks have the second step while the first runs, where the backend's groups can; the tokens are the same. */
static void test_groups_run_ahead(void **state) {
  (void)state;
  for (unsigned ahead = 0; ahead < 2; ahead++) {
    sims[0] = sims[1] = sims[2] = (struct tl_sim_options){.base_ns = 300000, .n_kv_blocks = 40};
    struct tl_device_group_ops group_ops = *sim_device_ops.group;
    struct tl_device_ops counted = sim_device_ops;
    struct tl_engine_options o = {.model = &model, .n_replicas = 1, .tensor_parallel = RANKS, .n_loops = 1, .sim = sims,
                                  .max_batch_size = 8, .max_batch_tokens = 64, .max_queue = 4, .wake = wake};
    struct tl_error err = {0};
    struct tl_metrics *metrics = tl_metrics_new();
    group_ops.runs_ahead = ahead;
    counted.group = &group_ops;
    counted.submit = counted_submit;
    counted.collect = counted_collect;
    memset(n_had, 0, sizeof n_had);
    memset(most_had, 0, sizeof most_had);
    assert_int_equal(engine_new_with_ops(&o, &counted, metrics, &engine, &err), TL_OK);
    assert_int_equal(tl_engine_start(engine, &err), TL_OK);
    int32_t tokens[23] = {1, 2, 3}, expected[23] = {1, 2, 3};
    struct tl_sequence seq = {.n_prompt = 3, .max_new = 20, .tokens = tokens, .sampling = {.target = -1, .n_top = -1}};
    bool ended = false;
    tl_waker_init(&loops[0].waker);
    tl_engine_submit(engine, 0, &seq);
    while (!ended) tl_engine_drain(engine, 0, on_end, &ended);
    tl_engine_stop(engine);
    tl_sim_expect(&sims[0], &model, expected, 3, 20, &seq.sampling);
    assert_memory_equal(tokens, expected, sizeof tokens);
    for (unsigned i = 0; i < RANKS; i++) {
      assert_int_equal(n_had[i], 0);
      assert_int_equal(most_had[i], 1 + ahead);
    }
    tl_engine_free(engine);
    tl_metrics_free(metrics);
  }
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "device") == 0) return tl_device_host();
  struct tl_vocabulary *vocabulary = grammar_vocabulary(model.vocab_size);
  grammar = grammar_of(vocabulary, "([a-m]+[0-9]+)+");
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_chaos), cmocka_unit_test(test_chaos_of_drafts), cmocka_unit_test(test_chaos_of_draft_models), cmocka_unit_test(test_chaos_of_processes),
                                     cmocka_unit_test(test_chaos_of_groups), cmocka_unit_test(test_chaos_of_hosted_groups),
                                     cmocka_unit_test(test_groups_run_ahead),
                                     cmocka_unit_test(test_refused_groups),
                                     cmocka_unit_test(test_slow_resets), cmocka_unit_test(test_reap)};
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  tl_grammar_release(grammar);
  tl_vocabulary_free(vocabulary);
  return failed;
}
