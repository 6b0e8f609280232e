/* SPDX-License-Identifier: MIT */
#ifndef TOKENLANE_BASE_UTF8_H
#define TOKENLANE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes the character at text[0..length). Returns its length 1..4 and sets
 * *ret; returns 0 when the bytes are not a well-formed character (overlong,
 * surrogate, past U+10FFFF, stray or missing continuation; Unicode 15 table
 * 3-7). length must be at least 1. */
size_t tl_utf8_decode(const char *text, size_t length, uint32_t *ret);
/* Writes the character (at most 4 bytes); returns its length, 0 if `code` is
 * no Unicode scalar value. */
size_t tl_utf8_encode(uint32_t code, char *ret);
bool tl_utf8_valid(const char *text, size_t length);
/* How many trailing bytes are the beginning of a character that is not yet
 * complete but could become one: 0 to 3. */
size_t tl_utf8_incomplete_tail(const char *text, size_t length);

#endif
