/* SPDX-License-Identifier: MIT */
/* A GGUF file: loaded as a model, and its metadata read as a tokenizer would. */
#include "model_target.h"

static void read_list(const struct tl_gguf *g, const char *key) {
  struct tl_gguf_list list;
  const char *text;
  size_t length, sum = 0;
  double number, total = 0;
  if (tl_gguf_list(g, key, &list))
    while (tl_gguf_next_text(&list, &text, &length))
      for (size_t i = 0; i < length; i++) sum += (unsigned char)text[i];
  if (tl_gguf_list(g, key, &list))
    while (tl_gguf_next_number(&list, &number)) total += number;
  if (sum == 1 && total == 0.5) putchar('.'); /* the sums go somewhere */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"};
  char path[128];
  write_file("x.gguf", data, size);
  snprintf(path, sizeof path, "%s/x.gguf", folder);
  load_model(path);
  struct tl_gguf *g;
  struct tl_error err = {0};
  if (tl_gguf_open(path, &g, &err) < 0) return 0;
  for (unsigned i = 0; i < sizeof keys / sizeof *keys; i++) read_list(g, keys[i]);
  tl_gguf_close(g);
  return 0;
}
