/* SPDX-License-Identifier: MIT */
/* Bounded ring of pointers, one producer thread, n reader threads that each read every
 * item and say when they are through with it.
 *
 *   reader 1  reader 0          producer
 *      v         v                 v
 *   [ x x x x x x x x x x x x x x . . . . ]     tail - capacity <= each head <= tail
 *    head 1    head 0             tail
 *
 * A head moves when its reader is through with the item, not when it begins: until then the producer
 * keeps its hands off what the item points to, and once all heads are at the tail it sees all that
 * the readers wrote. Each index has one writer and a line of its own. */
#ifndef TOKENLANE_BASE_BROADCAST_H
#define TOKENLANE_BASE_BROADCAST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "tokenlane/base/thread.h"

struct tl_broadcast_reader {
  TL_ALIGNED _Atomic size_t head;
};

struct tl_broadcast {
  /* read only after init */
  TL_ALIGNED void **slots;
  size_t mask;
  struct tl_broadcast_reader *readers; /* (n_readers) */
  unsigned n_readers;
  /* producer */
  TL_ALIGNED _Atomic size_t tail;
};

/* capacity is rounded up to a power of two. 0 or TL_ENOMEM. */
int tl_broadcast_init(struct tl_broadcast *ring, size_t capacity, unsigned n_readers);
void tl_broadcast_done(struct tl_broadcast *ring);
/* Producer. False when full: the slowest reader is a whole ring behind, nothing was pushed. */
bool tl_broadcast_push(struct tl_broadcast *ring, void *item);
/* Producer: all readers are through with all items. */
bool tl_broadcast_is_read(const struct tl_broadcast *ring);
/* Reader: the oldest item that it is not through with; NULL: there is none. */
void *tl_broadcast_peek(struct tl_broadcast *ring, unsigned reader);
/* Reader: through with what peek returned. */
void tl_broadcast_next(struct tl_broadcast *ring, unsigned reader);

#endif
