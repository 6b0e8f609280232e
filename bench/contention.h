/* SPDX-License-Identifier: MIT */
/* Shared by bench_contention.c and its parts: a part runs one variant with n
 * threads for a while and says how many operations were done and how long single
 * ones took. */
#ifndef CONTENTION_H
#define CONTENTION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTENTION_MAX_THREADS 64
#define CONTENTION_SAMPLES 16384 /* per thread and run; one operation in CONTENTION_EVERY is timed */
#define CONTENTION_EVERY 16

/* One thread's count and samples, on lines of its own. */
struct contention_tally {
  _Alignas(128) uint64_t n_ops;
  uint32_t n_samples;
  int64_t samples[CONTENTION_SAMPLES];
};

/* Counts an operation that began at began_ns (0: not timed). */
void contention_count(struct contention_tally *tally, int64_t began_ns);
/* The time if the next operation is to be timed, else 0. */
int64_t contention_begin(const struct contention_tally *tally);

/* Raised when a run's time is over; all threads look at it. */
extern _Atomic int contention_over;
static inline bool contention_is_over(void) {
  return atomic_load_explicit(&contention_over, memory_order_acquire); /* pairs with the release store of the main thread */
}

struct contention_variant {
  const char *name;
  void (*start)(const struct contention_variant *variant, unsigned n_threads, struct contention_tally *tallies);
  void (*stop)(void); /* after contention_over was raised: joins */
  const void *ops;    /* the part's own */
};

struct contention_part {
  const char *name, *what;
  double expected;        /* ratio to the first twin at expected_threads */
  unsigned n_variants;    /* the first is ours */
  const struct contention_variant *variants;
};

extern const struct contention_part contention_submit, contention_board;
/* What forming a step costs a sequence on one thread that nobody disturbs: the least
 * that the twins of contention_submit hold their lock for. */
double contention_form_ns(void);

#endif
