/* SPDX-License-Identifier: MIT */
/* Anthropic's fields of a request become a chat's, which the model's template knows: blocks of text are parts,
 * tool_use blocks a message's tool_calls, thinking its reasoning_content, and each tool_result is a message of its own. The
 * body's own values are used again, in its own lists, so nothing is copied and the body owns all. Blocks and tools of
 * other kinds are refused by name; cache_control and the like within blocks change nothing and are passed over. */
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"

#define FIELD_BYTES 96 /* messages[N].content[N].content[N].text */

static int no_memory(struct tl_error *err) {
  return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}

static bool is_absent(const json_t *value) {
  return !value || json_is_null(value);
}

static bool is_text(const json_t *value) {
  return json_is_string(value) && json_string_length(value);
}

/* FIELD.NAME, into ret[FIELD_BYTES]. */
static const char *member(const char *field, const char *name, char *ret) {
  snprintf(ret, FIELD_BYTES, "%.70s.%.20s", field, name);
  return ret;
}

static const char *type_of(const json_t *block) {
  const char *type = json_string_value(json_object_get(block, "type"));
  return type ? type : "";
}

/* A block of a kind that cannot stand here; known: those that can. */
static int refuse_block(const char *field, const json_t *block, const char *known, struct tl_error *err) {
  char name[FIELD_BYTES];
  if (!json_is_object(block)) return api_wrong(err, field, "an object", block);
  if (!*type_of(block)) return api_wrong(err, member(field, "type", name), known, json_object_get(block, "type"));
  return tl_error_set(err, TL_EINVAL, field, "%s: expected %s; %.40s is not supported", field, known, type_of(block));
}

/* A string of a block that must be there. */
static int need_text(const char *field, const json_t *block, const char *name, bool may_be_empty, struct tl_error *err) {
  char path[FIELD_BYTES];
  json_t *value = json_object_get(block, name);
  if (may_be_empty ? json_is_string(value) : is_text(value)) return TL_OK;
  return api_wrong(err, member(field, name, path), may_be_empty ? "a string" : "a string that is not empty", value);
}

static int add_part(json_t *parts, json_t *text, struct tl_error *err) {
  return json_array_append_new(parts, json_pack("{s:s,s:O}", "type", "text", "text", text)) < 0 ? no_memory(err) : TL_OK;
}

static int add_text_block(json_t *parts, const char *field, json_t *block, struct tl_error *err) {
  int r = need_text(field, block, "text", true, err);
  return r < 0 ? r : add_part(parts, json_object_get(block, "text"), err);
}

/* Of text alone: a string, or blocks. */
static int add_texts(json_t *parts, const char *field, json_t *content, struct tl_error *err) {
  size_t i;
  json_t *block;
  if (json_is_string(content)) return add_part(parts, content, err);
  if (!json_is_array(content)) return api_wrong(err, field, "a string or a list of blocks", content);
  json_array_foreach(content, i, block) {
    char name[FIELD_BYTES];
    snprintf(name, sizeof name, "%.64s[%zu]", field, i);
    if (strcmp(type_of(block), "text") != 0) return refuse_block(name, block, "a text block", err);
    int r = add_text_block(parts, name, block, err);
    if (r < 0) return r;
  }
  return TL_OK;
}

/* Takes the parts: one is a string, which every template reads. */
static json_t *content_of(json_t *parts) {
  if (json_array_size(parts) > 1) return parts;
  json_t *text = json_array_size(parts) ? json_incref(json_object_get(json_array_get(parts, 0), "text")) : json_string("");
  json_decref(parts);
  return text;
}

/* Adds a message of the role; takes the parts. */
static int add_message(json_t *list, const char *role, json_t *parts, struct tl_error *err) {
  json_t *content = content_of(parts);
  if (!content) return no_memory(err);
  return json_array_append_new(list, json_pack("{s:s,s:o}", "role", role, "content", content)) < 0 ? no_memory(err) : TL_OK;
}

/* --- messages ---------------------------------------------------------------------------------------- */

/* Messages of one role in a row are one turn, which is a message of the chat's once it is over. */
struct turn {
  json_t *list;          /* of the chat's messages before it; borrowed */
  bool open, assistant;
  json_t *parts, *calls; /* texts; an assistant's calls */
  struct tl_buffer thinking;
};

static void new_turn(struct turn *turn, bool assistant) {
  turn->assistant = assistant;
  turn->open = false;
  turn->parts = json_array();
  turn->calls = json_array();
  tl_buffer_init(&turn->thinking, 0);
}

static void drop_turn(struct turn *turn) {
  json_decref(turn->parts);
  json_decref(turn->calls);
  tl_buffer_done(&turn->thinking);
}

static int add_said(struct turn *turn, struct tl_error *err) {
  bool calls = json_array_size(turn->calls), silent = !json_array_size(turn->parts) && (calls || turn->thinking.length);
  json_t *content = silent ? json_null() : content_of(json_incref(turn->parts));
  json_t *message = json_pack("{s:s,s:o}", "role", "assistant", "content", content);
  int failed = message ? 0 : -1;
  if (calls) failed |= json_object_set(message, "tool_calls", turn->calls);
  if (turn->thinking.length)
    failed |= json_object_set_new(message, "reasoning_content", json_stringn(turn->thinking.data, turn->thinking.length));
  failed |= json_array_append_new(turn->list, message);
  return failed ? no_memory(err) : TL_OK;
}

/* The next message is of the assistant or not. */
static int end_turn(struct turn *turn, bool assistant, struct tl_error *err) {
  int r = TL_OK;
  if (turn->open && turn->assistant) r = add_said(turn, err);
  if (turn->open && !turn->assistant) r = add_message(turn->list, "user", json_incref(turn->parts), err);
  drop_turn(turn);
  new_turn(turn, assistant);
  return r;
}

static int add_result(json_t *list, const char *field, json_t *block, struct tl_error *err) {
  char name[FIELD_BYTES];
  json_t *content = json_object_get(block, "content"), *failed = json_object_get(block, "is_error");
  int r = need_text(field, block, "tool_use_id", false, err);
  if (r == TL_OK && !is_absent(failed) && !json_is_boolean(failed)) /* templates know no such thing; what failed says the content */
    r = api_wrong(err, member(field, "is_error", name), "true or false", failed);
  if (r < 0) return r;
  json_t *parts = json_array();
  if (!is_absent(content)) r = add_texts(parts, member(field, "content", name), content, err);
  if (r == TL_OK) r = add_message(list, "tool", json_incref(parts), err);
  if (r == TL_OK && json_object_set(json_array_get(list, json_array_size(list) - 1), "tool_call_id", json_object_get(block, "tool_use_id")) < 0)
    r = no_memory(err);
  json_decref(parts);
  return r;
}

/* Results are messages of their own, in the order in which text and they stand. */
static int take_users(struct turn *turn, const char *field, json_t *block, struct tl_error *err) {
  const char *type = type_of(block);
  if (strcmp(type, "text") == 0) {
    turn->open = true;
    return add_text_block(turn->parts, field, block, err);
  }
  if (strcmp(type, "tool_result") != 0) return refuse_block(field, block, "a text or tool_result block", err);
  int r = end_turn(turn, false, err);
  return r < 0 ? r : add_result(turn->list, field, block, err);
}

static int add_call(json_t *calls, const char *field, json_t *block, struct tl_error *err) {
  char name[FIELD_BYTES];
  json_t *input = json_object_get(block, "input");
  int r = need_text(field, block, "id", false, err);
  if (r == TL_OK) r = need_text(field, block, "name", false, err);
  if (r < 0) return r;
  if (!json_is_object(input)) return api_wrong(err, member(field, "input", name), "an object", input);
  json_t *call = json_pack("{s:O,s:s,s:{s:O,s:O}}", "id", json_object_get(block, "id"), "type", "function", "function", "name",
                           json_object_get(block, "name"), "arguments", input);
  return json_array_append_new(calls, call) < 0 ? no_memory(err) : TL_OK;
}

static int take_assistants(struct turn *turn, const char *field, json_t *block, struct tl_error *err) {
  const char *type = type_of(block);
  turn->open = true;
  if (strcmp(type, "text") == 0) return add_text_block(turn->parts, field, block, err);
  if (strcmp(type, "tool_use") == 0) return add_call(turn->calls, field, block, err);
  if (strcmp(type, "redacted_thinking") == 0) return TL_OK; /* nobody but who made it can read it */
  if (strcmp(type, "thinking") != 0) return refuse_block(field, block, "a text, thinking or tool_use block", err);
  int r = need_text(field, block, "thinking", true, err);
  json_t *thinking = json_object_get(block, "thinking");
  return r < 0 ? r : tl_buffer_append(&turn->thinking, json_string_value(thinking), json_string_length(thinking));
}

/* Those of the role system stand in front with the system field: most templates take none elsewhere. */
static int read_message(struct turn *turn, json_t *system, size_t i, json_t *message, struct tl_error *err) {
  char name[FIELD_BYTES], field[FIELD_BYTES];
  snprintf(name, sizeof name, "messages[%zu]", i);
  if (!json_is_object(message)) return api_wrong(err, name, "an object", message);
  json_t *content = json_object_get(message, "content"), *said = json_object_get(message, "role"), *block;
  const char *role = json_is_string(said) ? json_string_value(said) : "";
  bool assistant = strcmp(role, "assistant") == 0;
  member(name, "content", field);
  if (strcmp(role, "system") == 0) return add_texts(system, field, content, err);
  if (!assistant && strcmp(role, "user") != 0) return api_wrong(err, member(name, "role", field), "user, assistant or system", said);
  int r = assistant == turn->assistant ? TL_OK : end_turn(turn, assistant, err);
  if (r == TL_OK && json_is_string(content)) {
    turn->open = true;
    return add_part(turn->parts, content, err);
  }
  if (r == TL_OK && !json_array_size(content)) return api_wrong(err, field, "a string or a list of at least one block", content);
  json_array_foreach(content, i, block) {
    snprintf(name, sizeof name, "%.64s[%zu]", field, i);
    if (r == TL_OK) r = assistant ? take_assistants(turn, name, block, err) : take_users(turn, name, block, err);
  }
  return r;
}

/* Claude Code says here what it is, with a number that differs from request to request: no prefix would be found again. */
static bool is_billing(const json_t *part) {
  static const char mark[] = "x-anthropic-billing-header";
  const char *text = json_string_value(json_object_get(part, "text"));
  return text && strncmp(text, mark, sizeof mark - 1) == 0;
}

static int add_system(json_t *list, json_t *parts, struct tl_error *err) {
  size_t i;
  json_t *part, *kept = json_array();
  int failed = kept ? 0 : -1;
  json_array_foreach(parts, i, part)
    if (!is_billing(part)) failed |= json_array_append(kept, part);
  bool any = json_array_size(kept);
  json_t *content = content_of(kept);
  if (any) failed |= json_array_insert_new(list, 0, json_pack("{s:s,s:O}", "role", "system", "content", content));
  json_decref(content);
  return failed ? no_memory(err) : TL_OK;
}

/* An answer goes on with the last message if that is an assistant's text. */
static void settle_last(struct api_params *p) {
  json_t *last = json_array_get(p->messages, json_array_size(p->messages) - 1), *content = json_object_get(last, "content");
  p->continue_final_message = strcmp(json_string_value(json_object_get(last, "role")), "assistant") == 0 &&
                              (is_text(content) || json_is_array(content)) && !json_object_get(last, "tool_calls");
  p->add_generation_prompt = !p->continue_final_message;
}

/* Behind system in the table. */
static int read_messages(struct api_params *p, json_t *value, struct tl_error *err) {
  size_t i;
  json_t *message, *list = json_array(), *system = json_array();
  struct turn turn = {.list = list};
  new_turn(&turn, false);
  int r = list && system ? TL_OK : no_memory(err);
  if (r == TL_OK && p->system) r = add_texts(system, "system", p->system, err);
  json_array_foreach(value, i, message)
    if (r == TL_OK) r = read_message(&turn, system, i, message, err);
  if (r == TL_OK) r = end_turn(&turn, false, err);
  drop_turn(&turn);
  if (r == TL_OK && !json_array_size(list)) r = api_wrong(err, "messages", "a list of at least one message of user or assistant", value);
  if (r == TL_OK) r = add_system(list, system, err);
  if (r == TL_OK && (json_array_clear(value) < 0 || json_array_extend(value, list) < 0)) r = no_memory(err);
  json_decref(list);
  json_decref(system);
  if (r < 0) return r;
  p->messages = value;
  settle_last(p);
  return TL_OK;
}

static int read_system(struct api_params *p, json_t *value, struct tl_error *err) {
  p->system = value;
  return json_is_string(value) || json_is_array(value) ? TL_OK : api_wrong(err, "system", "a string or a list of text blocks", value);
}

/* --- tools --------------------------------------------------------------------------------------------- */

static int read_tool(json_t *tools, size_t i, json_t *tool, struct tl_error *err) {
  char field[FIELD_BYTES], name[FIELD_BYTES];
  snprintf(field, sizeof field, "tools[%zu]", i);
  if (!json_is_object(tool)) return api_wrong(err, field, "an object", tool);
  json_t *kind = json_object_get(tool, "type"), *description = json_object_get(tool, "description"), *schema = json_object_get(tool, "input_schema");
  if (!is_absent(kind) && strcmp(type_of(tool), "custom") != 0)
    return tl_error_set(err, TL_EINVAL, member(field, "type", name), "%s: expected custom; %.40s is not supported", name, type_of(tool));
  int r = need_text(field, tool, "name", false, err);
  if (r < 0) return r;
  if (!is_absent(description) && !json_is_string(description)) return api_wrong(err, member(field, "description", name), "a string", description);
  json_t *of = json_object_get(schema, "type");
  if (!json_is_object(schema) || (of && strcmp(type_of(schema), "object") != 0))
    return api_wrong(err, member(field, "input_schema", name), "the JSON schema of an object", schema);
  json_t *function = json_pack("{s:O}", "name", json_object_get(tool, "name"));
  int failed = is_absent(description) ? 0 : json_object_set(function, "description", description);
  failed |= json_object_set(function, "parameters", schema);
  failed |= json_array_set_new(tools, i, json_pack("{s:s,s:o}", "type", "function", "function", function));
  return failed ? no_memory(err) : TL_OK;
}

static int read_tools(struct api_params *p, json_t *value, struct tl_error *err) {
  size_t i;
  json_t *tool;
  if (!json_is_array(value)) return api_wrong(err, "tools", "a list of tools", value);
  json_array_foreach(value, i, tool) {
    int r = read_tool(value, i, tool, err);
    if (r < 0) return r;
  }
  if (i) p->tools = value;
  return TL_OK;
}

static int read_tool_choice(struct api_params *p, json_t *value, struct tl_error *err) {
  static const struct {
    const char *type;
    enum api_calls calls;
  } kinds[] = {{"auto", API_CALLS_AUTO}, {"any", API_CALLS_REQUIRED}, {"tool", API_CALLS_NAMED}, {"none", API_CALLS_OFF}};
  size_t i = 0;
  while (i < 4 && strcmp(kinds[i].type, type_of(value)) != 0) i++;
  if (i == 4) return api_wrong(err, "tool_choice.type", "auto, any, tool or none", json_object_get(value, "type"));
  p->calls = kinds[i].calls;
  json_t *name = json_object_get(value, "name"), *one = json_object_get(value, "disable_parallel_tool_use");
  if (!is_absent(one) && !json_is_boolean(one)) return api_wrong(err, "tool_choice.disable_parallel_tool_use", "true or false", one);
  p->parallel_tool_calls = !json_is_true(one);
  if (p->calls != API_CALLS_NAMED) return TL_OK;
  p->tool_name = json_string_value(name);
  p->tool_name_length = json_string_length(name);
  return is_text(name) ? TL_OK : api_wrong(err, "tool_choice.name", "a string that is not empty", name);
}

/* --- thinking ---------------------------------------------------------------------------------------------- */

/* A variable of the template, unless the client set it. `room`: a value of the body that has been read, which holds
 * variables from now on if the client sent none. */
static int set_variable(struct api_params *p, json_t *room, const char *name, json_t *value, struct tl_error *err) {
  if (!p->chat_template_kwargs) {
    json_object_clear(room);
    p->chat_template_kwargs = room;
  }
  if (!json_object_get(p->chat_template_kwargs, name)) return json_object_set_new(p->chat_template_kwargs, name, value) < 0 ? no_memory(err) : TL_OK;
  json_decref(value);
  return TL_OK;
}

/* Templates know whether, not how much. */
static int read_thinking(struct api_params *p, json_t *value, struct tl_error *err) {
  const char *type = type_of(value);
  bool on = strcmp(type, "enabled") == 0 || strcmp(type, "adaptive") == 0;
  json_t *budget = json_object_get(value, "budget_tokens");
  if (!on && strcmp(type, "disabled") != 0)
    return api_wrong(err, "thinking.type", "enabled, adaptive or disabled", json_object_get(value, "type"));
  if (!is_absent(budget) && (!json_is_integer(budget) || json_integer_value(budget) < 1))
    return api_wrong(err, "thinking.budget_tokens", "an integer from 1", budget);
  const char *display = json_string_value(json_object_get(value, "display"));
  p->include_reasoning = !display || strcmp(display, "omitted") != 0;
  if (!is_absent(json_object_get(value, "display")) && (!display || (p->include_reasoning && strcmp(display, "summarized") != 0)))
    return api_wrong(err, "thinking.display", "summarized or omitted", json_object_get(value, "display"));
  return set_variable(p, value, "enable_thinking", json_boolean(on), err);
}

static int read_effort(struct api_params *p, json_t *room, json_t *effort, struct tl_error *err) {
  static const char *const names[] = {"low", "medium", "high", "xhigh", "max"};
  size_t i = 0;
  while (i < 5 && !(json_is_string(effort) && strcmp(names[i], json_string_value(effort)) == 0)) i++;
  if (i == 5) return api_wrong(err, "output_config.effort", "low, medium, high, xhigh or max", effort);
  return set_variable(p, room, "reasoning_effort", json_string(names[i < 2 ? i : 2]), err); /* high is the most that templates know */
}

static int read_output_config(struct api_params *p, json_t *value, struct tl_error *err) {
  json_t *format = json_object_get(value, "format"), *effort = json_object_get(value, "effort");
  if (!json_is_object(value)) return api_wrong(err, "output_config", "an object", value);
  int r = TL_OK;
  if (!is_absent(format) && strcmp(type_of(format), "json_schema") != 0)
    return api_wrong(err, "output_config.format.type", "json_schema", json_object_get(format, "type"));
  if (!is_absent(format)) r = api_structured_schema(p, "output_config.format.schema", json_object_get(format, "schema"), err);
  return r == TL_OK && !is_absent(effort) ? read_effort(p, value, effort, err) : r;
}

int api_messages_read(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  static const struct {
    const char *name;
    int (*read)(struct api_params *p, json_t *value, struct tl_error *err);
  } readers[] = {{"system", read_system}, {"messages", read_messages}, {"tools", read_tools}, {"tool_choice", read_tool_choice},
                 {"thinking", read_thinking}, {"output_config", read_output_config}};
  size_t i = 0;
  while (strcmp(readers[i].name, field) != 0) i++;
  return readers[i].read(p, value, err);
}
