/* SPDX-License-Identifier: MIT */
/* What does it cost to make a token from a row of logits? Against greedy, which
 * reads the row once: sampling should cost a few times that, whatever is asked. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu/cpu_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/hash.h"

#define VOCAB 128256 /* Llama 3's */
#define ROUNDS 60

struct setting {
  const char *name;
  float temperature, top_p, min_p;
  int32_t top_k, n_top;
  uint32_t one_in; /* tokens that the mask allows; 0: there is no mask */
};

static const struct setting settings[] = {
    {"greedy", 0, 1, 0, 0, -1, 0},
    {"temperature 1", 1, 1, 0, 0, -1, 0},
    {"top_p 0.9", 1, 0.9f, 0, 0, -1, 0},
    {"top_p 0.99, temperature 2", 2, 0.99f, 0, 0, -1, 0},
    {"top_k 40", 1, 1, 0, 40, -1, 0},
    {"top_k 40, top_p 0.9, min_p 0.05", 0.7f, 0.9f, 0.05f, 40, -1, 0},
    {"top_k 100000", 1, 1, 0, 100000, -1, 0},
    {"top_k 100000, top_p 0.9", 1, 0.9f, 0, 100000, -1, 0},
    {"min_p 0.05", 1, 1, 0.05f, 0, -1, 0},
    {"greedy, 20 log-probabilities", 0, 1, 0, 0, 20, 0},
    {"greedy, all but 100 allowed", 0, 1, 0, 0, -1, 1},
    {"greedy, every other allowed", 0, 1, 0, 0, -1, 2},
    {"greedy, 30 allowed", 0, 1, 0, 0, -1, VOCAB / 30},
    {"temperature 1, all but 100 allowed", 1, 1, 0, 0, -1, 1},
    {"temperature 1, 30 allowed", 1, 1, 0, 0, -1, VOCAB / 30},
    {"top_p 0.9, all but 100 allowed", 1, 0.9f, 0, 0, -1, 1},
};

/* Normals of deviation 2: flat, the hard case for top-p. */
static void fill(float *logits) {
  for (uint32_t i = 0; i < VOCAB; i++) {
    double u = (double)tl_random_uniform(1, 2 * i) + 1e-9, v = (double)tl_random_uniform(1, 2 * i + 1);
    logits[i] = (float)(2 * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
  }
}

static void make_mask(uint32_t one_in, uint32_t *mask) {
  memset(mask, one_in == 1 ? 0xff : 0, TL_MASK_WORDS(VOCAB) * sizeof *mask);
  for (uint32_t i = 0; i < VOCAB; i++) {
    if (one_in == 1 && i % (VOCAB / 100) == 7) mask[i / 32] &= ~(1u << i % 32);
    if (one_in > 1 && i % one_in == 0) mask[i / 32] |= 1u << i % 32;
  }
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median_us(const struct cpu_kernels *kernels, const struct setting *setting, const float *logits, float *copy,
                        const struct cpu_sampler *scratch) {
  static uint32_t mask[TL_MASK_WORDS(VOCAB)];
  double us[ROUNDS];
  make_mask(setting->one_in, mask);
  struct tl_sampling s = {.temperature = setting->temperature, .top_p = setting->top_p, .min_p = setting->min_p,
                          .top_k = setting->top_k, .repetition_penalty = 1, .target = -1, .n_top = setting->n_top,
                          .mask = setting->one_in ? mask : NULL};
  for (unsigned i = 0; i < ROUNDS; i++) {
    struct tl_sampled sampled;
    memcpy(copy, logits, VOCAB * sizeof *copy);
    s.position = i;
    int64_t began_ns = tl_now_ns();
    if (cpu_sample(kernels, &s, copy, VOCAB, scratch, &sampled) < 0) exit(1);
    us[i] = (double)(tl_now_ns() - began_ns) / 1e3;
  }
  qsort(us, ROUNDS, sizeof *us, by_size);
  return us[ROUNDS / 2];
}

int main(void) {
  const struct cpu_kernels *kernels = cpu_choose_kernels(tl_cpu_best_isa());
  float *logits = malloc(VOCAB * sizeof *logits), *copy = malloc(VOCAB * sizeof *copy);
  struct cpu_sampler scratch = {malloc(VOCAB * sizeof *scratch.candidates), malloc(VOCAB * sizeof *scratch.raw),
                                malloc(VOCAB * sizeof *scratch.weights)};
  if (!logits || !copy || !scratch.candidates || !scratch.raw || !scratch.weights) return 1;
  fill(logits);
  double greedy = 0;
  printf("one row of %d logits, %s, median of %d\n", VOCAB, kernels->name, ROUNDS);
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
    double us = median_us(kernels, &settings[i], logits, copy, &scratch);
    if (i == 0) greedy = us;
    printf("  %-34s %9.0f us  %6.1f x greedy\n", settings[i].name, us, us / greedy);
  }
  free(logits);
  free(copy);
  free(scratch.candidates);
  free(scratch.raw);
  free(scratch.weights);
  return 0;
}
