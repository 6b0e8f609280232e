/* SPDX-License-Identifier: MIT */
/* From logits to a token: penalties, bias, mask, temperature, top-k, top-p, min-p,
 * draw, in this order. Each filter keeps a prefix of the tokens in falling order,
 * so all that is needed is the last token kept: it is selected, nothing is sorted.
 * The draw then goes through the weights of what is kept, by id. */
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

/* Word by word: most words of a mask are all ones, or zero. */
static void apply_mask(const uint32_t *mask, float *logits, uint32_t vocab) {
  uint32_t n_whole = vocab / 32, left = vocab % 32;
  for (uint32_t w = 0; w < n_whole; w++, logits += 32) {
    uint32_t word = mask[w];
    if (word == 0)
      for (uint32_t i = 0; i < 32; i++) logits[i] = -INFINITY;
    else if (word != UINT32_MAX)
      for (uint32_t i = 0; i < 32; i++) logits[i] = word >> i & 1 ? logits[i] : -INFINITY;
  }
  for (uint32_t i = 0; i < left; i++)
    if (!(mask[n_whole] >> i & 1)) logits[i] = -INFINITY;
}

/* The lowest id of the largest logit, which is max; among NaN, which a bias can make, any id. */
static int32_t most_likely(const float *logits, uint32_t vocab, float max) {
  for (uint32_t i = 0; i < vocab; i++)
    if (logits[i] == max) return (int32_t)i;
  return 0;
}

/* --- filters and draw ----------------------------------------------------------------------------------- */

/* All tokens with low <= logit < high into c; returns how many. */
static uint32_t gather(const float *logits, uint32_t vocab, float low, float high, struct cpu_candidate *c) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < vocab; i++)
    if (logits[i] >= low && logits[i] < high) c[n++] = (struct cpu_candidate){logits[i], (int32_t)i};
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

/* Moves the first in order whose weights (each 1 if NULL) reach `target` to the
 * front, unsorted; returns how many: at least 1, all when they do not reach it. */
static uint32_t select_first(struct cpu_candidate *c, uint32_t n, const float *weights, double target) {
  uint32_t kept = 0;
  while (n > 1) {
    uint32_t middle = partition(c, n);
    double sum = weights ? 0 : middle;
    for (uint32_t i = 0; weights && i < middle; i++) sum += (double)weights[c[i].token];
    if (sum >= target) {
      n = middle;
    } else {
      target -= sum;
      kept += middle;
      c += middle;
      n -= middle;
    }
  }
  return kept + n;
}

static struct cpu_candidate last_of(const struct cpu_candidate *c, uint32_t n) {
  struct cpu_candidate last = c[0];
  for (uint32_t i = 1; i < n; i++)
    if (before(&last, &c[i])) last = c[i];
  return last;
}

/* The last token of the shortest prefix, in order, that weighs `target`, or counts
 * that many if weights is NULL. Bisects to a narrow band of logits in which the
 * prefix ends, so that only from that band a token is selected. */
static struct cpu_candidate last_kept(const struct cpu_kernels *kernels, const float *logits, uint32_t vocab,
                                      const float *weights, double target, struct cpu_candidate *c) {
  float low = -88, high = INFINITY, top = 1; /* logits are at most 0, and weigh nothing below -88 */
  double above = 0;                          /* what lies from `high` on: less than the target */
  for (int i = 0; i < 12; i++) {
    float middle = (low + top) / 2;
    double sum = kernels->sum_above(weights, logits, vocab, middle);
    if (sum >= target) {
      low = middle;
    } else {
      high = top = middle;
      above = sum;
    }
  }
  uint32_t n = gather(logits, vocab, low, high, c);
  if (n == 0) return (struct cpu_candidate){-INFINITY, INT32_MAX}; /* it takes all to reach the target */
  return last_of(c, select_first(c, n, weights, target - above));
}

/* Nothing behind `last` in order is kept, and nothing that weighs less than min_p. */
static void drop(const float *logits, float *weights, uint32_t vocab, struct cpu_candidate last, float min_p) {
  for (uint32_t i = 0; i < vocab; i++) {
    bool keep = logits[i] > last.logit || (logits[i] == last.logit && (int32_t)i <= last.token);
    weights[i] = keep && weights[i] >= min_p ? weights[i] : 0;
  }
}

/* In eight chains, which the processor adds side by side. */
static double sum_of(const float *p, uint32_t n) {
  double part[8] = {0};
  uint32_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (unsigned k = 0; k < 8; k++) part[k] += (double)p[i + k];
  for (; i < n; i++) part[0] += (double)p[i];
  return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

/* A token by its weight, in order of ids: by stretches, then within one. */
static int32_t pick(const float *weights, uint32_t vocab, float uniform) {
  enum { STRETCHES = 256 };
  double mass[STRETCHES], total = 0, sum = 0;
  uint32_t length = (vocab - 1) / STRETCHES + 1, n = (vocab - 1) / length + 1, stretch = 0;
  for (uint32_t i = 0; i < n; i++)
    total += mass[i] = sum_of(weights + (size_t)i * length, i + 1 < n ? length : vocab - i * length);
  double target = (double)uniform * total;
  while (stretch + 1 < n && sum + mass[stretch] <= target) sum += mass[stretch++];
  int32_t last = -1;
  /* rounding may leave the target just beyond the stretch: then its last token, or the next stretch's first */
  for (uint32_t i = stretch * length; i < vocab; i++) {
    if (weights[i] <= 0) continue;
    if (last >= 0 && i >= (stretch + 1) * length) break;
    last = (int32_t)i;
    sum += (double)weights[i];
    if (sum > target) break;
  }
  if (last >= 0) return last;
  for (last = (int32_t)vocab - 1; last > 0 && weights[last] <= 0;) last--;
  return last;
}

static int32_t draw(const struct cpu_kernels *kernels, const struct tl_sampling *s, float *logits, uint32_t vocab,
                    float max, const struct cpu_sampler *scratch) {
  float *weights = scratch->weights;
  if (!isfinite(max)) return most_likely(logits, vocab, max); /* a bias made it so */
  /* the distance is divided: a small temperature must not make infinities of the best */
  for (uint32_t i = 0; i < vocab; i++) logits[i] = (logits[i] - max) / s->temperature;
  double mass = kernels->exp_sum(logits, vocab, 0, weights);
  struct cpu_candidate last = {-INFINITY, INT32_MAX};
  if (s->top_k > 0 && (uint32_t)s->top_k < vocab) {
    last = last_kept(kernels, logits, vocab, NULL, s->top_k, scratch->candidates);
    drop(logits, weights, vocab, last, 0);
    mass = sum_of(weights, vocab);
  }
  if (s->top_p < 1) /* never less than the best token */
    last = last_kept(kernels, logits, vocab, weights, fmax((double)s->top_p * mass, 1e-30), scratch->candidates);
  if (s->top_p < 1 || s->min_p > 0) drop(logits, weights, vocab, last, s->min_p);
  return pick(weights, vocab, tl_random_uniform(s->seed, s->position));
}

int cpu_sample(const struct cpu_kernels *kernels, const struct tl_sampling *s, float *logits, uint32_t vocab,
               const struct cpu_sampler *scratch, struct tl_sampled *ret) {
  *ret = (struct tl_sampled){.token = s->target};
  float max = kernels->max(logits, vocab);
  if (!isfinite(max)) return TL_EDEVICE; /* a NaN, an infinity, or nothing but minus infinity */
  double log_sum = 0;
  const float *raw = logits;
  if (s->n_top >= 0) {
    log_sum = (double)max + log(kernels->exp_sum(logits, vocab, max, NULL));
    top_logprobs(logits, vocab, s->n_top, log_sum, ret);
    if (s->n_history || s->n_bias || s->mask || s->temperature > 0) {
      /* the logits are about to change: the drawn token's is needed as it was */
      raw = memcpy(scratch->raw, logits, vocab * sizeof *raw);
    }
  }
  if (s->target < 0) {
    apply_penalties(s, logits);
    for (uint32_t i = 0; i < s->n_bias; i++) logits[s->bias[i].token] += s->bias[i].bias;
    if (s->mask) apply_mask(s->mask, logits, vocab);
    if (s->n_history || s->n_bias || s->mask) max = kernels->max(logits, vocab);
    if (s->mask && !(max > -INFINITY)) return TL_EDEVICE; /* nothing is left; or a NaN, and no token of those is better than another */
    ret->token = s->temperature > 0 ? draw(kernels, s, logits, vocab, max, scratch) : most_likely(logits, vocab, max);
  }
  if (s->n_top >= 0) ret->logprob = (float)((double)raw[ret->token] - log_sum);
  return TL_OK;
}
