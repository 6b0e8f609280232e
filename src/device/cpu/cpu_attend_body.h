/* SPDX-License-Identifier: MIT */
/* Attention, behind cpu_kernels_body.h: ATTEND_TILE(n) of the including file's are the vectors that fit its registers for each of n
 * queries, at most 4. */

INLINE vf load_kv(enum tl_dtype dtype, const char *base, size_t element) {
  if (dtype == TL_DTYPE_BF16) return vf_load_bf16((const uint16_t *)(const void *)base + element);
  if (dtype == TL_DTYPE_F16) return vf_load_f16((const uint16_t *)(const void *)base + element);
  if (dtype == TL_DTYPE_F8_E4M3) return f8_16_nan((const uint8_t *)(const void *)base + element);
  return vf_load((const float *)(const void *)base + element);
}

/* A NaN among keys is lost in the softmax, but the token's values have one, too: it is not looked for twice. */
INLINE vf load_key(enum tl_dtype dtype, const char *base, size_t element) {
  return dtype == TL_DTYPE_F8_E4M3 ? f8_16((const uint8_t *)(const void *)base + element) : load_kv(dtype, base, element);
}

INLINE size_t kv_width(enum tl_dtype dtype) {
  return dtype == TL_DTYPE_F32 ? 4 : dtype == TL_DTYPE_F8_E4M3 ? 1 : 2;
}

/* What they give is to be multiplied by: a power of two, so that it may come last, once a score or a weight. */
INLINE float kv_factor(enum tl_dtype dtype) {
  return dtype == TL_DTYPE_F8_E4M3 ? 256.0f : 1.0f;
}

/* As tl_f32_to_f8_e4m3, but without branches, so that the compiler takes vectors. */
static void to_e4m3(const float *x, uint8_t *ret, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    union {
      float value;
      uint32_t bits;
    } from = {.value = x[i]}, small;
    uint32_t sign = from.bits >> 24 & 0x80, magnitude = from.bits & 0x7fffffff, most = magnitude < 0x43e00000 ? magnitude : 0x43e00000;
    uint32_t normal = (most + 0x7ffff + (most >> 20 & 1) - 0x3c000000) >> 20;
    small.bits = most;
    small.value += 16384.0f; /* below 2^-6: its last bits are multiples of 2^-9 */
    uint32_t value = sign | (most < 0x3c800000 ? small.bits & 0xf : normal);
    ret[i] = (uint8_t)(magnitude > 0x7f800000 ? 0x7f : value);
  }
}

/* K of a block is stored (head_dim, 16 tokens): 16 scores are one accumulator
 * that sums over the head's dimensions in ascending order. Blocks lie anywhere, so no prefetcher knows the next one:
 * those from `ahead` on are asked for meanwhile. */
INLINE void score_blocks(enum tl_dtype dtype, const unsigned nq, const unsigned nb, const struct cpu_attention *a,
                         const float *const *q, uint32_t block, uint32_t ahead, float *scores, size_t stride) {
  vf sum[4][4];
  const char *k[4], *next[4];
#pragma GCC unroll 4
  for (unsigned b = 0; b < nb; b++) {
    k[b] = a->k + a->table[block + b] * a->block_bytes;
    next[b] = a->k + a->table[ahead + b] * a->block_bytes;
  }
#pragma GCC unroll 4
  for (unsigned i = 0; i < nq; i++)
#pragma GCC unroll 4
    for (unsigned b = 0; b < nb; b++) sum[i][b] = vf_zero();
  for (uint32_t d = 0; d < a->head_dim; d++) {
    vf key[4];
#pragma GCC unroll 4
    for (unsigned b = 0; b < nb; b++) {
      key[b] = load_key(dtype, k[b], (size_t)d * TL_BLOCK_TOKENS);
      __builtin_prefetch(next[b] + (size_t)d * TL_BLOCK_TOKENS * kv_width(dtype));
    }
#pragma GCC unroll 4
    for (unsigned i = 0; i < nq; i++) {
      vf value = vf_set1(q[i][d]);
#pragma GCC unroll 4
      for (unsigned b = 0; b < nb; b++) sum[i][b] = vf_fma(key[b], value, sum[i][b]);
    }
  }
  vf scale = vf_set1(a->scale * kv_factor(dtype));
#pragma GCC unroll 4
  for (unsigned i = 0; i < nq; i++)
#pragma GCC unroll 4
    for (unsigned b = 0; b < nb; b++)
      vf_store(scores + i * stride + (size_t)(block + b) * TL_BLOCK_TOKENS, vf_mul(sum[i][b], scale));
}

INLINE void score_queries(enum tl_dtype dtype, const unsigned nq, const struct cpu_attention *a, const float *const *q,
                          uint32_t block, uint32_t n_blocks, float *scores, size_t stride) {
  const unsigned nb = ATTEND_TILE(nq);
  for (; block + nb <= n_blocks; block += nb)
    score_blocks(dtype, nq, nb, a, q, block, block + 2 * nb <= n_blocks ? block + nb : block, scores, stride);
  for (; block < n_blocks; block++) score_blocks(dtype, nq, 1, a, q, block, block, scores, stride);
}

/* Scores of positions [from, n) to weights, which are `whole` together, in place; zeros from the multiple of 16 before them
 * to the one behind. sink: one more score, or NULL. */
static void softmax(float *s, uint32_t from, uint32_t n, const float *sink, float whole) {
  uint32_t padded = (n + 15) & ~15u, begin = from & ~15u;
  for (uint32_t i = n; i < padded; i++) s[i] = -INFINITY;
  for (uint32_t i = begin; i < from; i++) s[i] = -INFINITY;
  vf most = vf_load(s + begin);
  for (uint32_t i = begin + 16; i < padded; i += 16) most = vf_max(most, vf_load(s + i));
  float max = max_lanes(most);
  if (sink && *sink > max) max = *sink;
  vf sum = vf_zero();
  for (uint32_t i = begin; i < padded; i += 16) {
    vf e = vf_exp(vf_sub(vf_load(s + i), vf_set1(max)));
    vf_store(s + i, e);
    if (i + 16 > n)
      for (uint32_t k = n; k < padded; k++) s[k] = 0;
    if (i < from)
      for (uint32_t k = begin; k < from; k++) s[k] = 0;
    sum = vf_add(sum, vf_load(s + i));
  }
  float total = sum_lanes(sum);
  if (sink) total += expf(*sink - max);
  vf scale = vf_set1(whole / total);
  for (uint32_t i = begin; i < padded; i += 16) vf_store(s + i, vf_mul(vf_load(s + i), scale));
}

/* Tokens [from, to) of one block into 16 * nv dimensions from d0 of nq outputs; those of block `ahead` are next. */
INLINE void mix_block(enum tl_dtype dtype, const unsigned nq, const unsigned nv, const struct cpu_attention *a,
                      const float *weights, size_t stride, uint32_t from, uint32_t to, uint32_t ahead, uint32_t d0, float *const *out) {
  vf sum[4][4];
  const char *v = a->v + a->table[from / TL_BLOCK_TOKENS] * a->block_bytes, *next = a->v + a->table[ahead] * a->block_bytes;
#pragma GCC unroll 4
  for (unsigned i = 0; i < nq; i++)
#pragma GCC unroll 4
    for (unsigned k = 0; k < nv; k++) sum[i][k] = vf_load(out[i] + d0 + 16 * k);
  for (uint32_t t = from; t < to; t++) {
    vf value[4];
#pragma GCC unroll 4
    for (unsigned k = 0; k < nv; k++) {
      size_t element = (size_t)(t % TL_BLOCK_TOKENS) * a->head_pad + d0 + 16 * k;
      value[k] = load_kv(dtype, v, element);
      __builtin_prefetch(next + element * kv_width(dtype));
    }
#pragma GCC unroll 4
    for (unsigned i = 0; i < nq; i++) {
      vf weight = vf_set1(weights[i * stride + t]);
#pragma GCC unroll 4
      for (unsigned k = 0; k < nv; k++) sum[i][k] = vf_fma(value[k], weight, sum[i][k]);
    }
  }
#pragma GCC unroll 4
  for (unsigned i = 0; i < nq; i++)
#pragma GCC unroll 4
    for (unsigned k = 0; k < nv; k++) vf_store(out[i] + d0 + 16 * k, sum[i][k]);
}

INLINE void mix_range(enum tl_dtype dtype, const unsigned nq, const struct cpu_attention *a, const float *weights,
                      size_t stride, uint32_t from, uint32_t to, float *const *out) {
  const unsigned nv = ATTEND_TILE(nq);
  while (from < to) {
    uint32_t end = (from / TL_BLOCK_TOKENS + 1) * TL_BLOCK_TOKENS;
    if (end > to) end = to;
    uint32_t d = 0, ahead = (end < to ? end : from) / TL_BLOCK_TOKENS;
    for (; d + 16 * nv <= a->head_pad; d += 16 * nv) mix_block(dtype, nq, nv, a, weights, stride, from, end, ahead, d, out);
    for (; d < a->head_pad; d += 16) mix_block(dtype, nq, 1, a, weights, stride, from, end, ahead, d, out);
    from = end;
  }
}

/* nq queries from number `at` on: what the earlier ones see alone, what all see together, then what the later ones see
 * beyond: a slot that a query may not see is never read for it. out rows are head_pad long. */
INLINE void attend_queries(enum tl_dtype dtype, const unsigned nq, const struct cpu_attention *a, uint32_t at, const float *const *q,
                           const uint32_t *n_keys, float *const *out, float *scores, size_t stride) {
  static const uint32_t none[CPU_MAX_QUERIES];
  const uint32_t *first_keys = a->first ? a->first + at : none;
  const float *sinks = a->sinks ? a->sinks + at : NULL;
  uint32_t begin = first_keys[0] / TL_BLOCK_TOKENS, end = n_keys[nq - 1];
  score_queries(dtype, nq, a, q, begin, (end + TL_BLOCK_TOKENS - 1) / TL_BLOCK_TOKENS, scores, stride);
  for (unsigned i = 0; i < nq; i++) {
    uint32_t first = first_keys[i], from = first & ~15u, padded = (n_keys[i] + 15) & ~15u;
    if (a->softcap > 0) softcap(scores + i * stride + from, padded - from, a->softcap);
    softmax(scores + i * stride, first, n_keys[i], sinks ? sinks + i : NULL, kv_factor(dtype));
    memset(out[i], 0, a->head_pad * sizeof(float));
  }
  /* [shared, n_keys[0]) is seen by all; nothing is when the window is that short */
  uint32_t shared = first_keys[nq - 1];
  if (shared > n_keys[0]) shared = n_keys[0];
  for (unsigned i = 0; i < nq; i++)
    mix_range(dtype, 1, a, scores + i * stride, stride, first_keys[i], shared, out + i);
  mix_range(dtype, nq, a, scores, stride, shared, n_keys[0], out);
  for (unsigned i = 1; i < nq; i++) {
    uint32_t first = first_keys[i], from = first > n_keys[0] ? first : n_keys[0];
    mix_range(dtype, 1, a, scores + i * stride, stride, from, n_keys[i], out + i);
  }
}

#define DEFINE_ATTEND(name, dtype)                                                                                    \
  static void name(const struct cpu_attention *a, uint32_t n, const float *const *q, const uint32_t *n_keys,          \
                   float *const *out, float *scores, size_t stride) {                                                 \
    uint32_t i = 0;                                                                                                   \
    for (; i + 4 <= n; i += 4) attend_queries(dtype, 4, a, i, q + i, n_keys + i, out + i, scores, stride); \
    for (; i + 2 <= n; i += 2) attend_queries(dtype, 2, a, i, q + i, n_keys + i, out + i, scores, stride); \
    for (; i < n; i++) attend_queries(dtype, 1, a, i, q + i, n_keys + i, out + i, scores, stride); \
  }
DEFINE_ATTEND(attend_f32, TL_DTYPE_F32)
DEFINE_ATTEND(attend_f16, TL_DTYPE_F16)
DEFINE_ATTEND(attend_bf16, TL_DTYPE_BF16)
DEFINE_ATTEND(attend_e4m3, TL_DTYPE_F8_E4M3)

static void attend(const struct cpu_attention *a, uint32_t n, const float *const *q, const uint32_t *n_keys,
                   float *const *out, float *scores, size_t stride) {
  if (a->dtype == TL_DTYPE_BF16)
    attend_bf16(a, n, q, n_keys, out, scores, stride);
  else if (a->dtype == TL_DTYPE_F16)
    attend_f16(a, n, q, n_keys, out, scores, stride);
  else if (a->dtype == TL_DTYPE_F8_E4M3)
    attend_e4m3(a, n, q, n_keys, out, scores, stride);
  else
    attend_f32(a, n, q, n_keys, out, scores, stride);
}
