/* SPDX-License-Identifier: MIT */
/* Joins http below with engine and route below: registration, readiness, drain. */
#include "tokenlane/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/cpu.h"
#include "tokenlane/base/hash.h"
#include "tokenlane/log.h"

static void on_wake(unsigned loop, void *context) {
  struct tl_api *api = context;
  if (api->lanes) tl_text_lanes_drain(api->lanes, loop, api_work_done);
  /* pairs with tl_api_serve; events come only from an engine that serves */
  const struct tl_serving *serving = atomic_load_explicit(&api->serving, memory_order_acquire);
  if (!serving) return;
  for (unsigned i = 0; i < api->o.n_models; i++) tl_engine_drain(serving[i].engine, loop, api_on_event, api);
  if (api->loops[loop].stranded) api_retry_stranded(api, loop);
  if (api->loops[loop].waiting) api_vectors_retry(api, loop);
}

void tl_api_wake(unsigned loop, void *api) {
  tl_http_wake(((struct tl_api *)api)->o.http, loop);
}

/* 1 ms to 60 s, for times that a person waits. */
static const double second_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                       0.5,   1,      2.5,   5,    10,    30,   60};

static tl_metric seconds(struct tl_api *api, const char *name, const char *help, const char *labels) {
  return tl_metrics_histogram(api->o.metrics, name, help, labels, second_bounds,
                              sizeof second_bounds / sizeof *second_bounds, 1e-9);
}

static void add_model_metrics(struct tl_api *api, const struct tl_api_model *model, unsigned first, tl_metric *adapters) {
  tl_metrics_scope(api->o.metrics, "model", model->name);
  for (unsigned i = first; i < first + model->n_replicas; i++) {
    char labels[32];
    snprintf(labels, sizeof labels, "replica=\"%u\"", i);
    api->ttft[i] = seconds(api, "tokenlane_time_to_first_token_seconds",
                           "From the submission of a sequence to its first token at the loop.", labels);
    api->inter_token[i] =
        seconds(api, "tokenlane_time_between_tokens_seconds", "Between two tokens of a sequence at the loop.", labels);
  }
  for (unsigned i = 0; i < model->n_adapters; i++) {
    char label[512]; /* of a name of up to 200 bytes */
    tl_metrics_label(label, sizeof label, "adapter", model->adapters[i].name);
    adapters[i] = tl_metrics_counter(api->o.metrics, "tokenlane_adapter_requests_total", "Requests that were admitted, by their LoRA adapter.", label);
  }
  tl_metrics_scope(api->o.metrics, NULL, NULL);
}

static int add_metrics(struct tl_api *api) {
  unsigned n = 0, n_adapters = 0;
  for (unsigned i = 0; i < api->o.n_models; i++) n += api->o.models[i].n_replicas, n_adapters += api->o.models[i].n_adapters;
  api->ttft = calloc(n ? n : 1, sizeof *api->ttft);
  api->inter_token = calloc(n ? n : 1, sizeof *api->inter_token);
  api->adapters = calloc(n_adapters ? n_adapters : 1, sizeof *api->adapters);
  if (!api->ttft || !api->inter_token || !api->adapters) return TL_ENOMEM;
  tl_metric *adapters = api->adapters;
  for (unsigned i = 0, first = 0; i < api->o.n_models; first += api->o.models[i++].n_replicas) {
    add_model_metrics(api, &api->o.models[i], first, adapters);
    adapters += api->o.models[i].n_adapters;
  }
  api->generation_seconds =
      seconds(api, "tokenlane_generation_seconds", "Whole time of generation requests that were answered.", NULL);
  api->cancelled = tl_metrics_counter(api->o.metrics, "tokenlane_cancelled_requests_total",
                                      "Generation requests whose client went before the answer ended.", NULL);
  api->resubmitted = tl_metrics_counter(api->o.metrics, "tokenlane_resubmitted_sequences_total",
                                        "Sequences that went on elsewhere when their device failed.", NULL);
  api->pooling_seconds = seconds(api, "tokenlane_pooling_seconds",
                                 "Whole time of requests for embeddings and scores that were answered.", NULL);
  api->pooled_inputs = tl_metrics_counter(api->o.metrics, "tokenlane_pooled_inputs_total",
                                          "Texts and pairs in answered requests for embeddings and scores.", NULL);
  api_constrain_metrics(api);
  return TL_OK;
}

void api_count_adapter(const struct tl_api *api, unsigned loop, unsigned model, unsigned adapter) {
  const tl_metric *of_model = api->adapters;
  if (adapter == 0) return;
  for (unsigned i = 0; i < model; i++) of_model += api->o.models[i].n_adapters;
  tl_metrics_add(tl_http_shard(api->o.http, loop), of_model[adapter - 1], 1);
}

/* For each thread that compiles grammars: the lanes, or the loops if there are none. */
static int make_caches(struct tl_api *api) {
  unsigned n = api->o.text_threads ? api->o.text_threads : api->o.n_loops;
  api->caches = calloc(n, sizeof *api->caches);
  for (; api->caches && api->n_caches < n; api->n_caches++)
    if (!(api->caches[api->n_caches] = api_grammar_cache_new())) return TL_ENOMEM;
  return api->caches ? TL_OK : TL_ENOMEM;
}

/* Their grammars know the models' vocabularies, which go before the api does. */
static void free_caches(struct tl_api *api) {
  while (api->n_caches) api_grammar_cache_free(api->caches[--api->n_caches]);
  free(TL_TAKE(&api->caches));
}

int tl_api_new(const struct tl_api_options *options, struct tl_api **ret, struct tl_error *err) {
  struct tl_api *api = aligned_alloc(TL_CACHE_LINE, sizeof *api);
  if (!api) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *api = (struct tl_api){.o = *options, .created_s = tl_wall_ns() / TL_SEC(1)};
  api->key[0] = tl_random_seed();
  api->key[1] = tl_random_seed();
  for (int i = 0; i < 4; i++) api->key_words[i] = tl_random_seed();
  api->loops = aligned_alloc(TL_CACHE_LINE, options->n_loops * sizeof *api->loops);
  api->fingerprints = calloc(options->n_models, sizeof *api->fingerprints);
  api->tools = calloc(options->n_models, sizeof *api->tools);
  api->reasoning = calloc(options->n_models, sizeof *api->reasoning);
  int r = api->loops && api->fingerprints && api->tools && api->reasoning ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (unsigned i = 0; r == TL_OK && i < options->n_loops; i++) api->loops[i] = (struct api_loop){0};
  if (r == TL_OK && make_caches(api) < 0) r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (r == TL_OK && add_metrics(api) < 0) r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  tl_http_error_body(options->http, api_http_error);
  tl_http_guard(options->http, api_guard, api);
  tl_http_on_wake(options->http, on_wake, api);
  if (r == TL_OK && options->text_threads)
    r = tl_text_lanes_new(options->text_threads, options->n_loops, tl_api_wake, api, &api->lanes, err);
  if (r == TL_OK) r = api_register_models(api, err);
  if (r == TL_OK) r = api_register_tokenize(api, err);
  if (r == TL_OK) r = api_register_completions(api, err);
  if (r == TL_OK) r = api_register_chat(api, err);
  if (r == TL_OK) r = api_register_messages(api, err);
  if (r == TL_OK) r = api_register_responses(api, err);
  if (r == TL_OK) r = api_register_vectors(api, err);
  if (r < 0)
    tl_api_free(api);
  else
    *ret = api;
  return r;
}

/* What may change the tokens of a seeded request: model, instructions, version. */
static void make_fingerprint(const char *name, const struct tl_model *model, enum tl_dtype kv_dtype, char *ret) {
  const uint64_t parts[] = {model->dim,       model->n_layers,     model->n_heads,      model->n_kv_heads,
                            model->ffn_dim,   model->vocab_size,   (uint64_t)kv_dtype,     model->n_parameters,
                            model->weight_bytes, (uint64_t)tl_cpu_best_isa()};
  uint64_t hash = tl_hash_bytes(TL_VERSION, sizeof TL_VERSION - 1, 0, 0) ^
                  tl_hash_bytes(name, strlen(name), 0, 0);
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) hash = tl_hash_u64(hash ^ parts[i]);
  snprintf(ret, API_FINGERPRINT_BYTES, "fp_%010llx", (unsigned long long)hash >> 24);
}

static void find_formats(const char *name, const struct tl_serving *serving, struct api_tools *tools, struct api_reasoning *reasoning) {
  api_tools_init(tools, serving->tool_parser, serving->chat, serving->tokenizer);
  api_reasoning_init(reasoning, serving->reasoning_parser, serving->chat, serving->tokenizer, tools);
  if (!serving->chat) return;
  TL_LOG(TL_LOG_INFO, "api", "calls of tools", TL_S("model", name), TL_S("format", tools->format ? tools->format->name : "none"));
  TL_LOG(TL_LOG_INFO, "api", "reasoning", TL_S("model", name), TL_S("format", reasoning->format ? reasoning->format->name : "none"));
}

void tl_api_serve(struct tl_api *api, const struct tl_serving *serving) {
  for (unsigned i = 0; i < api->o.n_models; i++) {
    make_fingerprint(api->o.models[i].name, serving[i].model, tl_engine_kv_dtype(serving[i].engine), api->fingerprints[i]);
    find_formats(api->o.models[i].name, &serving[i], &api->tools[i], &api->reasoning[i]);
  }
  /* publishes *serving; pairs with the acquire loads of the loops */
  atomic_store_explicit(&api->serving, serving, memory_order_release);
}

void tl_api_drain(struct tl_api *api) {
  atomic_store_explicit(&api->draining, 1, memory_order_relaxed); /* see api_serving */
}

unsigned tl_api_active(const struct tl_api *api) {
  return atomic_load_explicit(&api->active, memory_order_relaxed); /* a count alone */
}

void tl_api_retry(struct tl_api *api) {
  /* relaxed: a hint; the monitor comes by again soon */
  if (atomic_load_explicit(&api->n_stranded, memory_order_relaxed) == 0) return;
  for (unsigned i = 0; i < api->o.n_loops; i++) tl_http_wake(api->o.http, i);
}

void tl_api_stop(struct tl_api *api) {
  if (api->lanes) tl_text_lanes_stop(api->lanes);
}

void tl_api_reap(struct tl_api *api) {
  const struct tl_serving *serving = atomic_load_explicit(&api->serving, memory_order_acquire); /* as in on_wake */
  if (api->lanes) tl_text_lanes_reap(api->lanes, api_work_done);
  /* the monitor's loop is behind ours, and its test generations are no calls */
  for (unsigned i = 0; serving && i < api->o.n_models; i++) tl_engine_reap(serving[i].engine, api->o.n_loops, api_on_event, api);
  free_caches(api);
}

void tl_api_free(struct tl_api *api) {
  if (!api) return;
  if (api->lanes) tl_text_lanes_stop(api->lanes);
  tl_text_lanes_free(api->lanes);
  free_caches(api);
  api_keys_free(api);
  free(api->loops);
  free(api->fingerprints);
  free(api->tools);
  free(api->reasoning);
  free(api->ttft);
  free(api->inter_token);
  free(api->adapters);
  free(api);
}
