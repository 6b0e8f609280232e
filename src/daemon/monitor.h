/* SPDX-License-Identifier: MIT */
/* The health monitor: a thread that looks at every replica a few times a step limit,
 * quarantines, resets, tests and takes back in. Not on the request path: it may
 * sleep, and a device may take its time for a reset. */
#ifndef MONITOR_H
#define MONITOR_H

#include "daemon/gpu_watch.h"
#include "daemon/health.h"
#include "daemon/probe.h"
#include "tokenlane/api.h"

struct monitor;

struct monitor_options {
  struct health_options health;
  const char *name;         /* of the model, for the log; borrowed, as all below */
  struct tl_engine *engine;
  struct tl_route *route;
  struct tl_api *api;
  struct gpu_watch *gpus;   /* NULL: none are watched */
  const struct tl_model *model;
  struct probe *probes;     /* (replicas) */
  struct tl_waker *waker;   /* what the engine wakes for `loop` */
  unsigned loop;            /* its loop of the engine */
};

int monitor_new(const struct monitor_options *options, struct tl_metrics *metrics, struct monitor **ret, struct tl_error *err);
int monitor_start(struct monitor *monitor, struct tl_error *err);
/* Ends the thread. Before tl_engine_stop, which resets as well. */
void monitor_stop(struct monitor *monitor);
void monitor_free(struct monitor *monitor);
/* An operator wants the replica tried again, whatever its faults. Any thread. */
void monitor_resume(unsigned replica, void *monitor);

#endif
