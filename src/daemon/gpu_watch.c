/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/gpu_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/thread.h"
#include "tokenlane/log.h"

#define OPEN_SECONDS 10 /* a driver that takes longer to answer at boot is left alone */
#define STOP_SECONDS 2
#define WAIT_MS 50      /* for an event: also how soon a thread notices that it is to end */
#define REPLICAS 64

/* relaxed throughout: struct gpu says why */

struct gpu_watch {
  struct gpu_watch_options o;
  struct nvml nvml;
  struct gpu *gpus;             /* (n) */
  unsigned n;
  _Atomic int stopping;
  struct tl_error error;        /* of opening */
};

/* --- reading: on the GPU's thread ------------------------------------------------------------- */

static bool is_lost(int result) {
  return result == NVML_GPU_IS_LOST || result == NVML_RESET_REQUIRED;
}

static int64_t known(int result, unsigned value, bool *lost) {
  *lost |= is_lost(result);
  return result == NVML_SUCCESS ? (int64_t)value : GPU_UNKNOWN;
}

/* Figures that are one number of one function. */
static void read_simple(const struct nvml *n, void *device, int64_t *f, bool *lost) {
  const struct {
    int (*call)(void *device, unsigned *ret);
    enum gpu_figure figure;
  } simple[] = {{n->power, GPU_POWER_MW},
                {n->pcie_generation, GPU_PCIE_GENERATION},
                {n->pcie_width, GPU_PCIE_WIDTH},
                {n->pcie_max_generation, GPU_PCIE_MAX_GENERATION},
                {n->pcie_max_width, GPU_PCIE_MAX_WIDTH}};
  unsigned value = 0;
  for (size_t i = 0; i < sizeof simple / sizeof *simple; i++) {
    int r = simple[i].call ? simple[i].call(device, &value) : -1;
    f[simple[i].figure] = known(r, value, lost);
  }
  int r = n->temperature ? n->temperature(device, 0, &value) : -1;
  f[GPU_TEMPERATURE] = known(r, value, lost);
}

static void read_composed(const struct nvml *n, void *device, int64_t *f, bool *lost) {
  struct nvml_memory memory = {0};
  struct nvml_utilization busy = {0};
  unsigned long long reasons = 0;
  unsigned rows[4] = {0};
  int r = n->memory ? n->memory(device, &memory) : -1;
  f[GPU_MEMORY_USED] = r == NVML_SUCCESS ? (int64_t)memory.used : GPU_UNKNOWN;
  f[GPU_MEMORY_TOTAL] = r == NVML_SUCCESS ? (int64_t)memory.total : GPU_UNKNOWN;
  *lost |= is_lost(r);
  r = n->utilization ? n->utilization(device, &busy) : -1;
  f[GPU_BUSY] = known(r, busy.gpu, lost);
  f[GPU_MEMORY_BUSY] = known(r, busy.memory, lost);
  r = n->reasons ? n->reasons(device, &reasons) : -1;
  f[GPU_REASONS] = r == NVML_SUCCESS ? (int64_t)(reasons & INT64_MAX) : GPU_UNKNOWN;
  *lost |= is_lost(r);
  r = n->remapped_rows ? n->remapped_rows(device, &rows[0], &rows[1], &rows[2], &rows[3]) : -1;
  for (int i = 0; i < 4; i++) f[GPU_ROWS_CORRECTED + i] = known(r, rows[i], lost);
}

static void read_fields(const struct nvml *n, void *device, int64_t *f, bool *lost) {
  static const struct {
    unsigned id;
    enum gpu_figure figure;
  } wanted[] = {{NVML_FIELD_ECC_SBE, GPU_ECC_CORRECTED},           {NVML_FIELD_ECC_DBE, GPU_ECC_UNCORRECTED},
                {NVML_FIELD_NVLINK_CRC_FLIT, GPU_NVLINK_CRC_FLIT}, {NVML_FIELD_NVLINK_CRC_DATA, GPU_NVLINK_CRC_DATA},
                {NVML_FIELD_NVLINK_REPLAY, GPU_NVLINK_REPLAY},     {NVML_FIELD_NVLINK_RECOVERY, GPU_NVLINK_RECOVERY},
                {NVML_FIELD_MEMORY_TEMPERATURE, GPU_MEMORY_TEMPERATURE},
                {NVML_FIELD_PCIE_REPLAY, GPU_PCIE_REPLAY},         {NVML_FIELD_RECOVERY_ACTION, GPU_RECOVERY_ACTION}};
  enum { N = sizeof wanted / sizeof *wanted };
  struct nvml_field fields[N] = {0};
  for (size_t i = 0; i < N; i++) fields[i].id = wanted[i].id;
  int r = n->fields ? n->fields(device, N, fields) : -1;
  *lost |= is_lost(r);
  for (size_t i = 0; i < N && r == NVML_SUCCESS; i++) f[wanted[i].figure] = nvml_field_value(&fields[i]);
}

/* The mark first: who sees that the GPU has failed finds its replicas marked. */
static void publish(struct gpu *g, enum tl_device_health health) {
  if (atomic_load_explicit(&g->health, memory_order_relaxed) == (int)health) return; /* this thread's own */
  for (unsigned i = 0; health == TL_DEVICE_FAILED && i < REPLICAS; i++)
    if (g->replicas >> i & 1) g->watch->o.fail(i, g->watch->o.context);
  atomic_store_explicit(&g->health, (int)health, memory_order_relaxed);
  TL_LOG(health == TL_DEVICE_WELL ? TL_LOG_INFO : health == TL_DEVICE_FAILED ? TL_LOG_ERROR : TL_LOG_WARN, "gpu", "health",
         TL_S("gpu", g->uuid), TL_S("state", health == TL_DEVICE_WELL ? "well" : health == TL_DEVICE_FAILED ? "failed" : "impaired"),
         TL_U("last_xid", atomic_load_explicit(&g->last_xid, memory_order_relaxed)));
}

static void let_go(struct gpu *g) {
  if (g->events && g->watch->nvml.events_free) g->watch->nvml.events_free(g->events);
  g->events = g->device = NULL;
}

/* Also after it was lost: a reset makes NVML's handles worthless. */
static bool attach(struct gpu *g) {
  const struct nvml *n = &g->watch->nvml;
  unsigned long long supported = 0;
  if (n->by_pci(g->address, &g->device) != NVML_SUCCESS) return (g->device = NULL);
  g->was_there = true;
  if (!n->events_new || !n->events_register || !n->events_wait || n->events_new(&g->events) != NVML_SUCCESS) {
    g->events = NULL;
    return true;
  }
  if (n->events_supported) n->events_supported(g->device, &supported);
  if (supported & NVML_EVENT_XID) n->events_register(g->device, NVML_EVENT_XID, g->events);
  return true;
}

static void look(struct gpu *g) {
  int64_t f[GPU_FIGURES];
  bool lost = false;
  for (unsigned i = 0; i < GPU_FIGURES; i++) f[i] = GPU_UNKNOWN;
  if (g->device || attach(g)) {
    read_simple(&g->watch->nvml, g->device, f, &lost);
    read_composed(&g->watch->nvml, g->device, f, &lost);
    read_fields(&g->watch->nvml, g->device, f, &lost);
  } else {
    lost = g->was_there; /* one that NVML never knew says nothing about its device */
  }
  if (lost) {
    gpu_judge_lost(&g->judge);
    let_go(g);
  }
  for (unsigned i = 0; i < GPU_FIGURES; i++) atomic_store_explicit(&g->figures[i], f[i], memory_order_relaxed);
  publish(g, gpu_judge_look(&g->judge, f, tl_now_ns()));
  atomic_store_explicit(&g->looked_ns, tl_now_ns(), memory_order_relaxed);
}

static void on_xid(struct gpu *g, uint64_t xid) {
  enum gpu_xid_class class = gpu_classify_xid(xid);
  atomic_fetch_add_explicit(&g->xids[class], 1, memory_order_relaxed);
  atomic_store_explicit(&g->last_xid, xid, memory_order_relaxed);
  TL_LOG(TL_LOG_WARN, "gpu", "Xid", TL_S("gpu", g->uuid), TL_U("xid", xid),
         TL_S("class", class == GPU_XID_FATAL ? "fatal" : class == GPU_XID_APP ? "app" : "other"));
  gpu_judge_xid(&g->judge, xid);
  if (g->judge.fatal) publish(g, TL_DEVICE_FAILED); /* now, not with the next look */
}

/* Nothing came, or nothing can come: WAIT_MS have passed. */
static void wait_event(struct gpu *g) {
  struct nvml_event event = {0};
  struct timespec nap = {.tv_nsec = TL_MS(WAIT_MS)};
  int r = g->events ? g->watch->nvml.events_wait(g->events, &event, WAIT_MS) : -1;
  if (r == NVML_SUCCESS && event.type == NVML_EVENT_XID) {
    on_xid(g, event.data);
    return;
  }
  if (is_lost(r)) {
    gpu_judge_lost(&g->judge);
    publish(g, TL_DEVICE_FAILED);
    let_go(g);
  }
  if (r != NVML_SUCCESS && r != NVML_TIMEOUT) nanosleep(&nap, NULL);
}

static void *run(void *argument) {
  struct gpu *g = argument;
  int64_t next_ns = 0;
  tl_thread_enter("tl-gpu", TL_ROLE_NONE);
  while (!atomic_load_explicit(&g->watch->stopping, memory_order_relaxed)) {
    if (atomic_exchange_explicit(&g->mended, 0, memory_order_relaxed)) {
      gpu_judge_mended(&g->judge);
      next_ns = 0;
    }
    if (tl_now_ns() >= next_ns) {
      look(g);
      next_ns = tl_now_ns() + g->watch->o.look_ns;
    }
    wait_event(g);
  }
  let_go(g);
  return NULL;
}

/* --- life ----------------------------------------------------------------------------------------- */

static struct gpu *find(struct gpu_watch *w, const char *address) {
  for (unsigned i = 0; i < w->n; i++)
    if (strcmp(w->gpus[i].address, address) == 0) return &w->gpus[i];
  struct gpu *g = &w->gpus[w->n++];
  g->watch = w;
  snprintf(g->address, sizeof g->address, "%s", address);
  for (unsigned i = 0; i < GPU_FIGURES; i++) atomic_store_explicit(&g->figures[i], GPU_UNKNOWN, memory_order_relaxed);
  return g;
}

static struct gpu_watch *make(const struct gpu_watch_options *options) {
  struct gpu_watch *w = calloc(1, sizeof *w);
  if (w) w->gpus = calloc(options->n_uses, sizeof *w->gpus);
  if (!w || !w->gpus) {
    free(w);
    return NULL;
  }
  w->o = *options;
  w->o.uses = NULL; /* theirs */
  for (unsigned i = 0; i < options->n_uses; i++)
    if (options->uses[i].replica < REPLICAS) find(w, options->uses[i].address)->replicas |= UINT64_C(1) << options->uses[i].replica;
  return w;
}

static void destroy(struct gpu_watch *w) {
  free(w->gpus);
  free(w);
}

/* An id that may stand in a label. */
static bool is_plain(const char *text) {
  return *text && strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-:.") == strlen(text);
}

static void *open_library(void *argument) {
  struct gpu_watch *w = argument;
  if (nvml_open(&w->nvml, w->o.library, &w->error) < 0) return NULL;
  for (unsigned i = 0; i < w->n; i++) {
    struct gpu *g = &w->gpus[i];
    bool named = w->nvml.by_pci(g->address, &g->device) == NVML_SUCCESS &&
                 w->nvml.uuid(g->device, g->uuid, sizeof g->uuid) == NVML_SUCCESS && is_plain(g->uuid);
    if (!named) snprintf(g->uuid, sizeof g->uuid, "%s", g->address);
    g->device = NULL;
  }
  return NULL;
}

/* Not pthread_clockjoin_np, as in engine.c. */
static bool join_within(pthread_t thread, int seconds) {
  struct timespec deadline;
  clock_gettime(CLOCK_REALTIME, &deadline);
  deadline.tv_sec += seconds;
  if (pthread_timedjoin_np(thread, NULL, &deadline) == 0) return true;
  pthread_detach(thread);
  return false;
}

static bool open_within(struct gpu_watch *w, const char **ret_reason) {
  pthread_t thread;
  *ret_reason = "no thread can be started";
  if (pthread_create(&thread, NULL, open_library, w) != 0) return destroy(w), false;
  *ret_reason = "it does not answer";
  if (!join_within(thread, OPEN_SECONDS)) return false; /* w is the thread's for ever */
  static struct tl_error error; /* boot thread: for the caller's line */
  error = w->error;
  *ret_reason = error.message;
  if (error.code < 0) destroy(w);
  return error.code == TL_OK;
}

struct gpu_watch *gpu_watch_start(const struct gpu_watch_options *options, struct tl_metrics *metrics) {
  if (options->n_uses == 0) return NULL;
  const char *reason = "out of memory";
  struct gpu_watch *w = make(options);
  if (!w || !open_within(w, &reason)) {
    TL_LOG(TL_LOG_INFO, "gpu", "NVML is not used: the health of the GPUs is known by their steps alone", TL_S("reason", reason));
    return NULL;
  }
  for (unsigned i = 0; i < w->n; i++) {
    struct gpu *g = &w->gpus[i];
    gpu_metrics_add(g, metrics);
    g->started = pthread_create(&g->thread, NULL, run, g) == 0;
    TL_LOG(g->started ? TL_LOG_INFO : TL_LOG_WARN, "gpu", g->started ? "watching" : "cannot be watched: no thread",
           TL_S("gpu", g->uuid), TL_S("address", g->address));
  }
  return w;
}

void gpu_watch_stop(struct gpu_watch *w) {
  if (!w) return;
  atomic_store_explicit(&w->stopping, 1, memory_order_relaxed);
  bool all = true;
  for (unsigned i = 0; i < w->n; i++)
    if (w->gpus[i].started && !join_within(w->gpus[i].thread, STOP_SECONDS)) all = false;
  if (!all) {
    TL_LOG(TL_LOG_WARN, "gpu", "NVML does not return; left behind");
    return;
  }
  nvml_close(&w->nvml);
  destroy(w);
}

enum tl_device_health gpu_watch_health(const struct gpu_watch *w, unsigned replica) {
  int worst = TL_DEVICE_WELL;
  for (unsigned i = 0; w && i < w->n; i++) {
    int health = atomic_load_explicit(&w->gpus[i].health, memory_order_relaxed);
    if (replica < REPLICAS && w->gpus[i].replicas >> replica & 1 && health > worst) worst = health;
  }
  return (enum tl_device_health)worst;
}

void gpu_watch_mended(struct gpu_watch *w, unsigned replica) {
  for (unsigned i = 0; w && i < w->n; i++)
    if (replica < REPLICAS && w->gpus[i].replicas >> replica & 1) atomic_store_explicit(&w->gpus[i].mended, 1, memory_order_relaxed);
}
