/* SPDX-License-Identifier: MIT */
/* The kernels of LoRA adapters, run on fibers, against the formula. */
#include "op_unit.h"

#include "device/cuda/ops/cuda_adapters.h"

enum { N_ADAPTERS = 3, N_INPUTS = TL_CUDA_ADAPTER_INPUTS, N_ROWS = 40, N_TILES = 6, N_PLACES = 16 + 3 + 1 + 9 };

/* Rows of adapters 2, 0, 1 and 0 again; some rows have none, and two tiles no row. */
static const struct tl_cuda_adapter_tile tiles[N_TILES] = {{2, 0, 16}, {0, 16, 3}, {1, 19, 1}, {0, 20, 9}, {0, 0, 0}, {2, 0, 0}};

/* Ranks of each input as they are in files, 0: none; they are padded. Inputs from 3 on have the A of input 0, if that has one. */
struct shape {
  uint32_t k, n[N_INPUTS], rank[N_ADAPTERS][N_INPUTS];
};

static const struct shape shapes[] = {{40, {24, 0, 0}, {{4, 0, 0}, {16, 0, 0}, {5, 0, 0}}},
                                      {264, {136, 8, 8}, {{8, 8, 8}, {0, 33, 0}, {64, 0, 17}}},
                                      {1032, {520, 520, 0}, {{16, 16, 0}, {0, 0, 0}, {0, 7, 0}}},
                                      {72, {24, 24, 72, 136, 8, 8}, {{5, 5, 0, 5, 5, 5}, {0, 0, 20, 3, 0, 17}, {16, 0, 9, 16, 0, 0}}}};

static uint32_t padded(uint32_t rank) {
  return (rank + TL_CUDA_ADAPTER_RANKS - 1) / TL_CUDA_ADAPTER_RANKS * TL_CUDA_ADAPTER_RANKS;
}

/* T (rows, columns) with numbers in the first so many rows and columns, zeros else. */
static uint16_t *matrix(int dtype, uint32_t rows, uint32_t columns, uint32_t filled_rows, uint32_t filled_columns, float range) {
  uint16_t *p = op_halves(dtype, (size_t)rows * columns, range);
  for (uint32_t i = 0; i < rows * columns; i++)
    if (i / columns >= filled_rows || i % columns >= filled_columns) p[i] = 0;
  return p;
}

struct made {
  struct tl_cuda_adapter *adapters;
  uint32_t ld, n;
  uint32_t first[N_INPUTS];
};

static struct made make(int dtype, const struct shape *s) {
  struct made m = {.adapters = op_alloc(N_ADAPTERS * sizeof *m.adapters)};
  for (unsigned i = 0; i < N_INPUTS; i++) {
    m.first[i] = s->n[i] ? m.n : UINT32_MAX;
    m.n += s->n[i];
  }
  for (unsigned a = 0; a < N_ADAPTERS; a++) {
    struct tl_cuda_adapter *to = &m.adapters[a];
    *to = (struct tl_cuda_adapter){0};
    for (unsigned i = 0; i < N_INPUTS; i++) {
      bool shares = i >= 3 && s->rank[a][0] && s->rank[a][i];
      to->rank[i] = padded(s->rank[a][i]);
      to->scale[i] = 0.5f + (float)(a + i);
      to->b[i] = matrix(dtype, s->n[i], to->rank[i], s->n[i], s->rank[a][i], 1);
      to->at[i] = shares ? 0 : to->ranks;
      if (!shares) to->ranks += to->rank[i];
    }
    to->a = matrix(dtype, to->ranks, s->k, to->ranks, s->k, 1); /* what stands in padded ranks meets zeros of B */
    if (to->ranks > m.ld) m.ld = to->ranks;
  }
  return m;
}

static void unmake(struct made *m) {
  for (unsigned a = 0; a < N_ADAPTERS; a++) {
    op_free((void *)m->adapters[a].a);
    for (unsigned i = 0; i < N_INPUTS; i++) op_free((void *)m->adapters[a].b[i]);
  }
  op_free(m->adapters);
}

static void check(int dtype, const struct shape *s) {
  struct made m = make(dtype, s);
  uint32_t rows[N_PLACES];
  for (uint32_t i = 0; i < N_PLACES; i++) rows[i] = i * 7 % N_ROWS; /* 7 and 40 have no common factor: each once */
  uint32_t *device_rows = op_copy(rows, sizeof rows);
  struct tl_cuda_adapter_tile *device_tiles = op_copy(tiles, sizeof tiles);
  uint16_t *x = op_halves(dtype, N_ROWS * s->k, 1), *sums = op_poisoned(N_PLACES * m.ld * 2), *y = op_halves(dtype, N_ROWS * m.n, 2);
  uint16_t *before = op_copy(y, N_ROWS * m.n * 2);
  struct tl_cuda_shrink_args shrink = {.dtype = dtype, .n_tiles = N_TILES, .k = s->k, .ld = m.ld, .adapters = m.adapters, .tiles = device_tiles,
                                       .rows = device_rows, .x = x, .s = sums};
  struct tl_cuda_expand_args expand = {.dtype = dtype, .n_tiles = N_TILES, .n = m.n, .ldy = m.n, .ld = m.ld, .adapters = m.adapters,
                                       .tiles = device_tiles, .rows = device_rows, .s = sums, .y = y};
  memcpy(expand.first, m.first, sizeof expand.first);
  assert_int_equal(op_run(tl_cuda_shrink(&shrink, NULL)), 0);
  bool *touched = calloc(N_ROWS, sizeof *touched);
  for (unsigned t = 0; t < N_TILES; t++) {
    const struct tl_cuda_adapter *a = &m.adapters[tiles[t].adapter];
    for (uint32_t i = tiles[t].first; i < tiles[t].first + tiles[t].n; i++) {
      touched[rows[i]] = true;
      for (uint32_t r = 0; r < a->ranks; r++) {
        double want = 0;
        for (uint32_t k = 0; k < s->k; k++)
          want += (double)op_unpack(dtype, x[rows[i] * s->k + k]) * (double)op_unpack(dtype, ((const uint16_t *)a->a)[r * s->k + k]);
        op_assert_near(dtype, op_unpack(dtype, sums[i * m.ld + r]), want, 1, 1);
      }
    }
  }
  assert_int_equal(op_run(tl_cuda_expand(&expand, NULL)), 0);
  for (unsigned t = 0; t < N_TILES; t++) {
    const struct tl_cuda_adapter *a = &m.adapters[tiles[t].adapter];
    for (uint32_t i = tiles[t].first; i < tiles[t].first + tiles[t].n; i++)
      for (uint32_t o = 0; o < m.n; o++) {
        unsigned input = 0;
        for (unsigned k = 1; k < N_INPUTS; k++)
          if (o >= m.first[k]) input = k;
        uint32_t at = a->at[input], rank = a->rank[input];
        double sum = 0;
        for (uint32_t r = 0; r < rank; r++)
          sum += (double)op_unpack(dtype, sums[i * m.ld + at + r]) *
                 (double)op_unpack(dtype, ((const uint16_t *)a->b[input])[(o - m.first[input]) * rank + r]);
        double want = op_unpack(dtype, before[rows[i] * m.n + o]) + (double)a->scale[input] * sum;
        op_assert_near(dtype, op_unpack(dtype, y[rows[i] * m.n + o]), want, 1, 1);
      }
  }
  for (uint32_t i = 0; i < N_ROWS; i++)
    if (!touched[i]) assert_memory_equal(y + i * m.n, before + i * m.n, m.n * 2);
  free(touched);
  op_free(device_rows);
  op_free(device_tiles);
  op_free(x);
  op_free(sums);
  op_free(y);
  op_free(before);
  unmake(&m);
}

static void test_shapes(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++)
    for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(op_dtypes[t], &shapes[i]);
}

static void test_wrong_shapes(void **state) {
  (void)state;
  struct tl_cuda_shrink_args shrink = {.n_tiles = 1, .k = 12, .ld = 16};
  assert_int_equal(tl_cuda_shrink(&shrink, NULL), 1);
  shrink = (struct tl_cuda_shrink_args){.n_tiles = 1, .k = 16, .ld = 8};
  assert_int_equal(tl_cuda_shrink(&shrink, NULL), 1);
  struct tl_cuda_expand_args expand = {.n_tiles = 1, .n = 12, .ldy = 12, .ld = 16, .first = {0, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}};
  assert_int_equal(tl_cuda_expand(&expand, NULL), 1);
  expand = (struct tl_cuda_expand_args){.n_tiles = 1, .n = 16, .ldy = 16, .ld = 16, .first = {0, 4, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}};
  assert_int_equal(tl_cuda_expand(&expand, NULL), 1);
  shrink = (struct tl_cuda_shrink_args){.n_tiles = 0, .k = 16, .ld = 16};
  assert_int_equal(tl_cuda_shrink(&shrink, NULL), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_wrong_shapes)};
  return cmocka_run_group_tests(tests, op_prepare, NULL);
}
