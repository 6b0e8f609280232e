/* SPDX-License-Identifier: MIT */
/* The scheduler: sequences in, next step out. Pure: no thread, atomic, clock or
 * device call, so it is tested from tables and fuzzed without threads. One
 * scheduler belongs to one worker. It owns the KV blocks' book-keeping; nothing
 * is allocated after tl_scheduler_new. */
#ifndef TOKENLANE_SCHEDULE_H
#define TOKENLANE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/base/error.h"

struct tl_scheduler;

struct tl_scheduler_options {
  uint32_t n_blocks;         /* KV blocks of the device */
  uint32_t block_tokens;     /* slots of a block */
  uint32_t max_batch_size;   /* sequences that run at once */
  uint32_t max_batch_tokens; /* token budget of a step */
  uint32_t max_context;      /* tokens of a sequence */
};

enum tl_sched_state { TL_SCHED_NONE, TL_SCHED_WAITING, TL_SCHED_RUNNING };

/* The scheduler's view of a sequence; embedded in the engine's. */
struct tl_sched_seq {
  /* the engine writes */
  uint32_t n_tokens;   /* prompt + generated: tokens whose values are known */
  uint32_t n_max;      /* most tokens that it can ever hold */
  void *owner;         /* the engine's sequence */
  /* the scheduler writes */
  uint32_t n_computed; /* leading tokens whose KV is in the cache */
  uint32_t n_blocks;
  uint32_t *blocks;    /* block table: (ceil(max_context / block_tokens)) of the running slot; NULL while waiting */
  uint32_t slot;
  enum tl_sched_state state;
  uint64_t arrival;    /* order of arrival, kept over preemption */
  struct tl_sched_seq *prev, *next;
};

/* Part of a step: rows n_computed .. n_computed + n of a sequence. */
struct tl_sched_item {
  struct tl_sched_seq *seq;
  uint32_t start; /* first token computed */
  uint32_t n;     /* how many; start + n == n_tokens: the last row's logits are wanted */
};

int tl_scheduler_new(const struct tl_scheduler_options *options, struct tl_scheduler **ret, struct tl_error *err);
void tl_scheduler_free(struct tl_scheduler *scheduler);

/* Whether a sequence of n_max tokens can ever run here. */
bool tl_scheduler_fits(const struct tl_scheduler *scheduler, uint32_t n_max);
/* A new sequence (n_computed = 0) waits at the end of the queue. */
void tl_scheduler_add(struct tl_scheduler *scheduler, struct tl_sched_seq *seq);
/* It is finished or cancelled: gives its blocks back. Not between plan and done. */
void tl_scheduler_remove(struct tl_scheduler *scheduler, struct tl_sched_seq *seq);

/* Chooses the next step: decodes first, then prefill chunks within the token
 * budget, oldest first; admits waiting sequences while slots and blocks last. When
 * a decode finds no free block, the newest running sequence is preempted: its
 * blocks are freed and it waits again (at its place by arrival) to be
 * recomputed. Blocks for all chosen rows are taken. Returns the number of items
 * written to ret (at most max_batch_size), 0 when there is nothing to do. */
uint32_t tl_scheduler_plan(struct tl_scheduler *scheduler, struct tl_sched_item *ret);
/* The planned step has run: n_computed of its sequences advances. */
void tl_scheduler_done(struct tl_scheduler *scheduler, const struct tl_sched_item *items, uint32_t n);

uint32_t tl_scheduler_free_blocks(const struct tl_scheduler *scheduler);
uint32_t tl_scheduler_running(const struct tl_scheduler *scheduler);
uint32_t tl_scheduler_waiting(const struct tl_scheduler *scheduler);
uint64_t tl_scheduler_preemptions(const struct tl_scheduler *scheduler);
/* Walks the waiting (then running) sequences: first with NULL. Removing the one
 * just returned is not allowed until the next call. */
struct tl_sched_seq *tl_scheduler_next(const struct tl_scheduler *scheduler, const struct tl_sched_seq *after);

#endif
