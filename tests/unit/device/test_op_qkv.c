/* SPDX-License-Identifier: MIT */
/* Bias, head norm, rotation, cache: the kernel on fibers against the formulas. */
#include "op_unit.h"

enum { BLOCKS = 5, CONTEXT = 40 };

struct shape {
  int dtype;
  uint32_t n_heads, n_kv_heads, head_dim;
  bool bias, norm, whole, still; /* whole: normed as one row; still: not rotated */
  bool grows, last, each; /* each: a LayerNorm of each head by weights of its own; last: normed behind the rotation */
  bool left;                 /* scales are left to do of the product's results */
  uint32_t padding;              /* of a head: zeros, whose angles are none */
};

static double value(const struct tl_cuda_qkv_args *a, uint32_t row, uint32_t head, uint32_t i) {
  uint32_t heads = a->n_heads + 2 * a->n_kv_heads;
  const uint16_t *in = (const uint16_t *)a->qkv + ((size_t)row * heads + head) * a->head_dim;
  const struct tl_cuda_rest *u = &a->left;
  double left = u->rows ? (double)u->rows[row] * (double)u->outputs[head * a->head_dim + i] * (double)u->factor : 1;
  return (double)op_unpack(a->dtype, in[i]) * left + (a->bias ? (double)a->bias[head * a->head_dim + i] : 0);
}

/* One head after bias, norm and rotation, in double. */
static void expect(const struct tl_cuda_qkv_args *a, uint32_t row, uint32_t head, double *ret) {
  uint32_t dim = a->head_dim, half = dim / 2;
  const float *norm = head < a->n_heads ? a->q_norm : head < a->n_heads + a->n_kv_heads ? a->k_norm : NULL;
  double sum = 0;
  bool is_k = head >= a->n_heads;
  uint32_t first = a->row_squares ? is_k ? a->n_heads : 0 : head, n = a->row_squares ? is_k ? a->n_kv_heads : a->n_heads : 1;
  double mean = 0;
  for (uint32_t i = 0; i < dim; i++) ret[i] = value(a, row, head, i), mean += ret[i] / a->width;
  for (uint32_t i = 0; norm && a->norm_each && i < dim; i++) ret[i] -= i % half < a->width / 2 ? mean : 0;
  for (uint32_t h = first; norm && h < first + n; h++)
    for (uint32_t i = 0; i < dim; i++) sum += pow(a->norm_each ? ret[i] : value(a, row, h, i), 2);
  if (norm && a->norm_each) norm += (size_t)(head - (is_k ? a->n_heads : 0)) * dim;
  if (norm) norm += (size_t)(head - first) * dim;
  for (uint32_t i = 0; norm && !a->norm_last && i < dim; i++) ret[i] *= norm[i] / sqrt(sum / (n * a->width) + a->eps);
  const float *angles = a->rope ? a->rope + (size_t)a->positions[row] * dim : NULL;
  for (uint32_t i = 0; angles && head < a->n_heads + a->n_kv_heads && i < half; i++) {
    double x = ret[i], y = ret[half + i];
    ret[i] = x * angles[i] - y * angles[half + i];
    ret[half + i] = y * angles[i] + x * angles[half + i];
  }
  double squares = 0;
  for (uint32_t i = 0; i < dim; i++) squares += ret[i] * ret[i];
  for (uint32_t i = 0; norm && a->norm_last && i < dim; i++) ret[i] *= norm[i] / sqrt(squares / a->width + a->eps);
  if (a->growth && head < a->n_heads)
    for (uint32_t i = 0; i < dim; i++) ret[i] *= (double)a->growth[a->positions[row]];
}

static void compare(const struct tl_cuda_qkv_args *a, const uint16_t *got, uint32_t row, uint32_t head) {
  double want[TL_CUDA_MAX_HEAD_DIM];
  expect(a, row, head, want);
  for (uint32_t i = 0; i < a->head_dim; i++) op_assert_near(a->dtype, op_unpack(a->dtype, got[i]), want[i], 0.01, 1.5);
}

static void check(const struct shape *s) {
  enum { N = 4 };
  const uint32_t positions[N] = {0, 39, 17, 0}, slots[N] = {33, 79, 0, TL_CUDA_NO_SLOT};
  uint32_t heads = s->n_heads + 2 * s->n_kv_heads, dim = s->head_dim;
  size_t cache_bytes = (size_t)BLOCKS * s->n_kv_heads * TL_BLOCK_TOKENS * dim * 2;
  uint16_t *qkv = op_halves(s->dtype, (size_t)N * heads * dim, 2);
  float *bias = op_floats(heads * dim, 1), *norms = op_floats(heads * dim, 1), *squares = op_poisoned(2 * N * sizeof *squares), *rope = op_floats(CONTEXT * dim, 1), *growth = op_floats(CONTEXT, 2);
  uint16_t *q = op_poisoned((size_t)N * s->n_heads * dim * 2), *k = op_poisoned(cache_bytes), *v = op_poisoned(cache_bytes);
  for (uint32_t i = 0; i < N * heads * dim; i++) /* the padding of each half */
    if (i % (dim / 2) >= (dim - s->padding) / 2) qkv[i] = 0, bias[i % (heads * dim)] = 0;
  struct tl_cuda_qkv_args a = {.dtype = s->dtype, .n = N, .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads,
                               .head_dim = dim, .width = dim - s->padding, .norm_last = s->last, .norm_each = s->each, .qkv = qkv, .bias = s->bias ? bias : NULL,
                               .q_norm = s->norm ? norms : NULL, .k_norm = s->norm ? norms + (s->whole || s->each ? s->n_heads : 1) * dim : NULL,
                               .row_squares = s->whole ? squares : NULL, .eps = 1e-6f, .rope = s->still ? NULL : rope, .growth = s->grows ? growth : NULL, .positions = op_copy(positions, sizeof positions),
                               .slots = op_copy(slots, sizeof slots), .q = q, .k_cache = k, .v_cache = v};
  struct tl_cuda_row_squares_args r = {.dtype = s->dtype, .n = N, .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads,
                                   .head_dim = dim, .width = a.width, .n_ranks = 1, .qkv = qkv, .bias = a.bias, .out = squares};
  if (s->left) a.left = (struct tl_cuda_rest){.rows = op_floats(N, 1), .outputs = op_floats(heads * dim, 1), .factor = 2};
  if (s->whole) assert_int_equal(op_run(tl_cuda_row_squares(&r, NULL)), 0);
  assert_int_equal(op_run(tl_cuda_qkv(&a, NULL)), 0);
  size_t written = 0;
  for (uint32_t row = 0; row < N; row++) {
    for (uint32_t h = 0; h < s->n_heads; h++) compare(&a, q + ((size_t)row * s->n_heads + h) * dim, row, h);
    if (slots[row] == TL_CUDA_NO_SLOT) continue;
    for (uint32_t h = 0; h < s->n_kv_heads; h++, written += dim) {
      size_t at = (((size_t)slots[row] / 16 * s->n_kv_heads + h) * 16 + slots[row] % 16) * dim;
      compare(&a, k + at, row, s->n_heads + h);
      compare(&a, v + at, row, s->n_heads + s->n_kv_heads + h);
    }
  }
  /* nothing else was touched */
  size_t changed[2] = {0, 0};
  for (size_t i = 0; i < cache_bytes / 2; i++) {
    changed[0] += k[i] != 0xffff;
    changed[1] += v[i] != 0xffff;
  }
  assert_int_equal(changed[0], written);
  assert_int_equal(changed[1], written);
  if (s->left) {
    op_free((void *)a.left.rows);
    op_free((void *)a.left.outputs);
  }
  op_free((void *)a.positions);
  op_free((void *)a.slots);
  op_free(qkv);
  op_free(bias);
  op_free(norms);
  op_free(squares);
  op_free(rope);
  op_free(growth);
  op_free(q);
  op_free(k);
  op_free(v);
}

static void test_shapes(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_BF16, 4, 1, 64, false, .norm = false}, {TL_CUDA_F16, 8, 2, 128, true, .norm = false},
      {TL_CUDA_BF16, 2, 2, 128, true, .norm = true},  {TL_CUDA_F16, 3, 1, 8, true, .norm = true},
      {TL_CUDA_BF16, 5, 5, 80, false, .norm = true},  {TL_CUDA_F16, 2, 1, 256, true, .norm = true},
      {TL_CUDA_BF16, 1, 1, 136, false, .norm = true}, {TL_CUDA_F16, 4, 2, 64, true, .norm = true, .whole = true},
      {TL_CUDA_BF16, 5, 1, 128, false, .norm = true, .whole = true}, {TL_CUDA_F16, 2, 1, 64, true, .norm = true, .still = true}, {TL_CUDA_F16, 2, 1, 64, true, .norm = false, .still = true, .grows = true},
      {TL_CUDA_F16, 4, 2, 16, true, .norm = true, .padding = 2}, {TL_CUDA_F16, 4, 2, 32, true, .norm = true, .whole = true, .padding = 4},
      {TL_CUDA_BF16, 4, 2, 64, true, .norm = true, .left = true}, {TL_CUDA_F16, 4, 2, 16, true, .norm = true, .grows = true, .last = true, .padding = 2}, {TL_CUDA_BF16, 4, 2, 136, true, .norm = true, .each = true, .padding = 4}, {TL_CUDA_F16, 3, 1, 256, false, .norm = false, .grows = true, .left = true},
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(&shapes[i]);
}

static void test_refused_shapes(void **state) {
  (void)state;
  assert_int_equal(tl_cuda_qkv(&(struct tl_cuda_qkv_args){.n = 1, .n_heads = 1, .n_kv_heads = 1, .head_dim = 60}, NULL), 1);
  assert_int_equal(tl_cuda_qkv(&(struct tl_cuda_qkv_args){.n = 1, .n_heads = 1, .n_kv_heads = 1, .head_dim = 264}, NULL), 1);
  assert_int_equal(tl_cuda_row_squares(&(struct tl_cuda_row_squares_args){.n = 1, .n_heads = 1, .n_kv_heads = 1, .head_dim = 64, .width = 65, .n_ranks = 1}, NULL), 1);
  assert_int_equal(tl_cuda_qkv(&(struct tl_cuda_qkv_args){.n = 1, .n_heads = 1, .n_kv_heads = 1, .head_dim = 64, .norm_last = 1, .row_squares = (float[2]){1, 1}}, NULL), 1);
  assert_int_equal(tl_cuda_qkv(&(struct tl_cuda_qkv_args){.n = 0, .n_heads = 1, .n_kv_heads = 1, .head_dim = 64}, NULL), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_refused_shapes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
