/* SPDX-License-Identifier: MIT */
/* What a quantized model's twin in floats says of what it made. */
#ifndef TWIN_RUNNER_H
#define TWIN_RUNNER_H

#include <math.h>

#include "float_twin.h"
#include "step_runner.h"

static inline struct sequence *new_random_prompt(uint32_t vocab, uint32_t n, uint64_t seed) {
  int32_t prompt[MAX_TOKENS];
  for (uint32_t i = 0; i < n; i++) prompt[i] = (int32_t)unit_below(&seed, vocab);
  return new_sequence(prompt, n);
}

/* How far the log-probabilities of what was generated are from those that the twin gives it, in floats on the CPU. */
static inline double twin_error(const struct tl_model *twin, const struct sequence *s) {
  struct machine m = open_machine(twin, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  struct sequence *scored = new_sequence(s->tokens, s->length);
  scored->score_prompt = true;
  scored->adapter = s->adapter;
  scored->sampling.n_top = 0;
  run_alone(&m, scored, 1, whole, 1);
  close_machine(&m);
  double worst = 0;
  for (uint32_t k = s->n_prompt; k < s->length; k++)
    worst = fmax(worst, fabs((double)scored->sampled[k].logprob - (double)s->sampled[k].logprob));
  free(scored);
  return worst;
}

#endif
