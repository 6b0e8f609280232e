/* SPDX-License-Identifier: MIT */
/* Doubly linked lists of sequences, oldest first. */
#include <stddef.h>

#include "schedule/schedule_private.h"

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

void queue_append(struct seq_list *list, struct tl_sched_seq *seq) {
  link_after(list, list->last, seq);
}

void queue_insert_by_arrival(struct seq_list *list, struct tl_sched_seq *seq) {
  struct tl_sched_seq *before = list->last;
  while (before && before->arrival > seq->arrival) before = before->prev;
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
