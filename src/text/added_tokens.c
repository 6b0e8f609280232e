/* SPDX-License-Identifier: MIT */
/* Added tokens: found in the text before anything else, leftmost and longest. */
#include <stdlib.h>

#include "text/text_utf8.h"
#include "text/tokenizer_private.h"
#include "text/unicode_class.h"
#include "tokenlane/base/utf8.h"

static int new_node(struct tok_trie *trie, uint8_t byte) {
  if (trie->n == trie->capacity) {
    uint32_t capacity = trie->capacity ? trie->capacity * 2 : 256;
    struct tok_trie_node *nodes = realloc(trie->nodes, capacity * sizeof *nodes);
    if (!nodes) return TL_ENOMEM;
    trie->nodes = nodes;
    trie->capacity = capacity;
    if (trie->n == 0) trie->n = 1;
  }
  trie->nodes[trie->n] = (struct tok_trie_node){.byte = byte};
  return (int)trie->n++;
}

static uint32_t child_of(const struct tok_trie *trie, uint32_t node, uint8_t byte) {
  uint32_t child = trie->nodes[node].child;
  while (child && trie->nodes[child].byte != byte) child = trie->nodes[child].sibling;
  return child;
}

int tok_trie_add(struct tok_trie *trie, const struct tok_added *added, uint32_t index) {
  if (added->length == 0) return TL_OK;
  uint8_t first = (uint8_t)added->content[0];
  if (!trie->root[first]) {
    int node = new_node(trie, first);
    if (node < 0) return node;
    trie->root[first] = (uint32_t)node;
  }
  uint32_t at = trie->root[first];
  for (size_t i = 1; i < added->length; i++) {
    uint8_t byte = (uint8_t)added->content[i];
    uint32_t child = child_of(trie, at, byte);
    if (!child) {
      int node = new_node(trie, byte);
      if (node < 0) return node;
      child = (uint32_t)node;
      trie->nodes[child].sibling = trie->nodes[at].child;
      trie->nodes[at].child = child;
    }
    at = child;
  }
  trie->nodes[at].added = (int32_t)index + 1;
  return TL_OK;
}

/* The longest added token that begins at text[0]: its index + 1, or 0. */
static int32_t longest_at(const struct tok_trie *trie, const char *text, size_t length) {
  uint32_t node = trie->root[(uint8_t)text[0]];
  int32_t found = 0;
  for (size_t i = 1; node; i++) {
    if (trie->nodes[node].added) found = trie->nodes[node].added;
    if (i == length) break;
    node = child_of(trie, node, (uint8_t)text[i]);
  }
  return found;
}

/* Whether a span overlaps [start, end): binary search. */
static bool touches(const struct tl_span *spans, size_t n, size_t start, size_t end) {
  size_t low = 0, high = n; /* first span with span.end > start */
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (spans[middle].end > start)
      high = middle;
    else
      low = middle + 1;
  }
  return low < n && spans[low].start < end;
}

static uint32_t character_before(const char *text, size_t at, size_t *ret_start) {
  size_t start = at - 1;
  while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80) start--;
  uint32_t code = 0;
  (void)tl_utf8_decode(text + start, at - start, &code);
  *ret_start = start;
  return code;
}

static bool stands_alone(const char *text, size_t length, size_t start, size_t end) {
  uint32_t code;
  size_t at;
  if (start > 0 && unicode_is_word(character_before(text, start, &at))) return false;
  return end == length || !(tl_utf8_decode(text + end, length - end, &code) && unicode_is_word(code));
}

static struct tl_span with_white_space(const struct tok_added *added, const char *text, size_t length, size_t from,
                                       struct tl_span span) {
  uint32_t code;
  size_t at, n;
  while (added->lstrip && span.start > from && text_is_white(character_before(text, span.start, &at))) span.start = at;
  while (added->rstrip && span.end < length && (n = tl_utf8_decode(text + span.end, length - span.end, &code)) &&
         text_is_white(code))
    span.end += n;
  return span;
}

int tok_added_find(const struct tl_tokenizer *t, const struct tok_trie *trie, const char *text, size_t length,
                   size_t from, bool parse_special, const struct tl_span *untrusted, size_t n_untrusted,
                   struct tl_span *ret, const struct tok_added **ret_added) {
  for (size_t i = from; i < length; i++) {
    int32_t index = longest_at(trie, text + i, length - i);
    if (!index) continue;
    const struct tok_added *added = &t->added[index - 1];
    struct tl_span span = {i, i + added->length};
    if (added->guarded && touches(untrusted, n_untrusted, span.start, span.end)) continue;
    bool skip = (added->special && !parse_special) ||
                (added->single_word && !stands_alone(text, length, span.start, span.end));
    if (skip) {
      i = span.end - 1; /* as the reference does: looks on behind it */
      continue;
    }
    *ret = with_white_space(added, text, length, from, span);
    *ret_added = added;
    return 1;
  }
  return 0;
}
