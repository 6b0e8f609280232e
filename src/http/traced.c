/* SPDX-License-Identifier: MIT */
/* A request's trace: the caller's headers, ours in the answer, the root span and the
 * span of writing. Only requests whose handler asks for it are traced; all else costs
 * a look at a flag.
 *
 * The root span ends when the last byte of the answer is with the kernel (or the client
 * is gone), which is after the request was cleared: the answer's end fills it, and the
 * connection holds it until its queue is empty. */
#include <llhttp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "http/http_private.h"
#include "tokenlane/base/clock.h"

/* The value of a header that may stand there only once; NULL too when it stands there twice. */
static const char *only_header(const struct tl_http_request *request, const char *name) {
  const char *found = NULL;
  for (unsigned i = 0; i < request->n_headers; i++) {
    if (strcasecmp(request->head.data + request->headers[i].name, name) != 0) continue;
    if (found) return NULL;
    found = request->head.data + request->headers[i].value;
  }
  return found;
}

/* All tracestate headers as one list; "" when it is none, or the trace is our own. */
static void read_tracestate(const struct tl_http_request *request, char ret[TL_TRACESTATE_BYTES]) {
  *ret = 0;
  if (!request->traced.context.parent_id) return;
  for (unsigned i = 0; i < request->n_headers; i++) {
    if (strcasecmp(request->head.data + request->headers[i].name, "tracestate") != 0) continue;
    if (tl_tracestate_add(request->head.data + request->headers[i].value, ret)) continue;
    *ret = 0;
    return;
  }
}

const struct tl_trace_context *tl_http_trace(struct tl_http_request *request) {
  struct http_loop *loop = request->conn->loop;
  struct tl_trace *trace = loop->http->o.trace;
  if (!tl_trace_wants(trace)) return NULL;
  struct http_traced *t = &request->traced;
  if (!tl_trace_begin(trace, loop->index, only_header(request, "traceparent"), &t->context)) return NULL;
  t->on = true;
  t->facts = (struct tl_trace_facts){.replica = -1, .n_choices = -1, .n_input = -1, .n_cached = -1, .n_output = -1};
  return &t->context;
}

struct tl_trace_facts *tl_http_trace_facts(struct tl_http_request *request) {
  return request->traced.on && request->traced.context.recorded ? &request->traced.facts : NULL;
}

void http_trace_head(struct tl_http_request *request, struct tl_buffer *out) {
  char parent[TL_TRACEPARENT_BYTES], state[TL_TRACESTATE_BYTES];
  if (!request->traced.on) return;
  http_trace_flushed(request->conn); /* what an earlier answer still has to send is now sent with this one */
  request->conn->writes = (struct http_writes){0};
  tl_traceparent_write(&request->traced.context, parent);
  tl_buffer_printf(out, "traceparent: %s\r\n", parent);
  read_tracestate(request, state);
  if (*state) tl_buffer_printf(out, "tracestate: %s\r\n", state);
}

/* What a 5xx or a client that left is called; other refusals are the client's business. */
static const char *error_of(int status) {
  switch (status) {
    case 499: return "client_disconnected";
    case 500: return "500";
    case 503: return "503";
    case 504: return "504";
    default: return status > 500 ? "_OTHER" : NULL;
  }
}

void http_trace_answered(struct http_conn *conn, bool cut) {
  struct tl_http_request *request = &conn->request;
  http_trace_flushed(conn); /* an earlier answer whose bytes still wait before this one's */
  if (!request->traced.on || !request->traced.context.recorded) return;
  struct tl_trace_root *root = tl_trace_take_root(conn->loop->http->o.trace, conn->loop->index, &request->traced.context);
  if (!root) return;
  root->span.start_ns = request->began_ns;
  root->span.value[0] = request->status;
  root->span.value[1] = (int64_t)request->body_bytes;
  root->span.error = cut ? error_of(499) : error_of(request->status);
  root->facts = request->traced.facts;
  root->method = llhttp_method_name((llhttp_method_t)conn->parser.method);
  snprintf(root->route, sizeof root->route, "%s", request->route->path);
  snprintf(root->request_id, sizeof root->request_id, "%s", tl_http_request_id(request));
  read_tracestate(request, root->tracestate);
  conn->root = root;
  if (cut) http_trace_flushed(conn);
}

bool http_trace_wants_writes(const struct http_conn *conn) {
  return conn->root || (conn->request.traced.on && conn->request.traced.context.recorded);
}

void http_trace_wrote(struct http_conn *conn, int64_t began_ns, size_t bytes) {
  struct http_writes *w = &conn->writes;
  if (!w->first_ns) w->first_ns = began_ns;
  w->last_ns = tl_now_ns();
  w->busy_ns += w->last_ns - began_ns;
  w->bytes += bytes;
  w->n++;
}

void http_trace_flushed(struct http_conn *conn) {
  if (!conn->root) return;
  struct tl_trace *trace = conn->loop->http->o.trace;
  struct tl_trace_root *root = TL_TAKE(&conn->root);
  const struct http_writes *w = &conn->writes;
  root->span.end_ns = tl_now_ns();
  if (w->n) {
    struct tl_trace_span span = root->span;
    span.kind = TL_SPAN_WRITE;
    span.parent_id = root->span.span_id;
    span.start_ns = w->first_ns;
    span.end_ns = w->last_ns;
    span.error = NULL;
    span.value[0] = (int64_t)w->bytes;
    span.value[1] = w->n;
    span.value[2] = w->busy_ns;
    tl_trace_put(trace, conn->loop->index, &span);
  }
  tl_trace_put_root(trace, conn->loop->index, root);
}
