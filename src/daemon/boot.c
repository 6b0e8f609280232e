/* SPDX-License-Identifier: MIT */
/* From a configuration to a daemon that serves, and back. HTTP comes up first,
 * so that /health answers while the weights load. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon_private.h"
#include "daemon/monitor.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

/* The id that clients use: as configured, or the last part of the path. */
static void name_model(struct daemon *d) {
  const char *name = d->config->model_name;
  size_t length = strlen(name);
  if (length == 0) {
    const char *path = d->config->model_path;
    size_t end = strlen(path);
    while (end > 0 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') start--;
    name = path + start;
    length = end - start;
  }
  snprintf(d->model_name, sizeof d->model_name, "%.*s", (int)length, name);
}

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
      .n_replicas = daemon_replicas(c),
      .text_threads = (unsigned)c->text_threads,
      .model_name = d->model_name,
      .aliases = (const char *const *)c->model_aliases.items,
      .n_aliases = c->model_aliases.n,
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

static int load_files(struct daemon *d, struct tl_error *err) {
  const char *path = d->config->model_path;
  int r = simulate_only(d->config) ? tl_model_load_config(path, &d->model, err) : tl_model_load(path, &d->model, err);
  if (r == TL_OK && strcmp(d->config->model_quantize, "none") != 0)
    r = tl_model_quantize(d->model, d->config->model_quantize, err);
  if (r == TL_OK) r = tl_tokenizer_load(path, &d->tokenizer, err);
  if (r == TL_OK) r = tl_chat_format_load(path, &d->chat, err);
  if (r < 0) return r;
  TL_LOG(TL_LOG_INFO, "model", "read", TL_S("model", d->model_name), TL_S("architecture", d->model->architecture),
         TL_U("parameters", d->model->n_parameters), TL_S("dtype", d->model->n_tensors ? tl_dtype_name(d->model->weight_dtype) : "none"),
         TL_U("context", d->model->max_context), TL_S("chat_template", d->chat ? "yes" : "no"));
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

/* The loop after http's is this thread, for the test generation, and then the monitor. */
static void on_wake(unsigned loop, void *context) {
  struct daemon *d = context;
  if (loop < (unsigned)d->config->http_threads)
    tl_api_wake(loop, d->api);
  else
    tl_waker_notify(&d->probe_waker);
}

static void on_progress(unsigned device, uint64_t done, uint64_t total, void *context) {
  progress_step(((struct daemon *)context)->progress, device, done, total);
}

static enum tl_isolation isolation_of(const struct tl_config *config) {
  if (strcmp(config->isolation, "process") == 0) return TL_ISOLATION_PROCESS;
  return strcmp(config->isolation, "thread") == 0 ? TL_ISOLATION_THREAD : TL_ISOLATION_AUTO;
}

static int make_engine(struct daemon *d, struct tl_error *err) {
  const struct tl_config *c = d->config;
  tl_waker_init(&d->probe_waker);
  d->progress = progress_new(c->devices.n);
  if (!d->progress) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  d->simulation = simulate_new(c, d->model, d->tokenizer, err);
  if (!d->simulation) return err->code;
  struct tl_engine_options options = {
      .model = d->model,
      .model_path = c->model_path,
      .isolation = isolation_of(c),
      .devices = (const char *const *)c->devices.items,
      .n_replicas = daemon_replicas(c),
      .tensor_parallel = (unsigned)c->engine_tensor_parallel,
      .sim = simulate_options(d->simulation),
      .n_loops = (unsigned)c->http_threads + 1,
      .cpu_threads = (unsigned)c->cpu_threads,
      .cpu_pin = c->cpu_pin,
      .max_batch_size = (uint32_t)c->engine_max_batch_size,
      .max_batch_tokens = (uint32_t)c->engine_max_batch_tokens,
      .max_context = (uint32_t)c->engine_max_context,
      .max_queue = (uint32_t)c->limits_max_queue,
      .kv_memory_bytes = (uint64_t)c->engine_kv_memory_bytes,
      .memory_percent = (unsigned)c->device_memory_percent,
      .prefix_cache = c->engine_prefix_cache,
      .max_prefill_tokens = (uint32_t)c->engine_max_prefill_tokens,
      .priority_age_ns = TL_MS(c->engine_priority_age_ms),
      .trace = d->trace,
      .wake = on_wake,
      .wake_context = d,
      .progress = on_progress,
  };
  int r = tl_engine_new(&options, d->metrics, &d->engine, err);
  if (r == TL_OK) r = tl_model_check_files(d->model, err);
  if (r < 0) return r;
  tl_model_release_files(d->model);
  if (tl_engine_simulated(d->engine))
    TL_LOG(TL_LOG_WARN, "daemon", "simulated devices serve: their text means nothing",
           TL_U("simulated", tl_engine_simulated(d->engine)), TL_U("devices", c->devices.n));
  return TL_OK;
}

static enum tl_route_policy policy_of(const char *name) {
  if (strcmp(name, "round_robin") == 0) return TL_ROUTE_ROUND_ROBIN;
  return strcmp(name, "prefix") == 0 ? TL_ROUTE_PREFIX : TL_ROUTE_LEAST_LOAD;
}

static int make_route(struct daemon *d, struct tl_error *err) {
  const struct tl_config *c = d->config;
  struct tl_route_options options = {
      .policy = policy_of(c->route_policy),
      .max_tokens = c->limits_max_waiting_tokens,
      .max_total = c->limits_max_total_waiting_tokens,
      .max_seqs = c->limits_max_queue,
      .prefix_blocks = (unsigned)c->route_prefix_blocks,
      .prefix_factor = (double)c->route_prefix_load_percent / 100,
      .prefix_slack = c->engine_max_batch_tokens,
  };
  return tl_route_new(d->engine, &options, d->metrics, &d->route, err);
}

static int test_replicas(struct daemon *d, struct tl_error *err) {
  d->probes = probes_new(daemon_replicas(d->config), d->model->n_out);
  if (!d->probes) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  return probe_replicas(d->engine, d->model, (unsigned)d->config->http_threads, &d->probe_waker, d->probes, err);
}

/* Before anybody waits for the monitor's next look: the step under way is not used. */
static void on_gpu_failed(unsigned replica, void *context) {
  struct daemon *d = context;
  tl_engine_quarantine(d->engine, replica);
  tl_waker_notify(&d->probe_waker);
}

static int watch_gpus(struct daemon *d, struct tl_error *err) {
  unsigned n = 0;
  struct gpu_use *uses = calloc(d->config->devices.n, sizeof *uses);
  if (!uses) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (unsigned i = 0; i < d->config->devices.n; i++) {
    unsigned ranks = tl_engine_ranks(d->engine);
    const char *gpu = tl_engine_gpu(d->engine, i / ranks, i % ranks);
    if (*gpu) uses[n++] = (struct gpu_use){i / ranks, gpu};
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

static int start_monitor(struct daemon *d, struct tl_error *err) {
  const struct tl_config *c = d->config;
  struct monitor_options options = {
      .health = {.late_ns = TL_MS(c->health_late_ms),
                 .late_factor = c->health_late_factor,
                 .backoff_ns = TL_MS(c->health_backoff_ms),
                 .max_backoff_ns = TL_MS(c->health_max_backoff_ms),
                 .max_faults = (unsigned)c->health_max_faults,
                 .fault_window_ns = TL_MS(c->health_fault_window_ms)},
      .engine = d->engine,
      .route = d->route,
      .api = d->api,
      .gpus = d->gpus,
      .model = d->model,
      .probes = d->probes,
      .waker = &d->probe_waker,
      .loop = (unsigned)c->http_threads,
  };
  int r = monitor_new(&options, d->metrics, &d->monitor, err);
  return r < 0 ? r : monitor_start(d->monitor, err);
}

static int start_admin(struct daemon *d, struct tl_error *err) {
  const char *path = d->config->admin_unix;
  if (!*path) return TL_OK;
  struct tl_admin_options options = {.unix_path = path, .serving = &d->serving, .resume = monitor_resume, .context = d->monitor,
                                     .trace = d->trace};
  int r = tl_admin_start(&options, &d->admin, err);
  if (r == TL_OK) TL_LOG(TL_LOG_INFO, "admin", "listening", TL_S("unix", path));
  return r;
}

int daemon_boot(struct daemon *d, const struct tl_config *config, struct tl_error *err) {
  int64_t began_ns = tl_now_ns();
  *d = (struct daemon){.config = config};
  name_model(d);
  d->metrics = tl_metrics_new();
  int r = d->metrics ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (r == TL_OK) add_log_metrics(d->metrics);
  if (r == TL_OK) r = daemon_make_trace(d, err);
  if (r == TL_OK) r = make_http(d, err);
  if (r == TL_OK) r = make_api(d, err);
  if (r == TL_OK) r = start_http(d, err);
  if (r == TL_OK) r = load_files(d, err);
  if (r == TL_OK) r = make_engine(d, err);
  if (r == TL_OK) r = make_route(d, err);
  if (r == TL_OK) r = tl_engine_start(d->engine, err);
  if (r == TL_OK) r = test_replicas(d, err);
  if (r == TL_OK) r = watch_gpus(d, err);
  if (r == TL_OK) r = start_monitor(d, err);
  if (r < 0) return r;
  signals_ready(); /* before the first request: it would be lost by an exit at once */
  d->serving = (struct tl_serving){d->engine, d->route, d->model, d->tokenizer, d->chat};
  if (r == TL_OK) r = start_admin(d, err);
  if (r < 0) return r;
  tl_api_serve(d->api, &d->serving);
  TL_LOG(TL_LOG_INFO, "daemon", "ready", TL_S("model", d->model_name), TL_U("replicas", daemon_replicas(config)),
         TL_U("kv_blocks", tl_engine_blocks(d->engine, 0)), TL_U("context", tl_engine_max_context(d->engine)),
         TL_F("seconds", (double)(tl_now_ns() - began_ns) * 1e-9));
  return TL_OK;
}

void daemon_done(struct daemon *d) {
  tl_admin_stop(d->admin);
  monitor_stop(d->monitor);
  /* workers and lanes wake loops, so loops end last; what they still hand over is reaped */
  if (d->engine) tl_engine_stop(d->engine);
  if (d->api) tl_api_stop(d->api);
  if (d->http) tl_http_stop(d->http);
  if (d->api) tl_api_reap(d->api);
  tl_trace_stop(d->trace); /* all that puts spans has ended */
  gpu_watch_stop(d->gpus); /* its gauges are read until http stops; its threads mark until they end */
  monitor_free(d->monitor);
  tl_route_free(d->route);
  tl_engine_free(d->engine);
  free(d->probes);
  simulate_free(d->simulation);
  tl_api_free(d->api);
  tl_http_free(d->http);
  tl_chat_format_free(d->chat);
  tl_tokenizer_free(d->tokenizer);
  tl_model_free(d->model);
  tl_trace_free(d->trace);
  tl_metrics_free(d->metrics);
  progress_free(d->progress);
  free(d->inherited_fds);
}
