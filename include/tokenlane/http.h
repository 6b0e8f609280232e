/* SPDX-License-Identifier: MIT */
/* HTTP/1.1 on libuv loops: bytes to requests and back. Knows no JSON and no
 * model; the room above registers handlers. A request belongs to one loop from
 * its first byte to its last; unless said otherwise every function here is for
 * that loop's thread. */
#ifndef TOKENLANE_HTTP_H
#define TOKENLANE_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenlane/base/error.h"
#include "tokenlane/metrics.h"
#include "tokenlane/trace.h"

struct tl_http;
struct tl_http_request;

struct tl_http_options {
  const char *host;      /* NULL: no TCP listener (unless inherited_fds) */
  int port;              /* 0: any free one, see tl_http_port */
  const char *unix_path; /* NULL: no unix socket. A stale socket file is replaced */
  unsigned unix_mode;    /* of that file; 0: as the umask has it */
  const int *inherited_fds; /* listening sockets passed by systemd; then host and unix_path are not opened */
  unsigned n_inherited_fds;
  unsigned n_loops;           /* >= 1; SO_REUSEPORT where several loops listen on TCP */
  size_t max_body_bytes;      /* 413 */
  size_t max_header_bytes;    /* all header lines together; 431 */
  unsigned max_headers;       /* 431 */
  size_t max_url_bytes;       /* 414 */
  size_t max_write_queue_bytes; /* bytes queued on a connection before tl_http_writable says no */
  unsigned max_connections;   /* per loop; more are accepted and closed at once */
  int64_t header_timeout_ns;  /* first byte to end of header; 408 */
  int64_t body_timeout_ns;    /* end of header to end of body; 408 */
  int64_t idle_timeout_ns;    /* keep-alive without a request */
  int64_t write_timeout_ns;   /* the client takes none of the queued bytes for this long: cut */
  const char *const *cors_origins; /* (n_cors_origins) borrowed: pages of these origins may read answers; "*": all */
  unsigned n_cors_origins;
  struct tl_trace *trace;     /* loop i uses its ring i; NULL: no request is traced */
};

typedef void (*tl_http_handler)(struct tl_http_request *request, void *context);

/* Boot. Opens the listening sockets, starts no thread. metrics may be NULL. */
int tl_http_new(const struct tl_http_options *options, struct tl_metrics *metrics, struct tl_http **ret,
                struct tl_error *err);
/* Registers a handler for an exact path, or by a '*' at its end for all that goes
 * on behind it; what was registered first is asked first. Boot, before tl_http_start. method is
 * "GET" (serves HEAD too) or "POST"; another method on the path: 405 + Allow;
 * unknown path: 404. `route_label` of the counted requests is the path. The
 * handler must answer the request now or later, on the same loop. */
int tl_http_handle(struct tl_http *http, const char *method, const char *path, tl_http_handler handler,
                   void *context);
/* The body of the errors that http itself finds (404, 405, 408, 413, 414, 431,
 * 400...): writes it for `status` and `message` into out and returns its content type. Of the request only the
 * path may be asked, which is NULL when the header was not understood. NULL: plain text. Boot. */
void tl_http_error_body(struct tl_http *http, const char *(*write)(const struct tl_http_request *request, int status,
                                                                   const char *message, struct tl_buffer *out));
/* Asked about each request but OPTIONS without a body once its header is there, before anything of a body is
 * read: 0 lets it go on, else the status of the answer and its text. The connection then ends
 * with that answer. It may look at path and header and add headers to the answer; loops call it. Boot. */
void tl_http_guard(struct tl_http *http,
                   int (*guard)(struct tl_http_request *request, void *context, const char **ret_text), void *context);
/* Registers what a loop calls when it has been woken by tl_http_wake. Boot. */
void tl_http_on_wake(struct tl_http *http, void (*on_wake)(unsigned loop, void *context), void *context);
/* Wakes a loop (through tl_wake_by, so publish first). Any thread. */
void tl_http_wake(struct tl_http *http, unsigned loop);
/* A shard per loop; call in boot after all metrics are registered. */
int tl_http_start(struct tl_http *http, struct tl_error *err);
/* The metrics shard of a loop, for the rooms above that run on it. After tl_http_start's
 * threads exist; loop's own thread. */
struct tl_metrics_shard *tl_http_shard(struct tl_http *http, unsigned loop);
/* The TCP port that was bound, 0 when none. Any thread. */
int tl_http_port(const struct tl_http *http);
/* Begins draining: listeners close, idle connections close, answers carry
 * "Connection: close". Any thread. */
void tl_http_drain(struct tl_http *http);
/* Connections still open, over all loops. Any thread. */
unsigned tl_http_connections(const struct tl_http *http);
/* Closes all that is left, ends the threads, waits for them; registered on_abort
 * callbacks run on their loop first. Main thread. */
void tl_http_stop(struct tl_http *http);
void tl_http_free(struct tl_http *http);

/* --- the request ------------------------------------------------------------- */
unsigned tl_http_loop(const struct tl_http_request *request); /* index of its loop */
const char *tl_http_path(const struct tl_http_request *request);   /* without query */
const char *tl_http_query(const struct tl_http_request *request);  /* after '?', or "" */
const char *tl_http_body(const struct tl_http_request *request, size_t *ret_length); /* NUL follows; "" if none */
/* Moves the body into *ret, which the caller frees: it then outlives the request. */
void tl_http_take_body(struct tl_http_request *request, struct tl_buffer *ret);
/* First header of that name (any case), or NULL. Valid as long as the request. */
const char *tl_http_header(const struct tl_http_request *request, const char *name);
int64_t tl_http_began_ns(const struct tl_http_request *request); /* first byte of the request */
/* What the answer carries as X-Request-Id: the client's own if it is 1 to 128 letters,
 * digits and -_.:/+=@, else 32 hexadecimal digits made here, the id of the trace if that begins here too. Valid
 * as long as the request. */
const char *tl_http_request_id(struct tl_http_request *request);
/* Begins the request's trace: by its traceparent, or a new one; the answer then carries
 * traceparent, its end makes the root span. NULL: nothing is traced now. First thing of a
 * handler, once; valid as long as the request. */
const struct tl_trace_context *tl_http_trace(struct tl_http_request *request);
/* To be filled before the answer ends, or in on_abort; NULL: nobody records it. */
struct tl_trace_facts *tl_http_trace_facts(struct tl_http_request *request);
void tl_http_set_data(struct tl_http_request *request, void *data);
void *tl_http_data(const struct tl_http_request *request);

/* --- the answer: either tl_http_respond, or begin, write..., end ------------------ */
/* Adds a header to the answer. Before respond or begin. Name and value are copied. */
void tl_http_add_header(struct tl_http_request *request, const char *name, const char *value);
/* A whole answer. The body is copied. The request is gone afterwards. content_type NULL: there is
 * no body, as with 204. */
void tl_http_respond(struct tl_http_request *request, int status, const char *content_type, const void *body,
                     size_t length);
/* A streamed answer: chunked for HTTP/1.1, until close for 1.0. HEAD: header only. */
void tl_http_begin(struct tl_http_request *request, int status, const char *content_type);
/* Queues bytes (copied); they are sent together when the loop next turns. */
void tl_http_write(struct tl_http_request *request, const void *bytes, size_t length);
/* Ends the stream. The request is gone afterwards. */
void tl_http_end(struct tl_http_request *request);
/* Ends the connection in place of the stream, so that the client sees that it is not whole. The request is gone afterwards. */
void tl_http_break(struct tl_http_request *request);
/* False while more than max_write_queue_bytes are queued: produce no more;
 * on_writable is called once when there is room again. */
bool tl_http_writable(const struct tl_http_request *request);
/* Called once if the client goes (or the write timeout cuts it) before the
 * answer ended; the request is gone when the callback returns, and no function
 * may be called on it in or after the callback but tl_http_data and, in it, tl_http_trace_facts. */
void tl_http_on_abort(struct tl_http_request *request, void (*on_abort)(struct tl_http_request *request));
void tl_http_on_writable(struct tl_http_request *request, void (*on_writable)(struct tl_http_request *request));
/* Around the data of one server-sent event, which has no newline, in out. name: a literal, or NULL for an event without one. */
void tl_http_sse_begin(struct tl_buffer *out, const char *name);
void tl_http_sse_end(struct tl_buffer *out);

#endif
