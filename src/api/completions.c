/* SPDX-License-Identifier: MIT */
/* /v1/completions: a prompt in one of four forms to tokens. */
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"

/* truncate_prompt_tokens: what the tokenizer put before a text stays, and then the last of it, as the tokenizers library cuts
 * on the left; -1 leaves room for what is to be made. */
static int cut(const struct api_call *call, struct api_prompt *prompt, int32_t *ids, size_t *n, struct tl_error *err) {
  int64_t context = tl_engine_max_context(call->work.serving->engine), most = call->params.truncate_prompt_tokens;
  uint32_t before = prompt->n_before;
  if (most == 0) return TL_OK;
  if (most < 0) most = context - api_wanted_tokens(call);
  else if (most <= before || most > context)
    return tl_error_set(err, TL_EINVAL, "truncate_prompt_tokens",
                        "truncate_prompt_tokens: expected -1 or an integer from %u to %lld here, got %lld", before + 1,
                        (long long)context, (long long)most);
  if (most <= before) most = before + 1; /* whether that fits is seen as with any prompt */
  if (*n <= (size_t)most) return TL_OK;
  memmove(ids + before, ids + *n - ((size_t)most - before), ((size_t)most - before) * sizeof *ids);
  *n = (size_t)most;
  prompt->text = NULL;
  return TL_OK;
}

static int copy_ids(struct api_call *call, struct api_prompt *prompt, const int32_t *ids, size_t n, struct tl_error *err) {
  prompt->ids = tl_arena_array(&call->arena, n + 1, sizeof *ids);
  if (!prompt->ids) return tl_error_set(err, TL_ENOMEM, "prompt", "out of memory");
  if (n) memcpy(prompt->ids, ids, n * sizeof *ids);
  prompt->n = (uint32_t)n;
  return TL_OK;
}

static int from_text(struct api_call *call, struct api_prompt *prompt, json_t *value, struct tl_error *err) {
  bool cuts = call->params.truncate_prompt_tokens != 0, special = call->params.add_special_tokens;
  struct tl_tokens tokens = {.limit = cuts ? 0 : tl_engine_max_context(call->work.serving->engine)};
  struct tl_encode_options options = {.add_special = special, .parse_special = true};
  prompt->text = json_string_value(value);
  prompt->length = json_string_length(value);
  prompt->n_before = special ? tl_tokenizer_before(call->work.serving->tokenizer) : 0;
  int r = tl_tokenizer_encode(call->work.serving->tokenizer, prompt->text, prompt->length, &options, &tokens, err);
  if (r == TL_ELIMIT) r = api_too_long(call, err);
  if (r == TL_OK) r = cut(call, prompt, tokens.ids, &tokens.n, err);
  if (r == TL_OK) r = copy_ids(call, prompt, tokens.ids, tokens.n, err);
  tl_tokens_done(&tokens);
  return r;
}

static int from_ids(struct api_call *call, struct api_prompt *prompt, json_t *list, const char *name,
                    struct tl_error *err) {
  size_t n = json_array_size(list);
  if (n > tl_engine_max_context(call->work.serving->engine) && !call->params.truncate_prompt_tokens) return api_too_long(call, err);
  prompt->ids = tl_arena_array(&call->arena, n + 1, sizeof *prompt->ids);
  if (!prompt->ids) return tl_error_set(err, TL_ENOMEM, "prompt", "out of memory");
  int r = api_read_ids(list, n, call->work.serving->model, name, prompt->ids, err);
  if (r == TL_OK) r = cut(call, prompt, prompt->ids, &n, err);
  prompt->n = (uint32_t)n;
  return r;
}

static int one_prompt(struct api_call *call, struct api_prompt *prompt, json_t *value, const char *name,
                      struct tl_error *err) {
  if (json_is_string(value)) return from_text(call, prompt, value, err);
  if (json_is_array(value)) return from_ids(call, prompt, value, name, err);
  char what[64];
  return tl_error_set(err, TL_EINVAL, name, "%s: expected a string or a list of token ids, got %s", name,
                      api_value_text(value, what));
}

static uint32_t fewest_tokens(const struct api_call *call, json_t *value) {
  size_t n = json_array_size(value); /* 0 of a text, whose tokens are not known yet */
  int64_t most = call->params.truncate_prompt_tokens;
  if (most > 0 && n > (size_t)most) n = (size_t)most;
  return n < 1 ? 1 : n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

static int outline(struct api_call *call, struct tl_error *err) {
  json_t *value = call->params.prompt;
  bool several = api_has_several(value);
  size_t n = several ? json_array_size(value) : 1;
  int64_t most = call->api->o.limits.max_prompts;
  if (json_is_array(value) && json_array_size(value) == 0)
    return tl_error_set(err, TL_EINVAL, "prompt", "prompt: expected at least one token or text, got an empty list");
  if (n > (size_t)most)
    return tl_error_set(err, TL_EINVAL, "prompt", "prompt: expected at most %lld prompts, got %zu", (long long)most, n);
  call->prompts = tl_arena_array(&call->arena, n, sizeof *call->prompts);
  if (!call->prompts) return tl_error_set(err, TL_ENOMEM, "prompt", "out of memory");
  call->n_prompts = (unsigned)n;
  for (size_t i = 0; i < n; i++) call->prompts[i].n = fewest_tokens(call, several ? json_array_get(value, i) : value);
  return TL_OK;
}

static int prepare(struct api_call *call, struct tl_error *err) {
  json_t *value = call->params.prompt;
  if (!api_has_several(value)) return one_prompt(call, call->prompts, value, "prompt", err);
  for (unsigned i = 0; i < call->n_prompts; i++) {
    char name[32];
    snprintf(name, sizeof name, "prompt[%u]", i);
    int r = one_prompt(call, &call->prompts[i], json_array_get(value, i), name, err);
    if (r < 0) return r;
  }
  return TL_OK;
}

static void on_completions(struct tl_http_request *request, void *context) {
  static const struct api_reader reader = {API_COMPLETIONS, &api_completions_shape, outline, prepare};
  api_generate(context, request, &reader);
}

int api_register_completions(struct tl_api *api, struct tl_error *err) {
  return tl_http_handle(api->o.http, "POST", "/v1/completions", on_completions, api) == TL_OK
             ? TL_OK
             : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}
