/* SPDX-License-Identifier: MIT */
/* Calls in text: each format from a table, with the text cut at every place. What vLLM's own parsers (0.32) make of the same
 * texts, whole, was looked at when the table was written; where it differs the row says so. Its streams differ more: what was held
 * back and is no call, it loses. A name that no tool has is passed on, there and here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/tool_formats.h"
#include "tokenlane/base/hash.h"
#include "tool_rows.h"

#define HERMES &api_tool_hermes_format
#define LLAMA &api_tool_llama3_json_format
#define MISTRAL &api_tool_mistral_format
#define GRANITE &api_tool_granite_format
#define NEMOTRON &api_tool_nemotron_format
#define HARMONY &api_tool_harmony_format
#define LIST &api_tool_list_format

#define CALL(name, args) "{\"name\": \"" name "\", \"arguments\": " args "}"
#define PARAMS(name, args) "{\"name\": \"" name "\", \"parameters\": " args "}"

static const struct row rows[] = {
    /* --- hermes */
    ROW(HERMES, "", "", ""),
    ROW(HERMES, "Just text, a < b and <tool> and <tool_cal.", "Just text, a < b and <tool> and <tool_cal.", ""),
    ROW(HERMES, "<tool_call", "<tool_call", ""),
    ROW(HERMES, " \n ", " \n ", ""),
    ROW(HERMES, "<tool_call>\n" CALL("f", "{\"a\": 1}") "\n</tool_call>", "", "f({\"a\": 1});"),
    ROW(HERMES, "<tool_call>" CALL("f", "{}") "</tool_call>", "", "f({});"),
    ROW(HERMES, "Let me look.\n<tool_call>\n" CALL("f", "{\"a\": {\"b\": [1, 2.5e-3, true, null, \"x\"]}}") "\n</tool_call>", "Let me look.\n",
     "f({\"a\": {\"b\": [1, 2.5e-3, true, null, \"x\"]}});"),
    ROW(HERMES, "<tool_call>\n" CALL("f", "{\"a\": 1}") "\n</tool_call>\n<tool_call>\n" CALL("g", "{\"b\": \"}</tool_call>\\\"\"}") "\n</tool_call>\n", "",
     "f({\"a\": 1});g({\"b\": \"}</tool_call>\\\"\"});"), /* vLLM: content, its end mark counts within strings */
    ROW(HERMES, "\n\n<tool_call>" CALL("f", "{}") "</tool_call>", "", "f({});"), /* vLLM: content "\n\n" */
    ROW(HERMES, "<tool_call>" CALL("f", "{}") "</tool_call> And now?", " And now?", "f({});"), /* vLLM drops what comes behind a call */
    ROW(HERMES, "<tool_call>\n" CALL("f", "{\"a\": 1}"), "", "f({\"a\": 1});"),
    ROW(HERMES, "<tool_call>\n" CALL("f", "{\"a\": 1}") "\n</tool_c", "", "f({\"a\": 1});"), /* vLLM: content; its stream as here */
    ROW(HERMES, "<tool_call>" CALL("f", "{}") "<tool_call>" CALL("g", "{}"), "", "f({});g({});"),
    ROW(HERMES, "<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"f\"}</tool_call>", "", "f({\"a\": 1});"),
    ROW(HERMES, "<tool_call> { \"id\" : 7 , \"name\" : \"f\" , \"x\": {\"name\": [\"n\"]}, \"arguments\" : { \"a\" : 1 } } </tool_call>", "", "f({ \"a\" : 1 });"),
    ROW(HERMES, "<tool_call>" CALL("caf\\u00e9 \\\"x\\\"", "{\"k\": \"\xc3\xa9\xf0\x9f\x98\x80\"}") "</tool_call>", "", "caf\xc3\xa9 \"x\"({\"k\": \"\xc3\xa9\xf0\x9f\x98\x80\"});"),
    ROW(HERMES, "<think>hm</think>\n<tool_call>" CALL("f", "{}") "</tool_call>", "<think>hm</think>\n", "f({});"),
    ROW(HERMES, "<tool_call>" PARAMS("f", "{}") "</tool_call>", "", "f({});"), /* vLLM: content */
    /* no calls */
    ROW(HERMES, "<tool_call>\nnot json\n</tool_call>", "<tool_call>\nnot json\n</tool_call>", ""),
    ROW(HERMES, "<tool_call>{\"name\": \"f\"}</tool_call>", "<tool_call>{\"name\": \"f\"}</tool_call>", ""),
    ROW(HERMES, "<tool_call>{\"arguments\": {}}</tool_call>", "<tool_call>{\"arguments\": {}}</tool_call>", ""),
    ROW(HERMES, "<tool_call>" CALL("", "{}") "</tool_call>", "<tool_call>" CALL("", "{}") "</tool_call>", ""), /* vLLM: a call without a name */
    ROW(HERMES, "<tool_call>" CALL("f", "\"{}\"") "</tool_call>", "<tool_call>" CALL("f", "\"{}\"") "</tool_call>", ""), /* vLLM: arguments that are a string */
    ROW(HERMES, "<tool_call>{\"name\": 5, \"arguments\": {}}</tool_call>", "<tool_call>{\"name\": 5, \"arguments\": {}}</tool_call>", ""),
    ROW(HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>", "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>", ""), /* vLLM: likewise */
    ROW(HERMES, "<tool_call>{\"name\": \"f\", \"name\": \"g\", \"arguments\": {}}", "<tool_call>{\"name\": \"f\", \"name\": \"g\", \"arguments\": {}}", ""),
    ROW(HERMES, "a</tool_call>b", "a</tool_call>b", ""),
    ROW(HERMES, "</tool_call>b", "</tool_call>b", ""),
    ROW(HERMES, "<tool_call><tool_call>" CALL("f", "{}"), "<tool_call>", "f({});"),
    ROW(HERMES, "<tool_call>{\"x\": 01, \"name\": \"f\", \"arguments\": {}}", "<tool_call>{\"x\": 01, \"name\": \"f\", \"arguments\": {}}", ""),
    ROW(HERMES, "<tool_call>{\"x\": \"\\x\", \"name\": \"f\", \"arguments\": {}}", "<tool_call>{\"x\": \"\\x\", \"name\": \"f\", \"arguments\": {}}", ""),
    /* what goes wrong once a stream has shown it */
    ASTRAY(HERMES, "<tool_call>" CALL("f", "{\"a\": 'x'}") "</tool_call>", "<tool_call>" CALL("f", "{\"a\": 'x'}") "</tool_call>", "", "", "f({\"a\": 'x'});"),
    ASTRAY(HERMES, "<tool_call>" CALL("f", "{\"a\": \"x\n}\", 1: [}}") "</tool_call> b", "<tool_call>" CALL("f", "{\"a\": \"x\n}\", 1: [}}") "</tool_call> b", "", " b",
     "f({\"a\": \"x\n}\", 1: [}});"),
    ASTRAY(HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x\n</tool_call>\n<tool_call>" CALL("g", "{}") "</tool_call>",
     "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x\n</tool_call>\n", "g({});", "", "f({\"a\": \"x\n;g({});"),
    ASTRAY(HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1", "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1", "", "", "f({\"a\": 1;"),
    ASTRAY(HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}</tool_call>", "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}</tool_call>", "", "",
     "f({\"a\": 1});"),
    ASTRAY(HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {}, \"arguments\": {}}", "<tool_call>{\"name\": \"f\", \"arguments\": {}, \"arguments\": {}}", "",
     "{}}", "f({});"),
    /* --- llama3_json */
    ROW(LLAMA, PARAMS("f", "{\"a\": 1}"), "", "f({\"a\": 1});"),
    ROW(LLAMA, "<|python_tag|>" PARAMS("f", "{\"a\": 1}"), "", "f({\"a\": 1});"),
    ROW(LLAMA, PARAMS("f", "{}") "; " PARAMS("g", "{\"a\": \";{\"}") ";" CALL("h", "{}"), "", "f({});g({\"a\": \";{\"});h({});"),
    ROW(LLAMA, "\n " PARAMS("f", "{}") "\n" PARAMS("g", "{}"), "", "f({});g({});"),
    ROW(LLAMA, "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}", "", "f({});"),
    ROW(LLAMA, "Hello {\"name\": 1}", "Hello {\"name\": 1}", ""),
    ROW(LLAMA, "I call " PARAMS("f", "{}"), "I call " PARAMS("f", "{}"), ""), /* vLLM: a call when it is not streamed, text when it is */
    ROW(LLAMA, "{\"name\": \"Bob\", \"age\": 5}", "{\"name\": \"Bob\", \"age\": 5}", ""),
    ROW(LLAMA, "{\"parameters\": {\"name\": \"f\", \"parameters\": {}}}", "{\"parameters\": {\"name\": \"f\", \"parameters\": {}}}", ""),
    ROW(LLAMA, "{ not JSON " PARAMS("f", "{}"), "{ not JSON " PARAMS("f", "{}"), ""),
    ROW(LLAMA, "<|python_tag|>print(1)", "<|python_tag|>print(1)", ""),
    ROW(LLAMA, PARAMS("f", "{}") " is what I call", " is what I call", "f({});"), /* vLLM drops the text */
    ROW(LLAMA, "; ", "; ", ""),
    ROW(LLAMA, PARAMS("f", "{}") "; ", "", "f({});"),
    /* --- mistral */
    ROW(MISTRAL, "[TOOL_CALLS][" CALL("f", "{\"a\": 1}") "]", "", "f({\"a\": 1});"),
    ROW(MISTRAL, "[TOOL_CALLS] [" CALL("f", "{\"a\": [1]}") ", {\"name\": \"g\", \"arguments\": {}, \"id\": \"123456789\"}]", "", "f({\"a\": [1]});g({});"),
    ROW(MISTRAL, "Wait.[TOOL_CALLS]" CALL("f", "{}"), "Wait.", "f({});"),
    ROW(MISTRAL, "[TOOL_CALLS]f[ARGS]{\"a\": \"[TOOL_CALLS]\"}", "", "f({\"a\": \"[TOOL_CALLS]\"});"), /* vLLM: cut at the mark within the string */
    ROW(MISTRAL, "[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[CALL_ID]abcdefghi[ARGS]{}", "", "f({\"a\": 1});g({});"),
    ROW(MISTRAL, "[TOOL_CALLS]my.f-1 {\"a\": 1}", "", "my.f-1({\"a\": 1});"),
    /* here vLLM drops the mark, and takes an object without arguments for a call with {}, and anything behind [ARGS] */
    ROW(MISTRAL, "[TOOL_CALLS]", "[TOOL_CALLS]", ""),
    ROW(MISTRAL, "[TOOL_CALLS][]", "[TOOL_CALLS][]", ""),
    ROW(MISTRAL, "[TOOL_CALLS]f[x]{}", "[TOOL_CALLS]f[x]{}", ""),
    ROW(MISTRAL, "[TOOL_CALLS][ARGS]{}", "[TOOL_CALLS][ARGS]{}", ""),
    ROW(MISTRAL, "[TOOL_CALLS]f\n[ARGS]{}", "[TOOL_CALLS]f\n[ARGS]{}", ""),
    ROW(MISTRAL, "[TOOL_CALLS]f[ARGS]5", "[TOOL_CALLS]f[ARGS]5", ""),
    ROW(MISTRAL, "[1, 2] [TOOL_CALL]", "[1, 2] [TOOL_CALL]", ""),
    ROW(MISTRAL, "[TOOL_CALLS][" CALL("f", "{}") ", garbage", ", garbage", "f({});"), /* vLLM: content */
    ROW(MISTRAL, "[TOOL_CALLS][" CALL("f", "{}") ",", "", "f({});"),
    ASTRAY(MISTRAL, "[TOOL_CALLS]f[ARGS]{\"a\": x}[TOOL_CALLS]g[ARGS]{}", "[TOOL_CALLS]f[ARGS]{\"a\": x}", "g({});", "", "f({\"a\": x});g({});"),
    ASTRAY(MISTRAL, "[TOOL_CALLS]f[ARGS]{\"a\": x[TOOL_CALLS]g[ARGS]{}", "[TOOL_CALLS]f[ARGS]{\"a\": x", "g({});", "", "f({\"a\": x;g({});"),
    /* --- granite */
    ROW(GRANITE, "<|tool_call|>[" CALL("f", "{\"a\": 1}") "]", "", "f({\"a\": 1});"),
    ROW(GRANITE, "<tool_call> [" CALL("f", "{}") ", " CALL("g", "{}") "]", "", "f({});g({});"),
    ROW(GRANITE, "<tool_call>\n" CALL("f", "{}") "\n</tool_call>", "", "f({});"),
    ROW(GRANITE, "a<tool_call>\n" CALL("f", "{}") "\n</tool_call>b", "ab", "f({});"),
    ROW(GRANITE, "<|tool_call|>[" CALL("f", "{\"a\": 1}"), "", "f({\"a\": 1});"),
    ROW(GRANITE, "<|tool_call|>" CALL("f", "{}") "<|/tool_call|><|tool_call|>[" CALL("g", "{}") "]<|/tool_call|>", "", "f({});g({});"),
    ROW(GRANITE, "Well <|tool|> <|tool_call|>x", "Well <|tool|> <|tool_call|>x", ""), /* vLLM drops the mark */
    /* --- nemotron */
    ROW(NEMOTRON, "<TOOLCALL>[" CALL("f", "{\"a\": 1}") ", " CALL("g", "{}") "]</TOOLCALL>", "", "f({\"a\": 1});g({});"),
    ROW(NEMOTRON, "Well.\n<TOOLCALL>[\n" CALL("f", "{}") "\n]\n</TOOLCALL>\n", "Well.\n", "f({});"),
    ROW(NEMOTRON, "<TOOLCALL>[" CALL("f", "{}"), "", "f({});"),
    ROW(NEMOTRON, "<TOOLCALL>no</TOOLCALL> <TOOLBOX>", "<TOOLCALL>no</TOOLCALL> <TOOLBOX>", ""),
    /* --- what a grammar made of tool_choice "required" */
    ROW(LIST, "[" PARAMS("f", "{\"a\": 1}") ", " PARAMS("g", "{}") "]", "", "f({\"a\": 1});g({});"),
    ROW(LIST, "[\n  " PARAMS("f", "{}") "\n]\n", "", "f({});"),
    ROW(LIST, "none", "none", ""),
    /* --- harmony: the rest of the content is what it is without tools */
    ROW(HARMONY, "<|channel|>final<|message|>Hello <b>", "finalHello <b>", ""),
    ROW(HARMONY, "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>", "", "f({\"a\": 1});"),
    ROW(HARMONY, " to=functions.f<|channel|>commentary json<|message|>{\"a\": 1}", "", "f({\"a\": 1});"),
    ROW(HARMONY, "to=functions.f<|constrain|>json<|message|> {\"a\": \"<|call|>\"} ", "", "f({\"a\": \"<|call|>\"});"),
    ROW(HARMONY, "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f<|message|>{}<|call|>"
              "<|start|>assistant<|channel|>commentary to=functions.g<|message|>{}<|call|>", "analysishm", "f({});g({});"),
    ROW(HARMONY, "<|channel|>commentary to=python<|message|>1<|end|>", "commentary to=python1", ""),
    ROW(HARMONY, "to=functional", "to=functional", ""),
    ROW(HARMONY, " tomorrow", " tomorrow", ""),
    ROW(HARMONY, "plain", "plain", ""),
    ROW(HARMONY, "<|channel|>final", "final", ""),
    ROW(HARMONY, "<|channel|>commentary to=functions.f<|message|>text<|end|>", "commentary to=functions.ftext", ""),
    ASTRAY(HARMONY, "<|channel|>commentary to=functions.f<|message|>{\"a\": x<|call|><|start|>assistant<|channel|>final<|message|>y",
     "commentary to=functions.f{\"a\": xassistantfinaly", "", "assistantfinaly", "f({\"a\": x;"),
};

static void test_every_cut(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) check_every_cut(&rows[i]);
}

/* A piece at a time: what is out after each, "content|calls". */
static void test_nothing_waits_longer_than_it_must(void **state) {
  (void)state;
  static const struct { const struct api_tool_format *format; const char *piece, *out; } steps[] = {
      {HERMES, "a", "a|"}, {NULL, " <", "a |"}, {NULL, "b", "a <b|"}, {NULL, "<tool_c", "a <b|"}, {NULL, "x", "a <b<tool_cx|"},
      {NULL, "<tool_call>\n{\"name\": \"f", "a <b<tool_cx|"}, {NULL, "\", \"arguments\": ", "a <b<tool_cx|"}, {NULL, "{\"", "a <b<tool_cx|f({\";"},
      {NULL, "a\": \"}", "a <b<tool_cx|f({\"a\": \"};"}, {NULL, "\"}", "a <b<tool_cx|f({\"a\": \"}\"});"}, {NULL, "}\n</tool_call>\n", "a <b<tool_cx|f({\"a\": \"}\"});"},
      {NULL, "c", "a <b<tool_cx\nc|f({\"a\": \"}\"});"},
      {HERMES, "<tool_call>{\"arguments\": {\"a\": 1}", "|"}, {NULL, ", \"name\": \"f\"", "|f({\"a\": 1});"},
      {LLAMA, "{", "|"}, {NULL, "\"a\": 1}", "{\"a\": 1}|"}, {NULL, "{", "{\"a\": 1}{|"},
      {LLAMA, "H", "H|"}, {NULL, " {\"name\": ", "H {\"name\": |"},
      {LLAMA, "<|python_tag|>", "|"}, {NULL, "{\"name\": \"f\", \"parameters\": {", "|f({;"},
      {MISTRAL, "[", "|"}, {NULL, "1", "[1|"}, {NULL, "[TOOL_CALLS]f", "[1|"}, {NULL, "[ARGS]", "[1|"}, {NULL, "{\"a", "[1|f({\"a;"}, {NULL, "\": 1}", "[1|f({\"a\": 1});"},
      {HARMONY, "<|channel|>", "|"}, {NULL, "final", "|"}, {NULL, "<|message|>", "final|"}, {NULL, "x", "finalx|"}};
  struct api_tool_parser parser;
  struct api_tool_calls calls = {0};
  struct tl_buffer content, out;
  tl_buffer_init(&content, 0);
  tl_buffer_init(&out, 0);
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    if (steps[i].format) {
      if (i) api_tool_parser_done(&parser);
      api_tool_calls_done(&calls);
      tl_buffer_clear(&content);
      api_tool_parser_init(&parser, steps[i].format, NULL, false);
    }
    assert_int_equal(api_tool_parser_push(&parser, steps[i].piece, strlen(steps[i].piece), &content, &calls), TL_OK);
    tl_buffer_clear(&out);
    tl_buffer_append(&out, content.data, content.length);
    tl_buffer_putc(&out, '|');
    write_calls(&calls, &out);
    assert_string_equal(tl_buffer_string(&out), steps[i].out);
  }
  api_tool_parser_done(&parser);
  api_tool_calls_done(&calls);
  tl_buffer_done(&content);
  tl_buffer_done(&out);
}

/* --- hostile ----------------------------------------------------------------------------------------- */

/* What is no call comes out as it went in; a megabyte in pieces of 7 takes no longer than a stream of text. */
static void test_a_megabyte_of_nonsense(void **state) {
  (void)state;
  static const struct api_tool_format *const all[] = {HERMES, LLAMA, MISTRAL, GRANITE, LIST};
  static const struct { const char *head, *what; } texts[] = {
      {"", "{"}, {"", "["}, {"", "<tool_call>"}, {"", "[TOOL_CALLS]"}, {"", "<|python_tag|>"}, {"", "<"}, {"<tool_call>", " "}, {"", " "},
      {"<tool_call>", "["}, {"[TOOL_CALLS]", "f"}, {"[TOOL_CALLS]f[CALL_ID]", "x"}, {"[TOOL_CALLS]f", "[CALL_ID]"}, {"<tool_call>{\"x\": ", "["},
      {"<tool_call>{\"name\": \"", "f"}, {"{", "\"a\": 1,"}, {"<tool_call>{\"arguments\": {\"x\": \"", "y"}, {"[TOOL_CALLS][", " "}, {"", "<|tool_call|>["}};
  for (size_t f = 0; f < sizeof all / sizeof *all; f++)
    for (size_t t = 0; t < sizeof texts / sizeof *texts; t++)
      for (int whole = 0; whole < 2; whole++) {
        char *text = repeated(texts[t].head, texts[t].what, (1 << 20) / strlen(texts[t].what));
        check_no_call(all[f], text, whole);
        free(text);
      }
}

/* What goes on too long for a name, or a header, is given out then, and not only at the end. */
static void test_what_is_held_has_a_limit(void **state) {
  (void)state;
  static const struct { const struct api_tool_format *format; const char *head, *what; size_t most; } texts[] = {
      {MISTRAL, "[TOOL_CALLS]", "f", 256}, {MISTRAL, "[TOOL_CALLS]f[CALL_ID]", "x", 64}, {MISTRAL, "[TOOL_CALLS]f", "[CALL_ID]", 64}, {HARMONY, "to=functions.", "f", 512}};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    char *text = repeated(texts[i].head, texts[i].what, texts[i].most + 2);
    struct api_tool_parser parser;
    struct api_tool_calls calls = {0};
    struct tl_buffer content;
    tl_buffer_init(&content, 0);
    api_tool_parser_init(&parser, texts[i].format, NULL, false);
    assert_int_equal(api_tool_parser_push(&parser, text, strlen(text), &content, &calls), TL_OK);
    assert_string_equal(tl_buffer_string(&content), text);
    api_tool_parser_done(&parser);
    tl_buffer_done(&content);
    free(text);
  }
}

/* Beyond 64 levels it is no JSON that anybody takes: content, or a stream's arguments as they are. */
static void test_deep_nesting(void **state) {
  (void)state;
  for (int deep = 0; deep < 2; deep++) {
    size_t n = deep ? 5000 : 61;
    char *open = repeated("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": ", "[", n), *close = repeated("", "]", n);
    char *text = malloc(strlen(open) + strlen(close) + 3), *calls = malloc(strlen(open) + strlen(close) + 8);
    assert_true(text && calls);
    strcat(strcat(strcpy(text, open), close), "}}");
    strcat(strcat(strcat(strcpy(calls, "f({\"a\": "), strchr(open, '[')), close), "});");
    struct row row = {HERMES, text, deep ? text : "", deep ? "" : calls, "", calls};
    size_t cut = strlen(text);
    check(&row, true, &cut, 1);
    check(&row, false, &cut, 1);
    free(open);
    free(close);
    free(text);
    free(calls);
  }
}

/* Fragments of all formats in any order: no byte of text without marks is lost, and cuts change nothing. */
static void test_random_fragments(void **state) {
  (void)state;
  static const struct api_tool_format *const all[] = {HERMES, LLAMA, MISTRAL, GRANITE, HARMONY, LIST};
  static const char *const fragments[] = {"<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|tool_call|>", "<|python_tag|>", "{\"name\": \"f\", ",
                                          "\"arguments\": {", "\"arguments\": {}", "}", "}}", "[", "]", ",", ";", " ", "\n", "\"a\": 1", "\"", "\\", "x", "<|channel|>", "<|message|>",
                                          "to=functions.g", "<|end|>", "<|call|>", "<", "\"name\": \"g\"", "{", "1e", "tru", "\\u00"};
  for (uint64_t round = 0; round < 30000; round++) {
    char text[512] = "";
    size_t n = 1 + tl_hash_u64(round) % 14;
    for (size_t i = 0; i < n; i++) strcat(text, fragments[tl_hash_u64(round * 50 + i + 1) % (sizeof fragments / sizeof *fragments)]);
    struct row row = {all[round % (sizeof all / sizeof *all)], text, NULL, NULL, NULL, NULL};
    size_t length = strlen(text), cuts[512], k = 0;
    for (int whole = 0; whole < 2; whole++) {
      struct result once;
      parse(&row, whole, &length, 1, &once);
      assert_true(once.content.length + once.calls.length <= length + 3 * n);
      row.content = row.streamed = tl_buffer_string(&once.content);
      row.calls = row.streamed_calls = tl_buffer_string(&once.calls);
      k = 0;
      for (size_t at = 0; at < length; cuts[k++] = at) {
        at += 1 + tl_hash_u64(round * 77 + at) % 5;
        if (at > length) at = length;
      }
      check(&row, whole, cuts, k);
      tl_buffer_done(&once.content);
      tl_buffer_done(&once.calls);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_cut), cmocka_unit_test(test_nothing_waits_longer_than_it_must),
                                     cmocka_unit_test(test_a_megabyte_of_nonsense), cmocka_unit_test(test_what_is_held_has_a_limit), cmocka_unit_test(test_deep_nesting),
                                     cmocka_unit_test(test_random_fragments)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
