/* SPDX-License-Identifier: MIT */
/* A model as files describe it, made once and then immutable: hyperparameters,
 * tensors in mapped files, and the plan: the forward pass as a flat array of
 * records that every backend interprets. A new architecture is a new table row
 * in src/model that makes a plan; no backend is edited for it. */
#ifndef TOKENLANE_MODEL_H
#define TOKENLANE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenlane/base/error.h"
#include "tokenlane/tensor.h"

/* What one record does. x is the residual stream (n_tokens, dim), h a scratch
 * row of the same size, q/k/v/a attention rows, m the MLP's inner row; all are
 * float on the CPU backend. W of a projection is (outputs, inputs). */
enum tl_op_kind {
  TL_OP_EMBED,    /* x = weight[0][token] */
  TL_OP_RMSNORM,  /* h = x / rms(x, eps) * weight[0] */
  TL_OP_QKV,      /* q,k,v = h W^T + b; weight[0..2], bias[0..2]; weight[1] -1: there is q alone */
  TL_OP_ROPE,     /* rotates q and k by position, halves layout (rotate_half) */
  TL_OP_ATTEND,   /* stores k,v in the layer's KV slots; a = softmax(q k^T * scale) v, causal */
  TL_OP_ATTN_OUT, /* x += a W^T + b; weight[0], bias[0] */
  TL_OP_GATED_UP, /* m = silu(h W0^T + b0) * (h W1^T + b1) */
  TL_OP_MLP_DOWN, /* x += m W^T + b; weight[0], bias[0] */
  TL_OP_LOGITS,   /* on the rows wanted: logits = h W^T + b; weight[0] (vocab, dim), bias[0] */
  TL_OP_COPY,     /* h = x: in place of a norm where there is none */
  TL_OP_QK_NORM,  /* each head of q and k: / its rms * weight[0] and weight[1] (head_dim) */
  TL_OP_NORM_ADD, /* x += h / rms(h, eps) * weight[0] */
  /* A mixture of n_experts: ROUTE chooses n_chosen of them for each row, and the two behind it compute with
   * those. Their weight[i] and bias[i] are the first of n_experts tensors one behind the other. */
  TL_OP_ROUTE,        /* scores = h W^T + b; the best n_chosen, shares = softmax(scores) over all experts; times factor, and weight[1][expert] if it is not -1 */
  TL_OP_EXPERTS_UP,   /* of each chosen expert: m = silu(h W0^T + b0) * (h W1^T + b1); with RELU2 that of h W0^T, and there is no weight[1] */
  TL_OP_EXPERTS_DOWN, /* x += sum over the chosen of share * (m W0^T + b0), the best first */
  TL_OP_ROW_GATE,     /* m *= sigmoid(h . weight[0]), if it is not -1: GATED_UP's or UP's m, of an expert that all rows have */
  /* Multi-head latent attention (DeepSeek-V2, 2024): what is kept of a token is c, one row of n_latent numbers of which all heads make
   * their keys and values, and behind it one rotated key for all heads: head_dim numbers together. */
  TL_OP_LATENT,        /* q, c = h W^T + b; weight[0..1]. LOW_RANK: t, c, and LATENT_QUERY makes q of t */
  TL_OP_LATENT_NORM,   /* t and c's latent: / its rms * weight[0], -1: there is no t, and weight[1]; with GROWS t as q of ATTEND */
  TL_OP_LATENT_QUERY,  /* q = t W^T; weight[0] */
  TL_OP_LATENT_ROPE,   /* rotates the last n_rotated of each head of q, and of c */
  /* Each head of q becomes one that meets c: w = W of its first n_nope numbers, then its rotated ones. weight[0] is the first of
   * n_heads tensors one behind the other, (n_latent, n_nope), or with TURNED (n_nope, n_latent). */
  TL_OP_LATENT_ABSORB,
  TL_OP_LATENT_ATTEND, /* stores c in the layer's KV slots; of each head w = softmax(w c^T * scale) times the latents, causal */
  TL_OP_LATENT_VALUE,  /* of each head a = W w; weight[0]: the first of n_heads, (n_value, n_latent) */
  /* Layers that keep a state of fixed size in place of keys and values: linear attention by the gated delta rule (Yang et al. 2024,
   * "Gated Delta Networks"), and short convolutions. u is a row of tl_recurrence.n_channels numbers, z one of n_value_heads * value_dim,
   * b and c one of n_value_heads each. `layer` of CONV and DELTA counts the layers with a state alone, as that of ATTEND counts those with
   * keys and values. */
  TL_OP_DELTA_IN,    /* u = h W^T: queries, keys, values of all heads one behind the other; weight[0..2]. Mamba 2's C, B, x */
  TL_OP_DELTA_GATES, /* z = h W0^T, b = h W1^T, c = h W2^T, -1: there is no c */
  TL_OP_CONV,        /* u = silu(sum over j < conv of weight[i][channel][j] * u of conv - 1 - j rows before + bias[i]); weight[0..2] as those of DELTA_IN */
  /* Of each value head, q / |q| / sqrt(key_dim) and k / |k| (1e-6 is added to the squares) of its key head: S *= exp(-exp(weight[0]) *
   * softplus(c + weight[1])), S += k (sigmoid(b) (v - S^T k))^T, a = S^T q. weight[0..1]: (n_value_heads), floats. Value heads one behind
   * the other share a key head; with TURNED those n_key_heads apart. */
  TL_OP_DELTA,
  /* State-space duality (Dao and Gu 2024, "Mamba-2"). Of each value head, q and k as they are, t = softplus(b + weight[1]): S *=
   * exp(-exp(weight[0]) * t), S += k (t v)^T, a = S^T q + weight[2] * v. weight[0..2]: (n_value_heads), floats. `layer` as of DELTA. */
  TL_OP_SCAN,
  TL_OP_GATED_NORM,  /* of each value head a = a / its rms * weight[0] * silu(z); weight[0]: (value_dim), with GATE_FIRST of all value heads */
  TL_OP_GATE_IN,     /* z = h W^T; weight[0]: of attention whose heads are gated, n_heads * head_dim */
  TL_OP_GATE,        /* a *= sigmoid(z) */
  TL_OP_SHORT_IN,    /* u = (h W0^T) * (h W2^T), z = h W1^T: LFM2's B, C, x; weight[0..2], bias[0..2] */
  TL_OP_SHORT_CONV,  /* a = z * (sum over j < conv of weight[0][channel][j] * u of conv - 1 - j rows before + bias[0]); LFM2 */
  /* What Gemma 3n and 4 give each layer of a token beside x: p is a row of tl_model.n_layers times tl_model.n_beside numbers. */
  TL_OP_BESIDE,      /* p = weight[0][token] */
  TL_OP_BESIDE_MIX,  /* p += W0 h / rms * weight[1] of each layer's numbers alone; then times factor */
  TL_OP_BESIDE_GATE, /* m *= layer's numbers of p: UP's m */
  /* Two blocks that read the same x and are added before a norm: s is a row as h. */
  TL_OP_ASIDE,       /* s = h / rms(h, eps) * weight[0] */
  TL_OP_JOIN,        /* h = h / rms(h, eps) * weight[0] + s */
  /* Of encoders and other pooling models. v is a sequence's vector: the embedding as it is made. */
  TL_OP_EMBED_PLACE,  /* x += weight[0][position] + weight[1][token type, 0 if it has no row]; -1: that one is not there */
  TL_OP_UP,           /* m = gelu(h W^T + b), by erf; decoders have it, too */
  TL_OP_POOL,         /* v of tl_model.pooling = of the sequence's rows of h; (dim) */
  TL_OP_DENSE,        /* v = v W^T + b; weight[0], bias[0] */
  TL_OP_VECTOR_NORM,  /* v = (v - mean) / deviation * weight[0] + bias[0] */
  TL_OP_EXPERTS_IN,   /* v = h W^T: what the layer's experts read in place of h, and make in place of x */
  TL_OP_EXPERTS_OUT,  /* x += v W^T */
};

/* What a record does other than its kind says. A backend has to refuse a record with one that it
 * does not know; without any, the fields behind `eps` mean nothing. Those of records of different kinds may be one bit. */
enum tl_op_feature {
  TL_F_LAYER_NORM = 1 << 0,  /* RMSNORM: (x - mean) / deviation * weight[0] + bias[0], whose bias may be -1; QK_NORM: of each head */
  TL_F_PLUS_ONE = 1 << 1,    /* norms: weight + 1 in place of weight */
  TL_F_EACH_HEAD = 1 << 18,  /* QK_NORM: each head has weights of its own, one behind the other */
  TL_F_WHOLE_ROW = 1 << 2,   /* QK_NORM: one rms over all heads of q, one over those of k */
  TL_F_INTERLEAVED = 1 << 3, /* ROPE: pairs are (2 i, 2 i + 1) */
  TL_F_PARTIAL = 1 << 4,     /* ROPE: only the first tl_model.n_rotated dimensions of a head */
  TL_F_LOCAL = 1 << 5,       /* ROPE: by inv_freq_local */
  TL_F_GELU_TANH = 1 << 6,   /* GATED_UP, EXPERTS_UP: gelu by tanh in place of silu; UP: of that by erf */
  TL_F_TO_H = 1 << 7,        /* ATTN_OUT, MLP_DOWN, EXPERTS_DOWN: h = in place of x += */
  TL_F_FACTOR = 1 << 8,      /* EMBED, LOGITS, and what is added to x: times factor; ROPE: cos and sin; ROUTE: shares; NORM_ADD: the sum; BESIDE */
  TL_F_SOFTCAP = 1 << 9,     /* ATTEND's scores, LOGITS: v = softcap * tanh(v / softcap) */
  TL_F_WINDOW = 1 << 10,     /* ATTEND: only the last `window` positions, its own among them */
  TL_F_BOTH_SIDES = 1 << 11, /* ATTEND: later positions too, with WINDOW those less than `window` away on either side */
  TL_F_IN_PLACE = 1 << 12,   /* RMSNORM: x = h too */
  TL_F_GELU = 1 << 13,       /* GATED_UP: gelu by erf in place of silu; DENSE: gelu by erf of v */
  TL_F_TANH = 1 << 14,       /* DENSE: tanh of v */
  TL_F_CHOICE = 1 << 15,     /* ROUTE: shares are of scores without b, those with the best shares + b are chosen */
  TL_F_RELU2 = 1 << 16,      /* UP, EXPERTS_UP: the square of what is above 0, in place of gelu, or of a gate */
  TL_F_RELU = 1 << 30,       /* UP: what is above 0, in place of gelu */
  TL_F_XIELU = 1 << 22,      /* UP: factor v v + softcap v above 0, else limit (expm1(min(v, eps)) - v) + softcap v; the bit is CLAMPED's, of other kinds */
  TL_F_SHARE_IN = 1 << 17,   /* EXPERTS_UP: of share * h; EXPERTS_DOWN: shares are 1 */
  TL_F_GATE_FIRST = 1 << 19, /* GATED_NORM: of the value heads of each key head together, a *= silu(z), then a / its rms * weight[0] */
  TL_F_SINKS = 1 << 20,      /* ATTEND: weight[0] (n_heads): one more score of each query head, of a position without a value */
  TL_F_NORMALIZED = 1 << 21, /* ROUTE: shares are divided by their sum */
  TL_F_SIGMOID = 1 << 23,    /* ROUTE: shares = sigmoid(h W^T), those with the best shares + b are chosen */
  TL_F_LOW_RANK = 1 << 24,   /* LATENT: weight[0] makes what queries are made of; EXPERTS_UP: of v in place of h; EXPERTS_DOWN: v = in place of x += */
  TL_F_TURNED = 1 << 25,     /* LATENT_ABSORB: weight[0] is stored by inputs; DELTA: value heads n_key_heads apart share a key head */
  TL_F_GROUPED = 1 << 26,    /* ROUTE: chooses from the experts of some groups alone */
  TL_F_MIXED = 1 << 29,      /* ROUTE: a share is of a softmax over those that are not chosen before and less than limit * max(|s|, best) below */
  TL_F_CHUNKED = 1 << 27,    /* ATTEND: only positions of its own chunk, of `window` positions each */
  TL_F_GROWS = 1 << 28,      /* ATTEND, LATENT_NORM: q, or t, is times tl_op_growth(position) */
  TL_F_WIDE = TL_F_RELU,     /* QKV, QK_NORM, ROPE, ATTEND: heads are those of tl_model.wide */
  TL_F_LENT = TL_F_RELU2,    /* QK_NORM, ROPE, ATTEND: of q alone; k and v are those that an earlier record stored in the layer's slots */
  TL_F_VALUES = TL_F_CHOICE, /* QK_NORM: each head of v: / its rms */
  TL_F_CLAMPED = 1 << 22,    /* EXPERTS_UP: m = g sigmoid(1.702 g) (u + 1), g = min(gate, limit), |u| <= limit */
};

#define TL_OP_INPUTS 3

/* q is times 1 + rate * log(1 + steps), and so many steps are behind it: (position + shift) / every, rounded down. */
struct tl_growth {
  float rate;
  uint32_t every, shift;
};

struct tl_op {
  enum tl_op_kind kind;
  uint32_t layer;                /* for ATTEND: which layer's KV; CONV, DELTA, SCAN: which state */
  int32_t weight[TL_OP_INPUTS];  /* index into tl_model.tensors, -1: none */
  int32_t bias[TL_OP_INPUTS];    /* likewise */
  float scale;                   /* ATTEND: score factor */
  float eps;                     /* norms */
  uint32_t features;             /* of enum tl_op_feature */
  float factor, softcap, limit;
  uint32_t window;
  struct tl_growth growth;       /* GROWS */
  uint32_t n_experts, n_chosen;  /* ROUTE and EXPERTS_*, 0 of others */
  /* ROUTE with GROUPED: groups of one size, and how many are chosen from: those with the best score, with SIGMOID the best sum of two. */
  uint32_t n_groups, n_groups_chosen;
  uint32_t n_heads;              /* LATENT_ABSORB and LATENT_VALUE, 0 of others */
};
/* GROWS: what q is multiplied with; 1 as far as models were trained without it. rope.c */
float tl_op_growth(const struct tl_op *op, uint32_t position);
/* Of models with layers that keep a state; n_layers 0: none of it. A sequence's state is, of each such layer, S of each value head
 * (key_dim, value_dim) in floats of 32 bits, and the last conv - 1 rows of u before CONV. A backend lays it out as it likes. */
struct tl_recurrence {
  uint32_t n_layers;               /* with a state */
  uint32_t n_key_heads, n_value_heads, key_dim, value_dim; /* 0: no S, as of LFM2 */
  uint32_t n_channels, conv;       /* a row of u; rows that CONV looks at, its own among them */
};

/* How many tensors weight[i], or bias[i], of a record stands for. */
static inline uint32_t tl_op_n_tensors(const struct tl_op *op) {
  if (op->kind == TL_OP_LATENT_ABSORB || op->kind == TL_OP_LATENT_VALUE) return op->n_heads;
  return op->kind == TL_OP_EXPERTS_UP || op->kind == TL_OP_EXPERTS_DOWN ? op->n_experts : 1;
}

#define TL_MAX_EOS 16

/* What generation_config.json suggests; a negative value says nothing. */
struct tl_generation_defaults {
  float temperature, top_p, min_p, repetition_penalty;
  int32_t top_k;
};

/* What a model that does not generate makes of the rows of a sequence. */
enum tl_pooling {
  TL_POOL_NONE,  /* it generates tokens */
  TL_POOL_FIRST, /* the first token's row ([CLS]) */
  TL_POOL_MEAN,
  TL_POOL_LAST,
  TL_POOL_MAX,       /* of each number the largest that a row has */
  TL_POOL_MEAN_SQRT, /* the sum of the rows / the root of their number */
  TL_POOL_WEIGHTED,  /* the mean with row i weighted by i + 1 */
};

struct tl_adapter; /* adapter.h */

/* Heads of some layers, as tl_model has them for the others. */
struct tl_heads {
  uint32_t dim, n_kv;
};

struct tl_model {
  const char *architecture; /* "llama" */
  uint32_t dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size;
  /* Latent attention, 0: none. A token's row in the cache is head_dim numbers, of which the first n_latent are the value, too, and
   * n_kv_heads is 1; queries' heads are n_nope + n_rotated long, what attention makes of a head n_value. */
  uint32_t n_latent, n_nope, n_value;
  struct tl_heads wide;        /* of records with TL_F_WIDE; dim 0: there are none. All dimensions are rotated, by inv_freq */
  uint32_t n_beside;           /* numbers of a layer's part of p; 0: there is none */
  struct tl_recurrence recurrence;
  uint32_t n_kv_layers;        /* layers with keys and values of their own: n_layers but for those with a state, and those that are lent some */
  uint32_t n_experts;          /* of a layer that has some; 0: no layer has */
  uint32_t max_context;        /* max_position_embeddings */
  enum tl_dtype weight_dtype;  /* of most weights */
  enum tl_dtype dtype;         /* the same if those are floats, else F16: what keys and values are kept in */
  uint32_t n_rotated;          /* dimensions of a head that are rotated: head_dim, unless ROPE has TL_F_PARTIAL */
  const float *inv_freq;       /* (n_rotated / 2, with `wide` its dim / 2) rope angles per position, scaling applied */
  const char *quantized;       /* what tl_model_quantize was asked for, a literal; NULL: the weights are as in the files */
  const float *inv_freq_local; /* (n_rotated / 2) likewise, for ROPE with TL_F_LOCAL; NULL: none has it */
  const struct tl_tensor *tensors;
  uint32_t n_tensors;
  const struct tl_op *plan;
  uint32_t n_ops;
  uint64_t n_parameters;
  uint64_t weight_bytes;
  uint32_t n_eos;
  int32_t eos[TL_MAX_EOS];     /* ids that end a sequence */
  struct tl_generation_defaults defaults;
  /* A pooling model (an embedder or a cross-encoder) makes one vector of a sequence, which is computed whole in one step,
   * without KV blocks. */
  enum tl_pooling pooling;
  uint32_t n_out;              /* numbers of its vector: the embedding's, or the labels'; 0 with TL_POOL_NONE */
  bool is_classifier;          /* the vector holds logits of labels, not an embedding */
  bool normalize;              /* the vector is divided by its length, by the device */
  const struct tl_adapter *adapters; /* (n_adapters) what sequences may ask for beside the model itself */
  uint32_t n_adapters;
};

/* The heads of a record QKV, QK_NORM, ROPE or ATTEND. */
static inline struct tl_heads tl_op_heads(const struct tl_model *model, const struct tl_op *op) {
  return op->features & TL_F_WIDE ? model->wide : (struct tl_heads){model->head_dim, model->n_kv_heads};
}

/* The numbers of a head that ROPE turns. */
static inline uint32_t tl_op_n_rotated(const struct tl_model *model, const struct tl_op *op) {
  return op->features & TL_F_WIDE ? model->wide.dim : model->n_rotated;
}

/* Of each head: what attention makes and ATTN_OUT reads. */
static inline uint32_t tl_model_value_dim(const struct tl_model *model) {
  return model->n_latent ? model->n_value : model->head_dim;
}

/* Reads a Hugging Face folder (config.json, generation_config.json (optional), *.safetensors: one, or
 * several with model.safetensors.index.json) or a .gguf file, the first one of a split model.
 * Maps the weights, checks every offset and shape against file and plan. Boot; the
 * caller frees. Errors name the file and the key or tensor. */
int tl_model_load(const char *path, struct tl_model **ret, struct tl_error *err);
/* As tl_model_load, but without weights, which need not be there: no tensors, no
 * plan, and dtype says nothing. For devices that do not compute. */
int tl_model_load_config(const char *path, struct tl_model **ret, struct tl_error *err);
/* Has the matrices of products that are floats become "q8_0", "q4_0" or "q4_k" when a device copies
 * them; those whose rows are not whole blocks become Q8_0 or stay, the output's becomes Q8_0.
 * Boot, before a device loads the model. */
int tl_model_quantize(struct tl_model *model, const char *format, struct tl_error *err);
/* The i-th architecture that is known: what config.json calls it, and its short name; false: there are
 * not so many. *ret_gguf: GGUF files of it are read too. Any thread. */
bool tl_model_supported(uint32_t i, const char **ret_class, const char **ret_name, bool *ret_gguf);
/* TL_EIO when a file became shorter while it was read: where it ended, zeros were read. To be
 * asked when the weights are copied, before the files are released. */
int tl_model_check_files(const struct tl_model *model, struct tl_error *err);
/* Unmaps the weight files: after the devices have loaded, tensors[].data is NULL. */
void tl_model_release_files(struct tl_model *model);
void tl_model_free(struct tl_model *model);

/* --- GGUF's metadata, for rooms that read other keys of it ----------------------------------- */
struct tl_gguf;
struct tl_gguf_list { /* a list's items that are still to be read; borrowed from the file */
  uint64_t n_left;
  uint32_t type;
  const uint8_t *at, *end;
};

bool tl_gguf_is_path(const char *path); /* by its ending */

/* An error when the file is what a clone without Git LFS has in its place; name is for the message. TL_OK also
 * for one that cannot be read. absent.c */
int tl_lfs_check(const char *path, const char *name, struct tl_error *err);
/* Maps the file and checks its metadata. The caller closes. What the functions below return
 * lives until then. Any thread, once open. */
int tl_gguf_open(const char *path, struct tl_gguf **ret, struct tl_error *err);
void tl_gguf_close(struct tl_gguf *gguf);
/* False: there is no such key, or it has another type. Texts have no NUL at their end. */
bool tl_gguf_integer(const struct tl_gguf *gguf, const char *key, int64_t *ret); /* also of bool */
bool tl_gguf_number(const struct tl_gguf *gguf, const char *key, double *ret);
bool tl_gguf_text(const struct tl_gguf *gguf, const char *key, const char **ret, size_t *ret_length);
bool tl_gguf_list(const struct tl_gguf *gguf, const char *key, struct tl_gguf_list *ret);
/* The next item; false: none is left, or it is of another kind. */
bool tl_gguf_next_text(struct tl_gguf_list *list, const char **ret, size_t *ret_length);
bool tl_gguf_next_number(struct tl_gguf_list *list, double *ret);

#endif
