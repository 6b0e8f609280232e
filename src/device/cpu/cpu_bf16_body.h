/* SPDX-License-Identifier: MIT */
/* Products by BF16 dot-product instructions: activations are rounded to BF16
 * once a row, pairs of inputs are summed by `vf_dot(sum, weights, pair)`, which
 * the including file defines (the instruction, or its emulation in a test). */

/* Floats to BF16 in their order, which makes pairs of neighbours; nearest even, NaN
 * stays NaN. n_pairs is a multiple of 8. */
static void convert_pairs(const float *x, uint32_t *ret, size_t n_pairs) {
  for (size_t i = 0; i < n_pairs; i += 8) {
    __m512 value = _mm512_loadu_ps(x + 2 * i);
    __m512i bits = _mm512_castps_si512(value), one = _mm512_set1_epi32(1);
    __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(lsb, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(_mm512_srli_epi32(rounded, 16), nan, _mm512_set1_epi32(0x7fc0));
    _mm256_storeu_si256((__m256i *)(void *)(ret + i), _mm512_cvtepi32_epi16(rounded));
  }
}

INLINE void dot_tile(const unsigned rows, const char *panel, size_t n_pairs, const uint32_t *x, size_t ldx, float *out) {
  vf sum[TILE_M][2];
#pragma GCC unroll 16
  for (unsigned r = 0; r < rows; r++) sum[r][0] = sum[r][1] = vf_zero();
  for (size_t pair = 0; pair < n_pairs; pair++) {
    __m512i w0 = _mm512_loadu_si512(panel + pair * CPU_PANEL * 4);
    __m512i w1 = _mm512_loadu_si512(panel + pair * CPU_PANEL * 4 + 64);
    _mm_prefetch(panel + pair * CPU_PANEL * 4 + FETCH_AHEAD_BYTES, _MM_HINT_T0);
    _mm_prefetch(panel + pair * CPU_PANEL * 4 + FETCH_AHEAD_BYTES + 64, _MM_HINT_T0);
#pragma GCC unroll 16
    for (unsigned r = 0; r < rows; r++) {
      __m512i both = _mm512_set1_epi32((int)x[r * ldx + pair]);
      sum[r][0] = vf_dot(sum[r][0], w0, both);
      sum[r][1] = vf_dot(sum[r][1], w1, both);
    }
  }
#pragma GCC unroll 16
  for (unsigned r = 0; r < rows; r++) {
    vf_store(out + r * CPU_PANEL, sum[r][0]);
    vf_store(out + r * CPU_PANEL + 16, sum[r][1]);
  }
}

#define DOT_CASE(rows) \
  case rows: dot_tile(rows, panel, n_pairs, x, ldx, out); break

static void dot_tiles(unsigned rows, const char *panel, size_t n_pairs, const uint32_t *x, size_t ldx, float *out) {
  switch (rows) {
    DOT_CASE(1);
    DOT_CASE(2);
    DOT_CASE(3);
    DOT_CASE(4);
    DOT_CASE(5);
    DOT_CASE(6);
    DOT_CASE(7);
    DOT_CASE(8);
    DOT_CASE(9);
    DOT_CASE(10);
    DOT_CASE(11);
    DOT_CASE(12);
  }
}

/* x: pairs when the matrix is BF16, else floats. ldx counts floats in both. */
static void gemm_dot(const struct cpu_matrix *w, uint32_t panel, const void *x, size_t ldx, uint32_t m, float *out,
                     float *scratch) {
  if (w->dtype != TL_DTYPE_BF16) {
    gemm(w, panel, x, ldx, m, out, scratch);
    return;
  }
  const char *p = w->panels + panel * w->panel_bytes;
  uint32_t n_tiles = (m + TILE_M - 1) / TILE_M;
  for (uint32_t t = 0, row = 0; t < n_tiles; t++) {
    unsigned rows = (m - row + (n_tiles - t) - 1) / (n_tiles - t);
    dot_tiles(rows, p, w->k_padded / 2, (const uint32_t *)x + row * (ldx / 2), ldx / 2, out + row * CPU_PANEL);
    row += rows;
  }
}
