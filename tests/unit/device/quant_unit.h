/* SPDX-License-Identifier: MIT */
/* Random quantized matrices, and every table of quantized kernels in turn. */
#ifndef QUANT_UNIT_H
#define QUANT_UNIT_H

#include <math.h>

#include "device/cpu/cpu_quant.h"
#include "kernel_unit.h"

#define MAX_QUANT_KERNELS 3

static inline void for_all_quants(void (*test)(const struct cpu_quant_kernels *kernels)) {
  const struct cpu_quant_kernels *last = NULL;
  for (enum tl_cpu_isa isa = TL_ISA_PLAIN; isa <= tl_cpu_best_isa(); isa++) {
    const struct cpu_quant_kernels *kernels = cpu_choose_quant(isa);
    if (kernels != last) test(kernels);
    last = kernels;
  }
}

/* Any bytes; halves that scale are set to numbers near `size`. */
static inline void random_block(enum tl_dtype dtype, uint8_t *at, float size) {
  static const uint8_t halves[TL_N_DTYPES][2] = {
      [TL_DTYPE_Q4_1] = {0, 2}, [TL_DTYPE_Q5_1] = {0, 2}, [TL_DTYPE_Q2_K] = {80, 82},   [TL_DTYPE_Q3_K] = {108, 108},
      [TL_DTYPE_Q4_K] = {0, 2}, [TL_DTYPE_Q5_K] = {0, 2}, [TL_DTYPE_Q6_K] = {208, 208},
  };
  for (unsigned i = 0; i < tl_quant_format(dtype)->block_bytes; i++) at[i] = (uint8_t)unit_below(&random_state, 256);
  if (dtype == TL_DTYPE_MXFP4) {
    at[0] = (uint8_t)(120 + unit_below(&random_state, 5));
    return;
  }
  for (unsigned i = 0; i < 2; i++) {
    uint16_t half = tl_f32_to_f16(number(size));
    memcpy(at + halves[dtype][i], &half, sizeof half);
  }
}

/* A tensor at an odd address; to be freed by free_quant. */
static inline struct tl_tensor new_quant(enum tl_dtype dtype, uint32_t rows, uint32_t columns) {
  const struct tl_quant_format *f = tl_quant_format(dtype);
  struct tl_tensor t = {.name = "w", .dtype = dtype, .n_dims = 2, .shape = {rows, columns}};
  t.bytes = rows * tl_dtype_row_bytes(dtype, columns);
  uint8_t *data = malloc(t.bytes + 1);
  for (size_t at = 0; at < t.bytes; at += f->block_bytes) random_block(dtype, data + 1 + at, 0.1f);
  t.data = data + 1;
  return t;
}

static inline void free_quant(struct tl_tensor *t) {
  free((char *)(uintptr_t)t->data - 1);
}

/* One tensor packed as a matrix alone. */
static inline struct cpu_weights pack_quant(struct tl_tensor *t) {
  struct tl_op op = {.kind = TL_OP_LOGITS, .weight = {0, -1, -1}, .bias = {-1, -1, -1}};
  struct tl_model model = {.tensors = t, .n_tensors = 1, .plan = &op, .n_ops = 1};
  struct tl_device_load load = {.model = &model};
  struct cpu_weights weights;
  struct tl_error err = {0};
  if (cpu_weights_load(&load, &(const struct tl_shard){.size = 1}, &weights, &err) < 0) fail_msg("%s", err.message);
  assert_non_null(weights.matrices[0].quant);
  return weights;
}

/* (m, n_panels * 32); to be freed. Buffers have their exact sizes. */
static inline float *multiply_quant(const struct cpu_quant_kernels *kernels, const struct cpu_matrix *w, const float *x,
                                    uint32_t m) {
  size_t stride = cpu_quant_row_cells(w->n_in);
  struct cpu_quant_cell *rows = malloc(m * stride * sizeof *rows);
  float *scratch = malloc(CPU_K_BLOCK * CPU_PANEL * sizeof *scratch), *out = malloc((size_t)m * CPU_PANEL * sizeof *out);
  float *result = malloc((size_t)m * w->n_panels * CPU_PANEL * sizeof *result);
  for (uint32_t i = 0; i < m; i++) kernels->quantize(x + (size_t)i * w->n_in, w->order, w->n_in, rows + i * stride);
  for (uint32_t p = 0; p < w->n_panels; p++) {
    kernels->gemm(w, p, rows, m, out, scratch);
    for (uint32_t i = 0; i < m; i++)
      memcpy(result + ((size_t)i * w->n_panels + p) * CPU_PANEL, out + (size_t)i * CPU_PANEL, CPU_PANEL * sizeof *out);
  }
  free(rows);
  free(scratch);
  free(out);
  return result;
}

#endif
