/* SPDX-License-Identifier: MIT */
/* What decode attention makes by itself of rows of QKV, against the kernel that makes it before, to the bit. */
#include "attend_steps.h"

struct making {
  bool bias, norm, still, grows; /* still: not rotated */
  uint32_t padding;       /* of a head */
};

/* A row of QKV for each sequence, and one of padding, which has no slot. */
static void fill_heads(const struct step *t, const struct making *m, struct tl_cuda_qkv_args *ret) {
  const struct shape *s = t->s;
  uint32_t n = s->n_seqs + 1, heads = s->n_heads + 2 * s->n_kv_heads, dim = s->head_dim, longest = 1;
  uint32_t *positions = op_poisoned(n * sizeof *positions), *slots = op_poisoned(n * sizeof *slots);
  positions[s->n_seqs] = 0;
  for (uint32_t i = 0; i < s->n_seqs; i++) {
    positions[i] = s->context[i] - 1;
    slots[i] = t->tables[i * t->step.table_stride + positions[i] / TL_BLOCK_TOKENS] * TL_BLOCK_TOKENS + positions[i] % TL_BLOCK_TOKENS;
    longest = s->context[i] > longest ? s->context[i] : longest;
  }
  *ret = (struct tl_cuda_qkv_args){.dtype = dtype_of(s), .n = n, .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads, .head_dim = dim,
                                   .width = dim - m->padding, .qkv = op_halves(s->dtype, (size_t)n * heads * dim, 4),
                                   .bias = m->bias ? op_floats(heads * dim, 1) : NULL, .q_norm = m->norm ? op_floats(dim, 2) : NULL,
                                   .k_norm = m->norm ? op_floats(dim, 2) : NULL, .eps = 1e-5f,
                                   .rope = m->still ? NULL : op_floats((size_t)longest * dim, 1), .growth = m->grows ? op_floats(longest, 2) : NULL, .positions = positions, .slots = slots,
                                   .q = t->q, .k_cache = t->k, .v_cache = t->v};
}

static void free_heads(const struct tl_cuda_qkv_args *heads) {
  const void *all[] = {heads->qkv, heads->bias, heads->q_norm, heads->k_norm, heads->rope, heads->growth, heads->positions, heads->slots};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++)
    if (all[i]) op_free((void *)all[i]);
}

/* The same from one kernel as from two, to the bit: rows, and all of the cache. */
static void check_made(const struct shape *s, const struct making *m) {
  struct step t;
  if (skips(s)) return;
  struct tl_cuda_qkv_args heads;
  struct shape more = *s; /* q has a row for the padding */
  more.context[more.n_seqs] = more.rows[more.n_seqs] = 1;
  more.n_seqs++;
  fill_step(&t, &more);
  more.n_seqs = t.step.n_seqs = s->n_seqs;
  fill_heads(&t, m, &heads);
  struct tl_cuda_attention a = {.dtype = dtype_of(s), .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim,
                                .scale = 1 / sqrtf((float)s->head_dim), .softcap = s->softcap, .window = s->window,
                                .sinks = s->sink != 0 ? t.sinks : NULL, .q = t.q, .out = t.out, .k_cache = t.k, .v_cache = t.v,
                                .block_tables = t.tables, .table_stride = t.step.table_stride};
  uint16_t *clean_k = op_copy(t.k, t.cache_bytes), *clean_v = op_copy(t.v, t.cache_bytes);
  assert_int_equal(op_run(tl_cuda_qkv(&heads, NULL)), 0);
  run_decode(&t, &a, NULL);
  uint16_t *want = op_copy(t.out, t.q_elements * 2), *want_k = op_copy(t.k, t.cache_bytes), *want_v = op_copy(t.v, t.cache_bytes);
  memcpy(t.k, clean_k, t.cache_bytes);
  memcpy(t.v, clean_v, t.cache_bytes);
  for (uint32_t i = 0; i < s->n_seqs; i++) /* what lies there is nobody's */
    for (uint32_t h = 0; h < s->n_kv_heads; h++) {
      size_t at = (((size_t)heads.slots[i] / 16 * s->n_kv_heads + h) * 16 + heads.slots[i] % 16) * s->head_dim;
      memset((char *)t.k + at * (bytes ? 1 : 2), 0xff, s->head_dim * (bytes ? 1 : 2));
      memset((char *)t.v + at * (bytes ? 1 : 2), 0xff, s->head_dim * (bytes ? 1 : 2));
    }
  memset(t.out, 0xff, t.q_elements * 2);
  memset(t.q, 0xff, t.q_elements * 2);
  run_decode(&t, &a, &heads);
  assert_memory_equal(t.out, want, t.q_elements * 2);
  assert_memory_equal(t.k, want_k, t.cache_bytes);
  assert_memory_equal(t.v, want_v, t.cache_bytes);
  void *all[] = {clean_k, clean_v, want, want_k, want_v};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) op_free(all[i]);
  free_heads(&heads);
  free_step(&t);
}

static void test_made_heads(void **state) {
  (void)state;
  const struct {
    struct shape s;
    struct making m;
  } cases[] = {
      {{TL_CUDA_F16, 4, 1, 64, 3, 4, {1, 16, 17, 133}, .rows = {1, 1, 1, 1}}, {.bias = false}},
      {{TL_CUDA_BF16, 8, 2, 128, 16, 3, {700, 3, 64}, .rows = {1, 1, 1}}, {.norm = true}},
      {{TL_CUDA_BF16, 16, 1, 128, 4, 2, {200, 15}, .rows = {1, 1}}, {.bias = true, .norm = true, .grows = true}},      /* the wide tile */
      {{TL_CUDA_F16, 24, 2, 64, 6, 2, {75, 31}, .rows = {1, 1}}, {.bias = true}},                       /* 12 heads a group */
      {{TL_CUDA_BF16, 40, 2, 64, 5, 2, {90, 1}, .rows = {1, 1}}, {.still = true, .grows = true}},                      /* 20: two tiles, one writes */
      {{TL_CUDA_F16, 9, 1, 256, 8, 3, {40, 130, 9}, .rows = {1, 1, 1}}, {.norm = true}},                /* likewise, 8 and 1 */
      {{TL_CUDA_F16, 7, 1, 80, 5, 3, {48, 65, 300}, .rows = {1, 1, 1}}, {.bias = true, .norm = true}},
      {{TL_CUDA_BF16, 2, 2, 72, 4, 2, {33, 70}, .rows = {1, 1}}, {.norm = true, .padding = 4}},
      {{TL_CUDA_F16, 6, 2, 8, 4, 2, {32, 1}, .rows = {1, 1}}, {.bias = true}},
      {{TL_CUDA_BF16, 4, 2, 136, 6, 3, {40, 96, 7}, .rows = {1, 1, 1}}, {.bias = true}},
      {{TL_CUDA_F16, 2, 1, 64, 12, 1, {700}, .rows = {1}}, {.norm = true}},                             /* 11 parts, of which one has the token */
      {{TL_CUDA_F16, 2, 1, 64, 12, 1, {705}, .rows = {1}}, {.norm = true}},                             /* alone in its block */
      {{TL_CUDA_BF16, 2, 1, 64, 1, 3, {700, 5, 90}, .rows = {1, 1, 1}}, {.bias = true}},                /* item after item in a ring */
      {{TL_CUDA_F16, 16, 2, 128, 2, 4, {31, 64, 1, 47}, .rows = {1, 1, 1, 1}}, {.norm = true}},
      {{TL_CUDA_F16, 4, 1, 64, 3, 3, {300, 16, 133}, .rows = {1, 1, 1}, .window = 21}, {.bias = true}},
      {{TL_CUDA_F16, 4, 1, 64, 3, 2, {300, 16}, .rows = {1, 1}, .window = 1}, {.still = true}},          /* sees its own token alone */
      {{TL_CUDA_BF16, 8, 2, 128, 16, 2, {300, 65}, .rows = {1, 1}, .sink = 2, .softcap = 20}, {.norm = true}},
  };
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) check_made(&cases[i].s, &cases[i].m);
  for (int i = 0; i < 30 / UNIT_SLOWDOWN; i++) {
    const uint32_t dims[] = {64, 128, 64, 48, 192}, groups[] = {1, 2, 4, 5, 8, 9, 16, 17};
    struct shape s = {.dtype = op_dtypes[i % 2], .n_kv_heads = 1 + unit_below(&op_random, 3),
                      .head_dim = dims[unit_below(&op_random, 5)], .n_seqs = 1 + unit_below(&op_random, 4)};
    struct making m = {unit_below(&op_random, 2), unit_below(&op_random, 2), unit_below(&op_random, 4) == 0, i % 3 == 0, unit_below(&op_random, 2) * 2};
    s.n_heads = s.n_kv_heads * groups[unit_below(&op_random, UNIT_COUNT(groups))];
    s.n_blocks = tl_cuda_head_tiles(s.n_heads, s.n_kv_heads, s.head_dim) * (1 + unit_below(&op_random, 4));
    s.window = unit_below(&op_random, 3) ? 0 : 1 + unit_below(&op_random, 100);
    for (uint32_t k = 0; k < s.n_seqs; k++) {
      s.context[k] = 1 + unit_below(&op_random, 220);
      s.rows[k] = 1;
    }
    check_made(&s, &m);
  }
}

#ifndef OP_ON_GPU
extern unsigned emu_early_copies;

/* 16 bytes of keys and values that are on their way before the kernel before is over. */
static unsigned count_early(uint32_t context, uint32_t rows, bool made) {
  const struct shape s = {TL_CUDA_F16, 2, 1, 64, 1, 1, {context}, .rows = {rows}, .most_rows = rows > 1 ? rows : 0};
  const struct making m = {.bias = true};
  struct step t;
  struct tl_cuda_qkv_args heads;
  fill_step(&t, &s);
  if (made) fill_heads(&t, &m, &heads);
  struct tl_cuda_attention a = {.dtype = dtype_of(&s), .n_heads = 2, .n_kv_heads = 1, .head_dim = 64, .scale = 1, .q = t.q, .out = t.out,
                                .k_cache = t.k, .v_cache = t.v, .block_tables = t.tables, .table_stride = t.step.table_stride};
  emu_early_copies = 0;
  run_decode(&t, &a, made ? &heads : NULL);
  if (made) free_heads(&heads);
  free_step(&t);
  return emu_early_copies / (UNIT_SLOWDOWN > 1 ? 1 : 2); /* it runs twice */
}

/* What steps before wrote is all that is copied where the kernel makes the row's own heads, and all but the block of the own token, or those
 * of several rows' own tokens, where the kernel before does. */
static void test_early_copies(void **state) {
  (void)state;
  const unsigned TOKEN = 2 * 64 * (bytes ? 1 : 2) / 16; /* copies */
  const struct {
    uint32_t context, made, before; /* tokens */
  } cases[] = {{1, 1, 0}, {5, 5, 0}, {16, 16, 0}, {17, 17, 16}, {70, 70, 64}, {128, 128, 112}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    assert_int_equal(count_early(cases[i].context, 1, true), cases[i].made * TOKEN);
    assert_int_equal(count_early(cases[i].context, 1, false), cases[i].before * TOKEN);
  }
  /* two tiles: the second's rows see tokens that the first one's rows have */
  assert_int_equal(count_early(70, 3, false), 64 * TOKEN);
  assert_int_equal(count_early(66, 3, false), 48 * TOKEN);
  assert_int_equal(count_early(66, 10, false), 2 * 48 * TOKEN);
  assert_int_equal(count_early(10, 10, false), 0);
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_made_heads),
#ifndef OP_ON_GPU
      cmocka_unit_test(test_early_copies),
#endif
  };
  return run_twice(tests, UNIT_COUNT(tests));
}
