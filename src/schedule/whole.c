/* SPDX-License-Identifier: MIT */
/* Steps of a pooling model. A sequence is computed whole and is then through: no blocks, nothing
 * to share, nobody to preempt. What runs is in the step under way or in the plan. By rank; one that does not
 * fit into what is left of the budget is passed by shorter ones, which costs it nothing: it is
 * the first of the next step. */
#include "schedule/schedule_private.h"

#define MAX_PASSED 64 /* looked at in vain in one plan, so that its cost is bounded */

static void enter(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  queue_remove(&s->waiting, seq);
  seq->state = TL_SCHED_RUNNING;
  seq->n_admitted++;
  queue_insert(&s->running, seq);
}

uint32_t whole_plan(struct tl_scheduler *s, struct tl_sched_item *items, uint32_t n) {
  uint32_t budget = s->o.max_batch_tokens, passed = 0;
  for (uint32_t i = 0; i < n; i++) budget -= items[i].n;
  struct tl_sched_seq *seq = s->waiting.first;
  while (seq && n < s->o.max_batch_size && budget > 0 && passed < MAX_PASSED) {
    struct tl_sched_seq *next = seq->next;
    if (seq->n_tokens <= budget) {
      enter(s, seq);
      items[n++] = (struct tl_sched_item){.seq = seq, .n = seq->n_tokens};
      budget -= seq->n_tokens;
    } else {
      passed++;
    }
    seq = next;
  }
  return n;
}
