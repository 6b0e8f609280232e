/* SPDX-License-Identifier: MIT */
/* A step's arrays into pinned memory, with the plan of its attention. */
#include <string.h>

#include "device/cuda/cuda_private.h"
#include "device/cuda/ops/cuda_plan.h"

/* Rows of tables as wide as the longest context needs, zeros behind what a shorter one has: cuDNN's kernel may look at
 * any entry, and block 0 always exists. Returns the width. */
static uint32_t stage_tables(struct cuda_device *d, const struct tl_step *step) {
  uint32_t longest = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++)
    if (step->context_len[s] > longest) longest = step->context_len[s];
  uint32_t width = tl_blocks_of(longest);
  for (uint32_t s = 0; s < step->n_seqs; s++) {
    uint32_t *to = d->host->tables + (size_t)s * width, n = tl_blocks_of(step->context_len[s]);
    memcpy(to, step->block_tables + (size_t)s * step->table_stride, n * sizeof *to);
    memset(to + n, 0, (width - n) * sizeof *to);
  }
  return width;
}

void cuda_stage_step(struct cuda_device *d, const struct tl_step *step, const struct tl_cuda_shape *shape, uint32_t n_padded,
                     struct cuda_pass *ret) {
  struct cuda_step_data *h = d->host;
  memcpy(h->tokens, step->tokens, step->n_tokens * sizeof *h->tokens);
  memcpy(h->positions, step->positions, step->n_tokens * sizeof *h->positions);
  memcpy(h->slots, step->slots, step->n_tokens * sizeof *h->slots);
  memcpy(h->rows, step->rows, step->n_rows * sizeof *h->rows);
  for (uint32_t i = step->n_tokens; i < n_padded; i++) {
    h->tokens[i] = -1;
    h->positions[i] = 0;
    h->slots[i] = TL_CUDA_NO_SLOT;
    h->sampling[i].out = NULL;
  }
  struct tl_cuda_packing packing = d->limits.packing;
  for (unsigned i = 0; i < cuda_n_lists(d); i++) {
    packing.chunk = i ? d->chunk : 0;
    tl_cuda_plan_decode(step, packing, i ? d->window : 0, d->limits.n_lanes, h->lists[i].lanes, h->lists[i].items);
  }
  *ret = (struct cuda_pass){.n_tokens = step->n_tokens,
                            .n_rows = step->n_rows,
                            .n_decode = shape->n_decode,
                            .drafts = shape->drafts,
                            .n_tiles = tl_cuda_plan_prefill(step, packing.most_rows, h->tiles),
                            .n_chunk_tiles = d->chunk ? tl_cuda_plan_chunks(step, packing.most_rows, d->chunk, d->limits.table_stride, h->chunk_tiles) : 0,
                            .all_rows = step->n_rows == step->n_tokens,
                            .table_width = stage_tables(d, step)};
  if (d->model->recurrence.n_layers) {
    ret->n_stretches = shape->is_decode ? n_padded : step->n_seqs; /* of a graph as many as of rows, whatever the step has */
    ret->n_conv_tiles = tl_cuda_plan_stretches(step, n_padded, ret->n_stretches, h->stretches, h->conv_tiles);
    if (d->limits.max_chunks) ret->n_chunks = tl_cuda_plan_long(h->stretches, ret->n_stretches, h->chunks, h->longs, &ret->n_long);
  }
  cuda_stage_sdpa(d, step, ret);
  if (step->adapters) cuda_stage_adapters(d, step, n_padded, ret);
}

static void stage_row(const struct tl_sampling *from, const struct cuda_lists *before, struct tl_sampled *out, struct tl_cuda_sampling *to) {
  *to = (struct tl_cuda_sampling){.temperature = from->temperature,
                                  .top_p = from->top_p,
                                  .min_p = from->min_p,
                                  .top_k = from->top_k,
                                  .presence_penalty = from->presence_penalty,
                                  .frequency_penalty = from->frequency_penalty,
                                  .repetition_penalty = from->repetition_penalty,
                                  .target = from->target,
                                  .n_top = from->n_top,
                                  .seed = from->seed,
                                  .position = from->position,
                                  .first_history = before->n_history,
                                  .n_history = from->n_history,
                                  .first_bias = before->n_bias,
                                  .n_bias = from->n_bias,
                                  .mask = from->mask ? before->n_masks + 1 : 0,
                                  .out = out};
}

uint32_t cuda_stage_sampling(struct cuda_device *d, const struct tl_step *step, struct tl_sampled *to, uint32_t row, struct cuda_lists *ret) {
  struct cuda_lists n = {0};
  size_t words = TL_MASK_WORDS(d->dims.vocab);
  for (; row < step->n_rows; row++) {
    const struct tl_sampling *s = &step->sampling[row];
    if (s->n_history > d->limits.max_entries - n.n_history || s->n_bias > d->limits.max_entries - n.n_bias) break;
    if (s->n_history) memcpy(d->host->history + n.n_history, s->history, s->n_history * sizeof *s->history);
    if (s->n_bias) memcpy(d->host->bias + n.n_bias, s->bias, s->n_bias * sizeof *s->bias);
    if (s->mask) memcpy(d->host->masks + n.n_masks * words, s->mask, words * sizeof *s->mask);
    stage_row(s, &n, &to[row], &d->host->sampling[row]);
    n.n_history += s->n_history;
    n.n_bias += s->n_bias;
    n.n_masks += s->mask != NULL;
  }
  *ret = n;
  return row;
}
