/* SPDX-License-Identifier: MIT */
/* The quantized products, written once. The including file has defined 16 floats
 * (vf), 16 int32 (vi), 64 bytes (vb), and
 *   QUANT_INLINE   how a function of known formats is declared
 *   QUANT_UNROLL   whether its loops are unrolled
 *   FUSED_ROWS     rows up to which codes are used straight from the panel
 *   READY_ROWS     rows of a tile on codes that were unpacked
 *   DOT_SIGNED     1: vi_dot takes bytes of 8 bits as code - 128
 *   SHORT_SUMS     1: products of fewer bits may be summed in 16 bits first: vs, vs_dot, vs_add_dot, vi_add_short */
#include <string.h>

#include "device/cpu/cpu_vec_lanes.h"

/* A format, known to the compiler where the functions are inlined. READY: bytes and
 * floats that unpack_chunk made. */
enum { SCALE_READY = TL_SCALE_E4M3 + 1 };
struct shape {
  unsigned bits, group;
  int offset, scale;
  bool table; /* codes are numbers of table entries */
  bool min;   /* values have one */
  bool wide;  /* products need all 8 bits of a byte */
  unsigned code_bits; /* READY only: bits that a byte has of a code, if it is not wide */
};

/* What a tile works on. */
struct operands {
  const char *super, *records, *cells;
  unsigned n_cells, run;
  const int8_t *table;
  int offset;       /* READY only */
  const struct cpu_quant_cell *rows; /* activations, at the chunk's first input */
  size_t stride;                     /* cells from row to row */
};

/* Unpacked: lies in the lane's scratch. */
struct ready {
  uint8_t codes[CPU_CHUNK_CELLS][CPU_CELL * CPU_PANEL];
  float scales[2 * CPU_CHUNK_CELLS][2][CPU_PANEL]; /* scale, then min */
};
_Static_assert(sizeof(struct ready) <= CPU_K_BLOCK * CPU_PANEL * sizeof(float), "fits the scratch");

#if QUANT_UNROLL
#define UNROLLED _Pragma("GCC unroll 16")
#else
#define UNROLLED
#endif

/* --- codes and scales -------------------------------------------------------------------- */

QUANT_INLINE vb load_codes(const struct shape f, const char *cell, unsigned s, unsigned v, const int8_t *table) {
  vb code;
  if (f.bits == 8) return vb_load(cell + (s * 2 + v) * 64);
  if (f.bits >= 4)
    code = vb_field(vb_load(cell + (s / 2 * 2 + v) * 64), s % 2 * 4, 0, 15);
  else
    code = vb_field(vb_load(cell + (s / 4 * 2 + v) * 64), s % 4 * 2, 0, 3);
  if (f.bits == 5) code = vb_or(code, vb_field(vb_load(cell + 512 + v * 64), s, 4, 1));
  if (f.bits == 6) code = vb_or(code, vb_field(vb_load(cell + 512 + (s / 4 * 2 + v) * 64), s % 4 * 2, 4, 3));
  if (f.bits == 3) code = vb_or(code, vb_field(vb_load(cell + 256 + v * 64), s, 2, 1));
  return f.table ? vb_lookup(table, code) : code;
}

struct scale {
  vf scale, min;
};

QUANT_INLINE struct scale load_super(const struct shape f, const struct operands *o, unsigned v) {
  const uint16_t *half = (const uint16_t *)(const void *)o->super;
  struct scale s = {vf_zero(), vf_zero()};
  if (f.scale == TL_SCALE_SUPER || f.scale == TL_SCALE_SUPER_MIN) s.scale = vf_load_f16(half + v * 16);
  if (f.scale == TL_SCALE_SUPER_MIN) s.min = vf_load_f16(half + CPU_PANEL + v * 16);
  if (f.scale == TL_SCALE_E4M3) s.scale = vf_load((const float *)(const void *)o->super + v * 16);
  return s;
}

QUANT_INLINE struct scale load_scale(const struct shape f, const struct operands *o, struct scale super, unsigned record,
                                     unsigned v) {
  struct scale s = {vf_zero(), vf_zero()};
  const uint8_t *byte = (const uint8_t *)o->records;
  if (f.scale == SCALE_READY) {
    const float *ready = (const float *)(const void *)o->records + record * 2 * CPU_PANEL + v * 16;
    s.scale = vf_load(ready);
    if (f.min) s.min = vf_load(ready + CPU_PANEL);
    return s;
  }
  byte += record * cpu_quant_record_bytes((enum tl_quant_scale)f.scale);
  const uint16_t *half = (const uint16_t *)(const void *)byte + v * 16;
  switch (f.scale) {
    case TL_SCALE_HALF: s.scale = vf_load_f16(half); break;
    case TL_SCALE_HALF_MIN:
      s.scale = vf_load_f16(half);
      s.min = vf_sub(vf_zero(), vf_load_f16(half + CPU_PANEL));
      break;
    case TL_SCALE_E8M0: s.scale = vf_e8m0(byte + v * 16); break;
    case TL_SCALE_SUPER: s.scale = vf_mul(super.scale, vf_from_i8(byte + v * 16)); break;
    case TL_SCALE_SUPER_MIN:
      s.scale = vf_mul(super.scale, vf_from_u8(byte + v * 16));
      s.min = vf_mul(super.min, vf_from_u8(byte + CPU_PANEL + v * 16));
      break;
    case TL_SCALE_E4M3: s.scale = vf_mul(super.scale, f8_16(byte + v * 16)); break;
    default: /* ZERO */
      s.scale = vf_load((const float *)(const void *)byte + v * 16);
      s.min = vf_mul(s.scale, vf_sub(vf_from_u8(byte + CPU_PANEL * 4 + v * 16), vf_set1((float)f.offset)));
  }
  return s;
}

/* --- a tile -------------------------------------------------------------------------------- */

/* Panels are read once and in order: 8 KiB ahead, as floats are (cpu_kernels_body.h). */
#define FETCH_AHEAD 8192

/* Which of a cell's three sums, or products with them: of its first half, its second, of all. */
QUANT_INLINE unsigned of_group(const struct shape f, unsigned part) {
  return f.group == CPU_CELL ? 2 : part;
}

/* How many times 4 products of a code and an input, which is 127 at most, 16 bits hold the sum of: 8 of 4 bits, 4 of 5, 2 of 6. */
QUANT_INLINE unsigned short_quads(const struct shape f) {
  unsigned bits = f.scale == SCALE_READY ? f.code_bits : f.bits;
  return f.wide || !SHORT_SUMS ? 0 : bits <= 4 ? 8 : bits == 5 ? 4 : 2;
}

QUANT_INLINE const int8_t *inputs_of(const struct operands *o, unsigned r, unsigned cell, unsigned s) {
  return o->rows[r * o->stride + cell].codes + s * 4;
}

#if SHORT_SUMS
/* As below: widening sums to 32 bits once in so many products saves a multiplication and an addition of the others. */
QUANT_INLINE void add_short(const struct shape f, const unsigned rows, const struct operands *o, unsigned cell, unsigned from,
                            const unsigned n, vi (*sum)[2]) {
  const char *codes = o->cells + cell * cpu_quant_cell_bytes(f.bits);
  vs part[READY_ROWS > FUSED_ROWS ? READY_ROWS : FUSED_ROWS][2];
  UNROLLED for (unsigned s = from; s < from + n; s++) {
    vb w0 = load_codes(f, codes, s, 0, o->table), w1 = load_codes(f, codes, s, 1, o->table);
    UNROLLED for (unsigned r = 0; r < rows; r++) {
      const int8_t *x = inputs_of(o, r, cell, s);
      part[r][0] = s == from ? vs_dot(w0, x) : vs_add_dot(part[r][0], w0, x);
      part[r][1] = s == from ? vs_dot(w1, x) : vs_add_dot(part[r][1], w1, x);
    }
  }
  UNROLLED for (unsigned r = 0; r < rows; r++) {
    sum[r][0] = vi_add_short(sum[r][0], part[r][0]);
    sum[r][1] = vi_add_short(sum[r][1], part[r][1]);
  }
}
#endif

/* Inputs 32 cell + group * part ... of `rows` rows. */
QUANT_INLINE void group_sums(const struct shape f, const unsigned rows, const struct operands *o, unsigned cell,
                             unsigned part, vi (*sum)[2]) {
  const char *codes = o->cells + cell * cpu_quant_cell_bytes(f.bits);
  const unsigned quads = f.group / 4, shorts = short_quads(f) < quads ? short_quads(f) : quads;
  const bool none = (DOT_SIGNED && f.wide) || (f.min && !f.wide); /* codes with a min begin at 0, but for bytes */
  const int offset = none ? 0 : f.scale == SCALE_READY ? o->offset : f.offset;
  UNROLLED for (unsigned r = 0; r < rows; r++) {
    if (f.scale == SCALE_READY && part == 0) __builtin_prefetch(&o->rows[(r + rows) * o->stride + cell]); /* the next tile's */
    sum[r][0] = sum[r][1] = vi_set1(offset * o->rows[r * o->stride + cell].sums[of_group(f, part)]);
  }
#if SHORT_SUMS
  if (shorts) {
    UNROLLED for (unsigned i = 0; i < quads; i += shorts) add_short(f, rows, o, cell, part * 4 + i, shorts, sum);
    return;
  }
#else
  (void)shorts;
#endif
  UNROLLED for (unsigned i = 0; i < quads; i++) {
    const unsigned s = part * 4 + i;
    vb w0 = load_codes(f, codes, s, 0, o->table), w1 = load_codes(f, codes, s, 1, o->table);
    UNROLLED for (unsigned r = 0; r < rows; r++) {
      const int8_t *x = inputs_of(o, r, cell, s);
      sum[r][0] = vi_dot(sum[r][0], w0, x, f.wide);
      sum[r][1] = vi_dot(sum[r][1], w1, x, f.wide);
    }
  }
}

QUANT_INLINE void add_group(const struct shape f, const unsigned rows, const struct operands *o, const struct scale *super,
                            unsigned cell, unsigned part, vf (*total)[2]) {
  vi sum[READY_ROWS > FUSED_ROWS ? READY_ROWS : FUSED_ROWS][2];
  group_sums(f, rows, o, cell, part, sum);
  unsigned record = f.scale == TL_SCALE_ZERO ? cell / o->run : cell * (CPU_CELL / f.group) + part;
  struct scale s0 = load_scale(f, o, super[0], record, 0), s1 = load_scale(f, o, super[1], record, 1);
  UNROLLED for (unsigned r = 0; r < rows; r++) {
    const struct cpu_quant_cell *x = &o->rows[r * o->stride + cell];
    vf d = vf_set1(x->scale);
    total[r][0] = vf_fma(vf_mul(vf_from_vi(sum[r][0]), s0.scale), d, total[r][0]);
    total[r][1] = vf_fma(vf_mul(vf_from_vi(sum[r][1]), s1.scale), d, total[r][1]);
    if (f.min) {
      vf min = vf_set1(x->mins[of_group(f, part)]);
      total[r][0] = vf_fma(s0.min, min, total[r][0]);
      total[r][1] = vf_fma(s1.min, min, total[r][1]);
    }
  }
}

/* out (rows, 32) gets the chunk's share; `first`: it begins at zero. */
QUANT_INLINE void quant_tile(const struct shape f, const unsigned rows, const struct operands *o, float *out, bool first) {
  vf total[READY_ROWS > FUSED_ROWS ? READY_ROWS : FUSED_ROWS][2];
  struct scale super[2] = {load_super(f, o, 0), load_super(f, o, 1)};
  UNROLLED for (unsigned r = 0; r < rows; r++) {
    total[r][0] = first ? vf_zero() : vf_load(out + r * CPU_PANEL);
    total[r][1] = first ? vf_zero() : vf_load(out + r * CPU_PANEL + 16);
  }
  for (unsigned cell = 0; cell < o->n_cells; cell++) {
    if (f.scale != SCALE_READY)
      for (unsigned b = 0; b < cpu_quant_cell_bytes(f.bits); b += 64)
        __builtin_prefetch(o->cells + cell * cpu_quant_cell_bytes(f.bits) + b + FETCH_AHEAD);
    add_group(f, rows, o, super, cell, 0, total);
    if (f.group == 16) add_group(f, rows, o, super, cell, 1, total);
  }
  UNROLLED for (unsigned r = 0; r < rows; r++) {
    vf_store(out + r * CPU_PANEL, total[r][0]);
    vf_store(out + r * CPU_PANEL + 16, total[r][1]);
  }
}

/* The same codes and scales as bytes and floats, for many rows. */
QUANT_INLINE void unpack_shape(const struct shape f, const struct operands *o, struct ready *ret) {
  struct scale super[2] = {load_super(f, o, 0), load_super(f, o, 1)};
  for (unsigned cell = 0; cell < o->n_cells; cell++) {
    const char *codes = o->cells + cell * cpu_quant_cell_bytes(f.bits);
    for (unsigned b = 0; b < cpu_quant_cell_bytes(f.bits); b += 64) __builtin_prefetch(codes + b + FETCH_AHEAD);
    UNROLLED for (unsigned s = 0; s < 8; s++)
      UNROLLED for (unsigned v = 0; v < 2; v++)
        vb_store(ret->codes[cell] + (s * 2 + v) * 64, load_codes(f, codes, s, v, o->table));
    for (unsigned part = 0; part < CPU_CELL / f.group; part++) {
      unsigned record = f.scale == TL_SCALE_ZERO ? cell / o->run : cell * (CPU_CELL / f.group) + part;
      for (unsigned v = 0; v < 2; v++) {
        struct scale s = load_scale(f, o, super[v], record, v);
        vf_store(ret->scales[cell * (CPU_CELL / f.group) + part][0] + v * 16, s.scale);
        vf_store(ret->scales[cell * (CPU_CELL / f.group) + part][1] + v * 16, s.min);
      }
    }
  }
}

/* --- instances ------------------------------------------------------------------------------ */

/* name, bits, group, offset, scale, table, min, wide: tl_quant_format's rows once more, where the
 * compiler sees them. */
#define FOR_SHAPES(X)                                        \
  X(Q4_0, 4, 32, 8, TL_SCALE_HALF, false, false, false)      \
  X(Q4_1, 4, 32, 0, TL_SCALE_HALF_MIN, false, true, false)   \
  X(Q5_0, 5, 32, 16, TL_SCALE_HALF, false, false, false)     \
  X(Q5_1, 5, 32, 0, TL_SCALE_HALF_MIN, false, true, false)   \
  X(Q8_0, 8, 32, 128, TL_SCALE_HALF, false, false, true)     \
  X(Q2_K, 2, 16, 0, TL_SCALE_SUPER_MIN, false, true, false)  \
  X(Q3_K, 3, 16, 4, TL_SCALE_SUPER, false, false, false)     \
  X(Q4_K, 4, 32, 0, TL_SCALE_SUPER_MIN, false, true, false)  \
  X(Q5_K, 5, 32, 0, TL_SCALE_SUPER_MIN, false, true, false)  \
  X(Q6_K, 6, 16, 32, TL_SCALE_SUPER, false, false, false)    \
  X(IQ4_NL, 4, 32, 128, TL_SCALE_HALF, true, false, true)    \
  X(IQ4_XS, 4, 32, 128, TL_SCALE_SUPER, true, false, true)   \
  X(MXFP4, 4, 32, 128, TL_SCALE_E8M0, true, false, true)     \
  X(INT4, 4, 32, 0, TL_SCALE_ZERO, false, true, false)       \
  X(INT8, 8, 32, 128, TL_SCALE_ZERO, false, true, true)      \
  X(NVFP4, 4, 16, 128, TL_SCALE_E4M3, true, false, true)

#define FUSED_CASE(n) \
  case n:             \
    if (n <= FUSED_ROWS) quant_tile(f, n <= FUSED_ROWS ? n : 1, o, out, first); \
    break

#define DEFINE_SHAPE(name, ...)                                                               \
  static void fused_##name(unsigned rows, const struct operands *o, float *out, bool first) { \
    const struct shape f = {__VA_ARGS__, 0};                                                  \
    switch (rows) {                                                                           \
      FUSED_CASE(1);                                                                          \
      FUSED_CASE(2);                                                                          \
      FUSED_CASE(3);                                                                          \
      FUSED_CASE(4);                                                                          \
    }                                                                                         \
  }                                                                                           \
  static void unpack_##name(const struct operands *o, struct ready *ret) {                    \
    const struct shape f = {__VA_ARGS__, 0};                                                  \
    unpack_shape(f, o, ret);                                                                  \
  }
FOR_SHAPES(DEFINE_SHAPE)

#define READY_CASE(n) \
  case n:             \
    if (n <= READY_ROWS) quant_tile(f, n <= READY_ROWS ? n : 1, o, out, first); \
    break

#define DEFINE_READY(name, code_bits, group, min, wide)                               \
  static void name(unsigned rows, const struct operands *o, float *out, bool first) { \
    const struct shape f = {8, group, 0, SCALE_READY, false, min, wide, code_bits};   \
    switch (rows) {                                                                   \
      READY_CASE(1);                                                                  \
      READY_CASE(2);                                                                  \
      READY_CASE(3);                                                                  \
      READY_CASE(4);                                                                  \
      READY_CASE(5);                                                                  \
      READY_CASE(6);                                                                  \
      READY_CASE(7);                                                                  \
      READY_CASE(8);                                                                  \
    }                                                                                 \
  }
DEFINE_READY(ready_16_3, 3, 16, false, false)
DEFINE_READY(ready_16_6, 6, 16, false, false)
DEFINE_READY(ready_16_min, 2, 16, true, false)
DEFINE_READY(ready_16_wide, 8, 16, false, true)
DEFINE_READY(ready_32_4, 4, 32, false, false)
DEFINE_READY(ready_32_5, 5, 32, false, false)
DEFINE_READY(ready_32_4_min, 4, 32, true, false)
DEFINE_READY(ready_32_5_min, 5, 32, true, false)
DEFINE_READY(ready_32_wide, 8, 32, false, true)
DEFINE_READY(ready_32_min_wide, 8, 32, true, true)

typedef void (*tile_fn)(unsigned rows, const struct operands *o, float *out, bool first);

#define SHAPE_ENTRY(name, bits, group, offset, scale, table, min, wide) \
  [TL_DTYPE_##name] = {fused_##name, unpack_##name, SHAPE_READY_##group(bits, min, wide)},
#define SHAPE_READY_16(bits, min, wide) ((min) ? ready_16_min : (wide) ? ready_16_wide : (bits) > 3 ? ready_16_6 : ready_16_3)
#define SHAPE_READY_32(bits, min, wide) ((wide) ? SHAPE_READY_WIDE(min) : (bits) > 4 ? SHAPE_READY_5(min) : SHAPE_READY_4(min))
#define SHAPE_READY_WIDE(min) ((min) ? ready_32_min_wide : ready_32_wide)
#define SHAPE_READY_5(min) ((min) ? ready_32_5_min : ready_32_5)
#define SHAPE_READY_4(min) ((min) ? ready_32_4_min : ready_32_4)
static const struct {
  tile_fn fused;
  void (*unpack)(const struct operands *o, struct ready *ret);
  tile_fn ready;
} shapes[TL_N_DTYPES] = {FOR_SHAPES(SHAPE_ENTRY)};

/* --- a product --------------------------------------------------------------------------------- */

static void chunk_rows(enum tl_dtype dtype, struct operands *o, uint32_t m, float *out, bool first, struct ready *ready) {
  if (m <= FUSED_ROWS) {
    shapes[dtype].fused(m, o, out, first);
    return;
  }
  shapes[dtype].unpack(o, ready);
  o->cells = (const char *)ready->codes;
  o->records = (const char *)ready->scales;
  uint32_t n_tiles = (m + READY_ROWS - 1) / READY_ROWS;
  for (uint32_t t = 0, row = 0; t < n_tiles; t++) {
    unsigned rows = (m - row + (n_tiles - t) - 1) / (n_tiles - t);
    shapes[dtype].ready(rows, o, out + row * CPU_PANEL, first);
    o->rows += rows * o->stride;
    row += rows;
  }
}

static void quant_gemm(const struct cpu_matrix *w, uint32_t panel, const struct cpu_quant_cell *rows, uint32_t m, float *out,
                       float *scratch) {
  const struct tl_quant_format *f = w->quant;
  const char *chunk = w->panels + panel * w->panel_bytes;
  for (uint32_t k = 0; k < w->n_in; k += CPU_K_BLOCK) {
    unsigned n = w->n_in - k < CPU_K_BLOCK ? (w->n_in - k) / CPU_CELL : CPU_CHUNK_CELLS;
    struct operands o = {.super = chunk,
                         .records = chunk + cpu_quant_super_bytes(f->scale),
                         .cells = chunk + cpu_quant_head_bytes(f, w->run, n),
                         .n_cells = n,
                         .run = w->run,
                         .table = f->table,
                         .offset = f->offset,
                         .rows = rows + k / CPU_CELL,
                         .stride = cpu_quant_row_cells(w->n_in)};
    chunk_rows(w->dtype, &o, m, out, k == 0, (struct ready *)(void *)scratch);
    chunk += cpu_quant_chunk_bytes(f, w->run, n);
  }
}

/* --- activations ----------------------------------------------------------------------------------- */

/* 32 inputs: the largest becomes 127. Adding 1.5 * 2^23 rounds to nearest even. */
static void quantize_group(const float *x, struct cpu_quant_cell *ret) {
  const vf zero = vf_zero(), a = vf_load(x), b = vf_load(x + 16);
  float shifted[CPU_CELL], most = max_lanes(vf_max(vf_max(a, vf_sub(zero, a)), vf_max(b, vf_sub(zero, b))));
  float nan = sum_lanes(vf_fma(b, zero, vf_mul(a, zero)));
  /* the smallest factor's inverse is still a float, and no input becomes more than 127 */
  float inverse = most > 0x1p-100f ? 127 / most : 0;
  ret->scale = most / 127 + nan;
  vf_store(shifted, vf_add(vf_mul(a, vf_set1(inverse)), vf_set1(0x1.8p23f)));
  vf_store(shifted + 16, vf_add(vf_mul(b, vf_set1(inverse)), vf_set1(0x1.8p23f)));
  int32_t bits[CPU_CELL], sum[2] = {0, 0};
  memcpy(bits, shifted, sizeof bits);
  for (unsigned i = 0; i < CPU_CELL; i++) {
    int32_t code = (int32_t)((uint32_t)bits[i] - 0x4b400000u);
    bits[i] = code > 127 ? 127 : code < -127 ? -127 : code; /* a NaN is what it likes to be: its scale says so */
  }
  for (unsigned i = 0; i < CPU_CELL; i++) ret->codes[i] = (int8_t)bits[i];
  for (unsigned i = 0; i < CPU_CELL / 2; i++) {
    sum[0] += bits[i];
    sum[1] += bits[i + CPU_CELL / 2];
  }
  ret->sums[0] = -sum[0];
  ret->sums[1] = -sum[1];
  ret->sums[2] = -(sum[0] + sum[1]);
  for (unsigned i = 0; i < 3; i++) ret->mins[i] = ret->scale * (float)ret->sums[i];
}

static void quantize_row(const float *x, const uint32_t *order, size_t n, struct cpu_quant_cell *row) {
  float gathered[CPU_CELL];
  for (size_t k = 0; k < n; k += CPU_CELL) {
    const float *from = x + k;
    if (order) {
      for (unsigned i = 0; i < CPU_CELL; i++) gathered[i] = x[order[k + i]];
      from = gathered;
    }
    quantize_group(from, &row[k / CPU_CELL]);
  }
}
