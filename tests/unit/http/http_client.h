/* SPDX-License-Identifier: MIT */
/* The other side of the wire for the tests of the http room: sockets that send
 * raw bytes, and a reader that takes answers apart without trusting them. */
#ifndef HTTP_CLIENT_H
#define HTTP_CLIENT_H

#include "unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "tokenlane/base/buffer.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/http.h"

#define CLIENT_PATIENCE_NS TL_SEC(30) /* how long anything may take before the test gives up */

struct client {
  int fd;
  struct tl_buffer got; /* bytes that no answer has been taken from yet */
  bool eof, reset;
};

struct answer {
  int status;
  size_t head_length, length; /* bytes of the header, of all */
  struct tl_buffer body;      /* chunks put together */
  bool complete, chunked, closes;
};

/* --- options and figures of the server -------------------------------------------------- */

/* Limits that no test meets by accident. */
static inline struct tl_http_options client_options(void) {
  return (struct tl_http_options){.host = "127.0.0.1",
                                  .n_loops = 1,
                                  .max_body_bytes = 1 << 20,
                                  .max_header_bytes = 16384,
                                  .max_headers = 64,
                                  .max_url_bytes = 4096,
                                  .max_write_queue_bytes = 65536,
                                  .max_connections = 1000,
                                  .header_timeout_ns = TL_SEC(60),
                                  .body_timeout_ns = TL_SEC(60),
                                  .idle_timeout_ns = TL_SEC(60),
                                  .write_timeout_ns = TL_SEC(60)};
}

static inline double client_metric(struct tl_metrics *metrics, const char *series) {
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_metrics_expose(metrics, &out);
  char line[256];
  snprintf(line, sizeof line, "\n%s ", series);
  const char *at = strstr(tl_buffer_string(&out), line);
  if (!at) fail_msg("no series %s", series);
  double value = atof(at + strlen(line));
  tl_buffer_done(&out);
  return value;
}

/* Waits until `condition` holds. */
#define CLIENT_WAIT(condition)                                           \
  do {                                                                   \
    int64_t wait_until_ns = tl_now_ns() + CLIENT_PATIENCE_NS;            \
    while (!(condition)) {                                               \
      if (tl_now_ns() > wait_until_ns) fail_msg("never: %s", #condition); \
      usleep(500);                                                       \
    }                                                                    \
  } while (0)

/* --- sockets ------------------------------------------------------------------------------ */

static inline int client_try_tcp(int port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) return fd;
  close(fd);
  return -1;
}

static inline int client_try_unix(const char *path) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  strncpy(to.sun_path, path, sizeof to.sun_path - 1);
  if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) return fd;
  close(fd);
  return -1;
}

static inline struct client client_of(int fd) {
  if (fd < 0) fail_msg("cannot connect: %s", strerror(errno));
  return (struct client){.fd = fd};
}

static inline struct client client_tcp(int port) {
  return client_of(client_try_tcp(port));
}

static inline struct client client_unix(const char *path) {
  return client_of(client_try_unix(path));
}

static inline void client_close(struct client *c) {
  if (c->fd >= 0) close(c->fd);
  c->fd = -1;
  tl_buffer_done(&c->got);
}

/* Ends the connection with a reset. */
static inline void client_reset(struct client *c) {
  struct linger hard = {1, 0};
  setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  client_close(c);
}

/* False when the server does not take it: it has closed. One that only waits must
 * have room in the socket for all of it. */
static inline bool client_send(struct client *c, const char *bytes, size_t length) {
  struct timeval patience = {.tv_sec = CLIENT_PATIENCE_NS / TL_SEC(1)};
  setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  while (length) {
    ssize_t n = send(c->fd, bytes, length, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) fail_msg("the server does not read '%.60s'", bytes);
    if (n < 0) return false;
    bytes += n;
    length -= (size_t)n;
  }
  return true;
}

static inline void client_puts(struct client *c, const char *text) {
  if (!client_send(c, text, strlen(text))) fail_msg("the server does not take '%.60s'", text);
}

/* Unix sockets only: until the server has taken what was sent out of the socket. */
static inline void client_wait_taken(struct client *c) {
  int64_t until_ns = tl_now_ns() + CLIENT_PATIENCE_NS;
  int left = 0;
  while (ioctl(c->fd, SIOCOUTQ, &left) == 0 && left > 0)
    if (tl_now_ns() > until_ns) fail_msg("the server does not read");
}

/* Reads once, waits at most timeout_ms. False: nothing came, or the end. */
static inline bool client_read(struct client *c, int timeout_ms) {
  if (c->eof) return false;
  struct pollfd p = {c->fd, POLLIN, 0};
  if (poll(&p, 1, timeout_ms) <= 0) return false;
  char *at = tl_buffer_reserve(&c->got, 65536);
  ssize_t n = recv(c->fd, at, 65536, 0);
  if (n > 0) c->got.length += (size_t)n;
  c->eof = n <= 0;
  c->reset = n < 0;
  return n > 0;
}

static inline void client_read_end(struct client *c) {
  int64_t until_ns = tl_now_ns() + CLIENT_PATIENCE_NS;
  while (!c->eof) {
    client_read(c, 1000);
    if (tl_now_ns() > until_ns) fail_msg("the connection stays open");
  }
}

/* --- answers ------------------------------------------------------------------------------ */

/* Line `name: value` of a header; value is NUL-terminated in out. */
static inline bool client_field(const char *head, size_t length, const char *name, char out[128]) {
  size_t n = strlen(name);
  const char *end = head + length;
  for (const char *at = memchr(head, '\n', length); at && at + 1 < end; at = memchr(at, '\n', (size_t)(end - at))) {
    at++;
    if ((size_t)(end - at) <= n + 2 || strncasecmp(at, name, n) != 0 || at[n] != ':') continue;
    at += n + 2;
    size_t i = 0;
    for (; i < 127 && at + i < end && at[i] != '\r'; i++) out[i] = at[i];
    out[i] = 0;
    return true;
  }
  return false;
}

#define CLIENT_LINE_BYTES 20       /* a chunk's size */
#define CLIENT_HEAD_BYTES (1 << 16) /* an answer's header */

/* Where `mark` begins in the next `most` bytes, or NULL. Bounded, since the sanitizers' memmem
 * looks at all that it is given. */
static inline const char *client_find(const char *bytes, size_t length, size_t most, const char *mark) {
  return length ? memmem(bytes, length < most ? length : most, mark, strlen(mark)) : NULL;
}

/* Adds the chunks at `at` to the body; bytes of the chunked text, 0: more must come. */
static inline size_t client_unchunk(const char *at, size_t length, struct tl_buffer *body) {
  size_t used = 0;
  for (;;) {
    const char *line_end = client_find(at + used, length - used, CLIENT_LINE_BYTES, "\r\n");
    if (!line_end) return 0;
    char *digits_end;
    size_t n = strtoul(at + used, &digits_end, 16);
    if (digits_end != line_end || digits_end == at + used) fail_msg("a bad chunk size: '%.20s'", at + used);
    used = (size_t)(line_end - at) + 2;
    if (length - used < n + 2) return 0;
    if (memcmp(at + used + n, "\r\n", 2) != 0) fail_msg("a chunk does not end where it says");
    tl_buffer_append(body, at + used, n);
    used += n + 2;
    if (n == 0) return used;
  }
}

/* Takes the first answer of `bytes` apart; complete is false while more must come. */
static inline struct answer client_parse(const char *bytes, size_t length, bool is_head, bool eof) {
  struct answer a = {0};
  char value[128];
  const char *end = client_find(bytes, length, CLIENT_HEAD_BYTES, "\r\n\r\n");
  if (!end) return a;
  a.head_length = (size_t)(end - bytes) + 4;
  /* not sscanf: it looks for a NUL behind bytes, and there is none */
  if (a.head_length < 14 || memcmp(bytes, "HTTP/1.1 ", 9) != 0 || bytes[12] != ' ')
    fail_msg("no answer: '%.*s'", (int)a.head_length, bytes);
  a.status = atoi(bytes + 9);
  a.closes = client_field(bytes, a.head_length, "Connection", value) && strcmp(value, "close") == 0;
  a.chunked = client_field(bytes, a.head_length, "Transfer-Encoding", value);
  if (a.chunked) assert_string_equal(value, "chunked");
  bool has_length = client_field(bytes, a.head_length, "Content-Length", value);
  if (a.chunked && has_length) fail_msg("Transfer-Encoding and Content-Length");
  size_t n = 0, rest = length - a.head_length;
  const char *body = end + 4;
  if (a.status == 100 || a.status == 204 || is_head) {
    a.complete = true;
  } else if (a.chunked) {
    n = client_unchunk(body, rest, &a.body);
    a.complete = n > 0;
  } else {
    n = has_length ? strtoul(value, NULL, 10) : rest;
    a.complete = has_length ? rest >= n : eof;
    if (a.complete) tl_buffer_append(&a.body, body, n);
  }
  if (!a.complete) tl_buffer_done(&a.body);
  a.length = a.head_length + n;
  return a;
}

/* The next answer, taken out of what has come. answer->body is the caller's. What is not whole is looked at again when it is
 * twice as long or nothing more comes at the moment: each look is at all of it. */
static inline bool client_try_answer(struct client *c, bool is_head, struct answer *a) {
  int64_t until_ns = tl_now_ns() + CLIENT_PATIENCE_NS;
  for (;;) {
    *a = client_parse(c->got.data, c->got.length, is_head, c->eof);
    if (a->complete) {
      tl_buffer_consume(&c->got, a->length);
      return true;
    }
    if (c->eof) return false;
    size_t wanted = 2 * c->got.length;
    client_read(c, 1000);
    while (c->got.length < wanted && client_read(c, 5)) {}
    if (tl_now_ns() > until_ns) fail_msg("no answer");
  }
}

/* Expects an answer of that status and, unless NULL, of that body. */
static inline void client_expect(struct client *c, int status, const char *body) {
  struct answer a;
  if (!client_try_answer(c, false, &a)) fail_msg("the connection ended, expected %d", status);
  if (a.status != status) fail_msg("%d instead of %d", a.status, status);
  if (body) assert_string_equal(tl_buffer_string(&a.body), body);
  tl_buffer_done(&a.body);
}

/* Expects the end, and nothing before it. */
static inline void client_expect_end(struct client *c) {
  client_read_end(c);
  if (c->got.length) fail_msg("unexpected bytes: '%.*s'", (int)(c->got.length < 60 ? c->got.length : 60), c->got.data);
}

#endif
