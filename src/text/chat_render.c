/* SPDX-License-Identifier: MIT */
/* A conversation through a chat template, with the variables that transformers gives it. */
#include <string.h>

#include "text/chat_private.h"
#include "text/tmpl_private.h"

/* --- what a template takes ------------------------------------------------------------------- */
/* A text that no template has by itself. */
#define PROBE "probe2f0e"

/* Several times what a template needs for a few messages. */
static const struct tl_template_limits probe_limits = {.fuel = 20000, .max_output_bytes = 1 << 20, .max_depth = 500};

/* Whether the template prints the text of a message with such a content, and not the part that it stands in. */
static bool prints_text(const struct tl_chat_template *t, json_t *content) {
  json_t *messages = json_array(), *message = json_object();
  json_object_set_new(message, "role", json_string("user"));
  json_object_set_new(message, "content", content);
  json_array_append_new(messages, message);
  struct tl_chat chat = {.messages = messages, .add_generation_prompt = true, .now_s = 1};
  struct tl_rendered rendered;
  struct tl_error ignored = {0};
  bool prints = tl_chat_render(t, &chat, &probe_limits, &rendered, &ignored) == TL_OK;
  const char *text = prints ? tl_buffer_string(&rendered.text) : "";
  prints = strstr(text, PROBE) && !strstr(text, "\"text\"") && !strstr(text, "'text'");
  tl_rendered_done(&rendered);
  json_decref(messages);
  return prints;
}

#define CONVERSATION(content, arguments) \
  "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", " content "\"tool_calls\": [{\"id\": \"abcdefghi\", " \
  "\"type\": \"function\", \"function\": {\"name\": \"" PROBE "\", \"arguments\": " arguments "}}]}], \"tools\": [{\"type\": \"function\", " \
  "\"function\": {\"name\": \"b\", \"description\": \"c\", \"parameters\": {\"type\": \"object\", \"properties\": {}}}}]}"

/* How far what the template makes of a call is from what is wanted: NO_CALL more if the call is missing, and one more for
 * each None, which is how Python prints null, but also a word that instructions have. FAILS: it makes nothing, or prints
 * an object as Python does. */
enum { NO_CALL = 1 << 24, FAILS = 1 << 25 };

static unsigned cost_of_call(const struct tl_chat_template *t, const char *conversation) {
  json_t *fields = json_loads(conversation, 0, NULL);
  struct tl_chat chat = {.messages = json_object_get(fields, "messages"), .tools = json_object_get(fields, "tools"), .now_s = 1};
  struct tl_rendered rendered;
  struct tl_error ignored = {0};
  unsigned cost = FAILS;
  if (tl_chat_render(t, &chat, &probe_limits, &rendered, &ignored) == TL_OK) {
    const char *text = tl_buffer_string(&rendered.text);
    cost = strstr(text, "{'key" PROBE "'") ? FAILS : strstr(text, PROBE) ? 0 : NO_CALL;
    for (const char *at = text; cost < FAILS && (at = strstr(at, "None")); at += 4) cost++;
  }
  tl_rendered_done(&rendered);
  json_decref(fields);
  return cost;
}

/* In which form it has to be given calls: the first of the best. It may stay as clients send it only where no content, null
 * and "" are the same to the template. */
static unsigned takes_of_calls(const struct tl_chat_template *t) {
#define OBJECT "{\"key" PROBE "\": \"d\"}"
#define CONVERSATIONS(arguments) \
  CONVERSATION("", arguments), CONVERSATION("\"content\": null, ", arguments), CONVERSATION("\"content\": \"\", ", arguments)
  enum { NONE, IS_NULL, EMPTY, TEXT_NONE, TEXT_NULL, TEXT_EMPTY, N };
  static const char *const conversations[N] = {CONVERSATIONS(OBJECT), CONVERSATIONS("\"{}\"")};
  static const struct { uint8_t first, last; unsigned takes; } forms[] = {
      {NONE, EMPTY, 0},
      {IS_NULL, IS_NULL, TL_CHAT_CALL_NULL},
      {EMPTY, EMPTY, TL_CHAT_CALL_EMPTY},
      {NONE, NONE, 0},
      {TEXT_NONE, TEXT_EMPTY, TL_CHAT_CALL_TEXT},
      {TEXT_NULL, TEXT_NULL, TL_CHAT_CALL_TEXT | TL_CHAT_CALL_NULL},
      {TEXT_EMPTY, TEXT_EMPTY, TL_CHAT_CALL_TEXT | TL_CHAT_CALL_EMPTY},
      {TEXT_NONE, TEXT_NONE, TL_CHAT_CALL_TEXT}};
  unsigned costs[N], least = FAILS, takes = 0;
  for (size_t i = 0; i < N; i++) costs[i] = cost_of_call(t, conversations[i]);
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    unsigned cost = 0;
    for (size_t k = forms[i].first; k <= forms[i].last; k++)
      if (costs[k] > cost) cost = costs[k];
    if (cost >= least) continue;
    least = cost;
    takes = forms[i].takes;
  }
  return takes;
}

unsigned chat_probe(const struct tl_chat_template *t) {
  json_t *parts = json_array(), *part = json_object();
  json_object_set_new(part, "type", json_string("text"));
  json_object_set_new(part, "text", json_string(PROBE));
  json_array_append_new(parts, part);
  bool text = prints_text(t, json_string(PROBE)), list = prints_text(t, parts);
  return (text || !list ? TL_CHAT_TEXT : 0) | (list ? TL_CHAT_PARTS : 0) |
         (tl_template_reads(t->tmpl, "tools") ? TL_CHAT_TOOLS : 0) |
         (tl_template_reads(t->tmpl, "documents") ? TL_CHAT_DOCUMENTS : 0) |
         (tl_template_reads(t->tmpl, "reasoning_effort") ? TL_CHAT_EFFORT : 0) |
         (tl_template_reads(t->tmpl, "enable_thinking") ? TL_CHAT_THINKING : 0) |
         (tl_chat_template_says(t, "message.thinking") ? TL_CHAT_THOUGHTS : 0) | takes_of_calls(t);
}

/* --- continue_final_message -------------------------------------------------------------------- */
/* transformers' way: the last text gets a tag, and the prompt ends where the tag is. It says the same
 * to templates that strip or measure contents. */
#define TAG "CONTINUE_FINAL_MESSAGE_TAG"

static json_t *tagged(const json_t *text) {
  struct tl_buffer b;
  tl_buffer_init(&b, 0);
  tl_buffer_append(&b, json_string_value(text), json_string_length(text));
  tl_buffer_puts(&b, TAG " ");
  json_t *result = b.failed ? NULL : json_stringn(b.data, b.length);
  tl_buffer_done(&b);
  return result;
}

/* The last part of a content that has a text; -1: none has. */
static int64_t last_text(json_t *content) {
  int64_t i = (int64_t)json_array_size(content) - 1;
  while (i >= 0 && !json_is_string(json_object_get(json_array_get(content, (size_t)i), "text"))) i--;
  return i;
}

/* A copy of the messages in which the last one's text has the tag behind it; *ret_text: without it, borrowed.
 * NULL: there is no such text. */
static json_t *tag_last(json_t *messages, json_t **ret_text) {
  json_t *copy = json_copy(messages), *last = json_copy(json_array_get(messages, json_array_size(messages) - 1));
  json_t *content = json_object_get(last, "content");
  *ret_text = content;
  if (json_is_array(content)) {
    int64_t at = last_text(content);
    json_t *part = json_copy(json_array_get(content, at < 0 ? 0 : (size_t)at));
    *ret_text = at < 0 ? NULL : json_object_get(part, "text");
    if (*ret_text) json_object_set_new(part, "text", tagged(*ret_text));
    content = json_copy(content);
    if (*ret_text) json_array_set_new(content, (size_t)at, part);
    else json_decref(part);
    json_object_set_new(last, "content", content);
  } else if (json_is_string(content)) {
    json_object_set_new(last, "content", tagged(content));
  } else {
    *ret_text = NULL;
  }
  json_array_set_new(copy, json_array_size(copy) - 1, last);
  if (*ret_text) return copy;
  json_decref(copy);
  return NULL;
}

/* Where text[0, length) ends without the white space at its end. */
static size_t strip_end(const char *text, size_t length) {
  while (length > 0) {
    size_t start = length - 1, n;
    while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80) start--;
    if (!tmpl_is_space(tmpl_char(text + start, length - start, &n))) break;
    length = start;
  }
  return length;
}

static size_t strip_start(const char *text, size_t length) {
  size_t at = 0, n;
  while (at < length && tmpl_is_space(tmpl_char(text + at, length - at, &n))) at += n;
  return at;
}

static const char *find_last(const char *text, size_t length, const char *what) {
  const char *found = NULL, *end = text + length, *next;
  for (const char *at = text; (next = memmem(at, (size_t)(end - at), what, strlen(what))); at = next + 1) found = next;
  return found;
}

/* The text ends before the tag; what came after is gone, with its runs. */
static int cut_at_tag(struct tl_rendered *rendered, const json_t *text, struct tl_error *err) {
  const char *all = rendered->text.data, *content = json_string_value(text);
  size_t length = rendered->text.length, from = strip_start(content, json_string_length(text));
  size_t to = strip_end(content, json_string_length(text));
  const char *tag = all ? find_last(all, length, TAG) : NULL;
  if (!tag || (to > from && !memmem(all, length, content + from, to - from)))
    return tl_error_set(err, TL_EINVAL, "continue_final_message",
                        "continue_final_message: the chat template does not print the last message as it is");
  size_t end = (size_t)(tag - all);
  bool keeps_space = end + strlen(TAG) < length && tag[strlen(TAG)] == ' ';
  rendered->text.length = end = keeps_space ? end : strip_end(all, end);
  while (rendered->n_untrusted && rendered->untrusted[rendered->n_untrusted - 1].start >= end) rendered->n_untrusted--;
  if (rendered->n_untrusted && rendered->untrusted[rendered->n_untrusted - 1].end > end)
    rendered->untrusted[rendered->n_untrusted - 1].end = end;
  return TL_OK;
}

/* --- variables ------------------------------------------------------------------------------- */
static bool is_field(const char *name) {
  static const char *const fields[] = {"messages", "tools", "documents", "add_generation_prompt",
                                       "continue_final_message", "chat_template"};
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
    if (strcmp(name, fields[i]) == 0) return true;
  return false;
}

/* Special tokens and what the server says; what is not given is None, as in transformers. */
static json_t *trusted_variables(const struct tl_chat_template *t, const struct tl_chat *chat) {
  json_t *v = json_copy(t->tokens);
  const char *key;
  json_t *value;
  json_object_foreach(chat->kwargs, key, value) {
    json_object_del(v, key);
  }
  json_object_set_new(v, "add_generation_prompt", json_boolean(chat->add_generation_prompt));
  if (!chat->tools) json_object_set_new(v, "tools", json_null());
  if (!chat->documents) json_object_set_new(v, "documents", json_null());
  return v;
}

static json_t *untrusted_variables(const struct tl_chat *chat, json_t *messages) {
  json_t *v = chat->kwargs ? json_copy(chat->kwargs) : json_object();
  json_object_set(v, "messages", messages);
  if (chat->tools) json_object_set(v, "tools", chat->tools);
  if (chat->documents) json_object_set(v, "documents", chat->documents);
  return v;
}

static int check(const struct tl_chat *chat, struct tl_error *err) {
  const char *key;
  json_t *value;
  json_object_foreach(chat->kwargs, key, value)
    if (is_field(key))
      return tl_error_set(err, TL_EINVAL, "chat_template_kwargs", "chat_template_kwargs.%s: is a field of its own", key);
  if (chat->continue_final_message && chat->add_generation_prompt)
    return tl_error_set(err, TL_EINVAL, "continue_final_message",
                        "continue_final_message: expected add_generation_prompt to be false with it");
  return TL_OK;
}

int tl_chat_render(const struct tl_chat_template *t, const struct tl_chat *chat,
                   const struct tl_template_limits *limits, struct tl_rendered *ret, struct tl_error *err) {
  json_t *messages = chat->messages, *tagged_messages = NULL, *last = NULL;
  *ret = (struct tl_rendered){0};
  int r = check(chat, err);
  if (r < 0) return r;
  if (chat->continue_final_message) {
    messages = tagged_messages = tag_last(messages, &last);
    if (!messages)
      return tl_error_set(err, TL_EINVAL, "continue_final_message",
                          "continue_final_message: the last message has no text to continue");
  }
  json_t *trusted = trusted_variables(t, chat), *untrusted = untrusted_variables(chat, messages);
  r = tl_template_render(t->tmpl, trusted, untrusted, limits, chat->now_s, ret, err);
  if (r == TL_OK && last && (r = cut_at_tag(ret, last, err)) < 0) tl_rendered_done(ret);
  json_decref(trusted);
  json_decref(untrusted);
  json_decref(tagged_messages);
  return r;
}
