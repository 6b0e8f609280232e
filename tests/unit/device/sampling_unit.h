/* SPDX-License-Identifier: MIT */
/* Random ways to sample, for tests that compare two samplers. */
#ifndef SAMPLING_UNIT_H
#define SAMPLING_UNIT_H

#include <math.h>

#include "tokenlane/step.h"
#include "unit.h"

/* From -range to range. */
static inline float random_number(uint64_t *random, float range) {
  return ((float)unit_below(random, 1 << 24) * 0x1p-23f - 1) * range;
}

/* Filters, the key of the draw, wanted log-probabilities, and a history; history: (vocab). */
static inline void random_filters(uint64_t *random, uint32_t vocab, struct tl_token_count *history, struct tl_sampling *s) {
  if (unit_below(random, 2)) s->top_k = 1 + (int32_t)unit_below(random, unit_below(random, 2) ? 10 : vocab + 5);
  if (unit_below(random, 2)) s->top_p = (float)unit_below(random, 1001) * 1e-3f;
  if (unit_below(random, 3) == 0) s->min_p = powf(10, -(float)unit_below(random, 9));
  s->seed = unit_random(random);
  s->position = unit_below(random, 5000);
  s->n_top = (int32_t)unit_below(random, 22) - 1;
  for (uint32_t token = 0; token < vocab && unit_below(random, 2) == 0; token += 1 + unit_below(random, 5))
    history[s->n_history++] = (struct tl_token_count){(int32_t)token, unit_below(random, 4)};
  s->history = history;
}

#endif
