/* SPDX-License-Identifier: MIT */
/* The server for tests of what happens to connections: one loop, and handlers
 * that answer at once, late, much, or as fast as the client takes it. */
#ifndef HTTP_SERVER_H
#define HTTP_SERVER_H

#include "http_client.h"

#define H "Host: a\r\n"
#define PIECE_BYTES 8000
#define MAX_HELD 64
#define GET(target) "GET " target " HTTP/1.1\r\n" H "\r\n"

enum command { NOTHING, WRITE_PIECES, END_ALL };

struct flood {
  struct tl_http_request *request;
  size_t at, length;
};

static struct tl_metrics *metrics;
static struct tl_http *http;
static char folder[64], socket_path[80];
static int (*guard)(struct tl_http_request *request, void *context, const char **ret_text); /* NULL: none */
static _Atomic int command;

/* the loop's thread only */
static struct tl_http_request *held[MAX_HELD];
static bool streams[MAX_HELD];

/* counted by the loop, read by the test after something that came later */
static _Atomic unsigned n_held, n_aborted, n_strange, n_big, n_full, n_room;
static _Atomic size_t flooded;

#define COUNT(counter) atomic_fetch_add_explicit(&(counter), 1, memory_order_release)
#define READ(counter) atomic_load_explicit(&(counter), memory_order_acquire)

/* --- handlers ------------------------------------------------------------------------------- */

static inline void on_now(struct tl_http_request *request, void *context) {
  (void)context;
  tl_http_respond(request, 200, "text/plain", "now", 3);
}

static inline void release(struct tl_http_request *request) {
  for (unsigned i = 0; i < MAX_HELD; i++)
    if (held[i] == request) {
      held[i] = NULL;
      atomic_fetch_sub_explicit(&n_held, 1, memory_order_release);
      return;
    }
  COUNT(n_strange);
}

static inline void on_held_abort(struct tl_http_request *request) {
  if (tl_http_data(request) != &held) COUNT(n_strange);
  COUNT(n_aborted);
  release(request);
}

/* Answers when told to; /open has begun its stream before. */
static inline void on_hold(struct tl_http_request *request, void *context) {
  unsigned i = 0;
  while (i < MAX_HELD && held[i]) i++;
  if (i == MAX_HELD) {
    tl_http_respond(request, 503, "text/plain", "full", 4);
    return;
  }
  held[i] = request;
  streams[i] = context != NULL;
  tl_http_set_data(request, &held);
  tl_http_on_abort(request, on_held_abort);
  if (streams[i]) {
    tl_http_begin(request, 200, "text/plain");
    tl_http_write(request, "begun,", 6);
  }
  COUNT(n_held);
}

static inline char letter(size_t at) {
  return (char)('a' + at % 23);
}

static inline void *letters(size_t from, size_t length) {
  char *bytes = malloc(length);
  for (size_t i = 0; i < length; i++) bytes[i] = letter(from + i);
  return bytes;
}

/* An answer of so many bytes as the query says. */
static inline void on_big(struct tl_http_request *request, void *context) {
  (void)context;
  size_t length = strtoul(tl_http_query(request), NULL, 10);
  char *bytes = letters(0, length);
  COUNT(n_big);
  tl_http_respond(request, 200, "text/plain", bytes, length);
  free(bytes);
}

static inline void flood_more(struct tl_http_request *request) {
  struct flood *flood = tl_http_data(request);
  while (flood->at < flood->length) {
    if (!tl_http_writable(request)) {
      COUNT(n_full);
      return;
    }
    size_t n = flood->length - flood->at < PIECE_BYTES ? flood->length - flood->at : PIECE_BYTES;
    char *bytes = letters(flood->at, n);
    tl_http_write(request, bytes, n);
    free(bytes);
    flood->at += n;
    atomic_store_explicit(&flooded, flood->at, memory_order_release);
  }
  free(flood);
  tl_http_end(request);
}

static inline void on_flood_room(struct tl_http_request *request) {
  COUNT(n_room);
  if (!tl_http_writable(request)) COUNT(n_strange);
  flood_more(request);
}

static inline void on_flood_abort(struct tl_http_request *request) {
  COUNT(n_aborted);
  free(tl_http_data(request));
}

/* A stream of so many bytes, no faster than the client takes it. */
static inline void on_flood(struct tl_http_request *request, void *context) {
  (void)context;
  struct flood *flood = malloc(sizeof *flood);
  *flood = (struct flood){request, 0, strtoul(tl_http_query(request), NULL, 10)};
  tl_http_set_data(request, flood);
  tl_http_on_abort(request, on_flood_abort);
  tl_http_on_writable(request, on_flood_room);
  tl_http_begin(request, 200, "text/plain");
  flood_more(request);
}

static inline void on_wake(unsigned loop, void *context) {
  (void)loop;
  (void)context;
  int what = atomic_load_explicit(&command, memory_order_acquire); /* of tell() */
  for (unsigned i = 0; what != NOTHING && i < MAX_HELD; i++) {
    struct tl_http_request *request = held[i];
    if (!request) continue;
    if (what == WRITE_PIECES && streams[i]) tl_http_write(request, "piece,", 6);
    if (what != END_ALL) continue;
    release(request);
    if (streams[i])
      tl_http_end(request);
    else
      tl_http_respond(request, 200, "text/plain", "held", 4);
  }
  atomic_store_explicit(&command, NOTHING, memory_order_release); /* to tell() */
}

static inline void tell(enum command what) {
  atomic_store_explicit(&command, what, memory_order_release);
  tl_http_wake(http, 0);
  CLIENT_WAIT(READ(command) == NOTHING);
}

/* --- the server -------------------------------------------------------------------------------- */

static inline void start(const struct tl_http_options *options) {
  struct tl_http_options o = *options;
  struct tl_error err = {0};
  unit_make_folder(folder);
  snprintf(socket_path, sizeof socket_path, "%s/http.sock", folder);
  o.unix_path = socket_path;
  memset(held, 0, sizeof held);
  n_held = n_aborted = n_strange = n_big = n_full = n_room = 0;
  metrics = tl_metrics_new();
  if (tl_http_new(&o, metrics, &http, &err) < 0) fail_msg("%s", err.message);
  tl_http_handle(http, "GET", "/now", on_now, NULL);
  tl_http_handle(http, "POST", "/now", on_now, NULL);
  tl_http_handle(http, "GET", "/hold", on_hold, NULL);
  tl_http_handle(http, "GET", "/open", on_hold, held);
  tl_http_handle(http, "GET", "/big", on_big, NULL);
  tl_http_handle(http, "GET", "/flood", on_flood, NULL);
  tl_http_guard(http, guard, NULL);
  tl_http_on_wake(http, on_wake, NULL);
  if (tl_http_start(http, &err) < 0) fail_msg("%s", err.message);
}

static inline void finish(void) {
  tl_http_stop(http);
  assert_int_equal(READ(n_strange), 0);
  assert_int_equal(READ(n_held), 0);
  assert_int_equal(tl_http_connections(http), 0);
  tl_metrics_free(metrics);
  tl_http_free(http);
  assert_int_equal(rmdir(folder), 0);
}

static inline void start_plain(void) {
  struct tl_http_options o = client_options();
  start(&o);
}

static inline void wait_received(double bytes) {
  CLIENT_WAIT(client_metric(metrics, "tokenlane_http_received_bytes_total") >= bytes);
}

static inline void expect_body(struct client *c, size_t length) {
  struct answer a;
  if (!client_try_answer(c, false, &a)) fail_msg("the answer is cut short");
  assert_int_equal(a.status, 200);
  assert_int_equal(a.body.length, length);
  for (size_t i = 0; i < length; i++)
    if (a.body.data[i] != letter(i)) fail_msg("wrong byte at %zu", i);
  tl_buffer_done(&a.body);
}

#endif
