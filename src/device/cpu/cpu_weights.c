/* SPDX-License-Identifier: MIT */
/* Weights from mapped files into panels, in one anonymous mapping. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "device/cpu/cpu_private.h"

#define HUGE_PAGE ((size_t)2 << 20)

static size_t round_up(size_t value, size_t to) {
  return (value + to - 1) / to * to;
}

void *cpu_map(size_t bytes) {
  void *memory = mmap(NULL, round_up(bytes, HUGE_PAGE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return NULL;
  madvise(memory, bytes, MADV_HUGEPAGE); /* fewer TLB misses where the kernel has them */
  return memory;
}

void cpu_unmap(void *memory, size_t bytes) {
  if (memory) munmap(memory, round_up(bytes, HUGE_PAGE));
}

/* --- sizes ------------------------------------------------------------------------------- */

/* A packed matrix of n inputs of a record, from input `first` on: one to three stacked slices. */
static void measure(struct cpu_matrix *w, const struct tl_model *model, const struct tl_shard *shard, const struct tl_op *op,
                    unsigned first, unsigned n) {
  struct tl_slice s = tl_slice_weight(model, shard, op, first);
  *w = (struct cpu_matrix){.dtype = s.tensor->dtype, .n_in = (uint32_t)s.n_columns};
  for (unsigned i = 0; i < n; i++) {
    s = tl_slice_weight(model, shard, op, first + i);
    w->n_out += (uint32_t)s.n_rows;
    /* stacked tensors of different formats: floats hold them all */
    if (s.tensor->dtype != w->dtype) w->dtype = TL_DTYPE_F32;
  }
  w->n_panels = (w->n_out + CPU_PANEL - 1) / CPU_PANEL;
  w->k_padded = (w->n_in + 1) / 2 * 2;
  w->panel_bytes = (size_t)w->k_padded * CPU_PANEL * tl_dtype_bytes(w->dtype);
}

static size_t matrix_bytes(const struct cpu_matrix *w) {
  return w->n_panels * w->panel_bytes + round_up(w->n_panels * CPU_PANEL * sizeof(float), 64);
}

/* --- packing ------------------------------------------------------------------------------- */

static uint16_t half_at(const struct tl_tensor *t, size_t element) {
  uint16_t value;
  memcpy(&value, (const char *)t->data + 2 * element, sizeof value);
  return value;
}

static float float_at(const struct tl_tensor *t, size_t element) {
  float value;
  tl_dtype_to_f32(t->dtype, (const char *)t->data + element * tl_dtype_bytes(t->dtype), &value, 1);
  return value;
}

/* One output row of a slice into column `column` of its panel. */
static void pack_row(const struct cpu_matrix *w, char *panel, uint32_t column, const struct tl_slice *s, size_t row) {
  const struct tl_tensor *t = s->tensor;
  size_t at = (s->first_row + row) * t->shape[1] + s->first_column;
  for (uint32_t k = 0; k < w->n_in; k++) {
    if (w->dtype == TL_DTYPE_F32) {
      ((float *)(void *)panel)[(size_t)k * CPU_PANEL + column] = float_at(t, at + k);
      continue;
    }
    size_t place = w->dtype == TL_DTYPE_BF16 ? ((size_t)(k / 2) * CPU_PANEL + column) * 2 + k % 2
                                             : (size_t)k * CPU_PANEL + column;
    ((uint16_t *)(void *)panel)[place] = half_at(t, at + k);
  }
}

struct packer {
  const struct tl_device_load *load;
  const struct tl_shard *shard;
  char *at; /* where the next matrix goes */
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
  p->at += round_up(w->n_panels * CPU_PANEL * sizeof(float), 64);
  uint32_t out = 0;
  for (unsigned i = first; i < first + n; i++) {
    struct tl_slice s = tl_slice_weight(model, p->shard, op, i);
    for (size_t row = 0; row < s.n_rows; row++)
      pack_row(w, w->panels + (out + row) / CPU_PANEL * w->panel_bytes, (out + row) % CPU_PANEL, &s, row);
    if (op->bias[i] >= 0) {
      struct tl_slice b = tl_slice_bias(model, p->shard, op, i);
      const char *data = (const char *)b.tensor->data + b.first_row * tl_dtype_bytes(b.tensor->dtype);
      tl_dtype_to_f32(b.tensor->dtype, data, bias + out, b.n_rows);
      w->bias = bias;
    }
    out += (uint32_t)s.n_rows;
    report(p, s.tensor->bytes);
  }
}

static float *copy_norm(struct packer *p, const struct tl_tensor *t) {
  float *norm = (float *)(void *)p->at;
  p->at += round_up(t->shape[0] * sizeof(float), 64);
  tl_dtype_to_f32(t->dtype, t->data, norm, t->shape[0]);
  return norm;
}

/* How many tensors a record's (first) matrix stacks; 0: it has none. */
static unsigned stacked(const struct tl_op *op) {
  switch (op->kind) {
    case TL_OP_QKV: return 3;
    case TL_OP_ATTN_OUT:
    case TL_OP_GATED_UP:
    case TL_OP_MLP_DOWN:
    case TL_OP_LOGITS: return 1;
    default: return 0;
  }
}

static size_t embed_row_bytes(const struct tl_slice *s) {
  return s->n_columns * tl_dtype_bytes(s->tensor->dtype);
}

static size_t measure_all(const struct tl_model *model, const struct tl_shard *shard, struct cpu_weights *w) {
  size_t total = 0;
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    if (stacked(op)) {
      measure(&w->matrices[i], model, shard, op, 0, stacked(op));
      total += matrix_bytes(&w->matrices[i]);
    }
    if (op->kind == TL_OP_GATED_UP) {
      measure(&w->ups[i], model, shard, op, 1, 1);
      total += matrix_bytes(&w->ups[i]);
    }
    if (op->kind == TL_OP_RMSNORM)
      total += round_up(model->tensors[op->weight[0]].shape[0] * sizeof(float), 64);
    if (op->kind == TL_OP_EMBED) {
      struct tl_slice s = tl_slice_weight(model, shard, op, 0);
      total += round_up(s.n_rows * embed_row_bytes(&s), 64);
    }
  }
  return total;
}

static void copy_embedding(struct packer *p, const struct tl_op *op, struct cpu_weights *ret) {
  struct tl_slice s = tl_slice_weight(p->load->model, p->shard, op, 0);
  size_t row_bytes = embed_row_bytes(&s), bytes = s.n_rows * row_bytes;
  ret->embed = memcpy(p->at, (const char *)s.tensor->data + s.first_row * row_bytes, bytes);
  ret->embed_dtype = s.tensor->dtype;
  p->at += round_up(bytes, 64);
}

int cpu_weights_load(const struct tl_device_load *load, const struct tl_shard *shard, struct cpu_weights *ret,
                     struct tl_error *err) {
  const struct tl_model *model = load->model;
  *ret = (struct cpu_weights){0};
  ret->matrices = calloc(model->n_ops, sizeof *ret->matrices);
  ret->ups = calloc(model->n_ops, sizeof *ret->ups);
  ret->norms = calloc(model->n_ops, sizeof *ret->norms);
  if (!ret->matrices || !ret->ups || !ret->norms) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  ret->bytes = measure_all(model, shard, ret);
  ret->memory = cpu_map(ret->bytes);
  if (!ret->memory)
    return tl_error_set(err, TL_ENOMEM, "model.path", "the weights need %zu MiB of memory, which could not be had",
                        ret->bytes >> 20);
  struct packer p = {load, shard, ret->memory, 0};
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    if (stacked(op)) pack(&p, &ret->matrices[i], op, 0, stacked(op));
    if (op->kind == TL_OP_GATED_UP) pack(&p, &ret->ups[i], op, 1, 1);
    if (op->kind == TL_OP_RMSNORM) ret->norms[i] = copy_norm(&p, &model->tensors[op->weight[0]]);
    if (op->kind == TL_OP_EMBED) copy_embedding(&p, op, ret);
  }
  return TL_OK;
}

void cpu_weights_free(struct cpu_weights *weights) {
  free(weights->matrices);
  free(weights->ups);
  free(weights->norms);
  cpu_unmap(weights->memory, weights->bytes);
  *weights = (struct cpu_weights){0};
}
