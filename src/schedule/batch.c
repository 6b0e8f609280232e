/* SPDX-License-Identifier: MIT */
/* The next step: running sequences in order of arrival, decodes before prefill
 * chunks, then waiting ones while slots, blocks and budget last. */
#include <stddef.h>

#include "schedule/schedule_private.h"

static uint32_t missing(const struct tl_sched_seq *seq) {
  return seq->n_tokens - seq->n_computed;
}

/* A decode takes its block from the newest sequence when none is free. False:
 * it is itself the newest and waits for a block. */
static bool cover_decode(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  while (!blocks_cover(s, seq, seq->n_tokens))
    if (!preempt_newest(s, seq)) return false;
  return true;
}

static uint32_t plan_decodes(struct tl_scheduler *s, struct tl_sched_item *ret, uint32_t *budget) {
  uint32_t n = 0;
  for (struct tl_sched_seq *seq = s->running.first; seq && *budget > 0;) {
    if (missing(seq) == 1 && cover_decode(s, seq)) {
      ret[n++] = (struct tl_sched_item){seq, seq->n_computed, 1};
      --*budget;
    }
    seq = seq->next; /* preemption takes only from the end of the list, never this one */
  }
  return n;
}

/* A chunk of at most `budget` tokens for which there are blocks; a shorter one
 * when blocks are short. An old prefill takes blocks from newer sequences, so
 * that the oldest always goes on. */
static uint32_t plan_chunk(struct tl_scheduler *s, struct tl_sched_seq *seq, uint32_t budget) {
  uint32_t want = missing(seq) < budget ? missing(seq) : budget;
  uint32_t room = (seq->n_blocks + s->pool.n_free) * s->o.block_tokens - seq->n_computed;
  while (room == 0 && preempt_newest(s, seq))
    room = (seq->n_blocks + s->pool.n_free) * s->o.block_tokens - seq->n_computed;
  if (want > room) want = room;
  return want > 0 && blocks_cover(s, seq, seq->n_computed + want) ? want : 0;
}

static uint32_t plan_prefills(struct tl_scheduler *s, struct tl_sched_item *ret, uint32_t *budget) {
  uint32_t n = 0;
  for (struct tl_sched_seq *seq = s->running.first; seq && *budget > 0; seq = seq->next) {
    if (missing(seq) <= 1) continue;
    uint32_t chunk = plan_chunk(s, seq, *budget);
    if (chunk == 0) continue;
    ret[n++] = (struct tl_sched_item){seq, seq->n_computed, chunk};
    *budget -= chunk;
  }
  return n;
}

/* A newcomer starts only when blocks remain for each running sequence's next. */
static bool may_admit(const struct tl_scheduler *s, const struct tl_sched_seq *seq, uint32_t budget) {
  uint32_t first = seq->n_tokens < budget ? seq->n_tokens : budget;
  uint32_t blocks = (first + s->o.block_tokens - 1) / s->o.block_tokens;
  return s->n_free_slots > 0 && s->pool.n_free >= blocks + s->running.n;
}

static uint32_t admit(struct tl_scheduler *s, struct tl_sched_item *ret, uint32_t *budget) {
  uint32_t n = 0;
  while (s->waiting.first && *budget > 0) {
    struct tl_sched_seq *seq = s->waiting.first;
    if (!may_admit(s, seq, *budget)) break;
    queue_remove(&s->waiting, seq);
    seq->slot = s->free_slots[--s->n_free_slots];
    seq->blocks = s->tables + (size_t)seq->slot * s->table_stride;
    seq->n_blocks = 0;
    seq->state = TL_SCHED_RUNNING;
    queue_insert_by_arrival(&s->running, seq);
    uint32_t chunk = seq->n_tokens < *budget ? seq->n_tokens : *budget;
    blocks_cover(s, seq, chunk); /* cannot fail: may_admit counted */
    ret[n++] = (struct tl_sched_item){seq, 0, chunk};
    *budget -= chunk;
  }
  return n;
}

/* Preemption by a later sequence of the plan may have taken an earlier item's
 * blocks: such items are dropped. */
static uint32_t drop_preempted(struct tl_sched_item *items, uint32_t n) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < n; i++)
    if (items[i].seq->state == TL_SCHED_RUNNING) items[kept++] = items[i];
  return kept;
}

uint32_t tl_scheduler_plan(struct tl_scheduler *scheduler, struct tl_sched_item *ret) {
  uint32_t budget = scheduler->o.max_batch_tokens;
  uint64_t preempted = scheduler->preemptions;
  uint32_t n = plan_decodes(scheduler, ret, &budget);
  n += plan_prefills(scheduler, ret + n, &budget);
  n = drop_preempted(ret, n);
  /* who was just put back must not come in again in the same step */
  if (scheduler->preemptions == preempted) n += admit(scheduler, ret + n, &budget);
  return n;
}

void tl_scheduler_done(struct tl_scheduler *scheduler, const struct tl_sched_item *items, uint32_t n) {
  (void)scheduler;
  for (uint32_t i = 0; i < n; i++) items[i].seq->n_computed = items[i].start + items[i].n;
}
