/* SPDX-License-Identifier: MIT */
/* Answers of /v1/responses: a list of items, and a stream that says when each of them, and each part of a message, begins and
 * ends. A stream ends with the whole answer once more, so its items are kept as the client was told of them. */
#include <stdio.h>
#include <string.h>

#include "api/responses.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/hash.h"

static const char *const prefixes[] = {"", "rs_", "msg_", "fc_"}; /* of ids, by enum response_item */

/* --- items ---------------------------------------------------------------------------------------- */

static void put_id(const struct api_call *call, enum response_item kind, unsigned index, struct tl_buffer *out) {
  uint64_t number = tl_hash_u64(call->api->key[0] ^ call->number);
  tl_buffer_printf(out, "\"%s%016llx\"", prefixes[kind], (unsigned long long)tl_hash_u64(number - 1 - index));
}

static void put_text(const char *type, const struct tl_buffer *text, struct tl_buffer *out) {
  tl_buffer_printf(out, "{\"type\":\"%s\",\"text\":", type);
  api_json_string(out, text->data, text->length);
}

/* A part of a message or of a reasoning item. logprobs NULL: none. */
static void put_part(enum response_item kind, const struct tl_buffer *text, const struct tl_buffer *logprobs, struct tl_buffer *out) {
  put_text(kind == RESPONSE_MESSAGE ? "output_text" : "reasoning_text", text, out);
  if (kind == RESPONSE_MESSAGE) {
    tl_buffer_puts(out, ",\"annotations\":[],\"logprobs\":[");
    if (logprobs) tl_buffer_append(out, logprobs->data, logprobs->length);
    tl_buffer_putc(out, ']');
  }
  tl_buffer_putc(out, '}');
}

/* An item that has a part, unless it only begins (text NULL). */
static void put_item(const struct api_call *call, enum response_item kind, unsigned index, const char *status, const struct tl_buffer *text,
                     const struct tl_buffer *logprobs, struct tl_buffer *out) {
  tl_buffer_puts(out, "{\"id\":");
  put_id(call, kind, index, out);
  tl_buffer_puts(out, kind == RESPONSE_MESSAGE ? ",\"type\":\"message\",\"role\":\"assistant\"" : ",\"type\":\"reasoning\",\"summary\":[]");
  tl_buffer_printf(out, ",\"status\":\"%s\",\"content\":[", status);
  if (text) put_part(kind, text, logprobs, out);
  tl_buffer_puts(out, "]}");
}

/* A call that is whole is completed though the answer was cut behind it. */
static void put_call(const struct api_choice *choice, unsigned i, unsigned index, const char *status, const struct tl_buffer *arguments,
                     struct tl_buffer *out) {
  const struct tl_buffer *name = &choice->calls.items[i].name;
  char id[24];
  if (choice->calls.items[i].ended && strcmp(status, "incomplete") == 0) status = "completed";
  api_call_id(choice, i, id);
  tl_buffer_puts(out, "{\"id\":");
  put_id(choice->call, RESPONSE_CALL, index, out);
  tl_buffer_printf(out, ",\"type\":\"function_call\",\"status\":\"%s\",\"call_id\":\"%s\",\"name\":", status, id);
  api_json_string(out, name->data, name->length);
  tl_buffer_puts(out, ",\"arguments\":");
  api_json_string(out, arguments->data, arguments->length);
  tl_buffer_putc(out, '}');
}

/* --- the whole answer ------------------------------------------------------------------------------- */

static void put_usage(const struct api_call *call, struct tl_buffer *out) {
  unsigned n_input = call->prompts->n, n_output = call->choices->n_seen;
  tl_buffer_printf(out,
                   ",\"usage\":{\"input_tokens\":%u,\"input_tokens_details\":{\"cached_tokens\":%llu,\"cache_write_tokens\":0},"
                   "\"output_tokens\":%u,\"output_tokens_details\":{\"reasoning_tokens\":%u},\"total_tokens\":%u}",
                   n_input, api_cached_tokens(call), n_output, call->choices->n_reasoning, n_input + n_output);
}

static bool was_cut(const struct api_choice *choice) {
  return choice->finish && strcmp(choice->finish, "length") == 0;
}

/* One of the codes that OpenAI's clients know. */
static const char *error_code(const struct tl_error *err) {
  int status = api_error_status(err);
  return status == 429 ? "rate_limit_exceeded" : status < 500 ? "invalid_prompt" : "server_error";
}

/* Up to its items. err: why there are no more of them; NULL: nothing is wrong. */
static void put_head(const struct api_call *call, const char *status, const struct tl_error *err, struct tl_buffer *out) {
  const char *name = api_model_name(call);
  const struct tl_sampling *sampling = &call->choices->seq->sampling;
  bool over = strcmp(status, "in_progress") != 0, cut = strcmp(status, "incomplete") == 0;
  tl_buffer_printf(out, "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"completed_at\":", call->id, (long long)call->created_s);
  if (over && !cut && !err) tl_buffer_printf(out, "%lld", (long long)(tl_wall_ns() / TL_SEC(1)));
  else tl_buffer_puts(out, "null");
  tl_buffer_printf(out, ",\"status\":\"%s\",\"error\":", status);
  if (err) {
    tl_buffer_printf(out, "{\"code\":\"%s\",\"message\":", error_code(err));
    api_json_string(out, err->message, strlen(err->message));
    tl_buffer_putc(out, '}');
  } else {
    tl_buffer_puts(out, "null");
  }
  tl_buffer_printf(out, ",\"incomplete_details\":%s,\"model\":", cut ? "{\"reason\":\"max_output_tokens\"}" : "null");
  api_json_string(out, name, strlen(name));
  tl_buffer_printf(out, ",\"temperature\":%g,\"top_p\":%g", (double)sampling->temperature, (double)sampling->top_p);
  tl_buffer_append(out, call->response->echo, call->response->echo_length);
  if (over && !err) put_usage(call, out);
  else tl_buffer_puts(out, ",\"usage\":null");
  tl_buffer_puts(out, ",\"output\":[");
}

/* The text before call i, as a message. Log-probabilities of all tokens are at the first. */
static void put_message(const struct api_choice *choice, unsigned i, unsigned index, const char *last, struct tl_buffer *logprobs, struct tl_buffer *out) {
  struct tl_buffer text = api_text_before(choice, i);
  if (index) tl_buffer_putc(out, ',');
  put_item(choice->call, RESPONSE_MESSAGE, index, i < api_n_calls(choice) ? "completed" : last, &text, logprobs, out);
  if (logprobs->failed) out->failed = true;
  tl_buffer_clear(logprobs);
}

static void put_items(struct api_choice *choice, const char *last, struct tl_buffer *out) {
  const struct api_call *call = choice->call;
  struct tl_buffer logprobs;
  unsigned index = 0, n_calls = api_n_calls(choice), n_prompt = choice->seq->n_prompt;
  /* an answer without any item has a message too, which is empty; where only calls can come there is none */
  bool empty = !choice->text.length && !n_calls && !choice->reasoning.length && !api_only_calls(call);
  tl_buffer_init(&logprobs, 0);
  if (call->params.n_top_logprobs >= 0) api_token_logprobs(choice, n_prompt, n_prompt + api_n_told(choice), &logprobs);
  if (choice->reasoning.length)
    put_item(call, RESPONSE_REASONING, index++, choice->text.length || n_calls ? "completed" : last, &choice->reasoning, NULL, out);
  for (unsigned i = 0; i <= n_calls; i++) {
    if (api_text_before(choice, i).length || empty) put_message(choice, i, index++, last, &logprobs, out);
    if (i == n_calls) break;
    if (index) tl_buffer_putc(out, ',');
    bool ended = i + 1 < n_calls || api_text_before(choice, i + 1).length;
    put_call(choice, i, index++, ended ? "completed" : last, &choice->calls.items[i].arguments, out);
  }
  tl_buffer_done(&logprobs);
}

static void answer(struct api_call *call, struct tl_buffer *out) {
  const char *status = was_cut(call->choices) ? "incomplete" : "completed";
  put_head(call, status, NULL, out);
  put_items(call->choices, status, out);
  tl_buffer_puts(out, "]}");
}

/* --- events ------------------------------------------------------------------------------------------- */

static void begin_event(const struct api_call *call, const char *name, struct tl_buffer *out) {
  tl_http_sse_begin(out, name);
  tl_buffer_printf(out, "{\"type\":\"%s\",\"sequence_number\":%u", name, call->response->n_events++);
}

static void end_event(struct tl_buffer *out) {
  tl_buffer_putc(out, '}');
  tl_http_sse_end(out);
}

/* About the open item. */
static void begin_item_event(const struct api_call *call, const char *name, struct tl_buffer *out) {
  const struct api_response *response = call->response;
  begin_event(call, name, out);
  tl_buffer_printf(out, ",\"output_index\":%u,\"item_id\":", response->n_items);
  put_id(call, response->open, response->n_items, out);
  if (response->open != RESPONSE_CALL) tl_buffer_puts(out, ",\"content_index\":0");
}

static void put_state(const struct api_call *call, const char *event, const char *status, const struct tl_error *err, struct tl_buffer *out) {
  const struct tl_buffer *items = &call->response->items;
  begin_event(call, event, out);
  tl_buffer_puts(out, ",\"response\":");
  put_head(call, status, err, out);
  tl_buffer_append(out, items->data, items->length);
  tl_buffer_puts(out, "]}");
  end_event(out);
}

static void put_part_event(const struct api_call *call, const char *name, bool begins, struct tl_buffer *out) {
  const struct api_response *response = call->response;
  begin_item_event(call, name, out);
  tl_buffer_puts(out, ",\"part\":");
  put_part(response->open, &response->text, begins ? NULL : &response->logprobs, out);
  end_event(out);
}

/* The open item as it is. */
static void put_open(const struct api_choice *choice, const char *status, bool begins, struct tl_buffer *out) {
  const struct api_response *response = choice->call->response;
  if (response->open == RESPONSE_CALL)
    put_call(choice, response->i_call, response->n_items, status, &response->text, out);
  else
    put_item(choice->call, response->open, response->n_items, status, begins ? NULL : &response->text, &response->logprobs, out);
}

static void put_item_event(const struct api_choice *choice, const char *name, const char *status, bool begins, struct tl_buffer *out) {
  begin_event(choice->call, name, out);
  tl_buffer_printf(out, ",\"output_index\":%u,\"item\":", choice->call->response->n_items);
  put_open(choice, status, begins, out);
  end_event(out);
}

/* That the text of the open item is whole. */
static void put_whole(const struct api_call *call, struct tl_buffer *out) {
  static const char *const names[] = {"", "response.reasoning_text.done", "response.output_text.done", "response.function_call_arguments.done"};
  const struct api_response *response = call->response;
  begin_item_event(call, names[response->open], out);
  tl_buffer_puts(out, response->open == RESPONSE_CALL ? ",\"arguments\":" : ",\"text\":");
  api_json_string(out, response->text.data, response->text.length);
  if (response->open == RESPONSE_MESSAGE) {
    tl_buffer_puts(out, ",\"logprobs\":[");
    tl_buffer_append(out, response->logprobs.data, response->logprobs.length);
    tl_buffer_putc(out, ']');
  }
  end_event(out);
}

static void close_item(const struct api_choice *choice, const char *status, struct tl_buffer *out) {
  struct api_response *response = choice->call->response;
  if (response->open == RESPONSE_NONE) return;
  put_whole(choice->call, out);
  if (response->open != RESPONSE_CALL) put_part_event(choice->call, "response.content_part.done", false, out);
  put_item_event(choice, "response.output_item.done", status, false, out);
  size_t before = response->items.length;
  if (response->n_items) tl_buffer_putc(&response->items, ',');
  put_open(choice, status, false, &response->items);
  if (response->items.failed) response->items.length = before; /* the error's event has them */
  if (response->items.failed || response->text.failed || response->logprobs.failed) out->failed = true;
  if (response->open == RESPONSE_MESSAGE) {
    tl_buffer_clear(&response->logprobs);
    response->n_told = 0;
  }
  tl_buffer_clear(&response->text);
  response->open = RESPONSE_NONE;
  response->n_items++;
}

static void open_item(const struct api_choice *choice, enum response_item kind, struct tl_buffer *out) {
  struct api_response *response = choice->call->response;
  if (response->open == kind && kind != RESPONSE_CALL) return;
  close_item(choice, "completed", out);
  response->open = kind;
  put_item_event(choice, "response.output_item.added", "in_progress", true, out);
  if (kind != RESPONSE_CALL) put_part_event(choice->call, "response.content_part.added", true, out);
}

/* --- the shape ------------------------------------------------------------------------------------------ */

static void begin(struct api_choice *choice, struct tl_buffer *out) {
  put_state(choice->call, "response.created", "in_progress", NULL, out);
  put_state(choice->call, "response.in_progress", "in_progress", NULL, out);
  choice->begun = true;
}

/* More of the open item. */
static void put_delta(const struct api_call *call, const struct tl_buffer *delta, struct tl_buffer *out) {
  static const char *const names[] = {"", "response.reasoning_text.delta", "response.output_text.delta", "response.function_call_arguments.delta"};
  struct api_response *response = call->response;
  begin_item_event(call, names[response->open], out);
  tl_buffer_puts(out, ",\"delta\":");
  api_json_string(out, delta->data, delta->length);
  if (response->open == RESPONSE_MESSAGE) {
    size_t from = response->n_told ? response->n_told + 1 : 0; /* behind a comma */
    tl_buffer_puts(out, ",\"logprobs\":[");
    if (from < response->logprobs.length) tl_buffer_append(out, response->logprobs.data + from, response->logprobs.length - from);
    tl_buffer_putc(out, ']');
    response->n_told = response->logprobs.length;
  }
  end_event(out);
  tl_buffer_append(&response->text, delta->data, delta->length);
}

static void take_logprobs(const struct api_choice *choice, struct tl_buffer *out) {
  uint32_t n_prompt = choice->seq->n_prompt, n_told = api_n_told(choice);
  if (choice->call->params.n_top_logprobs < 0 || !api_shown_any(choice, choice->n_sent_logprobs, n_told)) return;
  if (out->length) tl_buffer_putc(out, ',');
  api_token_logprobs(choice, n_prompt + choice->n_sent_logprobs, n_prompt + n_told, out);
}

static void piece(struct api_choice *choice, struct tl_buffer *out) {
  struct api_response *response = choice->call->response;
  take_logprobs(choice, &response->logprobs);
  if (choice->reasoning.length) {
    open_item(choice, RESPONSE_REASONING, out);
    put_delta(choice->call, &choice->reasoning, out);
  }
  if (choice->text.length) open_item(choice, RESPONSE_MESSAGE, out);
  if (response->open == RESPONSE_MESSAGE && (choice->text.length || response->n_told < response->logprobs.length))
    put_delta(choice->call, &choice->text, out);
}

static void put_call_news(struct api_choice *choice, unsigned i, struct tl_buffer *out) {
  const struct api_tool_call *call = &choice->calls.items[i];
  if (call->announced) {
    put_delta(choice->call, &call->arguments, out);
    return;
  }
  close_item(choice, "completed", out);
  choice->call->response->i_call = i;
  open_item(choice, RESPONSE_CALL, out);
}

static void finish(struct api_choice *choice, struct tl_buffer *out) {
  struct api_response *response = choice->call->response;
  /* as put_items has it */
  if (!response->n_items && response->open == RESPONSE_NONE && !api_only_calls(choice->call)) open_item(choice, RESPONSE_MESSAGE, out);
  close_item(choice, was_cut(choice) ? "incomplete" : "completed", out);
}

static void end(struct api_call *call, struct tl_buffer *out) {
  bool cut = was_cut(call->choices);
  put_state(call, cut ? "response.incomplete" : "response.completed", cut ? "incomplete" : "completed", NULL, out);
}

/* As OpenAI does, both: what went wrong, and the answer as far as it came. */
static void error(struct api_call *call, const struct tl_error *err, struct tl_buffer *out) {
  begin_event(call, "error", out);
  tl_buffer_printf(out, ",\"code\":\"%s\",\"message\":", error_code(err));
  api_json_string(out, err->message, strlen(err->message));
  tl_buffer_puts(out, ",\"param\":");
  if (*err->field) api_json_string(out, err->field, strlen(err->field));
  else tl_buffer_puts(out, "null");
  end_event(out);
  put_state(call, "response.failed", "failed", err, out);
}

size_t api_response_rest(const struct api_response *response, size_t n_new) {
  /* the open item in four events, and all in the last */
  return 4 * (response->text.length + response->logprobs.length + n_new) + response->items.length + response->echo_length;
}

const struct api_shape api_responses_shape = {
    .id_prefix = "resp_", .prompt_field = "input", .length_field = "max_output_tokens", .operation = "chat",
    .begin = begin, .piece = piece, .call = put_call_news, .finish = finish, .end = end, .error = error, .answer = answer};
