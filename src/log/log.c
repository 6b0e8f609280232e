/* SPDX-License-Identifier: MIT */
/* The producers' side: levels, rates, and each thread's ring (log_ring.c), found
 * through a lock-free list, into which records are copied in binary. */
#include "tokenlane/log.h"

#include <pthread.h>
#include <string.h>

#include "log/log_private.h"
#include "tokenlane/base/clock.h"

/* The rooms, and what is logged of requests. Index 0 stands for any other name. */
static const char *const modules[] = {"",      "access", "api",   "config", "daemon",   "device",  "engine", "http",
                                      "log",   "model",  "route", "schedule", "text",   "metrics", "trace"};
enum { N_MODULES = sizeof modules / sizeof *modules, OTHER = 0, ACCESS = 1 };
static const char *const level_names[] = {"error", "warn", "info", "debug"};

/* Settings: relaxed, each stands for itself; while they change a thread may see some new and some old. */
static _Atomic int levels[N_MODULES] = {TL_LOG_INFO, TL_LOG_ERROR, [2 ... N_MODULES - 1] = TL_LOG_INFO};
static _Atomic uint32_t max_per_second;

static _Atomic(struct log_ring *) rings;      /* every ring ever made, newest first; never freed */
static _Atomic(struct tl_log_site *) sites;   /* those that have ever suppressed, newest first */
static _Atomic uint64_t n_suppressed;         /* a count alone */
static _Thread_local struct log_ring *ring_of_thread;
static pthread_key_t ring_key; /* gives the ring back when its thread ends */
static pthread_once_t ring_key_once = PTHREAD_ONCE_INIT;

/* --- levels ------------------------------------------------------------------------------- */

const char *log_level_name(int level) {
  return level_names[level];
}

static unsigned find_module(const char *name, size_t length) {
  for (unsigned i = 1; i < N_MODULES; i++)
    if (strlen(modules[i]) == length && memcmp(modules[i], name, length) == 0) return i;
  return OTHER;
}

bool tl_log_enabled(struct tl_log_site *site, enum tl_log_level level, const char *module) {
  /* relaxed: whoever finds 0 looks it up and stores the same */
  uint32_t found = atomic_load_explicit(&site->module, memory_order_relaxed);
  if (!found) {
    found = 1 + find_module(module, strlen(module));
    atomic_store_explicit(&site->module, found, memory_order_relaxed);
  }
  return (int)level <= atomic_load_explicit(&levels[found - 1], memory_order_relaxed); /* a setting alone */
}

static int level_of(const char *name) {
  for (int i = TL_LOG_ERROR; i <= TL_LOG_DEBUG; i++)
    if (strcmp(name, level_names[i]) == 0) return i;
  return -1;
}

static int wrong_level(const char *name, struct tl_error *err) {
  return tl_error_set(err, TL_EINVAL, "log.level", "log.level: expected error, warn, info or debug, got '%.40s'", name);
}

int tl_log_set_level(const char *name, struct tl_error *err) {
  int level = level_of(name);
  if (level < 0) return wrong_level(name, err);
  for (unsigned i = 0; i < N_MODULES; i++)
    if (i != ACCESS) atomic_store_explicit(&levels[i], level, memory_order_relaxed); /* as above */
  return TL_OK;
}

const char *tl_log_module(unsigned i, const char **ret_level) {
  if (i + 1 >= N_MODULES) return NULL;
  *ret_level = level_names[atomic_load_explicit(&levels[i + 1], memory_order_relaxed)]; /* as above */
  return modules[i + 1];
}

int tl_log_set_module_level(const char *module, const char *level, struct tl_error *err) {
  int number = level_of(level);
  unsigned found = find_module(module, strlen(module));
  if (number < 0) return tl_error_set(err, TL_EINVAL, "level", "level: expected error, warn, info or debug, got '%.40s'", level);
  if (strcmp(module, "all") == 0) return tl_log_set_level(level, err);
  if (found == OTHER) return tl_error_set(err, TL_ENOTFOUND, NULL, "no module '%.40s'; GET /admin/log names them", module);
  atomic_store_explicit(&levels[found], number, memory_order_relaxed); /* as above */
  return TL_OK;
}

/* "http=debug" into wanted[]. "access" has a switch of its own. */
static int read_module_level(const char *text, int *wanted, struct tl_error *err) {
  size_t length = strcspn(text, "=");
  unsigned module = find_module(text, length);
  int level = text[length] ? level_of(text + length + 1) : -1;
  if (level < 0)
    return tl_error_set(err, TL_EINVAL, "log.modules",
                        "log.modules: expected MODULE=LEVEL with error, warn, info or debug, got '%.60s'", text);
  if (module == OTHER || module == ACCESS)
    return tl_error_set(err, TL_EINVAL, "log.modules",
                        "log.modules: no module '%.*s'; there are api, config, daemon, device, engine, http, log, "
                        "metrics, model, route, schedule, text and trace%s",
                        (int)(length > 40 ? 40 : length), text, module == ACCESS ? "; see log.access" : "");
  wanted[module] = level;
  return TL_OK;
}

int log_levels_set(const struct tl_log_options *options, bool apply, struct tl_error *err) {
  int wanted[N_MODULES], level = level_of(options->level);
  if (level < 0) return wrong_level(options->level, err);
  for (unsigned i = 0; i < N_MODULES; i++) wanted[i] = level;
  for (unsigned i = 0; i < options->n_modules; i++) {
    int r = read_module_level(options->modules[i], wanted, err);
    if (r < 0) return r;
  }
  /* access records are of level info; the switch alone decides, whatever log.level is */
  wanted[ACCESS] = options->access ? TL_LOG_INFO : TL_LOG_ERROR;
  if (!apply) return TL_OK;
  for (unsigned i = 0; i < N_MODULES; i++) atomic_store_explicit(&levels[i], wanted[i], memory_order_relaxed); /* as above */
  atomic_store_explicit(&max_per_second, (uint32_t)options->max_per_second, memory_order_relaxed); /* likewise */
  return TL_OK;
}

/* --- rates: how many records of a site in this second --------------------------------------- */

struct tl_log_site *log_sites(void) {
  return atomic_load_explicit(&sites, memory_order_acquire); /* pairs with the release CAS in suppress() */
}

uint32_t log_site_take_suppressed(struct tl_log_site *site) {
  return atomic_exchange_explicit(&site->suppressed, 0, memory_order_relaxed); /* a count alone */
}

/* The first time the site goes into the writer's list: what it suppressed is said even if it is never called again. */
static void suppress(struct tl_log_site *site, const char *module, const char *message) {
  atomic_fetch_add_explicit(&site->suppressed, 1, memory_order_relaxed); /* a count alone, as the next */
  atomic_fetch_add_explicit(&n_suppressed, 1, memory_order_relaxed);
  /* relaxed: only decides which thread lists it; the CAS below publishes what that thread writes */
  if (atomic_load_explicit(&site->listed, memory_order_relaxed) ||
      atomic_exchange_explicit(&site->listed, 1, memory_order_relaxed))
    return;
  site->module_name = module;
  site->message = message;
  site->next = atomic_load_explicit(&sites, memory_order_relaxed); /* the CAS checks it */
  /* publishes the site; pairs with the acquire load in log_sites, which also sees all sites before it: each CAS
   * continues the release sequence of the one before */
  while (!atomic_compare_exchange_weak_explicit(&sites, &site->next, site, memory_order_release, memory_order_relaxed))
    ;
}

/* Relaxed throughout: the window is a count, and it publishes nothing. A thread that comes from the second before (it was
 * held up) counts in the new one; a clock that was set back begins anew. */
static bool within_rate(struct tl_log_site *site, int64_t wall_ns) {
  uint32_t limit = atomic_load_explicit(&max_per_second, memory_order_relaxed), second = (uint32_t)(wall_ns / TL_SEC(1));
  if (limit == 0 || atomic_load_explicit(&site->module, memory_order_relaxed) == 1 + ACCESS) return true;
  uint64_t window = atomic_load_explicit(&site->window, memory_order_relaxed);
  for (;;) {
    uint32_t ahead = (uint32_t)(window >> 32) - second;
    if (ahead <= 1) { /* full: only looked at, so that a flood does not pull the line to and fro */
      if ((uint32_t)window >= limit) return false;
      window = atomic_fetch_add_explicit(&site->window, 1, memory_order_relaxed);
      if ((uint32_t)(window >> 32) - second <= 1) return (uint32_t)window < limit;
    }
    if (atomic_compare_exchange_weak_explicit(&site->window, &window, (uint64_t)second << 32 | 1, memory_order_relaxed,
                                              memory_order_relaxed))
      return true;
  }
}

/* --- rings ------------------------------------------------------------------------------------- */

static void give_ring_back(void *ring) {
  log_crash_remove_thread(ring);
  ring_of_thread = NULL; /* a destructor after this one may log: it adopts a ring again */
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
    ring = log_ring_new();
    if (!ring) return NULL;
    atomic_store_explicit(&ring->owned, 1, memory_order_relaxed); /* published below */
    ring->next = log_rings();
    /* publishes the ring to the writer: pairs with log_rings */
    while (!atomic_compare_exchange_weak_explicit(&rings, &ring->next, ring, memory_order_release, memory_order_relaxed))
      ;
  }
  pthread_setspecific(ring_key, ring);
  log_crash_add_thread(ring);
  return ring;
}

void tl_log_write(struct tl_log_site *site, enum tl_log_level level, const char *module, const char *message,
                  const struct tl_log_field *fields, unsigned n_fields) {
  struct log_record record = {.wall_ns = tl_wall_ns(), .level = (uint8_t)level, .module = module, .message = message};
  if (!within_rate(site, record.wall_ns)) {
    suppress(site, module, message);
    return;
  }
  record.n_fields = (uint16_t)(n_fields > LOG_MAX_FIELDS ? LOG_MAX_FIELDS : n_fields);
  if (!log_writer_runs()) {
    log_write_now(&record, fields);
    return;
  }
  if (!ring_of_thread) ring_of_thread = adopt_ring();
  if (ring_of_thread && log_ring_put(ring_of_thread, &record, fields)) log_writer_notify(ring_of_thread);
}

struct tl_log_losses tl_log_losses(void) {
  struct tl_log_losses losses = {.sink = log_writer_lost()};
  for (struct log_ring *ring = log_rings(); ring; ring = ring->next)
    losses.ring_full += atomic_load_explicit(&ring->dropped, memory_order_relaxed); /* counts alone */
  losses.rate_limit = atomic_load_explicit(&n_suppressed, memory_order_relaxed);
  return losses;
}
