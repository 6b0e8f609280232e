/* SPDX-License-Identifier: MIT */
/* Groups of GPUs over the fake: golden models cut into ranks, on a thread each, and two steps at once. */
#include <math.h>

#include "cuda_group_rig.h"
#include "e4m3_model.h"
#include "twin_runner.h"

/* --- the same tokens ---------------------------------------------------------------------------- */

static void compare(const char *name, unsigned size, double tolerance) {
  struct golden *g = open_model(name);
  struct machine m = open_machine_of(g->model, size);
  double worst = 0;
  for (unsigned k = 0; k < 2; k++) {
    const struct golden_case *c = &g->cases[k];
    struct sequence *s = new_sequence(c->prompt, c->n_prompt);
    run_alone(&m, s, 4, whole, 1);
    for (uint32_t i = 0; i < 4; i++) {
      const struct tl_sampled *got = &s->sampled[c->n_prompt + i];
      if (got->token != c->tokens[i]) fail_msg("%s in %u: token %u of %u differs", name, size, i, c->n_prompt);
      worst = fmax(worst, fabs((double)got->logprob - c->logprobs[i]));
    }
    free(s);
  }
  printf("%s in %u: log-probabilities within %.2g, %u collectives\n", name, size, worst, fake_cuda.n_collectives);
  assert_true(worst <= tolerance);
  close_group(&m);
  close_model(g);
}

static void test_same_tokens(void **state) {
  (void)state;
  compare("f16_sharded", 2, 3e-2);
  compare("bf16_tied", 2, 1e-1); /* padded heads, MLP biases, one matrix for both ends */
  compare("f32_odd", 5, 3e-2);   /* attention biases; inner row and vocabulary do not divide */
  compare("f32_llama3", 4, 3e-2); /* two KV heads for four ranks */
  compare("arch/gemma2", 2, 3e-2); /* norms behind the sums; a cap of all ranks' logits */
  compare("arch/olmo2", 2, 3e-2); /* norms of Q and K over all ranks' heads */
  compare("arch/olmo2", 4, 3e-2);
  compare("arch/granite", 2, 3e-2);
  compare("arch/qwen3", 4, 3e-2);
  compare("arch/glm4", 2, 3e-2);
  compare("arch/stablelm", 2, 3e-2);
  compare("arch/mixtral", 2, 3e-2); /* whole experts: three and two */
  compare("arch/glm4_moe", 2, 3e-2);
  compare("arch/cohere", 2, 3e-2); /* attention and MLP side by side */
  compare("arch/starcoder2", 2, 3e-2);
  compare("arch/phi", 2, 3e-2); /* a bias of each rank's part of the logits */
  compare("arch/llama4", 2, 3e-2); /* each rank's experts' inputs times their shares */
  compare("arch/ernie4_5_moe", 2, 3e-2);
  compare("arch/nemotron_h", 2, 3e-2); /* experts without a gate */
  compare("arch/granitemoeshared", 2, 3e-2); /* one factor of both halves of a sum */
  compare("arch/minimax_m2", 2, 3e-2); /* norms of whole rows before a mixture */
  compare("arch/deepseek_v3", 2, 3e-2); /* heads in parts, the latent on both */
  compare("arch/deepseek_v2_lite", 4, 3e-2);
  compare("arch/nemotron_h_latent", 2, 3e-2); /* each rank's experts' sum in a latent */
  compare("arch/gpt2", 2, 3e-2); /* learned positions behind the sum, matrices by inputs */
  compare("arch/gpt_neox", 2, 3e-2); /* attention and MLP side by side behind two norms */
  compare("arch/qwen2_moe", 2, 3e-2); /* and an MLP in parts, whose gate is whole */
  compare("arch/qwen3_moe", 4, 3e-2);
  compare("arch/qwen3_next", 2, 3e-2); /* key heads with their value heads */
  compare("arch/qwen3_5", 2, 3e-2);
  compare("arch/lfm2", 2, 3e-2); /* channels, of which each rank has no multiple of 8 */
  compare("arch/granitemoehybrid", 4, 3e-2); /* two key heads, with whose value heads a norm goes over two ranks each */
  compare("arch/granitemoehybrid_dense", 4, 3e-2); /* one, over all */
  compare("arch/gpt_oss", 2, 3e-2); /* sinks of each rank's heads, biases of its experts */
}

static struct sequence *answer_of(struct machine *m, const struct tl_model *model) {
  int32_t prompt[20];
  for (int32_t i = 0; i < 20; i++) prompt[i] = (i * 37 + 5) % (int32_t)model->vocab_size;
  struct sequence *s = new_sequence(prompt, 20);
  run_alone(m, s, 4, whole, 1);
  close_group(m);
  return s;
}

/* Slices of weights that stay as their file has them: what one GPU says. */
static void test_quantized(void **state) {
  (void)state;
  static const struct {
    const char *folder, *format; /* format: weights are rounded while they load */
    unsigned size;
  } cases[] = {{"llama/f16_sharded", "q8_0", 2}, {"packed/phi3_awq", NULL, 4}, {"packed/phi3_f8", NULL, 4}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    char path[1024];
    struct tl_model *model;
    struct tl_error err = {0};
    if (tl_model_load(unit_golden_path(cases[i].folder, path), &model, &err) < 0) fail_msg("%s", err.message);
    if (cases[i].format && tl_model_quantize(model, cases[i].format, &err) < 0) fail_msg("%s", err.message);
    fake_cuda_reset();
    struct machine one = open_machine_of(model, 1);
    struct sequence *a = answer_of(&one, model);
    struct machine many = open_machine_of(model, cases[i].size);
    struct sequence *b = answer_of(&many, model);
    for (uint32_t k = 20; k < 24; k++) {
      assert_int_equal(a->tokens[k], b->tokens[k]);
      assert_true(fabs((double)a->sampled[k].logprob - (double)b->sampled[k].logprob) <= 3e-2);
    }
    free(a);
    free(b);
    tl_model_free(model);
  }
}

/* Guesses, right and wrong ones: each rank computes and records the same steps. */
static void check_drafts(const char *name, unsigned size) {
  struct golden *g = open_model(name);
  draft_tokens = 3;
  struct machine m = open_machine_of(g->model, size);
  assert_int_equal(fake_cuda.n_graphs, size * (3 + 2)); /* 1, 2, 4; 2, 4 */
  const struct golden_case *c = &g->cases[1];
  struct sequence *s = new_sequence(c->prompt, c->n_prompt);
  run_parts(&m, &(struct part){s, s->length}, 1);
  unsigned n_steps = 0, before = fake_cuda.n_replays;
  for (; s->length < c->n_prompt + 9; n_steps++) {
    uint32_t known = s->length - c->n_prompt;
    for (uint32_t i = 0; i < 3; i++) s->tokens[s->length + i] = i < n_steps % 4 ? c->tokens[known + i] : 1;
    s->n_drafts = 3;
    run_parts(&m, &(struct part){s, 4}, 1);
  }
  assert_int_equal(fake_cuda.n_replays - before, size * n_steps);
  assert_true(n_steps < 6);
  for (uint32_t i = 0; c->n_prompt + i < s->length; i++) {
    const struct tl_sampled *got = &s->sampled[c->n_prompt + i];
    if (got->token != c->tokens[i]) fail_msg("%s in %u: token %u differs", name, size, i);
    assert_true(fabs((double)got->logprob - c->logprobs[i]) <= 3e-2);
  }
  draft_tokens = 0;
  free(s);
  close_group(&m);
  close_model(g);
}

static void test_drafts(void **state) {
  (void)state;
  check_drafts("f16_sharded", 2);
  check_drafts("arch/gemma2", 2);
  check_drafts("arch/olmo2", 4);
}

/* Ranks that score experts by algorithms of their own would not always choose the same ones. */
static void test_routers_are_alike(void **state) {
  (void)state;
  struct golden *g = open_model("arch/mixtral");
  unsigned n_routers = 0, n_fastest = 0;
  fake_cuda.n_algorithms = 2;
  memcpy(fake_cuda.algorithm_ms, (uint32_t[]){9, 1}, 2 * sizeof(uint32_t));
  struct machine m = open_machine_of(g->model, 2);
  for (unsigned rank = 0; rank < 2; rank++) {
    const struct cuda_device *d = (const struct cuda_device *)(const void *)m.ranks[rank];
    for (uint32_t i = 0; i < d->n_plan; i++)
      for (unsigned b = 0; d->plan[i].w.n_pieces && d->plan[i].kind != CUDA_OP_EMBED && b < d->products.n_buckets; b++) {
        bool first = d->products.shapes[d->plan[i].w.pieces[0].product].ways[b].algorithm.data[2] == 0, routes = d->plan[i].kind == CUDA_OP_ROUTE;
        if (routes) assert_true(first);
        n_routers += routes;
        n_fastest += !first;
      }
  }
  assert_true(n_routers > 0 && n_fastest > 0);
  close_group(&m);
  close_model(g);
}

/* --- two steps at once ----------------------------------------------------------------------------- */

#define N_BEHIND 6

/* A prompt's step, and those behind it: each begins with what the one before draws. The same for all ranks. */
static struct {
  struct tl_step steps[1 + N_BEHIND];
  int32_t prompt[MAX_TOKENS];
  uint32_t positions[MAX_TOKENS], slots[MAX_TOKENS], table[TABLE], start[2], context[1 + N_BEHIND], last, n;
  struct tl_sampling sampling[1 + N_BEHIND];
  int32_t drawn[1 + N_BEHIND];
} behind;
static const int32_t fed_token = -2;
static const uint32_t one_start[] = {0, 1}, first_row;

static void make_steps(const struct sequence *s, uint32_t first_block) {
  uint32_t n = behind.n = s->n_prompt;
  memcpy(behind.prompt, s->tokens, n * sizeof *behind.prompt);
  for (uint32_t i = 0; i < TABLE; i++) behind.table[i] = first_block + i;
  for (uint32_t i = 0; i < n + N_BEHIND; i++) behind.positions[i] = i, behind.slots[i] = first_block * TL_BLOCK_TOKENS + i;
  behind.start[1] = n;
  behind.last = n - 1;
  for (uint32_t k = 0; k <= N_BEHIND; k++) {
    behind.context[k] = n + k;
    behind.sampling[k] = s->sampling;
    behind.sampling[k].n_top = -1;
    behind.sampling[k].position = n + k;
    behind.steps[k] = (struct tl_step){.n_tokens = k ? 1 : n, .n_seqs = 1, .n_rows = 1, .table_stride = TABLE,
                                       .tokens = k ? &fed_token : behind.prompt, .positions = behind.positions + (k ? n + k - 1 : 0),
                                       .slots = behind.slots + (k ? n + k - 1 : 0), .query_start = k ? one_start : behind.start,
                                       .context_len = &behind.context[k], .block_tables = behind.table,
                                       .rows = k ? &first_row : &behind.last, .sampling = &behind.sampling[k]};
  }
}

/* A rank has the next step before it collects the one before; `r->step` is not used. */
static void *run_behind(void *argument) {
  struct rank_run *r = argument;
  const struct tl_device_ops *ops = r->m->ops;
  struct tl_device *device = r->m->ranks[r->rank];
  struct tl_sampled sampled;
  r->result = ops->submit(device, &behind.steps[0], &r->error);
  for (uint32_t k = 1; r->result == TL_OK && k <= N_BEHIND + 1; k++) {
    if (k <= N_BEHIND) r->result = ops->submit(device, &behind.steps[k], &r->error);
    if (r->result == TL_OK) r->result = ops->collect(device, r->rank ? NULL : &sampled, &r->error);
    if (r->rank == 0) behind.drawn[k - 1] = sampled.token;
  }
  return NULL;
}

/* What is drawn is on every rank's device for the step behind it, also where a random number chooses. */
static void test_steps_behind(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  struct machine m = open_machine_of(g->model, 2);
  for (unsigned i = 0; i < 2; i++) {
    struct sequence *s = new_sequence(g->cases[0].prompt, g->cases[0].n_prompt);
    struct rank_run runs[MAX_RANKS];
    pthread_t threads[MAX_RANKS];
    s->sampling.temperature = i ? 1.3f : 0;
    s->sampling.seed = 99;
    make_steps(s, 40 * i);
    for (unsigned k = 0; k < 2; k++) {
      runs[k] = (struct rank_run){.m = &m, .rank = k};
      pthread_create(&threads[k], NULL, run_behind, &runs[k]);
    }
    for (unsigned k = 0; k < 2; k++) pthread_join(threads[k], NULL);
    for (unsigned k = 0; k < 2; k++)
      if (runs[k].result < 0) fail_msg("rank %u: %s", k, runs[k].error.message);
    m.next_block = 0; /* nothing in any block is wanted any more */
    run_alone(&m, s, 1 + N_BEHIND, whole, 1);
    assert_memory_equal(behind.drawn, s->tokens + s->n_prompt, sizeof behind.drawn);
    if (i == 0) assert_memory_equal(behind.drawn, g->cases[0].tokens, sizeof behind.drawn);
    free(s);
  }
  close_group(&m);
  close_model(g);
}

/* The formats of a rank's matrices of a kind. */
static unsigned formats_of(const struct machine *m, unsigned rank, enum cuda_op_kind kind) {
  const struct cuda_device *d = (struct cuda_device *)(void *)m->ranks[rank];
  unsigned seen = 0;
  for (uint32_t i = 0; i < d->n_plan; i++)
    for (unsigned k = 0; k < d->plan[i].w.n_pieces; k++)
      if (d->plan[i].kind == kind) seen |= 1u << d->plan[i].w.pieces[k].format;
  return seen;
}

/* Against the same values in floats. */
static void compare_with_twin(struct machine *m, const struct tl_model *twin, double tolerance) {
  struct sequence *s = new_random_prompt(twin->vocab_size, 20, 3);
  run_alone(m, s, 4, whole, 1);
  double worst = twin_error(twin, s);
  printf("stored weights in %u: log-probabilities within %.2g of floats\n", m->n_ranks, worst);
  assert_true(worst <= tolerance);
  free(s);
}

/* Blocks of E4M3 that ranks' cuts do not cut stay what they are. */
static void test_e4m3_blocks(void **state) {
  (void)state;
  fake_cuda_reset();
  struct e4m3_model *e = new_e4m3_blocks("gguf/mixed.gguf", false, 128);
  struct machine m = open_machine_of(e->model, 2);
  for (unsigned rank = 0; rank < 2; rank++) {
    static const enum cuda_op_kind kinds[] = {CUDA_OP_QKV, CUDA_OP_OUT, CUDA_OP_GATED, CUDA_OP_DOWN};
    for (unsigned i = 0; i < UNIT_COUNT(kinds); i++) assert_int_equal(formats_of(&m, rank, kinds[i]), 1 << TL_CUDA_WE4M3_BLOCKS);
  }
  compare_with_twin(&m, e->twin, 5e-2);
  close_group(&m);
  /* four ranks have a head of 64 each, half a block */
  m = open_machine_of(e->model, 4);
  assert_int_equal(formats_of(&m, 3, CUDA_OP_QKV), 1 << TL_CUDA_WE4M3_BLOCKS);
  assert_int_equal(formats_of(&m, 3, CUDA_OP_OUT), 1 << TL_CUDA_W16);
  close_group(&m);
  free_e4m3_model(e);
}

/* Act-order: who has all inputs keeps what the file has, who has some of each group takes 16 bits. */
static void test_act_order(void **state) {
  (void)state;
  float *copies[400];
  uint32_t n_copies;
  fake_cuda_reset();
  struct tl_model *model = load_model("experts/mixtral_gptq"), *twin = new_twin("experts/mixtral_gptq", copies, &n_copies);
  struct machine m = open_machine_of(model, 2);
  for (unsigned rank = 0; rank < 2; rank++) {
    assert_int_equal(formats_of(&m, rank, CUDA_OP_QKV), 1 << TL_CUDA_WINT4);
    assert_int_equal(formats_of(&m, rank, CUDA_OP_OUT), 1 << TL_CUDA_W16);
  }
  compare_with_twin(&m, twin, 5e-2);
  close_group(&m);
  tl_model_free(model);
  tl_model_free(twin);
  for (uint32_t k = 0; k < n_copies; k++) free(copies[k]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_same_tokens),  cmocka_unit_test(test_quantized), cmocka_unit_test(test_drafts), cmocka_unit_test(test_routers_are_alike), cmocka_unit_test(test_steps_behind),
      cmocka_unit_test(test_e4m3_blocks),  cmocka_unit_test(test_act_order),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
