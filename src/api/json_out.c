/* SPDX-License-Identifier: MIT */
/* Writing JSON straight into a buffer: chunks are made once a token, so they
 * build no tree. */
#include <math.h>
#include <stdio.h>

#include "api/api_private.h"
#include "tokenlane/base/utf8.h"

static void escape_control(struct tl_buffer *out, unsigned char c) {
  switch (c) {
    case '"': tl_buffer_puts(out, "\\\""); break;
    case '\\': tl_buffer_puts(out, "\\\\"); break;
    case '\n': tl_buffer_puts(out, "\\n"); break;
    case '\r': tl_buffer_puts(out, "\\r"); break;
    case '\t': tl_buffer_puts(out, "\\t"); break;
    default: tl_buffer_printf(out, "\\u%04x", c); break;
  }
}

static bool plain(unsigned char c) {
  return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

/* What some clients' line readers split an event at, though its format does not. */
static bool ends_a_line(uint32_t code) {
  return code == 0x85 || code == 0x2028 || code == 0x2029;
}

void api_json_string(struct tl_buffer *out, const char *text, size_t length) {
  tl_buffer_putc(out, '"');
  for (size_t i = 0; i < length;) {
    size_t run = i;
    while (run < length && plain((unsigned char)text[run])) run++;
    if (run > i) {
      tl_buffer_append(out, text + i, run - i);
      i = run;
      continue;
    }
    uint32_t code;
    size_t n = tl_utf8_decode(text + i, length - i, &code);
    if (n > 1 && ends_a_line(code)) {
      tl_buffer_printf(out, "\\u%04x", code);
    } else if (n > 1) {
      tl_buffer_append(out, text + i, n);
    } else if (n == 1) {
      escape_control(out, (unsigned char)text[i]);
    } else {
      tl_buffer_puts(out, "\xef\xbf\xbd"); /* U+FFFD: JSON is UTF-8 whatever comes */
      n = 1;
    }
    i += n;
  }
  tl_buffer_putc(out, '"');
}

static int append(const char *text, size_t length, void *out) {
  return tl_buffer_append(out, text, length);
}

int api_json_value(struct tl_buffer *out, const json_t *value, size_t flags) {
  return json_dump_callback(value, append, out, JSON_ENCODE_ANY | JSON_COMPACT | flags) < 0 ? TL_ENOMEM : TL_OK;
}

void api_json_number(struct tl_buffer *out, double value) {
  /* JSON has no infinities; a log-probability of -inf is written as OpenAI does */
  if (!isfinite(value))
    tl_buffer_puts(out, "-9999.0");
  else
    tl_buffer_printf(out, "%.9g", value);
}
