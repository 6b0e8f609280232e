/* SPDX-License-Identifier: MIT */
/* The fields of /v1/responses that no other endpoint has, and how its answers repeat them. */
#include "api/responses.h"

#include <stdio.h>
#include <string.h>

#define MEMBER_BYTES 131072 /* of what an answer repeats */

struct reader {
  const char *name;
  int (*read)(struct api_params *p, const char *field, json_t *value, struct tl_error *err);
};

static bool is_text(const json_t *value, const char *text) {
  return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

/* --- fields -------------------------------------------------------------------------------------- */

static int read_input(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  if (!json_is_string(value) && !json_array_size(value)) return api_wrong(err, field, "a string or a list of at least one item", value);
  p->input = value;
  return TL_OK;
}

static int read_instructions(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  p->instructions = value;
  return json_is_string(value) ? TL_OK : api_wrong(err, field, "a string", value);
}

/* {"type": "function", "name": ...} into {"type": "function", "function": {"name": ...}}: templates know that. */
static int wrap_tool(json_t *tool, size_t i, struct tl_error *err) {
  char name[48];
  const char *key, *type = json_string_value(json_object_get(tool, "type"));
  json_t *called = json_object_get(tool, "name"), *function, *value;
  snprintf(name, sizeof name, "tools[%zu].type", i);
  if (type && strcmp(type, "function") != 0)
    return tl_error_set(err, TL_EINVAL, name, "%s: expected \"function\"; this server has no tool \"%.40s\"", name, type);
  if (!type) return api_wrong(err, name, "\"function\"", json_object_get(tool, "type"));
  snprintf(name, sizeof name, "tools[%zu].name", i);
  if (!json_is_string(called) || !json_string_length(called)) return api_wrong(err, name, "a string that is not empty", called);
  int r = (function = json_object()) ? 0 : -1;
  json_object_foreach(tool, key, value)
    if (strcmp(key, "type") != 0) r |= json_object_set(function, key, value);
  json_object_clear(tool);
  r |= json_object_set_new(tool, "type", json_string("function"));
  r |= json_object_set_new(tool, "function", function);
  return r ? tl_error_set(err, TL_ENOMEM, NULL, "out of memory") : TL_OK;
}

static int read_tools(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  size_t i;
  json_t *tool;
  if (!json_is_array(value)) return api_wrong(err, field, "a list of tools", value);
  json_array_foreach(value, i, tool) {
    int r = wrap_tool(tool, i, err);
    if (r < 0) return r;
  }
  if (i) p->tools = value;
  return TL_OK;
}

/* Only log-probabilities change an answer. The other things that OpenAI can include never occur in answers of this server, so it does
 * no harm to ask for them. */
static int read_include(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  static const char *const others[] = {"reasoning.encrypted_content", "file_search_call.results", "web_search_call.results",
                                       "web_search_call.action.sources", "message.input_image.image_url",
                                       "computer_call_output.output.image_url", "code_interpreter_call.outputs"};
  size_t i;
  json_t *what;
  if (!json_is_array(value)) return api_wrong(err, field, "a list of strings", value);
  json_array_foreach(value, i, what) {
    char name[32];
    size_t k = 0, n = sizeof others / sizeof *others;
    while (k < n && !is_text(what, others[k])) k++;
    if (is_text(what, "message.output_text.logprobs")) p->n_top_logprobs = 0;
    else if (k == n) {
      snprintf(name, sizeof name, "include[%zu]", i);
      return api_wrong(err, name, "\"message.output_text.logprobs\" or another name of OpenAI's", what);
    }
  }
  return TL_OK;
}

static int read_metadata(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  (void)p;
  const char *key;
  json_t *member;
  bool fine = json_is_object(value);
  json_object_foreach(value, key, member) fine = fine && json_is_string(member);
  return fine ? TL_OK : api_wrong(err, field, "an object of strings", value);
}

/* Nothing is cut in either case: "auto" would let the server do so, and the answer says that it did not. */
static int read_truncation(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  (void)p;
  return is_text(value, "auto") || is_text(value, "disabled") ? TL_OK : api_wrong(err, field, "auto or disabled", value);
}

/* No summary is made, whatever is asked for: what the model thought is there as it is. */
static int read_reasoning(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  static const char *const summaries[] = {"summary", "generate_summary"};
  const char *name;
  json_t *member, *effort = json_object_get(value, "effort");
  if (!json_is_object(value)) return api_wrong(err, field, "an object", value);
  json_object_foreach(value, name, member)
    if (!json_is_null(member) && member != effort && strcmp(name, summaries[0]) != 0 && strcmp(name, summaries[1]) != 0)
      return tl_error_set(err, TL_EINVAL, field, "%s: has no member \"%.40s\" that this server knows", field, name);
  return effort && !json_is_null(effort) ? api_reasoning_effort(p, "reasoning.effort", effort, err) : TL_OK;
}

static int read_previous(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  (void)p;
  (void)value;
  return tl_error_set(err, TL_EINVAL, field, "%s: this server stores no answers; send the items of the conversation as input", field);
}

int api_responses_read(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  static const struct reader readers[] = {{"input", read_input},           {"instructions", read_instructions},
                                          {"tools", read_tools},           {"include", read_include},
                                          {"metadata", read_metadata},     {"truncation", read_truncation},
                                          {"reasoning", read_reasoning},   {"previous_response_id", read_previous}};
  const struct reader *reader = readers;
  while (strcmp(reader->name, field) != 0) reader++;
  return reader->read(p, reader->name, value, err);
}

/* --- the answer's members ---------------------------------------------------------------------------- */

/* The JSON of a member, or what stands for it when it is too long to be sent back with every answer, and thrice with a stream. */
static int echo(struct tl_buffer *member, const char *otherwise, struct tl_buffer *out) {
  if (member->failed) tl_buffer_puts(out, otherwise);
  else tl_buffer_append(out, member->data, member->length);
  tl_buffer_done(member);
  return out->failed ? TL_ENOMEM : TL_OK;
}

/* As the client sent it, with what it may have left out. */
static int echo_tool(const json_t *tool, struct tl_buffer *out) {
  static const char *const always[] = {"parameters", "strict"};
  json_t *flat = json_copy(json_object_get(tool, "function"));
  int r = json_object_set_new(flat, "type", json_string("function"));
  for (size_t i = 0; i < 2; i++)
    if (!json_object_get(flat, always[i])) r |= json_object_set_new(flat, always[i], json_null());
  if (r == 0) api_json_value(out, flat, JSON_ENSURE_ASCII);
  json_decref(flat);
  return r ? TL_ENOMEM : TL_OK;
}

static int echo_tools(const json_t *tools, struct tl_buffer *out) {
  size_t i;
  json_t *tool;
  struct tl_buffer member;
  int r = TL_OK;
  tl_buffer_init(&member, MEMBER_BYTES);
  tl_buffer_putc(&member, '[');
  json_array_foreach(tools, i, tool) {
    if (i) tl_buffer_putc(&member, ',');
    if (r == TL_OK && !member.failed) r = echo_tool(tool, &member);
  }
  tl_buffer_putc(&member, ']');
  return echo(&member, "[]", out) < 0 ? TL_ENOMEM : r;
}

int api_responses_echo(const json_t *body, struct tl_buffer *out) {
  static const struct {
    const char *name, *otherwise;
  } members[] = {{"instructions", "null"},     {"max_output_tokens", "null"}, {"max_tool_calls", "null"}, {"metadata", "{}"},
                 {"parallel_tool_calls", "true"}, {"prompt_cache_key", "null"}, {"reasoning", "{\"effort\":null,\"summary\":null}"},
                 {"safety_identifier", "null"}, {"text", "{\"format\":{\"type\":\"text\"}}"}, {"tool_choice", "\"auto\""},
                 {"top_logprobs", "0"},        {"user", "null"}};
  int r = TL_OK;
  for (size_t i = 0; r == TL_OK && i < sizeof members / sizeof *members; i++) {
    struct tl_buffer member;
    json_t *value = json_object_get(body, members[i].name);
    tl_buffer_init(&member, MEMBER_BYTES);
    if (value && !json_is_null(value)) api_json_value(&member, value, JSON_ENSURE_ASCII);
    else tl_buffer_puts(&member, members[i].otherwise);
    tl_buffer_printf(out, ",\"%s\":", members[i].name);
    r = echo(&member, members[i].otherwise, out);
  }
  tl_buffer_puts(out, ",\"tools\":");
  if (r == TL_OK) r = echo_tools(json_object_get(body, "tools"), out);
  /* what this server does with every answer */
  tl_buffer_puts(out, ",\"background\":false,\"previous_response_id\":null,\"service_tier\":\"default\",\"store\":false,"
                      "\"truncation\":\"disabled\"");
  return r < 0 || out->failed ? TL_ENOMEM : TL_OK;
}
