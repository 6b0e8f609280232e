/* SPDX-License-Identifier: MIT */
/* A value that a model wrote without quotes, as JSON of the kind that its tool wants: strings as they come, what else there is once it is whole.
 * Pure. */
#ifndef API_TOOL_VALUE_H
#define API_TOOL_VALUE_H

#include "api/tool_types.h"
#include "tokenlane/base/buffer.h"

struct tool_value {
  struct tl_buffer text; /* what has come, as long as it may be no string */
  unsigned kinds;
  bool open; /* it is a string, and goes out as it comes */
};
void tool_value_init(struct tool_value *value);
void tool_value_done(struct tool_value *value);
/* The next one; keeps its memory. kinds: of enum tool_kind; strings alone, or strings and null, are strings whatever comes;
 * others are JSON, or Python's literals, or else strings. Without memory text says `failed`. */
void tool_value_begin(struct tool_value *value, unsigned kinds, struct tl_buffer *out);
void tool_value_take(struct tool_value *value, char c, struct tl_buffer *out);
void tool_value_end(struct tool_value *value, struct tl_buffer *out);

/* A byte of a JSON string's text. */
void tool_put_escaped(struct tl_buffer *out, char c);

#endif
