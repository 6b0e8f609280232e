/* SPDX-License-Identifier: MIT */
/* From a configuration to a daemon that serves, and back. HTTP comes up first,
 * so that /health answers while the weights load. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon_private.h"
#include "daemon/served.h"
#include "daemon/sharing.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

static int make_http(struct daemon *d, struct tl_error *err) {
  const struct tl_config *c = d->config;
  unsigned n_fds;
  int r = notify_sockets(&d->inherited_fds, &n_fds, err);
  if (r < 0) return r;
  struct tl_http_options options = {
      .host = *c->http_host ? c->http_host : NULL,
      .port = (int)c->http_port,
      .unix_path = *c->http_unix ? c->http_unix : NULL,
      .inherited_fds = d->inherited_fds,
      .n_inherited_fds = n_fds,
      .n_loops = (unsigned)c->http_threads,
      .max_body_bytes = (size_t)c->http_max_body_bytes,
      .max_header_bytes = (size_t)c->http_max_header_bytes,
      .max_headers = (unsigned)c->http_max_headers,
      .max_url_bytes = (size_t)c->http_max_url_bytes,
      .max_write_queue_bytes = (size_t)c->http_max_write_queue_bytes,
      .max_connections = (unsigned)c->http_max_connections,
      .header_timeout_ns = TL_MS(c->http_header_timeout_ms),
      .body_timeout_ns = TL_MS(c->http_body_timeout_ms),
      .idle_timeout_ns = TL_MS(c->http_idle_timeout_ms),
      .write_timeout_ns = TL_MS(c->http_write_timeout_ms),
      .cors_origins = (const char *const *)c->http_cors_origins.items,
      .n_cors_origins = c->http_cors_origins.n,
      .trace = d->trace,
  };
  return tl_http_new(&options, d->metrics, &d->http, err);
}

static int make_api(struct daemon *d, struct tl_error *err) {
  const struct tl_config *c = d->config;
  struct tl_api_options options = {
      .http = d->http,
      .metrics = d->metrics,
      .trace = d->trace,
      .n_loops = (unsigned)c->http_threads,
      .text_threads = (unsigned)c->text_threads,
      .models = d->api_models,
      .n_models = d->n_models,
      .request_templates = c->text_request_templates,
      .limits = {.max_choices = c->limits_max_choices,
                 .max_prompts = c->limits_max_prompts,
                 .max_inputs = c->limits_max_inputs,
                 .max_total_tokens = c->limits_max_total_tokens,
                 .max_logprobs = c->limits_max_logprobs,
                 .max_logit_bias = c->limits_max_logit_bias,
                 .max_stop_bytes = c->limits_max_stop_bytes,
                 .default_timeout_ms = c->limits_default_timeout_ms,
                 .max_timeout_ms = c->limits_max_timeout_ms,
                 .tmpl = tl_template_default_limits},
  };
  options.limits.tmpl.fuel = (uint64_t)c->limits_template_fuel;
  return tl_api_new(&options, &d->api, err);
}

static int start_http(struct daemon *d, struct tl_error *err) {
  int r = tl_http_start(d->http, err);
  if (r < 0) return r;
  if (d->inherited_fds) {
    TL_LOG(TL_LOG_INFO, "http", "listening on the sockets of systemd");
    return TL_OK;
  }
  if (*d->config->http_host)
    TL_LOG(TL_LOG_INFO, "http", "listening", TL_S("address", d->config->http_host), TL_I("port", tl_http_port(d->http)));
  if (*d->config->http_unix) TL_LOG(TL_LOG_INFO, "http", "listening", TL_S("unix", d->config->http_unix));
  return TL_OK;
}

static double read_ring_drops(void *unused) {
  (void)unused;
  return (double)tl_log_losses().ring_full;
}

static double read_sink_drops(void *unused) {
  (void)unused;
  return (double)tl_log_losses().sink;
}

static double read_suppressed(void *unused) {
  (void)unused;
  return (double)tl_log_losses().rate_limit;
}

static void add_log_metrics(struct tl_metrics *metrics) {
  static const char name[] = "tokenlane_log_dropped_total", help[] = "Log records that were not written, by reason.";
  tl_metrics_counter_read(metrics, name, help, "reason=\"ring_full\"", read_ring_drops, NULL);
  tl_metrics_counter_read(metrics, name, help, "reason=\"sink\"", read_sink_drops, NULL);
  tl_metrics_counter_read(metrics, name, help, "reason=\"rate_limit\"", read_suppressed, NULL);
}

static struct served *whose(struct daemon *d, unsigned replica) {
  struct served *s = d->models;
  while (replica >= s->first_replica + s->n_replicas) s++;
  return s;
}

/* Before anybody waits for the monitor's next look: the step under way is not used. */
static void on_gpu_failed(unsigned replica, void *context) {
  struct served *s = whose(context, replica);
  tl_engine_quarantine(s->engine, replica - s->first_replica);
  tl_waker_notify(&s->probe_waker);
}

static unsigned n_devices(const struct daemon *d) {
  unsigned n = 0;
  for (unsigned i = 0; i < d->n_models; i++) n += d->models[i].config->devices.n;
  return n;
}

static int watch_gpus(struct daemon *d, struct tl_error *err) {
  unsigned n = 0, room = n_devices(d);
  struct gpu_use *uses = calloc(room ? room : 1, sizeof *uses);
  if (!uses) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (unsigned m = 0; m < d->n_models; m++) {
    const struct served *s = &d->models[m];
    unsigned ranks = tl_engine_ranks(s->engine);
    for (unsigned i = 0; i < s->n_replicas * ranks; i++) {
      const char *gpu = tl_engine_gpu(s->engine, i / ranks, i % ranks);
      if (*gpu) uses[n++] = (struct gpu_use){s->first_replica + i / ranks, gpu};
    }
  }
  struct gpu_watch_options options = {.library = "libnvidia-ml.so.1",
                                      .uses = uses,
                                      .n_uses = n,
                                      .look_ns = TL_SEC(1),
                                      .fail = on_gpu_failed,
                                      .context = d};
  d->gpus = gpu_watch_start(&options, d->metrics);
  free(uses);
  return TL_OK;
}

static void on_resume(unsigned replica, void *context) {
  struct served *s = whose(context, replica);
  monitor_resume(replica - s->first_replica, s->monitor);
}

static int start_admin(struct daemon *d, struct tl_error *err) {
  const char *path = d->config->admin_unix;
  if (!*path) return TL_OK;
  struct tl_admin_options options = {.unix_path = path,
                                     .models = d->api_models,
                                     .serving = d->servings,
                                     .n_models = d->n_models,
                                     .resume = on_resume,
                                     .context = d,
                                     .trace = d->trace};
  int r = tl_admin_start(&options, &d->admin, err);
  if (r == TL_OK) TL_LOG(TL_LOG_INFO, "admin", "listening", TL_S("unix", path));
  return r;
}

/* What is known of the models before any is read. */
static int list_models(struct daemon *d, struct tl_error *err) {
  unsigned n = d->config->n_models, first = 0, first_cpu = 0, n_cpu = 0;
  d->models = aligned_alloc(TL_CACHE_LINE, n * sizeof *d->models);
  d->api_models = calloc(n, sizeof *d->api_models);
  d->servings = calloc(n, sizeof *d->servings);
  if (!d->models || !d->api_models || !d->servings) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  d->n_models = n;
  for (unsigned i = 0; i < n; i++) n_cpu += sharing_cpu_devices(&d->config->models[i]);
  for (unsigned i = 0; i < n; i++) {
    const struct tl_config *c = &d->config->models[i];
    d->models[i] = (struct served){.daemon = d,
                                   .config = c,
                                   .name = c->model_name,
                                   .n_replicas = daemon_replicas(c),
                                   .first_replica = first,
                                   .cpu_devices = n > 1 ? n_cpu : 0,
                                   .first_cpu_device = first_cpu};
    d->api_models[i] = (struct tl_api_model){.name = c->model_name,
                                             .aliases = (const char *const *)c->model_aliases.items,
                                             .n_aliases = c->model_aliases.n,
                                             .n_replicas = daemon_replicas(c)};
    first += daemon_replicas(c);
    first_cpu += sharing_cpu_devices(c);
  }
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < n; i++) {
    r = adapters_list(d->models[i].config, &d->models[i].adapters, err);
    d->api_models[i].adapters = d->models[i].adapters;
    d->api_models[i].n_adapters = d->models[i].config->model_adapters.n;
  }
  return r;
}

/* One model after the other: each loads on all of its devices at once. */
static int make_models(struct daemon *d, struct tl_error *err) {
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < d->n_models; i++) {
    r = served_load(&d->models[i], err);
    if (r < 0 && d->n_models > 1) tl_error_prefix(err, d->models[i].name);
  }
  if (r == TL_OK) r = watch_gpus(d, err);
  for (unsigned i = 0; r == TL_OK && i < d->n_models; i++) r = served_watch(&d->models[i], err);
  return r;
}

static void say_ready(const struct daemon *d, int64_t began_ns) {
  for (unsigned i = 0; i < d->n_models; i++) {
    const struct served *s = &d->models[i];
    if (d->n_models > 1)
      TL_LOG(TL_LOG_INFO, "daemon", "model", TL_S("model", s->name), TL_U("first_replica", s->first_replica),
             TL_U("replicas", s->n_replicas), TL_U("kv_blocks", tl_engine_blocks(s->engine, 0)),
             TL_S("kv_dtype", tl_dtype_name(tl_engine_kv_dtype(s->engine))), TL_U("context", tl_engine_max_context(s->engine)));
  }
  const struct served *first = &d->models[0], *last = &d->models[d->n_models - 1];
  TL_LOG(TL_LOG_INFO, "daemon", "ready", TL_S("model", first->name), TL_U("models", d->n_models),
         TL_U("replicas", last->first_replica + last->n_replicas), TL_U("kv_blocks", tl_engine_blocks(first->engine, 0)),
         TL_S("kv_dtype", tl_dtype_name(tl_engine_kv_dtype(first->engine))), TL_U("context", tl_engine_max_context(first->engine)), TL_F("seconds", (double)(tl_now_ns() - began_ns) * 1e-9));
}

int daemon_boot(struct daemon *d, const struct tl_config *config, struct tl_error *err) {
  int64_t began_ns = tl_now_ns();
  *d = (struct daemon){.config = config};
  d->metrics = tl_metrics_new();
  int r = d->metrics ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (r == TL_OK) r = list_models(d, err);
  if (r == TL_OK) add_log_metrics(d->metrics);
  if (r == TL_OK) process_metrics_add(d->metrics, &d->start_s);
  if (r == TL_OK) r = daemon_make_trace(d, err);
  if (r == TL_OK) r = make_http(d, err);
  if (r == TL_OK) r = make_api(d, err);
  if (r == TL_OK) r = daemon_set_keys(d->api, config, err);
  if (r == TL_OK) r = start_http(d, err);
  if (r == TL_OK) r = make_models(d, err);
  if (r < 0) return r;
  signals_ready(); /* before the first request: it would be lost by an exit at once */
  for (unsigned i = 0; i < d->n_models; i++) {
    const struct served *s = &d->models[i];
    d->servings[i] = (struct tl_serving){s->engine, s->route, s->model, s->tokenizer, s->chat, s->config->model_tool_parser, s->config->model_reasoning_parser, s->vocabulary};
  }
  r = start_admin(d, err);
  if (r < 0) return r;
  tl_api_serve(d->api, d->servings);
  say_ready(d, began_ns);
  return TL_OK;
}

void daemon_done(struct daemon *d) {
  tl_admin_stop(d->admin);
  for (unsigned i = 0; i < d->n_models; i++) served_stop(&d->models[i]);
  /* workers and lanes wake loops, so loops end last; what they still hand over is reaped */
  if (d->api) tl_api_stop(d->api);
  if (d->http) tl_http_stop(d->http);
  if (d->api) tl_api_reap(d->api);
  tl_trace_stop(d->trace); /* all that puts spans has ended */
  gpu_watch_stop(d->gpus); /* its gauges are read until http stops; its threads mark until they end */
  for (unsigned i = 0; i < d->n_models; i++) served_done(&d->models[i]);
  tl_api_free(d->api);
  tl_http_free(d->http);
  tl_trace_free(d->trace);
  tl_metrics_free(d->metrics);
  free(d->models);
  free(d->api_models);
  free(d->servings);
  free(d->inherited_fds);
}
