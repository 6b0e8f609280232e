/* SPDX-License-Identifier: MIT */
/* Logging without a lock: each thread has a ring of its own into which it
 * copies typed fields in binary; one writer thread formats and writes. A full
 * ring drops the record and counts it; nobody ever waits for a sink. */
#ifndef TOKENLANE_LOG_H
#define TOKENLANE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
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

/* What a place in the source keeps about itself; static, zero at first. All
 * fields are relaxed (settings and counts) but `listed`: see log.c. */
struct tl_log_site {
  _Atomic uint32_t module;     /* 1 + its index in the table of modules; 0: not looked up yet */
  _Atomic uint32_t suppressed; /* records over the rate that nobody has been told of */
  _Atomic uint64_t window;     /* the second << 32 | records in that second */
  _Atomic uint32_t listed;     /* 1: the writer's list has it, the fields below are set */
  struct tl_log_site *next;
  const char *module_name, *message;
};

/* TL_LOG(TL_LOG_INFO, "http", "listening", TL_S("address", a), TL_I("port", p));
 * module (a room's name, or "access") and message are string literals, kept by
 * pointer. Any thread; never waits, never allocates after the thread's first
 * record. Before tl_log_start and after tl_log_stop records are written to
 * stderr at once. */
#define TL_LOG(level, module, message, ...)                                                     \
  do {                                                                                          \
    static struct tl_log_site tl_log_site;                                                      \
    if (tl_log_enabled(&tl_log_site, (level), (module))) {                                      \
      const struct tl_log_field tl_log_fields[] = {{0}, ##__VA_ARGS__};                         \
      tl_log_write(&tl_log_site, (level), (module), (message), tl_log_fields + 1,               \
                   sizeof tl_log_fields / sizeof *tl_log_fields - 1);                           \
    }                                                                                           \
  } while (0)

bool tl_log_enabled(struct tl_log_site *site, enum tl_log_level level, const char *module);
void tl_log_write(struct tl_log_site *site, enum tl_log_level level, const char *module, const char *message,
                  const struct tl_log_field *fields, unsigned n_fields);

/* The configuration's section "log"; strings are not kept. */
struct tl_log_options {
  const char *level;               /* error, warn, info or debug */
  const char *const *modules;      /* (n_modules) "http=debug": levels that differ from `level` */
  unsigned n_modules;
  const char *format;              /* logfmt or json */
  const char *sink;                /* stderr, journald, journald:/socket, or a path with a slash */
  bool access;                     /* module "access": a record for each request */
  int64_t max_per_second;          /* records of one site (but "access"); more are counted and said; 0: no limit */
};

/* Says what is wrong with the options; opens nothing. TL_EINVAL. */
int tl_log_check(const struct tl_log_options *options, struct tl_error *err);
/* Applies them, opens the sink, starts the writer thread. On stderr each line
 * has the syslog priority `<N>` before it when journald reads there. Boot, once. */
int tl_log_start(const struct tl_log_options *options, struct tl_error *err);
/* Applies new options while threads log, and opens the sink anew (a file that was
 * moved away is made again). A sink that cannot be opened is said in the old one,
 * which stays. One thread at a time. TL_EINVAL: nothing was changed. */
int tl_log_configure(const struct tl_log_options *options, struct tl_error *err);
/* Writes what is left and ends the writer thread; gives up on a sink that takes
 * nothing for a second. */
void tl_log_stop(void);
/* Sets the level of all modules (but "access") by name, nothing else. TL_EINVAL. */
int tl_log_set_level(const char *name, struct tl_error *err);

/* The i-th module, "access" among them, and its level now; NULL: there are no more. Any thread. */
const char *tl_log_module(unsigned i, const char **ret_level);
/* Sets one module's level until levels are next configured; "all": every module's but that of
 * "access", whose records are of level info. Any thread. TL_ENOTFOUND, TL_EINVAL. */
int tl_log_set_module_level(const char *module, const char *level, struct tl_error *err);

/* On SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT what the rings hold is written to
 * stderr, then the signal has its old effect. Boot, after tl_log_start. */
void tl_log_catch_crashes(void);

/* Records that nobody will read, since the process began. Any thread. */
struct tl_log_losses {
  uint64_t ring_full;  /* the thread's ring had no room: the writer or its sink is too slow */
  uint64_t sink;       /* the sink refused them or was gone */
  uint64_t rate_limit; /* over max_per_second of their site */
};
struct tl_log_losses tl_log_losses(void);

#endif
