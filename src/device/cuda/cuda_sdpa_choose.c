/* SPDX-License-Identifier: MIT */
/* Which of cuDNN's plans for attention are used: each is tried at load on what a step may hold, beside our own kernel, and
 * kept if its results are the same as far as the number format goes, nothing else was written, and it took less time.
 *
 * What is tried: prompts of odd lengths behind odd prefixes, in blocks in no order, the last ones at the cache's very end, to which
 * more elements may lead than 32 bits count. What no token has is NaN: the rest of
 * each prompt's last block, and all of block 0, which is what the tables name behind a prompt's own blocks. */
#include <math.h>
#include <stdlib.h>

#include "device/cuda/cuda_private.h"
#include "device/cuda/ops/cuda_plan.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/hash.h"

#define MIN_VERSION 91801 /* the first with ragged offsets before Hopper (cudnn-frontend's sdpa_support_surface.h) */
#define LEAST_ROWS 512    /* the smallest max_rows of a plan */
#define LIMIT_NS TL_MS(10000) /* after which no further plan is compiled: what comes later matters less */
#define MOST_SEQS 8
#define RUNS 3            /* that are timed */
#define Q_ROWS 509        /* that differ from one another; a prime, so that blocks do not meet the same ones again */
#define POOL 61           /* blocks of keys and values that prompts share, behind block 0 */
#define GUARD_ROWS 64     /* of the output, behind the last prompt's: a kernel's tile, which must stay as it is */
#define UNTOUCHED 0x5a

struct chooser {
  struct cuda_device *d;
  const struct cuda_op *op;
  void *before, *after;    /* events that know the time */
  uint16_t *own, *by_dnn;  /* pinned, as work.a */
};

/* The prompts of a trial. */
struct trial {
  uint32_t n_seqs, n_tokens;
  struct cuda_pass pass;
};

static const struct cuda_op *suitable_layer(const struct cuda_device *d) {
  for (uint32_t i = 0; i < d->n_plan; i++)
    if (cuda_sdpa_suits(&d->plan[i])) return &d->plan[i];
  return NULL;
}

static size_t row_bytes(const struct cuda_device *d) {
  return (size_t)d->dims.attn * 2;
}

static size_t block_elements(const struct cuda_device *d) {
  return (size_t)d->dims.n_kv_heads * TL_BLOCK_TOKENS * d->dims.head;
}

static int wait(struct chooser *c, struct tl_error *err) {
  const struct cuda_runtime *rt = &c->d->api->rt;
  CUDA_TRY(c->d, rt->event_record(c->after, c->d->stream), "trying attention", err);
  CUDA_TRY(c->d, rt->event_wait(c->after), "trying attention", err);
  return TL_OK;
}

/* --- known data ---------------------------------------------------------------------------------------- */

static void make_numbers(const struct cuda_device *d, uint16_t *to, size_t n, float range, uint64_t seed) {
  for (size_t i = 0; i < n; i++) {
    float x = ((float)(tl_hash_u64(seed + i) >> 40) * 0x1p-23f - 1) * range;
    to[i] = d->dtype == TL_CUDA_F16 ? tl_f32_to_f16(x) : tl_f32_to_bf16(x);
  }
}

/* Rows of queries into all of work.q. */
static int fill_queries(struct chooser *c, struct tl_error *err) {
  struct cuda_device *d = c->d;
  make_numbers(d, c->own, (size_t)(d->limits.max_tokens < Q_ROWS ? d->limits.max_tokens : Q_ROWS) * d->dims.attn, 4, 0);
  for (uint32_t row = 0; row < d->limits.max_tokens; row += Q_ROWS) {
    uint32_t n = d->limits.max_tokens - row < Q_ROWS ? d->limits.max_tokens - row : Q_ROWS;
    CUDA_TRY(d, d->api->rt.copy((char *)d->work.q + row * row_bytes(d), c->own, n * row_bytes(d), d->stream), "trying attention", err);
  }
  return wait(c, err);
}

/* Of K (0) or V (1). */
static char *cache_of(const struct chooser *c, unsigned v) {
  const struct tl_cuda_attention a = cuda_attention_of(c->d, c->op);
  return (char *)(uintptr_t)(v ? a.v_cache : a.k_cache);
}

/* In K and V; the block's tokens from `n` on are nobody's. */
static int fill_block(struct chooser *c, uint32_t block, uint32_t n, struct tl_error *err) {
  struct cuda_device *d = c->d;
  size_t elements = block_elements(d), head = (size_t)TL_BLOCK_TOKENS * d->dims.head;
  int r = TL_OK;
  for (unsigned v = 0; v < 2 && r == TL_OK; v++) {
    make_numbers(d, c->own, elements, 1, (uint64_t)(2 * block + v + 1) << 40);
    for (size_t h = 0; h < d->dims.n_kv_heads; h++)
      for (size_t i = n * d->dims.head; i < head; i++) c->own[h * head + i] = UINT16_MAX; /* NaN */
    CUDA_TRY(d, d->api->rt.copy(cache_of(c, v) + block * elements * 2, c->own, elements * 2, d->stream), "trying attention", err);
    r = wait(c, err);
  }
  return r;
}

/* Of sequence i. */
static uint32_t last_block(const struct cuda_device *d, uint32_t i) {
  return d->n_kv_blocks - 1 - i;
}

static int fill_pool(struct chooser *c, struct tl_error *err) {
  int r = fill_block(c, 0, 0, err);
  for (uint32_t block = 1; block <= POOL && r == TL_OK; block++) r = fill_block(c, block, TL_BLOCK_TOKENS, err);
  return r;
}

/* Nothing of it, NaN above all, may meet a sequence. */
static int clear_caches(struct chooser *c, struct tl_error *err) {
  struct cuda_device *d = c->d;
  size_t block = block_elements(d) * 2;
  for (unsigned v = 0; v < 2; v++) {
    char *cache = cache_of(c, v);
    CUDA_TRY(d, d->api->rt.fill(cache, 0, (1 + POOL) * block, d->stream), "trying attention", err);
    CUDA_TRY(d, d->api->rt.fill(cache + last_block(d, MOST_SEQS - 1) * block, 0, MOST_SEQS * block, d->stream), "trying attention", err);
  }
  return wait(c, err);
}

/* --- a trial ------------------------------------------------------------------------------------------------ */

/* Prompts of a plan, as few rows as it is used for. */
static int stage_trial(struct chooser *c, uint32_t n_seqs, uint32_t max_rows, struct trial *ret, struct tl_error *err) {
  struct cuda_device *d = c->d;
  uint32_t mean = max_rows / CUDA_SDPA_STEP, n_tokens = n_seqs * mean, stride = d->limits.table_stride;
  uint32_t *none = calloc(n_tokens, sizeof *none), *tables = calloc((size_t)n_seqs * stride, sizeof *tables);
  uint32_t starts[MOST_SEQS + 1] = {0}, lengths[MOST_SEQS] = {0};
  struct tl_step step = {.n_tokens = n_tokens, .n_seqs = n_seqs, .table_stride = stride, .tokens = (int32_t *)none,
                         .positions = none, .slots = none, .query_start = starts, .context_len = lengths,
                         .block_tables = tables, .rows = none};
  int r = none && tables ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (uint32_t i = 0; i < n_seqs; i++) {
    uint32_t rows = n_seqs == 1 ? mean : i % 2 ? mean - 11 - i : mean + 12 + i;
    starts[i + 1] = starts[i] + rows;
    lengths[i] = rows + 21 + 40 * i < d->limits.max_context ? rows + 21 + 40 * i : d->limits.max_context;
    uint32_t last = (lengths[i] - 1) / TL_BLOCK_TOKENS;
    for (uint32_t k = 0; r == TL_OK && k <= last; k++)
      tables[(size_t)i * stride + k] = k == last ? last_block(d, i) : 1 + (uint32_t)(tl_hash_u64((uint64_t)i << 32 | k) % POOL);
  }
  *ret = (struct trial){.n_seqs = n_seqs, .n_tokens = n_tokens};
  d->host = &d->slots[0].data;
  const struct tl_cuda_shape prompts = {0, false, false};
  if (r == TL_OK) cuda_stage_step(d, &step, &prompts, n_tokens, &ret->pass);
  free(none);
  free(tables);
  if (r == TL_OK) r = cuda_copy_step(d, n_seqs, &ret->pass, err);
  for (uint32_t i = 0; i < n_seqs && r == TL_OK; i++) r = fill_block(c, last_block(d, i), (lengths[i] - 1) % TL_BLOCK_TOKENS + 1, err);
  return r;
}

/* All prompts by this plan, or by our kernel: NULL. */
static int attend(struct chooser *c, struct trial *t, const struct cuda_sdpa_plan *plan, struct tl_error *err) {
  struct cuda_device *d = c->d;
  const struct tl_cuda_attention a = cuda_attention_of(d, c->op);
  d->sdpa.runs[0] = (struct cuda_run){plan, 0, 0, t->pass.n_tiles};
  t->pass.n_runs = 1;
  return cuda_attend_prompts(d, c->op, &a, &t->pass, err);
}

static uint32_t guarded_rows(const struct chooser *c, const struct trial *t) {
  uint32_t most = c->d->limits.max_tokens;
  return t->n_tokens + GUARD_ROWS < most ? t->n_tokens + GUARD_ROWS : most;
}

static int compute(struct chooser *c, struct trial *t, const struct cuda_sdpa_plan *plan, uint16_t *ret, struct tl_error *err) {
  struct cuda_device *d = c->d;
  size_t bytes = guarded_rows(c, t) * row_bytes(d);
  CUDA_TRY(d, d->api->rt.fill(d->work.a, UNTOUCHED, bytes, d->stream), "trying attention", err);
  int r = attend(c, t, plan, err);
  if (r < 0) return r;
  CUDA_TRY(d, d->api->rt.copy(ret, d->work.a, bytes, d->stream), "trying attention", err);
  return wait(c, err);
}

static bool is_same(const struct chooser *c, const struct trial *t) {
  const struct cuda_device *d = c->d;
  bool is_f16 = d->dtype == TL_CUDA_F16;
  size_t n = (size_t)t->n_tokens * d->dims.attn, guarded = (size_t)guarded_rows(c, t) * d->dims.attn;
  for (size_t i = 0; i < n; i++) { /* means of values between -1 and 1; the kernels' shares of them are rounded, too */
    uint16_t a = c->own[i], b = c->by_dnn[i];
    float off = is_f16 ? tl_f16_to_f32(a) - tl_f16_to_f32(b) : tl_bf16_to_f32(a) - tl_bf16_to_f32(b);
    if (!(fabsf(off) <= (is_f16 ? 0x1p-9f : 0x1p-6f))) return false;
  }
  for (size_t i = n; i < guarded; i++)
    if (c->by_dnn[i] != (UNTOUCHED << 8 | UNTOUCHED)) return false;
  return true;
}

static int measure(struct chooser *c, struct trial *t, const struct cuda_sdpa_plan *plan, float *ret_ms, struct tl_error *err) {
  struct cuda_device *d = c->d;
  const struct cuda_runtime *rt = &d->api->rt;
  int r = TL_OK;
  CUDA_TRY(d, rt->event_record(c->before, d->stream), "timing attention", err);
  for (int i = 0; i < RUNS && r == TL_OK; i++) r = attend(c, t, plan, err);
  if (r == TL_OK) r = wait(c, err);
  if (r < 0) return r;
  CUDA_TRY(d, rt->elapsed(ret_ms, c->before, c->after), "timing attention", err);
  return TL_OK;
}

static int run_trial(struct chooser *c, struct trial *t, const struct cuda_sdpa_plan *plan, bool *ret_use, struct tl_error *err) {
  struct cuda_sdpa *s = &c->d->sdpa;
  float own_ms = 0, ms = 0;
  s->off = false;
  int r = compute(c, t, NULL, c->own, err);
  if (r == TL_OK) r = compute(c, t, plan, c->by_dnn, err);
  if (r < 0 || s->off || !is_same(c, t)) return r;
  r = measure(c, t, NULL, &own_ms, err);
  if (r == TL_OK) r = measure(c, t, plan, &ms, err);
  *ret_use = r == TL_OK && !s->off && ms < own_ms;
  return r;
}

/* --- choosing ------------------------------------------------------------------------------------------------- */

/* Keeps the plan behind the last one if it is worth it. */
static int try_plan(struct chooser *c, uint32_t n_seqs, uint32_t max_rows, struct tl_error *err) {
  struct cuda_device *d = c->d;
  struct cuda_sdpa *s = &d->sdpa;
  struct cuda_sdpa_plan *plan = &s->plans[s->n_plans];
  const struct cuda_sdpa_shape shape = {.type = d->dtype == TL_CUDA_F16 ? CUDA_DNN_HALF : CUDA_DNN_BFLOAT16, .n_seqs = n_seqs,
                                        .max_rows = max_rows, .n_heads = d->dims.n_heads, .n_kv_heads = d->dims.n_kv_heads,
                                        .head = d->dims.head, .n_blocks = d->n_kv_blocks, .table_stride = d->limits.table_stride};
  struct trial t;
  bool use = false;
  int r = TL_OK;
  if (cuda_sdpa_build(&d->api->dnn, s->handle, &shape, plan) == 0 && plan->workspace_bytes <= (int64_t)CUDA_LT_WORKSPACE) {
    r = stage_trial(c, n_seqs, max_rows, &t, err);
    if (r == TL_OK) r = run_trial(c, &t, plan, &use, err);
  }
  if (use) s->n_plans++;
  else cuda_sdpa_free(&d->api->dnn, plan);
  s->off = false;
  return r;
}

static int try_plans(struct chooser *c, struct tl_error *err) {
  struct cuda_device *d = c->d;
  const struct cuda_limits *l = &d->limits;
  uint32_t most = l->max_tokens < l->max_context ? l->max_tokens : l->max_context;
  int64_t end_ns = tl_now_ns() + LIMIT_NS;
  int r = fill_queries(c, err);
  if (r == TL_OK) r = fill_pool(c, err);
  for (uint32_t n = 1; n <= MOST_SEQS && n <= l->max_seqs; n *= 2)
    for (uint32_t mean = LEAST_ROWS / CUDA_SDPA_STEP; mean + (n > 1 ? 12 + n : 0) <= most && n * mean < l->max_tokens; mean *= CUDA_SDPA_STEP)
      if (r == TL_OK && d->sdpa.n_plans < CUDA_SDPA_PLANS && tl_now_ns() < end_ns) r = try_plan(c, n, CUDA_SDPA_STEP * mean, err);
  return r < 0 ? r : clear_caches(c, err);
}

static bool open_dnn(struct cuda_device *d) {
  struct cuda_sdpa *s = &d->sdpa;
  struct tl_error ignored;
  /* a row's first element is a 32-bit number */
  if ((uint64_t)d->limits.max_tokens * d->dims.attn > INT32_MAX || d->n_kv_blocks < 1 + POOL + MOST_SEQS) return false;
  if (d->api->open_dnn(&ignored) < 0 || d->api->dnn.version() < MIN_VERSION) return false;
  if (d->api->dnn.create(&s->handle) || d->api->dnn.set_stream(s->handle, d->stream)) return false;
  s->runs = calloc(d->limits.max_seqs, sizeof *s->runs);
  return s->runs != NULL;
}

/* cuDNN may look at any entry of a table: the block must exist. */
static int prepare(struct chooser *c, struct tl_error *err) {
  struct cuda_device *d = c->d;
  const struct cuda_runtime *rt = &d->api->rt;
  size_t entries = (size_t)d->limits.max_seqs * d->limits.table_stride + CUDA_SDPA_SPARE;
  size_t rows = d->limits.max_tokens * row_bytes(d), block = block_elements(d) * 2, bytes = rows > block ? rows : block;
  CUDA_TRY(d, rt->fill(d->device.tables, 0, entries * sizeof(uint32_t), d->stream), "trying attention", err);
  CUDA_TRY(d, rt->timer_new(&c->before), "trying attention", err);
  CUDA_TRY(d, rt->timer_new(&c->after), "trying attention", err);
  CUDA_TRY(d, rt->alloc_host((void **)&c->own, bytes), "trying attention", err);
  CUDA_TRY(d, rt->alloc_host((void **)&c->by_dnn, bytes), "trying attention", err);
  return TL_OK;
}

int cuda_make_sdpa(struct cuda_device *d, struct tl_error *err) {
  const struct cuda_runtime *rt = &d->api->rt;
  struct chooser c = {.d = d, .op = suitable_layer(d)};
  int r = TL_OK;
  if (c.op && open_dnn(d)) {
    r = prepare(&c, err);
    if (r == TL_OK) r = try_plans(&c, err);
    if (c.before) rt->event_free(c.before);
    if (c.after) rt->event_free(c.after);
    if (c.own) rt->free_host(c.own);
    if (c.by_dnn) rt->free_host(c.by_dnn);
  }
  if (d->sdpa.n_plans == 0) cuda_free_sdpa(d);
  return r;
}
