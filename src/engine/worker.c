/* SPDX-License-Identifier: MIT */
/* The worker thread: takes new sequences in, drops cancelled and expired ones,
 * goes from step to step (step_run.c); sleeps when there is nothing to do. */
#include <stdio.h>

#include "engine/engine_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

struct tl_board *worker_board(struct worker *w) {
  return &w->engine->boards[w->index];
}

/* relaxed throughout: single figures for the router and the scrape */
static void publish_gauges(struct worker *w) {
  struct tl_board *b = worker_board(w);
  atomic_store_explicit(&b->free_blocks, tl_scheduler_free_blocks(w->scheduler), memory_order_relaxed);
  atomic_store_explicit(&b->cached_blocks, tl_scheduler_cached_blocks(w->scheduler), memory_order_relaxed);
  atomic_store_explicit(&b->states_used, tl_scheduler_used_states(w->scheduler), memory_order_relaxed);
  atomic_store_explicit(&b->states_kept, tl_scheduler_kept_states(w->scheduler), memory_order_relaxed);
  atomic_store_explicit(&b->running, tl_scheduler_running(w->scheduler), memory_order_relaxed);
  atomic_store_explicit(&b->waiting, tl_scheduler_waiting(w->scheduler), memory_order_relaxed);
}

static uint32_t n_sequences(const struct worker *w) {
  return tl_scheduler_running(w->scheduler) + tl_scheduler_waiting(w->scheduler);
}

void worker_finish(struct worker *w, struct tl_sequence *seq, enum tl_finish how) {
  news_tell(w); /* it may be among them, and is the loop's after its final event */
  if (seq->sched.state != TL_SCHED_NONE) tl_scheduler_remove(w->scheduler, &seq->sched);
  if (how == TL_FINISH_EXPIRED) tl_metrics_add(w->shard, w->metrics.expired, 1);
  seq->finish = how;
  trace_ended(w, seq);
  events_publish(w, seq, true);
}

enum tl_finish worker_verdict(const struct tl_sequence *seq, int64_t now_ns) {
  /* relaxed: a flag that publishes nothing */
  if (atomic_load_explicit(&seq->cancel, memory_order_relaxed)) return TL_FINISH_CANCELLED;
  return seq->deadline_ns && now_ns >= seq->deadline_ns ? TL_FINISH_EXPIRED : TL_FINISH_NONE;
}

/* --- taking in ------------------------------------------------------------------------- */

static void accept_sequence(struct worker *w, struct tl_sequence *seq, int64_t now_ns) {
  bool marked = fault_is_marked(w);
  if (marked || !tl_scheduler_fits(w->scheduler, seq->sched.n_max)) {
    worker_finish(w, seq, marked ? TL_FINISH_FAULT : TL_FINISH_ERROR);
    return;
  }
  enum tl_finish how = worker_verdict(seq, now_ns);
  if (how == TL_FINISH_NONE)
    tl_scheduler_add(w->scheduler, &seq->sched, now_ns);
  else
    worker_finish(w, seq, how);
}

static bool drain_inbox(struct worker *w) {
  struct tl_sequence *seq = inbox_pop(w);
  if (!seq) return false;
  int64_t now_ns = tl_now_ns();
  for (; seq; seq = inbox_pop(w)) accept_sequence(w, seq, now_ns);
  return true;
}

static bool stopping(struct worker *w) {
  return atomic_load_explicit(&w->engine->stopping, memory_order_acquire); /* pairs with tl_engine_stop */
}

/* --- dropping ----------------------------------------------------------------------------- */

static void drop_all(struct worker *w, enum tl_finish how) {
  struct tl_sched_seq *s;
  w->n_items = 0;
  while ((s = tl_scheduler_next(w->scheduler, NULL))) worker_finish(w, s->owner, how);
}

/* Ends what was cancelled or has expired. Of what steps under way compute the
 * device still reads: those get no further step, and end when they have none. */
static void drop_some(struct worker *w) {
  int64_t now_ns = tl_now_ns();
  struct tl_sched_seq *s = tl_scheduler_next(w->scheduler, NULL);
  while (s) {
    struct tl_sched_seq *next = tl_scheduler_next(w->scheduler, s);
    struct tl_sequence *seq = s->owner;
    enum tl_finish how = seq->in_flight ? TL_FINISH_NONE : worker_verdict(seq, now_ns);
    if (how != TL_FINISH_NONE) worker_finish(w, seq, how);
    s = next;
  }
}

/* --- faults: fault.c has the protocol ------------------------------------------------------ */

/* While the replica is marked as failed nothing is kept here. */
static bool park(struct worker *w) {
  uint32_t word;
  if (!fault_is_unanswered(w, &word)) return fault_is_marked(w);
  step_give_up(w);
  drop_all(w, TL_FINISH_FAULT);
  tl_scheduler_flush(w->scheduler); /* what its memory holds is not to be trusted */
  draft_model_forget(w);
  publish_gauges(w);
  fault_answer(w, word);
  return true;
}

/* Nothing of the step is used. Who was in it bears a part of the blame. */
void worker_fail(struct worker *w, const struct tl_sched_item *items, uint32_t n, int64_t began_ns) {
  for (uint32_t i = 0; i < n; i++) ((struct tl_sequence *)items[i].seq->owner)->n_faults++;
  int64_t now_ns = tl_now_ns();
  const struct step_figures figures = {.began_ns = began_ns ? began_ns : now_ns, .ended_ns = now_ns};
  trace_step(w, items, n, &figures, "device_fault");
  fault_mark(w);
  TL_LOG(TL_LOG_ERROR, "engine", "the device failed; its sequences go elsewhere", TL_U("replica", worker_id(w)),
         TL_S("error", w->failure.message));
  park(w);
}

/* --- going round ----------------------------------------------------------------------------- */

void worker_tell(struct worker *w) {
  news_tell(w);
  publish_gauges(w);
  events_wake_loops(w);
}

static void sleep_until_work(struct worker *w) {
  uint32_t word;
  tl_waker_prepare(&w->waker);
  if (drain_inbox(w) || stopping(w) || fault_is_unanswered(w, &word))
    tl_waker_cancel(&w->waker);
  else
    tl_waker_sleep(&w->waker, -1);
}

/* One step with all that fits into its shadow. False: there was nothing to run. */
static bool go_round(struct worker *w) {
  drain_inbox(w);
  if (w->n_items == 0) drop_some(w);
  bool runs = !park(w) && (w->under_way || step_begin(w));
  worker_tell(w);
  if (!runs) {
    w->idle_since_ns = 0;
    return false;
  }
  drain_inbox(w);
  drop_some(w);
  step_plan_next(w);
  if (step_run_ahead(w)) step_end(w);
  return true;
}

void *worker_run(void *argument) {
  struct worker *w = argument;
  char name[16];
  snprintf(name, sizeof name, "tl-worker-%u", worker_id(w));
  tl_thread_enter(name, TL_ROLE_WORKER);
  /* In a process of its own the device has its cores for itself. */
  if (w->device_options.cores && !w->isolated) tl_thread_confine(w->device_options.first_core, w->device_options.cores);
  while (!stopping(w))
    if (!go_round(w) && n_sequences(w) == 0) sleep_until_work(w);
  step_give_up(w);
  drain_inbox(w);
  drop_all(w, TL_FINISH_CANCELLED);
  worker_tell(w);
  return NULL;
}
