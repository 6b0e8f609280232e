/* SPDX-License-Identifier: MIT */
/* Fields whose values are tokens, or become tokens: they wait until the fields have said which model is asked. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"

_Static_assert(65536 + API_MAX_STOP_IDS + TL_MAX_EOS + 2 * API_MAX_BAD_WORDS <= TL_MAX_BIAS, "what one step may forbid");

/* A token id as the key of an object: decimal digits only. -1: is none. */
static int64_t parse_token_key(const char *key) {
  int64_t id = 0;
  if (!*key || strlen(key) > 9) return -1;
  for (; *key; key++) {
    if (*key < '0' || *key > '9') return -1;
    id = id * 10 + (*key - '0');
  }
  return id;
}

int api_read_logit_bias(struct api_params *params, struct tl_arena *arena, json_t *value, size_t most, struct tl_error *err) {
  static const char field[] = "logit_bias";
  if (!json_is_object(value)) return api_wrong(err, field, "an object of token ids and numbers", value);
  size_t n = json_object_size(value);
  if (n > most)
    return tl_error_set(err, TL_EINVAL, field, "logit_bias: expected at most %zu entries, got %zu", most, n);
  struct tl_token_bias *bias = tl_arena_array(arena, n + 1, sizeof *bias);
  if (!bias) return tl_error_set(err, TL_ENOMEM, field, "logit_bias: out of memory");
  const char *key;
  json_t *entry;
  uint32_t i = 0;
  json_object_foreach(value, key, entry) {
    int64_t id = parse_token_key(key);
    if (id < 0)
      return tl_error_set(err, TL_EINVAL, field, "logit_bias: expected token ids in decimal as keys");
    double v = json_number_value(entry);
    if (!json_is_number(entry) || !(v >= -100 && v <= 100))
      return api_wrong(err, field, "a number from -100 to 100 for each token", entry);
    /* OpenAI documents -100 as a ban */
    bias[i++] = (struct tl_token_bias){(int32_t)id, v <= -100 ? -INFINITY : (float)v};
  }
  params->bias = bias;
  params->n_bias = i;
  return TL_OK;
}

/* The client's ids before the model's, as tl_sequence has them. */
static int read_stop_ids(struct api_call *call, struct tl_error *err) {
  struct api_params *p = &call->params;
  const struct tl_model *model = call->work.serving->model;
  size_t n = json_array_size(p->stop_token_ids);
  if (n > API_MAX_STOP_IDS)
    return tl_error_set(err, TL_EINVAL, "stop_token_ids", "stop_token_ids: expected at most %d token ids, got %zu", API_MAX_STOP_IDS, n);
  p->stop_ids = model->eos;
  p->n_own_stop_ids = (uint32_t)n;
  p->n_stop_ids = p->n_own_stop_ids + model->n_eos;
  if (n == 0) return TL_OK;
  int32_t *ids = tl_arena_array(&call->arena, p->n_stop_ids, sizeof *ids);
  if (!ids) return tl_error_set(err, TL_ENOMEM, "stop_token_ids", "out of memory");
  p->stop_ids = ids;
  memcpy(ids + n, model->eos, model->n_eos * sizeof *ids);
  return api_read_ids(p->stop_token_ids, n, model, "stop_token_ids", ids, err);
}

static bool is_among(const int32_t *ids, uint32_t n, int32_t id) {
  uint32_t i = 0;
  while (i < n && ids[i] != id) i++;
  return i < n;
}

bool api_is_own_stop(const struct api_params *p, int32_t id) {
  bool eos = !p->ignore_eos && is_among(p->stop_ids + p->n_own_stop_ids, p->n_stop_ids - p->n_own_stop_ids, id);
  return !eos && is_among(p->stop_ids, p->n_own_stop_ids, id);
}

/* --- bad words -------------------------------------------------------------------------------- */

/* Whether one spelling forbids all that the other would: it is the other's end. */
static bool covers(const struct tl_bad_word *a, const int32_t *ids, size_t n) {
  return a->n <= n && memcmp(a->ids, ids + n - a->n, a->n * sizeof *ids) == 0;
}

/* One way to spell word `name`, as the tokenizer does; one that has no tokens, or that the spelling before covers, is none. */
static int add_spelling(struct api_call *call, const char *text, size_t length, bool first, const char *name, struct tl_error *err) {
  struct api_params *p = &call->params;
  struct tl_encode_options options = {.parse_special = true};
  struct tl_tokens tokens = {0};
  struct tl_bad_word *word = &p->bad_spellings[p->n_bad_spellings];
  int r = tl_tokenizer_encode(call->work.serving->tokenizer, text, length, &options, &tokens, err);
  if (r == TL_OK) r = api_check_rows(tokens.ids, tokens.n, call->work.serving->model, name, err);
  if (r == TL_OK && tokens.n && (first || !covers(word - 1, tokens.ids, tokens.n))) {
    int32_t *ids = tl_arena_array(&call->arena, tokens.n, sizeof *ids);
    if (ids) {
      *word = (struct tl_bad_word){memcpy(ids, tokens.ids, tokens.n * sizeof *ids), (uint32_t)tokens.n};
      p->n_bad_spellings++;
    } else {
      r = tl_error_set(err, TL_ENOMEM, name, "out of memory");
    }
  }
  tl_tokens_done(&tokens);
  return r;
}

/* At the beginning of a text and within it: without a blank before it, and with one. */
static int add_word(struct api_call *call, const json_t *value, const char *name, struct tl_error *err) {
  const char *text = json_string_value(value);
  size_t length = json_string_length(value), most = (size_t)call->api->o.limits.max_stop_bytes;
  if (length == 0) return api_wrong(err, name, "a string that is not empty", value);
  if (length > most) return tl_error_set(err, TL_EINVAL, name, "%s: expected at most %zu bytes, got %zu", name, most, length);
  for (; length && *text == ' '; length--) text++;
  uint32_t n = call->params.n_bad_spellings;
  int r = add_spelling(call, text, length, true, name, err);
  struct tl_buffer blank;
  tl_buffer_init(&blank, 0);
  tl_buffer_putc(&blank, ' ');
  tl_buffer_append(&blank, text, length);
  if (blank.failed && r == TL_OK) r = tl_error_set(err, TL_ENOMEM, name, "out of memory");
  if (r == TL_OK) r = add_spelling(call, blank.data, blank.length, n == call->params.n_bad_spellings, name, err);
  tl_buffer_done(&blank);
  if (r == TL_OK && n == call->params.n_bad_spellings) r = tl_error_set(err, TL_EINVAL, name, "%s: has no tokens", name);
  return r;
}

static int read_bad_words(struct api_call *call, struct tl_error *err) {
  const json_t *words = call->params.bad_words;
  size_t n = json_array_size(words);
  if (n == 0) return TL_OK;
  if (n > API_MAX_BAD_WORDS)
    return tl_error_set(err, TL_EINVAL, "bad_words", "bad_words: expected at most %d strings, got %zu", API_MAX_BAD_WORDS, n);
  call->params.bad_spellings = tl_arena_array(&call->arena, 2 * n, sizeof *call->params.bad_spellings);
  if (!call->params.bad_spellings) return tl_error_set(err, TL_ENOMEM, "bad_words", "out of memory");
  int r = TL_OK;
  for (size_t i = 0; r == TL_OK && i < n; i++) {
    char name[32];
    snprintf(name, sizeof name, "bad_words[%zu]", i);
    r = add_word(call, json_array_get(words, i), name, err);
  }
  return r;
}

/* --- allowed ids -------------------------------------------------------------------------------- */

/* The model's EOS is allowed only if it is listed, as vLLM has it. */
static int read_allowed_ids(struct api_call *call, struct tl_error *err) {
  struct api_params *p = &call->params;
  const struct tl_model *model = call->work.serving->model;
  const char *name = "allowed_token_ids";
  size_t n = json_array_size(p->allowed_token_ids);
  if (!p->allowed_token_ids) return TL_OK;
  if (n == 0 || n > model->vocab_size)
    return tl_error_set(err, TL_EINVAL, name, "%s: expected 1 to %u token ids, got %zu", name, model->vocab_size, n);
  int32_t *ids = tl_arena_array(&call->arena, n, sizeof *ids);
  uint32_t *mask = tl_arena_array(&call->arena, TL_MASK_WORDS(model->vocab_size), sizeof *mask);
  if (!ids || !mask) return tl_error_set(err, TL_ENOMEM, name, "out of memory");
  int r = api_read_ids(p->allowed_token_ids, n, model, name, ids, err);
  bool can_begin = p->min_tokens == 0;
  for (size_t i = 0; r == TL_OK && i < n; i++) {
    mask[ids[i] / 32] |= 1u << ids[i] % 32;
    can_begin = can_begin || !is_among(p->stop_ids, p->n_stop_ids, ids[i]);
  }
  p->allowed = mask;
  if (r < 0 || can_begin) return r;
  return tl_error_set(err, TL_EINVAL, name, "%s: has only tokens that end the answer, which min_tokens forbids", name);
}

int api_token_fields(struct api_call *call, struct tl_error *err) {
  int r = read_stop_ids(call, err);
  if (r == TL_OK) r = read_bad_words(call, err);
  return r < 0 ? r : read_allowed_ids(call, err);
}
