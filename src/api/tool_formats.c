/* SPDX-License-Identifier: MIT */
/* A model's format is what its chat template makes of a call: a conversation with one is rendered, and what stands before
 * the name says which it is. A template that writes no calls may still tell the model how to. */
#include "api/tool_formats.h"

#include <stdio.h>
#include <string.h>

#define PROBE "probe2f0e" /* a name that no template has by itself */
#define NEAR 200          /* bytes before it that are looked at */

static const struct api_tool_format *const formats[] = {&api_tool_hermes_format, &api_tool_llama3_json_format, &api_tool_mistral_format,
                                                        &api_tool_granite_format, &api_tool_harmony_format, &api_tool_phi4_mini_format,
                                                        &api_tool_qwen3_coder_format, &api_tool_glm45_format, &api_tool_seed_oss_format, &api_tool_pythonic_format,
                                                        &api_tool_deepseek_v3_format, &api_tool_glm4_format, &api_tool_nemotron_format, &api_tool_gemma4_format};

/* --- a conversation with a call ------------------------------------------------------------------- */

/* Mistral's templates want ids of nine letters or digits. */
static const char conversation[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": ["
    "{\"id\": \"abcdefghi\", \"type\": \"function\", \"function\": {\"name\": \"" PROBE "\", \"arguments\": {\"b\": \"c\"}}}]}],"
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"other\", \"description\": \"d\", \"parameters\": "
    "{\"type\": \"object\", \"properties\": {\"b\": {\"type\": \"string\", \"description\": \"e\"}}, \"required\": [\"b\"]}}}]}";

static int render(const struct tl_chat_template *tmpl, struct tl_rendered *ret) {
  unsigned takes = tl_chat_template_takes(tmpl);
  json_t *fields = json_loads(conversation, 0, NULL), *messages = json_object_get(fields, "messages"), *message = json_array_get(messages, 1);
  json_t *call = json_object_get(json_array_get(json_object_get(message, "tool_calls"), 0), "function");
  if (takes & TL_CHAT_CALL_TEXT) json_object_set_new(call, "arguments", json_string("{\"b\": \"c\"}"));
  if (takes & TL_CHAT_CALL_NULL) json_object_set_new(message, "content", json_null());
  struct tl_chat chat = {.messages = messages, .tools = json_object_get(fields, "tools"), .now_s = 1};
  struct tl_error ignored = {0};
  int r = tl_chat_render(tmpl, &chat, &tl_template_default_limits, ret, &ignored);
  json_decref(fields);
  return r;
}

/* --- what the template made of it ------------------------------------------------------------------- */

static const char *find(const char *text, const char *end, const char *what) {
  return memmem(text, (size_t)(end - text), what, strlen(what));
}

/* Where the last mark before `end` ends; NULL: there is none. */
static const char *behind_last(const char *text, const char *end, const char *mark) {
  const char *found = NULL, *next;
  for (const char *at = text; (next = find(at, end, mark)); at = next + strlen(mark)) found = next + strlen(mark);
  return found;
}

static char first_character(const char *text, const char *end) {
  while (text < end && (unsigned char)*text <= ' ') text++;
  return text < end ? *text : 0;
}

static bool begins_with(const char *text, const char *end, const char *what) {
  return (size_t)(end - text) >= strlen(what) && memcmp(text, what, strlen(what)) == 0;
}

/* Behind <tool_call>: JSON, or tags. */
static const struct api_tool_format *of_tool_call(const char *behind, const char *name, const char *end) {
  char next = first_character(behind, name);
  if (next == '{') return &api_tool_hermes_format;
  if (next == '[') return &api_tool_granite_format;
  const char *to = end - name > NEAR ? name + NEAR : end;
  return !next && find(name, to, "<arg_key>") ? &api_tool_glm45_format : NULL;
}

/* A call as Python has it: in a list, or behind a mark. */
static bool is_pythonic(const char *from, const char *name, const char *end) {
  if (!begins_with(name, end, PROBE "(b=")) return false;
  const char *behind = behind_last(from, name, "<function_calls>");
  return (name > from && name[-1] == '[') || (behind && !first_character(behind, name));
}

/* The name is at `name`, whole text [text, end). */
static const struct api_tool_format *of_call(const char *text, const char *name, const char *end) {
  const char *from = name - text > NEAR ? name - NEAR : text, *behind;
  char next;
  if (behind_last(from, name, "[TOOL_CALLS]")) return &api_tool_mistral_format;
  if (behind_last(from, name, "<|tool_call>call:") == name) return &api_tool_gemma4_format;
  if (behind_last(from, name, "to=functions.") == name) return &api_tool_harmony_format;
  if (behind_last(from, name, "<function=") == name)
    return behind_last(from, name, "<seed:tool_call>") ? &api_tool_seed_oss_format : &api_tool_qwen3_coder_format;
  if (behind_last(from, name, api_tool_deepseek_v3_format.marks[1])) return &api_tool_deepseek_v3_format;
  if (is_pythonic(from, name, end)) return &api_tool_pythonic_format;
  if ((behind = behind_last(from, name, "<|tool_call|>"))) {
    next = first_character(behind, name);
    return next == '[' || next == '{' ? &api_tool_granite_format : NULL;
  }
  if (behind_last(from, name, api_tool_nemotron_format.marks[0])) return &api_tool_nemotron_format;
  if ((behind = behind_last(from, name, "<tool_call>"))) return of_tool_call(behind, name, end);
  if (find(text, name, "functools[{")) return &api_tool_phi4_mini_format;
  const char *object = behind_last(from, name, "{\"name\": \"");
  const char *to = end - name > NEAR ? name + NEAR : end;
  return object == name && find(name, to, "\"parameters\": {") ? &api_tool_llama3_json_format : NULL;
}

/* A template that passes over calls: what its instructions say. */
static const struct api_tool_format *of_instructions(const char *text, const char *end) {
  static const struct { const char *words; const struct api_tool_format *format; } known[] = {
      {"<|tool_call>call:", &api_tool_gemma4_format},
      {"<|tool_call|>", &api_tool_granite_format},
      {"<TOOLCALL>", &api_tool_nemotron_format},
      {"functools[{", &api_tool_phi4_mini_format},
      {"<｜tool▁calls▁begin｜>", &api_tool_deepseek_v3_format},
      {"[func_name1(params_name1=", &api_tool_pythonic_format},
      {"请使用 Json 格式表示调用的参数", &api_tool_glm4_format}}; /* GLM-4: "write the arguments as JSON" */
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (find(text, end, known[i].words)) return known[i].format;
  if (find(text, end, "<seed:tool_call>\n<function=")) return &api_tool_seed_oss_format;
  if (find(text, end, "<tool_call>\n<function=")) return &api_tool_qwen3_coder_format;
  const char *behind = behind_last(text, end, "<tool_call>");
  return behind && first_character(behind, end) == '{' ? &api_tool_hermes_format : NULL;
}

const struct api_tool_format *api_tool_format_of(const struct tl_chat_format *chat) {
  const struct tl_chat_template *tmpl = chat ? tl_chat_format_pick(chat, NULL, true) : NULL;
  struct tl_rendered rendered;
  if (!tmpl || render(tmpl, &rendered) < 0) return NULL;
  const char *text = tl_buffer_bytes(&rendered.text), *end = text + rendered.text.length;
  const char *name = find(text, end, PROBE);
  const struct api_tool_format *format = name ? of_call(text, name, end) : of_instructions(text, end);
  tl_rendered_done(&rendered);
  return format;
}

/* --- of a model ----------------------------------------------------------------------------------- */

static const struct api_tool_format *format_named(const char *name) {
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
    if (strcmp(formats[i]->name, name) == 0) return formats[i];
  return NULL; /* none */
}

void api_tools_init(struct api_tools *tools, const char *name, const struct tl_chat_format *chat,
                    const struct tl_tokenizer *tokenizer) {
  *tools = (struct api_tools){.format = strcmp(name, "auto") == 0 ? api_tool_format_of(chat) : format_named(name)};
  for (unsigned i = 0; tools->format && i < tools->format->n_marks; i++) {
    int32_t id = tl_tokenizer_find(tokenizer, tools->format->marks[i]);
    if (id >= 0 && tl_tokenizer_is_special(tokenizer, id)) tools->marks[tools->n_marks++] = id;
  }
}

void api_tool_call_id(const struct api_tool_format *format, uint64_t number, char ret[24]) {
  static const char characters[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  if (!format || !format->short_ids) {
    snprintf(ret, 24, "call_%016llx", (unsigned long long)number);
    return;
  }
  for (unsigned i = 0; i < 9; i++, number /= 62) ret[i] = characters[number % 62];
  ret[9] = 0;
}
