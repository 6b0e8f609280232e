/* SPDX-License-Identifier: MIT */
/* Two texts as one sequence, as the `tokenizers` library makes it (tests/golden/make_pairs.py), and what cannot be joined. */
#include <string.h>
#include <unistd.h>

#include "text_golden.h"

/* tokenizer.json of a golden tokenizer with another post_processor. */
static struct tl_tokenizer *with_post(const char *name, json_t *post, int *ret_code, struct tl_error *err) {
  char file[600], path[] = "/tmp/tokenlane-joint-XXXXXX";
  snprintf(file, sizeof file, "tokenizers/%s/tokenizer.json", name);
  json_t *whole = golden_json(file);
  if (post && !json_is_null(post)) json_object_set(whole, "post_processor", post);
  int fd = mkstemp(path);
  assert_true(fd >= 0 && json_dumpfd(whole, fd, 0) == 0);
  close(fd);
  struct tl_tokenizer *t = NULL;
  *ret_code = tl_tokenizer_load(path, &t, err);
  unlink(path);
  json_decref(whole);
  return t;
}

static void encode(const struct tl_tokenizer *t, json_t *text, struct tl_tokens *ret) {
  struct tl_error err = {0};
  struct tl_encode_options options = {.parse_special = true};
  assert_int_equal(tl_tokenizer_encode(t, json_string_value(text), json_string_length(text), &options, ret, &err), TL_OK);
}

static void check_case(const struct tl_tokenizer *t, json_t *c, size_t index) {
  struct tl_tokens first = {0}, second = {0};
  encode(t, json_object_get(c, "first"), &first);
  encode(t, json_object_get(c, "second"), &second);
  uint32_t around, n_first = (uint32_t)first.n, n_second = (uint32_t)second.n;
  uint32_t most = (uint32_t)json_integer_value(json_object_get(c, "max_length"));
  assert_int_equal(tl_tokenizer_n_around(t, true, &around, NULL), TL_OK);
  if (most) tl_tokenizer_shorten(&n_first, &n_second, most - around);
  uint32_t n = n_first + n_second + around;
  int32_t *ids = calloc(n + 1, sizeof *ids), none = 0;
  uint8_t *types = calloc(n + 1, sizeof *types);
  ids[n] = 12345;
  types[n] = 99;
  tl_tokenizer_join(t, first.ids, n_first, second.ids ? second.ids : &none, n_second, ids, types);
  json_t *want = json_object_get(c, "ids"), *want_types = json_object_get(c, "types");
  if (json_array_size(want) != n) fail_msg("case %zu: expected %zu ids, got %u", index, json_array_size(want), n);
  for (uint32_t i = 0; i < n; i++)
    if (json_integer_value(json_array_get(want, i)) != ids[i] || json_integer_value(json_array_get(want_types, i)) != types[i])
      fail_msg("case %zu: at %u: expected %lld of type %lld, got %d of type %d", index, i, (long long)json_integer_value(json_array_get(want, i)),
               (long long)json_integer_value(json_array_get(want_types, i)), ids[i], types[i]);
  assert_true(ids[n] == 12345 && types[n] == 99);
  free(ids);
  free(types);
  tl_tokens_done(&first);
  tl_tokens_done(&second);
}

static void test_equals_reference(void **state) {
  (void)state;
  json_t *cases = golden_json("pairs.json"), *c, *last_post = NULL;
  const char *last = "";
  struct tl_tokenizer *t = NULL;
  struct tl_error err = {0};
  size_t i;
  json_array_foreach(cases, i, c) {
    const char *name = json_string_value(json_object_get(c, "tokenizer"));
    json_t *post = json_object_get(c, "post_processor");
    if (strcmp(name, last) != 0 || !json_equal(post, last_post)) {
      int r;
      tl_tokenizer_free(t);
      t = with_post(name, post, &r, &err);
      if (r < 0) fail_msg("%s: %s", name, err.message);
      last = name;
      last_post = post;
    }
    check_case(t, c, i);
  }
  assert_true(i > 100);
  tl_tokenizer_free(t);
  json_decref(cases);
}

/* One text is what add_special gives. */
static void test_one_text(void **state) {
  (void)state;
  struct tl_tokenizer *t = golden_tokenizer("bert_uncased");
  json_t *text = json_string("How many people live in Berlin?");
  struct tl_tokens ids = {0}, whole = {0};
  struct tl_encode_options options = {.add_special = true, .parse_special = true};
  encode(t, text, &ids);
  assert_int_equal(tl_tokenizer_encode(t, json_string_value(text), json_string_length(text), &options, &whole, NULL), TL_OK);
  uint32_t around;
  assert_int_equal(tl_tokenizer_n_around(t, false, &around, NULL), TL_OK);
  assert_int_equal(ids.n + around, whole.n);
  int32_t joined[64];
  uint8_t types[64];
  tl_tokenizer_join(t, ids.ids, (uint32_t)ids.n, NULL, 0, joined, types);
  assert_memory_equal(joined, whole.ids, whole.n * sizeof *joined);
  for (size_t i = 0; i < whole.n; i++) assert_int_equal(types[i], 0);
  tl_tokens_done(&ids);
  tl_tokens_done(&whole);
  json_decref(text);
  tl_tokenizer_free(t);
}

/* What does not say how two are joined loads all the same and says so; ids that are none are refused. */
static void test_no_pairs(void **state) {
  (void)state;
#define HEAD "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":"
  static const struct {
    const char *post;
    bool loads;
  } cases[] = {
      {HEAD "[],\"special_tokens\":{}}", true},
      {HEAD "[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{}}", true},
      {HEAD "[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"Sequence\":{\"id\":\"C\",\"type_id\":0}}],\"special_tokens\":{}}", true},
      {HEAD "[{\"Sequence\":{\"id\":\"A\"}},{\"Sequence\":{\"id\":\"B\",\"type_id\":256}}],\"special_tokens\":{}}", true},
      {HEAD "[{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"B\"}}],\"special_tokens\":{}}", true},
      {HEAD "[{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"B\"}}],"
            "\"special_tokens\":{\"x\":{\"ids\":[99999999]}}}", false},
      {"{\"type\":\"Sequence\",\"processors\":[{\"type\":\"BertProcessing\",\"sep\":[\"x\",1],\"cls\":[\"y\",2]},"
       "{\"type\":\"BertProcessing\",\"sep\":[\"x\",1],\"cls\":[\"y\",2]}]}", true},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    json_t *post = json_loads(cases[i].post, 0, NULL);
    assert_non_null(post);
    struct tl_error err = {0};
    int r;
    uint32_t around;
    struct tl_tokenizer *t = with_post("bert_uncased", post, &r, &err);
    assert_int_equal(r == TL_OK, cases[i].loads);
    if (t) assert_int_equal(tl_tokenizer_n_around(t, true, &around, &err), TL_EUNSUPPORTED);
    assert_true(*err.message != 0);
    tl_tokenizer_free(t);
    json_decref(post);
  }
}

static void test_shorten(void **state) {
  (void)state;
  static const uint32_t cases[][5] = {/* first, second, most: what they become */
                                      {3, 4, 7, 3, 4}, {3, 4, 6, 3, 3}, {10, 2, 6, 4, 2}, {2, 10, 6, 2, 4}, {10, 9, 5, 3, 2},
                                      {9, 10, 5, 2, 3}, {9, 9, 5, 2, 3}, {5, 5, 0, 0, 0},  {0, 9, 4, 0, 4},  {UINT32_MAX, UINT32_MAX, 8, 4, 4}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint32_t first = cases[i][0], second = cases[i][1];
    tl_tokenizer_shorten(&first, &second, cases[i][2]);
    assert_int_equal(first, cases[i][3]);
    assert_int_equal(second, cases[i][4]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_equals_reference), cmocka_unit_test(test_one_text),
                                     cmocka_unit_test(test_no_pairs), cmocka_unit_test(test_shorten)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
