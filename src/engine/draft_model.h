/* SPDX-License-Identifier: MIT */
#ifndef DRAFT_MODEL_H
#define DRAFT_MODEL_H

#include "engine/engine_private.h"
#include "tokenlane/sim.h"

/* --- draft_gain.c: pure ------------------------------------------------------------------- */
struct draft_gain {
  double by_weights;                        /* what a guess costs, in tokens without guesses, by the models' sizes */
  double n, rows, rows_rows, ns, rows_ns;   /* sums over the target's steps of few decodes, the older the less */
  double draft_ns;                          /* mean of the draft model's */
  double missing_ns;                        /* of a row in its steps of many rows; 0: there was none yet */
  uint32_t n_steps, n_drafts;
};
void draft_gain_note_step(struct draft_gain *gain, uint32_t n_rows, int64_t ns);
void draft_gain_note_draft(struct draft_gain *gain, int64_t ns);
void draft_gain_note_missing(struct draft_gain *gain, uint32_t n_rows, int64_t ns);
/* Whether n guesses a step save more than it costs to compute `missing` rows for them, where `left` tokens may come. */
bool draft_gain_pays_back(const struct draft_gain *gain, double chance, double cost, uint32_t n, uint32_t n_rows, uint32_t missing, uint32_t left);
/* Of one guess, where n_guess of a step's n_rows sequences have one. */
double draft_gain_cost(const struct draft_gain *gain, uint32_t n_rows, uint32_t n_guess);
/* How many guesses pay, up to `most`, if each is right with this chance. cost: (most) of the first, the second, ..., not falling */
uint32_t draft_gain_worth(double chance, const double *cost, uint32_t most);

#define DRAFT_FIRST_CHANCE 0.5f /* until it is known better: of a good one that is soon, and one that is never right costs less */
#define DRAFT_FIRST_TRY 256      /* tokens */

/* --- drafter.c, draft_model.c ---------------------------------------------------------------- */
/* A sequence of the plan that the draft model is to guess of, or to catch up with. */
struct candidate {
  struct tl_sched_item *item;
  uint32_t from, known; /* tokens before `from` the draft model has, `known` are known */
  uint32_t wants, n;    /* guesses that pay; that it has rows for */
  uint32_t made;        /* and has. It makes its next in the step at hand, if n is more */
};

/* A replica's draft model on its device. The worker's, but for reset and interrupt. */
struct drafter {
  struct tl_device *device;
  struct tl_device_options options;
  struct tl_sim_options sim;
  struct tl_device_loaded loaded;
  uint32_t max_context, stride;
  uint8_t *valid;               /* (n_blocks of the target) slots of each KV block, from its first on, whose tokens the draft model has computed */
  uint32_t *claimed, claim;     /* (n_blocks) the last step that wrote to the block; the step at hand */
  struct draft_gain gain;
  float chance;                 /* that a guess is right, of all sequences lately */
  double cost;                  /* of the first guess, in the last step that had some */
  uint32_t n_since_try, next_try; /* steps' tokens since a sequence tried though it is low; before the next one does */
  struct candidate candidates[DRAFT_MOST_ROWS];
  uint32_t n_candidates;
  struct candidate *in_step[DRAFT_MOST_ROWS]; /* whose rows the step has, in order */
  struct tl_step step;
  int32_t *tokens;              /* (max_batch_tokens), as the next two */
  uint32_t *positions, *slots;
  uint32_t query_start[DRAFT_MOST_ROWS + 1], context_len[DRAFT_MOST_ROWS], rows[DRAFT_MOST_ROWS];
  uint32_t *tables;             /* (DRAFT_MOST_ROWS, stride) */
  struct tl_sampling sampling[DRAFT_MOST_ROWS];
  uint32_t *masks;              /* (DRAFT_MOST_ROWS, mask_words) zeros behind the target's vocabulary */
  uint32_t mask_words;
  struct tl_sampled sampled[DRAFT_MOST_ROWS];
  bool restoring, is_reset[2];  /* the monitor's: as those of struct group, of the target and the draft */
};

#endif
