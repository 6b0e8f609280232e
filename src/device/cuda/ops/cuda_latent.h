/* SPDX-License-Identifier: MIT */
/* The seam's part for multi-head latent attention (cuda_ops.h). A token has one row in the cache for all heads: its latent, and one
 * rotated key. The cache of a layer: T (n_blocks, TL_BLOCK_TOKENS, n_latent + n_rotated). All lengths are (8). */
#ifndef CUDA_LATENT_H
#define CUDA_LATENT_H

#include "device/cuda/ops/cuda_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TL_CUDA_MAX_LATENT 512      /* numbers of a latent, */
#define TL_CUDA_MAX_LATENT_ROW 576  /* and of a row of the cache */
#define TL_CUDA_LATENT_HEADS 32     /* query heads that a thread block computes together */

/* What lies between the product that makes latents and the next: norms, the key's rotation, and the way into the cache. */
struct tl_cuda_latent_rows_args {
  int dtype, interleaved;   /* interleaved: neighbours are rotated, not halves */
  uint32_t n, n_rank, n_latent, n_rotated; /* n_rank: of what queries are made of; 0: they are there already */
  uint32_t ld, at;          /* a row of `in` is ld long, its latent begins at `at` */
  float eps;
  const void *in;           /* T (n, ld): with n_rank what queries are made of, first */
  const float *rank_norm, *latent_norm; /* (n_rank), (n_latent) */
  const float *rope;        /* (max_context, n_rotated): half cosines, half sines */
  const float *growth;      /* (max_context): what queries are made of is times it; NULL: 1 */
  const uint32_t *positions, *slots; /* (n) */
  void *rank;               /* T (n, n_rank) normed */
  void *cache;
};
int tl_cuda_latent_rows(const struct tl_cuda_latent_rows_args *args, void *stream);

/* The rotated part of each query head, to where a head's absorbed part lies before it. */
struct tl_cuda_latent_turn_args {
  int dtype, interleaved;
  uint32_t n, n_heads, n_nope, n_latent, n_rotated, ld; /* ld: of q's rows */
  const void *q;            /* T (n, ld): n_heads of n_nope + n_rotated */
  const float *rope;
  const uint32_t *positions;
  void *out;                /* T (n, n_heads, n_latent + n_rotated): the last n_rotated of each */
};
int tl_cuda_latent_turn(const struct tl_cuda_latent_turn_args *args, void *stream);

/* y = x W^T of each head with a matrix of its own: head h has k numbers from h * x_step on in a row of x, and n_out from h * y_step on
 * in one of y. */
struct tl_cuda_latent_heads_args {
  int dtype, turned;        /* turned: W is (n_heads, k, n_out) */
  uint32_t n, n_heads, k, n_out;
  uint32_t ldx, x_step, ldy, y_step;
  const void *x, *w;        /* T; W (n_heads, n_out, k) */
  void *y;                  /* T; not x */
};
int tl_cuda_latent_heads(const struct tl_cuda_latent_heads_args *args, void *stream);

/* Attention of all heads over the rows of the cache: a.head_dim is such a row's length, a.k_cache where they are, a.out may be a.q: of
 * each head the first n_latent numbers are written. No window, cap or sinks. */
struct tl_cuda_latent_decode_args {
  struct tl_cuda_attention a;
  uint32_t n_latent, max_rows; /* as in tl_cuda_decode_args, as all below */
  uint32_t n_lanes;            /* each a block for every TL_CUDA_LATENT_HEADS heads */
  const struct tl_cuda_lane *lanes;
  const struct tl_cuda_item *items;
  float *partial;           /* (tl_cuda_max_parts, n_heads, head_dim) */
  uint64_t *partial_scale;
  uint32_t *arrived;
};
int tl_cuda_latent_decode(const struct tl_cuda_latent_decode_args *args, void *stream);

struct tl_cuda_latent_prefill_args {
  struct tl_cuda_attention a;
  uint32_t n_latent, n_tiles;
  const struct tl_cuda_tile *tiles;
};
int tl_cuda_latent_prefill(const struct tl_cuda_latent_prefill_args *args, void *stream);

#ifdef __cplusplus
}
#endif

#endif
