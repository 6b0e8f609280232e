/* SPDX-License-Identifier: MIT */
/* The kernels, written once over a vector of 16 floats (`vf`) that the including
 * file has defined for its instruction set together with TILE_M and TILE_V: rows
 * and vectors of outputs that fit its registers; F8_ROWS: rows with two vectors each. */
#include <math.h>
#include <string.h>

#include "device/cpu/cpu_vec_lanes.h"

#define INLINE static inline __attribute__((always_inline))

/* --- products -------------------------------------------------------------------------- */

/* Inputs 2 * pair and 2 * pair + 1 for outputs 16 * v ... of a panel. */
INLINE void load_pair(enum tl_dtype dtype, const char *panel, size_t pair, unsigned v, vf *even, vf *odd) {
  if (dtype == TL_DTYPE_BF16) {
    const char *at = panel + (pair * CPU_PANEL + v * 16) * 4;
    *even = vf_bf16_even(at);
    *odd = vf_bf16_odd(at);
  } else if (dtype == TL_DTYPE_F16) {
    const uint16_t *at = (const uint16_t *)(const void *)panel + 2 * pair * CPU_PANEL + v * 16;
    *even = vf_load_f16(at);
    *odd = vf_load_f16(at + CPU_PANEL);
  } else {
    const float *at = (const float *)(const void *)panel + 2 * pair * CPU_PANEL + v * 16;
    *even = vf_load(at);
    *odd = vf_load(at + CPU_PANEL);
  }
}

/* The processor's own prefetchers leave products of few rows waiting for memory: what is used next is asked for
 * while a tile computes, `lines` cache lines a pair of inputs. Past the end of the matrix nothing is there to fetch,
 * which prefetches do not mind. */
#define FETCH_AHEAD_BYTES 8192

struct ahead {
  const char *at; /* of pair 0 */
  unsigned lines;
};

INLINE void fetch_ahead(struct ahead ahead, size_t pair) {
  for (unsigned line = 0; line < ahead.lines; line++) __builtin_prefetch(ahead.at + (pair * ahead.lines + line) * 64, 0, 2);
}

/* rows x (16 * TILE_V) outputs over n_pairs pairs of inputs; `first`: sums begin
 * at zero, else they go on from out. */
INLINE void tile(enum tl_dtype dtype, const unsigned rows, const char *panel, unsigned v0, size_t n_pairs,
                 const float *x, size_t ldx, float *out, bool first, struct ahead ahead) {
  vf sum[TILE_M][TILE_V];
#pragma GCC unroll 16
  for (unsigned r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (unsigned v = 0; v < TILE_V; v++) sum[r][v] = first ? vf_zero() : vf_load(out + r * CPU_PANEL + (v0 + v) * 16);
  for (size_t pair = 0; pair < n_pairs; pair++) {
    vf even[TILE_V], odd[TILE_V];
    fetch_ahead(ahead, pair);
#pragma GCC unroll 2
    for (unsigned v = 0; v < TILE_V; v++) load_pair(dtype, panel, pair, v0 + v, &even[v], &odd[v]);
#pragma GCC unroll 16
    for (unsigned r = 0; r < rows; r++) {
      vf x0 = vf_set1(x[r * ldx + 2 * pair]), x1 = vf_set1(x[r * ldx + 2 * pair + 1]);
#pragma GCC unroll 2
      for (unsigned v = 0; v < TILE_V; v++) {
        sum[r][v] = vf_fma(even[v], x0, sum[r][v]);
        sum[r][v] = vf_fma(odd[v], x1, sum[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (unsigned r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (unsigned v = 0; v < TILE_V; v++) vf_store(out + r * CPU_PANEL + (v0 + v) * 16, sum[r][v]);
}

#define TILE_CASE(dtype, rows)                                               \
  case rows:                                                                 \
    if (rows <= TILE_M) tile(dtype, rows <= TILE_M ? rows : 1, panel, v0, n_pairs, x, ldx, out, first, ahead); \
    break

#define DEFINE_TILES(name, dtype)                                                                              \
  static void name(unsigned rows, const char *panel, unsigned v0, size_t n_pairs, const float *x, size_t ldx, \
                   float *out, bool first, struct ahead ahead) {                                               \
    switch (rows) {                                                                                            \
      TILE_CASE(dtype, 1);                                                                                     \
      TILE_CASE(dtype, 2);                                                                                     \
      TILE_CASE(dtype, 3);                                                                                     \
      TILE_CASE(dtype, 4);                                                                                     \
      TILE_CASE(dtype, 5);                                                                                     \
      TILE_CASE(dtype, 6);                                                                                     \
      TILE_CASE(dtype, 7);                                                                                     \
      TILE_CASE(dtype, 8);                                                                                     \
      TILE_CASE(dtype, 9);                                                                                     \
      TILE_CASE(dtype, 10);                                                                                    \
      TILE_CASE(dtype, 11);                                                                                    \
      TILE_CASE(dtype, 12);                                                                                    \
    }                                                                                                          \
  }
DEFINE_TILES(tiles_f32, TL_DTYPE_F32)
DEFINE_TILES(tiles_f16, TL_DTYPE_F16)
DEFINE_TILES(tiles_bf16, TL_DTYPE_BF16)

/* All rows over one stretch of inputs, in tiles of nearly equal height. `next`: what is fetched meanwhile, by the first
 * two tiles in halves, so that the bus is not asked for more than it brings; lines 0: nothing. */
static void all_rows(enum tl_dtype dtype, const char *panel, size_t n_pairs, const float *x, size_t ldx, uint32_t m,
                     float *out, bool first, struct ahead next) {
  uint32_t n_tiles = (m + TILE_M - 1) / TILE_M;
  unsigned lines = n_tiles > 1 ? next.lines / 2 : next.lines;
  for (uint32_t t = 0, row = 0; t < n_tiles; t++) {
    unsigned rows = (m - row + (n_tiles - t) - 1) / (n_tiles - t);
    for (unsigned v0 = 0; v0 < CPU_PANEL / 16; v0 += TILE_V) {
      struct ahead ahead = {next.at + t * n_pairs * lines * 64, v0 == 0 && t < 2 ? lines : 0};
      if (dtype == TL_DTYPE_BF16)
        tiles_bf16(rows, panel, v0, n_pairs, x + row * ldx, ldx, out + row * CPU_PANEL, first, ahead);
      else if (dtype == TL_DTYPE_F16)
        tiles_f16(rows, panel, v0, n_pairs, x + row * ldx, ldx, out + row * CPU_PANEL, first, ahead);
      else
        tiles_f32(rows, panel, v0, n_pairs, x + row * ldx, ldx, out + row * CPU_PANEL, first, ahead);
    }
    row += rows;
  }
}

static void unpack(enum tl_dtype dtype, const char *panel, size_t n_pairs, float *ret) {
  for (size_t pair = 0; pair < n_pairs; pair++)
    for (unsigned v = 0; v < CPU_PANEL / 16; v++) {
      vf even, odd;
      load_pair(dtype, panel, pair, v, &even, &odd);
      vf_store(ret + 2 * pair * CPU_PANEL + v * 16, even);
      vf_store(ret + (2 * pair + 1) * CPU_PANEL + v * 16, odd);
    }
}

/* From this many rows on it pays to unpack a panel to floats once for all rows. */
#define UNPACK_ROWS (2 * TILE_M + 1)

/* --- F8 ---------------------------------------------------------------------------------
 * Bytes become floats for each use. A value is (byte's * 2^-8) * (2^8 * scale), rounded once, whichever way
 * it goes: the products do not depend on how many rows there are. */

/* The scales of input k, times 2^8; *ret_stop: the first input that has others, `end` at most. */
INLINE void f8_scales(const struct cpu_matrix *w, const char *panel, uint32_t k, uint32_t end, vf *low, vf *high, uint32_t *ret_stop) {
  uint32_t run = k < w->n_in ? k / w->run : (k - 1) / w->run; /* what fills an odd row up has the last one's */
  const float *at = (const float *)(const void *)panel + (size_t)run * CPU_PANEL;
  *low = vf_mul(vf_load(at), vf_set1(256));
  *high = vf_mul(vf_load(at + 16), vf_set1(256));
  uint64_t stop = ((uint64_t)run + 1) * w->run;
  *ret_stop = stop > end || k >= w->n_in ? end : (uint32_t)stop;
}

/* Inputs k .. k + n - 1 of a panel, scaled. */
static void unpack_f8(const struct cpu_matrix *w, const char *panel, uint32_t k, uint32_t n, float *ret) {
  const uint8_t *bytes = (const uint8_t *)panel + cpu_f8_scale_bytes(w) + (size_t)k * CPU_PANEL;
  for (uint32_t end = k + n, stop; k < end;) {
    vf low, high, a, b;
    f8_scales(w, panel, k, end, &low, &high, &stop);
    for (; k < stop; k++, bytes += CPU_PANEL, ret += CPU_PANEL) {
      vf_load_f8(bytes, &a, &b);
      vf_store(ret, vf_mul(a, low));
      vf_store(ret + 16, vf_mul(b, high));
    }
  }
}

/* All outputs of a panel for so few rows that their sums stay in registers: no float is stored. The next panel is
 * fetched meanwhile in four streams. */
INLINE void f8_tile(const unsigned rows, const struct cpu_matrix *w, const char *panel, const float *x, size_t ldx, float *out) {
  const uint8_t *bytes = (const uint8_t *)panel + cpu_f8_scale_bytes(w);
  const char *next = panel + w->panel_bytes;
  size_t quarter = w->k_padded / 8 * 64;
  vf sum[F8_ROWS][2];
#pragma GCC unroll 16
  for (unsigned r = 0; r < rows; r++) sum[r][0] = sum[r][1] = vf_zero();
  for (uint32_t k = 0, stop; k < w->k_padded;) {
    vf low, high, a, b;
    f8_scales(w, panel, k, w->k_padded, &low, &high, &stop);
    for (; k < stop; k++, bytes += CPU_PANEL) {
      if (k % 2 == 0) __builtin_prefetch(next + k / 2 % 4 * quarter + k / 8 * 64, 0, 2);
      vf_load_f8(bytes, &a, &b);
      a = vf_mul(a, low);
      b = vf_mul(b, high);
#pragma GCC unroll 16
      for (unsigned r = 0; r < rows; r++) {
        vf its = vf_set1(x[r * ldx + k]);
        sum[r][0] = vf_fma(a, its, sum[r][0]);
        sum[r][1] = vf_fma(b, its, sum[r][1]);
      }
    }
  }
#pragma GCC unroll 16
  for (unsigned r = 0; r < rows; r++) {
    vf_store(out + r * CPU_PANEL, sum[r][0]);
    vf_store(out + r * CPU_PANEL + 16, sum[r][1]);
  }
}

#define F8_CASE(rows)                                                           \
  case rows:                                                                    \
    if (rows <= F8_ROWS) f8_tile(rows <= F8_ROWS ? rows : 1, w, panel, x, ldx, out); \
    break

static void f8_few(const struct cpu_matrix *w, const char *panel, const float *x, size_t ldx, uint32_t m, float *out) {
  switch (m) {
    F8_CASE(1);
    F8_CASE(2);
    F8_CASE(3);
    F8_CASE(4);
    F8_CASE(5);
    F8_CASE(6);
    F8_CASE(7);
    F8_CASE(8);
  }
}

static void gemm_f8(const struct cpu_matrix *w, const char *panel, const float *x, size_t ldx, uint32_t m, float *out,
                    float *scratch) {
  if (m <= F8_ROWS) {
    f8_few(w, panel, x, ldx, m, out);
    return;
  }
  for (uint32_t k = 0; k < w->k_padded; k += CPU_K_BLOCK) {
    uint32_t n = w->k_padded - k < CPU_K_BLOCK ? w->k_padded - k : CPU_K_BLOCK;
    unpack_f8(w, panel, k, n, scratch);
    all_rows(TL_DTYPE_F32, (const char *)scratch, n / 2, x + k, ldx, m, out, k == 0, (struct ahead){0});
  }
}

static void gemm(const struct cpu_matrix *w, uint32_t panel, const void *x, size_t ldx, uint32_t m, float *out,
                 float *scratch) {
  const char *p = w->panels + panel * w->panel_bytes;
  if (w->dtype == TL_DTYPE_F8_E4M3) {
    gemm_f8(w, p, x, ldx, m, out, scratch);
    return;
  }
  size_t pairs = w->k_padded / 2, pair_bytes = 2 * CPU_PANEL * tl_dtype_bytes(w->dtype);
  unsigned lines = (unsigned)(pair_bytes / 64);
  if (m <= TILE_M) {
    all_rows(w->dtype, p, pairs, x, ldx, m, out, true, (struct ahead){p + FETCH_AHEAD_BYTES, lines});
    return;
  }
  for (size_t at = 0; at < pairs; at += CPU_K_BLOCK / 2) {
    size_t n = pairs - at < CPU_K_BLOCK / 2 ? pairs - at : CPU_K_BLOCK / 2;
    const char *block = p + at * pair_bytes;
    struct ahead next = {block + n * pair_bytes, lines};
    if (m >= UNPACK_ROWS && w->dtype != TL_DTYPE_F32) {
      unpack(w->dtype, block, n, scratch);
      all_rows(TL_DTYPE_F32, (const char *)scratch, n, (const float *)x + 2 * at, ldx, m, out, at == 0, next);
    } else {
      all_rows(w->dtype, block, n, (const float *)x + 2 * at, ldx, m, out, at == 0, next);
    }
  }
}

/* --- elementwise ---------------------------------------------------------------------------- */

/* exp(x) for x <= 88, 0 below -87: Cody and Waite reduction, then the degree-6
 * polynomial of Cephes' expf; error about 2 ulp. */
INLINE vf vf_exp(vf x) {
  x = vf_max(vf_min(x, vf_set1(88.0f)), vf_set1(-87.3f));
  vf n = vf_round(vf_mul(x, vf_set1(1.44269504088896341f)));
  vf r = vf_fma(n, vf_set1(-0.693359375f), x);
  r = vf_fma(n, vf_set1(2.12194440e-4f), r);
  vf p = vf_set1(1.9875691500e-4f);
  p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
  p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
  p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
  p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
  p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
  p = vf_add(vf_fma(p, vf_mul(r, r), r), vf_set1(1.0f));
  return vf_mul(p, vf_pow2(n));
}

/* Rows are padded with zeros to a multiple of 16, which add nothing. */
static void rmsnorm(float *h, const float *x, const float *weight, uint32_t n, float eps) {
  vf sum = vf_zero();
  for (uint32_t i = 0; i < n; i += 16) {
    vf v = vf_load(x + i);
    sum = vf_fma(v, v, sum);
  }
  vf scale = vf_set1(1 / sqrtf(sum_lanes(sum) / (float)n + eps));
  for (uint32_t i = 0; i < n; i += 16) vf_store(h + i, vf_mul(vf_mul(vf_load(x + i), scale), vf_load(weight + i)));
}

INLINE vf vf_silu(vf g) {
  return vf_div(g, vf_add(vf_exp(vf_sub(vf_zero(), g)), vf_set1(1.0f)));
}

static void silu_mul(float *m, const float *gate, const float *up, uint32_t n) {
  for (uint32_t i = 0; i < n; i += 16) vf_store(m + i, vf_mul(vf_silu(vf_load(gate + i)), vf_load(up + i)));
}

/* tanh by exp, whose argument vf_exp bounds. */
INLINE vf vf_tanh(vf x) {
  vf e = vf_exp(vf_add(x, x)), one = vf_set1(1.0f);
  return vf_sub(one, vf_div(vf_set1(2.0f), vf_add(e, one)));
}

static void gelu_mul(float *m, const float *gate, const float *up, uint32_t n) {
  for (uint32_t i = 0; i < n; i += 16) {
    vf g = vf_load(gate + i), cubed = vf_mul(vf_mul(g, g), g);
    vf t = vf_tanh(vf_mul(vf_fma(cubed, vf_set1(0.044715f), g), vf_set1(0.79788456080286536f)));
    vf half = vf_mul(g, vf_set1(0.5f));
    vf y = vf_fma(half, t, half);
    vf_store(m + i, up ? vf_mul(y, vf_load(up + i)) : y);
  }
}

/* 1 - erf(|x|) by Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7, for x = g / sqrt(2). */
static void gelu_erf_mul(float *m, const float *gate, const float *up, uint32_t n) {
  vf one = vf_set1(1.0f);
  for (uint32_t i = 0; i < n; i += 16) {
    vf g = vf_load(gate + i), x = vf_mul(vf_max(g, vf_sub(vf_zero(), g)), vf_set1(0.70710678118654752f));
    vf t = vf_div(one, vf_fma(x, vf_set1(0.3275911f), one));
    vf p = vf_fma(t, vf_set1(1.061405429f), vf_set1(-1.453152027f));
    p = vf_fma(p, t, vf_set1(1.421413741f));
    p = vf_fma(p, t, vf_set1(-0.284496736f));
    p = vf_fma(p, t, vf_set1(0.254829592f));
    vf rest = vf_mul(vf_mul(p, t), vf_exp(vf_sub(vf_zero(), vf_mul(x, x))));
    /* g (1 + erf(x)) / 2 = max(g, 0) - |g| rest / 2; a NaN, which the bounds lose, comes through `rest` */
    vf size = vf_mul(x, vf_set1(0.70710678118654752f));
    vf y = vf_sub(vf_max(g, vf_zero()), vf_mul(size, rest));
    vf_store(m + i, up ? vf_mul(y, vf_load(up + i)) : y);
  }
}

/* Bounds lose a NaN, which has to come through: times zero it is added again. */
static void clamped_mul(float *m, const float *gate, const float *up, uint32_t n, float limit) {
  vf most = vf_set1(limit), least = vf_set1(-limit), one = vf_set1(1.0f);
  for (uint32_t i = 0; i < n; i += 16) {
    vf g0 = vf_load(gate + i), u0 = vf_load(up + i);
    vf g = vf_fma(g0, vf_zero(), vf_min(g0, most)), u = vf_fma(u0, vf_zero(), vf_max(vf_min(u0, most), least));
    vf e = vf_exp(vf_mul(g, vf_set1(-1.702f)));
    vf_store(m + i, vf_mul(vf_div(g, vf_add(e, one)), vf_add(u, one)));
  }
}

/* vf_exp bounds a NaN too: it has to come through, as a row that is not numbers must say so. */
static void softcap(float *x, uint32_t n, float cap) {
  vf most = vf_set1(cap), part = vf_set1(1 / cap);
  for (uint32_t i = 0; i < n; i += 16) {
    vf v = vf_load(x + i);
    vf_store(x + i, vf_fma(v, vf_zero(), vf_mul(vf_tanh(vf_mul(v, part)), most)));
  }
}

static float max_of(const float *x, size_t n) {
  float best = x[0];
  size_t i = 0;
  if (n >= 16) {
    vf most = vf_load(x), nan = vf_zero();
    for (; i + 16 <= n; i += 16) {
      vf v = vf_load(x + i);
      most = vf_max(most, v);
      nan = vf_fma(v, vf_zero(), nan); /* NaN or infinity: NaN from here on */
    }
    best = max_lanes(most);
    if (isnan(sum_lanes(nan))) /* an infinity is fine, a NaN is not: look again */
      for (size_t k = 0; k < i; k++)
        if (isnan(x[k])) return NAN;
  }
  for (; i < n; i++) {
    if (isnan(x[i])) return NAN;
    if (x[i] > best) best = x[i];
  }
  return best;
}

/* Sums of many floats: in floats over so many vectors, beyond in double. */
#define SUM_VECTORS 16

static double exp_sum(const float *x, size_t n, float max, float *ret) {
  const vf least = vf_set1(-87.3f), shift = vf_set1(max);
  double total = 0;
  size_t i = 0;
  while (i + 16 <= n) {
    vf sum = vf_zero();
    for (unsigned k = 0; k < SUM_VECTORS && i + 16 <= n; k++, i += 16) {
      vf d = vf_sub(vf_load(x + i), shift), e = vf_where_ge(d, least, vf_exp(d));
      if (ret) vf_store(ret + i, e);
      sum = vf_add(sum, e);
    }
    total += (double)sum_lanes(sum);
  }
  for (; i < n; i++) {
    float e = expf(x[i] - max);
    if (ret) ret[i] = e;
    total += (double)e;
  }
  return total;
}

static double sum_above(const float *p, const float *x, size_t n, float floor) {
  const vf least = vf_set1(floor), one = vf_set1(1);
  double total = 0;
  size_t i = 0;
  while (i + 16 <= n) {
    vf sum = vf_zero();
    for (unsigned k = 0; k < SUM_VECTORS && i + 16 <= n; k++, i += 16)
      sum = vf_add(sum, vf_where_ge(vf_load(x + i), least, p ? vf_load(p + i) : one));
    total += (double)sum_lanes(sum);
  }
  for (; i < n; i++)
    if (x[i] >= floor) total += p ? (double)p[i] : 1;
  return total;
}
