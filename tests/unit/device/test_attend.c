/* SPDX-License-Identifier: MIT */
/* Attention over one KV head, of each instruction set, against plain loops in double. */
#include <math.h>

#include "kernel_unit.h"

struct attention_case {
  struct cpu_attention a;
  char *cache;                /* blocks of [K, V] of this head, as the device lays them out */
  uint32_t table[16];
  float *k, *v;               /* (n_tokens, head_dim) as the cache holds them */
  uint32_t n_tokens;
};

/* Tokens in shuffled blocks; whatever no token was stored in is NaN. */
static void make_attention(struct attention_case *c, enum tl_dtype dtype, uint32_t head_dim, uint32_t n_tokens, float range) {
  uint32_t n_blocks = tl_blocks_of(n_tokens), head_pad = (head_dim + 15) / 16 * 16;
  size_t head_bytes = (size_t)head_pad * TL_BLOCK_TOKENS * tl_dtype_bytes(dtype), total = (n_blocks + 2) * 2 * head_bytes;
  *c = (struct attention_case){.cache = malloc(total), .n_tokens = n_tokens};
  memset(c->cache, dtype == TL_DTYPE_F8_E4M3 ? 0x7f : 0xff, total);
  c->a = (struct cpu_attention){.dtype = dtype, .head_dim = head_dim, .head_pad = head_pad, .block_bytes = 2 * head_bytes, .k = c->cache,
                               .v = c->cache + head_bytes, .table = c->table, .scale = 1 / sqrtf((float)head_dim)};
  for (uint32_t b = 0; b < n_blocks; b++) c->table[b] = (b * 5 + 3) % (n_blocks + 2);
  if ((n_blocks + 2) % 5 == 0) /* not a permutation then */
    for (uint32_t b = 0; b < n_blocks; b++) c->table[b] = n_blocks + 1 - b;
  c->k = numbers((size_t)n_tokens * head_dim, range);
  c->v = numbers((size_t)n_tokens * head_dim, 1);
  for (uint32_t t = 0; t < n_tokens; t++)
    for (uint32_t e = 0; e < head_dim; e++) {
      char *block = c->cache + c->table[t / TL_BLOCK_TOKENS] * c->a.block_bytes;
      float *k = &c->k[t * head_dim + e], *v = &c->v[t * head_dim + e];
      put(dtype, block, (size_t)e * TL_BLOCK_TOKENS + t % TL_BLOCK_TOKENS, *k);
      put(dtype, block + head_bytes, (size_t)(t % TL_BLOCK_TOKENS) * head_pad + e, *v);
      *k = rounded(dtype, *k);
      *v = rounded(dtype, *v);
    }
}

static void free_attention(struct attention_case *c) {
  free(c->cache);
  free(c->k);
  free(c->v);
}

static void check_attended(const struct cpu_kernels *kernels, const struct attention_case *c, const float *q,
                           uint32_t n_keys, const float *got) {
  double weights[256], max = -INFINITY, sum = 0, size = 0;
  uint32_t head_dim = c->a.head_dim;
  for (uint32_t t = 0; t < n_keys; t++) {
    weights[t] = 0;
    double absolute = 0;
    for (uint32_t e = 0; e < head_dim; e++) {
      weights[t] += (double)q[e] * (double)c->k[t * head_dim + e];
      absolute += fabs((double)q[e] * (double)c->k[t * head_dim + e]);
    }
    weights[t] *= (double)c->a.scale;
    size = fmax(size, absolute * (double)c->a.scale);
    max = fmax(max, weights[t]);
  }
  for (uint32_t t = 0; t < n_keys; t++) sum += weights[t] = exp(weights[t] - max);
  /* a score's rounding grows with the products that it sums, and is a factor once exponentiated */
  double tolerance = 2e-6 + size * (head_dim + 4) * 0x1p-23;
  for (uint32_t e = 0; e < head_dim; e++) {
    double expected = 0;
    for (uint32_t t = 0; t < n_keys; t++) expected += weights[t] / sum * (double)c->v[t * head_dim + e];
    if (!(fabs((double)got[e] - expected) <= tolerance))
      fail_msg("%s %s head of %u, %u keys: element %u: %g, expected %g", kernels->name, tl_dtype_name(c->a.dtype), head_dim,
               n_keys, e, (double)got[e], expected);
  }
}

static void run_attend(const struct cpu_kernels *kernels, const struct attention_case *c, uint32_t n, const float *const *q,
                       const uint32_t *n_keys, float *const *out) {
  size_t stride = (c->n_tokens + 15) / 16 * 16;
  float *scores = numbers(n * stride, 1);
  kernels->attend(&c->a, n, q, n_keys, out, scores, stride);
  free(scores);
}

static void check_attend(const struct cpu_kernels *kernels, const struct attention_case *c, uint32_t n) {
  const float *q[CPU_MAX_QUERIES];
  float *out[CPU_MAX_QUERIES], *alone = numbers(c->a.head_pad, 1);
  uint32_t n_keys[CPU_MAX_QUERIES];
  for (uint32_t i = 0; i < n; i++) {
    q[i] = numbers(c->a.head_dim, 2);
    out[i] = numbers(c->a.head_pad, 1);
    /* neighbours as in a prefill, the last one sees all; now and then a group of equal ones */
    uint32_t back = (n - 1 - i) / (n % 3 ? 1 : 2);
    n_keys[i] = c->n_tokens > back ? c->n_tokens - back : 1;
  }
  run_attend(kernels, c, n, q, n_keys, out);
  for (uint32_t i = 0; i < n; i++) {
    check_attended(kernels, c, q[i], n_keys[i], out[i]);
    run_attend(kernels, c, 1, &q[i], &n_keys[i], &alone);
    assert_memory_equal(alone, out[i], c->a.head_dim * sizeof(float));
    free((float *)(uintptr_t)q[i]);
    free(out[i]);
  }
  free(alone);
}

static void attend_of(const struct cpu_kernels *kernels) {
  static const uint32_t heads[] = {2, 10, 16, 20, 24, 64, 80, 128}, contexts[] = {1, 2, 15, 16, 17, 33, 64, 65, 100, 211};
  for (unsigned d = 0; d < UNIT_COUNT(kv_dtypes); d++)
    for (unsigned h = 0; h < UNIT_COUNT(heads); h++)
      for (unsigned c = 0; c < UNIT_COUNT(contexts); c++) {
        if (UNIT_SLOWDOWN > 1 && (h + c) % 3) continue;
        struct attention_case made;
        /* from flat weights to scores of hundreds, where one token has all of it */
        make_attention(&made, kv_dtypes[d], heads[h], contexts[c], (h + c) % 4 == 3 ? 200 : 1);
        for (uint32_t n = 1; n <= CPU_MAX_QUERIES; n++) check_attend(kernels, &made, n);
        free_attention(&made);
      }
}

/* A NaN among a sequence's values shows in what is made of them, and nowhere else. */
static void broken_of(const struct cpu_kernels *kernels) {
  for (unsigned d = 0; d < UNIT_COUNT(kv_dtypes); d++) {
    struct attention_case c;
    make_attention(&c, kv_dtypes[d], 80, 40, 1);
    put(kv_dtypes[d], c.cache + c.table[1] * c.a.block_bytes + c.a.block_bytes / 2, 3 * c.a.head_pad + 70, NAN); /* token 19 */
    float *q = numbers(80, 1), *out[2] = {numbers(c.a.head_pad, 1), numbers(c.a.head_pad, 1)};
    const float *both[2] = {q, q};
    run_attend(kernels, &c, 2, both, (const uint32_t[]){19, 20}, out);
    for (uint32_t e = 0; e < 80; e++) assert_true(isnan(out[1][e]) == (e == 70) && !isnan(out[0][e]));
    free(q);
    free(out[0]);
    free(out[1]);
    free_attention(&c);
  }
}

static void test_broken(void **state) {
  (void)state;
  for_all_kernels(broken_of);
}

static void test_attend(void **state) {
  (void)state;
  for_all_kernels(attend_of);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_attend), cmocka_unit_test(test_broken)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
