/* SPDX-License-Identifier: MIT */
#include "text/byte_trie.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tokenlane/base/error.h"

/* Keys of one node: those that share its path. */
struct range {
  size_t begin, end;
  uint32_t depth, node;
};

struct build {
  struct byte_trie *trie;
  const struct byte_trie_key *keys;
  struct range *queue;
  size_t head, tail, capacity;
  uint32_t first_free; /* no node below it is free */
};

static int compare(const void *left, const void *right) {
  const struct byte_trie_key *a = left, *b = right;
  uint32_t shorter = a->length < b->length ? a->length : b->length;
  int r = memcmp(a->bytes, b->bytes, shorter);
  if (r == 0 && a->length != b->length) r = a->length < b->length ? -1 : 1;
  return r ? r : (a->value > b->value) - (a->value < b->value);
}

/* Nodes up to `end` exist. */
static int grow(struct byte_trie *trie, uint32_t *capacity, uint32_t end) {
  if (end > *capacity) {
    uint32_t more = end < UINT32_MAX / 2 ? end * 2 : end;
    struct byte_trie_node *nodes = realloc(trie->nodes, (size_t)more * sizeof *nodes);
    if (!nodes) return TL_ENOMEM;
    trie->nodes = nodes;
    *capacity = more;
  }
  for (; trie->n < end; trie->n++) trie->nodes[trie->n] = (struct byte_trie_node){0, 0, -1};
  return TL_OK;
}

static int push(struct build *build, struct range range) {
  if (build->tail == build->capacity) {
    size_t capacity = build->capacity ? build->capacity * 2 : 1024;
    struct range *queue = realloc(build->queue, capacity * sizeof *queue);
    if (!queue) return TL_ENOMEM;
    build->queue = queue;
    build->capacity = capacity;
  }
  build->queue[build->tail++] = range;
  return TL_OK;
}

static bool fits(const struct byte_trie *trie, uint32_t base, const uint8_t *bytes, unsigned n) {
  for (unsigned i = 0; i < n; i++) {
    uint32_t at = base + bytes[i];
    if (at < trie->n && (trie->nodes[at].parent || at <= BYTE_TRIE_ROOT)) return false;
  }
  return true;
}

/* The lowest place where all children find free nodes. Looking begins at the first
 * free node; nodes that stay free although many tries failed there are given up, which
 * keeps the build linear. */
static uint32_t find_base(struct build *build, const uint8_t *bytes, unsigned n) {
  struct byte_trie *trie = build->trie;
  while (build->first_free < trie->n && trie->nodes[build->first_free].parent) build->first_free++;
  unsigned tries = 0;
  for (uint32_t at = build->first_free;; at++) {
    if (at < trie->n && trie->nodes[at].parent) continue;
    if (at > bytes[0] && fits(trie, at - bytes[0], bytes, n)) {
      if (tries > 64) build->first_free = at;
      return at - bytes[0];
    }
    tries++;
  }
}

/* Gives a node its value and its children. */
static int place(struct build *build, struct range range, uint32_t *capacity) {
  struct byte_trie *trie = build->trie;
  size_t i = range.begin;
  for (; i < range.end && build->keys[i].length == range.depth; i++) trie->nodes[range.node].value = build->keys[i].value;
  uint8_t bytes[256];
  size_t starts[257];
  unsigned n = 0;
  for (; i < range.end; i++) {
    uint8_t byte = (uint8_t)build->keys[i].bytes[range.depth];
    if (n && bytes[n - 1] == byte) continue;
    bytes[n] = byte;
    starts[n++] = i;
  }
  if (!n) return TL_OK;
  starts[n] = range.end;
  uint32_t base = find_base(build, bytes, n);
  if (grow(trie, capacity, base + 256) < 0) return TL_ENOMEM;
  trie->nodes[range.node].base = base;
  for (unsigned k = 0; k < n; k++) {
    trie->nodes[base + bytes[k]].parent = range.node;
    if (push(build, (struct range){starts[k], starts[k + 1], range.depth + 1, base + bytes[k]}) < 0) return TL_ENOMEM;
  }
  return TL_OK;
}

int byte_trie_build(struct byte_trie *trie, struct byte_trie_key *keys, size_t n_keys) {
  uint32_t capacity = 0;
  struct build build = {.trie = trie, .keys = keys, .first_free = BYTE_TRIE_ROOT + 1};
  *trie = (struct byte_trie){0};
  qsort(keys, n_keys, sizeof *keys, compare);
  int r = grow(trie, &capacity, 512);
  if (r == TL_OK) r = push(&build, (struct range){0, n_keys, 0, BYTE_TRIE_ROOT});
  while (r == TL_OK && build.head < build.tail) r = place(&build, build.queue[build.head++], &capacity);
  free(build.queue);
  return r;
}

void byte_trie_done(struct byte_trie *trie) {
  free(trie->nodes);
  *trie = (struct byte_trie){0};
}
