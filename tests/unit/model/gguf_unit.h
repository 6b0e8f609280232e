/* SPDX-License-Identifier: MIT */
/* Writes GGUF files, right and wrong ones. */
#ifndef GGUF_UNIT_H
#define GGUF_UNIT_H

#include "tokenlane/base/buffer.h"
#include "unit.h"

static inline void put_number(struct tl_buffer *b, uint64_t value, unsigned bytes) {
  for (unsigned i = 0; i < bytes; i++) tl_buffer_putc(b, (char)(value >> 8 * i));
}

static inline void put_text(struct tl_buffer *b, const char *text) {
  put_number(b, strlen(text), 8);
  tl_buffer_puts(b, text);
}

static inline void put_header(struct tl_buffer *b, uint32_t version, uint64_t n_tensors, uint64_t n_keys) {
  tl_buffer_init(b, 0);
  tl_buffer_puts(b, "GGUF");
  put_number(b, version, 4);
  put_number(b, n_tensors, 8);
  put_number(b, n_keys, 8);
}

/* A key with an unsigned number of 32 bits. */
static inline void put_u32(struct tl_buffer *b, const char *key, uint32_t value) {
  put_text(b, key);
  put_number(b, 4, 4);
  put_number(b, value, 4);
}

static inline void put_string(struct tl_buffer *b, const char *key, const char *value) {
  put_text(b, key);
  put_number(b, 8, 4);
  put_text(b, value);
}

/* An entry of the table; slow 0: one dimension. */
static inline void put_tensor(struct tl_buffer *b, const char *name, uint64_t slow, uint64_t fast, uint32_t type,
                              uint64_t offset) {
  put_text(b, name);
  put_number(b, slow ? 2 : 1, 4);
  put_number(b, fast, 8);
  if (slow) put_number(b, slow, 8);
  put_number(b, type, 4);
  put_number(b, offset, 8);
}

/* Zeros up to the next multiple of 32, then n more. */
static inline void put_data(struct tl_buffer *b, size_t n) {
  while (b->length % 32) tl_buffer_putc(b, 0);
  for (size_t i = 0; i < n; i++) tl_buffer_putc(b, 0);
}

#endif
