/* SPDX-License-Identifier: MIT */
/* Text to numbers as Python's int() and float() read it. */
#include <stdlib.h>
#include <string.h>

#include "tmpl_private.h"

/* Without the white space around it. */
static struct tmpl_str strip(const struct tmpl_str *s) {
  struct tmpl_str cut = *s;
  size_t n;
  while (cut.length && tmpl_is_space(tmpl_char(cut.bytes, cut.length, &n))) {
    cut.bytes += n;
    cut.length -= n;
  }
  while (cut.length && cut.bytes[cut.length - 1] > 0 && tmpl_is_space((uint32_t)cut.bytes[cut.length - 1]))
    cut.length--;
  return cut;
}

static int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
}

/* "0x" and the like: the base that it names. */
static int prefix_base(const char *p, const char *end) {
  if (end - p < 3 || p[0] != '0') return 0;
  char c = (char)(p[1] | 0x20);
  return c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
}

bool tmpl_parse_int(const struct tmpl_str *s, int base, int64_t *ret) {
  struct tmpl_str cut = strip(s);
  const char *p = cut.bytes, *end = p + cut.length;
  bool minus = p < end && *p == '-', last_digit = false;
  if (p < end && (*p == '-' || *p == '+')) p++;
  int prefix = prefix_base(p, end);
  if (prefix && (base == 0 || base == prefix)) {
    p += 2;
    base = prefix;
    last_digit = true; /* an underscore may follow the prefix */
  }
  if (base == 0) base = 10;
  if (p == end || base < 2 || base > 36) return false;
  int64_t value = 0;
  for (; p < end; p++) {
    if (*p == '_' && last_digit) {
      last_digit = false;
      continue;
    }
    int digit = digit_value(*p);
    if (digit >= base || __builtin_mul_overflow(value, base, &value) ||
        __builtin_sub_overflow(value, digit, &value)) /* downwards: INT64_MIN has no positive twin */
      return false;
    last_digit = true;
  }
  if (!last_digit || (!minus && value == INT64_MIN)) return false;
  *ret = minus ? value : -value;
  return true;
}

static bool is_word(const char *text, const char *word) {
  for (; *word; text++, word++)
    if ((*text | 0x20) != *word) return false;
  return *text == 0;
}

bool tmpl_parse_float(const struct tmpl_str *s, double *ret) {
  struct tmpl_str cut = strip(s);
  char text[512];
  size_t n = 0;
  if (cut.length == 0 || cut.length >= sizeof text) return false;
  for (size_t i = 0; i < cut.length; i++) {
    char c = cut.bytes[i];
    bool between = i > 0 && i + 1 < cut.length && digit_value(cut.bytes[i - 1]) < 10 &&
                   digit_value(cut.bytes[i + 1]) < 10;
    if (c == '_' && between) continue;
    text[n++] = c;
  }
  text[n] = 0;
  const char *unsigned_text = text + (text[0] == '-' || text[0] == '+');
  bool is_name =
      is_word(unsigned_text, "inf") || is_word(unsigned_text, "infinity") || is_word(unsigned_text, "nan");
  if (!is_name && (strlen(text) != n || strspn(unsigned_text, "0123456789.eE+-") != strlen(unsigned_text)))
    return false;
  char *end;
  *ret = strtod(text, &end);
  return *end == 0 && end != text;
}
