/* SPDX-License-Identifier: MIT */
/* Mixtures of experts as GPTQ, AWQ, compressed-tensors and F8 checkpoints ship them, against transformers on the values
 * that the files stand for (tests/golden/make_experts.py): as floats to the order of sums, as they are stored to what
 * their products round. */
#include <math.h>

#include "unit.h"

#include "bf16_emulated.h"
#include "device/cpu/cpu_quant.h"
#include "float_twin.h"
#include "golden_llama.h"

static const char *const names[] = {"qwen3_gptq", "mixtral_gptq", "mixtral_gptq_v2", "qwen3_awq", "mixtral_awq", "qwen3_ct4",
                                    "mixtral_ct4", "qwen3_ct8", "mixtral_ct8", "qwen3_f8_block", "qwen3_f8_channel",
                                    "deepseek_f8_block", "next_f8_block", "next_gptq",
                                    "mixtral_f8_tensor"};

static void open_named(unsigned i, struct golden *ret) {
  char name[64];
  snprintf(name, sizeof name, "experts/%s", names[i]);
  open_golden(name, ret);
}

/* How far the log-probabilities of the golden tokens are off at most, and on average with those of the prompt that has some: of its
 * tokens, which nobody chose, one may be far off where a row takes another expert. */
static void check(const struct golden *g, const struct cpu_kernels *kernels, double most, double most_on_average) {
  double worst = 0, mean = 0;
  unsigned n = 0;
  struct machine m = open_machine(g->model, kernels, 2);
  for (unsigned i = 0; i < N_CASES; i++) {
    const struct golden_case *c = &g->cases[i];
    struct sequence *s = new_sequence(c->prompt, c->n_prompt);
    const uint32_t chunk = BATCH_SIZE / 2;
    s->score_prompt = c->n_scored > 0;
    run_alone(&m, s, N_NEW, s->score_prompt ? &chunk : whole, 1);
    for (uint32_t k = c->n_scored ? 1 : c->n_prompt; k < c->n_prompt + N_NEW; k++, n++) {
      bool is_new = k >= c->n_prompt;
      if (is_new && s->tokens[k] != c->tokens[k - c->n_prompt])
        fail_msg("%s on %s, prompt of %u: token %u is %d, expected %d", g->folder, kernels->name, c->n_prompt, k, s->tokens[k],
                 c->tokens[k - c->n_prompt]);
      double expected = is_new ? c->logprobs[k - c->n_prompt] : c->prompt_logprobs[k - 1];
      double off = fabs((double)s->sampled[k].logprob - expected);
      if (is_new) worst = fmax(worst, off);
      mean += off;
    }
    free(s);
  }
  mean /= n;
  printf("%s on %s: log-probabilities within %.2g, %.2g on average\n", g->folder, kernels->name, worst, mean);
  if (!(worst <= most && mean <= most_on_average)) fail_msg("allowed are %g and %g", most, most_on_average);
  close_machine(&m);
}

/* Loading alone: the values as floats, keys and values too. */
static void test_values(void **state) {
  (void)state;
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden g;
    float *copies[1000];
    uint32_t n;
    open_named(i, &g);
    assert_true(g.model->n_tensors <= UNIT_COUNT(copies));
    struct tl_model *from = load_model(g.folder + strlen(g.folder) - strlen(names[i]) - strlen("experts/"));
    to_floats(from, g.model, copies, &n);
    g.model->dtype = TL_DTYPE_F32;
    check(&g, cpu_choose_kernels(tl_cpu_best_isa()), 1e-3, 1e-4);
    tl_model_free(from);
    close_golden(&g);
    while (n) free(copies[--n]);
  }
}

static enum tl_dtype expert_dtype(const struct tl_model *model) {
  for (uint32_t i = 0; i < model->n_ops; i++)
    if (model->plan[i].kind == TL_OP_EXPERTS_DOWN) return model->tensors[model->plan[i].weight[0]].dtype;
  return TL_N_DTYPES;
}

/* F8 is unpacked to floats, and keys and values are rounded to BF16. With integers the inputs of products are rounded to int8,
 * and a row that takes another expert for that is further off than others. */
static void test_as_stored(void **state) {
  (void)state;
  const struct cpu_kernels *kernels[MAX_KERNELS];
  unsigned n = runnable_kernels(kernels);
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden g;
    open_named(i, &g);
    bool rounds = expert_dtype(g.model) != TL_DTYPE_F8_E4M3;
    for (unsigned k = 0; k < n; k++) check(&g, kernels[k], rounds ? 0.7 : 0.2, rounds ? 0.06 : 0.02);
    close_golden(&g);
  }
}

#define N_CROWD 16

/* Alone on one lane, and all together on two in changing chunks: the same to the bit. */
static void test_batch(void **state) {
  (void)state;
  for (unsigned which = 0; which < UNIT_COUNT(names); which++) {
    struct golden g;
    struct sequence *s[2][N_CROWD];
    uint64_t random = 5 + which;
    open_named(which, &g);
    struct machine m = open_machine(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 1);
    for (unsigned i = 0; i < N_CROWD; i++) {
      int32_t prompt[50];
      uint32_t n = 1 + unit_below(&random, 50);
      for (uint32_t k = 0; k < n; k++) prompt[k] = (int32_t)unit_below(&random, g.model->vocab_size);
      for (unsigned k = 0; k < 2; k++) s[k][i] = new_sequence(prompt, n);
      run_alone(&m, s[0][i], 8, whole, 1);
    }
    close_machine(&m);
    m = open_machine(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 2);
    for (bool running = true; running;) {
      struct part parts[N_CROWD];
      unsigned n = 0, room = BATCH_TOKENS;
      running = false;
      for (unsigned i = 0; i < N_CROWD; i++) {
        struct sequence *one = s[1][i];
        if (is_done(one, 8)) continue;
        running = true;
        uint32_t left = one->length - one->n_cached, most = left < room ? left : room;
        if (!most || !unit_below(&random, 4)) continue;
        parts[n++] = (struct part){one, 1 + unit_below(&random, most)};
        room -= parts[n - 1].n;
      }
      if (n) run_parts(&m, parts, n);
    }
    close_machine(&m);
    for (unsigned i = 0; i < N_CROWD; i++) {
      assert_same_draws(s[0][i], s[1][i], names[which]);
      free(s[0][i]);
      free(s[1][i]);
    }
    close_golden(&g);
  }
}

/* Whose value heads of a rank are no whole groups of 32 inputs: they are refused. */
static bool is_refused(const struct golden *g, const char *name) {
  struct tl_shard shard;
  struct tl_error err = {0};
  bool fits = tl_shard_make(g->model, 0, 2, &shard, &err) == TL_OK;
  assert_int_equal(!fits, strcmp(name, "next_gptq") == 0);
  if (!fits) assert_non_null(strstr(err.message, "linear_attn.out_proj"));
  return !fits;
}

/* Two ranks with some of the experts each: the golden tokens too. */
static void test_ranks(void **state) {
  (void)state;
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden g;
    open_named(i, &g);
    if (is_refused(&g, names[i])) {
      close_golden(&g);
      continue;
    }
    struct machine m = open_group(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 1, 2);
    for (unsigned k = 0; k < N_CASES; k++) {
      struct sequence *s = new_sequence(g.cases[k].prompt, g.cases[k].n_prompt);
      run_alone(&m, s, N_NEW, whole, 1);
      for (unsigned t = 0; t < N_NEW; t++)
        if (s->tokens[s->n_prompt + t] != g.cases[k].tokens[t]) fail_msg("%s in 2: prompt of %u, token %u", names[i], s->n_prompt, t);
      free(s);
    }
    close_machine(&m);
    close_golden(&g);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_as_stored), cmocka_unit_test(test_batch),
                                     cmocka_unit_test(test_ranks)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
