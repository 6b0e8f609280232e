/* SPDX-License-Identifier: MIT */
/* The scheduler: sequences in, next step out. Pure: no thread, atomic, clock or
 * device call, so it is tested from tables and fuzzed without threads. One
 * scheduler belongs to one worker. It owns the KV blocks' book-keeping; nothing
 * is allocated after tl_scheduler_new.
 *
 * Order. A sequence's rank is its time of arrival, moved ahead by
 * priority_age_ns for each level of priority; the lowest rank comes first
 * everywhere: in the queue, for the token budget, and when blocks are short the
 * highest rank gives way. Ranks never change, so that a sequence is overtaken
 * only by what arrives within 3 * priority_age_ns after it: nothing starves.
 *
 * Sharing. Full blocks whose KV is computed stand in a tree of prefixes
 * (prefix_cache.c). A block of the tree is never written again, and a block
 * that is not full has one owner: nothing is ever copied. A fork computes the
 * partial last block of the prompt again, at most block_tokens rows.
 *
 * States. Where layers keep a state, a sequence goes on only from a position whose state is there. One that runs has a state of its own,
 * and a block of the tree may have one: that behind its last token. Chunks end where a later sequence is likely to go on from (states.c),
 * and what they leave is then the block's, while the sequence's next chunk goes on from it into another: no state is ever copied
 * either. A sequence begins from the last block of its chain that has one. */
#ifndef TOKENLANE_SCHEDULE_H
#define TOKENLANE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/base/error.h"

struct tl_scheduler;

struct tl_scheduler_options {
  uint32_t n_blocks;           /* KV blocks of the device */
  uint32_t block_tokens;       /* slots of a block */
  uint32_t max_batch_size;     /* sequences that run at once */
  uint32_t max_batch_tokens;   /* token budget of a step, >= max_batch_size */
  uint32_t max_context;        /* tokens of a sequence */
  uint32_t max_prefill_tokens; /* prompt tokens of a step that also decodes; 0: half of the budget */
  int64_t priority_age_ns;     /* waiting this long is worth a level of priority */
  bool whole;                  /* sequences are computed whole in one step, without KV: n_blocks, prefix_cache say nothing */
  uint32_t n_states;           /* states of sequences that the device has; 0: sequences have none */
  bool prefix_cache;           /* computed blocks are kept for later sequences; else only forks share */
  uint64_t key[2];             /* of the tree's hashes; random, so that clients cannot make collisions */
};

enum tl_priority { TL_PRIORITY_LOW, TL_PRIORITY_NORMAL, TL_PRIORITY_HIGH, TL_PRIORITY_CRITICAL };

enum tl_sched_state { TL_SCHED_NONE, TL_SCHED_WAITING, TL_SCHED_RUNNING };

/* The scheduler's view of a sequence; embedded in the engine's. */
struct tl_sched_seq {
  /* the engine writes */
  uint32_t n_tokens;     /* prompt + generated, the one that the running step makes included */
  uint32_t n_max;        /* most tokens that it can ever hold */
  const int32_t *tokens; /* (n_tokens) the values of all whose KV is computed or planned; NULL: shares nothing */
  uint32_t n_pending;    /* of those the last so many, whose values are not there yet: their blocks are not shared for now */
  uint32_t max_cached;   /* leading tokens that need not be computed here; UINT32_MAX: any but the last */
  uint8_t priority;      /* enum tl_priority */
  uint64_t salt;         /* sequences share blocks only with the same salt */
  uint32_t adapter;      /* and with the same adapter, which changes keys and values; 0: none */
  uint64_t fork;         /* not 0: shares with the same value even without the prefix cache */
  void *owner;           /* the engine's sequence */
  /* the scheduler writes */
  uint32_t n_computed;   /* leading tokens whose KV is in the cache */
  uint32_t n_blocks;
  uint32_t n_in_tree;    /* leading blocks that stand in the tree of prefixes */
  uint32_t *blocks;      /* block table: (ceil(max_context / block_tokens)) of the running slot; NULL while waiting */
  uint32_t slot;
  uint32_t state_to;     /* its own state while it runs, where each of its steps leaves one; UINT32_MAX: none */
  uint32_t state_from;   /* where the state behind n_computed tokens lies; UINT32_MAX: there is none, or no token */
  uint32_t state_kept;   /* behind the first n_kept blocks, the last of which is not in the tree yet; UINT32_MAX: none */
  uint32_t n_kept, n_rolled, n_behind; /* blocks: see state_kept; before the last state kept by chance; before that kept on purpose */
  uint32_t cut;          /* tokens: where a chunk has to end for those who come later; 0: nowhere */
  uint32_t n_admitted;   /* times it began */
  enum tl_sched_state state;
  bool apart;            /* what it holds is not to be trusted: until it begins anew it shares nothing */
  bool follower;         /* it waits for one ahead of it that computes what it needs */
  int64_t rank_ns;       /* see Order */
  uint64_t arrival;      /* breaks ties */
  uint64_t put_back;     /* number of the plan that preempted it last */
  uint64_t next_key;     /* hash of the full block that its prefill computes next, 0: none */
  struct tl_sched_seq *prev, *next;
};

/* Part of a step: rows n_computed .. n_computed + n of a sequence. */
struct tl_sched_item {
  struct tl_sched_seq *seq;
  uint32_t start; /* first token computed */
  uint32_t n;     /* how many; start + n == n_tokens: the last row's logits are wanted */
  uint32_t n_more; /* of these, what tl_scheduler_lengthen added */
  uint32_t state_from, state_to; /* as those of tl_step (step.h) */
};

/* Totals since the start. */
struct tl_sched_stats {
  uint64_t preemptions;
  uint64_t query_tokens; /* of sequences that began the first time: how many could have been cached */
  uint64_t hit_tokens;   /* and how many were */
  uint64_t evictions;    /* blocks whose content was given up for another */
};

int tl_scheduler_new(const struct tl_scheduler_options *options, struct tl_scheduler **ret, struct tl_error *err);
void tl_scheduler_free(struct tl_scheduler *scheduler);

/* Whether a sequence of n_max tokens can ever run here; `whole`: in one step. */
bool tl_scheduler_fits(const struct tl_scheduler *scheduler, uint32_t n_max);
/* A new sequence waits at its place by rank. now_ns must not go backwards. */
void tl_scheduler_add(struct tl_scheduler *scheduler, struct tl_sched_seq *seq, int64_t now_ns);
/* It is finished or cancelled: gives its blocks back. The caller drops its item
 * from a plan that is not yet done. */
void tl_scheduler_remove(struct tl_scheduler *scheduler, struct tl_sched_seq *seq);

/* Chooses the next step: all decodes first, then prefill chunks within what is
 * left of the budget, by rank, running and waiting sequences alike; the first of
 * them leaves a quarter to those behind it. When blocks are short the highest
 * rank is preempted: its blocks are given back and it waits to be recomputed.
 * A waiting sequence of higher priority preempts ones of lower priority for a
 * place, too. One whose next block is being computed by a sequence ahead of it
 * waits for that. Blocks for all chosen rows are taken. Returns the number of
 * items written to ret (at most max_batch_size), 0 when there is nothing to do. */
uint32_t tl_scheduler_plan(struct tl_scheduler *scheduler, struct tl_sched_item *ret);
/* Adds waiting sequences to the plan made last, as far as it has room, and drops
 * items of what they preempt. Items may have been taken out meanwhile. */
uint32_t tl_scheduler_extend(struct tl_scheduler *scheduler, struct tl_sched_item *items, uint32_t n);
/* A decode of the plan gets n rows behind its own: covers them by blocks, all or none, without taking any from another, and leaves each that runs
 * its next. n_tokens, which the caller then raises, + n is at most n_max. */
bool tl_scheduler_lengthen(struct tl_scheduler *scheduler, struct tl_sched_item *item, uint32_t n);
/* The planned step runs: n_computed of its sequences advances and their full
 * blocks may be shared. To be called once the device has the step: a later
 * step finds the KV there, since a device runs its steps in order. The caller may
 * have made items shorter. Afterwards it may take n_computed back to what is right, but for blocks that are shared: those hold no
 * pending token. */
void tl_scheduler_done(struct tl_scheduler *scheduler, const struct tl_sched_item *items, uint32_t n);
/* What was computed of the sequence is not to be trusted: no later one finds its blocks, nor what was computed from them. Others that
 * run on some of them go on, and share no more. Before its removal. */
void tl_scheduler_distrust(struct tl_scheduler *scheduler, struct tl_sched_seq *seq);
/* Forgets all cached content: what the device holds is not to be trusted. Only
 * while nothing runs. */
void tl_scheduler_flush(struct tl_scheduler *scheduler);

uint32_t tl_scheduler_free_blocks(const struct tl_scheduler *scheduler); /* free or cached and unused */
uint32_t tl_scheduler_cached_blocks(const struct tl_scheduler *scheduler); /* in the tree, used or not */
uint32_t tl_scheduler_used_states(const struct tl_scheduler *scheduler); /* of running sequences */
uint32_t tl_scheduler_kept_states(const struct tl_scheduler *scheduler); /* of blocks of the tree, used or not */
uint32_t tl_scheduler_running(const struct tl_scheduler *scheduler);
uint32_t tl_scheduler_waiting(const struct tl_scheduler *scheduler);
const struct tl_sched_stats *tl_scheduler_stats(const struct tl_scheduler *scheduler);
/* Walks the waiting (then running) sequences: first with NULL. Removing the one
 * just returned is not allowed until the next call. */
struct tl_sched_seq *tl_scheduler_next(const struct tl_scheduler *scheduler, const struct tl_sched_seq *after);

#endif
