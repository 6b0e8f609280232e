/* SPDX-License-Identifier: MIT */
/* The producers' side. A record goes round: free → filled by its thread → full →
 * formatted → free. Its content is published by the release store of the one queue
 * and given back by that of the other (base/spsc.c), so it needs no atomics itself. */
#include <stdlib.h>

#include "tokenlane/base/hash.h"
#include "trace/trace_private.h"

int trace_ring_init(struct trace_ring *ring, unsigned index, unsigned n_spans, unsigned n_roots, struct tl_waker *drainer) {
  ring->index = (uint16_t)index;
  ring->drainer = drainer;
  for (unsigned i = 0; i < 3; i++) ring->id_key[i] = tl_random_seed();
  ring->spans = calloc(n_spans, sizeof *ring->spans);
  if (n_roots) ring->roots = calloc(n_roots, sizeof *ring->roots);
  if (!ring->spans || (n_roots && !ring->roots)) return TL_ENOMEM;
  if (tl_spsc_init(&ring->full, (size_t)n_spans + n_roots) < 0 || tl_spsc_init(&ring->free_spans, n_spans) < 0 ||
      tl_spsc_init(&ring->free_roots, n_roots) < 0)
    return TL_ENOMEM;
  for (unsigned i = 0; i < n_spans; i++) tl_spsc_push(&ring->free_spans, &ring->spans[i]);
  for (unsigned i = 0; i < n_roots; i++) tl_spsc_push(&ring->free_roots, &ring->roots[i]);
  return TL_OK;
}

void trace_ring_done(struct trace_ring *ring) {
  tl_spsc_done(&ring->full);
  tl_spsc_done(&ring->free_spans);
  tl_spsc_done(&ring->free_roots);
  free(ring->spans);
  free(ring->roots);
}

static void count_drop(struct trace_ring *ring) {
  /* relaxed: only this thread writes it */
  uint64_t dropped = atomic_load_explicit(&ring->dropped, memory_order_relaxed);
  atomic_store_explicit(&ring->dropped, dropped + 1, memory_order_relaxed); /* a count alone */
}

/* The drainer comes by every few milliseconds. It is woken only when a quarter of the ring
 * was filled since, so that a span costs neither a fence nor a system call. */
static void push(struct trace_ring *ring, void *span) {
  tl_spsc_push(&ring->full, span); /* has room for all records */
  if (++ring->n_put % (TRACE_WORKER_SPANS / 4) == 0) tl_waker_notify(ring->drainer);
}

static uint64_t new_id(struct trace_ring *ring, unsigned key) {
  uint64_t id = tl_hash_u64(ring->id_key[key] + ring->n_ids);
  return id ? id : 1;
}

bool tl_trace_begin(struct tl_trace *trace, unsigned loop, const char *traceparent, struct tl_trace_context *ret) {
  unsigned wants = tl_trace_wants(trace);
  if (!wants) return false;
  struct trace_ring *ring = &trace->rings[loop];
  struct tl_trace_context c = {0};
  ring->n_ids++;
  if (!traceparent || !traceparent_read(traceparent, &c)) {
    c = (struct tl_trace_context){.trace_id = {new_id(ring, 0), new_id(ring, 1)}};
    c.sampled = trace_is_sampled(c.trace_id[1], trace->o.sample_per_mille);
  }
  c.span_id = new_id(ring, 2);
  c.recorded = (wants & TL_TRACE_CAPTURE) || ((wants & TL_TRACE_EXPORT) && c.sampled);
  *ret = c;
  return true;
}

struct tl_trace_span tl_trace_span_of(const struct tl_trace_context *context, enum tl_span_kind kind, int64_t start_ns,
                          int64_t end_ns) {
  return (struct tl_trace_span){.trace_id = {context->trace_id[0], context->trace_id[1]},
                          .parent_id = context->span_id,
                          .start_ns = start_ns,
                          .end_ns = end_ns,
                          .value = {-1, -1, -1, -1, -1},
                          .kind = (uint8_t)kind,
                          .sampled = context->sampled};
}

void tl_trace_put(struct tl_trace *trace, unsigned ring_index, const struct tl_trace_span *span) {
  struct trace_ring *ring = &trace->rings[ring_index];
  struct tl_trace_span *record = tl_spsc_pop(&ring->free_spans);
  if (!record) {
    count_drop(ring);
    return;
  }
  *record = *span;
  record->ring = ring->index;
  ring->n_ids++;
  record->span_id = new_id(ring, 2);
  push(ring, record);
}

struct tl_trace_root *tl_trace_take_root(struct tl_trace *trace, unsigned loop, const struct tl_trace_context *context) {
  struct trace_ring *ring = &trace->rings[loop];
  struct tl_trace_root *root = tl_spsc_pop(&ring->free_roots);
  if (!root) {
    count_drop(ring);
    return NULL;
  }
  root->span = tl_trace_span_of(context, TL_SPAN_REQUEST, 0, 0);
  root->span.span_id = context->span_id;
  root->span.parent_id = context->parent_id;
  root->span.ring = ring->index;
  return root;
}

void tl_trace_put_root(struct tl_trace *trace, unsigned loop, struct tl_trace_root *root) {
  push(&trace->rings[loop], root);
}

/* --- the drainer ------------------------------------------------------------------------------ */

struct tl_trace_span *trace_ring_pop(struct trace_ring *ring) {
  return tl_spsc_pop(&ring->full);
}

void trace_ring_give_back(struct trace_ring *ring, struct tl_trace_span *span) {
  tl_spsc_push(span->kind == TL_SPAN_REQUEST ? &ring->free_roots : &ring->free_spans, span); /* it came from there */
}
