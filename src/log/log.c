/* SPDX-License-Identifier: MIT */
/* The producers' side: each thread has a ring of its own (log_ring.c), found
 * through a lock-free list, into which records are copied in binary. */
#include "tokenlane/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "log/log_private.h"
#include "tokenlane/base/clock.h"

static _Atomic int level_now = TL_LOG_INFO;
static _Atomic(struct log_ring *) rings; /* every ring ever made, newest first; freed by tl_log_stop's caller exit */
static _Thread_local struct log_ring *ring_of_thread;
static pthread_key_t ring_key; /* gives the ring back when its thread ends */
static pthread_once_t ring_key_once = PTHREAD_ONCE_INIT;

int tl_log_enabled(enum tl_log_level level) {
  return (int)level <= atomic_load_explicit(&level_now, memory_order_relaxed); /* a setting alone */
}

int tl_log_set_level(const char *name, struct tl_error *err) {
  for (int i = TL_LOG_ERROR; i <= TL_LOG_DEBUG; i++) {
    if (strcmp(name, log_level_name((enum tl_log_level)i)) != 0) continue;
    atomic_store_explicit(&level_now, i, memory_order_relaxed); /* as above */
    return TL_OK;
  }
  return tl_error_set(err, TL_EINVAL, "log.level", "log.level: expected error, warn, info or debug, got '%.40s'", name);
}

static void give_ring_back(void *ring) {
  /* pairs with the acquire exchange in adopt_ring: the next owner sees our last record */
  atomic_store_explicit(&((struct log_ring *)ring)->owned, 0, memory_order_release);
}

static void make_ring_key(void) {
  pthread_key_create(&ring_key, give_ring_back);
}

struct log_ring *log_rings(void) {
  return atomic_load_explicit(&rings, memory_order_acquire); /* pairs with the release CAS below */
}

/* A ring whose thread has ended, or a new one. */
static struct log_ring *adopt_ring(void) {
  pthread_once(&ring_key_once, make_ring_key);
  struct log_ring *ring = log_rings();
  for (; ring; ring = ring->next)
    if (atomic_exchange_explicit(&ring->owned, 1, memory_order_acquire) == 0) break; /* see give_ring_back */
  if (!ring) {
    ring = aligned_alloc(TL_CACHE_LINE, sizeof *ring);
    if (!ring) return NULL;
    memset(ring, 0, sizeof *ring);
    atomic_store_explicit(&ring->owned, 1, memory_order_relaxed);
    ring->next = log_rings();
    /* publishes the ring to the writer */
    while (!atomic_compare_exchange_weak_explicit(&rings, &ring->next, ring, memory_order_release, memory_order_relaxed))
      ;
  }
  pthread_setspecific(ring_key, ring);
  return ring;
}

void tl_log_write(enum tl_log_level level, const char *module, const char *message, const struct tl_log_field *fields,
                  unsigned n_fields) {
  if (!ring_of_thread) ring_of_thread = adopt_ring();
  struct log_record record = {.wall_ns = tl_wall_ns(), .level = level, .module = module, .message = message};
  if (n_fields > LOG_MAX_FIELDS) n_fields = LOG_MAX_FIELDS;
  record.n_fields = n_fields;
  if (log_writer_runs()) {
    if (ring_of_thread && log_ring_put(ring_of_thread, &record, fields)) log_writer_notify();
  } else {
    log_write_now(&record, fields);
  }
}

uint64_t tl_log_dropped(void) {
  uint64_t total = 0;
  for (struct log_ring *ring = log_rings(); ring; ring = ring->next)
    total += atomic_load_explicit(&ring->dropped, memory_order_relaxed); /* a count alone */
  return total;
}
