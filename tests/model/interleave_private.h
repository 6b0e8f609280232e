/* SPDX-License-Identifier: MIT */
#ifndef INTERLEAVE_PRIVATE_H
#define INTERLEAVE_PRIVATE_H

#include <stdbool.h>
#include <stdint.h>

/* interleave.c: which thread accesses (INTERLEAVE_THREADS: setup or finish), whether
 * another goes first, and how many stores back a load reads, of n. */
unsigned interleave_thread(void);
void interleave_step(void);
unsigned interleave_choose_store(unsigned n);

/* interleave_memory.c */
void interleave_forget(void); /* a new run */
void interleave_fork(void);   /* all threads see what setup did */
void interleave_join(void);   /* finish sees what all threads did */
uint32_t interleave_newest(const uint32_t *word);
void interleave_release(unsigned channel); /* kernel objects that order: 0 .. 3 */
void interleave_acquire(unsigned channel);
void interleave_print_trace(void);

#endif
