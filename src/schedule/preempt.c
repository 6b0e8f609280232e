/* SPDX-License-Identifier: MIT */
#include "schedule/schedule_private.h"

/* Its tokens are known and are computed again, as far as their blocks have not
 * stayed in the tree until then. */
static void put_back(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  blocks_give_back(s, seq);
  states_give_back(s, seq);
  s->free_slots[s->n_free_slots++] = seq->slot;
  queue_remove(&s->running, seq);
  seq->blocks = NULL;
  seq->n_computed = 0;
  seq->apart = false;
  seq->next_key = 0;
  seq->state = TL_SCHED_WAITING;
  seq->put_back = s->plans;
  queue_insert(&s->waiting, seq);
  s->stats.preemptions++;
}

bool preempt_last(struct tl_scheduler *s, const struct tl_sched_seq *keep) {
  struct tl_sched_seq *last = s->running.last;
  if (!last || last == keep || queue_before(last, keep)) return false;
  put_back(s, last);
  return true;
}

bool preempt_lower(struct tl_scheduler *s, const struct tl_sched_seq *keep) {
  struct tl_sched_seq *last = s->running.last;
  return last && last->priority < keep->priority && preempt_last(s, keep);
}
