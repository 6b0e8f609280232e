/* SPDX-License-Identifier: MIT */
/* What byte pair encoding looks things up in: pairs to merges, characters to tokens,
 * and which symbols can ever become neighbours inside one token. */
#include "text/tokenizer_private.h"
#include "tokenlane/base/hash.h"
#include "tokenlane/base/utf8.h"

static uint64_t pair_key(int32_t left, int32_t right) {
  return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The last of several merges of one pair counts, as in the reference. */
void tok_bpe_merges_put(struct tok_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id) {
  uint64_t pair = pair_key(left, right), slot = tl_hash_u64(pair) & bpe->mask;
  while (bpe->merges[slot].pair != UINT64_MAX && bpe->merges[slot].pair != pair) slot = (slot + 1) & bpe->mask;
  bpe->merges[slot] = (struct tok_merge){pair, rank, id};
}

const struct tok_merge *tok_bpe_find(const struct tok_bpe *bpe, int32_t left, int32_t right) {
  uint64_t pair = pair_key(left, right), slot = tl_hash_u64(pair) & bpe->mask;
  for (; bpe->merges[slot].pair != UINT64_MAX; slot = (slot + 1) & bpe->mask)
    if (bpe->merges[slot].pair == pair) return &bpe->merges[slot];
  return NULL;
}

int tok_bpe_init(struct tl_tokenizer *t, size_t n_merges, struct tl_error *err) {
  size_t size = 16;
  while (size < n_merges * 2) size *= 2;
  t->bpe.mask = size - 1;
  t->bpe.merges = tl_arena_array(&t->mem, size, sizeof *t->bpe.merges);
  if (!t->bpe.merges) return tok_out_of_memory(err);
  for (size_t i = 0; i < size; i++) t->bpe.merges[i].pair = UINT64_MAX;
  return TL_OK;
}

/* --- characters ------------------------------------------------------------------------ */
int32_t tok_bpe_char(const struct tok_bpe *bpe, uint32_t code) {
  uint32_t slot = (uint32_t)tl_hash_u64(code) & bpe->chars_mask;
  for (; bpe->chars[slot].code; slot = (slot + 1) & bpe->chars_mask)
    if (bpe->chars[slot].code == code + 1) return bpe->chars[slot].id;
  return -1;
}

static bool is_character(const struct tok_token *token, uint32_t *ret) {
  return token->known && token->text_length > 0 && tl_utf8_decode(token->text, token->text_length, ret) == token->text_length;
}

static int find_chars(struct tl_tokenizer *t, struct tl_error *err) {
  size_t n = 0, size = 16;
  uint32_t code;
  for (int32_t id = 0; id < t->size; id++) n += is_character(&t->tokens[id], &code);
  while (size < n * 2) size *= 2;
  t->bpe.chars_mask = (uint32_t)size - 1;
  t->bpe.chars = tl_arena_array(&t->mem, size, sizeof *t->bpe.chars);
  if (!t->bpe.chars) return tok_out_of_memory(err);
  for (int32_t id = 0; id < t->size; id++) {
    if (!is_character(&t->tokens[id], &code)) continue;
    uint32_t slot = (uint32_t)tl_hash_u64(code) & t->bpe.chars_mask;
    while (t->bpe.chars[slot].code && t->bpe.chars[slot].code != code + 1) slot = (slot + 1) & t->bpe.chars_mask;
    t->bpe.chars[slot] = (struct tok_char){code + 1, id};
  }
  return TL_OK;
}

/* --- where a piece may be cut --------------------------------------------------------------
 * A merge of L and R joins the last symbol of L with the first of R. If no merge does that
 * for the symbols a and b, then nothing ever reaches over a border between them. A token's
 * first and last symbol are those of its text, unless it was made of bytes that stand
 * for a character or of the unknown token: then there are no cuts at all. */
static uint32_t join_bit(int32_t left, int32_t right) {
  return (uint32_t)(tl_hash_u64(pair_key(left, right)) % TOK_JOIN_BITS);
}

bool tok_bpe_joins(const struct tok_bpe *bpe, int32_t left, int32_t right) {
  if (!bpe->joins) return true;
  uint32_t bit = join_bit(left, right);
  return bpe->joins[bit / 64] >> (bit % 64) & 1;
}

/* -1: the text's border is no symbol. */
static int32_t border_symbol(const struct tl_tokenizer *t, int32_t id, bool last) {
  const struct tok_token *token = &t->tokens[id];
  if (token->n_raw == 0 || !token->spelled) return -1;
  if (t->byte_level) return t->byte_id[(uint8_t)token->raw[last ? token->n_raw - 1 : 0]];
  size_t at = last ? token->n_raw - 1 : 0;
  while (at > 0 && ((unsigned char)token->raw[at] & 0xc0) == 0x80) at--;
  uint32_t code;
  if (!tl_utf8_decode(token->raw + at, token->n_raw - at, &code)) return -1;
  return tok_bpe_char(&t->bpe, code);
}

static bool is_made_of_text(const struct tl_tokenizer *t, int32_t id) {
  return id != t->unk && (t->byte_level || tok_byte_token(t->tokens[id].text, t->tokens[id].text_length) < 0);
}

int tok_bpe_finish(struct tl_tokenizer *t, struct tl_error *err) {
  if (t->bpe.affixed) return TL_OK; /* its pieces are words, and not cut */
  if (!t->byte_level && find_chars(t, err) < 0) return TL_ENOMEM;
  uint64_t *joins = tl_arena_array(&t->mem, TOK_JOIN_BITS / 64, sizeof *joins);
  if (!joins) return tok_out_of_memory(err);
  for (size_t i = 0; i <= t->bpe.mask; i++) {
    const struct tok_merge *merge = &t->bpe.merges[i];
    if (merge->pair == UINT64_MAX) continue;
    int32_t left = (int32_t)(merge->pair >> 32), right = (int32_t)(uint32_t)merge->pair;
    int32_t last = border_symbol(t, left, true), first = border_symbol(t, right, false);
    if (last < 0 || first < 0 || !is_made_of_text(t, left) || !is_made_of_text(t, right)) return TL_OK;
    uint32_t bit = join_bit(last, first);
    joins[bit / 64] |= (uint64_t)1 << (bit % 64);
  }
  t->bpe.joins = joins;
  return TL_OK;
}
