/* SPDX-License-Identifier: MIT */
/* Which attention computes a step's prompts, with a fake of cuDNN: chosen by the clock, in runs; whatever fails there, our own
 * kernel does it. Then whole models by a fake that computes. */
#include <math.h>

#include "device/cuda/cuda_private.h"
#include "fake_cuda.h"
#include "golden_llama.h"

enum { TOKENS = 1024, SEQS = 8 };

static bool cudnn = true; /* in the options of a load */

static struct golden *open_fake(const char *name, bool idle) {
  struct golden *g = malloc(sizeof *g);
  fake_cuda_reset();
  fake_cuda.idle = idle;
  fake_cuda.uncounted_polls = true;
  fake_cuda.dnn_version = 91900;
  fake_cuda.dnn_workspace_bytes = 8704;
  fake_cuda.prefill_ms = 5;
  fake_cuda.dnn_ms = 1;
  open_golden(name, g);
  return g;
}

static const struct cuda_sdpa *sdpa_of(const struct machine *m) {
  return &((struct cuda_device *)(void *)m->device)->sdpa;
}

static int load(const struct golden *g, uint32_t max_batch_tokens, struct machine *ret, struct tl_error *err) {
  struct tl_device_options options = {.n_lanes = 1}; /* calls in the same order each time */
  struct tl_device_loaded loaded;
  struct tl_device_load load = {.model = g->model, .max_batch_size = SEQS, .max_batch_tokens = max_batch_tokens, .max_context = MAX_CONTEXT,
                                .cudnn = cudnn, .kv_format = kv_format};
  *ret = (struct machine){.ops = &fake_cuda_ops, .n_ranks = 1, .vocab = g->model->vocab_size};
  int r = fake_cuda_ops.open(&options, &ret->device, err);
  if (r == TL_OK) r = fake_cuda_ops.load(ret->device, &load, &loaded, err);
  if (r < 0) return r;
  assert_string_equal(loaded.attention, sdpa_of(ret)->handle ? "cuDNN 9.19.0" : "");
  ret->ranks[0] = ret->device;
  ret->n_blocks = 1000;
  ret->blocks = malloc(ret->n_blocks * sizeof *ret->blocks);
  shuffle(ret->blocks, ret->n_blocks, 3);
  return TL_OK;
}

static struct machine load_well(const struct golden *g, uint32_t max_batch_tokens) {
  struct machine m;
  struct tl_error err = {0};
  if (load(g, max_batch_tokens, &m, &err) < 0) fail_msg("%s", err.message);
  return m;
}

static void close_all(struct machine *m, struct golden *g) {
  close_machine(m);
  assert_int_equal(fake_cuda_live(), 0);
  close_golden(g);
  free(g);
}

/* --- one step ----------------------------------------------------------------------------------------- */

static struct {
  int32_t tokens[TOKENS];
  uint32_t positions[TOKENS], slots[TOKENS], query_start[SEQS + 1], context_len[SEQS], tables[SEQS * TABLE], rows[SEQS];
  struct tl_sampling sampling[SEQS];
  struct tl_sampled sampled[SEQS];
} arrays;

/* A sequence for each count: the last so many of 390 tokens. */
static int run(const struct machine *m, unsigned n, const uint32_t *counts, struct tl_error *err) {
  struct tl_step step = {.n_seqs = n, .n_rows = n, .table_stride = TABLE, .tokens = arrays.tokens, .positions = arrays.positions,
                         .slots = arrays.slots, .query_start = arrays.query_start, .context_len = arrays.context_len,
                         .block_tables = arrays.tables, .rows = arrays.rows, .sampling = arrays.sampling};
  for (uint32_t s = 0; s < n; s++) {
    arrays.query_start[s] = step.n_tokens;
    arrays.context_len[s] = 390;
    step.n_tokens += counts[s];
    arrays.rows[s] = step.n_tokens - 1;
    arrays.sampling[s] = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1};
  }
  arrays.query_start[n] = step.n_tokens;
  memset(fake_cuda.order, 0, sizeof fake_cuda.order);
  int r = fake_cuda_ops.submit(m->device, &step, err);
  return r < 0 ? r : fake_cuda_ops.collect(m->device, arrays.sampled, err);
}

/* What of attention was launched, over all layers. */
static void check_attention(const char *expected) {
  char got[sizeof fake_cuda.order] = "";
  unsigned n = 0;
  for (const char *at = fake_cuda.order; *at; at++)
    if (strchr("ydp", *at)) got[n++] = *at;
  assert_string_equal(got, expected);
}

static const uint32_t prompt[] = {300}, short_prompt[] = {190}, mixed[] = {300, 1, 20, 150, 140, 1};

static void test_runs(void **state) {
  (void)state;
  struct golden *g = open_fake("f16_sharded", true); /* two layers */
  struct machine m = load_well(g, 800);
  struct tl_error err = {0};
  /* 512 rows of one, two and four: more is more than a context, eight are more than a step */
  assert_int_equal(sdpa_of(&m)->n_plans, 3);
  assert_int_equal(run(&m, 1, prompt, &err), TL_OK);
  check_attention("yy");
  assert_int_equal(run(&m, 6, mixed, &err), TL_OK);
  check_attention("dypydypy");
  static const uint32_t few[] = {20, 30}, rest[] = {20, 300, 30, 1, 40};
  assert_int_equal(run(&m, 2, few, &err), TL_OK);
  check_attention("pp");
  assert_int_equal(run(&m, 5, rest, &err), TL_OK);
  check_attention("dypdyp");
  static const uint32_t four[] = {150, 150, 150, 130, 200}, uneven[] = {380, 2};
  assert_int_equal(run(&m, 5, four, &err), TL_OK);
  check_attention("yyyy");
  assert_int_equal(run(&m, 2, uneven, &err), TL_OK);
  check_attention("yy");
  close_all(&m, g);
}

/* Both kernels compute what is tried. */
static void test_trial(void **state) {
  (void)state;
  static const char *const names[] = {"bf16_tied", "f16_sharded"};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden *g = open_fake(names[i], false);
    struct machine m = load_well(g, 200);
    assert_int_equal(sdpa_of(&m)->n_plans, 1);
    close_machine(&m);
    fake_cuda.dnn_reach = 1000; /* of some thousands */
    m = load_well(g, 200);
    assert_int_equal(sdpa_of(&m)->n_plans, 0);
    close_all(&m, g);
  }
}

/* Layers with windows or caps are never cuDNN's, the others of the model are. */
static void test_other_layers(void **state) {
  (void)state;
  static const struct {
    const char *name, *expected;
  } models[] = {{"arch/gemma2", ""}, {"arch/mistral", ""}, {"arch/qwen3", "y"}, {"arch/gemma3", "py"}};
  for (unsigned i = 0; i < UNIT_COUNT(models); i++) {
    struct golden *g = open_fake(models[i].name, true);
    struct machine m = load_well(g, 800);
    struct tl_error err = {0};
    assert_int_equal(run(&m, 1, prompt, &err), TL_OK);
    assert_int_equal(strchr(fake_cuda.order, 'y') != NULL, strchr(models[i].expected, 'y') != NULL);
    assert_int_equal(strchr(fake_cuda.order, 'p') != NULL, *models[i].expected != 'y');
    close_all(&m, g);
  }
}

/* Nothing is left of it where it is not wanted. */
static void test_own_kernel(void **state) {
  (void)state;
  /* the first of the smallest trial's 128 rows, an element of the last one, the first one behind */
  enum { ROW = 64 };
  static const int64_t strays[] = {0, 127 * ROW + 7, 128 * ROW};
  for (unsigned i = 0; i < 11; i++) {
    struct golden *g = open_fake("f16_sharded", true);
    struct tl_error err = {0};
    if (i == 0) fake_cuda.dnn_version = 0;
    if (i == 1) fake_cuda.dnn_version = 91800;
    if (i == 2) fake_cuda.dnn_unlisted = CUDA_SDPA_O; /* who knows what else it would write */
    if (i == 3) fake_cuda.no_dnn_kernel = true;
    if (i == 4) fake_cuda.dnn_workspace_bytes = CUDA_LT_WORKSPACE + 1;
    if (i == 5) fake_cuda.dnn_ms = 5; /* no faster */
    if (i > 5 && i < 9) fake_cuda.dnn_stray = strays[i - 6];
    cudnn = i != 9;
    kv_format = i == 10 ? TL_KV_E4M3 : TL_KV_AUTO; /* which it does not read */
    struct machine m = load_well(g, 800);
    cudnn = true;
    kv_format = TL_KV_AUTO;
    assert_null(sdpa_of(&m)->handle);
    assert_int_equal(run(&m, 6, mixed, &err), TL_OK);
    check_attention("dpdp");
    close_all(&m, g);
  }
}

/* --- errors ----------------------------------------------------------------------------------------------- */

static bool is_dnn(const char *call) {
  return call && (strncmp(call, "dnn_", 4) == 0 || strcmp(call, "open_dnn") == 0);
}

static bool is_cleaning(const char *call) {
  static const char *const names[] = {"free", "stream_free", "event_free", "graph_free", "exec_free", "lt_destroy", "free_host"};
  for (unsigned i = 0; call && i < UNIT_COUNT(names); i++)
    if (strcmp(call, names[i]) == 0) return true;
  return false;
}

/* From when cuDNN is opened, at load, to the end of a second step; whatever it says, both are run. */
static void test_every_call_fails(void **state) {
  (void)state;
  unsigned first = 0, n_calls = 0, n_dnn = 0, n_executions = 0;
  for (unsigned at = 0; at <= n_calls; at = at ? at + 1 : first) {
    struct golden *g = open_fake("f16_sharded", true);
    struct machine m;
    struct tl_error err = {0};
    fake_cuda.fail_at = at;
    fake_cuda.fail_code = 999;
    int r = load(g, 200, &m, &err); /* one plan */
    bool loaded = r == TL_OK;
    for (unsigned i = 0; i < 2 && r == TL_OK; i++) {
      r = run(&m, 1, short_prompt, &err);
      if (r == TL_OK && fake_cuda.failed && loaded && strcmp(fake_cuda.failed, "dnn_execute") == 0) n_executions++;
    }
    if (at == 0) first = fake_cuda.first_dnn_call, n_calls = fake_cuda.n_calls;
    n_dnn += is_dnn(fake_cuda.failed);
    if (is_dnn(fake_cuda.failed) && r < 0) fail_msg("%s failed: %s", fake_cuda.failed, err.message);
    if (at > 0 && r == TL_OK && !is_dnn(fake_cuda.failed) && !is_cleaning(fake_cuda.failed))
      fail_msg("nobody noticed that %s failed", fake_cuda.failed);
    fake_cuda_ops.close(m.device);
    free(m.blocks);
    assert_int_equal(fake_cuda_live(), 0);
    close_golden(g);
    free(g);
  }
  assert_true(n_dnn > 300 && n_executions > 4);
}

/* An execution that fails is done by our kernel, and the last one. */
static void test_failing_execution(void **state) {
  (void)state;
  struct golden *g = open_fake("f16_sharded", true);
  struct machine m = load_well(g, 300);
  struct tl_error err = {0};
  unsigned before = fake_cuda.n_calls, executed = fake_cuda.n_dnn;
  assert_int_equal(run(&m, 1, prompt, &err), TL_OK);
  check_attention("yy");
  unsigned per_step = fake_cuda.n_calls - before;
  fake_cuda.fail_code = 5001;
  for (unsigned at = 1; at <= per_step && !is_dnn(fake_cuda.failed); at++) {
    fake_cuda.fail_at = fake_cuda.n_calls + at;
    if (run(&m, 1, prompt, &err) < 0) assert_int_equal(fake_cuda_ops.reset(m.device, &err), TL_OK);
  }
  assert_true(is_dnn(fake_cuda.failed));
  check_attention("pp");
  assert_true(sdpa_of(&m)->off);
  executed = fake_cuda.n_dnn;
  assert_int_equal(run(&m, 6, (const uint32_t[]){100, 1, 20, 50, 40, 1}, &err), TL_OK);
  check_attention("dpdp");
  assert_int_equal(fake_cuda.n_dnn, executed);
  close_all(&m, g);
}

/* --- whole models ---------------------------------------------------------------------------------------------- */

static void check(const struct golden_case *c, const struct sequence *s, double tolerance) {
  for (uint32_t i = 0; i < s->length - c->n_prompt; i++) {
    const struct tl_sampled *got = &s->sampled[c->n_prompt + i];
    assert_int_equal(got->token, c->tokens[i]);
    if (!(fabs((double)got->logprob - c->logprobs[i]) <= tolerance)) fail_msg("off by %g", fabs((double)got->logprob - c->logprobs[i]));
  }
}

static void test_against_transformers(void **state) {
  (void)state;
  static const uint32_t odd[] = {160, 1, 129, 10};
  static const char *const names[] = {"bf16_tied", "f16_sharded", "arch/ministral3_long"};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden *g = open_fake(names[i], true); /* timing computes nothing */
    struct machine m = load_well(g, BATCH_TOKENS);
    fake_cuda.idle = false;
    unsigned before = fake_cuda.n_dnn;
    struct sequence *s = new_sequence(g->cases[2].prompt, g->cases[2].n_prompt);
    if (i == 0) run_alone(&m, s, 2, whole, 1);
    else run_alone(&m, s, 2, odd, UNIT_COUNT(odd)); /* the second with a prefix in the cache, one for our kernel */
    check(&g->cases[2], s, g->model->dtype == TL_DTYPE_BF16 ? 1e-1 : 3e-2);
    assert_int_equal(fake_cuda.n_dnn - before, (i ? 2 : 1) * g->model->n_layers);
    free(s);
    close_all(&m, g);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_runs),        cmocka_unit_test(test_trial),             cmocka_unit_test(test_other_layers),      cmocka_unit_test(test_own_kernel),
      cmocka_unit_test(test_every_call_fails), cmocka_unit_test(test_failing_execution), cmocka_unit_test(test_against_transformers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
