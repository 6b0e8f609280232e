/* SPDX-License-Identifier: MIT */
/* Words come back within a text: their merged ids are kept, one slot a hash, a
 * newcomer takes the place. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_private.h"

#define SLOTS 4096
#define MAX_SYMBOLS 16
#define MAX_IDS 8

struct tok_cached {
  uint32_t n, n_ids; /* n 0: free */
  int32_t symbols[MAX_SYMBOLS], ids[MAX_IDS];
};

struct tok_cache {
  struct tok_cached slots[SLOTS];
};

struct tok_cache *tok_cache_new(void) {
  return calloc(1, sizeof(struct tok_cache));
}

void tok_cache_free(struct tok_cache *cache) {
  free(cache);
}

/* Not keyed: who makes words collide only loses what the cache gains. */
static uint32_t slot_of(const int32_t *symbols, size_t n) {
  uint64_t h = n;
  for (size_t i = 0; i < n; i++) h = (h ^ (uint32_t)symbols[i]) * 0x9e3779b97f4a7c15u;
  return (uint32_t)(h >> 40) % SLOTS;
}

struct tok_cached *tok_cache_find(struct tok_cache *cache, const int32_t *symbols, size_t n, struct tok_cached **ret_slot) {
  *ret_slot = NULL;
  if (!cache || n > MAX_SYMBOLS) return NULL;
  struct tok_cached *cached = &cache->slots[slot_of(symbols, n)];
  if (cached->n == n && memcmp(cached->symbols, symbols, n * sizeof *symbols) == 0) return cached;
  *ret_slot = cached;
  return NULL;
}

void tok_cache_put(struct tok_cached *slot, const int32_t *symbols, size_t n, const int32_t *ids, size_t n_ids) {
  if (n_ids > MAX_IDS) return;
  slot->n = (uint32_t)n;
  slot->n_ids = (uint32_t)n_ids;
  memcpy(slot->symbols, symbols, n * sizeof *symbols);
  memcpy(slot->ids, ids, n_ids * sizeof *ids);
}

const int32_t *tok_cached_ids(const struct tok_cached *cached, size_t *ret_n) {
  *ret_n = cached->n_ids;
  return cached->ids;
}
