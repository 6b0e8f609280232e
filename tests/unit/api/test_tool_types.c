/* SPDX-License-Identifier: MIT */
/* Which kind of value a tool's parameter has: schemas as clients write them, and tools that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/tool_types.h"
#include "tokenlane/base/error.h"

static unsigned kinds(const struct api_tool_types *types, const char *tool, const char *key) {
  return api_tool_types_of(types, tool, strlen(tool), key, strlen(key));
}

static const struct api_tool_types *read_types(struct tl_arena *arena, const char *text) {
  const struct api_tool_types *types = NULL;
  json_t *tools = json_loads(text, 0, NULL);
  assert_non_null(tools);
  tl_arena_init(arena, 0);
  assert_int_equal(api_tool_types_read(tools, arena, &types), TL_OK);
  json_decref(tools); /* nothing of it is needed any more */
  return types;
}

static void test_kinds(void **state) {
  (void)state;
  static const struct { const char *schema; unsigned kinds; } schemas[] = {
      {"{\"type\": \"string\"}", TOOL_STRING}, {"{\"type\": \"null\"}", TOOL_NULL}, {"{\"type\": \"integer\"}", TOOL_OTHER}, {"{\"type\": \"array\"}", TOOL_OTHER},
      {"{\"type\": [\"string\", \"null\"]}", TOOL_STRING | TOOL_NULL}, {"{\"type\": [\"number\", \"string\", 5]}", TOOL_STRING | TOOL_OTHER},
      {"{\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}", TOOL_STRING | TOOL_NULL}, {"{\"oneOf\": [{\"anyOf\": [{\"type\": \"object\"}]}, true]}", TOOL_OTHER},
      {"{\"allOf\": [{\"$ref\": \"#/$defs/a\"}]}", TOOL_STRING | TOOL_OTHER}, {"{\"$ref\": \"#/$defs/a\"}", TOOL_STRING | TOOL_OTHER},
      {"{\"enum\": [\"a\", \"b\"]}", TOOL_STRING}, {"{\"enum\": [\"a\", null, 1]}", TOOL_STRING | TOOL_NULL | TOOL_OTHER}, {"{\"const\": 5}", TOOL_OTHER},
      {"{\"const\": \"a\"}", TOOL_STRING}, {"{\"type\": \"string\", \"anyOf\": [{\"type\": \"null\"}]}", TOOL_STRING},
      {"{}", 0}, {"true", 0}, {"null", 0}, {"{\"type\": 5}", 0}, {"{\"type\": []}", 0}, {"{\"anyOf\": {\"type\": \"string\"}}", 0}, {"[]", 0},
      {"{\"anyOf\": [{\"anyOf\": [{\"anyOf\": [{\"anyOf\": [{\"anyOf\": [{\"type\": \"string\"}]}]}]}]}]}", 0} /* deeper than anybody writes it */};
  for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
    char text[400];
    struct tl_arena arena;
    snprintf(text, sizeof text, "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"properties\": {\"k\": %s}}}}]", schemas[i].schema);
    unsigned found = kinds(read_types(&arena, text), "f", "k");
    if (found != schemas[i].kinds) fail_msg("%s: %u", schemas[i].schema, found);
    tl_arena_done(&arena);
  }
}

static void test_whose_they_are(void **state) {
  (void)state;
  struct tl_arena arena;
  const struct api_tool_types *types = read_types(
      &arena, "[{\"name\": \"get_all\", \"parameters\": {\"properties\": {\"a\": {\"type\": \"string\"}, \"ab\": {\"type\": \"null\"}}}}, null, 5, [], {}, {\"name\": 5},"
              "{\"function\": null}, {\"function\": {\"name\": \"get\", \"parameters\": {\"properties\": {\"a\": {\"type\": \"number\"}, \"\": {\"type\": \"string\"}}}}},"
              "{\"name\": \"none\", \"parameters\": [], \"function\": \"x\"}, {\"name\": \"z\", \"parameters\": {\"properties\": [1]}}]");
  assert_int_equal(kinds(types, "get_all", "a"), TOOL_STRING);
  assert_int_equal(kinds(types, "get_all", "ab"), TOOL_NULL);
  assert_int_equal(kinds(types, "get", "a"), TOOL_OTHER);
  assert_int_equal(kinds(types, "get", ""), TOOL_STRING);
  assert_int_equal(kinds(types, "get", "ab"), 0);
  assert_int_equal(kinds(types, "none", "a"), 0);
  assert_int_equal(kinds(types, "ge", "a"), 0);
  assert_int_equal(kinds(NULL, "get", "a"), 0);
  static const struct { const char *text; bool has, begins; } names[] = {{"get", true, true}, {"get_", false, true}, {"get_all", true, true}, {"get_all_", false, false},
                                                                         {"n", false, true}, {"z", true, true}, {"zz", false, false}, {"a", false, false}, {"h", false, false}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    assert_int_equal(api_tool_types_has(types, names[i].text, strlen(names[i].text)), names[i].has);
    assert_int_equal(api_tool_types_begins(types, names[i].text, strlen(names[i].text)), names[i].begins);
    assert_false(api_tool_types_begins(NULL, names[i].text, strlen(names[i].text)));
  }
  tl_arena_done(&arena);
}

/* Two tools of one name of a megabyte, and 20,000 parameters each: no more than a sort. */
static void test_long_names(void **state) {
  (void)state;
  enum { LENGTH = 1 << 20, N = 20000 };
  char *name = malloc(LENGTH + 1);
  assert_non_null(name);
  memset(name, 'f', LENGTH);
  name[LENGTH] = 0;
  json_t *tools = json_array();
  for (int i = 0; i < 2; i++) {
    json_t *properties = json_object();
    for (int k = 0; k < N; k++) {
      char key[32];
      snprintf(key, sizeof key, "%d_%d", k, i);
      json_object_set_new(properties, key, json_pack("{s:s}", "type", k % 2 ? "string" : "number"));
    }
    json_array_append_new(tools, json_pack("{s:s, s:{s:o}}", "name", name, "parameters", "properties", properties));
  }
  struct tl_arena arena;
  const struct api_tool_types *types = NULL;
  tl_arena_init(&arena, 0);
  assert_int_equal(api_tool_types_read(tools, &arena, &types), TL_OK);
  json_decref(tools);
  assert_int_equal(kinds(types, name, "19999_0"), TOOL_STRING);
  assert_int_equal(kinds(types, name, "19998_1"), TOOL_OTHER);
  assert_int_equal(kinds(types, name, "20000_1"), 0);
  assert_int_equal(kinds(types, name + 1, "19999_0"), 0);
  tl_arena_done(&arena);
  free(name);
}

static void test_no_memory(void **state) {
  (void)state;
  json_t *tools = json_loads("[{\"name\": \"f\", \"parameters\": {\"properties\": {\"a\": {}, \"b\": {}}}}]", 0, NULL);
  const struct api_tool_types *types;
  for (size_t limit = 1; limit < 4096; limit++) {
    struct tl_arena arena;
    tl_arena_init(&arena, limit);
    int r = api_tool_types_read(tools, &arena, &types);
    assert_true(r == TL_OK || r == TL_ENOMEM);
    if (limit == 1) assert_int_equal(r, TL_ENOMEM);
    if (r == TL_OK) assert_true(api_tool_types_has(types, "f", 1));
    tl_arena_done(&arena);
  }
  json_decref(tools);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_kinds), cmocka_unit_test(test_whose_they_are), cmocka_unit_test(test_long_names),
                                     cmocka_unit_test(test_no_memory)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
