/* SPDX-License-Identifier: MIT */
/* The life of a step: planned, begun, ended. engine_private.h has the order. */
#include <string.h>

#include "engine/engine_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

/* --- before ------------------------------------------------------------------------------- */

/* Sequences of the plan whose client left or whose time is over cost no row. */
static void drop_ended(struct worker *w, int64_t now) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < w->n_items; i++) {
    struct tl_sched_item item = w->items[i];
    enum tl_finish how = worker_verdict(item.seq->owner, now);
    if (how == TL_FINISH_NONE)
      w->items[n++] = item;
    else
      worker_finish(w, item.seq->owner, how);
  }
  w->n_items = n;
}

/* What was planned while the last step ran, brought up to date. Newcomers may
 * have been cancelled while they waited, so the plan is looked at again. */
static void choose_items(struct worker *w) {
  int64_t now = tl_now_ns();
  drop_ended(w, now);
  if (w->n_items > 0 && tl_scheduler_waiting(w->scheduler) == 0) return;
  if (w->n_items > 0)
    w->n_items = tl_scheduler_extend(w->scheduler, w->items, w->n_items);
  else
    w->n_items = tl_scheduler_plan(w->scheduler, w->items);
  drop_ended(w, now);
}

static void note_start(struct worker *w, struct tl_sequence *seq, uint32_t start) {
  trace_started(w, seq);
  if (seq->started_ns) return; /* it was put back and begins anew */
  seq->started_ns = w->figures.began_ns;
  seq->n_cached = start;
  tl_metrics_observe(w->shard, w->metrics.queue_seconds, seq->started_ns - seq->submitted_ns);
}

/* The device has the step: from here on its rows count as computed, and the
 * tokens that it makes as there, but for their values. */
static void take_off(struct worker *w) {
  memcpy(w->flight, w->items, w->n_items * sizeof *w->items);
  w->n_flight = w->figures.n_items = w->n_items;
  w->n_items = 0;
  tl_scheduler_done(w->scheduler, w->flight, w->n_flight);
  for (uint32_t i = 0; i < w->n_flight; i++) {
    const struct tl_sched_item *item = &w->flight[i];
    struct tl_sequence *seq = item->seq->owner;
    seq->in_flight = true;
    note_start(w, seq, item->start);
    if (item->start < seq->n_prompt)
      w->figures.prefill += item->n;
    else
      w->figures.decode += item->n;
    bool makes = item->start + item->n == item->seq->n_tokens;
    if (makes && item->seq->n_tokens + 1 < item->seq->n_max) item->seq->n_tokens++; /* else it ends with this step */
  }
}

/* What the monitor looks at: when the step began, 0 when it is over, and how large it is. */
static void note_time(struct worker *w, int64_t began_ns) {
  atomic_store_explicit(&worker_board(w)->step_rows, w->step.n_tokens, memory_order_relaxed); /* a figure alone */
  atomic_store_explicit(&worker_board(w)->step_began_ns, began_ns, memory_order_relaxed); /* a figure alone */
}

bool step_begin(struct worker *w) {
  TL_ASSERT_ROLE(TL_ROLE_WORKER);
  choose_items(w);
  if (w->n_items == 0) return false;
  worker_build_step(w);
  note_time(w, tl_now_ns());
  if (group_submit(w) < 0) {
    note_time(w, 0);
    worker_fail(w, w->items, w->n_items);
    return false;
  }
  int64_t now = tl_now_ns();
  if (w->idle_since_ns) tl_metrics_observe(w->shard, w->metrics.gap_seconds, now - w->idle_since_ns);
  news_tell(w);
  w->figures = (struct step_figures){.began_ns = now};
  take_off(w);
  return true;
}

/* --- while the device runs ------------------------------------------------------------------ */

void step_plan_next(struct worker *w) {
  w->n_items = tl_scheduler_plan(w->scheduler, w->items);
}

/* --- after ---------------------------------------------------------------------------------- */

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

/* It leaves the scheduler and the plan now, the loop hears of it with the other news. */
static void end_later(struct worker *w, struct tl_sequence *seq, enum tl_finish how) {
  tl_scheduler_remove(w->scheduler, &seq->sched);
  seq->finish = how;
  news_add(w, seq, true);
}

static void take_score(struct tl_sequence *seq, uint32_t at) {
  /* when it begins anew, the rows before may come from the cache */
  seq->sched.max_cached = at + 1 < seq->n_prompt ? at : UINT32_MAX;
  /* its log-probabilities are written; pairs with the acquire load of the loop */
  atomic_store_explicit(&seq->n_scored, at, memory_order_release);
}

/* A model that makes a NaN for one sequence says nothing about the others: only
 * that one ends. */
static void end_broken(struct worker *w, struct tl_sequence *seq) {
  TL_LOG(TL_LOG_WARN, "engine", "the model's logits are not numbers; the sequence ends", TL_U("replica", worker_id(w)));
  end_later(w, seq, TL_FINISH_ERROR);
}

static void take_token(struct worker *w, struct tl_sequence *seq, uint32_t at, const struct tl_sampled *s) {
  keep_logprobs(seq, at, s);
  if (at < seq->n_prompt) {
    take_score(seq, at);
    return;
  }
  uint32_t n_out = at - seq->n_prompt + 1;
  seq->tokens[at] = s->token;
  sequence_count(seq, s->token, true);
  if (n_out == 1) seq->first_token_ns = w->figures.ended_ns;
  trace_token(w, seq);
  /* publishes the token; pairs with the acquire load of the loop */
  atomic_store_explicit(&seq->n_out, n_out, memory_order_release);
  w->figures.generated++;
  if (tl_sequence_is_stop(seq, s->token))
    end_later(w, seq, TL_FINISH_STOP);
  else if (n_out == seq->max_new)
    end_later(w, seq, TL_FINISH_LENGTH);
  else
    news_add(w, seq, false);
}

/* The plan without what ended by its last token. Before anything is told: a
 * sequence may be freed as soon as its loop knows. */
static void leave_plan(struct worker *w) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < w->n_items; i++)
    if (w->items[i].seq->state != TL_SCHED_NONE) w->items[n++] = w->items[i];
  w->n_items = n;
}

void step_end(struct worker *w) {
  int r = group_collect(w);
  note_time(w, 0);
  /* a reset may have taken the KV away from under a step that its device takes for good: fault.c */
  if (r == TL_OK && fault_is_marked(w)) r = tl_error_set(&w->failure, TL_EDEVICE, NULL, "the step was too late");
  if (r < 0) {
    worker_fail(w, w->flight, w->n_flight);
    return;
  }
  w->figures.ended_ns = w->idle_since_ns = tl_now_ns();
  uint32_t n = w->n_flight;
  w->n_flight = 0;
  for (uint32_t i = 0; i < n; i++) ((struct tl_sequence *)w->flight[i].seq->owner)->in_flight = false;
  for (uint32_t i = 0; i < w->step.n_rows; i++) {
    struct tl_sequence *seq = w->row_seq[i];
    if (seq->sched.state == TL_SCHED_NONE) continue; /* an earlier row of its prompt was broken */
    if (w->sampled[i].token < 0)
      end_broken(w, seq);
    else
      take_token(w, seq, w->row_token[i], &w->sampled[i]);
  }
  for (uint32_t i = 0; i < n; i++) { /* prompts that are only scored and are through */
    struct tl_sequence *seq = w->flight[i].seq->owner;
    if (seq->max_new == 0 && seq->sched.state != TL_SCHED_NONE && w->flight[i].start + w->flight[i].n == seq->n_prompt) end_later(w, seq, TL_FINISH_LENGTH);
  }
  leave_plan(w);
}
