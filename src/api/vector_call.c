/* SPDX-License-Identifier: MIT */
/* The life of a call to a model that pools. Unlike a generation it is not admitted as a whole: the first input must find
 * room, the others follow as those before them end, at most `window` at a time, so that a request of
 * thousands leaves room for others. An input whose device failed is submitted again elsewhere. A call that has inputs for
 * which there is no room stands in its loop's list and tries again with each wake-up. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/vectors.h"
#include "tokenlane/base/clock.h"

#define GOOD_WINDOW 64 /* fills a device's batches */

static void free_call(struct api_vectors *call) {
  json_decref(call->body);
  tl_buffer_done(&call->out);
  tl_arena_done(&call->arena);
  free(call);
}

/* Whoever ends a call that is answered or gone; it lives until its last sequence is final. */
static void free_if_over(struct api_vectors *call) {
  if (call->request || call->n_live > 0) return;
  atomic_fetch_sub_explicit(&call->api->active, 1, memory_order_relaxed); /* as in request.c: a count alone */
  free_call(call);
}

/* --- the list of those that wait ------------------------------------------------------------- */

static void wait_for_room(struct api_vectors *call) {
  if (call->waits) return;
  struct api_vectors **end = &call->api->loops[call->loop].waiting;
  while (*end) end = &(*end)->next_waiting;
  *end = call;
  call->waits = true;
  call->next_waiting = NULL;
  call->waits_since_ns = tl_now_ns();
  atomic_fetch_add_explicit(&call->api->n_stranded, 1, memory_order_relaxed); /* see tl_api_retry */
}

static void wait_no_more(struct api_vectors *call) {
  if (!call->waits) return;
  struct api_vectors **at = &call->api->loops[call->loop].waiting;
  while (*at != call) at = &(*at)->next_waiting;
  *at = call->next_waiting;
  call->waits = false;
  atomic_fetch_sub_explicit(&call->api->n_stranded, 1, memory_order_relaxed); /* see tl_api_retry */
}

/* --- the end ------------------------------------------------------------------------------------ */

static void say_facts(struct api_vectors *call, struct tl_http_request *request) {
  struct tl_trace_facts *facts = call->trace.recorded ? tl_http_trace_facts(request) : NULL;
  if (!facts) return;
  facts->operation = call->kind->operation;
  facts->model = call->api->o.models[call->work.model].name;
  snprintf(facts->response_id, sizeof facts->response_id, "%s", call->id);
  if (!call->n_inputs) return;
  facts->n_choices = call->n_inputs;
  facts->n_input = (int64_t)call->n_tokens;
  if (call->n_begun) facts->replica = tl_engine_first_replica(call->work.serving->engine) + call->inputs[0].room.replica;
}

static void cancel(struct api_vectors *call) {
  wait_no_more(call);
  /* relaxed: the worker polls it once a step; it publishes nothing else */
  for (unsigned i = 0; i < call->n_begun; i++)
    if (call->inputs[i].runs) atomic_store_explicit(&call->inputs[i].seq->cancel, 1, memory_order_relaxed);
}

static void fail(struct api_vectors *call, const struct tl_error *err, unsigned retry_after_s) {
  cancel(call);
  struct tl_http_request *request = TL_TAKE(&call->request);
  say_facts(call, request);
  api_respond_error(request, err, retry_after_s);
}

static void finish(struct api_vectors *call) {
  struct tl_metrics_shard *shard = tl_http_shard(call->api->o.http, call->loop);
  tl_metrics_observe(shard, call->api->pooling_seconds, tl_now_ns() - tl_http_began_ns(call->request));
  tl_metrics_add(shard, call->api->pooled_inputs, call->n_inputs);
  say_facts(call, call->request);
  call->kind->close(call);
  api_respond_buffer(TL_TAKE(&call->request), 200, &call->out);
}

/* --- inputs to sequences ------------------------------------------------------------------------ */

static int make_sequence(struct api_vectors *call, struct api_input *input, struct tl_error *err) {
  struct tl_sequence *seq = tl_arena_alloc(&call->arena, sizeof *seq);
  float *vector = tl_arena_array(&call->arena, call->work.serving->model->n_out, sizeof *vector);
  if (!seq || !vector) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *seq = (struct tl_sequence){.n_prompt = input->n,
                              .tokens = input->ids,
                              .token_types = input->types,
                              .vector = vector,
                              .loop = call->loop,
                              .priority = call->params.priority,
                              .deadline_ns = call->deadline_ns,
                              .adapter = call->params.adapter,
                              .owner = input,
                              .choice = (uint32_t)(input - call->inputs)};
  if (call->trace.recorded) seq->trace = &call->trace;
  input->seq = seq;
  return TL_OK;
}

/* TL_EBUSY: nobody takes it now. */
static int submit(struct api_vectors *call, struct api_input *input, bool again, struct tl_error *err) {
  struct tl_api *api = call->api;
  const struct tl_serving *serving = call->work.serving;
  struct tl_metrics_shard *shard = tl_http_shard(api->o.http, call->loop);
  struct tl_route_ask ask = {.tokens = input->n, .n_seqs = 1, .prompt = input->ids, .n_prompt = input->n, .moved = again};
  /* without a shard: what is tried again and again is not counted as refused */
  bool first = call->n_begun == 0;
  int64_t began_ns = first && call->trace.recorded ? tl_now_ns() : 0;
  int r = tl_route_reserve(serving->route, &ask, first ? shard : NULL, &input->room, &call->retry_after_s, err);
  if (began_ns) api_span_routed(&call->work, call->loop, &call->trace, began_ns, r == TL_OK ? &input->room : NULL);
  if (r < 0) return r;
  if (!input->seq && (r = make_sequence(call, input, err)) < 0) {
    tl_route_release(serving->route, &input->room);
    return r;
  }
  if (again) tl_metrics_add(shard, api->resubmitted, 1);
  input->seq->finish = TL_FINISH_NONE;
  input->seq->replica = input->room.replica;
  input->seq->submitted_ns = tl_now_ns();
  input->runs = true;
  call->n_live++;
  tl_engine_submit(serving->engine, input->seq->replica, input->seq);
  return TL_OK;
}

/* Submits what finds room. TL_EBUSY: an input did not; it is the next one again. */
static int pump(struct api_vectors *call, struct tl_error *err) {
  while (call->n_live < call->window && (call->again || call->n_begun < call->n_inputs)) {
    bool again = call->again != NULL;
    struct api_input *input = again ? call->again : &call->inputs[call->n_begun];
    int r = submit(call, input, again, err);
    if (r < 0) return r;
    if (again)
      call->again = input->next_again;
    else
      call->n_begun++;
  }
  return TL_OK;
}

static int expired(const struct api_vectors *call, struct tl_error *err) {
  tl_error_set(err, TL_EBUSY, "timeout_ms", "the request did not end within its %lld ms", (long long)call->params.timeout_ms);
  err->http_status = 504;
  return TL_EBUSY;
}

/* Some inputs found no room. Whether the call has waited in vain for too long. */
static bool gives_up(struct api_vectors *call, struct tl_error *err) {
  int64_t now_ns = tl_now_ns();
  wait_for_room(call);
  if (call->deadline_ns && now_ns >= call->deadline_ns) return expired(call, err);
  if (call->n_live > 0) call->waits_since_ns = now_ns; /* it is served: that is no standing still */
  if (now_ns - call->waits_since_ns <= API_PATIENCE) return false;
  tl_error_set(err, TL_EBUSY, NULL, "no device is ready to serve; try again later");
  err->http_status = 503;
  return true;
}

/* Goes on after news of its own, or of somebody else's room. */
static void go_on(struct api_vectors *call) {
  struct tl_error err = {0};
  int r = pump(call, &err);
  if (r == TL_OK)
    wait_no_more(call);
  else if (r != TL_EBUSY || gives_up(call, &err))
    fail(call, &err, 0);
}

void api_vectors_retry(struct tl_api *api, unsigned loop) {
  struct api_vectors *next;
  for (struct api_vectors *call = api->loops[loop].waiting; call; call = next) {
    next = call->next_waiting;
    go_on(call);
    free_if_over(call);
  }
}

/* --- events ---------------------------------------------------------------------------------------- */

/* How the call fails by this sequence; false: it does not. */
static bool failed(const struct api_vectors *call, const struct tl_sequence *seq, struct tl_error *err) {
  switch (seq->finish) {
    case TL_FINISH_LENGTH: return false;
    case TL_FINISH_EXPIRED: return expired(call, err);
    case TL_FINISH_CANCELLED:
      tl_error_set(err, TL_EBUSY, NULL, "the server is shutting down");
      err->http_status = 503;
      return true;
    default: tl_error_set(err, TL_EDEVICE, NULL, "the device that served this request failed"); return true;
  }
}

/* The answer grows by what is there, in the order of the inputs. */
static void take_ready(struct api_vectors *call) {
  for (; call->n_taken < call->n_inputs && call->inputs[call->n_taken].done; call->n_taken++)
    call->kind->take(call, &call->inputs[call->n_taken]);
}

void api_vectors_event(struct tl_sequence *seq) {
  struct api_input *input = seq->owner;
  struct api_vectors *call = input->call;
  struct tl_error err = {0};
  tl_route_release(call->work.serving->route, &input->room);
  input->runs = false;
  call->n_live--;
  if (!call->request) {
    free_if_over(call);
    return;
  }
  if (seq->finish == TL_FINISH_FAULT && seq->n_faults < API_MOST_FAULTS) {
    input->next_again = call->again;
    call->again = input;
  } else if (failed(call, seq, &err)) {
    api_log_failed_request(&call->work, call->request, &call->trace, &err);
    fail(call, &err, 0);
  } else {
    input->done = true;
    take_ready(call);
  }
  if (call->request && call->n_taken == call->n_inputs)
    finish(call);
  else if (call->request)
    go_on(call);
  free_if_over(call);
}

static void on_abort(struct tl_http_request *request) {
  struct api_vectors *call = tl_http_data(request);
  call->request = NULL;
  say_facts(call, request);
  tl_metrics_add(tl_http_shard(call->api->o.http, call->loop), call->api->cancelled, 1);
  cancel(call);
  free_if_over(call);
}

/* --- the beginning ------------------------------------------------------------------------------------ */

/* Before a text costs anything: is there room for one token? */
static int look_for_room(struct api_vectors *call, struct tl_error *err) {
  const struct tl_route_ask least = {.tokens = 1, .n_seqs = 1};
  return tl_route_look(call->work.serving->route, &least, tl_http_shard(call->api->o.http, call->loop), &call->retry_after_s, err);
}

/* What is needed of the body is in the arena. */
static int settle(struct api_vectors *call, struct tl_error *err) {
  struct api_params *p = &call->params;
  if (p->model) p->model = tl_arena_copy(&call->arena, p->model, strlen(p->model));
  p->input = p->query = p->documents = p->text_1 = p->text_2 = NULL;
  bool fine = p->model || !json_object_get(call->body, "model") || json_is_null(json_object_get(call->body, "model"));
  json_decref(TL_TAKE(&call->body));
  return fine ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}

static int read_call(struct api_work *work, struct tl_error *err) {
  struct api_vectors *call = (struct api_vectors *)work;
  bool recorded = call->trace.recorded;
  if (recorded) call->read_times.began_ns = tl_now_ns();
  int r = api_body_read(work->text, work->length, &call->body, err);
  if (r == TL_OK && api_work_left(work)) r = TL_ECLOSED;
  if (r == TL_OK) r = api_fields_read(work->api, call->kind->endpoint, call->body, &call->arena, &call->params, err);
  if (r == TL_OK) api_work_choose(work, call->params.served);
  if (r == TL_OK) r = api_check_task(work, call->kind->endpoint, err);
  /* the router's counters are the loop's: before a lane it has looked already */
  if (r == TL_OK && !work->on_lane) r = look_for_room(call, err);
  if (recorded && r == TL_OK) call->read_times.tokenizing_ns = tl_now_ns();
  if (r == TL_OK) r = call->kind->read(call, err);
  if (r == TL_OK) r = settle(call, err);
  if (recorded) call->read_times.ended_ns = tl_now_ns();
  return r;
}

/* A quarter of all places, or what fills batches, but never more than half: others find room beside one request, however large
 * it is, and a queue that is shorter than it is fed in parts. */
static unsigned window_of(const struct api_vectors *call) {
  struct tl_capacity most = {0};
  tl_route_capacity(call->work.serving->route, &most);
  int64_t window = most.seqs / 4 > GOOD_WINDOW ? most.seqs / 4 : GOOD_WINDOW;
  if (window > most.seqs / 2) window = most.seqs / 2;
  return window > 1 ? (unsigned)window : 1;
}

/* On the loop, with all tokens. An error: nothing runs, and the caller answers. */
static int start(struct api_vectors *call, struct tl_error *err) {
  call->window = window_of(call);
  if (call->params.timeout_ms) call->deadline_ns = tl_http_began_ns(call->request) + TL_MS(call->params.timeout_ms);
  int r = pump(call, err);
  if (r < 0 && call->n_live == 0) return r;
  tl_http_set_data(call->request, call);
  tl_http_on_abort(call->request, on_abort);
  atomic_fetch_add_explicit(&call->api->active, 1, memory_order_relaxed); /* see free_if_over */
  api_count_adapter(call->api, call->loop, call->work.model, call->params.adapter);
  if (r == TL_EBUSY)
    wait_for_room(call);
  else if (r < 0)
    fail(call, err, 0);
  return TL_OK;
}

static void begin_call(struct api_work *work) {
  struct api_vectors *call = (struct api_vectors *)work;
  call->request = TL_TAKE(&work->request);
  api_spans_of_reading(call->api, call->loop, &call->trace, work, &call->read_times, (int64_t)call->n_tokens);
  int r = call->request ? work->err.code : TL_ECLOSED;
  if (r == TL_OK) r = start(call, &work->err);
  if (r == TL_OK) return;
  if (call->request) {
    say_facts(call, call->request);
    api_respond_error(call->request, &work->err, call->retry_after_s);
  }
  free_call(call);
}

static void run(struct tl_api *api, struct tl_http_request *request, const struct api_vector_kind *kind) {
  if (!api_may_read(api, request, false)) return;
  struct api_vectors *call = calloc(1, sizeof *call);
  if (!call) {
    struct tl_error err = {0};
    tl_error_set(&err, TL_ENOMEM, NULL, "out of memory");
    api_respond_error(request, &err, 0);
    return;
  }
  const struct tl_trace_context *context = tl_http_trace(request);
  if (context) call->trace = *context;
  call->api = api;
  call->kind = kind;
  call->loop = tl_http_loop(request);
  call->created_s = tl_wall_ns() / TL_SEC(1);
  tl_arena_init(&call->arena, API_ARENA_LIMIT);
  tl_buffer_init(&call->out, 0);
  api_make_id(api, call->loop, kind->id_prefix, call->id);
  call->work.read = read_call;
  call->work.finish = begin_call;
  if (!api_work_run(&call->work, api, request)) free_call(call);
}

static void on_embeddings(struct tl_http_request *request, void *context) {
  static const struct api_vector_kind kind = {API_EMBEDDINGS, "embd-", "embeddings", api_read_embeddings, api_take_embedding, api_close_embeddings};
  run(context, request, &kind);
}

static void on_rerank(struct tl_http_request *request, void *context) {
  static const struct api_vector_kind kind = {API_RERANK, "rerank-", "rerank", api_read_rerank, api_take_score, api_close_rerank};
  run(context, request, &kind);
}

static void on_score(struct tl_http_request *request, void *context) {
  static const struct api_vector_kind kind = {API_SCORE, "score-", "score", api_read_score, api_take_score, api_close_scores};
  run(context, request, &kind);
}

int api_register_vectors(struct tl_api *api, struct tl_error *err) {
  static const struct {
    const char *path;
    tl_http_handler handler;
  } routes[] = {{"/v1/embeddings", on_embeddings}, {"/v1/rerank", on_rerank}, {"/v2/rerank", on_rerank},
                {"/rerank", on_rerank},            {"/v1/score", on_score},   {"/score", on_score}};
  int r = TL_OK;
  for (size_t i = 0; i < sizeof routes / sizeof *routes && r == TL_OK; i++)
    r = tl_http_handle(api->o.http, "POST", routes[i].path, routes[i].handler, api);
  return r == TL_OK ? TL_OK : tl_error_set(err, r, NULL, "out of memory");
}
