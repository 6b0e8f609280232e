/* SPDX-License-Identifier: MIT */
/* Calls whose name stands before their JSON: DeepSeek's between marks, GLM-4's in a line. vLLM's parsers deepseek_v3 and
 * deepseek_v31 (0.11) made the same of 3,000 random answers each, whole; it has none for GLM-4. */
#include "tool_rows.h"

#include "tokenlane/base/error.h"

#define DEEPSEEK &api_tool_deepseek_v3_format
#define GLM &api_tool_glm4_format
#define CALLS "<｜tool▁calls▁begin｜>"
#define CALL "<｜tool▁call▁begin｜>"
#define SEP "<｜tool▁sep｜>"
#define CALL_END "<｜tool▁call▁end｜>"
#define CALLS_END "<｜tool▁calls▁end｜>"
#define V3(name, args) CALL "function" SEP name "\n```json\n" args "\n```" CALL_END
#define V31(name, args) CALL name SEP args CALL_END

static const struct row rows[] = {
    ROW(DEEPSEEK, "Text ```code``` <｜tool", "Text ```code``` <｜tool", ""),
    ROW(DEEPSEEK, CALLS V3("f", "{\"a\": 1}") CALLS_END, "", "f({\"a\": 1});"),
    ROW(DEEPSEEK, "<think>\nhm\n</think>\n\n" CALLS V3("f", "{\"a\": \"```\"}") "\n" V3("my-f.2", "{}") CALLS_END, "<think>\nhm\n</think>\n\n", "f({\"a\": \"```\"});my-f.2({});"),
    ROW(DEEPSEEK, CALLS V31("f", "{\"a\": [{}]}") V31("g", "{}") CALLS_END "\n", "", "f({\"a\": [{}]});g({});"),
    ROW(DEEPSEEK, V31("f", "{}"), "", "f({});"),
    ROW(DEEPSEEK, CALLS "\n" CALL "function" SEP "f\n{\"a\": 1}" CALL_END, "", "f({\"a\": 1});"), /* vLLM: nothing */
    ROW(DEEPSEEK, CALLS V3("f", "{}") CALLS_END "So.", "So.", "f({});"), /* vLLM drops what comes behind a call */
    ROW(DEEPSEEK, CALLS CALL "f" SEP "{\"a\": 1}", "", "f({\"a\": 1});"),
    ROW(DEEPSEEK, CALLS CALL "f" SEP "{\"a\": 1}<｜tool▁ca", "", "f({\"a\": 1});"),
    ROW(DEEPSEEK, CALLS CALLS_END, CALLS CALLS_END, ""),
    ROW(DEEPSEEK, CALLS "x", CALLS "x", ""),
    ROW(DEEPSEEK, CALL "f" CALL_END, CALL "f" CALL_END, ""),
    ROW(DEEPSEEK, CALL SEP "{}", CALL SEP "{}", ""),
    ROW(DEEPSEEK, CALL "function" SEP "f\n```json\nx\n{}", CALL "function" SEP "f\n```json\nx\n{}", ""),
    ROW(DEEPSEEK, CALL "function" SEP "f\n```python\n{}", CALL "function" SEP "f\n```python\n{}", ""),
    ROW(DEEPSEEK, CALL "function" SEP "f", CALL "function" SEP "f", ""),
    ROW(DEEPSEEK, CALL CALL "f" SEP "{}", CALL, "f({});"),
    ROW(DEEPSEEK, "a" CALL_END "b" CALLS_END, "a" CALL_END "b" CALLS_END, ""),
    ASTRAY(DEEPSEEK, CALLS V31("f", "{\"a\": x}") V31("g", "{}") CALLS_END, CALLS CALL "f" SEP "{\"a\": x}" CALL_END, "g({});", "", "f({\"a\": x});g({});"),
    ASTRAY(DEEPSEEK, CALLS V31("f", "{\"a\": x") V31("g", "{}") CALLS_END, CALLS CALL "f" SEP "{\"a\": x" CALL_END, "g({});", "", "f({\"a\": x;g({});"),
    ASTRAY(DEEPSEEK, CALLS CALL "f" SEP "{\"a\": \"lo", CALLS CALL "f" SEP "{\"a\": \"lo", "", "", "f({\"a\": \"lo;"),
    /* --- glm4: the tools are f, get and get_all */
    ROW(GLM, "\nJust text\n{}", "\nJust text\n{}", ""),
    ROW(GLM, "f\n{\"a\": 1}", "", "f({\"a\": 1});"),
    ROW(GLM, "\nget_all\n{\"a\": {\"b\": \"}\"}}\n", "", "get_all({\"a\": {\"b\": \"}\"}});"),
    ROW(GLM, "get\n{}\nget_all\n {}\nf\n{}", "", "get({});get_all({});f({});"),
    ROW(GLM, "get\n{}\nThat was it.", "\nThat was it.", "get({});"),
    ROW(GLM, "get_\n{}", "get_\n{}", ""),
    ROW(GLM, "unknown\n{}", "unknown\n{}", ""),
    ROW(GLM, "I call\nf\n{}", "I call\nf\n{}", ""),
    ROW(GLM, "f {}", "f {}", ""),
    ROW(GLM, "f\nis a function", "f\nis a function", ""),
    ROW(GLM, "f\n", "f\n", ""),
    ROW(GLM, "get_a", "get_a", ""),
    ASTRAY(GLM, "f\n{\"a\": x} b", "f\n{\"a\": x} b", "", " b", "f({\"a\": x});"),
    ASTRAY(GLM, "f\n{\"a\": 1", "f\n{\"a\": 1", "", "", "f({\"a\": 1;"),
};

static void test_every_cut(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) check_every_cut(&rows[i]);
}

/* Nothing is a call to GLM-4's format when nobody knows the tools. */
static void test_without_tools(void **state) {
  (void)state;
  const struct api_tool_types *known = row_types;
  struct row row = {GLM, "f\n{}", "f\n{}", "", NULL, NULL};
  row_types = NULL;
  check_every_cut(&row);
  row_types = known;
}

/* A name that is longer than any format's is none, or each character of an answer that begins like it were compared with all before. */
static void test_a_long_name(void **state) {
  (void)state;
  struct tl_arena arena;
  const struct api_tool_types *known = row_types;
  tl_arena_init(&arena, 0);
  for (size_t n = 256; n <= 257; n++) {
    char *name = repeated("", "n", n), *text = repeated(name, "\n{}", 1), *call = repeated(name, "({});", 1);
    json_t *tools = json_pack("[{s: s}]", "name", name);
    assert_int_equal(api_tool_types_read(tools, &arena, &row_types), TL_OK);
    struct row row = {GLM, text, n > 256 ? text : "", n > 256 ? "" : call, NULL, NULL};
    check_every_cut(&row);
    json_decref(tools);
    free(name);
    free(text);
    free(call);
  }
  tl_arena_done(&arena);
  row_types = known;
}

static void test_a_megabyte_of_nonsense(void **state) {
  (void)state;
  static const struct { const struct api_tool_format *format; const char *head, *what; } texts[] = {
      {DEEPSEEK, "", CALLS}, {DEEPSEEK, "", CALL}, {DEEPSEEK, CALLS, " "}, {DEEPSEEK, CALL, "f"}, {DEEPSEEK, CALL "f" SEP, " "}, {DEEPSEEK, CALL "f" SEP, "g"},
      {DEEPSEEK, CALL "f" SEP "g\n", "\n"}, {DEEPSEEK, CALL "f" SEP "g\n```json", " "}, {DEEPSEEK, "", "<｜"}, {DEEPSEEK, "", "`"}, {GLM, "", "f"}, {GLM, "f\n", "\n"}, {GLM, "", "get"}};
  for (size_t t = 0; t < sizeof texts / sizeof *texts; t++)
    for (int whole = 0; whole < 2; whole++) {
      char *text = repeated(texts[t].head, texts[t].what, (1 << 20) / strlen(texts[t].what));
      check_no_call(texts[t].format, text, whole);
      free(text);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_cut), cmocka_unit_test(test_without_tools), cmocka_unit_test(test_a_long_name), cmocka_unit_test(test_a_megabyte_of_nonsense)};
  struct tl_arena arena;
  json_t *list = json_loads("[{\"name\": \"get_all\"}, {\"name\": \"get\"}, {\"name\": \"f\"}]", 0, NULL);
  tl_arena_init(&arena, 0);
  if (!list || api_tool_types_read(list, &arena, &row_types) < 0) return 1;
  json_decref(list);
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  tl_arena_done(&arena);
  return failed;
}
