/* SPDX-License-Identifier: MIT */
/* The engine with a pooling model on simulated devices, whose vectors are known beforehand. */
#include <pthread.h>

#include "engine/engine_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/sim.h"
#include "unit.h"

#define N_OUT 8
#define VOCAB 100

static const struct tl_model model = {.max_context = 64, .vocab_size = VOCAB, .pooling = TL_POOL_MEAN, .n_out = N_OUT, .normalize = true};
static struct tl_waker loop_waker;

static void wake(unsigned loop, void *context) {
  (void)loop, (void)context;
  tl_waker_notify(&loop_waker);
}

struct bench {
  struct tl_metrics *metrics;
  struct tl_engine *engine;
  unsigned n_final;
};

static struct tl_engine_options options(const struct tl_sim_options *sim, const char *const *devices, unsigned n) {
  return (struct tl_engine_options){.model = &model,
                                    .devices = devices,
                                    .n_replicas = n,
                                    .n_loops = 1,
                                    .sim = sim,
                                    .max_batch_size = 8,
                                    .max_batch_tokens = 48,
                                    .max_queue = 1000,
                                    .wake = wake};
}

static void start(struct bench *b, const struct tl_engine_options *o) {
  struct tl_error err = {0};
  tl_waker_init(&loop_waker);
  *b = (struct bench){.metrics = tl_metrics_new()};
  if (tl_engine_new(o, b->metrics, &b->engine, &err) < 0) fail_msg("%s", err.message);
  assert_int_equal(tl_engine_start(b->engine, &err), TL_OK);
}

static void finish(struct bench *b) {
  tl_engine_stop(b->engine);
  tl_metrics_free(b->metrics);
  tl_engine_free(b->engine);
}

struct input {
  struct tl_sequence seq;
  int32_t tokens[64];
  uint8_t types[64];
  float vector[N_OUT];
  bool ended;
};

static struct input *make_inputs(unsigned n, uint64_t *random, uint32_t most) {
  struct input *in = aligned_alloc(TL_CACHE_LINE, (n * sizeof *in + TL_CACHE_LINE) / TL_CACHE_LINE * TL_CACHE_LINE);
  memset((void *)in, 0, n * sizeof *in);
  for (unsigned i = 0; i < n; i++) {
    uint32_t length = 1 + unit_below(random, most);
    for (uint32_t k = 0; k < length; k++) in[i].tokens[k] = (int32_t)unit_below(random, VOCAB);
    for (uint32_t k = length / 2; k < length; k++) in[i].types[k] = 1;
    in[i].seq = (struct tl_sequence){.n_prompt = length,
                                     .tokens = in[i].tokens,
                                     .token_types = i % 3 == 0 ? in[i].types : NULL,
                                     .vector = in[i].vector,
                                     .priority = TL_PRIORITY_NORMAL,
                                     .owner = &in[i]};
  }
  return in;
}

static void submit(struct bench *b, struct input *in, unsigned replica) {
  in->ended = false;
  in->seq.replica = replica;
  in->seq.finish = TL_FINISH_NONE;
  in->seq.submitted_ns = tl_now_ns();
  tl_engine_submit(b->engine, replica, &in->seq);
}

static void on_event(struct tl_sequence *seq, bool final, void *context) {
  struct bench *b = context;
  assert_true(final); /* there is nothing to say before */
  ((struct input *)seq->owner)->ended = true;
  b->n_final++;
}

static void wait_final(struct bench *b, unsigned n) {
  int64_t deadline_ns = tl_now_ns() + TL_SEC(30);
  while (b->n_final < n) {
    assert_true(tl_now_ns() < deadline_ns);
    tl_waker_prepare(&loop_waker);
    unsigned before = b->n_final;
    tl_engine_drain(b->engine, 0, on_event, b);
    if (b->n_final != before)
      tl_waker_cancel(&loop_waker);
    else
      tl_waker_sleep(&loop_waker, TL_MS(100));
  }
}

static void assert_right(const struct input *in) {
  int32_t types[64];
  float expected[N_OUT];
  for (uint32_t i = 0; i < in->seq.n_prompt; i++) types[i] = in->seq.token_types ? in->types[i] : 0;
  tl_sim_vector(&model, in->tokens, types, in->seq.n_prompt, expected);
  assert_true(in->ended);
  assert_int_equal(in->seq.finish, TL_FINISH_LENGTH);
  assert_memory_equal(in->vector, expected, sizeof expected);
}

static void test_vectors(void **state) {
  (void)state;
  static const char *const devices[] = {"sim:0", "sim:1"};
  struct tl_sim_options sim[2] = {{.base_ns = 200000}, {.base_ns = 100000}};
  struct tl_engine_options o = options(sim, devices, 2);
  struct bench b;
  start(&b, &o);
  assert_int_equal(tl_engine_max_context(b.engine), 48); /* of the model's 64 a step has room for */
  assert_int_equal(tl_engine_blocks(b.engine, 0), 0);
  uint64_t random = 3;
  enum { N = 400 };
  struct input *in = make_inputs(N, &random, 48);
  for (unsigned i = 0; i < N; i++) submit(&b, &in[i], i % 2);
  wait_final(&b, N);
  for (unsigned i = 0; i < N; i++) assert_right(&in[i]);
  finish(&b);
  free(in);
}

static void test_cancel_expire_and_too_long(void **state) {
  (void)state;
  static const char *const devices[] = {"sim:0"};
  struct tl_sim_options sim = {.base_ns = TL_MS(100)};
  struct tl_engine_options o = options(&sim, devices, 1);
  struct bench b;
  start(&b, &o);
  uint64_t random = 4;
  struct input *in = make_inputs(4, &random, 20);
  submit(&b, &in[0], 0);
  while (atomic_load_explicit(&tl_engine_board(b.engine, 0)->step_began_ns, memory_order_relaxed) == 0) usleep(100); /* it runs */
  in[1].seq.deadline_ns = tl_now_ns() + TL_MS(1);
  in[3].seq.n_prompt = 49;
  for (unsigned i = 1; i < 4; i++) submit(&b, &in[i], 0);
  atomic_store_explicit(&in[2].seq.cancel, 1, memory_order_relaxed);
  wait_final(&b, 4);
  assert_right(&in[0]);
  assert_int_equal(in[1].seq.finish, TL_FINISH_EXPIRED);
  assert_int_equal(in[2].seq.finish, TL_FINISH_CANCELLED);
  assert_int_equal(in[3].seq.finish, TL_FINISH_ERROR);
  finish(&b);
  free(in);
}

/* What a failed step computed is thrown away, comes back and is right elsewhere; all that waited comes back, too. */
static void test_faults(void **state) {
  (void)state;
  static const char *const devices[] = {"sim:0", "sim:1"};
  struct tl_sim_fault fault = {.device = 0, .step = 3, .kind = TL_SIM_ERROR, .recover = 1};
  struct tl_sim_options sim[2] = {{.base_ns = 100000, .faults = &fault, .n_faults = 1}, {.base_ns = 100000}};
  struct tl_engine_options o = options(sim, devices, 2);
  struct bench b;
  start(&b, &o);
  uint64_t random = 5;
  enum { N = 100 };
  struct input *in = make_inputs(N, &random, 40);
  for (unsigned i = 0; i < N; i++) submit(&b, &in[i], 0);
  wait_final(&b, N);
  unsigned n_moved = 0, n_blamed = 0;
  b.n_final = 0;
  for (unsigned i = 0; i < N; i++) {
    if (in[i].seq.finish != TL_FINISH_FAULT) continue;
    n_blamed += in[i].seq.n_faults;
    memset(in[i].vector, 0, sizeof in[i].vector);
    submit(&b, &in[i], 1);
    n_moved++;
  }
  assert_in_range(n_moved, N - 2 * 8, N);
  assert_in_range(n_blamed, 1, 8);
  wait_final(&b, n_moved);
  for (unsigned i = 0; i < N; i++) assert_right(&in[i]);
  assert_true(tl_engine_failed(b.engine, 0) && !tl_engine_failed(b.engine, 1));
  finish(&b);
  free(in);
}

struct producer {
  struct bench *bench;
  struct input *in;
  unsigned n;
};

static void *produce(void *argument) {
  struct producer *p = argument;
  for (unsigned i = 0; i < p->n; i++) submit(p->bench, &p->in[i], i % 2);
  return NULL;
}

/* Many threads submit, one of them reads: for TSan. */
static void test_stress(void **state) {
  (void)state;
  static const char *const devices[] = {"sim:0", "sim:1"};
  struct tl_sim_options sim[2] = {{0}, {0}};
  struct tl_engine_options o = options(sim, devices, 2);
  o.max_queue = 8000;
  struct bench b;
  start(&b, &o);
  uint64_t random = 6;
  enum { N = 6000 / UNIT_SLOWDOWN, THREADS = 4 };
  struct input *in[THREADS];
  struct producer producers[THREADS];
  pthread_t threads[THREADS];
  for (unsigned t = 0; t < THREADS; t++) {
    in[t] = make_inputs(N / THREADS, &random, 30);
    producers[t] = (struct producer){&b, in[t], N / THREADS};
    assert_int_equal(pthread_create(&threads[t], NULL, produce, &producers[t]), 0);
  }
  wait_final(&b, N / THREADS * THREADS);
  for (unsigned t = 0; t < THREADS; t++) {
    pthread_join(threads[t], NULL);
    for (unsigned i = 0; i < N / THREADS; i++) assert_right(&in[t][i]);
    free(in[t]);
  }
  finish(&b);
}

/* Devices that share a model give each vector once, the first of them; what another rank does wrong shows all the same. */
static void test_groups(void **state) {
  (void)state;
  static const char *const devices[] = {"sim:0", "sim:1", "sim:2", "sim:3"};
  struct tl_sim_fault fault = {.device = 3, .step = 4, .kind = TL_SIM_ERROR, .recover = 1};
  struct tl_sim_options sim[4] = {{.base_ns = 100000}, {.base_ns = 50000}, {.base_ns = 100000}, {.base_ns = 50000, .faults = &fault, .n_faults = 1}};
  struct tl_engine_options o = options(sim, devices, 2);
  o.tensor_parallel = 2;
  struct bench b;
  start(&b, &o);
  assert_int_equal(tl_engine_blocks(b.engine, 0), 0);
  uint64_t random = 7;
  enum { N = 200 };
  struct input *in = make_inputs(N, &random, 48);
  for (unsigned i = 0; i < N; i++) submit(&b, &in[i], i % 2);
  wait_final(&b, N);
  assert_true(tl_engine_failed(b.engine, 1) && !tl_engine_failed(b.engine, 0));
  unsigned n_moved = 0;
  b.n_final = 0;
  for (unsigned i = 0; i < N; i++) {
    if (in[i].seq.finish != TL_FINISH_FAULT) continue;
    memset(in[i].vector, 0, sizeof in[i].vector);
    submit(&b, &in[i], 0);
    n_moved++;
  }
  assert_in_range(n_moved, 1, N / 2);
  wait_final(&b, n_moved);
  for (unsigned i = 0; i < N; i++) assert_right(&in[i]);
  finish(&b);
  free(in);
}

static void test_a_corrupt_rank(void **state) {
  (void)state;
  static const char *const devices[] = {"sim:0", "sim:1"};
  struct tl_sim_fault fault = {.device = 1, .step = 2, .kind = TL_SIM_CORRUPT};
  struct tl_sim_options sim[2] = {{.faults = &fault, .n_faults = 1}, {.faults = &fault, .n_faults = 1}};
  struct tl_engine_options o = options(sim, devices, 1);
  float expected[N_OUT];
  o.tensor_parallel = 2;
  struct bench b;
  start(&b, &o);
  uint64_t random = 8;
  struct input *in = make_inputs(2, &random, 20);
  for (unsigned i = 0; i < 2; i++) {
    submit(&b, &in[i], 0);
    wait_final(&b, i + 1);
  }
  assert_right(&in[0]);
  tl_sim_vector(&model, in[1].tokens, NULL, in[1].seq.n_prompt, expected);
  assert_memory_not_equal(in[1].vector, expected, sizeof expected);
  finish(&b);
  free(in);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_vectors), cmocka_unit_test(test_cancel_expire_and_too_long), cmocka_unit_test(test_faults),
      cmocka_unit_test(test_stress),  cmocka_unit_test(test_groups), cmocka_unit_test(test_a_corrupt_rank),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
