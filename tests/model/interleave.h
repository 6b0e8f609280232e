/* SPDX-License-Identifier: MIT */
/* Runs the real code of src/ under every interleaving, within bounds.
 *
 * The code is compiled with -fsanitize=thread, but linked with interleave.c instead
 * of TSan's library: each atomic access, fence and plain access calls us. Threads are
 * coroutines; at each atomic access the checker chooses who goes on, and for each load
 * which of the values it may read under the C11 rules. It tries all choices, depth first,
 * with at most `preemptions` switches away from a thread that could go on and at most
 * `stale` loads that read an older value than the newest.
 *
 * Memory: each location has the list of its stores in modification order. A thread
 * has a view: for each location the oldest store that it may still read. A release
 * store carries the view, an acquire load takes it over; seq_cst fences share one.
 * Views carry vector clocks, so plain accesses that race are found too.
 * What it leaves out: load buffering, and stores that enter modification order before ones
 * already made (interleave_ordered finds where that matters).
 *
 * syscall(SYS_futex) is ours as well: when nobody can go on, a wake-up was lost. */
#ifndef INTERLEAVE_H
#define INTERLEAVE_H

#include <stdbool.h>
#include <stdint.h>

enum { INTERLEAVE_THREADS = 4 };

struct interleave_case {
  const char *name;
  unsigned n_threads, preemptions, stale;
  void (*setup)(void);            /* before each run, alone */
  void (*run)(unsigned thread);   /* 0 .. n_threads */
  void (*finish)(void);           /* after each run, alone, sees all */
};

/* Returns when all runs were right; ends the process with 1 and a trace when one was not. */
void interleave_explore(const struct interleave_case *test, uint64_t max_runs);

void interleave_fail(const char *what);
#define CHECK(condition) ((condition) ? (void)0 : interleave_fail(#condition))

/* In setup: stores to this location must be ordered by happens-before (but for
 * read-modify-writes), or their modification order is left to chance. */
void interleave_ordered(const volatile void *location);
/* An eventfd: writing is a release, a waiting read an acquire, as the kernel orders them. */
void interleave_eventfd_write(void);
void interleave_eventfd_read(void);

#endif
