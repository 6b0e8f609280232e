/* SPDX-License-Identifier: MIT */
/* What a request has to do with what its model thinks: where the answer begins, how hard it is to think, and which part of the
 * answer is thoughts. */
#include <string.h>

#include "api/api_private.h"

#define NEAR 32 /* tokens at the prompt's end: marks of several tokens, and white space behind them */

/* --- the request ---------------------------------------------------------------------------------------- */

int api_reasoning_effort(struct api_params *params, const char *field, json_t *value, struct tl_error *err) {
  static const char *const efforts[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
  for (size_t i = 0; json_is_string(value) && i < sizeof efforts / sizeof *efforts; i++)
    if (strcmp(json_string_value(value), efforts[i]) == 0) params->reasoning_effort = efforts[i];
  return params->reasoning_effort ? TL_OK : api_wrong(err, field, "none, minimal, low, medium, high, xhigh or max", value);
}

int api_reasoning_kwargs(const struct api_params *params, unsigned takes, json_t **ret, struct tl_error *err) {
  *ret = params->chat_template_kwargs ? json_copy(params->chat_template_kwargs) : json_object();
  const char *effort = params->reasoning_effort;
  if (!effort) return TL_OK;
  bool none = strcmp(effort, "none") == 0;
  const char *field = params->input ? "reasoning.effort" : "reasoning_effort";
  if (!none && !(takes & (TL_CHAT_EFFORT | TL_CHAT_THINKING)))
    return tl_error_set(err, TL_EINVAL, field, "%s: is not supported by the chat template of this model", field);
  if ((takes & TL_CHAT_EFFORT) && !json_object_get(*ret, "reasoning_effort"))
    json_object_set_new(*ret, "reasoning_effort", json_string(effort));
  if ((takes & TL_CHAT_THINKING) && !json_object_get(*ret, "enable_thinking"))
    json_object_set_new(*ret, "enable_thinking", json_boolean(!none));
  return TL_OK;
}

/* The text that the answer goes on with. */
static enum api_reasoning_start start_of_message(const struct api_reasoning_format *format, json_t *messages) {
  json_t *content = json_object_get(json_array_get(messages, json_array_size(messages) - 1), "content");
  if (json_is_array(content)) content = json_object_get(json_array_get(content, json_array_size(content) - 1), "text");
  return api_reasoning_start_within(format, json_string_value(content), json_string_length(content));
}

int api_reasoning_look(struct api_call *call, const struct tl_tokens *tokens) {
  const struct api_reasoning_format *format = call->api->reasoning[call->work.model].format;
  size_t n = tokens->n < NEAR ? tokens->n : NEAR;
  struct tl_buffer text;
  if (!format) return TL_OK;
  if (call->params.continue_final_message) {
    call->reasoning_start = start_of_message(format, call->params.messages);
    return TL_OK;
  }
  tl_buffer_init(&text, 0);
  int r = tl_tokenizer_decode(call->work.serving->tokenizer, tokens->ids + tokens->n - n, n, false, &text);
  if (r == TL_OK) call->reasoning_start = api_reasoning_start_after(format, text.data, text.length);
  tl_buffer_done(&text);
  return r;
}

/* --- its answer ------------------------------------------------------------------------------------------- */

void api_reasoning_begin(struct api_choice *choice) {
  const struct api_call *call = choice->call;
  const struct api_reasoning *reasoning = &call->api->reasoning[call->work.model];
  if (call->endpoint == API_COMPLETIONS || !reasoning->format || !call->params.split_reasoning) return;
  api_reasoning_parser_init(&choice->thinks, reasoning->format, call->reasoning_start, choice->tools.format == &api_tool_harmony_format,
                            call->params.constraint.field);
  choice->detok.kept = reasoning->marks;
  choice->detok.n_kept = choice->detok.n_kept ? reasoning->n_all : reasoning->n_marks;
  api_shown_begin(choice);
}

void api_reasoning_done(struct api_choice *choice) {
  api_reasoning_parser_done(&choice->thinks);
  tl_buffer_done(&choice->reasoning);
  tl_buffer_done(&choice->shown.tokens);
}

int api_reasoning_take(struct api_choice *choice, const struct tl_buffer *text, bool last, struct tl_buffer *rest) {
  bool on = choice->shown.on;
  int r = on ? api_shown_take(choice, text, rest) : api_reasoning_parser_push(&choice->thinks, text->data, text->length, &choice->reasoning, rest);
  if (r == TL_OK && last) r = on ? api_shown_finish(choice, rest) : api_reasoning_parser_finish(&choice->thinks, &choice->reasoning, rest);
  if (!choice->call->params.include_reasoning) tl_buffer_clear(&choice->reasoning);
  return r;
}

/* Where calls must come and the format is harmony, or thoughts are not split off, the grammar binds the whole answer, which then has no
 * thoughts: a call is no final message of harmony's, and thoughts that are not split off would be read as a part of the calls. */
void api_reasoning_free_thoughts(const struct api_call *call, struct tl_matcher *matcher) {
  const struct tl_thinking *thinking = &call->api->reasoning[call->work.model].thinking;
  if (call->endpoint == API_COMPLETIONS || !thinking->ends[0] || call->reasoning_start == API_REASONING_OVER) return;
  if (api_only_calls(call) && (thinking->ends[1] || !call->params.split_reasoning)) return;
  tl_matcher_think(matcher, thinking, call->reasoning_start == API_REASONING_WITHIN);
}
