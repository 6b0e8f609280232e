/* SPDX-License-Identifier: MIT */
/* The tokenizer that a GGUF file has in its metadata (tokenizer.ggml.*). What is not said there is as
 * llama.cpp has it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/split_patterns.h"
#include "text/tokenizer_private.h"
#include "tokenlane/model.h"

/* What is put around a text, and which token is unknown, when the file does not say. */
static const struct kind {
  const char *name;
  bool add_before, add_after;
  int32_t before, after, unk;
} kinds[] = {
    {"llama", true, false, 1, 2, 0},
    {"gpt2", false, false, -1, -1, -1},
    {"bert", true, true, 101, 102, 100},
    {"t5", false, true, -1, 1, 2},
    {"gemma4", true, false, 2, 1, 3},
};

/* What is allocated for the parts while a tokenizer is made of them. */
struct lists {
  struct tl_text *pieces, *merges;
  float *scores;
  int32_t *types;
  char *charsmap;
  char kind[32], pre[64];
};

static void free_lists(struct lists *lists) {
  free(lists->pieces);
  free(lists->merges);
  free(lists->scores);
  free(lists->types);
  free(lists->charsmap);
}

static int wrong(const char *key, const char *expected, struct tl_error *err) {
  return tl_error_set(err, TL_ECORRUPT, NULL, "%s: expected %s", key, expected);
}

static int read_texts(const struct tl_gguf *g, const char *key, struct tl_text **ret, uint32_t *ret_n, struct tl_error *err) {
  struct tl_gguf_list list;
  if (!tl_gguf_list(g, key, &list)) return TL_OK;
  uint64_t n = list.n_left; /* each is 8 bytes of the file or more */
  if (n > INT32_MAX) return wrong(key, "fewer texts", err);
  if (!(*ret = calloc(n + 1, sizeof **ret))) return tok_out_of_memory(err);
  for (*ret_n = 0; *ret_n < n; ++*ret_n)
    if (!tl_gguf_next_text(&list, &(*ret)[*ret_n].text, &(*ret)[*ret_n].length)) return wrong(key, "a list of texts", err);
  return TL_OK;
}

/* n numbers to floats or to int32_t, whichever is not NULL, which stays as it is when there is no such list. */
static int read_numbers(const struct tl_gguf *g, const char *key, uint64_t n, float **floats, int32_t **whole, struct tl_error *err) {
  struct tl_gguf_list list;
  if (!tl_gguf_list(g, key, &list)) return TL_OK;
  if (list.n_left != n) return wrong(key, "as many numbers as there are tokens", err);
  void *all = calloc(n + 1, 4);
  if (!all) return tok_out_of_memory(err);
  if (floats) *floats = all;
  else *whole = all;
  for (uint64_t i = 0; i < n; i++) {
    double number;
    if (!tl_gguf_next_number(&list, &number)) return wrong(key, "a list of numbers", err);
    if (floats) (*floats)[i] = (float)number;
    else (*whole)[i] = number >= 0 && number <= TL_PIECE_BYTE ? (int32_t)number : TL_PIECE_NORMAL;
  }
  return TL_OK;
}

static int read_charsmap(const struct tl_gguf *g, struct lists *lists, struct tl_tokenizer_parts *parts, struct tl_error *err) {
  static const char key[] = "tokenizer.ggml.precompiled_charsmap";
  struct tl_gguf_list list;
  if (!tl_gguf_list(g, key, &list)) return TL_OK;
  size_t n = list.n_left;
  if (!(lists->charsmap = calloc(n + 1, 1))) return tok_out_of_memory(err);
  for (size_t i = 0; i < n; i++) {
    double number;
    if (!tl_gguf_next_number(&list, &number) || number < -128 || number > 255) return wrong(key, "a list of bytes", err);
    lists->charsmap[i] = (char)(int)number;
  }
  parts->charsmap = lists->charsmap;
  parts->charsmap_length = n;
  return TL_OK;
}

static bool read_flag(const struct tl_gguf *g, const char *key, bool otherwise) {
  int64_t value;
  return tl_gguf_integer(g, key, &value) ? value != 0 : otherwise;
}

static int32_t read_id(const struct tl_gguf *g, const char *key, uint32_t n, int32_t otherwise) {
  int64_t id;
  if (!tl_gguf_integer(g, key, &id)) id = otherwise;
  return id >= 0 && id < n ? (int32_t)id : -1;
}

static void copy_text(const struct tl_gguf *g, const char *key, char *ret, size_t size) {
  const char *text;
  size_t length;
  if (tl_gguf_text(g, key, &text, &length) && length < size) memcpy(ret, text, length);
}

/* What stands around a text: GGUF's flags, or what goes without saying for this kind. BERT's texts always have both ends, as in
 * llama.cpp: its converter's add_sep_token is about pairs, and false for most BERTs. So does Gemma 4's the one before: older files deny it. */
static void read_ends(const struct tl_gguf *g, const struct kind *kind, struct tl_tokenizer_parts *parts) {
  const struct split_kind *split = parts->pre ? split_kind_find(parts->pre) : NULL;
  bool bert = strcmp(kind->name, "bert") == 0, always = bert || strcmp(kind->name, "gemma4") == 0;
  bool add_before = kind->add_before || (split && split->begins);
  parts->unk = read_id(g, "tokenizer.ggml.unknown_token_id", parts->n, kind->unk);
  int32_t before = read_id(g, "tokenizer.ggml.bos_token_id", parts->n, kind->before);
  int32_t after = read_id(g, bert ? "tokenizer.ggml.seperator_token_id" : "tokenizer.ggml.eos_token_id", parts->n, kind->after);
  if (bert) before = read_id(g, "tokenizer.ggml.cls_token_id", parts->n, before);
  parts->before = always || read_flag(g, "tokenizer.ggml.add_bos_token", add_before) ? before : -1;
  parts->after = bert || read_flag(g, "tokenizer.ggml.add_eos_token", kind->add_after) ? after : -1;
}

static int read_parts(const struct tl_gguf *g, struct lists *lists, struct tl_tokenizer_parts *parts, struct tl_error *err) {
  const struct kind *kind = NULL;
  copy_text(g, "tokenizer.ggml.model", lists->kind, sizeof lists->kind);
  copy_text(g, "tokenizer.ggml.pre", lists->pre, sizeof lists->pre);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].name, lists->kind) == 0) kind = &kinds[i];
  if (!kind) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "tokenizer.ggml.model: expected llama, gpt2, bert, t5 or gemma4, got '%s'", lists->kind);
  parts->kind = kind->name;
  parts->pre = *lists->pre ? lists->pre : NULL;
  int r = read_texts(g, "tokenizer.ggml.tokens", &lists->pieces, &parts->n, err);
  if (r == TL_OK) r = read_texts(g, "tokenizer.ggml.merges", &lists->merges, &parts->n_merges, err);
  if (r == TL_OK) r = read_numbers(g, "tokenizer.ggml.scores", parts->n, &lists->scores, NULL, err);
  if (r == TL_OK) r = read_numbers(g, "tokenizer.ggml.token_type", parts->n, NULL, &lists->types, err);
  if (r == TL_OK) r = read_charsmap(g, lists, parts, err);
  if (r < 0) return r;
  parts->pieces = lists->pieces;
  parts->merges = lists->merges;
  parts->scores = lists->scores;
  parts->types = lists->types;
  parts->add_space_prefix = read_flag(g, "tokenizer.ggml.add_space_prefix", strcmp(kind->name, "gemma4") != 0);
  parts->remove_extra_spaces = read_flag(g, "tokenizer.ggml.remove_extra_whitespaces", strcmp(kind->name, "t5") == 0);
  read_ends(g, kind, parts);
  return TL_OK;
}

void tok_folder(const char *path, char *ret, size_t size) {
  const char *slash = strrchr(path, '/');
  if (!tl_gguf_is_path(path))
    snprintf(ret, size, "%s", path);
  else if (slash)
    snprintf(ret, size, "%.*s", (int)(slash - path), path);
  else
    snprintf(ret, size, ".");
}

int tok_load_gguf(const char *path, struct tl_tokenizer **ret, struct tl_error *err) {
  struct tl_gguf *g;
  struct lists lists = {0};
  struct tl_tokenizer_parts parts = {0};
  struct tl_gguf_list tokens;
  *ret = NULL;
  int r = tl_gguf_open(path, &g, err);
  if (r < 0) return r;
  if (tl_gguf_list(g, "tokenizer.ggml.tokens", &tokens)) {
    r = read_parts(g, &lists, &parts, err);
    if (r == TL_OK) r = tl_tokenizer_new(&parts, ret, err);
    if (r < 0) tl_error_prefix(err, path);
  }
  free_lists(&lists);
  tl_gguf_close(g);
  return r;
}
