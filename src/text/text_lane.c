/* SPDX-License-Identifier: MIT */
#include "tokenlane/text_lane.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenlane/base/waker.h"

struct lane {
  /* boot */
  TL_ALIGNED struct tl_text_lanes *lanes;
  unsigned index;
  bool started;
  pthread_t thread;
  /* submitters */
  struct tl_mpsc inbox;
  struct tl_waker waker;
  TL_ALIGNED _Atomic unsigned waiting; /* jobs not yet run: submitters add, the lane takes off */
};

struct tl_text_lanes {
  unsigned n_lanes, n_loops;
  struct lane *lanes;   /* (n_lanes) */
  struct tl_mpsc *done; /* (n_loops) */
  void (*wake)(unsigned loop, void *context);
  void *context;
  _Atomic int stopping;
};

static struct tl_text_job *pop(struct tl_mpsc *queue) {
  return (struct tl_text_job *)(void *)tl_mpsc_pop(queue); /* node is the first member */
}
_Static_assert(offsetof(struct tl_text_job, node) == 0, "pop relies on it");

static void run_job(struct lane *lane, struct tl_text_job *job) {
  struct tl_text_lanes *lanes = lane->lanes;
  unsigned loop = job->loop;
  TL_ASSERT_ROLE(TL_ROLE_LANE);
  job->lane = lane->index;
  job->run(job);
  atomic_fetch_sub_explicit(&lane->waiting, 1, memory_order_relaxed); /* a hint for submit */
  tl_mpsc_push(&lanes->done[loop], &job->node);
  lanes->wake(loop, lanes->context);
}

static bool stopping(struct tl_text_lanes *lanes) {
  return atomic_load_explicit(&lanes->stopping, memory_order_acquire); /* pairs with tl_text_lanes_stop */
}

static void *run_lane(void *argument) {
  struct lane *lane = argument;
  char name[16];
  snprintf(name, sizeof name, "tl-text-%u", lane->index);
  tl_thread_enter(name, TL_ROLE_LANE);
  while (!stopping(lane->lanes)) {
    struct tl_text_job *job = pop(&lane->inbox);
    if (!job) {
      tl_waker_prepare(&lane->waker);
      job = pop(&lane->inbox);
      if (job || stopping(lane->lanes))
        tl_waker_cancel(&lane->waker);
      else
        tl_waker_sleep(&lane->waker, -1);
    }
    if (job) run_job(lane, job);
  }
  return NULL;
}

static int start(struct tl_text_lanes *lanes, struct tl_error *err) {
  for (unsigned i = 0; i < lanes->n_lanes; i++) {
    struct lane *lane = &lanes->lanes[i];
    if (pthread_create(&lane->thread, NULL, run_lane, lane) != 0)
      return tl_error_set(err, TL_EIO, "text.threads", "text.threads: cannot start %u threads", lanes->n_lanes);
    lane->started = true;
  }
  return TL_OK;
}

int tl_text_lanes_new(unsigned n_lanes, unsigned n_loops, void (*wake)(unsigned loop, void *context), void *context,
                      struct tl_text_lanes **ret, struct tl_error *err) {
  struct tl_text_lanes *lanes = calloc(1, sizeof *lanes);
  if (!lanes) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  lanes->n_lanes = n_lanes;
  lanes->n_loops = n_loops;
  lanes->wake = wake;
  lanes->context = context;
  lanes->lanes = aligned_alloc(TL_CACHE_LINE, n_lanes * sizeof *lanes->lanes);
  lanes->done = aligned_alloc(TL_CACHE_LINE, n_loops * sizeof *lanes->done);
  if (!lanes->lanes || !lanes->done) {
    lanes->n_lanes = 0; /* their memory holds nothing yet */
    tl_text_lanes_free(lanes);
    return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  }
  memset((void *)lanes->lanes, 0, n_lanes * sizeof *lanes->lanes);
  for (unsigned i = 0; i < n_loops; i++) tl_mpsc_init(&lanes->done[i]);
  for (unsigned i = 0; i < n_lanes; i++) {
    lanes->lanes[i].lanes = lanes;
    lanes->lanes[i].index = i;
    tl_mpsc_init(&lanes->lanes[i].inbox);
    tl_waker_init(&lanes->lanes[i].waker);
  }
  int r = start(lanes, err);
  if (r < 0) {
    tl_text_lanes_stop(lanes);
    tl_text_lanes_free(lanes);
    return r;
  }
  *ret = lanes;
  return TL_OK;
}

void tl_text_lanes_submit(struct tl_text_lanes *lanes, struct tl_text_job *job) {
  struct lane *best = &lanes->lanes[0];
  unsigned least = atomic_load_explicit(&best->waiting, memory_order_relaxed); /* hints, here and below */
  for (unsigned i = 1; i < lanes->n_lanes && least > 0; i++) {
    unsigned waiting = atomic_load_explicit(&lanes->lanes[i].waiting, memory_order_relaxed);
    if (waiting >= least) continue;
    least = waiting;
    best = &lanes->lanes[i];
  }
  atomic_fetch_add_explicit(&best->waiting, 1, memory_order_relaxed);
  tl_mpsc_push(&best->inbox, &job->node);
  tl_waker_notify(&best->waker);
}

void tl_text_lanes_drain(struct tl_text_lanes *lanes, unsigned loop, void (*done)(struct tl_text_job *job)) {
  struct tl_text_job *job;
  while ((job = pop(&lanes->done[loop]))) done(job);
}

void tl_text_lanes_stop(struct tl_text_lanes *lanes) {
  /* release: pairs with the lanes' acquire loads; what was submitted before is seen */
  atomic_store_explicit(&lanes->stopping, 1, memory_order_release);
  for (unsigned i = 0; i < lanes->n_lanes; i++) {
    struct lane *lane = &lanes->lanes[i];
    if (!lane->started) continue;
    tl_waker_notify(&lane->waker);
    pthread_join(lane->thread, NULL);
    lane->started = false;
  }
}

void tl_text_lanes_reap(struct tl_text_lanes *lanes, void (*done)(struct tl_text_job *job)) {
  struct tl_text_job *job;
  for (unsigned i = 0; i < lanes->n_loops; i++) tl_text_lanes_drain(lanes, i, done);
  for (unsigned i = 0; i < lanes->n_lanes; i++)
    while ((job = pop(&lanes->lanes[i].inbox))) done(job);
}

void tl_text_lanes_free(struct tl_text_lanes *lanes) {
  if (!lanes) return;
  free(lanes->lanes);
  free(lanes->done);
  free(lanes);
}
