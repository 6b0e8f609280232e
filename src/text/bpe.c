/* SPDX-License-Identifier: MIT */
/* Byte-level byte pair encoding (Sennrich et al. 2016): of all neighbouring
 * pairs the one with the lowest rank is merged, leftmost first, until none is
 * left. Short pieces search for the minimum; long ones keep the pairs in a heap
 * and the symbols in a linked list, which is O(n log n). */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_private.h"
#include "tokenlane/base/hash.h"

#define SHORT_PIECE 64
#define NO_SYMBOL UINT32_MAX

static uint64_t pair_key(int32_t left, int32_t right) {
  return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The last of several merges of one pair counts, as in the reference. */
void tok_bpe_merges_put(struct tok_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id) {
  uint64_t pair = pair_key(left, right), slot = tl_hash_u64(pair) & bpe->mask;
  while (bpe->merges[slot].pair != UINT64_MAX && bpe->merges[slot].pair != pair) slot = (slot + 1) & bpe->mask;
  bpe->merges[slot] = (struct tok_merge){pair, rank, id};
}

static const struct tok_merge *find_merge(const struct tok_bpe *bpe, int32_t left, int32_t right) {
  uint64_t pair = pair_key(left, right), slot = tl_hash_u64(pair) & bpe->mask;
  for (; bpe->merges[slot].pair != UINT64_MAX; slot = (slot + 1) & bpe->mask)
    if (bpe->merges[slot].pair == pair) return &bpe->merges[slot];
  return NULL;
}

static int reserve(struct tok_encode *e, size_t n) {
  if (n <= e->capacity) return TL_OK;
  size_t capacity = n < 256 ? 256 : n;
  int32_t *ids = realloc(e->ids, capacity * sizeof *ids);
  if (ids) e->ids = ids;
  uint32_t *prev = realloc(e->prev, capacity * sizeof *prev);
  if (prev) e->prev = prev;
  uint32_t *next = realloc(e->next, capacity * sizeof *next);
  if (next) e->next = next;
  /* n-1 first pairs and two new ones for each of n-1 merges, one popped first:
   * at most 2n are in the heap at once and 3n pass through the queue. */
  uint64_t *pairs = realloc(e->pairs, 5 * capacity * sizeof *pairs);
  if (pairs) e->pairs = pairs;
  if (!ids || !prev || !next || !pairs) return tl_error_set(e->err, TL_ENOMEM, NULL, "out of memory");
  e->capacity = capacity;
  return TL_OK;
}

/* One id per byte; bytes that the vocabulary lacks become the unknown token or vanish. */
static size_t first_symbols(struct tok_encode *e, const char *piece, size_t length) {
  const struct tok_bpe *bpe = &e->t->bpe;
  size_t n = 0;
  bool after_unk = false;
  for (size_t i = 0; i < length; i++) {
    int32_t id = bpe->byte_id[(uint8_t)piece[i]];
    bool unk = id < 0;
    if (unk) id = bpe->fuse_unk && after_unk ? -1 : bpe->unk;
    after_unk = unk;
    if (id >= 0) e->ids[n++] = id;
  }
  return n;
}

static size_t merge_short(const struct tok_bpe *bpe, int32_t *ids, size_t n) {
  const struct tok_merge *merges[SHORT_PIECE];
  for (size_t i = 0; i + 1 < n; i++) merges[i] = find_merge(bpe, ids[i], ids[i + 1]);
  while (n > 1) {
    size_t best = n;
    for (size_t i = 0; i + 1 < n; i++)
      if (merges[i] && (best == n || merges[i]->rank < merges[best]->rank)) best = i;
    if (best == n) break;
    ids[best] = merges[best]->id;
    memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
    n--;
    if (best + 1 < n) memmove(merges + best + 1, merges + best + 2, (n - best - 2) * sizeof(void *));
    if (best > 0) merges[best - 1] = find_merge(bpe, ids[best - 1], ids[best]);
    merges[best] = best + 1 < n ? find_merge(bpe, ids[best], ids[best + 1]) : NULL;
  }
  return n;
}

/* --- pairs to merge, (rank, position) in one number, smallest first -----------------
 * A pair not below the last one queued is appended to a sorted queue; only the
 * others need the heap (four children a node). Runs of one letter never do. */
struct pairs {
  uint64_t *heap, *queue;
  size_t n_heap, first, last; /* the queue is [first, last) */
};

static void sift_down(uint64_t *heap, size_t n, size_t at) {
  uint64_t value = heap[at];
  for (;;) {
    size_t child = 4 * at + 1;
    if (child >= n) break;
    size_t least = child, end = child + 4 < n ? child + 4 : n;
    for (size_t c = child + 1; c < end; c++)
      if (heap[c] < heap[least]) least = c;
    if (heap[least] >= value) break;
    heap[at] = heap[least];
    at = least;
  }
  heap[at] = value;
}

static void pairs_push(struct pairs *pairs, uint64_t value) {
  if (pairs->first == pairs->last || pairs->queue[pairs->last - 1] <= value) {
    pairs->queue[pairs->last++] = value;
    return;
  }
  uint64_t *heap = pairs->heap;
  size_t at = pairs->n_heap++;
  for (; at > 0 && heap[(at - 1) / 4] > value; at = (at - 1) / 4) heap[at] = heap[(at - 1) / 4];
  heap[at] = value;
}

static bool pairs_pop(struct pairs *pairs, uint64_t *ret) {
  bool queued = pairs->first < pairs->last;
  if (queued && (!pairs->n_heap || pairs->queue[pairs->first] <= pairs->heap[0])) {
    *ret = pairs->queue[pairs->first++];
    return true;
  }
  if (!pairs->n_heap) return false;
  *ret = pairs->heap[0];
  pairs->heap[0] = pairs->heap[--pairs->n_heap];
  if (pairs->n_heap) sift_down(pairs->heap, pairs->n_heap, 0);
  return true;
}

static void push_pair(const struct tok_encode *e, struct pairs *pairs, uint32_t at) {
  uint32_t right = at == NO_SYMBOL ? NO_SYMBOL : e->next[at];
  if (right == NO_SYMBOL) return;
  const struct tok_merge *merge = find_merge(&e->t->bpe, e->ids[at], e->ids[right]);
  if (merge) pairs_push(pairs, (uint64_t)merge->rank << 32 | at);
}

static size_t merge_long(struct tok_encode *e, size_t n) {
  struct pairs pairs = {.heap = e->pairs, .queue = e->pairs + 2 * e->capacity};
  for (uint32_t i = 0; i < n; i++) {
    e->prev[i] = i ? i - 1 : NO_SYMBOL;
    e->next[i] = i + 1 < n ? i + 1 : NO_SYMBOL;
  }
  for (uint32_t i = 0; i < n; i++) push_pair(e, &pairs, i);
  uint64_t top;
  while (pairs_pop(&pairs, &top)) {
    uint32_t at = (uint32_t)top, right = e->next[at];
    if (e->ids[at] < 0 || right == NO_SYMBOL) continue; /* swallowed since */
    const struct tok_merge *merge = find_merge(&e->t->bpe, e->ids[at], e->ids[right]);
    if (!merge || merge->rank != top >> 32) continue; /* the pair has changed since */
    e->ids[at] = merge->id;
    e->ids[right] = -1;
    e->next[at] = e->next[right];
    if (e->next[at] != NO_SYMBOL) e->prev[e->next[at]] = at;
    push_pair(e, &pairs, e->prev[at]);
    push_pair(e, &pairs, at);
  }
  size_t kept = 0;
  for (size_t i = 0; i < n; i++)
    if (e->ids[i] >= 0) e->ids[kept++] = e->ids[i];
  return kept;
}

int tok_bpe_piece(struct tok_encode *e, const char *piece, size_t length) {
  const struct tok_bpe *bpe = &e->t->bpe;
  if (bpe->ignore_merges) {
    int32_t whole = tok_map_find(&e->t->by_bytes, e->t->tokens, piece, length);
    if (whole >= 0) return tok_push(e->out, whole, e->err);
  }
  int r = reserve(e, length);
  if (r < 0) return r;
  size_t n = first_symbols(e, piece, length);
  n = n <= SHORT_PIECE ? merge_short(bpe, e->ids, n) : merge_long(e, n);
  for (size_t i = 0; r == TL_OK && i < n; i++) r = tok_push(e->out, e->ids[i], e->err);
  return r;
}
