/* SPDX-License-Identifier: MIT */
/* W3C Trace Context, https://www.w3.org/TR/trace-context/ (level 1, 2021-11-23). The
 * headers are a client's: what is not exactly as the text has it is ignored. */
#include <string.h>

#include "trace/trace_private.h"

#define MAX_MEMBERS 32

static int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; /* capitals are not allowed */
}

/* n <= 16 digits at *at, which moves past them. */
static bool read_hex(const char **at, unsigned n, uint64_t *ret) {
  *ret = 0;
  for (unsigned i = 0; i < n; i++) {
    int d = digit(*(*at)++);
    if (d < 0) return false;
    *ret = *ret << 4 | (unsigned)d;
  }
  return true;
}

/* version-trace-parent-flags; a version above 00 may go on behind another dash. */
bool traceparent_read(const char *text, struct tl_trace_context *ret) {
  uint64_t version, flags;
  struct tl_trace_context c = {0};
  size_t length = strnlen(text, TL_TRACEPARENT_BYTES); /* more than 55 for those that go on */
  const char *at = text;
  if (length < TL_TRACEPARENT_BYTES - 1) return false;
  if (!read_hex(&at, 2, &version) || *at++ != '-' || !read_hex(&at, 16, &c.trace_id[0]) ||
      !read_hex(&at, 16, &c.trace_id[1]) || *at++ != '-' || !read_hex(&at, 16, &c.parent_id) || *at++ != '-' ||
      !read_hex(&at, 2, &flags))
    return false;
  if (version == 0xff || (*at && (version == 0 || *at != '-'))) return false;
  if (!(c.trace_id[0] | c.trace_id[1]) || !c.parent_id) return false;
  c.sampled = flags & 1;
  *ret = c;
  return true;
}

void trace_hex(uint64_t id, char ret[16]) {
  for (int i = 0; i < 16; i++) ret[i] = "0123456789abcdef"[id >> (60 - 4 * i) & 15];
}

void tl_trace_id_write(const struct tl_trace_context *context, char ret[TL_TRACE_ID_BYTES]) {
  trace_hex(context->trace_id[0], ret);
  trace_hex(context->trace_id[1], ret + 16);
  ret[32] = 0;
}

void tl_traceparent_write(const struct tl_trace_context *context, char ret[TL_TRACEPARENT_BYTES]) {
  ret[0] = ret[1] = '0'; /* the version */
  ret[2] = '-';
  tl_trace_id_write(context, ret + 3);
  ret[35] = '-';
  trace_hex(context->span_id, ret + 36);
  memcpy(ret + 52, context->sampled ? "-01" : "-00", 4);
}

/* As OpenTelemetry's consistent probability sampling: the last 56 bits of the id are taken for
 * random, and those at or above the threshold are kept. So all services that sample alike keep the same traces, and a
 * higher rate keeps what a lower one does. */
bool trace_is_sampled(uint64_t trace_id_low, unsigned per_mille) {
  uint64_t bits = (uint64_t)1 << 56, threshold = bits / 1000 * (1000 - per_mille);
  return per_mille > 0 && (trace_id_low & (bits - 1)) >= threshold;
}

/* --- tracestate -------------------------------------------------------------------------------- */

static bool is_key_byte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '*' || c == '/';
}

/* One member: key, or tenant@system, then '=' and 1 to 256 printable bytes without ',' and '='. */
static bool is_member(const char *text, size_t length) {
  const char *equals = memchr(text, '=', length);
  if (!equals) return false;
  size_t n_key = (size_t)(equals - text), n_value = length - n_key - 1;
  const char *at = memchr(text, '@', n_key);
  if (n_key == 0 || n_key > 256 || n_value == 0 || n_value > 256) return false;
  if (at && (at - text < 1 || at - text > 241 || equals - at < 2 || equals - at > 15)) return false;
  if (!(text[0] >= 'a' && text[0] <= 'z') && !(at && text[0] >= '0' && text[0] <= '9')) return false;
  if (at && !(at[1] >= 'a' && at[1] <= 'z')) return false;
  for (const char *c = text; c < equals; c++)
    if (!is_key_byte(*c) && c != at) return false;
  for (const char *c = equals + 1; c < text + length; c++)
    if (*c < ' ' || *c > '~' || *c == '=') return false;
  return text[length - 1] != ' ';
}

static bool has_key(const char *list, const char *member, size_t n_key_and_equals) {
  for (const char *at = list; *at;) {
    if (strncmp(at, member, n_key_and_equals) == 0) return true;
    at += strcspn(at, ",");
    at += *at == ',';
  }
  return false;
}

static unsigned count_members(const char *list) {
  unsigned n = *list != 0;
  for (; *list; list++) n += *list == ',';
  return n;
}

bool tl_tracestate_add(const char *value, char ret[TL_TRACESTATE_BYTES]) {
  size_t used = strlen(ret);
  unsigned n = count_members(ret);
  for (const char *at = value;;) {
    at += strspn(at, " \t");
    size_t whole = strcspn(at, ","), length = whole;
    while (length && (at[length - 1] == ' ' || at[length - 1] == '\t')) length--;
    if (length) { /* empty members are allowed, and dropped */
      bool first = used == 0;
      if (!is_member(at, length) || n++ == MAX_MEMBERS || used + !first + length > TL_TRACESTATE_BYTES - 1) return false;
      if (has_key(ret, at, strcspn(at, "=") + 1)) return false;
      if (!first) ret[used++] = ',';
      memcpy(ret + used, at, length);
      used += length;
      ret[used] = 0;
    }
    if (!at[whole]) return true;
    at += whole + 1;
  }
}
