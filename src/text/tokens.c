/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "text/tokenizer_private.h"

void tl_tokens_done(struct tl_tokens *tokens) {
  free(tokens->ids);
  *tokens = (struct tl_tokens){0};
}

int tok_out_of_memory(struct tl_error *err) {
  return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}

int tok_reserve(struct tl_tokens *tokens, size_t n, struct tl_error *err) {
  if (tokens->limit && n > tokens->limit - tokens->n)
    return tl_error_set(err, TL_ELIMIT, NULL, "the text has more than %zu tokens", tokens->limit);
  if (n <= tokens->capacity - tokens->n) return TL_OK;
  size_t capacity = tokens->capacity ? tokens->capacity * 2 : 256;
  if (capacity < tokens->n + n) capacity = tokens->n + n;
  int32_t *ids = realloc(tokens->ids, capacity * sizeof *ids);
  if (!ids) return tok_out_of_memory(err);
  tokens->ids = ids;
  tokens->capacity = capacity;
  return TL_OK;
}

int tok_push(struct tl_tokens *tokens, int32_t id, struct tl_error *err) {
  int r = tok_reserve(tokens, 1, err);
  if (r == TL_OK) tokens->ids[tokens->n++] = id;
  return r;
}
