/* SPDX-License-Identifier: MIT */
/* From the fields of embeddings, rerank and score requests to the tokens of each input. What is longer than the model
 * (or one step of the engine) takes is refused by name, unless truncate_prompt_tokens allows to cut it. */
#include <stdio.h>
#include <string.h>

#include "api/vectors.h"

/* --- sizes -------------------------------------------------------------------------------- */

static int64_t most_inputs(const struct api_vectors *call) {
  return call->api->o.limits.max_inputs;
}

static int make_inputs(struct api_vectors *call, size_t n, const char *field, struct tl_error *err) {
  if (n == 0) return tl_error_set(err, TL_EINVAL, field, "%s: expected at least one text, got an empty list", field);
  if (n > (size_t)most_inputs(call))
    return tl_error_set(err, TL_EINVAL, field, "%s: expected at most %lld texts, got %zu", field, (long long)most_inputs(call), n);
  call->inputs = tl_arena_array(&call->arena, n, sizeof *call->inputs);
  if (!call->inputs) return tl_error_set(err, TL_ENOMEM, field, "out of memory");
  for (size_t i = 0; i < n; i++) call->inputs[i].call = call;
  call->n_inputs = (unsigned)n;
  return TL_OK;
}

static uint32_t most_tokens(const struct api_vectors *call) {
  return tl_engine_max_context(call->work.serving->engine);
}

static int too_long(const struct api_vectors *call, const char *field, struct tl_error *err) {
  return tl_error_set(err, TL_ECONTEXT, field,
                      "%s: this model takes at most %u tokens here, it has more; truncate_prompt_tokens: -1 has it cut", field,
                      most_tokens(call));
}

/* How many tokens an input may have, those around it included, of which there are `around`. */
static int room_for(const struct api_vectors *call, uint32_t around, uint32_t *ret, struct tl_error *err) {
  int64_t wanted = call->params.truncate_prompt_tokens, most = most_tokens(call);
  if (around >= most)
    return tl_error_set(err, TL_ECONTEXT, "model", "model: its context of %lld tokens has no room for a text", (long long)most);
  *ret = (uint32_t)most;
  if (wanted <= 0) return TL_OK;
  if (wanted > most || wanted <= around)
    return tl_error_set(err, TL_EINVAL, "truncate_prompt_tokens",
                        "truncate_prompt_tokens: expected -1 or an integer from %u to %lld here, got %lld", around + 1,
                        (long long)most, (long long)wanted);
  *ret = (uint32_t)wanted;
  return TL_OK;
}

static bool cuts(const struct api_vectors *call) {
  return call->params.truncate_prompt_tokens != 0;
}

/* --- tokens ------------------------------------------------------------------------------- */

/* Without what the post-processor adds; with more than `most`, unless they may be cut, an error that names the field. */
static int encode(struct api_vectors *call, json_t *text, bool parse_special, uint32_t most, const char *field,
                  struct tl_tokens *ret, struct tl_error *err) {
  struct tl_encode_options options = {.parse_special = parse_special};
  *ret = (struct tl_tokens){.limit = cuts(call) ? 0 : most};
  int r = tl_tokenizer_encode(call->work.serving->tokenizer, json_string_value(text), json_string_length(text), &options, ret, err);
  if (r == TL_ELIMIT && !cuts(call)) r = too_long(call, field, err);
  if (r == TL_ELIMIT) err->field[0] = 0; /* a text of a gigabyte */
  return r;
}

static int check_rows(const struct api_vectors *call, const int32_t *ids, size_t n, const char *field, struct tl_error *err) {
  return api_check_rows(ids, n, call->work.serving->model, field, err);
}

/* Gives the input room for n tokens. */
static int make_room(struct api_vectors *call, struct api_input *input, size_t n, bool types, const char *field, struct tl_error *err) {
  if (n == 0) return tl_error_set(err, TL_EINVAL, field, "%s: has no tokens", field);
  input->n = (uint32_t)n;
  input->ids = tl_arena_array(&call->arena, n, sizeof *input->ids);
  input->types = types ? tl_arena_array(&call->arena, n, sizeof *input->types) : NULL;
  if (!input->ids || (types && !input->types)) return tl_error_set(err, TL_ENOMEM, field, "out of memory");
  call->n_tokens += n;
  return TL_OK;
}

static int one_text(struct api_vectors *call, struct api_input *input, json_t *text, const char *field, struct tl_error *err) {
  const struct tl_tokenizer *t = call->work.serving->tokenizer;
  struct tl_tokens tokens = {0};
  uint32_t around = 0, most = 0;
  int r = tl_tokenizer_n_around(t, false, &around, err);
  if (r == TL_OK) r = room_for(call, around, &most, err);
  if (r == TL_OK) r = encode(call, text, true, most - around, field, &tokens, err);
  if (r == TL_OK && tokens.n > most - around) tokens.n = most - around;
  if (r == TL_OK) r = make_room(call, input, tokens.n + around, false, field, err);
  if (r == TL_OK) tl_tokenizer_join(t, tokens.ids, (uint32_t)tokens.n, NULL, 0, input->ids, NULL);
  tl_tokens_done(&tokens);
  return r == TL_OK ? check_rows(call, input->ids, input->n, field, err) : r;
}

/* The client's own ids, as they are. */
static int from_ids(struct api_vectors *call, struct api_input *input, json_t *list, const char *field, struct tl_error *err) {
  uint32_t most;
  int r = room_for(call, 0, &most, err);
  if (r < 0) return r;
  size_t n = json_array_size(list);
  if (n > most && !cuts(call)) return too_long(call, field, err);
  if (n > most) n = most;
  if ((r = make_room(call, input, n, false, field, err)) < 0) return r;
  return api_read_ids(list, n, call->work.serving->model, field, input->ids, err);
}

static int one_input(struct api_vectors *call, struct api_input *input, json_t *value, const char *field, struct tl_error *err) {
  if (json_is_string(value)) return one_text(call, input, value, field, err);
  if (json_is_array(value)) return from_ids(call, input, value, field, err);
  return api_wrong(err, field, "a string or a list of token ids", value);
}

int api_read_embeddings(struct api_vectors *call, struct tl_error *err) {
  const struct tl_model *model = call->work.serving->model;
  json_t *value = call->params.input;
  bool several = api_has_several(value);
  if (call->params.dimensions > model->n_out)
    return tl_error_set(err, TL_EINVAL, "dimensions", "dimensions: expected an integer from 1 to %u for this model, got %lld",
                        model->n_out, (long long)call->params.dimensions);
  size_t n = several ? json_array_size(value) : json_is_array(value) && json_array_size(value) == 0 ? 0 : 1;
  int r = make_inputs(call, n, "input", err);
  if (r == TL_OK && !several) return one_input(call, call->inputs, value, "input", err);
  for (unsigned i = 0; r == TL_OK && i < call->n_inputs; i++) {
    char field[32];
    snprintf(field, sizeof field, "input[%u]", i);
    if (i % 64 == 63 && api_work_left(&call->work)) return TL_ECLOSED;
    r = one_input(call, &call->inputs[i], json_array_get(value, i), field, err);
  }
  return r;
}

/* --- pairs --------------------------------------------------------------------------------- */

/* Who is read is often not who asks: what is spelled as a special token in a pair is text (parse_special is false), so that no
 * document ends itself and goes on as another. */

/* The first of a pair: by itself, so that an error names it and not the second. */
static int encode_first(struct api_vectors *call, json_t *text, uint32_t most, const char *field, struct tl_tokens *ret, struct tl_error *err) {
  int r = encode(call, text, false, most, field, ret, err);
  return r == TL_OK ? check_rows(call, ret->ids, ret->n, field, err) : r;
}

/* What the two texts of a pair may have together. */
static int pair_room(struct api_vectors *call, uint32_t *ret, struct tl_error *err) {
  uint32_t around, most;
  int r = tl_tokenizer_n_around(call->work.serving->tokenizer, true, &around, err);
  if (r == TL_OK) r = room_for(call, around, &most, err);
  if (r == TL_OK) *ret = most - around;
  return r;
}

static int one_pair(struct api_vectors *call, struct api_input *input, const struct tl_tokens *first, json_t *second,
                    uint32_t room, const char *field, struct tl_error *err) {
  const struct tl_tokenizer *t = call->work.serving->tokenizer;
  static const int32_t none[1] = {0};
  struct tl_tokens tokens = {0};
  uint32_t around;
  int r = tl_tokenizer_n_around(t, true, &around, err);
  if (r == TL_OK) r = encode(call, second, false, room, field, &tokens, err);
  uint32_t n_first = (uint32_t)first->n, n_second = (uint32_t)tokens.n;
  if (r == TL_OK && first->n + tokens.n > room) {
    if (!cuts(call)) r = too_long(call, field, err);
    tl_tokenizer_shorten(&n_first, &n_second, room);
  }
  if (r == TL_OK) r = make_room(call, input, (size_t)n_first + n_second + around, true, field, err);
  if (r == TL_OK)
    tl_tokenizer_join(t, first->ids, n_first, tokens.ids ? tokens.ids : none, n_second, input->ids, input->types);
  tl_tokens_done(&tokens);
  return r == TL_OK ? check_rows(call, input->ids, input->n, field, err) : r;
}

/* One text against each of as many strings as there are inputs. */
static int one_to_many(struct api_vectors *call, json_t *first, const char *first_field, json_t *const *texts, const char *texts_field,
                       struct tl_error *err) {
  struct tl_tokens tokens = {0};
  uint32_t room;
  int r = pair_room(call, &room, err);
  if (r == TL_OK) r = encode_first(call, first, room, first_field, &tokens, err);
  for (unsigned i = 0; r == TL_OK && i < call->n_inputs; i++) {
    char field[48];
    snprintf(field, sizeof field, "%s[%u]", texts_field, i);
    if (i % 64 == 63 && api_work_left(&call->work)) r = TL_ECLOSED;
    if (r == TL_OK) r = one_pair(call, &call->inputs[i], &tokens, texts[i], room, field, err);
  }
  tl_tokens_done(&tokens);
  return r;
}

/* The string of a document, which may stand in an object: {"text": "..."}. */
static int read_text(json_t *value, bool document, const char *field, json_t **ret, struct tl_error *err) {
  char what[64];
  *ret = document && json_is_object(value) ? json_object_get(value, "text") : value;
  if (json_is_string(*ret)) return TL_OK;
  return tl_error_set(err, TL_EINVAL, field, "%s: expected a string%s, got %s", field, document ? " or an object with a text" : "",
                      api_value_text(value, what));
}

/* The strings of a list, or the one string that stands in its place. */
static int read_texts(struct api_vectors *call, json_t *value, bool documents, const char *field, json_t ***ret, size_t *ret_n,
                      struct tl_error *err) {
  size_t n = json_is_array(value) ? json_array_size(value) : 1;
  *ret_n = n;
  if (n > (size_t)most_inputs(call)) return make_inputs(call, n, field, err);
  *ret = tl_arena_array(&call->arena, n + 1, sizeof **ret);
  if (!*ret) return tl_error_set(err, TL_ENOMEM, field, "out of memory");
  int r = TL_OK;
  for (size_t i = 0; r == TL_OK && i < n; i++) {
    char name[48];
    snprintf(name, sizeof name, json_is_array(value) ? "%s[%zu]" : "%s", field, i);
    r = read_text(json_is_array(value) ? json_array_get(value, i) : value, documents, name, &(*ret)[i], err);
  }
  return r;
}

int api_read_rerank(struct api_vectors *call, struct tl_error *err) {
  json_t **texts;
  size_t n;
  int r = read_texts(call, call->params.documents, true, "documents", &texts, &n, err);
  if (r == TL_OK) r = make_inputs(call, n, "documents", err);
  if (r == TL_OK) r = one_to_many(call, call->params.query, "query", texts, "documents", err);
  for (unsigned i = 0; r == TL_OK && call->params.return_documents && i < n; i++) {
    struct api_input *input = &call->inputs[i];
    input->length = json_string_length(texts[i]);
    input->text = tl_arena_copy(&call->arena, json_string_value(texts[i]), input->length);
    if (!input->text) r = tl_error_set(err, TL_ENOMEM, "documents", "out of memory");
  }
  return r;
}

int api_read_score(struct api_vectors *call, struct tl_error *err) {
  json_t **first, **second;
  size_t n_first, n_second;
  uint32_t room;
  int r = read_texts(call, call->params.text_1, false, "text_1", &first, &n_first, err);
  if (r == TL_OK) r = read_texts(call, call->params.text_2, false, "text_2", &second, &n_second, err);
  if (r == TL_OK && n_first != 1 && n_first != n_second)
    return tl_error_set(err, TL_EINVAL, "text_1", "text_1: expected one text, or as many as text_2 has (%zu), got %zu", n_second, n_first);
  if (r == TL_OK) r = make_inputs(call, n_second, "text_2", err);
  if (r == TL_OK && n_first == 1) return one_to_many(call, first[0], "text_1", second, "text_2", err);
  if (r == TL_OK) r = pair_room(call, &room, err);
  for (unsigned i = 0; r == TL_OK && i < n_second; i++) {
    char field[48];
    struct tl_tokens tokens = {0};
    snprintf(field, sizeof field, "text_1[%u]", i);
    r = encode_first(call, first[i], room, field, &tokens, err);
    snprintf(field, sizeof field, "text_2[%u]", i);
    if (r == TL_OK) r = one_pair(call, &call->inputs[i], &tokens, second[i], room, field, err);
    tl_tokens_done(&tokens);
  }
  return r;
}
