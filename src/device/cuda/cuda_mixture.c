/* SPDX-License-Identifier: MIT */
/* Mixtures of experts: which rows an expert has is decided and read on the device, so a graph can hold a layer
 * whatever will be chosen (ops/cuda_experts.h). */
#include "device/cuda/cuda_private.h"

struct tl_op cuda_op_of_expert(const struct tl_op *op, uint32_t expert) {
  struct tl_op one = *op;
  for (int i = 0; i < TL_OP_INPUTS; i++) {
    if (one.weight[i] >= 0) one.weight[i] += (int32_t)expert;
    if (one.bias[i] >= 0) one.bias[i] += (int32_t)expert;
  }
  return one;
}

unsigned cuda_matrices_of_expert(const struct cuda_op *op) {
  return op->kind == CUDA_OP_EXPERTS_UP && !(op->from->features & TL_F_RELU2) ? 2 : 1;
}

uint32_t cuda_expert_row(const struct cuda_device *d, const struct cuda_op *op) {
  return op->from->features & TL_F_LOW_RANK ? d->dims.low : d->dims.dim;
}

/* As long as an expert has no more of the rows on average than a tile of few, weights are what the time goes to. */
static uint32_t tile_entries(const struct tl_op *op, const struct cuda_pass *pass) {
  uint64_t n_choices = (uint64_t)pass->n_tokens * op->n_chosen;
  return n_choices <= (uint64_t)op->n_experts * TL_CUDA_FEW_ENTRIES ? TL_CUDA_FEW_ENTRIES : TL_CUDA_MANY_ENTRIES;
}

/* Of shares. What stands behind the experts may have a factor, by which the norm behind it multiplies their sum, too. */
static float factor_of(const struct cuda_op *op) {
  float factor = op->from->features & TL_F_FACTOR ? op->from->factor : 1;
  const struct tl_op *down = op->row_gate ? op->row_gate + 1 : NULL;
  return down && down->features & TL_F_FACTOR ? factor / down->factor : factor;
}

int cuda_route(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  const struct cuda_work *w = &d->work;
  int r = cuda_run_product(d, &op->w, NULL, pass->n_tokens, w->h, w->scores, err);
  if (r < 0) return r;
  struct tl_cuda_route_args args = {.n = pass->n_tokens, .n_experts = op->from->n_experts, .n_chosen = op->from->n_chosen,
                                    .first_expert = d->shard.first_expert, .n_local = d->shard.n_experts,
                                    .tile_entries = tile_entries(op->from, pass),
                                    .normalized = (op->from->features & TL_F_NORMALIZED) != 0,
                                    .sigmoid = (op->from->features & TL_F_SIGMOID) != 0,
                                    .mixed = (op->from->features & TL_F_MIXED) != 0, .limit = op->from->limit, .n_groups = op->from->n_groups, .n_groups_chosen = op->from->n_groups_chosen,
                                    .choice = (op->from->features & TL_F_CHOICE) != 0, .factor = factor_of(op), .ld = op->w.ld, .scores = w->scores,
                                    .bias = op->w.bias, .tokens = d->device.tokens, .chosen = w->chosen, .shares = w->shares,
                                    .places = w->places, .rows = w->entry_rows, .tiles = w->expert_tiles,
                                    .n_tiles = w->n_expert_tiles};
  CUDA_TRY(d, d->api->op.route(&args, d->stream), "choosing experts", err);
  return TL_OK;
}

/* Their inputs in the order of each expert's weights, by entry. */
static int put_in_order(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_cuda_experts_args *experts,
                        struct tl_error *err) {
  const struct cuda_work *w = &d->work;
  struct tl_cuda_reorder_args args = {.n = pass->n_tokens * op->from->n_chosen, .k = op->w.k, .order = op->w.pieces[0].inputs,
                                      .in = experts->x, .out = w->ordered, .places = w->places, .chosen = w->chosen,
                                      .first_expert = d->shard.first_expert, .n_chosen = experts->rows ? op->from->n_chosen : 0};
  CUDA_TRY(d, d->api->op.reorder(&args, d->stream), "putting experts' inputs in order", err);
  experts->x = w->ordered;
  experts->rows = NULL;
  return TL_OK;
}

/* Rows times their shares, by entry. */
static int share_out(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_cuda_experts_args *experts,
                     struct tl_error *err) {
  const struct cuda_work *w = &d->work;
  struct tl_cuda_reorder_args args = {.dtype = d->dtype, .n = pass->n_tokens * op->from->n_chosen, .k = op->w.k, .in = experts->x,
                                      .out = w->ordered, .places = w->places, .n_chosen = op->from->n_chosen, .shares = w->shares};
  CUDA_TRY(d, d->api->op.reorder(&args, d->stream), "experts' inputs times their shares", err);
  experts->x = w->ordered;
  experts->rows = NULL;
  return TL_OK;
}

static int multiply(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_cuda_experts_args args,
                    struct tl_error *err) {
  args.dtype = d->dtype;
  args.tile_entries = tile_entries(op->from, pass);
  args.max_tiles = tl_cuda_max_expert_tiles(pass->n_tokens * op->from->n_chosen, d->shard.n_experts, args.tile_entries);
  args.n_blocks = d->limits.n_blocks;
  args.k = op->w.k;
  args.tiles = d->work.expert_tiles;
  args.n_tiles = d->work.n_expert_tiles;
  args.format = op->w.pieces[0].format;
  args.weight = op->w.pieces[0].data;
  args.scales = op->w.pieces[0].scales;
  args.bias = op->w.bias;
  int r = op->w.pieces[0].n_orders ? put_in_order(d, op, pass, &args, err) : TL_OK;
  if (r < 0) return r;
  CUDA_TRY(d, d->api->op.experts(&args, d->stream), "products of experts", err);
  return TL_OK;
}

int cuda_experts_up(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  uint32_t features = op->from->features, n_matrices = cuda_matrices_of_expert(op);
  struct tl_cuda_experts_args args = {
      .gate = n_matrices == 1 ? TL_CUDA_EXPERT_PLAIN : features & TL_F_CLAMPED ? TL_CUDA_EXPERT_CLAMPED : TL_CUDA_EXPERT_SILU,
      .relu2 = (features & TL_F_RELU2) != 0, .limit = op->from->limit, .n = op->w.n / d->shard.n_experts / n_matrices, .rows = d->work.entry_rows,
      .x = features & TL_F_LOW_RANK ? d->work.v : d->work.h, .out = d->work.entry_m};
  int r = features & TL_F_SHARE_IN ? share_out(d, op, pass, &args, err) : TL_OK;
  return r < 0 ? r : multiply(d, op, pass, args, err);
}

int cuda_experts_down(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  struct tl_cuda_experts_args args = {.gate = TL_CUDA_EXPERT_PLAIN, .n = cuda_expert_row(d, op), .x = d->work.entry_m, .out = d->work.entry_y};
  int r = multiply(d, op, pass, args, err);
  if (r < 0 || op->route->row_gate) return r; /* then the MLP that all rows have comes first */
  r = cuda_mix(d, op, pass, err);
  return r < 0 || op->from->features & TL_F_LOW_RANK ? r : cuda_all_reduce(d, d->work.delta, (size_t)pass->n_tokens * d->dims.dim, err);
}

int cuda_mix(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  const struct cuda_op *route = op->route;
  const float *gates = d->work.scores + route->from->n_experts;
  bool shared = route[1].from->features & TL_F_SHARE_IN; /* of the experts' first record */
  bool low = op->kind == CUDA_OP_EXPERTS_DOWN && op->from->features & TL_F_LOW_RANK;
  struct tl_cuda_mix_args args = {.dtype = d->dtype, .n = pass->n_tokens, .dim = low ? d->dims.low : d->dims.dim, .n_chosen = route->from->n_chosen,
                                  .places = d->work.places, .shares = shared ? NULL : d->work.shares, .y = d->work.entry_y,
                                  .whole = route->row_gate != NULL,
                                  .gates = cuda_has_gate(route) ? gates : NULL, .ld = route->w.ld, .out = low ? d->work.v : d->work.delta};
  CUDA_TRY(d, d->api->op.mix(&args, d->stream), "the experts' sum", err);
  return TL_OK;
}

int cuda_experts_latent(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  const struct cuda_work *w = &d->work;
  if (op->kind == CUDA_OP_EXPERTS_IN) return cuda_run_product(d, &op->w, NULL, pass->n_tokens, w->h, w->v, err);
  int r = cuda_run_product(d, &op->w, NULL, pass->n_tokens, w->v, w->delta, err); /* of this rank's experts */
  return r < 0 ? r : cuda_all_reduce(d, w->delta, (size_t)pass->n_tokens * d->dims.dim, err);
}
