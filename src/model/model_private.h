/* SPDX-License-Identifier: MIT */
#ifndef MODEL_PRIVATE_H
#define MODEL_PRIVATE_H

#include <jansson.h>
#include <stdbool.h>

#include "tokenlane/base/arena.h"
#include "tokenlane/model.h"

#define MODEL_MAX_OPS 16384
#define MODEL_MAX_DIM 1000000

struct model_file {
  void *data;
  size_t bytes;
};

/* A model while it is made and after: the public struct comes first. */
struct model {
  struct tl_model model;
  struct tl_arena arena;      /* names, tables */
  struct tl_tensor *tensors;  /* (n) in the order of the files */
  uint32_t n_tensors, cap_tensors;
  uint32_t *index;            /* hash table of tensor numbers + 1 by name */
  uint32_t index_slots;
  struct model_file *files;
  uint32_t n_files;
  struct tl_op *ops;          /* (MODEL_MAX_OPS) while the plan is made */
};

/* safetensors.c: maps a file and adds its tensors. path is for opening, name for messages. */
int model_add_safetensors(struct model *m, const char *path, const char *name, struct tl_error *err);
/* Adds a tensor; TL_ECORRUPT when the name is there already. */
int model_add_tensor(struct model *m, const struct tl_tensor *tensor, struct tl_error *err);
/* -1 when there is none. */
int32_t model_find_tensor(const struct model *m, const char *name);
/* shards.c: the one file, or all that model.safetensors.index.json names. */
int model_open_weights(struct model *m, const char *folder, struct tl_error *err);

/* hf_config.c */
struct hf_config {
  char architecture[64], model_type[64], hidden_act[32];
  int64_t hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim;
  int64_t vocab_size, max_position_embeddings;
  double rms_norm_eps, rope_theta;
  bool attention_bias, mlp_bias, tie_word_embeddings;
  /* rope scaling */
  char rope_type[32];
  double rope_factor, low_freq_factor, high_freq_factor;
  int64_t original_max_position_embeddings;
  int32_t eos[TL_MAX_EOS];
  uint32_t n_eos;
  struct tl_generation_defaults defaults;
};
int model_read_config(const char *folder, struct hf_config *ret, struct tl_error *err);

/* rope.c: inv_freq (head_dim / 2). */
int model_rope(const struct hf_config *config, float *inv_freq, struct tl_error *err);

/* plan.c */
struct tl_op *plan_add(struct model *m, enum tl_op_kind kind, uint32_t layer);
/* The tensor `format` names, which must have shape (rows, columns), or (rows) with
 * columns 0; returns its index, or a negative error. */
int32_t plan_tensor(struct model *m, struct tl_error *err, uint64_t rows, uint64_t columns, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* arch_llama.c */
int arch_llama_plan(struct model *m, const struct hf_config *config, struct tl_error *err);

/* slice.c: where the part of rank `rank` of `size` begins, in whole panels where those are enough for all,
 * at multiples of `block` (a power of two) always; rank == size: total. */
uint32_t slice_cut(uint32_t total, uint32_t block, uint32_t rank, uint32_t size);

#endif
