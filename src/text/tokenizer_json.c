/* SPDX-License-Identifier: MIT */
/* Loads tokenizer.json as the `tokenizers` library writes it. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text/tokenizer_private.h"
#include "tokenlane/base/json.h"
#include "tokenlane/model.h"

static const struct model {
  const char *type;
  const char *known_by; /* a member that files of old, which have no type, know it by */
  tok_encode_piece encode_piece;
  int (*parse)(struct tl_tokenizer *t, json_t *model, struct tl_error *err);
} models[] = {
    {"BPE", "merges", tok_bpe_piece, tok_parse_bpe},
    {"WordPiece", "max_input_chars_per_word", tok_wordpiece_piece, tok_parse_wordpiece},
    {"Unigram", "unk_id", tok_unigram_piece, tok_parse_unigram},
    {"WordLevel", "unk_token", tok_wordlevel_piece, tok_parse_wordlevel},
};

static const struct model *find_model(json_t *json, struct tl_error *err) {
  json_t *type = json_object_get(json, "type");
  for (size_t i = 0; i < sizeof models / sizeof *models; i++)
    if (type ? tok_is_type(json, models[i].type) : json_object_get(json, models[i].known_by) != NULL) return &models[i];
  tl_error_set(err, TL_EUNSUPPORTED, NULL, "model.type: expected BPE, WordPiece, Unigram or WordLevel, got %.60s", type ? tok_type(json) : "none");
  return NULL;
}

/* Where a token may stand for less text than its bytes, or for more, no bound holds. */
static bool has_bound(const struct tl_tokenizer *t) {
  bool bound = t->n_norms == 0 && (t->all_bytes || t->unk >= 0);
  for (unsigned i = 0; i < t->n_pres; i++) bound &= t->pres[i].behaviour != TOK_REMOVED;
  return bound;
}

/* Byte-level spelling must be known before the vocabulary is read, and which tokens are
 * control tokens before the model's tables are made. */
static int parse(struct tl_tokenizer *t, json_t *root, struct tl_error *err) {
  json_t *added = json_object_get(root, "added_tokens"), *json = json_object_get(root, "model");
  const struct model *model = find_model(json, err);
  int r = model ? TL_OK : TL_EUNSUPPORTED;
  if (r == TL_OK) r = tok_parse_normalizer(t, json_object_get(root, "normalizer"), err);
  if (r == TL_OK) r = tok_parse_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), err);
  if (r == TL_OK) r = tok_parse_decoder(t, json_object_get(root, "decoder"), err);
  if (r < 0) return r;
  t->encode_piece = model->encode_piece;
  /* where tokens are more than the bytes they spell, pieces are spelled too */
  if (t->byte_level && (model->encode_piece != tok_bpe_piece || tok_bpe_affixed(json))) r = tok_spell_bytes(t, err);
  if (r == TL_OK) r = tok_parse_vocab(t, json_object_get(json, "vocab"), added, err);
  if (r == TL_OK) r = tok_parse_added(t, added, err);
  if (r == TL_OK) r = model->parse(t, json, err);
  if (r == TL_OK) r = tok_parse_post_processor(t, json_object_get(root, "post_processor"), err);
  if (!has_bound(t)) t->longest = 0;
  return r < 0 ? r : tok_decoder_finish(t, err);
}

/* There is no tokenizer.json at path. */
static int absent(const char *folder, const char *path, struct tl_error *err) {
  static const char *const others[] = {"tokenizer.model", "vocab.json", "vocab.txt"};
  char other[4096];
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    snprintf(other, sizeof other, "%s/%s", folder, others[i]);
    if (access(other, F_OK) == 0)
      return tl_error_set(err, TL_ENOTFOUND, NULL, "%s: is missing; %s is not read, transformers' save_pretrained makes the one of the other", path, others[i]);
  }
  return tl_error_set(err, TL_ENOTFOUND, NULL, "%s: cannot be opened", path);
}

int tl_tokenizer_load(const char *file, struct tl_tokenizer **ret, struct tl_error *err) {
  char path[4096], folder[4000];
  struct stat status;
  if (tl_gguf_is_path(file)) {
    int r = tok_load_gguf(file, ret, err);
    if (r < 0 || *ret) return r;
    tok_folder(file, folder, sizeof folder);
    file = folder;
  }
  bool is_folder = stat(file, &status) != 0 || S_ISDIR(status.st_mode);
  snprintf(path, sizeof path, is_folder ? "%s/tokenizer.json" : "%s", file);
  json_error_t json_error;
  json_t *root = tl_json_load_file(path, JSON_ALLOW_NUL, &json_error);
  if (!root && json_error_code(&json_error) == json_error_cannot_open_file) return absent(file, path, err);
  if (tl_json_is_short(root, &json_error, err)) return TL_ENOMEM;
  if (!root && tl_lfs_check(path, path, err) < 0) return TL_ECORRUPT;
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
  for (unsigned i = 0; i < tokenizer->decoder.n_steps; i++) pcre2_code_free(tokenizer->decoder.steps[i].replace.pattern);
  byte_trie_done(&tokenizer->unigram.trie);
  byte_trie_done(&tokenizer->wordpiece.trie);
  free(tokenizer->plain.nodes);
  free(tokenizer->normalized.nodes);
  tl_arena_done(&tokenizer->mem);
  free(tokenizer);
}
