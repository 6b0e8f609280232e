/* SPDX-License-Identifier: MIT */
/* Matrices in several tensors: the values that tests/golden/make_packed.py meant, and
 * parts that do not fit one another. */
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

static struct tl_tensor *tensor(struct model *m, const char *name) {
  int32_t i = model_find_tensor(m, name);
  if (i < 0) fail_msg("no tensor %s", name);
  return &m->tensors[i];
}

static void expect(struct model *m, unsigned which, const char *message) {
  struct tl_error err = {0};
  int32_t r = find_packed(m, &packed_cases[which], &err);
  assert_true(r == TL_ECORRUPT || r == TL_EUNSUPPORTED);
  if (!strstr(err.message, message) || !strstr(err.message, "packed.safetensors: tensor '"))
    fail_msg("'%s': expected '%s'", err.message, message);
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
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_parts_that_do_not_fit),
                                     cmocka_unit_test(test_other_methods)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
