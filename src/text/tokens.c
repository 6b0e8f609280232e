/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "text/tokenizer_private.h"

void tl_tokens_done(struct tl_tokens *tokens) {
  free(tokens->ids);
  *tokens = (struct tl_tokens){0};
}

int tok_push(struct tl_tokens *tokens, int32_t id, struct tl_error *err) {
  if (tokens->limit && tokens->n >= tokens->limit)
    return tl_error_set(err, TL_ELIMIT, NULL, "the text has more than %zu tokens", tokens->limit);
  if (tokens->n == tokens->capacity) {
    size_t capacity = tokens->capacity ? tokens->capacity * 2 : 256;
    int32_t *ids = realloc(tokens->ids, capacity * sizeof *ids);
    if (!ids) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
    tokens->ids = ids;
    tokens->capacity = capacity;
  }
  tokens->ids[tokens->n++] = id;
  return TL_OK;
}
