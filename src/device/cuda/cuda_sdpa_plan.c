/* SPDX-License-Identifier: MIT */
/* Prefill attention as cuDNN is told of it: a graph of small operations, as its pattern for flash attention wants
 * them, that becomes one kernel.
 *
 *   K = keys by their table ─┐
 *   Q ───────────────────────┴► Q K^T ─► * scale ─► -inf past either length ─► -inf after the row's own position
 *       ─► softmax (max, -, exp, sum, /) ─┬► O
 *   V = values by their table ────────────┘
 *
 * Beside it stands max + log(sum), which nobody wants: without these two operations cuDNN takes max and sum themselves for
 * results of the graph, and its kernel writes them to addresses that nobody gave (9.19, on all GPUs). cudnn-frontend has
 * them in every graph, and a tensor of its own for each mask's -inf: so this graph becomes the very kernel that its users run.
 *
 * Q and O are rows of the step: where a sequence's begin is said by an array (ragged offsets). Row i of a sequence
 * of n_q rows and n_kv tokens has position n_kv - n_q + i. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda_sdpa.h"
#include "tokenlane/step.h"

/* All of one graph; after the first error nothing more is asked of cuDNN. */
struct builder {
  const struct cuda_dnn *dnn;
  struct cuda_sdpa_plan *plan;
  void *ops[32];
  int64_t n_ops, next_id;
  int status;
};

struct dims {
  int64_t at[4];
};

static void *new_desc(struct builder *b, int kind) {
  void *desc = NULL;
  if (b->status == 0 && b->plan->n_descs == CUDA_SDPA_DESCS) b->status = CUDA_DNN_FULL;
  if (b->status == 0) b->status = b->dnn->desc_new(kind, &desc);
  if (b->status == 0) b->plan->descs[b->plan->n_descs++] = desc;
  return desc;
}

static void set(struct builder *b, void *desc, int attribute, int type, int64_t n, const void *values) {
  if (b->status == 0) b->status = b->dnn->desc_set(desc, attribute, type, n, values);
}

static void set_desc(struct builder *b, void *desc, int attribute, void *value) {
  set(b, desc, attribute, CUDA_DNN_TYPE_DESC, 1, &value);
}

static void set_type(struct builder *b, void *desc, int attribute, int value) {
  set(b, desc, attribute, CUDA_DNN_TYPE_DATA_TYPE, 1, &value);
}

static void finalize(struct builder *b, void *desc) {
  if (b->status == 0) b->status = b->dnn->desc_finalize(desc);
}

/* --- tensors --------------------------------------------------------------------------------------- */

static struct dims packed(struct dims d) {
  return (struct dims){{d.at[1] * d.at[2] * d.at[3], d.at[2] * d.at[3], d.at[3], 1}};
}

/* What an execution gives a pointer for, by CUDA_SDPA_*; ragged: the tensor of its sequences' offsets, or NULL. */
static void *tensor(struct builder *b, int64_t id, int type, struct dims d, struct dims strides, void *ragged) {
  bool yes = true;
  int64_t alignment = type == CUDA_DNN_INT32 || type == CUDA_DNN_FLOAT ? 4 : 16;
  void *t = new_desc(b, CUDA_DNN_TENSOR);
  set_type(b, t, CUDA_DNN_TENSOR_DATA_TYPE, type);
  set(b, t, CUDA_DNN_TENSOR_DIMENSIONS, CUDA_DNN_TYPE_INT64, 4, d.at);
  set(b, t, CUDA_DNN_TENSOR_STRIDES, CUDA_DNN_TYPE_INT64, 4, strides.at);
  set(b, t, CUDA_DNN_TENSOR_ID, CUDA_DNN_TYPE_INT64, 1, &id);
  set(b, t, CUDA_DNN_TENSOR_ALIGNMENT, CUDA_DNN_TYPE_INT64, 1, &alignment);
  if (id >= CUDA_SDPA_IDS) set(b, t, CUDA_DNN_TENSOR_IS_VIRTUAL, CUDA_DNN_TYPE_BOOLEAN, 1, &yes);
  if (id == CUDA_SDPA_SCALE || id == CUDA_SDPA_OUTSIDE || id == CUDA_SDPA_AFTER)
    set(b, t, CUDA_DNN_TENSOR_IS_BY_VALUE, CUDA_DNN_TYPE_BOOLEAN, 1, &yes);
  if (ragged) set_desc(b, t, CUDA_DNN_TENSOR_RAGGED, ragged);
  finalize(b, t);
  return t;
}

static void *one_tensor(struct builder *b, int64_t id, int type) {
  return tensor(b, id, type, (struct dims){{1, 1, 1, 1}}, (struct dims){{1, 1, 1, 1}}, NULL);
}

/* A number a sequence. */
static void *list_tensor(struct builder *b, int64_t id, int64_t n) {
  return tensor(b, id, CUDA_DNN_INT32, (struct dims){{n, 1, 1, 1}}, (struct dims){{1, 1, 1, 1}}, NULL);
}

/* What lies only between two operations. */
static void *between(struct builder *b, int type, struct dims d) {
  return tensor(b, b->next_id++, type, d, packed(d), NULL);
}

/* --- operations ----------------------------------------------------------------------------------------- */

static void add_op(struct builder *b, void *op) {
  finalize(b, op);
  b->ops[b->n_ops++] = op;
}

/* y = x (mode) other; t: what CUDA_DNN_SELECT chooses by. */
static void pointwise(struct builder *b, int mode, int precision, void *x, void *other, void *t, void *y) {
  void *desc = new_desc(b, CUDA_DNN_POINTWISE), *op;
  set(b, desc, CUDA_DNN_PW_MODE, CUDA_DNN_TYPE_POINTWISE_MODE, 1, &mode);
  set_type(b, desc, CUDA_DNN_PW_PREC, precision);
  finalize(b, desc);
  op = new_desc(b, CUDA_DNN_OP_POINTWISE);
  set_desc(b, op, CUDA_DNN_OP_PW_DESC, desc);
  set_desc(b, op, CUDA_DNN_OP_PW_X, x);
  if (other) set_desc(b, op, CUDA_DNN_OP_PW_B, other);
  if (t) set_desc(b, op, CUDA_DNN_OP_PW_T, t);
  set_desc(b, op, CUDA_DNN_OP_PW_Y, y);
  add_op(b, op);
}

/* Each score's own row or column. */
static void *index_of(struct builder *b, void *scores, struct dims d, int64_t axis) {
  int mode = CUDA_DNN_INDEX;
  void *y = between(b, CUDA_DNN_INT32, d), *desc = new_desc(b, CUDA_DNN_POINTWISE), *op;
  set(b, desc, CUDA_DNN_PW_MODE, CUDA_DNN_TYPE_POINTWISE_MODE, 1, &mode);
  set_type(b, desc, CUDA_DNN_PW_PREC, CUDA_DNN_INT32);
  set(b, desc, CUDA_DNN_PW_AXIS, CUDA_DNN_TYPE_INT64, 1, &axis);
  finalize(b, desc);
  op = new_desc(b, CUDA_DNN_OP_POINTWISE);
  set_desc(b, op, CUDA_DNN_OP_PW_DESC, desc);
  set_desc(b, op, CUDA_DNN_OP_PW_X, scores);
  set_desc(b, op, CUDA_DNN_OP_PW_Y, y);
  add_op(b, op);
  return y;
}

static void *reduce(struct builder *b, int operation, void *x, struct dims d) {
  d.at[3] = 1;
  void *y = between(b, CUDA_DNN_FLOAT, d), *desc = new_desc(b, CUDA_DNN_REDUCTION), *op;
  set(b, desc, CUDA_DNN_REDUCTION_OP, CUDA_DNN_TYPE_REDUCTION, 1, &operation);
  set_type(b, desc, CUDA_DNN_REDUCTION_COMP_TYPE, CUDA_DNN_FLOAT);
  finalize(b, desc);
  op = new_desc(b, CUDA_DNN_OP_REDUCTION);
  set_desc(b, op, CUDA_DNN_OP_REDUCTION_DESC, desc);
  set_desc(b, op, CUDA_DNN_OP_REDUCTION_X, x);
  set_desc(b, op, CUDA_DNN_OP_REDUCTION_Y, y);
  add_op(b, op);
  return y;
}

/* c = a b of only so many rows (m), and columns (n) or inner elements (k), as a sequence has. */
static void multiply(struct builder *b, void *x, void *y, void *z, void *m, void *n, void *k) {
  double padding = 0;
  void *desc = new_desc(b, CUDA_DNN_MATMUL), *op;
  set_type(b, desc, CUDA_DNN_MATMUL_COMP_TYPE, CUDA_DNN_FLOAT);
  if (n) set(b, desc, CUDA_DNN_MATMUL_PADDING, CUDA_DNN_TYPE_DOUBLE, 1, &padding);
  finalize(b, desc);
  op = new_desc(b, CUDA_DNN_OP_MATMUL);
  set_desc(b, op, CUDA_DNN_OP_MATMUL_DESC, desc);
  set_desc(b, op, CUDA_DNN_OP_MATMUL_A, x);
  set_desc(b, op, CUDA_DNN_OP_MATMUL_B, y);
  set_desc(b, op, CUDA_DNN_OP_MATMUL_C, z);
  set_desc(b, op, CUDA_DNN_OP_MATMUL_M, m);
  if (n) set_desc(b, op, CUDA_DNN_OP_MATMUL_N, n);
  if (k) set_desc(b, op, CUDA_DNN_OP_MATMUL_K, k);
  add_op(b, op);
}

/* The cache of a layer, of which `to` is what one sequence sees. */
static void load_pages(struct builder *b, const struct cuda_sdpa_shape *s, int64_t id, int64_t table_id, void *lengths, void *to) {
  struct dims pages = {{s->n_blocks, s->n_kv_heads, TL_BLOCK_TOKENS, s->head}};
  struct dims table = {{s->n_seqs, 1, s->table_stride, 1}};
  void *op = new_desc(b, CUDA_DNN_OP_PAGED_LOAD);
  set_desc(b, op, CUDA_DNN_PAGED_CONTAINER, tensor(b, id, s->type, pages, packed(pages), NULL));
  set_desc(b, op, CUDA_DNN_PAGED_TABLE, tensor(b, table_id, CUDA_DNN_INT32, table, packed(table), NULL));
  set_desc(b, op, CUDA_DNN_PAGED_LENGTHS, lengths);
  set_desc(b, op, CUDA_DNN_PAGED_Y, to);
  add_op(b, op);
}

/* --- the graph ------------------------------------------------------------------------------------------------ */

/* -inf for scores that are no key's or no row's, then for those of keys after the row's position. */
static void *mask(struct builder *b, void *scores, struct dims d, void *rows, void *lengths) {
  void *outside = one_tensor(b, CUDA_SDPA_OUTSIDE, CUDA_DNN_FLOAT), *later = one_tensor(b, CUDA_SDPA_AFTER, CUDA_DNN_FLOAT);
  void *row = index_of(b, scores, d, 2), *column = index_of(b, scores, d, 3);
  void *is_row = between(b, CUDA_DNN_BOOLEAN, d), *is_key = between(b, CUDA_DNN_BOOLEAN, d), *both = between(b, CUDA_DNN_BOOLEAN, d);
  void *inside = between(b, CUDA_DNN_FLOAT, d);
  pointwise(b, CUDA_DNN_LT, CUDA_DNN_BOOLEAN, row, rows, NULL, is_row);
  pointwise(b, CUDA_DNN_LT, CUDA_DNN_BOOLEAN, column, lengths, NULL, is_key);
  pointwise(b, CUDA_DNN_AND, CUDA_DNN_BOOLEAN, is_row, is_key, NULL, both);
  pointwise(b, CUDA_DNN_SELECT, CUDA_DNN_FLOAT, scores, outside, both, inside);
  void *row_again = index_of(b, inside, d, 2), *column_again = index_of(b, inside, d, 3);
  void *after = between(b, CUDA_DNN_INT32, d), *position = between(b, CUDA_DNN_INT32, d);
  void *is_seen = between(b, CUDA_DNN_BOOLEAN, d), *seen = between(b, CUDA_DNN_FLOAT, d);
  pointwise(b, CUDA_DNN_ADD, CUDA_DNN_INT32, row_again, lengths, NULL, after);
  pointwise(b, CUDA_DNN_SUB, CUDA_DNN_INT32, after, rows, NULL, position);
  pointwise(b, CUDA_DNN_GE, CUDA_DNN_BOOLEAN, position, column_again, NULL, is_seen);
  pointwise(b, CUDA_DNN_SELECT, CUDA_DNN_FLOAT, inside, later, is_seen, seen);
  return seen;
}

static void *soften(struct builder *b, void *scores, struct dims d, int type) {
  struct dims rows = {{d.at[0], d.at[1], d.at[2], 1}};
  void *less = between(b, CUDA_DNN_FLOAT, d), *weights = between(b, CUDA_DNN_FLOAT, d), *shares = between(b, type, d);
  void *max = reduce(b, CUDA_DNN_REDUCE_MAX, scores, d);
  pointwise(b, CUDA_DNN_SUB, CUDA_DNN_FLOAT, scores, max, NULL, less);
  pointwise(b, CUDA_DNN_EXP, CUDA_DNN_FLOAT, less, NULL, NULL, weights);
  void *sum = reduce(b, CUDA_DNN_REDUCE_ADD, weights, d), *log = between(b, CUDA_DNN_FLOAT, rows), *total = between(b, CUDA_DNN_FLOAT, rows);
  pointwise(b, CUDA_DNN_LOG, CUDA_DNN_FLOAT, sum, NULL, NULL, log);
  pointwise(b, CUDA_DNN_ADD, CUDA_DNN_FLOAT, max, log, NULL, total);
  pointwise(b, CUDA_DNN_DIV, CUDA_DNN_FLOAT, weights, sum, NULL, shares);
  return shares;
}

static void describe(struct builder *b, const struct cuda_sdpa_shape *s) {
  int64_t tokens = s->table_stride * TL_BLOCK_TOKENS, row = s->n_heads * s->head;
  struct dims q = {{s->n_seqs, s->n_heads, s->max_rows, s->head}}, q_strides = {{s->max_rows * row, s->head, row, 1}};
  struct dims scores = {{s->n_seqs, s->n_heads, s->max_rows, tokens}};
  struct dims k = {{s->n_seqs, s->n_kv_heads, s->head, tokens}}, v = {{s->n_seqs, s->n_kv_heads, tokens, s->head}};
  struct dims k_strides = {{s->n_kv_heads * tokens * s->head, tokens * s->head, 1, s->head}};
  void *rows = list_tensor(b, CUDA_SDPA_ROWS, s->n_seqs), *lengths = list_tensor(b, CUDA_SDPA_LENGTHS, s->n_seqs);
  void *starts = list_tensor(b, CUDA_SDPA_STARTS, s->n_seqs + 1);
  void *keys = tensor(b, b->next_id++, s->type, k, k_strides, NULL), *values = between(b, s->type, v);
  load_pages(b, s, CUDA_SDPA_K, CUDA_SDPA_K_TABLE, lengths, keys);
  void *product = between(b, CUDA_DNN_FLOAT, scores), *scaled = between(b, CUDA_DNN_FLOAT, scores);
  multiply(b, tensor(b, CUDA_SDPA_Q, s->type, q, q_strides, starts), keys, product, rows, lengths, NULL);
  pointwise(b, CUDA_DNN_MUL, CUDA_DNN_FLOAT, product, one_tensor(b, CUDA_SDPA_SCALE, CUDA_DNN_FLOAT), NULL, scaled);
  void *shares = soften(b, mask(b, scaled, scores, rows, lengths), scores, s->type);
  load_pages(b, s, CUDA_SDPA_V, CUDA_SDPA_V_TABLE, lengths, values);
  multiply(b, shares, values, tensor(b, CUDA_SDPA_O, s->type, q, q_strides, starts), rows, NULL, lengths);
}

/* --- the plan ------------------------------------------------------------------------------------------------------ */

/* Not of dynamic shapes, for which cuDNN would keep the compiled kernel: the JSON of a plan with a kernel from there has the
 * first one's sizes in its parameters (9.19), and whether a launch has them, too, nobody says. */
static void *make_graph(struct builder *b, void *handle) {
  void *graph = new_desc(b, CUDA_DNN_GRAPH);
  set(b, graph, CUDA_DNN_GRAPH_HANDLE, CUDA_DNN_TYPE_HANDLE, 1, &handle);
  set(b, graph, CUDA_DNN_GRAPH_OPS, CUDA_DNN_TYPE_DESC, b->n_ops, b->ops);
  finalize(b, graph);
  return graph;
}

/* The kernel that cuDNN's heuristic names first. */
static void *choose_kernel(struct builder *b, void *graph) {
  int mode = CUDA_DNN_HEUR_A;
  int64_t n = 0;
  void *heuristic = new_desc(b, CUDA_DNN_ENGINEHEUR), *config = new_desc(b, CUDA_DNN_ENGINECFG);
  set_desc(b, heuristic, CUDA_DNN_HEUR_GRAPH, graph);
  set(b, heuristic, CUDA_DNN_HEUR_MODE, CUDA_DNN_TYPE_HEUR_MODE, 1, &mode);
  finalize(b, heuristic);
  if (b->status == 0) b->status = b->dnn->desc_get(heuristic, CUDA_DNN_HEUR_RESULTS, CUDA_DNN_TYPE_DESC, 1, &n, &config);
  if (b->status == 0 && n < 1) b->status = CUDA_DNN_NONE;
  return config;
}

/* Whether the plan's kernel takes memory for nothing but what it is given: its parameters, as cuDNN's own JSON of a plan lists
 * them, name tensors by `"uid":n`. One that lies between two operations would be written to wherever its parameter
 * happens to point. Numbers of 64 bits are cuDNN's own parts of the workspace. */
static bool takes_only_given(const char *json, int64_t next_id) {
  static const char key[] = "\"uid\":";
  bool given[CUDA_SDPA_IDS] = {false};
  for (const char *at = strstr(json, key); at; at = strstr(at + 1, key)) {
    int64_t id = strtoll(at + sizeof key - 1, NULL, 10);
    if (id >= CUDA_SDPA_IDS && id < next_id) return false;
    if (id >= 0 && id < CUDA_SDPA_IDS) given[id] = true;
  }
  /* without these, the list is not what we take it for */
  return given[CUDA_SDPA_Q] && given[CUDA_SDPA_O] && given[CUDA_SDPA_K] && given[CUDA_SDPA_V];
}

static void check_parameters(struct builder *b) {
  int64_t n = 0;
  char *json = NULL;
  if (b->status == 0) b->status = b->dnn->desc_get(b->plan->plan, CUDA_DNN_PLAN_JSON, CUDA_DNN_TYPE_CHAR, 0, &n, NULL);
  if (b->status == 0 && (n <= 0 || !(json = calloc(1, (size_t)n + 1)))) b->status = CUDA_DNN_UNKNOWN;
  if (b->status == 0) b->status = b->dnn->desc_get(b->plan->plan, CUDA_DNN_PLAN_JSON, CUDA_DNN_TYPE_CHAR, n, &n, json);
  if (b->status == 0 && !takes_only_given(json, b->next_id)) b->status = CUDA_DNN_UNKNOWN;
  free(json);
}

int cuda_sdpa_build(const struct cuda_dnn *dnn, void *handle, const struct cuda_sdpa_shape *shape, struct cuda_sdpa_plan *ret) {
  struct builder b = {.dnn = dnn, .plan = ret, .next_id = CUDA_SDPA_IDS};
  int64_t n = 0;
  *ret = (struct cuda_sdpa_plan){.shape = *shape};
  describe(&b, shape);
  void *graph = make_graph(&b, handle), *config = choose_kernel(&b, graph);
  ret->plan = new_desc(&b, CUDA_DNN_PLAN);
  set(&b, ret->plan, CUDA_DNN_PLAN_HANDLE, CUDA_DNN_TYPE_HANDLE, 1, &handle);
  set_desc(&b, ret->plan, CUDA_DNN_PLAN_CONFIG, config);
  finalize(&b, ret->plan);
  if (b.status == 0)
    b.status = dnn->desc_get(ret->plan, CUDA_DNN_PLAN_WORKSPACE, CUDA_DNN_TYPE_INT64, 1, &n, &ret->workspace_bytes);
  check_parameters(&b);
  return b.status;
}

void cuda_sdpa_free(const struct cuda_dnn *dnn, struct cuda_sdpa_plan *plan) {
  while (plan->n_descs) dnn->desc_free(plan->descs[--plan->n_descs]);
}

int cuda_sdpa_execute(const struct cuda_dnn *dnn, void *handle, const struct cuda_sdpa_plan *plan, const void *const pointers[CUDA_SDPA_IDS],
                      void *workspace) {
  int64_t ids[CUDA_SDPA_IDS];
  void *pack;
  for (int64_t i = 0; i < CUDA_SDPA_IDS; i++) ids[i] = i;
  int r = dnn->desc_new(CUDA_DNN_PACK, &pack);
  if (r) return r;
  r = dnn->desc_set(pack, CUDA_DNN_PACK_IDS, CUDA_DNN_TYPE_INT64, CUDA_SDPA_IDS - 1, ids + 1);
  if (r == 0) r = dnn->desc_set(pack, CUDA_DNN_PACK_POINTERS, CUDA_DNN_TYPE_VOID_PTR, CUDA_SDPA_IDS - 1, pointers + 1);
  if (r == 0) r = dnn->desc_set(pack, CUDA_DNN_PACK_WORKSPACE, CUDA_DNN_TYPE_VOID_PTR, 1, &workspace);
  if (r == 0) r = dnn->desc_finalize(pack);
  if (r == 0) r = dnn->execute(handle, plan->plan, pack);
  dnn->desc_free(pack);
  return r;
}
