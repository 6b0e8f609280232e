/* SPDX-License-Identifier: MIT */
/* The trace file, in the JSON object form of Chrome's trace event format, which Perfetto
 * and chrome://tracing open. Two groups of tracks ("processes"):
 *
 *   threads    one track a loop and a worker: what runs on that thread in one piece, and steps
 *   requests   one track a request; another where spans overlap without nesting, since the
 *              events of a track must nest
 */
#include <stdlib.h>
#include <string.h>

#include "trace/trace_private.h"

#define MAX_SPANS 100000 /* 11 MB here, about 30 MB of JSON */
#define MAX_ROOTS 10000
#define MAX_LANES 64     /* tracks of one request; what overlaps more is drawn on the last */
#define MAX_DEPTH 64

enum { PID_THREADS = 1, PID_REQUESTS = 2 };

static bool grow(void **items, size_t *cap, size_t n, size_t size, size_t most) {
  if (n < *cap) return true;
  if (n >= most) return false;
  size_t more = *cap ? *cap * 2 : 1024;
  if (more > most) more = most;
  void *grown = realloc(*items, more * size);
  if (!grown) return false;
  *items = grown;
  *cap = more;
  return true;
}

void trace_file_add(struct trace_file *file, const struct tl_trace_span *span) {
  bool root = span->kind == TL_SPAN_REQUEST;
  if (span->end_ns < file->since_ns) return; /* left from before */
  if (!grow((void **)&file->spans, &file->cap, file->n, sizeof *file->spans, MAX_SPANS) ||
      (root && !grow((void **)&file->roots, &file->cap_roots, file->n_roots, sizeof *file->roots, MAX_ROOTS))) {
    file->dropped++;
    return;
  }
  file->spans[file->n] = *span;
  if (root) {
    file->spans[file->n].value[TL_SPAN_VALUES - 1] = (int64_t)file->n_roots;
    file->roots[file->n_roots++] = *(const struct tl_trace_root *)(const void *)span;
  }
  file->n++;
}

void trace_file_done(struct trace_file *file) {
  free(file->spans);
  free(file->roots);
  *file = (struct trace_file){0};
}

/* --- order ---------------------------------------------------------------------------------------- */

/* The root's id: spans of one request have it in common. 0: of no request. */
static uint64_t request_of(const struct tl_trace_span *span) {
  return span->kind == TL_SPAN_REQUEST ? span->span_id : span->parent_id;
}

static int compare(uint64_t a, uint64_t b) {
  return (a > b) - (a < b);
}

/* By request, then what begins first, then what ends last, so that a span comes before those in it. */
static int by_request(const void *x, const void *y) {
  const struct tl_trace_span *a = x, *b = y;
  int order = compare(request_of(a), request_of(b));
  if (order == 0) order = compare((uint64_t)a->start_ns, (uint64_t)b->start_ns);
  if (order == 0) order = compare((uint64_t)b->end_ns, (uint64_t)a->end_ns);
  return order ? order : compare(a->kind, b->kind);
}

/* The ends of the spans that are open on a track, outermost first. */
struct lane {
  unsigned depth;
  int64_t ends[MAX_DEPTH];
};

static bool fits(struct lane *lane, const struct tl_trace_span *span) {
  while (lane->depth && lane->ends[lane->depth - 1] <= span->start_ns) lane->depth--;
  return lane->depth < MAX_DEPTH && (lane->depth == 0 || span->end_ns <= lane->ends[lane->depth - 1]);
}

/* The first track on which the span nests. */
static unsigned choose_lane(struct lane *lanes, unsigned *n, const struct tl_trace_span *span) {
  unsigned i = 0;
  while (i < *n && !fits(&lanes[i], span)) i++;
  if (i == MAX_LANES) return MAX_LANES - 1;
  if (i == *n) lanes[(*n)++].depth = 0;
  lanes[i].ends[lanes[i].depth++] = span->end_ns;
  return i;
}

/* --- text ------------------------------------------------------------------------------------------ */

/* Of a track or a group of tracks. The name is put by the caller, then "}}". */
static void put_meta(struct tl_buffer *out, const char *what, unsigned pid, unsigned tid) {
  tl_buffer_printf(out, ",\n{\"ph\":\"M\",\"name\":\"%s\",\"pid\":%u,\"tid\":%u,\"args\":{\"name\":", what, pid, tid);
}

static void put_root_args(struct tl_buffer *out, const struct tl_trace_root *root) {
  const struct tl_trace_facts *f = &root->facts;
  tl_buffer_puts(out, ",\"tokenlane.request_id\":");
  span_put_json_string(out, root->request_id);
  if (!f->operation) return;
  tl_buffer_printf(out, ",\"gen_ai.response.id\":\"%s\",\"gen_ai.usage.input_tokens\":%lld,\"gen_ai.usage.output_tokens\":%lld",
                   f->response_id, (long long)f->n_input, (long long)f->n_output);
  if (f->finish[0]) tl_buffer_printf(out, ",\"gen_ai.response.finish_reason\":\"%s\"", f->finish[0]);
}

static void put_event(struct tl_buffer *out, const struct trace_file *file, const struct tl_trace_span *span, unsigned pid,
                      unsigned tid) {
  const struct tl_trace_root *root = span->kind == TL_SPAN_REQUEST ? &file->roots[span->value[TL_SPAN_VALUES - 1]] : NULL;
  int64_t took_ns = span->end_ns > span->start_ns ? span->end_ns - span->start_ns : 0;
  tl_buffer_printf(out, ",\n{\"ph\":\"X\",\"pid\":%u,\"tid\":%u,\"ts\":%lld.%03d,\"dur\":%lld.%03d,\"cat\":\"tokenlane\",\"name\":\"",
                   pid, tid, (long long)(span->start_ns / 1000), (int)(span->start_ns % 1000), (long long)(took_ns / 1000),
                   (int)(took_ns % 1000));
  if (root)
    tl_buffer_printf(out, "%s %s\",\"args\":{\"trace_id\":\"", root->method, root->route);
  else
    tl_buffer_printf(out, "%s\",\"args\":{\"trace_id\":\"", span_name(span->kind));
  span_put_hex(out, span->trace_id[0]);
  span_put_hex(out, span->trace_id[1]);
  tl_buffer_putc(out, '"');
  for (unsigned i = 0; i < TL_SPAN_VALUES && span_value_name(span->kind, i); i++)
    if (span->value[i] != -1) tl_buffer_printf(out, ",\"%s\":%lld", span_value_name(span->kind, i), (long long)span->value[i]);
  if (span->error) tl_buffer_printf(out, ",\"error.type\":\"%s\"", span->error);
  if (root) put_root_args(out, root);
  tl_buffer_puts(out, "}}");
}

static void put_threads(struct tl_buffer *out, const struct trace_file *file, const struct tl_trace_options *o) {
  put_meta(out, "process_name", PID_THREADS, 0);
  tl_buffer_puts(out, "\"threads\"}}");
  for (unsigned i = 0; i < o->n_loops + o->n_workers; i++) {
    put_meta(out, "thread_name", PID_THREADS, i + 1);
    bool loop = i < o->n_loops;
    tl_buffer_printf(out, "\"%s %u\"}}", loop ? "loop" : "worker", loop ? i : i - o->n_loops);
  }
  for (size_t i = 0; i < file->n; i++)
    if (file->spans[i].on_thread) put_event(out, file, &file->spans[i], PID_THREADS, file->spans[i].ring + 1u);
}

/* The track's name is the request's id; of one that has not ended there is only the trace's. */
static void put_track_name(struct tl_buffer *out, const struct trace_file *file, const struct tl_trace_span *first, size_t n,
                           unsigned tid) {
  put_meta(out, "thread_name", PID_REQUESTS, tid);
  for (size_t i = 0; i < n; i++)
    if (first[i].kind == TL_SPAN_REQUEST) {
      span_put_json_string(out, file->roots[first[i].value[TL_SPAN_VALUES - 1]].request_id);
      tl_buffer_puts(out, "}}");
      return;
    }
  tl_buffer_putc(out, '"');
  span_put_hex(out, first->trace_id[0]);
  span_put_hex(out, first->trace_id[1]);
  tl_buffer_puts(out, "\"}}");
}

/* Draws the spans first[0..n) of one request; returns how many tracks it took. */
static unsigned put_request(struct tl_buffer *out, const struct trace_file *file, const struct tl_trace_span *first, size_t n,
                            unsigned tid) {
  struct lane lanes[MAX_LANES];
  unsigned n_lanes = 0;
  for (size_t i = 0; i < n; i++) put_event(out, file, &first[i], PID_REQUESTS, tid + choose_lane(lanes, &n_lanes, &first[i]));
  for (unsigned i = 0; i < n_lanes; i++) put_track_name(out, file, first, n, tid + i);
  return n_lanes;
}

void trace_file_write(struct trace_file *file, const struct tl_trace_options *options, struct tl_buffer *out) {
  if (file->n) qsort(file->spans, file->n, sizeof *file->spans, by_request);
  tl_buffer_printf(out, "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"version\":\"%s\",\"dropped_spans\":\"%zu\"},\"traceEvents\":[\n",
                   TL_VERSION, file->dropped);
  tl_buffer_printf(out, "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"tid\":0,\"args\":{\"name\":\"requests\"}}", PID_REQUESTS);
  put_threads(out, file, options);
  unsigned tid = 1;
  for (size_t i = 0, next; i < file->n; i = next) {
    for (next = i + 1; next < file->n && request_of(&file->spans[next]) == request_of(&file->spans[i]);) next++;
    if (request_of(&file->spans[i])) tid += put_request(out, file, &file->spans[i], next - i, tid);
  }
  tl_buffer_puts(out, "\n]}\n");
}
