/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/spsc.h"

#include <stdlib.h>

#include "tokenlane/base/error.h"

int tl_spsc_init(struct tl_spsc *ring, size_t capacity) {
  size_t size = 2;
  while (size < capacity)
    if (__builtin_mul_overflow(size, 2, &size)) return TL_ENOMEM;
  *ring = (struct tl_spsc){.mask = size - 1};
  ring->slots = calloc(size, sizeof *ring->slots);
  return ring->slots ? TL_OK : TL_ENOMEM;
}

void tl_spsc_done(struct tl_spsc *ring) {
  free(ring->slots);
  ring->slots = NULL;
}

bool tl_spsc_push(struct tl_spsc *ring, void *item) {
  /* relaxed: only this thread writes tail */
  size_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
  if (tail - ring->head_seen > ring->mask) {
    /* pairs with the release store in pop: the slot was read before it is reused */
    ring->head_seen = atomic_load_explicit(&ring->head, memory_order_acquire);
    if (tail - ring->head_seen > ring->mask) return false;
  }
  ring->slots[tail & ring->mask] = item;
  /* publishes the slot; pairs with the acquire loads in pop and empty */
  atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
  return true;
}

void *tl_spsc_pop(struct tl_spsc *ring) {
  /* relaxed: only this thread writes head */
  size_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
  if (head == ring->tail_seen) {
    /* pairs with the release store in push */
    ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
    if (head == ring->tail_seen) return NULL;
  }
  void *item = ring->slots[head & ring->mask];
  /* gives the slot back; pairs with the acquire load in push */
  atomic_store_explicit(&ring->head, head + 1, memory_order_release);
  return item;
}
