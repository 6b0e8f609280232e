/* SPDX-License-Identifier: MIT */
/* Products on quantized weights: activations are rounded to int8 once a row, 32
 * of them share a scale; integers are multiplied and summed exactly within a
 * group of the weights, and the groups' sums are scaled and added in floats in
 * ascending order. So here too a row's result depends on the row alone.
 *
 * A panel is a run of chunks of up to 256 inputs, which are cells of 32 inputs:
 *
 *   chunk: [super (SUPER, SUPER_MIN: d of 32 outputs, halves; then m; E4M3: the factor, floats)]
 *          [a record of scales a group: see record_bytes]    all padded to 64 bytes
 *          [codes of the cells]
 *   cell:  32 inputs of 32 outputs in planes of 4, 2 and 1 bits, or bytes. A vector
 *          of 64 bytes holds 16 outputs times 4 inputs, the layout of VPDPBUSD, once
 *          a field: a nibble plane has two such vectors in one, and so on.
 *
 *   bits 8: bytes   4: nibbles   5: nibbles, 1   6: nibbles, 2   2: 2   3: 2, 1
 *   vector of quad s (inputs 4 s ..), outputs 16 v ..: bytes (2 s + v) * 64,
 *   nibbles (2 (s / 2) + v) * 64, 2 bits (2 (s / 4) + v) * 64, 1 bit v * 64. */
#ifndef CPU_QUANT_H
#define CPU_QUANT_H

#include "device/cpu/cpu_private.h"
#include "tokenlane/tensor.h"

#define CPU_CELL 32
#define CPU_CHUNK_CELLS (CPU_K_BLOCK / CPU_CELL)

static inline size_t cpu_quant_super_bytes(enum tl_quant_scale scale) {
  return scale == TL_SCALE_SUPER ? 2 * CPU_PANEL : scale == TL_SCALE_SUPER_MIN || scale == TL_SCALE_E4M3 ? 4 * CPU_PANEL : 0;
}

/* HALF: d. HALF_MIN: d, m. E8M0: exponent. SUPER: scale. SUPER_MIN: scale, min (bytes).
 * ZERO: scale (float), zero (byte). E4M3: scale. Of 32 outputs each. */
static inline size_t cpu_quant_record_bytes(enum tl_quant_scale scale) {
  static const uint8_t bytes[] = {2, 4, 1, 1, 2, 5, 1};
  return (size_t)bytes[scale] * CPU_PANEL;
}

static inline size_t cpu_quant_cell_bytes(unsigned bits) {
  return (size_t)bits * (CPU_CELL * CPU_PANEL / 8);
}

/* Records of a chunk of n cells; ZERO: run cells share one. */
static inline unsigned cpu_quant_records(const struct tl_quant_format *f, unsigned run, unsigned n) {
  return f->scale == TL_SCALE_ZERO ? (n + run - 1) / run : n * CPU_CELL / f->group;
}

static inline size_t cpu_quant_head_bytes(const struct tl_quant_format *f, unsigned run, unsigned n) {
  size_t bytes = cpu_quant_super_bytes(f->scale) + cpu_quant_records(f, run, n) * cpu_quant_record_bytes(f->scale);
  return (bytes + 63) / 64 * 64;
}

static inline size_t cpu_quant_chunk_bytes(const struct tl_quant_format *f, unsigned run, unsigned n) {
  return cpu_quant_head_bytes(f, run, n) + n * cpu_quant_cell_bytes(f->bits);
}

/* 32 activations, all that products want of them on one cache line. */
struct cpu_quant_cell {
  int8_t codes[CPU_CELL];
  float scale;
  int32_t sums[3]; /* minus the sum of the first 16 codes, of the others, of all: by these offsets are taken back */
  float mins[3];   /* these times the scale: mins are multiplied by them */
  float unused;    /* never written */
};
_Static_assert(sizeof(struct cpu_quant_cell) == 64, "a cache line");

/* Cells from row to row of n activations, a multiple of 32: odd, as cpu_row_stride is. */
static inline size_t cpu_quant_row_cells(size_t n) {
  return n / CPU_CELL | 1;
}

struct cpu_quant_kernels {
  const char *name;
  /* Row of n floats to row; order: where input k of the row is in x, NULL: there. A NaN
   * or an infinity makes its 32 inputs NaN. */
  void (*quantize)(const float *x, const uint32_t *order, size_t n, struct cpu_quant_cell *row);
  /* out (m, 32) = rows (m, cpu_quant_row_cells(n_in)) times the panel; scratch: CPU_K_BLOCK * 32 floats. */
  void (*gemm)(const struct cpu_matrix *w, uint32_t panel, const struct cpu_quant_cell *rows, uint32_t m, float *out,
               float *scratch);
};

extern const struct cpu_quant_kernels cpu_quant_plain;
#if defined(__x86_64__)
extern const struct cpu_quant_kernels cpu_quant_avx2, cpu_quant_avx512vnni;
#endif
const struct cpu_quant_kernels *cpu_choose_quant(enum tl_cpu_isa isa);

/* cpu_quant_pack.c. Whether a tensor goes into panels of its own format. */
bool cpu_quant_can(const struct tl_tensor *t);
/* Sizes of w, whose dtype, n_in and n_panels are set, from a tensor that it will hold. */
void cpu_quant_measure(struct cpu_matrix *w, const struct tl_tensor *t);
/* Row `row` of t, from column `column` on, where a block and its scale begin, into output `out` of w, whose panels
 * are zero before. */
void cpu_quant_pack_row(const struct cpu_matrix *w, uint32_t out, const struct tl_tensor *t, uint64_t row, uint32_t column);

#endif
