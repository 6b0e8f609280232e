/* SPDX-License-Identifier: MIT */
/* What one rank of a tensor-parallel group has of a model.
 *
 *   QKV, gate and up    by outputs: whole heads; runs of the MLP's inner row
 *   ATTN_OUT, MLP_DOWN  by inputs, the same heads and runs: each rank has a part of every
 *                       sum, which the ranks then add up; the bias is rank 0's
 *   EXPERTS_*           whole experts: what a tensor of one of them is cut to is all of it, for the rank
 *                       that has the expert; each rank has a part of the sum over the chosen
 *   DELTA_IN, DELTA_GATES, CONV, DELTA, SCAN   by outputs, value heads, which ATTN_OUT of such a layer has as inputs, and their key heads
 *   GATE_IN             by outputs, the query heads
 *   SHORT_IN, SHORT_CONV   by outputs, channels in equal parts; ATTN_OUT of such a layer has them as inputs
 *   LATENT_QUERY        by outputs, whole heads; so is weight[0] of LATENT, but with LOW_RANK
 *   LATENT_ABSORB, LATENT_VALUE   whole heads, each of which has a tensor of its own, as experts have
 *   EMBED, LOGITS       by vocabulary
 *   BESIDE, BESIDE_MIX  whole, on every rank
 *   RMSNORM, GATED_NORM, ROUTE   whole, on every rank, as are the sinks of ATTEND, ROW_GATE, and the rest of LATENT
 *
 * With fewer KV heads than ranks each KV head is on size / n_kv_heads ranks; so are key heads of linear attention, and what is normed of all
 * value heads of such a one (GATE_FIRST) needs a sum over key_ranks ranks. What does not divide
 * evenly (inner row, vocabulary) is cut at multiples of 32, or of the number format's block where that is
 * larger, so that kernels get whole panels; ranks may then differ in size. A slice is rows and columns of
 * a tensor and says nothing of the number format. */
#ifndef TOKENLANE_SLICE_H
#define TOKENLANE_SLICE_H

#include <stdint.h>

#include "tokenlane/base/error.h"
#include "tokenlane/model.h"

#define TL_MAX_RANKS 64

struct tl_shard {
  uint32_t rank, size;                /* 0 and 1: the whole model */
  uint32_t first_head, n_heads;       /* query heads */
  uint32_t first_kv_head, n_kv_heads;
  uint32_t first_wide_kv_head, n_wide_kv_heads; /* of tl_model.wide */
  uint32_t first_ffn, n_ffn;          /* of the MLP's inner row */
  uint32_t ffn_unit;                  /* inner rows are cut at multiples of it, also those of other lengths */
  uint32_t first_expert, n_experts;
  uint32_t n_value_heads;             /* of layers that keep a state: equal parts, that of `rank` begins at rank times it */
  uint32_t n_channels;                /* likewise, but with heads: those of what the rank has of these */
  uint32_t first_key_head, n_key_heads, key_ranks; /* key_ranks: neighbours who have the same ones, the first at a multiple of it */
  uint32_t first_vocab, n_vocab;
};

/* Rows and columns of a tensor of two dimensions, or elements (rows) of one of one. Borrows the tensor. */
struct tl_slice {
  const struct tl_tensor *tensor;
  uint64_t first_row, n_rows, first_column, n_columns; /* n_rows 0: this rank has nothing of it */
};

/* The part of rank `rank` of `size`; also of a model without a plan. TL_EINVAL, field
 * engine.tensor_parallel: it cannot be cut so. Pure. */
int tl_shard_make(const struct tl_model *model, uint32_t rank, uint32_t size, struct tl_shard *ret, struct tl_error *err);
/* Of weight[input] or bias[input] of a record, which must be there. Pure. */
struct tl_slice tl_slice_weight(const struct tl_model *model, const struct tl_shard *shard, const struct tl_op *op,
                                unsigned input);
struct tl_slice tl_slice_bias(const struct tl_model *model, const struct tl_shard *shard, const struct tl_op *op,
                              unsigned input);

#endif
