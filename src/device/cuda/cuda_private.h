/* SPDX-License-Identifier: MIT */
/* The CUDA backend's own types. One thread at a time uses a device: its worker, or
 * before that who loads it; only what stands under "shared" is touched by others. */
#ifndef CUDA_PRIVATE_H
#define CUDA_PRIVATE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "device/cuda/cuda_api.h"
#include "device/cuda/cuda_sdpa.h"
#include "tokenlane/device.h"
#include "tokenlane/slice.h"

#define CUDA_ALIGN 256          /* of all that lies in an arena */
#define CUDA_MAX_PRODUCTS 64    /* shapes (outputs, inputs, kind of result) of a plan */
#define CUDA_WAYS_TO_PART 3     /* a product's k: in 2, 4 or 8 parts; */
#define CUDA_MOST_PARTS 8
#define CUDA_MAX_PIECES (2 * TL_OP_INPUTS) /* of a matrix: DELTA_IN has the inputs of two records */
#define CUDA_PARTED_ROWS 64     /* of up to so many rows, */
#define CUDA_PARTED_BUCKETS 3   /* which end the last of so many buckets */
#define CUDA_MAX_BUCKETS 48     /* of rows, for algorithms; for graphs, of each kind */
#define CUDA_LT_WORKSPACE ((size_t)32 << 20)
#define CUDA_TILE_BYTES ((size_t)64 << 20)
#define CUDA_CHOOSE_NS 2000000000LL /* of a load, for timing products */

/* Sizes as they lie on the device: rows are padded to 8 elements with zeros, which
 * change no sum; halves of heads likewise, for rotation (struct cuda_order). */
struct cuda_dims {
  uint32_t dim, head;        /* padded */
  uint32_t ffn;              /* padded, the longest inner row of an MLP that all rows have; 0: there is none */
  uint32_t inner, low;       /* padded, the longest of an expert's, 0: there are none; what those read that work in a latent, 0: none does */
  uint32_t n_chosen, ld_scores; /* of experts, the most of any layer */
  uint32_t n_heads, n_kv_heads; /* of this rank */
  uint32_t vocab;            /* all of it */
  uint32_t n_vocab;          /* of this rank */
  uint32_t qkv, attn;        /* (n_heads + 2 n_kv_heads) head, n_heads head; with latents t or q, and c; n_heads n_value */
  uint32_t rope;             /* angles of a position, cosines and sines: head, or what of it is rotated */
  uint32_t rank, queries;    /* with latents: numbers of t, of q */
  uint32_t n_key_heads, n_value_heads, key, value; /* of layers that keep a state: heads of this rank, 0 of LFM2; their sizes, padded */
  uint32_t n_channels;       /* padded: a row of u */
  uint32_t made;             /* numbers that such a layer makes of a row, padded */
  uint32_t ld_logits;        /* floats from row to row */
  uint32_t ld_part;          /* of a rank's part of them: the most that any rank has */
  uint32_t vector;           /* padded, the longest of a model that pools; 0: it generates */
};

/* What lies at element i of a padded head: element at[i] of the file's, or nothing. */
#define CUDA_NOTHING UINT16_MAX
struct cuda_order {
  uint32_t size, padded;
  uint16_t at[TL_CUDA_MAX_HEAD_DIM];
};
/* Elements as they are, then padding. */
static inline void cuda_plain_order(struct cuda_order *order, uint32_t size, uint32_t padded) {
  order->size = size;
  order->padded = padded;
  for (uint32_t i = 0; i < padded; i++) order->at[i] = (uint16_t)(i < size ? i : CUDA_NOTHING);
}

/* Outputs of a matrix that are stored alike, row-major, with k contiguous. */
struct cuda_piece {
  int format;        /* enum tl_cuda_format */
  uint32_t first, n; /* outputs */
  char *data, *scales;
  const uint32_t *order; /* the model's, of act-order (k): input of each code; NULL: as they are, or experts' */
  uint32_t n_orders;     /* 0: as they are; 1, or of experts one each */
  uint32_t *inputs;      /* (n_orders, k) on the device */
  uint32_t tile;     /* outputs of a product by a library; the last tile has what is left */
  unsigned product, last; /* shapes of a tile and of the last one, in struct cuda_products */
  unsigned e4m3;     /* shape of all of it by rows in E4M3; CUDA_MAX_PRODUCTS: there is none */
  unsigned parted[CUDA_WAYS_TO_PART];    /* shapes of all of it whose k is in parts, which who reads the results sums up; likewise */
  unsigned quickest[CUDA_PARTED_BUCKETS]; /* which of these steps of so many rows take; likewise */
};

/* Weights (n, k): GGUF files may have Q, K and V of a layer in different formats. */
struct cuda_matrix {
  struct cuda_piece pieces[CUDA_MAX_PIECES];
  unsigned n_pieces;
  float *bias; /* (n) or NULL */
  uint32_t n, k;
  uint32_t ld; /* of the result */
  bool float_out;
  bool leaves; /* who reads the result, as one piece gives it, does what is left to do of it (struct tl_cuda_rest) */
  bool summed; /* so does a norm, which can sum up parts, too */
};

/* What the plan becomes: a record for each launch or few. */
enum cuda_op_kind {
  CUDA_OP_EMBED,  /* delta = rows of weight, + those of `place` */
  CUDA_OP_NORM,   /* x += delta, or its norm; h = norm(x), or x */
  CUDA_OP_QKV,    /* qkv = h W^T */
  CUDA_OP_ATTEND, /* bias, norm of q and k, rotation, cache, attention: a */
  CUDA_OP_OUT,    /* delta = a W^T + b */
  CUDA_OP_GATED,  /* m = silu(gate) * up */
  CUDA_OP_UP,     /* m = gelu(h W^T + b) */
  CUDA_OP_DOWN,   /* delta = m W^T + b; with a `route`: times the row's gate, + the sum of EXPERTS_DOWN */
  CUDA_OP_LOGITS, /* logits = h W^T, for the rows wanted */
  CUDA_OP_ROUTE,  /* scores = h W^T + b, and of the row gate, if there is one; choices, entries */
  CUDA_OP_EXPERTS_UP,   /* m of each entry */
  CUDA_OP_EXPERTS_DOWN, /* y of each entry; delta = their sum, unless a row gate is to come */
  CUDA_OP_POOL,   /* vector = of each sequence's rows of h */
  CUDA_OP_LATENT,        /* qkv = h W^T + b: t or q, c (cuda_latent.c, as all these) */
  CUDA_OP_LATENT_ROWS,   /* t = norm of it; c normed, rotated, into the cache */
  CUDA_OP_LATENT_QUERY,  /* q = t W^T */
  CUDA_OP_LATENT_ABSORB, /* wide = of each head of q what meets c */
  CUDA_OP_LATENT_ATTEND, /* wide = of each head what is mixed of latents */
  CUDA_OP_LATENT_VALUE,  /* a = of each head W of that */
  CUDA_OP_DELTA_IN,      /* qkv = h W^T: u, then z, b and c (cuda_states.c, as all these) */
  CUDA_OP_CONV,          /* u = silu of its convolution */
  CUDA_OP_DELTA,         /* a, by the delta rule, or Mamba 2's */
  CUDA_OP_GATED_NORM,    /* a = norm of each head, times silu(z) */
  CUDA_OP_SHORT_IN,      /* qkv = h W^T + b: B, z, x */
  CUDA_OP_SHORT_CONV,    /* a = z times the convolution of B x */
  CUDA_OP_GATE_IN, CUDA_OP_GATE, /* z = h W^T; a *= sigmoid(z) */
  CUDA_OP_EXPERTS_IN, CUDA_OP_EXPERTS_OUT, /* v = h W^T, which the layer's experts read, and make; delta = v W^T */
  CUDA_OP_DENSE,  /* vector = vector W^T + b, its function, its norm */
};

struct cuda_op {
  enum cuda_op_kind kind;
  const struct tl_op *from;
  const struct tl_op *before; /* NORM: whose delta is added: EMBED, ATTN_OUT or MLP_DOWN */
  const struct tl_op *post;   /* NORM: the NORM_ADD that came first, or NULL */
  bool norm_last, again;       /* ATTEND: qk_norm stands behind rope. NORM: the norm before has added all already, attention stands between */
  const struct tl_op *qk_norm, *rope; /* ATTEND: or NULL; rope: LATENT_ROWS, LATENT_ABSORB */
  uint32_t waits;              /* behind it: of enum waiting */
  const struct tl_op *gates;   /* DELTA_IN: the record of z, b and c */
  bool of_state;               /* OUT: of what a layer that keeps a state made */
  const struct tl_op *row_gate; /* may be without weights; ROUTE, GATED and UP: of the layer's MLP that all rows have beside their experts; or NULL */
  const struct cuda_op *route;  /* of a layer with experts, for itself and what follows in it; or NULL */
  const struct tl_op *place;    /* EMBED: of positions and token types, or NULL */
  const struct tl_op *vector_norm; /* DENSE: or NULL */
  float *weight, *shift, *post_weight, *skip; /* NORM: (dim), DENSE: (its outputs), or NULL. DELTA: (n_value_heads) each, skip: of Mamba 2; GATED_NORM: (value), or (made) */
  char *places, *types;       /* EMBED: T (any, dim), or NULL */
  float *q_norm, *k_norm;     /* ATTEND: (head), or of all heads; or NULL. LATENT_ROWS: of t or NULL, of c */
  float *sinks;               /* ATTEND: (n_heads), or NULL */
  struct cuda_matrix w;       /* ATTEND: the bias of its QKV */
  struct tl_cuda_adapter *adapters; /* products of layers: (tl_model.n_adapters) on the device; NULL: none adds anything there */
};

/* Whether the row gate is one more score of the router's. */
static inline bool cuda_has_gate(const struct cuda_op *op) {
  return op->row_gate && op->row_gate->weight[0] >= 0;
}

/* ATTEND: whether Q and K are normed over all heads of a row, not each head by itself. */
static inline bool cuda_norms_whole_rows(const struct cuda_op *op) {
  return op->qk_norm && op->qk_norm->features & TL_F_WHOLE_ROW;
}

/* ATTEND: the record whose rows it reads. */
static inline struct cuda_op *cuda_qkv_of(struct cuda_op *op) {
  return op[-1].kind == CUDA_OP_GATE_IN ? op - 2 : op - 1;
}

/* Whether each head has weights of its own. */
static inline bool cuda_norms_each_head(const struct cuda_op *op) {
  return op->qk_norm && op->qk_norm->features & TL_F_EACH_HEAD;
}

/* Who applies the scales of outputs and rows. */
enum cuda_scaling {
  CUDA_NO_SCALES,   /* both are T */
  CUDA_LT_SCALES,   /* E4M3: cuBLASLt, in the product */
  CUDA_THEN_SCALED, /* E4M3: our kernel, behind it */
  CUDA_NO_WAY,      /* cuBLASLt has no such product */
};

/* How a product is computed. */
struct cuda_way {
  enum cuda_scaling scaling;
  struct cuda_lt_algorithm algorithm;
};

/* A product's shape and how it is computed, for each bucket of rows. */
struct cuda_product {
  uint32_t n, k, ld;        /* ld: of the result */
  uint32_t parts;           /* 1; or so many products side by side, of k inputs each, whose rows lie within those of the whole */
  bool float_out;
  bool e4m3;                /* rows and weights are E4M3, not T */
  void *w_layout, *x_layout, *y_layout;
  struct cuda_way ways[CUDA_MAX_BUCKETS];
  float ms[CUDA_MAX_BUCKETS]; /* FLT_MAX: it was not timed */
};

struct cuda_products {
  void *lt, *desc, *scaled_desc; /* scaled_desc: of CUDA_LT_SCALES */
  struct cuda_product shapes[CUDA_MAX_PRODUCTS];
  unsigned n_shapes;
  uint32_t buckets[CUDA_MAX_BUCKETS]; /* ascending; the last is the most rows of a step */
  unsigned n_buckets;
};

/* What a step's kernels read of it, at the same offsets in pinned host memory and on
 * the device, so that one copy brings it over; block tables and token lists go by
 * copies of their own. */
struct cuda_step_data {
  struct cuda_work_list {
    struct tl_cuda_lane *lanes;     /* (n_lanes) */
    struct tl_cuda_item *items;     /* (max_items) */
  } lists[2];                       /* of decode attention: without a window, and with the model's, or its chunks, if it has such */
  struct tl_cuda_tile *tiles;       /* (max_tiles) */
  struct tl_cuda_tile *chunk_tiles; /* (max_chunk_tiles) of the same rows, if the model has chunks */
  struct tl_cuda_sampling *sampling;/* (max_rows) */
  uint32_t *rows;                   /* (max_rows) */
  int32_t *offsets, *n_rows, *lengths; /* (max_seqs + 1), (max_seqs), (max_seqs): of sequences, as cuda_sdpa.h wants them */
  int32_t *tokens;                  /* (max_tokens), as the next two */
  uint32_t *positions, *slots;
  int32_t *types;                   /* (max_tokens) of models that pool, as the next */
  uint32_t *starts;                 /* (max_seqs + 1) first row of each sequence */
  struct tl_cuda_adapter_tile *adapter_tiles; /* (max_adapter_tiles) of models that have adapters, as the next */
  uint32_t *adapter_rows;           /* (max_tokens) */
  struct tl_cuda_stretch *stretches; /* (max_seqs) of models with layers that keep a state, as the next */
  struct tl_cuda_conv_tile *conv_tiles; /* (tl_cuda_max_conv_tiles) */
  struct tl_cuda_conv_tile *chunks, *longs; /* (max_chunks), (max_seqs): of stretches that the delta rule treats by chunks */
  size_t bytes;                     /* of all above */
  uint32_t *tables;                 /* (max_seqs, table_stride) */
  struct tl_token_count *history;   /* (max_entries) */
  struct tl_token_bias *bias;       /* (max_entries) */
  uint32_t *masks;                  /* (max_seqs, TL_MASK_WORDS(vocab)) of the rows that have one, one after the other */
};

/* How much of the lists of a step's data is filled, for the rows of one launch. */
struct cuda_lists {
  uint32_t n_history, n_bias, n_masks;
};

/* The host's side of a step under way; there may be two. All pinned. */
struct cuda_slot {
  struct cuda_step_data data;
  struct tl_sampled *sampled; /* (max_seqs) written by the draws themselves: no copy is behind them */
  float *vectors;             /* (max_seqs, n_out) of a model that pools */
  float *to;                  /* where collect puts them; the step's; NULL: it generates, or another rank gives them */
  void *done;                 /* event: the step is over, `sampled` is there */
  uint32_t n_rows;
};

/* Work memory on the device. T: 16 bits. */
struct cuda_work {
  float *x;         /* (tokens, dim) residual */
  float *x_turn;    /* (TL_CUDA_NORMED_ROWS, dim) of few rows: the two take turns */
  char *delta, *h;  /* T (tokens, dim) */
  char *qkv, *q, *a;/* T (tokens, qkv), (tokens, attn), (tokens, attn); of layers that keep a state as they need */
  char *rank, *queries, *wide; /* T of latents: (tokens, dims.rank), (tokens, dims.queries), (tokens, n_heads head) */
  char *u, *z;      /* T (tokens, n_channels) behind the convolution; (tokens, attn) the gates of attention; or NULL */
  char *matrices;   /* of max_chunks, as tl_cuda_delta_long wants them, as what is next */
  float *factors;   /* (max_chunks, n_value_heads, TL_CUDA_DELTA_FACTORS) */
  char *gate_up, *m;/* T (tokens, 2 ffn), (tokens, ffn) */
  char *last;       /* T (rows, dim) */
  float *logits;    /* (rows, ld_logits) */
  float *part, *gathered; /* groups: (rows, ld_part), and (ranks, rows, ld_part) */
  float *partial, *saved;
  uint64_t *partial_scale;
  uint32_t *arrived; /* (n_lanes, n_heads) zeros while no step runs */
  float *parts;            /* (CUDA_MOST_PARTS, CUDA_PARTED_ROWS, dim) of delta, or NULL */
  uint32_t *tiles_arrived; /* likewise: of the product with the most tiles of TL_CUDA_BATCH_TILE outputs */
  uint64_t *best, *sums;   /* (drawers), (drawers, TL_CUDA_SAMPLE_SUMS) of parts of rows of logits */
  uint64_t *bins;          /* (multiprocessors / 2, TL_CUDA_SAMPLE_BINS) zeros likewise */
  uint32_t *rows_arrived;  /* (drawers) zeros likewise: of those rows */
  struct tl_cuda_left *left; /* (max_seqs) */
  char *tile;       /* T: tile_bytes, or what is needed of them; or rows in E4M3: (tokens, k) */
  float *row_scales;/* (tokens) theirs */
  char *ordered;    /* T (tokens, k), (entries, k): rows in the order of weights that have one, the most of those */
  float *rope, *rope_local; /* (max_context, head); local: NULL if no layer wants it */
  float *growth;    /* (max_context) of queries, or NULL */
  float *row_squares; /* (tokens, 2), or those of each key head whose value heads several ranks have; nothing where no layer wants it */
  /* experts; entries: tokens n_chosen (cuda_experts.h) */
  float *scores, *shares;    /* (tokens, ld_scores), (entries) */
  uint32_t *chosen, *places, *entry_rows; /* (entries) */
  struct tl_cuda_expert_tile *expert_tiles;
  uint32_t *n_expert_tiles;  /* (1) */
  char *entry_m, *entry_y, *v; /* T (entries, inner), (entries, dim); (max_tokens, low) */
  float *vectors;   /* (rows, the last record's outputs) */
  char *vectors_t;  /* T, the same: what the next DENSE reads */
  char *shrunk;     /* T (tokens, ld_shrunk) what adapters make of rows, on the way */
  int32_t *fed;     /* (rows) what was drawn, for the next step's embedding */
  char *lt_workspace;
  size_t scratch_bytes; /* from x on: what a step writes anew before it reads it, so load may use it too */
};

struct cuda_limits {
  uint32_t max_tokens, max_seqs, max_context, least_context; /* max_tokens: rounded up to the last bucket */
  uint32_t table_stride, max_tiles, max_chunk_tiles, max_items, max_entries, max_adapter_tiles, max_chunks;
  uint32_t n_drawers; /* thread blocks that draw */
  uint32_t n_blocks, n_lanes; /* thread blocks of decode attention, and what shares out its items */
  struct tl_cuda_packing packing;
  uint32_t draft_rows; /* of a step of rows that decode of which a sequence has several: those for which there are graphs; 0: there is none */
};

struct cuda_graph_kind {
  bool drafts; /* sequences have several rows */
  bool adapts; /* and may have adapters */
};

struct cuda_graph {
  uint32_t n_rows;
  struct cuda_graph_kind kind;
  void *exec;
};

/* What the ranks of a group share. */
struct cuda_group {
  const struct cuda_api *api;
  unsigned size;
  int64_t patience_ns;    /* that ranks wait for one another when they meet */
  struct cuda_nccl_id id; /* of the next communicator; written while no rank meets */
  bool has_id;
  _Atomic int capability; /* compute capability of all ranks, that of the first to join; 0: none has */
  _Atomic bool aborted;   /* any thread sets it (release), ranks look (acquire) */
  _Atomic unsigned n_came; /* to where ranks wait for one another, since they met: come_together */
};

struct cuda_device {
  const struct tl_device_ops *ops;
  const struct cuda_api *api;
  struct tl_device_options options;
  struct cuda_info info;
  const struct tl_model *model;
  struct cuda_group *group; /* NULL: alone */
  void *comm;               /* NULL: alone, or given up */
  unsigned n_came;          /* how often it has come together with the other ranks, since they met */
  bool recording;           /* a graph, so that comm must not be given up */
  struct tl_shard shard;    /* rank and size by open and join, the rest by load */
  uint32_t vocab_cuts[TL_MAX_RANKS + 1]; /* rank r has the tokens from [r] to [r + 1] */
  int dtype; /* T: enum tl_cuda_dtype */
  bool keeps_bytes; /* keys and values are E4M3 */
  int attend_dtype; /* of kernels that touch the cache: dtype, or the one of it with bytes */
  struct cuda_dims dims;
  struct cuda_limits limits;
  int64_t choose_ns;              /* CUDA_CHOOSE_NS from open on */
  size_t tile_bytes;              /* of stored weights that are written out in T at a time; CUDA_TILE_BYTES from open on */
  uint32_t window, chunk;         /* of the layers that have one; 0: none has. Not both */
  const struct tl_op *grows;      /* a record whose queries grow; NULL: none's do */
  struct cuda_order qk_order, v_order;
  struct cuda_order key_order, value_order; /* of layers that keep a state */
  struct cuda_op *plan;
  uint32_t n_plan;
  /* of models that have adapters: what the ops' `adapters` point to, one record after the other, and the same to be copied there */
  struct tl_cuda_adapter *adapters, *adapters_host;
  uint32_t n_adapted, ld_shrunk; /* records; the most ranks of any of them */
  struct cuda_products products;
  char *weights, *memory, *kv; /* three arenas */
  size_t weight_bytes, work_bytes, kv_bytes, layer_bytes; /* layer: K of one, or V */
  uint32_t n_kv_blocks;
  char *states; /* behind the KV cache: S of each such layer and state, then what convolutions keep (cuda_states.c) */
  uint32_t n_states;
  struct cuda_work work;
  struct cuda_step_data device;
  void *pinned;
  struct cuda_slot slots[2];
  void *stream, *done;
  struct cuda_graph graphs[4 * CUDA_MAX_BUCKETS];
  unsigned n_graphs;
  struct cuda_sdpa sdpa;
  /* the steps under way */
  unsigned n_under_way, oldest; /* oldest: of slots */
  struct cuda_step_data *host;  /* of the one that is being submitted */
  bool busy; /* something may still read the pinned memory */
  uint32_t resets_seen;
  /* shared: reset and interrupt raise it (release), submit and collect look (acquire) */
  _Atomic uint32_t resets;
  _Atomic bool interrupted; /* until a reset; written before resets is raised */
  _Atomic int dead; /* the error that no reset in this process mends, 0: none; only ever set, relaxed: read as a hint */
};

/* How one pass is run: a graph is a pass with fixed figures. */
struct cuda_pass {
  uint32_t n_tokens, n_rows; /* n_rows: wanted; of a model that pools, sequences */
  uint32_t n_decode;    /* rows that decode (tl_cuda_shape) */
  bool drafts;          /* of which a sequence may have several */
  uint32_t n_tiles, n_chunk_tiles;
  uint32_t n_runs;      /* of struct cuda_sdpa; 0: all tiles are for our own kernel */
  uint32_t table_width; /* entries of a block table that are copied */
  uint32_t n_adapter_tiles; /* 0: no row has an adapter */
  uint32_t n_stretches, n_conv_tiles; /* 0: no layer keeps a state */
  uint32_t n_chunks, n_long; /* of stretches that the delta rule treats by chunks */
  bool all_rows; /* the rows wanted are all of the pass, in order */
};

/* cuda_backend.c: r, from call `what`, as an error; notes whether it is for good. */
int cuda_failed(struct cuda_device *d, int r, const char *what, struct tl_error *err);
int cuda_is_dead(struct cuda_device *d, struct tl_error *err);
/* Until the event has been reached; an error: of CUDA, of the group, or the steps under way were given up. */
int cuda_wait_for(struct cuda_device *d, void *done, struct tl_error *err);
/* Tries the call and returns what it failed with. */
#define CUDA_TRY(d, call, what, err)                           \
  do {                                                         \
    int cuda_r_ = (call);                                      \
    if (cuda_r_) return cuda_failed((d), cuda_r_, (what), (err)); \
  } while (0)

static inline size_t cuda_round(size_t value, size_t to) {
  return (value + to - 1) / to * to;
}

/* Lays out one piece of memory: what it gives lies one behind the other, aligned. */
struct cuda_placer {
  char *base; /* NULL: only measures */
  size_t at;
};
static inline void *cuda_take_place(struct cuda_placer *p, size_t count, size_t bytes) {
  void *to = p->base ? p->base + p->at : NULL;
  p->at += cuda_round(count * bytes, CUDA_ALIGN);
  return to;
}
#define CUDA_TAKE_PLACE(p, field, count) ((field) = cuda_take_place((p), (count), sizeof *(field)))

/* cuda_plan.c: dims and the plan; TL_EUNSUPPORTED names what this backend cannot do. */
int cuda_make_plan(struct cuda_device *d, struct tl_error *err);
int cuda_refuse(const struct cuda_device *d, const char *what, struct tl_error *err);
/* cuda_weights.c: measures and places all weights from `base` (NULL: only measures), returns the bytes. */
size_t cuda_place_weights(struct cuda_device *d, char *base);
int cuda_load_weights(struct cuda_device *d, const struct tl_device_load *load, struct tl_error *err);
/* EXPERTS_UP or EXPERTS_DOWN, with the tensors of one expert, and how many matrices of it the record has. */
struct tl_op cuda_op_of_expert(const struct tl_op *op, uint32_t expert);
unsigned cuda_matrices_of_expert(const struct cuda_op *op);
uint32_t cuda_expert_row(const struct cuda_device *d, const struct cuda_op *op); /* what an expert reads, or makes */
/* cuda_stored.c: which weights stay as their file has them. The format of an input of a record whose matrix has k inputs here: TL_CUDA_W16 if no other can hold just what the file says.
 * *ret_order: in which its inputs are stored then (k), the model's; NULL: as they are. */
int cuda_format_of(const struct cuda_device *d, const struct tl_op *op, unsigned input, uint32_t k, const uint32_t **ret_order);
size_t cuda_row_bytes(int format, uint32_t k);    /* of an output's weights */
size_t cuda_scales_bytes(int format, uint32_t k); /* and of its scales; 0: there are none */
struct cuda_part;
/* A row of the part's tensor; to: cuda_row_bytes, cuda_scales_bytes of the part's columns. */
void cuda_store_codes(const struct cuda_part *part, uint64_t row, char *to);
void cuda_store_scales(const struct cuda_part *part, uint64_t row, char *to);

/* cuda_upload.c: a part of a tensor to a part of a matrix on the device. */
enum cuda_part_kind { CUDA_PART_T, CUDA_PART_FLOATS, CUDA_PART_CODES, CUDA_PART_SCALES, CUDA_PART_ORDER };
struct cuda_part {
  enum cuda_part_kind kind;
  int format;    /* CODES, SCALES */
  const struct tl_tensor *tensor;
  uint64_t row, n_rows, column, n_columns; /* of the tensor as (rows, columns); one dimension: one row */
  const struct cuda_order *order; /* rows (one dimension: columns) are whole heads, counted as padded; NULL: as they are */
  char *to;
  size_t pitch;  /* bytes from row to row */
  float plus;    /* FLOATS: added */
};
int cuda_upload(struct cuda_device *d, const struct cuda_part *parts, unsigned n_parts, const struct tl_device_load *load,
                struct tl_error *err);
/* cuda_memory.c: limits, arenas, cache. */
int cuda_make_memory(struct cuda_device *d, const struct tl_device_load *load, struct tl_error *err);
/* What was made in pinned memory, which is freed, to its place on the device; waits for it. */
int cuda_copy_table(struct cuda_device *d, void *pinned, size_t bytes, void *to, const char *what, struct tl_error *err);
void cuda_free_memory(struct cuda_device *d);
/* On the stream: what steps count with back to zeros, as the first one wants it, and each that ends leaves it. */
int cuda_clear_counters(struct cuda_device *d, struct tl_error *err);
/* cuda_product.c */
void cuda_choose_buckets(struct cuda_products *products, uint32_t max_rows);
/* The number of the shape (its n, k, ld, parts, float_out, e4m3), which is noted if it is new; CUDA_MAX_PRODUCTS: there are too many. */
unsigned cuda_product_of(struct cuda_products *products, const struct cuda_product *shape);
int cuda_make_products(struct cuda_device *d, struct tl_error *err);
void cuda_free_products(struct cuda_device *d);
/* r, from cuBLASLt. */
int cuda_lt_failed(struct cuda_device *d, int r, const char *what, struct tl_error *err);
/* For the next product whose scales cuBLASLt applies: those of the outputs, and row_scales. */
int cuda_set_scales(struct cuda_device *d, const char *scales);
/* y (m, n) = x W^T this way, before scales are applied to it; scales: of the outputs, for E4M3. cuBLASLt's own status. */
int cuda_matmul(struct cuda_device *d, const struct cuda_product *p, const struct cuda_way *way, const char *w, const char *scales,
                uint64_t m, const char *x, void *y);
/* What who reads y has to do, of a matrix that `leaves` it. */
struct tl_cuda_rest cuda_rest_of(const struct cuda_device *d, const struct cuda_product *p, const struct cuda_way *way, const char *scales,
                                 const void *y);
/* The same for other matrices: of a product that is CUDA_THEN_SCALED. */
int cuda_scale_sums(struct cuda_device *d, const struct cuda_product *p, const char *scales, uint32_t m, void *y);
/* cuda_choose.c: for every shape and bucket that may be asked for. Weights are loaded, work memory is anybody's up to scratch_bytes. */
int cuda_choose_algorithms(struct cuda_device *d, void *preference, struct tl_error *err);
/* y (m, n) = x W^T, and + bias if that is not NULL. */
int cuda_run_product(struct cuda_device *d, const struct cuda_matrix *w, const float *bias, uint32_t m, const char *x,
                     void *y, struct tl_error *err);
/* The same; *ret_left: what is still to be done of y, before anything else is rounded to E4M3, if the matrix leaves that. */
int cuda_run_leaving(struct cuda_device *d, const struct cuda_matrix *w, const float *bias, uint32_t m, const char *x, void *y,
                      struct tl_cuda_rest *ret_left, struct tl_error *err);
/* Whether a product of so many rows is by E4M3 alone: then its x may be what was rounded as it was made, in work.tile and work.row_scales. */
bool cuda_wants_e4m3(const struct cuda_device *d, const struct cuda_matrix *w, uint32_t m);
/* Whether a gated unit's product of so many rows is one kernel, which cuda_run_gated launches: y (m, n / 2). */
bool cuda_gates_itself(const struct cuda_device *d, const struct cuda_matrix *w, uint32_t m);
int cuda_run_gated(struct cuda_device *d, const struct cuda_matrix *w, int gate, uint32_t m, const char *x, char *y,
                   struct tl_error *err);
/* Whether a product of so many rows can norm them itself, as cuda_run_normed does, of which norm says all but the product: y (m, n), with a gate (m, n / 2). */
bool cuda_norms_itself(const struct cuda_matrix *w, uint32_t m);
int cuda_run_normed(struct cuda_device *d, const struct cuda_matrix *w, const float *bias, int gate, struct tl_cuda_normed_args *norm,
                    uint32_t m, char *y, struct tl_error *err);
/* cuda_step.c */
int cuda_submit(struct cuda_device *d, const struct tl_step *step, struct tl_error *err);
int cuda_run_pass(struct cuda_device *d, const struct cuda_pass *pass, struct tl_error *err);
/* A stage of the draws from the rows [row, end) of logits, whose lists are on the device. */
int cuda_draw(struct cuda_device *d, uint32_t row, uint32_t end, enum tl_cuda_sample_stage stage, struct tl_error *err);
int cuda_copy_step(struct cuda_device *d, uint32_t n_seqs, const struct cuda_pass *pass, struct tl_error *err); /* what was staged */
/* What both kinds of attention of an ATTEND record are told. */
struct tl_cuda_attention cuda_attention_of(const struct cuda_device *d, const struct cuda_op *op);
/* cuda_mixture.c: the records of a mixture of experts. */
int cuda_route(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err);
int cuda_experts_up(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err);
int cuda_experts_latent(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err);
int cuda_experts_down(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err);
/* The entries' sum into delta, or, with a row gate, on top of the rest of it. Of each rank its part. */
int cuda_mix(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err);
/* cuda_latent.c: multi-head latent attention. Sizes, beside cuda_dims' others; TL_EUNSUPPORTED names what no kernel does. */
int cuda_latent_dims(struct cuda_device *d, struct tl_error *err);
/* The record of the plan that rotates what LATENT_NORM leaves: behind it, but for one; NULL: none does. */
const struct tl_op *cuda_latent_rope(const struct tl_op *norm, const struct tl_op *end);
bool cuda_latent_may_follow(const struct cuda_op *before, const struct cuda_op *op);
/* Of LATENT_ABSORB and LATENT_VALUE: the heads' matrices one behind the other. */
void cuda_latent_shape(const struct cuda_device *d, struct cuda_op *op);
int cuda_latent(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err);
/* cuda_states.c: layers that keep a state, and the gate of attention. Sizes; TL_EUNSUPPORTED names what no kernel does. */
int cuda_state_dims(struct cuda_device *d, struct tl_error *err);
bool cuda_state_may_follow(const struct cuda_op *before, const struct cuda_op *op);
bool cuda_scans(const struct cuda_op *delta); /* by Mamba 2's rule */
bool cuda_norms_spread_heads(const struct cuda_device *d, const struct cuda_op *op); /* of a key head that several ranks have */
/* Of CONV and SHORT_CONV: the factors of each channel, in T. */
void cuda_conv_shape(const struct cuda_device *d, struct cuda_op *op);
size_t cuda_state_bytes(const struct cuda_device *d); /* of one state, of all layers; 0: there are none */
/* How many states get part of the room that there is for them and for blocks of keys and values of so many bytes, of which a context needs
 * so many. */
uint32_t cuda_count_states(const struct cuda_device *d, const struct tl_device_load *load, size_t room, size_t block_bytes, size_t n_least);
/* Numbers of a row that the records' products, and the records, make at most. */
size_t cuda_widest_in(const struct cuda_device *d);
size_t cuda_widest_made(const struct cuda_device *d);
int cuda_keep(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, const char *h, struct tl_error *err);
char *cuda_keys_of(const struct cuda_device *d, const struct cuda_op *op); /* where a layer's begin */
/* Of decode attention: for layers that see all, and for those that do not, if there are such. */
static inline unsigned cuda_n_lists(const struct cuda_device *d) {
  return d->window || d->chunk ? 2 : 1;
}
/* cuda_encode.c: models that pool. A step's keys and values lie in blocks of one layer that all layers use in turn. */
static inline bool cuda_pools(const struct cuda_device *d) {
  return d->model->pooling != TL_POOL_NONE;
}
uint32_t cuda_n_places(const struct cuda_device *d); /* blocks that any step can need */
/* The step into pinned memory; fills *ret. */
void cuda_stage_texts(struct cuda_device *d, const struct tl_step *step, struct cuda_pass *ret);
int cuda_place(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err);
int cuda_up(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err);
int cuda_pool(struct cuda_device *d, const struct cuda_pass *pass, struct tl_error *err);
int cuda_dense(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err);
/* The n vectors to `to` (n, n_out), pinned; with length 1 if the model wants that. */
int cuda_give_vectors(struct cuda_device *d, uint32_t n, float *to, struct tl_error *err);
/* cuda_adapters.c. Makes adapters_host; TL_ENOMEM. Behind the plan, of a model that has adapters; the others do nothing without. */
int cuda_make_adapters(struct cuda_device *d, struct tl_error *err);
void cuda_free_adapters(struct cuda_device *d);
/* Behind the weights. */
void cuda_place_adapters(struct cuda_device *d, struct cuda_placer *p);
/* Gives `add` all parts of A and B; false: that did not take one. */
bool cuda_adapter_parts(struct cuda_device *d, bool (*add)(void *list, struct cuda_part part), void *list);
int cuda_load_adapters(struct cuda_device *d, struct tl_error *err); /* the table, once all is placed */
/* Whose rows are whose, into pinned memory; fills that part of *pass. Behind the step's tiles are empty ones, for a graph of n_padded rows. */
void cuda_stage_adapters(struct cuda_device *d, const struct tl_step *step, uint32_t n_padded, struct cuda_pass *pass);
/* The most tiles that so many rows can be: as many a graph runs. */
uint32_t cuda_graph_tiles(const struct cuda_device *d, uint32_t n_rows);
/* Whether op's products have something added to them in this pass: then they are computed plainly, of rows in T. */
static inline bool cuda_adapts(const struct cuda_op *op, const struct cuda_pass *pass) {
  return op->adapters && pass->n_adapter_tiles;
}
/* y (tokens, w.ld) += what adapters make of x (tokens, w.k). */
int cuda_adapt(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, const char *x, char *y, struct tl_error *err);
/* cuda_stage.c: the step, of that shape, into pinned memory; fills *ret. */
struct tl_cuda_shape;
void cuda_stage_step(struct cuda_device *d, const struct tl_step *step, const struct tl_cuda_shape *shape, uint32_t n_padded,
                     struct cuda_pass *ret);
/* As many sampling rows from `row` on as lists have room for, with what they draw to go to `to`; returns the row after them. */
uint32_t cuda_stage_sampling(struct cuda_device *d, const struct tl_step *step, struct tl_sampled *to, uint32_t row, struct cuda_lists *ret);
/* cuda_sdpa_choose.c */
/* Finds out, with all else loaded, where cuDNN is right and the faster one. It need not be there; errors are CUDA's. */
int cuda_make_sdpa(struct cuda_device *d, struct tl_error *err);
/* cuda_sdpa.c */
/* A layer whose attention has nothing that cuDNN's graph lacks. */
bool cuda_sdpa_suits(const struct cuda_op *op);
void cuda_free_sdpa(struct cuda_device *d);
/* "cuDNN 9.19.0", or "" if it is not used. */
void cuda_name_sdpa(const struct cuda_device *d, char *ret, size_t size);
/* Cuts the step's prompts into runs. */
void cuda_stage_sdpa(struct cuda_device *d, const struct tl_step *step, struct cuda_pass *pass);
int cuda_attend_prompts(struct cuda_device *d, const struct cuda_op *op, const struct tl_cuda_attention *a,
                        const struct cuda_pass *pass, struct tl_error *err);
/* cuda_group.c */
/* Makes the communicator with the other ranks, who do so at the same time. */
int cuda_meet(struct cuda_device *d, struct tl_error *err);
/* Runs collectives of all sizes that a step may have, for what NCCL sets up when it first meets each; waits so long for the other
 * ranks to come here. Alone: nothing to do. */
int cuda_rehearse(struct cuda_device *d, int64_t patience_ns, struct tl_error *err);
/* Leaves it, whatever runs in it, without its graphs. Alone: nothing to do. */
void cuda_part_ways(struct cuda_device *d);
/* An error if the group was given up, or NCCL has one: then the rank has left it. */
int cuda_look_at_group(struct cuda_device *d, struct tl_error *err);
/* p (count), of T and of floats: the sum over all ranks, for all, to the bit. Alone: nothing to do. */
int cuda_all_reduce(struct cuda_device *d, char *p, size_t count, struct tl_error *err);
int cuda_sum_floats(struct cuda_device *d, float *p, size_t count, struct tl_error *err);
/* Each rank gets the logits of n rows, which each has of its part of the vocabulary. */
int cuda_gather_logits(struct cuda_device *d, uint32_t n, struct tl_error *err);
/* cuda_graph.c */
int cuda_make_graphs(struct cuda_device *d, struct tl_error *err);
void cuda_free_graphs(struct cuda_device *d);
/* The smallest for so many rows, or NULL. */
const struct cuda_graph *cuda_find_graph(const struct cuda_device *d, uint32_t n_rows, struct cuda_graph_kind kind);

#endif
