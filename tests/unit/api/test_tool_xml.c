/* SPDX-License-Identifier: MIT */
/* Calls whose arguments are text between tags. vLLM's parsers qwen3_coder and glm45 (0.11)
 * made the same of 6,000 random answers each, whole, but for the text null, which they take for None, white space around GLM's strings, and tags within values. */
#include "tool_rows.h"

#include "tokenlane/base/error.h"

#define QWEN &api_tool_qwen3_coder_format
#define GLM &api_tool_glm45_format
#define BEGIN(name) "<tool_call>\n<function=" name ">\n"
#define PARAMETER(key, value) "<parameter=" key ">\n" value "\n</parameter>\n"
#define END "</function>\n</tool_call>"
#define ARG(key, value) "<arg_key>" key "</arg_key>\n<arg_value>" value "</arg_value>\n"

static const char tools[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": \"object\", \"properties\": {"
    "\"s\": {\"type\": \"string\"}, \"n\": {\"type\": \"number\"}, \"i\": {\"type\": \"integer\"}, \"b\": {\"type\": \"boolean\"},"
    "\"o\": {\"type\": \"object\"}, \"l\": {\"type\": \"array\"}, \"z\": {\"type\": [\"string\", \"null\"]}, \"x\": {},"
    "\"u\": {\"anyOf\": [{\"type\": \"integer\"}, {\"type\": \"null\"}]}, \"e\": {\"enum\": [\"1\", \"2\"]}, \"r\": {\"$ref\": \"#/$defs/R\"},"
    "\"m\": {\"oneOf\": [{\"type\": \"string\"}, {\"type\": \"array\"}]}}}}}, {\"name\": \"g\"}]";

static const struct row rows[] = {
    ROW(QWEN, "Text, a < b <functional> <func", "Text, a < b <functional> <func", ""),
    ROW(QWEN, BEGIN("g") END, "", "g({});"),
    ROW(QWEN, "<tool_call><function=g></function></tool_call>", "", "g({});"),
    ROW(QWEN, BEGIN("f") PARAMETER("s", "Zurich") END, "", "f({\"s\": \"Zurich\"});"),
    ROW(QWEN, "Let me see.\n\n" BEGIN("f") PARAMETER("s", "5") PARAMETER("i", "5") END "\n", "Let me see.\n\n", "f({\"s\": \"5\", \"i\": 5});"),
    ROW(QWEN, BEGIN("f") PARAMETER("s", "a \"b\" \\ c\n\td\n") END, "", "f({\"s\": \"a \\\"b\\\" \\\\ c\\n\\td\\n\"});"),
    ROW(QWEN, BEGIN("f") PARAMETER("s", "\xc3\xa9\x01\xf0\x9f\x98\x80") END, "", "f({\"s\": \"\xc3\xa9\\u0001\xf0\x9f\x98\x80\"});"),
    ROW(QWEN, BEGIN("f") PARAMETER("s", "") END, "", "f({\"s\": \"\"});"),
    ROW(QWEN, BEGIN("f") "<parameter=s>\n</parameter>\n" END, "", "f({\"s\": \"\"});"),
    ROW(QWEN, BEGIN("f") "<parameter=s>one line</parameter>" END, "", "f({\"s\": \"one line\"});"),
    ROW(QWEN, BEGIN("f") PARAMETER("n", "2.5e3") PARAMETER("b", "True") PARAMETER("o", "{\"a\": [1, {}]}") PARAMETER("l", "[]") END, "",
     "f({\"n\": 2.5e3, \"b\": true, \"o\": {\"a\": [1, {}]}, \"l\": []});"),
    ROW(QWEN, BEGIN("f") PARAMETER("o", "{'a': None, 'b': (1)}") PARAMETER("l", "['x', -1.5, True,]") END, "",
     "f({\"o\": \"{'a': None, 'b': (1)}\", \"l\": [\"x\", -1.5, true]});"), /* what is neither is a string */
    ROW(QWEN, BEGIN("f") PARAMETER("i", "many") PARAMETER("i", "1, 2") PARAMETER("i", "") PARAMETER("b", "false") END, "",
     "f({\"i\": \"many\", \"i\": \"1, 2\", \"i\": \"\", \"b\": false});"), /* vLLM: a key that comes again replaces the first, as in most readers of JSON */
    ROW(QWEN, BEGIN("f") PARAMETER("z", "null") PARAMETER("z", "None") PARAMETER("z", "nullable") PARAMETER("z", "5") PARAMETER("s", "null") END, "",
     "f({\"z\": null, \"z\": null, \"z\": \"nullable\", \"z\": \"5\", \"s\": \"null\"});"),
    ROW(QWEN, BEGIN("f") PARAMETER("u", "None") PARAMETER("u", "7") PARAMETER("e", "1") PARAMETER("x", "1") PARAMETER("unknown", "1") END, "",
     "f({\"u\": null, \"u\": 7, \"e\": \"1\", \"x\": \"1\", \"unknown\": \"1\"});"),
    ROW(QWEN, BEGIN("f") PARAMETER("r", "{\"a\": 1}") PARAMETER("r", "word") PARAMETER("m", "[1]") PARAMETER("m", "one") END, "",
     "f({\"r\": {\"a\": 1}, \"r\": \"word\", \"m\": [1], \"m\": \"one\"});"),
    ROW(QWEN, BEGIN("nobody") PARAMETER("s", "1") END, "", "nobody({\"s\": \"1\"});"),
    ROW(QWEN, BEGIN("f") PARAMETER("s", "1") END "\n" BEGIN("g") END, "", "f({\"s\": \"1\"});g({});"),
    ROW(QWEN, BEGIN("g") END " And now?", " And now?", "g({});"), /* vLLM drops what comes behind a call */
    /* its own tags within a value */
    ROW(QWEN, BEGIN("f") PARAMETER("s", "</parameter> x </function></tool_call> <parameter=q>") END, "", "f({\"s\": \"</parameter> x </function></tool_call> <parameter=q>\"});"),
    ROW(QWEN, BEGIN("f") PARAMETER("s", "\n\n</parameter>\n\n</parameter") PARAMETER("i", "1") END, "",
     "f({\"s\": \"\\n\\n</parameter>\\n\\n</parameter\", \"i\": 1});"),
    /* tags that are missing */
    ROW(QWEN, "<function=g>\n</function>", "", "g({});"),
    ROW(QWEN, BEGIN("f") PARAMETER("i", "1") "</function>", "", "f({\"i\": 1});"),
    ROW(QWEN, BEGIN("f") PARAMETER("i", "1") "</tool_call>", "", "f({\"i\": 1});"),
    ROW(QWEN, BEGIN("f") PARAMETER("i", "1") "</function></tool_ca", "", "f({\"i\": 1});"),
    /* no calls */
    ROW(QWEN, "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>", "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>", ""),
    ROW(QWEN, "<tool_call> x", "<tool_call> x", ""),
    ROW(QWEN, "<tool_call>\n<function=", "<tool_call>\n<function=", ""),
    ROW(QWEN, "<function=>\n</function>", "<function=>\n</function>", ""),
    ROW(QWEN, "<function=f\n></function>", "<function=f\n></function>", ""),
    ROW(QWEN, BEGIN("f") "and text" END, BEGIN("f") "and text" END, ""),
    ROW(QWEN, BEGIN("f") "<param", BEGIN("f") "<param", ""),
    ROW(QWEN, BEGIN("f") "<parameter=>1</parameter>" END, BEGIN("f") "<parameter=>1</parameter>" END, ""),
    ROW(QWEN, "<tool_call>" BEGIN("g") END, "<tool_call>", "g({});"),
    ROW(QWEN, "a</function>b</tool_call>c", "a</function>b</tool_call>c", ""),
    /* cut */
    ASTRAY(QWEN, BEGIN("f") "<parameter=s>\nZuri", BEGIN("f") "<parameter=s>\nZuri", "", "", "f({\"s\": \"Zuri;"),
    ASTRAY(QWEN, BEGIN("f") "<parameter=s>\nZuri\n</para", BEGIN("f") "<parameter=s>\nZuri\n</para", "", "", "f({\"s\": \"Zuri;"),
    ASTRAY(QWEN, BEGIN("f") "<parameter=i>\n12", BEGIN("f") "<parameter=i>\n12", "", "", "f({\"i\": ;"),
    ASTRAY(QWEN, BEGIN("f") PARAMETER("i", "1") "<parameter=s", BEGIN("f") PARAMETER("i", "1") "<parameter=s", "", "", "f({\"i\": 1;"),
    ASTRAY(QWEN, BEGIN("f") PARAMETER("i", "1") "<parameter=\n>x", BEGIN("f") PARAMETER("i", "1") "<parameter=\n>x", "", "", "f({\"i\": 1\n>x;"),
    ASTRAY(QWEN, BEGIN("f") PARAMETER("i", "1") "<parameter=<x</function> y", BEGIN("f") PARAMETER("i", "1") "<parameter=<x</function> y", "", " y", "f({\"i\": 1<x;"),
    ASTRAY(QWEN, BEGIN("f") PARAMETER("i", "1") "<parameter=<" BEGIN("g") END, BEGIN("f") PARAMETER("i", "1") "<parameter=<", "g({});", "", "f({\"i\": 1<;g({});"),
    /* --- glm45 */
    ROW(GLM, "<tool_call>g\n</tool_call>", "", "g({});"),
    ROW(GLM, "<tool_call>g</tool_call>", "", "g({});"), /* vLLM: content, without the newline; GLM-4.6 writes none */
    ROW(GLM, "\n<tool_call>f\n" ARG("s", "5") ARG("i", "5") "</tool_call>\n", "", "f({\"s\": \"5\", \"i\": 5});"),
    ROW(GLM, "Now: <tool_call>f\n\n" ARG("s", " a \n") "\n" ARG("o", " {\"a\": 1}\n") "\n</tool_call>", "Now: ", "f({\"s\": \" a \\n\", \"o\": {\"a\": 1}});"),
    ROW(GLM, "<tool_call>f<arg_key>s</arg_key><arg_value>x</arg_value><arg_key> q </arg_key><arg_value>1</arg_value></tool_call>", "", "f({\"s\": \"x\", \"q\": 1});"),
    ROW(GLM, "<tool_call>h\n" ARG("q", "[1]") ARG("w", "[1") ARG("v", "yes") "</tool_call><tool_call>g\n</tool_call>", "", "h({\"q\": [1], \"w\": \"[1\", \"v\": \"yes\"});g({});"),
    ROW(GLM, "<tool_call>f\n" ARG("s", "</arg_value> </tool_call") "</tool_call>", "", "f({\"s\": \"</arg_value> </tool_call\"});"),
    ROW(GLM, "<tool_call>\n{\"name\": \"f\"}\n</tool_call>", "<tool_call>\n{\"name\": \"f\"}\n</tool_call>", ""),
    ROW(GLM, "<tool_call>\n\n</tool_call>", "<tool_call>\n\n</tool_call>", ""),
    ROW(GLM, "<tool_call>f\nx</tool_call>", "<tool_call>f\nx</tool_call>", ""),
    ROW(GLM, "<tool_call>f\n<arg_key>s<arg_value>x", "<tool_call>f\n<arg_key>s<arg_value>x", ""),
    ROW(GLM, "<tool_call>f\n<arg_key>s</arg_key>x", "<tool_call>f\n<arg_key>s</arg_key>x", ""),
    ROW(GLM, "<tool_call>f", "<tool_call>f", ""),
    ASTRAY(GLM, "<tool_call>f\n" ARG("s", "1") "<arg_key>i</arg_key>x</tool_call>", "<tool_call>f\n" ARG("s", "1") "<arg_key>i</arg_key>x</tool_call>", "", "", "f({\"s\": \"1\"x;"),
    ASTRAY(GLM, "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>lo", "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>lo", "", "", "f({\"s\": \"lo;"),
};

static void test_every_cut(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) check_every_cut(&rows[i]);
}

/* A string goes out as it comes, other values once they are whole. */
static void test_nothing_waits_longer_than_it_must(void **state) {
  (void)state;
  static const struct { const char *piece, *out; } steps[] = {
      {"<tool_call>\n<function=f>\n<parameter=s>", ""}, {"\nZ", "f({\"s\": \"Z;"}, {"u\"", "f({\"s\": \"Zu\\\";"}, {"\n", "f({\"s\": \"Zu\\\";"}, {"r", "f({\"s\": \"Zu\\\"\\nr;"},
      {"\n</parameter>\n", "f({\"s\": \"Zu\\\"\\nr;"}, {"<parameter=", "f({\"s\": \"Zu\\\"\\nr\";"}, {"n>\n12", "f({\"s\": \"Zu\\\"\\nr\", \"n\": ;"},
      {"\n</parameter>\n</function>", "f({\"s\": \"Zu\\\"\\nr\", \"n\": 12});"}};
  struct api_tool_parser parser;
  struct api_tool_calls calls = {0};
  struct tl_buffer content, out;
  tl_buffer_init(&content, 0);
  tl_buffer_init(&out, 0);
  api_tool_parser_init(&parser, QWEN, row_types, false);
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    assert_int_equal(api_tool_parser_push(&parser, steps[i].piece, strlen(steps[i].piece), &content, &calls), TL_OK);
    tl_buffer_clear(&out);
    write_calls(&calls, &out);
    assert_string_equal(tl_buffer_string(&out), steps[i].out);
  }
  assert_int_equal(content.length, 0);
  api_tool_parser_done(&parser);
  api_tool_calls_done(&calls);
  tl_buffer_done(&content);
  tl_buffer_done(&out);
}

/* A megabyte in pieces of 7: what is no call comes out as it went in, and a stream's string as it is. */
static void test_a_megabyte_of_nonsense(void **state) {
  (void)state;
  static const struct { const struct api_tool_format *format; const char *head, *what; bool value; } texts[] = {
      {QWEN, "", "<tool_call>", false}, {QWEN, "", "<function=", false}, {QWEN, "<tool_call>", " ", false}, {QWEN, "<function=", "f", false},
      {QWEN, "<function=f>", "\n", false}, {QWEN, "<function=f><parameter=", "k", false}, {GLM, "<tool_call>", "f", false}, {GLM, "<tool_call>f\n", " ", false},
      {QWEN, "<function=f><parameter=s>", "</parameter>", true}, {QWEN, "<function=f><parameter=s>", "</parameter>                         ", true},
      {QWEN, "<function=f><parameter=s>", "</parameter>x", true}, {QWEN, "<function=f><parameter=s>a</parameter>", " ", true},
      {GLM, "<tool_call>f<arg_key>s</arg_key><arg_value>", "</arg_value><", true}, {QWEN, "<function=f><parameter=o>", "[", true}};
  for (size_t t = 0; t < sizeof texts / sizeof *texts; t++)
    for (int whole = 0; whole < 2; whole++) {
      char *text = repeated(texts[t].head, texts[t].what, (1 << 20) / strlen(texts[t].what));
      if (whole || !texts[t].value) {
        check_no_call(texts[t].format, text, whole);
      } else {
        struct row row = {texts[t].format, text, text, "", NULL, NULL};
        struct result result;
        size_t n, *cuts = cuts_of_seven(text, &n);
        parse(&row, false, cuts, n, &result);
        assert_int_equal(result.content.length, 0);
        assert_memory_equal(result.calls.data, "f({\"", 4);
        tl_buffer_done(&result.content);
        tl_buffer_done(&result.calls);
        free(cuts);
      }
      free(text);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_cut), cmocka_unit_test(test_nothing_waits_longer_than_it_must), cmocka_unit_test(test_a_megabyte_of_nonsense)};
  struct tl_arena arena;
  json_t *list = json_loads(tools, 0, NULL);
  tl_arena_init(&arena, 0);
  if (!list || api_tool_types_read(list, &arena, &row_types) < 0) return 1;
  json_decref(list);
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  tl_arena_done(&arena);
  return failed;
}
