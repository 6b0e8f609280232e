/* SPDX-License-Identifier: MIT */
/* The seam between the CUDA backend's C code and its kernels: one argument struct
 * and one launcher for each operation.
 *
 * All pointers in the structs are device pointers, borrowed until the kernel has
 * run; the struct itself is read before the launcher returns. A launcher puts its
 * kernels on `stream` (a cudaStream_t), allocates nothing, waits for nothing, can
 * be captured in a graph, and returns 0 or a cudaError number:
 * cudaErrorInvalidValue (1) for shapes that it does not know. Any thread, with the
 * device set; first tl_cuda_prepare, once for each device.
 *
 * T stands for the 16-bit type that `dtype` names: activations, cache and weights.
 * Biases and norm weights are float. Sums are float. Rows of matrices begin on 16
 * bytes, and lengths that are marked (8) are multiples of 8. Row counts are fixed
 * when a graph is captured; rows that a step does not use are padding: token -1,
 * slot TL_CUDA_NO_SLOT. They are computed like others but touch no cache.
 *
 * A model whose sizes are not multiples of 8 is padded with zeros when it is loaded: each
 * half of a head for itself; norms are told how many elements count (`width`). Rows of Q and K are
 * ordered so that the rotation pairs them as halves (cuda_weights.c). */
#ifndef CUDA_OPS_H
#define CUDA_OPS_H

#include <stdint.h>

#include "tokenlane/step.h"

#ifdef __cplusplus
extern "C" {
#endif

enum tl_cuda_dtype {
  TL_CUDA_BF16, TL_CUDA_F16,
  TL_CUDA_BF16_BYTES, TL_CUDA_F16_BYTES, /* of tl_cuda_qkv and attention, but for latents: keys and values are E4M3 without scales; head_dim (16) */
};

#define TL_CUDA_NO_SLOT UINT32_MAX
#define TL_CUDA_MAX_HEAD_DIM 256
#define TL_CUDA_TILE_ROWS 64      /* query rows of a prefill tile */
#define TL_CUDA_CHUNK_TOKENS 64   /* a decode item covers a multiple of these, but for a sequence's last */
#define TL_CUDA_LANE_BLOCKS 20    /* of the cache, that a lane is told of beforehand */
#define TL_CUDA_GEMV_MAX_ROWS 16
#define TL_CUDA_BATCH_ROWS 64      /* of products by stored weights that are still ours */
#define TL_CUDA_BATCH_TILE 128     /* outputs that such products count as one, or more */
#define TL_CUDA_BATCH_PARTS (128 << 10) /* bytes in which a block of them leaves its parts */
#define TL_CUDA_SAMPLE_PART 8192   /* logits of a row, or more, that a block looks through where several share it */
#define TL_CUDA_SAMPLE_SUMS 32     /* of each block that has a part */
#define TL_CUDA_SAMPLE_BINS 2048
#define TL_CUDA_STREAM_ROWS 8     /* of products whose blocks take tile after tile */
#define TL_CUDA_EARLY_ROWS 64     /* of a step whose kernels start before the one before them is over */
#define TL_CUDA_NORMED_ROWS 2     /* that a product may norm itself, */
#define TL_CUDA_NORMED_DIM 8192   /* if they are not longer than this */

/* How the weights of a product, or the rows of an embedding, are stored; (n, k) row-major. */
enum tl_cuda_format {
  TL_CUDA_W16,   /* T; k (8) */
  TL_CUDA_WE4M3, /* FP8 E4M3; scales float (n), one for each output; k a multiple of 16 */
  TL_CUDA_WE4M3_BLOCKS, /* FP8 E4M3; scales float (n, k / 128); k a multiple of 128 */
  TL_CUDA_WINT8, /* int8; scales F16 (n, k / 32); k a multiple of 32, as for all below */
  TL_CUDA_WINT8_16,  /* int8; scales F16 (n, k / 16) */
  TL_CUDA_WINT8_MIN, /* w = scale * int8 - min; scales F16 (n, k / 32, 2): scale, min */
  TL_CUDA_WINT4, /* w = scale * q - min, q in 0..15; eight a word, from the lowest bits on
                  * elements 0 2 4 6 1 3 5 7; scales F16 (n, k / 32, 2): scale, min */
  TL_CUDA_WINT2, /* w = scale * q - min, q in 0..3; sixteen a word, from the lowest bits on elements 0 2 4 .. 14 1 3 5 .. 15;
                  * k a multiple of 64, of which each 64 have 8 bytes of scales: of each 16 a byte, the scale's
                  * 4 bits lowest, then the min's, and F16 by which those of all 16 are multiplied: scale, min */
  TL_CUDA_WMXFP4, /* E2M1, packed as WINT4; scales E8M0 (n, k / 32); T BF16 */
};
#define TL_CUDA_FORMATS (TL_CUDA_WINT2 + 1) /* of both types */

/* Whether tl_cuda_gemv takes up to TL_CUDA_BATCH_ROWS rows by weights of this format: those that most models are stored in, of which
 * cuBLASLt knows nothing. */
static inline int tl_cuda_batches(int dtype, int format) {
  return format == TL_CUDA_WINT4 || (dtype == TL_CUDA_BF16 && format == TL_CUDA_WE4M3_BLOCKS);
}

/* Lets the kernels that need it use more than 48 KiB of shared memory. */
int tl_cuda_prepare(void);

/* out[i] = weight[token - first_token], zeros if the token is not in the slice (the
 * ranks' rows are then summed) or is padding. A token <= -2 stands for
 * fed[-2 - token]: what the step before drew, which the host may not know yet. */
struct tl_cuda_embed_args {
  int dtype;
  uint32_t n, dim;         /* dim (8) */
  const int32_t *tokens;   /* (n) */
  const int32_t *fed;      /* or NULL if no token is <= -2 */
  int format;              /* of weight: enum tl_cuda_format */
  const void *weight, *scales; /* (n_slice, dim) */
  uint32_t first_token, n_slice;
  void *out;               /* T (n, dim) */
};
int tl_cuda_embed(const struct tl_cuda_embed_args *args, void *stream);

/* What a product leaves to do to the kernel that reads its results. Of E4M3: to multiply each by its row's scale, its output's, and `factor`.
 * Where its k was cut: to sum the parts up, which only tl_cuda_add_norm does. */
struct tl_cuda_rest {
  const float *rows;     /* (rows); NULL: nothing is to be multiplied */
  const float *outputs;
  float factor;
  const float *parts;    /* (n_parts, part_rows, outputs), in place of the results; NULL: these are whole */
  uint32_t n_parts, part_rows;
};

/* x += factor * delta, or the norm of that; then h = x / rms(x) * weight. */
struct tl_cuda_add_norm_args {
  int dtype;
  int first;               /* x = in place of x +=: the first one of a step */
  int centered;            /* h is a LayerNorm: the mean is subtracted first */
  int in_place;            /* x = h too */
  uint32_t n, dim, width;  /* dim (8); means are over `width` of its elements, what lies behind is zero */
  float eps, post_eps, factor;
  float *x;                /* (n, dim) the residual */
  const void *delta;       /* T (n, dim) what the sublayer before gave */
  struct tl_cuda_rest left; /* of delta; its rows may be `scales`, too */
  const float *post;       /* (dim), or NULL: delta is divided by its rms and multiplied by this before it is added */
  const float *weight;     /* (dim), or NULL: h = x */
  const float *shift;      /* (dim) added to h, or NULL */
  void *h;                 /* T (n, dim) */
  void *rounded;           /* E4M3 (n, dim) and float (n), as tl_cuda_quantize makes them of h, which is then not written; or NULL */
  float *scales;
};
int tl_cuda_add_norm(const struct tl_cuda_add_norm_args *args, void *stream);

/* The mean square of all heads of q, or of k, that are normed as one row: bias included. */
struct tl_cuda_row_squares_args {
  int dtype;
  uint32_t n, n_heads, n_kv_heads, head_dim, width; /* as below */
  uint32_t n_ranks;          /* of a group, which have as many heads each: out is this one's part, their sum is the mean */
  const void *qkv;           /* T (n, (n_heads + 2 n_kv_heads) head_dim) */
  const float *bias;         /* or NULL */
  float *out;                /* (n, 2): of q, of k */
};
int tl_cuda_row_squares(const struct tl_cuda_row_squares_args *args, void *stream);

/* What lies between the QKV product and attention: bias, norm of q and k, rotation
 * (halves layout), k and v into the cache.
 * The cache of a layer: T (n_blocks, n_kv_heads, TL_BLOCK_TOKENS, head_dim), one for
 * k and one for v. */
struct tl_cuda_qkv_args {
  int dtype;
  uint32_t n, n_heads, n_kv_heads, head_dim; /* head_dim (8), at most TL_CUDA_MAX_HEAD_DIM */
  uint32_t width;            /* elements of a head that count in its mean, the others are zero */
  const void *qkv;           /* T (n, (n_heads + 2 n_kv_heads) head_dim): q, k, v */
  struct tl_cuda_rest left; /* of qkv, before the bias; of tl_cuda_qkv only */
  const float *bias;         /* (n_heads + 2 n_kv_heads) head_dim, or NULL */
  const float *q_norm, *k_norm; /* (head_dim), or NULL; with row_squares (n_heads head_dim), (n_kv_heads head_dim) */
  int norm_each;             /* LayerNorm of each head by weights of its own: q_norm (n_heads head_dim), k_norm; of tl_cuda_qkv only, no row_squares */
  int norm_last;             /* each head is normed behind its rotation; of tl_cuda_qkv only, no row_squares */
  const float *row_squares;  /* (n, 2) by tl_cuda_row_squares, of all ranks; NULL: each head is normed for itself */
  float eps;
  const float *rope;         /* (max_context, head_dim): half cosines, half sines; NULL: nothing is rotated */
  const float *growth;       /* (max_context): what a head of q is multiplied with; NULL: nothing */
  const uint32_t *positions; /* (n) */
  const uint32_t *slots;     /* (n) block * TL_BLOCK_TOKENS + offset, or TL_CUDA_NO_SLOT */
  void *q;                   /* T (n, n_heads head_dim) */
  void *k_cache, *v_cache;
};
int tl_cuda_qkv(const struct tl_cuda_qkv_args *args, void *stream);

/* Both kinds of attention. Query row i of a sequence sees the keys up to its own position, or all of them. */
struct tl_cuda_attention {
  int dtype;
  uint32_t n_heads, n_kv_heads, head_dim; /* as above; n_heads a multiple of n_kv_heads */
  float scale, softcap;                   /* softcap not 0: scores are softcap * tanh(score / softcap) */
  uint32_t window;                        /* not 0: only the last so many keys, the row's own among them; decode's items of one row say it themselves */
  int both_sides;                         /* prefill: later keys too, with a window those less than `window` away on either side */
  const float *sinks;                     /* (n_heads) one more score of each, of a position without a value; NULL: none */
  const void *q;                          /* T (rows of the step, n_heads head_dim) */
  void *out;                              /* likewise */
  const void *k_cache, *v_cache;
  const uint32_t *block_tables;           /* (n_seqs, table_stride), fewer than 2^32 entries */
  uint32_t table_stride;
};

/* One stretch of one sequence's context, all query heads, for a row or for neighbours (cuda_plan.h makes them). */
struct tl_cuda_item {
  uint32_t row, n_rows;  /* of q and out; the rows are a token apart */
  uint32_t seq;          /* row of block_tables */
  uint32_t first, count; /* positions [first, first + count); first is a multiple of TL_BLOCK_TOKENS */
  uint32_t skip;         /* of its first block, tokens that the (first) row does not see */
  uint32_t position;     /* of the (first) row's own token, the last that it sees */
  uint32_t fresh;        /* from this position on the sequence's keys and values are of this step, all others of steps before */
  uint32_t first_part, n_parts; /* the items of these rows, which lie in neighbouring lanes; n_parts 1: this is all that they see */
};

/* How rows that decode may come: most of a sequence, and most that an item has (tl_cuda_pack). */
struct tl_cuda_packing {
  uint32_t most_rows, pack;
  uint32_t chunk; /* not 0: of positions, of which rows see their own chunk alone; whole blocks, and an item's rows are all of one */
};

/* What a lane begins with, in one piece, so that what it copies first waits for one load. */
struct tl_cuda_lane {
  struct tl_cuda_item item; /* the first one, if it has any */
  uint32_t begin, end;      /* its items */
  uint32_t blocks[TL_CUDA_LANE_BLOCKS]; /* of the cache: the first of that item; 0 where it has none */
};

/* Rows that decode: the one that a sequence has, or, with guesses behind its last token, a few, whose keys and values are all in the cache
 * before any of them is computed. The grid does not depend on the work, so that graphs can hold it. Query heads that one thread block
 * computes together are a tile (tl_cuda_head_tiles); n_blocks / tiles lanes of thread blocks, one for each tile, share
 * the items. The lists lie on the device before the kernels of the step begin: they are read while the one before may still run. */
struct tl_cuda_decode_args {
  struct tl_cuda_attention a;
  struct tl_cuda_qkv_args heads;      /* qkv not NULL: a.q is not there, the kernel does by itself what tl_cuda_qkv would have done before, for the
                                       * rows that items name, and comes to the same bits; no row_squares, norm_each, norm_last; n, dtype, positions, q are not read */
  uint32_t pack;                      /* most rows of an item, of tl_cuda_pack (caches of bytes, head_dim above 128: 1); more than 1: no heads.qkv, and items have what windows leave of a.window */
  uint32_t n_blocks;                  /* two for each multiprocessor is right; at least one a tile */
  uint32_t max_rows;                  /* as many as there may be */
  const struct tl_cuda_lane *lanes;   /* (lanes) */
  const struct tl_cuda_item *items;   /* (the last lane's end) */
  float *partial;                     /* (tl_cuda_max_parts, n_heads, head_dim) */
  uint64_t *partial_scale;            /* (tl_cuda_max_parts, n_heads): two floats, the largest score and, in the higher half, the sum */
  uint32_t *arrived;                  /* (lanes, n_heads) parts that are there; zeros before and after */
};
int tl_cuda_decode(const struct tl_cuda_decode_args *args, void *stream);

/* Up to TL_CUDA_TILE_ROWS query rows of one sequence (cuda_plan.h makes them). */
struct tl_cuda_tile {
  uint32_t row, n_rows; /* of q and out */
  uint32_t position;    /* of the first row */
  uint32_t seq;         /* row of block_tables; of tl_cuda_plan_chunks an entry */
  uint32_t context;     /* keys of the sequence that the cache holds, the last row's among them */
};

struct tl_cuda_prefill_args {
  struct tl_cuda_attention a;
  uint32_t n_tiles;
  const struct tl_cuda_tile *tiles; /* (n_tiles) */
};
int tl_cuda_prefill(const struct tl_cuda_prefill_args *args, void *stream);

/* GELU: by tanh. Of tl_cuda_glu only: GELU_ERF by erf, RELU what is above 0, RELU2 its square, XIELU by `curve`. */
enum tl_cuda_gate { TL_CUDA_UNGATED, TL_CUDA_SILU, TL_CUDA_GELU, TL_CUDA_GELU_ERF, TL_CUDA_RELU2, TL_CUDA_RELU, TL_CUDA_XIELU };

#define TL_CUDA_GLU_ROUNDED_DIM 16384 /* of rows that tl_cuda_glu may round: they are kept in shared memory */

/* out = silu(gate + bias) * (up + bias), or with gelu in place of silu; alone: silu(gate + bias). */
struct tl_cuda_glu_args {
  int dtype;
  int gate;              /* enum tl_cuda_gate, not UNGATED */
  int alone;             /* there is no up: gate_up is (n, dim), bias (dim) */
  uint32_t n, dim;       /* dim (8): of the inner row */
  const void *gate_up;   /* T (n, 2 dim): gate, then up */
  struct tl_cuda_rest left; /* of gate_up, before the bias; its rows may be `scales`, too */
  const float *bias;     /* (2 dim) or NULL */
  void *out;             /* T (n, dim) */
  void *rounded;         /* E4M3 (n, dim) and float (n), as tl_cuda_quantize makes them of `out`, which is then not written; or NULL */
  float *scales;
  float curve[4];        /* XIELU: a, b, c, e: a x x + c x above 0, else b (expm1(min(x, e)) - x) + c x */
};
int tl_cuda_glu(const struct tl_cuda_glu_args *args, void *stream);

/* out[i] = in[rows[i]]. */
struct tl_cuda_gather_args {
  uint32_t n, dim;       /* dim (8) */
  const uint32_t *rows;  /* (n) */
  const void *in;        /* 16-bit (any, dim) */
  void *out;             /* 16-bit (n, dim) */
};
int tl_cuda_gather(const struct tl_cuda_gather_args *args, void *stream);

/* out[i][k] = in[i][order[k]]: rows for weights whose inputs stand in another order. With `places` i counts choices of experts
 * (cuda_experts.h), each of which makes its entry of `out` by the order of its expert; or, with `shares`, of its row times its share,
 * in the order as it is. */
struct tl_cuda_reorder_args {
  int dtype;             /* with shares */
  uint32_t n, k;         /* n: rows, or choices; k (8) */
  const uint32_t *order; /* (k) each below k; or (this rank's experts, k) */
  const void *in;        /* 16-bit (n, k) */
  void *out;             /* likewise; or (entries, k) */
  const uint32_t *places, *chosen; /* (n), or NULL */
  uint32_t first_expert, n_chosen; /* n_chosen: `in` is (n / n_chosen, k); 0: it is by entry, as `out` */
  const float *shares;   /* (n), or NULL */
};
int tl_cuda_reorder(const struct tl_cuda_reorder_args *args, void *stream);

/* y += bias in every row. */
struct tl_cuda_bias_args {
  int dtype;
  uint32_t n, dim;       /* dim (8) */
  void *y;               /* T (n, dim) */
  const float *bias;     /* (dim) */
};
int tl_cuda_bias(const struct tl_cuda_bias_args *args, void *stream);

/* out = x W^T + bias for few rows, at the speed at which the weights can be read; gated: the first half of that,
 * through silu or gelu, times the second half. Of more than TL_CUDA_GEMV_MAX_ROWS rows thread blocks share tiles of outputs, by `parts`. */
struct tl_cuda_gemv_args {
  int dtype, format;
  int gate;              /* enum tl_cuda_gate */
  uint32_t m, n, k;      /* m <= TL_CUDA_GEMV_MAX_ROWS, TL_CUDA_BATCH_ROWS if tl_cuda_batches; gated: n even */
  uint32_t n_multiprocessors; /* of the device */
  const void *x;         /* T (m, k) */
  const void *weight, *scales;
  const float *bias;     /* (n) or NULL */
  int float_out;         /* out is float (logits), not T */
  void *out;             /* (m, ldo); ldo >= n, or n / 2 if gated, any */
  uint32_t ldo;
  void *parts;           /* n_multiprocessors * TL_CUDA_BATCH_PARTS bytes; not looked at for up to TL_CUDA_GEMV_MAX_ROWS rows */
  uint32_t *arrived;     /* (n / TL_CUDA_BATCH_TILE, rounded up) zeros while no step runs; likewise */
};
int tl_cuda_gemv(const struct tl_cuda_gemv_args *args, void *stream);

/* The same of rows that it makes itself, as tl_cuda_add_norm makes h of a plain RMSNorm: x_out = x + factor * delta; h = x_out /
 * rms(x_out) * weight. */
struct tl_cuda_normed_args {
  struct tl_cuda_gemv_args product; /* of h; its x is not read; m <= TL_CUDA_NORMED_ROWS, k (8) <= TL_CUDA_NORMED_DIM */
  int first;             /* x_out = factor * delta: the first one of a step */
  uint32_t width;        /* the mean is over so many elements, what lies behind is zero */
  float eps, factor;
  const float *x;        /* (m, k) the residual */
  float *x_out;          /* (m, k) not x: each block reads all of that */
  const void *delta;     /* T (m, k) */
  const float *weight;   /* (k) */
};
int tl_cuda_normed(const struct tl_cuda_normed_args *args, void *stream);

/* Stored weights back to T, for products of many rows by a library. Not for W16. */
struct tl_cuda_dequantize_args {
  int dtype, format;
  uint32_t n, k;
  const void *weight, *scales;
  void *out;             /* T (n, k) */
};
int tl_cuda_dequantize(const struct tl_cuda_dequantize_args *args, void *stream);

/* Rows to E4M3, each by its largest value: x = out * scales[row]. */
struct tl_cuda_quantize_args {
  int dtype;
  uint32_t n, k;         /* k a multiple of 16 */
  const void *x;         /* T (n, k) */
  void *out;             /* E4M3 (n, k) */
  float *scales;         /* (n); 1 for a row of zeros; at least 2^-126; a NaN in a row makes NaN of all of it */
};
int tl_cuda_quantize(const struct tl_cuda_quantize_args *args, void *stream);

/* What a product of such rows by E4M3 weights becomes where its library does not do so: y[i][o] *= rows[i] * outputs[o] * factor. */
struct tl_cuda_scale_args {
  int dtype;
  int float_out;         /* y is float, not T */
  uint32_t m, n;         /* n (8) */
  uint32_t ld;           /* of T: (8) */
  float factor;
  const float *rows;     /* (m) */
  const float *outputs;  /* (n) */
  void *y;               /* (m, ld) */
};
int tl_cuda_scale(const struct tl_cuda_scale_args *args, void *stream);

/* tl_sampling with places in lists instead of pointers. */
struct tl_cuda_sampling {
  float temperature, top_p, min_p;
  int32_t top_k;
  float presence_penalty, frequency_penalty, repetition_penalty;
  int32_t target, n_top;
  uint64_t seed, position;
  uint32_t first_history, n_history; /* a token is at most once in a row's history */
  uint32_t first_bias, n_bias;
  uint32_t mask;         /* its place in the list, from 1; 0: none */
  struct tl_sampled *out; /* device or pinned host memory; NULL: the row is padding, and nothing else here is looked at */
};

/* logits *= factor, then softcap * tanh(logits / softcap) unless that is 0. */
struct tl_cuda_cap_args {
  uint32_t n, vocab;
  uint32_t ld;           /* (4): floats from row to row, at least vocab */
  float factor, softcap;
  const float *bias;     /* (vocab), added first; or NULL */
  float *logits;         /* (n, ld) */
};
int tl_cuda_cap(const struct tl_cuda_cap_args *args, void *stream);

/* What is known of a row that is left to be drawn. */
struct tl_cuda_left {
  uint64_t cut;          /* the rank of the last token that the filters keep */
  double log_sum;        /* what makes a log-probability of a logit */
  float max;             /* of the logits as they were changed */
  uint32_t draws;        /* 0: the row has its token */
};

/* A step's calls, each with the same arguments. The first does all for rows without a temperature, or with a target. */
enum tl_cuda_sample_stage {
  TL_CUDA_CHOOSE,
  TL_CUDA_NARROW, /* only needed if a row that is to be drawn has top_k or top_p */
  TL_CUDA_DRAW,   /* only needed if one is to be drawn */
};

/* One token for each row, as cpu_sample does. Weights are summed as integers, in
 * units of 2^-44 of the best token's: a draw depends on no order of summing, and
 * differs from the CPU's where the random number falls within 2^-23 of an edge. */
struct tl_cuda_sample_args {
  int stage;                            /* enum tl_cuda_sample_stage */
  uint32_t n, vocab;
  uint32_t ld;                          /* (4): floats from row to row, at least vocab */
  uint32_t n_multiprocessors;           /* of the device */
  float *logits;                        /* (n, ld), changed */
  const struct tl_cuda_sampling *rows;  /* (n), there before the kernels of the step begin */
  const struct tl_token_count *history; /* all rows' */
  const struct tl_token_bias *bias;     /* all rows' */
  uint64_t *best;                       /* (n_multiprocessors) scratch: of parts of rows */
  uint64_t *sums;                       /* (max(n, n_multiprocessors), TL_CUDA_SAMPLE_SUMS) scratch */
  uint64_t *bins;                       /* (n_multiprocessors / 2, TL_CUDA_SAMPLE_BINS) of rows that are shared; zeros before and after */
  uint32_t *arrived;                    /* (max(n, n_multiprocessors)) parts of each row that are there; zeros before and after */
  struct tl_cuda_left *left;            /* (n) from one call to the next */
  float *saved;                         /* scratch: as many as history and bias entries together; rows share no entry */
  uint32_t n_history;                   /* entries that `history` may have; in `saved` those of `bias` follow them */
  const uint32_t *masks;                /* (as many as rows name, TL_MASK_WORDS(vocab)) */
  int32_t *fed;                         /* (n) the tokens once more, for the next step's embed; -1 as in out */
};
int tl_cuda_sample(const struct tl_cuda_sample_args *args, void *stream);

#ifdef __cplusplus
}
#endif

#endif
