/* SPDX-License-Identifier: MIT */
/* Listening sockets: TCP with SO_REUSEPORT, one for each loop; unix sockets and
 * those that systemd passed are shared by all loops. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "http/http_private.h"

#define BACKLOG 1024

static int open_tcp(const struct tl_http_options *o, int port, bool shared, int *ret_port, struct tl_error *err) {
  char service[16];
  snprintf(service, sizeof service, "%d", port);
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
  int r = getaddrinfo(o->host, service, &hints, &found);
  if (r != 0) return tl_error_set(err, TL_EIO, "http.host", "http.host: '%.80s': %s", o->host, gai_strerror(r));
  int one = 1, fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  bool fine = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0;
  if (fine && shared) fine = setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) == 0;
  fine = fine && bind(fd, found->ai_addr, found->ai_addrlen) == 0;
  int cause = errno;
  freeaddrinfo(found);
  if (!fine) {
    if (fd >= 0) close(fd);
    return tl_error_set(err, TL_EIO, "http.port", "http.port: cannot listen on %.80s port %d: %s", o->host, port,
                        strerror(cause));
  }
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } bound = {0};
  socklen_t size = sizeof bound;
  getsockname(fd, &bound.any, &size);
  *ret_port = ntohs(bound.any.sa_family == AF_INET6 ? bound.v6.sin6_port : bound.v4.sin_port);
  return fd;
}

/* A socket file that nobody listens on is left over from a crash: it is replaced. */
static bool is_stale(const struct sockaddr_un *address) {
  struct stat info;
  if (lstat(address->sun_path, &info) < 0 || !S_ISSOCK(info.st_mode)) return false;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 && errno == ECONNREFUSED;
  if (fd >= 0) close(fd);
  return refused;
}

static int open_unix(const char *path, struct tl_error *err) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path)
    return tl_error_set(err, TL_EINVAL, "http.unix", "http.unix: the path is longer than %zu bytes",
                        sizeof address.sun_path - 1);
  strcpy(address.sun_path, path);
  if (is_stale(&address)) unlink(path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
  int cause = errno;
  if (fd >= 0) close(fd);
  return tl_error_set(err, TL_EIO, "http.unix", "http.unix: cannot listen on '%.100s': %s", path, strerror(cause));
}

static int share(struct tl_http *http, unsigned slot, int fd, struct tl_error *err) {
  for (unsigned i = 0; i < http->o.n_loops; i++) {
    int copy = i == 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return tl_error_set(err, TL_EIO, NULL, "cannot share a listening socket: %s", strerror(errno));
    http->fds[i * http->n_fds + slot] = copy;
  }
  return TL_OK;
}

static int open_tcp_each(struct tl_http *http, unsigned slot, struct tl_error *err) {
  int port = http->o.port;
  bool shared = http->o.n_loops > 1;
  if (shared && port != 0) {
    /* sockets that share a port would join another daemon's: first without sharing, which is refused then */
    int fd = open_tcp(&http->o, port, false, &port, err);
    if (fd < 0) return fd;
    close(fd);
  }
  for (unsigned i = 0; i < http->o.n_loops; i++) {
    int fd = open_tcp(&http->o, port, shared, &port, err);
    if (fd < 0) return fd;
    http->fds[i * http->n_fds + slot] = fd;
  }
  http->port = port;
  return TL_OK;
}

int http_listen_open(struct tl_http *http, struct tl_error *err) {
  const struct tl_http_options *o = &http->o;
  http->n_fds = o->n_inherited_fds ? o->n_inherited_fds : (unsigned)(o->host != NULL) + (unsigned)(o->unix_path != NULL);
  size_t n = (size_t)http->n_fds * o->n_loops;
  http->fds = malloc((n ? n : 1) * sizeof *http->fds);
  if (!http->fds) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (size_t i = 0; i < n; i++) http->fds[i] = -1;
  int r = TL_OK;
  for (unsigned i = 0; i < o->n_inherited_fds && r == TL_OK; i++) r = share(http, i, o->inherited_fds[i], err);
  if (o->n_inherited_fds) return r;
  unsigned slot = 0;
  if (o->host) r = open_tcp_each(http, slot++, err);
  if (r < 0 || !o->unix_path) return r;
  int fd = open_unix(o->unix_path, err);
  http->made_unix_file = fd >= 0;
  /* nobody can connect before uv_listen, so there is no moment at which it is open to more */
  if (fd >= 0 && o->unix_mode && chmod(o->unix_path, o->unix_mode) < 0) {
    close(fd);
    return tl_error_set(err, TL_EIO, "http.unix", "http.unix: cannot set the mode of '%.100s': %s", o->unix_path, strerror(errno));
  }
  return fd < 0 ? fd : share(http, slot, fd, err);
}

static void accept_on(struct http_listener *listener) {
  listener->held = !http_conn_accept(listener->stream.data, &listener->stream);
}

static void on_connection(uv_stream_t *stream, int status) {
  if (status == 0) accept_on((struct http_listener *)(void *)stream); /* its first member */
}

void http_listen_retry(struct http_loop *loop) {
  for (unsigned i = 0; i < loop->n_listeners; i++)
    if (loop->listeners[i].held) accept_on(&loop->listeners[i]);
}

int http_listen_attach(struct http_loop *loop) {
  struct tl_http *http = loop->http;
  loop->listeners = calloc(http->n_fds ? http->n_fds : 1, sizeof *loop->listeners);
  if (!loop->listeners) return TL_ENOMEM;
  for (unsigned i = 0; i < http->n_fds; i++) {
    int *fd = &http->fds[loop->index * http->n_fds + i];
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;
    if (getsockname(*fd, (struct sockaddr *)&address, &size) < 0) return TL_EIO;
    bool local = address.ss_family == AF_UNIX;
    int r = local ? uv_pipe_init(&loop->uv, &loop->listeners[i].pipe, 0) : uv_tcp_init(&loop->uv, &loop->listeners[i].tcp);
    if (r < 0) return TL_EIO;
    loop->n_listeners++;
    r = local ? uv_pipe_open(&loop->listeners[i].pipe, *fd) : uv_tcp_open(&loop->listeners[i].tcp, *fd);
    if (r < 0) return TL_EIO;
    *fd = -1; /* libuv's now */
    loop->listeners[i].stream.data = loop;
    if (uv_listen(&loop->listeners[i].stream, BACKLOG, on_connection) < 0) return TL_EIO;
  }
  return TL_OK;
}

void http_listen_close(struct http_loop *loop) {
  for (unsigned i = 0; i < loop->n_listeners; i++) uv_close((uv_handle_t *)&loop->listeners[i].stream, NULL);
  loop->n_listeners = 0;
}
