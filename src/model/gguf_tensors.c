/* SPDX-License-Identifier: MIT */
/* The table of tensors of a GGUF file, split files, and the names that its tensors
 * have for a plan. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_private.h"

#define MAX_NAME 255
#define MAX_SPLITS 4000

/* ggml's numbers of formats. */
static bool dtype_of(uint64_t type, enum tl_dtype *ret) {
  static const struct {
    uint8_t type;
    enum tl_dtype dtype;
  } types[] = {{0, TL_DTYPE_F32},   {1, TL_DTYPE_F16},   {30, TL_DTYPE_BF16},   {2, TL_DTYPE_Q4_0},
               {3, TL_DTYPE_Q4_1},  {6, TL_DTYPE_Q5_0},  {7, TL_DTYPE_Q5_1},    {8, TL_DTYPE_Q8_0},
               {10, TL_DTYPE_Q2_K}, {11, TL_DTYPE_Q3_K}, {12, TL_DTYPE_Q4_K},   {13, TL_DTYPE_Q5_K},
               {14, TL_DTYPE_Q6_K}, {20, TL_DTYPE_IQ4_NL}, {23, TL_DTYPE_IQ4_XS}, {39, TL_DTYPE_MXFP4}};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (types[i].type == type) return (void)(*ret = types[i].dtype), true;
  return false;
}

struct entry {
  char name[MAX_NAME + 1];
  uint64_t type, offset, count;
  struct tl_tensor tensor;
};

static int bad(const struct tl_gguf *g, const char *tensor, struct tl_error *err, const char *what) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: tensor '%.120s': %s", g->file.name, tensor, what);
}

static int table_ends(const struct tl_gguf *g, struct tl_error *err) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%.200s: the file ends within its table of tensors", g->file.name);
}

static int read_entry(struct tl_gguf *g, struct entry *e, struct tl_error *err) {
  struct gguf_reader *r = &g->tensors;
  const char *name;
  uint64_t length, n_dims;
  *e = (struct entry){.count = 1};
  if (!gguf_read_text(r, &name, &length)) return table_ends(g, err);
  if (length == 0 || length > MAX_NAME || memchr(name, 0, length))
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.200s: a tensor's name is not 1 to %d characters", g->file.name,
                        MAX_NAME);
  memcpy(e->name, name, length);
  if (!gguf_read(r, 4, &n_dims)) return table_ends(g, err);
  if (n_dims < 1 || n_dims > 4) return bad(g, e->name, err, "expected 1 to 4 dimensions");
  e->tensor.name = e->name;
  e->tensor.n_dims = (uint32_t)n_dims;
  /* the fastest dimension comes first in the file, and last in a shape */
  for (uint64_t i = n_dims; i-- > 0;) {
    if (!gguf_read(r, 8, &e->tensor.shape[i])) return table_ends(g, err);
    if (__builtin_mul_overflow(e->count, e->tensor.shape[i], &e->count) || e->count > INT64_MAX)
      return bad(g, e->name, err, "its shape is too large");
  }
  if (!gguf_read(r, 4, &e->type) || !gguf_read(r, 8, &e->offset)) return table_ends(g, err);
  return TL_OK;
}

/* Where the entry's data lies; `data` and `data_bytes`: the part of the file behind the table. */
static int place_entry(const struct tl_gguf *g, struct entry *e, const char *data, uint64_t data_bytes,
                       struct tl_error *err) {
  struct tl_tensor *t = &e->tensor;
  if (!dtype_of(e->type, &t->dtype))
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.120s: tensor '%.120s': number format %llu is not supported",
                        g->file.name, e->name, (unsigned long long)e->type);
  uint64_t columns = t->shape[t->n_dims - 1];
  size_t row_bytes = tl_dtype_row_bytes(t->dtype, columns);
  if (columns && !row_bytes) return bad(g, e->name, err, "its rows are not whole blocks of its number format");
  uint64_t rows = columns ? e->count / columns : 0;
  if (__builtin_mul_overflow(rows, row_bytes, &t->bytes)) return bad(g, e->name, err, "its shape is too large");
  if (e->offset % g->alignment) return bad(g, e->name, err, "its offset is not aligned");
  if (e->offset > data_bytes || t->bytes > data_bytes - e->offset) return bad(g, e->name, err, "lies outside the file");
  t->data = data + e->offset;
  return TL_OK;
}

static int compare_places(const void *a, const void *b) {
  const struct tl_tensor *x = a, *y = b;
  return (x->data > y->data) - (x->data < y->data);
}

/* Tensors first .. n_tensors - 1 of m are this file's. */
static int check_overlap(const struct model *m, uint32_t first, const struct tl_gguf *g, struct tl_error *err) {
  uint32_t n = m->n_tensors - first;
  struct tl_tensor *sorted = calloc(n ? n : 1, sizeof *sorted);
  if (!sorted) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (n) memcpy(sorted, m->tensors + first, n * sizeof *sorted);
  qsort(sorted, n, sizeof *sorted, compare_places);
  int r = TL_OK;
  for (uint32_t i = 1; i < n && r == TL_OK; i++)
    if (sorted[i].bytes && (const char *)sorted[i - 1].data + sorted[i - 1].bytes > (const char *)sorted[i].data)
      r = bad(g, sorted[i].name, err, "overlaps another tensor");
  free(sorted);
  return r;
}

static int add_tensors(struct model *m, struct tl_gguf *g, struct tl_error *err) {
  struct gguf_reader table = g->tensors;
  struct entry e;
  /* an entry takes 8 + 1 + 4 + 8 + 4 + 8 bytes at least */
  if (g->n_tensors > (uint64_t)(table.end - table.at) / 33)
    return tl_error_set(err, TL_ECORRUPT, "model.path",
                        "%.200s: the header says that there are more tensors than the file can hold", g->file.name);
  for (uint64_t i = 0; i < g->n_tensors; i++) {
    int r = read_entry(g, &e, err);
    if (r < 0) return r;
  }
  uint64_t begin = (uint64_t)(g->tensors.at - (const uint8_t *)g->file.data);
  begin = (begin + g->alignment - 1) / g->alignment * g->alignment;
  if (begin > g->file.bytes) begin = g->file.bytes;
  g->tensors = table;
  uint32_t first = m->n_tensors;
  for (uint64_t i = 0; i < g->n_tensors; i++) {
    int r = read_entry(g, &e, err);
    if (r == TL_OK) r = place_entry(g, &e, (const char *)g->file.data + begin, g->file.bytes - begin, err);
    if (r == TL_OK && model_find_tensor(m, e.name) >= 0) r = bad(g, e.name, err, "is there twice");
    if (r == TL_OK) r = model_add_tensor(m, &e.tensor, err);
    if (r < 0) return r;
  }
  return check_overlap(m, first, g, err);
}

/* --- split files --------------------------------------------------------------------------- */

/* A file that the model keeps, and its tensors. */
static int add_file(struct model *m, const char *path, struct tl_gguf *ret, struct tl_error *err) {
  const char *slash = strrchr(path, '/');
  struct model_file file;
  int r = model_map_file(m, path, slash ? slash + 1 : path, &file, err);
  if (r == TL_OK) r = gguf_parse(&file, ret, err);
  if (r != TL_OK) return r;
  r = add_tensors(m, ret, err);
  if (r < 0) gguf_done(ret);
  return r;
}

static int add_split(struct model *m, const char *path, int64_t number, struct tl_error *err) {
  struct tl_gguf g;
  int64_t found = -1;
  int r = add_file(m, path, &g, err);
  if (r != TL_OK) return r;
  if (!tl_gguf_integer(&g, "split.no", &found) || found != number)
    r = tl_error_set(err, TL_ECORRUPT, "model.path", "%.200s: split.no: expected %lld", g.file.name, (long long)number);
  gguf_done(&g);
  return r;
}

int gguf_check_first(const struct tl_gguf *g, const char *path, struct tl_error *err) {
  int64_t count = 1, number = 0;
  tl_gguf_integer(g, "split.count", &count);
  tl_gguf_integer(g, "split.no", &number);
  if (count <= 1) return TL_OK;
  if (count > MAX_SPLITS)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.200s: split.count: expected up to %d", g->file.name, MAX_SPLITS);
  char expected[64];
  size_t tail = (size_t)snprintf(expected, sizeof expected, "-00001-of-%05d.gguf", (int)count), length = strlen(path);
  if (number == 0 && length > tail && strcmp(path + length - tail, expected) == 0) return TL_OK;
  return tl_error_set(err, TL_ECORRUPT, "model.path",
                      "%.200s: is one of %d files of a split model; expected the path of the first, which ends in %s",
                      g->file.name, (int)count, expected);
}

/* path ends as gguf_check_first wants it. */
static int add_splits(struct model *m, const struct tl_gguf *first, const char *path, int64_t count, struct tl_error *err) {
  int64_t total = -1;
  size_t length = strlen(path) - strlen("-00001-of-00001.gguf");
  for (int64_t i = 1; i < count; i++) {
    char other[4096];
    snprintf(other, sizeof other, "%.*s-%05lld-of-%05lld.gguf", (int)length, path, (long long)i + 1,
             (long long)count);
    int r = add_split(m, other, i, err);
    if (r != TL_OK) return r;
  }
  if (tl_gguf_integer(first, "split.tensors.count", &total) && total != (int64_t)m->n_tensors)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.200s: split.tensors.count: %lld, but there are %u tensors",
                        first->file.name, (long long)total, m->n_tensors);
  return TL_OK;
}

int gguf_add_files(struct model *m, const char *path, struct tl_error *err) {
  struct tl_gguf first;
  int64_t count = 1;
  int r = add_file(m, path, &first, err);
  if (r != TL_OK) return r;
  tl_gguf_integer(&first, "split.count", &count);
  if (count > 1) r = gguf_check_first(&first, path, err);
  if (r == TL_OK && count > 1) r = add_splits(m, &first, path, count, err);
  gguf_done(&first);
  return r;
}

/* --- names ------------------------------------------------------------------------------------ */

/* What plans have before the number of a layer. */
static const char *const layers[] = {"model.layers.", "encoder.layer.", "encoder.layers.", "layers."};

/* What a plan calls a tensor, and what GGUF does. `rotated`: in Llama's files its rows
 * are paired for interleaved rotation. */
static const struct {
  const char *plan, *gguf;
  bool rotated;
} names[] = {
    {"model.embed_tokens", "token_embd", false},
    {"model.embed_positions", "position_embd", false},
    {"model.norm", "output_norm", false},
    {"lm_head", "output", false},
    {"self_attn.q_proj", "attn_q", true},
    {"self_attn.k_proj", "attn_k", true},
    {"self_attn.v_proj", "attn_v", false},
    {"self_attn.q_a_proj", "attn_q_a", false},
    {"self_attn.q_a_layernorm", "attn_q_a_norm", false},
    {"self_attn.q_b_proj", "attn_q_b", false},
    {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa", false},
    {"self_attn.kv_a_layernorm", "attn_kv_a_norm", false},
    {"self_attn.kv_b_proj", "attn_kv_b", false},
    {"self_attn.qkv_proj", "attn_qkv", false},
    {"self_attn.o_proj", "attn_output", false},
    {"self_attn.q_norm", "attn_q_norm", false},
    {"self_attn.k_norm", "attn_k_norm", false},
    {"self_attn.query_layernorm", "attn_q_norm", false},
    {"self_attn.key_layernorm", "attn_k_norm", false},
    {"mlp.gate_proj", "ffn_gate", false},
    {"mlp.up_proj", "ffn_up", false},
    {"mlp.gate_up_proj", "ffn_up", false},
    {"mlp.down_proj", "ffn_down", false},
    {"self_attn.dense", "attn_output", false},
    {"model.final_layernorm", "output_norm", false},
    {"mlp.c_fc", "ffn_up", false},
    {"mlp.c_proj", "ffn_down", false},
    {"mlp.fc1", "ffn_up", false},
    {"mlp.fc1_latent_proj", "ffn_latent_down", false},
    {"mlp.fc2_latent_proj", "ffn_latent_up", false},
    {"mlp.gate", "ffn_gate_inp", false},
    {"mlp.gate.wg", "ffn_gate_inp", false},
    {"mlp.shared_mlp.gate_proj", "ffn_gate_shexp", false},
    {"mlp.shared_mlp.up_proj", "ffn_up_shexp", false},
    {"mlp.shared_mlp.down_proj", "ffn_down_shexp", false},
    {"mlp.router", "ffn_gate_inp", false},
    {"block_sparse_moe.gate", "ffn_gate_inp", false},
    {"block_sparse_moe.router.layer", "ffn_gate_inp", false},
    {"feed_forward.gate_proj", "ffn_gate", false},
    {"feed_forward.up_proj", "ffn_up", false},
    {"feed_forward.down_proj", "ffn_down", false},
    {"feed_forward.router", "ffn_gate_inp", false},
    {"feed_forward.shared_expert.gate_proj", "ffn_gate_shexp", false},
    {"feed_forward.shared_expert.up_proj", "ffn_up_shexp", false},
    {"feed_forward.shared_expert.down_proj", "ffn_down_shexp", false},
    {"mlp.shared_expert_gate", "ffn_gate_inp_shexp", false},
    {"mlp.shared_experts.gate_proj", "ffn_gate_shexp", false},
    {"mlp.shared_experts.up_proj", "ffn_up_shexp", false},
    {"mlp.shared_experts.down_proj", "ffn_down_shexp", false},
    {"mlp.shared_expert.gate_proj", "ffn_gate_shexp", false},
    {"mlp.shared_expert.up_proj", "ffn_up_shexp", false},
    {"mlp.shared_expert.down_proj", "ffn_down_shexp", false},
    {"model.embed_tokens_per_layer", "per_layer_token_embd", false},
    {"model.per_layer_model_projection", "per_layer_model_proj", false},
    {"model.per_layer_projection_norm", "per_layer_proj_norm", false},
    {"per_layer_input_gate", "inp_gate", false},
    {"per_layer_projection", "proj", false},
    {"post_per_layer_input_norm", "post_norm", false},
    {"layer_scalar", "layer_output_scale", false},
    {"router.proj", "ffn_gate_inp", false},
    {"experts.down_proj", "ffn_down_exps", false},
    {"pre_feedforward_layernorm_2", "pre_ffw_norm_2", false},
    {"post_feedforward_layernorm_1", "post_ffw_norm_1", false},
    {"post_feedforward_layernorm_2", "post_ffw_norm_2", false},
    {"linear_attn.in_proj_qkv", "attn_qkv", false},
    {"linear_attn.in_proj_z", "attn_gate", false},
    {"linear_attn.in_proj_b", "ssm_beta", false},
    {"linear_attn.in_proj_a", "ssm_alpha", false},
    {"linear_attn.in_proj_ba", "ssm_ba", false},
    {"linear_attn.conv1d", "ssm_conv1d", false},
    {"linear_attn.norm", "ssm_norm", false},
    {"linear_attn.out_proj", "ssm_out", false},
    {"mamba.in_proj", "ssm_in", false},
    {"mamba.conv1d", "ssm_conv1d", false},
    {"mamba.out_proj", "ssm_out", false},
    {"model.embedding_norm", "token_embd_norm", false},
    {"self_attn.q_layernorm", "attn_q_norm", false},
    {"self_attn.k_layernorm", "attn_k_norm", false},
    {"self_attn.out_proj", "attn_output", false},
    {"feed_forward.w1", "ffn_gate", false},
    {"feed_forward.w3", "ffn_up", false},
    {"feed_forward.w2", "ffn_down", false},
    {"feed_forward.gate", "ffn_gate_inp", false},
    {"conv.in_proj", "shortconv.in_proj", false},
    {"conv.conv", "shortconv.conv", false},
    {"conv.out_proj", "shortconv.out_proj", false},
    {"dense_2.linear", "dense_2", false},
    {"dense_3.linear", "dense_3", false},
    /* BERT and those that came of it */
    {"embeddings.word_embeddings", "token_embd", false},
    {"embeddings.position_embeddings", "position_embd", false},
    {"embeddings.token_type_embeddings", "token_types", false},
    {"embeddings.LayerNorm", "token_embd_norm", false},
    {"attention.self.query", "attn_q", false},
    {"attention.self.key", "attn_k", false},
    {"attention.self.value", "attn_v", false},
    {"attention.output.dense", "attn_output", false},
    {"attention.output.LayerNorm", "attn_output_norm", false},
    {"intermediate.dense", "ffn_up", false},
    {"output.dense", "ffn_down", false},
    {"output.LayerNorm", "layer_output_norm", false},
    /* NomicBERT, ModernBERT */
    {"emb_ln", "token_embd_norm", false},
    {"attn.Wqkv", "attn_qkv", false},
    {"attn.out_proj", "attn_output", false},
    {"norm1", "attn_output_norm", false},
    {"mlp.fc11", "ffn_up", false},
    {"mlp.fc12", "ffn_gate", false},
    {"mlp.fc2", "ffn_down", false}, /* Phi's and those of classes before Llama, too */
    {"norm2", "layer_output_norm", false},
    {"embeddings.tok_embeddings", "token_embd", false},
    {"embeddings.norm", "token_embd_norm", false},
    {"attn_norm", "attn_norm", false},
    {"attn.Wo", "attn_output", false},
    {"mlp_norm", "ffn_norm", false},
    {"mlp.Wi", "ffn_up", false},
    {"mlp.Wo", "ffn_down", false},
    {"final_norm", "output_norm", false},
};

/* Whose files name the norm before the MLP as if it ended attention. */
static bool has_late_name(const struct architecture *a) {
  static const char *const late[] = {"gpt_oss", "seed_oss", "glm4_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"};
  for (size_t i = 0; i < sizeof late / sizeof *late; i++)
    if (strcmp(late[i], a->name) == 0) return true;
  return false;
}

/* Norms are named by their places in a layer, whatever transformers calls them. */
static const char *norm_name(const struct architecture *a, const char *plan) {
  if (a->pre_attention && strcmp(plan, a->pre_attention) == 0) return "attn_norm";
  if (a->post_attention && strcmp(plan, a->post_attention) == 0) return "post_attention_norm";
  if (a->pre_mlp && strcmp(plan, a->pre_mlp) == 0)
    return has_late_name(a) ? "post_attention_norm" : "ffn_norm";
  if (a->post_mlp && strcmp(plan, a->post_mlp) == 0) return "post_ffw_norm";
  return NULL;
}

bool gguf_tensor_name(const struct architecture *a, const char *plan, char *ret, size_t size, bool *ret_rotated) {
  char body[256];
  unsigned layer = 0;
  int start = 0;
  for (size_t i = 0; i < sizeof layers / sizeof *layers && !start; i++) {
    size_t n = strlen(layers[i]);
    if (strncmp(plan, layers[i], n) == 0 && sscanf(plan + n, "%u.%n", &layer, &start) == 1 && start) start += (int)n;
  }
  bool in_layer = start > 0;
  const char *dot = strrchr(plan, '.');
  if (!dot || dot < plan + start) return false;
  snprintf(body, sizeof body, "%.*s", (int)(dot - plan - start), plan + start);
  const char *found = in_layer ? norm_name(a, body) : NULL;
  for (size_t i = 0; i < sizeof names / sizeof *names && !found; i++) {
    if (strcmp(names[i].plan, body) != 0) continue;
    found = names[i].gguf;
    *ret_rotated = names[i].rotated;
  }
  if (found && in_layer) snprintf(ret, size, "blk.%u.%s%s", layer, found, dot);
  if (found && !in_layer) snprintf(ret, size, "%s%s", found, dot);
  return found != NULL;
}
