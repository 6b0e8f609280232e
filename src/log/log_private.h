/* SPDX-License-Identifier: MIT */
/* What the files of this room share.
 *
 * A log ring: bytes, one producer (the thread), one consumer (the writer).
 *
 *        head                      tail
 *   free  | written, not yet safe  |  free          positions only grow; modulo size
 *         ^ taken ------> cursor   ^
 *
 *   record = struct log_record, then per field: struct tl_log_field, and for a
 *   string its length and bytes. All copied byte by byte over the ring's end.
 *
 * The writer reads at a cursor of its own and moves `head` only when the sink has
 * the line: until then the bytes stay, for the crash handler. */
#ifndef LOG_PRIVATE_H
#define LOG_PRIVATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenlane/base/thread.h"
#include "tokenlane/log.h"

#define LOG_RING_BYTES 262144u /* power of two: about 1500 access records, 30 ms of the fastest loop's */
#define LOG_MAX_FIELDS 16
#define LOG_MAX_STRING 512
#define LOG_TEXT_BYTES (LOG_MAX_FIELDS * (LOG_MAX_STRING + 1)) /* strings of one record, with NULs */
#define LOG_LINE_BYTES 65536      /* more than any record makes in any format */
#define LOG_SIGNAL_STACK_BYTES 32768

struct log_record {
  int64_t wall_ns;
  const char *module, *message; /* literals */
  uint32_t bytes;               /* of the record in the ring, this header included */
  uint16_t n_fields;
  uint8_t level;
};

struct log_ring {
  struct log_ring *next; /* constant after publication */
  _Atomic int owned;     /* 1 while a thread lives that writes here */
  /* producer */
  TL_ALIGNED _Atomic uint64_t tail;
  _Atomic uint64_t dropped;
  uint64_t head_seen; /* head as last looked at: the writer's line is fetched only when this says full */
  /* writer */
  TL_ALIGNED _Atomic uint64_t head;
  uint64_t cursor, end;  /* the batch in hand: read so far, tail when it began */
  int64_t next_wall_ns;  /* of the record at cursor */
  uint64_t dropped_said;
  struct log_ring *next_active;
  TL_ALIGNED char bytes[LOG_RING_BYTES];
  char signal_stack[LOG_SIGNAL_STACK_BYTES]; /* where this thread's crash handler runs */
};

/* --- log_ring.c ---------------------------------------------------------------------------- */
struct log_ring *log_ring_new(void);
/* Producer. Sets record->bytes. False when it does not fit: counted as dropped. */
bool log_ring_put(struct log_ring *ring, struct log_record *record, const struct tl_log_field *fields);
/* Producer: more than half is in use. */
bool log_ring_half_full(struct log_ring *ring);
/* Writer: where the records end. Pairs with the producer's publishing store. */
uint64_t log_ring_tail(const struct log_ring *ring);
/* Reads the record at `at`, which lies before the tail; strings point into text (LOG_TEXT_BYTES).
 * Safe in a signal handler. Returns where the next one begins. */
uint64_t log_ring_read(const struct log_ring *ring, uint64_t at, struct log_record *ret_record,
                       struct tl_log_field *ret_fields, char *text);
/* Writer: the time of the record at `at`. */
int64_t log_ring_wall_ns(const struct log_ring *ring, uint64_t at);
/* Writer: all before `to` may be overwritten. */
void log_ring_give_back(struct log_ring *ring, uint64_t to);

/* --- log.c ----------------------------------------------------------------------------------- */
struct log_ring *log_rings(void);
const char *log_level_name(int level);
/* Reads the levels out of the options; with `apply` also sets them. */
int log_levels_set(const struct tl_log_options *options, bool apply, struct tl_error *err);
/* Writer: the sites that have suppressed something, newest first. */
struct tl_log_site *log_sites(void);
/* Writer: takes a site's suppressed records to say them. */
uint32_t log_site_take_suppressed(struct tl_log_site *site);

/* --- log_text.c: lines. No allocation, no lock; with `plain` safe in a signal handler ---------- */
struct log_text {
  char *data; /* borrowed */
  size_t length, capacity;
  bool plain; /* no libc function that a signal handler may not call: fractions are shortened */
};
enum log_format { LOG_FORMAT_LOGFMT, LOG_FORMAT_JSON };
void log_text_put(struct log_text *out, const char *bytes, size_t length);
void log_text_puts(struct log_text *out, const char *text);
void log_text_put_time(struct log_text *out, int64_t wall_ns);
void log_text_put_value(struct log_text *out, const struct tl_log_field *field);
/* As logfmt: quoted where needed. */
void log_text_put_quoted(struct log_text *out, const char *text);
/* One line of a format. */
void log_text_put_line(struct log_text *out, enum log_format format, const struct log_record *record,
                       const struct tl_log_field *fields, bool priority);
int log_text_priority(int level); /* syslog's */

/* --- log_journal.c: journald's native protocol -------------------------------------------------- */
#define LOG_JOURNAL_SOCKET "/run/systemd/journal/socket"
/* One datagram's payload. */
void log_journal_put(struct log_text *out, const struct log_record *record, const struct tl_log_field *fields);
/* A connected datagram socket, or -1 and errno. */
int log_journal_connect(const char *path);

/* --- log_sink.c: where lines go. The writer's alone ------------------------------------------------- */
enum log_sink_kind { LOG_SINK_STDERR, LOG_SINK_FILE, LOG_SINK_JOURNALD };
struct log_sink {
  enum log_sink_kind kind;
  enum log_format format;
  bool priority; /* `<N>` before each line */
  bool regular;  /* a file on a disk: any length at once */
  bool torn;     /* the last line is cut: the next one begins a new line */
  int fd;        /* -1: a journald that is not there (yet) */
  char path[256];
};
/* Reads format and sink out of the options; opens nothing. */
int log_sink_parse(struct log_sink *sink, const struct tl_log_options *options, struct tl_error *err);
int log_sink_open(struct log_sink *sink, struct tl_error *err);
void log_sink_close(struct log_sink *sink);
bool log_sink_stderr_is_journald(void);
/* Adds a record in the sink's form to the batch. */
void log_sink_put(const struct log_sink *sink, struct log_text *batch, const struct log_record *record,
                  const struct tl_log_field *fields);
/* Writes the batch. Waits while the sink is full and log_writer_may_wait says so. Returns how many
 * records were lost. */
uint64_t log_sink_write(struct log_sink *sink, const struct log_text *batch);

/* --- log_writer.c ------------------------------------------------------------------------------------ */
bool log_writer_runs(void);
/* After a put: wakes the writer if it sleeps, or if it naps and the ring fills. */
void log_writer_notify(struct log_ring *ring);
/* No writer: to stderr, by this thread. */
void log_write_now(const struct log_record *record, const struct tl_log_field *fields);
/* Whether the writer goes on waiting for a full sink: not for ever once tl_log_stop was called. */
bool log_writer_may_wait(void);
uint64_t log_writer_lost(void);

/* --- log_crash.c -------------------------------------------------------------------------------------- */
/* A crash is being reported: the writer keeps its hands off sink and rings. */
bool log_crashing(void);
/* Gives the calling thread the ring's signal stack, if crashes are caught and it has none. */
void log_crash_add_thread(struct log_ring *ring);
void log_crash_remove_thread(const struct log_ring *ring);

#endif
