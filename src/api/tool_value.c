/* SPDX-License-Identifier: MIT */
#include "api/tool_value.h"

#include <string.h>
#include <strings.h>

#include "api/tool_python.h"

void tool_value_init(struct tool_value *value) {
  *value = (struct tool_value){0};
  tl_buffer_init(&value->text, 0);
}

void tool_value_done(struct tool_value *value) {
  tl_buffer_done(&value->text);
}

void tool_put_escaped(struct tl_buffer *out, char c) {
  static const char from[] = "\"\\\n\r\t", to[] = "\"\\nrt";
  const char *found = c ? strchr(from, c) : NULL;
  if (found) tl_buffer_putc(out, '\\');
  if (!found && (unsigned char)c < 0x20) tl_buffer_printf(out, "\\u%04x", (unsigned char)c);
  else tl_buffer_putc(out, found ? to[found - from] : c);
}

/* It is a string after all. */
static void open_string(struct tool_value *value, struct tl_buffer *out) {
  value->open = true;
  tl_buffer_putc(out, '"');
  for (size_t i = 0; i < value->text.length; i++) tool_put_escaped(out, value->text.data[i]);
}

void tool_value_begin(struct tool_value *value, unsigned kinds, struct tl_buffer *out) {
  tl_buffer_clear(&value->text);
  value->kinds = kinds;
  value->open = false;
  if (kinds == TOOL_STRING) open_string(value, out);
}

/* Python's word for it too, as templates write it. */
static bool begins_null(const struct tl_buffer *text) {
  return text->length <= 4 && (strncasecmp(text->data, "null", text->length) == 0 || strncasecmp(text->data, "none", text->length) == 0);
}

void tool_value_take(struct tool_value *value, char c, struct tl_buffer *out) {
  if (value->open) {
    tool_put_escaped(out, c);
    return;
  }
  tl_buffer_putc(&value->text, c);
  if (value->kinds == (TOOL_STRING | TOOL_NULL) && !begins_null(&value->text)) open_string(value, out);
}

static bool write_word(const char *text, size_t length, struct tl_buffer *out) {
  static const char *const words[][2] = {{"true", "true"}, {"false", "false"}, {"null", "null"}, {"none", "null"}};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (length == strlen(words[i][0]) && strncasecmp(text, words[i][0], length) == 0) return tl_buffer_puts(out, words[i][1]) == 0;
  return false;
}

/* A list or a dict as Python writes it. */
static bool write_python(const char *text, size_t length, struct tl_buffer *out) {
  struct tool_python python;
  enum tool_took took = TOOL_MORE;
  size_t i = 0, before = out->length;
  tool_python_init(&python, false);
  while (i < length && took == TOOL_MORE) took = tool_python_take(&python, text[i++], out);
  if (took == TOOL_DONE && i == length) return true;
  out->length = before;
  return false;
}

void tool_value_end(struct tool_value *value, struct tl_buffer *out) {
  const char *text = value->text.data;
  size_t n = value->text.length;
  while (!value->open && n && tool_is_white(*text)) text++, n--;
  while (!value->open && n && tool_is_white(text[n - 1])) n--;
  if (!value->open && n) {
    if (write_word(text, n, out)) return;
    if (tool_json_is_value(text, n)) {
      tl_buffer_append(out, text, n);
      return;
    }
    if (write_python(text, n, out)) return;
  }
  if (!value->open) open_string(value, out);
  tl_buffer_putc(out, '"');
}
