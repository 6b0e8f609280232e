/* SPDX-License-Identifier: MIT */
#include <stddef.h>

#include "schedule/schedule_private.h"

/* What it had computed is lost; its tokens are known and are computed again. */
static void put_back(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  blocks_give_back(s, seq);
  s->free_slots[s->n_free_slots++] = seq->slot;
  queue_remove(&s->running, seq);
  seq->blocks = NULL;
  seq->n_computed = 0;
  seq->state = TL_SCHED_WAITING;
  queue_insert_by_arrival(&s->waiting, seq);
  s->preemptions++;
}

bool preempt_newest(struct tl_scheduler *s, const struct tl_sched_seq *keep) {
  struct tl_sched_seq *newest = s->running.last;
  if (!newest || newest == keep || newest->arrival < keep->arrival) return false;
  put_back(s, newest);
  return true;
}
