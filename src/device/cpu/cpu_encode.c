/* SPDX-License-Identifier: MIT */
/* Pooling models: where the keys of a step's sequences are, and the records from token rows to a
 * sequence's vector. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu/cpu_run.h"

/* --- keys of one step ------------------------------------------------------------------------- */

uint32_t cpu_places_blocks(const struct cpu_device *d) {
  /* each sequence begins a block of its own */
  return d->load.max_batch_tokens / TL_BLOCK_TOKENS + d->load.max_batch_size;
}

static uint32_t stride_of(const struct cpu_device *d) {
  return tl_blocks_of(d->load.max_context);
}

bool cpu_places_make(struct cpu_device *d) {
  struct cpu_places *p = &d->places;
  p->slots = calloc(d->load.max_batch_tokens, sizeof *p->slots);
  p->context = calloc(d->load.max_batch_size, sizeof *p->context);
  p->tables = calloc((size_t)d->load.max_batch_size * stride_of(d), sizeof *p->tables);
  return p->slots && p->context && p->tables;
}

void cpu_places_free(struct cpu_device *d) {
  free(d->places.slots);
  free(d->places.context);
  free(d->places.tables);
}

const struct tl_step *cpu_places_step(struct cpu_device *d, const struct tl_step *step) {
  struct cpu_places *p = &d->places;
  p->step = *step;
  p->step.table_stride = stride_of(d);
  p->step.slots = p->slots;
  p->step.context_len = p->context;
  p->step.block_tables = p->tables;
  uint32_t block = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t first = step->query_start[s], n = step->query_start[s + 1] - first;
    p->context[s] = n;
    for (uint32_t i = 0; i < n; i++) p->slots[first + i] = block * TL_BLOCK_TOKENS + i;
    for (uint32_t i = 0; i * TL_BLOCK_TOKENS < n; i++) p->tables[(size_t)s * p->step.table_stride + i] = block++;
  }
  return &p->step;
}

/* --- rows ---------------------------------------------------------------------------------------- */

void cpu_embed_place(struct run *r, const struct tl_op *op, const float *positions, const float *types) {
  struct cpu_device *d = r->d;
  uint64_t n_types = types ? d->model->tensors[op->weight[1]].shape[0] : 0;
  const struct tl_step *step = r->step;
  uint32_t from, to, dim = d->model->dim;
  share(r, step->n_tokens, &from, &to);
  for (uint32_t i = from; i < to; i++) {
    float *x = d->x + i * d->ld_dim;
    /* a tokenizer's file may know more types than the model has */
    uint32_t kind = step->token_types ? (uint32_t)step->token_types[i] : 0;
    const float *type = types ? types + (kind < n_types ? (size_t)kind * dim : 0) : NULL;
    const float *position = positions ? positions + (size_t)step->positions[i] * dim : NULL;
    for (uint32_t k = 0; type && k < dim; k++) x[k] += type[k];
    for (uint32_t k = 0; position && k < dim; k++) x[k] += position[k];
  }
}

/* --- vectors --------------------------------------------------------------------------------------- */

static float *vector_of(const struct run *r, unsigned which, uint32_t seq) {
  return r->d->vectors[which] + (size_t)seq * r->d->ld_vector;
}

/* Products read inputs by twos: behind an odd number there must be a number, times zero. */
static void end_vector(const struct run *r, float *v, uint32_t n) {
  if (n < r->d->ld_vector) v[n] = 0;
}

/* NaN is larger than all else, so that it shows. */
static void take_largest(float *v, const float *row, uint32_t dim) {
  for (uint32_t k = 0; k < dim; k++)
    if (row[k] > v[k] || isnan(row[k])) v[k] = row[k];
}

/* v = of n rows of ld floats, what `kind` says. */
static void pool_rows(enum tl_pooling kind, const float *rows, size_t ld, uint32_t n, float *v, uint32_t dim) {
  bool takes_one = kind == TL_POOL_FIRST || kind == TL_POOL_LAST || kind == TL_POOL_MAX;
  memcpy(v, rows + (kind == TL_POOL_LAST ? n - 1 : 0) * ld, dim * sizeof *v);
  for (uint32_t i = 1; kind == TL_POOL_MAX && i < n; i++) take_largest(v, rows + i * ld, dim);
  if (takes_one) return;
  double sum = 1; /* of weights: whole numbers, beyond those of a float */
  for (uint32_t i = 1; i < n; i++) {
    float weight = kind == TL_POOL_WEIGHTED ? (float)(i + 1) : 1;
    for (uint32_t k = 0; k < dim; k++) v[k] += weight * rows[i * ld + k];
    sum += weight;
  }
  float divisor = (float)(kind == TL_POOL_MEAN_SQRT ? sqrt(sum) : sum);
  for (uint32_t k = 0; k < dim; k++) v[k] /= divisor;
}

void cpu_pool(struct run *r) {
  struct cpu_device *d = r->d;
  uint32_t from, to, dim = d->model->dim;
  share(r, r->step->n_seqs, &from, &to);
  for (uint32_t s = from; s < to; s++) {
    uint32_t first = r->step->query_start[s], n = r->step->query_start[s + 1] - first;
    float *v = vector_of(r, 0, s);
    end_vector(r, v, dim);
    pool_rows(d->model->pooling, d->h + first * d->ld_dim, d->ld_dim, n, v, dim);
  }
  r->vector = 0;
}

void cpu_dense(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const struct cpu_matrix *w) {
  struct cpu_device *d = r->d;
  uint32_t from, to, n = r->step->n_seqs;
  struct target target = {.y = d->vectors[1 - r->vector], .ldy = d->ld_vector};
  cpu_project(r, ticket, w, d->vectors[r->vector], d->ld_vector, n, &target);
  r->vector = 1 - r->vector;
  barrier(r);
  share(r, n, &from, &to);
  for (uint32_t s = from; s < to; s++) {
    float *v = vector_of(r, r->vector, s);
    end_vector(r, v, w->n_out);
    for (uint32_t k = 0; op->features & TL_F_TANH && k < w->n_out; k++) v[k] = tanhf(v[k]);
    for (uint32_t k = 0; op->features & TL_F_GELU && k < w->n_out; k++) v[k] *= 0.5f * (1 + erff(v[k] * 0.70710678f));
  }
}

void cpu_vector_norm(struct run *r, const struct tl_op *op, const float *weight, const float *bias) {
  uint32_t from, to;
  share(r, r->step->n_seqs, &from, &to);
  for (uint32_t s = from; s < to; s++) {
    float *v = vector_of(r, r->vector, s);
    cpu_layer_norm(v, v, weight, bias, r->d->model->dim, op->eps);
  }
}

void cpu_give_vectors(struct run *r) {
  const struct tl_model *model = r->d->model;
  if (r->d->shard.rank > 0) return; /* all ranks have the same */
  uint32_t from, to;
  share(r, r->step->n_seqs, &from, &to);
  for (uint32_t s = from; s < to; s++) {
    const float *v = vector_of(r, r->vector, s);
    float *out = r->step->vectors + (size_t)s * model->n_out;
    double squares = 0;
    for (uint32_t k = 0; k < model->n_out; k++) squares += (double)v[k] * (double)v[k];
    float scale = model->normalize ? (float)(1 / fmax(sqrt(squares), 1e-12)) : 1;
    for (uint32_t k = 0; k < model->n_out; k++) out[k] = v[k] * scale;
  }
}
