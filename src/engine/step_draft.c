/* SPDX-License-Identifier: MIT */
/* Tokens guessed ahead. Where a sequence's last tokens stood in it before, what came behind them then is put behind them again
 * (prompt lookup, Saxena 2023), and one step computes all of it: as many rows, but the weights are read once.
 *
 *   tokens    ... a b c d e f  ...  a b c | d e f         d e f: drafts, `|`: the last token that is known
 *   rows                                c   d e f         each makes a token, as if those before it were right
 *   taken                                 d e x           up to the first that is not what was guessed
 *
 * A token depends on those before it and on its place alone (its random number, too), so those that are taken are just what
 * would have come one by one. What was computed behind them is written over: for the scheduler drafts are tokens whose values are
 * pending, whose blocks nobody shares.
 *
 * Rows cost something. So a sequence guesses one token more than were right the last time, or twice as many if all were; and when none was, it
 * waits, each time for twice as many tokens, before it guesses again. A right one ends the waiting where 3 of 10 have been lately, else it halves
 * it: of tokens that come in no order a few are guessed by chance, and what they save is less than what the others cost. So the rows that are
 * wasted become one in 64 tokens. */
#include <string.h>

#include "engine/engine_private.h"

#define FIRST_GUESS 4
#define AUTO_TOKENS 4     /* on processors: 3.1 x where texts repeat themselves, 1.0 x elsewhere (bench/README.md). On a GPU it has not been measured */
#define MODEL_TOKENS 8    /* with a draft model, on all devices: how many of them pay it finds out by itself (draft_gain.c) */
#define LONGEST_WAIT 64
#define WORTH(right, tried) (10 * (right) >= 3 * (tried))
#define WAIT_AHEAD 8      /* tokens after which a sequence without a match looks again, where looking is to run no step ahead. Else it looks each time */

#define FEWEST_LEFT 3     /* tokens of an answer, for a guess: a step that makes a token more than it has guesses is followed by another */

/* Its rows depend on what the rows before them bring in no other way than by the tokens themselves. */
bool tl_engine_guesses(const struct tl_engine *engine, const struct tl_sequence *seq) {
  return engine->o.draft_tokens > 0 && !seq->history && !seq->matcher && seq->n_bad_words == 0 && seq->max_new >= FEWEST_LEFT;
}

bool draft_is_eligible(const struct worker *w, const struct tl_sequence *seq) {
  return seq->draft_index && tl_engine_guesses(w->engine, seq) && seq->sched.n_max - seq->sched.n_tokens >= FEWEST_LEFT;
}

static bool is_decode(const struct tl_sched_item *item) {
  return item->n == 1 && item->start + 1 == item->seq->n_tokens;
}

static uint32_t n_out_of(const struct tl_sequence *seq) {
  return atomic_load_explicit(&seq->n_out, memory_order_relaxed); /* own */
}

uint32_t draft_tokens_of(const struct tl_engine_options *o) {
  if (o->draft_tokens != TL_DRAFT_TOKENS_AUTO) return o->draft_tokens;
  if (o->draft_model) return MODEL_TOKENS;
  if (!o->devices || o->model->pooling != TL_POOL_NONE) return 0;
  for (unsigned i = 0; i < o->n_replicas * (o->tensor_parallel ? o->tensor_parallel : 1); i++)
    if (strncmp(o->devices[i], "cpu:", 4) != 0) return 0;
  return AUTO_TOKENS;
}

uint32_t draft_rows(const struct tl_engine_options *o) {
  return o->max_batch_size < DRAFT_MOST_ROWS ? o->max_batch_size : DRAFT_MOST_ROWS;
}

/* Rows that a step of these items may have more; 0: with prompts in it, it has enough to do. */
static uint32_t room_for(const struct worker *w) {
  uint32_t most = draft_rows(&w->engine->o);
  for (uint32_t i = 0; i < w->n_items; i++)
    if (!is_decode(&w->items[i])) return 0;
  return w->n_items < most ? most - w->n_items : 0;
}

void draft_put(struct tl_sequence *seq, uint32_t known, uint32_t n) {
  seq->drafts.n = n;
  seq->drafts.first = known;
  seq->drafts.by_model = false;
  seq->sched.n_tokens += n;
  seq->sched.n_pending += n;
}

/* Returns the rows that it takes. */
static uint32_t add_drafts(struct worker *w, struct tl_sched_item *item, uint32_t room) {
  struct tl_sequence *seq = item->seq->owner;
  struct tl_drafts *d = &seq->drafts;
  uint32_t n_out = n_out_of(seq), most = d->most ? d->most : FIRST_GUESS;
  if (most > w->engine->o.draft_tokens) most = w->engine->o.draft_tokens;
  if (most > room) most = room;
  if (!draft_is_eligible(w, seq) || n_out < d->next_try) return 0;
  uint32_t left = item->seq->n_max - item->seq->n_tokens;
  if (most > left - 2) most = left - 2;
  draft_index_add(seq, item->seq->n_tokens);
  uint32_t n = draft_index_guess(seq, item->seq->n_tokens, most);
  while (n > 0 && !tl_scheduler_lengthen(w->scheduler, item, n)) n--;
  if (n == 0) {
    d->next_look = n_out + WAIT_AHEAD;
    return 0;
  }
  draft_put(seq, item->seq->n_tokens, n);
  return n;
}

/* What stands in the text costs nothing, so it is looked for first. */
int draft_fill_up(struct worker *w) {
  if (w->engine->o.draft_tokens == 0) return TL_OK;
  uint32_t room = room_for(w);
  for (uint32_t i = 0; i < w->n_items && room > 0; i++) room -= add_drafts(w, &w->items[i], room);
  return w->drafter && room > 0 ? draft_model_fill_up(w, room) : TL_OK;
}

void draft_learn(struct worker *w, struct tl_sequence *seq) {
  if (draft_is_eligible(w, seq)) draft_index_add(seq, seq->n_prompt + n_out_of(seq));
}

/* With its next token. Where others look anyway it looks, too: so all that find nothing wait for the same step, however they came. */
static bool is_due(const struct worker *w, const struct tl_sequence *seq) {
  uint32_t n_out = n_out_of(seq) + 1;
  return (n_out >= seq->drafts.next_try && n_out >= seq->drafts.next_look) || draft_model_is_due(w, seq, n_out);
}

bool draft_waits(const struct worker *w) {
  if (w->engine->o.draft_tokens == 0) return false;
  bool room = room_for(w) > 0;
  for (uint32_t i = 0; i < w->n_items; i++) {
    const struct tl_sequence *seq = w->items[i].seq->owner;
    if (seq->drafts.n || (room && draft_is_eligible(w, seq) && is_due(w, seq))) return true;
  }
  return false;
}

/* Of the last ones, the older the less: sums that lose an eighth each time, in eighths. */
static void note_success(struct tl_drafts *d, uint32_t n, uint32_t taken) {
  if (d->tried == 0) d->tried = 8 * FIRST_GUESS, d->right = d->tried / 2;
  d->tried += 8 * n - d->tried / 8;
  d->right += 8 * taken - d->right / 8;
}

static uint32_t next_wait(const struct tl_drafts *d, uint32_t taken) {
  if (taken > 0) return WORTH(d->right, d->tried) ? 0 : d->wait / 2;
  return d->wait == 0 ? 1 : d->wait < LONGEST_WAIT ? 2 * d->wait : LONGEST_WAIT;
}

/* Of what was found in the text. */
static void settle_found(struct tl_sequence *seq, uint32_t n, uint32_t taken) {
  struct tl_drafts *d = &seq->drafts;
  d->most = taken == n ? 2 * n : taken + 1;
  note_success(d, n, taken);
  d->wait = next_wait(d, taken);
  d->next_try = n_out_of(seq) + d->wait;
  /* relaxed: as the metrics; only the worker writes */
  atomic_fetch_add_explicit(&seq->n_right, taken, memory_order_relaxed);
  atomic_fetch_add_explicit(&seq->n_wrong, n - taken, memory_order_relaxed); /* relaxed: see n_right */
}

void draft_settle(struct worker *w, struct tl_sequence *seq) {
  struct tl_drafts *d = &seq->drafts;
  uint32_t n = d->n, known = seq->n_prompt + n_out_of(seq);
  if (n == 0) return;
  uint32_t taken = known > d->first ? known - d->first - 1 : 0; /* the last one was no guess */
  d->n = 0;
  if (d->by_model)
    draft_model_settle(w, seq, n, taken);
  else
    settle_found(seq, n, taken);
  w->flight->figures.wrong += n - taken;
  tl_metrics_add(w->shard, w->metrics.drafts, n);
  tl_metrics_add(w->shard, w->metrics.drafts_taken, taken);
  if (seq->sched.state == TL_SCHED_NONE) return;
  seq->sched.n_tokens = known;
  seq->sched.n_pending = 0;
  if (seq->sched.n_computed >= known) seq->sched.n_computed = known - 1; /* 0: it was put back */
}
