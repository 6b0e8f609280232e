/* SPDX-License-Identifier: MIT */
/* Guessed tokens on the CUDA backend: rows of a sequence that decode together, as graphs and beside prompts, of models of each kind of
 * attention, against transformers and against the same without guesses. With ON_GPU the same on the plugin and the GPU cuda:0. */
#include <math.h>

#include "gpu_machine.h"
#include "golden_llama.h"

enum { BATCH = 24, DRAFTS = 5, DRAFT_ROWS = 16, NEW = 12, SEQS = 3 };

static struct golden *open_model(const char *name) {
  struct golden *g = malloc(sizeof *g);
  IF_FAKE(fake_cuda_reset();)
  open_golden(name, g);
  return g;
}

static struct machine open_gpu(const struct tl_model *model, uint32_t draft_tokens) {
  struct machine m = begin_gpu(model);
  load_gpu(&m, model, (struct tl_device_load){.max_batch_size = BATCH, .draft_tokens = draft_tokens, .draft_rows = DRAFT_ROWS}, 4000);
  return m;
}

static void close_all(struct machine *m, struct golden *g) {
  close_gpu(m);
  close_golden(g);
  free(g);
}

/* n guesses, of which the first `right` are. */
static void guess(struct sequence *s, const struct golden_case *c, uint32_t n, uint32_t right) {
  for (uint32_t i = 0; i < n; i++) {
    int32_t token = c->tokens[s->length - s->n_prompt + i];
    s->tokens[s->length + i] = i < right ? token : (token + 1) % 50;
  }
  s->n_drafts = n;
}

/* The greatest difference from the golden log-probabilities. */
static double check(const struct golden *g, const struct golden_case *c, const struct sequence *s) {
  double worst = 0;
  for (uint32_t i = 0; i < s->length - c->n_prompt; i++) {
    const struct tl_sampled *got = &s->sampled[c->n_prompt + i];
    if (got->token != c->tokens[i]) fail_msg("%s, token %u of %u: %d, expected %d", g->folder, i, c->n_prompt, got->token, c->tokens[i]);
    worst = fmax(worst, fabs((double)got->logprob - c->logprobs[i]));
  }
  if (!(worst <= (g->model->dtype == TL_DTYPE_BF16 ? 1e-1 : 3e-2))) fail_msg("%s: log-probabilities off by %g", g->folder, worst);
  return worst;
}

/* Sequences of two cases, each with as many guesses as it happens to have, right and wrong, while another's prompt goes by in chunks
 * when `beside` is. Returns the steps that were decodes. */
static unsigned run_crowd(struct machine *m, const struct golden *g, struct sequence *s[SEQS], bool drafts, bool beside) {
  uint64_t random = 11;
  unsigned n_decodes = 0;
  const struct golden_case *longest = &g->cases[2];
  struct sequence *other = new_sequence(longest->prompt, longest->n_prompt);
  for (unsigned i = 0; i < SEQS; i++) {
    s[i] = new_sequence(g->cases[i % 2].prompt, g->cases[i % 2].n_prompt);
    run_parts(m, &(struct part){s[i], s[i]->length}, 1);
  }
  for (unsigned running = 1; running;) {
    struct part parts[SEQS + 1];
    unsigned n = 0;
    for (unsigned i = 0; i < SEQS; i++) {
      if (is_done(s[i], NEW) || unit_below(&random, 4) == 0) continue;
      uint32_t most = s[i]->n_prompt + NEW - 1 - s[i]->length, k = unit_below(&random, DRAFTS + 1);
      if (k > most) k = most;
      guess(s[i], &g->cases[i % 2], drafts ? k : 0, unit_below(&random, DRAFTS + 1));
      parts[n++] = (struct part){s[i], 1 + s[i]->n_drafts};
    }
    uint32_t left = other->n_prompt - other->n_cached;
    if (n) n_decodes++;
    if (n && beside && left > 1) {
      parts[n++] = (struct part){other, left < 9 ? left - 1 : 9};
      n_decodes--;
    }
    if (n) run_parts(m, parts, n);
    running = 0;
    for (unsigned i = 0; i < SEQS; i++) running += !is_done(s[i], NEW);
  }
  free(other);
  return n_decodes;
}

static void check_model(const char *name) {
  struct golden *g = open_model(name);
  struct machine m = open_gpu(g->model, DRAFTS);
  struct sequence *with[SEQS], *without[SEQS];
  double worst = 0;
  unsigned same = 0, all = 0;
  IF_FAKE(assert_int_equal(fake_cuda.n_graphs, 6 + 4);) /* 1, 2, 4, 8, 16, 24; with guesses 2, 4, 8, 16 */
  IF_FAKE(unsigned n_replays = fake_cuda.n_replays;)
  unsigned n_decodes = run_crowd(&m, g, with, true, false);
  n_decodes += run_crowd(&m, g, without, false, false);
  IF_FAKE(assert_int_equal(fake_cuda.n_replays - n_replays, n_decodes);)
  for (unsigned i = 0; i < SEQS; i++) {
    worst = fmax(worst, check(g, &g->cases[i % 2], with[i]));
    for (uint32_t k = with[i]->n_prompt; k < with[i]->length; k++, all++)
      same += memcmp(&with[i]->sampled[k].logprob, &without[i]->sampled[k].logprob, sizeof(float)) == 0;
    free(with[i]);
    free(without[i]);
  }
  run_crowd(&m, g, with, true, true);
  for (unsigned i = 0; i < SEQS; i++) {
    worst = fmax(worst, check(g, &g->cases[i % 2], with[i]));
    free(with[i]);
  }
  printf("%s: log-probabilities within %.2g, %u of %u the same to the bit without guesses\n", g->folder, worst, same, all);
  close_all(&m, g);
}

static void test_models(void **state) {
  (void)state;
  static const char *const names[] = {"f32_odd", "bf16_tied", "f32_llama3", "f16_sharded", "arch/gemma2", "arch/gemma3", "arch/olmo2",
                                      "arch/qwen2_window", "arch/qwen3_moe", "arch/gpt_oss", "arch/llama4_long", "arch/ministral3_long"};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) check_model(names[i]);
}

#ifndef ON_GPU
/* Rows of two sequences, and the same rows as if each were a sequence's only one, in the same blocks: the same step but for the attention.
 * (On a GPU a row of the second kind may not see what the one before writes.) */
static void check_to_the_bit(const char *name) {
  enum { ROWS = 9, N = 2 * ROWS };
  struct golden *g = open_model(name);
  struct machine m = open_gpu(g->model, ROWS - 1);
  struct tl_step step = {.table_stride = TABLE, .tokens = work.tokens, .positions = work.positions, .slots = work.slots,
                         .query_start = work.query_start, .context_len = work.context_len, .block_tables = work.tables, .rows = work.rows,
                         .sampling = work.sampling};
  struct sequence *s[2];
  for (unsigned i = 0; i < 2; i++) {
    s[i] = new_sequence(g->cases[i].prompt, g->cases[i].n_prompt);
    run_parts(&m, &(struct part){s[i], s[i]->length}, 1);
  }
  for (unsigned i = 0; i < 2; i++) {
    guess(s[i], &g->cases[i], ROWS - 1, 4);
    add_part(&m, &step, &(struct part){s[i], ROWS});
  }
  assert_int_equal(step.n_rows, N);
  struct tl_sampled together[N], alone[N];
  struct tl_error err = {0};
  uint32_t starts[N + 1] = {0}, lengths[N], *tables = malloc(N * TABLE * sizeof *tables);
  if (m.ops->submit(m.device, &step, &err) < 0 || m.ops->collect(m.device, together, &err) < 0) fail_msg("%s", err.message);
  for (unsigned i = 0; i < N; i++) {
    starts[i + 1] = i + 1;
    lengths[i] = step.positions[i] + 1;
    memcpy(tables + i * TABLE, s[i / ROWS]->table, sizeof s[0]->table);
  }
  step.n_seqs = N;
  step.query_start = starts;
  step.context_len = lengths;
  step.block_tables = tables;
  if (m.ops->submit(m.device, &step, &err) < 0 || m.ops->collect(m.device, alone, &err) < 0) fail_msg("%s", err.message);
  for (unsigned i = 0; i < N; i++) {
    assert_int_equal(together[i].token, alone[i].token);
    assert_memory_equal(&together[i].logprob, &alone[i].logprob, sizeof(float));
    assert_memory_equal(together[i].top_logprobs, alone[i].top_logprobs, N_TOP * sizeof(float));
  }
  for (unsigned i = 0; i < 2; i++) free(s[i]);
  free(tables);
  close_all(&m, g);
}

static void test_to_the_bit(void **state) {
  (void)state;
  static const char *const names[] = {"f16_sharded", "bf16_tied", "arch/gemma2", "arch/olmo2", "arch/gpt_oss"};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) check_to_the_bit(names[i]);
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_models),
#ifndef ON_GPU
                                     cmocka_unit_test(test_to_the_bit),
#endif
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
