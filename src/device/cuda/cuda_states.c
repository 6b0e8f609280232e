/* SPDX-License-Identifier: MIT */
/* Layers that keep a state of fixed size, and the gate of attention beside them, as this backend runs them (ops/cuda_delta.h). u, z, b and
 * c of a layer are one product. Heads are padded to multiples of 8 with zeros, as those of attention are; a state is of padded ones. */
#include <math.h>

#include "device/cuda/cuda_private.h"

/* --- sizes ------------------------------------------------------------------------------------ */

int cuda_state_dims(struct cuda_device *d, struct tl_error *err) {
  const struct tl_recurrence *r = &d->model->recurrence;
  struct cuda_dims *s = &d->dims;
  if (!r->n_layers) return TL_OK;
  if (r->conv > TL_CUDA_MAX_CONV) return cuda_refuse(d, "convolutions over more than 4 rows", err);
  if (r->key_dim > TL_CUDA_MAX_KEY_DIM || r->value_dim > TL_CUDA_MAX_HEAD_DIM)
    return cuda_refuse(d, "heads of linear attention of more than 256 elements", err);
  s->n_channels = s->made = (uint32_t)cuda_round(d->shard.n_channels, 8);
  if (!r->n_value_heads) return TL_OK;
  s->n_key_heads = d->shard.n_key_heads;
  s->n_value_heads = d->shard.n_value_heads;
  s->key = (uint32_t)cuda_round(r->key_dim, 8);
  s->value = (uint32_t)cuda_round(r->value_dim, 8);
  s->made = s->n_value_heads * s->value;
  s->n_channels = 2 * s->n_key_heads * s->key + s->made;
  cuda_plain_order(&d->key_order, r->key_dim, s->key);
  cuda_plain_order(&d->value_order, r->value_dim, s->value);
  return TL_OK;
}

bool cuda_scans(const struct cuda_op *delta) {
  return delta->from->kind == TL_OP_SCAN;
}

bool cuda_norms_spread_heads(const struct cuda_device *d, const struct cuda_op *op) {
  return op->kind == CUDA_OP_GATED_NORM && op->from->features & TL_F_GATE_FIRST && d->shard.key_ranks > 1;
}

bool cuda_state_may_follow(const struct cuda_op *before, const struct cuda_op *op) {
  switch (op->kind) {
    case CUDA_OP_CONV: return before->kind == CUDA_OP_DELTA_IN;
    case CUDA_OP_DELTA: return before->kind == CUDA_OP_CONV && cuda_scans(op) == (before[-1].gates->weight[2] < 0);
    case CUDA_OP_GATED_NORM: return before->kind == CUDA_OP_DELTA && cuda_scans(before) == !!(op->from->features & TL_F_GATE_FIRST);
    case CUDA_OP_SHORT_CONV: return before->kind == CUDA_OP_SHORT_IN;
    default: return before->kind == CUDA_OP_QKV; /* GATE_IN */
  }
}

void cuda_conv_shape(const struct cuda_device *d, struct cuda_op *op) {
  op->w.k = d->model->recurrence.conv;
  op->w.n = d->dims.n_channels;
  op->w.n_pieces = 1;
  op->w.pieces[0] = (struct cuda_piece){.format = TL_CUDA_W16, .n = op->w.n};
}

size_t cuda_widest_in(const struct cuda_device *d) {
  size_t most = d->dims.qkv;
  for (uint32_t i = 0; i < d->n_plan; i++) {
    const struct cuda_op *op = &d->plan[i];
    if ((op->kind == CUDA_OP_DELTA_IN || op->kind == CUDA_OP_SHORT_IN) && op->w.ld > most) most = op->w.ld;
  }
  return most;
}

size_t cuda_widest_made(const struct cuda_device *d) {
  return d->dims.made > d->dims.attn ? d->dims.made : d->dims.attn;
}

/* --- memory ------------------------------------------------------------------------------------- */

/* S of one layer. */
static size_t s_bytes(const struct cuda_device *d) {
  return (size_t)d->dims.n_value_heads * d->dims.value * d->dims.key * sizeof(float);
}

static size_t kept_bytes(const struct cuda_device *d) {
  return (size_t)(d->model->recurrence.conv - 1) * d->dims.n_channels * 2;
}

size_t cuda_state_bytes(const struct cuda_device *d) {
  const struct tl_recurrence *r = &d->model->recurrence;
  return r->n_layers ? (s_bytes(d) + kept_bytes(d)) * r->n_layers : 0;
}

uint32_t cuda_count_states(const struct cuda_device *d, const struct tl_device_load *load, size_t room, size_t block_bytes, size_t n_least) {
  size_t each = cuda_state_bytes(d), context = block_bytes * n_least;
  if (!each) return 0;
  size_t n = room / 2 / each, most = room > context ? (room - context) / each : 0;
  if (n > most) n = most;
  if (n > load->max_states) n = load->max_states;
  /* no more than blocks take, as whole ones: then who is given what this makes of the room makes the same of it, as a process that follows
   * another has to */
  while (n > 1 && n * each > (room - n * each) / block_bytes * block_bytes) n--;
  return n ? (uint32_t)n : 1;
}

static float *s_of(const struct cuda_device *d, const struct cuda_op *op) {
  return (float *)(void *)(d->states + op->from->layer * d->n_states * s_bytes(d));
}

static char *kept_of(const struct cuda_device *d, const struct cuda_op *op) {
  return d->states + d->model->recurrence.n_layers * d->n_states * s_bytes(d) + op->from->layer * d->n_states * kept_bytes(d);
}

/* --- steps ---------------------------------------------------------------------------------------- */

static int convolve(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  bool gated = op->kind == CUDA_OP_SHORT_CONV;
  struct tl_cuda_conv_args args = {.dtype = d->dtype, .gated = gated, .n_channels = d->dims.n_channels, .conv = op->w.k, .ld = op[-1].w.ld,
                                   .n_tiles = pass->n_conv_tiles, .max_rows = pass->n_tokens, .tiles = d->device.conv_tiles,
                                   .stretches = d->device.stretches, .in = d->work.qkv, .weight = op->w.pieces[0].data,
                                   .bias = op->w.bias, .states = kept_of(d, op), .out = gated ? d->work.a : d->work.u};
  CUDA_TRY(d, d->api->op.conv(&args, d->stream), "a convolution", err);
  return TL_OK;
}

/* Of a row of DELTA_IN's: where z, b and c begin. */
static const char *gates_of(const struct cuda_device *d, uint32_t at) {
  return d->work.qkv + ((size_t)d->dims.n_channels + at) * 2;
}

static int delta(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  const struct cuda_dims *s = &d->dims;
  struct tl_cuda_delta_args args = {.dtype = d->dtype, .turned = (op->from->features & TL_F_TURNED) != 0, .n_key_heads = s->n_key_heads,
                                    .n_value_heads = s->n_value_heads, .key_dim = s->key, .value_dim = s->value,
                                    .scale = 1 / sqrtf((float)d->model->recurrence.key_dim), .ld_gates = op[-2].w.ld,
                                    .n_stretches = pass->n_stretches, .max_rows = pass->n_tokens,
                                    .most_rows = pass->n_long ? TL_CUDA_DELTA_CHUNK - 1 : 0, .stretches = d->device.stretches,
                                    .u = d->work.u, .b = gates_of(d, s->made),
                                    .c = gates_of(d, s->made + (uint32_t)cuda_round(s->n_value_heads, 8)), .a_log = op->weight,
                                    .dt = op->shift, .skip = op->skip, .states = s_of(d, op), .out = d->work.a};
  struct tl_cuda_delta_long_args by_chunks = {.delta = args, .n_chunks = pass->n_chunks, .n_long = pass->n_long, .chunks = d->device.chunks,
                                              .longs = d->device.longs, .matrices = d->work.matrices, .factors = d->work.factors};
  if (pass->n_long) CUDA_TRY(d, d->api->op.delta_long(&by_chunks, d->stream), "the delta rule by chunks", err);
  if (pass->n_long < pass->n_stretches) CUDA_TRY(d, d->api->op.delta(&args, d->stream), "the delta rule", err);
  return TL_OK;
}

static int norm(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  bool gate_first = op->from->features & TL_F_GATE_FIRST;
  uint32_t each = gate_first ? d->dims.n_value_heads / d->dims.n_key_heads : 1; /* value heads that have one rms */
  struct tl_cuda_gated_norm_args args = {.dtype = d->dtype, .gate_first = gate_first, .n = pass->n_tokens, .n_heads = d->dims.n_value_heads / each,
                                         .head_dim = each * d->dims.value, .width = each * d->model->recurrence.value_dim,
                                         .ld_z = op[-3].w.ld, .eps = op->from->eps, .z = gates_of(d, 0), .weight = op->weight, .x = d->work.a};
  if (cuda_norms_spread_heads(d, op)) {
    args.width *= d->shard.key_ranks;
    args.n_groups = d->model->recurrence.n_key_heads;
    args.group = d->shard.first_key_head;
    args.squares = d->work.row_squares;
    args.measures = true;
    CUDA_TRY(d, d->api->op.gated_norm(&args, d->stream), "squares behind a gate", err);
    int r = cuda_sum_floats(d, args.squares, (size_t)args.n * args.n_groups, err);
    if (r < 0) return r;
    args.measures = false;
  }
  CUDA_TRY(d, d->api->op.gated_norm(&args, d->stream), "a norm with a gate", err);
  return TL_OK;
}

static int gate(struct cuda_device *d, const struct cuda_pass *pass, struct tl_error *err) {
  struct tl_cuda_gate_args args = {.dtype = d->dtype, .n = pass->n_tokens, .dim = d->dims.attn, .z = d->work.z, .x = d->work.a};
  CUDA_TRY(d, d->api->op.gate(&args, d->stream), "the gate of attention", err);
  return TL_OK;
}

/* y = h W^T + b, and what adapters add to it. */
static int project(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, const char *h, char *y, struct tl_error *err) {
  int r = cuda_run_product(d, &op->w, op->w.bias, pass->n_tokens, h, y, err);
  return r < 0 || !cuda_adapts(op, pass) ? r : cuda_adapt(d, op, pass, h, y, err);
}

int cuda_keep(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, const char *h, struct tl_error *err) {
  switch (op->kind) {
    case CUDA_OP_DELTA_IN:
    case CUDA_OP_SHORT_IN: return project(d, op, pass, h, d->work.qkv, err);
    case CUDA_OP_GATE_IN: return project(d, op, pass, h, d->work.z, err);
    case CUDA_OP_GATE: return gate(d, pass, err);
    case CUDA_OP_DELTA: return delta(d, op, pass, err);
    case CUDA_OP_GATED_NORM: return norm(d, op, pass, err);
    default: return convolve(d, op, pass, err);
  }
}
