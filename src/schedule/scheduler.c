/* SPDX-License-Identifier: MIT */
#include "tokenlane/schedule.h"

#include <stdlib.h>

#include "schedule/schedule_private.h"

int tl_scheduler_new(const struct tl_scheduler_options *options, struct tl_scheduler **ret, struct tl_error *err) {
  struct tl_scheduler *s = calloc(1, sizeof *s);
  if (!s) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  s->o = *options;
  if (s->o.whole) {
    *ret = s;
    return TL_OK;
  }
  if (s->o.max_prefill_tokens == 0) s->o.max_prefill_tokens = (options->max_batch_tokens + 1) / 2;
  s->table_stride = (options->max_context + options->block_tokens - 1) / options->block_tokens;
  s->tables = calloc((size_t)options->max_batch_size * s->table_stride, sizeof *s->tables);
  s->match = calloc(s->table_stride, sizeof *s->match);
  s->free_slots = malloc(options->max_batch_size * sizeof *s->free_slots);
  if (!s->tables || !s->match || !s->free_slots || blocks_init(s) < 0 || tree_init(s) < 0 || states_init(s) < 0) {
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
  free(scheduler->match);
  free(scheduler->free_slots);
  blocks_done(scheduler);
  tree_done(scheduler);
  states_done(scheduler);
  free(scheduler);
}

bool tl_scheduler_fits(const struct tl_scheduler *scheduler, uint32_t n_max) {
  if (scheduler->o.whole) return n_max <= scheduler->o.max_context && n_max <= scheduler->o.max_batch_tokens;
  uint64_t blocks = ((uint64_t)n_max + scheduler->o.block_tokens - 1) / scheduler->o.block_tokens;
  return n_max <= scheduler->o.max_context && blocks <= scheduler->o.n_blocks;
}

void tl_scheduler_add(struct tl_scheduler *scheduler, struct tl_sched_seq *seq, int64_t now_ns) {
  seq->n_computed = seq->n_blocks = seq->n_in_tree = seq->n_admitted = 0;
  seq->blocks = NULL;
  states_clear(seq);
  seq->apart = false;
  seq->next_key = seq->put_back = 0;
  seq->state = TL_SCHED_WAITING;
  seq->arrival = ++scheduler->arrivals;
  seq->rank_ns = now_ns - (int64_t)seq->priority * scheduler->o.priority_age_ns;
  queue_insert(&scheduler->waiting, seq);
}

void tl_scheduler_remove(struct tl_scheduler *scheduler, struct tl_sched_seq *seq) {
  if (seq->state == TL_SCHED_RUNNING && scheduler->o.whole) {
    queue_remove(&scheduler->running, seq);
  } else if (seq->state == TL_SCHED_RUNNING) {
    blocks_give_back(scheduler, seq);
    states_give_back(scheduler, seq);
    scheduler->free_slots[scheduler->n_free_slots++] = seq->slot;
    queue_remove(&scheduler->running, seq);
  } else {
    queue_remove(&scheduler->waiting, seq);
  }
  seq->blocks = NULL;
  seq->state = TL_SCHED_NONE;
}

void tl_scheduler_flush(struct tl_scheduler *scheduler) {
  uint64_t evictions = scheduler->stats.evictions;
  while (scheduler->pool.n_idle > 0) block_evict_idle(scheduler);
  scheduler->stats.evictions = evictions; /* nobody needed the room */
}

uint32_t tl_scheduler_free_blocks(const struct tl_scheduler *scheduler) {
  return blocks_available(scheduler);
}

uint32_t tl_scheduler_cached_blocks(const struct tl_scheduler *scheduler) {
  return scheduler->tree.n;
}

uint32_t tl_scheduler_running(const struct tl_scheduler *scheduler) {
  return scheduler->running.n;
}

uint32_t tl_scheduler_waiting(const struct tl_scheduler *scheduler) {
  return scheduler->waiting.n;
}

const struct tl_sched_stats *tl_scheduler_stats(const struct tl_scheduler *scheduler) {
  return &scheduler->stats;
}

struct tl_sched_seq *tl_scheduler_next(const struct tl_scheduler *scheduler, const struct tl_sched_seq *after) {
  if (!after) return scheduler->waiting.first ? scheduler->waiting.first : scheduler->running.first;
  if (after->next) return after->next;
  return after->state == TL_SCHED_WAITING ? scheduler->running.first : NULL;
}
