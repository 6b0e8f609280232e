/* SPDX-License-Identifier: MIT */
/* Against Unicode 15, table 3-7 (well-formed UTF-8 byte sequences), which is
 * written here as the standard prints it. */
#include "tokenlane/base/utf8.h"
#include "unit.h"

static const struct row {
  unsigned char low[4], high[4];
  unsigned n;
} table[] = {
    {{0x00}, {0x7f}, 1},
    {{0xc2, 0x80}, {0xdf, 0xbf}, 2},
    {{0xe0, 0xa0, 0x80}, {0xe0, 0xbf, 0xbf}, 3},
    {{0xe1, 0x80, 0x80}, {0xec, 0xbf, 0xbf}, 3},
    {{0xed, 0x80, 0x80}, {0xed, 0x9f, 0xbf}, 3},
    {{0xee, 0x80, 0x80}, {0xef, 0xbf, 0xbf}, 3},
    {{0xf0, 0x90, 0x80, 0x80}, {0xf0, 0xbf, 0xbf, 0xbf}, 4},
    {{0xf1, 0x80, 0x80, 0x80}, {0xf3, 0xbf, 0xbf, 0xbf}, 4},
    {{0xf4, 0x80, 0x80, 0x80}, {0xf4, 0x8f, 0xbf, 0xbf}, 4},
};

/* Length of the well-formed sequence at bytes, 0 if there is none. */
static size_t by_table(const unsigned char *bytes, size_t length) {
  for (size_t r = 0; r < UNIT_COUNT(table); r++) {
    size_t i = 0;
    while (i < table[r].n && i < length && bytes[i] >= table[r].low[i] && bytes[i] <= table[r].high[i]) i++;
    if (i == table[r].n) return i;
  }
  return 0;
}

/* Whether more bytes could make bytes[0..length) one character. */
static bool begins_by_table(const unsigned char *bytes, size_t length) {
  for (size_t r = 0; r < UNIT_COUNT(table); r++) {
    size_t i = 0;
    while (i < table[r].n && i < length && bytes[i] >= table[r].low[i] && bytes[i] <= table[r].high[i]) i++;
    if (i == length && i < table[r].n) return true;
  }
  return false;
}

static uint32_t value_of(const unsigned char *b, size_t n) {
  if (n == 1) return b[0];
  if (n == 2) return (b[0] & 0x1fu) << 6 | (b[1] & 0x3fu);
  if (n == 3) return (b[0] & 0xfu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
  return (b[0] & 7u) << 18 | (b[1] & 0x3fu) << 12 | (b[2] & 0x3fu) << 6 | (b[3] & 0x3fu);
}

static void test_every_code_point(void **state) {
  (void)state;
  uint32_t n_valid = 0;
  for (uint32_t code = 0; code < 0x120000; code++) {
    char bytes[4];
    size_t n = tl_utf8_encode(code, bytes);
    bool scalar = code < 0xd800 || (code > 0xdfff && code <= 0x10ffff);
    assert_int_equal(n != 0, scalar);
    if (!scalar) continue;
    n_valid++;
    uint32_t back = 0xffffffff;
    assert_int_equal(by_table((unsigned char *)bytes, n), n);
    assert_int_equal(value_of((unsigned char *)bytes, n), code);
    assert_int_equal(tl_utf8_decode(bytes, n, &back), n);
    assert_int_equal(back, code);
    for (size_t cut = 1; cut < n; cut++) {
      assert_int_equal(tl_utf8_decode(bytes, cut, &back), 0);
      assert_int_equal(tl_utf8_incomplete_tail(bytes, cut), cut);
    }
    assert_int_equal(tl_utf8_incomplete_tail(bytes, n), 0);
  }
  assert_int_equal(n_valid, 0x110000 - 0x800);
  char bytes[4];
  assert_int_equal(tl_utf8_encode(0xffffffff, bytes), 0);
  assert_int_equal(tl_utf8_encode(0x80000041, bytes), 0);
}

static void check(const unsigned char *bytes, size_t length) {
  /* a heap copy of the exact size: AddressSanitizer sees a read past it */
  char *copy = malloc(length);
  memcpy(copy, bytes, length);
  uint32_t code = 0;
  size_t expected = by_table(bytes, length);
  size_t n = tl_utf8_decode(copy, length, &code);
  if (n != expected || (n && code != value_of(bytes, n)))
    fail_msg("%02x %02x %02x %02x of %zu: %zu", bytes[0], bytes[1], bytes[2], bytes[3], length, n);
  size_t tail = 0;
  for (size_t k = 1; k <= 3 && k <= length && !tail; k++)
    if (begins_by_table(bytes + length - k, k)) tail = k;
  if (tl_utf8_incomplete_tail(copy, length) != tail)
    fail_msg("tail of %02x %02x %02x %02x of %zu: %zu, expected %zu", bytes[0], bytes[1], bytes[2], bytes[3], length,
             tl_utf8_incomplete_tail(copy, length), tail);
  bool valid = true;
  for (size_t i = 0; i < length && valid;) {
    size_t step = by_table(bytes + i, length - i);
    valid = step > 0;
    i += step;
  }
  assert_int_equal(tl_utf8_valid(copy, length), valid);
  free(copy);
}

/* All texts of one and two bytes; of three and four all whose bytes come from the
 * borders of the table's ranges. */
static void test_every_sequence_against_the_table(void **state) {
  (void)state;
  unsigned char b[4] = {0};
  for (unsigned i = 0; i < 256; i++) {
    b[0] = (unsigned char)i;
    check(b, 1);
    for (unsigned k = 0; k < 256; k++) {
      b[1] = (unsigned char)k;
      check(b, 2);
    }
  }
  static const unsigned char borders[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0,
                                          0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xf8, 0xfe, 0xff};
  size_t n = UNIT_COUNT(borders);
  for (size_t at = 0; at < n * n * n * n; at++) {
    b[0] = borders[at % n];
    b[1] = borders[at / n % n];
    b[2] = borders[at / n / n % n];
    b[3] = borders[at / n / n / n];
    if (at < n * n * n) check(b, 3);
    check(b, 4);
  }
}

/* Unicode 15, section 3.9: the ill-formed examples of table 3-8 to 3-11. */
static void test_examples_of_the_standard(void **state) {
  (void)state;
  static const char *const ill[] = {"\xc0\xaf",         "\xe0\x9f\x80",     "\xf4\x90\x80\x80", "\xed\xa0\x80", "\xed\xbf\xbf",
                                    "\xf0\x80\x80\xaf", "\xfe",             "\x80",             "\xe1\x80\x41", "\xf1\x80\xe1",
                                    "\xf8\x88\x80\x80", "\xc3",             "a\xe2\x82"};
  for (size_t i = 0; i < UNIT_COUNT(ill); i++) assert_false(tl_utf8_valid(ill[i], strlen(ill[i])));
  assert_true(tl_utf8_valid("", 0));
  assert_true(tl_utf8_valid("M\xd0\xb0\xe4\xba\x8c\xf0\x90\x8c\x82", 10)); /* section 3.9, D92 */
  assert_int_equal(tl_utf8_incomplete_tail("", 0), 0);
  assert_int_equal(tl_utf8_incomplete_tail("abc\xf0\x9f\x98", 6), 3);
  assert_int_equal(tl_utf8_incomplete_tail("\xf0\x9f\x98\x80", 4), 0);
  assert_int_equal(tl_utf8_incomplete_tail("\x80\x80\x80\x80", 4), 0);
  assert_int_equal(tl_utf8_incomplete_tail("\xed\xa0", 2), 0); /* can only become a surrogate */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_code_point),
      cmocka_unit_test(test_every_sequence_against_the_table),
      cmocka_unit_test(test_examples_of_the_standard),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
