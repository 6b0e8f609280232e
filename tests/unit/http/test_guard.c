/* SPDX-License-Identifier: MIT */
/* Who is let in before the body, and what pages of other origins are told. */
#include "http_server.h"

#define KEY "X-Key: k\r\n"
#define POST(fields) "POST /now HTTP/1.1\r\n" H fields

static _Atomic unsigned n_asked;

static int on_guard(struct tl_http_request *request, void *context, const char **ret_text) {
  (void)context;
  COUNT(n_asked);
  if (strcmp(tl_http_path(request), "/open") == 0 || tl_http_header(request, "X-Key")) return 0;
  tl_http_add_header(request, "WWW-Authenticate", "Bearer");
  *ret_text = "no key";
  return 401;
}

static void start_guarded(void) {
  guard = on_guard;
  n_asked = 0;
  start_plain();
}

static void finish_guarded(void) {
  finish();
  guard = NULL;
}

/* The next answer: its status; the value of a header in it, "" if it has none. */
static int answer_with(struct client *c, const char *name, char out[128]) {
  struct answer a;
  *out = 0;
  while (!(a = client_parse(c->got.data, c->got.length, false, c->eof)).complete) {
    tl_buffer_done(&a.body);
    if (c->eof) fail_msg("the connection ended");
    client_read(c, 1000);
  }
  client_field(c->got.data, a.head_length, name, out);
  tl_buffer_consume(&c->got, a.length);
  tl_buffer_done(&a.body);
  return a.status;
}

static void test_refused(void **state) {
  (void)state;
  char value[128];
  start_guarded();
  struct client c = client_tcp(tl_http_port(http));
  client_puts(&c, POST(KEY "Content-Length: 2\r\n\r\nhi"));
  client_expect(&c, 200, "now");
  client_puts(&c, POST("Content-Length: 2\r\n\r\nhi") POST(KEY "\r\n")); /* what is behind it is never seen */
  assert_int_equal(answer_with(&c, "WWW-Authenticate", value), 401);
  assert_string_equal(value, "Bearer");
  client_expect_end(&c);
  client_close(&c);
  assert_int_equal(READ(n_asked), 2);
  c = client_tcp(tl_http_port(http));
  client_puts(&c, GET("/big?1"));
  client_expect(&c, 401, "no key");
  client_close(&c);
  CLIENT_WAIT(client_metric(metrics, "tokenlane_http_requests_total{route=\"/big\",code=\"401\"}") == 1);
  assert_int_equal(READ(n_big), 0);
  finish_guarded();
}

/* The answer comes though no byte of the body has, and none is asked for. */
static void test_refused_before_the_body(void **state) {
  (void)state;
  start_guarded();
  struct client c = client_tcp(tl_http_port(http));
  client_puts(&c, POST("Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"));
  client_expect(&c, 401, "no key");
  client_expect_end(&c);
  client_close(&c);
  c = client_tcp(tl_http_port(http));
  client_puts(&c, POST(KEY "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"));
  client_expect(&c, 100, NULL);
  client_puts(&c, "hi");
  client_expect(&c, 200, "now");
  client_puts(&c, "OPTIONS /now HTTP/1.1\r\n" H "\r\n"); /* is not asked about */
  client_expect(&c, 405, NULL);
  client_puts(&c, "GET /nothing HTTP/1.1\r\n" H KEY "\r\n");
  client_expect(&c, 404, NULL);
  client_puts(&c, "GET /nothing HTTP/1.1\r\n" H "\r\n");
  client_expect(&c, 401, "no key");
  client_close(&c);
  finish_guarded();
}

#define PAGE "Origin: https://a.example\r\n"
#define PREFLIGHT "OPTIONS /now HTTP/1.1\r\n" H "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, x-b\r\n"

static void start_cors(const char *const *origins, unsigned n) {
  struct tl_http_options o = client_options();
  o.cors_origins = origins;
  o.n_cors_origins = n;
  guard = on_guard;
  start(&o);
}

/* What an answer to `request` says of `name`. */
static void expect_field(struct client *c, const char *request, int status, const char *name, const char *value) {
  char got[128];
  client_puts(c, request);
  assert_int_equal(answer_with(c, name, got), status);
  if (strcmp(got, value) != 0) fail_msg("%s: '%s' instead of '%s' after '%s'", name, got, value, request);
}

static void test_pages(void **state) {
  (void)state;
  static const char *const origins[] = {"http://b.example:8000", "https://a.example"};
  start_cors(origins, 2);
  struct client c = client_tcp(tl_http_port(http));
  expect_field(&c, PREFLIGHT PAGE "\r\n", 204, "Access-Control-Allow-Origin", "https://a.example");
  expect_field(&c, PREFLIGHT PAGE "\r\n", 204, "Access-Control-Allow-Headers", "authorization, x-b");
  expect_field(&c, PREFLIGHT PAGE "\r\n", 204, "Access-Control-Allow-Methods", "GET, POST");
  expect_field(&c, PREFLIGHT PAGE "\r\n", 204, "Content-Length", ""); /* RFC 9110, 8.6 */
  expect_field(&c, PREFLIGHT "Origin: https://c.example\r\n\r\n", 405, "Access-Control-Allow-Origin", "");
  expect_field(&c, PREFLIGHT "Origin: null\r\n\r\n", 405, "Access-Control-Allow-Origin", "");
  expect_field(&c, PREFLIGHT "\r\n", 405, "Access-Control-Allow-Origin", "");
  expect_field(&c, POST(KEY PAGE "\r\n"), 200, "Access-Control-Allow-Origin", "https://a.example");
  expect_field(&c, POST(KEY PAGE "\r\n"), 200, "Vary", "Origin");
  expect_field(&c, POST(KEY "\r\n"), 200, "Vary", "Origin");
  expect_field(&c, POST(KEY "Origin: https://a.example.evil\r\n\r\n"), 200, "Access-Control-Allow-Origin", "");
  expect_field(&c, "GET /flood?20000 HTTP/1.1\r\n" H KEY PAGE "\r\n", 200, "Access-Control-Allow-Origin", "https://a.example");
  expect_field(&c, POST(PAGE "\r\n"), 401, "Access-Control-Allow-Origin", "https://a.example"); /* the page can say why */
  client_close(&c);
  finish_guarded();
}

static void test_all_pages_or_none(void **state) {
  (void)state;
  static const char *const all[] = {"*"};
  start_cors(all, 1);
  struct client c = client_tcp(tl_http_port(http));
  expect_field(&c, PREFLIGHT PAGE "\r\n", 204, "Access-Control-Allow-Origin", "*");
  expect_field(&c, POST(KEY PAGE "\r\n"), 200, "Access-Control-Allow-Origin", "*");
  client_puts(&c, "GET /x HTTP/1.1\r\n" H PAGE "broken header\r\n\r\n"); /* nothing of it is looked at */
  client_expect(&c, 400, NULL);
  client_close(&c);
  finish_guarded();
  start_cors(NULL, 0);
  c = client_tcp(tl_http_port(http));
  expect_field(&c, PREFLIGHT PAGE "\r\n", 405, "Access-Control-Allow-Origin", "");
  expect_field(&c, POST(KEY PAGE "\r\n"), 200, "Access-Control-Allow-Origin", "");
  expect_field(&c, POST(KEY PAGE "\r\n"), 200, "Vary", "");
  client_close(&c);
  finish_guarded();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_refused),
      cmocka_unit_test(test_refused_before_the_body),
      cmocka_unit_test(test_pages),
      cmocka_unit_test(test_all_pages_or_none),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
