/* SPDX-License-Identifier: MIT */
/* The cases: what crosses threads on a request's way, with as few threads and items
 * as show each kind of meeting. Arguments: names of cases, or none for all;
 * --deep: larger bounds. Built once for the real code and once for each mutant. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/child/child_private.h"
#include "device/meet.h"
#include "engine/engine_private.h"
#include "interleave.h"
#include "tokenlane/base/broadcast.h"
#include "tokenlane/base/mpsc.h"
#include "tokenlane/base/spsc.h"
#include "tokenlane/base/waker.h"

/* --- inbox: producers push and notify, the consumer sleeps as the worker does ------------ */

enum { EACH = 2 };

struct item {
  struct tl_mpsc_node node;
  unsigned producer, number; /* plain: published by the push */
};

static struct tl_mpsc inbox;
static struct tl_waker waker;
static struct item items[2][EACH];
static unsigned next_of[2], n_taken;

static void setup_inbox(void) {
  tl_mpsc_init(&inbox);
  tl_waker_init(&waker);
  interleave_ordered(&inbox.stub.next);
  n_taken = next_of[0] = next_of[1] = 0;
  for (unsigned p = 0; p < 2; p++)
    for (unsigned i = 0; i < EACH; i++) {
      /* as a node that was used before: push itself must clear it */
      atomic_store_explicit(&items[p][i].node.next, &items[0][0].node, memory_order_relaxed);
      interleave_ordered(&items[p][i].node.next);
    }
}

static void produce(unsigned producer, unsigned n, bool notify) {
  for (unsigned i = 0; i < n; i++) {
    items[producer][i].producer = producer;
    items[producer][i].number = i;
    tl_mpsc_push(&inbox, &items[producer][i].node);
    if (notify) tl_waker_notify(&waker);
  }
}

static bool take(void) {
  struct item *item = (struct item *)(void *)tl_mpsc_pop(&inbox);
  if (!item) return false;
  CHECK(item->producer < 2 && item->number == next_of[item->producer]);
  next_of[item->producer]++;
  n_taken++;
  return true;
}

static void consume(unsigned n) {
  while (n_taken < n) {
    if (take()) continue;
    tl_waker_prepare(&waker);
    if (take())
      tl_waker_cancel(&waker);
    else
      tl_waker_sleep(&waker, -1);
  }
}

static void run_inbox(unsigned thread) {
  if (thread < 2)
    produce(thread, 1, true);
  else
    consume(2);
}

static void run_inbox_one(unsigned thread) {
  if (thread == 0)
    produce(0, EACH, true);
  else
    consume(EACH);
}

/* Nothing sleeps: the consumer looks a few times, the rest is there at the end. */
static void run_mpsc(unsigned thread) {
  if (thread < 2)
    produce(thread, thread == 0 ? EACH : 1, false);
  else
    for (unsigned i = 0; i < 3; i++) take();
}

static void finish_mpsc(void) {
  while (take()) continue;
  CHECK(next_of[0] == EACH && next_of[1] == 1);
}

static void finish_inbox(void) {
  CHECK(!take());
}

/* --- ring ------------------------------------------------------------------------------------ */

enum { RING_ITEMS = 4 };

static struct tl_spsc ring;
static unsigned payloads[RING_ITEMS]; /* plain */
static unsigned n_pushed, n_popped;

static void setup_ring(void) {
  tl_spsc_done(&ring);
  tl_spsc_init(&ring, 2);
  memset(payloads, 0, sizeof payloads);
  n_pushed = n_popped = 0;
}

static bool pop_one(void) {
  unsigned *item = tl_spsc_pop(&ring);
  if (!item) return false;
  CHECK(item == &payloads[n_popped] && *item == 100 + n_popped);
  n_popped++;
  return true;
}

static void run_ring(unsigned thread) {
  if (thread == 0) {
    for (unsigned tries = 0; tries < RING_ITEMS + 1 && n_pushed < RING_ITEMS; tries++) {
      payloads[n_pushed] = 100 + n_pushed;
      if (tl_spsc_push(&ring, &payloads[n_pushed])) n_pushed++;
    }
  } else {
    for (unsigned tries = 0; tries < RING_ITEMS; tries++) pop_one();
  }
}

static void finish_ring(void) {
  while (pop_one()) continue;
  CHECK(n_popped == n_pushed && n_pushed >= 2);
}

/* --- broadcast: every reader sees every item, a slot is written again when all are through with it ------ */

enum { ORDERS = 3, READERS = 2 };

static struct tl_broadcast broadcast;
static unsigned order_content[ORDERS], order_answers[READERS]; /* plain: the ring publishes them, both ways */
static unsigned n_read[READERS];
static struct tl_waker order_wakers[READERS], answered;

static void setup_broadcast(void) {
  if (broadcast.slots) tl_broadcast_done(&broadcast);
  tl_broadcast_init(&broadcast, 2, READERS);
  memset(order_content, 0, sizeof order_content);
  memset(order_answers, 0, sizeof order_answers);
  n_pushed = n_read[0] = n_read[1] = 0;
  for (unsigned r = 0; r < READERS; r++) tl_waker_init(&order_wakers[r]);
  tl_waker_init(&answered);
}

static bool read_one(unsigned reader) {
  const unsigned *item = tl_broadcast_peek(&broadcast, reader);
  if (!item) return false;
  CHECK(item == &order_content[n_read[reader]] && *item == 100 + n_read[reader]);
  n_read[reader]++;
  tl_broadcast_next(&broadcast, reader);
  return true;
}

static void run_broadcast(unsigned thread) {
  if (thread > 0) {
    for (unsigned tries = 0; tries < ORDERS - 1; tries++) read_one(thread - 1);
    return;
  }
  for (unsigned tries = 0; tries < ORDERS + 1 && n_pushed < ORDERS; tries++) {
    order_content[n_pushed] = 100 + n_pushed;
    if (tl_broadcast_push(&broadcast, &order_content[n_pushed])) n_pushed++;
  }
}

static void finish_broadcast(void) {
  for (unsigned r = 0; r < READERS; r++) {
    while (read_one(r)) continue;
    CHECK(n_read[r] == n_pushed && n_pushed >= 2);
  }
}

/* --- orders: the same as engine/group.c has it: one content, written anew when all have answered -------- */

static void answer_orders(unsigned reader) {
  for (unsigned n = 0; n < 2; n++) {
    const unsigned *item;
    while (!(item = tl_broadcast_peek(&broadcast, reader))) {
      tl_waker_prepare(&order_wakers[reader]);
      if (tl_broadcast_peek(&broadcast, reader))
        tl_waker_cancel(&order_wakers[reader]);
      else
        tl_waker_sleep(&order_wakers[reader], -1);
    }
    CHECK(*item == 50 + n);
    order_answers[reader] = 70 + n;
    tl_broadcast_next(&broadcast, reader);
    tl_waker_notify(&answered);
  }
}

static void lead_orders(void) {
  for (unsigned n = 0; n < 2; n++) {
    order_content[0] = 50 + n;
    CHECK(tl_broadcast_push(&broadcast, order_content));
    for (unsigned r = 0; r < broadcast.n_readers; r++) tl_waker_notify(&order_wakers[r]);
    while (!tl_broadcast_is_read(&broadcast)) {
      tl_waker_prepare(&answered);
      if (tl_broadcast_is_read(&broadcast))
        tl_waker_cancel(&answered);
      else
        tl_waker_sleep(&answered, -1);
    }
    for (unsigned r = 0; r < broadcast.n_readers; r++) CHECK(order_answers[r] == 70 + n);
  }
}

static void setup_orders(void) {
  setup_broadcast();
  broadcast.n_readers = 1;
}

static void run_orders(unsigned thread) {
  if (thread > 0)
    answer_orders(thread - 1);
  else
    lead_orders();
}

/* --- meet: ranks add up what all wrote, in two buffers in turn; somebody aborts -------------------------- */

enum { MEETINGS = 3 };

static struct device_meet meeting;
static unsigned meet_parts[2][2]; /* plain: rank, buffer */

static void setup_meet(void) {
  device_meet_init(&meeting, 2, 1);
  memset(meet_parts, 0, sizeof meet_parts);
}

static void run_meet(unsigned thread) {
  for (unsigned n = 0; n < MEETINGS; n++) {
    meet_parts[thread][n % 2] = 10 * n + thread;
    CHECK(device_meet_wait(&meeting));
    CHECK(meet_parts[0][n % 2] == 10 * n && meet_parts[1][n % 2] == 10 * n + 1);
  }
}

/* Two of three ranks come, the third aborts instead. */
static void setup_meet_abort(void) {
  device_meet_init(&meeting, 3, 1);
}

static void run_meet_abort(unsigned thread) {
  if (thread == 2)
    device_meet_abort(&meeting);
  else
    CHECK(!device_meet_wait(&meeting));
}

static void finish_meet_abort(void) {
  CHECK(device_meet_is_aborted(&meeting));
  device_meet_restore(&meeting);
  CHECK(!device_meet_is_aborted(&meeting));
}

/* --- waker alone: a flag and a sleeper ---------------------------------------------------------- */

static _Atomic uint32_t flags[2];

static void setup_flag(void) {
  tl_waker_init(&waker);
  atomic_store_explicit(&flags[0], 0, memory_order_relaxed);
  atomic_store_explicit(&flags[1], 0, memory_order_relaxed);
}

static bool both_set(void) {
  return atomic_load_explicit(&flags[0], memory_order_relaxed) && atomic_load_explicit(&flags[1], memory_order_relaxed);
}

static void run_flag(unsigned thread) {
  if (thread < 2) {
    atomic_store_explicit(&flags[thread], 1, memory_order_relaxed);
    tl_waker_notify(&waker);
    return;
  }
  while (!both_set()) {
    tl_waker_prepare(&waker);
    if (both_set())
      tl_waker_cancel(&waker);
    else
      tl_waker_sleep(&waker, -1);
  }
}

static void nothing(void) {}

/* --- wake_by: a libuv loop, as uv_async_send and its callback are (libuv 1.44, unix/async.c) ---- */

static _Atomic int pending;

static void setup_async(void) {
  setup_flag();
  atomic_store_explicit(&pending, 0, memory_order_relaxed);
}

static void async_send(void *unused) {
  (void)unused;
  int none = 0;
  if (atomic_load_explicit(&pending, memory_order_relaxed) != 0) return;
  if (atomic_compare_exchange_strong_explicit(&pending, &none, 1, memory_order_acq_rel, memory_order_acquire)) interleave_eventfd_write();
}

static void run_async(unsigned thread) {
  if (thread < 2) {
    atomic_store_explicit(&flags[thread], 1, memory_order_relaxed);
    tl_wake_by(async_send, NULL);
    return;
  }
  for (bool done = false; !done;) {
    interleave_eventfd_read();
    if (atomic_exchange_explicit(&pending, 0, memory_order_seq_cst)) done = both_set();
  }
}

/* --- events: the loop submits, the worker announces tokens, the loop drains and frees -------------- */

enum { TOKENS = 2 };

static struct worker one_worker;
static struct tl_engine engine;
static struct tl_sequence sequence;
static bool loop_woken, freed;
static int32_t tokens[TOKENS]; /* plain: published by n_out */

/* Called by tl_engine_submit; fills what only the worker looks at. */
void sequence_prepare(struct tl_sequence *seq) {
  (void)seq;
}

static void wake_loop(unsigned loop, void *context) {
  (void)loop;
  (void)context;
  tl_waker_notify(&waker);
}

static void setup_events(void) {
  tl_waker_init(&waker);
  tl_spsc_done(&ring);
  tl_spsc_init(&ring, 2);
  engine = (struct tl_engine){.o = {.n_replicas = 1, .n_loops = 1, .wake = wake_loop}, .workers = &one_worker};
  one_worker.engine = &engine;
  one_worker.events = &ring;
  one_worker.loop_woken = &loop_woken;
  tl_mpsc_init(&one_worker.inbox);
  tl_waker_init(&one_worker.waker);
  memset((void *)&sequence, 0, sizeof sequence);
  sequence.tokens = tokens;
  loop_woken = freed = false;
}

/* Runs in setup's and finish's world only when they call it. */
static void on_event(struct tl_sequence *seq, bool final, void *context) {
  unsigned *seen = context;
  uint32_t n = atomic_load_explicit(&seq->n_out, memory_order_acquire);
  CHECK(n >= *seen && n <= TOKENS);
  for (; *seen < n; ++*seen) CHECK(seq->tokens[*seen] == 7 + (int32_t)*seen);
  if (!final) return;
  CHECK(!freed && n == TOKENS && seq->finish == TL_FINISH_LENGTH);
  freed = true;
  /* freeing is a write to all of it */
  seq->loop = 99;
  seq->finish = TL_FINISH_NONE;
  seq->tokens = NULL;
  tokens[0] = tokens[1] = -1;
}

static void wait_for_sequence(void) {
  while (!tl_mpsc_pop(&one_worker.inbox)) {
    tl_waker_prepare(&one_worker.waker);
    if (tl_mpsc_pop(&one_worker.inbox)) {
      tl_waker_cancel(&one_worker.waker);
      return;
    }
    tl_waker_sleep(&one_worker.waker, -1);
  }
}

static void work(void) {
  wait_for_sequence();
  for (unsigned i = 0; i < TOKENS; i++) {
    tokens[i] = 7 + (int32_t)i;
    atomic_store_explicit(&sequence.n_out, i + 1, memory_order_release);
    if (i + 1 == TOKENS) sequence.finish = TL_FINISH_LENGTH;
    events_publish(&one_worker, &sequence, i + 1 == TOKENS);
    events_wake_loops(&one_worker);
  }
}

static void run_events(unsigned thread) {
  unsigned seen = 0;
  if (thread == 0) {
    work();
    return;
  }
  tl_engine_submit(&engine, 0, &sequence);
  while (!freed) {
    tl_waker_prepare(&waker);
    tl_engine_drain(&engine, 0, on_event, &seen);
    if (freed)
      tl_waker_cancel(&waker);
    else
      tl_waker_sleep(&waker, -1);
  }
}

static void finish_events(void) {
  CHECK(!tl_spsc_pop(&ring) && !tl_mpsc_pop(&one_worker.inbox));
}

/* --- a device in another process: steps there, answers back, each side asleep meanwhile -------------- */

enum { STEPS = 2 };

static struct {
  _Atomic uint32_t asked, answered, daemon_sleeps, child_sleeps;
  uint32_t step, sampled; /* plain: published by the numbers; one of each, used again for the next step */
} shared;

static void setup_child(void) {
  memset((void *)&shared, 0, sizeof shared);
}

static void wait_number(_Atomic uint32_t *word, uint32_t number, _Atomic uint32_t *i_sleep) {
  uint32_t now = number - 1;
  while (now == number - 1) now = child_wait(word, number - 1, i_sleep, -1);
  CHECK(now == number);
}

static void run_child(unsigned thread) {
  for (uint32_t n = 1; n <= STEPS; n++) {
    if (thread == 0) {
      shared.step = 100 + n;
      child_tell(&shared.asked, n, &shared.child_sleeps);
      wait_number(&shared.answered, n, &shared.daemon_sleeps);
      CHECK(shared.sampled == 200 + n);
    } else {
      wait_number(&shared.asked, n, &shared.child_sleeps);
      CHECK(shared.step == 100 + n);
      shared.sampled = 200 + n;
      child_tell(&shared.answered, n, &shared.daemon_sleeps);
    }
  }
}

/* --- all ---------------------------------------------------------------------------------------------- */

static const struct interleave_case cases[] = {
    {"mpsc", 3, 3, 2, setup_inbox, run_mpsc, finish_mpsc},
    {"inbox", 3, 3, 2, setup_inbox, run_inbox, finish_inbox},
    {"inbox-one", 2, 4, 2, setup_inbox, run_inbox_one, finish_inbox},
    {"ring", 2, 4, 2, setup_ring, run_ring, finish_ring},
    {"broadcast", 3, 2, 2, setup_broadcast, run_broadcast, finish_broadcast},
    {"orders", 2, 3, 2, setup_orders, run_orders, nothing},
    {"meet", 2, 3, 2, setup_meet, run_meet, nothing},
    {"meet-abort", 3, 3, 2, setup_meet_abort, run_meet_abort, finish_meet_abort},
    {"flag", 3, 3, 2, setup_flag, run_flag, nothing},
    {"async", 3, 4, 2, setup_async, run_async, nothing},
    {"events", 2, 4, 2, setup_events, run_events, finish_events},
    {"child", 2, 4, 2, setup_child, run_child, nothing},
};

int main(int argc, char **argv) {
  bool deep = argc > 1 && strcmp(argv[1], "--deep") == 0;
  int first = 1 + deep, n_done = 0;
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
    bool wanted = argc == first;
    for (int k = first; k < argc; k++) wanted |= strcmp(argv[k], cases[i].name) == 0;
    if (!wanted) continue;
    struct interleave_case test = cases[i];
    test.preemptions += deep;
    test.stale += deep;
    interleave_explore(&test, UINT64_MAX);
    n_done++;
  }
  return n_done == 0;
}
