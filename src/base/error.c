/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int (tl_error_set)(struct tl_error *err, int code, const char *field, const char *format, ...) {
  if (!err) return code;
  err->code = code;
  err->http_status = 0;
  snprintf(err->field, sizeof err->field, "%s", field ? field : "");
  va_list args;
  va_start(args, format);
  vsnprintf(err->message, sizeof err->message, format, args);
  va_end(args);
  for (char *c = err->message; *c; c++)
    if (*c == '\n' || *c == '\r') *c = ' ';
  return code;
}

int tl_error_prefix(struct tl_error *err, const char *prefix) {
  if (!err) return TL_EINVAL;
  char message[TL_ERROR_MESSAGE];
  memcpy(message, err->message, sizeof message);
  /* what does not fit is cut: the cause comes last, so the prefix is kept short */
  snprintf(err->message, sizeof err->message, "%.150s: %.260s", prefix, message);
  return err->code;
}
