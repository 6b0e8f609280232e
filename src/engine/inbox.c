/* SPDX-License-Identifier: MIT */
#include <stddef.h>

#include "engine/engine_private.h"

struct tl_sequence *inbox_pop(struct worker *w) {
  struct tl_mpsc_node *node = tl_mpsc_pop(&w->inbox);
  return node ? (struct tl_sequence *)(void *)((char *)node - offsetof(struct tl_sequence, node)) : NULL;
}

void tl_engine_submit(struct tl_engine *engine, unsigned replica, struct tl_sequence *seq) {
  struct worker *w = &engine->workers[replica];
  sequence_prepare(seq); /* here and not in the worker: it may be long */
  tl_mpsc_push(&w->inbox, &seq->node);
  tl_waker_notify(&w->waker);
}
