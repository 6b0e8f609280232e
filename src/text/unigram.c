/* SPDX-License-Identifier: MIT */
/* Unigram (Kudo 2018): the segmentation with the largest sum of scores, by Viterbi over
 * the bytes of a piece. A character that is no token is unknown at 10 below the lowest score;
 * unknown ones that follow one another are one. */
#include <stdlib.h>

#include "text/tokenizer_private.h"

struct unigram_best {
  double score;
  uint32_t start; /* where the token that ends here begins; UINT32_MAX: none does */
  int32_t id;     /* -1: unknown */
};

static size_t character_bytes(char lead) {
  unsigned char byte = (unsigned char)lead;
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

static void offer(struct unigram_best *best, double score, size_t start, int32_t id) {
  if (best->start == UINT32_MAX || score > best->score) *best = (struct unigram_best){score, (uint32_t)start, id};
}

static void find_best(const struct tl_tokenizer *t, const char *piece, size_t length, struct unigram_best *best) {
  const struct tok_unigram *u = &t->unigram;
  for (size_t at = 0; at < length;) {
    size_t character = character_bytes(piece[at]);
    bool single = false;
    uint32_t node = BYTE_TRIE_ROOT;
    for (size_t end = at; end < length;) {
      node = byte_trie_child(&u->trie, node, (uint8_t)piece[end++]);
      if (!node) break;
      int32_t id = u->trie.nodes[node].value;
      if (id < 0) continue;
      offer(&best[end], best[at].score + u->scores[id], at, id == t->unk ? -1 : id);
      single |= end - at == character;
    }
    if (!single) offer(&best[at + character], best[at].score + u->unk_score, at, -1);
    at += character;
  }
}

/* A run of unknown characters; together they may be a token after all. */
static int push_unknown(struct tok_encode *e, const char *text, size_t length) {
  const struct tl_tokenizer *t = e->t;
  int32_t id = tok_map_find(&t->by_text, t->tokens, text, length);
  if (id >= 0 && !t->tokens[id].guarded) return tok_push(e->out, id, e->err);
  if (t->unigram.byte_fallback && t->all_bytes) {
    int r = TL_OK;
    for (size_t i = 0; r == TL_OK && i < length; i++) r = tok_push(e->out, t->byte_id[(uint8_t)text[i]], e->err);
    return r;
  }
  if (t->unk < 0) return tl_error_set(e->err, TL_EINVAL, NULL, "the tokenizer has no token for a character and none for the unknown");
  return tok_push(e->out, t->unk, e->err);
}

/* Ids from the last one back are linked by best[].start; turned round they are pushed. */
static int push_path(struct tok_encode *e, const char *piece, size_t length) {
  struct unigram_best *best = e->best;
  uint32_t end = (uint32_t)length, next = UINT32_MAX;
  while (end > 0) { /* `score` is no longer needed: start becomes where the next token ends */
    uint32_t start = best[end].start;
    best[end].start = next;
    next = end;
    end = start;
  }
  int r = TL_OK;
  for (uint32_t at = 0; r == TL_OK && at < length; at = next, next = best[at].start) {
    if (best[next].id >= 0) {
      r = tok_push(e->out, best[next].id, e->err);
      continue;
    }
    uint32_t begin = at;
    while (best[next].start != UINT32_MAX && best[best[next].start].id < 0) next = best[next].start;
    r = push_unknown(e, piece + begin, next - begin);
  }
  return r;
}

int tok_unigram_piece(struct tok_encode *e, const char *piece, size_t length) {
  if (length + 1 > e->n_best) {
    size_t n = length + 1 < 256 ? 256 : length + 1;
    struct unigram_best *best = realloc(e->best, n * sizeof *best);
    if (!best) return tok_out_of_memory(e->err);
    e->best = best;
    e->n_best = n;
  }
  for (size_t i = 0; i <= length; i++) e->best[i] = (struct unigram_best){0, UINT32_MAX, -1};
  find_best(e->t, piece, length, e->best);
  return push_path(e, piece, length);
}
