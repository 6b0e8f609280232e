/* SPDX-License-Identifier: MIT */
/* Ids back to text: whole, or token by token for streams. */
#include <string.h>

#include "text/text_utf8.h"
#include "text/tokenizer_private.h"
#include "tokenlane/base/utf8.h"

int tl_tokenizer_decode(const struct tl_tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special,
                        struct tl_buffer *out) {
  struct tl_buffer bytes;
  tl_buffer_init(&bytes, out->limit_bytes);
  for (size_t i = 0; i < n; i++) {
    size_t length;
    const char *piece = tl_tokenizer_bytes(tokenizer, ids[i], &length);
    if (piece && !(skip_special && tl_tokenizer_is_special(tokenizer, ids[i]))) tl_buffer_append(&bytes, piece, length);
  }
  if (bytes.failed) out->failed = true;
  else text_append_lossy(bytes.data ? bytes.data : "", bytes.length, out);
  tl_buffer_done(&bytes);
  return out->failed ? TL_ENOMEM : TL_OK;
}

void tl_detok_init(struct tl_detok *detok, const struct tl_tokenizer *tokenizer, bool skip_special) {
  *detok = (struct tl_detok){.tokenizer = tokenizer, .skip_special = skip_special};
}

int tl_detok_push(struct tl_detok *detok, int32_t id, struct tl_buffer *out) {
  size_t length;
  const char *piece = tl_tokenizer_bytes(detok->tokenizer, id, &length);
  if (!piece || (detok->skip_special && tl_tokenizer_is_special(detok->tokenizer, id))) return TL_OK;
  if (detok->n_held) {
    /* At most 3 bytes are held, so what they need stands in the first 3 new ones. */
    char joined[8];
    size_t n = detok->n_held, taken = 0;
    memcpy(joined, detok->held, n);
    while (taken < length && n < 7 && tl_utf8_incomplete_tail(joined, n) == n) joined[n++] = piece[taken++];
    if (tl_utf8_incomplete_tail(joined, n) == n) { /* still not enough */
      memcpy(detok->held, joined, n);
      detok->n_held = (uint8_t)n;
      return TL_OK;
    }
    /* The last byte either completed the character or began something else. */
    uint32_t code;
    if (tl_utf8_decode(joined, n, &code) == n) {
      tl_buffer_append(out, joined, n);
    } else {
      tl_buffer_puts(out, "\xef\xbf\xbd");
      taken--;
    }
    detok->n_held = 0;
    piece += taken;
    length -= taken;
  }
  size_t tail = text_append_whole(piece, length, out);
  memcpy(detok->held, piece + length - tail, tail);
  detok->n_held = (uint8_t)tail;
  return out->failed ? TL_ENOMEM : TL_OK;
}

int tl_detok_finish(struct tl_detok *detok, struct tl_buffer *out) {
  if (detok->n_held) tl_buffer_puts(out, "\xef\xbf\xbd");
  detok->n_held = 0;
  return out->failed ? TL_ENOMEM : TL_OK;
}
