/* SPDX-License-Identifier: MIT */
/* A device, or a group of some, each on a thread of its own, and one step at a time of texts (golden_encoder.h). */
#ifndef ENCODER_RANKS_H
#define ENCODER_RANKS_H

#include <pthread.h>

#include "golden_encoder.h"
#include "tokenlane/device.h"

enum { MAX_RANKS = 4 };

struct machine {
  const struct tl_device_ops *ops;
  struct tl_device *ranks[MAX_RANKS];
  struct tl_device_group *group; /* NULL: one device */
  unsigned n_ranks;
};

/* What a rank's thread does, and what came of it. */
struct rank_run {
  const struct machine *m;
  unsigned rank;
  const struct tl_device_load *load;
  const struct tl_step *step;
  int result;
  struct tl_error err;
};

/* All do the same at the same time, but for `without`, if it is one of them. */
static inline void run_ranks(const struct machine *m, void *(*what)(void *run), const struct rank_run *with, unsigned without,
                             struct rank_run ret[MAX_RANKS]) {
  pthread_t threads[MAX_RANKS];
  for (unsigned i = 0; i < m->n_ranks; i++) {
    ret[i] = *with;
    ret[i].m = m;
    ret[i].rank = i;
    if (i != without) assert_int_equal(pthread_create(&threads[i], NULL, what, &ret[i]), 0);
  }
  for (unsigned i = 0; i < m->n_ranks; i++)
    if (i != without) pthread_join(threads[i], NULL);
}

static inline void run_all_ranks(const struct machine *m, void *(*what)(void *run), const struct rank_run *with) {
  struct rank_run runs[MAX_RANKS];
  run_ranks(m, what, with, MAX_RANKS, runs);
  for (unsigned i = 0; i < m->n_ranks; i++)
    if (runs[i].result < 0) fail_msg("rank %u: %s", i, runs[i].err.message);
}

static inline struct machine open_ranks(const struct tl_device_ops *ops, unsigned n_lanes, unsigned n_ranks) {
  struct tl_error err = {0};
  struct machine m = {.ops = ops, .n_ranks = n_ranks};
  if (n_ranks > 1 && ops->group->make(n_ranks, &m.group, &err) < 0) fail_msg("%s", err.message);
  for (unsigned i = 0; i < n_ranks; i++) {
    struct tl_device_options options = {.index = i, .n_lanes = n_lanes};
    if (ops->open(&options, &m.ranks[i], &err) < 0) fail_msg("%s", err.message);
  }
  return m;
}

static inline void *load_rank(void *run) {
  struct rank_run *r = run;
  struct tl_device_loaded loaded;
  if (r->m->group) r->result = r->m->ops->group->join(r->m->ranks[r->rank], r->m->group, r->rank, &r->err);
  if (r->result == TL_OK) r->result = r->m->ops->load(r->m->ranks[r->rank], r->load, &loaded, &r->err);
  return NULL;
}

static inline void load_ranks(struct machine *m, const struct tl_device_load *load) {
  run_all_ranks(m, load_rank, &(struct rank_run){.load = load});
}

static inline void *compute_rank(void *run) {
  struct rank_run *r = run;
  r->result = r->m->ops->submit(r->m->ranks[r->rank], r->step, &r->err);
  if (r->result == TL_OK) r->result = r->m->ops->collect(r->m->ranks[r->rank], NULL, &r->err);
  return NULL;
}

/* vectors: (n, n_out). */
static inline void run(struct machine *m, const struct text *const *texts, uint32_t n, float *vectors) {
  struct tl_step step = step_of(texts, n, vectors);
  run_all_ranks(m, compute_rank, &(struct rank_run){.step = &step});
}

static inline void close_machine(struct machine *m) {
  for (unsigned i = 0; i < m->n_ranks; i++) m->ops->close(m->ranks[i]);
  if (m->group) m->ops->group->free(m->group);
}

#endif
