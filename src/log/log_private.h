/* SPDX-License-Identifier: MIT */
/* A log ring: bytes, one producer (the thread), one consumer (the writer).
 *
 *   record = struct log_record, then per field: struct tl_log_field, and for a
 *   string its length and bytes. All copied byte by byte over the ring's end. */
#ifndef LOG_PRIVATE_H
#define LOG_PRIVATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/base/buffer.h"
#include "tokenlane/base/thread.h"
#include "tokenlane/log.h"

#define LOG_RING_BYTES 65536u /* power of two */
#define LOG_MAX_FIELDS 16
#define LOG_MAX_STRING 512

struct log_record {
  int64_t wall_ns;
  enum tl_log_level level;
  const char *module, *message; /* literals */
  unsigned n_fields;
};

struct log_ring {
  struct log_ring *next;  /* constant after publication */
  _Atomic int owned;      /* 1 while a thread lives that writes here */
  /* producer */
  TL_ALIGNED _Atomic uint64_t tail;
  _Atomic uint64_t dropped;
  /* writer */
  TL_ALIGNED _Atomic uint64_t head;
  uint64_t dropped_said;
  TL_ALIGNED char bytes[LOG_RING_BYTES];
};

/* log_ring.c */
/* Producer. False when it does not fit: counted as dropped. */
bool log_ring_put(struct log_ring *ring, const struct log_record *record, const struct tl_log_field *fields);
/* Writer. Takes the oldest record; strings point into text (LOG_MAX_FIELDS * (LOG_MAX_STRING + 1)). */
bool log_ring_take(struct log_ring *ring, struct log_record *ret_record, struct tl_log_field *ret_fields, char *text);

/* log.c */
struct log_ring *log_rings(void);

/* log_writer.c */
const char *log_level_name(enum tl_log_level level);
bool log_writer_runs(void);
void log_writer_notify(void);
void log_write_now(const struct log_record *record, const struct tl_log_field *fields);
/* One logfmt line. */
void log_format(const struct log_record *record, const struct tl_log_field *fields, bool priority, struct tl_buffer *out);

#endif
