/* SPDX-License-Identifier: MIT */
/* Multi-head latent attention as this backend runs it (ops/cuda_latent.h): what is rotated is so where it is made or read, so the
 * plan's record of rotations has no kernel of its own. Lengths are multiples of 8 as they come: nothing is padded. */
#include "device/cuda/cuda_private.h"

static bool is_whole(uint32_t n) {
  return n % 8 == 0;
}

int cuda_latent_dims(struct cuda_device *d, struct tl_error *err) {
  const struct tl_model *m = d->model;
  struct cuda_dims *s = &d->dims;
  s->rank = 0;
  for (uint32_t i = 0; i < m->n_ops; i++)
    if (m->plan[i].kind == TL_OP_LATENT_QUERY) s->rank = (uint32_t)m->tensors[m->plan[i].weight[0]].shape[1];
  if (m->n_latent > TL_CUDA_MAX_LATENT || m->head_dim > TL_CUDA_MAX_LATENT_ROW)
    return cuda_refuse(d, "latents (kv_lora_rank) of more than 512 elements, or more than 576 with their key", err);
  if (!is_whole(s->rank) || !is_whole(m->n_latent) || !is_whole(m->n_nope) || !is_whole(m->n_rotated) || !is_whole(m->n_value))
    return cuda_refuse(d, "q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim: expected multiples of 8", err);
  s->queries = s->n_heads * (m->n_nope + m->n_rotated);
  s->attn = s->n_heads * m->n_value;
  s->rope = m->n_rotated;
  s->qkv = (s->rank ? s->rank : s->queries) + s->head;
  return TL_OK;
}

const struct tl_op *cuda_latent_rope(const struct tl_op *norm, const struct tl_op *end) {
  for (const struct tl_op *op = norm + 1; op < end && op <= norm + 2; op++)
    if (op->kind == TL_OP_LATENT_ROPE) return op;
  return NULL;
}

bool cuda_latent_may_follow(const struct cuda_op *before, const struct cuda_op *op) {
  enum cuda_op_kind kind = before->kind;
  bool ranked = kind == CUDA_OP_LATENT_ROWS && before->from->weight[0] >= 0;
  switch (op->kind) {
    case CUDA_OP_LATENT_ROWS: return kind == CUDA_OP_LATENT && !(before->from->features & TL_F_LOW_RANK) == (op->from->weight[0] < 0);
    case CUDA_OP_LATENT_QUERY: return ranked;
    case CUDA_OP_LATENT_ABSORB:
      return kind == CUDA_OP_LATENT_QUERY || (kind == CUDA_OP_LATENT_ROWS && !ranked);
    case CUDA_OP_LATENT_ATTEND: return kind == CUDA_OP_LATENT_ABSORB;
    default: return kind == CUDA_OP_LATENT_ATTEND;
  }
}

void cuda_latent_shape(const struct cuda_device *d, struct cuda_op *op) {
  const struct tl_model *m = d->model;
  bool absorbs = op->kind == CUDA_OP_LATENT_ABSORB, straight = absorbs && !(op->from->features & TL_F_TURNED);
  op->w.k = straight ? m->n_nope : m->n_latent; /* as they are stored */
  op->w.n = d->dims.n_heads * (straight ? m->n_latent : absorbs ? m->n_nope : m->n_value);
  op->w.n_pieces = 1;
  op->w.pieces[0] = (struct cuda_piece){.format = TL_CUDA_W16, .n = op->w.n};
}

static int rows(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  const struct cuda_dims *s = &d->dims;
  struct tl_cuda_latent_rows_args args = {.dtype = d->dtype, .interleaved = (op->rope->features & TL_F_INTERLEAVED) != 0,
                                          .n = pass->n_tokens, .n_rank = s->rank, .n_latent = d->model->n_latent,
                                          .n_rotated = d->model->n_rotated, .ld = s->qkv, .at = s->qkv - s->head, .eps = op->from->eps,
                                          .in = d->work.qkv, .rank_norm = op->q_norm, .latent_norm = op->k_norm, .rope = d->work.rope,
                                          .growth = op->from->features & TL_F_GROWS ? d->work.growth : NULL,
                                          .positions = d->device.positions, .slots = d->device.slots, .rank = d->work.rank,
                                          .cache = cuda_keys_of(d, op)};
  CUDA_TRY(d, d->api->op.latent_rows(&args, d->stream), "latents and cache", err);
  return TL_OK;
}

static int absorb(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  const struct cuda_dims *s = &d->dims;
  const struct tl_model *m = d->model;
  const char *q = s->rank ? d->work.queries : d->work.qkv;
  uint32_t ld = s->rank ? s->queries : s->qkv;
  struct tl_cuda_latent_turn_args turn = {.dtype = d->dtype, .interleaved = (op->rope->features & TL_F_INTERLEAVED) != 0,
                                          .n = pass->n_tokens, .n_heads = s->n_heads, .n_nope = m->n_nope, .n_latent = m->n_latent,
                                          .n_rotated = m->n_rotated, .ld = ld, .q = q, .rope = d->work.rope,
                                          .positions = d->device.positions, .out = d->work.wide};
  CUDA_TRY(d, d->api->op.latent_turn(&turn, d->stream), "rotating queries", err);
  struct tl_cuda_latent_heads_args args = {.dtype = d->dtype, .turned = (op->from->features & TL_F_TURNED) != 0, .n = pass->n_tokens, .n_heads = s->n_heads, .k = m->n_nope,
                                           .n_out = m->n_latent, .ldx = ld, .x_step = m->n_nope + m->n_rotated,
                                           .ldy = s->n_heads * s->head, .y_step = s->head, .x = q, .w = op->w.pieces[0].data,
                                           .y = d->work.wide};
  CUDA_TRY(d, d->api->op.latent_heads(&args, d->stream), "products of heads", err);
  return TL_OK;
}

static int attend(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  struct tl_cuda_attention a = cuda_attention_of(d, op);
  a.q = a.out = d->work.wide;
  if (pass->n_decode) {
    struct tl_cuda_latent_decode_args args = {.a = a, .n_latent = d->model->n_latent, .n_lanes = d->limits.n_lanes, .max_rows = pass->n_decode,
                                              .lanes = d->device.lists[0].lanes, .items = d->device.lists[0].items,
                                              .partial = d->work.partial, .partial_scale = d->work.partial_scale,
                                              .arrived = d->work.arrived};
    CUDA_TRY(d, d->api->op.latent_decode(&args, d->stream), "decode attention over latents", err);
  }
  if (!pass->n_tiles) return TL_OK;
  struct tl_cuda_latent_prefill_args args = {.a = a, .n_latent = d->model->n_latent, .n_tiles = pass->n_tiles, .tiles = d->device.tiles};
  CUDA_TRY(d, d->api->op.latent_prefill(&args, d->stream), "prefill attention over latents", err);
  return TL_OK;
}

static int value(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  const struct cuda_dims *s = &d->dims;
  struct tl_cuda_latent_heads_args args = {.dtype = d->dtype, .n = pass->n_tokens, .n_heads = s->n_heads, .k = d->model->n_latent,
                                           .n_out = d->model->n_value, .ldx = s->n_heads * s->head, .x_step = s->head, .ldy = s->attn,
                                           .y_step = d->model->n_value, .x = d->work.wide, .w = op->w.pieces[0].data, .y = d->work.a};
  CUDA_TRY(d, d->api->op.latent_heads(&args, d->stream), "products of heads", err);
  return TL_OK;
}

int cuda_latent(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  const struct cuda_work *w = &d->work;
  switch (op->kind) {
    case CUDA_OP_LATENT: return cuda_run_product(d, &op->w, op->w.bias, pass->n_tokens, w->h, w->qkv, err);
    case CUDA_OP_LATENT_ROWS: return rows(d, op, pass, err);
    case CUDA_OP_LATENT_QUERY: return cuda_run_product(d, &op->w, NULL, pass->n_tokens, w->rank, w->queries, err);
    case CUDA_OP_LATENT_ABSORB: return absorb(d, op, pass, err);
    case CUDA_OP_LATENT_ATTEND: return attend(d, op, pass, err);
    default: return value(d, op, pass, err);
  }
}
