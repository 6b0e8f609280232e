/* SPDX-License-Identifier: MIT */
/* Runs sequences on a device: makes steps of them, in blocks that are shuffled. The
 * KV cache begins as NaN, so that reading a slot that was never written shows; so do states. A sequence has two of those,
 * and goes on in the same or from the one to the other by turns. */
#ifndef STEP_RUNNER_H
#define STEP_RUNNER_H

#include <pthread.h>

#include "device/cpu/cpu_private.h"
#include "tokenlane/device.h"
#include "unit.h"

#ifndef MAX_TOKENS
#define MAX_TOKENS 352 /* of a sequence */
#define MAX_CONTEXT 400
#endif
#define BATCH_SIZE 64
#define BATCH_TOKENS 320
#define TABLE (MAX_CONTEXT / TL_BLOCK_TOKENS)
#define MAX_RANKS 8
#define MAX_STATES 96

struct sequence {
  uint32_t n_prompt, length;     /* length: tokens known so far */
  uint32_t n_cached;             /* tokens in the KV cache */
  int32_t tokens[MAX_TOKENS + 1];
  uint32_t table[TABLE], n_blocks;
  struct tl_sampling sampling;
  struct tl_sampled sampled[MAX_TOKENS + 1]; /* of tokens[i] */
  bool score_prompt;
  uint32_t n_drafts; /* guesses behind `length`, for the next step; taken up to the first that is wrong */
  bool takes;        /* the next row that makes a token is right */
  uint32_t adapter;              /* number + 1; 0: none */
  uint32_t states[2], n_steps;   /* of a model with states: states[0] has what n_cached tokens left */
};

struct machine {
  const struct tl_device_ops *ops;
  struct tl_device *device; /* alone, or rank 0 */
  struct tl_device *ranks[MAX_RANKS];
  unsigned n_ranks;
  struct tl_device_group *group; /* NULL: alone */
  uint32_t vocab;
  uint32_t *blocks, n_blocks, next_block; /* shuffled */
  uint32_t n_states, next_state; /* 0: the model has none */
};

static inline void shuffle(uint32_t *values, uint32_t n, uint64_t seed) {
  for (uint32_t i = 0; i < n; i++) values[i] = i;
  for (uint32_t i = n; i > 1; i--) {
    uint32_t k = unit_below(&seed, i), swap = values[i - 1];
    values[i - 1] = values[k];
    values[k] = swap;
  }
}

static enum tl_kv_format kv_format; /* of the machines that are opened */

/* n_ranks 1: a device alone. */
static inline struct machine open_group(const struct tl_model *model, const struct cpu_kernels *kernels, unsigned n_lanes,
                                        unsigned n_ranks) {
  struct machine m = {.vocab = model->vocab_size, .n_ranks = n_ranks};
  struct tl_error err = {0};
  unsigned index;
  m.ops = tl_device_find("cpu:0", &index, &err);
  assert_non_null(m.ops);
  assert_int_equal(index, 0);
  struct tl_device_options options = {.index = index, .n_lanes = n_lanes};
  if (n_ranks > 1 && m.ops->group->make(n_ranks, &m.group, &err) < 0) fail_msg("%s", err.message);
  struct tl_device_load load = {.model = model, .max_batch_size = BATCH_SIZE, .max_batch_tokens = BATCH_TOKENS,
                                .max_context = MAX_CONTEXT, .kv_memory_bytes = 32 << 20, .kv_format = kv_format,
                                .max_states = model->recurrence.n_layers ? MAX_STATES : 0};
  for (unsigned i = 0; i < n_ranks; i++) {
    struct tl_device_loaded loaded;
    if (m.ops->open(&options, &m.ranks[i], &err) < 0) fail_msg("%s", err.message);
    struct cpu_device *cpu = (struct cpu_device *)m.ranks[i];
    cpu->kernels = kernels;
    if (m.group) assert_int_equal(m.ops->group->join(m.ranks[i], m.group, i, &err), TL_OK);
    if (m.ops->load(m.ranks[i], &load, &loaded, &err) < 0) fail_msg("%s", err.message);
    assert_true(loaded.n_blocks >= 17 * TABLE);
    memset(cpu->kv, cpu->kv_dtype == TL_DTYPE_F8_E4M3 ? 0x7f : 0xff, cpu->kv_bytes);
    if (load.max_states) memset(cpu->states.memory, 0xff, cpu->states.bytes);
    m.n_states = loaded.n_states;
    if (i == 0 || loaded.n_blocks < m.n_blocks) m.n_blocks = loaded.n_blocks;
  }
  m.device = m.ranks[0];
  m.blocks = malloc(m.n_blocks * sizeof *m.blocks);
  shuffle(m.blocks, m.n_blocks, 77);
  return m;
}

static inline struct machine open_machine(const struct tl_model *model, const struct cpu_kernels *kernels, unsigned n_lanes) {
  return open_group(model, kernels, n_lanes, 1);
}

static inline void close_machine(struct machine *m) {
  for (unsigned i = 0; i < m->n_ranks; i++) m->ops->close(m->ranks[i]);
  if (m->group) m->ops->group->free(m->group);
  free(m->blocks);
}

/* The next n tokens of a sequence go into a step. */
struct part {
  struct sequence *seq;
  uint32_t n;
};

static struct {
  int32_t tokens[BATCH_TOKENS];
  uint32_t positions[BATCH_TOKENS], slots[BATCH_TOKENS], query_start[BATCH_SIZE + 1], context_len[BATCH_SIZE];
  uint32_t tables[BATCH_SIZE * TABLE], rows[BATCH_SIZE], adapters[BATCH_SIZE], state_from[BATCH_SIZE], state_to[BATCH_SIZE];
  struct tl_sampling sampling[BATCH_SIZE];
  struct sequence *row_seq[BATCH_SIZE];
  uint32_t row_index[BATCH_SIZE]; /* which token of the sequence the row says something about */
  struct tl_sampled sampled[BATCH_SIZE];
} work;

static inline void want_row(struct tl_step *step, struct sequence *s, uint32_t token) {
  assert_true(step->n_rows < BATCH_SIZE);
  work.rows[step->n_rows] = step->n_tokens;
  work.row_seq[step->n_rows] = s;
  work.row_index[step->n_rows] = token;
  work.sampling[step->n_rows] = s->sampling;
  work.sampling[step->n_rows].position = token;
  work.sampling[step->n_rows].target = token < s->length ? s->tokens[token] : -1;
  step->n_rows++;
}

static inline void add_states(struct machine *m, struct tl_step *step, struct sequence *s) {
  if (!m->n_states) return;
  bool begins = s->n_cached == 0;
  for (unsigned i = 0; begins && i < 2; i++) s->states[i] = m->next_state++ % m->n_states;
  uint32_t to = s->n_steps++ % 3 ? s->states[1] : s->states[0];
  work.state_from[step->n_seqs] = begins ? TL_NO_STATE : s->states[0];
  work.state_to[step->n_seqs] = to;
  if (to == s->states[1]) s->states[1] = s->states[0];
  s->states[0] = to;
  step->state_from = work.state_from;
  step->state_to = work.state_to;
}

static inline void add_part(struct machine *m, struct tl_step *step, const struct part *part) {
  struct sequence *s = part->seq;
  uint32_t end = s->n_cached + part->n;
  assert_true(end <= s->length + s->n_drafts);
  s->takes = true;
  add_states(m, step, s);
  while (s->n_blocks * TL_BLOCK_TOKENS < end) s->table[s->n_blocks++] = m->blocks[m->next_block++];
  for (uint32_t i = s->n_cached; i < end; i++) {
    assert_true(step->n_tokens < BATCH_TOKENS);
    work.tokens[step->n_tokens] = s->tokens[i];
    work.positions[step->n_tokens] = i;
    work.slots[step->n_tokens] = s->table[i / TL_BLOCK_TOKENS] * TL_BLOCK_TOKENS + i % TL_BLOCK_TOKENS;
    if (i + 1 >= s->length || s->score_prompt) want_row(step, s, i + 1);
    step->n_tokens++;
  }
  memcpy(work.tables + (size_t)step->n_seqs * TABLE, s->table, sizeof s->table);
  work.adapters[step->n_seqs] = s->adapter;
  if (s->adapter) step->adapters = work.adapters;
  work.context_len[step->n_seqs++] = end;
  work.query_start[step->n_seqs] = step->n_tokens;
  s->n_cached = end;
}

struct rank_run {
  const struct machine *m;
  const struct tl_step *step;
  unsigned rank;
  int result;
  struct tl_error error;
};

static inline void *run_rank(void *argument) {
  struct rank_run *r = argument;
  struct tl_device *device = r->m->ranks[r->rank];
  r->result = r->m->ops->submit(device, r->step, &r->error);
  if (r->result == TL_OK) r->result = r->m->ops->collect(device, r->rank ? NULL : work.sampled, &r->error);
  return NULL;
}

/* All ranks, but for `without` (n_ranks: none), the first on this thread. Returns its result. */
static inline int run_ranks(const struct machine *m, const struct tl_step *step, unsigned without, struct rank_run runs[MAX_RANKS]) {
  pthread_t threads[MAX_RANKS];
  for (unsigned i = 0; i < m->n_ranks; i++) {
    runs[i] = (struct rank_run){.m = m, .step = step, .rank = i};
    if (i > 0 && i != without) pthread_create(&threads[i], NULL, run_rank, &runs[i]);
  }
  if (without != 0) run_rank(&runs[0]);
  for (unsigned i = 1; i < m->n_ranks; i++)
    if (i != without) pthread_join(threads[i], NULL);
  return runs[0].result;
}

static inline void run_parts(struct machine *m, const struct part *parts, unsigned n) {
  struct tl_step step = {.n_tokens = 0, .n_seqs = 0, .n_rows = 0, .table_stride = TABLE, .tokens = work.tokens,
                         .positions = work.positions, .slots = work.slots, .query_start = work.query_start,
                         .context_len = work.context_len, .block_tables = work.tables, .rows = work.rows, .sampling = work.sampling};
  for (unsigned i = 0; i < n; i++) add_part(m, &step, &parts[i]);
  struct rank_run runs[MAX_RANKS];
  run_ranks(m, &step, m->n_ranks, runs);
  for (unsigned i = 0; i < m->n_ranks; i++)
    if (runs[i].result < 0) fail_msg("rank %u: %s", i, runs[i].error.message);
  for (uint32_t i = 0; i < step.n_rows; i++) {
    struct sequence *s = work.row_seq[i];
    int32_t token = work.sampled[i].token;
    assert_true(token >= 0 && (uint32_t)token < m->vocab);
    s->sampled[work.row_index[i]] = work.sampled[i];
    if (!s->takes || work.row_index[i] != s->length) continue;
    s->takes = s->n_drafts > 0 && s->tokens[s->length] == token;
    if (s->n_drafts) s->n_drafts--;
    s->tokens[s->length++] = token;
  }
  for (unsigned i = 0; i < n; i++) { /* what lies behind a wrong guess is written anew */
    struct sequence *s = parts[i].seq;
    s->n_drafts = 0;
    if (s->n_cached > s->length - 1) s->n_cached = s->length - 1;
  }
}

static inline struct sequence *new_sequence(const int32_t *prompt, uint32_t n_prompt) {
  struct sequence *s = calloc(1, sizeof *s);
  s->n_prompt = s->length = n_prompt;
  memcpy(s->tokens, prompt, n_prompt * sizeof *prompt);
  s->sampling = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = 5};
  return s;
}

static inline bool is_done(const struct sequence *s, uint32_t n_new) {
  return s->length >= s->n_prompt + n_new;
}

/* Alone, the prompt in chunks of the sizes in turn (one size 0: whole). */
static inline void run_alone(struct machine *m, struct sequence *s, uint32_t n_new, const uint32_t *chunks, unsigned n_chunks) {
  for (unsigned i = 0; !is_done(s, n_new); i++) {
    uint32_t left = s->length - s->n_cached, chunk = chunks[i % n_chunks];
    run_parts(m, &(struct part){s, chunk && chunk < left ? chunk : left}, 1);
  }
}

static const uint32_t whole[] = {0};

/* What was drawn for both, to the bit. */
static inline void assert_same_draws(const struct sequence *a, const struct sequence *b, const char *what) {
  assert_int_equal(a->length, b->length);
  for (uint32_t k = a->n_prompt; k < a->length; k++) {
    if (a->tokens[k] != b->tokens[k] || a->sampled[k].token != b->sampled[k].token) fail_msg("%s: token %u", what, k);
    assert_memory_equal(&a->sampled[k].logprob, &b->sampled[k].logprob, sizeof(float));
  }
}

#endif
