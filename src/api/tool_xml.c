/* SPDX-License-Identifier: MIT */
/* The formats whose arguments stand between tags, each as its text:
 *
 *   qwen3_coder  <tool_call>\n<function=f>\n<parameter=key>\nvalue\n</parameter>\n</function>\n</tool_call>
 *   seed_oss     the same between <seed:tool_call> and </seed:tool_call>
 *   glm45        <tool_call>f\n<arg_key>key</arg_key>\n<arg_value>value</arg_value>\n</tool_call>
 *
 * A value ends at its tag only where another parameter or the call's end comes next, since code that a model writes may have such tags
 * in it. What kind of value it is the tool's schema says. */
#include <string.h>

#include "api/tool_formats.h"

#define LONGEST_NAME 256  /* of a function or a key */
#define LONGEST_BLANK 64  /* white space behind a value's end */

struct tool_xml {
  const char *open;      /* behind <tool_call>; NULL: the name */
  char name_end;         /* or < */
  const char *key_end[1], *value[1]; /* behind a key: its end, and what stands before the value; NULL: nothing */
  const char *value_end;
  const char *next[3];   /* a parameter begins, the call ends, and ends too early */
  unsigned n_next;
  bool lines;            /* a value has lines for itself */
  unsigned unknown;      /* kinds of a value of which nothing is known */
};

enum state { TEXT, BODY, NAME, NEXT, KEY, KEY_END, BEFORE_VALUE, FIRST /* of a value */, VALUE, STRAY /* in a call that shows and went wrong */ };
enum { PARAMETER, NONE = -1, PART = -2 };

static void begin_call(struct api_tool_parser *parser, enum state state) {
  tool_object_reset(&parser->object, true);
  tl_buffer_clear(&parser->word);
  parser->state = (uint8_t)state;
}

static void end_call(struct api_tool_parser *parser) {
  tl_buffer_puts(&parser->object.arguments, parser->object.begun ? "}" : "{}");
  tool_show_made(parser, true);
  parser->state = TEXT;
}

/* Behind a name or a value; next: which of the tags stands there. */
static void go_on(struct api_tool_parser *parser, int next) {
  tl_buffer_clear(&parser->word);
  if (next == PARAMETER) parser->state = KEY;
  else end_call(parser);
}

static void take_text(struct api_tool_parser *parser, char c) {
  int mark = tool_find_begin(parser, c);
  if (mark >= 0) begin_call(parser, mark == 0 ? BODY : NAME);
}

/* Up to a mark everything belongs to the arguments. */
static void take_stray(struct api_tool_parser *parser, char c) {
  parser->state = STRAY;
  if (tool_take_stray(parser, c, false) != TOOL_MARK) return;
  if ((unsigned)parser->mark < parser->format->n_begin) begin_call(parser, parser->mark == 0 ? BODY : NAME);
  else parser->state = TEXT;
}

static void refuse(struct api_tool_parser *parser, char c) {
  if (parser->open) take_stray(parser, c);
  else tool_refuse(parser, c);
}

static void take_name(struct api_tool_parser *parser, char c) {
  struct tl_buffer *name = &parser->object.name;
  const struct tool_xml *xml = parser->format->xml;
  if (c == xml->name_end || (c == '<' && !xml->open)) {
    while (name->length && tool_is_white(name->data[name->length - 1])) name->length--;
    if (!name->length) {
      tool_refuse(parser, c);
      return;
    }
    tool_hold(parser, c, NEXT);
    if (c == '<') tl_buffer_putc(&parser->word, c); /* of the tag behind it */
  } else if ((unsigned char)c < ' ' || strchr("<>\"{}", c) || name->length == LONGEST_NAME) {
    tool_refuse(parser, c);
  } else {
    tl_buffer_putc(name, c);
    tool_hold(parser, c, NAME);
  }
}

static void take_body(struct api_tool_parser *parser, char c) {
  const struct tool_xml *xml = parser->format->xml;
  if (!xml->open) {
    if (tool_is_white(c)) tool_hold(parser, c, BODY);
    else take_name(parser, c);
    return;
  }
  int tag = tool_expect(parser, &xml->open, 1, c);
  if (tag == TOOL_NO_TAG) tool_refuse(parser, c);
  else tool_hold(parser, c, tag == 0 ? NAME : BODY);
}

static void take_next(struct api_tool_parser *parser, char c) {
  const struct tool_xml *xml = parser->format->xml;
  int tag = tool_expect(parser, xml->next, xml->n_next, c);
  if (tag == TOOL_NO_TAG) {
    tool_refuse(parser, c);
    return;
  }
  tool_hold(parser, c, NEXT);
  if (tag >= 0) go_on(parser, tag);
}

/* --- values ------------------------------------------------------------------------------------------- */

/* The key is whole: the call has an argument. */
static void end_key(struct api_tool_parser *parser) {
  struct tl_buffer *word = &parser->word, *out = &parser->object.arguments;
  const struct tl_buffer *name = &parser->object.name;
  const struct tool_xml *xml = parser->format->xml;
  while (word->length && tool_is_white(word->data[word->length - 1])) word->length--;
  unsigned kinds = api_tool_types_of(parser->types, name->data, name->length, word->data, word->length);
  tl_buffer_puts(out, parser->object.begun ? ", \"" : "{\"");
  for (size_t i = 0; i < word->length; i++) tool_put_escaped(out, word->data[i]);
  tl_buffer_puts(out, "\": ");
  parser->failed |= word->failed;
  parser->object.begun = true;
  tool_value_begin(&parser->value, kinds ? kinds : xml->unknown, out);
  tl_buffer_clear(word);
}

static void take_key(struct api_tool_parser *parser, char c) {
  struct tl_buffer *word = &parser->word;
  const struct tool_xml *xml = parser->format->xml;
  char last = xml->key_end[0][0];
  if ((unsigned char)c < ' ' || (c == '<' && last != '<') || word->length == LONGEST_NAME || (c == last && !word->length)) {
    refuse(parser, c);
    return;
  }
  tool_hold(parser, c, KEY);
  if (c != last) {
    if (word->length || c != ' ') tl_buffer_putc(word, c);
    return;
  }
  end_key(parser);
  parser->state = FIRST;
  if (!xml->key_end[0][1]) return;
  tl_buffer_putc(word, c);
  parser->state = KEY_END;
}

/* One tag must stand here. */
static void take_tag(struct api_tool_parser *parser, char c, const char *const tags[1], enum state next) {
  int tag = tool_expect(parser, tags, 1, c);
  if (tag == TOOL_NO_TAG) refuse(parser, c);
  else tool_hold(parser, c, tag == 0 ? next : parser->state);
}

/* Whether the value ends with a text, and what comes next; PART: it may. */
static int end_of_value(const struct tool_xml *xml, const struct tl_buffer *text) {
  const char *at = text->data, *end = at + text->length;
  if (xml->lines && *at == '\n') at++;
  size_t length = strlen(xml->value_end), left = (size_t)(end - at);
  if (memcmp(at, xml->value_end, left < length ? left : length) != 0) return NONE;
  if (left < length) return PART;
  const char *behind = at += length;
  while (at < end && tool_is_white(*at)) at++;
  if (at - behind > LONGEST_BLANK) return NONE;
  left = (size_t)(end - at);
  for (unsigned i = 0; i < xml->n_next; i++) {
    length = strlen(xml->next[i]);
    if (memcmp(at, xml->next[i], left < length ? left : length) == 0) return left < length ? PART : (int)i;
  }
  return NONE;
}

static void take_value(struct api_tool_parser *parser, char c) {
  const struct tool_xml *xml = parser->format->xml;
  struct tl_buffer *word = &parser->word, *out = &parser->object.arguments;
  bool first = parser->state == FIRST;
  tool_hold(parser, c, VALUE);
  if (first && xml->lines && c == '\n') return;
  tl_buffer_putc(word, c);
  parser->failed |= word->failed;
  while (word->length && !word->failed) {
    int next = end_of_value(xml, word);
    if (next >= 0) {
      tool_value_end(&parser->value, out);
      tool_show_made(parser, false);
      go_on(parser, next);
      return;
    }
    if (next == PART) break;
    tool_value_take(&parser->value, word->data[0], out);
    tl_buffer_consume(word, 1);
  }
  tool_show_made(parser, false);
}

/* --- */

static void take(struct api_tool_parser *parser, char c) {
  const struct tool_xml *xml = parser->format->xml;
  switch ((enum state)parser->state) {
    case TEXT: take_text(parser, c); break;
    case BODY: take_body(parser, c); break;
    case NAME: take_name(parser, c); break;
    case NEXT: take_next(parser, c); break;
    case KEY: take_key(parser, c); break;
    case KEY_END: take_tag(parser, c, xml->key_end, BEFORE_VALUE); break;
    case BEFORE_VALUE: take_tag(parser, c, xml->value, FIRST); break;
    case FIRST:
    case VALUE: take_value(parser, c); break;
    case STRAY: take_stray(parser, c); break;
  }
}

static const struct tool_xml qwen = {.open = "<function=", .name_end = '>', .key_end = {">"}, .value_end = "</parameter>",
                                     .next = {"<parameter=", "</function>", "</tool_call>"}, .n_next = 3, .lines = true, .unknown = TOOL_STRING};
static const struct tool_xml seed = {.open = "<function=", .name_end = '>', .key_end = {">"}, .value_end = "</parameter>",
                                     .next = {"<parameter=", "</function>", "</seed:tool_call>"}, .n_next = 3, .lines = true, .unknown = TOOL_STRING};
static const struct tool_xml glm = {.name_end = '\n', .key_end = {"</arg_key>"}, .value = {"<arg_value>"}, .value_end = "</arg_value>",
                                    .next = {"<arg_key>", "</tool_call>"}, .n_next = 2, .unknown = TOOL_STRING | TOOL_OTHER};

/* Qwen3-Coder forgets <tool_call> at times. */
const struct api_tool_format api_tool_qwen3_coder_format = {.name = "qwen3_coder", .marks = {"<tool_call>", "<function=", "</function>", "</tool_call>"},
                                                            .n_marks = 4, .n_begin = 2, .n_end = 2, .typed = true, .xml = &qwen, .take = take, .end = tool_end};
const struct api_tool_format api_tool_seed_oss_format = {.name = "seed_oss",
                                                         .marks = {"<seed:tool_call>", "<function=", "</function>", "</seed:tool_call>"},
                                                         .n_marks = 4, .n_begin = 2, .n_end = 2, .typed = true, .xml = &seed, .take = take, .end = tool_end};
const struct api_tool_format api_tool_glm45_format = {.name = "glm45",
                                                      .marks = {"<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"},
                                                      .n_marks = 6, .n_begin = 1, .n_end = 1, .typed = true, .xml = &glm, .take = take, .end = tool_end};
