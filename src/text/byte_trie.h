/* SPDX-License-Identifier: MIT */
/* A trie over bytes as a double array (Aoe 1989): the child of node s by byte b is
 * base[s] + b, if that node says that s is its parent. One load a byte. */
#ifndef TEXT_BYTE_TRIE_H
#define TEXT_BYTE_TRIE_H

#include <stddef.h>
#include <stdint.h>

struct byte_trie_node {
  uint32_t base;   /* where the children begin; 0: none */
  uint32_t parent; /* 0: free (the root has no parent and is never a child) */
  int32_t value;   /* -1: no key ends here */
};

struct byte_trie {
  struct byte_trie_node *nodes; /* owned; (n); node 1 is the root, node 0 is unused */
  uint32_t n;
};

struct byte_trie_key {
  const char *bytes;
  uint32_t length; /* above 0 */
  int32_t value;   /* 0 or more */
};

#define BYTE_TRIE_ROOT 1u

/* keys: sorted here by bytes; of equal ones the largest value counts. TL_ENOMEM. */
int byte_trie_build(struct byte_trie *trie, struct byte_trie_key *keys, size_t n_keys);
void byte_trie_done(struct byte_trie *trie);

/* 0: no such child. */
static inline uint32_t byte_trie_child(const struct byte_trie *trie, uint32_t node, uint8_t byte) {
  /* base + 255 is below n for every node that has children */
  uint32_t base = trie->nodes[node].base;
  if (!base) return 0;
  uint32_t child = base + byte;
  return trie->nodes[child].parent == node ? child : 0;
}

#endif
