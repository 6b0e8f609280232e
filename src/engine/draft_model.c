/* SPDX-License-Identifier: MIT */
/* Tokens guessed by a small model of the same vocabulary (Leviathan 2023), where a sequence's own text has no match. What is made of guesses
 * is step_draft.c's: they stand behind the known tokens, and a step of the model that is served says which were right.
 *
 *   tokens         a b c d e | f g h      f, g, h: guesses; `|`: behind what is known
 *   draft, step 1      c d e              what it has not computed yet, the last known one at least; makes f
 *          step 2            f            makes g
 *          step 3              g          makes h
 *   target, then           e f g h        as with any guesses
 *
 * All that guess do so in the same steps, each as often as pays (draft_gain.c). A guess is drawn with the sequence's own
 * temperature, filters and random number of its place: models that agree on a distribution then agree on what is drawn of it.
 *
 * What the draft model has. Its device numbers KV blocks as the target's does. Of each block it knows how many slots it has computed, for the
 * tokens that stand there: `valid`. Whatever a step of the target writes cuts that off there, but for the rows that it has itself
 * just computed for that step; so a block that begins anew begins with none. A sequence's missing rows are computed when it is to guess: who never does costs
 * nothing, and of a prompt from the prefix cache, of forks and of what was put back, what is there is used, whoever computed it. A step of the target waits for at most
 * one step of max_batch_tokens rows of that, so others' answers do not wait for a long prompt.
 *
 * Wrong or missing keys and values there cost right guesses, never right tokens. */
#include <string.h>

#include "engine/draft_model.h"
#include "tokenlane/base/clock.h"

#define FIRST_WAIT 64     /* tokens of a sequence whose guesses do not pay; then 4 times as many each time: what is missing by then must be computed */
#define LONGEST_UNTRIED 4096 /* tokens of all sequences, from one that tries where guesses do not pay to the next */
#define NO_GUESS_WAIT 8   /* for one that could not be had: no block, or no room in the step */
#define LEAST_CHANCE 0.01f /* so that a right one is seen in it */
#define MOST_BEHIND 16    /* tokens that the draft model lacks for each that may come: more cost more than their guesses are likely to save */
#define MOST_FOR_ONE 256  /* and no more for a guess that is only to find out whether they are right by now */
#define FEW_ROWS 16       /* who lacks no more comes before those with long prompts */

/* --- what it has ----------------------------------------------------------------------------- */

void draft_model_written(struct drafter *dr, const struct tl_sequence *seq, uint32_t position, uint32_t slot) {
  uint8_t *valid = &dr->valid[slot / TL_BLOCK_TOKENS], offset = (uint8_t)(slot % TL_BLOCK_TOKENS);
  if (position >= seq->drafts.n_computed && *valid > offset) *valid = offset;
}

void draft_model_forget(struct worker *w) {
  if (w->drafter) memset(w->drafter->valid, 0, w->loaded.n_blocks * sizeof *w->drafter->valid);
}

/* Leading tokens, of the first `most`. */
static uint32_t n_computed(const struct drafter *dr, const struct tl_sched_seq *s, uint32_t most) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < s->n_blocks && n < most; i++) {
    n += dr->valid[s->blocks[i]];
    if (dr->valid[s->blocks[i]] < TL_BLOCK_TOKENS) break;
  }
  return n < most ? n : most;
}

/* What it made of this is no number: all of it anew, the next time. */
static void forget_sequence(struct drafter *dr, const struct tl_sched_seq *s) {
  for (uint32_t i = 0; i < s->n_blocks; i++) dr->valid[s->blocks[i]] = 0;
}

/* --- who guesses ------------------------------------------------------------------------------- */

static uint32_t n_out_of(const struct tl_sequence *seq) {
  return atomic_load_explicit(&seq->n_out, memory_order_relaxed); /* own */
}

static void wait_for(struct tl_sequence *seq, uint32_t n) {
  seq->drafts.model_next = n_out_of(seq) + n;
}

static void never_again(struct tl_sequence *seq) {
  seq->drafts.model_next = UINT32_MAX;
}

/* Whether all tokens that it is to read are rows of its embedding: vocabularies are alike, but may end with others. */
static bool knows(const struct worker *w, const struct tl_sequence *seq, uint32_t from, uint32_t n) {
  for (uint32_t i = from; i < n; i++)
    if ((uint32_t)seq->tokens[i] >= w->engine->o.draft_model->vocab_size) return false;
  return true;
}

static void consider(struct worker *w, struct tl_sched_item *item) {
  struct drafter *dr = w->drafter;
  struct tl_sequence *seq = item->seq->owner;
  struct tl_drafts *d = &seq->drafts;
  uint32_t known = item->seq->n_tokens, left = item->seq->n_max - known;
  if (d->n || dr->n_candidates == DRAFT_MOST_ROWS || !draft_is_eligible(w, seq) || n_out_of(seq) < d->model_next) return;
  uint32_t from = n_computed(dr, item->seq, known - 1);
  bool suspect = seq->n_faults > 0; /* if it was the draft model that failed of it, it goes on elsewhere all the same */
  if (suspect || known > dr->max_context || known - from > MOST_BEHIND * left || !knows(w, seq, from, known)) {
    never_again(seq);
    return;
  }
  dr->candidates[dr->n_candidates++] = (struct candidate){.item = item, .from = from, .known = known};
}

/* What a sequence that has had no guesses yet begins with: what others had. Where these say that guesses do not pay, one of many tries all the same. */
static void begin(struct drafter *dr, struct tl_drafts *d) {
  d->chance = dr->chance;
  if (draft_gain_worth(dr->chance, &dr->cost, 1) > 0) return;
  if (dr->n_since_try < dr->next_try) {
    d->model_next = UINT32_MAX;
    return;
  }
  d->chance = DRAFT_FIRST_CHANCE;
  dr->n_since_try = 0;
  if (dr->next_try < LONGEST_UNTRIED) dr->next_try *= 2;
}

/* The most guesses that it may have. */
static uint32_t most_of(const struct worker *w, const struct candidate *c) {
  const struct drafter *dr = w->drafter;
  uint32_t most = w->engine->o.draft_tokens, left = c->item->seq->n_max - c->known, room = dr->max_context - c->known + 1;
  if (most > left - 2) most = left - 2; /* as step_draft.c has it */
  return most < room ? most : room;
}

/* How many guesses pay: the k-th is shared by those that have so many, as far as it is known by what they would want if all did. */
static void want(struct worker *w) {
  struct drafter *dr = w->drafter;
  double cost[DRAFT_MOST_ROWS];
  dr->cost = draft_gain_cost(&dr->gain, w->n_items, dr->n_candidates);
  for (uint32_t k = 0; k < DRAFT_MOST_ROWS; k++) cost[k] = dr->cost;
  for (unsigned pass = 0; pass < 2; pass++) {
    uint32_t n_of[DRAFT_MOST_ROWS] = {0};
    for (uint32_t i = 0; i < dr->n_candidates; i++) {
      struct candidate *c = &dr->candidates[i];
      struct tl_drafts *d = &((struct tl_sequence *)c->item->seq->owner)->drafts;
      if (d->chance == 0) begin(dr, d);
      c->wants = draft_gain_worth(d->chance, cost, most_of(w, c));
      for (uint32_t k = 0; k < c->wants; k++) n_of[k]++;
    }
    for (uint32_t k = 1; k < DRAFT_MOST_ROWS; k++) cost[k] = draft_gain_cost(&dr->gain, w->n_items, n_of[k] ? n_of[k] : 1);
  }
}

/* Those for which no guess pays begin to wait. One that has waited tries one, if few rows are missing for it. */
static void weigh(struct worker *w) {
  struct drafter *dr = w->drafter;
  uint32_t n = 0;
  want(w);
  for (uint32_t i = 0; i < dr->n_candidates; i++) {
    struct candidate c = dr->candidates[i];
    struct tl_sequence *seq = c.item->seq->owner;
    struct tl_drafts *d = &seq->drafts;
    uint32_t missing = c.known - c.from, left = c.item->seq->n_max - c.known;
    bool dear = missing > FEW_ROWS && !draft_gain_pays_back(&dr->gain, d->chance, dr->cost, c.wants, w->n_items, missing, left);
    if (c.wants == 0 ? missing > MOST_FOR_ONE : dear) never_again(seq);
    if (c.wants == 0 && d->model_wait == 0 && d->model_next != UINT32_MAX) wait_for(seq, d->model_wait = FIRST_WAIT);
    if (c.wants == 0) c.wants = 1;
    if (n_out_of(seq) >= d->model_next) dr->candidates[n++] = c;
  }
  dr->n_candidates = n;
}

/* Each one more in turn, as far as the step has room. */
static void deal(struct drafter *dr, uint32_t room) {
  for (bool more = true; more && room > 0;) {
    more = false;
    for (uint32_t i = 0; i < dr->n_candidates && room > 0; i++) {
      struct candidate *c = &dr->candidates[i];
      if (c->n >= c->wants) continue;
      c->n++;
      room--;
      more = true;
    }
  }
}

/* Blocks for the guesses, as many as there are. Without any left only rows that are missing are computed. */
static void cover(struct worker *w) {
  struct drafter *dr = w->drafter;
  for (uint32_t i = 0; i < dr->n_candidates; i++) {
    struct candidate *c = &dr->candidates[i];
    while (c->n > 0 && !tl_scheduler_lengthen(w->scheduler, c->item, c->n)) c->n--;
    if (c->n == 0) wait_for(c->item->seq->owner, NO_GUESS_WAIT);
  }
}

/* --- steps --------------------------------------------------------------------------------------- */

static void begin_step(struct drafter *dr) {
  dr->claim++;
  dr->step = (struct tl_step){.table_stride = dr->stride, .tokens = dr->tokens, .positions = dr->positions, .slots = dr->slots,
                              .query_start = dr->query_start, .context_len = dr->context_len, .block_tables = dr->tables,
                              .rows = dr->rows, .sampling = dr->sampling};
}

/* Of blocks that several sequences have, one computes what is missing; the others find it there in the next step. */
static bool claim(struct drafter *dr, const uint32_t *blocks, uint32_t from, uint32_t end) {
  for (uint32_t b = from / TL_BLOCK_TOKENS; b < tl_blocks_of(end); b++)
    if (dr->claimed[blocks[b]] == dr->claim) return false;
  for (uint32_t b = from / TL_BLOCK_TOKENS; b < tl_blocks_of(end); b++) dr->claimed[blocks[b]] = dr->claim;
  return true;
}

static void draw(struct worker *w, const struct candidate *c) {
  struct drafter *dr = w->drafter;
  struct tl_step *step = &dr->step;
  struct tl_sampling *s = &dr->sampling[step->n_rows];
  sequence_sampling(c->item->seq->owner, c->known + c->made, w->engine->o.model->vocab_size, dr->masks + (size_t)step->n_rows * dr->mask_words, s);
  s->n_top = -1;
  for (uint32_t i = 0; i < s->n_bias; i++) /* of tokens that only the target has: a guess without any, then */
    if ((uint32_t)s->bias[i].token >= w->engine->o.draft_model->vocab_size) s->n_bias = 0;
  dr->rows[step->n_rows++] = step->n_tokens - 1;
}

/* Its rows from `from` up to `end`, the last of which may make a token. */
static void add_rows(struct worker *w, struct candidate *c, uint32_t from, uint32_t end, bool draws) {
  struct drafter *dr = w->drafter;
  struct tl_step *step = &dr->step;
  const struct tl_sched_seq *s = c->item->seq;
  const int32_t *tokens = ((const struct tl_sequence *)s->owner)->tokens;
  memcpy(dr->tables + (size_t)step->n_seqs * dr->stride, s->blocks, tl_blocks_of(end) * sizeof *dr->tables);
  dr->query_start[step->n_seqs] = step->n_tokens;
  dr->context_len[step->n_seqs] = end;
  for (uint32_t position = from; position < end; position++) {
    uint32_t row = step->n_tokens++;
    dr->tokens[row] = tokens[position];
    dr->positions[row] = position;
    dr->slots[row] = s->blocks[position / TL_BLOCK_TOKENS] * TL_BLOCK_TOKENS + position % TL_BLOCK_TOKENS;
  }
  if (draws) draw(w, c);
  dr->in_step[step->n_seqs++] = c;
  dr->query_start[step->n_seqs] = step->n_tokens;
}

/* What is missing of those that lack few rows, or (not few) of the others: of the last of them a piece, and then it does not guess yet. */
static void add_missing(struct worker *w, bool few) {
  struct drafter *dr = w->drafter;
  for (uint32_t i = 0; i < dr->n_candidates; i++) {
    struct candidate *c = &dr->candidates[i];
    uint32_t missing = c->known - c->from, left = w->engine->o.max_batch_tokens - dr->step.n_tokens;
    if ((missing <= FEW_ROWS) != few) continue;
    uint32_t end = missing <= left ? c->known : c->from + left;
    bool whole = end == c->known && c->n > 0;
    if (end > c->from && claim(dr, c->item->seq->blocks, c->from, end))
      add_rows(w, c, c->from, end, whole);
    else
      whole = false;
    if (!whole) c->wants = 0; /* the rest in the next step */
  }
}

static int run(struct worker *w) {
  struct drafter *dr = w->drafter;
  int64_t began_ns = tl_now_ns();
  step_note_time(w, &dr->step, began_ns);
  int r = w->ops->submit(dr->device, &dr->step, &w->failure);
  if (r == TL_OK) {
    worker_tell(w); /* what the target's last step brought waits for no guess */
    r = w->ops->collect(dr->device, dr->sampled, &w->failure);
  }
  step_note_time(w, &dr->step, 0);
  int64_t took_ns = tl_now_ns() - began_ns;
  if (r < 0) return tl_error_prefix(&w->failure, "the draft model"), r;
  if (dr->step.n_tokens <= 2 * dr->step.n_seqs) draft_gain_note_draft(&dr->gain, took_ns);
  if (dr->step.n_tokens > 2 * FEW_ROWS) draft_gain_note_missing(&dr->gain, dr->step.n_tokens, took_ns);
  tl_metrics_add(w->shard, w->metrics.model_steps, 1);
  return TL_OK;
}

/* Its token is none, or none of the target's. For the first guess of all that counts as a wrong one, and the next waits, however much
 * guesses pay: whose rows are computed anew each time would cost its whole prompt each time. */
static void take_none(struct worker *w, const struct candidate *c, int32_t token) {
  struct tl_sequence *seq = c->item->seq->owner;
  if (c->made > 0) return;
  if (token < 0) forget_sequence(w->drafter, c->item->seq);
  draft_model_settle(w, seq, 1, 0);
  if (seq->drafts.model_wait == 0) wait_for(seq, seq->drafts.model_wait = FIRST_WAIT);
}

/* The guesses of a step, in the order of its rows. */
static void take(struct worker *w) {
  struct drafter *dr = w->drafter;
  uint32_t row = 0;
  for (uint32_t q = 0; q < dr->step.n_seqs; q++) {
    struct candidate *c = dr->in_step[q];
    struct tl_sched_seq *s = c->item->seq;
    struct tl_sequence *seq = s->owner;
    for (uint32_t i = dr->query_start[q]; i < dr->query_start[q + 1]; i++)
      dr->valid[dr->slots[i] / TL_BLOCK_TOKENS] = (uint8_t)(dr->slots[i] % TL_BLOCK_TOKENS + 1);
    seq->drafts.n_computed = dr->context_len[q];
    if (row == dr->step.n_rows || dr->rows[row] + 1 != dr->query_start[q + 1]) continue;
    int32_t token = dr->sampled[row++].token;
    bool fine = token >= 0 && (uint32_t)token < w->engine->o.model->vocab_size;
    if (fine)
      seq->tokens[c->known + c->made++] = token;
    else
      take_none(w, c, token);
    if (!fine || tl_sequence_is_stop(seq, token)) c->wants = c->made; /* nothing more */
  }
}

static void add_next(struct worker *w) {
  struct drafter *dr = w->drafter;
  for (uint32_t i = 0; i < dr->n_candidates; i++) {
    struct candidate *c = &dr->candidates[i];
    uint32_t end = c->known + c->made;
    if (c->made == 0 || c->made >= c->n || c->made >= c->wants || !knows(w, c->item->seq->owner, end - 1, end)) continue;
    add_rows(w, c, end - 1, end, true);
  }
}

/* The plan's items get what was guessed. */
static void hand_over(struct worker *w) {
  struct drafter *dr = w->drafter;
  for (uint32_t i = 0; i < dr->n_candidates; i++) {
    struct candidate *c = &dr->candidates[i];
    struct tl_sequence *seq = c->item->seq->owner;
    c->item->n -= c->n - c->made;
    c->item->n_more -= c->n - c->made;
    if (c->made == 0) continue;
    draft_put(seq, c->known, c->made);
    seq->drafts.by_model = true;
    tl_metrics_add(w->shard, w->metrics.model_tokens, c->made);
  }
}

int draft_model_fill_up(struct worker *w, uint32_t room) {
  struct drafter *dr = w->drafter;
  dr->n_candidates = 0;
  for (uint32_t i = 0; i < w->n_items && room > 0; i++) consider(w, &w->items[i]);
  if (dr->n_candidates > 0) weigh(w);
  if (dr->n_candidates == 0) return TL_OK;
  deal(dr, room);
  cover(w);
  begin_step(dr);
  add_missing(w, true);
  add_missing(w, false);
  while (dr->step.n_tokens > 0) {
    int r = run(w);
    if (r < 0) return r;
    take(w);
    begin_step(dr);
    add_next(w);
  }
  hand_over(w);
  return TL_OK;
}

/* --- what came of it ---------------------------------------------------------------------------- */

static void learn(float *chance, uint32_t right, bool wrong, float part) {
  for (uint32_t i = 0; i < right; i++) *chance += (1 - *chance) * part;
  if (wrong) *chance -= *chance * part;
  if (*chance < LEAST_CHANCE) *chance = LEAST_CHANCE;
}

void draft_model_settle(struct worker *w, struct tl_sequence *seq, uint32_t n, uint32_t taken) {
  struct drafter *dr = w->drafter;
  struct tl_drafts *d = &seq->drafts;
  learn(&d->chance, taken, taken < n, 1.0f / 8);
  learn(&dr->chance, taken, taken < n, 1.0f / 16);
  tl_metrics_add(w->shard, w->metrics.model_taken, taken);
  bool pays = draft_gain_worth(d->chance, &dr->cost, 1) > 0;
  if (pays)
    d->model_wait = 0;
  else if (taken > 0)
    d->model_wait /= 4;
  else
    d->model_wait = d->model_wait == 0 ? FIRST_WAIT : 4 * d->model_wait;
  wait_for(seq, d->model_wait);
}

void draft_model_note_step(struct worker *w, const struct flight *f) {
  struct drafter *dr = w->drafter;
  if (!dr || f->figures.prefill > 0 || f->step.n_tokens > DRAFT_MOST_ROWS) return;
  dr->n_since_try += f->step.n_seqs;
  draft_gain_note_step(&dr->gain, f->step.n_tokens, f->figures.ended_ns - f->figures.began_ns);
}

bool draft_model_is_due(const struct worker *w, const struct tl_sequence *seq, uint32_t n_out) {
  return w->drafter && n_out >= seq->drafts.model_next;
}
