/* SPDX-License-Identifier: MIT */
#include "engine/engine_private.h"

void tl_engine_submit(struct tl_engine *engine, unsigned replica, struct tl_sequence *seq) {
  struct worker *w = &engine->workers[replica];
  sequence_prepare(seq); /* here and not in the worker: it may be long */
  tl_mpsc_push(&w->inbox, &seq->node);
  tl_waker_notify(&w->waker);
}
