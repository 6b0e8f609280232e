/* SPDX-License-Identifier: MIT */
/* A lane within a step: what cpu_ops.c and cpu_experts.c share. */
#ifndef CPU_RUN_H
#define CPU_RUN_H

#include "device/cpu/cpu_quant.h"

#define MANY_ROWS 12   /* of a step, from which on products are bound by computing */

struct run {
  struct cpu_device *d;
  const struct tl_step *step;
  struct cpu_lane *lane;
  unsigned index, n_lanes;
  unsigned n_sums; /* over the ranks, in this step so far */
  unsigned vector; /* which of the device's two arrays of vectors is read next */
};

/* The next stretch of `total` items, at most `chunk`; false when all are taken. Who computes an
 * item does not change its result. */
static inline bool take_some(struct cpu_ticket *ticket, uint32_t total, uint32_t chunk, uint32_t *ret_from, uint32_t *ret_to) {
  /* relaxed: only divides work; results are published by the barrier */
  uint32_t from = atomic_fetch_add_explicit(&ticket->next, chunk, memory_order_relaxed);
  if (from >= total) return false;
  *ret_from = from;
  *ret_to = total - from < chunk ? total : from + chunk;
  return true;
}

static inline bool take(struct run *r, struct cpu_ticket *ticket, uint32_t total, uint32_t *ret_from, uint32_t *ret_to) {
  /* long stretches read memory best; many rows compute so long on an item that the
   * lanes should end together */
  uint32_t chunk = r->step->n_tokens >= MANY_ROWS ? 1 : total / (r->n_lanes * 8);
  return take_some(ticket, total, chunk ? chunk : 1, ret_from, ret_to);
}

/* This lane's fixed share of the rows. */
static inline void share(const struct run *r, uint32_t total, uint32_t *ret_from, uint32_t *ret_to) {
  *ret_from = (uint32_t)((uint64_t)total * r->index / r->n_lanes);
  *ret_to = (uint32_t)((uint64_t)total * (r->index + 1) / r->n_lanes);
}

static inline void barrier(struct run *r) {
  cpu_pool_barrier(r->d->pool);
}

/* Where this rank puts its part of the next sum, (max_batch_tokens, ld_dim). Two in turn: who still reads
 * the one has not come to the next meeting, before which nobody writes to it again. */
static inline float *part_of(const struct run *r, unsigned rank) {
  return r->d->group->ranks[rank]->parts[r->n_sums % 2];
}

/* What the kernels read for a row of activations. */
enum form { FORM_FLOATS, FORM_PAIRS, FORM_QUANTS };

static inline enum form form_of(const struct cpu_device *d, const struct cpu_matrix *w) {
  if (w->quant) return FORM_QUANTS;
  return d->kernels->convert && w->dtype == TL_DTYPE_BF16 ? FORM_PAIRS : FORM_FLOATS;
}

static inline uint32_t columns_of(const struct cpu_matrix *w, uint32_t panel) {
  uint32_t left = w->n_out - panel * CPU_PANEL;
  return left < CPU_PANEL ? left : CPU_PANEL;
}

/* Where a product goes. */
struct target {
  float *y;
  size_t ldy;
  bool add;     /* y += in place of y = */
  float factor; /* of what is added or stored, if `scaled` */
  bool scaled;
};

/* A row into place `at` of what w's kernels read; nothing where that is the floats themselves. */
void cpu_convert_row(const struct cpu_device *d, const struct cpu_matrix *w, const float *x, size_t ldx, uint32_t at);
/* out (n, 32) = the converted rows [row, row + n) of x times panel p. */
void cpu_product(struct run *r, const struct cpu_matrix *w, uint32_t p, const float *x, size_t ldx, uint32_t row, uint32_t n, float *out);
/* m = max(0, m) squared, n numbers. */
void cpu_square_above_0(float *m, uint32_t n);
/* The panel's bias to each of n rows of what came out. */
void cpu_add_bias(const struct cpu_matrix *w, uint32_t p, float *out, uint32_t n);
/* `whole` (m, dim) = or += the parts of all ranks, added up by rank. False: the group was aborted. */
bool cpu_sum_parts(struct run *r, uint32_t m, float *whole, bool add);
/* target = x W^T + b, x of m rows; a barrier is due behind it. */
void cpu_project(struct run *r, struct cpu_ticket *ticket, const struct cpu_matrix *w, const float *x, size_t ldx, uint32_t m,
                 const struct target *target);
/* target = h W^T + b of the record's inputs, and what adapters add to it; a barrier is due behind it. */
void cpu_project_normed(struct run *r, uint32_t record, const struct target *target);

/* cpu_adapters.c: whether a sequence of the step has an adapter that adds to the record. */
bool cpu_adapts(const struct run *r, uint32_t record);
/* Of the rows that have adapters: s from x; a barrier is due before it is used. */
void cpu_adapters_shrink(struct run *r, uint32_t record, const float *x, size_t ldx);
/* target += what the record's inputs get, whose outputs lie one behind the other there; a barrier is due before and behind it. */
void cpu_adapters_expand(struct run *r, uint32_t record, const struct target *target);
/* out (n, 32) += what rows [row, row + n) get in panel p of the input's outputs. */
void cpu_adapters_add(struct run *r, uint32_t record, unsigned input, uint32_t p, uint32_t row, uint32_t n, float *out);

/* cpu_experts.c: the records of a mixture of experts; a barrier is due behind each. */
/* factors: (n_experts) of the shares of each, or NULL. */
void cpu_route(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const struct cpu_matrix *w, const float *factors);
void cpu_experts_up(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const struct cpu_matrix *experts);
/* False: the group was aborted. */
bool cpu_experts_down(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const struct cpu_matrix *experts);
void cpu_row_gate(struct run *r, const float *weight);

/* cpu_latent.c: the records of latent attention; a barrier is due behind each, and behind the store. */
void cpu_latent_norm(const struct cpu_device *d, const struct tl_op *op, const float *query, const float *key, uint32_t from, uint32_t to);
void cpu_latent_rope(const struct cpu_device *d, const struct tl_op *op, uint32_t from, uint32_t to);
void cpu_latent_absorb(struct run *r, struct cpu_ticket *ticket, const struct cpu_matrix *heads);
void cpu_latent_store(struct run *r, uint32_t layer);
void cpu_latent_attend(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op);
void cpu_latent_value(struct run *r, struct cpu_ticket *ticket, const struct cpu_matrix *heads);

/* cpu_states.c: the records of layers that keep a state, and of gated attention; a barrier is due behind each. */
void cpu_convolve(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const float *factors, const float *bias);
void cpu_delta(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const float *rates, const float *shifts);
void cpu_gated_norm(const struct cpu_device *d, const struct tl_op *op, const float *weight, uint32_t from, uint32_t to);
/* Where several ranks have value heads of one key head, of GATE_FIRST: a row times its gates, whose squares come back, and by those of all. */
float cpu_gate_squares(const struct cpu_device *d, uint32_t row);
void cpu_gated_scale(const struct cpu_device *d, const struct tl_op *op, const float *weight, uint32_t row, float squares);
void cpu_gate(const struct cpu_device *d, uint32_t from, uint32_t to);
void cpu_short_in(struct run *r, uint32_t record);

/* cpu_encode.c: the records of pooling models; a barrier is due behind each. */
void cpu_embed_place(struct run *r, const struct tl_op *op, const float *positions, const float *types);
void cpu_pool(struct run *r);
void cpu_dense(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const struct cpu_matrix *w);
void cpu_vector_norm(struct run *r, const struct tl_op *op, const float *weight, const float *bias);
/* The vectors into the step's. */
void cpu_give_vectors(struct run *r);

#endif
