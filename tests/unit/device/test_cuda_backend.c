/* SPDX-License-Identifier: MIT */
/* The CUDA backend's host part with a GPU that only counts: order of calls, memory,
 * every call failing in turn, errors for good. */
#include "e4m3_model.h"

#include "cuda_backend_rig.h" /* behind: names of its data are arguments there */

/* --- tests ------------------------------------------------------------------------------------ */

/* A graph holds the layers and the choice of most rows; what is drawn by chance comes after it. A step with prompts is launched as it is. */
static void test_order(void **state) {
  (void)state;
  start();
  struct tl_error err = {0};
  struct tl_device *device = open_device();
  static const char layers[] = "envdvnvvnvdvnvvnvs";
  assert_int_equal(fake_cuda.n_graphs, 4); /* 1, 2, 4, 8 */
  assert_string_equal(fake_cuda.order + strlen(fake_cuda.order) - strlen(layers), layers);
  unsigned launches = fake_cuda.n_launches, kernels = fake_cuda.n_kernels;
  assert_int_equal(kernels, fake_cuda.n_parted); /* norms behind products that were tried; what is recorded does not run */
  assert_int_equal(run(device, 3, decode, &err), TL_OK);
  assert_int_equal(fake_cuda.n_replays, 1);
  assert_int_equal(fake_cuda.n_launches, launches);
  assert_int_equal(fake_cuda.n_kernels - kernels, strlen(layers));
  memset(fake_cuda.order, 0, sizeof fake_cuda.order);
  assert_int_equal(run(device, 4, mixed, &err), TL_OK);
  assert_string_equal(fake_cuda.order, "enmkdpmnmgmnmkdpmnmgmnlvs");
  memset(fake_cuda.order, 0, sizeof fake_cuda.order);
  assert_int_equal(run(device, 1, prompt, &err), TL_OK);
  assert_string_equal(fake_cuda.order, "enmkpmnmgmnmkpmnmgmnlvs");
  assert_int_equal(fake_cuda.n_replays, 1);
  memset(fake_cuda.order, 0, sizeof fake_cuda.order);
  struct tl_step step = make_step(3, decode);
  work.sampling[0].temperature = work.sampling[1].temperature = 1;
  work.sampling[0].target = 5;
  work.sampling[0].top_k = work.sampling[2].top_k = 1;
  static const struct {
    float top_p;
    int32_t top_k;
    float temperature;
    const char *order; /* of launches behind the graph */
  } steps[] = {{1, 0, 1, "s"}, {0.9f, 0, 1, "ss"}, {1, 7, 1, "ss"}, {0.9f, 7, 0, ""}};
  for (unsigned i = 0; i < UNIT_COUNT(steps); i++) {
    work.sampling[1].top_p = steps[i].top_p;
    work.sampling[1].top_k = steps[i].top_k;
    work.sampling[1].temperature = steps[i].temperature;
    memset(fake_cuda.order, 0, sizeof fake_cuda.order);
    assert_int_equal(fake_cuda_ops.submit(device, &step, &err), TL_OK);
    assert_int_equal(fake_cuda_ops.collect(device, work.sampled, &err), TL_OK);
    assert_string_equal(fake_cuda.order, steps[i].order);
  }
  assert_int_equal(fake_cuda.n_replays, 5);
  close_device(device);
}

/* Rows of sequences that have guesses are a graph of their own kind, in which keys and values are there before attention; not where a row
 * of several is not wanted, or there are more than guesses may be: these are prompts. Beside prompts they are no graph, but decode. */
static void test_drafts(void **state) {
  (void)state;
  static const struct {
    unsigned n;
    uint32_t counts[4];
    bool all; /* rows are wanted */
    unsigned n_replays;
    const char *order;
  } steps[] = {{3, {3, 1, 4}, true, 1, ""}, {1, {2}, true, 1, ""}, {3, {1, 1, 1}, true, 1, ""}, {2, {3, 1}, false, 0, "envkdpvnvvnvkdpvnvvnlvs"}, {1, {5}, true, 0, "envkpvnvvnvkpvnvvnvs"},
               {3, {3, 2, 40}, true, 0, "enmkdpmnmgmnmkdpmnmgmnlvs"}};
  start();
  draft_tokens = 3;
  struct tl_error err = {0};
  struct tl_device *device = open_device();
  assert_int_equal(fake_cuda.n_graphs, 4 + 3); /* 1, 2, 4, 8; 2, 4, 8 */
  static const char layers[] = "envkdvnvvnvkdvnvvnvs";
  assert_string_equal(fake_cuda.order + strlen(fake_cuda.order) - strlen(layers), layers);
  for (unsigned i = 0; i < UNIT_COUNT(steps); i++) {
    struct tl_step step = make_step(steps[i].n, steps[i].counts);
    if (steps[i].all) want_all(&step, 5);
    unsigned before = fake_cuda.n_replays;
    memset(fake_cuda.order, 0, sizeof fake_cuda.order);
    if (fake_cuda_ops.submit(device, &step, &err) < 0 || fake_cuda_ops.collect(device, work.sampled, &err) < 0) fail_msg("%s", err.message);
    assert_int_equal(fake_cuda.n_replays - before, steps[i].n_replays);
    assert_string_equal(fake_cuda.order, steps[i].order);
  }
  close_device(device);
  draft_tokens = 0;
}

static bool is_cleaning(const char *call) {
  static const char *const names[] = {"free", "stream_free", "event_free", "graph_free", "exec_free", "lt_destroy",
                                      "open_dnn" /* it need not be there */};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++)
    if (strcmp(call, names[i]) == 0) return true;
  return false;
}

/* Ways that cuBLASLt may not have: whatever its error, others do it. */
static bool is_left_out(const char *call) {
  return strcmp(call, "lt_heuristic of what need not be") == 0;
}

/* What cuda_choose.c tries: what cannot be asked for, or cannot compute a product, is none to be chosen, and that is all. */
static bool is_tried(const char *call) {
  return is_left_out(call) || strcmp(call, "lt_matmul") == 0 || strcmp(call, "lt_layout_set") == 0 || strcmp(call, "lt_desc_set") == 0;
}

/* What the error leaves behind: a device that works again after a reset, or says that it never will. */
static void check_after(struct tl_device *device, bool sticky) {
  struct tl_error err = {0};
  if (sticky) {
    for (unsigned i = 0; i < 2; i++) {
      assert_int_equal(fake_cuda_ops.reset(device, &err), TL_EUNSUPPORTED);
      assert_non_null(strstr(err.message, "cuda:0: the GPU's context is lost until this process ends: a fake error ("));
      assert_int_equal(run(device, 3, decode, &err), TL_EDEVICE);
      assert_non_null(strstr(err.message, "cuda:0: the GPU's context is lost"));
    }
    return;
  }
  if (fake_cuda_ops.reset(device, &err) < 0) fail_msg("after %s: %s", fake_cuda.failed, err.message);
  if (run_three(device, &err) < 0) fail_msg("after %s: %s", fake_cuda.failed, err.message);
}

/* All of a device's life with call n failing; false: it has not so many calls. */
static bool fail_at(unsigned n, int code, bool sticky) {
  start();
  fake_cuda.memory = 48u << 20;
  fake_cuda.fail_at = n;
  fake_cuda.fail_code = code;
  fake_cuda.sticky = sticky;
  struct tl_device *device = NULL;
  struct tl_device_loaded loaded;
  struct tl_error err = {0};
  int r = fake_cuda_ops.open(&options, &device, &err);
  if (r < 0) {
    assert_non_null(fake_cuda.failed);
    assert_null(device);
    assert_int_equal(fake_cuda_live(), 0);
    assert_true(err.code == r && *err.message);
    return true;
  }
  r = load_device(device, 0, 0, &loaded, &err);
  bool steps = r == TL_OK, passed_over = steps && fake_cuda.failed && is_tried(fake_cuda.failed);
  if (steps) r = run_three(device, &err);
  if (fake_cuda.failed && r == TL_OK && !passed_over && !is_cleaning(fake_cuda.failed)) fail_msg("nobody noticed that %s failed", fake_cuda.failed);
  if (r < 0) {
    if (!fake_cuda.failed) fail_msg("%s", err.message);
    assert_true(err.code == r && *err.message);
    if (steps) check_after(device, sticky);
  }
  bool reached = fake_cuda.failed != NULL;
  close_device(device);
  return reached || fake_cuda.failed;
}

static void test_every_call_fails(void **state) {
  (void)state;
  for (unsigned sticky = 0; sticky < 2; sticky++) {
    unsigned n = 1;
    while (fail_at(n, sticky ? 700 : 1, sticky)) n++;
    printf("%u calls, each %s\n", n - 1, sticky ? "for good" : "once");
    assert_true(n > 100);
  }
}

/* What `test` does, to another model. */
static void with_model(const char *name, void (*test)(void **state)) {
  struct tl_model *other = model;
  char folder[1024];
  struct tl_error err = {0};
  if (tl_model_load(unit_golden_path(name, folder), &model, &err) < 0) fail_msg("%s", err.message);
  test(NULL);
  tl_model_free(model);
  model = other;
}

/* To one with experts, a shared one among them. */
static void with_experts(void (*test)(void **state)) {
  with_model("arch/qwen2_moe", test);
}

static void test_experts_every_call_fails(void **state) {
  (void)state;
  with_experts(test_every_call_fails);
}

static void test_drafts_every_call_fails(void **state) {
  draft_tokens = 3;
  test_every_call_fails(state);
  draft_tokens = 0;
}

/* A cross-encoder has all kinds of records that make vectors. */
static void test_states_every_call_fails(void **state) {
  (void)state;
  with_model("arch/qwen3_5", test_every_call_fails);
  with_model("arch/lfm2", test_every_call_fails);
}

static void test_vectors_every_call_fails(void **state) {
  (void)state;
  with_model("encoders/bert_labels", test_every_call_fails);
}

/* The experts' sum comes behind the MLP that all rows have; all of it is in the graphs. */
static void check_order_of_experts(void **state) {
  (void)state;
  start();
  struct tl_error err = {0};
  struct tl_device *device = open_device();
  static const char layers[] = "envdvnvtxxvvinvdvnvvnvdvnvtxxvvinvs";
  assert_string_equal(fake_cuda.order + strlen(fake_cuda.order) - strlen(layers), layers);
  unsigned launches = fake_cuda.n_launches, kernels = fake_cuda.n_kernels;
  assert_int_equal(run(device, 3, decode, &err), TL_OK);
  assert_int_equal(fake_cuda.n_launches, launches);
  assert_int_equal(fake_cuda.n_kernels - kernels, strlen(layers));
  memset(fake_cuda.order, 0, sizeof fake_cuda.order);
  assert_int_equal(run(device, 1, prompt, &err), TL_OK);
  assert_string_equal(fake_cuda.order, "enmkpmnmtxxmgminmkpmnmgmnmkpmnmtxxmgminlvs");
  close_device(device);
}

/* Norms of Q and K over whole rows need all heads: a kernel before attention, also of decode rows alone. */
static void check_order_of_whole_rows(void **state) {
  (void)state;
  start();
  struct tl_device *device = open_device();
  assert_non_null(strstr(fake_cuda.order, "vrkdv"));
  assert_null(strstr(fake_cuda.order, "vdv"));
  close_device(device);
}

static void test_order_of_whole_rows(void **state) {
  (void)state;
  with_model("arch/olmo2", check_order_of_whole_rows);
}

static void test_order_of_experts(void **state) {
  (void)state;
  with_experts(check_order_of_experts);
}

/* An allocation that fails is want of memory, not a broken device. */
static void test_no_memory(void **state) {
  (void)state;
  start();
  struct tl_error err = {0};
  struct tl_device *device;
  struct tl_device_loaded loaded;
  assert_int_equal(fake_cuda_ops.open(&options, &device, &err), TL_OK);
  fake_cuda.fail_at = fake_cuda.n_calls + 3; /* use, memory, alloc */
  fake_cuda.fail_code = CUDA_OUT_OF_MEMORY;
  assert_int_equal(load_device(device, 0, 0, &loaded, &err), TL_ENOMEM);
  assert_string_equal(fake_cuda.failed, "alloc");
  close_device(device);
}

static struct tl_device_loaded load_with(size_t memory, uint64_t kv_bytes, unsigned percent, int expected, struct tl_error *err) {
  start();
  fake_cuda.memory = memory;
  struct tl_device *device;
  struct tl_device_loaded loaded = {0};
  assert_int_equal(fake_cuda_ops.open(&options, &device, err), TL_OK);
  int r = load_device(device, kv_bytes, percent, &loaded, err);
  if (r != expected) fail_msg("%d: %s", r, err->message);
  close_device(device);
  return loaded;
}

static void test_memory(void **state) {
  (void)state;
  struct tl_error err = {0};
  struct tl_device_loaded all = load_with(128u << 20, 0, 0, TL_OK, &err);
  struct tl_device_loaded half = load_with(128u << 20, 0, 45, TL_OK, &err);
  size_t block = all.kv_bytes / all.n_blocks;
  assert_int_equal(block, 2u * 2 * 4 * 16 * 16 * 2); /* layers, k and v, heads, tokens, elements, bytes */
  assert_true(all.weight_bytes >= model->weight_bytes && all.weight_bytes < model->weight_bytes + (1 << 16));
  assert_true(all.kv_bytes - half.kv_bytes > (57u << 20) && all.kv_bytes - half.kv_bytes < (58u << 20)); /* 45 % of 128 MiB */
  struct tl_device_loaded given = load_with(128u << 20, 1u << 20, 0, TL_OK, &err);
  assert_int_equal(given.n_blocks, (1u << 20) / block);
  beside_bytes = 10 << 20, beside_block_bytes = block; /* a draft model's, whose blocks are as large and as many */
  struct tl_device_loaded beside = load_with(128u << 20, 0, 0, TL_OK, &err);
  uint64_t both = (all.kv_bytes - beside_bytes) / (2 * block);
  assert_in_range(beside.n_blocks, both, both + 1);
  beside_bytes = beside_block_bytes = 0, n_blocks = beside.n_blocks;
  assert_int_equal(load_with(128u << 20, 0, 1, TL_OK, &err).n_blocks, n_blocks);
  load_with(64u << 20, 0, 0, TL_ENOMEM, &err);
  n_blocks = 0;
  load_with(128u << 20, 4 * block - 1, 0, TL_ENOMEM, &err); /* a context has four blocks */
  assert_string_equal(err.field, "engine.kv_memory_bytes");
  load_with(32u << 20, 0, 0, TL_ENOMEM, &err);
  assert_string_equal(err.field, "model.path");
  static const char *const says[] = {"MiB of GPU memory are missing", "weights", "KV cache", "engine.max_context",
                                     "engine.tensor_parallel"};
  for (unsigned i = 0; i < UNIT_COUNT(says); i++)
    if (!strstr(err.message, says[i])) fail_msg("'%s' does not say '%s'", err.message, says[i]);
  /* what it says is missing is what is missing */
  load_with(32u << 20, 0, 100, TL_ENOMEM, &err);
  unsigned missing = 0;
  assert_int_equal(sscanf(err.message, "cuda:0: %u MiB", &missing), 1);
  load_with(((size_t)32 + missing) << 20, 0, 100, TL_OK, &err);
  load_with(((size_t)32 + missing - 2) << 20, 0, 100, TL_ENOMEM, &err);
}

struct progress {
  uint64_t done, total;
  unsigned n;
};

static void on_progress(uint64_t done, uint64_t total, void *context) {
  struct progress *p = context;
  assert_true(done >= p->done && done <= total);
  *p = (struct progress){done, total, p->n + 1};
}

static void test_progress(void **state) {
  (void)state;
  start();
  struct tl_device *device;
  struct tl_device_loaded loaded;
  struct tl_error err = {0};
  struct progress p = {0};
  struct tl_device_load load = {.model = model, .max_batch_size = BATCH, .max_batch_tokens = TOKENS, .max_context = CONTEXT,
                                .progress = on_progress, .context = &p};
  assert_int_equal(fake_cuda_ops.open(&options, &device, &err), TL_OK);
  assert_int_equal(fake_cuda_ops.load(device, &load, &loaded, &err), TL_OK);
  assert_true(p.n > 10 && p.total == model->weight_bytes && p.done > p.total * 9 / 10);
  close_device(device);
}

static void check_refused(int expected, const char *field, const char *text) {
  struct tl_device *device = NULL;
  struct tl_error err = {0};
  assert_int_equal(fake_cuda_ops.open(&options, &device, &err), expected);
  assert_string_equal(err.field, field);
  if (!strstr(err.message, text)) fail_msg("%s", err.message);
  assert_int_equal(fake_cuda_live(), 0);
}

/* Which of cuBLASLt's algorithms runs is decided at load by the clock, and then kept. */
static void test_fastest_algorithm(void **state) {
  (void)state;
  static const struct {
    uint32_t ms[4];
    int bad;
    unsigned expected;
  } cases[] = {{{5, 2, 9, 3}, -1, 1}, {{1, 2, 9, 3}, -1, 0}, {{5, 2, 9, 3}, 1, 3}, {{4, 4, 4, 4}, -1, 0}, {{4, 4, 4, 4}, 0, 1}};
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    start();
    struct tl_error err = {0};
    fake_cuda.n_algorithms = 4;
    fake_cuda.bad_algorithm = cases[i].bad;
    memcpy(fake_cuda.algorithm_ms, cases[i].ms, sizeof cases[i].ms);
    struct tl_device *device = open_device();
    assert_true(fake_cuda.n_kernels <= fake_cuda.n_products); /* only products were run, some with scales or a norm behind them */
    assert_true(fake_cuda.n_by_algorithm[cases[i].expected] >= 4);
    memset(fake_cuda.n_by_algorithm, 0, sizeof fake_cuda.n_by_algorithm);
    for (int k = 0; k < 3; k++) assert_int_equal(run(device, 1, prompt, &err), TL_OK);
    for (unsigned a = 0; a < 4; a++) assert_true((fake_cuda.n_by_algorithm[a] > 0) == (a == cases[i].expected));
    close_device(device);
  }
}

static void test_every_call_of_choosing_fails(void **state) {
  (void)state;
  unsigned n_calls = 0;
  for (unsigned at = 0; at <= n_calls; at++) {
    struct tl_device *device = NULL;
    struct tl_device_loaded loaded;
    struct tl_error err = {0};
    start();
    fake_cuda.uncounted_polls = true;
    fake_cuda.n_algorithms = 2;
    fake_cuda.fail_at = at;
    fake_cuda.fail_code = 999;
    int r = fake_cuda_ops.open(&options, &device, &err);
    if (r == TL_OK) r = load_device(device, 0, 0, &loaded, &err);
    if (at == 0) n_calls = fake_cuda.n_calls;
    if (at > 0 && is_left_out(fake_cuda.failed)) assert_int_equal(r, TL_OK);
    bool passed_over = fake_cuda.failed && is_tried(fake_cuda.failed);
    if (at > 0 && r == TL_OK && !passed_over && !is_cleaning(fake_cuda.failed)) fail_msg("nobody noticed that %s failed", fake_cuda.failed);
    fake_cuda_ops.close(device);
    assert_int_equal(fake_cuda_live(), 0);
  }
  assert_true(n_calls > 100);
}

/* --- E4M3 by E4M3 ----------------------------------------------------------------------------------- */

/* Steps of more than 16 rows: prompts, and graphs. */
static void check_e4m3_order(uint32_t scales_ms, const char *mixed_order, const char *graph_order) {
  start();
  fake_cuda.scales_ms = scales_ms;
  struct tl_error err = {0};
  struct tl_device *device;
  struct tl_device_loaded loaded;
  struct tl_device_load load = {.model = model, .max_batch_size = 24, .max_batch_tokens = TOKENS, .max_context = CONTEXT};
  assert_int_equal(fake_cuda_ops.open(&options, &device, &err), TL_OK);
  if (fake_cuda_ops.load(device, &load, &loaded, &err) < 0) fail_msg("%s", err.message);
  assert_string_equal(fake_cuda.order + strlen(fake_cuda.order) - strlen(graph_order), graph_order);
  memset(fake_cuda.order, 0, sizeof fake_cuda.order);
  assert_int_equal(run(device, 4, mixed, &err), TL_OK);
  assert_string_equal(fake_cuda.order, mixed_order);
  memset(fake_cuda.order, 0, sizeof fake_cuda.order);
  assert_int_equal(run(device, 3, decode, &err), TL_OK);
  assert_string_equal(fake_cuda.order, "");
  close_device(device);
}

/* The tests above once more, with a model whose layers are E4M3 and GPUs that multiply that. */
static void test_e4m3(void **state) {
  (void)state;
  struct tl_model *before = model;
  struct e4m3_model *m = new_e4m3_model("llama/f16_sharded", false);
  model = m->model;
  check_e4m3_order(0, "en8kdpf8n8g8n8kdpf8n8g8nlvs", "en8kdf8n8g8n8kdf8n8g8nms");
  check_e4m3_order(1, "en8kdpf8n8g8n8kdpf8n8g8nlvs", "en8kdf8n8g8n8kdf8n8g8nms"); /* our scales are faster: who reads the results applies them */
  test_every_call_fails(NULL);
  test_every_call_of_choosing_fails(NULL);
  test_fastest_algorithm(NULL);
  is_ada = true;
  check_e4m3_order(0, "en8kdpf8n8g8n8kdpf8n8g8nlvs", "en8kdf8n8g8n8kdf8n8g8nms");
  test_every_call_fails(NULL);
  is_ada = false;
  model = before;
  free_e4m3_model(m);
}

/* When time is up, who applies scales is who was quicker with fewer rows, which of all shapes were timed by then. */
static void test_late_scales(void **state) {
  (void)state;
  struct tl_model *before = model;
  struct e4m3_model *m = new_e4m3_model("llama/f16_sharded", false);
  model = m->model;
  unsigned n_timings = 0;
  for (unsigned late = 0; late < 2; late++) {
    struct tl_error err = {0};
    struct tl_device_loaded loaded;
    struct tl_device *device;
    start();
    fake_cuda.scales_ms = 1;
    fake_cuda.nap_at = n_timings / 2; /* there are two buckets */
    fake_cuda.nap_ms = 1200;
    assert_int_equal(fake_cuda_ops.open(&options, &device, &err), TL_OK);
    struct cuda_device *d = (struct cuda_device *)(void *)device;
    d->choose_ns = 1000000000;
    assert_int_equal(load_device(device, 0, 0, &loaded, &err), TL_OK);
    assert_int_equal(d->products.n_buckets, 2);
    for (unsigned i = 0; i < d->products.n_shapes; i++)
      for (unsigned b = 0; b < 2 && d->products.shapes[i].e4m3 && d->products.shapes[i].parts == 1; b++)
        assert_int_equal(d->products.shapes[i].ways[b].scaling, CUDA_THEN_SCALED);
    assert_true(!late || fake_cuda.n_timings < n_timings);
    n_timings = fake_cuda.n_timings;
    close_device(device);
  }
  model = before;
  free_e4m3_model(m);
}

/* Where nobody takes scales over, a kernel that applies them is part of what is timed: of the products whose results `reader` reads. */
static void check_untaken_scales(char reader) {
  for (uint32_t scale_ms = 0; scale_ms < 10; scale_ms += 9) { /* 9: gates have the same shape and leave theirs, so these count half */
    struct tl_error err = {0};
    const char by_ours[] = {'8', 'u', reader, 0}, by_lt[] = {'8', reader, 0};
    start();
    fake_cuda.scales_ms = 1;
    fake_cuda.scale_ms = scale_ms;
    struct tl_device *device = open_device();
    memset(fake_cuda.order, 0, sizeof fake_cuda.order);
    assert_int_equal(run(device, 1, prompt, &err), TL_OK);
    if (!strstr(fake_cuda.order, scale_ms ? by_lt : by_ours)) fail_msg("%s", fake_cuda.order);
    assert_null(strstr(fake_cuda.order, scale_ms ? by_ours : by_lt));
    close_device(device);
  }
}

static void test_untaken_scales(void **state) {
  (void)state;
  struct tl_model *before = model;
  for (unsigned i = 0; i < 2; i++) {
    struct e4m3_model *m = new_e4m3_model("llama/f16_sharded", false);
    struct tl_op *plan = (struct tl_op *)m->model->plan;
    int norm = -1;
    for (uint32_t k = 0; k < m->model->n_ops; k++) { /* vectors of 64, as are its biases, and Q and K */
      if (plan[k].kind == TL_OP_RMSNORM) norm = plan[k].weight[0];
      if (i && plan[k].kind == TL_OP_ATTN_OUT) plan[k].bias[0] = norm;
      if (!i && plan[k].kind == TL_OP_ROPE)
        plan[k] = (struct tl_op){.kind = TL_OP_QK_NORM, .features = TL_F_WHOLE_ROW, .layer = plan[k].layer, .weight = {norm, norm}};
    }
    model = m->model;
    check_untaken_scales(i ? 'b' : 'r');
    free_e4m3_model(m);
  }
  model = before;
}

static void test_no_device(void **state) {
  (void)state;
  start();
  fake_cuda.count_error = CUDA_DRIVER_TOO_OLD;
  check_refused(TL_EUNSUPPORTED, "devices", "devices: no NVIDIA driver: ");
  start();
  fake_cuda.n_devices = 0;
  check_refused(TL_EINVAL, "devices", "there are 0 GPUs");
  start();
  fake_cuda.compute_major = 7;
  check_refused(TL_EUNSUPPORTED, "devices", "compute capability 7.0, 8.0 is needed");
}

/* Plans with records that the backend does not know, or not at that place. */
static void test_other_plans(void **state) {
  (void)state;
  struct tl_op *plan = (struct tl_op *)model->plan;
  for (uint32_t i = 0; i < model->n_ops; i++) {
    static const int others[] = {99, TL_OP_EMBED, TL_OP_QKV};
    for (unsigned k = 0; k < UNIT_COUNT(others); k++) {
      struct tl_op before = plan[i];
      struct tl_error err = {0};
      if ((int)before.kind == others[k]) continue;
      plan[i].kind = (enum tl_op_kind)others[k];
      load_with(128u << 20, 0, 0, TL_EUNSUPPORTED, &err);
      assert_string_equal(err.field, "model.path");
      plan[i] = before;
    }
  }
  uint32_t n = model->n_ops--; /* no logits */
  struct tl_error err = {0};
  load_with(128u << 20, 0, 0, TL_EUNSUPPORTED, &err);
  model->n_ops = n;
}

/* Shapes that may be left out take no place from those that must be there: MLPs of many lengths, behind one another. */
static void test_many_shapes(void **state) {
  (void)state;
  enum { MORE = (CUDA_MAX_PRODUCTS - 4) / 2 }; /* two shapes each; the model has 4, and no place is left */
  struct tl_op plan[64 + 3 * MORE + 3], *to = plan;
  struct tl_tensor tensors[64 + 3 * MORE];
  const struct tl_model before = *model;
  const uint32_t dim = model->dim, n = model->n_ops - 2; /* a norm and the logits are the last */
  uint16_t *zeros = calloc((size_t)(10 + MORE) * 16 * dim, sizeof *zeros);
  assert_true(model->n_ops <= 64 && model->n_tensors <= 64 && model->plan[n - 3].kind == TL_OP_RMSNORM && model->plan[n - 1].kind == TL_OP_MLP_DOWN);
  memcpy(tensors, model->tensors, model->n_tensors * sizeof *tensors);
  memcpy(to, model->plan, n * sizeof *to);
  to += n;
  for (uint32_t i = 1; i <= MORE; i++) {
    int32_t at = (int32_t)model->n_tensors;
    memcpy(to, &plan[n - 3], 3 * sizeof *to);
    for (int32_t k = 0; k < 3; k++) { /* gate, up, down */
      uint64_t inner = 16 * (10 + i), rows = k < 2 ? inner : dim;
      tensors[at + k] = (struct tl_tensor){.name = "more", .dtype = TL_DTYPE_F16, .n_dims = 2, .shape = {rows, inner + dim - rows}, .data = zeros,
                                           .bytes = inner * dim * sizeof *zeros};
      to[1 + k / 2].weight[k % 2] = at + k;
    }
    model->n_tensors += 3;
    to += 3;
  }
  memcpy(to, &before.plan[n], 2 * sizeof *to);
  model->plan = plan;
  model->n_ops = (uint32_t)(to + 2 - plan);
  model->tensors = tensors;
  start();
  struct tl_device *device = open_device();
  const struct cuda_products *products = &((struct cuda_device *)(void *)device)->products;
  assert_int_equal(products->n_shapes, CUDA_MAX_PRODUCTS);
  for (unsigned i = 0; i < products->n_shapes; i++) assert_int_equal(products->shapes[i].parts, 1);
  close_device(device);
  *model = before;
  free(zeros);
}

/* A kernel that traps is noticed by collect, and for good. */
static void test_trap(void **state) {
  (void)state;
  for (unsigned at = 1; at < 40; at += 3) {
    start();
    struct tl_device *device = open_device();
    struct tl_error err = {0};
    fake_cuda.trap_at = fake_cuda.n_kernels + at;
    assert_int_equal(run_three(device, &err), TL_EDEVICE);
    check_after(device, true);
    assert_non_null(strstr(err.message, "(719)"));
    close_device(device);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_order), cmocka_unit_test(test_drafts), cmocka_unit_test(test_drafts_every_call_fails), cmocka_unit_test(test_order_of_experts), cmocka_unit_test(test_order_of_whole_rows), cmocka_unit_test(test_every_call_fails),
      cmocka_unit_test(test_experts_every_call_fails), cmocka_unit_test(test_states_every_call_fails), cmocka_unit_test(test_vectors_every_call_fails),
      cmocka_unit_test(test_no_memory),
      cmocka_unit_test(test_memory),    cmocka_unit_test(test_fastest_algorithm),
      cmocka_unit_test(test_every_call_of_choosing_fails),
      cmocka_unit_test(test_progress), cmocka_unit_test(test_e4m3),
      cmocka_unit_test(test_untaken_scales), cmocka_unit_test(test_late_scales), cmocka_unit_test(test_no_device),       cmocka_unit_test(test_other_plans),
      cmocka_unit_test(test_many_shapes), cmocka_unit_test(test_trap),
  };
  return cmocka_run_group_tests(tests, open_model, close_model);
}
