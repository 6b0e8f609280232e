/* SPDX-License-Identifier: MIT */
/* WordPiece (Schuster, Nakajima 2012) as BERT has it: from the left the longest token, those inside
 * the word with a prefix (##). A word that does not come out even is one unknown token. */
#include "text/tokenizer_private.h"

static bool too_long(const char *piece, size_t length, size_t max_chars) {
  size_t n = 0;
  for (size_t i = 0; i < length; i++) n += ((unsigned char)piece[i] & 0xc0) != 0x80;
  return n > max_chars;
}

/* The longest token at `at`: its id with *ret_end, or -1. */
static int32_t longest(const struct byte_trie *trie, uint32_t node, const char *piece, size_t length, size_t at, size_t *ret_end) {
  int32_t found = -1;
  while (node && at < length) {
    node = byte_trie_child(trie, node, (uint8_t)piece[at++]);
    if (!node || trie->nodes[node].value < 0) continue;
    found = trie->nodes[node].value;
    *ret_end = at;
  }
  return found;
}

int tok_wordpiece_piece(struct tok_encode *e, const char *piece, size_t length) {
  const struct tok_wordpiece *w = &e->t->wordpiece;
  size_t n_before = e->out->n, at = 0;
  bool known = !too_long(piece, length, w->max_chars);
  while (known && at < length) {
    int32_t id = longest(&w->trie, at ? w->inner : BYTE_TRIE_ROOT, piece, length, at, &at);
    known = id >= 0;
    int r = known ? tok_push(e->out, id, e->err) : TL_OK;
    if (r < 0) return r;
  }
  if (known) return TL_OK;
  e->out->n = n_before;
  if (e->t->unk < 0) return tl_error_set(e->err, TL_EINVAL, NULL, "the tokenizer has no token for a word and none for the unknown");
  return tok_push(e->out, e->t->unk, e->err);
}
