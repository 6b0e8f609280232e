/* SPDX-License-Identifier: MIT */
/* What a client asks about the server: models, health, readiness, version, metrics. */
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"

static bool is_served(const struct tl_api_model *m, const char *id, size_t length) {
  if (strlen(id) != length) return false; /* a NUL in it */
  if (strcmp(id, m->name) == 0) return true;
  for (unsigned i = 0; i < m->n_aliases; i++)
    if (strcmp(id, m->aliases[i]) == 0) return true;
  return false;
}

/* The number + 1, 0: none. */
static unsigned adapter_of(const struct tl_api_model *m, const char *id, size_t length) {
  for (unsigned i = 0; i < m->n_adapters; i++)
    if (strlen(m->adapters[i].name) == length && memcmp(id, m->adapters[i].name, length) == 0) return i + 1;
  return 0;
}

static int find(const struct tl_api *api, const char *id, size_t length, unsigned *ret, unsigned *ret_adapter, struct tl_error *err) {
  for (unsigned i = 0; i < api->o.n_models; i++) {
    const struct tl_api_model *m = &api->o.models[i];
    *ret_adapter = adapter_of(m, id, length);
    if (!*ret_adapter && !is_served(m, id, length)) continue;
    *ret = i;
    return TL_OK;
  }
  char names[300];
  size_t n = 0;
  names[0] = 0;
  for (unsigned i = 0; i < api->o.n_models && n < sizeof names; i++)
    n += (size_t)snprintf(names + n, sizeof names - n, "%s'%.100s'", i ? ", " : "", api->o.models[i].name);
  return tl_error_set(err, TL_ENOTFOUND, "model", "model: no such model; this server serves %s", names);
}

int api_find_model(const struct tl_api *api, const json_t *model, unsigned *ret, unsigned *ret_adapter, struct tl_error *err) {
  char what[64];
  if (!json_is_string(model))
    return tl_error_set(err, TL_EINVAL, "model", "model: expected a string, got %s", api_value_text(model, what));
  return find(api, json_string_value(model), json_string_length(model), ret, ret_adapter, err);
}

static const char *task_of(const struct tl_model *model) {
  if (model->pooling == TL_POOL_NONE) return "generate";
  return !model->is_classifier ? "embed" : model->n_out == 1 ? "score" : "classify";
}

int api_check_task(const struct api_work *work, enum api_endpoint endpoint, struct tl_error *err) {
  const struct tl_model *model = work->serving->model;
  const char *name = work->api->o.models[work->model].name;
  if (model->pooling == TL_POOL_NONE) {
    if (endpoint & API_GENERATE) return TL_OK;
    return tl_error_set(err, TL_EUNSUPPORTED, "model", "model: '%s' generates text and makes no embeddings or scores; it serves /v1/chat/completions, /v1/responses and /v1/completions", name);
  }
  if (!model->is_classifier) {
    if (endpoint == API_EMBEDDINGS) return TL_OK;
    return tl_error_set(err, TL_EUNSUPPORTED, "model", "model: '%s' makes embeddings and nothing else; it serves /v1/embeddings", name);
  }
  if (model->n_out != 1)
    return tl_error_set(err, TL_EUNSUPPORTED, "model", "model: '%s' gives a text one of %u labels, for which there is no endpoint; scores need a model with one label", name, model->n_out);
  if (endpoint & API_PAIRS) return TL_OK;
  return tl_error_set(err, TL_EUNSUPPORTED, "model", "model: '%s' scores pairs of texts and does nothing else; it serves /v1/rerank and /v1/score", name);
}

const struct tl_serving *api_serving(struct tl_api *api, struct tl_error *err) {
  /* pairs with the release store in tl_api_serve: what it points to is complete */
  const struct tl_serving *serving = atomic_load_explicit(&api->serving, memory_order_acquire);
  /* relaxed: a flag alone; a request that slips past it is one that came just before */
  bool draining = atomic_load_explicit(&api->draining, memory_order_relaxed);
  if (serving && !draining) return serving;
  tl_error_set(err, TL_EBUSY, NULL, draining ? "the server is shutting down" : "the model is still loading");
  err->http_status = 503;
  return NULL;
}

static void on_health(struct tl_http_request *request, void *context) {
  (void)context;
  static const char body[] = "{\"status\":\"ok\"}";
  tl_http_respond(request, 200, "application/json", body, sizeof body - 1);
}

/* Ready is who can serve each of the models. */
static void check_ready(const struct tl_api *api, const struct tl_serving *serving, struct tl_error *err) {
  char names[300];
  size_t n = 0;
  struct tl_capacity capacity;
  for (unsigned i = 0; i < api->o.n_models; i++)
    if (!tl_route_capacity(serving[i].route, &capacity) && n < sizeof names)
      n += (size_t)snprintf(names + n, sizeof names - n, "%s'%.100s'", n ? ", " : "", api->o.models[i].name);
  if (!n) return;
  tl_error_set(err, TL_EBUSY, NULL, "no device is ready to serve %s", api->o.n_models > 1 ? names : "the model");
  err->http_status = 503;
}

static void on_ready(struct tl_http_request *request, void *context) {
  struct tl_error err = {0};
  const struct tl_serving *serving = api_serving(context, &err);
  if (serving) check_ready(context, serving, &err);
  if (err.code) {
    api_respond_error(request, &err, 1);
    return;
  }
  static const char body[] = "{\"status\":\"ready\"}";
  tl_http_respond(request, 200, "application/json", body, sizeof body - 1);
}

static void on_version(struct tl_http_request *request, void *context) {
  (void)context;
  static const char body[] = "{\"version\":\"" TL_VERSION "\"}";
  tl_http_respond(request, 200, "application/json", body, sizeof body - 1);
}

static void on_metrics(struct tl_http_request *request, void *context) {
  struct tl_api *api = context;
  struct tl_buffer body;
  tl_buffer_init(&body, 0);
  tl_metrics_expose(api->o.metrics, &body);
  tl_http_respond(request, body.failed ? 500 : 200, "text/plain; version=0.0.4; charset=utf-8", body.data, body.length);
  tl_buffer_done(&body);
}

/* As llama.cpp's server has it. Where only simulated devices serve, no weights were read. */
static void write_meta(const struct tl_model *model, struct tl_buffer *out) {
  tl_buffer_printf(out, ",\"meta\":{\"n_vocab\":%u,\"n_ctx_train\":%u,\"n_embd\":%u", model->vocab_size, model->max_context, model->dim);
  if (model->n_parameters)
    tl_buffer_printf(out, ",\"n_params\":%llu,\"size\":%llu", (unsigned long long)model->n_parameters, (unsigned long long)model->weight_bytes);
  tl_buffer_putc(out, '}');
}

/* id: the model's or an alias; with an adapter (its number + 1) that one's: as vLLM has it, `root` is where it lies, `parent` the model. */
static void write_model(const struct tl_api *api, const char *id, unsigned model, unsigned adapter, struct tl_buffer *out) {
  const struct tl_serving *serving = atomic_load_explicit(&api->serving, memory_order_acquire); /* as in api_serving */
  const char *name = api->o.models[model].name, *root = adapter ? api->o.models[model].adapters[adapter - 1].folder : name;
  tl_buffer_puts(out, "{\"id\":");
  api_json_string(out, id, strlen(id));
  tl_buffer_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"tokenlane\",\"root\":",
                   (long long)api->created_s);
  api_json_string(out, root, strlen(root));
  if (adapter) {
    tl_buffer_puts(out, ",\"parent\":");
    api_json_string(out, name, strlen(name));
  }
  if (serving) tl_buffer_printf(out, ",\"max_model_len\":%u,\"task\":\"%s\"", tl_engine_max_context(serving[model].engine), task_of(serving[model].model));
  if (serving && serving[model].model->n_out && !serving[model].model->is_classifier) tl_buffer_printf(out, ",\"dimensions\":%u", serving[model].model->n_out);
  if (serving && tl_engine_simulated(serving[model].engine)) tl_buffer_puts(out, ",\"simulated\":true");
  if (serving) write_meta(serving[model].model, out);
  tl_buffer_putc(out, '}');
}

static void on_models(struct tl_http_request *request, void *context) {
  struct tl_api *api = context;
  struct tl_buffer body;
  tl_buffer_init(&body, 0);
  tl_buffer_puts(&body, "{\"object\":\"list\",\"data\":[");
  for (unsigned i = 0; i < api->o.n_models; i++) {
    const struct tl_api_model *m = &api->o.models[i];
    if (i) tl_buffer_putc(&body, ',');
    write_model(api, m->name, i, 0, &body);
    for (unsigned k = 0; k < m->n_aliases; k++) {
      tl_buffer_putc(&body, ',');
      write_model(api, m->aliases[k], i, 0, &body);
    }
    for (unsigned k = 0; k < m->n_adapters; k++) {
      tl_buffer_putc(&body, ',');
      write_model(api, m->adapters[k].name, i, k + 1, &body);
    }
  }
  tl_buffer_puts(&body, "]}");
  api_respond_buffer(request, 200, &body);
}

static int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Undoes the %XX of a path into ret[size]; returns the length, which is cut to fit. */
static size_t decode_path(const char *path, char *ret, size_t size) {
  size_t n = 0;
  for (; *path && n + 1 < size; path++) {
    bool escape = *path == '%' && hex(path[1]) >= 0 && hex(path[2]) >= 0;
    ret[n++] = (char)(escape ? hex(path[1]) << 4 | hex(path[2]) : *path);
    if (escape) path += 2;
  }
  ret[n] = 0;
  return n;
}

/* GET /v1/models/{id}; OpenAI's clients write org/model as org%2Fmodel. */
static void on_model(struct tl_http_request *request, void *context) {
  struct tl_api *api = context;
  char id[512];
  size_t length = decode_path(tl_http_path(request) + strlen("/v1/models/"), id, sizeof id);
  unsigned model, adapter;
  struct tl_error err = {0};
  if (find(api, id, length, &model, &adapter, &err) < 0) {
    api_respond_error(request, &err, 0);
    return;
  }
  struct tl_buffer body;
  tl_buffer_init(&body, 0);
  write_model(api, id, model, adapter, &body);
  api_respond_buffer(request, 200, &body);
}

int api_register_models(struct tl_api *api, struct tl_error *err) {
  static const struct {
    const char *path;
    tl_http_handler handler;
  } routes[] = {{"/health", on_health}, {"/ready", on_ready},         {"/version", on_version},
                {"/metrics", on_metrics}, {"/v1/models", on_models}, {"/v1/models/*", on_model}};
  int r = TL_OK;
  for (size_t i = 0; i < sizeof routes / sizeof *routes && r == TL_OK; i++)
    r = tl_http_handle(api->o.http, "GET", routes[i].path, routes[i].handler, api);
  return r == TL_OK ? TL_OK : tl_error_set(err, r, NULL, "out of memory");
}
