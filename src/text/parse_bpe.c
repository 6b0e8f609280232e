/* SPDX-License-Identifier: MIT */
/* tokenizer.json's model of type BPE, but for its vocabulary. */
#include <string.h>

#include "text/tokenizer_private.h"

#define MAX_MERGES ((size_t)1 << 24)

/* A merge is "left right" or ["left", "right"]. */
static bool merge_sides(json_t *merge, const char *sides[2], size_t lengths[2]) {
  if (json_is_string(merge)) {
    const char *text = json_string_value(merge), *space = strchr(text, ' ');
    if (!space) return false;
    sides[0] = text;
    lengths[0] = (size_t)(space - text);
    sides[1] = space + 1;
    lengths[1] = json_string_length(merge) - lengths[0] - 1;
    return true;
  }
  if (!json_is_array(merge) || json_array_size(merge) != 2) return false;
  for (size_t i = 0; i < 2; i++) {
    json_t *side = json_array_get(merge, i);
    if (!json_is_string(side)) return false;
    sides[i] = json_string_value(side);
    lengths[i] = json_string_length(side);
  }
  return true;
}

int tok_bpe_merge(struct tl_tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right, size_t rank,
                  struct tl_error *err) {
  struct tl_buffer joined;
  tl_buffer_init(&joined, 0);
  size_t skip = t->bpe.skip;
  tl_buffer_append(&joined, left, n_left);
  if (skip <= n_right) tl_buffer_append(&joined, right + skip, n_right - skip);
  int32_t left_id = tok_map_find(&t->by_text, t->tokens, left, n_left);
  int32_t right_id = tok_map_find(&t->by_text, t->tokens, right, n_right);
  int32_t id = tok_map_find(&t->by_text, t->tokens, tl_buffer_bytes(&joined), joined.length);
  bool failed = joined.failed;
  tl_buffer_done(&joined);
  if (failed) return tok_out_of_memory(err);
  if (left_id < 0 || right_id < 0 || id < 0 || skip > n_right)
    return tl_error_set(err, TL_ECORRUPT, NULL, "model.merges[%zu]: a token of it is not in model.vocab", rank);
  if (!t->tokens[id].guarded) tok_bpe_merges_put(&t->bpe, left_id, right_id, (uint32_t)rank, id);
  return TL_OK;
}

static int read_merge(struct tl_tokenizer *t, json_t *merge, size_t rank, struct tl_error *err) {
  const char *sides[2];
  size_t lengths[2];
  if (!merge_sides(merge, sides, lengths))
    return tl_error_set(err, TL_ECORRUPT, NULL, "model.merges[%zu]: expected \"left right\" or a list of two strings", rank);
  return tok_bpe_merge(t, sides[0], lengths[0], sides[1], lengths[1], rank, err);
}

static int read_merges(struct tl_tokenizer *t, json_t *merges, struct tl_error *err) {
  size_t n = json_array_size(merges);
  if (!json_is_array(merges) || n > MAX_MERGES)
    return tl_error_set(err, TL_ECORRUPT, NULL, "model.merges: expected a list of at most %zu merges", MAX_MERGES);
  int r = tok_bpe_init(t, n, err);
  for (size_t i = 0; r == TL_OK && i < n; i++) r = read_merge(t, json_array_get(merges, i), i, err);
  return r;
}

#define MAX_AFFIX 64

bool tok_bpe_affixed(json_t *model) {
  return json_string_length(json_object_get(model, "continuing_subword_prefix")) ||
         json_string_length(json_object_get(model, "end_of_word_suffix"));
}

static int read_affix(struct tl_tokenizer *t, json_t *model, const char *key, const char **ret, struct tl_error *err) {
  json_t *affix = json_object_get(model, key);
  size_t n = json_string_length(affix);
  *ret = "";
  if (!n) return TL_OK;
  if (n > MAX_AFFIX || strlen(json_string_value(affix)) != n)
    return tl_error_set(err, TL_EUNSUPPORTED, NULL, "model.%s: expected at most %d bytes, none of them 0", key, MAX_AFFIX);
  *ret = tl_arena_copy(&t->mem, json_string_value(affix), n);
  return *ret ? TL_OK : tok_out_of_memory(err);
}

/* Settings that would change the ids. */
static int read_variants(struct tl_tokenizer *t, json_t *model, struct tl_error *err) {
  if (json_number_value(json_object_get(model, "dropout")) > 0)
    return tl_error_set(err, TL_EUNSUPPORTED, NULL, "model.dropout is for training; it is not supported");
  int r = read_affix(t, model, "continuing_subword_prefix", &t->bpe.prefix, err);
  if (r == TL_OK) r = read_affix(t, model, "end_of_word_suffix", &t->bpe.suffix, err);
  if (r < 0) return r;
  /* the reference leaves out as many bytes of a merge's right side as the prefix has characters */
  for (const char *at = t->bpe.prefix; *at; at++) t->bpe.skip += ((unsigned char)*at & 0xc0) != 0x80;
  t->bpe.affixed = *t->bpe.prefix || *t->bpe.suffix;
  return TL_OK;
}

int tok_parse_bpe(struct tl_tokenizer *t, json_t *model, struct tl_error *err) {
  int r = read_variants(t, model, err);
  t->bpe.fuse_unk = tok_flag(model, "fuse_unk", false);
  t->bpe.ignore_merges = tok_flag(model, "ignore_merges", false);
  t->bpe.byte_fallback = tok_flag(model, "byte_fallback", false);
  if (t->byte_level && t->bpe.byte_fallback) t->bpe.byte_fallback = false; /* every byte is a token */
  if (r == TL_OK) r = tok_parse_unk(t, json_object_get(model, "unk_token"), err);
  if (r == TL_OK) r = read_merges(t, json_object_get(model, "merges"), err);
  if (!t->byte_level && t->bpe.fuse_unk) t->longest = 0;
  return r < 0 ? r : tok_bpe_finish(t, err);
}
