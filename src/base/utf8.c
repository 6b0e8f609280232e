/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/utf8.h"

/* Length and allowed range of the second byte by first byte (Unicode 15, table 3-7). */
static size_t shape(unsigned char first, unsigned char *low, unsigned char *high) {
  *low = 0x80;
  *high = 0xbf;
  if (first < 0x80) return 1;
  if (first < 0xc2) return 0;
  if (first < 0xe0) return 2;
  if (first < 0xf0) {
    if (first == 0xe0) *low = 0xa0;
    if (first == 0xed) *high = 0x9f;
    return 3;
  }
  if (first > 0xf4) return 0;
  if (first == 0xf0) *low = 0x90;
  if (first == 0xf4) *high = 0x8f;
  return 4;
}

size_t tl_utf8_decode(const char *text, size_t length, uint32_t *ret) {
  const unsigned char *s = (const unsigned char *)text;
  unsigned char low, high;
  size_t n = shape(s[0], &low, &high);
  if (n == 1) {
    *ret = s[0];
    return 1;
  }
  if (n == 0 || n > length || s[1] < low || s[1] > high) return 0;
  uint32_t code = s[0] & (0x7fu >> n);
  for (size_t i = 1; i < n; i++) {
    if ((s[i] & 0xc0) != 0x80) return 0;
    code = code << 6 | (s[i] & 0x3f);
  }
  *ret = code;
  return n;
}

size_t tl_utf8_encode(uint32_t code, char *ret) {
  unsigned char *s = (unsigned char *)ret;
  if (code < 0x80) {
    s[0] = (unsigned char)code;
    return 1;
  }
  if (code < 0x800) {
    s[0] = (unsigned char)(0xc0 | code >> 6);
    s[1] = (unsigned char)(0x80 | (code & 0x3f));
    return 2;
  }
  if (code < 0x10000) {
    if (code >= 0xd800 && code < 0xe000) return 0;
    s[0] = (unsigned char)(0xe0 | code >> 12);
    s[1] = (unsigned char)(0x80 | (code >> 6 & 0x3f));
    s[2] = (unsigned char)(0x80 | (code & 0x3f));
    return 3;
  }
  if (code > 0x10ffff) return 0;
  s[0] = (unsigned char)(0xf0 | code >> 18);
  s[1] = (unsigned char)(0x80 | (code >> 12 & 0x3f));
  s[2] = (unsigned char)(0x80 | (code >> 6 & 0x3f));
  s[3] = (unsigned char)(0x80 | (code & 0x3f));
  return 4;
}

bool tl_utf8_valid(const char *text, size_t length) {
  for (size_t i = 0; i < length;) {
    uint32_t code;
    size_t n = tl_utf8_decode(text + i, length - i, &code);
    if (n == 0) return false;
    i += n;
  }
  return true;
}

size_t tl_utf8_incomplete_tail(const char *text, size_t length) {
  const unsigned char *s = (const unsigned char *)text;
  for (size_t n = 1; n <= 3 && n <= length; n++) {
    unsigned char first = s[length - n], low, high;
    if ((first & 0xc0) == 0x80) continue;
    size_t whole = shape(first, &low, &high);
    if (whole <= n) return 0;
    if (n > 1 && (s[length - n + 1] < low || s[length - n + 1] > high)) return 0;
    return n;
  }
  return 0;
}
