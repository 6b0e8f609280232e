/* SPDX-License-Identifier: MIT */
/* Many texts through one tokenizer, for tests that compare it with another:
 *
 *   tokenize_many tokenizer.json [bench ROUNDS] <records
 *
 * A record is a 32-bit length and so many bytes of text, little-endian as this machine is. For each
 * come four answers, each a 32-bit count and its items: ids without special tokens, ids with them,
 * the text of the former, the text of the latter without special tokens. With `bench` one text is
 * encoded ROUNDS times and the best time in nanoseconds is printed. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenlane/base/clock.h"
#include "tokenlane/text.h"

static void die(const char *what) {
  fprintf(stderr, "tokenize_many: %s\n", what);
  exit(1);
}

/* NULL at the end of the input. */
static char *read_record(uint32_t *length) {
  if (fread(length, sizeof *length, 1, stdin) != 1) return NULL;
  char *text = malloc((size_t)*length + 1);
  if (!text || fread(text, 1, *length, stdin) != *length) die("a record is cut");
  return text;
}

static struct tl_tokens encode(const struct tl_tokenizer *t, const char *text, size_t length, bool add_special) {
  struct tl_tokens ids = {0};
  struct tl_error err = {0};
  struct tl_encode_options options = {.add_special = add_special, .parse_special = true};
  if (tl_tokenizer_encode(t, text, length, &options, &ids, &err) < 0) die(err.message);
  return ids;
}

static void put(const void *items, size_t n, size_t size) {
  uint32_t count = (uint32_t)n;
  fwrite(&count, sizeof count, 1, stdout);
  if (n) fwrite(items, size, n, stdout);
}

/* Streaming must give the same text, for ids that come from a text. */
static void check_stream(const struct tl_tokenizer *t, const struct tl_tokens *ids, bool skip, struct tl_buffer *whole) {
  struct tl_detok detok;
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_detok_init(&detok, t, skip);
  for (size_t i = 0; i < ids->n; i++) tl_detok_push(&detok, ids->ids[i], &out);
  tl_detok_finish(&detok, &out);
  if (out.length != whole->length || memcmp(tl_buffer_string(&out), tl_buffer_string(whole), out.length) != 0)
    die("the stream's text differs from the whole's");
  tl_buffer_done(&out);
}

static void put_decoded(const struct tl_tokenizer *t, const struct tl_tokens *ids, bool skip) {
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_tokenizer_decode(t, ids->ids, ids->n, skip, &out);
  check_stream(t, ids, skip, &out);
  put(out.data, out.length, 1);
  tl_buffer_done(&out);
}

static void bench(const struct tl_tokenizer *t, int rounds) {
  uint32_t length;
  char *text = read_record(&length);
  int64_t best = INT64_MAX;
  if (!text) die("expected a text");
  for (int i = 0; i < rounds; i++) {
    int64_t begin = tl_now_ns();
    struct tl_tokens ids = encode(t, text, length, false);
    int64_t took = tl_now_ns() - begin;
    if (took < best) best = took;
    if (i == rounds - 1) printf("%lld %zu\n", (long long)best, ids.n);
    tl_tokens_done(&ids);
  }
  free(text);
}

int main(int argc, char **argv) {
  struct tl_error err = {0};
  struct tl_tokenizer *t;
  if (argc != 2 && !(argc == 4 && strcmp(argv[2], "bench") == 0)) die("expected a tokenizer.json");
  if (tl_tokenizer_load(argv[1], &t, &err) < 0) die(err.message);
  if (argc == 4) {
    bench(t, atoi(argv[3]));
    tl_tokenizer_free(t);
    return 0;
  }
  uint32_t length;
  for (char *text; (text = read_record(&length));) {
    struct tl_tokens ids = encode(t, text, length, false), full = encode(t, text, length, true);
    put(ids.ids, ids.n, sizeof *ids.ids);
    put(full.ids, full.n, sizeof *full.ids);
    put_decoded(t, &ids, false);
    put_decoded(t, &full, true);
    tl_tokens_done(&ids);
    tl_tokens_done(&full);
    free(text);
  }
  tl_tokenizer_free(t);
  return 0;
}
