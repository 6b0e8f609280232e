/* SPDX-License-Identifier: MIT */
/* Tokenizers made of parts (GGUF's way): the parts of the golden tokenizers give the ids that the whole
 * ones do, SentencePiece's pieces with scores give SentencePiece's ids. */
#include <string.h>

#include "text/text_golden.h"
#include "tokenlane/text.h"

#define MAX_PIECES 4096

struct made {
  struct tl_text pieces[MAX_PIECES], merges[MAX_PIECES];
  float scores[MAX_PIECES];
  int32_t types[MAX_PIECES];
  char spelled[MAX_PIECES][1024];
  struct tl_tokenizer_parts parts;
};
static struct made made;

static struct tl_text text_of(json_t *json) {
  return (struct tl_text){json_string_value(json), json_string_length(json)};
}

static void start(const char *kind, uint32_t n) {
  memset(&made, 0, sizeof made);
  assert_true(n <= MAX_PIECES);
  for (uint32_t i = 0; i < n; i++) {
    made.types[i] = TL_PIECE_UNUSED;
    made.pieces[i] = (struct tl_text){"", 0};
  }
  made.parts = (struct tl_tokenizer_parts){.kind = kind, .pieces = made.pieces, .types = made.types, .n = n, .unk = -1, .before = -1, .after = -1};
}

static struct tl_tokenizer *new_tokenizer(void) {
  struct tl_tokenizer *t = NULL;
  struct tl_error err = {0};
  if (tl_tokenizer_new(&made.parts, &t, &err) < 0) fail_msg("%s", err.message);
  return t;
}

static void check_cases(const char *name, const struct tl_tokenizer *t, json_t *cases, bool special) {
  json_t *c;
  size_t i;
  assert_true(json_array_size(cases) > 20);
  json_array_foreach(cases, i, c) {
    json_t *expected = json_object_get(c, special ? "ids_special" : "ids");
    struct tl_text text = text_of(json_object_get(c, "text"));
    struct tl_tokens got = {0};
    struct tl_encode_options options = {.add_special = special, .parse_special = true};
    assert_int_equal(tl_tokenizer_encode(t, text.text, text.length, &options, &got, NULL), TL_OK);
    bool same = got.n == json_array_size(expected);
    for (size_t k = 0; same && k < got.n; k++) same = got.ids[k] == json_integer_value(json_array_get(expected, k));
    if (!same) fail_msg("%s: other ids for %s", name, text.text);
    json_t *decoded = json_object_get(c, "decoded");
    if (decoded && !special) {
      struct tl_buffer out;
      tl_buffer_init(&out, 0);
      assert_int_equal(tl_tokenizer_decode(t, got.ids, got.n, false, &out), TL_OK);
      assert_string_equal(tl_buffer_string(&out), json_string_value(decoded));
      tl_buffer_done(&out);
    }
    tl_tokens_done(&got);
  }
}

/* The vocabulary of a golden tokenizer as pieces; added tokens are control or user defined. */
static json_t *take_apart(const char *name, const char *kind) {
  char file[200];
  snprintf(file, sizeof file, "tokenizers/%s/tokenizer.json", name);
  json_t *root = golden_json(file), *vocab = json_object_get(json_object_get(root, "model"), "vocab"), *value;
  uint32_t n = 0;
  const char *key;
  size_t i;
  json_t *added = json_object_get(root, "added_tokens");
  json_object_foreach(vocab, key, value) if (json_integer_value(value) >= n) n = (uint32_t)json_integer_value(value) + 1;
  if (json_is_array(vocab)) n = (uint32_t)json_array_size(vocab);
  json_array_foreach(added, i, value)
    if (json_integer_value(json_object_get(value, "id")) >= n) n = (uint32_t)json_integer_value(json_object_get(value, "id")) + 1;
  start(kind, n);
  json_object_foreach(vocab, key, value) {
    made.pieces[json_integer_value(value)] = (struct tl_text){key, strlen(key)};
    made.types[json_integer_value(value)] = TL_PIECE_NORMAL;
  }
  if (json_is_array(vocab))
    for (i = 0; i < json_array_size(vocab); i++) {
      made.pieces[i] = text_of(json_array_get(json_array_get(vocab, i), 0));
      made.scores[i] = (float)json_number_value(json_array_get(json_array_get(vocab, i), 1));
      made.types[i] = TL_PIECE_NORMAL;
    }
  json_array_foreach(added, i, value) {
    json_int_t id = json_integer_value(json_object_get(value, "id"));
    made.pieces[id] = text_of(json_object_get(value, "content"));
    made.types[id] = json_is_true(json_object_get(value, "special")) ? TL_PIECE_CONTROL : TL_PIECE_USER_DEFINED;
  }
  return root;
}

static json_t *cases_of(const char *name) {
  char file[200];
  snprintf(file, sizeof file, "tokenizers/%s/cases.json", name);
  return golden_json(file);
}

static void take_merges(json_t *root) {
  json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
  made.parts.n_merges = (uint32_t)json_array_size(merges);
  assert_true(made.parts.n_merges <= MAX_PIECES);
  for (uint32_t k = 0; k < made.parts.n_merges; k++) {
    json_t *merge = json_array_get(merges, k);
    int length = snprintf(made.spelled[k], sizeof made.spelled[k], "%s %s", json_string_value(json_array_get(merge, 0)),
                          json_string_value(json_array_get(merge, 1)));
    made.merges[k] = (struct tl_text){made.spelled[k], (size_t)length};
  }
  made.parts.merges = made.merges;
}

static void test_merges(void **state) {
  (void)state;
  static const struct {
    const char *name, *kind, *pre;
    int32_t unk;
  } rows[] = {{"llama3", "gpt2", "llama-bpe", -1}, {"gpt4o", "gpt2", "gpt-4o", -1}, {"starcoder", "gpt2", "smollm", -1}, {"deepseek", "gpt2", "deepseek-v3", -1},
              {"gemma", "gemma4", NULL, 0}}; /* SentencePiece's pieces by merges */
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    json_t *root = take_apart(rows[i].name, rows[i].kind);
    made.parts.pre = rows[i].pre;
    made.parts.unk = rows[i].unk;
    take_merges(root);
    struct tl_tokenizer *t = new_tokenizer();
    json_t *cases = cases_of(rows[i].name);
    check_cases(rows[i].name, t, cases, false);
    json_decref(cases);
    json_decref(root);
    tl_tokenizer_free(t);
  }
}

/* ##ing is written ing, and what begins a word gets SentencePiece's sign. */
static void test_bert(void **state) {
  (void)state;
  json_t *root = take_apart("bert_uncased", "bert");
  for (uint32_t i = 0; i < made.parts.n; i++) {
    struct tl_text *piece = &made.pieces[i];
    if (made.types[i] != TL_PIECE_NORMAL) continue;
    bool inner = piece->length > 2 && memcmp(piece->text, "##", 2) == 0;
    int length = snprintf(made.spelled[i], sizeof made.spelled[i], "%s%s", inner ? "" : "\xe2\x96\x81", piece->text + (inner ? 2 : 0));
    *piece = (struct tl_text){made.spelled[i], (size_t)length};
  }
  made.parts.unk = 1;
  made.parts.before = 2;
  made.parts.after = 3;
  struct tl_tokenizer *t = new_tokenizer();
  json_t *cases = cases_of("bert_uncased");
  check_cases("bert", t, cases, false);
  check_cases("bert", t, cases, true);
  json_decref(cases);
  json_decref(root);
  tl_tokenizer_free(t);
}

/* Without the map, on texts that it does not change. */
static void test_t5(void **state) {
  (void)state;
  json_t *root = take_apart("t5", "t5"), *plain = json_array(), *cases = cases_of("t5"), *c;
  size_t i;
  made.parts.scores = made.scores;
  made.parts.unk = 2;
  made.parts.after = 1;
  made.parts.add_space_prefix = true;
  made.types[made.parts.n - 1] = TL_PIECE_UNUSED; /* <mask> takes the blanks before it */
  struct tl_tokenizer *t = new_tokenizer();
  json_array_foreach(cases, i, c) {
    bool ascii = true;
    for (const char *at = json_string_value(json_object_get(c, "text")); *at; at++) ascii &= *at >= ' ' && *at < 0x7f;
    /* a run of one letter is divided by the last bit of its scores, and these are floats here */
    size_t length = json_string_length(json_object_get(c, "text"));
    if (ascii && length && length < 60) json_array_append(plain, c);
  }
  check_cases("t5", t, plain, false);
  check_cases("t5", t, plain, true);
  json_decref(plain);
  json_decref(cases);
  json_decref(root);
  tl_tokenizer_free(t);
}

static void test_sentencepiece(void **state) {
  (void)state;
  json_t *root = golden_json("tokenizers_spm.json"), *pieces = json_object_get(root, "pieces");
  start("llama", (uint32_t)json_array_size(pieces));
  for (size_t i = 0; i < made.parts.n; i++) {
    json_t *piece = json_array_get(pieces, i);
    made.pieces[i] = text_of(json_array_get(piece, 0));
    made.scores[i] = (float)json_number_value(json_array_get(piece, 1));
    made.types[i] = (int32_t)json_integer_value(json_array_get(piece, 2));
  }
  made.parts.scores = made.scores;
  made.parts.unk = 0;
  made.parts.add_space_prefix = true;
  struct tl_tokenizer *t = new_tokenizer();
  check_cases("sentencepiece", t, json_object_get(root, "cases"), false);
  tl_tokenizer_free(t);
  json_decref(root);
}

static void test_bad_parts(void **state) {
  (void)state;
  struct tl_tokenizer *t;
  struct tl_error err = {0};
  start("rwkv", 1);
  assert_int_equal(tl_tokenizer_new(&made.parts, &t, &err), TL_EUNSUPPORTED);
  start("llama", 1);
  assert_int_equal(tl_tokenizer_new(&made.parts, &t, &err), TL_ECORRUPT); /* no scores */
  start("gpt2", 0);
  assert_int_equal(tl_tokenizer_new(&made.parts, &t, &err), TL_ECORRUPT);
  start("gpt2", 1);
  made.parts.pre = "unheard-of";
  assert_int_equal(tl_tokenizer_new(&made.parts, &t, &err), TL_EUNSUPPORTED);
  assert_non_null(strstr(err.message, "unheard-of"));
  start("gpt2", 1);
  made.parts.before = 1;
  assert_int_equal(tl_tokenizer_new(&made.parts, &t, &err), TL_ECORRUPT);
  start("gpt2", 1);
  made.pieces[0] = (struct tl_text){"\xff", 1};
  assert_int_equal(tl_tokenizer_new(&made.parts, &t, &err), TL_ECORRUPT);
  start("gpt2", 1);
  made.merges[0] = (struct tl_text){"ab", 2};
  made.parts.merges = made.merges;
  made.parts.n_merges = 1;
  assert_int_equal(tl_tokenizer_new(&made.parts, &t, &err), TL_ECORRUPT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_merges), cmocka_unit_test(test_bert),      cmocka_unit_test(test_t5),
      cmocka_unit_test(test_sentencepiece), cmocka_unit_test(test_bad_parts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
