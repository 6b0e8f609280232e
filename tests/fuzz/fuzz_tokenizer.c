/* SPDX-License-Identifier: MIT */
/* Any bytes as a tokenizer.json: an error or a tokenizer that encodes and decodes, never a crash. Built
 * with libFuzzer by `make fuzz`; with a main of its own, which replays files, by `make check`. */
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz_target.h"
#include "tokenlane/base/utf8.h"
#include "tokenlane/text.h"

static const char *const texts[] = {
    "Hello, world! it's 2024 and  I'll say \xc3\xa9\xc3\x89\xe6\xbc\xa2\xe5\xad\x97 \xf0\x9f\x98\x80.\n\n  x",
    "e\xcc\x81\xcc\xa3 \xef\xac\x81 \xe2\x84\xab \xea\xb0\x81 \xff\xfe<|im_end|>[SEP]</s>\xe2\x96\x81<0x41>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "", " ",
};

static void decode(const struct tl_tokenizer *t, const struct tl_tokens *ids, bool skip) {
  struct tl_buffer whole, streamed;
  struct tl_detok detok;
  tl_buffer_init(&whole, 0);
  tl_buffer_init(&streamed, 0);
  tl_detok_init(&detok, t, skip);
  check(tl_tokenizer_decode(t, ids->ids, ids->n, skip, &whole) == TL_OK, "decode failed");
  for (size_t i = 0; i < ids->n; i++) tl_detok_push(&detok, ids->ids[i], &streamed);
  tl_detok_finish(&detok, &streamed);
  check(!whole.length || tl_utf8_valid(whole.data, whole.length), "decoded text is not UTF-8");
  check(!streamed.length || tl_utf8_valid(streamed.data, streamed.length), "streamed text is not UTF-8");
  tl_buffer_done(&whole);
  tl_buffer_done(&streamed);
}

static void use(const struct tl_tokenizer *t) {
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    struct tl_tokens ids = {.limit = 4096};
    struct tl_error err = {0};
    struct tl_span half = {0, strlen(texts[i]) / 2};
    struct tl_encode_options options = {i % 2 == 0, true, &half, i % 3 == 0};
    if (tl_tokenizer_encode(t, texts[i], strlen(texts[i]), &options, &ids, &err) < 0) check(err.message[0] != 0, "no message");
    for (size_t k = 0; k < ids.n; k++) check(ids.ids[k] >= 0 && ids.ids[k] < tl_tokenizer_size(t), "an id is out of range");
    decode(t, &ids, i % 2 == 0);
    tl_tokens_done(&ids);
  }
  int32_t all[64];
  struct tl_tokens some = {.ids = all, .n = 64};
  for (int32_t i = 0; i < 64; i++) all[i] = i * 7 - 3;
  decode(t, &some, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char path[64];
  int fd = memfd_create("tokenizer.json", MFD_CLOEXEC);
  struct tl_tokenizer *t;
  struct tl_error err = {0};
  check(fd >= 0 && write(fd, data, size) == (ssize_t)size, "memfd failed");
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (tl_tokenizer_load(path, &t, &err) == TL_OK) {
    use(t);
    tl_tokenizer_free(t);
  } else {
    check(err.message[0] != 0, "no message");
  }
  close(fd);
  return 0;
}
