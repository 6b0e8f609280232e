/* SPDX-License-Identifier: MIT */
/* Attention over latents, behind cpu_kernels_body.h. All heads read the same row of a token, so it is queries that lie side by side
 * in a vector, 16 of them, heads or tokens alike: the cache stays as it is kept, a token's numbers one behind the other, and serves
 * scores and mixing both. A query's numbers come of itself and the tokens it sees alone, in runs and stretches that begin at fixed
 * positions. */

/* Tokens, or numbers of a latent, that a tile sums up for: as many accumulators as registers hold. */
#if TILE_V == 2
#define LATENT_TILE 8
#else
#define LATENT_TILE 4
#endif

/* Tokens [from, to) as floats, at `run`; to - from <= CPU_LATENT_RUN. */
INLINE void latent_unpack(enum tl_dtype dtype, const struct cpu_latent_attention *a, uint32_t from, uint32_t to, float *run) {
  for (uint32_t t = from; t < to; t++, run += a->pad) {
    const char *block = a->base + a->table[t / TL_BLOCK_TOKENS] * a->block_bytes;
    size_t row = (size_t)(t % TL_BLOCK_TOKENS) * a->pad;
    for (uint32_t e = 0; e < a->pad; e += 16) {
      vf its = load_kv(dtype, block, row + e);
      vf_store(run + e, kv_factor(dtype) == 1 ? its : vf_mul(its, vf_set1(kv_factor(dtype))));
    }
  }
}

/* scores (tokens, 16) of n tokens. */
INLINE void latent_scores(const unsigned n, const struct cpu_latent_attention *a, const float *q, const float *run, float *scores) {
  vf sum[LATENT_TILE], scale = vf_set1(a->scale);
#pragma GCC unroll 8
  for (unsigned t = 0; t < n; t++) sum[t] = vf_zero();
  for (uint32_t e = 0; e < a->n_key; e++) {
    vf its = vf_load(q + (size_t)e * 16);
#pragma GCC unroll 8
    for (unsigned t = 0; t < n; t++) sum[t] = vf_fma(its, vf_set1(run[(size_t)t * a->pad + e]), sum[t]);
  }
#pragma GCC unroll 8
  for (unsigned t = 0; t < n; t++) vf_store(scores + t * 16, vf_mul(sum[t], scale));
}

/* out (latent, 16), LATENT_TILE numbers of it from e on: times `keep`, and n tokens' with their weights (n, 16) on top. */
INLINE void latent_mix(const struct cpu_latent_attention *a, const float *run, const float *weights, uint32_t n, uint32_t e, vf keep,
                       float *out) {
  vf sum[LATENT_TILE];
#pragma GCC unroll 8
  for (unsigned k = 0; k < LATENT_TILE; k++) sum[k] = vf_mul(vf_load(out + (size_t)(e + k) * 16), keep);
  for (uint32_t t = 0; t < n; t++) {
    vf weight = vf_load(weights + t * 16);
    const float *row = run + (size_t)t * a->pad + e;
#pragma GCC unroll 8
    for (unsigned k = 0; k < LATENT_TILE; k++) sum[k] = vf_fma(weight, vf_set1(row[k]), sum[k]);
  }
#pragma GCC unroll 8
  for (unsigned k = 0; k < LATENT_TILE; k++) vf_store(out + (size_t)(e + k) * 16, sum[k]);
}

/* Scores of a run's n tokens from `from` on to weights, in place; what was mixed so far is to be multiplied with *ret_keep. */
INLINE void latent_softmax(const uint32_t *n_keys, uint32_t from, uint32_t n, float *scores, vf *most, vf *total, vf *ret_keep) {
  const vf least = vf_set1(-87.3f);
  for (uint32_t t = 0; t < n; t++)
    for (unsigned i = 0; i < 16; i++)
      if (from + t >= n_keys[i]) scores[t * 16 + i] = -INFINITY;
  vf max = *most;
  for (uint32_t t = 0; t < n; t++) max = vf_max(max, vf_load(scores + t * 16));
  vf d = vf_sub(*most, max), sum = vf_zero();
  *ret_keep = vf_where_ge(d, least, vf_exp(d));
  for (uint32_t t = 0; t < n; t++) {
    vf below = vf_sub(vf_load(scores + t * 16), max), e = vf_where_ge(below, least, vf_exp(below));
    vf_store(scores + t * 16, e);
    sum = vf_add(sum, e);
  }
  *total = vf_add(vf_mul(*total, *ret_keep), sum);
  *most = max;
}

INLINE void latent_queries(enum tl_dtype dtype, const struct cpu_latent_attention *a, const float *q, const uint32_t *n_keys, uint32_t begin,
                           uint32_t end, float *out, float *scratch) {
  float *run = scratch, *scores = scratch + (size_t)CPU_LATENT_RUN * a->pad;
  vf most = vf_set1(-INFINITY), total = vf_zero(), keep;
  uint32_t padded = (a->n_value + 15) & ~15u;
  memset(out, 0, (size_t)padded * 16 * sizeof *out);
  for (uint32_t from = begin; from < end; from += CPU_LATENT_RUN) {
    uint32_t n = end - from < CPU_LATENT_RUN ? end - from : CPU_LATENT_RUN, t = 0;
    latent_unpack(dtype, a, from, from + n, run);
    for (; t + LATENT_TILE <= n; t += LATENT_TILE) latent_scores(LATENT_TILE, a, q, run + (size_t)t * a->pad, scores + t * 16);
    for (; t < n; t++) latent_scores(1, a, q, run + (size_t)t * a->pad, scores + t * 16);
    latent_softmax(n_keys, from, n, scores, &most, &total, &keep);
    for (uint32_t e = 0; e < padded; e += LATENT_TILE) latent_mix(a, run, scores, n, e, keep, out);
  }
  vf_store(out + (size_t)padded * 16, most);
  vf_store(out + (size_t)(padded + 1) * 16, total);
}

static void attend_latent(const struct cpu_latent_attention *a, const float *q, const uint32_t *n_keys, uint32_t begin, uint32_t end,
                          float *out, float *scratch) {
  if (a->dtype == TL_DTYPE_BF16)
    latent_queries(TL_DTYPE_BF16, a, q, n_keys, begin, end, out, scratch);
  else if (a->dtype == TL_DTYPE_F16)
    latent_queries(TL_DTYPE_F16, a, q, n_keys, begin, end, out, scratch);
  else if (a->dtype == TL_DTYPE_F8_E4M3)
    latent_queries(TL_DTYPE_F8_E4M3, a, q, n_keys, begin, end, out, scratch);
  else
    latent_queries(TL_DTYPE_F32, a, q, n_keys, begin, end, out, scratch);
}

/* A later stretch's on top of what is there; one of which a query sees nothing changes no bit of it. */
static void merge_latent(float *out, const float *part, uint32_t padded) {
  const vf least = vf_set1(-87.3f);
  float *ends = out + (size_t)padded * 16;
  const float *its_ends = part + (size_t)padded * 16;
  vf a = vf_load(ends), b = vf_load(its_ends), max = vf_max(a, b), da = vf_sub(a, max), db = vf_sub(b, max);
  vf keep = vf_where_ge(da, least, vf_exp(da)), add = vf_where_ge(db, least, vf_exp(db));
  for (uint32_t e = 0; e < padded; e++) {
    vf its = vf_mul(vf_load(part + (size_t)e * 16), add);
    vf_store(out + (size_t)e * 16, vf_fma(vf_load(out + (size_t)e * 16), keep, its));
  }
  vf_store(ends, max);
  vf_store(ends + 16, vf_fma(vf_load(ends + 16), keep, vf_mul(vf_load(its_ends + 16), add)));
}
