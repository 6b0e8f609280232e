/* SPDX-License-Identifier: MIT */
/* Gemma 4's calls: JSON of what has no quotes, or others. */
#include "tool_rows.h"

#define GEMMA &api_tool_gemma4_format
#define CALL(name, args) "<|tool_call>call:" name "{" args "}<tool_call|>"
#define Q "<|\"|>"

static const struct row rows[] = {
    ROW(GEMMA, "Text {a:1} <|tool", "Text {a:1} <|tool", ""),
    ROW(GEMMA, CALL("f", ""), "", "f({});"),
    ROW(GEMMA, CALL("f", "a:1"), "", "f({\"a\": 1});"),
    ROW(GEMMA, CALL("f", "a:1,b:" Q "x" Q ",c:true,d:null,e:-2.5e3"), "", "f({\"a\": 1, \"b\": \"x\", \"c\": true, \"d\": null, \"e\": -2.5e3});"),
    ROW(GEMMA, "So. " CALL("get.it-2", "a:[1,[" Q "x, }" Q "],{b:{},c:[]}]"), "So. ", "get.it-2({\"a\": [1, [\"x, }\"], {\"b\": {}, \"c\": []}]});"),
    ROW(GEMMA, CALL("f", "a:" Q "say \"no\"\n<|x<|\"\\|>" Q), "", "f({\"a\": \"say \\\"no\\\"\\n<|x<|\\\"\\\\|>\"});"),
    ROW(GEMMA, CALL("f", "a:" Q Q), "", "f({\"a\": \"\"});"),
    ROW(GEMMA, CALL("f", " a : 1 , b : [ 1 , 2 ] "), "", "f({\"a\": 1, \"b\": [1, 2]});"),
    ROW(GEMMA, CALL("f", Q "a b" Q ":1"), "", "f({\"a b\": 1});"),
    ROW(GEMMA, CALL("f", "a:plain text,b:<"), "", "f({\"a\": \"plain text\", \"b\": \"<\"});"), /* quotes that are missing */
    ROW(GEMMA, CALL("f", "a:None,b:[None ],c:Nones"), "", "f({\"a\": null, \"b\": [null], \"c\": \"Nones\"});"), /* as the template gives them to the model */
    ROW(GEMMA, CALL("f", "a:1") CALL("g", "b:2") "\n", "", "f({\"a\": 1});g({\"b\": 2});"),
    ROW(GEMMA, CALL("f", "a:1") "Done.", "Done.", "f({\"a\": 1});"),
    ROW(GEMMA, "<|tool_call>call:f{a:1}", "", "f({\"a\": 1});"),
    ROW(GEMMA, "<|tool_call>f{a:1}<tool_call|>", "<|tool_call>f{a:1}<tool_call|>", ""),
    ROW(GEMMA, "<|tool_call>call:{a:1}", "<|tool_call>call:{a:1}", ""),
    ROW(GEMMA, "<|tool_call>call:f", "<|tool_call>call:f", ""),
    ROW(GEMMA, "a<tool_call|>b", "a<tool_call|>b", ""),
    ROW(GEMMA, "<|tool_call>call:f{]}", "<|tool_call>call:f{]}", ""),
    ASTRAY(GEMMA, "<|tool_call>call:f{a:1", "<|tool_call>call:f{a:1", "", "", "f({\"a\": ;"),
};

static void test_every_cut(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) check_every_cut(&rows[i]);
}

static void test_a_megabyte_of_nonsense(void **state) {
  (void)state;
  static const struct { const char *head, *what; } texts[] = {{"", "<|tool_call>"}, {"<|tool_call>", " "}, {"<|tool_call>call:", "f"}, {"", "<tool_call|>"}};
  for (size_t t = 0; t < sizeof texts / sizeof *texts; t++)
    for (int whole = 0; whole < 2; whole++) {
      char *text = repeated(texts[t].head, texts[t].what, (1 << 20) / strlen(texts[t].what));
      check_no_call(GEMMA, text, whole);
      free(text);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_cut), cmocka_unit_test(test_a_megabyte_of_nonsense)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
