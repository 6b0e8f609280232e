/* SPDX-License-Identifier: MIT */
#ifndef SCHEDULE_PRIVATE_H
#define SCHEDULE_PRIVATE_H

#include "tokenlane/schedule.h"

struct seq_list {
  struct tl_sched_seq *first, *last;
  uint32_t n;
};

/* Free KV blocks as a stack. */
struct block_pool {
  uint32_t *free;
  uint32_t n_free, n_blocks;
};

struct tl_scheduler {
  struct tl_scheduler_options o;
  struct block_pool pool;
  uint32_t table_stride;      /* entries of a block table */
  uint32_t *tables;           /* (max_batch_size, table_stride) */
  uint32_t *free_slots;       /* (max_batch_size) rows of tables that are free, as a stack */
  uint32_t n_free_slots;
  struct seq_list waiting, running; /* both in order of arrival */
  uint64_t arrivals, preemptions;
};

/* blocks.c */
int blocks_init(struct block_pool *pool, uint32_t n_blocks);
void blocks_done(struct block_pool *pool);
/* Lengthens the sequence's table so that it covers n_tokens; all blocks or none. */
bool blocks_cover(struct tl_scheduler *s, struct tl_sched_seq *seq, uint32_t n_tokens);
void blocks_give_back(struct tl_scheduler *s, struct tl_sched_seq *seq);

/* queue.c */
void queue_append(struct seq_list *list, struct tl_sched_seq *seq);
void queue_insert_by_arrival(struct seq_list *list, struct tl_sched_seq *seq);
void queue_remove(struct seq_list *list, struct tl_sched_seq *seq);

/* preempt.c: frees the blocks of the newest running sequence that is not `keep`
 * and arrived after it; false when there is none. */
bool preempt_newest(struct tl_scheduler *s, const struct tl_sched_seq *keep);

#endif
