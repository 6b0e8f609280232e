/* SPDX-License-Identifier: MIT */
#include "api/tool_parse.h"

#include <stdlib.h>
#include <string.h>

/* --- calls ----------------------------------------------------------------------------------- */

int api_tool_calls_add(struct api_tool_calls *calls, const char *name, size_t length) {
  if (calls->n == calls->capacity) {
    unsigned capacity = calls->capacity ? 2 * calls->capacity : 4;
    struct api_tool_call *items = realloc(calls->items, capacity * sizeof *items);
    if (!items) return TL_ENOMEM;
    calls->items = items;
    calls->capacity = capacity;
  }
  struct api_tool_call *call = &calls->items[calls->n++];
  *call = (struct api_tool_call){0};
  tl_buffer_init(&call->name, 0);
  tl_buffer_init(&call->arguments, 0);
  return tl_buffer_append(&call->name, name, length);
}

void api_tool_calls_done(struct api_tool_calls *calls) {
  for (unsigned i = 0; i < calls->n; i++) {
    tl_buffer_done(&calls->items[i].name);
    tl_buffer_done(&calls->items[i].arguments);
  }
  free(calls->items);
  *calls = (struct api_tool_calls){0};
}

/* --- text -------------------------------------------------------------------------------------- */

/* The first n bytes of what is held are content. */
static void give(struct api_tool_parser *parser, size_t n) {
  tl_buffer_append(parser->content, parser->held.data, n);
  tl_buffer_consume(&parser->held, n);
  parser->blank = false;
  parser->n_blank = 0;
}

void tool_give_up(struct api_tool_parser *parser) {
  give(parser, parser->held.length);
}

void tool_drop(struct api_tool_parser *parser) {
  tl_buffer_clear(&parser->held);
  parser->blank = true;
  parser->n_blank = 0;
}

/* The mark, of the first n, that begins with that text; -1: none does. */
static int mark_of(const struct api_tool_format *format, unsigned n, const char *text, size_t length) {
  for (unsigned i = 0; i < n; i++)
    if (strncmp(format->marks[i], text, length) == 0) return (int)i;
  return -1;
}

int tool_find_mark(struct api_tool_parser *parser, unsigned n, char c) {
  struct tl_buffer *held = &parser->held;
  if (parser->blank && held->length == parser->n_blank && tool_is_white(c)) {
    tl_buffer_putc(held, c);
    parser->n_blank++;
    return -1;
  }
  if (held->length == 0 && mark_of(parser->format, n, &c, 1) < 0) { /* most text */
    tl_buffer_putc(parser->content, c);
    parser->blank = false;
    return -1;
  }
  tl_buffer_putc(held, c);
  while (!held->failed && held->length > parser->n_blank) {
    size_t length = held->length - parser->n_blank;
    int mark = mark_of(parser->format, n, held->data + parser->n_blank, length);
    if (mark >= 0) return parser->format->marks[mark][length] ? -1 : mark;
    give(parser, parser->n_blank + 1);
  }
  return -1;
}

int tool_find_begin(struct api_tool_parser *parser, char c) {
  const struct api_tool_format *format = parser->format;
  int mark = tool_find_mark(parser, format->n_begin + format->n_end, c);
  if (mark < 0 || (unsigned)mark < format->n_begin) return mark;
  if (parser->blank && parser->calls->n) tool_drop(parser); /* of the call just read */
  else tool_give_up(parser);
  return -1;
}

void tool_end_behind(struct api_tool_parser *parser, bool behind) {
  if (parser->open || (behind && parser->calls->n)) tool_drop(parser);
  else tool_give_up(parser);
}

void tool_end(struct api_tool_parser *parser) {
  tool_end_behind(parser, parser->state == 0 && parser->blank);
}

void tool_hold(struct api_tool_parser *parser, char c, unsigned next) {
  if (!parser->open) tl_buffer_putc(&parser->held, c);
  parser->state = (uint8_t)next;
}

bool tool_take_between(struct api_tool_parser *parser, char c, bool behind, unsigned item, unsigned text) {
  if (tool_is_white(c)) {
    tool_hold(parser, c, parser->state);
  } else if (behind && c == ',') {
    tool_hold(parser, c, item);
  } else if (behind && c == ']') {
    parser->state = (uint8_t)text;
    tool_drop(parser);
  } else {
    return false;
  }
  return true;
}

void tool_refuse(struct api_tool_parser *parser, char c) {
  char tag[TOOL_LONGEST_TAG + 1]; /* what came of one: a mark may begin with the same */
  size_t n = parser->word.length < sizeof tag ? parser->word.length : 0;
  if (parser->open || parser->held.length < n) n = 0;
  if (n) memcpy(tag, parser->word.data, n);
  tag[n++] = c;
  if (parser->open) tool_drop(parser);
  else give(parser, parser->held.length - (n - 1));
  tl_buffer_clear(&parser->held);
  tl_buffer_clear(&parser->word);
  parser->open = false;
  parser->state = 0;
  for (size_t i = 0; i < n; i++) parser->format->take(parser, tag[i]);
}

int tool_expect(struct api_tool_parser *parser, const char *const *tags, unsigned n, char c) {
  struct tl_buffer *word = &parser->word;
  if (word->length == 0 && tool_is_white(c)) return -1;
  tl_buffer_putc(word, c);
  for (unsigned i = 0; !word->failed && i < n; i++) {
    if (strncmp(tags[i], word->data, word->length) != 0) continue;
    if (tags[i][word->length]) return -1;
    tl_buffer_clear(word);
    return (int)i;
  }
  parser->failed |= word->failed;
  if (!word->failed) word->length--; /* what came of a tag before */
  return TOOL_NO_TAG;
}

/* --- objects -------------------------------------------------------------------------------------- */

/* The call is certain by now: what was held of it is markup. */
static void show(struct api_tool_parser *parser) {
  struct tool_object *object = &parser->object;
  if (api_tool_calls_add(parser->calls, object->name.data, object->name.length) < 0) parser->failed = true;
  else parser->calls->items[parser->calls->n - 1].at = parser->content->length;
  parser->open = !parser->failed;
  object->loose = true;
  tool_drop(parser);
}

/* Arguments that are no JSON, character by character: a mark ends them. At their last bracket nothing is held: none goes on behind
 * one. */
static enum tool_took move_loose(struct api_tool_parser *parser, struct tl_buffer *arguments, char c) {
  const struct api_tool_format *format = parser->format;
  struct tl_buffer *content = parser->content;
  parser->blank = false;
  parser->content = arguments;
  parser->mark = tool_find_mark(parser, format->n_begin + format->n_end, c);
  parser->content = content;
  if (parser->object.ended || parser->mark >= 0) tool_drop(parser);
  return parser->mark >= 0 ? TOOL_MARK : TOOL_MORE;
}

enum tool_took tool_take_stray(struct api_tool_parser *parser, char c, bool ended) {
  struct api_tool_call *call = &parser->calls->items[parser->calls->n - 1];
  parser->object.ended = call->ended = ended;
  enum tool_took took = move_loose(parser, &call->arguments, c);
  parser->failed |= call->arguments.failed;
  if (ended || took == TOOL_MARK) parser->open = false;
  return took;
}

static enum tool_took move_arguments(struct api_tool_parser *parser, char c, bool loose) {
  struct tool_object *object = &parser->object;
  struct api_tool_call *call = &parser->calls->items[parser->calls->n - 1];
  enum tool_took took = TOOL_MORE;
  if (loose) took = move_loose(parser, &call->arguments, c);
  else tl_buffer_append(&call->arguments, object->arguments.data, object->arguments.length);
  tl_buffer_clear(&object->arguments);
  parser->failed |= call->arguments.failed;
  call->ended = object->ended;
  return took;
}

enum tool_took tool_take_object(struct api_tool_parser *parser, char c) {
  struct tool_object *object = &parser->object;
  bool over = object->ended;
  enum tool_took took = tool_object_take(object, c), moved = TOOL_MORE;
  parser->failed |= object->name.failed || object->arguments.failed;
  if (took == TOOL_WRONG) return took;
  if (!parser->open) tl_buffer_putc(&parser->held, c);
  bool shows = object->named && object->begun && (!parser->whole || took == TOOL_DONE);
  if (!parser->open && shows) show(parser);
  if (parser->open) moved = move_arguments(parser, c, object->strayed && !over);
  if (took == TOOL_DONE || moved == TOOL_MARK) parser->open = false;
  return moved == TOOL_MARK ? moved : took;
}

void tool_show_made(struct api_tool_parser *parser, bool ended) {
  struct tool_object *object = &parser->object;
  object->ended = ended;
  parser->failed |= object->name.failed || object->arguments.failed || parser->value.text.failed;
  if (!parser->open && (ended || !parser->whole)) show(parser);
  if (parser->open) move_arguments(parser, 0, false);
  if (ended) parser->open = false;
}

/* --- pushing ---------------------------------------------------------------------------------------- */

void api_tool_parser_init(struct api_tool_parser *parser, const struct api_tool_format *format, const struct api_tool_types *types, bool whole) {
  *parser = (struct api_tool_parser){.format = format, .types = types, .whole = whole, .blank = true};
  tl_buffer_init(&parser->held, 0);
  tl_buffer_init(&parser->word, 0);
  tool_value_init(&parser->value);
  tool_object_init(&parser->object);
}

void api_tool_parser_done(struct api_tool_parser *parser) {
  tl_buffer_done(&parser->held);
  tl_buffer_done(&parser->word);
  tool_value_done(&parser->value);
  tool_object_done(&parser->object);
}

static int result(const struct api_tool_parser *parser) {
  return parser->failed || parser->held.failed || parser->content->failed ? TL_ENOMEM : TL_OK;
}

int api_tool_parser_push(struct api_tool_parser *parser, const char *text, size_t length, struct tl_buffer *content,
                         struct api_tool_calls *calls) {
  parser->content = content;
  parser->calls = calls;
  for (size_t i = 0; i < length && result(parser) == TL_OK; i++) parser->format->take(parser, text[i]);
  return result(parser);
}

int api_tool_parser_finish(struct api_tool_parser *parser, struct tl_buffer *content, struct api_tool_calls *calls) {
  parser->content = content;
  parser->calls = calls;
  parser->format->end(parser);
  return result(parser);
}
