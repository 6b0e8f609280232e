/* SPDX-License-Identifier: MIT */
/* Groups of CPU devices against one device: the golden models cut into 2 to 8 ranks. What is promised
 * (ARCHITECTURE.md, Groups): the same bits whatever the batch, the lanes and the time, for one size of group; between
 * sizes only sums over ranks are rounded otherwise. */
#include <math.h>

#include "unit.h"

#include "bf16_emulated.h"
#include "golden_llama.h"

static const char *const model_names[] = {"f32_odd", "bf16_tied", "f32_llama3", "f16_sharded"};
static const char *const other_names[] = {"arch/qwen2", "arch/qwen2_window", "arch/qwen3", "arch/mistral", "arch/mistral_yarn",
                                          "arch/smollm3", "arch/phi3", "arch/phi4_longrope", "arch/gemma2", "arch/gemma3", "arch/gemma4", "arch/gemma4_dense", "arch/gemma4_moe",
                                          "arch/olmo2", "arch/granite", "arch/stablelm", "arch/glm4", "arch/mixtral",
                                          "arch/qwen2_moe", "arch/qwen3_moe", "arch/gpt_oss", "arch/glm4_moe", "arch/olmoe",
                                          "arch/qwen3_vl_moe", "arch/exaone4", "arch/ernie4_5", "arch/olmo3", "arch/gemma3_vision",
                                          "arch/minimax_m2", "arch/dots1", "arch/ernie4_5_moe", "arch/granitemoe", "arch/granitemoeshared", "arch/cohere", "arch/cohere2",
                                          "arch/nemotron", "arch/starcoder2", "arch/phi", "arch/llama4", "arch/llama4_long", "arch/hunyuan_moe", "arch/phimoe", "arch/cohere_norms", "arch/deepseek_v2", "arch/deepseek_v2_lite", "arch/deepseek_v2_bias", "arch/deepseek_v3", "arch/moonlight", "arch/glm4_moe_lite",
                                          "arch/qwen3_5", "arch/qwen3_5_full", "arch/qwen3_5_vision", "arch/qwen3_next", "arch/qwen3_5_moe", "arch/lfm2", "arch/lfm2_tied", "arch/lfm2_moe", "arch/granitemoehybrid", "arch/granitemoehybrid_dense", "arch/nemotron_h", "arch/nemotron_h_dense",
                                          "arch/mistral4", "arch/nemotron_h_latent", "arch/gpt2", "arch/gpt_neox", "arch/opt", "arch/falcon_new"};
static const unsigned sizes[] = {2, 3, 4, 5, 8};

static bool can_be_cut(const struct tl_model *model, unsigned size) {
  struct tl_shard shard;
  struct tl_error err = {0};
  return tl_shard_make(model, 0, size, &shard, &err) == TL_OK;
}

/* --- against one device ------------------------------------------------------------------------- */

/* The largest distance of the last row's logits, of the largest logit. */
static double logits_apart(const struct machine *a, const struct machine *b) {
  const float *x = ((struct cpu_device *)a->device)->logits, *y = ((struct cpu_device *)b->device)->logits;
  double apart = 0, largest = 0;
  for (uint32_t i = 0; i < a->vocab; i++) {
    apart = fmax(apart, fabs((double)x[i] - (double)y[i]));
    largest = fmax(largest, fabs((double)x[i]));
  }
  assert_true(largest > 0);
  return apart / largest;
}

/* Floats all through: only the order of sums differs. Where keys and values, or activations, are
 * rounded to 16 bits, a last bit may become one of those. */
static double tolerance_of(const struct tl_model *model) {
  return model->dtype == TL_DTYPE_F32 ? 1e-5 : 3e-2;
}

static void compare(const struct golden *g, const struct golden_case *c, const struct cpu_kernels *kernels, unsigned size,
                    const char *name) {
  struct machine one = open_machine(g->model, kernels, 1), many = open_group(g->model, kernels, 1, size);
  struct sequence *s[2] = {new_sequence(c->prompt, c->n_prompt), new_sequence(c->prompt, c->n_prompt)};
  double worst = 0;
  for (uint32_t n = 1; n <= N_NEW; n++) {
    run_alone(&one, s[0], n, whole, 1);
    run_alone(&many, s[1], n, whole, 1);
    worst = fmax(worst, logits_apart(&one, &many));
    assert_int_equal(s[0]->tokens[s[0]->length - 1], c->tokens[n - 1]);
    if (s[1]->tokens[s[1]->length - 1] != c->tokens[n - 1]) fail_msg("%s in %u: token %u differs", name, size, n);
  }
  if (!(worst <= tolerance_of(g->model))) fail_msg("%s in %u: logits differ by %g", name, size, worst);
  printf("%s on %s in %u: logits within %.2g of the largest\n", name, kernels->name, size, worst);
  for (unsigned i = 0; i < 2; i++) free(s[i]);
  close_machine(&one);
  close_machine(&many);
}

/* The first prompt on all kernels, the others on the plain ones. Returns how many sizes there were. */
static unsigned compare_all(const char *name, unsigned which) {
  const struct cpu_kernels *kernels[MAX_KERNELS];
  unsigned n = runnable_kernels(kernels), n_cut = 0;
  struct golden g;
  open_golden(name, &g);
  for (unsigned size = 0; size < UNIT_COUNT(sizes); size++) {
    if (!can_be_cut(g.model, sizes[size])) continue;
    n_cut++;
    for (unsigned k = 0; k < n; k++) {
      /* BF16 products differ for BF16 alone */
      if (kernels[k]->convert && g.model->dtype != TL_DTYPE_BF16) continue;
      if (which == 0 || k == 0) compare(&g, &g.cases[which], kernels[k], sizes[size], name);
    }
  }
  close_golden(&g);
  return n_cut;
}

static void test_same_tokens(void **state) {
  (void)state;
  static const unsigned n_sizes[] = {1, 1, 3, 2}; /* 5 heads of 5; 6 of 2; 8 of 2; 4 of 4 */
  for (unsigned i = 0; i < UNIT_COUNT(model_names); i++)
    for (unsigned which = 0; which < 3; which++) assert_int_equal(compare_all(model_names[i], which), n_sizes[i]);
}

/* What other architectures add: norms of heads and behind blocks, windows, caps, factors. */
static void test_other_architectures(void **state) {
  (void)state;
  unsigned n = 0;
  for (unsigned i = 0; i < UNIT_COUNT(other_names); i++) n += compare_all(other_names[i], 0) > 0;
  assert_int_equal(n, UNIT_COUNT(other_names));
}

/* As llama.cpp's files have them: key heads that several ranks have, a norm over these. */
static void test_shared_keys(void **state) {
  (void)state;
  static const char *const names[] = {"granitemoehybrid", "granitemoehybrid_dense"};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    char folder[64], file[64], path[1024];
    struct golden g;
    struct tl_error err = {0};
    snprintf(folder, sizeof folder, "arch/%s", names[i]);
    snprintf(file, sizeof file, "gguf/arch_%s.gguf", names[i]);
    open_golden(folder, &g);
    tl_model_free(g.model);
    if (tl_model_load(unit_golden_path(file, path), &g.model, &err) < 0) fail_msg("%s", err.message);
    for (unsigned size = 2; size <= 4; size += 2) compare(&g, &g.cases[1], cpu_choose_kernels(tl_cpu_best_isa()), size, file);
    close_golden(&g);
  }
}

/* Blocks stay whole, so activations are rounded in the same groups: but for the sums the products are the same. */
static void test_quantized(void **state) {
  (void)state;
  static const char *const formats[] = {"q8_0", "q4_0"};
  for (unsigned i = 0; i < UNIT_COUNT(formats); i++) {
    struct golden g;
    struct tl_error err = {0};
    struct tl_shard shard;
    open_golden("f16_sharded", &g);
    if (tl_model_quantize(g.model, formats[i], &err) < 0) fail_msg("%s", err.message);
    struct machine one = open_machine(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 1);
    struct machine two = open_group(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 1, 2);
    struct sequence *s[2] = {new_sequence(g.cases[0].prompt, g.cases[0].n_prompt), new_sequence(g.cases[0].prompt, g.cases[0].n_prompt)};
    bool quantized = false;
    for (uint32_t k = 0; k < g.model->n_ops; k++)
      if (g.model->plan[k].kind == TL_OP_MLP_DOWN)
        quantized |= ((struct cpu_device *)two.ranks[1])->weights.matrices[k].quant != NULL;
    assert_true(quantized);
    for (uint32_t n = 1; n <= N_NEW; n++) {
      run_alone(&one, s[0], n, whole, 1);
      run_alone(&two, s[1], n, whole, 1);
      assert_int_equal(s[0]->tokens[s[0]->length - 1], s[1]->tokens[s[1]->length - 1]);
      assert_true(logits_apart(&one, &two) <= 3e-2);
    }
    for (unsigned k = 0; k < 2; k++) free(s[k]);
    close_machine(&one);
    close_machine(&two);
    /* three blocks of 32 */
    assert_int_equal(tl_shard_make(g.model, 0, 4, &shard, &err), TL_EINVAL);
    assert_non_null(strstr(err.message, "the model's 96 inner MLP outputs cannot be divided among 4 devices"));
    close_golden(&g);
  }
}

/* --- against itself ------------------------------------------------------------------------------ */

#define N_CROWD 6

static void run_crowd(const struct tl_model *model, unsigned n_lanes, bool together, struct sequence *ret[N_CROWD]) {
  struct machine m = open_group(model, cpu_choose_kernels(tl_cpu_best_isa()), n_lanes, 2);
  uint64_t random = 4711;
  for (unsigned i = 0; i < N_CROWD; i++) {
    int32_t prompt[60];
    uint32_t n = 1 + unit_below(&random, 60);
    for (uint32_t k = 0; k < n; k++) prompt[k] = (int32_t)unit_below(&random, model->vocab_size);
    ret[i] = new_sequence(prompt, n);
    if (i % 2) ret[i]->sampling.temperature = 0.9f;
    ret[i]->sampling.seed = i;
    if (!together) run_alone(&m, ret[i], 8, whole, 1);
  }
  for (bool running = together; running;) {
    struct part parts[N_CROWD];
    unsigned n = 0;
    running = false;
    for (unsigned i = 0; i < N_CROWD; i++) {
      if (is_done(ret[i], 8)) continue;
      running = true;
      if (unit_below(&random, 3)) parts[n++] = (struct part){ret[i], 1 + unit_below(&random, ret[i]->length - ret[i]->n_cached)};
    }
    if (n) run_parts(&m, parts, n);
  }
  close_machine(&m);
}

static void check_crowd(const char *name) {
  struct golden g;
  open_golden(name, &g);
  struct sequence *alone[N_CROWD], *together[N_CROWD];
  run_crowd(g.model, 1, false, alone);
  run_crowd(g.model, 2, true, together);
  for (unsigned i = 0; i < N_CROWD; i++) {
    assert_int_equal(alone[i]->length, alone[i]->n_prompt + 8);
    assert_same_draws(alone[i], together[i], name);
    free(alone[i]);
    free(together[i]);
  }
  close_golden(&g);
}

/* Alone on one lane, and in chunks among others on two: the same bits. */
static void test_batch_and_lanes(void **state) {
  (void)state;
  check_crowd("f16_sharded");
  check_crowd("arch/granitemoehybrid_dense"); /* a norm over ranks */
}

/* Ranks have their part of the weights and no more. */
static void test_memory(void **state) {
  (void)state;
  struct golden g;
  open_golden("f32_llama3", &g);
  struct machine one = open_machine(g.model, cpu_choose_kernels(TL_ISA_PLAIN), 1);
  struct machine two = open_group(g.model, cpu_choose_kernels(TL_ISA_PLAIN), 1, 2);
  struct cpu_device *whole_one = (struct cpu_device *)one.device;
  for (unsigned i = 0; i < 2; i++) {
    struct cpu_device *d = (struct cpu_device *)two.ranks[i];
    assert_true(d->weights.bytes < whole_one->weights.bytes * 6 / 10); /* panels of 32 are not all full */
    assert_int_equal(d->heads.layer_bytes * 2, whole_one->heads.layer_bytes);
  }
  assert_ptr_equal(((struct cpu_device *)two.ranks[1])->logits, ((struct cpu_device *)two.ranks[1])->pairs); /* none */
  close_machine(&one);
  close_machine(&two);
  close_golden(&g);
}

/* --- ranks that do not come -------------------------------------------------------------------------- */

static void *abort_soon(void *argument) {
  const struct machine *m = argument;
  usleep(2000);
  m->ops->group->abort(m->group);
  return NULL;
}

static void test_abort(void **state) {
  (void)state;
  struct golden g;
  open_golden("f16_sharded", &g);
  struct machine m = open_group(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 2, 4);
  int32_t token = 7;
  uint32_t zero = 0, one = 1, start[] = {0, 1};
  struct tl_sampling sampling = {.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1};
  struct tl_step step = {.n_tokens = 1, .n_seqs = 1, .n_rows = 1, .table_stride = 1, .tokens = &token, .positions = &zero, .slots = &zero,
                         .query_start = start, .context_len = &one, .block_tables = &zero, .rows = &zero, .sampling = &sampling};
  struct rank_run runs[MAX_RANKS];
  assert_int_equal(run_ranks(&m, &step, 4, runs), TL_OK);
  int32_t expected = work.sampled[0].token;
  for (unsigned missing = 0; missing < 4; missing++) {
    pthread_t thread;
    pthread_create(&thread, NULL, abort_soon, &m);
    run_ranks(&m, &step, missing, runs);
    pthread_join(thread, NULL);
    for (unsigned i = 0; i < 4; i++) assert_int_equal(runs[i].result, i == missing ? TL_OK : TL_ECLOSED);
    run_ranks(&m, &step, 4, runs); /* no step until it is restored */
    for (unsigned i = 0; i < 4; i++) assert_int_equal(runs[i].result, TL_ECLOSED);
    m.ops->group->restore(m.group);
    work.sampled[0].token = -5;
    assert_int_equal(run_ranks(&m, &step, 4, runs), TL_OK);
    assert_int_equal(work.sampled[0].token, expected);
  }
  close_machine(&m);
  close_golden(&g);
}

/* A model that cannot be cut says so before anything is allocated. */
static void test_refusal(void **state) {
  (void)state;
  struct golden g;
  open_golden("bf16_tied", &g); /* 6 heads */
  struct tl_device_group *group;
  struct tl_device *device;
  struct tl_error err = {0};
  struct tl_device_options options = {.n_lanes = 1};
  struct tl_device_load load = {.model = g.model, .max_batch_size = 4, .max_batch_tokens = 16, .max_context = 64};
  struct tl_device_loaded loaded;
  assert_int_equal(cpu_group_ops.make(4, &group, &err), TL_OK);
  assert_int_equal(cpu_device_ops.open(&options, &device, &err), TL_OK);
  assert_int_equal(cpu_group_ops.join(device, group, 1, &err), TL_OK);
  assert_int_equal(cpu_device_ops.load(device, &load, &loaded, &err), TL_EINVAL);
  assert_string_equal(err.field, "engine.tensor_parallel");
  cpu_device_ops.close(device);
  cpu_group_ops.free(group);
  close_golden(&g);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_tokens), cmocka_unit_test(test_other_architectures),
                                     cmocka_unit_test(test_shared_keys), cmocka_unit_test(test_quantized), cmocka_unit_test(test_batch_and_lanes),
                                     cmocka_unit_test(test_memory), cmocka_unit_test(test_abort),
                                     cmocka_unit_test(test_refusal)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
