/* SPDX-License-Identifier: MIT */
/* Logging without a lock: each thread has a ring of its own into which it
 * copies typed fields in binary; one writer thread formats and writes. A full
 * ring drops the record and counts it; nobody ever waits for a sink. */
#ifndef TOKENLANE_LOG_H
#define TOKENLANE_LOG_H

#include <stdint.h>

#include "tokenlane/base/error.h"

enum tl_log_level { TL_LOG_ERROR, TL_LOG_WARN, TL_LOG_INFO, TL_LOG_DEBUG };

enum tl_log_kind { TL_LOG_KIND_STR, TL_LOG_KIND_INT, TL_LOG_KIND_UINT, TL_LOG_KIND_F64 };

struct tl_log_field {
  const char *key; /* a string literal: kept by pointer */
  enum tl_log_kind kind;
  union {
    const char *str; /* copied, at most 512 bytes are kept; NULL prints as "" */
    int64_t i;
    uint64_t u;
    double f;
  };
};

#define TL_S(k, v) ((struct tl_log_field){.key = (k), .kind = TL_LOG_KIND_STR, .str = (v)})
#define TL_I(k, v) ((struct tl_log_field){.key = (k), .kind = TL_LOG_KIND_INT, .i = (v)})
#define TL_U(k, v) ((struct tl_log_field){.key = (k), .kind = TL_LOG_KIND_UINT, .u = (v)})
#define TL_F(k, v) ((struct tl_log_field){.key = (k), .kind = TL_LOG_KIND_F64, .f = (v)})

/* TL_LOG(TL_LOG_INFO, "http", "listening", TL_S("address", a), TL_I("port", p));
 * module and message are string literals (kept by pointer). Any thread; never
 * waits, never allocates after the thread's first record. Before tl_log_start
 * and after tl_log_stop records are written to stderr at once. */
#define TL_LOG(level, module, message, ...)                                               \
  do {                                                                                    \
    if (tl_log_enabled(level)) {                                                          \
      const struct tl_log_field tl_log_fields[] = {{0}, ##__VA_ARGS__};                   \
      tl_log_write((level), (module), (message), tl_log_fields + 1,                       \
                   sizeof tl_log_fields / sizeof *tl_log_fields - 1);                     \
    }                                                                                     \
  } while (0)

int tl_log_enabled(enum tl_log_level level);
void tl_log_write(enum tl_log_level level, const char *module, const char *message,
                  const struct tl_log_field *fields, unsigned n_fields);

/* Sets the level by name (error, warn, info, debug). TL_EINVAL otherwise. */
int tl_log_set_level(const char *name, struct tl_error *err);
/* Starts the writer thread; records go to stderr as logfmt lines, with the
 * syslog priority `<N>` before each when journald reads stderr (JOURNAL_STREAM
 * is set). Boot, once. */
int tl_log_start(struct tl_error *err);
/* Writes what is left and ends the writer thread. */
void tl_log_stop(void);
/* Records dropped since start because a ring was full. */
uint64_t tl_log_dropped(void);

#endif
