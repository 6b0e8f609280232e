/* SPDX-License-Identifier: MIT */
/* Signals arrive on any thread; the handlers count them and poke an
 * eventfd that the main thread polls. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/daemon_private.h"

static int event_fd = -1;
static _Atomic unsigned n_stops; /* relaxed: the eventfd orders what matters */
static _Atomic int ready;        /* relaxed: a flag alone */
static _Atomic int reload;       /* likewise: the eventfd says that it was set */

static void poke(void) {
  uint64_t one = 1;
  ssize_t written = write(event_fd, &one, sizeof one);
  (void)written; /* cannot fill up */
}

static void on_stop(int signal_number) {
  (void)signal_number;
  int saved = errno;
  if (!atomic_load_explicit(&ready, memory_order_relaxed)) _exit(0);
  atomic_fetch_add_explicit(&n_stops, 1, memory_order_relaxed);
  poke();
  errno = saved;
}

static void on_hangup(int signal_number) {
  (void)signal_number;
  int saved = errno;
  atomic_store_explicit(&reload, 1, memory_order_relaxed);
  poke();
  errno = saved;
}

bool signals_take_reload(void) {
  return atomic_exchange_explicit(&reload, 0, memory_order_relaxed);
}

int signals_init(struct tl_error *err) {
  event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event_fd < 0) return tl_error_set(err, TL_EIO, NULL, "eventfd: %s", strerror(errno));
  struct sigaction stop = {.sa_handler = on_stop, .sa_flags = SA_RESTART}, ignore = {.sa_handler = SIG_IGN};
  sigemptyset(&stop.sa_mask);
  sigaction(SIGTERM, &stop, NULL);
  sigaction(SIGINT, &stop, NULL);
  sigaction(SIGPIPE, &ignore, NULL);
  stop.sa_handler = on_hangup;
  sigaction(SIGHUP, &stop, NULL);
  return TL_OK;
}

void signals_ready(void) {
  atomic_store_explicit(&ready, 1, memory_order_relaxed);
}

unsigned signals_wait(unsigned seen, int timeout_ms) {
  unsigned now = atomic_load_explicit(&n_stops, memory_order_relaxed);
  if (now > seen) return now;
  struct pollfd entry = {event_fd, POLLIN, 0};
  uint64_t count;
  if (poll(&entry, 1, timeout_ms) > 0) {
    ssize_t n = read(event_fd, &count, sizeof count);
    (void)n; /* only resets it */
  }
  return atomic_load_explicit(&n_stops, memory_order_relaxed);
}
