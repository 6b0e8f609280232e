/* SPDX-License-Identifier: MIT */
/* Models that make vectors on groups of GPUs over the fake: against transformers, and groups that are given up and made anew. */
#include "encoder_ranks.h"
#include "fake_cuda.h"
#include "float_twin.h"

static struct machine open_fake(unsigned n_ranks) {
  fake_cuda_reset();
  fake_cuda.n_devices = (int)n_ranks;
  return open_ranks(&fake_cuda_ops, 1, n_ranks);
}

static struct tl_device_load load_of(const struct tl_model *model) {
  return (struct tl_device_load){.model = model, .max_batch_size = BATCH_SIZE, .max_batch_tokens = 800, .max_context = model->max_context};
}

static struct machine open_group(const struct tl_model *model, unsigned n_ranks) {
  struct machine m = open_fake(n_ranks);
  struct tl_device_load load = load_of(model);
  load_ranks(&m, &load);
  return m;
}

static void close_group(struct machine *m) {
  close_machine(m);
  assert_int_equal(fake_cuda_live(), 0);
}

/* --- the same vectors ------------------------------------------------------------------------------ */

/* Three texts at once, then one alone, whose products are those of few rows. */
static void compare(const char *name, unsigned n_ranks) {
  struct golden g;
  float vectors[3 * MAX_OUT];
  double worst = 0;
  open_golden(name, &g);
  struct machine m = open_group(g.model, n_ranks);
  const struct text *texts[] = {&g.texts[1], &g.texts[2], &g.texts[0]};
  for (unsigned n = 3; n > 0; n /= 2) {
    run(&m, texts, n, vectors);
    for (unsigned t = 0; t < n; t++) worst = fmax(worst, check_vector(name, g.model, texts[t], vectors + t * g.model->n_out));
  }
  printf("%s in %u: within %.2g\n", name, n_ranks, worst);
  assert_int_equal(fake_cuda.n_graphs, 0);
  close_group(&m);
  tl_model_free(g.model);
}

static void test_same_vectors(void **state) {
  (void)state;
  compare("bert", 3); /* words in parts, places and types whole; all products have biases; norms behind the sums */
  compare("bert_max", 3); /* dense layers behind what pools, on each rank */
  compare("bert_bf16", 3);
  compare("roberta_score", 3); /* a head of two layers */
  compare("modernbert_labels", 2); /* fused QKV, a gate, windows, a norm within the head */
  compare("nomic_bert", 3);
  compare("qwen3", 2); /* a decoder: norms of heads, the last row */
  compare("qwen3", 4); /* two KV heads for four ranks */
}

/* Blocks stay what they are on each rank: near what one GPU says. */
static void test_rounded(void **state) {
  (void)state;
  float alone[4 * MAX_OUT], together[4 * MAX_OUT];
  struct golden g = {.model = load_model("gguf/encoder_q8_0.gguf")};
  const struct text *texts[4];
  uint32_t n_out = g.model->n_out;
  draw_texts(&g);
  for (unsigned t = 0; t < 4; t++) texts[t] = &g.texts[N_CASES + t];
  struct machine one = open_group(g.model, 1);
  run(&one, texts, 4, alone);
  close_group(&one);
  struct machine two = open_group(g.model, 2);
  run(&two, texts, 4, together);
  close_group(&two);
  for (uint32_t i = 0; i < 4 * n_out; i++)
    if (!(fabsf(together[i] - alone[i]) < 1e-2f)) fail_msg("number %u: %f, alone %f", i, (double)together[i], (double)alone[i]);
  tl_model_free(g.model);
}

/* --- what a step does, and what ends one -------------------------------------------------------------- */

static float own[MAX_RANKS][MAX_OUT];

/* Vectors of its own for each rank. */
static void *compute_own(void *run) {
  struct rank_run *r = run;
  struct tl_step step = *r->step;
  step.vectors = own[r->rank];
  r->step = &step;
  compute_rank(run);
  return NULL;
}

/* A sum for the words, and one behind each of a layer's two blocks; rank 0 alone writes what comes of it. */
static void test_a_step(void **state) {
  (void)state;
  struct golden g;
  open_golden("bert", &g);
  struct machine m = open_group(g.model, 3);
  const struct text *text = &g.texts[1];
  struct tl_step step = step_of(&text, 1, NULL);
  unsigned before = fake_cuda.n_collectives;
  memset(own, 0x7f, sizeof own);
  run_all_ranks(&m, compute_own, &(struct rank_run){.step = &step});
  assert_int_equal(fake_cuda.n_collectives - before, 3 * (1 + 2 * g.model->n_layers));
  check_vector("bert", g.model, text, own[0]);
  float untouched[MAX_OUT];
  memset(untouched, 0x7f, sizeof untouched);
  for (unsigned i = 1; i < 3; i++) assert_memory_equal(own[i], untouched, sizeof untouched);
  close_group(&m);
  tl_model_free(g.model);
}

static void *reset_rank(void *run) {
  struct rank_run *r = run;
  r->result = r->m->ops->reset(r->m->ranks[r->rank], &r->err);
  return NULL;
}

static void *give_up_soon(void *machine) {
  const struct machine *m = machine;
  usleep(5000);
  m->ops->group->abort(m->group);
  return NULL;
}

/* One rank does not come to a step: the other waits in a sum until the group is given up. Made anew it says the same, to the bit. */
static void test_made_anew(void **state) {
  (void)state;
  struct golden g;
  float before[MAX_OUT], after[MAX_OUT];
  open_golden("qwen3", &g);
  struct machine m = open_group(g.model, 2);
  const struct text *text = &g.texts[1];
  run(&m, &text, 1, before);
  for (unsigned without = 0; without < 2; without++) {
    struct rank_run runs[MAX_RANKS];
    pthread_t thread;
    struct tl_step step = step_of(&text, 1, after);
    assert_int_equal(pthread_create(&thread, NULL, give_up_soon, &m), 0);
    run_ranks(&m, compute_rank, &(struct rank_run){.step = &step}, without, runs);
    pthread_join(thread, NULL);
    assert_int_equal(runs[1 - without].result, TL_ECLOSED);
    m.ops->group->restore(m.group);
    run_all_ranks(&m, reset_rank, &(struct rank_run){0});
    assert_int_equal(fake_cuda.n_graphs, 0);
    memset(after, 0, sizeof after);
    run(&m, &text, 1, after);
    assert_memory_equal(after, before, g.model->n_out * sizeof *after);
  }
  close_group(&m);
  tl_model_free(g.model);
}

static void test_heads_that_do_not_divide(void **state) {
  (void)state;
  struct golden g;
  struct rank_run runs[MAX_RANKS];
  open_golden("bert", &g);
  struct tl_device_load load = load_of(g.model);
  struct machine m = open_fake(2);
  run_ranks(&m, load_rank, &(struct rank_run){.load = &load}, MAX_RANKS, runs);
  for (unsigned i = 0; i < 2; i++) {
    assert_int_equal(runs[i].result, TL_EINVAL);
    assert_string_equal(runs[i].err.message, "engine.tensor_parallel: the model's 3 attention heads cannot be divided among 2 devices");
  }
  close_group(&m);
  tl_model_free(g.model);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_vectors), cmocka_unit_test(test_rounded), cmocka_unit_test(test_a_step),
                                     cmocka_unit_test(test_made_anew), cmocka_unit_test(test_heads_that_do_not_divide)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
