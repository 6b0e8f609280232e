/* SPDX-License-Identifier: MIT */
/* The health of the GPUs as NVML tells it: a thread for each, since a call about a sick
 * GPU may block for seconds. What it says is in /metrics, and in gpu_watch_health for the monitor. */
#ifndef GPU_WATCH_H
#define GPU_WATCH_H

#include "tokenlane/device.h"
#include "tokenlane/metrics.h"

struct gpu_watch;

/* A replica uses the GPU at this PCI address. Several may share one, and one may use several. */
struct gpu_use {
  unsigned replica;
  const char *address; /* borrowed */
};

struct gpu_watch_options {
  const char *library;          /* "libnvidia-ml.so.1" */
  const struct gpu_use *uses;   /* (n_uses) copied */
  unsigned n_uses;
  int64_t look_ns;              /* between two looks at the figures; events come at once */
  /* The replica's GPU has just failed: what its step under way says is not to be used. On the
   * GPU's thread. */
  void (*fail)(unsigned replica, void *context);
  void *context;
};

/* Opens NVML, registers the gauges, starts the threads. Boot. NULL: there is no GPU to
 * watch or no NVML that works, which a line of the log says; all else goes on without. */
struct gpu_watch *gpu_watch_start(const struct gpu_watch_options *options, struct tl_metrics *metrics);
/* Waits a moment for the threads; one that is stuck in the driver is left behind, with its memory. */
void gpu_watch_stop(struct gpu_watch *watch);
/* The worst of the replica's GPUs; NULL: TL_DEVICE_WELL. Any thread; never blocks. */
enum tl_device_health gpu_watch_health(const struct gpu_watch *watch, unsigned replica);
/* An operator says that the replica's GPUs have been mended. Any thread. */
void gpu_watch_mended(struct gpu_watch *watch, unsigned replica);

#endif
