/* SPDX-License-Identifier: MIT */
/* cuDNN's attention against softmax in double, on what a step may hold: paged, odd lengths, several sequences, prefixes in the
 * cache, heads in groups. What no token has is NaN. With ON_GPU by the real library, else by a fake that computes the
 * graph; there, the speed of both kernels, too. */
#include <math.h>
#include <stdio.h>

#include "device/cuda/cuda_private.h"
#include "device/cuda/ops/cuda_plan.h"
#include "unit.h"

#ifdef ON_GPU
#include "device/cuda/cuda_bind.h"
static struct cuda_api *const api = &cuda_bound_api;
#else
#include "fake_cuda.h"
static struct cuda_api *const api = &fake_cuda_api;
#endif

enum { MAX_SEQS = 8 };

struct shape {
  int dtype;
  uint32_t n_heads, n_kv_heads, head, max_rows, n_seqs;
  uint32_t context[MAX_SEQS], rows[MAX_SEQS];
  uint8_t unused;  /* bytes of slots that no token has; 0: all ones, which is NaN */
  uint32_t before; /* blocks of the cache before those that are used */
};

static uint64_t seed = 7;
static void *stream, *handle;
static bool without_log; /* the graph under test is not told of that operation */
enum { OPS = 24, LOG_OP = 19 }; /* of the graph, in its order: the logarithm and the sum behind it */

#define CALL(call)                                      \
  do {                                                  \
    int call_r_ = (call);                               \
    if (call_r_) fail_msg("%s: %d", #call, call_r_);    \
  } while (0)

static void *on_device(const void *from, size_t bytes) {
  void *to, *event, *pinned;
  CALL(api->rt.alloc(&to, bytes));
  CALL(api->rt.alloc_host(&pinned, bytes));
  memcpy(pinned, from, bytes);
  CALL(api->rt.copy(to, pinned, bytes, stream));
  CALL(api->rt.event_new(&event));
  CALL(api->rt.event_record(event, stream));
  CALL(api->rt.event_wait(event));
  CALL(api->rt.event_free(event));
  CALL(api->rt.free_host(pinned));
  return to;
}

/* Waits for all on the stream. */
static void to_host(void *to, const void *from, size_t bytes) {
  void *event, *pinned;
  CALL(api->rt.alloc_host(&pinned, bytes));
  CALL(api->rt.copy(pinned, from, bytes, stream));
  CALL(api->rt.event_new(&event));
  CALL(api->rt.event_record(event, stream));
  int r = api->rt.event_wait(event);
  if (r) fail_msg("the kernel: %s", api->rt.text(r));
  CALL(api->rt.event_free(event));
  memcpy(to, pinned, bytes);
  CALL(api->rt.free_host(pinned));
}

static float number(float range) {
  return ((float)unit_below(&seed, 1 << 24) * 0x1p-23f - 1) * range;
}

static uint16_t pack(int dtype, float value) {
  return dtype == TL_CUDA_BF16 ? tl_f32_to_bf16(value) : tl_f32_to_f16(value);
}

static double unpack(int dtype, uint16_t bits) {
  return (double)(dtype == TL_CUDA_BF16 ? tl_bf16_to_f32(bits) : tl_f16_to_f32(bits));
}

/* --- a step ----------------------------------------------------------------------------------------- */

struct step {
  const struct shape *s;
  uint32_t query_start[MAX_SEQS + 1], n_blocks, stride;
  uint32_t *tables;
  uint16_t *q, *k, *v, *out, *own; /* host; own: by our kernel */
  size_t q_elements, kv_elements;
  float scale;
};

static void fill_caches(struct step *t) {
  const struct shape *s = t->s;
  size_t block = (size_t)s->n_kv_heads * TL_BLOCK_TOKENS * s->head;
  uint32_t used = 0;
  for (uint32_t i = 0; i < s->n_seqs; i++)
    for (uint32_t at = 0; at < s->context[i]; at++) {
      uint32_t *entry = &t->tables[(size_t)i * t->stride + at / TL_BLOCK_TOKENS];
      if (at % TL_BLOCK_TOKENS == 0) *entry = used++ * 5 % t->n_blocks; /* n_blocks is no multiple of 5 */
      for (uint32_t h = 0; h < s->n_kv_heads; h++)
        for (uint32_t d = 0; d < s->head; d++) {
          size_t place = *entry * block + ((size_t)h * TL_BLOCK_TOKENS + at % TL_BLOCK_TOKENS) * s->head + d;
          t->k[place] = pack(s->dtype, number(1));
          t->v[place] = pack(s->dtype, number(1));
        }
    }
}

static struct step make_step(const struct shape *s) {
  struct step t = {.s = s, .n_blocks = 3, .stride = 3, .scale = 1 / sqrtf((float)s->head)};
  for (uint32_t i = 0; i < s->n_seqs; i++) {
    uint32_t blocks = tl_blocks_of(s->context[i]);
    t.query_start[i + 1] = t.query_start[i] + s->rows[i];
    t.n_blocks += blocks;
    if (blocks + 2 > t.stride) t.stride = blocks + 2;
  }
  t.n_blocks += t.n_blocks % 5 == 0;
  t.kv_elements = (size_t)t.n_blocks * s->n_kv_heads * TL_BLOCK_TOKENS * s->head;
  t.q_elements = (size_t)t.query_start[s->n_seqs] * s->n_heads * s->head;
  t.tables = calloc((size_t)s->n_seqs * t.stride, sizeof *t.tables);
  t.q = malloc(t.q_elements * 2);
  t.k = malloc(t.kv_elements * 2);
  t.v = malloc(t.kv_elements * 2);
  t.out = malloc(t.q_elements * 2);
  t.own = malloc(t.q_elements * 2);
  memset(t.k, s->unused ? s->unused : 0xff, t.kv_elements * 2);
  memset(t.v, s->unused ? s->unused : 0xff, t.kv_elements * 2);
  memset(t.out, 0xff, t.q_elements * 2);
  for (size_t i = 0; i < t.q_elements; i++) t.q[i] = pack(s->dtype, number(4));
  fill_caches(&t);
  return t;
}

static void free_step(struct step *t) {
  free(t->tables);
  free(t->q);
  free(t->k);
  free(t->v);
  free(t->out);
  free(t->own);
}

/* A cache that begins with what must not be read. */
static void *cache_on_device(const struct step *t, const uint16_t *from) {
  size_t before = (size_t)t->s->before * t->s->n_kv_heads * TL_BLOCK_TOKENS * t->s->head * 2;
  char *to;
  void *blocks = on_device(from, t->kv_elements * 2);
  CALL(api->rt.alloc((void **)&to, before + t->kv_elements * 2));
  if (before) CALL(api->rt.fill(to, 0xff, before, stream));
  CALL(api->rt.copy(to + before, blocks, t->kv_elements * 2, stream));
  CALL(api->rt.free(blocks));
  return to;
}

static void *tables_on_device(const struct step *t) {
  size_t n = (size_t)t->s->n_seqs * t->stride + CUDA_SDPA_SPARE;
  uint32_t *moved = malloc(n * sizeof *moved);
  for (size_t i = 0; i < n; i++) moved[i] = (i < n - CUDA_SDPA_SPARE ? t->tables[i] : 0) + t->s->before;
  void *to = on_device(moved, n * sizeof *moved);
  free(moved);
  return to;
}

/* What the real library is given, on the device. */
struct memory {
  void *q, *out, *k, *v, *tables, *starts, *rows, *lengths, *workspace, *tiles;
  uint32_t n_tiles;
};

static struct memory upload(const struct step *t) {
  const struct shape *s = t->s;
  int32_t starts[MAX_SEQS + 1];
  struct tl_step step = {.n_tokens = t->query_start[s->n_seqs], .n_seqs = s->n_seqs, .query_start = t->query_start, .context_len = s->context};
  struct tl_cuda_tile *tiles = malloc(tl_cuda_max_tiles(step.n_tokens, s->n_seqs) * sizeof *tiles);
  for (uint32_t i = 0; i <= s->n_seqs; i++) starts[i] = (int32_t)(t->query_start[i] * s->n_heads * s->head);
  struct memory m = {.q = on_device(t->q, t->q_elements * 2), .out = on_device(t->out, t->q_elements * 2),
                     .k = cache_on_device(t, t->k), .v = cache_on_device(t, t->v), .tables = tables_on_device(t), .starts = on_device(starts, sizeof starts),
                     .rows = on_device(s->rows, sizeof s->rows), .lengths = on_device(s->context, sizeof s->context),
                     .n_tiles = tl_cuda_plan_prefill(&step, 1, tiles)};
  CALL(api->rt.alloc(&m.workspace, CUDA_LT_WORKSPACE));
  m.tiles = on_device(tiles, m.n_tiles * sizeof *tiles);
  free(tiles);
  return m;
}

static void release(const struct memory *m) {
  void *const all[] = {m->q, m->out, m->k, m->v, m->tables, m->starts, m->rows, m->lengths, m->workspace, m->tiles};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) CALL(api->rt.free(all[i]));
}

/* Leaves out of a graph what is left out. */
static int set_some(void *desc, int attribute, int type, int64_t n, const void *values) {
  if (without_log && attribute == CUDA_DNN_GRAPH_OPS) {
    void *ops[OPS - 2];
    assert_int_equal(n, OPS);
    memcpy(ops, values, LOG_OP * sizeof *ops);
    memcpy(ops + LOG_OP, (void *const *)values + LOG_OP + 2, (OPS - 2 - LOG_OP) * sizeof *ops);
    return api->dnn.desc_set(desc, attribute, type, OPS - 2, ops);
  }
  return api->dnn.desc_set(desc, attribute, type, n, values);
}

static int try_build(const struct step *t, struct cuda_sdpa_plan *ret) {
  const struct shape *s = t->s;
  const struct cuda_sdpa_shape shape = {s->dtype == TL_CUDA_F16 ? CUDA_DNN_HALF : CUDA_DNN_BFLOAT16, s->n_seqs, s->max_rows, s->n_heads,
                                        s->n_kv_heads, s->head, s->before + t->n_blocks, t->stride};
  struct cuda_dnn some = api->dnn;
  some.desc_set = set_some;
  return cuda_sdpa_build(&some, handle, &shape, ret);
}

static void build(const struct step *t, struct cuda_sdpa_plan *ret) {
  int r = try_build(t, ret);
  if (r) fail_msg("no plan: status %d", r);
  assert_true(ret->workspace_bytes <= (int64_t)CUDA_LT_WORKSPACE);
}

static void execute(const struct step *t, const struct memory *m, const struct cuda_sdpa_plan *plan) {
  const float minus_infinity = -INFINITY;
  const void *const pointers[CUDA_SDPA_IDS] = {
      [CUDA_SDPA_Q] = m->q, [CUDA_SDPA_O] = m->out, [CUDA_SDPA_K] = m->k, [CUDA_SDPA_V] = m->v, [CUDA_SDPA_K_TABLE] = m->tables,
      [CUDA_SDPA_V_TABLE] = m->tables, [CUDA_SDPA_STARTS] = m->starts, [CUDA_SDPA_ROWS] = m->rows, [CUDA_SDPA_LENGTHS] = m->lengths,
      [CUDA_SDPA_SCALE] = &t->scale, [CUDA_SDPA_OUTSIDE] = &minus_infinity, [CUDA_SDPA_AFTER] = &minus_infinity};
  CALL(cuda_sdpa_execute(&api->dnn, handle, plan, pointers, m->workspace));
}

/* --- the reference --------------------------------------------------------------------------------------- */

static double check_head(const struct step *t, uint32_t seq, uint32_t row, uint32_t head, uint32_t n_keys) {
  const struct shape *s = t->s;
  uint32_t kv_head = head / (s->n_heads / s->n_kv_heads);
  const uint32_t *table = t->tables + (size_t)seq * t->stride;
  size_t first = ((size_t)row * s->n_heads + head) * s->head;
  double *weights = malloc(n_keys * sizeof *weights), max = -INFINITY, sum = 0, mean[TL_CUDA_MAX_HEAD_DIM] = {0}, worst = 0;
  for (uint32_t pass = 0; pass < 2; pass++)
    for (uint32_t at = 0; at < n_keys; at++) {
      size_t place = (((size_t)table[at / TL_BLOCK_TOKENS] * s->n_kv_heads + kv_head) * TL_BLOCK_TOKENS + at % TL_BLOCK_TOKENS) * s->head;
      if (pass == 0) {
        weights[at] = 0;
        for (uint32_t d = 0; d < s->head; d++)
          weights[at] += unpack(s->dtype, t->q[first + d]) * unpack(s->dtype, t->k[place + d]) * (double)t->scale;
        max = fmax(max, weights[at]);
      } else {
        double weight = exp(weights[at] - max);
        sum += weight;
        for (uint32_t d = 0; d < s->head; d++) mean[d] += weight * unpack(s->dtype, t->v[place + d]);
      }
    }
  for (uint32_t d = 0; d < s->head; d++) {
    double got = unpack(s->dtype, t->out[first + d]), off = fabs(got - mean[d] / sum);
    if (!(off <= (s->dtype == TL_CUDA_BF16 ? 0x1p-7 : 0x1p-10)))
      fail_msg("sequence %u, row %u of the step, head %u, element %u, %u keys: %g, not %g", seq, row, head, d, n_keys, got, mean[d] / sum);
    worst = fmax(worst, off);
  }
  free(weights);
  return worst;
}

static void check(const struct shape *s) {
  struct step t = make_step(s);
  struct memory m = upload(&t);
  struct cuda_sdpa_plan plan;
  build(&t, &plan);
  execute(&t, &m, &plan);
  to_host(t.out, m.out, t.q_elements * 2);
  double worst = 0;
  for (uint32_t seq = 0; seq < s->n_seqs; seq++)
    for (uint32_t i = 0; i < s->rows[seq]; i++)
      for (uint32_t head = 0; head < s->n_heads; head++)
        worst = fmax(worst, check_head(&t, seq, t.query_start[seq] + i, head, s->context[seq] - s->rows[seq] + i + 1));
  printf("%s, %u heads of %u for %u, %u sequences: off by %.2g at most\n", s->dtype == TL_CUDA_BF16 ? "BF16" : "F16", s->n_heads, s->head,
         s->n_kv_heads, s->n_seqs, worst);
  cuda_sdpa_free(&api->dnn, &plan);
  release(&m);
  free_step(&t);
}

/* --- tests ----------------------------------------------------------------------------------------------- */

static int open_all(void **state) {
  (void)state;
  struct tl_error err = {0};
#ifndef ON_GPU
  fake_cuda_reset();
  fake_cuda.dnn_version = 91900;
#endif
  CALL(api->rt.use(0));
  CALL(api->op.prepare());
  CALL(api->rt.stream_new(&stream));
  if (api->open_dnn(&err) < 0) fail_msg("%s", err.message);
  printf("cuDNN %zu\n", api->dnn.version());
  CALL(api->dnn.create(&handle));
  CALL(api->dnn.set_stream(handle, stream));
  return 0;
}

static int close_all(void **state) {
  (void)state;
  CALL(api->dnn.destroy(handle));
  CALL(api->rt.stream_free(stream));
#ifndef ON_GPU
  assert_int_equal(fake_cuda_live(), 0);
#endif
  return 0;
}

static void test_one_prompt(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_BF16, 4, 1, 128, 256, 1, {150}, .rows = {150}},
      {TL_CUDA_F16, 2, 2, 64, 256, 1, {129}, .rows = {129}},
      {TL_CUDA_F16, 2, 1, 64, 256, 1, {256}, .rows = {256}},
      {TL_CUDA_BF16, 1, 1, 128, 256, 1, {2}, .rows = {2}},
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(&shapes[i]);
}

/* Tiles that no row or key is missing in. */
static void test_whole(void **state) {
  (void)state;
  check(&(struct shape){TL_CUDA_BF16, 4, 1, 128, 256, 1, {256}, .rows = {256}});
}

/* A kernel that wants memory for what lies between two operations, or does not say what it wants, is never run. */
static void test_parameters(void **state) {
  (void)state;
  const struct shape s = {TL_CUDA_BF16, 4, 1, 128, 256, 1, {256}, .rows = {256}};
  struct step t = make_step(&s);
  struct cuda_sdpa_plan plan;
  without_log = true;
  assert_int_equal(try_build(&t, &plan), CUDA_DNN_UNKNOWN);
  cuda_sdpa_free(&api->dnn, &plan);
  without_log = false;
#ifndef ON_GPU
  static const int vital[] = {CUDA_SDPA_Q, CUDA_SDPA_O, CUDA_SDPA_K, CUDA_SDPA_V};
  for (unsigned i = 0; i < UNIT_COUNT(vital); i++) {
    fake_cuda.dnn_unlisted = vital[i];
    assert_int_equal(try_build(&t, &plan), CUDA_DNN_UNKNOWN);
    cuda_sdpa_free(&api->dnn, &plan);
  }
  fake_cuda.dnn_unlisted = 0;
#endif
  assert_int_equal(try_build(&t, &plan), 0);
  cuda_sdpa_free(&api->dnn, &plan);
  free_step(&t);
}

static void test_prefixes(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_F16, 4, 2, 64, 256, 1, {200}, .rows = {3}},
      {TL_CUDA_BF16, 4, 1, 128, 256, 1, {333}, .rows = {140}},
      {TL_CUDA_BF16, 2, 1, 128, 256, 1, {300}, .rows = {2}},
      {TL_CUDA_F16, 2, 1, 64, 512, 1, {391}, .rows = {257}},
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(&shapes[i]);
}

static void test_several(void **state) {
  (void)state;
  const struct shape shapes[] = {
      {TL_CUDA_F16, 4, 2, 64, 256, 2, {150, 140}, .rows = {150, 33}},
      {TL_CUDA_BF16, 2, 1, 128, 256, 4, {2, 300, 17, 129}, .rows = {2, 65, 17, 100}},
      {TL_CUDA_BF16, 3, 1, 64, 256, 3, {70, 127, 140}, .rows = {8, 3, 14}},
  };
  for (unsigned i = 0; i < UNIT_COUNT(shapes); i++) check(&shapes[i]);
}

static void test_head_sizes(void **state) {
  (void)state;
  const uint32_t heads[] = {16, 32, 80, 96, 256};
  for (unsigned i = 0; i < UNIT_COUNT(heads); i++) {
    const struct shape s = {i % 2 ? TL_CUDA_F16 : TL_CUDA_BF16, 4, 2, heads[i], 256, 2, {140, 90}, .rows = {130, 40}};
    check(&s);
  }
}

/* What another sequence left behind: about 3.6. */
static void test_old_tokens(void **state) {
  (void)state;
  const struct shape s = {TL_CUDA_BF16, 4, 2, 64, 256, 2, {150, 141}, .rows = {150, 33}, .unused = 0x40};
  check(&s);
}

/* On a GPU, of more elements than 32 bits count. */
static void test_large_cache(void **state) {
  (void)state;
#ifdef ON_GPU
  const struct shape s = {TL_CUDA_BF16, 16, 8, 128, 256, 2, {140, 90}, .rows = {130, 40}, .before = 1u << 18};
#else
  const struct shape s = {TL_CUDA_BF16, 2, 1, 64, 256, 2, {140, 90}, .rows = {130, 40}, .before = 100};
#endif
  check(&s);
}

#ifdef ON_GPU
static void run_own(const struct step *t, const struct memory *m) {
  const struct shape *s = t->s;
  const struct tl_cuda_prefill_args args = {
      .a = {.dtype = s->dtype, .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->head, .scale = t->scale, .q = m->q,
            .out = m->out, .k_cache = m->k, .v_cache = m->v, .block_tables = m->tables, .table_stride = t->stride},
      .n_tiles = m->n_tiles, .tiles = m->tiles};
  CALL(api->op.prefill(&args, stream));
}

/* Llama 3 8B's heads, prompts of 1k to 8k tokens; our kernel's result is the same. */
static void time_both(uint32_t rows, uint32_t context, uint32_t n_seqs) {
  struct shape s = {.dtype = TL_CUDA_BF16, .n_heads = 32, .n_kv_heads = 8, .head = 128, .max_rows = rows, .n_seqs = n_seqs};
  void *before, *after;
  struct cuda_sdpa_plan plan;
  float ms[2];
  for (uint32_t i = 0; i < n_seqs; i++) s.context[i] = context, s.rows[i] = rows;
  struct step t = make_step(&s);
  struct memory m = upload(&t);
  build(&t, &plan);
  CALL(api->rt.timer_new(&before));
  CALL(api->rt.timer_new(&after));
  for (int by = 0; by < 2; by++) {
    for (int i = 0; i < 12; i++) {
      if (i == 2) CALL(api->rt.event_record(before, stream));
      if (by) execute(&t, &m, &plan);
      else run_own(&t, &m);
    }
    CALL(api->rt.event_record(after, stream));
    CALL(api->rt.event_wait(after));
    CALL(api->rt.elapsed(&ms[by], before, after));
    to_host(by ? t.out : t.own, m.out, t.q_elements * 2);
  }
  double worst = 0, pairs = (double)rows * (context - (rows - 1) / 2.0) * n_seqs;
  for (size_t i = 0; i < t.q_elements; i++) {
    double off = fabs(unpack(s.dtype, t.out[i]) - unpack(s.dtype, t.own[i]));
    if (!(off <= worst)) worst = off;
  }
  printf("%u x %5u rows, context %5u: own %8.1f us %4.0f TFLOP/s, cuDNN %8.1f us %4.0f TFLOP/s, apart by %.2g\n", n_seqs, rows, context,
         (double)ms[0] * 100, pairs * 32 * 128 * 4 / ((double)ms[0] * 1e-4) / 1e12, (double)ms[1] * 100,
         pairs * 32 * 128 * 4 / ((double)ms[1] * 1e-4) / 1e12, worst);
  CALL(api->rt.event_free(before));
  CALL(api->rt.event_free(after));
  cuda_sdpa_free(&api->dnn, &plan);
  release(&m);
  free_step(&t);
  if (!(worst <= 0x1p-6)) fail_msg("the kernels differ by %g", worst);
}

static void test_speed(void **state) {
  (void)state;
  time_both(128, 128, 1);
  time_both(256, 256, 1);
  time_both(512, 512, 1);
  time_both(1024, 1024, 1);
  time_both(2048, 2048, 1);
  time_both(4096, 4096, 1);
  time_both(8192, 8192, 1);
  time_both(512, 8192, 1);
  time_both(2048, 8192, 1);
  time_both(512, 512, 4);
  time_both(256, 256, 8);
}
#endif

/* argv[1]: one test's name, or a pattern; all of them without it. After an error a GPU's context is lost to the rest. */
int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_parameters), cmocka_unit_test(test_one_prompt), cmocka_unit_test(test_whole),
      cmocka_unit_test(test_prefixes), cmocka_unit_test(test_several), cmocka_unit_test(test_head_sizes),
      cmocka_unit_test(test_old_tokens), cmocka_unit_test(test_large_cache),
#ifdef ON_GPU
      cmocka_unit_test(test_speed),
#endif
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, open_all, close_all);
}
