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
#include "tokenlane/tensor.h"

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
  enum tl_dtype weight_dtype;  /* of most weights */
  enum tl_dtype dtype;         /* the same if those are floats, else F16: what keys and values are kept in */
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
