/* SPDX-License-Identifier: MIT */
#include "http/http_private.h"

void tl_http_sse_begin(struct tl_buffer *out, const char *name) {
  if (name) tl_buffer_printf(out, "event: %s\n", name);
  tl_buffer_puts(out, "data: ");
}

void tl_http_sse_end(struct tl_buffer *out) {
  tl_buffer_append(out, "\n\n", 2);
}
