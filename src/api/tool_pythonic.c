/* SPDX-License-Identifier: MIT */
/* Calls as Python has them:
 *
 *   [f(a=1, b="x"), g()]                              at the beginning of the answer: Llama 3.2, Gemma 3, ToolACE
 *   <|python_start|>[f(a=1)]<|python_end|>             Llama 4
 *   <function_calls>\nf(a=1)\ng()\n</function_calls>   OLMo 3: one a line */
#include "api/tool_formats.h"

#define LONGEST_NAME 256

enum state {
  TEXT,
  LINES, /* as that, behind a call that stands in no list: another may come */
  BODY,  /* behind a mark */
  ITEM,  /* in a list: a call must come */
  NAME,
  ARGUMENTS,
  STRAY, /* in arguments that are no literals, of a call that shows */
  NEXT,  /* in a list, behind one */
};

static bool begins_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_name(char c) {
  return begins_name(c) || (c >= '0' && c <= '9') || c == '.' || c == '-';
}

static void begin_call(struct api_tool_parser *parser, char c, bool list) {
  tool_object_reset(&parser->object, true);
  tl_buffer_putc(&parser->object.name, c);
  parser->list = list;
  tool_hold(parser, c, NAME);
}

static void take_text(struct api_tool_parser *parser, char c) {
  bool bare = parser->blank && parser->held.length == parser->n_blank;
  if (bare && c == '[') {
    tool_hold(parser, c, ITEM);
  } else if (bare && parser->state == LINES && begins_name(c)) {
    begin_call(parser, c, false);
  } else {
    if (tool_find_begin(parser, c) >= 0) parser->state = BODY;
    else if (!parser->blank) parser->state = TEXT;
  }
}

static void take_body(struct api_tool_parser *parser, char c) {
  if (tool_is_white(c)) tool_hold(parser, c, BODY);
  else if (c == '[') tool_hold(parser, c, ITEM);
  else if (begins_name(c)) begin_call(parser, c, false);
  else tool_refuse(parser, c);
}

static void take_list(struct api_tool_parser *parser, char c) {
  bool behind = parser->state == NEXT;
  if (tool_take_between(parser, c, behind, ITEM, TEXT)) return;
  if (!behind && begins_name(c)) begin_call(parser, c, true);
  else tool_refuse(parser, c);
}

static void take_stray(struct api_tool_parser *parser, char c) {
  enum tool_took took = tool_python_skip(&parser->python, c);
  parser->state = took == TOOL_MORE ? STRAY : parser->list ? NEXT : LINES;
  if (tool_take_stray(parser, c, took == TOOL_DONE) == TOOL_MARK) parser->state = (unsigned)parser->mark < parser->format->n_begin ? BODY : TEXT;
}

static void take_arguments(struct api_tool_parser *parser, char c) {
  enum tool_took took = tool_python_take(&parser->python, c, &parser->object.arguments);
  if (took != TOOL_WRONG) {
    tool_hold(parser, c, ARGUMENTS);
    if (parser->python.named) tool_show_made(parser, took == TOOL_DONE);
    if (took == TOOL_DONE) parser->state = parser->list ? NEXT : LINES;
  } else if (parser->open) {
    tl_buffer_append(&parser->object.arguments, parser->python.word, parser->python.n_word); /* it was not written yet */
    tool_show_made(parser, false);
    take_stray(parser, c);
  } else {
    tool_refuse(parser, c);
  }
}

static void take_name(struct api_tool_parser *parser, char c) {
  struct tl_buffer *name = &parser->object.name;
  if (c == '(') {
    tool_python_init(&parser->python, true);
    take_arguments(parser, c);
  } else if (!is_name(c) || name->length == LONGEST_NAME) {
    tool_refuse(parser, c);
  } else {
    tl_buffer_putc(name, c);
    tool_hold(parser, c, NAME);
  }
}

static void take(struct api_tool_parser *parser, char c) {
  switch ((enum state)parser->state) {
    case TEXT:
    case LINES: take_text(parser, c); break;
    case BODY: take_body(parser, c); break;
    case ITEM:
    case NEXT: take_list(parser, c); break;
    case NAME: take_name(parser, c); break;
    case ARGUMENTS: take_arguments(parser, c); break;
    case STRAY: take_stray(parser, c); break;
  }
}

/* As tool_text.c's: of a list that ends early. */
static void end(struct api_tool_parser *parser) {
  bool text = parser->state == TEXT || parser->state == LINES;
  tool_end_behind(parser, parser->state == NEXT || parser->state == ITEM || (text && parser->blank));
}

const struct api_tool_format api_tool_pythonic_format = {.name = "pythonic", .marks = {"<|python_start|>", "<function_calls>", "<|python_end|>", "</function_calls>"},
                                                         .n_marks = 4, .n_begin = 2, .n_end = 2, .take = take, .end = end};
