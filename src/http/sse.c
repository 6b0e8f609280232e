/* SPDX-License-Identifier: MIT */
#include "http/http_private.h"

void tl_http_sse(struct tl_buffer *out, const char *text, size_t length) {
  tl_buffer_append(out, "data: ", 6);
  tl_buffer_append(out, text, length);
  tl_buffer_append(out, "\n\n", 2);
}
