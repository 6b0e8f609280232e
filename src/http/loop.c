/* SPDX-License-Identifier: MIT */
/* A loop and its thread. Answers written in a turn of the loop are sent together
 * at its end; deadlines are checked by one sweep over the connections. */
#include <stdio.h>
#include <stdlib.h>

#include "http/http_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/waker.h"

#define STILL_NS TL_MS(500) /* twice the longest time between sweeps */

static void flush_dirty(struct http_loop *loop) {
  /* flushing may call on_writable, which may make connections dirty again */
  while (loop->dirty) {
    struct http_conn *conn = loop->dirty;
    loop->dirty = conn->dirty_next;
    conn->dirty = false;
    http_conn_flush(conn);
  }
}

static void on_prepare(uv_prepare_t *prepare) {
  flush_dirty(prepare->data);
}

static void on_check(uv_check_t *check) {
  flush_dirty(check->data);
}

/* The whole process stood still (stopped, a debugger, a paused machine): what came meanwhile waits in the kernel. It is
 * read before the next sweep, and nobody is late by that time. Never twice in a row, so that a loop with too much to do still cuts. */
static bool stood_still(struct http_loop *loop, int64_t now_ns) {
  int64_t away_ns = now_ns - loop->swept_ns;
  bool before = loop->stood_still;
  loop->swept_ns = now_ns;
  loop->stood_still = !before && away_ns > STILL_NS;
  return loop->stood_still;
}

static void on_sweep(uv_timer_t *timer) {
  struct http_loop *loop = timer->data;
  int64_t now_ns = tl_now_ns();
  if (stood_still(loop, now_ns)) return;
  for (struct http_conn *conn = loop->conns, *next; conn; conn = next) {
    next = conn->next; /* checking may close this one, never another */
    http_conn_check_time(conn, now_ns);
  }
  http_listen_retry(loop);
}

static void close_all(struct http_loop *loop) {
  http_listen_close(loop);
  while (loop->conns) http_conn_cut(loop->conns);
  uv_close((uv_handle_t *)&loop->async, NULL);
  uv_close((uv_handle_t *)&loop->prepare, NULL);
  uv_close((uv_handle_t *)&loop->check, NULL);
  uv_close((uv_handle_t *)&loop->sweep, NULL);
}

static void on_async(uv_async_t *async) {
  struct http_loop *loop = async->data;
  struct tl_http *http = loop->http;
  if (http->on_wake) http->on_wake(loop->index, http->on_wake_context);
  /* relaxed: set once; the wake-up that follows the store brings us here */
  if (!loop->draining && atomic_load_explicit(&http->draining, memory_order_relaxed)) {
    loop->draining = true;
    http_listen_close(loop);
  }
  if (!loop->stopping && atomic_load_explicit(&http->stopping, memory_order_relaxed)) {
    loop->stopping = true;
    flush_dirty(loop); /* what on_wake has just said to clients */
    close_all(loop);
  }
}

/* A quarter of the shortest time limit, between 10 ms and 250 ms. */
static uint64_t sweep_interval_ms(const struct tl_http_options *o) {
  int64_t shortest = o->header_timeout_ns;
  if (o->body_timeout_ns < shortest) shortest = o->body_timeout_ns;
  if (o->idle_timeout_ns < shortest) shortest = o->idle_timeout_ns;
  if (o->write_timeout_ns < shortest) shortest = o->write_timeout_ns;
  int64_t ms = shortest / 4 / TL_MS(1);
  return ms < 10 ? 10 : ms > 250 ? 250 : (uint64_t)ms;
}

int http_loop_init(struct http_loop *loop, struct tl_error *err) {
  loop->read_buffer = malloc(HTTP_READ_BYTES);
  int made = loop->read_buffer ? uv_loop_init(&loop->uv) : UV_ENOMEM;
  if (made < 0) return tl_error_set(err, TL_EIO, NULL, "cannot make an event loop: %s", uv_strerror(made));
  loop->inited = true;
  loop->swept_ns = tl_now_ns();
  uint64_t interval = sweep_interval_ms(&loop->http->o);
  bool fine = uv_async_init(&loop->uv, &loop->async, on_async) == 0 && uv_prepare_init(&loop->uv, &loop->prepare) == 0 &&
              uv_check_init(&loop->uv, &loop->check) == 0 && uv_timer_init(&loop->uv, &loop->sweep) == 0 &&
              uv_prepare_start(&loop->prepare, on_prepare) == 0 && uv_check_start(&loop->check, on_check) == 0 &&
              uv_timer_start(&loop->sweep, on_sweep, interval, interval) == 0;
  loop->async.data = loop->prepare.data = loop->check.data = loop->sweep.data = loop;
  return fine ? TL_OK : tl_error_set(err, TL_EIO, NULL, "cannot make an event loop");
}

static void close_handle(uv_handle_t *handle, void *context) {
  (void)context;
  if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

void http_loop_done(struct http_loop *loop) {
  if (!loop->inited) return;
  uv_walk(&loop->uv, close_handle, NULL); /* none is left but after a failed start */
  uv_run(&loop->uv, UV_RUN_DEFAULT);
  uv_loop_close(&loop->uv);
  loop->inited = false;
}

void *http_loop_run(void *argument) {
  struct http_loop *loop = argument;
  char name[16];
  snprintf(name, sizeof name, "tl-loop-%u", loop->index);
  tl_thread_enter(name, TL_ROLE_LOOP);
  uv_run(&loop->uv, UV_RUN_DEFAULT);
  return NULL;
}

static void send_async(void *loop) {
  uv_async_send(&((struct http_loop *)loop)->async);
}

void tl_http_wake(struct tl_http *http, unsigned loop) {
  tl_wake_by(send_async, &http->loops[loop]);
}
