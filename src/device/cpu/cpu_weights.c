/* SPDX-License-Identifier: MIT */
/* Weights from mapped files into panels, in one anonymous mapping. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "device/cpu/cpu_quant.h"

#define HUGE_PAGE ((size_t)2 << 20)

void *cpu_map(size_t bytes) {
  void *memory = mmap(NULL, cpu_round_up(bytes, HUGE_PAGE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return NULL;
  madvise(memory, bytes, MADV_HUGEPAGE); /* fewer TLB misses where the kernel has them */
  return memory;
}

void cpu_unmap(void *memory, size_t bytes) {
  if (memory) munmap(memory, cpu_round_up(bytes, HUGE_PAGE));
}

/* --- sizes ------------------------------------------------------------------------------- */

static bool of_heads(const struct tl_op *op) {
  return op->kind == TL_OP_LATENT_ABSORB || op->kind == TL_OP_LATENT_VALUE;
}

static bool same_order(const struct tl_tensor *a, const struct tl_tensor *b) {
  const uint32_t *x = tl_tensor_order(a), *y = tl_tensor_order(b);
  return x == y || (x && y && memcmp(x, y, a->shape[1] * sizeof *x) == 0);
}

/* Whether panels of one layout hold both as they are. */
static bool alike(const struct tl_tensor *a, const struct tl_tensor *b) {
  return a->dtype == b->dtype && tl_tensor_group_columns(a) == tl_tensor_group_columns(b) && same_order(a, b);
}

/* Whether the slice's columns begin where blocks and what shares a scale begin: then it can be packed as it is,
 * else as floats. */
static bool cut_fits(const struct tl_slice *s) {
  const struct tl_tensor *t = s->tensor;
  const struct tl_quant_format *f = tl_quant_format(t->dtype);
  if (t->n_dims < 2 || s->n_columns == t->shape[1]) return true;
  uint64_t shared = tl_tensor_group_columns(t);
  if (shared < t->shape[1] && s->first_column % shared) return false;
  if (!f) return true;
  /* groups longer than a chunk of a panel must not begin within one */
  bool whole_groups = shared < CPU_K_BLOCK || (s->first_column % CPU_K_BLOCK == 0 && shared % CPU_K_BLOCK == 0);
  return !tl_tensor_order(t) && s->first_column % f->block == 0 && s->n_columns % f->block == 0 && (!t->packed || whole_groups);
}

void cpu_lay_out_floats(struct cpu_matrix *w) {
  w->n_panels = (w->n_out + CPU_PANEL - 1) / CPU_PANEL;
  w->k_padded = (w->n_in + 1) / 2 * 2;
  w->panel_bytes = (size_t)w->k_padded * CPU_PANEL * tl_dtype_bytes(w->dtype);
}

static void measure_floats(struct cpu_matrix *w, const struct tl_slice *s) {
  w->quant = NULL;
  if (tl_quant_format(w->dtype) || !cut_fits(s)) w->dtype = TL_DTYPE_F32;
  cpu_lay_out_floats(w);
  if (w->dtype != TL_DTYPE_F8_E4M3) return;
  w->run = (uint32_t)tl_tensor_group_columns(s->tensor);
  w->panel_bytes += cpu_f8_scale_bytes(w);
}

/* Of one head: products with floats, as rows have the heads' numbers side by side. A pair of BF16 must not lie across two heads. */
static void measure_head(struct cpu_matrix *w, const struct tl_op *op, const struct tl_slice *s) {
  bool turned = op->features & TL_F_TURNED;
  w->n_out = (uint32_t)(turned ? s->n_columns : s->n_rows);
  w->n_in = (uint32_t)(turned ? s->n_rows : s->n_columns);
  if ((turned && w->dtype > TL_DTYPE_BF16) || (w->n_in % 2 && w->dtype == TL_DTYPE_BF16)) w->dtype = TL_DTYPE_F32;
  measure_floats(w, s);
}

/* A packed matrix of n inputs of a record, from input `first` on: one to three stacked slices. */
static void measure(struct cpu_matrix *w, const struct tl_model *model, const struct tl_shard *shard, const struct tl_op *op,
                    unsigned first, unsigned n) {
  struct tl_slice head = tl_slice_weight(model, shard, op, first);
  *w = (struct cpu_matrix){.dtype = head.tensor->dtype, .n_in = (uint32_t)head.n_columns};
  for (unsigned i = 0; i < n; i++) {
    struct tl_slice s = tl_slice_weight(model, shard, op, first + i);
    w->n_out += (uint32_t)s.n_rows;
    /* stacked tensors of different formats: floats hold them all */
    if (!alike(s.tensor, head.tensor)) w->dtype = TL_DTYPE_F32;
  }
  if (op->kind == TL_OP_ROUTE) w->dtype = TL_DTYPE_F32; /* rounded rows would choose other experts */
  w->n_panels = (w->n_out + CPU_PANEL - 1) / CPU_PANEL;
  if (of_heads(op))
    measure_head(w, op, &head);
  else if (w->dtype == head.tensor->dtype && cpu_quant_can(head.tensor) && cut_fits(&head))
    cpu_quant_measure(w, head.tensor);
  else
    measure_floats(w, &head);
}

/* Stacked tensors of which some are smaller than floats, in formats that differ: a matrix each. */
static unsigned split(const struct tl_model *model, const int32_t *tensors, unsigned n) {
  bool quantized = false, differ = false;
  for (unsigned i = 0; i < n; i++) {
    const struct tl_tensor *t = &model->tensors[tensors[i]];
    quantized = quantized || cpu_quant_can(t) || t->dtype == TL_DTYPE_F8_E4M3;
    differ = differ || !alike(t, &model->tensors[tensors[0]]);
    /* rows are quantized once for all, in one order */
    if (!same_order(t, &model->tensors[tensors[0]])) return 1;
  }
  return quantized && differ ? n : 1;
}

/* Rows stay as they are in the file where that is one run of bytes. */
static enum tl_dtype embed_dtype(const struct tl_tensor *t) {
  return t->packed ? TL_DTYPE_F32 : t->dtype;
}

static size_t matrix_bytes(const struct cpu_matrix *w) {
  return w->n_panels * w->panel_bytes + cpu_round_up(w->n_panels * CPU_PANEL * sizeof(float), 64);
}

/* --- packing ------------------------------------------------------------------------------- */

static void pack_f8_row(const struct cpu_matrix *w, char *panel, uint32_t column, const struct tl_slice *s, size_t row) {
  const char *bytes = (const char *)tl_tensor_row(s->tensor, row) + s->first_column;
  float *scales = (float *)(void *)panel;
  for (uint32_t k = 0; k < w->n_in; k += w->run)
    scales[k / w->run * CPU_PANEL + column] = tl_tensor_f8_scale(s->tensor, row, s->first_column + k);
  panel += cpu_f8_scale_bytes(w);
  for (uint32_t k = 0; k < w->n_in; k++) panel[(size_t)k * CPU_PANEL + column] = bytes[k];
}

void cpu_pack_row(const struct cpu_matrix *w, char *panel, uint32_t column, const struct tl_slice *s, size_t row, float *values) {
  const struct tl_tensor *t = s->tensor;
  size_t index = s->first_row + row;
  if (w->dtype == TL_DTYPE_F32) {
    tl_tensor_row_to_f32(t, index, values);
    for (uint32_t k = 0; k < w->n_in; k++) ((float *)(void *)panel)[(size_t)k * CPU_PANEL + column] = values[s->first_column + k];
    return;
  }
  if (w->dtype == TL_DTYPE_F8_E4M3) {
    pack_f8_row(w, panel, column, s, index);
    return;
  }
  size_t step = 2 * (t->column_step ? t->column_step : 1);
  const char *halves = (const char *)tl_tensor_row(t, index) + step * s->first_column;
  for (uint32_t k = 0; k < w->n_in; k++) {
    size_t place = w->dtype == TL_DTYPE_BF16 ? ((size_t)(k / 2) * CPU_PANEL + column) * 2 + k % 2
                                             : (size_t)k * CPU_PANEL + column;
    memcpy((uint16_t *)(void *)panel + place, halves + step * k, sizeof(uint16_t));
  }
}

/* Row `row` of a tensor that is stored by inputs: input `row` of all outputs. */
static void pack_input(const struct cpu_matrix *w, const struct tl_tensor *t, uint32_t row, float *values) {
  bool halves = w->dtype != TL_DTYPE_F32;
  const char *at = halves ? tl_tensor_row(t, row) : NULL;
  if (!halves) tl_tensor_row_to_f32(t, row, values);
  for (uint32_t out = 0; out < w->n_out; out++) {
    char *panel = w->panels + out / CPU_PANEL * w->panel_bytes;
    uint32_t column = out % CPU_PANEL;
    size_t place = w->dtype == TL_DTYPE_BF16 ? ((size_t)(row / 2) * CPU_PANEL + column) * 2 + row % 2 : (size_t)row * CPU_PANEL + column;
    if (halves)
      memcpy((uint16_t *)(void *)panel + place, at + 2 * out, sizeof(uint16_t));
    else
      ((float *)(void *)panel)[place] = values[out];
  }
}

struct packer {
  const struct tl_device_load *load;
  const struct tl_shard *shard;
  char *at; /* where the next matrix goes */
  float *row; /* room for the longest row */
  uint64_t done;
};

static void report(struct packer *p, uint64_t bytes) {
  p->done += bytes;
  if (p->load->progress) p->load->progress(p->done, p->load->model->weight_bytes, p->load->context);
}

static void pack(struct packer *p, struct cpu_matrix *w, const struct tl_op *op, unsigned first, unsigned n) {
  const struct tl_model *model = p->load->model;
  w->panels = p->at;
  p->at += w->n_panels * w->panel_bytes;
  float *bias = (float *)(void *)p->at;
  p->at += cpu_round_up(w->n_panels * CPU_PANEL * sizeof(float), 64);
  uint32_t out = 0;
  for (unsigned i = first; i < first + n; i++) {
    struct tl_slice s = tl_slice_weight(model, p->shard, op, i);
    for (uint32_t row = 0; row < s.n_rows; row++) {
      if (op->features & TL_F_TURNED && of_heads(op))
        pack_input(w, s.tensor, row, p->row);
      else if (w->quant)
        cpu_quant_pack_row(w, out + row, s.tensor, s.first_row + row, (uint32_t)s.first_column);
      else
        cpu_pack_row(w, w->panels + (out + row) / CPU_PANEL * w->panel_bytes, (out + row) % CPU_PANEL, &s, row, p->row);
    }
    if (op->bias[i] >= 0) {
      struct tl_slice b = tl_slice_bias(model, p->shard, op, i);
      for (uint64_t k = 0; k < b.n_rows; k++) tl_tensor_row_to_f32(b.tensor, b.first_row + k, bias + out + k);
      w->bias = bias;
    }
    out += (uint32_t)s.n_rows;
    report(p, s.tensor->bytes);
  }
}

/* The vectors that a norm, or another record, reads: weight[0], and another; -1: it has none. */
static void norm_vectors(const struct tl_op *op, int32_t *ret_first, int32_t *ret_second) {
  *ret_first = *ret_second = -1;
  switch (op->kind) {
    case TL_OP_ROW_GATE:
    case TL_OP_GATED_NORM:
    case TL_OP_ATTEND: *ret_first = op->weight[0]; return;
    case TL_OP_ROUTE:
    case TL_OP_BESIDE_MIX: *ret_second = op->weight[1]; return;
    case TL_OP_QK_NORM:
    case TL_OP_LATENT_NORM:
    case TL_OP_EMBED_PLACE: *ret_first = op->weight[0], *ret_second = op->weight[1]; return;
    case TL_OP_RMSNORM:
    case TL_OP_VECTOR_NORM:
    case TL_OP_ASIDE:
    case TL_OP_JOIN:
    case TL_OP_NORM_ADD: *ret_first = op->weight[0], *ret_second = op->bias[0]; return;
    default: return;
  }
}

static uint64_t row_length(const struct tl_tensor *t) {
  return t->n_dims > 1 ? t->shape[1] : 1;
}

static size_t vector_bytes(const struct tl_model *model, int32_t tensor) {
  if (tensor < 0) return 0;
  const struct tl_tensor *t = &model->tensors[tensor];
  return cpu_round_up(t->shape[0] * row_length(t) * sizeof(float), 64);
}

static float *copy_vector(struct packer *p, int32_t tensor, bool plus_one) {
  if (tensor < 0) return NULL;
  const struct tl_tensor *t = &p->load->model->tensors[tensor];
  float *vector = (float *)(void *)p->at;
  p->at += vector_bytes(p->load->model, tensor);
  for (uint64_t k = 0; k < t->shape[0]; k++) tl_tensor_row_to_f32(t, k, vector + k * row_length(t));
  for (uint64_t k = 0; plus_one && k < t->shape[0]; k++) vector[k] += 1;
  return vector;
}

/* How many tensors a record's (first) matrix stacks; 0: it has none. */
static unsigned stacked(const struct tl_op *op) {
  switch (op->kind) {
    case TL_OP_DELTA_GATES: return op->weight[2] < 0 ? 2 : 3;
    case TL_OP_DELTA_IN:
    case TL_OP_SHORT_IN: return 3;
    case TL_OP_QKV: return op->weight[1] < 0 ? 1 : 3;
    case TL_OP_LATENT: return 2;
    case TL_OP_LATENT_QUERY:
    case TL_OP_GATE_IN:
    case TL_OP_ATTN_OUT:
    case TL_OP_GATED_UP:
    case TL_OP_UP:
    case TL_OP_DENSE:
    case TL_OP_MLP_DOWN:
    case TL_OP_ROUTE:
    case TL_OP_EXPERTS_IN:
    case TL_OP_EXPERTS_OUT:
    case TL_OP_BESIDE_MIX:
    case TL_OP_LOGITS: return 1;
    default: return 0;
  }
}

/* How many matrices each expert, or head, has in a record; 0: there are none in it. */
static unsigned of_expert(const struct tl_op *op) {
  return op->kind == TL_OP_EXPERTS_UP ? cpu_expert_ups(op) : op->kind == TL_OP_EXPERTS_DOWN || of_heads(op) ? 1 : 0;
}

/* The shard's experts, or heads, of such a record. */
static uint32_t n_experts_of(const struct tl_op *op, const struct tl_shard *shard, uint32_t *ret_first) {
  *ret_first = of_heads(op) ? shard->first_head : shard->first_expert;
  return of_heads(op) ? shard->n_heads : shard->n_experts;
}

/* The record as that of one expert alone, which is cut like any other. */
static struct tl_op one_expert(const struct tl_op *op, uint32_t expert) {
  struct tl_op one = *op;
  for (unsigned i = 0; i < of_expert(op); i++) {
    one.weight[i] += (int32_t)expert;
    if (one.bias[i] >= 0) one.bias[i] += (int32_t)expert;
  }
  return one;
}

static size_t embed_bytes(const struct tl_slice *s) {
  return s->n_rows * tl_dtype_row_bytes(embed_dtype(s->tensor), s->n_columns);
}

/* The record's stacked tensors: one matrix, or one each, linked. */
static size_t measure_stack(const struct tl_model *model, const struct tl_shard *shard, struct cpu_weights *w, uint32_t record) {
  const struct tl_op *op = &model->plan[record];
  unsigned n = stacked(op), n_parts = split(model, op->weight, n);
  struct cpu_matrix *part = &w->matrices[record];
  size_t total = 0;
  for (unsigned i = 0; i < n_parts; i++) {
    measure(part, model, shard, op, i, n_parts == 1 ? n : 1);
    total += matrix_bytes(part);
    w->quantized = w->quantized || part->quant;
    if (i + 1 < n_parts) part->next = &w->others[2 * record + i];
    part = part->next;
  }
  return total;
}

/* The shard's experts of a record. */
static size_t measure_experts(const struct tl_model *model, const struct tl_shard *shard, struct cpu_weights *w, uint32_t record) {
  const struct tl_op *op = &model->plan[record];
  unsigned n = of_expert(op);
  size_t total = 0;
  uint32_t first, n_experts = n_experts_of(op, shard, &first);
  for (uint32_t e = 0; e < n_experts; e++) {
    struct tl_op one = one_expert(op, first + e);
    struct cpu_matrix *head = &w->experts[record][n * e];
    for (unsigned i = 0; i < n; i++) {
      measure(head + i, model, shard, &one, i, 1);
      /* both read the rows that were quantized for the first */
      struct tl_slice s = tl_slice_weight(model, shard, &one, i);
      if (!same_order(&model->tensors[one.weight[0]], s.tensor)) measure_floats(head + i, &s);
      total += matrix_bytes(head + i);
      w->quantized = w->quantized || head[i].quant;
    }
  }
  return total;
}

static size_t measure_all(const struct tl_model *model, const struct tl_shard *shard, struct cpu_weights *w) {
  size_t total = 0;
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    if (stacked(op)) total += measure_stack(model, shard, w, i);
    if (of_expert(op)) total += measure_experts(model, shard, w, i);
    if (op->kind == TL_OP_GATED_UP) {
      struct tl_slice up = tl_slice_weight(model, shard, op, 1);
      measure(&w->ups[i], model, shard, op, 1, 1);
      /* both read the rows that were quantized for the gate */
      if (!same_order(&model->tensors[op->weight[0]], up.tensor)) measure_floats(&w->ups[i], &up);
      total += matrix_bytes(&w->ups[i]);
      w->quantized = w->quantized || w->ups[i].quant;
    }
    int32_t first, second;
    norm_vectors(op, &first, &second);
    total += vector_bytes(model, first) + vector_bytes(model, second);
    size_t more, of_state = cpu_states_vectors(model, shard, op, &more);
    total += (of_state + more) * sizeof(float);
    if (op->kind == TL_OP_EMBED || op->kind == TL_OP_BESIDE) {
      struct tl_slice s = tl_slice_weight(model, shard, op, 0);
      total += cpu_round_up(embed_bytes(&s), 64);
    }
  }
  return total;
}

static void pack_stack(struct packer *p, struct cpu_matrix *w, const struct tl_op *op) {
  unsigned n = stacked(op), each = w->next ? 1 : n;
  for (unsigned i = 0; i < n; i += each, w = w->next) pack(p, w, op, i, each);
}

static void pack_experts(struct packer *p, struct cpu_matrix *w, const struct tl_op *op) {
  uint32_t first, n_experts = n_experts_of(op, p->shard, &first);
  for (uint32_t e = 0; e < n_experts; e++) {
    struct tl_op one = one_expert(op, first + e);
    for (unsigned i = 0; i < of_expert(op); i++) pack(p, w++, &one, i, 1);
  }
}

static void copy_table(struct packer *p, const struct tl_op *op, struct cpu_table *ret) {
  struct tl_slice s = tl_slice_weight(p->load->model, p->shard, op, 0);
  ret->rows = p->at;
  ret->dtype = embed_dtype(s.tensor);
  ret->row_bytes = tl_dtype_row_bytes(ret->dtype, s.n_columns);
  for (uint64_t row = 0; row < s.n_rows; row++) {
    if (ret->dtype == s.tensor->dtype)
      memcpy(p->at + row * ret->row_bytes, tl_tensor_row(s.tensor, s.first_row + row), ret->row_bytes);
    else
      tl_tensor_row_to_f32(s.tensor, s.first_row + row, (float *)(void *)(p->at + row * ret->row_bytes));
  }
  p->at += cpu_round_up(embed_bytes(&s), 64);
}

static uint64_t longest_row(const struct tl_model *model) {
  uint64_t most = 1;
  for (uint32_t i = 0; i < model->n_tensors; i++)
    if (model->tensors[i].n_dims == 2 && model->tensors[i].shape[1] > most) most = model->tensors[i].shape[1];
  return most;
}

static float *take_floats(struct packer *p, size_t n) {
  float *at = (float *)(void *)p->at;
  p->at += n * sizeof *at;
  return n ? at : NULL;
}

/* What records of layers with a state read. */
static void pack_state_vectors(struct packer *p, const struct tl_op *op, float **first, float **second) {
  size_t more, n = cpu_states_vectors(p->load->model, p->shard, op, &more);
  if (!n) return;
  *first = take_floats(p, n);
  *second = take_floats(p, more);
  cpu_states_take_vectors(p->load->model, p->shard, op, *first, *second);
}

static void pack_all(struct packer *p, struct cpu_weights *ret) {
  const struct tl_model *model = p->load->model;
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    if (stacked(op)) pack_stack(p, &ret->matrices[i], op);
    if (of_expert(op)) pack_experts(p, ret->experts[i], op);
    if (op->kind == TL_OP_GATED_UP) pack(p, &ret->ups[i], op, 1, 1);
    int32_t first, second;
    norm_vectors(op, &first, &second);
    ret->norms[i] = copy_vector(p, first, op->features & TL_F_PLUS_ONE);
    ret->norm_parts[i] = copy_vector(p, second, op->features & TL_F_PLUS_ONE && second != op->bias[0]);
    pack_state_vectors(p, op, &ret->norms[i], &ret->norm_parts[i]);
    if (op->kind == TL_OP_EMBED) copy_table(p, op, &ret->embed);
    if (op->kind == TL_OP_BESIDE) copy_table(p, op, &ret->beside);
  }
}

int cpu_weights_load(const struct tl_device_load *load, const struct tl_shard *shard, struct cpu_weights *ret,
                     struct tl_error *err) {
  const struct tl_model *model = load->model;
  *ret = (struct cpu_weights){0};
  ret->matrices = calloc(model->n_ops, sizeof *ret->matrices);
  ret->ups = calloc(model->n_ops, sizeof *ret->ups);
  ret->others = calloc(2 * (size_t)model->n_ops, sizeof *ret->others);
  ret->norms = calloc(model->n_ops, sizeof *ret->norms);
  ret->norm_parts = calloc(model->n_ops, sizeof *ret->norm_parts);
  ret->experts = calloc(model->n_ops, sizeof *ret->experts);
  bool fine = ret->experts != NULL;
  ret->n_records = model->n_ops;
  for (uint32_t i = 0; fine && i < model->n_ops; i++) {
    uint32_t first, n = of_expert(&model->plan[i]) * n_experts_of(&model->plan[i], shard, &first);
    if (n) fine = (ret->experts[i] = calloc(n, sizeof **ret->experts)) != NULL;
  }
  struct packer p = {.load = load, .shard = shard, .row = malloc(longest_row(model) * sizeof(float))};
  if (!ret->matrices || !ret->ups || !ret->others || !ret->norms || !ret->norm_parts || !p.row || !fine) {
    free(p.row);
    return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  }
  ret->bytes = measure_all(model, shard, ret);
  ret->memory = p.at = cpu_map(ret->bytes);
  if (ret->memory) pack_all(&p, ret);
  free(p.row);
  if (!ret->memory)
    return tl_error_set(err, TL_ENOMEM, "model.path", "the weights need %zu MiB of memory, which could not be had",
                        ret->bytes >> 20);
  return TL_OK;
}

void cpu_weights_free(struct cpu_weights *weights) {
  free(weights->matrices);
  free(weights->ups);
  free(weights->others);
  for (uint32_t i = 0; weights->experts && i < weights->n_records; i++) free(weights->experts[i]);
  free(weights->experts);
  free(weights->norms);
  free(weights->norm_parts);
  cpu_unmap(weights->memory, weights->bytes);
  *weights = (struct cpu_weights){0};
}
