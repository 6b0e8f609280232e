/* SPDX-License-Identifier: MIT */
/* Where lines go. A batch is bytes; for journald each datagram has its length
 * (uint32_t) before it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log/log_private.h"

#define LOOK_MS 50         /* how often a full sink's wait looks whether it may go on */
#define PIPE_CHUNK_BYTES 4096 /* a pipe that polls writable takes PIPE_BUF bytes without blocking */

int log_sink_parse(struct log_sink *sink, const struct tl_log_options *options, struct tl_error *err) {
  static const char journald[] = "journald";
  const char *where = options->sink, *path = where;
  *sink = (struct log_sink){.fd = -1};
  if (strcmp(options->format, "logfmt") != 0 && strcmp(options->format, "json") != 0)
    return tl_error_set(err, TL_EINVAL, "log.format", "log.format: expected logfmt or json, got '%.40s'", options->format);
  sink->format = options->format[0] == 'j' ? LOG_FORMAT_JSON : LOG_FORMAT_LOGFMT;
  if (strcmp(where, "stderr") == 0) {
    path = "";
  } else if (strcmp(where, journald) == 0) {
    sink->kind = LOG_SINK_JOURNALD;
    path = LOG_JOURNAL_SOCKET;
  } else if (strncmp(where, "journald:/", sizeof journald + 1) == 0) {
    sink->kind = LOG_SINK_JOURNALD;
    path = where + sizeof journald;
  } else if (strchr(where, '/')) {
    sink->kind = LOG_SINK_FILE;
  } else {
    return tl_error_set(err, TL_EINVAL, "log.sink",
                        "log.sink: expected stderr, journald, journald:/socket or a path with a slash, got '%.60s'", where);
  }
  if (strlen(path) >= sizeof sink->path)
    return tl_error_set(err, TL_EINVAL, "log.sink", "log.sink: expected a path of less than %zu bytes", sizeof sink->path);
  strcpy(sink->path, path);
  return TL_OK;
}

/* systemd.exec(5), $JOURNAL_STREAM: "device:inode" of the stream to the journal; stderr may since
 * have been redirected. */
bool log_sink_stderr_is_journald(void) {
  const char *stream = getenv("JOURNAL_STREAM");
  struct stat file;
  char text[64];
  if (!stream || fstat(STDERR_FILENO, &file) < 0) return false;
  snprintf(text, sizeof text, "%llu:%llu", (unsigned long long)file.st_dev, (unsigned long long)file.st_ino);
  return strcmp(stream, text) == 0;
}

int log_sink_open(struct log_sink *sink, struct tl_error *err) {
  struct stat file;
  if (sink->kind == LOG_SINK_STDERR) {
    sink->fd = STDERR_FILENO;
    sink->priority = log_sink_stderr_is_journald();
  } else if (sink->kind == LOG_SINK_JOURNALD) {
    sink->fd = log_journal_connect(sink->path);
  } else { /* nonblocking: a named pipe without a reader must not hold us up */
    sink->fd = open(sink->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
  }
  if (sink->fd < 0) return tl_error_set(err, TL_EIO, "log.sink", "log.sink: %.200s: %s", sink->path, strerror(errno));
  sink->regular = fstat(sink->fd, &file) == 0 && S_ISREG(file.st_mode);
  return TL_OK;
}

void log_sink_close(struct log_sink *sink) {
  if (sink->fd >= 0 && sink->kind != LOG_SINK_STDERR) close(sink->fd);
  sink->fd = -1;
}

void log_sink_put(const struct log_sink *sink, struct log_text *batch, const struct log_record *record,
                  const struct tl_log_field *fields) {
  if (sink->kind != LOG_SINK_JOURNALD) {
    log_text_put_line(batch, sink->format, record, fields, sink->priority);
    return;
  }
  size_t at = batch->length;
  uint32_t length = 0;
  log_text_put(batch, (const char *)&length, sizeof length);
  log_journal_put(batch, record, fields);
  length = (uint32_t)(batch->length - at - sizeof length);
  memcpy(batch->data + at, &length, sizeof length);
}

/* --- writing -------------------------------------------------------------------------------- */

/* True when the sink takes something; false when it is time to give up. */
static bool wait_for_room(int fd) {
  for (;;) {
    struct pollfd entry = {.fd = fd, .events = POLLOUT};
    bool may_wait = log_writer_may_wait();
    int n = poll(&entry, 1, may_wait ? LOOK_MS : 0);
    if (n > 0) return true; /* also of POLLERR: the write says what is wrong */
    if ((n < 0 && errno != EINTR) || !may_wait) return false;
  }
}

/* Returns how many bytes were written. */
static size_t write_bytes(const struct log_sink *sink, const char *bytes, size_t length) {
  size_t at = 0;
  while (at < length && (sink->regular || wait_for_room(sink->fd))) {
    size_t chunk = length - at;
    if (!sink->regular && chunk > PIPE_CHUNK_BYTES) chunk = PIPE_CHUNK_BYTES;
    ssize_t n = write(sink->fd, bytes + at, chunk);
    if (n < 0 && errno != EINTR && errno != EAGAIN) break;
    if (n > 0) at += (size_t)n;
  }
  return at;
}

static uint64_t count_lines(const char *bytes, size_t length) {
  uint64_t n = 0;
  for (const char *end = bytes + length; (bytes = memchr(bytes, '\n', (size_t)(end - bytes))); bytes++) n++;
  return n;
}

/* After a line that the sink took only in part, the next one begins a new line. */
static uint64_t write_lines(struct log_sink *sink, const struct log_text *batch) {
  if (sink->torn && write_bytes(sink, "\n", 1) == 0) return count_lines(batch->data, batch->length);
  size_t n = write_bytes(sink, batch->data, batch->length);
  sink->torn = n > 0 && batch->data[n - 1] != '\n';
  return count_lines(batch->data + n, batch->length - n);
}

/* One datagram; false when it is lost. A journald that was restarted has a new socket. */
static bool send_datagram(struct log_sink *sink, const char *bytes, size_t length) {
  for (int tries = 0; tries < 2;) {
    if (sink->fd < 0) sink->fd = log_journal_connect(sink->path);
    if (sink->fd < 0) return false;
    if (send(sink->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return true;
    if (errno == EINTR) continue;
    if (errno == EAGAIN) {
      if (!wait_for_room(sink->fd)) return false;
      continue;
    }
    if (errno == EMSGSIZE || errno == ENOBUFS) return false;
    log_sink_close(sink);
    tries++;
  }
  return false;
}

static uint64_t send_datagrams(struct log_sink *sink, const struct log_text *batch) {
  uint64_t lost = 0;
  uint32_t length;
  bool gone = false; /* the rest of the batch would fail, too */
  for (size_t at = 0; at < batch->length; at += length) {
    memcpy(&length, batch->data + at, sizeof length);
    at += sizeof length;
    if (gone || !send_datagram(sink, batch->data + at, length)) lost++;
    gone = gone || sink->fd < 0 || !log_writer_may_wait();
  }
  return lost;
}

uint64_t log_sink_write(struct log_sink *sink, const struct log_text *batch) {
  if (batch->length == 0) return 0;
  return sink->kind == LOG_SINK_JOURNALD ? send_datagrams(sink, batch) : write_lines(sink, batch);
}
