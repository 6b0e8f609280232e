/* SPDX-License-Identifier: MIT */
/* The thread that empties the rings: spans that are sampled become JSON of the next
 * batch, and all go into the trace file while one is made. It never waits for the
 * collector (otlp_send.c does), so rings empty whatever that one does. */
#include "tokenlane/base/clock.h"
#include "trace/trace_private.h"

#define NAP_NS TL_MS(20)       /* while something may come */
#define BATCH_NS TL_SEC(1)     /* a batch that is not full waits no longer */
#define CLOCK_SET_NS TL_MS(100) /* the wall clock was set: times are computed anew. Slewing is not followed, so that the
                                 * spans of a trace keep their order */
#define FILE_GRACE_NS TL_MS(50) /* spans that ended in time and are on their way */

struct drain {
  struct tl_trace *trace;
  int64_t wall_offset_ns;
  struct otlp_batch batch;
  bool has_batch;
  int64_t batch_since_ns;
  struct trace_file file;
  bool makes_file;
  int64_t file_until_ns;
};

static void hand_over(struct drain *d) {
  if (!d->has_batch) return;
  d->has_batch = false;
  otlp_end(&d->batch);
  otlp_sender_push(d->trace->sender, &d->batch);
}

static void export(struct drain *d, const struct tl_trace_span *span, int64_t now_ns) {
  if (!d->has_batch) {
    d->has_batch = true;
    d->batch_since_ns = now_ns;
    otlp_begin(&d->batch, &d->trace->o);
  }
  otlp_add(&d->batch, span, d->wall_offset_ns);
  if (d->batch.n == TRACE_BATCH_SPANS) hand_over(d);
}

static bool drain_rings(struct drain *d) {
  struct tl_trace *t = d->trace;
  int64_t now_ns = tl_now_ns();
  bool any = false;
  for (unsigned i = 0; i < t->o.n_loops + t->o.n_workers; i++) {
    struct tl_trace_span *span;
    /* no more than the ring holds: a producer that is as fast as we are must not keep us here */
    for (unsigned n = 0; n < TRACE_LOOP_SPANS && (span = trace_ring_pop(&t->rings[i])); n++) {
      any = true;
      if (t->sender && span->sampled) export(d, span, now_ns);
      if (d->makes_file) trace_file_add(&d->file, span);
      trace_ring_give_back(&t->rings[i], span);
    }
  }
  return any;
}

/* --- the trace file: states are trace_private.h's ------------------------------------------------ */

static void end_file(struct drain *d, bool given_up) {
  struct tl_trace *t = d->trace;
  struct tl_buffer out;
  d->makes_file = false;
  /* relaxed: a request that saw it before only records a little more than is used */
  atomic_fetch_and_explicit(&t->wants, ~(unsigned)TL_TRACE_CAPTURE, memory_order_relaxed);
  tl_buffer_init(&out, 0);
  if (!given_up) {
    trace_file_write(&d->file, &t->o, &out);
    t->file_done(&out, t->file_context);
  }
  trace_file_done(&d->file);
  /* the fields and the caller's context are let go; pairs with the exchange of tl_trace_file and the load of
   * tl_trace_end_files */
  atomic_store_explicit(&t->file_state, FILE_NONE, memory_order_seq_cst);
}

static void look_at_file(struct drain *d, bool last) {
  struct tl_trace *t = d->trace;
  int64_t now_ns = tl_now_ns();
  /* pairs with tl_trace_file's release of the fields */
  if (!d->makes_file && atomic_load_explicit(&t->file_state, memory_order_acquire) == FILE_ASKED) {
    d->makes_file = true;
    atomic_store_explicit(&t->hurry, 0, memory_order_relaxed); /* of the file before */
    d->file = (struct trace_file){.since_ns = now_ns};
    d->file_until_ns = now_ns + TL_SEC(t->file_seconds) + FILE_GRACE_NS;
    atomic_fetch_or_explicit(&t->wants, TL_TRACE_CAPTURE, memory_order_relaxed); /* a setting alone */
  }
  bool given_up = last || atomic_load_explicit(&t->no_files, memory_order_seq_cst); /* pairs with tl_trace_end_files */
  bool over = now_ns >= d->file_until_ns || atomic_load_explicit(&t->hurry, memory_order_relaxed); /* a wish alone */
  if (d->makes_file && (given_up || over)) end_file(d, given_up);
}

/* --- the thread -------------------------------------------------------------------------------------- */

static void look_at_clock(struct drain *d) {
  int64_t offset_ns = tl_wall_ns() - tl_now_ns(), by_ns = offset_ns - d->wall_offset_ns;
  if (by_ns > CLOCK_SET_NS || by_ns < -CLOCK_SET_NS) d->wall_offset_ns = offset_ns;
}

static bool stopping(const struct tl_trace *t) {
  return atomic_load_explicit(&t->stopping, memory_order_acquire); /* pairs with tl_trace_stop */
}

/* Without a collector and a file there is nothing to wake up for but to be asked for a file. */
static void nap(struct drain *d) {
  struct tl_trace *t = d->trace;
  bool idle = !t->sender && !d->makes_file;
  tl_waker_prepare(&t->waker);
  if (stopping(t) || (idle && atomic_load_explicit(&t->file_state, memory_order_acquire) == FILE_ASKED)) /* see look_at_file */
    tl_waker_cancel(&t->waker);
  else
    tl_waker_sleep(&t->waker, idle ? -1 : NAP_NS);
}

void *trace_drain_run(void *argument) {
  struct drain d = {.trace = argument};
  tl_thread_enter("tl-trace", TL_ROLE_WRITER);
  for (;;) {
    bool last = stopping(d.trace); /* before the drain: what was put before is drained */
    look_at_clock(&d);
    bool any = drain_rings(&d);
    look_at_file(&d, last);
    if (d.has_batch && (last ? !any : tl_now_ns() - d.batch_since_ns >= BATCH_NS)) hand_over(&d);
    if (last && !any) return NULL;
    if (!last) nap(&d);
  }
}
