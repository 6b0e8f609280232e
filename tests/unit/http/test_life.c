/* SPDX-License-Identifier: MIT */
/* How connections and answers end: in time, too late, with the client gone,
 * by draining, by stopping; and what slow readers cost. One loop. */
#include "http_client.h"

#define H "Host: a\r\n"
#define PIECE_BYTES 8000
#define MAX_HELD 64
#define GET(target) "GET " target " HTTP/1.1\r\n" H "\r\n"

enum command { NOTHING, WRITE_PIECES, END_ALL };

struct flood {
  struct tl_http_request *request;
  size_t at, length;
};

static struct tl_metrics *metrics;
static struct tl_http *http;
static char folder[64], socket_path[80];
static _Atomic int command;

/* the loop's thread only */
static struct tl_http_request *held[MAX_HELD];
static bool streams[MAX_HELD];

/* counted by the loop, read by the test after something that came later */
static _Atomic unsigned n_held, n_aborted, n_strange, n_big, n_full, n_room;
static _Atomic size_t flooded;

#define COUNT(counter) atomic_fetch_add_explicit(&(counter), 1, memory_order_release)
#define READ(counter) atomic_load_explicit(&(counter), memory_order_acquire)

/* --- handlers ------------------------------------------------------------------------------- */

static void on_now(struct tl_http_request *request, void *context) {
  (void)context;
  tl_http_respond(request, 200, "text/plain", "now", 3);
}

static void release(struct tl_http_request *request) {
  for (unsigned i = 0; i < MAX_HELD; i++)
    if (held[i] == request) {
      held[i] = NULL;
      atomic_fetch_sub_explicit(&n_held, 1, memory_order_release);
      return;
    }
  COUNT(n_strange);
}

static void on_held_abort(struct tl_http_request *request) {
  if (tl_http_data(request) != &held) COUNT(n_strange);
  COUNT(n_aborted);
  release(request);
}

/* Answers when told to; /open has begun its stream before. */
static void on_hold(struct tl_http_request *request, void *context) {
  unsigned i = 0;
  while (i < MAX_HELD && held[i]) i++;
  if (i == MAX_HELD) {
    tl_http_respond(request, 503, "text/plain", "full", 4);
    return;
  }
  held[i] = request;
  streams[i] = context != NULL;
  tl_http_set_data(request, &held);
  tl_http_on_abort(request, on_held_abort);
  if (streams[i]) {
    tl_http_begin(request, 200, "text/plain");
    tl_http_write(request, "begun,", 6);
  }
  COUNT(n_held);
}

static char letter(size_t at) {
  return (char)('a' + at % 23);
}

static void *letters(size_t from, size_t length) {
  char *bytes = malloc(length);
  for (size_t i = 0; i < length; i++) bytes[i] = letter(from + i);
  return bytes;
}

/* An answer of so many bytes as the query says. */
static void on_big(struct tl_http_request *request, void *context) {
  (void)context;
  size_t length = strtoul(tl_http_query(request), NULL, 10);
  char *bytes = letters(0, length);
  COUNT(n_big);
  tl_http_respond(request, 200, "text/plain", bytes, length);
  free(bytes);
}

static void flood_more(struct tl_http_request *request) {
  struct flood *flood = tl_http_data(request);
  while (flood->at < flood->length) {
    if (!tl_http_writable(request)) {
      COUNT(n_full);
      return;
    }
    size_t n = flood->length - flood->at < PIECE_BYTES ? flood->length - flood->at : PIECE_BYTES;
    char *bytes = letters(flood->at, n);
    tl_http_write(request, bytes, n);
    free(bytes);
    flood->at += n;
    atomic_store_explicit(&flooded, flood->at, memory_order_release);
  }
  free(flood);
  tl_http_end(request);
}

static void on_flood_room(struct tl_http_request *request) {
  COUNT(n_room);
  if (!tl_http_writable(request)) COUNT(n_strange);
  flood_more(request);
}

static void on_flood_abort(struct tl_http_request *request) {
  COUNT(n_aborted);
  free(tl_http_data(request));
}

/* A stream of so many bytes, no faster than the client takes it. */
static void on_flood(struct tl_http_request *request, void *context) {
  (void)context;
  struct flood *flood = malloc(sizeof *flood);
  *flood = (struct flood){request, 0, strtoul(tl_http_query(request), NULL, 10)};
  tl_http_set_data(request, flood);
  tl_http_on_abort(request, on_flood_abort);
  tl_http_on_writable(request, on_flood_room);
  tl_http_begin(request, 200, "text/plain");
  flood_more(request);
}

static void on_wake(unsigned loop, void *context) {
  (void)loop;
  (void)context;
  int what = atomic_load_explicit(&command, memory_order_acquire); /* of tell() */
  for (unsigned i = 0; what != NOTHING && i < MAX_HELD; i++) {
    struct tl_http_request *request = held[i];
    if (!request) continue;
    if (what == WRITE_PIECES && streams[i]) tl_http_write(request, "piece,", 6);
    if (what != END_ALL) continue;
    release(request);
    if (streams[i])
      tl_http_end(request);
    else
      tl_http_respond(request, 200, "text/plain", "held", 4);
  }
  atomic_store_explicit(&command, NOTHING, memory_order_release); /* to tell() */
}

static void tell(enum command what) {
  atomic_store_explicit(&command, what, memory_order_release);
  tl_http_wake(http, 0);
  CLIENT_WAIT(READ(command) == NOTHING);
}

/* --- the server -------------------------------------------------------------------------------- */

static void start(const struct tl_http_options *options) {
  struct tl_http_options o = *options;
  struct tl_error err = {0};
  unit_make_folder(folder);
  snprintf(socket_path, sizeof socket_path, "%s/http.sock", folder);
  o.unix_path = socket_path;
  memset(held, 0, sizeof held);
  n_held = n_aborted = n_strange = n_big = n_full = n_room = 0;
  metrics = tl_metrics_new();
  if (tl_http_new(&o, metrics, &http, &err) < 0) fail_msg("%s", err.message);
  tl_http_handle(http, "GET", "/now", on_now, NULL);
  tl_http_handle(http, "POST", "/now", on_now, NULL);
  tl_http_handle(http, "GET", "/hold", on_hold, NULL);
  tl_http_handle(http, "GET", "/open", on_hold, held);
  tl_http_handle(http, "GET", "/big", on_big, NULL);
  tl_http_handle(http, "GET", "/flood", on_flood, NULL);
  tl_http_on_wake(http, on_wake, NULL);
  if (tl_http_start(http, &err) < 0) fail_msg("%s", err.message);
}

static void finish(void) {
  tl_http_stop(http);
  assert_int_equal(READ(n_strange), 0);
  assert_int_equal(READ(n_held), 0);
  assert_int_equal(tl_http_connections(http), 0);
  tl_metrics_free(metrics);
  tl_http_free(http);
  assert_int_equal(rmdir(folder), 0);
}

static void start_plain(void) {
  struct tl_http_options o = client_options();
  start(&o);
}

static void wait_received(double bytes) {
  CLIENT_WAIT(client_metric(metrics, "tokenlane_http_received_bytes_total") >= bytes);
}

static void expect_body(struct client *c, size_t length) {
  struct answer a;
  if (!client_try_answer(c, false, &a)) fail_msg("the answer is cut short");
  assert_int_equal(a.status, 200);
  assert_int_equal(a.body.length, length);
  for (size_t i = 0; i < length; i++)
    if (a.body.data[i] != letter(i)) fail_msg("wrong byte at %zu", i);
  tl_buffer_done(&a.body);
}

/* --- time limits ----------------------------------------------------------------------------------- */

/* Sends a byte now and then, for as long as the server takes it. */
static void drip_until_answered(struct client *c, const char *byte) {
  int64_t until_ns = tl_now_ns() + CLIENT_PATIENCE_NS;
  while (!client_read(c, 5)) {
    if (tl_now_ns() > until_ns) fail_msg("no answer");
    if (!client_send(c, byte, 1)) return;
  }
}

static void test_header_limit(void **state) {
  (void)state;
  struct tl_http_options o = client_options();
  o.header_timeout_ns = TL_MS(100);
  start(&o);
  static const char *const begins[] = {"G", "GET /now HTTP/1.1\r\n", "GET /now HTTP/1.1\r\nHost: a\r\n", "\r\nGET /now HTTP/1.1\r\nHost: a\r\n\r"};
  for (size_t i = 0; i < UNIT_COUNT(begins); i++) {
    struct client c = client_tcp(tl_http_port(http));
    client_puts(&c, GET("/now")); /* what went before does not matter */
    client_expect(&c, 200, "now");
    client_puts(&c, begins[i]);
    client_expect(&c, 408, NULL);
    client_expect_end(&c);
    client_close(&c);
  }
  struct client c = client_tcp(tl_http_port(http));
  client_puts(&c, "GET /now HTTP/1.1\r\nX: ");
  drip_until_answered(&c, "x");
  client_expect(&c, 408, NULL);
  client_expect_end(&c);
  client_close(&c);
  finish();
}

static void test_body_limit(void **state) {
  (void)state;
  struct tl_http_options o = client_options();
  o.body_timeout_ns = TL_MS(100);
  start(&o);
  static const char *const begins[] = {"Content-Length: 5\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
                                       "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"};
  for (size_t i = 0; i < UNIT_COUNT(begins); i++) {
    struct client c = client_tcp(tl_http_port(http));
    client_puts(&c, "POST /now HTTP/1.1\r\n" H);
    client_puts(&c, begins[i]);
    client_expect(&c, 408, NULL);
    client_expect_end(&c);
    client_close(&c);
  }
  struct client c = client_tcp(tl_http_port(http));
  client_puts(&c, "POST /now HTTP/1.1\r\n" H "Content-Length: 1000000\r\n\r\n");
  drip_until_answered(&c, "x");
  client_expect(&c, 408, NULL);
  client_expect_end(&c);
  client_close(&c);
  finish();
}

static void test_idle_limit(void **state) {
  (void)state;
  struct tl_http_options o = client_options();
  o.idle_timeout_ns = TL_MS(150);
  start(&o);
  struct client fresh = client_tcp(tl_http_port(http)), used = client_tcp(tl_http_port(http)),
                blank = client_tcp(tl_http_port(http)), busy = client_tcp(tl_http_port(http));
  client_puts(&used, GET("/now"));
  client_puts(&blank, GET("/now") "\r\n"); /* an empty line begins no request */
  client_puts(&busy, GET("/hold"));
  client_expect(&used, 200, "now");
  client_expect(&blank, 200, "now");
  client_expect_end(&fresh);
  client_expect_end(&used);
  client_expect_end(&blank);
  usleep(300000);
  tell(END_ALL); /* a running request is not idle */
  client_expect(&busy, 200, "held");
  client_expect_end(&busy);
  client_close(&fresh);
  client_close(&used);
  client_close(&blank);
  client_close(&busy);
  finish();
}

static void test_write_limit(void **state) {
  (void)state;
  struct tl_http_options o = client_options();
  o.write_timeout_ns = TL_MS(150);
  start(&o);
  struct client big = client_unix(socket_path), flood = client_unix(socket_path), last = client_unix(socket_path);
  client_puts(&big, GET("/big?5000000"));
  client_puts(&flood, GET("/flood?5000000"));
  client_puts(&last, "GET /big?5000000 HTTP/1.0\r\n\r\n");
  CLIENT_WAIT(READ(n_big) == 2 && READ(n_full) > 0);
  CLIENT_WAIT(tl_http_connections(http) == 0 && READ(n_aborted));
  assert_int_equal(READ(n_aborted), 1); /* the other two had answered */
  struct answer a;
  assert_false(client_try_answer(&flood, false, &a));
  client_close(&big);
  client_close(&flood);
  client_close(&last);
  finish();
}

/* A client that takes a little all the time is waited for, however long it takes. */
static void test_slow_is_not_late(void **state) {
  (void)state;
  struct tl_http_options o = client_options();
  o.write_timeout_ns = o.idle_timeout_ns = TL_SEC(1);
  start(&o);
  static const char *const requests[] = {GET("/big?4000000"), GET("/flood?4000000"), "GET /big?4000000 HTTP/1.1\r\n" H "Connection: close\r\n\r\n"};
  struct client c[3];
  for (unsigned i = 0; i < 3; i++) {
    c[i] = client_unix(socket_path);
    client_puts(&c[i], requests[i]);
  }
  for (size_t quota = 60000; quota < 4000000; quota += 60000) { /* 65 times 60 ms */
    usleep(60000);
    for (unsigned i = 0; i < 3; i++)
      while (c[i].got.length < quota && client_read(&c[i], 1000)) continue;
  }
  for (unsigned i = 0; i < 3; i++) {
    expect_body(&c[i], 4000000);
    client_close(&c[i]);
  }
  assert_int_equal(READ(n_aborted), 0);
  finish();
}

/* --- the client goes --------------------------------------------------------------------------------- */

static void test_gone(void **state) {
  (void)state;
  start_plain();
  for (unsigned how = 0; how < 4; how++) { /* waiting or streaming; closed or reset */
    struct client c[10];
    for (unsigned i = 0; i < 10; i++) {
      c[i] = client_tcp(tl_http_port(http));
      client_puts(&c[i], how & 1 ? GET("/open") : GET("/hold"));
    }
    CLIENT_WAIT(READ(n_held) == 10);
    tell(WRITE_PIECES);
    for (unsigned i = 0; i < 10; i++) {
      while (how & 1 && !strstr(tl_buffer_string(&c[i].got), "piece,")) assert_true(client_read(&c[i], 10000));
      if (how & 2)
        client_reset(&c[i]);
      else
        client_close(&c[i]);
    }
    CLIENT_WAIT(READ(n_held) == 0);
    tell(WRITE_PIECES);
    tell(END_ALL);
    assert_int_equal(READ(n_aborted), 10 * (how + 1));
  }
  CLIENT_WAIT(tl_http_connections(http) == 0);
  /* while the server waits for room */
  struct client c = client_unix(socket_path);
  client_puts(&c, GET("/flood?100000000"));
  CLIENT_WAIT(READ(n_full) > 0);
  client_close(&c);
  CLIENT_WAIT(READ(n_aborted) == 41);
  CLIENT_WAIT(tl_http_connections(http) == 0);
  finish();
}

static void test_half_close(void **state) {
  (void)state;
  start_plain();
  struct client c = client_tcp(tl_http_port(http));
  client_puts(&c, GET("/now") GET("/big?100") GET("/now"));
  shutdown(c.fd, SHUT_WR);
  client_expect(&c, 200, "now");
  client_expect(&c, 200, NULL);
  client_expect(&c, 200, "now");
  client_expect_end(&c);
  client_close(&c);
  /* an answer that does not fit into the socket */
  c = client_unix(socket_path);
  client_puts(&c, GET("/big?3000000"));
  shutdown(c.fd, SHUT_WR);
  CLIENT_WAIT(READ(n_big) == 2);
  usleep(20000);
  expect_body(&c, 3000000);
  client_expect_end(&c);
  client_close(&c);
  /* work for a client that may be gone is given up */
  c = client_tcp(tl_http_port(http));
  client_puts(&c, GET("/hold"));
  CLIENT_WAIT(READ(n_held) == 1);
  shutdown(c.fd, SHUT_WR);
  client_expect_end(&c);
  client_close(&c);
  assert_int_equal(READ(n_aborted), 1);
  /* in the middle of a request */
  c = client_tcp(tl_http_port(http));
  client_puts(&c, "GET /now HT");
  shutdown(c.fd, SHUT_WR);
  client_expect_end(&c);
  client_close(&c);
  finish();
}

/* --- slow readers, eager writers ----------------------------------------------------------------------- */

static void test_slow_reader(void **state) {
  (void)state;
  start_plain();
  struct client c = client_unix(socket_path);
  client_puts(&c, GET("/flood?6000000") GET("/now"));
  CLIENT_WAIT(READ(n_full) > 0);
  usleep(50000);
  size_t before = READ(flooded);
  usleep(50000);
  assert_int_equal(READ(flooded), before); /* it waits */
  assert_true(before < 1500000);           /* the socket's buffer and max_write_queue_bytes */
  expect_body(&c, 6000000);
  client_expect(&c, 200, "now");
  assert_true(READ(n_room) > 0);
  assert_int_equal(READ(n_room), READ(n_full));
  client_close(&c);
  finish();
}

/* Answers that nobody reads are not made: a thousand requests, 50 MB of answers. */
static void test_unread_answers(void **state) {
  (void)state;
  start_plain();
  struct client c = client_unix(socket_path);
  for (unsigned i = 0; i < 1000; i++) client_puts(&c, GET("/big?50000"));
  CLIENT_WAIT(READ(n_big) > 0);
  usleep(100000);
  assert_true(READ(n_big) < 40);
  for (unsigned i = 0; i < 1000; i++) expect_body(&c, 50000);
  client_puts(&c, GET("/now"));
  client_expect(&c, 200, "now");
  client_close(&c);
  /* the same with an end behind the requests */
  c = client_unix(socket_path);
  for (unsigned i = 0; i < 100; i++) client_puts(&c, GET("/big?50000"));
  shutdown(c.fd, SHUT_WR);
  usleep(20000);
  for (unsigned i = 0; i < 100; i++) expect_body(&c, 50000);
  client_expect_end(&c);
  client_close(&c);
  finish();
}

/* Requests that wait for their turn are not read ahead without bound. */
static void test_unanswered_requests(void **state) {
  (void)state;
  start_plain();
  struct client c = client_unix(socket_path);
  static const char request[] = GET("/hold");
  char many[100 * (sizeof request - 1)];
  for (unsigned i = 0; i < 100; i++) memcpy(many + i * (sizeof request - 1), request, sizeof request - 1);
  size_t at = 0;
  for (unsigned answered = 0; answered < 40; answered++) {
    for (;;) {
      ssize_t n = send(c.fd, many + at, sizeof many - at, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0) break;
      at = (at + (size_t)n) % sizeof many;
    }
    CLIENT_WAIT(READ(n_held) == 1);
    tell(END_ALL);
    client_expect(&c, 200, "held");
  }
  usleep(20000);
  assert_true(client_metric(metrics, "tokenlane_http_received_bytes_total") < 300000);
  client_close(&c);
  CLIENT_WAIT(tl_http_connections(http) == 0 || READ(n_held) == 1);
  finish();
}

/* --- draining, stopping ------------------------------------------------------------------------------------ */

static void expect_held(struct client *c, const char *body, bool closes) {
  struct answer a;
  assert_true(client_try_answer(c, false, &a));
  assert_int_equal(a.status, 200);
  assert_int_equal(a.closes, closes);
  assert_string_equal(tl_buffer_string(&a.body), body);
  tl_buffer_done(&a.body);
  client_expect_end(c);
  client_close(c);
}

static void test_drain(void **state) {
  (void)state;
  start_plain();
  int port = tl_http_port(http);
  struct client idle = client_tcp(port), fresh = client_unix(socket_path), open = client_tcp(port), hold = client_unix(socket_path),
                half = client_tcp(port), two = client_tcp(port);
  client_puts(&idle, GET("/now"));
  client_expect(&idle, 200, "now");
  client_puts(&open, GET("/open"));
  client_puts(&hold, GET("/hold"));
  client_puts(&two, GET("/hold") GET("/now"));
  client_puts(&half, "GET /now HTTP/1.1\r\nHost: a");
  CLIENT_WAIT(READ(n_held) == 3 && tl_http_connections(http) == 6);
  wait_received(sizeof GET("/now") * 2 + sizeof GET("/hold") * 3 - 5 + sizeof "GET /now HTTP/1.1\r\nHost: a" - 1);
  tl_http_drain(http);
  tl_http_drain(http);
  client_expect_end(&idle);
  client_expect_end(&fresh);
  int fd = client_try_tcp(port);
  assert_true(fd < 0 && client_try_unix(socket_path) < 0);
  assert_int_equal(READ(n_held), 3);
  tell(WRITE_PIECES);
  usleep(300000); /* longer than two sweeps */
  assert_int_equal(tl_http_connections(http), 4);
  client_puts(&half, "\r\n\r\n");
  expect_held(&half, "now", true);
  tell(END_ALL);
  expect_held(&open, "begun,piece,", false); /* its header was sent before */
  expect_held(&hold, "held", true);
  expect_held(&two, "held", true);
  client_close(&idle);
  client_close(&fresh);
  CLIENT_WAIT(tl_http_connections(http) == 0);
  assert_int_equal(READ(n_aborted), 0);
  finish();
}

static void test_stop(void **state) {
  (void)state;
  start_plain();
  static const char *const requests[] = {"", "GET /no", GET("/hold"), GET("/open"), GET("/flood?100000000"), GET("/big?5000000"),
                                         "GET /now HTTP/1.0\r\n\r\n", "GET / HTTP/3\r\n\r\n"};
  struct client c[UNIT_COUNT(requests) * 4];
  for (unsigned i = 0; i < UNIT_COUNT(c); i++) {
    c[i] = i & 1 ? client_tcp(tl_http_port(http)) : client_unix(socket_path);
    client_puts(&c[i], requests[i / 4]);
  }
  CLIENT_WAIT(READ(n_held) == 8 && READ(n_full) >= 2 && READ(n_big) == 4);
  tl_http_stop(http);
  assert_int_equal(READ(n_aborted), 12);
  for (unsigned i = 0; i < UNIT_COUNT(c); i++) {
    client_read_end(&c[i]);
    client_close(&c[i]);
  }
  finish(); /* stopping twice is nothing */
}

/* --- figures -------------------------------------------------------------------------------------------------- */

static void test_figures(void **state) {
  (void)state;
  start_plain();
  struct client c = client_tcp(tl_http_port(http)), gone = client_tcp(tl_http_port(http));
  client_puts(&c, GET("/now") GET("/now") GET("/no") "POST /hold HTTP/1.1\r\n" H "\r\n");
  client_expect(&c, 200, "now");
  client_expect(&c, 200, "now");
  client_expect(&c, 404, NULL);
  client_expect(&c, 405, NULL);
  client_puts(&c, "nonsense\r\n\r\n");
  client_expect(&c, 501, NULL);
  client_puts(&gone, GET("/hold"));
  CLIENT_WAIT(READ(n_held) == 1);
  assert_true(client_metric(metrics, "tokenlane_http_connections") >= 1);
  client_close(&gone);
  client_close(&c);
  CLIENT_WAIT(tl_http_connections(http) == 0);
#define FIGURE(route, code, n) \
  assert_true(client_metric(metrics, "tokenlane_http_requests_total{route=\"" route "\",code=\"" code "\"}") == (n))
  FIGURE("/now", "200", 2);
  FIGURE("other", "404", 1);
  FIGURE("/hold", "405", 1);
  FIGURE("/hold", "other", 1); /* 499: the client left */
  FIGURE("other", "501", 1);
  assert_true(client_metric(metrics, "tokenlane_http_request_seconds_count{route=\"/now\"}") == 2);
  assert_true(client_metric(metrics, "tokenlane_http_request_seconds_sum{route=\"other\"}") < 60);
  assert_true(client_metric(metrics, "tokenlane_http_received_bytes_total") ==
              sizeof GET("/now") * 2 + sizeof GET("/no") + sizeof GET("/hold") - 4 + sizeof "POST /hold HTTP/1.1\r\nHost: a\r\n\r\n" - 1 +
                  sizeof "nonsense\r\n\r\n" - 1);
  assert_true(client_metric(metrics, "tokenlane_http_sent_bytes_total") > 500);
  finish();
}

static void test_sse(void **state) {
  (void)state;
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_http_sse(&out, "{}", 2);
  tl_http_sse(&out, "", 0);
  assert_string_equal(tl_buffer_string(&out), "data: {}\n\ndata: \n\n");
  tl_buffer_done(&out);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_header_limit),   cmocka_unit_test(test_body_limit),
      cmocka_unit_test(test_idle_limit),     cmocka_unit_test(test_write_limit),
      cmocka_unit_test(test_slow_is_not_late), cmocka_unit_test(test_gone),
      cmocka_unit_test(test_half_close),     cmocka_unit_test(test_slow_reader),
      cmocka_unit_test(test_unread_answers), cmocka_unit_test(test_unanswered_requests),
      cmocka_unit_test(test_drain),          cmocka_unit_test(test_stop),
      cmocka_unit_test(test_figures),        cmocka_unit_test(test_sse),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
