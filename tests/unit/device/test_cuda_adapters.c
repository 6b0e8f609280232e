/* SPDX-License-Identifier: MIT */
/* LoRA adapters through the CUDA backend's host part, with kernels on fibers, against peft: alone, among others, in groups; and steps without
 * them as if there were none. With ON_GPU what can be on the plugin and the GPU cuda:0. */
#include <math.h>

#include "e4m3_model.h"
#include "gpu_machine.h"
#include "golden_adapters.h"
#include "twin_runner.h"

static struct machine open_gpu(const struct tl_model *model) {
  struct machine m = begin_gpu(model);
  load_gpu(&m, model, (struct tl_device_load){.max_batch_size = 4}, 4000);
  return m;
}

/* Activations, and adapters, are 16-bit; floats become F16. Adapters that change so much as these add to what rounding does. */
static double tolerance_of(const struct tl_model *model) {
  return model->dtype == TL_DTYPE_BF16 ? 2.5e-1 : 5e-2;
}

/* The tokens that peft made stand in the place of ours: near ties may fall otherwise in 16 bits, and all that follows with them. */
static double run_scored(struct machine *m, const struct adapted *a, uint32_t number, unsigned which, uint32_t n_new) {
  const struct golden_case *c = case_of(a, number, which);
  struct sequence *s = sequence_of(a, number, which);
  double worst = 0;
  for (uint32_t i = 0; i < n_new; i++) {
    run_alone(m, s, i + 1, whole, 1);
    const struct tl_sampled *got = &s->sampled[c->n_prompt + i];
    for (int k = 0; k < N_TOP; k++)
      if (got->top_tokens[k] == c->tokens[i]) worst = fmax(worst, fabs((double)got->top_logprobs[k] - c->logprobs[i]));
    assert_true(got->top_tokens[0] == c->tokens[i] || got->top_tokens[1] == c->tokens[i]);
    s->tokens[c->n_prompt + i] = c->tokens[i];
  }
  free(s);
  return worst;
}

static void test_against_peft(void **state) {
  (void)state;
  for (unsigned b = 0; b < UNIT_COUNT(bases); b++) {
    IF_FAKE(fake_cuda_reset();)
    struct adapted *a = open_adapted(&bases[b]);
    if (a->plain.model->wide.dim) { /* is refused */
      close_adapted(a);
      continue;
    }
    struct machine m = open_gpu(a->plain.model);
    double worst = 0;
    for (uint32_t number = 1; number <= N_ADAPTERS; number++) {
      worst = fmax(worst, run_scored(&m, a, number, 0, 8));
      worst = fmax(worst, run_scored(&m, a, number, 1, 3));
    }
    printf("%s: log-probabilities within %.2g\n", bases[b].name, worst);
    if (!(worst <= tolerance_of(a->plain.model))) fail_msg("%s: off by %g", bases[b].name, worst);
    IF_FAKE(assert_int_equal(fake_cuda.n_replays, N_ADAPTERS * (7 + 2));) /* all but the prompts */
    close_gpu(&m);
    close_adapted(a);
  }
}

/* Prompts in chunks and decodes of all in the same steps. */
static void test_together(void **state) {
  (void)state;
  for (unsigned b = 0; b < UNIT_COUNT(bases); b += 2) {
    IF_FAKE(fake_cuda_reset();)
    struct adapted *a = open_adapted(&bases[b]);
    if (a->plain.model->wide.dim) { /* is refused */
      close_adapted(a);
      continue;
    }
    struct machine m = open_gpu(a->plain.model);
    struct sequence *s[3];
    for (uint32_t i = 0; i < 3; i++) s[i] = sequence_of(a, (i + 1) % 3, i == 0);
    for (unsigned step = 0; step < 12; step++) {
      struct part parts[3];
      for (unsigned i = 0; i < 3; i++) {
        uint32_t left = s[i]->length - s[i]->n_cached, most = 11 + 9 * i;
        parts[i] = (struct part){s[i], left < most ? left : most};
      }
      run_parts(&m, parts, 3);
    }
    for (unsigned i = 0; i < 3; i++) {
      const struct golden_case *c = case_of(a, s[i]->adapter, i == 0);
      for (uint32_t k = 0; k < s[i]->length - c->n_prompt && s[i]->tokens[c->n_prompt + k] == c->tokens[k]; k++) {
        double off = fabs((double)s[i]->sampled[c->n_prompt + k].logprob - c->logprobs[k]);
        if (!(off <= tolerance_of(a->plain.model))) fail_msg("%s, adapter %u, token %u: off by %g", bases[b].name, s[i]->adapter, k, off);
      }
      assert_int_equal(s[i]->tokens[c->n_prompt], c->tokens[0]);
      free(s[i]);
    }
    close_gpu(&m);
    close_adapted(a);
  }
}

/* Decodes of both and of none, each with guesses: what they draw one row at a time, two of which are right. */
static void test_guesses(void **state) {
  (void)state;
  enum { SEQS = 3, NEW = 8, GUESSES = 3 };
  IF_FAKE(fake_cuda_reset();)
  struct adapted *a = open_adapted(&bases[5]);
  struct machine m = begin_gpu(a->plain.model);
  load_gpu(&m, a->plain.model, (struct tl_device_load){.max_batch_size = 16, .draft_tokens = GUESSES, .draft_rows = 16}, 4000);
  IF_FAKE(assert_int_equal(fake_cuda.n_graphs, 2 * (5 + 4));) /* 1, 2, 4, 8, 16, and 2 to 16 with guesses */
  struct sequence *with[SEQS], *without[SEQS];
  for (uint32_t i = 0; i < SEQS; i++) {
    without[i] = sequence_of(a, i, 0);
    run_alone(&m, without[i], NEW, whole, 1);
    with[i] = sequence_of(a, i, 0);
    run_alone(&m, with[i], 1, whole, 1);
  }
  IF_FAKE(unsigned n_replays = fake_cuda.n_replays;)
  for (unsigned step = 0; step < 2; step++) {
    struct part parts[SEQS];
    for (unsigned i = 0; i < SEQS; i++) {
      memcpy(with[i]->tokens + with[i]->length, without[i]->tokens + with[i]->length, GUESSES * sizeof(int32_t));
      with[i]->tokens[with[i]->length + 2] ^= 1;
      with[i]->n_drafts = GUESSES;
      parts[i] = (struct part){with[i], 1 + GUESSES};
    }
    run_parts(&m, parts, SEQS);
  }
  IF_FAKE(assert_int_equal(fake_cuda.n_replays - n_replays, 2);)
  for (unsigned i = 0; i < SEQS; i++) {
    assert_int_equal(with[i]->length, with[i]->n_prompt + 7);
    for (uint32_t k = with[i]->n_prompt; k < with[i]->length; k++) {
      assert_int_equal(with[i]->tokens[k], without[i]->tokens[k]);
      assert_true(fabsf(with[i]->sampled[k].logprob - without[i]->sampled[k].logprob) < 2e-2f);
    }
    free(with[i]);
    free(without[i]);
  }
  close_gpu(&m);
  close_adapted(a);
}

/* To the bit, by the same graphs. */
static void test_base_untouched(void **state) {
  (void)state;
  struct adapted *a = open_adapted(&bases[0]);
  struct golden *bare = malloc(sizeof *bare);
  open_golden(bases[0].place, bare);
  struct sequence *s[2];
  for (unsigned with = 0; with < 2; with++) {
    IF_FAKE(fake_cuda_reset();)
    struct machine m = open_gpu(with ? a->plain.model : bare->model);
    s[with] = sequence_of(a, 0, 1);
    run_alone(&m, s[with], 6, whole, 1);
    IF_FAKE(assert_int_equal(fake_cuda.n_graphs, with ? 6 : 3);) /* of 1, 2 and 4 rows */
    IF_FAKE(assert_int_equal(fake_cuda.n_replays, 5);)
    close_gpu(&m);
  }
  assert_same_draws(s[0], s[1], "with adapters and without");
  free(s[0]);
  free(s[1]);
  close_golden(bare);
  free(bare);
  close_adapted(a);
}

/* What a base in E4M3, whose rows are rounded too, makes of a prompt; the adapter reads them as they are. */
static void test_e4m3_base(void **state) {
  (void)state;
  IF_FAKE(fake_cuda_reset();)
  struct e4m3_model *e = new_e4m3_model("llama/f16_sharded", false);
  add_adapters(e->model, &bases[5]);
  add_adapters(e->twin, &bases[5]);
  struct machine m = open_gpu(e->model);
  double worst = 0;
  for (uint32_t number = 1; number <= N_ADAPTERS; number++) {
    struct sequence *s = new_random_prompt(m.vocab, 40, number);
    s->adapter = number;
    run_alone(&m, s, 6, whole, 1);
    worst = fmax(worst, twin_error(e->twin, s));
    free(s);
  }
  printf("E4M3: log-probabilities within %.2g\n", worst);
  assert_true(worst <= 0.6); /* as without adapters: test_cuda_model.c */
  IF_FAKE(assert_true(fake_cuda.n_e4m3 > 0);)
  close_gpu(&m);
  free_e4m3_model(e);
}

/* Blocks of integers that stay as they are, few rows and many. */
static void test_stored_base(void **state) {
  (void)state;
  IF_FAKE(fake_cuda_reset();)
  struct adapted *a = open_adapted(&bases[5]);
  struct golden *plain = malloc(sizeof *plain);
  struct tl_error err = {0};
  open_golden(bases[5].place, plain);
  if (tl_model_quantize(plain->model, "q8_0", &err) < 0) fail_msg("%s", err.message);
  add_adapters(plain->model, &bases[5]);
  struct machine m = open_gpu(plain->model);
  for (uint32_t number = 1; number <= N_ADAPTERS; number++)
    for (unsigned which = 0; which < 2; which++) {
      double off = run_scored(&m, a, number, which, 2);
      if (!(off <= 0.15)) fail_msg("adapter %u, case %u: off by %g", number, which, off);
    }
  close_gpu(&m);
  close_golden(plain);
  free(plain);
  close_adapted(a);
}

#ifndef ON_GPU
#include "cuda_group_rig.h"

/* Rows of B, columns of A, and sums over ranks. */
static void test_groups(void **state) {
  (void)state;
  static const unsigned which[] = {1, 3, 5, 6, 7, 8, 10, 11, 12}, sizes[] = {2, 4, 2, 2, 4, 2, 2, 4, 2};
  for (unsigned i = 0; i < UNIT_COUNT(which); i++) {
    fake_cuda_reset();
    struct adapted *a = open_adapted(&bases[which[i]]);
    struct machine m = open_machine_of(a->plain.model, sizes[i]);
    for (uint32_t number = 1; number <= N_ADAPTERS; number++) {
      double off = run_scored(&m, a, number, 0, 4);
      if (!(off <= tolerance_of(a->plain.model))) fail_msg("%s in %u: off by %g", bases[which[i]].name, sizes[i], off);
    }
    close_group(&m);
    close_adapted(a);
  }
}

/* First tokens of both adapters and of none, one sequence's two at once: a step without a graph. */
static int run_first(struct tl_device *device, struct tl_error *err) {
  static const int32_t tokens[] = {5, 6, 7, 8};
  static const uint32_t positions[] = {0, 1, 0, 0}, lengths[] = {2, 1, 1}, slots[] = {0, 1, 16, 32}, starts[] = {0, 2, 3, 4}, rows[] = {1, 2, 3};
  static const uint32_t adapters[] = {2, 0, 1};
  uint32_t tables[3 * TABLE] = {0};
  struct tl_sampling sampling[3];
  for (uint32_t i = 0; i < 3; i++) {
    tables[i * TABLE] = i;
    sampling[i] = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1};
  }
  struct tl_step step = {.n_tokens = 4, .n_seqs = 3, .n_rows = 3, .table_stride = TABLE, .tokens = tokens, .positions = positions, .slots = slots,
                         .query_start = starts, .context_len = lengths, .block_tables = tables, .rows = rows, .sampling = sampling,
                         .adapters = adapters};
  struct tl_sampled sampled[3];
  int r = fake_cuda_ops.submit(device, &step, err);
  return r < 0 ? r : fake_cuda_ops.collect(device, sampled, err);
}

/* A device's life with call n failing, once or for good: an error that is told, or nothing of it is left. False: it has not so many calls. */
static bool fail_at(const struct tl_model *model, unsigned n, bool sticky, unsigned *n_own) {
  fake_cuda_reset();
  fake_cuda.fail_at = n;
  fake_cuda.fail_code = sticky ? 700 : 1;
  fake_cuda.sticky = sticky;
  struct tl_device *device = NULL;
  struct tl_device_loaded loaded;
  struct tl_error err = {0};
  struct tl_device_options options = {.n_lanes = 1};
  struct tl_device_load load = {.model = model, .max_batch_size = 4, .max_batch_tokens = 32, .max_context = MAX_CONTEXT, .kv_memory_bytes = 8 << 20};
  int r = fake_cuda_ops.open(&options, &device, &err);
  if (r == TL_OK) r = fake_cuda_ops.load(device, &load, &loaded, &err);
  bool loads = r == TL_OK;
  if (loads) r = run_first(device, &err);
  if (fake_cuda.failed && (strcmp(fake_cuda.failed, "shrink") == 0 || strcmp(fake_cuda.failed, "expand") == 0)) {
    assert_true(r < 0);
    ++*n_own;
  }
  if (r < 0 && !fake_cuda.failed) fail_msg("%s", err.message);
  if (loads && r < 0 && !sticky) {
    assert_int_equal(fake_cuda_ops.reset(device, &err), TL_OK);
    assert_int_equal(run_first(device, &err), TL_OK);
  }
  bool reached = fake_cuda.failed != NULL;
  if (device) fake_cuda_ops.close(device);
  assert_int_equal(fake_cuda_live(), 0);
  return reached;
}

static void test_every_call_fails(void **state) {
  (void)state;
  struct adapted *a = open_adapted(&bases[0]);
  for (unsigned sticky = 0; sticky < 2; sticky++) {
    unsigned n = 1, n_own = 0;
    while (fail_at(a->plain.model, n, sticky, &n_own)) n++;
    printf("%u calls, %u of them adapters'\n", n - 1, n_own);
    assert_int_equal(n_own, 2 * 2 * 4 * (3 + 1)); /* both kernels, four products of two layers, in graphs of 1, 2 and 4 rows and in the step */
  }
  close_adapted(a);
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_peft), cmocka_unit_test(test_together), cmocka_unit_test(test_guesses),
                                     cmocka_unit_test(test_base_untouched),
                                     cmocka_unit_test(test_e4m3_base), cmocka_unit_test(test_stored_base),
                                     IF_FAKE(cmocka_unit_test(test_groups), cmocka_unit_test(test_every_call_fails))};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
