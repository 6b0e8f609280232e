/* SPDX-License-Identifier: MIT */
/* tokenizer.json's `model` (BPE) and `added_tokens`. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_private.h"

#define MAX_MERGES ((size_t)1 << 24)

static int out_of_memory(struct tl_error *err) {
  return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}

static int bad_id(struct tl_error *err, const char *where) {
  return tl_error_set(err, TL_ECORRUPT, NULL, "%s: expected an id from 0 to %d", where, TOK_MAX_ID - 1);
}

/* Largest id of vocabulary and added tokens, + 1. */
static int find_size(struct tl_tokenizer *t, json_t *vocab, json_t *added, struct tl_error *err) {
  const char *key;
  json_t *value;
  size_t i;
  json_object_foreach(vocab, key, value) {
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id >= TOK_MAX_ID) return bad_id(err, "model.vocab");
    if (id >= t->size) t->size = (int32_t)id + 1;
  }
  json_array_foreach(added, i, value) {
    json_t *number = json_object_get(value, "id");
    json_int_t id = json_integer_value(number);
    if (!json_is_integer(number) || id < 0 || id >= TOK_MAX_ID) return bad_id(err, "added_tokens[].id");
    if (id >= t->size) t->size = (int32_t)id + 1;
  }
  if (t->size == 0) return tl_error_set(err, TL_ECORRUPT, NULL, "model.vocab: expected at least one token");
  t->tokens = tl_arena_array(&t->mem, (size_t)t->size, sizeof *t->tokens);
  return t->tokens ? TL_OK : out_of_memory(err);
}

static int set_token(struct tl_tokenizer *t, int32_t id, const char *text, size_t length, struct tl_error *err) {
  struct tok_token *token = &t->tokens[id];
  char *copy = tl_arena_copy(&t->mem, text, length), *bytes = tl_arena_alloc(&t->mem, length + 1);
  if (!copy || !bytes) return out_of_memory(err);
  size_t n;
  bool spelled = tok_byte_level(text, length, bytes, &n);
  *token = (struct tok_token){copy, bytes, (uint32_t)length, (uint32_t)n, true, false};
  tok_map_put(&t->by_text, t->tokens, id);
  if (spelled) tok_map_put(&t->by_bytes, t->tokens, id);
  if (token->n_bytes > t->longest) t->longest = token->n_bytes;
  return TL_OK;
}

static int read_vocab(struct tl_tokenizer *t, json_t *vocab, struct tl_error *err) {
  const char *key;
  json_t *value;
  json_object_foreach(vocab, key, value) {
    int32_t id = (int32_t)json_integer_value(value);
    if (t->tokens[id].known)
      return tl_error_set(err, TL_ECORRUPT, NULL, "model.vocab: two tokens have the id %d", id);
    int r = set_token(t, id, key, strlen(key), err);
    if (r < 0) return r;
  }
  for (unsigned byte = 0; byte < 256; byte++) {
    char spelling[4];
    size_t n = tok_byte_spelling((uint8_t)byte, spelling);
    t->bpe.byte_id[byte] = tok_map_find(&t->by_text, t->tokens, spelling, n);
  }
  return TL_OK;
}

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

static int read_merge(struct tl_tokenizer *t, json_t *merge, size_t rank, struct tl_buffer *joined,
                      struct tl_error *err) {
  const char *sides[2];
  size_t lengths[2];
  if (!merge_sides(merge, sides, lengths))
    return tl_error_set(err, TL_ECORRUPT, NULL, "model.merges[%zu]: expected \"left right\" or a list of two strings", rank);
  tl_buffer_clear(joined);
  tl_buffer_append(joined, sides[0], lengths[0]);
  if (tl_buffer_append(joined, sides[1], lengths[1]) < 0) return out_of_memory(err);
  int32_t left = tok_map_find(&t->by_text, t->tokens, sides[0], lengths[0]);
  int32_t right = tok_map_find(&t->by_text, t->tokens, sides[1], lengths[1]);
  int32_t id = tok_map_find(&t->by_text, t->tokens, tl_buffer_string(joined), joined->length);
  if (left < 0 || right < 0 || id < 0)
    return tl_error_set(err, TL_ECORRUPT, NULL, "model.merges[%zu]: a token of it is not in model.vocab", rank);
  tok_bpe_merges_put(&t->bpe, left, right, (uint32_t)rank, id);
  return TL_OK;
}

static int read_merges(struct tl_tokenizer *t, json_t *merges, struct tl_error *err) {
  size_t n = json_array_size(merges), size = 16;
  if (!json_is_array(merges) || n > MAX_MERGES)
    return tl_error_set(err, TL_ECORRUPT, NULL, "model.merges: expected a list of at most %zu merges", MAX_MERGES);
  while (size < n * 2) size *= 2;
  t->bpe.mask = size - 1;
  t->bpe.merges = tl_arena_array(&t->mem, size, sizeof *t->bpe.merges);
  if (!t->bpe.merges) return out_of_memory(err);
  for (size_t i = 0; i < size; i++) t->bpe.merges[i].pair = UINT64_MAX;
  struct tl_buffer joined;
  tl_buffer_init(&joined, 0);
  int r = TL_OK;
  for (size_t i = 0; r == TL_OK && i < n; i++) r = read_merge(t, json_array_get(merges, i), i, &joined, err);
  tl_buffer_done(&joined);
  return r;
}

/* Settings that other kinds of BPE have and that would change the ids. */
static int refuse_variants(json_t *model, struct tl_error *err) {
  static const char *const keys[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    const char *text = json_string_value(json_object_get(model, keys[i]));
    if (text && *text) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "model.%s is not supported", keys[i]);
  }
  if (json_is_true(json_object_get(model, "byte_fallback")))
    return tl_error_set(err, TL_EUNSUPPORTED, NULL, "model.byte_fallback is not supported: only byte-level BPE is");
  return TL_OK;
}

static int read_options(struct tl_tokenizer *t, json_t *model, struct tl_error *err) {
  t->bpe.fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
  t->bpe.ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
  t->bpe.unk = -1;
  json_t *unk = json_object_get(model, "unk_token");
  if (json_is_string(unk)) {
    t->bpe.unk = tok_map_find(&t->by_text, t->tokens, json_string_value(unk), json_string_length(unk));
    if (t->bpe.unk < 0) return tl_error_set(err, TL_ECORRUPT, NULL, "model.unk_token: it is not in model.vocab");
  }
  return TL_OK;
}

int tok_parse_model(struct tl_tokenizer *t, json_t *model, json_t *added, struct tl_error *err) {
  const char *type = json_string_value(json_object_get(model, "type"));
  json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
  /* Files of old have no type; a BPE is known by its merges. */
  if (!json_is_object(vocab) || (type ? strcmp(type, "BPE") != 0 : !merges))
    return tl_error_set(err, TL_EUNSUPPORTED, NULL, "model.type: expected BPE, got %s", type ? type : "none");
  int r = refuse_variants(model, err);
  if (r == TL_OK) r = find_size(t, vocab, added, err);
  size_t n = json_object_size(vocab) + json_array_size(added);
  if (r == TL_OK && (tok_map_init(&t->by_text, &t->mem, n, false) < 0 || tok_map_init(&t->by_bytes, &t->mem, n, true) < 0))
    r = out_of_memory(err);
  if (r == TL_OK) r = read_vocab(t, vocab, err);
  if (r == TL_OK) r = read_merges(t, merges, err);
  return r < 0 ? r : read_options(t, model, err);
}

/* Tokens that are matched after the normalizer are looked for as it leaves them. */
static int normalized_content(struct tl_tokenizer *t, struct tok_added *added, struct tl_error *err) {
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  int r = tok_normalize(t, added->content, added->length, &out, err);
  if (r == TL_OK) {
    added->content = tl_arena_copy(&t->mem, tl_buffer_string(&out), out.length);
    added->length = out.length;
    if (!added->content) r = out_of_memory(err);
  }
  tl_buffer_done(&out);
  return r;
}

/* <|...|> with ASCII or full-width bars, as control tokens are spelled: files do
 * not mark all of these as special (DeepSeek's distilled models). */
static bool spelled_as_control(const char *text, size_t length) {
  static const char wide[] = "\xef\xbd\x9c";
  bool ascii = length > 4 && memcmp(text, "<|", 2) == 0 && memcmp(text + length - 2, "|>", 2) == 0;
  return ascii || (length > 8 && text[0] == '<' && memcmp(text + 1, wide, 3) == 0 &&
                   memcmp(text + length - 4, wide, 3) == 0 && text[length - 1] == '>');
}

static int read_added(struct tl_tokenizer *t, json_t *entry, struct tok_added *added, struct tl_error *err) {
  json_t *content = json_object_get(entry, "content");
  if (!json_is_string(content)) return tl_error_set(err, TL_ECORRUPT, NULL, "added_tokens[].content: expected a string");
  const char *text = json_string_value(content);
  size_t length = json_string_length(content);
  int32_t id = tok_map_find(&t->by_text, t->tokens, text, length);
  if (id < 0) {
    id = (int32_t)json_integer_value(json_object_get(entry, "id"));
    if (t->tokens[id].known)
      return tl_error_set(err, TL_ECORRUPT, NULL, "added_tokens: id %d belongs to another token already", id);
    int r = set_token(t, id, text, length, err);
    if (r < 0) return r;
  }
  *added = (struct tok_added){.id = id,
                              .content = t->tokens[id].text,
                              .length = length,
                              .special = json_is_true(json_object_get(entry, "special")),
                              .single_word = json_is_true(json_object_get(entry, "single_word")),
                              .lstrip = json_is_true(json_object_get(entry, "lstrip")),
                              .rstrip = json_is_true(json_object_get(entry, "rstrip")),
                              .normalized = json_is_true(json_object_get(entry, "normalized"))};
  added->guarded = added->special || spelled_as_control(text, length);
  t->tokens[id].special = added->special;
  if (added->lstrip || added->rstrip) t->longest = 0;
  return added->normalized ? normalized_content(t, added, err) : TL_OK;
}

int tok_parse_added(struct tl_tokenizer *t, json_t *added, struct tl_error *err) {
  t->n_added = (uint32_t)json_array_size(added);
  t->added = tl_arena_array(&t->mem, t->n_added + 1, sizeof *t->added);
  if (!t->added) return out_of_memory(err);
  if (t->n_norms) t->longest = 0; /* a normalizer may shorten */
  for (uint32_t i = 0; i < t->n_added; i++) {
    int r = read_added(t, json_array_get(added, i), &t->added[i], err);
    if (r < 0) return r;
    if (tok_trie_add(t->added[i].normalized ? &t->normalized : &t->plain, &t->added[i], i) < 0)
      return out_of_memory(err);
  }
  return TL_OK;
}
