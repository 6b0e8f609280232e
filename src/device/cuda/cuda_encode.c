/* SPDX-License-Identifier: MIT */
/* Models that pool: where the keys of a step's sequences are, and the records that other models do not have. */
#include <string.h>

#include "device/cuda/cuda_private.h"
#include "device/cuda/ops/cuda_plan.h"

/* --- a step ------------------------------------------------------------------------------------ */

uint32_t cuda_n_places(const struct cuda_device *d) {
  return d->limits.max_tokens / TL_BLOCK_TOKENS + d->limits.max_seqs; /* each sequence begins a block of its own */
}

static uint32_t widest_table(const struct tl_step *step) {
  uint32_t longest = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t n = step->query_start[s + 1] - step->query_start[s];
    if (n > longest) longest = n;
  }
  return tl_blocks_of(longest);
}

void cuda_stage_texts(struct cuda_device *d, const struct tl_step *step, struct cuda_pass *ret) {
  struct cuda_step_data *h = d->host;
  uint32_t width = widest_table(step), block = 0;
  memcpy(h->tokens, step->tokens, step->n_tokens * sizeof *h->tokens);
  memcpy(h->positions, step->positions, step->n_tokens * sizeof *h->positions);
  memcpy(h->starts, step->query_start, (step->n_seqs + 1) * sizeof *h->starts);
  if (step->token_types)
    memcpy(h->types, step->token_types, step->n_tokens * sizeof *h->types);
  else
    memset(h->types, 0, step->n_tokens * sizeof *h->types);
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t first = step->query_start[s], n = step->query_start[s + 1] - first;
    for (uint32_t i = 0; i < n; i++) h->slots[first + i] = block * TL_BLOCK_TOKENS + i;
    for (uint32_t i = 0; i * TL_BLOCK_TOKENS < n; i++) h->tables[(size_t)s * width + i] = block++;
  }
  *ret = (struct cuda_pass){.n_tokens = step->n_tokens,
                            .n_rows = step->n_seqs,
                            .n_tiles = tl_cuda_plan_whole(step, h->tiles),
                            .table_width = width};
  if (step->adapters) cuda_stage_adapters(d, step, step->n_tokens, ret);
}

/* --- rows -------------------------------------------------------------------------------------- */

int cuda_place(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  int32_t types = op->place->weight[1];
  struct tl_cuda_place_args args = {.dtype = d->dtype, .n = pass->n_tokens, .dim = d->dims.dim,
                                    .n_types = types < 0 ? 0 : (uint32_t)d->model->tensors[types].shape[0],
                                    .positions = d->device.positions, .types = d->device.types, .place = op->places,
                                    .type = op->types, .x = d->work.delta};
  CUDA_TRY(d, d->api->op.place(&args, d->stream), "embeddings of places", err);
  return TL_OK;
}

int cuda_up(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  int r = cuda_run_product(d, &op->w, NULL, pass->n_tokens, d->work.h, d->work.gate_up, err);
  if (r == TL_OK && cuda_adapts(op, pass)) r = cuda_adapt(d, op, pass, d->work.h, d->work.gate_up, err);
  if (r < 0) return r;
  uint32_t features = op->from->features;
  int gate = features & TL_F_XIELU ? TL_CUDA_XIELU : features & TL_F_RELU ? TL_CUDA_RELU : features & TL_F_RELU2 ? TL_CUDA_RELU2 : features & TL_F_GELU_TANH ? TL_CUDA_GELU : TL_CUDA_GELU_ERF;
  struct tl_cuda_glu_args args = {.dtype = d->dtype, .gate = gate, .alone = 1, .n = pass->n_tokens, .dim = op->w.n,
                                  .gate_up = d->work.gate_up, .bias = op->w.bias, .out = d->work.m,
                                  .curve = {op->from->factor, op->from->limit, op->from->softcap, op->from->eps}};
  CUDA_TRY(d, d->api->op.glu(&args, d->stream), "the MLP's function", err);
  return TL_OK;
}

/* --- vectors ------------------------------------------------------------------------------------- */

static int pooling_of(const struct cuda_device *d) {
  static const int kinds[] = {[TL_POOL_FIRST] = TL_CUDA_POOL_FIRST,         [TL_POOL_LAST] = TL_CUDA_POOL_LAST,
                              [TL_POOL_MAX] = TL_CUDA_POOL_MAX,             [TL_POOL_MEAN] = TL_CUDA_POOL_MEAN,
                              [TL_POOL_MEAN_SQRT] = TL_CUDA_POOL_MEAN_SQRT, [TL_POOL_WEIGHTED] = TL_CUDA_POOL_WEIGHTED};
  return kinds[d->model->pooling];
}

int cuda_pool(struct cuda_device *d, const struct cuda_pass *pass, struct tl_error *err) {
  struct tl_cuda_pool_args args = {.dtype = d->dtype, .pooling = pooling_of(d), .n = pass->n_rows, .dim = d->dims.dim,
                                   .starts = d->device.starts, .rows = d->work.h, .vectors = d->work.vectors, .out = d->work.vectors_t};
  CUDA_TRY(d, d->api->op.pool(&args, d->stream), "pooling", err);
  return TL_OK;
}

int cuda_dense(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  int r = cuda_run_product(d, &op->w, NULL, pass->n_rows, d->work.vectors_t, d->work.vectors, err);
  if (r < 0) return r;
  const struct tl_op *from = op->from, *norm = op->vector_norm;
  struct tl_cuda_vector_args args = {.dtype = d->dtype, .n = pass->n_rows, .dim = op->w.n,
                                     .width = (uint32_t)tl_slice_weight(d->model, &d->shard, from, 0).n_rows,
                                     .function = from->features & TL_F_TANH   ? TL_CUDA_TANH
                                                 : from->features & TL_F_GELU ? TL_CUDA_ERF_GELU
                                                                              : TL_CUDA_IDENTITY,
                                     .eps = norm ? norm->eps : 0, .bias = op->w.bias, .weight = op->weight, .shift = op->shift,
                                     .vectors = d->work.vectors, .out = d->work.vectors_t};
  CUDA_TRY(d, d->api->op.vector(&args, d->stream), "a dense layer's function", err);
  return TL_OK;
}

int cuda_give_vectors(struct cuda_device *d, uint32_t n, float *to, struct tl_error *err) {
  const struct cuda_op *last = &d->plan[d->n_plan - 1];
  uint32_t dim = last->kind == CUDA_OP_DENSE ? last->w.n : d->dims.dim;
  size_t width = d->model->n_out * sizeof *to;
  struct tl_cuda_vector_args args = {.dtype = d->dtype, .n = n, .dim = dim, .width = d->model->n_out, .normalize = 1,
                                     .vectors = d->work.vectors, .out = d->work.vectors_t};
  if (d->model->normalize) CUDA_TRY(d, d->api->op.vector(&args, d->stream), "the vectors' length", err);
  CUDA_TRY(d, d->api->rt.copy_rows(to, width, d->work.vectors, dim * sizeof *to, width, n, d->stream), "copying the vectors", err);
  return TL_OK;
}
