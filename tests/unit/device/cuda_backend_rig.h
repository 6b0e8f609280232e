/* SPDX-License-Identifier: MIT */
/* The CUDA backend's host part on a GPU that only counts, and its steps. */
#ifndef CUDA_BACKEND_RIG_H
#define CUDA_BACKEND_RIG_H

#include "device/cuda/cuda_backend.h"
#include "device/cuda/cuda_private.h"
#include "fake_cuda.h"
#include "unit.h"

enum { BATCH = 8, TOKENS = 48, CONTEXT = 64 };

static struct tl_model *model;

static inline int open_model(void **state) {
  (void)state;
  char folder[1024];
  struct tl_error err = {0};
  return tl_model_load(unit_golden_path("llama/f16_sharded", folder), &model, &err);
}

static inline int close_model(void **state) {
  (void)state;
  tl_model_free(model);
  return 0;
}

static bool is_ada; /* compute capability 8.9 instead of 9.0 */

static inline void start(void) {
  fake_cuda_reset();
  fake_cuda.idle = true;
  if (is_ada) fake_cuda.compute_major = 8, fake_cuda.compute_minor = 9;
}

/* --- steps ---------------------------------------------------------------------------------- */

static struct {
  int32_t tokens[TOKENS];
  uint32_t positions[TOKENS], slots[TOKENS], query_start[BATCH + 1], context_len[BATCH], tables[BATCH * 4], rows[BATCH], states[BATCH];
  struct tl_sampling sampling[BATCH];
  struct tl_sampled sampled[BATCH];
} work;

/* A sequence for each count: its last so many tokens of a context of 40, its last row wanted. */
static inline struct tl_step make_step(unsigned n, const uint32_t *counts) {
  struct tl_step step = {.n_tokens = 0, .n_seqs = n, .n_rows = n, .table_stride = 4, .tokens = work.tokens, .positions = work.positions,
                         .slots = work.slots, .query_start = work.query_start, .context_len = work.context_len,
                         .block_tables = work.tables, .rows = work.rows, .sampling = work.sampling};
  for (uint32_t s = 0; s < n; s++) {
    for (uint32_t i = 0; i < 4; i++) work.tables[s * 4 + i] = s * 4 + i;
    work.query_start[s] = step.n_tokens;
    work.context_len[s] = 40;
    work.states[s] = s;
    for (uint32_t i = 0; i < counts[s]; i++, step.n_tokens++) {
      work.positions[step.n_tokens] = 40 - counts[s] + i;
      work.slots[step.n_tokens] = s * 64 + work.positions[step.n_tokens];
    }
    work.rows[s] = step.n_tokens - 1;
    work.sampling[s] = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1};
  }
  work.query_start[n] = step.n_tokens;
  if (model->recurrence.n_layers) step.state_from = step.state_to = work.states;
  return step;
}

static float vectors[BATCH * 64];

/* As make_step, of a model that pools: whole sequences of so many tokens. */
static inline struct tl_step make_texts(unsigned n, const uint32_t *counts) {
  struct tl_step step = make_step(n, counts);
  for (uint32_t s = 0; s < n; s++)
    for (uint32_t i = 0; i < counts[s]; i++) work.positions[work.query_start[s] + i] = i;
  step.slots = step.context_len = step.block_tables = NULL;
  step.sampling = NULL;
  step.vectors = vectors;
  return step;
}

/* All rows of sequences that have no more than so many. */
static inline void want_all(struct tl_step *step, uint32_t most) {
  step->n_rows = 0;
  for (uint32_t s = 0; s < step->n_seqs; s++)
    for (uint32_t row = work.query_start[s]; row < work.query_start[s + 1] && work.query_start[s + 1] - work.query_start[s] <= most; row++) {
      work.sampling[step->n_rows] = work.sampling[0];
      work.rows[step->n_rows++] = row;
    }
}

static inline int run(struct tl_device *device, unsigned n, const uint32_t *counts, struct tl_error *err) {
  struct tl_step step = model->pooling ? make_texts(n, counts) : make_step(n, counts);
  int r = fake_cuda_ops.submit(device, &step, err);
  return r < 0 ? r : fake_cuda_ops.collect(device, work.sampled, err);
}

static const uint32_t decode[] = {1, 1, 1}, prompt[] = {40}, mixed[] = {1, 30, 1, 5}, drafts[] = {3, 1, 4};

static uint32_t draft_tokens; /* of a load */
static uint32_t n_blocks;     /* as the next two: of a load with a draft model, or of one */
static uint64_t beside_bytes, beside_block_bytes;

/* One behind the other. Their arrays are the same, which nobody reads once submit has returned. */
static inline int run_ahead(struct tl_device *device, struct tl_error *err) {
  struct tl_step step = model->pooling ? make_texts(3, decode) : make_step(3, decode);
  work.sampling[2].temperature = 1;
  work.sampling[2].top_k = 5;
  int r = fake_cuda_ops.submit(device, &step, err);
  for (uint32_t i = 0; i < 3 && !model->pooling; i++) work.tokens[i] = -2 - (int32_t)i;
  if (r == TL_OK) r = fake_cuda_ops.submit(device, &step, err);
  for (uint32_t i = 0; i < 3; i++) work.tokens[i] = 0;
  if (r == TL_OK) r = fake_cuda_ops.collect(device, work.sampled, err);
  return r == TL_OK ? fake_cuda_ops.collect(device, work.sampled, err) : r;
}

static inline int run_drafts(struct tl_device *device, struct tl_error *err) {
  struct tl_step step = make_step(3, drafts);
  want_all(&step, 1 + draft_tokens);
  int r = fake_cuda_ops.submit(device, &step, err);
  return r < 0 ? r : fake_cuda_ops.collect(device, work.sampled, err);
}

static inline int run_three(struct tl_device *device, struct tl_error *err) {
  int r = run(device, 1, prompt, err);
  if (r == TL_OK) r = run_ahead(device, err);
  if (r == TL_OK) r = run(device, 3, decode, err);
  if (r == TL_OK && draft_tokens) r = run_drafts(device, err);
  return r == TL_OK ? run(device, 4, mixed, err) : r;
}

static inline int load_device(struct tl_device *device, uint64_t kv_bytes, unsigned percent, struct tl_device_loaded *ret,
                       struct tl_error *err) {
  struct tl_device_load load = {.model = model, .max_batch_size = BATCH, .max_batch_tokens = TOKENS, .max_context = CONTEXT,
                                .draft_tokens = draft_tokens, .draft_rows = BATCH, .kv_memory_bytes = kv_bytes, .memory_percent = percent,
                                .n_blocks = n_blocks, .beside_bytes = beside_bytes, .beside_block_bytes = beside_block_bytes,
                                .max_states = model->recurrence.n_layers ? BATCH : 0};
  return fake_cuda_ops.load(device, &load, ret, err);
}

static const struct tl_device_options options = {.n_lanes = 1};

static inline struct tl_device *open_device(void) {
  struct tl_device *device;
  struct tl_device_loaded loaded;
  struct tl_error err = {0};
  if (fake_cuda_ops.open(&options, &device, &err) < 0) fail_msg("%s", err.message);
  if (load_device(device, 0, 0, &loaded, &err) < 0) fail_msg("%s", err.message);
  return device;
}

static inline void close_device(struct tl_device *device) {
  fake_cuda_ops.close(device);
  assert_int_equal(fake_cuda_live(), 0);
}

#endif
