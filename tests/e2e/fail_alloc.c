/* SPDX-License-Identifier: MIT */
/* For LD_PRELOAD: the n-th allocation from now on of the threads that serve requests (loops and text lanes), or of those whose name begins
 * with FAIL_THREAD, fails, and those behind it, so many in a row. Both numbers lie in a file, FAIL_ALLOC, that the test writes. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* glibc's own, under the names that it has for this */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

struct orders {
  _Atomic int64_t left;  /* until one fails; from 0 on they do */
  _Atomic int64_t n_row; /* 0: none does */
};

static struct orders *orders; /* in the file; NULL: nothing ever fails */
static _Thread_local enum { UNKNOWN, SPARED, SERVES } thread;

__attribute__((constructor)) static void map(void) {
  const char *path = getenv("FAIL_ALLOC");
  int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  orders = memory == MAP_FAILED ? NULL : memory;
}

static bool serves(void) {
  char name[17] = "";
  if (thread != UNKNOWN) return thread == SERVES;
  const char *wanted = getenv("FAIL_THREAD");
  prctl(PR_GET_NAME, name);
  if (wanted) thread = strncmp(name, wanted, strlen(wanted)) == 0 ? SERVES : SPARED;
  else thread = strncmp(name, "tl-loop", 7) == 0 || strncmp(name, "tl-text", 7) == 0 ? SERVES : SPARED;
  return thread == SERVES;
}

static bool fails(void) {
  /* relaxed: numbers alone, another process's */
  int64_t n_row = orders ? atomic_load_explicit(&orders->n_row, memory_order_relaxed) : 0;
  if (n_row == 0 || !serves()) return false;
  int64_t left = atomic_fetch_sub_explicit(&orders->left, 1, memory_order_relaxed) - 1;
  if (left > 0 || left <= -n_row) return false;
  errno = ENOMEM;
  return true;
}

void *malloc(size_t size) {
  return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size) {
  return fails() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *memory, size_t size) {
  return size && fails() ? NULL : __libc_realloc(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
  return fails() ? NULL : __libc_memalign(alignment, size);
}
