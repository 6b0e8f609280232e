/* SPDX-License-Identifier: MIT */
/* Where the rank's part of each tensor goes on the device, padded. Matrices lie as they do
 * in files, (outputs, inputs), those of a record one after the other; rows of Q and K, their biases and
 * norms in the order of struct cuda_order, so that one kernel rotates all kinds of pairs as halves. */
#include <stdlib.h>

#include "device/cuda/cuda_private.h"

/* --- places ------------------------------------------------------------------------------- */

static bool has_bias(const struct tl_op *op) {
  for (int i = 0; i < TL_OP_INPUTS; i++)
    if (op->bias[i] >= 0) return true;
  return false;
}

/* The first record that has this one's matrix: embedding and output may share one. */
static const struct cuda_op *sharing(const struct cuda_device *d, const struct cuda_op *op) {
  if (op->kind != CUDA_OP_LOGITS) return op;
  return d->plan[0].from->weight[0] == op->from->weight[0] ? &d->plan[0] : op;
}

static float *place_floats(struct cuda_placer *p, size_t n) {
  return (float *)(void *)cuda_take_place(p, 1, n * sizeof(float));
}

/* T (rows of the tensor, dim); none: NULL. */
static char *place_table(const struct cuda_device *d, struct cuda_placer *p, int32_t tensor) {
  return tensor < 0 ? NULL : cuda_take_place(p, 1, d->model->tensors[tensor].shape[0] * d->dims.dim * 2);
}

static void place_norms(const struct cuda_device *d, struct cuda_placer *p, struct cuda_op *op) {
  const struct cuda_dims *s = &d->dims;
  if (op->kind == CUDA_OP_NORM) {
    if (op->from->weight[0] >= 0) op->weight = place_floats(p, s->dim);
    if (op->from->bias[0] >= 0) op->shift = place_floats(p, s->dim);
    if (op->post) op->post_weight = place_floats(p, s->dim);
    return;
  }
  if (op->kind == CUDA_OP_LATENT_ROWS) {
    if (op->from->weight[0] >= 0) op->q_norm = place_floats(p, s->rank);
    op->k_norm = place_floats(p, d->model->n_latent);
  }
  if (op->kind == CUDA_OP_DELTA) {
    op->weight = place_floats(p, s->n_value_heads);
    op->shift = place_floats(p, s->n_value_heads);
    if (cuda_scans(op)) op->skip = place_floats(p, s->n_value_heads);
  }
  if (op->kind == CUDA_OP_GATED_NORM) op->weight = place_floats(p, op->from->features & TL_F_GATE_FIRST ? s->made : s->value);
  if (op->kind == CUDA_OP_EMBED && op->place) {
    op->places = place_table(d, p, op->place->weight[0]);
    op->types = place_table(d, p, op->place->weight[1]);
  }
  if (op->vector_norm) {
    op->weight = place_floats(p, op->w.n);
    if (op->vector_norm->bias[0] >= 0) op->shift = place_floats(p, op->w.n);
  }
  if (op->from->features & TL_F_SINKS) op->sinks = place_floats(p, s->n_heads);
  if (op->qk_norm) {
    bool all = cuda_norms_whole_rows(op) || cuda_norms_each_head(op);
    op->q_norm = place_floats(p, s->head * (all ? s->n_heads : 1));
    op->k_norm = place_floats(p, s->head * (all ? s->n_kv_heads : 1));
  }
}

static void place_pieces(struct cuda_placer *p, struct cuda_matrix *w) {
  for (unsigned i = 0; i < w->n_pieces; i++) {
    struct cuda_piece *piece = &w->pieces[i];
    piece->data = cuda_take_place(p, 1, piece->n * cuda_row_bytes(piece->format, w->k));
    piece->scales = cuda_take_place(p, 1, piece->n * cuda_scales_bytes(piece->format, w->k));
    if (piece->n_orders) piece->inputs = (uint32_t *)(void *)cuda_take_place(p, 1, (size_t)piece->n_orders * w->k * sizeof *piece->inputs);
  }
}

size_t cuda_place_weights(struct cuda_device *d, char *base) {
  struct cuda_placer p = {base, 0};
  for (uint32_t i = 0; i < d->n_plan; i++) {
    struct cuda_op *op = &d->plan[i];
    const struct cuda_op *first = sharing(d, op);
    place_norms(d, &p, op);
    if (first == op)
      place_pieces(&p, &op->w);
    else /* of one tensor, whole: one piece, stored alike */
      op->w.pieces[0].data = first->w.pieces[0].data, op->w.pieces[0].scales = first->w.pieces[0].scales;
    if (op->w.n && has_bias(op->from)) op->w.bias = place_floats(&p, op->w.n);
    if (op->kind == CUDA_OP_ATTEND) op->w.bias = cuda_qkv_of(op)->w.bias; /* which the product leaves to it */
  }
  cuda_place_adapters(d, &p);
  return p.at;
}

/* --- parts ---------------------------------------------------------------------------------- */

struct parts {
  struct cuda_part *list;
  unsigned n, room;
};

static bool add(struct parts *p, struct cuda_part part) {
  if (p->n == p->room) {
    unsigned room = p->room ? 2 * p->room : 256;
    struct cuda_part *list = realloc(p->list, room * sizeof *list);
    if (!list) return false;
    p->list = list;
    p->room = room;
  }
  p->list[p->n++] = part;
  return true;
}

/* That of the tensor's inputs, as the index-th of a piece's. */
static bool add_order(struct parts *p, const struct cuda_matrix *w, const struct cuda_piece *piece, const struct tl_tensor *t, uint32_t index) {
  return add(p, (struct cuda_part){.kind = CUDA_PART_ORDER, .tensor = t, .n_rows = 1, .n_columns = w->k,
                                   .to = (char *)(piece->inputs + (size_t)index * w->k), .pitch = w->k * sizeof *piece->inputs});
}

/* A weight to the rows from `to_row` on of a matrix, in the format of that piece. */
static bool add_weight(struct parts *p, const struct cuda_op *op, const struct tl_slice *w, uint64_t to_row, uint64_t n,
                       const struct cuda_order *order) {
  const struct cuda_piece *piece = op->w.pieces;
  while (to_row >= piece->first + piece->n) piece++;
  size_t row = cuda_row_bytes(piece->format, op->w.k), scales = cuda_scales_bytes(piece->format, op->w.k);
  struct cuda_part part = {.kind = scales ? CUDA_PART_CODES : CUDA_PART_T, .format = piece->format, .tensor = w->tensor,
                           .row = w->first_row, .n_rows = n, .column = w->first_column, .n_columns = w->n_columns,
                           .order = order, .to = piece->data + (to_row - piece->first) * row, .pitch = row};
  if (!add(p, part)) return false;
  part.kind = CUDA_PART_SCALES;
  part.to = piece->scales + (to_row - piece->first) * scales;
  part.pitch = scales;
  if (scales && !add(p, part)) return false;
  return !piece->order || to_row > piece->first || add_order(p, &op->w, piece, w->tensor, 0); /* the next ones have the same */
}

/* This rank's slice of an input's tensor to the rows from `to_row` on of a matrix, and the slice of its bias. n: rows
 * there, of which whole heads may be padded. */
static bool add_input(struct cuda_device *d, struct parts *p, const struct cuda_op *op, const struct tl_op *from, int input,
                      uint64_t to_row, uint64_t n, const struct cuda_order *order) {
  struct tl_slice w = tl_slice_weight(d->model, &d->shard, from, (unsigned)input);
  if (!add_weight(p, op, &w, to_row, n, order)) return false;
  if (from->bias[input] < 0) return true;
  struct tl_slice b = tl_slice_bias(d->model, &d->shard, from, (unsigned)input);
  if (b.n_rows == 0) return true; /* another rank adds it */
  return add(p, (struct cuda_part){.kind = CUDA_PART_FLOATS, .tensor = b.tensor, .n_rows = 1, .column = b.first_row, .n_columns = n,
                                   .order = order, .to = (char *)(op->w.bias + to_row), .pitch = n * sizeof(float)});
}

static bool add_rows(struct cuda_device *d, struct parts *p, const struct cuda_op *op, int input, uint64_t to_row, uint64_t n,
                     const struct cuda_order *order) {
  return add_input(d, p, op, op->from, input, to_row, n, order);
}

static bool add_all_rows(struct cuda_device *d, struct parts *p, const struct cuda_op *op, int input, uint64_t to_row) {
  return add_rows(d, p, op, input, to_row, tl_slice_weight(d->model, &d->shard, op->from, (unsigned)input).n_rows, NULL);
}

/* A norm's weight or shift: from its element `first` on n, as they are counted there (padded). */
static bool add_norm(struct cuda_device *d, struct parts *p, const struct tl_op *op, int32_t tensor, uint64_t first, uint64_t n,
                     const struct cuda_order *order, float *to) {
  if (!to) return true;
  bool plus_one = op->features & TL_F_PLUS_ONE && tensor != op->bias[0];
  return add(p, (struct cuda_part){.kind = CUDA_PART_FLOATS, .tensor = &d->model->tensors[tensor], .n_rows = 1, .column = first,
                                   .n_columns = n, .order = order, .to = (char *)to, .pitch = n * sizeof(float), .plus = plus_one ? 1 : 0});
}

/* The output projection's inputs are heads as well. */
static bool add_head_columns(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  const struct tl_recurrence *r = &d->model->recurrence;
  uint32_t head = op->of_state ? r->value_dim : d->model->head_dim, padded = op->of_state ? d->dims.value : d->dims.head;
  uint32_t n_heads = op->of_state ? d->dims.n_value_heads : d->dims.n_heads;
  unsigned first = p->n;
  if (!add_all_rows(d, p, op, 0, 0)) return false;
  if (head == padded) return true;
  struct cuda_part whole = p->list[first];
  for (uint32_t i = 0; i < n_heads; i++) {
    struct cuda_part part = whole;
    part.column = whole.column + (uint64_t)i * head;
    part.n_columns = head;
    part.to = whole.to + (size_t)i * padded * 2;
    if (i == 0) p->list[first] = part;
    else if (!add(p, part)) return false;
  }
  return true;
}

/* Of this rank's heads. */
static bool add_sinks(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  uint32_t n = d->dims.n_heads;
  return !op->sinks || add(p, (struct cuda_part){.kind = CUDA_PART_FLOATS, .tensor = &d->model->tensors[op->from->weight[0]],
                                                 .n_rows = 1, .column = d->shard.first_head, .n_columns = n,
                                                 .to = (char *)op->sinks, .pitch = n * sizeof(float)});
}

/* One for each head, or one of all rows, of which this rank has those of its heads. */
static bool add_head_norms(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  const struct cuda_dims *s = &d->dims;
  const struct tl_op *from = op->qk_norm;
  if (!from) return true;
  bool whole = cuda_norms_whole_rows(op) || cuda_norms_each_head(op);
  uint64_t head = d->model->head_dim, q_first = whole ? d->shard.first_head * head : 0, k_first = whole ? d->shard.first_kv_head * head : 0;
  return add_norm(d, p, from, from->weight[0], q_first, s->head * (whole ? s->n_heads : 1), &d->qk_order, op->q_norm) &&
         add_norm(d, p, from, from->weight[1], k_first, s->head * (whole ? s->n_kv_heads : 1), &d->qk_order, op->k_norm);
}

static bool add_route(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  const struct cuda_piece *piece = &op->w.pieces[0];
  size_t row = cuda_row_bytes(piece->format, op->w.k);
  if (!add_all_rows(d, p, op, 0, 0)) return false;
  return !cuda_has_gate(op) || add(p, (struct cuda_part){.kind = CUDA_PART_T, .tensor = &d->model->tensors[op->row_gate->weight[0]],
                                                    .n_rows = 1, .n_columns = d->model->dim,
                                                    .to = piece->data + (piece->n - 1) * row, .pitch = row});
}

/* Of each expert that is this rank's, its gate, if it has one, and its up, or its down. */
static bool add_experts(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  uint32_t n = d->shard.n_experts, n_inputs = cuda_matrices_of_expert(op), rows = op->w.n / n / n_inputs; /* rows: padded */
  for (uint32_t i = 0; i < n * n_inputs; i++) {
    unsigned input = i % n_inputs;
    struct tl_op one = cuda_op_of_expert(op->from, d->shard.first_expert + i / n_inputs);
    struct tl_slice s = tl_slice_weight(d->model, &d->shard, &one, input);
    if (!add_input(d, p, op, &one, (int)input, (uint64_t)i * rows, s.n_rows, NULL)) return false;
    if (input == 0 && op->w.pieces[0].n_orders && !add_order(p, &op->w, &op->w.pieces[0], s.tensor, i / n_inputs)) return false;
  }
  return true;
}

static bool add_table(struct cuda_device *d, struct parts *p, int32_t tensor, char *to) {
  const struct tl_tensor *t = to ? &d->model->tensors[tensor] : NULL;
  return !t || add(p, (struct cuda_part){.kind = CUDA_PART_T, .tensor = t, .n_rows = t->shape[0], .n_columns = d->model->dim, .to = to,
                                         .pitch = (size_t)d->dims.dim * 2});
}

/* Of the words, and of places and token types where there are such. */
static bool add_embeddings(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  return add_all_rows(d, p, op, 0, 0) &&
         (!op->place || (add_table(d, p, op->place->weight[0], op->places) && add_table(d, p, op->place->weight[1], op->types)));
}

static bool add_dense(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  const struct tl_op *norm = op->vector_norm;
  uint64_t n = norm ? d->model->tensors[norm->weight[0]].shape[0] : 0;
  return add_all_rows(d, p, op, 0, 0) && (!norm || (add_norm(d, p, norm, norm->weight[0], 0, n, NULL, op->weight) &&
                                                    add_norm(d, p, norm, norm->bias[0], 0, n, NULL, op->shift)));
}

/* Of this rank's heads. */
static bool add_heads(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  uint32_t n = d->dims.n_heads, rows = op->w.n / n;
  for (uint32_t i = 0; i < n; i++) {
    struct tl_op one = cuda_op_of_expert(op->from, d->shard.first_head + i);
    if (!add_input(d, p, op, &one, 0, (uint64_t)i * rows, rows, NULL)) return false;
  }
  return true;
}

static bool add_latent_norms(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  return add_norm(d, p, op->from, op->from->weight[0], 0, d->dims.rank, NULL, op->q_norm) &&
         add_norm(d, p, op->from, op->from->weight[1], 0, d->model->n_latent, NULL, op->k_norm);
}

/* Queries, keys and values of heads, or their convolutions. */
static bool add_channels(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  uint32_t keys = d->dims.n_key_heads * d->dims.key;
  return add_rows(d, p, op, 0, 0, keys, &d->key_order) && add_rows(d, p, op, 1, keys, keys, &d->key_order) &&
         add_rows(d, p, op, 2, 2 * keys, d->dims.made, &d->value_order);
}

static bool add_delta_in(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  uint32_t z = d->dims.n_channels, b = z + d->dims.made, n = d->dims.n_value_heads, c = b + (uint32_t)cuda_round(n, 8);
  return add_channels(d, p, op) && add_input(d, p, op, op->gates, 0, z, d->dims.made, &d->value_order) &&
         add_input(d, p, op, op->gates, 1, b, n, NULL) && (op->gates->weight[2] < 0 || add_input(d, p, op, op->gates, 2, c, n, NULL));
}

static bool add_delta(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  float *const to[] = {op->weight, op->shift, op->skip};
  for (unsigned i = 0; i < 3 && to[i]; i++) {
    struct tl_slice s = tl_slice_weight(d->model, &d->shard, op->from, i);
    if (!add_norm(d, p, op->from, op->from->weight[i], s.first_row, s.n_rows, NULL, to[i])) return false;
  }
  return true;
}

static bool add_gated_norm(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  const struct tl_recurrence *r = &d->model->recurrence;
  uint64_t first = (uint64_t)d->shard.rank * d->dims.n_value_heads * r->value_dim;
  if (op->from->features & TL_F_GATE_FIRST) return add_norm(d, p, op->from, op->from->weight[0], first, d->dims.made, &d->value_order, op->weight);
  return add_norm(d, p, op->from, op->from->weight[0], 0, r->value_dim, NULL, op->weight);
}

static bool add_short_in(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  for (int i = 0; i < 3; i++)
    if (!add_all_rows(d, p, op, i, (uint64_t)i * d->dims.n_channels)) return false;
  return true;
}

static bool add_op(struct cuda_device *d, struct parts *p, const struct cuda_op *op) {
  const struct cuda_dims *s = &d->dims;
  switch (op->kind) {
    case CUDA_OP_NORM:
      return add_norm(d, p, op->from, op->from->weight[0], 0, d->model->dim, NULL, op->weight) &&
             add_norm(d, p, op->from, op->from->bias[0], 0, d->model->dim, NULL, op->shift) &&
             (!op->post || add_norm(d, p, op->post, op->post->weight[0], 0, d->model->dim, NULL, op->post_weight));
    case CUDA_OP_QKV:
      return add_rows(d, p, op, 0, 0, s->attn, &d->qk_order) &&
             add_rows(d, p, op, 1, s->attn, s->n_kv_heads * s->head, &d->qk_order) &&
             add_rows(d, p, op, 2, s->attn + s->n_kv_heads * s->head, s->n_kv_heads * s->head, &d->v_order);
    case CUDA_OP_OUT: return add_head_columns(d, p, op);
    case CUDA_OP_GATED: return add_all_rows(d, p, op, 0, 0) && add_all_rows(d, p, op, 1, op->w.n / 2);
    case CUDA_OP_ROUTE: return add_route(d, p, op);
    case CUDA_OP_EXPERTS_UP:
    case CUDA_OP_EXPERTS_DOWN: return add_experts(d, p, op);
    case CUDA_OP_LOGITS: return sharing(d, op) != op || add_all_rows(d, p, op, 0, 0);
    case CUDA_OP_EMBED: return add_embeddings(d, p, op);
    case CUDA_OP_DENSE: return add_dense(d, p, op);
    case CUDA_OP_LATENT: return add_all_rows(d, p, op, 0, 0) && add_all_rows(d, p, op, 1, s->qkv - s->head);
    case CUDA_OP_LATENT_ROWS: return add_latent_norms(d, p, op);
    case CUDA_OP_LATENT_ABSORB:
    case CUDA_OP_LATENT_VALUE: return add_heads(d, p, op);
    case CUDA_OP_DELTA_IN: return add_delta_in(d, p, op);
    case CUDA_OP_CONV: return add_channels(d, p, op);
    case CUDA_OP_DELTA: return add_delta(d, p, op);
    case CUDA_OP_GATED_NORM: return add_gated_norm(d, p, op);
    case CUDA_OP_SHORT_IN: return add_short_in(d, p, op);
    case CUDA_OP_GATE_IN: return add_rows(d, p, op, 0, 0, s->attn, &d->v_order);
    case CUDA_OP_GATE:
    case CUDA_OP_LATENT_ATTEND: return true;
    case CUDA_OP_SHORT_CONV:
    case CUDA_OP_LATENT_QUERY:
    case CUDA_OP_EXPERTS_IN:
    case CUDA_OP_EXPERTS_OUT:
    case CUDA_OP_UP:
    case CUDA_OP_DOWN: return add_all_rows(d, p, op, 0, 0);
    case CUDA_OP_POOL: return true;
    case CUDA_OP_ATTEND: return add_sinks(d, p, op) && add_head_norms(d, p, op);
  }
  return false;
}

static bool add_one(void *list, struct cuda_part part) {
  return add(list, part);
}

int cuda_load_weights(struct cuda_device *d, const struct tl_device_load *load, struct tl_error *err) {
  struct parts parts = {0};
  bool fine = true;
  for (uint32_t i = 0; fine && i < d->n_plan; i++) fine = add_op(d, &parts, &d->plan[i]);
  fine = fine && cuda_adapter_parts(d, add_one, &parts);
  int r = fine ? cuda_upload(d, parts.list, parts.n, load, err) : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  free(parts.list);
  return r < 0 ? r : cuda_load_adapters(d, err);
}
