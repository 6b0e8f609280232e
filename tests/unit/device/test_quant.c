/* SPDX-License-Identifier: MIT */
/* Products on quantized weights of each instruction set, against the values that the
 * model room makes of the same bytes (test_gguf.c compares those with the `gguf`
 * package) in double. */
#include "quant_unit.h"
#include "model/model_private.h"

/* What an activation is rounded to, and by how much it may be off. */
static void round_row(const float *x, uint32_t n, double *rounded, double *off) {
  for (uint32_t k = 0; k < n; k += 32) {
    double most = 0;
    for (uint32_t i = 0; i < 32; i++) most = fmax(most, fabs((double)x[k + i]));
    float scale = (float)most / 127;
    for (uint32_t i = 0; i < 32; i++) {
      rounded[k + i] = (double)scale * rint((double)(x[k + i] * (most > 0 ? 127 / (float)most : 0)));
      off[k + i] = 0.5001 * (double)scale;
    }
  }
}

/* Of the row's rounded inputs exactly, and of its own within what rounding them can do. */
static void check_row(const char *what, const struct tl_tensor *t, const float *x, const float *got) {
  uint32_t n = (uint32_t)t->shape[1];
  float *w = malloc(n * sizeof *w);
  double *rounded_x = malloc(n * sizeof *rounded_x), *off = malloc(n * sizeof *off);
  round_row(x, n, rounded_x, off);
  for (uint32_t out = 0; out < t->shape[0]; out++) {
    tl_tensor_row_to_f32(t, out, w);
    double exact = 0, of_rounded = 0, size = 0, allowed = 0;
    for (uint32_t k = 0; k < n; k++) {
      exact += (double)w[k] * (double)x[k];
      of_rounded += (double)w[k] * rounded_x[k];
      size += (fabs((double)w[k]) + 1) * fabs(rounded_x[k]);
      allowed += fabs((double)w[k]) * off[k];
    }
    if (!(fabs((double)got[out] - of_rounded) <= 2e-6 * size + 1e-30))
      fail_msg("%s: output %u: %g, expected %g of rounded inputs", what, out, (double)got[out], of_rounded);
    if (!(fabs((double)got[out] - exact) <= allowed + 2e-6 * size + 1e-30))
      fail_msg("%s: output %u: %g, expected %g within %g", what, out, (double)got[out], exact, allowed);
  }
  free(w);
  free(rounded_x);
  free(off);
}

/* Rows of different sizes, one of zeros, one with a single input. */
static float *new_rows(uint32_t m, uint32_t n) {
  float *x = malloc((size_t)m * n * sizeof *x);
  for (uint32_t i = 0; i < m; i++)
    for (uint32_t k = 0; k < n; k++)
      x[(size_t)i * n + k] = i % 8 == 6 ? 0 : i % 8 == 7 ? (float)(k == n / 2) : number(i % 3 ? 3 : 1e4f);
  return x;
}

static void check_format(const struct cpu_quant_kernels *kernels, enum tl_dtype dtype, uint32_t n_out, uint32_t n_in) {
  static const uint32_t heights[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 26};
  uint32_t most = heights[UNIT_COUNT(heights) - 1];
  struct tl_tensor t = new_quant(dtype, n_out, n_in);
  struct cpu_weights weights = pack_quant(&t);
  const struct cpu_matrix *w = &weights.matrices[0];
  uint32_t ld = w->n_panels * CPU_PANEL;
  float *x = new_rows(most, n_in), *all = multiply_quant(kernels, w, x, most);
  char what[100];
  for (uint32_t i = 0; i < most; i++) {
    snprintf(what, sizeof what, "%s %s (%u, %u) row %u", kernels->name, tl_dtype_name(dtype), n_out, n_in, i);
    check_row(what, &t, x + (size_t)i * n_in, all + (size_t)i * ld);
  }
  for (unsigned h = 0; h < UNIT_COUNT(heights); h++) {
    /* a row's result does not depend on how many there are */
    float *some = multiply_quant(kernels, w, x, heights[h]);
    for (size_t k = 0; k < (size_t)heights[h] * ld; k++)
      if (!same_bits(some[k], all[k])) fail_msg("%s %s: %u rows: element %zu", kernels->name, tl_dtype_name(dtype), heights[h], k);
    free(some);
  }
  free(all);
  free(x);
  cpu_weights_free(&weights);
  free_quant(&t);
}

static void formats_of(const struct cpu_quant_kernels *kernels) {
  static const uint32_t blocks[] = {1, 2, 5};
  for (enum tl_dtype dtype = TL_DTYPE_Q4_0; dtype <= TL_DTYPE_MXFP4; dtype++)
    for (unsigned i = 0; i < UNIT_COUNT(blocks); i++) {
      uint32_t block = tl_quant_format(dtype)->block;
      check_format(kernels, dtype, i == 1 ? 64 : 35, blocks[i] * block);
      if (block == 32) check_format(kernels, dtype, 7, 256 + blocks[i] * 32);
    }
}

static void test_formats(void **state) {
  (void)state;
  for_all_quants(formats_of);
}

/* Whether byte i of a block is part of a half or an exponent. */
static bool scales_block(enum tl_dtype dtype, const uint8_t *block, unsigned i) {
  uint8_t copy[TL_QUANT_BLOCK];
  struct tl_quant_block before = {.d = 0}, after = {.d = 0};
  memcpy(copy, block, tl_quant_format(dtype)->block_bytes);
  quant_read_bytes(dtype, copy, &before);
  copy[i] ^= 0x55;
  quant_read_bytes(dtype, copy, &after);
  return before.d != after.d || before.m != after.m;
}

/* The largest codes against the largest inputs: nothing saturates. */
static void extremes_of(const struct cpu_quant_kernels *kernels) {
  for (enum tl_dtype dtype = TL_DTYPE_Q4_0; dtype <= TL_DTYPE_MXFP4; dtype++)
    for (unsigned pattern = 0; pattern < 4; pattern++) {
      struct tl_tensor t = new_quant(dtype, 32, 256);
      unsigned block_bytes = tl_quant_format(dtype)->block_bytes, low = dtype == TL_DTYPE_Q8_0 ? 0x80 : 0;
      uint8_t *at = (uint8_t *)(uintptr_t)t.data;
      for (size_t i = 0; i < t.bytes; i++)
        if (!scales_block(dtype, at + i / block_bytes * block_bytes, (unsigned)(i % block_bytes)))
          at[i] = (uint8_t)((pattern & 1 ? 0xff : 0) ^ low);
      float x[256];
      for (unsigned k = 0; k < 256; k++) x[k] = pattern & 2 ? -127 : 127;
      struct cpu_weights weights = pack_quant(&t);
      float *got = multiply_quant(kernels, &weights.matrices[0], x, 1);
      check_row(tl_dtype_name(dtype), &t, x, got);
      free(got);
      cpu_weights_free(&weights);
      free_quant(&t);
    }
}

static void test_extremes(void **state) {
  (void)state;
  for_all_quants(extremes_of);
}

/* A NaN or an infinity makes its row one, and no other. */
static void not_numbers_of(const struct cpu_quant_kernels *kernels) {
  struct tl_tensor t = new_quant(TL_DTYPE_Q4_K, 32, 512);
  struct cpu_weights weights = pack_quant(&t);
  enum { ROWS = 9 };
  float *x = numbers(ROWS * 512, 1), *clean = multiply_quant(kernels, &weights.matrices[0], x, ROWS);
  for (unsigned i = 0; i < ROWS; i += 3) x[i * 512 + 80 * i + 7] = i % 2 ? NAN : -INFINITY;
  float *got = multiply_quant(kernels, &weights.matrices[0], x, ROWS);
  for (unsigned i = 0; i < ROWS * CPU_PANEL; i++) {
    if (i / CPU_PANEL % 3 == 0)
      assert_false(isfinite(got[i]));
    else
      assert_true(same_bits(got[i], clean[i]));
  }
  free(x);
  free(clean);
  free(got);
  cpu_weights_free(&weights);
  free_quant(&t);
}

static void test_not_numbers(void **state) {
  (void)state;
  for_all_quants(not_numbers_of);
}

/* All instruction sets agree but for the order of a product and its scale. */
static void test_rows(void **state) {
  (void)state;
  uint32_t order[64];
  float x[64];
  for (unsigned k = 0; k < 64; k++) {
    order[k] = k * 37 % 64;
    x[k] = number(k < 32 ? 1 : 1e-3f);
  }
  x[order[5]] = 0.5f;
  x[order[7]] = 2;
  struct cpu_quant_cell expected[2] = {0}, got[2] = {0};
  cpu_quant_plain.quantize(x, order, 64, expected);
  for (enum tl_cpu_isa isa = TL_ISA_PLAIN; isa <= tl_cpu_best_isa(); isa++) {
    memset(got, 0, sizeof got);
    cpu_choose_quant(isa)->quantize(x, order, 64, got);
    assert_memory_equal(got, expected, sizeof got);
  }
  assert_int_equal(got[0].codes[7], 127);
  assert_int_equal(got[0].codes[5], 32); /* 31.75 */
  int32_t sums[2] = {0};
  for (unsigned k = 0; k < CPU_CELL; k++) sums[k / 16] -= got[1].codes[k];
  assert_int_equal(got[1].sums[0], sums[0]);
  assert_int_equal(got[1].sums[1], sums[1]);
  assert_int_equal(got[1].sums[2], sums[0] + sums[1]);
  for (unsigned i = 0; i < 3; i++) assert_true(got[1].mins[i] == got[1].scale * (float)got[1].sums[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_formats),
      cmocka_unit_test(test_extremes),
      cmocka_unit_test(test_not_numbers),
      cmocka_unit_test(test_rows),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
