/* SPDX-License-Identifier: MIT */
/* Rings, the JSON of both formats, and the whole room with a collector that is a thread of
 * this test. */
#include "unit.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <poll.h>
#include <sys/socket.h>

#include "tokenlane/base/clock.h"
#include "trace/trace_private.h"

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
/* Counts what this thread allocates: nothing on a request's way may. */
extern void *__libc_malloc(size_t);
static _Thread_local unsigned n_mallocs;
void *malloc(size_t size) {
  n_mallocs++;
  return __libc_malloc(size);
}
#else
static unsigned n_mallocs;
#endif

static const struct tl_trace_options base = {
    .endpoint = "", .service_name = "name \"quoted\"\n\xff", .sample_per_mille = 1000, .n_loops = 1, .n_workers = 1};
static const struct tl_trace_context context = {
    .trace_id = {0x0102030405060708u, 0x090a0b0c0d0e0f10u}, .span_id = 0x42, .parent_id = 0x41, .sampled = true, .recorded = true};

static struct tl_trace *make(const struct tl_trace_options *options) {
  struct tl_trace *trace = NULL;
  struct tl_error err = {0};
  assert_int_equal(tl_trace_new(options, &trace, &err), TL_OK);
  return trace;
}

static void end(struct tl_trace *trace) {
  tl_trace_stop(trace);
  tl_trace_free(trace);
}

/* --- rings -------------------------------------------------------------------------------------- */

static void test_ring_round(void **state) {
  (void)state;
  enum { SPANS = 8, ROOTS = 2, N = 50000 / UNIT_SLOWDOWN };
  struct tl_waker waker;
  struct trace_ring *ring = aligned_alloc(TL_CACHE_LINE, sizeof *ring);
  memset((void *)ring, 0, sizeof *ring);
  tl_waker_init(&waker);
  assert_int_equal(trace_ring_init(ring, 0, SPANS, ROOTS, &waker), TL_OK);
  struct tl_trace trace = {.rings = ring, .o = {.n_loops = 1}};
  uint64_t random = 1, n_put = 0, n_seen = 0, n_dropped = 0, in_ring = 0;
  for (unsigned i = 0; i < N; i++) {
    if (unit_below(&random, 2)) {
      struct tl_trace_span span = tl_trace_span_of(&context, TL_SPAN_PARSE, (int64_t)n_put, 0);
      tl_trace_put(&trace, 0, &span);
      if (in_ring < SPANS)
        n_put++, in_ring++;
      else
        n_dropped++;
    } else {
      struct tl_trace_span *span = trace_ring_pop(ring);
      assert_int_equal(span != NULL, in_ring > 0);
      if (!span) continue;
      assert_true(span->start_ns == (int64_t)n_seen++ && span->span_id != 0 && span->parent_id == 0x42);
      trace_ring_give_back(ring, span);
      in_ring--;
    }
    assert_true(atomic_load_explicit(&ring->dropped, memory_order_relaxed) == n_dropped);
  }
  assert_true(n_dropped > 100 && n_seen > 1000);
  while (in_ring--) trace_ring_give_back(ring, trace_ring_pop(ring));
  /* roots have a pool of their own, and may be held */
  struct tl_trace_root *a = tl_trace_take_root(&trace, 0, &context), *b = tl_trace_take_root(&trace, 0, &context);
  assert_true(a && b && !tl_trace_take_root(&trace, 0, &context));
  assert_true(a->span.span_id == 0x42 && a->span.parent_id == 0x41);
  tl_trace_put_root(&trace, 0, b);
  assert_ptr_equal(trace_ring_pop(ring), b);
  trace_ring_give_back(ring, &b->span);
  assert_ptr_equal(tl_trace_take_root(&trace, 0, &context), b);
  trace_ring_done(ring);
  free(ring);
}

static void test_contexts(void **state) {
  (void)state;
  struct tl_trace_context a, b;
  struct tl_trace *trace = make(&base);
  assert_false(tl_trace_begin(trace, 0, NULL, &a)); /* no collector, no file */
  assert_false(tl_trace_begin(NULL, 0, NULL, &a));
  assert_int_equal(tl_trace_wants(NULL), 0);
  end(trace);
  struct tl_trace_options options = base;
  options.endpoint = "http://127.0.0.1:1/v1/traces";
  options.sample_per_mille = 0;
  trace = make(&options);
  assert_true(tl_trace_begin(trace, 0, NULL, &a) && tl_trace_begin(trace, 0, "nonsense", &b));
  assert_true(a.trace_id[0] != b.trace_id[0] && a.trace_id[1] != b.trace_id[1] && a.span_id != b.span_id);
  assert_true(!a.parent_id && !b.parent_id && !a.sampled && !a.recorded && !b.sampled);
  assert_true(tl_trace_begin(trace, 0, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", &a));
  assert_true(a.sampled && a.recorded && a.parent_id == 0xb7ad6b7169203331u && a.span_id && a.span_id != a.parent_id);
  end(trace);
}

static void test_options(void **state) {
  (void)state;
  static const char *const bad[] = {"127.0.0.1:4318", "ftp://a", "http://", "http://a b", "file:///etc/passwd", "http:/a"};
  struct tl_trace_options options = base;
  for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
    struct tl_error err = {0};
    options.endpoint = bad[i];
    assert_int_equal(tl_trace_check(&options, &err), TL_EINVAL);
    assert_string_equal(err.field, "trace.endpoint");
  }
  options.endpoint = "https://a/v1/traces";
  assert_int_equal(tl_trace_check(&options, NULL), TL_OK);
  options.service_name = "";
  assert_int_equal(tl_trace_check(&options, NULL), TL_EINVAL);
}

/* --- JSON ------------------------------------------------------------------------------------------ */

static json_t *parse(struct tl_buffer *text) {
  json_error_t why;
  assert_false(text->failed);
  json_t *root = json_loadb(text->data, text->length, JSON_REJECT_DUPLICATES, &why);
  if (!root) fail_msg("%s at %d:%d", why.text, why.line, why.column);
  return root;
}

/* The value object of an attribute, or NULL. */
static json_t *attribute(const json_t *owner, const char *key) {
  size_t i;
  json_t *each;
  json_array_foreach(json_object_get(owner, "attributes"), i, each)
    if (strcmp(json_string_value(json_object_get(each, "key")), key) == 0) return json_object_get(each, "value");
  return NULL;
}

static const char *text_of(const json_t *owner, const char *key, const char *kind) {
  const char *text = json_string_value(json_object_get(attribute(owner, key), kind));
  return text ? text : "(none)";
}

static struct tl_trace_root sample_root(void) {
  struct tl_trace_root root = {.span = tl_trace_span_of(&context, TL_SPAN_REQUEST, 1000, 5000),
                              .method = "POST",
                              .route = "/v1/chat/completions",
                              .request_id = "id-1",
                              .tracestate = "a=\"\\",
                              .facts = {.operation = "chat", .model = "m", .finish = {"stop", "length"}, .replica = 3, .n_choices = 2,
                                        .n_input = 11, .n_cached = 0, .n_output = 22, .response_id = "chatcmpl-1"}};
  root.span.span_id = 0x42;
  root.span.parent_id = 0x41;
  root.span.value[0] = 200;
  root.span.value[1] = 999;
  return root;
}

static void test_otlp(void **state) {
  (void)state;
  struct otlp_batch batch;
  struct tl_trace_root root = sample_root();
  struct tl_trace_span prefill = tl_trace_span_of(&context, TL_SPAN_PREFILL, 1500, 2500);
  prefill.span_id = 0xfedcba9876543210u;
  prefill.value[0] = 3;
  prefill.value[4] = 512;
  prefill.error = "device_fault";
  otlp_begin(&batch, &base);
  otlp_add(&batch, &root.span, 1700000000000000000);
  otlp_add(&batch, &prefill, 1700000000000000000);
  otlp_end(&batch);
  assert_int_equal(batch.n, 2);
  json_t *all = parse(&batch.text), *one = json_array_get(json_object_get(all, "resourceSpans"), 0);
  assert_string_equal(text_of(json_object_get(one, "resource"), "service.name", "stringValue"), "name \"quoted\"\n?");
  json_t *spans = json_object_get(json_array_get(json_object_get(one, "scopeSpans"), 0), "spans");
  assert_int_equal(json_array_size(spans), 2);
  const json_t *r = json_array_get(spans, 0), *p = json_array_get(spans, 1);
  static const struct { const char *key, *root, *child; } fields[] = {
      {"traceId", "0102030405060708090a0b0c0d0e0f10", "0102030405060708090a0b0c0d0e0f10"},
      {"spanId", "0000000000000042", "fedcba9876543210"},
      {"parentSpanId", "0000000000000041", "0000000000000042"},
      {"name", "POST /v1/chat/completions", "prefill"},
      {"startTimeUnixNano", "1700000000000001000", "1700000000000001500"},
      {"endTimeUnixNano", "1700000000000005000", "1700000000000002500"},
  };
  for (size_t i = 0; i < UNIT_COUNT(fields); i++) {
    assert_string_equal(json_string_value(json_object_get(r, fields[i].key)), fields[i].root);
    assert_string_equal(json_string_value(json_object_get(p, fields[i].key)), fields[i].child);
  }
  assert_string_equal(json_string_value(json_object_get(r, "traceState")), "a=\"\\");
  assert_int_equal(json_integer_value(json_object_get(r, "kind")), 2);
  assert_int_equal(json_integer_value(json_object_get(p, "kind")), 1);
  assert_int_equal(json_integer_value(json_object_get(r, "flags")), 0x301);
  assert_int_equal(json_integer_value(json_object_get(p, "flags")), 0x101);
  assert_string_equal(text_of(r, "http.response.status_code", "intValue"), "200");
  assert_string_equal(text_of(r, "gen_ai.usage.input_tokens", "intValue"), "11");
  assert_string_equal(text_of(r, "gen_ai.operation.name", "stringValue"), "chat");
  assert_string_equal(text_of(r, "tokenlane.request_id", "stringValue"), "id-1");
  json_t *reasons = json_object_get(json_object_get(attribute(r, "gen_ai.response.finish_reasons"), "arrayValue"), "values");
  assert_int_equal(json_array_size(reasons), 2);
  assert_string_equal(text_of(p, "tokenlane.replica", "intValue"), "3");
  assert_string_equal(text_of(p, "tokenlane.tokens", "intValue"), "512");
  assert_null(attribute(p, "tokenlane.choice")); /* not known */
  assert_string_equal(text_of(p, "error.type", "stringValue"), "device_fault");
  assert_int_equal(json_integer_value(json_object_get(json_object_get(p, "status"), "code")), 2);
  assert_null(json_object_get(r, "status"));
  json_decref(all);
  tl_buffer_done(&batch.text);
}

/* Events of one track must nest. */
static void check_nesting(const json_t *events) {
  size_t i, k;
  json_t *a, *b;
  json_array_foreach(events, i, a) json_array_foreach(events, k, b) {
    if (i == k || strcmp(json_string_value(json_object_get(a, "ph")), "X") || strcmp(json_string_value(json_object_get(b, "ph")), "X") ||
        !json_equal(json_object_get(a, "tid"), json_object_get(b, "tid")) || !json_equal(json_object_get(a, "pid"), json_object_get(b, "pid")))
      continue;
    double a0 = json_number_value(json_object_get(a, "ts")), b0 = json_number_value(json_object_get(b, "ts"));
    double a1 = a0 + json_number_value(json_object_get(a, "dur")), b1 = b0 + json_number_value(json_object_get(b, "dur"));
    bool apart = a1 <= b0 + 1e-6 || b1 <= a0 + 1e-6, nested = (a0 <= b0 && b1 <= a1 + 1e-6) || (b0 <= a0 && a1 <= b1 + 1e-6);
    if (!apart && !nested) fail_msg("%s and %s overlap", json_string_value(json_object_get(a, "name")), json_string_value(json_object_get(b, "name")));
  }
}

static void test_file(void **state) {
  (void)state;
  struct trace_file file = {.since_ns = 500};
  struct tl_buffer out;
  struct tl_trace_root root = sample_root();
  uint64_t random = 3;
  trace_file_add(&file, &root.span);
  for (unsigned i = 0; i < 60; i++) { /* any overlaps, of two requests */
    struct tl_trace_context c = context;
    c.span_id += i % 2;
    int64_t start_ns = 1000 + unit_below(&random, 3000);
    struct tl_trace_span span = tl_trace_span_of(&c, TL_SPAN_PARSE + unit_below(&random, 8), start_ns, start_ns + unit_below(&random, 1000));
    trace_file_add(&file, &span);
  }
  struct tl_trace_span step = {.kind = TL_SPAN_STEP, .start_ns = 600, .end_ns = 700, .ring = 1, .on_thread = true, .value = {0, 4, 5, 6, -1}};
  struct tl_trace_span old = step;
  old.end_ns = 400;
  trace_file_add(&file, &step);
  trace_file_add(&file, &old);
  assert_int_equal(file.n, 62);
  tl_buffer_init(&out, 0);
  trace_file_write(&file, &base, &out);
  json_t *all = parse(&out), *events = json_object_get(all, "traceEvents"), *each;
  unsigned n_spans = 0, n_steps = 0, n_named = 0;
  size_t i;
  json_array_foreach(events, i, each) {
    const char *name = json_string_value(json_object_get(each, "name"));
    n_spans += strcmp(json_string_value(json_object_get(each, "ph")), "X") == 0;
    n_steps += strcmp(name, "step") == 0;
    const char *track = json_string_value(json_object_get(json_object_get(each, "args"), "name"));
    n_named += track && strcmp(track, "id-1") == 0;
  }
  assert_int_equal(n_spans, 62);
  assert_int_equal(n_steps, 1);
  assert_true(n_named >= 1);
  check_nesting(events);
  json_decref(all);
  tl_buffer_done(&out);
  trace_file_done(&file);
  /* an empty one is a file too */
  trace_file_write(&file, &base, &out);
  json_decref(parse(&out));
  tl_buffer_done(&out);
}

/* --- all of it ----------------------------------------------------------------------------------------- */

/* A collector: answers each request of a connection with what the script says, the last for ever. */
struct collector {
  int listener;
  char url[64];
  pthread_t thread;
  const char *const *answers;
  unsigned n_answers;
  _Atomic unsigned n_requests;
  _Atomic int ending;
};

static void serve_one(struct collector *c, int fd) {
  static char bytes[1 << 20];
  size_t n = 0, want = 0;
  while (!want || n < want) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, 100) <= 0) {
      if (atomic_load_explicit(&c->ending, memory_order_acquire)) return;
      continue;
    }
    ssize_t got = read(fd, bytes + n, sizeof bytes - 1 - n);
    if (got <= 0) return;
    n += (size_t)got;
    bytes[n] = 0;
    char *body = strstr(bytes, "\r\n\r\n"), *length = strstr(bytes, "Content-Length: ");
    if (body && length) want = (size_t)(body + 4 - bytes) + (size_t)atol(length + 16);
    if (!want || n < want) continue;
    struct tl_buffer text = {.data = body + 4, .length = want - (size_t)(body + 4 - bytes)};
    json_decref(parse(&text));
    unsigned i = atomic_fetch_add_explicit(&c->n_requests, 1, memory_order_acq_rel);
    const char *answer = c->answers[i < c->n_answers ? i : c->n_answers - 1];
    if (write(fd, answer, strlen(answer)) < 0) return;
    n = want = 0;
  }
}

static void *run_collector(void *argument) {
  struct collector *c = argument;
  while (!atomic_load_explicit(&c->ending, memory_order_acquire)) {
    struct pollfd p = {.fd = c->listener, .events = POLLIN};
    if (poll(&p, 1, 50) <= 0) continue;
    int fd = accept(c->listener, NULL, NULL);
    serve_one(c, fd);
    close(fd);
  }
  return NULL;
}

static void start_collector(struct collector *c, const char *const *answers, unsigned n) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  *c = (struct collector){.answers = answers, .n_answers = n};
  c->listener = socket(AF_INET, SOCK_STREAM, 0);
  assert_int_equal(bind(c->listener, (struct sockaddr *)&address, size), 0);
  assert_int_equal(getsockname(c->listener, (struct sockaddr *)&address, &size), 0);
  assert_int_equal(listen(c->listener, 8), 0);
  snprintf(c->url, sizeof c->url, "http://127.0.0.1:%d/v1/traces", ntohs(address.sin_port));
  assert_int_equal(pthread_create(&c->thread, NULL, run_collector, c), 0);
}

static void end_collector(struct collector *c) {
  atomic_store_explicit(&c->ending, 1, memory_order_release);
  pthread_join(c->thread, NULL);
  close(c->listener);
}

static void put_many(struct tl_trace *trace, unsigned ring, unsigned n) {
  for (unsigned i = 0; i < n; i++) {
    struct tl_trace_span span = tl_trace_span_of(&context, TL_SPAN_DECODE, tl_now_ns(), tl_now_ns());
    tl_trace_put(trace, ring, &span);
  }
}

/* Neither with room nor when the ring is full. */
static void test_nothing_is_allocated(void **state) {
  (void)state;
  struct tl_trace_options options = base;
  struct tl_trace_context c;
  options.endpoint = "http://127.0.0.1:1/";
  struct tl_trace *trace = make(&options);
  unsigned before = n_mallocs;
  for (unsigned i = 0; i < 100; i++) {
    assert_true(tl_trace_begin(trace, 0, i % 2 ? NULL : "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", &c));
    put_many(trace, 0, 200);
    struct tl_trace_root *root = tl_trace_take_root(trace, 0, &c);
    if (!root) continue;
    root->method = root->facts.operation = root->facts.model = "m";
    *root->route = *root->request_id = *root->tracestate = *root->facts.response_id = 0;
    tl_trace_put_root(trace, 0, root);
  }
  assert_int_equal(n_mallocs, before);
  assert_true(tl_trace_counts(trace).ring_full > 0);
  end(trace);
}

static struct tl_trace_counts wait_counts(struct tl_trace *trace, uint64_t n) {
  int64_t deadline_ns = tl_now_ns() + TL_SEC(60);
  for (;;) {
    struct tl_trace_counts c = tl_trace_counts(trace);
    if (c.exported + c.failed + c.ring_full + c.queue_full >= n) return c;
    assert_true(tl_now_ns() < deadline_ns);
    usleep(5000);
  }
}

#define ANSWER(status, more, body) "HTTP/1.1 " status "\r\n" more "Content-Length: " body

static void test_export(void **state) {
  (void)state;
  static const char *const answers[] = {
      ANSWER("503 Not Now", "Retry-After: 1\r\n", "0\r\n\r\n"), /* is sent again */
      ANSWER("200 OK", "", "2\r\n\r\n{}"),
      ANSWER("200 OK", "", "40\r\n\r\n{\"partialSuccess\":{\"rejectedSpans\":\"7\"}}"),
      ANSWER("400 Bad", "", "0\r\n\r\n"), /* is not */
      ANSWER("200 OK", "", "5\r\n\r\nhello"),
  };
  struct collector c;
  start_collector(&c, answers, UNIT_COUNT(answers));
  struct tl_trace_options options = base;
  options.endpoint = c.url;
  struct tl_trace *trace = make(&options);
  static const struct { unsigned n; uint64_t exported, failed; } rounds[] = {{100, 100, 0}, {10, 103, 7}, {20, 103, 27}, {1, 104, 27}};
  uint64_t n = 0;
  for (size_t i = 0; i < UNIT_COUNT(rounds); i++) {
    put_many(trace, (unsigned)i % 2, rounds[i].n);
    struct tl_trace_counts counts = wait_counts(trace, n += rounds[i].n);
    assert_int_equal(counts.exported, rounds[i].exported);
    assert_int_equal(counts.failed, rounds[i].failed);
    assert_int_equal(counts.ring_full + counts.queue_full, 0);
  }
  put_many(trace, 0, 5); /* what is left at the end goes out too */
  tl_trace_stop(trace);
  assert_int_equal(tl_trace_counts(trace).exported, 109);
  assert_int_equal(atomic_load_explicit(&c.n_requests, memory_order_acquire), 6);
  tl_trace_free(trace);
  end_collector(&c);
}

/* Nobody listens, or nobody answers: all is dropped and counted, nothing waits. */
static void test_dead_collector(void **state) {
  (void)state;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int silent = socket(AF_INET, SOCK_STREAM, 0);
  char url[64];
  assert_int_equal(bind(silent, (struct sockaddr *)&address, size), 0);
  assert_int_equal(getsockname(silent, (struct sockaddr *)&address, &size), 0);
  assert_int_equal(listen(silent, 1), 0);
  snprintf(url, sizeof url, "http://127.0.0.1:%d/v1/traces", ntohs(address.sin_port));
  struct tl_trace_options options = base;
  for (unsigned i = 0; i < 2; i++) {
    options.endpoint = i ? url : "http://127.0.0.1:1/";
    struct tl_trace *trace = make(&options);
    enum { N = 30000 };
    for (unsigned k = 0; k < N / 500; k++) {
      put_many(trace, 0, 500);
      usleep(1000);
    }
    int64_t began_ns = tl_now_ns();
    tl_trace_stop(trace);
    assert_true(tl_now_ns() - began_ns < TL_SEC(30)); /* gives up after some seconds, not after five tries of ten */
    struct tl_trace_counts counts = tl_trace_counts(trace);
    assert_int_equal(counts.exported, 0);
    tl_trace_free(trace);
    assert_true(counts.ring_full + counts.queue_full > 0);
  }
  close(silent);
}

static void keep_file(struct tl_buffer *file, void *kept) {
  *(struct tl_buffer *)kept = *file;
}

static void test_file_of_one_second(void **state) {
  (void)state;
  struct tl_trace *trace = make(&base);
  struct tl_buffer file = {0};
  struct tl_error err = {0};
  assert_int_equal(tl_trace_file(trace, 1, keep_file, &file, &err), TL_OK);
  assert_int_equal(tl_trace_file(trace, 1, keep_file, &file, &err), TL_EBUSY);
  int64_t deadline_ns = tl_now_ns() + TL_SEC(30);
  while (tl_trace_wants(trace) != TL_TRACE_CAPTURE) assert_true(tl_now_ns() < deadline_ns);
  struct tl_trace_context c;
  assert_true(tl_trace_begin(trace, 0, NULL, &c) && c.recorded);
  struct tl_trace_span span = tl_trace_span_of(&c, TL_SPAN_DECODE, tl_now_ns(), tl_now_ns());
  tl_trace_put(trace, 1, &span);
  while (atomic_load_explicit(&trace->file_state, memory_order_acquire) != FILE_NONE) {
    assert_true(tl_now_ns() < deadline_ns);
    usleep(1000);
  }
  assert_int_equal(tl_trace_wants(trace), 0);
  json_decref(parse(&file));
  assert_non_null(strstr(tl_buffer_string(&file), "\"decode\""));
  tl_buffer_done(&file);
  /* one that nobody waits for ends at once */
  assert_int_equal(tl_trace_file(trace, 60, keep_file, &file, &err), TL_OK);
  while (tl_trace_wants(trace) != TL_TRACE_CAPTURE) assert_true(tl_now_ns() < deadline_ns);
  tl_trace_hurry_file(trace);
  while (atomic_load_explicit(&trace->file_state, memory_order_acquire) != FILE_NONE) assert_true(tl_now_ns() < deadline_ns);
  json_decref(parse(&file));
  tl_buffer_done(&file);
  /* one that is given up leaves nothing */
  assert_int_equal(tl_trace_file(trace, 60, keep_file, &file, &err), TL_OK);
  tl_trace_end_files(trace);
  assert_null(file.data);
  assert_int_equal(tl_trace_file(trace, 1, keep_file, &file, &err), TL_EBUSY);
  end(trace);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ring_round), cmocka_unit_test(test_contexts),
                                     cmocka_unit_test(test_options),    cmocka_unit_test(test_otlp),
                                     cmocka_unit_test(test_file),       cmocka_unit_test(test_export),
                                     cmocka_unit_test(test_nothing_is_allocated), cmocka_unit_test(test_dead_collector), cmocka_unit_test(test_file_of_one_second)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
