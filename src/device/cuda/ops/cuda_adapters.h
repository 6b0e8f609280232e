/* SPDX-License-Identifier: MIT */
/* LoRA adapters: y += scale (x A^T) B^T for those rows of a step that have one, by two kernels behind the product. Rows of one adapter are cut
 * into tiles of up to TL_CUDA_ADAPTER_ROWS. Part of cuda_ops.h's seam, which says what holds for all launchers. */
#ifndef CUDA_ADAPTERS_H
#define CUDA_ADAPTERS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TL_CUDA_ADAPTER_ROWS 16
#define TL_CUDA_ADAPTER_INPUTS 6 /* of a product, whose outputs lie one behind the other: Q, K, V, and of a delta net z, b, c */
#define TL_CUDA_ADAPTER_RANKS 16 /* ranks are padded to a multiple of it, by zeros */

/* What an adapter adds to one product. */
struct tl_cuda_adapter {
  const void *a;                         /* T (ranks, k): of each input one behind the other; those of a fused product have one */
  const void *b[TL_CUDA_ADAPTER_INPUTS]; /* T (outputs of the input, its rank) */
  float scale[TL_CUDA_ADAPTER_INPUTS];
  uint32_t rank[TL_CUDA_ADAPTER_INPUTS]; /* padded; 0: nothing */
  uint32_t at[TL_CUDA_ADAPTER_INPUTS];   /* where the input's ranks begin in a */
  uint32_t ranks;                        /* of a; 0: there is none */
};

struct tl_cuda_adapter_tile {
  uint32_t adapter, first, n; /* rows[first .. first + n); n 0: nothing is done */
};

/* s = x A^T; s has a row for each place in `rows`. */
struct tl_cuda_shrink_args {
  int dtype;
  uint32_t n_tiles, k, ld;  /* k (8); ld: of s, a multiple of TL_CUDA_ADAPTER_RANKS that no sum of ranks is beyond */
  const struct tl_cuda_adapter *adapters;
  const struct tl_cuda_adapter_tile *tiles; /* (n_tiles) */
  const uint32_t *rows;
  const void *x;            /* T (any, k) */
  void *s;                  /* T (any, ld) */
};
int tl_cuda_shrink(const struct tl_cuda_shrink_args *args, void *stream);

/* y += scale s B^T. */
struct tl_cuda_expand_args {
  int dtype;
  uint32_t n_tiles, n, ldy, ld; /* n: outputs (8); ldy: even; ld: of s */
  uint32_t first[TL_CUDA_ADAPTER_INPUTS]; /* output of each input (8), ascending; UINT32_MAX: there is no such input */
  const struct tl_cuda_adapter *adapters;
  const struct tl_cuda_adapter_tile *tiles; /* (n_tiles) */
  const uint32_t *rows;
  const void *s;
  void *y;                  /* T (any, ldy) */
};
int tl_cuda_expand(const struct tl_cuda_expand_args *args, void *stream);

#ifdef __cplusplus
}
#endif

#endif
