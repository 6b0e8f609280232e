/* SPDX-License-Identifier: MIT */
/* Products on the matrices of GPTQ, AWQ, compressed-tensors and F8 checkpoints, of
 * each instruction set, against their values in double. */
#include "packed_unit.h"
#include "quant_unit.h"

#define ROWS 9

/* Of the exact product; the scale of a quantized input is at most the row's. */
static void check(const struct packed_case *c, const struct tl_tensor *values, const float *x, const float *got, bool rounds) {
  double most = 0;
  for (unsigned k = 0; k < PACKED_COLUMNS; k++) most = fmax(most, fabs((double)x[k]));
  for (unsigned out = 0; out < c->rows; out++) {
    float w[PACKED_COLUMNS];
    tl_tensor_row_to_f32(values, out, w);
    double exact = 0, size = 0;
    for (unsigned k = 0; k < PACKED_COLUMNS; k++) {
      exact += (double)w[k] * (double)x[k];
      size += fabs((double)w[k]);
    }
    double allowed = size * most * (rounds ? 0.51 / 127 : 0) + 1e-5 * (size + 1) * most;
    if (!(fabs((double)got[out] - exact) <= allowed))
      fail_msg("%s: output %u: %g, expected %g within %g", c->name, out, (double)got[out], exact, allowed);
  }
}

static float *multiply_floats(const struct cpu_kernels *kernels, const struct cpu_matrix *w, const float *x, uint32_t m) {
  float *scratch = malloc(CPU_K_BLOCK * CPU_PANEL * sizeof *scratch), *out = malloc(m * CPU_PANEL * sizeof *out);
  float *result = malloc(m * w->n_panels * CPU_PANEL * sizeof *result);
  for (uint32_t p = 0; p < w->n_panels; p++) {
    kernels->gemm(w, p, x, PACKED_COLUMNS, m, out, scratch);
    for (uint32_t i = 0; i < m; i++)
      memcpy(result + (i * w->n_panels + p) * CPU_PANEL, out + i * CPU_PANEL, CPU_PANEL * sizeof *out);
  }
  free(scratch);
  free(out);
  return result;
}

static void check_case(const struct packed_case *c, struct tl_tensor *t, const struct tl_tensor *values,
                       const struct cpu_quant_kernels *quant, const struct cpu_kernels *kernels) {
  struct tl_op op = {.kind = TL_OP_LOGITS, .weight = {0, -1, -1}, .bias = {-1, -1, -1}};
  struct tl_model model = {.tensors = t, .n_tensors = 1, .plan = &op, .n_ops = 1};
  struct tl_device_load load = {.model = &model};
  struct cpu_weights weights;
  struct tl_error err = {0};
  assert_int_equal(cpu_weights_load(&load, &(const struct tl_shard){.size = 1}, &weights, &err), TL_OK);
  const struct cpu_matrix *w = &weights.matrices[0];
  assert_int_equal(w->dtype, c->dtype);
  float *x = numbers(ROWS * PACKED_COLUMNS, 2);
  float *all = w->quant ? multiply_quant(quant, w, x, ROWS) : multiply_floats(kernels, w, x, ROWS);
  float *one = w->quant ? multiply_quant(quant, w, x, 1) : multiply_floats(kernels, w, x, 1);
  for (unsigned i = 0; i < ROWS; i++)
    check(c, values, x + i * PACKED_COLUMNS, all + i * w->n_panels * CPU_PANEL, w->quant);
  assert_memory_equal(one, all, w->n_panels * CPU_PANEL * sizeof *one);
  free(x);
  free(all);
  free(one);
  cpu_weights_free(&weights);
}

static void test_products(void **state) {
  (void)state;
  struct model *m = open_packed();
  for (unsigned i = 0; i < UNIT_COUNT(packed_cases); i++) {
    const struct packed_case *c = &packed_cases[i];
    struct tl_error err = {0};
    int32_t index = find_packed(m, c, &err);
    assert_true(index >= 0);
    for (enum tl_cpu_isa isa = TL_ISA_PLAIN; isa <= tl_cpu_best_isa(); isa++) {
      struct tl_tensor t = m->tensors[index];
      check_case(c, &t, packed_values(m, c), cpu_choose_quant(isa), cpu_choose_kernels(isa));
    }
  }
  tl_model_free(&m->model);
}

/* Rows of a fused matrix are a matrix. */
static void test_rows_of_a_fused_matrix(void **state) {
  (void)state;
  struct model *m = open_packed();
  for (unsigned i = 0; i < UNIT_COUNT(packed_cases); i++) {
    struct packed_case c = packed_cases[i];
    struct tl_error err = {0};
    unsigned first = c.rows / 2 + 1;
    int32_t whole = find_packed(m, &c, &err), part = plan_rows(m, &err, whole, first, c.rows - first);
    struct tl_tensor t = m->tensors[part], values = *packed_values(m, &c);
    c.rows -= first;
    values.data = (const char *)values.data + first * PACKED_COLUMNS * sizeof(float);
    check_case(&c, &t, &values, cpu_choose_quant(tl_cpu_best_isa()), cpu_choose_kernels(tl_cpu_best_isa()));
  }
  tl_model_free(&m->model);
}

/* An odd number of inputs, every byte that is a number; the same bits for each number of rows. */
static void test_f8_of_any_shape(void **state) {
  (void)state;
  enum { OUTS = 37, INS = 51, MOST = 13 };
  static uint8_t bytes[OUTS * INS];
  for (unsigned i = 0; i < sizeof bytes; i++) bytes[i] = (i & 0x7f) == 0x7f ? 0 : (uint8_t)i;
  struct tl_tensor t = {.name = "w", .dtype = TL_DTYPE_F8_E4M3, .n_dims = 2, .shape = {OUTS, INS}, .data = bytes, .bytes = sizeof bytes};
  struct tl_op op = {.kind = TL_OP_LOGITS, .weight = {0, -1, -1}, .bias = {-1, -1, -1}};
  struct tl_model model = {.tensors = &t, .n_tensors = 1, .plan = &op, .n_ops = 1};
  struct tl_device_load load = {.model = &model};
  struct cpu_weights weights;
  struct tl_error err = {0};
  assert_int_equal(cpu_weights_load(&load, &(const struct tl_shard){.size = 1}, &weights, &err), TL_OK);
  const struct cpu_matrix *w = &weights.matrices[0];
  float *x = numbers(MOST * PACKED_COLUMNS, 3);
  for (unsigned i = 0; i < MOST; i++) x[i * PACKED_COLUMNS + INS] = 0; /* fills the odd row up */
  for (enum tl_cpu_isa isa = TL_ISA_PLAIN; isa <= tl_cpu_best_isa(); isa++) {
    const struct cpu_kernels *kernels = cpu_choose_kernels(isa);
    size_t row = w->n_panels * CPU_PANEL;
    float *all = multiply_floats(kernels, w, x, MOST);
    for (uint32_t m = 1; m < MOST; m++) {
      float *some = multiply_floats(kernels, w, x, m);
      assert_memory_equal(some, all, m * row * sizeof *some);
      free(some);
    }
    for (unsigned out = 0; out < OUTS; out++) {
      double exact = 0, size = 0;
      for (unsigned k = 0; k < INS; k++) {
        double product = (double)tl_f8_e4m3_to_f32(bytes[out * INS + k]) * (double)x[k];
        exact += product;
        size += fabs(product);
      }
      assert_true(fabs((double)all[out] - exact) <= 1e-5 * size);
    }
    free(all);
  }
  free(x);
  cpu_weights_free(&weights);
}

/* Q, K and V of two formats: a matrix each; the gate and up of different orders: the second as floats. */
static void test_stacks(void **state) {
  (void)state;
  struct model *m = open_packed();
  struct tl_error err = {0};
  struct tl_tensor t[] = {m->tensors[find_packed(m, &packed_cases[0], &err)], m->tensors[find_packed(m, &packed_cases[2], &err)],
                          m->tensors[find_packed(m, &packed_cases[10], &err)]};
  struct tl_op ops[] = {{.kind = TL_OP_QKV, .weight = {0, 0, 2}, .bias = {-1, -1, -1}},
                        {.kind = TL_OP_GATED_UP, .weight = {0, 1, -1}, .bias = {-1, -1, -1}},
                        {.kind = TL_OP_QKV, .weight = {0, 1, 0}, .bias = {-1, -1, -1}}};
  struct tl_model model = {.tensors = t, .n_tensors = 3, .plan = ops, .n_ops = 3};
  struct tl_device_load load = {.model = &model};
  struct cpu_weights w;
  assert_int_equal(cpu_weights_load(&load, &(const struct tl_shard){.size = 1}, &w, &err), TL_OK);
  assert_true(w.quantized);
  const struct cpu_matrix *q = &w.matrices[0];
  assert_int_equal(q->dtype, TL_DTYPE_INT4);
  assert_int_equal(q->n_out, 40);
  assert_int_equal(q->next->n_out, 40);
  assert_int_equal(q->next->next->dtype, TL_DTYPE_INT8);
  assert_null(q->next->next->next);
  assert_non_null(w.matrices[1].quant);
  assert_int_equal(w.ups[1].dtype, TL_DTYPE_F32);
  assert_null(w.ups[1].quant);
  assert_int_equal(w.matrices[2].dtype, TL_DTYPE_F32);
  assert_int_equal(w.matrices[2].n_out, 120);
  cpu_weights_free(&w);
  tl_model_free(&m->model);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_products), cmocka_unit_test(test_rows_of_a_fused_matrix), cmocka_unit_test(test_stacks),
                                     cmocka_unit_test(test_f8_of_any_shape)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
