/* SPDX-License-Identifier: MIT */
#include "tokenlane/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "http/http_private.h"

static const double second_bounds[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                       0.25,   0.5,     1,      2.5,   5,      10,    30,   60};

static double read_connections(void *http) {
  return tl_http_connections(http);
}

/* Quotes and backslashes cannot stand in a label as they are. */
static void copy_label(char *to, size_t size, const char *path) {
  size_t i = 0;
  for (; path[i] && i + 1 < size; i++) to[i] = path[i] == '"' || path[i] == '\\' || path[i] < ' ' ? '_' : path[i];
  to[i] = 0;
}

static void add_route_metrics(struct tl_http *http, struct http_route *route, const char *path) {
  char label[256], labels[320];
  if (!http->metrics) return;
  copy_label(label, sizeof label, path);
  for (unsigned i = 0; i < HTTP_N_CODES; i++) {
    if (http_codes[i].status)
      snprintf(labels, sizeof labels, "route=\"%s\",code=\"%d\"", label, http_codes[i].status);
    else
      snprintf(labels, sizeof labels, "route=\"%s\",code=\"other\"", label);
    route->requests[i] = tl_metrics_counter(http->metrics, "tokenlane_http_requests_total",
                                            "Requests answered, by route and status.", labels);
  }
  snprintf(labels, sizeof labels, "route=\"%s\"", label);
  route->seconds = tl_metrics_histogram(http->metrics, "tokenlane_http_request_seconds",
                                        "From a request's first byte to the end of its answer.", labels, second_bounds,
                                        sizeof second_bounds / sizeof *second_bounds, 1e-9);
}

int tl_http_new(const struct tl_http_options *options, struct tl_metrics *metrics, struct tl_http **ret,
                struct tl_error *err) {
  struct tl_http *http = calloc(1, sizeof *http);
  if (!http) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  http->o = *options;
  http->metrics = metrics;
  http->loops = aligned_alloc(TL_CACHE_LINE, options->n_loops * sizeof *http->loops);
  int r = http->loops ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (r == TL_OK) memset((void *)http->loops, 0, options->n_loops * sizeof *http->loops);
  for (unsigned i = 0; r == TL_OK && i < options->n_loops; i++) {
    http->loops[i].http = http;
    http->loops[i].index = i;
  }
  if (r == TL_OK) r = http_listen_open(http, err);
  if (r < 0) {
    tl_http_free(http);
    return r;
  }
  add_route_metrics(http, &http->unknown, "other");
  if (metrics) {
    http->bytes_in = tl_metrics_counter(metrics, "tokenlane_http_received_bytes_total", "Bytes read from clients.", NULL);
    http->bytes_out = tl_metrics_counter(metrics, "tokenlane_http_sent_bytes_total", "Bytes written to clients.", NULL);
    tl_metrics_gauge_read(metrics, "tokenlane_http_connections", "Open connections.", NULL, read_connections, http);
  }
  *ret = http;
  return TL_OK;
}

int tl_http_handle(struct tl_http *http, const char *method, const char *path, tl_http_handler handler, void *context) {
  if (http->n_routes == HTTP_MAX_ROUTES) return TL_ELIMIT;
  size_t length = strlen(path);
  bool prefix = length && path[length - 1] == '*';
  struct http_route *route = &http->routes[http->n_routes];
  *route = (struct http_route){.path = strndup(path, length - prefix),
                               .path_length = length - prefix,
                               .prefix = prefix,
                               .method = method,
                               .handler = handler,
                               .context = context};
  if (!route->path) return TL_ENOMEM;
  for (unsigned i = 0; i < http->n_routes; i++) {
    const struct http_route *other = &http->routes[i];
    if (other->prefix != prefix || strcmp(other->path, route->path) != 0 || strcmp(other->method, method) != 0) continue;
    free(route->path);
    return TL_EINVAL;
  }
  http->n_routes++;
  add_route_metrics(http, route, path);
  return TL_OK;
}

void tl_http_error_body(struct tl_http *http, const char *(*write)(const struct tl_http_request *request, int status,
                                                                   const char *message, struct tl_buffer *out)) {
  http->error_body = write;
}

void tl_http_guard(struct tl_http *http,
                   int (*guard)(struct tl_http_request *request, void *context, const char **ret_text), void *context) {
  http->guard = guard;
  http->guard_context = context;
}

void tl_http_on_wake(struct tl_http *http, void (*on_wake)(unsigned loop, void *context), void *context) {
  http->on_wake = on_wake;
  http->on_wake_context = context;
}

int tl_http_start(struct tl_http *http, struct tl_error *err) {
  for (unsigned i = 0; i < http->o.n_loops; i++) {
    struct http_loop *loop = &http->loops[i];
    if (http->metrics) loop->shard = tl_metrics_shard_new(http->metrics);
    int r = http_loop_init(loop, err);
    if (r < 0) return r;
    if (http_listen_attach(loop) < 0) return tl_error_set(err, TL_EIO, "http", "cannot listen");
    if (pthread_create(&loop->thread, NULL, http_loop_run, loop) != 0)
      return tl_error_set(err, TL_EIO, "http.threads", "cannot start a thread");
    loop->started = true;
  }
  return TL_OK;
}

struct tl_metrics_shard *tl_http_shard(struct tl_http *http, unsigned loop) {
  return http->loops[loop].shard;
}

int tl_http_port(const struct tl_http *http) {
  return http->port;
}

unsigned tl_http_connections(const struct tl_http *http) {
  unsigned total = 0;
  for (unsigned i = 0; i < http->o.n_loops; i++)
    total += atomic_load_explicit(&http->loops[i].n_open, memory_order_relaxed); /* a count alone */
  return total;
}

static void wake_all(struct tl_http *http) {
  for (unsigned i = 0; i < http->o.n_loops; i++)
    if (http->loops[i].started) tl_http_wake(http, i);
}

void tl_http_drain(struct tl_http *http) {
  atomic_store_explicit(&http->draining, 1, memory_order_relaxed); /* see on_async in loop.c */
  wake_all(http);
}

void tl_http_stop(struct tl_http *http) {
  atomic_store_explicit(&http->stopping, 1, memory_order_relaxed); /* see on_async in loop.c */
  wake_all(http);
  for (unsigned i = 0; i < http->o.n_loops; i++) {
    struct http_loop *loop = &http->loops[i];
    if (loop->started) pthread_join(loop->thread, NULL);
    loop->started = false;
    http_loop_done(loop);
  }
}

void tl_http_free(struct tl_http *http) {
  if (!http) return;
  for (unsigned i = 0; http->loops && i < http->o.n_loops; i++) {
    free(http->loops[i].listeners);
    free(http->loops[i].read_buffer);
  }
  for (unsigned i = 0; http->fds && i < http->n_fds * http->o.n_loops; i++)
    if (http->fds[i] >= 0) close(http->fds[i]);
  if (http->made_unix_file) unlink(http->o.unix_path);
  for (unsigned i = 0; i < http->n_routes; i++) free(http->routes[i].path);
  free(http->loops);
  free(http->fds);
  free(http);
}
