# SPDX-License-Identifier: MIT
"""Seeded bugs: each changes one place of the real code as a hasty hand might, and must be caught by the checker.

(name, file, what stands there, what is put there, cases of check_structures.c of which one must fail). `what stands there`
must occur exactly once, so that a change of the code that moves it is noticed."""

MPSC, SPSC, WAKER = "src/base/mpsc.c", "src/base/spsc.c", "src/base/waker.c"
BROADCAST, MEET = "src/base/broadcast.c", "src/device/meet.c"
INBOX, EVENTS, WAKER_H = "src/engine/inbox.c", "src/engine/events.c", "include/tokenlane/base/waker.h"
CHILD = "src/device/child/child_wait.c"

EXCHANGE = "atomic_exchange_explicit(&queue->head, node, memory_order_acq_rel)"
FIRST_NEXT = "*next = atomic_load_explicit(&tail->next, memory_order_acquire);\n  if (tail == &queue->stub)"

MUTANTS = [
    ("push-does-not-publish", MPSC, "&before->next, node, memory_order_release", "&before->next, node, memory_order_relaxed", ("mpsc",)),
    ("push-exchange-relaxed", MPSC, EXCHANGE, EXCHANGE.replace("acq_rel", "relaxed"), ("mpsc",)),
    ("push-exchange-not-acquire", MPSC, EXCHANGE, EXCHANGE.replace("acq_rel", "release"), ("mpsc",)),
    ("push-two-steps-for-one", MPSC, EXCHANGE, "atomic_load_explicit(&queue->head, memory_order_acquire);\n"
     "  atomic_store_explicit(&queue->head, node, memory_order_release)", ("mpsc",)),
    ("push-forgets-next", MPSC, "atomic_store_explicit(&node->next, NULL, memory_order_relaxed);", ";", ("mpsc",)),
    ("push-clears-next-late", MPSC, "  atomic_store_explicit(&before->next, node, memory_order_release);",
     "  atomic_store_explicit(&before->next, node, memory_order_release);\n"
     "  if (node != &queue->stub) atomic_store_explicit(&node->next, NULL, memory_order_relaxed);", ("mpsc",)),
    ("pop-does-not-acquire", MPSC, FIRST_NEXT, FIRST_NEXT.replace("acquire", "relaxed"), ("mpsc",)),
    ("pop-ignores-a-push-under-way", MPSC, "return NULL; /* a push is under way */", "{ }", ("mpsc", "inbox")),
    ("pop-takes-the-last-without-stub", MPSC, "  tl_mpsc_push(queue, &queue->stub);", "  return tail;", ("mpsc", "inbox-one")),
    ("ring-push-does-not-publish", SPSC, "&ring->tail, tail + 1, memory_order_release", "&ring->tail, tail + 1, memory_order_relaxed", ("ring",)),
    ("ring-push-publishes-early", SPSC, "  ring->slots[tail & ring->mask] = item;\n",
     "  atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);\n  ring->slots[tail & ring->mask] = item;\n", ("ring",)),
    ("ring-push-one-too-many", SPSC, "if (tail - ring->head_seen > ring->mask) return false;",
     "if (tail - ring->head_seen > ring->mask + 1) return false;", ("ring",)),
    ("ring-push-does-not-acquire", SPSC, "ring->head_seen = atomic_load_explicit(&ring->head, memory_order_acquire)",
     "ring->head_seen = atomic_load_explicit(&ring->head, memory_order_relaxed)", ("ring",)),
    ("ring-pop-does-not-acquire", SPSC, "ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire)",
     "ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_relaxed)", ("ring",)),
    ("ring-pop-does-not-release", SPSC, "&ring->head, head + 1, memory_order_release", "&ring->head, head + 1, memory_order_relaxed", ("ring",)),
    ("ring-pop-releases-early", SPSC, "  void *item = ring->slots[head & ring->mask];\n",
     "  atomic_store_explicit(&ring->head, head + 1, memory_order_release);\n  void *item = ring->slots[head & ring->mask];\n", ("ring",)),
    ("notify-without-fence", WAKER, "  full_fence(waker);\n  /* relaxed: ordered after", "  /* relaxed: ordered after", ("flag", "inbox")),
    ("prepare-without-fence", WAKER, "/* ordered by the fence */\n  full_fence(waker);", "", ("flag", "inbox")),
    ("fence-only-acq-rel", WAKER, "atomic_thread_fence(memory_order_seq_cst);", "atomic_thread_fence(memory_order_acq_rel);", ("flag", "inbox")),
    ("prepare-fences-first", WAKER, "  atomic_store_explicit(&waker->asleep, 1, memory_order_relaxed); /* ordered by the fence */\n  full_fence(waker);",
     "  full_fence(waker);\n  atomic_store_explicit(&waker->asleep, 1, memory_order_relaxed);", ("flag", "inbox")),
    ("notify-looks-first", WAKER, "  full_fence(waker);\n  /* relaxed: ordered after the caller's publishing store by the fence */\n  if (!atomic_load_explicit(&waker->asleep, memory_order_relaxed)) return;",
     "  if (!atomic_load_explicit(&waker->asleep, memory_order_relaxed)) return;\n  full_fence(waker);", ("flag", "inbox")),
    ("notify-forgets-to-wake", WAKER, "if (atomic_exchange_explicit(&waker->asleep, 0, memory_order_acq_rel)) futex(",
     "if (!atomic_exchange_explicit(&waker->asleep, 0, memory_order_acq_rel)) futex(", ("flag",)),
    ("notify-wakes-without-clearing", WAKER, "if (atomic_exchange_explicit(&waker->asleep, 0, memory_order_acq_rel)) futex(", "futex(", ("flag",)),
    ("sleep-does-not-compare", WAKER, "futex(&waker->asleep, FUTEX_WAIT, 1,",
     "futex(&waker->asleep, FUTEX_WAIT, atomic_load_explicit(&waker->asleep, memory_order_relaxed),", ("flag",)),
    ("wake-by-without-fence", WAKER_H, "  atomic_thread_fence(memory_order_seq_cst);\n#endif", "#endif", ("async",)),
    ("submit-notifies-first", INBOX, "  tl_mpsc_push(&w->inbox, &seq->node);\n  tl_waker_notify(&w->waker);",
     "  tl_waker_notify(&w->waker);\n  tl_mpsc_push(&w->inbox, &seq->node);", ("events",)),
    ("event-does-not-publish", EVENTS, "SIGNAL_FINAL : 0), memory_order_acq_rel", "SIGNAL_FINAL : 0), memory_order_relaxed", ("events",)),
    ("event-drain-does-not-acquire", EVENTS, "atomic_exchange_explicit(&seq->signal, 0, memory_order_acq_rel)",
     "atomic_exchange_explicit(&seq->signal, 0, memory_order_relaxed)", ("events",)),
    ("event-drain-does-not-clear-at-once", EVENTS, "atomic_exchange_explicit(&seq->signal, 0, memory_order_acq_rel);\n      on_event(seq, signal & SIGNAL_FINAL, context);",
     "atomic_load_explicit(&seq->signal, memory_order_acquire);\n      on_event(seq, signal & SIGNAL_FINAL, context);\n"
     "      atomic_store_explicit(&seq->signal, 0, memory_order_release);", ("events",)),
    ("event-pushed-twice", EVENTS, "if (!(old & SIGNAL_PENDING)) tl_spsc_push", "tl_spsc_push", ("events",)),
    ("event-touches-a-final-sequence", EVENTS, "  w->loop_woken[loop] = true;", "  w->loop_woken[seq->loop] = true;", ("events",)),
    ("event-final-not-announced", EVENTS, "  w->loop_woken[loop] = true;", "  w->loop_woken[loop] = !final;", ("events",)),
    ("loop-woken-before-the-push", EVENTS, "  if (!(old & SIGNAL_PENDING)) tl_spsc_push(&w->events[loop], seq);",
     "  w->engine->o.wake(loop, w->engine->o.wake_context);\n  if (!(old & SIGNAL_PENDING)) tl_spsc_push(&w->events[loop], seq);\n  return;", ("events",)),
    ("child-tell-does-not-publish", CHILD, "atomic_store_explicit(word, value, memory_order_seq_cst)",
     "atomic_store_explicit(word, value, memory_order_relaxed)", ("child",)),
    ("child-tell-only-releases", CHILD, "atomic_store_explicit(word, value, memory_order_seq_cst);\n  if (atomic_load_explicit(other_sleeps, memory_order_seq_cst))",
     "atomic_store_explicit(word, value, memory_order_release);\n  if (atomic_load_explicit(other_sleeps, memory_order_relaxed))", ("child",)),
    ("child-tell-looks-first", CHILD, "  atomic_store_explicit(word, value, memory_order_seq_cst);\n  if (atomic_load_explicit(other_sleeps, memory_order_seq_cst)) child_wake(word);",
     "  bool sleeps = atomic_load_explicit(other_sleeps, memory_order_seq_cst);\n  atomic_store_explicit(word, value, memory_order_seq_cst);\n  if (sleeps) child_wake(word);", ("child",)),
    ("child-wait-without-order", CHILD, "atomic_store_explicit(i_sleep, 1, memory_order_seq_cst); /* pairs with the load in child_tell */\n  if (atomic_load_explicit(word, memory_order_seq_cst)",
     "atomic_store_explicit(i_sleep, 1, memory_order_release);\n  if (atomic_load_explicit(word, memory_order_acquire)", ("child",)),
    ("child-wait-says-so-late", CHILD, "  if (atomic_load_explicit(word, memory_order_seq_cst) == old)\n    syscall(",
     "  if (atomic_load_explicit(word, memory_order_relaxed) == old)\n    atomic_store_explicit(i_sleep, 0, memory_order_relaxed), syscall(", ("child",)),
    ("child-wait-does-not-acquire", CHILD, "  return atomic_load_explicit(word, memory_order_acquire);", "  return atomic_load_explicit(word, memory_order_relaxed);", ("child",)),
    ("child-wait-compares-what-is-there", CHILD, "FUTEX_WAIT, old,", "FUTEX_WAIT, atomic_load_explicit(word, memory_order_relaxed),", ("child",)),
    ("broadcast-push-does-not-publish", BROADCAST, "&ring->tail, tail + 1, memory_order_release", "&ring->tail, tail + 1, memory_order_relaxed", ("broadcast", "orders")),
    ("broadcast-push-publishes-early", BROADCAST, "  ring->slots[tail & ring->mask] = item;\n",
     "  atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);\n  ring->slots[tail & ring->mask] = item;\n", ("broadcast", "orders")),
    ("broadcast-peek-does-not-acquire", BROADCAST, "atomic_load_explicit(&ring->tail, memory_order_acquire) == head", "atomic_load_explicit(&ring->tail, memory_order_relaxed) == head", ("broadcast", "orders")),
    ("broadcast-next-does-not-release", BROADCAST, ".head, head + 1, memory_order_release", ".head, head + 1, memory_order_relaxed", ("broadcast", "orders")),
    ("broadcast-heads-not-acquired", BROADCAST, "atomic_load_explicit(&ring->readers[i].head, memory_order_acquire)", "atomic_load_explicit(&ring->readers[i].head, memory_order_relaxed)", ("broadcast", "orders")),
    ("broadcast-forgets-a-reader", BROADCAST, "for (unsigned i = 0; i < ring->n_readers; i++)", "for (unsigned i = 1; i < ring->n_readers; i++)", ("broadcast", "orders")),
    ("broadcast-push-one-too-many", BROADCAST, "all_within(ring, tail, ring->mask + 1)", "all_within(ring, tail, ring->mask + 2)", ("broadcast",)),
    ("broadcast-read-when-begun", BROADCAST, "memory_order_relaxed), 1);", "memory_order_relaxed), 2);", ("orders",)),
    ("meet-does-not-publish", MEET, "atomic_fetch_add_explicit(&meet->arrived, 1, memory_order_acq_rel)", "atomic_fetch_add_explicit(&meet->arrived, 1, memory_order_relaxed)", ("meet",)),
    ("meet-turn-does-not-publish", MEET, "atomic_fetch_add_explicit(&meet->turn, TURN, memory_order_seq_cst)", "atomic_fetch_add_explicit(&meet->turn, TURN, memory_order_relaxed)", ("meet",)),
    ("meet-spins-without-acquire", MEET, "atomic_load_explicit(&meet->turn, memory_order_acquire)", "atomic_load_explicit(&meet->turn, memory_order_relaxed)", ("meet",)),
    ("meet-does-not-count-sleepers-first", MEET, "  atomic_fetch_add_explicit(&meet->sleepers, 1, memory_order_seq_cst); /* see wake */\n  while (", "  while (", ("meet",)),
    ("meet-forgets-to-begin-anew", MEET, "  atomic_store_explicit(&meet->arrived, 0, memory_order_relaxed); /* before the turn, with which the next begin */\n", "", ("meet",)),
    ("meet-begins-anew-too-late", MEET, "memory_order_seq_cst); /* publishes; see wake */", "memory_order_seq_cst);\n  atomic_store_explicit(&meet->arrived, 0, memory_order_relaxed);", ("meet",)),
    ("meet-abort-wakes-nobody", MEET, "ABORTED, memory_order_seq_cst); /* see wake */\n  wake(meet);", "ABORTED, memory_order_seq_cst);", ("meet-abort",)),
    ("meet-abort-looks-for-sleepers-first", MEET, "  atomic_fetch_or_explicit(&meet->turn, ABORTED, memory_order_seq_cst); /* see wake */\n  wake(meet);",
     "  wake(meet);\n  atomic_fetch_or_explicit(&meet->turn, ABORTED, memory_order_seq_cst);", ("meet-abort",)),
]  # fmt: skip
