/* SPDX-License-Identifier: MIT */
/* Parsing in general, and the formats that have a mark before thoughts and one behind them. Thoughts stand at the beginning of an answer,
 * or are none: a text about <think> stays as it is. */
#include "api/reasoning_parse.h"

#include <string.h>

#include "api/tool_json.h"

#define LONGEST_MARK 32

enum state {
  START,        /* a mark may come */
  START_WITHIN, /* the same, but thoughts come in any case */
  WITHIN,
  BEHIND, /* white space behind the mark is dropped */
  REST,
};

/* --- what formats share ------------------------------------------------------------------------- */

void reasoning_think(struct api_reasoning_parser *parser, char c) {
  if (tool_is_white(c)) {
    if (parser->thought) tl_buffer_putc(&parser->blank, c);
    return;
  }
  tl_buffer_append(parser->thoughts, parser->blank.data, parser->blank.length);
  tl_buffer_clear(&parser->blank);
  tl_buffer_putc(parser->thoughts, c);
  parser->thought = true;
}

unsigned reasoning_mark(const struct api_reasoning_parser *parser, unsigned from, unsigned to, bool *ret_whole) {
  const struct tl_buffer *held = &parser->held;
  for (; from < to; from++) {
    const char *mark = parser->format->marks[from];
    if (strncmp(mark, held->data, held->length) != 0) continue;
    *ret_whole = !mark[held->length];
    break;
  }
  return from;
}

void reasoning_give_up(struct api_reasoning_parser *parser, void (*take)(struct api_reasoning_parser *parser, char c)) {
  char text[LONGEST_MARK];
  size_t n = parser->held.length < sizeof text ? parser->held.length : sizeof text;
  if (n) memcpy(text, parser->held.data, n);
  tl_buffer_clear(&parser->held);
  for (size_t i = 0; i < n; i++) take(parser, text[i]);
}

/* --- marks on both sides --------------------------------------------------------------------------- */

static void go(struct api_reasoning_parser *parser, enum state state) {
  parser->state = (uint8_t)state;
  parser->within = state == START_WITHIN || state == WITHIN;
}

static void take_rest(struct api_reasoning_parser *parser, char c) {
  tl_buffer_putc(parser->rest, c);
}

static void take_within(struct api_reasoning_parser *parser, char c) {
  const struct api_reasoning_format *format = parser->format;
  bool whole = false;
  tl_buffer_putc(&parser->held, c);
  while (parser->held.length && reasoning_mark(parser, format->n_begin, format->n_begin + format->n_end, &whole) == format->n_begin + format->n_end) {
    reasoning_think(parser, *parser->held.data);
    tl_buffer_consume(&parser->held, 1);
  }
  if (!whole) return;
  tl_buffer_clear(&parser->held);
  tl_buffer_clear(&parser->blank);
  go(parser, parser->exact ? REST : BEHIND);
}

/* What is held is no mark that begins thoughts: the answer is content, or, if the mark was the prompt's, thoughts all the same. */
static void settle(struct api_reasoning_parser *parser) {
  bool within = parser->state == START_WITHIN;
  if (!within) tl_buffer_append(parser->rest, parser->blank.data, parser->blank.length);
  tl_buffer_clear(&parser->blank);
  go(parser, within ? WITHIN : REST);
  reasoning_give_up(parser, within ? take_within : take_rest);
}

static void take_start(struct api_reasoning_parser *parser, char c) {
  bool whole = false;
  if (parser->held.length == 0 && tool_is_white(c)) {
    tl_buffer_putc(&parser->blank, c);
    return;
  }
  tl_buffer_putc(&parser->held, c);
  if (parser->held.failed) return;
  if (reasoning_mark(parser, 0, parser->format->n_begin, &whole) == parser->format->n_begin) {
    settle(parser);
  } else if (whole) {
    tl_buffer_clear(&parser->held);
    tl_buffer_clear(&parser->blank);
    go(parser, WITHIN);
  }
}

static void take(struct api_reasoning_parser *parser, char c) {
  switch ((enum state)parser->state) {
    case START:
    case START_WITHIN: take_start(parser, c); break;
    case WITHIN: take_within(parser, c); break;
    case BEHIND:
      if (tool_is_white(c)) return;
      go(parser, REST);
      take_rest(parser, c);
      break;
    case REST: take_rest(parser, c); break;
  }
}

static void end(struct api_reasoning_parser *parser) {
  if (parser->state == START || parser->state == START_WITHIN) settle(parser);
  if (parser->state == WITHIN) reasoning_give_up(parser, reasoning_think);
}

#define MARKS .n_marks = 2, .n_begin = 1, .n_end = 1, .take = take, .end = end

const struct api_reasoning_format api_reasoning_think_format = {.name = "think", .marks = {"<think>", "</think>"}, .ends = {"</think>"}, MARKS};
const struct api_reasoning_format api_reasoning_seed_format = {.name = "seed_oss", .marks = {"<seed:think>", "</seed:think>"}, .ends = {"</seed:think>"}, MARKS};
const struct api_reasoning_format api_reasoning_mistral_format = {.name = "mistral", .marks = {"[THINK]", "[/THINK]"}, .ends = {"[/THINK]"}, MARKS};
/* the token that opens a channel stands before the name of it */
const struct api_reasoning_format api_reasoning_gemma4_format = {.name = "gemma4", .marks = {"<|channel>thought", "<channel|>", "<|channel>"}, .ends = {"<channel|>"},
                                                                 .n_marks = 3, .n_begin = 1, .n_end = 1, .take = take, .end = end};
/* as vLLM has it; quantized models say Here's */
const struct api_reasoning_format api_reasoning_granite_format = {
    .name = "granite",
    .marks = {"Here is my thought process:", "Here's my thought process:", "Here is my response:", "Here's my response:"},
    .n_marks = 4, .n_begin = 2, .n_end = 2, .take = take, .end = end};

/* --- pushing ---------------------------------------------------------------------------------------- */

void api_reasoning_parser_init(struct api_reasoning_parser *parser, const struct api_reasoning_format *format,
                               enum api_reasoning_start start, bool calls, bool exact) {
  *parser = (struct api_reasoning_parser){.format = format, .calls = calls, .exact = exact};
  tl_buffer_init(&parser->held, 0);
  tl_buffer_init(&parser->blank, 0);
  if (format->n_begin) go(parser, start == API_REASONING_WITHIN ? START_WITHIN : start == API_REASONING_OVER ? REST : START);
}

void api_reasoning_parser_done(struct api_reasoning_parser *parser) {
  tl_buffer_done(&parser->held);
  tl_buffer_done(&parser->blank);
}

static int result(const struct api_reasoning_parser *parser) {
  return parser->held.failed || parser->blank.failed || parser->thoughts->failed || parser->rest->failed ? TL_ENOMEM : TL_OK;
}

int api_reasoning_parser_push(struct api_reasoning_parser *parser, const char *text, size_t length, struct tl_buffer *thoughts,
                              struct tl_buffer *rest) {
  parser->thoughts = thoughts;
  parser->rest = rest;
  for (size_t i = 0; i < length && result(parser) == TL_OK; i++) parser->format->take(parser, text[i]);
  return result(parser);
}

int api_reasoning_parser_finish(struct api_reasoning_parser *parser, struct tl_buffer *thoughts, struct tl_buffer *rest) {
  parser->thoughts = thoughts;
  parser->rest = rest;
  if (result(parser) == TL_OK) parser->format->end(parser);
  return result(parser);
}
