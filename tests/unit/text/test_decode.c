/* SPDX-License-Identifier: MIT */
/* Decoders where golden texts do not reach: bytes that are no character, what is stripped at the end, control
 * tokens that a client spells. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "text/text_golden.h"
#include "tokenlane/text.h"

static struct tl_tokenizer *load_json(const char *json) {
  char path[64];
  struct tl_error err = {0};
  struct tl_tokenizer *t;
  int fd = memfd_create("tokenizer.json", 0);
  assert_int_equal(write(fd, json, strlen(json)), strlen(json));
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (tl_tokenizer_load(path, &t, &err) < 0) fail_msg("%s", err.message);
  close(fd);
  return t;
}

static void assert_decodes(const struct tl_tokenizer *t, const int32_t *ids, size_t n, const char *whole, const char *streamed) {
  struct tl_buffer out;
  struct tl_detok detok;
  tl_buffer_init(&out, 0);
  assert_int_equal(tl_tokenizer_decode(t, ids, n, false, &out), TL_OK);
  assert_string_equal(tl_buffer_string(&out), whole);
  tl_buffer_clear(&out);
  tl_detok_init(&detok, t, false);
  for (size_t i = 0; i < n; i++) assert_int_equal(tl_detok_push(&detok, ids[i], &out), TL_OK);
  assert_int_equal(tl_detok_finish(&detok, &out), TL_OK);
  assert_string_equal(tl_buffer_string(&out), streamed);
  tl_buffer_done(&out);
}

#define MODEL(decoders) "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"_\":1,\"__\":2,\"<0xE2>\":3,\"<0x82>\":4,\"<0xAC>\":5,\"<0x41>\":6,\"b_\":7}," \
                        "\"merges\":[]},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" decoders "]}}"
#define ONE_BLANK "\xef\xbf\xbd"

static void test_runs_of_bytes(void **state) {
  (void)state;
  struct tl_tokenizer *t = load_json(MODEL("{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}"));
  assert_decodes(t, (int32_t[]){3, 4, 5, 0}, 4, "\xe2\x82\xac" "a", "\xe2\x82\xac" "a");
  assert_decodes(t, (int32_t[]){3, 4, 0}, 3, ONE_BLANK ONE_BLANK "a", ONE_BLANK ONE_BLANK "a");
  assert_decodes(t, (int32_t[]){3, 4}, 2, ONE_BLANK ONE_BLANK, ONE_BLANK ONE_BLANK);
  assert_decodes(t, (int32_t[]){4, 6, 0, 6}, 4, ONE_BLANK ONE_BLANK "aA", ONE_BLANK ONE_BLANK "aA");
  /* the one thing in which a stream differs: it has shown the A */
  assert_decodes(t, (int32_t[]){6, 4, 6}, 3, ONE_BLANK ONE_BLANK ONE_BLANK, "A" ONE_BLANK ONE_BLANK);
  /* an id without a token does not end a run */
  assert_decodes(t, (int32_t[]){3, 99, 4, -1, 5}, 5, "\xe2\x82\xac", "\xe2\x82\xac");
  tl_tokenizer_free(t);
}

static void test_strips_both_ends(void **state) {
  (void)state;
  struct tl_tokenizer *t = load_json(MODEL("{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\"_\",\"start\":1,\"stop\":2}"));
  assert_decodes(t, (int32_t[]){2, 0, 2, 1}, 4, "_a_", "_a_");
  assert_decodes(t, (int32_t[]){0, 1, 0}, 3, "a_a", "a_a");
  assert_decodes(t, (int32_t[]){0, 2, 2, 0, 7}, 5, "a____ab", "a____ab");
  assert_decodes(t, (int32_t[]){1}, 1, "", "");
  assert_decodes(t, NULL, 0, "", "");
  tl_tokenizer_free(t);
}

static void test_strips_each_token(void **state) {
  (void)state;
  struct tl_tokenizer *t = load_json(MODEL("{\"type\":\"Strip\",\"content\":\"_\",\"start\":0,\"stop\":1}"));
  assert_decodes(t, (int32_t[]){7, 2, 0, 1}, 4, "b_a", "b_a");
  tl_tokenizer_free(t);
}

/* What a client writes never becomes a control token, also not as a piece of the model's vocabulary. */
static void test_control_tokens_of_the_vocabulary(void **state) {
  (void)state;
  static const char *const names[] = {"llama2", "mistral", "gemma", "phi3", "t5", "xlmr", "albert", "unigram_bytes", "bert_uncased", "wordpiece_lines", "falcon"};
  static const char *const texts[] = {"</s>", " </s>", "a</s>", "<s> b </s>", "<unk>", "<pad>", "[SEP]", " [SEP] ", "a [CLS] [MASK]", "<mask>", "<|endoftext|>"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    struct tl_tokenizer *t = golden_tokenizer(names[i]);
    for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
      struct tl_span all = {0, strlen(texts[k])};
      struct tl_encode_options options = {.parse_special = true, .untrusted = &all, .n_untrusted = 1};
      struct tl_tokens ids = {0};
      assert_int_equal(tl_tokenizer_encode(t, texts[k], all.end, &options, &ids, NULL), TL_OK);
      for (size_t n = 0; n < ids.n; n++) {
        size_t length;
        const char *bytes = tl_tokenizer_bytes(t, ids.ids[n], &length);
        /* the unknown token is what the model says for what it does not know */
        bool unknown = memmem(bytes, length, "unk", 3) || memmem(bytes, length, "UNK", 3);
        if (tl_tokenizer_is_special(t, ids.ids[n]) && !unknown) fail_msg("%s: %s gives a control token", names[i], texts[k]);
      }
      tl_tokens_done(&ids);
    }
    tl_tokenizer_free(t);
  }
}

/* A template's own control tokens work although the normalizer puts something before the text. */
static void test_template_around_a_client(void **state) {
  (void)state;
  static const char *const names[] = {"llama2", "mistral", "gemma"};
  static const char text[] = "<s>hi </s> you</s>";
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    struct tl_tokenizer *t = golden_tokenizer(names[i]);
    struct tl_span client = {3, sizeof text - 1 - 4};
    struct tl_encode_options options = {.parse_special = true, .untrusted = &client, .n_untrusted = 1};
    struct tl_tokens ids = {0};
    assert_int_equal(tl_tokenizer_encode(t, text, sizeof text - 1, &options, &ids, NULL), TL_OK);
    unsigned n_special = 0;
    for (size_t n = 0; n < ids.n; n++) n_special += tl_tokenizer_is_special(t, ids.ids[n]);
    assert_int_equal(n_special, 2);
    assert_true(tl_tokenizer_is_special(t, ids.ids[0]) && tl_tokenizer_is_special(t, ids.ids[ids.n - 1]));
    tl_tokens_done(&ids);
    tl_tokenizer_free(t);
  }
}

/* Special tokens have no text where they are skipped, but for those that a caller names. */
static void test_kept_tokens(void **state) {
  (void)state;
  struct tl_tokenizer *t = load_json("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]},\"decoder\":{\"type\":\"Fuse\"},\"added_tokens\":["
                                     "{\"id\":2,\"content\":\"[X]\",\"special\":true},{\"id\":3,\"content\":\"[Y]\",\"special\":true},"
                                     "{\"id\":4,\"content\":\"[Z]\",\"special\":false}]}");
  static const int32_t ids[] = {2, 0, 3, 1, 4, 2};
  int32_t kept = tl_tokenizer_find(t, "[Y]");
  assert_int_equal(kept, 3);
  assert_int_equal(tl_tokenizer_find(t, "b"), 1);
  assert_int_equal(tl_tokenizer_find(t, "[Y"), -1);
  for (unsigned n = 0; n < 2; n++) {
    struct tl_detok detok;
    struct tl_buffer out;
    tl_buffer_init(&out, 0);
    tl_detok_init(&detok, t, true);
    detok.kept = &kept;
    detok.n_kept = n;
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) assert_int_equal(tl_detok_push(&detok, ids[i], &out), TL_OK);
    assert_string_equal(tl_buffer_string(&out), n ? "a[Y]b[Z]" : "ab[Z]");
    tl_buffer_done(&out);
  }
  tl_tokenizer_free(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_runs_of_bytes),
      cmocka_unit_test(test_strips_both_ends),
      cmocka_unit_test(test_strips_each_token),
      cmocka_unit_test(test_control_tokens_of_the_vocabulary),
      cmocka_unit_test(test_template_around_a_client),
      cmocka_unit_test(test_kept_tokens),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
