/* SPDX-License-Identifier: MIT */
/* Spans as OTLP/HTTP has them in JSON (opentelemetry-proto, trace/v1/trace.proto): ids in
 * hexadecimal, 64-bit integers as strings, enums as numbers. */
#include <string.h>
#include <unistd.h>

#include "trace/trace_private.h"

/* of Span.kind, Span.flags and Status.code */
enum { KIND_INTERNAL = 1, KIND_SERVER = 2, FLAG_SAMPLED = 0x1, FLAG_KNOWS_REMOTE = 0x100, FLAG_REMOTE = 0x200, STATUS_ERROR = 2 };

static void put_key(struct tl_buffer *out, const char *key) {
  if (out->length && out->data[out->length - 1] == '}') tl_buffer_putc(out, ',');
  tl_buffer_puts(out, "{\"key\":\"");
  tl_buffer_puts(out, key);
  tl_buffer_puts(out, "\",\"value\":{");
}

static void put_string(struct tl_buffer *out, const char *key, const char *value) {
  put_key(out, key);
  tl_buffer_puts(out, "\"stringValue\":");
  span_put_json_string(out, value);
  tl_buffer_puts(out, "}}");
}

static void put_integer(struct tl_buffer *out, const char *key, int64_t value) {
  put_key(out, key);
  tl_buffer_printf(out, "\"intValue\":\"%lld\"}}", (long long)value);
}

static void put_bool(struct tl_buffer *out, const char *key, bool value) {
  put_key(out, key);
  tl_buffer_puts(out, value ? "\"boolValue\":true}}" : "\"boolValue\":false}}");
}

void otlp_begin(struct otlp_batch *batch, const struct tl_trace_options *options) {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  tl_buffer_init(&batch->text, 0);
  batch->n = 0;
  struct tl_buffer *out = &batch->text;
  tl_buffer_puts(out, "{\"resourceSpans\":[{\"resource\":{\"attributes\":[");
  put_string(out, "service.name", options->service_name);
  put_string(out, "service.version", TL_VERSION);
  put_string(out, "host.name", host);
  put_integer(out, "process.pid", getpid());
  tl_buffer_puts(out, "]},\"scopeSpans\":[{\"scope\":{\"name\":\"tokenlane\",\"version\":\"" TL_VERSION "\"},\"spans\":[");
}

void otlp_end(struct otlp_batch *batch) {
  tl_buffer_puts(&batch->text, "]}]}]}");
}

static void put_finishes(struct tl_buffer *out, const struct tl_trace_facts *facts) {
  if (!facts->finish[0]) return;
  put_key(out, "gen_ai.response.finish_reasons");
  tl_buffer_puts(out, "\"arrayValue\":{\"values\":[");
  for (unsigned i = 0; i < TL_TRACE_FINISHES && facts->finish[i]; i++)
    tl_buffer_printf(out, "%s{\"stringValue\":\"%s\"}", i ? "," : "", facts->finish[i]);
  tl_buffer_puts(out, "]}}}");
}

static void put_facts(struct tl_buffer *out, const struct tl_trace_facts *facts) {
  if (!facts->operation) return;
  put_string(out, "gen_ai.operation.name", facts->operation);
  put_string(out, "gen_ai.provider.name", "tokenlane");
  put_string(out, "gen_ai.request.model", facts->model);
  put_string(out, "gen_ai.response.id", facts->response_id);
  put_finishes(out, facts);
  if (facts->n_input >= 0) put_integer(out, "gen_ai.usage.input_tokens", facts->n_input);
  if (facts->n_cached >= 0) put_integer(out, "gen_ai.usage.cache_read.input_tokens", facts->n_cached);
  if (facts->n_output >= 0) put_integer(out, "gen_ai.usage.output_tokens", facts->n_output);
  if (facts->n_choices >= 0) put_integer(out, "gen_ai.request.choice.count", facts->n_choices);
  if (facts->replica >= 0) put_integer(out, "tokenlane.replica", facts->replica);
  put_bool(out, "tokenlane.stream", facts->streamed);
}

static void put_root(struct tl_buffer *out, const struct tl_trace_root *root) {
  put_string(out, "http.request.method", root->method);
  put_string(out, "http.route", root->route);
  put_string(out, "url.path", root->route);
  put_string(out, "url.scheme", "http");
  put_string(out, "tokenlane.request_id", root->request_id);
  put_facts(out, &root->facts);
}

void otlp_add(struct otlp_batch *batch, const struct tl_trace_span *span, int64_t wall_offset_ns) {
  struct tl_buffer *out = &batch->text;
  const struct tl_trace_root *root = span->kind == TL_SPAN_REQUEST ? (const struct tl_trace_root *)(const void *)span : NULL;
  unsigned flags = FLAG_SAMPLED | FLAG_KNOWS_REMOTE | (root && span->parent_id ? FLAG_REMOTE : 0);
  tl_buffer_puts(out, batch->n++ ? ",{\"traceId\":\"" : "{\"traceId\":\"");
  span_put_hex(out, span->trace_id[0]);
  span_put_hex(out, span->trace_id[1]);
  tl_buffer_puts(out, "\",\"spanId\":\"");
  span_put_hex(out, span->span_id);
  if (span->parent_id) {
    tl_buffer_puts(out, "\",\"parentSpanId\":\"");
    span_put_hex(out, span->parent_id);
  }
  if (root) {
    tl_buffer_puts(out, "\",\"traceState\":");
    span_put_json_string(out, root->tracestate);
    tl_buffer_printf(out, ",\"name\":\"%s %s\"", root->method, root->route);
  } else {
    tl_buffer_printf(out, "\",\"name\":\"%s\"", span_name(span->kind));
  }
  tl_buffer_printf(out, ",\"flags\":%u,\"kind\":%d,\"startTimeUnixNano\":\"%lld\",\"endTimeUnixNano\":\"%lld\",\"attributes\":[",
                   flags, root ? KIND_SERVER : KIND_INTERNAL, (long long)(span->start_ns + wall_offset_ns),
                   (long long)(span->end_ns + wall_offset_ns));
  for (unsigned i = 0; i < TL_SPAN_VALUES && span_value_name(span->kind, i); i++)
    if (span->value[i] != -1) put_integer(out, span_value_name(span->kind, i), span->value[i]);
  if (root) put_root(out, root);
  if (span->error) put_string(out, "error.type", span->error);
  if (span->error)
    tl_buffer_printf(out, "],\"status\":{\"code\":%d}}", STATUS_ERROR);
  else
    tl_buffer_puts(out, "]}");
}
