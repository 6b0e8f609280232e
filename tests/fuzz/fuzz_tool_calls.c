/* SPDX-License-Identifier: MIT */
/* Any bytes as the text of an answer; the first one says in which format calls are looked for, whether they have to be whole and how the text is cut.
 * Cuts change nothing, nor does text without a call; a whole call's arguments are an object to jansson too. */
#include <jansson.h>

#include "api/tool_formats.h"
#include "fuzz_target.h"

/* What jansson refuses though it is JSON, or because the text is no UTF-8. */
static bool is_excused(const char *text) {
  static const char *const excuses[] = {"too big", "Unicode", "real number overflow", "UTF-8", "unable to decode", "NUL byte in object key"};
  for (unsigned i = 0; i < sizeof excuses / sizeof *excuses; i++)
    if (strstr(text, excuses[i])) return true;
  return false;
}

static void check_arguments(const struct tl_buffer *arguments) {
  json_error_t error = {0};
  json_t *json = json_loadb(arguments->data, arguments->length, JSON_ALLOW_NUL, &error);
  check(json_is_object(json) || is_excused(error.text), "arguments are no object");
  json_decref(json);
}

/* Made once. */
static const struct api_tool_types *known_tools(void) {
  static const char tools[] = "[{\"name\": \"f\", \"parameters\": {\"properties\": {\"s\": {\"type\": \"string\"}, \"z\": {\"type\": [\"string\", \"null\"]},"
                              "\"o\": {\"type\": \"object\"}, \"r\": {\"$ref\": \"R\"}}}}, {\"name\": \"get\"}, {\"name\": \"get_all\"}]";
  static const struct api_tool_types *types;
  static struct tl_arena arena;
  if (types) return types;
  json_t *list = json_loads(tools, 0, NULL);
  tl_arena_init(&arena, 0);
  check(api_tool_types_read(list, &arena, &types) == TL_OK, "types");
  json_decref(list);
  return types;
}

/* content|name(arguments)name(arguments... */
static void parse(const struct api_tool_format *format, bool whole, const char *text, size_t length, size_t piece, struct tl_buffer *out) {
  struct api_tool_parser parser;
  struct api_tool_calls calls = {0};
  api_tool_parser_init(&parser, format, known_tools(), whole);
  for (size_t at = 0; at < length; at += piece)
    check(api_tool_parser_push(&parser, text + at, at + piece < length ? piece : length - at, out, &calls) == TL_OK, "push");
  check(api_tool_parser_finish(&parser, out, &calls) == TL_OK, "finish");
  bool same = out->length == length && memcmp(out->data, text, length) == 0;
  check(calls.n || same || format == &api_tool_harmony_format, "what is no call changes");
  tl_buffer_putc(out, '|');
  for (unsigned i = 0; i < calls.n; i++) {
    const struct api_tool_call *call = &calls.items[i];
    check(call->name.length > 0, "a call without a name");
    check(call->ended || !whole, "a call that is not whole");
    if (whole) check_arguments(&call->arguments);
    tl_buffer_append(out, call->name.data, call->name.length);
    tl_buffer_putc(out, '(');
    tl_buffer_append(out, call->arguments.data, call->arguments.length);
    if (call->ended) tl_buffer_putc(out, ')');
  }
  api_tool_parser_done(&parser);
  api_tool_calls_done(&calls);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const struct api_tool_format *const formats[] = {&api_tool_hermes_format, &api_tool_llama3_json_format, &api_tool_mistral_format,
                                                          &api_tool_granite_format, &api_tool_harmony_format, &api_tool_list_format,
                                                          &api_tool_phi4_mini_format, &api_tool_qwen3_coder_format, &api_tool_glm45_format,
                                                          &api_tool_pythonic_format, &api_tool_deepseek_v3_format, &api_tool_glm4_format};
  if (size < 2) return 0;
  const struct api_tool_format *format = formats[data[0] % 12];
  bool whole = data[0] / 12 % 2;
  const char *text = (const char *)data + 1;
  struct tl_buffer once, cut;
  tl_buffer_init(&once, 0);
  tl_buffer_init(&cut, 0);
  parse(format, whole, text, size - 1, size - 1, &once);
  parse(format, whole, text, size - 1, 1 + data[0] / 24 % 5, &cut);
  check(once.length == cut.length && memcmp(once.data, cut.data, once.length) == 0, "cuts change what comes out");
  tl_buffer_done(&once);
  tl_buffer_done(&cut);
  return 0;
}
