/* SPDX-License-Identifier: MIT */
/* The worker thread: takes new sequences in, drops cancelled ones, plans a step,
 * runs it, hands its tokens out; sleeps when there is nothing to do. */
#include <stddef.h>
#include <stdio.h>

#include "engine/engine_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

static struct tl_board *board_of(struct worker *w) {
  return &w->engine->boards[w->index];
}

/* relaxed throughout: single figures for the router and the scrape */
static void publish_gauges(struct worker *w) {
  struct tl_board *b = board_of(w);
  atomic_store_explicit(&b->free_blocks, tl_scheduler_free_blocks(w->scheduler), memory_order_relaxed);
  atomic_store_explicit(&b->running, tl_scheduler_running(w->scheduler), memory_order_relaxed);
  atomic_store_explicit(&b->waiting, tl_scheduler_waiting(w->scheduler), memory_order_relaxed);
}

static void finish(struct worker *w, struct tl_sequence *seq, enum tl_finish how) {
  if (seq->sched.state != TL_SCHED_NONE) tl_scheduler_remove(w->scheduler, &seq->sched);
  seq->finish = how;
  events_publish(w, seq, true);
}

/* --- taking in ------------------------------------------------------------------------- */

static void accept_sequence(struct worker *w, struct tl_sequence *seq) {
  /* relaxed: its own, or of the worker before it, which the loop has seen end */
  seq->sched.n_tokens = seq->n_prompt + atomic_load_explicit(&seq->n_out, memory_order_relaxed);
  seq->sched.n_max = seq->n_prompt + seq->max_new;
  seq->sched.owner = seq;
  bool marked = fault_is_marked(w);
  if (marked || !tl_scheduler_fits(w->scheduler, seq->sched.n_max)) {
    finish(w, seq, marked ? TL_FINISH_FAULT : TL_FINISH_ERROR);
    return;
  }
  sequence_prepare(seq);
  tl_scheduler_add(w->scheduler, &seq->sched);
}

static bool drain_inbox(struct worker *w) {
  struct tl_mpsc_node *node;
  bool any = false;
  while ((node = tl_mpsc_pop(&w->inbox))) {
    accept_sequence(w, (struct tl_sequence *)(void *)((char *)node - offsetof(struct tl_sequence, node)));
    any = true;
  }
  return any;
}

static bool stopping(struct worker *w) {
  return atomic_load_explicit(&w->engine->stopping, memory_order_acquire); /* pairs with tl_engine_stop */
}

/* Ends what was cancelled, or everything. */
static void drop(struct worker *w, bool all, enum tl_finish how) {
  struct tl_sched_seq *s = tl_scheduler_next(w->scheduler, NULL);
  while (s) {
    struct tl_sched_seq *next = tl_scheduler_next(w->scheduler, s);
    struct tl_sequence *seq = s->owner;
    /* relaxed: a flag that publishes nothing */
    if (all || atomic_load_explicit(&seq->cancel, memory_order_relaxed)) finish(w, seq, how);
    s = next;
  }
}

/* --- handing out ------------------------------------------------------------------------- */

static void keep_logprobs(struct tl_sequence *seq, uint32_t token, const struct tl_sampled *s) {
  if (!seq->logprobs) return;
  struct tl_logprobs *l = &seq->logprobs[token];
  l->logprob = s->logprob;
  l->n_top = s->n_top;
  for (int32_t i = 0; i < s->n_top; i++) {
    l->top_tokens[i] = s->top_tokens[i];
    l->top_logprobs[i] = s->top_logprobs[i];
  }
}

static void take_token(struct worker *w, struct tl_sequence *seq, uint32_t at, const struct tl_sampled *s, int64_t now) {
  keep_logprobs(seq, at, s);
  if (at < seq->n_prompt) {
    atomic_store_explicit(&seq->n_scored, at, memory_order_release); /* its log-probabilities are written */
    return;
  }
  uint32_t n_out = at - seq->n_prompt + 1;
  seq->tokens[at] = s->token;
  seq->sched.n_tokens = at + 1;
  sequence_count(seq, s->token, true);
  if (n_out == 1) seq->first_token_ns = now;
  /* publishes the token; pairs with the acquire load of the loop */
  atomic_store_explicit(&seq->n_out, n_out, memory_order_release);
  tl_metrics_add(w->shard, w->metrics.generated_tokens, 1);
  if (sequence_is_stop(seq, s->token))
    finish(w, seq, TL_FINISH_STOP);
  else if (n_out == seq->max_new)
    finish(w, seq, TL_FINISH_LENGTH);
  else
    events_publish(w, seq, false);
}

/* A model that makes a NaN for one sequence says nothing about the others: only
 * that one ends. Marked before any token is handed out, as keep_scored_items. */
static void mark_broken(struct worker *w) {
  for (uint32_t i = 0; i < w->step.n_rows; i++) {
    if (w->sampled[i].token >= 0) continue;
    if (!w->row_seq[i]->broken)
      TL_LOG(TL_LOG_WARN, "engine", "the model's logits are not numbers; the sequence ends", TL_U("replica", w->index));
    w->row_seq[i]->broken = true;
  }
}

/* Prompts that are only scored and are through with this step: the items are cut
 * down to them. Before any token is handed out, since a sequence that ends then
 * may be freed at once. */
static void keep_scored_items(struct worker *w) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < w->n_items; i++) {
    const struct tl_sched_seq *s = w->items[i].seq;
    const struct tl_sequence *seq = s->owner;
    if (seq->max_new == 0 && !seq->broken && s->n_computed == seq->n_prompt) w->items[n++] = w->items[i];
  }
  w->n_items = n;
}

static void count_step(struct worker *w, int64_t began_ns, int64_t now) {
  struct tl_board *b = board_of(w);
  uint64_t prefill = 0;
  for (uint32_t i = 0; i < w->n_items; i++) {
    struct tl_sequence *seq = w->items[i].seq->owner;
    if (!seq->started_ns) { /* not again when it was put back and begins anew */
      seq->started_ns = began_ns;
      tl_metrics_observe(w->shard, w->metrics.queue_seconds, began_ns - seq->submitted_ns);
    }
    if (w->items[i].start < seq->n_prompt) prefill += w->items[i].n;
  }
  int64_t took = now - began_ns, average = atomic_load_explicit(&b->step_ns, memory_order_relaxed);
  uint64_t decode = w->step.n_tokens - prefill;
  /* relaxed: single figures, see publish_gauges */
  atomic_store_explicit(&b->step_ns, average ? average + (took - average) / 8 : took, memory_order_relaxed);
  atomic_store_explicit(&b->step_began_ns, 0, memory_order_relaxed);
  atomic_store_explicit(&b->beat_ns, now, memory_order_relaxed);
  atomic_fetch_add_explicit(&b->n_steps, 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&b->n_prefill_tokens, prefill, memory_order_relaxed);
  atomic_fetch_add_explicit(&b->n_decode_tokens, decode, memory_order_relaxed);
  tl_metrics_add(w->shard, w->metrics.steps, 1);
  tl_metrics_add(w->shard, w->metrics.prompt_tokens, (int64_t)prefill);
  tl_metrics_observe(w->shard, w->metrics.step_seconds, took);
}

/* Nothing of the step that failed is used. Who was in it bears a part of the blame. */
static void fail(struct worker *w) {
  atomic_store_explicit(&board_of(w)->step_began_ns, 0, memory_order_relaxed); /* as in count_step */
  for (uint32_t i = 0; i < w->n_items; i++) ((struct tl_sequence *)w->items[i].seq->owner)->n_faults++;
  fault_mark(w);
  TL_LOG(TL_LOG_ERROR, "engine", "the device failed; its sequences go elsewhere", TL_U("replica", w->index),
         TL_S("error", w->failure.message));
}

/* While the replica is marked as failed nothing is kept here. */
static bool park(struct worker *w) {
  uint32_t word;
  if (!fault_is_unanswered(w, &word)) return fault_is_marked(w);
  drop(w, true, TL_FINISH_FAULT);
  publish_gauges(w);
  fault_answer(w, word);
  return true;
}

static int run_device(struct worker *w) {
  int r = w->ops->submit(w->device, &w->step, &w->failure);
  if (r == TL_OK) r = w->ops->collect(w->device, w->sampled, &w->failure);
  if (r == TL_OK && fault_is_marked(w)) r = tl_error_set(&w->failure, TL_EDEVICE, NULL, "the step was too late");
  return r;
}

static bool run_step(struct worker *w) {
  uint64_t preemptions = tl_scheduler_preemptions(w->scheduler);
  w->n_items = tl_scheduler_plan(w->scheduler, w->items);
  if (w->n_items == 0) return false;
  int64_t began_ns = tl_now_ns();
  worker_build_step(w);
  atomic_store_explicit(&board_of(w)->step_began_ns, began_ns, memory_order_relaxed); /* the monitor only compares it */
  if (run_device(w) < 0) {
    fail(w);
    return true;
  }
  int64_t now = tl_now_ns();
  count_step(w, began_ns, now);
  tl_scheduler_done(w->scheduler, w->items, w->n_items);
  mark_broken(w);
  keep_scored_items(w);
  for (uint32_t i = 0; i < w->step.n_rows; i++) {
    struct tl_sequence *seq = w->row_seq[i];
    if (!seq->broken)
      take_token(w, seq, w->row_token[i], &w->sampled[i], now);
    else if (i + 1 == w->step.n_rows || w->row_seq[i + 1] != seq) /* its last row: it may be freed */
      finish(w, seq, TL_FINISH_ERROR);
  }
  for (uint32_t i = 0; i < w->n_items; i++) finish(w, w->items[i].seq->owner, TL_FINISH_LENGTH);
  tl_metrics_add(w->shard, w->metrics.preemptions, (int64_t)(tl_scheduler_preemptions(w->scheduler) - preemptions));
  return true;
}

static void sleep_until_work(struct worker *w) {
  tl_waker_prepare(&w->waker);
  uint32_t word;
  if (drain_inbox(w) || stopping(w) || fault_is_unanswered(w, &word))
    tl_waker_cancel(&w->waker);
  else
    tl_waker_sleep(&w->waker, -1);
}

void worker_flush(struct worker *w) {
  drain_inbox(w);
  drop(w, true, TL_FINISH_CANCELLED);
  publish_gauges(w);
}

void *worker_run(void *argument) {
  struct worker *w = argument;
  char name[16];
  snprintf(name, sizeof name, "tl-worker-%u", w->index);
  tl_thread_enter(name, TL_ROLE_WORKER);
  if (w->device_options.cores) tl_thread_confine(w->device_options.first_core, w->device_options.cores);
  while (!stopping(w)) {
    drain_inbox(w);
    drop(w, false, TL_FINISH_CANCELLED);
    bool busy = !park(w) && run_step(w);
    publish_gauges(w);
    events_wake_loops(w);
    if (!busy && tl_scheduler_running(w->scheduler) + tl_scheduler_waiting(w->scheduler) == 0) sleep_until_work(w);
  }
  worker_flush(w);
  events_wake_loops(w);
  return NULL;
}
