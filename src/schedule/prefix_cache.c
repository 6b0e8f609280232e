/* SPDX-License-Identifier: MIT */
/* The tree of prefixes: which block holds the KV of which tokens after which.
 *
 *   salt, adapter --- block 7: tokens 0..15 --- block 3: 16..31 --- block 9: 32..47
 *                                           \-- block 4: 16..31
 *
 * KV depends on all tokens before, so a block is found by its parent and its own
 * tokens: a hash chain leads to the candidates, and then parent and tokens
 * are compared, so that a collision costs time but never gives foreign KV. A
 * parent cannot be evicted before its children (blocks.c), so comparing its
 * index compares the whole prefix.
 *
 * All full computed blocks of a running sequence stand in the tree, and its
 * table is their chain: whoever computes what is there already changes over to
 * that and gives its own block back. */
#include <stdlib.h>
#include <string.h>

#include "schedule/schedule_private.h"
#include "tokenlane/base/hash.h"

int tree_init(struct tl_scheduler *s) {
  struct prefix_tree *t = &s->tree;
  uint32_t n = 16;
  while (n < s->o.n_blocks) n *= 2;
  t->bucket_mask = n - 1;
  t->buckets = malloc((size_t)n * sizeof *t->buckets);
  t->tokens = malloc((size_t)s->o.n_blocks * s->o.block_tokens * sizeof *t->tokens);
  t->input = malloc(sizeof(uint64_t) + s->o.block_tokens * sizeof *t->tokens);
  if (!t->buckets || !t->tokens || !t->input) return TL_ENOMEM;
  for (uint32_t i = 0; i < n; i++) t->buckets[i] = BLOCK_NONE;
  return TL_OK;
}

void tree_done(struct tl_scheduler *s) {
  free(s->tree.buckets);
  free(s->tree.tokens);
  free(s->tree.input);
}

bool tree_shares(const struct tl_scheduler *s, const struct tl_sched_seq *seq) {
  return seq->tokens && !seq->apart && (s->o.prefix_cache || seq->fork);
}

/* Without the prefix cache only forks of one request share. */
static uint64_t salt_of(const struct tl_scheduler *s, const struct tl_sched_seq *seq) {
  return s->o.prefix_cache ? seq->salt : seq->fork;
}

static uint64_t hash_block(struct tl_scheduler *s, uint64_t before, const int32_t *tokens) {
  size_t bytes = s->o.block_tokens * sizeof *tokens;
  memcpy(s->tree.input, &before, sizeof before);
  memcpy(s->tree.input + sizeof before, tokens, bytes);
  return tl_hash_bytes(s->tree.input, sizeof before + bytes, s->o.key[0], s->o.key[1]);
}

/* Hash of the sequence's block i, whose parent in the tree is given. */
static uint64_t hash_at(struct tl_scheduler *s, const struct tl_sched_seq *seq, uint32_t i, uint32_t parent) {
  uint64_t before = parent == BLOCK_NONE ? salt_of(s, seq) ^ tl_hash_u64(seq->adapter) : s->pool.blocks[parent].hash;
  return hash_block(s, before, seq->tokens + (size_t)i * s->o.block_tokens);
}

static uint32_t find(const struct tl_scheduler *s, const struct tl_sched_seq *seq, uint32_t i, uint32_t parent, uint64_t hash) {
  size_t n = s->o.block_tokens;
  uint32_t at = s->tree.buckets[hash & s->tree.bucket_mask];
  for (; at != BLOCK_NONE; at = s->pool.blocks[at].bucket_next) {
    const struct block *b = &s->pool.blocks[at];
    if (b->hash != hash || b->parent != parent) continue;
    if (parent == BLOCK_NONE && (b->salt != salt_of(s, seq) || b->adapter != seq->adapter)) continue;
    if (memcmp(s->tree.tokens + at * n, seq->tokens + i * n, n * sizeof *seq->tokens) == 0) return at;
  }
  return BLOCK_NONE;
}

static void insert(struct tl_scheduler *s, const struct tl_sched_seq *seq, uint32_t i, uint32_t parent, uint64_t hash) {
  size_t n = s->o.block_tokens;
  uint32_t at = seq->blocks[i], *bucket = &s->tree.buckets[hash & s->tree.bucket_mask];
  struct block *b = &s->pool.blocks[at];
  b->in_tree = true;
  b->parent = parent;
  b->salt = salt_of(s, seq);
  b->adapter = seq->adapter;
  b->hash = hash;
  b->bucket_next = *bucket;
  *bucket = at;
  memcpy(s->tree.tokens + at * n, seq->tokens + i * n, n * sizeof *seq->tokens);
  s->tree.n++;
}

void tree_remove(struct tl_scheduler *s, uint32_t block) {
  states_forget(s, block);
  struct block *b = &s->pool.blocks[block];
  uint32_t *at = &s->tree.buckets[b->hash & s->tree.bucket_mask];
  while (*at != block) at = &s->pool.blocks[*at].bucket_next;
  *at = b->bucket_next;
  b->in_tree = false;
  s->tree.n--;
}

/* As tree_match, of the first `most` tokens. */
static uint32_t match(struct tl_scheduler *s, const struct tl_sched_seq *seq, uint32_t most, uint64_t *ret_key) {
  *ret_key = 0;
  if (!tree_shares(s, seq)) return 0;
  uint32_t parent = BLOCK_NONE, n = 0;
  while (n < most / s->o.block_tokens) {
    uint64_t hash = hash_at(s, seq, n, parent);
    uint32_t at = find(s, seq, n, parent, hash);
    if (at == BLOCK_NONE) {
      *ret_key = hash;
      break;
    }
    s->match[n++] = parent = at;
  }
  return n;
}

/* Leading tokens that it need not compute: not the last one, whose logits are wanted. */
static uint32_t most_cached(const struct tl_sched_seq *seq) {
  return seq->n_tokens - 1 < seq->max_cached ? seq->n_tokens - 1 : seq->max_cached;
}

uint32_t tree_match(struct tl_scheduler *s, const struct tl_sched_seq *seq, uint64_t *ret_key) {
  return match(s, seq, most_cached(seq), ret_key);
}

uint32_t tree_common(const struct tl_scheduler *s, const struct tl_sched_seq *ahead, const struct tl_sched_seq *seq) {
  uint32_t known = ahead->n_tokens - ahead->n_pending, most = most_cached(seq), n = 0;
  size_t one = s->o.block_tokens;
  if (!tree_shares(s, ahead) || !tree_shares(s, seq) || salt_of(s, ahead) != salt_of(s, seq) || ahead->adapter != seq->adapter) return 0;
  if (most > known) most = known;
  while (n < most / one && memcmp(ahead->tokens + n * one, seq->tokens + n * one, one * sizeof *seq->tokens) == 0) n++;
  return n;
}

/* A running sequence's blocks of the tree are a chain: behind one that has left it nothing of them may stay. */
static void set_apart(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  uint32_t kept = 0;
  while (kept < seq->n_in_tree && s->pool.blocks[seq->blocks[kept]].in_tree) kept++;
  if (kept == seq->n_in_tree) return;
  for (uint32_t i = kept; i < seq->n_in_tree; i++)
    if (s->pool.blocks[seq->blocks[i]].in_tree) block_forget(s, seq->blocks[i]);
  seq->n_in_tree = kept;
  seq->apart = true;
  states_drop_kept(s, seq);
  seq->next_key = 0; /* who waits for that computes it */
}

/* Found by its tokens, as a later one would find them: it may have been put back while its step was under way. */
void tl_scheduler_distrust(struct tl_scheduler *scheduler, struct tl_sched_seq *seq) {
  struct tl_scheduler *s = scheduler;
  struct block_pool *pool = &s->pool;
  uint64_t key;
  if (s->o.whole) return;
  uint32_t n = match(s, seq, seq->n_tokens - seq->n_pending, &key);
  for (uint32_t i = 0; i < n; i++) block_forget(s, s->match[i]);
  for (struct tl_sched_seq *r = s->running.first; r; r = r->next) set_apart(s, r);
  /* and what nobody uses, parents first (blocks.c) */
  for (uint32_t at = pool->idle_last, before; at != BLOCK_NONE; at = before) {
    before = pool->blocks[at].idle_prev;
    uint32_t parent = pool->blocks[at].parent;
    if (parent != BLOCK_NONE && !pool->blocks[parent].in_tree) block_forget(s, at);
  }
}

void tree_publish(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  uint32_t known = seq->n_tokens - seq->n_pending;
  if (known > seq->n_computed) known = seq->n_computed;
  if (!tree_shares(s, seq)) return;
  for (uint32_t i = seq->n_in_tree; (i + 1) * s->o.block_tokens <= known; seq->n_in_tree = ++i) {
    uint32_t parent = i ? seq->blocks[i - 1] : BLOCK_NONE;
    uint64_t hash = hash_at(s, seq, i, parent);
    uint32_t there = find(s, seq, i, parent, hash);
    if (there == BLOCK_NONE) {
      insert(s, seq, i, parent, hash);
    } else {
      block_ref(s, there);
      block_unref(s, seq->blocks[i]);
      seq->blocks[i] = there;
    }
  }
}

uint64_t tree_next_key(struct tl_scheduler *s, const struct tl_sched_seq *seq) {
  uint32_t i = seq->n_computed / s->o.block_tokens;
  if (!tree_shares(s, seq) || i != seq->n_in_tree || (i + 1) * s->o.block_tokens > seq->n_tokens) return 0;
  return hash_at(s, seq, i, i ? seq->blocks[i - 1] : BLOCK_NONE);
}
