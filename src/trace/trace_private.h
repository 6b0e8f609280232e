/* SPDX-License-Identifier: MIT */
/* What the files of this room share.
 *
 *   loop, worker                      tl-trace                          tl-export
 *   pop from free, fill, push ──full──► pop: format ──► batch of 512 ──queue──► POST, again if need be
 *        ▲──────────────── free ◄────── push back        │ a trace file is made: keep a copy
 *
 * A ring is a pool of records, allocated at boot, and two queues of pointers
 * (base/spsc): `full` from the producer, `free` back to it. */
#ifndef TRACE_PRIVATE_H
#define TRACE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "tokenlane/base/spsc.h"
#include "tokenlane/base/waker.h"
#include "tokenlane/trace.h"

#define TRACE_LOOP_SPANS 4096   /* 0.4 MiB a loop: 25 ms of 20,000 requests/s */
#define TRACE_LOOP_ROOTS 512    /* 0.5 MiB; also held while a slow client takes its answer */
#define TRACE_WORKER_SPANS 2048
#define TRACE_BATCH_SPANS 512
#define TRACE_QUEUE_BATCHES 16  /* about 6 MB of JSON */

struct trace_ring {
  /* read only after boot */
  struct tl_trace_span *spans;        /* (n) */
  struct tl_trace_root *roots;   /* (TRACE_LOOP_ROOTS), NULL: a worker's */
  struct tl_waker *drainer;
  uint16_t index;
  uint64_t id_key[3];           /* random: two of trace ids, one of span ids */
  /* producer */
  TL_ALIGNED uint64_t n_ids, n_put;
  _Atomic uint64_t dropped;     /* a count alone */
  struct tl_spsc full, free_spans, free_roots;
};

/* trace_ring.c. Boot: n_roots 0: none. */
int trace_ring_init(struct trace_ring *ring, unsigned index, unsigned n_spans, unsigned n_roots, struct tl_waker *drainer);
void trace_ring_done(struct trace_ring *ring);
/* Drainer: the next span, or NULL; a TL_SPAN_REQUEST is a tl_trace_root. To be given back. */
struct tl_trace_span *trace_ring_pop(struct trace_ring *ring);
void trace_ring_give_back(struct trace_ring *ring, struct tl_trace_span *span);

/* traceparent.c: 16 digits, no NUL. */
void trace_hex(uint64_t id, char ret[16]);
/* Fills trace_id, parent_id and sampled. False: to be ignored. */
bool traceparent_read(const char *text, struct tl_trace_context *ret);
/* Whether a trace of this id is taken when so many of a thousand are. */
bool trace_is_sampled(uint64_t trace_id_low, unsigned per_mille);

/* span_text.c: names, and JSON of what both formats share. */
const char *span_name(enum tl_span_kind kind);
/* The name of value[i]; NULL: there is none. */
const char *span_value_name(enum tl_span_kind kind, unsigned i);
void span_put_json_string(struct tl_buffer *out, const char *text);
void span_put_hex(struct tl_buffer *out, uint64_t id);

/* otlp.c: an ExportTraceServiceRequest as OTLP has it in JSON. */
struct otlp_batch {
  struct tl_buffer text; /* owned */
  unsigned n;
};
void otlp_begin(struct otlp_batch *batch, const struct tl_trace_options *options);
/* wall_offset_ns: from tl_now_ns to the time since 1970. */
void otlp_add(struct otlp_batch *batch, const struct tl_trace_span *span, int64_t wall_offset_ns);
void otlp_end(struct otlp_batch *batch);

/* otlp_send.c: the thread that talks to the collector. */
struct otlp_sender;
int otlp_sender_new(const struct tl_trace_options *options, struct otlp_sender **ret, struct tl_error *err);
/* Drainer. Takes the text; false: the queue is full, the batch was counted and freed. */
bool otlp_sender_push(struct otlp_sender *sender, struct otlp_batch *batch);
/* Sends what waits, within a bounded time; what is left is counted as failed. False: the
 * thread does not come back, and *sender must be left alone. Main thread, after the drainer ended. */
bool otlp_sender_stop(struct otlp_sender *sender);
void otlp_sender_free(struct otlp_sender *sender);
void otlp_sender_count(const struct otlp_sender *sender, struct tl_trace_counts *counts);

/* trace_file.c: collects spans and writes them as Chrome's trace event format. Drainer's alone. */
struct trace_file {
  struct tl_trace_span *spans;      /* (n) a TL_SPAN_REQUEST has the index of its root in value[TL_SPAN_VALUES - 1] */
  struct tl_trace_root *roots; /* (n_roots) */
  size_t n, n_roots, cap, cap_roots, dropped;
  int64_t since_ns;           /* spans that ended before are of no interest */
};
void trace_file_add(struct trace_file *file, const struct tl_trace_span *span);
void trace_file_write(struct trace_file *file, const struct tl_trace_options *options, struct tl_buffer *out);
void trace_file_done(struct trace_file *file);

enum trace_file_state { FILE_NONE, FILE_CLAIMED, FILE_ASKED };

struct tl_trace {
  struct tl_trace_options o;
  struct trace_ring *rings; /* (n_loops + n_workers) */
  struct otlp_sender *sender; /* NULL: no collector */
  pthread_t thread;
  bool started;
  struct tl_waker waker;    /* the drainer's */
  _Atomic unsigned wants;   /* settings: relaxed */
  _Atomic int stopping;
  /* the trace file: CLAIMED by who asks, ASKED when the fields are there, NONE by the drainer */
  _Atomic int file_state, no_files;
  _Atomic int hurry;        /* relaxed: a wish; the drainer takes it back before the next file */
  unsigned file_seconds;
  void (*file_done)(struct tl_buffer *file, void *context);
  void *file_context;
};

/* trace_drain.c */
void *trace_drain_run(void *trace);

#endif
