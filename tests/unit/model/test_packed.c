/* SPDX-License-Identifier: MIT */
/* Matrices in several tensors: the values that tests/golden/make_packed.py meant, and
 * parts that do not fit one another. */
#include <math.h>

#include "packed_unit.h"

static void test_values(void **state) {
  (void)state;
  struct model *m = open_packed();
  for (unsigned i = 0; i < UNIT_COUNT(packed_cases); i++) {
    const struct packed_case *c = &packed_cases[i];
    struct tl_error err = {0};
    int32_t index = find_packed(m, c, &err);
    if (index < 0) fail_msg("%s: %s", c->name, err.message);
    /* asked for again (a tied head): the same, or there by its name */
    int32_t again = find_packed(m, c, &err);
    if (again != index) {
      char name[64];
      snprintf(name, sizeof name, "%s.weight", c->name);
      assert_int_equal(again, TL_ENOTFOUND);
      assert_int_equal(model_find_tensor(m, name), index);
    }
    const struct tl_tensor *t = &m->tensors[index], *values = packed_values(m, c);
    assert_int_equal(t->dtype, c->dtype);
    for (unsigned row = 0; row < c->rows; row++) {
      float got[PACKED_COLUMNS], expected[PACKED_COLUMNS];
      tl_tensor_row_to_f32(t, row, got);
      tl_tensor_row_to_f32(values, row, expected);
      for (unsigned k = 0; k < PACKED_COLUMNS; k++) {
        /* scale * (code - offset) - scale * (zero - offset) is rounded otherwise than scale * (code - zero) */
        float off = got[k] - expected[k];
        if (!(off <= 1e-6f && off >= -1e-6f))
          fail_msg("%s: row %u, %u: %g, expected %g", c->name, row, k, (double)got[k], (double)expected[k]);
      }
    }
  }
  tl_model_free(&m->model);
}

static void check_rows(const struct packed_case *c, const struct tl_tensor *part, const struct tl_tensor *values, unsigned first) {
  for (unsigned row = 0; row < part->shape[0]; row++) {
    float got[PACKED_COLUMNS], expected[PACKED_COLUMNS];
    tl_tensor_row_to_f32(part, row, got);
    tl_tensor_row_to_f32(values, first + row, expected);
    for (unsigned k = 0; k < PACKED_COLUMNS; k++) {
      float off = got[k] - expected[k];
      if (!(off <= 1e-6f && off >= -1e-6f))
        fail_msg("%s: row %u + %u, %u: %g, expected %g", c->name, first, row, k, (double)got[k], (double)expected[k]);
    }
  }
}

/* Rows of a fused matrix, and rows of those: each begins where integers of a word and runs of a scale do not. */
static void test_rows_of_a_fused_matrix(void **state) {
  (void)state;
  struct model *m = open_packed();
  for (unsigned i = 0; i < UNIT_COUNT(packed_cases); i++) {
    const struct packed_case *c = &packed_cases[i];
    struct tl_error err = {0};
    int32_t whole = find_packed(m, c, &err);
    assert_true(whole >= 0);
    size_t bytes = m->tensors[whole].bytes;
    unsigned first = c->rows * 3 / 4 - 1, rows = c->rows - first;
    int32_t part = plan_rows(m, &err, whole, first, rows);
    assert_true(part >= 0);
    assert_int_equal(m->tensors[part].shape[0], rows);
    assert_true(m->tensors[part].bytes <= bytes * rows / c->rows && m->tensors[part].bytes > 0);
    check_rows(c, &m->tensors[part], packed_values(m, c), first);
    int32_t inner = plan_rows(m, &err, part, 3, rows - 3);
    assert_true(inner >= 0);
    check_rows(c, &m->tensors[inner], packed_values(m, c), first + 3);
    check_rows(c, &m->tensors[whole], packed_values(m, c), 0);
  }
  tl_model_free(&m->model);
}

/* n inputs of a record are the rows of `values`, one matrix behind the other. */
static void check_inputs(const struct tl_model *model, const struct tl_op *op, unsigned n, const char *name) {
  int32_t index = model_find_tensor((const struct model *)model, name);
  if (index < 0) fail_msg("no tensor %s", name);
  const struct tl_tensor *values = &model->tensors[index];
  unsigned at = 0;
  for (unsigned i = 0; i < n; i++) {
    const struct tl_tensor *t = &model->tensors[op->weight[i]];
    assert_non_null(t->packed);
    for (unsigned row = 0; row < t->shape[0]; row++, at++) {
      float got[64], expected[64];
      tl_tensor_row_to_f32(t, row, got);
      tl_tensor_row_to_f32(values, at, expected);
      for (unsigned k = 0; k < 64; k++)
        if (!(got[k] - expected[k] <= 1e-6f && expected[k] - got[k] <= 1e-6f))
          fail_msg("%s: row %u, %u: %g, expected %g", name, at, k, (double)got[k], (double)expected[k]);
    }
  }
  assert_int_equal(at, values->shape[0]);
}

/* Phi-3, whose Q, K, V and whose gate and up are one matrix each. */
static void test_fused_models(void **state) {
  (void)state;
  static const char *const names[] = {"phi3_gptq", "phi3_awq", "phi3_f8", "phi3_nvfp4"};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    char name[64], path[1024];
    snprintf(name, sizeof name, "packed/%s", names[i]);
    struct tl_error err = {0};
    struct tl_model *model;
    if (tl_model_load(unit_golden_path(name, path), &model, &err) < 0) fail_msg("%s: %s", names[i], err.message);
    unsigned found = 0;
    for (uint32_t k = 0; k < model->n_ops; k++) {
      const struct tl_op *op = &model->plan[k];
      if (op->kind == TL_OP_QKV) check_inputs(model, op, 3, "model.layers.0.self_attn.qkv_proj.values");
      if (op->kind == TL_OP_GATED_UP) check_inputs(model, op, 2, "model.layers.0.mlp.gate_up_proj.values");
      found += op->kind == TL_OP_QKV || op->kind == TL_OP_GATED_UP;
    }
    assert_int_equal(found, 2);
    assert_int_equal(model->n_parameters, 2 * 131 * 64 + 3 * 64 + (128 + 104) * 64 + 64 * 64 + 64 * 52);
    tl_model_free(model);
  }
}

static struct tl_tensor *tensor(struct model *m, const char *name) {
  int32_t i = model_find_tensor(m, name);
  if (i < 0) fail_msg("no tensor %s", name);
  return &m->tensors[i];
}

static void expect_from(struct model *m, unsigned which, const char *file, const char *message) {
  struct tl_error err = {0};
  int32_t r = find_packed(m, &packed_cases[which], &err);
  assert_true(r == TL_ECORRUPT || r == TL_EUNSUPPORTED);
  if (!strstr(err.message, message) || !strstr(err.message, file)) fail_msg("'%s': expected '%s'", err.message, message);
}

static void expect(struct model *m, unsigned which, const char *message) {
  expect_from(m, which, "packed.safetensors: tensor '", message);
}

/* Of a tensor whose data a test has put elsewhere. */
static void expect_elsewhere(struct model *m, unsigned which, const char *message) {
  expect_from(m, which, "model: tensor '", message);
}

static void test_parts_that_do_not_fit(void **state) {
  (void)state;
  struct model *m = open_packed();
  tensor(m, "gptq_32.scales")->shape[1] = 39;
  expect(m, 0, "gptq_32.scales': its shape does not fit the matrix");
  tensor(m, "gptq_32.scales")->shape[1] = 40;
  tensor(m, "gptq_32.scales")->shape[0] = 16;
  expect(m, 0, "groups of 16 inputs are not supported");
  tensor(m, "gptq_32.scales")->shape[0] = 0;
  expect(m, 0, "gptq_32.scales': its shape does not fit the matrix");
  tensor(m, "gptq_32.scales")->dtype = TL_DTYPE_I32;
  expect(m, 0, "gptq_32.scales': expected floats");
  tensor(m, "gptq_128.qzeros")->shape[1] = 4;
  expect(m, 1, "gptq_128.qzeros': its format or shape");
  int32_t groups[PACKED_COLUMNS];
  memcpy(groups, tensor(m, "gptq_order.g_idx")->data, sizeof groups);
  tensor(m, "gptq_order.g_idx")->data = groups;
  groups[7] = -1;
  struct tl_error err = {0};
  assert_int_equal(find_packed(m, &packed_cases[2], &err), TL_ECORRUPT);
  groups[7] = 4;
  assert_int_equal(find_packed(m, &packed_cases[2], &err), TL_ECORRUPT);
  groups[7] = groups[8] == 0 ? 1 : 0; /* one more than fits, whichever it was */
  groups[9] = groups[10] = groups[7];
  assert_int_equal(find_packed(m, &packed_cases[2], &err), TL_ECORRUPT);
  tensor(m, "gptq_v2.qweight")->shape[0] = 31;
  expect(m, 3, "gptq_v2.qweight': its shape fits no known way");
  uint8_t bytes[40 * PACKED_COLUMNS] = {0};
  tensor(m, "f8_tensor.weight")->data = bytes;
  bytes[99] = 0xff;
  assert_int_equal(find_packed(m, &packed_cases[13], &err), TL_ECORRUPT);
  assert_non_null(strstr(err.message, "tensor 'f8_tensor.weight': a weight is not a number"));
  tensor(m, "f8_block.weight_scale_inv")->shape[0] = 3;
  expect(m, 15, "f8_block.weight_scale_inv': its shape");
  tl_model_free(&m->model);
}

/* In E2M1: scales that are no numbers, of another shape or format, and factors. */
static void test_fp4_parts_that_do_not_fit(void **state) {
  (void)state;
  enum { CT = 16, MODELOPT, MX };
  struct model *m = open_packed();
  struct tl_tensor *factor = tensor(m, "nvfp4_ct.weight_global_scale"), *scales = tensor(m, "nvfp4_ct.weight_scale");
  static const float wrong[] = {0, -1, NAN, INFINITY, 1e-40f};
  for (unsigned i = 0; i < UNIT_COUNT(wrong); i++) {
    factor->data = &wrong[i];
    expect_elsewhere(m, CT, "nvfp4_ct.weight_global_scale': expected a number above 0");
  }
  factor->dtype = TL_DTYPE_BF16;
  expect_elsewhere(m, CT, "nvfp4_ct.weight_global_scale': expected one number of F32");
  uint8_t bytes[40 * PACKED_COLUMNS / 16] = {[77] = 0xff};
  scales->data = bytes;
  expect_elsewhere(m, CT, "nvfp4_ct.weight_scale': a scale is not a number");
  scales->shape[1] = 15;
  expect_elsewhere(m, CT, "nvfp4_ct.weight_scale': expected scales in E4M3 for 16 inputs each, or in U8 for 32");
  tensor(m, "mxfp4_ct.weight_scale")->data = bytes;
  expect_elsewhere(m, MX, "mxfp4_ct.weight_scale': a scale is not a number");
  tensor(m, "nvfp4_modelopt.weight")->shape[1] = 127;
  expect(m, MODELOPT, "nvfp4_modelopt.weight': its shape does not fit the matrix");
  tl_model_free(&m->model);
}

/* Another method, or none: not this kind of matrix. */
static void test_other_methods(void **state) {
  (void)state;
  struct model *m = open_packed();
  struct tl_error err = {0};
  struct packed_case c = packed_cases[0];
  c.method = "";
  assert_int_equal(find_packed(m, &c, &err), TL_ENOTFOUND);
  c.method = "awq";
  assert_int_equal(find_packed(m, &c, &err), TL_ECORRUPT);
  c.name = "nobody";
  assert_int_equal(find_packed(m, &c, &err), TL_ENOTFOUND);
  tl_model_free(&m->model);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_rows_of_a_fused_matrix), cmocka_unit_test(test_fused_models), cmocka_unit_test(test_parts_that_do_not_fit),
                                     cmocka_unit_test(test_fp4_parts_that_do_not_fit),
                                     cmocka_unit_test(test_other_methods)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
