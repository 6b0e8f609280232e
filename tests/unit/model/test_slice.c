/* SPDX-License-Identifier: MIT */
/* Shards of whole plans: what the ranks have together is each tensor once, keys and values with few heads
 * as often as they are shared, norms on every rank. */
#include "tokenlane/slice.h"

#include "model/model_private.h"
#include "unit.h"

static struct tl_model *open_model(const char *name) {
  char file[64], path[1024];
  struct tl_model *model;
  struct tl_error err = {0};
  snprintf(file, sizeof file, "llama/%s", name);
  if (tl_model_load(unit_golden_path(file, path), &model, &err) < 0) fail_msg("%s: %s", path, err.message);
  return model;
}

/* How often each element of a tensor was given out. */
static void count(uint8_t *counts, const struct tl_slice *s) {
  uint64_t columns = s->tensor->n_dims > 1 ? s->tensor->shape[1] : 1;
  assert_true(s->first_row + s->n_rows <= s->tensor->shape[0] && s->first_column + s->n_columns <= columns);
  for (uint64_t row = s->first_row; row < s->first_row + s->n_rows; row++)
    for (uint64_t column = s->first_column; column < s->first_column + s->n_columns; column++) counts[row * columns + column]++;
}

static uint64_t elements_of(const struct tl_tensor *t) {
  return t->shape[0] * (t->n_dims > 1 ? t->shape[1] : 1);
}

/* One input of a record over all ranks: every element `times` times. */
static void check_input(const struct tl_model *model, const struct tl_op *op, unsigned input, unsigned size, bool bias, unsigned times) {
  const struct tl_tensor *t = &model->tensors[bias ? op->bias[input] : op->weight[input]];
  uint8_t *counts = calloc(1, elements_of(t));
  for (unsigned rank = 0; rank < size; rank++) {
    struct tl_shard shard;
    assert_int_equal(tl_shard_make(model, rank, size, &shard, NULL), TL_OK);
    struct tl_slice s = bias ? tl_slice_bias(model, &shard, op, input) : tl_slice_weight(model, &shard, op, input);
    assert_ptr_equal(s.tensor, t);
    count(counts, &s);
  }
  for (uint64_t i = 0; i < elements_of(t); i++)
    if (counts[i] != times) fail_msg("%s, %u ranks: element %llu %u times", t->name, size, (unsigned long long)i, counts[i]);
  free(counts);
}

static void check_model(const struct tl_model *model, unsigned size) {
  unsigned shared = size > model->n_kv_heads ? size / model->n_kv_heads : 1, n_inputs = 0;
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    for (unsigned input = 0; input < TL_OP_INPUTS; input++) {
      unsigned times = op->kind == TL_OP_RMSNORM ? size : op->kind == TL_OP_QKV && input > 0 ? shared : 1;
      if (op->weight[input] >= 0) check_input(model, op, input, size, false, times);
      if (op->bias[input] >= 0) check_input(model, op, input, size, true, times);
      n_inputs += op->weight[input] >= 0;
    }
  }
  assert_int_equal(n_inputs, 3 + 9 * model->n_layers);
}

static void test_every_tensor(void **state) {
  (void)state;
  static const struct {
    const char *name;
    unsigned sizes[4];
  } models[] = {{"f32_odd", {1, 5}}, {"bf16_tied", {1, 2}}, {"f32_llama3", {1, 2, 4, 8}}, {"f16_sharded", {1, 2, 4}}};
  for (unsigned i = 0; i < UNIT_COUNT(models); i++) {
    struct tl_model *model = open_model(models[i].name);
    for (unsigned k = 0; k < 4 && models[i].sizes[k]; k++) check_model(model, models[i].sizes[k]);
    tl_model_free(model);
  }
}

/* A rank's queries meet the keys that the whole model has for them. */
static void test_heads(void **state) {
  (void)state;
  static const unsigned heads[][3] = {{8, 2, 2}, {8, 2, 4}, {8, 2, 8}, {8, 8, 4}, {12, 3, 6}, {64, 8, 16}, {6, 6, 3}, {4, 1, 4}, {6, 2, 1}};
  for (unsigned i = 0; i < UNIT_COUNT(heads); i++) {
    struct tl_model model = {.dim = 64, .n_heads = heads[i][0], .n_kv_heads = heads[i][1], .head_dim = 8, .ffn_dim = 999, .vocab_size = 99};
    for (unsigned rank = 0; rank < heads[i][2]; rank++) {
      struct tl_shard s;
      assert_int_equal(tl_shard_make(&model, rank, heads[i][2], &s, NULL), TL_OK);
      assert_int_equal(s.n_heads % s.n_kv_heads, 0);
      for (unsigned h = 0; h < s.n_heads; h++)
        assert_int_equal(s.first_kv_head + h / (s.n_heads / s.n_kv_heads), (s.first_head + h) / (model.n_heads / model.n_kv_heads));
    }
  }
}

/* Parts cover all, none is empty, borders are where blocks end, panels are whole when there are enough. */
static void test_cuts(void **state) {
  (void)state;
  static const uint32_t totals[] = {1, 2, 7, 31, 32, 33, 64, 77, 100, 211, 250, 1536, 14336, 28672, 128256, 128257};
  static const uint32_t blocks[] = {1, 16, 32, 256};
  for (unsigned i = 0; i < UNIT_COUNT(totals); i++)
    for (unsigned b = 0; b < UNIT_COUNT(blocks); b++)
      for (unsigned size = 1; size <= 64; size++) {
        uint32_t total = totals[i], block = blocks[b], least = UINT32_MAX, most = 0;
        if (total % block || total / block < size) continue;
        assert_int_equal(slice_cut(total, block, 0, size), 0);
        assert_int_equal(slice_cut(total, block, size, size), total);
        for (unsigned rank = 0; rank < size; rank++) {
          uint32_t from = slice_cut(total, block, rank, size), to = slice_cut(total, block, rank + 1, size);
          assert_true(to > from && from % block == 0);
          if (total / 32 >= size) assert_int_equal(from % 32, 0);
          least = to - from < least ? to - from : least;
          most = to - from > most ? to - from : most;
        }
        uint32_t unit = block > 32 ? block : total / 32 >= size ? 32 : block;
        assert_true(most - least < 2 * unit);
      }
}

static void refuses(struct tl_model model, unsigned size, const char *what) {
  struct tl_shard shard;
  struct tl_error err = {0};
  assert_int_equal(tl_shard_make(&model, 0, size, &shard, &err), TL_EINVAL);
  assert_string_equal(err.field, "engine.tensor_parallel");
  if (!strstr(err.message, what)) fail_msg("%s: expected '%s'", err.message, what);
}

static void test_refusals(void **state) {
  (void)state;
  const struct tl_model model = {.dim = 64, .n_heads = 12, .n_kv_heads = 4, .head_dim = 8, .ffn_dim = 64, .vocab_size = 99};
  refuses(model, 5, "the model's 12 attention heads cannot be divided among 5 devices");
  refuses(model, 6, "the model's 4 key and value heads cannot be divided among 6 devices");
  struct tl_model narrow = model, few = model;
  narrow.ffn_dim = 3;
  refuses(narrow, 4, "the model's 3 inner MLP outputs");
  few.vocab_size = 3;
  refuses(few, 4, "the model's 3 vocabulary entries");
}

/* Rows of blocks are cut where blocks end, or not at all; where runs that share a scale end, if there are enough. */
static void test_blocks(void **state) {
  (void)state;
  const struct tl_tensor tensors[] = {{.name = "out", .dtype = TL_DTYPE_Q4_K, .n_dims = 2, .shape = {64, 512}},
                                      {.name = "down", .dtype = TL_DTYPE_Q4_K, .n_dims = 2, .shape = {64, 1280}},
                                      {.name = "down2", .dtype = TL_DTYPE_Q8_0, .n_dims = 2, .shape = {64, 1280}}};
  const struct tl_op plan[] = {{.kind = TL_OP_ATTN_OUT, .weight = {0, -1, -1}, .bias = {-1, -1, -1}},
                               {.kind = TL_OP_MLP_DOWN, .weight = {1, -1, -1}, .bias = {-1, -1, -1}},
                               {.kind = TL_OP_MLP_DOWN, .weight = {2, -1, -1}, .bias = {-1, -1, -1}}};
  const struct tl_model model = {.dim = 64, .n_heads = 8, .n_kv_heads = 8, .head_dim = 64, .ffn_dim = 1280, .vocab_size = 99,
                                 .tensors = tensors, .n_tensors = 3, .plan = plan, .n_ops = 3};
  struct tl_shard shard[2];
  for (unsigned i = 0; i < 2; i++) assert_int_equal(tl_shard_make(&model, i, 2, &shard[i], NULL), TL_OK);
  struct tl_slice s = tl_slice_weight(&model, &shard[1], &plan[0], 0);
  assert_true(s.first_row == 0 && s.n_rows == 64 && s.first_column == 256 && s.n_columns == 256);
  assert_int_equal(shard[0].n_ffn, 512); /* five blocks */
  for (unsigned i = 1; i < 3; i++) { /* the other layer as well: the inner row is one */
    s = tl_slice_weight(&model, &shard[1], &plan[i], 0);
    assert_true(s.first_column == 512 && s.n_columns == 768);
  }
  struct tl_packed packed = {.group_columns = 128};
  const struct tl_tensor grouped = {.name = "awq", .dtype = TL_DTYPE_INT4, .n_dims = 2, .shape = {64, 1280}, .packed = &packed};
  struct tl_model awq = model;
  awq.tensors = &grouped;
  awq.plan = &(struct tl_op){.kind = TL_OP_MLP_DOWN, .weight = {0, -1, -1}, .bias = {-1, -1, -1}};
  awq.n_tensors = awq.n_ops = 1;
  assert_int_equal(tl_shard_make(&awq, 1, 4, &shard[1], NULL), TL_OK);
  assert_int_equal(shard[1].first_ffn, 256); /* 2 of 10 groups of 128 */
  awq.n_heads = awq.n_kv_heads = 16;
  assert_int_equal(tl_shard_make(&awq, 1, 16, &shard[1], NULL), TL_OK);
  assert_int_equal(shard[1].first_ffn, 64); /* only 10 groups, but 40 blocks of 32 */
  refuses(model, 4, "tensor 'out' is in blocks of 256 inputs (Q4_K), so its 512 inputs cannot be divided among 4 devices");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_tensor), cmocka_unit_test(test_heads),
                                     cmocka_unit_test(test_cuts), cmocka_unit_test(test_refusals),
                                     cmocka_unit_test(test_blocks)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
