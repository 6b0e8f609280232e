/* SPDX-License-Identifier: MIT */
/* tokenizer.json's model of type WordPiece, but for its vocabulary. */
#include "text/tokenizer_private.h"

#define MAX_CHARS 100 /* of a word, where the file does not say */

int tok_wordpiece_finish(struct tl_tokenizer *t, const char *prefix, size_t max_chars, struct tl_error *err) {
  int r = tok_vocab_trie(t, &t->wordpiece.trie, err);
  if (r < 0) return r;
  uint32_t node = BYTE_TRIE_ROOT;
  for (; *prefix && node; prefix++) node = byte_trie_child(&t->wordpiece.trie, node, (uint8_t)*prefix);
  t->wordpiece.inner = node;
  t->wordpiece.max_chars = max_chars;
  return TL_OK;
}

int tok_parse_wordpiece(struct tl_tokenizer *t, json_t *model, struct tl_error *err) {
  json_t *max = json_object_get(model, "max_input_chars_per_word"), *prefix = json_object_get(model, "continuing_subword_prefix");
  bool given = json_is_integer(max) && json_integer_value(max) >= 0;
  t->longest = 0; /* an unknown word is one token, blanks are none */
  int r = tok_parse_unk(t, json_object_get(model, "unk_token"), err);
  if (r < 0) return r;
  return tok_wordpiece_finish(t, json_is_string(prefix) ? json_string_value(prefix) : "##",
                              given ? (size_t)json_integer_value(max) : MAX_CHARS, err);
}
