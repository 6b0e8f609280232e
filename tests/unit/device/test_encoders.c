/* SPDX-License-Identifier: MIT */
/* Models that make vectors, on the CPU backend: against transformers (tests/golden/make_encoders.py), and against
 * themselves, alone and among others, on several lanes. */
#include <jansson.h>
#include <math.h>

#include "kernel_unit.h"
#include "tokenlane/device.h"
#include "unit.h"

enum { N_CASES = 5, BATCH_TOKENS = 400, BATCH_SIZE = 12, MAX_OUT = 64, MAX_LENGTH = 160 };

struct text {
  uint32_t n, n_out;
  int32_t tokens[MAX_LENGTH], types[MAX_LENGTH];
  double vector[MAX_OUT];
};

struct golden {
  struct tl_model *model;
  struct text texts[N_CASES];
};

static const char *const names[] = {"bert", "bert_plain", "bert_bf16", "bert_labels", "roberta", "roberta_score",
                                    "xlm_roberta", "modernbert", "modernbert_labels", "nomic_bert", "qwen3"};

static void read_text(json_t *object, struct text *ret) {
  json_t *tokens = json_object_get(object, "tokens"), *types = json_object_get(object, "types"), *vector = json_object_get(object, "vector");
  ret->n = (uint32_t)json_array_size(tokens);
  ret->n_out = (uint32_t)json_array_size(vector);
  assert_true(ret->n > 0 && ret->n <= MAX_LENGTH && ret->n_out > 0 && ret->n_out <= MAX_OUT);
  for (uint32_t i = 0; i < ret->n; i++) {
    ret->tokens[i] = (int32_t)json_integer_value(json_array_get(tokens, i));
    ret->types[i] = (int32_t)json_integer_value(json_array_get(types, i));
  }
  for (uint32_t i = 0; i < ret->n_out; i++) ret->vector[i] = json_number_value(json_array_get(vector, i));
}

static void open_golden(const char *name, struct golden *ret) {
  char file[128], folder[512];
  const char *root = getenv("TL_TEST_GOLDEN");
  struct tl_error err = {0};
  snprintf(file, sizeof file, "encoders/%s/golden.json", name);
  snprintf(folder, sizeof folder, "%s/encoders/%s", root ? root : "tests/golden", name);
  if (tl_model_load(folder, &ret->model, &err) < 0) fail_msg("%s: %s", folder, err.message);
  FILE *input = unit_open_golden(file);
  json_t *object = json_loadf(input, 0, NULL), *cases = json_object_get(object, "cases");
  fclose(input);
  assert_int_equal(json_array_size(cases), N_CASES);
  for (size_t i = 0; i < N_CASES; i++) read_text(json_array_get(cases, i), &ret->texts[i]);
  assert_int_equal(ret->model->n_out, ret->texts[0].n_out);
  json_decref(object);
}

/* A device, and one step at a time of texts. */
struct machine {
  const struct tl_device_ops *ops;
  struct tl_device *device;
  uint32_t n_out;
};

static struct machine open_machine(const struct tl_model *model, const struct cpu_kernels *kernels, unsigned n_lanes) {
  struct tl_error err = {0};
  unsigned index;
  struct machine m = {.ops = tl_device_find("cpu:0", &index, &err), .n_out = model->n_out};
  struct tl_device_options options = {.index = index, .n_lanes = n_lanes};
  struct tl_device_load load = {.model = model, .max_batch_size = BATCH_SIZE, .max_batch_tokens = BATCH_TOKENS,
                                .max_context = model->max_context};
  struct tl_device_loaded loaded;
  if (m.ops->open(&options, &m.device, &err) < 0) fail_msg("%s", err.message);
  struct cpu_device *cpu = (struct cpu_device *)m.device;
  cpu->kernels = kernels;
  if (m.ops->load(m.device, &load, &loaded, &err) < 0) fail_msg("%s", err.message);
  memset(cpu->kv, 0xff, cpu->kv_bytes); /* NaN: keys that were never stored show */
  return m;
}

/* vectors: (n, n_out). */
static void run(struct machine *m, const struct text *const *texts, uint32_t n, float *vectors) {
  static int32_t tokens[BATCH_TOKENS], types[BATCH_TOKENS];
  static uint32_t positions[BATCH_TOKENS], start[BATCH_SIZE + 1], rows[BATCH_SIZE];
  struct tl_step step = {.n_seqs = n, .n_rows = n, .tokens = tokens, .positions = positions, .query_start = start, .rows = rows,
                         .token_types = types, .vectors = vectors};
  struct tl_error err = {0};
  for (uint32_t s = 0; s < n; s++) {
    for (uint32_t i = 0; i < texts[s]->n; i++, step.n_tokens++) {
      assert_true(step.n_tokens < BATCH_TOKENS);
      tokens[step.n_tokens] = texts[s]->tokens[i];
      types[step.n_tokens] = texts[s]->types[i];
      positions[step.n_tokens] = i;
    }
    start[s + 1] = step.n_tokens;
    rows[s] = step.n_tokens - 1;
  }
  if (m->ops->submit(m->device, &step, &err) < 0 || m->ops->collect(m->device, NULL, &err) < 0) fail_msg("%s", err.message);
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
  m.ops->close(m.device);
}

/* The same bits alone and in any company, on any number of lanes; also behind a text that is not numbers. */
static void in_batches(const struct golden *g, const struct cpu_kernels *kernels) {
  static const unsigned orders[][BATCH_SIZE] = {{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {2, 2, 0, 3, 1}, {1, 4, 4, 0, 2}};
  float alone[N_CASES][MAX_OUT], many[BATCH_SIZE * MAX_OUT];
  uint32_t n_out = g->model->n_out;
  for (unsigned n_lanes = 1; n_lanes <= 3; n_lanes++) {
    struct machine m = open_machine(g->model, kernels, n_lanes);
    for (unsigned i = 0; i < N_CASES; i++) {
      const struct text *text = &g->texts[i];
      float *out = n_lanes == 1 ? alone[i] : many;
      run(&m, &text, 1, out);
      assert_memory_equal(out, alone[i], n_out * sizeof(float));
    }
    for (unsigned o = 0; o < UNIT_COUNT(orders); o++) {
      const struct text *texts[N_CASES];
      for (unsigned i = 0; i < N_CASES; i++) texts[i] = &g->texts[orders[o][i]];
      run(&m, texts, N_CASES, many);
      for (unsigned i = 0; i < N_CASES; i++)
        assert_memory_equal(many + (size_t)i * n_out, alone[orders[o][i]], n_out * sizeof(float));
    }
    m.ops->close(m.device);
  }
}

static void with_kernels(const struct cpu_kernels *kernels) {
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden g;
    open_golden(names[i], &g);
    against_transformers(&g, kernels, names[i]);
    in_batches(&g, kernels);
    tl_model_free(g.model);
  }
}

static void test_vectors(void **state) {
  (void)state;
  for_all_kernels(with_kernels);
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
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors), cmocka_unit_test(test_what_they_are)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
