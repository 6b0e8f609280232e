/* SPDX-License-Identifier: MIT */
/* Answers and streams of /v1/messages, as Anthropic's API reference gives them: a message is a list of blocks, and
 * a stream says where each begins and ends. A call has one choice. */
#include <string.h>

#include "api/api_private.h"

/* What is read from the cache is not counted as input a second time. */
static void usage(const struct api_call *call, struct tl_buffer *out) {
  unsigned long long cached = api_cached_tokens(call);
  tl_buffer_printf(out,
                   "\"usage\":{\"input_tokens\":%llu,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%llu,"
                   "\"output_tokens\":%u",
                   call->prompts->n - cached, cached, call->choices->n_seen);
  if (call->choices->thinks.format) tl_buffer_printf(out, ",\"output_tokens_details\":{\"thinking_tokens\":%u}", call->choices->n_reasoning);
  tl_buffer_putc(out, '}');
}

static void begin_message(const struct api_call *call, struct tl_buffer *out) {
  const char *name = api_model_name(call);
  tl_buffer_printf(out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", call->id);
  api_json_string(out, name, strlen(name));
  tl_buffer_puts(out, ",\"content\":[");
}

/* Unlike OpenAI, who has "stop" after a call of a named tool. */
static void stop_reason(const struct api_choice *choice, struct tl_buffer *out) {
  const struct api_params *p = &choice->call->params;
  bool cut = strcmp(choice->finish, "length") == 0, hit = choice->stop.hit, full = choice->n_seen < p->max_tokens;
  tl_buffer_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":",
                   cut ? full ? "model_context_window_exceeded" : "max_tokens" : api_n_calls(choice) ? "tool_use" : hit ? "stop_sequence" : "end_turn");
  if (hit)
    api_json_string(out, p->stop[choice->stop.which].text, p->stop[choice->stop.which].length);
  else
    tl_buffer_puts(out, "null");
}

/* --- a whole answer --------------------------------------------------------------------------------- */

static void text_block(const char *type, const struct tl_buffer *text, struct tl_buffer *out) {
  tl_buffer_printf(out, "{\"type\":\"%s\",\"%s\":", type, type);
  api_json_string(out, text->data, text->length);
  tl_buffer_puts(out, strcmp(type, "thinking") == 0 ? ",\"signature\":\"\"}" : "}");
}

static bool is_object(const struct tl_buffer *text) {
  struct tl_error ignored = {0};
  if (api_body_scan(text->data, text->length, API_MAX_NODES, &ignored) < 0) return false;
  json_t *value = tl_json_load(text->data, text->length, JSON_ALLOW_NUL, NULL);
  bool object = json_is_object(value);
  json_decref(value);
  return object;
}

/* Its name and id; the text of its input follows, and the end of the object. */
static void begin_tool_use(const struct api_choice *choice, unsigned i, struct tl_buffer *out) {
  const struct tl_buffer *name = &choice->calls.items[i].name;
  char id[24];
  api_call_id(choice, i, id);
  tl_buffer_printf(out, "{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", id);
  api_json_string(out, name->data, name->length);
  tl_buffer_puts(out, ",\"input\":");
}

static void call_block(const struct api_choice *choice, unsigned i, struct tl_buffer *out) {
  const struct tl_buffer *input = &choice->calls.items[i].arguments;
  if (!is_object(input)) { /* cut by max_tokens: nobody can call with it, but it was said */
    text_block("text", input, out);
    return;
  }
  begin_tool_use(choice, i, out);
  tl_buffer_append(out, input->data, input->length);
  tl_buffer_putc(out, '}');
}

static void answer(struct api_call *call, struct tl_buffer *out) {
  const struct api_choice *choice = call->choices;
  unsigned n = 0;
  begin_message(call, out);
  if (choice->reasoning.length && n++ == 0) text_block("thinking", &choice->reasoning, out);
  for (unsigned i = 0; i <= api_n_calls(choice); i++) {
    struct tl_buffer text = api_text_before(choice, i);
    if (text.length && n++) tl_buffer_putc(out, ',');
    if (text.length) text_block("text", &text, out);
    if (i == api_n_calls(choice)) break;
    if (n++) tl_buffer_putc(out, ',');
    call_block(choice, i, out);
  }
  tl_buffer_puts(out, "],");
  stop_reason(choice, out);
  tl_buffer_putc(out, ',');
  usage(call, out);
  tl_buffer_putc(out, '}');
}

/* --- a stream ----------------------------------------------------------------------------------------- */

static void begin(struct api_choice *choice, struct tl_buffer *out) {
  tl_http_sse_begin(out, "message_start");
  tl_buffer_puts(out, "{\"type\":\"message_start\",\"message\":");
  begin_message(choice->call, out);
  tl_buffer_puts(out, "],\"stop_reason\":null,\"stop_sequence\":null,");
  usage(choice->call, out);
  tl_buffer_puts(out, "}}");
  tl_http_sse_end(out);
  tl_http_sse_begin(out, "ping");
  tl_buffer_puts(out, "{\"type\":\"ping\"}");
  tl_http_sse_end(out);
  choice->begun = true;
}

static void end_block(struct api_choice *choice, struct tl_buffer *out) {
  if (choice->block == API_BLOCK_NONE) return;
  tl_http_sse_begin(out, "content_block_stop");
  tl_buffer_printf(out, "{\"type\":\"content_block_stop\",\"index\":%u}", choice->n_blocks - 1);
  tl_http_sse_end(out);
  choice->block = API_BLOCK_NONE;
}

/* The caller writes the block itself, the brace behind it and the end of the event. */
static void begin_block(struct api_choice *choice, enum api_block block, struct tl_buffer *out) {
  end_block(choice, out);
  tl_http_sse_begin(out, "content_block_start");
  tl_buffer_printf(out, "{\"type\":\"content_block_start\",\"index\":%u,\"content_block\":", choice->n_blocks++);
  choice->block = block;
}

static void delta(const struct api_choice *choice, const char *type, const char *name, const struct tl_buffer *text, struct tl_buffer *out) {
  tl_http_sse_begin(out, "content_block_delta");
  tl_buffer_printf(out, "{\"type\":\"content_block_delta\",\"index\":%u,\"delta\":{\"type\":\"%s\",\"%s\":", choice->n_blocks - 1, type, name);
  api_json_string(out, text->data, text->length);
  tl_buffer_puts(out, "}}");
  tl_http_sse_end(out);
}

static void piece_of(struct api_choice *choice, enum api_block block, const struct tl_buffer *text, struct tl_buffer *out) {
  static const struct tl_buffer nothing;
  bool thinking = block == API_BLOCK_THINKING;
  if (!text->length) return;
  if (choice->block != block) {
    begin_block(choice, block, out);
    text_block(thinking ? "thinking" : "text", &nothing, out);
    tl_buffer_putc(out, '}');
    tl_http_sse_end(out);
  }
  delta(choice, thinking ? "thinking_delta" : "text_delta", thinking ? "thinking" : "text", text, out);
}

static void piece(struct api_choice *choice, struct tl_buffer *out) {
  piece_of(choice, API_BLOCK_THINKING, &choice->reasoning, out);
  piece_of(choice, API_BLOCK_TEXT, &choice->text, out);
}

static void call_piece(struct api_choice *choice, unsigned i, struct tl_buffer *out) {
  const struct api_tool_call *call = &choice->calls.items[i];
  if (call->announced) {
    delta(choice, "input_json_delta", "partial_json", &call->arguments, out);
    return;
  }
  begin_block(choice, API_BLOCK_TOOL_USE, out);
  begin_tool_use(choice, i, out);
  tl_buffer_puts(out, "{}}}");
  tl_http_sse_end(out);
}

static void finish(struct api_choice *choice, struct tl_buffer *out) {
  end_block(choice, out);
  tl_http_sse_begin(out, "message_delta");
  tl_buffer_puts(out, "{\"type\":\"message_delta\",\"delta\":{");
  stop_reason(choice, out);
  tl_buffer_puts(out, "},");
  usage(choice->call, out);
  tl_buffer_putc(out, '}');
  tl_http_sse_end(out);
}

static void end(struct api_call *call, struct tl_buffer *out) {
  (void)call;
  tl_http_sse_begin(out, "message_stop");
  tl_buffer_puts(out, "{\"type\":\"message_stop\"}");
  tl_http_sse_end(out);
}

static void error(struct api_call *call, const struct tl_error *err, struct tl_buffer *out) {
  (void)call;
  tl_http_sse_begin(out, "error");
  api_messages_error_json(out, err);
  tl_http_sse_end(out);
}

const struct api_shape api_messages_shape = {.id_prefix = "msg_",
                                             .prompt_field = "messages",
                                             .length_field = "max_tokens",
                                             .operation = "chat",
                                             .begin = begin,
                                             .piece = piece,
                                             .call = call_piece,
                                             .finish = finish,
                                             .end = end,
                                             .error = error,
                                             .answer = answer};
