/* SPDX-License-Identifier: MIT */
/* SentencePiece's precompiled map of characters (Kudo, Richardson 2018): a Darts double
 * array (Yata's darts-clone) whose keys are texts of a few bytes and whose values are
 * offsets of their replacements. As the reference does: a grapheme of less than six bytes
 * is looked up whole, then each character; the shortest key that the text begins with counts. */
#include <string.h>
#include <utf8proc.h>

#include "text/tokenizer_private.h"
#include "tokenlane/base/utf8.h"

#define MAX_WHOLE 6

int tok_charsmap_init(struct tok_charsmap *map, const char *bytes, size_t length, struct tl_error *err) {
  uint32_t size;
  if (length < sizeof size || length > UINT32_MAX)
    return tl_error_set(err, TL_ECORRUPT, NULL, "precompiled_charsmap: expected at least 4 bytes");
  memcpy(&size, bytes, sizeof size);
  if (size % sizeof(uint32_t) != 0 || size > length - sizeof size)
    return tl_error_set(err, TL_ECORRUPT, NULL, "precompiled_charsmap: the array is said to be %u bytes long", size);
  map->units = (const uint32_t *)(const void *)(bytes + sizeof size);
  map->n_units = size / (uint32_t)sizeof(uint32_t);
  map->texts = bytes + sizeof size + size;
  map->n_texts = (uint32_t)(length - sizeof size - size);
  if (map->n_texts && (map->texts[map->n_texts - 1] != 0 || !tl_utf8_valid(map->texts, map->n_texts)))
    return tl_error_set(err, TL_ECORRUPT, NULL, "precompiled_charsmap: the replacements are not UTF-8 or do not end");
  return TL_OK;
}

static uint32_t offset_of(uint32_t unit) {
  return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/* The replacement of the shortest key that text begins with; NULL: none. */
static const char *find(const struct tok_charsmap *map, const char *text, size_t length) {
  if (!map->n_units) return NULL;
  uint32_t at = offset_of(map->units[0]);
  for (size_t i = 0; i < length; i++) {
    uint8_t byte = (uint8_t)text[i];
    at ^= byte;
    if (byte == 0 || at >= map->n_units || (map->units[at] & (1u << 31 | 0xff)) != byte) return NULL;
    bool has_leaf = map->units[at] >> 8 & 1;
    at ^= offset_of(map->units[at]);
    if (!has_leaf) continue;
    if (at >= map->n_units) return NULL;
    uint32_t value = map->units[at] & ~(1u << 31);
    bool inside = value < map->n_texts && ((unsigned char)map->texts[value] & 0xc0) != 0x80;
    return inside ? map->texts + value : NULL;
  }
  return NULL;
}

static void replace_each(const struct tok_charsmap *map, const char *text, size_t length, struct tl_buffer *out) {
  for (size_t i = 0; i < length;) {
    uint32_t code;
    size_t n = tl_utf8_decode(text + i, length - i, &code);
    const char *other = find(map, text + i, n);
    if (other)
      tl_buffer_puts(out, other);
    else
      tl_buffer_append(out, text + i, n);
    i += n;
  }
}

/* Bytes of the extended grapheme cluster at text. */
static size_t grapheme(const char *text, size_t length) {
  uint32_t code, next;
  size_t end = tl_utf8_decode(text, length, &code);
  utf8proc_int32_t state = 0;
  while (end < length) {
    size_t n = tl_utf8_decode(text + end, length - end, &next);
    if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)code, (utf8proc_int32_t)next, &state)) break;
    code = next;
    end += n;
  }
  return end;
}

int tok_norm_charsmap(const struct tok_norm *norm, struct tok_norm_call *call) {
  const char *text = call->text;
  for (size_t i = 0; i < call->length;) {
    /* two ASCII characters are two clusters, but for CR LF */
    bool plain = (unsigned char)text[i] < 0x80 && text[i] != '\r' && (i + 1 == call->length || (unsigned char)text[i + 1] < 0x80);
    size_t n = plain ? 1 : grapheme(text + i, call->length - i);
    const char *other = n < MAX_WHOLE ? find(&norm->map, text + i, n) : NULL;
    if (other)
      tl_buffer_puts(call->out, other);
    else
      replace_each(&norm->map, text + i, n, call->out);
    i += n;
  }
  return call->out->failed ? tok_out_of_memory(call->err) : TL_OK;
}
