/* SPDX-License-Identifier: MIT */
/* How connections and answers end: in time, too late, with the client gone, by
 * draining, by stopping. */
#include "http_server.h"

/* --- time limits ------------------------------------------------------------------------------------- */

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
  o.idle_timeout_ns = TL_MS(250);
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
  CLIENT_WAIT(READ(n_held) == 0); /* the server closes first, then tells the handler */
  assert_int_equal(READ(n_aborted), 1);
  /* in the middle of a request */
  c = client_tcp(tl_http_port(http));
  client_puts(&c, "GET /now HT");
  shutdown(c.fd, SHUT_WR);
  client_expect_end(&c);
  client_close(&c);
  finish();
}

/* --- draining, stopping ------------------------------------------------------------------------------ */

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

/* --- figures ----------------------------------------------------------------------------------------- */

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
  tl_http_sse_begin(&out, NULL);
  tl_buffer_puts(&out, "{}");
  tl_http_sse_end(&out);
  tl_http_sse_begin(&out, "error");
  tl_http_sse_end(&out);
  assert_string_equal(tl_buffer_string(&out), "data: {}\n\nevent: error\ndata: \n\n");
  tl_buffer_done(&out);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_header_limit),
      cmocka_unit_test(test_body_limit),
      cmocka_unit_test(test_idle_limit),
      cmocka_unit_test(test_gone),
      cmocka_unit_test(test_half_close),
      cmocka_unit_test(test_drain),
      cmocka_unit_test(test_stop),
      cmocka_unit_test(test_figures),
      cmocka_unit_test(test_sse),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
