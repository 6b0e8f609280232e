/* SPDX-License-Identifier: MIT */
/* The model's plan as this backend runs it: sizes padded, records that one kernel
 * does together made one, everything that it cannot do refused by name. */
#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda_private.h"

int cuda_refuse(const struct cuda_device *d, const char *what, struct tl_error *err) {
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "model.path: the CUDA backend cannot run this %.40s model: %.200s",
                      d->model->architecture, what);
}

/* The rank's part of the model, and where the vocabulary is cut. */
static int make_shard(struct cuda_device *d, struct tl_error *err) {
  uint32_t size = d->shard.size, widest = 0;
  for (uint32_t rank = 0; rank < size; rank++) {
    struct tl_shard other;
    int r = tl_shard_make(d->model, rank, size, &other, err);
    if (r < 0) return r;
    if (rank == d->shard.rank) d->shard = other;
    if (other.n_vocab > widest) widest = other.n_vocab;
    d->vocab_cuts[rank + 1] = other.first_vocab + other.n_vocab;
  }
  d->dims.ld_part = (uint32_t)cuda_round(widest, 4);
  return TL_OK;
}

static int make_dims(struct cuda_device *d, struct tl_error *err) {
  const struct tl_model *m = d->model;
  struct cuda_dims *s = &d->dims;
  int r = make_shard(d, err);
  if (r < 0) return r;
  /* Floats become F16, which has three bits more than BF16; but MXFP4's scales reach further, and models that ship it do, too. */
  bool wide = m->dtype == TL_DTYPE_BF16 || m->weight_dtype == TL_DTYPE_MXFP4 || m->weight_dtype == TL_DTYPE_NVFP4;
  d->dtype = wide ? TL_CUDA_BF16 : TL_CUDA_F16;
  d->attend_dtype = !d->keeps_bytes ? d->dtype : wide ? TL_CUDA_BF16_BYTES : TL_CUDA_F16_BYTES;
  s->dim = (uint32_t)cuda_round(m->dim, 8);
  s->head = (uint32_t)cuda_round(m->head_dim, d->keeps_bytes ? 16 : 8);
  s->n_heads = d->shard.n_heads;
  s->n_kv_heads = d->shard.n_kv_heads;
  s->vocab = m->vocab_size;
  s->n_vocab = d->shard.n_vocab;
  s->ld_logits = (uint32_t)cuda_round(s->vocab, 4);
  s->qkv = (s->n_heads + 2 * s->n_kv_heads) * s->head;
  s->attn = s->n_heads * s->head;
  s->rope = s->head;
  for (uint32_t i = 0; i < m->n_ops; i++)
    if (m->plan[i].kind == TL_OP_EXPERTS_IN) s->low = (uint32_t)cuda_round(m->tensors[m->plan[i].weight[0]].shape[0], 8);
  if (s->low > s->dim) return cuda_refuse(d, "experts that work in a latent that is larger than a row", err);
  if ((r = cuda_state_dims(d, err)) < 0) return r;
  if (m->n_latent) return cuda_latent_dims(d, err);
  if (m->wide.dim) return cuda_refuse(d, "heads of two sizes (global_head_dim)", err);
  if (s->head > TL_CUDA_MAX_HEAD_DIM) return cuda_refuse(d, "heads of more than 256 elements", err);
  if (m->head_dim % 2 || m->n_rotated % 2) return cuda_refuse(d, "heads of an odd size", err);
  if (m->n_heads % m->n_kv_heads) return cuda_refuse(d, "query heads that key heads do not divide", err);
  return TL_OK;
}

/* What kernels know of each kind: how many weights it has, and features. */
static const struct {
  int n_weights;
  uint32_t features;
} known[] = {
    [TL_OP_EMBED] = {1, TL_F_FACTOR},
    [TL_OP_EMBED_PLACE] = {0, 0},
    [TL_OP_RMSNORM] = {1, TL_F_LAYER_NORM | TL_F_PLUS_ONE | TL_F_IN_PLACE},
    [TL_OP_COPY] = {0, 0},
    [TL_OP_QKV] = {3, 0},
    [TL_OP_ROPE] = {0, TL_F_INTERLEAVED | TL_F_PARTIAL | TL_F_LOCAL | TL_F_FACTOR},
    [TL_OP_ATTEND] = {0, TL_F_SOFTCAP | TL_F_WINDOW | TL_F_SINKS | TL_F_BOTH_SIDES | TL_F_CHUNKED | TL_F_GROWS},
    [TL_OP_ATTN_OUT] = {1, TL_F_TO_H | TL_F_FACTOR},
    [TL_OP_GATED_UP] = {2, TL_F_GELU_TANH | TL_F_GELU},
    [TL_OP_UP] = {1, TL_F_GELU_TANH | TL_F_RELU2 | TL_F_RELU | TL_F_XIELU},
    [TL_OP_MLP_DOWN] = {1, TL_F_TO_H | TL_F_FACTOR},
    [TL_OP_LOGITS] = {1, TL_F_FACTOR | TL_F_SOFTCAP},
    [TL_OP_QK_NORM] = {2, TL_F_PLUS_ONE | TL_F_WHOLE_ROW | TL_F_LAYER_NORM | TL_F_EACH_HEAD},
    [TL_OP_NORM_ADD] = {1, TL_F_PLUS_ONE},
    [TL_OP_ROUTE] = {1, TL_F_NORMALIZED | TL_F_SIGMOID | TL_F_CHOICE | TL_F_FACTOR | TL_F_GROUPED | TL_F_MIXED},
    [TL_OP_EXPERTS_UP] = {1, TL_F_CLAMPED | TL_F_SHARE_IN | TL_F_RELU2 | TL_F_LOW_RANK}, /* and a second, unless it squares */
    [TL_OP_EXPERTS_DOWN] = {1, TL_F_SHARE_IN | TL_F_LOW_RANK},
    [TL_OP_EXPERTS_IN] = {1, 0},
    [TL_OP_EXPERTS_OUT] = {1, 0},
    [TL_OP_ROW_GATE] = {0, 0},
    [TL_OP_LATENT] = {2, TL_F_LOW_RANK},
    [TL_OP_LATENT_NORM] = {0, TL_F_GROWS},
    [TL_OP_LATENT_QUERY] = {1, 0},
    [TL_OP_LATENT_ROPE] = {0, TL_F_INTERLEAVED | TL_F_FACTOR},
    [TL_OP_LATENT_ABSORB] = {1, TL_F_TURNED},
    [TL_OP_LATENT_ATTEND] = {0, 0},
    [TL_OP_LATENT_VALUE] = {1, 0},
    [TL_OP_DELTA_IN] = {3, 0},
    [TL_OP_DELTA_GATES] = {2, 0},
    [TL_OP_CONV] = {3, 0},
    [TL_OP_DELTA] = {2, TL_F_TURNED},
    [TL_OP_SCAN] = {3, 0},
    [TL_OP_GATED_NORM] = {1, TL_F_GATE_FIRST},
    [TL_OP_GATE_IN] = {1, 0},
    [TL_OP_GATE] = {0, 0},
    [TL_OP_SHORT_IN] = {3, 0},
    [TL_OP_SHORT_CONV] = {1, 0},
    [TL_OP_POOL] = {0, 0},
    [TL_OP_DENSE] = {1, TL_F_TANH | TL_F_GELU},
    [TL_OP_VECTOR_NORM] = {1, 0},
};

static bool is_known(const struct tl_op *op) {
  if ((size_t)op->kind >= sizeof known / sizeof *known || op->features & ~known[op->kind].features) return false;
  for (int i = 0; i < known[op->kind].n_weights; i++)
    if (op->weight[i] < 0) return false;
  if (op->kind == TL_OP_LATENT_NORM && op->weight[1] < 0) return false;
  if (op->kind == TL_OP_EXPERTS_UP && (op->weight[1] < 0) != ((op->features & TL_F_RELU2) != 0)) return false;
  if (op->kind == TL_OP_ROUTE && op->weight[1] >= 0) return false; /* factors of experts' shares */
  if (op->features & TL_F_GROUPED && op->n_groups > 32) return false;
  if (op->kind == TL_OP_QK_NORM && !(op->features & TL_F_EACH_HEAD) != !(op->features & TL_F_LAYER_NORM)) return false;
  return !(op->features & TL_F_SINKS) || op->weight[0] >= 0;
}

/* One of several records that one of ours stands for: whether it is next. */
static bool take(const struct tl_op **op, const struct tl_op *end, enum tl_op_kind kind, const struct tl_op **ret) {
  if (*op == end || (*op)->kind != kind) return false;
  *ret = (*op)++;
  return true;
}

/* Of the MLP that stands behind a layer's experts, if one does: known to the router, which computes it too. */
static const struct tl_op *find_row_gate(const struct tl_op *route, const struct tl_op *end) {
  static const enum tl_op_kind kinds[] = {TL_OP_ROUTE, TL_OP_EXPERTS_UP, TL_OP_EXPERTS_DOWN, TL_OP_GATED_UP, TL_OP_ROW_GATE};
  size_t n = sizeof kinds / sizeof *kinds;
  for (size_t i = 0; i < n; i++) {
    if (route + i >= end) return NULL;
    enum tl_op_kind kind = route[i].kind == TL_OP_UP ? TL_OP_GATED_UP : route[i].kind; /* without a gate, as its experts */
    if (kind != kinds[i]) return NULL;
  }
  return route + n - 1;
}

/* The record that begins at op, and where the next one does; NULL: none does, or it wants something
 * that no kernel does. */
static const struct tl_op *match(const struct tl_op *op, const struct tl_op *end, struct cuda_op *to) {
  static const enum cuda_op_kind kinds[] = {
      [TL_OP_EMBED] = CUDA_OP_EMBED,   [TL_OP_RMSNORM] = CUDA_OP_NORM,   [TL_OP_COPY] = CUDA_OP_NORM,
      [TL_OP_QKV] = CUDA_OP_QKV,       [TL_OP_ATTEND] = CUDA_OP_ATTEND,  [TL_OP_ATTN_OUT] = CUDA_OP_OUT,
      [TL_OP_GATED_UP] = CUDA_OP_GATED, [TL_OP_MLP_DOWN] = CUDA_OP_DOWN, [TL_OP_LOGITS] = CUDA_OP_LOGITS,
      [TL_OP_ROUTE] = CUDA_OP_ROUTE,   [TL_OP_EXPERTS_UP] = CUDA_OP_EXPERTS_UP, [TL_OP_EXPERTS_DOWN] = CUDA_OP_EXPERTS_DOWN,
      [TL_OP_EXPERTS_IN] = CUDA_OP_EXPERTS_IN, [TL_OP_EXPERTS_OUT] = CUDA_OP_EXPERTS_OUT,
      [TL_OP_LATENT] = CUDA_OP_LATENT, [TL_OP_LATENT_NORM] = CUDA_OP_LATENT_ROWS, [TL_OP_LATENT_QUERY] = CUDA_OP_LATENT_QUERY,
      [TL_OP_LATENT_ABSORB] = CUDA_OP_LATENT_ABSORB, [TL_OP_LATENT_ATTEND] = CUDA_OP_LATENT_ATTEND,
      [TL_OP_LATENT_VALUE] = CUDA_OP_LATENT_VALUE,
      [TL_OP_DELTA_IN] = CUDA_OP_DELTA_IN, [TL_OP_CONV] = CUDA_OP_CONV,  [TL_OP_DELTA] = CUDA_OP_DELTA,
      [TL_OP_SCAN] = CUDA_OP_DELTA,
      [TL_OP_GATED_NORM] = CUDA_OP_GATED_NORM, [TL_OP_SHORT_IN] = CUDA_OP_SHORT_IN, [TL_OP_SHORT_CONV] = CUDA_OP_SHORT_CONV,
      [TL_OP_GATE_IN] = CUDA_OP_GATE_IN, [TL_OP_GATE] = CUDA_OP_GATE,
      [TL_OP_UP] = CUDA_OP_UP,         [TL_OP_POOL] = CUDA_OP_POOL,      [TL_OP_DENSE] = CUDA_OP_DENSE};
  const struct tl_op *first = op, *copy;
  bool is_norm = take(&op, end, TL_OP_NORM_ADD, &to->post);
  bool is_attention = !is_norm && take(&op, end, TL_OP_QK_NORM, &to->qk_norm);
  is_attention |= !is_norm && take(&op, end, TL_OP_ROPE, &to->rope);
  to->norm_last = to->rope && !to->qk_norm && take(&op, end, TL_OP_QK_NORM, &to->qk_norm);
  if (to->norm_last && cuda_norms_whole_rows(to)) return NULL;
  bool turns = !is_norm && !is_attention && take(&op, end, TL_OP_LATENT_ROPE, &to->rope);
  if (op == end || (size_t)op->kind >= sizeof kinds / sizeof *kinds) return NULL;
  to->from = op++;
  to->kind = kinds[to->from->kind];
  if ((is_norm && to->kind != CUDA_OP_NORM) || (is_attention && to->kind != CUDA_OP_ATTEND)) return NULL;
  if (turns != (to->kind == CUDA_OP_LATENT_ABSORB)) return NULL;
  if (to->kind == CUDA_OP_EMBED && to->from->kind != TL_OP_EMBED) return NULL; /* a kind without an entry */
  if (to->kind == CUDA_OP_LATENT_ROWS && !(to->rope = cuda_latent_rope(to->from, end))) return NULL;
  if (to->kind == CUDA_OP_DELTA_IN && !take(&op, end, TL_OP_DELTA_GATES, &to->gates)) return NULL;
  if (to->kind == CUDA_OP_ROUTE) to->row_gate = find_row_gate(to->from, end);
  if (to->kind == CUDA_OP_GATED || to->kind == CUDA_OP_UP) take(&op, end, TL_OP_ROW_GATE, &to->row_gate);
  if (to->kind == CUDA_OP_EMBED && !to->from->features) take(&op, end, TL_OP_EMBED_PLACE, &to->place);
  if (to->kind == CUDA_OP_DENSE) take(&op, end, TL_OP_VECTOR_NORM, &to->vector_norm);
  if (to->kind == CUDA_OP_NORM && to->from->features & TL_F_IN_PLACE) take(&op, end, TL_OP_COPY, &copy); /* its h is what x is */
  for (; first < op; first++)
    if (!is_known(first)) return NULL;
  return op;
}

static bool is_of(const struct tl_op *experts, const struct tl_op *before) {
  bool alike = before->kind == TL_OP_ROUTE || before->kind == TL_OP_EXPERTS_IN || (experts->features & TL_F_SHARE_IN) == (before->features & TL_F_SHARE_IN);
  if (!(experts->features & TL_F_LOW_RANK) != !(before->features & TL_F_LOW_RANK || before->kind == TL_OP_EXPERTS_IN)) return false;
  return alike && experts->n_experts == before->n_experts && experts->n_chosen == before->n_chosen;
}

/* What waits behind a record for one that reads it: normed rows, what QKV made, what attention and the MLP's first half did, a
 * sum that is to be added to the residual, and the gate of attention. KEPT: what waits as A is of a layer that keeps a state. V: what
 * experts made in a latent. */
enum waiting { WAITS_H = 1 << 0, WAITS_QKV = 1 << 1, WAITS_A = 1 << 2, WAITS_M = 1 << 3, WAITS_SUM = 1 << 4, WAITS_GATE = 1 << 5, WAITS_KEPT = 1 << 6,
               WAITS_V = 1 << 7 };

/* What has to wait before a record, what must not, what waits no more behind it, and what does instead; of kinds that are not here,
 * which come one behind the other, nothing waits but their results. Attention and the MLP may stand side by side: then both read one norm's
 * rows, and each sum is added by a norm of its own, the first by one without weights. */
static const struct flow {
  uint32_t needs, without, takes, leaves;
} flows[] = {
    [CUDA_OP_EMBED] = {0, 0, ~0u, WAITS_SUM},
    [CUDA_OP_NORM] = {WAITS_SUM, WAITS_QKV | WAITS_GATE, WAITS_SUM, WAITS_H},
    [CUDA_OP_QKV] = {WAITS_H, ~WAITS_H, 0, WAITS_QKV},
    [CUDA_OP_ATTEND] = {WAITS_QKV, 0, WAITS_QKV, WAITS_A},
    [CUDA_OP_LATENT] = {WAITS_H, ~WAITS_H, 0, WAITS_QKV},
    [CUDA_OP_LATENT_ROWS] = {WAITS_QKV, 0, 0, 0},
    [CUDA_OP_LATENT_QUERY] = {WAITS_QKV, 0, 0, 0},
    [CUDA_OP_LATENT_ABSORB] = {WAITS_QKV, 0, 0, 0},
    [CUDA_OP_LATENT_ATTEND] = {WAITS_QKV, 0, 0, 0},
    [CUDA_OP_LATENT_VALUE] = {WAITS_QKV, 0, WAITS_QKV, WAITS_A},
    [CUDA_OP_DELTA_IN] = {WAITS_H, ~WAITS_H, 0, WAITS_QKV},
    [CUDA_OP_CONV] = {WAITS_QKV, 0, 0, 0},
    [CUDA_OP_DELTA] = {WAITS_QKV, 0, 0, 0},
    [CUDA_OP_GATED_NORM] = {WAITS_QKV, 0, WAITS_QKV, WAITS_A | WAITS_KEPT},
    [CUDA_OP_SHORT_IN] = {WAITS_H, ~WAITS_H, 0, WAITS_QKV},
    [CUDA_OP_SHORT_CONV] = {WAITS_QKV, 0, WAITS_QKV, WAITS_A | WAITS_KEPT},
    [CUDA_OP_GATE_IN] = {WAITS_H | WAITS_QKV, 0, 0, WAITS_GATE},
    [CUDA_OP_GATE] = {WAITS_A | WAITS_GATE, WAITS_KEPT, WAITS_GATE, 0},
    [CUDA_OP_OUT] = {WAITS_A, WAITS_SUM | WAITS_QKV | WAITS_GATE, WAITS_A | WAITS_H | WAITS_KEPT, WAITS_SUM},
    [CUDA_OP_GATED] = {WAITS_H, WAITS_SUM | WAITS_QKV | WAITS_M, WAITS_H, WAITS_M},
    [CUDA_OP_UP] = {WAITS_H, WAITS_SUM | WAITS_QKV | WAITS_M, WAITS_H, WAITS_M},
    [CUDA_OP_DOWN] = {WAITS_M, WAITS_SUM | WAITS_QKV | WAITS_A, WAITS_M | WAITS_H, WAITS_SUM},
    [CUDA_OP_LOGITS] = {WAITS_H, ~WAITS_H, 0, 0},
    [CUDA_OP_POOL] = {WAITS_H, ~WAITS_H, ~0u, 0},
    [CUDA_OP_ROUTE] = {WAITS_H, ~WAITS_H, 0, 0},
    [CUDA_OP_EXPERTS_UP] = {WAITS_H, ~WAITS_H, 0, 0},
    [CUDA_OP_EXPERTS_DOWN] = {WAITS_H, ~WAITS_H, 0, 0},
    [CUDA_OP_EXPERTS_IN] = {WAITS_H, ~WAITS_H, 0, 0},
    [CUDA_OP_EXPERTS_OUT] = {WAITS_V, ~(WAITS_V | WAITS_H | WAITS_M), WAITS_V | WAITS_H, WAITS_SUM},
    [CUDA_OP_DENSE] = {0, ~0u, 0, 0},
};

static uint32_t waits_behind(const struct cuda_op *before, const struct cuda_op *op) {
  const struct flow *f = &flows[op->kind];
  uint32_t waits = before ? before->waits : 0, leaves = f->leaves;
  if (op->kind == CUDA_OP_EXPERTS_DOWN && op->from->features & TL_F_LOW_RANK) leaves = WAITS_V;
  else if (op->kind == CUDA_OP_EXPERTS_DOWN && !op->route->row_gate) leaves = WAITS_SUM, waits &= ~WAITS_H;
  return (waits & ~f->takes) | leaves;
}

/* Which records may follow one another: what one leaves is what the next reads. */
static bool may_follow(const struct cuda_op *before, const struct cuda_op *op) {
  const struct flow *f = &flows[op->kind];
  uint32_t needs = op->again ? WAITS_A : f->needs;
  if ((before->waits & needs) != needs || before->waits & f->without) return false;
  enum cuda_op_kind kind = before->kind;
  switch (op->kind) {
    case CUDA_OP_EMBED: return false;
    case CUDA_OP_NORM:
      if (op->again) return op->from->kind == TL_OP_RMSNORM && !op->post;
      return !!op->post == !!(before->from->features & TL_F_TO_H);
    case CUDA_OP_LATENT_ROWS:
    case CUDA_OP_LATENT_QUERY:
    case CUDA_OP_LATENT_ABSORB:
    case CUDA_OP_LATENT_ATTEND:
    case CUDA_OP_LATENT_VALUE: return cuda_latent_may_follow(before, op);
    case CUDA_OP_CONV:
    case CUDA_OP_DELTA:
    case CUDA_OP_GATED_NORM:
    case CUDA_OP_SHORT_CONV:
    case CUDA_OP_GATE_IN: return cuda_state_may_follow(before, op);
    case CUDA_OP_GATED:
    case CUDA_OP_UP: return !op->row_gate || kind == CUDA_OP_EXPERTS_DOWN;
    case CUDA_OP_DOWN: /* the row gate is applied to what it makes, so it must make nothing but the product; a factor is the norm's */
      return !before->row_gate || (!(op->from->features & ~TL_F_FACTOR) && op->from->bias[0] < 0);
    case CUDA_OP_EXPERTS_IN: return kind == CUDA_OP_ROUTE;
    case CUDA_OP_EXPERTS_UP: return (kind == CUDA_OP_ROUTE || kind == CUDA_OP_EXPERTS_IN) && is_of(op->from, before->from);
    case CUDA_OP_EXPERTS_DOWN: return kind == CUDA_OP_EXPERTS_UP && is_of(op->from, before->from);
    case CUDA_OP_DENSE: return kind == CUDA_OP_POOL || kind == CUDA_OP_DENSE;
    default: return true;
  }
}

static bool same_order(const uint32_t *a, const uint32_t *b, uint32_t k) {
  return a == b || (a && b && memcmp(a, b, k * sizeof *a) == 0);
}

/* The next n outputs of the record's matrix, from that input of the model's record; alike with those before: one piece. */
static void add_outputs_of(const struct cuda_device *d, struct cuda_op *op, const struct tl_op *from, unsigned input, uint32_t n) {
  struct cuda_matrix *w = &op->w;
  const uint32_t *order;
  int format = cuda_format_of(d, from, input, w->k, &order);
  struct cuda_piece *last = w->n_pieces ? &w->pieces[w->n_pieces - 1] : NULL;
  if (last && last->format == format && same_order(last->order, order, w->k))
    last->n += n;
  else
    w->pieces[w->n_pieces++] = (struct cuda_piece){.format = format, .first = w->n, .n = n, .order = order, .n_orders = order != NULL};
  w->n += n;
}

static void add_outputs(const struct cuda_device *d, struct cuda_op *op, unsigned input, uint32_t n) {
  add_outputs_of(d, op, op->from, input, n);
}

static bool multiplies_e4m3(const struct cuda_device *d) {
  return d->info.major * 10 + d->info.minor >= 89;
}

/* The shapes of the products that a piece becomes. */
static bool add_products(struct cuda_device *d, const struct cuda_matrix *w, struct cuda_piece *piece) {
  size_t row = (size_t)w->k * 2, n_tiles = piece->format == TL_CUDA_W16 ? 1 : (piece->n * row + d->tile_bytes - 1) / d->tile_bytes;
  uint32_t even = (uint32_t)cuda_round((piece->n + n_tiles - 1) / n_tiles, 64);
  piece->tile = n_tiles == 1 || even > piece->n ? piece->n : even;
  uint32_t rest = piece->n % piece->tile;
  struct cuda_product shape = {.n = piece->tile, .k = w->k, .ld = w->ld, .parts = 1, .float_out = w->float_out};
  piece->product = piece->last = cuda_product_of(&d->products, &shape);
  shape.n = rest;
  if (rest) piece->last = cuda_product_of(&d->products, &shape);
  return piece->product < CUDA_MAX_PRODUCTS && piece->last < CUDA_MAX_PRODUCTS;
}

static void add_e4m3(struct cuda_device *d, const struct cuda_matrix *w, struct cuda_piece *piece) {
  struct cuda_product shape = {.n = piece->n, .k = w->k, .ld = w->ld, .parts = 1, .float_out = w->float_out, .e4m3 = true};
  bool may = piece->tile && piece->format == TL_CUDA_WE4M3 && multiplies_e4m3(d) && piece->n % 16 == 0; /* so is k, in this format */
  piece->e4m3 = may ? cuda_product_of(&d->products, &shape) : CUDA_MAX_PRODUCTS;
}

/* Of few rows a product of few outputs keeps few multiprocessors busy: shapes in which parts of its k are products of their own. */
static void add_parted(struct cuda_device *d, const struct cuda_matrix *w, struct cuda_piece *piece) {
  bool may = w->summed && (piece->format == TL_CUDA_W16 || piece->e4m3 < CUDA_MAX_PRODUCTS);
  for (unsigned i = 0; i < CUDA_PARTED_BUCKETS; i++) piece->quickest[i] = CUDA_MAX_PRODUCTS;
  for (unsigned i = 0; i < CUDA_WAYS_TO_PART; i++) {
    struct cuda_product shape = {.n = piece->n, .k = w->k >> (i + 1), .ld = w->ld, .parts = 2u << i, .float_out = true,
                                 .e4m3 = piece->format != TL_CUDA_W16};
    piece->parted[i] = may && shape.k * shape.parts == w->k && shape.k % 16 == 0 ? cuda_product_of(&d->products, &shape) : CUDA_MAX_PRODUCTS;
  }
}

/* Other shapes for the same, once all those have their places that must be there: where no place is left, these do it. */
static void add_quicker(struct cuda_device *d) {
  static void (*const ways[])(struct cuda_device *d, const struct cuda_matrix *w, struct cuda_piece *piece) = {add_e4m3, add_parted};
  for (unsigned way = 0; way < sizeof ways / sizeof *ways; way++)
    for (uint32_t i = 0; i < d->n_plan; i++)
      for (unsigned k = 0; k < d->plan[i].w.n_pieces; k++) ways[way](d, &d->plan[i].w, &d->plan[i].w.pieces[k]);
}

/* The padded length of the inner row of which input 0 has as many outputs, or inputs. */
static uint32_t inner_of(const struct cuda_device *d, const struct tl_op *op, bool outputs) {
  struct tl_slice s = tl_slice_weight(d->model, &d->shard, op, 0);
  return (uint32_t)cuda_round(outputs ? s.n_rows : s.n_columns, 8);
}

static void at_least(uint32_t *most, uint32_t value) {
  if (value > *most) *most = value;
}

/* In which all of the record's are stored: as the files have them, if they have all alike, gate and up in one order. */
static int expert_format(const struct cuda_device *d, const struct cuda_op *op, uint32_t *ret_orders) {
  unsigned n_inputs = cuda_matrices_of_expert(op);
  const uint32_t *order, *gates = NULL;
  int format = cuda_format_of(d, op->from, 0, op->w.k, &order);
  bool ordered = false, alike = true;
  for (uint32_t i = 0; i < d->shard.n_experts * n_inputs; i++) {
    struct tl_op one = cuda_op_of_expert(op->from, d->shard.first_expert + i / n_inputs);
    alike &= cuda_format_of(d, &one, i % n_inputs, op->w.k, &order) == format;
    if (i % n_inputs == 0) gates = order;
    alike &= same_order(gates, order, op->w.k);
    ordered |= order != NULL;
  }
  *ret_orders = alike && ordered ? d->shard.n_experts : 0;
  return alike ? format : TL_CUDA_W16;
}

/* The matrices of this rank's experts, one behind the other; no library multiplies by them. */
static bool shape_experts(struct cuda_device *d, struct cuda_op *op) {
  bool up = op->kind == CUDA_OP_EXPERTS_UP;
  uint32_t inner = inner_of(d, op->from, up), outer = cuda_expert_row(d, op);
  uint64_t n = (uint64_t)d->shard.n_experts * (up ? cuda_matrices_of_expert(op) * inner : outer);
  at_least(&d->dims.inner, inner);
  op->w.k = up ? outer : inner;
  if (n > UINT32_MAX) return false;
  op->w.n = (uint32_t)n;
  op->w.n_pieces = 1;
  op->w.pieces[0].n = op->w.n;
  op->w.pieces[0].format = expert_format(d, op, &op->w.pieces[0].n_orders);
  return true;
}

/* The gate of a row is one more score. */
static void shape_route(struct cuda_device *d, struct cuda_op *op) {
  add_outputs(d, op, 0, op->from->n_experts);
  if (cuda_has_gate(op)) op->w.n = ++op->w.pieces[0].n;
  at_least(&d->dims.n_chosen, op->from->n_chosen);
  at_least(&d->dims.ld_scores, op->w.ld = (uint32_t)cuda_round(op->w.n, 8));
}

/* Outputs of one behind the other: what the one has is what the other reads. */
static void shape_dense(struct cuda_device *d, struct cuda_op *op) {
  uint64_t n = tl_slice_weight(d->model, &d->shard, op->from, 0).n_rows;
  if (op[-1].kind == CUDA_OP_DENSE) op->w.k = op[-1].w.n;
  add_outputs(d, op, 0, (uint32_t)cuda_round(n, 8));
  at_least(&d->dims.vector, op->w.n);
}

/* u, and behind it z, b and, where there is one, c, of which the last two are padded so that each begins on 16 bytes. */
static void shape_delta_in(const struct cuda_device *d, struct cuda_op *op) {
  const struct cuda_dims *s = &d->dims;
  uint32_t heads = (uint32_t)cuda_round(s->n_value_heads, 8);
  for (unsigned input = 0; input < 3; input++) add_outputs(d, op, input, input < 2 ? s->n_key_heads * s->key : s->made);
  for (unsigned input = 0; input < 3 && op->gates->weight[input] >= 0; input++) add_outputs_of(d, op, op->gates, input, input ? heads : s->made);
}

/* The record's matrix; cuda_weights.c fills in where it lies. */
static bool shape(struct cuda_device *d, struct cuda_op *op) {
  const struct cuda_dims *s = &d->dims;
  struct cuda_matrix *w = &op->w;
  bool up = op->kind == CUDA_OP_GATED || op->kind == CUDA_OP_UP;
  uint32_t inner = up || op->kind == CUDA_OP_DOWN ? inner_of(d, op->from, up) : 0;
  w->k = op->kind == CUDA_OP_OUT ? (op->of_state ? s->made : s->attn) : op->kind == CUDA_OP_DOWN ? inner : s->dim;
  w->float_out = op->kind == CUDA_OP_LOGITS || op->kind == CUDA_OP_ROUTE || op->kind == CUDA_OP_DENSE;
  at_least(&d->dims.ffn, inner);
  switch (op->kind) {
    case CUDA_OP_QKV:
      add_outputs(d, op, 0, s->attn);
      add_outputs(d, op, 1, s->n_kv_heads * s->head);
      add_outputs(d, op, 2, s->n_kv_heads * s->head);
      break;
    case CUDA_OP_GATED:
      add_outputs(d, op, 0, inner);
      add_outputs(d, op, 1, inner);
      break;
    case CUDA_OP_UP: add_outputs(d, op, 0, inner); break;
    case CUDA_OP_EXPERTS_IN: add_outputs(d, op, 0, s->low); break;
    case CUDA_OP_EXPERTS_OUT:
      w->k = s->low;
      add_outputs(d, op, 0, s->dim);
      break;
    case CUDA_OP_OUT:
    case CUDA_OP_DOWN: add_outputs(d, op, 0, s->dim); break;
    case CUDA_OP_DENSE: shape_dense(d, op); break;
    case CUDA_OP_EMBED: add_outputs(d, op, 0, s->n_vocab); return true;
    case CUDA_OP_LOGITS:
      add_outputs(d, op, 0, s->n_vocab);
      w->ld = d->group ? s->ld_part : s->ld_logits;
      break;
    case CUDA_OP_ROUTE: shape_route(d, op); break;
    case CUDA_OP_EXPERTS_UP:
    case CUDA_OP_EXPERTS_DOWN: return shape_experts(d, op);
    case CUDA_OP_POOL: at_least(&d->dims.vector, s->dim); return true;
    case CUDA_OP_LATENT:
      add_outputs(d, op, 0, s->qkv - s->head);
      add_outputs(d, op, 1, s->head);
      break;
    case CUDA_OP_LATENT_QUERY:
      w->k = s->rank;
      add_outputs(d, op, 0, s->queries);
      break;
    case CUDA_OP_LATENT_ABSORB:
    case CUDA_OP_LATENT_VALUE: cuda_latent_shape(d, op); return true;
    case CUDA_OP_DELTA_IN: shape_delta_in(d, op); break;
    case CUDA_OP_SHORT_IN:
      for (unsigned input = 0; input < 3; input++) add_outputs(d, op, input, s->n_channels);
      break;
    case CUDA_OP_GATE_IN:
      add_outputs(d, op, 0, s->attn);
      op[-1].w.leaves = false; /* this product comes before who would do what is left */
      break;
    case CUDA_OP_CONV:
    case CUDA_OP_SHORT_CONV: cuda_conv_shape(d, op); return true;
    case CUDA_OP_DELTA:
    case CUDA_OP_GATED_NORM:
    case CUDA_OP_GATE:
    case CUDA_OP_LATENT_ROWS:
    case CUDA_OP_LATENT_ATTEND:
    case CUDA_OP_NORM: return true;
    case CUDA_OP_ATTEND:
      if (cuda_norms_whole_rows(op)) cuda_qkv_of(op)->w.leaves = false; /* they come before what scales */
      return true;
  }
  if (w->ld == 0) w->ld = w->n;
  bool delta = op->kind == CUDA_OP_OUT || op->kind == CUDA_OP_DOWN, read_at_once = !d->group && !op->route && op->from->bias[0] < 0;
  w->leaves = w->n_pieces == 1 && (op->kind == CUDA_OP_QKV || op->kind == CUDA_OP_GATED || (delta && read_at_once));
  w->summed = w->leaves && delta;
  for (unsigned i = 0; i < w->n_pieces; i++)
    if (!add_products(d, w, &w->pieces[i])) return false;
  return true;
}

/* --- what all layers share --------------------------------------------------------------------- */

/* Of the rotated part pairs come first in both halves, then what is not rotated, then padding. */
static void make_orders(struct cuda_device *d, bool interleaved) {
  uint32_t head = d->model->head_dim, pairs = d->model->n_rotated / 2, rest = head / 2 - pairs;
  struct cuda_order *qk = &d->qk_order, *v = &d->v_order;
  qk->size = v->size = head;
  qk->padded = v->padded = d->dims.head;
  for (uint32_t i = 0; i < d->dims.head; i++) qk->at[i] = CUDA_NOTHING, v->at[i] = (uint16_t)(i < head ? i : CUDA_NOTHING);
  for (uint32_t i = 0; i < head / 2; i++) {
    uint32_t plain = 2 * pairs + i - pairs;
    qk->at[i] = (uint16_t)(i >= pairs ? plain : interleaved ? 2 * i : i);
    qk->at[d->dims.head / 2 + i] = (uint16_t)(i >= pairs ? plain + rest : interleaved ? 2 * i + 1 : pairs + i);
  }
}

/* How queries grow: the same where layers have that. */
static int check_growth(struct cuda_device *d, const struct tl_op *op, struct tl_error *err) {
  if (!(op->features & TL_F_GROWS)) return TL_OK;
  if (d->grows && memcmp(&d->grows->growth, &op->growth, sizeof op->growth) != 0) return cuda_refuse(d, "queries that grow in several ways", err);
  d->grows = op;
  return TL_OK;
}

/* What a layer sees of a context, likewise. */
static int check_attention(struct cuda_device *d, const struct tl_op *attend, struct tl_error *err) {
  uint32_t *size = attend->features & TL_F_CHUNKED ? &d->chunk : &d->window;
  if (attend->features & (TL_F_WINDOW | TL_F_CHUNKED)) {
    if (*size && *size != attend->window) return cuda_refuse(d, "windows of several sizes", err);
    *size = attend->window;
  }
  if (d->chunk && d->window) return cuda_refuse(d, "windows beside chunks", err);
  if (d->chunk % TL_BLOCK_TOKENS) return cuda_refuse(d, "chunks (attention_chunk_size) that are no multiple of 16", err);
  if (d->chunk && cuda_pools(d)) return cuda_refuse(d, "chunks of a model that pools", err);
  return check_growth(d, attend, err);
}

/* Tables of angles, windows and the order of heads are one for all layers: models in which they differ
 * are not known. */
static int check_layers(struct cuda_device *d, struct tl_error *err) {
  const struct tl_op *rope = NULL, *global = NULL;
  for (uint32_t i = 0; i < d->n_plan; i++) {
    const struct tl_op *own = d->plan[i].rope, *attend = d->plan[i].from;
    bool attends = d->plan[i].kind == CUDA_OP_ATTEND;
    int r = attends ? check_attention(d, attend, err) : d->plan[i].kind == CUDA_OP_LATENT_ROWS ? check_growth(d, attend, err) : TL_OK;
    if (r < 0) return r;
    if (!own || !attends) continue;
    if (rope && (rope->features ^ own->features) & TL_F_INTERLEAVED) return cuda_refuse(d, "rotations of several kinds", err);
    rope = own;
    if (own->features & TL_F_LOCAL) {
      if (own->features & TL_F_FACTOR) return cuda_refuse(d, "a factor of local rotations", err);
      continue;
    }
    if (global && ((global->features ^ own->features) & TL_F_FACTOR || global->factor != own->factor))
      return cuda_refuse(d, "rotations of several factors", err);
    global = own;
  }
  if (!d->model->n_latent) make_orders(d, rope && rope->features & TL_F_INTERLEAVED);
  return TL_OK;
}

/* --- the plan ------------------------------------------------------------------------------------ */

/* What a plan has to end in, and only that of a model that pools may have. */
static int check_purpose(const struct cuda_device *d, struct tl_error *err) {
  enum cuda_op_kind last = d->n_plan ? d->plan[d->n_plan - 1].kind : CUDA_OP_EMBED;
  if (!cuda_pools(d) && last != CUDA_OP_LOGITS) return cuda_refuse(d, "a plan that does not end in logits", err);
  if (cuda_pools(d) && last != CUDA_OP_POOL && last != CUDA_OP_DENSE) return cuda_refuse(d, "a plan that does not end in a vector", err);
  if (cuda_pools(d) && d->model->recurrence.n_layers) return cuda_refuse(d, "layers that keep a state, of a model that pools", err);
  for (uint32_t i = 0; i < d->n_plan && !cuda_pools(d); i++)
    if (d->plan[i].from->features & TL_F_BOTH_SIDES) return cuda_refuse(d, "attention to later tokens of a model that generates", err);
  return TL_OK;
}

static int unknown_record(const struct cuda_device *d, uint32_t at, struct tl_error *err) {
  const struct tl_op *op = &d->model->plan[at];
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path",
                      "model.path: the CUDA backend cannot run this %.40s model: record %u of its plan, of kind %d, is not one that "
                      "it knows there",
                      d->model->architecture, at, (int)op->kind);
}

int cuda_make_plan(struct cuda_device *d, struct tl_error *err) {
  const struct tl_model *m = d->model;
  if (m->n_experts > TL_CUDA_MAX_EXPERTS) return cuda_refuse(d, "more experts than its kernels know", err);
  int r = make_dims(d, err);
  if (r < 0) return r;
  d->plan = calloc(m->n_ops + 1, sizeof *d->plan);
  if (!d->plan) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  const struct tl_op *end = m->plan + m->n_ops, *next;
  for (const struct tl_op *op = m->plan; op < end; op = next) {
    struct cuda_op *to = &d->plan[d->n_plan], *before = d->n_plan ? to - 1 : NULL;
    next = match(op, end, to);
    to->again = to->kind == CUDA_OP_NORM && before && !(before->waits & WAITS_SUM);
    to->route = to->kind == CUDA_OP_ROUTE ? to : to->kind != CUDA_OP_NORM && before ? before->route : NULL;
    if (!next || (before ? !may_follow(before, to) : to->kind != CUDA_OP_EMBED)) return unknown_record(d, (uint32_t)(op - m->plan), err);
    to->before = before ? before->from : NULL;
    to->waits = waits_behind(before, to);
    to->of_state = to->kind == CUDA_OP_OUT && before->waits & WAITS_KEPT;
    if (!shape(d, to)) return cuda_refuse(d, "too many shapes of matrices", err);
    if (op->features & TL_F_SHARE_IN && to->kind == CUDA_OP_EXPERTS_UP && to->w.pieces[0].n_orders)
      return cuda_refuse(d, "shares of experts' inputs that stand in another order", err);
    d->n_plan++;
  }
  add_quicker(d);
  r = check_purpose(d, err);
  return r < 0 ? r : check_layers(d, err);
}
