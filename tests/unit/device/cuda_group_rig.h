/* SPDX-License-Identifier: MIT */
/* Groups of GPUs over the fake: ranks on a thread each. */
#ifndef CUDA_GROUP_RIG_H
#define CUDA_GROUP_RIG_H

#include "device/cuda/cuda_private.h"
#include "fake_cuda.h"
#include "golden_llama.h"

static uint32_t draft_tokens; /* of a load */

struct opening {
  struct machine *m;
  const struct tl_model *model;
  unsigned rank;
  bool loads; /* else it only joins */
  bool has_joined;
  uint32_t n_blocks, n_states;
  int result;
  struct tl_error error;
  pthread_t thread;
};

static inline void *open_rank(void *argument) {
  struct opening *o = argument;
  struct tl_device **device = &o->m->ranks[o->rank];
  struct tl_device_load load = {.model = o->model, .max_batch_size = 4, .max_batch_tokens = BATCH_TOKENS,
                                .max_context = MAX_CONTEXT, .draft_tokens = draft_tokens, .draft_rows = 4, .kv_memory_bytes = 8 << 20,
                                .max_states = o->model->recurrence.n_layers ? MAX_STATES : 0};
  struct tl_device_loaded loaded = {0};
  o->result = o->has_joined ? TL_OK : o->m->ops->group->join(*device, o->m->group, o->rank, &o->error);
  if (o->result == TL_OK && o->loads) o->result = o->m->ops->load(*device, &load, &loaded, &o->error);
  o->n_blocks = loaded.n_blocks;
  o->n_states = loaded.n_states;
  return NULL;
}

static inline void make_group(struct machine *m, unsigned size) {
  struct tl_error err = {0};
  *m = (struct machine){.ops = &fake_cuda_ops, .n_ranks = size};
  fake_cuda.n_devices = (int)size;
  if (m->ops->group->make(size, &m->group, &err) < 0) fail_msg("%s", err.message);
}

/* All ranks but the last `missing` ones. */
static inline void open_ranks(struct machine *m, const struct tl_model *model, unsigned missing, bool loads, struct opening ret[MAX_RANKS]) {
  m->vocab = model->vocab_size;
  for (unsigned i = 0; i < m->n_ranks - missing; i++) {
    struct tl_device_options options = {.index = i, .n_lanes = 1};
    ret[i] = (struct opening){.m = m, .model = model, .rank = i, .loads = loads};
    if ((ret[0].result = m->ops->open(&options, &m->ranks[i], &ret[0].error)) < 0) return;
  }
  for (unsigned i = 0; i < m->n_ranks - missing; i++) {
    pthread_create(&ret[i].thread, NULL, open_rank, &ret[i]);
  }
  for (unsigned i = 0; i < m->n_ranks - missing; i++) pthread_join(ret[i].thread, NULL);
  m->device = m->ranks[0];
}

static inline struct machine open_machine_of(const struct tl_model *model, unsigned size) {
  struct machine m;
  struct opening o[MAX_RANKS];
  make_group(&m, size);
  open_ranks(&m, model, 0, true, o);
  for (unsigned i = 0; i < size; i++) {
    if (o[i].result < 0) fail_msg("rank %u: %s", i, o[i].error.message);
    assert_int_equal(o[i].n_blocks, o[0].n_blocks);
    assert_int_equal(o[i].n_states, o[0].n_states);
  }
  m.n_states = o[0].n_states;
  m.n_blocks = o[0].n_blocks < 4000 ? o[0].n_blocks : 4000;
  m.blocks = malloc(m.n_blocks * sizeof *m.blocks);
  shuffle(m.blocks, m.n_blocks, 77);
  return m;
}

static inline void close_group(struct machine *m) {
  close_machine(m);
  assert_int_equal(fake_cuda_live(), 0);
}

static inline struct golden *open_model(const char *name) {
  struct golden *g = malloc(sizeof *g);
  fake_cuda_reset();
  open_golden(name, g);
  return g;
}

static inline void close_model(struct golden *g) {
  close_golden(g);
  free(g);
}

#endif
