/* SPDX-License-Identifier: MIT */
/* GLM-4's format (glm-4-9b-chat, GLM-4-0414): where an answer begins, the name of a tool in a line and its arguments behind it. Without
 * a mark only the names of the request's tools make a call.
 *
 *   f\n{"a": 1} */
#include "api/tool_formats.h"

#define LONGEST_NAME 256

enum state { TEXT, OPEN /* behind the name */, ARGUMENTS };

static void take_text(struct api_tool_parser *parser, char c) {
  struct tl_buffer *held = &parser->held;
  size_t n = held->length - parser->n_blank;
  if (!parser->blank || (n == 0 && tool_is_white(c))) {
    tool_find_mark(parser, 0, c);
    return;
  }
  bool ends = c == '\n' && api_tool_types_has(parser->types, held->data + parser->n_blank, n);
  if (ends) {
    tool_object_reset(&parser->object, true);
    tl_buffer_append(&parser->object.name, held->data + parser->n_blank, n);
    parser->object.named = true;
  }
  tool_hold(parser, c, ends ? OPEN : TEXT);
  if (ends || held->failed) return;
  if (n >= LONGEST_NAME || !api_tool_types_begins(parser->types, held->data + parser->n_blank, n + 1)) tool_give_up(parser);
}

static void take_arguments(struct api_tool_parser *parser, char c) {
  enum tool_took took = tool_take_object(parser, c);
  if (took == TOOL_DONE) parser->state = TEXT;
  else if (took == TOOL_WRONG) tool_refuse(parser, c);
}

static void take(struct api_tool_parser *parser, char c) {
  switch ((enum state)parser->state) {
    case TEXT: take_text(parser, c); break;
    case OPEN:
      if (tool_is_white(c)) {
        tool_hold(parser, c, OPEN);
        break;
      }
      parser->state = ARGUMENTS;
      take_arguments(parser, c);
      break;
    case ARGUMENTS: take_arguments(parser, c); break;
  }
}

static void end(struct api_tool_parser *parser) {
  tool_end_behind(parser, parser->state == TEXT && parser->blank && parser->held.length == parser->n_blank);
}

const struct api_tool_format api_tool_glm4_format = {.name = "glm4", .typed = true, .take = take, .end = end};
