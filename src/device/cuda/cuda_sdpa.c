/* SPDX-License-Identifier: MIT */
/* Which attention computes the prompts of a step: cuDNN's (cuda_sdpa_plan.c) where that library is, has a plan, and was
 * faster on this GPU when the model was loaded; our own kernel for all else: windows, soft caps, few rows. An execution
 * that fails is done by our own kernel, and cuDNN is not asked again.
 *
 * A plan is made for up to so many rows of each of n sequences, both powers of two, and used for no less than half the
 * rows: how long it takes was measured at just that. A step's prompts are cut into runs, each for a plan or for our
 * kernel, so that no plan meets a sequence without rows. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/cuda/cuda_private.h"

#define MIN_VERSION 91002     /* cudnn-frontend's sdpa_support_surface.h: 9.10.0 and 9.10.1 have bugs there, */
#define MIN_VERSION_8X 91801  /* and before this, ragged offsets are for Hopper and later only */
#define LEAST_ROWS 256        /* the smallest max_rows of a plan */
#define MOST_SEQS 8
#define RUNS 3                /* that are timed, after one that is not */

/* Of a layer whose attention has nothing that the graph lacks. */
static bool is_plain(const struct cuda_op *op) {
  return op->kind == CUDA_OP_ATTEND && op->from->features == 0;
}

static const struct cuda_op *plain_layer(const struct cuda_device *d) {
  for (uint32_t i = 0; i < d->n_plan; i++)
    if (is_plain(&d->plan[i])) return &d->plan[i];
  return NULL;
}

/* --- a step ---------------------------------------------------------------------------------------- */

static uint32_t rows_of(const struct tl_step *step, uint32_t seq) {
  return step->query_start[seq + 1] - step->query_start[seq];
}

/* For the sequences from `seq` on; none is a decode. */
static bool suits(const struct cuda_sdpa_plan *plan, const struct tl_step *step, uint32_t seq) {
  int64_t sum = 0, n = plan->shape.n_seqs;
  if (n > (int64_t)step->n_seqs - seq) return false;
  for (int64_t i = 0; i < n; i++) {
    uint32_t rows = rows_of(step, seq + (uint32_t)i);
    if (rows < 2 || rows > plan->shape.max_rows) return false;
    sum += rows;
  }
  return 2 * sum >= n * plan->shape.max_rows;
}

/* The one that takes most of them. */
static const struct cuda_sdpa_plan *find_plan(const struct cuda_sdpa *s, const struct tl_step *step, uint32_t seq) {
  const struct cuda_sdpa_plan *best = NULL;
  for (unsigned i = 0; i < s->n_plans; i++)
    if ((!best || s->plans[i].shape.n_seqs > best->shape.n_seqs) && suits(&s->plans[i], step, seq)) best = &s->plans[i];
  return best;
}

void cuda_stage_sdpa(struct cuda_device *d, const struct tl_step *step, struct cuda_pass *pass) {
  struct cuda_sdpa *s = &d->sdpa;
  if (!s->runs) return;
  for (uint32_t i = 0; i < step->n_seqs; i++) {
    d->host->starts[i] = (int32_t)(step->query_start[i] * d->dims.attn);
    d->host->n_rows[i] = (int32_t)rows_of(step, i);
    d->host->lengths[i] = (int32_t)step->context_len[i];
  }
  d->host->starts[step->n_seqs] = (int32_t)(step->n_tokens * d->dims.attn);
  uint32_t tile = 0, n;
  for (uint32_t seq = 0; seq < step->n_seqs; seq += n) {
    const struct cuda_sdpa_plan *plan = s->off ? NULL : find_plan(s, step, seq);
    struct cuda_run run = {plan, seq, tile, 0}, *last = pass->n_runs ? &s->runs[pass->n_runs - 1] : NULL;
    n = plan ? (uint32_t)plan->shape.n_seqs : 1;
    for (uint32_t i = seq; i < seq + n; i++)
      if (rows_of(step, i) > 1) run.n_tiles += (rows_of(step, i) + TL_CUDA_TILE_ROWS - 1) / TL_CUDA_TILE_ROWS;
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
      [CUDA_SDPA_K_TABLE] = table, [CUDA_SDPA_V_TABLE] = table, [CUDA_SDPA_STARTS] = d->device.starts + run->first_seq,
      [CUDA_SDPA_ROWS] = d->device.n_rows + run->first_seq, [CUDA_SDPA_LENGTHS] = d->device.lengths + run->first_seq,
      [CUDA_SDPA_SCALE] = &a->scale, [CUDA_SDPA_OUTSIDE] = &minus_infinity, [CUDA_SDPA_AFTER] = &minus_infinity};
  if (!d->sdpa.off && cuda_sdpa_execute(&d->api->dnn, d->sdpa.handle, run->plan, pointers, d->work.lt_workspace))
    d->sdpa.off = true;
  return !d->sdpa.off;
}

static int run_own(struct cuda_device *d, const struct tl_cuda_attention *a, uint32_t first_tile, uint32_t n_tiles,
                   struct tl_error *err) {
  struct tl_cuda_prefill_args args = {.a = *a, .n_tiles = n_tiles, .tiles = d->device.tiles + first_tile};
  CUDA_TRY(d, d->api->op.prefill(&args, d->stream), "prefill attention", err);
  return TL_OK;
}

int cuda_attend_prompts(struct cuda_device *d, const struct cuda_op *op, const struct tl_cuda_attention *a,
                        const struct cuda_pass *pass, struct tl_error *err) {
  if (!pass->n_runs || !is_plain(op)) return run_own(d, a, 0, pass->n_tiles, err);
  int r = TL_OK;
  for (uint32_t i = 0; i < pass->n_runs && r == TL_OK; i++) {
    const struct cuda_run *run = &d->sdpa.runs[i];
    if (!run->plan || !execute(d, a, run)) r = run_own(d, a, run->first_tile, run->n_tiles, err);
  }
  return r;
}

/* --- choosing ------------------------------------------------------------------------------------------ */

struct chooser {
  struct cuda_device *d;
  const struct cuda_op *op;
  void *before, *after; /* events that know the time */
};

/* n_seqs prompts of n_rows tokens on the device, in blocks of their own where there are so many. */
static int stage_prompts(struct cuda_device *d, uint32_t n_seqs, uint32_t n_rows, struct cuda_pass *ret, struct tl_error *err) {
  uint32_t n_blocks = (n_rows + TL_BLOCK_TOKENS - 1) / TL_BLOCK_TOKENS, n_tokens = n_seqs * n_rows;
  uint32_t *none = calloc(n_tokens, sizeof *none), *tables = malloc((size_t)n_seqs * n_blocks * sizeof *tables);
  uint32_t starts[MOST_SEQS + 1], lengths[MOST_SEQS];
  struct tl_step step = {.n_tokens = n_tokens, .n_seqs = n_seqs, .table_stride = n_blocks, .tokens = (int32_t *)none,
                         .positions = none, .slots = none, .query_start = starts, .context_len = lengths,
                         .block_tables = tables, .rows = none};
  int r = none && tables ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (uint32_t i = 0; i <= n_seqs; i++) starts[i] = i * n_rows;
  for (uint32_t i = 0; i < n_seqs; i++) lengths[i] = n_rows;
  for (uint32_t i = 0; r == TL_OK && i < n_seqs * n_blocks; i++) tables[i] = i % d->n_kv_blocks;
  d->host = &d->slots[0].data;
  if (r == TL_OK) cuda_stage_step(d, &step, n_tokens, ret);
  free(none);
  free(tables);
  return r < 0 ? r : cuda_copy_step(d, n_seqs, ret, err);
}

/* The pass with all its prompts by this plan, or by our kernel: NULL. FLT_MAX: it cannot. */
static int time_pass(struct chooser *c, struct cuda_pass *pass, const struct cuda_sdpa_plan *plan, float *ret_ms,
                     struct tl_error *err) {
  struct cuda_device *d = c->d;
  const struct cuda_runtime *rt = &d->api->rt;
  struct tl_cuda_attention a = cuda_attention_of(d, c->op);
  d->sdpa.off = false;
  d->sdpa.runs[0] = (struct cuda_run){plan, 0, 0, pass->n_tiles};
  pass->n_runs = 1;
  int r = cuda_attend_prompts(d, c->op, &a, pass, err);
  if (r < 0) return r;
  CUDA_TRY(d, rt->event_record(c->before, d->stream), "timing attention", err);
  for (int i = 0; i < RUNS && r == TL_OK; i++) r = cuda_attend_prompts(d, c->op, &a, pass, err);
  if (r < 0) return r;
  CUDA_TRY(d, rt->event_record(c->after, d->stream), "timing attention", err);
  CUDA_TRY(d, rt->event_wait(c->after), "timing attention", err);
  CUDA_TRY(d, rt->elapsed(ret_ms, c->before, c->after), "timing attention", err);
  if (d->sdpa.off) *ret_ms = FLT_MAX;
  return TL_OK;
}

/* Keeps the plan behind the last one if it is worth it. */
static int try_plan(struct chooser *c, uint32_t n_seqs, uint32_t max_rows, struct tl_error *err) {
  struct cuda_device *d = c->d;
  struct cuda_sdpa *s = &d->sdpa;
  struct cuda_sdpa_plan *plan = &s->plans[s->n_plans];
  const struct cuda_sdpa_shape shape = {.type = d->dtype == TL_CUDA_F16 ? CUDA_DNN_HALF : CUDA_DNN_BFLOAT16, .n_seqs = n_seqs,
                                        .max_rows = max_rows, .n_heads = d->dims.n_heads, .n_kv_heads = d->dims.n_kv_heads,
                                        .head = d->dims.head, .n_blocks = d->n_kv_blocks, .table_stride = d->limits.table_stride};
  struct cuda_pass pass;
  float own_ms, ms = FLT_MAX;
  int r = TL_OK;
  if (cuda_sdpa_build(&d->api->dnn, s->handle, &shape, plan) == 0 && plan->workspace_bytes <= (int64_t)CUDA_LT_WORKSPACE) {
    r = stage_prompts(d, n_seqs, max_rows / 2, &pass, err);
    if (r == TL_OK) r = time_pass(c, &pass, NULL, &own_ms, err);
    if (r == TL_OK) r = time_pass(c, &pass, plan, &ms, err);
  }
  if (r == TL_OK && ms < own_ms) s->n_plans++;
  else cuda_sdpa_free(&d->api->dnn, plan);
  s->off = false;
  return r;
}

static int try_plans(struct chooser *c, struct tl_error *err) {
  struct cuda_device *d = c->d;
  const struct cuda_limits *l = &d->limits;
  uint32_t most = l->max_tokens < l->max_context ? l->max_tokens : l->max_context;
  int r = TL_OK;
  for (uint32_t n = 1; n <= MOST_SEQS && n <= l->max_seqs; n *= 2)
    for (uint32_t rows = LEAST_ROWS; rows / 2 < most && n * rows / 2 < l->max_tokens; rows *= 2) {
      if (r < 0 || d->sdpa.n_plans == CUDA_SDPA_PLANS) return r;
      r = try_plan(c, n, rows, err);
    }
  return r;
}

static bool open_dnn(struct cuda_device *d) {
  struct cuda_sdpa *s = &d->sdpa;
  struct tl_error ignored;
  /* a row's first element is a 32-bit number */
  if ((uint64_t)d->limits.max_tokens * d->dims.attn > INT32_MAX || d->api->open_dnn(&ignored) < 0) return false;
  if (d->api->dnn.version() < (d->info.major < 9 ? MIN_VERSION_8X : MIN_VERSION)) return false;
  if (d->api->dnn.create(&s->handle) || d->api->dnn.set_stream(s->handle, d->stream)) return false;
  s->runs = calloc(d->limits.max_seqs, sizeof *s->runs);
  return s->runs != NULL;
}

int cuda_make_sdpa(struct cuda_device *d, struct tl_error *err) {
  const struct cuda_runtime *rt = &d->api->rt;
  struct chooser c = {.d = d, .op = plain_layer(d)};
  int r = TL_OK;
  if (c.op && open_dnn(d)) {
    /* cuDNN may look at any entry of a table: the block must exist */
    size_t n = (size_t)d->limits.max_seqs * d->limits.table_stride + CUDA_SDPA_SPARE;
    r = rt->fill(d->device.tables, 0, n * sizeof(uint32_t), d->stream);
    if (r == CUDA_OK) r = rt->timer_new(&c.before);
    if (r == CUDA_OK) r = rt->timer_new(&c.after);
    r = r ? cuda_failed(d, r, "preparing attention by cuDNN", err) : try_plans(&c, err);
    if (c.before) rt->event_free(c.before);
    if (c.after) rt->event_free(c.after);
  }
  if (d->sdpa.n_plans == 0) cuda_free_sdpa(d);
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
