/* SPDX-License-Identifier: MIT */
/* tokenizer.json's model.vocab: an object token to id, or (Unigram) a list of [token, score]. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_private.h"

/* A table for all ids is made: a small file must not ask for a large one. */
#define GAPS 8
#define MIN_GAPS 4096

static int bad_id(struct tl_error *err, const char *where) {
  return tl_error_set(err, TL_ECORRUPT, NULL, "%s: expected an id from 0 to %d", where, TOK_MAX_ID - 1);
}

int tok_vocab_init(struct tl_tokenizer *t, int32_t size, size_t n_tokens, struct tl_error *err) {
  if (size <= 0) return tl_error_set(err, TL_ECORRUPT, NULL, "model.vocab: expected at least one token");
  t->size = size;
  t->unk = -1;
  t->tokens = tl_arena_array(&t->mem, (size_t)size, sizeof *t->tokens);
  if (!t->tokens || tok_map_init(&t->by_text, &t->mem, n_tokens, false) < 0 ||
      (t->byte_level && tok_map_init(&t->by_raw, &t->mem, n_tokens, true) < 0))
    return tok_out_of_memory(err);
  return TL_OK;
}

int tok_set_token(struct tl_tokenizer *t, int32_t id, const char *text, size_t length, struct tl_error *err) {
  char *copy = tl_arena_copy(&t->mem, text, length);
  if (!copy) return tok_out_of_memory(err);
  struct tok_token *token = &t->tokens[id];
  uint32_t n_text = (uint32_t)length;
  *token = (struct tok_token){.text = copy, .raw = copy, .shown = copy, .text_length = n_text, .n_raw = n_text, .n_shown = n_text,
                              .known = true, .spelled = true};
  if (t->byte_level) {
    char *raw = tl_arena_alloc(&t->mem, length + 1);
    size_t n;
    if (!raw) return tok_out_of_memory(err);
    token->spelled = tok_byte_level(text, length, raw, &n);
    token->raw = raw;
    token->n_raw = (uint32_t)n;
    if (token->spelled) tok_map_put(&t->by_raw, t->tokens, id);
  }
  tok_map_put(&t->by_text, t->tokens, id);
  if (token->n_raw > t->longest) t->longest = token->n_raw;
  return TL_OK;
}

void tok_find_bytes(struct tl_tokenizer *t) {
  static const char digits[] = "0123456789ABCDEF";
  t->all_bytes = true;
  for (unsigned byte = 0; byte < 256; byte++) {
    char spelling[6] = {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
    size_t n = t->byte_level ? tok_byte_spelling((uint8_t)byte, spelling) : sizeof spelling;
    t->byte_id[byte] = tok_map_find(&t->by_text, t->tokens, spelling, n);
    if (t->byte_id[byte] < 0) t->all_bytes = false;
  }
}

/* Largest id of vocabulary and added tokens, + 1. */
static int find_size(json_t *vocab, json_t *added, int32_t *ret, struct tl_error *err) {
  const char *key;
  json_t *value;
  size_t i, n = json_array_size(vocab);
  if (n > (size_t)TOK_MAX_ID) return bad_id(err, "model.vocab");
  *ret = (int32_t)n;
  json_object_foreach(vocab, key, value) {
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id >= TOK_MAX_ID) return bad_id(err, "model.vocab");
    if (id >= *ret) *ret = (int32_t)id + 1;
  }
  json_array_foreach(added, i, value) {
    json_t *number = json_object_get(value, "id");
    json_int_t id = json_integer_value(number);
    if (!json_is_integer(number) || id < 0 || id >= TOK_MAX_ID) return bad_id(err, "added_tokens[].id");
    if (id >= *ret) *ret = (int32_t)id + 1;
  }
  return TL_OK;
}

static int read_object(struct tl_tokenizer *t, json_t *vocab, struct tl_error *err) {
  const char *key;
  json_t *value;
  json_object_foreach(vocab, key, value) {
    int32_t id = (int32_t)json_integer_value(value);
    if (t->tokens[id].known)
      return tl_error_set(err, TL_ECORRUPT, NULL, "model.vocab: two tokens have the id %d", id);
    int r = tok_set_token(t, id, key, strlen(key), err);
    if (r < 0) return r;
  }
  return TL_OK;
}

static int read_list(struct tl_tokenizer *t, json_t *vocab, struct tl_error *err) {
  json_t *entry;
  size_t i;
  json_array_foreach(vocab, i, entry) {
    json_t *text = json_array_get(entry, 0);
    if (!json_is_string(text) || !json_is_number(json_array_get(entry, 1)))
      return tl_error_set(err, TL_ECORRUPT, NULL, "model.vocab[%zu]: expected [token, score]", i);
    int r = tok_set_token(t, (int32_t)i, json_string_value(text), json_string_length(text), err);
    if (r < 0) return r;
  }
  return TL_OK;
}

int tok_parse_vocab(struct tl_tokenizer *t, json_t *vocab, json_t *added, struct tl_error *err) {
  int32_t size = 0;
  if (!json_is_object(vocab) && !json_is_array(vocab))
    return tl_error_set(err, TL_ECORRUPT, NULL, "model.vocab: expected an object or a list");
  int r = find_size(vocab, added, &size, err);
  size_t n = json_object_size(vocab) + json_array_size(vocab) + json_array_size(added);
  if (r == TL_OK && (size_t)size > GAPS * n + MIN_GAPS)
    return tl_error_set(err, TL_ECORRUPT, NULL, "model.vocab: %zu tokens have ids up to %d", n, size - 1);
  if (r == TL_OK) r = tok_vocab_init(t, size, n, err);
  if (r == TL_OK) r = json_is_array(vocab) ? read_list(t, vocab, err) : read_object(t, vocab, err);
  if (r == TL_OK) tok_find_bytes(t);
  return r;
}

int tok_parse_unk(struct tl_tokenizer *t, json_t *unk, struct tl_error *err) {
  if (!json_is_string(unk)) return TL_OK;
  t->unk = tok_map_find(&t->by_text, t->tokens, json_string_value(unk), json_string_length(unk));
  return t->unk >= 0 ? TL_OK : tl_error_set(err, TL_ECORRUPT, NULL, "model.unk_token: it is not in model.vocab");
}

/* Control tokens are not in it: what a text spells never becomes one. */
int tok_vocab_trie(struct tl_tokenizer *t, struct byte_trie *ret, struct tl_error *err) {
  struct byte_trie_key *keys = malloc((size_t)t->size * sizeof *keys);
  size_t n = 0;
  if (!keys) return tok_out_of_memory(err);
  for (int32_t id = 0; id < t->size; id++) {
    const struct tok_token *token = &t->tokens[id];
    if (token->known && !token->guarded && token->text_length)
      keys[n++] = (struct byte_trie_key){token->text, token->text_length, id};
  }
  int r = byte_trie_build(ret, keys, n);
  free(keys);
  return r < 0 ? tok_out_of_memory(err) : TL_OK;
}
