/* SPDX-License-Identifier: MIT */
/* Floats to blocks while a device copies them: Q8_0 and Q4_0 as ggml's reference
 * does, to the bit, and Q4_K by a search of our own. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

/* --- blocks ------------------------------------------------------------------------------- */

/* Also of NaN, which a code cannot be. */
static float within(float value, float low, float high) {
  return fminf(high, fmaxf(low, value));
}

/* The largest becomes 127. */
static void make_q8_0(const float *x, struct tl_quant_block *ret) {
  float most = 0;
  for (unsigned i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[i]));
  float d = most / 127, inverse = d > 0 ? 1 / d : 0;
  for (unsigned i = 0; i < 32; i++) ret->codes[i] = (uint8_t)(within(roundf(x[i] * inverse), -127, 127) + 128);
  ret->d = tl_f32_to_f16(d);
}

/* The one farthest from zero becomes -8, whatever its sign. */
static void make_q4_0(const float *x, struct tl_quant_block *ret) {
  float far = 0;
  for (unsigned i = 0; i < 32; i++)
    if (fabsf(x[i]) > fabsf(far)) far = x[i];
  float d = far / -8, inverse = d != 0 ? 1 / d : 0;
  for (unsigned i = 0; i < 32; i++) ret->codes[i] = (uint8_t)within(truncf(x[i] * inverse + 8.5f), 0, 15);
  ret->d = tl_f32_to_f16(d);
}

/* The nearest of 16 steps of `scale` from -min on; returns the squared error. */
static float round_group(const float *x, float scale, float min, uint8_t *codes) {
  float error = 0;
  for (unsigned i = 0; i < 32; i++) {
    float code = scale > 0 ? within(rintf((x[i] + min) / scale), 0, 15) : 0;
    codes[i] = (uint8_t)code;
    float off = scale * code - min - x[i];
    error += off * off;
  }
  return error;
}

/* Scale and min that fit the codes best (least squares); min is not below 0. */
static void fit_group(const float *x, const uint8_t *codes, float *scale, float *min) {
  float sum_c = 0, sum_cc = 0, sum_x = 0, sum_cx = 0;
  for (unsigned i = 0; i < 32; i++) {
    float c = codes[i];
    sum_c += c;
    sum_cc += c * c;
    sum_x += x[i];
    sum_cx += c * x[i];
  }
  float determinant = 32 * sum_cc - sum_c * sum_c;
  if (!(determinant > 0)) return;
  float s = (32 * sum_cx - sum_c * sum_x) / determinant, m = (s * sum_c - sum_x) / 32;
  if (m < 0) {
    m = 0;
    s = sum_cc > 0 ? sum_cx / sum_cc : 0;
  }
  if (s > 0) *scale = s, *min = m;
}

#define FIT_ROUNDS 4

/* From the range of the values, better in a few rounds of rounding and fitting. */
static void find_group(const float *x, float *ret_scale, float *ret_min) {
  float low = 0, high = x[0];
  for (unsigned i = 0; i < 32; i++) {
    low = fminf(low, x[i]);
    high = fmaxf(high, x[i]);
  }
  float scale = (high - low) / 15, min = -low, best = INFINITY;
  *ret_scale = *ret_min = 0;
  for (unsigned round = 0; round < FIT_ROUNDS && scale > 0; round++) {
    uint8_t codes[32];
    float error = round_group(x, scale, min, codes);
    if (error < best) {
      best = error;
      *ret_scale = scale;
      *ret_min = min;
    }
    fit_group(x, codes, &scale, &min);
  }
}

/* Eight values as 6-bit multiples of a half. */
static float round_super(const float *values, uint8_t *ret, uint16_t *ret_half) {
  float most = 0;
  for (unsigned i = 0; i < 8; i++) most = fmaxf(most, values[i]);
  *ret_half = tl_f32_to_f16(most / 63);
  float d = tl_f16_to_f32(*ret_half);
  for (unsigned i = 0; i < 8; i++) ret[i] = d > 0 ? (uint8_t)within(rintf(values[i] / d), 0, 63) : 0;
  return d;
}

static void make_q4_k(const float *x, struct tl_quant_block *ret) {
  float scales[8], mins[8];
  for (unsigned i = 0; i < 8; i++) find_group(x + 32 * i, &scales[i], &mins[i]);
  float d = round_super(scales, ret->scales, &ret->d), m = round_super(mins, ret->mins, &ret->m);
  for (unsigned i = 0; i < 8; i++)
    round_group(x + 32 * i, d * (float)ret->scales[i], m * (float)ret->mins[i], ret->codes + 32 * i);
}

static void read_floats(const struct tl_packed *p, uint64_t row, uint64_t block, unsigned n, float *ret) {
  tl_tensor_floats(&p->source, row, block * n, n, ret);
}

static void read_q8_0(const struct tl_packed *p, uint64_t row, uint64_t block, struct tl_quant_block *ret) {
  float x[32];
  read_floats(p, row, block, 32, x);
  make_q8_0(x, ret);
}

static void read_q4_0(const struct tl_packed *p, uint64_t row, uint64_t block, struct tl_quant_block *ret) {
  float x[32];
  read_floats(p, row, block, 32, x);
  make_q4_0(x, ret);
}

static void read_q4_k(const struct tl_packed *p, uint64_t row, uint64_t block, struct tl_quant_block *ret) {
  float x[256];
  read_floats(p, row, block, 256, x);
  make_q4_k(x, ret);
}

/* --- models ----------------------------------------------------------------------------------- */

static const struct target {
  enum tl_dtype dtype;
  void (*read)(const struct tl_packed *p, uint64_t row, uint64_t block, struct tl_quant_block *ret);
} targets[] = {{TL_DTYPE_Q8_0, read_q8_0}, {TL_DTYPE_Q4_0, read_q4_0}, {TL_DTYPE_Q4_K, read_q4_k}};

/* What a matrix becomes: rows that are not whole blocks of the wanted format may be of
 * Q8_0's. NULL: it stays as it is. */
static const struct target *target_of(const struct tl_tensor *t, enum tl_dtype wanted) {
  const struct target *target = NULL;
  if (t->dtype > TL_DTYPE_BF16 || t->n_dims != 2) return NULL;
  for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
    if (targets[i].dtype == wanted) target = &targets[i];
  if (target && t->shape[1] % tl_quant_format(wanted)->block == 0) return target;
  return t->shape[1] % 32 == 0 ? &targets[0] : NULL;
}

/* The index of the tensor that takes the place of tensor `index`. */
static int32_t quantized(struct model *m, int32_t index, const struct target *target, struct tl_error *err) {
  struct tl_tensor t = m->tensors[index];
  char name[400];
  snprintf(name, sizeof name, "%s as %s", t.name, tl_dtype_name(target->dtype));
  int32_t there = model_find_tensor(m, name);
  /* a file's own tensor may be called that: it is found to be there twice when ours is added */
  if (there >= 0 && m->tensors[there].packed && m->tensors[there].packed->read == target->read) return there;
  struct tl_packed *p = tl_arena_alloc(&m->arena, sizeof *p);
  if (!p) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *p = (struct tl_packed){.read = target->read, .rows = t.shape[0], .columns = t.shape[1], .source = t};
  t = (struct tl_tensor){.name = name, .dtype = target->dtype, .n_dims = 2, .shape = {t.shape[0], t.shape[1]}, .packed = p};
  t.bytes = t.shape[0] * tl_dtype_row_bytes(t.dtype, t.shape[1]);
  int r = model_add_tensor(m, &t, err);
  return r < 0 ? r : (int32_t)m->n_tensors - 1;
}

/* Not ROUTE: its matrix is small, and rounding it changes which experts are chosen. Nor what says how much of a state stays. */
static bool is_product(enum tl_op_kind kind, int input) {
  if (kind == TL_OP_DELTA_GATES || kind == TL_OP_BESIDE_MIX) return input == 0;
  return kind == TL_OP_DELTA_IN || kind == TL_OP_GATE_IN || kind == TL_OP_SHORT_IN || kind == TL_OP_QKV || kind == TL_OP_LATENT || kind == TL_OP_LATENT_QUERY || kind == TL_OP_ATTN_OUT || kind == TL_OP_GATED_UP || kind == TL_OP_UP ||
         kind == TL_OP_MLP_DOWN || kind == TL_OP_EXPERTS_UP || kind == TL_OP_EXPERTS_DOWN || kind == TL_OP_EXPERTS_IN || kind == TL_OP_EXPERTS_OUT || kind == TL_OP_LOGITS;
}

/* The n tensors from `first` on, all or none; the index of the first of those that take their place. */
static int32_t quantized_run(struct model *m, int32_t first, uint32_t n, enum tl_dtype wanted, struct tl_error *err) {
  for (uint32_t i = 0; i < n; i++)
    if (!target_of(&m->tensors[first + (int32_t)i], wanted)) return first;
  int32_t ret = -1;
  for (uint32_t i = 0; i < n; i++) {
    int32_t index = quantized(m, first + (int32_t)i, target_of(&m->tensors[first + (int32_t)i], wanted), err);
    if (index < 0) return index;
    if (i == 0) ret = index;
  }
  return ret;
}

int tl_model_quantize(struct tl_model *model, const char *format, struct tl_error *err) {
  struct model *m = (struct model *)model;
  enum tl_dtype wanted = strcmp(format, "q8_0") == 0 ? TL_DTYPE_Q8_0 : strcmp(format, "q4_0") == 0 ? TL_DTYPE_Q4_0 : TL_DTYPE_Q4_K;
  model->quantized = wanted == TL_DTYPE_Q8_0 ? "q8_0" : wanted == TL_DTYPE_Q4_0 ? "q4_0" : "q4_k";
  for (uint32_t i = 0; i < model->n_ops; i++) {
    struct tl_op *op = &m->ops[i];
    for (int k = 0; k < TL_OP_INPUTS; k++) {
      if (!is_product(op->kind, k) || op->weight[k] < 0) continue;
      /* rounding the output's rows changes tokens most, and it is one matrix of many */
      enum tl_dtype to = op->kind == TL_OP_LOGITS ? TL_DTYPE_Q8_0 : wanted;
      int32_t index = quantized_run(m, op->weight[k], tl_op_n_tensors(op), to, err);
      if (index < 0) return index;
      op->weight[k] = index;
    }
  }
  model->tensors = m->tensors;
  model->n_tensors = m->n_tensors;
  enum tl_dtype kept = model->dtype; /* what keys and values are kept in is no question of weights */
  int r = model_count_weights(m, err);
  model->dtype = kept;
  return r;
}
