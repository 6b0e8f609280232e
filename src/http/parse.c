/* SPDX-License-Identifier: MIT */
/* llhttp's callbacks: they fill the request and enforce limits while bytes
 * come. A callback that finds an error notes status and text, and stops llhttp. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "http/http_private.h"
#include "tokenlane/base/clock.h"

static int stop(struct http_conn *conn, int status, const char *text) {
  conn->error_status = status;
  conn->error_text = text;
  return -1;
}

static int on_url(llhttp_t *parser, const char *at, size_t length) {
  struct http_conn *conn = parser->data;
  struct tl_http_request *request = &conn->request;
  if (request->head.length + length > conn->loop->http->o.max_url_bytes) return stop(conn, 414, "the target is too long");
  return tl_buffer_append(&request->head, at, length) < 0 ? stop(conn, 500, "out of memory") : 0;
}

static int on_header_field(llhttp_t *parser, const char *at, size_t length) {
  struct http_conn *conn = parser->data;
  struct tl_http_request *request = &conn->request;
  if (!conn->in_header) return 0; /* a trailer: not kept */
  if (conn->value_last) { /* a new name begins */
    if (request->n_headers == conn->loop->http->o.max_headers) return stop(conn, 431, "too many header lines");
    if (request->n_headers == request->cap_headers) {
      unsigned cap = request->cap_headers ? request->cap_headers * 2 : 16;
      struct http_header *headers = realloc(request->headers, cap * sizeof *headers);
      if (!headers) return stop(conn, 500, "out of memory");
      request->headers = headers;
      request->cap_headers = cap;
    }
    tl_buffer_putc(&request->head, 0);
    request->headers[request->n_headers++] = (struct http_header){(uint32_t)request->head.length, 0};
    conn->value_last = false;
  }
  return tl_buffer_append(&request->head, at, length) < 0 ? stop(conn, 500, "out of memory") : 0;
}

static int on_header_field_complete(llhttp_t *parser) {
  struct http_conn *conn = parser->data;
  struct tl_http_request *request = &conn->request;
  if (!conn->in_header || request->n_headers == 0) return 0;
  tl_buffer_putc(&request->head, 0);
  request->headers[request->n_headers - 1].value = (uint32_t)request->head.length;
  conn->value_last = true;
  return 0;
}

static int on_header_value(llhttp_t *parser, const char *at, size_t length) {
  struct http_conn *conn = parser->data;
  if (!conn->in_header) return 0;
  return tl_buffer_append(&conn->request.head, at, length) < 0 ? stop(conn, 500, "out of memory") : 0;
}

/* Trailing blanks of values are not part of them. */
static void trim_values(struct tl_http_request *request) {
  for (unsigned i = 0; i < request->n_headers; i++) {
    char *value = request->head.data + request->headers[i].value;
    size_t n = strlen(value);
    while (n && (value[n - 1] == ' ' || value[n - 1] == '\t')) value[--n] = 0;
  }
}

static bool method_is(const struct http_conn *conn, const char *method) {
  if (strcmp(method, "GET") == 0) return conn->parser.method == HTTP_GET || conn->parser.method == HTTP_HEAD;
  return conn->parser.method == HTTP_POST;
}

static bool path_is(const struct http_route *route, const char *path, size_t length) {
  if (route->prefix ? length <= route->path_length : length != route->path_length) return false;
  return memcmp(route->path, path, route->path_length) == 0;
}

/* The route of path and method, else one of the path, else NULL. */
static const struct http_route *find_route(const struct http_conn *conn) {
  const struct tl_http *http = conn->loop->http;
  const char *path = conn->request.path;
  size_t length = strlen(path);
  const struct http_route *found = NULL;
  for (unsigned i = 0; i < http->n_routes; i++) {
    const struct http_route *route = &http->routes[i];
    if (!path_is(route, path, length)) continue;
    found = route;
    if (method_is(conn, route->method)) break;
  }
  return found;
}

/* Before its body: nobody has to take in what is not answered. */
static int ask_guard(struct http_conn *conn, bool expects_body) {
  struct tl_http *http = conn->loop->http;
  const char *text;
  if (!http->guard || (conn->parser.method == HTTP_OPTIONS && !expects_body)) return 0;
  int status = http->guard(&conn->request, http->guard_context, &text);
  if (status == 0) return 0;
  conn->request.route = find_route(conn); /* it counts there */
  return stop(conn, status, text);
}

static int on_headers_complete(llhttp_t *parser) {
  struct http_conn *conn = parser->data;
  struct tl_http_request *request = &conn->request;
  conn->in_header = false;
  parser->upgrade = 0; /* no other protocol is spoken: an Upgrade header is ignored */
  if (tl_buffer_putc(&request->head, 0) < 0) return stop(conn, 500, "out of memory");
  request->is_http10 = parser->http_minor == 0;
  request->is_head = parser->method == HTTP_HEAD;
  request->keep_alive = llhttp_should_keep_alive(parser);
  trim_values(request);
  const char *text;
  int status = http_head_check(conn, &text);
  if (status) return stop(conn, status, text);
  bool expects_body = (parser->flags & F_CHUNKED) || parser->content_length > 0;
  if (ask_guard(conn, expects_body)) return -1;
  conn->deadline_ns = tl_now_ns() + conn->loop->http->o.body_timeout_ns;
  if (expects_body && !request->is_http10 && tl_http_header(request, "Expect")) {
    tl_buffer_puts(&conn->out, "HTTP/1.1 100 Continue\r\n\r\n");
    http_conn_mark_dirty(conn);
  }
  return 0;
}

static int on_body(llhttp_t *parser, const char *at, size_t length) {
  struct http_conn *conn = parser->data;
  struct tl_buffer *body = &conn->request.body;
  if (length > conn->loop->http->o.max_body_bytes - body->length) return stop(conn, 413, "the body is too large");
  return tl_buffer_append(body, at, length) < 0 ? stop(conn, 500, "out of memory") : 0;
}

static int on_chunk_extension(llhttp_t *parser, const char *at, size_t length) {
  (void)at;
  struct http_conn *conn = parser->data;
  conn->extension_bytes += length;
  return conn->extension_bytes > HTTP_CHUNK_EXTENSION_BYTES ? stop(conn, 400, "the chunk extensions are too large") : 0;
}

/* The last chunk: what follows is scanned like a header. */
static int on_chunk_header(llhttp_t *parser) {
  struct http_conn *conn = parser->data;
  if (parser->content_length > 0) return 0;
  conn->scan = (struct http_scan){.at = SCAN_LINE_BEGIN};
  conn->at_trailers = true;
  return HPE_PAUSED;
}

static int on_message_complete(llhttp_t *parser) {
  (void)parser;
  return HPE_PAUSED;
}

const llhttp_settings_t http_parse_settings = {.on_url = on_url,
                                               .on_header_field = on_header_field,
                                               .on_header_field_complete = on_header_field_complete,
                                               .on_header_value = on_header_value,
                                               .on_headers_complete = on_headers_complete,
                                               .on_body = on_body,
                                               .on_chunk_extension_name = on_chunk_extension,
                                               .on_chunk_extension_value = on_chunk_extension,
                                               .on_chunk_header = on_chunk_header,
                                               .on_message_complete = on_message_complete};

void http_parse_init(struct http_conn *conn) {
  llhttp_init(&conn->parser, HTTP_REQUEST, &http_parse_settings);
  conn->parser.data = conn;
  conn->scan = (struct http_scan){.at = SCAN_BEGIN};
  conn->in_header = true;
  conn->value_last = true;
  conn->extension_bytes = 0;
  conn->error_status = 0;
}

/* --- a whole request to its handler --------------------------------------------------------- */

static void method_not_allowed(struct http_conn *conn) {
  struct tl_http *http = conn->loop->http;
  size_t length = strlen(conn->request.path);
  char allow[32] = "";
  for (unsigned i = 0; i < http->n_routes; i++)
    if (path_is(&http->routes[i], conn->request.path, length)) {
      if (*allow) strcat(allow, ", ");
      strcat(allow, strcmp(http->routes[i].method, "GET") == 0 ? "GET, HEAD" : "POST");
    }
  tl_http_add_header(&conn->request, "Allow", allow);
  http_respond_error(conn, 405, "this method is not allowed here");
}

/* The path that was meant: a client's base URL often has a /v1 too few or too many, or a slash at the end. NULL: nobody knows. */
static const char *path_meant(const struct tl_http *http, const char *path) {
  size_t length = strlen(path);
  while (length && path[length - 1] == '/') length--;
  for (unsigned i = 0; length && i < http->n_routes; i++) {
    const struct http_route *route = &http->routes[i];
    size_t common = route->path_length < length ? route->path_length : length;
    if (!route->prefix && memcmp(route->path + route->path_length - common, path + length - common, common) == 0) return route->path;
  }
  return NULL;
}

static void not_found(struct http_conn *conn) {
  const char *meant = path_meant(conn->loop->http, conn->request.path);
  char text[128];
  snprintf(text, sizeof text, meant ? "there is nothing at this path, but at %s" : "there is nothing at this path", meant);
  http_respond_error(conn, 404, text);
}

static void dispatch(struct http_conn *conn) {
  struct tl_http_request *request = &conn->request;
  conn->state = CONN_ANSWERING;
  conn->deadline_ns = 0;
  if (conn->parser.method == HTTP_OPTIONS && http_cors_preflight(conn)) return;
  request->route = find_route(conn);
  if (!request->route) {
    not_found(conn);
  } else if (!method_is(conn, request->route->method)) {
    method_not_allowed(conn);
  } else {
    tl_buffer_string(&request->body); /* a NUL behind it */
    request->route->handler(request, request->route->context);
  }
}

/* What llhttp refused by itself. */
static void refuse(struct http_conn *conn, llhttp_errno_t code) {
  conn->request.keep_alive = false;
  conn->request.is_head = conn->parser.method == HTTP_HEAD;
  conn->state = CONN_ANSWERING;
  if (conn->error_status)
    http_respond_error(conn, conn->error_status, conn->error_text);
  else if (code == HPE_INVALID_METHOD)
    http_respond_error(conn, 501, "the method is not known");
  else if (code == HPE_INVALID_VERSION || code == HPE_PAUSED_H2_UPGRADE)
    http_respond_error(conn, 505, "only HTTP/1.0 and HTTP/1.1 are understood");
  else
    http_respond_error(conn, 400, "the request is malformed");
}

/* The first byte of a request that is not an empty line before it. */
static void note_begin(struct http_conn *conn) {
  if (conn->request.began_ns || conn->scan.at == SCAN_BEGIN) return;
  conn->request.began_ns = tl_now_ns();
  conn->deadline_ns = conn->request.began_ns + conn->loop->http->o.header_timeout_ns;
}

/* Feeds what has come; true when there may be more to do with the rest. */
static bool feed(struct http_conn *conn) {
  const char *text;
  size_t length = conn->in.length;
  int status = http_scan_bytes(&conn->scan, conn->in.data, &length, conn->loop->http->o.max_header_bytes, &text);
  if (status) conn->scan.at = SCAN_END;
  note_begin(conn);
  llhttp_errno_t code = llhttp_execute(&conn->parser, conn->in.data, length);
  if (status && (code == HPE_OK || code == HPE_PAUSED)) { /* llhttp found nothing before it */
    conn->error_status = status;
    conn->error_text = text;
    code = HPE_USER;
  }
  if (code == HPE_OK) {
    tl_buffer_clear(&conn->in);
    return false;
  }
  if (code != HPE_PAUSED) {
    refuse(conn, code);
    return false;
  }
  tl_buffer_consume(&conn->in, (size_t)(llhttp_get_error_pos(&conn->parser) - conn->in.data));
  if (conn->at_trailers) {
    conn->at_trailers = false;
    llhttp_resume(&conn->parser);
  } else {
    dispatch(conn);
  }
  return true;
}

void http_parse_input(struct http_conn *conn) {
  if (conn->processing) return; /* a handler answered at once: the loop below goes on */
  conn->processing = true;
  while (conn->state == CONN_READING && conn->in.length > 0 && !conn->full)
    if (!feed(conn) && conn->state == CONN_READING) break;
  conn->processing = false;
  http_conn_pace_reading(conn);
}
