/* SPDX-License-Identifier: MIT */
/* Where thoughts end, the matcher that lets them pass and the parser that takes them out agree: whatever tokens a mask allows, what the
 * parser leaves keeps to the grammar. */
#include "api/reasoning_parse.h"
#include "tokenlane/grammar.h"
#include "unit.h"

/* The first two are special tokens. */
static const char *const pieces[] = {"<think>", "</think>", "<", "</", "th", "ink", "think", ">", "<think", "k>", "k>x", "</think>y",
                                     "x", "y", "xy", "\n", " ", "a", "<t"};
static const char *const choices[] = {"xy", "x\n", "<ty", "yx"};
enum { N_TOKENS = UNIT_COUNT(pieces), N_WORDS = (N_TOKENS + 31) / 32, N_SPECIAL = 2 };

static uint64_t seed = 1;

static struct tl_grammar *make(struct tl_vocabulary **ret_vocabulary) {
  struct tl_vocabulary_token tokens[N_TOKENS];
  struct tl_grammar *grammar;
  struct tl_error err = {0};
  for (size_t i = 0; i < N_TOKENS; i++) tokens[i] = (struct tl_vocabulary_token){pieces[i], i < N_SPECIAL ? 0 : strlen(pieces[i])};
  assert_int_equal(tl_vocabulary_new(tokens, N_TOKENS, ret_vocabulary, &err), TL_OK);
  struct tl_grammar_source source = {.kind = TL_GRAMMAR_CHOICE, .json = json_array(), .field = "choice"};
  for (size_t i = 0; i < UNIT_COUNT(choices); i++) json_array_append_new(source.json, json_string(choices[i]));
  assert_int_equal(tl_grammar_compile(*ret_vocabulary, &source, NULL, &grammar, &err), TL_OK);
  json_decref(source.json);
  return grammar;
}

static bool begins_a_choice(const char *text) {
  for (size_t i = 0; i < UNIT_COUNT(choices); i++)
    if (strncmp(choices[i], text, strlen(text)) == 0) return true;
  return false;
}

/* A walk of random tokens that may come; how often something was left behind thoughts. */
static unsigned walk(struct tl_grammar *grammar, const struct tl_thinking *thinking, bool within) {
  struct tl_matcher *m;
  struct tl_error err = {0};
  struct api_reasoning_parser parser;
  struct tl_buffer thoughts, rest;
  tl_buffer_init(&thoughts, 0);
  tl_buffer_init(&rest, 0);
  assert_int_equal(tl_matcher_new(grammar, &m, &err), TL_OK);
  tl_matcher_think(m, thinking, within);
  api_reasoning_parser_init(&parser, &api_reasoning_think_format, within ? API_REASONING_WITHIN : API_REASONING_MAYBE, false, true);
  for (unsigned step = 0; step < 60 && !tl_matcher_must_end(m); step++) {
    uint32_t words[N_WORDS], allowed[N_TOKENS], n = 0;
    tl_matcher_mask(m, words);
    for (uint32_t i = 0; i < N_TOKENS; i++)
      if (words[i / 32] >> i % 32 & 1) allowed[n++] = i;
    if (n == 0) break;
    uint32_t token = allowed[unit_below(&seed, n)];
    assert_int_equal(tl_matcher_take(m, (int32_t)token), TL_OK);
    assert_int_equal(api_reasoning_parser_push(&parser, pieces[token], strlen(pieces[token]), &thoughts, &rest), TL_OK);
    if (!begins_a_choice(tl_buffer_string(&rest))) fail_msg("'%s' is left behind '%s'", tl_buffer_string(&rest), tl_buffer_string(&thoughts));
  }
  unsigned left = thoughts.length && rest.length;
  tl_matcher_free(m);
  api_reasoning_parser_done(&parser);
  tl_buffer_done(&thoughts);
  tl_buffer_done(&rest);
  return left;
}

static void test_both_agree(void **state) {
  (void)state;
  static const struct tl_thinking_mark marks[] = {{0, "<think>"}, {1, "</think>"}};
  static const struct tl_thinking thinking = {.begin = "<think>", .ends = {"</think>"}, .marks = marks, .n_marks = 2};
  struct tl_vocabulary *vocabulary;
  struct tl_grammar *grammar = make(&vocabulary);
  unsigned left = 0;
  for (unsigned i = 0; i < 20000 / UNIT_SLOWDOWN; i++) left += walk(grammar, &thinking, i % 2);
  assert_true(left > 1000 / UNIT_SLOWDOWN);
  tl_grammar_release(grammar);
  tl_vocabulary_free(vocabulary);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_both_agree)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
