/* SPDX-License-Identifier: MIT */
/* One model that is served: its files, its engine on devices of its own, its router, its
 * monitor. What all models share is the daemon's. */
#ifndef SERVED_H
#define SERVED_H

#include "daemon/daemon_private.h"
#include "daemon/monitor.h"

struct served {
  struct daemon *daemon;
  const struct tl_config *config; /* as if it were the only one */
  const char *name;
  unsigned first_replica, n_replicas;        /* of all the daemon's */
  unsigned cpu_devices, first_cpu_device;    /* as in tl_engine_options */
  struct tl_adapter_source *adapters;        /* (config->model_adapters.n) */
  struct tl_model *model, *draft; /* draft: NULL: none guesses */
  struct tl_tokenizer *tokenizer;
  struct tl_chat_format *chat;
  struct tl_vocabulary *vocabulary; /* NULL: the model generates nothing */
  struct simulation *simulation; /* what simulated devices look at */
  struct progress *progress;
  struct tl_engine *engine;
  struct tl_route *route;
  struct tl_waker probe_waker; /* the boot thread, waiting for its test generation, then the monitor */
  struct probe *probes;        /* (replicas) */
  struct monitor *monitor;
};

/* Whether the files of all models can be what the configuration says, as far as that shows without reading weights
 * and tokenizers; nothing is kept. */
int served_check(const struct tl_config *config, struct tl_error *err);
/* From files to replicas that have made their test generation. On error what was made is left to
 * served_stop and served_done. Boot. */
int served_load(struct served *s, struct tl_error *err);
/* Starts its monitor; the daemon's GPUs are watched by then. */
int served_watch(struct served *s, struct tl_error *err);
/* Ends monitor and workers; loops may still run. */
void served_stop(struct served *s);
/* Once no loop runs. */
void served_done(struct served *s);

#endif
