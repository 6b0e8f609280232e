/* SPDX-License-Identifier: MIT */
/* Whole models on the CPU backend against transformers (tests/golden/make_llama.py),
 * and against themselves: alone, in chunks, among others, on several lanes. */
#include <math.h>
#include <stdatomic.h>

#include "unit.h"

#include "bf16_emulated.h"
#include "golden_llama.h"

static const char *const model_names[] = {"f32_odd", "bf16_tied", "f32_llama3", "f16_sharded",
                                          "arch/qwen2", "arch/qwen2_window", "arch/qwen3", "arch/mistral",
                                          "arch/mistral_yarn", "arch/smollm3", "arch/smollm3_deep", "arch/phi3", "arch/phi4_longrope",
                                          "arch/gemma2", "arch/gemma3", "arch/gemma4", "arch/gemma4_dense", "arch/gemma4_moe", "arch/olmo2", "arch/granite", "arch/stablelm",
                                          "arch/glm4", "arch/mixtral", "arch/qwen2_moe", "arch/qwen3_moe", "arch/gpt_oss",
                                          "arch/gemma3_vision", "arch/mistral3", "arch/qwen2_5_vl", "arch/qwen3_vl",
                                          "arch/deepseek_v2", "arch/deepseek_v2_lite", "arch/deepseek_v2_bias", "arch/deepseek_v3", "arch/moonlight", "arch/glm4_moe_lite",
                                          "arch/glm4_moe", "arch/olmo3", "arch/qwen3_vl_moe", "arch/ministral3", "arch/ministral3_long",
                                          "arch/exaone4", "arch/exaone4_small",
                                          "arch/ernie4_5",
                                          "arch/seed_oss",
                                          "arch/olmoe", "arch/minimax_m2",
                                          "arch/dots1", "arch/ernie4_5_moe", "arch/ernie4_5_moe_bias", "arch/granitemoe", "arch/granitemoeshared", "arch/cohere", "arch/cohere2",
                                          "arch/arcee", "arch/nemotron", "arch/starcoder2", "arch/phi", "arch/llama4", "arch/llama4_long", "arch/hunyuan", "arch/hunyuan_moe", "arch/phimoe", "arch/cohere_norms",
                                          "arch/gemma", "arch/qwen3_5", "arch/qwen3_5_full", "arch/qwen3_5_vision", "arch/qwen3_next", "arch/qwen3_5_moe", "arch/lfm2", "arch/lfm2_tied",
                                          "arch/lfm2_moe", "arch/granitemoehybrid", "arch/granitemoehybrid_dense", "arch/nemotron_h", "arch/nemotron_h_dense",
                                          "arch/solar_open", "arch/exaone_moe", "arch/hy_v3", "arch/kimi_k25", "arch/mistral4", "arch/nemotron_h_latent",
                                          "arch/gpt2", "arch/gpt_neox", "arch/gpt_neox_sequential", "arch/opt", "arch/falcon", "arch/falcon_new", "arch/apertus",
                                          "arch/gpt_bigcode", "arch/gpt_bigcode_heads", "arch/gptj", "arch/glm", "arch/glm4v", "arch/glm4v_moe"};

/* --- comparisons ------------------------------------------------------------------------------------ */

/* The distance, which must not be more than the tolerance. */
static double check_logprob(const char *what, unsigned i, float got, double expected, double tolerance) {
  double off = fabs((double)got - expected);
  if (!(off <= tolerance)) fail_msg("%s %u: %f, expected %f", what, i, (double)got, expected);
  return off;
}

/* The same ids in the same order, unless two golden values are too close to tell. */
static double check_top(const struct golden_case *c, unsigned i, const struct tl_sampled *got, double tolerance) {
  assert_int_equal(got->n_top, N_TOP);
  double worst = 0;
  for (int k = 0; k < N_TOP; k++) {
    double expected = c->top_logprobs[i][k];
    worst = fmax(worst, check_logprob("among the top of token", i, got->top_logprobs[k], expected, tolerance));
    bool close = (k > 0 && c->top_logprobs[i][k - 1] - expected < 2 * tolerance) ||
                 (k + 1 < N_TOP && expected - c->top_logprobs[i][k + 1] < 2 * tolerance) || k + 1 == N_TOP;
    if (!close) assert_int_equal(got->top_tokens[k], c->top_tokens[i][k]);
  }
  return worst;
}

static double check_golden(const struct golden_case *c, const struct sequence *s, double tolerance) {
  double worst = 0;
  for (unsigned i = 0; i < N_NEW; i++) {
    const struct tl_sampled *got = &s->sampled[c->n_prompt + i];
    if (got->token != c->tokens[i]) fail_msg("token %u of %u: %d, expected %d", i, c->n_prompt, got->token, c->tokens[i]);
    worst = fmax(worst, check_logprob("token", i, got->logprob, c->logprobs[i], tolerance));
    worst = fmax(worst, check_top(c, i, got, 2 * tolerance));
  }
  return worst;
}

static bool same_bits(float a, float b) {
  return memcmp(&a, &b, sizeof a) == 0;
}

/* All that b generated; a may have gone on for longer. */
static void check_identical(const struct sequence *a, const struct sequence *b, const char *what) {
  assert_true(a->length >= b->length && b->length > b->n_prompt);
  for (uint32_t i = a->n_prompt; i < b->length; i++) {
    const struct tl_sampled *x = &a->sampled[i], *y = &b->sampled[i];
    bool same = x->token == y->token && same_bits(x->logprob, y->logprob) && x->n_top == y->n_top;
    for (int k = 0; same && k < x->n_top; k++)
      same = x->top_tokens[k] == y->top_tokens[k] && same_bits(x->top_logprobs[k], y->top_logprobs[k]);
    if (!same)
      fail_msg("%s: prompt of %u, token %u: %d %a and %d %a", what, a->n_prompt, i, x->token, (double)x->logprob,
               y->token, (double)y->logprob);
  }
}

/* Of the chosen token's log-probability, half of what others may be off. What is
 * rounded is what is kept between operations: keys and values in the weights' format,
 * and with BF16 products each activation. */
static double tolerance_of(const struct tl_model *model, const struct cpu_kernels *kernels) {
  if (kernels->convert) return 1e-1;
  return model->dtype == TL_DTYPE_F32 ? 1e-3 : 3e-2;
}

/* --- tests ---------------------------------------------------------------------------------------------- */

static void compare(const struct golden *g, const struct cpu_kernels *kernels, double tolerance) {
  struct machine m = open_machine(g->model, kernels, 1);
  double worst = 0;
  for (unsigned i = 0; i < N_CASES; i++) {
    const struct golden_case *c = &g->cases[i];
    struct sequence *s = new_sequence(c->prompt, c->n_prompt);
    run_alone(&m, s, N_NEW, whole, 1);
    worst = fmax(worst, check_golden(c, s, tolerance));
    free(s);
  }
  printf("%s on %s, %s cache: log-probabilities within %.2g\n", g->folder, kernels->name, tl_dtype_name(g->model->dtype),
         worst);
  close_machine(&m);
}

static void against_transformers(const struct golden *g, const struct cpu_kernels *kernels) {
  compare(g, kernels, tolerance_of(g->model, kernels));
  if (g->model->dtype == TL_DTYPE_F32 || kernels->convert) return;
  /* with a KV cache of floats nothing is rounded: what is left is the order of sums */
  enum tl_dtype own = g->model->dtype;
  g->model->dtype = TL_DTYPE_F32;
  compare(g, kernels, tolerance_of(g->model, kernels));
  g->model->dtype = own;
}

/* A barrier of several lanes costs a futex where cores are short: fewer tokens then. */
static void in_chunks_and_lanes(const struct golden *g, const struct cpu_kernels *kernels) {
  static const uint32_t odd[] = {7, 1, 33, 16, 5, 64}, ones[] = {1};
  struct sequence *reference[N_CASES];
  for (unsigned n_lanes = 1; n_lanes <= 3; n_lanes++) {
    struct machine m = open_machine(g->model, kernels, n_lanes);
    uint32_t n_new = n_lanes == 1 ? N_NEW : 4;
    for (unsigned i = 0; i < N_CASES; i++) {
      const struct golden_case *c = &g->cases[i];
      struct sequence *all = new_sequence(c->prompt, c->n_prompt), *chunks = new_sequence(c->prompt, c->n_prompt);
      run_alone(&m, all, n_new, whole, 1);
      run_alone(&m, chunks, n_new, odd, UNIT_COUNT(odd));
      check_identical(all, chunks, "chunks");
      free(chunks);
      if (n_lanes > 1) {
        check_identical(reference[i], all, "lanes");
        free(all);
        continue;
      }
      reference[i] = all;
      struct sequence *one_by_one = new_sequence(c->prompt, c->n_prompt);
      run_alone(&m, one_by_one, 4, ones, 1);
      check_identical(all, one_by_one, "one by one");
      free(one_by_one);
    }
    close_machine(&m);
  }
  for (unsigned i = 0; i < N_CASES; i++) free(reference[i]);
}

/* Log-probabilities of the prompt's own tokens, whole and in chunks. */
static void scored_prompt(const struct golden *g, const struct cpu_kernels *kernels) {
  static const uint32_t odd[] = {7, 1, 33};
  for (unsigned i = 0; i < N_CASES; i++) {
    const struct golden_case *c = &g->cases[i];
    if (!c->n_scored) continue;
    struct machine m = open_machine(g->model, kernels, 2);
    struct sequence *s[2];
    for (unsigned k = 0; k < 2; k++) {
      s[k] = new_sequence(c->prompt, c->n_prompt);
      s[k]->score_prompt = true;
      s[k]->sampling.n_top = 0;
      run_alone(&m, s[k], 1, k ? odd : whole, k ? 3 : 1);
      for (uint32_t at = 0; at < c->n_scored; at++) {
        const struct tl_sampled *got = &s[k]->sampled[at + 1];
        assert_int_equal(got->token, c->prompt[at + 1]);
        assert_int_equal(got->n_top, 0);
        check_logprob("prompt token", at + 1, got->logprob, c->prompt_logprobs[at], tolerance_of(g->model, kernels));
        assert_true(same_bits(got->logprob, s[0]->sampled[at + 1].logprob));
      }
      assert_int_equal(s[k]->sampled[c->n_prompt].token, c->tokens[0]);
    }
    free(s[0]);
    free(s[1]);
    close_machine(&m);
  }
}

#define N_CROWD 16

/* The golden prompts, and others of many lengths; some draw. */
static void make_crowd(const struct golden *g, struct sequence *crowd[N_CROWD]) {
  uint64_t random = 4711;
  for (unsigned i = 0; i < N_CROWD; i++) {
    if (i < N_CASES) {
      crowd[i] = new_sequence(g->cases[i].prompt, g->cases[i].n_prompt);
      continue;
    }
    int32_t prompt[100];
    uint32_t n = 1 + unit_below(&random, i % 2 ? 100 : 20);
    for (uint32_t k = 0; k < n; k++) prompt[k] = (int32_t)unit_below(&random, g->model->vocab_size);
    crowd[i] = new_sequence(prompt, n);
    if (i % 3) continue;
    crowd[i]->sampling.temperature = 0.9f;
    crowd[i]->sampling.top_p = i % 2 ? 0.9f : 1;
    crowd[i]->sampling.top_k = i % 4 ? 20 : 0;
    crowd[i]->sampling.seed = i;
  }
}

/* Every step mixes prefill chunks and decodes of whoever joins in. */
static void run_crowd(struct machine *m, struct sequence *crowd[N_CROWD], uint32_t n_new, uint64_t random) {
  for (unsigned running = N_CROWD; running > 0;) {
    struct part parts[N_CROWD];
    unsigned n = 0, first = unit_below(&random, N_CROWD);
    uint32_t room = 1 + unit_below(&random, BATCH_TOKENS);
    running = 0;
    for (unsigned k = 0; k < N_CROWD; k++) {
      struct sequence *s = crowd[(first + k) % N_CROWD];
      if (is_done(s, n_new)) continue;
      running++;
      uint32_t left = s->length - s->n_cached, most = left < room ? left : room;
      if (most == 0 || unit_below(&random, 4) == 0) continue;
      uint32_t take_n = unit_below(&random, 2) ? most : 1 + unit_below(&random, most);
      parts[n++] = (struct part){s, take_n};
      room -= take_n;
    }
    if (n) run_parts(m, parts, n);
  }
}

static void among_others(const struct golden *g, const struct cpu_kernels *kernels) {
  uint32_t n_new = UNIT_SLOWDOWN > 1 ? 12 : N_NEW;
  struct sequence *alone[N_CROWD], *together[N_CROWD];
  make_crowd(g, alone);
  make_crowd(g, together);
  struct machine m = open_machine(g->model, kernels, 1);
  for (unsigned i = 0; i < N_CROWD; i++) run_alone(&m, alone[i], n_new, whole, 1);
  close_machine(&m);
  m = open_machine(g->model, kernels, 2);
  run_crowd(&m, together, n_new, 99);
  for (unsigned i = 0; i < N_CROWD; i++) {
    check_identical(alone[i], together[i], "among others");
    free(alone[i]);
    free(together[i]);
  }
  close_machine(&m);
}

/* The plain kernels, which take most of the time, run only models that bring something new; of what is not of an architecture but of its
 * records, all do. */
static void for_all(void (*test)(const struct golden *g, const struct cpu_kernels *kernels), bool of_records) {
  const struct cpu_kernels *kernels[MAX_KERNELS];
  struct seen_records seen = {0};
  unsigned n = runnable_kernels(kernels);
  for (unsigned i = 0; i < UNIT_COUNT(model_names); i++) {
    struct golden *g = malloc(sizeof *g);
    open_golden(model_names[i], g);
    bool is_new = brings_new(g->model, &seen);
    for (unsigned k = 0; k < n; k++) {
      if (!is_new && (of_records || (kernels[k] == &cpu_kernels_plain && n > 1))) continue;
      /* the BF16 products differ from plain AVX-512 for BF16 weights only */
      if (kernels[k]->convert && g->model->dtype != TL_DTYPE_BF16) continue;
      test(g, kernels[k]);
    }
    close_golden(g);
    free(g);
  }
}

static void test_against_transformers(void **state) {
  (void)state;
  for_all(against_transformers, false);
}

static void test_chunks_and_lanes(void **state) {
  (void)state;
  for_all(in_chunks_and_lanes, true);
}

static void test_scored_prompt(void **state) {
  (void)state;
  for_all(scored_prompt, true);
}

static void test_among_others(void **state) {
  (void)state;
  for_all(among_others, true);
}

/* TOKENLANE_CPU names what open chooses. */
static void test_choice(void **state) {
  (void)state;
  struct tl_device_options options = {.n_lanes = 1};
  for (enum tl_cpu_isa isa = TL_ISA_PLAIN; isa <= TL_ISA_AVX512_BF16 && tl_cpu_can(isa); isa++) {
    setenv("TOKENLANE_CPU", tl_cpu_isa_name(isa), 1);
    struct tl_device *device;
    struct tl_error err = {0};
    assert_int_equal(cpu_device_ops.open(&options, &device, &err), TL_OK);
    assert_string_equal(((struct cpu_device *)device)->kernels->name, tl_cpu_isa_name(isa));
    cpu_device_ops.close(device);
  }
  unsetenv("TOKENLANE_CPU");
}

/* The weights are copies: the files may go away once the device has loaded. */
static void test_released_files(void **state) {
  (void)state;
  struct golden *g = malloc(sizeof *g);
  open_golden("f16_sharded", g);
  struct machine m = open_machine(g->model, cpu_choose_kernels(TL_ISA_PLAIN), 1);
  tl_model_release_files(g->model);
  struct sequence *s = new_sequence(g->cases[0].prompt, g->cases[0].n_prompt);
  run_alone(&m, s, 3, whole, 1);
  for (unsigned i = 0; i < 3; i++) assert_int_equal(s->tokens[s->n_prompt + i], g->cases[0].tokens[i]);
  free(s);
  close_machine(&m);
  close_golden(g);
  free(g);
}

static void test_find(void **state) {
  (void)state;
  static const char *const good[] = {"cpu", "cpu:0", "cpu:17"}, *const bad[] = {"", ":", ":0", "cpu:", "cpu:x", "cpu:-1",
      "cpu:1x", "cpu: 1", "cp:0", "cpux:0", "cpu:99999999999999999999", "gpu:0"};
  struct tl_error err = {0};
  unsigned index = 99;
  for (unsigned i = 0; i < UNIT_COUNT(good); i++) {
    assert_ptr_equal(tl_device_find(good[i], &index, &err), &cpu_device_ops);
    assert_int_equal(index, i == 2 ? 17 : 0);
  }
  for (unsigned i = 0; i < UNIT_COUNT(bad); i++) {
    assert_null(tl_device_find(bad[i], &index, &err));
    assert_int_equal(err.code, TL_EINVAL);
  }
}

/* Element e of token `at` of layer 0, head 0, in the cache; V with `value`. */
static float cached(const struct cpu_device *d, const struct sequence *s, uint32_t head, uint32_t at, uint32_t e,
                    bool value) {
  const char *base = d->kv + s->table[at / TL_BLOCK_TOKENS] * d->heads.layer_bytes + head * d->heads.head_bytes;
  size_t element = (size_t)e * TL_BLOCK_TOKENS + at % TL_BLOCK_TOKENS, bytes = tl_dtype_bytes(d->kv_dtype);
  if (value) {
    base += d->model->n_kv_heads * d->heads.head_bytes;
    element = (size_t)(at % TL_BLOCK_TOKENS) * d->heads.pad + e;
  }
  float number;
  tl_dtype_to_f32(d->kv_dtype, base + element * bytes, &number, 1);
  return number;
}

/* The first layer's keys and values do not depend on the cache: those kept in 16
 * bits are those kept in 32, rounded to nearest. */
static void test_cache(void **state) {
  (void)state;
  const struct cpu_kernels *kernels = cpu_choose_kernels(TL_ISA_PLAIN);
  for (unsigned i = 0; i < UNIT_COUNT(model_names); i++) {
    struct golden *g = malloc(sizeof *g);
    open_golden(model_names[i], g);
    const struct golden_case *c = &g->cases[1];
    enum tl_dtype own = g->model->dtype;
    struct sequence *s[2];
    struct machine m[2];
    for (unsigned k = 0; k < 2; k++) {
      if (k) g->model->dtype = TL_DTYPE_F32;
      m[k] = open_machine(g->model, kernels, 1);
      s[k] = new_sequence(c->prompt, c->n_prompt);
      run_alone(&m[k], s[k], 1, whole, 1);
    }
    for (uint32_t n = 0; n < c->n_prompt * g->model->n_kv_heads * g->model->head_dim * 2; n++) {
      uint32_t e = n / 2 % g->model->head_dim, at = n / 2 / g->model->head_dim;
      uint32_t head = at % g->model->n_kv_heads;
      at /= g->model->n_kv_heads;
      float kept = cached((struct cpu_device *)m[0].device, s[0], head, at, e, n % 2);
      float exact = cached((struct cpu_device *)m[1].device, s[1], head, at, e, n % 2);
      if (own == TL_DTYPE_BF16) exact = tl_bf16_to_f32(tl_f32_to_bf16(exact));
      if (own == TL_DTYPE_F16) exact = tl_f16_to_f32(tl_f32_to_f16(exact));
      if (!same_bits(kept, exact)) fail_msg("%s: token %u, head %u, element %u", g->folder, at, head, e);
    }
    for (unsigned k = 0; k < 2; k++) {
      free(s[k]);
      close_machine(&m[k]);
    }
    close_golden(g);
    free(g);
  }
}

/* Matrices of one record in two formats: the products are those of one format, as
 * the other holds the same values. */
static void mixed_formats(const struct golden *g, const struct cpu_kernels *kernels) {
  static const struct {
    unsigned kind, input;
  } changes[] = {{TL_OP_QKV, 1}, {TL_OP_GATED_UP, 0}, {TL_OP_GATED_UP, 1}, {TL_OP_MLP_DOWN, 0}, {TL_OP_GATED_UP, 0}};
  if (g->model->dtype == TL_DTYPE_F32) return;
  const struct golden_case *c = &g->cases[1];
  void *copies[64];
  struct tl_tensor *changed[64], before[64];
  unsigned n = 0;
  for (uint32_t i = 0; i < g->model->n_ops; i++)
    for (unsigned k = 0; k < UNIT_COUNT(changes); k++) {
      const struct tl_op *op = &g->model->plan[i];
      /* another change in each layer */
      if (op->kind != changes[k].kind || (op->layer + k) % 2) continue;
      struct tl_tensor *t = (struct tl_tensor *)&g->model->tensors[op->weight[changes[k].input]];
      if (t->dtype == TL_DTYPE_F32) continue;
      size_t count = t->bytes / tl_dtype_bytes(t->dtype);
      before[n] = *t;
      copies[n] = malloc(count * sizeof(float));
      tl_dtype_to_f32(t->dtype, t->data, copies[n], count);
      changed[n] = t;
      *t = (struct tl_tensor){.name = t->name, .dtype = TL_DTYPE_F32, .n_dims = t->n_dims,
                              .shape = {t->shape[0], t->shape[1]}, .data = copies[n], .bytes = count * sizeof(float)};
      n++;
    }
  struct machine m = open_machine(g->model, kernels, 2);
  struct sequence *mixed = new_sequence(c->prompt, c->n_prompt), *own = new_sequence(c->prompt, c->n_prompt);
  run_alone(&m, mixed, N_NEW, whole, 1);
  check_golden(c, mixed, tolerance_of(g->model, kernels));
  close_machine(&m);
  for (unsigned i = 0; i < n; i++) {
    *changed[i] = before[i];
    free(copies[i]);
  }
  assert_true(n > 4);
  m = open_machine(g->model, kernels, 1);
  run_alone(&m, own, N_NEW, whole, 1);
  close_machine(&m);
  if (!kernels->convert) check_identical(own, mixed, "mixed formats");
  free(own);
  free(mixed);
}

static void test_mixed_formats(void **state) {
  (void)state;
  for_all(mixed_formats, true);
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 1
extern void *__libc_malloc(size_t bytes);
static _Atomic unsigned n_allocations;

/* In place of the library's, which sort functions and others call as well. */
__attribute__((visibility("default"))) void *malloc(size_t bytes) {
  atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
  return __libc_malloc(bytes);
}
#else
#define COUNTS_ALLOCATIONS 0
static _Atomic unsigned n_allocations;
#endif

/* device.h: no step allocates, whatever the way to draw. */
static void test_no_allocation(void **state) {
  (void)state;
  struct golden *g = malloc(sizeof *g);
  open_golden("f16_sharded", g);
  struct machine m = open_machine(g->model, cpu_choose_kernels(tl_cpu_best_isa()), 2);
  struct sequence *s[4];
  for (unsigned i = 0; i < 4; i++) {
    s[i] = new_sequence(g->cases[1].prompt, g->cases[1].n_prompt);
    s[i]->score_prompt = i == 3;
    s[i]->sampling.temperature = i ? 3 : 0;
    s[i]->sampling.top_p = i == 2 ? 0.99999f : 1; /* nearly all of the vocabulary is sorted */
    s[i]->sampling.top_k = i == 3 ? 250 : 0;
  }
  unsigned before = n_allocations;
  void *volatile one = malloc(1);
  free(one);
  assert_int_equal(n_allocations - before, COUNTS_ALLOCATIONS);
  before = n_allocations;
  for (unsigned i = 0; i < 4; i++) run_alone(&m, s[i], 5, whole, 1);
  assert_int_equal(n_allocations, before);
  for (unsigned i = 0; i < 4; i++) free(s[i]);
  close_machine(&m);
  close_golden(g);
  free(g);
}

/* A row whose logits are not numbers says so, for that step only. */
static void test_not_a_number(void **state) {
  (void)state;
  struct golden *g = malloc(sizeof *g);
  open_golden("f32_odd", g);
  struct tl_tensor *embed = (struct tl_tensor *)&g->model->tensors[g->model->plan[0].weight[0]];
  float *copy = malloc(embed->bytes);
  memcpy(copy, embed->data, embed->bytes);
  copy[7 * g->model->dim + 3] = NAN;
  embed->data = copy;
  struct machine m = open_machine(g->model, cpu_choose_kernels(tl_cpu_best_isa()), 2);
  int32_t token = 7;
  uint32_t zero = 0, one = 1, start[] = {0, 1};
  struct tl_sampling sampling = {.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1};
  struct tl_step step = {.n_tokens = 1, .n_seqs = 1, .n_rows = 1, .table_stride = 1, .tokens = &token, .positions = &zero, .slots = &zero,
                         .query_start = start, .context_len = &one, .block_tables = &zero, .rows = &zero, .sampling = &sampling};
  struct tl_sampled sampled;
  for (unsigned i = 0; i < 4; i++) {
    struct tl_error err = {0};
    token = i % 2 ? 8 : 7;
    assert_int_equal(m.ops->submit(m.device, &step, &err), TL_OK);
    assert_int_equal(m.ops->collect(m.device, &sampled, &err), TL_OK);
    assert_int_equal(sampled.token >= 0, i % 2);
  }
  close_machine(&m);
  close_golden(g);
  free(copy);
  free(g);
}

/* Too little KV memory for one context is an error that says so. */
static void test_little_memory(void **state) {
  (void)state;
  struct golden *g = malloc(sizeof *g);
  open_golden("f32_odd", g);
  struct tl_device_options options = {.n_lanes = 2};
  struct tl_device *device;
  struct tl_error err = {0};
  assert_int_equal(cpu_device_ops.open(&options, &device, &err), TL_OK);
  struct tl_device_load load = {.model = g->model, .max_batch_size = 4, .max_batch_tokens = 16, .max_context = 512,
                                .kv_memory_bytes = 1 << 18};
  struct tl_device_loaded loaded;
  assert_int_equal(cpu_device_ops.load(device, &load, &loaded, &err), TL_ENOMEM);
  assert_string_equal(err.field, "engine.kv_memory_bytes");
  cpu_device_ops.close(device);
  /* unless fewer tokens are enough: then there are blocks for as many as fit */
  assert_int_equal(cpu_device_ops.open(&options, &device, &err), TL_OK);
  load.least_context = 64;
  assert_int_equal(cpu_device_ops.load(device, &load, &loaded, &err), TL_OK);
  assert_true(loaded.n_blocks >= 4 && loaded.n_blocks < 512 / TL_BLOCK_TOKENS && loaded.kv_bytes <= load.kv_memory_bytes);
  cpu_device_ops.close(device);
  /* of a draft model, whose blocks are a third of its size, a quarter of the memory is left to that, which then has as many blocks whatever it is told of memory */
  uint32_t alone = loaded.n_blocks;
  load.kv_memory_bytes = 1 << 20;
  load.beside_block_bytes = loaded.kv_bytes / alone / 3;
  assert_int_equal(cpu_device_ops.open(&options, &device, &err), TL_OK);
  assert_int_equal(cpu_device_ops.load(device, &load, &loaded, &err), TL_OK);
  assert_in_range(loaded.n_blocks, alone * 3 - 3, alone * 3 + 3);
  cpu_device_ops.close(device);
  load.kv_memory_bytes = 1 << 14, load.n_blocks = loaded.n_blocks;
  assert_int_equal(cpu_device_ops.open(&options, &device, &err), TL_OK);
  assert_int_equal(cpu_device_ops.load(device, &load, &loaded, &err), TL_OK);
  assert_int_equal(loaded.n_blocks, load.n_blocks);
  cpu_device_ops.close(device);
  close_golden(g);
  free(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_find),           cmocka_unit_test(test_choice),         cmocka_unit_test(test_little_memory),
      cmocka_unit_test(test_released_files), cmocka_unit_test(test_cache), cmocka_unit_test(test_not_a_number),
      cmocka_unit_test(test_mixed_formats), cmocka_unit_test(test_no_allocation),
      cmocka_unit_test(test_against_transformers),
      cmocka_unit_test(test_scored_prompt),  cmocka_unit_test(test_chunks_and_lanes), cmocka_unit_test(test_among_others),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
