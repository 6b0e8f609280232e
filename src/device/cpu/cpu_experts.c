/* SPDX-License-Identifier: MIT */
/* Mixtures of experts. Each row's choices become entries, and entries are ordered by expert, so that an expert's
 * weights are read once for all of its rows:
 *
 *   route   scores = h W^T   each row: the best n_chosen, their shares   lane 0: entries by expert
 *   up      entries' rows side by side in the form that the kernels read; (expert, panel) is a unit of work
 *   down    likewise; then each row adds up its entries, the best expert first
 *
 * A product's result depends on its row alone, and so does the order of that sum: the same bits whatever else
 * is in the step. A rank has whole experts; entries of others are not its own. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu/cpu_run.h"

#define CPU_MAX_CHOSEN 64   /* as many as the model room lets a record choose */
#define NOT_HERE UINT32_MAX /* the place of a choice whose expert another rank has */

/* --- memory ----------------------------------------------------------------------------------- */

void cpu_mixture_measure(struct cpu_device *d) {
  const struct tl_model *model = d->model;
  struct cpu_mixture *x = &d->mixture;
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    if (op->kind == TL_OP_ROUTE) x->n_chosen = op->n_chosen;
    if (op->kind == TL_OP_EXPERTS_IN) x->ld_v = cpu_row_stride(model->tensors[op->weight[0]].shape[0]);
    if (op->kind != TL_OP_EXPERTS_UP) continue;
    size_t inner = cpu_row_stride(model->tensors[op->weight[0]].shape[0]);
    x->ld_inner = inner > x->ld_inner ? inner : x->ld_inner;
  }
  x->ld_scores = ((size_t)model->n_experts + 31) / 32 * 32;
  x->n_entries_max = (size_t)d->load.max_batch_tokens * x->n_chosen;
}

bool cpu_mixture_make(struct cpu_device *d) {
  struct cpu_mixture *x = &d->mixture;
  size_t entries = x->n_entries_max, experts = d->shard.n_experts;
  if (!x->n_chosen) return true;
  x->chosen = calloc(entries, sizeof *x->chosen);
  x->shares = calloc(entries, sizeof *x->shares);
  x->places = calloc(entries, sizeof *x->places);
  x->rows = calloc(entries, sizeof *x->rows);
  x->expert_of = calloc(entries, sizeof *x->expert_of);
  x->first = calloc(experts + 1, sizeof *x->first);
  x->next = calloc(experts, sizeof *x->next);
  x->active = calloc(experts, sizeof *x->active);
  return x->chosen && x->shares && x->places && x->rows && x->expert_of && x->first && x->next && x->active;
}

void cpu_mixture_free(struct cpu_device *d) {
  struct cpu_mixture *x = &d->mixture;
  free(x->chosen);
  free(x->shares);
  free(x->places);
  free(x->rows);
  free(x->expert_of);
  free(x->first);
  free(x->next);
  free(x->active);
}

/* --- routing ---------------------------------------------------------------------------------- */

#define MAX_EXPERTS 1024 /* likewise, has */

/* Whether each group is chosen from: those with the best expert, or, with two, the best sum of the two best; NULL added: 0. As many as
 * are wanted whatever the scores are. */
static void choose_groups(const float *scores, const float *added, const struct tl_op *op, bool *ret) {
  float values[MAX_EXPERTS];
  uint32_t each = op->n_experts / op->n_groups;
  for (uint32_t g = 0; g < op->n_groups; g++) {
    float best = -INFINITY, second = -INFINITY;
    for (uint32_t e = g * each; e < (g + 1) * each; e++) {
      float score = scores[e] + (added ? added[e] : 0);
      if (score > best) second = best, best = score;
      else if (score > second) second = score;
    }
    values[g] = op->features & TL_F_SIGMOID ? best + second : best;
    ret[g] = false;
  }
  for (uint32_t i = 0; i < op->n_groups_chosen; i++) {
    uint32_t next = op->n_groups;
    for (uint32_t g = 0; g < op->n_groups; g++)
      if (!ret[g] && (next == op->n_groups || values[g] > values[next])) next = g;
    ret[next] = true;
  }
}

/* Whether expert e may be chosen; groups: of choose_groups. */
static bool may_choose(const struct tl_op *op, const bool *groups, uint32_t e) {
  return !(op->features & TL_F_GROUPED) || groups[e / (op->n_experts / op->n_groups)];
}

/* The best scores, the lower number on a tie. Whatever the scores are, also NaN, the choices are experts, each once: no
 * expert has more entries than there are rows. */
static void choose(const float *scores, const struct tl_op *op, const bool *groups, uint32_t *chosen, float *shares) {
  float total = 0;
  uint32_t n = op->n_experts, n_chosen = op->n_chosen, n_found = 0;
  bool normalized = op->features & TL_F_NORMALIZED;
  for (uint32_t e = 0; e < n; e++) {
    if (!may_choose(op, groups, e)) continue;
    uint32_t at = n_found < n_chosen ? n_found++ : n_chosen, last = at < n_chosen ? at : n_chosen - 1;
    while (at > 0 && scores[e] > scores[chosen[at - 1]]) at--;
    if (at == n_chosen) continue;
    for (uint32_t k = last; k > at; k--) chosen[k] = chosen[k - 1];
    chosen[at] = e;
  }
  float most = scores[chosen[0]]; /* of all: its group is the best */
  for (uint32_t i = 0; i < n_chosen; i++) shares[i] = expf(scores[chosen[i]] - most);
  if (normalized)
    for (uint32_t i = 0; i < n_chosen; i++) total += shares[i];
  else
    for (uint32_t e = 0; e < n; e++) total += expf(scores[e] - most);
  for (uint32_t i = 0; i < n_chosen; i++) shares[i] /= total;
}

/* Scores become the shares of all experts. */
static void make_shares(float *scores, const struct tl_op *op) {
  float most = scores[0], total = 0;
  for (uint32_t e = 0; e < op->n_experts; e++) most = scores[e] > most ? scores[e] : most;
  for (uint32_t e = 0; e < op->n_experts; e++) {
    bool sigmoid = op->features & TL_F_SIGMOID;
    scores[e] = sigmoid ? 1 / (1 + expf(-scores[e])) : expf(scores[e] - most);
    total += scores[e];
  }
  for (uint32_t e = 0; !(op->features & TL_F_SIGMOID) && e < op->n_experts; e++) scores[e] /= total;
}

/* The best shares with what is added for the choice alone. */
static void choose_shares(const float *scores, const struct tl_op *op, const bool *groups, const float *added, uint32_t *chosen, float *shares) {
  float total = 0, best[CPU_MAX_CHOSEN];
  uint32_t n_found = 0;
  for (uint32_t e = 0; e < op->n_experts; e++) {
    if (!may_choose(op, groups, e)) continue;
    float score = scores[e] + (added ? added[e] : 0);
    uint32_t n = n_found < op->n_chosen ? n_found++ : op->n_chosen, at = n;
    while (at > 0 && score > best[at - 1]) at--;
    if (at == op->n_chosen) continue;
    for (uint32_t k = n < op->n_chosen ? n : n - 1; k > at; k--) chosen[k] = chosen[k - 1], best[k] = best[k - 1];
    chosen[at] = e;
    best[at] = score;
  }
  for (uint32_t i = 0; i < op->n_chosen; i++) total += shares[i] = scores[chosen[i]];
  if (!(op->features & TL_F_NORMALIZED)) total = 1;
  for (uint32_t i = 0; i < op->n_chosen; i++) shares[i] /= total;
}

/* Of a row's choices: each by a softmax over what was left and is about as good as itself (SparseMixer-v2, Liu et al. 2024, as it is at inference). */
static void mix_shares(const float *scores, const struct tl_op *op, const uint32_t *chosen, float *shares) {
  for (uint32_t i = 0; i < op->n_chosen; i++) {
    float most = scores[chosen[i]], total = 0;
    for (uint32_t e = 0; e < op->n_experts; e++) {
      bool before = false;
      for (uint32_t k = 0; k < i; k++) before = before || chosen[k] == e;
      float size = fabsf(scores[e]) > most ? fabsf(scores[e]) : most;
      if (!before && !(most - scores[e] > op->limit * size)) total += expf(scores[e] - most);
    }
    shares[i] = 1 / total;
  }
}

/* A row's experts and their shares. */
static void route_row(float *scores, const struct tl_op *op, const float *added, uint32_t *chosen, float *shares) {
  bool groups[MAX_EXPERTS], by_shares = op->features & (TL_F_SIGMOID | TL_F_CHOICE);
  if (by_shares) make_shares(scores, op);
  if (op->features & TL_F_GROUPED) choose_groups(scores, by_shares ? added : NULL, op, groups);
  if (by_shares) choose_shares(scores, op, groups, added, chosen, shares);
  else choose(scores, op, groups, chosen, shares);
  if (op->features & TL_F_MIXED) mix_shares(scores, op, chosen, shares);
  for (uint32_t i = 0; i < op->n_chosen && op->features & TL_F_FACTOR; i++) shares[i] *= op->factor;
}

/* Entries by expert, those of an expert in the order of rows. */
static void group(struct cpu_device *d, uint32_t n_rows) {
  struct cpu_mixture *x = &d->mixture;
  uint32_t n = d->shard.n_experts, n_choices = n_rows * x->n_chosen;
  memset(x->next, 0, n * sizeof *x->next);
  for (uint32_t i = 0; i < n_choices; i++) {
    uint32_t expert = x->chosen[i] - d->shard.first_expert; /* wraps round for what lies before */
    if (expert < n) x->next[expert]++;
  }
  x->n_active = 0;
  for (uint32_t e = 0, at = 0; e < n; e++) {
    uint32_t count = x->next[e];
    x->first[e] = x->next[e] = at;
    if (count) x->active[x->n_active++] = e;
    x->first[e + 1] = at += count;
  }
  for (uint32_t i = 0; i < n_choices; i++) {
    uint32_t expert = x->chosen[i] - d->shard.first_expert;
    x->places[i] = expert < n ? x->next[expert]++ : NOT_HERE;
    if (expert >= n) continue;
    x->rows[x->places[i]] = i / x->n_chosen;
    x->expert_of[x->places[i]] = expert;
  }
  x->n_entries = x->first[n];
}

void cpu_route(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const struct cpu_matrix *w, const float *factors) {
  struct cpu_device *d = r->d;
  struct cpu_mixture *x = &d->mixture;
  struct target target = {.y = x->scores, .ldy = x->ld_scores};
  struct cpu_matrix plain = *w;
  uint32_t from, to, n = r->step->n_tokens;
  if (op->features & (TL_F_SIGMOID | TL_F_CHOICE)) plain.bias = NULL; /* it is for the choice alone */
  cpu_project(r, ticket, &plain, d->h, d->ld_dim, n, &target);
  barrier(r);
  share(r, n, &from, &to);
  for (uint32_t i = from; i < to; i++) {
    uint32_t *chosen = x->chosen + (size_t)i * op->n_chosen;
    float *shares = x->shares + (size_t)i * op->n_chosen;
    route_row(x->scores + i * x->ld_scores, op, w->bias, chosen, shares);
    for (uint32_t k = 0; factors && k < op->n_chosen; k++) shares[k] *= factors[chosen[k]];
  }
  barrier(r);
  if (r->index == 0) group(d, n);
}

/* --- products ---------------------------------------------------------------------------------- */

/* A row into entry `at` of what w's kernels read; floats go to `floats`. */
static void put_entry(const struct cpu_device *d, const struct cpu_matrix *w, const float *row, size_t ld, uint32_t at, float *floats) {
  if (form_of(d, w) != FORM_FLOATS)
    cpu_convert_row(d, w, row, ld, at);
  else if (row != floats)
    memcpy(floats, row, ld * sizeof *row);
}

/* out (m, 32) = entries `at` .. at + m - 1 times panel p, and its bias; floats: (entries, ld). */
static void product(struct run *r, const struct cpu_matrix *w, uint32_t p, const float *floats, size_t ld, uint32_t at, uint32_t m,
                    float *out) {
  cpu_product(r, w, p, floats, ld, at, m, out);
  cpu_add_bias(w, p, out, m);
}

/* Of the experts that have entries, unit / n_panels is which, and the rest the panel; how many rows it has. */
static uint32_t unit_of(const struct cpu_mixture *x, uint32_t unit, uint32_t n_panels, uint32_t *ret_expert, uint32_t *ret_panel,
                        uint32_t *ret_at) {
  *ret_expert = x->active[unit / n_panels];
  *ret_panel = unit % n_panels;
  *ret_at = x->first[*ret_expert];
  return x->first[*ret_expert + 1] - *ret_at;
}

/* Panel p of w's outputs, out (m, 32), to entries `at` .. at + m - 1 of floats (entries, ld). */
static void put_outputs(const struct cpu_matrix *w, uint32_t p, const float *out, float *floats, size_t ld, uint32_t at, uint32_t m) {
  for (uint32_t i = 0; i < m; i++)
    memcpy(floats + (at + i) * ld + p * CPU_PANEL, out + i * CPU_PANEL, columns_of(w, p) * sizeof *out);
}

/* From an entry of what experts read, or make, to the next. */
static size_t io_stride(const struct cpu_device *d, const struct tl_op *op) {
  return op->features & TL_F_LOW_RANK ? d->mixture.ld_v : d->ld_dim;
}

static void ungated_unit(struct run *r, const struct tl_op *op, const struct cpu_matrix *experts, uint32_t unit) {
  struct cpu_device *d = r->d;
  struct cpu_mixture *x = &d->mixture;
  uint32_t e, p, at, m = unit_of(x, unit, experts->n_panels, &e, &p, &at);
  size_t ld = io_stride(d, op);
  float *out = r->lane->panel_out;
  product(r, &experts[e], p, x->io, ld, at, m, out);
  cpu_square_above_0(out, m * CPU_PANEL);
  put_outputs(&experts[e], p, out, x->m, x->ld_inner, at, m);
}

static void up_unit(struct run *r, const struct tl_op *op, const struct cpu_matrix *experts, uint32_t unit) {
  struct cpu_device *d = r->d;
  struct cpu_mixture *x = &d->mixture;
  uint32_t e, p, at, m = unit_of(x, unit, experts->n_panels, &e, &p, &at);
  const struct cpu_matrix *gate = &experts[2 * e], *up = &experts[2 * e + 1];
  float *g = r->lane->panel_out, *u = g + (size_t)d->load.max_batch_tokens * CPU_PANEL;
  product(r, gate, p, x->io, io_stride(d, op), at, m, g);
  product(r, up, p, x->io, io_stride(d, op), at, m, u);
  for (uint32_t i = 0; i < m; i++) {
    float *gi = g + i * CPU_PANEL, *ui = u + i * CPU_PANEL;
    if (op->features & TL_F_CLAMPED)
      d->kernels->clamped_mul(gi, gi, ui, CPU_PANEL, op->limit);
    else if (op->features & TL_F_GELU_TANH)
      d->kernels->gelu_mul(gi, gi, ui, CPU_PANEL);
    else
      d->kernels->silu_mul(gi, gi, ui, CPU_PANEL);
  }
  put_outputs(gate, p, g, x->m, x->ld_inner, at, m);
}

/* The row of h, or of v, that entry `at` is of, or, times its share, what becomes of it in its place among the entries. */
static const float *entry_row(const struct cpu_device *d, const struct tl_op *op, uint32_t at) {
  const struct cpu_mixture *x = &d->mixture;
  const float *row = op->features & TL_F_LOW_RANK ? x->v + x->rows[at] * x->ld_v : d->h + x->rows[at] * d->ld_dim;
  if (!(op->features & TL_F_SHARE_IN)) return row;
  size_t choice = (size_t)x->rows[at] * x->n_chosen;
  while (x->places[choice] != at) choice++;
  float *to = x->io + at * d->ld_dim;
  for (size_t k = 0; k < d->ld_dim; k++) to[k] = row[k] * x->shares[choice];
  return to;
}

void cpu_experts_up(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const struct cpu_matrix *experts) {
  struct cpu_device *d = r->d;
  struct cpu_mixture *x = &d->mixture;
  uint32_t from, to, n = cpu_expert_ups(op);
  size_t ld = io_stride(d, op);
  share(r, x->n_entries, &from, &to);
  for (uint32_t at = from; at < to; at++) {
    const struct cpu_matrix *gate = &experts[n * x->expert_of[at]], *up = gate + n - 1;
    const float *row = entry_row(d, op, at);
    put_entry(d, gate, row, ld, at, x->io + at * ld);
    if (form_of(d, up) != form_of(d, gate)) put_entry(d, up, row, ld, at, x->io + at * ld);
  }
  barrier(r);
  while (take(r, ticket, x->n_active * experts->n_panels, &from, &to))
    for (uint32_t unit = from; unit < to; unit++)
      if (n == 1) ungated_unit(r, op, experts, unit);
      else up_unit(r, op, experts, unit);
}

static void down_unit(struct run *r, const struct tl_op *op, const struct cpu_matrix *experts, uint32_t unit) {
  struct cpu_device *d = r->d;
  struct cpu_mixture *x = &d->mixture;
  uint32_t e, p, at, m = unit_of(x, unit, experts->n_panels, &e, &p, &at);
  float *out = r->lane->panel_out;
  product(r, &experts[e], p, x->m, x->ld_inner, at, m, out);
  put_outputs(&experts[e], p, out, x->io, io_stride(d, op), at, m);
}

/* What the experts made of row i, of dim numbers, into `to`, or, with `add`, on top of it. */
static void mix_row(const struct cpu_device *d, const struct tl_op *op, uint32_t dim, uint32_t i, float *to, bool add) {
  const struct cpu_mixture *x = &d->mixture;
  size_t ld = io_stride(d, op);
  for (uint32_t k = 0; k < dim; k += CPU_PANEL) {
    float sum[CPU_PANEL] = {0};
    uint32_t n = dim - k < CPU_PANEL ? dim - k : CPU_PANEL;
    for (uint32_t c = 0; c < x->n_chosen; c++) {
      size_t choice = (size_t)i * x->n_chosen + c;
      if (x->places[choice] == NOT_HERE) continue;
      const float *from = x->io + x->places[choice] * ld + k;
      float part = op->features & TL_F_SHARE_IN ? 1 : x->shares[choice];
      for (uint32_t at = 0; at < n; at++) sum[at] += part * from[at];
    }
    for (uint32_t at = 0; at < n; at++) to[k + at] = add ? to[k + at] + sum[at] : sum[at];
  }
}

bool cpu_experts_down(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const struct cpu_matrix *experts) {
  struct cpu_device *d = r->d;
  struct cpu_mixture *x = &d->mixture;
  uint32_t from, to;
  share(r, x->n_entries, &from, &to);
  for (uint32_t at = from; at < to; at++) {
    float *row = x->m + at * x->ld_inner;
    put_entry(d, &experts[x->expert_of[at]], row, x->ld_inner, at, row);
  }
  barrier(r);
  while (take(r, ticket, x->n_active * experts->n_panels, &from, &to))
    for (uint32_t unit = from; unit < to; unit++) down_unit(r, op, experts, unit);
  barrier(r);
  bool low = op->features & TL_F_LOW_RANK; /* what a rank's experts made there, which EXPERTS_OUT adds up with the others' */
  bool to_h = op->features & TL_F_TO_H;
  float *whole = to_h ? d->h : d->x, *sum = low ? x->v : d->group ? part_of(r, d->shard.rank) : whole;
  uint32_t dim = (uint32_t)d->model->tensors[op->weight[0]].shape[0];
  share(r, r->step->n_tokens, &from, &to);
  for (uint32_t i = from; i < to; i++) mix_row(d, op, dim, i, sum + i * io_stride(d, op), !low && !d->group && !to_h);
  if (low) return true;
  return !d->group || cpu_sum_parts(r, r->step->n_tokens, whole, !to_h);
}

void cpu_row_gate(struct run *r, const float *weight) {
  struct cpu_device *d = r->d;
  uint32_t from, to, dim = d->model->dim;
  share(r, r->step->n_tokens, &from, &to);
  for (uint32_t i = from; weight && i < to; i++) {
    const float *h = d->h + i * d->ld_dim;
    float *m = d->m + i * d->ld_ffn, sum = 0;
    for (uint32_t k = 0; k < dim; k++) sum += h[k] * weight[k];
    float factor = 1 / (1 + expf(-sum));
    for (size_t k = 0; k < d->ld_ffn; k++) m[k] *= factor;
  }
}
