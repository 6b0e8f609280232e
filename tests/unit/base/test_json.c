/* SPDX-License-Identifier: MIT */
/* Texts and files read with jansson's memory watched. What want of memory does to it: tests/e2e/test_out_of_memory.py. */
#include "tokenlane/base/json.h"
#include "unit.h"

static void write_file(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  fputs(text, file);
  fclose(file);
}

static void test_files(void **state) {
  (void)state;
  char path[] = "/tmp/tl-json-XXXXXX";
  json_error_t why;
  close(mkstemp(path));
  write_file(path, "{\"a\": [1, \"b\"]}");
  json_t *value = tl_json_load_file(path, 0, &why);
  assert_int_equal(json_array_size(json_object_get(value, "a")), 2);
  json_decref(value);
  write_file(path, "[Infinity, -Infinity, \"Infinity \\\" Infinity\", 3]"); /* as Python writes it, and texts as they are */
  assert_null(tl_json_load_file(path, 0, &why));
  value = tl_json_load_file(path, TL_JSON_INFINITY, &why);
  assert_true(json_real_value(json_array_get(value, 0)) == 1e300 && json_real_value(json_array_get(value, 1)) == -1e300);
  assert_string_equal(json_string_value(json_array_get(value, 2)), "Infinity \" Infinity");
  assert_int_equal(json_integer_value(json_array_get(value, 3)), 3);
  json_decref(value);
  write_file(path, "{\"a\":\n x}");
  assert_null(tl_json_load_file(path, 0, &why));
  assert_int_equal(why.line, 2);
  write_file(path, "");
  assert_null(tl_json_load_file(path, 0, &why));
  unlink(path);
  assert_null(tl_json_load_file(path, 0, &why));
  assert_int_equal(json_error_code(&why), json_error_cannot_open_file);
  assert_null(tl_json_load_file("/tmp", 0, &why));
  assert_int_not_equal(json_error_code(&why), json_error_cannot_open_file); /* it is there */
  assert_string_equal(why.text, "unable to read /tmp: Is a directory");
  assert_int_equal(tl_json_shortages(), 0);
}

/* All that jansson took is there once, or freed (ASan looks); strings that grow while they are read. */
static void test_texts(void **state) {
  (void)state;
  static char text[70000] = "[\"";
  memset(text + 2, 'x', sizeof text - 5);
  memcpy(text + sizeof text - 3, "\"]", 2);
  json_t *value = tl_json_load(text, sizeof text - 1, 0, NULL);
  assert_int_equal(json_string_length(json_array_get(value, 0)), sizeof text - 5);
  json_decref(value);
  json_error_t why;
  assert_null(tl_json_load(text, sizeof text - 2, 0, &why));
  assert_false(tl_json_is_short(NULL, &why, NULL));
}

int main(void) {
  tl_json_watch();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_files), cmocka_unit_test(test_texts)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
