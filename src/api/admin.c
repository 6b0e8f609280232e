/* SPDX-License-Identifier: MIT */
/* The operator's side: replicas, drain, resume; admin_log.c and admin_trace.c have the rest. On a listener of its own, never on
 * the public port; who may open the socket's file may do all of it. */
#include <stdlib.h>
#include <string.h>

#include "api/admin_private.h"
#include "tokenlane/base/clock.h"

#define PREFIX "/admin/replicas/"
#define SOCKET_MODE 0600

struct tl_admin {
  struct tl_admin_options o;
  struct tl_http *http;
  struct admin_trace *traces;
};

static double seconds(int64_t ns) {
  return (double)ns * 1e-9;
}

/* relaxed: single figures, each right in itself */
static void write_replica(const struct tl_admin *admin, unsigned model, unsigned i, struct tl_buffer *out) {
  const struct tl_serving *s = &admin->o.serving[model];
  const char *name = admin->o.models[model].name;
  struct tl_board *b = tl_engine_board(s->engine, i);
  int64_t beat_ns = atomic_load_explicit(&b->beat_ns, memory_order_relaxed);
  tl_buffer_printf(out, "{\"id\":%u,\"model\":", tl_engine_first_replica(s->engine) + i);
  api_json_string(out, name, strlen(name));
  tl_buffer_puts(out, ",\"devices\":");
  for (unsigned rank = 0; rank < tl_engine_ranks(s->engine); rank++) {
    const char *device = tl_engine_device(s->engine, i, rank);
    tl_buffer_putc(out, rank ? ',' : '[');
    api_json_string(out, device, strlen(device));
  }
  tl_buffer_printf(out, "],\"state\":\"%s\",\"load\":%lld,\"sequences\":%lld,\"reserved_tokens\":%lld",
                   tl_replica_state_name(tl_route_state(s->route, i)), (long long)tl_route_load(s->route, i),
                   (long long)atomic_load_explicit(&b->reserved_seqs, memory_order_relaxed),
                   (long long)atomic_load_explicit(&b->reserved_tokens, memory_order_relaxed));
  tl_buffer_printf(out, ",\"running\":%u,\"waiting\":%u,\"free_blocks\":%u,\"blocks\":%u",
                   atomic_load_explicit(&b->running, memory_order_relaxed),
                   atomic_load_explicit(&b->waiting, memory_order_relaxed),
                   atomic_load_explicit(&b->free_blocks, memory_order_relaxed), tl_engine_blocks(s->engine, i));
  tl_buffer_puts(out, ",\"step_seconds\":");
  api_json_number(out, seconds(atomic_load_explicit(&b->step_ns, memory_order_relaxed)));
  tl_buffer_puts(out, ",\"last_step_seconds_ago\":");
  if (beat_ns)
    api_json_number(out, seconds(tl_now_ns() - beat_ns));
  else
    tl_buffer_puts(out, "null");
  tl_buffer_printf(out, ",\"steps\":%llu,\"faults\":%u}",
                   (unsigned long long)atomic_load_explicit(&b->n_steps, memory_order_relaxed),
                   atomic_load_explicit(&b->n_faults, memory_order_relaxed));
}

static void on_replicas(struct tl_http_request *request, void *context) {
  const struct tl_admin *admin = context;
  struct tl_buffer body;
  tl_buffer_init(&body, 0);
  tl_buffer_puts(&body, "{\"replicas\":[");
  for (unsigned m = 0; m < admin->o.n_models; m++)
    for (unsigned i = 0; i < admin->o.models[m].n_replicas; i++) {
      if (m || i) tl_buffer_putc(&body, ',');
      write_replica(admin, m, i, &body);
    }
  tl_buffer_puts(&body, "]}");
  api_respond_buffer(request, 200, &body);
}

/* Whose replica number `id` of all is, and which of that model's. */
static bool find_replica(const struct tl_admin *admin, unsigned long id, unsigned *ret_model, unsigned *ret_replica) {
  for (unsigned m = 0; m < admin->o.n_models; id -= admin->o.models[m++].n_replicas) {
    if (id >= admin->o.models[m].n_replicas) continue;
    *ret_model = m;
    *ret_replica = (unsigned)id;
    return true;
  }
  return false;
}

/* ID/VERB. False: no such replica or verb. */
static bool read_path(const struct tl_admin *admin, const char *rest, unsigned *ret_model, unsigned *ret_replica,
                      bool *ret_drain) {
  unsigned long id = 0;
  const char *at = rest;
  for (; *at >= '0' && *at <= '9' && at - rest < 6; at++) id = id * 10 + (unsigned long)(*at - '0');
  if (at == rest || !find_replica(admin, id, ret_model, ret_replica)) return false;
  *ret_drain = strcmp(at, "/drain") == 0;
  return *ret_drain || strcmp(at, "/resume") == 0;
}

static void on_order(struct tl_http_request *request, void *context) {
  const struct tl_admin *admin = context;
  unsigned model, replica;
  bool drain;
  struct tl_error err = {0};
  if (!read_path(admin, tl_http_path(request) + strlen(PREFIX), &model, &replica, &drain)) {
    tl_error_set(&err, TL_ENOTFOUND, NULL, "expected " PREFIX "ID/drain or .../resume with the id of a replica");
    api_respond_error(request, &err, 0);
    return;
  }
  const struct tl_serving *serving = &admin->o.serving[model];
  tl_route_drain(serving->route, replica, drain);
  if (!drain) admin->o.resume(tl_engine_first_replica(serving->engine) + replica, admin->o.context);
  struct tl_buffer body;
  tl_buffer_init(&body, 0);
  write_replica(admin, model, replica, &body);
  api_respond_buffer(request, 200, &body);
}

bool admin_query(const struct tl_http_request *request, const char *name, char *ret, size_t size) {
  size_t n = strlen(name);
  for (const char *at = tl_http_query(request); *at;) {
    size_t length = strcspn(at, "&");
    if (length > n && strncmp(at, name, n) == 0 && at[n] == '=') {
      if (length - n - 1 >= size) return false;
      memcpy(ret, at + n + 1, length - n - 1);
      ret[length - n - 1] = 0;
      return true;
    }
    at += length + (at[length] == '&');
  }
  return false;
}

static void on_wake(unsigned loop, void *context) {
  (void)loop;
  admin_trace_wake(((struct tl_admin *)context)->traces);
}

static int open_listener(struct tl_admin *admin, struct tl_error *err) {
  struct tl_http_options options = {
      .unix_path = admin->o.unix_path,
      .unix_mode = SOCKET_MODE,
      .n_loops = 1,
      .max_body_bytes = 1 << 16,
      .max_header_bytes = 1 << 14,
      .max_headers = 64,
      .max_url_bytes = 1024,
      .max_write_queue_bytes = 1 << 20,
      .max_connections = 64,
      .header_timeout_ns = TL_SEC(10),
      .body_timeout_ns = TL_SEC(10),
      .idle_timeout_ns = TL_SEC(60),
      .write_timeout_ns = TL_SEC(60),
  };
  int r = tl_http_new(&options, NULL, &admin->http, err);
  if (r < 0) return tl_error_prefix(err, "admin.unix");
  tl_http_error_body(admin->http, api_http_error);
  r = tl_http_handle(admin->http, "GET", "/admin/replicas", on_replicas, admin);
  if (r == TL_OK) r = tl_http_handle(admin->http, "POST", PREFIX "*", on_order, admin);
  if (r == TL_OK) r = admin_register_log(admin->http);
  if (r == TL_OK) r = admin_trace_new(admin->http, admin->o.trace, &admin->traces);
  if (r < 0) return tl_error_set(err, r, NULL, "out of memory");
  tl_http_on_wake(admin->http, on_wake, admin);
  return tl_http_start(admin->http, err);
}

int tl_admin_start(const struct tl_admin_options *options, struct tl_admin **ret, struct tl_error *err) {
  struct tl_admin *admin = calloc(1, sizeof *admin);
  if (!admin) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  admin->o = *options;
  int r = open_listener(admin, err);
  if (r < 0)
    tl_admin_stop(admin);
  else
    *ret = admin;
  return r;
}

void tl_admin_stop(struct tl_admin *admin) {
  if (!admin) return;
  tl_trace_end_files(admin->o.trace); /* or a maker would wake a loop that is gone */
  if (admin->http) tl_http_stop(admin->http);
  tl_http_free(admin->http);
  admin_trace_free(admin->traces);
  free(admin);
}
