/* SPDX-License-Identifier: MIT */
/* Submit and batch: n loops submit sequences to WORKERS workers, which take them
 * in batches and send each back to its loop. A loop keeps WINDOW sequences under
 * way, so nobody runs ahead and everybody sleeps when there is nothing to do.
 * One operation is one sequence there and back; the time is that of the submit.
 *
 * The first two twins are written as one would who wants them fast: intrusive
 * lists, the lock held for a few pointer stores, whole batches per lock, a signal
 * only to who sleeps and after the unlock. The third is the server that this one
 * replaces: one lock over the queues, and the batch is planned under it, since what
 * the plan changes is what the lock guards. All plan: PLAN_ROUNDS hashes a sequence,
 * about 50 ns, the least that the real scheduler and step builder need for one. */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "contention.h"
#include "tokenlane/base/hash.h"
#include "tokenlane/base/mpsc.h"
#include "tokenlane/base/spsc.h"
#include "tokenlane/base/waker.h"

enum { WORKERS = 4, WINDOW = 256, BATCH = 64, PLAN_ROUNDS = 12 };

struct item {
  _Alignas(128) struct tl_mpsc_node node; /* ours */
  _Atomic uint32_t signal;                /* ours: as tl_sequence.signal */
  struct item *next;                      /* the twins: the queue it is in */
  uint64_t plan;
  unsigned loop;
};

static void plan(struct item *const *items, unsigned n) {
  for (unsigned i = 0; i < n; i++)
    for (unsigned k = 0; k < PLAN_ROUNDS; k++) items[i]->plan = tl_hash_u64(items[i]->plan);
}

struct submit_ops {
  void (*init)(unsigned n_loops);
  void (*submit)(unsigned worker, struct item *item);
  /* Waits for something and plans it; 0 when the run is over. */
  unsigned (*take)(unsigned worker, struct item **ret);
  void (*deliver)(unsigned worker, struct item *const *items, unsigned n);
  /* Waits for something; at most WINDOW, 0 when the run is over. */
  unsigned (*drain)(unsigned loop, struct item **ret);
  void (*wake_all)(void);
};

static unsigned n_loops;

/* --- ours: inbox, event rings, wakers -------------------------------------------------- */

static struct {
  struct tl_mpsc inbox;
  struct tl_waker waker;
  struct tl_spsc events[CONTENTION_MAX_THREADS];
} ours[WORKERS];
static struct tl_waker loop_wakers[CONTENTION_MAX_THREADS];

static void ours_init(unsigned n) {
  for (unsigned w = 0; w < WORKERS; w++) {
    tl_mpsc_init(&ours[w].inbox);
    tl_waker_init(&ours[w].waker);
    for (unsigned l = 0; l < n; l++) {
      tl_spsc_done(&ours[w].events[l]);
      tl_spsc_init(&ours[w].events[l], WINDOW);
    }
  }
  for (unsigned l = 0; l < n; l++) tl_waker_init(&loop_wakers[l]);
}

static void ours_submit(unsigned worker, struct item *item) {
  tl_mpsc_push(&ours[worker].inbox, &item->node);
  tl_waker_notify(&ours[worker].waker);
}

static unsigned pop_batch(unsigned worker, struct item **ret) {
  unsigned n = 0;
  struct tl_mpsc_node *node;
  while (n < BATCH && (node = tl_mpsc_pop(&ours[worker].inbox))) ret[n++] = (struct item *)(void *)node;
  return n;
}

static unsigned wait_batch(unsigned worker, struct item **ret) {
  for (;;) {
    unsigned n = pop_batch(worker, ret);
    if (n) return n;
    tl_waker_prepare(&ours[worker].waker);
    n = pop_batch(worker, ret);
    if (n || contention_is_over()) {
      tl_waker_cancel(&ours[worker].waker);
      return n;
    }
    tl_waker_sleep(&ours[worker].waker, -1);
  }
}

static unsigned ours_take(unsigned worker, struct item **ret) {
  unsigned n = wait_batch(worker, ret);
  plan(ret, n);
  return n;
}

/* As events_publish and events_wake_loops of the engine. */
static void ours_deliver(unsigned worker, struct item *const *items, unsigned n) {
  bool woken[CONTENTION_MAX_THREADS] = {false};
  for (unsigned i = 0; i < n; i++) {
    unsigned loop = items[i]->loop;
    uint32_t old = atomic_fetch_or_explicit(&items[i]->signal, 3, memory_order_acq_rel);
    if (!(old & 1)) tl_spsc_push(&ours[worker].events[loop], items[i]);
    woken[loop] = true;
  }
  for (unsigned l = 0; l < n_loops; l++)
    if (woken[l]) tl_waker_notify(&loop_wakers[l]);
}

static unsigned pop_events(unsigned loop, struct item **ret) {
  unsigned n = 0;
  for (unsigned w = 0; w < WORKERS; w++) {
    struct item *item;
    while ((item = tl_spsc_pop(&ours[w].events[loop]))) {
      atomic_exchange_explicit(&item->signal, 0, memory_order_acq_rel);
      ret[n++] = item;
    }
  }
  return n;
}

static unsigned ours_drain(unsigned loop, struct item **ret) {
  for (;;) {
    unsigned n = pop_events(loop, ret);
    if (n) return n;
    tl_waker_prepare(&loop_wakers[loop]);
    n = pop_events(loop, ret);
    if (n || contention_is_over()) {
      tl_waker_cancel(&loop_wakers[loop]);
      return n;
    }
    tl_waker_sleep(&loop_wakers[loop], -1);
  }
}

static void ours_wake_all(void) {
  for (unsigned w = 0; w < WORKERS; w++) tl_waker_notify(&ours[w].waker);
  for (unsigned l = 0; l < n_loops; l++) tl_waker_notify(&loop_wakers[l]);
}

/* --- the twins: lists under a mutex ------------------------------------------------------ */

struct list {
  _Alignas(128) struct item *first;
  struct item **last;
  bool sleeping; /* its consumer */
  pthread_mutex_t *mutex;
  pthread_mutex_t own;
  pthread_cond_t filled;
};
static struct list queues[WORKERS], answers[CONTENTION_MAX_THREADS];
static pthread_mutex_t single;

static void init_list(struct list *list, pthread_mutex_t *mutex) {
  list->first = NULL;
  list->last = &list->first;
  list->sleeping = false;
  pthread_mutex_init(&list->own, NULL);
  pthread_cond_init(&list->filled, NULL);
  list->mutex = mutex ? mutex : &list->own;
}

static void init_lists(unsigned n, pthread_mutex_t *mutex) {
  for (unsigned w = 0; w < WORKERS; w++) init_list(&queues[w], mutex);
  for (unsigned l = 0; l < n; l++) init_list(&answers[l], mutex);
}

static void single_init(unsigned n) {
  pthread_mutex_init(&single, NULL);
  init_lists(n, &single);
}

static void each_init(unsigned n) {
  init_lists(n, NULL);
}

/* Appends a chain whose last element is `last`; says whether the consumer must be signalled. */
static bool append(struct list *list, struct item *first, struct item *last) {
  last->next = NULL;
  *list->last = first;
  list->last = &last->next;
  bool asleep = list->sleeping;
  list->sleeping = false;
  return asleep;
}

static void locked_submit(unsigned worker, struct item *item) {
  struct list *list = &queues[worker];
  pthread_mutex_lock(list->mutex);
  bool asleep = append(list, item, item);
  pthread_mutex_unlock(list->mutex);
  if (asleep) pthread_cond_signal(&list->filled);
}

/* All of it, or what fits into a batch. */
static unsigned locked_pop(struct list *list, struct item **ret, unsigned max, bool plan_here) {
  unsigned n = 0;
  pthread_mutex_lock(list->mutex);
  while (!list->first && !contention_is_over()) {
    list->sleeping = true;
    pthread_cond_wait(&list->filled, list->mutex);
  }
  struct item *item = list->first;
  for (; item && n < max; item = item->next) ret[n++] = item;
  list->first = item;
  if (!item) list->last = &list->first;
  if (plan_here) plan(ret, n);
  pthread_mutex_unlock(list->mutex);
  return n;
}

static unsigned locked_take(unsigned worker, struct item **ret) {
  unsigned n = locked_pop(&queues[worker], ret, BATCH, false);
  plan(ret, n);
  return n;
}

static unsigned planned_take(unsigned worker, struct item **ret) {
  return locked_pop(&queues[worker], ret, BATCH, true);
}

static unsigned locked_drain(unsigned loop, struct item **ret) {
  return locked_pop(&answers[loop], ret, WINDOW, false);
}

/* Chains are made before the lock is taken. */
struct chains {
  struct item *first[CONTENTION_MAX_THREADS], *last[CONTENTION_MAX_THREADS];
};

static void make_chains(struct chains *c, struct item *const *items, unsigned n) {
  memset(c->first, 0, n_loops * sizeof *c->first);
  for (unsigned i = 0; i < n; i++) {
    unsigned l = items[i]->loop;
    if (c->first[l])
      c->last[l]->next = items[i];
    else
      c->first[l] = items[i];
    c->last[l] = items[i];
  }
}

static void single_deliver(unsigned worker, struct item *const *items, unsigned n) {
  (void)worker;
  struct chains c;
  bool asleep[CONTENTION_MAX_THREADS] = {false};
  make_chains(&c, items, n);
  pthread_mutex_lock(&single);
  for (unsigned l = 0; l < n_loops; l++)
    if (c.first[l]) asleep[l] = append(&answers[l], c.first[l], c.last[l]);
  pthread_mutex_unlock(&single);
  for (unsigned l = 0; l < n_loops; l++)
    if (asleep[l]) pthread_cond_signal(&answers[l].filled);
}

static void each_deliver(unsigned worker, struct item *const *items, unsigned n) {
  (void)worker;
  struct chains c;
  make_chains(&c, items, n);
  for (unsigned l = 0; l < n_loops; l++) {
    if (!c.first[l]) continue;
    pthread_mutex_lock(&answers[l].own);
    bool asleep = append(&answers[l], c.first[l], c.last[l]);
    pthread_mutex_unlock(&answers[l].own);
    if (asleep) pthread_cond_signal(&answers[l].filled);
  }
}

static void wake_list(struct list *list) {
  pthread_mutex_lock(list->mutex); /* nobody is between looking at the end and waiting */
  pthread_mutex_unlock(list->mutex);
  pthread_cond_signal(&list->filled);
}

static void locked_wake_all(void) {
  for (unsigned w = 0; w < WORKERS; w++) wake_list(&queues[w]);
  for (unsigned l = 0; l < n_loops; l++) wake_list(&answers[l]);
}

/* --- threads ------------------------------------------------------------------------------- */

static const struct submit_ops *ops;
static pthread_t loops[CONTENTION_MAX_THREADS], workers[WORKERS];
static struct contention_tally *tally_of;
static struct item items_of[CONTENTION_MAX_THREADS][WINDOW];

static void *run_loop(void *argument) {
  unsigned me = (unsigned)(uintptr_t)argument, n = WINDOW, turn = me;
  struct contention_tally *tally = &tally_of[me];
  struct item *free_items[WINDOW];
  for (unsigned i = 0; i < WINDOW; i++) {
    items_of[me][i] = (struct item){.loop = me};
    free_items[i] = &items_of[me][i];
  }
  do {
    for (unsigned i = 0; i < n; i++) {
      int64_t began_ns = contention_begin(tally);
      ops->submit(turn++ % WORKERS, free_items[i]);
      contention_count(tally, began_ns);
    }
    n = ops->drain(me, free_items);
  } while (n && !contention_is_over());
  return NULL;
}

static void *run_worker(void *argument) {
  unsigned me = (unsigned)(uintptr_t)argument, n;
  struct item *batch[BATCH];
  while ((n = ops->take(me, batch)) && !contention_is_over()) ops->deliver(me, batch, n);
  return NULL;
}

static void start(const struct contention_variant *variant, unsigned n_threads, struct contention_tally *tallies) {
  ops = variant->ops;
  n_loops = n_threads;
  tally_of = tallies;
  ops->init(n_threads);
  for (unsigned w = 0; w < WORKERS; w++) pthread_create(&workers[w], NULL, run_worker, (void *)(uintptr_t)w);
  for (unsigned l = 0; l < n_threads; l++) pthread_create(&loops[l], NULL, run_loop, (void *)(uintptr_t)l);
}

static void stop(void) {
  ops->wake_all();
  for (unsigned w = 0; w < WORKERS; w++) pthread_join(workers[w], NULL);
  for (unsigned l = 0; l < n_loops; l++) pthread_join(loops[l], NULL);
}

static const struct submit_ops ours_ops = {ours_init, ours_submit, ours_take, ours_deliver, ours_drain, ours_wake_all};
static const struct submit_ops single_ops = {single_init, locked_submit, locked_take, single_deliver, locked_drain, locked_wake_all};
static const struct submit_ops each_ops = {each_init, locked_submit, locked_take, each_deliver, locked_drain, locked_wake_all};

static const struct submit_ops planned_ops = {single_init, locked_submit, planned_take, single_deliver, locked_drain, locked_wake_all};

static const struct contention_variant variants[] = {
    {"tokenlane", start, stop, &ours_ops},
    {"one mutex", start, stop, &single_ops},
    {"mutex a queue", start, stop, &each_ops},
    {"planned in it", start, stop, &planned_ops},
};

const struct contention_part contention_submit = {"submit-and-batch", "sequences/s, submit time", 5, 4, variants};
