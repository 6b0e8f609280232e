/* SPDX-License-Identifier: MIT */
/* Which attention computes the prompts of a step: cuDNN's (cuda_sdpa_plan.c) where that library is, has a plan, and was
 * right and faster on this GPU when the model was loaded (cuda_sdpa_choose.c); our own kernel for all else: windows, soft
 * caps, few rows. An execution that fails is done by our own kernel, and cuDNN is not asked again.
 *
 * A plan is made for up to so many rows of each of n sequences, both powers of two, and used for no less than a quarter of the
 * rows: how long it takes was measured at just that. A step's prompts are cut into runs, each for a plan or for our
 * kernel, so that no plan meets a sequence without rows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/cuda/cuda_private.h"
#include "device/cuda/ops/cuda_plan.h"

bool cuda_sdpa_suits(const struct cuda_op *op) {
  return op->kind == CUDA_OP_ATTEND && (op->from->features & ~TL_F_GROWS) == 0; /* queries have grown by then */
}

static uint32_t rows_of(const struct tl_step *step, uint32_t seq) {
  return step->query_start[seq + 1] - step->query_start[seq];
}

/* 0: they decode. */
static uint32_t rows_of_prompt(const struct cuda_device *d, const struct tl_step *step, uint32_t seq) {
  return tl_cuda_decode_rows(step, seq, d->limits.packing.most_rows) ? 0 : rows_of(step, seq);
}

/* For the sequences from `seq` on; none is a decode. */
static bool fits(const struct cuda_device *d, const struct cuda_sdpa_plan *plan, const struct tl_step *step, uint32_t seq) {
  int64_t sum = 0, n = plan->shape.n_seqs;
  if (n > (int64_t)step->n_seqs - seq) return false;
  for (int64_t i = 0; i < n; i++) {
    uint32_t rows = rows_of_prompt(d, step, seq + (uint32_t)i);
    if (rows == 0 || rows > plan->shape.max_rows) return false;
    sum += rows;
  }
  return CUDA_SDPA_STEP * sum >= n * plan->shape.max_rows;
}

/* The one that takes most of them. */
static const struct cuda_sdpa_plan *find_plan(const struct cuda_device *d, const struct tl_step *step, uint32_t seq) {
  const struct cuda_sdpa *s = &d->sdpa;
  const struct cuda_sdpa_plan *best = NULL;
  for (unsigned i = 0; i < s->n_plans; i++)
    if ((!best || s->plans[i].shape.n_seqs > best->shape.n_seqs) && fits(d, &s->plans[i], step, seq)) best = &s->plans[i];
  return best;
}

void cuda_stage_sdpa(struct cuda_device *d, const struct tl_step *step, struct cuda_pass *pass) {
  struct cuda_sdpa *s = &d->sdpa;
  if (!s->runs) return;
  for (uint32_t i = 0; i < step->n_seqs; i++) {
    d->host->offsets[i] = (int32_t)(step->query_start[i] * d->dims.attn);
    d->host->n_rows[i] = (int32_t)rows_of(step, i);
    d->host->lengths[i] = (int32_t)step->context_len[i];
  }
  d->host->offsets[step->n_seqs] = (int32_t)(step->n_tokens * d->dims.attn);
  uint32_t tile = 0, n;
  for (uint32_t seq = 0; seq < step->n_seqs; seq += n) {
    const struct cuda_sdpa_plan *plan = s->off ? NULL : find_plan(d, step, seq);
    struct cuda_run run = {plan, seq, tile, 0}, *last = pass->n_runs ? &s->runs[pass->n_runs - 1] : NULL;
    n = plan ? (uint32_t)plan->shape.n_seqs : 1;
    for (uint32_t i = seq; i < seq + n; i++)
      run.n_tiles += (rows_of_prompt(d, step, i) + TL_CUDA_TILE_ROWS - 1) / TL_CUDA_TILE_ROWS;
    tile += run.n_tiles;
    if (!plan && last && !last->plan) last->n_tiles += run.n_tiles;
    else if (run.n_tiles) s->runs[pass->n_runs++] = run;
  }
}

/* False: it cannot, now or ever. */
static bool execute(struct cuda_device *d, const struct tl_cuda_attention *a, const struct cuda_run *run) {
  static const float minus_infinity = -INFINITY;
  const uint32_t *table = a->block_tables + (size_t)run->first_seq * a->table_stride;
  const void *const pointers[CUDA_SDPA_IDS] = {
      [CUDA_SDPA_Q] = a->q, [CUDA_SDPA_O] = a->out, [CUDA_SDPA_K] = a->k_cache, [CUDA_SDPA_V] = a->v_cache,
      [CUDA_SDPA_K_TABLE] = table, [CUDA_SDPA_V_TABLE] = table, [CUDA_SDPA_STARTS] = d->device.offsets + run->first_seq,
      [CUDA_SDPA_ROWS] = d->device.n_rows + run->first_seq, [CUDA_SDPA_LENGTHS] = d->device.lengths + run->first_seq,
      [CUDA_SDPA_SCALE] = &a->scale, [CUDA_SDPA_OUTSIDE] = &minus_infinity, [CUDA_SDPA_AFTER] = &minus_infinity};
  if (!d->sdpa.off && cuda_sdpa_execute(&d->api->dnn, d->sdpa.handle, run->plan, pointers, d->work.lt_workspace))
    d->sdpa.off = true;
  return !d->sdpa.off;
}

/* What rows see of their own chunks: each is a sequence of its own (tl_cuda_plan_chunks). */
static int run_chunks(struct cuda_device *d, const struct tl_cuda_attention *a, uint32_t n_tiles, struct tl_error *err) {
  struct tl_cuda_prefill_args args = {.a = *a, .n_tiles = n_tiles, .tiles = d->device.chunk_tiles};
  args.a.table_stride = 1;
  CUDA_TRY(d, d->api->op.prefill(&args, d->stream), "prefill attention of chunks", err);
  return TL_OK;
}

static int run_own(struct cuda_device *d, const struct tl_cuda_attention *a, uint32_t first_tile, uint32_t n_tiles,
                   struct tl_error *err) {
  struct tl_cuda_prefill_args args = {.a = *a, .n_tiles = n_tiles, .tiles = d->device.tiles + first_tile};
  CUDA_TRY(d, d->api->op.prefill(&args, d->stream), "prefill attention", err);
  return TL_OK;
}

int cuda_attend_prompts(struct cuda_device *d, const struct cuda_op *op, const struct tl_cuda_attention *a,
                        const struct cuda_pass *pass, struct tl_error *err) {
  if (op->from->features & TL_F_CHUNKED) return run_chunks(d, a, pass->n_chunk_tiles, err);
  if (!pass->n_runs || !cuda_sdpa_suits(op)) return run_own(d, a, 0, pass->n_tiles, err);
  int r = TL_OK;
  for (uint32_t i = 0; i < pass->n_runs && r == TL_OK; i++) {
    const struct cuda_run *run = &d->sdpa.runs[i];
    if (!run->plan || !execute(d, a, run)) r = run_own(d, a, run->first_tile, run->n_tiles, err);
  }
  return r;
}

void cuda_name_sdpa(const struct cuda_device *d, char *ret, size_t size) {
  unsigned v = d->sdpa.handle ? (unsigned)d->api->dnn.version() : 0;
  if (v) snprintf(ret, size, "cuDNN %u.%u.%u", v / 10000, v / 100 % 100, v % 100);
  else *ret = 0;
}

void cuda_free_sdpa(struct cuda_device *d) {
  struct cuda_sdpa *s = &d->sdpa;
  while (s->n_plans) cuda_sdpa_free(&d->api->dnn, &s->plans[--s->n_plans]);
  if (s->handle) d->api->dnn.destroy(s->handle);
  free(s->runs);
  *s = (struct cuda_sdpa){0};
}
