/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/broadcast.h"

#include <stdlib.h>
#include <string.h>

#include "tokenlane/base/error.h"

int tl_broadcast_init(struct tl_broadcast *ring, size_t capacity, unsigned n_readers) {
  size_t size = 2;
  while (size < capacity)
    if (__builtin_mul_overflow(size, 2, &size)) return TL_ENOMEM;
  *ring = (struct tl_broadcast){.mask = size - 1, .n_readers = n_readers};
  ring->slots = calloc(size, sizeof *ring->slots);
  ring->readers = aligned_alloc(TL_CACHE_LINE, n_readers * sizeof *ring->readers);
  if (ring->slots && ring->readers) {
    memset((void *)ring->readers, 0, n_readers * sizeof *ring->readers);
    return TL_OK;
  }
  tl_broadcast_done(ring);
  return TL_ENOMEM;
}

void tl_broadcast_done(struct tl_broadcast *ring) {
  free(ring->slots);
  free(ring->readers);
  *ring = (struct tl_broadcast){0};
}

/* No reader is `behind` items or more behind the tail. */
static bool all_within(const struct tl_broadcast *ring, size_t tail, size_t behind) {
  for (unsigned i = 0; i < ring->n_readers; i++)
    /* acquire: pairs with the release store in next, what the reader did with its items is done */
    if (tail - atomic_load_explicit(&ring->readers[i].head, memory_order_acquire) >= behind) return false;
  return true;
}

bool tl_broadcast_push(struct tl_broadcast *ring, void *item) {
  /* relaxed: only this thread writes tail */
  size_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
  if (!all_within(ring, tail, ring->mask + 1)) return false;
  ring->slots[tail & ring->mask] = item;
  /* publishes the slot and what the item points to; pairs with the acquire load in peek */
  atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
  return true;
}

bool tl_broadcast_is_read(const struct tl_broadcast *ring) {
  /* relaxed: only this thread writes tail */
  return all_within(ring, atomic_load_explicit(&ring->tail, memory_order_relaxed), 1);
}

void *tl_broadcast_peek(struct tl_broadcast *ring, unsigned reader) {
  /* relaxed: only this thread writes its head */
  size_t head = atomic_load_explicit(&ring->readers[reader].head, memory_order_relaxed);
  /* acquire: pairs with the release store in push */
  if (atomic_load_explicit(&ring->tail, memory_order_acquire) == head) return NULL;
  return ring->slots[head & ring->mask];
}

void tl_broadcast_next(struct tl_broadcast *ring, unsigned reader) {
  /* relaxed: only this thread writes its head */
  size_t head = atomic_load_explicit(&ring->readers[reader].head, memory_order_relaxed);
  /* gives slot and item back; pairs with the acquire load in all_within */
  atomic_store_explicit(&ring->readers[reader].head, head + 1, memory_order_release);
}
