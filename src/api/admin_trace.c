/* SPDX-License-Identifier: MIT */
/* GET /admin/trace?seconds=N: a trace file of the next N seconds. A thread of the trace's
 * room makes it; the listener's loop only waits for the wake-up and then sends it in
 * pieces, as fast as the client takes them.
 *
 *   loop    asked: busy ─► tl_trace_file                      took: sends, not busy
 *   trace                        collects ... file, made = 1 ─► wakes the loop
 */
#include <stdlib.h>

#include "api/admin_private.h"

#define PIECE_BYTES ((size_t)1 << 17)

struct admin_trace {
  struct tl_http *http;
  struct tl_trace *trace;
  /* the loop's */
  bool busy;                       /* a file is being made or sent */
  struct tl_http_request *request; /* who waits for it; NULL: left */
  struct tl_buffer sent;           /* what is being sent */
  size_t at;
  /* the maker's until made */
  struct tl_buffer file;
  _Atomic int made;
};

static void end(struct admin_trace *t) {
  t->request = NULL;
  t->busy = false;
  tl_buffer_done(&t->sent);
}

static void send_more(struct admin_trace *t) {
  while (t->at < t->sent.length && tl_http_writable(t->request)) {
    size_t n = t->sent.length - t->at < PIECE_BYTES ? t->sent.length - t->at : PIECE_BYTES;
    tl_http_write(t->request, t->sent.data + t->at, n);
    t->at += n;
  }
  if (t->at < t->sent.length) return; /* on_writable goes on */
  struct tl_http_request *request = TL_TAKE(&t->request);
  end(t);
  tl_http_end(request);
}

static void on_writable(struct tl_http_request *request) {
  struct admin_trace *t = tl_http_data(request);
  if (t->sent.length) send_more(t);
}

static void on_abort(struct tl_http_request *request) {
  struct admin_trace *t = tl_http_data(request);
  t->request = NULL;
  if (t->sent.length)
    end(t);
  else
    tl_trace_hurry_file(t->trace); /* the next one need not wait for it */
}

/* The maker's thread. */
static void on_made(struct tl_buffer *file, void *context) {
  struct admin_trace *t = context;
  t->file = *file;
  /* publishes the file; pairs with the acquire exchange in admin_trace_wake */
  atomic_store_explicit(&t->made, 1, memory_order_release);
  tl_http_wake(t->http, 0);
}

void admin_trace_wake(struct admin_trace *t) {
  if (!atomic_exchange_explicit(&t->made, 0, memory_order_acquire)) return; /* pairs with on_made */
  t->sent = t->file;
  tl_buffer_init(&t->file, 0);
  t->at = 0;
  if (!t->request) {
    end(t);
  } else if (t->sent.failed) {
    struct tl_error err = {0};
    struct tl_http_request *request = TL_TAKE(&t->request);
    end(t);
    tl_error_set(&err, TL_ENOMEM, NULL, "out of memory");
    api_respond_error(request, &err, 0);
  } else {
    tl_http_add_header(t->request, "Content-Disposition", "attachment; filename=\"tokenlane-trace.json\"");
    tl_http_begin(t->request, 200, "application/json");
    send_more(t);
  }
}

/* 1 .. TL_TRACE_FILE_SECONDS. */
static bool read_seconds(struct tl_http_request *request, unsigned *ret) {
  char text[8];
  if (!admin_query(request, "seconds", text, sizeof text)) return false;
  char *end_of = text;
  unsigned long value = text[0] >= '0' && text[0] <= '9' ? strtoul(text, &end_of, 10) : 0;
  *ret = (unsigned)value;
  return *end_of == 0 && value >= 1 && value <= TL_TRACE_FILE_SECONDS;
}

static void on_ask(struct tl_http_request *request, void *context) {
  struct admin_trace *t = context;
  struct tl_error err = {0};
  unsigned seconds;
  if (!read_seconds(request, &seconds))
    tl_error_set(&err, TL_EINVAL, "seconds", "seconds: expected 1 to %d, as in /admin/trace?seconds=5", TL_TRACE_FILE_SECONDS);
  else if (t->busy)
    tl_error_set(&err, TL_EBUSY, NULL, "another trace file is being made; try again later");
  else
    tl_trace_file(t->trace, seconds, on_made, t, &err);
  if (err.code) {
    api_respond_error(request, &err, 0);
    return;
  }
  t->busy = true;
  t->request = request;
  tl_http_set_data(request, t);
  tl_http_on_abort(request, on_abort);
  tl_http_on_writable(request, on_writable);
}

int admin_trace_new(struct tl_http *http, struct tl_trace *trace, struct admin_trace **ret) {
  struct admin_trace *t = calloc(1, sizeof *t);
  if (!t) return TL_ENOMEM;
  t->http = http;
  t->trace = trace;
  *ret = t;
  return tl_http_handle(http, "GET", "/admin/trace", on_ask, t);
}

void admin_trace_free(struct admin_trace *t) {
  if (!t) return;
  tl_buffer_done(&t->sent);
  tl_buffer_done(&t->file);
  free(t);
}
