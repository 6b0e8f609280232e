/* SPDX-License-Identifier: MIT */
#ifndef MODEL_PRIVATE_H
#define MODEL_PRIVATE_H

#include <stdbool.h>

#include "tokenlane/base/arena.h"
#include "tokenlane/base/json.h"
#include "tokenlane/model.h"

#define MODEL_MAX_OPS 32768
#define MODEL_MAX_DIM 1000000
#define MODEL_MAX_LAYERS 1000
#define MODEL_MAX_HEAD_DIM 4096
#define MODEL_MAX_EXPERTS 1024
#define MODEL_MAX_CHOSEN 64
#define MODEL_MAX_CONV 16
#define MODEL_MAX_STATE_DIM 1024

struct hf_config;
struct hf_pooling;
struct architecture;

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
  uint64_t first_row;        /* of a part of the matrix (plan_rows): its row 0 is this one */
  uint64_t n_groups;         /* along a row */
  uint64_t group_rows, group_columns; /* elements that share a scale */
  unsigned zero_shift;       /* added to a stored zero: GPTQ's first format stores one less */
  uint32_t *order;           /* (columns) input of each place; NULL: ascending */
  struct tl_tensor source;   /* floats to be quantized */
  uint64_t row_step;         /* GPT-OSS's experts: stored rows from a row to the next */
  float factor;              /* NVFP4: of all scales */
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
  const struct architecture *row; /* likewise */
  bool gguf;                  /* tensors have GGUF's names */
  bool nested;                /* the files hold a model of pictures, too: hf_classes.c */
  bool mixers;                /* tensors have Nemotron-H's names: hf_classes.c */
  const struct hf_names *names; /* NULL: as transformers calls most */
  bool shared_mlp;            /* layers without experts have what stands beside them, by its name: Granite's */
  bool strict;                /* tensors of a number format that is not read are an error */
  bool bare;                  /* names lack the "model." of decoders with an output matrix */
  uint32_t paired_head;       /* and Q and K have heads of so many rows in pairs; 0: they have not */
};

/* model.c: sums and formats of what the plan uses, each tensor once. */
int model_count_weights(struct model *m, struct tl_error *err);

/* quant_blocks.c: the block of ggml's layout at `at`. */
void quant_read_bytes(enum tl_dtype dtype, const void *at, struct tl_quant_block *ret);
/* Codes of 4 bits: a byte holds two neighbours, the first in its low half. */
void quant_read_pairs(const uint8_t *from, uint8_t codes[32]);

/* absent.c. What is no folder and no .gguf file. */
int model_check_path(const char *path, struct tl_error *err);
/* file is not in the folder: an error if something else there tells why. */
int model_absent(const char *folder, const char *file, struct tl_error *err);

/* model_files.c. path is for opening, name for messages. */
int model_file_open(const char *path, const char *name, struct model_file *ret, struct tl_error *err);
void model_file_close(struct model_file *file);
/* Whether it became shorter than what was read of it; zeros were read there. */
bool model_file_lost(const struct model_file *file);
/* Opens a file that the model owns. */
int model_map_file(struct model *m, const char *path, const char *name, struct model_file *ret, struct tl_error *err);
/* The name of the file that a tensor's data lies in. */
const char *model_file_of(const struct model *m, const struct tl_tensor *t);

/* safetensors.c: maps a file and adds its tensors, with `prefix` before their names. path is for opening, name for messages. */
int model_add_safetensors(struct model *m, const char *path, const char *name, const char *prefix, struct tl_error *err);
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
  bool use_qkv_bias, qk_layernorm, use_parallel_residual, use_bidirectional_attention, use_bias, attention_out_bias, use_qk_norm;
  double clip_qkv;
  bool no_final_norm; /* OPT's _remove_final_layer_norm */
  bool alibi, parallel_attn, do_layer_norm_before, layer_norm_elementwise_affine, scale_attn_weights, scale_attn_by_inverse_layer_idx, add_cross_attention;
  int64_t word_embed_proj_dim;    /* OPT's; 0: hidden_size */
  int64_t place_offset;           /* OPT's first positions, which no text uses */
  /* 0: none */
  double attn_logit_softcapping, final_logit_softcapping, query_pre_attn_scalar;
  double embedding_multiplier, attention_multiplier, residual_multiplier, logits_scaling;
  /* windows, and which layers have one */
  int64_t sliding_window, max_window_layers, sliding_window_pattern, no_rope_layer_interval, rotary_dim;
  int64_t attention_chunk_size, floor_scale, intermediate_size_mlp; /* Llama 4's; 0: none, or another class */
  double attn_scale; /* queries of layers that do not rotate grow by it, each floor_scale positions */
  bool use_sliding_window, has_layer_types, has_no_rope_layers;
  bool slides[MODEL_MAX_LAYERS];  /* layer_types */
  bool chunked[MODEL_MAX_LAYERS]; /* likewise */
  bool rotates[MODEL_MAX_LAYERS]; /* no_rope_layers, whose items say 1 where there is rope */
  /* mixtures of experts, 0: none */
  int64_t n_experts, n_chosen, expert_size, shared_expert_size, decoder_sparse_step, first_dense, last_sparse, n_shared_experts, n_group, topk_group;
  double routed_scaling_factor;
  bool norm_topk_prob, qkv_bias, lm_head_bias;
  int64_t moe_layer_freq;
  char topk_method[32], scoring_func[32];
  /* latent attention; q_lora_rank 0: queries are made in one step */
  int64_t q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
  bool rope_interleave;
  double swiglu_alpha, swiglu_limit;
  /* layers that keep a state; 0: none, or they have no such heads */
  int64_t delta_key_heads, delta_value_heads, delta_key_dim, delta_value_dim, conv_rows;
  int64_t full_attention_interval;
  const char *state_type;         /* what layer_types calls them; NULL: the class has none */
  bool keeps[MODEL_MAX_LAYERS];   /* which they are */
  bool conv_bias, state_bias, use_expert_bias; /* state_bias: Mamba 2's mamba_proj_bias */
  int64_t state_expand;           /* Mamba 2: all heads together are so many times hidden_size, unless a head's length is said */
  bool adjust_ffn;                /* LFM2's, of which the MLP's size follows */
  bool one_mixer, mlp_alone[MODEL_MAX_LAYERS]; /* BLOCK_ONE_MIXER, and the layers that are an MLP or experts */
  char state_act[32];
  int64_t expert_latent;          /* Nemotron 3 Super's; 0: experts read h */
  int64_t ffn_multiple;
  /* Gemma 4's: heads of layers without a window, 0: another class; layers that are lent keys and values, whose MLP may be twice as wide;
   * numbers that a layer gets beside x */
  int64_t global_head_dim, num_global_key_value_heads, num_kv_shared_layers, hidden_size_per_layer_input, vocab_size_per_layer_input;
  bool attention_k_eq_v, use_double_wide_mlp, enable_moe_block;
  double rope_share; /* of the numbers of a head `proportional` turns */
  double ffn_multiplier;
  bool dense[MODEL_MAX_LAYERS];   /* mlp_only_layers */
  /* encoders */
  int64_t type_vocab_size, pad_token_id, local_attention, global_attn_every_n_layers, n_labels;
  char classifier_pooling[16], position_embedding_type[32];
  bool is_decoder, prenorm, parallel_block, use_rms_norm, rotary_emb_interleaved; /* none of which is done here */
  double rotary_emb_fraction, rotary_emb_scale_base, rotary_scaling_factor;
  int64_t max_trained_positions; /* with rotary_scaling_factor: texts up to these turn as without it */
  /* quantization_config */
  char quant_method[32], checkpoint_format[32];
  int64_t block_rows, block_columns; /* of F8 scales; 0: it does not say */
  /* rope scaling */
  char rope_type[32];
  double rope_factor, low_freq_factor, high_freq_factor;
  int64_t original_max_position_embeddings;
  double rope_local_base_freq, partial_rotary_factor, beta_fast, beta_slow;
  double attention_factor, mscale, mscale_all_dim, rope_alpha, long_mscale, router_jitter_noise; /* rope_alpha: with `dynamic`; 0: none */
  bool rope_untruncated;
  double llama_4_scaling_beta; /* queries grow by it, each original_max_position_embeddings positions */
  uint32_t n_long_factors;
  float long_factors[MODEL_MAX_HEAD_DIM / 2];
  int32_t eos[TL_MAX_EOS];
  uint32_t n_eos;
  struct tl_generation_defaults defaults;
};
/* A file of the folder; without `required` an empty object when it is not there. NULL: err says why. */
json_t *hf_load_object(const char *folder, const char *file, bool required, struct tl_error *err);
/* What a key that is absent means. */
void hf_config_defaults(struct hf_config *ret);
/* hf_classes.c: what keys that are absent mean, where a class (which may be NULL) differs from others. */
void hf_class_defaults(const struct architecture *a, struct hf_config *config);
/* Whether it is a model of texts and pictures. */
bool hf_is_nested(const struct architecture *a);
/* Where the text model's keys are: *ret, borrowed, is the object itself with a that is no such model. Its type may have other
 * defaults than its class. */
int hf_nested_text(const struct architecture *a, struct hf_config *config, json_t *object, json_t **ret, struct tl_error *err);
/* What a plan calls a tensor of Nemotron-H, in the buffer or `name` itself. */
const char *hf_mixer_tensor(const char *name, char *buffer, size_t size);
/* What the text model alone would call the tensor, in the buffer; NULL: it is not the text model's. */
const char *hf_nested_tensor(const char *name, char *buffer, size_t size);
/* hf_layers.c: layer_types, no_rope_layers, and long_factor of rope. */
int hf_config_read_lists(struct hf_config *config, json_t *object, json_t *rope, struct tl_error *err);
int model_read_config(const char *folder, struct hf_config *ret, struct tl_error *err);
/* Fills in what follows from the rest, and refuses what contradicts itself; file: for messages. */
int hf_config_check(struct hf_config *config, const char *file, struct tl_error *err);

/* gguf_config.c. *ret_paired_rows: rows of Q and K are in pairs, see tl_tensor.head_rows. */
int gguf_read_config(const struct tl_gguf *g, struct hf_config *ret, bool *ret_paired_rows, struct tl_error *err);
int gguf_complete_config(struct model *m, const struct hf_pooling *pooling, struct hf_config *config, struct tl_error *err);
/* kind TL_POOL_NONE: it does not say, or it is not an embedder's. */
int gguf_read_pooling(const struct tl_gguf *g, struct hf_pooling *ret, struct tl_error *err);
/* gguf_tensors.c: the tensors of the file and of those that it is split into. */
int gguf_add_files(struct model *m, const char *path, struct tl_error *err);
/* Refuses a file of a split model that is not the first. */
int gguf_check_first(const struct tl_gguf *g, const char *path, struct tl_error *err);
/* What GGUF calls the tensor that a plan calls `plan`; false: nothing. */
bool gguf_tensor_name(const struct architecture *a, const char *plan, char *ret, size_t size, bool *ret_rotated);

/* rope.c: inv_freq (model_n_rotated / 2). *ret_factor: of cosine and sine. */
uint32_t model_n_rotated(const struct hf_config *config);
int model_rope(const struct hf_config *config, float *inv_freq, float *ret_factor, struct tl_error *err);
/* Without scaling, for Gemma 3's local layers. */
void model_rope_local(const struct hf_config *config, float *inv_freq);

/* hf_names.c: what files of classes before Llama call their tensors, as a plan does; those that it does not know, as they are. */
struct hf_names;
const struct hf_names *hf_names_of(const struct architecture *a);
const char *hf_plan_name(const struct hf_names *n, const char *name, char *buffer, size_t size);
/* And keys of their config.json, likewise. */
void hf_rename_keys(json_t *object);
/* What such a class may ask for that is not done here; NULL: nothing. */
const char *hf_old_refused(const struct hf_config *config);

/* plan.c */
struct tl_op *plan_add(struct model *m, enum tl_op_kind kind, uint32_t layer);
/* The tensor `format` names, which must have shape (rows, columns), or (rows) with
 * columns 0; returns its index, or a negative error. */
int32_t plan_tensor(struct model *m, struct tl_error *err, uint64_t rows, uint64_t columns, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* plan_tensor of a matrix that is stored by inputs, of floats. */
int32_t plan_turned(struct model *m, struct tl_error *err, uint64_t rows, uint64_t columns, const char *name);

/* Whether the files have what a plan calls `name`, with ".weight" or ".bias". */
bool plan_has_tensor(const struct model *m, const char *name);

/* packed.c: the matrix (rows, columns) that a plan calls `name` and the files hold as integers with
 * scales beside, or as F8. Its index, TL_ENOTFOUND without a message when there is none,
 * or an error. */
int32_t packed_tensor(struct model *m, const char *name, uint64_t rows, uint64_t columns, struct tl_error *err);
/* The tensor whose name is stem and ending, NULL: there is none, as of ending NULL. A message about one. */
const struct tl_tensor *packed_part(const struct model *m, const char *stem, const char *ending);
int packed_bad(const struct model *m, const struct tl_tensor *t, struct tl_error *err, const char *what);
/* Whether there is a NaN among numbers in E4M3. */
bool packed_has_nan(const struct tl_tensor *t);
/* packed_fp4.c: likewise of a matrix in E2M1 with scales beside; stem: the name up to "weight". */
int32_t packed_fp4(struct model *m, const char *name, const char *stem, uint64_t rows, uint64_t columns, struct tl_error *err);
/* Whether the files have a matrix in any form, readable here or not. stem: its name up to "weight". */
bool packed_is_there(const struct model *m, const char *stem);

/* `rows` rows of a tensor whose rows are not in runs or paired, as a tensor of their own: `each` of them from `first` on, as many `step`
 * rows behind that, and so on. When all rows have been given
 * away, plan_spent says so: they are counted once. */
struct row_runs {
  uint64_t first, each, step, rows;
};
int32_t plan_runs(struct model *m, struct tl_error *err, int32_t tensor, const struct row_runs *runs);
/* Rows [first, first + rows). */
int32_t plan_rows(struct model *m, struct tl_error *err, int32_t tensor, uint64_t first, uint64_t rows);
void plan_spent(struct model *m, int32_t tensor);
/* All rows of a tensor to n inputs, one behind the other, rows[i] to ret[i]. tensor: may be an error, which is returned. */
int plan_parts(struct model *m, struct tl_error *err, int32_t tensor, const uint64_t *rows, int n, int32_t *ret);

/* architectures.c: what decoders differ in. */
enum arch_trait {
  ARCH_QKV_BIAS = 1 << 0,     /* biases of q, k, v, whatever the file says */
  ARCH_NO_OUT_BIAS = 1 << 1,  /* and none of o */
  ARCH_QK_NORM = 1 << 2,
  ARCH_QK_NORM_ROW = 1 << 3,
  ARCH_LAYER_NORM = 1 << 4,
  ARCH_PLUS_ONE = 1 << 5,
  ARCH_EMBED_SCALE = 1 << 6,  /* by the root of hidden_size */
  ARCH_FUSED_QKV = 1 << 7,    /* qkv_proj */
  ARCH_FUSED_UP = 1 << 8,     /* gate_up_proj, the gate's rows first */
  ARCH_INTERLEAVED = 1 << 9,
  ARCH_TIED = 1 << 10,        /* unless the files have lm_head */
  ARCH_MULTIPLIERS = 1 << 11, /* Granite's */
  ARCH_SOFTCAPS = 1 << 12,
  ARCH_QUERY_SCALAR = 1 << 13,
  ARCH_LOCAL_ROPE = 1 << 14,  /* layers with a window rotate by rope_local_base_freq */
  ARCH_NOPE = 1 << 15,        /* some layers do not rotate */
  ARCH_GELU = 1 << 16,        /* gelu_pytorch_tanh in place of silu */
  ARCH_PARTIAL = 1 << 17,     /* partial_rotary_factor */
  ARCH_LOCAL_PLAIN = 1 << 18, /* layers with a window rotate without the scaling of the others */
  ARCH_USE_BIAS = 1 << 19,    /* use_bias: of all projections */
  ARCH_NOPE_WIDE = 1 << 20,   /* layers without a window do not rotate, if sliding_window is said */
  ARCH_QK_NORM_KEY = 1 << 21, /* norms of Q and K by head, if use_qk_norm says so */
  ARCH_DELTA = 1 << 22,       /* layers by the gated delta rule, attention whose heads are gated: arch_recurrent.c */
  ARCH_SHORT = 1 << 23,       /* layers of short convolutions, likewise */
  ARCH_SCAN = 1 << 27,        /* Mamba 2's, beside attention that rotates if position_embedding_type says so */
  ARCH_QK_NORM_LAST = 1 << 26, /* norms of Q and K by head, behind the rotation */
  ARCH_GEMMA4 = 1 << 28,      /* heads of two sizes, keys and values that are lent: arch_gemma4.c */
  ARCH_SINKS = 1 << 24,       /* a score beside those of positions */
  ARCH_LATENT = 1 << 30,      /* multi-head latent attention: arch_latent.c */
  ARCH_QKV_BIAS_KEY = 1 << 25, /* biases of q, k, v, unless qkv_bias is false */
};
/* Which layers look at a window when layer_types does not say. */
enum arch_window { WINDOW_NONE, WINDOW_ALL, WINDOW_ALTERNATE, WINDOW_PATTERN, WINDOW_PATTERN_4, WINDOW_OPTIONAL, WINDOW_NOT_FOURTH, WINDOW_LATE };

struct architecture {
  const char *class_name, *name;
  /* names of a layer's norms, NULL: it has none there */
  const char *pre_attention, *post_attention, *pre_mlp, *post_mlp;
  uint32_t traits;
  enum arch_window window;
  double partial; /* partial_rotary_factor when config.json does not say */
};
const struct architecture *arch_find(const char *class_name, const char *model_type, struct tl_error *err);
/* gguf_config.c: whether GGUF files of this class are read. */
bool gguf_knows_class(const char *class_name);

/* model_pooling.c: what a folder says of its vectors. kind TL_POOL_NONE: it has no modules.json. */
#define MODEL_MAX_DENSE 4
struct hf_dense {
  int64_t n_out;
  bool is_tanh;
  char folder[64];
};
struct hf_pooling {
  enum tl_pooling kind;
  bool normalize;
  int64_t max_length; /* 0: not said */
  unsigned n_dense;
  struct hf_dense dense[MODEL_MAX_DENSE]; /* one behind the other */
};
int model_read_pooling(const char *folder, const struct hf_config *config, struct hf_pooling *ret, struct tl_error *err);

/* arch_decoder.c */
int arch_decoder_plan(struct model *m, const struct architecture *a, const struct hf_config *config, const struct hf_pooling *pooling,
                      float rope_factor, struct tl_error *err);

/* arch_encoder.c. NULL: it is a decoder. */
const struct arch_encoder *arch_encoder_of(const struct architecture *a);
bool arch_is_classifier(const struct architecture *a);
/* What transformers takes when config.json does not say; a: may be a decoder, which has nothing of its own here, or NULL. */
void arch_encoder_defaults(const struct architecture *a, struct hf_config *config);
int64_t arch_encoder_context(const struct arch_encoder *e, const struct hf_config *config);
int arch_encoder_plan(struct model *m, const struct architecture *a, const struct hf_config *config, const struct hf_pooling *pooling,
                      float rope_factor, struct tl_error *err);
/* From the rows of h to vectors, and through the folder's dense layers. */
int arch_vector_plan(struct model *m, const struct hf_pooling *pooling, struct tl_error *err);

/* arch_blocks.c: what a layer is made of. */
enum block_trait {
  BLOCK_PARALLEL = 1 << 0,      /* attention and MLP read the same norm, and both are added to what that read */
  BLOCK_NORM_UNBIASED = 1 << 1, /* LayerNorm without biases */
  BLOCK_LOGIT_SCALE = 1 << 2,   /* logits are times logit_scale */
  BLOCK_BIASED = 1 << 3,        /* all projections have biases, unless use_bias is false */
  BLOCK_LOGIT_BIAS = 1 << 4,
  BLOCK_ONE_MIXER = 1 << 6,     /* a layer is one norm and one of a state, attention, an MLP, experts */
  BLOCK_PARALLEL_KEY = 1 << 7,  /* PARALLEL, each behind a norm of its own, unless use_parallel_residual is false */
  BLOCK_PLACES = 1 << 8,        /* positions are learned: nothing rotates */
  BLOCK_TURNED = 1 << 9,        /* GPT-2: files hold a layer's matrices by inputs */
  BLOCK_GROUPED_QKV = 1 << 10,  /* rows of Q, K and V alternate by key heads in one matrix, unless there is but one such head */
  BLOCK_ANY_ACT = 1 << 11,      /* `act` is what goes without saying */
  BLOCK_QK_UNIT = 1 << 5,       /* heads of Q and K that rotate are normed without weights, unless use_qk_norm is false */
};
struct arch_blocks {
  const char *class_name;
  uint32_t traits;
  const char *act; /* of an MLP without a gate, as config.json calls it; NULL: it has one */
  const char *gate, *up, *down;
  const char *out, *final_norm;
};
/* The feature of the MLP's first record, where the model has no gate; act: hidden_act, "" if nothing is said. False: such a function is not known. */
bool arch_blocks_function(const struct arch_blocks *b, const char *act, uint32_t *ret);
/* The numbers of an UP record with XIELU, which the files hold: Apertus. */
int arch_blocks_xielu(const struct model *m, struct tl_op *op, struct tl_error *err);
/* Rows of q, k and v of the matrix, or vector, that BLOCK_GROUPED_QKV describes, to ret[0..2]. */
int arch_blocks_qkv(struct model *m, const struct hf_config *config, int32_t all, int32_t *ret, struct tl_error *err);
/* Of those that are as usual, too. */
const struct arch_blocks *arch_blocks_of(const struct architecture *a);
/* arch_latent.c: attention by latents. All do nothing with other rows, which may be NULL. */
void arch_latent_defaults(const struct architecture *a, struct hf_config *config);
/* What follows from the rest; file: for messages. */
int arch_latent_complete(const struct architecture *a, struct hf_config *config, const char *file, struct tl_error *err);
void arch_latent_take(const struct architecture *a, const struct hf_config *config, struct tl_model *model);
/* A layer's records from the norm to ATTN_OUT. */
int arch_latent_plan(struct model *m, const struct hf_config *config, uint32_t layer, float rope_factor, struct tl_error *err);

/* arch_gemma4.c: what Gemma 4's layers have that others have not. All do nothing with other rows, which may be NULL. */
void arch_gemma4_defaults(const struct architecture *a, struct hf_config *config);
/* What follows from the rest; object: of config.json, the text model's. */
int arch_gemma4_complete(const struct architecture *a, struct hf_config *config, json_t *object, struct tl_error *err);
/* The same of what has been read, of either kind of file. */
int arch_gemma4_check(const struct architecture *a, struct hf_config *config, const char *file, struct tl_error *err);
void arch_gemma4_take(const struct architecture *a, const struct hf_config *config, struct tl_model *model);
/* Behind EMBED. */
int arch_gemma4_begin(struct model *m, const struct hf_config *config, struct tl_error *err);
/* A layer's records from QKV to ATTEND; *attending: layers so far with keys and values of their own. */
int arch_gemma4_heads(struct model *m, const struct hf_config *config, uint32_t layer, uint32_t *attending, struct tl_error *err);
/* What ATTN_OUT reads there, and the MLP's inner row. */
uint64_t arch_gemma4_made(const struct model *m, const struct hf_config *config, uint32_t layer);
uint64_t arch_gemma4_ffn(const struct hf_config *config, uint32_t layer);
/* Behind the MLP's last product, whose sum is in h: the experts; and behind the layer's last norm. */
int arch_gemma4_experts(struct model *m, const struct hf_config *config, uint32_t layer, struct tl_error *err);
int arch_gemma4_end(struct model *m, const struct hf_config *config, uint32_t layer, struct tl_error *err);

/* arch_recurrent.c: layers that keep a state. All do nothing with other rows, which may be NULL. */
void arch_recurrent_defaults(const struct architecture *a, struct hf_config *config);
/* What follows from the rest; file: for messages. */
int arch_recurrent_complete(const struct architecture *a, struct hf_config *config, const char *file, struct tl_error *err);
void arch_recurrent_take(const struct architecture *a, const struct hf_config *config, struct tl_model *model);
/* Such a layer's records from the norm to what ATTN_OUT reads; number: among those with a state. */
int arch_recurrent_plan(struct model *m, const struct hf_config *config, uint32_t layer, uint32_t number, struct tl_error *err);
/* What ATTN_OUT reads there, and its projection's name. */
uint64_t arch_recurrent_made(const struct model *m);
const char *arch_recurrent_out(const struct model *m);
/* The rows of q_proj, which alternate by heads, to QKV, and a record GATE_IN. */
int arch_recurrent_queries(struct model *m, const struct hf_config *config, struct tl_op *qkv, struct tl_error *err);

/* arch_experts.c: layers with experts. */
enum experts_trait {
  EXPERTS_NORMALIZED = 1 << 0, /* shares of the chosen sum up to 1; of the others norm_topk_prob says it */
  EXPERTS_ROW_GATE = 1 << 1,   /* what all rows have is times a number of each row; its size has a key of its own */
  EXPERTS_OWN_SIZE = 1 << 2,   /* moe_intermediate_size, not intermediate_size */
  EXPERTS_FUSED = 1 << 3,      /* GPT-OSS: gate and up alternate in one tensor of all experts, all have biases, clamped */
  EXPERTS_GROUPS = 1 << 10,    /* DeepSeek: of groups of experts some are chosen from; shares are times a factor; keys that say how */
  EXPERTS_HALVES = 1 << 4,     /* Qwen3-VL-MoE: likewise one tensor, the gate's part first */
  EXPERTS_SIGMOID = 1 << 5,    /* shares are sigmoids */
  EXPERTS_SHARE_IN = 1 << 8,   /* Llama 4: what an expert reads is times its share, not what it makes */
  EXPERTS_ROWS = 1 << 7,       /* Granite: halves, not transposed, under the block's own name */
  EXPERTS_STRAIGHT = 1 << 9,   /* the halves' tensor is never transposed */
  EXPERTS_ALIKE = 1 << 11,     /* what all rows have is as large as an expert: intermediate_size */
  EXPERTS_MIXED = 1 << 12,     /* PhiMoE: two are chosen, each by a softmax over those that are about as good */
  EXPERTS_UNGATED = 1 << 14,   /* the square of what is above 0 in place of a gate; so has what all rows have */
  EXPERTS_SCALED = 1 << 15,    /* shares are times routed_scaling_factor */
  EXPERTS_BESIDE = 1 << 16,    /* Gemma 4: layers have an MLP, too; experts read a norm of their own, and their router another */
  EXPERTS_OPTIONAL = 1 << 13,  /* without experts there is but what all rows have */
  EXPERTS_COUNTED = 1 << 6,    /* what all rows have is as large as n_shared_experts experts */
};
enum { EXPERT_GATE, EXPERT_UP, EXPERT_DOWN };
struct arch_experts {
  const char *class_name;
  const char *block, *router; /* of a layer, of the block */
  const char *names[3];       /* of an expert */
  const char *shared;         /* within the block: the MLP that all rows have; NULL: none */
  const char *choice;         /* within the block: what is added to shares for the choice alone; NULL: nothing */
  uint32_t traits;
};
/* NULL: it has none. */
const struct arch_experts *arch_experts_of(const struct architecture *a);
bool arch_experts_in(const struct arch_experts *e, const struct hf_config *config, uint32_t layer);
int arch_experts_check(const struct model *m, const struct arch_experts *e, const struct hf_config *config, struct tl_error *err);
/* A layer's records behind the norm. */
int arch_experts_plan(struct model *m, const struct arch_experts *e, const struct hf_config *config, uint32_t layer,
                      struct tl_error *err);

/* experts.c: a part of all experts of a layer as n tensors one behind the other; the index of the first, or an error. */
struct expert_part {
  const struct arch_experts *kind;
  unsigned part; /* EXPERT_GATE ... */
  uint32_t layer, n;
  uint64_t rows, columns;
};
int32_t experts_weights(struct model *m, const struct expert_part *p, struct tl_error *err);
int32_t experts_biases(struct model *m, const struct expert_part *p, struct tl_error *err);
/* A matrix of one row as a vector. */
int experts_vector(struct model *m, int32_t index, int32_t *ret, struct tl_error *err);

/* slice.c: where the part of rank `rank` of `size` begins, in whole panels where those are enough for all,
 * at multiples of `block` (a power of two) always; rank == size: total. */
uint32_t slice_cut(uint32_t total, uint32_t block, uint32_t rank, uint32_t size);

#endif
