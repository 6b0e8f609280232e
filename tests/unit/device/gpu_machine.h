/* SPDX-License-Identifier: MIT */
/* A machine (step_runner.h) that is one GPU, or the fake of one (fake_or_gpu.h). */
#ifndef GPU_MACHINE_H
#define GPU_MACHINE_H

#include "fake_or_gpu.h"
#include "step_runner.h"

static inline struct machine begin_gpu(const struct tl_model *model) {
  struct machine m = {.ops = find_ops(), .n_ranks = 1, .vocab = model->vocab_size};
  struct tl_error err = {0};
  struct tl_device_options options = {.n_lanes = 2};
  if (m.ops->open(&options, &m.device, &err) < 0) fail_msg("%s", err.message);
  m.ranks[0] = m.device;
  return m;
}

/* load: what differs from test to test. Of the device's blocks at most so many are used. */
static inline void load_gpu(struct machine *m, const struct tl_model *model, struct tl_device_load load, uint32_t most_blocks) {
  struct tl_error err = {0};
  struct tl_device_loaded loaded;
  load.model = model;
  load.max_batch_tokens = BATCH_TOKENS;
  load.max_context = MAX_CONTEXT;
  load.kv_memory_bytes = 32 << 20;
  load.max_states = model->recurrence.n_layers ? MAX_STATES : 0;
  if (m->ops->load(m->device, &load, &loaded, &err) < 0) fail_msg("%s", err.message);
  m->n_states = loaded.n_states;
  m->n_blocks = loaded.n_blocks < most_blocks ? loaded.n_blocks : most_blocks;
  m->blocks = malloc(m->n_blocks * sizeof *m->blocks);
  shuffle(m->blocks, m->n_blocks, 77);
}

static inline void close_gpu(struct machine *m) {
  close_machine(m);
  IF_FAKE(assert_int_equal(fake_cuda_live(), 0);)
}

#endif
