/* SPDX-License-Identifier: MIT */
/* LoRA adapters. Beside a product y = x W^T the rows of a step that have an adapter make s = x A^T, at the same time as others compute
 * with W, and then y += scale * s B^T. Rows of one adapter are one group; a group's rows are cut into spans, and (span, panel) is a unit of
 * work. A and B are panels of floats in the file's format, and are read by the backend's products: a row's result does
 * not depend on the other rows. */
#include <stdlib.h>
#include <string.h>

#include "device/cpu/cpu_run.h"
#include "tokenlane/adapter.h"

#define SPAN_ROWS 32 /* at most, in a span: enough that lanes share a prompt's rows, and what comes out lies on the stack */

/* --- loading ---------------------------------------------------------------------------------- */

/* Kernels that want BF16 rows in pairs get floats: rows are converted for nobody here. */
static enum tl_dtype kept_dtype(const struct cpu_device *d, enum tl_dtype dtype) {
  return dtype == TL_DTYPE_BF16 && d->kernels->convert ? TL_DTYPE_F32 : dtype;
}

static size_t measure(struct cpu_matrix *w, enum tl_dtype dtype, uint64_t n_out, uint64_t n_in) {
  *w = (struct cpu_matrix){.dtype = dtype, .n_out = (uint32_t)n_out, .n_in = (uint32_t)n_in};
  cpu_lay_out_floats(w);
  return cpu_round_up(w->n_panels * w->panel_bytes, TL_CACHE_LINE);
}

/* Sizes of the n parts of a record. Inputs that have one A (of a fused product) share its place. */
static size_t measure_part(const struct cpu_device *d, const struct tl_adapter_part *parts, uint32_t n, struct cpu_adapter_part *ret) {
  const struct tl_model *model = d->model;
  enum tl_dtype dtype = kept_dtype(d, model->tensors[parts[0].a].dtype);
  uint32_t total = 0;
  size_t bytes = 0;
  *ret = (struct cpu_adapter_part){0};
  for (uint32_t i = 0; i < n; i++) {
    const struct tl_adapter_part *part = &parts[i];
    struct tl_slice b = tl_slice_adapter_b(model, &d->shard, part);
    bool shared = i > 0 && parts[i - 1].a == part->a;
    ret->at[part->input] = shared ? ret->at[parts[i - 1].input] : total;
    ret->scale[part->input] = part->scale;
    /* products read pairs of inputs: what stands behind an odd rank's last must be this row's own zero */
    if (!shared) total += (uint32_t)cpu_round_up(part->rank, 2);
    if (kept_dtype(d, model->tensors[part->a].dtype) != dtype) dtype = TL_DTYPE_F32;
    bytes += measure(&ret->b[part->input], kept_dtype(d, b.tensor->dtype), b.n_rows, part->rank);
  }
  return bytes + measure(&ret->a, dtype, total, tl_slice_adapter_a(model, &d->shard, &parts[0]).n_columns);
}

static void pack_rows(struct cpu_matrix *w, uint32_t first, const struct tl_slice *s, float *values) {
  for (uint32_t row = 0; row < s->n_rows; row++) {
    uint32_t at = first + row;
    cpu_pack_row(w, w->panels + at / CPU_PANEL * w->panel_bytes, at % CPU_PANEL, s, row, values);
  }
}

/* Returns where the next one goes. */
static char *pack_part(const struct cpu_device *d, const struct tl_adapter_part *parts, uint32_t n, struct cpu_adapter_part *p, char *at, float *values) {
  p->a.panels = at;
  at += cpu_round_up(p->a.n_panels * p->a.panel_bytes, TL_CACHE_LINE);
  for (uint32_t i = 0; i < n; i++) {
    struct cpu_matrix *b = &p->b[parts[i].input];
    struct tl_slice a = tl_slice_adapter_a(d->model, &d->shard, &parts[i]), rows = tl_slice_adapter_b(d->model, &d->shard, &parts[i]);
    pack_rows(&p->a, p->at[parts[i].input], &a, values);
    b->panels = at;
    at += cpu_round_up(b->n_panels * b->panel_bytes, TL_CACHE_LINE);
    pack_rows(b, 0, &rows, values);
  }
  return at;
}

/* Calls measure_part, or pack_part from `at` on, for each record that an adapter adds to; returns the bytes. */
static size_t walk_parts(struct cpu_device *d, char *at, float *values) {
  struct cpu_adapters *x = &d->adapters;
  size_t total = 0;
  for (uint32_t i = 0; i < x->n; i++) {
    const struct tl_adapter *adapter = &d->model->adapters[i];
    uint32_t n_records = 0;
    for (uint32_t first = 0, n = 0; first < adapter->n_parts; first += n, n_records++) {
      uint32_t record = adapter->parts[first].record;
      const struct tl_adapter_part *parts = &adapter->parts[first];
      for (n = 1; first + n < adapter->n_parts && parts[n].record == record; n++) continue;
      struct cpu_adapter_part *p = &x->parts[i][n_records];
      x->parts_of[i][record] = n_records + 1;
      if (at) {
        at = pack_part(d, parts, n, p, at, values);
        continue;
      }
      total += measure_part(d, parts, n, p);
      if (cpu_row_stride(p->a.n_out) > x->ld) x->ld = cpu_row_stride(p->a.n_out);
    }
  }
  return total;
}

static uint64_t longest_row(const struct tl_model *model) {
  uint64_t most = 1;
  for (uint32_t i = 0; i < model->n_adapters; i++)
    for (uint32_t k = 0; k < model->adapters[i].n_parts; k++) {
      const struct tl_adapter_part *part = &model->adapters[i].parts[k];
      uint64_t n = model->tensors[part->a].shape[1];
      if (part->rank > n) n = part->rank;
      if (n > most) most = n;
    }
  return most;
}

/* Rows of a step's sequences, cut: each sequence has one span that is not full, at most. */
static size_t most_spans(const struct cpu_device *d) {
  return d->load.max_batch_size + d->load.max_batch_tokens / SPAN_ROWS;
}

static bool allocate(struct cpu_device *d) {
  struct cpu_adapters *x = &d->adapters;
  x->n = d->model->n_adapters;
  x->parts_of = calloc(x->n, sizeof *x->parts_of);
  x->parts = calloc(x->n, sizeof *x->parts);
  x->spans = calloc(most_spans(d), sizeof *x->spans);
  size_t bytes = 2 * (size_t)d->model->n_ops * sizeof *x->tickets;
  x->tickets = aligned_alloc(TL_CACHE_LINE, bytes);
  bool fine = x->parts_of && x->parts && x->spans && x->tickets;
  for (uint32_t i = 0; fine && i < x->n; i++) {
    x->parts_of[i] = calloc(d->model->n_ops, sizeof **x->parts_of);
    x->parts[i] = calloc(d->model->adapters[i].n_parts, sizeof **x->parts);
    fine = x->parts_of[i] && x->parts[i];
  }
  return fine;
}

int cpu_adapters_load(struct cpu_device *d, struct tl_error *err) {
  struct cpu_adapters *x = &d->adapters;
  if (d->model->n_adapters == 0) return TL_OK;
  float *values = malloc(longest_row(d->model) * sizeof *values);
  bool fine = allocate(d) && values;
  if (fine) {
    size_t weights = walk_parts(d, NULL, NULL), rows = (size_t)d->load.max_batch_tokens * x->ld * sizeof *x->s;
    x->bytes = weights + rows;
    x->memory = cpu_map(x->bytes);
    fine = x->memory != NULL;
    if (fine) walk_parts(d, x->memory, values);
    if (fine) x->s = (float *)(void *)(x->memory + weights);
  }
  free(values);
  return fine ? TL_OK
              : tl_error_set(err, TL_ENOMEM, "model.adapters", "model.adapters: the adapters need %zu MiB of memory, which could not be had",
                             x->bytes >> 20);
}

void cpu_adapters_free(struct cpu_device *d) {
  struct cpu_adapters *x = &d->adapters;
  for (uint32_t i = 0; x->parts_of && i < x->n; i++) free(x->parts_of[i]);
  for (uint32_t i = 0; x->parts && i < x->n; i++) free(x->parts[i]);
  free(x->parts_of);
  free(x->parts);
  free(x->spans);
  free(x->tickets);
  cpu_unmap(x->memory, x->bytes);
  *x = (struct cpu_adapters){0};
}

/* --- a step ---------------------------------------------------------------------------------------- */

static void add_spans(struct cpu_adapters *x, const struct tl_step *step, uint32_t adapter) {
  for (uint32_t q = 0; q < step->n_seqs; q++) {
    if (step->adapters[q] != adapter + 1) continue;
    for (uint32_t row = step->query_start[q]; row < step->query_start[q + 1];) {
      struct cpu_span *last = x->n_spans ? &x->spans[x->n_spans - 1] : NULL;
      bool grows = last && last->adapter == adapter && last->row + last->n == row && last->n < SPAN_ROWS;
      if (!grows) {
        last = &x->spans[x->n_spans++];
        *last = (struct cpu_span){row, 0, adapter};
      }
      uint32_t left = step->query_start[q + 1] - row, room = SPAN_ROWS - last->n, n = left < room ? left : room;
      last->n += n;
      row += n;
    }
  }
}

void cpu_adapters_begin(struct cpu_device *d, const struct tl_step *step) {
  struct cpu_adapters *x = &d->adapters;
  x->n_spans = 0;
  if (!x->n) return;
  for (uint32_t i = 0; i < x->n; i++) add_spans(x, step, i);
  /* relaxed stores: published to the lanes by the start of the pool */
  for (uint32_t i = 0; i < 2 * d->model->n_ops; i++) atomic_store_explicit(&x->tickets[i].next, 0, memory_order_relaxed);
}

static const struct cpu_adapter_part *part_in(const struct cpu_adapters *x, uint32_t adapter, uint32_t record) {
  uint32_t at = x->parts_of[adapter][record];
  return at ? &x->parts[adapter][at - 1] : NULL;
}

bool cpu_adapts(const struct run *r, uint32_t record) {
  const struct cpu_adapters *x = &r->d->adapters;
  if (!r->step->adapters) return false;
  for (uint32_t i = 0; i < x->n_spans; i++)
    if (part_in(x, x->spans[i].adapter, record)) return true;
  return false;
}

static uint32_t n_units(const struct cpu_adapter_part *p, bool expands) {
  if (!p) return 0;
  if (!expands) return p->a.n_panels;
  uint32_t n = 0;
  for (unsigned i = 0; i < TL_OP_INPUTS; i++) n += p->b[i].n_panels;
  return n;
}

/* A panel of what the span's rows make of x. */
static void shrink(struct run *r, const struct cpu_span *span, const struct cpu_adapter_part *p, uint32_t panel, const float *x, size_t ldx) {
  struct cpu_device *d = r->d;
  TL_ALIGNED float out[SPAN_ROWS * CPU_PANEL];
  d->kernels->gemm(&p->a, panel, x + span->row * ldx, ldx, span->n, out, r->lane->unpack);
  for (uint32_t i = 0; i < span->n; i++)
    memcpy(d->adapters.s + (span->row + i) * d->adapters.ld + panel * CPU_PANEL, out + i * CPU_PANEL, CPU_PANEL * sizeof *out);
}

/* out (n, 32) = what rows [row, row + n) get in panel p of the input's outputs. */
static void product(struct run *r, const struct cpu_adapter_part *part, unsigned input, uint32_t p, uint32_t row, uint32_t n, float *out) {
  struct cpu_device *d = r->d;
  const float *s = d->adapters.s + row * d->adapters.ld + part->at[input];
  d->kernels->gemm(&part->b[input], p, s, d->adapters.ld, n, out, r->lane->unpack);
  for (uint32_t k = 0; k < n * CPU_PANEL; k++) out[k] *= part->scale[input];
}

/* Unit `unit` of the span's: a panel of one of the inputs. */
static void expand(struct run *r, const struct cpu_span *span, const struct cpu_adapter_part *p, const struct tl_op *op, uint32_t unit,
                   const struct target *to) {
  TL_ALIGNED float out[SPAN_ROWS * CPU_PANEL];
  unsigned input = 0;
  size_t column = 0;
  for (; unit >= p->b[input].n_panels; input++) {
    unit -= p->b[input].n_panels;
    /* an input without a B of this adapter has outputs all the same */
    column += tl_slice_weight(r->d->model, &r->d->shard, op, input).n_rows;
  }
  product(r, p, input, unit, span->row, span->n, out);
  uint32_t n = columns_of(&p->b[input], unit);
  for (uint32_t i = 0; i < span->n; i++) {
    float *y = to->y + (span->row + i) * to->ldy + column + unit * CPU_PANEL;
    for (uint32_t k = 0; k < n; k++) y[k] += to->scaled ? to->factor * out[i * CPU_PANEL + k] : out[i * CPU_PANEL + k];
  }
}

/* All units of the step that this lane gets; x to shrink, NULL: to expand into `to`. */
static void work(struct run *r, uint32_t record, const float *x, size_t ldx, const struct target *to) {
  const struct cpu_adapters *all = &r->d->adapters;
  const struct tl_op *op = &r->d->model->plan[record];
  struct cpu_ticket *ticket = &all->tickets[2 * record + !x];
  uint32_t total = 0, from, until;
  for (uint32_t i = 0; i < all->n_spans; i++) total += n_units(part_in(all, all->spans[i].adapter, record), !x);
  uint32_t chunk = total / (r->n_lanes * 8) + 1;
  while (take_some(ticket, total, chunk, &from, &until)) {
    uint32_t first = 0; /* of the span's units */
    for (uint32_t i = 0; first < until; i++) {
      const struct cpu_span *span = &all->spans[i];
      const struct cpu_adapter_part *p = part_in(all, span->adapter, record);
      uint32_t n = n_units(p, !x);
      for (uint32_t unit = from > first ? from - first : 0; unit < n && first + unit < until; unit++)
        if (x) shrink(r, span, p, unit, x, ldx);
        else expand(r, span, p, op, unit, to);
      first += n;
    }
  }
}

void cpu_adapters_shrink(struct run *r, uint32_t record, const float *x, size_t ldx) {
  work(r, record, x, ldx, NULL);
}

void cpu_adapters_expand(struct run *r, uint32_t record, const struct target *target) {
  work(r, record, NULL, 0, target);
}

void cpu_adapters_add(struct run *r, uint32_t record, unsigned input, uint32_t p, uint32_t row, uint32_t n, float *out) {
  const struct cpu_adapters *all = &r->d->adapters;
  TL_ALIGNED float added[SPAN_ROWS * CPU_PANEL];
  for (uint32_t i = 0; i < all->n_spans; i++) {
    const struct cpu_span *span = &all->spans[i];
    const struct cpu_adapter_part *part = part_in(all, span->adapter, record);
    uint32_t from = span->row > row ? span->row : row, until = span->row + span->n < row + n ? span->row + span->n : row + n;
    if (from >= until || !part || part->b[input].n_out == 0) continue;
    product(r, part, input, p, from, until - from, added);
    float *to = out + (from - row) * CPU_PANEL;
    for (uint32_t k = 0; k < (until - from) * CPU_PANEL; k++) to[k] += added[k];
  }
}
