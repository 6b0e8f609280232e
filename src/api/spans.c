/* SPDX-License-Identifier: MIT */
/* What the API adds to a request's trace: how long reading, tokenizing, routing and
 * making text took, and what the root span says of the request. The loop's thread puts them
 * all; what a text lane did is timed there and put here. */
#include <stdio.h>

#include "api/api_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

void api_spans_begin(struct api_call *call, struct tl_http_request *request) {
  const struct tl_trace_context *context = tl_http_trace(request);
  if (context) call->trace = *context;
}

int64_t api_span_now(const struct api_call *call) {
  return call->trace.recorded ? tl_now_ns() : 0;
}

static void put(const struct api_call *call, const struct tl_trace_span *span) {
  tl_trace_put(call->api->o.trace, call->loop, span);
}

void api_spans_of_reading(struct tl_api *api, unsigned loop, const struct tl_trace_context *trace, const struct api_work *work,
                          const struct api_read_times *t, int64_t n_tokens) {
  if (!trace->recorded || !t->began_ns) return;
  const char *error = work->err.code ? "invalid_request" : NULL;
  struct tl_trace_span parse = tl_trace_span_of(trace, TL_SPAN_PARSE, t->began_ns, t->tokenizing_ns ? t->tokenizing_ns : t->ended_ns);
  parse.value[0] = (int64_t)work->length;
  parse.on_thread = !work->on_lane;
  if (!t->tokenizing_ns) parse.error = error;
  tl_trace_put(api->o.trace, loop, &parse);
  if (!t->tokenizing_ns) return;
  struct tl_trace_span tokenize = tl_trace_span_of(trace, TL_SPAN_TOKENIZE, t->tokenizing_ns, t->ended_ns);
  tokenize.value[0] = n_tokens;
  tokenize.on_thread = !work->on_lane;
  tokenize.error = error;
  tl_trace_put(api->o.trace, loop, &tokenize);
}

void api_spans_read(const struct api_call *call) {
  int64_t n_tokens = 0;
  for (unsigned i = 0; i < call->n_prompts; i++) n_tokens += call->prompts[i].n;
  api_spans_of_reading(call->api, call->loop, &call->trace, &call->work, &call->read_times, n_tokens);
}

void api_span_route(const struct api_call *call, int64_t began_ns, const struct tl_room *room) {
  api_span_routed(&call->work, call->loop, &call->trace, began_ns, room);
}

void api_span_routed(const struct api_work *work, unsigned loop, const struct tl_trace_context *trace, int64_t began_ns,
                     const struct tl_room *room) {
  if (!trace->recorded) return;
  struct tl_trace_span span = tl_trace_span_of(trace, TL_SPAN_ROUTE, began_ns, tl_now_ns());
  if (room)
    span.value[0] = tl_engine_first_replica(work->serving->engine) + room->replica;
  else
    span.error = "refused";
  span.on_thread = true;
  tl_trace_put(work->api->o.trace, loop, &span);
}

void api_span_text(struct api_choice *choice, int64_t began_ns) {
  if (!choice->call->trace.recorded) return;
  choice->text_ended_ns = tl_now_ns();
  choice->text_busy_ns += choice->text_ended_ns - began_ns;
  if (!choice->text_began_ns) choice->text_began_ns = began_ns;
}

void api_spans_end(const struct api_call *call) {
  for (unsigned i = 0; call->trace.recorded && i < call->n_choices; i++) {
    const struct api_choice *choice = &call->choices[i];
    if (!choice->text_began_ns) continue;
    struct tl_trace_span span = tl_trace_span_of(&call->trace, TL_SPAN_DETOKENIZE, choice->text_began_ns, choice->text_ended_ns);
    span.value[0] = i;
    span.value[1] = choice->n_seen;
    span.value[2] = choice->text_busy_ns;
    put(call, &span);
  }
}

void api_spans_facts(const struct api_call *call, struct tl_http_request *request) {
  struct tl_trace_facts *facts = call->trace.recorded ? tl_http_trace_facts(request) : NULL;
  if (!facts) return;
  facts->operation = call->reader->shape->operation;
  facts->model = call->api->o.models[call->work.model].name;
  snprintf(facts->response_id, sizeof facts->response_id, "%s", call->id);
  facts->streamed = call->params.stream;
  if (!call->n_choices) return; /* refused before there were any */
  facts->n_choices = call->n_choices;
  facts->replica = tl_engine_first_replica(call->work.serving->engine) + call->choices[0].room.replica;
  facts->n_input = facts->n_cached = facts->n_output = 0;
  for (unsigned i = 0; i < call->n_prompts; i++) facts->n_input += call->prompts[i].n;
  for (unsigned i = 0; i < call->n_choices; i++) {
    const struct api_choice *choice = &call->choices[i];
    facts->n_output += choice->n_seen;
    if (choice->index % (unsigned)call->params.n == 0 && choice->n_seen) facts->n_cached += choice->seq->n_cached;
    if (i < TL_TRACE_FINISHES) facts->finish[i] = choice->finish;
  }
}

void api_log_failure(const struct api_call *call, struct tl_http_request *request, const struct tl_error *err) {
  api_log_failed_request(&call->work, request, &call->trace, err);
}

void api_log_failed_request(const struct api_work *work, struct tl_http_request *request, const struct tl_trace_context *trace,
                            const struct tl_error *err) {
  char trace_id[TL_TRACE_ID_BYTES] = "-";
  if (trace->span_id) tl_trace_id_write(trace, trace_id);
  TL_LOG(TL_LOG_WARN, "api", "a request failed", TL_I("status", api_error_status(err)), TL_S("reason", err->message),
         TL_S("model", work->api->o.models[work->model].name), TL_S("request_id", tl_http_request_id(request)), TL_S("trace_id", trace_id));
}
