/* SPDX-License-Identifier: MIT */
/* Which requests share a grammar, and which grammars leave. Held ones stay where they are, so an address tells them apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "api/api_private.h"

static struct tl_vocabulary *vocabulary_new(void) {
  static char bytes[256];
  struct tl_vocabulary_token tokens[256];
  struct tl_vocabulary *vocabulary;
  for (unsigned i = 0; i < 256; i++) {
    bytes[i] = (char)i;
    tokens[i] = (struct tl_vocabulary_token){&bytes[i], 1};
  }
  assert_int_equal(tl_vocabulary_new(tokens, 256, &vocabulary, NULL), TL_OK);
  return vocabulary;
}

static struct tl_grammar *get(struct api_grammar_cache *cache, const struct tl_vocabulary *vocabulary, enum tl_grammar_kind kind, const char *text) {
  struct tl_grammar_source source = {.kind = kind, .field = "f"};
  struct tl_grammar *grammar;
  if (kind == TL_GRAMMAR_JSON_SCHEMA || kind == TL_GRAMMAR_CHOICE) {
    source.json = json_loads(text, 0, NULL);
    assert_non_null(source.json);
  } else {
    source.text = text;
    source.length = strlen(text);
  }
  assert_int_equal(api_grammar_cache_get(cache, vocabulary, &source, &grammar, NULL), TL_OK);
  json_decref(source.json);
  return grammar;
}

static void test_same_and_other(void **state) {
  (void)state;
  static const struct {
    enum tl_grammar_kind kind;
    const char *text;
  } sources[] = {{TL_GRAMMAR_REGEX, "a+"}, {TL_GRAMMAR_REGEX, "a*"}, {TL_GRAMMAR_JSON_OBJECT, ""}, {TL_GRAMMAR_CHOICE, "[\"a\"]"},
                 {TL_GRAMMAR_JSON_SCHEMA, "{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{}}}"},
                 {TL_GRAMMAR_JSON_SCHEMA, "{\"type\":\"object\",\"properties\":{\"b\":{},\"a\":{}}}"}}; /* in the other order */
  enum { N = sizeof sources / sizeof *sources };
  struct tl_vocabulary *one = vocabulary_new(), *two = vocabulary_new();
  struct api_grammar_cache *cache = api_grammar_cache_new();
  struct tl_grammar *held[N];
  for (unsigned i = 0; i < N; i++) held[i] = get(cache, one, sources[i].kind, sources[i].text);
  for (unsigned i = 0; i < N; i++) {
    struct tl_grammar *again = get(cache, one, sources[i].kind, sources[i].text), *other = get(cache, two, sources[i].kind, sources[i].text);
    assert_ptr_equal(again, held[i]);
    assert_ptr_not_equal(other, held[i]); /* of another model's tokens */
    for (unsigned k = 0; k < i; k++) assert_ptr_not_equal(held[i], held[k]);
    tl_grammar_release(again);
    tl_grammar_release(other);
  }
  struct tl_grammar *spaced = get(cache, one, TL_GRAMMAR_CHOICE, " [ \"a\" ] ");
  assert_ptr_equal(spaced, held[3]);
  tl_grammar_release(spaced);
  api_grammar_cache_free(cache); /* what is held lives on */
  for (unsigned i = 0; i < N; i++) tl_grammar_release(held[i]);
  tl_vocabulary_free(one);
  tl_vocabulary_free(two);
}

static void test_least_recently_used_leaves(void **state) {
  (void)state;
  struct tl_vocabulary *vocabulary = vocabulary_new();
  struct api_grammar_cache *cache = api_grammar_cache_new();
  struct tl_grammar *used = get(cache, vocabulary, TL_GRAMMAR_REGEX, "used"), *idle = get(cache, vocabulary, TL_GRAMMAR_REGEX, "idle");
  for (unsigned i = 0; i < 1000; i++) {
    char text[16];
    snprintf(text, sizeof text, "a%u", i);
    tl_grammar_release(get(cache, vocabulary, TL_GRAMMAR_REGEX, text));
    struct tl_grammar *again = get(cache, vocabulary, TL_GRAMMAR_REGEX, "used");
    assert_ptr_equal(again, used);
    tl_grammar_release(again);
  }
  struct tl_grammar *again = get(cache, vocabulary, TL_GRAMMAR_REGEX, "idle");
  assert_ptr_not_equal(again, idle);
  tl_grammar_release(again);
  tl_grammar_release(idle);
  tl_grammar_release(used);
  api_grammar_cache_free(cache);
  tl_vocabulary_free(vocabulary);
}

static void test_errors_are_not_kept(void **state) {
  (void)state;
  struct tl_vocabulary *vocabulary = vocabulary_new();
  struct api_grammar_cache *cache = api_grammar_cache_new();
  struct tl_grammar_source source = {.kind = TL_GRAMMAR_REGEX, .text = "(a", .length = 2, .field = "f"};
  for (int i = 0; i < 2; i++) {
    struct tl_grammar *grammar;
    struct tl_error err = {0};
    assert_true(api_grammar_cache_get(cache, vocabulary, &source, &grammar, &err) < 0);
    assert_string_equal(err.field, "f");
  }
  api_grammar_cache_free(cache);
  tl_vocabulary_free(vocabulary);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_and_other), cmocka_unit_test(test_least_recently_used_leaves),
                                     cmocka_unit_test(test_errors_are_not_kept)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
