/* SPDX-License-Identifier: MIT */
/* What is the CUDA backend's own of layers that keep a state: how many states there are, one that several sequences go on from, steps one
 * behind the other, and rows of weights that lie in runs. Whole models against transformers: test_cuda_model, test_cuda_group. */
#include <math.h>

#include "device/cuda/cuda_private.h"
#include "golden_llama.h"
#include "gpu_machine.h"

static struct golden *open_model(const char *name) {
  struct golden *g = malloc(sizeof *g);
  fake_cuda_reset();
  open_golden(name, g);
  return g;
}

static void close_all(struct machine *m, struct golden *g) {
  if (m) close_gpu(m);
  close_golden(g);
  free(g);
}

static struct machine open_gpu(const struct tl_model *model) {
  struct machine m = begin_gpu(model);
  load_gpu(&m, model, (struct tl_device_load){.max_batch_size = 4}, 4000);
  return m;
}

/* --- memory ------------------------------------------------------------------------------------- */

static int load_with(const struct tl_model *model, uint32_t max_states, uint64_t kv_bytes, struct tl_device_loaded *ret, struct tl_error *err) {
  struct machine m = begin_gpu(model);
  struct tl_device_load load = {.model = model, .max_batch_size = 4, .max_batch_tokens = BATCH_TOKENS, .max_context = MAX_CONTEXT,
                                .kv_memory_bytes = kv_bytes, .max_states = max_states};
  int r = m.ops->load(m.device, &load, ret, err);
  m.ops->close(m.device);
  assert_int_equal(fake_cuda_live(), 0);
  return r;
}

static void test_memory(void **state) {
  (void)state;
  struct golden *g = open_model("arch/qwen3_5");
  const struct tl_recurrence *r = &g->model->recurrence;
  /* padded: heads of 10 and 12 to 16; F16 */
  uint64_t each = r->n_layers * (6 * 16 * 16 * 4 + (r->conv - 1) * (2 * 2 * 16 + 6 * 16) * 2);
  uint64_t block = 2ull * g->model->n_kv_layers * 2 * 16 * 16 * 2, context = TABLE * block;
  struct tl_device_loaded l;
  struct tl_error err = {0};
  assert_int_equal(g->model->n_kv_layers, 1);
  if (load_with(g->model, 3, 1 << 20, &l, &err) < 0) fail_msg("%s", err.message);
  assert_true(l.n_states == 3 && l.n_blocks == ((1 << 20) - 3 * each) / block && l.kv_bytes == l.n_blocks * block + 3 * each);
  for (uint64_t room = 1 << 20; room < (1 << 20) + 2 * each + 2 * block; room += 999) { /* at any edge */
    if (load_with(g->model, 100000, room, &l, &err) < 0) fail_msg("%s", err.message);
    assert_true(l.n_states * each <= l.n_blocks * block && l.n_states + 1 >= room / 2 / each && l.n_blocks == (room - l.n_states * each) / block);
    struct tl_device_loaded again; /* as a process that follows another is told */
    if (load_with(g->model, l.n_states, l.kv_bytes, &again, &err) < 0) fail_msg("%s", err.message);
    assert_true(again.n_states == l.n_states && again.n_blocks == l.n_blocks && again.kv_bytes == l.kv_bytes);
  }
  /* half is not theirs where a context needs more than the other */
  assert_true(context > 2 * each);
  if (load_with(g->model, 100000, context + 2 * each, &l, &err) < 0) fail_msg("%s", err.message);
  assert_true(l.n_states == 2 && l.n_blocks == TABLE);
  assert_int_equal(load_with(g->model, 100, context + each - 1, &l, &err), TL_ENOMEM);
  assert_string_equal(err.field, "engine.kv_memory_bytes");
  if (load_with(g->model, 100, context + each, &l, &err) < 0) fail_msg("%s", err.message);
  assert_true(l.n_states == 1 && l.n_blocks == TABLE);
  close_all(NULL, g);
  g = open_model("f32_odd");
  if (load_with(g->model, 0, 0, &l, &err) < 0) fail_msg("%s", err.message);
  assert_int_equal(l.n_states, 0);
  close_all(NULL, g);
}

static void check_refused(const struct tl_model *model, const char *why) {
  struct tl_device_loaded l;
  struct tl_error err = {0};
  assert_int_equal(load_with(model, 4, 0, &l, &err), TL_EUNSUPPORTED);
  if (!strstr(err.message, why)) fail_msg("%s", err.message);
}

static void test_unknown_sizes(void **state) {
  (void)state;
  struct golden *g = open_model("arch/qwen3_5");
  struct tl_model model = *g->model;
  model.recurrence.conv = 5;
  check_refused(&model, "convolutions over more than 4 rows");
  model = *g->model;
  model.recurrence.key_dim = 264;
  check_refused(&model, "heads of linear attention of more than 256 elements");
  model = *g->model;
  struct tl_op plan[64];
  assert_true(model.n_ops <= UNIT_COUNT(plan));
  memcpy(plan, model.plan, model.n_ops * sizeof *plan);
  plan[model.n_ops - 1].kind = TL_OP_POOL;
  model.plan = plan;
  model.pooling = TL_POOL_MEAN;
  check_refused(&model, "layers that keep a state, of a model that pools");
  close_all(NULL, g);
  g = open_model("arch/nemotron_h"); /* as if its experts, who have one matrix, had a gate */
  model = *g->model;
  assert_true(model.n_ops <= UNIT_COUNT(plan));
  memcpy(plan, model.plan, model.n_ops * sizeof *plan);
  for (uint32_t i = 0; i < model.n_ops; i++)
    if (plan[i].kind == TL_OP_EXPERTS_UP) plan[i].features = 0;
  model.plan = plan;
  check_refused(&model, "of its plan, of kind");
  close_all(NULL, g);
  g = open_model("arch/gemma4_dense");
  check_refused(g->model, "heads of two sizes (global_head_dim)");
  close_all(NULL, g);
}

/* --- steps ---------------------------------------------------------------------------------------- */

static void check(const struct golden_case *c, const struct sequence *s) {
  for (uint32_t i = 0; i < s->length - c->n_prompt; i++) {
    const struct tl_sampled *got = &s->sampled[c->n_prompt + i];
    if (got->token != c->tokens[i]) fail_msg("token %u of %u: %d, expected %d", i, c->n_prompt, got->token, c->tokens[i]);
    assert_true(fabs((double)got->logprob - c->logprobs[i]) <= 3e-2);
  }
}

/* Three sequences go on from what one has left, in one step, of which one is a chunk; that one goes on in it itself later. */
static void check_fork(const char *name) {
  enum { FORKS = 3 };
  struct golden *g = open_model(name);
  const struct golden_case *c = &g->cases[1];
  struct machine m = open_gpu(g->model);
  struct sequence *s[FORKS + 1];
  s[0] = new_sequence(c->prompt, c->n_prompt);
  run_parts(&m, &(struct part){s[0], c->n_prompt - 8}, 1);
  uint32_t shared = s[0]->states[0];
  struct part parts[FORKS];
  for (unsigned i = 1; i <= FORKS; i++) {
    s[i] = malloc(sizeof *s[i]);
    *s[i] = *s[0];
    for (unsigned k = 0; k < TABLE; k++) s[i]->table[k] = k < s[0]->n_blocks ? s[0]->table[k] : 0;
    s[i]->n_steps = 1; /* into the other one of its two */
    s[i]->states[1] = m.next_state++;
    parts[i - 1] = (struct part){s[i], i == 2 ? 8 : 1};
  }
  run_parts(&m, parts, FORKS);
  for (unsigned i = 1; i <= FORKS; i++) {
    assert_int_equal(work.state_from[i - 1], shared);
    if (s[i]->states[1] == shared) s[i]->states[1] = m.next_state++;
  }
  for (unsigned i = 0; i <= FORKS; i++) { /* blocks that they share get what is there already */
    run_alone(&m, s[i], 6, whole, 1);
    check(c, s[i]);
  }
  for (unsigned i = 0; i <= FORKS; i++) free(s[i]);
  close_all(&m, g);
}

static void test_fork(void **state) {
  (void)state;
  check_fork("arch/qwen3_5");
  check_fork("arch/lfm2_tied");
  check_fork("arch/granitemoehybrid");
}

/* A long prompt goes by chunks, also beside short ones, which do not. */
static void check_chunks(const char *name) {
  struct golden *g = open_model(name);
  struct machine m = open_gpu(g->model);
  struct sequence *s[2];
  struct part parts[2];
  for (unsigned i = 0; i < 2; i++) {
    const struct golden_case *c = &g->cases[i ? 2 : 1];
    s[i] = new_sequence(c->prompt, c->n_prompt);
    parts[i] = (struct part){s[i], i ? 150 : c->n_prompt};
  }
  assert_true(parts[0].n < TL_CUDA_DELTA_CHUNK);
  fake_cuda.order[0] = 0;
  run_parts(&m, parts, 1);
  assert_true(strchr(fake_cuda.order, 'S') && !strchr(fake_cuda.order, 'L'));
  parts[0].n = 1;
  fake_cuda.order[0] = 0;
  run_parts(&m, parts, 2);
  assert_true(strchr(fake_cuda.order, 'S') && strchr(fake_cuda.order, 'L'));
  fake_cuda.order[0] = 0;
  run_parts(&m, &(struct part){s[1], s[1]->length - 150}, 1);
  assert_true(!strchr(fake_cuda.order, 'S') && strchr(fake_cuda.order, 'L'));
  run_alone(&m, s[1], 4, whole, 1);
  check(&g->cases[1], s[0]);
  check(&g->cases[2], s[1]);
  for (unsigned i = 0; i < 2; i++) free(s[i]);
  close_all(&m, g);
}

static void test_chunks(void **state) {
  (void)state;
  check_chunks("arch/qwen3_next");
  check_chunks("arch/granitemoehybrid");
  check_chunks("arch/nemotron_h"); /* several groups */
}

/* Each step is on the stream before the one before it is collected, whose token it begins with. */
static void test_ahead(void **state) {
  (void)state;
  enum { NEW = 6 };
  struct golden *g = open_model("arch/qwen3_next");
  const struct golden_case *c = &g->cases[1];
  struct machine m = open_gpu(g->model);
  struct sequence *s = new_sequence(c->prompt, c->n_prompt);
  run_parts(&m, &(struct part){s, c->n_prompt}, 1);
  static struct {
    int32_t token;
    uint32_t position, slot, start[2], context, row, from, to;
    struct tl_sampling sampling;
    struct tl_step step;
  } steps[NEW];
  struct tl_error err = {0};
  while (s->n_blocks * TL_BLOCK_TOKENS < c->n_prompt + NEW) s->table[s->n_blocks++] = m.blocks[m.next_block++];
  for (uint32_t k = 0; k <= NEW; k++) {
    if (k < NEW) {
      uint32_t at = c->n_prompt + k;
      steps[k].token = k ? -2 : c->tokens[0];
      steps[k].position = at;
      steps[k].slot = s->table[at / TL_BLOCK_TOKENS] * TL_BLOCK_TOKENS + at % TL_BLOCK_TOKENS;
      steps[k].start[1] = 1;
      steps[k].context = at + 1;
      steps[k].from = s->states[k % 3 == 1];
      steps[k].to = s->states[(k + 1) % 3 == 1];
      steps[k].sampling = s->sampling;
      steps[k].step = (struct tl_step){.n_tokens = 1, .n_seqs = 1, .n_rows = 1, .table_stride = TABLE, .tokens = &steps[k].token,
                                       .positions = &steps[k].position, .slots = &steps[k].slot, .query_start = steps[k].start,
                                       .context_len = &steps[k].context, .block_tables = s->table, .rows = &steps[k].row,
                                       .sampling = &steps[k].sampling, .state_from = &steps[k].from, .state_to = &steps[k].to};
      if (m.ops->submit(m.device, &steps[k].step, &err) < 0) fail_msg("%s", err.message);
    }
    if (k == 0) continue;
    struct tl_sampled got;
    if (m.ops->collect(m.device, &got, &err) < 0) fail_msg("%s", err.message);
    assert_int_equal(got.token, c->tokens[k]);
  }
  free(s);
  close_all(&m, g);
}

/* --- weights ---------------------------------------------------------------------------------------- */

/* Value heads that share a key head stand apart, as llama.cpp has them. */
static void test_turned(void **state) {
  (void)state;
  struct golden *g = open_model("arch/qwen3_5");
  char path[640];
  struct tl_error err = {0};
  snprintf(path, sizeof path, "%s/../../gguf/arch_qwen3_5.gguf", g->folder);
  tl_model_free(g->model);
  if (tl_model_load(path, &g->model, &err) < 0) fail_msg("%s", err.message);
  struct machine m = open_gpu(g->model);
  struct sequence *s = new_sequence(g->cases[1].prompt, g->cases[1].n_prompt);
  run_alone(&m, s, 5, whole, 1);
  check(&g->cases[1], s);
  free(s);
  close_all(&m, g);
}

/* E4M3 goes up as its bytes are. */
static void test_codes_in_runs(void **state) {
  (void)state;
  uint8_t codes[10 * 16];
  char row[16];
  for (unsigned i = 0; i < sizeof codes; i++) codes[i] = (uint8_t)i;
  struct tl_tensor t = {.dtype = TL_DTYPE_F8_E4M3, .n_dims = 2, .shape = {4, 16}, .data = codes, .run_rows = 2, .run_step = 5};
  struct cuda_part part = {.kind = CUDA_PART_CODES, .format = TL_CUDA_WE4M3, .tensor = &t, .n_rows = 4, .n_columns = 16};
  static const unsigned rows[] = {0, 1, 5, 6};
  for (unsigned i = 0; i < 4; i++) {
    cuda_store_codes(&part, i, row);
    assert_memory_equal(row, codes + rows[i] * 16, 16);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory), cmocka_unit_test(test_unknown_sizes), cmocka_unit_test(test_fork),
                                     cmocka_unit_test(test_chunks), cmocka_unit_test(test_ahead),         cmocka_unit_test(test_turned),        cmocka_unit_test(test_codes_in_runs)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
