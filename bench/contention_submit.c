/* SPDX-License-Identifier: MIT */
/* Submit and batch: n loops submit sequences to WORKERS workers, which form steps of
 * them and send each back to its loop. A loop keeps WINDOW sequences under way, so
 * nobody runs ahead and everybody sleeps when there is nothing to do. One operation is
 * one sequence there and back; the time is that of the submit.
 *
 * All form their steps with the same code: the engine's scheduler (add, plan, done,
 * remove; 16 prompt tokens a sequence) and flat arrays as step_build.c makes them. Nobody
 * runs the step: what is compared is what lies between the steps.
 *
 * The twins are the server that this one replaces: what waits for a GPU lies in a list
 * under a lock, and the worker holds it while it takes from the list and forms its
 * step, since the lock is what guards queue and batch. "one mutex" is one for all GPUs and for
 * what goes back to the loops; "mutex a GPU" is one for each list. They are kinder than that server in all else: intrusive
 * lists, chains made before the lock is taken, blocks given back outside of it, a signal only to who
 * sleeps and after the unlock. "only to take" is one mutex as one would hold it who rewrote that server for
 * speed: for a few pointer stores, the step formed outside. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "contention.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/mpsc.h"
#include "tokenlane/base/spsc.h"
#include "tokenlane/base/waker.h"
#include "tokenlane/schedule.h"

enum { WORKERS = 4, WINDOW = 256, BATCH = 64, PROMPT = 16, BLOCK = 16, CONTEXT = 64 };

struct item {
  _Alignas(128) struct tl_mpsc_node node; /* ours */
  _Atomic uint32_t signal;                /* ours: as tl_sequence.signal */
  struct item *next;                      /* the twins: the queue it is in */
  struct tl_sched_seq sched;
  unsigned loop;
};

/* --- a step: the same for all ------------------------------------------------------------ */

static struct {
  _Alignas(128) struct tl_scheduler *scheduler;
  struct tl_sched_item planned[BATCH];
  uint32_t tables[BATCH][CONTEXT / BLOCK], query_start[BATCH + 1], context_len[BATCH], positions[BATCH * PROMPT], slots[BATCH * PROMPT];
} steps[WORKERS];

static void make_schedulers(void) {
  const struct tl_scheduler_options o = {.n_blocks = 4 * BATCH, .block_tokens = BLOCK, .max_batch_size = BATCH,
                                         .max_batch_tokens = 2 * BATCH * PROMPT, .max_context = CONTEXT};
  struct tl_error err;
  for (unsigned w = 0; w < WORKERS; w++)
    if (!steps[w].scheduler && tl_scheduler_new(&o, &steps[w].scheduler, &err) < 0) abort();
}

static void form_step(unsigned worker, struct item *const *items, unsigned n) {
  int64_t now_ns = tl_now_ns();
  uint32_t n_tokens = 0;
  for (unsigned i = 0; i < n; i++) {
    items[i]->sched = (struct tl_sched_seq){.n_tokens = PROMPT, .n_max = PROMPT + 1};
    tl_scheduler_add(steps[worker].scheduler, &items[i]->sched, now_ns);
  }
  if (tl_scheduler_plan(steps[worker].scheduler, steps[worker].planned) != n) abort(); /* there is room for all */
  for (unsigned i = 0; i < n; i++) {
    const struct tl_sched_item *item = &steps[worker].planned[i];
    memcpy(steps[worker].tables[i], item->seq->blocks, item->seq->n_blocks * sizeof(uint32_t));
    steps[worker].query_start[i] = n_tokens;
    steps[worker].context_len[i] = item->start + item->n;
    for (uint32_t k = item->start; k < item->start + item->n; k++, n_tokens++) {
      steps[worker].positions[n_tokens] = k;
      steps[worker].slots[n_tokens] = item->seq->blocks[k / BLOCK] * BLOCK + k % BLOCK;
    }
  }
  steps[worker].query_start[n] = n_tokens;
  tl_scheduler_done(steps[worker].scheduler, steps[worker].planned, n);
}

static void end_step(unsigned worker, struct item *const *items, unsigned n) {
  for (unsigned i = 0; i < n; i++) tl_scheduler_remove(steps[worker].scheduler, &items[i]->sched);
}

double contention_form_ns(void) {
  static struct item items[BATCH];
  struct item *batch[BATCH];
  enum { ROUNDS = 2000 };
  make_schedulers();
  for (unsigned i = 0; i < BATCH; i++) batch[i] = &items[i];
  int64_t began_ns = tl_now_ns();
  for (unsigned k = 0; k < ROUNDS; k++) {
    form_step(0, batch, BATCH);
    end_step(0, batch, BATCH);
  }
  return (double)(tl_now_ns() - began_ns) / (ROUNDS * BATCH);
}

struct submit_ops {
  void (*init)(unsigned n_loops);
  void (*submit)(unsigned worker, struct item *item);
  /* Waits for something and forms a step of it; 0 when the run is over. */
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
  if (n) form_step(worker, ret, n);
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

/* All of it, or `max`. */
static unsigned wait_pop(struct list *list, struct item **ret, unsigned max) {
  unsigned n = 0;
  while (!list->first && !contention_is_over()) {
    list->sleeping = true;
    pthread_cond_wait(&list->filled, list->mutex);
  }
  struct item *item = list->first;
  for (; item && n < max; item = item->next) ret[n++] = item;
  list->first = item;
  if (!item) list->last = &list->first;
  return n;
}

static unsigned formed_take(unsigned worker, struct item **ret) {
  struct list *list = &queues[worker];
  pthread_mutex_lock(list->mutex);
  unsigned n = wait_pop(list, ret, BATCH);
  if (n) form_step(worker, ret, n);
  pthread_mutex_unlock(list->mutex);
  return n;
}

static unsigned short_take(unsigned worker, struct item **ret) {
  struct list *list = &queues[worker];
  pthread_mutex_lock(list->mutex);
  unsigned n = wait_pop(list, ret, BATCH);
  pthread_mutex_unlock(list->mutex);
  if (n) form_step(worker, ret, n);
  return n;
}

static unsigned locked_drain(unsigned loop, struct item **ret) {
  struct list *list = &answers[loop];
  pthread_mutex_lock(list->mutex);
  unsigned n = wait_pop(list, ret, WINDOW);
  pthread_mutex_unlock(list->mutex);
  return n;
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
  while ((n = ops->take(me, batch))) {
    end_step(me, batch, n);
    if (contention_is_over()) break;
    ops->deliver(me, batch, n);
  }
  return NULL;
}

static void start(const struct contention_variant *variant, unsigned n_threads, struct contention_tally *tallies) {
  ops = variant->ops;
  n_loops = n_threads;
  tally_of = tallies;
  make_schedulers();
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
static const struct submit_ops single_ops = {single_init, locked_submit, formed_take, single_deliver, locked_drain, locked_wake_all};
static const struct submit_ops each_ops = {each_init, locked_submit, formed_take, each_deliver, locked_drain, locked_wake_all};
static const struct submit_ops short_ops = {single_init, locked_submit, short_take, single_deliver, locked_drain, locked_wake_all};

static const struct contention_variant variants[] = {
    {"tokenlane", start, stop, &ours_ops},
    {"one mutex", start, stop, &single_ops},
    {"mutex a GPU", start, stop, &each_ops},
    {"only to take", start, stop, &short_ops},
};

const struct contention_part contention_submit = {"submit-and-batch", "sequences/s, submit time", 5, 4, variants};
