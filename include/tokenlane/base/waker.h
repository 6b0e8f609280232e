/* SPDX-License-Identifier: MIT */
/* Waking a sleeping consumer without losing a wake-up.
 *
 *   producer                         consumer
 *   publish item                     asleep = 1
 *   fence (seq_cst)                  fence (seq_cst)
 *   asleep ? exchange 0, wake        look again; nothing: sleep
 *
 * With both fences at least one side sees the other's store (Dekker); without
 * the producer's, its load of `asleep` may be performed before its publishing
 * store. uv_async_send has the same weakness in itself (it first reads its flag
 * relaxed), so even consumers that are libuv loops are notified through here. */
#ifndef TOKENLANE_BASE_WAKER_H
#define TOKENLANE_BASE_WAKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/base/thread.h"

/* For a consumer that sleeps in the kernel by futex (a worker). */
struct tl_waker {
  TL_ALIGNED _Atomic uint32_t asleep;
};

void tl_waker_init(struct tl_waker *waker);
/* Producer, after publishing. Any thread. A system call only if the consumer
 * said that it sleeps. */
void tl_waker_notify(struct tl_waker *waker);
/* Consumer: says that it is about to sleep. It must look at its queues again
 * after this and call either tl_waker_sleep or tl_waker_cancel. */
void tl_waker_prepare(struct tl_waker *waker);
void tl_waker_cancel(struct tl_waker *waker);
/* Consumer: sleeps until notified or until timeout_ns passed (< 0: for ever).
 * May return early; the caller looks at its queues in a loop. */
void tl_waker_sleep(struct tl_waker *waker, int64_t timeout_ns);

/* For a consumer with a wake function of its own (uv_async_send of a loop):
 * publish, then this. The fence orders the publishing store before the look at
 * the flag that is inside `wake`. */
static inline void tl_wake_by(void (*wake)(void *), void *context) {
#if defined(__SANITIZE_THREAD__)
  /* TSan does not model fences; a RMW on a private word has the same effect
   * on x86-64 and is understood by it. */
  static _Thread_local _Atomic int fence_word;
  atomic_fetch_add_explicit(&fence_word, 1, memory_order_seq_cst);
#else
  /* pairs with the exchange that libuv does on its flag before the callback */
  atomic_thread_fence(memory_order_seq_cst);
#endif
  wake(context);
}

#endif
