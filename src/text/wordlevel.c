/* SPDX-License-Identifier: MIT */
/* WordLevel: a table of words. */
#include "text/tokenizer_private.h"

int tok_wordlevel_piece(struct tok_encode *e, const char *piece, size_t length) {
  const struct tl_tokenizer *t = e->t;
  int32_t id = tok_map_find(&t->by_text, t->tokens, piece, length);
  if (id >= 0 && t->tokens[id].guarded) id = -1;
  if (id < 0) id = t->unk;
  if (id < 0) return tl_error_set(e->err, TL_EINVAL, NULL, "the tokenizer has no token for a word and none for the unknown");
  return tok_push(e->out, id, e->err);
}

/* Files name an unknown token even where the vocabulary has none: that only matters to unknown words. */
int tok_parse_wordlevel(struct tl_tokenizer *t, json_t *model, struct tl_error *err) {
  (void)err;
  json_t *unk = json_object_get(model, "unk_token");
  if (json_is_string(unk)) t->unk = tok_map_find(&t->by_text, t->tokens, json_string_value(unk), json_string_length(unk));
  t->longest = 0; /* a word of any length is one token */
  return TL_OK;
}
