/* SPDX-License-Identifier: MIT */
/* GPT-OSS's format (OpenAI's harmony): messages with a header, one of which may be for a function:
 *
 *   <|channel|>analysis<|message|>text<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{...}<|call|>
 *
 * The recipient also stands before the channel. Of all other messages the content has what it has without tools: header and
 * text, without the marks. */
#include <string.h>

#include "api/tool_formats.h"

#define LONGEST_HEADER 512

enum mark { START, CHANNEL, END, RETURN, CALL, MESSAGE, CONSTRAIN, N_MARKS };
enum state { BEGINNING, TEXT, HEADER, ARGUMENTS };

static const char message_mark[] = "<|message|>";
static const char recipient[] = "to=functions."; /* of those that requests bring */

/* What is held is content, but for marks. */
static void give_up(struct api_tool_parser *parser) {
  const char *at = parser->held.data, *end = at + parser->held.length;
  while (at < end) {
    unsigned i = 0;
    size_t n = 0;
    for (; i < N_MARKS; i++)
      if ((size_t)(end - at) >= (n = strlen(parser->format->marks[i])) && memcmp(at, parser->format->marks[i], n) == 0) break;
    if (i == N_MARKS) tl_buffer_putc(parser->content, *at);
    at += i == N_MARKS ? 1 : n;
  }
  tool_drop(parser);
  parser->blank = false;
}

static void go_on(struct api_tool_parser *parser, enum mark mark) {
  parser->state = mark == START || mark == CHANNEL ? HEADER : TEXT;
}

static void take_text(struct api_tool_parser *parser, char c) {
  parser->state = TEXT;
  int mark = tool_find_mark(parser, N_MARKS, c);
  if (mark < 0) return;
  go_on(parser, (enum mark)mark);
  if (parser->state == TEXT) parser->held.length = parser->n_blank;
}

/* The answer begins within a header: <|start|>assistant is the prompt's. */
static void take_beginning(struct api_tool_parser *parser, char c) {
  struct tl_buffer *held = &parser->held;
  tl_buffer_putc(held, c);
  if (held->failed) return;
  const char *start = held->data[0] == ' ' ? " to=functions." : "to=functions.";
  if (strncmp(start, held->data, held->length) == 0) {
    if (!start[held->length]) parser->state = HEADER;
    return;
  }
  held->length--;
  give_up(parser);
  take_text(parser, c);
}

/* The name in a header; NULL: it is for no function. */
static const char *function_of(const struct tl_buffer *header, size_t *ret_length) {
  const char *end = header->data + header->length, *at = memmem(header->data, header->length, recipient, strlen(recipient));
  if (!at) return NULL;
  const char *name = at + strlen(recipient), *to = name;
  while (to < end && *to != '<' && (unsigned char)*to > ' ') to++;
  *ret_length = (size_t)(to - name);
  return to > name ? name : NULL;
}

static void take_header(struct api_tool_parser *parser, char c) {
  struct tl_buffer *held = &parser->held;
  size_t n = strlen(message_mark), length;
  tl_buffer_putc(held, c);
  bool ends = held->length >= n && memcmp(held->data + held->length - n, message_mark, n) == 0;
  if (!ends && held->length < LONGEST_HEADER) return;
  const char *name = ends ? function_of(held, &length) : NULL;
  if (!name) {
    give_up(parser);
    parser->state = TEXT;
    return;
  }
  tool_object_reset(&parser->object, true);
  tl_buffer_append(&parser->object.name, name, length);
  parser->object.named = true;
  parser->state = ARGUMENTS;
}

static void take_arguments(struct api_tool_parser *parser, char c) {
  enum tool_took took = tool_take_object(parser, c);
  if (took == TOOL_DONE) parser->state = TEXT;
  if (took == TOOL_MARK) go_on(parser, (enum mark)parser->mark);
  if (took != TOOL_WRONG) return;
  give_up(parser);
  take_text(parser, c);
}

static void take(struct api_tool_parser *parser, char c) {
  switch ((enum state)parser->state) {
    case BEGINNING: take_beginning(parser, c); break;
    case TEXT: take_text(parser, c); break;
    case HEADER: take_header(parser, c); break;
    case ARGUMENTS: take_arguments(parser, c); break;
  }
}

static void end(struct api_tool_parser *parser) {
  bool behind = parser->state == TEXT && parser->blank && parser->calls->n;
  if (parser->open || behind) tool_drop(parser);
  else give_up(parser);
}

const struct api_tool_format api_tool_harmony_format = {
    .name = "harmony",
    .marks = {[START] = "<|start|>", [CHANNEL] = "<|channel|>", [END] = "<|end|>", [RETURN] = "<|return|>", [CALL] = "<|call|>",
              [MESSAGE] = "<|message|>", [CONSTRAIN] = "<|constrain|>"},
    .n_marks = N_MARKS, .n_begin = 2, .n_end = N_MARKS - 2, .take = take, .end = end};
