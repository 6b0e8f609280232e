/* SPDX-License-Identifier: MIT */
/* LoRA adapters: A and B of each lie with the weights, cut and padded as the weight that they belong to; a table has, for each record that
 * is adapted and each adapter, where. A step that has adapters runs such records' products plainly, and two kernels behind each;
 * all other steps, and their graphs, are as they are without. */
#include "tokenlane/adapter.h"

#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda_private.h"

_Static_assert(2 * TL_OP_INPUTS <= TL_CUDA_ADAPTER_INPUTS, "a product has as many inputs, that of a delta net those of two records");

#define INPUTS TL_CUDA_ADAPTER_INPUTS

static bool is_product(const struct cuda_op *op) {
  switch (op->kind) {
    case CUDA_OP_QKV:
    case CUDA_OP_GATE_IN:
    case CUDA_OP_DELTA_IN:
    case CUDA_OP_SHORT_IN:
    case CUDA_OP_OUT:
    case CUDA_OP_GATED:
    case CUDA_OP_UP:
    case CUDA_OP_DOWN: return true;
    default: return false;
  }
}

/* What the adapter has of an input of op, or NULL. Behind those of DELTA_IN's record stand the gates'. */
static const struct tl_adapter_part *find_part(const struct cuda_device *d, const struct tl_adapter *adapter, const struct cuda_op *op,
                                               unsigned input) {
  bool gates = op->gates && input >= TL_OP_INPUTS;
  uint32_t record = (uint32_t)((gates ? op->gates : op->from) - d->model->plan), from = 0, until = adapter->n_parts;
  if (gates) input -= TL_OP_INPUTS;
  while (from < until) {
    uint32_t middle = (from + until) / 2;
    const struct tl_adapter_part *part = &adapter->parts[middle];
    if (part->record == record && part->input == input) return part;
    if (part->record < record || (part->record == record && part->input < input)) from = middle + 1;
    else until = middle;
  }
  return NULL;
}

/* The first input whose A is this one's, too. */
static unsigned first_sharing(const struct cuda_device *d, const struct tl_adapter *adapter, const struct cuda_op *op, unsigned input) {
  const struct tl_adapter_part *own = find_part(d, adapter, op, input), *part;
  for (unsigned i = 0; i < input; i++)
    if ((part = find_part(d, adapter, op, i)) && part->a == own->a) return i;
  return input;
}

static bool is_adapted(const struct cuda_device *d, const struct cuda_op *op) {
  for (uint32_t i = 0; is_product(op) && i < d->model->n_adapters; i++)
    for (unsigned input = 0; input < INPUTS; input++)
      if (find_part(d, &d->model->adapters[i], op, input)) return true;
  return false;
}

int cuda_make_adapters(struct cuda_device *d, struct tl_error *err) {
  for (uint32_t i = 0; i < d->n_plan; i++) d->n_adapted += is_adapted(d, &d->plan[i]);
  if (!d->n_adapted) return TL_OK;
  d->adapters_host = calloc((size_t)d->n_adapted * d->model->n_adapters, sizeof *d->adapters_host);
  return d->adapters_host ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}

void cuda_free_adapters(struct cuda_device *d) {
  free(d->adapters_host);
}

/* --- places ------------------------------------------------------------------------------------- */

/* Outputs of each input, as they are counted here; 0: there is no such input. */
static void count_outputs(const struct cuda_device *d, const struct cuda_op *op, uint32_t n[INPUTS]) {
  const struct cuda_dims *s = &d->dims;
  memset(n, 0, INPUTS * sizeof *n);
  switch (op->kind) {
    case CUDA_OP_QKV:
      n[0] = s->attn;
      n[1] = n[2] = s->n_kv_heads * s->head;
      break;
    case CUDA_OP_DELTA_IN:
      n[0] = n[1] = s->n_key_heads * s->key;
      n[2] = n[3] = s->made;
      n[4] = n[5] = (uint32_t)cuda_round(s->n_value_heads, 8);
      break;
    case CUDA_OP_SHORT_IN: n[0] = n[1] = n[2] = s->n_channels; break;
    case CUDA_OP_GATED: n[0] = n[1] = op->w.n / 2; break;
    default: n[0] = op->w.n; break;
  }
}

static void place_one(struct cuda_device *d, const struct tl_adapter *adapter, const struct cuda_op *op, struct cuda_placer *p,
                      struct tl_cuda_adapter *ret) {
  uint32_t n[INPUTS];
  count_outputs(d, op, n);
  *ret = (struct tl_cuda_adapter){0};
  for (unsigned input = 0; input < INPUTS; input++) {
    const struct tl_adapter_part *part = find_part(d, adapter, op, input);
    if (!part) continue;
    unsigned first = first_sharing(d, adapter, op, input);
    ret->rank[input] = (uint32_t)cuda_round(part->rank, TL_CUDA_ADAPTER_RANKS);
    ret->scale[input] = part->scale;
    ret->b[input] = cuda_take_place(p, (size_t)n[input] * ret->rank[input], 2);
    ret->at[input] = first < input ? ret->at[first] : ret->ranks;
    if (first == input) ret->ranks += ret->rank[input];
  }
  ret->a = cuda_take_place(p, (size_t)ret->ranks * op->w.k, 2);
  if (ret->ranks > d->ld_shrunk) d->ld_shrunk = ret->ranks;
}

void cuda_place_adapters(struct cuda_device *d, struct cuda_placer *p) {
  uint32_t n = d->model->n_adapters;
  struct tl_cuda_adapter *host = d->adapters_host;
  if (!d->n_adapted) return;
  CUDA_TAKE_PLACE(p, d->adapters, (size_t)d->n_adapted * n);
  for (uint32_t i = 0; i < d->n_plan; i++) {
    struct cuda_op *op = &d->plan[i];
    if (!is_adapted(d, op)) continue;
    op->adapters = d->adapters ? d->adapters + (host - d->adapters_host) : NULL;
    for (uint32_t k = 0; k < n; k++) place_one(d, &d->model->adapters[k], op, p, host++);
  }
}

/* --- parts -------------------------------------------------------------------------------------------- */

typedef bool (*add_part)(void *list, struct cuda_part part);

/* Rows of A to those from `to` on of the stack; its columns are the weight's inputs, of OUT heads. */
static bool add_a(struct cuda_device *d, const struct cuda_op *op, const struct tl_slice *a, char *to, add_part add, void *list) {
  struct cuda_part part = {.kind = CUDA_PART_T, .tensor = a->tensor, .n_rows = a->n_rows, .column = a->first_column, .n_columns = a->n_columns,
                           .to = to, .pitch = (size_t)op->w.k * 2};
  uint32_t head = op->of_state ? d->model->recurrence.value_dim : d->model->head_dim, padded = op->of_state ? d->dims.value : d->dims.head;
  uint32_t n_heads = op->of_state ? d->dims.n_value_heads : d->dims.n_heads;
  if (op->kind != CUDA_OP_OUT || head == padded) return add(list, part);
  for (uint32_t i = 0; i < n_heads; i++) {
    part.column = a->first_column + (uint64_t)i * head;
    part.n_columns = head;
    part.to = to + (size_t)i * padded * 2;
    if (!add(list, part)) return false;
  }
  return true;
}

/* In which an input's outputs stand, if they are of heads. */
static const struct cuda_order *order_of(const struct cuda_device *d, const struct cuda_op *op, unsigned input) {
  switch (op->kind) {
    case CUDA_OP_QKV: return input < 2 ? &d->qk_order : &d->v_order;
    case CUDA_OP_GATE_IN: return &d->v_order;
    case CUDA_OP_DELTA_IN: return input < 2 ? &d->key_order : input < 4 ? &d->value_order : NULL; /* of b and c each head has one */
    default: return NULL;
  }
}

/* Rows of B are the weight's outputs. */
static bool add_b(struct cuda_device *d, const struct cuda_op *op, const struct tl_adapter_part *part, unsigned input,
                  const struct tl_cuda_adapter *at, add_part add, void *list) {
  struct tl_slice b = tl_slice_adapter_b(d->model, &d->shard, part);
  const struct cuda_order *order = order_of(d, op, input);
  uint32_t n[INPUTS];
  count_outputs(d, op, n);
  return add(list, (struct cuda_part){.kind = CUDA_PART_T, .tensor = b.tensor, .row = b.first_row, .n_rows = order ? n[input] : b.n_rows,
                                      .n_columns = part->rank, .order = order, .to = (char *)at->b[input], .pitch = (size_t)at->rank[input] * 2});
}

static bool add_parts(struct cuda_device *d, const struct tl_adapter *adapter, const struct cuda_op *op, const struct tl_cuda_adapter *at, add_part add,
                      void *list) {
  for (unsigned input = 0; input < INPUTS; input++) {
    const struct tl_adapter_part *part = find_part(d, adapter, op, input);
    if (!part) continue;
    struct tl_slice a = tl_slice_adapter_a(d->model, &d->shard, part);
    char *to = (char *)at->a + (size_t)at->at[input] * op->w.k * 2;
    if (first_sharing(d, adapter, op, input) == input && !add_a(d, op, &a, to, add, list)) return false;
    if (!add_b(d, op, part, input, at, add, list)) return false;
  }
  return true;
}

bool cuda_adapter_parts(struct cuda_device *d, add_part add, void *list) {
  const struct tl_cuda_adapter *host = d->adapters_host;
  for (uint32_t i = 0; host && i < d->n_plan; i++) {
    const struct cuda_op *op = &d->plan[i];
    for (uint32_t k = 0; op->adapters && k < d->model->n_adapters; k++)
      if (!add_parts(d, &d->model->adapters[k], op, host++, add, list)) return false;
  }
  return true;
}

int cuda_load_adapters(struct cuda_device *d, struct tl_error *err) {
  size_t bytes = (size_t)d->n_adapted * d->model->n_adapters * sizeof *d->adapters_host;
  void *pinned;
  if (!d->n_adapted) return TL_OK;
  CUDA_TRY(d, d->api->rt.alloc_host(&pinned, bytes), "pinning memory for the adapters' table", err);
  memcpy(pinned, d->adapters_host, bytes);
  return cuda_copy_table(d, pinned, bytes, d->adapters, "copying the adapters' table", err);
}

/* --- steps ------------------------------------------------------------------------------------------------ */

uint32_t cuda_graph_tiles(const struct cuda_device *d, uint32_t n_rows) {
  uint32_t most = d->model->n_adapters < d->limits.max_seqs ? d->model->n_adapters : d->limits.max_seqs;
  most += n_rows / TL_CUDA_ADAPTER_ROWS; /* of each adapter one tile may be less than full */
  return n_rows < most ? n_rows : most;
}

void cuda_stage_adapters(struct cuda_device *d, const struct tl_step *step, uint32_t n_padded, struct cuda_pass *pass) {
  struct cuda_step_data *h = d->host;
  uint32_t n_rows = 0, n_tiles = 0;
  for (uint32_t i = 0; i < d->model->n_adapters; i++) {
    uint32_t first = n_rows;
    for (uint32_t q = 0; q < step->n_seqs; q++)
      for (uint32_t row = step->query_start[q]; step->adapters[q] == i + 1 && row < step->query_start[q + 1]; row++) h->adapter_rows[n_rows++] = row;
    for (; first < n_rows; first += h->adapter_tiles[n_tiles++].n) {
      uint32_t left = n_rows - first;
      h->adapter_tiles[n_tiles] = (struct tl_cuda_adapter_tile){i, first, left < TL_CUDA_ADAPTER_ROWS ? left : TL_CUDA_ADAPTER_ROWS};
    }
  }
  for (uint32_t i = n_tiles; i < cuda_graph_tiles(d, n_padded); i++) h->adapter_tiles[i] = (struct tl_cuda_adapter_tile){0};
  pass->n_adapter_tiles = n_tiles;
}

int cuda_adapt(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, const char *x, char *y, struct tl_error *err) {
  struct tl_cuda_shrink_args shrink = {.dtype = d->dtype, .n_tiles = pass->n_adapter_tiles, .k = op->w.k, .ld = d->ld_shrunk, .adapters = op->adapters,
                                       .tiles = d->device.adapter_tiles, .rows = d->device.adapter_rows, .x = x, .s = d->work.shrunk};
  struct tl_cuda_expand_args expand = {.dtype = d->dtype, .n_tiles = pass->n_adapter_tiles, .n = op->w.n, .ldy = op->w.ld, .ld = d->ld_shrunk,
                                       .adapters = op->adapters, .tiles = d->device.adapter_tiles, .rows = d->device.adapter_rows,
                                       .s = d->work.shrunk, .y = y};
  uint32_t n[INPUTS], first = 0;
  count_outputs(d, op, n);
  for (unsigned input = 0; input < INPUTS; first += n[input++]) expand.first[input] = n[input] ? first : UINT32_MAX;
  CUDA_TRY(d, d->api->op.shrink(&shrink, d->stream), "adapters' first products", err);
  CUDA_TRY(d, d->api->op.expand(&expand, d->stream), "adapters' second products", err);
  return TL_OK;
}
