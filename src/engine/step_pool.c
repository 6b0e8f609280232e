/* SPDX-License-Identifier: MIT */
/* Steps of a pooling model: every sequence is in one step from its first token to its last, and
 * ends with it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_private.h"

bool pooling_is(const struct tl_engine *engine) {
  return engine->o.model->pooling != TL_POOL_NONE;
}

bool pooling_make_arrays(struct worker *w) {
  const struct tl_engine_options *o = &w->engine->o;
  if (!pooling_is(w->engine)) return true;
  w->token_types = calloc(o->max_batch_tokens, sizeof *w->token_types);
  w->vectors = calloc(o->max_batch_size, o->model->n_out * sizeof *w->vectors);
  return w->token_types && w->vectors;
}

static void add_item(struct worker *w, struct flight *f, const struct tl_sched_item *item) {
  struct tl_step *step = &f->step;
  const struct tl_sequence *seq = item->seq->owner;
  uint32_t first = step->n_tokens;
  f->query_start[step->n_seqs] = first;
  memcpy(f->tokens + first, seq->tokens, item->n * sizeof *f->tokens);
  for (uint32_t i = 0; i < item->n; i++) {
    f->positions[first + i] = i;
    w->token_types[first + i] = seq->token_types ? seq->token_types[i] : 0;
  }
  if (seq->token_types) step->token_types = w->token_types;
  f->adapters[step->n_seqs] = seq->adapter;
  if (seq->adapter) step->adapters = f->adapters;
  step->n_tokens += item->n;
  f->rows[step->n_seqs++] = step->n_tokens - 1;
}

void pooling_build_step(struct worker *w, struct flight *f) {
  f->step = (struct tl_step){.tokens = f->tokens,
                             .positions = f->positions,
                             .query_start = f->query_start,
                             .rows = f->rows,
                             .vectors = w->vectors};
  for (uint32_t i = 0; i < w->n_items; i++) add_item(w, f, &w->items[i]);
  f->step.n_rows = f->step.n_seqs;
  f->query_start[f->step.n_seqs] = f->step.n_tokens;
}

bool pooling_take(struct worker *w, struct tl_sequence *seq, uint32_t at) {
  uint32_t n = w->engine->o.model->n_out;
  const float *vector = w->vectors + (size_t)at * n;
  for (uint32_t i = 0; i < n; i++)
    if (!isfinite(vector[i])) return false;
  memcpy(seq->vector, vector, n * sizeof *vector);
  seq->first_token_ns = w->flight->figures.ended_ns;
  return true;
}
