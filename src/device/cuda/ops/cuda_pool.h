/* SPDX-License-Identifier: MIT */
/* Kernels of models that pool; what cuda_ops.h says of kernels holds here too. A sequence is in a step as a whole, and its
 * rows become one vector:
 *
 *   place    the embeddings of positions and token types onto those of tokens
 *   pool     rows of a sequence ─► its vector
 *   vector   what stands behind a product of vectors: bias, function, norm; and the length that they may have to have
 *
 * Vectors are float, and T once more for a product behind them. A sequence's vector does not depend on what else is in the step. */
#ifndef CUDA_POOL_H
#define CUDA_POOL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* x += place[position] + type[its token type]. */
struct tl_cuda_place_args {
  int dtype;
  uint32_t n, dim;           /* dim (8) */
  uint32_t n_types;          /* rows of type: a token type without one is read as 0 */
  const uint32_t *positions; /* (n) */
  const int32_t *types;      /* (n) */
  const void *place, *type;  /* T (any, dim), (n_types, dim), or NULL */
  void *x;                   /* T (n, dim) */
};
int tl_cuda_place(const struct tl_cuda_place_args *args, void *stream);

enum tl_cuda_pooling { TL_CUDA_POOL_FIRST, TL_CUDA_POOL_LAST, TL_CUDA_POOL_MAX, TL_CUDA_POOL_MEAN, TL_CUDA_POOL_MEAN_SQRT, TL_CUDA_POOL_WEIGHTED };

struct tl_cuda_pool_args {
  int dtype;
  int pooling;            /* enum tl_cuda_pooling: as in enum tl_pooling (model.h) */
  uint32_t n, dim;        /* n: sequences; dim (8) */
  const uint32_t *starts; /* (n + 1) first row of each; none is empty */
  const void *rows;       /* T (starts[n], dim) */
  float *vectors;         /* (n, dim) */
  void *out;              /* T (n, dim) the same */
};
int tl_cuda_pool(const struct tl_cuda_pool_args *args, void *stream);

enum tl_cuda_function { TL_CUDA_IDENTITY, TL_CUDA_TANH, TL_CUDA_ERF_GELU };

/* v = function(v + bias); then, where there is a weight, its LayerNorm; then, if that is wanted, divided by its length. */
struct tl_cuda_vector_args {
  int dtype;
  int function;           /* enum tl_cuda_function */
  int normalize;          /* to length 1 */
  uint32_t n, dim, width; /* the mean is over `width` of the elements, what lies behind is zero */
  float eps;
  const float *bias;      /* (dim), or NULL */
  const float *weight;    /* (dim), or NULL: no norm */
  const float *shift;     /* (dim), or NULL */
  float *vectors;         /* (n, dim) */
  void *out;              /* T (n, dim) the same */
};
int tl_cuda_vector(const struct tl_cuda_vector_args *args, void *stream);

#ifdef __cplusplus
}
#endif

#endif
