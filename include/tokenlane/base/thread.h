/* SPDX-License-Identifier: MIT */
/* Threads: cache-line padding, names, roles, core sets. */
#ifndef TOKENLANE_BASE_THREAD_H
#define TOKENLANE_BASE_THREAD_H

#include <assert.h>
#include <stdint.h>

/* Two 64-byte lines: the adjacent-line prefetcher pulls pairs. */
#define TL_CACHE_LINE 128
#define TL_ALIGNED _Alignas(TL_CACHE_LINE)

/* Moves a pointer out of a variable: the sender has nothing left to misuse. */
#define TL_TAKE(place)                    \
  (__extension__({                        \
    __typeof__(*(place)) tl_taken = *(place); \
    *(place) = 0;                         \
    tl_taken;                             \
  }))

enum tl_role { TL_ROLE_NONE, TL_ROLE_LOOP, TL_ROLE_WORKER, TL_ROLE_LANE, TL_ROLE_WRITER };

/* Names the calling thread (15 characters are kept) and sets its role. */
void tl_thread_enter(const char *name, enum tl_role role);
enum tl_role tl_thread_role(void);
#define TL_ASSERT_ROLE(role) assert(tl_thread_role() == (role))

/* Processors this process may run on (sched_getaffinity), at least 1. */
unsigned tl_cpu_count(void);
/* Confines the calling thread to n >= 1 of the processors that it may use, from the
 * first-th on; past the end they wrap round. 0 or TL_EIO. */
int tl_thread_confine(unsigned first, unsigned n);

/* Tells the core that this is a spin loop. */
static inline void tl_cpu_relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

#endif
