/* SPDX-License-Identifier: MIT */
/* A simulated device in a process of its own, which is this program again, and one sequence on it. */
#ifndef CHILD_RIG_H
#define CHILD_RIG_H

#include <sys/wait.h>

#include "device/child/child_private.h"
#include "tokenlane/base/clock.h"
#include "unit.h"

enum { CONTEXT = 256, TABLE = CONTEXT / TL_BLOCK_TOKENS, SEQS = 4, TOKENS = 128, RANKS = 3, STATES = 3, PATIENCE_S = 20 * UNIT_SLOWDOWN };

static const struct tl_model model = {.vocab_size = 1000, .max_context = CONTEXT, .n_eos = 2, .eos = {7, 8}};

static struct {
  int32_t tokens[CONTEXT];
  uint32_t positions[CONTEXT], slots[CONTEXT], table[TABLE], query_start[2], context_len[1], rows[1], state_from[1], state_to[1];
  struct tl_sampling sampling[1];
} work;

struct rig {
  struct tl_sim_options options;
  struct tl_device *device;
  struct tl_device_loaded loaded[RANKS];
  struct tl_error err;
  int32_t text[CONTEXT];
  uint32_t length, n_cached;
};

static inline const struct tl_device_ops *ops(void) {
  unsigned index;
  return tl_device_isolated(tl_device_find("sim:0", &index, NULL), 1);
}

static inline int open_ranks(struct rig *rig, unsigned n, struct tl_sim_options options) {
  *rig = (struct rig){.options = options, .text = {3, 4, 5}, .length = 3};
  struct tl_device_options o[RANKS] = {{.spec = "sim:1", .n_lanes = 1, .sim = &rig->options, .n_ranks = n},
                                       {.spec = "sim:2", .n_lanes = 1, .sim = &rig->options},
                                       {.spec = "sim:3", .n_lanes = 1, .sim = &rig->options}};
  struct tl_device_load load = {.model = &model, .max_batch_size = SEQS, .max_batch_tokens = TOKENS, .max_context = CONTEXT, .max_states = STATES};
  assert_int_equal(ops()->open(o, &rig->device, &rig->err), TL_OK);
  return ops()->load(rig->device, &load, rig->loaded, &rig->err);
}

static inline int open_rig(struct rig *rig, struct tl_sim_options options) {
  return open_ranks(rig, 0, options);
}

static inline void close_rig(struct rig *rig) {
  ops()->close(rig->device);
  assert_true(waitpid(-1, NULL, WNOHANG) < 0); /* no child is left, not even a dead one */
}

static inline struct child_device *child_of(const struct rig *rig) {
  return (struct child_device *)(void *)rig->device;
}

static inline struct tl_step make_step(const struct rig *rig) {
  uint32_t n = rig->length - rig->n_cached;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t p = rig->n_cached + i;
    work.tokens[i] = rig->text[p];
    work.positions[i] = work.slots[i] = p;
  }
  for (uint32_t b = 0; b < TABLE; b++) work.table[b] = b;
  work.query_start[1] = n;
  work.context_len[0] = rig->length;
  work.rows[0] = n - 1;
  uint32_t n_states = rig->loaded[0].n_states;
  work.state_from[0] = rig->n_cached ? rig->n_cached % n_states : TL_NO_STATE; /* another one in each step */
  work.state_to[0] = rig->length % n_states;
  work.sampling[0] = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = 2, .position = rig->length};
  return (struct tl_step){.n_tokens = n, .n_seqs = 1, .n_rows = 1, .table_stride = TABLE, .tokens = work.tokens,
                          .positions = work.positions, .slots = work.slots, .query_start = work.query_start,
                          .context_len = work.context_len, .block_tables = work.table, .rows = work.rows, .sampling = work.sampling,
                          .state_from = work.state_from, .state_to = work.state_to};
}

static inline int step(struct rig *rig) {
  struct tl_sampled sampled = {0};
  struct tl_step s = make_step(rig);
  int r = ops()->submit(rig->device, &s, &rig->err);
  if (r == TL_OK) r = ops()->collect(rig->device, &sampled, &rig->err);
  if (r < 0) return r;
  rig->n_cached = rig->length;
  rig->text[rig->length++] = sampled.token;
  return TL_OK;
}

static inline void assert_text(const struct rig *rig) {
  int32_t expected[CONTEXT];
  struct tl_sampling greedy = {.target = -1};
  memcpy(expected, rig->text, 3 * sizeof *expected);
  tl_sim_expect(&rig->options, &model, expected, 3, rig->length - 3, &greedy);
  assert_memory_equal(expected, rig->text, rig->length * sizeof *expected);
}

/* As the monitor does it: again and again, until it says something else than "not yet". */
static inline int reset(struct rig *rig) {
  int64_t end_ns = tl_now_ns() + TL_SEC(PATIENCE_S);
  int r;
  while ((r = ops()->reset(rig->device, &rig->err)) == TL_EBUSY) {
    assert_true(tl_now_ns() < end_ns);
    usleep(500);
  }
  rig->length = 3;
  rig->n_cached = 0;
  return r;
}

#endif
