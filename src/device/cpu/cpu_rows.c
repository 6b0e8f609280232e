/* SPDX-License-Identifier: MIT */
/* Records that change rows one by one: norms within attention and behind blocks, rotations. */
#include <math.h>

#include "device/cpu/cpu_private.h"

#define SUMS 32 /* kept side by side, so that the compiler adds whole vectors */

/* Of x, or of its squared distances from `mean`. */
static float sum_of(const float *x, uint32_t n, bool squares, float mean) {
  float sums[SUMS] = {0}, rest = 0;
  uint32_t i = 0;
  for (; i + SUMS <= n; i += SUMS)
    for (uint32_t k = 0; k < SUMS; k++) {
      float v = x[i + k] - mean;
      sums[k] += squares ? v * v : v;
    }
  for (; i < n; i++) rest += squares ? (x[i] - mean) * (x[i] - mean) : x[i] - mean;
  for (uint32_t half = SUMS / 2; half > 0; half /= 2)
    for (uint32_t k = 0; k < half; k++) sums[k] += sums[k + half];
  return sums[0] + rest;
}

void cpu_layer_norm(float *h, const float *x, const float *weight, const float *bias, uint32_t n, float eps) {
  float mean = sum_of(x, n, false, 0) / (float)n;
  float scale = 1 / sqrtf(sum_of(x, n, true, mean) / (float)n + eps);
  for (uint32_t i = 0; i < n; i++) h[i] = (x[i] - mean) * scale * weight[i] + (bias ? bias[i] : 0);
}

float cpu_squares(const float *x, uint32_t n) {
  return sum_of(x, n, true, 0);
}

void cpu_rms(float *x, const float *weight, uint32_t n, float eps) {
  float scale = 1 / sqrtf(sum_of(x, n, true, 0) / (float)n + eps);
  for (uint32_t i = 0; i < n; i++) x[i] *= scale * weight[i];
}

void cpu_norm_add(const struct cpu_device *d, const struct tl_op *op, const float *weight, uint32_t from, uint32_t to) {
  for (uint32_t i = from; i < to; i++) {
    float *x = d->x + i * d->ld_dim, *h = d->h + i * d->ld_dim;
    d->kernels->rmsnorm(h, h, weight, d->model->dim, op->eps);
    for (uint32_t k = 0; k < d->model->dim; k++) x[k] += h[k];
    for (uint32_t k = 0; op->features & TL_F_FACTOR && k < d->model->dim; k++) x[k] *= op->factor;
  }
}

void cpu_aside(const struct cpu_device *d, const struct tl_op *op, const float *weight, uint32_t from, uint32_t to) {
  for (uint32_t i = from; i < to; i++) {
    float *s = d->aside + i * d->ld_dim, *h = d->h + i * d->ld_dim;
    d->kernels->rmsnorm(op->kind == TL_OP_ASIDE ? s : h, h, weight, d->model->dim, op->eps);
    for (uint32_t k = 0; op->kind == TL_OP_JOIN && k < d->model->dim; k++) h[k] += s[k];
  }
}

void cpu_beside(const struct cpu_device *d, const struct tl_op *op, uint32_t from, uint32_t to) {
  const struct cpu_table *table = &d->weights.beside;
  uint32_t n = d->model->n_layers * d->model->n_beside;
  for (uint32_t i = from; i < to; i++) {
    float *p = d->beside + i * d->ld_beside;
    tl_dtype_to_f32(table->dtype, table->rows + (size_t)d->step->tokens[i] * table->row_bytes, p, n);
    for (uint32_t k = 0; op->features & TL_F_FACTOR && k < n; k++) p[k] *= op->factor;
  }
}

void cpu_beside_mix(const struct cpu_device *d, const struct tl_op *op, const float *weight, uint32_t from, uint32_t to) {
  uint32_t each = d->model->n_beside, n = d->model->n_layers * each;
  for (uint32_t i = from; i < to; i++) {
    float *p = d->beside + i * d->ld_beside, *mix = d->mix + i * d->ld_beside;
    for (uint32_t at = 0; at < n; at += each) cpu_rms(mix + at, weight, each, op->eps);
    for (uint32_t k = 0; k < n; k++) p[k] += mix[k];
    for (uint32_t k = 0; op->features & TL_F_FACTOR && k < n; k++) p[k] *= op->factor;
  }
}

/* A rank has the numbers of m that its part of UP makes. */
void cpu_beside_gate(const struct cpu_device *d, const struct tl_op *op, uint32_t from, uint32_t to) {
  const struct tl_slice s = tl_slice_weight(d->model, &d->shard, op - 1, 0);
  for (uint32_t i = from; i < to; i++) {
    const float *p = d->beside + i * d->ld_beside + (size_t)op->layer * d->model->n_beside + s.first_row;
    float *m = d->m + i * d->ld_ffn;
    for (uint64_t k = 0; k < s.n_rows; k++) m[k] *= p[k];
  }
}

/* Heads need not be whole vectors, and others lie behind them: no kernel of the table fits. */
static float squares_of(const float *x, uint32_t n) {
  float squares = 0;
  for (uint32_t i = 0; i < n; i++) squares += x[i] * x[i];
  return squares;
}

/* By the squares of `total` numbers, these n among them; weight NULL: all 1. */
static void scale_part(float *x, const float *weight, uint32_t n, float squares, uint32_t total, float eps) {
  float scale = 1 / sqrtf(squares / (float)total + eps);
  for (uint32_t i = 0; i < n; i++) x[i] = x[i] * scale * (weight ? weight[i] : 1);
}

/* LayerNorm of each of n heads by weights of its own. */
static void norm_heads(float *x, const float *weight, uint32_t n, uint32_t dim, float eps) {
  for (uint32_t h = 0; h < n; h++) cpu_layer_norm(x + (size_t)h * dim, x + (size_t)h * dim, weight + (size_t)h * dim, NULL, dim, eps);
}

void cpu_qk_norm(const struct cpu_device *d, const struct tl_op *op, const float *q_weight, const float *k_weight,
                 uint32_t from, uint32_t to) {
  const struct cpu_heads *heads = cpu_heads_of(d, op);
  bool whole = op->features & TL_F_WHOLE_ROW, lent = op->features & TL_F_LENT;
  uint32_t dim = heads->dim, q_length = d->shard.n_heads * dim, k_length = heads->n_kv * dim;
  uint32_t q_part = whole ? q_length : dim, k_part = whole ? k_length : dim;
  for (uint32_t i = from; i < to; i++) {
    float *q = d->qkv + i * d->ld_qkv, *k = q + q_length;
    if (op->features & TL_F_EACH_HEAD) {
      norm_heads(q, q_weight + (size_t)d->shard.first_head * dim, d->shard.n_heads, dim, op->eps);
      norm_heads(k, k_weight + (size_t)d->shard.first_kv_head * dim, d->shard.n_kv_heads, dim, op->eps);
      continue;
    }
    for (uint32_t at = 0; at < q_length; at += q_part)
      scale_part(q + at, q_weight, q_part, squares_of(q + at, q_part), q_part, op->eps);
    for (uint32_t at = 0; !lent && at < k_length; at += k_part)
      scale_part(k + at, k_weight, k_part, squares_of(k + at, k_part), k_part, op->eps);
    for (uint32_t at = k_length; op->features & TL_F_VALUES && at < 2 * k_length; at += dim)
      scale_part(k + at, NULL, dim, squares_of(k + at, dim), dim, op->eps);
  }
}

void cpu_qk_squares(const struct cpu_device *d, uint32_t row, float ret[2]) {
  const struct tl_shard *s = &d->shard;
  const float *q = d->qkv + row * d->ld_qkv, *k = q + (size_t)s->n_heads * d->model->head_dim;
  /* with fewer KV heads than ranks several have the same one: the first of them counts it */
  bool first = s->size <= d->model->n_kv_heads || s->rank % (s->size / d->model->n_kv_heads) == 0;
  ret[0] = squares_of(q, s->n_heads * d->model->head_dim);
  ret[1] = first ? squares_of(k, s->n_kv_heads * d->model->head_dim) : 0;
}

void cpu_qk_scale(const struct cpu_device *d, const struct tl_op *op, const float *q_weight, const float *k_weight, uint32_t row,
                  const float squares[2]) {
  const struct tl_shard *s = &d->shard;
  uint32_t head = d->model->head_dim, q_length = s->n_heads * head;
  float *q = d->qkv + row * d->ld_qkv;
  scale_part(q, q_weight + (size_t)s->first_head * head, q_length, squares[0], d->model->n_heads * head, op->eps);
  scale_part(q + q_length, k_weight + (size_t)s->first_kv_head * head, s->n_kv_heads * head, squares[1], d->model->n_kv_heads * head,
             op->eps);
}

/* Halves layout: (x[i], x[i + half]) is a pair. */
static void rotate(float *x, const float *angles, uint32_t n) {
  uint32_t half = n / 2;
  for (uint32_t i = 0; i < half; i++) {
    float cosine = angles[i], sine = angles[half + i], a = x[i], b = x[half + i];
    x[i] = a * cosine - b * sine;
    x[half + i] = b * cosine + a * sine;
  }
}

static void rotate_interleaved(float *x, const float *angles, uint32_t n) {
  uint32_t half = n / 2;
  for (uint32_t i = 0; i < half; i++) {
    float cosine = angles[i], sine = angles[half + i], a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cosine - b * sine;
    x[2 * i + 1] = b * cosine + a * sine;
  }
}

void cpu_rotate(float *x, const float *angles, uint32_t n, const struct tl_op *op) {
  if (op->features & TL_F_INTERLEAVED)
    rotate_interleaved(x, angles, n);
  else
    rotate(x, angles, n);
  for (uint32_t k = 0; op->features & TL_F_FACTOR && k < n; k++) x[k] *= op->factor;
}

void cpu_rope(const struct cpu_device *d, const struct tl_op *op, uint32_t from, uint32_t to) {
  const struct cpu_heads *kv = cpu_heads_of(d, op);
  uint32_t head_dim = kv->dim, heads = d->shard.n_heads + (op->features & TL_F_LENT ? 0 : kv->n_kv), n = tl_op_n_rotated(d->model, op);
  const float *table = op->features & TL_F_LOCAL ? d->rope_local : d->rope;
  for (uint32_t i = from; i < to; i++) {
    const float *angles = table + (size_t)d->step->positions[i] * n;
    for (uint32_t head = 0; head < heads; head++) cpu_rotate(d->qkv + i * d->ld_qkv + (size_t)head * head_dim, angles, n, op);
  }
}

void cpu_grow(const struct cpu_device *d, const struct tl_op *op, uint32_t from, uint32_t to) {
  for (uint32_t i = from; i < to; i++) {
    float *q = d->qkv + i * d->ld_qkv, growth = tl_op_growth(op, d->step->positions[i]);
    for (uint32_t k = 0; k < d->shard.n_heads * d->model->head_dim; k++) q[k] *= growth;
  }
}
