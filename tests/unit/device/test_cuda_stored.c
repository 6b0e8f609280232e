/* SPDX-License-Identifier: MIT */
/* Quantized weights on the GPU: what is stored means what the file says, in each format; whole models of them, through the
 * CUDA backend's host part with kernels on fibers, against the same values in floats on the CPU. With ON_GPU the models on the plugin and the
 * GPU cuda:0. */
#include <math.h>

#include "device/cuda/cuda_private.h"
#include "e4m3_model.h"
#include "gpu_machine.h"
#include "quant_unit.h"
#include "step_runner.h"
#include "stored_weights.h"
#include "twin_runner.h"

#ifndef ON_GPU
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
  bool integers = !is_e4m3(format) && format != TL_CUDA_WINT2 && format != TL_CUDA_WMXFP4, mins = format == TL_CUDA_WINT4 || format == TL_CUDA_WINT8_MIN;
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
                 {TL_DTYPE_Q5_1, TL_CUDA_WINT8_MIN}, {TL_DTYPE_Q5_K, TL_CUDA_WINT8_MIN}, {TL_DTYPE_Q2_K, TL_CUDA_WINT2},
                 {TL_DTYPE_MXFP4, TL_CUDA_WMXFP4}};
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

/* Any codes, scales from subnormal to the largest. */
static void read_fp4_block(const struct tl_packed *p, uint64_t row, uint64_t block, struct tl_quant_block *ret) {
  uint64_t random = row * 1000 + block;
  for (unsigned i = 0; i < 32; i++) ret->codes[i] = (uint8_t)unit_below(&random, 16);
  for (unsigned i = 0; i < 2; i++) ret->scales[i] = (uint8_t)unit_below(&random, 0x7f);
  ret->scale = p->factor;
}

static void test_fp4(void **state) {
  (void)state;
  const struct tl_packed p = {.read = read_fp4_block, .factor = 1.0f / 3000};
  struct tl_tensor t = {.name = "w", .dtype = TL_DTYPE_NVFP4, .n_dims = 2, .shape = {3, 512}, .packed = &p};
  check_row(&t, TL_CUDA_WINT8_16, 0, 512);
  check_row(&t, TL_CUDA_WINT8_16, 96, 160);
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
  struct tl_packed blocks = {.scales = (const char *)scales, .scale_dtype = TL_DTYPE_BF16, .n_groups = 2, .group_rows = 2, .group_columns = 128};
  t.packed = &blocks;
  check_row(&t, TL_CUDA_WE4M3_BLOCKS, 0, 256);
  check_row(&t, TL_CUDA_WE4M3_BLOCKS, 128, 128);
}

#endif
/* --- models ------------------------------------------------------------------------------------- */

static size_t tile_bytes = CUDA_TILE_BYTES;
static int64_t choose_ns = CUDA_CHOOSE_NS;

static struct machine open_gpu(const struct tl_model *model) {
  struct machine m = begin_gpu(model);
  ((struct cuda_device *)(void *)m.device)->tile_bytes = tile_bytes;
  ((struct cuda_device *)(void *)m.device)->choose_ns = choose_ns;
  load_gpu(&m, model, (struct tl_device_load){.max_batch_size = 4}, 1000);
  assert_int_equal(m.n_blocks, 1000);
  return m;
}

/* Prompts by a library's product, tokens by ours. */
static void check_model(struct tl_model *model, struct tl_model *twin, double tolerance) {
  static const uint32_t chunks[] = {33, 7};
  struct machine m = open_gpu(model);
  struct sequence *s = new_random_prompt(model->vocab_size, 40, 3);
  run_alone(&m, s, 12, chunks, UNIT_COUNT(chunks));
  close_gpu(&m);
  double worst = twin_error(twin, s);
  printf("log-probabilities of stored weights within %.2g of floats\n", worst);
  assert_true(worst <= tolerance);
  free(s);
}

/* The prompt's own tokens, chosen by nobody: their log-probabilities see each weight, where those of what is generated may be near
 * zero whatever the weights are. On average: those of some are far below. */
static void check_scores(struct tl_model *model, struct tl_model *twin, double tolerance) {
  struct machine m = open_gpu(model), c = open_machine(twin, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  struct sequence *s[2];
  const uint32_t chunk = 4; /* a step has room for so many scores */
  double mean = 0;
  for (unsigned i = 0; i < 2; i++) {
    s[i] = new_random_prompt(model->vocab_size, 24, 5);
    s[i]->score_prompt = true;
    run_alone(i ? &c : &m, s[i], 1, &chunk, 1);
  }
  for (uint32_t k = 1; k < s[0]->n_prompt; k++)
    mean += fabs((double)s[0]->sampled[k].logprob - (double)s[1]->sampled[k].logprob) / (s[0]->n_prompt - 1);
  printf("log-probabilities of the prompt within %.2g of floats on average\n", mean);
  assert_true(mean <= tolerance);
  for (unsigned i = 0; i < 2; i++) free(s[i]);
  close_machine(&m);
  close_machine(&c);
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
  IF_FAKE(fake_cuda_reset();)
  struct tl_model *model = load_model("gguf/mixed.gguf"), *twin = new_twin("gguf/mixed.gguf", copies, &n_copies);
  assert_int_equal(formats_of(model), 1 << TL_CUDA_W16 | 1 << TL_CUDA_WINT8 | 1 << TL_CUDA_WINT8_16 | 1 << TL_CUDA_WINT8_MIN | 1 << TL_CUDA_WINT4 | 1 << TL_CUDA_WINT2);
  check_scores(model, twin, 5e-2);
  IF_FAKE(fake_cuda_reset();)
  check_model(model, twin, 3e-2);
  IF_FAKE(unsigned products = fake_cuda.n_products;)
  tile_bytes = 100 * 256 * 2;
  check_model(model, twin, 3e-2);
  tile_bytes = CUDA_TILE_BYTES;
  IF_FAKE(assert_true(fake_cuda.n_products - products > products);)
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
  IF_FAKE(fake_cuda_reset();)
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

/* Of their up the square of what is above 0, as Nemotron's; their gates are left out. */
static void ungate(struct tl_model *model) {
  for (uint32_t i = 0; i < model->n_ops; i++) {
    struct tl_op *op = (struct tl_op *)(uintptr_t)&model->plan[i];
    if (op->kind != TL_OP_EXPERTS_UP) continue;
    op->features = TL_F_RELU2;
    op->weight[0] = op->weight[1], op->bias[0] = op->bias[1];
    op->weight[1] = op->bias[1] = -1;
  }
}

/* Experts in each format that their kernels read, with a gate and without one, by few and by many of them at a time. */
static void test_rounded_experts(void **state) {
  (void)state;
  static const char *const formats[] = {"q8_0", "q4_0", "q8_0", "q4_0"};
  for (unsigned i = 0; i < UNIT_COUNT(formats); i++) {
    IF_FAKE(fake_cuda_reset();)
    struct tl_error err = {0};
    struct tl_model *model = load_model("arch/gpt_oss_mxfp4"), *twin = load_model("arch/gpt_oss_mxfp4");
    if (i >= 2) ungate(model), ungate(twin);
    float *copies[3][400];
    uint32_t n[3];
    to_floats(model, model, copies[0], &n[0]); /* of their blocks; then rounded anew */
    to_floats(twin, twin, copies[1], &n[1]);
    if (tl_model_quantize(model, formats[i], &err) < 0 || tl_model_quantize(twin, formats[i], &err) < 0) fail_msg("%s", err.message);
    to_floats(model, twin, copies[2], &n[2]);
    assert_true(formats_of(model) & 1u << (i % 2 ? TL_CUDA_WINT4 : TL_CUDA_WINT8));
    check_model(model, twin, 5e-2);
    tl_model_free(model);
    tl_model_free(twin);
    for (unsigned k = 0; k < 3; k++)
      for (uint32_t c = 0; c < n[k]; c++) free(copies[k][c]);
  }
}

/* Layers that keep a state: rows in runs of E4M3, in blocks that no kernel reads, and of integers whose inputs have an order; and codes of u
 * and z in one product with b and c, which are not rounded. */
static void test_states(void **state) {
  (void)state;
  static const char *const formats[] = {NULL, "q8_0", "q4_0", NULL};
  for (unsigned i = 0; i < UNIT_COUNT(formats); i++) {
    const char *name = i == 3 ? "experts/next_gptq" : "experts/next_f8_block";
    IF_FAKE(fake_cuda_reset();)
    struct tl_error err = {0};
    struct tl_model *model = load_model(name), *twin = load_model(name);
    float *copies[3][400];
    uint32_t n[3] = {0};
    for (unsigned k = 0; formats[i] && k < 2; k++) {
      struct tl_model *one = k ? twin : model;
      to_floats(one, one, copies[k], &n[k]);
      if (tl_model_quantize(one, formats[i], &err) < 0) fail_msg("%s", err.message);
    }
    to_floats(model, twin, copies[2], &n[2]);
    if (i > 0) assert_true(formats_of(model) & 1u << (i == 1 ? TL_CUDA_WINT8 : TL_CUDA_WINT4));
    check_model(model, twin, 1e-1); /* in BF16 */
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
    IF_FAKE(fake_cuda_reset();)
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

#ifndef ON_GPU
/* --- E4M3 by E4M3 --------------------------------------------------------------------------------- */

static void refuse_e4m3(void) {
  fake_cuda.no_e4m3 = true;
}

static void fail_scales(void) {
  fake_cuda.bad_scales = true;
}

static void be_picky(void) {
  fake_cuda.picky = true;
}

/* What a GPU and its cuBLASLt can do; whether products run in E4M3 then, and by whose scales. */
static const struct {
  int capability;
  void (*also)(void);
  bool e4m3, ours;
} gpus[] = {{90, NULL, true, false},      {89, NULL, true, true},        {80, NULL, false, false},   {90, refuse_e4m3, false, false},
            {90, fail_scales, true, true}, {90, be_picky, true, false}, {89, be_picky, true, true}, {120, NULL, true, true}};

static void be_one_of(unsigned gpu) {
  fake_cuda_reset();
  fake_cuda.compute_major = gpus[gpu].capability / 10;
  fake_cuda.compute_minor = gpus[gpu].capability % 10;
  if (gpus[gpu].also) gpus[gpu].also();
}

/* The last kernels of the device's are these. */
static void assert_order(const char *expected) {
  size_t n = strlen(fake_cuda.order), m = strlen(expected);
  if (n < m || strcmp(fake_cuda.order + n - m, expected) != 0) fail_msg("%s, not %s", fake_cuda.order, expected);
}

static float weight_of(const struct cuda_matrix *w, uint32_t output, uint32_t k) {
  const struct cuda_piece *piece = w->pieces;
  while (output >= piece->first + piece->n) piece++;
  size_t at = (size_t)(output - piece->first) * w->k + k;
  if (piece->format == TL_CUDA_WE4M3)
    return tl_f8_e4m3_to_f32(((uint8_t *)piece->data)[at]) * ((float *)(void *)piece->scales)[output - piece->first];
  return tl_f16_to_f32(((uint16_t *)(void *)piece->data)[at]);
}

/* A product of m rows, each of another size: an element of a row in E4M3 is wrong by a 16th of itself, or by 2^-10 of
 * the row's scale. Weights that are written out are rounded to 16 bits. */
static void check_product(struct cuda_device *d, const struct cuda_matrix *w, uint32_t m, bool rounds) {
  uint64_t random = m;
  struct tl_error err = {0};
  uint16_t *x = (uint16_t *)(void *)d->work.h, *y = (uint16_t *)(void *)d->work.gate_up;
  memset(d->work.h, 0xff, d->limits.max_tokens * w->k * sizeof *x);
  for (uint32_t i = 0; i < m * w->k; i++)
    x[i] = tl_f32_to_f16(((float)unit_below(&random, 2001) / 1000 - 1) * ldexpf(1, (int)(i / w->k % 13) - 6));
  if (cuda_run_product(d, w, NULL, m, (char *)x, y, &err) < 0) fail_msg("%s", err.message);
  d->api->rt.event_record(d->done, d->stream);
  d->api->rt.event_wait(d->done);
  for (uint32_t i = 0; i < m; i++) {
    double most = 0;
    for (uint32_t k = 0; k < w->k; k++) most = fmax(most, fabs((double)tl_f16_to_f32(x[i * w->k + k])));
    for (uint32_t o = 0; o < w->n; o++) {
      double want = 0, size = 0, off = 0, got = (double)tl_f16_to_f32(y[i * w->ld + o]);
      for (uint32_t k = 0; k < w->k; k++) {
        double a = (double)tl_f16_to_f32(x[i * w->k + k]), b = (double)weight_of(w, o, k);
        want += a * b;
        size += fabs(a * b);
        off += fabs(a * b) / 16 + fabs(b) * most / 448 * 0x1p-10;
      }
      if (!(fabs(got - want) <= (rounds ? off : 0) + 0x1p-10 * size + 0x1p-24)) fail_msg("row %u, output %u: %g, not %g", i, o, got, want);
    }
  }
}

/* QKV and gates of 17, 33 and 48 rows. */
static void check_e4m3_products(int n_algorithms) {
  struct e4m3_model *m = new_e4m3_model("llama/f16_sharded", false);
  for (unsigned i = 0; i < UNIT_COUNT(gpus); i++) {
    be_one_of(i);
    fake_cuda.n_algorithms = n_algorithms;
    struct machine machine = open_gpu(m->model);
    struct cuda_device *d = (struct cuda_device *)(void *)machine.device;
    for (uint32_t k = 0; k < d->n_plan; k++) {
      if (d->plan[k].kind != CUDA_OP_QKV && d->plan[k].kind != CUDA_OP_GATED) continue;
      assert_true(d->plan[k].w.n_pieces == 1 && d->plan[k].w.pieces[0].format == TL_CUDA_WE4M3);
      check_product(d, &d->plan[k].w, 17, gpus[i].e4m3);
      assert_order(!gpus[i].e4m3 ? "qm" : gpus[i].ours ? "f8u" : "f8");
      check_product(d, &d->plan[k].w, 33, gpus[i].e4m3);
      check_product(d, &d->plan[k].w, 48, gpus[i].e4m3);
    }
    close_machine(&machine);
  }
  free_e4m3_model(m);
}

static void test_e4m3_products(void **state) {
  (void)state;
  check_e4m3_products(1);
}

/* When time is up, what cuBLASLt names and cannot do is not taken for want of a try. */
static void test_late_choice(void **state) {
  (void)state;
  choose_ns = -1;
  check_e4m3_products(2);
  choose_ns = CUDA_CHOOSE_NS;
}

/* Q and gate in E4M3, the others in 16 bits: several products for one result. That of the gate, of 56 outputs, is none
 * that cuBLASLt has. */
static void test_e4m3_beside_others(void **state) {
  (void)state;
  struct e4m3_model *m = new_e4m3_model("arch/glm4", true);
  m->model->dtype = TL_DTYPE_F16;
  for (unsigned i = 0; i < UNIT_COUNT(gpus); i++) {
    be_one_of(i);
    struct machine machine = open_gpu(m->model);
    struct cuda_device *d = (struct cuda_device *)(void *)machine.device;
    for (uint32_t k = 0; k < d->n_plan; k++) {
      const struct cuda_matrix *w = &d->plan[k].w;
      if (d->plan[k].kind != CUDA_OP_QKV && d->plan[k].kind != CUDA_OP_GATED) continue;
      assert_true(w->n_pieces == 2 && w->pieces[0].format == TL_CUDA_WE4M3 && w->pieces[1].format == TL_CUDA_W16);
      bool e4m3 = gpus[i].e4m3 && d->plan[k].kind == CUDA_OP_QKV;
      check_product(d, w, 19, e4m3);
      assert_order(!e4m3 ? "qmm" : gpus[i].ours ? "f8um" : "f8m");
    }
    close_machine(&machine);
  }
  free_e4m3_model(m);
}

/* Whole models; 33 rows of the prompt, the rest goes by rows in 16 bits. */
static void test_e4m3_models(void **state) {
  (void)state;
  static const struct {
    const char *name;
    enum tl_dtype dtype;
  } models[] = {{"llama/f16_sharded", TL_DTYPE_F16}, {"llama/f16_sharded", TL_DTYPE_BF16}, {"llama/f32_llama3", TL_DTYPE_F16}};
  for (unsigned i = 0; i < UNIT_COUNT(models) * UNIT_COUNT(gpus); i++) {
    unsigned gpu = i % UNIT_COUNT(gpus);
    if (gpu >= (i < UNIT_COUNT(gpus) ? 4 : 2)) continue; /* fibers take their time */
    struct e4m3_model *m = new_e4m3_model(models[i / UNIT_COUNT(gpus)].name, false);
    m->model->dtype = models[i / UNIT_COUNT(gpus)].dtype;
    be_one_of(gpu);
    check_model(m->model, m->twin, gpus[gpu].e4m3 ? 0.5 : m->model->dtype == TL_DTYPE_BF16 ? 1e-1 : 3e-2);
    assert_true(fake_cuda.n_e4m3 == (gpus[gpu].e4m3 ? fake_cuda.n_products : 0));
    free_e4m3_model(m);
  }
}

#endif

/* Blocks that are 128 inputs wide, or a multiple of that, stay; a scale takes four bytes of an output. Smaller ones take 16 bits a
 * weight. */
static void test_e4m3_blocks(void **state) {
  (void)state;
  static const struct {
    uint64_t block;
    enum tl_dtype dtype;
    bool stored;
  } models[] = {{128, TL_DTYPE_BF16, true}, {128, TL_DTYPE_F16, true}, {64, TL_DTYPE_BF16, false}};
  size_t bytes[UNIT_COUNT(models)];
  for (unsigned i = 0; i < UNIT_COUNT(models); i++) {
    IF_FAKE(fake_cuda_reset();)
    struct e4m3_model *m = new_e4m3_blocks("gguf/mixed.gguf", false, models[i].block);
    m->model->dtype = models[i].dtype;
    assert_int_equal(formats_of(m->model), 1 << TL_CUDA_WINT8_16 | 1 << (models[i].stored ? TL_CUDA_WE4M3_BLOCKS : TL_CUDA_W16));
    bytes[i] = weight_bytes(m->model);
    if (i == 0) check_model(m->model, m->twin, 5e-2); /* fibers take their time */
    IF_FAKE(if (i == 0) assert_int_equal(fake_cuda.n_products, 0);) /* prompts of 33 rows, too, go by our own */
    if (i == 1) check_scores(m->model, m->twin, 5e-2);
    free_e4m3_model(m);
  }
  size_t rows = 2u * (256 + 2 * 128 + 256 + 3 * 256);
  assert_int_equal(bytes[1], bytes[0]);
  assert_int_equal(bytes[2] - bytes[0], rows * 256 - rows * 2 * sizeof(float));
}

/* GPTQ's act-order: Q, K and V with one order are one piece, else three; gates and ups of experts that have two orders
 * take 16 bits a weight. */
static void test_act_order(void **state) {
  (void)state;
  static const struct {
    const char *name;
    unsigned ordered; /* pieces of a layer: of Q, K and V, the output, gates with ups, downs; of qwen3's downs one group has all inputs */
    int up;           /* the format of gates and ups */
  } models[] = {{"experts/qwen3_gptq", 1 + 1 + 1, TL_CUDA_WINT4}, {"experts/mixtral_gptq", 3 + 1 + 1, TL_CUDA_W16}};
  for (unsigned i = 0; i < UNIT_COUNT(models); i++) {
    float *copies[400];
    uint32_t n_copies;
    size_t exact = 0, rounding = 0, n_ordered = 0;
    IF_FAKE(fake_cuda_reset();)
    struct tl_model *model = load_model(models[i].name), *twin = new_twin(models[i].name, copies, &n_copies);
    struct machine m = open_gpu(model);
    const struct cuda_device *d = (struct cuda_device *)(void *)m.device;
    for (uint32_t k = 0; k < d->n_plan; k++)
      for (unsigned j = 0; j < d->plan[k].w.n_pieces; j++) {
        const struct cuda_piece *piece = &d->plan[k].w.pieces[j];
        size_t width = d->plan[k].w.k;
        if (piece->format == TL_CUDA_WINT4) exact += piece->n * width * 11 / 8; /* 16 bits become 4 and two halves for 32 */
        if (piece->n_orders) exact -= piece->n_orders * width * sizeof(uint32_t), n_ordered++;
        if (d->plan[k].kind == CUDA_OP_EXPERTS_UP) assert_int_equal(piece->format, models[i].up);
        rounding += 3 * CUDA_ALIGN;
      }
    close_machine(&m);
    assert_int_equal(n_ordered, model->n_layers * models[i].ordered);
    size_t saved = weight_bytes(twin) - weight_bytes(model);
    assert_true(saved <= exact + rounding && saved + rounding >= exact);
    check_scores(model, twin, 5e-2);
    check_model(model, twin, 5e-2);
    tl_model_free(model);
    tl_model_free(twin);
    for (uint32_t k = 0; k < n_copies; k++) free(copies[k]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
#ifndef ON_GPU
      cmocka_unit_test(test_blocks), cmocka_unit_test(test_integers), cmocka_unit_test(test_fp4), cmocka_unit_test(test_e4m3), cmocka_unit_test(test_e4m3_products), cmocka_unit_test(test_late_choice),
      cmocka_unit_test(test_e4m3_beside_others), cmocka_unit_test(test_e4m3_models),
#endif
      cmocka_unit_test(test_mixed), cmocka_unit_test(test_experts), cmocka_unit_test(test_rounded_experts), cmocka_unit_test(test_states), cmocka_unit_test(test_rounded),
      cmocka_unit_test(test_e4m3_blocks), cmocka_unit_test(test_act_order)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
