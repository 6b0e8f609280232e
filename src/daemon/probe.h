/* SPDX-License-Identifier: MIT */
/* The test generation; of a model that pools, a test vector. A probe is the engine's while it runs: its memory goes after
 * tl_engine_stop. */
#ifndef PROBE_H
#define PROBE_H

#include <stdbool.h>

#include "tokenlane/base/waker.h"
#include "tokenlane/engine.h"

#define PROBE_PROMPT 3
#define PROBE_NEW 2

struct probe {
  struct tl_sequence seq;
  int32_t tokens[PROBE_PROMPT + PROBE_NEW];
  int32_t known[PROBE_NEW]; /* what the replica made at boot */
  float *vector, *known_vector; /* (n_out) likewise, of a model that pools; in the memory of the probes */
  uint32_t n_out;
  bool is_known, running, right;
};

struct probe *probes_new(unsigned n, uint32_t n_out); /* freed with free() */
/* A model whose context is too short for it is served without. */
bool probe_fits(const struct tl_engine *engine);
/* Starts one; the engine's loop number `loop` belongs to the calling thread. */
void probe_submit(struct tl_engine *engine, const struct tl_model *model, unsigned loop, unsigned replica, struct probe *probe);
/* For tl_engine_drain. */
void probe_on_event(struct tl_sequence *seq, bool final, void *context);
/* Boot: every replica generates a few tokens before anyone is served; what they are
 * is remembered in probes[replica]. */
int probe_replicas(struct tl_engine *engine, const struct tl_model *model, unsigned loop, struct tl_waker *waker,
                   struct probe *probes, struct tl_error *err);

#endif
