/* SPDX-License-Identifier: MIT */
/* Where grammars, vocabularies and texts end: depth, counts, fuel, memory; and one grammar in several threads. */
#include <pthread.h>

#include "grammar/grammar_build.h"
#include "unit.h"

static struct tl_vocabulary *vocabulary_of(const char *const *texts, uint32_t n) {
  struct tl_vocabulary_token tokens[64];
  struct tl_vocabulary *ret;
  assert_true(n <= UNIT_COUNT(tokens));
  for (uint32_t i = 0; i < n; i++) tokens[i] = (struct tl_vocabulary_token){texts[i], strlen(texts[i])};
  assert_int_equal(tl_vocabulary_new(tokens, n, &ret, NULL), TL_OK);
  return ret;
}

static struct tl_grammar *compiled(struct gr_ir *ir, gr_node root, const struct tl_vocabulary *v) {
  struct tl_grammar *ret;
  struct tl_error err = {0};
  if (gr_compile(ir, root, v, NULL, "grammar", &ret, &err) < 0) fail_msg("%s", err.message);
  gr_ir_free(ir);
  return ret;
}

static struct tl_matcher *begun(struct tl_grammar *g) {
  struct tl_matcher *ret;
  assert_int_equal(tl_matcher_new(g, &ret, NULL), TL_OK);
  return ret;
}

static uint64_t fuel;

static struct gr_ir *new_ir(void) {
  fuel = 10000000;
  return gr_ir_new(&fuel);
}

/* ( "[" value "]" ) | "x", where the brackets are one more each; text: what stands before a value. */
static struct tl_grammar *nested(const struct tl_vocabulary *v) {
  struct gr_ir *ir = new_ir();
  gr_rule value = gr_rule_new(ir);
  gr_node inside = gr_seq(ir, gr_call(ir, value), gr_bytes(ir, "]", 1));
  gr_rule_define(ir, value, gr_alt(ir, gr_seq(ir, gr_bytes(ir, "[", 1), inside), gr_bytes(ir, "x", 1)));
  return compiled(ir, gr_call(ir, value), v);
}

/* What the mask says is what a matcher that came the same way takes; may_be_less: it may take more. */
static uint32_t check_takes(struct tl_grammar *g, struct tl_matcher *m, const int32_t *taken, uint32_t n_taken, bool may_be_less) {
  uint32_t words[2] = {0, 0};
  tl_matcher_mask(m, words);
  for (uint32_t i = 0; i < g->vocabulary->n; i++) {
    struct tl_matcher *other = begun(g);
    for (uint32_t k = 0; k < n_taken; k++) assert_int_equal(tl_matcher_take(other, taken[k]), TL_OK);
    bool is = words[i / 32] >> i % 32 & 1;
    if ((is || !may_be_less) && (tl_matcher_take(other, (int32_t)i) == TL_OK) != is) fail_msg("token %u after %u: mask %d", i, n_taken, is);
    tl_matcher_free(other);
  }
  return words[0];
}

static const char *const brackets[] = {"[", "[[[", "]", "]]]]", "x", "[x", "x]]", "[[x]", "]x"};

static void test_depth_is_bounded_and_never_a_dead_end(void **state) {
  (void)state;
  struct tl_vocabulary *v = vocabulary_of(brackets, UNIT_COUNT(brackets));
  for (unsigned wide = 0; wide < 2; wide++) {
    v->wide = wide ? 0 : UINT32_MAX; /* with and without masks made in advance */
    struct tl_grammar *g = nested(v);
    struct tl_matcher *m = begun(g);
    int32_t taken[GR_DEPTH];
    uint32_t n = 0, words = 1;
    while (words & 1) {
      words = check_takes(g, m, taken, n, false);
      if (!(words & 1)) break;
      assert_true(n < GR_DEPTH);
      taken[n++] = 0;
      assert_int_equal(tl_matcher_take(m, 0), TL_OK);
    }
    assert_true(n > GR_DEPTH - 4);
    assert_true(words >> 4 & 1); /* x */
    assert_int_equal(tl_matcher_take(m, 0), TL_EINVAL);
    assert_int_equal(tl_matcher_take(m, 4), TL_OK);
    for (uint32_t i = 0; i < n; i++) {
      assert_false(tl_matcher_may_end(m));
      assert_int_equal(tl_matcher_take(m, 2), TL_OK);
    }
    assert_true(tl_matcher_must_end(m));
    assert_int_equal(tl_matcher_take(m, 2), TL_EINVAL);
    tl_matcher_free(m);
    tl_grammar_release(g);
  }
  tl_vocabulary_free(v);
}

/* list = item | item "," list: a call with nothing behind it. items = ( "[" items "]" )*: frames come and go. */
static void test_long_texts_need_no_more_frames(void **state) {
  (void)state;
  static const char *const texts[] = {"a", ",", "a,", "[", "]", "[]", "][", "],["};
  struct tl_vocabulary *v = vocabulary_of(texts, UNIT_COUNT(texts));
  struct gr_ir *ir = new_ir();
  gr_rule list = gr_rule_new(ir), item = gr_rule_new(ir);
  gr_node brackets_of = gr_seq(ir, gr_bytes(ir, "[", 1), gr_seq(ir, gr_repeat(ir, gr_call(ir, item), 0, GR_MANY), gr_bytes(ir, "]", 1)));
  gr_rule_define(ir, item, gr_alt(ir, gr_bytes(ir, "a", 1), brackets_of));
  gr_node more = gr_seq(ir, gr_bytes(ir, ",", 1), gr_call(ir, list));
  gr_rule_define(ir, list, gr_seq(ir, gr_call(ir, item), gr_alt(ir, gr_empty(ir), more)));
  struct tl_grammar *g = compiled(ir, gr_call(ir, list), v);
  struct tl_matcher *m = begun(g);
  uint32_t first = 0;
  for (unsigned i = 0; i < 20000 / UNIT_SLOWDOWN; i++) {
    static const int32_t round[] = {3, 5, 3, 6, 4, 4, 1, 2, 3, 7, 4, 1};
    for (size_t k = 0; k < UNIT_COUNT(round); k++) assert_int_equal(tl_matcher_take(m, round[k]), TL_OK);
    uint32_t words;
    tl_matcher_mask(m, &words);
    if (i == 0) first = words;
    assert_int_equal(words, first);
  }
  assert_int_equal(first, 1 << 0 | 1 << 2 | 1 << 3 | 1 << 5);
  tl_matcher_free(m);
  tl_grammar_release(g);
  tl_vocabulary_free(v);
}

/* --- strings ------------------------------------------------------------------------------------- */

static void test_strings_count_characters(void **state) {
  (void)state;
  static const char *const texts[] = {"a", "\xc3\xa9", "aa", "\\u00e9", "\\ud83d\\ude00", "\"", "a\"", "aaa\"", "\xc3", "\xa9", "\\ud83d", "\\ude00", "\\n"};
  struct tl_vocabulary *v = vocabulary_of(texts, UNIT_COUNT(texts));
  struct gr_ir *ir = new_ir();
  struct tl_grammar *g = compiled(ir, gr_seq(ir, gr_json_string(ir, 2, 1000000), gr_bytes(ir, "\"", 1)), v);
  assert_true(g->n_states < GR_BODIES + 10); /* large bounds cost nothing */
  tl_grammar_release(g);
  ir = new_ir();
  g = compiled(ir, gr_seq(ir, gr_json_string(ir, 2, 3), gr_bytes(ir, "\"", 1)), v);
  struct tl_matcher *m = begun(g);
  uint32_t words;
  tl_matcher_mask(m, &words);
  assert_int_equal(words, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 12);
  assert_int_equal(tl_matcher_take(m, 10), TL_OK); /* half of a pair: its other half must follow */
  tl_matcher_mask(m, &words);
  assert_int_equal(words, 1 << 11);
  assert_int_equal(tl_matcher_take(m, 11), TL_OK);
  tl_matcher_mask(m, &words);
  assert_int_equal(words, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 12);
  assert_int_equal(tl_matcher_take(m, 2), TL_OK);
  tl_matcher_mask(m, &words);
  assert_int_equal(words, 1 << 5); /* full */
  assert_int_equal(tl_matcher_take(m, 5), TL_OK);
  assert_true(tl_matcher_must_end(m));
  tl_matcher_free(m);
  tl_grammar_release(g);
  tl_vocabulary_free(v);
}

/* --- what is refused ------------------------------------------------------------------------------------ */

static void check_refused(struct gr_ir *ir, gr_node root, const struct tl_vocabulary *v, const struct tl_grammar_limits *limits, int code,
                          const char *message) {
  struct tl_grammar *g = NULL;
  struct tl_error err = {0};
  assert_int_equal(gr_compile(ir, root, v, limits, "response_format.regex", &g, &err), code);
  assert_null(g);
  assert_int_equal(err.code, code);
  assert_string_equal(err.field, "response_format.regex");
  if (!strstr(err.message, message)) fail_msg("'%s'", err.message);
  gr_ir_free(ir);
}

static void test_what_cannot_be_followed_is_refused(void **state) {
  (void)state;
  struct tl_vocabulary *v = vocabulary_of(brackets, UNIT_COUNT(brackets));
  struct gr_ir *ir = new_ir();
  gr_rule one = gr_rule_new(ir), other = gr_rule_new(ir);
  gr_node spaces = gr_repeat(ir, gr_bytes(ir, " ", 1), 0, GR_MANY);
  gr_rule_define(ir, one, gr_alt(ir, gr_bytes(ir, "x", 1), gr_seq(ir, spaces, gr_call(ir, other))));
  gr_rule_define(ir, other, gr_seq(ir, gr_call(ir, one), gr_bytes(ir, "]", 1)));
  check_refused(ir, gr_seq(ir, gr_bytes(ir, "[", 1), gr_call(ir, one)), v, NULL, TL_EINVAL, "left recursion");

  ir = new_ir();
  one = gr_rule_new(ir);
  gr_rule_define(ir, one, gr_seq(ir, gr_bytes(ir, "[", 1), gr_call(ir, one)));
  check_refused(ir, gr_call(ir, one), v, NULL, TL_EINVAL, "no text");

  ir = new_ir();
  check_refused(ir, gr_seq(ir, gr_json_string(ir, 0, GR_MANY), gr_bytes(ir, "'", 1)), v, NULL, TL_EINVAL, "quote");
  tl_vocabulary_free(v);
}

static void test_fuel_and_memory_end(void **state) {
  (void)state;
  struct tl_vocabulary *v = vocabulary_of(brackets, UNIT_COUNT(brackets));
  struct gr_ir *ir = new_ir();
  struct gr_range any = {0, 0x10ffff};
  gr_node many = gr_repeat(ir, gr_chars(ir, &any, 1), 0, 4000000000u);
  check_refused(ir, many, v, NULL, TL_ELIMIT, "too large");

  /* (.?){20} x: 2^20 states when determinised, were there fuel for them */
  ir = new_ir();
  gr_node tail = gr_repeat(ir, gr_chars(ir, &any, 1), 24, 24);
  gr_node root = gr_seq(ir, gr_repeat(ir, gr_chars(ir, &any, 1), 0, GR_MANY), gr_seq(ir, gr_bytes(ir, "x", 1), tail));
  check_refused(ir, root, v, NULL, TL_ELIMIT, "too large");

  /* each amount of fuel up to what is enough, and no byte of memory more than is there */
  bool enough = false;
  for (uint64_t amount = 0; !enough; amount += 37) {
    fuel = amount;
    ir = gr_ir_new(&fuel);
    gr_rule value = gr_rule_new(ir);
    gr_rule_define(ir, value, gr_alt(ir, gr_bytes(ir, "x", 1), gr_seq(ir, gr_bytes(ir, "[", 1), gr_seq(ir, gr_call(ir, value), gr_bytes(ir, "]", 1)))));
    struct tl_grammar *g = NULL;
    struct tl_error err = {0};
    int r = gr_compile(ir, gr_call(ir, value), v, NULL, "f", &g, &err);
    enough = r == TL_OK;
    if (!enough) assert_int_equal(r, TL_ELIMIT);
    else assert_true(amount > 100);
    gr_ir_free(ir);
    if (enough) {
      size_t bytes = tl_grammar_bytes(g);
      tl_grammar_release(g);
      assert_true(bytes > 100);
      for (unsigned less = 0; less < 2; less++) {
        struct tl_grammar_limits limits = {.max_bytes = bytes - less};
        ir = new_ir();
        value = gr_rule_new(ir);
        gr_rule_define(ir, value, gr_alt(ir, gr_bytes(ir, "x", 1), gr_seq(ir, gr_bytes(ir, "[", 1), gr_seq(ir, gr_call(ir, value), gr_bytes(ir, "]", 1)))));
        assert_int_equal(gr_compile(ir, gr_call(ir, value), v, &limits, "f", &g, &err), less ? TL_ELIMIT : TL_OK);
        if (!less) tl_grammar_release(g);
        gr_ir_free(ir);
      }
    }
  }
  tl_vocabulary_free(v);
}

/* Deep expressions are no deep recursion; shared ones are built anew. */
static void test_expressions_may_be_deep(void **state) {
  (void)state;
  struct tl_vocabulary *v = vocabulary_of(brackets, UNIT_COUNT(brackets));
  struct gr_ir *ir = new_ir();
  gr_node left = gr_bytes(ir, "x", 1), right = left;
  for (unsigned i = 0; i < 50000; i++) left = gr_alt(ir, left, gr_bytes(ir, "[", 1));
  for (unsigned i = 0; i < 3000; i++) right = gr_seq(ir, gr_bytes(ir, "]", 1), right);
  struct tl_grammar *g = compiled(ir, gr_seq(ir, left, right), v);
  struct tl_matcher *m = begun(g);
  assert_int_equal(tl_matcher_take(m, 4), TL_OK);
  for (unsigned i = 0; i < 3000; i++) assert_int_equal(tl_matcher_take(m, 2), TL_OK);
  assert_int_equal(tl_matcher_take(m, 2), TL_EINVAL);
  assert_int_equal(tl_matcher_take(m, 4), TL_OK);
  assert_true(tl_matcher_must_end(m));
  tl_matcher_free(m);
  tl_grammar_release(g);
  tl_vocabulary_free(v);
}

static void test_tokens_of_all_kinds(void **state) {
  (void)state;
  static char long_one[GR_TOKEN_BYTES + 1];
  memset(long_one, 'x', sizeof long_one);
  const struct tl_vocabulary_token tokens[] = {
      {NULL, 0}, {long_one, GR_TOKEN_BYTES}, {long_one, GR_TOKEN_BYTES + 1}, {"x", 1}, {"x", 1}, {"\0", 1}};
  struct tl_vocabulary *v;
  assert_int_equal(tl_vocabulary_new(tokens, UNIT_COUNT(tokens), &v, NULL), TL_OK);
  struct gr_ir *ir = new_ir();
  struct gr_range any = {0, 0x10ffff};
  struct tl_grammar *g = compiled(ir, gr_repeat(ir, gr_chars(ir, &any, 1), 0, GR_MANY), v);
  struct tl_matcher *m = begun(g);
  uint32_t words;
  tl_matcher_mask(m, &words);
  assert_int_equal(words, 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5);
  assert_int_equal(tl_matcher_take(m, 0), TL_EINVAL);
  assert_int_equal(tl_matcher_take(m, 2), TL_EINVAL);
  assert_int_equal(tl_matcher_take(m, -1), TL_EINVAL);
  assert_int_equal(tl_matcher_take(m, 6), TL_EINVAL);
  assert_int_equal(tl_matcher_take(m, 1), TL_OK);
  assert_true(tl_matcher_may_end(m));
  assert_false(tl_matcher_must_end(m));
  tl_matcher_free(m);
  tl_grammar_release(g);
  tl_vocabulary_free(v);
  assert_int_equal(tl_vocabulary_new(NULL, 0, &v, NULL), TL_OK);
  tl_vocabulary_free(v);
  tl_vocabulary_free(NULL);
  tl_grammar_release(NULL);
  tl_matcher_free(NULL);
}

/* --- ambiguity ------------------------------------------------------------------------------------------ */

/* Each of n rules is "a"* and then a letter of its own, or "(" root ")": all are possible at once, at each depth. */
static void test_ambiguity_is_bounded(void **state) {
  (void)state;
  static const char *const texts[] = {"a", "aaa", "(", ")", "(((a", "b", "c", "z"};
  struct tl_vocabulary *v = vocabulary_of(texts, UNIT_COUNT(texts));
  struct gr_ir *ir = new_ir();
  gr_rule rules[200];
  gr_node root = gr_nothing(ir);
  for (size_t i = 0; i < UNIT_COUNT(rules); i++) root = gr_alt(ir, root, gr_call(ir, rules[i] = gr_rule_new(ir)));
  for (size_t i = 0; i < UNIT_COUNT(rules); i++) {
    char end = (char)('b' + i % 20);
    gr_node deeper = gr_seq(ir, gr_bytes(ir, "(", 1), gr_seq(ir, root, gr_bytes(ir, ")", 1)));
    gr_node letters = gr_repeat(ir, gr_bytes(ir, "a", 1), 0, GR_MANY);
    gr_rule_define(ir, rules[i], gr_seq(ir, gr_alt(ir, letters, deeper), gr_bytes(ir, &end, 1)));
  }
  struct tl_grammar *g = compiled(ir, root, v);
  struct tl_matcher *m = begun(g);
  int32_t taken[100];
  uint32_t n = 0;
  for (unsigned i = 0; i < UNIT_COUNT(taken); i++) {
    uint32_t words = check_takes(g, m, taken, n, true);
    assert_true(words || tl_matcher_may_end(m));
    taken[n] = i < 60 ? 2 : 0;
    if (words >> taken[n] & 1) assert_int_equal(tl_matcher_take(m, taken[n++]), TL_OK);
  }
  assert_true(n > 50);
  assert_int_equal(tl_matcher_take(m, 5), TL_OK); /* the first of what was kept */
  tl_matcher_free(m);
  tl_grammar_release(g);
  tl_vocabulary_free(v);
}

/* --- threads --------------------------------------------------------------------------------------------- */

static void *follow_in_thread(void *argument) {
  struct tl_grammar *g = argument; /* held for this thread */
  for (unsigned round = 0; round < 200; round++) {
    struct tl_matcher *m = begun(g);
    uint32_t words;
    for (unsigned i = 0; i < 20; i++) {
      tl_matcher_mask(m, &words);
      if (tl_matcher_take(m, i < 9 ? 0 : i == 9 ? 4 : 2) < 0) break;
    }
    bool ends = tl_matcher_must_end(m);
    tl_matcher_free(m);
    if (!ends) return NULL;
  }
  tl_grammar_release(g);
  return argument;
}

static void test_a_grammar_is_shared(void **state) {
  (void)state;
  struct tl_vocabulary *v = vocabulary_of(brackets, UNIT_COUNT(brackets));
  v->wide = 0;
  struct tl_grammar *g = nested(v);
  pthread_t threads[4];
  for (size_t i = 0; i < UNIT_COUNT(threads); i++) assert_int_equal(pthread_create(&threads[i], NULL, follow_in_thread, tl_grammar_hold(g)), 0);
  void *address = g;
  tl_grammar_release(g); /* whoever is last frees it */
  for (size_t i = 0; i < UNIT_COUNT(threads); i++) {
    void *ret;
    assert_int_equal(pthread_join(threads[i], &ret), 0);
    assert_ptr_equal(ret, address);
  }
  tl_vocabulary_free(v);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_depth_is_bounded_and_never_a_dead_end),
      cmocka_unit_test(test_long_texts_need_no_more_frames),
      cmocka_unit_test(test_strings_count_characters),
      cmocka_unit_test(test_what_cannot_be_followed_is_refused),
      cmocka_unit_test(test_fuel_and_memory_end),
      cmocka_unit_test(test_expressions_may_be_deep),
      cmocka_unit_test(test_tokens_of_all_kinds),
      cmocka_unit_test(test_ambiguity_is_bounded),
      cmocka_unit_test(test_a_grammar_is_shared),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
