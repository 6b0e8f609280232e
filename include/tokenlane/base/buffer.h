/* SPDX-License-Identifier: MIT */
/* A growable byte buffer. Errors stick: after a failed append `failed` is set
 * and later appends do nothing, so callers check once at the end. */
#ifndef TOKENLANE_BASE_BUFFER_H
#define TOKENLANE_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

struct tl_buffer {
  char *data;         /* owned; not NUL-terminated unless tl_buffer_string was called */
  size_t length;      /* bytes in use */
  size_t capacity;    /* bytes allocated */
  size_t limit_bytes; /* 0: none; an append past it fails */
  bool failed;        /* out of memory or over the limit */
};

void tl_buffer_init(struct tl_buffer *buffer, size_t limit_bytes);
void tl_buffer_done(struct tl_buffer *buffer);
/* Empties it, keeps the memory, clears `failed`. */
void tl_buffer_clear(struct tl_buffer *buffer);
/* 0; TL_ELIMIT when it would pass the limit; else TL_ENOMEM. */
int tl_buffer_append(struct tl_buffer *buffer, const void *bytes, size_t length);
int tl_buffer_puts(struct tl_buffer *buffer, const char *text);
int tl_buffer_putc(struct tl_buffer *buffer, char byte);
int tl_buffer_printf(struct tl_buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Makes room for `length` more bytes and returns where they go, or NULL; the
 * caller adds what it wrote to `length` itself. */
char *tl_buffer_reserve(struct tl_buffer *buffer, size_t length);
/* Removes the first `length` bytes. */
void tl_buffer_consume(struct tl_buffer *buffer, size_t length);
/* What is in it, without a NUL: needs no memory, so beside `length` it is right whatever failed. */
static inline const char *tl_buffer_bytes(const struct tl_buffer *buffer) {
  return buffer->length ? buffer->data : "";
}
/* NUL-terminates (the NUL is not counted) and returns data, "" if failed. */
const char *tl_buffer_string(struct tl_buffer *buffer);

#endif
