/* SPDX-License-Identifier: MIT */
/* The devices of the child: one, or the ranks of a group, each with a thread of its own, for collectives wait for one
 * another. The main thread is rank 0.
 *
 *   rank 0        asked = n of each │ submit │ asked = n + 1 │ collect │ waits for each answered = n + 1 │ ...
 *   the others                      └► submit                └► collect ┘
 *
 * Two words a rank, as between daemon and child (child_wait.c): `asked` publishes a step, or that the oldest is to be collected, in one
 * of a few places; `answered` gives result and error back. Rank 0 waits for the answers to a collect, so that then nobody reads the
 * collected step any more, and the others have taken what was asked before. A rank that fails aborts the group, so that the
 * others come out; the step has failed as a whole and the daemon replaces the process, so nothing is restored here. A rank
 * that hangs takes all others with it, until the daemon kills the process. */
#include <stdlib.h>
#include <string.h>

#include "device/child/child_private.h"

struct rank {
  struct child_ranks *all;
  unsigned index;
  pthread_t thread;
  struct tl_device *device;
  int result; /* of the load, then an error of any step; with the error given by `answered` */
  struct tl_error error;
  TL_ALIGNED _Atomic uint32_t asked; /* rank 0 */
  _Atomic uint32_t waits;            /* rank 0, for `answered` */
  TL_ALIGNED _Atomic uint32_t answered; /* the rank */
  _Atomic uint32_t sleeps;              /* the rank, for `asked` */
};

struct child_ranks {
  struct child_shared *shared;
  const struct tl_device_ops *ops;
  const struct tl_model *model;
  struct tl_device_group *group;  /* NULL: one device */
  uint32_t number;                /* the last that was asked; the load is 1 */
  const struct tl_step *asked[CHILD_COMMANDS]; /* of the number, modulo: to be submitted; NULL: the oldest is to be collected */
  unsigned n;
  struct rank ranks[];            /* (n) */
};

static void on_progress(uint64_t done, uint64_t total, void *context) {
  struct rank *rank = context;
  (void)total;
  /* relaxed: a figure for the eye */
  atomic_store_explicit(&rank->all->shared->loaded_bytes[rank->index], done, memory_order_relaxed);
}

static int load_rank(struct rank *rank) {
  struct child_ranks *all = rank->all;
  const struct child_job *j = &all->shared->job;
  const struct child_rank_job *mine = &j->ranks[rank->index];
  struct tl_device_load what = {.model = all->model,
                                .model_path = j->model_path,
                                .max_batch_size = j->max_batch_size,
                                .max_batch_tokens = j->max_batch_tokens,
                                .max_context = j->max_context,
                                .least_context = j->least_context,
                                .draft_tokens = j->draft_tokens,
                                .draft_rows = j->draft_rows,
                                .n_blocks = j->n_blocks,
                                .beside_bytes = j->beside_bytes,
                                .beside_block_bytes = j->beside_block_bytes,
                                .max_states = mine->max_states,
                                .kv_memory_bytes = mine->kv_memory_bytes,
                                .kv_format = j->kv_format,
                                .memory_percent = j->memory_percent,
                                .memory_shared = j->memory_shared,
                                .cudnn = j->cudnn,
                                .progress = on_progress,
                                .context = rank};
  if (mine->cores) tl_thread_confine(mine->first_core, mine->cores); /* this thread is lane 0 */
  int r = all->group ? all->ops->group->join(rank->device, all->group, rank->index, &rank->error) : TL_OK;
  return r == TL_OK ? all->ops->load(rank->device, &what, &all->shared->loaded[rank->index], &rank->error) : r;
}

/* After an error nothing is asked of the device: the process will be replaced. */
static void obey(struct rank *rank, const struct tl_step *step, struct tl_sampled *ret_sampled) {
  struct child_ranks *all = rank->all;
  if (rank->result < 0) return;
  rank->result = step ? all->ops->submit(rank->device, step, &rank->error)
                      : all->ops->collect(rank->device, ret_sampled, &rank->error);
  if (rank->result < 0 && all->group) all->ops->group->abort(all->group);
}

static void *follow(void *argument) {
  struct rank *rank = argument;
  tl_thread_enter("tl-rank", TL_ROLE_WORKER);
  rank->result = load_rank(rank);
  for (uint32_t number = 1;;) {
    child_tell(&rank->answered, number, &rank->waits);
    while (child_wait(&rank->asked, number, &rank->sleeps, -1) == number) {}
    obey(rank, rank->all->asked[++number % CHILD_COMMANDS], NULL);
  }
  return NULL;
}

/* Rank 0 is through with result and error of its own; waits for the others. What is wrong is said by the rank where it
 * began: the others say that the group was ended. */
static int settle(struct child_ranks *all, struct tl_error *err) {
  struct rank *first = &all->ranks[0], *guilty = first;
  for (unsigned i = 1; i < all->n; i++) {
    struct rank *rank = &all->ranks[i];
    uint32_t answered = atomic_load_explicit(&rank->answered, memory_order_acquire); /* pairs with the store in child_tell */
    while (answered != all->number) answered = child_wait(&rank->answered, answered, &rank->waits, -1);
    if (rank->result < 0 && (guilty->result == TL_OK || guilty->result == TL_ECLOSED)) guilty = rank;
  }
  if (guilty->result < 0) *err = guilty->error;
  return guilty->result;
}

/* To all; rank 0 does it itself. */
static void ask(struct child_ranks *all, const struct tl_step *step, struct tl_sampled *ret_sampled) {
  all->asked[++all->number % CHILD_COMMANDS] = step;
  for (unsigned i = 1; i < all->n; i++) child_tell(&all->ranks[i].asked, all->number, &all->ranks[i].sleeps);
  obey(&all->ranks[0], step, ret_sampled);
}

int child_ranks_open(struct child_shared *shared, const struct child_layout *layout, struct child_ranks **ret, struct tl_error *err) {
  const struct child_job *j = &shared->job;
  size_t bytes = sizeof(struct child_ranks) + j->n_ranks * sizeof(struct rank);
  bytes = (bytes + TL_CACHE_LINE - 1) / TL_CACHE_LINE * TL_CACHE_LINE;
  struct child_ranks *all = aligned_alloc(TL_CACHE_LINE, bytes);
  if (!all) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  memset((void *)all, 0, bytes);
  all->shared = shared;
  all->n = j->n_ranks;
  const int32_t *tokens = child_at(shared, layout->sim_tokens);
  const struct tl_sim_fault *faults = child_at(shared, layout->sim_faults);
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < all->n; i++) {
    const struct child_rank_job *mine = &j->ranks[i];
    struct tl_sim_options sim = mine->sim;
    struct tl_device_options options = {.spec = mine->spec, .n_lanes = mine->n_lanes, .first_core = mine->first_core, .cores = mine->cores};
    sim.tokens = sim.n_tokens ? tokens : NULL;
    sim.faults = faults;
    tokens += sim.n_tokens;
    faults += sim.n_faults;
    if (j->has_sim) options.sim = &sim;
    all->ranks[i].all = all;
    all->ranks[i].index = i;
    atomic_store_explicit(&all->ranks[i].asked, 1, memory_order_relaxed); /* the load; before its thread is there */
    all->ops = tl_device_find(mine->spec, &options.index, err); /* the same for all, by the daemon */
    r = all->ops ? all->ops->open(&options, &all->ranks[i].device, err) : TL_EINVAL;
  }
  if (r == TL_OK && all->n > 1) r = all->ops->group->make(all->n, &all->group, err);
  *ret = all;
  return r;
}

int child_ranks_load(struct child_ranks *ranks, const struct tl_model *model, struct tl_error *err) {
  ranks->model = model;
  ranks->number = 1;
  for (unsigned i = 1; i < ranks->n; i++)
    if (pthread_create(&ranks->ranks[i].thread, NULL, follow, &ranks->ranks[i]) != 0)
      return tl_error_set(err, TL_EIO, NULL, "cannot start a thread");
  ranks->ranks[0].result = load_rank(&ranks->ranks[0]);
  return settle(ranks, err);
}

int child_ranks_submit(struct child_ranks *ranks, const struct tl_step *step, struct tl_error *err) {
  ask(ranks, step, NULL);
  return ranks->ranks[0].result < 0 ? settle(ranks, err) : TL_OK;
}

int child_ranks_collect(struct child_ranks *ranks, struct tl_sampled *ret_sampled, struct tl_error *err) {
  ask(ranks, NULL, ret_sampled);
  return settle(ranks, err);
}

enum tl_device_health child_ranks_health(const struct child_ranks *ranks) {
  enum tl_device_health worst = TL_DEVICE_WELL;
  for (unsigned i = 0; ranks->ops->health && i < ranks->n; i++) {
    enum tl_device_health health = ranks->ops->health(ranks->ranks[i].device);
    if (health > worst) worst = health;
  }
  return worst;
}

bool child_ranks_are_simulated(const struct child_ranks *ranks) {
  return ranks->ops->simulated;
}
