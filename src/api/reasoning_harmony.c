/* SPDX-License-Identifier: MIT */
/* GPT-OSS's format (OpenAI's harmony): an answer is messages on channels, each with a header:
 *
 *   <|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>final<|message|>content<|return|>
 *
 * What is on the channel analysis is thoughts, all else is content: final, and what commentary says before calls. A message to a
 * function is a call, which tool_harmony.c reads; where nobody does, its text is content. Several messages of a kind stand on lines of
 * their own, as in vLLM. */
#include <string.h>

#include "api/reasoning_parse.h"

#define LONGEST_HEADER 512

enum mark { START, CHANNEL, END, RETURN, CALL, MESSAGE, CONSTRAIN, N_MARKS };
enum state { BEGINNING, TEXT, BETWEEN, HEADER };
enum target { CONTENT, THOUGHTS, FUNCTION };

static void take_text(struct api_reasoning_parser *parser, char c);

static void go(struct api_reasoning_parser *parser, enum state state, enum target target) {
  if (target != parser->target) tl_buffer_clear(&parser->blank);
  parser->state = (uint8_t)state;
  parser->target = (uint8_t)target;
  parser->within = target == THOUGHTS && state == TEXT;
}

static void put(struct api_reasoning_parser *parser, char c) {
  if (parser->target == THOUGHTS) {
    reasoning_think(parser, c);
    return;
  }
  if (parser->target == CONTENT && parser->blank.length) {
    tl_buffer_putc(parser->rest, '\n');
    parser->n_made++;
  }
  if (parser->target == CONTENT) tl_buffer_clear(&parser->blank);
  parser->said = parser->said || parser->target == CONTENT;
  tl_buffer_putc(parser->rest, c);
}

/* A message begins; blank: the line break between two of a kind, if more comes. */
static void begin_message(struct api_reasoning_parser *parser, enum target target) {
  go(parser, TEXT, target);
  tl_buffer_clear(&parser->blank);
  if (target == FUNCTION) tl_buffer_append(parser->rest, parser->held.data, parser->held.length);
  else if (target == THOUGHTS ? parser->thought : parser->said) tl_buffer_putc(&parser->blank, '\n');
  tl_buffer_clear(&parser->held);
}

static bool ends_with(const struct tl_buffer *text, const char *end) {
  size_t n = strlen(end);
  return text->length >= n && memcmp(text->data + text->length - n, end, n) == 0;
}

static bool has(const struct tl_buffer *text, const char *what) {
  return memmem(text->data, text->length, what, strlen(what)) != NULL;
}

static void take_header(struct api_reasoning_parser *parser, char c) {
  struct tl_buffer *held = &parser->held;
  tl_buffer_putc(held, c);
  if (held->failed) return;
  if (ends_with(held, parser->format->marks[MESSAGE])) {
    bool function = parser->calls && has(held, "to=functions.");
    begin_message(parser, function ? FUNCTION : has(held, "<|channel|>analysis") ? THOUGHTS : CONTENT);
  } else if (held->length >= LONGEST_HEADER) { /* it is none */
    tl_buffer_append(parser->rest, held->data, held->length);
    tl_buffer_clear(held);
    go(parser, TEXT, CONTENT);
  }
}

/* The answer begins within a header, since the prompt ends with <|start|>assistant. Text that cannot be a header is content. */
static void take_beginning(struct api_reasoning_parser *parser, char c) {
  static const char *const starts[] = {"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", " to=", "to="};
  struct tl_buffer *held = &parser->held;
  tl_buffer_putc(held, c);
  for (size_t i = 0; !held->failed && i < sizeof starts / sizeof *starts; i++) {
    if (strncmp(starts[i], held->data, held->length) != 0) continue;
    if (starts[i][held->length]) return;
    if (ends_with(held, parser->format->marks[MESSAGE])) begin_message(parser, CONTENT);
    else go(parser, HEADER, CONTENT);
    return;
  }
  go(parser, TEXT, CONTENT);
  reasoning_give_up(parser, take_text);
}

static void take_mark(struct api_reasoning_parser *parser, enum mark mark) {
  bool function = parser->target == FUNCTION, ends = mark == END || mark == RETURN || mark == CALL;
  if (!function && (mark == START || mark == CHANNEL)) {
    go(parser, HEADER, CONTENT);
    return;
  }
  if (function) tl_buffer_append(parser->rest, parser->held.data, parser->held.length);
  tl_buffer_clear(&parser->held);
  if (ends) go(parser, BETWEEN, (enum target)parser->target);
}

static void take_text(struct api_reasoning_parser *parser, char c) {
  bool whole = false;
  unsigned mark = N_MARKS;
  tl_buffer_putc(&parser->held, c);
  while (parser->held.length && (mark = reasoning_mark(parser, 0, N_MARKS, &whole)) == N_MARKS) {
    put(parser, *parser->held.data);
    tl_buffer_consume(&parser->held, 1);
  }
  if (whole) take_mark(parser, (enum mark)mark);
}

/* Behind the end of a message the next one begins. If none does and the message was a call, its end was a part of a string in the
 * arguments, which go on. */
static void take_between(struct api_reasoning_parser *parser, char c) {
  bool whole = false;
  tl_buffer_putc(&parser->held, c);
  if (parser->held.failed) return;
  if (reasoning_mark(parser, START, CHANNEL + 1, &whole) == CHANNEL + 1) {
    go(parser, TEXT, parser->target == FUNCTION ? FUNCTION : CONTENT);
    reasoning_give_up(parser, take_text);
  } else if (whole) {
    go(parser, HEADER, CONTENT);
  }
}

static void take(struct api_reasoning_parser *parser, char c) {
  switch ((enum state)parser->state) {
    case BEGINNING: take_beginning(parser, c); break;
    case TEXT: take_text(parser, c); break;
    case BETWEEN: take_between(parser, c); break;
    case HEADER: take_header(parser, c); break;
  }
}

/* A header that was cut off is dropped. */
static void end(struct api_reasoning_parser *parser) {
  if (parser->state == BEGINNING || parser->state == TEXT) reasoning_give_up(parser, put);
}

const struct api_reasoning_format api_reasoning_harmony_format = {
    .name = "harmony",
    .marks = {[START] = "<|start|>", [CHANNEL] = "<|channel|>", [END] = "<|end|>", [RETURN] = "<|return|>", [CALL] = "<|call|>",
              [MESSAGE] = "<|message|>", [CONSTRAIN] = "<|constrain|>"},
    .n_marks = N_MARKS, .ends = {"<|channel|>final", "<|message|>"}, .take = take, .end = end};
