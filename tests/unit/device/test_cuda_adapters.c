/* SPDX-License-Identifier: MIT */
/* LoRA adapters through the CUDA backend's host part, with kernels on fibers, against peft: alone, among others, in groups; and steps without
 * them as if there were none. */
#include <math.h>

#include "cuda_group_rig.h"
#include "golden_adapters.h"

static struct machine open_gpu(const struct tl_model *model) {
  struct machine m = {.ops = &fake_cuda_ops, .n_ranks = 1, .vocab = model->vocab_size};
  struct tl_error err = {0};
  struct tl_device_options options = {.n_lanes = 2};
  struct tl_device_load load = {.model = model, .max_batch_size = 4, .max_batch_tokens = BATCH_TOKENS, .max_context = MAX_CONTEXT,
                                .kv_memory_bytes = 32 << 20};
  struct tl_device_loaded loaded;
  if (m.ops->open(&options, &m.device, &err) < 0) fail_msg("%s", err.message);
  if (m.ops->load(m.device, &load, &loaded, &err) < 0) fail_msg("%s", err.message);
  m.ranks[0] = m.device;
  m.n_blocks = loaded.n_blocks < 4000 ? loaded.n_blocks : 4000;
  m.blocks = malloc(m.n_blocks * sizeof *m.blocks);
  shuffle(m.blocks, m.n_blocks, 77);
  return m;
}

static void close_gpu(struct machine *m) {
  close_machine(m);
  assert_int_equal(fake_cuda_live(), 0);
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
    fake_cuda_reset();
    struct adapted *a = open_adapted(&bases[b]);
    struct machine m = open_gpu(a->plain.model);
    double worst = 0;
    for (uint32_t number = 1; number <= N_ADAPTERS; number++) {
      worst = fmax(worst, run_scored(&m, a, number, 0, 8));
      worst = fmax(worst, run_scored(&m, a, number, 1, 3));
    }
    printf("%s: log-probabilities within %.2g\n", bases[b].name, worst);
    if (!(worst <= tolerance_of(a->plain.model))) fail_msg("%s: off by %g", bases[b].name, worst);
    assert_int_equal(fake_cuda.n_replays, 0); /* such steps have no graph */
    close_gpu(&m);
    close_adapted(a);
  }
}

/* Prompts in chunks and decodes of all in the same steps. */
static void test_together(void **state) {
  (void)state;
  for (unsigned b = 0; b < UNIT_COUNT(bases); b += 2) {
    fake_cuda_reset();
    struct adapted *a = open_adapted(&bases[b]);
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

/* To the bit, by the same graphs. */
static void test_base_untouched(void **state) {
  (void)state;
  fake_cuda_reset();
  struct adapted *a = open_adapted(&bases[0]);
  struct golden *bare = open_model(bases[0].place);
  struct sequence *s[2];
  for (unsigned with = 0; with < 2; with++) {
    fake_cuda_reset();
    struct machine m = open_gpu(with ? a->plain.model : bare->model);
    s[with] = sequence_of(a, 0, 1);
    run_alone(&m, s[with], 6, whole, 1);
    assert_int_equal(fake_cuda.n_graphs, 3);
    assert_int_equal(fake_cuda.n_replays, 5);
    close_gpu(&m);
  }
  assert_same_draws(s[0], s[1], "with adapters and without");
  free(s[0]);
  free(s[1]);
  close_golden(bare);
  free(bare);
  close_adapted(a);
}

/* Rows of B, columns of A, and sums over ranks. */
static void test_groups(void **state) {
  (void)state;
  static const unsigned which[] = {1, 3, 5}, sizes[] = {2, 4, 2};
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

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_peft), cmocka_unit_test(test_together), cmocka_unit_test(test_base_untouched),
                                     cmocka_unit_test(test_groups)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
