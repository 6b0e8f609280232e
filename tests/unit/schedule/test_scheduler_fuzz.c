/* SPDX-License-Identifier: MIT */
/* Random loads, driven as the engine drives: a step is done as soon as it is
 * under way, the next one is planned, and for some loads under way, before its tokens are known, then some
 * sequences end and the plan is extended. Some decodes have guesses behind them, of which some are wrong. After every call all that must always
 * hold is checked:
 *   - each block is free, idle or used; its references are the tables that name it
 *   - the tree is sound: parents, buckets, order of the idle list, tokens
 *   - a plan keeps the token budget and the batch size, names a sequence once,
 *     begins where it stands, has blocks for all its rows, and writes no block
 *     that another sequence can see
 *   - a simulated cache holds, for every token before a row, exactly the KV of
 *     the sequence's own tokens
 *   - of models with states: a simulated device has in the state that a chunk goes on from exactly what is behind the tokens before it,
 *     and nobody else of the step touches the one that it writes; each state is free or held by who has it
 *   - whoever is first in rank is in the plan, unless nobody of lower priority runs
 *   - in the end everything has been computed and no block is in use */
#include "schedule/schedule_private.h"
#include "tokenlane/base/hash.h"
#include "unit.h"

enum { MAX_SEQS = 60, MAX_TOKENS = 320, UNKNOWN = -1 };

struct fuzz {
  struct tl_scheduler_options o;
  struct tl_scheduler *s;
  struct tl_sched_seq seqs[MAX_SEQS];
  int32_t tokens[MAX_SEQS][MAX_TOKENS];
  uint32_t fate[MAX_SEQS]; /* makes its continuation */
  bool live[MAX_SEQS], settled[MAX_SEQS]; /* the latter: its last step had guesses behind it */
  uint32_t n_live;
  struct tl_sched_item *items; /* (max_batch_size) planned */
  uint32_t n_items;
  struct flight {
    struct tl_sched_item *items; /* (max_batch_size) under way */
    uint32_t n;
  } first, second;            /* the latter: of a device that runs ahead */
  bool ahead;
  uint32_t *refs, *place;     /* (n_blocks) */
  uint64_t *kv;               /* (n_blocks * block_tokens) hash of all tokens up to the one whose KV lies there */
  uint64_t *states;           /* (n_states) hash of all tokens that it is behind */
  uint32_t *holders;          /* (n_states) */
  uint64_t random, n_steps;
  int64_t now_ns;
  bool draining;
};

/* What all seeds together have met. */
static uint64_t n_hits, n_evictions, n_preemptions, n_shared, n_guesses, n_right, n_distrusted, n_moved, n_state_hits, n_held, n_left;

static uint32_t blocks_for(const struct fuzz *f, uint32_t n_tokens) {
  return (n_tokens + f->o.block_tokens - 1) / f->o.block_tokens;
}

static uint64_t chain(uint64_t before, int32_t token) {
  return tl_hash_u64(before ^ (uint64_t)(uint32_t)token);
}

/* --- blocks and tree ------------------------------------------------------------------------ */

static void check_tables(struct fuzz *f) {
  memset(f->refs, 0, f->o.n_blocks * sizeof *f->refs);
  for (unsigned i = 0; i < MAX_SEQS; i++) {
    const struct tl_sched_seq *seq = &f->seqs[i];
    if (!f->live[i]) continue;
    assert_true(seq->n_computed <= seq->n_tokens && seq->n_tokens <= seq->n_max);
    if (seq->state == TL_SCHED_WAITING) {
      assert_true(seq->n_blocks == 0 && seq->blocks == NULL && seq->n_computed == 0);
      continue;
    }
    assert_int_equal(seq->state, TL_SCHED_RUNNING);
    assert_true(seq->slot < f->o.max_batch_size);
    assert_ptr_equal(seq->blocks, f->s->tables + (size_t)seq->slot * f->s->table_stride);
    assert_true(seq->n_blocks >= blocks_for(f, seq->n_computed) && seq->n_blocks <= f->s->table_stride);
    for (uint32_t b = 0; b < seq->n_blocks; b++) {
      assert_true(seq->blocks[b] < f->o.n_blocks);
      f->refs[seq->blocks[b]]++;
    }
    /* its full computed blocks are a chain of the tree, but for guesses */
    uint32_t known = seq->n_tokens - seq->n_pending < seq->n_computed ? seq->n_tokens - seq->n_pending : seq->n_computed;
    uint32_t n_full = tree_shares(f->s, seq) ? known / f->o.block_tokens : 0;
    if (seq->apart) n_full = seq->n_in_tree;
    if (f->settled[i] || f->ahead) { /* what was right of guesses, or has come since, gets there with the next step */
      assert_true(seq->n_in_tree <= n_full);
      n_full = seq->n_in_tree;
    }
    for (uint32_t b = 0; b < n_full; b++) {
      const struct block *block = &f->s->pool.blocks[seq->blocks[b]];
      assert_true(block->in_tree && block->parent == (b ? seq->blocks[b - 1] : BLOCK_NONE));
      if (b == 0) assert_int_equal(block->salt, f->o.prefix_cache ? seq->salt : seq->fork);
    }
  }
}

static void check_tree_block(struct fuzz *f, uint32_t at) {
  const struct block *b = &f->s->pool.blocks[at];
  uint32_t n = f->o.block_tokens;
  uint64_t before = 0;
  if (b->parent != BLOCK_NONE) {
    assert_true(f->s->pool.blocks[b->parent].in_tree);
    before = f->kv[b->parent * n + n - 1];
    /* whoever uses a block uses its parent; the idle ones go leaf first */
    assert_true(f->refs[b->parent] >= f->refs[at]);
    if (f->refs[b->parent] == 0) assert_true(f->place[at] < f->place[b->parent]);
  }
  for (uint32_t i = 0; i < n; i++) { /* what it claims to hold is what was written there */
    before = chain(before, f->s->tree.tokens[at * n + i]);
    assert_int_equal(f->kv[at * n + i], before);
  }
}

static bool any_is_apart(const struct fuzz *f) {
  for (unsigned i = 0; i < MAX_SEQS; i++)
    if (f->live[i] && f->seqs[i].apart) return true;
  return false;
}

static void check_blocks(struct fuzz *f) {
  const struct block_pool *pool = &f->s->pool;
  uint32_t n_used = 0, n_tree = 0, n_idle = 0, before = BLOCK_NONE;
  for (uint32_t i = 0; i < pool->n_free; i++) {
    assert_true(f->refs[pool->free[i]] == 0 && !pool->blocks[pool->free[i]].in_tree);
    f->place[pool->free[i]] = BLOCK_NONE;
  }
  for (uint32_t at = pool->idle_first; at != BLOCK_NONE; before = at, at = pool->blocks[at].idle_next) {
    assert_true(pool->blocks[at].in_tree && f->refs[at] == 0 && pool->blocks[at].idle_prev == before);
    f->place[at] = n_idle++;
  }
  assert_true(n_idle == pool->n_idle && pool->idle_last == before);
  for (uint32_t i = 0; i < f->o.n_blocks; i++) {
    assert_int_equal(pool->blocks[i].refs, f->refs[i]);
    n_used += f->refs[i] > 0;
    n_tree += pool->blocks[i].in_tree;
    n_shared += f->refs[i] > 1;
    if (pool->blocks[i].in_tree)
      check_tree_block(f, i);
    else
      assert_true(f->refs[i] <= 1 || any_is_apart(f));
  }
  assert_int_equal(n_used + pool->n_free + n_idle, f->o.n_blocks);
  assert_int_equal(tl_scheduler_free_blocks(f->s), f->o.n_blocks - n_used);
  assert_int_equal(tl_scheduler_cached_blocks(f->s), n_tree);
  if (!f->o.prefix_cache) assert_int_equal(n_idle, 0);
  uint32_t n_found = 0;
  for (uint32_t i = 0; i <= f->s->tree.bucket_mask; i++)
    for (uint32_t at = f->s->tree.buckets[i]; at != BLOCK_NONE; at = pool->blocks[at].bucket_next) {
      assert_true(pool->blocks[at].in_tree && (pool->blocks[at].hash & f->s->tree.bucket_mask) == i);
      n_found++;
    }
  assert_int_equal(n_found, n_tree);
}

static void count_holder(struct fuzz *f, uint32_t at) {
  if (at == STATE_NONE) return;
  assert_true(at < f->o.n_states);
  f->holders[at]++;
}

/* Who runs has one of its own, goes on from that or another, and may keep one for a block. */
static void check_seq_states(struct fuzz *f, const struct tl_sched_seq *seq) {
  bool runs = seq->state == TL_SCHED_RUNNING && f->o.n_states > 0;
  assert_int_equal(seq->state_to == STATE_NONE, !runs);
  assert_int_equal(seq->state_from == STATE_NONE, !runs || seq->n_computed == 0);
  assert_true(seq->state_kept == STATE_NONE || (runs && seq->n_kept > seq->n_in_tree && seq->n_kept <= seq->n_computed / f->o.block_tokens));
  count_holder(f, seq->state_to);
  if (seq->state_from != seq->state_to) count_holder(f, seq->state_from);
  count_holder(f, seq->state_kept);
  n_held += seq->state_kept != STATE_NONE;
  if (runs) assert_int_equal(f->s->states.states[seq->state_to].block, BLOCK_NONE);
}

static void check_states(struct fuzz *f) {
  const struct state_pool *pool = &f->s->states;
  uint32_t n_free = 0, n_idle = 0, n_kept = 0, n = f->o.block_tokens;
  memset(f->holders, 0, f->o.n_states * sizeof *f->holders);
  for (unsigned i = 0; i < MAX_SEQS; i++)
    if (f->live[i]) check_seq_states(f, &f->seqs[i]);
  for (uint32_t i = 0; i < f->o.n_states; i++) {
    const struct state *state = &pool->states[i];
    assert_int_equal(state->refs, f->holders[i]);
    n_free += state->refs == 0 && state->block == BLOCK_NONE;
    n_idle += state->refs == 0 && state->block != BLOCK_NONE;
    if (state->block == BLOCK_NONE) continue;
    n_left += state->refs > 0;
    n_kept++; /* and is behind just what lies in the block */
    assert_true(f->s->pool.blocks[state->block].in_tree && f->s->pool.blocks[state->block].state == i);
    assert_int_equal(f->states[i], f->kv[state->block * n + n - 1]);
  }
  for (uint32_t i = 0; i < f->o.n_blocks; i++) n_kept -= f->s->pool.blocks[i].state != STATE_NONE;
  for (uint32_t i = 0; i < pool->n_free; i++) assert_true(pool->states[pool->free[i]].refs == 0 && pool->states[pool->free[i]].block == BLOCK_NONE);
  assert_true(pool->n_free == n_free && pool->n_idle == n_idle && n_kept == 0);
  assert_int_equal(tl_scheduler_used_states(f->s), f->o.n_states - n_free - n_idle);
}

static void check_list(const struct seq_list *list, enum tl_sched_state state) {
  uint32_t n = 0;
  const struct tl_sched_seq *before = NULL;
  for (const struct tl_sched_seq *seq = list->first; seq; before = seq, seq = seq->next, n++) {
    assert_int_equal(seq->state, state);
    assert_ptr_equal(seq->prev, before);
    if (before) assert_true(queue_before(before, seq));
  }
  assert_ptr_equal(list->last, before);
  assert_int_equal(list->n, n);
}

static void check_all(struct fuzz *f) {
  check_tables(f);
  check_blocks(f);
  check_states(f);
  check_list(&f->s->running, TL_SCHED_RUNNING);
  check_list(&f->s->waiting, TL_SCHED_WAITING);
  assert_int_equal(tl_scheduler_running(f->s) + tl_scheduler_waiting(f->s), f->n_live);
  assert_int_equal(tl_scheduler_running(f->s) + f->s->n_free_slots, f->o.max_batch_size);
}

/* --- sequences ------------------------------------------------------------------------------ */

/* Prompts of a family begin alike; the first half of them in three families. */
static void make_prompt(struct fuzz *f, unsigned i) {
  struct tl_sched_seq *seq = &f->seqs[i];
  uint32_t family = unit_below(&f->random, 3), n_alike = unit_below(&f->random, seq->n_tokens + 1);
  if (unit_below(&f->random, 3) == 0) n_alike = seq->n_tokens;
  for (uint32_t p = 0; p < seq->n_tokens; p++)
    f->tokens[i][p] = p < n_alike ? (int32_t)(tl_hash_u64(family * 1000 + p) % 5) : (int32_t)unit_below(&f->random, 2);
  for (uint32_t p = seq->n_tokens; p < MAX_TOKENS; p++) f->tokens[i][p] = UNKNOWN;
  f->fate[i] = unit_below(&f->random, 2);
}

static void add(struct fuzz *f) {
  unsigned i = unit_below(&f->random, MAX_SEQS);
  if (f->live[i]) return;
  uint32_t limit = f->o.n_blocks * f->o.block_tokens;
  if (limit > f->o.max_context) limit = f->o.max_context;
  uint32_t n_max = 1 + unit_below(&f->random, unit_below(&f->random, 4) ? limit / 4 + 1 : limit);
  if (n_max > limit) n_max = limit;
  assert_true(tl_scheduler_fits(f->s, n_max));
  f->seqs[i] = (struct tl_sched_seq){.n_tokens = 1 + unit_below(&f->random, n_max),
                                     .n_max = n_max,
                                     .tokens = unit_below(&f->random, 10) ? f->tokens[i] : NULL,
                                     .max_cached = unit_below(&f->random, 5) ? UINT32_MAX : unit_below(&f->random, 50),
                                     .priority = (uint8_t)unit_below(&f->random, 4),
                                     .salt = unit_below(&f->random, 5) == 0,
                                     .fork = unit_below(&f->random, 3)};
  make_prompt(f, i);
  f->live[i] = true;
  f->settled[i] = false;
  f->n_live++;
  f->now_ns += unit_below(&f->random, 4);
  tl_scheduler_add(f->s, &f->seqs[i], f->now_ns);
}

static uint32_t strike(struct tl_sched_item *items, uint32_t n, const struct tl_sched_seq *seq) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < n; i++)
    if (items[i].seq != seq) items[kept++] = items[i];
  return kept;
}

static void take_out(struct fuzz *f, struct tl_sched_seq *seq) {
  tl_scheduler_remove(f->s, seq);
  assert_true(seq->state == TL_SCHED_NONE && seq->blocks == NULL && seq->n_blocks == 0);
  f->live[seq - f->seqs] = false;
  f->n_live--;
  f->n_items = strike(f->items, f->n_items, seq);
  f->first.n = strike(f->first.items, f->first.n, seq);
  f->second.n = strike(f->second.items, f->second.n, seq);
}

/* What was computed of it turns out to be wrong: nothing of it is found any more. */
static void distrust(struct fuzz *f, struct tl_sched_seq *seq) {
  bool shares = tree_shares(f->s, seq);
  tl_scheduler_distrust(f->s, seq);
  for (uint32_t b = 0; shares && b < seq->n_blocks; b++) assert_false(f->s->pool.blocks[seq->blocks[b]].in_tree);
  check_all(f);
  n_distrusted++;
}

static bool in_flight(const struct fuzz *f, const struct tl_sched_seq *seq) {
  bool found = false;
  for (uint32_t i = 0; i < f->first.n; i++) found = found || f->first.items[i].seq == seq;
  for (uint32_t i = 0; i < f->second.n; i++) found = found || f->second.items[i].seq == seq;
  return found;
}

/* --- plans and steps -------------------------------------------------------------------------- */

static const struct tl_sched_seq *first_in_rank(const struct fuzz *f) {
  const struct tl_sched_seq *found = NULL;
  for (unsigned i = 0; i < MAX_SEQS; i++)
    if (f->live[i] && (!found || queue_before(&f->seqs[i], found))) found = &f->seqs[i];
  return found;
}

static void check_first(struct fuzz *f) {
  const struct tl_sched_seq *first = first_in_rank(f);
  if (!first || first->n_computed == first->n_tokens) return; /* it ends with the step under way */
  uint32_t n_ending = 0; /* end with the step under way and hold their place until then */
  for (unsigned i = 0; i < MAX_SEQS; i++)
    n_ending += f->live[i] && f->seqs[i].state == TL_SCHED_RUNNING && f->seqs[i].n_computed == f->seqs[i].n_tokens;
  assert_true(f->n_items + n_ending > 0);
  for (uint32_t i = 0; i < f->n_items; i++)
    if (f->items[i].seq == first) return;
  assert_int_equal(first->state, TL_SCHED_WAITING);
  assert_true(f->s->running.last->priority >= first->priority);
}

static void check_plan(struct fuzz *f) {
  uint32_t tokens = 0, prefill = 0;
  bool decodes = false;
  assert_true(f->n_items <= f->o.max_batch_size);
  for (uint32_t i = 0; i < f->n_items; i++) {
    const struct tl_sched_item *item = &f->items[i];
    assert_true(f->live[item->seq - f->seqs]);
    assert_int_equal(item->seq->state, TL_SCHED_RUNNING);
    assert_int_equal(item->start, item->seq->n_computed);
    assert_true(item->n >= 1 && item->start + item->n <= item->seq->n_tokens);
    assert_true(item->seq->n_blocks >= blocks_for(f, item->start + item->n));
    for (uint32_t k = 0; k < i; k++) assert_ptr_not_equal(f->items[k].seq, item->seq);
    tokens += item->n;
    decodes = decodes || item->n == 1;
    if (item->n > 1) prefill += item->n;
  }
  assert_true(tokens <= f->o.max_batch_tokens);
  if (decodes && prefill > f->o.max_prefill_tokens) { /* only when that decode was no decode when it was planned */
    for (uint32_t i = 0; i < f->n_items; i++)
      assert_true(f->items[i].n > 1 || f->items[i].seq->n_admitted > 0);
  }
}

static int32_t continuation(const struct fuzz *f, unsigned i, uint32_t at) {
  return (int32_t)(tl_hash_u64(f->fate[i] * 77 + at) % 2);
}

/* What the device computes: one that runs ahead knows what the host does not yet. */
static int32_t token_at(const struct fuzz *f, unsigned i, uint32_t at) {
  bool known = f->tokens[i][at] != UNKNOWN;
  assert_true(known || f->ahead);
  return known ? f->tokens[i][at] : continuation(f, i, at);
}

/* Goes on from a state to another. Only of its own does it matter what the others of the step do meanwhile. */
static void run_state(struct fuzz *f, const struct tl_sched_item *item) {
  unsigned own = (unsigned)(item->seq - f->seqs);
  uint64_t hash = 0;
  if (f->o.n_states == 0) return;
  for (uint32_t p = 0; p < item->start; p++) hash = chain(hash, token_at(f, own, p));
  assert_int_equal(item->state_from == STATE_NONE, item->start == 0);
  if (item->start) assert_int_equal(f->states[item->state_from], hash);
  n_moved += item->start && item->state_from != item->state_to;
  for (uint32_t p = item->start; p < item->start + item->n; p++) hash = chain(hash, token_at(f, own, p));
  f->states[item->state_to] = hash;
  for (uint32_t i = 0; i < f->n_items; i++) {
    const struct tl_sched_item *other = &f->items[i];
    assert_true(other == item || (other->state_to != item->state_to && other->state_from != item->state_to));
  }
}

/* Writes the rows of an item, after a look at all that lies before them. */
static void write_rows(struct fuzz *f, const struct tl_sched_item *item) {
  const struct tl_sched_seq *seq = item->seq;
  uint64_t hash = 0;
  for (uint32_t p = 0; p < item->start + item->n; p++) {
    uint32_t block = seq->blocks[p / f->o.block_tokens];
    uint64_t *kv = &f->kv[block * f->o.block_tokens + p % f->o.block_tokens];
    hash = chain(hash, token_at(f, (unsigned)(seq - f->seqs), p));
    if (p >= item->start) {
      assert_true(f->s->pool.blocks[block].refs == 1 && !f->s->pool.blocks[block].in_tree);
      *kv = hash;
    }
    assert_int_equal(*kv, hash);
  }
}

/* As step_draft.c does it: the step makes one token more, and a next step is to follow. */
static void guess(struct fuzz *f, struct tl_sched_item *item, uint32_t *room) {
  struct tl_sched_seq *seq = item->seq;
  uint32_t i = (uint32_t)(seq - f->seqs), left = seq->n_max - seq->n_tokens, n = 1 + unit_below(&f->random, 6);
  if (item->n > 1 || item->start + 1 < seq->n_tokens || left < 3 || unit_below(&f->random, 2)) return;
  if (n > left - 2) n = left - 2;
  while (n > 0 && (n > *room || !tl_scheduler_lengthen(f->s, item, n))) n--;
  for (uint32_t k = 0; k < n; k++)
    f->tokens[i][seq->n_tokens + k] = continuation(f, i, seq->n_tokens + k) ^ (unit_below(&f->random, 3) == 0);
  seq->n_tokens += n;
  seq->n_pending += n;
  *room -= n;
  n_guesses += n;
}

static void guess_some(struct fuzz *f) {
  if (f->ahead) return; /* it waits for the tokens then */
  uint32_t room = f->o.max_batch_tokens;
  for (uint32_t i = 0; i < f->n_items; i++) room -= f->items[i].n;
  for (uint32_t i = 0; i < f->n_items; i++) guess(f, &f->items[i], &room);
  check_all(f);
}

/* Some of the guesses were right, and one token came that was none. */
static void settle(struct fuzz *f, const struct tl_sched_item *item) {
  struct tl_sched_seq *seq = item->seq;
  uint32_t i = (uint32_t)(seq - f->seqs), end = item->start + item->n, at = end - item->n_more;
  for (bool right = true; right && at <= end; at++) {
    right = f->tokens[i][at] == continuation(f, i, at);
    n_right += right;
    f->tokens[i][at] = continuation(f, i, at);
  }
  for (uint32_t k = at; k <= end; k++) f->tokens[i][k] = UNKNOWN;
  f->settled[i] = true;
  seq->n_tokens = at;
  seq->n_pending = 0;
  if (seq->n_computed >= at) seq->n_computed = at - 1;
}

/* The device has the planned step. */
static void submit(struct fuzz *f, struct flight *to) {
  for (uint32_t i = 0; i < f->n_items; i++) { /* the engine may cut the chunk of a scored prompt */
    if (unit_below(&f->random, 8) == 0) f->items[i].n = 1 + unit_below(&f->random, f->items[i].n);
  }
  guess_some(f);
  for (uint32_t i = 0; i < f->n_items; i++) {
    write_rows(f, &f->items[i]);
    run_state(f, &f->items[i]);
  }
  memcpy(to->items, f->items, f->n_items * sizeof *f->items);
  to->n = f->n_items;
  f->n_items = 0;
  tl_scheduler_done(f->s, to->items, to->n);
  for (uint32_t i = 0; i < to->n; i++) {
    const struct tl_sched_item *item = &to->items[i];
    assert_int_equal(item->seq->n_computed, item->start + item->n);
    bool makes = item->seq->n_computed == item->seq->n_tokens && item->seq->n_tokens < item->seq->n_max;
    item->seq->n_tokens += makes;
    item->seq->n_pending += f->ahead ? makes : item->n_more > 0;
    f->settled[item->seq - f->seqs] = false;
  }
  check_all(f);
  f->n_steps++;
}

static void plan_next(struct fuzz *f) {
  if (!f->draining && unit_below(&f->random, 3) == 0) add(f);
  f->n_items = tl_scheduler_plan(f->s, f->items);
  check_all(f);
  check_plan(f);
  check_first(f);
}

/* The tokens of the first step under way come; some sequences end by them. The plan begins where they are. */
static void collect(struct fuzz *f) {
  const struct flight done = f->first;
  f->first = f->second;
  f->second = (struct flight){.items = done.items};
  for (uint32_t i = 0; i < done.n; i++) {
    const struct tl_sched_item *item = &done.items[i];
    struct tl_sched_seq *seq = item->seq;
    uint32_t end = item->start + item->n, index = (uint32_t)(seq - f->seqs);
    if (end < seq->n_max && f->tokens[index][end] != UNKNOWN) continue; /* a chunk of a prompt */
    if (item->n_more > 0)
      settle(f, item);
    else if (end < seq->n_max)
      f->tokens[index][end] = continuation(f, index, end);
    if (f->ahead && seq->n_pending) seq->n_pending--;
    if (unit_below(&f->random, 100) == 0) distrust(f, seq);
    if (end == seq->n_max || seq->apart || unit_below(&f->random, 40) == 0) take_out(f, seq);
  }
  for (uint32_t i = 0; i < f->n_items; i++) f->items[i].start = f->items[i].seq->n_computed;
  check_all(f);
}

static void cancel_one(struct fuzz *f) {
  unsigned i = unit_below(&f->random, MAX_SEQS);
  if (f->live[i] && !in_flight(f, &f->seqs[i])) take_out(f, &f->seqs[i]);
}

static void step(struct fuzz *f) {
  if (f->n_items == 0 || unit_below(&f->random, 4) == 0) {
    f->n_items = f->n_items ? tl_scheduler_extend(f->s, f->items, f->n_items) : tl_scheduler_plan(f->s, f->items);
    check_all(f);
    check_plan(f);
  }
  if (f->n_items == 0) return;
  submit(f, &f->first);
  plan_next(f);
  if (unit_below(&f->random, 8) == 0) cancel_one(f);
  collect(f);
}

/* As a device that runs ahead has it: the next step before the tokens of the one under way. */
static void step_ahead(struct fuzz *f) {
  if (f->first.n == 0) {
    f->n_items = f->n_items ? tl_scheduler_extend(f->s, f->items, f->n_items) : tl_scheduler_plan(f->s, f->items);
    check_plan(f);
    if (f->n_items == 0) return;
    submit(f, &f->first);
  }
  plan_next(f);
  if (unit_below(&f->random, 8) == 0) cancel_one(f);
  if (f->n_items > 0 && unit_below(&f->random, 5)) submit(f, &f->second);
  collect(f);
}

static struct fuzz *make(uint64_t seed) {
  struct fuzz *f = calloc(1, sizeof *f);
  f->random = seed;
  struct tl_scheduler_options *o = &f->o;
  o->block_tokens = 1 + unit_below(&f->random, 16);
  o->n_blocks = 1 + unit_below(&f->random, unit_below(&f->random, 2) ? 12 : 200);
  o->max_batch_size = 1 + unit_below(&f->random, 16);
  o->max_batch_tokens = o->max_batch_size + unit_below(&f->random, 100); /* as tl_config_check wants it */
  o->max_context = 1 + unit_below(&f->random, 300);
  o->max_prefill_tokens = 1 + unit_below(&f->random, o->max_batch_tokens);
  o->priority_age_ns = unit_below(&f->random, 100);
  o->prefix_cache = unit_below(&f->random, 4) > 0;
  if (unit_below(&f->random, 2)) o->n_states = 1 + unit_below(&f->random, unit_below(&f->random, 2) ? 4 : 3 * o->max_batch_size);
  f->refs = calloc(o->n_blocks, sizeof *f->refs);
  f->place = calloc(o->n_blocks, sizeof *f->place);
  f->kv = calloc((size_t)o->n_blocks * o->block_tokens, sizeof *f->kv);
  f->states = calloc(o->n_states + 1, sizeof *f->states);
  f->holders = calloc(o->n_states + 1, sizeof *f->holders);
  f->items = calloc(o->max_batch_size, sizeof *f->items);
  f->ahead = unit_below(&f->random, 3) == 0;
  f->first.items = calloc(o->max_batch_size, sizeof *f->items);
  f->second.items = calloc(o->max_batch_size, sizeof *f->items);
  assert_int_equal(tl_scheduler_new(o, &f->s, NULL), TL_OK);
  return f;
}

static void end(struct fuzz *f) {
  const struct tl_sched_stats *stats = tl_scheduler_stats(f->s);
  assert_true(stats->hit_tokens <= stats->query_tokens);
  n_hits += stats->hit_tokens;
  n_state_hits += f->o.n_states ? stats->hit_tokens : 0;
  n_evictions += stats->evictions;
  n_preemptions += stats->preemptions;
  tl_scheduler_flush(f->s);
  assert_int_equal(tl_scheduler_cached_blocks(f->s), 0);
  assert_int_equal(f->s->pool.n_free, f->o.n_blocks);
  assert_int_equal(f->s->states.n_free, f->o.n_states);
  tl_scheduler_free(f->s);
  free(f->refs);
  free(f->place);
  free(f->kv);
  free(f->states);
  free(f->holders);
  free(f->items);
  free(f->first.items);
  free(f->second.items);
  free(f);
}

static void run_one(uint64_t seed, unsigned n_actions) {
  struct fuzz *f = make(seed);
  uint32_t eager = 1 + unit_below(&f->random, 8);
  for (unsigned i = 0; i < n_actions; i++) {
    uint32_t action = unit_below(&f->random, 16);
    if (action < eager)
      add(f);
    else if (action == 15 && unit_below(&f->random, 2))
      cancel_one(f);
    else
      (f->ahead ? step_ahead : step)(f);
    check_all(f);
  }
  f->draining = true;
  for (unsigned steps = 0; f->n_live > 0; steps++) {
    assert_true(steps < 60 * 300 * 2);
    (f->ahead ? step_ahead : step)(f);
  }
  assert_int_equal(tl_scheduler_free_blocks(f->s), f->o.n_blocks);
  assert_int_equal(tl_scheduler_plan(f->s, f->items), 0);
  end(f);
}

static void test_random_loads(void **state) {
  (void)state;
  const char *only = getenv("TL_TEST_SEED"); /* to repeat one that failed */
  if (only) {
    run_one(strtoull(only, NULL, 10), 600);
    return;
  }
  for (uint64_t i = 1; i <= 900 / UNIT_SLOWDOWN; i++) {
    uint64_t seed = i * 0x9e3779b97f4a7c15u;
    if (getenv("TL_TEST_VERBOSE")) fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    run_one(seed, 600);
  }
  print_message("hit tokens %llu, evictions %llu, preemptions %llu, shared blocks seen %llu, guesses %llu, right %llu\n",
                (unsigned long long)n_hits, (unsigned long long)n_evictions, (unsigned long long)n_preemptions,
                (unsigned long long)n_shared, (unsigned long long)n_guesses, (unsigned long long)n_right);
  print_message("with states: hit tokens %llu, chunks from one to another %llu, kept for later %llu, read of %llu\n", (unsigned long long)n_state_hits,
                (unsigned long long)n_moved, (unsigned long long)n_held, (unsigned long long)n_left);
  uint64_t least = 1000 / UNIT_SLOWDOWN; /* slow builds try fewer */
  assert_true(n_state_hits > least && n_moved > least && n_held > least && n_left > least);
  assert_true(n_right > least && n_guesses > n_right + least);
  assert_true(n_distrusted > least);
  assert_true(n_hits > least && n_evictions > least && n_preemptions > least && n_shared > least);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_loads)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
