/* SPDX-License-Identifier: MIT */
/* The input of /v1/responses as chat's messages. What the model said in one turn is several items here, reasoning, message and
 * calls, and one message there; instructions and what the system says at the beginning are one message, since many templates
 * take no second. */
#include <stdio.h>
#include <string.h>

#include "api/responses.h"

struct conversation {
  json_t *messages; /* so far; owned */
  json_t *turn;     /* the assistant's message that further items belong to; borrowed from messages */
  bool spoken;      /* it has content or calls, and not only thoughts */
  size_t budget;    /* as in api_body_read_inner */
  struct tl_error *err;
};

static int no_memory(struct conversation *c) {
  return tl_error_set(c->err, TL_ENOMEM, NULL, "out of memory");
}

/* What is wrong with input[i].member. */
static int wrong(struct conversation *c, size_t i, const char *member, const char *expected, const json_t *value) {
  char name[64];
  snprintf(name, sizeof name, "input[%zu].%s", i, member);
  return api_wrong(c->err, name, expected, value);
}

static const char *type_of(const json_t *object) {
  const char *type = json_string_value(json_object_get(object, "type"));
  return type ? type : "";
}

/* --- texts ---------------------------------------------------------------------------------------- */

/* Turns parts into chat's, in place. */
static int check_parts(struct conversation *c, size_t i, const char *member, json_t *parts) {
  static const char *const types[] = {"input_text", "output_text", "text"};
  size_t k;
  json_t *part;
  json_array_foreach(parts, k, part) {
    char name[64];
    unsigned t = 0;
    const char *type = type_of(part);
    json_t *text = json_object_get(part, "text");
    while (t < 3 && strcmp(type, types[t]) != 0) t++;
    snprintf(name, sizeof name, "input[%zu].%s[%zu]", i, member, k);
    if (t == 3 && *type)
      return tl_error_set(c->err, TL_EINVAL, name, "%s: expected a text; parts of the type \"%.40s\" are not supported", name, type);
    if (t == 3 || !json_is_string(text))
      return api_wrong(c->err, name, "{\"type\": \"input_text\" or \"output_text\", \"text\": a string}", part);
    json_t *plain = json_pack("{s:s,s:O}", "type", "text", "text", text);
    if (!plain || json_array_set_new(parts, k, plain) < 0) return no_memory(c);
  }
  return TL_OK;
}

/* A member that is a string or a list of texts. */
static int check_text(struct conversation *c, size_t i, const char *member, json_t *value) {
  if (json_is_string(value)) return TL_OK;
  if (!json_is_array(value)) return wrong(c, i, member, "a string or a list of texts", value);
  return check_parts(c, i, member, value);
}

/* Texts that check_text has seen, into out. */
static void append_text(const json_t *value, struct tl_buffer *out) {
  size_t k;
  json_t *part;
  if (json_is_string(value)) tl_buffer_append(out, json_string_value(value), json_string_length(value));
  json_array_foreach(value, k, part) {
    json_t *text = json_object_get(part, "text");
    if (k) tl_buffer_putc(out, '\n'); /* as chat joins parts */
    tl_buffer_append(out, json_string_value(text), json_string_length(text));
  }
}

/* --- messages ---------------------------------------------------------------------------------------- */

static int add(struct conversation *c, json_t *message) {
  return message && json_array_append_new(c->messages, message) == 0 ? TL_OK : no_memory(c);
}

/* The assistant's message that what comes next belongs to; a new one ends what went before. */
static json_t *turn(struct conversation *c, bool begins) {
  if (c->turn && !begins) return c->turn;
  if (add(c, json_pack("{s:s,s:s}", "role", "assistant", "content", "")) < 0) return NULL;
  c->spoken = false;
  return c->turn = json_array_get(c->messages, json_array_size(c->messages) - 1);
}

/* What has no type is a message. */
static bool is_message(const json_t *item) {
  const char *type = type_of(item);
  return !*type || strcmp(type, "message") == 0;
}

static bool is_of_system(const json_t *item) {
  const char *role = json_string_value(json_object_get(item, "role"));
  return role && is_message(item) && (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0);
}

/* What was said behind calls, before they are answered, belongs to the message that has them: few templates know two in a row. */
static int go_on(struct conversation *c, const json_t *content) {
  struct tl_buffer text;
  tl_buffer_init(&text, 0);
  append_text(json_object_get(c->turn, "content"), &text);
  append_text(content, &text);
  int r = text.failed ? -1 : json_object_set_new(c->turn, "content", json_stringn(text.length ? text.data : "", text.length));
  tl_buffer_done(&text);
  return r == 0 ? TL_OK : no_memory(c);
}

static int read_message(struct conversation *c, size_t i, json_t *item) {
  static const char *const roles[] = {"user", "assistant", "system", "developer"};
  json_t *of_role = json_object_get(item, "role"), *content = json_object_get(item, "content");
  unsigned k = 0;
  while (k < 4 && (!json_is_string(of_role) || strcmp(json_string_value(of_role), roles[k]) != 0)) k++;
  if (k == 4) return wrong(c, i, "role", "user, assistant, system or developer", of_role);
  int r = check_text(c, i, "content", content);
  if (r < 0) return r;
  if (strcmp(roles[k], "assistant") == 0) {
    if (c->turn && json_object_get(c->turn, "tool_calls")) return go_on(c, content);
    json_t *message = turn(c, c->spoken);
    c->spoken = true;
    return message && json_object_set(message, "content", content) == 0 ? TL_OK : no_memory(c);
  }
  c->turn = NULL;
  /* few templates know developers */
  return add(c, json_pack("{s:s,s:O}", "role", k == 0 ? "user" : "system", "content", content));
}

static int read_call(struct conversation *c, size_t i, json_t *item) {
  json_t *id = json_object_get(item, "call_id"), *name = json_object_get(item, "name"), *text = json_object_get(item, "arguments");
  if (!json_is_string(id) || !json_string_length(id)) return wrong(c, i, "call_id", "a string that is not empty", id);
  if (!json_is_string(name) || !json_string_length(name)) return wrong(c, i, "name", "a string that is not empty", name);
  if (!json_is_string(text)) return wrong(c, i, "arguments", "a string", text);
  json_t *arguments = json_string_length(text) ? api_body_read_inner(text, &c->budget) : json_object();
  if (!arguments) {
    char field[64];
    snprintf(field, sizeof field, "input[%zu].arguments", i);
    return tl_error_set(c->err, TL_EINVAL, field, "%s: expected an object as a string of JSON", field);
  }
  json_t *call = json_pack("{s:O,s:s,s:{s:O,s:o}}", "id", id, "type", "function", "function", "name", name, "arguments", arguments);
  json_t *message = call ? turn(c, false) : NULL;
  int r = message ? 0 : -1;
  if (message && !c->spoken) r = json_object_set_new(message, "content", json_null()); /* as chat's clients send calls alone */
  if (message && !json_object_get(message, "tool_calls")) r |= json_object_set_new(message, "tool_calls", json_array());
  c->spoken = true;
  if (r) {
    json_decref(call);
    return no_memory(c);
  }
  return json_array_append_new(json_object_get(message, "tool_calls"), call) == 0 ? TL_OK : no_memory(c);
}

static int read_output(struct conversation *c, size_t i, json_t *item) {
  json_t *id = json_object_get(item, "call_id"), *output = json_object_get(item, "output");
  if (!json_is_string(id) || !json_string_length(id)) return wrong(c, i, "call_id", "a string that is not empty", id);
  int r = check_text(c, i, "output", output);
  if (r < 0) return r;
  c->turn = NULL;
  return add(c, json_pack("{s:s,s:O,s:O}", "role", "tool", "tool_call_id", id, "content", output));
}

/* The texts of a list whose items have one each, such as {"type": "reasoning_text", "text": ...}. */
static int append_thoughts(struct conversation *c, size_t i, const char *member, const json_t *list, struct tl_buffer *out) {
  size_t k;
  json_t *part;
  if (list && !json_is_null(list) && !json_is_array(list)) return wrong(c, i, member, "a list of texts", list);
  json_array_foreach(list, k, part) {
    json_t *text = json_object_get(part, "text");
    if (!json_is_string(text)) return wrong(c, i, member, "a list of texts", list);
    if (k) tl_buffer_putc(out, '\n');
    tl_buffer_append(out, json_string_value(text), json_string_length(text));
  }
  return TL_OK;
}

/* What the model thought, or the summary that some clients keep of it. What only OpenAI can read says nothing to anybody else. */
static int read_reasoning(struct conversation *c, size_t i, json_t *item) {
  struct tl_buffer text;
  tl_buffer_init(&text, 0);
  int r = append_thoughts(c, i, "content", json_object_get(item, "content"), &text);
  if (r == TL_OK && !text.length) r = append_thoughts(c, i, "summary", json_object_get(item, "summary"), &text);
  if (r == TL_OK && text.length) {
    json_t *message = turn(c, true);
    if (!message || json_object_set_new(message, "reasoning_content", json_stringn(text.data, text.length)) < 0) r = no_memory(c);
  }
  if (r == TL_OK && text.failed) r = no_memory(c);
  tl_buffer_done(&text);
  return r;
}

static int read_item(struct conversation *c, size_t i, json_t *item) {
  static const struct {
    const char *type;
    int (*read)(struct conversation *c, size_t i, json_t *item);
  } readers[] = {{"", read_message}, {"message", read_message}, {"function_call", read_call}, {"function_call_output", read_output},
                 {"reasoning", read_reasoning}};
  char name[64];
  const char *type = type_of(item);
  snprintf(name, sizeof name, "input[%zu]", i);
  if (!json_is_object(item)) return api_wrong(c->err, name, "an object", item);
  for (size_t k = 0; k < sizeof readers / sizeof *readers; k++)
    if (strcmp(readers[k].type, type) == 0) return readers[k].read(c, i, item);
  if (strcmp(type, "item_reference") == 0)
    return tl_error_set(c->err, TL_EINVAL, name, "%s: this server stores no items to refer to; send the item itself", name);
  snprintf(name, sizeof name, "input[%zu].type", i);
  return tl_error_set(c->err, TL_EINVAL, name, "%s: expected message, function_call, function_call_output or reasoning; \"%.40s\" is not supported",
                      name, type);
}

/* --- all of it -------------------------------------------------------------------------------------- */

/* Instructions and the items before any other that the system says, as one message; *ret_n: so many items. */
static int read_head(struct conversation *c, const json_t *instructions, json_t *input, size_t *ret_n) {
  struct tl_buffer text;
  tl_buffer_init(&text, 0);
  bool any = instructions && json_string_length(instructions);
  int r = TL_OK;
  if (any) append_text(instructions, &text);
  for (*ret_n = 0; r == TL_OK && is_of_system(json_array_get(input, *ret_n)); any = true) {
    json_t *content = json_object_get(json_array_get(input, *ret_n), "content");
    r = check_text(c, *ret_n, "content", content);
    if (any) tl_buffer_puts(&text, "\n\n");
    if (r == TL_OK) append_text(content, &text);
    ++*ret_n;
  }
  if (r == TL_OK && any)
    r = add(c, text.failed ? NULL : json_pack("{s:s,s:o}", "role", "system", "content", json_stringn(text.length ? text.data : "", text.length)));
  tl_buffer_done(&text);
  return r;
}

/* Whether the last item is an answer that was cut, which the model goes on with then. */
static bool goes_on(const json_t *input) {
  size_t n = json_array_size(input);
  const json_t *item = n ? json_array_get(input, n - 1) : NULL;
  const char *status = json_string_value(json_object_get(item, "status")), *role = json_string_value(json_object_get(item, "role"));
  if (!status || !role || !is_message(item) || strcmp(role, "assistant") != 0) return false;
  return strcmp(status, "incomplete") == 0 || strcmp(status, "in_progress") == 0;
}

int api_responses_messages(struct api_params *params, json_t **ret, struct tl_error *err) {
  struct conversation c = {.messages = json_array(), .budget = API_MAX_NODES, .err = err};
  json_t *input = params->input;
  size_t i = 0;
  int r = c.messages ? read_head(&c, params->instructions, input, &i) : no_memory(&c);
  if (r == TL_OK && json_is_string(input)) r = add(&c, json_pack("{s:s,s:O}", "role", "user", "content", input));
  for (; r == TL_OK && i < json_array_size(input); i++) r = read_item(&c, i, json_array_get(input, i));
  if (r == TL_OK && json_array_size(c.messages) == 0)
    r = tl_error_set(err, TL_EINVAL, "input", "input: expected at least one item that says something");
  if (r == TL_OK && goes_on(input)) {
    params->continue_final_message = true;
    params->add_generation_prompt = false;
  }
  if (r == TL_OK) *ret = c.messages;
  else json_decref(c.messages);
  return r;
}
