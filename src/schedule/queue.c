/* SPDX-License-Identifier: MIT */
/* Doubly linked lists of sequences, lowest rank first. */
#include "schedule/schedule_private.h"

bool queue_before(const struct tl_sched_seq *a, const struct tl_sched_seq *b) {
  return a->rank_ns != b->rank_ns ? a->rank_ns < b->rank_ns : a->arrival < b->arrival;
}

static void link_after(struct seq_list *list, struct tl_sched_seq *before, struct tl_sched_seq *seq) {
  seq->prev = before;
  seq->next = before ? before->next : list->first;
  if (seq->next)
    seq->next->prev = seq;
  else
    list->last = seq;
  if (before)
    before->next = seq;
  else
    list->first = seq;
  list->n++;
}

/* From the end: newcomers of normal priority belong there. */
void queue_insert(struct seq_list *list, struct tl_sched_seq *seq) {
  struct tl_sched_seq *before = list->last;
  while (before && queue_before(seq, before)) before = before->prev;
  link_after(list, before, seq);
}

void queue_remove(struct seq_list *list, struct tl_sched_seq *seq) {
  if (seq->prev)
    seq->prev->next = seq->next;
  else
    list->first = seq->next;
  if (seq->next)
    seq->next->prev = seq->prev;
  else
    list->last = seq->prev;
  seq->prev = seq->next = NULL;
  list->n--;
}
