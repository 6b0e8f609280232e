/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "text/tokenizer_private.h"
#include "tokenlane/base/hash.h"
#include "tokenlane/base/utf8.h"

int tok_map_init(struct tok_map *map, struct tl_arena *mem, size_t n, bool by_raw) {
  uint32_t size = 16;
  while (size < n * 2) size *= 2;
  *map = (struct tok_map){.mask = size - 1, .by_raw = by_raw, .key = tl_random_seed()};
  map->slots = tl_arena_array(mem, size, sizeof *map->slots);
  return map->slots ? TL_OK : TL_ENOMEM;
}

static uint32_t first_slot(const struct tok_map *map, const char *key, size_t length) {
  return (uint32_t)tl_hash_bytes(key, length, map->key, 0) & map->mask;
}

static bool same(const struct tok_map *map, const struct tok_token *token, const char *key, size_t length) {
  const char *text = map->by_raw ? token->raw : token->text;
  size_t text_length = map->by_raw ? token->n_raw : token->text_length;
  return text_length == length && memcmp(text, key, length) == 0;
}

void tok_map_put(struct tok_map *map, const struct tok_token *tokens, int32_t id) {
  const struct tok_token *token = &tokens[id];
  const char *key = map->by_raw ? token->raw : token->text;
  size_t length = map->by_raw ? token->n_raw : token->text_length;
  uint32_t slot = first_slot(map, key, length);
  /* the last of equal ones counts */
  while (map->slots[slot] && !same(map, &tokens[map->slots[slot] - 1], key, length)) slot = (slot + 1) & map->mask;
  map->slots[slot] = (uint32_t)id + 1;
}

int32_t tok_map_find(const struct tok_map *map, const struct tok_token *tokens, const char *key, size_t length) {
  for (uint32_t slot = first_slot(map, key, length); map->slots[slot]; slot = (slot + 1) & map->mask) {
    if (same(map, &tokens[map->slots[slot] - 1], key, length)) return (int32_t)map->slots[slot] - 1;
  }
  return -1;
}

/* GPT-2 (Radford et al. 2019, encoder.py's idea): bytes that print are spelled
 * by the character of the same number, the other 68 by U+0100 and on, in order. */
static bool spelled_by_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

static uint32_t spelling_of(uint32_t byte) {
  if (spelled_by_itself(byte)) return byte;
  if (byte <= 0x20) return 0x100 + byte;
  if (byte <= 0xa0) return 0x100 + 0x21 + (byte - 0x7f);
  return 0x100 + 0x21 + 0x22; /* 0xad */
}

static int byte_of(uint32_t code) {
  if (code < 0x100) return spelled_by_itself(code) ? (int)code : -1;
  uint32_t rank = code - 0x100;
  if (rank <= 0x20) return (int)rank;
  if (rank <= 0x20 + 0x22) return (int)(rank - 0x21 + 0x7f);
  return rank == 0x21 + 0x22 ? 0xad : -1;
}

size_t tok_byte_spelling(uint8_t byte, char ret[4]) {
  return tl_utf8_encode(spelling_of(byte), ret);
}

bool tok_byte_level(const char *text, size_t length, char *ret, size_t *ret_length) {
  size_t n = 0;
  for (size_t i = 0; i < length;) {
    uint32_t code;
    size_t step = tl_utf8_decode(text + i, length - i, &code);
    int byte = step ? byte_of(code) : -1;
    if (byte < 0) {
      memcpy(ret, text, length);
      *ret_length = length;
      return false;
    }
    ret[n++] = (char)byte;
    i += step;
  }
  *ret_length = n;
  return true;
}

static int hex_digit(char c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int tok_byte_token(const char *text, size_t length) {
  if (length != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
  int high = hex_digit(text[3]), low = hex_digit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}
