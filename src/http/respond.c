/* SPDX-License-Identifier: MIT */
/* Answers: the head, whole bodies, streams, errors of the room's own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "http/http_private.h"
#include "tokenlane/base/clock.h"

const struct http_code http_codes[HTTP_N_CODES] = {{200, "OK"},
                                                   {204, "No Content"},
                                                   {400, "Bad Request"},
                                                   {401, "Unauthorized"},
                                                   {404, "Not Found"},
                                                   {405, "Method Not Allowed"},
                                                   {408, "Request Timeout"},
                                                   {413, "Content Too Large"},
                                                   {414, "URI Too Long"},
                                                   {415, "Unsupported Media Type"},
                                                   {417, "Expectation Failed"},
                                                   {429, "Too Many Requests"},
                                                   {431, "Request Header Fields Too Large"},
                                                   {500, "Internal Server Error"},
                                                   {501, "Not Implemented"},
                                                   {503, "Service Unavailable"},
                                                   {504, "Gateway Timeout"},
                                                   {505, "HTTP Version Not Supported"},
                                                   {0, "Status"}};

unsigned http_code_index(int status) {
  unsigned i = 0;
  while (i < HTTP_N_CODES - 1 && http_codes[i].status != status) i++;
  return i;
}

void http_request_clear(struct tl_http_request *request) {
  tl_buffer_clear(&request->head);
  tl_buffer_clear(&request->extra);
  /* a large body's memory is not kept for the next request */
  if (request->body.capacity > HTTP_READ_BYTES)
    tl_buffer_done(&request->body);
  else
    tl_buffer_clear(&request->body);
  request->n_headers = 0;
  request->path = request->query = NULL;
  request->route = NULL;
  request->began_ns = 0;
  request->is_head = request->is_http10 = request->chunked_answer = request->began_answer = false;
  request->status = 0;
  request->body_bytes = 0;
  request->id = NULL;
  request->traced.on = false;
  request->data = NULL;
  request->on_abort = request->on_writable = NULL;
}

/* --- what a handler reads ------------------------------------------------------------------ */

unsigned tl_http_loop(const struct tl_http_request *request) {
  return request->conn->loop->index;
}

const char *tl_http_path(const struct tl_http_request *request) {
  return request->path;
}

const char *tl_http_query(const struct tl_http_request *request) {
  return request->query;
}

const char *tl_http_body(const struct tl_http_request *request, size_t *ret_length) {
  *ret_length = request->body.length;
  return request->body.length ? request->body.data : "";
}

void tl_http_take_body(struct tl_http_request *request, struct tl_buffer *ret) {
  *ret = request->body;
  tl_buffer_init(&request->body, 0);
}

const char *tl_http_header(const struct tl_http_request *request, const char *name) {
  for (unsigned i = 0; i < request->n_headers; i++)
    if (strcasecmp(request->head.data + request->headers[i].name, name) == 0)
      return request->head.data + request->headers[i].value;
  return NULL;
}

int64_t tl_http_began_ns(const struct tl_http_request *request) {
  return request->began_ns;
}

void tl_http_set_data(struct tl_http_request *request, void *data) {
  request->data = data;
}

void *tl_http_data(const struct tl_http_request *request) {
  return request->data;
}

void tl_http_on_abort(struct tl_http_request *request, void (*on_abort)(struct tl_http_request *request)) {
  request->on_abort = on_abort;
}

void tl_http_on_writable(struct tl_http_request *request, void (*on_writable)(struct tl_http_request *request)) {
  request->on_writable = on_writable;
}

/* --- the head --------------------------------------------------------------------------------- */

static const char *date(struct http_loop *loop) {
  int64_t now_s = tl_wall_ns() / TL_SEC(1);
  if (now_s != loop->date_s) {
    time_t t = (time_t)now_s;
    struct tm utc;
    gmtime_r(&t, &utc);
    strftime(loop->date, sizeof loop->date, "%a, %d %b %Y %H:%M:%S GMT", &utc);
    loop->date_s = now_s;
  }
  return loop->date;
}

void tl_http_add_header(struct tl_http_request *request, const char *name, const char *value) {
  tl_buffer_printf(&request->extra, "%s: %s\r\n", name, value);
}

static void write_head(struct tl_http_request *request, int status, const char *content_type) {
  struct http_conn *conn = request->conn;
  if (conn->loop->draining) request->keep_alive = false;
  request->status = status;
  tl_buffer_printf(&conn->out, "HTTP/1.1 %d %s\r\nServer: tokenlane/%s\r\nDate: %s\r\nX-Request-Id: %s\r\n",
                   status, http_codes[http_code_index(status)].text, TL_VERSION, date(conn->loop), tl_http_request_id(request));
  if (content_type) tl_buffer_printf(&conn->out, "Content-Type: %s\r\n", content_type);
  if (!request->keep_alive)
    tl_buffer_puts(&conn->out, "Connection: close\r\n");
  else if (request->is_http10)
    tl_buffer_puts(&conn->out, "Connection: keep-alive\r\n");
  http_trace_head(request, &conn->out);
  http_cors_head(request, &conn->out);
  tl_buffer_append(&conn->out, request->extra.data, request->extra.length);
}

/* --- answers -------------------------------------------------------------------------------------- */

void tl_http_respond(struct tl_http_request *request, int status, const char *content_type, const void *body,
                     size_t length) {
  struct http_conn *conn = request->conn;
  write_head(request, status, content_type);
  if (content_type) tl_buffer_printf(&conn->out, "Content-Length: %zu\r\n", length); /* a 204 must not say it */
  tl_buffer_puts(&conn->out, "\r\n");
  if (!request->is_head) {
    tl_buffer_append(&conn->out, body, length);
    request->body_bytes = length;
  }
  http_conn_answered(conn);
}

void tl_http_begin(struct tl_http_request *request, int status, const char *content_type) {
  struct http_conn *conn = request->conn;
  request->chunked_answer = !request->is_http10;
  if (request->is_http10) request->keep_alive = false; /* the end of the stream is the end of the connection */
  request->began_answer = true;
  write_head(request, status, content_type);
  tl_buffer_puts(&conn->out, request->chunked_answer ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n");
  http_conn_mark_dirty(conn);
}

void tl_http_write(struct tl_http_request *request, const void *bytes, size_t length) {
  struct http_conn *conn = request->conn;
  if (length == 0 || request->is_head) return;
  request->body_bytes += length;
  if (request->chunked_answer) tl_buffer_printf(&conn->out, "%zx\r\n", length);
  tl_buffer_append(&conn->out, bytes, length);
  if (request->chunked_answer) tl_buffer_puts(&conn->out, "\r\n");
  if (http_conn_queued(conn) > conn->loop->http->o.max_write_queue_bytes) conn->full = true;
  http_conn_mark_dirty(conn);
}

void tl_http_end(struct tl_http_request *request) {
  struct http_conn *conn = request->conn;
  if (request->chunked_answer && !request->is_head) tl_buffer_puts(&conn->out, "0\r\n\r\n");
  http_conn_answered(conn);
}

void tl_http_break(struct tl_http_request *request) {
  request->on_abort = NULL; /* it is the handler who leaves */
  http_conn_cut(request->conn);
}

bool tl_http_writable(const struct tl_http_request *request) {
  return !request->conn->full;
}

void http_respond_error(struct http_conn *conn, int status, const char *text) {
  struct tl_http *http = conn->loop->http;
  struct tl_buffer body;
  tl_buffer_init(&body, 0);
  const char *content_type = "text/plain";
  if (http->error_body)
    content_type = http->error_body(&conn->request, status, text, &body);
  else
    tl_buffer_puts(&body, text);
  tl_http_respond(&conn->request, status, content_type, body.data, body.length);
  tl_buffer_done(&body);
}
