/* SPDX-License-Identifier: MIT */
#ifndef TEXT_TEXT_UTF8_H
#define TEXT_TEXT_UTF8_H

#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/base/buffer.h"

/* Unicode's White_Space. */
bool text_is_white(uint32_t code);

/* Appends bytes; each maximal subpart of an ill-formed character (Unicode 15,
 * section 3.9) becomes one U+FFFD. */
void text_append_lossy(const char *bytes, size_t length, struct tl_buffer *out);
/* As above, but bytes at the end that may still become a character are left:
 * returns how many (0 .. 3). */
size_t text_append_whole(const char *bytes, size_t length, struct tl_buffer *out);

#endif
