/* SPDX-License-Identifier: MIT */
/* Keys and values of a byte (TL_KV_E4M3) on the CPU backend: how they are rounded, and what models make of them: the same alone, in
 * chunks, among others, guessed ahead and on several lanes, to the bit; near what transformers says with keys and values as they are. */
#include <math.h>

#include "golden_llama.h"
#include "kernel_unit.h"

/* Of each kind of attention, and of both directions of grouped queries, one. */
static const char *const names[] = {"f32_odd", "bf16_tied", "f16_sharded", "arch/qwen2_window", "arch/qwen3", "arch/gemma2", "arch/gemma3",
                                    "arch/mixtral", "arch/gpt_oss", "arch/llama4", "arch/deepseek_v2", "arch/deepseek_v3", "arch/gemma4"};

/* --- rounding ---------------------------------------------------------------------------------------- */

static void rounds(const struct cpu_kernels *kernels, const float *x, uint32_t n) {
  uint8_t got[64];
  kernels->to_e4m3(x, got, n);
  for (uint32_t i = 0; i < n; i++)
    if (got[i] != tl_f32_to_f8_e4m3(x[i])) fail_msg("%s: %a: %02x", kernels->name, (double)x[i], got[i]);
}

/* As one number is rounded, whatever stands beside it. */
static void rounding_of(const struct cpu_kernels *kernels) {
  float x[64];
  uint32_t n = 0;
  for (uint64_t bits = 0; bits <= UINT32_MAX; bits += UNIT_SLOWDOWN > 1 ? 0x80000 - 1 : 0x8000 - 1) {
    uint32_t word = (uint32_t)bits;
    memcpy(&x[n++], &word, sizeof word);
    if (n < 33 + bits % 31) continue;
    rounds(kernels, x, n);
    n = 0;
  }
  const float special[] = {NAN, -NAN, INFINITY, -INFINITY, 0, -0.0f, 448, -448, 464, 1e30f, 0x1p-10f, 0x1.8p-9f, 0x1.fp-7f, -0x1p-11f};
  for (uint32_t i = 1; i <= UNIT_COUNT(special); i++) rounds(kernels, special, i);
}

static void test_rounding(void **state) {
  (void)state;
  for_all_kernels(rounding_of);
}

/* --- models -------------------------------------------------------------------------------------------- */

static struct machine open_bytes(const struct tl_model *model, const struct cpu_kernels *kernels, unsigned n_lanes, unsigned n_ranks) {
  kv_format = TL_KV_E4M3;
  struct machine m = open_group(model, kernels, n_lanes, n_ranks);
  kv_format = TL_KV_AUTO;
  return m;
}

/* Twice the tokens in the same memory as with two bytes. */
static void test_memory(void **state) {
  (void)state;
  struct golden g;
  open_golden("bf16_tied", &g);
  const struct cpu_kernels *kernels = cpu_choose_kernels(tl_cpu_best_isa());
  struct machine own = open_machine(g.model, kernels, 1), bytes = open_bytes(g.model, kernels, 1, 1);
  const struct cpu_device *a = (struct cpu_device *)own.device, *b = (struct cpu_device *)bytes.device;
  assert_int_equal(a->kv_dtype, TL_DTYPE_BF16);
  assert_int_equal(b->kv_dtype, TL_DTYPE_F8_E4M3);
  assert_int_equal(a->heads.layer_bytes, 2 * b->heads.layer_bytes);
  close_machine(&own);
  close_machine(&bytes);
  close_golden(&g);
}

/* The tokens that transformers drew, whatever this cache would draw: each one's log-probability. */
static struct sequence *follow(struct machine *m, const struct golden_case *c) {
  struct sequence *s = new_sequence(c->prompt, c->n_prompt);
  memcpy(s->tokens + c->n_prompt, c->tokens, sizeof c->tokens);
  s->length += N_NEW;
  if (c->n_prompt > 1) run_parts(m, &(struct part){s, c->n_prompt - 1}, 1);
  s->score_prompt = true;
  run_parts(m, &(struct part){s, N_NEW}, 1);
  return s;
}

/* Against what is said with exact keys and values. These models are random and their heads small: of a trained one the mean is a tenth
 * (tests/e2e/test_kv_dtype.py). */
static void near(const struct golden *g, const struct cpu_kernels *kernels, double *worst) {
  struct machine m = open_bytes(g->model, kernels, 1, 1);
  double sum = 0, most = 0;
  for (unsigned i = 0; i < N_CASES; i++) {
    const struct golden_case *c = &g->cases[i];
    struct sequence *s = follow(&m, c);
    for (unsigned k = 0; k < N_NEW; k++) {
      double off = fabs((double)s->sampled[c->n_prompt + k].logprob - c->logprobs[k]);
      sum += off;
      most = fmax(most, off);
    }
    free(s);
  }
  double mean = sum / (N_CASES * N_NEW);
  printf("%s on %s: log-probabilities off by %.2g in the mean, %.2g at most\n", g->folder, kernels->name, mean, most);
  assert_true(mean < (g->model->n_experts || g->model->n_latent ? 0.25 : 0.1)); /* other experts are chosen, now and then */
  *worst = fmax(*worst, most);
  close_machine(&m);
}

static void test_near(void **state) {
  (void)state;
  const struct cpu_kernels *kernels[MAX_KERNELS];
  unsigned n = runnable_kernels(kernels);
  double worst = 0;
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden g;
    open_golden(names[i], &g);
    for (unsigned k = 0; k < n; k++)
      if (!kernels[k]->convert || g.model->dtype == TL_DTYPE_BF16) near(&g, kernels[k], &worst);
    close_golden(&g);
  }
  assert_true(worst > 0); /* it is another cache */
}

/* --- the same to the bit ---------------------------------------------------------------------------------- */

static void same_of(const struct golden *g, const struct cpu_kernels *kernels) {
  static const uint32_t odd[] = {7, 1, 33, 16, 5, 64};
  const struct golden_case *c = &g->cases[1];
  struct machine one = open_bytes(g->model, kernels, 1, 1), three = open_bytes(g->model, kernels, 3, 1);
  struct sequence *all = new_sequence(c->prompt, c->n_prompt), *chunks = new_sequence(c->prompt, c->n_prompt);
  struct sequence *lanes = new_sequence(c->prompt, c->n_prompt), *drafts = new_sequence(c->prompt, c->n_prompt);
  run_alone(&one, all, 12, whole, 1);
  run_alone(&one, chunks, 12, odd, UNIT_COUNT(odd));
  assert_same_draws(all, chunks, "chunks");
  run_alone(&three, lanes, 12, whole, 1);
  assert_same_draws(all, lanes, "lanes");
  run_alone(&one, drafts, 1, whole, 1);
  for (unsigned i = 0; !is_done(drafts, 12); i++) { /* every other guess is wrong: what was stored for it is written over */
    uint32_t left = c->n_prompt + 12 - drafts->length;
    drafts->n_drafts = left > 3 ? 3 : left - 1;
    for (uint32_t k = 0; k < drafts->n_drafts; k++)
      drafts->tokens[drafts->length + k] = i % 2 && k == 1 ? 0 : all->tokens[drafts->length + k];
    run_parts(&one, &(struct part){drafts, 1 + drafts->n_drafts}, 1);
  }
  assert_same_draws(all, drafts, "drafts");
  struct sequence *made[] = {all, chunks, lanes, drafts};
  for (unsigned i = 0; i < UNIT_COUNT(made); i++) free(made[i]);
  close_machine(&one);
  close_machine(&three);
}

static void test_same(void **state) {
  (void)state;
  const struct cpu_kernels *kernels[MAX_KERNELS];
  unsigned n = runnable_kernels(kernels);
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden g;
    open_golden(names[i], &g);
    for (unsigned k = 0; k < n; k++)
      if (!kernels[k]->convert || g.model->dtype == TL_DTYPE_BF16) same_of(&g, kernels[k]);
    close_golden(&g);
  }
}

/* Ranks keep their heads' keys and values as one device does: the same bytes, but for what other orders of sums round to others. */
static void test_group(void **state) {
  (void)state;
  struct golden g;
  open_golden("f32_llama3", &g);
  const struct cpu_kernels *kernels = cpu_choose_kernels(tl_cpu_best_isa());
  struct machine one = open_bytes(g.model, kernels, 1, 1), two = open_bytes(g.model, kernels, 1, 2);
  struct sequence *a = follow(&one, &g.cases[2]), *b = follow(&two, &g.cases[2]);
  for (uint32_t i = a->n_prompt; i < a->length; i++) assert_true(fabs((double)a->sampled[i].logprob - (double)b->sampled[i].logprob) < 0.2);
  free(a);
  free(b);
  close_machine(&one);
  close_machine(&two);
  close_golden(&g);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_rounding), cmocka_unit_test(test_memory), cmocka_unit_test(test_near),
                                     cmocka_unit_test(test_same), cmocka_unit_test(test_group)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
