/* SPDX-License-Identifier: MIT */
/* Kernels of mixtures of experts; what cuda_ops.h says of kernels holds here too. Each choice of a row becomes an
 * entry, and entries stand by expert, so that an expert's weights are read once for all of its rows:
 *
 *   route     scores ─► each row's experts and shares; entries by expert, cut into tiles of one expert each
 *   experts   of each tile: out = x W^T, twice: up from the rows, then down from the entries
 *   mix       each row adds up its entries, the best expert's first
 *
 * No launch depends on what was chosen: tiles lie on the device, as many thread blocks as there can be tiles look
 * whether there is one. Within an expert entries stand in any order, which changes no result. */
#ifndef CUDA_EXPERTS_H
#define CUDA_EXPERTS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TL_CUDA_NO_ENTRY UINT32_MAX /* of a choice: padding, or an expert that another rank has */
#define TL_CUDA_MAX_EXPERTS 1024
/* Entries of a tile, by which the products differ. */
#define TL_CUDA_FEW_ENTRIES 8   /* at the speed at which weights can be read */
#define TL_CUDA_MANY_ENTRIES 64 /* at that of tensor cores */

struct tl_cuda_expert_tile {
  uint32_t expert;   /* of this rank's */
  uint32_t first, n; /* entries */
};

/* Most tiles that so many choices can become. */
static inline uint32_t tl_cuda_max_expert_tiles(uint32_t n_choices, uint32_t n_local, uint32_t tile_entries) {
  uint32_t n = n_local + n_choices / tile_entries;
  return n < n_choices ? n : n_choices;
}

/* The best n_chosen scores of each row, the lower expert on a tie; NaN is below all numbers. */
struct tl_cuda_route_args {
  uint32_t n, n_experts, n_chosen; /* n_chosen <= n_experts <= TL_CUDA_MAX_EXPERTS */
  uint32_t first_expert, n_local;  /* this rank's */
  uint32_t tile_entries;
  int normalized;          /* shares sum up to 1; else they are of a softmax over all experts, or sigmoids as they are */
  int sigmoid;             /* shares are sigmoids of scores, and bias is added to them for the choice alone */
  int choice;              /* shares are of a softmax over all experts, and bias is likewise for the choice alone */
  int mixed;               /* each share is of a softmax over those that are not chosen before and not more than limit * max(|score|, its score) below */
  float limit;
  uint32_t n_groups, n_groups_chosen; /* of experts, of one size, at most 32, those that are chosen from: with the best expert, or, of
                            * sigmoids, the best sum of two; 0: all are */
  float factor;            /* of shares */
  uint32_t ld;             /* floats from row to row, at least n_experts */
  const float *scores;     /* (n, ld) */
  const float *bias;       /* (n_experts) or NULL */
  const int32_t *tokens;   /* (n) -1: padding, which chooses nothing */
  uint32_t *chosen;        /* (n, n_chosen) experts, the best first */
  float *shares;           /* (n, n_chosen) */
  uint32_t *places;        /* (n, n_chosen) entry of the choice, or TL_CUDA_NO_ENTRY */
  uint32_t *rows;          /* (n n_chosen) row of each entry */
  struct tl_cuda_expert_tile *tiles; /* (tl_cuda_max_expert_tiles) */
  uint32_t *n_tiles;       /* (1) */
};
int tl_cuda_route(const struct tl_cuda_route_args *args, void *stream);

/* What becomes of an expert's products. */
enum tl_cuda_expert_gate {
  TL_CUDA_EXPERT_PLAIN,   /* out = x W^T + b, or with `relu2` the square of what is above 0 of it */
  TL_CUDA_EXPERT_SILU,    /* of gate and up: silu(gate) * up */
  TL_CUDA_EXPERT_CLAMPED, /* g sigmoid(1.702 g) (u + 1), g = min(gate, limit), |u| <= limit */
};

struct tl_cuda_experts_args {
  int dtype, format, gate; /* format: enum tl_cuda_format, as its k; gate: enum tl_cuda_expert_gate */
  float limit;
  int relu2;               /* of PLAIN */
  uint32_t tile_entries;   /* as in route */
  uint32_t max_tiles;
  uint32_t n_blocks;       /* two for each multiprocessor is right */
  uint32_t n, k;           /* (8) outputs, inputs of an expert */
  const struct tl_cuda_expert_tile *tiles;
  const uint32_t *n_tiles; /* (1) */
  const uint32_t *rows;    /* row of x of each entry; NULL: x is by entry */
  const void *x;           /* T (any, k) */
  const void *weight, *scales; /* (n_local, n, k); with a gate (n_local, 2 n, k): gate, then up */
  const float *bias;       /* (n_local, n), or (n_local, 2 n); or NULL */
  void *out;               /* T (entries, n) */
};
int tl_cuda_experts(const struct tl_cuda_experts_args *args, void *stream);

/* out = sum of share * y, over a row's choices, the best first; zero if it has none. */
struct tl_cuda_mix_args {
  int dtype;
  uint32_t n, dim, n_chosen; /* dim (8) */
  const uint32_t *places;  /* (n, n_chosen) */
  const float *shares;     /* (n, n_chosen), or NULL: 1 */
  const void *y;           /* T (entries, dim) */
  int whole;               /* out was an MLP of all rows: added */
  const float *gates;      /* (n, ld), or NULL; with whole: the MLP's times sigmoid(gates[row ld]) */
  uint32_t ld;
  void *out;               /* T (n, dim) */
};
int tl_cuda_mix(const struct tl_cuda_mix_args *args, void *stream);

#ifdef __cplusplus
}
#endif

#endif
