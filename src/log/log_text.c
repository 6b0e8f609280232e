/* SPDX-License-Identifier: MIT */
/* Text into a buffer of fixed size. What does not fit is left out: callers keep
 * LOG_LINE_BYTES free, which no line exceeds. Written by hand so that the crash
 * handler may use it, and because printf costs the writer most of its time. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "log/log_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/utf8.h"

int log_text_priority(int level) {
  static const int priorities[] = {3, 4, 6, 7};
  return priorities[level];
}

void log_text_put(struct log_text *out, const char *bytes, size_t length) {
  if (length > out->capacity - out->length) length = out->capacity - out->length;
  memcpy(out->data + out->length, bytes, length);
  out->length += length;
}

void log_text_puts(struct log_text *out, const char *text) {
  log_text_put(out, text, strlen(text));
}

static void put_char(struct log_text *out, char c) {
  if (out->length < out->capacity) out->data[out->length++] = c;
}

static void put_hex(struct log_text *out, unsigned char c) {
  put_char(out, "0123456789abcdef"[c >> 4]);
  put_char(out, "0123456789abcdef"[c & 15]);
}

/* At least `width` digits. */
static void put_unsigned(struct log_text *out, uint64_t value, int width) {
  char digits[20];
  int n = 0;
  do digits[n++] = (char)('0' + value % 10);
  while (value /= 10);
  while (n < width) digits[n++] = '0';
  while (n) put_char(out, digits[--n]);
}

static void put_signed(struct log_text *out, int64_t value) {
  if (value < 0) put_char(out, '-');
  put_unsigned(out, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, 1);
}

/* As %g where that uses no exponent, at a fifth of its price; a tie in the seventh digit may
 * round the other way. False: not such a number. */
static bool put_six_digits(struct log_text *out, double value) {
  double size = fabs(value), scale = 1, limit = 1e6;
  int decimals = 0;
  if (!(size < 999999) || (size < 1e-3 && value != 0)) return false;
  while (decimals < 8 && size * scale * 10 < limit - 0.5) scale *= 10, decimals++;
  uint64_t scaled = (uint64_t)(size * scale + 0.5), whole = scaled / (uint64_t)scale, rest = scaled % (uint64_t)scale;
  while (decimals && rest % 10 == 0) rest /= 10, decimals--;
  if (signbit(value)) put_char(out, '-');
  put_unsigned(out, whole, 1);
  if (decimals) {
    put_char(out, '.');
    put_unsigned(out, rest, decimals);
  }
  return true;
}

static void put_fraction(struct log_text *out, double value) {
  char text[32];
  if (put_six_digits(out, value)) return;
  if (!out->plain) {
    log_text_put(out, text, (size_t)snprintf(text, sizeof text, "%g", value));
  } else if (!(fabs(value) < 1e15)) {
    log_text_puts(out, isnan(value) ? "nan" : value > 0 ? ">1e15" : "<-1e15");
  } else { /* thousandths, cut */
    if (value < 0) put_char(out, '-');
    uint64_t thousandths = (uint64_t)(fabs(value) * 1000);
    put_unsigned(out, thousandths / 1000, 1);
    put_char(out, '.');
    put_unsigned(out, thousandths % 1000, 3);
  }
}

/* 2026-02-28T23:59:59.007Z. gmtime_r may take the time zone's lock, so: days to civil date in
 * eras of 400 years that begin in March (Hinnant, "chrono-compatible low-level date algorithms"). */
void log_text_put_time(struct log_text *out, int64_t wall_ns) {
  int64_t ms = wall_ns / 1000000, seconds = ms / 1000, days = seconds / 86400 + 719468;
  int64_t era = days / 146097, day = days % 146097;
  int64_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
  day -= 365 * year + year / 4 - year / 100;
  int64_t march_month = (5 * day + 2) / 153;
  int64_t month = march_month < 10 ? march_month + 3 : march_month - 9;
  put_unsigned(out, (uint64_t)(era * 400 + year + (month <= 2)), 4);
  put_char(out, '-');
  put_unsigned(out, (uint64_t)month, 2);
  put_char(out, '-');
  put_unsigned(out, (uint64_t)(day - (153 * march_month + 2) / 5 + 1), 2);
  put_char(out, 'T');
  put_unsigned(out, (uint64_t)(seconds / 3600 % 24), 2);
  put_char(out, ':');
  put_unsigned(out, (uint64_t)(seconds / 60 % 60), 2);
  put_char(out, ':');
  put_unsigned(out, (uint64_t)(seconds % 60), 2);
  put_char(out, '.');
  put_unsigned(out, (uint64_t)(ms % 1000), 3);
  put_char(out, 'Z');
}

void log_text_put_value(struct log_text *out, const struct tl_log_field *field) {
  switch (field->kind) {
    case TL_LOG_KIND_STR: log_text_puts(out, field->str ? field->str : ""); break;
    case TL_LOG_KIND_INT: put_signed(out, field->i); break;
    case TL_LOG_KIND_UINT: put_unsigned(out, field->u, 1); break;
    case TL_LOG_KIND_F64: put_fraction(out, field->f); break;
  }
}

/* --- logfmt --------------------------------------------------------------------------------- */

void log_text_put_quoted(struct log_text *out, const char *text) {
  bool plain = *text != 0;
  for (const unsigned char *c = (const unsigned char *)text; *c && plain; c++)
    plain = *c > ' ' && *c != '"' && *c != '=' && *c != '\\' && *c != 0x7f;
  if (plain) {
    log_text_puts(out, text);
    return;
  }
  put_char(out, '"');
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (*c == '"' || *c == '\\') {
      put_char(out, '\\');
      put_char(out, (char)*c);
    } else if (*c == '\n') {
      log_text_puts(out, "\\n");
    } else if (*c < ' ' || *c == 0x7f) {
      log_text_puts(out, "\\x");
      put_hex(out, *c);
    } else {
      put_char(out, (char)*c);
    }
  }
  put_char(out, '"');
}

static void put_logfmt(struct log_text *out, const struct log_record *record, const struct tl_log_field *fields) {
  log_text_puts(out, "ts=");
  log_text_put_time(out, record->wall_ns);
  log_text_puts(out, " level=");
  log_text_puts(out, log_level_name(record->level));
  log_text_puts(out, " module=");
  log_text_puts(out, record->module);
  log_text_puts(out, " msg=");
  log_text_put_quoted(out, record->message);
  for (unsigned i = 0; i < record->n_fields; i++) {
    put_char(out, ' ');
    log_text_puts(out, fields[i].key);
    put_char(out, '=');
    if (fields[i].kind == TL_LOG_KIND_STR)
      log_text_put_quoted(out, fields[i].str ? fields[i].str : "");
    else
      log_text_put_value(out, &fields[i]);
  }
}

/* --- JSON ------------------------------------------------------------------------------------- */

/* Strings come from clients and are cut at 512 bytes: what is not UTF-8 becomes U+FFFD. */
static void put_json_string(struct log_text *out, const char *text) {
  size_t left = strlen(text), n;
  put_char(out, '"');
  for (; left; text += n, left -= n) {
    uint32_t code;
    unsigned char c = (unsigned char)*text;
    n = c < 0x80 ? 1 : tl_utf8_decode(text, left, &code);
    if (n == 0) {
      n = 1;
      log_text_puts(out, "\xef\xbf\xbd");
    } else if (c == '"' || c == '\\') {
      put_char(out, '\\');
      put_char(out, (char)c);
    } else if (c == '\n') {
      log_text_puts(out, "\\n");
    } else if (c < ' ' || c == 0x7f) {
      log_text_puts(out, "\\u00");
      put_hex(out, c);
    } else {
      log_text_put(out, text, n);
    }
  }
  put_char(out, '"');
}

static void put_json(struct log_text *out, const struct log_record *record, const struct tl_log_field *fields) {
  log_text_puts(out, "{\"ts\":\"");
  log_text_put_time(out, record->wall_ns);
  log_text_puts(out, "\",\"level\":\"");
  log_text_puts(out, log_level_name(record->level));
  log_text_puts(out, "\",\"module\":");
  put_json_string(out, record->module);
  log_text_puts(out, ",\"msg\":");
  put_json_string(out, record->message);
  for (unsigned i = 0; i < record->n_fields; i++) {
    put_char(out, ',');
    put_json_string(out, fields[i].key);
    put_char(out, ':');
    if (fields[i].kind == TL_LOG_KIND_STR)
      put_json_string(out, fields[i].str ? fields[i].str : "");
    else if (fields[i].kind == TL_LOG_KIND_F64 && !isfinite(fields[i].f))
      log_text_puts(out, "null"); /* JSON has no other word for it */
    else
      log_text_put_value(out, &fields[i]);
  }
  put_char(out, '}');
}

void log_text_put_line(struct log_text *out, enum log_format format, const struct log_record *record,
                       const struct tl_log_field *fields, bool priority) {
  if (priority) {
    put_char(out, '<');
    put_unsigned(out, (uint64_t)log_text_priority(record->level), 1);
    put_char(out, '>');
  }
  if (format == LOG_FORMAT_JSON)
    put_json(out, record, fields);
  else
    put_logfmt(out, record, fields);
  put_char(out, '\n');
}
