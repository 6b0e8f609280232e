/* SPDX-License-Identifier: MIT */
/* Bounded ring of pointers, one producer thread and one consumer thread.
 *
 *        consumer                producer
 *           v                       v
 *   [ . . . x x x x x x x x x x x x . . . ]     head <= tail <= head + capacity
 *          head                    tail
 *
 * Each side keeps a private copy of the other's index and reads the shared one
 * only when its copy says full (or empty), so that the lines rarely move. */
#ifndef TOKENLANE_BASE_SPSC_H
#define TOKENLANE_BASE_SPSC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenlane/base/thread.h"

struct tl_spsc {
  /* read only after init */
  TL_ALIGNED void **slots;
  size_t mask;
  /* producer */
  TL_ALIGNED _Atomic size_t tail;
  size_t head_seen;
  /* consumer */
  TL_ALIGNED _Atomic size_t head;
  size_t tail_seen;
};

/* capacity is rounded up to a power of two. 0 or TL_ENOMEM. */
int tl_spsc_init(struct tl_spsc *ring, size_t capacity);
void tl_spsc_done(struct tl_spsc *ring);
/* Producer. False when full: nothing was pushed. */
bool tl_spsc_push(struct tl_spsc *ring, void *item);
/* Consumer. NULL when empty. */
void *tl_spsc_pop(struct tl_spsc *ring);

#endif
