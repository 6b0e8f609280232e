/* SPDX-License-Identifier: MIT */
#include "reader_unit.h"

static const struct unit_grammar expressions[] = {
    {"", {""}, {"a"}},
    {"abc", {"abc"}, {"", "ab", "abcd", "xabc"}},
    {"^abc$", {"abc"}, {"", "abcd"}},
    {"^a|b$", {"a", "b"}, {"ab", "ax", "xb"}},
    {"(^a$)", {"a"}, {"aa"}},
    {"a|bc|", {"a", "bc", ""}, {"b", "abc"}},
    {"(a|(?:b|(?<name>c)))(?P<other>d)?", {"a", "b", "cd"}, {"d", "add"}},
    {"a*b+c?", {"b", "aabbc"}, {"a", "bcc"}},
    {"a*?b+?c??", {"b", "aabbc"}, {"a", "bcc"}},
    {"a{2}b{1,}c{0,2}d{,1}", {"aab", "aabbbccd"}, {"ab", "aabccc", "aabdd"}},
    {"a{0}b", {"b"}, {"ab"}},
    {"a{,}{x}", {"a{,}{x}"}, {"a"}},
    {"(a*)*", {"", "aaa"}, {"b"}},
    {"(|a)+", {"", "aaa"}, {"b"}},
    {"[a-c\\d_-]+", {"ab9_-"}, {"d", ""}},
    {"[^a-c]", {"d", "\xc3\xa9", "\n"}, {"a", "", "dd", "\xc3"}},
    {"[\xc3\xa9-\xf0\x9f\x98\x80]", {"\xc3\xa9", "\xe4\xb8\xad", "\xf0\x9f\x98\x80"}, {"e", "\xf0\x9f\x98\x81", "\xed\xa0\x80"}},
    {"\\u00e9\\x41\\u{1F600}\\ud83d\\ude00", {"\xc3\xa9" "A\xf0\x9f\x98\x80\xf0\x9f\x98\x80"}, {"\xc3\xa9"}},
    {".", {"a", "\r", "\xe2\x80\xa8"}, {"\n", ""}},
    {"\\s\\S\\w\\W\\d\\D", {"\ta_-0x", "\f\xc2\xa0z\xc3\xa9" "1 "}, {"aaaaaa"}},
    {"\\.\\*\\(\\)\\[\\]\\\\\\/\\-\\^\\$", {".*()[]\\/-^$"}, {"a"}},
    {"[\\]\\b\\n.]+", {"]\b\n."}, {"\\"}},
    {"a]}b", {"a]}b"}, {"ab"}},
};

static void test_expressions(void **state) {
  (void)state;
  unit_check_grammars(TL_GRAMMAR_REGEX, expressions, UNIT_COUNT(expressions));
}

static const struct unit_refusal refused[] = {
    {"a(?=b)", TL_EUNSUPPORTED, "look-ahead is not supported (offset 1 of the pattern)"},
    {"(?<!b)", TL_EUNSUPPORTED, "look-behind is not supported (offset 0 of the pattern)"},
    {"(a)\\1", TL_EUNSUPPORTED, "back references are not supported (offset 3 of the pattern)"},
    {"a\\b", TL_EUNSUPPORTED, "word boundaries are not supported (offset 1 of the pattern)"},
    {"(?i)a", TL_EUNSUPPORTED, "inline flags are not supported (offset 0 of the pattern)"},
    {"\\p{Lu}", TL_EUNSUPPORTED, "Unicode properties (\\p) are not supported (offset 0 of the pattern)"},
    {"a(b^)", TL_EUNSUPPORTED, "^ and $ are supported only at the ends of the pattern or of its alternatives (offset 3 of the pattern)"},
    {"[[:alpha:]]", TL_EUNSUPPORTED, "[:classes:] are not supported (offset 1 of the pattern)"},
    {"a++", TL_EUNSUPPORTED, "possessive quantifiers are not supported (offset 1 of the pattern)"},
    {"^*", TL_EINVAL, "there is nothing to repeat (offset 1 of the pattern)"},
    {"a|*", TL_EINVAL, "there is nothing to repeat (offset 2 of the pattern)"},
    {"(a", TL_EINVAL, "a group is not closed (offset 0 of the pattern)"},
    {"[^]", TL_EINVAL, "a class is empty, or its first ] needs a backslash (offset 0 of the pattern)"},
    {"[\\d-z]", TL_EINVAL, "a range in a class goes backwards or is none (offset 1 of the pattern)"},
    {"\\u12", TL_EINVAL, "\\u needs four hexadecimal digits, or some in braces (offset 0 of the pattern)"},
    {"\xff", TL_EINVAL, "the pattern is not UTF-8 (offset 0 of the pattern)"},
    {"a{1000001}", TL_ELIMIT, "that is too often (offset 1 of the pattern)"},
};

static void test_refused(void **state) {
  (void)state;
  unit_check_refusals(TL_GRAMMAR_REGEX, refused, UNIT_COUNT(refused));
}

/* They end soon, in an error. */
static void test_hostile(void **state) {
  (void)state;
  static const char *const parts[][3] = {{"(", "a", ")"}, {"(", "a", ")*"}, {"(", "a", "){1000}"}, {"(a|", "b", ")"}};
  for (size_t i = 0; i < UNIT_COUNT(parts); i++) {
    static char text[100000];
    struct tl_grammar *grammar;
    struct tl_error err = {0};
    text[0] = 0;
    for (int k = 0; k < 120; k++) strcat(text, parts[i][0]);
    strcat(text, parts[i][1]);
    for (int k = 0; k < 120; k++) strcat(text, parts[i][2]);
    assert_true(unit_compile(TL_GRAMMAR_REGEX, text, &grammar, &err) < 0);
    assert_true(err.message[0] != 0);
  }
  struct tl_grammar *grammar;
  struct tl_error err = {0};
  assert_int_equal(unit_compile(TL_GRAMMAR_REGEX, "((a{1000}){1000}){1000}", &grammar, &err), TL_ELIMIT);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_expressions), cmocka_unit_test(test_refused), cmocka_unit_test(test_hostile)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
