/* SPDX-License-Identifier: MIT */
#include "tokenlane/schedule.h"

#include <stdlib.h>

#include "schedule/schedule_private.h"

int tl_scheduler_new(const struct tl_scheduler_options *options, struct tl_scheduler **ret, struct tl_error *err) {
  struct tl_scheduler *s = calloc(1, sizeof *s);
  if (!s) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  s->o = *options;
  s->table_stride = (options->max_context + options->block_tokens - 1) / options->block_tokens;
  s->tables = calloc((size_t)options->max_batch_size * s->table_stride, sizeof *s->tables);
  s->free_slots = malloc(options->max_batch_size * sizeof *s->free_slots);
  if (!s->tables || !s->free_slots || blocks_init(&s->pool, options->n_blocks) < 0) {
    tl_scheduler_free(s);
    return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  }
  for (uint32_t i = 0; i < options->max_batch_size; i++) s->free_slots[i] = options->max_batch_size - 1 - i;
  s->n_free_slots = options->max_batch_size;
  *ret = s;
  return TL_OK;
}

void tl_scheduler_free(struct tl_scheduler *scheduler) {
  if (!scheduler) return;
  free(scheduler->tables);
  free(scheduler->free_slots);
  blocks_done(&scheduler->pool);
  free(scheduler);
}

bool tl_scheduler_fits(const struct tl_scheduler *scheduler, uint32_t n_max) {
  uint64_t blocks = ((uint64_t)n_max + scheduler->o.block_tokens - 1) / scheduler->o.block_tokens;
  return n_max <= scheduler->o.max_context && blocks <= scheduler->o.n_blocks;
}

void tl_scheduler_add(struct tl_scheduler *scheduler, struct tl_sched_seq *seq) {
  seq->n_computed = seq->n_blocks = 0;
  seq->blocks = NULL;
  seq->state = TL_SCHED_WAITING;
  seq->arrival = ++scheduler->arrivals;
  queue_append(&scheduler->waiting, seq);
}

void tl_scheduler_remove(struct tl_scheduler *scheduler, struct tl_sched_seq *seq) {
  if (seq->state == TL_SCHED_RUNNING) {
    blocks_give_back(scheduler, seq);
    scheduler->free_slots[scheduler->n_free_slots++] = seq->slot;
    queue_remove(&scheduler->running, seq);
  } else {
    queue_remove(&scheduler->waiting, seq);
  }
  seq->blocks = NULL;
  seq->state = TL_SCHED_NONE;
}

uint32_t tl_scheduler_free_blocks(const struct tl_scheduler *scheduler) {
  return scheduler->pool.n_free;
}

uint32_t tl_scheduler_running(const struct tl_scheduler *scheduler) {
  return scheduler->running.n;
}

uint32_t tl_scheduler_waiting(const struct tl_scheduler *scheduler) {
  return scheduler->waiting.n;
}

uint64_t tl_scheduler_preemptions(const struct tl_scheduler *scheduler) {
  return scheduler->preemptions;
}

struct tl_sched_seq *tl_scheduler_next(const struct tl_scheduler *scheduler, const struct tl_sched_seq *after) {
  if (!after) return scheduler->waiting.first ? scheduler->waiting.first : scheduler->running.first;
  if (after->next) return after->next;
  return after->state == TL_SCHED_WAITING ? scheduler->running.first : NULL;
}
