/* SPDX-License-Identifier: MIT */
/* The sampler on fibers against a reference that sorts and computes in double, and
 * against the CPU backend's. */
#include "op_unit.h"

#include "device/cpu/cpu_private.h"
#include "device/cuda/ops/cuda_sampling.h"
#include "tokenlane/base/hash.h"

enum { MAX_ROWS = 4, MAX_EDITS = 40, MANY_BLOCKS = 132 }; /* the last: so many that every long row is shared */

static const struct tl_cuda_sampling greedy = {
    .temperature = 0, .top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1};

/* A batch: rows with their lists. */
struct batch {
  uint32_t n, vocab, ld;
  uint32_t n_multiprocessors, padding; /* padding: not 0: row */
  float *logits; /* (n, ld) */
  struct tl_cuda_sampling rows[MAX_ROWS];
  struct tl_token_count history[MAX_EDITS];
  struct tl_token_bias bias[MAX_EDITS];
  uint32_t n_history, n_bias, n_masks;
  uint32_t *masks; /* (MAX_ROWS, TL_MASK_WORDS(vocab)) */
  struct tl_sampled out[MAX_ROWS];
};

static const uint32_t *mask_of(const struct batch *b, uint32_t row) {
  return b->rows[row].mask ? b->masks + (b->rows[row].mask - 1) * TL_MASK_WORDS(b->vocab) : NULL;
}

static struct batch *new_batch(uint32_t n, uint32_t vocab) {
  struct batch *b = calloc(1, sizeof *b);
  b->n = n;
  b->vocab = vocab;
  b->n_multiprocessors = (const uint32_t[]){1, 2 * n, 3 * n, MANY_BLOCKS}[unit_below(&op_random, 4)];
  b->ld = (vocab + 3) / 4 * 4 + 4;
  b->masks = op_alloc(MAX_ROWS * TL_MASK_WORDS(vocab) * sizeof(uint32_t));
  b->logits = op_poisoned((size_t)n * b->ld * sizeof(float)); /* what no row owns is NaN */
  for (uint32_t i = 0; i < n; i++) {
    b->rows[i] = greedy;
    for (uint32_t k = 0; k < vocab; k++) b->logits[i * b->ld + k] = op_number(8);
  }
  return b;
}

static void free_batch(struct batch *b) {
  op_free(b->logits);
  op_free(b->masks);
  free(b);
}

/* Behind it nothing is left. */
static int last_stage(const struct batch *b) {
  for (uint32_t i = 0; i < b->n; i++)
    if (b->rows[i].out && b->rows[i].target < 0 && b->rows[i].temperature > 0) return TL_CUDA_DRAW;
  return TL_CUDA_CHOOSE;
}

/* On copies of just the size; b->logits stay as they are. */
static void run(struct batch *b) {
  struct tl_sampled *out = op_poisoned(b->n * sizeof *out);
  for (uint32_t i = 0; i < b->n; i++) b->rows[i].out = b->padding && i == b->padding ? NULL : &out[i];
  size_t n_edits = b->n_history + b->n_bias, n_blocks = b->n_multiprocessors < b->n ? b->n : b->n_multiprocessors;
  size_t n_bins = b->n_multiprocessors / 2 * TL_CUDA_SAMPLE_BINS;
  struct tl_cuda_sample_args a = {.n = b->n, .vocab = b->vocab, .ld = b->ld, .n_multiprocessors = b->n_multiprocessors,
                                  .best = op_poisoned(b->n_multiprocessors * sizeof(uint64_t)),
                                  .sums = op_poisoned(n_blocks * TL_CUDA_SAMPLE_SUMS * sizeof(uint64_t)),
                                  .bins = memset(op_alloc(n_bins * sizeof(uint64_t)), 0, n_bins * sizeof(uint64_t)),
                                  .left = op_poisoned(b->n * sizeof(struct tl_cuda_left)),
                                  .arrived = memset(op_alloc(n_blocks * sizeof(uint32_t)), 0, n_blocks * sizeof(uint32_t)),
                                  .logits = op_copy(b->logits, (size_t)b->n * b->ld * sizeof(float)),
                                  .rows = op_copy(b->rows, b->n * sizeof *b->rows),
                                  .history = op_copy(b->history, b->n_history * sizeof *b->history),
                                  .bias = op_copy(b->bias, b->n_bias * sizeof *b->bias),
                                  .saved = op_poisoned(n_edits * sizeof(float)), .n_history = b->n_history,
                                  .masks = op_copy(b->masks, b->n_masks * TL_MASK_WORDS(b->vocab) * sizeof(uint32_t)),
                                  .fed = op_poisoned(b->n * sizeof(int32_t))};
  for (a.stage = TL_CUDA_CHOOSE; a.stage <= TL_CUDA_DRAW; a.stage++)
    if (a.stage <= last_stage(b)) assert_int_equal(op_run(tl_cuda_sample(&a, NULL)), 0);
  for (size_t i = 0; i < n_bins; i++) assert_int_equal(a.bins[i], 0);
  memcpy(b->out, out, b->n * sizeof *b->out);
  for (uint32_t i = 0; i < b->n; i++) assert_int_equal(a.fed[i], b->out[i].token);
  for (uint32_t i = 0; i < n_blocks; i++) assert_int_equal(a.arrived[i], 0);
  void *mine[] = {a.best, a.sums, a.bins, a.left, a.arrived, a.logits, (void *)a.rows, (void *)a.history, (void *)a.bias, a.saved, (void *)a.masks, out, a.fed};
  for (unsigned i = 0; i < UNIT_COUNT(mine); i++) op_free(mine[i]);
}

/* --- the reference -------------------------------------------------------------------------- */

struct token {
  double value, weight;
  uint32_t id;
  bool kept;
};

static int by_order(const void *x, const void *y) {
  const struct token *a = x, *b = y;
  return a->value != b->value ? (a->value < b->value ? 1 : -1) : a->id < b->id ? -1 : 1;
}

static int by_id(const void *x, const void *y) {
  const struct token *a = x, *b = y;
  return a->id < b->id ? -1 : 1;
}

static void changed_logits(const struct batch *b, uint32_t row, float *ret) {
  const struct tl_cuda_sampling *s = &b->rows[row];
  memcpy(ret, b->logits + (size_t)row * b->ld, b->vocab * sizeof *ret);
  for (uint32_t i = s->first_history; i < s->first_history + s->n_history; i++) {
    float *logit = &ret[b->history[i].token];
    *logit = *logit > 0 ? *logit / s->repetition_penalty : *logit * s->repetition_penalty;
    if (b->history[i].n_generated)
      *logit -= s->presence_penalty + s->frequency_penalty * (float)b->history[i].n_generated;
  }
  for (uint32_t i = s->first_bias; i < s->first_bias + s->n_bias; i++) ret[b->bias[i].token] += b->bias[i].bias;
  for (uint32_t i = 0; s->mask && i < b->vocab; i++)
    if (!(mask_of(b, row)[i / 32] >> i % 32 & 1)) ret[i] = -INFINITY;
}

/* The kernel's token must be kept, and the random number must fall on it; both within
 * `slack` of the mass, for the roundings of exp. */
static void check_draw(const struct batch *b, uint32_t row) {
  const double slack = 2e-6;
  const struct tl_cuda_sampling *s = &b->rows[row];
  float *logits = op_alloc(b->vocab * sizeof *logits), max = -INFINITY;
  changed_logits(b, row, logits);
  for (uint32_t i = 0; i < b->vocab; i++) max = logits[i] > max ? logits[i] : max;
  struct token *t = op_alloc(b->vocab * sizeof *t);
  for (uint32_t i = 0; i < b->vocab; i++) {
    float distance = (logits[i] - max) / s->temperature;
    t[i] = (struct token){distance, exp((double)distance), i, false};
  }
  qsort(t, b->vocab, sizeof *t, by_order);
  uint32_t n = s->top_k > 0 && (uint32_t)s->top_k < b->vocab ? (uint32_t)s->top_k : b->vocab;
  double mass = 0, sum = 0, total = 0, before = 0, got_before = -1, got_weight = 0;
  for (uint32_t i = 0; i < n; i++) mass += t[i].weight;
  for (uint32_t i = 0; i < n; i++) {
    t[i].kept = t[i].weight >= s->min_p * (1 - 1e-6) && (s->top_p >= 1 || i == 0 || sum < mass * (s->top_p + slack));
    sum += t[i].weight;
    /* whatever is only just kept may be missing */
    if (t[i].kept) total += t[i].weight;
  }
  qsort(t, b->vocab, sizeof *t, by_id);
  for (uint32_t i = 0; i < b->vocab; i++) {
    if ((int32_t)i == b->out[row].token) {
      assert_true(t[i].kept);
      got_before = before;
      got_weight = t[i].weight;
    }
    if (t[i].kept) before += t[i].weight;
  }
  double point = (double)tl_random_uniform(s->seed, s->position) * total;
  assert_true(got_before >= 0);
  /* one token at the cut of a filter may or may not be there: its weight is slack too */
  double edge = s->top_p < 1 || s->min_p > 0 ? got_weight + slack * total : slack * total;
  if (!(point >= got_before - edge && point <= got_before + got_weight + edge))
    fail_msg("token %d covers %.9g to %.9g, drawn was %.9g of %.9g", b->out[row].token, got_before,
             got_before + got_weight, point, total);
  op_free(logits);
  op_free(t);
}

/* What the CPU backend draws of the same row. */
static struct tl_sampled cpu_result(const struct batch *b, uint32_t row) {
  const struct tl_cuda_sampling *s = &b->rows[row];
  struct tl_sampling same = {.temperature = s->temperature, .top_p = s->top_p, .min_p = s->min_p, .top_k = s->top_k,
                             .presence_penalty = s->presence_penalty, .frequency_penalty = s->frequency_penalty,
                             .repetition_penalty = s->repetition_penalty, .seed = s->seed, .position = s->position,
                             .target = s->target, .n_top = s->n_top, .history = b->history + s->first_history,
                             .n_history = s->n_history, .bias = b->bias + s->first_bias, .n_bias = s->n_bias,
                             .mask = mask_of(b, row)};
  struct cpu_sampler scratch = {op_alloc(b->vocab * sizeof *scratch.candidates), op_alloc(b->vocab * sizeof *scratch.raw),
                                op_alloc(b->vocab * sizeof *scratch.weights)};
  float *copy = op_copy(b->logits + (size_t)row * b->ld, b->vocab * sizeof *copy);
  struct tl_sampled result;
  if (cpu_sample(&cpu_kernels_plain, &same, copy, b->vocab, &scratch, &result) < 0) result.token = -1;
  op_free(copy);
  op_free(scratch.candidates);
  op_free(scratch.raw);
  op_free(scratch.weights);
  return result;
}

static void check_logprobs(const struct batch *b, uint32_t row) {
  struct tl_sampled want = cpu_result(b, row);
  const struct tl_sampled *got = &b->out[row];
  assert_int_equal(got->n_top, want.n_top);
  for (int32_t i = 0; i < got->n_top; i++) {
    assert_int_equal(got->top_tokens[i], want.top_tokens[i]);
    assert_true(fabsf(got->top_logprobs[i] - want.top_logprobs[i]) < 1e-5f);
  }
  if (got->token == want.token) assert_true(fabsf(got->logprob - want.logprob) < 1e-5f);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_numbers(void **state) {
  (void)state;
  for (int i = 0; i < 1000; i++) {
    uint64_t seed = unit_random(&op_random), position = unit_random(&op_random) >> (i % 64);
    assert_true((float)tl_cuda_random24(seed, position) * 0x1p-24f == tl_random_uniform(seed, position));
    float x = op_number(100), y = op_number(100);
    assert_true((tl_cuda_order_key(x) < tl_cuda_order_key(y)) == (x > y));
    assert_true(tl_cuda_key_value(tl_cuda_order_key(x)) == x);
    /* bins never fall as the order rises */
    float dx = -fabsf(x), dy = -fabsf(y);
    assert_true(dx < dy ? tl_cuda_bin(dx) >= tl_cuda_bin(dy) : tl_cuda_bin(dx) <= tl_cuda_bin(dy));
  }
  const float order[] = {NAN, INFINITY, 1e30f, 1, 1e-40f, 0, -1e-40f, -1, -1e30f, -INFINITY};
  for (unsigned i = 1; i < UNIT_COUNT(order); i++)
    assert_true(tl_cuda_order_key(order[i - 1]) < tl_cuda_order_key(order[i]));
  assert_int_equal(tl_cuda_order_key(-0.0f), tl_cuda_order_key(0.0f));
  assert_int_equal(tl_cuda_order_key(-NAN), 0);
  assert_true(isnan(tl_cuda_key_value(0)));
  assert_int_equal(tl_cuda_bin(0), 0);
  assert_int_equal(tl_cuda_bin(-INFINITY), TL_CUDA_BINS - 1);
  /* the levels cover the rank's 64 bits without a gap */
  uint32_t end = 64;
  for (int level = 1; level < TL_CUDA_LEVELS; level++) {
    assert_int_equal(tl_cuda_level_shift(level) + tl_cuda_level_bits(level), end);
    end = tl_cuda_level_shift(level);
  }
  assert_int_equal(end, 0);
  assert_int_equal(tl_cuda_level_shift(TL_CUDA_VALUE_LEVELS - 1), 32);
}

static void test_target(void **state) {
  (void)state;
  for (int i = 0; i < 1000; i++) {
    uint64_t total = unit_random(&op_random) >> (1 + i % 50);
    if (total == 0) continue;
    uint32_t random24 = unit_below(&op_random, 1 << 24);
    assert_int_equal(tl_cuda_target(random24, total), (uint64_t)((unsigned __int128)total * random24 >> 24));
    assert_true(tl_cuda_target(0xffffff, total) < total);
  }
}

static void test_greedy(void **state) {
  (void)state;
  const uint32_t vocabs[] = {1, 2, 3, 5, 31, 4096, 4097, 20001, 32768, 70003};
  for (unsigned k = 0; k < UNIT_COUNT(vocabs); k++) {
    struct batch *b = new_batch(3, vocabs[k]);
    uint32_t want[3];
    for (uint32_t i = 0; i < 3; i++) {
      want[i] = unit_below(&op_random, b->vocab);
      b->logits[i * b->ld + want[i]] = 9;
      /* a tie further on: the lower one wins */
      uint32_t tie = want[i] + unit_below(&op_random, b->vocab - want[i]);
      b->logits[i * b->ld + tie] = 9;
    }
    run(b);
    for (uint32_t i = 0; i < 3; i++) assert_int_equal(b->out[i].token, want[i]);
    free_batch(b);
  }
}

/* Rows that several blocks share: the best of them, wherever its part ends, and the first of equals in several. */
static void test_parts(void **state) {
  (void)state;
  const uint32_t vocabs[] = {8193, 16385, 20001, 70003, 128256, 300001};
  for (unsigned k = 0; k < UNIT_COUNT(vocabs); k++) {
    uint32_t vocab = vocabs[k], n_parts = (vocab + TL_CUDA_SAMPLE_PART - 1) / TL_CUDA_SAMPLE_PART;
    if (n_parts > 32) n_parts = 32;
    uint32_t each = ((vocab + n_parts - 1) / n_parts + 3) / 4 * 4, part = 1 + unit_below(&op_random, n_parts - 1);
    const uint32_t first[] = {0, each - 1, each, part * each, vocab - 1};
    for (unsigned i = 0; i < UNIT_COUNT(first); i++) {
      struct batch *b = new_batch(1, vocab);
      b->n_multiprocessors = MANY_BLOCKS;
      for (uint32_t token = first[i]; token < vocab; token += each / 2) b->logits[token] = 9;
      run(b);
      assert_int_equal(b->out[0].token, first[i]);
      free_batch(b);
    }
  }
}

/* A NaN or infinity in one part only, nothing possible in one or in all, and all the same. */
static void test_parts_without_numbers(void **state) {
  (void)state;
  const uint32_t each = 6668, vocab = 20001;
  for (uint32_t part = 0; part < 3; part++) {
    struct batch *b = new_batch(4, vocab);
    b->n_multiprocessors = MANY_BLOCKS;
    uint32_t end = (part + 1) * each < vocab ? (part + 1) * each : vocab, at = part * each + unit_below(&op_random, end - part * each);
    b->logits[at] = NAN;
    b->logits[b->ld + at] = INFINITY;
    for (uint32_t i = 0; i < vocab; i++) b->logits[2 * b->ld + i] = i >= part * each && i < end ? -INFINITY : -7;
    b->logits[3 * b->ld + (part ? 5 : end)] = 20;
    b->logits[3 * b->ld + at] = -INFINITY;
    run(b);
    assert_int_equal(b->out[0].token, -1);
    assert_int_equal(b->out[1].token, -1);
    assert_int_equal(b->out[2].token, part ? 0 : each);
    assert_int_equal(b->out[3].token, part ? 5 : end);
    for (uint32_t i = 0; i < 4 * b->ld; i++) b->logits[i] = i < b->ld ? -INFINITY : -1e30f;
    run(b);
    assert_int_equal(b->out[0].token, -1);
    for (uint32_t i = 1; i < 4; i++) assert_int_equal(b->out[i].token, 0);
    free_batch(b);
  }
}

static void random_options(struct batch *b, uint32_t row) {
  const float temperatures[] = {0.05f, 0.7f, 1, 3}, top_ps[] = {1, 0.95f, 0.5f, 0.01f, 0}, min_ps[] = {0, 0, 0.1f, 1};
  struct tl_cuda_sampling *s = &b->rows[row];
  s->temperature = temperatures[unit_below(&op_random, 4)];
  s->top_p = top_ps[unit_below(&op_random, 5)];
  s->min_p = min_ps[unit_below(&op_random, 4)];
  s->top_k = unit_below(&op_random, 2) ? (int32_t)unit_below(&op_random, b->vocab + 2) : 0;
  s->seed = unit_random(&op_random);
  s->position = unit_below(&op_random, 100000);
  s->n_top = (int32_t)unit_below(&op_random, 22) - 1;
}

static void random_edits(struct batch *b, uint32_t row) {
  struct tl_cuda_sampling *s = &b->rows[row];
  s->first_history = b->n_history;
  s->first_bias = b->n_bias;
  s->repetition_penalty = 1.3f;
  s->presence_penalty = op_number(1);
  s->frequency_penalty = op_number(0.5f);
  for (uint32_t token = unit_below(&op_random, 5); token < b->vocab && s->n_history < 8; token += 1 + unit_below(&op_random, 9)) {
    b->history[b->n_history++] = (struct tl_token_count){(int32_t)token, unit_below(&op_random, 3)};
    s->n_history++;
  }
  for (uint32_t token = unit_below(&op_random, 3); token < b->vocab && s->n_bias < 5; token += 1 + unit_below(&op_random, 7)) {
    b->bias[b->n_bias++] = (struct tl_token_bias){(int32_t)token, token % 3 ? op_number(4) : -INFINITY};
    s->n_bias++;
  }
  if (s->n_bias == b->vocab) b->bias[s->first_bias].bias = 0; /* something must be possible */
}

/* Some rows have one, dense or of a few tokens; whatever else is asked for, it has one that no bias forbids. */
static void random_mask(struct batch *b, uint32_t row) {
  if (unit_below(&op_random, 4) == 0) return;
  b->rows[row].mask = ++b->n_masks;
  uint32_t *mask = (uint32_t *)(uintptr_t)mask_of(b, row), kind = unit_below(&op_random, 4);
  for (uint32_t i = 0; i < TL_MASK_WORDS(b->vocab); i++)
    mask[i] = kind == 0 ? UINT32_MAX : kind == 1 ? 0 : (uint32_t)unit_random(&op_random) & (kind == 2 ? UINT32_MAX : 0xf0f00000u);
  float *logits = op_alloc(b->vocab * sizeof *logits);
  uint32_t left = 0;
  for (uint32_t tries = 1 + unit_below(&op_random, 3), i = 0; tries || left == 0; i = unit_below(&op_random, b->vocab)) {
    mask[i / 32] |= 1u << i % 32;
    changed_logits(b, row, logits);
    left += logits[i] > -INFINITY;
    if (tries) tries--;
  }
  op_free(logits);
}

static void check_random(uint32_t vocab, bool ties, bool edits, bool masks) {
  struct batch *b = new_batch(MAX_ROWS, vocab);
  for (uint32_t i = 0; i < b->n; i++) {
    random_options(b, i);
    if (edits) random_edits(b, i);
    if (masks) random_mask(b, i);
    for (uint32_t k = 0; ties && k < vocab; k++)
      b->logits[i * b->ld + k] = (float)(int)(b->logits[i * b->ld + k] / 4);
  }
  run(b);
  for (uint32_t i = 0; i < b->n; i++) {
    check_draw(b, i);
    check_logprobs(b, i);
    uint32_t token = (uint32_t)b->out[i].token;
    if (b->rows[i].mask) assert_true(mask_of(b, i)[token / 32] >> token % 32 & 1);
  }
  free_batch(b);
}

static void test_random_rows(void **state) {
  (void)state;
  for (int i = 0; i < 24 / UNIT_SLOWDOWN; i++) {
    check_random(1 + unit_below(&op_random, 40), i % 3 == 0, i % 2, false);
    check_random(1 + unit_below(&op_random, 3000), i % 3 == 1, i % 2, false);
  }
  for (int i = 0; i < 4; i++) check_random(20003, i == 1, i != 2, false);
  check_random(9000, true, false, false); /* thousands of equals: digits of the ids */
}

static void test_masked_rows(void **state) {
  (void)state;
  for (int i = 0; i < 32 / UNIT_SLOWDOWN; i++) {
    check_random(1 + unit_below(&op_random, 70), i % 3 == 0, i % 2, true);
    check_random(1 + unit_below(&op_random, 3000), i % 3 == 1, i % 2, true);
  }
  for (int i = 0; i < 3; i++) check_random(20003, false, true, true);
}

/* Greedy: the best of those allowed, and the log-probability that it had; a mask that leaves nothing, and one that leaves a NaN. */
static void test_what_masks_leave(void **state) {
  (void)state;
  const uint32_t vocabs[] = {1, 2, 31, 32, 33, 66, 4097};
  for (unsigned k = 0; k < UNIT_COUNT(vocabs); k++) {
    uint32_t vocab = vocabs[k], only = unit_below(&op_random, vocab), words = TL_MASK_WORDS(vocab);
    struct batch *b = new_batch(4, vocab);
    b->n_masks = 3;
    memset(b->masks, 0, 3 * words * sizeof *b->masks);
    b->masks[only / 32] = 1u << only % 32;
    if (vocab % 32) b->masks[2 * words - 1] = UINT32_MAX << vocab % 32; /* bits that no token has are none */
    b->masks[2 * words + only / 32] = 1u << only % 32;
    for (uint32_t i = 0; i < 3; i++) b->rows[i].mask = i + 1;
    b->rows[2].n_bias = b->n_bias = 1;
    b->bias[0] = (struct tl_token_bias){(int32_t)only, NAN};
    for (uint32_t i = 0; i < 4; i++) {
      b->rows[i].temperature = k % 2 ? 0.7f : 0;
      b->rows[i].n_top = i % 2 ? 2 : -1;
    }
    b->rows[0].n_top = 3;
    run(b);
    assert_int_equal(b->out[0].token, only);
    check_logprobs(b, 0);
    for (uint32_t i = 1; i < 3; i++) {
      assert_int_equal(b->out[i].token, -1);
      assert_int_equal(cpu_result(b, i).token, -1);
    }
    assert_true(b->out[3].token >= 0);
    free_batch(b);
  }
}

/* Where no rounding can matter the CPU draws the very same. */
static void test_equals_cpu(void **state) {
  (void)state;
  unsigned same = 0, all = 0;
  for (int i = 0; i < 20 / UNIT_SLOWDOWN; i++) {
    struct batch *b = new_batch(MAX_ROWS, 500);
    for (uint32_t row = 0; row < b->n; row++) random_options(b, row);
    run(b);
    for (uint32_t row = 0; row < b->n; row++, all++) same += cpu_result(b, row).token == b->out[row].token;
    free_batch(b);
  }
  assert_true(same + 1 >= all);
}

/* Nothing is drawn of a row that is none, and what it has says nothing. */
static void test_padding(void **state) {
  (void)state;
  const uint32_t vocabs[] = {20, 20001};
  for (unsigned k = 0; k < UNIT_COUNT(vocabs); k++) {
    struct batch *b = new_batch(3, vocabs[k]);
    b->padding = 1 + k;
    memset(&b->rows[b->padding], 0xff, sizeof b->rows[b->padding]);
    run(b);
    const uint8_t *bytes = (const uint8_t *)&b->out[b->padding];
    for (size_t i = 0; i < sizeof b->out[0]; i++) assert_int_equal(bytes[i], 0xff);
    for (uint32_t i = 0; i < 3; i++)
      if (i != b->padding) assert_int_equal(b->out[i].token, cpu_result(b, i).token);
    free_batch(b);
  }
}

/* All tokens weigh the same and the random number falls on an edge: the upper token has it. */
static void test_an_edge(void **state) {
  (void)state;
  struct batch *b = new_batch(1, 4096);
  struct tl_cuda_sampling *s = &b->rows[0];
  for (uint32_t k = 0; k < b->vocab; k++) b->logits[k] = 1;
  s->temperature = 1;
  while (tl_cuda_random24(s->seed, s->position) % 4096 != 0) s->position++;
  run(b);
  assert_int_equal(b->out[0].token, tl_cuda_random24(s->seed, s->position) / 4096);
  assert_int_equal(b->out[0].token, cpu_result(b, 0).token);
  free_batch(b);
}

/* The same of rows whose parts have a block each: on every edge of two parts, and of their warps. */
static void test_edges_of_parts(void **state) {
  (void)state;
  const uint32_t vocab = 32768, edges[] = {0, 1, 255, 256, 8191, 8192, 16384, 24575, 24576, 32767};
  struct batch *b = new_batch(1, vocab);
  struct tl_cuda_sampling *s = &b->rows[0];
  b->n_multiprocessors = MANY_BLOCKS;
  for (uint32_t k = 0; k < vocab; k++) b->logits[k] = -3;
  s->temperature = 0.5f;
  for (unsigned i = 0; i < UNIT_COUNT(edges); i++) {
    while (tl_cuda_random24(s->seed, s->position) / 512 != edges[i]) s->position++;
    run(b);
    assert_int_equal(b->out[0].token, edges[i]);
  }
  free_batch(b);
}

/* Scoring: the target's log-probability, whatever else is asked for. */
static void test_target_token(void **state) {
  (void)state;
  struct batch *b = new_batch(2, 77);
  for (uint32_t i = 0; i < 2; i++) {
    random_edits(b, i);
    b->rows[i].target = 70 + (int32_t)i;
    b->rows[i].n_top = i ? 3 : 0;
    b->rows[i].temperature = 1;
  }
  run(b);
  for (uint32_t i = 0; i < 2; i++) {
    assert_int_equal(b->out[i].token, 70 + i);
    check_logprobs(b, i);
  }
  free_batch(b);
}

/* Logits as they were, also of tokens that were changed. */
static void test_logprob_of_a_changed_token(void **state) {
  (void)state;
  struct batch *b = new_batch(2, 50);
  b->n_history = b->n_bias = 3; /* two of row 0, one of row 1: rows share none, since each keeps what it changed beside its own */
  b->history[0] = (struct tl_token_count){1, 1};
  b->history[1] = b->history[2] = (struct tl_token_count){7, 4};
  b->bias[0] = b->bias[2] = (struct tl_token_bias){7, 100};
  b->bias[1] = (struct tl_token_bias){9, 200};
  for (uint32_t i = 0; i < 2; i++) {
    b->rows[i].first_history = b->rows[i].first_bias = i ? 2 : 0;
    b->rows[i].n_history = b->rows[i].n_bias = i ? 1 : 2;
    b->rows[i].repetition_penalty = 2;
    b->rows[i].n_top = 0;
  }
  run(b);
  assert_int_equal(b->out[0].token, 9);
  assert_int_equal(b->out[1].token, 7);
  check_logprobs(b, 0);
  check_logprobs(b, 1);
  free_batch(b);
}

static void test_not_finite(void **state) {
  (void)state;
  struct batch *b = new_batch(4, 1030);
  for (uint32_t i = 0; i < 4; i++) {
    b->rows[i].temperature = 1;
    b->rows[i].n_top = 2;
  }
  b->logits[1029] = NAN;
  b->logits[b->ld + 3] = INFINITY;
  for (uint32_t k = 0; k < b->vocab; k++) b->logits[2 * b->ld + k] = -INFINITY;
  b->logits[3 * b->ld + 5] = -INFINITY; /* is fine */
  run(b);
  assert_int_equal(b->out[0].token, -1);
  assert_int_equal(b->out[1].token, -1);
  assert_int_equal(b->out[2].token, -1);
  check_draw(b, 3);
  free_batch(b);
}

/* What biases make: no token possible, one infinitely likely, no number. */
static void test_biases_beyond_numbers(void **state) {
  (void)state;
  struct batch *b = new_batch(4, 3);
  const float biases[][3] = {{-INFINITY, -INFINITY, -INFINITY}, {0, 3e38f, 0}, {0, 0, NAN}, {-INFINITY, 0, -INFINITY}};
  for (uint32_t i = 0; i < 4; i++) {
    b->rows[i].temperature = i % 2 ? 0.5f : 1;
    b->rows[i].first_bias = b->n_bias;
    b->rows[i].n_bias = 3;
    for (int k = 0; k < 3; k++) b->bias[b->n_bias++] = (struct tl_token_bias){k, biases[i][k]};
  }
  b->logits[b->ld + 1] = 3e38f; /* and 3e38 more: infinite */
  run(b);
  for (uint32_t i = 0; i < 4; i++) assert_int_equal(b->out[i].token, cpu_result(b, i).token);
  assert_int_equal(b->out[1].token, 1);
  assert_int_equal(b->out[3].token, 1);
  free_batch(b);
}

static void test_refused_shapes(void **state) {
  (void)state;
  assert_int_equal(tl_cuda_sample(&(struct tl_cuda_sample_args){.n = 1, .vocab = 5, .ld = 6}, NULL), 1);
  assert_int_equal(tl_cuda_sample(&(struct tl_cuda_sample_args){.n = 1, .vocab = 5, .ld = 4}, NULL), 1);
  assert_int_equal(tl_cuda_sample(&(struct tl_cuda_sample_args){.n = 1, .vocab = 1 << 19, .ld = 1 << 19}, NULL), 1);
  assert_int_equal(tl_cuda_sample(&(struct tl_cuda_sample_args){.n = 0, .vocab = 5, .ld = 8}, NULL), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_numbers),     cmocka_unit_test(test_target),       cmocka_unit_test(test_greedy),
      cmocka_unit_test(test_random_rows), cmocka_unit_test(test_equals_cpu),   cmocka_unit_test(test_target_token),
      cmocka_unit_test(test_not_finite),  cmocka_unit_test(test_an_edge),      cmocka_unit_test(test_refused_shapes),
      cmocka_unit_test(test_biases_beyond_numbers), cmocka_unit_test(test_logprob_of_a_changed_token),
      cmocka_unit_test(test_masked_rows), cmocka_unit_test(test_what_masks_leave),
      cmocka_unit_test(test_padding),     cmocka_unit_test(test_edges_of_parts),
      cmocka_unit_test(test_parts),       cmocka_unit_test(test_parts_without_numbers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
