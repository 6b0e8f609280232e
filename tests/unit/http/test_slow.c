/* SPDX-License-Identifier: MIT */
/* What slow readers and eager writers cost: the server waits, holds little, and
 * cuts who takes nothing. */
#include "http_server.h"

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
  for (size_t quota = 125000; quota <= 4000000; quota += 125000) { /* 32 times 60 ms */
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

/* What `counter` is when it has stood still for 50 ms; it must before it is over `most`. */
#define STANDSTILL(counter, most)                                   \
  do {                                                              \
    for (size_t stood = 0; stood != READ(counter);) {               \
      stood = READ(counter);                                        \
      if (stood > (most)) fail_msg("%s is %zu", #counter, stood);   \
      usleep(50000);                                                \
    }                                                               \
  } while (0)

static void test_slow_reader(void **state) {
  (void)state;
  start_plain();
  struct client c = client_unix(socket_path);
  client_puts(&c, GET("/flood?6000000") GET("/now"));
  CLIENT_WAIT(READ(n_full) > 0);
  STANDSTILL(flooded, 1500000); /* the socket's buffer and max_write_queue_bytes */
  expect_body(&c, 6000000);
  client_expect(&c, 200, "now");
  assert_true(READ(n_room) > 0);
  assert_int_equal(READ(n_room), READ(n_full));
  client_close(&c);
  finish();
}

/* So many times the request, as one piece: a unix socket holds only some hundred pieces,
 * however small, and a server that waits for room takes none of them. */
static void send_times(struct client *c, const char *request, unsigned times) {
  struct tl_buffer all;
  tl_buffer_init(&all, 0);
  for (unsigned i = 0; i < times; i++) tl_buffer_puts(&all, request);
  client_puts(c, tl_buffer_string(&all));
  tl_buffer_done(&all);
}

/* Answers that nobody reads are not made: a thousand requests, 50 MB of answers. */
static void test_unread_answers(void **state) {
  (void)state;
  start_plain();
  struct client c = client_unix(socket_path);
  send_times(&c, GET("/big?50000"), 1000);
  CLIENT_WAIT(READ(n_big) > 0);
  STANDSTILL(n_big, 40);
  for (unsigned i = 0; i < 1000; i++) expect_body(&c, 50000);
  client_puts(&c, GET("/now"));
  client_expect(&c, 200, "now");
  client_close(&c);
  /* the same with an end behind the requests */
  c = client_unix(socket_path);
  send_times(&c, GET("/big?50000"), 100);
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

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_write_limit),
      cmocka_unit_test(test_slow_is_not_late),
      cmocka_unit_test(test_slow_reader),
      cmocka_unit_test(test_unread_answers),
      cmocka_unit_test(test_unanswered_requests),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
