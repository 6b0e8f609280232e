/* SPDX-License-Identifier: MIT */
#ifndef MODEL_PRIVATE_H
#define MODEL_PRIVATE_H

#include <jansson.h>
#include <stdbool.h>

#include "tokenlane/base/arena.h"
#include "tokenlane/model.h"

#define MODEL_MAX_OPS 16384
#define MODEL_MAX_DIM 1000000

struct hf_config;

struct model_file {
  void *data;
  size_t bytes;
  const char *name; /* for messages; the model's arena */
  int guard;        /* model_files.c */
};

/* Where a tensor's numbers are when they are not simply in `data`. */
struct tl_packed {
  /* INT4, INT8 and what is quantized while it loads: the block of an output row. */
  void (*read)(const struct tl_packed *p, uint64_t row, uint64_t block, struct tl_quant_block *ret);
  const struct scheme *scheme; /* packed.c */
  const uint8_t *codes;      /* integers, as the scheme packs them */
  const char *scales;        /* of scale_dtype */
  enum tl_dtype scale_dtype;
  const uint8_t *zeros;      /* as the scheme packs them; NULL: symmetric */
  uint64_t rows, columns;
  uint64_t n_groups;         /* along a row */
  uint64_t group_rows, group_columns; /* elements that share a scale */
  unsigned zero_shift;       /* added to a stored zero: GPTQ's first format stores one less */
  uint32_t *order;           /* (columns) input of each place; NULL: ascending */
  struct tl_tensor source;   /* floats to be quantized */
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
  const struct hf_config *config; /* while the plan is made */
  bool gguf;                  /* tensors have GGUF's names */
  uint32_t paired_head;       /* and Q and K have heads of so many rows in pairs; 0: they have not */
};

/* model.c: sums and formats of what the plan uses, each tensor once. */
int model_count_weights(struct model *m, struct tl_error *err);

/* quant_blocks.c: the block of ggml's layout at `at`. */
void quant_read_bytes(enum tl_dtype dtype, const void *at, struct tl_quant_block *ret);

/* model_files.c. path is for opening, name for messages. */
int model_file_open(const char *path, const char *name, struct model_file *ret, struct tl_error *err);
void model_file_close(struct model_file *file);
/* Whether it became shorter than what was read of it; zeros were read there. */
bool model_file_lost(const struct model_file *file);
/* Opens a file that the model owns. */
int model_map_file(struct model *m, const char *path, const char *name, struct model_file *ret, struct tl_error *err);
/* The name of the file that a tensor's data lies in. */
const char *model_file_of(const struct model *m, const struct tl_tensor *t);

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
  /* quantization_config */
  char quant_method[32], checkpoint_format[32];
  int64_t block_rows, block_columns; /* of F8 scales; 0: it does not say */
  /* rope scaling */
  char rope_type[32];
  double rope_factor, low_freq_factor, high_freq_factor;
  int64_t original_max_position_embeddings;
  int32_t eos[TL_MAX_EOS];
  uint32_t n_eos;
  struct tl_generation_defaults defaults;
};
int model_read_config(const char *folder, struct hf_config *ret, struct tl_error *err);
/* Fills in what follows from the rest, and refuses what contradicts itself; file: for messages. */
int hf_config_check(struct hf_config *config, const char *file, struct tl_error *err);

/* gguf_config.c. *ret_paired_rows: rows of Q and K are in pairs, see tl_tensor.head_rows. */
int gguf_read_config(const struct tl_gguf *g, struct hf_config *ret, bool *ret_paired_rows, struct tl_error *err);
void gguf_complete_config(const struct model *m, struct hf_config *config);
/* gguf_tensors.c: the tensors of the file and of those that it is split into. */
int gguf_add_files(struct model *m, const char *path, struct tl_error *err);
/* Refuses a file of a split model that is not the first. */
int gguf_check_first(const struct tl_gguf *g, const char *path, struct tl_error *err);
/* What GGUF calls the tensor that a plan calls `plan`; false: nothing. */
bool gguf_tensor_name(const char *plan, char *ret, size_t size, bool *ret_rotated);

/* rope.c: inv_freq (head_dim / 2). */
int model_rope(const struct hf_config *config, float *inv_freq, struct tl_error *err);

/* plan.c */
struct tl_op *plan_add(struct model *m, enum tl_op_kind kind, uint32_t layer);
/* The tensor `format` names, which must have shape (rows, columns), or (rows) with
 * columns 0; returns its index, or a negative error. */
int32_t plan_tensor(struct model *m, struct tl_error *err, uint64_t rows, uint64_t columns, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* packed.c: the matrix (rows, columns) that a plan calls `name` and the files hold as integers with
 * scales beside, or as F8. Its index, TL_ENOTFOUND without a message when there is none,
 * or an error. */
int32_t packed_tensor(struct model *m, const char *name, uint64_t rows, uint64_t columns, struct tl_error *err);

/* arch_llama.c */
int arch_llama_plan(struct model *m, const struct hf_config *config, struct tl_error *err);

/* slice.c: where the part of rank `rank` of `size` begins, in whole panels where those are enough for all,
 * at multiples of `block` (a power of two) always; rank == size: total. */
uint32_t slice_cut(uint32_t total, uint32_t block, uint32_t rank, uint32_t size);

#endif
