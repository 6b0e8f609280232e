/* SPDX-License-Identifier: MIT */
/* From logits to a token: penalties, bias, temperature, top-k, top-p, min-p,
 * draw, in this order. The filters keep prefixes of the tokens sorted by falling
 * logit, so only as many candidates are sorted as the prefix can need. */
#include <math.h>
#include <string.h>

#include "device/cpu/cpu_private.h"
#include "tokenlane/base/hash.h"

/* Falling logit, then rising id: the order that all filters and draws use. */
static bool before(const struct cpu_candidate *x, const struct cpu_candidate *y) {
  return x->logit != y->logit ? x->logit > y->logit : x->token < y->token;
}

/* --- log-probabilities of the raw logits ------------------------------------------------------ */

/* The n best by insertion: n is at most 20. */
static void top_logprobs(const float *logits, uint32_t vocab, int32_t n, double log_sum, struct tl_sampled *ret) {
  struct cpu_candidate best[TL_MAX_TOP_LOGPROBS];
  int32_t count = 0;
  for (uint32_t i = 0; n > 0 && i < vocab; i++) {
    struct cpu_candidate c = {logits[i], (int32_t)i};
    if (count == n && !before(&c, &best[n - 1])) continue;
    int32_t at = count < n ? count++ : n - 1;
    for (; at > 0 && before(&c, &best[at - 1]); at--) best[at] = best[at - 1];
    best[at] = c;
  }
  ret->n_top = count;
  for (int32_t i = 0; i < count; i++) {
    ret->top_tokens[i] = best[i].token;
    ret->top_logprobs[i] = (float)((double)best[i].logit - log_sum);
  }
}

/* --- changes of logits -------------------------------------------------------------------------------- */

static void apply_penalties(const struct tl_sampling *s, float *logits) {
  for (uint32_t i = 0; i < s->n_history; i++) {
    float *logit = &logits[s->history[i].token];
    if (s->repetition_penalty != 1) *logit = *logit > 0 ? *logit / s->repetition_penalty : *logit * s->repetition_penalty;
    if (s->history[i].n_generated)
      *logit -= s->presence_penalty + s->frequency_penalty * (float)s->history[i].n_generated;
  }
}

static int32_t most_likely(const float *logits, uint32_t vocab) {
  uint32_t best = 0;
  for (uint32_t i = 1; i < vocab; i++)
    if (logits[i] > logits[best]) best = i;
  return (int32_t)best;
}

/* --- filters and draw ----------------------------------------------------------------------------------- */

/* All tokens with logit >= threshold into c; returns how many. */
static uint32_t gather(const float *logits, uint32_t vocab, float threshold, struct cpu_candidate *c) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < vocab; i++)
    if (logits[i] >= threshold) c[n++] = (struct cpu_candidate){logits[i], (int32_t)i};
  return n;
}

/* Splits n >= 2 candidates (Hoare): the first ones, whose number is returned and is
 * neither 0 nor n, are not behind any of the others. */
static uint32_t partition(struct cpu_candidate *c, uint32_t n) {
  struct cpu_candidate pivot = c[n / 2];
  uint32_t i = 0, j = n - 1;
  for (;;) {
    while (before(&c[i], &pivot)) i++;
    while (before(&pivot, &c[j])) j--;
    if (i >= j) break;
    struct cpu_candidate swap = c[i];
    c[i++] = c[j];
    c[j--] = swap;
  }
  uint32_t middle = i == j ? i + 1 : i;
  return middle < n ? middle : n - 1;
}

/* Moves the k first in order to the front, unsorted. */
static void select_first(struct cpu_candidate *c, uint32_t n, uint32_t k) {
  while (n > 1) {
    uint32_t middle = partition(c, n);
    if (k <= middle) {
      n = middle;
    } else {
      c += middle;
      n -= middle;
      k -= middle;
    }
  }
}

/* Not qsort, which allocates: a step must not. The shorter part first, so that the
 * depth is a logarithm. */
static void sort(struct cpu_candidate *c, uint32_t n) {
  while (n > 1) {
    uint32_t middle = partition(c, n);
    if (middle < n - middle) {
      sort(c, middle);
      c += middle;
      n -= middle;
    } else {
      sort(c + middle, n - middle);
      n = middle;
    }
  }
}

/* The sorted candidates that top-p and min-p can keep; *ret_total: the mass that
 * top-p is measured against, in units of exp(logit - max). */
static uint32_t sorted_candidates(const struct cpu_kernels *kernels, const struct tl_sampling *s, const float *logits,
                                  uint32_t vocab, float max, struct cpu_candidate *c, double *ret_total) {
  if (s->top_k > 0 && (uint32_t)s->top_k < vocab) {
    uint32_t n = gather(logits, vocab, -INFINITY, c), k = (uint32_t)s->top_k;
    if (n > k) {
      select_first(c, n, k);
      n = k;
    }
    sort(c, n);
    *ret_total = 0;
    for (uint32_t i = 0; i < n; i++) *ret_total += exp((double)(c[i].logit - max));
    return n;
  }
  *ret_total = kernels->exp_sum(logits, vocab, max);
  uint32_t n = 0;
  /* widen until the candidates hold the mass that top-p wants; each step adds
   * tokens that are e^-8 times less likely */
  for (float width = 8;; width *= 2) {
    bool all = width > 64;
    n = gather(logits, vocab, all ? -INFINITY : max - width, c);
    double mass = 0;
    for (uint32_t i = 0; i < n; i++) mass += exp((double)(c[i].logit - max));
    bool min_p_reached = s->min_p > 0 && expf(-width) < s->min_p;
    if (all || mass >= (double)s->top_p * *ret_total || min_p_reached) break;
  }
  sort(c, n);
  return n;
}

static int32_t draw_sorted(const struct cpu_candidate *c, uint32_t n, float max, double mass, float uniform) {
  double target = (double)uniform * mass, sum = 0;
  for (uint32_t i = 0; i < n; i++) {
    sum += exp((double)(c[i].logit - max));
    if (sum > target) return c[i].token;
  }
  return c[n - 1].token;
}

/* Nothing is filtered: no order is needed but a fixed one. */
static int32_t draw_any(const float *logits, uint32_t vocab, float max, float uniform, double total) {
  double target = (double)uniform * total, sum = 0;
  int32_t last = 0;
  for (uint32_t i = 0; i < vocab; i++) {
    double p = exp((double)(logits[i] - max));
    if (p > 0) last = (int32_t)i;
    sum += p;
    if (sum > target) return (int32_t)i;
  }
  return last;
}

static int32_t draw(const struct cpu_kernels *kernels, const struct tl_sampling *s, float *logits, uint32_t vocab,
                    struct cpu_candidate *c) {
  float max = kernels->max(logits, vocab), uniform = tl_random_uniform(s->seed, s->position);
  if (!isfinite(max)) return most_likely(logits, vocab); /* a bias made it so */
  /* the distance is divided: a small temperature must not make infinities of the best */
  for (uint32_t i = 0; i < vocab; i++) logits[i] = (logits[i] - max) / s->temperature;
  max = 0;
  if (s->top_k <= 0 && s->top_p >= 1 && s->min_p <= 0) {
    double total = 0;
    for (uint32_t i = 0; i < vocab; i++) total += exp((double)(logits[i] - max));
    return draw_any(logits, vocab, max, uniform, total);
  }
  double total, mass = 0;
  uint32_t n = sorted_candidates(kernels, s, logits, vocab, max, c, &total), kept = 0;
  while (kept < n) {
    double p = exp((double)(c[kept].logit - max));
    /* the smallest set that reaches top_p; min_p relative to the best, whose p is 1 */
    if (kept > 0 && (mass >= (double)s->top_p * total || p < (double)s->min_p)) break;
    mass += p;
    kept++;
  }
  return draw_sorted(c, kept, max, mass, uniform);
}

int cpu_sample(const struct cpu_kernels *kernels, const struct tl_sampling *s, float *logits, uint32_t vocab,
               const struct cpu_sampler *scratch, struct tl_sampled *ret) {
  *ret = (struct tl_sampled){.token = s->target};
  float max = kernels->max(logits, vocab);
  if (!isfinite(max)) return TL_EDEVICE; /* a NaN, an infinity, or nothing but minus infinity */
  double log_sum = 0;
  const float *raw = logits;
  if (s->n_top >= 0) {
    log_sum = (double)max + log(kernels->exp_sum(logits, vocab, max));
    top_logprobs(logits, vocab, s->n_top, log_sum, ret);
    if (s->n_history || s->n_bias || s->temperature > 0) {
      /* the logits are about to change: the drawn token's is needed as it was */
      raw = memcpy(scratch->raw, logits, vocab * sizeof *raw);
    }
  }
  if (s->target < 0) {
    apply_penalties(s, logits);
    for (uint32_t i = 0; i < s->n_bias; i++) logits[s->bias[i].token] += s->bias[i].bias;
    ret->token = s->temperature > 0 ? draw(kernels, s, logits, vocab, scratch->candidates) : most_likely(logits, vocab);
  }
  if (s->n_top >= 0) ret->logprob = (float)((double)raw[ret->token] - log_sum);
  return TL_OK;
}
