/* SPDX-License-Identifier: MIT */
/* LoRA adapters: A and B of each lie with the weights, cut and padded as the weight that they belong to; a table has, for each record that
 * is adapted and each adapter, where. A step that has adapters runs such records' products plainly, and two kernels behind each;
 * all other steps, and their graphs, are as they are without. */
#include "tokenlane/adapter.h"

#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda_private.h"

_Static_assert(TL_OP_INPUTS <= TL_CUDA_ADAPTER_INPUTS, "a product has as many inputs");

static bool is_product(const struct cuda_op *op) {
  return op->kind == CUDA_OP_QKV || op->kind == CUDA_OP_OUT || op->kind == CUDA_OP_GATED || op->kind == CUDA_OP_DOWN;
}

/* What the adapter has of an input of op's record, or NULL. */
static const struct tl_adapter_part *find_part(const struct cuda_device *d, const struct tl_adapter *adapter, const struct cuda_op *op,
                                               unsigned input) {
  uint32_t record = (uint32_t)(op->from - d->model->plan);
  for (uint32_t i = 0; i < adapter->n_parts; i++)
    if (adapter->parts[i].record == record && adapter->parts[i].input == input) return &adapter->parts[i];
  return NULL;
}

static bool is_adapted(const struct cuda_device *d, const struct cuda_op *op) {
  for (uint32_t i = 0; is_product(op) && i < d->model->n_adapters; i++)
    for (unsigned input = 0; input < TL_OP_INPUTS; input++)
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

/* Outputs of an input, as they are counted here, and from which of all on. */
static uint32_t outputs_of(const struct cuda_device *d, const struct cuda_op *op, unsigned input, uint32_t *ret_first) {
  uint32_t heads = d->dims.n_kv_heads * d->dims.head;
  *ret_first = UINT32_MAX;
  if (op->kind == CUDA_OP_QKV) {
    *ret_first = input == 0 ? 0 : d->dims.attn + (input - 1) * heads;
    return input == 0 ? d->dims.attn : heads;
  }
  uint32_t n = op->kind == CUDA_OP_GATED ? 2 : 1;
  if (input < n) *ret_first = input * (op->w.n / n);
  return input < n ? op->w.n / n : 0;
}

static void place_one(struct cuda_device *d, const struct tl_adapter *adapter, const struct cuda_op *op, struct cuda_placer *p,
                      struct tl_cuda_adapter *ret) {
  uint32_t total = 0, first;
  *ret = (struct tl_cuda_adapter){0};
  for (unsigned input = 0; input < TL_OP_INPUTS; input++) {
    const struct tl_adapter_part *part = find_part(d, adapter, op, input);
    if (!part) continue;
    ret->rank[input] = (uint32_t)cuda_round(part->rank, TL_CUDA_ADAPTER_RANKS);
    ret->scale[input] = part->scale;
    ret->b[input] = cuda_take_place(p, (size_t)outputs_of(d, op, input, &first) * ret->rank[input], 2);
    total += ret->rank[input];
  }
  ret->a = cuda_take_place(p, (size_t)total * op->w.k, 2);
  if (total > d->ld_shrunk) d->ld_shrunk = total;
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

/* Rows of A to those from `rank` on of the stack; its columns are the weight's inputs, of OUT heads. */
static bool add_a(struct cuda_device *d, const struct cuda_op *op, const struct tl_slice *a, char *to, add_part add, void *list) {
  struct cuda_part part = {.kind = CUDA_PART_T, .tensor = a->tensor, .n_rows = a->n_rows, .column = a->first_column, .n_columns = a->n_columns,
                           .to = to, .pitch = (size_t)op->w.k * 2};
  uint32_t head = d->model->head_dim;
  if (op->kind != CUDA_OP_OUT || head == d->dims.head) return add(list, part);
  for (uint32_t i = 0; i < d->dims.n_heads; i++) {
    part.column = a->first_column + (uint64_t)i * head;
    part.n_columns = head;
    part.to = to + (size_t)i * d->dims.head * 2;
    if (!add(list, part)) return false;
  }
  return true;
}

/* Rows of B are the weight's outputs, of QKV heads. */
static bool add_b(struct cuda_device *d, const struct cuda_op *op, const struct tl_adapter_part *part, const struct tl_cuda_adapter *at, add_part add,
                  void *list) {
  struct tl_slice b = tl_slice_adapter_b(d->model, &d->shard, part);
  uint32_t first, n = outputs_of(d, op, part->input, &first);
  bool heads = op->kind == CUDA_OP_QKV;
  return add(list, (struct cuda_part){.kind = CUDA_PART_T, .tensor = b.tensor, .row = b.first_row, .n_rows = heads ? n : b.n_rows,
                                      .n_columns = part->rank, .order = !heads ? NULL : part->input < 2 ? &d->qk_order : &d->v_order,
                                      .to = (char *)at->b[part->input], .pitch = (size_t)at->rank[part->input] * 2});
}

static bool add_parts(struct cuda_device *d, const struct tl_adapter *adapter, const struct cuda_op *op, const struct tl_cuda_adapter *at, add_part add,
                      void *list) {
  size_t rank = 0;
  for (unsigned input = 0; input < TL_OP_INPUTS; rank += at->rank[input++]) {
    const struct tl_adapter_part *part = find_part(d, adapter, op, input);
    if (!part) continue;
    struct tl_slice a = tl_slice_adapter_a(d->model, &d->shard, part);
    if (!add_a(d, op, &a, (char *)at->a + rank * op->w.k * 2, add, list) || !add_b(d, op, part, at, add, list)) return false;
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
  for (unsigned input = 0; input < TL_OP_INPUTS; input++) outputs_of(d, op, input, &expand.first[input]);
  CUDA_TRY(d, d->api->op.shrink(&shrink, d->stream), "adapters' first products", err);
  CUDA_TRY(d, d->api->op.expand(&expand, d->stream), "adapters' second products", err);
  return TL_OK;
}
