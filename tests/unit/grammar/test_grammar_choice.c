/* SPDX-License-Identifier: MIT */
#include "reader_unit.h"

static const struct unit_grammar choices[] = {
    {"['yes', 'no', 'yes, sir']", {"yes", "no", "yes, sir"}, {"", "ye", "yes,", "yesno"}},
    {"['\\n', '\xc3\xa9', '\xc3\xa8']", {"\n", "\xc3\xa9", "\xc3\xa8"}, {"\xc3", "e"}},
    {"['a', 'a']", {"a"}, {"aa"}},
};

static void test_choices(void **state) {
  (void)state;
  unit_check_grammars(TL_GRAMMAR_CHOICE, choices, UNIT_COUNT(choices));
}

static const struct unit_refusal refused[] = {
    {"[]", TL_EINVAL, "expected a list of strings that is not empty"},
    {"{'a': 1}", TL_EINVAL, "expected a list of strings that is not empty"},
    {"['a', 'b', null]", TL_EINVAL, "[2]: expected a string"},
};

static void test_refused(void **state) {
  (void)state;
  unit_check_refusals(TL_GRAMMAR_CHOICE, refused, UNIT_COUNT(refused));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_choices), cmocka_unit_test(test_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
