/* SPDX-License-Identifier: MIT */
/* Intrusive unbounded queue, many producers and one consumer, after D. Vyukov's
 * "Intrusive MPSC node-based queue": a push is one exchange and one store and
 * never fails or waits; order is kept per producer.
 *
 *   producer: prev = exchange(head, node); prev->next = node
 *   consumer: follows next from the stub
 *
 * Between the producer's two stores the chain is broken for a moment: pop then
 * says "empty" though a push has begun. That producer has not notified yet, so
 * a consumer that sleeps by base/waker.h is woken after its store. */
#ifndef TOKENLANE_BASE_MPSC_H
#define TOKENLANE_BASE_MPSC_H

#include <stdatomic.h>

#include "tokenlane/base/thread.h"

struct tl_mpsc_node {
  _Atomic(struct tl_mpsc_node *) next;
};

struct tl_mpsc {
  /* producers, every push */
  TL_ALIGNED _Atomic(struct tl_mpsc_node *) head;
  /* consumer only */
  TL_ALIGNED struct tl_mpsc_node *tail;
  struct tl_mpsc_node stub;
};

void tl_mpsc_init(struct tl_mpsc *queue);
/* Any thread. Ownership of the object around `node` moves to the consumer. */
void tl_mpsc_push(struct tl_mpsc *queue, struct tl_mpsc_node *node);
/* Consumer thread. The oldest node, or NULL when none is complete. */
struct tl_mpsc_node *tl_mpsc_pop(struct tl_mpsc *queue);

#endif
