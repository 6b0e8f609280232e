/* SPDX-License-Identifier: MIT */
/* Latent attention on the CPU backend beyond what test_llama_golden.c and test_groups.c do with the golden models: its kernels
 * against plain sums, contexts of many stretches, number formats. */
#define MAX_TOKENS 1300
#define MAX_CONTEXT 1312

#include <math.h>

#include "unit.h"

#include "bf16_emulated.h"
#include "float_twin.h"
#include "golden_llama.h"
#include "kernel_unit.h"

#define N_KEY 28
#define N_VALUE 20
#define PAD 32

static float noise(uint64_t *random) {
  return (float)unit_below(random, 2001) / 1000 - 1;
}

/* What query i of q (N_KEY, 16) has of the first n_keys rows. */
static void plain_attention(const float *rows, const float *q, unsigned i, uint32_t n_keys, float scale, double *ret) {
  double most = -INFINITY, total = 0;
  double *weights = malloc(n_keys * sizeof *weights);
  for (uint32_t t = 0; t < n_keys; t++) {
    weights[t] = 0;
    for (unsigned e = 0; e < N_KEY; e++) weights[t] += (double)q[e * 16 + i] * (double)rows[t * N_KEY + e];
    weights[t] *= (double)scale;
    most = fmax(most, weights[t]);
  }
  for (uint32_t t = 0; t < n_keys; t++) total += weights[t] = exp(weights[t] - most);
  for (unsigned e = 0; e < N_VALUE; e++) {
    ret[e] = 0;
    for (uint32_t t = 0; t < n_keys; t++) ret[e] += weights[t] / total * (double)rows[t * N_KEY + e];
  }
  free(weights);
}

static void attend_on(const struct cpu_kernels *kernels, enum tl_dtype dtype, uint32_t longest) {
  uint64_t random = 11;
  uint32_t n_blocks = tl_blocks_of(longest), table[100], n_keys[16];
  size_t block_bytes = (size_t)PAD * TL_BLOCK_TOKENS * tl_dtype_bytes(dtype);
  char *cache = malloc(n_blocks * block_bytes);
  float *rows = malloc((size_t)longest * N_KEY * sizeof *rows), q[N_KEY * 16];
  float *out = malloc(cpu_latent_floats(N_VALUE) * sizeof *out), *part = malloc(cpu_latent_floats(N_VALUE) * sizeof *part);
  float *scratch = malloc(CPU_LATENT_RUN * (PAD + 16) * sizeof *scratch);
  assert_true(n_blocks <= UNIT_COUNT(table));
  memset(cache, dtype == TL_DTYPE_F8_E4M3 ? 0x7f : 0xff, n_blocks * block_bytes); /* NaN where nothing is written */
  shuffle(table, n_blocks, 5);
  for (uint32_t t = 0; t < longest; t++)
    for (unsigned e = 0; e < N_KEY; e++) {
      char *block = cache + table[t / TL_BLOCK_TOKENS] * block_bytes;
      put(dtype, block, (size_t)(t % TL_BLOCK_TOKENS) * PAD + e, noise(&random));
      tl_dtype_to_f32(dtype, block + ((size_t)(t % TL_BLOCK_TOKENS) * PAD + e) * tl_dtype_bytes(dtype), &rows[t * N_KEY + e], 1);
    }
  for (unsigned i = 0; i < 16; i++) n_keys[i] = i < 15 ? 1 + unit_below(&random, longest) : longest;
  for (unsigned i = 0; i < UNIT_COUNT(q); i++) q[i] = 4 * noise(&random);
  struct cpu_latent_attention a = {dtype, N_KEY, N_VALUE, PAD, block_bytes, cache, table, 0.7f};
  for (uint32_t at = 0; at < longest; at += CPU_LATENT_STRETCH) {
    uint32_t end = longest - at < CPU_LATENT_STRETCH ? longest : at + CPU_LATENT_STRETCH;
    kernels->attend_latent(&a, q, n_keys, at, end, at ? part : out, scratch);
    if (at) kernels->merge_latent(out, part, PAD);
  }
  for (unsigned i = 0; i < 16; i++) {
    double expected[N_VALUE];
    plain_attention(rows, q, i, n_keys[i], a.scale, expected);
    for (unsigned e = 0; e < N_VALUE; e++) {
      double got = (double)out[e * 16 + i] / (double)out[(PAD + 1) * 16 + i];
      if (!(fabs(got - expected[e]) < 2e-5)) fail_msg("%s: query %u, %u: %g, expected %g", kernels->name, i, e, got, expected[e]);
    }
  }
  free(cache);
  free(rows);
  free(out);
  free(part);
  free(scratch);
}

static void test_kernels(void **state) {
  (void)state;
  static const uint32_t lengths[] = {1, 2, 15, 33, 100, 512, 513, 1300};
  const struct cpu_kernels *kernels[MAX_KERNELS];
  unsigned n = runnable_kernels(kernels);
  for (unsigned k = 0; k < n; k++)
    for (unsigned i = 0; i < UNIT_COUNT(lengths); i++)
      for (unsigned d = 0; d < UNIT_COUNT(kv_dtypes); d++) attend_on(kernels[k], kv_dtypes[d], lengths[i]);
}

/* A context of three stretches, alone by one lane, and by several that share it in one round or many: to the bit. */
static void test_shared_context(void **state) {
  (void)state;
  static const uint32_t chunk[] = {300};
  struct golden g;
  struct sequence *first = NULL;
  int32_t prompt[1200];
  uint64_t random = 3;
  open_golden("arch/deepseek_v3", &g);
  for (unsigned i = 0; i < UNIT_COUNT(prompt); i++) prompt[i] = (int32_t)unit_below(&random, g.model->vocab_size);
  for (unsigned way = 0; way < 3; way++) {
    struct machine m = open_machine(g.model, cpu_choose_kernels(tl_cpu_best_isa()), way ? 3 : 1);
    struct cpu_device *d = (struct cpu_device *)m.device;
    assert_int_equal(d->heads.layer_bytes, TL_BLOCK_TOKENS * 80 * sizeof(float)); /* one row a token */
    if (way == 2) d->latent.n_parts = 2;
    struct sequence *s = new_sequence(prompt, UNIT_COUNT(prompt));
    run_alone(&m, s, 6, chunk, 1);
    if (first) assert_same_draws(first, s, "shared");
    if (first) free(s);
    else first = s;
    close_machine(&m);
  }
  free(first);
  close_golden(&g);
}

/* All matrices rounded to a format of 16 bits, in memory that is `copies`; or their values as floats. */
static void round_to(struct tl_model *model, enum tl_dtype dtype, bool floats, void **copies) {
  for (uint32_t i = 0; i < model->n_tensors; i++) {
    struct tl_tensor *t = (struct tl_tensor *)(uintptr_t)&model->tensors[i];
    copies[i] = NULL;
    if (t->n_dims != 2 || !t->shape[0]) continue;
    size_t count = t->shape[0] * t->shape[1];
    float *values = malloc(count * sizeof *values);
    uint16_t *halves = malloc(count * sizeof *halves);
    for (uint64_t row = 0; row < t->shape[0]; row++) tl_tensor_row_to_f32(t, row, values + row * t->shape[1]);
    for (size_t k = 0; k < count; k++) halves[k] = dtype == TL_DTYPE_BF16 ? tl_f32_to_bf16(values[k]) : tl_f32_to_f16(values[k]);
    tl_dtype_to_f32(dtype, halves, values, count);
    free(floats ? (void *)halves : (void *)values);
    copies[i] = floats ? (void *)values : (void *)halves;
    *t = (struct tl_tensor){.name = t->name, .dtype = floats ? TL_DTYPE_F32 : dtype, .n_dims = 2, .shape = {t->shape[0], t->shape[1]},
                            .data = copies[i], .bytes = count * (floats ? 4 : 2)};
  }
}

/* A model of BF16 or F16 is that of its values, but for what products of BF16 pairs round. */
static void test_halves(void **state) {
  (void)state;
  const struct cpu_kernels *kernels[MAX_KERNELS];
  unsigned n = runnable_kernels(kernels);
  for (enum tl_dtype dtype = TL_DTYPE_F16; dtype <= TL_DTYPE_BF16; dtype++)
    for (unsigned k = 0; k < n; k++) {
      struct sequence *s[2];
      for (unsigned floats = 0; floats < 2; floats++) {
        struct golden g;
        open_golden("arch/deepseek_v2", &g);
        void **copies = calloc(g.model->n_tensors, sizeof *copies);
        round_to(g.model, dtype, floats, copies);
        g.model->dtype = TL_DTYPE_F32;
        struct machine m = open_machine(g.model, kernels[k], 1);
        s[floats] = new_sequence(g.cases[0].prompt, g.cases[0].n_prompt);
        run_alone(&m, s[floats], 12, whole, 1);
        close_machine(&m);
        for (uint32_t i = 0; i < g.model->n_tensors; i++) free(copies[i]);
        free(copies);
        close_golden(&g);
      }
      bool rounds = kernels[k]->convert && dtype == TL_DTYPE_BF16;
      if (!rounds) assert_same_draws(s[0], s[1], kernels[k]->name);
      for (uint32_t i = s[0]->n_prompt; rounds && i < s[0]->length; i++)
        assert_true(fabs((double)s[0]->sampled[i].logprob - (double)s[1]->sampled[i].logprob) < 0.1);
      free(s[0]);
      free(s[1]);
    }
}

/* Latents of 16 bits: the golden tokens, and nearly their log-probabilities. */
static void test_rounded_cache(void **state) {
  (void)state;
  static const char *const names[] = {"arch/deepseek_v2", "arch/moonlight"};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++)
    for (enum tl_dtype dtype = TL_DTYPE_F16; dtype <= TL_DTYPE_BF16; dtype++) {
      struct golden g;
      open_golden(names[i], &g);
      g.model->dtype = dtype;
      struct machine m = open_machine(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 2);
      struct sequence *s = new_sequence(g.cases[1].prompt, g.cases[1].n_prompt);
      run_alone(&m, s, dtype == TL_DTYPE_F16 ? N_NEW : 3, whole, 1);
      for (uint32_t k = 0; s->n_prompt + k < s->length; k++) {
        assert_int_equal(s->tokens[s->n_prompt + k], g.cases[1].tokens[k]);
        assert_true(fabs((double)s->sampled[s->n_prompt + k].logprob - g.cases[1].logprobs[k]) < 0.1);
      }
      free(s);
      close_machine(&m);
      close_golden(&g);
    }
}

/* Weights rounded while they load: what heads make of latents and queries stays as it is. */
static void test_quantized(void **state) {
  (void)state;
  struct golden g;
  struct tl_error err = {0};
  open_golden("experts/deepseek_f8_block", &g);
  const struct tl_model *model = g.model;
  uint32_t n = 0;
  void **copies = calloc(model->n_tensors, sizeof *copies);
  round_to(g.model, TL_DTYPE_BF16, false, copies);
  uint32_t n_copies = model->n_tensors;
  if (tl_model_quantize(g.model, "q8_0", &err) < 0) fail_msg("%s", err.message);
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    if (op->kind == TL_OP_LATENT) assert_int_equal(model->tensors[op->weight[1]].dtype, TL_DTYPE_Q8_0);
    if (op->kind == TL_OP_LATENT_ABSORB || op->kind == TL_OP_LATENT_VALUE)
      n += model->tensors[op->weight[0]].dtype == TL_DTYPE_BF16;
  }
  assert_int_equal(n, 2 * 2);
  struct machine m = open_machine(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  struct sequence *s = new_sequence(g.cases[0].prompt, g.cases[0].n_prompt);
  run_alone(&m, s, 4, whole, 1);
  for (unsigned k = 0; k < 4; k++) assert_int_equal(s->tokens[s->n_prompt + k], g.cases[0].tokens[k]);
  free(s);
  close_machine(&m);
  for (uint32_t i = 0; i < n_copies; i++) free(copies[i]);
  free(copies);
  close_golden(&g);
}

/* Heads' matrices in blocks, as llama.cpp has them: their values. Other products round their rows to 8 bits. */
static void test_blocks(void **state) {
  (void)state;
  float *copies[200];
  uint32_t n;
  struct tl_model *models[2] = {load_model("gguf/arch_deepseek_q8_0.gguf"), new_twin("gguf/arch_deepseek_q8_0.gguf", copies, &n)};
  assert_true(n <= UNIT_COUNT(copies));
  unsigned n_blocks = 0;
  for (uint32_t i = 0; i < models[0]->n_ops; i++) {
    const struct tl_op *op = &models[0]->plan[i];
    if (op->kind == TL_OP_LATENT_ABSORB || op->kind == TL_OP_LATENT_VALUE) n_blocks += models[0]->tensors[op->weight[0]].dtype == TL_DTYPE_Q8_0;
  }
  assert_int_equal(n_blocks, 2 * 2);
  struct sequence *s[2];
  int32_t prompt[40];
  uint64_t random = 8;
  for (unsigned i = 0; i < UNIT_COUNT(prompt); i++) prompt[i] = (int32_t)unit_below(&random, models[0]->vocab_size);
  for (unsigned k = 0; k < 2; k++) {
    models[k]->dtype = TL_DTYPE_F32;
    struct machine m = open_machine(models[k], cpu_choose_kernels(tl_cpu_best_isa()), 1);
    s[k] = new_sequence(prompt, UNIT_COUNT(prompt));
    run_alone(&m, s[k], 4, whole, 1);
    close_machine(&m);
  }
  for (uint32_t i = UNIT_COUNT(prompt); i < s[0]->length; i++) {
    assert_int_equal(s[0]->tokens[i], s[1]->tokens[i]);
    assert_true(fabs((double)s[0]->sampled[i].logprob - (double)s[1]->sampled[i].logprob) < 0.1);
  }
  for (unsigned k = 0; k < 2; k++) {
    free(s[k]);
    tl_model_free(models[k]);
  }
  while (n) free(copies[--n]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_kernels), cmocka_unit_test(test_shared_context), cmocka_unit_test(test_halves),
                                     cmocka_unit_test(test_rounded_cache), cmocka_unit_test(test_quantized),
                                     cmocka_unit_test(test_blocks)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
