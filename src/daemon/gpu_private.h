/* SPDX-License-Identifier: MIT */
#ifndef GPU_PRIVATE_H
#define GPU_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "daemon/gpu_judge.h"
#include "daemon/gpu_nvml.h"
#include "daemon/gpu_watch.h"

/* All atomics are relaxed: figures and flags that stand for themselves. That a failed GPU's step is
 * not used is the business of the mark that `fail` sets, which has its own order (engine/fault.c). */
struct gpu {
  struct gpu_watch *watch;
  char address[TL_GPU_ID], uuid[80];
  uint64_t replicas;            /* bit i: replica i uses it */
  void *device, *events;        /* NVML's; device NULL: it is to be looked for again */
  bool was_there;               /* NVML has known it */
  struct gpu_judge judge;
  pthread_t thread;
  bool started;
  _Atomic int64_t figures[GPU_FIGURES];
  _Atomic uint64_t xids[3], last_xid; /* by class */
  _Atomic int health;           /* enum tl_device_health */
  _Atomic int64_t looked_ns;    /* end of the last look */
  _Atomic int mended;
};

/* gpu_metrics.c: the GPU's series, read at each scrape. Boot thread. */
void gpu_metrics_add(struct gpu *g, struct tl_metrics *metrics);

#endif
