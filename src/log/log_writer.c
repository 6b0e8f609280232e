/* SPDX-License-Identifier: MIT */
/* The writer: formats records as logfmt and writes them to stderr. It alone may
 * meet a slow or dead sink; a line that cannot be written in time is dropped. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "log/log_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/waker.h"

#define SINK_TIMEOUT_MS 1000

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const int priorities[] = {3, 4, 6, 7}; /* syslog's */

static pthread_t writer;
static struct tl_waker writer_waker;
static _Atomic int running, stopping;
static bool with_priority;
static bool torn; /* the sink's last line is cut; the writer's alone */

const char *log_level_name(enum tl_log_level level) {
  return level_names[level];
}

bool log_writer_runs(void) {
  return atomic_load_explicit(&running, memory_order_relaxed); /* only chooses the way */
}

void log_writer_notify(void) {
  tl_waker_notify(&writer_waker);
}

/* --- format ----------------------------------------------------------------------------- */

static void put_text(struct tl_buffer *out, const char *text) {
  bool plain = *text != 0;
  for (const unsigned char *c = (const unsigned char *)text; *c && plain; c++)
    plain = *c > ' ' && *c != '"' && *c != '=' && *c != '\\' && *c != 0x7f;
  if (plain) {
    tl_buffer_puts(out, text);
    return;
  }
  tl_buffer_putc(out, '"');
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (*c == '"' || *c == '\\')
      tl_buffer_printf(out, "\\%c", *c);
    else if (*c == '\n')
      tl_buffer_puts(out, "\\n");
    else if (*c < ' ' || *c == 0x7f)
      tl_buffer_printf(out, "\\x%02x", *c);
    else
      tl_buffer_putc(out, (char)*c);
  }
  tl_buffer_putc(out, '"');
}

void log_format(const struct log_record *record, const struct tl_log_field *fields, bool priority,
                struct tl_buffer *out) {
  if (priority) tl_buffer_printf(out, "<%d>", priorities[record->level]);
  time_t seconds = (time_t)(record->wall_ns / TL_SEC(1));
  struct tm utc;
  gmtime_r(&seconds, &utc);
  char when[32];
  strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &utc);
  tl_buffer_printf(out, "ts=%s.%03dZ level=%s module=%s msg=", when, (int)(record->wall_ns / 1000000 % 1000),
                   level_names[record->level], record->module);
  put_text(out, record->message);
  for (unsigned i = 0; i < record->n_fields; i++) {
    tl_buffer_printf(out, " %s=", fields[i].key);
    switch (fields[i].kind) {
      case TL_LOG_KIND_STR: put_text(out, fields[i].str ? fields[i].str : ""); break;
      case TL_LOG_KIND_INT: tl_buffer_printf(out, "%lld", (long long)fields[i].i); break;
      case TL_LOG_KIND_UINT: tl_buffer_printf(out, "%llu", (unsigned long long)fields[i].u); break;
      case TL_LOG_KIND_F64: tl_buffer_printf(out, "%g", fields[i].f); break;
    }
  }
  tl_buffer_putc(out, '\n');
}

/* Waits at most SINK_TIMEOUT_MS for room; what does not fit then is lost.
 * Returns how much was written. */
static size_t write_all(const char *bytes, size_t length) {
  size_t at = 0;
  while (at < length) {
    struct pollfd sink = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&sink, 1, SINK_TIMEOUT_MS) <= 0) break;
    /* a pipe that polls writable takes PIPE_BUF bytes without blocking */
    ssize_t n = write(STDERR_FILENO, bytes + at, length - at < 4096 ? length - at : 4096);
    if (n < 0 && errno != EINTR && errno != EAGAIN) break;
    if (n > 0) at += (size_t)n;
  }
  return at;
}

void log_write_now(const struct log_record *record, const struct tl_log_field *fields) {
  struct tl_buffer line;
  tl_buffer_init(&line, 0);
  log_format(record, fields, with_priority, &line);
  write_all(line.data, line.length);
  tl_buffer_done(&line);
}

/* --- the thread ------------------------------------------------------------------------------ */

static void say_dropped(struct log_ring *ring, struct tl_buffer *out) {
  uint64_t dropped = atomic_load_explicit(&ring->dropped, memory_order_relaxed); /* a count alone */
  if (dropped == ring->dropped_said) return;
  struct tl_log_field field = TL_U("records", dropped - ring->dropped_said);
  struct log_record record = {tl_wall_ns(), TL_LOG_WARN, "log", "a full log ring dropped records", 1};
  log_format(&record, &field, with_priority, out);
  ring->dropped_said = dropped;
}

/* After a line that the sink took only in part, the next one begins a new line. */
static void write_lines(const struct tl_buffer *out) {
  if (out->length == 0 || (torn && write_all("\n", 1) == 0)) return;
  size_t n = write_all(out->data, out->length);
  torn = n > 0 && out->data[n - 1] != '\n';
}

/* True when anything was there. */
static bool drain(struct tl_buffer *out) {
  static char text[LOG_MAX_FIELDS * (LOG_MAX_STRING + 1)]; /* the writer's alone */
  struct tl_log_field fields[LOG_MAX_FIELDS];
  struct log_record record;
  bool any = false;
  for (struct log_ring *ring = log_rings(); ring; ring = ring->next) {
    for (unsigned n = 0; n < 256 && log_ring_take(ring, &record, fields, text); n++) {
      log_format(&record, fields, with_priority, out);
      any = true;
    }
    say_dropped(ring, out);
  }
  write_lines(out);
  tl_buffer_clear(out);
  return any;
}

static void *run(void *unused) {
  (void)unused;
  tl_thread_enter("tl-log", TL_ROLE_WRITER);
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  torn = false;
  for (;;) {
    /* acquire: pairs with the release in tl_log_stop, records before it are seen */
    bool last = atomic_load_explicit(&stopping, memory_order_acquire);
    if (drain(&out)) continue;
    if (last) break;
    tl_waker_prepare(&writer_waker);
    if (drain(&out) || atomic_load_explicit(&stopping, memory_order_acquire)) {
      tl_waker_cancel(&writer_waker);
      continue;
    }
    tl_waker_sleep(&writer_waker, TL_SEC(1));
  }
  tl_buffer_done(&out);
  return NULL;
}

int tl_log_start(struct tl_error *err) {
  with_priority = getenv("JOURNAL_STREAM") != NULL;
  tl_waker_init(&writer_waker);
  atomic_store_explicit(&stopping, 0, memory_order_relaxed); /* the thread is created after */
  if (pthread_create(&writer, NULL, run, NULL) != 0)
    return tl_error_set(err, TL_EIO, NULL, "cannot start the log writer");
  atomic_store_explicit(&running, 1, memory_order_relaxed); /* see log_writer_runs */
  return TL_OK;
}

void tl_log_stop(void) {
  if (!log_writer_runs()) return;
  atomic_store_explicit(&running, 0, memory_order_relaxed);
  atomic_store_explicit(&stopping, 1, memory_order_release); /* see run */
  tl_waker_notify(&writer_waker);
  pthread_join(writer, NULL);
}
