/* SPDX-License-Identifier: MIT */
/* The simulated device: its time, its text, its faults. Times are compared with the
 * formula from below; from above only with the sum of what would be one after the other. */
#include "sim_rig.h"
#include "tokenlane/base/hash.h"

/* --- text ------------------------------------------------------------------------------------ */

/* In chunks and batches, alone or not: the documented tokens, and no EOS among them. */
static void test_tokens(void **state) {
  (void)state;
  static const uint32_t chunks[] = {1, 5, 16, 31};
  for (unsigned c = 0; c < UNIT_COUNT(chunks); c++) {
    struct rig rig = new_rig((struct tl_sim_options){0});
    struct text texts[SEQS], *places[SEQS];
    for (uint32_t i = 0; i < SEQS; i++) {
      texts[i] = new_text(i, 1 + i * 20);
      if (i == 2) texts[i].sampling.temperature = 1, texts[i].sampling.seed = 99;
      places[i] = &texts[i];
    }
    while (texts[SEQS - 1].length < 150) assert_int_equal(run(&rig, places, SEQS, chunks[c]), TL_OK);
    for (uint32_t i = 0; i < SEQS; i++) {
      assert_true(is_as_expected(&rig, &texts[i], 1 + i * 20));
      for (uint32_t k = 1 + i * 20; k < texts[i].length; k++) assert_true(texts[i].tokens[k] != 7 && texts[i].tokens[k] != 8);
    }
    close_rig(&rig);
  }
}

/* The formula as Python computes it from the header's comment: tests/e2e/simulated.py. */
static void test_formula(void **state) {
  (void)state;
  struct tl_sim_options options = {0};
  struct tl_sampling greedy = {.target = -1}, warm = {.target = -1, .temperature = 1, .seed = 5};
  int32_t tokens[8] = {1, 2, 3}, drawn[8] = {1, 2, 3};
  tl_sim_expect(&options, &model, tokens, 3, 5, &greedy);
  tl_sim_expect(&options, &model, drawn, 3, 5, &warm);
  static const int32_t expected[] = {1, 2, 3, 589, 165, 735, 0, 696}, expected_drawn[] = {1, 2, 3, 462, 817, 702, 650, 137};
  assert_memory_equal(tokens, expected, sizeof expected);
  assert_memory_equal(drawn, expected_drawn, sizeof expected_drawn);
}

static void test_choice_of_tokens(void **state) {
  (void)state;
  static const int32_t few[] = {20, 7, 21, 22};
  struct tl_sim_options options = {.tokens = few, .n_tokens = 4};
  struct tl_token_bias bias[] = {{20, -100}, {21, -INFINITY}, {500, 3}};
  struct tl_sampling s = {.target = -1, .bias = bias, .n_bias = 3};
  for (uint64_t h = 0; h < 100; h++) assert_int_equal(tl_sim_token(&options, &model, h, &s), 22);
  bias[2].bias = 100;
  assert_int_equal(tl_sim_token(&options, &model, 1, &s), 500);
  options.eos_every = 8;
  unsigned n_eos = 0;
  s.n_bias = 0;
  for (uint64_t h = 0; h < 8000; h++) n_eos += tl_sim_token(&options, &model, h, &s) == 7;
  assert_in_range(n_eos, 800, 1200);
}

/* The formula of sim.h, by counting. */
static void test_masked_tokens(void **state) {
  (void)state;
  uint64_t seed = 5;
  struct tl_model odd = {.vocab_size = 77, .n_eos = 2, .eos = {7, 8}};
  struct tl_sim_options options = {.eos_every = 0};
  struct tl_token_bias bias[] = {{20, -100}, {76, 100}};
  for (unsigned i = 0; i < 3000; i++) {
    uint32_t mask[3], in_mask[77], n = 0, sparse = unit_below(&seed, 3) ? UINT32_MAX : 0x00100180u;
    for (unsigned k = 0; k < 3; k++) mask[k] = (uint32_t)unit_random(&seed) & sparse;
    for (uint32_t t = 0; t < 77; t++)
      if (mask[t / 32] >> t % 32 & 1) in_mask[n++] = t;
    struct tl_sampling s = {.target = -1, .mask = mask, .bias = bias, .n_bias = i % 3};
    uint64_t h = unit_random(&seed), x = tl_hash_u64(h);
    int32_t want = -1, eos = -1;
    for (uint32_t k = 0; k < n && want < 0; k++) {
      int32_t t = (int32_t)in_mask[(x % n + k) % n];
      if (t != 7 && t != 8 && (t != 20 || i % 3 == 0)) want = t;
    }
    for (uint32_t k = n; k-- > 0;)
      if (in_mask[k] == 7 || in_mask[k] == 8) eos = (int32_t)in_mask[k];
    if (i % 3 == 2 && n && in_mask[n - 1] == 76) want = 76;
    assert_int_equal(tl_sim_token(&options, &odd, h, &s), want >= 0 ? want : eos);
  }
  /* EOS now and then, if it is allowed */
  uint32_t none[3] = {0}, with_eos[3] = {1 << 7, 1, 0}, without[3] = {0, 1, 0};
  struct tl_sampling s = {.target = -1, .mask = none};
  options.eos_every = 8;
  unsigned n_eos = 0;
  for (uint64_t h = 0; h < 8000; h++) {
    s.mask = none;
    assert_int_equal(tl_sim_token(&options, &odd, h, &s), -1);
    s.mask = without;
    assert_int_equal(tl_sim_token(&options, &odd, h, &s), 32);
    s.mask = with_eos;
    n_eos += tl_sim_token(&options, &odd, h, &s) == 7;
  }
  assert_in_range(n_eos, 800, 1200);
}

/* What a scheduler could get wrong changes the text. */
static void test_wrong_blocks_change_the_text(void **state) {
  (void)state;
  enum { FINE, LATE_BLOCK, FIRST_BLOCK, SWAPPED, LOST_TOKEN, POSITION, SLOT, STALE, CONTEXT_LENGTH, N_WRONGS };
  for (unsigned wrong = FINE; wrong < N_WRONGS; wrong++) {
    struct rig rig = new_rig((struct tl_sim_options){0});
    struct text t = new_text(0, 60), other = new_text(1, 60);
    assert_int_equal(run_one(&rig, &other), TL_OK);
    assert_int_equal(run_one(&rig, &t), TL_OK);
    uint32_t swap = t.table[0];
    if (wrong == LATE_BLOCK) t.table[3] = other.table[3];
    if (wrong == FIRST_BLOCK) t.table[0] = other.table[0];
    if (wrong == SWAPPED) t.table[0] = t.table[1], t.table[1] = swap;
    if (wrong == LOST_TOKEN) t.tokens[59] = t.tokens[60], t.length--, t.n_cached--;
    if (wrong == STALE) { /* its third block went to somebody else */
      other.table[3] = t.table[2];
      for (uint32_t i = 0; i < 4; i++) assert_int_equal(run_one(&rig, &other), TL_OK);
      other.n_cached = 48;
      assert_int_equal(run_one(&rig, &other), TL_OK);
    }
    struct text *texts[] = {&t};
    struct tl_sampled sampled;
    struct tl_step step = make_step(texts, 1, STEP_TOKENS);
    if (wrong == POSITION) work.positions[0]--;
    if (wrong == SLOT) work.slots[0]--;
    if (wrong == CONTEXT_LENGTH) work.context_len[0]++;
    assert_int_equal(run_step(&rig, &step, &sampled), TL_OK);
    int32_t said = sampled.token;
    t = new_text(0, 60);
    t.length = 62;
    tl_sim_expect(&rig.options, &model, t.tokens, 60, 2, &t.sampling);
    if ((said == t.tokens[61]) != (wrong == FINE)) fail_msg("case %u: %d, right is %d", wrong, said, t.tokens[61]);
    close_rig(&rig);
  }
}

/* Two texts may share the blocks of what they have in common. */
static void test_shared_prefix(void **state) {
  (void)state;
  struct rig rig = new_rig((struct tl_sim_options){0});
  struct text a = new_text(0, 40), b = new_text(1, 40);
  memcpy(b.tokens, a.tokens, sizeof b.tokens);
  b.tokens[35] = 1;
  assert_int_equal(run_one(&rig, &a), TL_OK);
  b.table[0] = a.table[0];
  b.table[1] = a.table[1];
  b.n_cached = 32;
  struct text *both[] = {&a, &b};
  for (unsigned i = 0; i < 30; i++) assert_int_equal(run(&rig, both, 2, STEP_TOKENS), TL_OK);
  assert_true(is_as_expected(&rig, &a, 40) && is_as_expected(&rig, &b, 40));
  /* but not what they have not */
  struct text c = new_text(2, 40);
  memcpy(c.tokens, b.tokens, 40 * sizeof *c.tokens);
  c.tokens[20] = 1;
  memcpy(c.table, b.table, 2 * sizeof *c.table);
  c.n_cached = 32;
  for (unsigned i = 0; i < 8; i++) assert_int_equal(run_one(&rig, &c), TL_OK);
  assert_false(is_as_expected(&rig, &c, 40));
  close_rig(&rig);
}

static void test_what_is_not_there(void **state) {
  (void)state;
  struct rig rig = new_rig((struct tl_sim_options){0});
  struct text t = new_text(0, 20);
  t.table[1] = rig.loaded.n_blocks;
  assert_int_equal(run_one(&rig, &t), TL_EDEVICE);
  assert_string_equal(rig.err.message, "sim:1: sequence 0 of the step names KV slots that are not there");
  t = new_text(0, 20);
  assert_int_equal(run_one(&rig, &t), TL_EDEVICE); /* sticky */
  assert_int_equal(reset(&rig), TL_OK);
  t.n_cached = 0;
  assert_int_equal(run_one(&rig, &t), TL_OK);
  assert_true(is_as_expected(&rig, &t, 20));
  close_rig(&rig);
}

/* A state that is behind another prefix changes the text as a wrong block does; one that is not there is an error. */
static void test_states(void **state) {
  (void)state;
  static const struct {
    uint32_t from[3], to[3];
    bool fine;
  } ways[] = {
      {{TL_NO_STATE, 2, 2}, {2, 2, 2}, true}, {{TL_NO_STATE, 0, 1}, {0, 1, 0}, true}, {{TL_NO_STATE, 1, 1}, {1, 1, 0}, true},
      {{TL_NO_STATE, 0, 0}, {0, 1, 1}, false}, /* a step behind */
      {{TL_NO_STATE, 0, 0}, {1, 0, 0}, false}, /* nobody's */
  };
  for (unsigned i = 0; i < UNIT_COUNT(ways); i++) {
    struct rig rig = {.n_states = 3};
    struct text t = new_text(0, 40), *texts[] = {&t};
    assert_int_equal(open_rig(&rig, 1), TL_OK);
    assert_int_equal(rig.loaded.n_states, 3);
    for (unsigned k = 0; k < 3; k++) {
      struct tl_sampled sampled[SEQS];
      struct tl_step step = make_step(texts, 1, 20);
      work.state_from[0] = ways[i].from[k];
      work.state_to[0] = ways[i].to[k];
      step.state_from = work.state_from;
      step.state_to = work.state_to;
      assert_int_equal(run_step(&rig, &step, sampled), TL_OK);
      if (t.n_cached == t.length) t.tokens[t.length++] = sampled[0].token;
    }
    assert_int_equal(is_as_expected(&rig, &t, 40), ways[i].fine);
    close_rig(&rig);
  }
  static const uint32_t absent[][2] = {{0, 0}, {TL_NO_STATE, 3}, {TL_NO_STATE, TL_NO_STATE}};
  for (unsigned i = 0; i < UNIT_COUNT(absent); i++) {
    struct rig rig = {.n_states = 3};
    struct text t = new_text(0, 40), *texts[] = {&t};
    assert_int_equal(open_rig(&rig, 1), TL_OK);
    struct tl_step step = make_step(texts, 1, 20);
    work.state_from[0] = absent[i][0];
    work.state_to[0] = absent[i][1];
    step.state_from = work.state_from;
    step.state_to = work.state_to;
    assert_int_equal(run_step(&rig, &step, NULL), TL_EDEVICE);
    assert_string_equal(rig.err.message, "sim:1: sequence 0 of the step names states that are not there");
    close_rig(&rig);
  }
}

static void test_logprobs(void **state) {
  (void)state;
  struct rig rig = new_rig((struct tl_sim_options){0});
  for (int32_t n_top = -1; n_top <= TL_MAX_TOP_LOGPROBS; n_top++) {
    struct text t = new_text(0, 20), *texts[] = {&t};
    t.sampling.n_top = n_top;
    struct tl_sampled s;
    struct tl_step step = make_step(texts, 1, STEP_TOKENS);
    assert_int_equal(run_step(&rig, &step, &s), TL_OK);
    assert_int_equal(s.n_top, n_top > 0 ? n_top : 0);
    if (n_top >= 0) assert_true(fabsf(expf(s.logprob) - 0.5f) < 1e-6f);
    for (int32_t i = 0; i < s.n_top; i++) {
      assert_true(fabsf(expf(s.top_logprobs[i]) - powf(0.5f, (float)(i + 1))) < 1e-6f);
      for (int32_t k = 0; k < i; k++) assert_int_not_equal(s.top_tokens[i], s.top_tokens[k]);
    }
    if (s.n_top < 2) continue;
    assert_int_equal(s.top_tokens[0], s.token);
    int32_t second = s.top_tokens[1];
    work.sampling[0].target = second; /* scored, not drawn */
    assert_int_equal(run_step(&rig, &step, &s), TL_OK);
    assert_int_equal(s.token, second);
    assert_true(s.logprob == s.top_logprobs[1] && s.top_tokens[1] == second);
  }
  close_rig(&rig);
}

static void test_load(void **state) {
  (void)state;
  struct rig rig = new_rig((struct tl_sim_options){0});
  assert_int_equal(rig.loaded.n_blocks, SEQS * TABLE);
  assert_int_equal(rig.loaded.weight_bytes, 0);
  close_rig(&rig);
  rig = new_rig((struct tl_sim_options){.n_kv_blocks = TABLE});
  assert_int_equal(rig.loaded.n_blocks, TABLE);
  close_rig(&rig);
  rig.options.n_kv_blocks = TABLE - 1;
  assert_int_equal(open_rig(&rig, 0), TL_ENOMEM);
  assert_string_equal(rig.err.field, "sim.kv_blocks");
  assert_non_null(strstr(rig.err.message, "expected at least 16 for a context of 256 tokens, got 15"));
  close_rig(&rig);
}

/* --- time ---------------------------------------------------------------------------------------- */

static void test_step_time(void **state) {
  (void)state;
  struct tl_sim_options options = {.base_ns = TL_MS(4), .per_token_ns = 100000, .per_block_ns = 50000};
  struct rig rig = new_rig(options);
  struct text t = new_text(0, 50), other = new_text(1, 30), *texts[] = {&t, &other};
  int64_t expected_ns = tl_sim_step_ns(&options, 80, 4 + 2);
  assert_int_equal(expected_ns, TL_MS(4) + 8000000 + 300000);
  int64_t began_ns = tl_now_ns();
  assert_int_equal(run(&rig, texts, 2, STEP_TOKENS), TL_OK);
  assert_true(tl_now_ns() - began_ns >= expected_ns);
  /* the time counts from submit: what is done until collect is not added */
  struct tl_sampled sampled[SEQS];
  struct tl_step step = make_step(texts, 2, STEP_TOKENS);
  struct tl_device *device = (struct tl_device *)(void *)rig.d;
  assert_int_equal(sim_device_ops.submit(device, &step, &rig.err), TL_OK);
  usleep(20000);
  began_ns = tl_now_ns();
  assert_int_equal(sim_device_ops.collect(device, sampled, &rig.err), TL_OK);
  assert_true(tl_now_ns() - began_ns < TL_MS(4));
  close_rig(&rig);
}

#define PARALLEL 8
#define PARALLEL_STEPS 20

static void *run_alone(void *argument) {
  struct rig *rig = argument;
  uint32_t token = 5, position = 0, start[] = {0, 1}, context = 1, table[TABLE] = {3}, row = 0, slot = 48;
  struct tl_sampling sampling = {.target = -1, .n_top = -1};
  struct tl_step step = {.n_tokens = 1, .n_seqs = 1, .n_rows = 1, .table_stride = TABLE, .tokens = (int32_t *)&token,
                         .positions = &position, .slots = &slot, .query_start = start, .context_len = &context, .block_tables = table,
                         .rows = &row, .sampling = &sampling};
  for (unsigned i = 0; i < PARALLEL_STEPS; i++) {
    struct tl_sampled sampled;
    if (run_step(rig, &step, &sampled) < 0) return rig;
  }
  return NULL;
}

/* Steps are sleeps: devices run at the same time on however few processors. */
static void test_devices_in_parallel(void **state) {
  (void)state;
  struct rig rigs[PARALLEL];
  pthread_t threads[PARALLEL];
  struct timespec before, after;
  for (unsigned i = 0; i < PARALLEL; i++) rigs[i] = new_rig((struct tl_sim_options){.base_ns = TL_MS(10)});
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
  int64_t began_ns = tl_now_ns();
  for (unsigned i = 0; i < PARALLEL; i++) assert_int_equal(pthread_create(&threads[i], NULL, run_alone, &rigs[i]), 0);
  for (unsigned i = 0; i < PARALLEL; i++) {
    void *failed;
    pthread_join(threads[i], &failed);
    assert_null(failed);
  }
  int64_t took_ns = tl_now_ns() - began_ns, one_ns = PARALLEL_STEPS * TL_MS(10);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
  int64_t cpu_ns = TL_SEC(after.tv_sec - before.tv_sec) + after.tv_nsec - before.tv_nsec;
  assert_true(took_ns >= one_ns);
  assert_true(took_ns < PARALLEL / 2 * one_ns); /* one after the other: 8 times one_ns */
  assert_true(cpu_ns < PARALLEL * one_ns / 8);
  for (unsigned i = 0; i < PARALLEL; i++) close_rig(&rigs[i]);
}

/* --- faults ---------------------------------------------------------------------------------------- */

static struct rig rig_with(const char *script) {
  static struct tl_sim_fault fault;
  struct tl_error err;
  if (tl_sim_parse_fault(script, &fault, &err) < 0) fail_msg("%s", err.message);
  return new_rig((struct tl_sim_options){.base_ns = 100000, .faults = &fault, .n_faults = 1});
}

static void run_steps(struct rig *rig, struct text *t, unsigned n, int expected) {
  for (unsigned i = 0; i < n; i++)
    if (run_one(rig, t) != expected) fail_msg("step %llu: %s", (unsigned long long)rig->d->n_steps, rig->err.message);
}

static void test_error_is_sticky(void **state) {
  (void)state;
  struct rig rig = rig_with("1@4:error");
  struct text t = new_text(0, 10);
  run_steps(&rig, &t, 3, TL_OK);
  for (unsigned i = 0; i < 3; i++) { /* also who does not look at the result gets nothing right */
    struct text *texts[] = {&t};
    struct tl_sampled s = {.token = -1};
    struct tl_step step = make_step(texts, 1, STEP_TOKENS);
    assert_int_equal(run_step(&rig, &step, &s), TL_EDEVICE);
    t.tokens[t.length++] = s.token;
    assert_false(is_as_expected(&rig, &t, 10));
  }
  assert_string_equal(rig.err.message, "sim:1: simulated fault: step 6 failed");
  assert_int_equal(reset(&rig), TL_OK);
  t.length = 13;
  t.n_cached = 12; /* as if the cache were still there: it is not */
  run_steps(&rig, &t, 1, TL_OK);
  assert_false(is_as_expected(&rig, &t, 10));
  t.length = 13;
  t.n_cached = 0;
  run_steps(&rig, &t, 20, TL_OK);
  assert_true(is_as_expected(&rig, &t, 10));
  close_rig(&rig);
}

static void test_recovery(void **state) {
  (void)state;
  struct rig rig = rig_with("*@2:error:recover=never");
  struct text t = new_text(0, 10);
  run_steps(&rig, &t, 1, TL_OK);
  run_steps(&rig, &t, 1, TL_EDEVICE);
  for (unsigned i = 0; i < 5; i++) {
    assert_int_equal(reset(&rig), TL_EDEVICE);
    run_steps(&rig, &t, 1, TL_EDEVICE);
  }
  close_rig(&rig);
  rig = rig_with("1@1:error:recover=3");
  run_steps(&rig, &t, 1, TL_EDEVICE);
  assert_int_equal(reset(&rig), TL_EDEVICE);
  assert_int_equal(reset(&rig), TL_EDEVICE);
  run_steps(&rig, &t, 1, TL_EDEVICE);
  assert_int_equal(reset(&rig), TL_OK);
  assert_int_equal(reset(&rig), TL_OK);
  t = new_text(0, 10);
  run_steps(&rig, &t, 5, TL_OK);
  assert_true(is_as_expected(&rig, &t, 10));
  close_rig(&rig);
}

static void test_corrupt_says_nothing(void **state) {
  (void)state;
  struct rig rig = rig_with("1@3:corrupt");
  struct text t = new_text(0, 10);
  run_steps(&rig, &t, 2, TL_OK);
  assert_true(is_as_expected(&rig, &t, 10));
  run_steps(&rig, &t, 3, TL_OK);
  assert_false(is_as_expected(&rig, &t, 10));
  close_rig(&rig);
}

/* Its steps go on and are right; only what it says of itself changes. */
static void test_health(void **state) {
  (void)state;
  struct rig rig = rig_with("1@2:hot");
  struct text t = new_text(0, 10);
  struct tl_device *device = (struct tl_device *)(void *)rig.d;
  run_steps(&rig, &t, 1, TL_OK);
  assert_int_equal(sim_device_ops.health(device), TL_DEVICE_WELL);
  run_steps(&rig, &t, 1, TL_OK);
  assert_int_equal(sim_device_ops.health(device), TL_DEVICE_IMPAIRED);
  assert_int_equal(reset(&rig), TL_OK);
  assert_int_equal(sim_device_ops.health(device), TL_DEVICE_WELL);
  close_rig(&rig);
  rig = rig_with("1@3:lost:recover=2");
  t = new_text(0, 10);
  run_steps(&rig, &t, 4, TL_OK);
  assert_true(is_as_expected(&rig, &t, 10));
  device = (struct tl_device *)(void *)rig.d;
  assert_int_equal(reset(&rig), TL_EDEVICE);
  assert_int_equal(sim_device_ops.health(device), TL_DEVICE_FAILED);
  assert_int_equal(reset(&rig), TL_OK);
  assert_int_equal(sim_device_ops.health(device), TL_DEVICE_WELL);
  close_rig(&rig);
}

/* A device that begins where another one ended has its faults behind it. */
static void test_script_goes_on(void **state) {
  (void)state;
  static const struct tl_sim_fault script[] = {{.device = 1, .step = 5, .kind = TL_SIM_ERROR, .recover = 1},
                                               {.device = 1, .step = 0, .kind = TL_SIM_OOM, .recover = 1},
                                               {.device = 1, .step = 8, .kind = TL_SIM_ERROR, .recover = 1}};
  struct rig rig = new_rig((struct tl_sim_options){.faults = script, .n_faults = 3, .first_step = 5});
  struct text t = new_text(0, 10);
  run_steps(&rig, &t, 2, TL_OK);
  run_steps(&rig, &t, 1, TL_EDEVICE);
  close_rig(&rig);
}

static void test_other_devices_have_no_fault(void **state) {
  (void)state;
  struct rig rig = rig_with("2@1:error");
  struct text t = new_text(0, 10);
  run_steps(&rig, &t, 5, TL_OK);
  close_rig(&rig);
}

static void test_out_of_memory(void **state) {
  (void)state;
  struct rig rig = rig_with("1@2:oom:steps=2");
  struct text t = new_text(0, 10);
  run_steps(&rig, &t, 1, TL_OK);
  run_steps(&rig, &t, 2, TL_ENOMEM);
  run_steps(&rig, &t, 5, TL_OK);
  assert_true(is_as_expected(&rig, &t, 10));
  close_rig(&rig);

  struct tl_sim_fault fault;
  assert_int_equal(tl_sim_parse_fault("1@load:oom", &fault, NULL), TL_OK);
  rig = (struct rig){.options = {.faults = &fault, .n_faults = 1}};
  assert_int_equal(open_rig(&rig, 1), TL_ENOMEM);
  assert_string_equal(rig.err.message, "sim:1: simulated fault at load: out of memory");
  close_rig(&rig);
}

static void test_slow(void **state) {
  (void)state;
  struct rig rig = rig_with("1@2:slow*300:steps=2");
  struct text t = new_text(0, 10);
  run_steps(&rig, &t, 1, TL_OK);
  int64_t began_ns = tl_now_ns();
  run_steps(&rig, &t, 2, TL_OK);
  assert_true(tl_now_ns() - began_ns >= 2 * TL_MS(30));
  assert_true(rig.d->slow > 1);
  run_steps(&rig, &t, 1, TL_OK);
  assert_true(rig.d->slow == 1);
  assert_true(is_as_expected(&rig, &t, 10));
  close_rig(&rig);
}

static void test_hang_for_a_while(void **state) {
  (void)state;
  struct rig rig = rig_with("1@2:hang:for=50");
  struct text t = new_text(0, 10);
  run_steps(&rig, &t, 1, TL_OK);
  int64_t began_ns = tl_now_ns();
  run_steps(&rig, &t, 1, TL_OK);
  assert_true(tl_now_ns() - began_ns >= TL_MS(50));
  run_steps(&rig, &t, 3, TL_OK);
  assert_true(is_as_expected(&rig, &t, 10));
  close_rig(&rig);
}

struct hung {
  struct rig *rig;
  struct text *text;
  int result;
  _Atomic bool over;
};

static void *run_hung(void *argument) {
  struct hung *h = argument;
  h->result = run_one(h->rig, h->text);
  atomic_store_explicit(&h->over, true, memory_order_release);
  return NULL;
}

/* Another thread gets the worker out, at whatever moment it comes. */
static void test_reset_ends_a_hang(void **state) {
  (void)state;
  for (unsigned i = 0; i < 20; i++) {
    struct rig rig = rig_with(i % 2 ? "1@2:hang" : "1@2:hang:recover=2");
    struct text t = new_text(0, 10);
    run_steps(&rig, &t, 1, TL_OK);
    struct hung hung = {.rig = &rig, .text = &t};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run_hung, &hung), 0);
    while (atomic_load_explicit(&rig.d->sick, memory_order_acquire) == 0) usleep(100);
    usleep(i < 10 ? 5000 : i * 10);
    assert_false(atomic_load_explicit(&hung.over, memory_order_acquire));
    struct tl_error err; /* the worker has its own */
    struct tl_device *device = (struct tl_device *)(void *)rig.d;
    assert_int_equal(sim_device_ops.reset(device, &err), i % 2 ? TL_OK : TL_EDEVICE);
    pthread_join(thread, NULL);
    assert_int_equal(hung.result, TL_EDEVICE);
    assert_string_equal(rig.err.message, "sim:1 was reset in step 2");
    if (i % 2 == 0) {
      run_steps(&rig, &t, 1, TL_EDEVICE);
      assert_int_equal(reset(&rig), TL_OK);
    }
    t = new_text(0, 10);
    run_steps(&rig, &t, 5, TL_OK);
    assert_true(is_as_expected(&rig, &t, 10));
    close_rig(&rig);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tokens),
      cmocka_unit_test(test_formula),
      cmocka_unit_test(test_choice_of_tokens), cmocka_unit_test(test_masked_tokens),
      cmocka_unit_test(test_wrong_blocks_change_the_text),
      cmocka_unit_test(test_shared_prefix),
      cmocka_unit_test(test_what_is_not_there),
      cmocka_unit_test(test_states), cmocka_unit_test(test_logprobs),
      cmocka_unit_test(test_load),
      cmocka_unit_test(test_step_time),
      cmocka_unit_test(test_devices_in_parallel),
      cmocka_unit_test(test_error_is_sticky),
      cmocka_unit_test(test_recovery),
      cmocka_unit_test(test_corrupt_says_nothing),
      cmocka_unit_test(test_health),
      cmocka_unit_test(test_script_goes_on),
      cmocka_unit_test(test_other_devices_have_no_fault),
      cmocka_unit_test(test_out_of_memory),
      cmocka_unit_test(test_slow),
      cmocka_unit_test(test_hang_for_a_while),
      cmocka_unit_test(test_reset_ends_a_hang),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
