/* SPDX-License-Identifier: MIT */
/* Traces of requests without a lock: loops and workers copy fixed binary spans
 * into a ring of their own; a thread of this room takes them out and formats
 * them, for a collector (OTLP/HTTP JSON) or for a trace file (Perfetto). A full
 * ring drops the span and counts it; nobody ever waits for a collector.
 *
 * All functions take a NULL trace: then nothing is recorded. */
#ifndef TOKENLANE_TRACE_H
#define TOKENLANE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenlane/base/buffer.h"
#include "tokenlane/base/error.h"

struct tl_trace;

/* The configuration's section "trace". Strings are kept by pointer until tl_trace_free. */
struct tl_trace_options {
  const char *endpoint;      /* URL that takes OTLP/HTTP JSON; "": no collector, only trace files */
  const char *service_name;  /* service.name of the resource */
  unsigned sample_per_mille; /* of the requests whose caller did not decide: 0 .. 1000 */
  unsigned n_loops, n_workers; /* rings: loop i has ring i, the worker of replica r has ring n_loops + r */
  /* The collector does not take spans (trouble says why), or takes them again (NULL). A thread of this room. */
  void (*say)(const char *trouble);
};

/* Says what is wrong with the options. TL_EINVAL. */
int tl_trace_check(const struct tl_trace_options *options, struct tl_error *err);
/* Allocates all rings, starts the threads. Boot. */
int tl_trace_new(const struct tl_trace_options *options, struct tl_trace **ret, struct tl_error *err);
/* Sends what is left, for at most a few seconds, and ends the threads. After the
 * producers have ended. Main thread. */
void tl_trace_stop(struct tl_trace *trace);
void tl_trace_free(struct tl_trace *trace);

/* What is to be recorded now: one relaxed load. Any thread. */
enum { TL_TRACE_EXPORT = 1, TL_TRACE_CAPTURE = 2 };
unsigned tl_trace_wants(const struct tl_trace *trace);

/* --- contexts: W3C Trace Context, level 1 ---------------------------------------------- */

#define TL_TRACEPARENT_BYTES 56 /* with the NUL */
#define TL_TRACESTATE_BYTES 513
#define TL_TRACE_ID_BYTES 33

/* Of a request. Constant once begun, so any thread may read it. */
struct tl_trace_context {
  uint64_t trace_id[2]; /* not both 0 */
  uint64_t span_id;     /* of the request's root span; not 0 */
  uint64_t parent_id;   /* of the caller's span; 0: the trace begins here */
  bool sampled;         /* the collector is to have it */
  bool recorded;        /* somebody wants its spans: the collector, or a trace file that is being made */
};

/* A request begins. traceparent: the header's value, or NULL when there is none or
 * more than one. A valid one is continued, its sampled flag rules; else the trace is
 * new and its id decides (the same id always alike). The loop of this ring. False:
 * nothing is traced now, *ret is untouched. */
bool tl_trace_begin(struct tl_trace *trace, unsigned loop, const char *traceparent, struct tl_trace_context *ret);
/* "00-TRACE-SPAN-FLAGS" with the request's own span, NUL-terminated. */
void tl_traceparent_write(const struct tl_trace_context *context, char ret[TL_TRACEPARENT_BYTES]);
/* 32 hexadecimal digits, NUL-terminated. */
void tl_trace_id_write(const struct tl_trace_context *context, char ret[TL_TRACE_ID_BYTES]);
/* Appends one tracestate header's members to the list in ret (NUL-terminated, empty at
 * first). False: the whole list is to be ignored (malformed, more than 32 members or 512 bytes). */
bool tl_tracestate_add(const char *value, char ret[TL_TRACESTATE_BYTES]);

/* --- spans -------------------------------------------------------------------------------- */

/* What `value` holds is in the table of src/trace/span_text.c. */
enum tl_span_kind {
  TL_SPAN_REQUEST,    /* status, body bytes */
  TL_SPAN_PARSE,      /* body bytes */
  TL_SPAN_TOKENIZE,   /* tokens */
  TL_SPAN_ROUTE,      /* replica */
  TL_SPAN_QUEUE,      /* replica, choice, try */
  TL_SPAN_PREFILL,    /* replica, choice, try, first position, tokens */
  TL_SPAN_DECODE,     /* replica, choice, try, tokens */
  TL_SPAN_DETOKENIZE, /* choice, tokens, busy ns */
  TL_SPAN_WRITE,      /* bytes, writes, busy ns */
  TL_SPAN_STEP,       /* replica, sequences, prompt tokens, decoded tokens; trace files only */
  TL_SPAN_KINDS
};
#define TL_SPAN_VALUES 5

struct tl_trace_span {
  uint64_t trace_id[2], span_id, parent_id; /* span_id: tl_trace_put makes it */
  int64_t start_ns, end_ns;                 /* by tl_now_ns */
  const char *error;                        /* a literal; NULL: it went well */
  int64_t value[TL_SPAN_VALUES];            /* -1: not known */
  uint8_t kind;
  bool sampled;
  bool on_thread; /* work of the ring's own thread in one piece: also drawn on that thread's track */
  uint16_t ring;  /* tl_trace_put sets it */
};

/* A span of the request, its parent is the root. */
struct tl_trace_span tl_trace_span_of(const struct tl_trace_context *context, enum tl_span_kind kind, int64_t start_ns,
                          int64_t end_ns);
/* Copies the span into the ring, which must be the calling thread's. Full: dropped and counted. */
void tl_trace_put(struct tl_trace *trace, unsigned ring, const struct tl_trace_span *span);
/* The ring of a replica's worker. */
unsigned tl_trace_worker_ring(const struct tl_trace *trace, unsigned replica);

#define TL_TRACE_FINISHES 8
/* What the room above http knows about the request; strings are literals unless they are arrays. */
struct tl_trace_facts {
  const char *operation;                 /* "chat" or "text_completion" */
  const char *model;                     /* its id; outlives the trace */
  const char *finish[TL_TRACE_FINISHES]; /* of the first choices; NULL: it did not end by itself */
  char response_id[88];
  int64_t replica;                       /* of the first choice; -1: none */
  int64_t n_choices, n_input, n_cached, n_output;
  bool streamed;
};

/* The root span of a request. A loop has a pool of them. */
struct tl_trace_root {
  struct tl_trace_span span; /* first */
  struct tl_trace_facts facts;
  const char *method;  /* a literal */
  char route[64], request_id[129], tracestate[TL_TRACESTATE_BYTES];
};
/* One to be filled by its loop, with span as tl_trace_span_of has it but for the ids, which are the
 * context's own; NULL: none is free, which is counted. */
struct tl_trace_root *tl_trace_take_root(struct tl_trace *trace, unsigned loop, const struct tl_trace_context *context);
/* Takes it back, filled. */
void tl_trace_put_root(struct tl_trace *trace, unsigned loop, struct tl_trace_root *root);

/* --- trace files ---------------------------------------------------------------------------- */

#define TL_TRACE_FILE_SECONDS 60

/* Records all requests for so many seconds (1 .. TL_TRACE_FILE_SECONDS), whatever is sampled, then calls done on a
 * thread of this room; *file (JSON that Perfetto and chrome://tracing open) is done's to keep. TL_EBUSY: one
 * is being made, or tl_trace_end_files was called. */
int tl_trace_file(struct tl_trace *trace, unsigned seconds, void (*done)(struct tl_buffer *file, void *context),
                  void *context, struct tl_error *err);
/* Nobody waits for the file any more: done comes soon. Does nothing when none is made. Any thread. */
void tl_trace_hurry_file(struct tl_trace *trace);
/* No more files: one that is being made is given up. done is not called after this returns. Main thread. */
void tl_trace_end_files(struct tl_trace *trace);

/* --- counts: any thread ------------------------------------------------------------------------ */
struct tl_trace_counts {
  uint64_t exported;   /* the collector took them */
  uint64_t ring_full;  /* lost: the thread's ring had no room */
  uint64_t queue_full; /* lost: the collector is too slow */
  uint64_t failed;     /* lost: the collector refused them, or could not be reached */
};
struct tl_trace_counts tl_trace_counts(const struct tl_trace *trace);

#endif
