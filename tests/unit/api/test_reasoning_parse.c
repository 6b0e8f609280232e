/* SPDX-License-Identifier: MIT */
/* Thoughts in text: each format from a table, with the text cut at every place. vLLM's parsers, as their source reads,
 * keep the white space around thoughts; other differences are at their row. */
#include "api/reasoning_parse.h"
#include "api/tool_formats.h"
#include "unit.h"

#define THINK &api_reasoning_think_format
#define MISTRAL &api_reasoning_mistral_format
#define GRANITE &api_reasoning_granite_format
#define GEMMA &api_reasoning_gemma4_format
#define HARMONY &api_reasoning_harmony_format
#define MAYBE API_REASONING_MAYBE
#define WITHIN API_REASONING_WITHIN
#define OVER API_REASONING_OVER

struct row {
  const struct api_reasoning_format *format;
  enum api_reasoning_start start;
  const char *text, *thoughts, *rest;
  bool calls, exact;
};

#define ANALYSIS "<|channel|>analysis<|message|>"
#define FINAL "<|channel|>final<|message|>"
#define NEXT "<|end|><|start|>assistant"

static const struct row rows[] = {
    /* --- the model writes both marks */
    {THINK, MAYBE, "", "", "", false, false},
    {THINK, MAYBE, "<think>\nHm, so.\n\nYes.\n</think>\n\nHello", "Hm, so.\n\nYes.", "Hello", false, false},
    {THINK, MAYBE, "<think>a</think>b", "a", "b", false, false},
    {THINK, MAYBE, "\n<think>a</think>b", "a", "b", false, false},
    {THINK, MAYBE, "<think>\n\n</think>\n\nHello\n", "", "Hello\n", false, false}, /* /no_think */
    {THINK, MAYBE, "<think></think>", "", "", false, false},
    {THINK, MAYBE, "<think>a </thin </think >< /think></think>b", "a </thin </think >< /think>", "b", false, false},
    {THINK, MAYBE, "<think>a <think> b</think>c</think>d<think>e", "a <think> b", "c</think>d<think>e", false, false},
    {THINK, MAYBE, "<think>\xc3\xa9 \n \xe2\x82\xac\n</think>\n\xc3\xa9", "\xc3\xa9 \n \xe2\x82\xac", "\xc3\xa9", false, false},
    {THINK, MAYBE, "<think>a</think>\n<tool_call>\n{}\n</tool_call>", "a", "<tool_call>\n{}\n</tool_call>", false, false},
    {GEMMA, MAYBE, "<|channel>thought\nHm.\n<channel|>Hello", "Hm.", "Hello", false, false},
    {GEMMA, MAYBE, "<|channel>thought\n<channel|>Hello", "", "Hello", false, false}, /* large models, though they were told not to think */
    {GEMMA, MAYBE, "<|channel>thoughts", "s", "", false, false},
    {GEMMA, MAYBE, "<|channel>other\nHello", "", "<|channel>other\nHello", false, false},
    {GEMMA, OVER, "Hello <channel|>", "", "Hello <channel|>", false, false}, /* the prompt ends with thoughts that are over */
    /* cut */
    {THINK, MAYBE, "<think>a b\n", "a b", "", false, false},
    {THINK, MAYBE, "<think>a</thi", "a</thi", "", false, false},
    {THINK, MAYBE, "<think>a \n<", "a \n<", "", false, false},
    {THINK, MAYBE, "<think>", "", "", false, false},
    {THINK, MAYBE, "<think", "", "<think", false, false},
    {THINK, MAYBE, "<think>a</think>\n ", "a", "", false, false},
    /* no thoughts: what is said of the marks is content. vLLM: the first is a mark wherever it stands */
    {THINK, MAYBE, "Hello", "", "Hello", false, false},
    {THINK, MAYBE, " \n Hello", "", " \n Hello", false, false},
    {THINK, MAYBE, " \n", "", " \n", false, false},
    {THINK, MAYBE, "Write <think>a</think>b", "", "Write <think>a</think>b", false, false},
    {THINK, MAYBE, "<thing>", "", "<thing>", false, false},
    {THINK, MAYBE, "<<think>a</think>", "", "<<think>a</think>", false, false},
    {THINK, MAYBE, "a</think>b", "", "a</think>b", false, false},
    /* the prompt has the first */
    {THINK, WITHIN, "Hm.\n</think>\n\nHello", "Hm.", "Hello", false, false},
    {THINK, WITHIN, "\n\nHm.</think>Hello", "Hm.", "Hello", false, false},
    {THINK, WITHIN, "<think>\nHm.</think>Hello", "Hm.", "Hello", false, false}, /* again, as vLLM passes over it */
    {THINK, WITHIN, "<thinkers", "<thinkers", "", false, false},
    {THINK, WITHIN, "</think>Hello", "", "Hello", false, false},
    {THINK, WITHIN, "<</think>Hello", "<", "Hello", false, false},
    {THINK, WITHIN, "cut off\n", "cut off", "", false, false},
    {THINK, WITHIN, "<th", "<th", "", false, false},
    {THINK, WITHIN, "", "", "", false, false},
    /* or both */
    {THINK, OVER, "\nHello", "", "\nHello", false, false},
    {THINK, OVER, "<think>a</think>b", "", "<think>a</think>b", false, false},
    /* white space that a grammar may have wanted */
    {THINK, WITHIN, "a\n</think>\n b", "a", "\n b", false, true},
    {THINK, MAYBE, "<think>a</think> b", "a", " b", false, true},
    /* --- others */
    {MISTRAL, MAYBE, "[THINK]a [x] [/THINK]b[THINK]", "a [x]", "b[THINK]", false, false},
    {MISTRAL, MAYBE, "[TOOL_CALLS]f[ARGS]{}", "", "[TOOL_CALLS]f[ARGS]{}", false, false},
    {MISTRAL, WITHIN, "a[/THINK][TOOL_CALLS]f[ARGS]{}", "a", "[TOOL_CALLS]f[ARGS]{}", false, false},
    {MISTRAL, MAYBE, "[1, 2]", "", "[1, 2]", false, false},
    {GRANITE, MAYBE, "Here is my thought process: a: b Here is my response: c", "a: b", "c", false, false},
    {GRANITE, MAYBE, "Here's my thought process:\na Here is my thought.\nHere's my response:\n\nc", "a Here is my thought.", "c", false, false},
    {GRANITE, MAYBE, "Here is my response: c", "", "Here is my response: c", false, false},
    {GRANITE, MAYBE, "Here is", "", "Here is", false, false},
    {GRANITE, MAYBE, "Hello", "", "Hello", false, false},
    /* --- harmony */
    {HARMONY, MAYBE, ANALYSIS "User asks.\nHm." NEXT FINAL "Hello", "User asks.\nHm.", "Hello", false, false},
    {HARMONY, MAYBE, ANALYSIS "a" NEXT ANALYSIS "b" NEXT FINAL "c<|return|>", "a\nb", "c", false, false},
    {HARMONY, MAYBE, FINAL "Hello <b> < |end|> \n", "", "Hello <b> < |end|> \n", false, false},
    {HARMONY, MAYBE, "<|channel|>commentary<|message|>I look." NEXT FINAL "\nFound.", "", "I look.\n\nFound.", false, false},
    {HARMONY, MAYBE, ANALYSIS "a" NEXT "<|channel|>final <|constrain|>json<|message|>{}", "a", "{}", false, false},
    {HARMONY, MAYBE, ANALYSIS "a<|end|>b", "a", "b", false, false},
    {HARMONY, MAYBE, ANALYSIS "a \n<|end|>b", "a", "b", false, false},
    {HARMONY, MAYBE, ANALYSIS "a" FINAL "b", "a", "b", false, false},
    {HARMONY, MAYBE, "<|message|>b", "", "b", false, false},
    {HARMONY, MAYBE, "plain <|x", "", "plain <|x", false, false},
    {HARMONY, MAYBE, "<|char", "", "<|char", false, false},
    {HARMONY, MAYBE, " tomorrow", "", " tomorrow", false, false},
    {HARMONY, MAYBE, "{\"a\": 1}", "", "{\"a\": 1}", false, true},
    {HARMONY, MAYBE, ANALYSIS "cut <|en", "cut <|en", "", false, false},
    {HARMONY, MAYBE, ANALYSIS "cut<|end|><|start|>assi", "cut", "", false, false},
    {HARMONY, MAYBE, "<|channel|>ana", "", "", false, false},
    /* calls: for their own parser, or what they say */
    {HARMONY, MAYBE, ANALYSIS "a" NEXT "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>", "a",
     "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>", true, false},
    {HARMONY, MAYBE, ANALYSIS "a" NEXT "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>", "a", "{\"a\": 1}", false, false},
    {HARMONY, MAYBE, " to=functions.f<|channel|>commentary json<|message|>{\"a\": \"<|call|>\", \"b\": \"<|start|>\"}<|call|>" "<|start|>assistant" ANALYSIS "b", "b",
     " to=functions.f<|channel|>commentary json<|message|>{\"a\": \"<|call|>\", \"b\": \"<|start|>\"}<|call|>", true, false},
    {HARMONY, MAYBE, "<|channel|>commentary to=functions.f<|message|>{\"a\": \"<|channel|>analysis<|message|>\"}", "",
     "<|channel|>commentary to=functions.f<|message|>{\"a\": \"<|channel|>analysis<|message|>\"}", true, false},
    {HARMONY, MAYBE, "<|channel|>analysis to=python<|message|>1 + 1<|call|>", "1 + 1", "", true, false},
};

/* cuts: ascending ends of the pieces, the last is the length. */
static void check(const struct row *row, const size_t *cuts, size_t n_cuts) {
  struct api_reasoning_parser parser;
  struct tl_buffer thoughts, rest;
  size_t at = 0;
  tl_buffer_init(&thoughts, 0);
  tl_buffer_init(&rest, 0);
  api_reasoning_parser_init(&parser, row->format, row->start, row->calls, row->exact);
  for (size_t i = 0; i < n_cuts; at = cuts[i++]) {
    assert_int_equal(api_reasoning_parser_push(&parser, row->text + at, cuts[i] - at, &thoughts, &rest), TL_OK);
    assert_int_equal(strncmp(tl_buffer_string(&thoughts), row->thoughts, thoughts.length), 0);
    assert_int_equal(strncmp(tl_buffer_string(&rest), row->rest, rest.length), 0);
  }
  assert_int_equal(api_reasoning_parser_finish(&parser, &thoughts, &rest), TL_OK);
  if (strcmp(tl_buffer_string(&thoughts), row->thoughts) != 0 || strcmp(tl_buffer_string(&rest), row->rest) != 0)
    print_error("%s: %s (%zu pieces, the first of %zu)\n", row->format->name, row->text, n_cuts, cuts[0]);
  assert_string_equal(tl_buffer_string(&thoughts), row->thoughts);
  assert_string_equal(tl_buffer_string(&rest), row->rest);
  api_reasoning_parser_done(&parser);
  tl_buffer_done(&thoughts);
  tl_buffer_done(&rest);
}

static void test_every_cut(void **state) {
  (void)state;
  for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
    size_t length = strlen(rows[i].text), *cuts = malloc((length + 2) * sizeof *cuts);
    assert_non_null(cuts);
    for (size_t at = 0; at <= length; at++) {
      cuts[0] = at;
      cuts[1] = length;
      check(&rows[i], cuts, 2);
    }
    for (size_t at = 0; at < length; at++) cuts[at] = at + 1;
    cuts[length] = length;
    check(&rows[i], cuts, length + 1);
    free(cuts);
  }
}

/* A piece at a time: what is out after each, "thoughts|rest", and whether it thinks. */
static void test_nothing_waits_longer_than_it_must(void **state) {
  (void)state;
  static const struct { const struct api_reasoning_format *format; enum api_reasoning_start start; const char *piece, *out; bool within; } steps[] = {
      {THINK, MAYBE, "\n", "|", false}, {.piece = "<thi", .out = "|"}, {.piece = "nk>", .out = "|", .within = true}, {.piece = "\na ", .out = "a|", .within = true},
      {.piece = "b\n<", .out = "a b|", .within = true}, {.piece = "/think", .out = "a b|", .within = true}, {.piece = ">", .out = "a b|"}, {.piece = "\n", .out = "a b|"},
      {.piece = "c\n", .out = "a b|c\n"},
      {THINK, MAYBE, "H", "|H", false}, {.piece = " <", .out = "|H <"},
      {THINK, MAYBE, "<", "|", false}, {.piece = "b", .out = "|<b"},
      {THINK, WITHIN, "", "|", true}, {.piece = "<t", .out = "|", .within = true}, {.piece = "a", .out = "<ta|", .within = true},
      {HARMONY, MAYBE, "<|channel|>", "|", false}, {.piece = "analysis", .out = "|"}, {.piece = "<|message|>", .out = "|", .within = true},
      {.piece = "a", .out = "a|", .within = true}, {.piece = "<|end|>", .out = "a|"}, {.piece = "<|start|>assistant<|channel|>final", .out = "a|"},
      {.piece = "<|message|>x", .out = "a|x"}};
  struct api_reasoning_parser parser;
  struct tl_buffer thoughts, rest, out;
  tl_buffer_init(&thoughts, 0);
  tl_buffer_init(&rest, 0);
  tl_buffer_init(&out, 0);
  for (size_t i = 0; i < UNIT_COUNT(steps); i++) {
    if (steps[i].format) {
      if (i) api_reasoning_parser_done(&parser);
      tl_buffer_clear(&thoughts);
      tl_buffer_clear(&rest);
      api_reasoning_parser_init(&parser, steps[i].format, steps[i].start, false, false);
    }
    assert_int_equal(api_reasoning_parser_push(&parser, steps[i].piece, strlen(steps[i].piece), &thoughts, &rest), TL_OK);
    tl_buffer_clear(&out);
    tl_buffer_printf(&out, "%s|%s", tl_buffer_string(&thoughts), tl_buffer_string(&rest));
    assert_string_equal(tl_buffer_string(&out), steps[i].out);
    if (parser.within != steps[i].within) print_error("after %s\n", steps[i].piece);
    assert_int_equal(parser.within, steps[i].within);
  }
  api_reasoning_parser_done(&parser);
  tl_buffer_done(&thoughts);
  tl_buffer_done(&rest);
  tl_buffer_done(&out);
}

/* What harmony's calls become behind it. */
static void test_calls_behind_thoughts(void **state) {
  (void)state;
  static const char text[] = ANALYSIS "a" NEXT "<|channel|>commentary<|message|>I ask." NEXT "<|channel|>commentary to=functions.f<|message|>{\"x\": \"<|end|>\"}<|call|>"
                             "<|start|>assistant to=functions.g<|channel|>commentary json<|message|>{}<|call|>";
  struct api_reasoning_parser parser;
  struct api_tool_parser tools;
  struct api_tool_calls calls = {0};
  struct tl_buffer thoughts, rest, content;
  tl_buffer_init(&thoughts, 0);
  tl_buffer_init(&rest, 0);
  tl_buffer_init(&content, 0);
  api_reasoning_parser_init(&parser, HARMONY, MAYBE, true, false);
  api_tool_parser_init(&tools, &api_tool_harmony_format, NULL, true);
  for (size_t i = 0; i < sizeof text - 1; i++) {
    assert_int_equal(api_reasoning_parser_push(&parser, text + i, 1, &thoughts, &rest), TL_OK);
    assert_int_equal(api_tool_parser_push(&tools, rest.data, rest.length, &content, &calls), TL_OK);
    tl_buffer_clear(&rest);
  }
  assert_int_equal(api_reasoning_parser_finish(&parser, &thoughts, &rest), TL_OK);
  assert_int_equal(api_tool_parser_finish(&tools, &content, &calls), TL_OK);
  assert_string_equal(tl_buffer_string(&thoughts), "a");
  assert_string_equal(tl_buffer_string(&content), "I ask.");
  assert_int_equal(calls.n, 2);
  assert_string_equal(tl_buffer_string(&calls.items[0].name), "f");
  assert_string_equal(tl_buffer_string(&calls.items[0].arguments), "{\"x\": \"<|end|>\"}");
  assert_string_equal(tl_buffer_string(&calls.items[1].name), "g");
  api_reasoning_parser_done(&parser);
  api_tool_parser_done(&tools);
  api_tool_calls_done(&calls);
  tl_buffer_done(&thoughts);
  tl_buffer_done(&rest);
  tl_buffer_done(&content);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_cut), cmocka_unit_test(test_nothing_waits_longer_than_it_must),
                                     cmocka_unit_test(test_calls_behind_thoughts)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
