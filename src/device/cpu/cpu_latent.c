/* SPDX-License-Identifier: MIT */
/* Multi-head latent attention. The cache holds a token's latent and its rotated key, once for all heads; queries are multiplied
 * with what would make keys of latents, and what the heads mix of latents with what makes values of them.
 *
 *   LATENT  h -> qkv: t or q, c     LATENT_QUERY   t -> query     LATENT_ROPE   q, c
 *   LATENT_ABSORB  q -> wide: of each head n_latent numbers and the rotated ones
 *   LATENT_ATTEND  wide -> wide: its first n_latent      LATENT_VALUE  wide -> a */
#include <stdlib.h>
#include <string.h>

#include "device/cpu/cpu_run.h"

#define SIDE 16        /* queries that a kernel treats together */
#define CHUNK_ROWS 16  /* tokens of a sequence whose queries are put side by side */
#define PRODUCT_ROWS 128

/* --- memory ----------------------------------------------------------------------------------- */

static uint32_t pad_of(uint32_t n) {
  return (n + 15) & ~15u;
}

void cpu_latent_measure(struct cpu_device *d) {
  const struct tl_model *m = d->model;
  struct cpu_latent *l = &d->latent;
  if (!m->n_latent) return;
  size_t queries = (size_t)d->shard.n_heads * (m->n_nope + m->n_rotated), made = 0;
  for (uint32_t i = 0; i < m->n_ops; i++) {
    if (m->plan[i].kind == TL_OP_LATENT) l->key_at = tl_slice_weight(m, &d->shard, &m->plan[i], 0).n_rows;
    if (m->plan[i].kind == TL_OP_LATENT_QUERY) made = queries;
  }
  l->ld_query = made ? cpu_row_stride(queries) : 0;
  l->ld_wide = cpu_row_stride((size_t)d->shard.n_heads * m->head_dim);
  l->n_parts = 8 * d->options.n_lanes;
}

static size_t scratch_floats(const struct tl_model *m) {
  return 2 * cpu_latent_floats(m->n_latent) + (size_t)pad_of(m->head_dim) * SIDE + CPU_LATENT_RUN * ((size_t)pad_of(m->head_dim) + SIDE);
}

bool cpu_latent_make(struct cpu_device *d) {
  const struct tl_model *m = d->model;
  if (!m->n_latent) return true;
  d->latent.parts = malloc(d->latent.n_parts * cpu_latent_floats(m->n_latent) * sizeof(float));
  bool fine = d->latent.parts != NULL;
  for (unsigned i = 0; fine && i < d->options.n_lanes; i++)
    fine = (d->lanes[i].latent = aligned_alloc(TL_CACHE_LINE, scratch_floats(m) * sizeof(float))) != NULL;
  return fine;
}

void cpu_latent_free(struct cpu_device *d) {
  free(d->latent.parts);
  for (unsigned i = 0; d->lanes && i < d->options.n_lanes; i++) free(d->lanes[i].latent);
}

/* --- rows -------------------------------------------------------------------------------------- */

/* A row's queries, and its c. */
static float *queries_of(const struct cpu_device *d, uint32_t row) {
  return d->latent.ld_query ? d->latent.query + row * d->latent.ld_query : d->qkv + row * d->ld_qkv;
}

static float *kept_of(const struct cpu_device *d, uint32_t row) {
  return d->qkv + row * d->ld_qkv + d->latent.key_at;
}

void cpu_latent_norm(const struct cpu_device *d, const struct tl_op *op, const float *query, const float *key, uint32_t from, uint32_t to) {
  for (uint32_t i = from; i < to; i++) {
    if (query) cpu_rms(d->qkv + i * d->ld_qkv, query, (uint32_t)d->latent.key_at, op->eps);
    float growth = op->features & TL_F_GROWS ? tl_op_growth(op, d->step->positions[i]) : 1;
    for (uint32_t k = 0; query && growth != 1 && k < d->latent.key_at; k++) d->qkv[i * d->ld_qkv + k] *= growth;
    cpu_rms(kept_of(d, i), key, d->model->n_latent, op->eps);
  }
}

void cpu_latent_rope(const struct cpu_device *d, const struct tl_op *op, uint32_t from, uint32_t to) {
  const struct tl_model *m = d->model;
  uint32_t n = m->n_rotated, head = m->n_nope + n;
  for (uint32_t i = from; i < to; i++) {
    const float *angles = d->rope + (size_t)d->step->positions[i] * n;
    float *q = queries_of(d, i) + m->n_nope;
    for (uint32_t k = 0; k < d->shard.n_heads; k++, q += head) cpu_rotate(q, angles, n, op);
    cpu_rotate(kept_of(d, i) + m->n_latent, angles, n, op);
  }
}

/* --- products of heads ------------------------------------------------------------------------- */

/* Of each head its own matrix times its own part of each row. */
struct heads {
  const struct cpu_matrix *w;
  const float *x; /* head's `in` numbers at in_step * head of a row of ldx */
  float *y;       /* likewise */
  size_t ldx, ldy, in_step, out_step;
};

static void heads_unit(struct run *r, const struct heads *p, uint32_t head, uint32_t panel, uint32_t row, uint32_t n) {
  const struct cpu_device *d = r->d;
  const struct cpu_matrix *w = &p->w[head];
  float *out = r->lane->panel_out;
  size_t at = head * p->in_step;
  const void *x = form_of(d, w) == FORM_PAIRS ? (const void *)(d->pairs + (row * p->ldx + at) / 2) : (const void *)(p->x + row * p->ldx + at);
  d->kernels->gemm(w, panel, x, p->ldx, n, out, r->lane->unpack);
  for (uint32_t i = 0; i < n; i++)
    memcpy(p->y + (row + i) * p->ldy + head * p->out_step + panel * CPU_PANEL, out + i * CPU_PANEL, columns_of(w, panel) * sizeof *out);
}

static void project_heads(struct run *r, struct cpu_ticket *ticket, const struct heads *p) {
  const struct cpu_device *d = r->d;
  uint32_t m = r->step->n_tokens, blocks = (m + PRODUCT_ROWS - 1) / PRODUCT_ROWS, n_panels = p->w->n_panels, from, to;
  if (form_of(d, p->w) == FORM_PAIRS) {
    share(r, m, &from, &to);
    for (uint32_t i = from; i < to; i++) cpu_convert_row(d, p->w, p->x + i * p->ldx, p->ldx, i);
    barrier(r);
  }
  while (take(r, ticket, d->shard.n_heads * n_panels * blocks, &from, &to))
    for (uint32_t i = from; i < to; i++) {
      uint32_t row = i % blocks * PRODUCT_ROWS, unit = i / blocks;
      heads_unit(r, p, unit / n_panels, unit % n_panels, row, m - row < PRODUCT_ROWS ? m - row : PRODUCT_ROWS);
    }
}

void cpu_latent_absorb(struct run *r, struct cpu_ticket *ticket, const struct cpu_matrix *heads) {
  const struct cpu_device *d = r->d;
  const struct tl_model *m = d->model;
  uint32_t from, to, head = m->n_nope + m->n_rotated;
  struct heads p = {heads, queries_of(d, 0), d->latent.wide, d->latent.ld_query ? d->latent.ld_query : d->ld_qkv, d->latent.ld_wide, head,
                    m->head_dim};
  share(r, r->step->n_tokens, &from, &to);
  for (uint32_t i = from; i < to; i++)
    for (uint32_t k = 0; k < d->shard.n_heads; k++)
      memcpy(d->latent.wide + i * d->latent.ld_wide + (size_t)k * m->head_dim + m->n_latent, queries_of(d, i) + (size_t)k * head + m->n_nope,
             m->n_rotated * sizeof(float));
  project_heads(r, ticket, &p);
}

void cpu_latent_value(struct run *r, struct cpu_ticket *ticket, const struct cpu_matrix *heads) {
  const struct cpu_device *d = r->d;
  const struct tl_model *m = d->model;
  struct heads p = {heads, d->latent.wide, d->a, d->latent.ld_wide, d->ld_attn, m->head_dim, m->n_value};
  project_heads(r, ticket, &p);
}

/* --- attention ----------------------------------------------------------------------------------- */

static void store(enum tl_dtype dtype, char *base, size_t element, float value) {
  if (dtype == TL_DTYPE_F32) {
    ((float *)(void *)base)[element] = value;
    return;
  }
  ((uint16_t *)(void *)base)[element] = dtype == TL_DTYPE_BF16 ? tl_f32_to_bf16(value) : tl_f32_to_f16(value);
}

void cpu_latent_store(struct run *r, uint32_t layer) {
  struct cpu_device *d = r->d;
  uint32_t from, to, n = d->model->head_dim;
  const enum tl_dtype dtype = d->kv_dtype; /* what is stored might be this, for all that the compiler knows */
  share(r, r->step->n_tokens, &from, &to);
  for (uint32_t i = from; i < to; i++) {
    uint32_t slot = r->step->slots[i] % TL_BLOCK_TOKENS;
    char *block = cpu_layer_base(d, layer) + r->step->slots[i] / TL_BLOCK_TOKENS * d->heads.layer_bytes;
    const float *row = kept_of(d, i);
    if (dtype == TL_DTYPE_F8_E4M3)
      d->kernels->to_e4m3(row, (uint8_t *)block + (size_t)slot * d->heads.pad, n);
    else
      for (uint32_t e = 0; e < n; e++) store(dtype, block, (size_t)slot * d->heads.pad + e, row[e]);
  }
}

/* Up to 16 queries of one chunk of a sequence: query i is head i % n_heads of token i / n_heads. */
struct side {
  uint32_t seq, row, first, n; /* row: of query 0 */
  uint32_t n_keys[SIDE], end;  /* end: the most of them */
};

static uint32_t sides_of(const struct run *r, uint32_t tokens) {
  return (tokens * r->d->shard.n_heads + SIDE - 1) / SIDE;
}

static uint32_t count_sides(const struct run *r) {
  uint32_t n = 0;
  for (uint32_t s = 0; s < r->step->n_seqs; s++)
    for (uint32_t row = r->step->query_start[s]; row < r->step->query_start[s + 1]; row += CHUNK_ROWS) {
      uint32_t left = r->step->query_start[s + 1] - row;
      n += sides_of(r, left < CHUNK_ROWS ? left : CHUNK_ROWS);
    }
  return n;
}

static struct side side_at(const struct run *r, uint32_t index) {
  const struct tl_step *step = r->step;
  uint32_t heads = r->d->shard.n_heads;
  struct side s = {0};
  for (s.row = step->query_start[0];; s.row += CHUNK_ROWS) {
    while (s.row >= step->query_start[s.seq + 1]) s.row = step->query_start[++s.seq];
    uint32_t left = step->query_start[s.seq + 1] - s.row, tokens = left < CHUNK_ROWS ? left : CHUNK_ROWS, n = sides_of(r, tokens);
    if (index >= n) {
      index -= n;
      continue;
    }
    s.first = index * SIDE;
    s.n = tokens * heads - s.first < SIDE ? tokens * heads - s.first : SIDE;
    break;
  }
  for (uint32_t i = 0; i < SIDE; i++) /* what is beside the last repeats it */
    s.n_keys[i] = step->positions[s.row + (s.first + (i < s.n ? i : s.n - 1)) / heads] + 1;
  s.end = s.n_keys[SIDE - 1];
  return s;
}

static float *wide_of(const struct run *r, const struct side *s, uint32_t i) {
  const struct cpu_device *d = r->d;
  uint32_t query = s->first + i, heads = d->shard.n_heads;
  return d->latent.wide + (s->row + query / heads) * d->latent.ld_wide + (size_t)(query % heads) * d->model->head_dim;
}

/* The queries into a lane's scratch. */
static void take_queries(const struct run *r, const struct side *s, float *q) {
  uint32_t n = r->d->model->head_dim;
  for (uint32_t i = 0; i < SIDE; i++) {
    const float *from = i < s->n ? wide_of(r, s, i) : NULL;
    for (uint32_t e = 0; e < n; e++) q[(size_t)e * SIDE + i] = from ? from[e] : 0;
  }
}

static void give_results(const struct run *r, const struct side *s, const float *out) {
  uint32_t n = r->d->model->n_latent;
  const float *total = out + (size_t)(pad_of(n) + 1) * SIDE;
  for (uint32_t i = 0; i < s->n; i++) {
    float *to = wide_of(r, s, i), part = 1 / total[i];
    for (uint32_t e = 0; e < n; e++) to[e] = out[(size_t)e * SIDE + i] * part;
  }
}

static void attend_stretch(const struct run *r, const struct tl_op *op, const struct side *s, const float *q, uint32_t begin, float *out,
                           float *scratch) {
  const struct cpu_device *d = r->d;
  uint32_t end = s->end - begin < CPU_LATENT_STRETCH ? s->end : begin + CPU_LATENT_STRETCH;
  struct cpu_latent_attention a = {d->kv_dtype, d->model->head_dim, d->model->n_latent, d->heads.pad, d->heads.layer_bytes,
                                   cpu_layer_base(d, op->layer), r->step->block_tables + (size_t)s->seq * r->step->table_stride, op->scale};
  d->kernels->attend_latent(&a, q, s->n_keys, begin, end, out, scratch);
}

static void attend_side(const struct run *r, const struct tl_op *op, const struct side *s) {
  const struct tl_model *m = r->d->model;
  float *out = r->lane->latent, *part = out + cpu_latent_floats(m->n_latent), *q = part + cpu_latent_floats(m->n_latent);
  float *scratch = q + (size_t)pad_of(m->head_dim) * SIDE;
  take_queries(r, s, q);
  for (uint32_t at = 0; at < s->end; at += CPU_LATENT_STRETCH) {
    attend_stretch(r, op, s, q, at, at ? part : out, scratch);
    if (at) r->d->kernels->merge_latent(out, part, pad_of(m->n_latent));
  }
  give_results(r, s, out);
}

/* Few queries of long contexts: in each round lanes compute as many stretches of all as there is room for, then who has a side adds
 * them up, in their order: the same sums as one lane makes alone. */
static void attend_shared(struct run *r, const struct tl_op *op, uint32_t n_sides, uint32_t longest) {
  const struct cpu_device *d = r->d;
  const struct tl_model *m = d->model;
  size_t floats = cpu_latent_floats(m->n_latent);
  float *q = r->lane->latent, *scratch = q + (size_t)pad_of(m->head_dim) * SIDE;
  uint32_t depth = d->latent.n_parts / n_sides - 1, taken = UINT32_MAX; /* one place of each side is for its sum */
  for (uint32_t from = 0; from < longest; from += depth * CPU_LATENT_STRETCH) {
    for (uint32_t i = r->index; i < n_sides * depth; i += r->n_lanes) {
      uint32_t side = i / depth, begin = from + i % depth * CPU_LATENT_STRETCH;
      struct side s = side_at(r, side);
      if (begin >= s.end) continue;
      if (taken != side) take_queries(r, &s, q);
      taken = side;
      attend_stretch(r, op, &s, q, begin, d->latent.parts + (side * (depth + 1) + (begin ? 1 + i % depth : 0)) * floats, scratch);
    }
    barrier(r);
    for (uint32_t side = r->index; side < n_sides; side += r->n_lanes) {
      struct side s = side_at(r, side);
      float *sum = d->latent.parts + (size_t)side * (depth + 1) * floats;
      for (uint32_t k = 0; k < depth; k++) {
        uint32_t begin = from + k * CPU_LATENT_STRETCH;
        if (begin > 0 && begin < s.end) d->kernels->merge_latent(sum, sum + (k + 1) * floats, pad_of(m->n_latent));
      }
      bool last = s.end > from && s.end <= from + (uint64_t)depth * CPU_LATENT_STRETCH;
      if (last) give_results(r, &s, sum);
    }
    barrier(r);
  }
}

void cpu_latent_attend(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op) {
  uint32_t n_sides = count_sides(r), longest = 0, from, to;
  for (uint32_t s = 0; s < r->step->n_seqs; s++)
    if (r->step->context_len[s] > longest) longest = r->step->context_len[s];
  if (n_sides < 2 * r->n_lanes && r->n_lanes > 1 && longest > CPU_LATENT_STRETCH) {
    attend_shared(r, op, n_sides, longest);
    return;
  }
  while (take(r, ticket, n_sides, &from, &to))
    for (uint32_t i = from; i < to; i++) {
      struct side s = side_at(r, n_sides - 1 - i); /* later ones have longer contexts: they go first */
      attend_side(r, op, &s);
    }
}
