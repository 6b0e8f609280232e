/* SPDX-License-Identifier: MIT */
/* Layers that keep a state: gated delta nets, Mamba 2's, and short convolutions.
 *
 *   DELTA_IN   h -> u       DELTA_GATES   h -> z: z, b, c one behind the other      CONV   u -> u
 *   DELTA      u, b, c -> a                GATED_NORM   a, z -> a
 *   SCAN       u, b -> a, and c is the decay
 *   SHORT_IN   h -> wide: B, C, x, and of those u, z                        SHORT_CONV   u, z -> a
 *
 * A state lies as its layers one behind the other, and of each, S by heads in tiles of 32 value columns, (key_dim, 32), then the rows before
 * CONV. Columns of S are independent of one another: a sequence's tile is a unit of work, and stays in a lane's L1 cache for all of the
 * step's tokens. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "device/cpu/cpu_run.h"

/* --- memory ----------------------------------------------------------------------------------- */

static uint32_t tiles_of(const struct tl_recurrence *c) {
  return (c->value_dim + CPU_DELTA_COLUMNS - 1) / CPU_DELTA_COLUMNS;
}

/* Columns of z that gated attention has; 0: there is none. It may stand alone. */
static size_t gates_of_attention(const struct cpu_device *d) {
  for (uint32_t i = 0; i < d->model->n_ops; i++)
    if (d->model->plan[i].kind == TL_OP_GATE_IN) return (size_t)d->shard.n_heads * d->model->head_dim;
  return 0;
}

void cpu_states_measure(struct cpu_device *d) {
  const struct tl_recurrence *c = &d->model->recurrence;
  struct cpu_states *s = &d->states;
  size_t gates = gates_of_attention(d);
  s->ld_z = cpu_row_stride(gates);
  if (!c->n_layers) return;
  s->tile_floats = (size_t)c->key_dim * CPU_DELTA_COLUMNS;
  s->kept_at = d->shard.n_value_heads * tiles_of(c) * s->tile_floats;
  s->ld_kept = cpu_round_up(d->shard.n_channels, 16);
  s->layer_floats = s->kept_at + (c->conv - 1) * s->ld_kept;
  s->floats = s->layer_floats * c->n_layers;
  s->made = c->n_value_heads ? (size_t)d->shard.n_value_heads * c->value_dim : d->shard.n_channels;
  s->ld_u = cpu_row_stride(d->shard.n_channels);
  s->ld_wide = c->n_value_heads ? 0 : cpu_row_stride(3 * (size_t)d->shard.n_channels);
  size_t z = s->made + 2 * (size_t)d->shard.n_value_heads;
  s->ld_z = cpu_row_stride(z > gates ? z : gates);
}

uint32_t cpu_states_fit(const struct cpu_device *d, uint64_t bytes, uint64_t context_bytes) {
  uint64_t each = d->states.floats * sizeof(float), wanted = d->load.max_states ? d->load.max_states : 1;
  if (!each) return 0;
  uint64_t half = bytes / 2 / each, most = context_bytes < bytes ? (bytes - context_bytes) / each : 0;
  if (half > most) half = most;
  if (half == 0 && most > 0) half = 1;
  return (uint32_t)(half < wanted ? half : wanted);
}

/* --- weights ---------------------------------------------------------------------------------- */

static size_t factors_floats(const struct tl_model *model, const struct tl_shard *shard) {
  return model->recurrence.conv * cpu_round_up(shard->n_channels, 16);
}

size_t cpu_states_vectors(const struct tl_model *model, const struct tl_shard *shard, const struct tl_op *op, size_t *ret_second) {
  *ret_second = 0;
  switch (op->kind) {
    case TL_OP_CONV:
    case TL_OP_SHORT_CONV:
      if (op->bias[0] >= 0) *ret_second = cpu_round_up(shard->n_channels, 16);
      return factors_floats(model, shard);
    case TL_OP_SCAN: *ret_second = cpu_round_up(shard->n_value_heads, 16); return 2 * *ret_second;
    case TL_OP_DELTA: *ret_second = cpu_round_up(shard->n_value_heads, 16); return *ret_second;
    default: return 0;
  }
}

/* Of each input's channels the factors, turned: (conv, channels). */
static void take_factors(const struct tl_model *model, const struct tl_shard *shard, const struct tl_op *op, float *to) {
  size_t ld = cpu_round_up(shard->n_channels, 16), at = 0;
  float row[CPU_MAX_CONV];
  for (unsigned i = 0; i < TL_OP_INPUTS && op->weight[i] >= 0; i++) {
    struct tl_slice s = tl_slice_weight(model, shard, op, i);
    for (uint64_t channel = 0; channel < s.n_rows; channel++, at++) {
      tl_tensor_row_to_f32(s.tensor, s.first_row + channel, row);
      for (uint32_t j = 0; j < model->recurrence.conv; j++) to[j * ld + at] = row[j];
    }
  }
}

/* As many as there are. */
static uint64_t take_elements(struct tl_slice s, float *to) {
  for (uint64_t i = 0; i < s.n_rows; i++) tl_tensor_row_to_f32(s.tensor, s.first_row + i, to + i);
  return s.n_rows;
}

void cpu_states_take_vectors(const struct tl_model *model, const struct tl_shard *shard, const struct tl_op *op, float *first, float *second) {
  if (op->kind == TL_OP_CONV || op->kind == TL_OP_SHORT_CONV) {
    take_factors(model, shard, op, first);
    for (unsigned i = 0; i < TL_OP_INPUTS && op->bias[i] >= 0; i++) second += take_elements(tl_slice_bias(model, shard, op, i), second);
    return;
  }
  if (op->kind == TL_OP_SCAN) take_elements(tl_slice_weight(model, shard, op, 2), first + cpu_round_up(shard->n_value_heads, 16));
  take_elements(tl_slice_weight(model, shard, op, 0), first);
  take_elements(tl_slice_weight(model, shard, op, 1), second);
  for (uint32_t i = 0; i < shard->n_value_heads; i++) first[i] = -fminf(expf(first[i]), FLT_MAX); /* finite: a step of 0 times it is 0 */
}

/* --- where things are ------------------------------------------------------------------------- */

static float *layer_of(const struct cpu_device *d, uint32_t state, uint32_t layer) {
  return state == TL_NO_STATE ? NULL : d->states.memory + state * d->states.floats + layer * d->states.layer_floats;
}

/* b of a row; c lies n_value_heads behind. */
static float *gates_of(const struct cpu_device *d, uint32_t row) {
  return d->states.z + row * d->states.ld_z + d->states.made;
}

static float *row_of_u(const struct cpu_device *d, uint32_t row) {
  return d->states.u + row * d->states.ld_u;
}

/* --- records ---------------------------------------------------------------------------------- */

/* A run of channels of a sequence is a unit. */
void cpu_convolve(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const float *factors, const float *bias) {
  const struct cpu_device *d = r->d;
  const struct cpu_states *s = &d->states;
  bool is_short = op->kind == TL_OP_SHORT_CONV;
  uint32_t n = (uint32_t)s->ld_kept, runs = (n + CPU_CONV_RUN - 1) / CPU_CONV_RUN, from, to;
  while (take(r, ticket, r->step->n_seqs * runs, &from, &to))
    for (uint32_t unit = from; unit < to; unit++) {
      uint32_t seq = unit / runs, at = unit % runs * CPU_CONV_RUN, row = r->step->query_start[seq];
      float *old = layer_of(d, r->step->state_from[seq], op->layer), *new = layer_of(d, r->step->state_to[seq], op->layer);
      struct cpu_conv c = {.in = row_of_u(d, row) + at, .ld_in = s->ld_u, .out = row_of_u(d, row) + at, .ld_out = s->ld_u,
                           .weight = factors + at, .ld_weight = s->ld_kept, .bias = bias ? bias + at : NULL, .ld_gate = s->ld_z,
                           .from = old ? old + s->kept_at + at : NULL, .to = new + s->kept_at + at, .ld_kept = s->ld_kept,
                           .n_rows = r->step->query_start[seq + 1] - row, .n = n - at < CPU_CONV_RUN ? n - at : CPU_CONV_RUN,
                           .conv = d->model->recurrence.conv};
      if (is_short) {
        c.out = d->a + row * d->ld_attn + at;
        c.ld_out = d->ld_attn;
        c.gate = s->z + row * s->ld_z + at;
      }
      d->kernels->convolve(&c);
    }
}

static void to_length(float *x, uint32_t n, float length) {
  float scale = length / sqrtf(cpu_squares(x, n) + 1e-6f);
  for (uint32_t i = 0; i < n; i++) x[i] *= scale;
}

/* As torch: from 20 on it is the number itself. */
static float softplus(float x) {
  return x > 20 ? x : log1pf(expf(x));
}

/* Of Mamba 2: steps and decays. */
static void prepare_steps(const struct cpu_device *d, uint32_t row, const float *rates, const float *shifts) {
  uint32_t n = d->shard.n_value_heads;
  float *step = gates_of(d, row), *decay = step + n;
  for (uint32_t head = 0; head < n; head++) {
    step[head] = softplus(step[head] + shifts[head]);
    decay[head] = expf(rates[head] * step[head]);
  }
}

/* What all of a head's tiles need of a row: queries and keys of length 1, shares and decays. */
static void prepare_row(const struct cpu_device *d, uint32_t row, const float *rates, const float *shifts) {
  const struct tl_recurrence *c = &d->model->recurrence;
  uint32_t n_keys = d->shard.n_key_heads, n_values = d->shard.n_value_heads;
  float *q = row_of_u(d, row), *k = q + (size_t)n_keys * c->key_dim, *b = gates_of(d, row), *decay = b + n_values;
  for (uint32_t head = 0; head < n_keys; head++, q += c->key_dim, k += c->key_dim) {
    to_length(q, c->key_dim, 1 / sqrtf((float)c->key_dim));
    to_length(k, c->key_dim, 1);
  }
  for (uint32_t head = 0; head < n_values; head++) {
    b[head] = 1 / (1 + expf(-b[head]));
    decay[head] = expf(rates[head] * softplus(decay[head] + shifts[head]));
  }
}

/* skips: of SCAN, of each value head. */
static void delta_unit(const struct run *r, const struct tl_op *op, const float *skips, uint32_t seq, uint32_t head, uint32_t tile) {
  const struct cpu_device *d = r->d;
  const struct cpu_states *s = &d->states;
  const struct tl_recurrence *c = &d->model->recurrence;
  uint32_t n_keys = d->shard.n_key_heads, n_values = d->shard.n_value_heads, row = r->step->query_start[seq], at = tile * CPU_DELTA_COLUMNS;
  uint32_t key_head = op->features & TL_F_TURNED ? head % n_keys : head / (n_values / n_keys);
  size_t place = (head * tiles_of(c) + tile) * s->tile_floats;
  float *old = layer_of(d, r->step->state_from[seq], op->layer);
  const float *u = row_of_u(d, row), *b = gates_of(d, row);
  struct cpu_delta x = {.q = u + (size_t)key_head * c->key_dim, .k = u + (size_t)(n_keys + key_head) * c->key_dim,
                        .v = u + 2 * (size_t)n_keys * c->key_dim + (size_t)head * c->value_dim + at, .ld = s->ld_u,
                        .beta = b + head, .decay = b + n_values + head, .ld_gates = s->ld_z,
                        .out = d->a + row * d->ld_attn + (size_t)head * c->value_dim + at, .ld_out = d->ld_attn,
                        .from = old ? old + place : NULL, .to = layer_of(d, r->step->state_to[seq], op->layer) + place,
                        .n_rows = r->step->query_start[seq + 1] - row, .key_dim = c->key_dim,
                        .n_columns = c->value_dim - at < CPU_DELTA_COLUMNS ? c->value_dim - at : CPU_DELTA_COLUMNS};
  if (skips) x.skip = skips[head];
  if (skips) d->kernels->scan(&x);
  else d->kernels->delta(&x);
}

void cpu_delta(struct run *r, struct cpu_ticket *ticket, const struct tl_op *op, const float *rates, const float *shifts) {
  const struct cpu_device *d = r->d;
  uint32_t tiles = tiles_of(&d->model->recurrence), each = d->shard.n_value_heads * tiles, from, to;
  bool is_scan = op->kind == TL_OP_SCAN;
  const float *skips = is_scan ? rates + cpu_round_up(d->shard.n_value_heads, 16) : NULL;
  share(r, r->step->n_tokens, &from, &to);
  for (uint32_t i = from; i < to; i++)
    if (is_scan) prepare_steps(d, i, rates, shifts);
    else prepare_row(d, i, rates, shifts);
  barrier(r);
  while (take(r, ticket, r->step->n_seqs * each, &from, &to))
    for (uint32_t unit = from; unit < to; unit++) delta_unit(r, op, skips, unit / each, unit % each / tiles, unit % tiles);
}

void cpu_gated_norm(const struct cpu_device *d, const struct tl_op *op, const float *weight, uint32_t from, uint32_t to) {
  bool gate_first = op->features & TL_F_GATE_FIRST;
  uint32_t n = gate_first ? d->model->recurrence.value_dim * (d->shard.n_value_heads / d->shard.n_key_heads) : d->model->recurrence.value_dim;
  if (gate_first) weight += d->shard.rank * d->states.made;
  for (uint32_t i = from; i < to; i++) {
    float *a = d->a + i * d->ld_attn;
    const float *z = d->states.z + i * d->states.ld_z;
    for (size_t at = 0; at < d->states.made; at += n)
      if (gate_first) d->kernels->gate_norm(a + at, z + at, weight + at, n, op->eps);
      else d->kernels->gated_norm(a + at, z + at, weight, n, op->eps);
    if (d->states.made % 2) a[d->states.made] = 0; /* products read pairs, and attention's heads may be longer */
  }
}

float cpu_gate_squares(const struct cpu_device *d, uint32_t row) {
  float *a = d->a + row * d->ld_attn;
  uint32_t n = (uint32_t)d->states.made;
  const float *z = d->states.z + row * d->states.ld_z;
  for (uint32_t i = 0; i < n; i++) a[i] *= z[i] / (1 + expf(-z[i]));
  return cpu_squares(a, n);
}

void cpu_gated_scale(const struct cpu_device *d, const struct tl_op *op, const float *weight, uint32_t row, float squares) {
  float *a = d->a + row * d->ld_attn;
  size_t n = d->states.made;
  float scale = 1 / sqrtf(squares / (float)(n * d->shard.key_ranks) + op->eps);
  for (size_t i = 0; i < n; i++) a[i] *= scale * weight[d->shard.rank * n + i];
  if (n % 2) a[n] = 0; /* as in cpu_gated_norm */
}

void cpu_gate(const struct cpu_device *d, uint32_t from, uint32_t to) {
  uint32_t n = d->shard.n_heads * d->model->head_dim;
  for (uint32_t i = from; i < to; i++) d->kernels->sigmoid_mul(d->a + i * d->ld_attn, d->states.z + i * d->states.ld_z, n);
}

void cpu_short_in(struct run *r, uint32_t record) {
  const struct cpu_device *d = r->d;
  uint32_t from, to, n = d->shard.n_channels;
  struct target target = {.y = d->states.wide, .ldy = d->states.ld_wide};
  cpu_project_normed(r, record, &target);
  barrier(r);
  share(r, r->step->n_tokens, &from, &to);
  for (uint32_t i = from; i < to; i++) {
    const float *b = d->states.wide + i * d->states.ld_wide, *x = b + 2 * (size_t)n;
    float *u = row_of_u(d, i);
    for (uint32_t k = 0; k < n; k++) u[k] = b[k] * x[k];
    memcpy(d->states.z + i * d->states.ld_z, b + n, n * sizeof *b); /* whose rows have room for whole vectors */
  }
}
