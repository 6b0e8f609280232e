/* SPDX-License-Identifier: MIT */
/* Models that make vectors, on the CPU backend: against transformers (tests/golden/make_encoders.py), against the same in
 * other files, and against themselves, alone and among others, on several lanes. */
#include <math.h>

#include "encoder_ranks.h"
#include "float_twin.h"
#include "kernel_unit.h"
#include "unit.h"

static struct machine open_group(const struct tl_model *model, const struct cpu_kernels *kernels, unsigned n_lanes, unsigned n_ranks) {
  struct tl_error err = {0};
  unsigned index;
  struct machine m = open_ranks(tl_device_find("cpu:0", &index, &err), n_lanes, n_ranks);
  struct tl_device_load load = {.model = model, .max_batch_size = BATCH_SIZE, .max_batch_tokens = BATCH_TOKENS,
                                .max_context = model->max_context};
  for (unsigned i = 0; i < n_ranks; i++) ((struct cpu_device *)m.ranks[i])->kernels = kernels;
  load_ranks(&m, &load);
  for (unsigned i = 0; i < n_ranks; i++) {
    struct cpu_device *cpu = (struct cpu_device *)m.ranks[i];
    /* the last of the activations: each rank makes all vectors */
    assert_true((char *)(cpu->vectors[1] + BATCH_SIZE * cpu->ld_vector) <= cpu->activations + cpu->activation_bytes);
    assert_true(cpu->vectors[0] + BATCH_SIZE * cpu->ld_vector <= cpu->vectors[1]);
    memset(cpu->kv, 0xff, cpu->kv_bytes); /* NaN: keys that were never stored show */
  }
  return m;
}

static struct machine open_machine(const struct tl_model *model, const struct cpu_kernels *kernels, unsigned n_lanes) {
  return open_group(model, kernels, n_lanes, 1);
}

/* Rounded weights are the model's own; with BF16 products, so are rows on their way. */
static double tolerance_of(const struct tl_model *model, const struct cpu_kernels *kernels) {
  if (model->dtype == TL_DTYPE_F32) return 2e-5;
  return kernels->convert ? 8e-2 : 4e-2;
}

static void against_transformers(const struct golden *g, const struct cpu_kernels *kernels, const char *name) {
  float vector[MAX_OUT];
  double worst = 0;
  struct machine m = open_machine(g->model, kernels, 1);
  for (unsigned i = 0; i < N_CASES; i++) {
    const struct text *text = &g->texts[i];
    run(&m, &text, 1, vector);
    for (uint32_t k = 0; k < text->n_out; k++) {
      double off = fabs((double)vector[k] - text->vector[k]) / fmax(1, fabs(text->vector[k]));
      if (!(off <= tolerance_of(g->model, kernels)))
        fail_msg("%s: text of %u, number %u: %f, expected %f", name, text->n, k, (double)vector[k], text->vector[k]);
      worst = fmax(worst, off);
    }
  }
  printf("%s on %s: within %.2g\n", name, kernels->name, worst);
  close_machine(&m);
}

/* The same bits alone and among many, in any order, also twice in one batch; on any number of lanes. */
static void in_batches(const struct golden *g, const struct cpu_kernels *kernels) {
  static float alone[BATCH_SIZE][MAX_OUT], many[BATCH_SIZE * MAX_OUT];
  uint32_t n_out = g->model->n_out;
  uint64_t seed = 7;
  for (unsigned n_lanes = 1; n_lanes <= 3; n_lanes++) {
    struct machine m = open_machine(g->model, kernels, n_lanes);
    for (unsigned i = 0; i < BATCH_SIZE; i++) {
      const struct text *text = &g->texts[i];
      float *out = n_lanes == 1 ? alone[i] : many;
      run(&m, &text, 1, out);
      assert_memory_equal(out, alone[i], n_out * sizeof(float));
    }
    for (unsigned order = 0; order < 4; order++) {
      const struct text *texts[BATCH_SIZE];
      unsigned which[BATCH_SIZE];
      for (unsigned i = 0; i < BATCH_SIZE; i++)
        which[i] = order == 0 ? i : order == 1 ? BATCH_SIZE - 1 - i : (unsigned)unit_below(&seed, BATCH_SIZE);
      for (unsigned i = 0; i < BATCH_SIZE; i++) texts[i] = &g->texts[which[i]];
      run(&m, texts, BATCH_SIZE, many);
      for (unsigned i = 0; i < BATCH_SIZE; i++)
        assert_memory_equal(many + (size_t)i * n_out, alone[which[i]], n_out * sizeof(float));
    }
    close_machine(&m);
  }
}

static void with_kernels(const struct cpu_kernels *kernels) {
  for (unsigned i = 0; i < UNIT_COUNT(encoder_names); i++) {
    struct golden g;
    open_golden(encoder_names[i], &g);
    against_transformers(&g, kernels, encoder_names[i]);
    in_batches(&g, kernels);
    tl_model_free(g.model);
  }
}

static void test_vectors(void **state) {
  (void)state;
  for_all_kernels(with_kernels);
}

/* Near what one device says, of all texts at once. */
static double check_group(const struct golden *g, const char *name, unsigned n_ranks, double tolerance) {
  static float alone[BATCH_SIZE * MAX_OUT], together[BATCH_SIZE * MAX_OUT];
  const struct text *texts[BATCH_SIZE];
  const struct cpu_kernels *kernels = cpu_choose_kernels(tl_cpu_best_isa());
  double worst = 0;
  for (unsigned t = 0; t < BATCH_SIZE; t++) texts[t] = &g->texts[t];
  struct machine one = open_machine(g->model, kernels, 1), group = open_group(g->model, kernels, 2, n_ranks);
  run(&one, texts, BATCH_SIZE, alone);
  run(&group, texts, BATCH_SIZE, together);
  for (uint32_t i = 0; i < BATCH_SIZE * g->model->n_out; i++) {
    double off = fabs((double)together[i] - (double)alone[i]) / fmax(1, fabs((double)alone[i]));
    if (!(off <= tolerance)) fail_msg("%s in %u: number %u: %f, alone %f", name, n_ranks, i, (double)together[i], (double)alone[i]);
    worst = fmax(worst, off);
  }
  close_machine(&one);
  close_machine(&group);
  return worst;
}

/* Texts with an adapter and without: what peft says of them, the same bits in one batch, and near them in groups. */
static void test_adapters(void **state) {
  (void)state;
  static float alone[2 * N_CASES * MAX_OUT], together[2 * N_CASES * MAX_OUT];
  for (unsigned e = 0; e < UNIT_COUNT(adapted_encoders); e++) {
    struct golden g;
    open_adapted(adapted_encoders[e], &g);
    uint32_t n_out = g.model->n_out;
    const struct text *texts[2 * N_CASES];
    struct machine m = open_machine(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 2);
    for (unsigned i = 0; i < 2 * N_CASES; i++) {
      const struct text *text = texts[i] = &g.texts[i % 2 ? N_CASES + i / 2 : i / 2];
      run(&m, &text, 1, alone + (size_t)i * n_out);
      for (uint32_t k = 0; k < n_out; k++)
        if (!(fabs((double)alone[i * n_out + k] - text->vector[k]) <= 5e-5 * fmax(1, fabs(text->vector[k]))))
          fail_msg("%s, adapter %u, text of %u: number %u: %f, expected %f", adapted_encoders[e], text->adapter, text->n, k,
                   (double)alone[i * n_out + k], text->vector[k]);
    }
    run(&m, texts, 2 * N_CASES, together);
    assert_memory_equal(alone, together, 2 * N_CASES * n_out * sizeof *alone);
    close_machine(&m);
    unsigned n_ranks = g.model->n_heads % 2 ? g.model->n_heads : 2;
    printf("%s with an adapter in %u: within %.2g of one device\n", adapted_encoders[e], n_ranks, check_group(&g, adapted_encoders[e], n_ranks, 2e-5));
    tl_model_free(g.model);
  }
}

/* Whatever ranks may divide: heads, inner rows, the vocabulary. Of floats only the order of sums is another. */
static void test_groups(void **state) {
  (void)state;
  for (unsigned i = 0; i < UNIT_COUNT(encoder_names); i++) {
    struct golden g;
    open_golden(encoder_names[i], &g);
    for (unsigned n = 2; n <= MAX_RANKS; n++) {
      uint32_t kv = g.model->n_kv_heads;
      if (g.model->n_heads % n || (kv % n && n % kv)) continue;
      double worst = check_group(&g, encoder_names[i], n, g.model->dtype == TL_DTYPE_F32 ? 2e-5 : 4e-2);
      printf("%s in %u: within %.2g of one device\n", encoder_names[i], n, worst);
    }
    tl_model_free(g.model);
  }
}

/* Blocks of weights are cut where they end. What a rank has of a sum is rounded to 8 bits as elsewhere, but with scales of its own. */
static void test_group_of_rounded(void **state) {
  (void)state;
  struct golden g = {.model = load_model("gguf/encoder_q8_0.gguf")};
  for (unsigned i = 0; i < N_CASES; i++) g.texts[i] = (struct text){.n = 30 + i};
  draw_texts(&g);
  printf("rounded in 2: within %.2g of one device\n", check_group(&g, "rounded", 2, 2e-2));
  tl_model_free(g.model);
}

/* The message names the key, and how many heads there are. */
static void test_heads_that_do_not_divide(void **state) {
  (void)state;
  struct golden g;
  struct rank_run runs[MAX_RANKS];
  unsigned index;
  open_golden("bert", &g);
  struct machine m = open_ranks(tl_device_find("cpu:0", &index, &runs[0].err), 1, 2);
  struct tl_device_load load = {.model = g.model, .max_batch_size = 1, .max_batch_tokens = 32, .max_context = 32};
  run_ranks(&m, load_rank, &(struct rank_run){.load = &load}, MAX_RANKS, runs);
  for (unsigned i = 0; i < 2; i++) {
    assert_int_equal(runs[i].result, TL_EINVAL);
    assert_string_equal(runs[i].err.message, "engine.tensor_parallel: the model's 3 attention heads cannot be divided among 2 devices");
  }
  close_machine(&m);
  tl_model_free(g.model);
}

/* What a tokenizer's file says of types is not the model's: those that it lacks are read as the first. */
static void test_types_without_rows(void **state) {
  (void)state;
  struct golden g;
  float first[MAX_OUT], wild[MAX_OUT];
  open_golden("bert", &g);
  struct machine m = open_machine(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  struct text text = g.texts[2];
  const struct text *one = &text;
  memset(text.types, 0, sizeof text.types);
  run(&m, &one, 1, first);
  for (uint32_t i = 0; i < text.n; i++) text.types[i] = i % 2 ? 2 : -1;
  run(&m, &one, 1, wild);
  assert_memory_equal(first, wild, g.model->n_out * sizeof *first);
  close_machine(&m);
  tl_model_free(g.model);
}

static void all_alone(const struct tl_model *model, const struct golden *g, float *vectors) {
  struct machine m = open_machine(model, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  for (unsigned i = 0; i < BATCH_SIZE; i++) {
    const struct text *text = &g->texts[i];
    run(&m, &text, 1, vectors + (size_t)i * model->n_out);
  }
  close_machine(&m);
}

/* The same model as GGUF (tests/golden/make_gguf_encoders.py) gives the same bits, and is known for what it is. */
static void test_gguf(void **state) {
  (void)state;
  static const struct {
    const char *name, *architecture;
    enum tl_pooling pooling;
  } models[] = {{"bert", "bert", TL_POOL_MEAN}, {"roberta", "bert", TL_POOL_FIRST}, {"nomic_bert", "nomic_bert", TL_POOL_MEAN},
                {"modernbert", "modernbert", TL_POOL_FIRST}, {"qwen3", "qwen3", TL_POOL_LAST},
                {"gemma", "gemma3_text", TL_POOL_MEAN}};
  static float expected[BATCH_SIZE * MAX_OUT], got[BATCH_SIZE * MAX_OUT];
  for (unsigned i = 0; i < UNIT_COUNT(models); i++) {
    struct golden g;
    char file[64];
    open_golden(models[i].name, &g);
    snprintf(file, sizeof file, "gguf/encoder_%s.gguf", models[i].name);
    struct tl_model *model = load_model(file);
    assert_string_equal(model->architecture, models[i].architecture);
    assert_int_equal(model->pooling, models[i].pooling);
    assert_int_equal(model->max_context, g.model->max_context);
    assert_true(model->normalize && !model->is_classifier && model->n_out == g.model->n_out);
    all_alone(g.model, &g, expected);
    all_alone(model, &g, got);
    for (unsigned k = 0; k < BATCH_SIZE * g.model->n_out; k++)
      if (expected[k] != got[k]) fail_msg("%s: text %u: %f, expected %f", file, k / g.model->n_out, (double)got[k], (double)expected[k]);
    tl_model_free(model);
    tl_model_free(g.model);
  }
}

/* Matrices in blocks: near their values in floats, and in a batch as alone. */
static void test_rounded(void **state) {
  (void)state;
  static const char file[] = "gguf/encoder_q8_0.gguf";
  static float expected[BATCH_SIZE * MAX_OUT], got[BATCH_SIZE * MAX_OUT];
  float *copies[100];
  uint32_t n_copies;
  struct golden g = {.model = load_model(file)};
  struct tl_model *twin = new_twin(file, copies, &n_copies);
  for (unsigned i = 0; i < N_CASES; i++) g.texts[i] = (struct text){.n = 30 + i};
  draw_texts(&g);
  all_alone(twin, &g, expected);
  all_alone(g.model, &g, got);
  for (unsigned i = 0; i < BATCH_SIZE; i++) {
    double cosine = 0;
    for (unsigned k = 0; k < g.model->n_out; k++) cosine += (double)expected[i * g.model->n_out + k] * (double)got[i * g.model->n_out + k];
    assert_true(cosine > 0.999 && cosine < 1.001);
  }
  assert_true(memcmp(expected, got, g.model->n_out * sizeof *got) != 0);
  in_batches(&g, cpu_choose_kernels(tl_cpu_best_isa()));
  tl_model_free(g.model);
  tl_model_free(twin);
  for (uint32_t i = 0; i < n_copies; i++) free(copies[i]);
}

static void test_what_they_are(void **state) {
  (void)state;
  struct golden g;
  open_golden("bert", &g);
  assert_true(g.model->pooling == TL_POOL_MEAN && g.model->normalize && !g.model->is_classifier);
  assert_int_equal(g.model->max_context, 160);
  tl_model_free(g.model);
  open_golden("roberta_score", &g);
  assert_true(g.model->pooling == TL_POOL_FIRST && !g.model->normalize && g.model->is_classifier && g.model->n_out == 1);
  assert_int_equal(g.model->max_context, 160); /* of 162 places, two before the first */
  tl_model_free(g.model);
  open_golden("qwen3", &g);
  assert_true(g.model->pooling == TL_POOL_LAST && g.model->normalize && g.model->n_out == 36);
  tl_model_free(g.model);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors), cmocka_unit_test(test_adapters), cmocka_unit_test(test_groups),
                                     cmocka_unit_test(test_group_of_rounded), cmocka_unit_test(test_heads_that_do_not_divide),
                                     cmocka_unit_test(test_types_without_rows), cmocka_unit_test(test_what_they_are),
                                     cmocka_unit_test(test_gguf), cmocka_unit_test(test_rounded)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
