/* SPDX-License-Identifier: MIT */
/* Whole models through the CUDA backend's host part, with kernels on fibers, against
 * transformers: alone, in chunks, among others, as graphs. With ON_GPU the same on the plugin and the GPU cuda:0. */
#include <math.h>

#include "cuda_architectures.h"
#include "device/cuda/cuda_private.h"
#include "e4m3_model.h"
#include "gpu_machine.h"
#include "golden_llama.h"
#include "twin_runner.h"

static const char *const model_names[] = {"f32_odd", "bf16_tied", "f32_llama3", "f16_sharded", "arch/llama4_long", "arch/ministral3_long"};

/* Activations are 16-bit; floats become F16. A factor of cosines and sines is in a score twice, and what rounding
 * did to q and k with it. */
static double tolerance_of(const struct golden *g) {
  double sharper = 1;
  for (uint32_t i = 0; i < g->model->n_ops; i++) {
    const struct tl_op *op = &g->model->plan[i];
    if (op->kind == TL_OP_ROPE && op->features & TL_F_FACTOR) sharper = (double)op->factor * (double)op->factor;
  }
  return (g->model->dtype == TL_DTYPE_BF16 ? 1e-1 : 3e-2) * sharper;
}

static struct golden *open_model(const char *name) {
  struct golden *g = malloc(sizeof *g);
  IF_FAKE(fake_cuda_reset(); fake_cuda.n_algorithms = 2;) /* they are timed, on real weights */
  open_golden(name, g);
  return g;
}

static struct machine open_gpu(const struct tl_model *model, uint32_t max_batch_size) {
  struct machine m = begin_gpu(model);
  load_gpu(&m, model, (struct tl_device_load){.max_batch_size = max_batch_size}, 4000);
  assert_true(m.n_blocks >= 17 * TABLE);
  return m;
}

static void close_all(struct machine *m, struct golden *g) {
  close_gpu(m);
  close_golden(g);
  free(g);
}

/* What was generated so far. */
static double check(const struct golden_case *c, const struct sequence *s, double tolerance) {
  double worst = 0;
  for (uint32_t i = 0; i < s->length - c->n_prompt; i++) {
    const struct tl_sampled *got = &s->sampled[c->n_prompt + i];
    if (got->token != c->tokens[i]) fail_msg("token %u of %u: %d, expected %d", i, c->n_prompt, got->token, c->tokens[i]);
    worst = fmax(worst, fabs((double)got->logprob - c->logprobs[i]));
    assert_int_equal(got->n_top, N_TOP);
    for (int k = 0; k < N_TOP; k++) worst = fmax(worst, fabs((double)got->top_logprobs[k] - c->top_logprobs[i][k]) / 2);
  }
  if (!(worst <= tolerance)) fail_msg("log-probabilities off by %g", worst);
  return worst;
}

static double run_case(struct machine *m, const struct golden *g, unsigned k, uint32_t n_new, const uint32_t *chunks,
                       unsigned n_chunks) {
  struct sequence *s = new_sequence(g->cases[k].prompt, g->cases[k].n_prompt);
  run_alone(m, s, n_new, chunks, n_chunks);
  double worst = check(&g->cases[k], s, tolerance_of(g));
  free(s);
  return worst;
}

static void test_against_transformers(void **state) {
  (void)state;
  static const uint32_t odd[] = {150, 7, 1, 33};
  for (unsigned i = 0; i < UNIT_COUNT(model_names); i++) {
    struct golden *g = open_model(model_names[i]);
    struct machine m = open_gpu(g->model, 4);
    double worst = run_case(&m, g, 0, 12, whole, 1);
    worst = fmax(worst, run_case(&m, g, 1, 5, whole, 1));
    bool is_long = i % 2 || i == 4; /* of each format once: fibers take their time; chunks, queries that grow */
    if (is_long) worst = fmax(worst, run_case(&m, g, 2, 4, odd, UNIT_COUNT(odd)));
    printf("%s: log-probabilities within %.2g\n", g->folder, worst);
    IF_FAKE(assert_int_equal(fake_cuda.n_graphs, 3);)  /* for 1, 2 and 4 sequences */
    /* a chunk of one token whose row is not wanted is none */
    IF_FAKE(assert_int_equal(fake_cuda.n_replays, 11 + 4 + (is_long ? 3 : 0));)
    close_all(&m, g);
  }
}

/* A file in which the rows of Q and K stand in another order. */
static void test_rows_in_pairs(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  char path[640];
  struct tl_error err = {0};
  snprintf(path, sizeof path, "%s/../../gguf/llama_f16_sharded-00001-of-00002.gguf", g->folder);
  tl_model_free(g->model);
  if (tl_model_load(path, &g->model, &err) < 0) fail_msg("%s", err.message);
  assert_true(g->model->n_tensors > 0);
  struct machine m = open_gpu(g->model, 4);
  run_case(&m, g, 1, 5, whole, 1);
  close_all(&m, g);
}

static void check_architecture(const struct golden *g) {
  static const uint32_t odd[] = {40, 7, 1, 23};
  struct machine m = open_gpu(g->model, 4);
  double worst = run_case(&m, g, 0, 12, whole, 1);
  worst = fmax(worst, run_case(&m, g, 1, 5, whole, 1));
  worst = fmax(worst, run_case(&m, g, 1, 3, odd, UNIT_COUNT(odd)));
  printf("%s: log-probabilities within %.2g\n", g->folder, worst);
  close_gpu(&m);
}

/* Norms, rotations, windows, caps and factors of all that the table of architectures knows; on fibers, which are slow, of those that bring something new. */
static void test_architectures(void **state) {
  (void)state;
  IF_FAKE(struct seen_records seen = {0};)
  for (unsigned i = 0; i < UNIT_COUNT(architecture_names); i++) {
    struct golden *g = open_model(architecture_names[i]);
    bool is_new = true;
    IF_FAKE(is_new = brings_new(g->model, &seen);)
    if (is_new) check_architecture(g);
    close_golden(g);
    free(g);
  }
}

static void check_refused(struct golden *g, const struct tl_model *model, const char *why) {
  struct tl_device *device;
  struct tl_error err = {0};
  struct tl_device_options options = {.n_lanes = 2};
  IF_FAKE(fake_cuda_reset();)
  assert_int_equal(find_ops()->open(&options, &device, &err), TL_OK);
  struct tl_device_load load = {.model = model, .max_batch_size = 4, .max_batch_tokens = BATCH_TOKENS, .max_context = MAX_CONTEXT};
  struct tl_device_loaded loaded;
  assert_int_equal(find_ops()->load(device, &load, &loaded, &err), TL_EUNSUPPORTED);
  if (!strstr(err.message, "the CUDA backend cannot run this") || !strstr(err.message, why)) fail_msg("%s: %s", g->folder, err.message);
  find_ops()->close(device);
  IF_FAKE(assert_int_equal(fake_cuda_live(), 0);)
}

/* What no kernel does is refused, not left out: an unknown feature of any record, a record that is missing. */
static void test_unknown_records(void **state) {
  (void)state;
  static const char *const names[] = {"arch/gemma3", "arch/olmo2", "arch/qwen2_moe", "arch/gpt_oss", "arch/cohere", "arch/deepseek_v3",
                                      "arch/qwen3_next", "arch/lfm2", "arch/granitemoehybrid", "arch/nemotron_h"};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden *g = open_model(names[i]);
    struct tl_op plan[64];
    struct tl_model model = *g->model;
    assert_true(model.n_ops < UNIT_COUNT(plan));
    model.plan = plan;
    for (uint32_t k = 0; k < model.n_ops; k++) {
      memcpy(plan, g->model->plan, model.n_ops * sizeof *plan);
      plan[k].features |= 1u << 31;
      check_refused(g, &model, "of its plan, of kind");
    }
    model.n_ops--;
    for (uint32_t k = 0; k < model.n_ops; k++) {
      enum tl_op_kind kind = g->model->plan[k].kind;
      if (kind == TL_OP_ROPE || kind == TL_OP_QK_NORM) continue; /* a layer may lack them */
      memcpy(plan, g->model->plan, k * sizeof *plan);
      memcpy(plan + k, g->model->plan + k + 1, (model.n_ops - k) * sizeof *plan);
      check_refused(g, &model, "of its plan, of kind");
    }
    model = *g->model;
    model.pooling = TL_POOL_MEAN;
    check_refused(g, &model, "a plan that does not end in a vector");
    close_golden(g);
    free(g);
  }
}

/* Heads' matrices as GGUF has them, by outputs. */
static void test_latents_by_outputs(void **state) {
  (void)state;
  struct golden *g = open_model("arch/deepseek_v2_lite");
  char path[640];
  struct tl_error err = {0};
  snprintf(path, sizeof path, "%s/../../gguf/arch_deepseek_v2_lite.gguf", g->folder);
  tl_model_free(g->model);
  if (tl_model_load(path, &g->model, &err) < 0) fail_msg("%s", err.message);
  struct machine m = open_gpu(g->model, 4);
  run_case(&m, g, 1, 5, whole, 1);
  close_all(&m, g);
}

/* Latents whose sizes no kernel knows; the CPU backend does. */
static void test_odd_latents(void **state) {
  (void)state;
  struct golden *g = open_model("arch/deepseek_v2");
  check_refused(g, g->model, "q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim: expected multiples of 8");
  struct tl_model model = *g->model;
  model.n_latent = 520;
  model.head_dim = 584;
  check_refused(g, &model, "latents (kv_lora_rank) of more than 512 elements");
  close_golden(g);
  free(g);
}

/* Chunks are whole blocks of the cache, and all layers have the same, and grow alike. */
static void test_odd_chunks(void **state) {
  (void)state;
  static const struct {
    uint32_t layer, features, window;
    const char *why;
  } cases[] = {{0, TL_F_CHUNKED, 24, "no multiple of 16"}, {1, TL_F_CHUNKED, 64, "several sizes"}, {1, TL_F_WINDOW, 32, "windows beside chunks"},
               {0, TL_F_CHUNKED | TL_F_GROWS, 32, "grow in several ways"}};
  struct golden *g = open_model("arch/llama4_long");
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_op plan[100], *op = plan;
    struct tl_model model = *g->model;
    assert_true(model.n_ops <= UNIT_COUNT(plan));
    memcpy(plan, model.plan, model.n_ops * sizeof *plan);
    model.plan = plan;
    while (op->kind != TL_OP_ATTEND || op->layer != cases[i].layer) op++;
    op->features = cases[i].features;
    op->window = cases[i].window;
    op->growth = (struct tl_growth){0.1f, 21, 1};
    check_refused(g, &model, cases[i].why);
  }
  close_golden(g);
  free(g);
}

/* A product that is only possible with all rows of its bucket. */
static void test_picky_products(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  IF_FAKE(fake_cuda.picky = true;)
  struct machine m = open_gpu(g->model, 4);
  run_case(&m, g, 1, 2, whole, 1);
  IF_FAKE(assert_true(fake_cuda.n_products > 0);)
  close_all(&m, g);
}

/* Products whose k is in parts, which norms sum up: wherever they may be, if a whole takes longer than that. */
static void check_parted_products(uint32_t part_ms, bool expected) {
  struct golden *g = open_model("f16_sharded");
  (void)part_ms, (void)expected; /* on a GPU the clock says which */
  IF_FAKE(fake_cuda.whole_ms = 3; fake_cuda.part_ms = part_ms;)
  struct machine m = open_gpu(g->model, 4);
  IF_FAKE(unsigned n_tried = fake_cuda.n_parted;) /* as it was loaded */
  for (unsigned k = 0; k < 2; k++) run_case(&m, g, k, 2, whole, 1);
  IF_FAKE(assert_true(n_tried > 0 && (fake_cuda.n_parted > n_tried) == expected);)
  close_all(&m, g);
}

static void test_parted_products(void **state) {
  (void)state;
  check_parted_products(1, true);
  check_parted_products(2, false);
}

/* Prompts in chunks of any size and decodes together: steps with both kinds of attention. */
static void check_among_others(const char *name) {
  enum { CROWD = 5, NEW = 4 };
  uint64_t random = 5;
  struct golden *g = open_model(name);
  struct machine m = open_gpu(g->model, 8);
  struct sequence *crowd[CROWD];
  for (unsigned i = 0; i < CROWD; i++) {
    const struct golden_case *c = &g->cases[i % 2];
    crowd[i] = new_sequence(c->prompt, c->n_prompt);
  }
  for (unsigned running = 1; running;) {
    struct part parts[CROWD];
    unsigned n = 0;
    running = 0;
    for (unsigned i = 0; i < CROWD; i++) {
      if (is_done(crowd[i], NEW)) continue;
      running++;
      uint32_t left = crowd[i]->length - crowd[i]->n_cached;
      if (unit_below(&random, 5)) parts[n++] = (struct part){crowd[i], 1 + unit_below(&random, left)};
    }
    if (n) run_parts(&m, parts, n);
  }
  for (unsigned i = 0; i < CROWD; i++) {
    check(&g->cases[i % 2], crowd[i], tolerance_of(g));
    free(crowd[i]);
  }
  close_all(&m, g);
}

static void test_among_others(void **state) {
  (void)state;
  static const char *const names[] = {"bf16_tied",       "arch/qwen2_moe", "arch/gpt_oss",   "arch/deepseek_v2_lite",
                                      "arch/qwen3_next", "arch/lfm2_moe",  "arch/nemotron_h"};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) check_among_others(names[i]);
}

/* Experts in blocks go up as the values that transformers computed with, in the wider of the 16-bit types if most weights are such. */
static void test_experts_in_blocks(void **state) {
  (void)state;
  for (unsigned mostly = 0; mostly < 2; mostly++) {
    struct golden *g = open_model("arch/gpt_oss_mxfp4");
    struct tl_model model = *g->model, *own = g->model;
    if (mostly) model.weight_dtype = TL_DTYPE_MXFP4;
    struct machine m = open_gpu(&model, 4);
    model.dtype = mostly ? TL_DTYPE_BF16 : own->dtype; /* as precise as that */
    g->model = &model;
    double worst = run_case(&m, g, 0, 12, whole, 1);
    worst = fmax(worst, run_case(&m, g, 1, 5, whole, 1));
    printf("%s: log-probabilities within %.2g\n", g->folder, worst);
    g->model = own;
    close_all(&m, g);
  }
}

static void test_scored_prompt(void **state) {
  (void)state;
  struct golden *g = open_model("f32_llama3");
  const struct golden_case *c = &g->cases[1];
  assert_int_equal(c->n_scored, c->n_prompt - 1);
  struct machine m = open_gpu(g->model, 64);
  struct sequence *s = new_sequence(c->prompt, c->n_prompt);
  s->score_prompt = true;
  run_alone(&m, s, 1, whole, 1);
  for (uint32_t i = 0; i < c->n_scored; i++) {
    assert_int_equal(s->sampled[i + 1].token, c->prompt[i + 1]);
    double off = fabs((double)s->sampled[i + 1].logprob - c->prompt_logprobs[i]);
    if (!(off <= tolerance_of(g))) fail_msg("token %u of the prompt is off by %g", i, off);
  }
  free(s);
  close_all(&m, g);
}

/* Greedy decoding a step ahead of what the host knows: two sequences side by side, one of which changes its row. */
static void test_run_ahead(void **state) {
  (void)state;
  enum { NEW = 10 };
  struct golden *g = open_model("f16_sharded");
  struct machine m = open_gpu(g->model, 4);
  struct sequence *s[2];
  struct part parts[2];
  for (unsigned i = 0; i < 2; i++) {
    s[i] = new_sequence(g->cases[i].prompt, g->cases[i].n_prompt);
    parts[i] = (struct part){s[i], s[i]->length};
  }
  run_parts(&m, parts, 2);
  /* a step's arrays stay until it is collected */
  static struct two {
    int32_t tokens[2];
    uint32_t positions[2], slots[2], query_start[3], context_len[2], tables[2 * TABLE], rows[2];
    struct tl_sampling sampling[2];
    struct tl_step step;
  } ahead[2];
  struct tl_error err = {0};
  for (unsigned k = 0; k <= NEW; k++) {
    struct two *a = &ahead[k % 2];
    *a = (struct two){.query_start = {0, 1, 2}, .rows = {0, 1}};
    a->step = (struct tl_step){.n_tokens = 2, .n_seqs = 2, .n_rows = 2, .table_stride = TABLE, .tokens = a->tokens,
                               .positions = a->positions, .slots = a->slots, .query_start = a->query_start,
                               .context_len = a->context_len, .block_tables = a->tables, .rows = a->rows, .sampling = a->sampling};
    for (unsigned i = 0; i < 2 && k < NEW; i++) {
      struct sequence *q = s[(i + k) % 2]; /* its row in the step before was the other one */
      uint32_t at = q->n_prompt + k;
      while (q->n_blocks * TL_BLOCK_TOKENS <= at) q->table[q->n_blocks++] = m.blocks[m.next_block++];
      memcpy(a->tables + i * TABLE, q->table, sizeof q->table);
      a->tokens[i] = k ? -2 - (int32_t)(1 - i) : q->tokens[at];
      a->positions[i] = at;
      a->slots[i] = q->table[at / TL_BLOCK_TOKENS] * TL_BLOCK_TOKENS + at % TL_BLOCK_TOKENS;
      a->context_len[i] = at + 1;
      a->sampling[i] = q->sampling;
      a->sampling[i].position = at + 1;
    }
    if (k < NEW && m.ops->submit(m.device, &a->step, &err) < 0) fail_msg("%s", err.message);
    struct tl_sampled sampled[2];
    if (k > 0 && m.ops->collect(m.device, sampled, &err) < 0) fail_msg("%s", err.message);
    for (unsigned i = 0; k > 0 && i < 2; i++) {
      struct sequence *q = s[(i + k - 1) % 2];
      q->sampled[q->length] = sampled[i];
      q->tokens[q->length++] = sampled[i].token;
    }
  }
  for (unsigned i = 0; i < 2; i++) {
    assert_int_equal(s[i]->length, s[i]->n_prompt + NEW + 1);
    check(&g->cases[i], s[i], tolerance_of(g));
    free(s[i]);
  }
  close_all(&m, g);
}

static bool is_same(const struct tl_sampled *a, const struct tl_sampled *b) {
  return a->token == b->token && memcmp(&a->logprob, &b->logprob, sizeof a->logprob) == 0 && a->n_top == b->n_top &&
         memcmp(a->top_tokens, b->top_tokens, N_TOP * sizeof *a->top_tokens) == 0 &&
         memcmp(a->top_logprobs, b->top_logprobs, N_TOP * sizeof *a->top_logprobs) == 0;
}

/* A decode step again and again. */
static void check_again(struct machine *m, struct sequence *const *s, unsigned n, unsigned times) {
  struct tl_sampled first[8];
  struct part parts[8];
  for (unsigned k = 0; k < times; k++) {
    for (unsigned i = 0; i < n; i++) parts[i] = (struct part){s[i], 1};
    run_parts(m, parts, n);
    for (unsigned i = 0; i < n; i++) {
      const struct tl_sampled *got = &s[i]->sampled[--s[i]->length];
      s[i]->n_cached--;
      if (k == 0) first[i] = *got;
      else if (!is_same(got, &first[i])) fail_msg("sequence %u of %u, run %u: token %d, %.9g; first %d, %.9g", i, n, k, got->token,
                                                  (double)got->logprob, first[i].token, (double)first[i].logprob);
    }
  }
}

/* Steps of so few rows that kernels start early, in graphs, give the same to the bit each time: a kernel that reads what the one before has not
 * written yet does not. Contexts are long enough for attention's parts to be merged. */
static void test_again(void **state) {
  (void)state;
  static const char *const names[] = {"f16_sharded", "bf16_tied", "arch/gemma2", "arch/olmo2", "arch/gpt_oss"};
  unsigned times = 500;
  uint32_t length = 300;
  IF_FAKE(times = 2; length = 20;)
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden *g = open_model(names[i]);
    struct machine m = open_gpu(g->model, 8);
    struct sequence *s[8];
    for (unsigned k = 0; k < 8; k++) {
      s[k] = new_random_prompt(m.vocab, length - k, k);
      run_alone(&m, s[k], 1, whole, 1);
    }
    for (unsigned n = 1; n <= 8; n += 1 + n / 2) check_again(&m, s, n, times); /* 1, 2, 4, 7 */
    for (unsigned k = 0; k < 8; k++) free(s[k]);
    close_all(&m, g);
  }
}

/* Each row's own lists, also when there is room for those of one row only. */
static void check_lists(uint32_t max_entries) {
  enum { SEQS = 3, BIASES = 5, HISTORY = 7 };
  struct golden *g = open_model("f16_sharded");
  struct machine m = open_gpu(g->model, 4);
  if (max_entries) ((struct cuda_device *)(void *)m.device)->limits.max_entries = max_entries;
  struct sequence *s[SEQS];
  struct tl_token_bias bias[SEQS][BIASES];
  struct tl_token_count history[HISTORY];
  struct part parts[SEQS];
  for (unsigned i = 0; i < SEQS; i++) {
    s[i] = new_sequence(g->cases[0].prompt, g->cases[0].n_prompt);
    for (unsigned k = 0; k < BIASES; k++) bias[i][k] = (struct tl_token_bias){(int32_t)(40 * i + k), k == i ? 1000 : -1000};
    s[i]->sampling.bias = bias[i];
    s[i]->sampling.n_bias = BIASES;
    parts[i] = (struct part){s[i], s[i]->length};
  }
  /* the last one's penalties outweigh its biases */
  for (unsigned k = 0; k < HISTORY; k++) history[k] = (struct tl_token_count){80 + (int32_t)k, 1};
  s[2]->sampling.presence_penalty = 2;
  s[2]->sampling.frequency_penalty = 5000;
  s[2]->sampling.history = history;
  s[2]->sampling.n_history = HISTORY;
  run_parts(&m, parts, SEQS);
  assert_int_equal(s[0]->tokens[s[0]->n_prompt], 0);
  assert_int_equal(s[1]->tokens[s[1]->n_prompt], 41);
  assert_int_equal(s[2]->tokens[s[2]->n_prompt], g->cases[0].tokens[0]);
  assert_true(g->cases[0].tokens[0] < 80 || g->cases[0].tokens[0] > 86);
  for (unsigned i = 0; i < SEQS; i++) free(s[i]);
  close_all(&m, g);
}

static void test_lists(void **state) {
  (void)state;
  check_lists(0);
  check_lists(8);
}

/* Each row's own mask, of a prompt and as a graph; log-probabilities know nothing of it. */
static void test_masks(void **state) {
  (void)state;
  enum { SEQS = 3, NEW = 2 };
  struct golden *g = open_model("f16_sharded");
  struct machine m = open_gpu(g->model, 4);
  int32_t best = g->cases[0].tokens[0];
  uint32_t masks[2][TL_MASK_WORDS(512)] = {{0}};
  struct sequence *s[SEQS];
  struct part parts[SEQS];
  assert_in_range(m.vocab, 256, 511);
  masks[0][9 / 32] |= 1u << 9;
  masks[0][(m.vocab - 1) / 32] |= 1u << (m.vocab - 1) % 32;
  memset(masks[1], 0xff, sizeof masks[1]);
  masks[1][best / 32] &= ~(1u << best % 32);
  for (unsigned i = 0; i < SEQS; i++) {
    s[i] = new_sequence(g->cases[0].prompt, g->cases[0].n_prompt);
    parts[i] = (struct part){s[i], s[i]->length};
  }
  s[0]->sampling.mask = masks[0];
  s[2]->sampling.mask = masks[1];
  for (unsigned k = 0; k < NEW; k++) {
    run_parts(&m, parts, SEQS);
    for (unsigned i = 0; i < SEQS; i++) parts[i].n = 1;
  }
  for (unsigned k = 0; k < NEW; k++) {
    uint32_t at = g->cases[0].n_prompt + k;
    assert_true(s[0]->tokens[at] == 9 || s[0]->tokens[at] == (int32_t)m.vocab - 1);
    assert_int_equal(s[1]->tokens[at], g->cases[0].tokens[k]);
    assert_int_not_equal(s[2]->tokens[at], best);
  }
  for (unsigned i = 0; i < SEQS; i++) assert_int_equal(s[i]->sampled[g->cases[0].n_prompt].top_tokens[0], best);
  assert_int_equal(s[2]->tokens[g->cases[0].n_prompt], s[1]->sampled[g->cases[0].n_prompt].top_tokens[1]);
  for (unsigned i = 0; i < SEQS; i++) free(s[i]);
  close_all(&m, g);
}

/* E4M3 weights by rows in E4M3, as a prompt's and as a graph of 18 sequences. An element of a row is rounded to four
 * bits, which is 3 % of it; what that does to a log-probability of these small models is 0.2 to 0.3, of 16-bit
 * rows 0.01 to 0.05. */
static void check_e4m3(uint32_t whole_ms) {
  enum { CROWD = 18, NEW = 3 };
  (void)whole_ms; /* on a GPU the clock says which */
  IF_FAKE(fake_cuda_reset(); fake_cuda.whole_ms = whole_ms;)
  struct e4m3_model *e = new_e4m3_model("llama/f16_sharded", false);
  struct machine m = open_gpu(e->model, 24);
  IF_FAKE(unsigned n_tried = fake_cuda.n_parted;) /* as it was loaded */
  struct sequence *one = new_random_prompt(m.vocab, 40, 3), *crowd[CROWD];
  struct part parts[CROWD];
  run_alone(&m, one, 12, whole, 1);
  double worst = twin_error(e->twin, one);
  for (unsigned i = 0; i < CROWD; i++) {
    crowd[i] = new_random_prompt(m.vocab, 1 + i % 3, i);
    parts[i] = (struct part){crowd[i], 1 + i % 3};
  }
  for (unsigned k = 0; k < NEW; k++) {
    run_parts(&m, parts, CROWD);
    for (unsigned i = 0; i < CROWD; i++) parts[i].n = 1;
  }
  for (unsigned i = 0; i < CROWD; i++) worst = fmax(worst, twin_error(e->twin, crowd[i]));
  printf("E4M3: log-probabilities within %.2g\n", worst);
  assert_true(worst <= 0.6);
  IF_FAKE(assert_true(fake_cuda.n_e4m3 > 0 && fake_cuda.n_replays == 11 + NEW - 1);)
  IF_FAKE(assert_true((fake_cuda.n_parted > n_tried) == (whole_ms > 0));)
  close_machine(&m);
  IF_FAKE(assert_int_equal(fake_cuda_live(), 0);)
  for (unsigned i = 0; i < CROWD; i++) free(crowd[i]);
  free(one);
  free_e4m3_model(e);
}

static void test_e4m3(void **state) {
  (void)state;
  check_e4m3(0);
  check_e4m3(1); /* products in parts */
}

/* The files may go once the device has loaded. */
static void test_released_files(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  struct machine m = open_gpu(g->model, 1);
  tl_model_release_files(g->model);
  run_case(&m, g, 0, 2, whole, 1);
  close_all(&m, g);
}

/* NCCL with one rank, which is all that one GPU can have: its communicator, collectives in graphs and outside, giving up, and all
 * anew. */
static void test_group_of_one(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  struct machine m = {.ops = find_ops(), .n_ranks = 1, .vocab = g->model->vocab_size, .n_blocks = 4000};
  struct tl_error err = {0};
  struct tl_device_options options = {.n_lanes = 2};
  struct tl_device_load load = {.model = g->model, .max_batch_size = 4, .max_batch_tokens = BATCH_TOKENS, .max_context = MAX_CONTEXT,
                                .kv_memory_bytes = 32 << 20}; /* others may test on the same GPU */
  struct tl_device_loaded loaded;
  if (m.ops->group->make(1, &m.group, &err) < 0) { /* a GPU's machine may be without NCCL */
    assert_int_equal(err.code, TL_EUNSUPPORTED);
    print_message("no group: %s\n", err.message);
    close_golden(g);
    free(g);
    skip();
  }
  if (m.ops->open(&options, &m.device, &err) < 0 || m.ops->group->join(m.device, m.group, 0, &err) < 0 ||
      m.ops->load(m.device, &load, &loaded, &err) < 0)
    fail_msg("%s", err.message);
  m.ranks[0] = m.device;
  m.blocks = malloc(m.n_blocks * sizeof *m.blocks);
  for (unsigned round = 0; round < 2; round++) {
    shuffle(m.blocks, loaded.n_blocks < m.n_blocks ? loaded.n_blocks : m.n_blocks, 77);
    m.next_block = 0;
    run_case(&m, g, 0, 6, whole, 1);
    if (round) break;
    m.ops->group->abort(m.group);
    assert_int_equal(m.ops->submit(m.device, &(struct tl_step){.n_tokens = 0}, &err), TL_ECLOSED);
    m.ops->group->restore(m.group);
    if (m.ops->reset(m.device, &err) < 0) fail_msg("%s", err.message);
  }
  close_all(&m, g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_against_transformers), cmocka_unit_test(test_rows_in_pairs), cmocka_unit_test(test_architectures),
      cmocka_unit_test(test_unknown_records), cmocka_unit_test(test_odd_latents), cmocka_unit_test(test_odd_chunks), cmocka_unit_test(test_latents_by_outputs),
      cmocka_unit_test(test_picky_products), cmocka_unit_test(test_parted_products), cmocka_unit_test(test_among_others), cmocka_unit_test(test_experts_in_blocks),
      cmocka_unit_test(test_scored_prompt), cmocka_unit_test(test_run_ahead), cmocka_unit_test(test_again), cmocka_unit_test(test_group_of_one), cmocka_unit_test(test_lists), cmocka_unit_test(test_masks), cmocka_unit_test(test_released_files),
      cmocka_unit_test(test_e4m3),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
