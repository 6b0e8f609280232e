/* SPDX-License-Identifier: MIT */
/* KV blocks: references, the free stack, and the list of idle ones.
 *
 * A table gives its blocks back from its end. So in the idle list a block of the
 * tree always stands before the block that it continues: whoever used it last
 * gave both back, this one first. The first of the list is therefore a leaf, and
 * evicting from there never breaks a chain. */
#include <stdlib.h>

#include "schedule/schedule_private.h"

int blocks_init(struct tl_scheduler *s) {
  struct block_pool *pool = &s->pool;
  uint32_t n = s->o.n_blocks;
  pool->free = malloc((size_t)n * sizeof *pool->free);
  pool->blocks = calloc(n, sizeof *pool->blocks);
  if (!pool->free || !pool->blocks) return TL_ENOMEM;
  for (uint32_t i = 0; i < n; i++) {
    pool->free[i] = n - 1 - i; /* the lowest come out first */
    pool->blocks[i].state = STATE_NONE;
  }
  pool->n_free = pool->n_blocks = n;
  pool->idle_first = pool->idle_last = BLOCK_NONE;
  return TL_OK;
}

void blocks_done(struct tl_scheduler *s) {
  free(s->pool.free);
  free(s->pool.blocks);
}

uint32_t blocks_available(const struct tl_scheduler *s) {
  return s->pool.n_free + s->pool.n_idle;
}

/* --- the idle list ---------------------------------------------------------------------- */

static void idle_append(struct block_pool *pool, uint32_t at) {
  struct block *b = &pool->blocks[at];
  b->idle_prev = pool->idle_last;
  b->idle_next = BLOCK_NONE;
  if (pool->idle_last == BLOCK_NONE)
    pool->idle_first = at;
  else
    pool->blocks[pool->idle_last].idle_next = at;
  pool->idle_last = at;
  pool->n_idle++;
}

static void idle_remove(struct block_pool *pool, uint32_t at) {
  const struct block *b = &pool->blocks[at];
  if (b->idle_prev == BLOCK_NONE)
    pool->idle_first = b->idle_next;
  else
    pool->blocks[b->idle_prev].idle_next = b->idle_next;
  if (b->idle_next == BLOCK_NONE)
    pool->idle_last = b->idle_prev;
  else
    pool->blocks[b->idle_next].idle_prev = b->idle_prev;
  pool->n_idle--;
}

void block_forget(struct tl_scheduler *s, uint32_t block) {
  tree_remove(s, block);
  if (s->pool.blocks[block].refs > 0) return;
  idle_remove(&s->pool, block);
  s->pool.free[s->pool.n_free++] = block;
}

void block_evict_idle(struct tl_scheduler *s) {
  block_forget(s, s->pool.idle_first);
  s->stats.evictions++;
}

/* --- references --------------------------------------------------------------------------- */

void block_ref(struct tl_scheduler *s, uint32_t block) {
  struct block *b = &s->pool.blocks[block];
  if (b->refs++ == 0) idle_remove(&s->pool, block); /* only blocks of the tree are found by others */
}

void block_unref(struct tl_scheduler *s, uint32_t block) {
  struct block *b = &s->pool.blocks[block];
  if (--b->refs > 0) return;
  if (b->in_tree && s->o.prefix_cache) {
    idle_append(&s->pool, block);
    return;
  }
  if (b->in_tree) tree_remove(s, block);
  s->pool.free[s->pool.n_free++] = block;
}

static uint32_t take(struct tl_scheduler *s) {
  if (s->pool.n_free == 0) block_evict_idle(s);
  uint32_t block = s->pool.free[--s->pool.n_free];
  s->pool.blocks[block].refs = 1;
  return block;
}

bool blocks_cover(struct tl_scheduler *s, struct tl_sched_seq *seq, uint32_t n_tokens) {
  uint32_t wanted = (n_tokens + s->o.block_tokens - 1) / s->o.block_tokens;
  if (wanted <= seq->n_blocks) return true;
  if (wanted - seq->n_blocks > blocks_available(s)) return false;
  while (seq->n_blocks < wanted) seq->blocks[seq->n_blocks++] = take(s);
  return true;
}

void blocks_give_back(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  while (seq->n_blocks > 0) block_unref(s, seq->blocks[--seq->n_blocks]);
}
