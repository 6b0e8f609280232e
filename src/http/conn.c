/* SPDX-License-Identifier: MIT */
/* A connection: reading, writing, time limits, its end.
 *
 * End of input while an answer is under way means that the client is gone: the
 * usual way in which clients cancel is close(), which first shows as end of
 * input, and work for nobody costs the others. A client that half-closes after
 * its request gets what can be answered at once. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "http/http_private.h"
#include "tokenlane/base/clock.h"

size_t http_conn_queued(const struct http_conn *conn) {
  return conn->out.length + conn->flying.length;
}

/* --- end ------------------------------------------------------------------------------ */

static void on_closed(uv_handle_t *handle) {
  struct http_conn *conn = handle->data;
  struct tl_http_request *request = &conn->request;
  http_trace_flushed(conn);
  http_request_clear(request);
  tl_buffer_done(&request->head);
  tl_buffer_done(&request->body);
  tl_buffer_done(&request->extra);
  free(request->headers);
  tl_buffer_done(&conn->in);
  tl_buffer_done(&conn->out);
  tl_buffer_done(&conn->flying);
  free(conn);
}

static void unlink_dirty(struct http_conn *conn) {
  struct http_conn **at = &conn->loop->dirty;
  while (*at && *at != conn) at = &(*at)->dirty_next;
  if (*at) *at = conn->dirty_next;
}

static void close_conn(struct http_conn *conn) {
  struct http_loop *loop = conn->loop;
  if (conn->state == CONN_CLOSING) return;
  conn->state = CONN_CLOSING;
  if (conn->dirty) unlink_dirty(conn);
  if (conn->prev)
    conn->prev->next = conn->next;
  else
    loop->conns = conn->next;
  if (conn->next) conn->next->prev = conn->prev;
  loop->n_conns--;
  atomic_store_explicit(&loop->n_open, loop->n_conns, memory_order_relaxed); /* a count alone */
  uv_close(&conn->handle, on_closed);
}

void http_conn_cut(struct http_conn *conn) {
  struct tl_http_request *request = &conn->request;
  if (conn->state == CONN_CLOSING) return;
  bool answering = conn->state == CONN_ANSWERING;
  void (*on_abort)(struct tl_http_request *) = TL_TAKE(&request->on_abort);
  close_conn(conn);
  if (!answering) return;
  if (!request->status) request->status = 499; /* as nginx counts a client that left */
  http_count_answer(request);
  if (on_abort) on_abort(request);
  http_trace_answered(conn, true);
}

/* --- writing ------------------------------------------------------------------------------ */

void http_conn_mark_dirty(struct http_conn *conn) {
  if (conn->dirty || conn->state == CONN_CLOSING) return;
  conn->dirty = true;
  conn->dirty_next = conn->loop->dirty;
  conn->loop->dirty = conn;
}

static void begin_lingering(struct http_conn *conn);

/* What a large answer or many requests made it grow to is not kept. */
static void shrink(struct tl_buffer *buffer) {
  if (buffer->length == 0 && buffer->capacity > HTTP_READ_BYTES) tl_buffer_done(buffer);
}

static void after_write(struct http_conn *conn) {
  struct tl_http_request *request = &conn->request;
  if (http_conn_queued(conn) == 0) {
    http_trace_flushed(conn);
    shrink(&conn->out);
    shrink(&conn->flying);
    shrink(&conn->in);
    conn->write_deadline_ns = 0;
    if (conn->close_after_write) {
      begin_lingering(conn);
      return;
    }
  }
  if (conn->full && http_conn_queued(conn) <= conn->loop->http->o.max_write_queue_bytes / 2) {
    conn->full = false;
    if (conn->state == CONN_ANSWERING && request->on_writable) request->on_writable(request);
    if (conn->state == CONN_READING) http_parse_input(conn); /* requests that waited for room */
  }
}

static void on_written(uv_write_t *write, int status) {
  struct http_conn *conn = write->data;
  if (conn->state == CONN_CLOSING) return;
  tl_metrics_add(conn->loop->shard, conn->loop->http->bytes_out, (int64_t)conn->flying.length);
  if (http_trace_wants_writes(conn)) http_trace_wrote(conn, tl_now_ns(), conn->flying.length);
  tl_buffer_clear(&conn->flying);
  if (status < 0) {
    http_conn_cut(conn);
    return;
  }
  if (conn->out.length) conn->write_deadline_ns = tl_now_ns() + conn->loop->http->o.write_timeout_ns;
  http_conn_flush(conn);
}

void http_conn_flush(struct http_conn *conn) {
  if (conn->state == CONN_CLOSING || conn->flying.length) return;
  if (conn->out.failed) {
    http_conn_cut(conn);
    return;
  }
  if (conn->out.length) {
    uv_buf_t part = uv_buf_init(conn->out.data, (unsigned)conn->out.length);
    int64_t began_ns = http_trace_wants_writes(conn) ? tl_now_ns() : 0;
    int n = uv_try_write(&conn->stream, &part, 1);
    if (began_ns && n > 0) http_trace_wrote(conn, began_ns, (size_t)n);
    if (n < 0 && n != UV_EAGAIN) {
      http_conn_cut(conn);
      return;
    }
    if (n > 0) {
      tl_metrics_add(conn->loop->shard, conn->loop->http->bytes_out, n);
      tl_buffer_consume(&conn->out, (size_t)n);
    }
    if (conn->out.length) { /* the rest waits in the kernel's order */
      struct tl_buffer empty = conn->flying;
      conn->flying = conn->out;
      conn->out = empty;
      part = uv_buf_init(conn->flying.data, (unsigned)conn->flying.length);
      conn->write.data = conn;
      if (!conn->write_deadline_ns)
        conn->write_deadline_ns = tl_now_ns() + conn->loop->http->o.write_timeout_ns;
      if (uv_write(&conn->write, &conn->stream, &part, 1, on_written) < 0) http_conn_cut(conn);
      return;
    }
  }
  after_write(conn);
}

/* --- reading --------------------------------------------------------------------------------- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret) {
  (void)suggested;
  struct http_conn *conn = handle->data;
  *ret = uv_buf_init(conn->loop->read_buffer, HTTP_READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
  struct http_conn *conn = stream->data;
  if (n == 0) return;
  if (n < 0) {
    /* what is answered but not yet written goes out first */
    if (n == UV_EOF && conn->state != CONN_ANSWERING && http_conn_queued(conn)) {
      uv_read_stop(stream);
      conn->reading = false;
      conn->close_after_write = true;
      conn->state = CONN_LINGERING;
      conn->deadline_ns = 0; /* the write limit rules */
      return;
    }
    http_conn_cut(conn);
    return;
  }
  tl_metrics_add(conn->loop->shard, conn->loop->http->bytes_in, n);
  if (conn->state == CONN_LINGERING) {
    conn->discarded_bytes += (size_t)n;
    if (conn->discarded_bytes > HTTP_LINGER_BYTES) close_conn(conn);
    return;
  }
  if (tl_buffer_append(&conn->in, buffer->base, (size_t)n) < 0) {
    http_conn_cut(conn);
    return;
  }
  http_parse_input(conn);
}

static void resume_reading(struct http_conn *conn) {
  if (conn->reading || conn->state == CONN_CLOSING) return;
  conn->reading = uv_read_start(&conn->stream, on_alloc, on_read) == 0;
}

void http_conn_pace_reading(struct http_conn *conn) {
  if (conn->state != CONN_READING && conn->state != CONN_ANSWERING) return;
  if (conn->in.length < HTTP_PIPELINE_BYTES && !(conn->full && conn->state == CONN_READING)) {
    resume_reading(conn);
  } else if (conn->reading) {
    uv_read_stop(&conn->stream);
    conn->reading = false;
  }
}

static void on_shutdown(uv_shutdown_t *shutdown, int status) {
  (void)status;
  free(shutdown);
}

/* The answer is out and the connection ends: no more is written, and what the
 * client still sends is read for a while, so that it does not lose the answer to
 * a reset. */
static void begin_lingering(struct http_conn *conn) {
  uv_shutdown_t *shutdown = malloc(sizeof *shutdown);
  conn->close_after_write = false;
  if (!conn->reading || !shutdown || uv_shutdown(shutdown, &conn->stream, on_shutdown) < 0) {
    free(shutdown);
    close_conn(conn);
    return;
  }
  conn->state = CONN_LINGERING;
  conn->deadline_ns = tl_now_ns() + HTTP_LINGER_NS;
}

void http_conn_answered(struct http_conn *conn) {
  bool keep = conn->request.keep_alive && !conn->loop->draining;
  http_count_answer(&conn->request);
  http_trace_answered(conn, false);
  http_request_clear(&conn->request);
  conn->asked_ns = 0;
  if (!keep) {
    conn->close_after_write = true;
    tl_buffer_clear(&conn->in); /* nothing more is parsed */
    conn->state = CONN_LINGERING;
    conn->deadline_ns = 0; /* the write limit rules until begin_lingering */
    resume_reading(conn);
    http_conn_mark_dirty(conn);
    return;
  }
  conn->state = CONN_READING;
  conn->deadline_ns = tl_now_ns() + conn->loop->http->o.idle_timeout_ns;
  http_parse_init(conn);
  if (http_conn_queued(conn) > conn->loop->http->o.max_write_queue_bytes) conn->full = true;
  http_conn_mark_dirty(conn);
  http_parse_input(conn);
}

/* --- time ------------------------------------------------------------------------------------ */

/* The client has taken nothing for too long. */
static bool write_is_late(struct http_conn *conn, int64_t now_ns) {
  if (!conn->write_deadline_ns) return false;
  size_t unwritten = uv_stream_get_write_queue_size(&conn->stream);
  if (unwritten != conn->unwritten) conn->write_deadline_ns = now_ns + conn->loop->http->o.write_timeout_ns;
  conn->unwritten = unwritten;
  return now_ns > conn->write_deadline_ns;
}

/* A client that sent so much ahead that no more is read may leave unseen: the end
 * of its input waits behind what it sent; with more than sockets hold, in its own
 * kernel. Then only that kernel's answer to something we send tells: an interim answer
 * (RFC 9110 15.2), which a client must be able to pass over. */
static bool left_unseen(struct http_conn *conn, int64_t now_ns) {
  struct tl_http_request *request = &conn->request;
  if (conn->state != CONN_ANSWERING || conn->reading) return false;
  struct pollfd look = {.events = POLLRDHUP};
  if (uv_fileno(&conn->handle, &look.fd) == 0 && poll(&look, 1, 0) > 0) return true;
  if (request->began_answer || request->is_http10 || http_conn_queued(conn) || now_ns - conn->asked_ns < HTTP_ASK_NS) return false;
  if (conn->asked_ns) tl_buffer_puts(&conn->out, "HTTP/1.1 102 Processing\r\n\r\n");
  conn->asked_ns = now_ns;
  http_conn_mark_dirty(conn);
  return false;
}

void http_conn_check_time(struct http_conn *conn, int64_t now_ns) {
  if (write_is_late(conn, now_ns) || left_unseen(conn, now_ns)) {
    http_conn_cut(conn);
    return;
  }
  bool idle = conn->state == CONN_READING && !conn->request.began_ns;
  if (idle && http_conn_queued(conn)) { /* idle is who has his answer */
    conn->deadline_ns = now_ns + conn->loop->http->o.idle_timeout_ns;
    return;
  }
  if (idle && conn->loop->draining) {
    close_conn(conn);
    return;
  }
  if (!conn->deadline_ns || now_ns <= conn->deadline_ns) return;
  if (conn->state == CONN_READING && !idle) {
    conn->request.keep_alive = false;
    conn->state = CONN_ANSWERING;
    http_respond_error(conn, 408, "the request did not come in time");
  } else {
    http_conn_cut(conn);
  }
}

/* --- beginning ----------------------------------------------------------------------------------- */

bool http_conn_accept(struct http_loop *loop, uv_stream_t *listener) {
  struct http_conn *conn = calloc(1, sizeof *conn);
  if (!conn) return false;
  conn->loop = loop;
  bool tcp = listener->type == UV_TCP;
  int r = tcp ? uv_tcp_init(&loop->uv, &conn->tcp) : uv_pipe_init(&loop->uv, &conn->pipe, 0);
  if (r < 0) {
    free(conn);
    return false;
  }
  conn->handle.data = conn;
  conn->next = loop->conns;
  if (loop->conns) loop->conns->prev = conn;
  loop->conns = conn;
  loop->n_conns++;
  atomic_store_explicit(&loop->n_open, loop->n_conns, memory_order_relaxed); /* a count alone */
  conn->request.conn = conn;
  http_parse_init(conn);
  conn->deadline_ns = tl_now_ns() + loop->http->o.idle_timeout_ns;
  if (uv_accept(listener, &conn->stream) < 0 || loop->n_conns > loop->http->o.max_connections) {
    close_conn(conn);
    return true;
  }
  if (tcp) uv_tcp_nodelay(&conn->tcp, 1);
  resume_reading(conn);
  if (!conn->reading) close_conn(conn);
  return true;
}
