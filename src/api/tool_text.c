/* SPDX-License-Identifier: MIT */
/* The formats whose calls are JSON behind a mark, or at the beginning of the answer. As vLLM's documentation of
 * tool calling and the models' own templates have them:
 *
 *   hermes       <tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>, as many as there are calls
 *   granite      <|tool_call|>[{"name": "f", "arguments": {...}}, ...], or <tool_call> with a list; Phi-4-mini ends it with <|/tool_call|>
 *   nemotron     <TOOLCALL>[{"name": "f", "arguments": {...}}, ...]</TOOLCALL>
 *   mistral      [TOOL_CALLS][{"name": "f", "arguments": {...}}, ...], or [TOOL_CALLS]f[ARGS]{...} for each call
 *                (between them [CALL_ID]...)
 *   phi4_mini_json  functools[{"name": "f", "arguments": {...}}, ...], or as granite
 *   llama3_json  {"name": "f", "parameters": {...}}; ..., with or without <|python_tag|>, and no text before it */
#include "api/tool_formats.h"

#include <string.h>

#define LONGEST_NAME 256
#define LONGEST_PART 64 /* of [ARGS] and [CALL_ID] with an id */

enum trait {
  LIST = 1,       /* behind a mark a list of calls may stand */
  NAMED = 2,      /* or a name, and arguments alone */
  BARE = 4,       /* where nothing else has been said a call needs no mark */
  BARE_LIST = 8,  /* nor does a list */
  SEMICOLONS = 16, /* stand between calls */
};

enum state {
  TEXT,
  BODY, /* behind a mark */
  OBJECT,
  ITEM, /* in a list: a call must come */
  NEXT, /* in a list, behind one */
  NAME,
  PART, /* [ARGS] or [CALL_ID] */
  ID,   /* behind [CALL_ID] */
};

static void take_object(struct api_tool_parser *parser, char c) {
  enum tool_took took = tool_take_object(parser, c);
  if (took == TOOL_WRONG) tool_refuse(parser, c);
  else if (took == TOOL_DONE) parser->state = parser->list ? NEXT : TEXT;
  else if (took == TOOL_MARK) parser->state = (unsigned)parser->mark < parser->format->n_begin ? BODY : TEXT;
}

static void begin_object(struct api_tool_parser *parser, char c, bool list) {
  tool_object_reset(&parser->object, false);
  parser->list = list;
  parser->state = OBJECT;
  take_object(parser, c);
}

/* Where nothing but white space, or a call, stands before c: whether it is the format's. */
static bool take_bare(struct api_tool_parser *parser, char c) {
  unsigned traits = parser->format->traits;
  if (!parser->blank || parser->held.length > parser->n_blank) return false;
  if (c == '{' && (traits & BARE)) {
    begin_object(parser, c, false);
  } else if (c == '[' && (traits & BARE_LIST)) {
    tool_hold(parser, c, ITEM);
  } else if (c == ';' && (traits & SEMICOLONS) && parser->calls->n) {
    tool_drop(parser);
  } else {
    return false;
  }
  return true;
}

static void take_text(struct api_tool_parser *parser, char c) {
  if (!take_bare(parser, c) && tool_find_begin(parser, c) >= 0) parser->state = BODY;
}

static void take_body(struct api_tool_parser *parser, char c) {
  unsigned traits = parser->format->traits;
  if (tool_is_white(c)) {
    tool_hold(parser, c, BODY);
  } else if (c == '{') {
    begin_object(parser, c, false);
  } else if (c == '[' && (traits & LIST)) {
    tool_hold(parser, c, ITEM);
  } else if ((traits & NAMED) && (unsigned char)c > ' ' && c != '[') {
    tool_object_reset(&parser->object, true);
    tl_buffer_putc(&parser->object.name, c);
    parser->list = false;
    tool_hold(parser, c, NAME);
  } else {
    tool_refuse(parser, c);
  }
}

static void take_list(struct api_tool_parser *parser, char c) {
  bool behind = parser->state == NEXT;
  if (tool_take_between(parser, c, behind, ITEM, TEXT)) return;
  if (!behind && c == '{') begin_object(parser, c, true);
  else tool_refuse(parser, c);
}

/* The name has ended; false: it is none. */
static bool end_name(struct api_tool_parser *parser) {
  struct tl_buffer *name = &parser->object.name;
  while (name->length && tool_is_white(name->data[name->length - 1])) name->length--;
  return parser->object.named = name->length > 0;
}

static void take_name(struct api_tool_parser *parser, char c) {
  struct tl_buffer *name = &parser->object.name;
  if (c == '[') {
    parser->n_part = 1;
    tool_hold(parser, c, PART);
  } else if (c == '{' && end_name(parser)) {
    parser->state = OBJECT;
    take_object(parser, c);
  } else if (c == '{' || (unsigned char)c < ' ' || name->length == LONGEST_NAME) {
    tool_refuse(parser, c);
  } else {
    tl_buffer_putc(name, c);
    tool_hold(parser, c, NAME);
  }
}

static bool ends_with(const struct tl_buffer *text, const char *end) {
  size_t n = strlen(end);
  return text->length >= n && memcmp(text->data + text->length - n, end, n) == 0;
}

static void take_part(struct api_tool_parser *parser, char c) {
  enum state next = parser->state == ID && c != '[' ? ID : PART;
  if (++parser->n_part > LONGEST_PART) {
    tool_refuse(parser, c);
    return;
  }
  tool_hold(parser, c, next);
  if (c != ']' || next == ID) return;
  if (ends_with(&parser->held, "[CALL_ID]")) {
    parser->state = ID;
  } else if (ends_with(&parser->held, "[ARGS]") && end_name(parser)) {
    parser->state = OBJECT;
  } else {
    parser->state = TEXT;
    tool_give_up(parser);
  }
}

static void take(struct api_tool_parser *parser, char c) {
  switch ((enum state)parser->state) {
    case TEXT: take_text(parser, c); break;
    case BODY: take_body(parser, c); break;
    case OBJECT: take_object(parser, c); break;
    case ITEM:
    case NEXT: take_list(parser, c); break;
    case NAME: take_name(parser, c); break;
    case PART:
    case ID: take_part(parser, c); break;
  }
}

/* White space and the beginning of a mark behind a call, and the commas of a list that ends early, are markup. */
static void end(struct api_tool_parser *parser) {
  tool_end_behind(parser, parser->state == NEXT || parser->state == ITEM || (parser->state == TEXT && parser->blank));
}

#define MACHINE .take = take, .end = end

const struct api_tool_format api_tool_hermes_format = {
    .name = "hermes", .marks = {"<tool_call>", "</tool_call>"}, .n_marks = 2, .n_begin = 1, .n_end = 1, MACHINE};
const struct api_tool_format api_tool_granite_format = {.name = "granite", .marks = {"<|tool_call|>", "<tool_call>", "</tool_call>", "<|/tool_call|>"},
                                                        .n_marks = 4, .n_begin = 2, .n_end = 2, .traits = LIST, MACHINE};
const struct api_tool_format api_tool_nemotron_format = {
    .name = "nemotron", .marks = {"<TOOLCALL>", "</TOOLCALL>"}, .n_marks = 2, .n_begin = 1, .n_end = 1, .traits = LIST, MACHINE};
const struct api_tool_format api_tool_phi4_mini_format = {.name = "phi4_mini_json", .marks = {"functools", "<|tool_call|>", "<|/tool_call|>"},
                                                          .n_marks = 3, .n_begin = 2, .n_end = 1, .traits = LIST, MACHINE};
const struct api_tool_format api_tool_mistral_format = {.name = "mistral", .marks = {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"},
                                                        .n_marks = 3, .n_begin = 1, .short_ids = true, .traits = LIST | NAMED, MACHINE};
const struct api_tool_format api_tool_llama3_json_format = {.name = "llama3_json", .marks = {"<|python_tag|>"}, .n_marks = 1,
                                                            .n_begin = 1, .traits = BARE | SEMICOLONS, MACHINE};
const struct api_tool_format api_tool_list_format = {.traits = BARE_LIST, MACHINE};
