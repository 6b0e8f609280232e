/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/buffer.h"
#include "tokenlane/base/error.h"
#include "unit.h"

static void assert_holds(struct tl_buffer *b, const char *text) {
  assert_false(b->failed);
  assert_int_equal(b->length, strlen(text));
  assert_string_equal(tl_buffer_string(b), text);
  assert_int_equal(b->length, strlen(text)); /* the NUL is not counted */
}

static void test_append(void **state) {
  (void)state;
  struct tl_buffer b;
  tl_buffer_init(&b, 0);
  assert_holds(&b, "");
  assert_int_equal(tl_buffer_puts(&b, "ab"), TL_OK);
  assert_int_equal(tl_buffer_putc(&b, 'c'), TL_OK);
  assert_int_equal(tl_buffer_append(&b, "d\0e", 3), TL_OK);
  assert_int_equal(b.length, 6);
  assert_memory_equal(b.data, "abcd\0e", 6);
  assert_int_equal(tl_buffer_append(&b, NULL, 0), TL_OK);
  tl_buffer_clear(&b);
  assert_holds(&b, "");
  assert_true(b.capacity > 0);
  tl_buffer_done(&b);
  assert_null(b.data);
  tl_buffer_done(&b);
}

static void test_grows_by_any_pieces(void **state) {
  (void)state;
  enum { SIZE = 100000 };
  char *expected = malloc(SIZE);
  uint64_t random = 1;
  for (size_t i = 0; i < SIZE; i++) expected[i] = (char)unit_random(&random);
  struct tl_buffer b;
  tl_buffer_init(&b, 0);
  for (size_t at = 0; at < SIZE;) {
    size_t n = unit_below(&random, 700);
    if (n > SIZE - at) n = SIZE - at;
    assert_int_equal(tl_buffer_append(&b, expected + at, n), TL_OK);
    at += n;
  }
  assert_int_equal(b.length, SIZE);
  assert_memory_equal(b.data, expected, SIZE);
  tl_buffer_done(&b);
  free(expected);
}

/* Around the size of the buffer on the stack, where the two ways of printf meet. */
static void test_printf_of_every_length(void **state) {
  (void)state;
  char text[1025];
  struct tl_buffer b;
  for (size_t n = 0; n <= 1024; n++) {
    memset(text, 'x', n);
    text[n] = 0;
    tl_buffer_init(&b, 0);
    assert_int_equal(tl_buffer_printf(&b, "%s", text), TL_OK);
    assert_holds(&b, text);
    assert_int_equal(tl_buffer_printf(&b, "-%d-%s", 7, ""), TL_OK);
    assert_int_equal(b.length, n + 3);
    tl_buffer_done(&b);
  }
}

static void test_limit(void **state) {
  (void)state;
  struct tl_buffer b;
  tl_buffer_init(&b, 5);
  assert_int_equal(tl_buffer_puts(&b, "12345"), TL_OK);
  assert_holds(&b, "12345"); /* exactly full: there is still room for the NUL */
  assert_int_equal(tl_buffer_putc(&b, '6'), TL_ELIMIT);
  assert_true(b.failed);
  assert_int_equal(b.length, 5);
  assert_string_equal(tl_buffer_string(&b), "");
  tl_buffer_clear(&b);
  assert_int_equal(tl_buffer_puts(&b, "123456"), TL_ELIMIT);
  assert_true(tl_buffer_puts(&b, "1") < 0); /* errors stick */
  assert_int_equal(b.length, 0);
  assert_null(tl_buffer_reserve(&b, 1));
  tl_buffer_clear(&b);
  assert_int_equal(tl_buffer_puts(&b, "ok"), TL_OK);
  assert_holds(&b, "ok");
  tl_buffer_done(&b);
}

static void test_limit_of_printf(void **state) {
  (void)state;
  char text[401];
  memset(text, 'y', 400);
  text[400] = 0;
  struct tl_buffer b;
  for (size_t limit = 1; limit <= 500; limit++) {
    tl_buffer_init(&b, limit);
    int r = tl_buffer_printf(&b, "%s", text);
    assert_int_equal(r, limit >= 400 ? TL_OK : TL_ELIMIT);
    assert_int_equal(b.length, limit >= 400 ? 400 : 0);
    tl_buffer_done(&b);
  }
}

static void test_sizes_that_overflow(void **state) {
  (void)state;
  struct tl_buffer b;
  tl_buffer_init(&b, 0);
  tl_buffer_puts(&b, "x");
  assert_null(tl_buffer_reserve(&b, SIZE_MAX));
  assert_true(b.failed);
  tl_buffer_clear(&b);
  assert_holds(&b, "");
  tl_buffer_done(&b);
}

static void test_reserve(void **state) {
  (void)state;
  struct tl_buffer b;
  tl_buffer_init(&b, 0);
  for (unsigned i = 0; i < 1000; i++) {
    char *at = tl_buffer_reserve(&b, 100);
    assert_ptr_equal(at, b.data + b.length);
    memset(at, 'z', 100); /* all of it may be written */
    b.length += 3;
  }
  assert_int_equal(b.length, 3000);
  tl_buffer_done(&b);
}

static void test_consume(void **state) {
  (void)state;
  struct tl_buffer b;
  tl_buffer_init(&b, 0);
  tl_buffer_puts(&b, "abcdef");
  tl_buffer_consume(&b, 0);
  assert_holds(&b, "abcdef");
  tl_buffer_consume(&b, 4);
  assert_holds(&b, "ef");
  tl_buffer_consume(&b, 3); /* more than there is */
  assert_holds(&b, "");
  tl_buffer_puts(&b, "gh");
  tl_buffer_consume(&b, 2);
  assert_holds(&b, "");
  tl_buffer_done(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_append),          cmocka_unit_test(test_grows_by_any_pieces),
      cmocka_unit_test(test_printf_of_every_length), cmocka_unit_test(test_limit),
      cmocka_unit_test(test_limit_of_printf), cmocka_unit_test(test_sizes_that_overflow),
      cmocka_unit_test(test_reserve),         cmocka_unit_test(test_consume),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
