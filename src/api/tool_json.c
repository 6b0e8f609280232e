/* SPDX-License-Identifier: MIT */
#include "api/tool_json.h"

#include <string.h>

#include "tokenlane/base/json.h"

enum state {
  VALUE,        /* one must come */
  VALUE_OR_END, /* behind [ */
  KEY,
  KEY_OR_END, /* behind { */
  COLON,
  AFTER, /* a value has ended: , or a bracket */
  STRING,
  ESCAPE,
  HEX,
  LITERAL,
  MINUS, /* numbers, by what came last */
  ZERO,
  INTEGER,
  POINT,
  FRACTION,
  EXPONENT,
  SIGN,
  POWER,
};

static const char hex_digits[] = "xxxx"; /* as many as are to come */

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static bool is_hex(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

void tool_json_init(struct tool_json *json) {
  *json = (struct tool_json){.state = VALUE};
}

static enum tool_took go(struct tool_json *json, enum state state) {
  json->state = (uint8_t)state;
  return TOOL_MORE;
}

static bool in_list(const struct tool_json *json) {
  return json->lists >> (json->depth - 1) & 1;
}

static enum tool_took open_bracket(struct tool_json *json, bool list) {
  if (json->depth == TOOL_JSON_DEPTH) return TOOL_WRONG;
  uint64_t bit = UINT64_C(1) << json->depth++;
  json->lists = list ? json->lists | bit : json->lists & ~bit;
  return go(json, list ? VALUE_OR_END : KEY_OR_END);
}

static enum tool_took close_bracket(struct tool_json *json) {
  json->depth--;
  json->state = AFTER;
  return json->depth ? TOOL_MORE : TOOL_DONE;
}

static enum tool_took begin_literal(struct tool_json *json, const char *rest) {
  json->rest = rest;
  return go(json, LITERAL);
}

static enum tool_took begin_value(struct tool_json *json, char c) {
  if (tool_is_white(c)) return TOOL_MORE;
  if (c == '{' || c == '[') return open_bracket(json, c == '[');
  if (json->depth == 0) return TOOL_WRONG; /* an object or a list, nothing else */
  if (c == ']' && json->state == VALUE_OR_END) return close_bracket(json);
  if (c == '"') {
    json->key = false;
    return go(json, STRING);
  }
  if (c == '-') return go(json, MINUS);
  if (is_digit(c)) return go(json, c == '0' ? ZERO : INTEGER);
  if (c == 't') return begin_literal(json, "rue");
  if (c == 'f') return begin_literal(json, "alse");
  return c == 'n' ? begin_literal(json, "ull") : TOOL_WRONG;
}

static enum tool_took begin_key(struct tool_json *json, char c) {
  if (tool_is_white(c)) return TOOL_MORE;
  if (c == '}' && json->state == KEY_OR_END) return close_bracket(json);
  if (c != '"') return TOOL_WRONG;
  json->key = true;
  return go(json, STRING);
}

static enum tool_took after_value(struct tool_json *json, char c) {
  if (tool_is_white(c)) return go(json, AFTER);
  if (c == ',') return go(json, in_list(json) ? VALUE : KEY);
  return c == (in_list(json) ? ']' : '}') ? close_bracket(json) : TOOL_WRONG;
}

static enum tool_took string(struct tool_json *json, char c) {
  if (c == '"') return go(json, json->key ? COLON : AFTER);
  if (c == '\\') return go(json, ESCAPE);
  return (unsigned char)c < 0x20 ? TOOL_WRONG : TOOL_MORE;
}

static enum tool_took escape(struct tool_json *json, char c) {
  if (c == 'u') {
    json->rest = hex_digits;
    return go(json, HEX);
  }
  return c && strchr("\"\\/bfnrt", c) ? go(json, STRING) : TOOL_WRONG;
}

/* Of a literal or of \u: the rest has one character less. */
static enum tool_took rest(struct tool_json *json, char c) {
  bool hex = json->state == HEX;
  if (hex ? !is_hex(c) : c != *json->rest) return TOOL_WRONG;
  if (!*++json->rest) json->state = hex ? STRING : AFTER;
  return TOOL_MORE;
}

/* A character of a number: what it makes of it; AFTER: the number ended before it; KEY: it is wrong. */
static enum state number(enum state state, char c) {
  bool digit = is_digit(c), whole = state == ZERO || state == INTEGER;
  if (digit && state == MINUS) return c == '0' ? ZERO : INTEGER;
  if (digit && state == POINT) return FRACTION;
  if (digit && (state == EXPONENT || state == SIGN)) return POWER;
  if (digit && state != ZERO) return state;
  if (c == '.' && whole) return POINT;
  if ((c == 'e' || c == 'E') && (whole || state == FRACTION)) return EXPONENT;
  if ((c == '+' || c == '-') && state == EXPONENT) return SIGN;
  return !digit && (whole || state == FRACTION || state == POWER) ? AFTER : KEY;
}

static enum tool_took strict(struct tool_json *json, char c) {
  switch ((enum state)json->state) {
    case VALUE:
    case VALUE_OR_END: return begin_value(json, c);
    case KEY:
    case KEY_OR_END: return begin_key(json, c);
    case COLON: return tool_is_white(c) ? TOOL_MORE : c == ':' ? go(json, VALUE) : TOOL_WRONG;
    case AFTER: return after_value(json, c);
    case STRING: return string(json, c);
    case ESCAPE: return escape(json, c);
    case HEX:
    case LITERAL: return rest(json, c);
    default: break;
  }
  enum state next = number((enum state)json->state, c);
  if (next == KEY) return TOOL_WRONG;
  return next == AFTER ? after_value(json, c) : go(json, next);
}

/* Whatever stands there: strings are skipped, brackets counted. */
static enum tool_took loose(struct tool_json *json, char c) {
  if (json->state == ESCAPE) return go(json, STRING);
  if (json->state == STRING || json->state == HEX) return go(json, c == '\\' ? ESCAPE : c == '"' ? AFTER : STRING);
  json->state = AFTER;
  if (c == '"') json->state = STRING;
  else if (c == '{' || c == '[') json->depth++;
  else if (c == '}' || c == ']') json->depth--;
  return json->depth ? TOOL_MORE : TOOL_DONE;
}

enum tool_took tool_json_take(struct tool_json *json, char c) {
  return json->loose ? loose(json, c) : strict(json, c);
}

/* As the only one of a list. */
bool tool_json_is_value(const char *text, size_t length) {
  struct tool_json json;
  tool_json_init(&json);
  (void)tool_json_take(&json, '[');
  for (size_t i = 0; i < length; i++) {
    bool between = json.depth == 1 && json.state != STRING && json.state != ESCAPE && json.state != HEX;
    if ((between && text[i] == ',') || tool_json_take(&json, text[i]) != TOOL_MORE) return false;
  }
  return json.state != VALUE_OR_END && tool_json_take(&json, ']') == TOOL_DONE;
}

/* --- a call ---------------------------------------------------------------------------------- */

enum member { OTHER, NAME, ARGUMENTS };

void tool_object_init(struct tool_object *object) {
  *object = (struct tool_object){0};
  tl_buffer_init(&object->name, 0);
  tl_buffer_init(&object->arguments, 0);
}

void tool_object_done(struct tool_object *object) {
  tl_buffer_done(&object->name);
  tl_buffer_done(&object->arguments);
}

void tool_object_reset(struct tool_object *object, bool bare) {
  struct tl_buffer name = object->name, arguments = object->arguments;
  tl_buffer_clear(&name);
  tl_buffer_clear(&arguments);
  *object = (struct tool_object){.name = name, .arguments = arguments, .bare = bare, .member = bare ? ARGUMENTS : OTHER};
  tool_json_init(&object->json);
}

static enum member member_of(const struct tool_object *object) {
  static const struct { const char *key; enum member member; } members[] = {
      {"name", NAME}, {"arguments", ARGUMENTS}, {"parameters", ARGUMENTS}};
  for (unsigned i = 0; i < 3; i++)
    if (object->key_length == strlen(members[i].key) && memcmp(object->key, members[i].key, object->key_length) == 0)
      return members[i].member;
  return OTHER;
}

/* The name's JSON becomes its text. False: it is none. */
static bool read_name(struct tool_object *object) {
  uint64_t shortages = tl_json_shortages();
  json_t *text = tl_json_load(object->name.data, object->name.length, JSON_DECODE_ANY, NULL);
  bool fine = json_string_length(text) > 0;
  tl_buffer_clear(&object->name);
  object->name.failed |= tl_json_shortages() != shortages;
  if (fine) tl_buffer_append(&object->name, json_string_value(text), json_string_length(text));
  json_decref(text);
  return object->named = fine;
}

/* A character of a member's name, at depth 1; its key is what stands between the quotes. */
static void take_key(struct tool_object *object, char c, bool began) {
  if (began) object->key_length = 0;
  else if (object->key_length < sizeof object->key) object->key[object->key_length++] = c;
}

/* A member's value begins with c: whether one of that kind may. */
static bool begin_member(struct tool_object *object, char c) {
  if (object->key_length) object->key_length--; /* the quote behind it */
  object->member = (uint8_t)member_of(object);
  if (object->member == NAME) return c == '"' && !object->named;
  if (object->member != ARGUMENTS) return true;
  if (c != '{' || object->begun) return false;
  return object->begun = true;
}

static enum tool_took take_member(struct tool_object *object, char c, bool ends) {
  if (object->member == NAME) {
    tl_buffer_putc(&object->name, c);
    if (ends && !read_name(object)) return TOOL_WRONG;
  } else if (object->member == ARGUMENTS && !object->ended) {
    tl_buffer_putc(&object->arguments, c);
    object->ended = ends;
  }
  return TOOL_MORE;
}

static enum tool_took take_bare(struct tool_object *object, char c) {
  if (!object->begun && tool_is_white(c)) return TOOL_MORE;
  if (!object->begun && c != '{') return TOOL_WRONG;
  enum tool_took took = tool_json_take(&object->json, c);
  if (took == TOOL_WRONG && object->loose) {
    object->strayed = object->json.loose = true;
    took = tool_json_take(&object->json, c);
  }
  if (took == TOOL_WRONG) return took;
  object->begun = true;
  tl_buffer_putc(&object->arguments, c);
  object->ended = took == TOOL_DONE;
  return took;
}

/* Its brackets have closed: what stands around the arguments is JSON again. */
static void tighten(struct tool_json *json) {
  json->loose = false;
  json->state = AFTER;
}

static enum tool_took take_loose(struct tool_object *object, char c) {
  (void)tool_json_take(&object->json, c); /* the object's own bracket keeps it from being done */
  tl_buffer_putc(&object->arguments, c);
  object->ended = object->json.depth == 1 && object->json.state != STRING && object->json.state != ESCAPE;
  if (object->ended) tighten(&object->json);
  return TOOL_MORE;
}

/* Whether c, which the scanner has taken, belongs to the key of a member of the object itself. */
static bool of_key(const struct tool_json *before, char c) {
  if (before->depth != 1) return false;
  if (before->state == KEY || before->state == KEY_OR_END) return c == '"';
  return before->key && (before->state == STRING || before->state == ESCAPE || before->state == HEX);
}

/* The same of a member's value, as far as it is a string, an object or a list. */
static bool of_value(const struct tool_json *before, char c) {
  if (before->depth != 1) return before->depth > 1;
  if (before->state == VALUE) return !tool_is_white(c);
  return !before->key && (before->state == STRING || before->state == ESCAPE || before->state == HEX);
}

enum tool_took tool_object_take(struct tool_object *object, char c) {
  struct tool_json *json = &object->json, before = *json;
  if (object->bare) return take_bare(object, c);
  if (json->loose) return take_loose(object, c);
  bool within = object->member == ARGUMENTS && object->begun && !object->ended;
  if (before.depth == 1 && before.state == VALUE && !tool_is_white(c) && !begin_member(object, c)) return TOOL_WRONG;
  enum tool_took took = tool_json_take(json, c);
  if (took == TOOL_WRONG && within && object->loose) {
    object->strayed = json->loose = true;
    return take_loose(object, c);
  }
  if (took == TOOL_DONE) return object->named && object->ended ? took : TOOL_WRONG;
  if (took == TOOL_WRONG) return took;
  if (of_key(&before, c)) take_key(object, c, before.state == KEY || before.state == KEY_OR_END);
  else if (of_value(&before, c)) return take_member(object, c, json->depth == 1 && json->state == AFTER);
  return TOOL_MORE;
}
