/* SPDX-License-Identifier: MIT */
/* The life of a step: planned, begun, ended. engine_private.h has the order. */
#include <math.h>
#include <string.h>

#include "engine/engine_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/grammar.h"
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

static void note_start(struct worker *w, struct tl_sequence *seq, uint32_t start, int64_t now_ns) {
  trace_started(w, seq, now_ns);
  if (seq->started_ns) return; /* it was put back and begins anew */
  seq->started_ns = now_ns;
  seq->n_cached = start;
  tl_metrics_observe(w->shard, w->metrics.queue_seconds, seq->started_ns - seq->submitted_ns);
}

/* The device has the step: from here on its rows count as computed, and the
 * tokens that it makes as there, but for their values. */
static void take_off(struct worker *w, struct flight *f, int64_t now_ns) {
  memcpy(f->items, w->items, w->n_items * sizeof *w->items);
  f->n_items = w->n_items;
  w->n_items = 0;
  tl_scheduler_done(w->scheduler, f->items, f->n_items);
  for (uint32_t i = 0; i < f->n_items; i++) {
    const struct tl_sched_item *item = &f->items[i];
    struct tl_sequence *seq = item->seq->owner;
    seq->in_flight++;
    note_start(w, seq, item->start, now_ns);
    draft_learn(w, seq);
    uint32_t prefill = item->start < seq->n_prompt ? item->n - item->n_more : 0;
    f->figures.prefill += prefill;
    f->figures.decode += item->n - prefill;
    bool makes = item->start + item->n == item->seq->n_tokens;
    if (!makes || item->seq->n_tokens + 1 >= item->seq->n_max) continue; /* or it ends with this step */
    item->seq->n_tokens++;
    item->seq->n_pending++;
  }
}

void step_note_time(struct worker *w, const struct tl_step *step, int64_t began_ns) {
  atomic_store_explicit(&worker_board(w)->step_rows, step->n_tokens, memory_order_relaxed); /* a figure alone */
  atomic_store_explicit(&worker_board(w)->step_began_ns, began_ns, memory_order_relaxed); /* a figure alone */
}

static struct flight *other_flight(struct worker *w) {
  return &w->flights[w->flight == &w->flights[0]];
}

/* The device does not idle while a draft model guesses for it. */
static bool guess(struct worker *w) {
  int64_t began_ns = w->drafter ? tl_now_ns() : 0;
  if (draft_fill_up(w) < 0) {
    worker_fail(w, w->items, w->n_items, 0);
    return false;
  }
  if (w->drafter && w->idle_since_ns) w->idle_since_ns += tl_now_ns() - began_ns;
  return true;
}

bool step_begin(struct worker *w) {
  TL_ASSERT_ROLE(TL_ROLE_WORKER);
  struct flight *f = other_flight(w); /* news of the last one are still to be told */
  choose_items(w);
  if (w->n_items == 0) return false;
  if (!guess(w)) return false;
  if (pooling_is(w->engine))
    pooling_build_step(w, f);
  else
    worker_build_step(w, f);
  step_note_time(w, &f->step, tl_now_ns());
  if (group_submit(w, &f->step) < 0) {
    step_note_time(w, &f->step, 0);
    worker_fail(w, w->items, w->n_items, 0);
    return false;
  }
  int64_t now = tl_now_ns();
  if (w->idle_since_ns) tl_metrics_observe(w->shard, w->metrics.gap_seconds, now - w->idle_since_ns);
  news_tell(w);
  f->figures = (struct step_figures){.began_ns = now};
  w->flight = f;
  w->under_way = true;
  take_off(w, f, now);
  return true;
}

/* --- while the device runs ------------------------------------------------------------------ */

void step_plan_next(struct worker *w) {
  w->n_items = tl_scheduler_plan(w->scheduler, w->items);
}

/* Whether the item can be computed before the host knows what the step under way brings: penalties are counted and grammars followed
 * here, lists and log-probabilities lie in the sequence's own memory, which is its client's as soon as it has ended. */
static bool can_run_ahead(const struct tl_sched_item *item) {
  const struct tl_sequence *seq = item->seq->owner;
  if (!seq->in_flight) return true;
  uint32_t n_out = atomic_load_explicit(&seq->n_out, memory_order_relaxed); /* own */
  bool forbids = item->start + item->n < seq->n_prompt + seq->min_new && seq->n_stop_ids;
  if (seq->history || seq->logprobs || seq->n_bias || seq->n_bad_words || forbids) return false;
  return item->start + item->n <= seq->n_prompt + n_out || (item->n == 1 && !seq->matcher);
}

/* Who is cancelled gets no row, but ends only when the step under way has: the device still reads of it. */
static void leave_out_ended(struct worker *w) {
  uint32_t n = 0;
  int64_t now = tl_now_ns();
  for (uint32_t i = 0; i < w->n_items; i++)
    if (worker_verdict(w->items[i].seq->owner, now) == TL_FINISH_NONE) w->items[n++] = w->items[i];
  w->n_items = n;
}

bool step_run_ahead(struct worker *w) {
  struct flight *f = other_flight(w);
  if (!group_runs_ahead(w) || pooling_is(w->engine) || fault_is_marked(w)) return true;
  for (uint32_t i = 0; i < w->n_items; i++)
    if (!can_run_ahead(&w->items[i])) return true;
  if (draft_waits(w)) return true;
  leave_out_ended(w);
  if (w->n_items == 0) return true;
  worker_build_step(w, f);
  if (group_submit(w, &f->step) < 0) {
    step_note_time(w, &w->flight->step, 0);
    w->under_way = false;
    worker_fail(w, w->items, w->n_items, 0);
    return false;
  }
  f->figures = (struct step_figures){0};
  w->ahead = f;
  take_off(w, f, tl_now_ns());
  return true;
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

/* Its rows in the step that runs ahead are nobody's: it may be freed before that ends. */
static void leave_ahead(struct flight *f, const struct tl_sequence *seq) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < f->n_items; i++)
    if (f->items[i].seq != &seq->sched) f->items[n++] = f->items[i];
  f->n_items = n;
  for (uint32_t i = 0; i < f->step.n_rows; i++)
    if (f->row_seq[i] == seq) f->row_seq[i] = NULL;
}

/* It leaves the scheduler and the plan now, the loop hears of it with the other news. */
static void end_later(struct worker *w, struct tl_sequence *seq, enum tl_finish how) {
  if (w->ahead && seq->in_flight) leave_ahead(w->ahead, seq);
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

static void end_by_error(struct worker *w, struct tl_sequence *seq, const char *why) {
  TL_LOG(TL_LOG_WARN, "engine", "the sequence cannot go on and ends", TL_U("replica", worker_id(w)), TL_S("reason", why));
  end_later(w, seq, TL_FINISH_ERROR);
}

/* A model that makes a NaN for one sequence says nothing about the others: only
 * that one ends. What made it may have passed since, but can lie in its KV: nobody is to find that later. */
static void end_broken(struct worker *w, struct tl_sequence *seq, const char *why) {
  tl_scheduler_distrust(w->scheduler, &seq->sched);
  end_by_error(w, seq, why);
}

/* Whether mask and biases may have left no token at all. That is the client's doing, who must not empty the cache of what others share.
 * Where they left a few all of which may be forbidden, it counts as such: who comes later to what was a NaN after all, finds it again. */
static bool may_leave_none(const struct tl_sampling *s, uint32_t vocab_size) {
  uint32_t n = s->mask ? 0 : vocab_size, n_forbidden = 0;
  for (uint32_t i = 0; s->mask && i < TL_MASK_WORDS(vocab_size); i++) n += (uint32_t)__builtin_popcount(s->mask[i]);
  for (uint32_t i = 0; i < s->n_bias; i++) n_forbidden += isinf(s->bias[i].bias);
  return n <= n_forbidden;
}

static void end_without_token(struct worker *w, struct tl_sequence *seq, const struct tl_sampling *s) {
  if (seq->matcher && tl_matcher_must_end(seq->matcher))
    end_later(w, seq, TL_FINISH_STOP); /* nothing but an end was allowed, and its id was not */
  else if (may_leave_none(s, w->engine->o.model->vocab_size))
    end_by_error(w, seq, "of the tokens that are allowed none is possible");
  else
    end_broken(w, seq, "what the model makes is not numbers");
}

static void take_token(struct worker *w, struct tl_sequence *seq, uint32_t at, const struct tl_sampled *s) {
  keep_logprobs(seq, at, s);
  if (at < seq->n_prompt) {
    take_score(seq, at);
    return;
  }
  uint32_t n_out = at - seq->n_prompt + 1;
  bool stops = tl_sequence_is_stop(seq, s->token);
  if (seq->matcher && !stops && tl_matcher_take(seq->matcher, s->token) < 0) {
    end_broken(w, seq, "a token came that its grammar does not allow");
    return;
  }
  seq->tokens[at] = s->token;
  if (seq->sched.n_pending) seq->sched.n_pending--; /* none for the last one of max_new */
  sequence_count(seq, s->token, true);
  if (n_out == 1) seq->first_token_ns = w->flight->figures.ended_ns;
  trace_token(w, seq);
  /* publishes the token; pairs with the acquire load of the loop */
  atomic_store_explicit(&seq->n_out, n_out, memory_order_release);
  w->flight->figures.generated++;
  if (stops || (seq->matcher && tl_matcher_must_end(seq->matcher)))
    end_later(w, seq, TL_FINISH_STOP);
  else if (n_out == seq->max_new)
    end_later(w, seq, TL_FINISH_LENGTH);
  else
    news_add(w, seq, false);
}

/* The plan without what ended by its last token, and from where each is now: guesses may have been wrong. Before anything is told: a
 * sequence may be freed as soon as its loop knows. */
static void leave_plan(struct worker *w) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < w->n_items; i++) {
    struct tl_sched_item item = w->items[i];
    item.start = item.seq->n_computed;
    if (item.seq->state != TL_SCHED_NONE) w->items[n++] = item;
  }
  w->n_items = n;
}

/* Whether the row makes a token of which a guess, on which the next row depends, stands in its place. */
static bool is_guessed(const struct tl_sequence *seq, uint32_t token) {
  return token >= seq->drafts.first && token < seq->drafts.first + seq->drafts.n;
}

static void take_rows(struct worker *w, const struct flight *f) {
  for (uint32_t i = 0; i < f->step.n_rows; i++) {
    struct tl_sequence *seq = f->row_seq[i];
    if (!seq || seq->sched.state == TL_SCHED_NONE) continue; /* an earlier row of its prompt was broken */
    uint32_t at = f->row_token[i];
    bool wrong = is_guessed(seq, at) && seq->tokens[at] != w->sampled[i].token;
    if (w->sampled[i].token < 0)
      end_without_token(w, seq, &f->sampling[i]);
    else
      take_token(w, seq, at, &w->sampled[i]);
    while (wrong && i + 1 < f->step.n_rows && f->row_seq[i + 1] == seq) i++; /* made of it */
  }
}

static void take_vectors(struct worker *w, const struct flight *f) {
  for (uint32_t i = 0; i < f->n_items; i++) {
    struct tl_sequence *seq = f->items[i].seq->owner;
    if (!pooling_take(w, seq, i)) end_broken(w, seq, "what the model makes is not numbers");
  }
}

/* Each row's token, or its vector, to its sequence. */
static void apply(struct worker *w, const struct flight *f) {
  for (uint32_t i = 0; i < f->n_items; i++) ((struct tl_sequence *)f->items[i].seq->owner)->in_flight--;
  if (pooling_is(w->engine))
    take_vectors(w, f);
  else
    take_rows(w, f);
  for (uint32_t i = 0; i < f->n_items; i++) draft_settle(w, f->items[i].seq->owner);
  for (uint32_t i = 0; i < f->n_items; i++) { /* prompts that are only scored, or pooled, and are through */
    struct tl_sequence *seq = f->items[i].seq->owner;
    if (seq->max_new == 0 && seq->sched.state != TL_SCHED_NONE && f->items[i].start + f->items[i].n == seq->n_prompt) end_later(w, seq, TL_FINISH_LENGTH);
  }
  leave_plan(w);
}

/* The step that runs ahead has become the one under way. */
static void move_up(struct worker *w, int64_t now_ns) {
  w->under_way = w->ahead != NULL;
  w->idle_since_ns = w->under_way ? 0 : now_ns;
  if (!w->ahead) return;
  w->flight = w->ahead;
  w->ahead = NULL;
  w->flight->figures.began_ns = now_ns;
  step_note_time(w, &w->flight->step, now_ns);
  tl_metrics_observe(w->shard, w->metrics.gap_seconds, 0);
}

void step_end(struct worker *w) {
  struct flight *f = w->flight;
  int r = group_collect(w);
  step_note_time(w, &f->step, 0);
  if (r < 0) {
    w->under_way = false;
    w->ahead = NULL; /* the device has given it up, too */
  } else if (fault_is_marked(w)) {
    /* a reset may have taken the KV away from under a step that its device takes for good: fault.c */
    move_up(w, tl_now_ns());
    r = tl_error_set(&w->failure, TL_EDEVICE, NULL, "the step was too late");
  }
  if (r < 0) {
    worker_fail(w, f->items, f->n_items, f->figures.began_ns);
    return;
  }
  f->figures.ended_ns = tl_now_ns();
  draft_model_note_step(w, f);
  apply(w, f);
  w->ended = f;
  move_up(w, f->figures.ended_ns);
}

void step_give_up(struct worker *w) {
  while (w->under_way) {
    if (group_collect(w) < 0) w->ahead = NULL;
    move_up(w, 0);
  }
  step_note_time(w, &w->flight->step, 0);
}
