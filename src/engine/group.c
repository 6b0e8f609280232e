/* SPDX-License-Identifier: MIT */
/* A replica on several devices. The worker is rank 0 and leads: it plans, builds the step, samples and tells.
 * Each other rank has a thread that does with its device what the leader does with its own, in the same order.
 *
 *   leader     build k │ push k │ submit k, plan k+1 │ push: collect │ collect k │ wait for all │ apply k, build k+1
 *   followers          └─ring───► submit k             └─ring──────────► collect k ───► through
 *
 *   with one that runs ahead: push k+1, submit k+1 before the collect of k; what follows is the same
 *
 * The steps' arrays are the leader's and are not copied: the push gives them to all ranks to read, and the leader
 * writes to those of k again when every follower has said that it is through with the collect of k (base/broadcast.h),
 * which also gives it their results. From `wait for all` to the next push no follower is in its device.
 *
 * A rank that fails has aborted the group before it says so: the others come out of their collectives, and
 * the steps under way have failed on all, as on a single device: who has one still collects it, to be rid of it. A rank that hangs
 * is the monitor's: it aborts, and interrupts every rank (fault.c). Nothing runs until all is restored and reset
 * while the replica is parked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_private.h"

#define SPINS 2000 /* about 50 us, where the processors are the devices anyway */
#define MOST_UNDER_WAY 2

/* --- followers ------------------------------------------------------------------------------- */

static bool is_stopping(const struct group *g) {
  return atomic_load_explicit(&g->stopping, memory_order_acquire); /* pairs with group_stop */
}

/* In the ring, in place of a step: the oldest one is to be collected. */
static struct tl_step collect_oldest;

/* NULL: the group ends. */
static const struct tl_step *wait_for_step(struct follower *f) {
  struct group *g = f->leader->group;
  unsigned reader = f->rank - 1;
  const struct tl_step *step;
  for (unsigned i = 0; i < g->spins; i++) {
    if ((step = tl_broadcast_peek(&g->steps, reader))) return step;
    tl_cpu_relax();
  }
  for (;;) {
    tl_waker_prepare(&f->waker);
    if ((step = tl_broadcast_peek(&g->steps, reader)) || is_stopping(g)) {
      tl_waker_cancel(&f->waker);
      return step;
    }
    tl_waker_sleep(&f->waker, -1);
  }
}

/* After an error nothing is asked of the device: it has given up all, the leader will hear. */
static void obey(struct follower *f, const struct tl_step *step) {
  struct worker *w = f->leader;
  bool collects = step == &collect_oldest;
  if (f->result < 0 || (collects && f->n_under_way == 0)) return;
  f->result = collects ? w->ops->collect(f->device, NULL, &f->error) : w->ops->submit(f->device, step, &f->error);
  if (f->result < 0) w->ops->group->abort(w->group->shared); /* the others do not wait for it */
  f->n_under_way = f->result < 0 ? 0 : collects ? f->n_under_way - 1 : f->n_under_way + 1;
}

static void *follow(void *argument) {
  struct follower *f = argument;
  struct worker *w = f->leader;
  struct group *g = w->group;
  const struct tl_step *step;
  char name[16];
  snprintf(name, sizeof name, "tl-w%u-rank%u", worker_id(w), f->rank);
  tl_thread_enter(name, TL_ROLE_WORKER);
  if (f->options.cores) tl_thread_confine(f->options.first_core, f->options.cores);
  while ((step = wait_for_step(f))) {
    obey(f, step);
    tl_broadcast_next(&g->steps, f->rank - 1);
    tl_waker_notify(&g->answered);
  }
  return NULL;
}

/* --- the leader -------------------------------------------------------------------------------- */

static void give(struct worker *w, struct tl_step *step) {
  struct group *g = w->group;
  tl_broadcast_push(&g->steps, step); /* has room: two steps and a collect are the most before all are waited for */
  for (unsigned i = 0; i < g->n_followers; i++) tl_waker_notify(&g->followers[i].waker);
}

static void wait_until_read(struct group *g) {
  for (unsigned i = 0; i < g->spins; i++) {
    if (tl_broadcast_is_read(&g->steps)) return;
    tl_cpu_relax();
  }
  for (;;) {
    tl_waker_prepare(&g->answered);
    if (tl_broadcast_is_read(&g->steps)) break;
    tl_waker_sleep(&g->answered, -1);
  }
  tl_waker_cancel(&g->answered);
}

/* Until no rank has a step any more; the group is aborted. A device that has failed has none. */
static void give_up(struct worker *w) {
  struct group *g = w->group;
  struct tl_error ignored;
  for (unsigned n = 0; n < MOST_UNDER_WAY; n++) {
    give(w, &collect_oldest);
    if (g->n_under_way) g->n_under_way = w->ops->collect(w->device, w->sampled, &ignored) < 0 ? 0 : g->n_under_way - 1;
    wait_until_read(g);
  }
}

/* Rank 0 is through with `result`; waits for the others. What is wrong is said by the rank where it began. */
static int settle(struct worker *w, int result) {
  struct group *g = w->group;
  if (result < 0) {
    g->n_under_way = 0;
    w->ops->group->abort(g->shared);
  }
  wait_until_read(g);
  for (unsigned i = 0; i < g->n_followers; i++) {
    const struct follower *f = &g->followers[i];
    if (f->result == TL_OK || (result < 0 && result != TL_ECLOSED)) continue;
    result = f->result;
    w->failure = f->error;
  }
  if (result < 0) give_up(w);
  return result;
}

int group_submit(struct worker *w, struct tl_step *step) {
  struct group *g = w->group;
  if (!g) return w->ops->submit(w->device, step, &w->failure);
  /* nothing is under way: all have read the ring, and what is theirs is the leader's until the push */
  for (unsigned i = 0; g->n_under_way == 0 && i < g->n_followers; i++) g->followers[i].result = TL_OK;
  give(w, step);
  int r = w->ops->submit(w->device, step, &w->failure);
  if (r < 0) return settle(w, r);
  g->n_under_way++;
  return TL_OK;
}

int group_collect(struct worker *w) {
  struct group *g = w->group;
  if (!g) return w->ops->collect(w->device, w->sampled, &w->failure);
  give(w, &collect_oldest);
  int r = w->ops->collect(w->device, w->sampled, &w->failure);
  g->n_under_way--;
  return settle(w, r);
}

bool group_runs_ahead(const struct worker *w) {
  return w->group ? w->ops->group->runs_ahead : w->ops->runs_ahead;
}

/* --- interrupt and reset: the monitor ------------------------------------------------------------- */

static struct tl_device *device_of(struct worker *w, unsigned rank) {
  return rank ? w->group->followers[rank - 1].device : w->device;
}

int group_interrupt(struct worker *w, struct tl_error *err) {
  int result = TL_OK;
  w->ops->group->abort(w->group->shared);
  for (unsigned rank = 0; rank <= w->group->n_followers; rank++) {
    struct tl_device *device = device_of(w, rank);
    if (w->ops->interrupt)
      w->ops->interrupt(device);
    else if (!w->ops->reset)
      continue; /* its step ends by itself, now that no rank waits for another */
    else if (result == TL_OK)
      result = w->ops->reset(device, err);
    else
      w->ops->reset(device, NULL);
  }
  return result;
}

struct resetting {
  struct worker *worker;
  struct tl_device *device;
  pthread_t thread;
  bool started;
  int result;
  struct tl_error error;
};

static void *reset_rank(void *argument) {
  struct resetting *r = argument;
  r->result = r->worker->ops->reset(r->device, &r->error);
  return NULL;
}

/* Which rank's result is the group's: one that no reset mends before one that failed, then those that only heard of
 * another's end, then those that take their time. */
static unsigned weight(int result) {
  return result == TL_OK ? 0 : result == TL_EBUSY ? 1 : result == TL_ECLOSED ? 2 : result == TL_EUNSUPPORTED ? 4 : 3;
}

/* Those that are not reset yet, all at the same time: they may wait for one another there. */
static int reset_ranks(struct worker *w, struct tl_error *err) {
  struct group *g = w->group;
  struct resetting ranks[TL_MAX_RANKS];
  int result = TL_OK;
  for (unsigned i = 0; i <= g->n_followers; i++) {
    ranks[i] = (struct resetting){.worker = w, .device = device_of(w, i)};
    if (g->is_reset[i]) continue;
    ranks[i].started = pthread_create(&ranks[i].thread, NULL, reset_rank, &ranks[i]) == 0;
    if (!ranks[i].started) ranks[i].result = tl_error_set(&ranks[i].error, TL_EIO, NULL, "cannot start a thread");
  }
  for (unsigned i = 0; i <= g->n_followers; i++) {
    if (ranks[i].started) pthread_join(ranks[i].thread, NULL);
    g->is_reset[i] = ranks[i].result == TL_OK;
    if (weight(ranks[i].result) <= weight(result)) continue;
    result = ranks[i].result;
    if (err) *err = ranks[i].error;
  }
  return result;
}

int group_reset(struct worker *w, struct tl_error *err) {
  struct group *g = w->group;
  /* a parked leader has seen all followers through, and calls nothing until it is tried */
  if (!g->restoring) {
    w->ops->group->restore(g->shared);
    memset(g->is_reset, 0, sizeof g->is_reset);
  }
  int r = reset_ranks(w, err);
  g->restoring = r == TL_EBUSY;
  return r;
}

/* --- life ------------------------------------------------------------------------------------------ */

int group_new(struct worker *w, unsigned size, struct tl_error *err) {
  size_t bytes = (size - 1) * sizeof(struct follower);
  if (!w->ops->group)
    return tl_error_set(err, TL_EUNSUPPORTED, "engine.tensor_parallel",
                        "engine.tensor_parallel: devices of the kind %s cannot share a model", w->ops->name);
  struct group *g = aligned_alloc(TL_CACHE_LINE, sizeof *g);
  struct follower *followers = aligned_alloc(TL_CACHE_LINE, bytes);
  if (!g || !followers) {
    free(g);
    free(followers);
    return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  }
  memset((void *)followers, 0, bytes);
  *g = (struct group){.n_followers = size - 1, .followers = followers, .spins = w->ops->simulated ? 0 : SPINS};
  w->group = g;
  tl_waker_init(&g->answered);
  for (unsigned i = 0; i < g->n_followers; i++) {
    followers[i].leader = w;
    followers[i].rank = i + 1;
    tl_waker_init(&followers[i].waker);
  }
  if (tl_broadcast_init(&g->steps, 4, g->n_followers) < 0) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  return w->ops->group->make(size, &g->shared, err);
}

void group_free(struct worker *w) {
  struct group *g = w->group;
  if (!g) return;
  for (unsigned i = 0; i < g->n_followers; i++)
    if (g->followers[i].device) w->ops->close(g->followers[i].device);
  if (g->shared) w->ops->group->free(g->shared);
  tl_broadcast_done(&g->steps);
  free(g->followers);
  free(g);
}

int group_start(struct worker *w, struct tl_error *err) {
  for (unsigned i = 0; w->group && i < w->group->n_followers; i++) {
    struct follower *f = &w->group->followers[i];
    f->started = pthread_create(&f->thread, NULL, follow, f) == 0;
    if (!f->started) return tl_error_set(err, TL_EIO, NULL, "cannot start a worker");
  }
  return TL_OK;
}

void group_stop(struct worker *w) {
  struct group *g = w->group;
  if (!g) return;
  atomic_store_explicit(&g->stopping, 1, memory_order_release); /* pairs with is_stopping */
  for (unsigned i = 0; i < g->n_followers; i++) {
    struct follower *f = &g->followers[i];
    if (!f->started) continue;
    tl_waker_notify(&f->waker);
    pthread_join(f->thread, NULL);
    f->started = false;
  }
}
