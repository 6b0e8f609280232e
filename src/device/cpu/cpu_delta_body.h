/* SPDX-License-Identifier: MIT */
/* Layers that keep a state, behind cpu_kernels_body.h. A state is floats, and a token's part in it the same operations in the same order
 * whichever chunk the token came in. */

/* vf_exp bounds a NaN, which has to come through: times zero it is added again. */
INLINE vf vf_sigmoid_times(vf g, vf x) {
  vf y = vf_div(x, vf_add(vf_exp(vf_sub(vf_zero(), g)), vf_set1(1.0f)));
  return vf_fma(g, vf_zero(), y);
}

/* The numbers of a last vector that is not whole; what lies behind them is not touched, and taken for zeros. */
INLINE vf load_some(const float *x, uint32_t n) {
  float some[16] = {0};
  memcpy(some, x, n * sizeof *some);
  return vf_load(some);
}

INLINE void store_some(float *x, vf v, uint32_t n) {
  float some[16];
  vf_store(some, v);
  memcpy(x, some, n * sizeof *some);
}

static void sigmoid_mul(float *x, const float *gate, uint32_t n) {
  uint32_t i = 0;
  for (; i + 16 <= n; i += 16) vf_store(x + i, vf_sigmoid_times(vf_load(gate + i), vf_load(x + i)));
  if (i < n) store_some(x + i, vf_sigmoid_times(load_some(gate + i, n - i), load_some(x + i, n - i)), n - i);
}

static void gated_norm(float *x, const float *gate, const float *weight, uint32_t n, float eps) {
  vf sum = vf_zero();
  uint32_t i = 0;
  for (; i + 16 <= n; i += 16) sum = vf_fma(vf_load(x + i), vf_load(x + i), sum);
  if (i < n) sum = vf_fma(load_some(x + i, n - i), load_some(x + i, n - i), sum);
  vf scale = vf_set1(1 / sqrtf(sum_lanes(sum) / (float)n + eps));
  for (i = 0; i + 16 <= n; i += 16)
    vf_store(x + i, vf_mul(vf_mul(vf_mul(vf_load(x + i), scale), vf_load(weight + i)), vf_silu(vf_load(gate + i))));
  if (i == n) return;
  vf y = vf_mul(vf_mul(load_some(x + i, n - i), scale), load_some(weight + i, n - i));
  store_some(x + i, vf_mul(y, vf_silu(load_some(gate + i, n - i))), n - i);
}

static void gate_norm(float *x, const float *gate, const float *weight, uint32_t n, float eps) {
  vf sum = vf_zero();
  uint32_t i = 0;
  for (; i + 16 <= n; i += 16) {
    vf y = vf_mul(vf_load(x + i), vf_silu(vf_load(gate + i)));
    vf_store(x + i, y);
    sum = vf_fma(y, y, sum);
  }
  if (i < n) {
    vf y = vf_mul(load_some(x + i, n - i), vf_silu(load_some(gate + i, n - i)));
    store_some(x + i, y, n - i);
    sum = vf_fma(y, y, sum);
  }
  vf scale = vf_set1(1 / sqrtf(sum_lanes(sum) / (float)n + eps));
  for (i = 0; i + 16 <= n; i += 16) vf_store(x + i, vf_mul(vf_mul(vf_load(x + i), scale), vf_load(weight + i)));
  if (i < n) store_some(x + i, vf_mul(vf_mul(load_some(x + i, n - i), scale), load_some(weight + i, n - i)), n - i);
}

/* The rows before are kept in a ring: where a row was written over by what came of it, later ones still look at it. */
static void convolve(const struct cpu_conv *c) {
  float ring[(CPU_MAX_CONV - 1) * CPU_CONV_RUN];
  uint32_t kept = c->conv - 1, oldest = 0;
  for (uint32_t j = 0; j < kept; j++)
    if (c->from) memcpy(ring + j * CPU_CONV_RUN, c->from + j * c->ld_kept, c->n * sizeof *ring);
    else memset(ring + j * CPU_CONV_RUN, 0, c->n * sizeof *ring);
  for (uint32_t row = 0; row < c->n_rows; row++) {
    const float *in = c->in + row * c->ld_in, *gate = c->gate ? c->gate + row * c->ld_gate : NULL;
    for (uint32_t i = 0; i < c->n; i += 16) {
      vf own = vf_load(in + i), sum = c->bias ? vf_load(c->bias + i) : vf_zero();
      for (uint32_t j = 0; j < kept; j++) {
        uint32_t at = oldest + j < kept ? oldest + j : oldest + j - kept;
        sum = vf_fma(vf_load(c->weight + j * c->ld_weight + i), vf_load(ring + at * CPU_CONV_RUN + i), sum);
      }
      sum = vf_fma(vf_load(c->weight + kept * c->ld_weight + i), own, sum);
      vf_store(ring + oldest * CPU_CONV_RUN + i, own);
      vf_store(c->out + row * c->ld_out + i, gate ? vf_mul(sum, vf_load(gate + i)) : vf_silu(sum));
    }
    oldest = oldest + 1 < kept ? oldest + 1 : 0;
  }
  for (uint32_t j = 0; j < kept; j++)
    memcpy(c->to + j * c->ld_kept, ring + (oldest + j < kept ? oldest + j : oldest + j - kept) * CPU_CONV_RUN, c->n * sizeof *ring);
}

/* One token: S (keys, 32) of `from` becomes that of `to`, *out = S^T q, and where there is a next token, *mixed = S^T of its key: a tile is
 * read once for all three. */
INLINE void delta_token(const bool more, const struct cpu_delta *d, const float *from, uint32_t row, const vf change[2], vf out[2], vf mixed[2]) {
  const float *q = d->q + row * d->ld, *k = d->k + row * d->ld, *next = k + d->ld;
  vf keep = vf_set1(d->decay[row * d->ld_gates]), c0 = change[0], c1 = change[1];
  vf o0 = vf_zero(), o1 = vf_zero(), m0 = vf_zero(), m1 = vf_zero();
  for (uint32_t i = 0; i < d->key_dim; i++) {
    vf its = vf_set1(k[i]), query = vf_set1(q[i]);
    vf s0 = vf_fma(its, c0, vf_mul(vf_load(from + i * CPU_DELTA_COLUMNS), keep));
    vf s1 = vf_fma(its, c1, vf_mul(vf_load(from + i * CPU_DELTA_COLUMNS + 16), keep));
    vf_store(d->to + i * CPU_DELTA_COLUMNS, s0);
    vf_store(d->to + i * CPU_DELTA_COLUMNS + 16, s1);
    o0 = vf_fma(s0, query, o0);
    o1 = vf_fma(s1, query, o1);
    if (!more) continue;
    vf later = vf_set1(next[i]);
    m0 = vf_fma(s0, later, m0);
    m1 = vf_fma(s1, later, m1);
  }
  out[0] = o0, out[1] = o1;
  mixed[0] = m0, mixed[1] = m1;
}

/* S^T k of the first token. */
INLINE void delta_mix(const struct cpu_delta *d, const float *from, vf mixed[2]) {
  vf m0 = vf_zero(), m1 = vf_zero();
  for (uint32_t i = 0; i < d->key_dim; i++) {
    vf its = vf_set1(d->k[i]);
    m0 = vf_fma(vf_load(from + i * CPU_DELTA_COLUMNS), its, m0);
    m1 = vf_fma(vf_load(from + i * CPU_DELTA_COLUMNS + 16), its, m1);
  }
  mixed[0] = m0, mixed[1] = m1;
}

static void delta_rule(const struct cpu_delta *d) {
  vf mixed[2] = {vf_zero(), vf_zero()}, change[2], out[2];
  float values[CPU_DELTA_COLUMNS] = {0};
  const float *from = d->from;
  if (from) delta_mix(d, from, mixed);
  else from = memset(d->to, 0, (size_t)d->key_dim * CPU_DELTA_COLUMNS * sizeof *d->to);
  for (uint32_t row = 0; row < d->n_rows; row++) {
    vf keep = vf_set1(d->decay[row * d->ld_gates]), part = vf_set1(d->beta[row * d->ld_gates]);
    memcpy(values, d->v + row * d->ld, d->n_columns * sizeof *values);
    for (unsigned i = 0; i < 2; i++) change[i] = vf_mul(part, vf_sub(vf_load(values + 16 * i), vf_mul(keep, mixed[i])));
    if (row + 1 < d->n_rows) delta_token(true, d, from, row, change, out, mixed);
    else delta_token(false, d, from, row, change, out, mixed);
    from = d->to;
    float made[CPU_DELTA_COLUMNS];
    for (unsigned i = 0; i < 2; i++) vf_store(made + 16 * i, out[i]);
    memcpy(d->out + row * d->ld_out, made, d->n_columns * sizeof *made);
  }
}

/* Mamba 2's: as above, but what a token adds does not depend on what S has. */
static void scan_rule(const struct cpu_delta *d) {
  vf change[2], out[2], unused[2], skip = vf_set1(d->skip);
  float values[CPU_DELTA_COLUMNS] = {0}, made[CPU_DELTA_COLUMNS];
  const float *from = d->from;
  if (!from) from = memset(d->to, 0, (size_t)d->key_dim * CPU_DELTA_COLUMNS * sizeof *d->to);
  for (uint32_t row = 0; row < d->n_rows; row++) {
    vf part = vf_set1(d->beta[row * d->ld_gates]);
    memcpy(values, d->v + row * d->ld, d->n_columns * sizeof *values);
    for (unsigned i = 0; i < 2; i++) change[i] = vf_mul(part, vf_load(values + 16 * i));
    delta_token(false, d, from, row, change, out, unused);
    from = d->to;
    for (unsigned i = 0; i < 2; i++) vf_store(made + 16 * i, vf_fma(skip, vf_load(values + 16 * i), out[i]));
    memcpy(d->out + row * d->ld_out, made, d->n_columns * sizeof *made);
  }
}
