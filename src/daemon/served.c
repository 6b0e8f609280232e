/* SPDX-License-Identifier: MIT */
#include "daemon/served.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/sharing.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

/* On error *ret may be a model as well. */
static int read_model(const struct tl_config *config, const struct tl_adapter_source *adapters, struct tl_model **ret, struct tl_error *err) {
  const char *path = config->model_path;
  int r = simulate_only(config) ? tl_model_load_config(path, ret, err) : tl_model_load(path, ret, err);
  if (r == TL_OK && strcmp(config->model_quantize, "none") != 0) r = tl_model_quantize(*ret, config->model_quantize, err);
  if (r == TL_OK && config->model_adapters.n) r = tl_model_add_adapters(*ret, adapters, config->model_adapters.n, err);
  return r;
}

/* *ret are NULL before; what was read is the caller's, after an error too. */
static int read_files(const struct tl_config *config, const struct tl_adapter_source *adapters, struct tl_model **ret_model, struct tl_model **ret_draft,
                      struct tl_tokenizer **ret_tokenizer, struct tl_chat_format **ret_chat, struct tl_error *err) {
  int r = read_model(config, adapters, ret_model, err);
  if (r == TL_OK) r = tl_tokenizer_load(config->model_path, ret_tokenizer, err);
  if (r == TL_OK) r = draft_read(config, *ret_tokenizer, ret_draft, err);
  return r == TL_OK ? tl_chat_format_load(config->model_path, ret_chat, err) : r;
}

static int check_model(const struct tl_config *config, struct tl_error *err) {
  static const char key[] = "model.path";
  struct tl_model *model = NULL, *draft = NULL;
  struct tl_tokenizer *tokenizer = NULL;
  struct tl_chat_format *chat = NULL;
  struct tl_adapter_source *adapters;
  int r = adapters_list(config, &adapters, err);
  if (r == TL_OK) r = read_files(config, adapters, &model, &draft, &tokenizer, &chat, err);
  tl_chat_format_free(chat);
  tl_tokenizer_free(tokenizer);
  tl_model_free(draft);
  tl_model_free(model);
  free(adapters);
  /* what is wrong with a file is told by the file's name */
  if (r < 0 && !*err->field) snprintf(err->field, sizeof err->field, "%s", key);
  if (r < 0 && strcmp(err->field, key) == 0 && strncmp(err->message, key, strlen(key)) != 0) tl_error_prefix(err, key);
  return r;
}

int served_check(const struct tl_config *config, struct tl_error *err) {
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < config->n_models; i++)
    if ((r = check_model(&config->models[i], err)) < 0) tl_config_name_model(config, i, err);
  return r;
}

static int load_files(struct served *s, struct tl_error *err) {
  int r = read_files(s->config, s->adapters, &s->model, &s->draft, &s->tokenizer, &s->chat, err);
  if (r < 0) return r;
  TL_LOG(TL_LOG_INFO, "model", "read", TL_S("model", s->name), TL_S("architecture", s->model->architecture),
         TL_U("parameters", s->model->n_parameters), TL_S("dtype", s->model->n_tensors ? tl_dtype_name(s->model->weight_dtype) : "none"),
         TL_U("context", s->model->max_context), TL_U("adapters", s->config->model_adapters.n), TL_S("chat_template", s->chat ? "yes" : "no"));
  if (s->draft)
    TL_LOG(TL_LOG_INFO, "model", "read a draft model", TL_S("model", s->name), TL_S("architecture", s->draft->architecture),
           TL_U("parameters", s->draft->n_parameters), TL_U("context", s->draft->max_context));
  return TL_OK;
}

/* What grammars know of the model's tokens. Special tokens are no text, nor is what would end the answer. */
static int make_vocabulary(struct served *s, struct tl_error *err) {
  if (s->model->pooling != TL_POOL_NONE) return TL_OK;
  int64_t began_ns = tl_now_ns();
  uint32_t n = s->model->vocab_size, known = (uint32_t)tl_tokenizer_size(s->tokenizer);
  struct tl_vocabulary_token *tokens = calloc(n, sizeof *tokens);
  if (!tokens) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (uint32_t i = 0; i < n && i < known; i++)
    if (!tl_tokenizer_is_special(s->tokenizer, (int32_t)i) &&
        !(tokens[i].bytes = tl_tokenizer_bytes(s->tokenizer, (int32_t)i, &tokens[i].length)))
      tokens[i].length = 0;
  for (uint32_t i = 0; i < s->model->n_eos; i++)
    if (s->model->eos[i] >= 0 && (uint32_t)s->model->eos[i] < n) tokens[s->model->eos[i]].length = 0;
  int r = tl_vocabulary_new(tokens, n, &s->vocabulary, err);
  free(tokens);
  if (r == TL_OK)
    TL_LOG(TL_LOG_DEBUG, "model", "vocabulary", TL_S("model", s->name), TL_U("tokens", n),
           TL_F("seconds", (double)(tl_now_ns() - began_ns) * 1e-9));
  return r;
}

/* The loop after http's is this thread, for the test generation, and then the monitor. */
static void on_wake(unsigned loop, void *context) {
  struct served *s = context;
  if (loop < (unsigned)s->config->http_threads)
    tl_api_wake(loop, s->daemon->api);
  else
    tl_waker_notify(&s->probe_waker);
}

static void on_progress(unsigned device, uint64_t done, uint64_t total, void *context) {
  progress_step(((struct served *)context)->progress, device, done, total);
}

static enum tl_isolation isolation_of(const struct tl_config *config) {
  if (strcmp(config->isolation, "process") == 0) return TL_ISOLATION_PROCESS;
  return strcmp(config->isolation, "thread") == 0 ? TL_ISOLATION_THREAD : TL_ISOLATION_AUTO;
}

static int make_engine(struct served *s, struct tl_error *err) {
  const struct tl_config *c = s->config;
  tl_waker_init(&s->probe_waker);
  s->progress = progress_new(c->devices.n);
  if (!s->progress) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  s->simulation = simulate_new(c, s->model, s->tokenizer, err);
  if (!s->simulation) return err->code;
  struct tl_engine_options options = {
      .model = s->model,
      .model_path = c->model_path,
      .draft_model = s->draft,
      .draft_path = c->model_draft,
      .isolation = isolation_of(c),
      .devices = (const char *const *)c->devices.items,
      .n_replicas = s->n_replicas,
      .first_replica = s->first_replica,
      .cpu_devices = s->cpu_devices,
      .first_cpu_device = s->first_cpu_device,
      .tensor_parallel = (unsigned)c->engine_tensor_parallel,
      .sim = simulate_options(s->simulation),
      .n_loops = (unsigned)c->http_threads + 1,
      .cpu_threads = (unsigned)c->cpu_threads,
      .cpu_pin = c->cpu_pin,
      .max_batch_size = (uint32_t)c->engine_max_batch_size,
      .max_batch_tokens = (uint32_t)c->engine_max_batch_tokens,
      .max_context = (uint32_t)c->engine_max_context,
      .max_queue = (uint32_t)c->limits_max_queue,
      .kv_memory_bytes = (uint64_t)c->engine_kv_memory_bytes,
      .kv_format = strcmp(c->engine_kv_dtype, "auto") == 0 ? TL_KV_AUTO : TL_KV_E4M3,
      .memory_percent = (unsigned)c->device_memory_percent,
      .cudnn = c->device_cudnn,
      .memory_shared = sharing_gpu(s->daemon->config, s->config),
      .prefix_cache = c->engine_prefix_cache,
      .max_prefill_tokens = (uint32_t)c->engine_max_prefill_tokens,
      .priority_age_ns = TL_MS(c->engine_priority_age_ms),
      .draft_tokens = c->engine_draft_tokens < 0 ? TL_DRAFT_TOKENS_AUTO : (uint32_t)c->engine_draft_tokens,
      .trace = s->daemon->trace,
      .wake = on_wake,
      .wake_context = s,
      .progress = on_progress,
  };
  int r = tl_engine_new(&options, s->daemon->metrics, &s->engine, err);
  if (r == TL_OK) r = tl_model_check_files(s->model, err);
  if (r == TL_OK && s->draft) r = tl_model_check_files(s->draft, err);
  if (r < 0) return r;
  tl_model_release_files(s->model);
  if (s->draft) tl_model_release_files(s->draft);
  if (tl_engine_simulated(s->engine))
    TL_LOG(TL_LOG_WARN, "daemon", "simulated devices serve: their text means nothing", TL_S("model", s->name),
           TL_U("simulated", tl_engine_simulated(s->engine)), TL_U("devices", c->devices.n));
  return TL_OK;
}

static enum tl_route_policy policy_of(const char *name) {
  if (strcmp(name, "round_robin") == 0) return TL_ROUTE_ROUND_ROBIN;
  return strcmp(name, "prefix") == 0 ? TL_ROUTE_PREFIX : TL_ROUTE_LEAST_LOAD;
}

static int make_route(struct served *s, struct tl_error *err) {
  const struct tl_config *c = s->config;
  struct tl_route_options options = {
      .policy = policy_of(c->route_policy),
      .max_tokens = c->limits_max_waiting_tokens,
      .max_total = c->limits_max_total_waiting_tokens,
      .max_seqs = c->limits_max_queue,
      .prefix_blocks = (unsigned)c->route_prefix_blocks,
      .prefix_factor = (double)c->route_prefix_load_percent / 100,
      .prefix_slack = c->engine_max_batch_tokens,
  };
  return tl_route_new(s->engine, &options, s->daemon->metrics, &s->route, err);
}

static int test_replicas(struct served *s, struct tl_error *err) {
  s->probes = probes_new(s->n_replicas, s->model->n_out);
  if (!s->probes) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  return probe_replicas(s->engine, s->model, (unsigned)s->config->http_threads, &s->probe_waker, s->probes, err);
}

int served_load(struct served *s, struct tl_error *err) {
  int r = load_files(s, err);
  if (r == TL_OK) r = make_vocabulary(s, err);
  tl_metrics_scope(s->daemon->metrics, "model", s->name);
  if (r == TL_OK) r = make_engine(s, err);
  if (r == TL_OK) r = make_route(s, err);
  if (r == TL_OK) adapters_metrics(s->daemon->metrics, s->adapters, s->config->model_adapters.n);
  tl_metrics_scope(s->daemon->metrics, NULL, NULL);
  if (r == TL_OK) r = tl_engine_start(s->engine, err);
  return r == TL_OK ? test_replicas(s, err) : r;
}

static int make_monitor(struct served *s, struct tl_error *err) {
  const struct tl_config *c = s->config;
  struct monitor_options options = {
      .health = {.late_ns = TL_MS(c->health_late_ms),
                 .late_factor = c->health_late_factor,
                 .backoff_ns = TL_MS(c->health_backoff_ms),
                 .max_backoff_ns = TL_MS(c->health_max_backoff_ms),
                 .max_faults = (unsigned)c->health_max_faults,
                 .fault_window_ns = TL_MS(c->health_fault_window_ms)},
      .name = s->name,
      .engine = s->engine,
      .route = s->route,
      .api = s->daemon->api,
      .gpus = s->daemon->gpus,
      .model = s->model,
      .probes = s->probes,
      .waker = &s->probe_waker,
      .loop = (unsigned)c->http_threads,
  };
  return monitor_new(&options, s->daemon->metrics, &s->monitor, err);
}

int served_watch(struct served *s, struct tl_error *err) {
  tl_metrics_scope(s->daemon->metrics, "model", s->name);
  int r = make_monitor(s, err);
  tl_metrics_scope(s->daemon->metrics, NULL, NULL);
  return r < 0 ? r : monitor_start(s->monitor, err);
}

void served_stop(struct served *s) {
  monitor_stop(s->monitor);
  if (s->engine) tl_engine_stop(s->engine);
}

void served_done(struct served *s) {
  monitor_free(s->monitor);
  tl_route_free(s->route);
  tl_engine_free(s->engine);
  free(s->probes);
  simulate_free(s->simulation);
  tl_vocabulary_free(s->vocabulary);
  tl_chat_format_free(s->chat);
  tl_tokenizer_free(s->tokenizer);
  tl_model_free(s->draft);
  tl_model_free(s->model);
  progress_free(s->progress);
  free(s->adapters);
}
