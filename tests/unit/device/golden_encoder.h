/* SPDX-License-Identifier: MIT */
/* Models that make vectors and what transformers makes of texts with them (tests/golden/make_encoders.py), and steps of such texts. */
#ifndef GOLDEN_ENCODER_H
#define GOLDEN_ENCODER_H

#include <jansson.h>
#include <math.h>

#include "tokenlane/adapter.h"
#include "tokenlane/model.h"
#include "tokenlane/step.h"
#include "unit.h"

enum { N_CASES = 5, BATCH_SIZE = 18, MAX_OUT = 64, MAX_LENGTH = 160, BATCH_TOKENS = BATCH_SIZE * MAX_LENGTH };

struct text {
  uint32_t n, n_out, adapter;
  int32_t tokens[MAX_LENGTH], types[MAX_LENGTH];
  double vector[MAX_OUT];
};

struct golden {
  struct tl_model *model;
  struct text texts[BATCH_SIZE]; /* those behind N_CASES have no answer of transformers */
};

static const char *const encoder_names[] = {"bert", "bert_plain", "bert_bf16", "bert_labels", "bert_max", "bert_root", "bert_weighted", "roberta", "roberta_score",
                                    "xlm_roberta", "modernbert", "modernbert_labels", "nomic_bert", "qwen3", "gemma"};

static inline void read_text(json_t *object, struct text *ret) {
  json_t *tokens = json_object_get(object, "tokens"), *types = json_object_get(object, "types"), *vector = json_object_get(object, "vector");
  *ret = (struct text){.n = (uint32_t)json_array_size(tokens), .n_out = (uint32_t)json_array_size(vector)};
  assert_true(ret->n > 0 && ret->n <= MAX_LENGTH && ret->n_out > 0 && ret->n_out <= MAX_OUT);
  for (uint32_t i = 0; i < ret->n; i++) {
    ret->tokens[i] = (int32_t)json_integer_value(json_array_get(tokens, i));
    ret->types[i] = (int32_t)json_integer_value(json_array_get(types, i));
  }
  for (uint32_t i = 0; i < ret->n_out; i++) ret->vector[i] = json_number_value(json_array_get(vector, i));
}

/* Texts of 1 to 40 tokens. */
static inline void draw_texts(struct golden *g) {
  uint64_t seed = 11;
  for (unsigned i = N_CASES; i < BATCH_SIZE; i++) {
    struct text *text = &g->texts[i];
    *text = (struct text){.n = 1 + (uint32_t)unit_below(&seed, 40)};
    for (uint32_t k = 0; k < text->n; k++) text->tokens[k] = (int32_t)unit_below(&seed, g->model->vocab_size);
    for (uint32_t k = text->n / 2; k < text->n; k++) text->types[k] = 1;
  }
}

static inline void open_golden(const char *name, struct golden *ret) {
  char file[128], path[1024];
  struct tl_error err = {0};
  snprintf(file, sizeof file, "encoders/%s", name);
  if (tl_model_load(unit_golden_path(file, path), &ret->model, &err) < 0) fail_msg("%s: %s", path, err.message);
  snprintf(file, sizeof file, "encoders/%s/golden.json", name);
  FILE *input = unit_open_golden(file);
  json_t *object = json_loadf(input, 0, NULL), *cases = json_object_get(object, "cases");
  fclose(input);
  assert_int_equal(json_array_size(cases), N_CASES);
  for (size_t i = 0; i < N_CASES; i++) read_text(json_array_get(cases, i), &ret->texts[i]);
  assert_int_equal(ret->model->n_out, ret->texts[0].n_out);
  json_decref(object);
  draw_texts(ret);
}

/* Models with an adapter, and what peft makes of the texts with it (tests/golden/make_encoder_adapters.py): those behind the first N_CASES. */
static const char *const adapted_encoders[] = {"bert", "xlm_roberta", "modernbert", "qwen3"};

static inline void open_adapted(const char *name, struct golden *ret) {
  char file[128], path[1024];
  struct tl_error err = {0};
  open_golden(name, ret);
  snprintf(file, sizeof file, "adapters/encoder_%s", name);
  struct tl_adapter_source source = {"it", unit_golden_path(file, path)};
  if (tl_model_add_adapters(ret->model, &source, 1, &err) < 0) fail_msg("%s: %s", name, err.message);
  snprintf(file, sizeof file, "adapters/encoder_%s/golden.json", name);
  FILE *input = unit_open_golden(file);
  json_t *object = json_loadf(input, 0, NULL), *cases = json_object_get(object, "cases");
  fclose(input);
  for (size_t i = 0; i < N_CASES; i++) {
    read_text(json_array_get(cases, i), &ret->texts[N_CASES + i]);
    ret->texts[N_CASES + i].adapter = 1;
  }
  json_decref(object);
}

/* A step of n of them, whose arrays are there until the next call. vectors: (n, n_out). */
static inline struct tl_step step_of(const struct text *const *texts, uint32_t n, float *vectors) {
  static int32_t tokens[BATCH_TOKENS], types[BATCH_TOKENS];
  static uint32_t positions[BATCH_TOKENS], start[BATCH_SIZE + 1], rows[BATCH_SIZE], adapters[BATCH_SIZE];
  struct tl_step step = {.n_seqs = n, .n_rows = n, .tokens = tokens, .positions = positions, .query_start = start, .rows = rows,
                         .token_types = types, .vectors = vectors};
  for (uint32_t s = 0; s < n; s++) {
    for (uint32_t i = 0; i < texts[s]->n; i++, step.n_tokens++) {
      assert_true(step.n_tokens < BATCH_TOKENS);
      tokens[step.n_tokens] = texts[s]->tokens[i];
      types[step.n_tokens] = texts[s]->types[i];
      positions[step.n_tokens] = i;
    }
    start[s + 1] = step.n_tokens;
    rows[s] = step.n_tokens - 1;
    adapters[s] = texts[s]->adapter;
    if (adapters[s]) step.adapters = adapters;
  }
  return step;
}

/* What a device that computes in 16 bits makes of a text with an answer: rows are rounded to 8 bits of BF16, or 11 of F16, at each
 * record, and a number may be off by so much of the vector's largest. Returns by how much one is. */
static inline double check_vector(const char *name, const struct tl_model *model, const struct text *text, const float *vector) {
  double largest = model->is_classifier ? 0.5 : 1e-6, worst = 0, dot = 0, squares = 0, expected = 0;
  for (uint32_t k = 0; k < text->n_out; k++) {
    double v = (double)vector[k];
    largest = fmax(largest, fabs(text->vector[k]));
    worst = fmax(worst, fabs(v - text->vector[k]));
    if (!isfinite(v)) fail_msg("%s: text of %u, number %u is none", name, text->n, k);
    dot += v * text->vector[k];
    squares += v * v;
    expected += text->vector[k] * text->vector[k];
  }
  if (worst > (model->dtype == TL_DTYPE_BF16 ? 6e-2 : 1e-2) * largest) fail_msg("%s: text of %u: off by %g of %g", name, text->n, worst, largest);
  if (!(dot / sqrt(squares * expected) > 0.999)) fail_msg("%s: text of %u: a cosine of %g", name, text->n, dot / sqrt(squares * expected));
  if (model->normalize) assert_true(fabs(squares - 1) < 1e-4);
  return worst / largest;
}

#endif
