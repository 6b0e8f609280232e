/* SPDX-License-Identifier: MIT */
/* Making and ending it; what is asked of it from outside. */
#include "tokenlane/trace.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tokenlane/base/clock.h"
#include "trace/trace_private.h"

int tl_trace_check(const struct tl_trace_options *options, struct tl_error *err) {
  const char *url = options->endpoint;
  size_t scheme = strncmp(url, "http://", 7) == 0 ? 7 : strncmp(url, "https://", 8) == 0 ? 8 : 0;
  if (*url && (!scheme || !url[scheme] || strpbrk(url, " \t\r\n")))
    return tl_error_set(err, TL_EINVAL, "trace.endpoint",
                        "trace.endpoint: expected a URL such as http://127.0.0.1:4318/v1/traces, got '%.100s'", url);
  if (!*options->service_name)
    return tl_error_set(err, TL_EINVAL, "trace.service_name", "trace.service_name: expected a name, got an empty one");
  return TL_OK;
}

static unsigned n_rings(const struct tl_trace *t) {
  return t->o.n_loops + t->o.n_workers;
}

static int make(struct tl_trace *t, struct tl_error *err) {
  t->rings = aligned_alloc(TL_CACHE_LINE, n_rings(t) * sizeof *t->rings);
  if (!t->rings) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  memset((void *)t->rings, 0, n_rings(t) * sizeof *t->rings);
  for (unsigned i = 0; i < n_rings(t); i++) {
    bool loop = i < t->o.n_loops;
    int r = trace_ring_init(&t->rings[i], i, loop ? TRACE_LOOP_SPANS : TRACE_WORKER_SPANS, loop ? TRACE_LOOP_ROOTS : 0, &t->waker);
    if (r < 0) return tl_error_set(err, r, NULL, "out of memory");
  }
  if (*t->o.endpoint) {
    int r = otlp_sender_new(&t->o, &t->sender, err);
    if (r < 0) return r;
    atomic_store_explicit(&t->wants, TL_TRACE_EXPORT, memory_order_relaxed); /* boot */
  }
  if (pthread_create(&t->thread, NULL, trace_drain_run, t) != 0)
    return tl_error_set(err, TL_EIO, NULL, "cannot start a thread");
  t->started = true;
  return TL_OK;
}

int tl_trace_new(const struct tl_trace_options *options, struct tl_trace **ret, struct tl_error *err) {
  struct tl_trace *t = aligned_alloc(TL_CACHE_LINE, sizeof *t);
  if (!t) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *t = (struct tl_trace){.o = *options};
  tl_waker_init(&t->waker);
  int r = make(t, err);
  if (r < 0) {
    tl_trace_stop(t);
    tl_trace_free(t);
  } else {
    *ret = t;
  }
  return r;
}

void tl_trace_stop(struct tl_trace *t) {
  if (!t) return;
  /* pairs with the acquire load in stopping(): all that producers have put is seen */
  atomic_store_explicit(&t->stopping, 1, memory_order_release);
  tl_waker_notify(&t->waker);
  if (t->started) pthread_join(t->thread, NULL); /* it waits for nobody */
  t->started = false;
  if (t->sender && !otlp_sender_stop(t->sender)) t->sender = NULL; /* left to its thread: the process ends */
}

void tl_trace_free(struct tl_trace *t) {
  if (!t) return;
  if (t->sender) otlp_sender_free(t->sender);
  for (unsigned i = 0; t->rings && i < n_rings(t); i++) trace_ring_done(&t->rings[i]);
  free(t->rings);
  free(t);
}

unsigned tl_trace_wants(const struct tl_trace *t) {
  return t ? atomic_load_explicit(&t->wants, memory_order_relaxed) : 0; /* a setting alone */
}

unsigned tl_trace_worker_ring(const struct tl_trace *t, unsigned replica) {
  return t ? t->o.n_loops + replica : 0;
}

int tl_trace_file(struct tl_trace *t, unsigned seconds, void (*done)(struct tl_buffer *file, void *context),
                  void *context, struct tl_error *err) {
  int none = FILE_NONE;
  /* acquires what the drainer let go in end_file. seq_cst with the load below: either this claim sees that there are to be
   * no more files, or tl_trace_end_files sees the claim and waits (pairs with its store and load) */
  if (t && atomic_compare_exchange_strong_explicit(&t->file_state, &none, FILE_CLAIMED, memory_order_seq_cst, memory_order_relaxed)) {
    if (!atomic_load_explicit(&t->no_files, memory_order_seq_cst)) {
      t->file_seconds = seconds;
      t->file_done = done;
      t->file_context = context;
      /* publishes the fields; pairs with the acquire load in look_at_file */
      atomic_store_explicit(&t->file_state, FILE_ASKED, memory_order_release);
      tl_waker_notify(&t->waker);
      return TL_OK;
    }
    atomic_store_explicit(&t->file_state, FILE_NONE, memory_order_seq_cst); /* as in end_file */
  }
  return tl_error_set(err, TL_EBUSY, NULL, "another trace file is being made");
}

void tl_trace_hurry_file(struct tl_trace *t) {
  if (t) atomic_store_explicit(&t->hurry, 1, memory_order_relaxed); /* the drainer looks at each nap's end */
}

void tl_trace_end_files(struct tl_trace *t) {
  if (!t) return;
  atomic_store_explicit(&t->no_files, 1, memory_order_seq_cst); /* pairs with tl_trace_file and look_at_file */
  tl_waker_notify(&t->waker);
  while (t->started && atomic_load_explicit(&t->file_state, memory_order_seq_cst) != FILE_NONE) /* pairs with end_file */
    nanosleep(&(struct timespec){.tv_nsec = TL_MS(1)}, NULL);
}

struct tl_trace_counts tl_trace_counts(const struct tl_trace *t) {
  struct tl_trace_counts counts = {0};
  if (t && t->sender) otlp_sender_count(t->sender, &counts);
  for (unsigned i = 0; t && i < n_rings(t); i++)
    counts.ring_full += atomic_load_explicit(&t->rings[i].dropped, memory_order_relaxed); /* counts alone */
  return counts;
}
