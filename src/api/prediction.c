/* SPDX-License-Identifier: MIT */
/* OpenAI's field prediction: text that the client expects to come, most of a file that is to be changed, say. Tokens are guessed from it
 * (engine/step_draft.c); what comes is the same with it and without. */
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"

#define MOST_TOKEN_BYTES 8 /* on average: of a prediction longer than a sequence the beginning is used, and no more than that is read */

/* One of a list of parts; a string counts as one. */
static int check_part(const json_t *part, size_t i, struct tl_error *err) {
  char name[48];
  const char *type = json_string_value(json_object_get(part, "type"));
  snprintf(name, sizeof name, "prediction.content[%zu]", i);
  if (type && strcmp(type, "text") == 0 && json_is_string(json_object_get(part, "text"))) return TL_OK;
  return api_wrong(err, name, "{\"type\": \"text\", \"text\": a string}", part);
}

int api_prediction_read(struct api_params *params, json_t *value, struct tl_error *err) {
  const char *type = json_string_value(json_object_get(value, "type")), *name;
  json_t *content = json_object_get(value, "content"), *part, *other;
  size_t i;
  if (!json_is_object(value)) return api_wrong(err, "prediction", "an object", value);
  if (!type || strcmp(type, "content") != 0) return api_wrong(err, "prediction.type", "\"content\"", json_object_get(value, "type"));
  if (!json_is_string(content) && !json_is_array(content)) return api_wrong(err, "prediction.content", "a string or a list of text parts", content);
  json_object_foreach(value, name, other)
    if (strcmp(name, "type") != 0 && strcmp(name, "content") != 0)
      return tl_error_set(err, TL_EINVAL, "prediction", "prediction: expected type and content, got %.80s", name);
  json_array_foreach(content, i, part) {
    int r = check_part(part, i, err);
    if (r < 0) return r;
  }
  params->prediction = content;
  params->predicts = true;
  return TL_OK;
}

static bool put_text(struct tl_buffer *out, const json_t *content) {
  size_t i;
  json_t *part;
  if (json_is_string(content)) tl_buffer_append(out, json_string_value(content), json_string_length(content));
  json_array_foreach(content, i, part) {
    const json_t *text = json_object_get(part, "text");
    tl_buffer_append(out, json_string_value(text), json_string_length(text));
  }
  return !out->failed;
}

static int keep(struct api_call *call, const struct tl_tokens *tokens) {
  for (size_t i = 0; i < tokens->n; i++)
    if (tokens->ids[i] < 0 || (uint32_t)tokens->ids[i] >= call->work.serving->model->vocab_size) return TL_OK; /* a row that the model has not */
  call->predicted = tl_arena_array(&call->arena, tokens->n + 1, sizeof *call->predicted);
  if (!call->predicted) return TL_ENOMEM;
  if (tokens->n) memcpy(call->predicted, tokens->ids, tokens->n * sizeof *call->predicted);
  call->n_predicted = (uint32_t)tokens->n;
  return TL_OK;
}

int api_prediction_prepare(struct api_call *call, struct tl_error *err) {
  const struct tl_serving *serving = call->work.serving;
  if (!call->params.prediction || tl_engine_draft_tokens(serving->engine) == 0) return TL_OK;
  struct tl_tokens tokens = {.limit = tl_engine_max_context(serving->engine)};
  size_t most = tokens.limit * MOST_TOKEN_BYTES;
  struct tl_encode_options options = {0};
  struct tl_buffer text;
  tl_buffer_init(&text, 0);
  int r = put_text(&text, call->params.prediction)
              ? tl_tokenizer_encode(serving->tokenizer, tl_buffer_bytes(&text), text.length < most ? text.length : most, &options, &tokens, err)
              : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (r == TL_ELIMIT) r = TL_OK; /* those up to there are in it */
  if (r == TL_OK && keep(call, &tokens) < 0) r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  tl_tokens_done(&tokens);
  tl_buffer_done(&text);
  return r;
}

void api_prediction_usage(const struct api_call *call, struct tl_buffer *out) {
  unsigned long long right = 0, wrong = 0;
  for (unsigned i = 0; i < call->n_choices; i++) { /* relaxed: figures alone, the worker may still run */
    uint32_t its = atomic_load_explicit(&call->choices[i].seq->n_right, memory_order_relaxed);
    right += its < call->choices[i].n_seen ? its : call->choices[i].n_seen; /* some may stand behind what stopped it */
    wrong += atomic_load_explicit(&call->choices[i].seq->n_wrong, memory_order_relaxed);
  }
  tl_buffer_printf(out, "\"accepted_prediction_tokens\":%llu,\"rejected_prediction_tokens\":%llu", right, wrong);
}
