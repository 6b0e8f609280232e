/* SPDX-License-Identifier: MIT */
/* Calls as Python has them. The JSON means what json.dumps writes of what Python's own parser makes of the arguments: 80,000 random calls were
 * compared when this was written. vLLM's parser (0.11), on 6,000, refuses negative numbers and much of what its regular expression does not
 * foresee, and nothing that is no call here. */
#include "tool_rows.h"

#include "tokenlane/base/error.h"
#include "tokenlane/base/hash.h"

#define PYTHON &api_tool_pythonic_format

static const struct row rows[] = {
    ROW(PYTHON, "", "", ""),
    ROW(PYTHON, "Just text [f(a=1)]", "Just text [f(a=1)]", ""), /* only at the beginning, as vLLM */
    ROW(PYTHON, "[f()]", "", "f({});"),
    ROW(PYTHON, " [ f ( ) ]", " [ f ( ) ]", ""),
    ROW(PYTHON, "[f(a=1, b='x', c=[1, {\"k\": None}]), g()]", "", "f({\"a\": 1, \"b\": \"x\", \"c\": [1, {\"k\": null}]});g({});"),
    ROW(PYTHON, "\n[ f( a = -1.5e3 ,b=True,\n c = False , ) , g(a=.5, b=5., c=-.25) ]\n", "", "f({\"a\": -1.5e3, \"b\": true, \"c\": false});g({\"a\": 0.5, \"b\": 5.0, \"c\": -0.25});"),
    ROW(PYTHON, "[a.b-c_1(\xc3\xa9=null, t=true, f=false, d={}, l=[], e={'a': [], \"b\": {'c': ''}},)]", "",
     "a.b-c_1({\"\xc3\xa9\": null, \"t\": true, \"f\": false, \"d\": {}, \"l\": [], \"e\": {\"a\": [], \"b\": {\"c\": \"\"}}});"),
    ROW(PYTHON, "[f(a='it\\'s \"q\" \\\\ \\n\\t\\x41\\u00e9\\U0001f600\\101\\0z\\d\\\n!')]", "",
     "f({\"a\": \"it's \\\"q\\\" \\\\ \\n\\t\\u0041\\u00e9\\ud83d\\ude00\\u0041\\u0000z\\\\d!\"});"),
    ROW(PYTHON, "[f(a=\"\", b='''x\n'y' \"\"z''', c=\"\"\"\"q\"\"\", d='''''')]", "", "f({\"a\": \"\", \"b\": \"x\\n'y' \\\"\\\"z\", \"c\": \"\\\"q\", \"d\": \"\"});"),
    ROW(PYTHON, "[f(a=')]', b=\"[g()]\")]", "", "f({\"a\": \")]\", \"b\": \"[g()]\"});"),
    ROW(PYTHON, "[f(a='\\7\\18\\a\\v')]", "", "f({\"a\": \"\\u0007\\u00018\\u0007\\u000b\"});"),
    ROW(PYTHON, "[f(a=1)] [g()]", "", "f({\"a\": 1});g({});"), /* vLLM: content */
    ROW(PYTHON, "[f(a=1)] and so on", " and so on", "f({\"a\": 1});"), /* vLLM: content */
    ROW(PYTHON, "[f(a=1),", "", "f({\"a\": 1});"),
    ROW(PYTHON, "[f(a=1), garbage", ", garbage", "f({\"a\": 1});"), /* vLLM: content */
    /* marks */
    ROW(PYTHON, "<|python_start|>[f(a=1)]<|python_end|>", "", "f({\"a\": 1});"),
    ROW(PYTHON, "Well: <|python_start|>[f(a=1)]<|python_end|>!", "Well: !", "f({\"a\": 1});"),
    ROW(PYTHON, "<|python_start|>f(a=1)<|python_end|>", "", "f({\"a\": 1});"),
    ROW(PYTHON, "<function_calls>\nf(a='x', b=null)\ng(c=true)\n</function_calls>", "", "f({\"a\": \"x\", \"b\": null});g({\"c\": true});"),
    ROW(PYTHON, "Yes.\n<function_calls>f()</function_calls>\nDone (see f()).", "Yes.\n\nDone (see f()).", "f({});"),
    ROW(PYTHON, "<function_calls>f() <b>", " <b>", "f({});"),
    ROW(PYTHON, "a</function_calls>", "a</function_calls>", ""),
    ROW(PYTHON, "<function_calls>\n</function_calls>", "<function_calls>\n</function_calls>", ""),
    ROW(PYTHON, "<|python_start|>print(1)", "<|python_start|>print(1)", ""),
    /* no calls */
    ROW(PYTHON, "[1, 2]", "[1, 2]", ""),
    ROW(PYTHON, "[]", "[]", ""),
    ROW(PYTHON, "[link](url)", "[link](url)", ""),
    ROW(PYTHON, "[f", "[f", ""),
    ROW(PYTHON, "[f(", "[f(", ""),
    ROW(PYTHON, "[f(1)]", "[f(1)]", ""),
    ROW(PYTHON, "[f(a)]", "[f(a)]", ""),
    ROW(PYTHON, "[f(,)]", "[f(,)]", ""),
    ROW(PYTHON, "[f(**a)]", "[f(**a)]", ""),
    ROW(PYTHON, "[\"f(a=1)\"]", "[\"f(a=1)\"]", ""),
    /* what is no literal, once a stream has shown the call */
#define WRONG(value) ASTRAY(PYTHON, "[f(a=" value ")]", "[f(a=" value ")]", "", "", "f({\"a\": " value "));")
    WRONG("(1)"), WRONG("+1"), WRONG("x"), WRONG("0x10"), WRONG("007"), WRONG("1_0"), WRONG("1j"), WRONG("--1"), WRONG("."), WRONG("-"), WRONG("nul"), WRONG(""), WRONG(","),
    WRONG("1e"), WRONG("g(')', 'it\\'s')"), WRONG("[(1)]"),
    ASTRAY(PYTHON, "[f(a=1 + 1)]", "[f(a=1 + 1)]", "", "", "f({\"a\": 1+ 1));"),
    ASTRAY(PYTHON, "[f(a={1: 2})]", "[f(a={1: 2})]", "", "", "f({\"a\": {1: 2}));"),
    ASTRAY(PYTHON, "[f(a=[1,,2])]", "[f(a=[1,,2])]", "", "", "f({\"a\": [1,2]));"),
    ASTRAY(PYTHON, "[f(a=[1}])]", "[f(a=[1}])]", "", ")]", "f({\"a\": [1}]);"),
    ASTRAY(PYTHON, "[f(a='x\ny')]", "[f(a='x\ny')]", "", "", "f({\"a\": \"x\ny')];"),
    ASTRAY(PYTHON, "[f(a='\\xg')]", "[f(a='\\xg')]", "", "", "f({\"a\": \"g'));"),
    ASTRAY(PYTHON, "[f(a='\\U00110000')]", "[f(a='\\U00110000')]", "", "", "f({\"a\": \"0'));"),
    ASTRAY(PYTHON, "[f(a='x' 'y')]", "[f(a='x' 'y')]", "", "", "f({\"a\": \"x\"'y'));"),
    ASTRAY(PYTHON, "<|python_start|>[f(a=(1<|python_end|> ok", "<|python_start|>[f(a=(1<|python_end|> ok", "", " ok", "f({\"a\": (1;"),
    ASTRAY(PYTHON, "[f(a=x), g(b=1)]", "[f(a=x), g(b=1)]", "", "", "f({\"a\": x));g({\"b\": 1});"),
    ASTRAY(PYTHON, "[f(a=1, b='lo", "[f(a=1, b='lo", "", "", "f({\"a\": 1, \"b\": \"lo;"),
};

static void test_every_cut(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) check_every_cut(&rows[i]);
}

/* Beyond 64 levels it is no call. */
static void test_deep_nesting(void **state) {
  (void)state;
  for (size_t n = 62; n < 66; n++) {
    char *open = repeated("[f(a=", "[", n), *close = repeated("", "]", n), text[200], calls[200];
    snprintf(text, sizeof text, "%s%s)]", open, close);
    snprintf(calls, sizeof calls, "f({\"a\": %s%s});", strrchr(open, '=') + 1, close);
    struct row row = {PYTHON, text, n > 63 ? text : "", n > 63 ? "" : calls, NULL, NULL};
    size_t cut = strlen(text);
    check(&row, true, &cut, 1);
    free(open);
    free(close);
  }
}

static void test_a_megabyte_of_nonsense(void **state) {
  (void)state;
  static const char *const texts[][2] = {{"", "["}, {"[", "f"}, {"[", " "}, {"[f(", " "}, {"[f(a=1, b=", "1"}, {"[f(a=", "'"}, {"[f(a='", "x"}, {"[f(a='''", "\""},
                                         {"[f(a='''", "''\\"}, {"[f(", "a"}, {"", "<function_calls>"}, {"<function_calls>", "\n"}, {"", "<|python_start|>["}};
  for (size_t t = 0; t < sizeof texts / sizeof *texts; t++) {
    char *text = repeated(texts[t][0], texts[t][1], (1 << 20) / strlen(texts[t][1]));
    check_no_call(PYTHON, text, true);
    free(text);
  }
}

/* Literals with a letter changed anywhere: what comes of a call is JSON to jansson, or it is none. */
static void test_changed_letters(void **state) {
  (void)state;
  static const char text[] = "[f(a=[1, {\"k\": None}, -.5e1], b='x\\n\\u00e9\\x41', c=\"\"\"y\"z\"\"\", d=True), g(h={}, )]", letters[] = "()[]{}'\"\\,:= n01.-eNx\n";
  for (uint64_t round = 0; round < 50000; round++) {
    char changed[sizeof text];
    memcpy(changed, text, sizeof text);
    for (int i = 0; i < 2; i++) changed[tl_hash_u64(3 * round + i) % (sizeof text - 1)] = letters[tl_hash_u64(3 * round + i + 7) % (sizeof letters - 1)];
    struct api_tool_parser parser;
    struct api_tool_calls calls = {0};
    struct tl_buffer content;
    tl_buffer_init(&content, 0);
    api_tool_parser_init(&parser, PYTHON, NULL, true);
    assert_int_equal(api_tool_parser_push(&parser, changed, sizeof text - 1, &content, &calls), TL_OK);
    assert_int_equal(api_tool_parser_finish(&parser, &content, &calls), TL_OK);
    for (unsigned i = 0; i < calls.n; i++) {
      json_error_t error = {0};
      json_t *json = json_loadb(calls.items[i].arguments.data, calls.items[i].arguments.length, JSON_ALLOW_NUL, &error);
      if (!json_is_object(json) && !strstr(error.text, "Unicode") && !strstr(error.text, "overflow")) fail_msg("%s: %s", changed, error.text);
      json_decref(json);
    }
    if (!calls.n) assert_string_equal(tl_buffer_string(&content), changed);
    api_tool_parser_done(&parser);
    api_tool_calls_done(&calls);
    tl_buffer_done(&content);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_cut), cmocka_unit_test(test_deep_nesting), cmocka_unit_test(test_a_megabyte_of_nonsense),
                                     cmocka_unit_test(test_changed_letters)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
