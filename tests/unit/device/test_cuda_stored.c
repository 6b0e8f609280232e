/* SPDX-License-Identifier: MIT */
/* Quantized weights on the GPU: what is stored means what the file says, in each format; whole models of them, through the
 * CUDA backend's host part with kernels on fibers, against the same values in floats on the CPU. */
#include <math.h>

#include "device/cuda/cuda_private.h"
#include "fake_cuda.h"
#include "float_twin.h"
#include "model/model_private.h"
#include "quant_unit.h"
#include "stored_weights.h"

/* --- rows --------------------------------------------------------------------------------------- */

/* The kernels' formula for columns [column, column + n) of row 1 of t, against the model room's values. */
static void check_row(const struct tl_tensor *t, int format, uint32_t column, uint32_t n) {
  struct cuda_part part = {.format = format, .tensor = t, .column = column, .n_columns = n};
  struct stored s = {.dtype = TL_CUDA_F16, .format = format, .n = 1, .k = n};
  s.weight = calloc(1, cuda_row_bytes(format, n));
  s.scales = calloc(1, cuda_scales_bytes(format, n));
  float *want = malloc(t->shape[1] * sizeof *want);
  tl_tensor_row_to_f32(t, 1, want);
  cuda_store_codes(&part, 1, (char *)s.weight);
  cuda_store_scales(&part, 1, s.scales);
  bool integers = format != TL_CUDA_WE4M3, mins = format == TL_CUDA_WINT4 || format == TL_CUDA_WINT8_MIN;
  unsigned run = format == TL_CUDA_WINT8_16 ? 16 : 32;
  for (uint32_t k = 0; k < n; k++) {
    double got = stored_value(&s, 0, k), size = fabs((double)want[column + k]);
    if (mins) size += 2 * fabs((double)tl_f16_to_f32(((uint16_t *)s.scales)[k / run * 2 + 1]));
    /* a scale and a min are halves, which below 6e-5 have fewer bits; codes reach 128 */
    double allowed = integers ? 0x1p-11 * size + 128 * 0x1p-25 : 0;
    if (!(fabs(got - (double)want[column + k]) <= allowed))
      fail_msg("%s, column %u: %.9g, not %.9g", tl_dtype_name(t->dtype), column + k, got, (double)want[column + k]);
  }
  free(s.weight);
  free(s.scales);
  free(want);
}

static void test_blocks(void **state) {
  (void)state;
  static const struct {
    enum tl_dtype dtype;
    int format;
  } formats[] = {{TL_DTYPE_Q4_0, TL_CUDA_WINT4},     {TL_DTYPE_Q4_1, TL_CUDA_WINT4},     {TL_DTYPE_Q4_K, TL_CUDA_WINT4},
                 {TL_DTYPE_Q8_0, TL_CUDA_WINT8},     {TL_DTYPE_Q5_0, TL_CUDA_WINT8},     {TL_DTYPE_IQ4_NL, TL_CUDA_WINT8},
                 {TL_DTYPE_IQ4_XS, TL_CUDA_WINT8},   {TL_DTYPE_Q3_K, TL_CUDA_WINT8_16},  {TL_DTYPE_Q6_K, TL_CUDA_WINT8_16},
                 {TL_DTYPE_Q5_1, TL_CUDA_WINT8_MIN}, {TL_DTYPE_Q5_K, TL_CUDA_WINT8_MIN}};
  for (unsigned i = 0; i < UNIT_COUNT(formats); i++) {
    struct tl_tensor t = new_quant(formats[i].dtype, 3, 1024);
    check_row(&t, formats[i].format, 0, 1024);
    check_row(&t, formats[i].format, 256, 512); /* a rank's */
    free_quant(&t);
  }
}

/* Codes and zeros of every size: what GPTQ, AWQ and compressed-tensors hold. */
static void read_integers_block(const struct tl_packed *p, uint64_t row, uint64_t block, struct tl_quant_block *ret) {
  uint64_t random = row * 1000 + block;
  unsigned range = p->zero_shift; /* here: of a code */
  for (unsigned i = 0; i < 32; i++) ret->codes[i] = (uint8_t)unit_below(&random, range);
  ret->scale = 0.001f * (float)(1 + block / 4);
  ret->mins[0] = (uint8_t)(block % 3 == 0 ? range / 2 : unit_below(&random, range));
}

static void test_integers(void **state) {
  (void)state;
  const struct tl_packed four = {.read = read_integers_block, .group_columns = 128, .zero_shift = 16};
  const struct tl_packed eight = {.read = read_integers_block, .group_columns = 128, .zero_shift = 256};
  struct tl_tensor t = {.name = "w", .dtype = TL_DTYPE_INT4, .n_dims = 2, .shape = {3, 512}, .packed = &four};
  check_row(&t, TL_CUDA_WINT4, 0, 512);
  check_row(&t, TL_CUDA_WINT4, 96, 160);
  t.dtype = TL_DTYPE_INT8;
  t.packed = &eight;
  check_row(&t, TL_CUDA_WINT8_MIN, 0, 512);
  check_row(&t, TL_CUDA_WINT8_MIN, 32, 64);
}

static void test_e4m3(void **state) {
  (void)state;
  uint8_t codes[3 * 256];
  const uint16_t scales[3] = {0x3f80, 0x3dcd, 0x4000}; /* 1, about 0.1, 2 */
  for (unsigned i = 0; i < sizeof codes; i++) codes[i] = (uint8_t)((i & 0x7f) == 0x7f ? 0 : i);
  struct tl_packed rows = {.scales = (const char *)scales, .scale_dtype = TL_DTYPE_BF16, .n_groups = 1, .group_rows = 1, .group_columns = 256};
  struct tl_tensor t = {.name = "w", .dtype = TL_DTYPE_F8_E4M3, .n_dims = 2, .shape = {3, 256}, .data = codes, .bytes = sizeof codes};
  check_row(&t, TL_CUDA_WE4M3, 0, 256);
  t.packed = &rows;
  check_row(&t, TL_CUDA_WE4M3, 64, 128);
}

/* --- models ------------------------------------------------------------------------------------- */

enum { N_PROMPT = 40, N_NEW = 12 };

static size_t tile_bytes = CUDA_TILE_BYTES;

static struct machine open_gpu(const struct tl_model *model) {
  struct machine m = {.ops = &fake_cuda_ops, .n_ranks = 1, .vocab = model->vocab_size};
  struct tl_error err = {0};
  struct tl_device_options options = {.n_lanes = 2};
  if (m.ops->open(&options, &m.device, &err) < 0) fail_msg("%s", err.message);
  ((struct cuda_device *)(void *)m.device)->tile_bytes = tile_bytes;
  struct tl_device_load load = {.model = model, .max_batch_size = 4, .max_batch_tokens = BATCH_TOKENS, .max_context = MAX_CONTEXT};
  struct tl_device_loaded loaded;
  if (m.ops->load(m.device, &load, &loaded, &err) < 0) fail_msg("%s", err.message);
  m.ranks[0] = m.device;
  m.n_blocks = 1000;
  assert_true(loaded.n_blocks >= m.n_blocks);
  m.blocks = malloc(m.n_blocks * sizeof *m.blocks);
  shuffle(m.blocks, m.n_blocks, 77);
  return m;
}

static struct sequence *new_prompt(const struct tl_model *model) {
  int32_t prompt[N_PROMPT];
  uint64_t seed = 3;
  for (uint32_t i = 0; i < N_PROMPT; i++) prompt[i] = (int32_t)unit_below(&seed, model->vocab_size);
  return new_sequence(prompt, N_PROMPT);
}

/* The twin, floats on the CPU, scores what the quantized model on the GPU said: prompts by a library's product, tokens by ours. */
static void check_model(struct tl_model *model, struct tl_model *twin, double tolerance) {
  static const uint32_t chunks[] = {33, 7};
  struct machine m = open_gpu(model);
  struct sequence *s = new_prompt(model);
  run_alone(&m, s, N_NEW, chunks, UNIT_COUNT(chunks));
  close_machine(&m);
  assert_int_equal(fake_cuda_live(), 0);
  m = open_machine(twin, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  struct sequence *scored = new_sequence(s->tokens, N_PROMPT + N_NEW);
  scored->score_prompt = true;
  scored->sampling.n_top = 0;
  run_alone(&m, scored, 1, whole, 1);
  close_machine(&m);
  double worst = 0;
  for (unsigned k = N_PROMPT; k < N_PROMPT + N_NEW; k++)
    worst = fmax(worst, fabs((double)scored->sampled[k].logprob - (double)s->sampled[k].logprob));
  printf("log-probabilities of stored weights within %.2g of floats\n", worst);
  assert_true(worst <= tolerance);
  free(s);
  free(scored);
}

static unsigned formats_of(const struct tl_model *model) {
  struct machine m = open_gpu(model);
  const struct cuda_device *d = (struct cuda_device *)(void *)m.device;
  unsigned seen = 0;
  for (uint32_t i = 0; i < d->n_plan; i++)
    for (unsigned k = 0; k < d->plan[i].w.n_pieces; k++) seen |= 1u << d->plan[i].w.pieces[k].format;
  close_machine(&m);
  return seen;
}

/* Q, K and V in three formats, MXFP4 and Q2_K beside them in 16 bits, an embedding that is the output too. */
static void test_mixed(void **state) {
  (void)state;
  float *copies[100];
  uint32_t n_copies;
  fake_cuda_reset();
  struct tl_model *model = load_model("gguf/mixed.gguf"), *twin = new_twin("gguf/mixed.gguf", copies, &n_copies);
  assert_int_equal(formats_of(model), 1 << TL_CUDA_W16 | 1 << TL_CUDA_WINT8 | 1 << TL_CUDA_WINT8_16 | 1 << TL_CUDA_WINT8_MIN | 1 << TL_CUDA_WINT4);
  check_model(model, twin, 3e-2);
  unsigned products = fake_cuda.n_products;
  tile_bytes = 100 * 256 * 2;
  check_model(model, twin, 3e-2);
  tile_bytes = CUDA_TILE_BYTES;
  assert_true(fake_cuda.n_products - products > products);
  tl_model_free(model);
  tl_model_free(twin);
  for (uint32_t i = 0; i < n_copies; i++) free(copies[i]);
}

static size_t weight_bytes(const struct tl_model *model) {
  struct machine m = open_gpu(model);
  size_t bytes = ((struct cuda_device *)(void *)m.device)->weight_bytes;
  close_machine(&m);
  return bytes;
}

/* Experts in MXFP4 stay what they are where the type has the range of their scales, else they take 16 bits a weight. */
static void test_experts(void **state) {
  (void)state;
  fake_cuda_reset();
  struct tl_model *model = load_model("arch/gpt_oss_mxfp4");
  size_t elements = 0, bytes = 0, all;
  for (uint32_t i = 0; i < model->n_tensors; i++) {
    const struct tl_tensor *t = &model->tensors[i];
    if (t->dtype != TL_DTYPE_MXFP4) continue;
    elements += t->shape[0] * t->shape[1];
    bytes += t->bytes;
  }
  assert_int_equal(formats_of(model), 1 << TL_CUDA_W16);
  assert_true(elements == 2u * 4 * 3 * 64 * 96 && bytes * 3 < elements * 2);
  all = weight_bytes(model);
  assert_true(all > elements * 2 && all - elements * 2 < model->weight_bytes - bytes);
  model->weight_dtype = TL_DTYPE_MXFP4;
  assert_int_equal(formats_of(model), 1 << TL_CUDA_W16 | 1 << TL_CUDA_WMXFP4);
  size_t saved = all - weight_bytes(model), rounding = 4 * 2 * 256;
  assert_true(saved <= elements * 2 - bytes && saved + rounding >= elements * 2 - bytes);
  /* one that is otherwise: all of that matrix in 16 bits */
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    if (op->kind != TL_OP_EXPERTS_UP || op->layer) continue;
    struct tl_tensor *t = (struct tl_tensor *)(uintptr_t)&model->tensors[op->weight[1] + 2];
    float *copy = malloc(t->shape[0] * t->shape[1] * sizeof *copy);
    for (uint64_t row = 0; row < t->shape[0]; row++) tl_tensor_row_to_f32(t, row, copy + row * t->shape[1]);
    *t = (struct tl_tensor){.name = t->name, .dtype = TL_DTYPE_F32, .n_dims = 2, .shape = {t->shape[0], t->shape[1]},
                            .data = copy, .bytes = t->shape[0] * t->shape[1] * sizeof *copy};
    size_t up = 4u * 2 * 64 * 96;
    assert_int_equal(weight_bytes(model), all - saved + up * 2 - up * 17 / 32);
    free(copy);
  }
  tl_model_free(model);
}

/* Experts in each format that their kernels read, by few and by many of them at a time. */
static void test_rounded_experts(void **state) {
  (void)state;
  static const char *const formats[] = {"q8_0", "q4_0"};
  for (unsigned i = 0; i < UNIT_COUNT(formats); i++) {
    fake_cuda_reset();
    struct tl_error err = {0};
    struct tl_model *model = load_model("arch/gpt_oss_mxfp4"), *twin = load_model("arch/gpt_oss_mxfp4");
    float *copies[3][400];
    uint32_t n[3];
    to_floats(model, model, copies[0], &n[0]); /* of their blocks; then rounded anew */
    to_floats(twin, twin, copies[1], &n[1]);
    if (tl_model_quantize(model, formats[i], &err) < 0 || tl_model_quantize(twin, formats[i], &err) < 0) fail_msg("%s", err.message);
    to_floats(model, twin, copies[2], &n[2]);
    assert_true(formats_of(model) & 1u << (i ? TL_CUDA_WINT4 : TL_CUDA_WINT8));
    check_model(model, twin, 5e-2);
    tl_model_free(model);
    tl_model_free(twin);
    for (unsigned k = 0; k < 3; k++)
      for (uint32_t c = 0; c < n[k]; c++) free(copies[k][c]);
  }
}

/* Rounded while they load. */
static void test_rounded(void **state) {
  (void)state;
  static const char *const formats[] = {"q8_0", "q4_0"};
  for (unsigned i = 0; i < UNIT_COUNT(formats); i++) {
    fake_cuda_reset();
    struct tl_error err = {0};
    struct tl_model *model = load_model("llama/f16_sharded"), *twin = load_model("llama/f16_sharded");
    size_t before = weight_bytes(twin);
    if (tl_model_quantize(model, formats[i], &err) < 0 || tl_model_quantize(twin, formats[i], &err) < 0) fail_msg("%s", err.message);
    size_t after = weight_bytes(model);
    assert_true(after * 10 < before * (i ? 8 : 9)); /* the embedding stays, most of this model */
    float *copies[100];
    uint32_t n_copies;
    to_floats(model, twin, copies, &n_copies);
    tile_bytes = 100 * 64 * 2; /* of gate and up: tiles of 128 and 64 */
    check_model(model, twin, 3e-2);
    tile_bytes = CUDA_TILE_BYTES;
    tl_model_free(model);
    tl_model_free(twin);
    for (uint32_t k = 0; k < n_copies; k++) free(copies[k]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_blocks), cmocka_unit_test(test_integers), cmocka_unit_test(test_e4m3),
                                     cmocka_unit_test(test_mixed), cmocka_unit_test(test_experts), cmocka_unit_test(test_rounded_experts),
                                     cmocka_unit_test(test_rounded)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
