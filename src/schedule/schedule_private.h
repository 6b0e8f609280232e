/* SPDX-License-Identifier: MIT */
#ifndef SCHEDULE_PRIVATE_H
#define SCHEDULE_PRIVATE_H

#include <stddef.h>

#include "tokenlane/schedule.h"

#define BLOCK_NONE UINT32_MAX
#define STATE_NONE UINT32_MAX /* TL_NO_STATE of step.h */

struct seq_list {
  struct tl_sched_seq *first, *last;
  uint32_t n;
};

/* A KV block.
 *
 *            take                  publish, when full
 *   free ----------> in use, own ---------------------> in use, in the tree
 *    ^  ^              |  refs 1                          |  refs >= 1: tables that name it
 *    |  +--------------+ last unref                       | last unref
 *    +------------------------------------------------- idle: refs 0, in the tree
 *                      evicted                            (a hit makes it used again)  */
struct block {
  uint32_t refs;
  bool in_tree;
  uint32_t parent;               /* in the tree: the block before it; BLOCK_NONE: it begins a sequence */
  uint64_t salt;                 /* in the tree, without a parent: of the sequences that may use it */
  uint32_t adapter;              /* likewise */
  uint32_t state;                /* in the tree: the state behind its last token; STATE_NONE: there is none */
  uint64_t hash;                 /* in the tree: of the salt, the adapter and all tokens up to its end */
  uint32_t bucket_next;          /* others of the same bucket */
  uint32_t idle_prev, idle_next;
};

struct block_pool {
  struct block *blocks;          /* (n_blocks) */
  uint32_t n_blocks;
  uint32_t *free, n_free;        /* free ones, as a stack */
  uint32_t idle_first, idle_last, n_idle; /* idle ones, least recently used first */
};

struct prefix_tree {
  uint32_t *buckets, bucket_mask; /* (power of two) first block of each, by hash */
  int32_t *tokens;                /* (n_blocks, block_tokens) what a block of the tree holds */
  unsigned char *input;           /* room to hash: parent's hash, then tokens */
  uint32_t n;
};

/* A state of sequences. Free: refs 0 and no block; idle: refs 0, of a block. */
struct state {
  uint32_t refs;                 /* sequences that write it, go on from it, or keep it for a block that is not in the tree yet */
  uint32_t block;                /* of the tree, whose it is; BLOCK_NONE: nobody but those sequences has it */
  bool rolls;                    /* it is there by chance: its sequence has it forgotten when there is a later one */
  uint64_t used;                 /* idle: when it was used last */
};

struct state_pool {
  struct state *states;           /* (n_states) */
  uint32_t *free, n_free;         /* free ones, as a stack */
  uint32_t n_idle, n_kept;        /* n_kept: of blocks of the tree, used or idle */
  uint64_t clock;
};

struct tl_scheduler {
  struct tl_scheduler_options o;
  struct block_pool pool;
  struct prefix_tree tree;
  struct state_pool states;
  uint32_t table_stride;      /* entries of a block table */
  uint32_t *tables;           /* (max_batch_size, table_stride) */
  uint32_t *match;            /* (table_stride) blocks found for the sequence under consideration */
  uint32_t *free_slots;       /* (max_batch_size) rows of tables that are free, as a stack */
  uint32_t n_free_slots;
  struct seq_list waiting, running; /* both by rank */
  uint64_t arrivals, plans;
  struct tl_sched_stats stats;
};

/* blocks.c */
int blocks_init(struct tl_scheduler *s);
void blocks_done(struct tl_scheduler *s);
/* Blocks that can be had: free, or idle and then evicted. */
uint32_t blocks_available(const struct tl_scheduler *s);
void block_ref(struct tl_scheduler *s, uint32_t block);
void block_unref(struct tl_scheduler *s, uint32_t block);
void block_evict_idle(struct tl_scheduler *s);
/* Takes it out of the tree; who uses it keeps it. */
void block_forget(struct tl_scheduler *s, uint32_t block);
/* Lengthens the sequence's table so that it covers n_tokens; all blocks or none. */
bool blocks_cover(struct tl_scheduler *s, struct tl_sched_seq *seq, uint32_t n_tokens);
void blocks_give_back(struct tl_scheduler *s, struct tl_sched_seq *seq);

/* prefix_cache.c */
int tree_init(struct tl_scheduler *s);
void tree_done(struct tl_scheduler *s);
void tree_remove(struct tl_scheduler *s, uint32_t block);
/* Whether it uses the tree at all, now. */
bool tree_shares(const struct tl_scheduler *s, const struct tl_sched_seq *seq);
/* Finds the blocks that hold the sequence's first tokens: into s->match. Returns
 * how many; *ret_key: hash of the full block after them, 0 when it has none that
 * it could share. */
uint32_t tree_match(struct tl_scheduler *s, const struct tl_sched_seq *seq, uint64_t *ret_key);
/* The sequence's full blocks that are computed, and whose tokens are known, go into the
 * tree, or give way to ones there that hold the same. */
void tree_publish(struct tl_scheduler *s, struct tl_sched_seq *seq);
/* Hash of the full block that holds token n_computed, 0 when there is none to share. */
uint64_t tree_next_key(struct tl_scheduler *s, const struct tl_sched_seq *seq);
/* How many leading blocks of what `ahead` computes now, `seq` can use. */
uint32_t tree_common(const struct tl_scheduler *s, const struct tl_sched_seq *ahead, const struct tl_sched_seq *seq);

/* queue.c */
bool queue_before(const struct tl_sched_seq *a, const struct tl_sched_seq *b);
void queue_insert(struct seq_list *list, struct tl_sched_seq *seq);
void queue_remove(struct seq_list *list, struct tl_sched_seq *seq);

/* preempt.c: puts the last running sequence back, if it stands behind `keep`;
 * false when it does not. preempt_lower: only if its priority is lower, too. */
bool preempt_last(struct tl_scheduler *s, const struct tl_sched_seq *keep);
bool preempt_lower(struct tl_scheduler *s, const struct tl_sched_seq *keep);

/* whole.c: fills the n items up with waiting sequences, each of them whole; returns how many there are. */
uint32_t whole_plan(struct tl_scheduler *s, struct tl_sched_item *items, uint32_t n);

/* admission.c */
struct plan {
  struct tl_scheduler *s;
  struct tl_sched_item *items;
  uint32_t n;
  uint32_t budget;  /* rows that are left */
  uint32_t most;    /* rows that the next prompt may have of them */
  struct tl_sched_seq *lead; /* the first prompt of the plan */
};
/* states.c; without states they do nothing */
int states_init(struct tl_scheduler *s);
void states_done(struct tl_scheduler *s);
/* How many of the first n_match blocks in s->match a sequence can use: up to the last one with a state. */
uint32_t states_reach(const struct tl_scheduler *s, uint32_t n_match);
/* That state, which nobody takes meanwhile; STATE_NONE: there is none. */
uint32_t states_hold(struct tl_scheduler *s, uint32_t n_reach);
void states_let_go(struct tl_scheduler *s, uint32_t at);
/* Whether a sequence that begins from that one can have one of its own. */
bool states_have_room(const struct tl_scheduler *s, uint32_t from);
/* Before it begins: what it found. */
void states_expect(const struct tl_scheduler *s, struct tl_sched_seq *seq, uint32_t n_match, uint32_t n_reach);
/* It begins from the state that it held. There is room. */
void states_enter(struct tl_scheduler *s, struct tl_sched_seq *seq, uint32_t from);
void states_give_back(struct tl_scheduler *s, struct tl_sched_seq *seq);
void states_clear(struct tl_sched_seq *seq);
/* So many rows, of n, it computes in one step from `start` on. */
uint32_t states_cut(const struct tl_scheduler *s, const struct tl_sched_seq *seq, uint32_t start, uint32_t n);
/* Whether a sequence that finds a state behind n_reach blocks better waits for what `ahead` computes: that ends a chunk there then. p: the
 * plan being made, or NULL. */
bool states_lead(const struct tl_scheduler *s, struct plan *p, struct tl_sched_seq *ahead, const struct tl_sched_seq *seq, uint32_t n_reach);
/* A step of it is under way; and then, once its blocks are in the tree: what the step left may be kept. */
void states_advance(struct tl_scheduler *s, struct tl_sched_seq *seq);
void states_keep(struct tl_scheduler *s, struct tl_sched_seq *seq);
void states_drop_kept(struct tl_scheduler *s, struct tl_sched_seq *seq);
/* The block's state is nobody's, or of those who still go on from it. */
void states_forget(struct tl_scheduler *s, uint32_t block);

/* batch.c: `n` rows of the sequence; those before are computed. */
void batch_add(struct plan *p, struct tl_sched_seq *seq, uint32_t n);
enum admission { ADMITTED, NO_ROOM, FOLLOWS };
/* FOLLOWS: a sequence ahead computes the very block that it needs next. */
enum admission admission_try(struct plan *p, struct tl_sched_seq *seq);
/* Who is first in the queue gets a place from who is behind and of lower priority. */
void admission_make_place(struct tl_scheduler *s);

#endif
