/* SPDX-License-Identifier: MIT */
/* The seam's part for layers that keep a state (cuda_ops.h): the gated delta rule, Mamba 2's, convolutions, and the gates around them and
 * around attention.
 *
 * A layer's states: of each, for every value head S in floats as (value_dim, key_dim), so that what sums up over keys lies together; and
 * T (conv - 1, n_channels), the last rows of u. All that a kernel does for a sequence is in its stretch, so a graph can hold a step of any
 * sequences; a row that is padding is a stretch by itself, from no state into none. */
#ifndef CUDA_DELTA_H
#define CUDA_DELTA_H

#include "device/cuda/ops/cuda_both.h"
#include "device/cuda/ops/cuda_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TL_CUDA_MAX_CONV 4        /* rows that a convolution looks at */
#define TL_CUDA_CONV_ROWS 32      /* of a tile; at least TL_CUDA_MAX_CONV - 1 */
#define TL_CUDA_MAX_KEY_DIM 256
#define TL_CUDA_DELTA_COLUMNS 32  /* of S, a thread block */
#define TL_CUDA_DELTA_CHUNK 64    /* rows that tl_cuda_delta_long treats together */
#define TL_CUDA_DELTA_FACTORS (4 * TL_CUDA_DELTA_CHUNK) /* floats of a chunk and head */
#define TL_CUDA_DELTA_MATRICES (2 * TL_CUDA_DELTA_CHUNK * TL_CUDA_DELTA_CHUNK) /* T likewise */
#define TL_CUDA_SCAN_MATRICES (TL_CUDA_DELTA_CHUNK * TL_CUDA_DELTA_CHUNK) /* T of a chunk and key head, by Mamba 2's rule */

/* The rows of one sequence in a step. There before the kernels of the step begin. */
struct tl_cuda_stretch {
  uint32_t row, n_rows; /* n_rows 0: nothing is done */
  uint32_t from, to;    /* states, TL_NO_STATE: zeros, and nowhere */
};

/* Some neighbouring rows of a stretch. */
struct tl_cuda_conv_tile {
  uint32_t stretch, at; /* at: its first row, a multiple of TL_CUDA_CONV_ROWS */
};

/* out = silu(sum over j < conv of weight[j] * u of conv - 1 - j rows before + bias). Gated: in has three times n_channels, B, z and x; u is
 * B * x, and out = z * (that sum + bias). */
struct tl_cuda_conv_args {
  int dtype, gated;
  uint32_t n_channels, conv; /* n_channels (8), conv at most TL_CUDA_MAX_CONV */
  uint32_t ld;               /* (8) from row to row of `in` */
  uint32_t n_tiles, max_rows; /* max_rows: as many as there may be */
  const struct tl_cuda_conv_tile *tiles;
  const struct tl_cuda_stretch *stretches;
  const void *in, *weight;   /* T (n, ld), (n_channels, conv) */
  const float *bias;         /* (n_channels), or NULL */
  void *states;              /* T (any, conv - 1, n_channels) */
  void *out;                 /* T (n, n_channels); not `in` */
};
int tl_cuda_conv(const struct tl_cuda_conv_args *args, void *stream);

/* Of each value head, for row after row of a stretch: q and k to length 1, q *= scale; S *= exp(-exp(a_log) * softplus(c + dt)),
 * S += k (sigmoid(b) (v - S^T k))^T, out = S^T q. With `skip` it is Mamba 2's: q and k as they are, t = softplus(b + dt), S *=
 * exp(-exp(a_log) * t), S += k (t v)^T, out = S^T q + skip * v. */
struct tl_cuda_delta_args {
  int dtype, turned;         /* turned: value heads n_key_heads apart share a key head; else neighbours do */
  uint32_t n_key_heads, n_value_heads, key_dim, value_dim; /* dims (8); key_dim at most TL_CUDA_MAX_KEY_DIM */
  float scale;
  uint32_t ld_gates;         /* from row to row of b and c */
  uint32_t n_stretches, max_rows; /* max_rows: as many as there may be */
  uint32_t most_rows;        /* not 0: longer stretches are left out */
  const struct tl_cuda_stretch *stretches;
  const void *u;             /* T (n, 2 n_key_heads key_dim + n_value_heads value_dim): q, k, v */
  const void *b, *c;         /* T (n, n_value_heads) */
  const float *a_log, *dt;   /* (n_value_heads) */
  const float *skip;         /* likewise, or NULL */
  float *states;             /* (any, n_value_heads, value_dim, key_dim) */
  void *out;                 /* T (n, n_value_heads value_dim) */
};
int tl_cuda_delta(const struct tl_cuda_delta_args *args, void *stream);

/* The same for some stretches, of many rows, by tensor cores. Results differ by what rounding S, and what is made on the way, to T does. */
struct tl_cuda_delta_long_args {
  struct tl_cuda_delta_args delta; /* n_stretches, most_rows, max_rows are not looked at; key_dim at most tl_cuda_long_key */
  uint32_t n_chunks, n_long;
  const struct tl_cuda_conv_tile *chunks; /* (n_chunks) of these stretches, one behind the other; at: multiples of TL_CUDA_DELTA_CHUNK */
  const struct tl_cuda_conv_tile *longs;  /* (n_long) stretches; at: which chunk is the first one's */
  void *matrices;                  /* T (n_chunks, n_value_heads, TL_CUDA_DELTA_MATRICES), or (n_chunks, n_key_heads, TL_CUDA_SCAN_MATRICES), scratch */
  float *factors;                  /* (n_chunks, n_value_heads, TL_CUDA_DELTA_FACTORS) scratch */
};
int tl_cuda_delta_long(const struct tl_cuda_delta_long_args *args, void *stream);

/* Of each head x = x / rms(x) * weight * silu(z), in place. gate_first: x *= silu(z), then x / rms(x) * weight, and each head has weights of
 * its own. Where ranks have parts of one head (squares), two calls: the first only measures, and behind their sum the second norms. */
struct tl_cuda_gated_norm_args {
  int dtype, gate_first, measures;
  uint32_t n, n_heads, head_dim; /* head_dim (8), at most 256, but with gate_first */
  uint32_t width;            /* elements of a head that count in its mean, of all ranks; the others are zero */
  uint32_t ld_z;             /* (8) */
  uint32_t n_groups, group;  /* with squares, of all ranks' heads, of which this one has part of one: n_heads is 1 */
  float eps;
  float *squares;            /* (n, n_groups), of the others' groups zeros; or NULL. gate_first alone */
  const void *z;             /* T (n, n_heads head_dim) */
  const float *weight;       /* (head_dim); (n_heads head_dim) */
  void *x;                   /* T (n, n_heads head_dim) */
};
int tl_cuda_gated_norm(const struct tl_cuda_gated_norm_args *args, void *stream);

/* x *= sigmoid(z). */
struct tl_cuda_gate_args {
  int dtype;
  uint32_t n, dim;           /* dim (8) */
  const void *z;             /* T (n, dim) */
  void *x;                   /* likewise */
};
int tl_cuda_gate(const struct tl_cuda_gate_args *args, void *stream);

/* The key_dim up to which there are kernels for many rows; scans: by Mamba 2's rule. */
TL_BOTH uint32_t tl_cuda_long_key(int scans) {
  return scans ? TL_CUDA_MAX_KEY_DIM : 128;
}

/* The key head of a value head. */
TL_BOTH uint32_t tl_cuda_key_head(int turned, uint32_t n_key_heads, uint32_t n_value_heads, uint32_t value_head) {
  return turned ? value_head % n_key_heads : value_head / (n_value_heads / n_key_heads);
}

/* Where row `kept` of the state behind n_rows rows comes from: the row of the stretch, or, below 0, the state before, at its row conv - 1
 * further on. */
TL_BOTH int64_t tl_cuda_kept_row(uint32_t n_rows, uint32_t conv, uint32_t kept) {
  return (int64_t)n_rows - (conv - 1) + kept;
}

/* --- the plan ------------------------------------------------------------------------------------ */

/* Most tiles of a step of so many stretches. */
static inline uint32_t tl_cuda_max_conv_tiles(uint32_t n_tokens, uint32_t n_stretches) {
  return n_tokens / TL_CUDA_CONV_ROWS + n_stretches;
}

/* The step's sequences, then its padding rows, up to n_padded in all, a row each, then stretches of nothing up to n_stretches.
 * Returns the number of tiles, of which each stretch has one at least. */
static inline uint32_t tl_cuda_plan_stretches(const struct tl_step *step, uint32_t n_padded, uint32_t n_stretches,
                                              struct tl_cuda_stretch *stretches, struct tl_cuda_conv_tile *tiles) {
  uint32_t n_tiles = 0, row = step->n_tokens;
  for (uint32_t i = 0; i < n_stretches; i++) {
    struct tl_cuda_stretch s = {0, 0, TL_NO_STATE, TL_NO_STATE};
    if (i < step->n_seqs) {
      s.row = step->query_start[i];
      s.n_rows = step->query_start[i + 1] - s.row;
      s.from = step->state_from[i];
      s.to = step->state_to[i];
    } else if (row < n_padded) {
      s.row = row++;
      s.n_rows = 1;
    }
    stretches[i] = s;
    uint32_t at = 0;
    do {
      tiles[n_tiles].stretch = i;
      tiles[n_tiles++].at = at;
      at += TL_CUDA_CONV_ROWS;
    } while (at < s.n_rows);
  }
  return n_tiles;
}

/* Most chunks of a step: each stretch that is cut has one that is whole, and one that need not be. */
static inline uint32_t tl_cuda_max_delta_chunks(uint32_t n_tokens, uint32_t n_stretches) {
  uint32_t whole = n_tokens / TL_CUDA_DELTA_CHUNK;
  return whole + (n_stretches < whole ? n_stretches : whole);
}

/* The stretches of TL_CUDA_DELTA_CHUNK rows and more; longs holds n_stretches. Returns the number of chunks. */
static inline uint32_t tl_cuda_plan_long(const struct tl_cuda_stretch *stretches, uint32_t n_stretches, struct tl_cuda_conv_tile *chunks,
                                         struct tl_cuda_conv_tile *longs, uint32_t *ret_n_long) {
  uint32_t n_chunks = 0, n_long = 0;
  for (uint32_t i = 0; i < n_stretches; i++) {
    if (stretches[i].n_rows < TL_CUDA_DELTA_CHUNK) continue;
    longs[n_long].stretch = i;
    longs[n_long++].at = n_chunks;
    for (uint32_t at = 0; at < stretches[i].n_rows; at += TL_CUDA_DELTA_CHUNK) {
      chunks[n_chunks].stretch = i;
      chunks[n_chunks++].at = at;
    }
  }
  *ret_n_long = n_long;
  return n_chunks;
}

#ifdef __cplusplus
}
#endif

#endif
