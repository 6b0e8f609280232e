/* SPDX-License-Identifier: MIT */
/* The meaning of a request: OpenAI's and Anthropic's endpoints over http, text, route and
 * engine. Registers its handlers in http and its drain function on each loop. */
#ifndef TOKENLANE_API_H
#define TOKENLANE_API_H

#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/adapter.h"
#include "tokenlane/engine.h"
#include "tokenlane/grammar.h"
#include "tokenlane/http.h"
#include "tokenlane/metrics.h"
#include "tokenlane/model.h"
#include "tokenlane/route.h"
#include "tokenlane/text.h"
#include "tokenlane/trace.h"

struct tl_api;

struct tl_api_limits {
  int64_t max_choices;      /* n */
  int64_t max_prompts;      /* prompts in one request */
  int64_t max_inputs;       /* texts or pairs in one request for embeddings or scores */
  int64_t max_total_tokens; /* prompts x n x max_tokens of one request */
  int64_t max_logprobs;     /* log-probabilities in one answer */
  int64_t max_logit_bias;   /* entries */
  int64_t max_stop_bytes;   /* of one stop string */
  int64_t default_timeout_ms; /* of requests that do not say; 0: max_timeout_ms */
  int64_t max_timeout_ms;     /* 0: no limit */
  struct tl_template_limits tmpl;
};

struct tl_api_model {
  const char *name;            /* served id */
  const char *const *aliases;  /* (n_aliases) further ids that mean it */
  unsigned n_aliases, n_replicas;
  const struct tl_adapter_source *adapters; /* (n_adapters) further ids, of the model with that adapter */
  unsigned n_adapters;
};

struct tl_api_options {
  struct tl_http *http;        /* borrowed, as all below */
  struct tl_metrics *metrics;
  unsigned n_loops;
  struct tl_trace *trace;      /* loop i uses its ring i; NULL: none */
  unsigned text_threads;       /* lanes that read large requests; 0: the loops do */
  const struct tl_api_model *models; /* (n_models) the first answers requests that name none */
  unsigned n_models;
  bool request_templates;      /* requests may bring a chat template of their own */
  struct tl_api_limits limits;
};

/* What serves the requests of one model, once it is loaded. All borrowed until tl_api_free. */
struct tl_serving {
  struct tl_engine *engine;
  struct tl_route *route;
  const struct tl_model *model;
  const struct tl_tokenizer *tokenizer;
  const struct tl_chat_format *chat; /* NULL: the model has no chat template */
  const char *tool_parser;           /* how it writes calls of tools: model.tool_parser */
  const char *reasoning_parser;      /* and what it thinks: model.reasoning_parser */
  const struct tl_vocabulary *vocabulary; /* of its output, for grammars; NULL: it generates nothing */
};

/* Registers handlers and metrics. Boot, before tl_http_start. Until
 * tl_api_serve the model's endpoints answer 503. */
int tl_api_new(const struct tl_api_options *options, struct tl_api **ret, struct tl_error *err);
/* From now on requests are served. serving (n_models), as the options' models, must stay as it is. Main thread. */
void tl_api_serve(struct tl_api *api, const struct tl_serving *serving);
/* From now on requests have to show one of the keys; n 0: none. What is open to all without: GET /health, /ready, /version,
 * /metrics. Main thread, before tl_http_start and at any time later. */
int tl_api_set_keys(struct tl_api *api, const char *const *keys, unsigned n, struct tl_error *err);
/* From now on new work gets 503, running work goes on. Any thread. */
void tl_api_drain(struct tl_api *api);
/* Requests whose sequences are not all finished. Any thread. */
unsigned tl_api_active(const struct tl_api *api);
/* What the engine has to call to wake a loop; context is the api. Any thread. */
void tl_api_wake(unsigned loop, void *api);
/* Sequences that lost their device and found no room elsewhere are tried again.
 * Now and then, by the monitor. */
void tl_api_retry(struct tl_api *api);
/* Ends the text lanes; what they have not read is given up by tl_api_reap. Before
 * tl_http_stop, since they wake its loops. Main thread. */
void tl_api_stop(struct tl_api *api);
/* Takes the final events that no loop has taken, and what came too late for
 * lanes and workers. After tl_engine_stop, tl_api_stop and tl_http_stop, main thread. */
void tl_api_reap(struct tl_api *api);
void tl_api_free(struct tl_api *api);

/* --- the operator's listener: GET /admin/replicas, POST /admin/replicas/ID/drain|resume,
 * GET /admin/log, POST /admin/log/MODULE?level=LEVEL, GET /admin/trace?seconds=N */
struct tl_admin;

struct tl_admin_options {
  const char *unix_path;  /* its file gets mode 0600 */
  const struct tl_api_model *models;  /* (n_models) borrowed, as all here */
  const struct tl_serving *serving;   /* (n_models) */
  unsigned n_models;
  /* A replica, by its number among those of all models, is to serve again, whatever its faults. On the listener's own thread. */
  void (*resume)(unsigned replica, void *context);
  void *context;
  struct tl_trace *trace; /* what makes the trace files */
};

int tl_admin_start(const struct tl_admin_options *options, struct tl_admin **ret, struct tl_error *err);
/* Closes its connections, ends its thread, frees it. Main thread. */
void tl_admin_stop(struct tl_admin *admin);

#endif
