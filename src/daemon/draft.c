/* SPDX-License-Identifier: MIT */
/* The draft model: read as any other, and its vocabulary compared. */
#include <stdio.h>
#include <string.h>

#include "daemon/daemon_private.h"
#include "tokenlane/text.h"

#define MOST_OTHERS 128 /* ids that only one of two alike has: families add some to later models */

static const char key[] = "model.draft";

/* Its bytes, or NULL. GGUF names rows that are no token's: the same model's folder has nothing there. */
static const char *bytes_of(const struct tl_tokenizer *t, int32_t id, size_t *ret_length) {
  const char *bytes = tl_tokenizer_bytes(t, id, ret_length);
  if (!bytes || *ret_length < 6 || memcmp(bytes, "[PAD", 4) != 0) return bytes;
  char padding[24];
  size_t n = (size_t)snprintf(padding, sizeof padding, "[PAD%d]", id);
  return *ret_length == n && memcmp(bytes, padding, n) == 0 ? NULL : bytes;
}

/* Whether an id means the same to both. Which tokens are special, formats say in different ways. */
static bool is_same(const struct tl_tokenizer *a, const struct tl_tokenizer *b, int32_t id) {
  size_t n_a = 0, n_b = 0;
  const char *x = bytes_of(a, id, &n_a), *y = bytes_of(b, id, &n_b);
  return x && y ? n_a == n_b && memcmp(x, y, n_a) == 0 : x == y;
}

static int32_t size_of(const struct tl_tokenizer *t) {
  int32_t n = tl_tokenizer_size(t);
  size_t length = 0;
  while (n > 0 && !bytes_of(t, n - 1, &length)) n--;
  return n;
}

/* Matrices may have rows beyond, as many as they like: no token is theirs. */
static int compare(const struct tl_tokenizer *model, const struct tl_tokenizer *draft, struct tl_error *err) {
  int32_t n_model = size_of(model), n_draft = size_of(draft), n = n_model < n_draft ? n_model : n_draft;
  if (n_model - n > MOST_OTHERS || n_draft - n > MOST_OTHERS)
    return tl_error_set(err, TL_EINVAL, key, "%s: expected the model's vocabulary, which has %d tokens, got one of %d", key, n_model, n_draft);
  for (int32_t id = 0; id < n; id++)
    if (!is_same(model, draft, id))
      return tl_error_set(err, TL_EINVAL, key, "%s: expected the model's vocabulary, got another: token %d is another one there", key, id);
  return TL_OK;
}

int draft_read(const struct tl_config *config, const struct tl_tokenizer *tokenizer, struct tl_model **ret, struct tl_error *err) {
  const char *path = config->model_draft;
  struct tl_tokenizer *its = NULL;
  if (!*path) return TL_OK;
  int r = simulate_only(config) ? tl_model_load_config(path, ret, err) : tl_model_load(path, ret, err);
  if (r == TL_OK && strcmp(config->model_quantize, "none") != 0) r = tl_model_quantize(*ret, config->model_quantize, err);
  if (r == TL_OK) r = tl_tokenizer_load(path, &its, err);
  if (r == TL_OK) r = compare(tokenizer, its, err);
  tl_tokenizer_free(its);
  if (r == TL_OK) return TL_OK;
  snprintf(err->field, sizeof err->field, "%s", key); /* whatever is wrong with it, and whichever file says so */
  return strncmp(err->message, key, strlen(key)) == 0 ? r : tl_error_prefix(err, key);
}
