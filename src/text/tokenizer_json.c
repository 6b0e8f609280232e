/* SPDX-License-Identifier: MIT */
/* Loads tokenizer.json as the `tokenizers` library writes it. */
#include <stdio.h>
#include <stdlib.h>

#include "text/tokenizer_private.h"

static int parse(struct tl_tokenizer *t, json_t *root, struct tl_error *err) {
  json_t *added = json_object_get(root, "added_tokens");
  int r = tok_parse_normalizer(t, json_object_get(root, "normalizer"), err);
  if (r == TL_OK) r = tok_parse_model(t, json_object_get(root, "model"), added, err);
  if (r == TL_OK) r = tok_parse_added(t, added, err);
  if (r == TL_OK) r = tok_parse_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), err);
  if (r == TL_OK) r = tok_parse_post_processor(t, json_object_get(root, "post_processor"), err);
  return r < 0 ? r : tok_parse_decoder(json_object_get(root, "decoder"), err);
}

int tl_tokenizer_load(const char *folder, struct tl_tokenizer **ret, struct tl_error *err) {
  char path[4096];
  snprintf(path, sizeof path, "%s/tokenizer.json", folder);
  json_error_t json_error;
  json_t *root = json_load_file(path, JSON_ALLOW_NUL, &json_error);
  if (!root && json_error_code(&json_error) == json_error_cannot_open_file)
    return tl_error_set(err, TL_ENOTFOUND, NULL, "%s: cannot be opened", path);
  if (!root) return tl_error_set(err, TL_ECORRUPT, NULL, "%s:%d: %s", path, json_error.line, json_error.text);
  struct tl_tokenizer *t = calloc(1, sizeof *t);
  int r = TL_ENOMEM;
  if (t) {
    tl_arena_init(&t->mem, 0);
    r = parse(t, root, err);
    if (r < 0) tl_error_prefix(err, path);
  } else {
    tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  }
  json_decref(root);
  if (r < 0) {
    tl_tokenizer_free(t);
    return r;
  }
  *ret = t;
  return TL_OK;
}

void tl_tokenizer_free(struct tl_tokenizer *tokenizer) {
  if (!tokenizer) return;
  for (unsigned i = 0; i < tokenizer->n_norms; i++) pcre2_code_free(tokenizer->norms[i].pattern);
  for (unsigned i = 0; i < tokenizer->n_pres; i++) pcre2_code_free(tokenizer->pres[i].pattern);
  free(tokenizer->plain.nodes);
  free(tokenizer->normalized.nodes);
  tl_arena_done(&tokenizer->mem);
  free(tokenizer);
}
