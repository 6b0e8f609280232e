/* SPDX-License-Identifier: MIT */
/* Choices and coroutines; the memory is in interleave_memory.c. */
#include "interleave.h"

#include <linux/futex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "interleave_private.h"

enum { MAX_CHOICES = 4096, STACK_BYTES = 65536, EVENTFD = 1 };

/* The path through the tree of choices: replayed up to n_fixed, then the first of each. */
static struct choice {
  uint8_t taken, n;
} path[MAX_CHOICES];
static unsigned n_path, at_path;

static struct coroutine {
  jmp_buf state;
  ucontext_t first;
  bool started, finished;
  const void *waits_on; /* a futex word, the eventfd, or NULL */
  char stack[STACK_BYTES];
} threads[INTERLEAVE_THREADS];

static const struct interleave_case *test;
static unsigned current, n_preemptions, n_stale;
static bool alone = true; /* setup and finish: no choices */
static jmp_buf explorer;
static ucontext_t explorer_context;
static uint64_t n_runs;
static unsigned eventfd_count;
static const char eventfd_word;

static unsigned choose(unsigned n) {
  if (n < 2) return 0;
  if (at_path == MAX_CHOICES) interleave_fail("too many choices: it does not end");
  if (at_path == n_path) path[n_path++] = (struct choice){0, (uint8_t)n};
  return path[at_path++].taken;
}

unsigned interleave_choose_store(unsigned n) {
  if (alone || n_stale == test->stale) return 0;
  unsigned older = choose(n);
  n_stale += older > 0;
  return older;
}

unsigned interleave_thread(void) {
  return alone ? INTERLEAVE_THREADS : current;
}

void interleave_fail(const char *what) {
  printf("%s: run %llu: %s\n", test->name, (unsigned long long)n_runs, what);
  interleave_print_trace();
  fflush(stdout);
  _Exit(1);
}

/* --- who runs ----------------------------------------------------------------------------- */

static bool can_run(unsigned thread) {
  return !threads[thread].finished && !threads[thread].waits_on;
}

static void enter(void) {
  test->run(current);
  threads[current].finished = true;
  _longjmp(explorer, 1);
}

static void switch_to(unsigned thread) {
  current = thread;
  if (threads[thread].started) _longjmp(threads[thread].state, 1);
  threads[thread].started = true;
  setcontext(&threads[thread].first);
}

/* Before each access: this thread goes on (the first choice), or another that can. */
void interleave_step(void) {
  if (alone || n_preemptions == test->preemptions) return;
  unsigned others[INTERLEAVE_THREADS], n = 0;
  for (unsigned t = 0; t < test->n_threads; t++)
    if (t != current && can_run(t)) others[n++] = t;
  unsigned taken = choose(n + 1);
  if (taken == 0) return;
  n_preemptions++;
  if (_setjmp(threads[current].state) == 0) switch_to(others[taken - 1]);
}

/* The current thread cannot go on: back to the explorer, which chooses another. */
static void wait_on(const void *word) {
  if (alone) interleave_fail("setup or finish sleeps");
  threads[current].waits_on = word;
  if (_setjmp(threads[current].state) == 0) _longjmp(explorer, 1);
}

static void wake_one(const void *word) {
  unsigned sleepers[INTERLEAVE_THREADS], n = 0;
  for (unsigned t = 0; t < test->n_threads; t++)
    if (threads[t].waits_on == word) sleepers[n++] = t;
  if (n) threads[sleepers[alone ? 0 : choose(n)]].waits_on = NULL;
}

static void wake_all(const void *word) {
  for (unsigned t = 0; t < test->n_threads; t++)
    if (threads[t].waits_on == word) threads[t].waits_on = NULL;
}

static void run_all(void) {
  for (;;) {
    unsigned ready[INTERLEAVE_THREADS];
    volatile unsigned n = 0, n_left = 0; /* survive the jump */
    for (unsigned t = 0; t < test->n_threads; t++) {
      n_left += !threads[t].finished;
      if (can_run(t)) ready[n++] = t;
    }
    if (n_left == 0) return;
    if (n == 0) interleave_fail("all who are left sleep: a wake-up was lost");
    unsigned next = ready[choose(n)];
    if (_setjmp(explorer) == 0) switch_to(next);
  }
}

/* --- the kernel ------------------------------------------------------------------------------ */

/* Replaces libc's: waker.c calls it. The kernel compares the newest value. */
long syscall(long number, ...) {
  va_list more;
  va_start(more, number);
  uint32_t *word = va_arg(more, uint32_t *);
  int operation = va_arg(more, int) & ~FUTEX_PRIVATE_FLAG;
  uint32_t value = va_arg(more, uint32_t);
  va_end(more);
  if (number != SYS_futex) interleave_fail("an unknown system call");
  interleave_step();
  if (operation == FUTEX_WAKE && value == 1) wake_one(word);
  if (operation == FUTEX_WAKE && value > INTERLEAVE_THREADS) wake_all(word);
  if (operation == FUTEX_WAIT && interleave_newest(word) == value) wait_on(word);
  return 0;
}

void interleave_eventfd_write(void) {
  interleave_step();
  interleave_release(EVENTFD - 1);
  eventfd_count++;
  wake_one(&eventfd_word);
}

void interleave_eventfd_read(void) {
  interleave_step();
  while (eventfd_count == 0) wait_on(&eventfd_word);
  eventfd_count = 0;
  interleave_acquire(EVENTFD - 1);
}

/* --- exploring ---------------------------------------------------------------------------------- */

static void start_run(void) {
  alone = true;
  at_path = n_preemptions = n_stale = eventfd_count = 0;
  interleave_forget();
  test->setup();
  interleave_fork();
  for (unsigned t = 0; t < test->n_threads; t++) {
    struct coroutine *c = &threads[t];
    c->started = c->finished = false;
    c->waits_on = NULL;
    getcontext(&c->first);
    c->first.uc_stack.ss_sp = c->stack;
    c->first.uc_stack.ss_size = sizeof c->stack;
    c->first.uc_link = &explorer_context;
    makecontext(&c->first, enter, 0);
  }
  alone = false;
}

/* The next path: the last choice that has another alternative takes it. */
static bool next_path(void) {
  while (n_path > 0 && path[n_path - 1].taken + 1 == path[n_path - 1].n) n_path--;
  if (n_path == 0) return false;
  path[n_path - 1].taken++;
  return true;
}

void interleave_explore(const struct interleave_case *which, uint64_t max_runs) {
  test = which;
  n_path = 0;
  n_runs = 0;
  do {
    start_run();
    run_all();
    alone = true;
    interleave_join();
    test->finish();
    n_runs++;
  } while (next_path() && n_runs < max_runs);
  printf("%-12s %9llu runs, %s: no fault\n", test->name, (unsigned long long)n_runs, n_path ? "stopped at the limit" : "all");
}
