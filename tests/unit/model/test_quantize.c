/* SPDX-License-Identifier: MIT */
/* Floats to blocks: against what the `gguf` package makes of the same floats
 * (tests/golden/make_gguf.py), and by their error. */
#include <math.h>

#include "model/model_private.h"
#include "unit.h"

static const char *golden_path(const char *name) {
  static char full[1024];
  return unit_golden_path(name, full);
}

static struct model *open_formats(void) {
  struct model *m = calloc(1, sizeof *m);
  struct tl_error err = {0};
  tl_arena_init(&m->arena, 0);
  if (gguf_add_files(m, golden_path("gguf/formats.gguf"), &err) < 0) fail_msg("%s", err.message);
  return m;
}

/* The one matrix of a model becomes `format`; returns the tensor that took its place. */
static const struct tl_tensor *quantize(struct model *m, const char *format) {
  static struct tl_op ops[4];
  memset(ops, 0, sizeof ops);
  ops[0] = (struct tl_op){.kind = TL_OP_EMBED, .weight = {model_find_tensor(m, "source"), -1, -1}};
  ops[1] = ops[0];
  ops[1].kind = TL_OP_ATTN_OUT;
  ops[2] = ops[0];
  ops[2].kind = TL_OP_LOGITS;
  ops[3] = ops[0];
  ops[3].kind = TL_OP_UP; /* an encoder's */
  m->ops = ops;
  m->model.plan = ops;
  m->model.n_ops = 4;
  struct tl_error err = {0};
  assert_int_equal(tl_model_quantize(&m->model, format, &err), TL_OK);
  assert_int_equal(ops[0].weight[0], model_find_tensor(m, "source"));
  assert_int_equal(m->model.tensors[ops[2].weight[0]].dtype, TL_DTYPE_Q8_0);
  assert_int_equal(ops[3].weight[0], ops[1].weight[0]);
  return &m->model.tensors[ops[1].weight[0]];
}

static void test_as_reference(void **state) {
  (void)state;
  static const char *const formats[][2] = {{"q8_0", "source.Q8_0"}, {"q4_0", "source.Q4_0"}};
  for (unsigned i = 0; i < UNIT_COUNT(formats); i++) {
    struct model *m = open_formats();
    const struct tl_tensor *got = quantize(m, formats[i][0]);
    const struct tl_tensor *expected = &m->tensors[model_find_tensor(m, formats[i][1])];
    assert_int_equal(got->dtype, expected->dtype);
    assert_int_equal(got->bytes, expected->bytes);
    for (unsigned row = 0; row < 4; row++)
      for (unsigned b = 0; b < 8; b++) {
        struct tl_quant_block x = {.d = 1}, y = {.d = 2};
        tl_quant_read(got, row, b, &x);
        tl_quant_read(expected, row, b, &y);
        assert_int_equal(x.d, y.d);
        assert_memory_equal(x.codes, y.codes, 32);
      }
    tl_model_free(&m->model);
  }
}

/* Root of the mean square of what a format is off, row by row. */
static void errors_of(const char *format, double ret[4]) {
  struct model *m = open_formats();
  const struct tl_tensor *t = quantize(m, format), *source = &m->tensors[model_find_tensor(m, "source")];
  for (unsigned row = 0; row < 4; row++) {
    float got[256], expected[256];
    double sum = 0;
    tl_tensor_row_to_f32(t, row, got);
    tl_tensor_row_to_f32(source, row, expected);
    for (unsigned k = 0; k < 256; k++) sum += pow((double)got[k] - (double)expected[k], 2);
    ret[row] = sqrt(sum / 256);
  }
  tl_model_free(&m->model);
}

/* Q4_K spends its mins well: better than Q4_0 on any row, much better where all are above 0. */
static void test_q4_k(void **state) {
  (void)state;
  double q4_0[4], q4_k[4], q8_0[4];
  errors_of("q4_0", q4_0);
  errors_of("q4_k", q4_k);
  errors_of("q8_0", q8_0);
  for (unsigned row = 0; row < 4; row++) {
    assert_true(q8_0[row] < 0.01);
    assert_true(q4_k[row] < 0.09 && q4_k[row] < 0.95 * q4_0[row]);
  }
  assert_true(q4_k[3] < 0.6 * q4_0[3]);
}

/* Zeros, huge numbers, and what is no number: no code is out of range. */
static void test_odd_values(void **state) {
  (void)state;
  static const char *const formats[] = {"q8_0", "q4_0", "q4_k"};
  static const float values[] = {0, 1e-30f, -3e38f, 7e4f, INFINITY, NAN};
  for (unsigned f = 0; f < UNIT_COUNT(formats); f++)
    for (unsigned v = 0; v < UNIT_COUNT(values); v++) {
      struct model *m = open_formats();
      float row[256];
      for (unsigned k = 0; k < 256; k++) row[k] = k % 5 ? values[v] : -values[v] / 2;
      m->tensors[model_find_tensor(m, "source")].data = row;
      m->tensors[model_find_tensor(m, "source")].shape[0] = 1;
      const struct tl_tensor *t = quantize(m, formats[f]);
      struct tl_quant_block b;
      tl_quant_read(t, 0, 0, &b);
      for (unsigned k = 0; k < tl_quant_format(t->dtype)->block; k++) assert_true(f == 0 || b.codes[k] < 16);
      float got[256];
      tl_tensor_row_to_f32(t, 0, got);
      for (unsigned k = 0; k < 256 && values[v] == 0; k++) assert_true(got[k] == 0);
      tl_model_free(&m->model);
    }
}

/* Rows of 64 are no blocks of 256: they become Q8_0. Norms and the embedding stay. */
static void test_model(void **state) {
  (void)state;
  struct tl_model *model;
  struct tl_error err = {0};
  assert_int_equal(tl_model_load(golden_path("llama/f16_sharded"), &model, &err), TL_OK);
  uint64_t before = model->weight_bytes;
  assert_int_equal(tl_model_quantize(model, "q4_k", &err), TL_OK);
  assert_true(model->weight_bytes < before * 3 / 4);
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    for (int k = 0; k < TL_OP_INPUTS; k++) {
      if (op->weight[k] < 0) continue;
      bool product = op->kind != TL_OP_EMBED && op->kind != TL_OP_RMSNORM;
      assert_int_equal(model->tensors[op->weight[k]].dtype, product ? TL_DTYPE_Q8_0 : TL_DTYPE_F16);
    }
  }
  tl_model_free(model);
  /* rows of 35 stay */
  assert_int_equal(tl_model_load(golden_path("llama/f32_odd"), &model, &err), TL_OK);
  assert_int_equal(tl_model_quantize(model, "q8_0", &err), TL_OK);
  for (uint32_t i = 0; i < model->n_ops; i++)
    if (model->plan[i].kind == TL_OP_QKV) assert_int_equal(model->tensors[model->plan[i].weight[0]].dtype, TL_DTYPE_F32);
  tl_model_free(model);
}

/* A file may have a tensor of the name that a rounded one gets: it does not take that one's place, whatever its shape. */
static void test_taken_name(void **state) {
  (void)state;
  struct model *m = open_formats();
  struct tl_error err = {0};
  struct tl_tensor t = {.name = "source as Q8_0", .dtype = TL_DTYPE_F32, .n_dims = 2, .shape = {1000000, 1}, .bytes = 4000000};
  assert_int_equal(model_add_tensor(m, &t, &err), TL_OK);
  struct tl_op op = {.kind = TL_OP_ATTN_OUT, .weight = {model_find_tensor(m, "source"), -1, -1}, .bias = {-1, -1, -1}};
  m->ops = &op;
  m->model.plan = &op;
  m->model.n_ops = 1;
  assert_int_equal(tl_model_quantize(&m->model, "q8_0", &err), TL_ECORRUPT);
  assert_non_null(strstr(err.message, "source as Q8_0"));
  tl_model_free(&m->model);
}

/* GPT-2's second half of the MLP, 24 rows of 96 that the file has by inputs, rounds as GGUF's, which has them by rows. */
static void test_turned(void **state) {
  (void)state;
  static const char *const files[] = {"arch/gpt2", "gguf/arch_gpt2.gguf"};
  static float rows[2][24 * 96];
  for (unsigned i = 0; i < 2; i++) {
    struct tl_model *model;
    struct tl_error err = {0};
    assert_int_equal(tl_model_load(golden_path(files[i]), &model, &err), TL_OK);
    assert_int_equal(tl_model_quantize(model, "q8_0", &err), TL_OK);
    const struct tl_op *op = model->plan;
    while (op->kind != TL_OP_MLP_DOWN) op++;
    const struct tl_tensor *t = &model->tensors[op->weight[0]];
    assert_true(t->dtype == TL_DTYPE_Q8_0 && t->shape[0] == 24 && t->shape[1] == 96);
    for (unsigned k = 0; k < 24; k++) tl_tensor_row_to_f32(t, k, rows[i] + 96 * k);
    tl_model_free(model);
  }
  assert_memory_equal(rows[0], rows[1], sizeof rows[0]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_reference), cmocka_unit_test(test_q4_k),
                                     cmocka_unit_test(test_odd_values), cmocka_unit_test(test_model),
                                     cmocka_unit_test(test_taken_name), cmocka_unit_test(test_turned)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
