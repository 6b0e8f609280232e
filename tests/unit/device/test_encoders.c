/* SPDX-License-Identifier: MIT */
/* Models that make vectors, on the CPU backend: against transformers (tests/golden/make_encoders.py), against the same in
 * other files, and against themselves, alone and among others, on several lanes. */
#include <math.h>
#include <pthread.h>

#include "float_twin.h"
#include "golden_encoder.h"
#include "kernel_unit.h"
#include "tokenlane/device.h"
#include "unit.h"

/* A device, or a group of some, and one step at a time of texts. */
enum { MAX_RANKS = 3 };

struct machine {
  const struct tl_device_ops *ops;
  struct tl_device *ranks[MAX_RANKS];
  struct tl_device_group *group; /* NULL: one device */
  unsigned n_ranks;
};

static struct machine open_group(const struct tl_model *model, const struct cpu_kernels *kernels, unsigned n_lanes, unsigned n_ranks) {
  struct tl_error err = {0};
  unsigned index;
  struct machine m = {.ops = tl_device_find("cpu:0", &index, &err), .n_ranks = n_ranks};
  struct tl_device_options options = {.index = index, .n_lanes = n_lanes};
  struct tl_device_load load = {.model = model, .max_batch_size = BATCH_SIZE, .max_batch_tokens = BATCH_TOKENS,
                                .max_context = model->max_context};
  if (n_ranks > 1 && m.ops->group->make(n_ranks, &m.group, &err) < 0) fail_msg("%s", err.message);
  for (unsigned i = 0; i < n_ranks; i++) {
    struct tl_device_loaded loaded;
    if (m.ops->open(&options, &m.ranks[i], &err) < 0) fail_msg("%s", err.message);
    struct cpu_device *cpu = (struct cpu_device *)m.ranks[i];
    cpu->kernels = kernels;
    if (m.group) assert_int_equal(m.ops->group->join(m.ranks[i], m.group, i, &err), TL_OK);
    if (m.ops->load(m.ranks[i], &load, &loaded, &err) < 0) fail_msg("%s", err.message);
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

static void close_machine(struct machine *m) {
  for (unsigned i = 0; i < m->n_ranks; i++) m->ops->close(m->ranks[i]);
  if (m->group) m->ops->group->free(m->group);
}

struct rank_run {
  const struct machine *m;
  const struct tl_step *step;
  struct tl_device *device;
  struct tl_error err;
  int result;
};

static void *run_rank(void *context) {
  struct rank_run *r = context;
  r->result = r->m->ops->submit(r->device, r->step, &r->err);
  if (r->result == TL_OK) r->result = r->m->ops->collect(r->device, NULL, &r->err);
  return NULL;
}

/* vectors: (n, n_out). */
static void run(struct machine *m, const struct text *const *texts, uint32_t n, float *vectors) {
  struct tl_step step = step_of(texts, n, vectors);
  struct rank_run ranks[MAX_RANKS];
  pthread_t threads[MAX_RANKS];
  for (unsigned i = 0; i < m->n_ranks; i++) {
    ranks[i] = (struct rank_run){.m = m, .step = &step, .device = m->ranks[i]};
    assert_int_equal(pthread_create(&threads[i], NULL, run_rank, &ranks[i]), 0);
  }
  for (unsigned i = 0; i < m->n_ranks; i++) {
    pthread_join(threads[i], NULL);
    if (ranks[i].result < 0) fail_msg("%s", ranks[i].err.message);
  }
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

/* Floats in another order of sums, for all that ranks divide: heads, inner rows, the vocabulary. */
static void test_groups(void **state) {
  (void)state;
  static const struct {
    const char *name;
    unsigned n_ranks;
  } cut[] = {{"bert", 3}, {"bert_labels", 3}, {"bert_max", 3}, {"xlm_roberta", 3}, {"modernbert_labels", 2}, {"nomic_bert", 3}, {"qwen3", 2}};
  for (unsigned i = 0; i < UNIT_COUNT(cut); i++) {
    struct golden g;
    float vectors[N_CASES * MAX_OUT];
    const struct text *texts[N_CASES];
    open_golden(cut[i].name, &g);
    struct machine m = open_group(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 2, cut[i].n_ranks);
    for (unsigned t = 0; t < N_CASES; t++) texts[t] = &g.texts[t];
    run(&m, texts, N_CASES, vectors);
    for (unsigned t = 0; t < N_CASES; t++)
      for (uint32_t k = 0; k < g.model->n_out; k++) {
        double value = (double)vectors[t * g.model->n_out + k], expected = texts[t]->vector[k];
        if (!(fabs(value - expected) <= 2e-5 * fmax(1, fabs(expected))))
          fail_msg("%s in %u: text of %u, number %u: %f, expected %f", cut[i].name, cut[i].n_ranks, texts[t]->n, k, value, expected);
      }
    close_machine(&m);
    tl_model_free(g.model);
  }
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
                {"modernbert", "modernbert", TL_POOL_FIRST}, {"qwen3", "qwen3", TL_POOL_LAST}};
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
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors), cmocka_unit_test(test_groups),
                                     cmocka_unit_test(test_types_without_rows), cmocka_unit_test(test_what_they_are),
                                     cmocka_unit_test(test_gguf), cmocka_unit_test(test_rounded)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
