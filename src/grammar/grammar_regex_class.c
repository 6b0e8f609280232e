/* SPDX-License-Identifier: MIT */
/* Characters of a regular expression: escapes and [classes]. */
#include <string.h>

#include "grammar/grammar_regex.h"
#include "tokenlane/base/utf8.h"

size_t rx_next(struct rx *rx, uint32_t *ret) {
  *ret = 0;
  if (rx->code || rx->at >= rx->length) return 0;
  size_t n = tl_utf8_decode(rx->text + rx->at, rx->length - rx->at, ret);
  if (!n) rx_fail(rx, TL_EINVAL, rx->at, "the pattern is not UTF-8");
  rx->at += n;
  return n;
}

static int hex_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Exactly n hexadecimal digits; false and nothing read if they are not there. */
static bool read_hex(struct rx *rx, size_t n, uint32_t *ret) {
  if (rx->length - rx->at < n) return false;
  uint32_t value = 0;
  for (size_t i = 0; i < n; i++) {
    int digit = hex_of(rx->text[rx->at + i]);
    if (digit < 0) return false;
    value = value << 4 | (uint32_t)digit;
  }
  rx->at += n;
  *ret = value;
  return true;
}

/* \u{1F600}, \u00e9, or the two halves of a surrogate pair. */
static bool read_unicode(struct rx *rx, size_t start, uint32_t *ret) {
  uint32_t low;
  if (rx->at < rx->length && rx->text[rx->at] == '{') {
    const char *close = memchr(rx->text + rx->at, '}', rx->length - rx->at);
    size_t n = close ? (size_t)(close - rx->text) - rx->at - 1 : 0;
    rx->at++;
    if (n < 1 || n > 6 || !read_hex(rx, n, ret)) return false;
    rx->at++;
  } else if (!read_hex(rx, 4, ret)) {
    return false;
  } else if (*ret >> 10 == 0xd800 >> 10 && rx->length - rx->at >= 6 && memcmp(rx->text + rx->at, "\\u", 2) == 0) {
    rx->at += 2;
    if (!read_hex(rx, 4, &low) || low >> 10 != 0xdc00 >> 10) return false;
    *ret = 0x10000 + ((*ret & 0x3ff) << 10) + (low & 0x3ff);
  }
  if (*ret > RX_LAST || (*ret >= 0xd800 && *ret <= 0xdfff))
    return rx_fail(rx, TL_EINVAL, start, "no such character") == TL_OK;
  return true;
}

static bool unsupported_letter(struct rx *rx, uint32_t c, size_t start) {
  const char *what = "this escape is not supported";
  if (c >= '1' && c <= '9') what = "back references are not supported";
  else if (c == 'k') what = "named back references are not supported";
  else if (c == 'b' || c == 'B') what = "word boundaries are not supported";
  else if (c == 'p' || c == 'P') what = "Unicode properties (\\p) are not supported";
  else if (c == 'A' || c == 'Z' || c == 'z' || c == 'G') what = "anchors are not supported but for ^ and $";
  return rx_fail(rx, TL_EUNSUPPORTED, start, what) == TL_OK;
}

bool rx_read_escape(struct rx *rx, bool within, struct rx_set *set) {
  static const char letters[] = "ntrfv0", codes[] = "\n\t\r\f\v";
  size_t start = rx->at - 1;
  uint32_t c, code = 0;
  if (!rx_next(rx, &c)) return rx_fail(rx, TL_EINVAL, start, "a backslash ends the pattern") == TL_OK;
  if (c < 0x80 && c && strchr("dwsDWS", (int)c)) return rx_set_add_class(rx, set, (char)c);
  const char *letter = c < 0x80 && c ? strchr(letters, (int)c) : NULL;
  if (letter) {
    code = (unsigned char)codes[letter - letters];
    if (c == '0' && rx->at < rx->length && rx->text[rx->at] >= '0' && rx->text[rx->at] <= '9')
      return rx_fail(rx, TL_EUNSUPPORTED, start, "octal escapes are not supported") == TL_OK;
  } else if (c == 'b' && within) {
    code = '\b';
  } else if (c == 'x') {
    if (!read_hex(rx, 2, &code)) return rx_fail(rx, TL_EINVAL, start, "\\x needs two hexadecimal digits") == TL_OK;
  } else if (c == 'u') {
    if (!read_unicode(rx, start, &code)) return rx_fail(rx, TL_EINVAL, start, "\\u needs four hexadecimal digits, or some in braces") == TL_OK;
  } else if ((c >= '1' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z' && c < 0x80)) {
    return unsupported_letter(rx, c, start);
  } else {
    code = c;
  }
  return rx_set_add(rx, set, code, code);
}

/* One character or class within brackets. */
static bool read_member(struct rx *rx, struct rx_set *set) {
  uint32_t c;
  *set = (struct rx_set){0};
  if (!rx_next(rx, &c)) return rx_fail(rx, TL_EINVAL, rx->at, "a class has no ]") == TL_OK;
  if (c == '\\') return rx_read_escape(rx, true, set);
  if (c == '[' && rx->at < rx->length && rx->text[rx->at] == ':')
    return rx_fail(rx, TL_EUNSUPPORTED, rx->at - 1, "[:classes:] are not supported") == TL_OK;
  return rx_set_add(rx, set, c, c);
}

static bool is_one(const struct rx_set *set) {
  return set->n == 1 && set->ranges[0].first == set->ranges[0].last;
}

static bool at_range(const struct rx *rx) {
  return rx->length - rx->at >= 2 && rx->text[rx->at] == '-' && rx->text[rx->at + 1] != ']';
}

bool rx_read_class(struct rx *rx, struct rx_set *ret) {
  struct rx_set set = {0}, one, last;
  size_t start = rx->at - 1;
  bool negated = rx->at < rx->length && rx->text[rx->at] == '^';
  if (negated) rx->at++;
  if (rx->at < rx->length && rx->text[rx->at] == ']') /* nothing in ECMA's expressions, a bracket in Python's */
    return rx_fail(rx, TL_EINVAL, start, "a class is empty, or its first ] needs a backslash") == TL_OK;
  while (rx->at < rx->length && rx->text[rx->at] != ']') {
    size_t from = rx->at;
    if (!read_member(rx, &one)) return false;
    if (!at_range(rx)) {
      if (!rx_set_add_all(rx, &set, &one)) return false;
      continue;
    }
    rx->at++;
    if (!read_member(rx, &last)) return false;
    if (!is_one(&one) || !is_one(&last) || last.ranges[0].first < one.ranges[0].first)
      return rx_fail(rx, TL_EINVAL, from, "a range in a class goes backwards or is none") == TL_OK;
    if (!rx_set_add(rx, &set, one.ranges[0].first, last.ranges[0].first)) return false;
  }
  if (rx->at++ >= rx->length) return rx_fail(rx, TL_EINVAL, start, "a class has no ]") == TL_OK;
  rx_set_order(&set);
  if (!negated) {
    *ret = set;
    return true;
  }
  return rx_set_negate(rx, &set, ret);
}
