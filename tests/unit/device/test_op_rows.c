/* SPDX-License-Identifier: MIT */
/* The kernels that treat rows on their own, run on fibers, against the formulas. */
#include "op_unit.h"

static void test_embed(void **state) {
  (void)state;
  enum { N = 11, SLICE = 7, FIRST = 5 };
  const int32_t tokens[N] = {5, 11, 4, 12, -1, -2, -4, -3, 8, 8, INT32_MAX}, fed[] = {9, 3, -1};
  /* -2 is fed[0] = 9, -4 is fed[2]: a row without a token, -3 is fed[1] = 3 */
  const int32_t want[N] = {0, 6, -1, -1, -1, 4, -1, -1, 3, 3, -1};
  const uint32_t dims[] = {8, 72, 2048};
  int32_t *device_tokens = op_copy(tokens, sizeof tokens), *device_fed = op_copy(fed, sizeof fed);
  for (unsigned k = 0; k < UNIT_COUNT(dims); k++) {
    uint32_t dim = dims[k];
    uint16_t *weight = op_halves(TL_CUDA_BF16, SLICE * dim, 1), *out = op_poisoned(N * dim * 2);
    struct tl_cuda_embed_args a = {.dtype = TL_CUDA_BF16, .n = N, .dim = dim, .tokens = device_tokens, .fed = device_fed,
                                   .weight = weight, .first_token = FIRST, .n_slice = SLICE, .out = out};
    assert_int_equal(op_run(tl_cuda_embed(&a, NULL)), 0);
    uint16_t *zeros = calloc(dim, 2);
    for (unsigned i = 0; i < N; i++)
      assert_memory_equal(out + i * dim, want[i] < 0 ? zeros : weight + want[i] * dim, dim * 2);
    free(zeros);
    op_free(weight);
    op_free(out);
  }
  op_free(device_tokens);
  op_free(device_fed);
}

static void test_gather(void **state) {
  (void)state;
  const uint32_t rows[] = {2, 0, 6, 6, 5};
  uint32_t *device_rows = op_copy(rows, sizeof rows);
  uint16_t *in = op_halves(TL_CUDA_F16, 7 * 88, 1), *out = op_poisoned(5 * 88 * 2);
  struct tl_cuda_gather_args a = {.n = 5, .dim = 88, .rows = device_rows, .in = in, .out = out};
  assert_int_equal(op_run(tl_cuda_gather(&a, NULL)), 0);
  for (unsigned i = 0; i < 5; i++) assert_memory_equal(out + i * 88, in + rows[i] * 88, 88 * 2);
  op_free(device_rows);
  op_free(in);
  op_free(out);
}

static void test_bias(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    enum { N = 3, DIM = 1048 };
    int dtype = op_dtypes[t];
    uint16_t *y = op_halves(dtype, N * DIM, 2), *before = op_copy(y, N * DIM * 2);
    float *bias = op_floats(DIM, 3);
    struct tl_cuda_bias_args a = {.dtype = dtype, .n = N, .dim = DIM, .y = y, .bias = bias};
    assert_int_equal(op_run(tl_cuda_bias(&a, NULL)), 0);
    for (unsigned i = 0; i < N * DIM; i++)
      assert_int_equal(y[i], op_pack(dtype, op_unpack(dtype, before[i]) + bias[i % DIM]));
    op_free(y);
    op_free(before);
    op_free(bias);
  }
}

static void check_swiglu(int dtype, uint32_t n, uint32_t dim, bool with_bias) {
  uint16_t *in = op_halves(dtype, n * 2 * dim, 6), *out = op_poisoned(n * dim * 2);
  float *bias = op_floats(2 * dim, 1);
  struct tl_cuda_swiglu_args a = {.dtype = dtype, .n = n, .dim = dim, .gate_up = in, .bias = with_bias ? bias : NULL,
                                  .out = out};
  assert_int_equal(op_run(tl_cuda_swiglu(&a, NULL)), 0);
  for (uint32_t i = 0; i < n * dim; i++) {
    uint32_t row = i / dim, column = i % dim;
    double gate = op_unpack(dtype, in[row * 2 * dim + column]), up = op_unpack(dtype, in[row * 2 * dim + dim + column]);
    if (with_bias) {
      gate += bias[column];
      up += bias[dim + column];
    }
    op_assert_near(dtype, op_unpack(dtype, out[i]), gate / (1 + exp(-gate)) * up, 1e-3, 1);
  }
  op_free(in);
  op_free(out);
  op_free(bias);
}

static void test_swiglu(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    check_swiglu(op_dtypes[t], 1, 8, false);
    check_swiglu(op_dtypes[t], 5, 688, true);
    check_swiglu(op_dtypes[t], 2, 2048, false);
  }
  /* far out: no NaN from infinities in between */
  uint16_t in[16], out[8];
  for (unsigned i = 0; i < 16; i++) in[i] = op_pack(TL_CUDA_BF16, i < 8 ? -200.0f : 1.0f);
  struct tl_cuda_swiglu_args a = {.dtype = TL_CUDA_BF16, .n = 1, .dim = 8, .gate_up = op_copy(in, sizeof in), .out = op_poisoned(16)};
  assert_int_equal(op_run(tl_cuda_swiglu(&a, NULL)), 0);
  memcpy(out, a.out, sizeof out);
  for (unsigned i = 0; i < 8; i++) assert_true(op_unpack(TL_CUDA_BF16, out[i]) == 0);
  op_free((void *)a.gate_up);
  op_free(a.out);
}

static void check_norm(int dtype, uint32_t n, uint32_t dim, int first) {
  float *x = op_floats(n * dim, 3), *before = op_copy(x, n * dim * sizeof *x), *weight = op_floats(dim, 2);
  uint16_t *delta = op_halves(dtype, n * dim, 1), *h = op_poisoned(n * dim * 2);
  if (first) memset(x, 0xff, n * dim * sizeof *x);
  struct tl_cuda_add_norm_args a = {.dtype = dtype, .first = first, .n = n, .dim = dim, .eps = 1e-5f, .x = x,
                                    .delta = delta, .weight = weight, .h = h};
  assert_int_equal(op_run(tl_cuda_add_norm(&a, NULL)), 0);
  for (uint32_t i = 0; i < n; i++) {
    double sum = 0;
    for (uint32_t k = i * dim; k < (i + 1) * dim; k++) {
      assert_true(x[k] == (first ? 0 : before[k]) + op_unpack(dtype, delta[k]));
      sum += (double)x[k] * x[k];
    }
    double scale = 1 / sqrt(sum / dim + 1e-5);
    for (uint32_t k = 0; k < dim; k++)
      op_assert_near(dtype, op_unpack(dtype, h[i * dim + k]), x[i * dim + k] * scale * weight[k], 1e-3, 1);
  }
  op_free(x);
  op_free(before);
  op_free(weight);
  op_free(delta);
  op_free(h);
}

static void test_norm(void **state) {
  (void)state;
  assert_int_equal(tl_cuda_prepare(), 0);
  const uint32_t dims[] = {8, 64, 2048, 2056, 4096, 12304};
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++)
    for (unsigned k = 0; k < UNIT_COUNT(dims); k++) check_norm(op_dtypes[t], 1 + k % 3, dims[k], k % 2 == 0);
}

static void test_refused_shapes(void **state) {
  (void)state;
  assert_int_equal(tl_cuda_embed(&(struct tl_cuda_embed_args){.n = 1, .dim = 12}, NULL), 1);
  assert_int_equal(tl_cuda_gather(&(struct tl_cuda_gather_args){.n = 1, .dim = 4}, NULL), 1);
  assert_int_equal(tl_cuda_bias(&(struct tl_cuda_bias_args){.n = UINT32_MAX, .dim = 65536}, NULL), 1);
  assert_int_equal(tl_cuda_swiglu(&(struct tl_cuda_swiglu_args){.n = 1, .dim = 15}, NULL), 1);
  assert_int_equal(tl_cuda_add_norm(&(struct tl_cuda_add_norm_args){.n = 1, .dim = 24584}, NULL), 1);
  /* no rows: nothing to launch */
  assert_int_equal(tl_cuda_embed(&(struct tl_cuda_embed_args){.n = 0, .dim = 16}, NULL), 0);
  assert_int_equal(tl_cuda_add_norm(&(struct tl_cuda_add_norm_args){.n = 0, .dim = 16}, NULL), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_embed),  cmocka_unit_test(test_gather), cmocka_unit_test(test_bias),
      cmocka_unit_test(test_swiglu), cmocka_unit_test(test_norm),   cmocka_unit_test(test_refused_shapes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
