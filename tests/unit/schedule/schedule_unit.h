/* SPDX-License-Identifier: MIT */
/* Plans written down: blocks of 4 tokens, a clock that the test sets. */
#ifndef SCHEDULE_UNIT_H
#define SCHEDULE_UNIT_H

#include "schedule/schedule_private.h"
#include "unit.h"

#define MAX_ITEMS 16

static struct tl_sched_item items[MAX_ITEMS];
static uint32_t n_items;
static int64_t now_ns;

static inline struct tl_scheduler_options scheduler_options(uint32_t n_blocks, uint32_t size, uint32_t tokens, uint32_t context) {
  return (struct tl_scheduler_options){.n_blocks = n_blocks, .block_tokens = 4, .max_batch_size = size, .max_batch_tokens = tokens,
                                       .max_context = context, .max_prefill_tokens = tokens, .priority_age_ns = 10};
}

static inline struct tl_scheduler *make_with(const struct tl_scheduler_options *o) {
  struct tl_scheduler *s;
  now_ns = 0;
  assert_int_equal(tl_scheduler_new(o, &s, NULL), TL_OK);
  return s;
}

static inline struct tl_scheduler *make(uint32_t n_blocks, uint32_t size, uint32_t tokens, uint32_t context) {
  struct tl_scheduler_options o = scheduler_options(n_blocks, size, tokens, context);
  return make_with(&o);
}

static inline void add(struct tl_scheduler *s, struct tl_sched_seq *seq, uint32_t n_tokens, uint32_t n_max) {
  *seq = (struct tl_sched_seq){.n_tokens = n_tokens, .n_max = n_max};
  tl_scheduler_add(s, seq, now_ns);
}

/* (seq, start, n) triples that end with NULL. */
static inline void assert_items(va_list args) {
  uint32_t i = 0;
  for (struct tl_sched_seq *seq; (seq = va_arg(args, struct tl_sched_seq *)); i++) {
    assert_true(i < n_items);
    assert_ptr_equal(items[i].seq, seq);
    assert_int_equal(items[i].start, va_arg(args, unsigned));
    assert_int_equal(items[i].n, va_arg(args, unsigned));
  }
  assert_int_equal(n_items, i);
}

/* Plans and compares. */
static inline void assert_plan(struct tl_scheduler *s, ...) {
  va_list args;
  n_items = tl_scheduler_plan(s, items);
  va_start(args, s);
  assert_items(args);
  va_end(args);
}

static inline void assert_extended(struct tl_scheduler *s, ...) {
  va_list args;
  n_items = tl_scheduler_extend(s, items, n_items);
  va_start(args, s);
  assert_items(args);
  va_end(args);
}

/* The step has run: whose tokens are all computed gets a new one. */
static inline void run(struct tl_scheduler *s) {
  tl_scheduler_done(s, items, n_items);
  for (uint32_t i = 0; i < n_items; i++)
    if (items[i].seq->n_computed == items[i].seq->n_tokens) items[i].seq->n_tokens++;
}

#endif
