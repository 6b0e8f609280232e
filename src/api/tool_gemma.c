/* SPDX-License-Identifier: MIT */
/* Gemma 4's format: names of members have no quotes, and strings stand between tokens of their own, so that nothing in them is escaped.
 *
 *   <|tool_call>call:f{a:1,b:<|"|>text<|"|>,c:[true,{d:null}]}<tool_call|> */
#include <string.h>

#include "api/tool_formats.h"

#define QUOTE "<|\"|>"
#define LONGEST_NAME 256 /* of a function or a member */

enum state { TEXT, HEAD, NAME, OPENED /* behind a bracket */, ITEM /* behind a comma */, KEY, BEFORE_VALUE, QUOTED /* its mark may come */, STRING, PLAIN, BEHIND,
             STRAY /* in a call that shows and went wrong */ };

static void begin_call(struct api_tool_parser *parser) {
  tool_object_reset(&parser->object, true);
  tl_buffer_clear(&parser->word);
  parser->state = HEAD;
}

/* Up to a mark everything belongs to the arguments. */
static void take_stray(struct api_tool_parser *parser, char c) {
  parser->state = STRAY;
  if (tool_take_stray(parser, c, false) != TOOL_MARK) return;
  if (parser->mark == 0) begin_call(parser);
  else parser->state = TEXT;
}

static void refuse(struct api_tool_parser *parser, char c) {
  if (parser->open) take_stray(parser, c);
  else tool_refuse(parser, c);
}

static bool in_list(const struct tool_json *json) {
  return json->lists >> (json->depth - 1) & 1;
}

static void open_bracket(struct api_tool_parser *parser, char c) {
  struct tool_json *json = &parser->object.json;
  if (json->depth == TOOL_JSON_DEPTH) {
    refuse(parser, c);
    return;
  }
  uint64_t bit = (uint64_t)1 << json->depth++;
  json->lists = c == '[' ? json->lists | bit : json->lists & ~bit;
  tl_buffer_putc(&parser->object.arguments, c);
  tool_hold(parser, c, OPENED);
}

static void close_bracket(struct api_tool_parser *parser, char c) {
  struct tool_json *json = &parser->object.json;
  if (c != (in_list(json) ? ']' : '}')) {
    refuse(parser, c);
    return;
  }
  tl_buffer_putc(&parser->object.arguments, c);
  tool_hold(parser, c, --json->depth ? BEHIND : TEXT);
  if (!json->depth) tool_show_made(parser, true);
}

static void take_name(struct api_tool_parser *parser, char c) {
  struct tl_buffer *name = &parser->object.name;
  if (c == '{' && name->length) {
    open_bracket(parser, c);
  } else if ((unsigned char)c <= ' ' || strchr("<>\"{}", c) || name->length == LONGEST_NAME) {
    tool_refuse(parser, c);
  } else {
    tl_buffer_putc(name, c);
    tool_hold(parser, c, NAME);
  }
}

static void put_word(struct tl_buffer *out, const char *text, size_t length) {
  tl_buffer_putc(out, '"');
  for (size_t i = 0; i < length; i++) tool_put_escaped(out, text[i]);
  tl_buffer_putc(out, '"');
}

/* A member's name, which may have quotes all the same. */
static void end_key(struct api_tool_parser *parser) {
  struct tl_buffer *word = &parser->word;
  const char *text = word->data;
  size_t n = word->length, quote = strlen(QUOTE);
  while (n && tool_is_white(text[n - 1])) n--;
  if (n > 2 * quote && memcmp(text, QUOTE, quote) == 0 && memcmp(text + n - quote, QUOTE, quote) == 0) text += quote, n -= 2 * quote;
  put_word(&parser->object.arguments, text, n);
  tl_buffer_puts(&parser->object.arguments, ": ");
  tl_buffer_clear(word);
}

static void take_key(struct api_tool_parser *parser, char c) {
  struct tl_buffer *word = &parser->word;
  if (c == ':' ? !word->length : (unsigned char)c < ' ' || strchr("{}[],", c) || word->length == LONGEST_NAME) {
    refuse(parser, c);
    return;
  }
  tool_hold(parser, c, c == ':' ? BEFORE_VALUE : KEY);
  if (c != ':') tl_buffer_putc(word, c);
  else end_key(parser);
}

static void take_value(struct api_tool_parser *parser, char c) {
  if (c == '{' || c == '[') {
    open_bracket(parser, c);
  } else if (strchr("}],:", c)) {
    refuse(parser, c);
  } else {
    tl_buffer_putc(&parser->word, c);
    tool_hold(parser, c, c == QUOTE[0] ? QUOTED : PLAIN);
  }
}

static void take_item(struct api_tool_parser *parser, char c) {
  bool list = in_list(&parser->object.json);
  if (tool_is_white(c)) tool_hold(parser, c, parser->state);
  else if (parser->state == OPENED && (c == '}' || c == ']')) close_bracket(parser, c);
  else {
    if (parser->state == ITEM) tl_buffer_puts(&parser->object.arguments, ", ");
    if (list) take_value(parser, c);
    else take_key(parser, c);
  }
}

static void take_behind(struct api_tool_parser *parser, char c) {
  if (c == '}' || c == ']') {
    close_bracket(parser, c);
  } else if (c == ',') {
    tool_hold(parser, c, ITEM);
  } else if (tool_is_white(c)) {
    tool_hold(parser, c, BEHIND);
  } else {
    refuse(parser, c);
  }
}

/* A number, true, false or null, which templates write None; what is none of these is a string. */
static void take_plain(struct api_tool_parser *parser, char c) {
  struct tl_buffer *word = &parser->word, *out = &parser->object.arguments;
  if (!strchr(",}]", c)) {
    tl_buffer_putc(word, c);
    tool_hold(parser, c, PLAIN);
    return;
  }
  size_t n = word->length;
  while (n && tool_is_white(word->data[n - 1])) n--;
  if (n == 4 && memcmp(word->data, "None", 4) == 0) tl_buffer_puts(out, "null");
  else if (tool_json_is_value(word->data, n)) tl_buffer_append(out, word->data, n);
  else put_word(out, word->data, n);
  tl_buffer_clear(word);
  take_behind(parser, c);
}

static void take_quote(struct api_tool_parser *parser, char c) {
  struct tl_buffer *word = &parser->word;
  if (strchr(",}]", c)) {
    take_plain(parser, c);
    return;
  }
  tl_buffer_putc(word, c);
  tool_hold(parser, c, QUOTED);
  if (word->failed) return;
  if (strncmp(QUOTE, word->data, word->length) != 0) {
    parser->state = PLAIN;
  } else if (word->length == strlen(QUOTE)) {
    tl_buffer_clear(word);
    tl_buffer_putc(&parser->object.arguments, '"');
    parser->state = STRING;
  }
}

static void take_string(struct api_tool_parser *parser, char c) {
  struct tl_buffer *word = &parser->word, *out = &parser->object.arguments;
  tl_buffer_putc(word, c);
  tool_hold(parser, c, STRING);
  while (word->length && !word->failed && strncmp(QUOTE, word->data, word->length) != 0) {
    tool_put_escaped(out, word->data[0]);
    tl_buffer_consume(word, 1);
  }
  if (word->length < strlen(QUOTE)) return;
  tl_buffer_clear(word);
  tl_buffer_putc(out, '"');
  parser->state = BEHIND;
}

static void take_head(struct api_tool_parser *parser, char c) {
  static const char *const call[] = {"call:"};
  int tag = tool_expect(parser, call, 1, c);
  if (tag == TOOL_NO_TAG) tool_refuse(parser, c);
  else tool_hold(parser, c, tag == 0 ? NAME : HEAD);
}

static void take_body(struct api_tool_parser *parser, char c) {
  switch ((enum state)parser->state) {
    case OPENED:
    case ITEM: take_item(parser, c); break;
    case KEY: take_key(parser, c); break;
    case BEFORE_VALUE:
      if (tool_is_white(c)) tool_hold(parser, c, BEFORE_VALUE);
      else take_value(parser, c);
      break;
    case QUOTED: take_quote(parser, c); break;
    case STRING: take_string(parser, c); break;
    case PLAIN: take_plain(parser, c); break;
    default: take_behind(parser, c); break;
  }
  parser->failed |= parser->word.failed;
  if (parser->state > OPENED && parser->state < STRAY) tool_show_made(parser, false);
}

static void take(struct api_tool_parser *parser, char c) {
  switch ((enum state)parser->state) {
    case TEXT:
      if (tool_find_begin(parser, c) == 0) begin_call(parser);
      break;
    case HEAD: take_head(parser, c); break;
    case NAME: take_name(parser, c); break;
    case STRAY: take_stray(parser, c); break;
    default: take_body(parser, c); break;
  }
}

const struct api_tool_format api_tool_gemma4_format = {
    .name = "gemma4", .marks = {"<|tool_call>", "<tool_call|>", QUOTE}, .n_marks = 3, .n_begin = 1, .n_end = 1, .take = take, .end = tool_end};
