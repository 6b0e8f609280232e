/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenlane/base/error.h"

void tl_buffer_init(struct tl_buffer *buffer, size_t limit_bytes) {
  *buffer = (struct tl_buffer){.limit_bytes = limit_bytes};
}

void tl_buffer_done(struct tl_buffer *buffer) {
  free(buffer->data);
  tl_buffer_init(buffer, buffer->limit_bytes);
}

void tl_buffer_clear(struct tl_buffer *buffer) {
  buffer->length = 0;
  buffer->failed = false;
}

/* `spare` bytes behind the `length` do not count against the limit: a NUL. */
static char *make_room(struct tl_buffer *buffer, size_t length, size_t spare) {
  size_t wanted, total;
  if (buffer->failed) return NULL;
  if (__builtin_add_overflow(buffer->length, length, &wanted) || __builtin_add_overflow(wanted, spare, &total) ||
      (buffer->limit_bytes && wanted > buffer->limit_bytes)) {
    buffer->failed = true;
    return NULL;
  }
  if (total > buffer->capacity || !buffer->data) {
    size_t capacity = buffer->capacity ? buffer->capacity : 128;
    while (capacity < total)
      if (__builtin_mul_overflow(capacity, 2, &capacity)) capacity = total;
    char *data = realloc(buffer->data, capacity);
    if (!data) {
      buffer->failed = true;
      return NULL;
    }
    buffer->data = data;
    buffer->capacity = capacity;
  }
  return buffer->data + buffer->length;
}

char *tl_buffer_reserve(struct tl_buffer *buffer, size_t length) {
  return make_room(buffer, length, 0);
}

/* Why there is no room for `length` more. */
static int refusal(const struct tl_buffer *buffer, size_t length) {
  return buffer->limit_bytes && length > buffer->limit_bytes - buffer->length ? TL_ELIMIT : TL_ENOMEM;
}

int tl_buffer_append(struct tl_buffer *buffer, const void *bytes, size_t length) {
  if (length == 0) return buffer->failed ? TL_ENOMEM : TL_OK;
  char *at = make_room(buffer, length, 0);
  if (!at) return refusal(buffer, length);
  memcpy(at, bytes, length);
  buffer->length += length;
  return TL_OK;
}

int tl_buffer_puts(struct tl_buffer *buffer, const char *text) {
  return tl_buffer_append(buffer, text, strlen(text));
}

int tl_buffer_putc(struct tl_buffer *buffer, char byte) {
  return tl_buffer_append(buffer, &byte, 1);
}

int tl_buffer_printf(struct tl_buffer *buffer, const char *format, ...) {
  char stack[256];
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  int n = vsnprintf(stack, sizeof stack, format, args);
  va_end(args);
  int r = TL_ENOMEM;
  if (n >= 0 && (size_t)n < sizeof stack) {
    r = tl_buffer_append(buffer, stack, (size_t)n);
  } else if (n >= 0) {
    char *at = make_room(buffer, (size_t)n, 1);
    r = refusal(buffer, (size_t)n);
    if (at) {
      vsnprintf(at, (size_t)n + 1, format, again);
      buffer->length += (size_t)n;
      r = TL_OK;
    }
  }
  va_end(again);
  return r;
}

void tl_buffer_consume(struct tl_buffer *buffer, size_t length) {
  if (length >= buffer->length) {
    buffer->length = 0;
    return;
  }
  memmove(buffer->data, buffer->data + length, buffer->length - length);
  buffer->length -= length;
}

const char *tl_buffer_string(struct tl_buffer *buffer) {
  char *at = make_room(buffer, 0, 1);
  if (!at) return "";
  *at = 0;
  return buffer->data;
}
