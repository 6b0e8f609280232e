/* SPDX-License-Identifier: MIT */
/* Groups of GPUs over the fake: golden models cut into ranks, on a thread each; ranks that never come, that fail, that are
 * given up, and groups that are made anew. */
#include <math.h>

#include "device/cuda/cuda_private.h"
#include "e4m3_model.h"
#include "fake_cuda.h"
#include "golden_llama.h"
#include "tokenlane/base/clock.h"
#include "twin_runner.h"

struct opening {
  struct machine *m;
  const struct tl_model *model;
  unsigned rank;
  bool loads; /* else it only joins */
  bool has_joined;
  uint32_t n_blocks;
  int result;
  struct tl_error error;
  pthread_t thread;
};

static void *open_rank(void *argument) {
  struct opening *o = argument;
  struct tl_device **device = &o->m->ranks[o->rank];
  struct tl_device_load load = {.model = o->model, .max_batch_size = 4, .max_batch_tokens = BATCH_TOKENS,
                                .max_context = MAX_CONTEXT, .kv_memory_bytes = 8 << 20};
  struct tl_device_loaded loaded = {0};
  o->result = o->has_joined ? TL_OK : o->m->ops->group->join(*device, o->m->group, o->rank, &o->error);
  if (o->result == TL_OK && o->loads) o->result = o->m->ops->load(*device, &load, &loaded, &o->error);
  o->n_blocks = loaded.n_blocks;
  return NULL;
}

static void make_group(struct machine *m, unsigned size) {
  struct tl_error err = {0};
  *m = (struct machine){.ops = &fake_cuda_ops, .n_ranks = size};
  fake_cuda.n_devices = (int)size;
  if (m->ops->group->make(size, &m->group, &err) < 0) fail_msg("%s", err.message);
}

/* All ranks but the last `missing` ones. */
static void open_ranks(struct machine *m, const struct tl_model *model, unsigned missing, bool loads, struct opening ret[MAX_RANKS]) {
  m->vocab = model->vocab_size;
  for (unsigned i = 0; i < m->n_ranks - missing; i++) {
    struct tl_device_options options = {.index = i, .n_lanes = 1};
    ret[i] = (struct opening){.m = m, .model = model, .rank = i, .loads = loads};
    if ((ret[0].result = m->ops->open(&options, &m->ranks[i], &ret[0].error)) < 0) return;
  }
  for (unsigned i = 0; i < m->n_ranks - missing; i++) {
    pthread_create(&ret[i].thread, NULL, open_rank, &ret[i]);
  }
  for (unsigned i = 0; i < m->n_ranks - missing; i++) pthread_join(ret[i].thread, NULL);
  m->device = m->ranks[0];
}

static struct machine open_machine_of(const struct tl_model *model, unsigned size) {
  struct machine m;
  struct opening o[MAX_RANKS];
  make_group(&m, size);
  open_ranks(&m, model, 0, true, o);
  for (unsigned i = 0; i < size; i++) {
    if (o[i].result < 0) fail_msg("rank %u: %s", i, o[i].error.message);
    assert_int_equal(o[i].n_blocks, o[0].n_blocks);
  }
  m.n_blocks = o[0].n_blocks < 4000 ? o[0].n_blocks : 4000;
  m.blocks = malloc(m.n_blocks * sizeof *m.blocks);
  shuffle(m.blocks, m.n_blocks, 77);
  return m;
}

static void close_group(struct machine *m) {
  close_machine(m);
  assert_int_equal(fake_cuda_live(), 0);
}

static struct golden *open_model(const char *name) {
  struct golden *g = malloc(sizeof *g);
  fake_cuda_reset();
  open_golden(name, g);
  return g;
}

static void close_model(struct golden *g) {
  close_golden(g);
  free(g);
}

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
  compare("arch/qwen2_moe", 2, 3e-2); /* and an MLP in parts, whose gate is whole */
  compare("arch/qwen3_moe", 4, 3e-2);
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
    const char *root = getenv("TL_TEST_GOLDEN");
    char path[512];
    struct tl_model *model;
    struct tl_error err = {0};
    snprintf(path, sizeof path, "%s/%s", root ? root : "tests/golden", cases[i].folder);
    if (tl_model_load(path, &model, &err) < 0) fail_msg("%s", err.message);
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

/* --- faults --------------------------------------------------------------------------------------- */

static const uint32_t zero, one = 1, start[] = {0, 1};
static const int32_t token = 7;
static const struct tl_sampling greedy = {.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1};
static const struct tl_step one_row = {
    .n_tokens = 1, .n_seqs = 1, .n_rows = 1, .table_stride = 1, .tokens = &token, .positions = &zero, .slots = &zero,
    .query_start = start, .context_len = &one, .block_tables = &zero, .rows = &zero, .sampling = &greedy};

static struct machine open_idle(struct golden **ret) {
  *ret = open_model("f16_sharded");
  fake_cuda.idle = true;
  return open_machine_of((*ret)->model, 2);
}

static void check_works(const struct machine *m) {
  struct rank_run runs[MAX_RANKS];
  run_ranks(m, &one_row, m->n_ranks, runs);
  for (unsigned i = 0; i < m->n_ranks; i++)
    if (runs[i].result < 0) fail_msg("rank %u: %s", i, runs[i].error.message);
}

static void *reset_rank(void *argument) {
  struct rank_run *r = argument;
  r->result = r->m->ops->reset(r->m->ranks[r->rank], &r->error);
  return NULL;
}

/* As the engine does it: restore, then all ranks at the same time. */
static void reset_all(const struct machine *m, struct rank_run runs[MAX_RANKS]) {
  pthread_t threads[MAX_RANKS];
  m->ops->group->restore(m->group);
  for (unsigned i = 0; i < m->n_ranks; i++) {
    runs[i] = (struct rank_run){.m = m, .rank = i};
    pthread_create(&threads[i], NULL, reset_rank, &runs[i]);
  }
  for (unsigned i = 0; i < m->n_ranks; i++) pthread_join(threads[i], NULL);
}

static void mend(const struct machine *m) {
  struct rank_run runs[MAX_RANKS];
  reset_all(m, runs);
  for (unsigned i = 0; i < m->n_ranks; i++)
    if (runs[i].result < 0) fail_msg("reset of rank %u: %s", i, runs[i].error.message);
  check_works(m);
}

/* One rank does not get the second of two steps. The first is well on both; the group is given up in the second. */
static void test_abort_of_two(void **state) {
  (void)state;
  struct golden *g;
  struct machine m = open_idle(&g);
  struct tl_error err = {0};
  struct tl_sampled sampled;
  for (unsigned with = 0; with < 2; with++) {
    struct tl_device *other = m.ranks[1 - with], *device = m.ranks[with];
    struct rank_run run = {.m = &m, .rank = 1 - with, .step = &one_row};
    pthread_t thread;
    assert_int_equal(m.ops->submit(device, &one_row, &err), TL_OK);
    assert_int_equal(m.ops->submit(device, &one_row, &err), TL_OK);
    pthread_create(&thread, NULL, run_rank, &run);
    assert_int_equal(m.ops->collect(device, &sampled, &err), TL_OK);
    pthread_join(thread, NULL);
    assert_int_equal(run.result, TL_OK);
    m.ops->group->abort(m.group);
    assert_int_equal(m.ops->collect(device, &sampled, &err), TL_ECLOSED);
    assert_int_equal(m.ops->submit(device, &one_row, &err), TL_ECLOSED);
    assert_int_equal(m.ops->submit(other, &one_row, &err), TL_ECLOSED);
    mend(&m);
  }
  close_group(&m);
  close_model(g);
}

static void test_mixed_gpus(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  struct machine m;
  struct opening o[MAX_RANKS];
  fake_cuda.mixed = fake_cuda.idle = true;
  make_group(&m, 2);
  open_ranks(&m, g->model, 0, false, o);
  const struct opening *refused = o[0].result == TL_EUNSUPPORTED ? &o[0] : &o[1]; /* whoever came second */
  assert_int_equal(refused->result, TL_EUNSUPPORTED);
  assert_string_equal(refused->error.field, "engine.tensor_parallel");
  assert_non_null(strstr(refused->error.message, "compute capability 9."));
  assert_true(o[refused == &o[0]].result < 0);
  close_group(&m);
  close_model(g);
}

/* A collective while loading waits for nobody who still allocates, copies or frees: ranks come together first. */
static void test_loads_come_together(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  struct machine m;
  struct opening o[MAX_RANKS];
  pthread_t threads[2];
  fake_cuda.idle = true;
  make_group(&m, 2);
  open_ranks(&m, g->model, 0, false, o);
  unsigned before = fake_cuda.n_collectives;
  int64_t *patience_ns = &((struct cuda_group *)(void *)m.group)->patience_ns, whole_ns = *patience_ns;
  *patience_ns = TL_MS(20); /* but a load may take longer than a meeting */
  for (unsigned i = 0; i < 2; i++) {
    if (i == 1) *patience_ns = whole_ns;
    o[i] = (struct opening){.m = &m, .model = g->model, .rank = i, .loads = true, .has_joined = true};
    pthread_create(&threads[i], NULL, open_rank, &o[i]);
    if (i == 0) usleep(100000);
    if (i == 0) assert_int_equal(fake_cuda.n_collectives, before);
  }
  for (unsigned i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  for (unsigned i = 0; i < 2; i++)
    if (o[i].result < 0) fail_msg("rank %u: %s", i, o[i].error.message);
  assert_true(fake_cuda.n_collectives > before);
  check_works(&m);
  close_group(&m);
  close_model(g);
}

/* A rank that cannot load lets the other go. */
static void test_load_that_fails(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  struct tl_model small = *g->model;
  struct machine m;
  struct opening o[MAX_RANKS];
  pthread_t threads[2];
  fake_cuda.idle = true;
  make_group(&m, 2);
  open_ranks(&m, g->model, 0, false, o);
  small.n_heads = 3; /* of no use to rank 1 */
  for (unsigned i = 0; i < 2; i++) {
    o[i] = (struct opening){.m = &m, .model = i ? &small : g->model, .rank = i, .loads = true, .has_joined = true};
    pthread_create(&threads[i], NULL, open_rank, &o[i]);
  }
  for (unsigned i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  assert_int_equal(o[0].result, TL_ECLOSED);
  assert_int_equal(o[1].result, TL_EINVAL);
  close_group(&m);
  close_model(g);
}

/* A rank that hangs: interrupts get both out, on their own threads, and the reset makes the group anew. */
static void *collect_one(void *argument) {
  struct rank_run *r = argument;
  r->result = r->m->ops->collect(r->m->ranks[r->rank], NULL, &r->error);
  return NULL;
}

static void test_interrupt(void **state) {
  (void)state;
  struct golden *g;
  struct machine m = open_idle(&g);
  struct rank_run runs[2];
  pthread_t threads[2];
  struct tl_error err = {0};
  fake_cuda.hangs = true;
  for (unsigned i = 0; i < 2; i++) {
    runs[i] = (struct rank_run){.m = &m, .rank = i};
    assert_int_equal(m.ops->submit(m.ranks[i], &one_row, &err), TL_OK);
    pthread_create(&threads[i], NULL, collect_one, &runs[i]);
  }
  m.ops->group->abort(m.group);
  for (unsigned i = 0; i < 2; i++) m.ops->interrupt(m.ranks[i]);
  for (unsigned i = 0; i < 2; i++) {
    pthread_join(threads[i], NULL);
    assert_true(runs[i].result == TL_EDEVICE || runs[i].result == TL_ECLOSED);
    assert_true(m.ops->submit(m.ranks[i], &one_row, &err) < 0);
  }
  fake_cuda.hangs = false;
  mend(&m);
  close_group(&m);
  close_model(g);
}

struct aborting {
  const struct machine *m;
};

static void *abort_soon(void *argument) {
  const struct machine *m = ((struct aborting *)argument)->m;
  usleep(5000);
  m->ops->group->abort(m->group);
  return NULL;
}

/* One rank does not take part: the others wait in a sum until the group is given up. */
static void test_rank_that_does_not_come(void **state) {
  (void)state;
  struct golden *g;
  struct machine m = open_idle(&g);
  check_works(&m);
  for (unsigned without = 0; without < 2; without++) {
    struct rank_run runs[MAX_RANKS];
    struct aborting aborting = {&m};
    pthread_t thread;
    pthread_create(&thread, NULL, abort_soon, &aborting);
    run_ranks(&m, &one_row, without, runs);
    pthread_join(thread, NULL);
    const struct rank_run *waited = &runs[1 - without];
    assert_int_equal(waited->result, TL_ECLOSED);
    /* until it is restored nothing runs */
    struct tl_error err = {0};
    for (unsigned i = 0; i < 2; i++) assert_int_equal(m.ops->submit(m.ranks[i], &one_row, &err), TL_ECLOSED);
    mend(&m);
  }
  close_group(&m);
  close_model(g);
}

static void test_error_of_nccl(void **state) {
  (void)state;
  struct golden *g;
  struct machine m = open_idle(&g);
  struct rank_run runs[MAX_RANKS];
  fake_cuda.async_error = 6;
  run_ranks(&m, &one_row, 2, runs);
  for (unsigned i = 0; i < 2; i++) {
    assert_int_equal(runs[i].result, TL_EDEVICE);
    assert_non_null(strstr(runs[i].error.message, "NCCL"));
  }
  fake_cuda.async_error = 0;
  m.ops->group->abort(m.group);
  mend(&m);
  close_group(&m);
  close_model(g);
}

static void test_meeting_that_fails(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  struct machine m;
  struct opening o[MAX_RANKS];
  fake_cuda.idle = true;
  make_group(&m, 2);
  ((struct cuda_group *)(void *)m.group)->patience_ns = TL_MS(50);
  open_ranks(&m, g->model, 1, false, o); /* rank 1 is missing */
  assert_int_equal(o[0].result, TL_EDEVICE);
  assert_non_null(strstr(o[0].error.message, "do not come"));
  m.n_ranks = 1;
  close_group(&m);
  close_model(g);
}

/* Every call of opening, a step and a reset fails once, whichever rank makes it: no rank waits for ever, nothing leaks. */
static void test_every_call_fails(void **state) {
  (void)state;
  struct golden *g = open_model("f16_sharded");
  unsigned n = 1, n_opened = 0;
  for (bool reached = true; reached; n += n < 60 ? 1 : 9) {
    struct machine m;
    struct opening o[MAX_RANKS] = {0};
    struct tl_error err = {0};
    fake_cuda_reset();
    fake_cuda.idle = true;
    fake_cuda.memory = 48u << 20;
    fake_cuda.uncounted_polls = true;
    fake_cuda.fail_at = n;
    fake_cuda.fail_code = 5;
    m = (struct machine){.ops = &fake_cuda_ops, .n_ranks = 2};
    fake_cuda.n_devices = 2;
    bool made = m.ops->group->make(2, &m.group, &err) == TL_OK;
    if (made) {
      ((struct cuda_group *)(void *)m.group)->patience_ns = TL_SEC(5);
      open_ranks(&m, g->model, 0, true, o);
    }
    if (made && o[0].result == TL_OK && o[1].result == TL_OK) {
      struct rank_run runs[MAX_RANKS];
      pthread_t thread;
      struct aborting aborting = {&m};
      n_opened++;
      pthread_create(&thread, NULL, abort_soon, &aborting);
      run_ranks(&m, &one_row, 2, runs);
      pthread_join(thread, NULL);
      reset_all(&m, runs);
      if (runs[0].result < 0 || runs[1].result < 0) {
        m.ops->group->abort(m.group);
        reset_all(&m, runs);
      }
      for (unsigned i = 0; i < 2; i++)
        if (runs[i].result < 0) fail_msg("after %s: %s", fake_cuda.failed, runs[i].error.message);
      fake_cuda.fail_at = 0;
      check_works(&m);
    }
    reached = fake_cuda.failed != NULL;
    for (unsigned i = 0; made && i < 2; i++) m.ops->close(m.ranks[i]);
    if (made) m.ops->group->free(m.group);
    assert_int_equal(fake_cuda_live(), 0);
  }
  printf("%u calls\n", n);
  assert_true(n > 300 && n_opened > 10);
  close_model(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_same_tokens),        cmocka_unit_test(test_quantized),
      cmocka_unit_test(test_steps_behind),       cmocka_unit_test(test_e4m3_blocks),
      cmocka_unit_test(test_abort_of_two),       cmocka_unit_test(test_interrupt),
      cmocka_unit_test(test_mixed_gpus),         cmocka_unit_test(test_loads_come_together),
      cmocka_unit_test(test_load_that_fails),    cmocka_unit_test(test_act_order),
      cmocka_unit_test(test_rank_that_does_not_come),
      cmocka_unit_test(test_error_of_nccl),      cmocka_unit_test(test_meeting_that_fails),
      cmocka_unit_test(test_every_call_fails),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
