/* SPDX-License-Identifier: MIT */
/* The kernels of layers that keep a state on fibers, against sums in double: convolutions, the delta rule, gates. Sequences of a step
 * begin with nothing, with a state of their own, with one that others begin with too, and leave theirs there or elsewhere. */
#include <float.h>

#include "op_unit.h"

#include "device/cuda/ops/cuda_delta.h"

enum { MAX_STRETCHES = 8, N_STATES = 9 };
static const uint32_t NONE = TL_NO_STATE;

/* Where each of a step's sequences begins and ends. */
struct shape {
  uint32_t n, rows[MAX_STRETCHES], from[MAX_STRETCHES], to[MAX_STRETCHES];
};

static const struct shape shapes[] = {
    {1, {1}, {TL_NO_STATE}, {3}},
    {4, {1, 1, 1, 1}, {2, TL_NO_STATE, 2, 5}, {7, 0, 4, 5}},                             /* decodes, one from a state as it is */
    {6, {200, 1, 2, 33, 0, 17}, {TL_NO_STATE, 1, 1, 8, 6, 4}, {6, 3, 2, 8, 7, TL_NO_STATE}}, /* chunks, and one that leaves nothing */
    {3, {3, 96, 1}, {5, 5, TL_NO_STATE}, {1, 2, TL_NO_STATE}},
};

struct lists {
  struct tl_cuda_stretch *stretches;
  struct tl_cuda_conv_tile *tiles;
  uint32_t n_rows, n_tiles;
};

static struct lists lists_of(const struct shape *s) {
  uint32_t start[MAX_STRETCHES + 1] = {0};
  for (uint32_t i = 0; i < s->n; i++) start[i + 1] = start[i] + s->rows[i];
  struct tl_step step = {.n_tokens = start[s->n], .n_seqs = s->n, .query_start = start, .state_from = s->from, .state_to = s->to};
  struct lists l = {.n_rows = step.n_tokens};
  l.stretches = op_poisoned(s->n * sizeof *l.stretches);
  l.tiles = op_poisoned(tl_cuda_max_conv_tiles(l.n_rows, s->n) * sizeof *l.tiles);
  l.n_tiles = tl_cuda_plan_stretches(&step, step.n_tokens, s->n, l.stretches, l.tiles);
  return l;
}

static void free_lists(struct lists *l) {
  op_free(l->stretches);
  op_free(l->tiles);
}

/* States that no sequence of the step begins with are poison. */
static bool is_read(const struct shape *s, uint32_t state) {
  for (uint32_t i = 0; i < s->n; i++)
    if (s->from[i] == state && s->rows[i]) return true;
  return false;
}

/* Of the sequence that leaves one there; s->n: none does. */
static uint32_t writer_of(const struct shape *s, uint32_t state) {
  uint32_t i = 0;
  while (i < s->n && (s->to[i] != state || s->rows[i] == 0)) i++;
  return i;
}

/* --- convolutions ----------------------------------------------------------------------------- */

struct conv_case {
  int dtype;
  bool gated, biased;
  uint32_t n_channels, conv;
};

/* u of a row of a sequence: below 0 from the state before. */
static double u_of(const struct conv_case *c, const uint16_t *in, uint32_t ld, const uint16_t *state, int64_t row, uint32_t channel) {
  if (row < 0) {
    int64_t kept = row + c->conv - 1;
    return state && kept >= 0 ? op_unpack(c->dtype, state[(size_t)kept * c->n_channels + channel]) : 0;
  }
  const uint16_t *at = in + (size_t)row * ld + channel;
  if (!c->gated) return op_unpack(c->dtype, *at);
  return op_unpack(c->dtype, op_pack(c->dtype, op_unpack(c->dtype, at[0]) * op_unpack(c->dtype, at[2 * (size_t)c->n_channels])));
}

static void check_conv(const struct conv_case *c, const struct shape *s, const struct lists *l, const struct tl_cuda_conv_args *args,
                       const uint16_t *before) {
  size_t of_state = (size_t)(c->conv - 1) * c->n_channels;
  for (uint32_t i = 0; i < s->n; i++) {
    const uint16_t *in = (const uint16_t *)args->in + (size_t)l->stretches[i].row * args->ld;
    const uint16_t *state = s->from[i] == NONE ? NULL : before + s->from[i] * of_state;
    for (uint32_t row = 0; row < s->rows[i]; row++)
      for (uint32_t ch = 0; ch < c->n_channels; ch++) {
        double sum = 0;
        for (uint32_t j = 0; j < c->conv; j++)
          sum += op_unpack(c->dtype, ((const uint16_t *)args->weight)[ch * c->conv + j]) *
                 u_of(c, in, args->ld, state, (int64_t)row - (c->conv - 1) + j, ch);
        if (args->bias) sum += (double)args->bias[ch];
        double z = c->gated ? op_unpack(c->dtype, in[(size_t)row * args->ld + c->n_channels + ch]) : 0;
        double want = c->gated ? z * sum : sum / (1 + exp(-sum));
        uint16_t got = ((const uint16_t *)args->out)[((size_t)l->stretches[i].row + row) * c->n_channels + ch];
        op_assert_near(c->dtype, op_unpack(c->dtype, got), want, 0.05, 1);
      }
  }
  for (uint32_t state = 0; state < N_STATES; state++) {
    uint32_t i = writer_of(s, state);
    const uint16_t *got = (const uint16_t *)args->states + state * of_state;
    if (i == s->n) {
      assert_memory_equal(got, before + state * of_state, of_state * 2);
      continue;
    }
    const uint16_t *in = (const uint16_t *)args->in + (size_t)l->stretches[i].row * args->ld;
    for (uint32_t kept = 0; kept + 1 < c->conv; kept++)
      for (uint32_t ch = 0; ch < c->n_channels; ch++) {
        double want = u_of(c, in, args->ld, s->from[i] == NONE ? NULL : before + s->from[i] * of_state,
                           (int64_t)s->rows[i] - (c->conv - 1) + kept, ch);
        assert_true((double)op_unpack(c->dtype, got[kept * c->n_channels + ch]) == want);
      }
  }
}

static void conv_of(const struct conv_case *c, const struct shape *s) {
  struct lists l = lists_of(s);
  uint32_t ld = (c->gated ? 3 : 1) * c->n_channels + 16;
  size_t of_state = (size_t)(c->conv - 1) * c->n_channels;
  uint16_t *before = op_poisoned(N_STATES * of_state * 2);
  for (uint32_t i = 0; i < N_STATES; i++)
    for (size_t k = 0; is_read(s, i) && k < of_state; k++) before[i * of_state + k] = op_pack(c->dtype, op_number(2));
  struct tl_cuda_conv_args args = {.dtype = c->dtype, .gated = c->gated, .n_channels = c->n_channels, .conv = c->conv, .ld = ld,
                                   .n_tiles = l.n_tiles, .max_rows = l.n_rows, .tiles = l.tiles, .stretches = l.stretches,
                                   .in = op_halves(c->dtype, (size_t)l.n_rows * ld, 2),
                                   .weight = op_halves(c->dtype, (size_t)c->n_channels * c->conv, 1),
                                   .bias = c->biased ? op_floats(c->n_channels, 1) : NULL, .states = op_copy(before, N_STATES * of_state * 2),
                                   .out = op_poisoned((size_t)l.n_rows * c->n_channels * 2)};
  assert_int_equal(op_run(tl_cuda_conv(&args, NULL)), 0);
  check_conv(c, s, &l, &args, before);
  void *all[] = {before, (void *)(uintptr_t)args.in, (void *)(uintptr_t)args.weight, (void *)(uintptr_t)args.bias, args.states, args.out};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++)
    if (all[i]) op_free(all[i]);
  free_lists(&l);
}

static void test_conv(void **state) {
  (void)state;
  static const struct conv_case cases[] = {
      {TL_CUDA_BF16, false, false, 72, 4}, {TL_CUDA_F16, false, false, 8, 2},   {TL_CUDA_BF16, true, true, 40, 3},
      {TL_CUDA_F16, true, false, 1032, 3}, {TL_CUDA_F16, false, false, 16, 1},  {TL_CUDA_BF16, false, true, 24, 4},
  };
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++)
    for (unsigned k = 0; k < UNIT_COUNT(shapes); k++) conv_of(&cases[i], &shapes[k]);
  struct tl_cuda_conv_args bad = {.n_channels = 8, .conv = 5, .ld = 8, .n_tiles = 1};
  assert_int_equal(tl_cuda_conv(&bad, NULL), 1);
}

/* --- the delta rule ----------------------------------------------------------------------------- */

struct delta_case {
  int dtype;
  bool by_chunks, turned; /* by_chunks: of stretches that are long enough */
  uint32_t n_key_heads, n_value_heads, key_dim, value_dim;
  float a_log; /* the most of it */
  bool scans;  /* by Mamba 2's rule */
  float gates; /* the most of b and c; 0: 3 */
  float keys;  /* the most of q and k, and steps are small; 0: 1 */
};

/* One column of S, and what it would be if nothing of it cancelled: of which what is rounded on the way is a part. */
struct column {
  double s[TL_CUDA_MAX_KEY_DIM], most[TL_CUDA_MAX_KEY_DIM];
};

/* exp(a_log) as far as floats go: where it is no float, a step of 0 still forgets nothing. */
static double rate_of(const struct tl_cuda_delta_args *args, uint32_t head) {
  return fmin(exp((double)args->a_log[head]), FLT_MAX);
}

static bool is_long(const struct delta_case *c, uint32_t n) {
  return c->by_chunks && n >= TL_CUDA_DELTA_CHUNK;
}

/* The next token of one column of S, by Mamba 2's rule. */
static double scan_token(const struct delta_case *c, const struct tl_cuda_delta_args *args, uint32_t row, uint32_t head, const uint16_t *q,
                         const uint16_t *k, double v, struct column *s, double *ret_most) {
  double x = op_unpack(c->dtype, ((const uint16_t *)args->b)[row * args->ld_gates + head]) + (double)args->dt[head];
  double step = log1p(exp(x)), decay = exp(-rate_of(args, head) * step), out = (double)args->skip[head] * v;
  *ret_most = fabs(out);
  for (uint32_t i = 0; i < c->key_dim; i++) {
    double add = op_unpack(c->dtype, k[i]) * step * v, of_q = op_unpack(c->dtype, q[i]);
    s->s[i] = s->s[i] * decay + add;
    s->most[i] = s->most[i] * decay + fabs(add);
    out += s->s[i] * of_q;
    *ret_most += s->most[i] * fabs(of_q);
  }
  return out;
}

/* By chunks S, Q K^T and V~ are rounded as factors, and scores once more. */
static void check_scanned(const struct delta_case *c, uint32_t n, double got, double want, double most) {
  if (!is_long(c, n)) op_assert_near(c->dtype, got, want, 0.05, 1);
  if (is_long(c, n) && !(fabs(got - want) <= (double)op_epsilon(c->dtype) * (fabs(want) + 2 * most))) fail_msg("%.9g, not %.9g, of up to %.9g", got, want, most);
}

/* One column of S of one head through a sequence's rows. */
static void run_column(const struct delta_case *c, const struct tl_cuda_delta_args *args, uint32_t first, uint32_t n, uint32_t head,
                       uint32_t column, struct column *of) {
  double *s = of->s;
  size_t ld = 2 * (size_t)c->n_key_heads * c->key_dim + (size_t)c->n_value_heads * c->value_dim;
  uint32_t key_head = c->turned ? head % c->n_key_heads : head / (c->n_value_heads / c->n_key_heads);
  for (uint32_t row = first; row < first + n; row++) {
    const uint16_t *u = (const uint16_t *)args->u + row * ld, *q = u + key_head * c->key_dim, *k = q + c->n_key_heads * c->key_dim;
    double v = op_unpack(c->dtype, u[2 * (size_t)c->n_key_heads * c->key_dim + head * c->value_dim + column]), qq = 1e-6, kk = 1e-6;
    for (uint32_t i = 0; i < c->key_dim; i++) {
      qq += (double)op_unpack(c->dtype, q[i]) * op_unpack(c->dtype, q[i]);
      kk += (double)op_unpack(c->dtype, k[i]) * op_unpack(c->dtype, k[i]);
    }
    uint16_t got = ((const uint16_t *)args->out)[((size_t)row * c->n_value_heads + head) * c->value_dim + column];
    if (c->scans) {
      double most, want = scan_token(c, args, row, head, q, k, v, of, &most);
      check_scanned(c, n, op_unpack(c->dtype, got), want, most);
      continue;
    }
    double b = op_unpack(c->dtype, ((const uint16_t *)args->b)[row * args->ld_gates + head]), beta = 1 / (1 + exp(-b));
    double x = op_unpack(c->dtype, ((const uint16_t *)args->c)[row * args->ld_gates + head]) + (double)args->dt[head];
    double decay = exp(-rate_of(args, head) * log1p(exp(x))), seen = 0, out = 0;
    for (uint32_t i = 0; i < c->key_dim; i++) seen += (s[i] *= decay) * op_unpack(c->dtype, k[i]) / sqrt(kk);
    for (uint32_t i = 0; i < c->key_dim; i++) {
      s[i] += op_unpack(c->dtype, k[i]) / sqrt(kk) * beta * (v - seen);
      out += s[i] * op_unpack(c->dtype, q[i]) / sqrt(qq) / sqrt(c->key_dim);
    }
    if (is_long(c, n)) /* S, and what is made on the way, are rounded as factors */
      op_assert_near(c->dtype, op_unpack(c->dtype, got), out, 0.5, 4);
    else
      op_assert_near(c->dtype, op_unpack(c->dtype, got), out, 0.01, 1);
  }
}

static void check_delta(const struct delta_case *c, const struct shape *s, const struct lists *l, const struct tl_cuda_delta_args *args,
                        const float *before) {
  size_t of_state = (size_t)c->n_value_heads * c->value_dim * c->key_dim;
  struct column column;
  for (uint32_t i = 0; i < s->n; i++)
    for (uint32_t head = 0; head < c->n_value_heads; head++)
      for (uint32_t j = 0; j < c->value_dim; j++) {
        size_t at = ((size_t)head * c->value_dim + j) * c->key_dim;
        for (uint32_t e = 0; e < c->key_dim; e++) {
          column.s[e] = s->from[i] == NONE ? 0 : (double)before[s->from[i] * of_state + at + e];
          column.most[e] = fabs(column.s[e]);
        }
        if (s->rows[i]) run_column(c, args, l->stretches[i].row, s->rows[i], head, j, &column);
        for (uint32_t e = 0; s->to[i] != NONE && s->rows[i] && e < c->key_dim; e++) {
          double got = (double)args->states[s->to[i] * of_state + at + e], most = 2e-4;
          if (is_long(c, s->rows[i])) most = c->scans ? 2e-4 + (double)op_epsilon(c->dtype) * column.most[e] : 2 * (double)op_epsilon(c->dtype);
          if (c->scans) most += 2e-4 * fabs(column.s[e]);
          if (!(fabs(got - column.s[e]) <= most)) fail_msg("S of %u, head %u is %.9g, not %.9g", i, head, got, column.s[e]);
        }
      }
  for (uint32_t state = 0; state < N_STATES; state++)
    if (writer_of(s, state) == s->n) assert_memory_equal(args->states + state * of_state, before + state * of_state, of_state * sizeof *before);
}

static void run_long(struct tl_cuda_delta_args *args, uint32_t n, uint32_t n_rows) {
  uint32_t most = tl_cuda_max_delta_chunks(n_rows, n), n_long;
  struct tl_cuda_conv_tile *chunks = op_poisoned(most * sizeof *chunks), *longs = op_poisoned(n * sizeof *longs);
  uint32_t n_chunks = tl_cuda_plan_long(args->stretches, n, chunks, longs, &n_long);
  assert_true(n_chunks <= most);
  struct tl_cuda_delta_long_args by_chunks = {
      .delta = *args, .n_chunks = n_chunks, .n_long = n_long, .chunks = chunks, .longs = longs,
      .matrices = op_poisoned((size_t)n_chunks * 2 * (args->skip ? args->n_key_heads * TL_CUDA_SCAN_MATRICES : args->n_value_heads * TL_CUDA_DELTA_MATRICES)),
      .factors = op_poisoned((size_t)n_chunks * args->n_value_heads * TL_CUDA_DELTA_FACTORS * sizeof(float))};
  assert_int_equal(op_run(tl_cuda_delta_long(&by_chunks, NULL)), 0);
  args->most_rows = TL_CUDA_DELTA_CHUNK - 1;
  op_free(chunks);
  op_free(longs);
  op_free(by_chunks.matrices);
  op_free(by_chunks.factors);
}

/* q, k and v. */
static uint16_t *channels_of(const struct delta_case *c, uint32_t n_rows) {
  uint32_t of_keys = 2 * c->n_key_heads * c->key_dim, ld = of_keys + c->n_value_heads * c->value_dim;
  uint16_t *u = op_halves(c->dtype, (size_t)n_rows * ld, 1);
  for (size_t i = 0; i < (size_t)n_rows * ld && c->keys > 0; i++)
    if (i % ld < of_keys) u[i] = op_pack(c->dtype, op_unpack(c->dtype, u[i]) * c->keys);
  return u;
}

static void delta_of(const struct delta_case *c, const struct shape *s) {
  struct lists l = lists_of(s);
  size_t of_state = (size_t)c->n_value_heads * c->value_dim * c->key_dim;
  uint32_t ld_gates = 2 * c->n_value_heads + 3;
  float *before = op_poisoned(N_STATES * of_state * sizeof *before);
  for (uint32_t i = 0; i < N_STATES; i++)
    for (size_t k = 0; is_read(s, i) && k < of_state; k++) before[i * of_state + k] = op_number(1);
  uint16_t *gates = op_halves(c->dtype, (size_t)l.n_rows * ld_gates, c->gates > 0 ? c->gates : 3);
  float *rates = op_floats(c->n_value_heads, 1), *dt = op_floats(c->n_value_heads, 1);
  for (uint32_t i = 0; i < c->n_value_heads; i++) {
    rates[i] += c->a_log - 1;
    if (c->keys > 0) dt[i] -= 8;
  }
  struct tl_cuda_delta_args args = {.dtype = c->dtype, .turned = c->turned, .n_key_heads = c->n_key_heads, .n_value_heads = c->n_value_heads,
                                    .key_dim = c->key_dim, .value_dim = c->value_dim, .ld_gates = ld_gates, .n_stretches = s->n, .scale = 1 / sqrtf((float)c->key_dim),
                                    .max_rows = l.n_rows, .stretches = l.stretches, .u = channels_of(c, l.n_rows), .b = gates,
                                    .c = gates + c->n_value_heads, .a_log = rates, .dt = dt,
                                    .skip = c->scans ? op_floats(c->n_value_heads, 1) : NULL,
                                    .states = op_copy(before, N_STATES * of_state * sizeof *before),
                                    .out = op_poisoned((size_t)l.n_rows * c->n_value_heads * c->value_dim * 2)};
  if (c->by_chunks) run_long(&args, s->n, l.n_rows);
  assert_int_equal(op_run(tl_cuda_delta(&args, NULL)), 0);
  check_delta(c, s, &l, &args, before);
  void *all[] = {before, gates, rates, dt, (void *)(uintptr_t)args.u, (void *)(uintptr_t)args.skip, args.states, args.out};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++)
    if (all[i]) op_free(all[i]);
  free_lists(&l);
}

static void test_delta(void **state) {
  (void)state;
  static const struct delta_case cases[] = {
      {TL_CUDA_BF16, false, false, 2, 4, 24, 40, 0, false, 0, 0},   /* a last block of columns that is not whole */
      {TL_CUDA_F16, false, true, 3, 6, 16, 8, -2, false, 0, 0},     /* slow decays */
      {TL_CUDA_F16, false, false, 1, 1, 128, 32, 2.5, false, 0, 0}, /* fast ones */
      {TL_CUDA_BF16, false, true, 1, 2, 136, 16, 0, false, 0, 0},
      {TL_CUDA_BF16, true, false, 2, 4, 24, 40, 0, false, 0, 0},
      {TL_CUDA_F16, true, true, 3, 6, 16, 8, -4, false, 0, 0},
      {TL_CUDA_F16, true, false, 1, 1, 128, 32, 2.5, false, 0, 0},
      {TL_CUDA_F16, true, false, 1, 2, 120, 72, -1, false, 0, 0},
      {TL_CUDA_F16, false, false, 1, 2, 128, 64, -1, true, 0, 0},
      {TL_CUDA_BF16, false, false, 2, 4, 24, 40, 0, true, 0, 0},
      {TL_CUDA_F16, false, false, 1, 3, 136, 16, 1, true, 0, 0},
      {TL_CUDA_F16, true, false, 1, 2, 128, 64, -1, true, 0, 0},  /* as published models have them */
      {TL_CUDA_BF16, true, false, 1, 17, 16, 8, 0, true, 0, 0},   /* more heads than a block makes factors of */
      {TL_CUDA_BF16, true, false, 2, 4, 24, 40, -3, true, 0, 0},
      {TL_CUDA_F16, true, true, 3, 6, 72, 16, 2, true, 0, 0},
      {TL_CUDA_F16, true, false, 2, 4, 256, 24, 1, true, 0, 0},
      {TL_CUDA_BF16, true, false, 1, 2, 136, 40, -1, true, 0, 0},
      {TL_CUDA_F16, true, false, 1, 2, 16, 8, 5, true, 12, 0},    /* what is forgotten at once beside what stays */
      {TL_CUDA_F16, true, false, 1, 2, 16, 8, 5, false, 12, 0},
      {TL_CUDA_BF16, true, false, 1, 2, 16, 8, 100, true, 120, 0}, /* exp(a_log) is no float, and steps may be 0 */
      {TL_CUDA_BF16, true, false, 1, 2, 16, 8, 100, false, 120, 0},
      {TL_CUDA_F16, true, false, 1, 2, 128, 8, 0, true, 0, 181},     /* Q K^T beyond what F16 has */
  };
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++)
    for (unsigned k = 0; k < UNIT_COUNT(shapes); k++) delta_of(&cases[i], &shapes[k]);
  struct tl_cuda_delta_args bad = {.n_key_heads = 2, .n_value_heads = 3, .key_dim = 8, .value_dim = 8, .n_stretches = 1};
  assert_int_equal(tl_cuda_delta(&bad, NULL), 1);
  bad.n_value_heads = 4;
  bad.key_dim = 264;
  assert_int_equal(tl_cuda_delta(&bad, NULL), 1);
  bad.key_dim = 136;
  assert_int_equal(tl_cuda_delta_long(&(struct tl_cuda_delta_long_args){.delta = bad, .n_chunks = 1, .n_long = 1}, NULL), 1);
}

/* --- gates ---------------------------------------------------------------------------------------- */

/* gate_first: before the norm, and weights are of each head. */
static void gated_norm_of(int dtype, bool gate_first, uint32_t n, uint32_t heads, uint32_t dim, uint32_t width) {
  uint32_t ld = heads * dim + 24;
  uint16_t *z = op_halves(dtype, (size_t)n * ld, 4), *x = op_halves(dtype, (size_t)n * heads * dim, 2), *before;
  for (uint32_t i = 0; i < n * heads * dim; i++)
    if (i % dim >= width) x[i] = 0;
  before = op_copy(x, (size_t)n * heads * dim * 2);
  float *weights = op_floats(gate_first ? heads * dim : dim, 2);
  struct tl_cuda_gated_norm_args args = {.dtype = dtype, .gate_first = gate_first, .n = n, .n_heads = heads, .head_dim = dim, .width = width, .ld_z = ld,
                                         .eps = 1e-6f, .z = z, .weight = weights, .x = x};
  assert_int_equal(op_run(tl_cuda_gated_norm(&args, NULL)), 0);
  for (uint32_t i = 0; i < n * heads; i++) {
    const float *weight = gate_first ? weights + i % heads * dim : weights;
    double sum = 0, had[2056], gates[2056];
    for (uint32_t k = 0; k < dim; k++) {
      double gate = op_unpack(dtype, z[(size_t)(i / heads) * ld + i % heads * dim + k]);
      had[k] = op_unpack(dtype, before[(size_t)i * dim + k]);
      gates[k] = gate / (1 + exp(-gate));
      sum += pow(gate_first ? had[k] * gates[k] : had[k], 2);
    }
    for (uint32_t k = 0; k < dim; k++)
      op_assert_near(dtype, op_unpack(dtype, x[(size_t)i * dim + k]), had[k] * gates[k] / sqrt(sum / width + 1e-6) * (double)weight[k], 0.05, 1);
  }
  void *all[] = {z, x, before, weights};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) op_free(all[i]);
}

/* One head in two parts, as ranks have them, of the second of three groups: what one has all of says what is right. */
static void parted_norm_of(int dtype, uint32_t n, uint32_t dim) {
  const uint32_t half = dim / 2, ld = dim + 8;
  uint16_t *z = op_halves(dtype, (size_t)n * ld, 4), *x = op_halves(dtype, (size_t)n * dim, 2), *parts[2];
  float *weight = op_floats(dim, 2), *squares[2];
  struct tl_cuda_gated_norm_args args = {.dtype = dtype, .gate_first = true, .n = n, .n_heads = 1, .head_dim = dim, .width = dim, .ld_z = ld,
                                         .eps = 1e-6f, .z = z, .weight = weight, .x = x};
  struct tl_cuda_gated_norm_args of[2] = {args, args};
  for (unsigned i = 0; i < 2; i++) {
    parts[i] = op_poisoned((size_t)n * half * 2);
    squares[i] = op_poisoned(n * 3 * sizeof(float));
    for (uint32_t row = 0; row < n; row++) memcpy(parts[i] + row * half, x + row * dim + i * half, half * 2);
    of[i].x = parts[i];
    of[i].squares = squares[i];
    of[i].z = z + i * half;
    of[i].weight = weight + i * half;
    of[i].head_dim = half;
    of[i].n_groups = 3;
    of[i].group = 1;
    of[i].measures = true;
    assert_int_equal(op_run(tl_cuda_gated_norm(&of[i], NULL)), 0);
    of[i].measures = false;
  }
  for (uint32_t i = 0; i < n * 3; i++) {
    if (i % 3 != 1) assert_true(squares[0][i] == 0 && squares[1][i] == 0);
    squares[0][i] = squares[1][i] = squares[0][i] + squares[1][i];
  }
  for (unsigned i = 0; i < 2; i++) assert_int_equal(op_run(tl_cuda_gated_norm(&of[i], NULL)), 0);
  assert_int_equal(op_run(tl_cuda_gated_norm(&args, NULL)), 0);
  for (uint32_t i = 0; i < n * dim; i++)
    op_assert_near(dtype, op_unpack(dtype, parts[i % dim / half][i / dim * half + i % half]), op_unpack(dtype, x[i]), 0.01, 2); /* both are rounded */
  of[0].n_heads = 2;
  assert_int_equal(tl_cuda_gated_norm(&of[0], NULL), 1);
  void *all[] = {z, x, weight, parts[0], parts[1], squares[0], squares[1]};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) op_free(all[i]);
}

static void test_gated_norm(void **state) {
  (void)state;
  for (unsigned i = 0; i < UNIT_COUNT(op_dtypes); i++) {
    gated_norm_of(op_dtypes[i], true, 3, 2, 40, 37);
    gated_norm_of(op_dtypes[i], true, 2, 1, 2056, 2056); /* more than a block has threads for */
    parted_norm_of(op_dtypes[i], 3, 48);
    parted_norm_of(op_dtypes[i], 2, 4112);
    gated_norm_of(op_dtypes[i], false, 3, 5, 40, 37);
    gated_norm_of(op_dtypes[i], false, 2, 1, 256, 256);
  }
}

static void test_gate(void **state) {
  (void)state;
  for (unsigned i = 0; i < UNIT_COUNT(op_dtypes); i++) {
    int dtype = op_dtypes[i];
    const uint32_t n = 7, dim = 328;
    uint16_t *z = op_halves(dtype, n * dim, 6), *x = op_halves(dtype, n * dim, 2), *before = op_copy(x, n * dim * 2);
    struct tl_cuda_gate_args args = {.dtype = dtype, .n = n, .dim = dim, .z = z, .x = x};
    assert_int_equal(op_run(tl_cuda_gate(&args, NULL)), 0);
    for (uint32_t k = 0; k < n * dim; k++)
      op_assert_near(dtype, op_unpack(dtype, x[k]), op_unpack(dtype, before[k]) / (1 + exp(-(double)op_unpack(dtype, z[k]))), 0.05, 1);
    op_free(z);
    op_free(x);
    op_free(before);
  }
}

/* --- the plan ------------------------------------------------------------------------------------- */

/* A graph of 8 rows, of a step of 3 sequences, one of which has several. */
static void test_plan(void **state) {
  (void)state;
  const uint32_t start[] = {0, 1, 5, 6}, from[] = {4, TL_NO_STATE, 2}, to[] = {4, 1, 3};
  struct tl_step step = {.n_tokens = 6, .n_seqs = 3, .query_start = start, .state_from = from, .state_to = to};
  struct tl_cuda_stretch stretches[8];
  struct tl_cuda_conv_tile tiles[8];
  assert_int_equal(tl_cuda_plan_stretches(&step, 8, 8, stretches, tiles), 8);
  static const struct tl_cuda_stretch want[] = {{0, 1, 4, 4}, {1, 4, TL_NO_STATE, 1}, {5, 1, 2, 3}, {6, 1, TL_NO_STATE, TL_NO_STATE},
                                                {7, 1, TL_NO_STATE, TL_NO_STATE}, {0, 0, TL_NO_STATE, TL_NO_STATE},
                                                {0, 0, TL_NO_STATE, TL_NO_STATE}, {0, 0, TL_NO_STATE, TL_NO_STATE}};
  assert_memory_equal(stretches, want, sizeof want);
  for (uint32_t i = 0; i < 8; i++) assert_true(tiles[i].stretch == i && tiles[i].at == 0);
  struct tl_cuda_stretch mixed[] = {{0, 64, 0, 0}, {64, 63, 0, 0}, {127, 129, 0, 0}, {256, 1, 0, 0}};
  static const struct tl_cuda_conv_tile want_chunks[] = {{0, 0}, {2, 0}, {2, 64}, {2, 128}}, want_longs[] = {{0, 0}, {2, 1}};
  struct tl_cuda_conv_tile chunks[7], longs[4];
  uint32_t n_long;
  assert_int_equal(tl_cuda_max_delta_chunks(257, 4), 8);
  assert_int_equal(tl_cuda_max_delta_chunks(257, 2), 6);
  assert_int_equal(tl_cuda_plan_long(mixed, 4, chunks, longs, &n_long), 4);
  assert_int_equal(n_long, 2);
  assert_memory_equal(chunks, want_chunks, sizeof want_chunks);
  assert_memory_equal(longs, want_longs, sizeof want_longs);
  assert_int_equal(tl_cuda_key_head(0, 2, 6, 4), 1);
  assert_int_equal(tl_cuda_key_head(1, 2, 6, 4), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_conv), cmocka_unit_test(test_delta), cmocka_unit_test(test_gated_norm),
                                     cmocka_unit_test(test_gate), cmocka_unit_test(test_plan)};
  return cmocka_run_group_tests(tests, op_prepare, NULL);
}
