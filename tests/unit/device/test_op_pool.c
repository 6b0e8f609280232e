/* SPDX-License-Identifier: MIT */
/* The kernels of models that pool, run on fibers, against the formulas. */
#include "op_unit.h"

#include "device/cuda/ops/cuda_pool.h"

static void check_place(int dtype, uint32_t dim, bool has_places, bool has_types) {
  enum { N = 5, PLACES = 7, TYPES = 2 };
  const uint32_t positions[N] = {6, 0, 1, 6, 3};
  const int32_t types[N] = {0, 1, -1, 2, 1}; /* -1 and 2 have no row */
  uint32_t *device_positions = op_copy(positions, sizeof positions);
  int32_t *device_types = op_copy(types, sizeof types);
  uint16_t *x = op_halves(dtype, N * dim, 2), *before = op_copy(x, N * dim * 2);
  uint16_t *place = op_halves(dtype, PLACES * dim, 1), *type = op_halves(dtype, TYPES * dim, 1);
  struct tl_cuda_place_args a = {.dtype = dtype, .n = N, .dim = dim, .n_types = TYPES, .positions = device_positions, .types = device_types,
                                 .place = has_places ? place : NULL, .type = has_types ? type : NULL, .x = x};
  assert_int_equal(op_run(tl_cuda_place(&a, NULL)), 0);
  for (uint32_t i = 0; i < N * dim; i++) {
    uint32_t row = i / dim, column = i % dim, kind = types[row] == 1;
    double want = op_unpack(dtype, before[i]);
    if (has_places) want += op_unpack(dtype, place[positions[row] * dim + column]);
    if (has_types) want += op_unpack(dtype, type[kind * dim + column]);
    op_assert_near(dtype, op_unpack(dtype, x[i]), want, 1e-3, 1);
  }
  op_free(device_positions);
  op_free(device_types);
  op_free(x);
  op_free(before);
  op_free(place);
  op_free(type);
}

static void test_place(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    check_place(op_dtypes[t], 8, true, true);
    check_place(op_dtypes[t], 776, true, false);
    check_place(op_dtypes[t], 776, false, true);
  }
}

/* --- pooling ------------------------------------------------------------------------------------ */

enum { SEQS = 4, ROWS = 1 + 2 + 9 + 75 };
static const uint32_t starts[SEQS + 1] = {0, 1, 3, 12, ROWS};

static double pooled(int kind, int dtype, const uint16_t *rows, uint32_t dim, uint32_t first, uint32_t end) {
  double sum = 0, weights = 0, max = -INFINITY;
  for (uint32_t i = first; i < end; i++) {
    double v = op_unpack(dtype, rows[i * dim]), weight = kind == TL_CUDA_POOL_WEIGHTED ? i - first + 1 : 1;
    sum += weight * v;
    weights += weight;
    max = v > max ? v : max;
  }
  switch (kind) {
    case TL_CUDA_POOL_FIRST: return op_unpack(dtype, rows[first * dim]);
    case TL_CUDA_POOL_LAST: return op_unpack(dtype, rows[(end - 1) * dim]);
    case TL_CUDA_POOL_MAX: return max;
    case TL_CUDA_POOL_MEAN_SQRT: return sum / sqrt(weights);
    default: return sum / weights;
  }
}

static void check_pool(int kind, int dtype, uint32_t dim) {
  uint32_t *device_starts = op_copy(starts, sizeof starts);
  uint16_t *rows = op_halves(dtype, ROWS * dim, 3), *out = op_poisoned(SEQS * dim * 2);
  float *vectors = op_poisoned(SEQS * dim * sizeof *vectors);
  struct tl_cuda_pool_args a = {.dtype = dtype, .pooling = kind, .n = SEQS, .dim = dim, .starts = device_starts, .rows = rows,
                                .vectors = vectors, .out = out};
  assert_int_equal(op_run(tl_cuda_pool(&a, NULL)), 0);
  for (uint32_t i = 0; i < SEQS * dim; i++) {
    double want = pooled(kind, dtype, rows + i % dim, dim, starts[i / dim], starts[i / dim + 1]);
    assert_true(fabs(vectors[i] - want) <= 2e-6 * (1 + fabs(want)));
    assert_int_equal(out[i], op_pack(dtype, vectors[i]));
  }
  op_free(device_starts);
  op_free(rows);
  op_free(vectors);
  op_free(out);
}

static void test_pool(void **state) {
  (void)state;
  for (int kind = TL_CUDA_POOL_FIRST; kind <= TL_CUDA_POOL_WEIGHTED; kind++) {
    check_pool(kind, op_dtypes[kind % 2], 8);
    check_pool(kind, op_dtypes[(kind + 1) % 2], 264);
  }
}

/* A number that is none shows, wherever it stands. */
static void test_pool_shows_nan(void **state) {
  (void)state;
  enum { DIM = 8, N = 20 };
  uint32_t *bounds = op_copy((uint32_t[]){0, N}, 2 * sizeof *bounds);
  for (uint32_t at = 0; at < N; at += 5) {
    uint16_t *rows = op_halves(TL_CUDA_F16, N * DIM, 3), *out = op_poisoned(DIM * 2);
    float *vectors = op_alloc(DIM * sizeof *vectors);
    rows[at * DIM + 3] = op_pack(TL_CUDA_F16, NAN);
    struct tl_cuda_pool_args a = {.dtype = TL_CUDA_F16, .pooling = TL_CUDA_POOL_MAX, .n = 1, .dim = DIM, .starts = bounds, .rows = rows,
                                  .vectors = vectors, .out = out};
    assert_int_equal(op_run(tl_cuda_pool(&a, NULL)), 0);
    for (unsigned i = 0; i < DIM; i++) assert_true(isnan(vectors[i]) == (i == 3));
    op_free(rows);
    op_free(out);
    op_free(vectors);
  }
  op_free(bounds);
}

/* --- vectors -------------------------------------------------------------------------------------- */

static void check_vector(int dtype, uint32_t dim, uint32_t width, int function, bool norms, bool normalize) {
  enum { N = 3 };
  float *v = op_floats(N * dim, 2), *bias = op_floats(dim, 1), *weight = op_floats(dim, 2), *shift = op_floats(dim, 1);
  for (uint32_t i = 0; i < N * dim; i++)
    if (i % dim >= width) v[i] = bias[i % dim] = weight[i % dim] = shift[i % dim] = 0;
  float *before = op_copy(v, N * dim * sizeof *v);
  uint16_t *out = op_poisoned(N * dim * 2);
  double *want = op_alloc(dim * sizeof *want);
  struct tl_cuda_vector_args a = {.dtype = dtype, .function = function, .normalize = normalize, .n = N, .dim = dim, .width = width, .eps = 1e-5f,
                                  .bias = bias, .weight = norms ? weight : NULL, .shift = norms ? shift : NULL, .vectors = v, .out = out};
  assert_int_equal(op_run(tl_cuda_vector(&a, NULL)), 0);
  for (uint32_t row = 0; row < N; row++) {
    double mean = 0, deviation = 0, length = 0;
    for (uint32_t i = 0; i < dim; i++) {
      double x = (double)before[row * dim + i] + (double)bias[i];
      want[i] = function == TL_CUDA_TANH ? tanh(x) : function == TL_CUDA_ERF_GELU ? x * (1 + erf(x * sqrt(0.5))) / 2 : x;
      mean += want[i] / width;
    }
    for (uint32_t i = 0; i < width; i++) deviation += (want[i] - mean) * (want[i] - mean) / width;
    for (uint32_t i = 0; i < dim; i++) {
      if (norms) want[i] = (want[i] - mean) / sqrt(deviation + 1e-5) * (double)weight[i] + (double)shift[i];
      length += want[i] * want[i];
    }
    for (uint32_t i = 0; i < dim; i++) {
      if (normalize) want[i] /= sqrt(length);
      assert_true(fabs(v[row * dim + i] - want[i]) <= 1e-5 * (1 + fabs(want[i])));
      assert_int_equal(out[row * dim + i], op_pack(dtype, v[row * dim + i]));
      if (i >= width) assert_true(v[row * dim + i] == 0);
    }
  }
  op_free(want);
  op_free(v);
  op_free(before);
  op_free(bias);
  op_free(weight);
  op_free(shift);
  op_free(out);
}

static void test_vector(void **state) {
  (void)state;
  for (int function = TL_CUDA_IDENTITY; function <= TL_CUDA_ERF_GELU; function++)
    for (unsigned k = 0; k < 4; k++) {
      check_vector(op_dtypes[k % 2], 8, 3, function, k & 1, k & 2);
      check_vector(op_dtypes[k / 2], 1024, 1020, function, k & 1, k & 2);
    }
}

/* Nothing has no direction. */
static void test_vector_of_zeros(void **state) {
  (void)state;
  float *v = op_alloc(8 * sizeof *v);
  memset(v, 0, 8 * sizeof *v);
  uint16_t *out = op_poisoned(16);
  struct tl_cuda_vector_args a = {.dtype = TL_CUDA_F16, .normalize = 1, .n = 1, .dim = 8, .width = 8, .vectors = v, .out = out};
  assert_int_equal(op_run(tl_cuda_vector(&a, NULL)), 0);
  for (unsigned i = 0; i < 8; i++) assert_true(v[i] == 0 && out[i] == 0);
  op_free(v);
  op_free(out);
}

static void test_refused_shapes(void **state) {
  (void)state;
  assert_int_equal(tl_cuda_place(&(struct tl_cuda_place_args){.n = 1, .dim = 12}, NULL), 1);
  assert_int_equal(tl_cuda_place(&(struct tl_cuda_place_args){.n = 0, .dim = 16}, NULL), 0);
  assert_int_equal(tl_cuda_pool(&(struct tl_cuda_pool_args){.n = 1, .dim = 12}, NULL), 1);
  assert_int_equal(tl_cuda_pool(&(struct tl_cuda_pool_args){.n = 1, .dim = 16, .pooling = TL_CUDA_POOL_WEIGHTED + 1}, NULL), 1);
  assert_int_equal(tl_cuda_pool(&(struct tl_cuda_pool_args){.n = 0, .dim = 16}, NULL), 0);
  assert_int_equal(tl_cuda_vector(&(struct tl_cuda_vector_args){.n = 1, .dim = 8, .width = 9}, NULL), 1);
  assert_int_equal(tl_cuda_vector(&(struct tl_cuda_vector_args){.n = 0, .dim = 8, .width = 8}, NULL), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_place),  cmocka_unit_test(test_pool),            cmocka_unit_test(test_pool_shows_nan),
      cmocka_unit_test(test_vector), cmocka_unit_test(test_vector_of_zeros), cmocka_unit_test(test_refused_shapes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
