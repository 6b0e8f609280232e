/* SPDX-License-Identifier: MIT */
#include "api/tool_python.h"

#include <string.h>

#include "api/tool_value.h"

enum state {
  BEGIN,
  BEGIN_CALL,
  ITEM, /* of a list, or what stands behind = or : */
  ITEM_OR_END,
  KEY,
  KEY_OR_END,
  KEYWORD, /* the name of an argument must come */
  KEYWORD_OR_END,
  IN_KEYWORD,
  EQUALS,
  COLON,
  AFTER, /* a value has ended */
  WORD,
  OPENED, /* one quote was read, or two: the string is empty, or three are its quotes */
  OPENED_TWICE,
  STRING,
  CLOSING, /* in a string with three quotes behind some of them */
  ESCAPE,
  HEX,
  OCTAL,
};

enum bracket { CALL, LIST, DICT };

void tool_python_init(struct tool_python *python, bool call) {
  *python = (struct tool_python){.state = call ? BEGIN_CALL : BEGIN};
}

static enum tool_took go(struct tool_python *p, enum state state) {
  p->state = (uint8_t)state;
  return TOOL_MORE;
}

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static bool begins_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80;
}

/* --- brackets -------------------------------------------------------------------------------- */

/* Something comes behind a comma, or comes first. */
static void separate(struct tool_python *p, struct tl_buffer *out) {
  if (p->more) tl_buffer_puts(out, ", ");
  p->more = false;
}

static enum tool_took open_bracket(struct tool_python *p, enum bracket bracket, struct tl_buffer *out) {
  static const uint8_t next[] = {[CALL] = KEYWORD_OR_END, [LIST] = ITEM_OR_END, [DICT] = KEY_OR_END};
  if (p->depth == TOOL_JSON_DEPTH) return TOOL_WRONG;
  separate(p, out);
  tl_buffer_putc(out, bracket == LIST ? '[' : '{');
  p->brackets[p->depth++] = (uint8_t)bracket;
  return go(p, (enum state)next[bracket]);
}

static bool closes(const struct tool_python *p, char c) {
  return p->depth && c == ")]}"[p->brackets[p->depth - 1]];
}

static enum tool_took close_bracket(struct tool_python *p, struct tl_buffer *out) {
  tl_buffer_putc(out, p->brackets[--p->depth] == LIST ? ']' : '}');
  p->state = AFTER;
  p->more = false;
  if (p->depth) return TOOL_MORE;
  p->named = true;
  return TOOL_DONE;
}

static enum tool_took after_value(struct tool_python *p, char c, struct tl_buffer *out) {
  static const uint8_t next[] = {[CALL] = KEYWORD_OR_END, [LIST] = ITEM_OR_END, [DICT] = KEY_OR_END};
  p->state = AFTER;
  if (tool_is_white(c)) return TOOL_MORE;
  if (closes(p, c)) return close_bracket(p, out);
  if (c != ',') return TOOL_WRONG;
  p->more = true;
  return go(p, (enum state)next[p->brackets[p->depth - 1]]);
}

/* --- numbers and constants ------------------------------------------------------------------------- */

/* Python also has .5 and 5. for numbers. */
static bool write_number(const char *word, size_t n, struct tl_buffer *out) {
  char number[TOOL_PYTHON_WORD + 2];
  size_t k = 0, sign = word[0] == '-';
  if (sign) number[k++] = '-';
  if (word[sign] == '.' && n > sign + 1) number[k++] = '0';
  memcpy(number + k, word + sign, n - sign);
  k += n - sign;
  if (number[k - 1] == '.' && k > 1 && is_digit(number[k - 2])) number[k++] = '0';
  if (!tool_json_is_value(number, k)) return false;
  tl_buffer_append(out, number, k);
  return true;
}

static bool write_word(const struct tool_python *p, struct tl_buffer *out) {
  static const char *const words[][2] = {{"True", "true"}, {"False", "false"}, {"None", "null"}, {"true", "true"}, {"false", "false"}, {"null", "null"}};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (p->n_word == strlen(words[i][0]) && memcmp(p->word, words[i][0], p->n_word) == 0) return tl_buffer_puts(out, words[i][1]) == 0;
  return !begins_name(p->word[0]) && write_number(p->word, p->n_word, out);
}

static enum tool_took in_word(struct tool_python *p, char c, struct tl_buffer *out) {
  if (begins_name(c) || is_digit(c) || c == '.' || c == '+' || c == '-') {
    if (p->n_word == TOOL_PYTHON_WORD) return TOOL_WRONG;
    p->word[p->n_word++] = c;
    return TOOL_MORE;
  }
  if (!write_word(p, out)) return TOOL_WRONG;
  p->n_word = 0;
  return after_value(p, c, out);
}

/* --- strings -------------------------------------------------------------------------------------------- */

static enum tool_took open_string(struct tool_python *p, char c, bool key, struct tl_buffer *out) {
  separate(p, out);
  tl_buffer_putc(out, '"');
  p->quote = c;
  p->key = key;
  p->triple = false;
  return go(p, OPENED);
}

static enum tool_took close_string(struct tool_python *p, struct tl_buffer *out) {
  tl_buffer_putc(out, '"');
  return go(p, p->key ? COLON : AFTER);
}

static enum tool_took string(struct tool_python *p, char c, struct tl_buffer *out) {
  p->state = STRING;
  if (c == '\\') return go(p, ESCAPE);
  if (c == p->quote && !p->triple) return close_string(p, out);
  if (c == p->quote) {
    p->n = 1;
    return go(p, CLOSING);
  }
  if (c == '\n' && !p->triple) return TOOL_WRONG;
  tool_put_escaped(out, c);
  return TOOL_MORE;
}

static enum tool_took opened(struct tool_python *p, char c, struct tl_buffer *out) {
  if (p->state == OPENED) return c == p->quote ? go(p, OPENED_TWICE) : string(p, c, out);
  if (c == p->quote) {
    p->triple = true;
    return go(p, STRING);
  }
  close_string(p, out);
  return tool_python_take(p, c, out);
}

static enum tool_took closing(struct tool_python *p, char c, struct tl_buffer *out) {
  if (c == p->quote) return ++p->n == 3 ? close_string(p, out) : TOOL_MORE;
  while (p->n--) tool_put_escaped(out, p->quote);
  return string(p, c, out);
}

static enum tool_took put_code(struct tool_python *p, struct tl_buffer *out) {
  uint32_t code = p->code;
  if (code > 0x10ffff) return TOOL_WRONG;
  if (code < 0x10000) tl_buffer_printf(out, "\\u%04x", code);
  else tl_buffer_printf(out, "\\u%04x\\u%04x", 0xd800 + ((code - 0x10000) >> 10), 0xdc00 + ((code - 0x10000) & 0x3ff));
  return go(p, STRING);
}

static enum tool_took begin_code(struct tool_python *p, enum state state, uint8_t n, uint32_t code) {
  p->n = n;
  p->code = code;
  return go(p, state);
}

static enum tool_took escape(struct tool_python *p, char c, struct tl_buffer *out) {
  if (c == 'x' || c == 'u' || c == 'U') return begin_code(p, HEX, c == 'x' ? 2 : c == 'u' ? 4 : 8, 0);
  if (c >= '0' && c <= '7') return begin_code(p, OCTAL, 2, (uint32_t)(c - '0'));
  if (c == 'N') return TOOL_WRONG; /* a character by its name */
  p->state = STRING;
  if (c == '\n') return TOOL_MORE; /* the string goes on in the next line */
  if (c == 'a' || c == 'v') tl_buffer_puts(out, c == 'a' ? "\\u0007" : "\\u000b");
  else if (c && strchr("nrtbf", c)) tl_buffer_printf(out, "\\%c", c);
  else {
    if (c != '\\' && c != '\'' && c != '"') tl_buffer_puts(out, "\\\\"); /* of others the backslash stays */
    tool_put_escaped(out, c);
  }
  return TOOL_MORE;
}

static enum tool_took hex(struct tool_python *p, char c, struct tl_buffer *out) {
  uint32_t digit = is_digit(c) ? (uint32_t)(c - '0') : (uint32_t)((c | 0x20) - 'a' + 10);
  if (!is_digit(c) && ((c | 0x20) < 'a' || (c | 0x20) > 'f')) return TOOL_WRONG;
  p->code = p->code << 4 | digit;
  return --p->n ? TOOL_MORE : put_code(p, out);
}

static enum tool_took octal(struct tool_python *p, char c, struct tl_buffer *out) {
  bool digit = c >= '0' && c <= '7';
  if (digit) p->code = p->code << 3 | (uint32_t)(c - '0');
  if (digit && --p->n) return TOOL_MORE;
  put_code(p, out);
  return digit ? TOOL_MORE : string(p, c, out);
}

/* --- values --------------------------------------------------------------------------------------------- */

static enum tool_took begin_item(struct tool_python *p, char c, struct tl_buffer *out) {
  if (tool_is_white(c)) return TOOL_MORE;
  if (p->state == ITEM_OR_END && closes(p, c)) return close_bracket(p, out);
  if (c == '[' || c == '{') return open_bracket(p, c == '[' ? LIST : DICT, out);
  if (c == '"' || c == '\'') return open_string(p, c, false, out);
  if (!begins_name(c) && !is_digit(c) && c != '-' && c != '.') return TOOL_WRONG;
  separate(p, out);
  p->state = WORD;
  return in_word(p, c, out);
}

static enum tool_took begin_key(struct tool_python *p, char c, struct tl_buffer *out) {
  if (tool_is_white(c)) return TOOL_MORE;
  if (p->state == KEY_OR_END && closes(p, c)) return close_bracket(p, out);
  return c == '"' || c == '\'' ? open_string(p, c, true, out) : TOOL_WRONG;
}

static enum tool_took begin_keyword(struct tool_python *p, char c, struct tl_buffer *out) {
  if (tool_is_white(c)) return TOOL_MORE;
  if (p->state == KEYWORD_OR_END && closes(p, c)) return close_bracket(p, out);
  if (!begins_name(c)) return TOOL_WRONG;
  separate(p, out);
  tl_buffer_putc(out, '"');
  tl_buffer_putc(out, c);
  return go(p, IN_KEYWORD);
}

/* What stands between a name and its value: = or : */
static enum tool_took between(struct tool_python *p, char c, struct tl_buffer *out) {
  if (tool_is_white(c)) return TOOL_MORE;
  if (c != (p->state == EQUALS ? '=' : ':')) return TOOL_WRONG;
  tl_buffer_puts(out, ": ");
  p->named = true;
  return go(p, ITEM);
}

static enum tool_took in_keyword(struct tool_python *p, char c, struct tl_buffer *out) {
  if (begins_name(c) || is_digit(c)) {
    tl_buffer_putc(out, c);
    return TOOL_MORE;
  }
  tl_buffer_putc(out, '"');
  p->state = EQUALS;
  return between(p, c, out);
}

static enum tool_took begin(struct tool_python *p, char c, struct tl_buffer *out) {
  if (p->state == BEGIN_CALL) return c == '(' ? open_bracket(p, CALL, out) : TOOL_WRONG;
  return c == '[' || c == '{' ? open_bracket(p, c == '[' ? LIST : DICT, out) : TOOL_WRONG;
}

enum tool_took tool_python_skip(struct tool_python *p, char c) {
  if (p->state == ESCAPE) return go(p, STRING);
  if (p->state >= OPENED) return go(p, c == '\\' ? ESCAPE : c == p->quote || c == '\n' ? AFTER : STRING);
  p->state = AFTER;
  if (c == '"' || c == '\'') {
    p->quote = c;
    p->state = STRING;
  } else if (strchr("([{", c) && c) {
    p->depth++;
  } else if (strchr(")]}", c) && c) {
    p->depth--;
  }
  return p->depth ? TOOL_MORE : TOOL_DONE;
}

enum tool_took tool_python_take(struct tool_python *p, char c, struct tl_buffer *out) {
  switch ((enum state)p->state) {
    case BEGIN:
    case BEGIN_CALL: return begin(p, c, out);
    case ITEM:
    case ITEM_OR_END: return begin_item(p, c, out);
    case KEY:
    case KEY_OR_END: return begin_key(p, c, out);
    case KEYWORD:
    case KEYWORD_OR_END: return begin_keyword(p, c, out);
    case IN_KEYWORD: return in_keyword(p, c, out);
    case EQUALS:
    case COLON: return between(p, c, out);
    case AFTER: return after_value(p, c, out);
    case WORD: return in_word(p, c, out);
    case OPENED:
    case OPENED_TWICE: return opened(p, c, out);
    case STRING: return string(p, c, out);
    case CLOSING: return closing(p, c, out);
    case ESCAPE: return escape(p, c, out);
    case HEX: return hex(p, c, out);
    case OCTAL: return octal(p, c, out);
  }
  return TOOL_WRONG;
}
