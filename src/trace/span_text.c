/* SPDX-License-Identifier: MIT */
/* What spans and their figures are called. Names are OpenTelemetry's where it has one
 * (semantic conventions "http" and "gen_ai"), tokenlane.* otherwise. */
#include <string.h>

#include "tokenlane/base/utf8.h"
#include "trace/trace_private.h"

static const struct {
  const char *name;
  const char *values[TL_SPAN_VALUES];
} kinds[TL_SPAN_KINDS] = {
    [TL_SPAN_REQUEST] = {"request", {"http.response.status_code", "http.response.body.size"}},
    [TL_SPAN_PARSE] = {"parse", {"http.request.body.size"}},
    [TL_SPAN_TOKENIZE] = {"tokenize", {"gen_ai.usage.input_tokens"}},
    [TL_SPAN_ROUTE] = {"route", {"tokenlane.replica"}},
    [TL_SPAN_QUEUE] = {"queue", {"tokenlane.replica", "tokenlane.choice", "tokenlane.try"}},
    [TL_SPAN_PREFILL] = {"prefill",
                         {"tokenlane.replica", "tokenlane.choice", "tokenlane.try", "tokenlane.position", "tokenlane.tokens"}},
    [TL_SPAN_DECODE] = {"decode", {"tokenlane.replica", "tokenlane.choice", "tokenlane.try", "tokenlane.tokens"}},
    [TL_SPAN_DETOKENIZE] = {"detokenize", {"tokenlane.choice", "tokenlane.tokens", "tokenlane.busy_ns"}},
    [TL_SPAN_WRITE] = {"write", {"tokenlane.bytes", "tokenlane.writes", "tokenlane.busy_ns"}},
    [TL_SPAN_STEP] = {"step",
                      {"tokenlane.replica", "tokenlane.sequences", "tokenlane.prefill_tokens", "tokenlane.decode_tokens"}},
};

const char *span_name(enum tl_span_kind kind) {
  return kinds[kind].name;
}

const char *span_value_name(enum tl_span_kind kind, unsigned i) {
  return kinds[kind].values[i];
}

/* Bytes that are no UTF-8 become question marks: a name of the command line may have any. */
void span_put_json_string(struct tl_buffer *out, const char *text) {
  size_t left = strlen(text);
  tl_buffer_putc(out, '"');
  while (left) {
    uint32_t code;
    size_t n = tl_utf8_decode(text, left, &code);
    if (n == 0)
      tl_buffer_putc(out, '?');
    else if (code < ' ')
      tl_buffer_printf(out, "\\u%04x", code);
    else {
      if (code == '"' || code == '\\') tl_buffer_putc(out, '\\');
      tl_buffer_append(out, text, n);
    }
    n += n == 0;
    text += n;
    left -= n;
  }
  tl_buffer_putc(out, '"');
}

void span_put_hex(struct tl_buffer *out, uint64_t id) {
  char text[16];
  trace_hex(id, text);
  tl_buffer_append(out, text, sizeof text);
}
