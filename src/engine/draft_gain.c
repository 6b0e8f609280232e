/* SPDX-License-Identifier: MIT */
/* How many tokens of a draft model are worth their time.
 *
 * The k-th guess of a sequence brings a token if all up to it are right: with chance p for each, p^k of one. It costs a step of the draft
 * model, which all that guess share, and a row of the next step. Both are measured, in units of what a token costs without guesses:
 *
 *   target's steps of few decodes   a + b rows, by least squares over the last ones
 *   cost of a guess                 (b + draft step / sequences that guess) / ((a + b rows) / rows)
 *
 * Another guess pays as long as what it brings for its cost is more than what all before brought for theirs: tokens a time rise up to there
 * and fall behind it. No guess pays where p is not above the cost of one. */
#include "engine/draft_model.h"

#define KEPT 0.96           /* of older steps' weight, with each new one */
#define FEWEST 6            /* steps of both, before what is measured counts: until then weights' bytes say it */
#define LIKELY_ROW 0.04     /* part of a step that a row is likely to cost: with as much weight as a few steps that tell it */
#define LIKELY_WEIGHT 8.0
#define LIKELY_MISSING 0.1  /* of a guess's cost, a row among many: until it is measured */
#define LIKELY_LEFT 0.5     /* of the tokens that may come, those that do */
#define MOST_TIMES_MEAN 3.0 /* what takes longer was held up by something else */

static double held(double ns, double mean) {
  return mean > 0 && ns > MOST_TIMES_MEAN * mean ? MOST_TIMES_MEAN * mean : ns;
}

void draft_gain_note_step(struct draft_gain *g, uint32_t n_rows, int64_t ns) {
  double y = held((double)ns, g->n > 0 ? g->ns / g->n : 0), x = n_rows;
  g->n = KEPT * g->n + 1;
  g->rows = KEPT * g->rows + x;
  g->rows_rows = KEPT * g->rows_rows + x * x;
  g->ns = KEPT * g->ns + y;
  g->rows_ns = KEPT * g->rows_ns + x * y;
  g->n_steps++;
}

void draft_gain_note_draft(struct draft_gain *g, int64_t ns) {
  double y = held((double)ns, g->draft_ns);
  g->draft_ns = g->n_drafts++ == 0 ? y : g->draft_ns + (y - g->draft_ns) / 16;
}

void draft_gain_note_missing(struct draft_gain *g, uint32_t n_rows, int64_t ns) {
  double y = held((double)ns / n_rows, g->missing_ns);
  g->missing_ns = g->missing_ns > 0 ? g->missing_ns + (y - g->missing_ns) / 8 : y;
}

/* Of the target with so many decodes; and of a row. 0: too little is known. */
static double step_ns(const struct draft_gain *g, uint32_t n_rows, double *ret_row_ns) {
  if (g->n_steps < FEWEST || g->n_drafts < FEWEST) return 0;
  double mean_rows = g->rows / g->n, mean_ns = g->ns / g->n;
  double spread = g->rows_rows / g->n - mean_rows * mean_rows, both = g->rows_ns / g->n - mean_rows * mean_ns;
  double row_ns = (both * g->n + LIKELY_ROW * mean_ns * LIKELY_WEIGHT) / (spread * g->n + LIKELY_WEIGHT);
  *ret_row_ns = row_ns < 0 ? 0 : row_ns;
  double ns = mean_ns + *ret_row_ns * ((double)n_rows - mean_rows);
  return ns < mean_ns / 8 ? mean_ns / 8 : ns;
}

double draft_gain_cost(const struct draft_gain *g, uint32_t n_rows, uint32_t n_guess) {
  double row_ns, ns = step_ns(g, n_rows, &row_ns);
  return ns > 0 ? n_rows * (row_ns + g->draft_ns / n_guess) / ns : g->by_weights;
}

bool draft_gain_pays_back(const struct draft_gain *g, double chance, double cost, uint32_t n, uint32_t n_rows, uint32_t missing, uint32_t left) {
  double row_ns, ns = step_ns(g, n_rows, &row_ns), tokens = 0, all_right = 1;
  double price = ns > 0 && g->missing_ns > 0 ? n_rows * g->missing_ns / ns : g->by_weights * LIKELY_MISSING;
  for (uint32_t i = 0; i <= n; i++, all_right *= chance) tokens += all_right;
  double saved = 1 - (1 + n * cost) / tokens;
  return missing * price < left * LIKELY_LEFT * saved;
}

uint32_t draft_gain_worth(double chance, const double *cost, uint32_t most) {
  double tokens = 1, time = 1, all_right = 1;
  for (uint32_t n = 0; n < most; n++) {
    all_right *= chance;
    if (all_right * time <= cost[n] * tokens) return n;
    tokens += all_right;
    time += cost[n];
  }
  return most;
}
