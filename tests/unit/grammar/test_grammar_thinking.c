/* SPDX-License-Identifier: MIT */
/* Thoughts before what a grammar binds: random walks, each mask against the text that it would make. */
#include "tokenlane/grammar.h"
#include "unit.h"

static const char *const choices[] = {"abc", "<a", "<th", "ab"};
static const char *const pieces[] = {"", "a", "b", "c", "<", "</", "th", "ink", "think", ">", "/", ">a", "<a", "<th", "<think>", "</think>a", "k>ab", "x", "<<", ""};
#define N_TOKENS UNIT_COUNT(pieces)
#define N_WORDS ((N_TOKENS + 31) / 32)

static struct tl_vocabulary *vocabulary;
static struct tl_grammar *grammar;
static uint64_t seed;

static void make(void) {
  struct tl_vocabulary_token tokens[N_TOKENS];
  struct tl_error err = {0};
  for (size_t i = 0; i < N_TOKENS; i++) tokens[i] = (struct tl_vocabulary_token){pieces[i], strlen(pieces[i])};
  assert_int_equal(tl_vocabulary_new(tokens, N_TOKENS, &vocabulary, &err), TL_OK);
  struct tl_grammar_source source = {.kind = TL_GRAMMAR_CHOICE, .json = json_array(), .field = "choice"};
  for (size_t i = 0; i < UNIT_COUNT(choices); i++) json_array_append_new(source.json, json_string(choices[i]));
  assert_int_equal(tl_grammar_compile(vocabulary, &source, NULL, &grammar, &err), TL_OK);
  json_decref(source.json);
}

static void drop(void) {
  tl_grammar_release(grammar);
  tl_vocabulary_free(vocabulary);
}

/* --- what is expected ------------------------------------------------------------------------------ */

struct expected {
  bool may_come, may_end, must_end;
};

static bool begins(const char *text, const char *with) {
  return strncmp(text, with, strlen(with)) == 0;
}

static struct expected of_bound(const char *text) {
  struct expected e = {.must_end = true};
  for (size_t i = 0; i < UNIT_COUNT(choices); i++) {
    if (begins(choices[i], text)) e.may_come = true;
    if (strcmp(choices[i], text) == 0) e.may_end = true;
    else if (begins(choices[i], text)) e.must_end = false;
  }
  e.must_end = e.must_end && e.may_end;
  return e;
}

/* n_old: so much of the text was there before the last token. */
static struct expected of_text(const struct tl_thinking *t, bool within, const char *text, size_t n_old) {
  struct expected bound = of_bound(text);
  bool may_think = !within && t->begin && !begins(text, t->begin);
  if (may_think && begins(t->begin, text)) return (struct expected){.may_come = true, .may_end = bound.may_end};
  if (may_think) return bound;
  const char *at = within || !t->begin ? text : text + strlen(t->begin);
  for (unsigned i = 0; i < 2 && t->ends[i]; i++) {
    const char *found = strstr(at, t->ends[i]);
    if (!found) return (struct expected){.may_come = true, .may_end = true};
    at = found + strlen(t->ends[i]);
  }
  struct expected e = of_bound(at);
  if ((size_t)(at - text) > n_old) e.may_come = !*at; /* the token with the mark ends with it */
  return e;
}

/* --- walks -------------------------------------------------------------------------------------------- */

static const char *text_of(const struct tl_thinking *t, uint32_t token) {
  for (uint32_t i = 0; i < t->n_marks; i++)
    if (t->marks[i].token == (int32_t)token) return t->marks[i].text;
  return pieces[token];
}

static void walk(const struct tl_thinking *t, bool within) {
  struct tl_matcher *m;
  struct tl_error err = {0};
  char text[256] = "";
  bool bound = false;
  assert_int_equal(tl_matcher_new(grammar, &m, &err), TL_OK);
  tl_matcher_think(m, t, within);
  for (unsigned step = 0; step < 24; step++) {
    uint32_t words[N_WORDS], allowed[N_TOKENS], n = 0;
    size_t n_old = strlen(text);
    tl_matcher_mask(m, words);
    for (uint32_t i = 0; i < 32 * N_WORDS; i++) {
      bool is = words[i / 32] >> i % 32 & 1;
      if (i >= N_TOKENS) assert_false(is);
      if (i >= N_TOKENS) continue;
      strcpy(text + n_old, text_of(t, i));
      /* without a text it is a thought, if anything */
      bool is_thought = of_text(t, within, text, n_old).may_come && of_text(t, within, text, n_old).may_end;
      bool may = *text_of(t, i) ? of_text(t, within, text, n_old).may_come : is_thought && !bound && (within || !t->begin || begins(text, t->begin));
      if (is != may) fail_msg("'%s' after '%.*s': %d", text_of(t, i), (int)n_old, text, is);
      if (is) allowed[n++] = i;
    }
    text[n_old] = 0;
    if (n == 0) break;
    uint32_t token = allowed[unit_below(&seed, n)];
    strcpy(text + n_old, text_of(t, token));
    assert_int_equal(tl_matcher_take(m, (int32_t)token), TL_OK);
    struct expected e = of_text(t, within, text, n_old);
    assert_int_equal(tl_matcher_may_end(m), e.may_end);
    assert_int_equal(tl_matcher_must_end(m), e.must_end);
    const char *end = strstr(text, t->ends[0]);
    if (end && t->ends[1]) end = strstr(end, t->ends[1]);
    bound = bound || (end && (within || !t->begin || begins(text, t->begin)));
  }
  tl_matcher_free(m);
}

static void test_marks_of_several_tokens(void **state) {
  (void)state;
  static const struct tl_thinking thinking = {.begin = "<think>", .ends = {"</think>"}};
  make();
  for (seed = 1; seed < 3000; seed++) walk(&thinking, seed % 2);
  drop();
}

static void test_marks_that_are_special(void **state) {
  (void)state;
  static const struct tl_thinking_mark marks[] = {{0, "<think>"}, {19, "</think>"}};
  static const struct tl_thinking thinking = {.begin = "<think>", .ends = {"</think>"}, .marks = marks, .n_marks = 2};
  make();
  for (seed = 1; seed < 3000; seed++) walk(&thinking, seed % 2);
  drop();
}

static void test_two_marks_behind_each_other(void **state) {
  (void)state;
  static const struct tl_thinking_mark marks[] = {{0, "<|c|>"}, {19, "<|m|>"}};
  static const struct tl_thinking thinking = {.ends = {"<|c|>think", "<|m|>"}, .marks = marks, .n_marks = 2};
  make();
  for (seed = 1; seed < 3000; seed++) walk(&thinking, false);
  drop();
}

static void take_all(struct tl_matcher *m, const int32_t *tokens, size_t n) {
  for (size_t i = 0; i < n; i++) assert_int_equal(tl_matcher_take(m, tokens[i]), TL_OK);
}

/* "<th" is one of the choices and the beginning of the mark. */
static void test_the_beginning_of_both(void **state) {
  (void)state;
  static const struct tl_thinking thinking = {.begin = "<think>", .ends = {"</think>"}};
  static const int32_t think[] = {4, 6, 7, 9, 17, 5, 8, 9, 1, 2}; /* < th ink > x </ think > a b */
  struct tl_matcher *m;
  struct tl_error err = {0};
  make();
  assert_int_equal(tl_matcher_new(grammar, &m, &err), TL_OK);
  tl_matcher_think(m, &thinking, false);
  assert_false(tl_matcher_may_end(m));
  take_all(m, think, 2);
  assert_true(tl_matcher_may_end(m));
  assert_false(tl_matcher_must_end(m)); /* thoughts may begin */
  take_all(m, think + 2, 1);
  assert_false(tl_matcher_may_end(m));
  assert_int_equal(tl_matcher_take(m, 1), TL_EINVAL);
  take_all(m, think + 3, 6);
  assert_false(tl_matcher_may_end(m));
  assert_int_equal(tl_matcher_take(m, 14), TL_EINVAL); /* once only */
  take_all(m, think + 9, 1);
  assert_true(tl_matcher_may_end(m));
  assert_int_equal(tl_matcher_take(m, -1), TL_EINVAL);
  assert_int_equal(tl_matcher_take(m, N_TOKENS), TL_EINVAL);
  tl_matcher_free(m);
  drop();
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_marks_of_several_tokens), cmocka_unit_test(test_marks_that_are_special),
                                     cmocka_unit_test(test_two_marks_behind_each_other), cmocka_unit_test(test_the_beginning_of_both)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
