/* SPDX-License-Identifier: MIT */
/* Each kernel of each instruction set, but attention, against plain loops in double,
 * on sizes that leave tails everywhere. */
#include <math.h>

#include "kernel_unit.h"

/* --- weights ---------------------------------------------------------------------------- */

/* A tensor at an odd address, as files may have it. */
static struct tl_tensor new_tensor(enum tl_dtype dtype, uint32_t rows, uint32_t columns) {
  struct tl_tensor t = {.name = "w", .dtype = dtype, .n_dims = columns ? 2 : 1, .shape = {rows, columns}};
  size_t n = (size_t)rows * (columns ? columns : 1);
  t.bytes = n * tl_dtype_bytes(dtype);
  char *data = malloc(t.bytes + 1);
  for (size_t i = 0; i < n; i++) put(dtype, data + 1, i, number(1));
  t.data = data + 1;
  return t;
}

static void free_tensors(struct tl_tensor *tensors, unsigned n) {
  for (unsigned i = 0; i < n; i++) free((char *)(uintptr_t)tensors[i].data - 1);
}

static float value_at(const struct tl_tensor *t, size_t element) {
  float value;
  tl_dtype_to_f32(t->dtype, (const char *)t->data + element * tl_dtype_bytes(t->dtype), &value, 1);
  return value;
}

static struct cpu_weights pack_plan(struct tl_tensor *tensors, uint32_t n_tensors, const struct tl_op *plan,
                                    uint32_t n_ops) {
  struct tl_model model = {.tensors = tensors, .n_tensors = n_tensors, .plan = plan, .n_ops = n_ops};
  struct tl_device_load load = {.model = &model};
  struct tl_shard whole = {.size = 1};
  struct cpu_weights weights;
  struct tl_error err = {0};
  if (cpu_weights_load(&load, &whole, &weights, &err) < 0) fail_msg("%s", err.message);
  return weights;
}

/* One matrix alone. */
static struct cpu_weights pack_one(struct tl_tensor *tensor) {
  struct tl_op op = {.kind = TL_OP_LOGITS, .weight = {0, -1, -1}, .bias = {-1, -1, -1}};
  return pack_plan(tensor, 1, &op, 1);
}

/* Where the layout in cpu_private.h puts input k of an output. */
static float packed(const struct cpu_matrix *w, uint32_t out, uint32_t k) {
  size_t element = w->dtype == TL_DTYPE_BF16
                       ? ((size_t)(k / 2) * CPU_PANEL + out % CPU_PANEL) * 2 + k % 2
                       : (size_t)k * CPU_PANEL + out % CPU_PANEL;
  float value;
  tl_dtype_to_f32(w->dtype, w->panels + out / CPU_PANEL * w->panel_bytes + element * tl_dtype_bytes(w->dtype), &value, 1);
  return value;
}

/* Stacked outputs `base` ... of a matrix are this tensor's rows. */
static void check_packed(const struct cpu_matrix *w, uint32_t base, const struct tl_tensor *t) {
  for (uint32_t row = 0; row < t->shape[0]; row++)
    for (uint32_t k = 0; k < w->n_in; k++)
      if (!same_bits(packed(w, base + row, k), value_at(t, (size_t)row * w->n_in + k))) fail_msg("row %u, input %u", row, k);
}

static void check_padding(const struct cpu_matrix *w) {
  assert_int_equal(w->n_panels, (w->n_out + CPU_PANEL - 1) / CPU_PANEL);
  assert_int_equal(w->k_padded, (w->n_in + 1) / 2 * 2);
  for (uint32_t out = 0; out < w->n_panels * CPU_PANEL; out++)
    for (uint32_t k = 0; k < w->k_padded; k++)
      if ((out >= w->n_out || k >= w->n_in) && packed(w, out, k) != 0) fail_msg("padding at %u, %u", out, k);
}

/* A whole layer's records: stacked q, k, v of which one may have another format. */
static void test_packing(void **state) {
  (void)state;
  for (unsigned variant = 0; variant < 5; variant++) {
    enum tl_dtype dtype = (enum tl_dtype)(variant % 3), other = variant < 3 ? dtype : (enum tl_dtype)((variant + 1) % 3);
    uint32_t n_in = 7 + variant;
    struct tl_tensor t[] = {new_tensor(dtype, 40, n_in), new_tensor(dtype, 33, n_in), new_tensor(other, 5, n_in),
                            new_tensor(dtype, 27, n_in), new_tensor(other, 33, 0),    new_tensor(dtype, 27, 0),
                            new_tensor(dtype, n_in, 0),  new_tensor(other, 31, n_in), new_tensor(dtype, 31, n_in),
                            new_tensor(dtype, 31, 0)};
    const struct tl_op plan[] = {
        {.kind = TL_OP_EMBED, .weight = {0, -1, -1}, .bias = {-1, -1, -1}},
        {.kind = TL_OP_RMSNORM, .weight = {6, -1, -1}, .bias = {-1, -1, -1}},
        {.kind = TL_OP_QKV, .weight = {1, 2, 3}, .bias = {4, -1, 5}},
        {.kind = TL_OP_ROPE, .weight = {-1, -1, -1}, .bias = {-1, -1, -1}},
        {.kind = TL_OP_GATED_UP, .weight = {7, 8, -1}, .bias = {-1, 9, -1}},
        {.kind = TL_OP_LOGITS, .weight = {0, -1, -1}, .bias = {-1, -1, -1}},
    };
    struct cpu_weights w = pack_plan(t, UNIT_COUNT(t), plan, UNIT_COUNT(plan));
    assert_memory_equal(w.embed.rows, t[0].data, t[0].bytes);
    assert_int_equal(w.embed.dtype, dtype);
    for (uint32_t i = 0; i < n_in; i++) assert_true(same_bits(w.norms[1][i], value_at(&t[6], i)));
    for (uint32_t i = n_in; i < 16; i++) assert_true(w.norms[1][i] == 0);
    assert_int_equal(w.matrices[2].n_out, 65);
    assert_int_equal(w.matrices[2].dtype, dtype == other ? dtype : TL_DTYPE_F32);
    for (uint32_t i = 0, base = 0; i < 3; base += (uint32_t)t[1 + i++].shape[0]) check_packed(&w.matrices[2], base, &t[1 + i]);
    for (uint32_t i = 0; i < 96; i++) {
      float expected = i < 33 ? value_at(&t[4], i) : i >= 38 && i < 65 ? value_at(&t[5], i - 38) : 0;
      assert_true(w.matrices[2].bias[i] == expected);
    }
    check_packed(&w.matrices[4], 0, &t[7]);
    check_packed(&w.ups[4], 0, &t[8]);
    assert_null(w.matrices[4].bias);
    assert_non_null(w.ups[4].bias);
    check_packed(&w.matrices[5], 0, &t[0]);
    for (unsigned i = 2; i < 6; i++)
      if (w.matrices[i].n_out) check_padding(&w.matrices[i]);
    cpu_weights_free(&w);
    free_tensors(t, UNIT_COUNT(t));
  }
}

/* --- products ------------------------------------------------------------------------------- */

static bool rounds_rows(const struct cpu_kernels *kernels, enum tl_dtype dtype) {
  return kernels->convert && dtype == TL_DTYPE_BF16;
}

/* The rows as gemm wants them; to be freed. */
static void *prepare(const struct cpu_kernels *kernels, enum tl_dtype dtype, const float *x, size_t ldx, uint32_t m) {
  size_t n = m * ldx;
  float *copy = malloc(n * sizeof *copy);
  memcpy(copy, x, n * sizeof *copy);
  if (!rounds_rows(kernels, dtype)) return copy;
  uint32_t *pairs = malloc(n / 2 * sizeof *pairs);
  for (uint32_t i = 0; i < m; i++) kernels->convert(copy + i * ldx, pairs + i * (ldx / 2), ldx / 2);
  free(copy);
  return pairs;
}

/* out (m, n_panels * 32) of all panels. */
static float *multiply(const struct cpu_kernels *kernels, const struct cpu_matrix *w, const float *x, size_t ldx, uint32_t m) {
  void *rows = prepare(kernels, w->dtype, x, ldx, m);
  float *scratch = malloc(CPU_K_BLOCK * CPU_PANEL * sizeof *scratch);
  float *result = malloc((size_t)m * w->n_panels * CPU_PANEL * sizeof *result);
  for (uint32_t p = 0; p < w->n_panels; p++) {
    float *out = numbers((size_t)m * CPU_PANEL, 1);
    kernels->gemm(w, p, rows, ldx, m, out, scratch);
    for (uint32_t i = 0; i < m; i++)
      memcpy(result + ((size_t)i * w->n_panels + p) * CPU_PANEL, out + (size_t)i * CPU_PANEL, CPU_PANEL * sizeof *out);
    free(out);
  }
  free(scratch);
  free(rows);
  return result;
}

static void check_product(const struct cpu_kernels *kernels, const struct cpu_matrix *w, const struct tl_tensor *t,
                          const float *x, size_t ldx, uint32_t m, const float *got) {
  for (uint32_t i = 0; i < m; i++)
    for (uint32_t out = 0; out < w->n_out; out++) {
      double sum = 0, size = 0;
      for (uint32_t k = 0; k < w->n_in; k++) {
        float value = x[i * ldx + k];
        if (rounds_rows(kernels, w->dtype)) value = rounded(TL_DTYPE_BF16, value);
        double product = (double)value * (double)value_at(t, (size_t)out * w->n_in + k);
        sum += product;
        size += fabs(product);
      }
      double result = (double)got[(size_t)i * w->n_panels * CPU_PANEL + out];
      if (!(fabs(result - sum) <= (w->n_in + 4) * 0x1p-23 * size + 1e-37))
        fail_msg("%s %s (%u, %u) rows %u: row %u, output %u: %g, expected %g", kernels->name, tl_dtype_name(w->dtype),
                 w->n_out, w->n_in, m, i, out, result, sum);
    }
}

static void check_gemm(const struct cpu_kernels *kernels, enum tl_dtype dtype, uint32_t n_out, uint32_t n_in, float range) {
  static const uint32_t heights[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 25, 40};
  struct tl_tensor t = new_tensor(dtype, n_out, n_in);
  struct cpu_weights weights = pack_one(&t);
  const struct cpu_matrix *w = &weights.matrices[0];
  size_t ldx = (n_in + 31) / 32 * 32, most = heights[UNIT_COUNT(heights) - 1];
  float *x = numbers(most * ldx, range);
  /* inputs are zero up to an even number; what lies behind is not to be read */
  for (size_t i = 0; i < most; i++)
    for (size_t k = n_in; k < ldx; k++) x[i * ldx + k] = k < w->k_padded ? 0 : NAN;
  float *all = multiply(kernels, w, x, ldx, (uint32_t)most);
  check_product(kernels, w, &t, x, ldx, (uint32_t)most, all);
  for (unsigned i = 0; i < UNIT_COUNT(heights); i++) {
    /* a row's result does not depend on how many there are */
    float *some = multiply(kernels, w, x, ldx, heights[i]);
    for (size_t k = 0; k < (size_t)heights[i] * w->n_panels * CPU_PANEL; k++)
      if (!same_bits(some[k], all[k])) fail_msg("%s: %u rows of (%u, %u): element %zu", kernels->name, heights[i], n_out, n_in, k);
    free(some);
  }
  free(all);
  free(x);
  cpu_weights_free(&weights);
  free_tensors(&t, 1);
}

static void gemm_of(const struct cpu_kernels *kernels) {
  static const uint32_t outs[] = {1, 31, 33, 64}, ins[] = {1, 2, 3, 17, 64, 255, 256, 257, 513};
  for (enum tl_dtype dtype = TL_DTYPE_F32; dtype <= TL_DTYPE_BF16; dtype++)
    for (unsigned o = 0; o < UNIT_COUNT(outs); o++)
      for (unsigned i = 0; i < UNIT_COUNT(ins); i++) {
        if (UNIT_SLOWDOWN > 1 && (o + i) % 2 && ins[i] > 64) continue;
        float range = (o + i) % 3 == 0 ? 1e18f : (o + i) % 3 == 1 ? 1e-18f : 1;
        check_gemm(kernels, dtype, outs[o], ins[i], range);
      }
}

static void test_gemm(void **state) {
  (void)state;
  for_all_kernels(gemm_of);
}

/* A row with a NaN or an infinity does not touch its neighbours. */
static void rows_apart_of(const struct cpu_kernels *kernels) {
  struct tl_tensor t = new_tensor(TL_DTYPE_BF16, 32, 40);
  struct cpu_weights weights = pack_one(&t);
  enum { ROWS = 30, LDX = 64 };
  float *x = numbers(ROWS * LDX, 1);
  float *clean = multiply(kernels, &weights.matrices[0], x, LDX, ROWS);
  for (unsigned i = 0; i < ROWS; i += 3) x[i * LDX + i] = i % 2 ? NAN : INFINITY;
  float *got = multiply(kernels, &weights.matrices[0], x, LDX, ROWS);
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
  free_tensors(&t, 1);
}

static void test_rows_apart(void **state) {
  (void)state;
  for_all_kernels(rows_apart_of);
}

/* Every 16-bit pattern times one: unpacking is exact in short and tall products. */
static void patterns_of(const struct cpu_kernels *kernels) {
  for (enum tl_dtype dtype = TL_DTYPE_F16; dtype <= TL_DTYPE_BF16; dtype++) {
    struct tl_tensor t = new_tensor(dtype, 65536, 1);
    uint16_t *bits = malloc(65536 * sizeof *bits);
    for (unsigned i = 0; i < 65536; i++) bits[i] = (uint16_t)i;
    memcpy((char *)(uintptr_t)t.data, bits, t.bytes);
    free(bits);
    struct cpu_weights weights = pack_one(&t);
    float x[40 * 32] = {0};
    for (unsigned i = 0; i < 40; i++) x[i * 32] = 1;
    for (uint32_t m = 1; m <= 40; m += 39) {
      float *got = multiply(kernels, &weights.matrices[0], x, 32, m);
      for (unsigned i = 0; i < 65536; i++) {
        float expected = dtype == TL_DTYPE_BF16 ? tl_bf16_to_f32((uint16_t)i) : tl_f16_to_f32((uint16_t)i);
        float value = got[(size_t)(m - 1) * 65536 + i];
        if (isnan(expected) ? isnan(value) : value == expected) continue;
        /* the instruction itself takes subnormal numbers as zero */
        if (rounds_rows(kernels, dtype) && fpclassify(expected) == FP_SUBNORMAL && value == 0) continue;
        fail_msg("%s %s: %04x is %a, expected %a", kernels->name, tl_dtype_name(dtype), i, (double)value, (double)expected);
      }
      free(got);
    }
    cpu_weights_free(&weights);
    free_tensors(&t, 1);
  }
}

static void test_patterns(void **state) {
  (void)state;
  for_all_kernels(patterns_of);
}

/* --- BF16 products ------------------------------------------------------------------------------ */

/* VDPBF16PS as Intel's manual has it, one lane: `a` and `b` are pairs, low half first. */
static float dot_lane(float sum, uint32_t a, uint32_t b) {
  sum = fmaf(tl_bf16_to_f32((uint16_t)(a >> 16)), tl_bf16_to_f32((uint16_t)(b >> 16)), sum);
  return fmaf(tl_bf16_to_f32((uint16_t)a), tl_bf16_to_f32((uint16_t)b), sum);
}

/* From the weights as the file has them, so the panels' layout is checked as well. */
static void dot_of(const struct cpu_kernels *kernels) {
  if (!kernels->convert) return;
  static const uint32_t sizes[][2] = {{1, 1}, {33, 2}, {31, 17}, {64, 63}, {40, 300}};
  for (unsigned s = 0; s < UNIT_COUNT(sizes); s++)
    for (uint32_t m = 1; m <= 25; m += 4) {
      uint32_t n_out = sizes[s][0], n_in = sizes[s][1], ldx = (n_in + 31) / 32 * 32;
      struct tl_tensor t = new_tensor(TL_DTYPE_BF16, n_out, n_in);
      struct cpu_weights weights = pack_one(&t);
      float *x = numbers((size_t)m * ldx, 3);
      for (size_t i = 0; i < m; i++) memset(x + i * ldx + n_in, 0, (ldx - n_in) * sizeof *x);
      float *got = multiply(kernels, &weights.matrices[0], x, ldx, m);
      for (uint32_t i = 0; i < m; i++)
        for (uint32_t out = 0; out < n_out; out++) {
          float sum = 0;
          for (uint32_t k = 0; k < n_in; k += 2) {
            uint32_t w = tl_f32_to_bf16(value_at(&t, (size_t)out * n_in + k)), pair = tl_f32_to_bf16(x[i * ldx + k]);
            if (k + 1 < n_in) w |= (uint32_t)tl_f32_to_bf16(value_at(&t, (size_t)out * n_in + k + 1)) << 16;
            pair |= (uint32_t)tl_f32_to_bf16(x[i * ldx + k + 1]) << 16;
            sum = dot_lane(sum, w, pair);
          }
          float value = got[((size_t)i * weights.matrices[0].n_panels) * CPU_PANEL + out];
          if (!same_bits(value, sum)) fail_msg("(%u, %u) rows %u: row %u, output %u: %a, expected %a", n_out, n_in, m, i, out, (double)value, (double)sum);
        }
      free(got);
      free(x);
      cpu_weights_free(&weights);
      free_tensors(&t, 1);
    }
}

static void test_dot(void **state) {
  (void)state;
  for_all_kernels(dot_of);
}

static void convert_of(const struct cpu_kernels *kernels) {
  if (!kernels->convert) return;
  enum { N = 1 << 14 };
  float *x = malloc(N * sizeof *x);
  uint32_t *pairs = malloc(N / 2 * sizeof *pairs);
  static const uint32_t ends[] = {0x00000000, 0x80000000, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7f7f7fff,
                                  0x7f7f8000, 0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001, 0x00000001, 0x00008000,
                                  0x00008001, 0x7f800001, 0x7fffffff, 0xffffffff, 0xff800001, 0x7fc00000};
  for (unsigned i = 0; i < N; i++) {
    uint32_t bits = i < UNIT_COUNT(ends) ? ends[i] : (uint32_t)unit_random(&random_state);
    memcpy(&x[i], &bits, sizeof bits);
  }
  kernels->convert(x, pairs, N / 2);
  for (unsigned i = 0; i < N; i++) {
    uint16_t got = (uint16_t)(pairs[i / 2] >> (i % 2 ? 16 : 0));
    if (isnan(x[i]) ? !isnan(tl_bf16_to_f32(got)) : got != tl_f32_to_bf16(x[i])) fail_msg("%a is %04x", (double)x[i], got);
  }
  free(x);
  free(pairs);
}

static void test_convert(void **state) {
  (void)state;
  for_all_kernels(convert_of);
}

/* --- elementwise ------------------------------------------------------------------------------------ */

static void rmsnorm_of(const struct cpu_kernels *kernels) {
  static const uint32_t sizes[] = {1, 2, 15, 16, 17, 31, 35, 64, 100, 1000, 4099};
  static const float ranges[] = {1, 1e-3f, 1e15f, 1e-15f, 0};
  for (unsigned s = 0; s < UNIT_COUNT(sizes); s++)
    for (unsigned r = 0; r < UNIT_COUNT(ranges); r++) {
      uint32_t n = sizes[s], padded = (n + 15) / 16 * 16;
      float *x = numbers(padded, ranges[r]), *weight = numbers(padded, 2), *h = numbers(padded, 1), eps = r % 2 ? 1e-5f : 1e-6f;
      for (uint32_t i = n; i < padded; i++) x[i] = weight[i] = 0;
      kernels->rmsnorm(h, x, weight, n, eps);
      double sum = 0;
      for (uint32_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
      for (uint32_t i = 0; i < padded; i++) {
        double expected = (double)x[i] / sqrt(sum / n + (double)eps) * (double)weight[i];
        if (!(fabs((double)h[i] - expected) <= 1e-5 * fabs(expected) + 1e-37))
          fail_msg("%s: %u of %u: %g, expected %g", kernels->name, i, n, (double)h[i], expected);
      }
      /* in place, as a caller may */
      kernels->rmsnorm(x, x, weight, n, eps);
      assert_memory_equal(x, h, padded * sizeof *x);
      free(x);
      free(weight);
      free(h);
    }
}

static void test_rmsnorm(void **state) {
  (void)state;
  for_all_kernels(rmsnorm_of);
}

static void silu_of(const struct cpu_kernels *kernels) {
  static const float special[] = {0, -0.0f, 1, -1, 87, -87, 88, -88, 89, -89, 100, -100, 1000, -1000, 1e4f, -1e4f,
                                  1e20f, 1e-30f, -1e-30f, 1e-40f, INFINITY, NAN};
  for (unsigned range = 0; range < 8; range++) {
    enum { N = 64 };
    float *gate = numbers(N, powf(4, (float)range)), *up = numbers(N, 2), *m = numbers(N, 1);
    if (range == 0) memcpy(gate, special, sizeof special);
    kernels->silu_mul(m, gate, up, N);
    for (unsigned i = 0; i < N; i++) {
      double g = (double)gate[i], expected = g / (1 + exp(-g)) * (double)up[i];
      bool fine = isnan(g) ? isnan(m[i]) : isinf(g) ? isinf(m[i]) : fabs((double)m[i] - expected) <= 1e-6 * fabs(expected) + 1e-30;
      if (!fine) fail_msg("%s: silu(%g) * %g: %g, expected %g", kernels->name, g, (double)up[i], (double)m[i], expected);
    }
    kernels->silu_mul(gate, gate, up, N);
    assert_memory_equal(gate, m, N * sizeof *m);
    free(gate);
    free(up);
    free(m);
  }
}

static void test_silu(void **state) {
  (void)state;
  for_all_kernels(silu_of);
}

/* Against libm's; without `up` it is times 1, and in place it is the same. */
static void gelu_erf_of(const struct cpu_kernels *kernels) {
  static const float special[] = {0, -0.0f, 1, -1, 4, -4, 6, -6, 13, -13, 1000, -1000, 1e20f, 1e-30f, -1e-30f, NAN};
  for (unsigned range = 0; range < 6; range++) {
    enum { N = 64 };
    float *gate = numbers(N, powf(3, (float)range) / 9), *up = numbers(N, 2), *m = numbers(N, 1), *plain = numbers(N, 1);
    if (range == 0) memcpy(gate, special, sizeof special);
    kernels->gelu_erf_mul(m, gate, up, N);
    kernels->gelu_erf_mul(plain, gate, NULL, N);
    for (unsigned i = 0; i < N; i++) {
      double g = (double)gate[i], expected = g / 2 * (1 + erf(g / sqrt(2)));
      bool fine = isnan(g) ? isnan(plain[i]) && isnan(m[i])
                           : fabs((double)plain[i] - expected) <= 1e-6 * fmax(1, fabs(expected)) &&
                                 fabs((double)m[i] - expected * (double)up[i]) <= 2e-6 * fmax(1, fabs(expected));
      if (!fine) fail_msg("%s: gelu(%g): %g, expected %g", kernels->name, g, (double)plain[i], expected);
    }
    kernels->gelu_erf_mul(gate, gate, NULL, N);
    assert_memory_equal(gate, plain, N * sizeof *m);
    free(gate);
    free(up);
    free(m);
    free(plain);
  }
}

static void test_gelu_erf(void **state) {
  (void)state;
  for_all_kernels(gelu_erf_of);
}

static void gelu_of(const struct cpu_kernels *kernels) {
  enum { N = 64 };
  for (unsigned range = 0; range < 8; range++) {
    float *gate = numbers(N, powf(4, (float)range)), *up = numbers(N, 2), *m = numbers(N, 1), *plain = numbers(N, 1), ones[N];
    gate[3] = range ? gate[3] : NAN;
    for (unsigned i = 0; i < N; i++) ones[i] = 1;
    kernels->gelu_mul(m, gate, ones, N);
    kernels->gelu_mul(plain, gate, NULL, N);
    assert_memory_equal(plain, m, N * sizeof *m);
    free(plain);
    kernels->gelu_mul(m, gate, up, N);
    for (unsigned i = 0; i < N; i++) {
      double g = (double)gate[i];
      double expected = 0.5 * g * (1 + tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))) * (double)up[i];
      bool fine = isnan(g) ? isnan(m[i]) : fabs((double)m[i] - expected) <= 1e-6 * (1 + fabs(expected));
      if (!fine) fail_msg("%s: gelu(%g) * %g: %g, expected %g", kernels->name, g, (double)up[i], (double)m[i], expected);
    }
    free(gate);
    free(up);
    free(m);
  }
}

static void test_gelu(void **state) {
  (void)state;
  for_all_kernels(gelu_of);
}

static void softcap_of(const struct cpu_kernels *kernels) {
  enum { N = 64 };
  for (unsigned range = 0; range < 6; range++) {
    float *x = numbers(N, powf(4, (float)range)), *capped = malloc(N * sizeof *capped);
    x[5] = NAN;
    memcpy(capped, x, N * sizeof *x);
    kernels->softcap(capped, N, 30);
    for (unsigned i = 0; i < N; i++) {
      double expected = 30 * tanh((double)x[i] / 30);
      if (isnan(x[i]) ? !isnan(capped[i]) : !(fabs((double)capped[i] - expected) <= 1e-5))
        fail_msg("%s: softcap(%g): %g, expected %g", kernels->name, (double)x[i], (double)capped[i], expected);
    }
    free(x);
    free(capped);
  }
}

static void test_softcap(void **state) {
  (void)state;
  for_all_kernels(softcap_of);
}

static void max_of_kernels(const struct cpu_kernels *kernels) {
  for (size_t n = 1; n <= 70; n++) {
    float *x = numbers(n, 100), best = x[0];
    for (size_t i = 1; i < n; i++) best = x[i] > best ? x[i] : best;
    assert_true(kernels->max(x, n) == best);
    for (size_t i = 0; i < n; i++) {
      float keep = x[i];
      x[i] = 1e30f;
      assert_true(kernels->max(x, n) == 1e30f);
      x[i] = INFINITY;
      assert_true(kernels->max(x, n) == INFINITY);
      x[i] = NAN;
      assert_true(isnan(kernels->max(x, n)));
      if (n > 1) {
        x[(i + 1) % n] = INFINITY;
        assert_true(isnan(kernels->max(x, n)));
        x[(i + 1) % n] = number(100);
      }
      x[i] = keep;
    }
    for (size_t i = 0; i < n; i++) x[i] = -INFINITY;
    assert_true(kernels->max(x, n) == -INFINITY);
    x[n / 2] = -1e38f;
    assert_true(kernels->max(x, n) == -1e38f);
    free(x);
  }
}

static void test_max(void **state) {
  (void)state;
  for_all_kernels(max_of_kernels);
}

static void exp_sum_of(const struct cpu_kernels *kernels) {
  static const float ranges[] = {0, 1e-4f, 1, 10, 100, 1e6f};
  for (size_t n = 1; n <= 70; n++)
    for (unsigned r = 0; r < UNIT_COUNT(ranges); r++) {
      float *x = numbers(n, ranges[r]);
      for (size_t i = 0; r == 3 && i < n; i += 3) x[i] = -INFINITY;
      x[n / 2] = ranges[r];
      double expected = 0;
      for (size_t i = 0; i < n; i++) expected += exp((double)x[i] - (double)ranges[r]);
      float *each = malloc(n * sizeof *each);
      double got = kernels->exp_sum(x, n, ranges[r], NULL), again = kernels->exp_sum(x, n, ranges[r], each);
      if (!(fabs(got - expected) <= 1e-6 * expected)) fail_msg("%s: %zu: %.9g, expected %.9g", kernels->name, n, got, expected);
      assert_true(got == again);
      for (size_t i = 0; i < n; i++) {
        double e = exp((double)(x[i] - ranges[r]));
        if (!(fabs((double)each[i] - e) <= 1e-6 * e + 2e-38)) fail_msg("%s: exp(%g) is %g", kernels->name, (double)x[i], (double)each[i]);
      }
      free(each);
      free(x);
    }
}

static void test_exp_sum(void **state) {
  (void)state;
  for_all_kernels(exp_sum_of);
}

static void sum_above_of(const struct cpu_kernels *kernels) {
  for (size_t n = 1; n <= 700; n += n < 40 ? 1 : 37) {
    float *x = numbers(n, 10), *p = numbers(n, 1), floor = x[n / 3];
    double expected = 0;
    for (size_t i = 0; i < n; i++) expected += x[i] >= floor ? (double)p[i] : 0;
    assert_true(fabs(kernels->sum_above(p, x, n, floor) - expected) <= 1e-5);
    assert_true(kernels->sum_above(p, x, n, INFINITY) == 0);
    unsigned count = 0;
    for (size_t i = 0; i < n; i++) count += x[i] >= floor;
    assert_true(kernels->sum_above(NULL, x, n, floor) == count);
    free(x);
    free(p);
  }
}

static void test_sum_above(void **state) {
  (void)state;
  for_all_kernels(sum_above_of);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_packing), cmocka_unit_test(test_gemm),    cmocka_unit_test(test_rows_apart),
      cmocka_unit_test(test_patterns), cmocka_unit_test(test_dot),    cmocka_unit_test(test_convert),
      cmocka_unit_test(test_rmsnorm), cmocka_unit_test(test_silu), cmocka_unit_test(test_gelu_erf),    cmocka_unit_test(test_max),
      cmocka_unit_test(test_exp_sum), cmocka_unit_test(test_gelu),    cmocka_unit_test(test_softcap),
      cmocka_unit_test(test_sum_above),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
