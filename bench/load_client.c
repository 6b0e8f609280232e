/* SPDX-License-Identifier: MIT */
/* One connection. It goes CLOSED -> CONNECTING -> BUSY -> IDLE -> BUSY ..., and over
 * CLOSING back to CLOSED when the server or an error ends it; a request that ended
 * with the connection is reported only then, so that the next one can connect anew. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "load.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/thread.h"

/* --- events of the stream --------------------------------------------------------------------- */

static void set_failure(struct load_conn *conn, const char *cause) {
  if (!*conn->failure) snprintf(conn->failure, sizeof conn->failure, "%s", cause);
}

static bool has_text(const struct load_conn *conn, json_t *root) {
  json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
  const char *part = conn->run->o.whole ? "message" : "delta";
  json_t *text = conn->run->o.chat ? json_object_get(json_object_get(choice, part), "content")
                                   : json_object_get(choice, "text");
  return json_string_length(text) > 0;
}

/* A chunk with text ends a gap that began with the one before. */
static void on_text(struct load_conn *conn) {
  int64_t now = tl_now_ns();
  if (conn->n_chunks++ == 0)
    conn->first_ns = now;
  else
    load_samples_add(&conn->gaps, (double)(now - conn->last_ns) * 1e-6);
  conn->last_ns = now;
}

static void on_event(struct load_conn *conn, const char *data, size_t length) {
  if (length == 6 && memcmp(data, "[DONE]", 6) == 0) {
    conn->has_done = true;
    return;
  }
  json_t *root = json_loadb(data, length, 0, NULL);
  json_t *usage = json_object_get(root, "usage");
  if (!root) set_failure(conn, "bad JSON in stream");
  if (json_object_get(root, "error")) set_failure(conn, "error in stream");
  if (has_text(conn, root)) on_text(conn);
  if (json_is_object(usage)) {
    conn->has_usage = true;
    conn->prompt_tokens = (uint64_t)json_integer_value(json_object_get(usage, "prompt_tokens"));
    conn->output_tokens = (uint64_t)json_integer_value(json_object_get(usage, "completion_tokens"));
  }
  json_decref(root);
}

/* Whole lines of conn->body; what has no end yet stays. */
static void take_lines(struct load_conn *conn) {
  size_t at = 0;
  for (char *end; (end = memchr(conn->body.data + at, '\n', conn->body.length - at));) {
    const char *line = conn->body.data + at;
    size_t length = (size_t)(end - line);
    at += length + 1;
    if (length && line[length - 1] == '\r') length--;
    if (length < 5 || memcmp(line, "data:", 5) != 0) continue;
    size_t skip = length > 5 && line[5] == ' ' ? 6 : 5;
    on_event(conn, line + skip, length - skip);
  }
  tl_buffer_consume(&conn->body, at);
}

/* --- llhttp ------------------------------------------------------------------------------------- */

static int on_body(llhttp_t *parser, const char *at, size_t length) {
  struct load_conn *conn = parser->data;
  if (tl_buffer_append(&conn->body, at, length) < 0) return -1;
  if (conn->run->phase != LOAD_ASK && !conn->run->o.whole && parser->status_code == 200) take_lines(conn);
  return 0;
}

static int on_complete(llhttp_t *parser) {
  struct load_conn *conn = parser->data;
  if (conn->run->phase != LOAD_ASK && conn->run->o.whole && parser->status_code == 200) {
    on_event(conn, conn->body.data, conn->body.length);
    conn->has_done = true;
  }
  conn->completed = true;
  conn->keep = llhttp_should_keep_alive(parser);
  return 0;
}

static void begin_answer(struct load_conn *conn) {
  static llhttp_settings_t settings;
  if (!settings.on_body) {
    llhttp_settings_init(&settings);
    settings.on_body = on_body;
    settings.on_message_complete = on_complete;
  }
  llhttp_init(&conn->parser, HTTP_RESPONSE, &settings);
  conn->parser.data = conn;
  tl_buffer_clear(&conn->body);
  conn->completed = conn->keep = false;
}

/* --- the socket ------------------------------------------------------------------------------------ */

static void open_conn(struct load_conn *conn);

static void on_closed(uv_handle_t *handle) {
  struct load_conn *conn = handle->data;
  conn->state = LOAD_CLOSED;
  if (TL_TAKE(&conn->again)) {
    begin_answer(conn);
    open_conn(conn);
  } else if (conn->reports) {
    load_on_done(conn);
  }
}

/* The request is over, well or not. */
static void settle(struct load_conn *conn) {
  int status = conn->parser.status_code;
  if (conn->completed && status != 200) {
    char text[16];
    snprintf(text, sizeof text, "%d", status);
    set_failure(conn, text);
  } else if (conn->completed && conn->run->phase != LOAD_ASK && !conn->has_done) {
    set_failure(conn, "stream without [DONE]");
  }
  if (conn->completed && conn->keep && !conn->writing) {
    conn->state = LOAD_IDLE;
    load_on_done(conn);
  } else {
    conn->reports = true;
    conn->state = LOAD_CLOSING;
    uv_close(&conn->handle, on_closed);
  }
}

/* The connection ended. A server may end one that rests just when a request is on
 * its way: that request is sent again over a new one, as browsers do. */
static void lose(struct load_conn *conn, const char *cause) {
  conn->again = conn->reused;
  conn->reused = false;
  if (!conn->again) {
    load_conn_fail(conn, cause);
    return;
  }
  conn->reports = false;
  conn->state = LOAD_CLOSING;
  uv_close(&conn->handle, on_closed);
}

void load_conn_fail(struct load_conn *conn, const char *cause) {
  set_failure(conn, cause);
  conn->completed = false;
  settle(conn);
}

void load_conn_close(struct load_conn *conn) {
  if (conn->state == LOAD_CLOSED || conn->state == LOAD_CLOSING) return;
  conn->reports = false;
  conn->state = LOAD_CLOSING;
  uv_close(&conn->handle, on_closed);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret) {
  (void)suggested;
  struct load_conn *conn = handle->data;
  *ret = uv_buf_init(conn->read_bytes, sizeof conn->read_bytes);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
  struct load_conn *conn = stream->data;
  if (n == 0 || conn->state == LOAD_CLOSING) return;
  if (conn->state != LOAD_BUSY) { /* the server closes a connection that rests */
    load_conn_close(conn);
    return;
  }
  if (n > 0) conn->reused = false;
  llhttp_errno_t r =
      n > 0 ? llhttp_execute(&conn->parser, buffer->base, (size_t)n) : llhttp_finish(&conn->parser);
  if (conn->completed)
    settle(conn);
  else if (n < 0)
    lose(conn, "closed early");
  else if (r != HPE_OK)
    load_conn_fail(conn, "bad HTTP");
}

static void on_written(uv_write_t *write, int status) {
  struct load_conn *conn = write->data;
  conn->writing = false;
  if (status < 0 && conn->state == LOAD_BUSY) lose(conn, "write");
}

static void send_request(struct load_conn *conn) {
  conn->state = LOAD_BUSY;
  conn->write.data = conn;
  conn->writing = true;
  uv_buf_t bytes = uv_buf_init(conn->out.data, (unsigned)conn->out.length);
  if (uv_write(&conn->write, &conn->stream, &bytes, 1, on_written) == 0) return;
  conn->writing = false;
  lose(conn, "write");
}

static void on_connected(uv_connect_t *connect, int status) {
  struct load_conn *conn = connect->data;
  if (conn->state != LOAD_CONNECTING) return; /* failed meanwhile, by timeout */
  if (status < 0 || uv_read_start(&conn->stream, on_alloc, on_read) < 0) {
    load_conn_fail(conn, "connect");
    return;
  }
  if (!conn->run->o.unix_path) uv_tcp_nodelay(&conn->tcp, 1);
  send_request(conn);
}

static void open_conn(struct load_conn *conn) {
  const struct load_options *o = &conn->run->o;
  int r = 0;
  if (o->unix_path)
    uv_pipe_init(&conn->run->loop, &conn->pipe, 0);
  else
    uv_tcp_init(&conn->run->loop, &conn->tcp);
  conn->handle.data = conn->connect.data = conn;
  conn->state = LOAD_CONNECTING;
  if (o->unix_path)
    uv_pipe_connect(&conn->connect, &conn->pipe, o->unix_path, on_connected);
  else
    r = uv_tcp_connect(&conn->connect, &conn->tcp, (const struct sockaddr *)&o->address, on_connected);
  if (r < 0) load_conn_fail(conn, "connect");
}

void load_conn_start(struct load_conn *conn, int64_t began_ns) {
  conn->began_ns = began_ns;
  conn->n_chunks = conn->prompt_tokens = conn->output_tokens = 0;
  conn->has_usage = conn->has_done = false;
  conn->failure[0] = 0;
  conn->gaps.n = 0;
  begin_answer(conn);
  conn->reused = conn->state == LOAD_IDLE;
  if (conn->reused)
    send_request(conn);
  else
    open_conn(conn);
}
