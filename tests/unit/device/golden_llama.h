/* SPDX-License-Identifier: MIT */
/* What transformers says of small random models (tests/golden/make_llama.py, make_arch.py). */
#ifndef GOLDEN_LLAMA_H
#define GOLDEN_LLAMA_H

#include <jansson.h>

#include "step_runner.h"

#define N_CASES 3
#define N_NEW 40
#define N_TOP 5

struct golden_case {
  uint32_t n_prompt;
  int32_t prompt[MAX_TOKENS], tokens[N_NEW], top_tokens[N_NEW][N_TOP];
  double logprobs[N_NEW], top_logprobs[N_NEW][N_TOP];
  uint32_t n_scored;
  double prompt_logprobs[MAX_TOKENS]; /* of prompt[i + 1] */
};

struct golden {
  char folder[512];
  struct tl_model *model;
  struct golden_case cases[N_CASES];
};

static inline void read_integers(json_t *list, int32_t *ret, size_t n) {
  assert_int_equal(json_array_size(list), n);
  for (size_t i = 0; i < n; i++) ret[i] = (int32_t)json_integer_value(json_array_get(list, i));
}

static inline void read_numbers(json_t *list, double *ret, size_t n) {
  assert_int_equal(json_array_size(list), n);
  for (size_t i = 0; i < n; i++) ret[i] = json_number_value(json_array_get(list, i));
}

static inline void read_case(json_t *object, struct golden_case *ret) {
  ret->n_prompt = (uint32_t)json_array_size(json_object_get(object, "prompt"));
  assert_true(ret->n_prompt > 0 && ret->n_prompt + N_NEW <= MAX_TOKENS);
  read_integers(json_object_get(object, "prompt"), ret->prompt, ret->n_prompt);
  read_integers(json_object_get(object, "tokens"), ret->tokens, N_NEW);
  read_numbers(json_object_get(object, "logprobs"), ret->logprobs, N_NEW);
  for (size_t i = 0; i < N_NEW; i++) {
    read_integers(json_array_get(json_object_get(object, "top_tokens"), i), ret->top_tokens[i], N_TOP);
    read_numbers(json_array_get(json_object_get(object, "top_logprobs"), i), ret->top_logprobs[i], N_TOP);
  }
  json_t *scored = json_object_get(object, "prompt_logprobs");
  ret->n_scored = (uint32_t)json_array_size(scored);
  if (scored) read_numbers(scored, ret->prompt_logprobs, ret->n_prompt - 1);
}

/* name: a folder of llama/, or of another with its name before it. */
static inline void open_golden(const char *name, struct golden *ret) {
  memset(ret, 0, sizeof *ret);
  const char *root = getenv("TL_TEST_GOLDEN");
  const char *parent = strchr(name, '/') ? "" : "llama/";
  snprintf(ret->folder, sizeof ret->folder, "%s/%s%s", root ? root : "tests/golden", parent, name);
  struct tl_error err = {0};
  if (tl_model_load(ret->folder, &ret->model, &err) < 0) fail_msg("%s: %s", ret->folder, err.message);
  char file[64];
  snprintf(file, sizeof file, "%s%s/golden.json", parent, name);
  FILE *input = unit_open_golden(file);
  json_t *object = json_loadf(input, 0, NULL), *cases = json_object_get(object, "cases");
  fclose(input);
  assert_int_equal(json_array_size(cases), N_CASES);
  for (size_t i = 0; i < N_CASES; i++) read_case(json_array_get(cases, i), &ret->cases[i]);
  json_decref(object);
}

static inline void close_golden(struct golden *g) {
  tl_model_free(g->model);
}

#define MOST_KINDS 64

/* Records of the models that were tested so far. */
struct seen_records {
  bool kinds[MOST_KINDS];
  uint32_t features[MOST_KINDS];
};

/* Whether its plan has a kind of record, or a feature of one, that no model before had. */
static inline bool brings_new(const struct tl_model *model, struct seen_records *seen) {
  bool is_new = false;
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    assert_true(op->kind < MOST_KINDS);
    is_new = is_new || !seen->kinds[op->kind] || op->features & ~seen->features[op->kind];
    seen->kinds[op->kind] = true;
    seen->features[op->kind] |= op->features;
  }
  return is_new;
}

#endif
