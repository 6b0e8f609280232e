/* SPDX-License-Identifier: MIT */
/* Paged attention on fibers, decode and prefill as one step has them, against softmax in double. */
#include "attend_steps.h"

/* Out of row `row` of sequence seq, which sees the keys [first, n_keys). */
static void check_head(const struct step *t, uint32_t seq, uint32_t row, uint32_t head, uint32_t first, uint32_t n_keys, float scale) {
  const struct shape *s = t->s;
  uint32_t kv_head = head / (s->n_heads / s->n_kv_heads), dim = s->head_dim;
  const uint32_t *table = t->tables + (size_t)seq * t->step.table_stride;
  const uint16_t *q = t->q + ((size_t)row * s->n_heads + head) * dim, *out = t->out + (q - t->q);
  double *weights = op_alloc(n_keys * sizeof *weights), max = -INFINITY, sum = 0, mean[TL_CUDA_MAX_HEAD_DIM] = {0};
  for (uint32_t at = first; at < n_keys; at++) {
    size_t place = (((size_t)table[at / 16] * s->n_kv_heads + kv_head) * 16 + at % 16) * dim;
    weights[at] = 0;
    for (uint32_t d = 0; d < dim; d++)
      weights[at] += (double)op_unpack(s->dtype, q[d]) * kept(t, t->k, place + d) * scale;
    if (s->softcap != 0) weights[at] = (double)s->softcap * tanh(weights[at] / (double)s->softcap);
    max = weights[at] > max ? weights[at] : max;
  }
  for (uint32_t at = first; at < n_keys; at++) {
    size_t place = (((size_t)table[at / 16] * s->n_kv_heads + kv_head) * 16 + at % 16) * dim;
    double weight = exp(weights[at] - max);
    sum += weight;
    for (uint32_t d = 0; d < dim; d++) mean[d] += weight * kept(t, t->v, place + d);
  }
  if (s->sink != 0) sum += exp((double)t->sinks[head] - max);
  /* weights are rounded once, and what comes out: half a unit in the last place each, which above a power of two are two roundings */
  for (uint32_t d = 0; d < dim; d++) op_assert_near(s->dtype, op_unpack(s->dtype, out[d]), mean[d] / sum, 0.5, 2);
  op_free(weights);
}

static void check(const struct shape *s) {
  struct step t;
  if (skips(s)) return;
  fill_step(&t, s);
  struct tl_cuda_attention a = {.dtype = dtype_of(s), .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads,
                                .head_dim = s->head_dim, .scale = 1 / sqrtf((float)s->head_dim), .softcap = s->softcap, .window = s->window,
                                .both_sides = s->both,
                                .sinks = s->sink != 0 ? t.sinks : NULL, .q = t.q, .out = t.out,
                                .k_cache = t.k, .v_cache = t.v, .block_tables = t.tables,
                                .table_stride = t.step.table_stride};
  if (!s->both) run_decode(&t, &a, NULL);
  uint32_t max_tiles = s->chunk ? tl_cuda_max_chunk_tiles(t.step.n_tokens, s->n_seqs, s->chunk) : tl_cuda_max_tiles(t.step.n_tokens, s->n_seqs);
  struct tl_cuda_tile *tiles = op_poisoned(max_tiles * sizeof *tiles);
  struct tl_cuda_prefill_args prefill = {.a = a, .tiles = tiles,
                                         .n_tiles = s->both    ? tl_cuda_plan_whole(&t.step, tiles)
                                                    : s->chunk ? tl_cuda_plan_chunks(&t.step, packing_of(s).most_rows, s->chunk, a.table_stride, tiles)
                                                               : tl_cuda_plan_prefill(&t.step, packing_of(s).most_rows, tiles)};
  if (s->chunk) prefill.a.table_stride = 1;
  assert_int_equal(op_run(tl_cuda_prefill(&prefill, NULL)), 0);
  for (uint32_t seq = 0; seq < s->n_seqs; seq++)
    for (uint32_t i = 0; i < s->rows[seq]; i++) {
      uint32_t own = s->context[seq] - s->rows[seq] + i, window = s->window ? s->window : s->context[seq], ahead = s->both ? window : 1;
      uint32_t end = s->context[seq] - own < ahead ? s->context[seq] : own + ahead;
      uint32_t first = s->chunk ? own / s->chunk * s->chunk : own < window ? 0 : own - window + 1;
      for (uint32_t head = 0; head < s->n_heads; head++) check_head(&t, seq, t.query_start[seq] + i, head, first, end, a.scale);
    }
  op_free(tiles);
  free_step(&t);
}

static void test_decode(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_F16, 4, 1, 64, 3, 4, {1, 16, 17, 133}, .rows = {1, 1, 1, 1}},
      {TL_CUDA_F16, 8, 2, 128, 16, 3, {700, 3, 64}, .rows = {1, 1, 1}},
      {TL_CUDA_BF16, 8, 1, 128, 8, 2, {129, 65}, .rows = {1, 1}},
      {TL_CUDA_F16, 3, 3, 64, 12, 2, {250, 80}, .rows = {1, 1}},
      {TL_CUDA_F16, 16, 1, 128, 4, 2, {200, 15}, .rows = {1, 1}},  /* the wide tile */
      {TL_CUDA_BF16, 24, 2, 64, 6, 2, {75, 31}, .rows = {1, 1}},   /* 12 heads a group */
      {TL_CUDA_F16, 40, 2, 64, 5, 2, {90, 1}, .rows = {1, 1}},     /* 20: two tiles */
      {TL_CUDA_F16, 7, 1, 128, 2, 1, {48}, .rows = {1}},
      {TL_CUDA_F16, 2, 1, 64, 12, 1, {700}, .rows = {1}},               /* 11 parts: more than are merged at a time */
      {TL_CUDA_BF16, 2, 1, 64, 1, 3, {700, 5, 90}, .rows = {1, 1, 1}},  /* one lane: its ring goes round, from item to item */
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(&shapes[i]);
}

static void test_prefill(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_F16, 4, 2, 64, 2, 3, {2, 64, 65}, .rows = {2, 64, 65}},
      {TL_CUDA_F16, 2, 1, 128, 2, 2, {150, 33}, .rows = {150, 33}},
      {TL_CUDA_BF16, 2, 2, 128, 2, 2, {17, 129}, .rows = {17, 100}},
      {TL_CUDA_F16, 3, 1, 64, 2, 3, {200, 128, 300}, .rows = {3, 64, 70}}, /* prefixes in the cache */
      {TL_CUDA_F16, 1, 1, 64, 2, 3, {70, 127, 140}, .rows = {8, 3, 14}},   /* the diagonal near a tile's edge */
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(&shapes[i]);
}

static void test_both_in_a_step(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_F16, 4, 1, 64, 4, 5, {100, 40, 1, 77, 20}, .rows = {1, 40, 1, 5, 2}},
      {TL_CUDA_BF16, 4, 2, 128, 9, 4, {50, 200, 66, 31}, .rows = {50, 1, 1, 31}},
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(&shapes[i]);
}

/* Each kernel with heads of its own size, and with the smallest and largest of those that it pads. */
static void test_other_head_sizes(void **state) {
  (void)state;
  const struct {
    uint32_t dim, n_heads, n_kv_heads;
  } cases[] = {{8, 6, 2}, {32, 9, 1}, {72, 2, 2}, {80, 3, 1}, {96, 10, 1}, {112, 4, 2}, {136, 2, 1}, {192, 4, 4}, {256, 9, 1}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    const struct shape s = {op_dtypes[i % 2], cases[i].n_heads, cases[i].n_kv_heads, cases[i].dim, 8, 4, {40, 130, 9, 67},
                            .rows = {1, 1, 9, 3}, .window = i % 3 ? 0 : 37, .sink = i % 2 ? 2 : 0.0f};
    check(&s);
  }
}

/* Windows that end within a block, a tile, before the context's beginning; rows of a tile whose first keys nobody sees. */
static void test_windows(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_F16, 4, 1, 64, 3, 4, {300, 16, 17, 133}, .rows = {1, 1, 1, 1}, .window = 21},
      {TL_CUDA_BF16, 8, 2, 128, 16, 3, {700, 3, 64}, .rows = {1, 1, 1}, .window = 130},
      {TL_CUDA_F16, 16, 1, 64, 4, 2, {200, 15}, .rows = {1, 1}, .window = 1},
      {TL_CUDA_F16, 3, 3, 48, 9, 3, {250, 80, 100}, .rows = {1, 1, 70}, .window = 33},
      {TL_CUDA_F16, 2, 1, 64, 2, 3, {300, 200, 65}, .rows = {130, 64, 65}, .window = 5},
      {TL_CUDA_BF16, 2, 1, 128, 2, 2, {290, 140}, .rows = {70, 140}, .window = 64},
      {TL_CUDA_F16, 2, 2, 64, 4, 3, {190, 90, 140}, .rows = {190, 1, 30}, .window = 1000},
      {TL_CUDA_F16, 2, 2, 64, 4, 2, {190, 90}, .rows = {100, 1}, .window = 1},
      {TL_CUDA_F16, 2, 1, 64, 4, 5, {190, 96, 97, 200, 32}, .rows = {100, 1, 1, 200, 32}, .chunk = 32}, /* tiles' and blocks' edges among a chunk's */
      {TL_CUDA_BF16, 4, 2, 128, 9, 4, {300, 224, 113, 290}, .rows = {130, 3, 1, 1}, .chunk = 112},
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(&shapes[i]);
}

/* Sequences as a whole whose rows see the keys behind them, too: one row, tiles' edges, windows within and beyond a tile. */
static void test_both_sides(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_F16, 4, 2, 64, 2, 4, {1, 64, 65, 130}, .rows = {1, 64, 65, 130}, .both = true},
      {TL_CUDA_BF16, 2, 2, 128, 2, 2, {150, 17}, .rows = {150, 17}, .both = true},
      {TL_CUDA_F16, 1, 1, 64, 2, 2, {63, 129}, .rows = {63, 129}, .window = 1, .both = true},
      {TL_CUDA_BF16, 1, 1, 64, 2, 2, {250, 70}, .rows = {250, 70}, .window = 33, .both = true},
      {TL_CUDA_F16, 1, 1, 64, 2, 2, {190, 128}, .rows = {190, 128}, .window = 100, .both = true},
      {TL_CUDA_F16, 1, 1, 128, 2, 2, {190, 90}, .rows = {190, 90}, .window = 64, .both = true},
      {TL_CUDA_F16, 1, 1, 64, 2, 1, {140}, .rows = {140}, .window = 1000, .both = true},
      {TL_CUDA_F16, 3, 1, 48, 2, 3, {70, 9, 1}, .rows = {70, 9, 1}, .both = true},
      {TL_CUDA_BF16, 2, 2, 16, 2, 2, {100, 30}, .rows = {100, 30}, .window = 21, .both = true},
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(&shapes[i]);
}

/* Guesses behind a last token: as many rows in a tile as there is room for, those that see nothing of a block, of a warp's, of an item,
 * sequences of more rows than a tile has, single rows and pieces of prompts beside them. */
static void test_drafts(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_F16, 4, 1, 64, 3, 4, {4, 16, 18, 133}, .rows = {4, 2, 3, 4}, .most_rows = 4},
      {TL_CUDA_BF16, 8, 2, 128, 16, 3, {700, 5, 64}, .rows = {4, 5, 1}, .most_rows = 5},
      {TL_CUDA_F16, 8, 1, 128, 8, 2, {129, 66}, .rows = {9, 3}, .most_rows = 9},          /* five tiles, a token in each one's last block */
      {TL_CUDA_F16, 2, 2, 64, 12, 2, {250, 80}, .rows = {16, 7}, .most_rows = 16},        /* 16 rows of one head */
      {TL_CUDA_BF16, 10, 2, 64, 4, 2, {131, 15}, .rows = {3, 8}, .most_rows = 8},         /* the tile's last row is nobody's */
      {TL_CUDA_F16, 16, 1, 128, 4, 2, {200, 15}, .rows = {4, 2}, .most_rows = 4},         /* no room: a tile a row */
      {TL_CUDA_BF16, 20, 1, 64, 6, 2, {75, 31}, .rows = {2, 3}, .most_rows = 4},          /* two tiles a row */
      {TL_CUDA_BF16, 4, 1, 256, 6, 2, {75, 131}, .rows = {2, 5}, .most_rows = 5},
      {TL_CUDA_F16, 2, 1, 80, 5, 3, {48, 65, 300}, .rows = {5, 1, 3}, .most_rows = 5},
      {TL_CUDA_F16, 2, 1, 64, 40, 1, {1201}, .rows = {6}, .most_rows = 6},                /* 19 parts, of whose last most rows see nothing */
      {TL_CUDA_F16, 4, 1, 64, 1, 3, {700, 7, 90}, .rows = {7, 7, 7}, .most_rows = 7},     /* one lane */
      {TL_CUDA_F16, 4, 2, 64, 8, 4, {190, 90, 140, 77}, .rows = {3, 90, 40, 1}, .most_rows = 8}, /* beside prompts */
      {TL_CUDA_F16, 4, 1, 64, 3, 3, {300, 17, 133}, .rows = {4, 4, 3}, .window = 18, .most_rows = 4},
      {TL_CUDA_BF16, 2, 1, 64, 4, 2, {300, 40}, .rows = {8, 8}, .window = 3, .most_rows = 8}, /* rows that share no token */
      {TL_CUDA_BF16, 2, 1, 64, 4, 2, {307, 9}, .rows = {8, 8}, .window = 1, .most_rows = 8},
      {TL_CUDA_F16, 2, 1, 128, 7, 2, {290, 19}, .rows = {8, 8}, .window = 64, .softcap = 20, .sink = 1, .most_rows = 8},
      {TL_CUDA_F16, 4, 1, 64, 5, 2, {130, 66}, .rows = {4, 4}, .sink = 3, .most_rows = 4},
      {TL_CUDA_F16, 2, 1, 64, 4, 5, {34, 16, 17, 150, 40}, .rows = {7, 8, 8, 1, 30}, .chunk = 16, .most_rows = 8}, /* rows of two chunks */
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(&shapes[i]);
  for (int i = 0; i < 60 / UNIT_SLOWDOWN; i++) {
    const uint32_t dims[] = {64, 128, 48, 192}, groups[] = {1, 2, 3, 4, 5, 7, 8, 9};
    struct shape s = {.dtype = op_dtypes[i % 2], .n_kv_heads = 1 + unit_below(&op_random, 3), .most_rows = 2 + unit_below(&op_random, 15),
                      .head_dim = dims[unit_below(&op_random, 4)], .n_seqs = 1 + unit_below(&op_random, 4)};
    s.n_heads = s.n_kv_heads * groups[unit_below(&op_random, UNIT_COUNT(groups))];
    s.n_blocks = tl_cuda_head_tiles(s.n_heads, s.n_kv_heads, s.head_dim) * (1 + unit_below(&op_random, 8));
    s.window = unit_below(&op_random, 3) ? 0 : 1 + unit_below(&op_random, 60);
    for (uint32_t k = 0; k < s.n_seqs; k++) {
      s.context[k] = 1 + unit_below(&op_random, 220);
      s.rows[k] = 1 + unit_below(&op_random, s.context[k] < s.most_rows + 2 ? s.context[k] : s.most_rows + 2);
    }
    check(&s);
  }
}

/* Rows that share a tile come to the same, to the bit, as each alone, where what they see is in one piece, and begins with a block that
 * all of them see. */
static void check_alone(const struct shape *s) {
  struct step t;
  if (skips(s)) return;
  fill_step(&t, s);
  struct tl_cuda_attention a = {.dtype = dtype_of(s), .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim,
                                .scale = 1 / sqrtf((float)s->head_dim), .softcap = s->softcap, .window = s->window, .q = t.q, .out = t.out,
                                .k_cache = t.k, .v_cache = t.v, .block_tables = t.tables, .table_stride = t.step.table_stride};
  run_decode(&t, &a, NULL);
  uint16_t *together = op_copy(t.out, t.q_elements * 2);
  size_t row = (size_t)s->n_heads * s->head_dim;
  for (uint32_t i = 0; i < s->rows[0]; i++) {
    struct shape one = *s;
    struct step alone = t;
    one.context[0] = s->context[0] - s->rows[0] + i + 1;
    one.rows[0] = 1;
    alone.s = &one;
    alone.step.n_tokens = alone.step.n_rows = alone.query_start[1] = 1;
    alone.step.query_start = alone.query_start;
    alone.step.context_len = one.context;
    a.q = t.q + i * row;
    a.out = alone.out = t.out + i * row;
    alone.q_elements = row;
    run_decode(&alone, &a, NULL);
#ifdef OP_ON_GPU /* whether it sums both kinds of tiles alike is the GPU's to say */
    if (memcmp(alone.out, together + i * row, row * 2)) print_message("row %u of %u, %u heads of %u: not to the bit\n", i, s->rows[0], s->n_heads, s->head_dim);
#else
    assert_memory_equal(alone.out, together + i * row, row * 2);
#endif
  }
  op_free(together);
  free_step(&t);
}

static void test_drafts_to_the_bit(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_F16, 4, 1, 64, 1, 1, {300}, .rows = {4}, .most_rows = 4},
      {TL_CUDA_BF16, 4, 1, 128, 1, 1, {131}, .rows = {7}, .most_rows = 7},
      {TL_CUDA_BF16, 8, 1, 128, 1, 1, {70}, .rows = {2}, .most_rows = 2},
      {TL_CUDA_F16, 1, 1, 256, 1, 1, {90}, .rows = {5}, .most_rows = 5},
      {TL_CUDA_F16, 10, 1, 64, 1, 1, {90}, .rows = {3}, .most_rows = 3},
      {TL_CUDA_F16, 2, 1, 64, 1, 1, {205}, .rows = {4}, .most_rows = 4, .window = 100, .softcap = 20},
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check_alone(&shapes[i]);
}

static void test_softcaps(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_F16, 4, 2, 64, 4, 3, {130, 40, 77}, .rows = {1, 40, 5}, .softcap = 2},
      {TL_CUDA_BF16, 4, 1, 128, 4, 3, {90, 66, 31}, .rows = {1, 66, 1}, .softcap = 50, .window = 40},
      {TL_CUDA_F16, 2, 1, 80, 4, 2, {50, 20}, .rows = {1, 20}, .softcap = 0.5f},
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(&shapes[i]);
}

/* Sinks above, among and far below the scores; those of items that are merged count once. */
static void test_sinks(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_F16, 8, 2, 64, 16, 4, {300, 16, 1, 133}, .rows = {1, 1, 1, 1}, .sink = 2},
      {TL_CUDA_BF16, 16, 1, 64, 3, 3, {200, 40, 77}, .rows = {1, 40, 5}, .sink = 4, .window = 21},
      {TL_CUDA_F16, 4, 1, 128, 4, 2, {190, 90}, .rows = {100, 1}, .sink = -30},
      {TL_CUDA_F16, 2, 1, 64, 4, 2, {30, 9}, .rows = {9, 1}, .sink = 300}, /* all weight is the sink's */
      {TL_CUDA_BF16, 6, 2, 72, 5, 4, {40, 130, 9, 67}, .rows = {1, 1, 9, 3}, .sink = 3},
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(&shapes[i]);
}

/* Whatever a step may hold. */
static void test_random_steps(void **state) {
  (void)state;
  for (int i = 0; i < 40 / UNIT_SLOWDOWN; i++) {
    const uint32_t dims[] = {64, 128, 64, 48}, groups[] = {1, 2, 4, 5, 8, 9, 16};
    struct shape s = {.dtype = op_dtypes[i % 2], .n_kv_heads = 1 + unit_below(&op_random, 3),
                      .head_dim = dims[unit_below(&op_random, 4)], .n_seqs = 1 + unit_below(&op_random, 4)};
    s.n_heads = s.n_kv_heads * groups[unit_below(&op_random, UNIT_COUNT(groups))];
    s.n_blocks = tl_cuda_head_tiles(s.n_heads, s.n_kv_heads, s.head_dim) + unit_below(&op_random, 20);
    for (uint32_t k = 0; k < s.n_seqs; k++) {
      s.context[k] = 1 + unit_below(&op_random, 220);
      s.window = unit_below(&op_random, 3) ? 0 : 1 + unit_below(&op_random, 100);
      s.rows[k] = unit_below(&op_random, 2) ? 1 : 1 + unit_below(&op_random, s.context[k] < 70 ? s.context[k] : 70);
    }
    check(&s);
  }
}

/* A NaN among the values that a row sees makes its head's element NaN, with decode and with prefill. */
static void test_broken(void **state) {
  (void)state;
  const struct shape shapes[] = {{TL_CUDA_BF16, 2, 1, 64, 2, 2, {70, 65}, .rows = {1, 65}}, {TL_CUDA_F16, 2, 1, 128, 2, 2, {40, 30}, .rows = {1, 30}},
                                 {TL_CUDA_F16, 1, 1, 256, 2, 2, {40, 30}, .rows = {1, 30}}};
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) {
    const struct shape *s = &shapes[i];
    struct step t;
    fill_step(&t, s);
    for (uint32_t seq = 0; seq < 2; seq++) keep(&t, t.v, ((size_t)t.tables[seq * t.step.table_stride + 1] * 16 + 3) * s->head_dim + 21, NAN); /* token 19 */
    struct tl_cuda_tile *tiles = op_poisoned(tl_cuda_max_tiles(t.step.n_tokens, 2) * sizeof *tiles);
    struct tl_cuda_attention a = {.dtype = dtype_of(s), .n_heads = s->n_heads, .n_kv_heads = 1, .head_dim = s->head_dim, .scale = 0.1f, .q = t.q,
                                  .out = t.out, .k_cache = t.k, .v_cache = t.v, .block_tables = t.tables, .table_stride = t.step.table_stride};
    run_decode(&t, &a, NULL);
    struct tl_cuda_prefill_args prefill = {.a = a, .tiles = tiles, .n_tiles = tl_cuda_plan_prefill(&t.step, 1, tiles)};
    assert_int_equal(op_run(tl_cuda_prefill(&prefill, NULL)), 0);
    for (uint32_t row = 0; row < t.step.n_tokens; row++)
      for (uint32_t d = 0; d < s->n_heads * s->head_dim; d++)
        if (d % s->head_dim == 21 && (row == 0 || row > 19)) assert_true(isnan(op_unpack(s->dtype, t.out[(size_t)row * s->n_heads * s->head_dim + d])));
    op_free(tiles);
    free_step(&t);
  }
}

/* The grid outlives the work: blocks without any, sequences without a merge. */
static void test_no_work(void **state) {
  (void)state;
  const struct tl_cuda_lane nothing[3] = {{.end = 0}};
  struct tl_cuda_lane *lanes = op_copy(nothing, sizeof nothing);
  struct tl_cuda_decode_args args = {.a = {.n_heads = 2, .n_kv_heads = 1, .head_dim = 64}, .n_blocks = 3, .max_rows = 4,
                                     .lanes = lanes};
  assert_int_equal(op_run(tl_cuda_decode(&args, NULL)), 0);
  args.a.head_dim = 72;
  assert_int_equal(op_run(tl_cuda_decode(&args, NULL)), 0);
  struct tl_cuda_prefill_args prefill = {.a = args.a, .n_tiles = 0};
  assert_int_equal(op_run(tl_cuda_prefill(&prefill, NULL)), 0);
  op_free(lanes);
}

static void test_refused_shapes(void **state) {
  (void)state;
  const struct tl_cuda_attention bad[] = {
      {.n_heads = 3, .n_kv_heads = 2, .head_dim = 64},
      {.n_heads = 2, .n_kv_heads = 0, .head_dim = 64},
      {.n_heads = 2, .n_kv_heads = 1, .head_dim = 60},
      {.n_heads = 2, .n_kv_heads = 1, .head_dim = 264},
  };
  for (unsigned i = 0; i < UNIT_COUNT(bad); i++) {
    assert_int_equal(tl_cuda_decode(&(struct tl_cuda_decode_args){.a = bad[i], .n_blocks = 4, .max_rows = 1}, NULL), 1);
    assert_int_equal(tl_cuda_prefill(&(struct tl_cuda_prefill_args){.a = bad[i], .n_tiles = 1}, NULL), 1);
  }
  const struct tl_cuda_decode_args whole_rows = {.a = {.n_heads = 2, .n_kv_heads = 1, .head_dim = 64}, .n_blocks = 1, .max_rows = 1,
                                                 .heads = {.qkv = state, .row_squares = (const float *)state}};
  assert_int_equal(tl_cuda_decode(&whole_rows, NULL), 1);
  const struct tl_cuda_decode_args packed[] = { /* heads that the kernel makes, and of more rows than a tile has room for; norms behind rotations */
      {.a = {.n_heads = 2, .n_kv_heads = 1, .head_dim = 64}, .n_blocks = 1, .max_rows = 2, .pack = 1, .heads = {.qkv = state, .norm_last = 1}},
      {.a = {.n_heads = 2, .n_kv_heads = 1, .head_dim = 64}, .n_blocks = 1, .max_rows = 2, .pack = 2, .heads = {.qkv = state}},
      {.a = {.n_heads = 4, .n_kv_heads = 1, .head_dim = 64}, .n_blocks = 1, .max_rows = 5, .pack = 5},
      {.a = {.n_heads = 4, .n_kv_heads = 1, .head_dim = 136}, .n_blocks = 1, .max_rows = 3, .pack = 3}};
  for (unsigned i = 0; i < UNIT_COUNT(packed); i++) assert_int_equal(tl_cuda_decode(&packed[i], NULL), 1);
  const struct tl_cuda_attention two_tiles = {.n_heads = 17, .n_kv_heads = 1, .head_dim = 64};
  assert_int_equal(tl_cuda_decode(&(struct tl_cuda_decode_args){.a = two_tiles, .n_blocks = 1, .max_rows = 1}, NULL), 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_decode),           cmocka_unit_test(test_prefill), cmocka_unit_test(test_both_in_a_step),
      cmocka_unit_test(test_other_head_sizes), cmocka_unit_test(test_broken), cmocka_unit_test(test_no_work), cmocka_unit_test(test_refused_shapes),
      cmocka_unit_test(test_random_steps), cmocka_unit_test(test_windows), cmocka_unit_test(test_both_sides), cmocka_unit_test(test_softcaps), cmocka_unit_test(test_sinks), cmocka_unit_test(test_drafts), cmocka_unit_test(test_drafts_to_the_bit),
  };
  return run_twice(tests, UNIT_COUNT(tests));
}
