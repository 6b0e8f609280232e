/* SPDX-License-Identifier: MIT */
/* Mixtures of experts on the CPU backend beyond what test_llama_golden.c and test_groups.c do with the golden ones:
 * GPT-OSS's MXFP4 as shipped, experts rounded while they load, formats that differ, routing with odd scores. */
#include <math.h>

#include "unit.h"

#include "device/cpu/cpu_quant.h"
#include "golden_llama.h"

#define MAX_COPIES 400

/* All matrices become floats, whose memory is `copies`. */
static unsigned to_floats(struct tl_model *model, float **copies) {
  unsigned n = 0;
  for (uint32_t i = 0; i < model->n_tensors; i++) {
    struct tl_tensor *t = (struct tl_tensor *)(uintptr_t)&model->tensors[i];
    if (t->n_dims != 2 || !tl_quant_format(t->dtype)) continue;
    assert_true(n < MAX_COPIES);
    size_t count = t->shape[0] * t->shape[1];
    float *copy = copies[n++] = malloc(count * sizeof(float));
    for (uint64_t row = 0; row < t->shape[0]; row++) tl_tensor_row_to_f32(t, row, copy + row * t->shape[1]);
    *t = (struct tl_tensor){.name = t->name, .dtype = TL_DTYPE_F32, .n_dims = 2, .shape = {t->shape[0], t->shape[1]},
                            .data = copy, .bytes = count * sizeof(float)};
  }
  return n;
}

static void free_copies(float **copies, unsigned n) {
  for (unsigned i = 0; i < n; i++) free(copies[i]);
}

static int compare_numbers(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* How far the log-probabilities of a text are off by which it was made: the largest distance, and *ret_median. */
static double score(const struct tl_model *model, const struct sequence *text, double *ret_median) {
  struct machine m = open_machine(model, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  struct sequence *s = new_sequence(text->tokens, text->length);
  double off[N_NEW];
  const uint32_t chunk = BATCH_SIZE / 2;
  s->score_prompt = true;
  s->sampling.n_top = 0;
  run_alone(&m, s, 1, &chunk, 1);
  for (uint32_t i = 0; i < N_NEW; i++)
    off[i] = fabs((double)s->sampled[text->n_prompt + i].logprob - (double)text->sampled[text->n_prompt + i].logprob);
  qsort(off, N_NEW, sizeof *off, compare_numbers);
  *ret_median = off[N_NEW / 2];
  free(s);
  close_machine(&m);
  return off[N_NEW - 1];
}

static struct sequence *answer(const struct tl_model *model, const struct golden_case *c) {
  struct machine m = open_machine(model, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  struct sequence *s = new_sequence(c->prompt, c->n_prompt);
  run_alone(&m, s, N_NEW, whole, 1);
  close_machine(&m);
  return s;
}

/* The values of the blocks are those that transformers computed with: its tokens, its log-probabilities. */
static void test_shipped_values(void **state) {
  (void)state;
  struct golden g;
  float *copies[MAX_COPIES];
  open_golden("arch/gpt_oss_mxfp4", &g);
  assert_int_equal(g.model->weight_dtype, TL_DTYPE_F32); /* the rest of so small a model is the larger part */
  unsigned n = to_floats(g.model, copies);
  assert_int_equal(n, 3 * 4 * 2);
  for (unsigned i = 0; i < N_CASES; i++) {
    struct sequence *s = answer(g.model, &g.cases[i]);
    for (unsigned k = 0; k < N_NEW; k++) {
      const struct tl_sampled *got = &s->sampled[s->n_prompt + k];
      assert_int_equal(got->token, g.cases[i].tokens[k]);
      if (fabs((double)got->logprob - g.cases[i].logprobs[k]) > 1e-3)
        fail_msg("token %u: %f, expected %f", k, (double)got->logprob, g.cases[i].logprobs[k]);
    }
    free(s);
  }
  free_copies(copies, n);
  close_golden(&g);
}

/* The products on the blocks are those of their values, but for activations of 8 bits. */
static void test_shipped_products(void **state) {
  (void)state;
  struct golden g, twin;
  float *copies[MAX_COPIES];
  double median;
  open_golden("arch/gpt_oss_mxfp4", &g);
  open_golden("arch/gpt_oss_mxfp4", &twin);
  unsigned n = to_floats(twin.model, copies);
  struct sequence *s = answer(g.model, &g.cases[1]);
  double worst = score(twin.model, s, &median);
  printf("MXFP4: within %.2g, %.2g in the median\n", worst, median);
  assert_true(median > 0 && median < 0.05 && worst < 0.3);
  free(s);
  free_copies(copies, n);
  close_golden(&g);
  close_golden(&twin);
}

/* Rounded while they load, the experts with all else: products on the blocks against those on the blocks' values.
 * Now and then a row's scores are so near each other that it takes another expert, and is far off: so the median counts. */
static void test_rounded(void **state) {
  (void)state;
  static const char *const formats[] = {"q8_0", "q4_0"};
  for (unsigned i = 0; i < UNIT_COUNT(formats); i++) {
    struct golden g[2];
    struct tl_error err = {0};
    float *copies[2][MAX_COPIES];
    unsigned n[2];
    double median;
    for (unsigned k = 0; k < 2; k++) {
      open_golden("arch/gpt_oss_mxfp4", &g[k]);
      n[k] = to_floats(g[k].model, copies[k]);
      if (tl_model_quantize(g[k].model, formats[i], &err) < 0) fail_msg("%s", err.message);
    }
    for (uint32_t k = 0; k < g[0].model->n_ops; k++) {
      const struct tl_op *op = &g[0].model->plan[k];
      if (op->kind == TL_OP_ROUTE) assert_int_equal(g[0].model->tensors[op->weight[0]].dtype, TL_DTYPE_F32);
      for (uint32_t e = 0; op->kind == TL_OP_EXPERTS_DOWN && e < op->n_experts; e++)
        assert_int_equal(g[0].model->tensors[op->weight[0] + (int32_t)e].dtype, i ? TL_DTYPE_Q4_0 : TL_DTYPE_Q8_0);
    }
    n[1] += to_floats(g[1].model, copies[1] + n[1]);
    struct sequence *s = answer(g[0].model, &g[0].cases[1]);
    double worst = score(g[1].model, s, &median);
    printf("%s: within %.2g, %.2g in the median\n", formats[i], worst, median);
    assert_true(median > 0 && median < 0.08);
    free(s);
    for (unsigned k = 0; k < 2; k++) {
      free_copies(copies[k], n[k]);
      close_golden(&g[k]);
    }
  }
}

#define N_CROWD 12

static void batch_on(const struct cpu_kernels *kernels) {
  struct golden g;
  struct sequence *s[2][N_CROWD];
  open_golden("arch/gpt_oss_mxfp4", &g);
  for (unsigned together = 0; together < 2; together++) {
    struct machine m = open_machine(g.model, kernels, 1 + together);
    uint64_t random = 5;
    for (unsigned i = 0; i < N_CROWD; i++) {
      int32_t prompt[50];
      uint32_t n = 1 + unit_below(&random, 50);
      for (uint32_t k = 0; k < n; k++) prompt[k] = (int32_t)unit_below(&random, g.model->vocab_size);
      s[together][i] = new_sequence(prompt, n);
      if (!together) run_alone(&m, s[0][i], 12, whole, 1);
    }
    for (bool running = together; running;) {
      struct part parts[N_CROWD];
      unsigned n = 0;
      running = false;
      for (unsigned i = 0; i < N_CROWD; i++) {
        struct sequence *one = s[1][i];
        if (is_done(one, 12)) continue;
        running = true;
        if (unit_below(&random, 4)) parts[n++] = (struct part){one, 1 + unit_below(&random, one->length - one->n_cached)};
      }
      if (n) run_parts(&m, parts, n);
    }
    close_machine(&m);
  }
  for (unsigned i = 0; i < N_CROWD; i++) {
    assert_same_draws(s[0][i], s[1][i], "gpt_oss_mxfp4");
    free(s[0][i]);
    free(s[1][i]);
  }
  close_golden(&g);
}

/* Quantized experts too: alone, and together on two lanes, to the bit; by floats and by pairs of BF16 where there are such. */
static void test_batch(void **state) {
  (void)state;
  batch_on(cpu_choose_kernels(tl_cpu_best_isa()));
  if (tl_cpu_can(TL_ISA_AVX512_BF16)) batch_on(cpu_choose_kernels(TL_ISA_AVX512_BF16));
}

/* In two ranks, each with half of the experts: blocks are never cut, so only the sums differ. */
static void test_ranks(void **state) {
  (void)state;
  struct golden g;
  open_golden("arch/gpt_oss_mxfp4", &g);
  struct sequence *one = answer(g.model, &g.cases[0]);
  struct machine m = open_group(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 1, 2);
  struct sequence *two = new_sequence(g.cases[0].prompt, g.cases[0].n_prompt);
  run_alone(&m, two, N_NEW, whole, 1);
  for (uint32_t k = one->n_prompt; k < one->length; k++) assert_int_equal(one->tokens[k], two->tokens[k]);
  const struct cpu_device *rank = (const struct cpu_device *)m.ranks[1];
  assert_int_equal(rank->shard.first_expert, 2);
  assert_int_equal(rank->shard.n_experts, 2);
  close_machine(&m);
  free(one);
  free(two);
  close_golden(&g);
}

/* Formats that differ from expert to expert, and within one: each row is converted for its own. */
static void test_mixed_experts(void **state) {
  (void)state;
  struct golden g;
  float *copies[MAX_COPIES];
  unsigned n = 0;
  double median;
  open_golden("arch/gpt_oss_mxfp4", &g);
  struct sequence *s = answer(g.model, &g.cases[1]);
  for (uint32_t k = 0; k < g.model->n_ops; k++) {
    const struct tl_op *op = &g.model->plan[k];
    for (unsigned i = 0; i < 2; i++) {
      if (op->kind != TL_OP_EXPERTS_UP && (op->kind != TL_OP_EXPERTS_DOWN || i)) continue;
      /* the gate of one, the other matrix of another */
      struct tl_tensor *t = (struct tl_tensor *)(uintptr_t)&g.model->tensors[op->weight[i] + (int32_t)(op->layer + i) % 4];
      float *copy = copies[n++] = malloc(t->shape[0] * t->shape[1] * sizeof(float));
      for (uint64_t row = 0; row < t->shape[0]; row++) tl_tensor_row_to_f32(t, row, copy + row * t->shape[1]);
      *t = (struct tl_tensor){.name = t->name, .dtype = TL_DTYPE_F32, .n_dims = 2, .shape = {t->shape[0], t->shape[1]},
                              .data = copy, .bytes = t->shape[0] * t->shape[1] * sizeof(float)};
    }
  }
  assert_int_equal(n, 6);
  double worst = score(g.model, s, &median);
  assert_true(median > 0 && median < 0.05 && worst < 0.3);
  free(s);
  free_copies(copies, n);
  close_golden(&g);
}

/* A router's row that is no numbers: the row ends as one that is none, the others do not notice. */
static void test_not_a_number(void **state) {
  (void)state;
  struct golden g;
  open_golden("arch/mixtral", &g);
  struct machine m = open_machine(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 2);
  struct cpu_device *d = (struct cpu_device *)m.device;
  const struct golden_case *c = &g.cases[0];
  /* one token's embedding becomes NaN, which none of the golden prompt's is */
  int32_t bad = 3;
  for (bool free_one = false; !free_one; bad += !free_one) {
    free_one = true;
    for (uint32_t i = 0; i < c->n_prompt; i++) free_one = free_one && c->prompt[i] != bad;
  }
  float *row = (float *)(void *)(uintptr_t)(d->weights.embed.rows + (size_t)bad * g.model->dim * sizeof(float));
  row[0] = NAN;
  int32_t tokens[6] = {bad};
  uint32_t positions[6] = {0}, slots[6] = {16}, start[3] = {0, 1, 1 + c->n_prompt}, context[2] = {1, c->n_prompt};
  uint32_t tables[2] = {1, 2}, rows[2] = {0, c->n_prompt};
  struct tl_sampling sampling[2];
  struct tl_sampled sampled[2];
  struct tl_error err;
  assert_int_equal(c->n_prompt, 5);
  for (uint32_t i = 0; i < c->n_prompt; i++) {
    tokens[i + 1] = c->prompt[i];
    positions[i + 1] = i;
    slots[i + 1] = 32 + i;
  }
  sampling[0] = sampling[1] = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = 0};
  struct tl_step step = {.n_tokens = 6, .n_seqs = 2, .n_rows = 2, .table_stride = 1, .tokens = tokens, .positions = positions,
                         .slots = slots, .query_start = start, .context_len = context, .block_tables = tables, .rows = rows,
                         .sampling = sampling};
  assert_int_equal(m.ops->submit(m.device, &step, &err), TL_OK);
  assert_int_equal(m.ops->collect(m.device, sampled, &err), TL_OK);
  assert_int_equal(sampled[0].token, -1);
  assert_int_equal(sampled[1].token, c->tokens[0]);
  close_machine(&m);
  close_golden(&g);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_shipped_values), cmocka_unit_test(test_shipped_products),
                                     cmocka_unit_test(test_rounded),        cmocka_unit_test(test_batch),
                                     cmocka_unit_test(test_ranks),          cmocka_unit_test(test_mixed_experts),
                                     cmocka_unit_test(test_not_a_number)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
