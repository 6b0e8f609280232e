/* SPDX-License-Identifier: MIT */
/* Connections and requests. A connection answers one request at a time: its
 * parser is paused at the end of a message and goes on when the answer ended;
 * bytes of later requests wait in `in`, up to a bound. */
#ifndef HTTP_PRIVATE_H
#define HTTP_PRIVATE_H

#include <llhttp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#include "tokenlane/base/buffer.h"
#include "tokenlane/base/thread.h"
#include "tokenlane/http.h"

#define HTTP_READ_BYTES 65536
#define HTTP_PIPELINE_BYTES 65536 /* with so many unparsed bytes no more is read */
#define HTTP_CHUNK_EXTENSION_BYTES 1024
#define HTTP_ASK_NS 1000000000LL /* between two tries to hear whether a client is still there */
#define HTTP_LINGER_NS 2000000000LL
#define HTTP_LINGER_BYTES (1 << 20)
#define HTTP_MAX_ROUTES 128

/* Statuses that are counted one by one; the last entry stands for all others. */
struct http_code {
  int status;
  const char *text;
};
#define HTTP_N_CODES 19
extern const struct http_code http_codes[HTTP_N_CODES]; /* respond.c */

struct http_route {
  char *path;            /* of a prefix route: what stands before the '*' */
  size_t path_length;
  bool prefix;
  const char *method; /* GET or POST */
  tl_http_handler handler;
  void *context;
  tl_metric requests[HTTP_N_CODES], seconds;
};

struct http_header {
  uint32_t name, value; /* offsets in head, NUL-terminated */
};

/* head.c: the bytes of a header as they come, for what llhttp lets through. */
enum http_scan_at { SCAN_BEGIN, SCAN_REQUEST_LINE, SCAN_LINE_BEGIN, SCAN_NAME, SCAN_VALUE, SCAN_END };
struct http_scan {
  enum http_scan_at at;
  bool after_cr, after_space;
  size_t bytes; /* of header lines, the empty one at the end included */
};

enum conn_state {
  CONN_READING,  /* waits for a request or is in one */
  CONN_ANSWERING, /* a handler has the request */
  CONN_LINGERING, /* the last answer is out; input is thrown away until the client is done */
  CONN_CLOSING,
};

/* traced.c */
struct http_traced {
  bool on;
  struct tl_trace_context context;
  struct tl_trace_facts facts;
};

struct http_writes {
  int64_t first_ns, last_ns, busy_ns;
  uint64_t bytes;
  uint32_t n;
};

struct tl_http_request {
  struct http_conn *conn;
  struct tl_buffer head;  /* target, then names and values, each with a NUL */
  struct tl_buffer body;
  struct http_header *headers;
  unsigned n_headers, cap_headers;
  char *path, *query;     /* in head */
  const struct http_route *route;
  int64_t began_ns;
  bool is_head, is_http10, keep_alive, chunked_answer, began_answer;
  struct tl_buffer extra; /* header lines that the handler added */
  int status;
  uint64_t body_bytes;    /* of the answer so far, without the framing of chunks */
  const char *id;         /* the client's in head, or made_id; NULL: not yet asked for */
  char made_id[33];
  struct http_traced traced;
  void *data;
  void (*on_abort)(struct tl_http_request *request);
  void (*on_writable)(struct tl_http_request *request);
};

struct http_conn {
  union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
  };
  struct http_loop *loop;
  struct http_conn *prev, *next;   /* all of the loop */
  struct http_conn *dirty_next;    /* those with something to write */
  bool dirty, processing, reading, in_header, close_after_write, value_last, at_trailers, full;
  enum conn_state state;
  llhttp_t parser;
  struct http_scan scan;
  struct tl_buffer in;
  struct tl_buffer out;            /* not yet given to the kernel */
  struct tl_buffer flying;         /* given to uv_write */
  uv_write_t write;
  int64_t deadline_ns;             /* of the state; 0: none */
  int64_t write_deadline_ns;       /* 0: nothing waits */
  int64_t asked_ns;                /* when the client of this answer, while nothing is read, was last sent something to see that */
  size_t unwritten;                /* of `flying`, when that was last looked at */
  int error_status;                /* why a callback stopped the parser */
  const char *error_text;
  size_t extension_bytes, discarded_bytes;
  struct tl_trace_root *root;       /* of the last answer, until its bytes are out; NULL: none */
  struct http_writes writes;       /* since the head of the last traced answer */
  struct tl_http_request request;
};

/* `held`: there was no memory for a connection. libuv keeps it, and takes no other until it is accepted: the sweep tries again. */
struct http_listener {
  union {
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
  };
  bool held;
};

struct http_loop {
  struct tl_http *http;
  unsigned index;
  bool inited, started, stopping, draining;
  pthread_t thread;
  uv_loop_t uv;
  uv_async_t async;
  uv_prepare_t prepare;
  uv_check_t check;
  uv_timer_t sweep;
  int64_t swept_ns;                /* the last one */
  bool stood_still;                /* and it looked at nobody */
  struct http_listener *listeners;
  unsigned n_listeners;
  struct http_conn *conns, *dirty;
  unsigned n_conns;
  char *read_buffer;               /* (HTTP_READ_BYTES) */
  uint64_t id_key[2], n_ids;       /* request ids of this loop: a random key and a counter */
  char date[64];
  int64_t date_s;
  struct tl_metrics_shard *shard;
  TL_ALIGNED _Atomic unsigned n_open; /* n_conns for other threads */
};

struct tl_http {
  struct tl_http_options o;
  struct http_loop *loops;
  struct http_route routes[HTTP_MAX_ROUTES];
  unsigned n_routes;
  struct http_route unknown; /* its figures are those of requests for no route */
  struct tl_metrics *metrics;
  tl_metric bytes_in, bytes_out;
  const char *(*error_body)(const struct tl_http_request *request, int status, const char *message, struct tl_buffer *out);
  int (*guard)(struct tl_http_request *request, void *context, const char **ret_text);
  void *guard_context;
  void (*on_wake)(unsigned loop, void *context);
  void *on_wake_context;
  int port;
  bool made_unix_file;
  int *fds;                        /* listening sockets, (n_fds) per loop */
  unsigned n_fds;
  _Atomic int draining, stopping;
};

/* listen.c */
int http_listen_open(struct tl_http *http, struct tl_error *err);
int http_listen_attach(struct http_loop *loop);
void http_listen_close(struct http_loop *loop);
/* Connections for which there was no memory. */
void http_listen_retry(struct http_loop *loop);
/* loop.c */
void *http_loop_run(void *loop);
int http_loop_init(struct http_loop *loop, struct tl_error *err);
/* For a loop whose thread does not run: closes what it has. */
void http_loop_done(struct http_loop *loop);
/* conn.c */
/* False: there was no memory, and it is still to be accepted. */
bool http_conn_accept(struct http_loop *loop, uv_stream_t *listener);
void http_conn_mark_dirty(struct http_conn *conn);
/* Reads on, or stops while requests wait: for the answer before them, or for room. */
void http_conn_pace_reading(struct http_conn *conn);
void http_conn_flush(struct http_conn *conn);
/* The answer is complete: on to the next request, or to the end. */
void http_conn_answered(struct http_conn *conn);
/* The client is gone or too slow: aborts a running answer, closes. */
void http_conn_cut(struct http_conn *conn);
void http_conn_check_time(struct http_conn *conn, int64_t now_ns);
size_t http_conn_queued(const struct http_conn *conn);
/* parse.c */
/* Parses conn->in; handlers are called from here. */
void http_parse_input(struct http_conn *conn);
extern const llhttp_settings_t http_parse_settings;
void http_parse_init(struct http_conn *conn);
/* head.c: 0, or the status of what is wrong and its text; *length is cut to the bytes before that. */
int http_scan_bytes(struct http_scan *scan, const char *bytes, size_t *length, size_t max_bytes, const char **ret_text);
int http_head_check(struct http_conn *conn, const char **ret_text);
/* cors.c */
/* Adds what a page's browser looks for to the head of an answer. */
void http_cors_head(const struct tl_http_request *request, struct tl_buffer *out);
/* Answers what a browser asks before a page's request. False: it is none that is allowed. */
bool http_cors_preflight(struct http_conn *conn);
/* access.c */
/* Once for each request that was answered or given up: metrics and the access log. */
void http_count_answer(struct tl_http_request *request);
/* traced.c: all do nothing for a request that is not traced. */
/* Adds traceparent and tracestate to the head of the answer. */
void http_trace_head(struct tl_http_request *request, struct tl_buffer *out);
/* The answer is complete, or the client is gone. Before the request is cleared. */
void http_trace_answered(struct http_conn *conn, bool cut);
/* Whether a write has to be timed. */
bool http_trace_wants_writes(const struct http_conn *conn);
void http_trace_wrote(struct http_conn *conn, int64_t began_ns, size_t bytes);
/* All bytes are with the kernel, or will never be. */
void http_trace_flushed(struct http_conn *conn);
/* respond.c */
/* Index of a status among those that are counted, or of "other". */
unsigned http_code_index(int status);
void http_respond_error(struct http_conn *conn, int status, const char *text);
void http_request_clear(struct tl_http_request *request);

#endif
