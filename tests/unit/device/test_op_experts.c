/* SPDX-License-Identifier: MIT */
/* Mixtures of experts on fibers: routing against the CPU's rule, products over tiles and the sums against double. */
#include "stored_weights.h"

#include "device/cuda/ops/cuda_experts.h"

/* --- routing ------------------------------------------------------------------------------------ */

struct routing {
  uint32_t n, n_experts, n_chosen, first_expert, n_local, tile_entries;
  int normalized;
  bool bias, coarse; /* coarse: many scores are the same */
};

struct routed {
  struct tl_cuda_route_args a;
  float *scores, *bias;
  int32_t *tokens;
};

static void open_routing(const struct routing *r, struct routed *t) {
  uint32_t ld = r->n_experts + 5, n = r->n * r->n_chosen;
  t->scores = op_floats((size_t)r->n * ld, 4);
  for (size_t i = 0; r->coarse && i < (size_t)r->n * ld; i++) t->scores[i] = roundf(t->scores[i]);
  t->bias = op_floats(r->n_experts, r->coarse ? 0 : 2);
  t->tokens = op_alloc(r->n * sizeof *t->tokens);
  for (uint32_t i = 0; i < r->n; i++) t->tokens[i] = unit_below(&op_random, 6) ? -(int32_t)(2 * (i % 2)) : -1;
  t->a = (struct tl_cuda_route_args){
      .n = r->n, .n_experts = r->n_experts, .n_chosen = r->n_chosen, .first_expert = r->first_expert, .n_local = r->n_local,
      .tile_entries = r->tile_entries, .normalized = r->normalized, .factor = 1, .ld = ld, .scores = t->scores, .bias = r->bias ? t->bias : NULL,
      .tokens = t->tokens, .chosen = op_poisoned(n * 4), .shares = op_poisoned(n * 4), .places = op_poisoned(n * 4),
      .rows = op_poisoned(n * 4), .n_tiles = op_poisoned(4),
      .tiles = op_poisoned(tl_cuda_max_expert_tiles(n, r->n_local, r->tile_entries) * sizeof *t->a.tiles)};
}

static void close_routing(struct routed *t) {
  void *const all[] = {t->scores, t->bias, t->tokens, t->a.chosen, t->a.shares, t->a.places, t->a.rows, t->a.n_tiles, t->a.tiles};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) op_free(all[i]);
}

/* Of experts that are chosen by it. */
static double share_of(const struct routed *t, uint32_t row, uint32_t expert) {
  const float *scores = t->scores + (size_t)row * t->a.ld;
  double total = 0;
  if (t->a.sigmoid) return 1 / (1 + exp(-(double)scores[expert]));
  for (uint32_t e = 0; e < t->a.n_experts; e++) total += exp((double)scores[e]);
  return exp((double)scores[expert]) / total;
}

static double score(const struct routed *t, uint32_t row, uint32_t expert) {
  float bias = t->a.bias ? t->bias[expert] : 0;
  if (t->a.sigmoid || t->a.choice) return share_of(t, row, expert) + (double)bias;
  return (double)(t->scores[(size_t)row * t->a.ld + expert] + bias);
}

/* With groups: the experts of the others are out of the question. */
static void leave_groups(const struct routed *t, uint32_t row, bool *out) {
  const struct tl_cuda_route_args *a = &t->a;
  double values[32];
  uint32_t each = a->n_groups ? a->n_experts / a->n_groups : 0;
  for (uint32_t g = 0; g < a->n_groups; g++) {
    double best = -INFINITY, second = -INFINITY;
    for (uint32_t e = g * each; e < (g + 1) * each; e++) {
      double own = score(t, row, e);
      second = own > best ? best : fmax(second, own);
      best = fmax(best, own);
    }
    values[g] = a->sigmoid ? best + second : best;
  }
  for (uint32_t g = 0; g < a->n_groups; g++) {
    uint32_t better = 0;
    for (uint32_t k = 0; k < a->n_groups; k++) better += values[k] > values[g] || (values[k] >= values[g] && k < g);
    for (uint32_t e = g * each; e < (g + 1) * each; e++) out[e] = better >= a->n_groups_chosen;
  }
}

/* The rounding of shares decides between those that are close. */
static void check_shares(const struct routed *t, uint32_t row) {
  const struct tl_cuda_route_args *a = &t->a;
  const uint32_t *chosen = a->chosen + (size_t)row * a->n_chosen;
  bool taken[TL_CUDA_MAX_EXPERTS] = {0};
  double total = 0;
  leave_groups(t, row, taken);
  for (uint32_t i = 0; i < a->n_chosen; i++) {
    assert_true(chosen[i] < a->n_experts && !taken[chosen[i]]);
    taken[chosen[i]] = true;
    total += share_of(t, row, chosen[i]);
    for (uint32_t e = 0; e < a->n_experts; e++)
      if (!taken[e]) assert_true(score(t, row, e) <= score(t, row, chosen[i]) + 1e-6);
  }
  for (uint32_t i = 0; i < a->n_chosen; i++) {
    double want = share_of(t, row, chosen[i]) / (a->normalized ? total : 1) * (double)a->factor;
    assert_true(fabs((double)a->shares[row * a->n_chosen + i] - want) < 2e-6);
  }
}

/* The choices of a row: none is better than one before it, and none that is left out. */
static void check_row(const struct routed *t, uint32_t row) {
  const struct tl_cuda_route_args *a = &t->a;
  const uint32_t *chosen = a->chosen + (size_t)row * a->n_chosen;
  bool taken[TL_CUDA_MAX_EXPERTS] = {0};
  double total = 0;
  leave_groups(t, row, taken);
  for (uint32_t i = 0; i < a->n_chosen; i++) {
    assert_true(chosen[i] < a->n_experts && !taken[chosen[i]]);
    taken[chosen[i]] = true;
    for (uint32_t e = 0; e < a->n_experts; e++) {
      double other = score(t, row, e), own = score(t, row, chosen[i]);
      if (!taken[e]) assert_true(other < own || (other <= own && e > chosen[i]));
    }
    total += exp(score(t, row, chosen[i]) - score(t, row, chosen[0]));
  }
  if (!a->normalized) total = 0;
  for (uint32_t e = 0; !a->normalized && e < a->n_experts; e++) total += exp(score(t, row, e) - score(t, row, chosen[0]));
  for (uint32_t i = 0; i < a->n_chosen; i++) {
    double want = exp(score(t, row, chosen[i]) - score(t, row, chosen[0])) / total;
    assert_true(fabs((double)a->shares[row * a->n_chosen + i] - want) < 2e-6);
  }
}

/* Each choice of an expert that is here has an entry of its own, which stands in one of the expert's tiles. */
static void check_entries(const struct routed *t) {
  const struct tl_cuda_route_args *a = &t->a;
  uint32_t n = a->n * a->n_chosen, n_entries = 0, covered = 0, last = 0;
  uint32_t *expert_of = malloc((n + 1) * sizeof *expert_of);
  memset(expert_of, 0xff, (n + 1) * sizeof *expert_of);
  assert_true(*a->n_tiles <= tl_cuda_max_expert_tiles(n, a->n_local, a->tile_entries));
  for (uint32_t i = 0; i < *a->n_tiles; i++) {
    const struct tl_cuda_expert_tile *tile = &a->tiles[i];
    assert_int_equal(tile->first, covered);
    assert_true(tile->expert < a->n_local && (i == 0 || tile->expert >= last));
    assert_true(tile->n > 0 && tile->n <= a->tile_entries);
    if (i > 0 && tile->expert == last) assert_int_equal(tile[-1].n, a->tile_entries); /* only the last one is short */
    last = tile->expert;
    for (uint32_t k = 0; k < tile->n; k++) expert_of[covered++] = tile->expert;
  }
  for (uint32_t i = 0; i < n; i++) {
    uint32_t expert = a->chosen[i] - a->first_expert, place = a->places[i];
    if (a->tokens[i / a->n_chosen] == -1) assert_int_equal(place, TL_CUDA_NO_ENTRY);
    if (a->tokens[i / a->n_chosen] == -1 || expert >= a->n_local) {
      assert_int_equal(place, TL_CUDA_NO_ENTRY);
      continue;
    }
    n_entries++;
    assert_true(place < covered);
    assert_int_equal(expert_of[place], expert);
    expert_of[place] = UINT32_MAX; /* once */
    assert_int_equal(a->rows[place], i / a->n_chosen);
  }
  assert_int_equal(n_entries, covered);
  free(expert_of);
}

/* groups: how many, and how many are chosen from; NULL: none. */
static void check_routing(const struct routing *r, bool sigmoid, bool choice, const uint32_t *groups) {
  struct routed t;
  open_routing(r, &t);
  if (groups) t.a.n_groups = groups[0], t.a.n_groups_chosen = groups[1];
  t.a.sigmoid = sigmoid;
  t.a.choice = choice;
  t.a.factor = sigmoid || choice ? 1.75f : 1;
  assert_int_equal(op_run(tl_cuda_route(&t.a, NULL)), 0);
  for (uint32_t row = 0; row < r->n; row++)
    if (t.tokens[row] != -1) (sigmoid || choice ? check_shares : check_row)(&t, row);
  check_entries(&t);
  close_routing(&t);
}

static void test_routing(void **state) {
  (void)state;
  const struct routing all[] = {
      {1, 128, 8, 0, 128, 8, 1, false, false}, {5, 5, 2, 0, 5, 8, 0, true, false},   {64, 8, 2, 0, 8, 64, 1, false, true},
      {65, 32, 4, 0, 32, 8, 1, true, false},   {200, 60, 4, 0, 60, 64, 0, false, true}, {7, 7, 7, 0, 7, 8, 0, true, true},
      {33, 1024, 64, 0, 1024, 8, 1, false, true}, {20, 12, 3, 4, 4, 8, 1, false, false}, {90, 9, 2, 6, 3, 64, 0, true, true},
      {3, 1, 1, 0, 1, 8, 0, false, false},      {4, 6, 1, 5, 1, 8, 1, false, false},
  };
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) check_routing(&all[i], false, false, NULL);
  const struct routing shares[] = {{9, 128, 8, 0, 128, 8, 1, true, false}, {80, 31, 3, 0, 31, 64, 0, false, false},
                                     {4, 12, 12, 4, 4, 8, 1, true, false}};
  for (unsigned i = 0; i < 2 * UNIT_COUNT(shares); i++) check_routing(&shares[i / 2], i % 2, !(i % 2), NULL);
  const struct routing grouped[] = {{9, 256, 8, 0, 256, 8, 1, true, false}, {70, 12, 4, 4, 4, 8, 0, false, false}, {3, 64, 2, 0, 64, 8, 1, true, true}};
  const uint32_t groups[][2] = {{8, 4}, {4, 2}, {32, 1}};
  for (unsigned i = 0; i < UNIT_COUNT(grouped); i++)
    for (unsigned sigmoid = 0; sigmoid < 2; sigmoid++) check_routing(&grouped[i], sigmoid, false, groups[i]);
}

/* Each of two shares is of a softmax over what is left and about as good. */
static void test_mixed_shares(void **state) {
  (void)state;
  const struct routing all[] = {{9, 16, 2, 0, 16, 8, 0, false, false}, {70, 40, 2, 8, 16, 64, 0, false, true}, {5, 2, 2, 0, 2, 8, 0, false, false}};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) {
    struct routed t;
    open_routing(&all[i], &t);
    t.a.mixed = 1;
    t.a.limit = 0.6f;
    assert_int_equal(op_run(tl_cuda_route(&t.a, NULL)), 0);
    for (uint32_t row = 0; row < t.a.n; row++) {
      const float *scores = t.scores + (size_t)row * t.a.ld;
      const uint32_t *chosen = t.a.chosen + 2 * row;
      for (uint32_t k = 0; k < 2 && t.tokens[row] != -1; k++) {
        float most = scores[chosen[k]];
        double total = 0;
        for (uint32_t e = 0; e < t.a.n_experts; e++) {
          if (k == 1 && e == chosen[0]) continue;
          assert_true(scores[e] < most || e == chosen[k] || (scores[e] <= most && e > chosen[k]));
          if (!(most - scores[e] > t.a.limit * fmaxf(fabsf(scores[e]), most))) total += exp((double)(scores[e] - most));
        }
        assert_true(fabs((double)t.a.shares[2 * row + k] - 1 / total) < 2e-6);
      }
    }
    check_entries(&t);
    close_routing(&t);
  }
}

/* Scores that are no numbers, or infinite: the choices are experts all the same, each once, numbers first. */
static void test_odd_scores(void **state) {
  (void)state;
  const struct routing r = {3, 40, 3, 0, 40, 8, 1, false, false};
  struct routed t;
  open_routing(&r, &t);
  memset(t.tokens, 0, r.n * sizeof *t.tokens);
  for (uint32_t e = 0; e < 40; e++) {
    t.scores[e] = NAN;
    t.scores[t.a.ld + e] = e == 33 ? -INFINITY : NAN;
    t.scores[2 * t.a.ld + e] = e == 7 ? 0.0f : e == 9 ? -0.0f : -1;
  }
  assert_int_equal(op_run(tl_cuda_route(&t.a, NULL)), 0);
  const uint32_t want[] = {0, 1, 2, 33, 0, 1, 7, 9, 0};
  assert_memory_equal(t.a.chosen, want, sizeof want);
  assert_true(isnan(t.a.shares[0]));
  assert_true(t.a.shares[6] == t.a.shares[7] && t.a.shares[6] > t.a.shares[8]);
  check_entries(&t);
  close_routing(&t);
}

/* --- products ------------------------------------------------------------------------------------- */

struct products {
  int dtype, format, gate;
  uint32_t n, k, tile_entries;
  uint32_t n_tiles, counts[4]; /* of tiles that are there */
  bool gathered, bias;
  uint32_t n_blocks;
};

/* Beside the kinds of gates: no gate, and the square of what is above 0. */
enum { SQUARED = -1 };

static double act(const struct tl_cuda_experts_args *a, double gate, double up) {
  double limit = (double)a->limit;
  if (a->gate == TL_CUDA_EXPERT_SILU) return gate / (1 + exp(-gate)) * up;
  gate = fmin(gate, limit);
  return gate / (1 + exp(-1.702 * gate)) * (fmin(fmax(up, -limit), limit) + 1);
}

struct sum {
  double value, terms; /* terms: how far it may be off by them */
};

static struct sum sum_of(const struct tl_cuda_experts_args *a, const struct stored *w, uint32_t expert, uint32_t output, uint32_t entry) {
  uint32_t rows = a->gate ? 2 * a->n : a->n;
  const uint16_t *x = (const uint16_t *)a->x + (size_t)(a->rows ? a->rows[entry] : entry) * a->k;
  struct sum s = {a->bias ? (double)a->bias[(size_t)expert * rows + output] : 0, 0};
  for (uint32_t k = 0; k < a->k; k++) {
    double term = stored_value(w, (size_t)expert * rows + output, k) * op_unpack(a->dtype, x[k]);
    s.value += term;
    s.terms += term * term;
  }
  /* scaled integers are rounded to the type, which errs as a random walk; so are blocks of E4M3 in large tiles */
  bool sums = a->format == TL_CUDA_WE4M3_BLOCKS && a->tile_entries == TL_CUDA_FEW_ENTRIES;
  bool exact = a->format == TL_CUDA_W16 || a->format == TL_CUDA_WE4M3 || sums || a->format == TL_CUDA_WMXFP4;
  s.terms = sqrt(s.terms) * (exact ? 2e-6 : 6 * (double)op_epsilon(a->dtype));
  return s;
}

static void check_entry(const struct tl_cuda_experts_args *a, const struct stored *w, uint32_t expert, uint32_t entry) {
  const uint16_t *out = (const uint16_t *)a->out + (size_t)entry * a->n;
  for (uint32_t i = 0; i < a->n; i++) {
    struct sum s = sum_of(a, w, expert, i, entry);
    double want = s.value, error = s.terms;
    if (a->gate) { /* whose slope is below 1.2 times the other's value, and 1 more */
      struct sum up = sum_of(a, w, expert, a->n + i, entry);
      want = act(a, s.value, up.value);
      error = (1e-6 + 1.2 * s.terms) * (1 + fabs(up.value)) + (1e-6 + up.terms) * (1 + fabs(s.value));
    }
    if (a->relu2) { /* whose slope is twice the value */
      want = fmax(s.value, 0) * fmax(s.value, 0);
      error = 2 * (1e-6 + s.terms) * (1e-6 + s.terms + fabs(s.value));
    }
    double got = op_unpack(a->dtype, out[i]);
    if (!(fabs(got - want) <= error + 1e-5 + (double)op_epsilon(a->dtype) * fabs(want)))
      fail_msg("entry %u, output %u: %.9g, not %.9g", entry, i, got, want);
  }
}

/* Tiles of experts 2, 0, 2, 1 ...; entries behind each other, with rows in no order. */
static void check_products(const struct products *p) {
  enum { EXPERTS = 3, ROWS = 50 };
  static const uint32_t experts[] = {2, 0, 2, 1};
  uint32_t per = p->gate > 0 ? 2 * p->n : p->n, n_entries = 0, max_tiles = p->n_tiles + 2;
  struct tl_cuda_expert_tile *tiles = op_poisoned(max_tiles * sizeof *tiles);
  for (uint32_t i = 0; i < p->n_tiles; i++) {
    tiles[i] = (struct tl_cuda_expert_tile){experts[i], n_entries, p->counts[i]};
    n_entries += p->counts[i];
  }
  uint32_t *rows = op_alloc((n_entries + 1) * sizeof *rows), *n_tiles = op_copy(&p->n_tiles, sizeof p->n_tiles);
  for (uint32_t i = 0; i < n_entries; i++) rows[i] = unit_below(&op_random, ROWS);
  uint16_t *x = op_halves(p->dtype, (size_t)(p->gathered ? ROWS : n_entries + 1) * p->k, 0.5f); /* gated, F16 holds them */
  struct stored w = {.dtype = p->dtype, .format = p->format, .n = EXPERTS * per, .k = p->k};
  fill_stored(&w);
  float *bias = op_floats((size_t)EXPERTS * per, 1);
  uint16_t *out = op_poisoned((size_t)(n_entries + 1) * p->n * 2);
  struct tl_cuda_experts_args a = {.dtype = p->dtype, .format = p->format, .gate = p->gate > 0 ? p->gate : TL_CUDA_EXPERT_PLAIN,
                                   .relu2 = p->gate == SQUARED, .limit = 1.5f, .tile_entries = p->tile_entries, .max_tiles = max_tiles,
                                   .n_blocks = p->n_blocks, .n = p->n, .k = p->k, .tiles = tiles,
                                   .n_tiles = n_tiles, .rows = p->gathered ? rows : NULL, .x = x, .weight = w.weight,
                                   .scales = w.scales, .bias = p->bias ? bias : NULL, .out = out};
  assert_int_equal(op_run(tl_cuda_experts(&a, NULL)), 0);
  for (uint32_t i = 0; i < p->n_tiles; i++)
    for (uint32_t k = 0; k < p->counts[i]; k++) check_entry(&a, &w, tiles[i].expert, tiles[i].first + k);
  for (uint32_t i = 0; i < p->n; i++) assert_int_equal(out[(size_t)n_entries * p->n + i], UINT16_MAX); /* behind the last entry */
  free_stored(&w);
  void *const all[] = {tiles, rows, n_tiles, x, bias, out};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) op_free(all[i]);
}

enum { PLAIN = TL_CUDA_EXPERT_PLAIN, SILU = TL_CUDA_EXPERT_SILU, CLAMPED = TL_CUDA_EXPERT_CLAMPED, W16 = TL_CUDA_W16 };

static void test_few_entries(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    int d = op_dtypes[t];
    const struct products all[] = {
        {d, W16, PLAIN, 40, 1096, 8, 4, {1, 8, 3, 5}, false, false, 20}, {d, W16, PLAIN, 8, 8, 8, 1, {7}, true, true, 1},
        {d, W16, SILU, 24, 264, 8, 3, {8, 1, 2}, true, false, 1},        {d, W16, SILU, 16, 2056, 8, 2, {4, 6}, true, true, 3},
        {d, W16, CLAMPED, 24, 64, 8, 4, {2, 8, 8, 1}, true, true, 2},    {d, W16, CLAMPED, 8, 48, 8, 0, {0}, true, true, 2},
        {d, W16, SQUARED, 40, 328, 8, 3, {8, 1, 5}, true, false, 2},     {d, W16, SQUARED, 8, 40, 8, 2, {3, 8}, true, true, 1},
    };
    for (unsigned i = 0; i < UNIT_COUNT(all); i++) check_products(&all[i]);
  }
}

static void test_many_entries(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    int d = op_dtypes[t];
    const struct products all[] = {
        {d, W16, PLAIN, 136, 104, 64, 3, {64, 33, 1}, false, false, 1}, {d, W16, PLAIN, 8, 8, 64, 2, {7, 64}, true, true, 1},
        {d, W16, SILU, 72, 264, 64, 4, {64, 17, 64, 2}, true, false, 1}, {d, W16, SILU, 64, 32, 64, 2, {40, 64}, true, true, 3},
        {d, W16, CLAMPED, 40, 128, 64, 2, {50, 64}, true, true, 1},      {d, W16, CLAMPED, 8, 40, 64, 0, {0}, true, true, 2},
        {d, W16, SQUARED, 136, 104, 64, 3, {64, 33, 1}, true, false, 1}, {d, W16, SQUARED, 24, 40, 64, 2, {7, 64}, true, true, 2},
    };
    for (unsigned i = 0; i < UNIT_COUNT(all); i++) check_products(&all[i]);
  }
}

/* In each format that experts may have, with a gate and without one. */
static void check_formats(uint32_t tile_entries, uint32_t count) {
  for (int format = TL_CUDA_WE4M3; format <= TL_CUDA_WMXFP4; format++)
    for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
      int d = op_dtypes[t];
      if (format == TL_CUDA_WMXFP4 && d != TL_CUDA_BF16) continue;
      const struct products all[] = {
          {d, format, PLAIN, 136, stored_k(format, 160), tile_entries, 3, {count, 1, tile_entries}, false, true, 2},
          {d, format, SILU, 24, stored_k(format, 1184), tile_entries, 2, {2, count}, true, false, 1},
          {d, format, SQUARED, 72, stored_k(format, 160), tile_entries, 2, {count, 3}, true, false, 1},
          {d, format, CLAMPED, 72, stored_k(format, 32), tile_entries, 2, {1, count}, true, true, 1},
      };
      for (unsigned i = 0; i < UNIT_COUNT(all); i++) check_products(&all[i]);
    }
}

static void test_formats(void **state) {
  (void)state;
  check_formats(TL_CUDA_FEW_ENTRIES, 5);
  check_formats(TL_CUDA_MANY_ENTRIES, 37);
}

/* Every code by every exponent: each an expert of one weight that counts. */
static void test_mxfp4_values(void **state) {
  (void)state;
  for (uint32_t entries = TL_CUDA_FEW_ENTRIES; entries <= TL_CUDA_MANY_ENTRIES; entries += TL_CUDA_MANY_ENTRIES - TL_CUDA_FEW_ENTRIES) {
    struct stored w = {.dtype = TL_CUDA_BF16, .format = TL_CUDA_WMXFP4, .n = 256, .k = 512};
    fill_stored(&w);
    for (uint32_t i = 0; i < 256; i++)
      for (uint32_t k = 0; k < 512; k += 32) { /* code k / 32 with exponent i stands at k, all else of the block is zero */
        uint8_t *block = w.weight + (i * 512 + k) / 2;
        memset(block, 0, 16);
        block[0] = (uint8_t)(k / 32);
        ((uint8_t *)w.scales)[(i * 512 + k) / 32] = (uint8_t)i;
      }
    for (uint32_t code = 0; code < 16; code++) {
      struct tl_cuda_expert_tile tile = {0, 0, 1}, *tiles = op_copy(&tile, sizeof tile);
      uint32_t one = 1, *n_tiles = op_copy(&one, sizeof one);
      uint16_t *x = memset(op_alloc(1024), 0, 1024), *out = op_poisoned(512);
      x[code * 32] = tl_f32_to_bf16(1);
      struct tl_cuda_experts_args a = {.dtype = TL_CUDA_BF16, .format = w.format, .tile_entries = entries, .max_tiles = 1, .n_blocks = 1,
                                       .n = 256, .k = 512, .tiles = tiles, .n_tiles = n_tiles, .x = x, .weight = w.weight,
                                       .scales = w.scales, .out = out};
      assert_int_equal(op_run(tl_cuda_experts(&a, NULL)), 0);
      for (uint32_t i = 1; i < 250; i++) { /* what is left out is no number for some of the codes, or has fewer bits */
        double want = stored_value(&w, i, code * 32), got = tl_bf16_to_f32(out[i]);
        if (got != want) fail_msg("code %u, exponent %u: %g, not %g", code, i, got, want);
      }
      void *const all[] = {tiles, n_tiles, x, out};
      for (unsigned i = 0; i < UNIT_COUNT(all); i++) op_free(all[i]);
    }
    free_stored(&w);
  }
}

/* --- sums -------------------------------------------------------------------------------------------- */

enum added { NOTHING, GATED, WHOLE };

static void check_mix(int dtype, uint32_t n, uint32_t dim, uint32_t n_chosen, enum added added) {
  uint32_t n_choices = n * n_chosen, ld = 3;
  uint16_t *y = op_halves(dtype, (size_t)n_choices * dim, 2), *out = op_poisoned((size_t)n * dim * 2), *before;
  float *shares = op_floats(n_choices, 1), *gates = op_floats((size_t)n * ld, 3);
  uint32_t *places = op_alloc(n_choices * sizeof *places);
  for (uint32_t i = 0; i < n_choices; i++) places[i] = unit_below(&op_random, 4) ? (i * 7 + 3) % n_choices : TL_CUDA_NO_ENTRY;
  for (uint32_t i = 0; i < n_chosen; i++) places[i] = TL_CUDA_NO_ENTRY; /* padding */
  for (size_t i = 0; added && i < (size_t)n * dim; i++) out[i] = op_pack(dtype, op_number(2));
  before = op_copy(out, (size_t)n * dim * 2);
  struct tl_cuda_mix_args a = {.dtype = dtype, .n = n, .dim = dim, .n_chosen = n_chosen, .places = places, .shares = shares, .y = y,
                               .whole = added != NOTHING, .gates = added == GATED ? gates : NULL, .ld = ld, .out = out};
  if (added == GATED && dim % 16 == 0) a.shares = NULL; /* all are 1 */
  assert_int_equal(op_run(tl_cuda_mix(&a, NULL)), 0);
  for (uint32_t row = 0; row < n; row++)
    for (uint32_t k = 0; k < dim; k++) {
      size_t at = (size_t)row * dim + k;
      double factor = added == GATED ? 1 / (1 + exp(-(double)gates[row * ld])) : 1;
      double want = added ? op_unpack(dtype, before[at]) * factor : 0, terms = fabs(want);
      for (uint32_t i = row * n_chosen; i < (row + 1) * n_chosen; i++) {
        if (places[i] == TL_CUDA_NO_ENTRY) continue;
        double part = (a.shares ? (double)shares[i] : 1) * op_unpack(dtype, y[(size_t)places[i] * dim + k]);
        want += part;
        terms += fabs(part);
      }
      double got = op_unpack(dtype, out[at]);
      if (!(fabs(got - want) <= 1e-6 * terms + (double)op_epsilon(dtype) * fabs(want) + 1e-7))
        fail_msg("row %u, element %u: %.9g, not %.9g", row, k, got, want);
    }
  void *const all[] = {y, out, before, shares, gates, places};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) op_free(all[i]);
}

static void test_mix(void **state) {
  (void)state;
  for (unsigned t = 0; t < UNIT_COUNT(op_dtypes); t++) {
    check_mix(op_dtypes[t], 5, 40, 3, NOTHING);
    check_mix(op_dtypes[t], 6, 48, 2, WHOLE);
    check_mix(op_dtypes[t], 70, 64, 8, GATED);
    check_mix(op_dtypes[t], 3, 8, 1, GATED);
  }
}

static void test_refused_shapes(void **state) {
  (void)state;
  const struct tl_cuda_route_args routes[] = {
      {.n = 1, .n_experts = 4, .n_chosen = 5, .n_local = 4, .tile_entries = 8, .ld = 4},
      {.n = 1, .n_experts = 4, .n_chosen = 0, .n_local = 4, .tile_entries = 8, .ld = 4},
      {.n = 1, .n_experts = 4, .n_chosen = 1, .n_local = 4, .tile_entries = 8, .ld = 3},
      {.n = 1, .n_experts = 4, .n_chosen = 1, .n_local = 5, .tile_entries = 8, .ld = 4},
      {.n = 1, .n_experts = 4, .n_chosen = 1, .n_local = 2, .first_expert = 3, .tile_entries = 8, .ld = 4},
      {.n = 1, .n_experts = 4, .n_chosen = 1, .n_local = 4, .ld = 4},
      {.n = UINT32_MAX, .n_experts = 4, .n_chosen = 2, .n_local = 4, .tile_entries = 8, .ld = 4},
      {.n = 1, .n_experts = 1025, .n_chosen = 1, .n_local = 4, .tile_entries = 8, .ld = 1025},
  };
  for (unsigned i = 0; i < UNIT_COUNT(routes); i++) assert_int_equal(tl_cuda_route(&routes[i], NULL), 1);
  const struct tl_cuda_experts_args products[] = {
      {.n = 12, .k = 8, .tile_entries = 8, .n_blocks = 1, .max_tiles = 1},
      {.n = 8, .k = 12, .tile_entries = 8, .n_blocks = 1, .max_tiles = 1},
      {.n = 8, .k = 8, .tile_entries = 16, .n_blocks = 1, .max_tiles = 1},
      {.n = 8, .k = 8, .tile_entries = 8, .n_blocks = 0, .max_tiles = 1},
      {.n = 8, .k = 16, .tile_entries = 8, .n_blocks = 1, .max_tiles = 1, .format = TL_CUDA_WINT8},
      {.n = 8, .k = 16, .tile_entries = 64, .n_blocks = 1, .max_tiles = 1, .format = TL_CUDA_WINT8},
      {.n = 8, .k = 8, .tile_entries = 64, .n_blocks = 1, .max_tiles = 1, .format = TL_CUDA_WE4M3},
      {.n = 8, .k = 32, .tile_entries = 8, .n_blocks = 1, .max_tiles = 1, .format = TL_CUDA_WMXFP4, .dtype = TL_CUDA_F16},
      {.n = 8, .k = 32, .tile_entries = 8, .n_blocks = 1, .max_tiles = 1, .format = TL_CUDA_WMXFP4 + 1},
  };
  for (unsigned i = 0; i < UNIT_COUNT(products); i++) assert_int_equal(tl_cuda_experts(&products[i], NULL), 1);
  assert_int_equal(tl_cuda_experts(&(struct tl_cuda_experts_args){.n = 8, .k = 8, .tile_entries = 8, .n_blocks = 1}, NULL), 0);
  assert_int_equal(tl_cuda_mix(&(struct tl_cuda_mix_args){.n = 1, .dim = 12}, NULL), 1);
  assert_int_equal(tl_cuda_mix(&(struct tl_cuda_mix_args){.n = 0, .dim = 16}, NULL), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_routing), cmocka_unit_test(test_mixed_shares),      cmocka_unit_test(test_odd_scores), cmocka_unit_test(test_few_entries),
      cmocka_unit_test(test_many_entries), cmocka_unit_test(test_formats),    cmocka_unit_test(test_mxfp4_values),
      cmocka_unit_test(test_mix),        cmocka_unit_test(test_refused_shapes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
