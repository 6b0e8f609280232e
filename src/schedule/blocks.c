/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "schedule/schedule_private.h"

int blocks_init(struct block_pool *pool, uint32_t n_blocks) {
  pool->free = malloc((size_t)n_blocks * sizeof *pool->free);
  if (!pool->free) return TL_ENOMEM;
  /* the lowest come out first */
  for (uint32_t i = 0; i < n_blocks; i++) pool->free[i] = n_blocks - 1 - i;
  pool->n_free = pool->n_blocks = n_blocks;
  return TL_OK;
}

void blocks_done(struct block_pool *pool) {
  free(pool->free);
}

bool blocks_cover(struct tl_scheduler *s, struct tl_sched_seq *seq, uint32_t n_tokens) {
  uint32_t wanted = (n_tokens + s->o.block_tokens - 1) / s->o.block_tokens;
  if (wanted <= seq->n_blocks) return true;
  if (wanted - seq->n_blocks > s->pool.n_free) return false;
  while (seq->n_blocks < wanted) seq->blocks[seq->n_blocks++] = s->pool.free[--s->pool.n_free];
  return true;
}

void blocks_give_back(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  while (seq->n_blocks > 0) s->pool.free[s->pool.n_free++] = seq->blocks[--seq->n_blocks];
}
