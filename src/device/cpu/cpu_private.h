/* SPDX-License-Identifier: MIT */
/* The CPU backend's own: weight panels, kernels by instruction set, lanes.
 *
 * Every result is a fixed sequence of float operations that depends on the row
 * alone: a product's sum runs over k in ascending order in one accumulator,
 * whatever the number of rows; attention runs over positions in ascending order.
 * So a sequence gets the same tokens alone, in a batch, whole or in chunks. */
#ifndef CPU_PRIVATE_H
#define CPU_PRIVATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/meet.h"
#include "tokenlane/base/cpu.h"
#include "tokenlane/base/thread.h"
#include "tokenlane/device.h"
#include "tokenlane/slice.h"

#define CPU_PANEL 32      /* outputs of a panel */
#define CPU_K_BLOCK 256   /* inputs unpacked at a time: 32 KiB of floats, an L1 cache */
#define CPU_MAX_QUERIES 8 /* query rows that attention treats together */

/* Matrices of each expert of EXPERTS_UP, the gate's first where there is one. */
static inline uint32_t cpu_expert_ups(const struct tl_op *op) {
  return op->weight[1] < 0 ? 1 : 2;
}

static inline size_t cpu_round_up(size_t value, size_t to) {
  return (value + to - 1) / to * to;
}

/* Floats from row to row of n: whole panels, and never a multiple of 4 KiB, the distance at which lines push each other out
 * of an L1 cache: products read a dozen rows side by side. */
static inline size_t cpu_row_stride(size_t n) {
  return n ? (n + CPU_PANEL - 1) / CPU_PANEL * CPU_PANEL | CPU_PANEL : 0;
}

/* A weight matrix (outputs, inputs) in panels of 32 outputs; k is padded to a
 * multiple of 2, outputs to one of 32, with zeros.
 *   F32, F16: [panel][k][32]
 *   BF16:     [panel][k / 2][32][2], pairs of inputs: the layout of VDPBF16PS
 *   F8:       [panel][scales: a float for each `run` inputs][32], then [k][32] bytes */
struct cpu_matrix {
  enum tl_dtype dtype;
  uint32_t n_out, n_in;
  uint32_t n_panels, k_padded;
  size_t panel_bytes;
  char *panels;      /* owned by the weights' allocation */
  const struct tl_quant_format *quant; /* NULL: floats; else the layout is in cpu_quant.h */
  const uint32_t *order;               /* quantized: the input of each place; NULL: ascending */
  uint32_t run;                        /* cells (F8: inputs) that share a scale */
  struct cpu_matrix *next;             /* outputs behind these, in another format; NULL: none */
  float *bias;       /* (n_panels * 32) or NULL */
};

/* Queries of one KV head over one sequence's context. */
struct cpu_attention {
  enum tl_dtype dtype;        /* of the cache */
  uint32_t head_dim, head_pad; /* head_pad: rounded up to 16 */
  size_t block_bytes;         /* one block of one layer: all heads of K, or of V */
  const char *k, *v;          /* this layer's cache + this head's offset within a block */
  const uint32_t *table;      /* blocks of the sequence */
  float scale;
  float softcap;              /* of scores; 0: none */
  const uint32_t *first;      /* (queries) the first position that each sees, ascending; NULL: 0 */
  const float *sinks;         /* (queries) one more score of each, of a position without a value; NULL: none */
};

/* 16 queries, heads and tokens alike, over one sequence's latents. A block of a layer: a token's numbers one behind the other, `pad` long. */
struct cpu_latent_attention {
  enum tl_dtype dtype;
  uint32_t n_key, n_value, pad; /* pad: n_key rounded up to 16 */
  size_t block_bytes;
  const char *base;
  const uint32_t *table;
  float scale;
};
#define CPU_LATENT_RUN 32      /* tokens that are floats at a time */
#define CPU_LATENT_STRETCH 512 /* tokens from which on a sum of its own is made, at multiples of it: what lanes can share a context by */

/* Floats of a stretch's result: (n_value rounded up to 16, 16), then the largest scores (16) and the sums of weights (16). */
static inline size_t cpu_latent_floats(uint32_t n_value) {
  return ((size_t)((n_value + 15) & ~15u) + 2) * 16;
}

#define CPU_MAX_CONV 16
#define CPU_CONV_RUN 256     /* channels that go through a sequence's rows together */
#define CPU_DELTA_COLUMNS 32 /* values of a tile of S */

/* n channels, a multiple of 16 up to CPU_CONV_RUN, of n_rows rows of a sequence. */
struct cpu_conv {
  const float *in;
  float *out;                 /* may be `in` */
  const float *weight, *bias; /* (conv, ld_weight), the earliest row's first; (n) or NULL */
  const float *gate;          /* what comes out is times it; NULL: it is silu of that */
  const float *from;          /* (conv - 1, ld_kept) the rows before; NULL: zeros */
  float *to;                  /* likewise, behind the last; may be `from` */
  size_t ld_in, ld_out, ld_weight, ld_gate, ld_kept;
  uint32_t n_rows, n, conv;
};

/* n_rows tokens of a sequence, of a tile of a value head's S: (key_dim, CPU_DELTA_COLUMNS). */
struct cpu_delta {
  const float *q, *k, *v;     /* rows `ld` apart: (key_dim), (key_dim), (n_columns) */
  const float *beta, *decay;  /* of each token, ld_gates apart */
  float *out;                 /* (n_columns), rows ld_out apart */
  const float *from;          /* NULL: zeros */
  float *to;                  /* may be `from` */
  size_t ld, ld_gates, ld_out;
  uint32_t n_rows, key_dim, n_columns;
  float skip;                 /* of `scan`: what comes out has so many times v beside */
};

/* F8: where a panel's bytes begin. */
static inline size_t cpu_f8_scale_bytes(const struct cpu_matrix *w) {
  return ((size_t)w->n_in + w->run - 1) / w->run * CPU_PANEL * sizeof(float);
}

struct cpu_kernels {
  const char *name;
  /* Converts rows to what `gemm` reads; NULL: it reads the floats themselves. */
  void (*convert)(const float *x, uint32_t *ret, size_t n_pairs);
  /* out (m, 32) = x (m, ldx) times the panel; scratch: CPU_K_BLOCK * 32 floats. */
  void (*gemm)(const struct cpu_matrix *w, uint32_t panel, const void *x, size_t ldx, uint32_t m, float *out,
               float *scratch);
  void (*rmsnorm)(float *h, const float *x, const float *weight, uint32_t n, float eps);
  void (*silu_mul)(float *m, const float *gate, const float *up, uint32_t n);
  void (*gelu_mul)(float *m, const float *gate, const float *up, uint32_t n); /* gelu by tanh; up NULL: times 1 */
  void (*gelu_erf_mul)(float *m, const float *gate, const float *up, uint32_t n); /* by erf; likewise */
  /* m = g sigmoid(1.702 g) (u + 1), g = min(gate, limit), u = up within -limit and limit */
  void (*clamped_mul)(float *m, const float *gate, const float *up, uint32_t n, float limit);
  void (*softcap)(float *x, uint32_t n, float cap); /* x = cap * tanh(x / cap); n: a multiple of 16 */
  /* out[i] (head_dim) = attention of query q[i] over positions first[i] to n_keys[i] - 1;
   * n <= CPU_MAX_QUERIES, n_keys ascending; scores: n rows of `stride` floats. */
  void (*attend)(const struct cpu_attention *a, uint32_t n, const float *const *q, const uint32_t *n_keys,
                 float *const *out, float *scores, size_t stride);
  /* out: cpu_latent_floats of queries q (n_key, 16) over those of the positions [begin, end) that each sees, below n_keys (16);
   * end - begin <= CPU_LATENT_STRETCH. scratch: CPU_LATENT_RUN * (pad + 16) floats. */
  void (*attend_latent)(const struct cpu_latent_attention *a, const float *q, const uint32_t *n_keys, uint32_t begin, uint32_t end,
                        float *out, float *scratch);
  void (*merge_latent)(float *out, const float *part, uint32_t padded); /* out and that of the stretch behind it */
  void (*to_e4m3)(const float *x, uint8_t *ret, uint32_t n); /* each as tl_f32_to_f8_e4m3 */
  float (*max)(const float *x, size_t n);                 /* NaN if there is one */
  /* Sum of exp(x - max), 0 below exp(-87); with ret also each of them. */
  double (*exp_sum)(const float *x, size_t n, float max, float *ret);
  /* Sum of p[i], or of 1 if p is NULL, where x[i] >= floor. */
  double (*sum_above)(const float *p, const float *x, size_t n, float floor);
  void (*sigmoid_mul)(float *x, const float *gate, uint32_t n); /* x *= sigmoid(gate) */
  void (*gated_norm)(float *x, const float *gate, const float *weight, uint32_t n, float eps); /* x = x / its rms * weight * silu(gate) */
  void (*convolve)(const struct cpu_conv *c);
  void (*delta)(const struct cpu_delta *d);
  void (*scan)(const struct cpu_delta *d); /* S += k (beta v)^T, whatever S has of the key already */
  /* x *= silu(gate), then x / its rms * weight */
  void (*gate_norm)(float *x, const float *gate, const float *weight, uint32_t n, float eps);
};

extern const struct cpu_kernels cpu_kernels_plain;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_avx512bf16;
#endif
const struct cpu_kernels *cpu_choose_kernels(enum tl_cpu_isa isa);

/* --- cpu_pool.c: lanes that run one function together ------------------------------- */
struct cpu_pool;
typedef void (*cpu_lane_fn)(void *context, unsigned lane);

/* options are borrowed. Lane 0, the worker, confines itself. */
int cpu_pool_new(const struct tl_device_options *options, struct cpu_pool **ret, struct tl_error *err);
void cpu_pool_free(struct cpu_pool *pool);
/* Starts fn on lanes 1..; the caller is lane 0 and joins in by cpu_pool_join,
 * which returns when every lane is through. */
void cpu_pool_start(struct cpu_pool *pool, cpu_lane_fn fn, void *context);
void cpu_pool_join(struct cpu_pool *pool);
/* All lanes wait for one another; called within fn by each of them equally often. */
void cpu_pool_barrier(struct cpu_pool *pool);

/* --- cpu_weights.c ----------------------------------------------------------------------- */
struct cpu_weights {
  struct cpu_matrix *matrices; /* by plan record; GATED_UP has gate, QKV all three */
  struct cpu_matrix *ups;      /* by plan record: GATED_UP's second matrix */
  struct cpu_matrix *others;   /* what `next` of matrices points to */
  struct cpu_matrix **experts; /* by plan record: of EXPERTS_UP gate and up of each of the shard's, of EXPERTS_DOWN its one;
                                * of LATENT_ABSORB and LATENT_VALUE one of each of the shard's heads */
  uint32_t n_records;
  bool quantized;              /* at least one of them is */
  float **norms;               /* by plan record: weight[0] of what is not a product */
  float **norm_parts;          /* by plan record: bias[0] of a norm, weight[1] of QK_NORM and EMBED_PLACE */
  struct cpu_table {
    enum tl_dtype dtype;
    const char *rows;          /* as in the file */
    size_t row_bytes;
  } embed, beside;             /* (shard's n_vocab, dim); (vocabulary, n_layers * n_beside) */
  char *memory;                /* one mapping holds all of the above's data */
  size_t bytes;
};
/* The shard's part of them. */
int cpu_weights_load(const struct tl_device_load *load, const struct tl_shard *shard, struct cpu_weights *ret,
                     struct tl_error *err);
void cpu_weights_free(struct cpu_weights *weights);
void *cpu_map(size_t bytes); /* zeroed, huge pages where there are some; NULL when out of memory */
void cpu_unmap(void *memory, size_t bytes);

/* --- cpu_sample.c --------------------------------------------------------------------------- */
struct cpu_candidate {
  float logit;
  int32_t token;
};
struct cpu_sampler {
  struct cpu_candidate *candidates; /* (vocab) */
  float *raw;                       /* (vocab) logits before they are changed */
  float *weights;                   /* (vocab) exp of the changed logits */
};
/* Draws or scores one row. logits (vocab) are changed. TL_EDEVICE when one is NaN
 * or infinite, or all are -INFINITY. */
int cpu_sample(const struct cpu_kernels *kernels, const struct tl_sampling *s, float *logits, uint32_t vocab,
               const struct cpu_sampler *scratch, struct tl_sampled *ret);

/* --- the device ---------------------------------------------------------------------------------- */
struct cpu_lane {
  TL_ALIGNED float *panel_out; /* (2, max_batch_tokens, 32) gate and up */
  float *unpack;               /* (CPU_K_BLOCK, 32) */
  float *scores;               /* (CPU_MAX_QUERIES, max_context rounded up) */
  struct cpu_sampler sampler;
  float *latent; /* of latent attention: 16 queries, results of two stretches, the kernels' scratch */
};

/* One ticket counter a plan record, on a line of its own. */
struct cpu_ticket {
  TL_ALIGNED _Atomic uint32_t next;
};

/* cpu_experts.c: who computes with what in a step, and the rows in between. An entry is a row with one of the
 * shard's experts. n_chosen 0: no record has experts. */
struct cpu_mixture {
  uint32_t n_chosen;
  size_t ld_scores, ld_inner, ld_v, n_entries_max; /* ld_v: 0: no experts work in a latent */
  /* by lanes that share the rows */
  float *scores;       /* (max_batch_tokens, ld_scores) */
  uint32_t *chosen;    /* (max_batch_tokens, n_chosen) experts, the best first */
  float *shares;       /* likewise */
  /* by lane 0 */
  uint32_t *places;    /* likewise: the choice's entry */
  uint32_t *rows;      /* (n_entries) */
  uint32_t *expert_of; /* (n_entries) the shard's own count */
  uint32_t *first;     /* (n_experts + 1) entries of each expert */
  uint32_t *next;      /* (n_experts) */
  uint32_t *active;    /* (n_active) experts with entries */
  uint32_t n_active, n_entries;
  /* by units of work */
  float *io;           /* (n_entries, ld_dim) what experts read, then what they make */
  float *m;            /* (n_entries, ld_inner) */
  float *v;            /* (max_batch_tokens, ld_v) of EXPERTS_IN, then of EXPERTS_DOWN */
};

/* cpu_latent.c: latent attention. */
struct cpu_latent {
  size_t ld_query, ld_wide, key_at; /* key_at: the column of qkv where c begins */
  float *query; /* (max_batch_tokens, ld_query); with LATENT_QUERY */
  float *wide;  /* (max_batch_tokens, ld_wide): of each head head_dim numbers that meet c, then what the latents make of them */
  float *parts; /* (n_parts) results of stretches that lanes share a context by */
  uint32_t n_parts;
};

/* cpu_states.c: layers that keep a state. Sizes are in floats; floats 0: no layer has one. */
struct cpu_states {
  uint32_t n;
  size_t tile_floats, kept_at, ld_kept, layer_floats, floats; /* kept_at: of a layer's rows before CONV */
  size_t made;          /* columns of a that ATTN_OUT reads */
  float *memory;        /* (n, floats) */
  size_t bytes;
  size_t ld_u, ld_z, ld_wide;
  float *u, *z, *wide;  /* (max_batch_tokens, ld) */
};

/* cpu_encode.c: where the keys of a pooling model's step are: blocks of one layer, which all layers use in turn. */
struct cpu_places {
  struct tl_step step; /* the one that was submitted, with the arrays below */
  uint32_t *slots;     /* (max_batch_tokens) */
  uint32_t *context;   /* (max_batch_size) */
  uint32_t *tables;    /* (max_batch_size, table_stride) */
};

/* cpu_adapters.c: what an adapter adds to a record: s = x A^T, for the ranks of all its inputs at once, then input i's
 * outputs get scale[i] * (columns of s from at[i] on) B[i]^T. */
struct cpu_adapter_part {
  struct cpu_matrix a;               /* the inputs' A one behind the other */
  struct cpu_matrix b[TL_OP_INPUTS]; /* n_out 0: none of that input */
  uint32_t at[TL_OP_INPUTS];         /* even */
  float scale[TL_OP_INPUTS];
};

/* Rows [row, row + n) of a step, of an adapter; those of one adapter stand one behind the other. */
struct cpu_span {
  uint32_t row, n, adapter;
};

struct cpu_adapters {
  uint32_t n;                      /* 0: the model has none */
  uint32_t **parts_of;             /* (n, n_ops) number in `parts` + 1; 0: it adds nothing there */
  struct cpu_adapter_part **parts; /* (n) */
  char *memory;                    /* one mapping holds all matrices */
  size_t bytes;
  size_t ld;                       /* of s */
  float *s;                        /* (max_batch_tokens, ld) */
  struct cpu_ticket *tickets;      /* (n_ops, 2) of shrinking and expanding */
  struct cpu_span *spans;          /* (n_spans) of the running step, by adapter */
  uint32_t n_spans;
};

/* Heads of keys and values, the rank's own, in the cache. */
struct cpu_heads {
  uint32_t dim, pad, n_kv; /* pad: dim rounded up to 16 */
  size_t head_bytes;       /* K, or V, of one head in a block */
  size_t layer_bytes;      /* of one block, K and V */
};

struct cpu_quant_kernels; /* cpu_quant.h */
struct cpu_quant_cell;

struct cpu_device {
  const struct tl_device_ops *ops; /* first, as device.h says */
  struct tl_device_options options;
  const struct cpu_kernels *kernels;
  const struct cpu_quant_kernels *quant;
  struct cpu_pool *pool;
  const struct tl_model *model;
  struct tl_device_load load;
  struct cpu_group *group;     /* NULL: alone */
  struct tl_shard shard;       /* rank and size by open and join, the rest by load */
  struct cpu_weights weights;
  struct cpu_mixture mixture;
  struct cpu_latent latent;
  struct cpu_states states;
  struct cpu_adapters adapters;
  /* KV cache: [layer][block][K of all heads, V of all heads] */
  enum tl_dtype kv_dtype;
  uint32_t n_blocks;
  struct cpu_heads heads, wide; /* wide: of records with TL_F_WIDE */
  size_t *layer_at;             /* (n_kv_layers) bytes of one block that layers before it have */
  char *kv;
  size_t kv_bytes;
  /* activations, one mapping */
  char *activations;
  size_t activation_bytes;
  float *x, *h, *qkv, *a, *m, *logits; /* rows of the strides below */
  float *aside;                        /* (max_batch_tokens, ld_dim) s; NULL: no record makes one */
  float *beside, *mix;                 /* (max_batch_tokens, ld_beside) p, and what is added to it */
  float *vectors[2];                   /* (max_batch_size, ld_vector) by turns: DENSE reads the one and writes the other */
  uint32_t *pairs;                     /* converted rows where the kernels want them */
  struct cpu_quant_cell *quants;       /* quantized rows, NULL: no matrix wants them */
  size_t quants_bytes;
  float *parts[2];                     /* (max_batch_tokens, ld_dim) what the ranks add up; NULL: alone */
  size_t ld_vector;                    /* 0: not a pooling model */
  size_t ld_beside;
  size_t ld_dim, ld_qkv, ld_attn, ld_ffn, ld_vocab; /* ld_vocab: of the whole vocabulary; only rank 0 has logits */
  float *rope;                         /* (max_context, n_rotated, with tl_model.wide its dim): cos, then sin */
  float *rope_local;                   /* (max_context, n_rotated) likewise, NULL: no record has TL_F_LOCAL */
  struct cpu_lane *lanes;
  struct cpu_ticket *tickets;          /* (n_ops + 1): the last is sampling's */
  /* the running step */
  const struct tl_step *step;
  struct cpu_places places;
  struct tl_sampled *sampled;
  bool lost; /* the group was aborted; lane 0 writes it between two barriers */
};

extern const struct tl_device_ops cpu_device_ops; /* cpu_backend.c */

/* The heads of a record QKV, QK_NORM, ROPE or ATTEND. */
static inline const struct cpu_heads *cpu_heads_of(const struct cpu_device *d, const struct tl_op *op) {
  return op->features & TL_F_WIDE ? &d->wide : &d->heads;
}

/* Where a layer's part of block 0 begins. */
static inline char *cpu_layer_base(const struct cpu_device *d, uint32_t layer) {
  return d->kv + (d->ld_vector ? 0 : d->layer_at[layer] * d->n_blocks); /* a pooling model's layers use the same blocks in turn */
}

/* cpu_group.c. Ranks write what they compute of a sum to their own memory, meet, and each adds up what
 * all have, by rank: so all have the same bits, whatever the time. */
struct cpu_group {
  struct device_meet meet; /* first */
  struct cpu_device *ranks[TL_MAX_RANKS]; /* by join */
};
extern const struct tl_device_group_ops cpu_group_ops;

/* cpu_encode.c: blocks that a pooling model's steps need; the arrays; the step with its places in those blocks, which is
 * valid until the next one. */
uint32_t cpu_places_blocks(const struct cpu_device *d);
bool cpu_places_make(struct cpu_device *d); /* false: out of memory */
void cpu_places_free(struct cpu_device *d);
const struct tl_step *cpu_places_step(struct cpu_device *d, const struct tl_step *step);

/* cpu_weights.c: one output row of a slice of floats or F8 into column `column` of its panel; `values`: room for a row of the tensor. */
void cpu_pack_row(const struct cpu_matrix *w, char *panel, uint32_t column, const struct tl_slice *s, size_t row, float *values);
/* Panels of n_out rows of n_in floats, or F8, of the matrix's dtype: how many, and how large. */
void cpu_lay_out_floats(struct cpu_matrix *w);

/* cpu_adapters.c: the model's adapters, if it has some, and what their steps need. */
int cpu_adapters_load(struct cpu_device *d, struct tl_error *err);
void cpu_adapters_free(struct cpu_device *d);
/* The step, which has adapters, is about to run. */
void cpu_adapters_begin(struct cpu_device *d, const struct tl_step *step);

/* cpu_ops.c: what a lane does for one step. */
void cpu_run_step(void *device, unsigned lane);

/* cpu_experts.c: sizes of the mixture, then what is not an activation. False: out of memory. */
void cpu_mixture_measure(struct cpu_device *d);
bool cpu_mixture_make(struct cpu_device *d);
void cpu_mixture_free(struct cpu_device *d);

/* cpu_latent.c: sizes before the activations are made; scratch of all lanes, false: out of memory. */
void cpu_latent_measure(struct cpu_device *d);
bool cpu_latent_make(struct cpu_device *d);
void cpu_latent_free(struct cpu_device *d);

/* cpu_states.c: sizes, behind the shard; how many states fit into `bytes` with a context's KV, 0: none. */
void cpu_states_measure(struct cpu_device *d);
uint32_t cpu_states_fit(const struct cpu_device *d, uint64_t bytes, uint64_t context_bytes);
/* Floats of the two vectors that a record of such a layer reads, multiples of 16; and their numbers, into zeros. */
size_t cpu_states_vectors(const struct tl_model *model, const struct tl_shard *shard, const struct tl_op *op, size_t *ret_second);
void cpu_states_take_vectors(const struct tl_model *model, const struct tl_shard *shard, const struct tl_op *op, float *first, float *second);

/* cpu_rows.c: records that work on rows alone; [from, to) of the step's rows. */
/* bias: NULL: none. */
void cpu_layer_norm(float *h, const float *x, const float *weight, const float *bias, uint32_t n, float eps);
void cpu_norm_add(const struct cpu_device *d, const struct tl_op *op, const float *weight, uint32_t from, uint32_t to);
/* s of h, and h of both; weight: (dim). */
void cpu_aside(const struct cpu_device *d, const struct tl_op *op, const float *weight, uint32_t from, uint32_t to);
void cpu_qk_norm(const struct cpu_device *d, const struct tl_op *op, const float *q_weight, const float *k_weight,
                 uint32_t from, uint32_t to);
/* With TL_F_WHOLE_ROW in a group: the squares of this rank's heads of q and k of a row, and the row scaled by those of all. */
void cpu_qk_squares(const struct cpu_device *d, uint32_t row, float ret[2]);
void cpu_qk_scale(const struct cpu_device *d, const struct tl_op *op, const float *q_weight, const float *k_weight, uint32_t row,
                  const float squares[2]);
/* p of tokens; p with what was made of x in `mix`; m times a layer's part of p. */
void cpu_beside(const struct cpu_device *d, const struct tl_op *op, uint32_t from, uint32_t to);
void cpu_beside_mix(const struct cpu_device *d, const struct tl_op *op, const float *weight, uint32_t from, uint32_t to);
void cpu_beside_gate(const struct cpu_device *d, const struct tl_op *op, uint32_t from, uint32_t to);
float cpu_squares(const float *x, uint32_t n); /* their sum */
/* x /= its rms, * weight. */
void cpu_rms(float *x, const float *weight, uint32_t n, float eps);
void cpu_rotate(float *x, const float *angles, uint32_t n, const struct tl_op *op);
void cpu_rope(const struct cpu_device *d, const struct tl_op *op, uint32_t from, uint32_t to);
void cpu_grow(const struct cpu_device *d, const struct tl_op *op, uint32_t from, uint32_t to);

#endif
