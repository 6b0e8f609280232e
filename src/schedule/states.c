/* SPDX-License-Identifier: MIT */
/* States of sequences, of models with layers that keep one. What such a layer made of the tokens before lies in no block: a sequence goes on
 * only from where a state is. One that runs has its own, `state_to`, into which each of its steps puts what is behind its last row, and
 * goes on from `state_from`, which is the same but for the first chunk behind a state that stays:
 *
 *   blocks     |    0    |    1    |    2    |          chunk ends at 2: A becomes block 1's, and the sequence goes on
 *   states               A         |         B          from A into B. Nothing is copied
 *
 * The state behind a block of the tree is the block's own while nobody writes it; who finds the block begins there. Those that nobody uses are
 * given up, the one first that was used longest ago, when a sequence wants one. What is read by a step that is planned is held until
 * that step is under way, and what is given out then is written by a later one.
 *
 * Kept are states
 *   - behind the last full block of a prompt that one with the same beginning can use,
 *   - where a prompt found blocks of the tree but no state, as prompts part there,
 *   - where one that waits wants to go on from (states_lead),
 *     all three only if that saves enough, since a chunk has to end there, which costs a step;
 *   - and wherever else a chunk ends with a block, as every 16th token of an answer does: the last such one, for the conversation's next turn.
 *
 * A block is in the tree a step after it is full where steps run ahead of their tokens: until then the sequence holds its state. */
#include <stdlib.h>

#include "schedule/schedule_private.h"

#define WORTH 4 /* blocks: to end a chunk for fewer costs more than it saves */

/* --- the pool ----------------------------------------------------------------------------- */

int states_init(struct tl_scheduler *s) {
  struct state_pool *pool = &s->states;
  uint32_t n = s->o.n_states;
  if (n == 0) return TL_OK;
  pool->states = calloc(n, sizeof *pool->states);
  pool->free = malloc(n * sizeof *pool->free);
  if (!pool->states || !pool->free) return TL_ENOMEM;
  for (uint32_t i = 0; i < n; i++) {
    pool->free[i] = n - 1 - i;
    pool->states[i].block = BLOCK_NONE;
  }
  pool->n_free = n;
  return TL_OK;
}

void states_done(struct tl_scheduler *s) {
  free(s->states.states);
  free(s->states.free);
}

static uint32_t n_available(const struct tl_scheduler *s) {
  return s->states.n_free + s->states.n_idle;
}

static void ref(struct state_pool *pool, uint32_t at) {
  if (pool->states[at].refs++ == 0) pool->n_idle--; /* only those of blocks are found by others */
}

static void unref(struct state_pool *pool, uint32_t at) {
  struct state *state = &pool->states[at];
  if (--state->refs > 0) return;
  if (state->block == BLOCK_NONE) {
    pool->free[pool->n_free++] = at;
    return;
  }
  pool->n_idle++;
  state->used = ++pool->clock;
}

void states_forget(struct tl_scheduler *s, uint32_t block) {
  struct state_pool *pool = &s->states;
  uint32_t at = s->pool.blocks[block].state;
  if (at == STATE_NONE) return;
  s->pool.blocks[block].state = STATE_NONE;
  pool->states[at].block = BLOCK_NONE;
  pool->n_kept--;
  if (pool->states[at].refs > 0) return; /* somebody goes on from it */
  pool->n_idle--;
  pool->free[pool->n_free++] = at;
}

/* There are hundreds, and one is given up for 16 tokens at most: it is searched for. */
static void evict_idle(struct tl_scheduler *s) {
  const struct state *states = s->states.states, *oldest = NULL;
  for (uint32_t i = 0; i < s->o.n_states; i++)
    if (states[i].refs == 0 && states[i].block != BLOCK_NONE && (!oldest || states[i].used < oldest->used)) oldest = &states[i];
  if (oldest) states_forget(s, oldest->block);
}

/* STATE_NONE: all are in use. */
static uint32_t take(struct tl_scheduler *s) {
  if (n_available(s) == 0) return STATE_NONE;
  if (s->states.n_free == 0) evict_idle(s);
  uint32_t at = s->states.free[--s->states.n_free];
  s->states.states[at].refs = 1;
  return at;
}

/* --- a sequence begins and ends ---------------------------------------------------------------- */

uint32_t states_reach(const struct tl_scheduler *s, uint32_t n_match) {
  if (s->o.n_states == 0) return n_match;
  while (n_match > 0 && s->pool.blocks[s->match[n_match - 1]].state == STATE_NONE) n_match--;
  return n_match;
}

uint32_t states_hold(struct tl_scheduler *s, uint32_t n_reach) {
  if (s->o.n_states == 0 || n_reach == 0) return STATE_NONE;
  uint32_t at = s->pool.blocks[s->match[n_reach - 1]].state;
  ref(&s->states, at);
  return at;
}

void states_let_go(struct tl_scheduler *s, uint32_t at) {
  if (at != STATE_NONE) unref(&s->states, at);
}

/* When there is no other, it takes over the one that it found, if nobody else goes on from that. */
bool states_have_room(const struct tl_scheduler *s, uint32_t from) {
  return s->o.n_states == 0 || n_available(s) > 0 || (from != STATE_NONE && s->states.states[from].refs == 1);
}

void states_expect(const struct tl_scheduler *s, struct tl_sched_seq *seq, uint32_t n_match, uint32_t n_reach) {
  seq->n_behind = n_reach;
  seq->cut = n_match - n_reach >= WORTH ? n_match * s->o.block_tokens : 0;
}

void states_enter(struct tl_scheduler *s, struct tl_sched_seq *seq, uint32_t from) {
  if (s->o.n_states == 0) return;
  seq->state_from = from;
  seq->state_to = take(s);
  if (from != STATE_NONE) s->states.states[from].rolls = false; /* it is of use */
  if (seq->state_to != STATE_NONE) return;
  states_forget(s, s->states.states[from].block);
  seq->state_to = from;
}

void states_drop_kept(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  states_let_go(s, seq->state_kept);
  seq->state_kept = STATE_NONE;
}

void states_give_back(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  if (seq->state_from != seq->state_to) states_let_go(s, seq->state_from);
  states_let_go(s, seq->state_to);
  states_drop_kept(s, seq);
  states_clear(seq);
}

void states_clear(struct tl_sched_seq *seq) {
  seq->state_from = seq->state_to = seq->state_kept = STATE_NONE;
  seq->n_behind = seq->cut = seq->n_rolled = 0;
}

/* --- where chunks end ----------------------------------------------------------------------------- */

/* The last that a prompt with the same beginning can go on from: all that it needs to compute is its last token. */
static uint32_t last_cut(const struct tl_scheduler *s, const struct tl_sched_seq *seq) {
  return (seq->n_tokens - 1) / s->o.block_tokens * s->o.block_tokens;
}

/* UINT32_MAX: nowhere behind `start`. */
static uint32_t next_cut(const struct tl_scheduler *s, const struct tl_sched_seq *seq, uint32_t start) {
  bool enters = seq->state_to == STATE_NONE; /* and takes one itself */
  if (s->o.n_states == 0 || !tree_shares(s, seq) || n_available(s) <= enters) return UINT32_MAX;
  uint32_t cut = seq->cut > start ? seq->cut : UINT32_MAX, last = last_cut(s, seq);
  return last > start && last < cut && last / s->o.block_tokens >= seq->n_behind + WORTH ? last : cut;
}

uint32_t states_cut(const struct tl_scheduler *s, const struct tl_sched_seq *seq, uint32_t start, uint32_t n) {
  uint32_t cut = next_cut(s, seq, start);
  return cut - start < n ? cut - start : n;
}

/* The item may be planned already, to go further: it is not yet built. */
static void shorten(struct plan *p, const struct tl_sched_seq *seq) {
  for (uint32_t i = 0; i < p->n; i++) {
    struct tl_sched_item *item = &p->items[i];
    if (item->seq != seq || item->start + item->n <= seq->cut) continue;
    p->budget += item->start + item->n - seq->cut;
    item->n = seq->cut - item->start;
  }
}

bool states_lead(const struct tl_scheduler *s, struct plan *p, struct tl_sched_seq *ahead, const struct tl_sched_seq *seq, uint32_t n_reach) {
  if (n_available(s) == 0 || ahead->n_computed + 1 >= ahead->n_tokens) return false;
  uint32_t n = tree_common(s, ahead, seq), end = n * s->o.block_tokens;
  if (n < n_reach + WORTH || end <= ahead->n_computed) return false;
  if (ahead->cut <= ahead->n_computed || ahead->cut > end) ahead->cut = end;
  if (p) shorten(p, ahead);
  return true;
}

/* --- what a step leaves ------------------------------------------------------------------------------- */

void states_advance(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  if (seq->state_from != seq->state_to) states_let_go(s, seq->state_from);
  seq->state_from = seq->state_to;
}

static void give_to_block(struct tl_scheduler *s, uint32_t block, uint32_t at, bool rolls) {
  s->pool.blocks[block].state = at;
  s->states.states[at].block = block;
  s->states.states[at].rolls = rolls;
  s->states.n_kept++;
}

/* The last of those that are there by chance: there is a later one. */
static void drop_rolled(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  uint32_t block = seq->n_rolled ? seq->blocks[seq->n_rolled - 1] : BLOCK_NONE;
  seq->n_rolled = 0;
  if (block == BLOCK_NONE || s->pool.blocks[block].state == STATE_NONE) return;
  if (s->states.states[s->pool.blocks[block].state].rolls) states_forget(s, block);
}

/* The state that waited for its block has one now. */
static void settle(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  uint32_t n = seq->n_kept, at = seq->state_kept;
  if (at == STATE_NONE || seq->n_in_tree < n) return;
  if (s->pool.blocks[seq->blocks[n - 1]].state == STATE_NONE) {
    drop_rolled(s, seq);
    give_to_block(s, seq->blocks[n - 1], at, true);
    seq->n_rolled = n;
  }
  states_drop_kept(s, seq);
}

void states_keep(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  uint32_t end = seq->n_computed, n = end / s->o.block_tokens;
  if (s->o.n_states == 0 || !tree_shares(s, seq)) return;
  settle(s, seq);
  bool planned = end == seq->cut || end == last_cut(s, seq), is_there = seq->n_in_tree >= n && n > 0;
  if (end % s->o.block_tokens != 0 || n == 0 || !(planned || s->o.prefix_cache)) return;
  bool has_one = is_there && s->pool.blocks[seq->blocks[n - 1]].state != STATE_NONE;
  if (planned && has_one) seq->n_behind = n;
  if (has_one) return;
  states_drop_kept(s, seq);
  uint32_t at = seq->state_to, next = take(s);
  if (next == STATE_NONE) return;
  seq->state_to = next;
  if (!is_there) {
    ref(&s->states, at);
    seq->state_kept = at;
    seq->n_kept = n;
    return;
  }
  drop_rolled(s, seq);
  give_to_block(s, seq->blocks[n - 1], at, !planned);
  *(planned ? &seq->n_behind : &seq->n_rolled) = n;
}

uint32_t tl_scheduler_used_states(const struct tl_scheduler *scheduler) {
  return scheduler->o.n_states - n_available(scheduler);
}

uint32_t tl_scheduler_kept_states(const struct tl_scheduler *scheduler) {
  return scheduler->states.n_kept;
}
