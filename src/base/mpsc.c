/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/mpsc.h"

#include <stddef.h>

void tl_mpsc_init(struct tl_mpsc *queue) {
  atomic_store_explicit(&queue->stub.next, NULL, memory_order_relaxed);
  /* relaxed: the queue is handed to other threads by their creation */
  atomic_store_explicit(&queue->head, &queue->stub, memory_order_relaxed);
  queue->tail = &queue->stub;
}

void tl_mpsc_push(struct tl_mpsc *queue, struct tl_mpsc_node *node) {
  /* relaxed: published by the release store below */
  atomic_store_explicit(&node->next, NULL, memory_order_relaxed);
  /* acq_rel: release makes next = NULL visible to the producer that comes after
   * us and links to this node; acquire sees the same of the one before */
  struct tl_mpsc_node *before = atomic_exchange_explicit(&queue->head, node, memory_order_acq_rel);
  /* publishes the object around node; pairs with the acquire loads in tl_mpsc_pop */
  atomic_store_explicit(&before->next, node, memory_order_release);
}

struct tl_mpsc_node *tl_mpsc_pop(struct tl_mpsc *queue) {
  struct tl_mpsc_node *tail = queue->tail;
  /* pairs with the release store in tl_mpsc_push, as do the two below */
  struct tl_mpsc_node *next = atomic_load_explicit(&tail->next, memory_order_acquire);
  if (tail == &queue->stub) {
    if (!next) return NULL;
    queue->tail = tail = next;
    next = atomic_load_explicit(&tail->next, memory_order_acquire);
  }
  if (next) {
    queue->tail = next;
    return tail;
  }
  /* tail is the last complete node; it may be taken only when a successor
   * stands behind it. relaxed: only compared, nothing is read through it */
  if (tail != atomic_load_explicit(&queue->head, memory_order_relaxed)) return NULL; /* a push is under way */
  tl_mpsc_push(queue, &queue->stub);
  next = atomic_load_explicit(&tail->next, memory_order_acquire);
  if (!next) return NULL; /* a producer got between: its link is not there yet */
  queue->tail = next;
  return tail;
}
