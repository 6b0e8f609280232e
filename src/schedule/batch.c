/* SPDX-License-Identifier: MIT */
/* The next step. Decodes come first and all of them: a prompt, however long,
 * never keeps a running answer waiting for more than the one step that it shares
 * with it, and max_prefill_tokens bounds how long that takes. Prompts share the
 * rest by rank: one after the other is done sooner on average than all at the
 * same pace. Only the first leaves a quarter to the others, so that short
 * prompts pass a long one at little cost to it. */
#include "schedule/schedule_private.h"

#define MAX_FOLLOWERS 32 /* looked at again in a plan, so that its cost is bounded; the others keep waiting */

/* Items of sequences that gave way to a later one of the plan. */
static uint32_t drop_preempted(struct tl_sched_item *items, uint32_t n) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < n; i++)
    if (items[i].seq->state == TL_SCHED_RUNNING) items[kept++] = items[i];
  return kept;
}

void batch_add(struct plan *p, struct tl_sched_seq *seq, uint32_t n) {
  /* no more than max_batch_size run, so that there is room without the others */
  if (p->n == p->s->o.max_batch_size) p->n = drop_preempted(p->items, p->n);
  p->items[p->n++] = (struct tl_sched_item){
      .seq = seq, .start = seq->n_computed, .n = n, .state_from = seq->state_from, .state_to = seq->state_to};
  p->budget -= n;
}

static uint32_t missing(const struct tl_sched_seq *seq) {
  return seq->n_tokens - seq->n_computed;
}

/* A decode takes its block from the last in rank when none is to be had. False:
 * it is itself the last and waits for a block. */
static bool cover_decode(struct tl_scheduler *s, struct tl_sched_seq *seq) {
  while (!blocks_cover(s, seq, seq->n_tokens))
    if (!preempt_last(s, seq)) return false;
  return true;
}

static void plan_decodes(struct plan *p) {
  /* preemption takes only from the end of the list, never the one at hand */
  for (struct tl_sched_seq *seq = p->s->running.first; seq && p->budget > 0; seq = seq->next)
    if (missing(seq) == 1 && cover_decode(p->s, seq)) batch_add(p, seq, 1);
}

/* Rows for which the sequence has blocks or can have some. */
static uint32_t room_of(const struct tl_scheduler *s, const struct tl_sched_seq *seq) {
  uint64_t slots = ((uint64_t)seq->n_blocks + blocks_available(s)) * s->o.block_tokens;
  return (uint32_t)(slots - seq->n_computed);
}

/* A chunk of a running prompt; a shorter one when blocks are short. It takes
 * blocks from those behind it, so that the first always goes on. */
static void plan_chunk(struct plan *p, struct tl_sched_seq *seq) {
  struct tl_scheduler *s = p->s;
  uint32_t want = states_cut(s, seq, seq->n_computed, missing(seq) < p->most ? missing(seq) : p->most);
  while (room_of(s, seq) == 0 && preempt_last(s, seq))
    ;
  if (want > room_of(s, seq)) want = room_of(s, seq);
  if (want == 0 || !blocks_cover(s, seq, seq->n_computed + want)) return;
  batch_add(p, seq, want);
  if (!p->lead) p->lead = seq;
}

static struct tl_sched_seq *prompt_from(struct tl_sched_seq *seq) {
  while (seq && missing(seq) <= 1) seq = seq->next;
  return seq;
}

/* What the first prompt left and nobody took, as far as there are blocks. */
static void give_rest(struct plan *p) {
  struct tl_sched_seq *seq = p->lead;
  if (!seq || p->budget == 0 || seq->state != TL_SCHED_RUNNING) return;
  struct tl_sched_item *item = p->items;
  while (item->seq != seq) item++;
  uint32_t room = room_of(p->s, seq) - item->n, more = missing(seq) - item->n;
  if (more > p->budget) more = p->budget;
  if (more > room) more = room;
  uint32_t most = states_cut(p->s, seq, item->start, item->n + more);
  more = most > item->n ? most - item->n : 0;
  if (more == 0 || !blocks_cover(p->s, seq, item->start + item->n + more)) return;
  item->n += more;
  p->budget -= more;
}

/* The queue's next after an attempt to admit `tried`, which stood after `before`. */
static struct tl_sched_seq *next_waiting(const struct plan *p, enum admission result, struct tl_sched_seq *before,
                                         struct tl_sched_seq *tried) {
  if (result == ADMITTED) return before ? before->next : p->s->waiting.first;
  return result == FOLLOWS ? tried->next : NULL; /* who has no room keeps those behind it from passing */
}

/* Chunks of running prompts from `run` on, and of waiting ones, in one order. */
static void plan_prompts(struct plan *p, struct tl_sched_seq *run) {
  struct tl_scheduler *s = p->s;
  struct tl_sched_seq *wait = s->waiting.first;
  uint32_t n_followers = 0, share = p->budget / 4;
  if (share < s->o.block_tokens) share = 0; /* not worth a row of its own */
  while (p->budget > 0 && (run || wait)) {
    /* who was put back must not come in again in the same step */
    if (wait && wait->put_back == s->plans) wait = NULL;
    p->most = !p->lead ? p->budget - share : p->budget;
    if (run && (!wait || queue_before(run, wait))) {
      plan_chunk(p, run);
      run = prompt_from(run->next);
    } else if (wait) {
      if (wait->follower && n_followers == MAX_FOLLOWERS) {
        wait = wait->next;
        continue;
      }
      struct tl_sched_seq *before = wait->prev;
      enum admission result = admission_try(p, wait);
      wait->follower = result == FOLLOWS;
      n_followers += wait->follower && n_followers < MAX_FOLLOWERS;
      if (result == ADMITTED && !p->lead) p->lead = wait;
      wait = next_waiting(p, result, before, wait);
      if (run && run->state != TL_SCHED_RUNNING) run = NULL; /* preempted, and with it all behind it */
    }
  }
  give_rest(p);
}

uint32_t tl_scheduler_plan(struct tl_scheduler *scheduler, struct tl_sched_item *ret) {
  struct plan p = {.s = scheduler, .items = ret, .budget = scheduler->o.max_batch_tokens};
  scheduler->plans++;
  if (scheduler->o.whole) return whole_plan(scheduler, ret, 0);
  admission_make_place(scheduler);
  plan_decodes(&p);
  if (p.n > 0 && p.budget > scheduler->o.max_prefill_tokens) p.budget = scheduler->o.max_prefill_tokens;
  plan_prompts(&p, prompt_from(scheduler->running.first));
  return drop_preempted(ret, p.n);
}

uint32_t tl_scheduler_extend(struct tl_scheduler *scheduler, struct tl_sched_item *items, uint32_t n) {
  struct plan p = {.s = scheduler, .items = items, .n = n, .budget = scheduler->o.max_batch_tokens};
  if (!scheduler->waiting.first) return n;
  if (scheduler->o.whole) return whole_plan(scheduler, items, n);
  uint32_t prefill = 0;
  bool decodes = false;
  for (uint32_t i = 0; i < n; i++) {
    p.budget -= items[i].n;
    decodes = decodes || items[i].n == 1;
    prefill += items[i].n > 1 ? items[i].n : 0;
  }
  uint32_t most = scheduler->o.max_prefill_tokens > prefill ? scheduler->o.max_prefill_tokens - prefill : 0;
  if (decodes && p.budget > most) p.budget = most;
  plan_prompts(&p, NULL);
  return drop_preempted(items, p.n);
}

bool tl_scheduler_lengthen(struct tl_scheduler *scheduler, struct tl_sched_item *item, uint32_t n) {
  struct tl_sched_seq *seq = item->seq;
  if (scheduler->o.n_states > 0) return false; /* a state cannot be taken back */
  /* with its next one, for which the next plan, made before it is known what was right, takes a block even from another */
  uint32_t blocks = (seq->n_tokens + n + 1 + scheduler->o.block_tokens - 1) / scheduler->o.block_tokens;
  if (blocks > seq->n_blocks && blocks - seq->n_blocks + scheduler->running.n - 1 > blocks_available(scheduler)) return false;
  if (!blocks_cover(scheduler, seq, seq->n_tokens + n)) return false;
  item->n += n;
  item->n_more += n;
  return true;
}

void tl_scheduler_done(struct tl_scheduler *scheduler, const struct tl_sched_item *items, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    struct tl_sched_seq *seq = items[i].seq;
    seq->n_computed = items[i].start + items[i].n;
    if (scheduler->o.whole) continue;
    states_advance(scheduler, seq);
    tree_publish(scheduler, seq);
    states_keep(scheduler, seq);
    seq->next_key = missing(seq) > 1 ? tree_next_key(scheduler, seq) : 0;
  }
}
