/* SPDX-License-Identifier: MIT */
/* How a step's attention is shared out: items and lanes of decode, tiles of prompts. */
#include "op_unit.h"

#include "device/cuda/ops/cuda_plan.h"

/* Tables of all sequences of a plan, entry i of which is 7 i, each a block further than the one before. */
static const uint32_t *a_table(void) {
  static uint32_t table[(1 << 18) / TL_BLOCK_TOKENS + 64];
  for (uint32_t i = 0; i < UNIT_COUNT(table); i++) table[i] = 7 * i;
  return table;
}

/* A lane is told its first item and where that begins. */
static void check_lane(const struct tl_cuda_lane *l, const struct tl_cuda_item *item) {
  static const struct tl_cuda_item nothing;
  assert_memory_equal(&l->item, item ? item : &nothing, sizeof l->item);
  for (uint32_t i = 0; i < TL_CUDA_LANE_BLOCKS; i++) {
    bool is_there = item && i * TL_BLOCK_TOKENS < item->count;
    assert_int_equal(l->blocks[i], is_there ? 7 * (item->seq + item->first / TL_BLOCK_TOKENS + i) : 0);
  }
}

static const struct tl_cuda_packing one_row = {1, 1, 0};

static void check_plan(uint32_t n_seqs, const uint32_t *context, const uint32_t *rows, uint32_t n_lanes, uint32_t window) {
  uint32_t start[64 + 1] = {0}, items_of[64] = {0}, max_items = tl_cuda_max_items(n_seqs, n_seqs, one_row, n_lanes);
  for (uint32_t i = 0; i < n_seqs; i++) start[i + 1] = start[i] + rows[i];
  struct tl_step step = {.n_tokens = start[n_seqs], .n_seqs = n_seqs, .query_start = start, .context_len = context,
                         .block_tables = a_table(), .table_stride = 1};
  struct tl_cuda_lane *lanes = op_poisoned(n_lanes * sizeof *lanes);
  struct tl_cuda_item *items = op_poisoned(max_items * sizeof *items);
  uint32_t n_items = tl_cuda_plan_decode(&step, one_row, window, n_lanes, lanes, items);
  assert_true(n_items <= max_items);
  uint64_t chunks = 0, covered[64] = {0};
  for (uint32_t s = 0; s < n_seqs; s++)
    if (window && context[s] > window) covered[s] = (context[s] - window) / TL_BLOCK_TOKENS * TL_BLOCK_TOKENS;
  for (uint32_t i = 0; i < n_items; i++) {
    const struct tl_cuda_item *item = &items[i];
    assert_int_equal(item->row, start[item->seq]);
    assert_int_equal(item->n_rows, 1);
    assert_int_equal(item->fresh, item->position);
    assert_int_equal(item->first, covered[item->seq]);
    assert_int_equal(item->first % TL_BLOCK_TOKENS, 0);
    assert_true(item->count > item->skip && item->skip < TL_BLOCK_TOKENS);
    bool is_first = items_of[item->seq]++ == 0, is_last = item->first + item->count == context[item->seq];
    uint32_t unseen = window && context[item->seq] > window ? context[item->seq] - window : 0;
    assert_int_equal(item->skip, is_first ? unseen % TL_BLOCK_TOKENS : 0);
    assert_int_equal(item->position, context[item->seq] - 1);
    assert_true(is_last || item->count % TL_CUDA_CHUNK_TOKENS == 0);
    assert_int_equal(item->first_part, i + 1 - items_of[item->seq]);
    if (is_last) assert_int_equal(item->n_parts, items_of[item->seq]);
    if (i && !is_first) assert_int_equal(item->n_parts, items[i - 1].n_parts);
    chunks += tl_cuda_chunks(item->count);
    covered[item->seq] += item->count;
  }
  for (uint32_t s = 0; s < n_seqs; s++) {
    if (rows[s] == 1) assert_int_equal(covered[s], context[s]);
    if (rows[s] != 1) assert_int_equal(items_of[s], 0);
  }
  /* no lane has more than an equal share, but for one chunk in 16, or one if that leaves it one item */
  uint64_t share = (chunks + n_lanes - 1) / n_lanes, most = share + (share / 16 ? share / 16 : 1);
  assert_int_equal(lanes[0].begin, 0);
  assert_int_equal(lanes[n_lanes - 1].end, n_items);
  for (uint32_t lane = 0; lane < n_lanes; lane++) {
    const struct tl_cuda_lane *l = &lanes[lane];
    uint64_t load = 0;
    assert_true(l->begin <= l->end && (lane == 0 || l->begin == lanes[lane - 1].end));
    for (uint32_t i = l->begin; i < l->end; i++) load += tl_cuda_chunks(items[i].count);
    assert_true(load <= most && (load <= share + share / 16 || l->end - l->begin == 1));
    check_lane(l, l->begin < l->end ? &items[l->begin] : NULL);
  }
  op_free(lanes);
  op_free(items);
}

static void test_plan(void **state) {
  (void)state;
  for (int i = 0; i < 3000; i++) {
    uint32_t n = unit_below(&op_random, 64), context[64], rows[64];
    uint32_t range = 1u << unit_below(&op_random, 18);
    for (uint32_t k = 0; k < n; k++) {
      context[k] = 1 + unit_below(&op_random, range);
      rows[k] = unit_below(&op_random, 4) ? 1 : 1 + unit_below(&op_random, context[k]);
    }
    check_plan(n, context, rows, 1 + unit_below(&op_random, i % 3 ? 40 : 300), i % 2 ? 1 + unit_below(&op_random, range) : 0);
  }
  /* one long context is spread over all lanes */
  const uint32_t long_context = 1 << 17, row = 1;
  check_plan(1, &long_context, &row, 33, 0);
  /* 16 of 1024 tokens: halves, one a lane, though 33 lanes could have less; of 24 some lanes have ends of two sequences;
   * 64 of about 1024 are not cut for the sake of a chunk */
  const struct {
    uint32_t n, odd, n_items, n_parts;
  } cases[] = {{16, 0, 32, 2}, {24, 0, 48, 2}, {64, 1, 64, 1}, {1, 0, 16, 16}};
  for (unsigned k = 0; k < UNIT_COUNT(cases); k++) {
    uint32_t context[64], rows[64], start[65] = {0};
    for (uint32_t i = 0; i < cases[k].n; i++) {
      context[i] = 1024 + i % 2 * cases[k].odd;
      start[i + 1] = start[i] + (rows[i] = 1);
    }
    struct tl_step step = {.n_tokens = cases[k].n, .n_seqs = cases[k].n, .query_start = start, .context_len = context,
                           .block_tables = a_table(), .table_stride = 1};
    struct tl_cuda_lane lanes[33];
    struct tl_cuda_item items[64 + 33];
    assert_int_equal(tl_cuda_plan_decode(&step, one_row, 0, 33, lanes, items), cases[k].n_items);
    for (uint32_t i = 0; i < cases[k].n_items; i++) assert_int_equal(items[i].n_parts, cases[k].n_parts);
    check_plan(cases[k].n, context, rows, 33, 0);
  }
}

/* The lanes of the parts, by which they find one another's results: neighbours, of which the first is no lane's first part but one. */
static void check_parts(const struct tl_cuda_lane *lanes, uint32_t n_lanes, const struct tl_cuda_item *items) {
  for (uint32_t lane = 0; lane < n_lanes; lane++)
    for (uint32_t i = lanes[lane].begin; i < lanes[lane].end; i++) {
      uint32_t part = i - items[i].first_part;
      assert_true(part < items[i].n_parts);
      if (part) assert_true(i == lanes[lane].begin && lanes[lane - 1].end == i);
      if (part + 1 < items[i].n_parts) assert_int_equal(i + 1, lanes[lane].end);
    }
}

/* Steps of decodes, guesses behind them, and pieces of prompts: each row is of one kind, and in one place. */
static void check_drafts(const struct tl_step *step, struct tl_cuda_packing packing, uint32_t window, uint32_t n_lanes) {
  uint32_t max_items = tl_cuda_max_items(step->n_seqs, step->n_rows, packing, n_lanes), n_decode = 0, *end = calloc(step->n_tokens, sizeof *end);
  struct tl_cuda_lane *lanes = op_poisoned(n_lanes * sizeof *lanes);
  struct tl_cuda_item *items = op_poisoned(max_items * sizeof *items);
  struct tl_cuda_tile *tiles = op_poisoned(tl_cuda_max_tiles(step->n_tokens, step->n_seqs) * sizeof *tiles);
  uint32_t n_items = tl_cuda_plan_decode(step, packing, window, n_lanes, lanes, items);
  uint32_t n_tiles = tl_cuda_plan_prefill(step, packing.most_rows, tiles);
  assert_true(n_items <= max_items);
  check_parts(lanes, n_lanes, items);
  for (uint32_t i = 0; i < n_items; i++) {
    const struct tl_cuda_item *item = &items[i];
    uint32_t begin = step->query_start[item->seq], n = step->query_start[item->seq + 1] - begin, context = step->context_len[item->seq];
    assert_true(item->n_rows >= 1 && item->n_rows <= packing.pack && n <= packing.most_rows);
    if (!packing.chunk) assert_int_equal((item->row - begin) % packing.pack, 0);
    if (packing.chunk) assert_int_equal(item->position / packing.chunk, (item->position + item->n_rows - 1) / packing.chunk);
    assert_int_equal(item->fresh, context - n);
    assert_int_equal(item->position, item->fresh + item->row - begin);
    uint32_t unseen = packing.chunk ? item->position / packing.chunk * packing.chunk : tl_cuda_first_seen(item->position + 1, window);
    if (i == item->first_part) assert_int_equal(item->first + item->skip, unseen);
    else assert_int_equal(item->first, end[item->row]);
    end[item->row] = item->first + item->count;
    if (i + 1 == item->first_part + item->n_parts) {
      assert_int_equal(end[item->row], item->position + item->n_rows);
      n_decode += item->n_rows;
    }
  }
  struct tl_cuda_shape shape = tl_cuda_shape_of(step, packing.most_rows);
  assert_int_equal(shape.n_decode, n_decode);
  assert_int_equal(shape.is_decode, n_tiles == 0 && step->n_rows == step->n_tokens);
  for (uint32_t i = 0; i < n_tiles; i++) n_decode += tiles[i].n_rows;
  assert_int_equal(n_decode, step->n_tokens);
  free(end);
  op_free(lanes);
  op_free(items);
  op_free(tiles);
}

static void test_drafts(void **state) {
  (void)state;
  for (int i = 0; i < 2000; i++) {
    uint32_t n = 1 + unit_below(&op_random, 20), context[20], start[21] = {0}, rows[20 * 40], n_rows = 0;
    struct tl_cuda_packing packing = {1 + unit_below(&op_random, 16), 1 + unit_below(&op_random, 16), i % 4 ? 0 : 16 << unit_below(&op_random, 6)};
    uint32_t range = 1u << unit_below(&op_random, 14);
    bool all = true, drafts = false;
    for (uint32_t k = 0; k < n; k++) {
      context[k] = 40 + unit_below(&op_random, range);
      uint32_t of = 1 + unit_below(&op_random, i % 3 ? packing.most_rows : 40), wanted = unit_below(&op_random, i % 3 ? 1 : 4);
      start[k + 1] = start[k] + of;
      for (uint32_t row = 0; row < of; row++) /* all, all but the first, the last, none */
        if (wanted == 0 || (wanted == 1 && row > 0) || (wanted == 2 && row + 1 == of)) rows[n_rows++] = start[k] + row;
      bool decodes = of == 1 || (of <= packing.most_rows && wanted == 0);
      all &= decodes && (wanted == 0 || (of == 1 && wanted == 2));
      drafts |= decodes && of > 1;
    }
    struct tl_step step = {.n_tokens = start[n], .n_seqs = n, .n_rows = n_rows, .rows = rows, .query_start = start, .context_len = context,
                           .block_tables = a_table(), .table_stride = 1};
    struct tl_cuda_shape shape = tl_cuda_shape_of(&step, packing.most_rows);
    assert_int_equal(shape.is_decode, all);
    assert_int_equal(shape.drafts, drafts);
    check_drafts(&step, packing, unit_below(&op_random, 2) ? 0 : 1 + unit_below(&op_random, range), 1 + unit_below(&op_random, 40));
  }
}

/* Heads of rows that a tile has room for. */
static void test_packs(void **state) {
  (void)state;
  static const struct {
    uint32_t n_heads, n_kv_heads, dim, most, pack;
  } cases[] = {{32, 8, 128, 9, 4}, {32, 8, 128, 3, 3}, {28, 4, 128, 16, 2}, {32, 32, 64, 16, 16}, {64, 4, 128, 16, 1}, {24, 2, 128, 5, 1},
               {40, 2, 64, 5, 1}, {8, 4, 256, 16, 4}, {8, 1, 256, 16, 1}, {9, 1, 192, 16, 1}, {32, 8, 128, 1, 1}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++)
    assert_int_equal(tl_cuda_pack(cases[i].n_heads, cases[i].n_kv_heads, cases[i].dim, cases[i].most), cases[i].pack);
}

static void test_tiles(void **state) {
  (void)state;
  for (int i = 0; i < 1000; i++) {
    uint32_t n = unit_below(&op_random, 20), context[20], start[21] = {0}, seen[20] = {0};
    for (uint32_t k = 0; k < n; k++) {
      context[k] = 1 + unit_below(&op_random, 300);
      start[k + 1] = start[k] + 1 + unit_below(&op_random, context[k]);
    }
    struct tl_step step = {.n_tokens = start[n], .n_seqs = n, .query_start = start, .context_len = context};
    uint32_t max = tl_cuda_max_tiles(start[n], n);
    struct tl_cuda_tile *tiles = op_poisoned(max * sizeof *tiles);
    uint32_t n_tiles = tl_cuda_plan_prefill(&step, 1, tiles);
    assert_true(n_tiles <= max);
    for (uint32_t k = 0; k < n_tiles; k++) {
      const struct tl_cuda_tile *t = &tiles[k];
      uint32_t rows = start[t->seq + 1] - start[t->seq];
      assert_true(rows > 1 && t->n_rows > 0 && t->n_rows <= TL_CUDA_TILE_ROWS);
      assert_int_equal((t->row - start[t->seq]) % TL_CUDA_TILE_ROWS, 0);
      assert_int_equal(t->position, context[t->seq] - rows + t->row - start[t->seq]);
      seen[t->seq] += t->n_rows;
      assert_true(t->row + t->n_rows <= start[t->seq + 1]);
    }
    for (uint32_t k = 0; k < n; k++) assert_int_equal(seen[k], start[k + 1] - start[k] > 1 ? start[k + 1] - start[k] : 0);
    op_free(tiles);
  }
}

/* Tiles of rows that see their own chunk alone: each in one chunk, from whose beginning it counts. */
static void test_chunk_tiles(void **state) {
  (void)state;
  for (int i = 0; i < 1000; i++) {
    uint32_t n = unit_below(&op_random, 20), context[20], start[21] = {0}, *seen = calloc(20 * 1000, sizeof *seen);
    uint32_t chunk = 16 * (1 + unit_below(&op_random, 12)), stride = 64;
    for (uint32_t k = 0; k < n; k++) {
      context[k] = 1 + unit_below(&op_random, 1000);
      start[k + 1] = start[k] + 1 + unit_below(&op_random, context[k]);
    }
    struct tl_step step = {.n_tokens = start[n], .n_seqs = n, .query_start = start, .context_len = context};
    uint32_t max = tl_cuda_max_chunk_tiles(start[n], n, chunk);
    struct tl_cuda_tile *tiles = op_poisoned(max * sizeof *tiles);
    uint32_t n_tiles = tl_cuda_plan_chunks(&step, 1, chunk, stride, tiles);
    assert_true(n_tiles <= max);
    for (uint32_t k = 0; k < n_tiles; k++) {
      const struct tl_cuda_tile *t = &tiles[k];
      uint32_t seq = t->seq / stride, first = t->seq % stride * TL_BLOCK_TOKENS, rows = start[seq + 1] - start[seq];
      assert_true(rows > 1 && t->n_rows > 0 && t->n_rows <= TL_CUDA_TILE_ROWS && first % chunk == 0);
      assert_true(t->position + t->n_rows <= chunk && t->row >= start[seq] && t->row + t->n_rows <= start[seq + 1]);
      assert_int_equal(first + t->position, context[seq] - rows + t->row - start[seq]);
      for (uint32_t row = t->row; row < t->row + t->n_rows; row++) assert_int_equal(seen[row]++, 0);
    }
    for (uint32_t k = 0; k < n; k++)
      for (uint32_t row = start[k]; row < start[k + 1]; row++) assert_int_equal(seen[row], start[k + 1] - start[k] > 1);
    free(seen);
    op_free(tiles);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_plan), cmocka_unit_test(test_tiles), cmocka_unit_test(test_chunk_tiles), cmocka_unit_test(test_drafts), cmocka_unit_test(test_packs)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
