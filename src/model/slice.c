/* SPDX-License-Identifier: MIT */
#include "tokenlane/slice.h"

#include <inttypes.h>

#include "model/model_private.h"
#include "tokenlane/adapter.h"

#define UNIT 32 /* outputs of a panel of the CPU backend, inputs of most number formats' blocks */

uint32_t slice_cut(uint32_t total, uint32_t block, uint32_t rank, uint32_t size) {
  uint32_t unit = block;
  if (UNIT % block == 0 && total / UNIT >= size) unit = UNIT;
  uint64_t cut = ((uint64_t)total + unit - 1) / unit * rank / size * unit;
  return cut < total ? (uint32_t)cut : total;
}

static int refuse(struct tl_error *err, uint32_t size, const char *what, uint32_t n) {
  return tl_error_set(err, TL_EINVAL, "engine.tensor_parallel",
                      "engine.tensor_parallel: the model's %u %s cannot be divided among %u devices", n, what, size);
}

/* Columns of this record's weight can only be cut at multiples of it; 1: anywhere, or the record
 * is not cut by columns. */
static uint32_t block_of(const struct tl_model *model, const struct tl_op *op) {
  bool cut = op->kind == TL_OP_ATTN_OUT || op->kind == TL_OP_MLP_DOWN;
  return cut ? tl_dtype_block(model->tensors[op->weight[0]].dtype) : 1;
}

/* Inner rows are cut where blocks end in all layers, and where inputs that share a scale end, if those
 * runs are enough for all ranks: a backend may have to keep as floats what is cut within one.
 * *ret_least: the shortest inner row, which may be that of an expert that all rows have. */
static uint32_t ffn_block(const struct tl_model *model, uint32_t size, uint32_t *ret_least) {
  uint32_t blocks = 1, groups = 1; /* powers of two: the largest is a multiple of all */
  uint64_t least = model->n_ops ? UINT32_MAX : model->ffn_dim;
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    if (op->kind != TL_OP_MLP_DOWN) continue;
    const struct tl_tensor *t = &model->tensors[op->weight[0]];
    if (t->shape[1] < least) least = t->shape[1];
    uint64_t group = tl_tensor_group_columns(t);
    uint32_t block = block_of(model, op);
    if (block > blocks) blocks = block;
    bool counts = group < t->shape[1] && (group & (group - 1)) == 0 && !tl_tensor_order(t);
    if (counts && group > groups) groups = (uint32_t)group;
  }
  *ret_least = (uint32_t)least;
  return groups > blocks && least / groups >= size ? groups : blocks;
}

struct run {
  uint64_t first, n;
};

static struct run part_of(const struct tl_shard *s, uint64_t n) {
  return (struct run){s->rank * n, n};
}

/* The inputs of ATTN_OUT that this rank has: heads, or what a layer that keeps a state makes. Where both are as many, parts are, too. */
static struct run made(const struct tl_model *model, const struct tl_shard *s, const struct tl_tensor *t) {
  const struct tl_recurrence *r = &model->recurrence;
  uint64_t head = t->shape[1] / model->n_heads, of_state = r->n_value_heads ? (uint64_t)r->n_value_heads * r->value_dim : r->n_channels;
  if (r->n_layers && t->shape[1] == of_state) return part_of(s, of_state / s->size);
  return (struct run){s->first_head * head, s->n_heads * head};
}

/* Heads are not moved to where a block ends: a format whose blocks are longer than a rank's heads cannot be cut. */
static int check_heads(const struct tl_model *model, const struct tl_shard *s, struct tl_error *err) {
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    if (op->kind == TL_OP_DELTA && op->features & TL_F_TURNED && s->size > 1)
      return tl_error_set(err, TL_EUNSUPPORTED, "engine.tensor_parallel",
                          "engine.tensor_parallel: value heads in the order that this file has them in cannot be divided among devices; "
                          "the model's safetensors can");
    if (op->kind != TL_OP_ATTN_OUT) continue;
    const struct tl_tensor *t = &model->tensors[op->weight[0]];
    struct run run = made(model, s, t);
    uint32_t block = block_of(model, op);
    if (run.first % block == 0 && (run.first + run.n) % block == 0) continue;
    return tl_error_set(err, TL_EINVAL, "engine.tensor_parallel",
                        "engine.tensor_parallel: tensor '%.120s' is in blocks of %u inputs (%s), so its %" PRIu64
                        " inputs cannot be divided among %u devices",
                        t->name, block, tl_dtype_name(t->dtype), t->shape[1], s->size);
  }
  return TL_OK;
}

static int check_state(const struct tl_model *model, uint32_t size, struct tl_error *err) {
  const struct tl_recurrence *r = &model->recurrence;
  if (r->n_value_heads % size) return refuse(err, size, "value heads of linear attention", r->n_value_heads);
  if (r->n_key_heads % size && size % r->n_key_heads) return refuse(err, size, "key heads of linear attention", r->n_key_heads);
  if (!r->n_key_heads && r->n_channels % size) return refuse(err, size, "channels of convolutions", r->n_channels);
  return TL_OK;
}

/* Value heads in equal parts, and the key heads of these. */
static void share_states(const struct tl_recurrence *r, struct tl_shard *s) {
  s->n_channels = r->n_channels / s->size;
  if (!r->n_key_heads) return;
  s->n_value_heads = r->n_value_heads / s->size;
  s->key_ranks = r->n_key_heads < s->size ? s->size / r->n_key_heads : 1;
  s->n_key_heads = r->n_key_heads < s->size ? 1 : r->n_key_heads / s->size;
  s->first_key_head = s->rank / s->key_ranks * s->n_key_heads;
  s->n_channels = 2 * s->n_key_heads * r->key_dim + s->n_value_heads * r->value_dim;
}

int tl_shard_make(const struct tl_model *model, uint32_t rank, uint32_t size, struct tl_shard *ret, struct tl_error *err) {
  uint32_t kv = model->n_kv_heads, wide = model->wide.n_kv, least, block = ffn_block(model, size, &least);
  if (model->n_heads % size) return refuse(err, size, "attention heads", model->n_heads);
  if (kv % size && size % kv) return refuse(err, size, "key and value heads", kv);
  if (wide && wide % size && size % wide) return refuse(err, size, "key and value heads of layers without a window", wide);
  if (size > 1 && least / block < size) /* one has all, also of an inner row that is shorter than others' blocks */
    return refuse(err, size, "inner MLP outputs", least);
  if (model->n_experts && model->n_experts < size) return refuse(err, size, "experts", model->n_experts);
  if (model->vocab_size < size) return refuse(err, size, "vocabulary entries", model->vocab_size);
  int r = check_state(model, size, err);
  if (r < 0) return r;
  *ret = (struct tl_shard){.rank = rank, .size = size};
  share_states(&model->recurrence, ret);
  ret->n_heads = model->n_heads / size;
  ret->first_head = rank * ret->n_heads;
  ret->n_kv_heads = kv < size ? 1 : kv / size;
  ret->first_kv_head = (uint32_t)((uint64_t)rank * kv / size);
  ret->n_wide_kv_heads = wide < size ? wide > 0 : wide / size;
  ret->first_wide_kv_head = (uint32_t)((uint64_t)rank * wide / size);
  ret->ffn_unit = block;
  ret->first_ffn = slice_cut(model->ffn_dim, block, rank, size);
  ret->n_ffn = slice_cut(model->ffn_dim, block, rank + 1, size) - ret->first_ffn;
  ret->first_vocab = slice_cut(model->vocab_size, 1, rank, size);
  ret->n_vocab = slice_cut(model->vocab_size, 1, rank + 1, size) - ret->first_vocab;
  ret->first_expert = (uint32_t)((uint64_t)model->n_experts * rank / size);
  ret->n_experts = (uint32_t)((uint64_t)model->n_experts * (rank + 1) / size) - ret->first_expert;
  return check_heads(model, ret, err);
}

/* --- slices ------------------------------------------------------------------------------ */

static struct run all_rows(const struct tl_tensor *t) {
  return (struct run){0, t->shape[0]};
}

/* Of an inner row of `total`, which is ffn_dim but for an expert that all rows have. */
static struct run inner(const struct tl_shard *s, uint64_t total) {
  uint32_t first = slice_cut((uint32_t)total, s->ffn_unit, s->rank, s->size);
  return (struct run){first, slice_cut((uint32_t)total, s->ffn_unit, s->rank + 1, s->size) - first};
}

/* The outputs of an input of a record that this rank computes. */
static struct run outputs(const struct tl_model *model, const struct tl_shard *s, const struct tl_op *op, unsigned input,
                          const struct tl_tensor *t) {
  uint64_t head = tl_op_heads(model, op).dim, query = model->n_nope + model->n_rotated;
  if (s->size == 1) return all_rows(t); /* what the sizes of the model say too */
  switch (op->kind) {
    case TL_OP_LATENT:
      if (input > 0 || op->features & TL_F_LOW_RANK) return all_rows(t);
      return (struct run){s->first_head * query, s->n_heads * query};
    case TL_OP_LATENT_QUERY: return (struct run){s->first_head * query, s->n_heads * query};
    case TL_OP_QKV:
      if (input == 0) return (struct run){s->first_head * head, s->n_heads * head};
      if (op->features & TL_F_WIDE) return (struct run){s->first_wide_kv_head * head, s->n_wide_kv_heads * head};
      return (struct run){s->first_kv_head * head, s->n_kv_heads * head};
    case TL_OP_GATE_IN: return (struct run){s->first_head * head, s->n_heads * head};
    case TL_OP_DELTA_IN:
    case TL_OP_CONV:
      if (input == 2) return part_of(s, (uint64_t)s->n_value_heads * model->recurrence.value_dim);
      return (struct run){s->first_key_head * (uint64_t)model->recurrence.key_dim, s->n_key_heads * (uint64_t)model->recurrence.key_dim};
    case TL_OP_DELTA_GATES: return part_of(s, (uint64_t)s->n_value_heads * (input ? 1 : model->recurrence.value_dim));
    case TL_OP_SCAN:
    case TL_OP_DELTA: return part_of(s, s->n_value_heads);
    case TL_OP_SHORT_IN:
    case TL_OP_SHORT_CONV: return part_of(s, s->n_channels);
    case TL_OP_UP:
    case TL_OP_GATED_UP: return inner(s, t->shape[0]);
    case TL_OP_EMBED:
    case TL_OP_LOGITS: return (struct run){s->first_vocab, s->n_vocab};
    default: return all_rows(t);
  }
}

/* And the inputs that it has of them. */
static struct run inputs(const struct tl_model *model, const struct tl_shard *s, const struct tl_op *op,
                         const struct tl_tensor *t) {
  if (s->size > 1 && op->kind == TL_OP_ATTN_OUT) return made(model, s, t);
  if (s->size > 1 && op->kind == TL_OP_MLP_DOWN) return inner(s, t->shape[1]);
  return (struct run){0, t->n_dims > 1 ? t->shape[1] : 1};
}

struct tl_slice tl_slice_weight(const struct tl_model *model, const struct tl_shard *shard, const struct tl_op *op,
                                unsigned input) {
  const struct tl_tensor *t = &model->tensors[op->weight[input]];
  struct run rows = outputs(model, shard, op, input, t), columns = inputs(model, shard, op, t);
  return (struct tl_slice){t, rows.first, rows.n, columns.first, columns.n};
}

/* B has the rows of the weight, A its columns. */
struct tl_slice tl_slice_adapter_a(const struct tl_model *model, const struct tl_shard *shard, const struct tl_adapter_part *part) {
  const struct tl_tensor *t = &model->tensors[part->a];
  struct run columns = inputs(model, shard, &model->plan[part->record], t);
  return (struct tl_slice){t, 0, t->shape[0], columns.first, columns.n};
}

struct tl_slice tl_slice_adapter_b(const struct tl_model *model, const struct tl_shard *shard, const struct tl_adapter_part *part) {
  const struct tl_tensor *t = &model->tensors[part->b];
  struct run rows = outputs(model, shard, &model->plan[part->record], part->input, t);
  return (struct tl_slice){t, rows.first, rows.n, 0, t->shape[1]};
}

struct tl_slice tl_slice_bias(const struct tl_model *model, const struct tl_shard *shard, const struct tl_op *op,
                              unsigned input) {
  const struct tl_tensor *t = &model->tensors[op->bias[input]];
  struct run rows = outputs(model, shard, op, input, t);
  bool summed = op->kind == TL_OP_ATTN_OUT || op->kind == TL_OP_MLP_DOWN;
  if (summed && shard->rank > 0) rows.n = 0; /* once in the sum */
  return (struct tl_slice){t, rows.first, rows.n, 0, 1};
}
