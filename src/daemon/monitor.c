/* SPDX-License-Identifier: MIT */
#include "daemon/monitor.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

#define MIN_LOOK_NS TL_MS(5)
#define MAX_LOOK_NS TL_MS(100)

struct watched {
  struct monitor *monitor;
  unsigned index;
  struct health health;
  tl_metric faults, recoveries;
  char told[TL_ERROR_MESSAGE]; /* why the last reset did not help; "": nothing was told */
  _Atomic int resume; /* relaxed: a flag; admin's loop sets it, the monitor takes it */
};

struct monitor {
  struct monitor_options o;
  unsigned n;
  struct watched *replicas; /* (n) */
  struct tl_metrics_shard *shard;
  struct tl_metrics *registry;
  pthread_t thread;
  bool started;
  _Atomic int stopping;
};

/* --- looking ------------------------------------------------------------------------------- */

/* The lower median of the others that serve and have steps: one that is slow itself does not hide another. */
static int64_t typical_step(const struct monitor *m, unsigned but) {
  int64_t sorted[64];
  unsigned n = 0;
  for (unsigned i = 0; i < m->n && n < 64; i++) {
    int64_t ns = atomic_load_explicit(&tl_engine_board(m->o.engine, i)->step_ns, memory_order_relaxed); /* a figure */
    if (i == but || ns == 0 || m->replicas[i].health.state > TL_REPLICA_DEGRADED) continue;
    unsigned at = n++;
    for (; at > 0 && sorted[at - 1] > ns; at--) sorted[at] = sorted[at - 1];
    sorted[at] = ns;
  }
  return n ? sorted[(n - 1) / 2] : 0;
}

/* How long the step under way may be expected to take: a prompt's many rows take a
 * processor seconds, after decodes of milliseconds. Before such a step was seen,
 * sixteen rows are taken for a step of their own. */
static int64_t expected_step(const struct tl_board *b) {
  int64_t step_ns = atomic_load_explicit(&b->step_ns, memory_order_relaxed); /* figures, as below */
  int64_t row_ns = atomic_load_explicit(&b->row_ns, memory_order_relaxed), rows_ns;
  uint32_t rows = atomic_load_explicit(&b->step_rows, memory_order_relaxed);
  if (__builtin_mul_overflow(row_ns ? row_ns : step_ns / 16, (int64_t)rows, &rows_ns)) return INT64_MAX;
  return rows_ns > step_ns ? rows_ns : step_ns;
}

static struct health_seen look(const struct monitor *m, unsigned i) {
  const struct tl_board *b = tl_engine_board(m->o.engine, i);
  const struct probe *probe = &m->o.probes[i];
  /* relaxed: figures that the worker writes; what needs order is in tl_engine_parked */
  return (struct health_seen){
      .can_reset = tl_engine_can_reset(m->o.engine, i),
      .failed = tl_engine_failed(m->o.engine, i),
      .parked = tl_engine_parked(m->o.engine, i),
      .step_began_ns = atomic_load_explicit(&b->step_began_ns, memory_order_relaxed),
      .step_ns = atomic_load_explicit(&b->step_ns, memory_order_relaxed),
      .expected_ns = expected_step(b),
      .beat_ns = atomic_load_explicit(&b->beat_ns, memory_order_relaxed),
      .others_step_ns = typical_step(m, i),
      .device = tl_engine_health(m->o.engine, i),
      .gpu = gpu_watch_health(m->o.gpus, tl_engine_first_replica(m->o.engine) + i),
      .probe = probe->running ? HEALTH_PROBE_RUNS : probe->right ? HEALTH_PROBE_RIGHT : HEALTH_PROBE_WRONG,
  };
}

/* --- doing ----------------------------------------------------------------------------------- */

/* What the replica is called outside. */
static unsigned id_of(const struct monitor *m, unsigned i) {
  return tl_engine_first_replica(m->o.engine) + i;
}

/* The same cause, reset for reset, is told once: until it is another, or the replica served in between. */
static void complain(struct monitor *m, unsigned i, const struct tl_error *err) {
  char *told = m->replicas[i].told;
  bool again = strcmp(told, err->message) == 0;
  TL_LOG(again ? TL_LOG_DEBUG : TL_LOG_WARN, "monitor", "the reset did not help", TL_U("replica", id_of(m, i)), TL_S("model", m->o.name),
         TL_S("error", err->message));
  memcpy(told, err->message, sizeof m->replicas[i].told);
}

static void interrupt(struct monitor *m, unsigned i) {
  struct tl_error err = {0};
  if (tl_engine_interrupt(m->o.engine, i, &err) < 0) complain(m, i, &err);
}

static enum health_reset reset(struct monitor *m, unsigned i) {
  struct tl_error err = {0};
  int r = tl_engine_reset(m->o.engine, i, &err);
  if (r == TL_EBUSY && *err.message)
    TL_LOG(TL_LOG_INFO, "monitor", "the reset takes its time", TL_U("replica", id_of(m, i)), TL_S("why", err.message));
  if (r == TL_EBUSY) return HEALTH_RESET_BEGUN;
  if (r < 0) complain(m, i, &err);
  if (r == TL_EUNSUPPORTED) return HEALTH_RESET_HOPELESS;
  return r == TL_OK && tl_engine_try(m->o.engine, i) ? HEALTH_RESET_DONE : HEALTH_RESET_FAILED;
}

static void act(struct monitor *m, struct watched *w, enum health_action action) {
  struct tl_engine *engine = m->o.engine;
  switch (action) {
    case HEALTH_NOTHING: break;
    case HEALTH_MARK:
      TL_LOG(TL_LOG_ERROR, "monitor", "the replica is late, wrong or lost; quarantined", TL_U("replica", id_of(m, w->index)),
             TL_S("model", m->o.name));
      tl_engine_quarantine(engine, w->index); /* before the interrupt: fault.c says why */
      interrupt(m, w->index);
      break;
    case HEALTH_INTERRUPT: interrupt(m, w->index); break;
    case HEALTH_RESET: {
      enum health_reset result = reset(m, w->index);
      if (result == HEALTH_RESET_DONE && probe_fits(engine))
        probe_submit(engine, m->o.model, m->o.loop, w->index, &m->o.probes[w->index]);
      else if (result == HEALTH_RESET_DONE)
        m->o.probes[w->index].right = true;
      health_on_reset(&w->health, &m->o.health, result, tl_now_ns());
      break;
    }
    case HEALTH_ADMIT:
      *w->told = 0;
      tl_engine_admit(engine, w->index); /* if it failed just now, the next look sees it */
      break;
  }
}

static void tell(struct monitor *m, struct watched *w, const struct health *before) {
  const struct health *now = &w->health;
  tl_metrics_add(m->shard, w->faults, now->total_faults - before->total_faults);
  tl_metrics_add(m->shard, w->recoveries, now->total_recoveries - before->total_recoveries);
  atomic_store_explicit(&tl_engine_board(m->o.engine, w->index)->n_faults, now->total_faults, memory_order_relaxed); /* a figure */
  if (now->state == before->state) return;
  tl_route_set_state(m->o.route, w->index, now->state);
  TL_LOG(now->state > TL_REPLICA_DEGRADED ? TL_LOG_WARN : TL_LOG_INFO, "monitor", "replica",
         TL_U("replica", id_of(m, w->index)), TL_S("state", tl_replica_state_name(now->state)),
         TL_U("faults", now->total_faults), TL_S("model", m->o.name));
}

static void watch(struct monitor *m, struct watched *w) {
  struct health before = w->health;
  int64_t now_ns = tl_now_ns();
  if (atomic_exchange_explicit(&w->resume, 0, memory_order_relaxed)) health_resume(&w->health, now_ns);
  struct health_seen seen = look(m, w->index);
  act(m, w, health_step(&w->health, &m->o.health, &seen, now_ns));
  tell(m, w, &before);
}

static void *run(void *argument) {
  struct monitor *m = argument;
  int64_t look_ns = m->o.health.late_ns / 10;
  look_ns = look_ns < MIN_LOOK_NS ? MIN_LOOK_NS : look_ns > MAX_LOOK_NS ? MAX_LOOK_NS : look_ns;
  tl_thread_enter("tl-monitor", TL_ROLE_NONE);
  int64_t last_ns = tl_now_ns();
  /* relaxed: a flag; monitor_stop wakes after it */
  while (!atomic_load_explicit(&m->stopping, memory_order_relaxed)) {
    tl_waker_prepare(m->o.waker);
    tl_engine_drain(m->o.engine, m->o.loop, probe_on_event, NULL);
    /* When this thread was itself kept from running, the whole machine was: nobody is judged by that time */
    int64_t now_ns = tl_now_ns(), away_ns = now_ns - last_ns;
    last_ns = now_ns;
    for (unsigned i = 0; i < m->n && away_ns < m->o.health.late_ns / 2; i++) watch(m, &m->replicas[i]);
    tl_api_retry(m->o.api);
    /* what came after the look has made it awake, and the sleep returns at once */
    tl_waker_sleep(m->o.waker, look_ns);
  }
  return NULL;
}

/* --- life -------------------------------------------------------------------------------------- */

static double read_state(void *context) {
  const struct watched *w = context;
  return tl_route_state(w->monitor->o.route, w->index);
}

static void add_metrics(struct watched *w, struct tl_metrics *metrics) {
  char labels[32];
  snprintf(labels, sizeof labels, "replica=\"%u\"", id_of(w->monitor, w->index));
  tl_metrics_gauge_read(metrics, "tokenlane_replica_state",
                        "0 ready, 1 degraded, 2 draining, 3 quarantined, 4 recovering, 5 out.", labels, read_state, w);
  w->faults = tl_metrics_counter(metrics, "tokenlane_replica_faults_total", "Device errors and steps that did not end.", labels);
  w->recoveries = tl_metrics_counter(metrics, "tokenlane_replica_recoveries_total",
                                     "Times that the replica served again after a fault.", labels);
}

int monitor_new(const struct monitor_options *options, struct tl_metrics *metrics, struct monitor **ret, struct tl_error *err) {
  struct monitor *m = calloc(1, sizeof *m);
  if (!m) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  m->o = *options;
  m->registry = metrics;
  m->n = tl_engine_replicas(options->engine);
  m->replicas = calloc(m->n, sizeof *m->replicas);
  if (!m->replicas) {
    free(m);
    return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  }
  for (unsigned i = 0; i < m->n; i++) {
    m->replicas[i].monitor = m;
    m->replicas[i].index = i;
    add_metrics(&m->replicas[i], metrics);
  }
  *ret = m;
  return TL_OK;
}

int monitor_start(struct monitor *monitor, struct tl_error *err) {
  monitor->shard = tl_metrics_shard_new(monitor->registry);
  if (!monitor->shard || pthread_create(&monitor->thread, NULL, run, monitor) != 0)
    return tl_error_set(err, TL_EIO, NULL, "cannot start the monitor");
  monitor->started = true;
  return TL_OK;
}

void monitor_stop(struct monitor *monitor) {
  if (!monitor || !monitor->started) return;
  atomic_store_explicit(&monitor->stopping, 1, memory_order_relaxed); /* see run */
  tl_waker_notify(monitor->o.waker);
  pthread_join(monitor->thread, NULL);
  monitor->started = false;
}

void monitor_free(struct monitor *monitor) {
  if (!monitor) return;
  free(monitor->replicas);
  free(monitor);
}

void monitor_resume(unsigned replica, void *monitor) {
  struct monitor *m = monitor;
  gpu_watch_mended(m->o.gpus, id_of(m, replica));
  atomic_store_explicit(&m->replicas[replica].resume, 1, memory_order_relaxed); /* see watched */
  tl_waker_notify(m->o.waker);
}
