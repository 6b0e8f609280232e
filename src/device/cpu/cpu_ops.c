/* SPDX-License-Identifier: MIT */
/* The interpreter of the plan: each lane walks it, takes work by tickets, and
 * meets the others at a barrier after each record. */
#include <math.h>
#include <string.h>

#include "device/cpu/cpu_run.h"

#define ATTEND_ROWS 16 /* query rows of one unit of work */

/* --- ranks ---------------------------------------------------------------------------------- */

/* All lanes of all ranks wait for one another. False: the group was aborted. */
static bool meet(struct run *r) {
  struct cpu_device *d = r->d;
  barrier(r);
  if (r->index == 0) d->lost = !device_meet_wait(&d->group->meet);
  barrier(r);
  return !d->lost;
}

bool cpu_sum_parts(struct run *r, uint32_t m, float *whole, bool add) {
  struct cpu_device *d = r->d;
  uint32_t from, to;
  if (!meet(r)) return false;
  share(r, (uint32_t)(m * d->ld_dim / CPU_PANEL), &from, &to);
  for (size_t at = (size_t)from * CPU_PANEL; at < (size_t)to * CPU_PANEL; at += CPU_PANEL) {
    float sum[CPU_PANEL];
    memcpy(sum, part_of(r, 0) + at, sizeof sum);
    for (unsigned rank = 1; rank < d->group->meet.n; rank++) {
      const float *part = part_of(r, rank) + at;
      for (unsigned k = 0; k < CPU_PANEL; k++) sum[k] += part[k];
    }
    for (unsigned k = 0; k < CPU_PANEL; k++) whole[at + k] = add ? whole[at + k] + sum[k] : sum[k];
  }
  r->n_sums++;
  return true;
}

/* Over the heads of all ranks where the record says so. ATTEND stores the same rows on the same lane: no barrier is due. */
static bool qk_norm(struct run *r, const struct tl_op *op, const float *q_weight, const float *k_weight) {
  struct cpu_device *d = r->d;
  uint32_t from, to;
  share(r, r->step->n_tokens, &from, &to);
  if (!d->group || !(op->features & TL_F_WHOLE_ROW)) {
    cpu_qk_norm(d, op, q_weight, k_weight, from, to);
    return true;
  }
  for (uint32_t i = from; i < to; i++) cpu_qk_squares(d, i, part_of(r, d->shard.rank) + i * d->ld_dim);
  if (!meet(r)) return false;
  for (uint32_t i = from; i < to; i++) {
    float sums[2] = {0, 0};
    for (unsigned rank = 0; rank < d->group->meet.n; rank++)
      for (unsigned k = 0; k < 2; k++) sums[k] += part_of(r, rank)[i * d->ld_dim + k];
    cpu_qk_scale(d, op, q_weight, k_weight, i, sums);
  }
  r->n_sums++;
  return true;
}

/* Likewise over the value heads of a key head that several ranks have. */
static bool gated_norm(struct run *r, const struct tl_op *op, const float *weight) {
  struct cpu_device *d = r->d;
  uint32_t from, to, n = d->shard.key_ranks, first = d->shard.rank / n * n;
  share(r, r->step->n_tokens, &from, &to);
  if (n == 1 || !(op->features & TL_F_GATE_FIRST)) {
    cpu_gated_norm(d, op, weight, from, to);
    return true;
  }
  for (uint32_t i = from; i < to; i++) part_of(r, d->shard.rank)[i * d->ld_dim] = cpu_gate_squares(d, i);
  if (!meet(r)) return false;
  for (uint32_t i = from; i < to; i++) {
    float squares = 0;
    for (unsigned rank = first; rank < first + n; rank++) squares += part_of(r, rank)[i * d->ld_dim];
    cpu_gated_scale(d, op, weight, i, squares);
  }
  r->n_sums++;
  return true;
}

/* --- products ------------------------------------------------------------------------------ */

/* This lane's share of the m rows of x (ldx) into the form that w's kernels read; a barrier is due. */
static void convert_rows(struct run *r, const struct cpu_matrix *w, const float *x, size_t ldx, uint32_t m) {
  uint32_t from, to;
  share(r, m, &from, &to);
  for (uint32_t i = from; i < to; i++) cpu_convert_row(r->d, w, x + i * ldx, ldx, i);
}

/* Rows for w and what is linked to it, whose quantized matrices have one order. */
static void convert(struct run *r, const struct cpu_matrix *w, const float *x, size_t ldx, uint32_t m) {
  bool pairs = false, quants = false;
  for (; w; w = w->next) {
    enum form form = form_of(r->d, w);
    bool *done = form == FORM_PAIRS ? &pairs : &quants;
    if (form == FORM_FLOATS || *done) continue;
    convert_rows(r, w, x, ldx, m);
    *done = true;
  }
  if (pairs || quants) barrier(r);
}

/* Rows that a panel is multiplied with at a time: what comes out, 32 floats a row, is still in the L1 cache when bias and
 * residual are added to it, and unpacking weights is spread over enough rows. */
#define ROW_BLOCK 144

void cpu_convert_row(const struct cpu_device *d, const struct cpu_matrix *w, const float *x, size_t ldx, uint32_t at) {
  switch (form_of(d, w)) {
    case FORM_PAIRS: d->kernels->convert(x, d->pairs + at * (ldx / 2), ldx / 2); break;
    case FORM_QUANTS: d->quant->quantize(x, w->order, w->n_in, d->quants + at * cpu_quant_row_cells(w->n_in)); break;
    case FORM_FLOATS: break;
  }
}

void cpu_product(struct run *r, const struct cpu_matrix *w, uint32_t p, const float *x, size_t ldx, uint32_t row, uint32_t n, float *out) {
  struct cpu_device *d = r->d;
  switch (form_of(d, w)) {
    case FORM_QUANTS: d->quant->gemm(w, p, d->quants + row * cpu_quant_row_cells(w->n_in), n, out, r->lane->unpack); break;
    case FORM_PAIRS: d->kernels->gemm(w, p, d->pairs + row * (ldx / 2), ldx, n, out, r->lane->unpack); break;
    case FORM_FLOATS: d->kernels->gemm(w, p, x + row * ldx, ldx, n, out, r->lane->unpack); break;
  }
}

/* Weights up to this size stay in a shared cache: a block of rows goes through all of them while it is in the lane's own. */
#define ROWS_FIRST_BYTES (4u << 20)

/* A unit of work of a product: rows [row, row + n) times a panel. */
struct unit {
  uint32_t panel, row, n;
};

static uint32_t row_blocks(uint32_t m) {
  return (m + ROW_BLOCK - 1) / ROW_BLOCK;
}

/* Unit i of row_blocks(m) * n_panels; panels are as large as w's. */
static struct unit unit_at(const struct cpu_matrix *w, uint32_t n_panels, uint32_t m, uint32_t i) {
  bool rows_first = n_panels * w->panel_bytes <= ROWS_FIRST_BYTES;
  uint32_t block = rows_first ? i / n_panels : i % row_blocks(m), row = block * ROW_BLOCK;
  return (struct unit){rows_first ? i % n_panels : i / row_blocks(m), row, m - row < ROW_BLOCK ? m - row : ROW_BLOCK};
}

void cpu_add_bias(const struct cpu_matrix *w, uint32_t p, float *out, uint32_t n) {
  if (!w->bias) return;
  const float *restrict bias = w->bias + p * CPU_PANEL;
  for (uint32_t i = 0; i < n; i++) {
    float *restrict row = out + i * CPU_PANEL;
    for (uint32_t k = 0; k < CPU_PANEL; k++) row[k] += bias[k];
  }
}

/* The first n of a panel's columns to where they belong; whole panels by loops of a known length, which become vectors. */
static void put_row(const struct target *to, float *restrict y, float *restrict out, uint32_t n) {
  for (uint32_t k = 0; to->scaled && k < CPU_PANEL; k++) out[k] *= to->factor;
  if (to->add && n == CPU_PANEL)
    for (uint32_t k = 0; k < CPU_PANEL; k++) y[k] += out[k];
  else if (to->add)
    for (uint32_t k = 0; k < n; k++) y[k] += out[k];
  else
    memcpy(y, out, n * sizeof *y);
}

/* u.panel of w into to->y, whose column `column` is w's first output. */
static void project_unit(struct run *r, const struct cpu_matrix *w, struct unit u, const float *x, size_t ldx,
                         const struct target *to, uint32_t column) {
  float *out = r->lane->panel_out;
  cpu_product(r, w, u.panel, x, ldx, u.row, u.n, out);
  cpu_add_bias(w, u.panel, out, u.n);
  uint32_t n_columns = columns_of(w, u.panel);
  for (uint32_t i = 0; i < u.n; i++)
    put_row(to, to->y + (u.row + i) * to->ldy + column + u.panel * CPU_PANEL, out + i * CPU_PANEL, n_columns);
}

void cpu_project(struct run *r, struct cpu_ticket *ticket, const struct cpu_matrix *w, const float *x, size_t ldx, uint32_t m,
                 const struct target *target) {
  uint32_t from, to, total = 0;
  convert(r, w, x, ldx, m);
  for (const struct cpu_matrix *part = w; part; part = part->next) total += part->n_panels;
  while (take(r, ticket, total * row_blocks(m), &from, &to)) {
    for (uint32_t i = from; i < to; i++) {
      const struct cpu_matrix *part = w;
      struct unit u = unit_at(w, total, m, i);
      uint32_t column = 0;
      for (; u.panel >= part->n_panels; part = part->next) {
        u.panel -= part->n_panels;
        column += part->n_out;
      }
      project_unit(r, part, u, x, ldx, target, column);
    }
  }
}

/* What a block computed: into the residual, or into h where a norm follows. A rank has some of the inputs. */
static bool project_block(struct run *r, uint32_t record, const float *x, size_t ldx) {
  struct cpu_device *d = r->d;
  struct cpu_ticket *ticket = &d->tickets[record];
  const struct tl_op *op = &d->model->plan[record];
  const struct cpu_matrix *w = &d->weights.matrices[record];
  bool to_h = op->features & TL_F_TO_H;
  uint32_t m = r->step->n_tokens;
  struct target target = {to_h ? d->h : d->x, d->ld_dim, !to_h, op->factor, op->features & TL_F_FACTOR};
  float *whole = target.y;
  if (d->group) {
    target.y = part_of(r, d->shard.rank);
    target.add = false;
  }
  bool adapts = cpu_adapts(r, record);
  if (adapts) cpu_adapters_shrink(r, record, x, ldx);
  cpu_project(r, ticket, w, x, ldx, m, &target);
  if (adapts) {
    barrier(r);
    cpu_adapters_expand(r, record, &target);
  }
  return !d->group || cpu_sum_parts(r, m, whole, !to_h);
}

void cpu_project_normed(struct run *r, uint32_t record, const struct target *target) {
  struct cpu_device *d = r->d;
  bool adapts = cpu_adapts(r, record);
  if (adapts) cpu_adapters_shrink(r, record, d->h, d->ld_dim);
  cpu_project(r, &d->tickets[record], &d->weights.matrices[record], d->h, d->ld_dim, r->step->n_tokens, target);
  if (!adapts) return;
  barrier(r);
  cpu_adapters_expand(r, record, target);
}

/* Into the MLP's inner rows. */
static void put_inner(struct run *r, const struct cpu_matrix *w, struct unit u, const float *out) {
  struct cpu_device *d = r->d;
  for (uint32_t i = 0; i < u.n; i++)
    memcpy(d->m + (u.row + i) * d->ld_ffn + u.panel * CPU_PANEL, out + i * CPU_PANEL, columns_of(w, u.panel) * sizeof *out);
}

static void gated_up(struct run *r, uint32_t record) {
  struct cpu_device *d = r->d;
  struct cpu_ticket *ticket = &d->tickets[record];
  const struct tl_op *op = &d->model->plan[record];
  const struct cpu_matrix *gate = &d->weights.matrices[record], *up = &d->weights.ups[record];
  void (*gate_mul)(float *, const float *, const float *, uint32_t) = op->features & TL_F_GELU_TANH ? d->kernels->gelu_mul
                                                                      : op->features & TL_F_GELU  ? d->kernels->gelu_erf_mul
                                                                                                  : d->kernels->silu_mul;
  uint32_t m = r->step->n_tokens, from, to;
  bool adapts = cpu_adapts(r, record);
  if (adapts) {
    cpu_adapters_shrink(r, record, d->h, d->ld_dim);
    barrier(r);
  }
  convert(r, gate, d->h, d->ld_dim, m);
  if (form_of(d, up) != form_of(d, gate)) convert(r, up, d->h, d->ld_dim, m);
  float *g = r->lane->panel_out, *u = g + (size_t)(m < ROW_BLOCK ? m : ROW_BLOCK) * CPU_PANEL;
  while (take(r, ticket, gate->n_panels * row_blocks(m), &from, &to)) {
    for (uint32_t i = from; i < to; i++) {
      struct unit unit = unit_at(gate, gate->n_panels, m, i);
      cpu_product(r, gate, unit.panel, d->h, d->ld_dim, unit.row, unit.n, g);
      cpu_product(r, up, unit.panel, d->h, d->ld_dim, unit.row, unit.n, u);
      cpu_add_bias(gate, unit.panel, g, unit.n);
      cpu_add_bias(up, unit.panel, u, unit.n);
      if (adapts) {
        cpu_adapters_add(r, record, 0, unit.panel, unit.row, unit.n, g);
        cpu_adapters_add(r, record, 1, unit.panel, unit.row, unit.n, u);
      }
      gate_mul(g, g, u, unit.n * CPU_PANEL);
      put_inner(r, gate, unit, g);
    }
  }
}

/* What is no number stays none. */
static void cut_at_0(float *m, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) m[i] = m[i] < 0 ? 0 : m[i];
}

/* Apertus's function. */
static void bend(const struct tl_op *op, float *m, uint32_t n) {
  float above = op->factor, below = op->limit, beta = op->softcap, eps = op->eps;
  for (uint32_t i = 0; i < n; i++) {
    float v = m[i];
    m[i] = v > 0 ? above * v * v + beta * v : below * (expm1f(v > eps ? eps : v) - v) + beta * v;
  }
}

void cpu_square_above_0(float *m, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) m[i] = m[i] < 0 ? 0 : m[i] * m[i];
}

/* An MLP without a gate. */
static void up(struct run *r, uint32_t record) {
  struct cpu_device *d = r->d;
  struct cpu_ticket *ticket = &d->tickets[record];
  const struct tl_op *op = &d->model->plan[record];
  const struct cpu_matrix *w = &d->weights.matrices[record];
  uint32_t m = r->step->n_tokens, from, to;
  float *out = r->lane->panel_out;
  bool adapts = cpu_adapts(r, record);
  if (adapts) {
    cpu_adapters_shrink(r, record, d->h, d->ld_dim);
    barrier(r);
  }
  convert(r, w, d->h, d->ld_dim, m);
  while (take(r, ticket, w->n_panels * row_blocks(m), &from, &to)) {
    for (uint32_t i = from; i < to; i++) {
      struct unit unit = unit_at(w, w->n_panels, m, i);
      cpu_product(r, w, unit.panel, d->h, d->ld_dim, unit.row, unit.n, out);
      cpu_add_bias(w, unit.panel, out, unit.n);
      if (adapts) cpu_adapters_add(r, record, 0, unit.panel, unit.row, unit.n, out);
      if (op->features & TL_F_XIELU) bend(op, out, unit.n * CPU_PANEL);
      else if (op->features & TL_F_RELU) cut_at_0(out, unit.n * CPU_PANEL);
      else if (op->features & TL_F_RELU2) cpu_square_above_0(out, unit.n * CPU_PANEL);
      else if (op->features & TL_F_GELU_TANH) d->kernels->gelu_mul(out, out, NULL, unit.n * CPU_PANEL);
      else d->kernels->gelu_erf_mul(out, out, NULL, unit.n * CPU_PANEL);
      put_inner(r, w, unit, out);
    }
  }
}

/* --- rows -------------------------------------------------------------------------------------- */

/* A rank has the rows of some tokens; of the others its part is zero. */
static bool embed(struct run *r, const struct tl_op *op) {
  struct cpu_device *d = r->d;
  uint32_t from, to, dim = d->model->dim;
  float *x = d->group ? part_of(r, d->shard.rank) : d->x;
  share(r, r->step->n_tokens, &from, &to);
  const struct cpu_table *table = &d->weights.embed;
  for (uint32_t i = from; i < to; i++) {
    float *to_row = x + i * d->ld_dim;
    uint32_t row = (uint32_t)r->step->tokens[i] - d->shard.first_vocab; /* wraps round for what lies before */
    if (row < d->shard.n_vocab)
      tl_dtype_to_f32(table->dtype, table->rows + row * table->row_bytes, to_row, dim);
    else
      memset(to_row, 0, dim * sizeof *to_row);
    for (uint32_t k = 0; op->features & TL_F_FACTOR && k < dim; k++) to_row[k] *= op->factor;
  }
  return !d->group || cpu_sum_parts(r, r->step->n_tokens, d->x, false);
}

static void norm(struct run *r, const struct tl_op *op, const float *weight, const float *bias) {
  struct cpu_device *d = r->d;
  uint32_t from, to, dim = d->model->dim;
  share(r, r->step->n_tokens, &from, &to);
  for (uint32_t i = from; i < to; i++) {
    float *h = d->h + i * d->ld_dim, *x = d->x + i * d->ld_dim;
    if (op->kind == TL_OP_COPY)
      memcpy(h, x, d->ld_dim * sizeof *h);
    else if (op->features & TL_F_LAYER_NORM)
      cpu_layer_norm(h, x, weight, bias, dim, op->eps);
    else
      d->kernels->rmsnorm(h, x, weight, dim, op->eps);
    if (op->features & TL_F_IN_PLACE) memcpy(x, h, dim * sizeof *x);
  }
}

/* --- attention ------------------------------------------------------------------------------------ */

static void store(enum tl_dtype dtype, char *base, size_t element, float value) {
  if (dtype == TL_DTYPE_F32) {
    ((float *)(void *)base)[element] = value;
    return;
  }
  ((uint16_t *)(void *)base)[element] = dtype == TL_DTYPE_BF16 ? tl_f32_to_bf16(value) : tl_f32_to_f16(value);
}

/* Where K of a head of the record's layer, the rank's own count, begins in block 0; V lies n_kv * head_bytes on. */
static char *head_base(const struct cpu_device *d, const struct tl_op *op, uint32_t head) {
  return cpu_layer_base(d, op->layer) + head * cpu_heads_of(d, op)->head_bytes;
}

/* As bytes: a head's key at kb, transposed, its value at vb. */
static void store_e4m3(const struct cpu_device *d, const struct cpu_heads *heads, const float *k, const float *v, uint32_t slot, char *kb, char *vb) {
  uint8_t some[64];
  for (uint32_t e = 0; e < heads->dim; e += sizeof some) {
    uint32_t n = heads->dim - e < sizeof some ? heads->dim - e : sizeof some;
    d->kernels->to_e4m3(k + e, some, n);
    for (uint32_t i = 0; i < n; i++) kb[(size_t)(e + i) * TL_BLOCK_TOKENS + slot] = (char)some[i];
  }
  d->kernels->to_e4m3(v, (uint8_t *)vb + (size_t)slot * heads->pad, heads->dim);
}

static void store_kv(struct run *r, const struct tl_op *op) {
  struct cpu_device *d = r->d;
  const struct cpu_heads *heads = cpu_heads_of(d, op);
  uint32_t from, to, head_dim = heads->dim, n_kv_heads = heads->n_kv;
  const enum tl_dtype dtype = d->kv_dtype; /* what is stored might be these, for all that the compiler knows */
  const size_t head_pad = heads->pad;
  share(r, r->step->n_tokens, &from, &to);
  for (uint32_t i = from; i < to; i++) {
    uint32_t slot = r->step->slots[i] % TL_BLOCK_TOKENS;
    size_t block = r->step->slots[i] / TL_BLOCK_TOKENS * heads->layer_bytes;
    const float *k = d->qkv + i * d->ld_qkv + (size_t)d->shard.n_heads * head_dim;
    const float *v = k + (size_t)n_kv_heads * head_dim;
    for (uint32_t head = 0; head < n_kv_heads; head++, k += head_dim, v += head_dim) {
      char *kb = head_base(d, op, head) + block, *vb = kb + n_kv_heads * heads->head_bytes;
      if (dtype == TL_DTYPE_F8_E4M3) {
        store_e4m3(d, heads, k, v, slot, kb, vb);
        continue;
      }
      for (uint32_t e = 0; e < head_dim; e++) {
        store(dtype, kb, (size_t)e * TL_BLOCK_TOKENS + slot, k[e]);
        store(dtype, vb, (size_t)slot * head_pad + e, v[e]);
      }
    }
  }
}

/* Which positions [*ret_first, return value) a query at `position` of a sequence of `length` sees. */
static uint32_t seen(const struct tl_op *op, uint32_t position, uint32_t length, uint32_t *ret_first) {
  uint32_t window = op->features & TL_F_WINDOW ? op->window : length, ahead = op->features & TL_F_BOTH_SIDES ? window : 1;
  *ret_first = op->features & TL_F_CHUNKED ? position / op->window * op->window : position >= window ? position - window + 1 : 0;
  return length - position < ahead ? length : position + ahead;
}

/* Query rows [row, row + n) of sequence seq, for one KV head. */
static void attend_unit(struct run *r, const struct tl_op *op, const float *sinks, uint32_t seq, uint32_t head, uint32_t row,
                        uint32_t n) {
  struct cpu_device *d = r->d;
  const struct cpu_heads *kv = cpu_heads_of(d, op);
  uint32_t group = d->shard.n_heads / kv->n_kv, head_dim = kv->dim;
  struct cpu_attention a = {d->kv_dtype,    head_dim,
                            kv->pad,        kv->layer_bytes,
                            head_base(d, op, head), NULL,
                            r->step->block_tables + (size_t)seq * r->step->table_stride, op->scale,
                            op->features & TL_F_SOFTCAP ? op->softcap : 0, NULL, NULL};
  float sink[CPU_MAX_QUERIES];
  uint32_t first[CPU_MAX_QUERIES];
  a.first = first;
  if (sinks) a.sinks = sink;
  a.v = a.k + kv->n_kv * kv->head_bytes;
  size_t stride = cpu_round_up(d->load.max_context, TL_BLOCK_TOKENS);
  float *out_rows = r->lane->panel_out; /* free between products: (CPU_MAX_QUERIES, head_pad) fits */
  for (uint32_t at = 0; at < n * group; at += CPU_MAX_QUERIES) {
    uint32_t count = n * group - at < CPU_MAX_QUERIES ? n * group - at : CPU_MAX_QUERIES;
    const float *q[CPU_MAX_QUERIES];
    float *out[CPU_MAX_QUERIES];
    uint32_t n_keys[CPU_MAX_QUERIES];
    for (uint32_t i = 0; i < count; i++) {
      uint32_t token = row + (at + i) / group, query_head = head * group + (at + i) % group;
      q[i] = d->qkv + token * d->ld_qkv + (size_t)query_head * head_dim;
      out[i] = out_rows + (size_t)i * kv->pad;
      if (sinks) sink[i] = sinks[d->shard.first_head + query_head];
      n_keys[i] = seen(op, r->step->positions[token], r->step->context_len[seq], &first[i]);
    }
    d->kernels->attend(&a, count, q, n_keys, out, r->lane->scores, stride);
    for (uint32_t i = 0; i < count; i++) {
      uint32_t token = row + (at + i) / group, query_head = head * group + (at + i) % group;
      memcpy(d->a + token * d->ld_attn + (size_t)query_head * head_dim, out[i], head_dim * sizeof(float));
    }
  }
}

/* sinks: (heads of the whole model) or NULL. */
static void attend(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const float *sinks) {
  const struct tl_step *step = r->step;
  uint32_t n_chunks = 0, heads = cpu_heads_of(r->d, op)->n_kv, from, to;
  for (uint32_t s = 0; s < step->n_seqs; s++)
    n_chunks += (step->query_start[s + 1] - step->query_start[s] + ATTEND_ROWS - 1) / ATTEND_ROWS;
  while (take(r, ticket, n_chunks * heads, &from, &to)) {
    for (uint32_t unit = from; unit < to; unit++) {
      /* later chunks have longer contexts: they go first */
      uint32_t chunk = n_chunks - 1 - unit / heads, seq = 0, first = 0;
      for (;; seq++) {
        uint32_t rows = step->query_start[seq + 1] - step->query_start[seq];
        uint32_t chunks = (rows + ATTEND_ROWS - 1) / ATTEND_ROWS;
        if (chunk < first + chunks) break;
        first += chunks;
      }
      uint32_t row = step->query_start[seq] + (chunk - first) * ATTEND_ROWS;
      uint32_t n = step->query_start[seq + 1] - row;
      attend_unit(r, op, sinks, seq, unit % heads, row, n < ATTEND_ROWS ? n : ATTEND_ROWS);
    }
  }
}

/* --- the end of a step ---------------------------------------------------------------------------------- */

/* Ranks write their columns to rank 0's rows. */
static bool logits(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const struct cpu_matrix *w) {
  struct cpu_device *d = r->d;
  const struct tl_step *step = r->step;
  /* the residual is not needed any more: its rows take the wanted rows of h, but
   * not its padding, which is zero in x for good and may be NaN in h */
  for (uint32_t i = r->index; i < step->n_rows; i += r->n_lanes)
    memcpy(d->x + i * d->ld_dim, d->h + step->rows[i] * d->ld_dim, d->model->dim * sizeof(float));
  barrier(r);
  struct target target = {(d->group ? d->group->ranks[0] : d)->logits + d->shard.first_vocab, d->ld_vocab, false, op->factor,
                          op->features & TL_F_FACTOR};
  cpu_project(r, ticket, w, d->x, d->ld_dim, step->n_rows, &target);
  if (op->features & TL_F_SOFTCAP) {
    barrier(r);
    for (uint32_t i = r->index; i < step->n_rows; i += r->n_lanes)
      d->kernels->softcap(target.y + i * d->ld_vocab, d->shard.n_vocab, op->softcap);
  }
  return !d->group || meet(r);
}

static void sample(struct run *r, struct cpu_ticket *ticket) {
  struct cpu_device *d = r->d;
  uint32_t from, to;
  while (take(r, ticket, r->step->n_rows, &from, &to))
    for (uint32_t i = from; i < to; i++) {
      int status = cpu_sample(d->kernels, &r->step->sampling[i], d->logits + i * d->ld_vocab, d->model->vocab_size,
                              &r->lane->sampler, &d->sampled[i]);
      if (status < 0) d->sampled[i].token = -1;
    }
}

/* False: the group was aborted; all lanes hear of it at the same record. */
static bool run_op(struct run *r, uint32_t i) {
  struct cpu_device *d = r->d;
  const struct tl_op *op = &d->model->plan[i];
  const struct cpu_matrix *w = &d->weights.matrices[i];
  struct cpu_ticket *ticket = &d->tickets[i];
  const float *weight = d->weights.norms[i], *part = d->weights.norm_parts[i];
  struct target c = {.y = d->qkv, .ldy = d->ld_qkv}, query = {.y = d->latent.query, .ldy = d->latent.ld_query};
  struct target beside = {.y = d->mix, .ldy = d->ld_beside};
  struct target u = {.y = d->states.u, .ldy = d->states.ld_u}, z = {.y = d->states.z, .ldy = d->states.ld_z};
  struct target v = {.y = d->mixture.v, .ldy = d->mixture.ld_v};
  uint32_t from, to;
  bool fine = true;
  share(r, r->step->n_tokens, &from, &to);
  switch (op->kind) {
    case TL_OP_EMBED: fine = embed(r, op); break;
    case TL_OP_COPY:
    case TL_OP_RMSNORM: norm(r, op, weight, part); break;
    case TL_OP_QKV: cpu_project_normed(r, i, &c); break;
    case TL_OP_QK_NORM: return qk_norm(r, op, weight, part);
    case TL_OP_ROPE: cpu_rope(d, op, from, to); return true;
    case TL_OP_ATTEND:
      if (op->features & TL_F_GROWS) cpu_grow(d, op, from, to);
      if (!(op->features & TL_F_LENT)) store_kv(r, op);
      barrier(r);
      attend(r, ticket, op, weight);
      break;
    case TL_OP_LATENT: cpu_project_normed(r, i, &c); break;
    case TL_OP_LATENT_NORM: cpu_latent_norm(d, op, weight, part, from, to); break;
    case TL_OP_LATENT_QUERY: cpu_project(r, ticket, w, d->qkv, d->ld_qkv, r->step->n_tokens, &query); break;
    case TL_OP_LATENT_ROPE: cpu_latent_rope(d, op, from, to); break;
    case TL_OP_LATENT_ABSORB: cpu_latent_absorb(r, ticket, d->weights.experts[i]); break;
    case TL_OP_LATENT_ATTEND:
      cpu_latent_store(r, op->layer);
      barrier(r);
      cpu_latent_attend(r, ticket, op);
      break;
    case TL_OP_DELTA_IN: cpu_project_normed(r, i, &u); break;
    case TL_OP_GATE_IN:
    case TL_OP_DELTA_GATES: cpu_project_normed(r, i, &z); break;
    case TL_OP_CONV:
    case TL_OP_SHORT_CONV: cpu_convolve(r, ticket, op, weight, part); break;
    case TL_OP_SCAN:
    case TL_OP_DELTA: cpu_delta(r, ticket, op, weight, part); break;
    case TL_OP_GATED_NORM: fine = gated_norm(r, op, weight); break;
    case TL_OP_GATE: cpu_gate(d, from, to); break;
    case TL_OP_SHORT_IN: cpu_short_in(r, i); break;
    case TL_OP_LATENT_VALUE: cpu_latent_value(r, ticket, d->weights.experts[i]); break;
    case TL_OP_ATTN_OUT: fine = project_block(r, i, d->a, d->ld_attn); break;
    case TL_OP_GATED_UP: gated_up(r, i); break;
    case TL_OP_UP: up(r, i); break;
    case TL_OP_MLP_DOWN: fine = project_block(r, i, d->m, d->ld_ffn); break;
    case TL_OP_NORM_ADD: cpu_norm_add(d, op, weight, from, to); break;
    case TL_OP_ROUTE: cpu_route(r, ticket, op, w, part); break;
    case TL_OP_EXPERTS_UP: cpu_experts_up(r, ticket, op, d->weights.experts[i]); break;
    case TL_OP_EXPERTS_DOWN: fine = cpu_experts_down(r, ticket, op, d->weights.experts[i]); break;
    case TL_OP_EXPERTS_IN: cpu_project(r, ticket, w, d->h, d->ld_dim, r->step->n_tokens, &v); break;
    case TL_OP_EXPERTS_OUT: fine = project_block(r, i, d->mixture.v, d->mixture.ld_v); break;
    case TL_OP_ASIDE:
    case TL_OP_JOIN: cpu_aside(d, op, weight, from, to); break;
    case TL_OP_BESIDE: cpu_beside(d, op, from, to); break;
    case TL_OP_BESIDE_MIX:
      cpu_project(r, ticket, w, d->h, d->ld_dim, r->step->n_tokens, &beside);
      barrier(r);
      cpu_beside_mix(d, op, part, from, to);
      break;
    case TL_OP_BESIDE_GATE: cpu_beside_gate(d, op, from, to); break;
    case TL_OP_ROW_GATE: cpu_row_gate(r, weight); break;
    case TL_OP_LOGITS: fine = logits(r, ticket, op, w); break;
    case TL_OP_EMBED_PLACE: cpu_embed_place(r, op, weight, part); break;
    case TL_OP_POOL: cpu_pool(r); break;
    case TL_OP_DENSE: cpu_dense(r, ticket, op, w); break;
    case TL_OP_VECTOR_NORM: cpu_vector_norm(r, op, weight, part); break;
  }
  if (fine) barrier(r);
  return fine;
}

void cpu_run_step(void *device, unsigned lane) {
  struct cpu_device *d = device;
  struct run r = {d, d->step, &d->lanes[lane], lane, d->options.n_lanes, 0, 0};
  for (uint32_t i = 0; i < d->model->n_ops; i++) {
    /* a step that wants no row needs no logits */
    if (d->step->n_rows == 0 && d->model->plan[i].kind == TL_OP_LOGITS) return;
    if (!run_op(&r, i)) return;
  }
  if (d->ld_vector)
    cpu_give_vectors(&r);
  else if (d->shard.rank == 0)
    sample(&r, &d->tickets[d->model->n_ops]);
}
