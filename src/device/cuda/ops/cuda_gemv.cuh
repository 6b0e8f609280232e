/* SPDX-License-Identifier: MIT */
/* What products of few rows and of some have in common: which outputs a tile has, and a lane's weights of them on their way from
 * memory to fragments (cuda_gemv.cu says how these are laid out). */
#ifndef CUDA_GEMV_CUH
#define CUDA_GEMV_CUH

#include "device/cuda/ops/cuda_formats.cuh"

/* cuda_batch.cu: tl_cuda_gemv of more than TL_CUDA_GEMV_MAX_ROWS rows, and what allows its kernels the shared memory that they want. */
int cuda_batch(const struct tl_cuda_gemv_args *args, void *stream);
int cuda_prepare_batch();

/* The output of slot 0 to 15 of a tile, or of 0 to 7, false: it has none. Gated: slots 8 to 15 are the second half of the
 * pairs. */
template <int HALVES>
TL_DEVICE bool find_output(const tl_cuda_gemv_args &a, uint32_t tile, uint32_t slot, uint32_t *ret) {
  uint32_t pair = tile * 8 + slot % 8;
  *ret = a.gate ? pair + slot / 8 * (a.n / 2) : tile * 8 * HALVES + slot;
  return a.gate ? pair < a.n / 2 : *ret < a.n;
}

/* Where a lane reads: its stretch of each of its outputs' weights, and which groups of scales are theirs. An output that is not
 * there is the first one: its sums go nowhere. */
template <int HALVES>
struct gemv_rows {
  const char *weight[HALVES];
  uint32_t group[HALVES]; /* a matrix has fewer than 2^32 */
};

template <class W>
TL_DEVICE uint32_t lane_offset() {
  return lane_index() % 4 * W::PIECE;
}

template <class W, int HALVES>
TL_DEVICE gemv_rows<HALVES> find_rows(const tl_cuda_gemv_args &a, uint32_t tile) {
  gemv_rows<HALVES> r;
  TL_UNROLL for (int half = 0; half < HALVES; half++) {
    uint32_t output;
    if (!find_output<HALVES>(a, tile, half * 8 + lane_index() / 4, &output)) output = 0;
    r.weight[half] = (const char *)a.weight + output * ((uint64_t)a.k / W::PIECE * 16) + lane_index() % 4 * 16;
    r.group[half] = output * (a.k / W::GROUP) + lane_offset<W>() / W::GROUP;
  }
  return r;
}

/* What a lane has under way: N pieces of each of its outputs, the four lanes' first ones from element `base` of the k on. */
template <class W, int N, int HALVES>
struct gemv_pieces {
  quad raw[N][HALVES];
  scale_of<W> scale[N][HALVES];
  uint32_t base;
};

/* Whether all pieces of the four lanes are within k: they are but at its end, and need no further look. */
template <class W, int N>
TL_DEVICE bool is_whole(const tl_cuda_gemv_args &a, uint32_t base) {
  return base + N * W::PIECE * 4 <= a.k;
}

template <class W, bool WHOLE, int N, int HALVES>
TL_DEVICE void load_some(const tl_cuda_gemv_args &a, const gemv_rows<HALVES> &rows, uint32_t base, gemv_pieces<W, N, HALVES> *p) {
  p->base = base;
  TL_UNROLL for (int half = 0; half < HALVES; half++) {
    const char *from = rows.weight[half] + base / W::PIECE * 16;
    uint32_t group = rows.group[half] + base / W::GROUP;
    TL_UNROLL for (uint32_t u = 0; u < N; u++) {
      bool valid = WHOLE || base + lane_offset<W>() + u * W::PIECE * 4 < a.k;
      p->raw[u][half] = valid ? load16_once(from + u * 64) : quad{};
      p->scale[u][half] = valid ? W::scale(a.scales, group + u * W::PIECE * 4 / W::GROUP) : 0;
    }
  }
}

template <class W, int N, int HALVES>
TL_DEVICE void load_pieces(const tl_cuda_gemv_args &a, const gemv_rows<HALVES> &rows, uint32_t base, gemv_pieces<W, N, HALVES> *p) {
  if (is_whole<W, N>(a, base))
    load_some<W, true>(a, rows, base, p);
  else
    load_some<W, false>(a, rows, base, p);
}

#endif
