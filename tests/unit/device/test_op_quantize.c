/* SPDX-License-Identifier: MIT */
/* Stored formats to 16 bits, rows to E4M3, and scales of products of them, by the kernels. */
#include "device/cuda/ops/cuda_e4m3.h"
#include "stored_weights.h"

/* The nearest of all 254 numbers, the even one of two. */
static uint8_t nearest_e4m3(float value) {
  uint8_t best = 0;
  double error = INFINITY;
  for (unsigned bits = 0; bits < 0x7f; bits++) {
    double e = fabs(fabs((double)value) - e4m3_value((uint8_t)bits));
    if (e > error || (e == error && bits % 2)) continue;
    best = (uint8_t)bits;
    error = e;
  }
  return (uint8_t)(best | (signbit(value) ? 0x80 : 0));
}

static void test_to_e4m3(void **state) {
  (void)state;
  for (unsigned bits = 0; bits < 256; bits++)
    if ((bits & 0x7f) != 0x7f) assert_int_equal(tl_cuda_to_e4m3((float)e4m3_value((uint8_t)bits)), bits);
  for (int i = 0; i < 20000; i++) {
    float value = ldexpf(op_number(1), (int)unit_below(&op_random, 24) - 14);
    assert_int_equal(tl_cuda_to_e4m3(value), nearest_e4m3(value));
  }
  /* halfway: to the even one */
  for (unsigned bits = 0; bits < 0x7e; bits++) {
    float middle = (float)((e4m3_value((uint8_t)bits) + e4m3_value((uint8_t)(bits + 1))) / 2);
    assert_int_equal(tl_cuda_to_e4m3(middle), bits + bits % 2);
    assert_int_equal(tl_cuda_to_e4m3(-middle), (bits + bits % 2) | 0x80);
  }
  assert_int_equal(tl_cuda_to_e4m3(1e30f), 0x7e);
  assert_int_equal(tl_cuda_to_e4m3(-INFINITY), 0xfe);
  assert_int_equal(tl_cuda_to_e4m3(NAN), 0x7f);
}

static void check_quantize(int dtype, uint32_t n, uint32_t k) {
  uint16_t *x = op_halves(dtype, (size_t)n * k, 3);
  uint8_t *out = op_poisoned((size_t)n * k);
  float *scales = op_poisoned(n * sizeof *scales);
  for (uint32_t i = 0; n > 1 && i < k; i++) x[k + i] = 0; /* row 1 */
  if (n > 2) x[2 * k + k - 1] = op_pack(dtype, NAN);
  struct tl_cuda_quantize_args a = {.dtype = dtype, .n = n, .k = k, .x = x, .out = out, .scales = scales};
  assert_int_equal(op_run(tl_cuda_quantize(&a, NULL)), 0);
  for (uint32_t row = 0; row < n; row++) {
    float most = 0;
    for (uint32_t i = 0; i < k; i++) most = fmaxf(most, fabsf(op_unpack(dtype, x[row * k + i])));
    if (row == 2) {
      assert_true(isnan(scales[row]));
      continue;
    }
    assert_true(fabsf(scales[row] - (row == 1 ? 1 : most / 448)) <= 1e-6f * scales[row]);
    for (uint32_t i = 0; i < k; i++) {
      double want = op_unpack(dtype, x[row * k + i]) / (double)scales[row], got = e4m3_value(out[row * k + i]);
      assert_true(fabs(got - want) <= fmax(fabs(want) / 16, 0x1p-10) * 1.0001);
    }
  }
  op_free(x);
  op_free(out);
  op_free(scales);
}

static void test_quantize(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    check_quantize(op_dtypes[t], 1, 16);
    check_quantize(op_dtypes[t], 3, 4112);
    check_quantize(op_dtypes[t], 2, 2048);
    check_quantize(op_dtypes[t], 1, 18448); /* more than threads keep */
  }
}

/* Rows so small that the inverse of their scale would be no number. */
static void test_quantize_tiny(void **state) {
  (void)state;
  enum { K = 32 };
  uint16_t *x = op_poisoned(K * sizeof *x);
  uint8_t *out = op_poisoned(K);
  float *scales = op_poisoned(sizeof *scales);
  for (unsigned i = 0; i < K; i++) x[i] = tl_f32_to_bf16(i % 2 ? 0x1p-130f : -0x1p-133f);
  struct tl_cuda_quantize_args a = {.dtype = TL_CUDA_BF16, .n = 1, .k = K, .x = x, .out = out, .scales = scales};
  assert_int_equal(op_run(tl_cuda_quantize(&a, NULL)), 0);
  assert_true(*scales == 0x1p-126f);
  for (unsigned i = 0; i < K; i++) assert_true(e4m3_value(out[i]) == (i % 2 ? 0x1p-4 : -0x1p-7));
  op_free(x);
  op_free(out);
  op_free(scales);
}

static void check_scale(int dtype, bool float_out, uint32_t m, uint32_t n, uint32_t ld) {
  float *rows = op_floats(m, 2), *outputs = op_floats(n, 0.5f);
  size_t bytes = float_out ? sizeof(float) : 2;
  void *before = float_out ? (void *)op_floats((size_t)m * ld, 3) : (void *)op_halves(dtype, (size_t)m * ld, 3);
  void *y = op_copy(before, (size_t)m * ld * bytes);
  struct tl_cuda_scale_args a = {.dtype = dtype, .float_out = float_out, .m = m, .n = n, .ld = ld, .factor = 4, .rows = rows,
                                 .outputs = outputs, .y = y};
  assert_int_equal(op_run(tl_cuda_scale(&a, NULL)), 0);
  for (uint32_t i = 0; i < m * ld; i++) {
    double by = i % ld < n ? (double)rows[i / ld] * (double)outputs[i % ld] * 4 : 1; /* what lies between rows stays */
    if (float_out) {
      double want = (double)((float *)before)[i] * by;
      assert_true(fabs((double)((float *)y)[i] - want) <= 1e-6 * fabs(want));
    } else {
      op_assert_near(dtype, op_unpack(dtype, ((uint16_t *)y)[i]), (double)op_unpack(dtype, ((uint16_t *)before)[i]) * by, 1e-4, 1.01);
    }
  }
  op_free(rows);
  op_free(outputs);
  op_free(before);
  op_free(y);
}

static void test_scale(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    check_scale(op_dtypes[t], false, 1, 16, 16);
    check_scale(op_dtypes[t], false, 3, 4112, 4128);
    check_scale(op_dtypes[t], true, 3, 2064, 2068);
  }
}

static void test_dequantize(void **state) {
  (void)state;
  const int formats[] = {TL_CUDA_WE4M3, TL_CUDA_WE4M3_BLOCKS, TL_CUDA_WINT8, TL_CUDA_WINT8_16, TL_CUDA_WINT8_MIN, TL_CUDA_WINT4, TL_CUDA_WINT2, TL_CUDA_WMXFP4};
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes) * UNIT_COUNT(formats); t++) {
    int dtype = formats[t / 2] == TL_CUDA_WMXFP4 ? TL_CUDA_BF16 : op_dtypes[t % 2];
    struct stored w = {.dtype = dtype, .format = formats[t / 2], .n = 5, .k = stored_k(formats[t / 2], 2080)};
    fill_stored(&w);
    uint16_t *out = op_poisoned((size_t)w.n * w.k * 2);
    struct tl_cuda_dequantize_args a = {.dtype = dtype, .format = w.format, .n = w.n, .k = w.k, .weight = w.weight,
                                        .scales = w.scales, .out = out};
    assert_int_equal(op_run(tl_cuda_dequantize(&a, NULL)), 0);
    for (uint32_t row = 0; row < w.n; row++)
      for (uint32_t i = 0; i < w.k; i++) {
        /* of these scale and minimum are rounded to the type as well; below 1e-4 F16 is subnormal */
        bool small = w.format == TL_CUDA_WINT4 || w.format == TL_CUDA_WINT2;
        op_assert_near(dtype, op_unpack(dtype, out[row * w.k + i]), stored_value(&w, row, i), small ? 1.6 : 1e-4,
                       small ? 2.1 : 1.01);
      }
    op_free(out);
    free_stored(&w);
  }
}

/* Each of the 256 but NaN to the very bits, the sign of zero too. */
static void test_e4m3_bits(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    uint8_t codes[256], *weight;
    for (unsigned i = 0; i < 256; i++) codes[i] = (uint8_t)i;
    weight = op_copy(codes, sizeof codes);
    float *one = op_floats(1, 1);
    *one = 1;
    uint16_t *out = op_poisoned(256 * sizeof *out);
    struct tl_cuda_dequantize_args a = {.dtype = op_dtypes[t], .format = TL_CUDA_WE4M3, .n = 1, .k = 256, .weight = weight, .scales = one,
                                        .out = out};
    assert_int_equal(op_run(tl_cuda_dequantize(&a, NULL)), 0);
    for (unsigned i = 0; i < 256; i++)
      if ((i & 0x7f) != 0x7f) assert_int_equal(out[i], op_pack(op_dtypes[t], (float)e4m3_value((uint8_t)i)));
    op_free(weight);
    op_free(one);
    op_free(out);
  }
}

/* Bytes by factors of all sizes, less a min: the nearest of the type. */
static void test_bytes_are_rounded_once(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes) * 2; t++) {
    int dtype = op_dtypes[t % 2];
    struct stored w = {.dtype = dtype, .format = t < 2 ? TL_CUDA_WINT8 : TL_CUDA_WINT8_MIN, .n = 64, .k = 256};
    fill_stored(&w);
    for (unsigned i = 0; i < w.n * w.k; i++) w.weight[i] = (uint8_t)i;
    uint16_t *out = op_poisoned((size_t)w.n * w.k * 2);
    struct tl_cuda_dequantize_args a = {.dtype = dtype, .format = w.format, .n = w.n, .k = w.k, .weight = w.weight, .scales = w.scales,
                                        .out = out};
    assert_int_equal(op_run(tl_cuda_dequantize(&a, NULL)), 0);
    for (unsigned i = 0; i < w.n * w.k; i++) {
      double want = stored_value(&w, i / w.k, i % w.k), got = op_unpack(dtype, out[i]);
      double above = op_unpack(dtype, (uint16_t)(out[i] + 1)), below = op_unpack(dtype, (uint16_t)(out[i] - 1));
      if (got == 0) continue; /* its neighbours are of both signs */
      assert_true(fabs(got - want) <= fabs(above - want) * (1 + 1e-6) && fabs(got - want) <= fabs(below - want) * (1 + 1e-6));
    }
    op_free(out);
    free_stored(&w);
  }
}

static void test_refused_shapes(void **state) {
  (void)state;
  assert_int_equal(tl_cuda_quantize(&(struct tl_cuda_quantize_args){.n = 1, .k = 24}, NULL), 1);
  assert_int_equal(tl_cuda_scale(&(struct tl_cuda_scale_args){.m = 1, .n = 20, .ld = 24}, NULL), 1);
  assert_int_equal(tl_cuda_scale(&(struct tl_cuda_scale_args){.m = 1, .n = 16, .ld = 20}, NULL), 1);
  assert_int_equal(tl_cuda_scale(&(struct tl_cuda_scale_args){.m = 0, .n = 16, .ld = 16}, NULL), 0);
  assert_int_equal(tl_cuda_dequantize(&(struct tl_cuda_dequantize_args){.n = 1, .k = 32, .format = TL_CUDA_W16}, NULL), 1);
  assert_int_equal(tl_cuda_dequantize(&(struct tl_cuda_dequantize_args){.n = 1, .k = 48, .format = TL_CUDA_WINT4}, NULL), 1);
  assert_int_equal(tl_cuda_dequantize(&(struct tl_cuda_dequantize_args){.n = 0, .k = 32, .format = TL_CUDA_WINT8}, NULL), 0);
  assert_int_equal(tl_cuda_quantize(&(struct tl_cuda_quantize_args){.n = 0, .k = 32}, NULL), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_to_e4m3),    cmocka_unit_test(test_quantize),
      cmocka_unit_test(test_quantize_tiny), cmocka_unit_test(test_scale),
      cmocka_unit_test(test_dequantize), cmocka_unit_test(test_e4m3_bits), cmocka_unit_test(test_bytes_are_rounded_once), cmocka_unit_test(test_refused_shapes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
