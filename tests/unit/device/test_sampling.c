/* SPDX-License-Identifier: MIT */
/* Sampling against a reference that sorts everything and computes in double, and
 * against the distribution that the options describe. */
#include <math.h>

#include "device/cpu/cpu_private.h"
#include "tokenlane/base/hash.h"
#include "unit.h"

#include "bf16_emulated.h"
#include "sampling_unit.h"

#define MAX_VOCAB 1100

static uint64_t random_state = 987654321;

static float number(float range) {
  return random_number(&random_state, range);
}

static const struct tl_sampling plain_sampling = {
    .temperature = 0, .top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1};

/* On a copy in memory of just the size, with scratch of just the size. */
static int sample(const struct cpu_kernels *kernels, const struct tl_sampling *s, const float *logits, uint32_t vocab,
                  struct tl_sampled *ret) {
  struct cpu_sampler scratch = {malloc(vocab * sizeof *scratch.candidates), malloc(vocab * sizeof *scratch.raw),
                                malloc(vocab * sizeof *scratch.weights)};
  float *copy = malloc(vocab * sizeof *copy);
  memcpy(copy, logits, vocab * sizeof *copy);
  memset(ret, 0xff, sizeof *ret);
  int r = cpu_sample(kernels, s, copy, vocab, &scratch, ret);
  free(copy);
  free(scratch.candidates);
  free(scratch.raw);
  free(scratch.weights);
  if (r == TL_OK) assert_true(ret->token >= 0 && (uint32_t)ret->token < vocab);
  return r;
}

/* What all kernels draw; -1 when they differ, as roundings of exp may make them. */
static int32_t common_token_of(const struct tl_sampling *s, const float *logits, uint32_t vocab) {
  const struct cpu_kernels *kernels[MAX_KERNELS];
  unsigned n = runnable_kernels(kernels);
  bool same = true;
  struct tl_sampled first = {0}, other;
  for (unsigned i = 0; i < n; i++) {
    assert_int_equal(sample(kernels[i], s, logits, vocab, i ? &other : &first), TL_OK);
    if (i && first.token != other.token) same = false;
  }
  return same ? first.token : -1;
}

static int32_t token_of(const struct tl_sampling *s, const float *logits, uint32_t vocab) {
  int32_t token = common_token_of(s, logits, vocab);
  assert_true(token >= 0);
  return token;
}

/* --- the reference -------------------------------------------------------------------------- */

struct reference {
  struct entry {
    int32_t token;
    double logit, p; /* p: relative to the best */
  } entries[MAX_VOCAB];
  uint32_t n;
  double mass;
  bool doubtful; /* a cut lies so near a token's share that rounding decides */
};

static int by_order(const void *a, const void *b) {
  const struct entry *x = a, *y = b;
  if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
  return x->token - y->token;
}

static void change_logits(const struct tl_sampling *s, float *logits) {
  for (uint32_t i = 0; i < s->n_history; i++) {
    float *l = &logits[s->history[i].token];
    *l = *l > 0 ? *l / s->repetition_penalty : *l * s->repetition_penalty;
    if (s->history[i].n_generated > 0)
      *l = *l - (s->presence_penalty + s->frequency_penalty * (float)s->history[i].n_generated);
  }
  for (uint32_t i = 0; i < s->n_bias; i++) logits[s->bias[i].token] += s->bias[i].bias;
}

static bool near(double a, double b) {
  return fabs(a - b) <= 2e-6 * fmax(fabs(a), fabs(b));
}

static void filter(const struct tl_sampling *s, const float *logits, uint32_t vocab, struct reference *r) {
  float changed[MAX_VOCAB];
  memcpy(changed, logits, vocab * sizeof *changed);
  change_logits(s, changed);
  *r = (struct reference){.n = vocab};
  for (uint32_t i = 0; i < vocab; i++) r->entries[i] = (struct entry){(int32_t)i, (double)changed[i], 0};
  qsort(r->entries, vocab, sizeof *r->entries, by_order);
  for (uint32_t i = 0; i < vocab; i++) {
    r->entries[i].p = exp((r->entries[i].logit - r->entries[0].logit) / (double)s->temperature);
    /* equal only once divided in float: the order may be either */
    if (i && r->entries[i].logit != r->entries[i - 1].logit && near(r->entries[i].p, r->entries[i - 1].p)) r->doubtful = true;
  }
  if (s->top_k > 0 && (uint32_t)s->top_k < r->n) r->n = (uint32_t)s->top_k;
  double total = 0;
  for (uint32_t i = 0; i < r->n; i++) total += r->entries[i].p;
  uint32_t kept = 0;
  for (; kept < r->n; kept++) {
    double p = r->entries[kept].p;
    if (kept > 0 && s->top_p < 1) {
      if (near(r->mass, (double)s->top_p * total)) r->doubtful = true;
      if (r->mass >= (double)s->top_p * total) break;
    }
    if (s->min_p > 0 && near(p, (double)s->min_p)) r->doubtful = true;
    if (kept > 0 && p < (double)s->min_p) break;
    r->mass += p;
  }
  r->n = kept;
}

static int by_token(const void *a, const void *b) {
  return ((const struct entry *)a)->token - ((const struct entry *)b)->token;
}

/* The draw goes through what is kept by id. */
static int32_t reference_draw(const struct tl_sampling *s, struct reference *r) {
  qsort(r->entries, r->n, sizeof *r->entries, by_token);
  double target = (double)tl_random_uniform(s->seed, s->position) * r->mass, sum = 0;
  for (uint32_t i = 0; i < r->n; i++) {
    sum += r->entries[i].p;
    if (fabs(sum - target) < 1e-5 * r->mass) r->doubtful = true;
    if (sum > target) return r->entries[i].token;
  }
  return -1;
}

/* --- draws ------------------------------------------------------------------------------------- */

static uint32_t random_vocab(void) {
  static const uint32_t sizes[] = {1, 2, 3, 5, 15, 16, 17, 33, 100, 257, 1000};
  return sizes[unit_below(&random_state, UNIT_COUNT(sizes))];
}

static void random_logits(float *logits, uint32_t vocab) {
  float range = powf(2, (float)unit_below(&random_state, 8) - 1);
  bool coarse = unit_below(&random_state, 3) == 0, forbidden = unit_below(&random_state, 4) == 0;
  for (uint32_t i = 0; i < vocab; i++) {
    logits[i] = number(range);
    if (coarse) logits[i] = rintf(logits[i]); /* many ties */
    if (forbidden && unit_below(&random_state, 3) == 0) logits[i] = -INFINITY;
  }
  logits[unit_below(&random_state, vocab)] = number(range);
}

static struct tl_sampling random_options(struct tl_token_count *history, struct tl_token_bias *bias, uint32_t vocab) {
  struct tl_sampling s = plain_sampling;
  s.temperature = 0.25f + 0.25f * (float)unit_below(&random_state, 7);
  random_filters(&random_state, vocab, history, &s);
  for (uint32_t token = 0; token < vocab && unit_below(&random_state, 2) == 0; token += 1 + unit_below(&random_state, 5))
    bias[s.n_bias++] = (struct tl_token_bias){(int32_t)token, number(unit_below(&random_state, 5) ? 3 : 100)};
  s.bias = bias;
  if (unit_below(&random_state, 2)) s.repetition_penalty = 1 + number(0.5f);
  if (unit_below(&random_state, 2)) s.presence_penalty = number(2);
  if (unit_below(&random_state, 2)) s.frequency_penalty = number(2);
  return s;
}

static void test_draws_against_reference(void **state) {
  (void)state;
  struct tl_token_count history[MAX_VOCAB];
  struct tl_token_bias bias[MAX_VOCAB];
  struct reference *r = malloc(sizeof *r);
  float logits[MAX_VOCAB];
  unsigned n = 20000 / UNIT_SLOWDOWN, doubtful = 0;
  for (unsigned i = 0; i < n; i++) {
    uint32_t vocab = random_vocab();
    random_logits(logits, vocab);
    struct tl_sampling s = random_options(history, bias, vocab);
    filter(&s, logits, vocab, r);
    int32_t expected = reference_draw(&s, r), got = common_token_of(&s, logits, vocab);
    if (r->doubtful)
      doubtful++;
    else if (got != expected)
      fail_msg("draw %u: %d, expected %d (vocab %u, temperature %g, top_k %d, top_p %g, min_p %g)", i, got, expected, vocab,
               (double)s.temperature, s.top_k, (double)s.top_p, (double)s.min_p);
  }
  free(r);
  if (doubtful > n / 4) fail_msg("%u of %u draws were doubtful", doubtful, n);
}

/* Large enough for selection and sort to work hard: sorted, reversed, equal, pipes. */
static void test_orders(void **state) {
  (void)state;
  struct reference *r = malloc(sizeof *r);
  float logits[MAX_VOCAB];
  for (unsigned shape = 0; shape < 6; shape++)
    for (uint32_t vocab = 1; vocab < MAX_VOCAB; vocab += vocab < 40 ? 1 : 211)
      for (int32_t top_k = 0; top_k <= 40 && top_k <= (int32_t)vocab; top_k += top_k < 5 ? 1 : 7) {
        for (uint32_t i = 0; i < vocab; i++) {
          uint32_t pipe = i < vocab / 2 ? i : vocab - i;
          uint32_t order[] = {i, vocab - i, 0, pipe, vocab - pipe, i % 3};
          logits[i] = (float)order[shape] * 1e-3f;
        }
        struct tl_sampling s = plain_sampling;
        s.temperature = 1;
        s.top_k = top_k;
        s.top_p = 0.75f;
        s.seed = vocab * 100 + (uint32_t)top_k;
        filter(&s, logits, vocab, r);
        int32_t expected = reference_draw(&s, r), got = common_token_of(&s, logits, vocab);
        if (got != expected && !r->doubtful) fail_msg("shape %u, vocab %u, top_k %d: %d, expected %d", shape, vocab, top_k, got, expected);
      }
  free(r);
}

/* --- distributions -------------------------------------------------------------------------------- */

/* The 99.99 % points of chi-square with 1 to 11 degrees of freedom. */
static const double chi_square_limit[] = {0, 15.14, 18.42, 21.11, 23.51, 25.74, 27.86, 29.88, 31.83, 33.72, 35.56, 37.37};

static void check_distribution(struct tl_sampling s, const float *logits, uint32_t vocab, bool by_position) {
  struct reference *r = malloc(sizeof *r);
  filter(&s, logits, vocab, r);
  double expected[16] = {0}, chi_square = 0;
  for (uint32_t i = 0; i < r->n; i++) expected[r->entries[i].token] = r->entries[i].p / r->mass;
  unsigned counts[16] = {0}, n = 40000, freedom = 0;
  const struct cpu_kernels *kernels = cpu_choose_kernels(tl_cpu_best_isa());
  for (unsigned i = 0; i < n; i++) {
    s.seed = by_position ? 42 : i;
    s.position = by_position ? i : 7;
    struct tl_sampled got;
    assert_int_equal(sample(kernels, &s, logits, vocab, &got), TL_OK);
    counts[got.token]++;
  }
  for (uint32_t i = 0; i < vocab; i++) {
    if (expected[i] == 0) {
      assert_int_equal(counts[i], 0);
      continue;
    }
    double want = expected[i] * n;
    assert_true(want > 5);
    chi_square += (counts[i] - want) * (counts[i] - want) / want;
    freedom++;
  }
  free(r);
  if (freedom > 1 && chi_square > chi_square_limit[freedom - 1])
    fail_msg("top_k %d, top_p %g, min_p %g: chi-square %g with %u degrees", s.top_k, (double)s.top_p, (double)s.min_p, chi_square, freedom - 1);
}

static void test_distributions(void **state) {
  (void)state;
  static const float logits[12] = {1.5f, -0.5f, 0, 2.25f, 2.25f, -1, 0.75f, -INFINITY, 1, 3, -2, 0.5f};
  static const struct tl_token_count history[] = {{9, 2}, {5, 1}, {3, 0}};
  static const struct tl_token_bias bias[] = {{10, 2}, {0, -INFINITY}, {5, -1}};
  struct tl_sampling base = plain_sampling;
  base.temperature = 1;
  struct tl_sampling cases[8];
  for (unsigned i = 0; i < 8; i++) cases[i] = base;
  cases[1].temperature = 0.6f;
  cases[2].top_k = 4;
  cases[3].top_p = 0.8f;
  cases[4].min_p = 0.2f;
  cases[5].top_k = 6, cases[5].top_p = 0.9f, cases[5].min_p = 0.15f, cases[5].temperature = 1.5f;
  cases[6].history = history, cases[6].n_history = 3, cases[6].repetition_penalty = 1.3f;
  cases[6].presence_penalty = 0.5f, cases[6].frequency_penalty = 0.25f;
  cases[7].bias = bias, cases[7].n_bias = 3, cases[7].top_p = 0.95f;
  for (unsigned i = 0; i < 8; i++)
    for (unsigned by_position = 0; by_position < 2; by_position++) check_distribution(cases[i], logits, 12, by_position);
}

static void test_seeds(void **state) {
  (void)state;
  float logits[1000];
  for (unsigned i = 0; i < 1000; i++) logits[i] = 0;
  struct tl_sampling s = plain_sampling;
  s.temperature = 1;
  unsigned same_seed = 0, same_position = 0;
  for (unsigned i = 0; i < 500; i++) {
    s.seed = i;
    s.position = 3;
    int32_t a = token_of(&s, logits, 1000);
    assert_int_equal(a, token_of(&s, logits, 1000));
    s.seed = i + 1;
    same_position += a == token_of(&s, logits, 1000);
    s.seed = i;
    s.position = 4;
    same_seed += a == token_of(&s, logits, 1000);
  }
  assert_true(same_seed < 5 && same_position < 5);
}

/* --- greedy, penalties ------------------------------------------------------------------------------ */

static void test_greedy(void **state) {
  (void)state;
  struct tl_sampling s = plain_sampling;
  float logits[MAX_VOCAB], changed[MAX_VOCAB];
  struct tl_token_count history[MAX_VOCAB];
  struct tl_token_bias bias[MAX_VOCAB];
  for (unsigned i = 0; i < 3000; i++) {
    uint32_t vocab = random_vocab(), best = 0;
    random_logits(logits, vocab);
    s = random_options(history, bias, vocab);
    s.temperature = 0;
    memcpy(changed, logits, sizeof logits);
    change_logits(&s, changed);
    for (uint32_t k = 1; k < vocab; k++)
      if (changed[k] > changed[best]) best = k; /* the lowest id on a tie */
    assert_int_equal(token_of(&s, logits, vocab), best);
  }
  static const float tied[] = {1, 5, 2, 5, 5, 0};
  assert_int_equal(token_of(&plain_sampling, tied, 6), 1);
  /* top_k = 1 and a top_p of 0 are greedy too, with the same tie rule */
  s = plain_sampling;
  s.temperature = 1;
  s.top_k = 1;
  for (s.seed = 0; s.seed < 50; s.seed++) assert_int_equal(token_of(&s, tied, 6), 1);
  s.top_k = 0;
  s.top_p = 0;
  for (s.seed = 0; s.seed < 50; s.seed++) assert_int_equal(token_of(&s, tied, 6), 1);
}

/* Numbers worked out by hand. */
static void test_penalties_by_hand(void **state) {
  (void)state;
  static const float logits[] = {2, 1.9f, -1, -1.1f};
  static const struct tl_token_count prompt_only[] = {{0, 0}}, generated[] = {{0, 3}}, negative[] = {{2, 0}};
  struct tl_sampling s = plain_sampling;
  s.history = prompt_only;
  s.n_history = 1;
  s.presence_penalty = 2;
  s.frequency_penalty = 2;
  assert_int_equal(token_of(&s, logits, 4), 0); /* these two count generated tokens only */
  s.presence_penalty = s.frequency_penalty = 0;
  s.repetition_penalty = 1.05f;
  assert_int_equal(token_of(&s, logits, 4), 0); /* 2 / 1.05 = 1.9048 */
  s.repetition_penalty = 1.06f;
  assert_int_equal(token_of(&s, logits, 4), 1); /* 2 / 1.06 = 1.8868 */
  s.repetition_penalty = 1;
  s.history = generated;
  s.presence_penalty = 0.09f;
  assert_int_equal(token_of(&s, logits, 4), 0); /* once, however often it came */
  s.presence_penalty = 0.11f;
  assert_int_equal(token_of(&s, logits, 4), 1);
  s.presence_penalty = 0;
  s.frequency_penalty = 0.03f;
  assert_int_equal(token_of(&s, logits, 4), 0); /* 3 * 0.03 */
  s.frequency_penalty = 0.04f;
  assert_int_equal(token_of(&s, logits, 4), 1);
  s = plain_sampling;
  s.history = negative;
  s.n_history = 1;
  s.repetition_penalty = 1.2f;
  assert_int_equal(token_of(&s, logits + 0, 4), 0);
  static const float below[] = {-9, -9, -1, -1.1f};
  assert_int_equal(token_of(&s, below, 4), 3); /* -1 * 1.2 */
}

/* --- log-probabilities ------------------------------------------------------------------------------- */

static void check_logprobs(const struct tl_sampling *s, const float *logits, uint32_t vocab, const struct tl_sampled *got) {
  struct tl_sampling raw = plain_sampling;
  raw.temperature = 1;
  struct reference *r = malloc(sizeof *r);
  filter(&raw, logits, vocab, r);
  double log_sum = r->entries[0].logit + log(r->mass);
  double expected = (double)logits[got->token] - log_sum;
  if (isinf(expected))
    assert_true(got->logprob == -INFINITY);
  else if (!(fabs((double)got->logprob - expected) <= 1e-5 + 1e-6 * fabs(expected)))
    fail_msg("token %d: %g, expected %g", got->token, (double)got->logprob, expected);
  assert_int_equal(got->n_top, s->n_top < (int32_t)vocab ? s->n_top : (int32_t)vocab);
  for (int32_t i = 0; i < got->n_top; i++) {
    assert_int_equal(got->top_tokens[i], r->entries[i].token);
    expected = r->entries[i].logit - log_sum;
    if (isinf(expected))
      assert_true(got->top_logprobs[i] == -INFINITY);
    else
      assert_true(fabs((double)got->top_logprobs[i] - expected) <= 1e-5 + 1e-6 * fabs(expected));
  }
  free(r);
}

/* Of the raw logits, whatever the options; of the target when one is given. */
static void test_logprobs(void **state) {
  (void)state;
  struct tl_token_count history[MAX_VOCAB];
  struct tl_token_bias bias[MAX_VOCAB];
  float logits[MAX_VOCAB];
  const struct cpu_kernels *kernels[MAX_KERNELS];
  unsigned n_kernels = runnable_kernels(kernels);
  for (unsigned i = 0; i < 4000 / UNIT_SLOWDOWN; i++) {
    uint32_t vocab = random_vocab();
    random_logits(logits, vocab);
    struct tl_sampling s = random_options(history, bias, vocab);
    if (i % 3 == 0) s.temperature = 0;
    if (i % 5 == 0) s.target = (int32_t)unit_below(&random_state, vocab);
    for (unsigned k = 0; k < n_kernels; k++) {
      struct tl_sampled got;
      assert_int_equal(sample(kernels[k], &s, logits, vocab, &got), TL_OK);
      if (s.target >= 0) assert_int_equal(got.token, s.target);
      if (s.n_top >= 0) {
        check_logprobs(&s, logits, vocab, &got);
      } else {
        assert_true(got.logprob == 0);
        assert_int_equal(got.n_top, 0);
      }
    }
  }
}

/* Scores far apart: nothing overflows or loses the small ones. */
static void test_far_logprobs(void **state) {
  (void)state;
  static const float logits[] = {1000, 0, -1000, 30000};
  struct tl_sampling s = plain_sampling;
  for (s.target = 0; s.target < 4; s.target++) {
    s.n_top = 4;
    struct tl_sampled got;
    assert_int_equal(sample(cpu_choose_kernels(tl_cpu_best_isa()), &s, logits, 4, &got), TL_OK);
    assert_true(got.logprob == logits[s.target] - 30000);
    assert_int_equal(got.top_tokens[3], 2);
  }
}

/* --- hostile values -------------------------------------------------------------------------------------- */

#define N_WAYS 7

/* Greedy, and each way to draw. */
static struct tl_sampling way(unsigned i) {
  struct tl_sampling s = plain_sampling;
  s.temperature = i ? 1 : 0;
  if (i == 2) s.top_k = 5;
  if (i == 3) s.top_p = 0.9f;
  if (i == 4) s.min_p = 0.05f;
  if (i == 5) s.top_p = 0;
  if (i == 6) s.top_k = 1000, s.top_p = 0.999999f, s.min_p = 1e-9f;
  return s;
}

static void test_one_possible(void **state) {
  (void)state;
  float logits[300];
  struct tl_token_bias bias[300];
  for (unsigned w = 0; w < N_WAYS; w++)
    for (uint32_t vocab = 1; vocab <= 300; vocab = vocab * 2 + 1)
      for (uint32_t only = 0; only < vocab; only += 1 + vocab / 5) {
        struct tl_sampling s = way(w);
        s.n_top = 2;
        for (uint32_t i = 0; i < vocab; i++) logits[i] = i == only ? -3e38f : -INFINITY;
        for (s.seed = 0; s.seed < 5; s.seed++) assert_int_equal(token_of(&s, logits, vocab), only);
        /* the same by forbidding all others */
        s.bias = bias;
        for (uint32_t i = 0; i < vocab; i++) {
          logits[i] = number(50);
          if (i != only) bias[s.n_bias++] = (struct tl_token_bias){(int32_t)i, -INFINITY};
        }
        for (s.seed = 0; s.seed < 5; s.seed++) assert_int_equal(token_of(&s, logits, vocab), only);
      }
}

/* What is forbidden is never drawn, at the border of any filter. */
static void test_forbidden(void **state) {
  (void)state;
  static const struct tl_token_bias bias[] = {{0, -INFINITY}, {19, -INFINITY}, {7, -INFINITY}};
  float logits[20];
  for (unsigned i = 0; i < 20; i++) logits[i] = i % 7 ? 0 : 9;
  for (unsigned w = 0; w < N_WAYS; w++) {
    struct tl_sampling s = way(w);
    s.bias = bias;
    s.n_bias = 3;
    if (w == 2) s.top_k = 18;
    for (s.seed = 0; s.seed < 2000; s.seed++) {
      int32_t token = token_of(&s, logits, 20);
      assert_true(token != 0 && token != 19 && token != 7);
    }
  }
}

/* No distribution: an error, in each way and at each place. */
static void test_not_finite(void **state) {
  (void)state;
  const struct cpu_kernels *kernels[MAX_KERNELS];
  unsigned n_kernels = runnable_kernels(kernels);
  float logits[40];
  struct tl_sampled got;
  for (unsigned k = 0; k < n_kernels; k++)
    for (unsigned w = 0; w < N_WAYS; w++)
      for (uint32_t vocab = 1; vocab <= 40; vocab++)
        for (uint32_t at = 0; at < vocab; at++) {
          struct tl_sampling s = way(w);
          s.n_top = (int32_t)(at % 3) - 1;
          for (uint32_t i = 0; i < vocab; i++) logits[i] = number(5);
          logits[at] = NAN;
          assert_int_equal(sample(kernels[k], &s, logits, vocab, &got), TL_EDEVICE);
          logits[at] = INFINITY;
          assert_int_equal(sample(kernels[k], &s, logits, vocab, &got), TL_EDEVICE);
          for (uint32_t i = 0; i < vocab; i++) logits[i] = -INFINITY;
          assert_int_equal(sample(kernels[k], &s, logits, vocab, &got), TL_EDEVICE);
        }
}

/* A bias that makes infinities or NaN, all forbidden: some token, no crash. */
static void test_huge_bias(void **state) {
  (void)state;
  static const float values[] = {1e30f, 3e38f, INFINITY, -3e38f, -INFINITY, NAN, 100, -100};
  struct tl_token_bias bias[60];
  float logits[60];
  for (unsigned w = 0; w < N_WAYS; w++)
    for (unsigned v = 0; v < UNIT_COUNT(values); v++)
      for (unsigned n_bias = 1; n_bias <= 60; n_bias += 59)
        for (unsigned i = 0; i < 60; i++) {
          struct tl_sampling s = way(w);
          for (unsigned k = 0; k < 60; k++) logits[k] = k == 5 ? -INFINITY : 3e38f * number(1);
          for (unsigned k = 0; k < n_bias; k++) bias[k] = (struct tl_token_bias){(int32_t)((i + k) % 60), values[v]};
          s.bias = bias;
          s.n_bias = n_bias;
          s.seed = i;
          token_of(&s, logits, 60);
        }
  /* a large one decides */
  for (unsigned w = 0; w < N_WAYS; w++) {
    struct tl_sampling s = way(w);
    for (unsigned k = 0; k < 60; k++) logits[k] = number(20);
    bias[0] = (struct tl_token_bias){33, 1e30f};
    s.bias = bias;
    s.n_bias = 1;
    for (s.seed = 0; s.seed < 20; s.seed++) assert_int_equal(token_of(&s, logits, 60), 33);
  }
}

/* Small temperatures come down to greedy, without an overflow. */
static void test_temperatures(void **state) {
  (void)state;
  static const float small[] = {1e-3f, 1e-6f, 1e-20f, 1e-38f, 1e-45f};
  float logits[50];
  for (unsigned t = 0; t < UNIT_COUNT(small); t++)
    for (unsigned w = 1; w < N_WAYS; w++)
      for (unsigned i = 0; i < 50; i++) {
        struct tl_sampling s = way(w);
        s.temperature = small[t];
        s.seed = i;
        for (unsigned k = 0; k < 50; k++) logits[k] = number(10) - 30;
        logits[i] = i % 2 ? 25 : -5;
        assert_int_equal(token_of(&s, logits, 50), i);
      }
  /* a very high one makes all equal: every token comes up */
  struct tl_sampling s = way(1);
  s.temperature = 1e38f;
  bool seen[50] = {false};
  for (s.seed = 0; s.seed < 2000; s.seed++) seen[token_of(&s, logits, 50)] = true;
  for (unsigned i = 0; i < 50; i++) assert_true(seen[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_draws_against_reference), cmocka_unit_test(test_orders),       cmocka_unit_test(test_distributions),
      cmocka_unit_test(test_seeds),                   cmocka_unit_test(test_greedy),       cmocka_unit_test(test_penalties_by_hand),
      cmocka_unit_test(test_logprobs),                cmocka_unit_test(test_far_logprobs), cmocka_unit_test(test_one_possible),
      cmocka_unit_test(test_forbidden),               cmocka_unit_test(test_not_finite),   cmocka_unit_test(test_huge_bias),
      cmocka_unit_test(test_temperatures),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
