/* SPDX-License-Identifier: MIT */
/* Products of few rows on fibers, in each format, against sums in double. */
#include "stored_weights.h"

struct product {
  int dtype, format;
  uint32_t m, n, k;
  bool bias, float_out;
  int gate;
};

/* What the row x of product p gives at this output, before any gate; *ret_terms: its terms, squared. */
static double plain(const struct product *p, const struct stored *w, const uint16_t *x, const float *bias, uint32_t output,
                    double *ret_terms) {
  double sum = p->bias ? bias[output] : 0;
  *ret_terms = 0;
  for (uint32_t k = 0; k < p->k; k++) {
    double term = stored_value(w, output, k) * op_unpack(p->dtype, x[k]);
    sum += term;
    *ret_terms += term * term;
  }
  return sum;
}

/* How far the kernel may be from that: scaled integers are rounded to the type, which errs as a random walk. */
static double error_of(const struct product *p, double terms) {
  bool exact = p->format == TL_CUDA_W16 || is_e4m3(p->format) || p->format == TL_CUDA_WMXFP4;
  return (exact ? 2e-6 : 6 * (double)op_epsilon(p->dtype)) * sqrt(terms) + 1e-5;
}

static double gate_value(int gate, double x) {
  double tanh_of = tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x));
  return gate == TL_CUDA_GELU ? x * (1 + tanh_of) / 2 : x / (1 + exp(-x));
}

/* On a device with so many multiprocessors: they share the tiles of products of some rows. */
static void check_on(const struct product *p, uint32_t n_multiprocessors) {
  struct stored w = {.dtype = p->dtype, .format = p->format, .n = p->n, .k = p->k};
  fill_stored(&w);
  uint16_t *x = op_halves(p->dtype, (size_t)p->m * p->k, 1);
  float *bias = op_floats(p->n, 3);
  uint32_t n_out = p->gate ? p->n / 2 : p->n, ldo = n_out + 3;
  size_t size = p->float_out ? 4 : 2, bytes = (size_t)p->m * ldo * size;
  uint8_t *out = op_poisoned(bytes);
  struct tl_cuda_gemv_args a = {.dtype = p->dtype, .format = p->format, .gate = p->gate, .m = p->m, .n = p->n, .k = p->k,
                                .n_multiprocessors = n_multiprocessors, .x = x, .weight = w.weight, .scales = w.scales,
                                .bias = p->bias ? bias : NULL, .float_out = p->float_out, .out = out, .ldo = ldo};
  uint32_t n_counters = (p->n + TL_CUDA_BATCH_TILE - 1) / TL_CUDA_BATCH_TILE;
  if (p->m > TL_CUDA_GEMV_MAX_ROWS) {
    a.parts = op_poisoned((size_t)n_multiprocessors * TL_CUDA_BATCH_PARTS);
    a.arrived = memset(op_poisoned(n_counters * sizeof *a.arrived), 0, n_counters * sizeof *a.arrived);
  }
  assert_int_equal(op_run(tl_cuda_gemv(&a, NULL)), 0);
  for (uint32_t i = 0; a.arrived && i < n_counters; i++) assert_int_equal(a.arrived[i], 0);
  for (uint32_t row = 0; row < p->m; row++)
    for (uint32_t output = 0; output < ldo; output++) {
      size_t place = (size_t)row * ldo + output;
      uint32_t bits = p->float_out ? ((uint32_t *)(void *)out)[place] : ((uint16_t *)(void *)out)[place];
      if (output >= n_out) {
        assert_int_equal(bits, p->float_out ? UINT32_MAX : UINT16_MAX);
        continue;
      }
      double terms, up_terms, want = plain(p, &w, x + (size_t)row * p->k, bias, output, &terms), error = error_of(p, terms);
      if (p->gate) { /* the gate's slope is at most 1.13 */
        double up = plain(p, &w, x + (size_t)row * p->k, bias, n_out + output, &up_terms), up_error = error_of(p, up_terms);
        error = 1.13 * error * (fabs(up) + up_error) + fabs(gate_value(p->gate, want)) * up_error;
        want = gate_value(p->gate, want) * up;
        error += 1e-5 * fabs(want);
      }
      if (!p->float_out) error += (double)op_epsilon(p->dtype) * fabs(want);
      float got = p->float_out ? ((float *)(void *)out)[place] : op_unpack(p->dtype, (uint16_t)bits);
      if (!p->float_out && p->dtype == TL_CUDA_F16 && fabs(want) > 65000) {
        assert_true(fabs((double)got) > 64000); /* or beyond what F16 holds */
        continue;
      }
      if (!(fabs(got - want) <= error)) fail_msg("row %u, output %u: %.9g, not %.9g", row, output, (double)got, want);
    }
  free_stored(&w);
  op_free(x);
  op_free(bias);
  op_free(out);
  if (a.parts) op_free(a.parts);
  if (a.arrived) op_free(a.arrived);
}

static void check(const struct product *p) {
  check_on(p, 1);
}

static void test_16_bits(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    int d = op_dtypes[t];
    const struct product products[] = {
        {d, TL_CUDA_W16, 1, 40, 1096, false, false, 0}, {d, TL_CUDA_W16, 3, 7, 8, true, false, 0},
        {d, TL_CUDA_W16, 8, 33, 2048, true, true, 0},   {d, TL_CUDA_W16, 9, 16, 1032, false, true, 0},
        {d, TL_CUDA_W16, 16, 50, 264, true, false, 0}, {d, TL_CUDA_W16, 5, 44, 4104, true, false, 0},  {d, TL_CUDA_W16, 2, 100, 2056, true, false, 0},
        {d, TL_CUDA_W16, 11, 64, 512, true, true, 0},
    };
    for (unsigned i = 0; i < UNIT_COUNT(products); i++) check(&products[i]);
  }
}

static void test_e4m3(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    int d = op_dtypes[t];
    const struct product products[] = {{d, TL_CUDA_WE4M3, 1, 20, 2064, false, true, 0},
                                       {d, TL_CUDA_WE4M3, 5, 17, 144, true, false, 0},
                                       {d, TL_CUDA_WE4M3, 12, 30, 16, false, true, 0}, {d, TL_CUDA_WE4M3, 8, 44, 4112, true, false, 0},
                                       {d, TL_CUDA_WE4M3, 3, 90, 4112, true, true, 0},
                                       {d, TL_CUDA_WE4M3_BLOCKS, 1, 20, 2176, false, true, 0},
                                       {d, TL_CUDA_WE4M3_BLOCKS, 12, 33, 384, true, false, 0},
                                       {d, TL_CUDA_WE4M3_BLOCKS, 5, 90, 1280, true, true, 0}};
    for (unsigned i = 0; i < UNIT_COUNT(products); i++) check(&products[i]);
  }
}

/* Each of the 256, subnormals and signs too: x picks one of k. */
static void test_e4m3_values(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    uint16_t x[256] = {0}, *aligned_x;
    uint8_t weight[256];
    float *one = op_floats(1, 1), *out = op_poisoned(sizeof *out);
    *one = 1;
    for (unsigned i = 0; i < 256; i++) weight[i] = (i & 0x7f) == 0x7f ? 0 : (uint8_t)i;
    for (unsigned i = 0; i < 256; i++) {
      if ((i & 0x7f) == 0x7f) continue;
      x[i] = op_pack(op_dtypes[t], 1);
      aligned_x = op_copy(x, sizeof x);
      uint8_t *aligned_weight = op_copy(weight, sizeof weight);
      struct tl_cuda_gemv_args a = {.dtype = op_dtypes[t], .format = TL_CUDA_WE4M3, .m = 1, .n = 1, .k = 256, .n_multiprocessors = 1,
                                    .x = aligned_x, .weight = aligned_weight, .scales = one, .float_out = 1,
                                    .out = out, .ldo = 1};
      assert_int_equal(op_run(tl_cuda_gemv(&a, NULL)), 0);
      if ((double)*out != e4m3_value((uint8_t)i)) fail_msg("0x%02x is %.9g", i, (double)*out);
      x[i] = 0;
      op_free(aligned_x);
      op_free(aligned_weight);
    }
    op_free(one);
    op_free(out);
  }
}

/* Lengths beside those that a warp, or a block, reads at a time: of what is beyond them nothing may be read or counted. */
static void test_ends(void **state) {
  (void)state;
  static const struct {
    int format;
    uint32_t run, stage; /* run: of which k is a multiple */
  } formats[] = {{TL_CUDA_W16, 8, 128},  {TL_CUDA_WE4M3, 16, 256}, {TL_CUDA_WINT8, 32, 128},
                 {TL_CUDA_WINT8_16, 32, 128}, {TL_CUDA_WINT8_MIN, 32, 128}, {TL_CUDA_WINT4, 32, 256}};
  static const uint32_t rows[] = {1, 2, 7, 8, 9, 16};
  for (unsigned f = 0; f < UNIT_COUNT(formats); f++)
    for (unsigned m = 0; m < UNIT_COUNT(rows); m++) {
      int d = op_dtypes[(f + m) % 2];
      uint32_t run = formats[f].run, stage = formats[f].stage, around = 8 * stage * (1 + m % 2);
      const uint32_t lengths[] = {run, stage - run, stage, stage + run, around - run, around, around + run, 2 * around + stage};
      for (unsigned l = 0; l < UNIT_COUNT(lengths); l++) {
        struct product p = {d, formats[f].format, rows[m], 1 + (f * 7 + m * 5 + l * 3) % 37, lengths[l], l % 2, m % 2, l % 3};
        if (p.gate) p.n *= 2;
        check(&p);
      }
    }
}

/* A row's NaN is in its own outputs only, an output's in its column only: not where rows or outputs are missing, and what
 * stands in for them is another's. */
static void test_nan_stays(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes) * 2; t++) {
    int d = op_dtypes[t % 2];
    uint32_t m = t < 2 ? 3 : 11, n = 19, k = 1032, bad_row = m - 1, bad_output = t % 2 ? 0 : n - 1;
    uint16_t *x = op_halves(d, (size_t)m * k, 1), *w = op_halves(d, (size_t)n * k, 1), nan = op_pack(d, NAN);
    float *out = op_poisoned((size_t)m * n * sizeof *out);
    for (uint32_t i = 0; i < k; i++) x[bad_row * k + i] = nan;
    w[bad_output * k + k - 1] = nan;
    struct tl_cuda_gemv_args a = {.dtype = d, .format = TL_CUDA_W16, .m = m, .n = n, .k = k, .n_multiprocessors = 1, .x = x, .weight = w,
                                  .float_out = 1, .out = out, .ldo = n};
    assert_int_equal(op_run(tl_cuda_gemv(&a, NULL)), 0);
    for (uint32_t i = 0; i < m * n; i++) assert_int_equal(!isnan(out[i]), i / n != bad_row && i % n != bad_output);
    op_free(x);
    op_free(w);
    op_free(out);
  }
}

static void test_integers(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    int d = op_dtypes[t];
    const struct product products[] = {
        {d, TL_CUDA_WINT8, 1, 20, 2080, false, true, 0}, {d, TL_CUDA_WINT8, 7, 33, 96, true, false, 0},
        {d, TL_CUDA_WINT8, 16, 16, 32, false, true, 0}, {d, TL_CUDA_WINT8_MIN, 1, 41, 2080, true, false, 0}, {d, TL_CUDA_WINT4, 2, 44, 4128, true, true, 0},  {d, TL_CUDA_WINT4, 1, 20, 4128, false, true, 0},
        {d, TL_CUDA_WINT8_16, 1, 20, 2080, false, true, 0}, {d, TL_CUDA_WINT8_16, 9, 33, 96, true, false, 0},
        {d, TL_CUDA_WINT8_MIN, 1, 20, 2080, false, true, 0}, {d, TL_CUDA_WINT8_MIN, 12, 33, 96, true, false, 0},
        {d, TL_CUDA_WINT4, 4, 5, 160, true, false, 0},   {d, TL_CUDA_WINT4, 11, 48, 32, false, true, 0},
        {d, TL_CUDA_WINT2, 1, 20, 4160, true, true, 0},  {d, TL_CUDA_WINT2, 5, 44, 192, false, false, 0},
        {d, TL_CUDA_WINT2, 11, 40, 704, false, true, 0}, {d, TL_CUDA_WMXFP4, 1, 41, 2080, true, true, 0},
        {d, TL_CUDA_WMXFP4, 9, 33, 96, false, false, 0},
    };
    for (unsigned i = 0; i < UNIT_COUNT(products); i++)
      if (d == TL_CUDA_BF16 || products[i].format != TL_CUDA_WMXFP4) check(&products[i]);
  }
}

/* One half of a tile's outputs are gates, the other what they let through. */
static void test_gated(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    int d = op_dtypes[t];
    const struct product products[] = {
        {d, TL_CUDA_W16, 1, 2 * 40, 1096, false, false, TL_CUDA_SILU}, {d, TL_CUDA_W16, 9, 2 * 7, 264, true, true, TL_CUDA_GELU},
        {d, TL_CUDA_WE4M3, 5, 2 * 27, 144, true, false, TL_CUDA_SILU}, {d, TL_CUDA_WINT8, 16, 2 * 17, 64, true, true, TL_CUDA_GELU},
        {d, TL_CUDA_WE4M3_BLOCKS, 3, 2 * 21, 256, true, false, TL_CUDA_SILU},
        {d, TL_CUDA_WINT2, 10, 2 * 19, 64, true, false, TL_CUDA_SILU},
        {d, TL_CUDA_WINT4, 1, 2 * 33, 1056, true, false, TL_CUDA_SILU},
    };
    for (unsigned i = 0; i < UNIT_COUNT(products); i++) check(&products[i]);
  }
}

/* Some rows: tiles of outputs that thread blocks have alone, or share, in two parts or in many; with ends of rows, outputs and k. */
static void test_some_rows(void **state) {
  (void)state;
  static const int formats[][2] = {{TL_CUDA_BF16, TL_CUDA_WE4M3_BLOCKS}, {TL_CUDA_BF16, TL_CUDA_WINT4}, {TL_CUDA_F16, TL_CUDA_WINT4}};
  static const struct {
    uint32_t m, n, k, n_multiprocessors;
    int gate;
  } cases[] = {{17, 5, 128, 1, 0},           {64, 256, 384, 1, 0},  {33, 130, 1280, 3, 0},
               {32, 300, 640, 5, 0},         {40, 128, 2048, 7, 0}, {63, 520, 256, 4, 0},
               {24, 2 * 70, 512, 3, TL_CUDA_SILU}, {50, 2 * 131, 896, 2, TL_CUDA_GELU}, {64, 600, 128, 50, 0}};
  for (unsigned f = 0; f < UNIT_COUNT(formats); f++)
    for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
      struct product p = {formats[f][0], formats[f][1], cases[i].m, cases[i].n, cases[i].k, (f + i) % 2, i % 3 == 0, cases[i].gate};
      if (p.format == TL_CUDA_WINT4 && i % 2) p.k -= 32;
      check_on(&p, cases[i].n_multiprocessors);
    }
}

/* A product that makes its rows itself: of a residual and what is added to it, normed. */
struct normed {
  int dtype, format, gate;
  uint32_t m, n, k, width, n_multiprocessors;
  bool first;
  float factor;
};

/* What the product reads in the end, as T, and the residual behind it. */
static void norm_rows(const struct normed *p, const struct tl_cuda_normed_args *norm, double *sums, double *h) {
  for (uint32_t row = 0; row < p->m; row++) {
    double squares = 0, *x = sums + (size_t)row * p->k;
    for (uint32_t i = 0; i < p->k; i++) {
      size_t at = (size_t)row * p->k + i;
      x[i] = (p->first ? 0 : (double)norm->x[at]) + (double)op_unpack(p->dtype, ((const uint16_t *)norm->delta)[at]) * (double)p->factor;
      squares += x[i] * x[i];
    }
    for (uint32_t i = 0; i < p->k; i++)
      h[(size_t)row * p->k + i] = x[i] / sqrt(squares / p->width + (double)norm->eps) * (double)norm->weight[i];
  }
}

static void check_normed(const struct normed *p) {
  size_t size = (size_t)p->m * p->k;
  uint32_t n_out = p->gate ? p->n / 2 : p->n;
  struct stored w = {.dtype = p->dtype, .format = p->format, .n = p->n, .k = p->k};
  fill_stored(&w);
  float *x = op_floats(size, 1), *weight = op_floats(p->k, 1), *x_out = op_poisoned(size * sizeof *x_out);
  float *out = op_poisoned((size_t)p->m * n_out * sizeof *out);
  uint16_t *delta = op_halves(p->dtype, size, 1);
  double *sums = op_alloc(size * sizeof *sums), *h = op_alloc(size * sizeof *h);
  for (size_t i = 0; i < size; i++) {
    if (i % p->k >= p->width) x[i] = 0, delta[i] = 0;
    if (p->first) x[i] = NAN;
  }
  struct tl_cuda_gemv_args a = {.dtype = p->dtype, .format = p->format, .gate = p->gate, .m = p->m, .n = p->n, .k = p->k,
                                .n_multiprocessors = p->n_multiprocessors, .weight = w.weight, .scales = w.scales,
                                .float_out = 1, .out = out, .ldo = n_out};
  struct tl_cuda_normed_args norm = {.product = a, .first = p->first, .width = p->width, .eps = 1e-5f, .factor = p->factor, .x = x,
                                     .x_out = x_out, .delta = delta, .weight = weight};
  assert_int_equal(op_run(tl_cuda_normed(&norm, NULL)), 0);
  norm_rows(p, &norm, sums, h);
  for (size_t i = 0; i < size; i++) assert_true(fabs((double)x_out[i] - sums[i]) <= 2e-7 * (fabs(sums[i]) + 1));
  for (size_t i = 0; i < (size_t)p->m * n_out; i++) {
    double want[2] = {0, 0}, terms[2] = {0, 0}, error[2];
    for (uint32_t half = 0; half < (p->gate ? 2 : 1); half++)
      for (uint32_t k = 0; k < p->k; k++) {
        double term = stored_value(&w, i % n_out + half * n_out, k) * h[i / n_out * p->k + k];
        want[half] += term;
        terms[half] += term * term;
      }
    bool exact = p->format == TL_CUDA_W16 || p->format == TL_CUDA_WE4M3;
    for (int half = 0; half < 2; half++) error[half] = (exact ? 3 : 8) * (double)op_epsilon(p->dtype) * sqrt(terms[half]) + 1e-5;
    double result = p->gate ? gate_value(p->gate, want[0]) * want[1] : want[0];
    double allowed = p->gate ? 1.13 * error[0] * (fabs(want[1]) + error[1]) + fabs(gate_value(p->gate, want[0])) * error[1] : error[0];
    if (!(fabs((double)out[i] - result) <= allowed)) fail_msg("result %zu: %.9g, not %.9g", i, (double)out[i], result);
  }
  free_stored(&w);
  op_free(x);
  op_free(weight);
  op_free(x_out);
  op_free(out);
  op_free(delta);
  op_free(sums);
  op_free(h);
}

static void test_normed(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    int d = op_dtypes[t];
    const struct normed products[] = {
        {d, TL_CUDA_W16, 0, 1, 20, 1096, 1096, 1, false, 1},
        {d, TL_CUDA_W16, TL_CUDA_SILU, 2, 2 * 19, 4104, 4100, 2, false, 0.5f}, /* more than its threads have on their way at once */
        {d, TL_CUDA_W16, 0, 1, 100, 8, 5, 1, true, 3},
        {d, TL_CUDA_W16, 0, 2, 9, 8192, 8192, 1, true, 1},
        {d, TL_CUDA_WE4M3, 0, 1, 44, 4112, 4112, 1, false, 1},
        {d, TL_CUDA_WE4M3, TL_CUDA_GELU, 2, 2 * 40, 2048, 2048, 3, false, 1},
        {d, TL_CUDA_WINT8, 0, 2, 33, 96, 90, 1, true, 1},
        {d, TL_CUDA_WINT4, TL_CUDA_SILU, 1, 2 * 17, 1056, 1056, 1, false, 1},
    };
    for (unsigned i = 0; i < UNIT_COUNT(products); i++) check_normed(&products[i]);
  }
}

static void test_refused_shapes(void **state) {
  (void)state;
  static const float weight;
  static uint32_t place;
  const struct tl_cuda_normed_args bad_norms[] = {
      {.product = {.m = 1, .n = 1, .k = 8200, .n_multiprocessors = 1, .ldo = 1}, .width = 8200, .weight = &weight},
      {.product = {.m = 1, .n = 1, .k = 8, .n_multiprocessors = 1, .ldo = 1}, .width = 0, .weight = &weight},
      {.product = {.m = 1, .n = 1, .k = 8, .n_multiprocessors = 1, .ldo = 1}, .width = 9, .weight = &weight},
      {.product = {.m = 1, .n = 1, .k = 8, .n_multiprocessors = 1, .ldo = 1}, .width = 8},
      {.product = {.m = 3, .n = 1, .k = 8, .n_multiprocessors = 1, .ldo = 1}, .width = 8, .weight = &weight},
      {.product = {.m = 1, .n = 1, .k = 12, .n_multiprocessors = 1, .ldo = 1}, .width = 12, .weight = &weight},
  };
  for (unsigned i = 0; i < UNIT_COUNT(bad_norms); i++) assert_int_equal(tl_cuda_normed(&bad_norms[i], NULL), 1);
  const struct tl_cuda_gemv_args bad[] = {
      {.m = 17, .n = 1, .k = 8, .n_multiprocessors = 1, .ldo = 1, .parts = &place, .arrived = &place},
      {.m = 17, .n = 1, .k = 16, .n_multiprocessors = 1, .ldo = 1, .format = TL_CUDA_WE4M3, .parts = &place, .arrived = &place},
      {.m = 65, .n = 1, .k = 32, .n_multiprocessors = 1, .ldo = 1, .format = TL_CUDA_WINT4, .parts = &place, .arrived = &place},
      {.m = 17, .n = 1, .k = 32, .n_multiprocessors = 1, .ldo = 1, .format = TL_CUDA_WINT4, .arrived = &place},
      {.m = 17, .n = 1, .k = 48, .n_multiprocessors = 1, .ldo = 1, .format = TL_CUDA_WINT4, .parts = &place, .arrived = &place},
      {.m = 1, .n = 2, .k = 8, .n_multiprocessors = 1, .ldo = 1},
      {.m = 1, .n = 1, .k = 8, .ldo = 1},
      {.m = 1, .n = 3, .k = 8, .n_multiprocessors = 1, .ldo = 3, .gate = TL_CUDA_SILU},
      {.m = 1, .n = 4, .k = 8, .n_multiprocessors = 1, .ldo = 1, .gate = TL_CUDA_SILU},
      {.m = 1, .n = 1, .k = 12, .n_multiprocessors = 1, .ldo = 1},
      {.m = 1, .n = 1, .k = 24, .n_multiprocessors = 1, .ldo = 1, .format = TL_CUDA_WE4M3},
      {.m = 1, .n = 1, .k = 64, .n_multiprocessors = 1, .ldo = 1, .format = TL_CUDA_WE4M3_BLOCKS},
      {.m = 1, .n = 1, .k = 48, .n_multiprocessors = 1, .ldo = 1, .format = TL_CUDA_WINT8},
      {.m = 1, .n = 1, .k = 48, .n_multiprocessors = 1, .ldo = 1, .format = TL_CUDA_WINT4},
      {.m = 1, .n = 1, .k = 64, .n_multiprocessors = 1, .ldo = 1, .format = TL_CUDA_WMXFP4, .dtype = TL_CUDA_F16},
      {.m = 1, .n = 1, .k = 64, .n_multiprocessors = 1, .ldo = 1, .format = TL_CUDA_WMXFP4 + 1},
      {.m = 1, .n = 1, .k = 32, .n_multiprocessors = 1, .ldo = 1, .format = TL_CUDA_WINT2},
  };
  for (unsigned i = 0; i < UNIT_COUNT(bad); i++) assert_int_equal(tl_cuda_gemv(&bad[i], NULL), 1);
  assert_int_equal(tl_cuda_gemv(&(struct tl_cuda_gemv_args){.m = 0, .n = 1, .k = 8, .n_multiprocessors = 1, .ldo = 1}, NULL), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_16_bits), cmocka_unit_test(test_e4m3), cmocka_unit_test(test_e4m3_values), cmocka_unit_test(test_integers),
      cmocka_unit_test(test_gated),   cmocka_unit_test(test_ends), cmocka_unit_test(test_nan_stays), cmocka_unit_test(test_some_rows), cmocka_unit_test(test_normed),
      cmocka_unit_test(test_refused_shapes),
  };
  return cmocka_run_group_tests(tests, op_prepare, NULL);
}
