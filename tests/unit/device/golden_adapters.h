/* SPDX-License-Identifier: MIT */
/* Golden models with two adapters each, and what peft says of them (tests/golden/make_adapters.py). */
#ifndef GOLDEN_ADAPTERS_H
#define GOLDEN_ADAPTERS_H

#include "golden_llama.h"
#include "tokenlane/adapter.h"

static const struct adapted_base {
  const char *name, *place;
} bases[] = {{"f32_odd", "f32_odd"}, {"bf16_tied", "bf16_tied"}, {"phi3", "arch/phi3"}, {"granite", "arch/granite"}, {"gemma2", "arch/gemma2"}, {"f16_sharded", "f16_sharded"},
             {"qwen3_5", "arch/qwen3_5"}, {"lfm2", "arch/lfm2"}, {"qwen3_next", "arch/qwen3_next"}, /* layers with a state, gated queries, shared experts */
             {"starcoder2", "arch/starcoder2"}, /* an MLP without a gate */
             {"granitemoehybrid", "arch/granitemoehybrid"}, {"granitemoehybrid_dense", "arch/granitemoehybrid_dense"}, /* Mamba 2's layers */
             {"nemotron_h_dense", "arch/nemotron_h_dense"}, {"nemotron_h", "arch/nemotron_h"},
             {"gemma4", "arch/gemma4"}, {"gemma4_moe", "arch/gemma4_moe"}}; /* what layers get beside x, keys that are values */

#define N_ADAPTERS 2

/* A golden model with its two adapters, and what peft says of each. */
struct adapted {
  const struct adapted_base *base;
  struct golden plain;
  struct golden_case cases[N_ADAPTERS][N_CASES];
};

static inline void read_adapter_cases(const struct adapted_base *b, const char *which, struct golden_case ret[N_CASES]) {
  char file[128];
  snprintf(file, sizeof file, "adapters/%s/%s/golden.json", b->name, which);
  FILE *input = unit_open_golden(file);
  json_t *object = json_loadf(input, 0, NULL), *cases = json_object_get(object, "cases");
  fclose(input);
  assert_int_equal(json_array_size(cases), N_CASES);
  for (size_t i = 0; i < N_CASES; i++) read_case(json_array_get(cases, i), &ret[i]);
  json_decref(object);
}

static inline void add_adapters(struct tl_model *model, const struct adapted_base *b) {
  char folder[128], folders[N_ADAPTERS][1024];
  struct tl_adapter_source sources[N_ADAPTERS] = {{"one", folders[0]}, {"two", folders[1]}};
  struct tl_error err = {0};
  for (unsigned i = 0; i < N_ADAPTERS; i++) {
    snprintf(folder, sizeof folder, "adapters/%s/%s", b->name, sources[i].name);
    unit_golden_path(folder, folders[i]);
  }
  if (tl_model_add_adapters(model, sources, N_ADAPTERS, &err) < 0) fail_msg("%s", err.message);
  assert_int_equal(model->n_adapters, N_ADAPTERS);
}

static inline struct adapted *open_adapted(const struct adapted_base *b) {
  struct adapted *a = calloc(1, sizeof *a);
  a->base = b;
  open_golden(b->place, &a->plain);
  add_adapters(a->plain.model, b);
  read_adapter_cases(b, "one", a->cases[0]);
  read_adapter_cases(b, "two", a->cases[1]);
  return a;
}

static inline void close_adapted(struct adapted *a) {
  close_golden(&a->plain);
  free(a);
}

/* Case `which` of adapter number - 1, or of the base with number 0. */
static inline const struct golden_case *case_of(const struct adapted *a, uint32_t number, unsigned which) {
  return number ? &a->cases[number - 1][which] : &a->plain.cases[which];
}

static inline struct sequence *sequence_of(const struct adapted *a, uint32_t number, unsigned which) {
  const struct golden_case *c = case_of(a, number, which);
  struct sequence *s = new_sequence(c->prompt, c->n_prompt);
  s->adapter = number;
  return s;
}

#endif
