/* SPDX-License-Identifier: MIT */
/* What the tests of the log share: options, a stderr that goes elsewhere, files. */
#ifndef LOG_UNIT_H
#define LOG_UNIT_H

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>

#include "log/log_private.h"
#include "tokenlane/base/buffer.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

static inline struct tl_log_options log_unit_options(const char *sink) {
  return (struct tl_log_options){.level = "info", .format = "logfmt", .sink = sink};
}

static inline void log_unit_start(const struct tl_log_options *options) {
  struct tl_error err = {0};
  if (tl_log_start(options, &err) < 0) fail_msg("%s", err.message);
}

/* stderr becomes `fd`, which is closed. Returns the one that was. */
static inline int log_unit_redirect(int fd) {
  fflush(stderr);
  int kept = dup(STDERR_FILENO);
  dup2(fd, STDERR_FILENO);
  close(fd);
  return kept;
}

static inline void log_unit_restore(int kept) {
  dup2(kept, STDERR_FILENO);
  close(kept);
}

/* The whole file, to be freed. */
static inline char *log_unit_read(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) fail_msg("%s cannot be read", path);
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  char part[4096];
  for (size_t n; (n = fread(part, 1, sizeof part, file)) > 0;) tl_buffer_append(&out, part, n);
  fclose(file);
  char *text = strdup(tl_buffer_string(&out));
  tl_buffer_done(&out);
  return text;
}

/* How often `what` stands in text. */
static inline unsigned log_unit_count(const char *text, const char *what) {
  unsigned n = 0;
  for (; (text = strstr(text, what)); text += strlen(what)) n++;
  return n;
}

#endif
