/* SPDX-License-Identifier: MIT */
/* LD_PRELOAD: who takes locks? Counts the calls of pthread_mutex_lock and its
 * relatives by caller and thread, in the file that $PRELOAD_LOCKS names, which
 * bench/prove.py maps and reads while the program runs:
 *
 *   8 bytes: calls that found no row; then ROWS rows of
 *     u64 return address, u64 calls, u32 which function (names[]), 12 bytes of the thread's name
 *
 * The counting takes no lock itself. glibc's own inner locks (malloc, stdio) do not
 * come by here: their futex calls are in the trace that prove.py makes too. */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROWS 8192 /* power of two */

struct row {
  _Atomic uint64_t caller, calls;
  uint32_t function;
  char thread[12];
};

static struct table {
  _Atomic uint64_t overflow;
  struct row rows[ROWS];
} *table;

static _Thread_local char thread_name[12];

__attribute__((constructor)) static void open_table(void) {
  const char *path = getenv("PRELOAD_LOCKS");
  int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
  if (fd < 0) return;
  void *at = MAP_FAILED;
  if (ftruncate(fd, sizeof *table) == 0) at = mmap(NULL, sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (at != MAP_FAILED) table = at;
}

/* A row belongs to who put its address there; a thread of the same name may use it too.
 * The name is written after the address: another thread that comes between opens a
 * second row, which the reader sums up. */
static void count(uint32_t function, void *caller) {
  if (!table) return;
  uint64_t address = (uint64_t)(uintptr_t)caller;
  for (uint64_t i = 0, at = (address >> 2) * 31 + function * 7; i < 64; i++) {
    struct row *row = &table->rows[(at + i) % ROWS];
    uint64_t there = atomic_load_explicit(&row->caller, memory_order_acquire);
    if (there == 0 && atomic_compare_exchange_strong_explicit(&row->caller, &there, address, memory_order_acq_rel, memory_order_acquire)) {
      row->function = function;
      memcpy(row->thread, thread_name, sizeof row->thread);
      there = address;
    }
    if (there != address || row->function != function || memcmp(row->thread, thread_name, sizeof thread_name) != 0) continue;
    atomic_fetch_add_explicit(&row->calls, 1, memory_order_relaxed); /* a count */
    return;
  }
  atomic_fetch_add_explicit(&table->overflow, 1, memory_order_relaxed);
}

/* The real function. glibc has two pthread_cond_wait; RTLD_NEXT alone finds the old one. */
static void *real(const char *name, const char *version) {
  void *found = version ? dlvsym(RTLD_NEXT, name, version) : NULL;
  if (!found) found = dlsym(RTLD_NEXT, name);
  if (!found) abort();
  return found;
}

/* dlsym returns void *; ISO C knows no cast from it to a function, POSIX does. */
#define WRAP(number, version, name, parameters, arguments)                       \
  __attribute__((visibility("default"))) int name parameters {                   \
    static int(*next) parameters;                                                \
    if (!next) *(void **)&next = real(#name, version);                           \
    count(number, __builtin_return_address(0));                                  \
    return next arguments;                                                       \
  }

WRAP(0, NULL, pthread_mutex_lock, (pthread_mutex_t * m), (m))
WRAP(1, NULL, pthread_mutex_trylock, (pthread_mutex_t * m), (m))
WRAP(2, NULL, pthread_mutex_timedlock, (pthread_mutex_t * m, const struct timespec *t), (m, t))
WRAP(3, "GLIBC_2.3.2", pthread_cond_wait, (pthread_cond_t * c, pthread_mutex_t *m), (c, m))
WRAP(4, "GLIBC_2.3.2", pthread_cond_timedwait, (pthread_cond_t * c, pthread_mutex_t *m, const struct timespec *t), (c, m, t))
WRAP(5, NULL, pthread_rwlock_rdlock, (pthread_rwlock_t * l), (l))
WRAP(6, NULL, pthread_rwlock_wrlock, (pthread_rwlock_t * l), (l))
WRAP(7, NULL, pthread_spin_lock, (pthread_spinlock_t * l), (l))
WRAP(8, NULL, sem_wait, (sem_t * s), (s))

/* Threads name themselves when they start. */
__attribute__((visibility("default"))) int pthread_setname_np(pthread_t thread, const char *name) {
  static int (*next)(pthread_t, const char *);
  if (!next) *(void **)&next = real("pthread_setname_np", NULL);
  if (pthread_equal(thread, pthread_self())) strncpy(thread_name, name, sizeof thread_name - 1);
  return next(thread, name);
}
