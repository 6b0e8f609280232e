/* SPDX-License-Identifier: MIT */
/* Masks on the CPU: as if each forbidden token had a bias of minus infinity, in every way to draw. The draws
 * themselves are test_sampling.c's. */
#include <math.h>

#include "device/cpu/cpu_private.h"
#include "unit.h"

#include "bf16_emulated.h"
#include "sampling_unit.h"

#define MAX_VOCAB 1100

static uint64_t random_state = 1234567;
static struct tl_token_bias bias[2 * MAX_VOCAB];
static struct tl_token_count history[MAX_VOCAB];
static float logits[MAX_VOCAB];

static float number(float range) {
  return random_number(&random_state, range);
}

static bool allows(const uint32_t *mask, uint32_t token) {
  return mask[token / 32] >> token % 32 & 1;
}

/* On a copy in memory of just the size. */
static int sample(const struct cpu_kernels *kernels, const struct tl_sampling *s, uint32_t vocab, struct tl_sampled *ret) {
  struct cpu_sampler scratch = {malloc(vocab * sizeof *scratch.candidates), malloc(vocab * sizeof *scratch.raw),
                                malloc(vocab * sizeof *scratch.weights)};
  size_t mask_bytes = TL_MASK_WORDS(vocab) * sizeof *s->mask;
  float *copy = malloc(vocab * sizeof *copy);
  uint32_t *mask = malloc(mask_bytes);
  struct tl_sampling own = *s;
  if (s->mask) own.mask = memcpy(mask, s->mask, mask_bytes);
  memcpy(copy, logits, vocab * sizeof *copy);
  memset(ret, 0, sizeof *ret);
  int r = cpu_sample(kernels, &own, copy, vocab, &scratch, ret);
  free(copy);
  free(mask);
  free(scratch.candidates);
  free(scratch.raw);
  free(scratch.weights);
  return r;
}

static struct tl_sampling random_options(uint32_t vocab) {
  struct tl_sampling s = {.top_p = 1, .repetition_penalty = 1, .target = -1};
  if (unit_below(&random_state, 4)) s.temperature = 0.25f * (float)(1 + unit_below(&random_state, 7));
  random_filters(&random_state, vocab, history, &s);
  for (uint32_t token = 0; token < vocab && unit_below(&random_state, 2) == 0; token += 1 + unit_below(&random_state, 5))
    bias[s.n_bias++] = (struct tl_token_bias){(int32_t)token, number(5)};
  s.bias = bias;
  if (unit_below(&random_state, 2)) s.repetition_penalty = 1.25f;
  if (unit_below(&random_state, 2)) s.presence_penalty = s.frequency_penalty = number(2);
  return s;
}

/* Dense, of a few tokens, of whole words, and what makes all of these at once; never empty. */
static void random_mask(uint32_t vocab, uint32_t *mask) {
  unsigned kind = unit_below(&random_state, 4);
  for (uint32_t i = 0; i < TL_MASK_WORDS(vocab); i++) {
    uint32_t any = (uint32_t)unit_random(&random_state), words[] = {any, 0, any % 2 ? UINT32_MAX : 0, any % 3 ? any : UINT32_MAX};
    mask[i] = words[kind];
  }
  for (unsigned n = 1 + unit_below(&random_state, 3); n; n--) {
    uint32_t token = unit_below(&random_state, vocab);
    mask[token / 32] |= 1u << token % 32;
  }
}

static void check_same(const struct tl_sampled *x, const struct tl_sampled *y) {
  assert_int_equal(x->token, y->token);
  assert_true(x->logprob == y->logprob);
  assert_int_equal(x->n_top, y->n_top);
  assert_memory_equal(x->top_tokens, y->top_tokens, sizeof x->top_tokens);
  assert_memory_equal(x->top_logprobs, y->top_logprobs, sizeof x->top_logprobs);
}

static void test_as_biases_that_forbid(void **state) {
  (void)state;
  static const uint32_t sizes[] = {1, 2, 5, 31, 32, 33, 64, 100, 257, 1000};
  const struct cpu_kernels *kernels[MAX_KERNELS];
  unsigned n_kernels = runnable_kernels(kernels);
  uint32_t mask[TL_MASK_WORDS(MAX_VOCAB)];
  for (unsigned i = 0; i < 6000 / UNIT_SLOWDOWN; i++) {
    uint32_t vocab = sizes[unit_below(&random_state, UNIT_COUNT(sizes))];
    for (uint32_t k = 0; k < vocab; k++) logits[k] = i % 3 ? number(6) : rintf(number(3));
    struct tl_sampling masked = random_options(vocab), biased = masked;
    random_mask(vocab, mask);
    masked.mask = mask;
    for (uint32_t k = 0; k < vocab; k++)
      if (!allows(mask, k)) bias[biased.n_bias++] = (struct tl_token_bias){(int32_t)k, -INFINITY};
    for (unsigned k = 0; k < n_kernels; k++) {
      struct tl_sampled got, want;
      assert_int_equal(sample(kernels[k], &masked, vocab, &got), TL_OK);
      assert_int_equal(sample(kernels[k], &biased, vocab, &want), TL_OK);
      assert_true(allows(mask, (uint32_t)got.token));
      check_same(&got, &want);
    }
  }
}

/* A mask of nothing, one of tokens that are impossible by a bias, by their logit or none at all: no token rather than a forbidden one. */
static void test_nothing_left(void **state) {
  (void)state;
  struct tl_token_bias never = {40, -INFINITY}, no_number = {40, NAN};
  for (unsigned temperature = 0; temperature < 2; temperature++)
    for (unsigned way = 0; way < 4; way++) {
      uint32_t mask[TL_MASK_WORDS(70)] = {0, way ? 1u << 8 : 0, UINT32_MAX << 70 % 32};
      for (uint32_t k = 0; k < 70; k++) logits[k] = number(3);
      if (way == 3) logits[40] = -INFINITY;
      struct tl_sampling s = {.temperature = (float)temperature, .top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = 2, .mask = mask,
                              .bias = way == 1 ? &never : &no_number, .n_bias = way == 1 || way == 2};
      struct tl_sampled got;
      assert_int_equal(sample(cpu_choose_kernels(tl_cpu_best_isa()), &s, 70, &got), TL_EDEVICE);
      mask[0] = 2; /* with one that is possible */
      int r = sample(cpu_choose_kernels(tl_cpu_best_isa()), &s, 70, &got);
      if (way == 2)
        assert_int_equal(r, TL_EDEVICE);
      else
        assert_true(r == TL_OK && got.token == 1);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_biases_that_forbid), cmocka_unit_test(test_nothing_left)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
