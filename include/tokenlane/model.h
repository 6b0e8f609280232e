/* SPDX-License-Identifier: MIT */
/* A model as files describe it, made once and then immutable: hyperparameters,
 * tensors in mapped files, and the plan: the forward pass as a flat array of
 * records that every backend interprets. A new architecture is a new table row
 * in src/model that makes a plan; no backend is edited for it. */
#ifndef TOKENLANE_MODEL_H
#define TOKENLANE_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "tokenlane/base/error.h"

enum tl_dtype { TL_DTYPE_F32, TL_DTYPE_F16, TL_DTYPE_BF16 };
size_t tl_dtype_bytes(enum tl_dtype dtype);
const char *tl_dtype_name(enum tl_dtype dtype);
/* Columns of a row that share a scale and cannot be cut apart: a power of two, 1 for floats. */
uint32_t tl_dtype_block(enum tl_dtype dtype);

/* A tensor in a mapped file, row-major. */
struct tl_tensor {
  const char *name;
  enum tl_dtype dtype;
  uint32_t n_dims;
  uint64_t shape[4];
  const void *data; /* any alignment; valid until tl_model_release_files */
  size_t bytes;     /* product of shape times element size, checked against the file */
};

/* What one record does. x is the residual stream (n_tokens, dim), h a scratch
 * row of the same size, q/k/v/a attention rows, m the MLP's inner row; all are
 * float on the CPU backend. W of a projection is (outputs, inputs). */
enum tl_op_kind {
  TL_OP_EMBED,    /* x = weight[0][token] */
  TL_OP_RMSNORM,  /* h = x / rms(x, eps) * weight[0] */
  TL_OP_QKV,      /* q,k,v = h W^T + b; weight[0..2], bias[0..2] */
  TL_OP_ROPE,     /* rotates q and k by position, halves layout (rotate_half) */
  TL_OP_ATTEND,   /* stores k,v in the layer's KV slots; a = softmax(q k^T * scale) v, causal */
  TL_OP_ATTN_OUT, /* x += a W^T + b; weight[0], bias[0] */
  TL_OP_GATED_UP, /* m = silu(h W0^T + b0) * (h W1^T + b1) */
  TL_OP_MLP_DOWN, /* x += m W^T + b; weight[0], bias[0] */
  TL_OP_LOGITS,   /* on the rows wanted: logits = h W^T; weight[0] (vocab, dim) */
};

#define TL_OP_INPUTS 3

struct tl_op {
  enum tl_op_kind kind;
  uint32_t layer;                /* for ATTEND: which layer's KV */
  int32_t weight[TL_OP_INPUTS];  /* index into tl_model.tensors, -1: none */
  int32_t bias[TL_OP_INPUTS];    /* likewise */
  float scale;                   /* ATTEND: score factor */
  float eps;                     /* RMSNORM */
};

#define TL_MAX_EOS 16

/* What generation_config.json suggests; a negative value says nothing. */
struct tl_generation_defaults {
  float temperature, top_p, min_p, repetition_penalty;
  int32_t top_k;
};

struct tl_model {
  const char *architecture; /* "llama" */
  uint32_t dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size;
  uint32_t max_context;        /* max_position_embeddings */
  enum tl_dtype dtype;         /* of most weights: what activations are compared in */
  const float *inv_freq;       /* (head_dim / 2) rope angles per position, scaling applied */
  const struct tl_tensor *tensors;
  uint32_t n_tensors;
  const struct tl_op *plan;
  uint32_t n_ops;
  uint64_t n_parameters;
  uint64_t weight_bytes;
  uint32_t n_eos;
  int32_t eos[TL_MAX_EOS];     /* ids that end a sequence */
  struct tl_generation_defaults defaults;
};

/* Reads a Hugging Face folder: config.json, generation_config.json (optional),
 * *.safetensors (one, or several with model.safetensors.index.json). Maps the
 * weights, checks every offset and shape against file and plan. Boot; the
 * caller frees. Errors name the file and the key or tensor. */
int tl_model_load(const char *folder, struct tl_model **ret, struct tl_error *err);
/* As tl_model_load, but without weights, which need not be there: no tensors, no
 * plan, and dtype says nothing. For devices that do not compute. */
int tl_model_load_config(const char *folder, struct tl_model **ret, struct tl_error *err);
/* Unmaps the weight files: after the devices have loaded, tensors[].data is NULL. */
void tl_model_release_files(struct tl_model *model);
void tl_model_free(struct tl_model *model);

/* count elements of dtype at src (any alignment) to float. */
void tl_dtype_to_f32(enum tl_dtype dtype, const void *src, float *dst, size_t count);
float tl_bf16_to_f32(uint16_t value);
uint16_t tl_f32_to_bf16(float value); /* round to nearest even; NaN stays NaN */
float tl_f16_to_f32(uint16_t value);
uint16_t tl_f32_to_f16(float value);  /* round to nearest even */

#endif
