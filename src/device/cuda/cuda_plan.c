/* SPDX-License-Identifier: MIT */
/* The model's plan as this backend runs it: sizes padded, records that one kernel
 * does together made one, everything that it cannot do refused by name. */
#include <math.h>
#include <stdlib.h>

#include "device/cuda/cuda_private.h"

static int refuse(const struct cuda_device *d, const char *what, struct tl_error *err) {
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "model.path: the CUDA backend cannot run this %.40s model: %.200s",
                      d->model->architecture, what);
}

/* The rank's part of the model, and where the vocabulary is cut. */
static int make_shard(struct cuda_device *d, struct tl_error *err) {
  uint32_t size = d->shard.size, widest = 0;
  for (uint32_t rank = 0; rank < size; rank++) {
    struct tl_shard other;
    int r = tl_shard_make(d->model, rank, size, &other, err);
    if (r < 0) return r;
    if (rank == d->shard.rank) d->shard = other;
    if (other.n_vocab > widest) widest = other.n_vocab;
    d->vocab_cuts[rank + 1] = other.first_vocab + other.n_vocab;
  }
  d->dims.ld_part = (uint32_t)cuda_round(widest, 4);
  return TL_OK;
}

static int make_dims(struct cuda_device *d, struct tl_error *err) {
  const struct tl_model *m = d->model;
  struct cuda_dims *s = &d->dims;
  int r = make_shard(d, err);
  if (r < 0) return r;
  d->dtype = m->dtype == TL_DTYPE_BF16 ? TL_CUDA_BF16 : TL_CUDA_F16; /* floats become F16: three bits more than BF16 */
  s->dim = (uint32_t)cuda_round(m->dim, 8);
  s->head = (uint32_t)cuda_round(m->head_dim, 8);
  s->ffn = (uint32_t)cuda_round(d->shard.n_ffn, 8);
  s->n_heads = d->shard.n_heads;
  s->n_kv_heads = d->shard.n_kv_heads;
  s->vocab = m->vocab_size;
  s->n_vocab = d->shard.n_vocab;
  s->qkv = (s->n_heads + 2 * s->n_kv_heads) * s->head;
  s->attn = s->n_heads * s->head;
  s->ld_logits = (uint32_t)cuda_round(s->vocab, 4);
  s->norm_scale = sqrtf((float)m->dim / (float)s->dim);
  if (s->head > TL_CUDA_MAX_HEAD_DIM) return refuse(d, "heads of more than 256 elements", err);
  if (m->head_dim % 2) return refuse(d, "heads of an odd size", err);
  if (m->n_heads % m->n_kv_heads) return refuse(d, "query heads that key heads do not divide", err);
  return TL_OK;
}

/* The kind of record, and how many of the plan's it stands for; 0: it does not begin one, or wants
 * something that no kernel does. */
static uint32_t match(const struct tl_op *op, uint32_t left, enum cuda_op_kind *ret) {
  if (op->features) return 0;
  switch (op->kind) {
    case TL_OP_EMBED: *ret = CUDA_OP_EMBED; return 1;
    case TL_OP_RMSNORM: *ret = CUDA_OP_NORM; return 1;
    case TL_OP_QKV: *ret = CUDA_OP_QKV; return 1;
    case TL_OP_ROPE:
      *ret = CUDA_OP_ATTEND;
      return left > 1 && op[1].kind == TL_OP_ATTEND && !op[1].features ? 2 : 0;
    case TL_OP_ATTN_OUT: *ret = CUDA_OP_OUT; return 1;
    case TL_OP_GATED_UP: *ret = CUDA_OP_GATED; return 1;
    case TL_OP_MLP_DOWN: *ret = CUDA_OP_DOWN; return 1;
    case TL_OP_LOGITS: *ret = CUDA_OP_LOGITS; return 1;
    default: return 0;
  }
}

/* Which records may follow one another: what one leaves is what the next reads. */
static bool may_follow(enum cuda_op_kind before, enum cuda_op_kind kind) {
  switch (kind) {
    case CUDA_OP_EMBED: return false;
    case CUDA_OP_NORM: return before == CUDA_OP_EMBED || before == CUDA_OP_OUT || before == CUDA_OP_DOWN;
    case CUDA_OP_QKV: return before == CUDA_OP_NORM;
    case CUDA_OP_ATTEND: return before == CUDA_OP_QKV;
    case CUDA_OP_OUT: return before == CUDA_OP_ATTEND;
    case CUDA_OP_GATED: return before == CUDA_OP_NORM;
    case CUDA_OP_DOWN: return before == CUDA_OP_GATED;
    case CUDA_OP_LOGITS: return before == CUDA_OP_NORM;
  }
  return false;
}

/* Sizes of the record's matrix; cuda_weights.c fills in where it lies. */
static bool shape(struct cuda_device *d, struct cuda_op *op) {
  const struct cuda_dims *s = &d->dims;
  struct cuda_matrix *w = &op->w;
  uint32_t ld = 0;
  switch (op->kind) {
    case CUDA_OP_QKV: w->n = s->qkv, w->k = s->dim; break;
    case CUDA_OP_OUT: w->n = s->dim, w->k = s->attn; break;
    case CUDA_OP_GATED: w->n = 2 * s->ffn, w->k = s->dim; break;
    case CUDA_OP_DOWN: w->n = s->dim, w->k = s->ffn; break;
    case CUDA_OP_LOGITS: w->n = s->n_vocab, w->k = s->dim, ld = d->group ? s->ld_part : s->ld_logits; break;
    case CUDA_OP_EMBED: w->n = s->n_vocab, w->k = s->dim; return true;
    case CUDA_OP_NORM:
    case CUDA_OP_ATTEND: return true;
  }
  w->product = cuda_product_of(&d->products, w->n, w->k, ld ? ld : w->n, ld != 0);
  return w->product < CUDA_MAX_PRODUCTS;
}

int cuda_make_plan(struct cuda_device *d, struct tl_error *err) {
  const struct tl_model *m = d->model;
  int r = make_dims(d, err);
  if (r < 0) return r;
  d->plan = calloc(m->n_ops + 1, sizeof *d->plan);
  if (!d->plan) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (uint32_t at = 0; at < m->n_ops;) {
    const struct tl_op *op = &m->plan[at];
    struct cuda_op *to = &d->plan[d->n_plan], *before = d->n_plan ? to - 1 : NULL;
    uint32_t n = match(op, m->n_ops - at, &to->kind);
    if (n == 0 || (before ? !may_follow(before->kind, to->kind) : to->kind != CUDA_OP_EMBED))
      return tl_error_set(err, TL_EUNSUPPORTED, "model.path",
                          "model.path: the CUDA backend cannot run this %.40s model: record %u of its plan, of kind %d, is not one that "
                          "it knows there",
                          m->architecture, at, (int)op->kind);
    to->from = op;
    to->layer = op[n - 1].layer;
    to->eps = op->eps * d->dims.norm_scale * d->dims.norm_scale;
    to->scale = op[n - 1].scale;
    to->first = to->kind == CUDA_OP_NORM && before->kind == CUDA_OP_EMBED;
    if (to->kind == CUDA_OP_LOGITS && op->bias[0] >= 0) return refuse(d, "a bias of the logits", err);
    if (!shape(d, to)) return refuse(d, "too many shapes of matrices", err);
    d->n_plan++;
    at += n;
  }
  if (d->n_plan == 0 || d->plan[d->n_plan - 1].kind != CUDA_OP_LOGITS) return refuse(d, "a plan that does not end in logits", err);
  return TL_OK;
}
