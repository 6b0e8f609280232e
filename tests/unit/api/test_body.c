/* SPDX-License-Identifier: MIT */
/* The scan before jansson: depth, number of values, NUL bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/api_private.h"
#include "tokenlane/base/hash.h"

static int scan(const char *text, size_t max_nodes, struct tl_error *err) {
  return api_body_scan(text, strlen(text), max_nodes, err);
}

static void test_depth(void **state) {
  (void)state;
  char text[300];
  struct tl_error err = {0};
  for (unsigned depth = 1; depth < 100; depth++) {
    memset(text, depth % 2 ? '[' : '{', depth);
    text[depth] = 0;
    int r = scan(text, 1000, &err);
    assert_int_equal(r, depth <= API_MAX_DEPTH ? TL_OK : TL_EINVAL);
  }
  assert_non_null(strstr(err.message, "nests deeper than 64"));
  /* side by side is not deep */
  text[0] = 0;
  for (int i = 0; i < 90; i++) strcat(text, "[]");
  assert_int_equal(scan(text, 1000, &err), TL_OK);
}

static void test_strings_hide_structure(void **state) {
  (void)state;
  struct tl_error err = {0};
  assert_int_equal(scan("{\"a\":\"[[[[,,,,,\\\"[[[,,,\"}", 5, &err), TL_OK);
  assert_int_equal(scan("[\"\\\\\",1,2]", 7, &err), TL_OK);
  assert_int_equal(scan("[\"\\\\\",1,2,3]", 7, &err), TL_EINVAL);
  assert_int_equal(scan("\"unterminated", 4, &err), TL_OK); /* jansson's to refuse */
  assert_int_equal(scan("\"ends in a backslash\\", 4, &err), TL_OK);
}

static void test_number_of_values(void **state) {
  (void)state;
  struct tl_error err = {0};
  size_t n = 3000;
  char *text = malloc(n * 3 + 3);
  char *at = text;
  *at++ = '[';
  for (size_t i = 0; i < n; i++) at = stpcpy(at, i + 1 < n ? "{}," : "{}");
  strcpy(at, "]");
  assert_int_equal(scan(text, 100, &err), TL_EINVAL);
  assert_string_equal(err.message, "the body has more than 100 values");
  assert_int_equal(scan(text, 6 * n, &err), TL_OK);
  free(text);
}

static void test_nul(void **state) {
  (void)state;
  struct tl_error err = {0};
  assert_int_equal(api_body_scan("[1\0]", 4, 100, &err), TL_EINVAL);
  assert_non_null(strstr(err.message, "NUL"));
}

/* What jansson accepts, the scan never takes for less than it is. */
static void test_counts_cover_jansson(void **state) {
  (void)state;
  static const char alphabet[] = "[]{},:\"\\1a ";
  for (uint64_t round = 0; round < 200000; round++) {
    char text[24];
    size_t length = 1 + tl_hash_u64(round) % 23;
    for (size_t i = 0; i < length; i++) text[i] = alphabet[tl_hash_u64(round * 64 + i) % (sizeof alphabet - 1)];
    json_t *json = json_loadb(text, length, JSON_DECODE_ANY, NULL);
    if (!json) continue;
    struct tl_error err = {0};
    size_t values = json_is_array(json) ? json_array_size(json) : json_is_object(json) ? json_object_size(json) : 0;
    if (values > 1) assert_int_equal(api_body_scan(text, length, values - 1, &err), TL_EINVAL);
    json_decref(json);
  }
}

static void test_strings_out(void **state) {
  (void)state;
  static const char *const texts[] = {"", "plain", "q\"b\\s/", "\n\r\t\b\f\x01\x1f\x7f", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "</script>", "a b"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    struct tl_buffer out;
    tl_buffer_init(&out, 0);
    api_json_string(&out, texts[i], strlen(texts[i]));
    json_t *back = json_loadb(out.data, out.length, JSON_DECODE_ANY, NULL);
    assert_non_null(back);
    assert_string_equal(json_string_value(back), texts[i]);
    json_decref(back);
    tl_buffer_done(&out);
  }
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  api_json_string(&out, "a\xff\xc3z\0b", 6);
  assert_string_equal(tl_buffer_string(&out), "\"a\xef\xbf\xbd\xef\xbf\xbdz\\u0000b\"");
  tl_buffer_clear(&out);
  api_json_number(&out, -0.125);
  tl_buffer_putc(&out, ' ');
  api_json_number(&out, -1.0 / 0.0);
  assert_string_equal(tl_buffer_string(&out), "-0.125 -9999.0");
  tl_buffer_done(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_depth),           cmocka_unit_test(test_strings_hide_structure),
      cmocka_unit_test(test_number_of_values), cmocka_unit_test(test_nul),
      cmocka_unit_test(test_counts_cover_jansson), cmocka_unit_test(test_strings_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
