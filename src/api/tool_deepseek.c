/* SPDX-License-Identifier: MIT */
/* DeepSeek's formats, which models distilled from them write too. V3, R1:
 *
 *   <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{...}\n```<｜tool▁call▁end｜>...<｜tool▁calls▁end｜>
 *
 * V3.1 has the name before the separator and the arguments behind it, without a fence. */
#include "api/tool_formats.h"

#define LONGEST_NAME 256

enum mark { CALLS, CALL, CALL_END, CALLS_END, FENCE_END, SEPARATOR, N_MARKS };
enum state { TEXT, BODY /* behind the first mark */, HEADER, TAG /* behind the header */, BEHIND, NAME, FENCE, FENCED, ARGUMENTS };

static void begin_call(struct api_tool_parser *parser) {
  tool_object_reset(&parser->object, true);
  tl_buffer_clear(&parser->word);
  parser->state = HEADER;
}

static void begin(struct api_tool_parser *parser, enum mark mark) {
  if (mark == CALL) begin_call(parser);
  else parser->state = mark == CALLS ? BODY : TEXT;
}

static void take_text(struct api_tool_parser *parser, char c) {
  int mark = tool_find_begin(parser, c);
  if (mark >= 0) begin(parser, (enum mark)mark);
}

/* What must stand here. */
static bool take_tag(struct api_tool_parser *parser, char c, const char *tag, enum state next) {
  int found = tool_expect(parser, &tag, 1, c);
  if (found == TOOL_NO_TAG) tool_refuse(parser, c);
  else tool_hold(parser, c, found == 0 ? next : parser->state);
  return found == 0;
}

/* A name up to `last`; false: it goes on, or is none. */
static bool take_name(struct api_tool_parser *parser, char c, char last) {
  struct tl_buffer *name = &parser->object.name;
  if (c == last && name->length) return true;
  if ((unsigned char)c < ' ' || c == '<' || c == last || name->length == LONGEST_NAME) {
    tool_refuse(parser, c);
  } else {
    tl_buffer_putc(name, c);
    tool_hold(parser, c, parser->state);
  }
  return false;
}

static void take_header(struct api_tool_parser *parser, char c) {
  if (!take_name(parser, c, '<')) return;
  parser->state = TAG;
  take_tag(parser, c, parser->format->marks[SEPARATOR], BEHIND);
}

static void take_arguments(struct api_tool_parser *parser, char c) {
  enum tool_took took = tool_take_object(parser, c);
  if (took == TOOL_DONE) parser->state = TEXT;
  else if (took == TOOL_MARK) begin(parser, (enum mark)parser->mark);
  else if (took == TOOL_WRONG) tool_refuse(parser, c);
}

static void begin_arguments(struct api_tool_parser *parser, char c) {
  parser->object.named = true;
  parser->state = ARGUMENTS;
  take_arguments(parser, c);
}

/* Behind the separator: the arguments, or the name after all. */
static void take_behind(struct api_tool_parser *parser, char c) {
  if (tool_is_white(c)) {
    tool_hold(parser, c, BEHIND);
  } else if (c == '{') {
    begin_arguments(parser, c);
  } else {
    tl_buffer_clear(&parser->object.name);
    parser->state = NAME;
    take_name(parser, c, '\n');
  }
}

static void take_fence(struct api_tool_parser *parser, char c) {
  if (c == '{' && !parser->word.length) begin_arguments(parser, c);
  else take_tag(parser, c, "```json", FENCED);
}

static void take_fenced(struct api_tool_parser *parser, char c) {
  if (tool_is_white(c)) tool_hold(parser, c, FENCED);
  else begin_arguments(parser, c);
}

static void take(struct api_tool_parser *parser, char c) {
  switch ((enum state)parser->state) {
    case TEXT: take_text(parser, c); break;
    case BODY:
      if (take_tag(parser, c, parser->format->marks[CALL], HEADER)) begin_call(parser);
      break;
    case HEADER: take_header(parser, c); break;
    case TAG: take_tag(parser, c, parser->format->marks[SEPARATOR], BEHIND); break;
    case BEHIND: take_behind(parser, c); break;
    case NAME:
      if (take_name(parser, c, '\n')) tool_hold(parser, c, FENCE);
      break;
    case FENCE: take_fence(parser, c); break;
    case FENCED: take_fenced(parser, c); break;
    case ARGUMENTS: take_arguments(parser, c); break;
  }
}

const struct api_tool_format api_tool_deepseek_v3_format = {
    .name = "deepseek_v3",
    .marks = {[CALLS] = "<｜tool▁calls▁begin｜>", [CALL] = "<｜tool▁call▁begin｜>", [CALL_END] = "<｜tool▁call▁end｜>", [CALLS_END] = "<｜tool▁calls▁end｜>",
              [FENCE_END] = "```", [SEPARATOR] = "<｜tool▁sep｜>"},
    .n_marks = N_MARKS, .n_begin = 2, .n_end = 3, .take = take, .end = tool_end};
