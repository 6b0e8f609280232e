/* SPDX-License-Identifier: MIT */
/* Byte pair encoding (Sennrich et al. 2016): of all neighbouring pairs the one with the
 * lowest rank is merged, leftmost first, until none is left. A piece becomes symbols
 * (bytes, or characters with bytes as fallback), is cut where no merge can ever reach
 * over, and its runs are merged: short ones by searching for the minimum, long ones with the
 * pairs in a heap and the symbols in a linked list, which is O(n log n). */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_private.h"
#include "tokenlane/base/utf8.h"

#define SHORT_RUN 64
#define NO_SYMBOL UINT32_MAX

static int reserve_symbols(struct tok_encode *e, size_t n) {
  if (n <= e->n_symbols) return TL_OK;
  size_t capacity = n < 256 ? 256 : n;
  int32_t *ids = realloc(e->ids, capacity * sizeof *ids);
  if (!ids) return tok_out_of_memory(e->err);
  e->ids = ids;
  e->n_symbols = capacity;
  return TL_OK;
}

static int reserve_links(struct tok_encode *e, size_t n) {
  if (n <= e->n_links) return TL_OK;
  uint32_t *prev = realloc(e->prev, n * sizeof *prev);
  if (prev) e->prev = prev;
  uint32_t *next = realloc(e->next, n * sizeof *next);
  if (next) e->next = next;
  /* n-1 first pairs and two new ones for each of n-1 merges, one popped first:
   * at most 2n are in the heap at once and 3n pass through the queue. */
  uint64_t *pairs = realloc(e->pairs, 5 * n * sizeof *pairs);
  if (pairs) e->pairs = pairs;
  if (!prev || !next || !pairs) return tok_out_of_memory(e->err);
  e->n_links = n;
  return TL_OK;
}

/* --- a piece's first symbols ----------------------------------------------------------- */
struct symbols {
  int32_t *ids;
  size_t n;
  bool unk; /* an unknown token is owed: those that follow one another may be one */
};

static void put_unk(const struct tl_tokenizer *t, struct symbols *symbols) {
  if (symbols->unk && !t->bpe.fuse_unk) symbols->ids[symbols->n++] = t->unk;
  symbols->unk = t->unk >= 0;
}

static void put_symbol(const struct tl_tokenizer *t, struct symbols *symbols, int32_t id) {
  if (symbols->unk) symbols->ids[symbols->n++] = t->unk;
  symbols->unk = false;
  symbols->ids[symbols->n++] = id;
}

static void byte_symbols(const struct tl_tokenizer *t, const char *piece, size_t length, struct symbols *ret) {
  if (t->all_bytes) {
    for (size_t i = 0; i < length; i++) ret->ids[i] = t->byte_id[(uint8_t)piece[i]];
    ret->n = length;
    return;
  }
  for (size_t i = 0; i < length; i++) {
    int32_t id = t->byte_id[(uint8_t)piece[i]];
    if (id >= 0)
      put_symbol(t, ret, id);
    else
      put_unk(t, ret);
  }
}

/* Bytes stand for a character only if all of them are tokens. They do not settle an
 * unknown token that is owed before them, as in the reference. */
static bool put_bytes(const struct tl_tokenizer *t, struct symbols *symbols, const char *text, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (t->byte_id[(uint8_t)text[i]] < 0) return false;
  for (size_t i = 0; i < n; i++) symbols->ids[symbols->n++] = t->byte_id[(uint8_t)text[i]];
  return true;
}

static void char_symbols(const struct tl_tokenizer *t, const char *piece, size_t length, struct symbols *ret) {
  for (size_t i = 0; i < length;) {
    uint32_t code;
    size_t n = tl_utf8_decode(piece + i, length - i, &code);
    int32_t id = tok_bpe_char(&t->bpe, code);
    if (id >= 0)
      put_symbol(t, ret, id);
    else if (!t->bpe.byte_fallback || !put_bytes(t, ret, piece + i, n))
      put_unk(t, ret);
    i += n;
  }
}

/* A piece is a word: its characters carry the prefix but for the first, and the last the suffix. */
static int affixed_symbols(struct tok_encode *e, const char *piece, size_t length, struct symbols *ret) {
  const struct tl_tokenizer *t = e->t;
  struct tl_buffer text;
  tl_buffer_init(&text, 0);
  for (size_t i = 0, n; i < length && !text.failed; i += n) {
    uint32_t code;
    n = tl_utf8_decode(piece + i, length - i, &code);
    tl_buffer_clear(&text);
    if (i) tl_buffer_puts(&text, t->bpe.prefix);
    tl_buffer_append(&text, piece + i, n);
    if (i + n == length) tl_buffer_puts(&text, t->bpe.suffix);
    int32_t id = tok_map_find(&t->by_text, t->tokens, tl_buffer_bytes(&text), text.length);
    if (id >= 0 && !t->tokens[id].guarded)
      put_symbol(t, ret, id);
    else if (!t->bpe.byte_fallback || !put_bytes(t, ret, text.data, text.length))
      put_unk(t, ret);
  }
  bool failed = text.failed;
  tl_buffer_done(&text);
  return failed ? tok_out_of_memory(e->err) : TL_OK;
}

static size_t merge_short(const struct tok_bpe *bpe, int32_t *ids, size_t n) {
  const struct tok_merge *merges[SHORT_RUN];
  for (size_t i = 0; i + 1 < n; i++) merges[i] = tok_bpe_find(bpe, ids[i], ids[i + 1]);
  while (n > 1) {
    size_t best = n;
    for (size_t i = 0; i + 1 < n; i++)
      if (merges[i] && (best == n || merges[i]->rank < merges[best]->rank)) best = i;
    if (best == n) break;
    ids[best] = merges[best]->id;
    memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
    n--;
    if (best + 1 < n) memmove(merges + best + 1, merges + best + 2, (n - best - 2) * sizeof(void *));
    if (best > 0) merges[best - 1] = tok_bpe_find(bpe, ids[best - 1], ids[best]);
    merges[best] = best + 1 < n ? tok_bpe_find(bpe, ids[best], ids[best + 1]) : NULL;
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

static void push_pair(const struct tok_encode *e, const int32_t *ids, struct pairs *pairs, uint32_t at) {
  uint32_t right = at == NO_SYMBOL ? NO_SYMBOL : e->next[at];
  if (right == NO_SYMBOL) return;
  const struct tok_merge *merge = tok_bpe_find(&e->t->bpe, ids[at], ids[right]);
  if (merge) pairs_push(pairs, (uint64_t)merge->rank << 32 | at);
}

static size_t merge_long(struct tok_encode *e, int32_t *ids, size_t n) {
  struct pairs pairs = {.heap = e->pairs, .queue = e->pairs + 2 * e->n_links};
  for (uint32_t i = 0; i < n; i++) {
    e->prev[i] = i ? i - 1 : NO_SYMBOL;
    e->next[i] = i + 1 < n ? i + 1 : NO_SYMBOL;
  }
  for (uint32_t i = 0; i < n; i++) push_pair(e, ids, &pairs, i);
  uint64_t top;
  while (pairs_pop(&pairs, &top)) {
    uint32_t at = (uint32_t)top, right = e->next[at];
    if (ids[at] < 0 || right == NO_SYMBOL) continue; /* swallowed since */
    const struct tok_merge *merge = tok_bpe_find(&e->t->bpe, ids[at], ids[right]);
    if (!merge || merge->rank != top >> 32) continue; /* the pair has changed since */
    ids[at] = merge->id;
    ids[right] = -1;
    e->next[at] = e->next[right];
    if (e->next[at] != NO_SYMBOL) e->prev[e->next[at]] = at;
    push_pair(e, ids, &pairs, e->prev[at]);
    push_pair(e, ids, &pairs, at);
  }
  size_t kept = 0;
  for (size_t i = 0; i < n; i++)
    if (ids[i] >= 0) ids[kept++] = ids[i];
  return kept;
}

static int push_ids(struct tok_encode *e, const int32_t *ids, size_t n) {
  int r = tok_reserve(e->out, n, e->err);
  if (r < 0) return r;
  memcpy(e->out->ids + e->out->n, ids, n * sizeof *ids);
  e->out->n += n;
  return TL_OK;
}

/* symbols that no cut divides; they are overwritten */
static int merge_run(struct tok_encode *e, int32_t *ids, size_t n) {
  if (n == 1) return push_ids(e, ids, 1);
  struct tok_cached *slot, *cached = tok_cache_find(e->cache, ids, n, &slot);
  if (cached) {
    size_t n_ids;
    const int32_t *known = tok_cached_ids(cached, &n_ids);
    return push_ids(e, known, n_ids);
  }
  int32_t before[SHORT_RUN];
  if (slot) memcpy(before, ids, n * sizeof *ids);
  int r = n > SHORT_RUN ? reserve_links(e, n) : TL_OK;
  if (r < 0) return r;
  size_t merged = n <= SHORT_RUN ? merge_short(&e->t->bpe, ids, n) : merge_long(e, ids, n);
  if (slot) tok_cache_put(slot, before, n, ids, merged);
  return push_ids(e, ids, merged);
}

int tok_bpe_piece(struct tok_encode *e, const char *piece, size_t length) {
  const struct tl_tokenizer *t = e->t;
  if (t->bpe.ignore_merges) {
    int32_t whole = tok_map_find(t->byte_level ? &t->by_raw : &t->by_text, t->tokens, piece, length);
    if (whole >= 0 && !t->tokens[whole].guarded) return tok_push(e->out, whole, e->err);
  }
  /* bytes may stand for a character with its affixes, each one a symbol */
  size_t most = t->bpe.affixed ? length * (1 + strlen(t->bpe.prefix)) + strlen(t->bpe.suffix) : length;
  int r = reserve_symbols(e, most + 1);
  if (r < 0) return r;
  struct symbols symbols = {.ids = e->ids};
  if (t->byte_level)
    byte_symbols(t, piece, length, &symbols);
  else if (t->bpe.affixed)
    r = affixed_symbols(e, piece, length, &symbols);
  else
    char_symbols(t, piece, length, &symbols);
  if (symbols.unk) symbols.ids[symbols.n++] = t->unk;
  size_t start = 0;
  for (size_t i = 1; r == TL_OK && i <= symbols.n; i++) {
    if (i < symbols.n && tok_bpe_joins(&t->bpe, symbols.ids[i - 1], symbols.ids[i])) continue;
    r = merge_run(e, symbols.ids + start, i - start);
    start = i;
  }
  return r;
}
