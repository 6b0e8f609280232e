/* SPDX-License-Identifier: MIT */
/* A tokenizer from its parts, as GGUF's metadata has them (tokenizer.ggml.*): there the kind's name stands
 * for normalizer, pre-tokenizer and decoder. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/split_patterns.h"
#include "text/text_utf8.h"
#include "text/tokenizer_private.h"
#include "text/unicode_class.h"
#include "tokenlane/base/utf8.h"

static const char space_sign[] = "\xe2\x96\x81"; /* what SentencePiece writes for a blank */
#define SPACE_BYTES 3u

static enum tl_piece_type type_of(const struct tl_tokenizer_parts *parts, uint32_t i) {
  return parts->types ? (enum tl_piece_type)parts->types[i] : TL_PIECE_NORMAL;
}

static int add_norm(struct tl_tokenizer *t, struct tok_norm norm, struct tl_error *err) {
  (void)err;
  t->norms[t->n_norms++] = norm; /* no kind has more than TOK_MAX_STEPS */
  return TL_OK;
}

static struct tok_norm replace_spaces(void) {
  return (struct tok_norm){.apply = tok_norm_replace, .literal = " ", .literal_length = 1, .content = space_sign, .content_length = SPACE_BYTES};
}

/* --- merges of SentencePiece's BPE: any two neighbours that make a piece, best score first ------ */
static int compare_scores(const void *left, const void *right) {
  float a = *(const float *)left, b = *(const float *)right;
  return (a < b) - (a > b);
}

static uint32_t rank_of(const float *sorted, uint32_t n, float score) {
  uint32_t low = 0, high = n;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (sorted[middle] <= score) high = middle;
    else low = middle + 1;
  }
  return low;
}

/* Whether merges may make the piece, or be made of it. */
static bool takes_part(const struct tl_tokenizer_parts *parts, uint32_t i) {
  return type_of(parts, i) == TL_PIECE_NORMAL || type_of(parts, i) == TL_PIECE_USER_DEFINED;
}

/* Calls put for each border of piece i that divides it into two pieces. Returns how many. */
static size_t split_piece(struct tl_tokenizer *t, const struct tl_tokenizer_parts *parts, uint32_t i, bool put, uint32_t rank) {
  const char *text = t->tokens[i].text;
  size_t n = 0, length = t->tokens[i].text_length;
  for (size_t at = 1; at < length; at++) {
    if (((unsigned char)text[at] & 0xc0) == 0x80) continue;
    int32_t left = tok_map_find(&t->by_text, t->tokens, text, at);
    int32_t right = left < 0 ? -1 : tok_map_find(&t->by_text, t->tokens, text + at, length - at);
    if (right < 0 || !takes_part(parts, (uint32_t)left) || !takes_part(parts, (uint32_t)right)) continue;
    if (put) tok_bpe_merges_put(&t->bpe, left, right, rank, (int32_t)i);
    n++;
  }
  return n;
}

static int score_merges(struct tl_tokenizer *t, const struct tl_tokenizer_parts *parts, struct tl_error *err) {
  float *sorted = malloc(parts->n * sizeof *sorted);
  if (!sorted) return tok_out_of_memory(err);
  memcpy(sorted, parts->scores, parts->n * sizeof *sorted);
  qsort(sorted, parts->n, sizeof *sorted, compare_scores);
  size_t n = 0;
  for (uint32_t i = 0; i < parts->n; i++)
    if (takes_part(parts, i)) n += split_piece(t, parts, i, false, 0);
  int r = tok_bpe_init(t, n, err);
  for (uint32_t i = 0; r == TL_OK && i < parts->n; i++)
    if (takes_part(parts, i) && !t->tokens[i].guarded) (void)split_piece(t, parts, i, true, rank_of(sorted, parts->n, parts->scores[i]));
  free(sorted);
  return r < 0 ? r : tok_bpe_finish(t, err);
}

/* --- kinds ----------------------------------------------------------------------------------------- */
static int set_up_llama(struct tl_tokenizer *t, const struct tl_tokenizer_parts *parts, struct tl_error *err) {
  t->encode_piece = tok_bpe_piece;
  t->bpe.fuse_unk = t->bpe.byte_fallback = true;
  if (parts->add_space_prefix)
    add_norm(t, (struct tok_norm){.apply = tok_norm_prepend, .content = space_sign, .content_length = SPACE_BYTES}, err);
  t->decoder.steps[t->decoder.n_steps++] = (struct tok_dec){
      .apply = tok_dec_replace,
      .replace = {.literal = space_sign, .literal_length = SPACE_BYTES, .content = " ", .content_length = 1}};
  t->decoder.byte_fallback = t->decoder.fused = true;
  if (parts->add_space_prefix) t->decoder.ends = (struct tok_dec){.text = " ", .text_length = 1, .start = 1};
  return add_norm(t, replace_spaces(), err);
}

static int set_up_gpt2(struct tl_tokenizer *t, const struct tl_tokenizer_parts *parts, struct tl_error *err) {
  const struct split_kind *kind = split_kind_find(parts->pre ? parts->pre : "default");
  if (!kind) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "tokenizer.ggml.pre \"%.40s\" is not supported", parts->pre);
  t->byte_level = t->decoder.byte_level = t->decoder.fused = true;
  t->encode_piece = tok_bpe_piece;
  t->bpe.ignore_merges = kind->ignore_merges;
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < SPLIT_MAX && kind->patterns[i]; i++) r = tok_add_pattern_step(t, kind->patterns[i], TOK_ISOLATED, err);
  return r;
}

static int set_up_bert(struct tl_tokenizer *t, const struct tl_tokenizer_parts *parts, struct tl_error *err) {
  bool cased = false; /* nothing in the file says it, but an uncased vocabulary has no capitals */
  for (uint32_t i = 0; i < parts->n && !cased; i++)
    for (size_t k = 0; type_of(parts, i) == TL_PIECE_NORMAL && k < parts->pieces[i].length; k++)
      cased |= parts->pieces[i].text[k] >= 'A' && parts->pieces[i].text[k] <= 'Z';
  t->encode_piece = tok_wordpiece_piece;
  t->pres[t->n_pres++] = (struct tok_pre){.find = tok_find_class, .is = text_is_white, .behaviour = TOK_REMOVED};
  t->pres[t->n_pres++] = (struct tok_pre){.find = tok_find_class, .is = unicode_is_punctuation, .behaviour = TOK_ISOLATED};
  t->decoder.steps[t->decoder.n_steps++] = (struct tok_dec){.apply = tok_dec_wordpiece, .text = "##", .text_length = 2, .cleanup = true};
  return add_norm(t, (struct tok_norm){.apply = tok_norm_bert, .clean = true, .chinese = true, .accents = !cased, .lowercase = !cased}, err);
}

static int set_up_t5(struct tl_tokenizer *t, const struct tl_tokenizer_parts *parts, struct tl_error *err) {
  t->encode_piece = tok_unigram_piece;
  if (parts->charsmap_length) {
    struct tok_norm norm = {.apply = tok_norm_charsmap};
    char *copy = tl_arena_copy(&t->mem, parts->charsmap, parts->charsmap_length);
    if (!copy) return tok_out_of_memory(err);
    int r = tok_charsmap_init(&norm.map, copy, parts->charsmap_length, err);
    if (r < 0) return r;
    add_norm(t, norm, err);
  }
  if (parts->remove_extra_spaces) {
    struct tok_norm squeeze = {.apply = tok_norm_replace, .content = " ", .content_length = 1};
    int r = tok_pattern_compile(" {2,}", 5, &squeeze.pattern, err);
    if (r < 0) return r;
    add_norm(t, squeeze, err);
    add_norm(t, (struct tok_norm){.apply = tok_norm_strip, .left = true, .right = true}, err);
  }
  t->pres[t->n_pres++] = (struct tok_pre){.space = space_sign, .space_length = SPACE_BYTES, .replace_spaces = true,
                                          .prefix = parts->add_space_prefix ? TOK_PREFIX_ALWAYS : TOK_PREFIX_NEVER,
                                          .find = tok_find_literal, .literal = space_sign, .literal_length = SPACE_BYTES,
                                          .behaviour = TOK_MERGED_NEXT};
  t->decoder.steps[t->decoder.n_steps++] =
      (struct tok_dec){.apply = tok_dec_metaspace, .text = space_sign, .text_length = SPACE_BYTES, .keep_first = !parts->add_space_prefix};
  return TL_OK;
}

static int finish_gpt2(struct tl_tokenizer *t, const struct tl_tokenizer_parts *parts, struct tl_error *err) {
  int r = tok_bpe_init(t, parts->n_merges, err);
  for (uint32_t i = 0; r == TL_OK && i < parts->n_merges; i++) {
    const char *text = parts->merges[i].text;
    size_t length = parts->merges[i].length;
    /* a side may begin with a blank of its own: look behind the first byte */
    const char *blank = length > 1 ? memchr(text + 1, ' ', length - 1) : NULL;
    if (!blank) return tl_error_set(err, TL_ECORRUPT, NULL, "tokenizer.ggml.merges[%u]: expected \"left right\"", i);
    r = tok_bpe_merge(t, text, (size_t)(blank - text), blank + 1, length - (size_t)(blank - text) - 1, i, err);
  }
  return r < 0 ? r : tok_bpe_finish(t, err);
}

static int finish_bert(struct tl_tokenizer *t, const struct tl_tokenizer_parts *parts, struct tl_error *err) {
  (void)parts;
  return tok_wordpiece_finish(t, "##", 100, err);
}

static int finish_t5(struct tl_tokenizer *t, const struct tl_tokenizer_parts *parts, struct tl_error *err) {
  double *scores = tl_arena_array(&t->mem, parts->n, sizeof *scores), lowest = INFINITY;
  if (!scores) return tok_out_of_memory(err);
  for (uint32_t i = 0; i < parts->n; i++) {
    scores[i] = (double)parts->scores[i];
    if (scores[i] < lowest) lowest = scores[i];
  }
  return tok_unigram_finish(t, scores, lowest, err);
}

static const struct kind {
  const char *name;
  bool needs_scores, prefixed_words;
  int (*set_up)(struct tl_tokenizer *t, const struct tl_tokenizer_parts *parts, struct tl_error *err);
  int (*finish)(struct tl_tokenizer *t, const struct tl_tokenizer_parts *parts, struct tl_error *err);
} kinds[] = {
    {"llama", true, false, set_up_llama, score_merges},
    {"gpt2", false, false, set_up_gpt2, finish_gpt2},
    {"bert", false, true, set_up_bert, finish_bert},
    {"t5", true, false, set_up_t5, finish_t5},
    {"gemma4", false, false, set_up_llama, finish_gpt2}, /* SentencePiece's pieces, merged in the order of a list */
};

/* GGUF marks the pieces that begin a word (with SentencePiece's sign) where BERT marks the others. */
static int set_bert_token(struct tl_tokenizer *t, int32_t id, const char *text, size_t length, struct tl_error *err) {
  if (length >= SPACE_BYTES && memcmp(text, space_sign, SPACE_BYTES) == 0)
    return tok_set_token(t, id, text + SPACE_BYTES, length - SPACE_BYTES, err);
  struct tl_buffer inner;
  tl_buffer_init(&inner, 0);
  tl_buffer_puts(&inner, "##");
  tl_buffer_append(&inner, text, length);
  int r = inner.failed ? tok_out_of_memory(err) : tok_set_token(t, id, inner.data, inner.length, err);
  tl_buffer_done(&inner);
  return r;
}

static int set_tokens(struct tl_tokenizer *t, const struct kind *kind, const struct tl_tokenizer_parts *parts, struct tl_error *err) {
  int r = tok_vocab_init(t, (int32_t)parts->n, parts->n, err);
  uint32_t n_added = 0;
  for (uint32_t i = 0; r == TL_OK && i < parts->n; i++) {
    struct tl_text piece = parts->pieces[i];
    if (!tl_utf8_valid(piece.text, piece.length) || piece.length > UINT32_MAX / 4)
      return tl_error_set(err, TL_ECORRUPT, NULL, "tokenizer.ggml.tokens[%u] is not UTF-8", i);
    bool word = kind->prefixed_words && type_of(parts, i) == TL_PIECE_NORMAL;
    r = word ? set_bert_token(t, (int32_t)i, piece.text, piece.length, err) : tok_set_token(t, (int32_t)i, piece.text, piece.length, err);
    n_added += type_of(parts, i) == TL_PIECE_CONTROL || type_of(parts, i) == TL_PIECE_USER_DEFINED || type_of(parts, i) == TL_PIECE_UNKNOWN;
  }
  if (r < 0) return r;
  tok_find_bytes(t);
  t->unk = parts->unk;
  t->added = tl_arena_array(&t->mem, (size_t)n_added + 1, sizeof *t->added);
  if (!t->added) return tok_out_of_memory(err);
  for (uint32_t i = 0; r == TL_OK && i < parts->n; i++) {
    enum tl_piece_type type = type_of(parts, i);
    if (type != TL_PIECE_CONTROL && type != TL_PIECE_USER_DEFINED && type != TL_PIECE_UNKNOWN) continue;
    struct tok_added *added = &t->added[t->n_added++];
    *added = (struct tok_added){.special = type != TL_PIECE_USER_DEFINED};
    r = tok_add_added(t, added, (int32_t)i, err);
  }
  return r;
}

static int check(const struct tl_tokenizer_parts *parts, const struct kind *kind, struct tl_error *err) {
  if (parts->n == 0 || parts->n >= (uint32_t)TOK_MAX_ID) return tl_error_set(err, TL_ECORRUPT, NULL, "tokenizer.ggml.tokens: expected 1 to %d tokens", TOK_MAX_ID - 1);
  if (kind->needs_scores && !parts->scores) return tl_error_set(err, TL_ECORRUPT, NULL, "tokenizer.ggml.scores: expected %u numbers", parts->n);
  for (uint32_t i = 0; kind->needs_scores && i < parts->n; i++)
    if (!isfinite(parts->scores[i])) return tl_error_set(err, TL_ECORRUPT, NULL, "tokenizer.ggml.scores[%u]: it is not a number", i);
  const int32_t ids[] = {parts->unk, parts->before, parts->after};
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
    if (ids[i] < -1 || ids[i] >= (int32_t)parts->n) return tl_error_set(err, TL_ECORRUPT, NULL, "tokenizer.ggml: the id %d is none of a token", ids[i]);
  return TL_OK;
}

int tl_tokenizer_new(const struct tl_tokenizer_parts *parts, struct tl_tokenizer **ret, struct tl_error *err) {
  const struct kind *kind = NULL;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].name, parts->kind) == 0) kind = &kinds[i];
  if (!kind) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "tokenizer.ggml.model \"%.40s\" is not supported", parts->kind);
  int r = check(parts, kind, err);
  if (r < 0) return r;
  struct tl_tokenizer *t = calloc(1, sizeof *t);
  if (!t) return tok_out_of_memory(err);
  tl_arena_init(&t->mem, 0);
  r = kind->set_up(t, parts, err);
  if (r == TL_OK) r = set_tokens(t, kind, parts, err);
  if (r == TL_OK) r = kind->finish(t, parts, err);
  if (r == TL_OK) r = tok_decoder_finish(t, err);
  if (r < 0) {
    tl_tokenizer_free(t);
    return r;
  }
  t->longest = 0; /* unknown text, blanks put in: only gpt2 would have a bound */
  if (parts->before >= 0) t->before[t->n_before++] = parts->before;
  if (parts->after >= 0) t->after[t->n_after++] = parts->after;
  if (kind->set_up == set_up_bert && parts->before >= 0 && parts->after >= 0)
    tok_join_bert(t, parts->before, parts->after);
  else
    t->joint.n = TOK_NO_JOINT;
  *ret = t;
  return TL_OK;
}
