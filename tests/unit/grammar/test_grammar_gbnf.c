/* SPDX-License-Identifier: MIT */
#include "reader_unit.h"

static const struct unit_grammar grammars[] = {
    {"root ::= \"a\"", {"a"}, {"", "aa"}},
    {"root ::= \"a\" # a comment \"b\"\n# another\n", {"a"}, {"ab"}},
    {"\n\n root ::= x y*\nx::=\"x\"\ny ::=\n  \"y\" |\n  \"z\"\n", {"x", "xyz"}, {"", "y"}},
    {"root ::= (\n\"a\"\n|\n\"b\" # in it\n\"c\")+", {"a", "bca"}, {"b", ""}},
    {"root ::= [a-c] [^a-c\\n] [\\]\\\\\\x41-] .", {"ax]\n", "cz-z", "bdA\xc3\xa9"}, {"aa]a", "axBx"}},
    {"root ::= \"\\\"\\\\\\n\\r\\t\\x7e\\u00e9\\U0001F600\"", {"\"\\\n\r\t~\xc3\xa9\xf0\x9f\x98\x80"}, {""}},
    {"root ::= \"a\"{2} \"b\"{1,} \"c\"{0,2} \"d\"{ 1 , 1 } \"e\"{0}", {"aabd", "aabbccd"}, {"abd", "aabcccd", "aabde"}},
    {"root ::= a-b_1\na-b_1 ::= \"(\" a-b_1? \")\"", {"()", "((()))"}, {"", "(()"}},
    {"root ::= | \"a\" |", {"", "a"}, {"b"}},
    {"root ::= \"a\" * \"b\" ?", {"", "aab"}, {"bb"}},
    {"root ::= \"a\"\r\nother ::= \"b\"\r\n", {"a"}, {"b"}},
};

static void test_grammars(void **state) {
  (void)state;
  unit_check_grammars(TL_GRAMMAR_GBNF, grammars, UNIT_COUNT(grammars));
}

static const struct unit_refusal refused[] = {
    {"", TL_EINVAL, "line 1: there is no rule root"},
    {"a ::= \"x\"\n", TL_EINVAL, "line 2: there is no rule root"},
    {"root ::= \"x\"\n\nroot ::= y", TL_EINVAL, "line 3: a second definition of root"},
    {"root ::= \"x\"\n  y", TL_EINVAL, "line 2: expected ::="},
    {"root ::= \n x |\n y\nx ::= \"x\"", TL_EINVAL, "line 3: there is no rule y"},
    {"root ::= (\"a\"\n", TL_EINVAL, "line 2: expected )"},
    {"root ::= \"a\n\"", TL_EINVAL, "line 1: a literal or class does not end on its line"},
    {"root ::= [a", TL_EINVAL, "line 1: the text ends too early or is not UTF-8"},
    {"root ::= \"\\", TL_EINVAL, "line 1: unknown escape"},
    {"root ::= \"\\x4\"", TL_EINVAL, "line 1: an escape has too few hexadecimal digits"},
    {"root ::= \"a\"{3,2}", TL_EINVAL, "line 1: the least count is above the most"},
    {"root ::= \"a\"{2000000}", TL_ELIMIT, "line 1: that is too often"},
    {"root ::= <[1]>", TL_EUNSUPPORTED, "line 1: tokens (<...>) are not supported"},
    {"root ::= \"a\" = \"b\"", TL_EINVAL, "line 1: expected the end of the line"},
};

static void test_refused(void **state) {
  (void)state;
  unit_check_refusals(TL_GRAMMAR_GBNF, refused, UNIT_COUNT(refused));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_grammars), cmocka_unit_test(test_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
