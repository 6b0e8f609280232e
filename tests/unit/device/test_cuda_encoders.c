/* SPDX-License-Identifier: MIT */
/* Models that make vectors, through the CUDA backend's host part with kernels on fibers, against transformers and against themselves
 * in batches. With ON_GPU the same on the plugin and the GPU cuda:0. */
#include <math.h>
#include <stdlib.h>

#include "fake_or_gpu.h"
#include "golden_encoder.h"
#include "tokenlane/device.h"

static struct tl_device *open_on(const struct tl_device_ops *ops, const struct tl_model *model) {
  struct tl_device *device;
  struct tl_error err = {0};
  struct tl_device_loaded loaded;
  struct tl_device_options options = {.n_lanes = 2};
  struct tl_device_load load = {.model = model, .max_batch_size = BATCH_SIZE, .max_batch_tokens = 800, .max_context = model->max_context};
  if (ops->open(&options, &device, &err) < 0) fail_msg("%s", err.message);
  if (ops->load(device, &load, &loaded, &err) < 0) fail_msg("%s", err.message);
  return device;
}

static struct tl_device *open_device(const struct tl_model *model) {
  IF_FAKE(fake_cuda_reset();)
  return open_on(find_ops(), model);
}

static void close_device(struct tl_device *device) {
  find_ops()->close(device);
  IF_FAKE(assert_int_equal(fake_cuda_live(), 0);)
}

static void run_on(const struct tl_device_ops *ops, struct tl_device *device, const struct text *const *texts, uint32_t n, float *vectors) {
  struct tl_step step = step_of(texts, n, vectors);
  struct tl_error err = {0};
  if (ops->submit(device, &step, &err) < 0) fail_msg("%s", err.message);
  if (ops->collect(device, NULL, &err) < 0) fail_msg("%s", err.message);
}

static void run(struct tl_device *device, const struct text *const *texts, uint32_t n, float *vectors) {
  run_on(find_ops(), device, texts, n, vectors);
}

/* Texts in one step: how far the worst number is off what transformers, or peft, says. */
static double worst_of(struct tl_device *device, const char *name, const struct tl_model *model, const struct text *const *texts, uint32_t n) {
  float vectors[BATCH_SIZE * MAX_OUT];
  double worst = 0;
  run(device, texts, n, vectors);
  for (unsigned t = 0; t < n; t++) worst = fmax(worst, check_vector(name, model, texts[t], vectors + t * model->n_out));
  return worst;
}

/* Texts at once, and the first two, of one and two tokens, alone. */
static void test_against_transformers(void **state) {
  (void)state;
  for (unsigned i = 0; i < UNIT_COUNT(encoder_names); i++) {
    struct golden g;
    const struct text *texts[N_CASES];
    open_golden(encoder_names[i], &g);
    struct tl_device *device = open_device(g.model);
    for (unsigned t = 0; t < N_CASES; t++) texts[t] = &g.texts[t];
    unsigned n = i % 5 == 0 ? N_CASES : N_CASES - 1 - (i % 2 == 0); /* the longest of some: fibers take their time */
    double worst = worst_of(device, encoder_names[i], g.model, texts, n);
    for (unsigned t = 0; t < 2; t++) worst = fmax(worst, worst_of(device, encoder_names[i], g.model, &texts[t], 1));
    printf("%s: within %.2g\n", encoder_names[i], worst);
    IF_FAKE(assert_int_equal(fake_cuda.n_graphs, 0);)
    close_device(device);
    tl_model_free(g.model);
  }
}

/* Texts with an adapter beside the same without, in one step. */
static void test_adapters(void **state) {
  (void)state;
  for (unsigned i = 0; i < UNIT_COUNT(adapted_encoders); i++) {
    enum { N = 6 };
    struct golden g;
    const struct text *texts[N];
    open_adapted(adapted_encoders[i], &g);
    struct tl_device *device = open_device(g.model);
    for (unsigned t = 0; t < N; t++) texts[t] = &g.texts[t % 2 ? N_CASES + t / 2 : t / 2];
    printf("%s with an adapter: within %.2g\n", adapted_encoders[i], worst_of(device, adapted_encoders[i], g.model, texts, N));
    close_device(device);
    tl_model_free(g.model);
  }
}

static bool is_run_alone(unsigned text) {
  return text % 3 == 0 && text != 3; /* that one is long */
}

/* More vectors than a kernel for few rows takes, in any order: near what each is alone. */
static void test_in_batches(void **state) {
  (void)state;
  static const char *const names[] = {"bert_labels", "qwen3"};
  static float alone[BATCH_SIZE * MAX_OUT], many[BATCH_SIZE * MAX_OUT];
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden g;
    const struct text *texts[BATCH_SIZE];
    open_golden(names[i], &g);
    uint32_t n_out = g.model->n_out;
    struct tl_device *device = open_device(g.model);
    for (unsigned t = 0; t < BATCH_SIZE; t++) {
      texts[BATCH_SIZE - 1 - t] = &g.texts[t];
      const struct text *one = &g.texts[t];
      if (is_run_alone(t)) run(device, &one, 1, alone + t * n_out);
    }
    run(device, texts, BATCH_SIZE, many);
    for (unsigned t = 0; t < BATCH_SIZE; t++) {
      const float *vector = many + (BATCH_SIZE - 1 - t) * n_out;
      if (t < N_CASES) check_vector(names[i], g.model, &g.texts[t], vector);
      for (uint32_t k = 0; k < n_out && is_run_alone(t); k++)
        if (!(fabsf(vector[k] - alone[t * n_out + k]) < 2e-2f)) fail_msg("%s: text %u: %f, alone %f", names[i], t, (double)vector[k], (double)alone[t * n_out + k]);
    }
    close_device(device);
    tl_model_free(g.model);
  }
}

/* Matrices in blocks, which stay what they are; the CPU's vectors are near those of the same values in floats (test_encoders.c). */
static void test_rounded(void **state) {
  (void)state;
  char path[1024];
  unsigned index;
  struct tl_error err = {0};
  struct golden g = {0};
  float got[BATCH_SIZE * MAX_OUT], expected[BATCH_SIZE * MAX_OUT];
  const struct tl_device_ops *cpu_ops = tl_device_find("cpu:0", &index, &err);
  const struct text *texts[BATCH_SIZE];
  if (tl_model_load(unit_golden_path("gguf/encoder_q8_0.gguf", path), &g.model, &err) < 0) fail_msg("%s", err.message);
  draw_texts(&g);
  uint32_t n = BATCH_SIZE - N_CASES, n_out = g.model->n_out;
  for (unsigned t = 0; t < n; t++) texts[t] = &g.texts[N_CASES + t];
  struct tl_device *device = open_device(g.model), *cpu = open_on(cpu_ops, g.model);
  run(device, texts, n, got);
  run_on(cpu_ops, cpu, texts, n, expected);
  for (unsigned t = 0; t < n; t++) {
    double cosine = 0;
    for (uint32_t k = 0; k < n_out; k++) cosine += (double)got[t * n_out + k] * (double)expected[t * n_out + k];
    if (!(cosine > 0.999 && cosine < 1.001)) fail_msg("text %u: a cosine of %g", t, cosine);
  }
  cpu_ops->close(cpu);
  close_device(device);
  tl_model_free(g.model);
}

/* Two steps under way have their vectors each; a step without token types has them all 0, as have those of which there is no row. */
static void test_two_steps(void **state) {
  (void)state;
  struct golden g;
  float expected[MAX_OUT], first[MAX_OUT], second[MAX_OUT], none[MAX_OUT];
  struct tl_error err = {0};
  open_golden("bert_plain", &g);
  struct tl_device *device = open_device(g.model);
  struct text text = g.texts[2];
  const struct text *one = &text, *other = &g.texts[1];
  memset(text.types, 0, sizeof text.types);
  run(device, &one, 1, expected);
  for (uint32_t i = 0; i < text.n; i++) text.types[i] = i % 2 ? 2 : -1;
  struct tl_step step = step_of(&one, 1, first);
  assert_int_equal(find_ops()->submit(device, &step, &err), TL_OK);
  step = step_of(&other, 1, second); /* what the first was made of is gone: submit has read it */
  assert_int_equal(find_ops()->submit(device, &step, &err), TL_OK);
  for (unsigned i = 0; i < 2; i++) assert_int_equal(find_ops()->collect(device, NULL, &err), TL_OK);
  assert_memory_equal(first, expected, g.model->n_out * sizeof *first);
  check_vector("bert_plain", g.model, other, second);
  step = step_of(&one, 1, none);
  step.token_types = NULL;
  assert_int_equal(find_ops()->submit(device, &step, &err), TL_OK);
  assert_int_equal(find_ops()->collect(device, NULL, &err), TL_OK);
  assert_memory_equal(none, expected, g.model->n_out * sizeof *none);
  close_device(device);
  tl_model_free(g.model);
}

#ifndef ON_GPU
/* No graphs and no draws; behind the layers the vectors are pooled, and get their length. */
static void test_order(void **state) {
  (void)state;
  struct golden g;
  float vectors[4 * MAX_OUT];
  open_golden("bert", &g);
  struct tl_device *device = open_device(g.model);
  fake_cuda.idle = true;
  const struct text *texts[] = {&g.texts[0], &g.texts[2], &g.texts[1]};
  memset(fake_cuda.order, 0, sizeof fake_cuda.order);
  run(device, texts, 3, vectors);
  assert_string_equal(fake_cuda.order, "eanmkpmbnmgmbnmkpmbnmgmbnow");
  memset(fake_cuda.order, 0, sizeof fake_cuda.order);
  run(device, texts, 1, vectors);
  assert_string_equal(fake_cuda.order, "eanvkpvnvgvnvkpvnvgvnow");
  close_device(device);
  tl_model_free(g.model);
}

/* Keys of one layer of one step are all that is kept; what does not fit is refused as with other models. */
static void test_memory(void **state) {
  (void)state;
  struct golden g;
  open_golden("bert", &g);
  for (unsigned small = 0; small < 2; small++) {
    struct tl_device *device;
    struct tl_device_loaded loaded;
    struct tl_error err = {0};
    fake_cuda_reset();
    if (small) fake_cuda.memory = 32u << 20;
    struct tl_device_options options = {.n_lanes = 1};
    struct tl_device_load load = {.model = g.model, .max_batch_size = 8, .max_batch_tokens = 48, .max_context = 48};
    assert_int_equal(fake_cuda_ops.open(&options, &device, &err), TL_OK);
    assert_int_equal(fake_cuda_ops.load(device, &load, &loaded, &err), small ? TL_ENOMEM : TL_OK);
    if (small) {
      assert_string_equal(err.field, "model.path");
      assert_non_null(strstr(err.message, "MiB of GPU memory are missing: weights 0, work memory 3"));
    } else {
      assert_int_equal(loaded.n_blocks, 48 / 16 + 8);
      assert_int_equal(loaded.kv_bytes, 2u * loaded.n_blocks * 16 * g.model->n_heads * 16 * 2); /* k and v, tokens, heads, bytes */
    }
    close_device(device);
  }
  tl_model_free(g.model);
}
#endif

static void check_refused(const struct tl_model *model, const char *why) {
  struct tl_device *device;
  struct tl_error err = {0};
  struct tl_device_loaded loaded;
  IF_FAKE(fake_cuda_reset();)
  struct tl_device_options options = {.n_lanes = 2};
  struct tl_device_load load = {.model = model, .max_batch_size = 4, .max_batch_tokens = 64, .max_context = 64};
  assert_int_equal(find_ops()->open(&options, &device, &err), TL_OK);
  assert_int_equal(find_ops()->load(device, &load, &loaded, &err), TL_EUNSUPPORTED);
  if (!strstr(err.message, "the CUDA backend cannot run this") || !strstr(err.message, why)) fail_msg("%s, not %s", err.message, why);
  close_device(device);
}

/* What no kernel does is refused, not left out: an unknown feature of any record, a record that is missing. */
static void test_unknown_records(void **state) {
  (void)state;
  static const char *const names[] = {"bert", "modernbert_labels"};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden g;
    struct tl_op plan[64];
    open_golden(names[i], &g);
    struct tl_model model = *g.model;
    assert_true(model.n_ops < UNIT_COUNT(plan));
    model.plan = plan;
    for (uint32_t k = 0; k < model.n_ops; k++) {
      memcpy(plan, g.model->plan, model.n_ops * sizeof *plan);
      plan[k].features |= 1u << 31;
      check_refused(&model, "of its plan, of kind");
    }
    memcpy(plan, g.model->plan, model.n_ops * sizeof *plan);
    while (plan[model.n_ops - 1].kind != TL_OP_POOL) model.n_ops--;
    model.n_ops--;
    check_refused(&model, "a plan that does not end in a vector");
    model.n_ops++;
    model.pooling = TL_POOL_NONE;
    check_refused(&model, "a plan that does not end in logits");
    tl_model_free(g.model);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_transformers), cmocka_unit_test(test_adapters), cmocka_unit_test(test_in_batches), cmocka_unit_test(test_rounded),
                                     cmocka_unit_test(test_two_steps), IF_FAKE(cmocka_unit_test(test_order), cmocka_unit_test(test_memory),)
                                     cmocka_unit_test(test_unknown_records)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
