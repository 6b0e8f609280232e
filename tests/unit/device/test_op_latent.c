/* SPDX-License-Identifier: MIT */
/* The kernels of latent attention on fibers, against sums in double: rows into the cache, rotations, products of heads, attention of
 * decode and prefill rows as one step has them. */
#include "op_unit.h"

#include "device/cuda/ops/cuda_latent.h"
#include "device/cuda/ops/cuda_plan.h"

enum { MAX_SEQS = 6, MAX_ROWS = 128 };

/* --- rows ------------------------------------------------------------------------------------- */

static double rms_of(int dtype, const uint16_t *x, uint32_t n, double eps) {
  double sum = 0;
  for (uint32_t i = 0; i < n; i++) sum += (double)op_unpack(dtype, x[i]) * op_unpack(dtype, x[i]);
  return sqrt(sum / n + eps);
}

/* Element i of the n rotated ones. */
static double rotated(int dtype, const uint16_t *x, const float *angles, uint32_t n, uint32_t i, bool interleaved) {
  uint32_t pair = interleaved ? i / 2 : i % (n / 2), first = interleaved ? 2 * pair : pair, second = interleaved ? first + 1 : pair + n / 2;
  double a = op_unpack(dtype, x[first]), b = op_unpack(dtype, x[second]), cosine = angles[pair], sine = angles[n / 2 + pair];
  return i == first ? a * cosine - b * sine : b * cosine + a * sine;
}

static void rows_of(int dtype, bool interleaved, uint32_t n_rank, uint32_t n_latent, uint32_t n_rotated, uint32_t n) {
  uint32_t at = n_rank ? n_rank : 40, ld = at + n_latent + n_rotated + 8, width = n_latent + n_rotated;
  uint16_t *in = op_halves(dtype, (size_t)n * ld, 2), *rank = op_poisoned((size_t)n * (n_rank + 1) * 2);
  uint16_t *cache = op_poisoned((size_t)(2 * n + 16) * width * 2);
  float *rank_norm = op_floats(n_rank + 1, 1), *latent_norm = op_floats(n_latent, 1), *rope = op_floats((size_t)16 * n_rotated, 1);
  uint32_t *positions = op_alloc(n * sizeof *positions), *slots = op_alloc(n * sizeof *slots);
  for (uint32_t i = 0; i < n; i++) {
    positions[i] = unit_below(&op_random, 16);
    slots[i] = i % 3 == 2 ? TL_CUDA_NO_SLOT : 2 * i + 1;
  }
  float *growth = op_floats(16, 1), rate = 1;
  struct tl_cuda_latent_rows_args args = {.dtype = dtype, .interleaved = interleaved, .n = n, .n_rank = n_rank, .n_latent = n_latent,
                                          .n_rotated = n_rotated, .ld = ld, .at = at, .eps = 1e-6f, .in = in, .rank_norm = rank_norm,
                                          .latent_norm = latent_norm, .rope = rope, .growth = n_rank == 24 ? growth : NULL, .positions = positions, .slots = slots, .rank = rank,
                                          .cache = cache};
  assert_int_equal(op_run(tl_cuda_latent_rows(&args, NULL)), 0);
  for (uint32_t row = 0; row < n; row++) {
    const uint16_t *x = in + (size_t)row * ld, *kept = x + at, *to = cache + (size_t)(2 * row + 1) * width;
    double rms = rms_of(dtype, x, n_rank ? n_rank : 1, 1e-6), kept_rms = rms_of(dtype, kept, n_latent, 1e-6);
    if (args.growth) rate = growth[positions[row]];
    for (uint32_t i = 0; i < n_rank; i++)
      op_assert_near(dtype, op_unpack(dtype, rank[(size_t)row * n_rank + i]), op_unpack(dtype, x[i]) / rms * (double)(rank_norm[i] * rate), 0.1, 1);
    for (uint32_t i = 0; i < width; i++) {
      if (slots[row] == TL_CUDA_NO_SLOT) {
        assert_int_equal(to[i], 0xffff);
        continue;
      }
      double want = i < n_latent ? op_unpack(dtype, kept[i]) / kept_rms * (double)latent_norm[i]
                                 : rotated(dtype, kept + n_latent, rope + (size_t)positions[row] * n_rotated, n_rotated, i - n_latent, interleaved);
      op_assert_near(dtype, op_unpack(dtype, to[i]), want, 0.1, 1);
    }
  }
  void *all[] = {in, rank, cache, rank_norm, latent_norm, rope, positions, slots, growth};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) op_free(all[i]);
}

static void test_rows(void **state) {
  (void)state;
  for (unsigned i = 0; i < UNIT_COUNT(op_dtypes); i++) {
    rows_of(op_dtypes[i], true, 24, 40, 8, 7);
    rows_of(op_dtypes[i], false, 0, 512, 64, 3);
    rows_of(op_dtypes[i], true, 1536, 512, 64, 2);
  }
}

static void test_turn(void **state) {
  (void)state;
  for (unsigned k = 0; k < 4; k++) {
    int dtype = op_dtypes[k % 2];
    bool interleaved = k / 2;
    const uint32_t n = 5, heads = 3, nope = 24, latent = 40, turned = 16, head = nope + turned, ld = heads * head + 8;
    uint16_t *q = op_halves(dtype, (size_t)n * ld, 2), *out = op_poisoned((size_t)n * heads * (latent + turned) * 2);
    float *rope = op_floats(16 * turned, 1);
    uint32_t *positions = op_alloc(n * sizeof *positions);
    for (uint32_t i = 0; i < n; i++) positions[i] = unit_below(&op_random, 16);
    struct tl_cuda_latent_turn_args args = {.dtype = dtype, .interleaved = interleaved, .n = n, .n_heads = heads, .n_nope = nope,
                                            .n_latent = latent, .n_rotated = turned, .ld = ld, .q = q, .rope = rope, .positions = positions,
                                            .out = out};
    assert_int_equal(op_run(tl_cuda_latent_turn(&args, NULL)), 0);
    for (uint32_t row = 0; row < n; row++)
      for (uint32_t h = 0; h < heads; h++)
        for (uint32_t i = 0; i < latent + turned; i++) {
          uint16_t got = out[((size_t)row * heads + h) * (latent + turned) + i];
          if (i < latent) {
            assert_int_equal(got, 0xffff);
            continue;
          }
          const uint16_t *from = q + (size_t)row * ld + h * head + nope;
          op_assert_near(dtype, op_unpack(dtype, got), rotated(dtype, from, rope + positions[row] * turned, turned, i - latent, interleaved), 0.1, 1);
        }
    op_free(q);
    op_free(out);
    op_free(rope);
    op_free(positions);
  }
}

/* --- products of heads -------------------------------------------------------------------------- */

static void heads_of(int dtype, bool turned, uint32_t n, uint32_t heads, uint32_t k, uint32_t n_out) {
  uint32_t x_step = k + 16, ldx = heads * x_step, y_step = n_out + 8, ldy = heads * y_step;
  uint16_t *x = op_halves(dtype, (size_t)n * ldx, 1), *w = op_halves(dtype, (size_t)heads * k * n_out, 1), *y = op_poisoned((size_t)n * ldy * 2);
  struct tl_cuda_latent_heads_args args = {.dtype = dtype, .turned = turned, .n = n, .n_heads = heads, .k = k, .n_out = n_out, .ldx = ldx,
                                           .x_step = x_step, .ldy = ldy, .y_step = y_step, .x = x, .w = w, .y = y};
  assert_int_equal(op_run(tl_cuda_latent_heads(&args, NULL)), 0);
  for (uint32_t row = 0; row < n; row++)
    for (uint32_t h = 0; h < heads; h++)
      for (uint32_t o = 0; o < y_step; o++) {
        uint16_t got = y[(size_t)row * ldy + h * y_step + o];
        double want = 0;
        if (o >= n_out) {
          assert_int_equal(got, 0xffff);
          continue;
        }
        for (uint32_t i = 0; i < k; i++)
          want += (double)op_unpack(dtype, x[(size_t)row * ldx + h * x_step + i]) *
                  op_unpack(dtype, w[(size_t)h * k * n_out + (turned ? (size_t)i * n_out + o : (size_t)o * k + i)]);
        op_assert_near(dtype, op_unpack(dtype, got), want, 0.05, 1);
      }
  op_free(x);
  op_free(w);
  op_free(y);
}

static void test_heads(void **state) {
  (void)state;
  for (unsigned i = 0; i < UNIT_COUNT(op_dtypes); i++)
    for (unsigned turned = 0; turned < 2; turned++) {
      heads_of(op_dtypes[i], turned, 1, 3, 24, 40);
      heads_of(op_dtypes[i], turned, 17, 2, 128, 136);
      heads_of(op_dtypes[i], turned, 70, 1, 72, 64);
    }
  heads_of(TL_CUDA_BF16, false, 3, 2, 512, 128);
  struct tl_cuda_latent_heads_args bad = {.n = 1, .n_heads = 1, .k = 12, .n_out = 8};
  assert_int_equal(tl_cuda_latent_heads(&bad, NULL), 1);
}

/* --- attention ------------------------------------------------------------------------------------ */

struct shape {
  int dtype;
  uint32_t n_heads, n_latent, n_rotated, n_lanes, n_seqs;
  uint32_t context[MAX_SEQS], rows[MAX_SEQS];
  uint32_t most_rows; /* of a sequence that decodes, all wanted */
};

static void check_row(const struct shape *s, const uint16_t *q, const uint16_t *out, const uint16_t *cache, const uint32_t *table, uint32_t n_keys,
                      float scale) {
  uint32_t width = s->n_latent + s->n_rotated;
  double *weights = malloc(n_keys * sizeof *weights), max = -INFINITY, sum = 0;
  for (uint32_t t = 0; t < n_keys; t++) {
    const uint16_t *key = cache + ((size_t)table[t / 16] * 16 + t % 16) * width;
    weights[t] = 0;
    for (uint32_t e = 0; e < width; e++) weights[t] += (double)op_unpack(s->dtype, q[e]) * op_unpack(s->dtype, key[e]) * scale;
    max = fmax(max, weights[t]);
  }
  for (uint32_t t = 0; t < n_keys; t++) sum += weights[t] = exp(weights[t] - max);
  for (uint32_t e = 0; e < s->n_latent; e++) {
    double want = 0;
    for (uint32_t t = 0; t < n_keys; t++) want += weights[t] / sum * op_unpack(s->dtype, cache[((size_t)table[t / 16] * 16 + t % 16) * width + e]);
    op_assert_near(s->dtype, op_unpack(s->dtype, out[e]), want, 0.5, 1.5);
  }
  free(weights);
}

/* In place, as the backend has it: results over what the first numbers of queries were. */
static void attend(const struct shape *s) {
  uint32_t width = s->n_latent + s->n_rotated, longest = 1, n_blocks = 2, used = 1, start[MAX_SEQS + 1] = {0};
  for (uint32_t i = 0; i < s->n_seqs; i++) {
    start[i + 1] = start[i] + s->rows[i];
    uint32_t blocks = (s->context[i] + 15) / 16;
    n_blocks += blocks;
    longest = blocks > longest ? blocks : longest;
  }
  uint16_t *cache = op_poisoned((size_t)n_blocks * 16 * width * 2);
  uint32_t *tables = op_poisoned((size_t)s->n_seqs * longest * sizeof *tables);
  for (uint32_t i = 0; i < s->n_seqs; i++)
    for (uint32_t t = 0; t < s->context[i]; t++) {
      if (t % 16 == 0) tables[(size_t)i * longest + t / 16] = n_blocks - 1 - used++ % (n_blocks - 1);
      for (uint32_t e = 0; e < width; e++)
        cache[((size_t)tables[(size_t)i * longest + t / 16] * 16 + t % 16) * width + e] = op_pack(s->dtype, op_number(1));
    }
  size_t n_q = (size_t)start[s->n_seqs] * s->n_heads * width;
  uint16_t *q = op_halves(s->dtype, n_q, 4), *out = op_copy(q, n_q * 2);
  uint32_t all_rows[MAX_ROWS];
  for (uint32_t i = 0; i < start[s->n_seqs]; i++) all_rows[i] = i;
  struct tl_step step = {.n_tokens = start[s->n_seqs], .n_seqs = s->n_seqs, .table_stride = longest, .query_start = start,
                         .context_len = s->context, .block_tables = tables, .rows = all_rows, .n_rows = start[s->n_seqs]};
  struct tl_cuda_packing packing = {s->most_rows, 1, 0};
  uint32_t max_items = tl_cuda_max_items(s->n_seqs, step.n_rows, packing, s->n_lanes);
  struct tl_cuda_lane *lanes = op_poisoned(s->n_lanes * sizeof *lanes);
  struct tl_cuda_item *items = op_poisoned(max_items * sizeof *items);
  struct tl_cuda_tile *tiles = op_poisoned(tl_cuda_max_tiles(step.n_tokens, s->n_seqs) * sizeof *tiles);
  tl_cuda_plan_decode(&step, packing, 0, s->n_lanes, lanes, items);
  size_t parts = (size_t)tl_cuda_max_parts(packing, s->n_lanes) * s->n_heads, counters = (size_t)s->n_lanes * s->n_heads;
  struct tl_cuda_attention a = {.dtype = s->dtype, .n_heads = s->n_heads, .n_kv_heads = 1, .head_dim = width, .scale = 0.3f, .q = out, .out = out,
                                .k_cache = cache, .block_tables = tables, .table_stride = longest};
  struct tl_cuda_latent_decode_args decode = {.a = a, .n_latent = s->n_latent, .max_rows = step.n_rows, .n_lanes = s->n_lanes, .lanes = lanes,
                                              .items = items, .partial = op_poisoned(parts * width * sizeof(float)),
                                              .partial_scale = op_poisoned(parts * sizeof(uint64_t)),
                                              .arrived = memset(op_alloc(counters * sizeof(uint32_t)), 0, counters * sizeof(uint32_t))};
  assert_int_equal(op_run(tl_cuda_latent_decode(&decode, NULL)), 0);
  for (size_t i = 0; i < counters; i++) assert_int_equal(decode.arrived[i], 0);
  struct tl_cuda_latent_prefill_args prefill = {.a = a, .n_latent = s->n_latent, .tiles = tiles, .n_tiles = tl_cuda_plan_prefill(&step, s->most_rows, tiles)};
  assert_int_equal(op_run(tl_cuda_latent_prefill(&prefill, NULL)), 0);
  for (uint32_t i = 0; i < s->n_seqs; i++)
    for (uint32_t row = start[i]; row < start[i + 1]; row++)
      for (uint32_t h = 0; h < s->n_heads; h++) {
        size_t at = ((size_t)row * s->n_heads + h) * width;
        check_row(s, q + at, out + at, cache, tables + (size_t)i * longest, s->context[i] - (start[i + 1] - row) + 1, a.scale);
        assert_memory_equal(out + at + s->n_latent, q + at + s->n_latent, s->n_rotated * 2);
      }
  void *all[] = {cache, tables, q, out, lanes, items, tiles, decode.partial, decode.partial_scale, decode.arrived};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) op_free(all[i]);
}

static void test_attention(void **state) {
  (void)state;
  static const struct shape shapes[] = {
      {TL_CUDA_BF16, 4, 40, 8, 3, 3, {1, 33, 200}, {1, 1, 1}, 1},        /* one of them in parts */
      {TL_CUDA_F16, 4, 40, 8, 1, 3, {70, 5, 100}, {70, 5, 30}, 1},       /* prompts, one behind a prefix */
      {TL_CUDA_BF16, 20, 512, 64, 2, 2, {90, 40}, {1, 3}, 1},            /* both; V3's sizes */
      {TL_CUDA_F16, 40, 128, 16, 5, 2, {300, 17}, {1, 1}, 1},            /* more heads than a block has */
      {TL_CUDA_F16, 3, 136, 16, 1, 1, {35}, {13}, 1},                    /* a last group of columns that is not whole */
      {TL_CUDA_BF16, 4, 40, 8, 5, 3, {33, 200, 9}, {1, 4, 3}, 4},       /* guesses, each of which sees its own context */
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) attend(&shapes[i]);
  struct tl_cuda_latent_prefill_args bad = {.a = {.n_heads = 2, .n_kv_heads = 1, .head_dim = 600}, .n_latent = 512, .n_tiles = 1};
  assert_int_equal(tl_cuda_latent_prefill(&bad, NULL), 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_turn), cmocka_unit_test(test_heads),
                                     cmocka_unit_test(test_attention)};
  return cmocka_run_group_tests(tests, op_prepare, NULL);
}
