/* SPDX-License-Identifier: MIT */
/* The kernels that treat rows on their own, run on fibers, against the formulas. */
#include "device/cuda/ops/cuda_experts.h"
#include "stored_weights.h"

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

/* Rows of the other formats: what a product reads of them. */
static void test_embed_stored(void **state) {
  (void)state;
  enum { N = 4, SLICE = 5, FIRST = 3 };
  const int32_t tokens[N] = {7, 3, 2, -1}, want[N] = {4, 0, -1, -1};
  int32_t *device_tokens = op_copy(tokens, sizeof tokens);
  for (int format = TL_CUDA_WE4M3; format < 2 * TL_CUDA_FORMATS - 1; format++) {
    struct stored w = {.dtype = op_dtypes[format % 2], .format = 1 + (format - 1) % (TL_CUDA_FORMATS - 1), .n = SLICE};
    uint32_t dim = w.k = stored_k(w.format, 2080);
    fill_stored(&w);
    uint16_t *out = op_poisoned(N * dim * 2);
    struct tl_cuda_embed_args a = {.dtype = w.dtype, .n = N, .dim = dim, .tokens = device_tokens, .format = w.format,
                                   .weight = w.weight, .scales = w.scales, .first_token = FIRST, .n_slice = SLICE, .out = out};
    assert_int_equal(op_run(tl_cuda_embed(&a, NULL)), 0);
    for (unsigned i = 0; i < N * dim; i++) {
      double value = want[i / dim] < 0 ? 0 : stored_value(&w, (size_t)want[i / dim], i % dim);
      op_assert_near(w.dtype, op_unpack(w.dtype, out[i]), value, w.format == TL_CUDA_WINT4 || w.format == TL_CUDA_WINT2 ? 1.6 : 1e-2, 2.1);
      if (want[i / dim] < 0) assert_true(op_unpack(w.dtype, out[i]) == 0);
    }
    op_free(out);
    free_stored(&w);
  }
  op_free(device_tokens);
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

static void test_reorder(void **state) {
  (void)state;
  enum { N = 3, K = 88 };
  uint32_t order[K];
  for (uint32_t k = 0; k < K; k++) order[k] = k * 35 % K; /* each once */
  uint32_t *device_order = op_copy(order, sizeof order);
  uint16_t *in = op_halves(TL_CUDA_F16, N * K, 1), *out = op_poisoned(N * K * 2);
  struct tl_cuda_reorder_args a = {.n = N, .k = K, .order = device_order, .in = in, .out = out};
  assert_int_equal(op_run(tl_cuda_reorder(&a, NULL)), 0);
  for (unsigned i = 0; i < N; i++)
    for (unsigned k = 0; k < K; k++) assert_int_equal(out[i * K + k], in[i * K + order[k]]);
  a.k = 84;
  assert_int_equal(tl_cuda_reorder(&a, NULL), 1);
  op_free(device_order);
  op_free(in);
  op_free(out);
}

/* Of choices: by the row that chose, then by entry; a choice of another rank's expert has none. */
static void test_reorder_entries(void **state) {
  (void)state;
  enum { CHOSEN = 2, N = 3 * CHOSEN, K = 40, FIRST = 4 };
  const uint32_t chosen[N] = {5, 4, 9, 5, 4, 5}, places[N] = {3, 0, TL_CUDA_NO_ENTRY, 2, 1, 4};
  uint32_t order[2 * K];
  for (uint32_t k = 0; k < 2 * K; k++) order[k] = k * (k < K ? 3 : 7) % K;
  uint32_t *device_order = op_copy(order, sizeof order), *device_chosen = op_copy(chosen, sizeof chosen);
  uint32_t *device_places = op_copy(places, sizeof places);
  for (uint32_t n_chosen = 0; n_chosen <= CHOSEN; n_chosen += CHOSEN) {
    uint16_t *in = op_halves(TL_CUDA_F16, 5 * K, 1), *out = op_poisoned(6 * K * 2);
    struct tl_cuda_reorder_args a = {.n = N, .k = K, .order = device_order, .in = in, .out = out, .places = device_places,
                                     .chosen = device_chosen, .first_expert = FIRST, .n_chosen = n_chosen};
    assert_int_equal(op_run(tl_cuda_reorder(&a, NULL)), 0);
    for (uint32_t i = 0; i < N; i++)
      for (uint32_t k = 0; k < K && places[i] != TL_CUDA_NO_ENTRY; k++)
        assert_int_equal(out[places[i] * K + k], in[(n_chosen ? i / CHOSEN : places[i]) * K + order[(chosen[i] - FIRST) * K + k]]);
    for (uint32_t k = 0; k < K; k++) assert_int_equal(out[5 * K + k], UINT16_MAX);
    op_free(in);
    op_free(out);
  }
  op_free(device_order);
  op_free(device_chosen);
  op_free(device_places);
}

/* Of choices, times their shares. */
static void test_share_out(void **state) {
  (void)state;
  enum { CHOSEN = 2, N = 3 * CHOSEN, K = 40 };
  const uint32_t places[N] = {3, 0, TL_CUDA_NO_ENTRY, 2, 1, 4};
  uint32_t *device_places = op_copy(places, sizeof places);
  float *shares = op_floats(N, 1);
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    int dtype = op_dtypes[t];
    uint16_t *in = op_halves(dtype, 3 * K, 1), *out = op_poisoned(6 * K * 2);
    struct tl_cuda_reorder_args a = {.dtype = dtype, .n = N, .k = K, .in = in, .out = out, .places = device_places, .n_chosen = CHOSEN,
                                     .shares = shares};
    assert_int_equal(op_run(tl_cuda_reorder(&a, NULL)), 0);
    for (uint32_t i = 0; i < N; i++)
      for (uint32_t k = 0; k < K && places[i] != TL_CUDA_NO_ENTRY; k++)
        assert_int_equal(out[places[i] * K + k], op_pack(dtype, op_unpack(dtype, in[i / CHOSEN * K + k]) * shares[i]));
    for (uint32_t k = 0; k < K; k++) assert_int_equal(out[5 * K + k], UINT16_MAX);
    a.n_chosen = 0;
    assert_int_equal(tl_cuda_reorder(&a, NULL), 1);
    op_free(in);
    op_free(out);
  }
  op_free(device_places);
  op_free(shares);
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

/* What results of a product are still to be multiplied by. */
static struct tl_cuda_rest make_left(uint32_t n, uint32_t dim) {
  return (struct tl_cuda_rest){.rows = op_floats(n, 1), .outputs = op_floats(dim, 1), .factor = 3};
}

static double left_value(const struct tl_cuda_rest *u, int dtype, const uint16_t *in, uint32_t row, uint32_t ld, uint32_t column) {
  double value = u->parts ? 0 : (double)op_unpack(dtype, in[(size_t)row * ld + column]);
  for (uint32_t p = 0; u->parts && p < u->n_parts; p++) value += (double)u->parts[((size_t)p * u->part_rows + row) * ld + column];
  return u->rows ? value * (double)u->rows[row] * (double)u->outputs[column] * (double)u->factor : value;
}

static void free_left(struct tl_cuda_rest *u) {
  op_free((void *)u->rows);
  op_free((void *)u->outputs);
}

/* Rounded by the gate: what quantize makes of `out`, to the bit; the scales may stand where those of gate_up stood. */
static void check_rounded_glu(struct tl_cuda_glu_args a) {
  size_t n = (size_t)a.n * a.dim;
  uint8_t *want = op_poisoned(n), *got = op_poisoned(n);
  float *scales = op_poisoned(a.n * sizeof *scales);
  struct tl_cuda_quantize_args q = {.dtype = a.dtype, .n = a.n, .k = a.dim, .x = a.out, .out = want, .scales = scales};
  assert_int_equal(op_run(tl_cuda_quantize(&q, NULL)), 0);
  a.out = NULL;
  a.rounded = got;
  a.scales = a.left.rows ? (float *)a.left.rows : op_poisoned(a.n * sizeof *scales);
  assert_int_equal(op_run(tl_cuda_glu(&a, NULL)), 0);
  assert_memory_equal(got, want, n);
  assert_memory_equal(a.scales, scales, a.n * sizeof *scales);
  if (!a.left.rows) op_free(a.scales);
  op_free(want);
  op_free(got);
  op_free(scales);
}

static void check_glu(int dtype, uint32_t n, uint32_t dim, bool with_bias, int kind, bool alone, bool scaled) {
  uint32_t ld = alone ? dim : 2 * dim;
  uint16_t *in = op_halves(dtype, n * ld, 6), *out = op_poisoned(n * dim * 2);
  float *bias = op_floats(ld, 1);
  struct tl_cuda_rest left = {0};
  if (scaled) left = make_left(n, ld);
  struct tl_cuda_glu_args a = {.dtype = dtype, .gate = kind, .alone = alone, .n = n, .dim = dim, .gate_up = in, .left = left,
                               .bias = with_bias ? bias : NULL, .out = out, .curve = {0.8f, 0.7f, 0.5f, -1e-6f}};
  assert_int_equal(op_run(tl_cuda_glu(&a, NULL)), 0);
  for (uint32_t i = 0; i < n * dim; i++) {
    uint32_t row = i / dim, column = i % dim;
    double gate = left_value(&left, dtype, in, row, ld, column), up = alone ? 1 : left_value(&left, dtype, in, row, ld, dim + column);
    if (with_bias) {
      gate += bias[column];
      if (!alone) up += bias[dim + column];
    }
    double tanh_of = tanh(sqrt(2 / acos(-1)) * (gate + 0.044715 * gate * gate * gate));
    double want = kind == TL_CUDA_GELU       ? gate * (1 + tanh_of) / 2 * up
                  : kind == TL_CUDA_RELU2    ? fmax(gate, 0) * fmax(gate, 0) * up
                  : kind == TL_CUDA_RELU     ? fmax(gate, 0) * up
                  : kind == TL_CUDA_XIELU    ? (gate > 0 ? 0.8 * gate * gate : 0.7 * (expm1(fmin(gate, -1e-6)) - gate)) * up + 0.5 * gate * up
                  : kind == TL_CUDA_GELU_ERF ? gate * (1 + erf(gate * sqrt(0.5))) / 2 * up
                                             : gate / (1 + exp(-gate)) * up;
    /* 1 + erf of what is far below zero is a small difference */
    op_assert_near(dtype, op_unpack(dtype, out[i]), want, kind == TL_CUDA_GELU_ERF ? 1e-2 : 1e-3, 1);
  }
  if (dim % 16 == 0) check_rounded_glu(a); /* which quantize asks for */
  if (scaled) free_left(&left);
  op_free(in);
  op_free(out);
  op_free(bias);
}

static void test_glu(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    for (int kind = TL_CUDA_SILU; kind <= TL_CUDA_XIELU; kind++) {
      check_glu(op_dtypes[t], 1, 8, false, kind, false, false);
      check_glu(op_dtypes[t], 5, 688, true, kind, false, false);
      check_glu(op_dtypes[t], 2, 2048, false, kind, false, false);
      check_glu(op_dtypes[t], 3, 72, true, kind, true, false);
      check_glu(op_dtypes[t], 2, 2048, false, kind, true, false);
      check_glu(op_dtypes[t], 3, 4112, true, kind, false, true);
      check_glu(op_dtypes[t], 2, 72, false, kind, true, true);
    }
  }
  /* far out: no NaN from infinities in between */
  uint16_t in[16], out[8];
  for (unsigned i = 0; i < 16; i++) in[i] = op_pack(TL_CUDA_BF16, i < 8 ? -200.0f : 1.0f);
  struct tl_cuda_glu_args a = {.dtype = TL_CUDA_BF16, .gate = TL_CUDA_SILU, .n = 1, .dim = 8, .gate_up = op_copy(in, sizeof in), .out = op_poisoned(16)};
  assert_int_equal(op_run(tl_cuda_glu(&a, NULL)), 0);
  memcpy(out, a.out, sizeof out);
  for (unsigned i = 0; i < 8; i++) assert_true(op_unpack(TL_CUDA_BF16, out[i]) == 0);
  op_free((void *)a.gate_up);
  op_free(a.out);
}

struct norm {
  int dtype;
  uint32_t n, dim, width;
  bool first, centered, post, copy, in_place, left;
  float factor;
  uint32_t n_parts;
};

/* One row, in double; `row`: what is behind `width` is zero. */
static void check_norm_row(const struct norm *s, const struct tl_cuda_add_norm_args *a, const float *before, uint32_t row) {
  const uint16_t *delta = a->delta, *h = (const uint16_t *)a->h + row * s->dim;
  double squares = 0, sum = 0, scale = 1, *x = op_alloc(s->dim * sizeof *x);
  for (uint32_t k = 0; k < s->dim; k++) squares += pow(s->factor * left_value(&a->left, s->dtype, delta, row, s->dim, k), 2);
  for (uint32_t k = 0; k < s->dim; k++) {
    x[k] = s->factor * left_value(&a->left, s->dtype, delta, row, s->dim, k);
    if (s->post) x[k] *= a->post[k] / sqrt(squares / s->width + a->post_eps);
    if (!s->first) x[k] += before[row * s->dim + k];
    if (!s->in_place) assert_true(fabs(x[k] - a->x[row * s->dim + k]) <= 1e-5 * (1 + fabs(x[k])));
    sum += x[k];
  }
  double mean = s->centered ? sum / s->width : 0;
  squares = 0;
  for (uint32_t k = 0; k < s->width; k++) squares += (x[k] - mean) * (x[k] - mean);
  if (!s->copy) scale = 1 / sqrt(squares / s->width + a->eps);
  for (uint32_t k = 0; k < s->dim; k++) {
    double want = s->copy ? x[k] : (x[k] - mean) * scale * a->weight[k] + (s->centered ? a->shift[k] : 0);
    op_assert_near(s->dtype, op_unpack(s->dtype, h[k]), want, 1e-2, 1.2);
    if (s->in_place) assert_true(fabs(want - a->x[row * s->dim + k]) <= 1e-4 * (1 + fabs(want))); /* not rounded as h is */
  }
  op_free(x);
}

/* Zeros behind the width of each row. */
static void pad(float *p, uint32_t n, uint32_t dim, uint32_t width) {
  for (uint32_t i = 0; i < n; i++) memset(p + i * dim + width, 0, (dim - width) * sizeof *p);
}

static void check_norm(const struct norm *s) {
  uint32_t n = s->n, dim = s->dim;
  float *x = op_floats(n * dim, 3), *weight = op_floats(dim, 2), *shift = op_floats(dim, 1), *post = op_floats(dim, 2);
  pad(x, n, dim, s->width);
  pad(weight, 1, dim, s->width);
  pad(shift, 1, dim, s->width);
  pad(post, 1, dim, s->width);
  float *before = op_copy(x, n * dim * sizeof *x);
  uint16_t *delta = op_halves(s->dtype, n * dim, 1), *h = op_poisoned(n * dim * 2);
  for (uint32_t i = 0; i < n; i++) memset(delta + i * dim + s->width, 0, (dim - s->width) * 2);
  if (s->first) memset(x, 0xff, n * dim * sizeof *x);
  struct tl_cuda_rest left = {0};
  if (s->left) left = make_left(n, dim);
  if (s->n_parts) { /* and no delta */
    left.n_parts = s->n_parts;
    left.part_rows = n + 2;
    left.parts = op_floats((size_t)s->n_parts * (n + 2) * dim, 1);
    pad((float *)left.parts, s->n_parts * (n + 2), dim, s->width);
    memset(delta, 0xff, n * dim * 2);
  }
  struct tl_cuda_add_norm_args a = {.dtype = s->dtype, .first = s->first, .centered = s->centered, .in_place = s->in_place, .n = n, .dim = dim,
                                    .width = s->width, .eps = 1e-5f, .post_eps = 1e-4f, .factor = s->factor, .x = x,
                                    .delta = delta, .left = left, .post = s->post ? post : NULL, .weight = s->copy ? NULL : weight,
                                    .shift = s->centered ? shift : NULL, .h = h};
  assert_int_equal(op_run(tl_cuda_add_norm(&a, NULL)), 0);
  for (uint32_t i = 0; i < n; i++) check_norm_row(s, &a, before, i);
  if (s->left) free_left(&left);
  if (s->n_parts) op_free((void *)left.parts);
  op_free(x);
  op_free(before);
  op_free(weight);
  op_free(shift);
  op_free(post);
  op_free(delta);
  op_free(h);
}

/* A norm that rounds its rows makes what a norm and `quantize` would, to the bit. */
static void test_rounded_norm(void **state) {
  (void)state;
  static const uint32_t dims[] = {16, 1040, 4096, 20000};
  for (unsigned t = 0; t < 2 * UNIT_COUNT(dims); t++) {
    uint32_t n = t % 3 ? 3 : 9, dim = dims[t / 2];
    int dtype = op_dtypes[t % 2];
    float *x = op_floats((size_t)n * dim, 1), *again = op_copy(x, (size_t)n * dim * sizeof *x), *weight = op_floats(dim, 2);
    uint16_t *delta = op_halves(dtype, (size_t)n * dim, 1), *h = op_poisoned((size_t)n * dim * 2);
    uint8_t *want = op_poisoned((size_t)n * dim), *got = op_poisoned((size_t)n * dim);
    float *scales = op_poisoned(n * sizeof *scales), *got_scales = op_poisoned(n * sizeof *scales);
    memset(delta + dim, 0, dim * sizeof *delta);
    for (uint32_t i = 0; i < dim; i++) x[dim + i] = again[dim + i] = 0; /* a row of zeros */
    struct tl_cuda_add_norm_args a = {.dtype = dtype, .n = n, .dim = dim, .width = dim, .eps = 1e-5f, .factor = 1, .x = x, .delta = delta,
                                      .weight = weight, .h = h};
    struct tl_cuda_quantize_args q = {.dtype = dtype, .n = n, .k = dim, .x = h, .out = want, .scales = scales};
    assert_int_equal(op_run(tl_cuda_add_norm(&a, NULL)), 0);
    assert_int_equal(op_run(tl_cuda_quantize(&q, NULL)), 0);
    a.x = again;
    a.rounded = got;
    a.scales = got_scales;
    assert_int_equal(op_run(tl_cuda_add_norm(&a, NULL)), 0);
    assert_memory_equal(got, want, (size_t)n * dim);
    assert_memory_equal(got_scales, scales, n * sizeof *scales);
    assert_memory_equal(again, x, (size_t)n * dim * sizeof *x);
    void *const all[] = {x, again, weight, delta, h, want, got, scales, got_scales};
    for (unsigned i = 0; i < UNIT_COUNT(all); i++) op_free(all[i]);
  }
}

static void test_norm(void **state) {
  (void)state;
  assert_int_equal(tl_cuda_prepare(), 0);
  const uint32_t dims[] = {8, 64, 2048, 2056, 4096, 12304};
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    for (uint32_t k = 0; k < UNIT_COUNT(dims); k++)
      check_norm(&(struct norm){.dtype = op_dtypes[t], .n = 1 + k % 3, .dim = dims[k], .width = dims[k], .first = k % 2 == 0, .factor = 1});
    for (unsigned k = 0; k < 16; k++) /* every mixture of them */
      check_norm(&(struct norm){.dtype = op_dtypes[t], .n = 2, .dim = k % 2 ? 2056 : 40, .width = k % 2 ? 2049 : 36, .first = k & 1,
                                .centered = (k & 6) == 2, .post = k & 8, .copy = (k & 6) == 4, .factor = k % 3 ? 0.22f : 60});
    for (unsigned k = 0; k < 8; k++)
      check_norm(&(struct norm){.dtype = op_dtypes[t], .n = k & 1 ? 9 : 2, .dim = 2056, .width = 2049, .first = k & 1, .post = k & 2,
                                .left = k < 6, .factor = 2, .n_parts = k < 4 ? 0 : k - 3});
    check_norm(&(struct norm){.dtype = op_dtypes[t], .n = 3, .dim = 72, .width = 72, .left = true, .factor = 1, .n_parts = 8});
    for (unsigned k = 0; k < 4; k++)
      check_norm(&(struct norm){.dtype = op_dtypes[t], .n = k & 1 ? 9 : 2, .dim = 2056, .width = 2049, .first = k & 1, .centered = k & 2,
                                .in_place = true, .factor = 1});
  }
}

static void test_cap(void **state) {
  (void)state;
  enum { N = 3, VOCAB = 131, LD = 132 };
  const float caps[] = {0, 6, 30};
  for (unsigned k = 0; k < UNIT_COUNT(caps); k++) {
    float *logits = op_floats(N * LD, 40), *before = op_copy(logits, N * LD * sizeof *logits), *bias = op_floats(VOCAB, 3);
    struct tl_cuda_cap_args a = {.n = N, .vocab = VOCAB, .ld = LD, .factor = 0.3f, .softcap = caps[k], .logits = logits};
    if (k != 1) a.bias = bias;
    assert_int_equal(op_run(tl_cuda_cap(&a, NULL)), 0);
    for (unsigned i = 0; i < N * LD; i++) {
      double want = ((double)before[i] + (a.bias && i % LD < VOCAB ? (double)bias[i % LD] : 0)) * 0.3;
      if (caps[k] != 0) want = (double)caps[k] * tanh(want / (double)caps[k]);
      if (i % LD < VOCAB) assert_true(fabs(logits[i] - want) <= 1e-5 * (1 + fabs(want)));
    }
    op_free(bias);
    op_free(logits);
    op_free(before);
  }
}

static void test_refused_shapes(void **state) {
  (void)state;
  uint8_t a_byte;
  float a_float;
  assert_int_equal(tl_cuda_embed(&(struct tl_cuda_embed_args){.n = 1, .dim = 12}, NULL), 1);
  assert_int_equal(tl_cuda_embed(&(struct tl_cuda_embed_args){.n = 1, .dim = 48, .format = TL_CUDA_WINT4}, NULL), 1);
  assert_int_equal(tl_cuda_embed(&(struct tl_cuda_embed_args){.n = 1, .dim = 64, .format = TL_CUDA_WMXFP4 + 1}, NULL), 1);
  assert_int_equal(tl_cuda_gather(&(struct tl_cuda_gather_args){.n = 1, .dim = 4}, NULL), 1);
  assert_int_equal(tl_cuda_bias(&(struct tl_cuda_bias_args){.n = UINT32_MAX, .dim = 65536}, NULL), 1);
  assert_int_equal(tl_cuda_glu(&(struct tl_cuda_glu_args){.n = 1, .dim = 15}, NULL), 1);
  assert_int_equal(tl_cuda_glu(&(struct tl_cuda_glu_args){.n = 1, .dim = 16, .rounded = &a_byte}, NULL), 1);
  assert_int_equal(tl_cuda_glu(&(struct tl_cuda_glu_args){.n = 1, .dim = TL_CUDA_GLU_ROUNDED_DIM + 8, .rounded = &a_byte, .scales = &a_float}, NULL), 1);
  assert_int_equal(tl_cuda_add_norm(&(struct tl_cuda_add_norm_args){.n = 1, .dim = 24584, .width = 8}, NULL), 1);
  assert_int_equal(tl_cuda_add_norm(&(struct tl_cuda_add_norm_args){.n = 1, .dim = 16, .width = 17}, NULL), 1);
  assert_int_equal(tl_cuda_add_norm(&(struct tl_cuda_add_norm_args){.n = 1, .dim = 16, .width = 16, .rounded = &a_byte}, NULL), 1);
  assert_int_equal(tl_cuda_cap(&(struct tl_cuda_cap_args){.n = 1, .vocab = 17, .ld = 16}, NULL), 1);
  /* no rows: nothing to launch */
  assert_int_equal(tl_cuda_embed(&(struct tl_cuda_embed_args){.n = 0, .dim = 16}, NULL), 0);
  assert_int_equal(tl_cuda_add_norm(&(struct tl_cuda_add_norm_args){.n = 0, .dim = 16, .width = 9}, NULL), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_embed), cmocka_unit_test(test_embed_stored),  cmocka_unit_test(test_gather), cmocka_unit_test(test_reorder), cmocka_unit_test(test_reorder_entries), cmocka_unit_test(test_share_out), cmocka_unit_test(test_bias),
      cmocka_unit_test(test_glu), cmocka_unit_test(test_norm), cmocka_unit_test(test_rounded_norm), cmocka_unit_test(test_cap), cmocka_unit_test(test_refused_shapes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
