/* SPDX-License-Identifier: MIT */
/* tokenizer.json's added_tokens. */
#include <string.h>

#include "text/tokenizer_private.h"
#include "tokenlane/base/utf8.h"

/* Tokens that are matched after the normalizer are looked for as it leaves them. */
static int normalized_content(struct tl_tokenizer *t, struct tok_added *added, struct tl_error *err) {
  struct tl_buffer out;
  bool lost;
  tl_buffer_init(&out, 0);
  int r = tok_normalize(t, added->content, added->length, true, true, &out, &lost, err);
  if (r == TL_OK) {
    added->content = tl_arena_copy(&t->mem, tl_buffer_bytes(&out), out.length);
    added->length = out.length;
    if (!added->content) r = tok_out_of_memory(err);
    t->tokens[added->id].shown = added->content; /* as the reference does since 0.23 */
    t->tokens[added->id].n_shown = (uint32_t)added->length;
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

int tok_add_added(struct tl_tokenizer *t, struct tok_added *added, int32_t id, struct tl_error *err) {
  struct tok_token *token = &t->tokens[id];
  added->id = id;
  added->content = token->text;
  added->length = token->text_length;
  added->guarded = added->special || spelled_as_control(token->text, token->text_length);
  token->special = added->special;
  /* a character that is special by itself is still a character of texts */
  uint32_t code;
  bool character = token->text_length && tl_utf8_decode(token->text, token->text_length, &code) == token->text_length;
  token->guarded = added->guarded && !character;
  if (added->lstrip || added->rstrip) t->longest = 0;
  int r = added->normalized ? normalized_content(t, added, err) : TL_OK;
  if (r == TL_OK && tok_trie_add(added->normalized ? &t->normalized : &t->plain, added, (uint32_t)(added - t->added)) < 0)
    r = tok_out_of_memory(err);
  return r;
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
    int r = tok_set_token(t, id, text, length, err);
    if (r < 0) return r;
  }
  *added = (struct tok_added){.special = tok_flag(entry, "special", false),
                              .single_word = tok_flag(entry, "single_word", false),
                              .lstrip = tok_flag(entry, "lstrip", false),
                              .rstrip = tok_flag(entry, "rstrip", false),
                              .normalized = tok_flag(entry, "normalized", false)};
  return tok_add_added(t, added, id, err);
}

int tok_parse_added(struct tl_tokenizer *t, json_t *added, struct tl_error *err) {
  t->n_added = (uint32_t)json_array_size(added);
  t->added = tl_arena_array(&t->mem, (size_t)t->n_added + 1, sizeof *t->added);
  if (!t->added) return tok_out_of_memory(err);
  int r = TL_OK;
  for (uint32_t i = 0; r == TL_OK && i < t->n_added; i++) r = read_added(t, json_array_get(added, i), &t->added[i], err);
  return r;
}
