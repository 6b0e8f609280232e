/* SPDX-License-Identifier: MIT */
/* Each structure that crosses threads with very many items, made to be run under TSan
 * (make soak-structures: 10^8 items each):
 *
 *   soak_structures [ITEMS] [mpsc|ring|broadcast|events|board ...]
 *
 * Every item carries a payload that depends on its number, so a lost, doubled, torn or
 * misplaced one is seen; a lost wake-up hangs, and the alarm ends the program. */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine_private.h"
#include "route/route_private.h"
#include "tokenlane/base/broadcast.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/hash.h"
#include "tokenlane/base/mpsc.h"
#include "tokenlane/base/spsc.h"
#include "tokenlane/base/waker.h"

enum { PRODUCERS = 3, POOL = 1024, ALARM_S = 3600 };

static uint64_t n_items = 1000000;

#define MUST(condition) ((condition) ? (void)0 : fail(__LINE__, #condition))

static _Noreturn void fail(int line, const char *what) {
  fprintf(stderr, "%s:%d: not %s\n", __FILE__, line, what);
  abort();
}

static void start(pthread_t *thread, void *(*run)(void *), uintptr_t argument) {
  MUST(pthread_create(thread, NULL, run, (void *)argument) == 0);
}

/* --- mpsc: inbox with the worker's way to sleep --------------------------------------------- */

struct item {
  struct tl_mpsc_node node;
  uint64_t number, payload;
  _Atomic uint32_t busy; /* the consumer gives it back: release; the producer takes it: acquire */
};

static struct tl_mpsc inbox;
static struct tl_waker waker;
static struct item pool[PRODUCERS][POOL];

static uint64_t payload_of(uint64_t producer, uint64_t number) {
  return tl_hash_u64(producer << 56 ^ number);
}

static void *produce(void *argument) {
  uintptr_t me = (uintptr_t)argument;
  for (uint64_t i = 0; i < n_items / PRODUCERS; i++) {
    struct item *item = &pool[me][i % POOL];
    while (atomic_load_explicit(&item->busy, memory_order_acquire)) sched_yield();
    item->number = me << 56 | i;
    item->payload = payload_of(me, i);
    atomic_store_explicit(&item->busy, 1, memory_order_relaxed);
    tl_mpsc_push(&inbox, &item->node);
    tl_waker_notify(&waker);
  }
  return NULL;
}

static uint64_t take_all(uint64_t next[PRODUCERS]) {
  uint64_t n = 0;
  struct item *item;
  while ((item = (struct item *)(void *)tl_mpsc_pop(&inbox))) {
    uint64_t producer = item->number >> 56, number = item->number & (UINT64_MAX >> 8);
    MUST(producer < PRODUCERS && number == next[producer] && item->payload == payload_of(producer, number));
    next[producer]++;
    atomic_store_explicit(&item->busy, 0, memory_order_release);
    n++;
  }
  return n;
}

static void soak_mpsc(void) {
  pthread_t threads[PRODUCERS];
  uint64_t next[PRODUCERS] = {0}, left = n_items / PRODUCERS * PRODUCERS;
  tl_mpsc_init(&inbox);
  tl_waker_init(&waker);
  for (uintptr_t p = 0; p < PRODUCERS; p++) start(&threads[p], produce, p);
  while (left) {
    left -= take_all(next);
    if (!left) break;
    tl_waker_prepare(&waker);
    uint64_t n = take_all(next);
    left -= n;
    if (n || !left)
      tl_waker_cancel(&waker);
    else
      tl_waker_sleep(&waker, -1);
  }
  for (unsigned p = 0; p < PRODUCERS; p++) pthread_join(threads[p], NULL);
  MUST(take_all(next) == 0);
}

/* --- ring: as full and as empty as can be ------------------------------------------------------ */

static struct tl_spsc ring;
static uint64_t payloads[POOL * 2]; /* twice the ring: a slot's payload is not rewritten while it may be read */

static void *fill(void *unused) {
  (void)unused;
  for (uint64_t i = 0; i < n_items; i++) {
    uint64_t *payload = &payloads[i % (POOL * 2)];
    *payload = payload_of(0, i);
    while (!tl_spsc_push(&ring, payload)) sched_yield();
  }
  return NULL;
}

static void soak_ring(void) {
  pthread_t thread;
  MUST(tl_spsc_init(&ring, POOL) == TL_OK);
  start(&thread, fill, 0);
  for (uint64_t i = 0; i < n_items;) {
    const uint64_t *payload = tl_spsc_pop(&ring);
    if (!payload) {
      sched_yield();
      continue;
    }
    MUST(payload == &payloads[i % (POOL * 2)] && *payload == payload_of(0, i));
    i++;
  }
  pthread_join(thread, NULL);
  MUST(!tl_spsc_pop(&ring));
  tl_spsc_done(&ring);
}

/* --- broadcast: as full and as empty as can be; then as a leader gives its followers one step after the
 * other and waits for their answers, one item in ROUND_TRIP */

enum { FOLLOWERS = 2, ROUND_TRIP = 1000 };

static struct tl_broadcast steps;
static struct tl_waker answered, follower_wakers[FOLLOWERS];
static uint64_t content, answers[FOLLOWERS]; /* plain: the ring gives them to and fro */

static void *read_stream(void *argument) {
  uintptr_t me = (uintptr_t)argument;
  for (uint64_t i = 0; i < n_items; i++) {
    const uint64_t *item;
    while (!(item = tl_broadcast_peek(&steps, (unsigned)me))) sched_yield();
    MUST(item == &payloads[i % (POOL * 2)] && *item == payload_of(0, i));
    tl_broadcast_next(&steps, (unsigned)me);
  }
  return NULL;
}

static void stream_items(void) {
  pthread_t threads[FOLLOWERS];
  MUST(tl_broadcast_init(&steps, POOL, FOLLOWERS) == TL_OK);
  for (uintptr_t i = 0; i < FOLLOWERS; i++) start(&threads[i], read_stream, i);
  for (uint64_t i = 0; i < n_items; i++) {
    uint64_t *payload = &payloads[i % (POOL * 2)];
    *payload = payload_of(0, i);
    while (!tl_broadcast_push(&steps, payload)) sched_yield();
  }
  for (unsigned i = 0; i < FOLLOWERS; i++) pthread_join(threads[i], NULL);
  MUST(tl_broadcast_is_read(&steps));
  tl_broadcast_done(&steps);
}

static void *follow(void *argument) {
  uintptr_t me = (uintptr_t)argument;
  for (uint64_t i = 0; i < n_items / ROUND_TRIP; i++) {
    const uint64_t *item;
    while (!(item = tl_broadcast_peek(&steps, (unsigned)me))) {
      tl_waker_prepare(&follower_wakers[me]);
      if (tl_broadcast_peek(&steps, (unsigned)me))
        tl_waker_cancel(&follower_wakers[me]);
      else
        tl_waker_sleep(&follower_wakers[me], -1);
    }
    MUST(item == &content && *item == payload_of(0, i));
    answers[me] = *item + me;
    tl_broadcast_next(&steps, (unsigned)me);
    tl_waker_notify(&answered);
  }
  return NULL;
}

static void lead(void) {
  pthread_t threads[FOLLOWERS];
  MUST(tl_broadcast_init(&steps, 2, FOLLOWERS) == TL_OK);
  tl_waker_init(&answered);
  for (uintptr_t i = 0; i < FOLLOWERS; i++) {
    tl_waker_init(&follower_wakers[i]);
    start(&threads[i], follow, i);
  }
  for (uint64_t i = 0; i < n_items / ROUND_TRIP; i++) {
    content = payload_of(0, i);
    MUST(tl_broadcast_push(&steps, &content));
    for (unsigned f = 0; f < FOLLOWERS; f++) tl_waker_notify(&follower_wakers[f]);
    while (!tl_broadcast_is_read(&steps)) {
      tl_waker_prepare(&answered);
      if (tl_broadcast_is_read(&steps))
        tl_waker_cancel(&answered);
      else
        tl_waker_sleep(&answered, -1);
    }
    for (unsigned f = 0; f < FOLLOWERS; f++) MUST(answers[f] == payload_of(0, i) + f);
  }
  for (unsigned i = 0; i < FOLLOWERS; i++) pthread_join(threads[i], NULL);
  tl_broadcast_done(&steps);
}

static void soak_broadcast(void) {
  stream_items();
  lead();
}

/* --- events: a worker announces tokens, a loop drains, frees and submits anew ------------------------ */

enum { SEQUENCES = 64, TOKENS = 16 };

static struct tl_engine engine;
static struct worker *worker;
static uint64_t n_tokens_seen;
static unsigned n_over;

static void wake_loop(unsigned loop, void *context) {
  (void)loop;
  (void)context;
  tl_waker_notify(&waker);
}

static struct tl_sequence *new_sequence(uint64_t seed) {
  struct tl_sequence *seq = calloc(1, sizeof *seq + TOKENS * sizeof(int32_t));
  MUST(seq);
  seq->tokens = (int32_t *)(void *)(seq + 1);
  seq->sampling.seed = seed;
  seq->max_new = TOKENS;
  return seq;
}

/* Rounds over SEQUENCES live sequences; each gets a token a round and is final after TOKENS. */
static void *announce(void *unused) {
  struct tl_sequence *live[SEQUENCES] = {0};
  (void)unused;
  uint64_t made = 0, total = n_items / TOKENS * TOKENS;
  while (made < total) {
    uint64_t before = made;
    for (unsigned i = 0; i < SEQUENCES && made < total; i++) {
      if (!live[i]) {
        struct tl_mpsc_node *node = tl_mpsc_pop(&inbox);
        if (!node) continue;
        live[i] = (struct tl_sequence *)(void *)((char *)node - offsetof(struct tl_sequence, node));
      }
      struct tl_sequence *seq = live[i];
      uint32_t n = atomic_load_explicit(&seq->n_out, memory_order_relaxed);
      bool final = n + 1 == TOKENS;
      seq->tokens[n] = (int32_t)payload_of(n, seq->sampling.seed);
      atomic_store_explicit(&seq->n_out, n + 1, memory_order_release);
      if (final) {
        seq->finish = TL_FINISH_LENGTH;
        live[i] = NULL;
      }
      events_publish(worker, seq, final);
      made++;
    }
    events_wake_loops(worker);
    if (made == before) sched_yield();
  }
  for (unsigned i = 0; i < SEQUENCES; i++) MUST(!live[i]);
  return NULL;
}

static void on_event(struct tl_sequence *seq, bool final, void *context) {
  uint64_t *n_submitted = context;
  if (!final) return;
  MUST(seq->finish == TL_FINISH_LENGTH && atomic_load_explicit(&seq->n_out, memory_order_acquire) == TOKENS);
  for (uint32_t i = 0; i < TOKENS; i++) MUST(seq->tokens[i] == (int32_t)payload_of(i, seq->sampling.seed));
  n_tokens_seen += TOKENS;
  n_over++;
  free(seq);
  if (*n_submitted * TOKENS >= n_items / TOKENS * TOKENS) return;
  tl_mpsc_push(&inbox, &new_sequence((*n_submitted)++)->node);
}

static void soak_events(void) {
  pthread_t thread;
  static bool woken;
  worker = aligned_alloc(TL_CACHE_LINE, sizeof *worker);
  MUST(worker);
  memset((void *)worker, 0, sizeof *worker);
  engine = (struct tl_engine){.o = {.n_replicas = 1, .n_loops = 1, .wake = wake_loop}, .workers = worker};
  worker->engine = &engine;
  worker->events = &ring;
  worker->loop_woken = &woken;
  tl_mpsc_init(&inbox);
  tl_waker_init(&waker);
  MUST(tl_spsc_init(&ring, SEQUENCES) == TL_OK);
  uint64_t n_submitted = 0, total = n_items / TOKENS;
  while (n_submitted < SEQUENCES && n_submitted < total) tl_mpsc_push(&inbox, &new_sequence(n_submitted++)->node);
  start(&thread, announce, 0);
  n_over = 0;
  while (n_over < total) {
    tl_waker_prepare(&waker);
    unsigned before = n_over;
    tl_engine_drain(&engine, 0, on_event, &n_submitted);
    if (n_over != before)
      tl_waker_cancel(&waker);
    else
      tl_waker_sleep(&waker, -1);
  }
  pthread_join(thread, NULL);
  MUST(n_tokens_seen == total * TOKENS && !tl_spsc_pop(&ring));
  tl_spsc_done(&ring);
  free(worker);
}

/* --- board: reservations of several loops ------------------------------------------------------------ */

enum { MAX_TOKENS = 500, MAX_SEQS = 4 };

static struct tl_board board;
static struct tl_route route = {.n_replicas = 1, .replicas = {{.max_tokens = MAX_TOKENS, .max_seqs = MAX_SEQS, .board = &board}}};
static _Atomic int64_t running_tokens, running_seqs;

static void *reserve(void *argument) {
  uint64_t random = (uintptr_t)argument + 1;
  for (uint64_t i = 0; i < n_items / PRODUCERS; i++) {
    random = tl_hash_u64(random);
    int64_t tokens = 1 + (int64_t)(random % 300);
    const struct tl_route_ask ask = {.tokens = tokens, .n_seqs = 1, .n_prompt = 7};
    if (!route_try_reserve(&route, 0, &ask)) continue;
    struct tl_room room = {.tokens = tokens, .prefill = 7};
    if (i % 2) tl_route_started(&route, &room);
    MUST(atomic_fetch_add_explicit(&running_seqs, 1, memory_order_relaxed) < MAX_SEQS);
    MUST(atomic_fetch_add_explicit(&running_tokens, tokens, memory_order_relaxed) + tokens <= MAX_TOKENS);
    atomic_fetch_sub_explicit(&running_tokens, tokens, memory_order_relaxed);
    atomic_fetch_sub_explicit(&running_seqs, 1, memory_order_relaxed);
    tl_route_release(&route, &room);
  }
  return NULL;
}

static void soak_board(void) {
  pthread_t threads[PRODUCERS];
  for (uintptr_t p = 0; p < PRODUCERS; p++) start(&threads[p], reserve, p);
  for (unsigned p = 0; p < PRODUCERS; p++) pthread_join(threads[p], NULL);
  MUST(atomic_load_explicit(&board.reserved_tokens, memory_order_relaxed) == 0);
  MUST(atomic_load_explicit(&board.reserved_seqs, memory_order_relaxed) == 0);
  MUST(atomic_load_explicit(&board.prefill_tokens, memory_order_relaxed) == 0);
  MUST(atomic_load_explicit(&board.decodes, memory_order_relaxed) == 0);
}

static const struct {
  const char *name;
  void (*run)(void);
} soaks[] = {{"mpsc", soak_mpsc}, {"ring", soak_ring}, {"broadcast", soak_broadcast}, {"events", soak_events}, {"board", soak_board}};

int main(int argc, char **argv) {
  if (argc > 1) n_items = strtoull(argv[1], NULL, 10);
  if (n_items < 1000) fail(__LINE__, "at least 1000 items");
  alarm(ALARM_S);
  for (size_t i = 0; i < sizeof soaks / sizeof *soaks; i++) {
    bool wanted = argc < 3;
    for (int k = 2; k < argc; k++) wanted |= strcmp(argv[k], soaks[i].name) == 0;
    if (!wanted) continue;
    int64_t began_ns = tl_now_ns();
    soaks[i].run();
    printf("%-8s %llu items in %.1f s: no fault\n", soaks[i].name, (unsigned long long)n_items, (double)(tl_now_ns() - began_ns) * 1e-9);
    fflush(stdout);
  }
  return 0;
}
