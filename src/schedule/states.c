/* SPDX-License-Identifier: MIT */
/* States of sequences, of models with layers that keep one. A sequence that runs has one of its own, into which its steps put what is behind
 * their last row. */
#include <stdlib.h>

#include "schedule/schedule_private.h"

int states_init(struct tl_scheduler *s) {
  struct state_pool *pool = &s->states;
  uint32_t n = s->o.n_states;
  if (n == 0) return TL_OK;
  pool->free = malloc(n * sizeof *pool->free);
  if (!pool->free) return TL_ENOMEM;
  for (uint32_t i = 0; i < n; i++) pool->free[i] = n - 1 - i;
  pool->n_free = n;
  return TL_OK;
}

void states_done(struct tl_scheduler *s) {
  free(s->states.free);
}

bool states_have_room(const struct tl_scheduler *s) {
  return s->o.n_states == 0 || s->states.n_free > 0;
}

void states_enter(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  if (s->o.n_states > 0) seq->state_to = s->states.free[--s->states.n_free];
}

void states_advance(struct tl_sched_seq *seq) {
  seq->state_from = seq->state_to;
}

void states_give_back(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  if (seq->state_to != STATE_NONE) s->states.free[s->states.n_free++] = seq->state_to;
  seq->state_from = seq->state_to = STATE_NONE;
}

uint32_t tl_scheduler_used_states(const struct tl_scheduler *scheduler) {
  return scheduler->o.n_states - scheduler->states.n_free;
}

uint32_t tl_scheduler_kept_states(const struct tl_scheduler *scheduler) {
  return scheduler->states.n_kept;
}
