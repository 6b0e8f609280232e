/* SPDX-License-Identifier: MIT */
/* What is answered to which bytes. Each case of the tables is sent whole (TCP
 * and unix socket), byte by byte, and cut in two at every place: the answers
 * must be the same. Cases that end the connection are sent once more with a
 * request behind them, which must never be seen. */
#include "http_client.h"

#define MAX_URL 200
#define MAX_BODY 300
#define MAX_HEADER 1024
#define MAX_HEADERS 12

#define X16 "xxxxxxxxxxxxxxxx"
#define X64 X16 X16 X16 X16
#define X256 X64 X64 X64 X64
#define X1024 X256 X256 X256 X256
#define H "Host: a\r\n"
#define GET "GET /echo HTTP/1.1\r\n"
#define POST "POST /echo HTTP/1.1\r\n" H
#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"
#define PROBE "GET /echo?probe HTTP/1.1\r\n" H "\r\n"
#define PROBED "[/echo|probe|-|]"
#define SMUGGLED "GET /smuggled HTTP/1.1\r\n" H "\r\n"

enum after { OPEN, CLOSED };

struct wire {
  const char *name;
  const char *bytes;
  size_t length;
  const char *statuses; /* "200 404h": the h marks an answer without a body */
  enum after after;
  const char *has[4];   /* in this order in what comes */
  const char *has_not;
};
#define BYTES(text) (text), sizeof(text) - 1

static struct tl_http *http;
static char folder[64], socket_path[80];
static _Atomic unsigned n_smuggled;

/* --- handlers -------------------------------------------------------------------------- */

static void on_echo(struct tl_http_request *request, void *context) {
  (void)context;
  size_t length;
  const char *body = tl_http_body(request, &length), *test = tl_http_header(request, "x-test");
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_buffer_printf(&out, "[%s|%s|%s|", tl_http_path(request), tl_http_query(request), test ? test : "-");
  tl_buffer_append(&out, body, length);
  tl_buffer_putc(&out, ']');
  if (body[length] != 0) tl_buffer_puts(&out, "no NUL behind the body");
  tl_http_add_header(request, "X-Answer", "echo");
  tl_http_respond(request, 200, "text/plain", out.data, out.length);
  tl_buffer_done(&out);
}

static void on_exact(struct tl_http_request *request, void *context) {
  (void)context;
  tl_http_respond(request, 200, "text/plain", "[exact]", 7);
}

static void on_stream(struct tl_http_request *request, void *context) {
  (void)context;
  tl_http_begin(request, 200, "text/event-stream");
  tl_http_write(request, "one,", 4);
  tl_http_write(request, "", 0);
  tl_http_write(request, "two,three", 9);
  tl_http_end(request);
}

static void on_smuggled(struct tl_http_request *request, void *context) {
  (void)context;
  atomic_fetch_add_explicit(&n_smuggled, 1, memory_order_relaxed); /* read after an answer */
  tl_http_respond(request, 200, "text/plain", "smuggled", 8);
}

static const char *error_body(const struct tl_http_request *request, int status, const char *message, struct tl_buffer *out) {
  (void)request;
  tl_buffer_printf(out, "<%d %s>", status, message);
  return "text/x-error";
}

/* --- what is right ------------------------------------------------------------------------ */

static const struct wire right[] = {
    {"get", BYTES(GET H "\r\n"), "200", OPEN, {"HTTP/1.1 200 OK\r\n", "Content-Type: text/plain\r\n", "X-Answer: echo\r\n", "[/echo||-|]"}, "Connection:"},
    {"get, query", BYTES("GET /echo?a=b&c=%20?/ HTTP/1.1\r\n" H "\r\n"), "200", OPEN, {"[/echo|a=b&c=%20?/|-|]"}, 0},
    {"header: blanks around, any case of the name", BYTES(GET H "x-TEST: \t a  b \t \r\n\r\n"), "200", OPEN, {"|a  b|"}, 0},
    {"header: no blank", BYTES(GET "host:a\r\nX-Test:ab\r\n\r\n"), "200", OPEN, {"|ab|"}, 0},
    {"header: empty value", BYTES(GET H "X-Test:\r\n\r\n"), "200", OPEN, {"[/echo|||]"}, 0},
    {"header: empty value at the end, blanks", BYTES(GET H "X-Test: \t \r\n\r\n"), "200", OPEN, {"[/echo|||]"}, 0},
    {"header: the first of two", BYTES(GET H "X-Test: 1\r\nX-Test: 2\r\n\r\n"), "200", OPEN, {"|1|"}, 0},
    {"header: bytes above ASCII in a value", BYTES(GET H "X-Test: \xc3\xa4\r\n\r\n"), "200", OPEN, {"|\xc3\xa4|"}, 0},
    {"header: odd characters of names", BYTES(GET H "!#$%&'*+-.^_`|~09aZ: 1\r\n\r\n"), "200", OPEN, {"[/echo|"}, 0},
    {"header: just below the limit of lines", BYTES(GET H "a:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\ni:\r\nj:\r\nk:\r\n\r\n"), "200", OPEN, {0}, 0},
    {"url: just below the limit", BYTES("GET /echo?" X64 X64 X16 X16 X16 X16 "xx HTTP/1.1\r\n" H "\r\n"), "200", OPEN, {"|" X64 X64 X64 "xx|"}, 0},
    {"empty lines before a request", BYTES("\r\n\r\n" GET H "\r\n"), "200", OPEN, {"[/echo|"}, 0},
    {"Connection: close", BYTES(GET H "Connection: close\r\n\r\n"), "200", CLOSED, {"Connection: close\r\n", "[/echo|"}, 0},
    {"Connection: a list with Close", BYTES(GET H "Connection: x, Close\r\n\r\n"), "200", CLOSED, {"Connection: close\r\n"}, 0},
    {"1.0", BYTES("GET /echo HTTP/1.0\r\n\r\n"), "200", CLOSED, {"Connection: close\r\n", "[/echo|"}, 0},
    {"1.0 keep-alive", BYTES("GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), "200", OPEN, {"Connection: keep-alive\r\n", "[/echo|"}, 0},
    {"1.0 with a body", BYTES("POST /echo HTTP/1.0\r\nContent-Length: 2\r\n\r\nab"), "200", CLOSED, {"|ab]"}, 0},
    {"1.0, the expectation is ignored", BYTES("POST /echo HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nab"), "200", CLOSED, {"|ab]"}, 0},
    {"1.0 stream: until close", BYTES("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), "200", CLOSED, {"Connection: close\r\n", "\r\none,two,three"}, "Transfer-Encoding"},
    {"stream", BYTES("GET /stream HTTP/1.1\r\n" H "\r\n"), "200", OPEN, {"Transfer-Encoding: chunked\r\n", "\r\n4\r\none,\r\n9\r\ntwo,three\r\n0\r\n\r\n"}, "Content-Length"},
    {"stream, Connection: close", BYTES("GET /stream HTTP/1.1\r\n" H "Connection: close\r\n\r\n"), "200", CLOSED, {"Connection: close\r\n", "0\r\n\r\n"}, 0},
    {"HEAD", BYTES("HEAD /echo HTTP/1.1\r\n" H "\r\n"), "200h", OPEN, {"Content-Type: text/plain\r\n", "X-Answer: echo\r\n", "Content-Length: 11\r\n"}, "["},
    {"HEAD of a stream", BYTES("HEAD /stream HTTP/1.1\r\n" H "\r\n"), "200h", OPEN, {"Transfer-Encoding: chunked\r\n"}, "one"},
    {"HEAD 404", BYTES("HEAD /no HTTP/1.1\r\n" H "\r\n"), "404h", OPEN, {"Content-Length: "}, "<"},
    {"HEAD 405", BYTES("HEAD /post HTTP/1.1\r\n" H "\r\n"), "405h", OPEN, {"Allow: POST\r\n"}, "<"},
    {"404", BYTES("GET /no HTTP/1.1\r\n" H "\r\n"), "404", OPEN, {"Content-Type: text/x-error\r\n", "<404 "}, 0},
    {"404: a path is exact", BYTES("GET /echo/ HTTP/1.1\r\n" H "\r\nGET /ech HTTP/1.1\r\n" H "\r\nGET /ECHO HTTP/1.1\r\n" H "\r\nGET /%65cho HTTP/1.1\r\n" H "\r\n"), "404 404 404 404", OPEN, {0}, 0},
    {"405, Allow", BYTES("DELETE /echo HTTP/1.1\r\n" H "\r\n"), "405", OPEN, {"Allow: GET, HEAD, POST\r\n", "<405 "}, 0},
    {"405 GET", BYTES("GET /post HTTP/1.1\r\n" H "\r\n"), "405", OPEN, {"Allow: POST\r\n"}, 0},
    {"405 POST, the body is taken", BYTES("POST /stream HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc"), "405", OPEN, {"Allow: GET, HEAD\r\n"}, "POST"},
    {"OPTIONS", BYTES("OPTIONS /echo HTTP/1.1\r\n" H "\r\nOPTIONS * HTTP/1.1\r\n" H "\r\n"), "405 404", OPEN, {"Allow: GET, HEAD, POST\r\n"}, 0},
    {"absolute-form", BYTES("GET http://b.c:80/echo?x HTTP/1.1\r\n" H "\r\n"), "200", OPEN, {"[/echo|x|"}, 0},
    {"absolute-form, capitals", BYTES("GET HTTP://B/echo HTTP/1.1\r\n" H "\r\n"), "200", OPEN, {"[/echo||"}, 0},
    {"absolute-form without a path", BYTES("GET http://b HTTP/1.1\r\n" H "\r\n"), "200", OPEN, {"[/||"}, 0},
    {"absolute-form without a path, query", BYTES("GET http://b?x=/echo HTTP/1.1\r\n" H "\r\n"), "200", OPEN, {"[/|x=/echo|"}, 0},
    {"Host: empty", BYTES(GET "Host:\r\n\r\n"), "200", OPEN, {0}, 0},
    {"Host: port", BYTES(GET "Host: a.b-c:8080\r\n\r\n"), "200", OPEN, {0}, 0},
    {"Host: IPv6", BYTES(GET "Host: [::1]:80\r\n\r\n"), "200", OPEN, {0}, 0},
    {"Upgrade is ignored", BYTES(GET H "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), "200", OPEN, {"[/echo|"}, 0},
    {"Upgrade to h2c is ignored", BYTES(POST "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nContent-Length: 2\r\n\r\nab"), "200", OPEN, {"|ab]"}, 0},
};

static const struct wire bodies[] = {
    {"length", BYTES(POST "Content-Length: 5\r\nX-Test: t\r\n\r\na\r\nb\0"), "200", OPEN, {"[/echo||t|a\r\nb"}, 0},
    {"length 0", BYTES(POST "Content-Length: 0\r\n\r\n"), "200", OPEN, {"|-|]"}, 0},
    {"length, leading zeros", BYTES(POST "Content-Length: 0002\r\n\r\nab"), "200", OPEN, {"|ab]"}, 0},
    {"no length, no coding: no body", BYTES(POST "\r\n"), "200", OPEN, {"|-|]"}, 0},
    {"a body for GET is taken", BYTES(GET H "Content-Length: 2\r\n\r\nab"), "200", OPEN, {"|ab]"}, 0},
    {"at the limit", BYTES(POST "Content-Length: 300\r\n\r\n" X256 X16 X16 "xxxxxxxxxxxx"), "200", OPEN, {X16 "]"}, 0},
    {"chunked", BYTES(CHUNKED "3\r\nabc\r\n0a\r\n0123456789\r\n0\r\n\r\n"), "200", OPEN, {"|abc0123456789]"}, 0},
    {"chunked, any case of the name", BYTES(POST "transfer-ENCODING: CHUNKED\r\n\r\n1\r\na\r\n0\r\n\r\n"), "200", OPEN, {"|a]"}, 0},
    {"chunked, nothing in it", BYTES(CHUNKED "0\r\n\r\n"), "200", OPEN, {"|-|]"}, 0},
    {"chunk extensions", BYTES(CHUNKED "2;a\r\nab\r\n1;b=c\r\nc\r\n0;z\r\n\r\n"), "200", OPEN, {"|abc]"}, 0},
    {"chunk extensions in quotes", BYTES(CHUNKED "2;a=\"b\"\r\nab\r\n0\r\n\r\n"), "200", OPEN, {"|ab]"}, 0},
    {"chunk extensions in quotes, two", BYTES(CHUNKED "2;a=\"b\";c\r\nab\r\n0\r\n\r\n"), "200", OPEN, {"|ab]"}, 0},
    {"trailers are dropped", BYTES(CHUNKED "1\r\na\r\n0\r\nX-Test: no\r\nHost: b\r\nContent-Length: 9\r\n\r\n"), "200", OPEN, {"|-|a]"}, 0},
    {"chunks at the limit", BYTES(CHUNKED "100\r\n" X256 "\r\n2c\r\n" X16 X16 "xxxxxxxxxxxx\r\n0\r\n\r\n"), "200", OPEN, {X16 "]"}, 0},
    {"two requests", BYTES(GET H "X-Test: 1\r\n\r\n" GET H "X-Test: 2\r\n\r\n"), "200 200", OPEN, {"|1|", "|2|"}, 0},
    {"bodies between requests", BYTES(POST "Content-Length: 3\r\n\r\nabc" GET H "X-Test: 2\r\n\r\n" CHUNKED "2\r\nde\r\n0\r\n\r\n" GET H "X-Test: 4\r\n\r\n"), "200 200 200 200", OPEN, {"|abc]", "|2|", "|de]", "|4|"}, 0},
    {"all kinds in a row", BYTES("HEAD /echo HTTP/1.1\r\n" H "\r\nGET /stream HTTP/1.1\r\n" H "\r\nGET /no HTTP/1.1\r\n" H "\r\n\r\n\r\n" CHUNKED "1\r\na\r\n0\r\nT: 1\r\n\r\n" GET H "Connection: close\r\n\r\n"), "200h 200 404 200 200", CLOSED, {"X-Answer", "two,three", "|a]", "Connection: close"}, 0},
    {"nothing after Connection: close", BYTES(GET H "Connection: close\r\n\r\n" SMUGGLED), "200", CLOSED, {0}, 0},
    {"a request in a body", BYTES(POST "Content-Length: 45\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n12345678\r\n"), "200", OPEN, {"HTTP/1.1\r\nHost"}, 0},
    {"expect, length", BYTES(POST "Content-Length: 2\r\nExpect: 100-continue\r\n\r\nab"), "100 200", OPEN, {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200", "|ab]"}, 0},
    {"expect, chunked, capitals", BYTES(POST "Transfer-Encoding: chunked\r\nExpect: 100-Continue\r\n\r\n1\r\na\r\n0\r\n\r\n"), "100 200", OPEN, {"|a]"}, 0},
    {"expect without a body", BYTES(GET H "Expect: 100-continue\r\n\r\n"), "200", OPEN, {0}, 0},
    {"expect after another request", BYTES(GET H "\r\n" POST "Content-Length: 1\r\nExpect: 100-continue\r\n\r\na" GET H "\r\n"), "200 100 200 200", OPEN, {0}, 0},
};

/* --- what is wrong: one answer at most, then the end -------------------------------------------- */

static const struct wire wrong_lines[] = {
    {"garbage", BYTES("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), "400", CLOSED, {"Connection: close\r\n", "<400 "}, 0},
    {"garbage in letters", BYTES("hello, world\r\n\r\n"), "501", CLOSED, {0}, 0},
    {"method in small letters", BYTES("get /echo HTTP/1.1\r\n" H "\r\n"), "501", CLOSED, {0}, 0},
    {"method unknown", BYTES("FETCH /echo HTTP/1.1\r\n" H "\r\n"), "501", CLOSED, {0}, 0},
    {"CONNECT", BYTES("CONNECT a:80 HTTP/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"0.9", BYTES("GET /echo\r\n\r\n"), "505", CLOSED, {0}, 0},
    {"1.2", BYTES("GET /echo HTTP/1.2\r\n" H "\r\n"), "505", CLOSED, {0}, 0},
    {"2.0", BYTES("GET /echo HTTP/2.0\r\n" H "\r\n"), "505", CLOSED, {0}, 0},
    {"HTTP/2 preface", BYTES("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "505", CLOSED, {0}, 0},
    {"version in small letters", BYTES("GET /echo http/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"version of one figure", BYTES("GET /echo HTTP/1\r\n" H "\r\n"), "505", CLOSED, {0}, 0},
    {"something after the version", BYTES("GET /echo HTTP/1.1 x\r\n" H "\r\n"), "505", CLOSED, {0}, 0},
    {"a blank after the version", BYTES("GET /echo HTTP/1.1 \r\n" H "\r\n"), "505", CLOSED, {0}, 0},
    {"NUL in the target", BYTES("GET /ec\0ho HTTP/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"a control byte in the target", BYTES("GET /ec\x01ho HTTP/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"a tabulator in the target", BYTES("GET /ec\tho HTTP/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"a byte above ASCII in the target", BYTES("GET /\xc3\xa4 HTTP/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"target without a slash", BYTES("GET echo HTTP/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"two blanks before the target", BYTES("GET  /echo HTTP/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"two blanks before the version", BYTES("GET /echo  HTTP/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"no target", BYTES("GET  HTTP/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"another scheme", BYTES("GET https://a/echo HTTP/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"absolute-form without a host", BYTES("GET http:///echo HTTP/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"absolute-form with a user", BYTES("GET http://u@a/echo HTTP/1.1\r\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"url too long", BYTES("GET /" X256 " HTTP/1.1\r\n" H "\r\n"), "414", CLOSED, {"<414 "}, 0},
    {"url too long, no end in sight", BYTES("GET /" X256), "414", CLOSED, {0}, 0},
    {"a second request is wrong", BYTES(GET H "\r\nget /echo HTTP/1.1\r\n" H "\r\n"), "200 501", CLOSED, {"[/echo|", "Connection: close\r\n"}, 0},
    {"bare LF everywhere", BYTES("GET /echo HTTP/1.1\nHost: a\n\n"), "400", CLOSED, {0}, 0},
    {"bare LF after the request line", BYTES("GET /echo HTTP/1.1\n" H "\r\n"), "400", CLOSED, {0}, 0},
    {"bare LF after a header", BYTES(GET "Host: a\nX-Test: 1\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"bare LF as the end", BYTES(GET H "\n"), "400", CLOSED, {0}, 0},
    {"bare CR after the request line", BYTES("GET /echo HTTP/1.1\rHost: a\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"bare CR in a value", BYTES(GET H "X-Test: a\rb\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"two CR", BYTES(GET "Host: a\r\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"CR, CR, LF as the end", BYTES(GET H "\r\r\n"), "400", CLOSED, {0}, 0},
};

static const struct wire wrong_headers[] = {
    {"Host missing", BYTES(GET "X-Test: 1\r\n\r\n"), "400", CLOSED, {"<400 "}, 0},
    {"Host twice", BYTES(GET H H "\r\n"), "400", CLOSED, {0}, 0},
    {"Host twice in 1.0", BYTES("GET /echo HTTP/1.0\r\n" H H "\r\n"), "400", CLOSED, {0}, 0},
    {"Host: two words", BYTES(GET "Host: a b\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"Host: a list", BYTES(GET "Host: a, b\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"Host: a path", BYTES(GET "Host: a/b\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"Host: a user", BYTES(GET "Host: u@a\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"Host: letters as a port", BYTES(GET "Host: a:b\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"Host: an open bracket", BYTES(GET "Host: [::1\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"Host: a byte above ASCII", BYTES(GET "Host: \xe4\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"folded line", BYTES(GET H "X-Test: a\r\n b\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"folded line, tabulator", BYTES(GET H "X-Test: a\r\n\tb\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"folded first line", BYTES(GET " Host: a\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"a line of blanks", BYTES(GET H " \r\n\r\n"), "400", CLOSED, {0}, 0},
    {"blank before the colon", BYTES(GET "Host : a\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"tabulator before the colon", BYTES(GET H "Content-Length\t: 1\r\n\r\na"), "400", CLOSED, {0}, 0},
    {"empty name", BYTES(GET H ": a\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"no colon", BYTES(GET H "X-Test\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"a bad byte in a name", BYTES(GET H "X(Test: 1\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"a byte above ASCII in a name", BYTES(GET H "X\xe4: 1\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"NUL in a name", BYTES(GET H "X\0Y: 1\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"NUL in a value", BYTES(GET H "X-Test: a\0b\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"a control byte in a value", BYTES(GET H "X-Test: a\x02\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"DEL in a value", BYTES(GET H "X-Test: a\x7f\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"a form feed before a value", BYTES(GET H "X-Test:\f1\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"header too large", BYTES(GET H "X-Test: " X1024 "\r\n\r\n"), "431", CLOSED, {"<431 "}, 0},
    {"header too large, name without an end", BYTES(GET H X1024), "431", CLOSED, {0}, 0},
    {"header too large, many lines", BYTES(GET H "A: " X256 "\r\nB: " X256 "\r\nC: " X256 "\r\nD: " X256 "\r\n\r\n"), "431", CLOSED, {0}, 0},
    {"too many lines", BYTES(GET H "a:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\ni:\r\nj:\r\nk:\r\nl:\r\n\r\n"), "431", CLOSED, {"<431 "}, 0},
    {"HEAD gets no body with an error", BYTES("HEAD /echo HTTP/1.1\r\n" H ": a\r\n\r\n"), "400h", CLOSED, {"Content-Length: "}, "<400"},
    {"HEAD without Host", BYTES("HEAD /echo HTTP/1.1\r\n\r\n"), "400h", CLOSED, {0}, "<400"},
    {"expectation unknown", BYTES(POST "Content-Length: 2\r\nExpect: 200-ok\r\n\r\nab"), "417", CLOSED, {"<417 "}, 0},
    {"expectation in a list", BYTES(POST "Content-Length: 2\r\nExpect: 100-continue, x\r\n\r\nab"), "417", CLOSED, {0}, "Continue"},
};

static const struct wire wrong_bodies[] = {
    {"coding and length", BYTES(POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"length and coding", BYTES(POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"coding twice", BYTES(POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"coding in 1.0", BYTES("POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"gzip", BYTES(POST "Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n"), "501", CLOSED, {0}, 0},
    {"gzip, chunked", BYTES(POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), "501", CLOSED, {0}, 0},
    {"chunked, gzip", BYTES(POST "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"chunked, identity", BYTES(POST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"xchunked", BYTES(POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), "501", CLOSED, {0}, 0},
    {"coding empty", BYTES(POST "Transfer-Encoding:\r\n\r\n0\r\n\r\n"), "501", CLOSED, {0}, 0},
    {"length negative", BYTES(POST "Content-Length: -1\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"length with a plus", BYTES(POST "Content-Length: +1\r\n\r\na"), "400", CLOSED, {0}, 0},
    {"length empty", BYTES(POST "Content-Length:\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"length in letters", BYTES(POST "Content-Length: a\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"length hexadecimal", BYTES(POST "Content-Length: 0x1\r\n\r\na"), "400", CLOSED, {0}, 0},
    {"length of two figures", BYTES(POST "Content-Length: 1 1\r\n\r\na"), "400", CLOSED, {0}, 0},
    {"length as a list", BYTES(POST "Content-Length: 1, 1\r\n\r\na"), "400", CLOSED, {0}, 0},
    {"length twice", BYTES(POST "Content-Length: 1\r\nContent-Length: 2\r\n\r\na"), "400", CLOSED, {0}, 0},
    {"length twice, equal", BYTES(POST "Content-Length: 1\r\nContent-Length: 1\r\n\r\na"), "400", CLOSED, {0}, 0},
    {"length past 64 bits", BYTES(POST "Content-Length: 18446744073709551617\r\n\r\na"), "400", CLOSED, {0}, 0},
    {"length huge", BYTES(POST "Content-Length: 18446744073709551615\r\n\r\n"), "413", CLOSED, {"<413 "}, 0},
    {"body over the limit, announced", BYTES(POST "Content-Length: 301\r\n\r\n"), "413", CLOSED, {0}, 0},
    {"body over the limit, announced and sent", BYTES(POST "Content-Length: 301\r\n\r\n" X256 X64), "413", CLOSED, {0}, 0},
    {"body over the limit, expectation", BYTES(POST "Content-Length: 301\r\nExpect: 100-continue\r\n\r\n"), "413", CLOSED, {0}, "Continue"},
    {"body over the limit, one chunk", BYTES(CHUNKED "12d\r\n" X256 X64), "413", CLOSED, {"<413 "}, 0},
    {"body over the limit, chunks", BYTES(CHUNKED "100\r\n" X256 "\r\n2d\r\n" X64), "413", CLOSED, {0}, 0},
    {"chunk size: no figure", BYTES(CHUNKED "\r\n"), "400", CLOSED, {0}, 0},
    {"chunk size: a letter", BYTES(CHUNKED "g\r\n"), "400", CLOSED, {0}, 0},
    {"chunk size: negative", BYTES(CHUNKED "-1\r\na\r\n"), "400", CLOSED, {0}, 0},
    {"chunk size: 0x", BYTES(CHUNKED "0x1\r\na\r\n"), "400", CLOSED, {0}, 0},
    {"chunk size: blank before", BYTES(CHUNKED " 1\r\na\r\n"), "400", CLOSED, {0}, 0},
    {"chunk size: blank behind", BYTES(CHUNKED "1 \r\na\r\n"), "400", CLOSED, {0}, 0},
    {"chunk size: past 64 bits", BYTES(CHUNKED "10000000000000001\r\na\r\n"), "400", CLOSED, {0}, 0},
    {"chunk size: bare LF", BYTES(CHUNKED "1\na\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"chunk size: bare CR", BYTES(CHUNKED "1\ra\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"chunk longer than its size", BYTES(CHUNKED "1\r\nab\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"chunk data: bare LF behind", BYTES(CHUNKED "1\r\na\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"chunk extension: bare LF", BYTES(CHUNKED "1;a\na\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"chunk extension: bare LF in a value", BYTES(CHUNKED "1;a=b\na\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"chunk extension: bare LF in quotes", BYTES(CHUNKED "1;a=\"\n\"\r\na\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"chunk extension: NUL", BYTES(CHUNKED "1;a\0b\r\na\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"chunk extensions too large", BYTES(CHUNKED "1;" X1024 "x\r\na\r\n0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"the end of chunks: bare LF", BYTES(CHUNKED "0\r\n\n"), "400", CLOSED, {0}, 0},
    {"the end of chunks: something else", BYTES(CHUNKED "0\r\n\rX"), "400", CLOSED, {0}, 0},
    {"trailer: bare LF", BYTES(CHUNKED "0\r\nX-Test: 1\n\r\n"), "400", CLOSED, {0}, 0},
    {"trailer: NUL", BYTES(CHUNKED "0\r\nX-Test: \0\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"trailer: bare CR", BYTES(CHUNKED "0\r\nX-Test: a\rb: c\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"trailer: folded", BYTES(CHUNKED "0\r\nX-Test: a\r\n b\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"trailer: blank before the colon", BYTES(CHUNKED "0\r\nX-Test : a\r\n\r\n"), "400", CLOSED, {0}, 0},
    {"trailers too large", BYTES(CHUNKED "0\r\nX-Test: " X1024 "\r\n\r\n"), "431", CLOSED, {0}, 0},
};

/* --- running a case --------------------------------------------------------------------------- */

/* Reads the answers that are expected; all that came is added to raw. */
static void read_answers(struct client *c, const struct wire *w, const char *how, size_t cut, struct tl_buffer *raw) {
  for (const char *at = w->statuses; *at; at += strspn(at, " ")) {
    char *end;
    int status = (int)strtol(at, &end, 10);
    bool is_head = *end == 'h';
    at = end + is_head;
    struct answer a;
    while (!(a = client_parse(c->got.data, c->got.length, is_head, c->eof)).complete && !c->eof) {
      if (!client_read(c, 10000) && !c->eof) fail_msg("%s (%s, %zu): no answer, expected %d", w->name, how, cut, status);
    }
    if (a.status != status || !a.complete)
      fail_msg("%s (%s, %zu): %d instead of %d: %.*s", w->name, how, cut, a.status, status, (int)c->got.length, c->got.data);
    tl_buffer_append(raw, c->got.data, a.length);
    tl_buffer_consume(&c->got, a.length);
    tl_buffer_done(&a.body);
  }
}

static void check_case(struct client *c, const struct wire *w, const char *how, size_t cut) {
  struct tl_buffer raw;
  tl_buffer_init(&raw, 0);
  read_answers(c, w, how, cut, &raw);
  const char *at = tl_buffer_string(&raw);
  if (w->has_not && strstr(at, w->has_not)) fail_msg("%s (%s, %zu): '%s' in %s", w->name, how, cut, w->has_not, at);
  for (size_t i = 0; i < UNIT_COUNT(w->has) && w->has[i]; i++) {
    const char *found = strstr(at, w->has[i]);
    if (!found) fail_msg("%s (%s, %zu): no '%s' in %s", w->name, how, cut, w->has[i], raw.data);
    at = found + strlen(w->has[i]);
  }
  tl_buffer_done(&raw);
  if (w->after == CLOSED) {
    client_read_end(c);
    if (c->reset) fail_msg("%s (%s, %zu): reset", w->name, how, cut);
  } else if (!c->eof) { /* what follows is understood as it should be */
    client_send(c, BYTES(PROBE));
    struct answer a;
    if (!client_try_answer(c, false, &a) || strcmp(tl_buffer_string(&a.body), PROBED) != 0)
      fail_msg("%s (%s, %zu): closed or out of step", w->name, how, cut);
    tl_buffer_done(&a.body);
  } else {
    fail_msg("%s (%s, %zu): closed", w->name, how, cut);
  }
  if (c->got.length) fail_msg("%s (%s, %zu): more than expected: %.*s", w->name, how, cut, (int)c->got.length, c->got.data);
  client_close(c);
}

static void send_whole(const struct wire *w) {
  struct client c = client_tcp(tl_http_port(http));
  client_send(&c, w->bytes, w->length);
  check_case(&c, w, "TCP", 0);
  c = client_unix(socket_path);
  client_send(&c, w->bytes, w->length);
  check_case(&c, w, "whole", 0);
}

static void send_bytes(const struct wire *w) {
  struct client c = client_unix(socket_path);
  for (size_t i = 0; i < w->length; i++) {
    client_send(&c, w->bytes + i, 1);
    client_wait_taken(&c);
  }
  check_case(&c, w, "byte by byte", 0);
}

/* Every cut; sanitized builds take some of them. */
static void send_cut(const struct wire *w, uint64_t *random) {
  for (size_t cut = 1; cut < w->length; cut += 1 + unit_below(random, UNIT_SLOWDOWN)) {
    struct client c = client_unix(socket_path);
    client_send(&c, w->bytes, cut);
    client_wait_taken(&c);
    client_send(&c, w->bytes + cut, w->length - cut);
    check_case(&c, w, "cut", cut);
  }
}

/* With another request behind: in the same packet, and in one of its own. */
static void send_more(const struct wire *w) {
  struct tl_buffer both;
  tl_buffer_init(&both, 0);
  tl_buffer_append(&both, w->bytes, w->length);
  tl_buffer_puts(&both, "\r\n\r\n" SMUGGLED SMUGGLED);
  struct client c = client_unix(socket_path);
  client_send(&c, both.data, both.length);
  check_case(&c, w, "more", 0);
  c = client_unix(socket_path);
  client_send(&c, w->bytes, w->length);
  client_wait_taken(&c);
  client_send(&c, BYTES(SMUGGLED SMUGGLED));
  check_case(&c, w, "more, later", 0);
  tl_buffer_done(&both);
}

static void run(const struct wire *table, size_t n) {
  uint64_t random = 3;
  const char *only = getenv("TL_TEST_CASE");
  for (size_t i = 0; i < n; i++) {
    if (only && !strstr(table[i].name, only)) continue;
    send_whole(&table[i]);
    send_bytes(&table[i]);
    send_cut(&table[i], &random);
    if (table[i].after == CLOSED) send_more(&table[i]);
    if (atomic_load_explicit(&n_smuggled, memory_order_relaxed)) fail_msg("%s: smuggled", table[i].name);
  }
}

static void test_right(void **state) {
  (void)state;
  run(right, UNIT_COUNT(right));
}

static void test_bodies(void **state) {
  (void)state;
  run(bodies, UNIT_COUNT(bodies));
}

static void test_wrong_lines(void **state) {
  (void)state;
  run(wrong_lines, UNIT_COUNT(wrong_lines));
}

static void test_wrong_headers(void **state) {
  (void)state;
  run(wrong_headers, UNIT_COUNT(wrong_headers));
}

static void test_wrong_bodies(void **state) {
  (void)state;
  run(wrong_bodies, UNIT_COUNT(wrong_bodies));
}

/* --- what no table holds ------------------------------------------------------------------------ */

/* The client waits for 100 before it sends, and for 413 instead of sending. */
static void test_expect_waits(void **state) {
  (void)state;
  struct client c = client_tcp(tl_http_port(http));
  client_puts(&c, POST "Content-Length: 3\r\nExpect: 100-continue\r\n\r\n");
  struct answer a;
  assert_true(client_try_answer(&c, false, &a));
  assert_int_equal(a.status, 100);
  assert_int_equal(a.length, strlen("HTTP/1.1 100 Continue\r\n\r\n"));
  client_puts(&c, "abc");
  client_expect(&c, 200, "[/echo||-|abc]");
  client_puts(&c, POST "Content-Length: 301\r\nExpect: 100-continue\r\n\r\n");
  client_expect(&c, 413, NULL);
  client_expect_end(&c);
  client_close(&c);
}

/* A client that does not look before it has sent all still finds the answer. */
static void test_413_is_not_lost(void **state) {
  (void)state;
  static char junk[400000];
  struct client c = client_tcp(tl_http_port(http));
  client_puts(&c, POST "Content-Length: 400000\r\n\r\n");
  assert_true(client_send(&c, junk, sizeof junk));
  client_expect(&c, 413, NULL);
  client_expect_end(&c);
  assert_false(c.reset);
  client_close(&c);
}

/* HEAD answers with the header of GET, to the byte but for the date; the request's id is the client's. */
static void test_head_like_get(void **state) {
  (void)state;
  static const char *const paths[] = {"/echo?abc", "/stream", "/no", "/post"};
  for (size_t i = 0; i < UNIT_COUNT(paths); i++) {
    char heads[2][1024], request[128], date[128];
    for (unsigned m = 0; m < 2; m++) {
      struct client c = client_tcp(tl_http_port(http));
      snprintf(request, sizeof request, "%s %s HTTP/1.1\r\n" H "X-Request-Id: mine\r\n\r\n", m ? "HEAD" : "GET", paths[i]);
      client_puts(&c, request);
      while (!client_parse(c.got.data, c.got.length, true, false).complete) assert_true(client_read(&c, 10000));
      struct answer a = client_parse(c.got.data, c.got.length, true, false);
      assert_true(client_field(c.got.data, a.head_length, "Date", date));
      assert_int_equal(strlen(date), strlen("Sun, 06 Nov 1994 08:49:37 GMT"));
      snprintf(heads[m], sizeof heads[m], "%.*s", (int)a.head_length, c.got.data);
      memset(strstr(heads[m], date), '-', strlen(date));
      client_close(&c);
    }
    assert_string_equal(heads[0], heads[1]);
  }
}

static void test_prefix_routes(void **state) {
  (void)state;
  static const struct {
    const char *path;
    int status;
    const char *body;
  } cases[] = {{"/under/a", 200, "[/under/a||-|]"},   {"/under/a/b%2Fc?q", 200, "[/under/a/b%2Fc|q|-|]"},
               {"/under/", 404, NULL},                {"/under", 404, NULL},
               {"/under/exact", 200, "[exact]"},      {"/under/exactly", 200, "[/under/exactly||-|]"}};
  struct client c = client_unix(socket_path);
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    char request[128];
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\n" H "\r\n", cases[i].path);
    client_puts(&c, request);
    client_expect(&c, cases[i].status, cases[i].body);
  }
  client_puts(&c, "POST /under/a HTTP/1.1\r\n" H "Content-Length: 0\r\n\r\n");
  client_expect(&c, 405, NULL);
  client_close(&c);
}

/* A large body in pieces of odd sizes, a thousand requests on one connection. */
static void test_many_requests(void **state) {
  (void)state;
  uint64_t random = 9;
  struct client c = client_unix(socket_path);
  struct tl_buffer bytes;
  tl_buffer_init(&bytes, 0);
  for (unsigned i = 0; i < 1000; i++)
    tl_buffer_printf(&bytes, "POST /echo?%u HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n2\r\nef\r\n0\r\n\r\n", i);
  for (size_t at = 0, n; at < bytes.length; at += n) {
    n = 1 + unit_below(&random, 700);
    if (n > bytes.length - at) n = bytes.length - at;
    assert_true(client_send(&c, bytes.data + at, n));
  }
  for (unsigned i = 0; i < 1000; i++) {
    char body[64];
    snprintf(body, sizeof body, "[/echo|%u|-|abcdef]", i);
    client_expect(&c, 200, body);
  }
  client_puts(&c, PROBE);
  client_expect(&c, 200, PROBED);
  client_close(&c);
  tl_buffer_done(&bytes);
}

/* --- the server ------------------------------------------------------------------------------------ */

static int set_up(void **state) {
  (void)state;
  signal(SIGPIPE, SIG_IGN);
  unit_make_folder(folder);
  snprintf(socket_path, sizeof socket_path, "%s/http.sock", folder);
  struct tl_http_options o = client_options();
  o.unix_path = socket_path;
  o.max_body_bytes = MAX_BODY;
  o.max_header_bytes = MAX_HEADER;
  o.max_headers = MAX_HEADERS;
  o.max_url_bytes = MAX_URL;
  struct tl_error err = {0};
  if (tl_http_new(&o, NULL, &http, &err) < 0) fail_msg("%s", err.message);
  tl_http_handle(http, "GET", "/echo", on_echo, NULL);
  tl_http_handle(http, "POST", "/echo", on_echo, NULL);
  tl_http_handle(http, "GET", "/", on_echo, NULL);
  tl_http_handle(http, "POST", "/post", on_echo, NULL);
  tl_http_handle(http, "GET", "/under/exact", on_exact, NULL);
  assert_int_equal(tl_http_handle(http, "GET", "/under/*", on_echo, NULL), TL_OK);
  assert_int_equal(tl_http_handle(http, "GET", "/under/*", on_echo, NULL), TL_EINVAL); /* twice */
  tl_http_handle(http, "GET", "/stream", on_stream, NULL);
  tl_http_handle(http, "GET", "/smuggled", on_smuggled, NULL);
  tl_http_handle(http, "POST", "/smuggled", on_smuggled, NULL);
  tl_http_error_body(http, error_body);
  if (tl_http_start(http, &err) < 0) fail_msg("%s", err.message);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  tl_http_stop(http);
  tl_http_free(http);
  return rmdir(folder); /* the socket file is gone */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_right),         cmocka_unit_test(test_bodies),       cmocka_unit_test(test_wrong_lines),
      cmocka_unit_test(test_wrong_headers), cmocka_unit_test(test_wrong_bodies), cmocka_unit_test(test_expect_waits),
      cmocka_unit_test(test_413_is_not_lost), cmocka_unit_test(test_head_like_get), cmocka_unit_test(test_many_requests),
      cmocka_unit_test(test_prefix_routes),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
