/* SPDX-License-Identifier: MIT */
/* Worker to loop: see the bits of `signal` in engine_private.h. */
#include "engine/engine_private.h"

void events_publish(struct worker *w, struct tl_sequence *seq, bool final) {
  unsigned loop = seq->loop; /* read before the last touch */
  /* acq_rel: releases tokens, n_out and finish; pairs with the exchange in tl_engine_drain */
  uint32_t old = atomic_fetch_or_explicit(&seq->signal, SIGNAL_PENDING | (final ? SIGNAL_FINAL : 0), memory_order_acq_rel);
  if (!(old & SIGNAL_PENDING)) tl_spsc_push(&w->events[loop], seq);
  w->loop_woken[loop] = true;
}

void events_wake_loops(struct worker *w) {
  const struct tl_engine_options *o = &w->engine->o;
  for (unsigned i = 0; i < o->n_loops; i++) {
    if (!w->loop_woken[i]) continue;
    w->loop_woken[i] = false;
    o->wake(i, o->wake_context); /* goes through tl_wake_by: the pushes are visible first */
  }
}

void tl_engine_reap(struct tl_engine *engine, unsigned n_loops, void (*on_event)(struct tl_sequence *seq, bool final, void *context),
                    void *context) {
  struct tl_sequence *seq;
  for (unsigned i = 0; i < n_loops; i++) tl_engine_drain(engine, i, on_event, context);
  for (unsigned i = 0; i < engine->o.n_replicas; i++)
    while ((seq = inbox_pop(&engine->workers[i]))) {
      if (seq->loop >= n_loops) continue;
      seq->finish = TL_FINISH_CANCELLED;
      on_event(seq, true, context);
    }
}

void tl_engine_drain(struct tl_engine *engine, unsigned loop,
                     void (*on_event)(struct tl_sequence *seq, bool final, void *context), void *context) {
  for (unsigned i = 0; i < engine->o.n_replicas; i++) {
    struct tl_sequence *seq;
    while ((seq = tl_spsc_pop(&engine->workers[i].events[loop]))) {
      /* acq_rel: acquires what events_publish released */
      uint32_t signal = atomic_exchange_explicit(&seq->signal, 0, memory_order_acq_rel);
      on_event(seq, signal & SIGNAL_FINAL, context);
    }
  }
}
