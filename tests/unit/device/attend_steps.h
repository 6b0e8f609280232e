/* SPDX-License-Identifier: MIT */
/* Steps for tests of attention on fibers. Slots that no token has are NaN, so is what a table must not name. */
#ifndef ATTEND_STEPS_H
#define ATTEND_STEPS_H

#include "op_unit.h"

#include "device/cuda/ops/cuda_e4m3.h"
#include "device/cuda/ops/cuda_plan.h"

enum { MAX_SEQS = 8 };

struct shape {
  int dtype;
  uint32_t n_heads, n_kv_heads, head_dim;
  uint32_t n_blocks; /* thread blocks of decode */
  uint32_t n_seqs;
  uint32_t context[MAX_SEQS], rows[MAX_SEQS];
  uint32_t window, chunk; /* not both */
  float softcap;
  float sink; /* not 0: each head has one about as large */
  bool both;  /* sides; sequences are in the step as a whole */
  uint32_t most_rows; /* all rows are wanted, and of a sequence with up to so many they decode; 0: one */
};

static bool bytes; /* the caches are E4M3: tests run twice, those of shapes that such caches have not come to nothing */

static inline int dtype_of(const struct shape *s) {
  return bytes ? s->dtype + TL_CUDA_BF16_BYTES : s->dtype;
}

static inline bool skips(const struct shape *s) {
  return bytes && (s->head_dim % 16 || s->both);
}

struct step {
  const struct shape *s;
  struct tl_step step;
  uint32_t query_start[MAX_SEQS + 1];
  uint32_t *tables, *rows;
  uint16_t *q, *k, *v, *out;
  float *sinks;
  size_t q_elements, cache_bytes;
};

static inline void keep(const struct step *t, uint16_t *cache, size_t place, float value) {
  if (bytes)
    ((uint8_t *)cache)[place] = tl_cuda_to_e4m3(value);
  else
    cache[place] = op_pack(t->s->dtype, value);
}

static inline double kept(const struct step *t, const uint16_t *cache, size_t place) {
  return bytes ? (double)tl_f8_e4m3_to_f32(((const uint8_t *)cache)[place]) : (double)op_unpack(t->s->dtype, cache[place]);
}

static inline void fill_step(struct step *t, const struct shape *s) {
  uint32_t n_blocks = 3, longest = 1;
  *t = (struct step){.s = s};
  for (uint32_t i = 0; i < s->n_seqs; i++) {
    t->query_start[i + 1] = t->query_start[i] + s->rows[i];
    uint32_t blocks = tl_blocks_of(s->context[i]);
    n_blocks += blocks;
    longest = blocks > longest ? blocks : longest;
  }
  t->tables = op_poisoned((size_t)s->n_seqs * longest * sizeof *t->tables);
  /* blocks in random order, 7 apart in a ring of their number */
  uint32_t *order = op_alloc(n_blocks * sizeof *order), used = 0;
  for (uint32_t i = 0; i < n_blocks; i++) order[i] = i;
  for (uint32_t i = n_blocks - 1; i > 0; i--) {
    uint32_t other = unit_below(&op_random, i + 1), swap = order[i];
    order[i] = order[other];
    order[other] = swap;
  }
  size_t block = (size_t)s->n_kv_heads * TL_BLOCK_TOKENS * s->head_dim;
  t->cache_bytes = n_blocks * block * (bytes ? 1 : 2);
  t->k = op_poisoned(t->cache_bytes);
  t->v = op_poisoned(t->cache_bytes);
  for (uint32_t i = 0; i < s->n_seqs; i++)
    for (uint32_t at = 0; at < s->context[i]; at++) {
      uint32_t *entry = &t->tables[(size_t)i * longest + at / TL_BLOCK_TOKENS];
      if (at % TL_BLOCK_TOKENS == 0) *entry = order[used++];
      for (uint32_t h = 0; h < s->n_kv_heads; h++)
        for (uint32_t d = 0; d < s->head_dim; d++) {
          size_t place = *entry * block + ((size_t)h * TL_BLOCK_TOKENS + at % TL_BLOCK_TOKENS) * s->head_dim + d;
          keep(t, t->k, place, op_number(1));
          keep(t, t->v, place, op_number(1));
        }
    }
  op_free(order);
  t->q_elements = (size_t)t->query_start[s->n_seqs] * s->n_heads * s->head_dim;
  t->q = op_halves(s->dtype, t->q_elements, 4);
  t->out = op_poisoned(t->q_elements * 2);
  t->sinks = op_floats(s->n_heads, 1);
  for (uint32_t h = 0; h < s->n_heads; h++) t->sinks[h] += s->sink;
  t->rows = op_alloc((t->query_start[s->n_seqs] + 1) * sizeof *t->rows);
  for (uint32_t i = 0; i < t->query_start[s->n_seqs]; i++) t->rows[i] = i;
  t->step = (struct tl_step){.n_tokens = t->query_start[s->n_seqs], .n_rows = s->most_rows ? t->query_start[s->n_seqs] : 0, .rows = t->rows,
                             .n_seqs = s->n_seqs, .table_stride = longest,
                             .query_start = t->query_start, .context_len = s->context, .block_tables = t->tables};
}

static inline void free_step(struct step *t) {
  op_free(t->tables);
  op_free(t->rows);
  op_free(t->q);
  op_free(t->k);
  op_free(t->v);
  op_free(t->out);
  op_free(t->sinks);
}

static inline struct tl_cuda_packing packing_of(const struct shape *s) {
  uint32_t most = s->most_rows ? s->most_rows : 1;
  return (struct tl_cuda_packing){most, bytes && s->head_dim > 128 ? 1 : tl_cuda_pack(s->n_heads, s->n_kv_heads, s->head_dim, most), s->chunk};
}

/* heads: what is to be made in the kernel, or NULL. */
static inline void run_decode(const struct step *t, const struct tl_cuda_attention *a, const struct tl_cuda_qkv_args *heads) {
  uint32_t n_lanes = t->s->n_blocks / tl_cuda_head_tiles(a->n_heads, a->n_kv_heads, a->head_dim);
  struct tl_cuda_packing packing = packing_of(t->s);
  uint32_t max_items = tl_cuda_max_items(t->s->n_seqs, t->step.n_rows, packing, n_lanes);
  struct tl_cuda_lane *lanes = op_poisoned(n_lanes * sizeof *lanes);
  struct tl_cuda_item *items = op_poisoned(max_items * sizeof *items);
  tl_cuda_plan_decode(&t->step, packing, t->s->window, n_lanes, lanes, items);
  struct tl_cuda_shape shape = tl_cuda_shape_of(&t->step, packing.most_rows);
  size_t partials = (size_t)tl_cuda_max_parts(packing, n_lanes) * a->n_heads, counters = (size_t)n_lanes * a->n_heads;
  struct tl_cuda_decode_args args = {.a = *a, .n_blocks = t->s->n_blocks, .max_rows = shape.n_decode, .lanes = lanes,
                                     .pack = shape.drafts ? packing.pack : 1,
                                     .items = items,
                                     .partial = op_poisoned(partials * a->head_dim * sizeof(float)),
                                     .partial_scale = op_poisoned(partials * sizeof(uint64_t)),
                                     .arrived = memset(op_alloc(counters * sizeof(uint32_t)), 0, counters * sizeof(uint32_t))};
  if (heads) args.heads = *heads;
  uint16_t *before = NULL;
  for (int again = 0; again < 2; again++) { /* a graph's next replay finds the counters as the first did */
    assert_int_equal(op_run(tl_cuda_decode(&args, NULL)), 0);
    for (size_t i = 0; i < counters; i++) assert_int_equal(args.arrived[i], 0);
    if (before) assert_memory_equal(before, t->out, t->q_elements * 2); /* whichever block was the last */
    if (!before) before = op_copy(t->out, t->q_elements * 2);
    if (UNIT_SLOWDOWN > 1) break;
  }
  op_free(before);
  op_free(lanes);
  op_free(items);
  op_free(args.partial);
  op_free(args.partial_scale);
  op_free(args.arrived);
}

/* The tests with each kind of cache. */
static inline int run_twice(const struct CMUnitTest *tests, size_t n) {
  int failed = _cmocka_run_group_tests("16 bits", tests, n, op_prepare, NULL);
  bytes = true;
  return failed + _cmocka_run_group_tests("bytes", tests, n, op_prepare, NULL);
}

#endif
