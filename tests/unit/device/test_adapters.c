/* SPDX-License-Identifier: MIT */
/* LoRA adapters on the CPU backend against peft (tests/golden/make_adapters.py): alone, together in a step, in groups, beside
 * sequences without one. */
#include <math.h>

#include "unit.h"

#include "bf16_emulated.h"
#include "golden_adapters.h"

/* Adapters that change so much as these double what rounded keys and values do. */
static double tolerance_of(const struct tl_model *model, const struct cpu_kernels *kernels) {
  if (kernels->convert) return 1e-1;
  return model->dtype == TL_DTYPE_F32 ? 1e-3 : 6e-2;
}

static void check_golden(const struct adapted *a, const struct sequence *s, unsigned which, double tolerance) {
  const struct golden_case *c = case_of(a, s->adapter, which);
  for (unsigned i = 0; i < N_NEW; i++) {
    const struct tl_sampled *got = &s->sampled[c->n_prompt + i];
    if (got->token != c->tokens[i] || !(fabs((double)got->logprob - c->logprobs[i]) <= tolerance))
      fail_msg("%s, adapter %u, prompt of %u: token %u: %d (%f), expected %d (%f)", a->base->name, s->adapter, c->n_prompt, i, got->token,
               (double)got->logprob, c->tokens[i], c->logprobs[i]);
  }
}

/* --- tests ----------------------------------------------------------------------------------------- */

static void test_against_peft(void **state) {
  (void)state;
  const struct cpu_kernels *kernels[MAX_KERNELS];
  unsigned n = runnable_kernels(kernels);
  for (unsigned b = 0; b < UNIT_COUNT(bases); b++) {
    struct adapted *a = open_adapted(&bases[b]);
    for (unsigned k = 0; k < n; k++) {
      if (kernels[k]->convert && a->plain.model->dtype != TL_DTYPE_BF16) continue;
      struct machine m = open_machine(a->plain.model, kernels[k], 2);
      for (uint32_t number = 0; number <= N_ADAPTERS; number++)
        for (unsigned which = 0; which < N_CASES; which++) {
          struct sequence *s = sequence_of(a, number, which);
          run_alone(&m, s, N_NEW, whole, 1);
          check_golden(a, s, which, tolerance_of(a->plain.model, kernels[k]));
          free(s);
        }
      close_machine(&m);
    }
    close_adapted(a);
  }
}

/* One step after another with all that are not done: prompts in chunks, in an order in which neighbours have different adapters. */
static void run_together(struct machine *m, struct sequence **s, unsigned n, uint64_t seed) {
  for (;;) {
    struct part parts[BATCH_SIZE];
    unsigned n_parts = 0;
    for (unsigned i = 0; i < n; i++) {
      if (is_done(s[i], N_NEW)) continue;
      uint32_t left = s[i]->length - s[i]->n_cached, most = 1 + unit_below(&seed, 40);
      parts[n_parts++] = (struct part){s[i], left < most ? left : most};
    }
    if (n_parts == 0) return;
    run_parts(m, parts, n_parts);
  }
}

/* The same bits as alone, on any number of lanes. */
static void test_together(void **state) {
  (void)state;
  for (unsigned b = 0; b < UNIT_COUNT(bases); b++) {
    struct adapted *a = open_adapted(&bases[b]);
    const struct cpu_kernels *kernels = cpu_choose_kernels(tl_cpu_best_isa());
    struct sequence *alone[9], *among[9];
    struct machine m = open_machine(a->plain.model, kernels, 1);
    for (unsigned i = 0; i < 9; i++) {
      alone[i] = sequence_of(a, i % 3, i / 3);
      run_alone(&m, alone[i], N_NEW, whole, 1);
    }
    close_machine(&m);
    for (unsigned lanes = 1; lanes <= 3; lanes += 2) {
      m = open_machine(a->plain.model, kernels, lanes);
      for (unsigned i = 0; i < 9; i++) among[i] = sequence_of(a, i % 3, i / 3);
      run_together(&m, among, 9, 5 + lanes);
      for (unsigned i = 0; i < 9; i++) {
        assert_same_draws(alone[i], among[i], a->base->name);
        free(among[i]);
      }
      close_machine(&m);
    }
    for (unsigned i = 0; i < 9; i++) free(alone[i]);
    close_adapted(a);
  }
}

/* A model that has adapters says of sequences without one what it says without any, to the bit. */
static void test_base_untouched(void **state) {
  (void)state;
  for (unsigned b = 0; b < UNIT_COUNT(bases); b++) {
    struct adapted *a = open_adapted(&bases[b]);
    struct golden *bare = malloc(sizeof *bare);
    open_golden(bases[b].place, bare);
    const struct cpu_kernels *kernels = cpu_choose_kernels(tl_cpu_best_isa());
    struct machine with = open_machine(a->plain.model, kernels, 2), without = open_machine(bare->model, kernels, 2);
    for (unsigned which = 0; which < 2; which++) {
      struct sequence *x = sequence_of(a, 0, which), *y = sequence_of(a, 0, which);
      run_alone(&with, x, N_NEW, whole, 1);
      run_alone(&without, y, N_NEW, whole, 1);
      assert_same_draws(x, y, a->base->name);
      free(x);
      free(y);
    }
    close_machine(&with);
    close_machine(&without);
    close_golden(bare);
    free(bare);
    close_adapted(a);
  }
}

/* Cut among ranks: B by outputs, or A by inputs. Only sums are rounded otherwise. */
static void test_groups(void **state) {
  (void)state;
  static const unsigned sizes[] = {2, 4, 5};
  unsigned n = 0;
  for (unsigned b = 0; b < UNIT_COUNT(bases); b++) {
    struct adapted *a = open_adapted(&bases[b]);
    for (unsigned i = 0; i < UNIT_COUNT(sizes); i++) {
      struct tl_shard shard;
      struct tl_error err = {0};
      if (tl_shard_make(a->plain.model, 0, sizes[i], &shard, &err) < 0) continue;
      n++;
      struct machine m = open_group(a->plain.model, cpu_choose_kernels(tl_cpu_best_isa()), 1, sizes[i]);
      struct sequence *s[3];
      for (uint32_t number = 0; number < 3; number++) s[number] = sequence_of(a, number, 1);
      run_together(&m, s, 3, 9);
      for (uint32_t number = 0; number < 3; number++) {
        check_golden(a, s[number], 1, tolerance_of(a->plain.model, cpu_choose_kernels(tl_cpu_best_isa())));
        free(s[number]);
      }
      close_machine(&m);
    }
    close_adapted(a);
  }
  assert_int_equal(n, 27); /* 5 heads in 5; 6 on 2 in 2; 4 in 2 and 4, eight times; 2 key heads in 2, five times; fewer than ranks, in 2, and in 4 three times */
}

/* The same adapters of a GGUF file, which may have value heads in an order of its own, and Qwen3-Next's one matrix in parts. */
static void test_gguf_base(void **state) {
  (void)state;
  static const struct {
    unsigned base;
    const char *file;
  } files[] = {{6, "arch_qwen3_5.gguf"}, {8, "arch_qwen3_next.gguf"}, {10, "arch_granitemoehybrid.gguf"}, {11, "arch_granitemoehybrid_dense.gguf"},
               {12, "arch_nemotron_h_dense.gguf"}, {13, "arch_nemotron_h.gguf"}};
  for (unsigned i = 0; i < UNIT_COUNT(files); i++) {
    char file[64], path[1024];
    struct tl_error err = {0};
    struct tl_model *model;
    snprintf(file, sizeof file, "gguf/%s", files[i].file);
    if (tl_model_load(unit_golden_path(file, path), &model, &err) < 0) fail_msg("%s", err.message);
    add_adapters(model, &bases[files[i].base]);
    struct adapted *a = open_adapted(&bases[files[i].base]);
    const struct cpu_kernels *kernels = cpu_choose_kernels(tl_cpu_best_isa());
    struct machine m = open_machine(model, kernels, 2);
    for (uint32_t number = 1; number <= N_ADAPTERS; number++) {
      struct sequence *s = sequence_of(a, number, 1);
      run_alone(&m, s, N_NEW, whole, 1);
      check_golden(a, s, 1, tolerance_of(model, kernels));
      free(s);
    }
    close_machine(&m);
    tl_model_free(model);
    close_adapted(a);
  }
}

/* A base of integers: what the adapter adds is computed of the rows as they are, so only the base's own rounding is in it. */
static void test_quantized_base(void **state) {
  (void)state;
  struct adapted *a = open_adapted(&bases[5]);
  struct tl_error err = {0};
  const struct cpu_kernels *kernels = cpu_choose_kernels(tl_cpu_best_isa());
  struct golden *plain = malloc(sizeof *plain);
  open_golden(bases[5].place, plain);
  if (tl_model_quantize(plain->model, "q8_0", &err) < 0) fail_msg("%s", err.message);
  add_adapters(plain->model, &bases[5]);
  struct machine m = open_machine(plain->model, kernels, 2);
  assert_true(((struct cpu_device *)m.device)->weights.quantized);
  for (uint32_t number = 0; number <= N_ADAPTERS; number++) {
    struct sequence *s = sequence_of(a, number, 0);
    const struct golden_case *c = case_of(a, number, 0);
    run_alone(&m, s, 1, whole, 1);
    double off = fabs((double)s->sampled[c->n_prompt].logprob - c->logprobs[0]);
    if (s->sampled[c->n_prompt].token != c->tokens[0] || off > 0.1) fail_msg("adapter %u: off by %f", number, off);
    free(s);
  }
  close_machine(&m);
  close_golden(plain);
  free(plain);
  close_adapted(a);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_peft), cmocka_unit_test(test_together), cmocka_unit_test(test_base_untouched),
                                     cmocka_unit_test(test_groups), cmocka_unit_test(test_gguf_base), cmocka_unit_test(test_quantized_base)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
