/* SPDX-License-Identifier: MIT */
/* The memory that threads see, and the functions that -fsanitize=thread calls. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interleave.h"
#include "interleave_private.h"

enum { LOCATIONS = 48, STORES = 64, CELLS = 1024, CHANNELS = 4, ACTORS = INTERLEAVE_THREADS + 1, TRACE = 400 };
enum { RELAXED, CONSUME, ACQUIRE, RELEASE, ACQ_REL, SEQ_CST }; /* as GCC passes them */

/* What a thread knows: of each location the oldest store that it may read, of each
 * thread how many of its accesses happened before. */
struct view {
  uint8_t store[LOCATIONS];
  uint16_t clock[ACTORS];
};

struct store {
  uint64_t value;
  struct view view; /* what an acquire load of it learns */
};

static struct location {
  const volatile void *address;
  unsigned n;
  bool ordered;
  struct store stores[STORES];
} locations[LOCATIONS];
static unsigned n_locations;

/* now: what it has seen; pending: what an acquire fence would add; released: what its
 * relaxed stores carry, since its last release fence */
static struct actor {
  struct view now, pending, released;
} actors[ACTORS];
static struct view fences; /* of all seq_cst fences so far */
static struct view channels[CHANNELS];

/* Plain memory, by the address of the access. */
static struct cell {
  const void *address;
  uint16_t write_clock, read_clock[ACTORS];
  uint8_t writer;
} cells[CELLS];

static struct event {
  uint8_t thread, older;
  const char *what;
  const volatile void *address;
  uint64_t value;
} trace[TRACE];
static unsigned n_trace;

/* --- views ------------------------------------------------------------------------------------ */

static void join(struct view *into, const struct view *from) {
  for (unsigned i = 0; i < n_locations; i++)
    if (from->store[i] > into->store[i]) into->store[i] = from->store[i];
  for (unsigned i = 0; i < ACTORS; i++)
    if (from->clock[i] > into->clock[i]) into->clock[i] = from->clock[i];
}

static struct actor *me(void) {
  return &actors[interleave_thread()];
}

/* A new access of this thread. */
static struct actor *tick(void) {
  struct actor *a = me();
  a->now.clock[interleave_thread()]++;
  return a;
}

void interleave_forget(void) {
  n_locations = n_trace = 0;
  memset(actors, 0, sizeof actors);
  memset(&fences, 0, sizeof fences);
  memset(channels, 0, sizeof channels);
  memset(cells, 0, sizeof cells);
}

void interleave_fork(void) {
  tick();
  for (unsigned t = 0; t < INTERLEAVE_THREADS; t++) actors[t].now = actors[INTERLEAVE_THREADS].now;
}

void interleave_join(void) {
  for (unsigned t = 0; t < INTERLEAVE_THREADS; t++) join(&actors[INTERLEAVE_THREADS].now, &actors[t].now);
  /* a thread may never have seen the newest store of another */
  for (unsigned i = 0; i < n_locations; i++) actors[INTERLEAVE_THREADS].now.store[i] = (uint8_t)(locations[i].n - 1);
}

void interleave_release(unsigned channel) {
  join(&channels[channel], &tick()->now);
}

void interleave_acquire(unsigned channel) {
  join(&me()->now, &channels[channel]);
}

static void note(const char *what, const volatile void *address, uint64_t value, unsigned older) {
  if (n_trace < TRACE) trace[n_trace++] = (struct event){(uint8_t)interleave_thread(), (uint8_t)older, what, address, value};
}

void interleave_print_trace(void) {
  for (unsigned i = 0; i < n_trace; i++) {
    const struct event *e = &trace[i];
    if (e->thread == INTERLEAVE_THREADS) continue;
    printf("  %*sthread %u: %s %p = %#llx", e->thread * 8, "", e->thread, e->what, (const void *)e->address, (unsigned long long)e->value);
    if (e->older) printf(" (%u stores back)", e->older);
    printf("\n");
  }
}

/* --- atomics ------------------------------------------------------------------------------------- */

static uint64_t read_memory(const volatile void *address, unsigned bytes) {
  uint64_t value = 0;
  memcpy(&value, (const void *)address, bytes);
  return value;
}

static struct location *find(const volatile void *address, unsigned bytes) {
  for (unsigned i = 0; i < n_locations; i++)
    if (locations[i].address == address) return &locations[i];
  if (n_locations == LOCATIONS) interleave_fail("too many atomic locations");
  struct location *l = &locations[n_locations++];
  l->address = address;
  l->n = 1;
  l->ordered = false;
  l->stores[0].value = read_memory(address, bytes);
  memset(&l->stores[0].view, 0, sizeof l->stores[0].view);
  return l;
}

void interleave_ordered(const volatile void *address) {
  find(address, sizeof(void *))->ordered = true;
}

uint32_t interleave_newest(const uint32_t *word) {
  const struct location *l = find(word, sizeof *word);
  return (uint32_t)l->stores[l->n - 1].value;
}

static void fence(int order) {
  struct actor *a = me();
  if (order != RELEASE) join(&a->now, &a->pending);
  if (order == SEQ_CST) {
    join(&a->now, &fences);
    fences = a->now;
  }
  if (order != ACQUIRE) a->released = a->now;
}

static void learn(struct actor *a, const struct store *s, int order) {
  join(&a->pending, &s->view);
  if (order == ACQUIRE || order == ACQ_REL || order == SEQ_CST) join(&a->now, &s->view);
}

static uint64_t load(const volatile void *address, int order, unsigned bytes) {
  interleave_step();
  if (order == SEQ_CST) fence(SEQ_CST);
  struct actor *a = tick();
  struct location *l = find(address, bytes);
  unsigned index = (unsigned)(l - locations), oldest = a->now.store[index];
  unsigned back = interleave_choose_store(l->n - oldest), at = l->n - 1 - back;
  a->now.store[index] = (uint8_t)at;
  learn(a, &l->stores[at], order);
  note(order == RELAXED ? "load relaxed" : "load", address, l->stores[at].value, back);
  return l->stores[at].value;
}

/* Appends a store; `inherits`: the view of the store that a read-modify-write read. */
static void append(struct actor *a, struct location *l, uint64_t value, int order, const struct view *inherits, unsigned bytes) {
  unsigned index = (unsigned)(l - locations);
  if (l->n == STORES) interleave_fail("too many stores: it does not end");
  a->now.store[index] = (uint8_t)l->n;
  struct store *s = &l->stores[l->n++];
  s->value = value;
  s->view = order == RELEASE || order == ACQ_REL || order == SEQ_CST ? a->now : a->released;
  s->view.store[index] = (uint8_t)(l->n - 1);
  if (inherits) join(&s->view, inherits);
  memcpy((void *)l->address, &value, bytes); /* little endian; for who looks at the memory itself */
}

static void store(volatile void *address, uint64_t value, int order, unsigned bytes) {
  interleave_step();
  struct actor *a = tick();
  struct location *l = find(address, bytes);
  note(order == RELAXED ? "store relaxed" : "store", address, value, 0);
  if (l->ordered && a->now.store[l - locations] != l->n - 1)
    interleave_fail("two stores to one location whose order is left to chance");
  append(a, l, value, order, NULL, bytes);
  if (order == SEQ_CST) fence(SEQ_CST);
}

enum operation { EXCHANGE, ADD, SUB, OR, AND, COMPARE };

static uint64_t apply(enum operation operation, uint64_t old, uint64_t value) {
  switch (operation) {
    case ADD: return old + value;
    case SUB: return old - value;
    case OR: return old | value;
    case AND: return old & value;
    default: return value;
  }
}

/* Reads the newest store, whatever the order. *expected: of COMPARE. */
static uint64_t modify(volatile void *address, enum operation operation, uint64_t value, int order, unsigned bytes, const uint64_t *expected) {
  interleave_step();
  if (order == SEQ_CST) fence(SEQ_CST);
  struct actor *a = tick();
  struct location *l = find(address, bytes);
  struct view before = l->stores[l->n - 1].view;
  uint64_t old = l->stores[l->n - 1].value;
  a->now.store[l - locations] = (uint8_t)(l->n - 1);
  learn(a, &l->stores[l->n - 1], order);
  note("modify", address, old, 0);
  if (operation == COMPARE && old != *expected) return old;
  uint64_t mask = bytes == 8 ? UINT64_MAX : (UINT64_C(1) << 8 * bytes) - 1;
  append(a, l, apply(operation, old, value) & mask, order, &before, bytes);
  if (order == SEQ_CST) fence(SEQ_CST);
  return old;
}

/* The names that GCC calls, for 8, 32 and 64 bits. */
#define ATOMICS(bits, type)                                                                                                  \
  type __tsan_atomic##bits##_load(const volatile type *a, int o);                                                            \
  type __tsan_atomic##bits##_load(const volatile type *a, int o) { return (type)load(a, o, sizeof(type)); }                  \
  void __tsan_atomic##bits##_store(volatile type *a, type v, int o);                                                         \
  void __tsan_atomic##bits##_store(volatile type *a, type v, int o) { store(a, v, o, sizeof(type)); }                        \
  MODIFY(bits, type, exchange, EXCHANGE)                                                                                     \
  MODIFY(bits, type, fetch_add, ADD)                                                                                         \
  MODIFY(bits, type, fetch_sub, SUB)                                                                                         \
  MODIFY(bits, type, fetch_or, OR)                                                                                           \
  MODIFY(bits, type, fetch_and, AND)                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile type *a, type *e, type v, int o, int f);                        \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile type *a, type *e, type v, int o, int f) {                       \
    uint64_t expected = *e, old = modify(a, COMPARE, v, o, sizeof(type), &expected);                                         \
    (void)f;                                                                                                                 \
    *e = (type)old;                                                                                                          \
    return old == expected;                                                                                                  \
  }
#define MODIFY(bits, type, name, operation)                                                                                  \
  type __tsan_atomic##bits##_##name(volatile type *a, type v, int o);                                                        \
  type __tsan_atomic##bits##_##name(volatile type *a, type v, int o) { return (type)modify(a, operation, v, o, sizeof(type), NULL); }

ATOMICS(8, uint8_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)

void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order) {
  interleave_step();
  tick();
  note(order == SEQ_CST ? "fence seq_cst" : "fence", NULL, (uint64_t)order, 0);
  fence(order);
}

/* --- plain accesses ---------------------------------------------------------------------------------- */

static struct cell *cell_of(const void *address) {
  for (uintptr_t i = 0, at = (uintptr_t)address / 4 * 2654435761u; i < CELLS; i++) {
    struct cell *c = &cells[(at + i) % CELLS];
    if (c->address == address) return c;
    if (c->address) continue;
    c->address = address;
    c->writer = ACTORS;
    return c;
  }
  interleave_fail("too much plain memory");
  return NULL;
}

static void plain(const void *address, bool writes) {
  struct actor *a = tick();
  unsigned thread = interleave_thread();
  struct cell *c = cell_of(address);
  bool races = c->writer < ACTORS && c->write_clock > a->now.clock[c->writer];
  for (unsigned t = 0; writes && t < ACTORS; t++) races |= c->read_clock[t] > a->now.clock[t];
  if (races) {
    note(writes ? "plain write" : "plain read", address, 0, 0);
    interleave_fail("a data race");
  }
  if (writes) {
    c->writer = (uint8_t)thread;
    c->write_clock = a->now.clock[thread];
  } else {
    c->read_clock[thread] = a->now.clock[thread];
  }
}

#define PLAIN(name, writes)                     \
  void __tsan_##name(void *a);                  \
  void __tsan_##name(void *a) { plain(a, writes); }
PLAIN(read1, false)
PLAIN(read2, false)
PLAIN(read4, false)
PLAIN(read8, false)
PLAIN(read16, false)
PLAIN(write1, true)
PLAIN(write2, true)
PLAIN(write4, true)
PLAIN(write8, true)
PLAIN(write16, true)
PLAIN(unaligned_read4, false)
PLAIN(unaligned_read8, false)
PLAIN(unaligned_write4, true)
PLAIN(unaligned_write8, true)
PLAIN(unaligned_write16, true)

#define RANGE(name, writes)                                                     \
  void __tsan_##name(void *a, size_t n);                                        \
  void __tsan_##name(void *a, size_t n) {                                       \
    for (size_t i = 0; i < n; i += 8) plain((char *)a + i, writes);             \
  }
RANGE(read_range, false)
RANGE(write_range, true)

void __tsan_init(void);
void __tsan_init(void) {}
void __tsan_func_entry(void *caller);
void __tsan_func_entry(void *caller) { (void)caller; }
void __tsan_func_exit(void);
void __tsan_func_exit(void) {}
