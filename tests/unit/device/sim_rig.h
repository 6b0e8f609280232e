/* SPDX-License-Identifier: MIT */
/* One simulated device, texts with blocks of their own, and steps of them. */
#ifndef SIM_RIG_H
#define SIM_RIG_H

#include "tokenlane/sim.h"
#include <math.h>
#include <pthread.h>
#include "device/sim/sim_private.h"
#include "tokenlane/base/clock.h"
#include "unit.h"

#define CONTEXT 256
#define TABLE (CONTEXT / TL_BLOCK_TOKENS)
#define SEQS 4
#define STEP_TOKENS 128

static const struct tl_model model = {.vocab_size = 1000, .max_context = CONTEXT, .n_eos = 2, .eos = {7, 8}};

struct rig {
  struct tl_sim_options options;
  uint32_t n_states; /* that the model has, in `work` */
  struct sim_device *d;
  struct tl_device_loaded loaded;
  struct tl_error err;
};

struct text {
  int32_t tokens[CONTEXT];
  uint32_t length, n_cached;
  uint32_t table[TABLE];
  struct tl_sampling sampling;
};

/* A step of one chunk of each text. */
static struct {
  int32_t tokens[STEP_TOKENS];
  uint32_t positions[STEP_TOKENS], slots[STEP_TOKENS], query_start[SEQS + 1], context_len[SEQS], tables[SEQS * TABLE];
  uint32_t rows[SEQS], state_from[SEQS], state_to[SEQS];
  struct tl_sampling sampling[SEQS];
} work;

static inline int open_rig(struct rig *rig, unsigned index) {
  struct tl_device_options options = {.index = index, .sim = &rig->options};
  struct tl_device_load load = {.model = &model, .max_batch_size = SEQS, .max_batch_tokens = STEP_TOKENS,
                                .max_context = CONTEXT, .max_states = rig->n_states};
  assert_int_equal(sim_device_ops.open(&options, (struct tl_device **)(void *)&rig->d, &rig->err), TL_OK);
  return sim_device_ops.load((struct tl_device *)(void *)rig->d, &load, &rig->loaded, &rig->err);
}

static inline struct rig new_rig(struct tl_sim_options options) {
  struct rig rig = {.options = options};
  if (open_rig(&rig, 1) < 0) fail_msg("%s", rig.err.message);
  return rig;
}

static inline void close_rig(struct rig *rig) {
  sim_device_ops.close((struct tl_device *)(void *)rig->d);
}

static inline int reset(struct rig *rig) {
  return sim_device_ops.reset((struct tl_device *)(void *)rig->d, &rig->err);
}

/* Text number n has blocks of its own. */
static inline struct text new_text(uint32_t n, uint32_t n_prompt) {
  struct text t = {.length = n_prompt, .sampling = {.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1}};
  for (uint32_t i = 0; i < n_prompt; i++) t.tokens[i] = (int32_t)((i * 31 + n * 17) % model.vocab_size);
  for (uint32_t i = 0; i < TABLE; i++) t.table[i] = n + i * SEQS;
  return t;
}

static inline struct tl_step make_step(struct text *const *texts, uint32_t n_texts, uint32_t chunk) {
  struct tl_step s = {.n_tokens = 0, .n_seqs = n_texts, .n_rows = 0, .table_stride = TABLE, .tokens = work.tokens,
                      .positions = work.positions, .slots = work.slots, .query_start = work.query_start, .context_len = work.context_len,
                      .block_tables = work.tables, .rows = work.rows, .sampling = work.sampling};
  for (uint32_t q = 0; q < n_texts; q++) {
    struct text *t = texts[q];
    uint32_t end = t->length - t->n_cached > chunk ? t->n_cached + chunk : t->length;
    for (uint32_t p = t->n_cached; p < end; p++) {
      work.tokens[s.n_tokens] = t->tokens[p];
      work.positions[s.n_tokens] = p;
      work.slots[s.n_tokens++] = t->table[p / TL_BLOCK_TOKENS] * TL_BLOCK_TOKENS + p % TL_BLOCK_TOKENS;
    }
    memcpy(work.tables + (size_t)q * TABLE, t->table, sizeof t->table);
    work.context_len[q] = t->n_cached = end;
    work.query_start[q + 1] = s.n_tokens;
    work.sampling[s.n_rows] = t->sampling;
    work.sampling[s.n_rows].position = end;
    if (end == t->length) work.rows[s.n_rows++] = s.n_tokens - 1;
  }
  return s;
}

static inline int run_step(struct rig *rig, const struct tl_step *step, struct tl_sampled *ret) {
  struct tl_device *device = (struct tl_device *)(void *)rig->d;
  int r = sim_device_ops.submit(device, step, &rig->err);
  return r == TL_OK ? sim_device_ops.collect(device, ret, &rig->err) : r;
}

/* One step of all texts; those that are through with their prompt get a token. */
static inline int run(struct rig *rig, struct text *const *texts, uint32_t n_texts, uint32_t chunk) {
  struct tl_sampled sampled[SEQS];
  struct tl_step step = make_step(texts, n_texts, chunk);
  int r = run_step(rig, &step, sampled);
  for (uint32_t q = 0, i = 0; r == TL_OK && q < n_texts; q++)
    if (texts[q]->n_cached == texts[q]->length) texts[q]->tokens[texts[q]->length++] = sampled[i++].token;
  return r;
}

static inline int run_one(struct rig *rig, struct text *t) {
  struct text *texts[] = {t};
  uint32_t n_cached = t->n_cached;
  int r = run(rig, texts, 1, STEP_TOKENS);
  if (r < 0) t->n_cached = n_cached;
  return r;
}

static inline bool is_as_expected(const struct rig *rig, const struct text *t, uint32_t n_prompt) {
  int32_t expected[CONTEXT];
  memcpy(expected, t->tokens, n_prompt * sizeof *expected);
  tl_sim_expect(&rig->options, &model, expected, n_prompt, t->length - n_prompt, &t->sampling);
  return memcmp(expected, t->tokens, t->length * sizeof *expected) == 0;
}

#endif
