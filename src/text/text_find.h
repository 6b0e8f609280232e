/* SPDX-License-Identifier: MIT */
/* A text within another, where the caller goes on behind what it found. */
#ifndef TEXT_FIND_H
#define TEXT_FIND_H

#include <string.h>

/* The first `what` (length bytes, at least 1) in n bytes of text, or NULL. Pure; any thread. Short ones, as most are, by their first
 * byte: TSan's memmem looks at all of the text in every call, which makes a walk from one to the next quadratic there. */
static inline const char *text_find(const char *text, size_t n, const char *what, size_t length) {
  if (length > 8) return memmem(text, n, what, length);
  const char *end = text + n;
  while ((size_t)(end - text) >= length && (text = memchr(text, what[0], (size_t)(end - text) - length + 1))) {
    if (memcmp(text, what, length) == 0) return text;
    text++;
  }
  return NULL;
}

#endif
