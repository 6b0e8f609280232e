/* SPDX-License-Identifier: MIT */
/* What does a span cost the thread that puts it, and a request its context? One
 * producer, the room's own thread draining, against a mutex around a list of malloced spans,
 * which is what tracing libraries do at their simplest. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tokenlane/base/clock.h"
#include "tokenlane/trace.h"

enum { ROUNDS = 7, BURST = 500, BURSTS = 400 };

static const char parent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/* --- the twin ------------------------------------------------------------------------------- */

struct node {
  struct node *next;
  struct tl_trace_span span;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct node *list;
static bool ending;

static void put_locked(const struct tl_trace_span *span) {
  struct node *node = malloc(sizeof *node);
  if (!node) abort();
  node->span = *span;
  pthread_mutex_lock(&mutex);
  node->next = list;
  list = node;
  pthread_mutex_unlock(&mutex);
}

static void *drain_locked(void *unused) {
  for (bool last = false; !last;) {
    usleep(20000);
    pthread_mutex_lock(&mutex);
    struct node *all = list;
    list = NULL;
    last = ending;
    pthread_mutex_unlock(&mutex);
    for (struct node *next; all; all = next) {
      next = all->next;
      free(all);
    }
  }
  return unused;
}

/* --- measuring --------------------------------------------------------------------------------- */

/* Nanoseconds a span. In bursts, so that the drainer can follow. */
static double time_puts(struct tl_trace *trace, const struct tl_trace_context *context) {
  int64_t spent_ns = 0;
  for (unsigned i = 0; i < BURSTS; i++) {
    int64_t began_ns = tl_now_ns();
    for (unsigned k = 0; k < BURST; k++) {
      struct tl_trace_span span = tl_trace_span_of(context, TL_SPAN_DECODE, began_ns, began_ns);
      if (trace)
        tl_trace_put(trace, 0, &span);
      else
        put_locked(&span);
    }
    spent_ns += tl_now_ns() - began_ns;
    usleep(2000);
  }
  return (double)spent_ns / BURSTS / BURST;
}

static double time_begins(struct tl_trace *trace, const char *header) {
  struct tl_trace_context context;
  uint64_t sum = 0;
  enum { N = 200000 };
  int64_t began_ns = tl_now_ns();
  for (unsigned i = 0; i < N; i++) {
    __asm__ volatile("" : "+r"(header)); /* or all is known beforehand */
    if (tl_trace_begin(trace, 0, header, &context)) sum += context.span_id;
  }
  double each = (double)(tl_now_ns() - began_ns) / N;
  if (sum == 1) puts(""); /* it is used */
  return each;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values) {
  qsort(values, ROUNDS, sizeof *values, by_value);
  return values[ROUNDS / 2];
}

int main(void) {
  /* port 1 refuses: spans are formatted, posted in vain and dropped */
  struct tl_trace_options options = {.endpoint = "http://127.0.0.1:1/", .service_name = "bench", .model = "m",
                                     .sample_per_mille = 1000, .n_loops = 1, .n_workers = 0};
  struct tl_trace *trace, *off;
  struct tl_error err;
  struct tl_trace_context context;
  pthread_t drainer;
  double puts_ns[ROUNDS], locked_ns[ROUNDS], off_ns[ROUNDS], new_ns[ROUNDS], continued_ns[ROUNDS];
  if (tl_trace_new(&options, &trace, &err) < 0) return fprintf(stderr, "bench_trace: %s\n", err.message), 1;
  options.endpoint = "";
  if (tl_trace_new(&options, &off, &err) < 0) return fprintf(stderr, "bench_trace: %s\n", err.message), 1;
  tl_trace_begin(trace, 0, NULL, &context);
  pthread_create(&drainer, NULL, drain_locked, NULL);
  for (unsigned i = 0; i < ROUNDS; i++) {
    puts_ns[i] = time_puts(trace, &context);
    locked_ns[i] = time_puts(NULL, &context);
    off_ns[i] = time_begins(off, parent);
    new_ns[i] = time_begins(trace, NULL);
    continued_ns[i] = time_begins(trace, parent);
  }
  pthread_mutex_lock(&mutex);
  ending = true;
  pthread_mutex_unlock(&mutex);
  pthread_join(drainer, NULL);
  double span = median(puts_ns), locked = median(locked_ns);
  printf("a span: %.0f ns; malloc, mutex and a list: %.0f ns, %.1f times\n", span, locked, locked / span);
  printf("a request's context: off %.1f ns, new %.0f ns, from a traceparent %.0f ns\n", median(off_ns), median(new_ns), median(continued_ns));
  printf("spans dropped by a full ring: %.1f %%\n", 100.0 * (double)tl_trace_counts(trace).ring_full / ((double)ROUNDS * BURSTS * BURST));
  tl_trace_stop(trace);
  tl_trace_stop(off);
  tl_trace_free(trace);
  tl_trace_free(off);
  return 0;
}
